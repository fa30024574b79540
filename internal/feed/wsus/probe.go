package wsus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// probeClient is the id under which the prober asks. No terminal has it, and
// the ledger takes nothing of it.
const probeClient = noGUID

// probe is a terminal of a few calls.
type probe struct {
	ctx    context.Context
	do     func(*http.Request) (*http.Response, error)
	base   string
	cookie string
}

// Probe implements feed.Prober: a terminal's handshake and first scan, whose
// fragments and numbers are held against the snapshot, then one payload. A
// changed number in a deployment it cannot notice: no terminal can.
func (f *updates) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	p := &probe{ctx: ctx, do: do, base: strings.TrimSuffix(base.String(), "/") + "/"}
	if err := p.handshake(); err != nil {
		return nil, err
	}
	seen, err := p.scan(c)
	if err != nil {
		return nil, err
	}
	told := []string{fmt.Sprintf("GetConfig, GetCookie, SyncUpdates: %d", seen)}
	file, size, err := p.payload(c)
	if err != nil {
		return told, err
	}
	if file != "" {
		told = append(told, fmt.Sprintf("%s (%d bytes)", file, size))
	}
	return told, nil
}

// call makes one call and hands each leaf of the answer to take.
func (p *probe) call(path, namespace, op, body string, take func(path, text string) error) error {
	r, err := http.NewRequestWithContext(p.ctx, http.MethodPost, p.base+path, strings.NewReader(xmlHead+"<"+op+` xmlns="`+namespace+`">`+body+"</"+op+"></s:Body></s:Envelope>"))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "text/xml; charset=utf-8")
	r.Header.Set("SOAPAction", `"`+namespace+"/"+op+`"`)
	res, err := p.do(r)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %w", op, res.Status, feed.ErrUpstream)
	}
	a, err := decodeAnswer(io.LimitReader(res.Body, 2*maxReply), namespace)
	if err == nil && a.op != op+"Response" {
		err = fmt.Errorf("answer %.60q", a.op)
	}
	if err == nil {
		err = a.walk(take)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (p *probe) handshake() error {
	plug, service, auth := "", "", ""
	err := p.call("ClientWebService/client.asmx", nsClient, "GetConfig", "<protocolVersion>2.90</protocolVersion>", func(path, text string) error {
		switch path {
		case "GetConfigResult/AuthInfo/AuthPlugInInfo/PlugInID":
			plug = text
		case "GetConfigResult/AuthInfo/AuthPlugInInfo/ServiceUrl":
			service = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	at := strings.LastIndex(strings.ToLower(service), strings.TrimPrefix(pathAuth, "/"))
	if plug != plugIn || at < 0 {
		return fmt.Errorf("GetConfig: plug-in %.40q at %.100q: %w", plug, service, feed.ErrUpstream)
	}
	err = p.call(service[at:], nsAuth, "GetAuthorizationCookie", "<clientId>"+probeClient+"</clientId><targetGroupName></targetGroupName><dnsName></dnsName>", func(path, text string) error {
		if path == "GetAuthorizationCookieResult/CookieData" {
			auth = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.call("ClientWebService/client.asmx", nsClient, "GetCookie", "<authCookies><AuthorizationCookie><PlugInId>"+plugIn+"</PlugInId><CookieData>"+auth+
		"</CookieData></AuthorizationCookie></authCookies><protocolVersion>2.90</protocolVersion>", func(path, text string) error {
		if path == "GetCookieResult/EncryptedData" {
			p.cookie = text
		}
		return nil
	})
}

// scan asks for the first page of updates and counts those of the snapshot.
func (p *probe) scan(c feed.Content) (int, error) {
	ids, err := readRevisions(c)
	if err != nil {
		return 0, err
	}
	got := map[identity]string{}
	var now int64
	err = p.call("ClientWebService/client.asmx", nsClient, "SyncUpdates", "<cookie><EncryptedData>"+p.cookie+"</EncryptedData></cookie><parameters><SkipSoftwareSync>false</SkipSoftwareSync></parameters>",
		func(path, text string) (err error) {
			switch path {
			case "SyncUpdatesResult/NewUpdates/UpdateInfo/ID":
				now, err = strconv.ParseInt(text, 10, 32)
			case "SyncUpdatesResult/NewUpdates/UpdateInfo/Xml":
				u, err := parseCore([]byte(text))
				if err != nil {
					return err
				}
				if now < 1 || now > int64(len(ids.order)) || ids.order[now-1] != u.identity {
					return fmt.Errorf("revision %d is %s: %w", now, u.identity, feed.ErrUpstream)
				}
				got[u.identity] = text
			}
			return err
		})
	if err != nil {
		return 0, err
	}
	if err := same(c, maps.Clone(got)); err != nil {
		return 0, fmt.Errorf("SyncUpdates: %w", err)
	}
	return len(got), nil
}

// same holds core fragments against those of the snapshot.
func same(c feed.Content, want map[identity]string) error {
	for a, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		if len(want) == 0 {
			return nil
		}
		if !isSource(a) {
			continue
		}
		f, err := c.Open(a.Path)
		if err != nil {
			return err
		}
		_, err = readSource(a, f.(io.ReaderAt), func(_ int, part part, _ string, body []byte) error {
			if part != core {
				return nil
			}
			u, err := parseCore(body)
			if err != nil {
				return err
			}
			if text, ok := want[u.identity]; ok && text != string(bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF"))) {
				return fmt.Errorf("%s is not as in the snapshot: %.60s: %w", u.identity, html.EscapeString(text), feed.ErrUpstream)
			}
			delete(want, u.identity)
			return nil
		})
		f.Close()
		if err != nil {
			return err
		}
	}
	for id := range want {
		return fmt.Errorf("%s is not in the snapshot: %w", id, feed.ErrUpstream)
	}
	return nil
}

// payload takes the smallest file that is served; "" if none is.
func (p *probe) payload(c feed.Content) (string, int64, error) {
	var best feed.Artifact
	for a, err := range c.Artifacts() {
		if err != nil {
			return "", 0, err
		}
		if !strings.HasPrefix(a.Path, "Content/") || best.Path != "" && best.Size <= a.Size {
			continue
		}
		best = a
	}
	if best.Path == "" {
		return "", 0, nil
	}
	r, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.base+best.Path, nil)
	if err != nil {
		return "", 0, err
	}
	res, err := p.do(r)
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", best.Path, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return "", 0, nil // withheld
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(res.Body, best.Size+1))
	if err != nil || res.StatusCode != http.StatusOK || feed.DigestFrom(h) != best.Digest {
		return "", 0, fmt.Errorf("%s: %s, %d bytes: %w", best.Path, res.Status, n, errors.Join(err, feed.ErrUpstream))
	}
	return best.Path, n, nil
}
