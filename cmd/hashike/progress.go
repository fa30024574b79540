package main

import (
	"sync"

	"github.com/schollz/progressbar/v3"

	"github.com/hashike/hashike/fetcher"
)

// bars shows progress on a terminal and is silent everywhere else.
type bars struct {
	mu    sync.Mutex
	app   *app
	on    bool
	bar   *progressbar.ProgressBar
	label string
	last  map[string]int64
}

func (a *app) progress() *bars { return &bars{app: a, on: a.terminal(), last: map[string]int64{}} }

func (b *bars) show(label string, total int64) {
	if b.bar != nil && b.label == label {
		return
	}
	if b.bar != nil {
		b.bar.Finish()
	}
	b.label = label
	b.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.app.err), progressbar.OptionSetDescription(label),
		progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100e6), progressbar.OptionSetWidth(30))
}

// fetch follows the fetcher: one bar a feed, counting bytes over all its files.
func (b *bars) fetch(e fetcher.Event) {
	if !b.on {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.show(b.app.cat.T("stage."+e.Stage)+" "+e.Feed, -1)
	if e.Stage == "load" {
		key := e.Feed + " " + e.Name
		b.bar.Add64(e.Done - b.last[key])
		b.last[key] = e.Done
	}
}

// step follows an operation with a known total of bytes.
func (b *bars) step(label string, done, total int64) {
	if !b.on {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.show(label, max(total, 1))
	b.bar.Set64(min(done, max(total, 1)))
}

func (b *bars) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		b.bar.Finish()
		b.bar = nil
	}
}
