package verifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// content is a snapshot in memory.
type content struct {
	fstest.MapFS
	header    feed.Header
	artifacts map[string]feed.Artifact
}

func newContent(artifacts ...feed.Artifact) *content {
	c := &content{MapFS: fstest.MapFS{}, artifacts: map[string]feed.Artifact{},
		header: feed.Header{Feed: "f", Kind: "k", Serial: 7, Taken: testNow}}
	for _, a := range artifacts {
		c.add(a, []byte("bytes of "+a.Path))
	}
	return c
}

func (c *content) add(a feed.Artifact, b []byte) {
	a.Digest, a.Size = feed.DigestOf(b), int64(len(b))
	if a.Class == "" {
		a.Class = feed.Security
	}
	c.artifacts[a.Path] = a
	c.MapFS[a.Path] = &fstest.MapFile{Data: b}
}

func (c *content) Header() feed.Header { return c.header }
func (c *content) Lookup(p string) (feed.Artifact, bool) {
	a, ok := c.artifacts[p]
	return a, ok
}
func (c *content) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for _, p := range slices.Sorted(maps.Keys(c.artifacts)) {
			if !yield(c.artifacts[p], nil) {
				return
			}
		}
	}
}

func (c *content) digest(p string) feed.Digest { return c.artifacts[p].Digest }

// vendor is a feed whose Verify is the test's.
type vendor func(c *content, out feed.Proof) error

func (v vendor) Verify(_ context.Context, c feed.Content, _ feed.Trust, out feed.Proof) error {
	return v(c.(*content), out)
}
func (vendor) Fetch(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
	return "", errors.ErrUnsupported
}
func (vendor) Handler(feed.Serving) (http.Handler, error) { return nil, errors.ErrUnsupported }

func job(c *content, v vendor) Job {
	return Job{
		Setup:   feed.Setup{Name: "f", Kind: feed.Kind{Name: "k"}, Feed: v},
		Content: c, Side: "inside",
		Policy: Policy{Floors: map[feed.Class]feed.Strength{feed.Security: feed.Signed, feed.Metadata: feed.Attested}},
	}
}

func say(out feed.Proof, c *content, path string, s feed.Strength, via feed.Digest) error {
	return out.Evidence(feed.Evidence{Path: path, Subject: c.digest(path), Method: "test", Strength: s, Via: via})
}

