package zipfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

func archive(t testing.TB, members int) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for range members {
		if _, err := z.CreateHeader(&zip.FileHeader{Name: "x", Modified: time.Unix(1_700_000_000, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestOpenIsBounded(t *testing.T) {
	open := func(b []byte) (*zip.Reader, error) { return Open(bytes.NewReader(b), int64(len(b))) }
	good := archive(t, 3)
	if z, err := open(good); err != nil || len(z.File) != 3 || Newest(z).Unix() != 1_700_000_000 {
		t.Fatal(z, err)
	}
	if _, err := open(archive(t, maxMembers+1)); !errors.Is(err, feed.ErrUpstream) {
		t.Errorf("too many members: %v", err)
	}
	for what, change := range map[string]func(end []byte){
		"a directory as it claims": func(end []byte) { binary.LittleEndian.PutUint32(end[12:], 1<<31) },
		"zip64":                    func(end []byte) { binary.LittleEndian.PutUint32(end[16:], 1<<32-1) },
		"members as it claims":     func(end []byte) { binary.LittleEndian.PutUint16(end[10:], 1<<16-1) },
	} {
		b := bytes.Clone(good)
		change(b[len(b)-22:])
		if _, err := open(b); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := range good {
		if _, err := open(good[:n]); err == nil || errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%d bytes of %d: %v", n, len(good), err)
		}
	}
	// The count is taken modulo 65,536 by readers: a directory longer than it says.
	if _, err := open(archive(t, 1<<16+3)); !errors.Is(err, feed.ErrUpstream) {
		t.Errorf("more members than 16 bits: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(archive(f, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		z, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, m := range z.File {
			if rc, err := m.Open(); err == nil {
				_, _ = io.CopyN(io.Discard, rc, 1<<16)
				rc.Close()
			}
		}
	})
}
