package feedtest

import (
	"context"
	"io/fs"
	"iter"

	"github.com/hashike/hashike/internal/feed"
)

// tripwire cancels at the n-th access to a snapshot.
type tripwire struct {
	feed.Content
	left    int
	trip    func()
	tripped bool
	done    bool // Verify has returned
	after   int  // files opened since
}

// watched is a feed whose tripwire is taken away when its Verify has returned.
type watched struct {
	feed.Feed
	wire *tripwire
}

func (f watched) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	defer func() { f.wire.done = true }()
	return f.Feed.Verify(ctx, c, trust, out)
}

func (w *tripwire) step() {
	if w.left--; w.left == -1 && !w.done {
		w.tripped = true
		w.trip()
	}
}

func (w *tripwire) Open(p string) (fs.File, error) {
	if w.tripped {
		w.after++
	}
	w.step()
	return w.Content.Open(p)
}

func (w *tripwire) Lookup(p string) (feed.Artifact, bool) {
	w.step()
	return w.Content.Lookup(p)
}

func (w *tripwire) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for a, err := range w.Content.Artifacts() {
			w.step()
			if !yield(a, err) {
				return
			}
		}
	}
}
