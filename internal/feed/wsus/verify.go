package wsus

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Verify implements feed.Feed. Two chains lead to a payload: the metadata names
// its SHA-1 and SHA-256 (both must hold), and its own Authenticode signature.
// Where the container can carry a signature it must have a good one.
func (f *updates) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	ids, err := verifyRevisions(c, out)
	if err != nil {
		return err
	}
	named := map[string]namedBy{}
	sums := map[seen][32]byte{}
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && isSource(a) {
			err = verifyScan(c, a, trust, out, ids, named, sums)
		}
		if err != nil {
			return err
		}
	}
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && isOfflineCab(a) {
			err = verifyOfflineCab(c, a, trust, out)
		} else if err == nil && !isSource(a) && a.Path != revisionsPath {
			err = verifyPayload(a, trust, out, named)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isScan(a feed.Artifact) bool {
	return a.Class == feed.Metadata && strings.HasPrefix(a.Path, "metadata/scan-")
}

func untrusted(err error) error {
	if err == nil || errors.Is(err, feed.ErrUntrusted) || errors.Is(err, feed.ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
}

// verifyRevisions checks the form of the map. Its order only grows.
func verifyRevisions(c feed.Content, out feed.Proof) (*revisions, error) {
	a, ok := c.Lookup(revisionsPath)
	if !ok {
		err := fmt.Errorf("%s is missing: %w", revisionsPath, feed.ErrUntrusted)
		return nil, feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", revisionsPath, "signer", "")
	}
	ids, err := readRevisions(c)
	if errors.Is(err, feed.ErrDamaged) {
		return nil, err
	}
	if err == nil && (a.Class != feed.Metadata || a.Group != "") {
		err = errors.New("in the wrong group or class")
	}
	if err != nil {
		a.Group = "" // the whole depends on it
		return nil, errors.Join(refuse(out, a, err), untrusted(err))
	}
	err = out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "wsus-revisions", Strength: feed.Attested,
		Note: "made by our own outside: numbers for terminals, no content"})
	if err != nil {
		return nil, err
	}
	return ids, out.Mark("revisions "+hex.EncodeToString(ids.epoch[:4]), int64(len(ids.order)))
}

// seen is a revision in one of its forms, which have sums of their own: an
// extract lacks languages that a scan has.
type seen struct {
	identity
	form string
}

// namedBy is the scan that names a payload.
type namedBy struct {
	payload
	scan feed.Digest
}

// verifyScan checks one scan and adds what it names. Whatever is wrong with it
// withholds it alone, and with it the payload that only it names.
func verifyScan(c feed.Content, a feed.Artifact, trust feed.Trust, out feed.Proof, ids *revisions, named map[string]namedBy, sums map[seen][32]byte) error {
	if a.Group != a.Path { // a scan's: of what it names too
		err := fmt.Errorf("%s: in the group %.100q: %w", a.Path, a.Group, feed.ErrUntrusted)
		return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", a.Path, "signer", "")
	}
	s, err := openSource(c, a)
	if errors.Is(err, feed.ErrDamaged) {
		return err
	}
	var list []payload
	if err == nil {
		group := ""
		if isScan(a) {
			group = a.Group
		}
		list, err = s.payloads(group)
	}
	if err == nil {
		err = agrees(a, s, ids, sums)
	}
	if err != nil {
		return refuse(out, a, err)
	}
	ev := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "wsus-drop", Strength: feed.Attested, Note: "taken from the drop directory"}
	switch {
	case isBatch(a): // nobody signs it; the connection to the server that sent it is on the card
		ev.Method, ev.Note = "wsus-server", "as an upstream server sent it"
	case isPublished(a):
		ev.Method, ev.Note = "wsus-published", "made by our own outside of a package in dirs.publish"
	case isExtract(a):
		ev.Method, ev.Note = "wsus-extract", "taken by our own outside from "+offlineName
	}
	if err := out.Evidence(ev); err != nil {
		return err
	}
	switch {
	case isScan(a):
		err = scanSignature(a, trust, out)
	case isExtract(a):
		err = verifyExtract(c, a, s.head, trust, out)
	}
	if err != nil {
		return err
	}
	for _, p := range list {
		if _, ok := named[p.Path]; !ok {
			named[p.Path] = namedBy{p, a.Digest}
		}
	}
	return nil
}

// scanSignature records a scan's own signature, where it has one.
func scanSignature(a feed.Artifact, trust feed.Trust, out feed.Proof) error {
	return out.Once(a, "authenticode", func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, verifier.Microsoft(), trust)
		if errors.Is(err, verifier.ErrUnsigned) { // metadata need not be signed; a broken signature is another matter
			return feed.Evidence{Strength: feed.Attested, Note: "no signature of its own"}, nil
		}
		return ev, err
	})
}

