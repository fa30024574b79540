// Package tooldir carries the output folder of a vendor's own update tool
// (Kaspersky Update Utility, ESET Mirror Tool, LiveUpdate Administrator …).
// The tool speaks the vendor's protocol and licence; this package takes what it
// left, byte for byte, when it is complete and at rest, and serves it under the
// same paths.
//
// What a vendor adds is a value, Vendor: which files are indexes, when a folder
// is complete, what carries a signature. The kinds beside this package
// (kaspersky, trendmicro …) are such values.
//
// A snapshot is one group: all of the folder or nothing. It holds one document
// of our own, Manifest, which names every file with its digest and the time the
// tool gave it; so a snapshot mixed of two folders, or with a byte changed, is
// refused even where the vendor has no signature that we can read.
package tooldir

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Manifest is the path of our own document in a snapshot. It is not served.
const Manifest = "hashike-folder.json"

// Folder is the name in dirs of the tool's output folder.
const Folder = "tool"

// Vendor is what one vendor adds to the driver.
type Vendor struct {
	Name    string // of the kind
	Title   feed.Text
	Maker   string // for messages and cards: "Kaspersky"
	Floors  map[feed.Class]feed.Strength
	Anchors []feed.Anchor
	Tier    string              // what the origin card says of a file without a signature that we can read
	Index   func(p string) bool // by its path, a file is an index or a signature, not what is installed
	Read    func(t *Tree) (Release, error)
	// Prove gives evidence for what carries a signature; files it says nothing
	// of are worth nothing ("none"). nil where nothing does.
	Prove    func(t *Tree, c Config, trust feed.Trust, out feed.Proof) error
	Settings func(t *Tree, mirror string) []feed.Setting
	Keys     bool // the config's keys must name pins that the operator confirmed
}

// Release is what the indexes of a complete folder say.
type Release struct {
	Version string           // for people
	Time    time.Time        // the vendor's; zero: the newest of the files' times
	Marks   map[string]int64 // never go back; at least one
}

// ErrIncomplete: the folder's indexes name what is not there, or is not as
// they say. The tool may be at work.
var ErrIncomplete = errors.New("the folder is incomplete")

// Config is the block of a feed that reads a tool's folder.
type Config struct {
	Quiet   feed.Duration `toml:"quiet" doc:"フォルダがこの時間変わらないことを確かめてから取り込む（FATの媒体では3秒以上） / the folder must rest for so long before it is taken (3s or more on FAT)"`
	Exclude []string      `toml:"exclude" doc:"運ばないファイル（ツールの記録など）。名前の型 * ?、または「フォルダ/**」 / files to leave out (logs of the tool): patterns with * and ?, or \"folder/**\""`
	Keys    []string      `toml:"keys" doc:"提供元の鍵の指紋。一度だけ人が確かめて書く（ESETのみ） / fingerprints of the vendor's keys, confirmed once by a person (ESET only)"`
	Yellow  feed.Duration `toml:"yellow" doc:"提供元の公開からこれより古ければ黄 / age that is shown yellow"`
	Red     feed.Duration `toml:"red" doc:"提供元の公開からこれより古ければ赤 / age that is shown red"`
}

const (
	day      = 24 * time.Hour
	minQuiet = 10 * time.Millisecond // a clock tick of every file system but FAT
	maxQuiet = time.Hour
)

// Kind is the vendor's table entry.
func (v Vendor) Kind() feed.Kind {
	return feed.Kind{Name: v.Name, Title: v.Title, Floors: v.Floors, Anchors: v.Anchors, Prefer: feed.Definition,
		Config: func() any { return v.defaults() },
		New: func(decode feed.Decode) (feed.Feed, error) {
			cfg := *v.defaults()
			if err := decode(&cfg); err != nil {
				return nil, err
			}
			return v.feed(cfg)
		}}
}

func (v Vendor) defaults() *Config {
	return &Config{Quiet: feed.Duration(2 * time.Minute), Yellow: feed.Duration(3 * day), Red: feed.Duration(7 * day)}
}

// folder is one configured feed.
type folder struct {
	v   Vendor
	cfg Config
}

func (v Vendor) feed(cfg Config) (feed.Feed, error) {
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	if q := time.Duration(cfg.Quiet); q < minQuiet || q > maxQuiet {
		return nil, bad("quiet", fmt.Sprintf("%s is not from %s to %s", q, minQuiet, maxQuiet))
	}
	if cfg.Yellow <= 0 || cfg.Red < cfg.Yellow {
		return nil, bad("red", "yellow must be above zero, red not below it")
	}
	for _, p := range cfg.Exclude {
		if _, err := path.Match(strings.TrimSuffix(p, "/**"), "x"); err != nil || p == "" {
			return nil, bad("exclude", fmt.Sprintf("%.200q is no pattern", p))
		}
	}
	for i, k := range cfg.Keys {
		k = strings.ToUpper(strings.ReplaceAll(k, " ", ""))
		if !v.Keys || len(k) != 40 || strings.Trim(k, "0123456789ABCDEF") != "" {
			return nil, bad("keys", fmt.Sprintf("%.80q: a fingerprint of 40 hex digits, and only for vendors whose key is confirmed by hand", k))
		}
		cfg.Keys[i] = k
	}
	return &folder{v, cfg}, nil
}

// excluded: the configuration leaves the file out.
func (f *folder) excluded(p string) bool {
	for _, pat := range f.cfg.Exclude {
		if dir, ok := strings.CutSuffix(pat, "/**"); ok {
			if p == dir || strings.HasPrefix(p, dir+"/") {
				return true
			}
			continue
		}
		if ok, _ := path.Match(pat, p); ok {
			return true
		}
		if ok, _ := path.Match(pat, path.Base(p)); ok && !strings.Contains(pat, "/") {
			return true
		}
	}
	return false
}

func (f *folder) class(p string) feed.Class {
	if p == Manifest || f.v.Index(p) {
		return feed.Metadata
	}
	return feed.Definition
}

// Handler implements feed.Feed: the folder as it is. Vendors' clients come from
// Windows, so a name in another case finds its file too.
func (f *folder) Handler(s feed.Serving) (http.Handler, error) {
	names := &folded{}
	return feed.Published(s, func(w http.ResponseWriter, r *http.Request, v feed.View, p string) {
		if strings.EqualFold(p, Manifest) {
			http.NotFound(w, r)
			return
		}
		if _, ok := v.Lookup(p); !ok {
			if exact, ok := names.find(v, p); ok {
				p = exact
			}
		}
		feed.ServeFile(w, r, v, p)
	}), nil
}

// Released implements feed.Freshness.
func (f *folder) Released(c feed.Content) (time.Time, string) {
	a, _ := c.Lookup(Manifest) // bears the release's labels as every file does
	return a.Time, a.Version
}

// Stale implements feed.Freshness.
func (f *folder) Stale() (yellow, red time.Duration) {
	return time.Duration(f.cfg.Yellow), time.Duration(f.cfg.Red)
}
