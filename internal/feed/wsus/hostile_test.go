package wsus

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// plain is a small document.
func plain(g guid, number int, kind, relations string) []byte {
	return fmt.Appendf(nil, `<upd:Update xmlns:upd="%s" xmlns:cat="x:cat"><upd:UpdateIdentity UpdateID="%s" RevisionNumber="%d"/>`+
		`<upd:Properties UpdateType="%s" ExplicitlyDeployable="%t" CreationDate="2020-01-01T00:00:00Z"/>`+
		`<upd:LocalizedPropertiesCollection><upd:LocalizedProperties><upd:Language>en</upd:Language><upd:Title>t</upd:Title></upd:LocalizedProperties></upd:LocalizedPropertiesCollection>`+
		`<upd:Relationships>%s</upd:Relationships></upd:Update>`, nsUpdate, g, number, kind, kind == "Software", relations)
}

func numbered(n int) (g guid) {
	binary.BigEndian.PutUint32(g[12:], uint32(n))
	return g
}

func bundleOf(ids ...identity) string {
	s := "<upd:BundledUpdates>"
	for _, id := range ids {
		s += fmt.Sprintf(`<upd:UpdateIdentity UpdateID="%s" RevisionNumber="%d"/>`, id.Update, id.Number)
	}
	return s + "</upd:BundledUpdates>"
}

// snapshotOf holds documents in batches.
func snapshotOf(t testing.TB, docs ...[]byte) *snapshot {
	t.Helper()
	s := windows(nil)
	o := &outside{nil, s}
	put := func(a feed.Artifact, b []byte) {
		x, err := o.Put(t.Context(), "", bytes.NewReader(b))
		if err == nil {
			a.Digest = x.Digest()
			err = o.Add(a)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ids := newRevisions(epoch{1})
	for part := range slices.Chunk(docs, batchUpdates) {
		var list []original
		for _, b := range part {
			d, err := parseDocument(b)
			if err != nil {
				t.Fatal(err)
			}
			ids.add(d.identity)
			list = append(list, original{d.identity, b})
		}
		b, err := encodeBatch(list)
		if err != nil {
			t.Fatal(err)
		}
		put(batchArtifact(feed.DigestOf(b), taken), b)
	}
	put(feed.Artifact{Path: revisionsPath, Class: feed.Metadata}, ids.encode())
	return s
}

// canned answers every request with one body.
type canned struct {
	outside
	body []byte
}

func (c *canned) Do(context.Context, feed.Request) (*feed.Response, error) {
	return &feed.Response{Status: 200, Body: c.body}, nil
}

func answerOf(op, body string) []byte {
	return []byte(xmlHead + "<" + op + `Response xmlns="` + nsServer + `">` + body + "</" + op + "Response></s:Body></s:Envelope>")
}

// bomb is a cabinet whose one file is large and packs to almost nothing: of a
// folder of MSZIP blocks of zeros, each of 32 KiB in some 50 bytes.
func bomb(blocks int) []byte {
	var data []byte
	le := binary.LittleEndian
	// DEFLATE, fixed codes: a literal 0, then matches of 258 at distance 1.
	zip := newBits().put(1, 1).put(1, 2).literal(0)
	left := 32767
	for ; left >= 258+3; left -= 258 {
		zip.match258()
	}
	for ; left > 0; left-- {
		zip.literal(0)
	}
	block := append([]byte("CK"), zip.end()...)
	for range blocks {
		data = le.AppendUint32(data, 0)
		data = le.AppendUint16(data, uint16(len(block)))
		data = le.AppendUint16(data, 32768)
		data = append(data, block...)
	}
	files := append(le.AppendUint16(le.AppendUint16(le.AppendUint16(le.AppendUint16(le.AppendUint32(le.AppendUint32(nil, uint32(blocks*32768)), 0), 0), 0), 0), 0x20), "blob\x00"...)
	head := []byte("MSCF\x00\x00\x00\x00")
	head = le.AppendUint32(head, uint32(36+8+len(files)+len(data)))
	head = le.AppendUint32(head, 0)
	head = le.AppendUint32(head, 36+8)
	head = le.AppendUint32(head, 0)
	head = append(head, 3, 1)
	head = le.AppendUint16(head, 1)
	head = le.AppendUint16(head, 1)
	head = append(head, 0, 0, 0, 0, 0, 0)
	folder := le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, uint32(36+8+len(files))), uint16(blocks)), 1)
	return slices.Concat(head, folder, files, data)
}

