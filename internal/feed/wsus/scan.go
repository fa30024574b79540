package wsus

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
)

// A WSUSSCAN.cab (one in every .msu) holds package.cab; that holds package.xml
// and, named by the vendor's own numbers, the fragments of every revision a
// terminal needs to judge the update: core/N, extended/N, localized/LANG/N,
// eula/LANG/N. wsusscn2.cab shortens the folders to one letter. package.xml
// names other UpdateIDs than the fragments do: the fragments are right.

const (
	scanName    = "WSUSSCAN.cab"
	maxScan     = 256 << 20 // bytes of a WSUSSCAN.cab
	maxPackage  = 256 << 20 // of its package.cab
	maxUnpacked = 1 << 30
	maxFragment = 4 << 20
	maxUpdates  = 200_000 // of one scan
)

// part says what a fragment holds.
type part byte

const (
	core part = iota
	extended
	localized
	eula
)

var folders = map[string]part{
	"core": core, "c": core, "extended": extended, "x": extended,
	"localized": localized, "l": localized, "eula": eula, "e": eula,
}

// scan is one scan file, read.
type scan struct {
	created time.Time
	updates map[int]*update                // by the vendor's number
	sums    map[identity][sha256.Size]byte // over all fragments of a revision
	parts   map[int][][sha256.Size]byte
	alone   string      // before the path, in the group of a payload that stands alone
	head    extractHead // of an extract
}

// numbers are the scan's updates in the vendor's order: what others need comes first.
func (s *scan) numbers() []int { return slices.Sorted(maps.Keys(s.updates)) }

