package feed

import (
	"fmt"
	"time"
)

// Setup is one configured feed as the engines see it: config blocks decoded,
// defaults applied. It holds no vendor detail beyond Feed itself.
type Setup struct {
	Name   string
	Kind   Kind
	Feed   Feed
	Every  time.Duration       // between fetches
	Floors map[Class]Strength  // the kind's, raised by config
	Mount  string              // where terminals find it: "/debian-security/", begins and ends with a slash
	Dirs   map[string]string   // named spool and drop directories
	Run    []string            // a vendor's own update tool, run before each fetch; empty is none
	Waits  map[string]Duration // ring → wait after acceptance; empty is by class
	Terms  Terms               // the vendor's, and what the config adds
	Prefer Class               // class that decides the waits: definition feeds do not wait days
}

// Duration is a time.Duration that reads and writes as text ("2h30m").
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration does, and days: "3d".
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes the form UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// ParseDuration is time.ParseDuration with whole days: "3d".
func ParseDuration(s string) (time.Duration, error) {
	times := time.Duration(1)
	typed := s
	if n := len(s); n > 1 && s[n-1] == 'd' {
		times, s = 24, s[:n-1]+"h"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a time span such as 6h, 30m or 3d", typed)
	}
	return times * d, nil
}

// Rings, in the order in which they see a publication.
func Rings() []string { return []string{"test", "pilot", "all"} }
