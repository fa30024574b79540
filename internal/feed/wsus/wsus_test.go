package wsus

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/wsus/terminal"
	"github.com/hashike/hashike/internal/format/cab"
)

const (
	update81 = "433942af-c579-4917-921b-c580f5ac230b"
	member81 = "994987cc-6e38-4236-8e63-caf9c04b5d0b"
)

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func TestDropsAreTakenWholeOrNotAtAll(t *testing.T) {
	f := newKind(t, nil)
	drop := dropOf(t, "win8.1", "win6.1")
	whole := fetched(t, f, drop, nil)
	if len(whole.Named) != 5 {
		t.Fatalf("%d artifacts: %v", len(whole.Named), slices.Sorted(maps.Keys(whole.Named)))
	}
	if _, err := take(f, drop, whole); !errors.Is(err, feed.ErrUnchanged) {
		t.Fatalf("nothing new: %v", err)
	}
	for why, change := range map[string]func(fstest.MapFS){
		"missing":   func(d fstest.MapFS) { delete(d, file81) },
		"cut":       func(d fstest.MapFS) { d[file81].Data = d[file81].Data[:1000] },
		"altered":   func(d fstest.MapFS) { d[file81].Data = flip(d[file81].Data, 5000) },
		"cut scan":  func(d fstest.MapFS) { d[scan81].Data = d[scan81].Data[:100_000] },
		"no scan":   func(d fstest.MapFS) { delete(d, scan81) },
		"not a cab": func(d fstest.MapFS) { d[scan81].Data = []byte("MZ") },
	} {
		d := dropOf(t, "win8.1", "win6.1")
		change(d)
		s := fetched(t, f, d, nil)
		if _, there := s.Named[payload81]; there || len(s.Named) != 3 {
			t.Errorf("%s: %v", why, slices.Sorted(maps.Keys(s.Named)))
		}
		alone := fstest.MapFS{}
		for n, file := range d {
			if strings.HasPrefix(n, "win8.1/") {
				alone[n] = file
			}
		}
		if _, err := take(f, alone, nil); !errors.Is(err, feed.ErrTransient) {
			t.Errorf("%s, alone: %v", why, err)
		}
	}
}

func TestRevisionIDsStay(t *testing.T) {
	f := newKind(t, nil)
	one := fetched(t, f, dropOf(t, "win8.1"), nil)
	before, err := readRevisions(one)
	if err != nil {
		t.Fatal(err)
	}
	two := fetched(t, f, dropOf(t, "win6.1"), one)
	after, err := readRevisions(two)
	if err != nil {
		t.Fatal(err)
	}
	if len(before.order) != 765 || len(after.order) != 767 || after.epoch != before.epoch || !slices.Equal(after.order[:765], before.order) {
		t.Fatalf("%d then %d revisions", len(before.order), len(after.order))
	}
	if fresh, _ := readRevisions(fetched(t, f, dropOf(t, "win8.1"), nil)); fresh.epoch == before.epoch {
		t.Fatal("a rebuilt outside has the same epoch")
	}
}

