package adobe

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
)

// What the vendor says of its versions: a text of one line for each product
// (current_version.txt), and the catalogues for System Center (SCUP). Nobody
// signs what is used of either here; both only say what to ask for.

const (
	maxCatalogue = 64 << 20
	maxEntries   = 20000
)

// newest is the version to carry.
func (r *fetch) newest(ctx context.Context, p product) (Version, error) {
	if pinned, ok := r.cfg.Pin[p.String()]; ok {
		v, _ := ParseVersion(pinned) // checked by newFeed
		return v, nil
	}
	os := "win"
	if p.arch == "mac" {
		os = "mac"
	}
	at := r.oracle.JoinPath(os, "Acrobat"+p.track, p.name, "current_version.txt").String()
	v, err := r.current(ctx, at, p)
	if r.prev != nil && err == nil {
		held := true
		for _, f := range r.wanted(p, v) {
			_, ok := r.prev.Lookup(f.path())
			held = held && (ok || f.form == "exe") // not every version has an installer
		}
		if held {
			return v, nil
		}
	}
	if err != nil && !gone(err) && !errors.Is(err, feed.ErrTransient) {
		return v, err
	}
	list, lerr := r.listing(ctx, p)
	if lerr != nil {
		return v, lerr
	}
	for name := range list {
		if f, ok := parseName(name); ok && f.product == p && f.form == "msp" && f.order() > v.order() {
			v = f.version
		}
	}
	if v == (Version{}) {
		return v, err
	}
	return v, nil
}

func (r *fetch) current(ctx context.Context, at string, p product) (Version, error) {
	res, err := r.up.Do(ctx, feed.Request{URL: at, Limit: maxText})
	if err != nil {
		return Version{}, fmt.Errorf("version of %s: %w", p, err)
	}
	v, ok := ParseVersion(strings.TrimSpace(strings.TrimPrefix(string(res.Body), "\xef\xbb\xbf")))
	if !ok || !p.takes(v) {
		return Version{}, upstream(at, fmt.Errorf("version %.60q for %s", res.Body, p))
	}
	return v, nil
}

// entry is a file of a catalogue.
type entry struct {
	sha1 string // hex; empty if it is not told
	size int64  // 0 if it is not told
}

// listing is a product's catalogue, by file name; empty where there is none or
// it cannot be had now. A damaged one tells nothing.
func (r *fetch) listing(ctx context.Context, p product) (map[string]entry, error) {
	if r.catalogue == nil || p.arch == "mac" {
		return nil, nil
	}
	name := "AcrobatCatalog-"
	if p.name == "reader" {
		name = "ReaderCatalog-"
	}
	name += p.track + ".cab"
	if l, known := r.listings[name]; known {
		return l, nil
	}
	res, err := r.up.Do(ctx, feed.Request{URL: r.catalogue.JoinPath(name).String(), Limit: maxCatalogue})
	var status *feed.StatusError
	if err != nil && !errors.As(err, &status) && !errors.Is(err, feed.ErrTransient) {
		return nil, fmt.Errorf("catalogue %s: %w", name, err)
	}
	if r.listings == nil {
		r.listings = map[string]map[string]entry{}
	}
	r.listings[name] = nil
	if err == nil {
		r.listings[name], _ = readCatalogue(res.Body)
	}
	return r.listings[name], nil
}

// readCatalogue reads the one document in a catalogue's cabinet: of each
// update's OriginFile (SoftwareDistributionPackage.xsd) name, size, and SHA-1
// in base64.
func readCatalogue(b []byte) (map[string]entry, error) {
	c, err := cab.NewReader(bytes.NewReader(b), int64(len(b)), cab.Limits{Total: 4 * maxCatalogue, Files: 1000})
	if err != nil {
		return nil, err
	}
	out := map[string]entry{}
	err = c.Walk(func(f cab.File, body io.Reader) error {
		if !strings.HasSuffix(strings.ToLower(f.Name), ".xml") {
			return nil
		}
		return originFiles(body, out)
	})
	return out, err
}

func originFiles(r io.Reader, out map[string]entry) error {
	d := xml.NewDecoder(r)
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s, ok := t.(xml.StartElement)
		if !ok || s.Name.Local != "OriginFile" {
			continue
		}
		var e entry
		name := ""
		for _, a := range s.Attr {
			switch a.Name.Local {
			case "FileName":
				name = a.Value
			case "Size":
				if n, err := strconv.ParseInt(a.Value, 10, 64); err == nil && n > 0 && n <= maxFile {
					e.size = n
				}
			case "Digest":
				if sum, err := base64.StdEncoding.DecodeString(a.Value); err == nil && len(sum) == 20 {
					e.sha1 = hex.EncodeToString(sum)
				}
			}
		}
		if len(out) == maxEntries {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		if _, ok := parseName(name); ok {
			out[name] = e
		}
	}
}
