package verifier

import (
	"maps"
	"strings"
	"sync"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Memory keeps good verdicts, so that an unchanged file is not proved twice.
type Memory interface {
	Recall(d feed.Digest, method, epoch string) (feed.Evidence, bool)
	Remember(d feed.Digest, method, epoch string, e feed.Evidence) error
	Flush() error // what was remembered is durable
}

const (
	verdictBucket = "verdicts"
	verdictBatch  = 1000
)

// StateMemory is a Memory in a data directory's database. It reads one epoch's
// verdicts at once and writes in batches, and never holds the database open.
// Safe for concurrent use.
type StateMemory struct {
	db *state.DB

	mu     sync.Mutex
	loaded string // epoch that known belongs to
	known  map[string]feed.Evidence
	fresh  map[string]feed.Evidence
}

// NewMemory returns the memory of db.
func NewMemory(db *state.DB) *StateMemory {
	return &StateMemory{db: db, fresh: map[string]feed.Evidence{}}
}

// verdictKey puts the epoch first: one feed's verdicts are read together, and
// those of an epoch gone by are dropped together.
func verdictKey(d feed.Digest, method, epoch string) string {
	return epoch + "|" + d.Hex() + "|" + method
}

// Recall returns a remembered verdict. An unreadable database remembers nothing.
func (m *StateMemory) Recall(d feed.Digest, method, epoch string) (feed.Evidence, bool) {
	if epoch == "" {
		return feed.Evidence{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || m.loaded != epoch {
		m.load(epoch)
	}
	k := verdictKey(d, method, epoch)
	if e, ok := m.fresh[k]; ok {
		return e, true
	}
	e, ok := m.known[k]
	return e, ok
}

func (m *StateMemory) load(epoch string) {
	m.loaded, m.known = epoch, map[string]feed.Evidence{}
	err := m.db.View(func(tx state.Tx) error {
		for k, decode := range tx.All(verdictBucket, epoch+"|") {
			var e feed.Evidence
			if err := decode(&e); err != nil {
				return err
			}
			m.known[k] = e
		}
		return nil
	})
	if err != nil { // then everything is proved anew
		m.known = map[string]feed.Evidence{}
	}
}

// Remember keeps a verdict; refusals and verdicts without an epoch are not kept.
func (m *StateMemory) Remember(d feed.Digest, method, epoch string, e feed.Evidence) error {
	if epoch == "" || e.Refused != "" {
		return nil
	}
	m.mu.Lock()
	m.fresh[verdictKey(d, method, epoch)] = e
	full := len(m.fresh) >= verdictBatch
	m.mu.Unlock()
	if full {
		return m.Flush()
	}
	return nil
}

// Flush writes what was remembered since.
func (m *StateMemory) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.fresh) == 0 {
		return nil
	}
	err := m.db.Update(func(tx state.Tx) error {
		for k, e := range m.fresh {
			if err := tx.Put(verdictBucket, k, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if m.known == nil {
		m.known, m.loaded = map[string]feed.Evidence{}, ""
	}
	if m.loaded != "" {
		for k, e := range m.fresh {
			if strings.HasPrefix(k, m.loaded+"|") {
				m.known[k] = e
			}
		}
	}
	clear(m.fresh)
	return nil
}

// ForgetVerdicts drops the verdicts on files that keep does not want, and all
// of epochs that are not among live. It returns how many it dropped.
func ForgetVerdicts(tx state.Tx, live []string, keep func(feed.Digest) bool) (int, error) {
	alive := map[string]bool{}
	for _, e := range live {
		alive[e] = true
	}
	gone := map[string]bool{}
	for k := range tx.All(verdictBucket, "") {
		f := strings.SplitN(k, "|", 3)
		if len(f) != 3 || !alive[f[0]] {
			gone[k] = true
		} else if d, err := feed.DigestFromHex(f[1]); err != nil || !keep(d) {
			gone[k] = true
		}
	}
	for k := range maps.Keys(gone) {
		if err := tx.Delete(verdictBucket, k); err != nil {
			return 0, err
		}
	}
	return len(gone), nil
}
