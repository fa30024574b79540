package main

import (
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// dropped makes a bundle as plain files and returns where, and their names.
func dropped(t *testing.T, w *world, args ...string) (dir string, names []string) {
	t.Helper()
	dir = w.path("gate")
	w.outside("fetch")
	w.outside(append([]string{"pack", "--drop", dir, "--clock-checked", "test"}, args...)...)
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ents {
		if e.IsDir() || !regexp.MustCompile(`^[a-z0-9]{8}\.[a-z0-9]{1,8}$`).MatchString(e.Name()) {
			t.Errorf("%s is no neutral name", e.Name())
		}
		names = append(names, e.Name())
	}
	if _, err := os.Stat(w.path(outside, "outbox", "drop")); err == nil {
		t.Error("the volume was left behind")
	}
	return dir, names
}

func arrive(t *testing.T, from, to string, cut int) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil && cut >= 0 {
		b = b[:min(cut, len(b))]
	}
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func dropFiles() map[string]string {
	return map[string]string{"large.bin": noise(3<<20 + 5), "other.bin": noise(2 << 20), "small": "small", "tiny": "t"}
}

// The approver's sheets name every file with its size and digest.
func TestDropSheets(t *testing.T) {
	w := treeWorld(t, dropFiles())
	dir, names := dropped(t, w, "--piece-size", "1MiB", "--drop-ext", "bin")
	raw, err := os.ReadFile(w.path(outside, "outbox/drop-00001.csv"))
	if err != nil || !strings.HasPrefix(string(raw), "\ufeff") {
		t.Fatalf("%.20q %v", raw, err)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(raw), "\ufeff"))).ReadAll()
	if err != nil || len(rows) != len(names)+1 {
		t.Fatalf("%d rows for %d files: %v", len(rows), len(names), err)
	}
	page, err := os.ReadFile(w.path(outside, "outbox/drop-00001.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows[1:] {
		b, err := os.ReadFile(filepath.Join(dir, r[0]))
		sum := sha256.Sum256(b)
		if err != nil || hex.EncodeToString(sum[:]) != r[2] || !strings.HasSuffix(r[0], ".bin") || len(b) > 1<<20 && !strings.HasPrefix(r[0], "a") {
			t.Errorf("%v: %v", r, err)
		}
		if !strings.Contains(string(page), r[0]) || !strings.Contains(string(page), r[2]) {
			t.Errorf("%s is not on the page", r[0])
		}
		if len(b) > 2<<20 {
			t.Errorf("%s has %d bytes", r[0], len(b))
		}
	}
	for _, want := range []string{"tools", "ウイルス検査（外側）: 未実施"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%s is not on the page", want)
		}
	}
	for _, args := range [][]string{{"--drop-ext", "../x"}, {"--repeat", "27"}, {"--repeat", "0"}, {"--piece-size", "2GiB"}, {"--to", w.path("x")}, {"--iso"}, {"--volume-size", "dvd"}, {"--site", "1", "--all-sites"}} {
		if _, _, code := w.run("", append([]string{"--data", w.path(outside), "pack", "--drop", dir, "--clock-checked", "test"}, args...)...); code != exitConfig {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}

// Files arrive in any order, twice, cut short and completed later, under names
// that a gateway made: nothing is imported before all are there, what is
// missing is named, and then it is imported; again is no harm.
func TestDropArrivesInAnyState(t *testing.T) {
	w := treeWorld(t, dropFiles())
	dir, names := dropped(t, w, "--piece-size", "1MiB")
	rnd := rand.New(rand.NewPCG(3, 1))
	for round := range 4 {
		to := t.TempDir()
		rename := func(name string) string {
			switch rnd.IntN(4) {
			case 0:
				return filepath.Join(to, strings.TrimSuffix(name, ".dat")+" (1).dat")
			case 1:
				return filepath.Join(to, name+"_approved.txt")
			case 2:
				return filepath.Join(to, strings.ToUpper(name))
			}
			return filepath.Join(to, name)
		}
		if err := os.WriteFile(filepath.Join(to, "thumbs.db"), []byte("another's"), 0o644); err != nil {
			t.Fatal(err)
		}
		order := rnd.Perm(len(names))
		for i, k := range order {
			name := names[k]
			at := rename(name)
			last := i == len(order)-1
			if rnd.IntN(3) == 0 || last { // half of it first
				st, err := os.Stat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				arrive(t, filepath.Join(dir, name), at, int(st.Size()/2))
				if last {
					w.fails(exitHeld, "H-623", "--data", w.path(inside), "import", to)
				}
			}
			arrive(t, filepath.Join(dir, name), at, -1)
			if rnd.IntN(4) == 0 { // and once more, under another name
				arrive(t, filepath.Join(dir, name), filepath.Join(to, "copy of "+name), -1)
			}
			if i == 2 && !strings.HasSuffix(strings.ToLower(name), "000.dat") {
				_, errs, code := w.run("", "--data", w.path(inside), "import", to)
				if code == 0 {
					t.Fatalf("round %d: imported in part\n%s", round, errs)
				}
			}
		}
		if round == 0 {
			if w.status(inside).Feeds[0].Serial != 0 {
				t.Error("something was accepted before all was there")
			}
		}
		w.inside("import", to)
		w.inside("import", to)
	}
	if w.serial(inside, "tools") != w.serial(outside, "tools") {
		t.Error("the drop did not bring the state")
	}
	w.inside("publish", "--now")
}

// Of several repetitions any good copy will do; one that is damaged everywhere is named.
func TestDropRepeated(t *testing.T) {
	w := treeWorld(t, dropFiles())
	dir, names := dropped(t, w, "--repeat", "3")
	if len(names)%3 != 0 {
		t.Fatalf("%d files", len(names))
	}
	hurt := func(name string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && len(b) > 0 {
			b[len(b)/2] ^= 1
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names { // two of each three are lost or changed
		switch (i/(len(names)/3) + i) % 3 {
		case 0:
			hurt(name)
		case 1:
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.inside("import", dir)
	if w.serial(inside, "tools") != w.serial(outside, "tools") {
		t.Error("the good copies did not bring the state")
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if !strings.HasSuffix(e.Name(), "000.dat") {
			hurt(e.Name())
			break
		}
	}
	w.fails(exitHeld, "H-623", "--data", w.path(inside), "import", dir)
	for _, e := range left {
		if strings.HasSuffix(e.Name(), "000.dat") {
			hurt(e.Name())
		}
	}
	w.fails(exitHeld, "H-623", "--data", w.path(inside), "import", dir)
}

// lockedBuffer is written by the service while the test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The service takes a drop from the inbox by itself once it is whole.
func TestInboxTakesDrop(t *testing.T) {
	w := treeWorld(t, dropFiles())
	dir, names := dropped(t, w)
	inbox := w.path(inside, "inbox")
	if err := os.MkdirAll(inbox, 0o755); err != nil {
		t.Fatal(err)
	}
	said := new(lockedBuffer)
	a := testApp(t, w.path(inside), discard())
	a.out = said
	s, err := a.open("run", inside)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.watchInbox(ctx, 400*time.Millisecond) }()
	defer func() { cancel(); <-done; s.close() }()
	for i, name := range names {
		arrive(t, filepath.Join(dir, name), filepath.Join(inbox, name), -1)
		if i == len(names)/2 {
			for range 600 { // until it was looked at in this state
				if strings.Contains(said.String(), "到着を待っています") {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			if w.status(inside).Feeds[0].Serial != 0 {
				t.Fatal("imported in part")
			}
		}
	}
	for range 600 {
		if w.status(inside).Feeds[0].Serial != 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	<-done
	if w.serial(inside, "tools") != w.serial(outside, "tools") {
		t.Fatalf("the inbox did not take it:\n%s", said.String())
	}
	if !strings.Contains(said.String(), "到着を待っています") {
		t.Errorf("nothing was said about the wait:\n%s", said.String())
	}
}