func formOf(a feed.Artifact) string {
	switch {
	case isBatch(a):
		return batchPrefix
	case isExtract(a):
		return extractPrefix
	case isPublished(a):
		return publishedPrefix
	}
	return ""
}

func openSource(c feed.Content, a feed.Artifact) (*scan, error) {
	f, err := c.Open(a.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s: no random access: %w", a.Path, feed.ErrDamaged)
	}
	return readSource(a, r, nil)
}

// agrees compares a scan with its artifact, with the map of revisions and with
// the scans before it: one revision has one content.
func agrees(a feed.Artifact, s *scan, ids *revisions, sums map[seen][32]byte) error {
	if want := sourceArtifact(a, s); a.Path != want.Path || !a.Time.Equal(want.Time) {
		return upstream("not as the snapshot describes it")
	}
	for id, sum := range s.sums {
		if ids.ids[id] == 0 {
			return upstream("%s has no revision id", id)
		}
		if had, ok := sums[seen{id, formOf(a)}]; ok && had != sum {
			return upstream("%s with two contents", id)
		}
	}
	for id, sum := range s.sums {
		sums[seen{id, formOf(a)}] = sum
	}
	return nil
}

// signable are the containers that can carry a signature: true if it is read
// and decides. A package for the Store is not read yet.
var signable = map[string]bool{".cab": true, ".msu": true, ".exe": true, ".dll": true, ".msi": true, ".msp": true, ".appx": false, ".msix": false}

func verifyPayload(a feed.Artifact, trust feed.Trust, out feed.Proof, named map[string]namedBy) error {
	n, ok := named[a.Path]
	switch {
	case !ok:
		return refuse(out, a, errors.New("no metadata names it"))
	case a.Digest != n.SHA256 || a.Size != n.file.Size:
		return refuse(out, a, fmt.Errorf("the metadata names %s", n.SHA256))
	case a.Group != n.Group:
		return refuse(out, a, fmt.Errorf("in the group %.100q", a.Group))
	case a.Class != n.Class || a.Version != n.Artifact.Version || !a.Time.Equal(n.Artifact.Time):
		return refuse(out, a, errors.New("not as the metadata describes it"))
	}
	held := false
	err := out.Once(a, "wsus-sha1 "+hex.EncodeToString(n.SHA1[:]), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		h := sha1.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
		}
		if [20]byte(h.Sum(nil)) != n.SHA1 {
			held = true
			return feed.Evidence{}, fmt.Errorf("SHA-1 is not that of the metadata: %w", feed.ErrUntrusted)
		}
		return feed.Evidence{Strength: feed.None, Note: "SHA-1 as the metadata says"}, nil
	})
	if err != nil || held {
		return err
	}
	return signatures(a, n, trust, out)
}

// signatures records the chain by way of the metadata, and the file's own. A
// container that can carry a signature and whose own is not read is worth no
// more than the word of our outside.
func signatures(a feed.Artifact, n namedBy, trust feed.Trust, out feed.Proof) error {
	ext := path.Ext(a.Path)
	link := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "wsus-metadata", Strength: feed.Signed, Via: n.scan}
	read, can := signable[ext]
	switch {
	case read:
		link.Strength = feed.Attested // its own signature decides
	case can:
		link.Strength, link.Note = feed.Attested, "its own signature was not read"
	}
	if err := out.Evidence(link); err != nil || !read {
		return err
	}
	by, method := verifier.Microsoft(), "authenticode"
	if strings.HasPrefix(n.Group, publishedGroup) {
		by, method = ownPublisher(trust), "authenticode-own"
	}
	return out.Once(a, method, func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, by, trust)
		return ev, untrusted(err)
	})
}

// usePublisher is the Use of a body's own certificate, which a trust order adds.
const usePublisher = "x509-publisher"

// ownPublisher is who may sign what is published here: the organisations of the
// certificates that trust orders added. Without one nothing holds.
func ownPublisher(trust feed.Trust) verifier.Publisher {
	p := verifier.Publisher{Roots: usePublisher}
	for _, a := range trust.For(usePublisher) {
		der := a.Data
		if b, _ := pem.Decode(a.Data); b != nil {
			der = b.Bytes
		}
		if c, err := x509.ParseCertificate(der); err == nil {
			p.Names = append(p.Names, c.Subject.Organization...)
		}
	}
	return p
}

func refuse(out feed.Proof, a feed.Artifact, why error) error {
	return out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "wsus", Refused: why.Error()})
}
