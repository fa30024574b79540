package wsus

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/cab"
	"github.com/hashike/hashike/verifier"
)

const (
	thunderbird = "3b1f6c2a-7d54-4e0b-9a61-0d5e8c7f2b19"
	packageText = `id = "3B1F6C2A-7D54-4E0B-9A61-0D5E8C7F2B19"
revision = 1
created = 2026-11-20T00:00:00Z
file = "Thunderbird Setup.exe"
arguments = '/S "/INI=x"'
title = { ja = "Thunderbird 140.5 <更新>", en = "Thunderbird 140.5" }
description = { ja = "メールソフトの更新" }
[installed]
csidl = 38
path = 'Mozilla Thunderbird\thunderbird.exe'
version = "140.5.0.0"
[needs]
csidl = 38
path = 'Mozilla Thunderbird\thunderbird.exe'
`
)

// town publishes packages with a certificate of its own.
type town struct {
	t    testing.TB
	by   *feedtest.Publisher
	dirs map[string]fstest.MapFS
}

func newTown(t testing.TB) *town {
	by := feedtest.NewPublisher(t, usePublisher, "Machi Yakuba", taken)
	key, err := x509.MarshalPKCS8PrivateKey(by.Signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	w := &town{t, by, map[string]fstest.MapFS{publishDir: {}, publisherDir: {
		"publisher.key": &fstest.MapFile{Data: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
		"publisher.pem": &fstest.MapFile{Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: by.Signer.Chain[0].Raw})},
	}}}
	w.put("thunderbird", packageText, bytes.Repeat([]byte("MZ setup "), 9000))
	return w
}

func (w *town) put(name, text string, setup []byte) {
	w.dirs[publishDir][name+"/"+packageFile] = &fstest.MapFile{Data: []byte(text), ModTime: taken}
	w.dirs[publishDir][name+"/Thunderbird Setup.exe"] = &fstest.MapFile{Data: setup, ModTime: taken}
}

type townOutside struct {
	*outside
	dirs map[string]fstest.MapFS
}

func (o *townOutside) Dir(name string) (fs.FS, error) {
	if d, ok := o.dirs[name]; ok {
		return d, nil
	}
	return nil, feed.ErrConfig
}

func (w *town) fetch(f *updates, prev *snapshot) (*snapshot, error) {
	o := &townOutside{&outside{nil, windows(prev)}, w.dirs}
	var p feed.Content
	if prev != nil {
		p = prev
	}
	_, err := f.Fetch(w.t.Context(), o, p, o)
	return o.snapshot, err
}

// broken fetches while a directory that the config names is not there.
func (w *town) broken(f *updates, prev *snapshot, name string) error {
	o := &brokenOutside{&townOutside{&outside{nil, prev}, w.dirs}, name}
	_, err := f.Fetch(w.t.Context(), o, prev, o)
	return err
}

type brokenOutside struct {
	*townOutside
	broken string
}

func (o *brokenOutside) Dir(name string) (fs.FS, error) {
	if name == o.broken {
		return nil, fmt.Errorf("dirs.%s: %w: %w", name, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}, feed.ErrConfig)
	}
	return o.townOutside.Dir(name)
}

func (w *town) judge(f *updates, s *snapshot, anchors ...feed.Anchor) (verifier.Verdict, error) {
	return verifier.Run(w.t.Context(), verifier.Job{
		Setup: feed.Setup{Name: "windows", Kind: Kind(), Feed: f}, Content: s,
		Trust: feed.Trust{Anchors: append(verifier.MicrosoftAnchors(), anchors...), At: taken}, Policy: verifier.Policy{Floors: Kind().Floors},
	})
}

func (w *town) kind() *updates {
	f := newKind(w.t, nil)
	f.now = func() time.Time { return taken }
	return f
}

