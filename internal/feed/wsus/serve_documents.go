package wsus

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Update data for downstream servers (MS-WSUSSS, GetUpdateData).

// identities decodes lists of UpdateIdentity.
type identities struct {
	cookie cookieFields
	list   []identity
	at     identity
}

func (f *identities) take(path, text string) error {
	switch {
	case strings.HasPrefix(path, "cookie/"):
		return f.cookie.take(path, text)
	case strings.HasSuffix(path, "UpdateIdentity/UpdateID"):
		g, err := parseGUID(strings.TrimSpace(text))
		if err != nil {
			return invalid("updateIds")
		}
		f.at.Update = g
	case strings.HasSuffix(path, "UpdateIdentity/RevisionNumber"):
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
		if err != nil || len(f.list) >= batchUpdates {
			return invalid("updateIds")
		}
		f.at.Number = int32(n)
		f.list = append(f.list, f.at)
	}
	return nil
}

func (s *server) getUpdateData(c *call) error {
	var f identities
	if err := c.walk(f.take); err != nil {
		return err
	}
	_, v, err := s.downstream(c, f.cookie)
	if err != nil {
		return err
	}
	docs, err := v.documents(distinct(f.list))
	if err != nil {
		return err
	}
	type place struct {
		sum  string
		path string
	}
	var places []place
	had := map[place]bool{}
	c.begin("GetUpdateDataResult", "updates")
	for _, id := range distinct(f.list) {
		if docs[id] == nil {
			continue // beyond maxReply: the server asks for it again
		}
		n := v.numbers[id.Update]
		c.begin("ServerSyncUpdateData", "Id")
		c.put("UpdateID", id.Update.String())
		c.int("RevisionNumber", id.Number)
		c.end(1)
		c.begin("XmlUpdateBlob")
		_ = xml.EscapeText(&c.Buffer, docs[id])
		c.end(1)
		delete(docs, id)
		r := v.Revisions[v.exact[bundled{n, id.Number}]]
		c.begin("FileDigestList")
		for _, k := range r.Files {
			p := place{base64.StdEncoding.EncodeToString(v.Files[k].SHA1[:]), v.Files[k].Path}
			c.put("base64Binary", p.sum)
			if v.here(p.path) && !had[p] {
				had[p] = true
				places = append(places, p)
			}
		}
		c.end(2)
	}
	c.end(1)
	c.begin("fileUrls")
	root := contentRoot(c.http)
	for _, p := range places {
		c.begin("ServerSyncUrlData")
		c.put("FileDigest", p.sum)
		c.put("MUUrl", root+"/"+p.path)
		c.end(1)
	}
	c.end(2)
	return nil
}

// contentRoot is how this request reached us.
func contentRoot(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// documents reads the documents of revisions. One that is unknown fails all, as
// a real server's does. Past maxReply the rest is left out, as a real server
// keeps its answers small, but never all.
func (v *ringView) documents(list []identity) (map[identity][]byte, error) {
	at := map[identity]string{}
	wanted := map[string]int{} // by batch
	for _, id := range list {
		n, known := v.numbers[id.Update]
		i, ok := v.exact[bundled{n, id.Number}]
		if !known || !ok {
			return nil, &fault{"InternalServerError", "unknown revision"}
		}
		p, ok := v.documented(i)
		if !ok {
			return nil, &fault{"InternalServerError", "unknown revision"}
		}
		at[id] = p
		wanted[p]++
	}
	out, size := map[identity][]byte{}, 0
	for _, first := range list { // batch by batch, in the order asked
		p := at[first]
		if wanted[p] == 0 || size > maxReply {
			continue
		}
		f, err := v.view.Open(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", p, err, feed.ErrDamaged)
		}
		err = eachOriginal(f.(io.Reader), func(o original) error {
			if at[o.identity] != p {
				return nil
			}
			out[o.identity] = o.body
			size += len(o.body)
			if wanted[p]--; wanted[p] == 0 || size > maxReply {
				return errEnough
			}
			return nil
		})
		f.Close()
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	return out, nil
}

// errEnough ends the reading of a batch.
var errEnough = errors.New("enough")
