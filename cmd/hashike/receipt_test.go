package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// code asks the inside for its receipt code.
func (w *world) code() string {
	w.t.Helper()
	var v struct {
		Code   string
		Bundle uint64
	}
	if err := json.Unmarshal([]byte(w.inside("receipt", "show", "--json")), &v); err != nil || len(v.Code) != 24 {
		w.t.Fatalf("%+v %v", v, err)
	}
	return v.Code
}

// The code moves the base, forward only; the next bundle is an increment of it.
func TestReceiptMovesTheBase(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.fails(exitHeld, "H-618", "--data", w.path(inside), "receipt", "show")
	w.fails(exitConfig, "H-201", "--data", w.path(outside), "receipt", "show")
	w.carry()
	first := w.code()
	spoolTo(t, files, spool, 2, 4)
	w.outside("fetch")
	w.pack() // nobody said that bundle 1 arrived: writing moved nothing
	if out := w.inside("import", w.path("media")); strings.Contains(out, "不足") {
		t.Errorf("a bundle without a receipt was no complete one:\n%s", out)
	}
	second := w.code()
	// Full-width digits, spaces and dashes are what people type.
	typed := strings.NewReplacer("0", "０", "7", "７", "3", "３").Replace(first[:8]) + " ー" + first[8:16] + "－" + first[16:]
	if out := w.outside("receipt", "enter", typed); !strings.Contains(out, "第1便") {
		t.Errorf("entering said:\n%s", out)
	}
	w.outside("receipt", "enter", second)
	if out := w.outside("receipt", "enter", first); !strings.Contains(out, "すでに") {
		t.Errorf("an old code moved the base back:\n%s", out)
	}
	spoolTo(t, files, spool, 2, 5)
	w.outside("fetch")
	out := w.ok("", "--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test")
	if strings.Contains(out, "省いたもの 0件") {
		t.Errorf("after a receipt the bundle is not an increment:\n%s", out)
	}
	w.outside("gc") // must keep what the next increment is computed from
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test")
	w.inside("gc") // must keep what a shown code promised
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	if w.serial(inside, "clamav-test") != w.serial(outside, "clamav-test") {
		t.Error("the increment did not arrive")
	}
}

// Every single-digit error and every swap of neighbours is caught as a slip;
// well-formed codes that no inside made are refused, and ten lock entry.
func TestReceiptCodesCannotBeGuessedOrMistyped(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	code := w.code()
	slip := func(c string) {
		t.Helper()
		if _, errs, exit := w.run("", "--data", w.path(outside), "receipt", "enter", c); exit != exitConfig || !strings.Contains(errs, "H-602") {
			t.Fatalf("%s (of %s): exit %d\n%s", c, code, exit, errs)
		}
	}
	for i := range code {
		for d := byte('0'); d <= '9'; d += 3 { // a third of them here; packager's test has all
			if d != code[i] {
				slip(code[:i] + string(d) + code[i+1:])
			}
		}
		if i > 0 && code[i] != code[i-1] {
			slip(code[:i-1] + string([]byte{code[i], code[i-1]}) + code[i+1:])
		}
	}
	slip(code[:23])
	slip(code + "0")
	slip("abc")
	if r := w.lastRecord(outside, "receipt enter"); !strings.Contains(r.Result, "mistyped") {
		t.Errorf("a slip is not in the log: %+v", r)
	}
	forge := func(i int) string { // right check digits, wrong MAC
		body := fmt.Sprintf("00001%d%016d", 1, i)
		for c := range 100 {
			if s := fmt.Sprintf("%s%02d", body, c); mod97(s) == 1 {
				return s
			}
		}
		return ""
	}
	for i := range 10 {
		w.fails(exitUntrusted, "H-614", "--data", w.path(outside), "receipt", "enter", forge(i))
	}
	w.fails(exitHeld, "H-615", "--data", w.path(outside), "receipt", "enter", code)
	if r := w.lastRecord(outside, "receipt enter"); !strings.Contains(r.Result, "locked") {
		t.Errorf("a try during the lock is not in the log: %+v", r)
	}
	later := time.Now().Add(61 * time.Minute)
	la := testApp(t, w.path(outside), discard())
	la.clock = func() time.Time { return later }
	if err := la.with("receipt enter", outside, func(s *station) error {
		return s.enter(code)
	}); err != nil {
		t.Errorf("after the hour: %v", err)
	}
}

func mod97(s string) int {
	n := 0
	for _, c := range s {
		n = (n*10 + int(c-'0')) % 97
	}
	return n
}

// A base moves by an operator's explicit word too, and that is recorded.
func TestBaseSet(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.fails(exitConfig, "H-205", "--data", w.path(outside), "base", "set", "--bundle", "1")
	w.carry()
	w.outside("base", "set", "--bundle", "1")
	out := w.ok("", "--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test")
	if !strings.Contains(out, "（0件 0 B") {
		t.Errorf("nothing is new, and still something is carried:\n%s", out)
	}
}
