package clamav

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/clamav"
)

// Handler implements feed.Feed. Its rules come from what freshclam does with
// each answer (docs/design.md):
//
//   - Missing things are 404. A 403 or 429 would keep a terminal away from
//     every mirror for hours.
//   - A patch up to the current version that is not carried is 200 with no
//     bytes: the terminal takes the whole database at once. With 404 one that
//     is exactly one version behind would stay there for ever.
//   - A patch above the current version is 404, also if an older publication
//     had it (after a rollback).
//   - Last-Modified is the time of import, never before the build time:
//     freshclam asks with its database's build time, and an older answer would
//     freeze it.
func (f *databases) Handler(s feed.Serving) (http.Handler, error) {
	return feed.Published(s, serve), nil
}

func serve(w http.ResponseWriter, r *http.Request, v feed.View, name string) {
	n, ok := parseName(name)
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	current := currentVersion(v, n.db)
	_, withheld := v.Withheld[name]
	switch {
	case current == 0 || n.version > current:
		http.NotFound(w, r)
	case withheld && n.role != patch:
		http.NotFound(w, r)
	case !withheld && serveHeld(w, r, v, name):
	case n.role == patch:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
	default:
		http.NotFound(w, r)
	}
}

// serveHeld answers from the publication, or from an earlier one that a
// terminal may be in the middle of; false if none has the file.
func serveHeld(w http.ResponseWriter, r *http.Request, v feed.View, name string) bool {
	for _, c := range append([]feed.Content{v.Content}, v.Older...) {
		if a, ok := c.Lookup(name); ok {
			serveFile(w, r, c, a)
			return true
		}
	}
	return false
}

func serveFile(w http.ResponseWriter, r *http.Request, c feed.Content, a feed.Artifact) {
	f, err := c.Open(a.Path)
	if err != nil {
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	rs, seekable := f.(io.ReadSeeker)
	if err != nil || !seekable || st.Size() != a.Size {
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	modified := st.ModTime()
	if a.Time.After(modified) {
		modified = a.Time
	}
	h := w.Header()
	h["Etag"] = []string{`"` + string(a.Digest) + `"`}
	h["Content-Type"] = []string{"application/octet-stream"}
	http.ServeContent(w, r, "", modified, rs)
}

// standard are the databases that freshclam asks for by itself.
func standard() []string { return []string{"main", "daily", "bytecode"} }

// Settings implements feed.ClientSettings.
func (f *databases) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	mirror := strings.TrimSuffix(base.String(), "/")
	var names, extra strings.Builder
	var have []string
	unsigned := false
	for _, a := range currentDatabases(c) {
		db := strings.TrimSuffix(a.Path, ".cvd")
		have = append(have, db)
		if !slices.Contains(standard(), db) {
			fmt.Fprintf(&extra, "ExtraDatabase %s\n", db)
		}
		_, signed := c.Lookup(file{role: databaseSign, db: db, version: currentVersion(c, db)}.name())
		unsigned = unsigned || !signed
	}
	for _, db := range standard() {
		if !slices.Contains(have, db) {
			fmt.Fprintf(&names, "ExcludeDatabase %s\n", db)
		}
	}
	names.WriteString(extra.String())
	note := feed.Text{
		JA: "ほかのDatabaseMirrorの行は消し、PrivateMirrorは書かないでください。freshclamは --no-dns を付けて動かします（DNSを引けないため）。差分で更新され、差分がない端末は全体を取ります。",
		EN: "Remove other DatabaseMirror lines and set no PrivateMirror. Start freshclam with --no-dns, as there is no DNS record inside. Terminals update by patches, and take the whole database where a patch is missing.",
	}
	if unsigned {
		note.JA += "署名ファイル（.sign）がない定義ファイルがあります。FIPSの制限を有効にしたClamAV 1.5以降の端末（Ubuntu 24.04の1.5.3など）は更新できません。"
		note.EN += " Some databases lack their .sign file: ClamAV 1.5 or newer with FIPS limits on (such as 1.5.3 of Ubuntu 24.04) will refuse them."
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "freshclamの設定（差分で更新、推奨）", EN: "freshclam, updating by patches (recommended)"},
		File:  "freshclam.conf",
		Body:  "DatabaseMirror " + mirror + "\nScriptedUpdates yes\nTestDatabases yes\n" + names.String(),
		Note:  note,
	}, {
		Title: feed.Text{JA: "freshclamの設定（毎回全体を取る）", EN: "freshclam, taking whole files"},
		File:  "freshclam.conf",
		Body:  "PrivateMirror " + mirror + "\nTestDatabases yes\n" + names.String(),
		Note: feed.Text{
			JA: "DNSを使いません。更新のたびに全体（25〜250MB）を取るため、端末が少ない場合だけにしてください。",
			EN: "Uses no DNS. Takes whole files (25 to 250 MB) at each change: only for a few terminals.",
		},
	}}, nil
}

// Probe implements feed.Prober: it asks as freshclam does.
func (f *databases) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	var learnt []string
	for _, a := range currentDatabases(c) {
		db := strings.TrimSuffix(a.Path, ".cvd")
		b, _, err := ask(ctx, do, base.JoinPath(a.Path), http.StatusPartialContent, http.Header{"Range": {"bytes=0-511"}})
		if err != nil {
			return learnt, err
		}
		h, want, err := header(c, a.Path)
		if err != nil {
			return learnt, err
		}
		if !bytes.Equal(b, want) {
			return learnt, fmt.Errorf("%s: served header is not that of version %s: %w", a.Path, a.Version, feed.ErrDamaged)
		}
		patch := file{role: patch, db: db, version: h.Version}
		b, size, err := ask(ctx, do, base.JoinPath(patch.name()), http.StatusOK, nil)
		if err != nil {
			return learnt, err
		}
		// Without the patch the answer is empty (see Handler).
		if p, ok := c.Lookup(patch.name()); len(b) > 0 && (!ok || p.Digest != feed.DigestOf(b)) {
			return learnt, fmt.Errorf("%s: served bytes are not those published: %w", patch.name(), feed.ErrDamaged)
		}
		patch.version++
		if _, _, err := ask(ctx, do, base.JoinPath(patch.name()), http.StatusNotFound, nil); err != nil {
			return learnt, err
		}
		learnt = append(learnt, fmt.Sprintf("%s version %d of %s, last patch %d bytes", a.Path, h.Version, h.Time.Format("2006-01-02 15:04"), size))
	}
	if len(learnt) == 0 {
		return nil, fmt.Errorf("no database in the snapshot: %w", feed.ErrDamaged)
	}
	return learnt, nil
}

// ask returns the answer, of at most one patch's size, and its length.
func ask(ctx context.Context, do func(*http.Request) (*http.Response, error), u *url.URL, want int, header http.Header) ([]byte, int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	for k, v := range header {
		r.Header[k] = v
	}
	res, err := do(r)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		return nil, 0, fmt.Errorf("%s: status %d, want %d: %w", u, res.StatusCode, want, feed.ErrDamaged)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, clamav.MaxDiff))
	return b, res.ContentLength, err
}
