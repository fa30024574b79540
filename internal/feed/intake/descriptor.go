package intake

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"github.com/hashike/hashike/internal/feed"
)

// Descriptor is what a person says of a file. Its text begins with a line
//
//	# hashike intake 1 sha256:…
//
// with the digest of all that follows: what was changed by accident, or by
// another way than "hashike intake add", is refused.
type Descriptor struct {
	Product   string      `toml:"product"`             // of the configuration
	Name      string      `toml:"name"`                // of the product, for people
	Vendor    string      `toml:"vendor"`              // for people
	Version   string      `toml:"version"`             // up to four numbers
	File      string      `toml:"file"`                // its name, without a folder
	SHA256    feed.Digest `toml:"sha256"`              // of the file
	Publisher string      `toml:"publisher,omitempty"` // who was expected to have signed
	Released  string      `toml:"released,omitempty"`  // the vendor's date, 2026-03-15
	Source    string      `toml:"source,omitempty"`    // the page that it was taken from
	Says      string      `toml:"says,omitempty"`      // the version that the file itself says
	ID        string      `toml:"id,omitempty"`        // of winget; made of vendor and name if empty
	Type      string      `toml:"type"`                // as feed.Installer has it
	Arch      string      `toml:"arch"`
	Locale    string      `toml:"locale,omitempty"`
	Silent    string      `toml:"silent,omitempty"` // arguments that install without a question
	Success   []int       `toml:"success,omitempty"`
	By        string      `toml:"by"` // who handed it in
	Added     time.Time   `toml:"added"`
}

const (
	maxDescriptor = 64 << 10
	head          = "# hashike intake 1 "
	dateForm      = "2006-01-02"
)

// Encode writes a descriptor in its one form.
func (d Descriptor) Encode() ([]byte, error) {
	d.Added = d.Added.UTC().Truncate(time.Second)
	var b bytes.Buffer
	e := toml.NewEncoder(&b)
	e.Indent = ""
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("descriptor of %s: %w", d.File, err)
	}
	out := append([]byte(head+string(feed.DigestOf(b.Bytes()))+"\n"), b.Bytes()...)
	_, err := ParseDescriptor(out)
	return out, err
}

// ParseDescriptor reads a descriptor. ErrUpstream if it is none, or was changed.
func ParseDescriptor(b []byte) (d Descriptor, err error) {
	bad := func(format string, a ...any) (Descriptor, error) {
		return Descriptor{}, fmt.Errorf("descriptor: %s: %w", fmt.Sprintf(format, a...), feed.ErrUpstream)
	}
	first, rest, ok := bytes.Cut(b, []byte("\n"))
	switch {
	case len(b) > maxDescriptor || !utf8.Valid(b):
		return bad("%d bytes", len(b))
	case !ok || string(first) != head+string(feed.DigestOf(rest)):
		return bad("changed, or not made by hashike intake add")
	}
	md, err := toml.Decode(string(rest), &d)
	if err != nil {
		return bad("%v", err)
	}
	if left := md.Undecoded(); len(left) > 0 {
		return bad("unknown key %s", left[0])
	}
	if _, ok := parseVersion(d.Version); !ok || !validProduct(d.Product) || !validFile(d.File) {
		return bad("product %.60q, version %.60q, file %.100q", d.Product, d.Version, d.File)
	}
	if _, err := feed.ParseDigest(string(d.SHA256)); err != nil {
		return bad("%v", err)
	}
	if _, err := time.Parse(dateForm, d.Released); d.Released != "" && err != nil {
		return bad("released %.40q", d.Released)
	}
	for _, s := range []string{d.Publisher, d.Source, d.Says, d.By} {
		if len(s) > 2000 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return bad("text %.100q", s)
		}
	}
	if err := d.installer().Check(); err != nil {
		return bad("%v", err)
	}
	return d, nil
}

// path is where the file lies.
func (d Descriptor) path() string { return path.Join(d.Product, d.Version, d.File) }

// time is the vendor's date; where there is none, when it was handed in.
func (d Descriptor) time() time.Time {
	if t, err := time.ParseInLocation(dateForm, d.Released, feed.JST()); err == nil {
		return t.UTC()
	}
	return d.Added.UTC().Truncate(time.Second)
}

func (d Descriptor) installer() feed.Installer {
	i := feed.Installer{Path: d.path(), ID: d.ID, Name: d.Name, Publisher: d.Vendor, Version: d.Version, Locale: d.Locale, Arch: d.Arch, Type: d.Type,
		Silent: d.Silent, Success: d.Success, Home: d.Source}
	if !strings.HasPrefix(i.Home, "http") {
		i.Home = ""
	}
	if i.ID == "" {
		i.ID = feed.InstallerID(i.Publisher, i.Name)
	}
	return i
}

var fileForm = regexp.MustCompile(`^[^\s.\\/:*?"<>|\x00-\x1f\x7f~][^\\/:*?"<>|\x00-\x1f\x7f]{0,150}\.(exe|msi|msp|msix|appx|zip|EXE|MSI|MSP|MSIX|APPX|ZIP)$`)

// validFile: a name that is one on every system, of a file that installs.
func validFile(s string) bool {
	stem, _, _ := strings.Cut(s, ".")
	return fileForm.MatchString(s) && feed.ValidPath(s) && (feed.ValidName(strings.ToLower(stem)) || !device(stem))
}

// device reports whether Windows reserves the name.
func device(stem string) bool {
	s := strings.ToLower(strings.TrimSpace(stem))
	return s == "con" || s == "prn" || s == "aux" || s == "nul" || len(s) == 4 && (s[:3] == "com" || s[:3] == "lpt")
}

// What a path is.
const (
	isFile = iota
	isDescriptor
	isSignature
	isWatch
)

type element struct {
	kind                   int
	product, version, file string
}

// group is what is published whole or not at all.
func (e element) group() string { return e.product + "/" + e.version }

func parsePath(p string) (element, bool) {
	parts := strings.Split(p, "/")
	if len(parts) == 2 && parts[0] == watchFolder {
		n, ok := strings.CutSuffix(parts[1], ".json")
		return element{kind: isWatch, file: n}, ok && validProduct(n)
	}
	if len(parts) != 3 {
		return element{}, false
	}
	e := element{isFile, parts[0], parts[1], parts[2]}
	if f, ok := strings.CutSuffix(e.file, ".toml"); ok {
		e.kind, e.file = isDescriptor, f
	} else if f, ok := strings.CutSuffix(e.file, ".asc"); ok {
		e.kind, e.file = isSignature, f
	}
	_, ok := parseVersion(e.version)
	return e, ok && validProduct(e.product) && validFile(e.file)
}
