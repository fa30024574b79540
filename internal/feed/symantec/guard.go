package symantec

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
	"github.com/hashike/hashike/internal/format/zipfile"
	"github.com/hashike/hashike/verifier"
)

// Limits on one archive.
const (
	maxUnpacked = 16 << 30
	maxGuard    = 16 << 20
	licence     = 1048 // bytes of lic.dat and navlic.dat, which no guard names
)

// archive is what a guard says of its archive.
type archive struct {
	guard, sig []byte
	members    map[string]string // name → SHA-256, hex
	made       time.Time
}

// guarded reads the guard of an archive; ok is false for a file that need not
// have one. What cannot be read as the name promises may be half copied.
func guarded(t *tooldir.Tree, p string) (a archive, ok bool, err error) {
	err = t.Each(p, func(r io.ReaderAt, size int64) error {
		a, ok, err = open(r, size)
		return err
	})
	switch {
	case errors.Is(err, feed.ErrUpstream):
		return a, false, fmt.Errorf("%s: %w", p, err)
	case must(p) && (err != nil || !ok):
		return a, false, fmt.Errorf("%s: %w: %w", p, errors.Join(err, errors.New("no whole guarded archive")), tooldir.ErrIncomplete)
	case err != nil && strings.EqualFold(path.Ext(p), ".zip"):
		return a, false, fmt.Errorf("%s: %w: %w", p, err, tooldir.ErrIncomplete)
	case err != nil:
		return a, false, nil
	}
	return a, ok, nil
}

func open(r io.ReaderAt, size int64) (a archive, ok bool, err error) {
	z, err := zipfile.Open(r, size)
	if err != nil {
		return a, false, err
	}
	for _, f := range z.File {
		switch f.Name {
		case "v.grd":
			a.guard, err = member(f, maxGuard)
		case "v.sig":
			a.sig, err = member(f, verifier.MaxDetached)
		}
		if err != nil {
			return a, false, err
		}
	}
	if a.guard == nil || a.sig == nil {
		return a, false, nil
	}
	return a, true, a.parse()
}

func member(f *zip.File, limit int64) ([]byte, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: over %d bytes: %w", f.Name, limit, feed.ErrUpstream)
	}
	return b, err
}

// parse reads v.grd: [GuardHeader] with LastModifiedUtcSeconds, and a section
// [File-NAME] with SHA256 for each member.
func (a *archive) parse() error {
	text, err := tooldir.Decode(a.guard)
	if err != nil {
		return fmt.Errorf("v.grd: %w: %w", err, feed.ErrUpstream)
	}
	sections, err := tooldir.ParseINI(text)
	if err != nil {
		return fmt.Errorf("v.grd: %w: %w", err, feed.ErrUpstream)
	}
	a.members = map[string]string{}
	for _, s := range sections {
		if strings.EqualFold(s.Name, "GuardHeader") {
			v, _ := s.Get("LastModifiedUtcSeconds")
			n, _ := strconv.ParseInt(v, 10, 64)
			var ok bool
			if a.made, ok = epoch(n); !ok {
				return fmt.Errorf("v.grd: LastModifiedUtcSeconds=%.40q: %w", v, feed.ErrUpstream)
			}
		}
		name, ok := strings.CutPrefix(s.Name, "File-")
		if !ok {
			continue
		}
		sum, _ := s.Get("SHA256")
		if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size || !feed.ValidPath(name) {
			return fmt.Errorf("v.grd: file %.200q with SHA256=%.80q: %w", name, sum, feed.ErrUpstream)
		}
		if _, twice := a.members[name]; twice {
			return fmt.Errorf("v.grd: %s twice: %w", name, feed.ErrUpstream)
		}
		a.members[name] = strings.ToLower(sum)
	}
	if a.made.IsZero() || len(a.members) == 0 {
		return fmt.Errorf("v.grd: no time or no files: %w", feed.ErrUpstream)
	}
	return nil
}

// prove checks guard and members of every guarded archive. Without a root there
// is nothing to check against, and the files are worth nothing until there is.
func prove(t *tooldir.Tree, _ tooldir.Config, trust feed.Trust, out feed.Proof) error {
	if len(trust.For(Use)) == 0 {
		return nil
	}
	for _, p := range t.Paths() {
		a, ok, err := guarded(t, p)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		f, _ := t.Find(p)
		at := feed.Artifact{Path: p, Digest: f.Digest, Size: f.Size}
		err = out.Once(at, "symantec-guard", func(r io.ReaderAt, size int64) (feed.Evidence, error) {
			ev, err := verifier.Detached(bytes.NewReader(a.guard), int64(len(a.guard)), a.sig, Use, a.made, trust)
			if err == nil {
				err = a.holds(r, size)
			}
			ev.Method, ev.Signer = "symantec-guard", orMaker(ev.Signer)
			return ev, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func orMaker(s string) string {
	if s == "" {
		return "Symantec"
	}
	return s
}

// holds: the archive has the guard's members with their digests, and no others.
func (a archive) holds(r io.ReaderAt, size int64) error {
	bad := func(why string, args ...any) error {
		return fmt.Errorf("%s: %w", fmt.Sprintf(why, args...), feed.ErrUntrusted)
	}
	z, err := zipfile.Open(r, size)
	if err != nil {
		return bad("%v", err)
	}
	left, seen := int64(maxUnpacked), map[string]bool{}
	for _, f := range z.File {
		if seen[f.Name] {
			return bad("member %.200q twice", f.Name)
		}
		seen[f.Name] = true
		want, named := a.members[f.Name]
		switch {
		case named:
		case f.Name == "v.grd", f.Name == "v.sig", f.Name == "v1.sig", strings.HasSuffix(f.Name, "/") && f.UncompressedSize64 == 0,
			(f.Name == "lic.dat" || f.Name == "navlic.dat") && f.UncompressedSize64 == licence:
			continue
		default:
			return bad("member %.200q is not named by the guard", f.Name)
		}
		rc, err := f.Open()
		if err != nil {
			return bad("%s: %v", f.Name, err)
		}
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(rc, left+1))
		rc.Close()
		if left -= n; err != nil || left < 0 {
			return bad("%s: cannot be unpacked, or to over %d bytes", f.Name, int64(maxUnpacked))
		}
		if hex.EncodeToString(h.Sum(nil)) != want {
			return bad("%s is not what the guard says", f.Name)
		}
	}
	for name := range a.members {
		if !seen[name] {
			return bad("%s, which the guard names, is missing", name)
		}
	}
	return nil
}