func TestVerify(t *testing.T) {
	f := newKind(t, nil)
	good := fetched(t, f, dropOf(t, "win8.1", "win6.1"), nil)
	v, err := judge(f, good)
	if err != nil || len(v.Withheld) != 0 || v.Weakest != feed.Attested {
		t.Fatalf("%+v, %v", v, err)
	}
	var scan string
	for p := range good.Named {
		if strings.HasPrefix(p, "metadata/scan-") && bytes.Equal(good.Body(p), dropOf(t, "win8.1")[scan81].Data) {
			scan = p
		}
	}
	// other is the good snapshot with one artifact changed.
	other := func(p string, change func(*feed.Artifact) []byte) *snapshot {
		s := good.Clone()
		a := s.Named[p]
		delete(s.Named, p)
		b := change(&a)
		a.Digest, a.Size = feed.DigestOf(b), int64(len(b))
		s.Blobs[a.Digest] = b
		s.Named[a.Path] = a
		return s
	}
	bytesOf := func(p string) []byte { return good.Body(p) }
	for _, c := range []struct {
		why      string
		s        *snapshot
		withheld []string // nil: refused whole
	}{
		{"payload altered", other(payload81, func(*feed.Artifact) []byte { return flip(bytesOf(payload81), 4000) }), []string{payload81, scan}},
		{"another payload under its name", other(payload81, func(*feed.Artifact) []byte {
			return bytesOf("Content/" + pathOf(t, good))
		}), []string{payload81, scan}},
		{"payload without metadata", other(payload81, func(a *feed.Artifact) []byte {
			a.Path = strings.Replace(payload81, "587E", "587F", 1)
			return bytesOf(payload81)
		}), []string{strings.Replace(payload81, "587E", "587F", 1), scan}},
		{"metadata altered", other(scan, func(a *feed.Artifact) []byte {
			b := flip(bytesOf(scan), 60_000)
			n := scanArtifact(feed.DigestOf(b), a.Time)
			a.Path, a.Group = n.Path, n.Group
			return b
		}), []string{"*", payload81}},
		{"class changed", other(payload81, func(a *feed.Artifact) []byte { a.Class = feed.Metadata; return bytesOf(payload81) }), []string{payload81, scan}},
		{"group changed", other(payload81, func(a *feed.Artifact) []byte { a.Group = ""; return bytesOf(payload81) }), nil},
		{"revisions altered", other(revisionsPath, func(*feed.Artifact) []byte { return flip(bytesOf(revisionsPath), 3) }), nil},
		{"revisions lost", other(revisionsPath, func(a *feed.Artifact) []byte { a.Path = "metadata/x"; return []byte("x") }), nil},
	} {
		v, err := judge(f, c.s)
		if c.withheld == nil {
			if !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s: %v", c.why, err)
			}
			continue
		}
		if err != nil || len(v.Withheld) != len(c.withheld) {
			t.Errorf("%s: %v, %v", c.why, v.Withheld, err)
		}
		for _, p := range c.withheld {
			if _, ok := v.Withheld[p]; !ok && p != "*" {
				t.Errorf("%s: %s is not withheld", c.why, p)
			}
		}
	}
}

func pathOf(t *testing.T, s *snapshot) string {
	for p := range s.Named {
		if strings.HasPrefix(p, "Content/") && p != payload81 {
			return strings.TrimPrefix(p, "Content/")
		}
	}
	t.Fatal("no other payload")
	return ""
}

// What cannot be downloaded is not offered; what a group's decision says is.
func TestOffered(t *testing.T) {
	f := newKind(t, map[string]string{"Shiken": "test"})
	c := fetched(t, f, dropOf(t, "win8.1", "win6.1"), nil)
	s := newSite(t, f)
	both := []string{member81, update81}
	s.publish(c, feed.View{}, "test", "pilot", "all")
	a := s.terminal("")
	if d := cmp.Diff(both, needs(t, a)); d != "" {
		t.Fatal(d)
	}
	known := a.Known()
	if s.publish(c, feed.View{Withheld: map[string]string{payload81: "not signed"}}, "all"); len(needs(t, a)) != 0 || a.Known() >= known {
		t.Fatalf("a terminal keeps an update whose file was withheld: %d of %d", a.Known(), known)
	}
	if n := needs(t, s.terminal("")); len(n) != 0 {
		t.Fatalf("offered without its file: %v", n)
	}
	if d := cmp.Diff(both, needs(t, s.terminal("shiken"))); d != "" {
		t.Fatalf("group of ring test: %s", d)
	}
	s.publish(c, feed.View{Decisions: []feed.Decision{{Subject: update81, Group: "Madoguchi", Action: "decline"}}}, "all")
	if n := needs(t, s.terminal("madoguchi")); len(n) != 0 {
		t.Fatalf("declined for the group, offered: %v", n)
	}
	b := s.terminal("kikaku")
	if d := cmp.Diff(both, needs(t, b)); d != "" {
		t.Fatal(d)
	}
	// A changed decision reaches a terminal that has the update already.
	s.publish(c, feed.View{Decisions: []feed.Decision{{Subject: update81, Action: "optional"}}}, "all")
	if needs(t, b); b.Needed()[1].Action != "OptionalInstall" {
		t.Fatalf("%+v", b.Needed()[1])
	}
	if k := s.ledger.known["windows/6f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b"]; k == nil || k.Name != "pc0001" || k.Group != "kikaku" || k.Registered.IsZero() {
		t.Fatalf("terminal not remembered: %+v", k)
	}
}

