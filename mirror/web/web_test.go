package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/mirror/web"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/html"
)

// fake is a kind with settings for terminals.
type fake struct{}

func (fake) Fetch(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
	return "", feed.ErrUnchanged
}
func (fake) Verify(context.Context, feed.Content, feed.Trust, feed.Proof) error { return nil }
func (fake) Handler(s feed.Serving) (http.Handler, error)                       { return feed.FileHandler(s), nil }
func (fake) Settings(_ feed.Content, base *url.URL) ([]feed.Setting, error) {
	return []feed.Setting{{
		Title: feed.Text{JA: "更新元の指定", EN: "Where to update from"}, File: `C:\ProgramData\trial\update.conf`,
		Body: "DatabaseMirror " + base.String() + "\n", Note: feed.Text{JA: "理由", EN: "the reason"},
	}}, nil
}

var now = time.Date(2026, 11, 22, 5, 5, 0, 0, time.UTC)

// mirrorWith has one feed in three states of publication, evidence, a problem and an order.
func mirrorWith(t *testing.T) (terminals, admin http.Handler, digest feed.Digest) {
	t.Helper()
	ctx := context.Background()
	dir := state.Dir(t.TempDir())
	db := state.At(dir, "test")
	clock := func() time.Time { return now }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.Create("inside", 1))
	store, err := cas.Open(string(dir), clock)
	must(err)
	t.Cleanup(func() { store.Close() })
	kind := feed.Kind{Name: "fake", Title: feed.Text{JA: "試しの種類", EN: "Trial kind"}}
	feeds := []feed.Setup{
		{Name: "av", Kind: kind, Feed: fake{}, Mount: "/av/", Prefer: feed.Definition},
		{Name: "empty", Kind: kind, Feed: fake{}, Mount: "/empty/", Prefer: feed.Security},
	}
	pub := mirror.NewPublisher(mirror.Options{Data: dir, DB: db, Store: store, Feeds: feeds, Clock: clock, Who: "tester"})
	list := put(t, store, "list of files")
	digest = put(t, store, "<b>pattern & file</b>")
	for serial := uint64(10); serial < 12; serial++ {
		b := store.NewSnapshot()
		must(b.Add(feed.Artifact{Path: "list", Digest: list, Class: feed.Metadata}))
		must(b.Add(feed.Artifact{Path: "dir/<main>.cvd", Digest: digest, Class: feed.Definition, Version: fmt.Sprint("27", serial), Time: now.AddDate(0, 0, -4),
			Origin: feed.Origin{URL: "https://vendor.example/main.cvd", Fetched: now.Add(-time.Hour), Peer: "CN=vendor.example; sha256:00"}}))
		snap, err := b.Commit(feed.Header{Feed: "av", Kind: "fake", Serial: serial, Taken: now})
		must(err)
		must(db.Update(func(tx state.Tx) error {
			return mirror.Accept(tx, "av", state.FeedState{
				Kind: "fake", Serial: serial, ID: snap.ID(), Taken: now, Accepted: now, Weakest: feed.Listed, Bundle: 412,
				Problem: "signature of <evil> does not hold", Code: "H-502", Since: now,
			}, false)
		}))
		must(db.Update(func(tx state.Tx) error {
			return tx.PutOrder(feed.Order{Schema: 1, Number: 17, Kind: feed.OrderException, Feed: "av", Strength: feed.Listed, Reason: "業務に必要", Operator: "甲", Approver: "乙", Issued: now, Until: now.AddDate(0, 1, 0)})
		}))
		_, err = pub.Advance(ctx, now)
		must(err)
	}
	evidence(t, dir.Evidence("av", 11, "inside"),
		fmt.Sprintf(`{"path":"dir/<main>.cvd","subject":%q,"method":"sha256-list","strength":"signed","via":%q}`, digest, list),
		fmt.Sprintf(`{"path":"list","subject":%q,"method":"openpgp","strength":"signed","signer":"Vendor <v@example>","key":"ABCD"}`, list))
	s, err := mirror.NewServer(mirror.ServerOptions{
		Coverage: []feed.Coverage{
			{Group: feed.Text{JA: "業務用ソフト", EN: "Applications"}, Product: feed.Text{JA: "一太郎", EN: "Ichitaro"}, Kinds: []string{"intake"}, Carried: feed.Conditional, Note: feed.Text{JA: "注", EN: "note"}},
			{Group: feed.Text{JA: "ウイルス対策", EN: "Antivirus"}, Product: feed.Text{JA: "ClamAV", EN: "ClamAV"}, Carried: feed.Confirmed, Tier: "A", Note: feed.Text{JA: "注", EN: "note"}},
		},
		Data: dir, Store: store, Feeds: feeds, Clock: clock, Pages: web.Pages, Hosts: []string{"mirror.town.example"}, Base: "http://mirror.town.example",
		Side:    feed.Text{JA: "内側（LGWAN接続系）", EN: "Inside (LGWAN)"},
		Contact: map[string]string{"info": "総務課 内線123", "incident": ""},
		Listen:  []mirror.Listen{{Addr: "127.0.0.1:0", Page: true, TLS: true}, {Addr: "127.0.0.1:0", Admin: true}},
		Line: func() *mirror.Line {
			return &mirror.Line{Last: now, Silent: now, Buffer: 1, BufferWanted: 2, Problem: "<disk>", Done: 1, LastName: "411", LastDone: now,
				Open: []mirror.LineSession{{Name: "412", Have: 3, Blocks: 9, Need: "8KGV C87K"}}}
		},
	})
	must(err)
	t.Cleanup(func() { s.Close() })
	return s.Handler(0), s.Handler(1), digest
}

