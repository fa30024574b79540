package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// set is the files of one product's version.
type set struct {
	file, descriptor, signature feed.Artifact
	d                           Descriptor
}

// Verify implements feed.Feed. Each version is a group: one that does not hold,
// or that the configuration no longer offers, is withheld alone.
func (x *Intake) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	sets, err := x.sets(c, out)
	if err != nil {
		return err
	}
	var first error
	good := 0
	marks := map[string]int64{}
	for _, s := range sets {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !x.knows(s.d.Product) {
			if err := refuse(s, x.held(s.d.Product, s.d.Version), out); err != nil {
				return err
			}
			good++ // genuine or not: it is not offered
			continue
		}
		why, err := x.prove(c, s, trust, out)
		if err != nil {
			return err
		}
		if why != nil {
			first = cmp.Or(first, refused(c, s.file.Path, why))
			continue
		}
		good++
		v, _ := parseVersion(s.d.Version)
		marks[s.d.Product] = max(marks[s.d.Product], v)
		if why := x.held(s.d.Product, s.d.Version); why != "" {
			if err := refuse(s, why, out); err != nil {
				return err
			}
		}
	}
	if good == 0 {
		return cmp.Or(first, refused(c, "*", fmt.Errorf("nothing in the snapshot: %w", feed.ErrUntrusted)))
	}
	for p, v := range marks {
		if err := out.Mark(p, v); err != nil {
			return err
		}
	}
	return nil
}

func refused(c feed.Content, file string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w", file, err), "H-502", "feed", c.Header().Feed, "file", file, "detail", err.Error())
}

func refuse(s set, why string, out feed.Proof) error {
	for _, a := range []feed.Artifact{s.file, s.descriptor, s.signature} {
		if a.Path == "" {
			continue
		}
		if err := out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "intake", Refused: why}); err != nil {
			return err
		}
	}
	return nil
}

// sets puts the snapshot's files together, and holds labels, descriptors and
// the snapshot's state against each other.
func (x *Intake) sets(c feed.Content, out feed.Proof) ([]set, error) {
	untrusted := func(p, why string) error { return refused(c, p, fmt.Errorf("%s: %w", why, feed.ErrUntrusted)) }
	var all []feed.Artifact
	found := map[string]*set{}
	var order []string
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		all = append(all, a)
		e, ok := parsePath(a.Path)
		want := feed.Metadata
		if e.kind == isFile {
			want = x.cfg.Class
		}
		group := e.group()
		if e.kind == isWatch {
			group = a.Path
		}
		if !ok || a.Class != want || a.Group != group || a.Version != e.version {
			return nil, untrusted(a.Path, "a file of unknown form, or in the wrong group, class or version")
		}
		if e.kind == isWatch {
			if err := x.verifyPage(c, a, out); err != nil {
				return nil, err
			}
			continue
		}
		key := group + "/" + e.file
		if found[key] == nil {
			found[key], order = &set{}, append(order, key)
		}
		*map[int]*feed.Artifact{isFile: &found[key].file, isDescriptor: &found[key].descriptor, isSignature: &found[key].signature}[e.kind] = a
	}
	if _, bound, _ := strings.Cut(c.Header().State, " "); bound != stateOf(all) {
		return nil, untrusted("*", "the descriptors are not those that the snapshot's state names")
	}
	var sets []set
	for _, key := range order {
		s := found[key]
		if s.file.Path == "" || s.descriptor.Path == "" {
			return nil, untrusted(key, "a file without its descriptor, or a descriptor without its file")
		}
		b, err := read(c, s.descriptor.Path, maxDescriptor)
		if err != nil {
			return nil, err
		}
		if s.d, err = ParseDescriptor(b); err != nil {
			return nil, untrusted(s.descriptor.Path, err.Error())
		}
		if s.d.path() != s.file.Path || s.d.SHA256 != s.file.Digest {
			return nil, untrusted(s.descriptor.Path, "describes another file")
		}
		for _, a := range []feed.Artifact{s.file, s.descriptor, s.signature} {
			if a.Path != "" && !a.Time.Equal(s.d.time()) {
				return nil, untrusted(a.Path, "labelled with another date")
			}
		}
		sets = append(sets, *s)
	}
	return sets, nil
}

func (x *Intake) verifyPage(c feed.Content, a feed.Artifact, out feed.Proof) error {
	b, err := read(c, a.Path, maxPage)
	if err == nil {
		_, err = parsePage(b)
	}
	if err != nil || !a.Time.IsZero() {
		return refused(c, a.Path, fmt.Errorf("%w: %w", errors.Join(err, errors.New("watched page")), feed.ErrUntrusted))
	}
	return out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "watched", Strength: feed.Attested, Note: "titles of a page, for people alone"})
}

// prove checks the signature of one file. why is the reason if it does not hold.
func (x *Intake) prove(c feed.Content, s set, trust feed.Trust, out feed.Proof) (why, err error) {
	organisation, key := x.Expected(s.d.Product)
	var sig []byte
	if key != "" {
		if s.signature.Path == "" {
			why = fmt.Errorf("no OpenPGP signature beside it: %w", feed.ErrUntrusted)
			return why, refuse(s, why.Error(), out)
		}
		if sig, err = read(c, s.signature.Path, maxDescriptor); err != nil {
			return nil, err
		}
	}
	pinned := strings.Join([]string{organisation, key, string(s.signature.Digest), string(s.descriptor.Digest)}, "\n")
	err = out.Once(s.file, "intake "+feed.DigestOf([]byte(pinned)).Hex()[:16], func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := x.Check(s.d.Product, r, size, sig, trust)
		if err != nil {
			why = err
		}
		ev.Note = strings.TrimSuffix("version "+s.d.Version+" is the word of "+s.d.By+"; "+ev.Note, "; ")
		return ev, err
	})
	if err != nil || why != nil {
		return why, err
	}
	for _, a := range []feed.Artifact{s.descriptor, s.signature} {
		if a.Path == "" {
			continue
		}
		if err := out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "made", Strength: feed.Attested, Note: "handed in by " + s.d.By}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Check proves a file by what the configuration pins for its product: an
// Authenticode signature, or the OpenPGP signature sig.
func (x *Intake) Check(product string, r io.ReaderAt, size int64, sig []byte, trust feed.Trust) (feed.Evidence, error) {
	organisation, key := x.Expected(product)
	if key != "" {
		return verifier.OpenPGPDetached(io.NewSectionReader(r, 0, size), sig, trust, trust.For("openpgp", key))
	}
	return verifier.Authenticode(r, size, verifier.Publisher{Roots: use, Names: []string{organisation}}, trust)
}

// read reads a stored file of a bounded size.
func read(c feed.Content, p string, limit int64) ([]byte, error) {
	f, err := c.Open(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", p, err, feed.ErrDamaged)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", p, err, feed.ErrDamaged)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: over %d bytes: %w", p, limit, feed.ErrUntrusted)
	}
	return b, nil
}