func code(err error) string {
	var f *feed.Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

func TestChains(t *testing.T) {
	a := func(path, group string) feed.Artifact { return feed.Artifact{Path: path, Group: group} }
	for name, tt := range map[string]struct {
		artifacts []feed.Artifact
		verify    vendor
		policy    func(*Policy)
		trust     feed.Trust
		err       error
		code      string
		withheld  []string
		weakest   feed.Strength
	}{
		"signed far end and link": {artifacts: []feed.Artifact{a("list", ""), a("x", "x")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "list", feed.Signed, ""), say(out, c, "x", feed.Signed, c.digest("list")))
			}, weakest: feed.Signed},
		"link without its list": {artifacts: []feed.Artifact{a("list", ""), a("x", "x")},
			verify: func(c *content, out feed.Proof) error {
				return say(out, c, "x", feed.Signed, c.digest("list"))
			}, err: feed.ErrUntrusted, code: "H-502"},
		"chain through a weak list": {artifacts: []feed.Artifact{{Path: "list", Class: feed.Metadata}, a("x", "x")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "list", feed.Attested, ""), say(out, c, "x", feed.Signed, c.digest("list")))
			}, withheld: []string{"x"}, weakest: feed.Attested},
		"weak link under a signed list": {artifacts: []feed.Artifact{a("list", ""), a("x", "")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "list", feed.Signed, ""), say(out, c, "x", feed.Listed, c.digest("list")))
			}, err: feed.ErrHeld, code: "H-601"},
		"strongest of several counts": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "x", feed.Signed, ""), say(out, c, "x", feed.Attested, ""))
			}, weakest: feed.Signed},
		"nothing said": {artifacts: []feed.Artifact{a("x", "")}, verify: func(*content, feed.Proof) error { return nil },
			err: feed.ErrHeld, code: "H-601"},
		"nothing said of a group's second file": {artifacts: []feed.Artifact{a("g/1", "g"), a("g/2", "g"), a("h", "h")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "g/1", feed.Signed, ""), say(out, c, "h", feed.Signed, ""))
			}, withheld: []string{"g/1", "g/2"}, weakest: feed.Signed},
		"other bytes than the vendor names": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error {
				return out.Evidence(feed.Evidence{Path: "x", Subject: feed.DigestOf(nil), Strength: feed.Signed})
			}, err: feed.ErrUntrusted, code: "H-502"},
		"proof of another path": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error {
				return out.Evidence(feed.Evidence{Path: "y", Subject: c.digest("x"), Strength: feed.Signed})
			}, err: feed.ErrUntrusted, code: "H-502"},
		"refused in a group": {artifacts: []feed.Artifact{a("x", "x"), a("y", "")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "x", feed.Signed, ""), say(out, c, "y", feed.Signed, ""),
					out.Evidence(feed.Evidence{Path: "x", Refused: "bad signature"}))
			}, withheld: []string{"x"}, weakest: feed.Signed},
		"refused without a group": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error {
				return out.Evidence(feed.Evidence{Path: "x", Refused: "bad signature", Signer: "Vendor"})
			}, err: feed.ErrUntrusted, code: "H-502"},
		"inspected": {artifacts: []feed.Artifact{{Path: "x", Class: feed.Metadata, Origin: feed.Origin{Inspected: true}}},
			verify: func(c *content, out feed.Proof) error { return say(out, c, "x", feed.Attested, "") },
			err:    feed.ErrHeld, code: "H-601"},
		"distrusted digest": {artifacts: []feed.Artifact{a("x", "x"), a("y", "")},
			verify: func(c *content, out feed.Proof) error {
				return errors.Join(say(out, c, "x", feed.Signed, ""), say(out, c, "y", feed.Signed, ""))
			}, trust: feed.Trust{Distrust: []feed.Distrust{{Digest: feed.DigestOf([]byte("bytes of x"))}}},
			withheld: []string{"x"}, weakest: feed.Signed},
		"exception for the feed": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error { return say(out, c, "x", feed.Listed, "") },
			policy: func(p *Policy) {
				p.Exceptions = []feed.Order{{Number: 17, Kind: feed.OrderException, Feed: "f", Strength: feed.Listed, Until: testNow.Add(time.Hour)}}
			}, weakest: feed.Listed},
		"exception ended": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error { return say(out, c, "x", feed.Listed, "") },
			policy: func(p *Policy) {
				p.Exceptions = []feed.Order{{Kind: feed.OrderException, Feed: "f", Strength: feed.Listed, Until: testNow}}
			}, err: feed.ErrHeld, code: "H-601"},
		"exception for another digest": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error { return say(out, c, "x", feed.Listed, "") },
			policy: func(p *Policy) {
				p.Exceptions = []feed.Order{{Kind: feed.OrderException, Digest: feed.DigestOf(nil), Until: testNow.Add(time.Hour)}}
			}, err: feed.ErrHeld, code: "H-601"},
		"exception does not cover a refusal": {artifacts: []feed.Artifact{a("x", "")},
			verify: func(c *content, out feed.Proof) error {
				return out.Evidence(feed.Evidence{Path: "x", Refused: "bad signature"})
			},
			policy: func(p *Policy) {
				p.Exceptions = []feed.Order{{Kind: feed.OrderException, Feed: "f", Until: testNow.Add(time.Hour)}}
			}, err: feed.ErrUntrusted, code: "H-502"},
	} {
		t.Run(name, func(t *testing.T) {
			j := job(newContent(tt.artifacts...), tt.verify)
			j.Trust = tt.trust
			if tt.policy != nil {
				tt.policy(&j.Policy)
			}
			var doc bytes.Buffer
			j.Evidence = &doc
			v, err := Run(t.Context(), j)
			if !errors.Is(err, tt.err) || code(err) != tt.code {
				t.Fatalf("error %v (%s), want %v (%s)", err, code(err), tt.err, tt.code)
			}
			h, lines, rerr := ReadEvidence(&doc)
			if rerr != nil || h.Side != "inside" || h.Serial != 7 {
				t.Errorf("evidence header %+v, %v", h, rerr)
			}
			for _, err := range lines {
				if err != nil {
					t.Error(err)
				}
			}
			if tt.err != nil {
				if diff := cmp.Diff(v, Verdict{}); diff != "" {
					t.Errorf("a refused snapshot has a verdict: %s", diff)
				}
				return
			}
			if got := slices.Sorted(maps.Keys(v.Withheld)); !slices.Equal(got, tt.withheld) || v.Weakest != tt.weakest {
				t.Errorf("withheld %v, weakest %v, want %v, %v", got, v.Weakest, tt.withheld, tt.weakest)
			}
		})
	}
}