// bits writes DEFLATE with fixed codes (RFC 1951 3.2.6).
type bits struct {
	b []byte
	n uint
}

func newBits() *bits { return &bits{} }

func (w *bits) put(v uint, n uint) *bits {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[len(w.b)-1] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
	return w
}

func (w *bits) code(v uint, n uint) *bits {
	for i := range n {
		w.put(v>>(n-1-i)&1, 1)
	}
	return w
}

func (w *bits) literal(v uint) *bits { return w.code(0x30+v, 8) }
func (w *bits) match258() *bits      { return w.code(0xC5, 8).code(0, 5) } // 285, distance 1
func (w *bits) end() []byte          { return w.code(0, 7).b }

// TestHostileAnswers: what an upstream server, or whoever stands in its place,
// can send. Each is refused, and none costs more than its size.
func TestHostileAnswers(t *testing.T) {
	id := identity{numbered(1), 1}
	doc := plain(id.Update, 1, "Software", "")
	blob := func(b []byte) string {
		return "<ServerSyncUpdateData><XmlUpdateBlobCompressed>" + base64.StdEncoding.EncodeToString(b) + "</XmlUpdateBlobCompressed></ServerSyncUpdateData>"
	}
	text := func(b []byte) string {
		return "<ServerSyncUpdateData><XmlUpdateBlob>" + esc(string(b)) + "</XmlUpdateBlob></ServerSyncUpdateData>"
	}
	if _, err := unpackBlob(base64.StdEncoding.EncodeToString(bomb(1))); err != nil {
		t.Fatalf("the bomb is no cabinet: %v", err)
	}
	long := strings.Repeat("a", 500_000)
	for what, body := range map[string][]byte{
		"nothing":             nil,
		"another document":    answerOf("GetUpdateData", text(plain(numbered(2), 1, "Software", ""))),
		"a document twice":    answerOf("GetUpdateData", text(doc)+text(doc)),
		"both forms twice":    answerOf("GetUpdateData", text(doc)+blob(storedCab(doc))),
		"no document":         answerOf("GetUpdateData", ""),
		"a cab bomb":          answerOf("GetUpdateData", blob(bomb(60_000))),
		"half a cabinet":      answerOf("GetUpdateData", blob(storedCab(doc)[:100])),
		"no base64":           answerOf("GetUpdateData", "<ServerSyncUpdateData><XmlUpdateBlobCompressed>%%%</XmlUpdateBlobCompressed></ServerSyncUpdateData>"),
		"a long name":         answerOf("GetUpdateData", "<"+long+">"+strings.Repeat("<b/>", 200_000)+"</"+long+">"),
		"too deep":            answerOf("GetUpdateData", strings.Repeat("<a>", 100)),
		"entities":            []byte(`<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>` + string(answerOf("GetUpdateData", text(doc)))),
		"an entity":           answerOf("GetUpdateData", "<updates>&lol;</updates>"),
		"another operation":   answerOf("GetCookie", text(doc)),
		"another namespace":   bytes.ReplaceAll(answerOf("GetUpdateData", text(doc)), []byte(nsServer), []byte("x:y")),
		"a digest of nothing": answerOf("GetUpdateData", text(doc)+"<ServerSyncUrlData><FileDigest>AA==</FileDigest></ServerSyncUrlData>"),
	} {
		srv := &peerServer{up: &canned{body: body}, base: "http://x", most: 100}
		if _, _, err := srv.data(t.Context(), []identity{id}); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", what, err)
		}
	}
	srv := &peerServer{up: &canned{body: answerOf("GetUpdateData", text(doc))}, base: "http://x", most: 100}
	if got, _, err := srv.data(t.Context(), []identity{id, {numbered(9), 1}}); err != nil || len(got) != 1 {
		t.Errorf("an answer that leaves one out: %d, %v", len(got), err)
	}
	for what, list := range map[string]string{
		"negative": "<UpdateIdentity><UpdateID>" + id.Update.String() + "</UpdateID><RevisionNumber>-1</RevisionNumber></UpdateIdentity>",
		"no GUID":  "<UpdateIdentity><UpdateID>x</UpdateID><RevisionNumber>1</RevisionNumber></UpdateIdentity>",
	} {
		srv := &peerServer{up: &canned{body: answerOf("GetRevisionIdList", "<GetRevisionIdListResult><Anchor>1</Anchor><NewRevisions>"+list+"</NewRevisions></GetRevisionIdListResult>")}}
		if _, _, err := srv.list(t.Context(), filter{}); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("list, %s: %v", what, err)
		}
	}
	srv = &peerServer{up: &canned{body: answerOf("GetRelatedRevisionsForUpdates", "<UpdateIdentity><UpdateID>"+numbered(5).String()+"</UpdateID><RevisionNumber>1</RevisionNumber></UpdateIdentity>")}}
	if _, err := srv.related(t.Context(), []guid{id.Update}); !errors.Is(err, feed.ErrUpstream) {
		t.Errorf("related to nothing asked: %v", err)
	}
}

