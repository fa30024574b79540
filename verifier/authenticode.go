package verifier

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Authenticode ("Windows Authenticode Portable Executable Signature Format",
// 2008; Windows SDK wintrust.h for cabinets): PKCS#7 SignedData over an
// SpcIndirectDataContent that holds the file's digest. Policy:
//
//   - Only SHA-256 and better prove anything. A file that carries a SHA-1
//     signature alone counts as not signed; its digest in signed or attested
//     metadata must do.
//   - Of several signatures (nested ones, "dual signing") the strongest hash
//     decides, whichever place it has: one of that strength must hold.
//   - The signer has the name that is asked for, its certificate is for code
//     signing and leads to a root pinned here.
//   - The chain is judged at the time of a time stamp (RFC 3161, or the older
//     counter-signature) that leads to a pinned root too; without one, at
//     Trust.At. So an expired root or certificate still holds for what was
//     stamped in its life, and not otherwise.
//   - Revocation is by order (feed.Distrust) only: no network.
//   - What no signature covers (reserved fields, bytes behind the signature or
//     inside its padding) must be as every signing tool writes it.

// Source of all three: Microsoft's list of trusted roots (authroot.stl).
// SHA-256 of the DER:
//
//	2010             DF545BF919A2439C36983B54CDFC903DFA4F37D3996D8D84B4C31EEC6F3C163E
//	2011             847DF6A78497943F27FC72EB93F9A637320A02B561D0A91B09E87A7807ED7C61
//	Time Stamp 2014  65AF95F4BE86847344634282F941B2E605063EF0C8542F014CA088D182109E4F
var (
	//go:embed anchors/microsoft-root-2010.crt
	microsoftRoot2010 []byte
	//go:embed anchors/microsoft-root-2011.crt
	microsoftRoot2011 []byte
	//go:embed anchors/microsoft-timestamp-root-2014.crt
	microsoftStampRoot2014 []byte
)

const useMicrosoft = "x509-microsoft" // root certificates, PEM

// MicrosoftAnchors are the roots pinned in this build.
func MicrosoftAnchors() []feed.Anchor {
	const source = "Microsoft's list of trusted roots (authroot.stl)"
	return []feed.Anchor{
		{Name: "microsoft-root-2010", Use: useMicrosoft, Data: microsoftRoot2010, Source: source},
		{Name: "microsoft-root-2011", Use: useMicrosoft, Data: microsoftRoot2011, Source: source},
		{Name: "microsoft-timestamp-root-2014", Use: useMicrosoft, Data: microsoftStampRoot2014, Source: source},
	}
}

// MicrosoftRoot2011 is the root (DER) that the certificates of Microsoft's own
// update servers lead to, which machines do not know by default.
func MicrosoftRoot2011() []byte {
	if p, _ := pem.Decode(microsoftRoot2011); p != nil {
		return p.Bytes
	}
	return bytes.Clone(microsoftRoot2011)
}

// Publisher is who must have signed.
type Publisher struct {
	Roots string // Use of the anchors that its certificate may lead to
	// Names are organisations (O) of its certificate: exactly one of these. One
	// that begins with "CN=" is the whole distinguished name, as the manifests of
	// app packages write it: certificates of the Store and of a town's own
	// authority may have no organisation.
	Names []string
}

// Microsoft is the publisher of Windows and of all that Windows Update carries.
func Microsoft() Publisher { return Publisher{useMicrosoft, []string{microsoftName}} }

// ErrUnsigned: the file carries no signature at all.
var ErrUnsigned = fmt.Errorf("no Authenticode signature: %w", feed.ErrUntrusted)

var (
	oidSpcIndirect  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidSpcNested    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 4, 1}
	oidSpcTimeStamp = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 3, 3, 1}
	oidTSTInfo      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidCounterSign  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 6}
)

const (
	microsoftName  = "Microsoft Corporation"
	maxNested      = 8
	maxSignature   = 1 << 20
	maxSignedAttrs = 64
)

type spcIndirect struct {
	Data   asn1.RawValue
	Digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
}

// Authenticode checks the signature that a Windows file carries. The first
// bytes tell the container, not the name: a program (PE), a cabinet (.cab,
// .msu), an installer package or patch (.msi, .msp), or an app package or
// bundle (.appx, .msix, .appxbundle, .msixbundle).
//
// ErrUnsigned if there is no signature or the container cannot carry one, else
// ErrUntrusted if it does not hold.
func Authenticode(r io.ReaderAt, size int64, by Publisher, trust feed.Trust) (feed.Evidence, error) {
	c, err := containerOf(r, size)
	if err != nil {
		return feed.Evidence{}, err
	}
	roots, anchors, err := x509Roots(trust, by.Roots)
	if err != nil {
		return feed.Evidence{}, err
	}
	all, err := signaturesIn(c.signature)
	if err != nil {
		return feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
	}
	var why []error
	for _, one := range strongest(all) {
		s, h, err := spcSignature(one, c.digest)
		if err == nil {
			err = s.judge(by, trust, roots, anchors)
		}
		note := ""
		if err == nil && c.whole != nil {
			note, err = c.whole(s.leaf, h)
		}
		if err == nil {
			ev := s.evidence("authenticode")
			ev.Note = note
			return ev, nil
		}
		why = append(why, err)
	}
	return feed.Evidence{}, fmt.Errorf("%w: %w", errors.Join(why...), feed.ErrUntrusted)
}

