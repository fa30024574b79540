package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/packager"
)

// goldenWindows is a site's set-up file and two bundles of format 1 with Windows
// updates, made once and never again: packages of a town's own, because nothing
// of Microsoft's is ours to keep. HASHIKE_WRITE_GOLDEN=1 makes it if it is not
// there. Every later program must import both and offer what is in them.
const goldenWindows = "../../testdata/bundles/windows-1.tar.zst"

type windowsGolden struct {
	Fingerprint string
	Clock       time.Time
	Needed      []string // by a terminal, after the second bundle
	Receipt     string
	Files       map[string]string // path → digest of the second snapshot
}

const goldenBlock = "[feed.windows]\nkind = \"wsus\"\nmount = \"/\"\ndirs = { publish = %q, publisher = %q }\n"

func TestGoldenWindows(t *testing.T) {
	if os.Getenv("HASHIKE_WRITE_GOLDEN") == "1" {
		writeWindowsGolden(t)
	}
	dir := t.TempDir()
	unpackGolden(t, dir)
	var g windowsGolden
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil || json.Unmarshal(raw, &g) != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), now: func() time.Time { return g.Clock }}
	w.ok(g.Fingerprint+"\n", "--data", w.path(inside), "init", "--side", inside, "--name", "試験町", "--pair", filepath.Join(dir, "setup"))
	w.configure(inside, fmt.Sprintf(goldenBlock, filepath.ToSlash(w.path("none")), filepath.ToSlash(w.path("none"))))
	setLine(t, w.path(inside, "hashike.toml"), `addr = "127.0.0.1:8081"`, `addr = "127.0.0.1:0"`)
	setLine(t, w.path(inside, "hashike.toml"), `addr = ":8080"`, `addr = "127.0.0.1:0"`)
	w.inside("import", filepath.Join(dir, "first"))
	w.inside("import", filepath.Join(dir, "second"))
	w.inside("publish", "--now")
	w.serve()
	if got := w.goldenNeeds(); !slices.Equal(got, g.Needed) {
		t.Errorf("a terminal needs %v, it was %v", got, g.Needed)
	}
	if got := w.receiptCode(); got != g.Receipt {
		t.Errorf("receipt %s, it was %s", got, g.Receipt)
	}
	for p, d := range g.Files {
		if card := w.inside("origin", "windows:"+p); !strings.Contains(card, d) {
			t.Errorf("%s is not %s:\n%s", p, d, card)
		}
	}
	if len(g.Files) < 3 || len(g.Needed) == 0 {
		t.Errorf("%d files, %d updates", len(g.Files), len(g.Needed))
	}
}

func (w *world) goldenNeeds() (ids []string) {
	m := windows81()
	m.Files = map[string]string{`38|Mozilla Thunderbird\thunderbird.exe`: "128.0.0.0"}
	for _, u := range w.terminal(m, nil).Needed() {
		ids = append(ids, u.UpdateID)
	}
	slices.Sort(ids)
	return ids
}

func (w *world) receiptCode() string {
	var r struct{ Code string }
	if err := json.Unmarshal([]byte(w.inside("receipt", "show", "--json")), &r); err != nil {
		w.t.Fatal(err)
	}
	return r.Code
}

func writeWindowsGolden(t *testing.T) {
	if _, err := os.Stat(goldenWindows); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s: a golden archive is never made again (%v)", goldenWindows, err)
	}
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	machi := feedtest.NewPublisher(t, "x509-publisher", "Machi Yakuba", now)
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(machi.Signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "publisher", "publisher.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	write(t, filepath.Join(dir, "publisher", "publisher.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: machi.Signer.Chain[0].Raw}))
	offer := func(n int, version string) {
		write(t, filepath.Join(dir, "publish", "thunderbird", "setup.exe"), bytes.Repeat(fmt.Appendf(nil, "MZ setup %s ", version), 3000))
		write(t, filepath.Join(dir, "publish", "thunderbird", "package.toml"), fmt.Appendf(nil, `id = "3b1f6c2a-7d54-4e0b-9a61-0d5e8c7f2b19"
revision = %d
created = 2026-11-20T00:00:00Z
file = "setup.exe"
arguments = "/S"
title = { ja = "Thunderbird %s", en = "Thunderbird %s" }
installed = { csidl = 38, path = 'Mozilla Thunderbird\thunderbird.exe', version = "%s.0.0" }
needs = { csidl = 38, path = 'Mozilla Thunderbird\thunderbird.exe' }
`, n, version, version, version))
	}
	offer(1, "140.5")
	w := newWorld(t, fmt.Sprintf(goldenBlock, filepath.ToSlash(filepath.Join(dir, "publish")), filepath.ToSlash(filepath.Join(dir, "publisher"))))
	g := windowsGolden{Clock: now.Add(48 * time.Hour), Files: map[string]string{}}
	sheet := w.outside("setup-medium")
	g.Fingerprint = fingerprintOn(sheet)
	w.now = func() time.Time { return now }
	w.trusts("windows", "x509-publisher", machi.Anchor)
	out := filepath.Join(dir, "golden")
	w.outside("fetch")
	w.outside("pack", "--to", filepath.Join(out, "first"), "--clock-checked", "golden")
	w.inside("import", filepath.Join(out, "first"))
	w.outside("receipt", "enter", w.receiptCode())
	w.now = func() time.Time { return now.Add(24 * time.Hour) }
	offer(2, "140.6")
	w.outside("fetch")
	w.outside("pack", "--to", filepath.Join(out, "second"), "--clock-checked", "golden")
	w.now = func() time.Time { return g.Clock }
	w.inside("import", filepath.Join(out, "second"))
	w.inside("publish", "--now")
	w.serve()
	g.Needed, g.Receipt = w.goldenNeeds(), w.receiptCode()
	var said bytes.Buffer
	s, err := testApp(t, w.path(inside), &said).open("status", inside)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	c, err := s.published("windows")
	if err != nil {
		t.Fatal(err)
	}
	for a, err := range c.Artifacts() {
		if err != nil {
			t.Fatal(err)
		}
		g.Files[a.Path] = string(a.Digest)
	}
	setup, err := os.ReadFile(w.path(outside, "outbox", "setup-1", packager.SetupName)) // the program beside it is not kept
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(out, "setup", packager.SetupName), setup)
	text, err := json.MarshalIndent(g, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(out, "golden.json"), append(text, '\n'))
	var packed bytes.Buffer
	tw := tar.NewWriter(&packed)
	z, zerr := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err := errors.Join(tw.AddFS(os.DirFS(out)), tw.Close(), zerr); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenWindows, z.EncodeAll(packed.Bytes(), nil), 0o644); err != nil {
		t.Fatal(err)
	}
}

func unpackGolden(t *testing.T, to string) {
	t.Helper()
	f, err := os.Open(goldenWindows)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.FileInfo().Mode().IsRegular() {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(to, filepath.FromSlash(h.Name)), b)
		}
	}
}
