package cab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Source is one file to be written. Body is read twice: its checksums stand
// before its bytes.
type Source struct {
	Name     string    // relative, slash-separated, ASCII
	Modified time.Time // written as UTC; the format begins in 1980
	Size     int64
	Body     io.ReaderAt
}

// maxWritten is what stays readable by every unpacker: offsets have 32 bits,
// and some take them as signed.
const maxWritten = 1<<31 - 1

// Write writes a cabinet of stored files (MS-CAB, no compression), each in a
// folder of its own. The same sources give the same bytes. ErrLimit if they do
// not fit in one cabinet.
func Write(w io.Writer, files []Source) error {
	if len(files) == 0 || len(files) > 1000 {
		return fmt.Errorf("%w: %d files", ErrLimit, len(files))
	}
	le := binary.LittleEndian
	var entries []byte
	for i, f := range files {
		if _, err := cleanName([]byte(f.Name), false); err != nil || len(f.Name) >= maxName || strings.ContainsFunc(f.Name, func(r rune) bool { return r > 0x7e }) {
			return bad("name %.100q", f.Name)
		}
		if f.Size < 0 || f.Size > maxWritten {
			return fmt.Errorf("%w: %s has %d bytes", ErrLimit, f.Name, f.Size)
		}
		d, t := dosFields(f.Modified)
		entries = le.AppendUint32(entries, uint32(f.Size))
		entries = le.AppendUint32(entries, 0)
		entries = le.AppendUint16(entries, uint16(i))
		entries = le.AppendUint16(le.AppendUint16(entries, d), t)
		entries = le.AppendUint16(entries, 0x20) // archive
		entries = append(entries, strings.ReplaceAll(f.Name, "/", `\`)+"\x00"...)
	}
	at := int64(36 + 8*len(files))
	head := make([]byte, 0, at)
	head = append(head, "MSCF\x00\x00\x00\x00"...)
	data := at + int64(len(entries))
	total := data
	for _, f := range files {
		if blocksOf(f.Size) > 65535 {
			return fmt.Errorf("%w: %s has %d bytes", ErrLimit, f.Name, f.Size)
		}
		total += f.Size + 8*blocksOf(f.Size)
	}
	if total > maxWritten {
		return fmt.Errorf("%w: %d bytes", ErrLimit, total)
	}
	head = le.AppendUint32(head, uint32(total))
	head = le.AppendUint32(head, 0)
	head = le.AppendUint32(head, uint32(at))
	head = le.AppendUint32(head, 0)
	head = append(head, 3, 1)
	head = le.AppendUint16(head, uint16(len(files)))
	head = le.AppendUint16(head, uint16(len(files)))
	head = append(head, 0, 0, 0, 0, 0, 0)
	for _, f := range files {
		head = le.AppendUint32(head, uint32(data))
		head = le.AppendUint16(le.AppendUint16(head, uint16(blocksOf(f.Size))), methodStored)
		data += f.Size + 8*blocksOf(f.Size)
	}
	if _, err := w.Write(append(head, entries...)); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeBlocks(w, f); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

func blocksOf(size int64) int64 { return (size + blockOut - 1) / blockOut }

func writeBlocks(w io.Writer, f Source) error {
	var b [8 + blockOut]byte
	r := io.NewSectionReader(f.Body, 0, f.Size)
	for left := f.Size; left > 0; {
		n := min(left, blockOut)
		if _, err := io.ReadFull(r, b[8:8+n]); err != nil {
			return errors.Join(err, bad("%d bytes fewer than said", left))
		}
		le := binary.LittleEndian
		le.PutUint16(b[4:], uint16(n))
		le.PutUint16(b[6:], uint16(n))
		le.PutUint32(b[:], checksum(b[4:8], checksum(b[8:8+n], 0)))
		if _, err := w.Write(b[:8+n]); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// dosFields is the reverse of dosTime; the first day of the format for what it cannot say.
func dosFields(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Year() < 1980 || t.Year() > 2107 {
		return 1<<5 | 1, 0
	}
	return uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day()), uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}
