package typed

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestLetters(t *testing.T) {
	for n := range 40 {
		b := bytes.Repeat([]byte{0xa7}, n)
		text := Letters(b)
		for _, typed := range []string{text, strings.ToLower(text), strings.ReplaceAll(text, " ", "－"), strings.ReplaceAll(text, "1", "l"), strings.ReplaceAll(text, "0", "Ｏ"), " " + text + "\r\n"} {
			if got, err := ParseLetters(typed, n); err != nil || !bytes.Equal(got, b) {
				t.Fatalf("%q: %x, %v", typed, got, err)
			}
		}
		if _, err := ParseLetters(text, n-1); n > 0 && !errors.Is(err, ErrMistyped) {
			t.Fatalf("%d bytes against a limit of %d: %v", n, n-1, err)
		}
		for i := range text {
			for _, c := range "0Z#" {
				wrong := text[:i] + string(c) + text[i+1:]
				if got, err := ParseLetters(wrong, n); err == nil && wrong != text || err == nil && !bytes.Equal(got, b) {
					t.Fatalf("%q passes for %q", wrong, text)
				}
			}
		}
	}
}

func TestDigits(t *testing.T) {
	if got, ok := Digits("１２３４ー5678　９ 0"); !ok || got != "1234567890" {
		t.Fatal(got, ok)
	}
	for _, bad := range []string{"12a4", "12.4", strings.Repeat("1", 1025)} {
		if got, ok := Digits(bad); ok {
			t.Errorf("%q is read as %q", bad, got)
		}
	}
	if got := Groups("123456789"); got != "1234 5678 9" {
		t.Error(got)
	}
}

func FuzzLetters(f *testing.F) {
	f.Add(Letters([]byte("need")))
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := ParseLetters(text, 1<<10); err == nil {
			if again, err := ParseLetters(Letters(b), 1<<10); err != nil || !bytes.Equal(again, b) {
				t.Fatal("not read again", err)
			}
		}
	})
}
