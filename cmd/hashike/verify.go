package main

import (
	"context"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/verifier"
)

// verify runs the verifier with this side's own trust and policy, and keeps
// the evidence: also for a refusal, which is when somebody will ask.
func (s *station) verify(ctx context.Context, setup feed.Setup, c feed.Content, prev state.FeedState) (verifier.Verdict, error) {
	h := c.Header()
	var orders []feed.Order
	if err := s.db.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err }); err != nil {
		return verifier.Verdict{}, err
	}
	policy, err := verifier.BuildPolicy(setup.Kind.Floors, setup.Floors, orders, h.Feed, h.Serial, h.Taken)
	if err != nil {
		return verifier.Verdict{}, err
	}
	at := s.dir.Evidence(h.Feed, h.Serial, s.side)
	if err := durable.Mkdir(filepath.Dir(at)); err != nil {
		return verifier.Verdict{}, err
	}
	var verdict verifier.Verdict
	var refusal error
	err = durable.WriteFrom(at, func(w io.Writer) error {
		verdict, refusal = verifier.Run(ctx, verifier.Job{Setup: setup, Content: c,
			Trust:  verifier.BuildTrust(setup.Kind.Anchors, orders, h.Feed, h.Taken),
			Policy: policy, Marks: prev.Marks, Verdicts: verifier.NewMemory(s.db), Evidence: w, Side: s.side})
		return nil
	})
	if refusal != nil {
		err = refusal
	}
	return verdict, err
}

// evidence reads an evidence document from its file.
func evidence(path string) iter.Seq2[feed.Evidence, error] {
	return func(yield func(feed.Evidence, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(feed.Evidence{}, err)
			return
		}
		defer f.Close()
		_, all, err := verifier.ReadEvidence(f)
		if err != nil {
			yield(feed.Evidence{}, err)
			return
		}
		for e, err := range all {
			if !yield(e, err) {
				return
			}
		}
	}
}
