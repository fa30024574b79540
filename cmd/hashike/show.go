package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/all"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "status", Short: a.cat.T("cmd.status"), RunE: func(*cobra.Command, []string) error {
		return a.with("status", "", func(s *station) error {
			r, err := rings(s.cfg.Rings)
			if err != nil {
				return err
			}
			o, err := mirror.Status(s.db, s.store, s.cfg.Feeds, r, s.now())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				return e.Encode(o)
			}
			if err := s.printStatus(o, a.out); err != nil {
				return err
			}
			if err := s.printPending(); err != nil {
				return err
			}
			s.printLine()
			return s.printGuard(a.out)
		})
	}}
	c.Flags().BoolVar(&asJSON, "json", false, a.cat.T("flag.json"))
	return c
}

func (s *station) printStatus(o mirror.Overview, out io.Writer) error {
	lang := s.cat.Language()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("status.head"))
	for _, f := range o.Feeds {
		age := s.cat.T("unknown")
		if !f.Released.IsZero() {
			age = s.cat.T("status.days", int(time.Duration(f.Age).Hours()/24))
		}
		strength := s.cat.T("unknown")
		if f.Serial > 0 {
			strength = s.cat.T("strength." + f.Weakest.String())
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s %s\t%s\t%s\n", f.Feed, f.Serial, f.Version, s.cat.T("level."+string(f.Level)), age, strength, i18n.Date(f.Accepted, lang))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range o.Feeds {
		for _, r := range f.Rings {
			key := "status.ring"
			if r.Stopped {
				key = "status.stopped"
			}
			fmt.Fprintln(out, "  "+s.cat.T(key, f.Feed, s.cat.T("ring."+r.Ring), r.Serial, i18n.Date(r.Published, lang)))
		}
		if f.Hold != nil {
			fmt.Fprintln(out, "  "+s.cat.T("status.hold", f.Feed, f.Hold.Serial, f.Hold.Reason))
		}
		if f.Problem != "" { // which begins with the code, as errors do
			fmt.Fprintln(out, "  "+s.cat.T("status.problem", f.Feed, f.Code, strings.TrimPrefix(f.Problem, f.Code+": ")))
		}
	}
	if err := s.printNotices(out); err != nil {
		return err
	}
	for _, w := range o.Awaited {
		key := "status.awaits"
		if w.How == people.ByTelephone {
			key = "status.telephone"
		}
		fmt.Fprintln(out, "  "+s.cat.T(key, w.Bundle, i18n.Date(w.Since, lang), w.Bundle))
	}
	for _, od := range o.Orders {
		if !od.InForce(s.now()) {
			continue
		}
		fmt.Fprintln(out, "  "+s.orderLine("status.order", od))
	}
	return nil
}

// coverageCommand prints what this build carries, and which feeds here do.
func (a *app) coverageCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "coverage", Short: a.cat.T("cmd.coverage"), Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return a.with("coverage", "", func(s *station) error {
			board := mirror.Covered(all.Coverage(), s.cfg.Feeds)
			if asJSON {
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				return e.Encode(board)
			}
			lang := a.cat.Language()
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, a.cat.T("coverage.head"))
			for _, c := range board {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", c.Product.In(lang), a.cat.T("carried."+string(c.Carried)), strings.Join(c.Kinds, ","), strings.Join(c.Here, ","), c.Note.In(lang))
			}
			return w.Flush()
		})
	}}
	c.Flags().BoolVar(&asJSON, "json", false, a.cat.T("flag.json"))
	return c
}

func (a *app) originCommand() *cobra.Command {
	return &cobra.Command{Use: "origin PATH|DIGEST", Short: a.cat.T("cmd.origin"), Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.with("origin", "", func(s *station) error {
				card, err := mirror.Origin(s.dir, s.store, s.cfg.Feeds, args[0])
				if errors.Is(err, mirror.ErrNoFile) {
					return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-205", "name", args[0])
				}
				if err != nil {
					return err
				}
				s.printCard(card, a.out)
				lines, err := s.exceptions(func(o feed.Order) bool {
					return (o.Feed == "" || o.Feed == card.Feed) && (o.Digest == "" || o.Digest == card.Artifact.Digest)
				})
				for _, l := range lines {
					fmt.Fprintf(a.out, "%s: %s\n", s.cat.T("card.exception"), l)
				}
				return err
			})
		}}
}

