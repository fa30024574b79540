package verifier

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cfb"
)

// Names of the two streams below the root that hold the signature.
const (
	msiSignature   = "\x05DigitalSignature"
	msiSignatureEx = "\x05MsiDigitalSignatureEx"
)

// installer (.msi, .msp): the digest covers every stream in the order of the
// raw names, and each storage's class after its streams. With the second
// stream, a digest of names, sizes, classes and times goes before: without it
// those can be changed (it is how streams were swapped). The first may be
// alone: many genuine packages have no second. Free sectors are covered by
// nothing, and read by nothing.
func installer(r io.ReaderAt, size int64) (container, error) {
	f, err := cfb.Open(r, size)
	if err != nil {
		return container{}, msiErr(err)
	}
	if err := nothingBehind(r, f.End(), size); err != nil {
		return container{}, err
	}
	sig := f.Root.Child(msiSignature)
	if sig == nil {
		return container{}, ErrUnsigned
	}
	c := container{}
	if c.signature, err = sig.Read(maxSignature); err != nil {
		return c, msiErr(err)
	}
	var ex []byte
	if e := f.Root.Child(msiSignatureEx); e != nil {
		if ex, err = e.Read(64); err != nil {
			return c, msiErr(err)
		}
	}
	c.digest = func(h crypto.Hash) ([]byte, error) {
		d := h.New()
		if ex != nil {
			pre := h.New()
			describe(f.Root, pre, true)
			if !bytes.Equal(pre.Sum(nil), ex) {
				return nil, errors.New("package: names, sizes or times are not those signed")
			}
			d.Write(ex)
		}
		if err := msiStreams(f.Root, d, true); err != nil {
			return nil, msiErr(err)
		}
		return d.Sum(nil), nil
	}
	return c, nil
}

// nothingBehind refuses bytes behind the last used sector: an archive appended
// to a signed package was once believed with it (CVE-2020-1464). Zeros are what
// tools leave.
func nothingBehind(r io.ReaderAt, end, size int64) error {
	rest := io.NewSectionReader(r, end, size-end)
	buf := make([]byte, 64<<10)
	for {
		n, err := rest.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return fmt.Errorf("package: %d bytes behind its end: %w", size-end, feed.ErrUntrusted)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("package: %w: %w", err, feed.ErrDamaged)
		}
	}
}

func msiErr(err error) error {
	if errors.Is(err, cfb.ErrFormat) {
		return fmt.Errorf("package: %w: %w", err, feed.ErrUntrusted)
	}
	return fmt.Errorf("package: %w: %w", err, feed.ErrDamaged)
}

func signs(e *cfb.Entry) bool { n := e.Name(); return n == msiSignature || n == msiSignatureEx }

func msiStreams(dir *cfb.Entry, d hash.Hash, root bool) error {
	for _, e := range dir.Children {
		switch {
		case root && signs(e):
		case e.Kind == cfb.Storage:
			if err := msiStreams(e, d, false); err != nil {
				return err
			}
		default:
			if _, err := e.WriteTo(d); err != nil {
				return err
			}
		}
	}
	d.Write(dir.CLSID[:])
	return nil
}

// describe hashes what the directory says of dir and everything below it.
func describe(dir *cfb.Entry, d hash.Hash, root bool) {
	one := func(e *cfb.Entry) {
		if e.Kind != cfb.Root {
			d.Write(e.RawName)
		}
		if e.Kind == cfb.Stream {
			d.Write([]byte{byte(e.Size), byte(e.Size >> 8), byte(e.Size >> 16), byte(e.Size >> 24)})
		} else {
			d.Write(e.CLSID[:])
		}
		d.Write(e.State[:])
		if e.Kind != cfb.Root {
			d.Write(e.Created[:])
			d.Write(e.Modified[:])
		}
	}
	one(dir)
	for _, e := range dir.Children {
		switch {
		case root && signs(e):
		case e.Kind == cfb.Storage:
			describe(e, d, false)
		default:
			one(e)
		}
	}
}