// TestSparingServer: answers that leave documents out are asked for again.
func TestSparingServer(t *testing.T) {
	v := realVendor(t)
	whole, err := follow(follower(t, v.URL, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.few = 7
	got, err := follow(follower(t, v.URL, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := documentsOf(t, got), documentsOf(t, whole); len(a) != len(b) || len(a) == 0 {
		t.Errorf("%d revisions of %d", len(a), len(b))
	}
}

// TestCircles: bundles that name each other or themselves, long chains, and
// bundles that fan out at each level: through fetch, index, scope and lists.
func TestCircles(t *testing.T) {
	one, two, three := identity{numbered(1), 1}, identity{numbered(2), 1}, identity{numbered(3), 1}
	needs := func(id identity) string {
		return `<upd:Prerequisites><upd:UpdateIdentity UpdateID="` + id.Update.String() + `"/></upd:Prerequisites>`
	}
	docs := [][]byte{
		plain(one.Update, 1, "Software", needs(two)+bundleOf(two)), plain(two.Update, 1, "Software", needs(one)+bundleOf(one)),
		plain(three.Update, 1, "Software", needs(three)+bundleOf(three)), plain(numbered(4), 1, "Software", ""),
	}
	m := &mirror{docs: map[identity]*document{}}
	bodies := map[identity][]byte{}
	for _, b := range docs {
		d, err := parseDocument(b)
		if err != nil {
			t.Fatal(err)
		}
		m.docs[d.identity], bodies[d.identity] = d, b
	}
	if got := m.family(one, bodies); len(got) != 2 || got[1] != one {
		t.Errorf("family of a circle: %v", got)
	}
	if got := m.family(three, bodies); len(got) != 1 {
		t.Errorf("family of itself: %v", got)
	}
	if got := m.live(nil); len(got) != 4 {
		t.Errorf("live: %v", got)
	}
	const chain = 100_000
	for i := range chain {
		id := identity{numbered(1000 + i), 1}
		m.docs[id] = &document{update: update{identity: id, Bundles: [][]identity{{{numbered(1001 + i), 1}}}}}
		bodies[id] = docs[0]
	}
	if got := m.family(identity{numbered(1000), 1}, bodies); len(got) > maxClauses || len(got) < batchUpdates {
		t.Errorf("family of a chain: %d", len(got))
	}
	f := newKind(t, nil)
	s := newSite(t, f)
	s.publish(snapshotOf(t, docs...), feed.View{}, "all")
	v := s.h.(*server).rings["all"]
	var offered []int32
	for i := range v.Revisions {
		if v.complete[i] {
			offered = append(offered, v.Revisions[i].Update)
		}
	}
	if len(offered) != 1 || v.Updates[offered[0]] != numbered(4) {
		t.Errorf("of circles %v are offered", offered)
	}
	all := []int{0, 1, 2, 3}
	if got := v.ordered(all); len(got) != 4 {
		t.Errorf("ordered: %v", got)
	}
	// Ten levels of a hundred, each naming all of the next: 100^10 ways.
	x := &index{}
	var whole []bool
	c := &catalog{index: x, exact: map[bundled]int{}}
	for level := range 10 {
		for i := range 100 {
			r := revision{Update: int32(level*100 + i), Number: 1}
			for j := range 100 {
				if level < 9 {
					r.Bundles = append(r.Bundles, []bundled{{int32((level+1)*100 + j), 1}})
				}
			}
			c.exact[bundled{r.Update, 1}] = len(x.Revisions)
			x.Revisions = append(x.Revisions, r)
			whole = append(whole, level < 9 || i != 99)
		}
	}
	if got := c.completed(whole); slices.Contains(got[:900], true) || !got[900] {
		t.Error("a bundle without one of its members is complete")
	}
	whole[999] = true
	if got := c.completed(whole); !got[900] || !got[899] || !got[100] || got[0] {
		t.Error("eight levels are complete, nine are not")
	}
}

// TestCategoryScanByTheBook: within keeps what a search from each deployed
// update reaches.
func TestCategoryScanByTheBook(t *testing.T) {
	f := newKind(t, nil)
	s := newSite(t, f)
	s.publish(fetched(t, f, dropOf(t, "win8.1", "win6.1"), nil), feed.View{}, "all")
	v := s.h.(*server).rings["all"]
	sc := v.catalog.scope("all", "", taken)
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		var categories []guid
		want := map[int]bool{}
		for range 1 + r.IntN(3) {
			g := v.Updates[r.IntN(len(v.Updates))]
			categories = append(categories, g)
			if i, ok := v.latest[v.numbers[g]]; ok {
				want[i] = true
			}
		}
		var left []int32
		for _, i := range sc.members {
			if d := sc.deploy[i]; d.action != actEvaluate && d.action != actBundle {
				one := &scope{catalog: v.catalog, deploy: map[int]deployment{}}
				one.reach(i, d)
				hit := false
				for n := range one.deploy {
					hit = hit || want[n]
				}
				if !hit {
					left = append(left, v.Revisions[i].ID)
				}
			}
		}
		if _, got := sc.within(categories); !slices.Equal(got, left) {
			t.Errorf("%v: left %v, want %v", categories, got, left)
		}
	}
}

// smallSite serves a few documents.
func smallSite(t testing.TB) *site {
	s := newSite(t, newKind(t, nil))
	a := identity{numbered(7), 1}
	s.publish(snapshotOf(t, plain(numbered(5), 1, "Category", ""), plain(numbered(6), 1, "Detectoid", ""),
		plain(a.Update, 1, "Software", `<upd:Prerequisites><upd:UpdateIdentity UpdateID="`+numbered(6).String()+`"/></upd:Prerequisites>`),
		plain(numbered(8), 1, "Software", bundleOf(a))), feed.View{}, "all")
	return s
}

func (s *site) post(path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
	return w
}

func requestOf(namespace, op, body string) string {
	return xmlHead + "<" + op + ` xmlns="` + namespace + `">` + body + "</" + op + "></s:Body></s:Envelope>"
}

// sealed is a good cookie of a use.
func (s *site) sealed(t testing.TB, change func(*cookie)) string {
	t.Helper()
	seal, err := newSealer(s.secret, "windows")
	if err != nil {
		t.Fatal(err)
	}
	k := cookie{use: cookieServer, expires: s.f.now().Add(cookieLife), epoch: epoch{1}, client: numbered(1).String()}
	if change != nil {
		change(&k)
	}
	return base64.StdEncoding.EncodeToString(seal.seal(k))
}

// TestHostileServers: requests of a downstream server that are none.
func TestHostileServers(t *testing.T) {
	s := smallSite(t)
	with := func(sealed, rest string) string {
		return "<cookie><EncryptedData>" + sealed + "</EncryptedData></cookie>" + rest
	}
	good := s.sealed(t, nil)
	id := func(n int) string {
		return "<UpdateIdentity><UpdateID>" + numbered(n).String() + "</UpdateID><RevisionNumber>1</RevisionNumber></UpdateIdentity>"
	}
	foreign, err := newSealer(bytes.Repeat([]byte{8}, 32), "windows")
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSealer(s.secret, "windows2")
	if err != nil {
		t.Fatal(err)
	}
	k := cookie{use: cookieServer, expires: s.f.now().Add(cookieLife), epoch: epoch{1}}
	million := strings.Repeat("<guid/>", 1_000_000)
	for _, x := range []struct{ what, op, body, want string }{
		{"good", "GetUpdateData", with(good, "<updateIds>"+id(7)+"</updateIds>"), "XmlUpdateBlob"},
		{"one id a hundred times", "GetUpdateData", with(good, "<updateIds>"+strings.Repeat(id(7), 100)+"</updateIds>"), "XmlUpdateBlob"},
		{"101 ids", "GetUpdateData", with(good, "<updateIds>"+strings.Repeat(id(7), 101)+"</updateIds>"), "InvalidParameters"},
		{"another's cookie", "GetUpdateData", with(base64.StdEncoding.EncodeToString(foreign.seal(k)), "<updateIds>"+id(7)+"</updateIds>"), "InvalidCookie"},
		{"another feed's cookie", "GetUpdateData", with(base64.StdEncoding.EncodeToString(other.seal(k)), "<updateIds>"+id(7)+"</updateIds>"), "InvalidCookie"},
		{"a cookie cut short", "GetUpdateData", with(good[:40], ""), "InvalidCookie"},
		{"a huge cookie", "GetUpdateData", with(strings.Repeat("AAAA", 100_000), ""), "InvalidCookie"},
		{"no cookie", "GetUpdateData", "<updateIds>" + id(7) + "</updateIds>", "InvalidCookie"},
		{"a terminal's cookie", "GetConfigData", with(s.sealed(t, func(k *cookie) { k.use = cookieSession }), ""), "InvalidCookie"},
		{"an authorisation", "GetConfigData", with(s.sealed(t, func(k *cookie) { k.use = cookieServerAuth }), ""), "InvalidCookie"},
		{"an old cookie", "GetConfigData", with(s.sealed(t, func(k *cookie) { k.expires = s.f.now().Add(-1) }), ""), "CookieExpired"},
		{"another server's numbers", "GetConfigData", with(s.sealed(t, func(k *cookie) { k.epoch = epoch{2} }), ""), "ServerChanged"},
		{"a foreign anchor", "GetRevisionIdList", with(good, "<filter><Anchor>yesterday</Anchor></filter>"), "InvalidParameters"},
		{"a million ids", "GetRelatedRevisionsForUpdates", with(good, "<updateIDs>"+million+"</updateIDs>"), "InvalidParameters"},
		{"an unknown operation", "DropTables", "", "InvalidParameters"},
		{"a typed element", "GetUpdateData", `<cookie xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="System.Data.DataSet"><EncryptedData>AAEAAAD/////</EncryptedData></cookie>`, "InvalidCookie"},
	} {
		w := s.post(pathServerSync, requestOf(nsServer, x.op, x.body))
		if !strings.Contains(w.Body.String(), x.want) {
			t.Errorf("%s: %d %.300s", x.what, w.Code, w.Body)
		}
		if n := strings.Count(w.Body.String(), "<XmlUpdateBlob>"); n > 1 {
			t.Errorf("%s: the document comes %d times", x.what, n)
		}
	}
	long := strings.Repeat("a", 500_000)
	for what, x := range map[string]struct {
		body string
		code int
	}{
		"a long name":      {requestOf(nsServer, "GetUpdateData", "<"+long+">"+strings.Repeat("<b/>", 100_000)+"</"+long+">"), 400},
		"too deep":         {requestOf(nsServer, "GetUpdateData", strings.Repeat("<a>", 100_000)), 400},
		"entities":         {`<!DOCTYPE x [<!ENTITY a "aaaa">]>` + requestOf(nsServer, "GetConfigData", ""), 400},
		"an entity":        {requestOf(nsServer, "GetConfigData", "<x>&lol;</x>"), 400},
		"five megabytes":   {requestOf(nsServer, "GetConfigData", "<x>"+strings.Repeat("y", 5<<20)+"</x>"), 413},
		"a million leaves": {requestOf(nsServer, "GetConfigData", strings.Repeat("<x/>", 1_000_000)), 400},
		"UTF-7":            {`<?xml version="1.0" encoding="utf-7"?>` + requestOf(nsServer, "GetConfigData", ""), 400},
	} {
		if w := s.post(pathServerSync, x.body); w.Code != x.code {
			t.Errorf("%s: %d %.200s, want %d", what, w.Code, w.Body, x.code)
		}
	}
}

// TestGreedyTerminal: an id or a kind of fragment that is asked for many times
// comes once.
func TestGreedyTerminal(t *testing.T) {
	s := smallSite(t)
	v := s.h.(*server).rings["all"]
	sealed := s.sealed(t, func(k *cookie) { k.use = cookieSession })
	id := fmt.Sprintf("<int>%d</int>", v.Revisions[v.latest[v.numbers[numbered(7)]]].ID)
	w := s.post(pathClient, requestOf(nsClient, "GetExtendedUpdateInfo", "<cookie><EncryptedData>"+sealed+"</EncryptedData></cookie><revisionIDs>"+
		strings.Repeat(id, maxRevision)+"</revisionIDs><infoTypes>"+strings.Repeat("<XmlUpdateFragmentType>Core</XmlUpdateFragmentType>", 16)+"</infoTypes>"))
	if n := strings.Count(w.Body.String(), "<Xml>"); n != 1 {
		t.Errorf("%d fragments: %d %.300s", n, w.Code, w.Body)
	}
}

// TestLargeDocuments: a request for many large documents gets as many as fit,
// and the rest when asked again.
func TestLargeDocuments(t *testing.T) {
	var docs [][]byte
	var ids []identity
	for i := range 6 {
		docs = append(docs, plain(numbered(i), 1, "Software", "</upd:Relationships><upd:Passed>"+strings.Repeat("x", 7<<19)+"</upd:Passed><upd:Relationships>"))
		ids = append(ids, identity{numbered(i), 1})
	}
	s := newSite(t, newKind(t, nil))
	s.publish(snapshotOf(t, docs...), feed.View{}, "all")
	v := s.h.(*server).rings["all"]
	slices.Reverse(ids)
	for asked := 0; len(ids) > 0; asked++ {
		got, err := v.documents(ids)
		size := 0
		for _, b := range got {
			size += len(b)
		}
		if err != nil || len(got) == 0 || size > maxReply+maxDocument || asked > 6 {
			t.Fatalf("%d documents, %d bytes, %v", len(got), size, err)
		}
		ids = slices.DeleteFunc(ids, func(id identity) bool { return got[id] != nil })
	}
}

// TestContentPaths: only what is published, whatever the spelling of the path.
func TestContentPaths(t *testing.T) {
	f := newKind(t, nil)
	s := newSite(t, f)
	s.publish(fetched(t, f, dropOf(t, "win8.1"), nil), feed.View{}, "all")
	get := func(raw string) int {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		u, err := r.URL.Parse(raw)
		if err != nil {
			return 400
		}
		r.URL = u
		w := httptest.NewRecorder()
		s.h.ServeHTTP(w, r)
		_, _ = io.Copy(io.Discard, w.Body)
		return w.Code
	}
	for _, p := range []string{"/" + payload81, "/" + strings.ToLower(payload81), "/" + strings.ToUpper(payload81), "/%43ontent/" + strings.TrimPrefix(payload81, "Content/"), "/" + payload81 + "?x=y"} {
		if c := get(p); c != 200 {
			t.Errorf("%s: %d", p, c)
		}
	}
	for _, p := range []string{
		"/Content/../Content/A2/x.cab", "/Content/A2/../../metadata/revisions.txt", "/content/%2e%2e/metadata/revisions.txt", "/Content/%2e%2e%2fmetadata%2frevisions.txt",
		`/Content/..\metadata\revisions.txt`, "/Content/A2/", "/Content/", "/Content/A2", "/Content//" + payload81[11:], "/Content/A2/x%00.cab", "/Content/C:/x.cab", "/Content/A2/" + strings.Repeat("A", 100_000),
		"/metadata/revisions.txt", "/" + payload81 + "/", "/" + payload81 + "/x", "/" + payload81 + "%00", "/" + payload81 + "::$DATA", "/" + payload81 + ".", "/Content/A3/" + payload81[11:], "/index-2", "/Content/\xff\xfe/x.cab",
	} {
		if c := get(p); c != 404 && c != 400 {
			t.Errorf("%.100s: %d", p, c)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	id := identity{numbered(1), 1}
	doc := plain(id.Update, 1, "Software", "")
	f.Add(answerOf("GetUpdateData", "<ServerSyncUpdateData><XmlUpdateBlob>"+esc(string(doc))+"</XmlUpdateBlob></ServerSyncUpdateData>"))
	f.Add(answerOf("GetRevisionIdList", "<GetRevisionIdListResult><Anchor>1</Anchor><NewRevisions><UpdateIdentity><UpdateID>"+id.Update.String()+"</UpdateID><RevisionNumber>1</RevisionNumber></UpdateIdentity></NewRevisions></GetRevisionIdListResult>"))
	f.Add(answerOf("GetRelatedRevisionsForUpdates", ""))
	f.Add(answerOf("GetAuthConfig", "<AuthInfo><AuthPlugInInfo><PlugInID>DssTargeting</PlugInID></AuthPlugInInfo></AuthInfo>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &peerServer{up: &canned{body: b}, base: "http://x", most: 100}
		got, _, err := s.data(t.Context(), []identity{id})
		if err == nil && (len(got) != 1 || got[0].identity != id) {
			t.Fatalf("%v", got)
		}
		_, _, err2 := s.list(t.Context(), filter{})
		_, err3 := s.related(t.Context(), []guid{id.Update})
		for _, err := range []error{err, err2, err3, s.authorise(t.Context(), "x", noGUID)} {
			if err != nil && !errors.Is(err, feed.ErrUpstream) {
				t.Fatal(err)
			}
		}
		_ = soapFault(&feed.StatusError{Status: 500, Body: b})
	})
}

func FuzzBlob(f *testing.F) {
	f.Add(storedCab([]byte("<x/>")))
	f.Add(bomb(2))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := unpackBlob(base64.StdEncoding.EncodeToString(b))
		if err == nil && len(got) > 4*maxDocument {
			t.Fatalf("%d bytes", len(got))
		}
	})
}

func FuzzServerRequests(f *testing.F) {
	s := smallSite(f)
	cookie := "<cookie><EncryptedData>" + s.sealed(f, nil) + "</EncryptedData></cookie>"
	for _, op := range []string{"GetAuthConfig", "GetCookie", "GetConfigData", "GetRevisionIdList", "GetUpdateData", "GetUpdateDecryptionData", "DownloadFiles", "GetDeployments", "GetRelatedRevisionsForUpdates"} {
		f.Add(op, "<filter><GetConfig>true</GetConfig><Categories><IdAndDelta><Id>"+numbered(5).String()+"</Id><Delta>true</Delta></IdAndDelta></Categories></filter>")
		f.Add(op, "<updateIds><UpdateIdentity><UpdateID>"+numbered(7).String()+"</UpdateID><RevisionNumber>1</RevisionNumber></UpdateIdentity></updateIds>")
		f.Add(op, "<updateIDs><guid>"+numbered(7).String()+"</guid></updateIDs><fileDigestList><base64Binary>AA==</base64Binary></fileDigestList>")
	}
	f.Fuzz(func(t *testing.T, op, body string) {
		for _, x := range []struct{ path, ns string }{{pathServerSync, nsServer}, {pathDssAuth, nsDssAuth}} {
			w := s.post(x.path, requestOf(x.ns, op, cookie+body))
			if w.Code != 200 && w.Code != 400 && w.Code != 500 && w.Code != 413 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if strings.Contains(w.Body.String(), ">InternalServerError</Message>") {
				t.Fatalf("%s", w.Body)
			}
		}
	})
}

// TestBatchesAreBounded: by number and by bytes, with every document once.
func TestBatchesAreBounded(t *testing.T) {
	m := &mirror{docs: map[identity]*document{}, pack: newPacker()}
	defer m.pack.close()
	var list []original
	for i := range 250 {
		id := identity{numbered(i), 1}
		size := 100
		if i < 20 {
			size = 3 << 20
		}
		m.docs[id] = &document{update: update{identity: id}}
		list = append(list, original{id, m.pack.pack(bytes.Repeat([]byte{'x'}, size))})
	}
	packed, err := m.batches(list)
	if err != nil {
		t.Fatal(err)
	}
	had := map[identity]bool{}
	for _, b := range packed {
		n, size := 0, 0
		err := eachOriginal(bytes.NewReader(b), func(o original) error {
			n, size = n+1, size+len(o.body)
			had[o.identity] = true
			return nil
		})
		if err != nil || n > batchUpdates || size > maxBatchFill {
			t.Errorf("a batch of %d documents, %d bytes: %v", n, size, err)
		}
	}
	if len(had) != 250 || len(packed) != 4 {
		t.Errorf("%d documents in %d batches", len(had), len(packed))
	}
}