// printCard writes the origin card (来歴票) as text.
func (s *station) printCard(c mirror.Card, out io.Writer) {
	lang := s.cat.Language()
	row := func(key, v string) {
		if v != "" {
			fmt.Fprintf(out, "%s: %s\n", s.cat.T("card."+key), v)
		}
	}
	fmt.Fprintln(out, s.cat.T("card.title"))
	row("feed", fmt.Sprintf("%s（%s）", c.Feed, c.Kind))
	row("path", c.Artifact.Path)
	row("digest", string(c.Artifact.Digest))
	row("size", bytesText(c.Artifact.Size))
	row("version", c.Artifact.Version)
	row("released", dateOr(c.Artifact.Time, lang))
	row("url", c.Artifact.Origin.URL)
	row("fetched", dateOr(c.Artifact.Origin.Fetched, lang))
	row("peer", c.Artifact.Origin.Peer)
	if c.Artifact.Origin.Inspected {
		row("inspected", s.cat.T("yes"))
	}
	row("serial", fmt.Sprint(c.Serial))
	for _, side := range []struct {
		name  string
		chain mirror.Chain
	}{{outside, c.Outside}, {inside, c.Inside}} {
		if !side.chain.Known {
			continue
		}
		fmt.Fprintf(out, "%s: %s\n", s.cat.T("side."+side.name), s.cat.T("strength."+side.chain.Strength.String()))
		for i, e := range side.chain.Links {
			fmt.Fprintf(out, "  %d. %s  %s\n", i+1, e.Method, e.Path)
			for _, v := range []string{e.Signer, e.KeyID, e.Anchor, dateOr(e.SignedAt, lang), e.Note, e.Refused} {
				if v != "" {
					fmt.Fprintf(out, "     %s\n", v)
				}
			}
		}
	}
	if c.Bundle > 0 {
		row("bundle", fmt.Sprint(c.Bundle))
	}
	row("accepted", dateOr(c.Accepted, lang))
	for _, r := range c.Rings {
		fmt.Fprintf(out, "%s: %s\n", s.cat.T("ring."+r.Ring), i18n.Date(r.Published, lang))
	}
	row("withheld", c.Withheld)
}

func dateOr(t time.Time, lang string) string {
	if t.IsZero() {
		return ""
	}
	return i18n.Date(t, lang)
}

func (a *app) clientCommand() *cobra.Command {
	var base string
	c := &cobra.Command{Use: "client FEED", Short: a.cat.T("cmd.client"), Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.with("client", inside, func(s *station) error {
				f, err := s.cfg.Feed(args[0])
				if err != nil {
					return err
				}
				if base == "" {
					base = s.cfg.Base
				}
				return s.printClient(f, base, a.out)
			})
		}}
	c.Flags().StringVar(&base, "base", "", a.cat.T("flag.base"))
	return c
}

func baseURL(base string, f feed.Setup) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(base, "/") + f.Mount)
	if err != nil || u.Host == "" {
		return nil, feed.NewFault(fmt.Errorf("base %q: %w", base, feed.ErrConfig), "H-217", "base", base)
	}
	return u, nil
}

func (s *station) printClient(f feed.Setup, base string, out io.Writer) error {
	k, ok := f.Feed.(feed.ClientSettings)
	if !ok {
		fmt.Fprintln(out, s.cat.T("client.none", f.Name))
		return nil
	}
	u, err := baseURL(base, f)
	if err != nil {
		return err
	}
	c, err := s.published(f.Name)
	if err != nil {
		return err
	}
	settings, err := k.Settings(c, u)
	if err != nil {
		return err
	}
	lang := s.cat.Language()
	for _, v := range settings {
		fmt.Fprintf(out, "== %s\n", v.Title.In(lang))
		if v.File != "" {
			fmt.Fprintln(out, s.cat.T("client.file", v.File))
		}
		fmt.Fprintf(out, "\n%s\n", v.Body)
		if n := v.Note.In(lang); n != "" {
			fmt.Fprintf(out, "%s\n\n", n)
		}
	}
	return nil
}

// published is what the last ring of a feed sees; else what was accepted.
func (s *station) published(name string) (feed.Content, error) {
	gens, _, err := mirror.Generations(s.dir, "all", name)
	if err != nil {
		return nil, err
	}
	if len(gens) == 0 {
		return nil, feed.NewFault(fmt.Errorf("%s: nothing is published yet: %w", name, feed.ErrConfig), "H-205", "name", name)
	}
	return s.store.Snapshot(name, gens[0].Serial)
}

// stillComing is how long a clean-up leaves blobs alone that nothing names:
// while the list of a feed that should be here is itself on a medium that is
// still to come, its files that came first look like waste. A set is good for
// so long; what has not come by then comes again with another.
func (s *station) stillComing() (time.Duration, error) {
	if s.side != inside {
		return 0, nil
	}
	n, err := packager.Lacking(s.db, s.store)
	if err != nil || n.Empty() {
		return 0, err
	}
	return time.Duration(s.cfg.Bundle.ExpiryDays) * 24 * time.Hour, nil
}