// A scan that is withheld shows nothing, even where nothing of it can be read.
func TestWithheldMetadata(t *testing.T) {
	f := newKind(t, nil)
	c := fetched(t, f, dropOf(t, "win8.1", "win6.1"), nil)
	held := map[string]string{}
	for p, a := range c.Named {
		if isScan(a) && bytes.Equal(c.Blobs[a.Digest], dropOf(t, "win8.1")[scan81].Data) {
			c.Blobs[a.Digest] = []byte("garbage")
			held[p] = "not a cabinet"
		}
	}
	s := newSite(t, f)
	s.publish(c, feed.View{Withheld: held}, "all")
	if n := needs(t, s.terminal("")); len(n) != 0 {
		t.Fatalf("%v", n)
	}
}

func TestFaults(t *testing.T) {
	f := newKind(t, nil)
	c := fetched(t, f, dropOf(t, "win8.1"), nil)
	s := newSite(t, f)
	s.publish(c, feed.View{}, "all")
	const path = "/clientwebservice/CLIENT.asmx"
	fails := func(a *terminal.Terminal, code, message, op, body string) {
		t.Helper()
		var none struct{}
		var fault *terminal.Fault
		if err := a.Call(path, nsClient, op, body, &none); !errors.As(err, &fault) || fault.Code != code || message != "" && fault.Message != message {
			t.Errorf("%s: %v, want %s", op, err, code)
		}
	}
	a := s.terminal("")
	list := func(n int) string { return strings.Repeat("<int>1</int>", n) }
	sync := func(inner string) string {
		return a.Cookie() + "<parameters>" + inner + "<SkipSoftwareSync>false</SkipSoftwareSync><Unknown><x>1</x></Unknown></parameters>"
	}
	var none struct{}
	if err := a.Call(path, nsClient, "SyncUpdates", sync("<InstalledNonLeafUpdateIDs>"+list(400)+"</InstalledNonLeafUpdateIDs>"), &none); err != nil {
		t.Error(err)
	}
	fails(a, "InvalidParameters", "parameters.InstalledNonLeafUpdateIDs", "SyncUpdates", sync("<InstalledNonLeafUpdateIDs>"+list(401)+"</InstalledNonLeafUpdateIDs>"))
	fails(a, "InvalidParameters", "parameters.SystemSpec", "SyncUpdates", sync("<SystemSpec><Device><DeviceFlags>1</DeviceFlags></Device></SystemSpec>"))
	fails(a, "InvalidParameters", "", "NoSuchOperation", "")
	for _, forged := range []string{"", "AQID", strings.Repeat("A", 400)} {
		fails(a, "InvalidCookie", "", "SyncUpdates", "<cookie><EncryptedData>"+forged+"</EncryptedData></cookie>")
		fails(a, "InvalidAuthorizationCookie", "", "GetCookie", "<authCookies><AuthorizationCookie><CookieData>"+forged+"</CookieData></AuthorizationCookie></authCookies>")
	}
	f.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	fails(a, "CookieExpired", "", "SyncUpdates", sync(""))
	f.now = time.Now
	s.secret = bytes.Repeat([]byte{8}, 32)
	s.open()
	fails(a, "InvalidCookie", "", "SyncUpdates", sync(""))
	s.secret = bytes.Repeat([]byte{7}, 32)
	s.publish(fetched(t, f, dropOf(t, "win8.1"), nil), feed.View{}, "all") // a rebuilt outside
	fails(a, "ServerChanged", "", "SyncUpdates", sync(""))
	if d := cmp.Diff([]string{member81, update81}, needs(t, s.terminal(""))); d != "" {
		t.Fatal(d)
	}
}

