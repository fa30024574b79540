package scan

import (
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

const scansBucket = "scans" // digest, hex → remembered

// remembered is one verdict in state.db; short names, there may be half a million.
type remembered struct {
	Result Result `json:"r"`
	Name   string `json:"n,omitempty"`
	Engine string `json:"e"`
	Defs   string `json:"d,omitempty"`
	Date   int64  `json:"t"`           // Unix seconds of the definitions' date; of the scan, if that is unknown
	Guess  bool   `json:"g,omitempty"` // it is unknown
}

func remember(v Verdict, id Identity, now time.Time) remembered {
	m := remembered{Result: v.Result, Name: v.Name, Engine: id.Engine, Defs: id.Definitions, Date: id.Date.Unix(), Guess: id.Date.IsZero()}
	if m.Guess {
		m.Date = now.Unix()
	}
	return m
}

func (m remembered) verdict() Verdict { return Verdict{m.Result, m.Name} }

// date of the definitions; zero if the product did not say.
func (m remembered) date() time.Time {
	if m.Guess {
		return time.Time{}
	}
	return time.Unix(m.Date, 0).UTC()
}

// holds reports whether the verdict still counts for a product that is now id.
// What is not clean counts for the same definitions only, and what was not
// looked at is tried each time: a limit is a setting.
func (m remembered) holds(id Identity, now time.Time, stale time.Duration) bool {
	if m.Engine != id.Engine || m.Result == OverLimit {
		return false
	}
	same := m.Defs == id.Definitions && (m.Guess == id.Date.IsZero()) && (m.Guess || m.Date == id.Date.Unix())
	if m.Result != Clean {
		return same && !m.Guess
	}
	newest := id.Date
	if newest.IsZero() {
		newest = now
	} else if same {
		return true
	}
	return newest.Sub(time.Unix(m.Date, 0)) <= stale
}

// recall reads what is known of these files in one transaction.
func recall(db *state.DB, files []Subject) (map[feed.Digest]remembered, error) {
	out := make(map[feed.Digest]remembered, len(files))
	if len(files) == 0 {
		return out, nil
	}
	err := db.View(func(tx state.Tx) error {
		for _, s := range files {
			var m remembered
			ok, err := tx.Get(scansBucket, s.Digest.Hex(), &m)
			if err != nil {
				return err
			}
			if ok {
				out[s.Digest] = m
			}
		}
		return nil
	})
	return out, err
}

// remember writes the verdicts since the last call.
func (r *run) remember() error {
	if len(r.fresh) == 0 {
		return nil
	}
	err := r.DB.Update(func(tx state.Tx) error {
		for d, m := range r.fresh {
			if err := tx.Put(scansBucket, d.Hex(), m); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		clear(r.fresh)
	}
	return err
}

// Forget drops the verdicts on files that keep does not want and returns how
// many these were.
func Forget(tx state.Tx, keep func(feed.Digest) bool) (int, error) {
	var gone []string
	for k := range tx.All(scansBucket, "") {
		if d, err := feed.DigestFromHex(k); err != nil || !keep(d) {
			gone = append(gone, k)
		}
	}
	for _, k := range gone {
		if err := tx.Delete(scansBucket, k); err != nil {
			return 0, err
		}
	}
	return len(gone), nil
}
