// Package nup takes ESET's module files (.nup) apart: an OpenPGP message
// (RFC 4880) behind a packet of a private tag that holds the signer's
// certificate. Layout as found in 560 modules of 2016 to 2021:
//
//	BD <u16 length> 01 <certificate>   tag 15, old format
//	one-pass signature packets (RSA with SHA-512; DSA with SHA-1)
//	literal packet, mode b; its body begins with CR LF "[update_info]"
//	signature packets of version 3 (RFC 4880 §5.2.2), one for each one-pass packet
//
// Nothing is believed here: package verifier checks the signature.
package nup

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// ErrEnvelope: the file does not begin with the wrapper at all.
var ErrEnvelope = errors.New("not in the known envelope")

const (
	maxCertificate = 32 << 10
	maxPacket      = 32 << 10 // of any packet but the literal
	maxSignatures  = 4
	maxParts       = 1 << 16 // of a literal with partial lengths
	maxInfo        = 64 << 10
)

// Packet tags (RFC 4880 §4.3).
const (
	tagSignature = 2
	tagOnePass   = 4
	tagPublicKey = 6
	tagLiteral   = 11
	tagUserID    = 13
	tagWrapper   = 15
)

// span is a piece of the file.
type span struct{ off, n int64 }

// Signature is one signature packet of version 3.
type Signature struct {
	Type, Algorithm, Hash byte
	KeyID                 uint64
	Created               time.Time
	Tag                   [2]byte // first two bytes of the hash
	Value                 []byte  // RSA: the number, big-endian
	trailer               [5]byte // hashed after the body: type and time
}

// File is a module that was taken apart.
type File struct {
	Fingerprint string         // of the certificate's key: SHA-1 (RFC 4880 §12.2), upper-case hex
	Key         *rsa.PublicKey // of the certificate
	UserID      string
	KeyID       uint64
	Signatures  []Signature
	Info        []byte // the body's beginning, up to "[update_data]"
	body        []span
	r           io.ReaderAt
}

// Read takes a module apart. ErrEnvelope if it is none of the known kind; any
// other error is a damaged one. Trailing bytes are refused.
func Read(r io.ReaderAt, size int64) (*File, error) {
	p := &packets{r: r, size: size}
	tag, body, err := p.next()
	if err != nil || tag != tagWrapper {
		return nil, fmt.Errorf("%w: %w", errors.Join(err), ErrEnvelope)
	}
	wrapper, err := p.small(body, maxCertificate)
	if err != nil || len(wrapper) < 2 || wrapper[0] != 1 {
		return nil, fmt.Errorf("wrapper of version other than 1: %w", ErrEnvelope)
	}
	f := &File{r: r}
	if err := f.certificate(wrapper[1:]); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if err := f.message(p); err != nil {
		return nil, err
	}
	return f, f.info()
}

func (f *File) certificate(b []byte) error {
	p := &packets{r: bytes.NewReader(b), size: int64(len(b))}
	for first := true; p.off < p.size; first = false {
		tag, body, err := p.next()
		if err != nil {
			return err
		}
		c, err := p.small(body, maxCertificate)
		if err != nil {
			return err
		}
		switch {
		case first != (tag == tagPublicKey):
			return fmt.Errorf("packet of type %d out of place", tag)
		case first:
			if err := f.key(c); err != nil {
				return err
			}
		case tag == tagUserID && f.UserID == "":
			f.UserID = strings.ToValidUTF8(string(c[:min(len(c), 200)]), "?")
		}
	}
	if f.Key == nil {
		return errors.New("no key")
	}
	return nil
}

// key reads a version 4 RSA key (RFC 4880 §5.5.2).
func (f *File) key(b []byte) error {
	if len(b) < 6 || b[0] != 4 || b[5] != 1 {
		return errors.New("no version 4 RSA key")
	}
	n, rest, err := mpi(b[6:])
	if err != nil {
		return err
	}
	e, rest, err := mpi(rest)
	if err != nil || len(rest) > 0 || len(e) > 4 || len(n) > 1024 {
		return errors.New("strange RSA key")
	}
	f.Key = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	h := sha1.New()
	h.Write([]byte{0x99, byte(len(b) >> 8), byte(len(b))})
	h.Write(b)
	sum := h.Sum(nil)
	f.Fingerprint, f.KeyID = strings.ToUpper(hex.EncodeToString(sum)), binary.BigEndian.Uint64(sum[12:])
	return nil
}