func TestHostileRequests(t *testing.T) {
	f := newKind(t, nil)
	s := newSite(t, f)
	s.publish(fetched(t, f, dropOf(t, "win8.1"), nil), feed.View{}, "all")
	const envelope = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>`
	for why, body := range map[string]string{
		"entities":  `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + envelope + `<GetConfig xmlns="` + nsClient + `">&b;</GetConfig></s:Body></s:Envelope>`,
		"deep":      envelope + `<GetConfig xmlns="` + nsClient + `">` + strings.Repeat("<a>", 100_000),
		"many":      envelope + `<GetConfig xmlns="` + nsClient + `">` + strings.Repeat("<a/>", 300_000) + `</GetConfig></s:Body></s:Envelope>`,
		"large":     envelope + `<GetConfig xmlns="` + nsClient + `"><a>` + strings.Repeat("x", maxRequest) + `</a></GetConfig></s:Body></s:Envelope>`,
		"cut":       envelope + `<GetConfig xmlns="` + nsClient + `">`,
		"empty":     ``,
		"namespace": envelope + `<GetConfig xmlns="x"/></s:Body></s:Envelope>`,
	} {
		res, err := s.Client().Post(s.URL+"/ClientWebService/client.asmx", "text/xml", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != http.StatusBadRequest && res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %s", why, res.Status)
		}
	}
	for _, p := range []string{"/Content/", "/Content/../metadata/revisions.txt", "/content/a2/x", "/metadata/revisions.txt", "/Content/A2/..%2f..%2fmetadata/revisions.txt", "/SelfUpdate/wuident.cab"} {
		r := httptest.NewRecorder()
		s.h.ServeHTTP(r, httptest.NewRequest(http.MethodGet, p, nil))
		if r.Code != http.StatusNotFound {
			t.Errorf("%s: %d", p, r.Code)
		}
	}
	r := httptest.NewRecorder()
	s.h.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/CONTENT/a2/587e857b12e8de7c7cdf409929d5dd8c8b2684a2.CAB", nil))
	if r.Code != http.StatusOK || r.Body.Len() != 826607 {
		t.Errorf("in another case: %d, %d bytes", r.Code, r.Body.Len())
	}
}

// model is scoping by the book over the raw fragments, sharing nothing with the server's code.
type model struct {
	latest  map[string]string // UpdateID → core of the highest revision
	clauses map[string][][]string
	ids     map[string]int32 // UpdateID → revision id of that revision
}

var (
	reIdentity = regexp.MustCompile(`<UpdateIdentity UpdateID="([^"]+)"(?: RevisionNumber="(\d+)")? ?/>`)
	rePrereq   = regexp.MustCompile(`(?s)<Prerequisites>(.*?)</Prerequisites>`)
	reClause   = regexp.MustCompile(`(?s)<AtLeastOne[^>]*>.*?</AtLeastOne>|<UpdateIdentity [^>]*/>`)
)

