package appx

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // the hashes that a block map may name
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/xml"
	"hash"
	"io"
	"strings"
)

const blockSize = 64 << 10

// Inflation is how many bytes all files may unpack to, for each byte of the
// package, beyond a first gibibyte.
const Inflation = 100

// blockMap is AppxBlockMap.xml.
type blockMap struct {
	XMLName xml.Name `xml:"http://schemas.microsoft.com/appx/2010/blockmap BlockMap"`
	Method  string   `xml:"HashMethod,attr"`
	Files   []struct {
		Name   string `xml:"Name,attr"`
		Size   int64  `xml:"Size,attr"`
		Header int64  `xml:"LfhSize,attr"`
		Blocks []struct {
			Hash string `xml:"Hash,attr"`
		} `xml:"http://schemas.microsoft.com/appx/2010/blockmap Block"`
	} `xml:"http://schemas.microsoft.com/appx/2010/blockmap File"`
}

func (b *blockMap) hash() (crypto.Hash, error) {
	switch b.Method {
	case "http://www.w3.org/2001/04/xmlenc#sha256":
		return crypto.SHA256, nil
	case "http://www.w3.org/2001/04/xmldsig-more#sha384":
		return crypto.SHA384, nil
	case "http://www.w3.org/2001/04/xmlenc#sha512":
		return crypto.SHA512, nil
	}
	return 0, bad("block map: hash method %.100q", b.Method)
}

// CheckBlocks unpacks every file and holds it against the block map. Each file
// must be in it, but for the block map itself, content types, signature, code
// integrity catalogue and what exempt names (the packages of a bundle). want is
// the hash that the signature has; the block map must have the same.
//
// It costs as much as unpacking: check the signature first.
func (p *Package) CheckBlocks(want crypto.Hash, exempt func(name string) bool) error {
	b, err := p.Read(BlockMap, maxBlockMap)
	if err != nil {
		return err
	}
	var m blockMap
	if err := decode(b, &m); err != nil {
		return bad("block map: %v", err)
	}
	h, err := m.hash()
	if err != nil {
		return err
	}
	if h != want {
		return bad("block map and signature have two hash methods")
	}
	total := int64(0)
	for _, f := range p.Files {
		total += f.Size
	}
	if total > 1<<30+Inflation*p.directory {
		return bad("unpacks to %d bytes", total)
	}
	seen := map[string]bool{}
	for _, in := range m.Files {
		name := strings.ReplaceAll(in.Name, `\`, "/")
		f, ok := p.Lookup(name)
		if !ok || f.Name != name || seen[name] || unmapped(name) {
			return bad("block map: %.200q", in.Name)
		}
		seen[name] = true
		if in.Size != f.Size || in.Header != f.header || int64(len(in.Blocks)) != (f.Size+blockSize-1)/blockSize {
			return bad("block map: %.200q has another size", in.Name)
		}
		w := blocks{hash: h.New(), next: func(i int) string { return in.Blocks[i].Hash }}
		if err := p.Unpack(f, &w); err != nil {
			return err
		}
		if !w.finish() {
			return bad("%.200s: not the hashes of the block map", f.Name)
		}
	}
	for _, f := range p.Files {
		if !seen[f.Name] && !unmapped(f.Name) && (exempt == nil || !exempt(f.Name)) {
			return bad("%.200s: not in the block map", f.Name)
		}
	}
	return nil
}

func unmapped(name string) bool {
	return name == BlockMap || name == ContentTypes || name == Signature || name == CodeIntegrity
}

// blocks hashes 64 KiB at a time and compares.
type blocks struct {
	hash  hash.Hash
	next  func(i int) string
	n     int // blocks done
	have  int // bytes of the block at hand
	wrong bool
}

func (b *blocks) Write(p []byte) (int, error) {
	all := len(p)
	for len(p) > 0 {
		k := min(len(p), blockSize-b.have)
		b.hash.Write(p[:k])
		p, b.have = p[k:], b.have+k
		if b.have == blockSize {
			b.block()
		}
	}
	return all, nil
}

func (b *blocks) block() {
	want, err := base64.StdEncoding.DecodeString(b.next(b.n))
	b.wrong = b.wrong || err != nil || !bytes.Equal(want, b.hash.Sum(nil))
	b.hash.Reset()
	b.n, b.have = b.n+1, 0
}

func (b *blocks) finish() bool {
	if b.have > 0 {
		b.block()
	}
	return !b.wrong
}

// decode reads one XML document: UTF-8, no document type, nothing behind it.
func decode(b []byte, into any) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(into); err != nil {
		return err
	}
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.Comment, xml.ProcInst:
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return bad("text behind the document")
			}
		default:
			return bad("more than one document")
		}
	}
}
