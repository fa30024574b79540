package wsus

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
)

// The downstream server's side of MS-WSUSSS (rev. 17): authorisation, cookie,
// configuration, lists of revisions and update data of an upstream server,
// which is Microsoft's own or any WSUS.

const (
	nsServer  = "http://www.microsoft.com/SoftwareDistribution"
	nsDssAuth = "http://www.microsoft.com/SoftwareDistribution/Server/DssAuthWebService"

	pathServerSync = "/ServerSyncWebService/ServerSyncWebService.asmx"
	pathDssAuth    = "/DssAuthWebService/DssAuthWebService.asmx"

	syncProtocol = "1.20"
	maxAnswer    = 64 << 20 // of an upstream server; a real one stays below 2 MB a batch
	maxAnchor    = 1024
	maxListed    = 2_000_000 // revisions in one list
)

// Faults that ask for a new beginning (MS-WSUSSS 2.2.2.4).
var errServerChanged = errors.New("the upstream server has a new database")

// peerServer is an upstream server during one fetch.
type peerServer struct {
	up     feed.Upstream
	base   string // without a slash at its end
	roots  []byte
	cookie serverCookie
	most   int // updates in one request
}

type serverCookie struct {
	expires string
	sealed  string // base64 as it came
}

// ask calls one operation. leaf gets the answer's elements without children by
// their path below the response element.
func (s *peerServer) ask(ctx context.Context, path, namespace, op string, body func(*answer), leaf func(path, text string) error) error {
	var a answer
	a.WriteString(xmlHead + "<" + op + ` xmlns="` + namespace + `">`)
	body(&a)
	a.WriteString("</" + op + "></s:Body></s:Envelope>")
	h := http.Header{}
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("SOAPAction", `"`+namespace+"/"+op+`"`)
	res, err := s.up.Do(ctx, feed.Request{URL: s.base + path, Method: http.MethodPost, Header: h, Body: a.Bytes(), Limit: maxAnswer, Roots: s.roots})
	if err != nil {
		return fmt.Errorf("%s: %w", op, soapFault(err))
	}
	r, err := decodeAnswer(bytes.NewReader(res.Body), namespace)
	if err == nil && r.op != op+"Response" {
		err = fmt.Errorf("answered with %.80q", r.op)
	}
	if err == nil {
		err = r.walk(leaf)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", op, err, feed.ErrUpstream)
	}
	return nil
}

// soapFault finds the server's own error code in an HTTP error.
func soapFault(err error) error {
	st, ok := errors.AsType[*feed.StatusError](err)
	if !ok || len(st.Body) == 0 {
		return err
	}
	d := xml.NewDecoder(bytes.NewReader(st.Body))
	for {
		t, terr := d.Token()
		if terr != nil {
			return err
		}
		if t, ok := t.(xml.StartElement); ok && t.Name.Local == "ErrorCode" {
			var code string
			if d.DecodeElement(&code, &t) != nil {
				return err
			}
			if code = strings.TrimSpace(code); code == "ServerChanged" {
				return errServerChanged
			}
			return fmt.Errorf("the upstream server says %.60q: %w", code, err)
		}
	}
}

