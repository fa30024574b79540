package nup_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/format/nup"
	"github.com/hashike/hashike/internal/format/nup/nuptest"
)

func FuzzRead(f *testing.F) {
	at := time.Unix(1700000000, 0)
	s := nuptest.New(f, at)
	f.Add(s.Module(f, []string{"name=A"}, make([]byte, 600), at, true))
	f.Add(s.Module(f, []string{"name=A"}, make([]byte, 600), at, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := nup.Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, sig := range m.Signatures {
			if err := m.Hash(io.Discard, sig); err != nil {
				t.Fatal(err)
			}
		}
		if m.Key == nil || len(m.Info) == 0 || len(m.Info) > len(b) {
			t.Fatalf("%+v", m)
		}
	})
}
