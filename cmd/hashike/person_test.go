package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/state"
)

// typed is run for somebody at a terminal, who answers questions with stdin.
func (w *world) typed(stdin string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	a := newApp(strings.NewReader(stdin), &out, &errs, "ja")
	a.typing = true
	if w.now != nil {
		a.clock = w.now
	}
	code = a.execute(context.Background(), args)
	return out.String(), errs.String(), code
}

func (w *world) typedOK(stdin string, args ...string) string {
	w.t.Helper()
	out, errs, code := w.typed(stdin, args...)
	if code != 0 {
		w.t.Fatalf("hashike %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// records returns the audit log of a side.
func (w *world) records(side string) []state.Record {
	w.t.Helper()
	var out []state.Record
	err := state.At(state.Dir(w.path(side)), "test").View(func(tx state.Tx) error {
		for r, err := range tx.AuditLog(1) {
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) lastRecord(side, what string) state.Record {
	w.t.Helper()
	all := w.records(side)
	for i := len(all) - 1; i >= 0; i-- {
		if strings.HasPrefix(all[i].What, what) {
			return all[i]
		}
	}
	w.t.Fatalf("no record of %q", what)
	return state.Record{}
}

// Who acts is the account and the person behind it, never a flag: alone,
// shared with PINs, and as a service.
func TestWhoActs(t *testing.T) {
	w := newWorld(t, "")
	data := w.path(inside)
	if _, errs, _ := w.run("", "--data", data, "gc"); !strings.Contains(errs, "hashike person add") {
		t.Errorf("an unregistered account is not told how to register:\n%s", errs)
	}
	if r := w.lastRecord(inside, "init"); r.Who != who() || r.Person != "" {
		t.Errorf("%+v", r)
	}
}

func TestPersonsShareAnAccount(t *testing.T) {
	w := newWorld(t, "")
	data := w.path(inside)
	w.inside("person", "add", "山田 太郎", "--role", "担当者,監査担当", "--department", "総務課")
	to := t.TempDir()
	w.inside("audit", "export", "--year", itoa(w.now().AddDate(0, -3, 0).Year()), "--to", to)
	if r := w.lastRecord(inside, "audit export"); r.Who != who() || r.Person != "山田 太郎" || r.Role != "auditor" {
		t.Errorf("alone: %+v", r)
	}
	// Nobody makes himself an approver; a second person on the same account shares it.
	w.fails(exitHeld, "H-651", "--data", data, "person", "add", "山田太郎", "--role", "operator,approver")
	w.typedOK("123456\n123456\n", "--data", data, "person", "pin", "山田太郎")
	w.inside("person", "add", "鈴木 花子", "--role", "approver")
	w.fails(exitHeld, "H-641", "--data", data, "person", "remove", "鈴木 花子")
	w.fails(exitHeld, "H-641", "--data", data, "audit", "export", "--year", "2026", "--to", to)
	w.ok("", "--data", data, "audit", "verify") // reading needs nobody
	w.ok("", "--data", data, "gc")              // a timer's job
	if r := w.lastRecord(inside, "gc"); r.Person != "" || r.Role != "service" {
		t.Errorf("a timer's job has a person: %+v", r)
	}
	if _, errs, code := w.typed("山田太郎\n654321\n", "--data", data, "person", "list"); code != 0 {
		t.Errorf("list: %s", errs)
	}
	// A wrong PIN, a name without a PIN and an empty PIN are refused and logged.
	for _, answer := range []string{"山田太郎\n000000\n", "鈴木花子\n\n", "だれか\n123456\n"} {
		if _, errs, code := w.typed(answer, "--data", data, "person", "pin", "鈴木 花子"); code != exitHeld || !strings.Contains(errs, "H-642") {
			t.Errorf("%q: exit %d\n%s", answer, code, errs)
		}
		if r := w.lastRecord(inside, "identify"); r.Result == "ok" || r.Person != "" {
			t.Errorf("%q: %+v", answer, r)
		}
	}
	w.typedOK("山田　太郎\n123456\nabcdef\nabcdef\n", "--data", data, "person", "pin", "鈴木 花子")
	if r := w.lastRecord(inside, "person pin"); r.Person != "山田 太郎" || r.Role != "operator" || r.Detail["name"] != "鈴木 花子" {
		t.Errorf("shared: %+v", r)
	}
	// Five wrong ones lock the PIN, also for the right one, until an hour is over.
	for range 5 {
		w.typed("山田太郎\n999999\n", "--data", data, "gc")
	}
	if _, errs, code := w.typed("山田太郎\n123456\n", "--data", data, "gc"); code != exitHeld || !strings.Contains(errs, "H-643") {
		t.Errorf("locked: exit %d\n%s", code, errs)
	}
	w.now = func() time.Time { return time.Now().Add(61 * time.Minute) }
	w.typedOK("山田太郎\n123456\n", "--data", data, "gc")
	w.typedOK("鈴木花子\nabcdef\n", "--data", data, "person", "remove", "山田太郎")
	if r := w.lastRecord(inside, "person remove"); r.Person != "鈴木 花子" {
		t.Errorf("%+v", r)
	}
	// Whoever no longer is registered is the bare account again, and may not change persons.
	w.inside("person", "list")
	out := w.typedOK("", "--data", data, "person", "list")
	if strings.Contains(out, "山田") || !strings.Contains(out, "鈴木") {
		t.Error(out)
	}
	w.ok("", "--data", data, "audit", "verify")
}

// A side whose registered persons all have other accounts is not lost.
func TestPersonsAreRecovered(t *testing.T) {
	w := newWorld(t, "")
	data := w.path(outside)
	w.outside("person", "add", "前任 次郎", "--role", "operator", "--account", "gone")
	w.fails(exitHeld, "H-651", "--data", data, "person", "add", "後任 三郎", "--role", "operator")
	w.outside("person", "add", "後任 三郎", "--role", "operator", "--recover", "パソコンの入替え")
	if r := w.lastRecord(outside, "person recover"); r.Person != "" || !strings.Contains(r.What, "入替え") {
		t.Errorf("%+v", r)
	}
	w.outside("person", "add", "課長 四郎", "--role", "approver", "--account", "boss")
	if r := w.lastRecord(outside, "person add"); r.Person != "後任 三郎" {
		t.Errorf("%+v", r)
	}
}
