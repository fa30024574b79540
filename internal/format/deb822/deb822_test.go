package deb822

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestParagraphs(t *testing.T) {
	r := NewReader(strings.NewReader("\n\n# note\nA: 1\nB:\n x\n\ty z \n\nA: 2\r\nLong: " + strings.Repeat("v", 200_000) + "\n"))
	p, err := r.Next()
	if err != nil || p.Get("a") != "1" || p.Get("B") != "\nx\ny z" || p.Has("C") {
		t.Fatalf("%+v %v", p, err)
	}
	p, err = r.Next()
	if err != nil || p.Get("A") != "2" || len(p.Get("long")) != 200_000 {
		t.Fatalf("%v", err)
	}
	if _, err = r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	for _, s := range []string{" continuation\n", "A: 1\na: 2\n", "no colon\n", "A B: 1\n", "A: \x00\n", "A: " + strings.Repeat("x", MaxLine+100_000) + "\n"} {
		if _, err := NewReader(strings.NewReader(s)).Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%.40q: %v", s, err)
		}
	}
}

func FuzzNext(f *testing.F) {
	f.Add("A: 1\nB:\n x\n\nC: 2\n")
	f.Fuzz(func(t *testing.T, s string) {
		r := NewReader(strings.NewReader(s))
		for {
			p, err := r.Next()
			if err != nil {
				return
			}
			if len(p.fields) == 0 {
				t.Fatal("paragraph without a field")
			}
		}
	})
}