func TestMarks(t *testing.T) {
	at := func(n int64) vendor {
		return func(c *content, out feed.Proof) error {
			return errors.Join(say(out, c, "x", feed.Signed, ""), out.Mark("daily", n))
		}
	}
	c := newContent(feed.Artifact{Path: "x"})
	j := job(c, at(5))
	j.Marks = map[string]int64{"daily": 5, "main": 62}
	v, err := Run(t.Context(), j)
	if diff := cmp.Diff(v.Marks, map[string]int64{"daily": 5, "main": 62}); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	j.Setup.Feed = at(4)
	if _, err := Run(t.Context(), j); !errors.Is(err, feed.ErrRollback) || code(err) != "H-505" {
		t.Errorf("step back: %v", err)
	}
	j.Policy.AllowRollback = true
	if v, err := Run(t.Context(), j); err != nil || v.Marks["daily"] != 4 {
		t.Errorf("allowed step back: %v %v", v.Marks, err)
	}
	j.Setup.Feed = vendor(func(c *content, out feed.Proof) error { return errors.Join(out.Mark("daily", 6), out.Mark("daily", 7)) })
	if _, err := Run(t.Context(), j); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("two marks: %v", err)
	}
}

func TestTooManyWithheld(t *testing.T) {
	c := newContent()
	for i := range MaxWithheld + 1 {
		c.add(feed.Artifact{Path: fmt.Sprintf("p%05d", i), Group: "g"}, nil)
	}
	if _, err := Run(t.Context(), job(c, func(*content, feed.Proof) error { return nil })); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("%v", err)
	}
	// All of it withheld, however few: refused whole, by the first reason.
	delete(c.artifacts, "p00000")
	if _, err := Run(t.Context(), job(c, func(*content, feed.Proof) error { return nil })); !errors.Is(err, feed.ErrHeld) || code(err) != "H-601" {
		t.Errorf("nothing of it holds: %v", err)
	}
	c.add(feed.Artifact{Path: "good"}, nil)
	one := func(c *content, out feed.Proof) error { return say(out, c, "good", feed.Signed, "") }
	if v, err := Run(t.Context(), job(c, one)); err != nil || len(v.Withheld) != MaxWithheld {
		t.Errorf("%d, %v", len(v.Withheld), err)
	}
}

