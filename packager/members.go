package packager

import (
	"errors"
	"io"
)

// pack reads a pack once: the whole against its digest, the members that are
// wanted against theirs. A damaged pack still gives its good members.
func (a *absorber) pack(m *medium, c *Container) error {
	r, err := openContainer(m, c)
	if err != nil {
		return badCopy{err}
	}
	defer r.close()
	a.buf.Reset(r)
	at := int64(0)
	for i, mem := range c.Members {
		if !a.wants(mem.Digest) {
			continue
		}
		if _, err := io.CopyN(io.Discard, a.buf, mem.Offset-at); err != nil {
			return a.members(m, c, c.Members[i:], err)
		}
		body := &source{r: io.LimitReader(a.buf, mem.Size)}
		medium, err := a.put(body, mem.Digest, mem.Size)
		if medium && r.err != nil {
			return a.members(m, c, c.Members[i:], err)
		}
		if err != nil && !medium {
			return err
		}
		at = mem.Offset + mem.Size
		if left := mem.Size - body.n; left > 0 {
			if _, err := io.CopyN(io.Discard, a.buf, left); err != nil {
				return a.members(m, c, c.Members[i+1:], err)
			}
		}
	}
	if _, err := io.Copy(io.Discard, a.buf); err != nil {
		return badCopy{err}
	}
	return ended(r.end())
}

// members takes what can be read of a pack that cannot be read in one go.
func (a *absorber) members(m *medium, c *Container, left []Member, why error) error {
	f, _, err := m.open(blobName(c.Digest))
	if err != nil {
		return badCopy{why}
	}
	defer f.Close()
	for _, mem := range left {
		if !a.wants(mem.Digest) {
			continue
		}
		if medium, err := a.put(&source{r: io.NewSectionReader(f, mem.Offset, mem.Size)}, mem.Digest, mem.Size); err != nil && !medium {
			return err
		}
	}
	return badCopy{why}
}

// checkOnly hashes a container that is not needed.
func (a *absorber) checkOnly(m *medium, c *Container) error {
	r, err := openContainer(m, c)
	if err != nil {
		return badCopy{err}
	}
	defer r.close()
	a.out.Skipped++
	_, err = io.Copy(io.Discard, r)
	if err == nil {
		err = r.end()
	}
	return ended(err)
}

// source remembers how much was read and the medium's own read error.
type source struct {
	r   io.Reader
	n   int64
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
