// Package tree carries a directory or an HTTP tree whose files a list names by
// SHA-256: the generic kind, for vendors who publish files beside a SHA256SUMS.
//
// The list is what sha256sum writes (GNU coreutils, "sha256sum --help") or BSD
// digest lines; it is signed beside it (SHA256SUMS.asc, .gpg, .sig: OpenPGP,
// detached), in itself (clear-signed), or not at all. The chain is
//
//	OpenPGP signature → list → file       every file is "signed"
//	TLS to the vendor → list → file       "attested", if nobody inspected it
//	plain HTTP or a folder → list → file  "none": held, unless an exception allows it
//
// A signature that the configuration names is required: without it nothing of
// the snapshot is believed, however it came. What a signature cannot say: which
// of a vendor's signed lists this is. One key should sign one list; an older
// one is refused by the time of its signature.
package tree

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Config is a tree feed's block.
type Config struct {
	URL       string        `toml:"url" doc:"address of the directory that holds the list / 一覧のあるディレクトリのURL"`
	Dir       string        `toml:"dir" doc:"instead of url: name of a folder in dirs / urlの代わりに、dirsに書いたフォルダの名前"`
	List      string        `toml:"list" doc:"the list of SHA-256 digests / SHA-256の一覧のファイル名"`
	Signature string        `toml:"signature" doc:"the list's detached signature, \"clear\" if the list is signed in itself, empty if unsigned: then files are only \"attested\" (https) or held / 一覧の署名ファイル。一覧自体に署名があれば\"clear\"、署名がなければ空（httpsなら「通信路のみ」、ほかは保留）"`
	Keys      []string      `toml:"keys" doc:"names of the pinned OpenPGP keys that may sign the list / 一覧の署名を確かめる鍵の名前"`
	Include   []string      `toml:"include" doc:"files to carry: patterns with * and ?, \"folder/**\" for all below; empty is all / 運ぶファイル（空は全部）"`
	Exclude   []string      `toml:"exclude" doc:"files to leave out, after include / 運ばないファイル"`
	Class     feed.Class    `toml:"class" doc:"what the files are: definition, security or feature / ファイルの分類"`
	MaxFile   int64         `toml:"max_file" doc:"most bytes of one file / 1ファイルの最大バイト数"`
	Yellow    feed.Duration `toml:"yellow" doc:"age of the list that is shown yellow / 一覧がこれより古ければ黄"`
	Red       feed.Duration `toml:"red" doc:"age of the list that is shown red / 一覧がこれより古ければ赤"`
}

// inClear is the Signature of a list that is signed in itself.
const inClear = "clear"

const day = 24 * time.Hour

// Kind is the table entry. Its floor is what an unsigned list over TLS can
// reach; with a signature configured, Verify itself accepts nothing less.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "tree",
		Title: feed.Text{JA: "SHA-256の一覧が付いたファイル群", EN: "Files with a SHA-256 list, signed or not"},
		Config: func() any {
			return &Config{List: "SHA256SUMS", Signature: "SHA256SUMS.asc", Class: feed.Feature, MaxFile: 16 << 30,
				Yellow: feed.Duration(45 * day), Red: feed.Duration(90 * day)}
		},
		New: newFeed,
		Floors: map[feed.Class]feed.Strength{
			feed.Metadata: feed.Attested, feed.Definition: feed.Attested, feed.Security: feed.Attested, feed.Feature: feed.Attested,
		},
	}
}

type tree struct {
	cfg  Config
	base *url.URL // nil for a directory
}

// AnchorNames implements feed.Named.
func (t *tree) AnchorNames() []string { return t.cfg.Keys }

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	t := &tree{cfg: cfg}
	switch {
	case (cfg.URL == "") == (cfg.Dir == ""):
		return nil, bad("url", "either url or dir is needed")
	case !feed.ValidPath(cfg.List):
		return nil, bad("list", fmt.Sprintf("%q is not a relative path", cfg.List))
	case t.detached() && (!feed.ValidPath(cfg.Signature) || cfg.Signature == cfg.List):
		return nil, bad("signature", fmt.Sprintf("%q is not a relative path of its own", cfg.Signature))
	case cfg.Signature != "" && len(cfg.Keys) == 0:
		return nil, bad("keys", "a signature needs at least one pinned key")
	case cfg.Signature == "" && len(cfg.Keys) > 0:
		return nil, bad("keys", "given, but signature is empty")
	case cfg.Class != feed.Definition && cfg.Class != feed.Security && cfg.Class != feed.Feature:
		return nil, bad("class", fmt.Sprintf("%q is none of definition, security, feature", cfg.Class))
	case cfg.MaxFile <= 0:
		return nil, bad("max_file", "must be positive")
	case cfg.Yellow <= 0 || cfg.Red < cfg.Yellow:
		return nil, bad("red", "must not be less than yellow")
	}
	for key, list := range map[string][]string{"include": cfg.Include, "exclude": cfg.Exclude} {
		for _, p := range list {
			if _, err := path.Match(strings.TrimSuffix(p, "/**"), ""); err != nil || p == "" {
				return nil, bad(key, fmt.Sprintf("%q is not a pattern", p))
			}
		}
	}
	if cfg.URL == "" {
		return t, nil
	}
	base, err := url.Parse(cfg.URL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.RawQuery != "" {
		return nil, bad("url", "not an http or https address without a query")
	}
	t.base = base
	return t, nil
}

func (t *tree) detached() bool { return t.cfg.Signature != "" && t.cfg.Signature != inClear }

// below is the URL of a path under base; names may hold any printable character.
func below(base *url.URL, p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return base.JoinPath(parts...).String()
}

// chosen reports whether the configuration wants the file.
func (t *tree) chosen(p string) bool {
	return (len(t.cfg.Include) == 0 || matches(t.cfg.Include, p)) && !matches(t.cfg.Exclude, p)
}

// matches: a pattern with a slash is held against the whole path, one without
// against the last element too.
func matches(patterns []string, p string) bool {
	for _, g := range patterns {
		if dir, ok := strings.CutSuffix(g, "/**"); ok {
			n := strings.Count(dir, "/") + 1
			head := strings.SplitN(p, "/", n+1)
			if len(head) == n+1 {
				if ok, _ := path.Match(dir, strings.Join(head[:n], "/")); ok {
					return true
				}
			}
			continue
		}
		if ok, _ := path.Match(g, p); ok {
			return true
		}
		if !strings.Contains(g, "/") {
			if ok, _ := path.Match(g, path.Base(p)); ok {
				return true
			}
		}
	}
	return false
}

// Reaches implements feed.Reacher.
func (t *tree) Reaches() []string {
	if t.base == nil {
		return nil
	}
	return []string{t.base.String()}
}

// Released implements feed.Freshness: when the vendor last wrote the list.
func (t *tree) Released(c feed.Content) (time.Time, string) {
	a, ok := c.Lookup(t.cfg.List)
	if !ok || a.Time.IsZero() {
		return time.Time{}, ""
	}
	return a.Time, a.Time.UTC().Format("2006-01-02")
}

// Stale implements feed.Freshness.
func (t *tree) Stale() (yellow, red time.Duration) {
	return time.Duration(t.cfg.Yellow), time.Duration(t.cfg.Red)
}