func payloadOf(t testing.TB, s *snapshot) (path string, body []byte) {
	t.Helper()
	for p, a := range s.Named {
		if strings.HasPrefix(p, "Content/") {
			return p, s.Blobs[a.Digest]
		}
	}
	t.Fatalf("no payload in %v", slices.Sorted(maps.Keys(s.Named)))
	return "", nil
}

// TestPublishing: a package becomes an update that a terminal with an older
// version of the program needs, no other; its cabinet holds the installer and
// is signed by the town, which both sides must have been told to trust.
func TestPublishing(t *testing.T) {
	w := newTown(t)
	f := w.kind()
	c, err := w.fetch(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	path, body := payloadOf(t, c)
	if v, err := w.judge(f, c, w.by.Anchor); err != nil || len(v.Withheld) > 0 {
		t.Fatalf("%v, %v", v.Withheld, err)
	}
	stranger := feedtest.NewPublisher(t, usePublisher, "Machi Yakuba", taken)
	asMicrosoft := w.by.Anchor
	asMicrosoft.Use = "x509-microsoft"
	for why, anchors := range map[string][]feed.Anchor{"no order": nil, "another certificate": {stranger.Anchor}, "for another use": {asMicrosoft}} {
		if v, err := w.judge(f, c, anchors...); err != nil || v.Withheld[path] == "" {
			t.Errorf("%s: %v, %v", why, v.Withheld, err)
		}
	}
	r, err := cab.NewReader(bytes.NewReader(body), int64(len(body)), cab.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	_, inner, err := r.Open("Thunderbird Setup.exe")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(inner); err != nil || !bytes.Equal(got, w.dirs[publishDir]["thunderbird/Thunderbird Setup.exe"].Data) {
		t.Errorf("the cabinet holds something else: %d bytes, %v", len(got), err)
	}
	w.oracle(body)
	s := newSite(t, f)
	s.publish(c, feed.View{}, "all")
	member := derivedGUID(mustGUID(thunderbird), "member").String()
	for why, want := range map[string][]string{"": nil, "140.4.9.0": {member, thunderbird}, "140.5.0.0": nil, "141.0": nil} {
		a := s.terminal("")
		if why != "" {
			a.Machine.Files = map[string]string{`38|Mozilla Thunderbird\thunderbird.exe`: why}
		}
		if got := needs(t, a); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("with version %q a terminal needs %v, want %v", why, got, want)
		}
	}
	list, err := f.Updates(s.views["all"])
	if err != nil || len(list) != 1 || list[0].Title.JA != "Thunderbird 140.5 <更新>" || list[0].Class.EN != "Published by Machi Yakuba" || !list[0].Complete {
		t.Errorf("%+v, %v", list, err)
	}
}

// oracle: osslsigncode, which shares no code with us, accepts the cabinet.
func (w *town) oracle(body []byte) {
	w.t.Helper()
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		missing(w.t, err.Error())
	}
	dir := w.t.TempDir()
	at, root := filepath.Join(dir, "x.cab"), filepath.Join(dir, "root.pem")
	if err := errors.Join(os.WriteFile(at, body, 0o600), os.WriteFile(root, w.by.Anchor.Data, 0o600)); err != nil {
		w.t.Fatal(err)
	}
	if out, err := exec.Command(tool, "verify", "-in", at, "-CAfile", root, "-ignore-crl").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Succeeded")) {
		w.t.Errorf("osslsigncode: %v\n%s", err, out)
	}
}