func newModel(t *testing.T, scan []byte, ids *revisions) *model {
	outer, err := cab.NewReader(bytes.NewReader(scan), int64(len(scan)), cab.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	_, body, err := outer.Open("package.cab")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(body)
	inner, err := cab.NewReader(bytes.NewReader(b), int64(len(b)), cab.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{map[string]string{}, map[string][][]string{}, map[string]int32{}}
	number := map[string]int{}
	err = inner.Walk(func(f cab.File, body io.Reader) error {
		if !strings.HasPrefix(f.Name, "core/") {
			return nil
		}
		text, err := io.ReadAll(body)
		id := reIdentity.FindStringSubmatch(string(text))
		g := strings.ToLower(id[1])
		if n, _ := strconv.Atoi(id[2]); n >= number[g] {
			number[g], m.latest[g] = n, string(text)
			u, _ := parseGUID(g)
			m.ids[g] = ids.ids[identity{u, int32(n)}]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for g, text := range m.latest {
		p := rePrereq.FindStringSubmatch(text)
		if p == nil {
			continue
		}
		for _, c := range reClause.FindAllString(p[1], -1) {
			var or []string
			for _, id := range reIdentity.FindAllStringSubmatch(c, -1) {
				or = append(or, strings.ToLower(id[1]))
			}
			m.clauses[g] = append(m.clauses[g], or)
		}
	}
	return m
}

// visible is the closure of one update, less what installed does not open.
func (m *model) visible(root string, installed map[string]bool) []int32 {
	closure := map[string]bool{}
	var add func(string)
	add = func(g string) {
		if closure[g] {
			return
		}
		closure[g] = true
		for _, or := range m.clauses[g] {
			for _, x := range or {
				add(x)
			}
		}
	}
	add(root)
	var out []int32
	for g := range closure {
		met := true
		for _, or := range m.clauses[g] {
			met = met && slices.ContainsFunc(or, func(x string) bool { return installed[x] })
		}
		if met {
			out = append(out, m.ids[g])
		}
	}
	slices.Sort(out)
	return out
}

// TestScopingByTheBook asks for category scans of every update in the sample,
// with random sets of installed updates, and compares with the model.
func TestScopingByTheBook(t *testing.T) {
	f := newKind(t, nil)
	drop := dropOf(t, "win8.1")
	c := fetched(t, f, drop, nil)
	ids, err := readRevisions(c)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, f)
	// Declined, so that only what the category pulls in is in scope.
	s.publish(c, feed.View{Decisions: []feed.Decision{{Subject: update81, Action: "decline"}}}, "all")
	m := newModel(t, drop[scan81].Data, ids)
	all := slices.Sorted(maps.Keys(m.latest))
	rnd := rand.New(rand.NewPCG(11, 13))
	a := s.terminal("")
	deepest := 0
	for range 400 {
		root := all[rnd.IntN(len(all))]
		installed, list := map[string]bool{}, ""
		for range rnd.IntN(380) {
			g := all[rnd.IntN(len(all))]
			if !installed[g] {
				installed[g] = true
				list += "<int>" + strconv.Itoa(int(m.ids[g])) + "</int>"
			}
		}
		want := m.visible(root, installed)
		got := askScope(t, a, root, list)
		for g := range installed { // those are cached: not sent again
			want = slices.DeleteFunc(want, func(id int32) bool { return id == m.ids[g] })
		}
		deepest = max(deepest, len(want))
		if d := cmp.Diff(want, got); d != "" && len(want)+len(got) > 0 {
			t.Fatalf("%s with %d installed: %s", root, len(installed), d)
		}
	}
	if deepest < 3 {
		t.Fatalf("at most %d visible: the test shows nothing", deepest)
	}
}

func askScope(t *testing.T, a *terminal.Terminal, root, installed string) []int32 {
	t.Helper()
	var got []int32
	cached := ""
	for {
		var r struct {
			New       []int32 `xml:"SyncUpdatesResult>NewUpdates>UpdateInfo>ID"`
			Truncated bool    `xml:"SyncUpdatesResult>Truncated"`
		}
		err := a.Call("/ClientWebService/client.asmx", nsClient, "SyncUpdates", a.Cookie()+"<parameters><InstalledNonLeafUpdateIDs>"+installed+
			"</InstalledNonLeafUpdateIDs><OtherCachedUpdateIDs>"+cached+"</OtherCachedUpdateIDs><SkipSoftwareSync>false</SkipSoftwareSync><FilterCategoryIds><CategoryIdentifier><Id>"+root+
			"</Id></CategoryIdentifier></FilterCategoryIds></parameters>", &r)
		if err != nil || len(r.New) > syncPage {
			t.Fatal(len(r.New), err)
		}
		for _, id := range r.New {
			cached += "<int>" + strconv.Itoa(int(id)) + "</int>"
		}
		got = append(got, r.New...)
		if !r.Truncated {
			slices.Sort(got)
			return got
		}
	}
}

func FuzzFragments(f *testing.F) {
	f.Add([]byte(`<UpdateIdentity UpdateID="433942af-c579-4917-921b-c580f5ac230b" RevisionNumber="501" /><Properties UpdateType="Software" ExplicitlyDeployable="true" /><Relationships><Prerequisites><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="0FA1201D-4330-4FA8-8AE9-B877473B6441" /></AtLeastOne></Prerequisites><BundledUpdates><UpdateIdentity UpdateID="994987cc-6e38-4236-8e63-caf9c04b5d0b" RevisionNumber="501" /></BundledUpdates></Relationships>`))
	f.Add([]byte(`<ExtendedProperties><KBArticleID>2999226</KBArticleID></ExtendedProperties><Files><File Digest="WH6FexLo3nx830CZKdXdjIsmhKI=" DigestAlgorithm="SHA1" FileName="W.cab" Size="826607"><AdditionalDigest Algorithm="SHA256">izoP2P7oFCEokyCEOgbZTfD9ESNxQ24MVxYD3ftIxP0=</AdditionalDigest></File></Files>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := parseCore(b); err == nil && u.check() != nil {
			t.Fatalf("%+v", u)
		}
		files, _, err := parseExtended(b)
		for _, x := range files {
			if err == nil && !feed.ValidPath(x.path()) {
				t.Fatalf("path %q", x.path())
			}
		}
	})
}

func FuzzSOAP(f *testing.F) {
	f.Add([]byte(`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><GetConfig xmlns="` + nsClient + `"><protocolVersion>2.90</protocolVersion></GetConfig></s:Body></s:Envelope>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(bytes.NewReader(b), nsClient)
		if err != nil {
			return
		}
		q := syncRequest{installed: numbers{most: maxNonLeaf}, cached: numbers{most: 10}, drivers: numbers{most: 10}}
		_ = r.walk(q.take)
	})
}

func FuzzRevisions(f *testing.F) {
	r := newRevisions(newEpoch())
	r.add(identity{classSecurity, 100})
	f.Add(r.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRevisions(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := parseRevisions(bytes.NewReader(r.encode()))
		if err != nil || again.epoch != r.epoch || !slices.Equal(again.order, r.order) {
			t.Fatalf("%q: %v", b, err)
		}
	})
}

func FuzzCookie(f *testing.F) {
	s, err := newSealer(bytes.Repeat([]byte{1}, 32), "windows")
	if err != nil {
		f.Fatal(err)
	}
	good := s.seal(cookie{use: cookieSession, client: "a", name: "b", group: "c", protocol: "2.90"})
	if k, err := s.open(good); err != nil || k.client+k.name+k.group+k.protocol != "abc2.90" {
		f.Fatalf("%+v, %v", k, err)
	}
	other, _ := newSealer(bytes.Repeat([]byte{1}, 32), "another")
	if _, err := other.open(good); err == nil {
		f.Fatal("another feed's cookie is accepted")
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		// Each process of the fuzzer sealed its own seed.
		if k, err := s.open(b); err == nil && k.client+k.name+k.group+k.protocol != "abc2.90" {
			t.Fatal("forged")
		}
	})
}
