package mirror

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// ExportOptions say what is exported and where to.
type ExportOptions struct {
	Data  state.Dir
	Store *cas.Store
	Setup feed.Setup
	Ring  string
	To    string // a directory of this feed alone
}

// ExportItem is one installer of the tree.
type ExportItem struct {
	feed.Installer
	File string // below the tree, slash-separated, ASCII
	// Run: the start-up script installs it. Of full installers that is the
	// newest; patches (msp) are all run, oldest first, and those that do not
	// apply say so (1642).
	Run bool
}

// Exported is what Export did.
type Exported struct {
	Items   []ExportItem // in the order of the script
	Written int
	Bytes   int64 // written
	Removed int
}

// marker names the tree as ours: a directory that holds anything else and no
// marker is not touched.
const marker = "hashike-export.txt"

// Export keeps a plain tree of a ring's installers, for file shares and the
// start-up script that installs from them. Each file is hashed while it is
// copied and stands under its name only when it is whole; lists and script come
// last, so that a reader of a half-made tree finds the old ones. Files that are
// no longer published go. ErrConfig: H-205 if nothing is published, H-207 if the
// feed has no installers or the directory is somebody else's.
func Export(ctx context.Context, o ExportOptions) (Exported, error) {
	v, err := published(o.Data, o.Store, o.Ring, o.Setup.Name)
	if err != nil {
		return Exported{}, err
	}
	list, err := feed.Installers(o.Setup.Feed, v)
	if err != nil {
		return Exported{}, fmt.Errorf("feed %s: %w", o.Setup.Name, err)
	}
	if len(list) == 0 {
		return Exported{}, feed.NewFault(fmt.Errorf("feed %s has no installers: %w", o.Setup.Name, feed.ErrConfig), "H-224", "feed", o.Setup.Name)
	}
	if err := o.claim(); err != nil {
		return Exported{}, err
	}
	x := Exported{Items: exportItems(list)}
	keep := map[string]bool{marker: true}
	for _, i := range x.Items {
		if err := ctx.Err(); err != nil {
			return x, err
		}
		keep[i.File] = true
		n, err := o.copy(v, i)
		if err != nil {
			return x, err
		}
		if n > 0 {
			x.Written, x.Bytes = x.Written+1, x.Bytes+n
		}
	}
	for name, body := range map[string]string{"README.txt": exportReadme(o.Setup.Name), "list.csv": exportCSV(x.Items), "install.cmd": exportScript(o.Setup.Name, x.Items)} {
		keep[name] = true
		if err := writeIfNew(filepath.Join(o.To, name), body); err != nil {
			return x, err
		}
	}
	x.Removed, err = o.sweep(keep)
	return x, err
}

// published is what a ring sees of a feed.
func published(data state.Dir, store *cas.Store, ring, name string) (feed.View, error) {
	gens, _, err := Generations(data, ring, name)
	if err != nil {
		return feed.View{}, err
	}
	if len(gens) == 0 {
		return feed.View{}, feed.NewFault(fmt.Errorf("%s: nothing is published yet: %w", name, feed.ErrConfig), "H-205", "name", name)
	}
	return view(data, &snapshots{store: store, open: map[string]map[uint64]*cas.Snapshot{}}, gens[0])
}

// claim makes the directory ours, or refuses one that holds something else.
func (o ExportOptions) claim() error {
	if err := durable.Mkdir(o.To); err != nil {
		return err
	}
	mark := filepath.Join(o.To, marker)
	b, err := os.ReadFile(mark)
	if err == nil && strings.TrimSpace(string(b)) == o.Setup.Name {
		return durable.CleanTemps(o.To)
	}
	ents, rerr := os.ReadDir(o.To)
	if rerr != nil {
		return rerr
	}
	if err == nil || len(ents) > 0 {
		return o.fault(o.To + " holds something else")
	}
	return durable.WriteFile(mark, []byte(o.Setup.Name+"\r\n"))
}

func (o ExportOptions) fault(why string) error {
	return feed.NewFault(fmt.Errorf("%s: %w", why, feed.ErrConfig), "H-207", "detail", why)
}

// exportItems orders the records and gives each a place.
func exportItems(list []feed.Installer) []ExportItem {
	var out []ExportItem
	for _, i := range list {
		dir := path.Join(plain(i.ID), plain(i.Version), plain(strings.Trim(i.Arch+"-"+i.Locale, "-")))
		out = append(out, ExportItem{Installer: i, File: path.Join(dir, plain(path.Base(i.Path)))})
	}
	slices.SortStableFunc(out, func(a, b ExportItem) int {
		return cmp.Or(cmp.Compare(line(a), line(b)), cmp.Compare(patch(a), patch(b)), compareVersions(a.Version, b.Version), cmp.Compare(a.Path, b.Path))
	})
	for n := range out {
		newest := n+1 == len(out) || line(out[n]) != line(out[n+1]) || patch(out[n]) != patch(out[n+1])
		out[n].Run = patch(out[n]) == 1 || newest && (out[n].Silent != "" || strings.HasPrefix(out[n].Type, "msi") || out[n].Type == "wix")
	}
	return out
}

