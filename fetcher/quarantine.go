package fetcher

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Refused says why a snapshot lies in quarantine/<feed>/: the note
// <serial>.json beside the document <serial>.jsonl.zst. Its blobs stay in the
// store until gc finds that nothing names them.
type Refused struct {
	Schema int         `json:"schema"` // 1
	Feed   string      `json:"feed"`
	Serial uint64      `json:"serial"`
	ID     feed.Digest `json:"id"`
	Time   time.Time   `json:"time"`
	Code   string      `json:"code,omitempty"`
	Reason string      `json:"reason"`
}

// quarantineKeeps is how many refused snapshots of a feed are kept.
const quarantineKeeps = 20

func (f *Fetcher) quarantineDir(name string) string { return filepath.Join(f.Data.Quarantine(), name) }

// quarantine takes a refused snapshot out of the accepted ones' directory and
// records why. The note comes first: a refused document is never without it.
func (f *Fetcher) quarantine(name string, snap *cas.Snapshot, cause error) error {
	h, dir := snap.Header(), f.quarantineDir(name)
	if err := durable.Mkdir(dir); err != nil {
		return err
	}
	note := Refused{
		Schema: 1, Feed: name, Serial: h.Serial, ID: snap.ID(), Time: f.Clock().UTC().Truncate(time.Second),
		Code: code(cause), Reason: clip(cause.Error(), 4000),
	}
	b, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return err
	}
	base := filepath.Join(dir, strconv.FormatUint(h.Serial, 10))
	if err := durable.WriteFile(base+".json", append(b, '\n')); err != nil {
		return full(err)
	}
	durable.Step("before quarantine move")
	if err := os.Rename(f.Store.SnapshotPath(name, h.Serial), base+".jsonl.zst"); err != nil {
		return err
	}
	durable.Step("after quarantine move")
	err = errors.Join(durable.SyncDir(dir), f.Store.DeleteSnapshot(name, h.Serial))
	// What the verifier wrote about it explains the refusal: it moves along.
	if rerr := os.Rename(f.Data.Evidence(name, h.Serial, "outside"), base+".evidence.jsonl.zst"); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	uerr := f.DB.Update(func(tx state.Tx) error {
		return tx.Audit(f.record(tx, "refused "+note.Code+" "+clip(cause.Error(), 500), map[string]string{
			"feed": name, "serial": strconv.FormatUint(h.Serial, 10), "snapshot": string(snap.ID()),
		}))
	})
	// The next run must not believe what led here.
	f.clearPartial(name)
	f.pruneQuarantine(name)
	return errors.Join(err, uerr)
}

// quarantined lists the serials of a feed's refused snapshots, oldest first.
func (f *Fetcher) quarantined(name string) []uint64 {
	ents, err := os.ReadDir(f.quarantineDir(name))
	if err != nil {
		return nil
	}
	var out []uint64
	for _, e := range ents {
		if base, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (f *Fetcher) pruneQuarantine(name string) {
	all := f.quarantined(name)
	for len(all) > quarantineKeeps {
		base := filepath.Join(f.quarantineDir(name), strconv.FormatUint(all[0], 10))
		for _, ext := range []string{".jsonl.zst", ".evidence.jsonl.zst", ".json"} {
			durable.Remove(base + ext)
		}
		all = all[1:]
	}
}
