package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// Scanner is the value of "scan": a text, or the parts of a command.
type Scanner struct {
	Name string   // "", "defender", "clamd:unix:PATH" or "clamd:tcp:HOST:PORT"
	Args []string // of a command; then Name is empty
}

// UnmarshalTOML takes a string or a list of strings.
func (s *Scanner) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		s.Name = v
		return nil
	case []any:
		for _, e := range v {
			text, ok := e.(string)
			if !ok {
				break
			}
			s.Args = append(s.Args, text)
		}
		if len(s.Args) == len(v) {
			return nil
		}
	}
	return fmt.Errorf("scan: a text, or a list of texts")
}

// None reports whether no scanner is named.
func (s Scanner) None() bool { return s.Name == "" && len(s.Args) == 0 }

// Clamd is the network ("unix", "tcp") and address of a clamd.
func (s Scanner) Clamd() (network, address string, ok bool) {
	rest, ok := strings.CutPrefix(s.Name, "clamd:")
	if !ok {
		return "", "", false
	}
	network, address, ok = strings.Cut(rest, ":")
	return network, address, ok
}

// Values of over_limit.
const (
	OverLimitStop   = "stop"
	OverLimitRecord = "record"
)

func (f *File) checkScan() error {
	if !slices.Contains([]string{OverLimitStop, OverLimitRecord}, f.OverLimit) {
		return fmt.Errorf("over_limit %q: stop or record", f.OverLimit)
	}
	if f.RescanDays < 0 || f.RescanDays > 366 {
		return fmt.Errorf("rescan_days %d: 0 to 366", f.RescanDays)
	}
	if f.ScanLimit < 0 {
		return fmt.Errorf("scan_limit_mb %d: not negative", f.ScanLimit)
	}
	network, address, clamd := f.Scan.Clamd()
	switch {
	case f.Scan.None(), f.Scan.Name == "defender":
		return nil
	case len(f.Scan.Args) > 0:
		if f.Scan.Args[0] == "" || !slices.ContainsFunc(f.Scan.Args[1:], func(a string) bool { return strings.Contains(a, "{file}") }) {
			return fmt.Errorf("scan: a command is a program and its arguments, one of which is {file}")
		}
		return nil
	case clamd && network == "unix" && address != "":
		return nil
	case clamd && network == "tcp":
		if _, port, err := net.SplitHostPort(address); err == nil && port != "" {
			return nil
		}
	}
	return fmt.Errorf("scan %q: clamd:unix:PATH, clamd:tcp:HOST:PORT, defender, or a command as a list with {file}", f.Scan.Name)
}
