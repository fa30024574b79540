package verifier

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
)

// Limits on OpenPGP input.
const (
	maxSignatures   = 32       // signature packets in one document
	maxSignatureDoc = 1 << 20  // bytes of a detached signature or of a clear-signed document's armor
	maxClearSigned  = 64 << 20 // bytes of a clear-signed document; Debian's InRelease has 0.3 MB
	clockAllowance  = 24 * time.Hour
)

// OpenPGPClear checks a clear-signed document (RFC 9580 §7; apt's InRelease)
// and returns the text that is signed: lines without trailing blanks, each
// ending in LF. Callers parse that text and never the document.
//
// One good signature by a key among anchors (Use "openpgp", binary or armored
// keyrings) is enough. A document with anything but whitespace around its one
// block, or with escaping a signer does not write, is refused. The evidence
// lacks Path and Subject. Errors are ErrUntrusted, or ErrConfig for an
// unreadable anchor.
func OpenPGPClear(doc []byte, trust feed.Trust, anchors []feed.Anchor) (text []byte, ev feed.Evidence, err error) {
	text, armored, err := splitClear(doc)
	if err != nil {
		return nil, feed.Evidence{}, fmt.Errorf("clear-signed document: %w: %w", err, feed.ErrUntrusted)
	}
	sigs, err := readArmored(armored, 1)
	if err != nil {
		return nil, feed.Evidence{}, fmt.Errorf("clear-signed document: %w: %w", err, feed.ErrUntrusted)
	}
	// What is signed ends its lines with CR LF, and the last one with nothing.
	signed := bytes.ReplaceAll(bytes.TrimSuffix(text, []byte{'\n'}), []byte{'\n'}, []byte("\r\n"))
	ev, err = checkSignatures(bytes.NewReader(signed), sigs, trust, anchors, false)
	if err != nil {
		return nil, feed.Evidence{}, err
	}
	return text, ev, nil
}

// OpenPGPDetached checks a detached signature, binary or armored, with one or
// several signatures, over all that signed yields. Rules and errors are those
// of OpenPGPClear; a read error of signed is returned as it is.
func OpenPGPDetached(signed io.Reader, sig []byte, trust feed.Trust, anchors []feed.Anchor) (feed.Evidence, error) {
	return detached(signed, sig, trust, anchors, false)
}

// OpenPGPRelease is OpenPGPDetached for what a vendor signs once and leaves as
// it is, as the lists of a release: whether a key had expired is judged at the
// time of the signature. ErrRevoked is among the errors if a signature names a
// key that the vendor revoked; whether it holds is then not looked at.
func OpenPGPRelease(signed io.Reader, sig []byte, trust feed.Trust, anchors []feed.Anchor) (feed.Evidence, error) {
	return detached(signed, sig, trust, anchors, true)
}

// ErrRevoked: the vendor revoked the key, so that its signature counts for nothing.
var ErrRevoked = fmt.Errorf("the vendor revoked the key: %w", feed.ErrUntrusted)

func detached(signed io.Reader, sig []byte, trust feed.Trust, anchors []feed.Anchor, then bool) (feed.Evidence, error) {
	if len(sig) > maxSignatureDoc {
		return feed.Evidence{}, fmt.Errorf("signature of %d bytes: %w", len(sig), feed.ErrUntrusted)
	}
	var sigs []*packet.Signature
	var err error
	if t := bytes.TrimLeft(sig, " \t\r\n"); bytes.HasPrefix(t, []byte("-----BEGIN")) {
		sigs, err = readArmored(t, maxSignatures)
	} else {
		sigs, err = readSignatures(bytes.NewReader(sig))
	}
	if err != nil {
		return feed.Evidence{}, fmt.Errorf("detached signature: %w: %w", err, feed.ErrUntrusted)
	}
	return checkSignatures(signed, sigs, trust, anchors, then)
}

const (
	clearBegin = "-----BEGIN PGP SIGNED MESSAGE-----"
	sigBegin   = "-----BEGIN PGP SIGNATURE-----"
	sigEnd     = "-----END PGP SIGNATURE-----"
)

