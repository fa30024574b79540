package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

// Clamd is ClamAV's daemon. Its protocol is in clamd(8), COMMANDS: commands of
// the z form end with a zero byte, and INSTREAM is followed by chunks, each
// with its length (32 bits, big-endian), the last one empty.
type Clamd struct {
	Dial func(ctx context.Context) (net.Conn, error)
	// Limit is the largest file that is sent, bytes; 0 is clamdLimit. clamd says
	// OK to a file over its own MaxFileSize without looking at it, unless
	// AlertExceedsMax is set; StreamMaxLength it reports.
	Limit   int64
	Silence time.Duration // longest wait without progress; 0 is two minutes
}

const (
	clamdLimit  = 2<<30 - 1 // clamd.conf(5), MaxFileSize: "cannot scan files greater than 2 GB"
	clamdChunk  = 256 << 10
	clamdAnswer = 4 << 10
	slowest     = 1 << 20 // bytes a second that a scan takes at the slowest, for the wait after the stream
)

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}

func (c *Clamd) silence() time.Duration {
	if c.Silence > 0 {
		return c.Silence
	}
	return 2 * time.Minute
}

func (c *Clamd) open(ctx context.Context) (net.Conn, func(), error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, unavailable("%w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() { stop(); conn.Close() }, nil
}

// Identify asks for the version: "ClamAV 1.0.7/27123/Mon Jul  1 08:36:21 2024",
// without the last two where it has no daily.cvd.
func (c *Clamd) Identify(ctx context.Context) (Identity, error) {
	conn, end, err := c.open(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer end()
	conn.SetDeadline(time.Now().Add(c.silence()))
	text := ""
	if _, err = conn.Write([]byte("zVERSION\x00")); err == nil {
		text, err = readAnswer(conn)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Identity{}, ctx.Err()
		}
		return Identity{}, unavailable("asking for the version: %w", err)
	}
	return parseVersion(text)
}

func parseVersion(text string) (Identity, error) {
	parts := strings.Split(text, "/")
	if !strings.HasPrefix(text, "ClamAV ") || printable(text) != text {
		return Identity{}, unavailable("not a version of clamd: %.100q", text)
	}
	id := Identity{Engine: parts[0]}
	if len(parts) == 1 { // signatures of the site's own only: clamd does not start without any
		return id, nil
	}
	if len(parts) != 3 {
		return Identity{}, unavailable("not a version of clamd: %.100q", text)
	}
	// The date is in clamd's local zone, which it does not name.
	at, err := time.ParseInLocation(time.ANSIC, parts[2], time.Local)
	if err != nil {
		return Identity{}, unavailable("not a date of definitions: %.100q", parts[2])
	}
	id.Definitions, id.Date = parts[1], at.UTC()
	return id, nil
}

// answer is what clamd said, and whether it said so before it had the file.
type answer struct {
	text  string
	err   error
	early bool
}

// Scan sends the file with INSTREAM.
func (c *Clamd) Scan(ctx context.Context, f *os.File, size int64) (Verdict, error) {
	limit := c.Limit
	if limit <= 0 || limit > clamdLimit {
		limit = clamdLimit
	}
	if size > limit {
		return Verdict{OverLimit, fmt.Sprintf("%d bytes", limit)}, nil
	}
	conn, end, err := c.open(ctx)
	if err != nil {
		return Verdict{}, err
	}
	defer end()
	var sent atomic.Bool // the end of the stream is about to go out
	got := make(chan answer, 1)
	go func() {
		text, err := readAnswer(conn)
		got <- answer{text, err, !sent.Load()}
	}()
	a, ferr, err := c.stream(conn, f, size, &sent, got)
	switch {
	case ctx.Err() != nil:
		return Verdict{}, ctx.Err()
	case ferr != nil:
		return Verdict{}, ferr
	case err != nil:
		return Verdict{}, unavailable("%w", err)
	}
	return a.verdict()
}

// stream sends the file and waits for the answer, which may come before the
// end if the file is over a limit. ferr is of the file, err of the connection.
func (c *Clamd) stream(conn net.Conn, f io.Reader, size int64, sent *atomic.Bool, got <-chan answer) (a answer, ferr, err error) {
	wait := func(d time.Duration) answer {
		conn.SetReadDeadline(time.Now().Add(d))
		return <-got
	}
	write := func(b []byte) error {
		conn.SetWriteDeadline(time.Now().Add(c.silence()))
		_, err := conn.Write(b)
		return err
	}
	buf := make([]byte, 4+clamdChunk)
	err = write([]byte("zINSTREAM\x00"))
	for left := size; err == nil && left > 0; {
		select {
		case a = <-got:
			return a, nil, a.err
		default:
		}
		n, rerr := io.ReadFull(f, buf[4:4+min(left, clamdChunk)])
		if rerr != nil {
			return a, rerr, nil
		}
		binary.BigEndian.PutUint32(buf, uint32(n))
		left -= int64(n)
		err = write(buf[:4+n])
	}
	if err != nil { // it closed the stream: perhaps it said why
		if a = wait(c.silence()); a.err != nil {
			return a, nil, err
		}
		return a, nil, nil
	}
	sent.Store(true)
	if err := write(make([]byte, 4)); err != nil {
		return a, nil, err
	}
	a = wait(c.silence() + time.Duration(size/slowest)*time.Second)
	return a, nil, a.err
}

// verdict reads an answer. Anything but the three known forms is none.
func (a answer) verdict() (Verdict, error) {
	if strings.HasSuffix(a.text, "size limit exceeded. ERROR") {
		return Verdict{OverLimit, "StreamMaxLength"}, nil
	}
	body, ok := strings.CutPrefix(a.text, "stream: ")
	if !ok || a.early || printable(a.text) != a.text {
		return Verdict{}, unavailable("answered %.100q%s", a.text, map[bool]string{true: " before it had the file"}[a.early])
	}
	if body == "OK" {
		return Verdict{Result: Clean}, nil
	}
	name, ok := strings.CutSuffix(body, " FOUND")
	switch {
	case !ok || name == "":
		return Verdict{}, unavailable("answered %.100q", a.text)
	case strings.HasPrefix(name, "Heuristics.Limits.Exceeded"): // AlertExceedsMax
		return Verdict{OverLimit, name}, nil
	}
	return Verdict{Infected, name}, nil
}

// readAnswer reads one answer: up to its zero byte, at most clamdAnswer bytes.
func readAnswer(r io.Reader) (string, error) {
	buf := make([]byte, 0, 256)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if i := bytes.IndexByte(buf, 0); i >= 0 {
			return strings.TrimRight(string(buf[:i]), "\n"), nil
		}
		if len(buf) >= clamdAnswer {
			return "", fmt.Errorf("an answer of over %d bytes", clamdAnswer)
		}
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("the answer broke off: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return "", err
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
	}
}

// printable replaces what a console or a page should not be given, and cuts.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "")
	}
	return s
}
