package verifier

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/crx"
)

// Extension checks a browser extension package (CRX3) that must have the given
// identity. The identity is a hash of the developer's key: whoever names it in
// a configuration has pinned the key, so the strength is "signed" without an
// anchor. Errors: ErrUntrusted, or r's.
func Extension(r io.ReaderAt, size int64, id string, trust feed.Trust) (crx.Package, feed.Evidence, error) {
	p, err := crx.Read(r, size)
	switch {
	case errors.Is(err, crx.ErrFormat):
		return p, feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
	case err != nil:
		return p, feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	case p.ID != id:
		return p, feed.Evidence{}, fmt.Errorf("the extension is %s: %w", p.ID, feed.ErrUntrusted)
	}
	for _, k := range p.Keys {
		if d, ok := trust.Distrusted(k, time.Time{}); ok {
			return p, feed.Evidence{}, fmt.Errorf("key %s is withdrawn by order (%s): %w", k, d.Reason, feed.ErrUntrusted)
		}
	}
	return p, feed.Evidence{Method: "crx3", Strength: feed.Signed, Signer: "extension " + p.ID, KeyID: p.Keys[0], Anchor: p.ID,
		Note: "the identity in the configuration is a hash of the developer's key"}, nil
}
