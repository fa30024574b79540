package nup

import (
	"errors"
	"fmt"
	"io"
)

// packets reads OpenPGP packets in order (RFC 4880 §4.2).
type packets struct {
	r         io.ReaderAt
	off, size int64
}

func (p *packets) bytes(n int) ([]byte, error) {
	if p.off+int64(n) > p.size {
		return nil, errors.New("cut short")
	}
	b := make([]byte, n)
	if _, err := p.r.ReadAt(b, p.off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	p.off += int64(n)
	return b, nil
}

// number reads n bytes, big-endian.
func (p *packets) number(n int) (v int64, err error) {
	b, err := p.bytes(n)
	for _, c := range b {
		v = v<<8 | int64(c)
	}
	return v, err
}

// next returns a packet's type and the pieces of its body. Only a literal may
// come in pieces (§4.2.2.4). A length is in its shortest form, but in the old
// format, whose writers choose.
func (p *packets) next() (tag int, body []span, err error) {
	h, err := p.number(1)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case h&0x80 == 0:
		return 0, nil, fmt.Errorf("byte %#x begins no packet", h)
	case h&0x40 == 0:
		tag = int(h >> 2 & 15)
		if h&3 == 3 {
			return 0, nil, errors.New("packet without a length")
		}
		n, err := p.number(1 << (h & 3))
		if err != nil {
			return 0, nil, err
		}
		body, err = p.take(body, n)
		return tag, body, err
	}
	tag = int(h & 63)
	for {
		n, partial, err := p.length()
		if err != nil {
			return 0, nil, err
		}
		if partial && tag != tagLiteral || len(body) == maxParts {
			return 0, nil, errors.New("packet in pieces")
		}
		if body, err = p.take(body, n); err != nil || !partial {
			return tag, body, err
		}
	}
}

// length reads one length of the new format (§4.2.2).
func (p *packets) length() (n int64, partial bool, err error) {
	first, err := p.number(1)
	switch {
	case err != nil || first < 192:
		return first, false, err
	case first < 224:
		second, err := p.number(1)
		return (first-192)<<8 + second + 192, false, err
	case first < 255:
		return 1 << (first & 31), true, nil
	}
	n, err = p.number(4)
	return n, false, err
}

func (p *packets) take(body []span, n int64) ([]span, error) {
	if n < 0 || n > p.size-p.off {
		return nil, errors.New("packet cut short")
	}
	body = append(body, span{p.off, n})
	p.off += n
	return body, nil
}

// small reads the body of a packet that is not the literal.
func (p *packets) small(body []span, limit int64) ([]byte, error) {
	if len(body) != 1 || body[0].n > limit {
		return nil, errors.New("packet too long")
	}
	b := make([]byte, body[0].n)
	if _, err := p.r.ReadAt(b, body[0].off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// literal cuts the header off a literal packet (§5.9): mode b, name, date. None
// of these is covered by the signature.
func (p *packets) literal(body []span) ([]span, error) {
	if len(body) == 0 || body[0].n < 6 {
		return nil, errors.New("content without a header")
	}
	var h [2]byte
	if _, err := p.r.ReadAt(h[:], body[0].off); err != nil {
		return nil, err
	}
	cut := int64(2) + int64(h[1]) + 4
	if h[0] != 'b' || body[0].n < cut {
		return nil, errors.New("content of another mode")
	}
	body[0].off += cut
	body[0].n -= cut
	return body, nil
}
