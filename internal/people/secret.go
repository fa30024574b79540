package people

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/hashike/hashike/internal/feed"
)

// Parameters of argon2id (RFC 9106 §4, second choice, with less memory: the
// OWASP minimum of 19 MiB). Stored ones may ask for more, within bounds.
const (
	argonTime, argonMemory, argonThreads = 2, 19 << 10, 1
	maxArgonTime, maxArgonMemory         = 10, 256 << 10
)

// Secret is a password or PIN as it is stored: hashed with argon2id.
type Secret struct {
	time, memory uint32
	threads      uint8
	salt, sum    []byte
}

// HashSecret is the stored form: "$argon2id$v=19$m=19456,t=2,p=1$salt$hash".
func HashSecret(secret string) string {
	salt := make([]byte, 16)
	rand.Read(salt)
	sum := argon2.IDKey([]byte(secret), salt, argonTime, argonMemory, argonThreads, 32)
	e := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		e.EncodeToString(salt), e.EncodeToString(sum))
}

// ParseSecret reads a stored form; ErrConfig if it is none, or asks for more
// work than we do for anybody.
func ParseSecret(s string) (Secret, error) {
	bad := fmt.Errorf("not an argon2id line: %w", feed.ErrConfig)
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return Secret{}, bad
	}
	var a Secret
	if n, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &a.memory, &a.time, &a.threads); n != 3 || err != nil {
		return Secret{}, bad
	}
	var err1, err2 error
	a.salt, err1 = base64.RawStdEncoding.DecodeString(f[4])
	a.sum, err2 = base64.RawStdEncoding.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(a.sum) < 16 || len(a.sum) > 64 || len(a.salt) < 8 || a.threads < 1 || a.threads > 16 ||
		a.time < 1 || a.time > maxArgonTime || a.memory < 8<<10 || a.memory > maxArgonMemory {
		return Secret{}, bad
	}
	return a, nil
}

// NoSecret fits nothing and takes as long to say so: for a name that does not exist.
func NoSecret() Secret {
	return Secret{argonTime, argonMemory, argonThreads, make([]byte, 16), make([]byte, 32)}
}

// Is reports whether secret is the one that was hashed.
func (a Secret) Is(secret string) bool {
	sum := argon2.IDKey([]byte(secret), a.salt, a.time, a.memory, a.threads, uint32(len(a.sum)))
	return subtle.ConstantTimeCompare(sum, a.sum) == 1
}
