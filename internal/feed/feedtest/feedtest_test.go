package feedtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// The suite must be able to fail: a toy kind passes it, and each of the toy's
// possible defects fails the check that is there for it.

// defects, and the check that must find each.
func defects() map[string]string {
	return map[string]string{
		"payload unchecked": "tampered", "payload unchecked, late": "mixed", "extra accepted": "tampered", "class unchecked": "labels",
		"signature optional": "signature removed", "any key": "key swapped", "any key, orders": "orders", "no mark": "rollback", "no mark, evidence": "evidence",
		"note of the clock": "pure", "always new": "unchanged", "names cleaned": "hostile index",
		"no limit": "oversize", "goroutine left": "cancelled", "no ranges": "serve", "withheld served": "serve", "older forgotten": "publish",
		"blind probe": "probe", "settings in one language": "settings", "panic": "tampered", "no second look": "upstream moves",
	}
}

type toyConfig struct {
	URL string `toml:"url" doc:"address"`
}

type toy struct {
	cfg    toyConfig
	defect string
}

func (k toy) has(defect string) bool { d, _, _ := strings.Cut(k.defect, ","); return d == defect }

func toyKind(defect string) feed.Kind {
	return feed.Kind{
		Name: "toy", Title: feed.Text{JA: "見本", EN: "toy"}, Config: func() any { return &toyConfig{URL: "http://vendor.example/"} },
		New: func(d feed.Decode) (feed.Feed, error) {
			k := toy{defect: defect}
			err := d(&k.cfg)
			return k, err
		},
		Floors: map[feed.Class]feed.Strength{feed.Metadata: feed.Signed, feed.Feature: feed.Signed},
	}
}

// The toy's list: a line with a number, a line "digest name" for each file.
func toyState(key ed25519.PrivateKey, number uint64, files Files) State {
	list := fmt.Sprintf("%d\n", number)
	s := State{Files: Files{}}
	for p, b := range files {
		list += feed.DigestOf(b).Hex() + " " + p + "\n"
		s.Files[p] = b
	}
	s.Files["list"], s.Files["list.sig"] = []byte(list), ed25519.Sign(key, []byte(list))
	return s
}

func parse(b []byte) (number uint64, names []string, sums map[string]feed.Digest, err error) {
	head, rest, _ := strings.Cut(string(b), "\n")
	_, err = fmt.Sscan(head, &number)
	sums = map[string]feed.Digest{}
	for line := range strings.Lines(rest) {
		hex, p, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		d, derr := feed.DigestFromHex(hex)
		if !ok || derr != nil || !feed.ValidPath(p) && !strings.Contains(p, "..") {
			return 0, nil, nil, fmt.Errorf("list: %w", feed.ErrUpstream)
		}
		names, sums[p] = append(names, p), d
	}
	if err != nil {
		err = fmt.Errorf("list: %w: %w", err, feed.ErrUpstream)
	}
	return number, names, sums, err
}

func (k toy) Reaches() []string {
	return []string{k.cfg.URL}
}

func (k toy) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	if k.has("goroutine left") {
		go func() { select {} }()
	}
	var err error
	for range 3 {
		var state string
		if state, err = k.fetch(ctx, up, prev, dst); !errors.Is(err, feed.ErrTransient) || ctx.Err() != nil {
			return state, err
		}
	}
	return "", err
}

