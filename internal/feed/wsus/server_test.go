package wsus

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// vendorServer is an upstream server written from the specification alone: it
// shares no code with the one under test but the composing of documents.
type vendorServer struct {
	*httptest.Server
	mu     sync.Mutex
	docs   map[identity][]byte
	born   map[identity]int
	now    int
	files  map[string][]byte // by SHA-1 in base64
	calls  map[string]int
	change bool   // the database was made anew
	root   string // the path below which it answers
	parsed map[string]*document
	few    int // most documents in an answer
}

type soapIn struct {
	Body struct {
		Inner struct {
			XMLName  xml.Name
			Text     string `xml:",chardata"`
			Children []struct {
				XMLName xml.Name
				Inner   string `xml:",innerxml"`
			} `xml:",any"`
		} `xml:",any"`
	}
}

func newVendor(t testing.TB) *vendorServer {
	v := &vendorServer{docs: map[identity][]byte{}, born: map[identity]int{}, now: 1, files: map[string][]byte{}, calls: map[string]int{}, parsed: map[string]*document{}}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.serve(t, w, r) }))
	t.Cleanup(v.Close)
	return v
}

func (v *vendorServer) add(t testing.TB, doc []byte) identity {
	t.Helper()
	d, err := parseDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	v.docs[d.identity], v.born[d.identity] = doc, v.now
	return d.identity
}

// parse is parseDocument, once for each.
func (v *vendorServer) parse(doc []byte) (*document, error) {
	if d := v.parsed[string(doc)]; d != nil {
		return d, nil
	}
	d, err := parseDocument(doc)
	if err == nil {
		v.parsed[string(doc)] = d
	}
	return d, err
}

