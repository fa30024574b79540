package office

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
	"github.com/hashike/hashike/verifier"
)

// Verify implements feed.Feed.
func (f *office) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	found := false
	v := verify{c, trust, out}
	twins, err := twins(c)
	if err != nil {
		return err
	}
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		n, ok := parsePath(a.Path)
		if !ok {
			return v.untrusted(a, "no name of the vendor's")
		}
		b := n.build
		if n.role == newest {
			if b, ok = parseBuild(a.Version); !ok {
				return v.untrusted(a, "without a build")
			}
			found = true
		}
		if a.Group != n.group() || a.Class != n.class() || a.Version != b.String() {
			return v.untrusted(a, "in the wrong group, class or version")
		}
		if twins[a.Digest] > 1 && n.unnamed() {
			err = v.refuse(a, "another file has the same bytes")
		} else {
			err = v.one(a, n, b)
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return v.untrusted(feed.Artifact{Path: "v64.cab"}, "no channel in the snapshot")
	}
	return nil
}

// unnamed: no signature says the name or build of such a cabinet. At least none
// stands in for another.
func (f file) unnamed() bool { return f.role == cabinet || f.role == extra }

// twins counts the cabinets that have the same bytes.
func twins(c feed.Content) (map[feed.Digest]int, error) {
	n := map[feed.Digest]int{}
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		if f, ok := parsePath(a.Path); ok && f.unnamed() {
			n[a.Digest]++
		}
	}
	return n, nil
}

type verify struct {
	c     feed.Content
	trust feed.Trust
	out   feed.Proof
}

func (v verify) untrusted(a feed.Artifact, why string) error {
	return feed.NewFault(fmt.Errorf("%s: %s: %w", a.Path, why, feed.ErrUntrusted), "H-502", "feed", v.c.Header().Feed, "file", a.Path, "signer", "Microsoft")
}

// one checks a file, b is the build it belongs to.
func (v verify) one(a feed.Artifact, n file, b build) error {
	switch n.role {
	case newest, version:
		if err := v.versionCab(a, b); err != nil || n.role == version {
			return err
		}
		return v.out.Mark(n.channel+" "+n.arch, b.order())
	case catalogue:
		return v.out.Once(a, "catalogue", func(r io.ReaderAt, size int64) (feed.Evidence, error) {
			c, err := verifier.OpenCatalog(r, size, verifier.Microsoft(), v.trust)
			if err != nil {
				return feed.Evidence{}, err
			}
			return c.Evidence, nil
		})
	case stream:
		return v.stream(a, n)
	}
	return v.signedCab(a)
}

// versionCab: signed, and of this build.
func (v verify) versionCab(a feed.Artifact, b build) error {
	return v.out.Once(a, "authenticode "+b.String(), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, verifier.Microsoft(), v.trust)
		if err != nil {
			return ev, err
		}
		says, made, err := readVersion(r, size)
		if err == nil && says != b {
			err = fmt.Errorf("is of build %s, not %s", says, b)
		}
		if err == nil && !a.Time.IsZero() && !a.Time.Equal(made) {
			err = fmt.Errorf("was made %s, not %s", made, a.Time)
		}
		if err != nil {
			return feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
		}
		return ev, nil
	})
}

// signedCab: by its own signature, or else by the catalogue beside it.
func (v verify) signedCab(a feed.Artifact) error {
	cat, ok := v.c.Lookup(a.Path + ".cat")
	return v.out.Once(a, "authenticode "+string(cat.Digest), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, verifier.Microsoft(), v.trust)
		if ok && errors.Is(err, verifier.ErrUnsigned) {
			return v.listed(cat, r, size)
		}
		return ev, err
	})
}

// listed looks a file up in the catalogue beside it.
func (v verify) listed(cat feed.Artifact, r io.ReaderAt, size int64) (feed.Evidence, error) {
	f, err := v.c.Open(cat.Path)
	if err != nil {
		return feed.Evidence{}, fmt.Errorf("%s: %w: %w", cat.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return feed.Evidence{}, fmt.Errorf("%s cannot be read: %w", cat.Path, feed.ErrDamaged)
	}
	c, err := verifier.OpenCatalog(at, cat.Size, verifier.Microsoft(), v.trust)
	if err != nil {
		return feed.Evidence{}, err
	}
	return c.Lists(r, size)
}

// stream: listed in the catalogue beside it, and not contradicted by the hash
// that the s-cabinet holds.
func (v verify) stream(a feed.Artifact, n file) error {
	cat, ok := v.c.Lookup(a.Path + ".cat")
	if !ok {
		return v.refuse(a, "no catalogue (.cat) beside it")
	}
	s, _ := v.c.Lookup(hashCab(n).path())
	return v.out.Once(a, "catalogue-member "+string(cat.Digest)+" "+string(s.Digest), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		says, known := v.hashOf(s, n)
		if known && says != a.Digest {
			return feed.Evidence{}, fmt.Errorf("the s-cabinet says %s: %w", says, feed.ErrUntrusted)
		}
		ev, err := v.listed(cat, r, size)
		if err == nil && known {
			ev.Note += "; the s-cabinet's SHA-256 agrees"
		}
		return ev, err
	})
}

func (v verify) refuse(a feed.Artifact, why string) error {
	return v.out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "office", Signer: "Microsoft", Refused: why})
}

// hashCab is the s-cabinet that holds the hash of a stream without a language.
// Those of languages end in the language's number and are not looked at.
func hashCab(n file) file {
	s, _ := inBuild(n.channel, n.arch, n.build, "s"+bits(n.arch)+"0.cab")
	return s
}

// hashOf reads the SHA-256 of a stream in an s-cabinet, if it is there in a
// form that reads as one. No sample has shown the form yet.
func (v verify) hashOf(a feed.Artifact, n file) (feed.Digest, bool) {
	f, err := v.c.Open(a.Path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return "", false
	}
	c, err := cab.NewReader(at, a.Size, cab.Limits{Files: 10_000, Total: maxCab})
	if err != nil {
		return "", false
	}
	_, body, err := c.Open(strings.TrimSuffix(n.name, ".dat") + ".hash")
	if err != nil {
		return "", false
	}
	raw, err := io.ReadAll(io.LimitReader(body, 4096))
	if err != nil {
		return "", false
	}
	return parseHash(raw)
}

// parseHash reads 64 hex digits or the base64 of 32 bytes, in UTF-8 or UTF-16
// with a byte order mark, and nothing else.
func parseHash(raw []byte) (feed.Digest, bool) {
	text, _, err := transform.Bytes(unicode.BOMOverride(unicode.UTF8.NewDecoder()), raw)
	if err != nil {
		return "", false
	}
	s := strings.TrimSpace(string(text))
	b, err := hex.DecodeString(s)
	if err != nil {
		b, err = base64.StdEncoding.DecodeString(s)
	}
	if err != nil || len(b) != 32 {
		return "", false
	}
	return feed.DigestFromSum(b), true
}
