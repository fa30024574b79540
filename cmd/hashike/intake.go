package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/intake"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/verifier"
)

// maxSignatureFile is the most bytes of an OpenPGP signature beside a file.
const maxSignatureFile = 64 << 10

// intakeCommand takes in files that a person fetched (docs/feeds/intake.md).
func (a *app) intakeCommand() *cobra.Command {
	c := &cobra.Command{Use: "intake", Short: a.cat.T("cmd.intake")}
	var d intake.Descriptor
	var signature string
	add := &cobra.Command{Use: "add FEED FILE", Short: a.cat.T("cmd.intakeadd"), Args: cobra.ExactArgs(2), RunE: func(_ *cobra.Command, args []string) error {
		return a.with("intake add", outside, func(s *station) error {
			setup, err := s.cfg.Feed(args[0])
			if err != nil {
				return err
			}
			x, ok := setup.Feed.(*intake.Intake)
			if !ok {
				return usageError{errors.New(a.cat.T("intake.notkind", setup.Name))}
			}
			return (&handing{station: s, setup: setup, feed: x, signature: signature}).add(args[1], d)
		})
	}}
	f := add.Flags()
	for _, o := range []struct {
		into *string
		name string
	}{{&d.Product, "product"}, {&d.Version, "version"}, {&d.Name, "name"}, {&d.Vendor, "vendor"}, {&d.Silent, "silent"}, {&d.Arch, "arch"}, {&d.Locale, "locale"},
		{&d.Released, "released"}, {&d.Source, "source"}, {&d.ID, "id"}, {&signature, "signature"}} {
		f.StringVar(o.into, o.name, "", a.cat.T("flag.intake"+o.name))
	}
	c.AddCommand(add)
	return c
}

// handing is one file that is handed in.
type handing struct {
	*station
	setup     feed.Setup
	feed      *intake.Intake
	signature string // file of an OpenPGP signature
	sig       []byte
}

// add copies the file, looks at the copy, asks, proves it, and only then gives
// it its name in the folder: the descriptor last, so that no fetch sees half.
func (h *handing) add(file string, asked intake.Descriptor) error {
	dir, ok := h.setup.Dirs[h.feed.Dir()]
	if !ok {
		return feed.NewFault(fmt.Errorf("[feed.%s] has no dirs.%s: %w", h.setup.Name, h.feed.Dir(), feed.ErrConfig), "H-202",
			"file", h.dir.Config(), "detail", "dirs."+h.feed.Dir())
	}
	if h.signature != "" {
		var err error
		if h.sig, err = small(h.signature, maxSignatureFile); err != nil {
			return err
		}
	}
	t, digest, size, err := h.copied(file, dir)
	if err != nil {
		return err
	}
	defer t.Discard()
	d := intake.Look(filepath.Base(file), t, size)
	signers := h.show(d, digest, size, t)
	if d, err = h.complete(d, asked); err != nil {
		return err
	}
	d.SHA256, d.By, d.Added = digest, h.who(), h.now()
	organisation, key := h.feed.Expected(d.Product)
	if d.Publisher = cmp.Or(organisation, key); d.Publisher == "" {
		return feed.NewFault(fmt.Errorf("product %.60q: %w", d.Product, feed.ErrConfig), "H-205", "name", d.Product)
	}
	text, err := d.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", err, feed.ErrConfig)
	}
	ev, err := h.prove(d, t, size, signers)
	if err == nil {
		err = h.store(dir, d, text, t)
	}
	detail := map[string]string{"feed": h.setup.Name, "product": d.Product, "version": d.Version, "file": d.File, "digest": string(digest), "publisher": d.Publisher}
	if err = errors.Join(err, h.audit("intake add", err, detail)); err != nil {
		return err
	}
	fmt.Fprintln(h.out, h.cat.T("intake.done", d.Product+"/"+d.Version+"/"+d.File, ev.Signer))
	return nil
}

// copied is a copy of the file in the folder, without a name there.
func (h *handing) copied(file, dir string) (*durable.Temp, feed.Digest, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", 0, feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-205", "name", file)
	}
	defer f.Close()
	if err := durable.Mkdir(dir); err != nil {
		return nil, "", 0, err
	}
	t, err := durable.Create(dir)
	if err != nil {
		return nil, "", 0, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(t, sum), io.LimitReader(f, h.feed.MaxFile()+1))
	if err == nil && n > h.feed.MaxFile() {
		err = fmt.Errorf("%s: over %d bytes (max_file): %w", file, h.feed.MaxFile(), feed.ErrConfig)
	}
	if err != nil {
		t.Discard()
		return nil, "", 0, err
	}
	return t, feed.DigestFrom(sum), n, nil
}

// show prints what the file says of itself.
func (h *handing) show(d intake.Descriptor, digest feed.Digest, size int64, r io.ReaderAt) string {
	said := strings.Join(verifier.Signers(r, size), " / ")
	if said == "" {
		said = h.cat.T("intake.unsigned")
	}
	fmt.Fprintln(h.out, h.cat.T("intake.looks"))
	fmt.Fprintln(h.out, h.cat.T("intake.file", printable(d.File), bytesText(size)))
	fmt.Fprintln(h.out, h.cat.T("intake.digest", digest.Hex()))
	fmt.Fprintln(h.out, h.cat.T("intake.signers", printable(said)))
	fmt.Fprintln(h.out, h.cat.T("intake.product", printable(d.Name), printable(d.Vendor), printable(d.Says)))
	return printable(said)
}

