package mozilla

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// clocks of vendor and outside may differ by so much.
const clockAllowance = 24 * time.Hour

// Verify implements feed.Feed. A MAR file needs both proofs: the signature in
// it, with the channel and version that its name says, and its release's signed
// list. Where the vendor revoked the key of a list, the MAR's signature alone
// makes it "listed": held, unless an exception order says otherwise.
// Installers need the list or the publisher's Authenticode signature.
func (f *updates) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	x, err := f.verifyIndex(c, trust, out)
	if err != nil {
		return err
	}
	v := &verification{c: c, x: x, trust: trust, out: out, lists: map[string]list{}}
	wants := x.wants()
	if err := v.named(wants); err != nil {
		return err
	}
	vital := map[string]bool{}
	for _, w := range wants {
		vital[w.version] = vital[w.version] || w.whole
	}
	for _, w := range wants {
		if _, done := v.lists[w.version]; !done {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := v.list(w.version, vital[w.version]); err != nil {
				return err
			}
		}
	}
	for _, w := range wants {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.file(w); err != nil {
			return err
		}
	}
	for _, s := range x.Streams {
		if r := s.newest(); r != nil {
			if err := out.Mark(x.Product+" "+x.Channel+" "+s.key(), order(r.Version)); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyIndex: the index is this line's, and the one that the snapshot's state names.
func (f *updates) verifyIndex(c feed.Content, trust feed.Trust, out feed.Proof) (*index, error) {
	a, ok := c.Lookup(indexPath)
	if !ok {
		return nil, untrusted(c, indexPath, "missing")
	}
	x, err := readIndex(c)
	if err != nil {
		if errors.Is(err, feed.ErrUntrusted) {
			return nil, untrusted(c, indexPath, err.Error())
		}
		return nil, err
	}
	switch {
	case a.Class != feed.Metadata || a.Group != "":
		return nil, untrusted(c, indexPath, "in the wrong group or class")
	case x.line != (line{f.cfg.Product, f.cfg.Channel}):
		return nil, untrusted(c, indexPath, fmt.Sprintf("of %s on %s", x.Product, x.Channel))
	case c.Header().State != stateOf(x, a.Digest):
		return nil, untrusted(c, indexPath, "not the one that the snapshot's state names")
	}
	for _, s := range x.Streams {
		if r := s.newest(); r != nil && r.time().After(trust.At.Add(clockAllowance)) {
			return nil, untrusted(c, indexPath, fmt.Sprintf("%s %s was built in the future, %s", s.key(), r.Version, r.Build))
		}
	}
	return x, out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "mozilla-service", Strength: feed.Attested,
		Note: "what the vendor's update service said; nobody signs that"})
}

// verification is one run over one snapshot.
type verification struct {
	c     feed.Content
	x     *index
	trust feed.Trust
	out   feed.Proof
	lists map[string]list // by version
}

// list is a release's SHA256SUMS; sums is nil if it proves nothing.
type list struct {
	digest feed.Digest
	sums   map[string]feed.Digest
	key    string // that signed it
	why    string // of nil sums
}

// named: the snapshot has what the index wants, and nothing else.
func (v *verification) named(wants []want) error {
	known := map[string]bool{indexPath: true}
	for _, w := range wants {
		have := 0
		for _, n := range w.names {
			if a, ok := v.c.Lookup(n); ok {
				have++
				known[n] = true
				if a.Class != w.class() || a.Group != w.group(n) || a.Version != w.version || !a.Time.Equal(w.time) {
					return untrusted(v.c, n, fmt.Sprintf("labelled class %s, group %.80q, version %.40q of %s", a.Class, a.Group, a.Version, a.Time))
				}
			}
		}
		if have > 1 || have == 0 && !w.optional {
			return untrusted(v.c, w.names[0], fmt.Sprintf("%d files of this kind", have))
		}
		for _, n := range []string{v.x.sums(w.version), v.x.sumsSign(w.version)} {
			a, ok := v.c.Lookup(n)
			if !ok {
				return untrusted(v.c, n, "missing")
			}
			if want := v.x.listArtifact(n, w.version, a.Digest); a.Class != want.Class || a.Group != want.Group || a.Version != want.Version || !a.Time.IsZero() {
				return untrusted(v.c, n, "in the wrong group or class")
			}
			known[n] = true
		}
	}
	for a, err := range v.c.Artifacts() {
		if err != nil {
			return err
		}
		if !known[a.Path] {
			return untrusted(v.c, a.Path, "nothing that the index names")
		}
	}
	return nil
}

