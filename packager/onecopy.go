package packager

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/hashike/hashike/internal/feed"
)

// badCopy says that a medium does not give a container as it was signed.
// Another medium with the same volume may.
type badCopy struct{ error }

func (b badCopy) Unwrap() error { return b.error }

// ended is badCopy for what the end of a container showed.
func ended(err error) error {
	if err != nil {
		return badCopy{err}
	}
	return nil
}

// fromAny calls fn with one medium after the other that has c, until one gives
// what was signed. What is wrong with those before it is named and harmless.
func (a *absorber) fromAny(c *Container, fn func(m *medium, c *Container) error) error {
	first := len(a.b.damaged)
	var gone error
	for _, m := range a.b.present[c.Volume] {
		err := fn(m, c)
		var bad badCopy
		if !errors.As(err, &bad) {
			for i := first; err == nil && i < len(a.b.damaged); i++ {
				a.b.damaged[i].Repaired = true
			}
			return err
		}
		if err = a.damage(m, c, bad.error); a.ctx.Err() != nil {
			return err
		}
		if gone == nil {
			gone = err
		}
	}
	return gone
}

// damage names a container and goes on, unless the medium is gone.
func (a *absorber) damage(m *medium, c *Container, err error) error {
	if cerr := a.ctx.Err(); cerr != nil {
		return cerr
	}
	if m.vanished() {
		return feed.NewFault(fmt.Errorf("%s cannot be read any more: %w", m.dir, err), "H-803", "medium", m.dir,
			"done", strconv.FormatInt(a.done, 10), "total", strconv.FormatInt(a.total, 10))
	}
	if a.b.fromPending && c.Type != typeDocument {
		return nil // payload was absorbed when the medium was here
	}
	if n := len(a.b.damaged); n == 0 || a.b.damaged[n-1].File != blobName(c.Digest) { // once, whatever the number of copies
		a.b.damaged = append(a.b.damaged, Damage{Volume: c.Volume, File: blobName(c.Digest), Reason: err.Error()})
	}
	return nil
}

// openSized opens a container's file, which must have its size.
func openSized(m *medium, c *Container) (mediumFile, error) {
	f, n, err := m.open(blobName(c.Digest))
	if err == nil && n != c.Size {
		f.Close()
		return nil, fmt.Errorf("%d bytes instead of %d: %w", n, c.Size, feed.ErrDamaged)
	}
	return f, err
}