// complete fills in what a person says, asked for where somebody types.
func (h *handing) complete(d, asked intake.Descriptor) (intake.Descriptor, error) {
	products := h.feed.Products()
	if asked.Product == "" && len(products) == 1 {
		asked.Product = products[0]
	}
	version, _ := intake.Normal(strings.TrimSuffix(d.Says, ".0"))
	if h.typing {
		fmt.Fprintln(h.err, h.cat.T("intake.products", strings.Join(products, h.cat.T("list.comma"))))
	}
	for _, q := range []struct {
		key    string
		into   *string
		asked  string
		before string
		asks   bool
	}{
		{"product", &d.Product, asked.Product, "", true}, {"version", &d.Version, asked.Version, version, true}, {"name", &d.Name, asked.Name, d.Name, true},
		{"vendor", &d.Vendor, asked.Vendor, d.Vendor, true}, {"silent", &d.Silent, asked.Silent, d.Silent, true}, {"released", &d.Released, asked.Released, "", true},
		{"source", &d.Source, asked.Source, "", true}, {"arch", &d.Arch, asked.Arch, d.Arch, false}, {"locale", &d.Locale, asked.Locale, d.Locale, false}, {"id", &d.ID, asked.ID, "", false},
	} {
		*q.into = cmp.Or(q.asked, q.before)
		if !h.typing || !q.asks || q.asked != "" {
			continue
		}
		said, err := h.prompt(h.cat.T("intake.ask", h.cat.T("flag.intake"+q.key), q.before))
		if err != nil {
			return d, err
		}
		*q.into = cmp.Or(strings.TrimSpace(said), q.before)
	}
	if d.Product == "" || d.Version == "" {
		return d, usageError{errors.New(h.cat.T("intake.needs"))}
	}
	if !slices.Contains(products, d.Product) {
		return d, feed.NewFault(fmt.Errorf("product %.60q: %w", d.Product, feed.ErrConfig), "H-205", "name", d.Product)
	}
	if v, ok := intake.Normal(d.Version); ok {
		d.Version = v
	}
	organisation, key := h.feed.Expected(d.Product)
	d.Name, d.Vendor, d.Arch = cmp.Or(d.Name, d.Product), cmp.Or(d.Vendor, organisation, key), cmp.Or(d.Arch, "neutral")
	return d, nil
}

// prove holds the file against what the configuration pins for its product,
// with the same trust as a fetch.
func (h *handing) prove(d intake.Descriptor, r io.ReaderAt, size int64, signers string) (feed.Evidence, error) {
	fmt.Fprintln(h.out, h.cat.T("intake.expected", d.Publisher))
	var orders []feed.Order
	if err := h.db.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err }); err != nil {
		return feed.Evidence{}, err
	}
	ev, err := h.feed.Check(d.Product, r, size, h.sig, verifier.BuildTrust(h.setup.Kind.Anchors, orders, h.setup.Name, h.now()))
	if err != nil {
		err = feed.NewFault(fmt.Errorf("%s: %w", d.File, err), "H-631", "feed", h.setup.Name, "file", d.File, "product", d.Product,
			"expected", d.Publisher, "said", signers, "detail", err.Error())
	}
	return ev, err
}

// store gives the copy its name and writes the descriptor.
func (h *handing) store(dir string, d intake.Descriptor, text []byte, t *durable.Temp) error {
	at := filepath.Join(dir, d.Product, d.Version)
	if old, err := os.ReadDir(at); err == nil {
		for _, e := range old {
			name, isText := strings.CutSuffix(e.Name(), ".toml")
			if !isText {
				continue
			}
			b, err := small(filepath.Join(at, e.Name()), maxSignatureFile)
			if err != nil {
				return err
			}
			if was, err := intake.ParseDescriptor(b); err == nil && was.SHA256 != d.SHA256 {
				return feed.NewFault(fmt.Errorf("%s/%s has %s already: %w", d.Product, d.Version, name, feed.ErrConfig), "H-632", "product", d.Product, "version", d.Version, "file", name)
			}
		}
	}
	for _, folder := range []string{filepath.Join(dir, d.Product), at} {
		if err := durable.Mkdir(folder); err != nil {
			return err
		}
	}
	durable.Step("intake:file")
	if err := t.Commit(filepath.Join(at, d.File)); err != nil {
		return err
	}
	if len(h.sig) > 0 {
		if err := durable.WriteFile(filepath.Join(at, d.File+".asc"), h.sig); err != nil {
			return err
		}
	}
	durable.Step("intake:descriptor")
	return durable.WriteFile(filepath.Join(at, d.File+".toml"), text)
}

// small reads a file of a bounded size.
func small(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-205", "name", name)
	}
	defer f.Close()
	var b bytes.Buffer
	if n, err := io.Copy(&b, io.LimitReader(f, limit+1)); err != nil || n > limit {
		return nil, fmt.Errorf("%s: over %d bytes: %w", name, limit, errors.Join(err, feed.ErrConfig))
	}
	return b.Bytes(), nil
}

// printNotices tells what is new at vendors' that a person must look at.
func (s *station) printNotices(out io.Writer) error {
	if s.side != outside {
		return nil
	}
	for _, setup := range s.cfg.Feeds {
		n, ok := setup.Feed.(feed.Noticer)
		if !ok {
			continue
		}
		var st state.FeedState
		if err := s.db.View(func(tx state.Tx) (err error) { st, err = tx.Feed(setup.Name); return err }); err != nil {
			return err
		}
		if st.Serial == 0 || st.Kind != setup.Kind.Name {
			continue
		}
		snap, err := s.store.Snapshot(setup.Name, st.Serial)
		if err != nil {
			return err
		}
		for _, x := range n.Notices(snap) {
			fmt.Fprintln(out, "  "+s.cat.T("notice.new", setup.Name, i18n.Date(time.Unix(x.Since, 0), s.cat.Language()), printable(x.Text), x.URL))
		}
	}
	return nil
}