// mpi reads a number in its shortest form.
func mpi(b []byte) (n, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errors.New("number cut short")
	}
	bits := int(b[0])<<8 | int(b[1])
	size := (bits + 7) / 8
	if b = b[2:]; size == 0 || size > len(b) || b[0]>>(uint(bits-1)%8) != 1 {
		return nil, nil, errors.New("number of a wrong length")
	}
	return b[:size], b[size:], nil
}

// message reads what follows the wrapper.
func (f *File) message(p *packets) error {
	var announced []Signature
	tag, body, err := p.next()
	for ; err == nil && tag == tagOnePass; tag, body, err = p.next() {
		b, err := p.small(body, maxPacket)
		if err != nil || len(b) != 13 || b[0] != 3 || b[12] > 1 || len(announced) == maxSignatures {
			return errors.New("strange one-pass packet")
		}
		announced = append(announced, Signature{Type: b[1], Hash: b[2], Algorithm: b[3], KeyID: binary.BigEndian.Uint64(b[4:])})
	}
	if err != nil {
		return err
	}
	if tag != tagLiteral {
		return fmt.Errorf("packet of type %d in place of the content", tag)
	}
	if f.body, err = p.literal(body); err != nil {
		return err
	}
	for p.off < p.size {
		if tag, body, err = p.next(); err != nil {
			return err
		}
		b, err := p.small(body, maxPacket)
		if err != nil || tag != tagSignature || len(f.Signatures) == maxSignatures {
			return fmt.Errorf("packet of type %d after the content", tag)
		}
		s, err := signature(b)
		if err != nil {
			return err
		}
		f.Signatures = append(f.Signatures, s)
	}
	return f.match(announced)
}

// match: each signature was announced by one one-pass packet, and each of these
// has its signature.
func (f *File) match(announced []Signature) error {
	if len(announced) != len(f.Signatures) || len(announced) == 0 {
		return fmt.Errorf("%d signatures, %d announced", len(f.Signatures), len(announced))
	}
	used := make([]bool, len(announced))
next:
	for _, s := range f.Signatures {
		for i, a := range announced {
			if !used[i] && a.Type == s.Type && a.Hash == s.Hash && a.Algorithm == s.Algorithm && a.KeyID == s.KeyID {
				used[i] = true
				continue next
			}
		}
		return fmt.Errorf("signature by %016X was not announced", s.KeyID)
	}
	return nil
}

func signature(b []byte) (s Signature, err error) {
	if len(b) < 21 || b[0] != 3 || b[1] != 5 {
		return s, errors.New("no signature of version 3")
	}
	copy(s.trailer[:], b[2:7])
	s.Type, s.Created = b[2], time.Unix(int64(binary.BigEndian.Uint32(b[3:])), 0).UTC()
	s.KeyID, s.Algorithm, s.Hash = binary.BigEndian.Uint64(b[7:]), b[15], b[16]
	copy(s.Tag[:], b[17:19])
	numbers := 1
	if s.Algorithm == 17 { // DSA: r and s
		numbers = 2
	}
	rest := b[19:]
	for range numbers {
		if s.Value, rest, err = mpi(rest); err != nil {
			return s, err
		}
	}
	if len(rest) > 0 {
		return s, errors.New("bytes after a signature")
	}
	return s, nil
}

// Hash writes to w what the signature covers: the body, then the signature's
// type and time.
func (f *File) Hash(w io.Writer, s Signature) error {
	for _, x := range f.body {
		if _, err := io.Copy(w, io.NewSectionReader(f.r, x.off, x.n)); err != nil {
			return err
		}
	}
	_, err := w.Write(s.trailer[:])
	return err
}

// info finds the text at the body's beginning.
func (f *File) info() error {
	var head []byte
	for _, x := range f.body {
		if len(head) >= maxInfo {
			break
		}
		b := make([]byte, min(x.n, int64(maxInfo-len(head))))
		if _, err := f.r.ReadAt(b, x.off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		head = append(head, b...)
	}
	end := bytes.Index(head, []byte("\n[update_data]"))
	if !bytes.HasPrefix(bytes.TrimLeft(head, "\r\n"), []byte("[update_info]")) || end < 0 {
		return errors.New("no [update_info]: no module")
	}
	f.Info = head[:end+1]
	return nil
}
