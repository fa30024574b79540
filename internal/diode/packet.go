package diode

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// Sizes in bytes (docs/diode.md §3).
const (
	headerSize = 48
	tagSize    = 16
	// Frame is what a packet costs on the wire besides its UDP payload: IPv4
	// and UDP header, Ethernet header, checksum, preamble and gap.
	Frame = 20 + 8 + 14 + 4 + 8 + 12
	// Frame6 is the same with IPv6's header.
	Frame6 = Frame + 20

	minShard = 512
	maxShard = 8896 // MTU 9000
	maxCode  = 256  // K+P: GF(2⁸)
)

const (
	magic   = "HSKD"
	version = 1
)

// Kinds of packets.
const (
	kindData  = 1 // a shard of the stream
	kindTable = 2 // a shard of the table
	kindBeat  = 3 // the line lives: warm-up, idle
	kindEnd   = 4 // a pass of the session is over
)

// ID names a session: the first 16 bytes of the SHA-256 of its table.
type ID [16]byte

// Key tells the packets of our own outside from all others. It is derived from
// the secret that both sides got at pairing.
type Key [32]byte

// LineKey derives the key of the line to one site from its pairing secret.
func LineKey(secret []byte) Key {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("hashike-diode-v1"))
	return Key(h.Sum(nil))
}

// seal makes and checks the tags of packets: AES-256-GCM without a plaintext
// (GMAC). The nonce is run and sequence number, which no two packets share.
type seal struct {
	aead  cipher.AEAD
	nonce [12]byte
	out   [tagSize]byte
}

func newSeal(k Key) *seal {
	b, err := aes.NewCipher(k[:])
	if err == nil {
		var a cipher.AEAD
		if a, err = cipher.NewGCM(b); err == nil {
			return &seal{aead: a}
		}
	}
	panic(err) // a key of 32 bytes is always a key
}

// header is what a packet says besides its shard.
type header struct {
	kind    byte
	k, p    byte // of a table's block; 0 in other kinds
	run     uint64
	seq     uint32
	session ID
	block   uint32 // data, table: number of the block; end: number of the pass
	shard   byte
	size    uint32 // table: its length in bytes
}

// put writes the header; the shard is at b[headerSize:].
func (h *header) put(b []byte) {
	copy(b, magic)
	b[4], b[5], b[6], b[7] = version, h.kind, h.k, h.p
	binary.BigEndian.PutUint64(b[8:], h.run)
	binary.BigEndian.PutUint32(b[16:], h.seq)
	copy(b[20:36], h.session[:])
	binary.BigEndian.PutUint32(b[36:], h.block)
	b[40], b[41], b[42], b[43] = h.shard, 0, 0, 0
	binary.BigEndian.PutUint32(b[44:], h.size)
}

// sign puts the tag at the end of a packet whose header is there.
func (s *seal) sign(b []byte) {
	copy(s.nonce[:], b[8:20])
	n := len(b) - tagSize
	s.aead.Seal(b[:n:len(b)], s.nonce[:], nil, b[:n])
}

// Reasons for which a packet is dropped.
var (
	errForm  = errors.New("not a packet of ours")
	errNewer = errors.New("a packet of a newer program")
	errTag   = errors.New("a packet of nobody who knows the line's key")
)

// open checks a packet and returns its header and shard, which lies in b.
func (s *seal) open(b []byte) (header, []byte, error) {
	n := len(b) - tagSize
	if shard := n - headerSize; shard < minShard || shard > maxShard || shard%64 != 0 || string(b[:4]) != magic {
		return header{}, nil, errForm
	}
	if b[4] != version {
		if b[4] > version {
			return header{}, nil, errNewer
		}
		return header{}, nil, errForm
	}
	copy(s.nonce[:], b[8:20])
	if _, err := s.aead.Open(s.out[:0], s.nonce[:], b[n:], b[:n]); err != nil {
		return header{}, nil, errTag
	}
	h := header{kind: b[5], k: b[6], p: b[7], run: binary.BigEndian.Uint64(b[8:]), seq: binary.BigEndian.Uint32(b[16:]),
		block: binary.BigEndian.Uint32(b[36:]), shard: b[40], size: binary.BigEndian.Uint32(b[44:])}
	copy(h.session[:], b[20:36])
	if b[41]|b[42]|b[43] != 0 || h.kind < kindData || h.kind > kindEnd {
		return header{}, nil, errForm
	}
	return h, b[headerSize:n], nil
}
