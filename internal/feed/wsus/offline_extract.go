package wsus

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/feed"
)

// An extract is what a snapshot takes of a wsusscn2.cab: the fragments of the
// chosen products and classifications, of what these build on and of the
// members of their bundles, in Japanese and English, byte for byte. It travels
// with the cabinet, which proves it: reading 25 GB again at each publication
// would help nobody. zstd; inside,
//
//	hashike-wsus-extract 1 <SHA-256 of the cabinet> <date of the catalogue> <digest of the choice>
//	<number> <c, x, l or e> <language or -> <bytes>
//	<the fragment>                       and a line feed

const (
	extractMagic  = "hashike-wsus-extract 1"
	extractPrefix = "metadata/wsusscn2-"
	maxExtract    = 2 << 30 // packed
	// maxExtractText bounds what unpacking it may give.
	maxExtractText = 16 << 30
)

// offlineGroup goes before the path in the group of a payload that an extract
// names: each stands alone, and can be told from those of a server.
const offlineGroup = "wsusscn2 "

var partLetters = [...]string{core: "c", extended: "x", localized: "l", eula: "e"}

// extractHead is the first line.
type extractHead struct {
	cabinet feed.Digest
	created time.Time
	choice  string
}

func (h extractHead) String() string {
	return fmt.Sprintf("%s %s %s %s\n", extractMagic, h.cabinet.Hex(), h.created.Format(time.RFC3339), h.choice)
}

func parseExtractHead(line string) (h extractHead, err error) {
	rest, ok := strings.CutPrefix(line, extractMagic+" ")
	e := strings.Split(rest, " ")
	if !ok || len(e) != 3 || len(e[2]) > 64 {
		return h, upstream("extract without head")
	}
	d, err := feed.DigestFromHex(e[0])
	at, err2 := time.Parse(time.RFC3339, e[1])
	h = extractHead{d, at.UTC(), e[2]}
	if err := errors.Join(err, err2); err != nil || h.String() != line+"\n" {
		return h, upstream("extract: head %.200q: %w", line, errors.Join(err, errors.New("malformed")))
	}
	return h, nil
}

// offlineArtifacts are the extract and the cabinet that proves it, one group.
func offlineArtifacts(h extractHead, extract feed.Digest) (x, c feed.Artifact) {
	x = feed.Artifact{Path: extractPrefix + extract.Hex()[:32] + ".zst", Digest: extract, Class: feed.Metadata, Time: h.created}
	x.Group = x.Path
	c = x
	c.Path, c.Digest = extractPrefix+h.cabinet.Hex()[:32]+".cab", h.cabinet
	return x, c
}

func isExtract(a feed.Artifact) bool {
	return a.Class == feed.Metadata && strings.HasPrefix(a.Path, extractPrefix) && strings.HasSuffix(a.Path, ".zst")
}

func isOfflineCab(a feed.Artifact) bool {
	return a.Class == feed.Metadata && strings.HasPrefix(a.Path, extractPrefix) && strings.HasSuffix(a.Path, ".cab")
}

// fragmentKey names a fragment.
type fragmentKey struct {
	n    int
	p    part
	lang string
}

// eachFragment reads an extract. ErrUpstream if it is not of the form above.
func eachFragment(r io.Reader, head func(extractHead) error, f func(k fragmentKey, body []byte) error) error {
	z, err := zstd.NewReader(io.LimitReader(r, maxExtract), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return upstream("extract: %w", err)
	}
	defer z.Close()
	br := bufio.NewReaderSize(io.LimitReader(z, maxExtractText), 64<<10)
	line := func() (string, error) {
		b, err := br.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, io.EOF) && len(b) == 0 {
				return "", io.EOF
			}
			return "", upstream("extract: %w", err)
		}
		return string(b[:len(b)-1]), nil
	}
	first, err := line()
	if err != nil {
		return upstream("extract without head: %w", err)
	}
	h, err := parseExtractHead(first)
	if err == nil {
		err = head(h)
	}
	if err != nil || f == nil {
		return err
	}
	for {
		text, err := line()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		k, size, err := fragmentLine(text)
		if err != nil {
			return err
		}
		b := make([]byte, size+1)
		if _, err := io.ReadFull(br, b); err != nil || b[size] != '\n' {
			return upstream("extract: %.60q is cut short", text)
		}
		if err := f(k, b[:size]); err != nil {
			return err
		}
	}
}

