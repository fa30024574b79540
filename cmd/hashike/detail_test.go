package main

import (
	"testing"

	"github.com/hashike/hashike/internal/i18n"
)

func TestDetailsReadPlainly(t *testing.T) {
	cat, err := i18n.Load("ja", i18n.Contact{})
	if err != nil {
		t.Fatal(err)
	}
	a := &app{cat: cat}
	for from, want := range map[string]string{
		"set.json: statat set.json: no such file or directory: damaged":        "set.json: ありません",
		"open /x/y.toml: permission denied":                                    "/x/y.toml: 権限がありません",
		"feed debian: held for a person":                                       "feed debian",
		"older: older than already accepted: not trusted":                      "older",
		`open U:\set.json: The media is write protected.: configuration`:       `U:\set.json: 書込み禁止です`,
		"listen tcp 127.0.0.1:80: bind: address already in use: configuration": "listen tcp 127.0.0.1:80: bind: すでに使われています",
		"blobs/sha256/00: 5 bytes instead of 6: damaged":                       "blobs/sha256/00: 5 bytes instead of 6",
		"interrupted read of a table that everybody can open: unexpected EOF":  "interrupted read of a table that everybody can open: 途中で終わっています",
	} {
		if got := a.plainly(from); got != want {
			t.Errorf("%q became %q, want %q", from, got, want)
		}
	}
}