func esc(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

func (v *vendorServer) serve(t testing.TB, w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for sum, b := range v.files {
		if r.URL.Path == "/"+fileName(sum) {
			w.Write(b)
			return
		}
	}
	var in soapIn
	if err := xml.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	op := in.Body.Inner.XMLName.Local
	if want := `"` + in.Body.Inner.XMLName.Space + "/" + op + `"`; r.Header.Get("SOAPAction") != want {
		t.Errorf("SOAPAction %s, want %s", r.Header.Get("SOAPAction"), want)
	}
	v.calls[op]++
	var whole strings.Builder
	for _, c := range in.Body.Inner.Children {
		whole.WriteString("<" + c.XMLName.Local + ">" + c.Inner + "</" + c.XMLName.Local + ">")
	}
	body, fault := v.answer(op, whole.String(), "http://"+r.Host+v.root)
	if fault != "" {
		w.WriteHeader(500)
		fmt.Fprintf(w, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>Fault occurred</faultstring><detail><ErrorCode>%s</ErrorCode></detail></s:Fault></s:Body></s:Envelope>`, fault)
		return
	}
	fmt.Fprintf(w, `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><%[1]sResponse xmlns="%[2]s">%[3]s</%[1]sResponse></s:Body></s:Envelope>`, op, in.Body.Inner.XMLName.Space, body)
}

// fileName is where the server has the file of a digest.
func fileName(sum string) string {
	b, _ := base64.StdEncoding.DecodeString(sum)
	return fmt.Sprintf("files/%x.cab", b)
}

func between(s, tag string) (out []string) {
	for {
		_, rest, ok := strings.Cut(s, "<"+tag+">")
		if !ok {
			return out
		}
		x, rest, _ := strings.Cut(rest, "</"+tag+">")
		out, s = append(out, x), rest
	}
}

func (v *vendorServer) answer(op, in, base string) (body, fault string) {
	switch op {
	case "GetAuthConfig":
		return `<GetAuthConfigResult><LastChange>2026-01-01T00:00:00Z</LastChange><AuthInfo><AuthPlugInInfo><PlugInID>DssTargeting</PlugInID><ServiceUrl>DssAuthWebService/DssAuthWebService.asmx</ServiceUrl></AuthPlugInInfo></AuthInfo></GetAuthConfigResult>`, ""
	case "GetAuthorizationCookie":
		return `<GetAuthorizationCookieResult><PlugInId>15</PlugInId><CookieData>AQID</CookieData></GetAuthorizationCookieResult>`, ""
	case "GetCookie":
		return `<GetCookieResult><Expiration>2030-01-01T00:00:00Z</Expiration><EncryptedData>BAUG</EncryptedData></GetCookieResult>`, ""
	case "GetConfigData":
		return `<GetConfigDataResult><CatalogOnlySync>true</CatalogOnlySync><MaxNumberOfUpdatesPerRequest>70</MaxNumberOfUpdatesPerRequest></GetConfigDataResult>`, ""
	case "GetRevisionIdList":
		if v.change && strings.Contains(in, "<Anchor>") {
			return "", "ServerChanged"
		}
		since := 0
		if a := between(in, "Anchor"); len(a) > 0 {
			fmt.Sscan(a[0], &since)
		}
		config := strings.Contains(in, "<GetConfig>true")
		var cats []string
		if !config {
			cats = between(in, "Id")
		}
		if strings.Contains(in, "<Delta>false") {
			since = 0
		}
		var list strings.Builder
		for _, id := range slices.SortedFunc(maps.Keys(v.docs), compareIdentity) {
			d, err := v.parse(v.docs[id])
			if err != nil { // one that a test has cut
				d = &document{update: update{Type: "Category"}}
			}
			isConfig := d.Type == "Category" || d.Type == "Detectoid"
			hits := 0
			for _, g := range slices.Concat(d.Prereqs...) {
				if slices.Contains(cats, g.String()) {
					hits++
				}
			}
			if v.born[id] > since && (config && isConfig || !config && !isConfig && hits >= 2) {
				fmt.Fprintf(&list, "<UpdateIdentity><UpdateID>%s</UpdateID><RevisionNumber>%d</RevisionNumber></UpdateIdentity>", id.Update, id.Number)
			}
		}
		return fmt.Sprintf("<GetRevisionIdListResult><Anchor>%d</Anchor><NewRevisions>%s</NewRevisions></GetRevisionIdListResult>", v.now, list.String()), ""
	case "GetRelatedRevisionsForUpdates":
		var list strings.Builder
		for _, g := range between(in, "guid") {
			for id := range v.docs {
				if id.Update.String() == g {
					fmt.Fprintf(&list, "<UpdateIdentity><UpdateID>%s</UpdateID><RevisionNumber>%d</RevisionNumber></UpdateIdentity>", id.Update, id.Number)
				}
			}
		}
		return "<GetRelatedRevisionsForUpdatesResult>" + list.String() + "</GetRelatedRevisionsForUpdatesResult>", ""
	case "GetUpdateData":
		return v.data(in, base)
	}
	return "", "InternalServerError"
}

func (v *vendorServer) data(in, base string) (body, fault string) {
	ids, numbers := between(in, "UpdateID"), between(in, "RevisionNumber")
	if len(ids) > 70 {
		return "", "InvalidParameters"
	}
	if v.few > 0 {
		ids = ids[:min(len(ids), v.few)]
	}
	var ups, urls strings.Builder
	for i := range ids {
		g, _ := parseGUID(ids[i])
		var n int32
		fmt.Sscan(numbers[i], &n)
		id := identity{g, n}
		doc, ok := v.docs[id]
		if !ok {
			return "", "InternalServerError"
		}
		blob := "<XmlUpdateBlob>" + esc(string(doc)) + "</XmlUpdateBlob>"
		if len(doc) > 5120 { // as a real server does
			blob = "<XmlUpdateBlobCompressed>" + base64.StdEncoding.EncodeToString(storedCab(doc)) + "</XmlUpdateBlobCompressed>"
		}
		fmt.Fprintf(&ups, "<ServerSyncUpdateData><Id><UpdateID>%s</UpdateID><RevisionNumber>%d</RevisionNumber></Id>%s</ServerSyncUpdateData>", g, n, blob)
		d, err := v.parse(doc)
		if err != nil {
			continue
		}
		for _, f := range d.Files {
			sum := base64.StdEncoding.EncodeToString(f.SHA1[:])
			fmt.Fprintf(&urls, "<ServerSyncUrlData><FileDigest>%s</FileDigest><MUUrl>%s/%s</MUUrl></ServerSyncUrlData>", sum, base, fileName(sum))
		}
	}
	return "<GetUpdateDataResult><updates>" + ups.String() + "</updates><fileUrls>" + urls.String() + "</fileUrls></GetUpdateDataResult>", ""
}

// storedCab is a cabinet with one stored file "blob" in UTF-16LE (MS-CAB).
func storedCab(doc []byte) []byte {
	var text []byte
	for _, u := range utf16.Encode([]rune(string(doc))) {
		text = binary.LittleEndian.AppendUint16(text, u)
	}
	var data []byte
	blocks := 0
	for part := range slices.Chunk(text, 32768) {
		data = binary.LittleEndian.AppendUint32(data, 0) // no checksum
		data = binary.LittleEndian.AppendUint16(data, uint16(len(part)))
		data = binary.LittleEndian.AppendUint16(data, uint16(len(part)))
		data = append(data, part...)
		blocks++
	}
	le := binary.LittleEndian
	files := append(le.AppendUint16(le.AppendUint16(le.AppendUint16(le.AppendUint16(le.AppendUint32(le.AppendUint32(nil, uint32(len(text))), 0), 0), 0), 0), 0x20), "blob\x00"...)
	head := []byte("MSCF\x00\x00\x00\x00")
	total := 36 + 8 + len(files) + len(data)
	head = le.AppendUint32(head, uint32(total))
	head = le.AppendUint32(head, 0)
	head = le.AppendUint32(head, 36+8) // first file
	head = le.AppendUint32(head, 0)
	head = append(head, 3, 1)
	head = le.AppendUint16(head, 1)
	head = le.AppendUint16(head, 1)
	head = append(head, 0, 0, 0, 0, 0, 0)
	folder := le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, uint32(36+8+len(files))), uint16(blocks)), 0)
	return slices.Concat(head, folder, files, data)
}

// netOutside is an outside with a network.
type netOutside struct{ *outside }

func (o *netOutside) Dir(string) (fs.FS, error) {
	if o.drop == nil {
		return nil, feed.ErrConfig
	}
	return o.drop, nil
}

func (o *netOutside) Do(ctx context.Context, r feed.Request) (*feed.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	req.Header = r.Header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != 200 && res.StatusCode != 206 {
		return nil, fmt.Errorf("%w: %w", &feed.StatusError{URL: r.URL, Status: res.StatusCode, Body: b}, feed.ErrTransient)
	}
	return &feed.Response{Status: 200, Body: b, Header: res.Header}, nil
}

func (o *netOutside) Load(ctx context.Context, r feed.Request, w feed.Want) (feed.Blob, error) {
	if b, ok := o.Blobs[w.Digest]; ok {
		return feedtest.Blob(b), nil
	}
	res, err := http.Get(r.URL)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if w.Digest == "" {
		w.Digest, w.Size = feed.DigestOf(b), int64(len(b))
	}
	if err != nil || feed.DigestOf(b) != w.Digest || int64(len(b)) != w.Size {
		return nil, fmt.Errorf("%s: %d bytes: %w", r.URL, len(b), errors.Join(err, feed.ErrUntrusted))
	}
	o.Blobs[w.Digest] = b
	return feedtest.Blob(b), nil
}

func follower(t testing.TB, upstream string, change func(*Config)) *updates {
	t.Helper()
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		*c = Config{Upstream: upstream, Products: []string{"Windows"}, Classifications: defaultClassifications(), Account: "hashike"}
		c.Classifications = []string{"セキュリティ問題の修正プログラム", "Critical Updates"}
		if change != nil {
			change(c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f.(*updates)
}

// follow runs Fetch once against a server.
func follow(f *updates, prev *snapshot) (*snapshot, error) {
	o := &netOutside{&outside{nil, windows(prev)}}
	var p feed.Content
	if prev != nil {
		p = prev
	}
	state, err := f.Fetch(context.Background(), o, p, o)
	o.Head.State = state
	return o.snapshot, err
}

// realVendor offers the genuine revisions as documents, with their payload.
func realVendor(t testing.TB) *vendorServer {
	v := newVendor(t)
	revs, _ := realRevisions(t)
	for _, r := range revs {
		v.add(t, compose(r.core, r.extended, r.texts, ` CreationDate="2015-09-01T00:00:00Z"`, ""))
	}
	v.files["WH6FexLo3nx830CZKdXdjIsmhKI="] = sample(t, "microsoft", "msu-kb2999226", "win8.1", "Windows8.1-KB2999226-x64.cab")
	return v
}

// documentsOf are all documents of a snapshot.
func documentsOf(t testing.TB, s *snapshot) map[identity]string {
	t.Helper()
	out := map[identity]string{}
	for a := range s.Artifacts() {
		if !isBatch(a) {
			continue
		}
		n := 0
		err := eachOriginal(bytes.NewReader(s.Blobs[a.Digest]), func(o original) error {
			n++
			out[o.identity] = string(o.body)
			return nil
		})
		if err != nil || n > batchUpdates {
			t.Errorf("%s: %d updates, %v", a.Path, n, err)
		}
	}
	return out
}

// TestRoundTrip: an upstream's revisions go through one Hashike that serves
// servers, into another that fetches from it: the same revisions, byte for
// byte, and a terminal of the second gets the update.
func TestRoundTrip(t *testing.T) {
	v := realVendor(t)
	first := follower(t, v.URL, nil)
	a, err := follow(first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if verdict, err := judge(first, a); err != nil || len(verdict.Withheld) > 0 {
		t.Fatalf("%v, %+v", err, verdict.Withheld)
	}
	docs := documentsOf(t, a)
	if len(docs) < 125 || docs[identityOfText(t, "433942af-c579-4917-921b-c580f5ac230b", 501)] == "" {
		t.Fatalf("%d revisions", len(docs))
	}
	if _, ok := a.Lookup(payload81); !ok {
		t.Fatal("the payload is missing")
	}
	s := newSite(t, first)
	s.publish(a, feed.View{}, "all")
	second := follower(t, s.URL, nil)
	b, err := follow(second, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := documentsOf(t, b); !maps.Equal(got, docs) {
		t.Errorf("%d revisions downstream, %d upstream, or with other bytes", len(got), len(docs))
	}
	if x, ok := b.Lookup(payload81); !ok || !bytes.Equal(b.Blobs[x.Digest], v.files["WH6FexLo3nx830CZKdXdjIsmhKI="]) {
		t.Error("the payload is missing or another")
	}
	if verdict, err := judge(second, b); err != nil || len(verdict.Withheld) > 0 {
		t.Fatalf("%v, %+v", err, verdict.Withheld)
	}
	s2 := newSite(t, second)
	s2.publish(b, feed.View{}, "all")
	if got := needs(t, s2.terminal("")); !slices.Equal(got, []string{"994987cc-6e38-4236-8e63-caf9c04b5d0b", "433942af-c579-4917-921b-c580f5ac230b"}) {
		t.Errorf("a terminal of the second needs %v", got)
	}
}

func identityOfText(t testing.TB, g string, n int32) identity {
	t.Helper()
	id, err := parseGUID(g)
	if err != nil {
		t.Fatal(err)
	}
	return identity{id, n}
}

// TestFollowing: nothing new costs five calls and no document; a new revision
// comes alone, the old batches stay as they are; a server with a new database
// is read from the beginning.
func TestFollowing(t *testing.T) {
	v := realVendor(t)
	f := follower(t, v.URL, nil)
	a, err := follow(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	clear(v.calls)
	if _, err := follow(f, a); !errors.Is(err, feed.ErrUnchanged) {
		t.Fatalf("nothing new: %v", err)
	}
	if v.calls["GetUpdateData"] != 0 || v.calls["GetRevisionIdList"] != 2 {
		t.Errorf("nothing new: %v", v.calls)
	}
	// A new revision of the bundle, which supersedes nothing.
	v.now = 2
	old := identityOfText(t, "433942af-c579-4917-921b-c580f5ac230b", 501)
	next := v.add(t, bytes.ReplaceAll(v.docs[old], []byte(`UpdateID="433942af-c579-4917-921b-c580f5ac230b" RevisionNumber="501"`), []byte(`UpdateID="433942af-c579-4917-921b-c580f5ac230b" RevisionNumber="502"`)))
	clear(v.calls)
	b, err := follow(f, a)
	if err != nil {
		t.Fatal(err)
	}
	if v.calls["GetUpdateData"] != 1 {
		t.Errorf("one new revision: %v", v.calls)
	}
	kept, fresh := 0, 0
	for x := range b.Artifacts() {
		if isBatch(x) {
			if _, ok := a.Lookup(x.Path); ok {
				kept++
			} else {
				fresh++
			}
		}
	}
	if fresh != 1 || kept == 0 || documentsOf(t, b)[next] == "" {
		t.Errorf("%d batches kept, %d new", kept, fresh)
	}
	v.change = true
	c, err := follow(f, b)
	if err != nil && !errors.Is(err, feed.ErrUnchanged) {
		t.Fatalf("a new database: %v", err)
	}
	if err == nil && documentsOf(t, c)[next] == "" {
		t.Error("a new database: the revision is gone")
	}
}

// TestFollowingRefuses: products that the server does not have, files that are
// not those of the metadata, answers that are no answers.
func TestFollowingRefuses(t *testing.T) {
	v := realVendor(t)
	if _, err := follow(follower(t, v.URL, func(c *Config) { c.Products = []string{"Windows 13"} }), nil); !errors.Is(err, feed.ErrConfig) || !strings.Contains(err.Error(), "Windows 13") {
		t.Errorf("unknown product: %v", err)
	}
	good := v.files["WH6FexLo3nx830CZKdXdjIsmhKI="]
	bad := bytes.Clone(good)
	bad[1000] ^= 1
	v.files["WH6FexLo3nx830CZKdXdjIsmhKI="] = bad
	if _, err := follow(follower(t, v.URL, nil), nil); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("changed payload: %v", err)
	}
	v.files["WH6FexLo3nx830CZKdXdjIsmhKI="] = good
	for id := range v.docs {
		v.docs[id] = v.docs[id][:len(v.docs[id])/2]
		break
	}
	if _, err := follow(follower(t, v.URL, nil), nil); !errors.Is(err, feed.ErrUpstream) && !errors.Is(err, feed.ErrTransient) {
		t.Errorf("half a document: %v", err)
	}
}

// TestServersAreRefused: cookies of others, too many ids, anchors that nobody gave.
func TestServersAreRefused(t *testing.T) {
	v := realVendor(t)
	f := follower(t, v.URL, nil)
	a, err := follow(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, f)
	s.publish(a, feed.View{}, "all")
	srv := &peerServer{up: &netOutside{&outside{nil, a}}, base: s.URL}
	if err := srv.authorise(t.Context(), "wsus01", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"); err != nil {
		t.Fatal(err)
	}
	says := func(what, code string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, _, err = srv.list(t.Context(), filter{anchor: "yesterday"})
	says("foreign anchor", "InvalidParameters", err)
	many := make([]identity, batchUpdates+1)
	_, _, err = srv.data(t.Context(), many)
	says("101 ids", "InvalidParameters", err)
	_, _, err = srv.data(t.Context(), many[:1])
	says("unknown id", "InternalServerError", err)
	good := srv.cookie
	srv.cookie.sealed = base64.StdEncoding.EncodeToString([]byte("forged"))
	_, _, err = srv.list(t.Context(), filter{})
	says("forged cookie", "InvalidCookie", err)
	// A terminal's cookie is no server's.
	term := s.terminal("")
	_ = term
	k := cookie{use: cookieSession, expires: taken.AddDate(10, 0, 0)}
	seal, err := newSealer(s.secret, "windows")
	if err != nil {
		t.Fatal(err)
	}
	srv.cookie.sealed = base64.StdEncoding.EncodeToString(seal.seal(k))
	_, _, err = srv.list(t.Context(), filter{})
	says("a terminal's cookie", "InvalidCookie", err)
	srv.cookie = good
	if ids, _, err := srv.list(t.Context(), filter{}); err != nil || len(ids) < 100 {
		t.Errorf("%d, %v", len(ids), err)
	}
}

func FuzzBatch(f *testing.F) {
	b, err := encodeBatch([]original{{identity{guid{1}, 2}, []byte("<x/>")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := eachOriginal(bytes.NewReader(b), func(original) error { return nil }); err != nil && !errors.Is(err, feed.ErrUpstream) {
			t.Fatal(err)
		}
	})
}
