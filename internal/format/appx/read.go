package appx

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Unpack gives a file's content to w piece by piece, and checks its length and
// CRC. What w received before an error is not the file.
func (p *Package) Unpack(f File, w io.Writer) error {
	packed := bufio.NewReaderSize(io.NewSectionReader(p.r, f.Data, f.Packed), 64<<10)
	var in io.Reader = packed
	if f.method == 8 {
		z := flate.NewReader(packed)
		defer z.Close()
		in = z
	}
	sum := crc32.NewIEEE()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(in, f.Size+1))
	if err != nil {
		return fmt.Errorf("%.200s: %w: %w", f.Name, err, ErrFormat)
	}
	if n == f.Size && f.method == 8 { // the end of the stream, which LimitReader may not have seen
		var one [1]byte
		if k, err := in.Read(one[:]); k != 0 || err != io.EOF {
			return bad("%.200s: not the size it should have", f.Name)
		}
	}
	if _, err := packed.Peek(1); n != f.Size || sum.Sum32() != f.crc || err != io.EOF {
		return bad("%.200s: not the size or checksum it should have", f.Name)
	}
	return nil
}

// Read returns one file of at most limit bytes.
func (p *Package) Read(name string, limit int64) ([]byte, error) {
	f, ok := p.Lookup(name)
	if !ok {
		return nil, bad("no %s", name)
	}
	if f.Size > limit {
		return nil, bad("%s of %d bytes", name, f.Size)
	}
	b := bytes.NewBuffer(make([]byte, 0, f.Size))
	err := p.Unpack(f, b)
	return b.Bytes(), err
}

// SignatureBlock returns the PKCS#7 signature, nil if there is none. The
// signature must be the last file, so that what it covers is what lies before.
func (p *Package) SignatureBlock(limit int64) ([]byte, error) {
	last := p.Files[len(p.Files)-1]
	if _, ok := p.Lookup(Signature); !ok {
		return nil, nil
	}
	if last.Name != Signature {
		return nil, bad("the signature is not the last file")
	}
	if last.entryHas() {
		return nil, bad("the signature's entry has more than belongs there")
	}
	b, err := p.Read(Signature, limit)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte("PKCX")) {
		return nil, bad("signature block")
	}
	return b[4:], nil
}

// entryHas: what no digest covers is not as tools write it (flags, extra
// fields, attributes).
func (f File) entryHas() bool {
	return f.header != int64(recordHeader+len(Signature)) || len(f.entry) != dirHeader+len(Signature) ||
		le.Uint16(f.entry[8:]) != 0 || le.Uint16(f.entry[36:]) != 0 || le.Uint32(f.entry[38:]) != 0
}

// Digests is what the signature of this package states (the content's digest,
// which is no digest but a list): AXPC of the records, AXCD of the directory
// and end records as they were without the signature, AXCT, AXBM and AXCI of
// three files unpacked, the last only where it is.
func (p *Package) Digests(h crypto.Hash) ([]byte, error) {
	out := []byte("APPX")
	records := h.New()
	sig, signed := p.Lookup(Signature)
	end := p.directory
	if signed {
		end = sig.start
	}
	if _, err := io.Copy(records, io.NewSectionReader(p.r, 0, end)); err != nil {
		return nil, err
	}
	out = records.Sum(append(out, "AXPC"...))
	dir := h.New()
	length := 0
	for _, f := range p.Files {
		if f.Name != Signature {
			dir.Write(f.entry)
			length += len(f.entry)
		}
	}
	n := len(p.Files)
	if signed {
		n--
	}
	dir.Write(p.endWithout(n, length, end))
	out = dir.Sum(append(out, "AXCD"...))
	for _, part := range [...][2]string{{"AXCT", ContentTypes}, {"AXBM", BlockMap}, {"AXCI", CodeIntegrity}} {
		f, ok := p.Lookup(part[1])
		if !ok {
			if part[1] == CodeIntegrity {
				continue
			}
			return nil, bad("no %s", part[1])
		}
		if f.Size > maxBlockMap {
			return nil, bad("%s of %d bytes", f.Name, f.Size)
		}
		d := h.New()
		if err := p.Unpack(f, d); err != nil {
			return nil, err
		}
		out = d.Sum(append(out, part[0]...))
	}
	return out, nil
}

// endWithout are the end records of an archive of n files whose directory has
// length bytes and begins at the offset at.
func (p *Package) endWithout(n, length int, at int64) []byte {
	b := bytes.Clone(p.end)
	e := b
	if p.zip64 {
		le.PutUint64(b[24:], uint64(n))
		le.PutUint64(b[32:], uint64(n))
		le.PutUint64(b[40:], uint64(length))
		le.PutUint64(b[48:], uint64(at))
		le.PutUint64(b[endRecord64+8:], uint64(at)+uint64(length))
		e = b[endRecord64+locator64:]
	}
	for _, i := range []int{8, 10} {
		if le.Uint16(e[i:]) != 0xFFFF || !p.zip64 {
			le.PutUint16(e[i:], uint16(n))
		}
	}
	if le.Uint32(e[12:]) != 0xFFFFFFFF || !p.zip64 {
		le.PutUint32(e[12:], uint32(length))
	}
	if le.Uint32(e[16:]) != 0xFFFFFFFF || !p.zip64 {
		le.PutUint32(e[16:], uint32(at))
	}
	return b
}

// Modified is when the newest file was packed, as the archive says: local time
// of nobody knows where, taken as UTC. Zero if it says nothing sensible.
func (p *Package) Modified() time.Time {
	var newest time.Time
	for _, f := range p.Files {
		if f.Name == Signature {
			continue // nothing covers its time
		}
		t, d := le.Uint16(f.entry[12:]), le.Uint16(f.entry[14:])
		at := time.Date(1980+int(d>>9), time.Month(d>>5&15), int(d&31), int(t>>11), int(t>>5&63), int(t&31)*2, 0, time.UTC)
		if at.Year() >= 1990 && at.After(newest) {
			newest = at
		}
	}
	return newest
}
