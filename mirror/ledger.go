package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/klauspost/compress/zstd"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// ledger is serve's own book of what terminals report: terminals.db, held by
// one server, written in batches. It may lose seconds with the machine and is
// never a condition for serving.
type ledger struct {
	db   *bolt.DB
	path string // of the copy
	log  *slog.Logger

	mu      sync.Mutex
	seen    map[sighted]feed.Sighting // not yet written
	dropped uint64
	dirty   bool // the copy is behind the database
	copied  time.Time

	records records
}

// sighted is what one terminal did with one thing: the newest of equal ones counts.
type sighted struct{ feed, event, path, terminal string }

func (k sighted) bytes() []byte {
	return []byte(k.feed + "\x00" + k.event + "\x00" + k.path + "\x00" + k.terminal)
}

// Bounds: terminals choose their own ids and versions.
const (
	maxPending = 50_000
	maxText    = 512
)

func sightingsPath(data state.Dir) string {
	return filepath.Join(string(data), "terminals.jsonl.zst")
}

func openLedger(data state.Dir, log *slog.Logger) (*ledger, error) {
	db, err := bolt.Open(data.Terminals(), 0o600, &bolt.Options{Timeout: 300 * time.Millisecond, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		err = fmt.Errorf("%s: another server uses this data directory: %w", data, state.ErrBusy)
		return nil, feed.NewFault(err, "H-226", "detail", string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", data.Terminals(), err, feed.ErrDamaged)
	}
	return &ledger{db: db, path: sightingsPath(data), log: log, seen: map[sighted]feed.Sighting{},
		records: records{pending: map[string]*feed.Terminal{}}}, nil
}

// Saw notes a sighting; it costs a map entry.
func (l *ledger) Saw(s feed.Sighting) {
	if len(s.Feed) > maxText || len(s.Event) > maxText || len(s.Terminal) > maxText || len(s.Name) > maxText || len(s.Version) > maxText || len(s.Path) > feed.MaxPath {
		return
	}
	k := sighted{s.Feed, s.Event, s.Path, s.Terminal}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.seen[k]; !known && len(l.seen) >= maxPending {
		l.dropped++
		return
	}
	l.seen[k] = s
}

func (l *ledger) losses() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// flush writes what is pending in one transaction.
func (l *ledger) flush() error {
	return errors.Join(l.flushSeen(), l.flushTerminals())
}

func (l *ledger) flushSeen() error {
	l.mu.Lock()
	seen := l.seen
	if len(seen) == 0 {
		l.mu.Unlock()
		return nil
	}
	l.seen = map[sighted]feed.Sighting{}
	l.mu.Unlock()
	err := l.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("seen"))
		if err != nil {
			return err
		}
		for k, s := range seen {
			raw, err := json.Marshal(s)
			if err == nil {
				err = b.Put(k.bytes(), raw)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil { // a full disk: serving goes on, the batch is lost
		l.dropped += uint64(len(seen))
		return err
	}
	l.dirty = true
	return nil
}

// copyOut writes terminals.jsonl.zst and forgets what is older than 13 months,
// if anything changed, and once a day.
func (l *ledger) copyOut(now time.Time) error {
	l.mu.Lock()
	idle := !l.dirty && now.Sub(l.copied) < day
	if !idle {
		l.dirty, l.copied = false, now
	}
	l.mu.Unlock()
	if idle {
		return nil
	}
	var old, gone [][]byte
	err := durable.WriteFrom(l.path, func(w io.Writer) error {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			return err
		}
		err = l.db.View(func(tx *bolt.Tx) (err error) {
			if gone, err = copyTerminals(tx, now, z); err != nil {
				return err
			}
			b := tx.Bucket([]byte("seen"))
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, raw []byte) error {
				var s feed.Sighting
				if json.Unmarshal(raw, &s) != nil || s.Time.Before(kept(now)) {
					old = append(old, append([]byte(nil), k...))
					return nil
				}
				_, err := z.Write(append(raw[:len(raw):len(raw)], '\n'))
				return err
			})
		})
		return errors.Join(err, z.Close())
	})
	if err != nil || len(old)+len(gone) == 0 {
		return err
	}
	return l.db.Update(func(tx *bolt.Tx) error {
		for _, k := range old {
			if err := tx.Bucket([]byte("seen")).Delete(k); err != nil {
				return err
			}
		}
		for _, k := range gone {
			if err := tx.Bucket(terminalsBucket).Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// run writes batches every few seconds and the copy every minute, until ctx ends.
func (l *ledger) run(ctx context.Context, clock func() time.Time) {
	batch, minute := time.NewTicker(5*time.Second), time.NewTicker(time.Minute)
	defer batch.Stop()
	defer minute.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-batch.C:
			err = l.flush()
		case <-minute.C:
			err = l.copyOut(clock())
		}
		if err != nil {
			l.log.Error("ledger of terminals", "error", err)
		}
	}
}

func (l *ledger) close(now time.Time) error {
	return errors.Join(l.flush(), l.copyOut(now), l.db.Close())
}

// Sightings reads the copy that the server leaves of its ledger: at most a
// minute old. No file is no sighting.
func Sightings(data state.Dir) iter.Seq2[feed.Sighting, error] {
	return func(yield func(feed.Sighting, error) bool) {
		if _, err := os.Stat(sightingsPath(data)); errors.Is(err, fs.ErrNotExist) {
			return
		}
		for line, err := range linesUpTo(sightingsPath(data), maxTerminal+64) {
			var s feed.Sighting
			if err == nil {
				if err = json.Unmarshal(line, &s); err != nil {
					err = fmt.Errorf("%s: %w: %w", sightingsPath(data), err, feed.ErrDamaged)
				} else if s.Event == "" {
					continue // a terminal's record
				}
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}
