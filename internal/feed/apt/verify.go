package apt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/unpack"
	"github.com/hashike/hashike/verifier"
)

// Verify implements feed.Feed: signature → Release → indexes → package files,
// each step by the digests that the step before lists.
func (f *archive) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	anchors := trust.For("openpgp", f.cfg.Keys...)
	proved := map[string]bool{} // pool paths: two indexes may list one file
	for _, s := range f.cfg.Suites {
		if err := f.verifySuite(ctx, c, trust, anchors, s, proved, out); err != nil {
			return fmt.Errorf("suite %s: %w", s, err)
		}
	}
	return nil
}

func (f *archive) verifySuite(ctx context.Context, c feed.Content, trust feed.Trust, anchors []feed.Anchor, suite string, proved map[string]bool, out feed.Proof) error {
	rel, via, err := f.verifyRelease(c, trust, anchors, suite, out)
	if err != nil {
		return err
	}
	for _, name := range []string{"InRelease", "Release", "Release.gpg"} {
		a, ok := c.Lookup(path.Join("dists", suite, name))
		if !ok {
			continue
		}
		if err := labelled(c, a, feed.Metadata, ""); err != nil {
			return err
		}
		if !a.Time.Equal(rel.date) { // pages show it as the vendor's
			return untrusted(c, a, fmt.Errorf("dated %s, the snapshot says %s: %w", rel.date, a.Time, feed.ErrUntrusted))
		}
	}
	if err := rel.fits(suite, trust.At); err != nil {
		return feed.NewFault(err, "H-505", "feed", c.Header().Feed, "file", path.Join("dists", suite, "InRelease"))
	}
	if err := out.Mark("suite "+suite, rel.date.Unix()); err != nil {
		return err
	}
	paths, isPackages, err := f.wanted(rel)
	if err != nil {
		return err
	}
	dir := path.Join("dists", suite)
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := rel.files[p]
		for _, name := range []string{path.Join(dir, p), path.Join(dir, byHash(p, e.digest))} {
			a, ok := c.Lookup(name)
			if !ok && (rel.byHash || name == path.Join(dir, p)) {
				return missing(c, name)
			}
			if !ok {
				continue
			}
			if err := labelled(c, a, feed.Metadata, ""); err != nil {
				return err
			}
			if err := listed(out, a, e.digest, e.size, via); err != nil {
				return err
			}
		}
		if !isPackages[p] {
			continue
		}
		if err := f.verifyPackages(c, path.Join(dir, p), e.digest, proved, out); err != nil {
			return err
		}
	}
	return nil
}

// verifyRelease proves the entry point and returns the text that the signature covers, parsed.
func (f *archive) verifyRelease(c feed.Content, trust feed.Trust, anchors []feed.Anchor, suite string, out feed.Proof) (*release, feed.Digest, error) {
	in, ok := c.Lookup(path.Join("dists", suite, "InRelease"))
	if ok {
		doc, err := read(c, in, maxRelease)
		if err != nil {
			return nil, "", err
		}
		text, ev, err := verifier.OpenPGPClear(doc, trust, anchors)
		if err != nil {
			return nil, "", untrusted(c, in, err)
		}
		ev.Path, ev.Subject = in.Path, in.Digest
		if err := out.Evidence(ev); err != nil {
			return nil, "", err
		}
		rel, err := parseRelease(bytes.NewReader(text))
		return rel, in.Digest, err
	}
	a, ok1 := c.Lookup(path.Join("dists", suite, "Release"))
	sig, ok2 := c.Lookup(path.Join("dists", suite, "Release.gpg"))
	if !ok1 || !ok2 {
		return nil, "", missing(c, path.Join("dists", suite, "InRelease"))
	}
	text, err := read(c, a, maxRelease)
	if err != nil {
		return nil, "", err
	}
	sigText, err := read(c, sig, 1<<20)
	if err != nil {
		return nil, "", err
	}
	ev, err := verifier.OpenPGPDetached(bytes.NewReader(text), sigText, trust, anchors)
	if err != nil {
		return nil, "", untrusted(c, a, err)
	}
	for _, x := range []feed.Artifact{a, sig} {
		e := ev
		e.Path, e.Subject = x.Path, x.Digest
		if err := out.Evidence(e); err != nil {
			return nil, "", err
		}
	}
	rel, err := parseRelease(bytes.NewReader(text))
	return rel, a.Digest, err
}

