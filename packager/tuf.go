package packager

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/hashike/hashike/internal/feed"
)

// signBundle makes the TUF metadata of one bundle: timestamp → snapshot →
// targets → {set.json, orders.jsonl}. snapshot.json names targets by version
// only, so that an approval can add a signature (DESIGN §5).
func signBundle(key signature.Signer, version int64, expires time.Time, set, orders []byte) (map[string][]byte, error) {
	targets := metadata.Targets(expires)
	targets.Signed.Version = version
	for name, b := range map[string][]byte{nameSet: set, nameOrders: orders} {
		t, err := metadata.TargetFile().FromBytes(name, b, "sha256")
		if err != nil {
			return nil, err
		}
		targets.Signed.Targets[name] = t
	}
	snapshot := metadata.Snapshot(expires)
	snapshot.Signed.Version = version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	stamp := metadata.Timestamp(expires)
	stamp.Signed.Version = version

	out := map[string][]byte{}
	var err error
	if out[targetsName(version)], err = signed(targets, key); err != nil {
		return nil, err
	}
	b, err := signed(snapshot, key)
	if err != nil {
		return nil, err
	}
	out[snapshotName(version)] = b
	meta := metadata.MetaFile(version)
	meta.Length = int64(len(b))
	meta.Hashes = metadata.Hashes{"sha256": feed.DigestOf(b).Sum()}
	stamp.Signed.Meta["snapshot.json"] = meta
	out[nameTime], err = signed(stamp, key)
	return out, err
}

func signed[T metadata.Roles](m *metadata.Metadata[T], key signature.Signer) ([]byte, error) {
	if _, err := m.Sign(key); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}

func rootName(v int64) string     { return dirTUF + "/" + strconv.FormatInt(v, 10) + ".root.json" }
func snapshotName(v int64) string { return dirTUF + "/" + strconv.FormatInt(v, 10) + ".snapshot.json" }
func targetsName(v int64) string  { return dirTUF + "/" + strconv.FormatInt(v, 10) + ".targets.json" }

// Standing is where a set stands against the one accepted last.
type Standing int

const (
	Newer Standing = iota // moves the state
	Same                  // repeats it
	Older                 // only brings blobs the accepted state still lacks
)

func (s Standing) String() string { return [...]string{"newer", "same", "older"}[s] }

// trusted is what the inside accepted last.
type trusted struct {
	roots     [][]byte // version 1 on
	timestamp []byte   // nil before the first bundle
	snapshot  []byte
	targets   []byte
}

// judged is metadata that passed the workflow.
type judged struct {
	trusted
	standing Standing
	rotated  bool // the bundle key changed: stored versions are discarded
	version  int64
	expires  time.Time // the earliest of the four roles'
	targetsM *metadata.Metadata[metadata.TargetsType]
	// unapproved: the bundle key signed it, an approver is still to.
	unapproved bool
	threshold  int // of targets, in the newest root
}

// approvals are those that lie on the media, which must hold, and those known
// from when the set was accepted.
type approvals struct{ given, known []approval }

// load reads one file of the medium; fs.ErrNotExist if it is not there.
type load func(name string) ([]byte, error)

// judge runs the TUF client workflow (specification 1.0.31, §5.3–5.6) from the
// accepted metadata over a medium's. Expiry is left to the caller: every other
// rule is kept, and the earliest expiry is reported. A set that is not newer
// is checked by its signatures and thresholds under the current root alone.
func judge(have trusted, load load, ap approvals) (j judged, err error) {
	defer func() {
		if r := recover(); r != nil { // go-tuf dereferences what JSON may leave nil
			err = fmt.Errorf("bundle metadata: %v: %w", r, feed.ErrUntrusted)
		}
	}()
	old, err := trustRoot(have.roots[len(have.roots)-1])
	if err != nil {
		return j, err
	}
	j.roots, err = judgeRoots(have.roots, load)
	if err != nil {
		return j, err
	}
	root, err := trustRoot(j.roots[len(j.roots)-1])
	if err != nil {
		return j, err
	}
	j.threshold = root.Signed.Roles[metadata.TARGETS].Threshold
	j.rotated = len(j.roots) > len(have.roots) && changed(old, root)
	if have.timestamp == nil || j.rotated {
		have.timestamp, have.snapshot = nil, nil
	}
	if j.timestamp, err = load(nameTime); err != nil {
		return j, err
	}
	tm, err := begin(j.roots, have.timestamp)
	if err != nil {
		return j, err
	}
	if j.standing, err = stand(tm, j.timestamp, have.timestamp); err != nil {
		return j, err
	}
	if j.standing != Newer { // the gate for blobs
		if tm, err = begin(j.roots, nil); err != nil {
			return j, err
		}
		if _, err := tm.UpdateTimestamp(j.timestamp); err != nil {
			return j, untrusted(nameTime, err)
		}
	} else if have.snapshot != nil {
		// Errors for not fitting the new timestamp; loaded all the same, for
		// the comparison with the new one.
		if _, err := tm.UpdateSnapshot(have.snapshot, true); tm.Snapshot == nil {
			return j, fmt.Errorf("stored snapshot metadata: %w: %w", err, feed.ErrDamaged)
		}
	}
	return j, j.finish(tm, load, ap)
}