// container is a signed file: its signature block, and its digest by the
// container's own rules.
type container struct {
	signature []byte
	digest    func(crypto.Hash) ([]byte, error)
	// whole checks what the digest alone does not say, once the signature
	// holds: the note for the origin card. nil if there is nothing.
	whole func(*x509.Certificate, crypto.Hash) (string, error)
}

func containerOf(r io.ReaderAt, size int64) (container, error) {
	var magic [8]byte
	n := min(size, int64(len(magic)))
	if _, err := r.ReadAt(magic[:n], 0); err != nil && !errors.Is(err, io.EOF) {
		return container{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	switch {
	case string(magic[:4]) == "MSCF":
		return cabinet(r, size)
	case string(magic[:2]) == "MZ":
		return program(r, size)
	case string(magic[:]) == "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1":
		return installer(r, size)
	case string(magic[:4]) == "PK\x03\x04":
		return appPackage(r, size)
	}
	return container{}, fmt.Errorf("no container that can be signed: %w", ErrUnsigned)
}

// strongest are the signatures with the longest hash among them. SHA-1 has no
// length here: if there is nothing else, one of them is returned, to say so.
func strongest(all [][]byte) [][]byte {
	var out [][]byte
	best := -1
	for _, der := range all {
		n := 0
		if sd, _, err := signedData(der, oidSpcIndirect); err == nil {
			if h, err := cmsHash(sd.Signers[0].Digest.Algorithm); err == nil {
				n = h.Size()
			}
		}
		switch {
		case n > best:
			best, out = n, append(out[:0], der)
		case n == best:
			out = append(out, der)
		}
	}
	if best == 0 {
		return out[:1]
	}
	return out
}

// signaturesIn lists the outer signature and those nested in it.
func signaturesIn(der []byte) ([][]byte, error) {
	sd, _, err := signedData(der, oidSpcIndirect)
	if err != nil {
		return nil, err
	}
	attrs, err := unsigned(sd.Signers[0])
	if err != nil {
		return nil, err
	}
	out := [][]byte{der}
	for _, a := range attrs {
		if !a.Type.Equal(oidSpcNested) {
			continue
		}
		for raw := a.Values.Bytes; len(raw) > 0 && len(out) <= maxNested; {
			var v asn1.RawValue
			if raw, err = asn1.Unmarshal(raw, &v); err != nil {
				return out, err
			}
			out = append(out, v.FullBytes)
		}
	}
	return out, nil
}

func wholeSigner(si cmsSignerInfo) error {
	n := 5
	for _, v := range []asn1.RawValue{si.Signed, si.Unsigned} {
		if len(v.FullBytes) > 0 {
			n++
		}
	}
	if !has(si.Raw, n) {
		return errors.New("more in the signer than belongs there")
	}
	return nil
}

// unsigned lists the attributes outside the signature.
func unsigned(si cmsSignerInfo) ([]cmsAttribute, error) {
	var out []cmsAttribute
	for raw := si.Unsigned.Bytes; len(raw) > 0; {
		var a cmsAttribute
		rest, err := asn1.Unmarshal(raw, &a)
		if err != nil || len(out) >= maxSignedAttrs || a.Values.Class != asn1.ClassUniversal || a.Values.Tag != asn1.TagSet || !a.Values.IsCompound {
			return nil, fmt.Errorf("PKCS#7: unsigned attributes: %w", errors.Join(err, errors.New("malformed")))
		}
		out, raw = append(out, a), rest
	}
	return out, nil
}

// msSigner is a signature that holds; who made it is not judged yet.
type msSigner struct {
	cmsSigner
	info  cmsSignerInfo
	stamp *msSigner // with the time; nil without one
}

// spcSignature checks one signature over the file.
func spcSignature(der []byte, digest func(crypto.Hash) ([]byte, error)) (*msSigner, crypto.Hash, error) {
	sd, content, err := signedData(der, oidSpcIndirect)
	if err != nil {
		return nil, 0, err
	}
	s, h, err := signerIn(sd, content, oidSpcIndirect)
	if err != nil {
		return nil, 0, err
	}
	// content lacks its own tag; the two members follow each other.
	var spc spcIndirect
	rest, err := asn1.Unmarshal(content, &spc.Data)
	if err == nil {
		rest, err = asn1.Unmarshal(rest, &spc.Digest)
	}
	if err != nil || len(rest) > 0 {
		return nil, 0, errors.New("Authenticode: malformed content")
	}
	if of, err := cmsHash(spc.Digest.Algorithm.Algorithm); err != nil || of != h {
		return nil, 0, errors.New("Authenticode: two hash algorithms")
	}
	want, err := digest(h)
	if err != nil {
		return nil, 0, err
	}
	if !bytes.Equal(want, spc.Digest.Digest) {
		return nil, 0, errors.New("Authenticode: signature of another file")
	}
	return s, h, s.stamped()
}

// signedAttributes returns the signed digest; the content type must be kind.
func signedAttributes(raw []byte, kind asn1.ObjectIdentifier) (digest []byte, err error) {
	typed := false
	for n := 0; len(raw) > 0; n++ {
		var a cmsAttribute
		if raw, err = asn1.Unmarshal(raw, &a); err != nil || n > maxSignedAttrs {
			return nil, errors.New("PKCS#7: malformed attributes")
		}
		var rest []byte
		switch {
		case a.Type.Equal(oidMessageDigest) && digest == nil:
			rest, err = asn1.Unmarshal(a.Values.Bytes, &digest)
		case a.Type.Equal(oidContentType) && !typed:
			var t asn1.ObjectIdentifier
			rest, err = asn1.Unmarshal(a.Values.Bytes, &t)
			typed = t.Equal(kind)
		case a.Type.Equal(oidMessageDigest), a.Type.Equal(oidContentType):
			err = errors.New("twice")
		}
		if err != nil || len(rest) > 0 {
			return nil, fmt.Errorf("PKCS#7: attribute %s: not one value", a.Type)
		}
	}
	if len(digest) == 0 || !typed {
		return nil, errors.New("PKCS#7: attributes without digest or content type")
	}
	return digest, nil
}

// judge leads signer and time stamp to pinned roots.
func (s *msSigner) judge(by Publisher, trust feed.Trust, roots *x509.CertPool, anchors map[string]feed.Anchor) error {
	at := trust.At
	if s.stamp != nil {
		at = s.stamp.time
		if at.After(trust.At.Add(clockAllowance)) {
			return fmt.Errorf("stamped in the future, %s", at.Format(time.RFC3339))
		}
		if err := s.stamp.leads(at, trust, roots, anchors, x509.ExtKeyUsageTimeStamping); err != nil {
			return fmt.Errorf("time stamp: %w", err)
		}
	}
	if !by.is(s.leaf) {
		return fmt.Errorf("signed by %.200q, not by %s", s.leaf.Subject, strings.Join(by.Names, " or "))
	}
	return s.leads(at, trust, roots, anchors, x509.ExtKeyUsageCodeSigning)
}

// is reports whether the certificate has one of the publisher's names.
func (by Publisher) is(leaf *x509.Certificate) bool {
	o := leaf.Subject.Organization
	return slices.ContainsFunc(by.Names, func(name string) bool {
		if strings.HasPrefix(name, "CN=") {
			return samePublisher(name, leaf)
		}
		return len(o) == 1 && o[0] == name
	})
}

func (s *msSigner) leads(at time.Time, trust feed.Trust, roots *x509.CertPool, anchors map[string]feed.Anchor, usage x509.ExtKeyUsage) error {
	inter := x509.NewCertPool()
	for _, c := range s.others {
		inter.AddCert(c)
	}
	chains, err := s.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", s.leaf.Subject.CommonName, err)
	}
	why := error(nil)
	for _, chain := range chains {
		if why = trustedChain(trust, chain, s.time); why == nil {
			s.anchor = anchors[string(chain[len(chain)-1].Raw)]
			return nil
		}
	}
	return why
}

// digestOf hashes ranges of a file.
func digestOf(h crypto.Hash, r io.ReaderAt, ranges ...[2]int64) ([]byte, error) {
	d := h.New()
	for _, x := range ranges {
		if _, err := io.Copy(d, io.NewSectionReader(r, x[0], x[1]-x[0])); err != nil {
			return nil, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
		}
	}
	return d.Sum(nil), nil
}

// Signers are the names in the certificates of a file's Authenticode
// signatures, as they say it: nothing is proved by them. For a person who is to
// decide whom to pin; nil if there is no signature that can be read.
func Signers(r io.ReaderAt, size int64) []string {
	c, err := containerOf(r, size)
	if err != nil {
		return nil
	}
	all, _ := signaturesIn(c.signature) // what was read before an error is enough to show
	var out []string
	for _, der := range all {
		s, _, err := spcSignature(der, c.digest)
		if err != nil {
			continue
		}
		name := strings.Join(s.leaf.Subject.Organization, ", ")
		if name == "" {
			name = s.leaf.Subject.String()
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
