package feedtest

import (
	"io/fs"
	"iter"

	"github.com/hashike/hashike/internal/feed"
)

func (w *tripwire) step() {
	if w.left--; w.left == -1 {
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
