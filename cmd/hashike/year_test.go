package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/state"
)

// Every byte of every record of an exported copy: changed, it is named.
func TestEveryByteOfAnExportedCopy(t *testing.T) {
	w := newWorld(t, "")
	w.inside("person", "add", "山田 太郎", "--role", "operator")
	w.inside("gc")
	to := t.TempDir()
	year := itoa(w.now().AddDate(0, -3, 0).Year())
	w.inside("audit", "export", "--year", year, "--to", to)
	name := filepath.Join(to, "audit-inside-"+year+".jsonl")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	a := testApp(t, "", discard())
	lines := bytes.SplitAfter(whole, []byte("\n"))
	at := 0
	for i, line := range lines[:len(lines)-1] {
		for j := range line {
			bad := bytes.Clone(whole)
			bad[at+j] ^= 1 << (j % 8)
			p := filepath.Join(to, "bad.jsonl")
			if err := os.WriteFile(p, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := a.verifyCopies([]string{p}, nil); err == nil || faults(err)[0].Code != "H-703" || faults(err)[0].Args["record"] != itoa(i+1) {
				t.Fatalf("record %d byte %d: %v", i+1, j, err)
			}
		}
		at += len(line)
	}
}

// After 31 March the year gets its file by itself; the auditor's copies verify
// alone and across years, and anchors still find what a chain cannot.
func TestYearsAreClosedByThemselves(t *testing.T) {
	w := newWorld(t, "")
	data, began := w.path(outside), time.Now()
	year := began.AddDate(0, -3, 0).Year()
	w.fails(exitConfig, "H-650", "--data", data, "audit", "close", "--year", itoa(year))
	w.now = func() time.Time { return began.AddDate(1, 0, 0) }
	out := w.typedOK("", "--data", data, "gc")
	if !strings.Contains(out, itoa(year)+"年度") {
		t.Errorf("gc did not close the year:\n%s", out)
	}
	if out := w.typedOK("", "--data", data, "audit", "close"); !strings.Contains(out, "締める年度はありません") {
		t.Errorf("closed twice: %s", out)
	}
	to := t.TempDir()
	w.typedOK("", "--data", data, "audit", "export", "--year", itoa(year), "--to", to)
	w.typedOK("", "--data", data, "audit", "export", "--year", "令和"+itoa(year+1-2018), "--to", to)
	one, two := filepath.Join(to, "audit-outside-"+itoa(year)+".jsonl"), filepath.Join(to, "audit-outside-"+itoa(year+1)+".jsonl")
	if b, err := os.ReadFile(one); err != nil || !bytes.Contains(b, []byte(`"hashike-audit-year"`)) {
		t.Errorf("the exported copy of a closed year is not the signed file: %v", err)
	}
	said := w.ok("", "audit", "verify", one, two)
	anchor := strings.TrimSpace(said[strings.LastIndex(said, " ")+1:])
	w.ok("", "audit", "verify", two, one, "--anchors", anchor)
	w.fails(exitDamaged, "H-703", "audit", "verify", one, "--anchors", anchor)
	w.ok("", "--data", data, "audit", "verify", "--anchors", anchor)
	if err := os.Remove(filepath.Join(data, "audit", filepath.Base(one))); err != nil {
		t.Fatal(err)
	}
	w.fails(exitDamaged, "H-703", "--data", data, "audit", "verify")
}

// Anchors on paper find what a chain that holds cannot: a rewritten log and a
// database restored from an old copy.
func TestAnchorsFindARewrittenLog(t *testing.T) {
	w := newWorld(t, "")
	data := w.path(inside)
	w.inside("gc")
	old, err := os.ReadFile(filepath.Join(data, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.inside("gc")
	w.inside("gc")
	anchor := ""
	all := w.records(inside)
	anchor = all[len(all)-1].Anchor()
	w.inside("audit", "verify", "--anchors", anchor)
	// Rewritten from the second record on, every hash made anew.
	var forged bytes.Buffer
	prev := ""
	for i, r := range all {
		if i == 1 {
			r.Result = "H-502"
		}
		r.Prev, r.Hash = prev, ""
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		r.Hash = hex.EncodeToString(sum[:])
		if b, err = json.Marshal(r); err != nil {
			t.Fatal(err)
		}
		forged.Write(append(b, '\n'))
		prev = r.Hash
	}
	p := filepath.Join(t.TempDir(), "forged.jsonl")
	if err := os.WriteFile(p, forged.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.ok("", "audit", "verify", p)
	w.fails(exitDamaged, "H-703", "audit", "verify", p, "--anchors", anchor)
	// Restored, and worked on until it has as many records again.
	if err := os.WriteFile(filepath.Join(data, "state.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	w.inside("audit", "verify")
	w.fails(exitDamaged, "H-703", "--data", data, "audit", "verify", "--anchors", anchor)
	for n, _ := state.AnchorNumber(anchor); uint64(len(w.records(inside))) <= n; {
		w.inside("gc")
	}
	w.inside("audit", "verify")
	w.fails(exitDamaged, "H-703", "--data", data, "audit", "verify", "--anchors", anchor)
}
