package wsus

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
)

// wsusscn2.cab is Microsoft's catalogue for machines without a server, signed
// as a whole: index.xml says which of the cabinets in it holds which of the
// vendor's numbers, package.cab has package.xml with dates and addresses of
// files, the others hold fragments c/N, x/N, l/LANG/N, e/LANG/N as a WSUS would
// send them to terminals (microsoft.md 3.2). It names files with both digests
// and holds none of them; there are security updates in it, no drivers and no
// previews.

const (
	offlineName = "wsusscn2.cab"

	maxOffline         = 4 << 30   // bytes of the cabinet; its own format has no more
	maxOfflineInner    = 256 << 20 // of one cabinet in it, which is read into memory
	maxOfflineUnpacked = 64 << 30  // of everything in those; a real one has some 25 GB
	maxOfflineCabs     = 1000
	maxOfflineUpdates  = 1_000_000
	maxOfflineIndex    = 1 << 20
)

// offlineCab is a wsusscn2.cab, its index read.
type offlineCab struct {
	outer  *cab.Reader
	ranges []cabRange // by first
}

// cabRange is one cabinet with fragments: of the numbers from first up to the next one's.
type cabRange struct {
	name  string
	first int
}

func offlineError(err error) error {
	if errors.Is(err, feed.ErrUpstream) {
		return fmt.Errorf("%s: %w", offlineName, err)
	}
	return upstream("%s: %w", offlineName, err)
}

// openOffline reads the outer cabinet's index.
func openOffline(r io.ReaderAt, size int64) (*offlineCab, error) {
	c, err := cab.NewReader(r, size, cab.Limits{Files: maxOfflineCabs + 2, File: maxOfflineInner, Total: maxOffline})
	if err != nil {
		return nil, offlineError(err)
	}
	e, body, err := c.Open("index.xml")
	if err == nil && e.Size > maxOfflineIndex {
		err = fmt.Errorf("index.xml of %d bytes", e.Size)
	}
	if err != nil {
		return nil, offlineError(err)
	}
	o := &offlineCab{outer: c}
	if o.ranges, err = parseOfflineIndex(body); err != nil {
		return nil, offlineError(err)
	}
	return o, nil
}

// parseOfflineIndex reads CABLIST: a CAB without RANGESTART is package.cab.
func parseOfflineIndex(r io.Reader) ([]cabRange, error) {
	var list struct {
		Cabs []struct {
			Name  string `xml:"NAME,attr"`
			First string `xml:"RANGESTART,attr"`
		} `xml:"CABLIST>CAB"`
	}
	if err := xml.NewDecoder(io.LimitReader(r, maxOfflineIndex)).Decode(&list); err != nil {
		return nil, upstream("index.xml: %w", err)
	}
	var out []cabRange
	for _, c := range list.Cabs {
		if c.First == "" {
			continue
		}
		n, err := strconv.Atoi(c.First)
		if err != nil || n < 0 || len(out) >= maxOfflineCabs {
			return nil, upstream("index.xml: range %.40q of %.100q", c.First, c.Name)
		}
		out = append(out, cabRange{c.Name, n})
	}
	slices.SortFunc(out, func(a, b cabRange) int { return a.first - b.first })
	names := map[string]bool{}
	for i, c := range out {
		if i > 0 && c.first == out[i-1].first || names[c.name] {
			return nil, upstream("index.xml: two cabinets from %d, or %.100q twice", c.first, c.name)
		}
		names[c.name] = true
	}
	if len(out) == 0 {
		return nil, upstream("index.xml without cabinets")
	}
	return out, nil
}

// holder is which of ranges has the number; -1 if none.
func holder(ranges []cabRange, n int) int {
	i, found := slices.BinarySearchFunc(ranges, n, func(c cabRange, n int) int { return c.first - n })
	if !found {
		i--
	}
	return i
}

// unpackInner opens a cabinet of the outer one, in memory.
func unpackInner(body io.Reader, total int64) (*cab.Reader, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	return cab.NewReader(bytes.NewReader(b), int64(len(b)), cab.Limits{File: maxOfflineInner * 8, Total: total})
}

// walk calls f for every fragment that lies in the cabinet which the index
// gives its number, in no particular order.
func (o *offlineCab) walk(f func(n int, p part, lang string, body []byte) error) error {
	left := int64(maxOfflineUnpacked)
	place, met := map[string]int{}, 0
	for i, c := range o.ranges {
		place[c.name] = i
	}
	err := o.outer.Walk(func(e cab.File, body io.Reader) error {
		i, ok := place[e.Name]
		if !ok {
			return nil
		}
		met++
		inner, err := unpackInner(body, left)
		if err == nil {
			err = inner.Walk(func(e cab.File, body io.Reader) error {
				left -= e.Size
				n, p, lang, ok := fragmentName(e.Name)
				if !ok || holder(o.ranges, n) != i {
					return nil
				}
				if e.Size > maxFragment {
					return upstream("%s: %d bytes", e.Name, e.Size)
				}
				b, err := io.ReadAll(body)
				if err == nil {
					err = f(n, p, lang, b)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", e.Name, err)
				}
				return nil
			})
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		return nil
	})
	if err == nil && met != len(o.ranges) {
		err = fmt.Errorf("%d cabinets, the index names %d", met, len(o.ranges))
	}
	if errors.Is(err, feed.ErrUntrusted) || err == nil {
		return err
	}
	return offlineError(err)
}

// pack opens package.xml.
func (o *offlineCab) pack() (io.Reader, error) {
	_, body, err := o.outer.Open("package.cab")
	if err != nil {
		return nil, offlineError(err)
	}
	c, err := unpackInner(body, maxOfflineUnpacked)
	if err != nil {
		return nil, offlineError(err)
	}
	_, body, err = c.Open("package.xml")
	if err != nil {
		return nil, offlineError(err)
	}
	return body, nil
}

// created is the catalogue's own date: the root's, or, where that has none, the
// newest update's.
func (o *offlineCab) created() (time.Time, error) {
	body, err := o.pack()
	if err != nil {
		return time.Time{}, err
	}
	var best time.Time
	d := xml.NewDecoder(body)
	for first := true; ; {
		t, err := d.RawToken()
		if errors.Is(err, io.EOF) && !best.IsZero() {
			return best, nil
		}
		if err != nil {
			return best, upstream("%s: package.xml: %w", offlineName, err)
		}
		e, ok := t.(xml.StartElement)
		if !ok || !first && e.Name.Local != "Update" {
			continue
		}
		at, err := time.Parse(time.RFC3339, attr(e, "CreationDate"))
		if at = at.UTC().Truncate(time.Second); err == nil && at.After(best) {
			best = at
		}
		if first && err == nil {
			return best, nil
		}
		first = false
	}
}

// locations says where the wanted files are, by SHA-1.
func (o *offlineCab) locations(want map[[20]byte]bool) (map[[20]byte]string, error) {
	body, err := o.pack()
	if err != nil {
		return nil, err
	}
	out := map[[20]byte]string{}
	d := xml.NewDecoder(body)
	for len(out) < len(want) {
		t, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, upstream("%s: package.xml: %w", offlineName, err)
		}
		e, ok := t.(xml.StartElement)
		if !ok || e.Name.Local != "FileLocation" {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(attr(e, "Id"))
		if err != nil || len(sum) != 20 || !want[[20]byte(sum)] {
			continue
		}
		if at := attr(e, "Url"); len(at) <= maxURL && (strings.HasPrefix(at, "http://") || strings.HasPrefix(at, "https://")) {
			out[[20]byte(sum)] = at
		}
	}
	return out, nil
}
