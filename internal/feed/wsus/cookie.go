package wsus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"
)

// Cookies are sealed with AES-256-GCM under the server's own secret: a fixed
// layout, nothing in it chooses a type (CVE-2025-59287 was a WSUS that
// deserialised what a cookie said). They are opaque to terminals.

type cookieUse byte

const (
	cookieAuth    cookieUse = 1 // of SimpleAuth, for one GetCookie
	cookieSession cookieUse = 2

	cookieServerAuth cookieUse = 3 // of DssAuth: a downstream server's
	cookieServer     cookieUse = 4
)

// cookieLife is a real server's.
const cookieLife = time.Hour

// cookie is what one holds.
type cookie struct {
	use      cookieUse
	expires  time.Time
	epoch    epoch  // of the revision ids
	serial   uint64 // of the snapshot that the terminal last saw whole
	mark     uint64 // of the deployments that it last saw
	drivers  uint64 // of those that it last saw in a drivers' pass
	client   string // SusClientId
	name     string // DNS name
	group    string // TargetGroup
	protocol string
}

type sealer struct {
	aead cipher.AEAD
	feed []byte
}

func newSealer(secret []byte, name string) (*sealer, error) {
	b, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	g, err := cipher.NewGCM(b)
	return &sealer{g, []byte("wsus-cookie-2/" + name)}, err
}

func (s *sealer) seal(c cookie) []byte {
	b := []byte{byte(c.use)}
	b = binary.BigEndian.AppendUint64(b, uint64(c.expires.Unix()))
	b = append(b, c.epoch[:]...)
	b = binary.BigEndian.AppendUint64(b, c.serial)
	b = binary.BigEndian.AppendUint64(b, c.mark)
	b = binary.BigEndian.AppendUint64(b, c.drivers)
	for _, t := range []string{c.client, c.name, c.group, c.protocol} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(t)))
		b = append(b, t...)
	}
	nonce := make([]byte, s.aead.NonceSize())
	rand.Read(nonce) // never fails (crypto/rand)
	return s.aead.Seal(nonce, nonce, b, s.feed)
}

var errCookie = errors.New("not a cookie of this server")

const maxCookie = 4096

func (s *sealer) open(sealed []byte) (cookie, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n || len(sealed) > maxCookie {
		return cookie{}, errCookie
	}
	b, err := s.aead.Open(nil, sealed[:n], sealed[n:], s.feed)
	const fixed = 1 + 8 + 16 + 8 + 8 + 8
	if err != nil || len(b) < fixed {
		return cookie{}, errCookie
	}
	c := cookie{use: cookieUse(b[0]), expires: time.Unix(int64(binary.BigEndian.Uint64(b[1:])), 0), epoch: epoch(b[9:25]),
		serial: binary.BigEndian.Uint64(b[25:]), mark: binary.BigEndian.Uint64(b[33:]), drivers: binary.BigEndian.Uint64(b[41:])}
	b = b[fixed:]
	for _, into := range []*string{&c.client, &c.name, &c.group, &c.protocol} {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return cookie{}, errCookie
		}
		k := 2 + int(binary.BigEndian.Uint16(b))
		*into, b = string(b[2:k]), b[k:]
	}
	return c, nil
}

func newGUID() guid {
	var g guid
	rand.Read(g[:])
	g[6], g[8] = g[6]&0x0f|0x40, g[8]&0x3f|0x80
	return g
}