func TestWrongFeedAndCancel(t *testing.T) {
	c := newContent(feed.Artifact{Path: "x"})
	ok := func(c *content, out feed.Proof) error { return say(out, c, "x", feed.Signed, "") }
	j := job(c, ok)
	j.Setup.Name = "other"
	if _, err := Run(t.Context(), j); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("other feed: %v", err)
	}
	j = job(c, ok)
	j.Setup.Kind.Name = "other"
	if _, err := Run(t.Context(), j); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("other kind: %v", err)
	}
	if _, err := Run(t.Context(), job(c, func(*content, feed.Proof) error { panic("boom") })); !errors.Is(err, feed.ErrUntrusted) || code(err) != "H-502" {
		t.Errorf("panic: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, job(c, ok)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOnceRemembers(t *testing.T) {
	dir := state.Dir(t.TempDir())
	db := state.At(dir, "test")
	if err := db.Create("inside", 1); err != nil {
		t.Fatal(err)
	}
	c := newContent(feed.Artifact{Path: "x", Group: "x"}, feed.Artifact{Path: "y", Group: "y"})
	ran := 0
	v := vendor(func(c *content, out feed.Proof) error {
		x, y := c.artifacts["x"], c.artifacts["y"]
		return errors.Join(
			out.Once(x, "costly", func(r io.ReaderAt, n int64) (feed.Evidence, error) {
				ran++
				b, err := io.ReadAll(io.NewSectionReader(r, 0, n))
				if string(b) != "bytes of x" {
					t.Errorf("read %q", b)
				}
				return feed.Evidence{Strength: feed.Signed, Signer: "Vendor"}, err
			}),
			out.Once(y, "costly", func(io.ReaderAt, int64) (feed.Evidence, error) {
				ran++
				return feed.Evidence{}, fmt.Errorf("bad: %w", feed.ErrUntrusted)
			}))
	})
	run := func(epoch string) {
		t.Helper()
		j := job(c, v)
		j.Verdicts, j.Trust.Epoch = NewMemory(db), epoch
		got, err := Run(t.Context(), j)
		if err != nil || len(got.Withheld) != 1 || got.Withheld["y"] == "" || got.Weakest != feed.Signed {
			t.Fatalf("%+v %v", got, err)
		}
	}
	for _, tt := range []struct {
		epoch string
		want  int
	}{{"e1", 2}, {"e1", 3}, {"e2", 5}, {"e1", 6}} { // a refusal is never remembered
		if run(tt.epoch); ran != tt.want {
			t.Errorf("epoch %s: %d checks so far, want %d", tt.epoch, ran, tt.want)
		}
	}
	db.Update(func(tx state.Tx) error {
		if n, err := ForgetVerdicts(tx, []string{"e1"}, func(feed.Digest) bool { return true }); n != 1 || err != nil {
			t.Errorf("forgot %d, %v", n, err)
		}
		return nil
	})
	if run("e1"); ran != 7 {
		t.Errorf("%d checks, want 7", ran)
	}
	c.MapFS["x"] = &fstest.MapFile{Data: []byte("short")}
	j := job(c, v)
	if _, err := Run(t.Context(), j); !errors.Is(err, feed.ErrDamaged) {
		t.Errorf("damaged store: %v", err)
	}
	delete(c.MapFS, "x")
	if _, err := Run(t.Context(), j); !errors.Is(err, feed.ErrDamaged) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing blob: %v", err)
	}
}

func exception(n uint64, until time.Time) feed.Order {
	return feed.Order{Schema: 1, Number: n, Kind: feed.OrderException, Feed: "f", Strength: feed.Listed,
		Reason: "r", Operator: "o", Approver: "a", Issued: testNow, Until: until}
}

func TestBuildPolicy(t *testing.T) {
	kind := map[feed.Class]feed.Strength{feed.Metadata: feed.Attested, feed.Security: feed.Signed}
	p, err := BuildPolicy(kind, map[feed.Class]feed.Strength{feed.Metadata: feed.Listed}, nil, "f", 7, testNow)
	if err != nil || p.Floors[feed.Metadata] != feed.Listed || p.Floors[feed.Security] != feed.Signed || kind[feed.Metadata] != feed.Attested {
		t.Errorf("%+v %v", p, err)
	}
	for _, c := range []feed.Class{feed.Security, feed.Feature} {
		if _, err := BuildPolicy(kind, map[feed.Class]feed.Strength{c: feed.Listed}, nil, "f", 7, testNow); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s lowered: %v", c, err)
		}
	}
	back := feed.Order{Schema: 1, Number: 3, Kind: feed.OrderRollback, Feed: "f", Serial: 7, Reason: "r", Operator: "o", Issued: testNow}
	bad := exception(9, testNow.AddDate(2, 0, 0))
	orders := []feed.Order{exception(1, testNow.Add(time.Hour)), exception(2, testNow.Add(-time.Hour)), back, bad}
	p, err = BuildPolicy(kind, nil, orders, "f", 7, testNow)
	if err != nil || len(p.Exceptions) != 1 || p.Exceptions[0].Number != 1 || !p.AllowRollback {
		t.Errorf("%+v %v", p, err)
	}
	if p, _ = BuildPolicy(kind, nil, orders, "f", 8, testNow); p.AllowRollback {
		t.Error("rollback of another snapshot allowed")
	}
	if p, _ = BuildPolicy(kind, nil, orders, "g", 7, testNow); p.AllowRollback || len(p.Exceptions) != 0 {
		t.Error("orders of another feed used")
	}
}