func put(t *testing.T, s *cas.Store, content string) feed.Digest {
	t.Helper()
	d, _, err := s.Put(context.Background(), strings.NewReader(content), "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func evidence(t *testing.T, path string, lines ...string) {
	t.Helper()
	z, _ := zstd.NewWriter(nil)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, z.EncodeAll([]byte(strings.Join(lines, "\n")+"\n"), nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(h http.Handler, path, lang string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Host = "localhost"
	r.Header.Set("Accept-Language", lang)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// The operator's first page says that the one-way line is silent, and what to
// type to have the rest sent again; terminals' pages say nothing of it.
func TestLineOnThePage(t *testing.T) {
	terminals, admin, _ := mirrorWith(t)
	for lang, words := range map[string][]string{
		"ja": {"一方向装置から", "何も届いていません", "8KGV C87K", "第412便（3／9 区画）", "&lt;disk&gt;", "受信バッファが足りません", "第411便"},
		"en": {"Nothing has come through the diode since", "8KGV C87K", "bundle 412, 3 of 9", "receive buffer is too small"},
	} {
		text := get(admin, "/", lang).Body.String()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q on the page", lang, w)
			}
		}
		if text := get(terminals, "/", lang).Body.String(); strings.Contains(text, "8KGV") {
			t.Error("terminals see the line")
		}
	}
}

func TestPages(t *testing.T) {
	terminals, admin, digest := mirrorWith(t)
	if dir := os.Getenv("HASHIKE_PAGES"); dir != "" { // for a person to look at
		save(t, dir, terminals, admin, digest)
	}
	card := "/origin?q=" + url.QueryEscape("/av/dir/<main>.cvd")
	for _, c := range []struct {
		h        http.Handler
		path     string
		status   int
		ja, en   []string
		mustnt   string
		sameBoth []string
	}{
		{h: terminals, path: "/", status: 200, ja: []string{"更新状況一覧", "公開から4日", "注意（黄）", "令和8年11月22日(日) 14:05", "全端末", "まだ公開していません"},
			en: []string{"Update status", "4 days", "attention (yellow)", "22 Nov 2026 (Sun) 14:05 JST"}, mustnt: "signature of"},
		{h: terminals, path: "/hashike/", status: 200, ja: []string{"2711"}, en: []string{"2711"}},
		{h: terminals, path: "/hashike/coverage", status: 200, ja: []string{"対応状況", "条件付き", "一太郎", "設定なし"}, en: []string{"Coverage", "conditional", "Ichitaro"}},
		{h: admin, path: "/coverage", status: 200, ja: []string{"動作確認済", "ClamAV"}, en: []string{"confirmed"}},
		{h: terminals, path: "/hashike/settings", status: 200, ja: []string{"端末の設定", "更新元の指定", "証明書"}, en: []string{"Client settings", "Where to update from"},
			sameBoth: []string{"DatabaseMirror http://mirror.town.example/av/", `C:\ProgramData\trial\update.conf`, "/hashike/ca.crt"}},
		{h: terminals, path: "/hashike/nothing", status: 404, ja: []string{"このページはありません"}, en: []string{"no such page"}},
		{h: admin, path: "/", status: 200, ja: []string{"更新対象と版", "第412便", "一覧照合のみ", "問題のある更新対象が1件"}, en: []string{"Feeds and versions", "no. 412"}},
		{h: admin, path: "/feeds/av", status: 200, ja: []string{"公開の履歴（全端末）", "前の版に戻せます", "配信中", "待機時間の終了"}, en: []string{"rollback point", "served now"}},
		{h: admin, path: "/feeds/none", status: 404},
		{h: admin, path: "/problems", status: 200, ja: []string{"問題のある更新対象"}, sameBoth: []string{"signature of &lt;evil&gt; does not hold", "H-502"}},
		{h: admin, path: "/orders", status: 200, ja: []string{"例外措置", "令和8年12月22日"}, en: []string{"exception"}, sameBoth: []string{"業務に必要"}},
		{h: admin, path: "/origin", status: 200, ja: []string{"来歴票"}, en: []string{"Origin card"}},
		{h: admin, path: "/origin?q=nowhere", status: 404, ja: []string{"当たるファイルは"}},
		{h: admin, path: card, status: 200, ja: []string{"署名確認済", "この側の検証記録は、ここにありません", "第412便", "公開（全端末）"}, en: []string{"signature verified"},
			sameBoth: []string{"Vendor &lt;v@example&gt;", "https://vendor.example/main.cvd", string(digest), "dir/&lt;main&gt;.cvd", "sha256-list", "openpgp"}},
		{h: admin, path: "/origin?q=" + digest.Hex(), status: 200, ja: []string{"署名確認済"}},
	} {
		for lang, want := range map[string][]string{"ja": c.ja, "en": c.en} {
			w := get(c.h, c.path, lang)
			body := w.Body.String()
			if w.Code != c.status {
				t.Errorf("%s %s: status %d\n%s", c.path, lang, w.Code, body)
				continue
			}
			for _, s := range append(want, c.sameBoth...) {
				if !strings.Contains(body, s) {
					t.Errorf("%s %s: no %q", c.path, lang, s)
				}
			}
			for _, s := range []string{"⟦", "%!", "ZgotmplZ", "<no value>", "<script"} {
				if strings.Contains(body, s) {
					t.Errorf("%s %s: has %q\n%s", c.path, lang, s, body)
				}
			}
			if c.mustnt != "" && strings.Contains(body, c.mustnt) {
				t.Errorf("%s %s: shows %q to terminals", c.path, lang, c.mustnt)
			}
			wellFormed(t, c.path+" "+lang, body)
			side := map[string]string{"ja": "内側（LGWAN接続系）", "en": "Inside (LGWAN)"}[lang]
			if words := visible(body); !strings.HasPrefix(strings.NewReplacer("English", "", "日本語", "").Replace(words), side) {
				t.Errorf("%s %s begins with %.60q, not with the side", c.path, lang, words)
			}
		}
	}
}

// save writes the pages as files.
func save(t *testing.T, dir string, terminals, admin http.Handler, digest feed.Digest) {
	for name, p := range map[string]struct {
		h    http.Handler
		path string
	}{"status": {terminals, "/"}, "settings": {terminals, "/hashike/settings"}, "feeds": {admin, "/"}, "feed": {admin, "/feeds/av"}, "origin": {admin, "/origin?q=" + digest.Hex()}, "orders": {admin, "/orders"}, "problems": {admin, "/problems"}} {
		for _, lang := range []string{"ja", "en"} {
			css := get(terminals, "/hashike/style.css", lang).Body.String()
			body := strings.Replace(get(p.h, p.path, lang).Body.String(), `<link rel="stylesheet" href="/hashike/style.css">`, "<style>"+css+"</style>", 1)
			if err := os.WriteFile(filepath.Join(dir, name+"-"+lang+".html"), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// wellFormed wants every element closed in order.
func wellFormed(t *testing.T, name, body string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(body))
	void := map[string]bool{"meta": true, "link": true, "br": true, "input": true}
	var open []string
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(open) > 0 {
				t.Errorf("%s: %v, open %v", name, z.Err(), open)
			}
			return
		case html.StartTagToken:
			if tag, _ := z.TagName(); !void[string(tag)] {
				open = append(open, string(tag))
			}
		case html.EndTagToken:
			tag, _ := z.TagName()
			if len(open) == 0 || open[len(open)-1] != string(tag) {
				t.Errorf("%s: </%s> closes %v", name, tag, open)
				return
			}
			open = open[:len(open)-1]
		}
	}
}

// visible is the text of the body.
func visible(body string) string {
	_, body, _ = strings.Cut(body, "<body>")
	z := html.NewTokenizer(strings.NewReader(body))
	var b strings.Builder
	for z.Next() != html.ErrorToken {
		if tok := z.Token(); tok.Type == html.TextToken {
			b.WriteString(strings.TrimSpace(tok.Data))
		}
	}
	return b.String()
}

func TestLanguageChoice(t *testing.T) {
	terminals, _, _ := mirrorWith(t)
	for accept, want := range map[string]string{"": "ja", "ja,en;q=0.5": "ja", "en-GB,ja;q=0.3": "en", "fr": "ja", "fr, en;q=0.2": "en", ";;;": "ja"} {
		if got := get(terminals, "/", accept).Header().Get("Content-Language"); got != want {
			t.Errorf("Accept-Language %q: %s, want %s", accept, got, want)
		}
	}
	w := get(terminals, "/?lang=en", "ja")
	if w.Header().Get("Content-Language") != "en" || len(w.Result().Cookies()) != 1 {
		t.Fatal("?lang=en is not obeyed and remembered")
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Language", "ja")
	r.AddCookie(w.Result().Cookies()[0])
	w2 := httptest.NewRecorder()
	terminals.ServeHTTP(w2, r)
	if w2.Header().Get("Content-Language") != "en" {
		t.Error("the cookie is not obeyed")
	}
}

func TestDownloads(t *testing.T) {
	terminals, _, _ := mirrorWith(t)
	w := get(terminals, "/hashike/settings/av/0", "ja")
	if w.Code != 200 || w.Body.String() != "DatabaseMirror http://mirror.town.example/av/\n" || w.Header().Get("Content-Disposition") != "attachment; filename=update.conf" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	for _, p := range []string{"/hashike/settings/av/1", "/hashike/settings/av/-1", "/hashike/settings/av/x", "/hashike/settings/none/0"} {
		if w := get(terminals, p, "ja"); w.Code != 404 {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
	if w := get(terminals, "/hashike/ca.crt", "ja"); !strings.HasPrefix(w.Body.String(), "-----BEGIN CERTIFICATE-----") {
		t.Errorf("ca: %s", w.Body)
	}
}
