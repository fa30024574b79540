package mozilla

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/format/mar"
)

// What the vendor's update service answers (update.xml), as the client reads
// it: <updates> with <update> elements that have <patch> elements.

const (
	maxAnswer  = 256 << 10
	maxUpdates = 32 // elements of each kind
)

// answer is one <update>.
type answer struct {
	release
	complete, partial patch // partial.size 0: there is none
}

type patch struct {
	size int64
	hash string // SHA-512, hex; "" if the service names another
}

type xmlUpdates struct {
	XMLName xml.Name
	Updates []struct {
		Type        string `xml:"type,attr"`
		AppVersion  string `xml:"appVersion,attr"`
		BuildID     string `xml:"buildID,attr"`
		Unsupported string `xml:"unsupported,attr"`
		Patches     []struct {
			Type string `xml:"type,attr"`
			Size int64  `xml:"size,attr"`
			Func string `xml:"hashFunction,attr"`
			Hash string `xml:"hashValue,attr"`
		} `xml:"patch"`
	} `xml:"update"`
}

// parseAnswer reads an answer. nil is "no update": also for a system that the
// vendor no longer supports, which it says with unsupported="true".
func parseAnswer(b []byte) (*answer, error) {
	var doc xmlUpdates
	d := xml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("update.xml: %w", err)
	}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("update.xml: %w", err)
		}
		if _, more := t.(xml.StartElement); more {
			return nil, errors.New("update.xml: more than one document")
		}
	}
	if doc.XMLName.Local != "updates" || len(doc.Updates) > maxUpdates {
		return nil, fmt.Errorf("update.xml: <%.40s> with %d updates", doc.XMLName.Local, len(doc.Updates))
	}
	var all []answer
	for _, u := range doc.Updates {
		if u.Unsupported == "true" || len(u.Patches) == 0 || u.Type != "minor" && u.Type != "major" {
			continue // the client passes over these too
		}
		a := answer{release: release{u.AppVersion, u.BuildID, u.Type}}
		if !a.valid() || len(u.Patches) > maxUpdates {
			return nil, fmt.Errorf("update.xml: version %.40q, build %.40q", u.AppVersion, u.BuildID)
		}
		for _, p := range u.Patches {
			if p.Size <= 0 || p.Size > mar.MaxSize {
				return nil, fmt.Errorf("update.xml: a file of %d bytes", p.Size)
			}
			one := patch{size: p.Size}
			if strings.EqualFold(p.Func, "sha512") && len(p.Hash) == 128 {
				one.hash = strings.ToLower(p.Hash)
			}
			switch p.Type {
			case "complete":
				a.complete = one
			case "partial":
				a.partial = one
			}
		}
		if a.complete.size == 0 {
			return nil, fmt.Errorf("update.xml: version %s without a complete file", a.Version)
		}
		all = append(all, a)
	}
	if len(all) == 0 {
		return nil, nil
	}
	// A minor one is preferred, then the newer.
	best := slices.MaxFunc(all, func(a, b answer) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), compare(a.Version, b.Version)) // "major" < "minor"
	})
	return &best, nil
}

// question is the address that a terminal of this kind asks, as its user does
// who presses the button: force=1 leaves nothing to the vendor's dice.
func (f *updates) question(s stream, version, build string) string {
	p := platforms[s.Platform]
	parts := []string{"update", "6", products[f.cfg.Product].name, version, cmp.Or(build, unknownBuild), p.targets[0], s.Locale, f.cfg.Channel,
		p.system, "ISET:SSE4_2,MEM:8192", "default", "default", "update.xml"}
	for i, v := range parts {
		parts[i] = url.PathEscape(v)
	}
	return f.service.String() + "/" + strings.Join(parts, "/") + "?force=1"
}

// unknownBuild is older than any build: partial files are chosen by version.
const unknownBuild = "20100101000000"
