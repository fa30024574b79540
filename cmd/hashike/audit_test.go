package main

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/text/encoding/japanese"

	"github.com/hashike/hashike/internal/state"
)

// The log holds, is exported in all forms, verifies from the copy alone, and
// anchors on paper find what a chain by itself cannot.
func TestAuditLogByCommand(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	out := w.inside("audit", "verify")
	anchor := strings.TrimSpace(out[strings.LastIndex(out, " ")+1:])
	w.inside("audit", "verify", "--anchors", anchor)
	to := t.TempDir()
	year := w.now().AddDate(0, -3, 0).Year() // the fiscal year of today
	for _, y := range []string{"令和" + itoa(year-2018), itoa(year)} {
		w.inside("audit", "export", "--year", y, "--to", to)
	}
	base := filepath.Join(to, "audit-inside-"+itoa(year))
	w.ok("", "audit", "verify", base+".jsonl")
	// The whole folder, as a shell names it: tables are no copies, nor tampered with.
	all, err := filepath.Glob(filepath.Join(to, "*"))
	if err != nil || len(all) != 4 {
		t.Fatalf("%v %v", all, err)
	}
	w.ok("", append([]string{"audit", "verify"}, all...)...)
	w.fails(exitConfig, "H-211", "audit", "verify", base+".csv")
	w.fails(exitConfig, "H-208", "audit", "verify", base+".none")
	w.fails(exitConfig, "H-211", "--data", w.path(inside), "audit", "export", "--to", to)
	w.fails(exitConfig, "H-211", "--data", w.path(inside), "audit", "export", "--year", "平成31", "--to", to)
	w.inside("audit", "export", "--year", itoa(year), "--to", filepath.Join(to, "new"))
	if err := os.RemoveAll(filepath.Join(to, "new")); err != nil {
		t.Fatal(err)
	}
	w.ok("", "audit", "verify", base+".jsonl", "--anchors", anchor)
	b, err := os.ReadFile(base + ".csv")
	if err != nil || !bytes.HasPrefix(b, []byte("\ufeff番号,")) {
		t.Errorf("%.40q %v", b, err)
	}
	rows, err := csv.NewReader(bytes.NewReader(b[3:])).ReadAll()
	if err != nil || len(rows) < 5 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	sj, err := os.ReadFile(base + "-sjis.csv")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := japanese.ShiftJIS.NewDecoder().Bytes(sj); err != nil || !strings.HasPrefix(string(text), "番号,") {
		t.Errorf("%.40q %v", text, err)
	}
	copyOf, err := os.ReadFile(base + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{5, len(copyOf) / 2, len(copyOf) - 5} { // any byte of any record
		bad := bytes.Clone(copyOf)
		bad[at] ^= 4
		p := filepath.Join(to, "bad.jsonl")
		if err := os.WriteFile(p, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		w.fails(exitDamaged, "H-703", "audit", "verify", p)
	}
	// A tail cut off leaves a chain that holds: only the anchor tells.
	cutTail(t, w.path(inside, "state.db"))
	w.inside("audit", "verify")
	w.fails(exitDamaged, "H-703", "--data", w.path(inside), "audit", "verify", "--anchors", anchor)
	w.fails(exitConfig, "H-211", "--data", w.path(inside), "audit", "verify", "--anchors", "5-1234-5678-901234")
}

func itoa(n int) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

func cutTail(t *testing.T, path string) {
	t.Helper()
	b, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	err = b.Update(func(tx *bolt.Tx) error {
		log := tx.Bucket([]byte("audit"))
		k, _ := log.Cursor().Last()
		for range 4 { // export wrote records of its own
			if err := log.Delete(k); err != nil {
				return err
			}
			k, _ = log.Cursor().Last()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFiscalYears(t *testing.T) {
	for s, want := range map[string]int{"令和8": 2026, "令和８年度": 2026, "R8": 2026, "2026": 2026, "令和元年": 2019} {
		if got, err := fiscalYear(s); err != nil || got != want {
			t.Errorf("%s: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "平成30", "26", "x"} {
		if got, err := fiscalYear(s); err == nil {
			t.Errorf("%s: %d", s, got)
		}
	}
	if n, ok := state.AnchorNumber("12-0000-0000-000097"); ok {
		t.Errorf("anchor %d passed", n)
	}
}
