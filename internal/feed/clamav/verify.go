package clamav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/clamav"
	"github.com/hashike/hashike/verifier"
)

// What the origin card says of a database: how today's clients will judge it.
const (
	tier15     = "A-1.5: legacy and detached signature"
	tierLegacy = "A-legacy: no detached signature (.sign); terminals with FIPS limits (ClamAV 1.5) refuse it"
)

// Verify implements feed.Feed. Every name is bound to what the signatures say:
// a genuine file under another's name is refused, as clients do not.
func (f *databases) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	found := false
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		n, ok := parseName(a.Path)
		if !ok {
			return untrusted(c, a.Path, "no name of the vendor's")
		}
		if want := n.artifact(); a.Group != want.Group || a.Class != want.Class {
			return untrusted(c, a.Path, "in the wrong group or class")
		}
		switch n.role {
		case database:
			found = true
			err = verifyDatabase(c, a, n, trust, out)
		case patch:
			err = verifyPatch(c, a, n, trust, out)
		default:
			err = verifySign(c, a, n, trust, out)
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return untrusted(c, "*.cvd", "no database in the snapshot")
	}
	return nil
}

func verifyDatabase(c feed.Content, a feed.Artifact, n file, trust feed.Trust, out feed.Proof) error {
	err := out.Once(a, "clamav-cvd "+n.db, func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		_, ev, err := verifier.ClamAVDatabase(r, size, n.db, trust)
		return ev, err
	})
	if err != nil {
		return err
	}
	h, _, err := header(c, a.Path)
	if err != nil {
		return err
	}
	// Pages, freshness and the answers to terminals go by these.
	if a.Version != strconv.FormatInt(h.Version, 10) || !a.Time.Equal(h.Time) {
		return untrusted(c, a.Path, fmt.Sprintf("version %d of %s, the snapshot says %s of %s", h.Version, h.Time, a.Version, a.Time))
	}
	if _, signed := c.Lookup(file{role: databaseSign, db: n.db, version: h.Version}.name()); !signed {
		// No strength of its own: only the note on the card.
		note := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "clamav-tier", Strength: feed.None, Note: tierLegacy}
		if err := out.Evidence(note); err != nil {
			return err
		}
	}
	return out.Mark(n.db, h.Version)
}

func verifyPatch(c feed.Content, a feed.Artifact, n file, trust feed.Trust, out feed.Proof) error {
	if n.version > currentVersion(c, n.db) {
		return refuse(out, a, "leads to a version that is not here")
	}
	return out.Once(a, "clamav-cdiff "+a.Path, func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		return verifier.ClamAVDiff(r, size, n.db, n.version, trust)
	})
}

// verifySign checks a detached signature; it covers the signed file's digest,
// so nothing is read again. One that is there and does not hold is worse than
// none: with a database it holds the snapshot, with a patch it withholds the patch.
func verifySign(c feed.Content, a feed.Artifact, n file, trust feed.Trust, out feed.Proof) error {
	of := file{role: patch, db: n.db, version: n.version}
	if n.role == databaseSign {
		of = file{role: database, db: n.db}
	}
	signed, ok := c.Lookup(of.name())
	if !ok || n.role == databaseSign && n.version != currentVersion(c, n.db) {
		return refuse(out, a, "what it signs is not here")
	}
	b, err := readSmall(c, a.Path)
	if err != nil {
		return err
	}
	ev, err := verifier.ClamAVSign(b, signed.Digest, trust)
	if errors.Is(err, feed.ErrUntrusted) {
		return refuse(out, a, err.Error())
	}
	if err != nil {
		return err
	}
	ev.Path, ev.Subject = a.Path, a.Digest
	if err := out.Evidence(ev); err != nil {
		return err
	}
	ev.Path, ev.Subject = signed.Path, signed.Digest
	if n.role == databaseSign {
		ev.Note = tier15
	}
	return out.Evidence(ev)
}

// untrusted refuses the snapshot.
func untrusted(c feed.Content, path, why string) error {
	return feed.NewFault(fmt.Errorf("%s: %s: %w", path, why, feed.ErrUntrusted), "H-502", "feed", c.Header().Feed, "file", path, "signer", "ClamAV")
}

func refuse(out feed.Proof, a feed.Artifact, why string) error {
	return out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "clamav", Signer: "ClamAV", Refused: why})
}

func readSmall(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, feed.ErrDamaged)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, clamav.MaxSign+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, feed.ErrDamaged)
	}
	return b, nil
}
