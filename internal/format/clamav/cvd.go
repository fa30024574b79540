// Package clamav reads the files that ClamAV distributes: databases (CVD),
// patches (cdiff) and the detached signatures of 1.5 (.sign). It says what is
// written in them and that their parts fit; package verifier checks signatures.
//
// Formats: libclamav/cvd.c, shared/cdiff.c, libclamav_rust/src/{cvd,codesign}.rs
// of ClamAV 1.5, and the project's docs/design.md.
package clamav

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// HeaderSize is the length in bytes of a database's header.
const HeaderSize = 512

// Limits on a database. main has about 0.5 GiB uncompressed in 40 members.
const (
	MaxDatabase = 4 << 30 // bytes of the file, and of what it unpacks to
	maxInfo     = 1 << 20
	maxCopying  = 1 << 20
	maxMembers  = 4096
	maxPadding  = 1 << 20 // zero bytes after the last member
)

// Header is the first 512 bytes of a database.
type Header struct {
	Build   string // "22 Jun 2021 21-34 -0400"; for people
	Version int64
	Sigs    int64
	Flevel  int64 // functionality level that the signatures need
	MD5     string
	DSig    string
	Builder string
	Time    time.Time // of the build: what freshclam asks about with If-Modified-Since
}

// ParseHeader reads the header at the start of b (HeaderSize bytes).
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("database of %d bytes", len(b))
	}
	text := strings.TrimRight(string(b[:HeaderSize]), " ")
	for _, c := range []byte(text) {
		if c < 0x20 || c > 0x7e {
			return Header{}, errors.New("header is not printable")
		}
	}
	return parseHeader(text)
}

func parseHeader(text string) (Header, error) {
	f := strings.Split(text, ":")
	if len(f) != 9 || f[0] != "ClamAV-VDB" {
		return Header{}, fmt.Errorf("%.80q is no database header", text)
	}
	h := Header{Build: f[1], MD5: f[5], DSig: f[6], Builder: f[7]}
	var err [4]error
	var stime int64
	h.Version, err[0] = number(f[2])
	h.Sigs, err[1] = number(f[3])
	h.Flevel, err[2] = number(f[4])
	stime, err[3] = number(f[8])
	if err := errors.Join(err[:]...); err != nil {
		return Header{}, fmt.Errorf("database header: %w", err)
	}
	h.Time = time.Unix(stime, 0).UTC()
	return h, nil
}

// number reads a canonical decimal below 2^40.
func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n >= 1<<40 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("number %.40q", s)
	}
	return n, nil
}

// unsigned is the header as line 1 of the .info member repeats it.
func (h Header) unsigned() string {
	return fmt.Sprintf("ClamAV-VDB:%s:%d:%d:%d:X:X:%s:%d", h.Build, h.Version, h.Sigs, h.Flevel, h.Builder, h.Time.Unix())
}

// Info is the .info member: the signed list of the others.
type Info struct {
	Signed []byte // what DSIG signs: all bytes before it
	DSig   string
	Header string // line 1
	files  map[string]listed
}

type listed struct {
	size int64
	sum  string // SHA-256, lower-case hex
	seen bool
}

// fileName is what a member of a database and a file of a patch may be called.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,98}$`)

// ParseInfo reads an .info member.
func ParseInfo(b []byte) (Info, error) {
	i := bytes.Index(b, []byte("DSIG:"))
	if i <= 0 || b[i-1] != '\n' {
		return Info{}, errors.New(".info without a signature line")
	}
	dsig, rest, _ := strings.Cut(string(b[i+len("DSIG:"):]), "\n")
	if rest != "" {
		return Info{}, errors.New(".info goes on after its signature")
	}
	in := Info{Signed: b[:i], DSig: dsig, files: map[string]listed{}}
	lines := strings.Split(strings.TrimSuffix(string(b[:i]), "\n"), "\n")
	in.Header = lines[0]
	for _, line := range lines[1:] {
		f := strings.Split(line, ":")
		if len(f) != 3 || !fileName.MatchString(f[0]) || len(f[2]) != 2*sha256.Size {
			return Info{}, fmt.Errorf(".info line %.120q", line)
		}
		n, err := number(f[1])
		if _, twice := in.files[f[0]]; err != nil || twice || len(in.files) == maxMembers {
			return Info{}, fmt.Errorf(".info line %.120q", line)
		}
		in.files[f[0]] = listed{size: n, sum: f[2]}
	}
	return in, nil
}

