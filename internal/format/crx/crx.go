// Package crx reads Chrome extension packages, CRX3 (Chromium,
// components/crx_file/crx3.proto and crx_verifier.cc):
//
//	"Cr24" · uint32 3 · uint32 length · CrxFileHeader (protobuf) · ZIP
//
// A package is signed by its developer; the identity of an extension is a hash
// of the developer's key, so no anchor is needed: whoever names the identity
// names the key.
package crx

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hashike/hashike/internal/format/zipfile"
)

// ErrFormat: not a CRX3 package, or one whose signatures do not hold.
var ErrFormat = errors.New("CRX3")

// Limits.
const (
	MaxSize     = 1 << 30
	maxHeader   = 1 << 18 // Chromium's own
	maxProofs   = 16
	maxManifest = 1 << 20
	maxFiles    = 100_000
)

// Package is what a package says of itself. All of it is signed.
type Package struct {
	ID      string   // 32 letters a to p
	Keys    []string // SHA-256 of each signer's public key, upper-case hex
	Version string   // manifest.json
	Name    string   // manifest.json; "__MSG_…__" where it is translated
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// proof is an AsymmetricKeyProof.
type proof struct {
	key, signature []byte
	ecdsa          bool
}

// Read checks every signature of the package, that one of them is by the key
// of its identity, and reads its manifest.
func Read(r io.ReaderAt, size int64) (Package, error) {
	var p Package
	var fixed [12]byte
	if size < int64(len(fixed)) || size > MaxSize {
		return p, bad("%d bytes", size)
	}
	if _, err := r.ReadAt(fixed[:], 0); err != nil {
		return p, err
	}
	n := int64(binary.LittleEndian.Uint32(fixed[8:]))
	if string(fixed[:4]) != "Cr24" || binary.LittleEndian.Uint32(fixed[4:]) != 3 {
		return p, bad("another format or version")
	}
	if n == 0 || n > maxHeader || int64(len(fixed))+n > size {
		return p, bad("header of %d bytes", n)
	}
	header := make([]byte, n)
	if _, err := r.ReadAt(header, int64(len(fixed))); err != nil {
		return p, err
	}
	proofs, data, err := parseHeader(header)
	if err != nil {
		return p, err
	}
	at := int64(len(fixed)) + n
	archive := io.NewSectionReader(r, at, size-at)
	if err := p.check(proofs, data, archive); err != nil {
		return p, err
	}
	return p, p.manifest(archive, size-at)
}

// fields calls f for each field of a message; only length-delimited ones are
// of use here.
func fields(b []byte, f func(n protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return bad("a header that is no CrxFileHeader")
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return bad("a header that is cut off")
		}
		if err := f(num, v); err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}

func parseHeader(b []byte) (proofs []proof, data []byte, err error) {
	err = fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 2, 3: // sha256_with_rsa, sha256_with_ecdsa
			p := proof{ecdsa: n == 3}
			if len(proofs) == maxProofs {
				return bad("more than %d signatures", maxProofs)
			}
			err := fields(v, func(n protowire.Number, v []byte) error {
				switch n {
				case 1:
					p.key = v
				case 2:
					p.signature = v
				}
				return nil
			})
			proofs = append(proofs, p)
			return err
		case 10000: // signed_header_data
			if data != nil {
				return bad("signed data twice")
			}
			data = v
		}
		return nil
	})
	if err == nil && (len(proofs) == 0 || data == nil) {
		err = bad("not signed")
	}
	return proofs, data, err
}

// check verifies all proofs over data and archive.
func (p *Package) check(proofs []proof, data []byte, archive *io.SectionReader) error {
	var id []byte
	if err := fields(data, func(n protowire.Number, v []byte) error {
		if n == 1 {
			id = v
		}
		return nil
	}); err != nil {
		return err
	}
	if len(id) != 16 {
		return bad("identity of %d bytes", len(id))
	}
	sum, err := signedSum(data, archive)
	if err != nil {
		return err
	}
	own := false
	for _, x := range proofs {
		k := sha256.Sum256(x.key)
		if err := x.verify(sum); err != nil {
			return err
		}
		own = own || bytes.Equal(k[:16], id)
		p.Keys = append(p.Keys, fmt.Sprintf("%X", k))
	}
	if !own {
		return bad("not signed by the key of its identity")
	}
	p.ID = textID(id)
	return nil
}

// signedSum is the SHA-256 of what is signed.
func signedSum(data []byte, archive *io.SectionReader) ([]byte, error) {
	var h hash.Hash = sha256.New()
	h.Write([]byte("CRX3 SignedData\x00"))
	h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(data))))
	h.Write(data)
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if _, err := io.Copy(h, archive); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

func (x proof) verify(sum []byte) error {
	key, err := x509.ParsePKIXPublicKey(x.key)
	if err != nil {
		return bad("a signer's key: %v", err)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if !x.ecdsa && k.N.BitLen() >= 2048 && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum, x.signature) == nil {
			return nil
		}
	case *ecdsa.PublicKey:
		if x.ecdsa && ecdsa.VerifyASN1(k, sum, x.signature) {
			return nil
		}
	}
	return bad("a signature that does not hold")
}

// textID maps hex digits 0-f to a-p (Chromium, crx_file/id_util.cc).
func textID(id []byte) string {
	var b strings.Builder
	for _, c := range id {
		b.WriteByte('a' + c>>4)
		b.WriteByte('a' + c&15)
	}
	return b.String()
}

// ValidID reports whether s is an extension's identity.
func ValidID(s string) bool { return len(s) == 32 && strings.Trim(s, "abcdefghijklmnop") == "" }

// manifest reads manifest.json at the archive's top.
func (p *Package) manifest(archive *io.SectionReader, size int64) error {
	z, err := zipfile.Open(archive, size)
	if err != nil || len(z.File) > maxFiles {
		return bad("archive: %v", err)
	}
	for _, f := range z.File {
		if f.Name != "manifest.json" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return bad("manifest.json: %v", err)
		}
		defer r.Close()
		raw, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
		if err != nil || len(raw) > maxManifest {
			return bad("manifest.json of over %d bytes (%v)", maxManifest, err)
		}
		var m struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		}
		if err := json.Unmarshal(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")), &m); err != nil {
			return bad("manifest.json: %v", err)
		}
		if !ValidVersion(m.Version) {
			return bad("version %.40q", m.Version)
		}
		p.Name, p.Version = m.Name, m.Version
		return nil
	}
	return bad("without manifest.json")
}

// ValidVersion: one to four numbers up to 65,535 without leading zeros
// (developer.chrome.com, manifest "version").
func ValidVersion(s string) bool {
	_, ok := ParseVersion(s)
	return ok
}

// ParseVersion reads a version; missing parts are zero.
func ParseVersion(s string) (v [4]uint16, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return v, false
	}
	for i, p := range parts {
		if p == "" || len(p) > 5 || p[0] == '0' && len(p) > 1 {
			return v, false
		}
		n := 0
		for _, c := range []byte(p) {
			if c < '0' || c > '9' {
				return v, false
			}
			n = n*10 + int(c-'0')
		}
		if n > 65535 {
			return v, false
		}
		v[i] = uint16(n)
	}
	return v, true
}