// readScan reads a scan file. keep, if not nil, gets every fragment, in no
// particular order. ErrUpstream for whatever is not as described above.
func readScan(r io.ReaderAt, size int64, keep func(n int, p part, lang string, body []byte) error) (*scan, error) {
	inner, err := openPackage(r, size)
	if err != nil {
		return nil, err
	}
	s := &scan{updates: map[int]*update{}, sums: map[identity][sha256.Size]byte{}, parts: map[int][][sha256.Size]byte{}}
	props := map[int]*update{}
	err = inner.Walk(func(e cab.File, body io.Reader) error {
		if strings.EqualFold(e.Name, "package.xml") {
			s.created = created(body)
			return nil
		}
		n, p, lang, ok := fragmentName(e.Name)
		if !ok {
			return nil
		}
		if e.Size > maxFragment || len(s.updates) > maxUpdates {
			return upstream("%s: %d bytes, %d updates", e.Name, e.Size, len(s.updates))
		}
		b, err := io.ReadAll(body)
		if err == nil {
			s.parts[n] = append(s.parts[n], partSum(p, lang, b))
			err = s.fragment(n, p, b, props)
		}
		if err == nil && keep != nil {
			err = keep(n, p, lang, b)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, scanError(err)
	}
	return s, s.join(props)
}

func partSum(p part, lang string, b []byte) [sha256.Size]byte {
	return sha256.Sum256(slices.Concat([]byte{byte(p)}, []byte(lang), []byte{0}, b))
}

// join brings the two halves of each update together.
func (s *scan) join(props map[int]*update) error {
	for n, x := range props {
		u, ok := s.updates[n]
		if !ok {
			return upstream("%s: extended/%d without core", scanName, n)
		}
		u.Files, u.KB, u.Category = x.Files, x.KB, x.Category
	}
	if len(s.updates) == 0 {
		return upstream("%s without updates", scanName)
	}
	return s.sum()
}

// sum gives each revision one digest over its fragments, whatever their order.
func (s *scan) sum() error {
	for n, u := range s.updates {
		if _, twice := s.sums[u.identity]; twice {
			return upstream("%s: %s twice", scanName, u.identity)
		}
		parts := s.parts[n]
		slices.SortFunc(parts, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
		h := sha256.New()
		for _, p := range parts {
			h.Write(p[:])
		}
		s.sums[u.identity] = [sha256.Size]byte(h.Sum(nil))
	}
	s.parts = nil
	return nil
}

func (s *scan) fragment(n int, p part, b []byte, props map[int]*update) error {
	switch p {
	case core:
		u, err := parseCore(b)
		if err != nil {
			return err
		}
		s.updates[n] = &u
	case extended:
		files, kb, err := parseExtended(b)
		if err != nil {
			return err
		}
		props[n] = &update{Files: files, KB: kb, Category: categoryType(b)}
	}
	return nil
}

// openPackage opens the cabinet within the cabinet, or the scan itself if it is
// the inner one.
func openPackage(r io.ReaderAt, size int64) (*cab.Reader, error) {
	if size > maxScan {
		return nil, upstream("%s of %d bytes", scanName, size)
	}
	outer, err := cab.NewReader(r, size, cab.Limits{Files: 100_000, File: maxPackage, Total: maxUnpacked})
	if err != nil {
		return nil, scanError(err)
	}
	_, body, err := outer.Open("package.cab")
	if err != nil {
		return nil, scanError(err)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, scanError(err)
	}
	inner, err := cab.NewReader(bytes.NewReader(b), int64(len(b)), cab.Limits{Total: maxUnpacked})
	if err != nil {
		return nil, scanError(err)
	}
	return inner, nil
}

func scanError(err error) error {
	if errors.Is(err, feed.ErrUpstream) {
		return fmt.Errorf("%s: %w", scanName, err)
	}
	return upstream("%s: %w", scanName, err)
}

func fragmentName(name string) (n int, p part, lang string, ok bool) {
	e := strings.Split(name, "/")
	p, ok = folders[strings.ToLower(e[0])]
	switch {
	case !ok, len(e) == 2 && (p == localized || p == eula), len(e) == 3 && (p == core || p == extended), len(e) < 2, len(e) > 3:
		return 0, 0, "", false
	case len(e) == 3:
		lang = strings.ToLower(e[1])
	}
	n, err := strconv.Atoi(e[len(e)-1])
	return n, p, lang, err == nil && n >= 0
}

// created is the scan's own date, from package.xml's root element.
func created(r io.Reader) time.Time {
	d := xml.NewDecoder(io.LimitReader(r, 64<<10))
	for {
		t, err := d.Token()
		if err != nil {
			return time.Time{}
		}
		if t, ok := t.(xml.StartElement); ok {
			at, _ := time.Parse(time.RFC3339, attr(t, "CreationDate"))
			return at.UTC()
		}
	}
}

// Classifications whose payload has a class of its own (their UpdateIDs are the
// same everywhere).
var (
	classSecurity   = mustGUID("0fa1201d-4330-4fa8-8ae9-b877473b6441")
	classCritical   = mustGUID("e6cf1350-c01b-414d-a61f-263d14d133b4")
	classDefinition = mustGUID("e0789628-ce08-4437-be74-2495b842f43b")
)

func mustGUID(s string) guid {
	g, err := parseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// payload is one file of a scan as an artifact, less the origin.
type payload struct {
	file
	feed.Artifact
}

// payloads lists the files that the updates need, by path. Those of a scan are
// of its group: without it nothing proves them, without them its updates cannot
// be installed. Those of a batch, which has a hundred updates, stand alone
// (group ""), as do those of an extract. A file that is named by SHA-1 alone is left out: nothing proves
// it, and Handler offers no update whose files are not all here.
func (s *scan) payloads(group string) ([]payload, error) {
	class, kb := s.classes()
	out := map[string]payload{}
	for _, n := range s.numbers() {
		u := s.updates[n]
		for _, f := range u.Files {
			if f.SHA256 == "" {
				continue
			}
			p := f.path()
			if had, ok := out[p]; ok {
				if had.SHA256 != f.SHA256 || had.file.Size != f.Size {
					return nil, upstream("%s: two files of one SHA-1", p)
				}
				continue
			}
			a := feed.Artifact{Path: p, Digest: f.SHA256, Size: f.Size, Class: class[u.identity], Version: kb[u.identity], Time: s.created, Group: group}
			if group == "" {
				a.Group = s.alone + p
			}
			out[p] = payload{f, a}
		}
	}
	list := make([]payload, 0, len(out))
	for _, p := range slices.Sorted(maps.Keys(out)) {
		list = append(list, out[p])
	}
	return list, nil
}

// classes gives updates and the members of their bundles class and KB number.
func (s *scan) classes() (map[identity]feed.Class, map[identity]string) {
	class, kb := map[identity]feed.Class{}, map[identity]string{}
	for _, u := range s.updates {
		class[u.identity] = feed.Feature
	}
	for _, n := range s.numbers() {
		u := s.updates[n]
		c := feed.Feature
		for _, g := range slices.Concat(u.Prereqs...) {
			switch g {
			case classDefinition:
				c = feed.Definition
			case classSecurity, classCritical:
				c = feed.Security
			}
		}
		for _, id := range append(slices.Concat(u.Bundles...), u.identity) {
			if c != feed.Feature {
				class[id] = c
			}
			if u.KB != "" {
				kb[id] = "KB" + u.KB
			}
		}
	}
	return class, kb
}