func missing(c feed.Content, name string) error {
	err := fmt.Errorf("%s is missing: %w", name, feed.ErrUntrusted)
	return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", name)
}

// labelled checks what decides how long terminals wait for a file, and what is
// withheld with it. Above all an index has no group: withheld alone under its
// name, it could still be read as if it were the genuine one under its by-hash name.
func labelled(c feed.Content, a feed.Artifact, class feed.Class, group string) error {
	if a.Class == class && a.Group == group {
		return nil
	}
	return untrusted(c, a, fmt.Errorf("in class %s, group %.80q: %w", a.Class, a.Group, feed.ErrUntrusted))
}

func untrusted(c feed.Content, a feed.Artifact, err error) error {
	if !errors.Is(err, feed.ErrUntrusted) {
		return err
	}
	return feed.NewFault(fmt.Errorf("%s: %w", a.Path, err), "H-502", "feed", c.Header().Feed, "file", a.Path)
}

// fits checks that a genuine Release is the one asked for: another suite of the
// same archive is signed by the same keys, and so is last year's.
func (rel *release) fits(suite string, at time.Time) error {
	if (rel.suite != "" || rel.codename != "") && suite != rel.suite && suite != rel.codename &&
		suite != strings.TrimSuffix(rel.codename, "/") {
		return fmt.Errorf("Release is of suite %q, codename %q: %w", rel.suite, rel.codename, feed.ErrUntrusted)
	}
	if !rel.until.IsZero() && at.After(rel.until) {
		return fmt.Errorf("Release was valid until %s and was fetched at %s: the archive is frozen: %w",
			rel.until.Format(time.RFC3339), at.Format(time.RFC3339), feed.ErrUntrusted)
	}
	if rel.date.After(at.Add(since)) {
		return fmt.Errorf("Release is dated %s, after the fetch at %s: %w", rel.date.Format(time.RFC3339), at.Format(time.RFC3339), feed.ErrUntrusted)
	}
	return nil
}

// listed records that a proved document names a with this digest and size.
func listed(out feed.Proof, a feed.Artifact, d feed.Digest, size int64, via feed.Digest) error {
	ev := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "sha256-list", Strength: feed.Signed, Via: via}
	if a.Digest != d || a.Size != size {
		ev.Strength, ev.Via = feed.None, ""
		ev.Refused = fmt.Sprintf("the index lists %s with %d bytes, the file is %s with %d", d, size, a.Digest, a.Size)
	}
	return out.Evidence(ev)
}

// verifyPackages proves the package files that are carried. Those that are not
// (a sparse pool) prove nothing and need no proof.
func (f *archive) verifyPackages(c feed.Content, name string, via feed.Digest, proved map[string]bool, out feed.Proof) error {
	file, err := c.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	at, ok := file.(io.ReaderAt)
	st, err := file.Stat()
	if err != nil || !ok {
		return errors.Join(err, fmt.Errorf("%s: %w", name, fs.ErrInvalid))
	}
	r, err := unpack.Open(name, at, st.Size(), maxUnpacked)
	if err != nil {
		return err
	}
	defer r.Close()
	err = readPackages(r, false, func(p pkg) error {
		dst := poolPath(p.file)
		if proved[dst] {
			return nil
		}
		a, ok := c.Lookup(dst)
		if !ok {
			return nil
		}
		proved[dst] = true
		if err := labelled(c, a, f.payloadClass(), dst); err != nil {
			return err
		}
		return listed(out, a, p.digest, p.size, via)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func read(c feed.Content, a feed.Artifact, limit int64) ([]byte, error) {
	if a.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes: %w", a.Path, a.Size, feed.ErrUpstream)
	}
	file, err := c.Open(a.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) != a.Size {
		err = fmt.Errorf("%s: %w", a.Path, feed.ErrDamaged)
	}
	return b, err
}
