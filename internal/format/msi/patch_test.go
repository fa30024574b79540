package msi_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/msi"
)

const (
	reader  = "{AC76BA86-1033-FF00-7760-BC15014EA700}"
	upgrade = "{A6EADE66-0000-0000-484E-7E8A45000000}"
	code    = "{AC76BA86-0000-0000-7760-7E8A45000025}"
	older   = "{AC76BA86-0000-0000-7760-7E8A45000024}"
)

func patch(t testing.TB, replaced string, transforms ...string) []byte {
	return feedtest.NewPublisher(t, "test", "Test", time.Now()).Patch(t, code+replaced, []string{reader}, transforms...)
}

func TestReadPatch(t *testing.T) {
	b := patch(t, older, reader+"25.001.20428;"+reader+"25.001.20577;"+upgrade, reader+"25.001.20428;"+reader+"25.001.20577;"+upgrade, "no step")
	got, err := msi.ReadPatch(bytes.NewReader(b), int64(len(b)))
	want := &msi.Patch{Code: code, Replaces: []string{older}, Targets: []string{reader}, Steps: []msi.Step{{Product: reader, From: "25.001.20428", To: "25.001.20577"}}}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if _, err := msi.Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, msi.ErrFormat) {
		t.Errorf("a patch read as a package: %v", err)
	}
	b = patch(t, "{odd}")
	if _, err := msi.ReadPatch(bytes.NewReader(b), int64(len(b))); !errors.Is(err, msi.ErrFormat) {
		t.Errorf("without a code of its own: %v", err)
	}
}

func FuzzReadPatch(f *testing.F) {
	f.Add(patch(f, "", reader+"1.0;"+reader+"1.1;"+upgrade))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := msi.ReadPatch(bytes.NewReader(b), int64(len(b)))
		if err != nil && !errors.Is(err, msi.ErrFormat) || err == nil && len(p.Targets) == 0 {
			t.Errorf("%+v %v", p, err)
		}
	})
}
