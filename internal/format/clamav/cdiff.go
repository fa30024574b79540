package clamav

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits on a patch.
const (
	MaxDiff       = 256 << 20 // bytes of the file
	maxScript     = 1 << 30   // bytes of its script
	maxScriptLine = 4 << 20
	maxTrailer    = 350 // ':' and signature, as libclamav looks for them
)

// Diff is what a patch says of itself.
type Diff struct {
	Version int64  // the version it leads to
	Script  int64  // length of the script in bytes
	DSig    string // signs Sum
	Sum     [sha256.Size]byte
	at, end int64 // the compressed script
}

// ReadDiff reads a patch's header and trailer and hashes what is signed. The
// script is not read: CheckScript does that when the signature holds.
func ReadDiff(r io.ReaderAt, size int64) (Diff, error) {
	if size > MaxDiff {
		return Diff{}, fmt.Errorf("patch of %d bytes", size)
	}
	tail := make([]byte, min(size, maxTrailer+1))
	if err := readFull(r, tail, size-int64(len(tail))); err != nil {
		return Diff{}, err
	}
	colon := bytes.LastIndexByte(tail, ':')
	if colon < 0 {
		return Diff{}, errors.New("patch without a signature")
	}
	d := Diff{DSig: string(tail[colon+1:]), end: size - int64(len(tail)) + int64(colon)}
	head := make([]byte, min(d.end, 64))
	if err := readFull(r, head, 0); err != nil {
		return Diff{}, err
	}
	f := bytes.SplitN(head, []byte{':'}, 4)
	if len(f) != 4 || string(f[0]) != "ClamAV-Diff" {
		return Diff{}, fmt.Errorf("%.40q is no patch header", head)
	}
	var err, err2 error
	d.Version, err = number(string(f[1]))
	d.Script, err2 = number(string(f[2]))
	if err = errors.Join(err, err2); err != nil || d.Script > maxScript {
		return Diff{}, fmt.Errorf("patch header %.40q: %w", head, err)
	}
	d.at = int64(len(f[0]) + len(f[1]) + len(f[2]) + 3)
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, d.end)); err != nil {
		return Diff{}, err
	}
	d.Sum = [sha256.Size]byte(h.Sum(nil))
	return d, nil
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	return noEOF(err)
}

// CheckScript reads the script of d: it has the stated length, only commands
// that freshclam knows, and edits <name>.info and no other database's.
func (d Diff) CheckScript(r io.ReaderAt, name string) error {
	body := bufio.NewReader(io.NewSectionReader(r, d.at, d.end-d.at))
	z, err := gzip.NewReader(body)
	if err != nil {
		return fmt.Errorf("patch script: %w", err)
	}
	z.Multistream(false)
	count := &counter{r: io.LimitReader(z, d.Script+1)}
	if err := checkScript(count, name); err != nil {
		return fmt.Errorf("patch script: %w", err)
	}
	if count.n != d.Script {
		return fmt.Errorf("patch script is not of %d bytes", d.Script)
	}
	if _, err := body.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the patch script's end")
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// checkScript checks the grammar (shared/cdiff.c).
func checkScript(r io.Reader, name string) error {
	br := bufio.NewReaderSize(r, maxScriptLine)
	open, info := "", false
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if text := strings.TrimRight(string(line), "\r\n"); text != "" && text[0] != '#' {
			var bad error
			if open, bad = command(text, open, name); bad != nil {
				return fmt.Errorf("line %d, %.60q: %w", n, text, bad)
			}
			info = info || open == name+".info"
		}
		if err != nil {
			break
		}
	}
	if open != "" {
		return fmt.Errorf("%s is not closed", open)
	}
	if !info {
		return fmt.Errorf("does not edit %s.info: another database's patch, renamed?", name)
	}
	return nil
}

// command checks one command and returns the file that is open after it.
func command(text, open, name string) (string, error) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "OPEN", "UNLINK":
		if open != "" || !fileName.MatchString(rest) {
			return open, errors.New("not here, or no file name")
		}
		if strings.HasSuffix(rest, ".info") && (rest != name+".info" || word == "UNLINK") {
			return open, errors.New("another database's list")
		}
		if word == "UNLINK" {
			return open, nil
		}
		return rest, nil
	case "CLOSE":
		if open == "" || rest != "" {
			return open, errors.New("nothing is open")
		}
		return "", nil
	case "ADD", "DEL", "XCHG":
		if open == "" || rest == "" {
			return open, errors.New("nothing is open, or nothing said")
		}
		return open, nil
	case "MOVE":
		f := strings.Fields(rest)
		if open != "" || len(f) != 6 || !fileName.MatchString(f[0]) || !fileName.MatchString(f[1]) {
			return open, errors.New("not here, or wrong arguments")
		}
		return open, nil
	}
	return open, errors.New("unknown command")
}
