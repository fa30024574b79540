//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/format/cab"
)

// windows is an upstream WSUS with so many revisions, all of them within what a
// terminal's scan must look at: the 765 real ones of KB2999226, then copies of
// the software updates among them under other ids. The first copies apply to
// the simulated terminals as the real ones do; the rest are for other products:
// what they build on is copied as detectoids whose rules find nothing.
type windows struct {
	url    string
	http   *http.Server
	config []revision // categories and detectoids, those that others need first
	rest   []revision
	docs   map[string][]byte // "update number" → escaped document
	files  map[string][]byte // by hex SHA-1
}

type revision struct{ update, number string }

func (r revision) String() string { return r.update + " " + r.number }

const (
	alike    = 60 // copies that apply to the terminals
	products = 64 // others
)

// parts are the fragments of one revision.
type parts struct {
	core, extended string
	texts          []string
}

func newWindows(samples string, most int) (*windows, error) {
	dir := filepath.Join(samples, "microsoft", "msu-kb2999226", "win8.1")
	real, err := readParts(filepath.Join(dir, "WSUSSCAN.cab"))
	if err != nil {
		return nil, err
	}
	w := &windows{docs: map[string][]byte{}, files: map[string][]byte{}}
	payload, err := os.ReadFile(filepath.Join(dir, "Windows8.1-KB2999226-x64.cab"))
	if err != nil {
		return nil, err
	}
	w.files["payload"] = payload
	software, classes := map[string]bool{}, map[string]bool{}
	for _, p := range real {
		id := strings.ToLower(identities.FindStringSubmatch(p.core)[1])
		software[id], classes[id] = strings.Contains(p.core, `UpdateType="Software"`), strings.Contains(p.extended, `CategoryType="UpdateClassification"`)
		w.add(p)
	}
	base := map[string]bool{} // what software builds on
	for _, p := range real {
		if ids := identities.FindAllStringSubmatch(p.core, -1); software[strings.ToLower(ids[0][1])] {
			for _, m := range ids[1:] {
				id := strings.ToLower(m[1])
				base[id] = !software[id] && !classes[id]
			}
		}
	}
	for k := 1; k <= products; k++ {
		for _, p := range real {
			if m := identities.FindStringSubmatch(p.core); base[strings.ToLower(m[1])] {
				p.core = "<UpdateIdentity UpdateID=\"" + other(m[1], k) + "\" RevisionNumber=\"" + m[2] + "\" /><Properties UpdateType=\"Detectoid\" />" +
					"<ApplicabilityRules><IsInstalled><b.RegKeyExists Key=\"HKEY_LOCAL_MACHINE\" Subkey=\"none\" /></IsInstalled></ApplicabilityRules>"
				w.add(p)
			}
		}
	}
	for k := 1; len(w.docs) < most; k++ {
		for _, p := range real {
			if m := identities.FindStringSubmatch(p.core); software[strings.ToLower(m[1])] && len(w.docs) < most {
				foreign := k <= alike
				p.core = identities.ReplaceAllStringFunc(p.core, func(s string) string {
					id := identities.FindStringSubmatch(s)[1]
					switch {
					case software[strings.ToLower(id)]:
						return strings.Replace(s, id, other(id, products+k), 1)
					case base[strings.ToLower(id)] && k > alike:
						foreign = true
						return strings.Replace(s, id, other(id, 1+k%products), 1)
					}
					return s
				})
				if foreign { // else nothing keeps it from the terminals
					w.add(p)
				}
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.url = "http://" + l.Addr().String()
	w.http = &http.Server{Handler: w}
	go w.http.Serve(l)
	return w, nil
}

var (
	identities = regexp.MustCompile(`UpdateIdentity UpdateID="([0-9A-Fa-f-]{36})"(?: RevisionNumber="(\d+)")?`)
	bare       = regexp.MustCompile(`<(/?)([A-Z]\w*)`)
	dotted     = regexp.MustCompile(`<(/?)([bmd])\.(\w+)`)
)

// other is another id, the same for the same k.
func other(id string, k int) string {
	tail, _ := hex.DecodeString(id[28:])
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)+uint32(k))
	return id[:28] + hex.EncodeToString(tail)
}

func (w *windows) add(p parts) {
	m := identities.FindStringSubmatch(p.core)
	r := revision{strings.ToLower(m[1]), m[2]}
	w.docs[r.String()] = document(p.core, p.extended, p.texts)
	if strings.Contains(p.core, `UpdateType="Category"`) || strings.Contains(p.core, `UpdateType="Detectoid"`) {
		w.config = append(w.config, r)
	} else {
		w.rest = append(w.rest, r)
	}
}

// document puts fragments back together, escaped as an answer has it.
func document(core, extended string, texts []string) []byte {
	named := func(s string) string {
		s = bare.ReplaceAllString(s, "<${1}upd:$2")
		return dotted.ReplaceAllStringFunc(s, func(t string) string {
			m := dotted.FindStringSubmatch(t)
			return "<" + m[1] + map[string]string{"b": "bar", "m": "msi", "d": "drv"}[m[2]] + ":" + m[3]
		})
	}
	identity, rest, _ := strings.Cut(core, "<Properties")
	attrs, rest, _ := strings.Cut(rest, " />")
	after := strings.TrimPrefix(extended, "<ExtendedProperties")
	var more, children, tail string
	if empty, open := strings.Index(after, " />"), strings.Index(after, ">"); empty >= 0 && empty < open {
		more, tail = after[:empty], after[empty+3:]
	} else if open >= 0 {
		more = after[:open]
		children, tail, _ = strings.Cut(after[open+1:], "</ExtendedProperties>")
	}
	tail = strings.Replace(tail, `<HandlerSpecificData type="`, `<HandlerSpecificData xsi:type="`, 1)
	text := ""
	if len(texts) > 0 {
		text = "<LocalizedPropertiesCollection>" + strings.Join(texts, "") + "</LocalizedPropertiesCollection>"
	}
	doc := `<upd:Update xmlns:upd="http://schemas.microsoft.com/msus/2002/12/Update" xmlns:bar="http://schemas.microsoft.com/msus/2002/12/BaseApplicabilityRules"` +
		` xmlns:msi="http://schemas.microsoft.com/msus/2002/12/MsiApplicabilityRules" xmlns:drv="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/WindowsDriver"` +
		` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
		named(identity+"<Properties"+attrs+` IsPublic="true" PublicationState="Published"`+more+">"+children+"</Properties>"+text+rest+tail) + "</upd:Update>"
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(doc))
	return b.Bytes()
}

// readParts reads the fragments of a WSUSSCAN.cab, in the vendor's order.
func readParts(path string) ([]parts, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	outer, err := cab.NewReader(bytes.NewReader(b), int64(len(b)), cab.Limits{Files: 1000, File: 1 << 28, Total: 1 << 30})
	if err != nil {
		return nil, err
	}
	_, r, err := outer.Open("package.cab")
	if err != nil {
		return nil, err
	}
	if b, err = io.ReadAll(r); err != nil {
		return nil, err
	}
	inner, err := cab.NewReader(bytes.NewReader(b), int64(len(b)), cab.Limits{Total: 1 << 30})
	if err != nil {
		return nil, err
	}
	by := map[int]*parts{}
	err = inner.Walk(func(f cab.File, r io.Reader) error {
		e := strings.Split(f.Name, "/")
		n, err := strconv.Atoi(e[len(e)-1])
		if err != nil || len(e) < 2 {
			return nil
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if by[n] == nil {
			by[n] = &parts{}
		}
		switch text := strings.TrimPrefix(string(body), "\uFEFF"); e[0] {
		case "core":
			by[n].core = text
		case "extended":
			by[n].extended = text
		case "localized":
			by[n].texts = append(by[n].texts, text)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var order []int
	for n := range by {
		order = append(order, n)
	}
	slices.Sort(order)
	var out []parts
	for _, n := range order {
		out = append(out, *by[n])
	}
	return out, nil
}

func (w *windows) block() string {
	return fmt.Sprintf("[feed.%s]\nkind = \"wsus\"\nmount = \"/\"\nupstream = %q\nproducts = [\"Windows\"]\nclassifications = [\"Critical Updates\", \"Security Updates\"]\n", feedName, w.url)
}

func (w *windows) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/files/") {
		rw.Write(w.files["payload"])
		return
	}
	b, _ := io.ReadAll(r.Body)
	action := strings.Trim(r.Header.Get("SOAPAction"), `"`)
	namespace, op := action[:strings.LastIndex(action, "/")], action[strings.LastIndex(action, "/")+1:]
	fmt.Fprintf(rw, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><%[1]sResponse xmlns="%[2]s">`, op, namespace)
	io.WriteString(rw, w.answer(op, string(b)))
	fmt.Fprintf(rw, `</%[1]sResponse></s:Body></s:Envelope>`, op)
}

var (
	digests = regexp.MustCompile(`&lt;upd:File Digest=&#34;([A-Za-z0-9+/=]{28})&#34;`)
	asked   = regexp.MustCompile(`<UpdateID>([^<]*)</UpdateID><RevisionNumber>(\d+)<`)
)

func (w *windows) answer(op, in string) string {
	switch op {
	case "GetAuthConfig":
		return `<GetAuthConfigResult><LastChange>2026-01-01T00:00:00Z</LastChange><AuthInfo><AuthPlugInInfo><PlugInID>DssTargeting</PlugInID><ServiceUrl>DssAuthWebService/DssAuthWebService.asmx</ServiceUrl></AuthPlugInInfo></AuthInfo></GetAuthConfigResult>`
	case "GetAuthorizationCookie":
		return `<GetAuthorizationCookieResult><PlugInId>15</PlugInId><CookieData>AQID</CookieData></GetAuthorizationCookieResult>`
	case "GetCookie":
		return `<GetCookieResult><Expiration>2036-01-01T00:00:00Z</Expiration><EncryptedData>BAUG</EncryptedData></GetCookieResult>`
	case "GetConfigData":
		return `<GetConfigDataResult><CatalogOnlySync>true</CatalogOnlySync><MaxNumberOfUpdatesPerRequest>100</MaxNumberOfUpdatesPerRequest></GetConfigDataResult>`
	case "GetRevisionIdList":
		list := w.rest
		if strings.Contains(in, "<GetConfig>true") {
			list = w.config
		}
		var b strings.Builder
		for _, r := range list {
			fmt.Fprintf(&b, "<UpdateIdentity><UpdateID>%s</UpdateID><RevisionNumber>%s</RevisionNumber></UpdateIdentity>", r.update, r.number)
		}
		return "<GetRevisionIdListResult><Anchor>1</Anchor><NewRevisions>" + b.String() + "</NewRevisions></GetRevisionIdListResult>"
	case "GetUpdateData":
		var ups, urls strings.Builder
		for _, m := range asked.FindAllStringSubmatch(in, -1) {
			doc := w.docs[strings.ToLower(m[1])+" "+m[2]]
			fmt.Fprintf(&ups, "<ServerSyncUpdateData><Id><UpdateID>%s</UpdateID><RevisionNumber>%s</RevisionNumber></Id><XmlUpdateBlob>%s</XmlUpdateBlob></ServerSyncUpdateData>", m[1], m[2], doc)
			for _, d := range digests.FindAllSubmatch(doc, -1) {
				fmt.Fprintf(&urls, "<ServerSyncUrlData><FileDigest>%s</FileDigest><MUUrl>%s/files/%x.cab</MUUrl></ServerSyncUrlData>", d[1], w.url, d[1])
			}
		}
		return "<GetUpdateDataResult><updates>" + ups.String() + "</updates><fileUrls>" + urls.String() + "</fileUrls></GetUpdateDataResult>"
	}
	return ""
}
