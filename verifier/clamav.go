package verifier

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/clamav"
)

// clamavTarget is the functionality level of the oldest client that reads
// detached signatures (ClamAV 1.5.0).
const clamavTarget = 230

// ClamAVDatabase checks a CVD called db ("daily"): the signature of its list,
// every member against that list, the header against the list and by its own
// legacy signature, and that it is the database it is called. The whole file
// is read once as a stream. The evidence lacks Path and Subject.
//
// The legacy signature alone (MD5, RSA-1024) proves nothing; it is checked
// because clients check it.
func ClamAVDatabase(r io.ReaderAt, size int64, db string, trust feed.Trust) (clamav.Header, feed.Evidence, error) {
	var ev feed.Evidence
	h, err := clamav.ReadDatabase(r, size, db, clamav.Checks{
		Info: func(in clamav.Info) error {
			a, err := clamavVerify(trust, useClamAVInfo, sha256.Sum256(in.Signed), in.DSig)
			if err != nil {
				return fmt.Errorf("signature of the list: %w", err)
			}
			ev = clamavEvidence("clamav-info", a)
			return nil
		},
		Body: func(sum [md5.Size]byte, h clamav.Header) error {
			if h.MD5 != hex.EncodeToString(sum[:]) {
				return errors.New("MD5 of the body is not the header's")
			}
			return clamavLegacy(trust, sum, h.DSig)
		},
	})
	if err != nil {
		return h, feed.Evidence{}, untrusted(err)
	}
	ev.SignedAt = h.Time
	if ev.SignedAt.After(trust.At.Add(clockAllowance)) {
		return h, feed.Evidence{}, untrusted(fmt.Errorf("database built in the future, %s", h.Time))
	}
	return h, ev, nil
}

// ClamAVDiff checks a patch of db that leads to version: its signature, its
// number, and that its script edits this database. The evidence lacks Path and
// Subject.
func ClamAVDiff(r io.ReaderAt, size int64, db string, version int64, trust feed.Trust) (feed.Evidence, error) {
	d, err := clamav.ReadDiff(r, size)
	if err != nil {
		return feed.Evidence{}, untrusted(err)
	}
	if d.Version != version {
		return feed.Evidence{}, untrusted(fmt.Errorf("patch to version %d, not %d: renamed?", d.Version, version))
	}
	a, err := clamavVerify(trust, useClamAVCdiff, d.Sum, d.DSig)
	if err != nil {
		return feed.Evidence{}, untrusted(fmt.Errorf("signature of the patch: %w", err))
	}
	if err := d.CheckScript(r, db); err != nil {
		return feed.Evidence{}, untrusted(err)
	}
	return clamavEvidence("clamav-cdiff", a), nil
}

