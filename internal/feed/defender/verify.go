package defender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/pe"
	"github.com/hashike/hashike/verifier"
)

// signedAt is the release time of a program: of the time stamp in its
// signature, without one its own link time. It is not judged here.
func signedAt(r io.ReaderAt, size int64, info pe.Info) time.Time {
	at, err := verifier.StampedAt(r, size)
	if err != nil || at.IsZero() {
		return info.Linked
	}
	return at.UTC().Truncate(time.Second)
}

// Verify implements feed.Feed.
func (f *definitions) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	found := false
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		i, ok := at(a.Path)
		if !ok {
			return untrusted(c, a.Path, "no path of the vendor's")
		}
		if want := i.artifact(a.Path); a.Class != want.Class || a.Group != want.Group {
			return untrusted(c, a.Path, "in the wrong group or class")
		}
		found = true
		switch {
		case !i.pack:
			err = verifyProgram(c, a, i, trust, out)
		case a.Path == i.path:
			err = verifyPackage(c, a, i, out)
		default:
			err = verifyManifest(c, a, i, out)
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return untrusted(c, "*", "nothing in the snapshot")
	}
	return nil
}

// definitionMajor is the first part of every version of the definitions: a
// genuine program of Microsoft's that is something else has another.
const definitionMajor = 1

// verifyProgram holds a program to its signature, what pages say of it to what
// it says of itself, and its version to those accepted before.
func verifyProgram(c feed.Content, a feed.Artifact, i item, trust feed.Trust, out feed.Proof) error {
	held := false
	err := out.Once(a, "authenticode", func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, verifier.Microsoft(), trust)
		held = err != nil
		if held && !errors.Is(err, feed.ErrDamaged) && !errors.Is(err, feed.ErrUntrusted) {
			err = fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
		}
		return ev, err
	})
	if err != nil || held {
		return err
	}
	r, size, done, err := open(c, a)
	if err != nil {
		return err
	}
	defer done()
	info, err := pe.Read(r, size)
	if err == nil && !i.nis && info.File[0] != definitionMajor {
		err = fmt.Errorf("a program of version %s is no definition update", info.File)
	}
	when := signedAt(r, size, info)
	if err == nil && (a.Version != info.File.String() || !a.Time.Equal(when)) {
		err = fmt.Errorf("is version %s of %s, the snapshot says %.60q of %s", info.File, when, a.Version, a.Time)
	}
	if err != nil {
		return refuse(out, a, err)
	}
	return out.Mark(i.path, info.File.Order())
}

// verifyPackage: the signature inside is the client's to read (its format is
// not public). What is left is the connection it came over, and that it is whole.
func verifyPackage(c feed.Content, a feed.Artifact, i item, out feed.Proof) error {
	m, ok := c.Lookup(i.manifest())
	if !ok || m.Version != a.Version {
		return refuse(out, a, errors.New("no manifest says its version"))
	}
	held := false
	err := out.Once(a, "zip", func(r io.ReaderAt, size int64) (ev feed.Evidence, err error) {
		if err := checkZip(r, size); err != nil {
			held = true
			return ev, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
		}
		return feed.Evidence{Strength: feed.None, Note: "whole; the signature inside is read by the client alone"}, nil
	})
	if err != nil || held {
		return err
	}
	r, size, done, err := open(c, a)
	if err != nil {
		return err
	}
	defer done()
	if newest, err := zipTime(r, size); err != nil || !a.Time.Equal(newest) {
		return refuse(out, a, errors.Join(err, fmt.Errorf("is of %s, the snapshot says %s", newest, a.Time)))
	}
	return out.Evidence(seen(a))
}

func verifyManifest(c feed.Content, a feed.Artifact, i item, out feed.Proof) error {
	b, err := read(c, a)
	if err != nil {
		return err
	}
	m, err := parseManifest(b)
	if z, ok := c.Lookup(i.path); err == nil && (!ok || a.Version != m.Definitions || !a.Time.Equal(z.Time)) {
		err = errors.New("not as the snapshot describes it")
	}
	if err != nil {
		return refuse(out, a, err)
	}
	ev := seen(a)
	if a.Origin.Peer == "" {
		ev.Method, ev.Strength, ev.Note = "defender-manifest", feed.Attested, "made by our own outside"
	}
	if err := out.Evidence(ev); err != nil {
		return err
	}
	v, _ := version(m.Definitions)
	return out.Mark(i.path, v.Order())
}

// seen is what a file that carries no signature we can read is worth: how our
// outside came by it.
func seen(a feed.Artifact) feed.Evidence {
	e := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "tls", Strength: feed.Attested, Signer: a.Origin.Peer, Note: "tier D: the client checks the signature inside"}
	switch {
	case a.Origin.Inspected:
		e.Strength, e.Note = feed.None, "fetched through an inspecting proxy"
	case a.Origin.Peer == "":
		e.Method, e.Strength, e.Note = "transport", feed.None, "not from a TLS server"
	}
	return e
}

func open(c feed.Content, a feed.Artifact) (io.ReaderAt, int64, func(), error) {
	f, err := c.Open(a.Path)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return nil, 0, nil, fmt.Errorf("%s: no random access: %w", a.Path, feed.ErrDamaged)
	}
	return r, a.Size, func() { f.Close() }, nil
}

func read(c feed.Content, a feed.Artifact) ([]byte, error) {
	r, size, done, err := open(c, a)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, min(size, maxManifest+1)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	return b, nil
}

// untrusted refuses the snapshot.
func untrusted(c feed.Content, path, why string) error {
	err := fmt.Errorf("%s: %s: %w", path, why, feed.ErrUntrusted)
	return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", path, "signer", "Microsoft Corporation", "detail", err.Error())
}

func refuse(out feed.Proof, a feed.Artifact, why error) error {
	return out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "defender", Refused: why.Error()})
}