func fragmentLine(text string) (k fragmentKey, size int, err error) {
	e := strings.Split(text, " ")
	if len(e) != 4 {
		return k, 0, upstream("extract: line %.80q", text)
	}
	n, err := strconv.Atoi(e[0])
	size, err2 := strconv.Atoi(e[3])
	p := slices.Index(partLetters[:], e[1])
	if k = (fragmentKey{n, part(max(p, 0)), strings.TrimPrefix(e[2], "-")}); errors.Join(err, err2) != nil || n < 0 || p < 0 || size < 0 || size > maxFragment || k.line(size) != text {
		return k, 0, upstream("extract: line %.80q", text)
	}
	return k, size, nil
}

func (k fragmentKey) line(size int) string {
	return fmt.Sprintf("%d %s %s %d", k.n, partLetters[k.p], cmp.Or(k.lang, "-"), size)
}

// readExtract reads an extract as readScan reads a scan.
func readExtract(r io.ReaderAt, size int64, keep func(n int, p part, lang string, body []byte) error) (*scan, error) {
	if size > maxExtract {
		return nil, upstream("extract of %d bytes", size)
	}
	s := &scan{updates: map[int]*update{}, sums: map[identity][sha256.Size]byte{}, parts: map[int][][sha256.Size]byte{}, alone: offlineGroup}
	props := map[int]*update{}
	seen := map[fragmentKey]bool{}
	err := eachFragment(io.NewSectionReader(r, 0, size), func(h extractHead) error {
		s.created, s.head = h.created, h
		return nil
	}, func(k fragmentKey, b []byte) error {
		if seen[k] || len(s.updates) > maxOfflineUpdates {
			return upstream("extract: %s twice, or too many", k.line(len(b)))
		}
		seen[k] = true
		s.parts[k.n] = append(s.parts[k.n], partSum(k.p, k.lang, b))
		if err := s.fragment(k.n, k.p, b, props); err != nil {
			return fmt.Errorf("%s: %w", k.line(len(b)), err)
		}
		if keep != nil {
			return keep(k.n, k.p, k.lang, b)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, s.join(props)
}

// catalogue is what choosing needs to know of a whole wsusscn2.cab.
type catalogue struct {
	updates map[int]*update
	titles  map[string][]int // lower case, of whatever has it in Japanese or English
	newest  map[guid]int     // → number of the highest revision
	exact   map[identity]int
}

// readCatalogue goes through the cabinet once.
func readCatalogue(o *offlineCab) (*catalogue, error) {
	c := &catalogue{updates: map[int]*update{}, titles: map[string][]int{}, newest: map[guid]int{}, exact: map[identity]int{}}
	props := map[int]*update{}
	s := &scan{updates: c.updates}
	err := o.walk(func(n int, p part, lang string, b []byte) error {
		if len(s.updates) > maxOfflineUpdates {
			return upstream("over %d updates", maxOfflineUpdates)
		}
		if p == localized && spoken(lang) {
			t := strings.ToLower(elementText(b, "Title"))
			c.titles[t] = append(c.titles[t], n)
		}
		return s.fragment(n, p, b, props)
	})
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Sorted(maps.Keys(c.updates)) {
		u := c.updates[n]
		if x, ok := props[n]; ok {
			u.Files, u.KB, u.Category = x.Files, x.KB, x.Category
		}
		if _, twice := c.exact[u.identity]; twice {
			delete(c.updates, n) // the lower number stands
			continue
		}
		c.exact[u.identity] = n
		if at, ok := c.newest[u.Update]; !ok || c.updates[at].identity.Number < u.identity.Number {
			c.newest[u.Update] = n
		}
	}
	return c, nil
}

// spoken are the languages that an extract keeps.
func spoken(lang string) bool {
	base, _, _ := strings.Cut(lang, "-")
	return base == "ja" || base == "en"
}

// resolve finds products or classifications by title or id. ErrConfig for one
// that the catalogue does not have.
func (c *catalogue) resolve(names []string, class bool) (out []guid, err error) {
	for _, name := range names {
		key := strings.ToLower(strings.TrimSpace(name))
		if g, gerr := parseGUID(key); gerr == nil {
			out = append(out, g)
			continue
		}
		if g, ok := classifications[key]; ok && class {
			out = append(out, g)
			continue
		}
		found := false
		for _, n := range c.titles[key] {
			u := c.updates[n]
			if u != nil && u.Type == "Category" && (u.Category == "UpdateClassification") == class {
				out, found = append(out, u.Update), true
			}
		}
		if !found {
			err = errors.Join(err, fmt.Errorf("%s has no product or classification %q: %w", offlineName, name, feed.ErrConfig))
		}
	}
	slices.SortFunc(out, func(a, b guid) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out), err
}

// choose returns the numbers of what an extract holds: updates that can be
// deployed, of one of the products and one of the classifications, and all
// that they build on.
func (c *catalogue) choose(products, classes []guid) map[int]bool {
	chosen := map[int]bool{}
	var todo []int
	take := func(n int, ok bool) {
		if ok && !chosen[n] {
			chosen[n] = true
			todo = append(todo, n)
		}
	}
	for _, n := range c.newest {
		u := c.updates[n]
		of := slices.Concat(u.Prereqs...)
		in := func(g guid) func(guid) bool { return func(x guid) bool { return x == g } }
		take(n, u.Explicit && slices.ContainsFunc(products, func(g guid) bool { return slices.ContainsFunc(of, in(g)) }) &&
			slices.ContainsFunc(classes, func(g guid) bool { return slices.ContainsFunc(of, in(g)) }))
	}
	for len(todo) > 0 {
		u := c.updates[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for _, id := range slices.Concat(u.Bundles...) {
			n, ok := c.exact[id]
			take(n, ok)
		}
		for _, g := range slices.Concat(u.Prereqs...) {
			n, ok := c.newest[g]
			take(n, ok)
		}
	}
	return chosen
}

// writeExtract writes the fragments of the chosen numbers.
func writeExtract(w io.Writer, o *offlineCab, h extractHead, chosen map[int]bool) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	if _, err = io.WriteString(z, h.String()); err != nil {
		return err
	}
	err = o.walk(func(n int, p part, lang string, b []byte) error {
		if !chosen[n] || (p == localized || p == eula) && !spoken(lang) {
			return nil
		}
		if _, err := io.WriteString(z, fragmentKey{n, p, lang}.line(len(b))+"\n"); err != nil {
			return err
		}
		if _, err := z.Write(b); err != nil {
			return err
		}
		_, err := z.Write([]byte{'\n'})
		return err
	})
	return errors.Join(err, z.Close())
}

// proveExtract makes sure that every fragment of an extract is the cabinet's,
// byte for byte, and that the head says the cabinet's own date.
func proveExtract(x io.Reader, o *offlineCab) error {
	sums := map[fragmentKey][sha256.Size]byte{}
	var head extractHead
	err := eachFragment(x, func(h extractHead) error { head = h; return nil }, func(k fragmentKey, b []byte) error {
		if len(sums) > maxOfflineUpdates*4 {
			return upstream("extract: too many fragments")
		}
		sums[k] = sha256.Sum256(b)
		return nil
	})
	if err != nil {
		return err
	}
	at, err := o.created()
	if err != nil {
		return err
	}
	if !at.Equal(head.created) {
		return fmt.Errorf("the catalogue is of %s, not of %s: %w", at.Format(time.RFC3339), head.created.Format(time.RFC3339), feed.ErrUntrusted)
	}
	err = o.walk(func(n int, p part, lang string, b []byte) error {
		k := fragmentKey{n, p, lang}
		want, ok := sums[k]
		if !ok {
			return nil
		}
		if sha256.Sum256(b) != want {
			return fmt.Errorf("%s is not the cabinet's: %w", k.line(len(b)), feed.ErrUntrusted)
		}
		delete(sums, k)
		return nil
	})
	if err == nil && len(sums) > 0 {
		err = fmt.Errorf("%d fragments that the cabinet does not have: %w", len(sums), feed.ErrUntrusted)
	}
	return err
}
