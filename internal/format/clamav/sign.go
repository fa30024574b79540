package clamav

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Limits on a .sign file: production ones have 9 kB and one line.
const (
	MaxSign      = 256 << 10 // bytes
	maxSignLines = 16
)

// Signature is one line of a .sign file: a PKCS#7 SignedData for clients whose
// functionality level lies in [Min, Max].
type Signature struct {
	Min, Max int64 // Max is 1<<62 where the line has no upper bound
	DER      []byte
}

// ParseSign reads a .sign file (libclamav_rust/src/codesign.rs). Lines in a
// format other than pkcs7-pem are passed over, as clients do.
func ParseSign(b []byte) ([]Signature, error) {
	if len(b) > MaxSign {
		return nil, fmt.Errorf(".sign of %d bytes", len(b))
	}
	lines := strings.Split(string(b), "\n")
	if strings.TrimRight(lines[0], "\r") != "#clamsign-1.0" {
		return nil, fmt.Errorf(".sign begins with %.40q", lines[0])
	}
	var out []Signature
	for _, line := range lines[1:] {
		line = strings.TrimRight(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		s, known, err := parseSignLine(line)
		if err != nil {
			return nil, err
		}
		if known {
			out = append(out, s)
		}
		if len(out) > maxSignLines {
			return nil, fmt.Errorf(".sign with more than %d signatures", maxSignLines)
		}
	}
	if len(out) == 0 {
		return nil, errors.New(".sign without a signature")
	}
	return out, nil
}

func parseSignLine(line string) (s Signature, known bool, err error) {
	f := strings.SplitN(line, ":", 4)
	if len(f) != 4 {
		return s, false, fmt.Errorf(".sign line %.60q", line)
	}
	if f[2] != "pkcs7-pem" {
		return s, false, nil
	}
	if s.Min, err = number(f[0]); err != nil {
		return s, false, fmt.Errorf(".sign line: %w", err)
	}
	s.Max = 1 << 62
	if f[1] != "" {
		if s.Max, err = number(f[1]); err != nil {
			return s, false, fmt.Errorf(".sign line: %w", err)
		}
	}
	s.DER, err = base64.StdEncoding.Strict().DecodeString(strings.TrimRight(f[3], " \t"))
	if err != nil || len(bytes.TrimSpace(s.DER)) == 0 {
		return s, false, fmt.Errorf(".sign line: %w", errors.Join(err, errors.New("no base64")))
	}
	return s, true, nil
}