// splitClear takes a clear-signed document apart. It is stricter than RFC 9580
// §7, so that no reader can find another text in the document than the signed one.
func splitClear(doc []byte) (text, armored []byte, err error) {
	if len(doc) > maxClearSigned {
		return nil, nil, fmt.Errorf("%d bytes", len(doc))
	}
	rest := bytes.TrimLeft(doc, " \t\r\n")
	line, rest, _ := cutLine(rest)
	if string(line) != clearBegin {
		return nil, nil, errors.New("does not begin with " + clearBegin)
	}
	for { // armor headers: only Hash is allowed (§7.1), and it proves nothing
		var ok bool
		if line, rest, ok = cutLine(rest); !ok {
			return nil, nil, errors.New("ends in its headers")
		}
		if len(line) == 0 {
			break
		}
		names, ok := bytes.CutPrefix(line, []byte("Hash: "))
		if !ok {
			return nil, nil, fmt.Errorf("header %.60q", line)
		}
		for _, n := range bytes.Split(names, []byte{','}) { // terminals choose their hashes by it
			if !slices.Contains([]string{"SHA256", "SHA384", "SHA512", "SHA224", "SHA1", "SHA3-256", "SHA3-512"}, string(bytes.TrimSpace(n))) {
				return nil, nil, fmt.Errorf("hash %.40q", n)
			}
		}
	}
	text = make([]byte, 0, len(rest))
	for {
		at := rest
		var ok bool
		if line, rest, ok = cutLine(rest); !ok {
			return nil, nil, errors.New("has no signature")
		}
		if string(line) == sigBegin {
			armored = at
			break
		}
		if line, err = unescape(line); err != nil {
			return nil, nil, err
		}
		text = append(append(text, line...), '\n')
	}
	return text, armored, nil
}

// unescape undoes dash-escaping (§7.2) where a signer escapes: before a dash,
// and before "From " for the sake of mail.
func unescape(line []byte) ([]byte, error) {
	if bytes.HasPrefix(line, []byte("-")) {
		plain, ok := bytes.CutPrefix(line, []byte("- "))
		if !ok || !(bytes.HasPrefix(plain, []byte("-")) || bytes.HasPrefix(plain, []byte("From "))) {
			return nil, fmt.Errorf("line %.60q is escaped in no usual way", line)
		}
		line = plain
	}
	for _, c := range line {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return nil, fmt.Errorf("control character %#x in line %.60q", c, line)
		}
	}
	return bytes.TrimRight(line, " \t"), nil
}

// cutLine splits off one line that ends in LF or CR LF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	line, rest, ok = bytes.Cut(b, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'}), rest, ok
}

// readArmored reads up to blocks armored signatures with nothing but whitespace around them.
func readArmored(b []byte, blocks int) ([]*packet.Signature, error) {
	if len(b) > maxSignatureDoc {
		return nil, fmt.Errorf("armor of %d bytes", len(b))
	}
	var all []*packet.Signature
	for n := 0; ; n++ {
		b = bytes.TrimLeft(b, " \t\r\n")
		if len(b) == 0 && n > 0 {
			return all, nil
		}
		end := bytes.Index(b, []byte("\n"+sigEnd))
		if n == blocks || end < 0 || !bytes.HasPrefix(b, []byte(sigBegin)) {
			return nil, fmt.Errorf("%.60q where a signature block or the end should be", b)
		}
		one := b[:end+1+len(sigEnd)]
		if b = b[len(one):]; len(b) > 0 && b[0] != '\n' && b[0] != '\r' {
			return nil, fmt.Errorf("%.60q after the signature's end", b)
		}
		if err := checkCRC(one); err != nil {
			return nil, err
		}
		block, err := armor.Decode(bytes.NewReader(append(bytes.Clone(one), '\n')))
		if err != nil {
			return nil, fmt.Errorf("armor: %w", err)
		}
		sigs, err := readSignatures(block.Body)
		if err != nil {
			return nil, err
		}
		if all = append(all, sigs...); len(all) > maxSignatures {
			return nil, fmt.Errorf("more than %d signatures", maxSignatures)
		}
	}
}

// checkCRC compares an armor's checksum, if it has one, with its content
// (RFC 4880 §6.1). The library ignores it, as RFC 9580 allows; gpg does not,
// and what terminals refuse must not be carried to them.
func checkCRC(armored []byte) error {
	_, body, ok := bytes.Cut(bytes.ReplaceAll(armored, []byte{'\r'}, nil), []byte("\n\n"))
	if !ok {
		return errors.New("armor without a body")
	}
	body, _, _ = bytes.Cut(body, []byte("\n-----END"))
	var text, want []byte
	for line := range bytes.Lines(body) {
		line = bytes.TrimSpace(line)
		if sum, ok := bytes.CutPrefix(line, []byte{'='}); ok && len(sum) == 4 {
			want = sum
			continue
		}
		if want != nil && len(line) > 0 {
			return errors.New("armor goes on after its checksum")
		}
		text = append(text, line...)
	}
	if want == nil {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("armor: %w", err)
	}
	crc := uint32(0xB704CE)
	for _, b := range raw {
		crc ^= uint32(b) << 16
		for range 8 {
			if crc <<= 1; crc&0x1000000 != 0 {
				crc ^= 0x1864CFB
			}
		}
	}
	if base64.StdEncoding.EncodeToString([]byte{byte(crc >> 16), byte(crc >> 8), byte(crc)}) != string(want) {
		return errors.New("armor and its checksum disagree")
	}
	return nil
}

