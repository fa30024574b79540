package apt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Handler implements feed.Feed: a plain tree. What makes it safe for a client
// in mid-update is that index files are asked for by hash, and the by-hash
// names and pool files of older publications stay reachable.
func (f *archive) Handler(s feed.Serving) (http.Handler, error) {
	return feed.Published(s, func(w http.ResponseWriter, r *http.Request, v feed.View, p string) {
		feed.ServeFile(w, r, v, poolPath(p))
	}), nil
}

// Settings implements feed.ClientSettings: one sources stanza a suite, naming
// exactly what is carried: apt fails as a whole on an index it wants and
// cannot get.
func (f *archive) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	var b strings.Builder
	note := feed.Text{
		JA: "提供元の署名を端末が自分で確かめるので、httpのままで配信できます。既存のsources.listの同じスイートの行は消してください。",
		EN: "The terminal checks the vendor's own signature, so plain http will do. Remove other entries of the same suite.",
	}
	for i, suite := range f.cfg.Suites {
		if i > 0 {
			b.WriteString("\n")
		}
		expires, err := f.expires(c, suite)
		if err != nil {
			return nil, err
		}
		if expires {
			fmt.Fprintf(&b, "# %s の署名は約1週間で期限が切れます。更新便の間隔がそれより長くても使えるよう、この1か所だけ期限の確認を外します。\n", suite)
			fmt.Fprintf(&b, "# 古い版への巻戻しと期限は、取り込みのたびに配信サーバが確かめています。\n")
			fmt.Fprintf(&b, "# (%s expires within a week; for this source alone the check is off, the mirror enforces age and order.)\n", suite)
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: %s\n", strings.TrimSuffix(base.String(), "/"),
			suite, strings.Join(f.cfg.Components, " "), strings.Join(f.cfg.Architectures, " "))
		targets, langs := "Packages", "none"
		if len(f.cfg.Translations) > 0 {
			targets, langs = targets+" Translations", strings.Join(f.cfg.Translations, " ")
		}
		if f.cfg.Contents {
			targets += " Contents-deb"
		}
		fmt.Fprintf(&b, "Targets: %s\nLanguages: %s\n", targets, langs)
		if expires {
			b.WriteString("Check-Valid-Until: no\n")
		}
		if f.cfg.ClientKeyring != "" {
			fmt.Fprintf(&b, "Signed-By: %s\n", f.cfg.ClientKeyring)
		}
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "aptの設定（端末に置くファイル）", EN: "apt sources on the terminal"},
		File:  "/etc/apt/sources.list.d/" + c.Header().Feed + ".sources",
		Body:  b.String(), Note: note,
	}}, nil
}

// expires reports whether the suite's Release has a Valid-Until.
func (f *archive) expires(c feed.Content, suite string) (bool, error) {
	for _, name := range []string{"InRelease", "Release"} {
		a, ok := c.Lookup(path.Join("dists", suite, name))
		if !ok {
			continue
		}
		doc, err := read(c, a, maxRelease)
		if err != nil {
			return false, err
		}
		text := string(doc)
		if name == "InRelease" {
			if text, err = clearText(doc); err != nil {
				return false, err
			}
		}
		rel, err := parseRelease(strings.NewReader(text))
		if err != nil {
			return false, err
		}
		return !rel.until.IsZero(), nil
	}
	return false, fmt.Errorf("suite %s is not in this version: %w", suite, feed.ErrDamaged)
}

// Probe implements feed.Prober: it does what apt-get update and one download do.
func (f *archive) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	var said []string
	get := func(p string) error {
		a, ok := c.Lookup(p)
		if !ok {
			return nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, below(base, p), nil)
		if err != nil {
			return err
		}
		res, err := do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, a.Size+1))
		if err != nil || res.StatusCode != http.StatusOK {
			return errors.Join(err, fmt.Errorf("%s: %s", req.URL, res.Status))
		}
		if feed.DigestOf(b) != a.Digest {
			return fmt.Errorf("%s: other bytes than published: %w", req.URL, feed.ErrDamaged)
		}
		said = append(said, fmt.Sprintf("GET %s %d (%d bytes)", req.URL.Path, res.StatusCode, len(b)))
		return nil
	}
	for _, s := range f.cfg.Suites {
		a, ok := c.Lookup(path.Join("dists", s, "InRelease"))
		if !ok {
			continue
		}
		if err := get(a.Path); err != nil {
			return said, err
		}
		doc, err := read(c, a, maxRelease)
		if err != nil {
			return said, err
		}
		text, err := clearText(doc)
		if err != nil {
			return said, err
		}
		rel, err := parseRelease(bytes.NewReader([]byte(text)))
		if err != nil {
			return said, err
		}
		paths, _, err := f.wanted(rel)
		if err != nil {
			return said, err
		}
		for _, p := range paths {
			at := path.Join("dists", s, p)
			if rel.byHash {
				at = path.Join("dists", s, byHash(p, rel.files[p].digest))
			}
			if err := get(at); err != nil {
				return said, err
			}
		}
	}
	for a := range c.Artifacts() {
		if strings.HasPrefix(a.Path, "pool/") {
			return said, get(a.Path)
		}
	}
	return said, nil
}