// ClamAVSign checks a .sign file over a file that is known by its digest. The
// evidence is that of the signed file; it lacks Path and Subject.
//
// As clients do, it takes the first signature that holds among those meant for
// ClamAV 1.5.0 or newer, and judges the certificates at trust.At.
func ClamAVSign(sign []byte, file feed.Digest, trust feed.Trust) (feed.Evidence, error) {
	sigs, err := clamav.ParseSign(sign)
	if err != nil {
		return feed.Evidence{}, untrusted(err)
	}
	roots, anchors, err := x509Roots(trust, useClamAVSign)
	if err != nil {
		return feed.Evidence{}, err
	}
	errs := []error{errors.New(".sign: no signature holds")}
	for _, s := range sigs {
		if s.Max < clamavTarget {
			continue
		}
		signer, err := cmsDetached(s.DER, func(h crypto.Hash) ([]byte, error) {
			if h != crypto.SHA256 || file.Sum() == nil {
				return nil, fmt.Errorf("hash %s", h)
			}
			return file.Sum(), nil
		})
		if err == nil {
			err = signer.chain(trust, roots, anchors, x509.ExtKeyUsageEmailProtection)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return signer.evidence("clamav-sign"), nil
	}
	return feed.Evidence{}, untrusted(errors.Join(errs...))
}

func clamavEvidence(method string, a feed.Anchor) feed.Evidence {
	return feed.Evidence{
		Method: method, Strength: feed.Signed, Signer: "ClamAV",
		KeyID: strings.ToUpper(a.SHA256().Hex()), Anchor: a.Name,
	}
}

func untrusted(err error) error {
	if errors.Is(err, feed.ErrUntrusted) || errors.Is(err, feed.ErrConfig) {
		return err
	}
	return fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
}

// clamavRSA is one of ClamAV's own public keys.
type clamavRSA struct{ n, e big.Int }

// clamavNumber reads ClamAV's number coding: base 64, least digit first, with
// an alphabet of its own and no padding (libclamav/dsig.c, cli_decodesig).
func clamavNumber(s string) (*big.Int, error) {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"
	if s == "" || len(s) > 512 {
		return nil, fmt.Errorf("signature of %d characters", len(s))
	}
	n := new(big.Int)
	for _, c := range slices.Backward([]byte(s)) {
		i := strings.IndexByte(alphabet, c)
		if i < 0 {
			return nil, errors.New("a signature has no such character")
		}
		n.Or(n.Lsh(n, 6), big.NewInt(int64(i)))
	}
	return n, nil
}

// raw is sig^E mod N; each signature has one spelling only.
func (k clamavRSA) raw(sig string) (*big.Int, error) {
	c, err := clamavNumber(sig)
	if err != nil {
		return nil, err
	}
	if c.Cmp(&k.n) >= 0 || len(sig) > 1 && sig[len(sig)-1] == 'a' {
		return nil, errors.New("signature is not in its shortest form")
	}
	return c.Exp(c, &k.e, &k.n), nil
}

// keysFor returns the pinned keys of one use that no order withdraws.
func keysFor(trust feed.Trust, use string) ([]feed.Anchor, error) {
	var out []feed.Anchor
	for _, a := range trust.For(use) {
		if !withdrawn(trust, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no %s key is pinned: %w", use, feed.ErrUntrusted)
	}
	return out, nil
}

// withdrawn reports whether an order distrusts a pinned key or root, named by
// its digest in either form. Signatures of such keys carry no time of their
// own that could be compared with the order's.
func withdrawn(trust feed.Trust, a feed.Anchor) bool {
	return slices.ContainsFunc(trust.Distrust, func(d feed.Distrust) bool {
		return d.KeyID == string(a.SHA256()) || strings.EqualFold(d.KeyID, a.SHA256().Hex())
	})
}

// clamavLegacy checks the header's signature: RSA without padding over an MD5.
func clamavLegacy(trust feed.Trust, sum [md5.Size]byte, dsig string) error {
	anchors, err := keysFor(trust, useClamAVCVD)
	if err != nil {
		return err
	}
	for _, a := range anchors {
		k, err := clamavKey(a)
		if err != nil {
			return err
		}
		m, err := k.raw(dsig)
		// libclamav left-aligns the result and so refuses an MD5 that begins
		// with a zero byte; the number is what counts.
		if err == nil && m.Cmp(new(big.Int).SetBytes(sum[:])) == 0 {
			return nil
		}
	}
	return errors.New("legacy signature of the header does not hold")
}

// clamavVerify checks a signature of ClamAV's second kind and returns the key.
func clamavVerify(trust feed.Trust, use string, sum [sha256.Size]byte, dsig string) (feed.Anchor, error) {
	anchors, err := keysFor(trust, use)
	if err != nil {
		return feed.Anchor{}, err
	}
	errs := make([]error, 0, len(anchors))
	for _, a := range anchors {
		k, err := clamavKey(a)
		if err == nil {
			err = k.verify(sum, dsig)
		}
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	return feed.Anchor{}, errors.Join(errs...)
}

// verify is PSS-like: SHA-256, MGF1, 32 bytes of salt, in an encoding of 256
// bytes whatever the length of the modulus (libclamav/dsig.c, cli_versig2).
// crypto/rsa.VerifyPSS wants the top bit of a shorter encoding to be zero and
// refuses about half of ClamAV's genuine files.
func (k clamavRSA) verify(sum [sha256.Size]byte, dsig string) error {
	const size, hash = 256, sha256.Size
	m, err := k.raw(dsig)
	if err != nil {
		return err
	}
	if m.BitLen() > size*8 {
		return errors.New("signature does not hold")
	}
	em := m.FillBytes(make([]byte, size))
	db, h := em[:size-hash-1], em[size-hash-1:size-1]
	ok := em[size-1] == 0xbc
	for i, c := range mgf1(h, len(db)) {
		db[i] ^= c
	}
	db[0] &= 0x7f
	zero, salt := db[:len(db)-hash-1], db[len(db)-hash:]
	ok = ok && len(bytes.Trim(zero, "\x00")) == 0 && db[len(zero)] == 1
	d := sha256.New()
	d.Write(make([]byte, 8))
	d.Write(sum[:])
	d.Write(salt)
	if !ok || !bytes.Equal(d.Sum(nil), h) {
		return errors.New("signature does not hold")
	}
	return nil
}

// mgf1 is RFC 8017 B.2.1 with SHA-256.
func mgf1(seed []byte, n int) []byte {
	var out []byte
	for i := byte(0); len(out) < n; i++ {
		s := sha256.Sum256(append(bytes.Clone(seed), 0, 0, 0, i))
		out = append(out, s[:]...)
	}
	return out[:n]
}

// x509Roots reads the pinned roots of one use, PEM or DER.
func x509Roots(trust feed.Trust, use string) (*x509.CertPool, map[string]feed.Anchor, error) {
	anchors, err := keysFor(trust, use)
	if err != nil {
		return nil, nil, err
	}
	pool, by := x509.NewCertPool(), map[string]feed.Anchor{}
	for _, a := range anchors {
		der := a.Data
		if p, _ := pem.Decode(a.Data); p != nil {
			der = p.Bytes
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("root %s: %w: %w", a.Name, err, feed.ErrConfig)
		}
		pool.AddCert(c)
		by[string(c.Raw)] = a
	}
	return pool, by, nil
}
