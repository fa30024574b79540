package mirror

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// secret is what this data directory's server keeps to itself: 32 random
// bytes in keys/serving.secret. Kinds get values derived from it, so that a
// cookie of one feed says nothing to another. Losing it costs terminals one
// more handshake, nothing else.
type secret []byte

func openSecret(data state.Dir) (secret, error) {
	path := filepath.Join(data.Keys(), "serving.secret")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, sha256.Size)
		rand.Read(b) // never fails (crypto/rand)
		if err = durable.Mkdir(data.Keys()); err == nil {
			err = durable.WriteFile(path, b)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("secret of the server: %w", err)
	}
	if len(b) != sha256.Size {
		return nil, fmt.Errorf("%s has %d bytes: %w", path, len(b), feed.ErrDamaged)
	}
	return b, nil
}

// of is a feed's own secret (HKDF, RFC 5869).
func (s secret) of(name string) []byte {
	k, err := hkdf.Key(sha256.New, s, nil, "hashike-serving-v1/"+name, sha256.Size)
	if err != nil {
		return nil // SHA-256 and 32 bytes are always possible
	}
	return k
}