func (k toy) fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	limit := int64(1 << 20)
	if k.has("no limit") {
		limit = 1 << 40
	}
	get := func(p string) ([]byte, error) {
		r, err := up.Do(ctx, feed.Request{URL: k.cfg.URL + "/" + p, Limit: limit})
		if err != nil {
			return nil, err
		}
		return r.Body, nil
	}
	sig, err := get("list.sig")
	if err != nil {
		return "", err
	}
	state := feed.DigestOf(sig).Hex()
	if prev != nil && prev.Header().State == state && !k.has("always new") {
		return "", feed.ErrUnchanged
	}
	list, err := get("list")
	if err != nil {
		return "", err
	}
	_, names, sums, err := parse(list)
	if err != nil {
		return "", err
	}
	var arts []feed.Artifact
	for _, p := range names {
		if k.has("always new") {
			get(p)
		}
		at := p
		if k.has("names cleaned") {
			at = strings.TrimPrefix(path.Clean("/"+p), "/")
		}
		if !feed.ValidPath(at) {
			return "", fmt.Errorf("name %q: %w", at, feed.ErrUpstream)
		}
		if _, err := dst.Load(ctx, feed.Request{URL: k.cfg.URL + "/" + (&url.URL{Path: p}).EscapedPath(), Limit: limit}, feed.Want{Digest: sums[p]}); err != nil {
			return "", k.moved(get, sig, err)
		}
		arts = append(arts, feed.Artifact{Path: at, Digest: sums[p], Class: feed.Feature})
	}
	if err := k.moved(get, sig, nil); err != nil {
		return "", err
	}
	for p, b := range map[string][]byte{"list": list, "list.sig": sig} {
		blob, err := dst.Put(ctx, k.cfg.URL+"/"+p, bytes.NewReader(b))
		if err != nil {
			return "", err
		}
		arts = append(arts, feed.Artifact{Path: p, Digest: blob.Digest(), Class: feed.Metadata})
	}
	for _, a := range arts {
		if err := dst.Add(a); err != nil {
			return "", err
		}
	}
	return state, nil
}

func (k toy) moved(get func(string) ([]byte, error), sig []byte, err error) error {
	if k.has("no second look") || errors.Is(err, feed.ErrTransient) || errors.Is(err, context.Canceled) {
		return err
	}
	now, gerr := get("list.sig")
	if gerr != nil {
		return errors.Join(err, gerr)
	}
	if !bytes.Equal(now, sig) {
		return fmt.Errorf("published meanwhile: %w", feed.ErrTransient)
	}
	return err
}

func bad(c feed.Content, p string) error {
	return feed.NewFault(fmt.Errorf("%s: %w", p, feed.ErrUntrusted), "H-502", "feed", c.Header().Feed, "file", p)
}

func (k toy) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	list, err := fs.ReadFile(c, "list")
	if err != nil {
		return bad(c, "list")
	}
	sig, err := fs.ReadFile(c, "list.sig")
	if err != nil && !k.has("signature optional") {
		return bad(c, "list.sig")
	}
	ev := feed.Evidence{Method: "toy", Strength: feed.Signed, Signer: "vendor", KeyID: "AA", Anchor: "toy"}
	good := err != nil || k.has("any key")
	for _, a := range trust.For("toy") {
		_, gone := trust.Distrusted("AA", time.Time{})
		good = good || !gone && ed25519.Verify(a.Data, list, sig)
	}
	if !good {
		return bad(c, "list")
	}
	if k.has("note of the clock") {
		ev.Note = time.Now().String()
	}
	number, _, sums, err := parse(list)
	if err != nil {
		if k.has("panic") {
			panic(err)
		}
		return err
	}
	docs := c.Artifacts()
	for a := range docs {
		e, want := ev, feed.Feature
		if a.Path == "list" || a.Path == "list.sig" {
			want = feed.Metadata
		}
		if a.Class != want && !k.has("class unchecked") {
			return bad(c, a.Path)
		}
		if want == feed.Metadata {
			e.Path, e.Subject = a.Path, a.Digest
			if err := out.Evidence(e); err != nil {
				return err
			}
		}
	}
	l, _ := c.Lookup("list")
	for a := range docs {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, named := sums[a.Path]
		if a.Class == feed.Metadata || !named && !k.has("extra accepted") {
			continue
		}
		if !named || k.has("payload unchecked") {
			d = a.Digest
		}
		if k.has("panic") && d != a.Digest {
			panic("digest")
		}
		if err := out.Evidence(feed.Evidence{Path: a.Path, Subject: d, Method: "toy-list", Strength: feed.Signed, Via: l.Digest}); err != nil {
			return err
		}
	}
	if k.has("no mark") {
		return nil
	}
	return out.Mark("list", int64(number))
}