// list checks a release's list. A wrong signature of a release that the
// snapshot stands on refuses the snapshot; a revoked key or an older release
// withholds the list alone.
func (v *verification) list(version string, vital bool) error {
	p := v.x.sums(version)
	refuse := func(at string, err error) error {
		v.lists[version] = list{why: err.Error()}
		if vital && !errors.Is(err, verifier.ErrRevoked) {
			return untrusted(v.c, at, err.Error())
		}
		a, _ := v.c.Lookup(at)
		return v.out.Evidence(feed.Evidence{Path: at, Subject: a.Digest, Method: "openpgp", Refused: err.Error()})
	}
	doc, err := readSmall(v.c, p, maxSums)
	if err != nil {
		return v.oversize(p, err, refuse)
	}
	sig, err := readSmall(v.c, v.x.sumsSign(version), maxSumsSign)
	if err != nil {
		return v.oversize(v.x.sumsSign(version), err, refuse)
	}
	ev, err := verifier.OpenPGPRelease(bytes.NewReader(doc), sig, v.trust, v.trust.For("openpgp"))
	if err != nil {
		if !errors.Is(err, feed.ErrUntrusted) {
			return err
		}
		return refuse(p, err)
	}
	sums, err := parseSums(doc)
	if err != nil {
		return refuse(p, fmt.Errorf("%w: %w", err, feed.ErrUntrusted))
	}
	l := list{sums: sums, key: ev.KeyID}
	for _, at := range []string{p, v.x.sumsSign(version)} {
		a, _ := v.c.Lookup(at)
		if at == p {
			l.digest = a.Digest
		}
		ev.Path, ev.Subject = at, a.Digest
		if err := v.out.Evidence(ev); err != nil {
			return err
		}
	}
	v.lists[version] = l
	return nil
}

func (v *verification) oversize(p string, err error, refuse func(string, error) error) error {
	if errors.Is(err, feed.ErrUntrusted) {
		return refuse(p, err)
	}
	return err
}

// file proves one file of a release.
func (v *verification) file(w want) error {
	for _, n := range w.names {
		a, ok := v.c.Lookup(n)
		if !ok {
			continue
		}
		l := v.lists[w.version]
		if d := l.sums[strings.TrimPrefix(n, v.x.root(w.version)+"/")]; l.sums != nil && d != a.Digest {
			return v.out.Evidence(feed.Evidence{Path: n, Subject: a.Digest, Method: "sha256-list",
				Refused: fmt.Sprintf("the vendor's list names %q, the file is %s", d, a.Digest)})
		}
		if w.mar {
			if err := v.mar(w, a, l); err != nil {
				return err
			}
		} else if err := v.installer(a, l); err != nil {
			return err
		}
		if l.sums == nil {
			continue
		}
		if err := v.out.Evidence(feed.Evidence{Path: n, Subject: a.Digest, Method: "sha256-list", Strength: feed.Signed, Via: l.digest}); err != nil {
			return err
		}
	}
	return nil
}

// mar checks the signature in the file. Verdicts are remembered by method, so
// its name holds all that the verdict depends on.
func (v *verification) mar(w want, a feed.Artifact, l list) error {
	id := verifier.MARIdentity{Channel: v.x.marChannel(), Versions: []string{w.version}}
	if d := v.x.dir(w.version); d != w.version {
		id.Versions = append(id.Versions, d)
	}
	method := "mar " + id.Channel + " " + w.version
	if l.sums == nil {
		method += " alone"
	} else {
		method += " listed by " + l.key
	}
	return v.out.Once(a, method, func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.MAR(r, size, id, v.trust)
		if err == nil && l.sums == nil {
			ev.Strength, ev.Note = feed.Listed, "the signature in the file holds; the release's list proves nothing: "+l.why
		} else if err == nil {
			ev.Note = "and named by the release's list SHA256SUMS, which is signed by key " + l.key
		}
		return ev, err
	})
}

// installer checks the publisher's signature of a Windows program. Beside a
// signed list it is a second proof, and without it a note.
func (v *verification) installer(a feed.Artifact, l list) error {
	windows := strings.HasSuffix(a.Path, ".exe") || strings.HasSuffix(a.Path, ".msi")
	if !windows || len(v.trust.For(useRoots)) == 0 {
		if l.sums != nil {
			return nil
		}
		return v.out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "sha256-list", Strength: feed.None,
			Note: "the release's list proves nothing: " + l.why})
	}
	method := "authenticode mozilla"
	if l.sums == nil {
		method += " alone"
	}
	return v.out.Once(a, method, func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, publisher(), v.trust)
		if errors.Is(err, feed.ErrUntrusted) && l.sums != nil {
			return feed.Evidence{Method: "authenticode", Strength: feed.None, Note: err.Error()}, nil
		}
		return ev, err
	})
}

// untrusted refuses the snapshot.
func untrusted(c feed.Content, path, why string) error {
	return feed.NewFault(fmt.Errorf("%s: %s: %w", path, why, feed.ErrUntrusted), "H-502", "feed", c.Header().Feed, "file", path, "signer", "Mozilla")
}