// begin returns a workflow under the last root, with the stored timestamp loaded.
func begin(roots [][]byte, stored []byte) (*trustedmetadata.TrustedMetadata, error) {
	tm, err := trustedmetadata.New(roots[len(roots)-1])
	if err != nil {
		return nil, untrusted("root", err)
	}
	tm.RefTime = time.Time{} // nothing is expired at the beginning of time
	if stored == nil {
		return tm, nil
	}
	if _, err := tm.UpdateTimestamp(stored); err != nil {
		return nil, fmt.Errorf("stored timestamp metadata: %w: %w", err, feed.ErrDamaged)
	}
	return tm, nil
}

// stand offers the medium's timestamp and says where it stands.
func stand(tm *trustedmetadata.TrustedMetadata, stamp, stored []byte) (Standing, error) {
	_, err := tm.UpdateTimestamp(stamp)
	var equal *metadata.ErrEqualVersionNumber
	var bad *metadata.ErrBadVersionNumber
	switch {
	case err == nil:
		return Newer, nil
	case errors.As(err, &equal) && bytes.Equal(stamp, stored):
		return Same, nil
	case errors.As(err, &equal):
		return Same, feed.NewFault(fmt.Errorf("two bundles with one version: %w", feed.ErrUntrusted), "H-506")
	case errors.As(err, &bad):
		return Older, nil
	}
	return Older, untrusted(nameTime, err)
}

// finish loads snapshot and targets under the loaded timestamp.
func (j *judged) finish(tm *trustedmetadata.TrustedMetadata, load load, ap approvals) error {
	meta := tm.Timestamp.Signed.Meta["snapshot.json"]
	if meta == nil || len(tm.Timestamp.Signed.Meta) != 1 {
		return untrusted(nameTime, errors.New("does not name the snapshot"))
	}
	name := snapshotName(meta.Version)
	var err error
	if j.snapshot, err = load(name); err != nil {
		return err
	}
	if _, err = tm.UpdateSnapshot(j.snapshot, false); err != nil {
		return untrusted(name, err)
	}
	meta = tm.Snapshot.Signed.Meta["targets.json"]
	if meta == nil || len(tm.Snapshot.Signed.Meta) != 1 {
		return untrusted(name, errors.New("does not name the targets"))
	}
	name = targetsName(meta.Version)
	if j.targets, err = load(name); err != nil {
		return err
	}
	if j.targets, j.unapproved, err = countersigned(tm.Root, name, j.targets, ap.given, ap.known); err != nil {
		return err
	}
	if j.unapproved { // judged by the bundle key alone, to be held
		tm.Root = withThreshold(tm.Root, metadata.TARGETS, 1)
	}
	if j.targetsM, err = tm.UpdateTargets(j.targets); err != nil {
		return untrusted(name, err)
	}
	j.version = tm.Timestamp.Signed.Version
	if tm.Snapshot.Signed.Version != j.version || j.targetsM.Signed.Version != j.version {
		return untrusted(name, errors.New("the roles have different versions"))
	}
	j.expires = earliest(tm.Root.Signed.Expires, tm.Timestamp.Signed.Expires, tm.Snapshot.Signed.Expires, j.targetsM.Signed.Expires)
	return errors.Join(
		exact(nameTime, tm.Root, metadata.TIMESTAMP, tm.Timestamp, j.timestamp),
		exact(name, tm.Root, metadata.SNAPSHOT, tm.Snapshot, j.snapshot),
		exact(name, tm.Root, metadata.TARGETS, j.targetsM, j.targets))
}