func (k toy) Handler(s feed.Serving) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := s.View("all")
		if ok && k.has("withheld served") {
			v.Withheld = nil
		}
		if ok && k.has("older forgotten") {
			v.Older = nil
		}
		if ok && k.has("no ranges") {
			r.Header.Del("Range")
		}
		if !ok {
			http.Error(w, "nothing", http.StatusServiceUnavailable)
			return
		}
		feed.ServeFile(w, r, v, strings.TrimPrefix(r.URL.Path, "/"))
	}), nil
}

func (k toy) Settings(_ feed.Content, base *url.URL) ([]feed.Setting, error) {
	s := feed.Setting{Title: feed.Text{JA: "設定", EN: "settings"}, Body: base.String(), Note: feed.Text{JA: "注", EN: "note"}}
	if k.has("settings in one language") {
		s.Note.EN = ""
	}
	return []feed.Setting{s}, nil
}

func (k toy) Released(c feed.Content) (time.Time, string) {
	b, _ := fs.ReadFile(c, "list")
	n, _, _, _ := parse(b)
	return time.Unix(int64(n), 0), fmt.Sprint(n)
}
func (k toy) Stale() (time.Duration, time.Duration) { return time.Hour, 2 * time.Hour }

func (k toy) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", base.JoinPath("list").String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if a, _ := c.Lookup("list"); err == nil && feed.DigestOf(b) != a.Digest && !k.has("blind probe") {
		err = feed.ErrDamaged
	}
	return []string{"list"}, err
}

func TestToy(t *testing.T) {
	now := time.Now()
	key := func(n uint64) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(binary.BigEndian.AppendUint64(make([]byte, 24), n))
	}
	older := Files{"a.bin": bytes.Repeat([]byte("a"), 5000), "sub/b.bin": []byte("b"), "old.bin": []byte("old")}
	current := Files{"a.bin": bytes.Repeat([]byte("A"), 5000), "sub/b.bin": []byte("b"), "c.bin": []byte("c")}
	newer := Files{"a.bin": bytes.Repeat([]byte("N"), 5000), "d.bin": []byte("d")}
	at := func(h int) uint64 { return uint64(now.Add(-time.Duration(h) * time.Hour).Unix()) }
	Run(t, Case{
		Kind: toyKind(os.Getenv("FEEDTEST_DEFECT")), Config: "url = '{url}'", Time: now,
		Trust: []feed.Anchor{{Name: "toy", Use: "toy", Data: key(1).Public().(ed25519.PublicKey), Source: "test"}},
		Older: toyState(key(1), at(3), older), Now: toyState(key(1), at(2), current), Newer: toyState(key(1), at(1), newer),
		Forged: toyState(key(2), at(2), current),
		Hostile: func(p string) State {
			return toyState(key(1), at(2), Files{"a.bin": []byte("a"), p: []byte("escaped")})
		},
		Optional: func(p string) bool { return strings.HasSuffix(p, ".bin") },
		Quiet:    1,
	})
}

func TestDefectsAreFound(t *testing.T) {
	for defect, check := range defects() {
		cmd := exec.Command(os.Args[0], "-test.run=^TestToy$/^"+strings.ReplaceAll(check, " ", "_")+"$")
		cmd.Env = append(os.Environ(), "FEEDTEST_DEFECT="+defect)
		out, err := cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("--- FAIL: TestToy/"+strings.ReplaceAll(check, " ", "_"))) {
			t.Errorf("%s: %q does not find it: %v\n%s", defect, check, err, out)
		}
	}
}
