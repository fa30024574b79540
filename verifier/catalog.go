package verifier

import (
	"crypto"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
)

// Catalog is a security catalogue (.cat): a signed list of the digests of
// other files. It is PKCS#7 over a certificate trust list ([MS-CAESO] §4.4.5.1
// names the object identifiers; the list itself is Microsoft's wincrypt.h CTL).
type Catalog struct {
	Evidence feed.Evidence // of the catalogue's own signature
	members  map[string]bool
}

var (
	oidTrustList   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 10, 1}
	oidCatalogList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 12, 1, 1}
)

const (
	maxCatalog = 64 << 20
	maxMembers = 1 << 20
)

// OpenCatalog checks a catalogue's signature and reads its list. Errors as
// those of Authenticode. Members that are listed with SHA-1 only are passed
// over.
func OpenCatalog(r io.ReaderAt, size int64, by Publisher, trust feed.Trust) (*Catalog, error) {
	if size > maxCatalog {
		return nil, fmt.Errorf("catalogue of %d bytes: %w", size, feed.ErrUntrusted)
	}
	der := make([]byte, size)
	if _, err := r.ReadAt(der, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	roots, anchors, err := x509Roots(trust, by.Roots)
	if err != nil {
		return nil, err
	}
	c, err := openCatalog(der, func(s *msSigner) error { return s.judge(by, trust, roots, anchors) })
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w: %w", err, feed.ErrUntrusted)
	}
	return c, nil
}

func openCatalog(der []byte, judge func(*msSigner) error) (*Catalog, error) {
	sd, content, err := signedData(der, oidTrustList)
	if err != nil {
		return nil, err
	}
	s, _, err := signerIn(sd, content, oidTrustList)
	if err != nil {
		return nil, err
	}
	if err := s.stamped(); err != nil {
		return nil, err
	}
	if err := judge(s); err != nil {
		return nil, err
	}
	c := &Catalog{Evidence: s.evidence("catalogue"), members: map[string]bool{}}
	return c, c.read(content)
}

// read goes through the list: version (absent), usage, identifier, number,
// dates, algorithm, then the members.
func (c *Catalog) read(list []byte) error {
	first, usage := true, false
	for len(list) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(list, &v)
		if err != nil {
			return err
		}
		list = rest
		if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagSequence {
			continue
		}
		switch {
		case first: // what the list is for
			first = false
			var use asn1.ObjectIdentifier
			if _, err := asn1.Unmarshal(v.Bytes, &use); err != nil || !use.Equal(oidCatalogList) {
				return errors.New("a list for something else")
			}
			usage = true
		case len(v.Bytes) > 0 && v.Bytes[0] == asn1.TagOID: // the algorithm
		default:
			return c.readMembers(v.Bytes)
		}
	}
	if !usage {
		return errors.New("no list")
	}
	return nil // an empty one
}

func (c *Catalog) readMembers(raw []byte) error {
	for n := 0; len(raw) > 0; n++ {
		var m struct {
			ID    []byte
			Attrs asn1.RawValue `asn1:"optional,set"`
		}
		rest, err := asn1.Unmarshal(raw, &m)
		if err != nil || n >= maxMembers {
			return fmt.Errorf("member %d: %w", n, errors.Join(err, errors.New("malformed")))
		}
		raw = rest
		if err := c.member(m.Attrs.Bytes); err != nil {
			return fmt.Errorf("member %d: %w", n, err)
		}
	}
	return nil
}

// member notes the digest of one member's SpcIndirectDataContent.
func (c *Catalog) member(attrs []byte) error {
	for len(attrs) > 0 {
		var a cmsAttribute
		rest, err := asn1.Unmarshal(attrs, &a)
		if err != nil {
			return err
		}
		attrs = rest
		if !a.Type.Equal(oidSpcIndirect) {
			continue
		}
		var spc spcIndirect
		if _, err := asn1.Unmarshal(a.Values.Bytes, &spc); err != nil {
			return err
		}
		if h, err := cmsHash(spc.Digest.Algorithm.Algorithm); err == nil && len(spc.Digest.Digest) == h.Size() {
			c.members[h.String()+string(spc.Digest.Digest)] = true
		}
	}
	return nil
}

// Members is how many digests (SHA-256 or better) the catalogue lists.
func (c *Catalog) Members() int { return len(c.members) }

// Lists checks that the catalogue lists a file: a program or cabinet by its
// Authenticode digest, whether it carries a signature or not, anything else by
// the digest of all its bytes. ErrUntrusted if it does not.
func (c *Catalog) Lists(r io.ReaderAt, size int64) (feed.Evidence, error) {
	digest := func(h crypto.Hash) ([]byte, error) { return digestOf(h, r, [2]int64{0, size}) }
	if box, err := containerOf(r, size); box.digest != nil && box.whole == nil {
		digest = box.digest
	} else if err != nil && !errors.Is(err, feed.ErrUntrusted) {
		return feed.Evidence{}, err
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		sum, err := digest(h)
		if err != nil {
			return feed.Evidence{}, err
		}
		if c.members[h.String()+string(sum)] {
			ev := c.Evidence
			ev.Method, ev.Note = "catalogue-member", "listed in a signed catalogue"
			return ev, nil
		}
	}
	return feed.Evidence{}, fmt.Errorf("not listed in the catalogue: %w", feed.ErrUntrusted)
}
