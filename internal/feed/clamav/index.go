package clamav

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/clamav"
)

// The vendor's names are the index: <db>.cvd, <db>-<n>.cdiff,
// <db>-<version>.cvd.sign, <db>-<n>.cdiff.sign.

type role int

const (
	database role = iota
	databaseSign
	patch
	patchSign
)

// file is a vendor's file as its name tells.
type file struct {
	role    role
	db      string
	version int64 // 0 for a database: its name does not say
}

var fileNames = regexp.MustCompile(`^([a-z][a-z0-9_]{0,39})(?:-([1-9][0-9]{0,9}))?\.(cvd|cvd\.sign|cdiff|cdiff\.sign)$`)

func validName(db string) bool { return fileNames.MatchString(db+".cvd") && !strings.Contains(db, "-") }

// parseName reads a vendor's file name.
func parseName(name string) (file, bool) {
	m := fileNames.FindStringSubmatch(name)
	if m == nil {
		return file{}, false
	}
	f := file{db: m[1]}
	if m[2] != "" {
		f.version, _ = strconv.ParseInt(m[2], 10, 64) // ten digits
	}
	switch m[3] {
	case "cvd":
		f.role = database
	case "cvd.sign":
		f.role = databaseSign
	case "cdiff":
		f.role = patch
	case "cdiff.sign":
		f.role = patchSign
	}
	return f, (f.role == database) == (f.version == 0)
}

func (f file) name() string {
	switch f.role {
	case database:
		return f.db + ".cvd"
	case databaseSign:
		return fmt.Sprintf("%s-%d.cvd.sign", f.db, f.version)
	case patch:
		return fmt.Sprintf("%s-%d.cdiff", f.db, f.version)
	}
	return fmt.Sprintf("%s-%d.cdiff.sign", f.db, f.version)
}

// artifact says how a file stands in a snapshot. A patch and its signature are
// a group of their own: without them a terminal takes the whole database.
func (f file) artifact() feed.Artifact {
	a := feed.Artifact{Path: f.name(), Class: feed.Definition, Version: strconv.FormatInt(f.version, 10)}
	if f.role == databaseSign || f.role == patchSign {
		a.Class = feed.Metadata
	}
	if f.role == patch || f.role == patchSign {
		a.Group = file{role: patch, db: f.db, version: f.version}.name()
	}
	return a
}

// currentDatabases are the snapshot's databases, by name.
func currentDatabases(c feed.Content) []feed.Artifact {
	var out []feed.Artifact
	for a, err := range c.Artifacts() {
		if err != nil {
			return out
		}
		if f, ok := parseName(a.Path); ok && f.role == database {
			out = append(out, a)
		}
	}
	return out
}

// currentVersion is the version of a snapshot's database; 0 if it has none.
func currentVersion(c feed.Content, db string) int64 {
	a, ok := c.Lookup(db + ".cvd")
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(a.Version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// header reads the header of a stored database.
func header(c feed.Content, path string) (clamav.Header, []byte, error) {
	b, err := readHead(c, path)
	if err != nil {
		return clamav.Header{}, nil, fmt.Errorf("%s: %w: %w", path, err, feed.ErrDamaged)
	}
	h, err := clamav.ParseHeader(b)
	if err != nil {
		return clamav.Header{}, nil, fmt.Errorf("%s: %w: %w", path, err, feed.ErrUntrusted)
	}
	return h, b, nil
}