// A certificate that signs itself, as a small town makes it, is its own root.
func TestPublishingSelfSigned(t *testing.T) {
	w := newTown(t)
	c := *w.by.Signer.Chain[0]
	c.SerialNumber = big.NewInt(3)
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, w.by.Signer.Key.Public(), w.by.Signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.dirs[publisherDir]["publisher.pem"].Data = text
	f := w.kind()
	s, err := w.fetch(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := w.judge(f, s, feed.Anchor{Name: "machi.pem", Use: usePublisher, Data: text}); err != nil || len(v.Withheld) > 0 {
		t.Errorf("%v, %v", v.Withheld, err)
	}
	if v, err := w.judge(f, s, w.by.Anchor); err != nil || len(v.Withheld) != 1 {
		t.Errorf("under another root: %v, %v", v.Withheld, err)
	}
	set, err := f.Settings(s, mustURL(t, "http://mirror.example:8530/"))
	if err != nil || !slices.ContainsFunc(set, func(x feed.Setting) bool {
		return strings.Contains(x.Body, "TrustedPublisher") && strings.Contains(x.Body, "AcceptTrustedPublisherCerts")
	}) {
		t.Errorf("settings do not say how terminals come to trust it: %v", err)
	}
}

// TestPublishingAgain: what did not change is not signed anew; what did needs a
// higher revision; off is off.
func TestPublishingAgain(t *testing.T) {
	w := newTown(t)
	f := w.kind()
	a, err := w.fetch(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.fetch(f, a); !errors.Is(err, feed.ErrUnchanged) {
		t.Fatalf("nothing new: %v", err)
	}
	was, _ := payloadOf(t, a)
	w.put("thunderbird", packageText, []byte("MZ another setup"))
	if _, err := w.fetch(f, a); !errors.Is(err, feed.ErrConfig) || !strings.Contains(err.Error(), "raise revision") {
		t.Errorf("changed under the same revision: %v", err)
	}
	w.put("thunderbird", strings.Replace(packageText, "revision = 1", "revision = 2", 1), []byte("MZ another setup"))
	b, err := w.fetch(f, a)
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := payloadOf(t, b); now == was {
		t.Error("another installer, the same payload")
	}
	if v, err := w.judge(f, b, w.by.Anchor); err != nil || len(v.Withheld) > 0 {
		t.Errorf("%v, %v", v.Withheld, err)
	}
	// A second package beside it; the first one's documents and file stay as they are.
	w.put("other", strings.NewReplacer("3B1F6C2A", "4B1F6C2A", "revision = 1", "revision = 7").Replace(packageText), []byte("MZ other"))
	c, err := w.fetch(f, b)
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := payloadOf(t, b); c.Named[now].Digest != b.Named[now].Digest {
		t.Error("what did not change was signed anew")
	}
	if err := w.broken(f, c, publishDir); !errors.Is(err, fs.ErrNotExist) { // unplugged: nothing vanishes in silence
		t.Errorf("the folder is not there: %v", err)
	}
	delete(w.dirs, publishDir)
	if _, err := w.fetch(f, c); !errors.Is(err, feed.ErrConfig) { // nothing else is in this feed
		t.Errorf("off: %v", err)
	}
}

func TestPublishingRefuses(t *testing.T) {
	for why, change := range map[string]func(w *town){
		"no key":                func(w *town) { delete(w.dirs[publisherDir], "publisher.key") },
		"no directory":          func(w *town) { delete(w.dirs, publisherDir) },
		"key of another":        func(w *town) { w.dirs[publisherDir]["publisher.key"] = newTown(t).dirs[publisherDir]["publisher.key"] },
		"garbage":               func(w *town) { w.dirs[publisherDir]["publisher.key"].Data = []byte("x") },
		"two with one id":       func(w *town) { w.put("again", packageText, []byte("MZ")) },
		"49 packages":           func(w *town) { many(w) },
		"unknown key":           func(w *town) { w.put("thunderbird", "command = 'x'\n"+packageText, []byte("MZ")) },
		"no rule for installed": func(w *town) { w.put("thunderbird", strings.Split(packageText, "[installed]")[0], []byte("MZ")) },
		"a path that leaves": func(w *town) {
			w.put("thunderbird", strings.Replace(packageText, `"Thunderbird Setup.exe"`, `"../x.exe"`, 1), []byte("MZ"))
		},
		"a script": func(w *town) {
			w.put("thunderbird", strings.Replace(packageText, "Setup.exe", "Setup.cmd", 1), []byte("MZ"))
		},
		"control characters": func(w *town) {
			w.put("thunderbird", strings.Replace(packageText, `arguments = '/S "/INI=x"'`, "arguments = \"a\\nb\"", 1), []byte("MZ"))
		},
		"an absolute path": func(w *town) {
			w.put("thunderbird", strings.ReplaceAll(packageText, `'Mozilla Thunderbird\`, `'C:\`), []byte("MZ"))
		},
		"an .msi without product": func(w *town) {
			w.put("thunderbird", strings.Replace(packageText, "Setup.exe", "Setup.msi", 1), []byte("MZ"))
		},
	} {
		w := newTown(t)
		change(w)
		if _, err := w.fetch(w.kind(), nil); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s: %v", why, err)
		}
	}
	w := newTown(t)
	f := w.kind()
	f.now = func() time.Time { return taken.AddDate(6, 0, 0) }
	if _, err := w.fetch(f, nil); !errors.Is(err, feed.ErrConfig) || !strings.Contains(err.Error(), "ended on") {
		t.Errorf("certificate at its end: %v", err)
	}
}

func many(w *town) {
	for i := range maxPackages {
		w.put(fmt.Sprint("p", i), strings.Replace(packageText, "3B1F6C2A", fmt.Sprintf("%08d", i), 1), []byte("MZ"))
	}
}

// The three forms of package give documents that servers and terminals read.
func TestPublishedDocuments(t *testing.T) {
	const codes = "product_code = \"{90150000-0011-0000-0000-0000000FF1CE}\"\npatch_code = \"{90150000-0011-0000-0000-0000000FF1CF}\"\n"
	for ext, want := range map[string]string{"exe": "cmd:CommandLineInstallation", "msi": "msp:WindowsInstallerApp", "msp": "msp:WindowsInstaller"} {
		p, err := parsePackage([]byte(codes + "article = \"123456\"\nurl = \"https://www.thunderbird.net/?a=1&b=2\"\nsupersedes = [\"4B1F6C2A-7D54-4E0B-9A61-0D5E8C7F2B19\"]\narch = \"x64\"\n" + strings.Replace(packageText, "Setup.exe", "Setup."+ext, 1)))
		if err != nil {
			t.Fatal(err)
		}
		docs := p.documents(newOwner("町役場 <情報>"), feed.DigestOf(nil), file{Name: "x.cab", Size: 5, SHA256: feed.DigestOf(nil)})
		docs = append(docs, newOwner("町役場 <情報>").categories()...)
		for i, o := range docs {
			d, err := parseDocument(o.body)
			if err != nil || d.identity != o.identity {
				t.Fatalf("%s, document %d: %v", ext, i, err)
			}
			if i == 0 && (!bytes.Contains(d.piece(extended), []byte(`type="`+want+`"`)) || !bytes.Contains(d.piece(core), []byte(`<b.Processor Architecture="9" />`)) || len(d.Files) != 1) {
				t.Errorf("%s: %s %s", ext, d.piece(core), d.piece(extended))
			}
			if i == 1 && (d.KB != "123456" || len(d.Superseded) != 1 || !d.Explicit || len(d.Bundles) != 1 || len(d.Prereqs) != 2) {
				t.Errorf("%s: %+v", ext, d)
			}
		}
	}
}

func FuzzPackage(f *testing.F) {
	f.Add([]byte(packageText))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePackage(b)
		if err != nil {
			if !errors.Is(err, feed.ErrConfig) {
				t.Fatal(err)
			}
			return
		}
		for _, o := range p.documents(newOwner("x"), feed.DigestOf(nil), file{Name: "x.cab", SHA256: feed.DigestOf(nil)}) {
			if d, err := parseDocument(o.body); err != nil || d.identity != o.identity {
				t.Fatalf("%v\n%s", err, o.body)
			}
		}
	})
}
