package wsus

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// verifyExtract leads an extract to Microsoft's signature: the cabinet that
// travels with it has a good one, and holds every fragment of the extract,
// byte for byte. The date of the catalogue never goes back.
func verifyExtract(c feed.Content, a feed.Artifact, h extractHead, trust feed.Trust, out feed.Proof) error {
	held := false
	err := out.Once(a, "wsus-extract "+h.cabinet.Hex(), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := extractSigned(c, a, h, trust, io.NewSectionReader(r, 0, size))
		held = err != nil
		if held && !errors.Is(err, feed.ErrDamaged) {
			err = untrusted(err)
		}
		return ev, err
	})
	if err != nil || held {
		return err
	}
	return out.Mark(offlineName, h.created.Unix())
}

func extractSigned(c feed.Content, a feed.Artifact, h extractHead, trust feed.Trust, extract io.Reader) (ev feed.Evidence, err error) {
	_, want := offlineArtifacts(h, a.Digest)
	if got, ok := c.Lookup(want.Path); !ok || got.Digest != want.Digest || got.Group != a.Group {
		return ev, fmt.Errorf("the %s that would prove it is missing: %w", offlineName, feed.ErrUntrusted)
	}
	f, err := c.Open(want.Path)
	if err != nil {
		return ev, fmt.Errorf("%s: %w: %w", want.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	st, err := f.Stat()
	r, ok := f.(io.ReaderAt)
	if err != nil || !ok {
		return ev, fmt.Errorf("%s: no random access: %w", want.Path, feed.ErrDamaged)
	}
	if ev, err = verifier.Authenticode(r, st.Size(), verifier.Microsoft(), trust); err != nil {
		return ev, err
	}
	o, err := openOffline(r, st.Size())
	if err != nil {
		return ev, err
	}
	ev.Note = "fragments of " + offlineName + ", whose signature this is"
	return ev, proveExtract(extract, o)
}

// verifyOfflineCab checks the cabinet itself, which nobody reads but to prove
// an extract.
func verifyOfflineCab(c feed.Content, a feed.Artifact, trust feed.Trust, out feed.Proof) error {
	x, ok := c.Lookup(a.Group)
	if !ok || !isExtract(x) || x.Group != a.Group || a.Path != extractPrefix+a.Digest.Hex()[:32]+".cab" || !a.Time.Equal(x.Time) {
		return refuse(out, a, errors.New("no extract is made of it"))
	}
	return out.Once(a, "authenticode", func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, verifier.Microsoft(), trust)
		return ev, untrusted(err)
	})
}