func earliest(t ...time.Time) time.Time { return slices.MinFunc(t, time.Time.Compare) }

// judgeRoots follows the chain of roots. Those the inside knows must be on the
// medium byte for byte, from version 1 on; newer ones must each be signed by
// the one before and by themselves.
func judgeRoots(known [][]byte, load load) ([][]byte, error) {
	tm, err := trustedmetadata.New(known[len(known)-1])
	if err != nil {
		return nil, fmt.Errorf("stored root: %w: %w", err, feed.ErrDamaged)
	}
	chain := slices.Clone(known)
	for v := 1; v <= maxRoots; v++ {
		name := rootName(int64(v))
		b, err := load(name)
		if errors.Is(err, fs.ErrNotExist) && v > 1 {
			return chain, nil
		}
		if err != nil {
			return nil, err
		}
		if v <= len(known) {
			if !bytes.Equal(b, known[v-1]) {
				return nil, untrusted(name, errors.New("is not the root this inside knows"))
			}
			continue
		}
		prev := tm.Root
		next, err := tm.UpdateRoot(b)
		if err != nil {
			return nil, untrusted(name, err)
		}
		if err := exactRoot(name, prev, next, b); err != nil {
			return nil, err
		}
		chain = append(chain, b)
	}
	return chain, nil
}

// trustRoot parses a root that was followed or paired before and verifies its
// own threshold. Signatures of its predecessor's keys beside them are of no
// concern here: judgeRoots looked at every one.
func trustRoot(b []byte) (_ *metadata.Metadata[metadata.RootType], err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("root: %v: %w", r, feed.ErrUntrusted)
		}
	}()
	tm, err := trustedmetadata.New(b)
	if err != nil {
		return nil, untrusted("root", err)
	}
	return tm.Root, nil
}

// changed reports whether the keys that date a bundle differ (TUF §5.3.11). An
// approver who comes or goes is no reason to forget versions: older bundles
// would be news again.
func changed(a, b *metadata.Metadata[metadata.RootType]) bool {
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		x, y := slices.Sorted(slices.Values(a.Signed.Roles[role].KeyIDs)), slices.Sorted(slices.Values(b.Signed.Roles[role].KeyIDs))
		if !slices.Equal(x, y) {
			return true
		}
	}
	return false
}

// exact requires that the file has our own spelling and that every signature
// in it holds, not only a threshold of them: no bit of it is free.
func exact[T metadata.Roles](name string, root *metadata.Metadata[metadata.RootType], role string, m *metadata.Metadata[T], raw []byte) error {
	again, err := m.ToBytes(false)
	if err != nil || !bytes.Equal(again, raw) {
		return untrusted(name, errors.New("is not in canonical form"))
	}
	if err := withThreshold(root, role, len(m.Signatures)).VerifyDelegate(role, m); err != nil {
		return untrusted(name, err)
	}
	return nil
}

// withThreshold is the root with another threshold for one role.
func withThreshold(root *metadata.Metadata[metadata.RootType], role string, n int) *metadata.Metadata[metadata.RootType] {
	all := *root
	all.Signed.Roles = maps.Clone(root.Signed.Roles)
	all.Signed.Roles[role] = &metadata.Role{KeyIDs: root.Signed.Roles[role].KeyIDs, Threshold: n}
	return &all
}

// exactRoot is exact for a root: its signers are its own and its predecessor's root keys.
func exactRoot(name string, prev, next *metadata.Metadata[metadata.RootType], raw []byte) error {
	both := *next
	both.Signed.Keys = maps.Clone(next.Signed.Keys)
	maps.Copy(both.Signed.Keys, prev.Signed.Keys)
	ids := slices.Concat(next.Signed.Roles[metadata.ROOT].KeyIDs, prev.Signed.Roles[metadata.ROOT].KeyIDs)
	slices.Sort(ids)
	both.Signed.Roles = maps.Clone(next.Signed.Roles)
	both.Signed.Roles[metadata.ROOT] = &metadata.Role{KeyIDs: slices.Compact(ids)}
	return exact(name, &both, metadata.ROOT, next, raw)
}

func untrusted(name string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w: %w", name, err, feed.ErrUntrusted), "H-501", "file", name)
}