// readSignatures reads signature packets to the end of r. Kinds of signature
// that the library does not know are passed over; another packet is an error.
func readSignatures(r io.Reader) ([]*packet.Signature, error) {
	var sigs []*packet.Signature
	packets := packet.NewReader(io.LimitReader(r, maxSignatureDoc))
	for n := 0; ; n++ {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if n == maxSignatures {
			return nil, fmt.Errorf("more than %d packets", maxSignatures)
		}
		if err != nil {
			return nil, fmt.Errorf("packet %d: %w", n+1, err)
		}
		s, ok := p.(*packet.Signature)
		if !ok {
			return nil, fmt.Errorf("packet %d is not a signature", n+1)
		}
		sigs = append(sigs, s)
	}
	if len(sigs) == 0 {
		return nil, errors.New("no signature")
	}
	return sigs, nil
}

// candidate is one signature with one key that may have made it.
type candidate struct {
	sig  *packet.Signature
	key  signingKey
	hash hash.Hash // reads the signed bytes
	sum  hash.Hash // the same state without the text filter
}

// checkSignatures returns evidence of the first signature that counts. Expiry
// of keys is judged at trust.At, or at the time of the signature (then).
func checkSignatures(signed io.Reader, sigs []*packet.Signature, trust feed.Trust, anchors []feed.Anchor, then bool) (feed.Evidence, error) {
	ring, err := readRing(trust, anchors)
	if err != nil {
		return feed.Evidence{}, err
	}
	var todo []candidate
	var why []error
	for _, s := range sigs {
		keys := ring.find(s)
		if len(keys) == 0 {
			why = append(why, fmt.Errorf("key %s is not pinned", issuer(s)))
		}
		for _, k := range keys {
			c, err := prepare(s, k, trust, then)
			if err != nil {
				why = append(why, fmt.Errorf("key %s: %w", k.fingerprint(), err))
				continue
			}
			todo = append(todo, c)
		}
	}
	writers := []io.Writer{io.Discard}
	for _, c := range todo {
		writers = append(writers, c.hash)
	}
	if len(todo) > 0 {
		if _, err := io.Copy(io.MultiWriter(writers...), signed); err != nil {
			return feed.Evidence{}, err
		}
	}
	for _, c := range todo {
		// A bad signature in a pinned key's name means that something was
		// changed, even if another signature is good: apt refuses that too.
		if err := c.key.pub.VerifySignature(c.sum, c.sig); err != nil {
			return feed.Evidence{}, fmt.Errorf("bad signature by key %s (%w): %w", c.key.fingerprint(), err, feed.ErrUntrusted)
		}
		// The first two bytes of the hash stand in the signature as a quick
		// check (RFC 9580 §5.2.3). Terminals look at them, so a bit flipped
		// there must not pass here.
		if sum := c.sum.Sum(nil); sum[0] != c.sig.HashTag[0] || sum[1] != c.sig.HashTag[1] {
			return feed.Evidence{}, fmt.Errorf("signature by key %s was altered: %w", c.key.fingerprint(), feed.ErrUntrusted)
		}
	}
	if len(todo) == 0 {
		return feed.Evidence{}, fmt.Errorf("no good signature by a pinned key (%w): %w", errors.Join(why...), feed.ErrUntrusted)
	}
	c := todo[0]
	return feed.Evidence{
		Method: "openpgp", Strength: feed.Signed,
		Signer: c.key.userID(), KeyID: c.key.fingerprint(), Anchor: c.key.anchor.Name,
		SignedAt: c.sig.CreationTime.UTC(),
	}, nil
}

// prepare applies every rule that needs no hashing.
func prepare(s *packet.Signature, k signingKey, trust feed.Trust, then bool) (candidate, error) {
	switch {
	case s.SigType != packet.SigTypeBinary && s.SigType != packet.SigTypeText:
		return candidate{}, fmt.Errorf("signature of type %#x", byte(s.SigType))
	case s.Hash != crypto.SHA256 && s.Hash != crypto.SHA384 && s.Hash != crypto.SHA512 &&
		s.Hash != crypto.SHA3_256 && s.Hash != crypto.SHA3_512:
		return candidate{}, fmt.Errorf("hash %s is not strong enough", s.Hash)
	case s.CreationTime.After(trust.At.Add(clockAllowance)):
		return candidate{}, fmt.Errorf("signed in the future, %s", s.CreationTime.UTC().Format(time.RFC3339))
	case s.SigLifetimeSecs != nil && *s.SigLifetimeSecs != 0 &&
		trust.At.After(s.CreationTime.Add(time.Duration(*s.SigLifetimeSecs)*time.Second)):
		return candidate{}, errors.New("the signature has expired")
	}
	at := trust.At
	if then {
		at = s.CreationTime
	}
	if err := k.usable(s.CreationTime, at, trust); err != nil {
		return candidate{}, err
	}
	h, err := s.PrepareVerify()
	if err != nil {
		return candidate{}, err
	}
	c := candidate{sig: s, key: k, hash: h, sum: h}
	if s.SigType == packet.SigTypeText {
		c.hash = openpgp.NewCanonicalTextHash(h)
	}
	return c, nil
}
