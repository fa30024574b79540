package tree

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Verify implements feed.Feed: signature → list → files. The snapshot holds
// nothing but the list, its signature and files that the list names.
func (t *tree) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	list, ok := c.Lookup(t.cfg.List)
	if !ok {
		return missing(c, t.cfg.List)
	}
	body, err := read(c, list, maxList)
	if err != nil {
		return err
	}
	text, err := t.proveList(c, list, body, trust, out)
	if err != nil {
		return err
	}
	entries, err := parseList(text, path.Dir(t.cfg.List))
	if err != nil {
		return err
	}
	named := make(map[string]feed.Digest, len(entries))
	for _, e := range entries {
		named[e.path] = e.digest
	}
	link := feed.Evidence{Method: "sha256-list", Strength: feed.Listed, Via: list.Digest}
	if t.cfg.Signature != "" {
		link.Strength = feed.Signed
	}
	for a, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if want := t.class(a.Path); a.Class != want {
			return t.untrusted(c, a, fmt.Errorf("in class %s, not %s: %w", a.Class, want, feed.ErrUntrusted))
		}
		if t.isDocument(a.Path) {
			continue
		}
		d, ok := named[a.Path]
		if !ok {
			return t.untrusted(c, a, fmt.Errorf("the list does not name it: %w", feed.ErrUntrusted))
		}
		if d != a.Digest {
			return t.untrusted(c, a, fmt.Errorf("digest %s, the list says %s: %w", a.Digest, d, feed.ErrUntrusted))
		}
		e := link
		e.Path, e.Subject = a.Path, a.Digest
		if err := out.Evidence(e); err != nil {
			return err
		}
	}
	return nil
}

// proveList gives the far end of the chain, and the text that it covers.
func (t *tree) proveList(c feed.Content, list feed.Artifact, body []byte, trust feed.Trust, out feed.Proof) ([]byte, error) {
	if t.cfg.Signature == "" {
		return body, out.Evidence(seen(list))
	}
	anchors := trust.For("openpgp", t.cfg.Keys...)
	covered := []feed.Artifact{list}
	text, ev := body, feed.Evidence{}
	var err error
	if t.cfg.Signature == inClear {
		text, ev, err = verifier.OpenPGPClear(body, trust, anchors)
	} else {
		sig, ok := c.Lookup(t.cfg.Signature)
		if !ok {
			return nil, missing(c, t.cfg.Signature)
		}
		var sigBody []byte
		if sigBody, err = read(c, sig, maxSignature); err != nil {
			return nil, err
		}
		covered = append(covered, sig)
		ev, err = verifier.OpenPGPDetached(bytes.NewReader(body), sigBody, trust, anchors)
	}
	if err != nil {
		return nil, t.untrusted(c, list, err)
	}
	for _, a := range covered {
		ev.Path, ev.Subject = a.Path, a.Digest
		if err := out.Evidence(ev); err != nil {
			return nil, err
		}
	}
	if ev.SignedAt.IsZero() {
		return text, nil
	}
	return text, out.Mark("list "+t.cfg.List, ev.SignedAt.Unix())
}

// seen is what an unsigned list is worth: how our outside came by it.
func seen(list feed.Artifact) feed.Evidence {
	e := feed.Evidence{Path: list.Path, Subject: list.Digest, Method: "tls", Strength: feed.Attested, Signer: list.Origin.Peer}
	switch o := list.Origin; {
	case o.Inspected:
		e.Strength, e.Note = feed.None, "fetched through an inspecting proxy"
	case o.Peer == "":
		e.Method, e.Strength, e.Note = "transport", feed.None, "unsigned list, not from a TLS server"
	}
	return e
}

// isDocument: the list or its signature, not one of the files.
func (t *tree) isDocument(p string) bool {
	return p == t.cfg.List || t.detached() && p == t.cfg.Signature
}

// class is what this side's configuration calls a file. It decides how long
// terminals wait, so the snapshot's own word is not enough.
func (t *tree) class(p string) feed.Class {
	if t.isDocument(p) {
		return feed.Metadata
	}
	return t.cfg.Class
}

func missing(c feed.Content, p string) error {
	err := fmt.Errorf("%s is missing: %w", p, feed.ErrUntrusted)
	return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", p, "detail", err.Error())
}

func (t *tree) untrusted(c feed.Content, a feed.Artifact, err error) error {
	err = fmt.Errorf("%s: %w", a.Path, err)
	return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", a.Path, "detail", err.Error())
}

// read returns a document that is about to be parsed, checked against its digest.
func read(c feed.Content, a feed.Artifact, limit int64) ([]byte, error) {
	if a.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes: %w", a.Path, a.Size, feed.ErrUntrusted)
	}
	f, err := c.Open(a.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Path, err)
	}
	if feed.DigestOf(b) != a.Digest {
		return nil, fmt.Errorf("%s does not have its digest %s: %w", a.Path, a.Digest, feed.ErrDamaged)
	}
	return b, nil
}