func (a *app) gcCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{Use: "gc", Short: a.cat.T("cmd.gc"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("gc", "", func(s *station) error {
			p, err := s.publisher()
			if err != nil {
				return err
			}
			o := mirror.GCOptions{DryRun: dry}
			if o.Grace, err = s.stillComing(); err != nil {
				return err
			}
			if s.side == outside {
				o.Locks = append(o.Locks, "pack")
				for _, f := range s.cfg.Feeds {
					o.Locks = append(o.Locks, "fetch-"+f.Name)
				}
			}
			r, err := p.GC(c.Context(), o)
			if err != nil {
				return err
			}
			key := "gc.done"
			if dry {
				key = "gc.would"
			}
			fmt.Fprintln(a.out, a.cat.T(key, r.Snapshots, r.Blobs, bytesText(r.Bytes), r.Kept))
			if r.Busy > 0 {
				fmt.Fprintln(a.out, a.cat.T("gc.busy", r.Busy))
			}
			if dry {
				return nil
			}
			if err := s.closeYears(0, a.out); err != nil {
				return err
			}
			return s.audit("gc", nil, map[string]string{"snapshots": fmt.Sprint(r.Snapshots), "blobs": fmt.Sprint(r.Blobs), "bytes": fmt.Sprint(r.Bytes)})
		})
	}}
	c.Flags().BoolVar(&dry, "dry-run", false, a.cat.T("flag.dry"))
	return c
}

// scrubShare is what one scrub rereads: the whole store in a week.
const scrubShare = 1.0 / 7

func (a *app) scrubCommand() *cobra.Command {
	var whole bool
	c := &cobra.Command{Use: "scrub", Short: a.cat.T("cmd.scrub"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("scrub", "", func(s *station) error {
			share := scrubShare
			if whole {
				share = 1
			}
			return s.scrub(c.Context(), share, a.out)
		})
	}}
	c.Flags().BoolVar(&whole, "all", false, a.cat.T("flag.all"))
	return c
}

func (s *station) scrub(ctx context.Context, share float64, out io.Writer) error {
	p, err := s.publisher()
	if err != nil {
		return err
	}
	r, err := p.Scrub(ctx, share)
	fmt.Fprintln(out, s.cat.T("scrub.done", r.Blobs, bytesText(r.Bytes), len(r.Damaged)))
	for _, d := range r.Damaged {
		fmt.Fprintf(out, "  %s %s %s\n", d.Digest, d.Feed, d.Path)
	}
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, s.audit("scrub", err, map[string]string{"blobs": fmt.Sprint(r.Blobs), "bytes": fmt.Sprint(r.Bytes), "damaged": fmt.Sprint(len(r.Damaged))}))
}

func (a *app) versionCommand() *cobra.Command {
	var sbom bool
	c := &cobra.Command{Use: "version", Short: a.cat.T("cmd.version"), RunE: func(*cobra.Command, []string) error {
		if sbom {
			return writeSBOM(a.out)
		}
		fmt.Fprintf(a.out, "hashike %s %s/%s %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
		return nil
	}}
	c.Flags().BoolVar(&sbom, "sbom", false, a.cat.T("flag.sbom"))
	return c
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

// writeSBOM writes CycloneDX 1.5 JSON from what the linker recorded: the
// modules that are really in this program, with their sums.
func writeSBOM(out io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program holds no build information")
	}
	type hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	type component struct {
		Type    string `json:"type"`
		Name    string `json:"name"`
		Version string `json:"version"`
		Purl    string `json:"purl"`
		Hashes  []hash `json:"hashes,omitempty"`
	}
	doc := struct {
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Version  int    `json:"version"`
		Metadata struct {
			Component component `json:"component"`
		} `json:"metadata"`
		Components []component `json:"components"`
	}{Format: "CycloneDX", Spec: "1.5", Version: 1}
	doc.Metadata.Component = component{Type: "application", Name: info.Main.Path, Version: version(), Purl: "pkg:golang/" + info.Main.Path}
	std := strings.TrimPrefix(info.GoVersion, "go")
	doc.Components = append(doc.Components, component{Type: "library", Name: "std", Version: std, Purl: "pkg:golang/std@" + std})
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component{Type: "library", Name: m.Path, Version: m.Version, Purl: "pkg:golang/" + m.Path + "@" + m.Version}
		if sum, ok := goSum(m.Sum); ok {
			c.Hashes = []hash{{"SHA-256", sum}}
		}
		doc.Components = append(doc.Components, c)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(doc)
}
