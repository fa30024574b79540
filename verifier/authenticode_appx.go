package verifier

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
)

// appPackage (.appx, .msix and bundles of them): the signature states five
// digests (package appx, Digests) and nothing else covers the archive. After
// the signature holds, the block map must fit every file, and the manifest's
// publisher must be the signer's subject, as Windows demands. The packages in a
// bundle are covered by the bundle's signature; each must be whole in itself
// and have the bundle's name and publisher.
func appPackage(r io.ReaderAt, size int64) (container, error) {
	p, err := appx.Open(r, size)
	if err != nil {
		return container{}, appxErr(err)
	}
	c := container{digest: func(h crypto.Hash) ([]byte, error) {
		d, err := p.Digests(h)
		return d, appxErr(err)
	}}
	c.whole = func(leaf *x509.Certificate, h crypto.Hash) (string, error) {
		i, err := checkPackage(p, h)
		if err != nil {
			return "", appxErr(err)
		}
		if !samePublisher(i.Publisher, leaf) {
			return "", fmt.Errorf("package of publisher %.200q, signed by %.200q: %w", i.Publisher, leaf.Subject, feed.ErrUntrusted)
		}
		return "package " + i.FullName(), nil
	}
	if c.signature, err = p.SignatureBlock(maxSignature); err != nil {
		return c, appxErr(err)
	}
	if c.signature == nil {
		return c, ErrUnsigned
	}
	return c, nil
}

// checkPackage holds the block map and a bundle's packages against their files.
func checkPackage(p *appx.Package, h crypto.Hash) (appx.Info, error) {
	i, err := p.Info()
	if err != nil {
		return i, err
	}
	inside := map[string]bool{}
	for _, in := range i.Packages {
		inside[in.File] = true
	}
	if err := p.CheckBlocks(h, func(name string) bool { return inside[name] }); err != nil {
		return i, err
	}
	for _, in := range i.Packages {
		q, err := p.Open(in)
		if err == nil {
			err = checkInner(q, i, in, h)
		}
		if err != nil {
			return i, fmt.Errorf("%.200s: %w", in.File, err)
		}
	}
	return i, nil
}

func checkInner(q *appx.Package, bundle appx.Info, in appx.Inner, h crypto.Hash) error {
	j, err := q.Info()
	if err != nil {
		return err
	}
	if j.Bundle || j.Name != bundle.Name || j.Publisher != bundle.Publisher || j.Version != in.Version || j.Architecture != in.Architecture {
		return fmt.Errorf("%s is not what the bundle says: %w", j.FullName(), appx.ErrFormat)
	}
	return q.CheckBlocks(h, nil)
}

func appxErr(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, appx.ErrFormat):
		return fmt.Errorf("app package: %w: %w", err, feed.ErrUntrusted)
	}
	return fmt.Errorf("app package: %w: %w", err, feed.ErrDamaged)
}

// samePublisher compares a manifest's publisher with the signer's subject, one
// attribute after the other: the string names the last one first (X.500, as
// CertNameToStr writes it with CERT_NAME_STR_REVERSE_FLAG).
func samePublisher(publisher string, leaf *x509.Certificate) bool {
	want, err := parseName(publisher)
	if err != nil {
		return false
	}
	var have pkix.RDNSequence
	if rest, err := asn1.Unmarshal(leaf.RawSubject, &have); err != nil || len(rest) > 0 || len(have) != len(want) {
		return false
	}
	slices.Reverse(have)
	for i, rdn := range have {
		if len(rdn) != 1 {
			return false // several in one: no tool writes such a package
		}
		v, ok := rdn[0].Value.(string)
		if !ok || !rdn[0].Type.Equal(want[i].Type) || v != want[i].Value {
			return false
		}
	}
	return true
}

// nameTypes are the names that a publisher may use (ST_Publisher of the
// manifest's schema), and what they mean.
func nameTypes() map[string]asn1.ObjectIdentifier {
	at := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 4, n} }
	return map[string]asn1.ObjectIdentifier{
		"CN": at(3), "SN": at(4), "SERIALNUMBER": at(5), "C": at(6), "L": at(7), "S": at(8), "ST": at(8), "STREET": at(9),
		"O": at(10), "OU": at(11), "T": at(12), "PHONE": at(20), "POSTALCODE": at(17), "G": at(42), "I": at(43), "X21ADDRESS": at(24),
		"DC": {0, 9, 2342, 19200300, 100, 1, 25}, "E": {1, 2, 840, 113549, 1, 9, 1},
	}
}

// parseName reads "CN=…, O=\"a, b\", OID.2.5.4.15=…": a comma or semicolon
// parts; a value in quotation marks has them doubled inside.
func parseName(s string) ([]pkix.AttributeTypeAndValue, error) {
	types := nameTypes()
	var out []pkix.AttributeTypeAndValue
	for s = strings.TrimSpace(s); s != ""; {
		key, rest, ok := strings.Cut(s, "=")
		key = strings.ToUpper(strings.TrimSpace(key))
		a := pkix.AttributeTypeAndValue{Type: types[key]}
		if dotted, is := strings.CutPrefix(key, "OID."); is {
			a.Type = dottedOID(dotted)
		}
		if !ok || a.Type == nil || len(out) == 32 {
			return nil, fmt.Errorf("distinguished name: %.80q", s)
		}
		value, rest, err := nameValue(strings.TrimLeft(rest, " "))
		if err != nil {
			return nil, err
		}
		a.Value = value
		out, s = append(out, a), rest
	}
	if len(out) == 0 {
		return nil, errors.New("empty distinguished name")
	}
	return out, nil
}

func nameValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, ",;+")
		if i < 0 {
			i = len(s)
		} else if s[i] == '+' {
			return "", "", errors.New("distinguished name: several attributes in one")
		}
		value, rest = strings.TrimRight(s[:i], " "), s[i:]
	} else {
		var b strings.Builder
		for s = s[1:]; ; {
			part, after, ok := strings.Cut(s, `"`)
			if !ok {
				return "", "", errors.New("distinguished name: open quotation")
			}
			b.WriteString(part)
			if !strings.HasPrefix(after, `"`) {
				value, rest = b.String(), strings.TrimLeft(after, " ")
				break
			}
			b.WriteByte('"')
			s = after[1:]
		}
	}
	if value == "" || rest != "" && rest[0] != ',' && rest[0] != ';' {
		return "", "", errors.New("distinguished name: value")
	}
	if strings.HasPrefix(value, "#") {
		if _, err := hex.DecodeString(value[1:]); err == nil {
			return "", "", errors.New("distinguished name: encoded value")
		}
	}
	if rest = strings.TrimLeft(strings.TrimLeft(rest, ",;"), " "); rest == "" {
		return value, "", nil
	}
	return value, rest, nil
}

func dottedOID(s string) asn1.ObjectIdentifier {
	var out asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n := 0
		if _, err := fmt.Sscanf(part, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != part || len(out) == 20 {
			return nil
		}
		out = append(out, n)
	}
	return out
}