// Checks are the signature checks of a database, given by package verifier.
type Checks struct {
	Info func(Info) error                         // called before any listed member is read
	Body func(sum [md5.Size]byte, h Header) error // the MD5 of all behind the header
}

// ReadDatabase reads the whole database called name ("daily") and checks that
// its parts fit: the header equals line 1 of <name>.info, every listed member
// is there once with its size and SHA-256, nothing else is but COPYING. It
// holds no more than the .info in memory, and unpacks nothing that checks.Info
// has not vouched for.
func ReadDatabase(r io.ReaderAt, size int64, name string, checks Checks) (Header, error) {
	if size > MaxDatabase {
		return Header{}, fmt.Errorf("database of %d bytes", size)
	}
	head := make([]byte, HeaderSize)
	if size < HeaderSize {
		return Header{}, fmt.Errorf("database of %d bytes", size)
	}
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return Header{}, err
	}
	h, err := ParseHeader(head)
	if err != nil {
		return Header{}, err
	}
	sum := md5.New()
	body := bufio.NewReaderSize(io.TeeReader(io.NewSectionReader(r, HeaderSize, size-HeaderSize), sum), 256<<10)
	z, err := gzip.NewReader(body)
	if err != nil {
		return h, fmt.Errorf("database body: %w", err)
	}
	z.Multistream(false) // sigtool writes one
	if err := readMembers(z, name, h, checks); err != nil {
		return h, err
	}
	if _, err := body.ReadByte(); !errors.Is(err, io.EOF) {
		return h, errors.New("bytes after the database's end")
	}
	return h, checks.Body([md5.Size]byte(sum.Sum(nil)), h)
}

// readMembers reads the tar to its very end.
func readMembers(r io.Reader, name string, h Header, checks Checks) error {
	var info Info
	for n := 0; ; n++ {
		m, err := nextMember(r)
		if err != nil {
			return fmt.Errorf("database: member %d: %w", n+1, err)
		}
		switch {
		case m.name == "": // end
			if info.files == nil {
				return errors.New("database without .info")
			}
			for f, l := range info.files {
				if !l.seen {
					return fmt.Errorf("database lacks its member %s", f)
				}
			}
			return onlyZeros(r)
		case n == 0 && m.name == "COPYING":
			if m.size > maxCopying {
				return fmt.Errorf("COPYING of %d bytes", m.size)
			}
			err = m.read(r, io.Discard)
		case info.files == nil: // sigtool writes it before everything that it lists
			info, err = readInfo(r, m, name, h, checks)
		default:
			err = info.check(r, m)
		}
		if err != nil {
			return fmt.Errorf("database: member %.100s: %w", m.name, err)
		}
	}
}

func readInfo(r io.Reader, m member, name string, h Header, checks Checks) (Info, error) {
	if m.name != name+".info" {
		return Info{}, fmt.Errorf("should be %s.info: another database, renamed?", name)
	}
	if m.size > maxInfo {
		return Info{}, fmt.Errorf("%d bytes", m.size)
	}
	var b bytes.Buffer
	if err := m.read(r, &b); err != nil {
		return Info{}, err
	}
	info, err := ParseInfo(b.Bytes())
	if err != nil {
		return Info{}, err
	}
	if info.Header != h.unsigned() {
		return Info{}, errors.New("the header says something else than the signed list")
	}
	return info, checks.Info(info)
}

func (in Info) check(r io.Reader, m member) error {
	l, ok := in.files[m.name]
	if !ok || l.seen {
		return errors.New("not in the signed list, or twice there")
	}
	if m.size != l.size {
		return fmt.Errorf("%d bytes, the signed list says %d", m.size, l.size)
	}
	sum := sha256.New()
	if err := m.read(r, sum); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != l.sum {
		return fmt.Errorf("SHA-256 is %s, the signed list says %.64s", got, l.sum)
	}
	l.seen = true
	in.files[m.name] = l
	return nil
}
