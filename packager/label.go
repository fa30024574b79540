package packager

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// mediumNumber is what a registered medium may be called: up to three letters
// and a number, so that it says nothing about whose it is.
var mediumNumber = regexp.MustCompile(`^([A-Z]{1,3}-?)?[0-9]{1,6}$`)

// ValidMedium reports whether s may stand on a medium as its number.
func ValidMedium(s string) bool { return mediumNumber.MatchString(s) }

// maxReadme bounds a README.txt that is read for its label.
const maxReadme = 64 << 10

// labelOf finds the medium's number in a README; empty if it has none.
func labelOf(readme []byte) string {
	_, rest, ok := bytes.Cut(readme, []byte("\r\n"+readmeLabel))
	line, _, end := bytes.Cut(rest, []byte("\r\n"))
	if s := string(line); ok && end && ValidMedium(s) {
		return s
	}
	return ""
}

// OnMedium is what a directory says it holds: an unproved word, for the
// outside's own ledger only.
type OnMedium struct {
	Bundle uint64 // 0: no bundle of ours
	Set    feed.Digest
	Medium string // its registered number
}

// LookAt reads what a medium says of itself, before it is written again or when
// it comes back. A directory that does not exist or holds nothing of ours is
// the zero value. Volumes in one directory say what the first does.
func LookAt(dir string) (OnMedium, error) {
	var on OnMedium
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return on, nil
	}
	m, err := openPlain(volumesIn([]string{dir})[0])
	if err != nil {
		return on, err
	}
	defer m.close()
	readme, err := m.read(nameReadme, maxReadme)
	if err != nil && !notOurs(err) {
		return on, err
	}
	on.Medium = labelOf(readme)
	raw, err := m.read(nameSet, maxSet)
	if err != nil && !notOurs(err) {
		return on, err
	}
	if s, err := parseSet(raw); err == nil {
		on.Bundle, on.Set = s.Number, feed.DigestOf(raw)
	}
	return on, nil
}

// notOurs: nothing is there that we could have written.
func notOurs(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) || errors.Is(err, errTooLong)
}

// Erased is an older bundle that was removed from a medium to make room.
type Erased struct {
	Dir   string
	Files int
	OnMedium
}

// foreignLayout refuses an OCI layout that another program made: our own have a
// set, which is written before the index.
func foreignLayout(dir string, files []found) error {
	m, err := openPlain(dir)
	if err != nil {
		return err
	}
	defer m.close()
	for _, f := range files {
		parent, ok := strings.CutSuffix(f.name, nameIndex)
		if !ok || parent != "" && !strings.HasSuffix(parent, "/") {
			continue
		}
		raw, err := m.read(parent+nameSet, maxSet)
		if err != nil && !notOurs(err) {
			return err
		}
		if !isSet(raw) {
			return feed.NewFault(fmt.Errorf("%s holds an OCI layout of another program: %w", dir, feed.ErrConfig), "H-806", "medium", dir, "detail", "oci-layout")
		}
	}
	return nil
}

// onlyInBundles matches the files that nobody has but a bundle, whole or in part.
var onlyInBundles = regexp.MustCompile(`^(approval-[1-9][0-9]{0,4}\.json|hashike-return\.txt|blobs/sha256/[0-9a-f]{64}|(.*/)?\.tmp-[0-9]+)$`)

// unmarked refuses files that have our names and nothing that shows that we
// wrote them: a README.txt or tables of the medium's owner.
func unmarked(dir string, files []found) error {
	if len(files) == 0 {
		return nil
	}
	m, err := openPlain(dir)
	if err != nil {
		return err
	}
	defer m.close()
	for _, f := range files {
		name := inVolume.ReplaceAllString(f.name, "")
		if onlyInBundles.MatchString(name) {
			return nil
		}
		if name != nameReadme && name != nameSet {
			continue
		}
		raw, err := m.read(f.name, maxReadme)
		if err != nil && !notOurs(err) {
			return err
		}
		if name == nameReadme && bytes.HasPrefix(raw, []byte(readmeHead)) || name == nameSet && isSet(raw) {
			return nil
		}
	}
	return feed.NewFault(fmt.Errorf("%s holds %s, which no bundle of ours brought: %w", dir, files[0].name, feed.ErrConfig), "H-806", "medium", dir, "detail", files[0].name)
}

// isSet reports whether raw says that it is the set of a bundle.
func isSet(raw []byte) bool {
	var head struct {
		Format string `json:"format"`
	}
	return json.Unmarshal(raw, &head) == nil && head.Format == setFormat
}
