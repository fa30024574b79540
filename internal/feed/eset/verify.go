package eset

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
	"github.com/hashike/hashike/verifier"
)

// compared are the keys that a section of an index and the module's own signed
// [update_info] both have.
var compared = [...]string{"version", "versionid", "build", "type", "category", "level", "base", "date", "platform", "group", "buildregname"}

// prove checks every module's signature, and holds every entry of every index
// against what is signed.
func prove(t *tooldir.Tree, cfg tooldir.Config, trust feed.Trust, out feed.Proof) error {
	all, err := entries(t)
	if err != nil {
		return err
	}
	of := map[string][]entry{}
	for _, e := range all {
		of[e.module] = append(of[e.module], e)
	}
	for _, p := range t.Paths() {
		if !strings.HasSuffix(strings.ToLower(p), ".nup") {
			continue
		}
		if err := proveModule(t, p, of[p], cfg, trust, out); err != nil {
			return err
		}
	}
	return nil
}

func proveModule(t *tooldir.Tree, p string, named []entry, cfg tooldir.Config, trust feed.Trust, out feed.Proof) error {
	f, _ := t.Find(p)
	var info []byte
	var ev feed.Evidence
	err := t.Each(p, func(r io.ReaderAt, size int64) (err error) {
		info, ev, err = verifier.ESETModule(r, size, cfg.Keys, trust)
		return err
	})
	switch {
	case verifier.IsESETEnvelope(err) && strings.HasSuffix(strings.ToLower(p), ".dll.nup"):
		// The generation that nobody has shown us: told on the card, and held.
		return out.Evidence(feed.Evidence{Path: p, Subject: f.Digest, Method: "eset-nup", Strength: feed.None, Note: "ALARM: an unknown envelope; tier D: the terminal checks it"})
	case errors.Is(err, feed.ErrUntrusted):
		return refused(out, f, ev, err)
	case err != nil:
		return fmt.Errorf("%s: %w", p, err)
	}
	sections, err := tooldir.ParseINI(string(info))
	if err != nil || len(sections) != 1 {
		return refused(out, f, ev, errors.New("its [update_info] cannot be read"))
	}
	for _, e := range named {
		if err := agrees(e, sections[0]); err != nil {
			return refused(out, f, ev, fmt.Errorf("%s: %w", e.index, err))
		}
	}
	ev.Path, ev.Subject = p, f.Digest
	return out.Evidence(ev)
}

// refused names the file that is at fault.
func refused(out feed.Proof, f tooldir.File, ev feed.Evidence, err error) error {
	ev.Path, ev.Subject, ev.Method, ev.Refused = f.Path, f.Digest, "eset-nup", err.Error()
	if ev.Signer == "" {
		ev.Signer = "ESET"
	}
	return out.Evidence(ev)
}

// agrees holds an entry to the signed text: every key that it has, and its name.
func agrees(e entry, signed tooldir.Section) error {
	if name, ok := signed.Get("name"); !ok || name != e.Name {
		return fmt.Errorf("[%s] names the module %.80q", e.Name, name)
	}
	for _, key := range compared {
		says, ok := e.Get(key)
		if !ok {
			continue
		}
		if truth, ok := signed.Get(key); !ok || truth != says {
			return fmt.Errorf("[%s] says %s=%.80q, the module %.80q", e.Name, key, says, truth)
		}
	}
	return nil
}
