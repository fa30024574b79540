package msi

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/format/cfb"
)

// Patch is what a patch (.msp) says of itself in its summary and in those of
// its transforms ("Summary Property Descriptions", Windows Installer SDK).
type Patch struct {
	Code     string   // "{…}"
	Replaces []string // codes of patches that it removes
	Targets  []string // product codes that it applies to
	Steps    []Step   // each once, in the order of the file
}

// Step is one transform: from which version of a product to which.
type Step struct{ Product, From, To string }

const maxTransforms = 4096

// ReadPatch reads a patch. Errors wrap ErrFormat, or are r's.
func ReadPatch(r io.ReaderAt, size int64) (*Patch, error) {
	f, err := cfb.Open(r, size)
	if errors.Is(err, cfb.ErrFormat) {
		return nil, fmt.Errorf("%w: %w", err, ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	texts, err := summaryIn(f.Root)
	if err != nil {
		return nil, err
	}
	p := &Patch{Targets: guids(strings.ReplaceAll(texts[7], ";", "")), Replaces: guids(texts[9])}
	if len(p.Targets) == 0 || len(p.Replaces) == 0 {
		return nil, bad("patch %.60q for %.100q", texts[9], texts[7])
	}
	p.Code, p.Replaces = p.Replaces[0], p.Replaces[1:]
	n := 0
	for _, e := range f.Root.Children {
		if e.Kind != cfb.Storage {
			continue
		}
		if n++; n > maxTransforms {
			return nil, bad("more than %d transforms", maxTransforms)
		}
		texts, err := summaryIn(e)
		if errors.Is(err, ErrFormat) {
			continue // no transform
		}
		if err != nil {
			return nil, err
		}
		if s, ok := stepOf(texts[9]); ok && !slices.Contains(p.Steps, s) {
			p.Steps = append(p.Steps, s)
		}
	}
	return p, nil
}

func summaryIn(e *cfb.Entry) (map[uint32]string, error) {
	c := e.Child("\x05SummaryInformation")
	if c == nil || c.Kind != cfb.Stream {
		return nil, bad("no summary")
	}
	b, err := c.Read(maxSummary)
	if errors.Is(err, cfb.ErrFormat) {
		return nil, fmt.Errorf("summary: %w: %w", err, ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	return summaryOf(b, decoder(1252)), nil
}

// guids reads codes that stand one behind the other; nil if anything else does.
func guids(s string) (out []string) {
	for len(s) > 0 {
		if len(s) < 38 || !guid.MatchString(s[:38]) {
			return nil
		}
		out = append(out, strings.ToUpper(s[:38]))
		s = s[38:]
	}
	return out
}

// stepOf reads "{old product}old version;{new product}new version;{upgrade code}".
func stepOf(s string) (Step, bool) {
	part := strings.Split(s, ";")
	if len(part) < 2 || len(part[0]) < 39 || len(part[1]) < 39 || len(s) > 400 || !guid.MatchString(part[0][:38]) || !guid.MatchString(part[1][:38]) {
		return Step{}, false
	}
	return Step{strings.ToUpper(part[0][:38]), part[0][38:], part[1][38:]}, true
}