// line is what has one newest version on a machine.
func line(i ExportItem) string { return i.ID + "\x00" + i.Arch + "\x00" + i.Locale }

func patch(i ExportItem) int {
	if i.Type == "msp" {
		return 1
	}
	return 0
}

// compareVersions compares dotted versions, numbers as numbers.
func compareVersions(a, b string) int {
	x, y := strings.FieldsFunc(a, separates), strings.FieldsFunc(b, separates)
	for i := range max(len(x), len(y)) {
		p, q := "0", "0"
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		m, err1 := strconv.ParseUint(p, 10, 64)
		n, err2 := strconv.ParseUint(q, 10, 64)
		c := cmp.Compare(m, n)
		if err1 != nil || err2 != nil {
			c = cmp.Compare(p, q)
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func separates(r rune) bool { return r == '.' || r == '-' || r == '_' || r == '+' || r == ' ' }

// plain is a name that every file system and cmd.exe take: what is not a plain
// letter becomes "_", and then part of the name's digest tells it from others.
func plain(s string) string {
	safe := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-+", r)) {
			return r
		}
		return '_'
	}, s)
	safe = strings.Trim(safe, ".")
	if safe == s && safe != "" && len(safe) <= 100 {
		return safe
	}
	ext := path.Ext(safe)
	if len(ext) > 10 {
		ext = ""
	}
	return strings.TrimSuffix(safe[:min(len(safe), 80)], ext) + "-" + feed.DigestOf([]byte(s)).Hex()[:8] + ext
}

// copy writes one file, unless it is there; n is 0 then.
func (o ExportOptions) copy(v feed.View, i ExportItem) (n int64, err error) {
	to := filepath.Join(o.To, filepath.FromSlash(i.File))
	if same(to, i.Digest, i.Size) {
		return 0, nil
	}
	f, err := v.Open(i.Path)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %w", i.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	if err := durable.Mkdir(filepath.Dir(to)); err != nil {
		return 0, err
	}
	err = durable.WriteFrom(to, func(w io.Writer) error {
		h := newDigest()
		m, err := io.Copy(io.MultiWriter(w, h), f)
		if err == nil && (m != i.Size || feed.DigestFrom(h) != i.Digest) {
			err = fmt.Errorf("%s does not have its digest %s: %w", i.Path, i.Digest, feed.ErrDamaged)
		}
		return err
	})
	return i.Size, err
}

// same reports whether a file has these bytes. All of them are read: a share is
// nobody's safe.
func same(name string, want feed.Digest, size int64) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != size {
		return false
	}
	h := newDigest()
	_, err = io.Copy(h, f)
	return err == nil && feed.DigestFrom(h) == want
}

func writeIfNew(name, body string) error {
	if b, err := os.ReadFile(name); err == nil && string(b) == body {
		return nil
	}
	return durable.WriteFile(name, []byte(body))
}

// sweep removes what is no longer published, and directories left empty.
func (o ExportOptions) sweep(keep map[string]bool) (removed int, err error) {
	var dirs []string
	err = filepath.WalkDir(o.To, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == o.To {
			return err
		}
		rel, err := filepath.Rel(o.To, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			dirs = append(dirs, p)
		case !keep[filepath.ToSlash(rel)]:
			removed++
			return durable.Remove(p)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		_ = os.Remove(d) // only an empty one goes
	}
	if errors.Is(err, fs.ErrNotExist) { // somebody else removed it too
		err = nil
	}
	return removed, err
}

// exportCSV is for asset-management tools: UTF-8 with a mark, for spreadsheets.
func exportCSV(items []ExportItem) string {
	var b strings.Builder
	b.WriteString("\uFEFF")
	w := csv.NewWriter(&b)
	w.UseCRLF = true
	rows := [][]string{{"id", "name", "publisher", "version", "arch", "locale", "type", "file", "size", "sha256", "command", "success", "product_code", "upgrade_code", "runs"}}
	for _, i := range items {
		runs := "no"
		if i.Run {
			runs = "yes"
		}
		rows = append(rows, []string{i.ID, i.Name, i.Publisher, i.Version, i.Arch, i.Locale, i.Type, i.File, strconv.FormatInt(i.Size, 10), i.Digest.Hex(), i.command("%~dp0" + strings.ReplaceAll(i.File, "/", `\`)), i.codes(), i.ProductCode, i.UpgradeCode, runs})
	}
	_ = w.WriteAll(rows) // into memory
	return b.String()
}