func TestBuildTrust(t *testing.T) {
	pinned := []feed.Anchor{{Name: "b", Use: "u", Data: []byte("B")}, {Name: "a", Use: "u", Data: []byte("A")}}
	order := func(k feed.OrderKind) feed.Order {
		return feed.Order{Schema: 1, Number: 1, Kind: k, Reason: "why", Operator: "o", Approver: "a", Issued: testNow}
	}
	add := order(feed.OrderTrust)
	add.Feed, add.Anchor = "f", &feed.NewAnchor{Name: "new", Use: "u", Data: []byte("N")}
	drop := order(feed.OrderDistrust)
	drop.Distrust = &feed.Distrust{KeyID: "abcd"}
	plain := BuildTrust(pinned, nil, "f", testNow)
	with := BuildTrust(pinned, []feed.Order{add, drop}, "f", testNow)
	if len(with.Anchors) != 3 || len(plain.Anchors) != 2 || with.Epoch == plain.Epoch {
		t.Errorf("%+v", with)
	}
	if d, ok := with.Distrusted("ABCD", testNow); !ok || d.Reason != "why" {
		t.Errorf("distrust lost: %+v", with.Distrust)
	}
	if other := BuildTrust(pinned, []feed.Order{add}, "g", testNow); other.Epoch != plain.Epoch {
		t.Error("another feed's key changes the epoch")
	}
	slices.Reverse(pinned)
	if again := BuildTrust(pinned, nil, "f", testNow.Add(time.Hour)); again.Epoch != plain.Epoch {
		t.Error("the epoch depends on order or time")
	}
}

// Whatever evidence arrives in whatever order, an artifact is never judged
// stronger than the best complete chain: an oracle by exhaustive search.
func TestChainsNeverReachTooFar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "artifacts")
		var as []feed.Artifact
		for i := range n {
			as = append(as, feed.Artifact{Path: string(rune('a' + i)), Group: string(rune('a' + i))})
		}
		c := newContent(as...)
		best := make([]feed.Strength, n)
		said := make([]bool, n)
		v := vendor(func(c *content, out feed.Proof) error {
			for range rapid.IntRange(0, 12).Draw(t, "lines") {
				i := rapid.IntRange(0, n-1).Draw(t, "subject")
				s := feed.Strength(rapid.IntRange(0, 3).Draw(t, "strength"))
				via := rapid.IntRange(-1, n-1).Draw(t, "via")
				reach := s
				if via >= 0 {
					if !said[via] {
						continue
					}
					reach = min(s, best[via])
					if err := say(out, c, as[i].Path, s, c.digest(as[via].Path)); err != nil {
						return err
					}
				} else if err := say(out, c, as[i].Path, s, ""); err != nil {
					return err
				}
				best[i], said[i] = max(best[i], reach), true
			}
			return nil
		})
		got, err := Run(context.Background(), job(c, v))
		if slices.Max(best) < feed.Signed {
			if !errors.Is(err, feed.ErrHeld) {
				t.Fatalf("no chain reaches far enough: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range as {
			if _, held := got.Withheld[a.Path]; held != (best[i] < feed.Signed) {
				t.Fatalf("%s: best chain %v, withheld %v", a.Path, best[i], held)
			}
		}
	})
}

func FuzzReadEvidence(f *testing.F) {
	var doc bytes.Buffer
	w, _ := newEvidenceWriter(&doc, EvidenceHeader{Schema: 1, Feed: "f"})
	w.line(feed.Evidence{Path: "x", Strength: feed.Signed})
	w.close()
	f.Add(doc.Bytes())
	f.Add([]byte(strings.Repeat("{", 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, lines, err := ReadEvidence(bytes.NewReader(b))
		if err != nil {
			return
		}
		for range lines {
		}
	})
}