// authorise goes from nothing to a cookie and the server's limits.
func (s *peerServer) authorise(ctx context.Context, name, id string) error {
	plugin, auth := "", ""
	err := s.ask(ctx, pathServerSync, nsServer, "GetAuthConfig", func(*answer) {}, func(p, text string) error {
		switch {
		case strings.HasSuffix(p, "AuthPlugInInfo/PlugInID") && plugin == "":
			plugin = text
		case strings.HasSuffix(p, "AuthPlugInInfo/ServiceUrl") && auth == "":
			auth = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	if plugin != "DssTargeting" || !strings.EqualFold("/"+strings.TrimPrefix(auth, "/"), pathDssAuth) {
		return upstream("GetAuthConfig: plug-in %.60q at %.100q", plugin, auth)
	}
	var from, data string
	err = s.ask(ctx, pathDssAuth, nsDssAuth, "GetAuthorizationCookie", func(a *answer) {
		a.put("accountName", name)
		a.put("accountGuid", id)
	}, func(p, text string) error {
		switch {
		case strings.HasSuffix(p, "/PlugInId"):
			from = text
		case strings.HasSuffix(p, "/CookieData"):
			data = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.ask(ctx, pathServerSync, nsServer, "GetCookie", func(a *answer) {
		a.begin("authCookies", "AuthorizationCookie")
		a.put("PlugInId", from)
		a.put("CookieData", data)
		a.end(2)
		a.put("protocolVersion", syncProtocol)
	}, func(p, text string) error {
		switch {
		case strings.HasSuffix(p, "/Expiration"):
			s.cookie.expires = text
		case strings.HasSuffix(p, "/EncryptedData"):
			s.cookie.sealed = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := time.Parse(time.RFC3339, s.cookie.expires); err != nil {
		return upstream("GetCookie: expires %.60q", s.cookie.expires)
	}
	s.most = 0
	err = s.ask(ctx, pathServerSync, nsServer, "GetConfigData", s.putCookie, func(p, text string) error {
		if strings.HasSuffix(p, "/MaxNumberOfUpdatesPerRequest") {
			s.most, _ = strconv.Atoi(text)
		}
		return nil
	})
	if err == nil && s.most < 1 {
		err = upstream("GetConfigData without a limit")
	}
	s.most = min(s.most, batchUpdates)
	return err
}

func (s *peerServer) putCookie(a *answer) {
	a.begin("cookie")
	a.put("Expiration", s.cookie.expires)
	a.put("EncryptedData", s.cookie.sealed)
	a.end(1)
}

// filter chooses what a list names. Without products it is the configuration
// pass: categories, classifications and detectoids.
type filter struct {
	anchor                    string
	products, classifications []guid
	delta                     bool // only what is newer than the anchor
}

// list asks for revisions, newest numbers only, and the new anchor.
func (s *peerServer) list(ctx context.Context, f filter) (ids []identity, anchor string, err error) {
	config := len(f.products) == 0
	var at identity
	err = s.ask(ctx, pathServerSync, nsServer, "GetRevisionIdList", func(a *answer) {
		s.putCookie(a)
		a.begin("filter")
		if f.anchor != "" {
			a.put("Anchor", f.anchor)
		}
		a.flag("GetConfig", config)
		a.flag("Get63LanguageOnly", false)
		for _, l := range []struct {
			tag  string
			list []guid
		}{{"Categories", f.products}, {"Classifications", f.classifications}} {
			if len(l.list) == 0 {
				continue
			}
			a.begin(l.tag)
			for _, g := range l.list {
				a.begin("IdAndDelta")
				a.put("Id", g.String())
				a.flag("Delta", f.delta)
				a.end(1)
			}
			a.end(1)
		}
		a.end(1)
	}, func(p, text string) (err error) {
		switch {
		case strings.HasSuffix(p, "Result/Anchor"):
			anchor = text
		case strings.HasSuffix(p, "UpdateIdentity/UpdateID"):
			at.Update, err = parseGUID(text)
		case strings.HasSuffix(p, "UpdateIdentity/RevisionNumber"):
			var n int64
			n, err = strconv.ParseInt(text, 10, 32)
			at.Number = int32(n)
			if ids = append(ids, at); len(ids) > maxListed || n < 0 {
				err = errors.New("too many revisions, or a negative number")
			}
		}
		return err
	})
	if err == nil && (len(anchor) > maxAnchor || anchor == "") {
		err = upstream("GetRevisionIdList: anchor %.60q", anchor)
	}
	return ids, anchor, err
}

// data brings the documents of at most s.most revisions, in the order asked,
// and where their files are, by SHA-1.
func (s *peerServer) data(ctx context.Context, ids []identity) ([]original, map[[20]byte]string, error) {
	got := map[identity][]byte{}
	urls := map[[20]byte]string{}
	var sum [20]byte
	err := s.ask(ctx, pathServerSync, nsServer, "GetUpdateData", func(a *answer) {
		s.putCookie(a)
		a.begin("updateIds")
		for _, id := range ids {
			a.begin("UpdateIdentity")
			a.put("UpdateID", id.Update.String())
			a.int("RevisionNumber", id.Number)
			a.end(1)
		}
		a.end(1)
	}, func(p, text string) error {
		switch {
		case strings.HasSuffix(p, "ServerSyncUpdateData/XmlUpdateBlob"):
			return keepDocument(got, []byte(text))
		case strings.HasSuffix(p, "ServerSyncUpdateData/XmlUpdateBlobCompressed"):
			b, err := unpackBlob(text)
			if err != nil {
				return err
			}
			return keepDocument(got, b)
		case strings.HasSuffix(p, "ServerSyncUrlData/FileDigest"):
			b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
			if err != nil || len(b) != len(sum) {
				return fmt.Errorf("digest %.60q", text)
			}
			sum = [20]byte(b)
		case strings.HasSuffix(p, "ServerSyncUrlData/MUUrl"), strings.HasSuffix(p, "ServerSyncUrlData/UssUrl"):
			if text = strings.TrimSpace(text); text != "" { // UssUrl comes second and is nearer
				urls[sum] = text
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	list := make([]original, 0, len(ids))
	for _, id := range ids {
		b, ok := got[id]
		if !ok {
			return nil, nil, upstream("GetUpdateData without %s", id)
		}
		list = append(list, original{id, b})
	}
	return list, urls, nil
}

func keepDocument(got map[identity][]byte, b []byte) error {
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return nil // the other form is filled
	}
	d, err := parseDocument(b)
	if err != nil {
		return err
	}
	got[d.identity] = b
	return nil
}

// unpackBlob opens a compressed document: a cabinet with one file "blob" in
// UTF-16LE (microsoft.md 2.2).
func unpackBlob(text string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	c, err := cab.NewReader(bytes.NewReader(raw), int64(len(raw)), cab.Limits{Files: 1, File: 2 * maxDocument, Total: 2 * maxDocument})
	if err != nil {
		return nil, fmt.Errorf("compressed document: %w", err)
	}
	if len(c.Files()) != 1 {
		return nil, errors.New("compressed document: not one file")
	}
	_, body, err := c.Open(c.Files()[0].Name)
	if err != nil {
		return nil, fmt.Errorf("compressed document: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(body, 2*maxDocument))
	if err != nil || len(b)%2 != 0 {
		return nil, fmt.Errorf("compressed document: %w", errors.Join(err, errors.New("odd length")))
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
	}
	if len(u) > 0 && u[0] == 0xFEFF {
		u = u[1:]
	}
	return []byte(string(utf16.Decode(u))), nil
}

// related names the newest revisions of updates known by id alone.
func (s *peerServer) related(ctx context.Context, list []guid) ([]identity, error) {
	var out []identity
	var at identity
	err := s.ask(ctx, pathServerSync, nsServer, "GetRelatedRevisionsForUpdates", func(a *answer) {
		s.putCookie(a)
		a.begin("updateIDs")
		for _, g := range list {
			a.put("guid", g.String())
		}
		a.end(1)
	}, func(p, text string) (err error) {
		switch {
		case strings.HasSuffix(p, "/UpdateID"):
			at.Update, err = parseGUID(text)
		case strings.HasSuffix(p, "/RevisionNumber"):
			var n int64
			n, err = strconv.ParseInt(text, 10, 32)
			at.Number = int32(n)
			if out = append(out, at); len(out) > maxListed || n < 0 {
				err = errors.New("too many revisions, or a negative number")
			}
		}
		return err
	})
	return out, err
}
