package packager

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// minPassphrase is the least length of an approver's passphrase, in bytes.
const minPassphrase = 8

// NewApproverKey makes an approver's key (ECDSA P-256): the private half
// encrypted with a passphrase that only the approver knows, and the public
// half for Change.Approvers, both PEM.
func NewApproverKey(pass string) (private, public []byte, err error) {
	if len(pass) < minPassphrase {
		return nil, nil, feed.NewFault(fmt.Errorf("a passphrase of at least %d characters: %w", minPassphrase, feed.ErrConfig), "H-223", "count", strconv.Itoa(minPassphrase))
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if private, err = sealPEM(priv, cryptoutils.StaticPasswordFunc([]byte(pass))); err != nil {
		return nil, nil, err
	}
	public, err = cryptoutils.MarshalPublicKeyToPEM(priv.Public())
	return private, public, err
}

// LoadApproverKey opens an approver's key. A wrong passphrase is H-514.
func LoadApproverKey(private []byte, pass string) (signature.Signer, error) {
	s, err := loadKey(private, cryptoutils.StaticPasswordFunc([]byte(pass)))
	if err != nil {
		return nil, feed.NewFault(fmt.Errorf("approver key: %w", errors.Join(err, feed.ErrConfig)), "H-514", "detail", err.Error())
	}
	return s, nil
}

// approval is an approver's signature of one bundle's targets metadata, in a
// file of its own: approval-<number>.json beside the set, or on any other
// medium (docs/bundle.md §3). It names a key, no person.
type approval struct {
	Schema    int         `json:"schema"`
	Format    string      `json:"format"` // "hashike-approval"
	Number    uint64      `json:"number"`
	Set       feed.Digest `json:"set"`
	Version   int64       `json:"version"`
	Key       string      `json:"key"` // TUF key id
	Signature []byte      `json:"signature"`
}

const (
	approvalFormat = "hashike-approval"
	maxApproval    = 4096
	maxApprovals   = 1000 // files looked at on one medium
	// bucketApprovals of state.db, inside: number → approvals of an accepted set,
	// for when its medium comes again without them.
	bucketApprovals = "countersigned"
)

var approvalFile = regexp.MustCompile(`^approval-([1-9][0-9]{0,4})\.json$`)

func approvalName(number uint64) string {
	return "approval-" + strconv.FormatUint(number, 10) + ".json"
}

func parseApproval(b []byte) (approval, error) {
	var a approval
	if err := strict(b, &a); err != nil {
		return a, err
	}
	if a.Schema != 1 || a.Format != approvalFormat || a.Number == 0 || a.Number > MaxNumber || a.Version < 1 || a.Key == "" || len(a.Signature) == 0 {
		return a, fmt.Errorf("not an approval of this version: %w", feed.ErrDamaged)
	}
	return a, nil
}

// badApproval is the fault of an approval that does not hold.
func badApproval(number uint64, why string) error {
	return feed.NewFault(fmt.Errorf("%s: %s: %w", approvalName(number), why, feed.ErrUntrusted), "H-515", "number", strconv.FormatUint(number, 10), "detail", why)
}

// approvalsIn reads the approval files of one bundle in these directories, and
// says whether a directory holds any approval at all.
func approvalsIn(dir string, number uint64) (of []approval, any bool, err error) {
	m, err := openPlain(dir) // an approval keeps its name beside files that lost theirs
	if err != nil {
		return nil, false, nil // whoever opens it as a volume says why
	}
	defer m.close()
	ents, err := m.top()
	if err != nil {
		return nil, false, unreadable(dir, err)
	}
	seen := 0
	for _, e := range ents {
		g := approvalFile.FindStringSubmatch(e.Name())
		if g == nil || !e.Type().IsRegular() {
			continue
		}
		if seen++; seen > maxApprovals {
			return of, any, unreadable(dir, fmt.Errorf("more than %d approvals", maxApprovals))
		}
		any = true
		if g[1] != strconv.FormatUint(number, 10) {
			continue
		}
		raw, err := m.read(e.Name(), maxApproval)
		if err != nil {
			return of, any, err
		}
		a, err := parseApproval(raw)
		if err != nil {
			return of, any, badApproval(number, err.Error())
		}
		if a.Number != number {
			return of, any, badApproval(number, fmt.Sprintf("it approves bundle %d", a.Number))
		}
		of = append(of, a)
	}
	return of, any, nil
}

// bundleSigned reports whether one of the bundle keys of the root signed m.
func bundleSigned(root *metadata.Metadata[metadata.RootType], m *metadata.Metadata[metadata.TargetsType]) bool {
	return slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool {
		return slices.Contains(root.Signed.Roles[metadata.TIMESTAMP].KeyIDs, s.KeyID)
	})
}

// countersigned adds approvals to targets metadata of a medium. Those of the
// medium must hold; those remembered from before may have been overtaken by a
// rotation. unapproved is true if signatures are missing but the bundle key's
// is there: an approver's alone are never enough.
func countersigned(root *metadata.Metadata[metadata.RootType], name string, raw []byte, given, known []approval) (out []byte, unapproved bool, err error) {
	m, err := metadata.Targets().FromBytes(raw)
	if err != nil {
		return nil, false, untrusted(name, err)
	}
	if err := exact(name, root, metadata.TARGETS, m, raw); err != nil {
		return nil, false, err
	}
	if !bundleSigned(root, m) {
		return nil, false, untrusted(name, errors.New("is not signed by the bundle key"))
	}
	for _, a := range given {
		if err := a.onto(root, m); err != nil {
			return nil, false, badApproval(a.Number, err.Error())
		}
	}
	for _, a := range known {
		a.onto(root, m) // what does not hold any more does not count
	}
	out, err = m.ToBytes(false)
	return out, len(m.Signatures) < root.Signed.Roles[metadata.TARGETS].Threshold, err
}

// onto adds the approval's signature to m, if it holds for exactly that.
func (a approval) onto(root *metadata.Metadata[metadata.RootType], m *metadata.Metadata[metadata.TargetsType]) error {
	set := m.Signed.Targets[nameSet]
	switch {
	case a.Version != m.Signed.Version || set == nil || hex.EncodeToString(set.Hashes["sha256"]) != a.Set.Hex():
		return errors.New("it approves another set")
	case slices.Contains(root.Signed.Roles[metadata.TIMESTAMP].KeyIDs, a.Key):
		return errors.New("the bundle key cannot approve what it signed")
	case !slices.Contains(root.Signed.Roles[metadata.TARGETS].KeyIDs, a.Key):
		return errors.New("its key is not an approver's")
	case slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == a.Key }):
		return nil
	}
	with := *m
	with.Signatures = append(slices.Clone(m.Signatures), metadata.Signature{KeyID: a.Key, Signature: a.Signature})
	raw, err := with.ToBytes(false)
	if err == nil {
		err = exact(nameSet, root, metadata.TARGETS, &with, raw)
	}
	if err != nil {
		return errors.New("its signature does not hold")
	}
	m.Signatures = with.Signatures
	return nil
}

// ToApprove is what an approver looks at before signing.
type ToApprove struct {
	Set    Set
	ID     feed.Digest
	Packed Packed // as this outside remembers it; Operator is who packed
	Orders []feed.Order
	raw    []byte // of the targets metadata
	dirs   []string
}

// LookAtBundle reads a bundle of this outside from its media for an approver,
// and checks that the bundle key signed what is there. ErrUntrusted if not;
// ErrConfig if this outside did not make it.
func LookAtBundle(db *state.DB, dirs []string) (ToApprove, error) {
	t := ToApprove{dirs: volumesIn(dirs)}
	root, err := newestRoot(db.Dir())
	if err != nil {
		return t, err
	}
	for i, dir := range t.dirs {
		one, err := lookAt(root, dir)
		if err != nil {
			return t, err
		}
		if i > 0 && one.ID != t.ID {
			return t, fmt.Errorf("%s holds another set than %s: %w", dir, t.dirs[0], feed.ErrConfig)
		}
		one.dirs = t.dirs
		t = one
	}
	if len(t.dirs) == 0 {
		return t, fmt.Errorf("no medium named: %w", feed.ErrConfig)
	}
	err = db.View(func(tx state.Tx) error {
		var ok bool
		var err error
		if t.Packed, ok, err = PackedAs(tx, t.Set.Number); err == nil && (!ok || t.Packed.Set != t.ID) {
			err = fmt.Errorf("bundle %d was not made by this outside: %w", t.Set.Number, feed.ErrConfig)
		}
		return err
	})
	return t, err
}

func lookAt(root *metadata.Metadata[metadata.RootType], dir string) (t ToApprove, err error) {
	m, err := openMedium(dir)
	if err != nil {
		return t, err
	}
	defer m.close()
	raw, err := m.readSet()
	if err != nil {
		return t, err
	}
	if t.Set, err = parseSet(raw); err != nil {
		return t, unreadable(nameSet, err)
	}
	t.ID = feed.DigestOf(raw)
	name := targetsName(t.Set.Version)
	if t.raw, err = m.read(name, maxMetadata); err != nil {
		return t, err
	}
	targets, err := metadata.Targets().FromBytes(t.raw)
	if err != nil {
		return t, untrusted(name, err)
	}
	if err := exact(name, root, metadata.TARGETS, targets, t.raw); err != nil {
		return t, err
	}
	orders, err := m.read(nameOrders, maxOrders)
	if err != nil {
		return t, err
	}
	for file, b := range map[string][]byte{nameSet: raw, nameOrders: orders} {
		f := targets.Signed.Targets[file]
		if f == nil || f.VerifyLengthHashes(b) != nil || !bundleSigned(root, targets) {
			return t, untrusted(file, errors.New("is not what the bundle key signed"))
		}
	}
	list, err := readOrders(bytes.NewReader(orders), t.Set.Orders.Lines)
	for _, o := range list {
		t.Orders = append(t.Orders, o.Order)
	}
	return t, err
}

// Approve signs a bundle with an approver's key and writes approval-N.json
// beside the set on every volume named, and to outbox/, from where any other
// medium may carry it. H-644 if who packed it, H-515 if the key is no
// approver's of the newest root.
func Approve(db *state.DB, t ToApprove, key signature.Signer, who string, now time.Time) (string, error) {
	if t.Packed.Operator == who {
		return "", ownWork(who)
	}
	root, err := newestRoot(db.Dir())
	if err != nil {
		return "", err
	}
	m, err := metadata.Targets().FromBytes(t.raw)
	if err != nil {
		return "", untrusted(targetsName(t.Set.Version), err)
	}
	m.ClearSignatures()
	sig, err := m.Sign(key)
	if err != nil {
		return "", err
	}
	a := approval{Schema: 1, Format: approvalFormat, Number: t.Set.Number, Set: t.ID, Version: t.Set.Version, Key: sig.KeyID, Signature: sig.Signature}
	bundle, err := metadata.Targets().FromBytes(t.raw)
	if err == nil {
		err = a.onto(root, bundle)
	}
	if err != nil {
		return "", badApproval(a.Number, err.Error())
	}
	b, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	to := filepath.Join(db.Dir().Outbox(), approvalName(a.Number))
	if err := durable.Mkdir(db.Dir().Outbox()); err != nil {
		return "", err
	}
	for _, path := range append([]string{to}, beside(t.dirs, a.Number)...) {
		if err := durable.WriteFile(path, b); err != nil {
			return "", err
		}
	}
	return to, db.Update(func(tx state.Tx) error {
		return tx.Audit(state.Record{Time: now, Who: who, What: "approve bundle", Result: "ok", Detail: map[string]string{
			"bundle": strconv.FormatUint(a.Number, 10), "set": string(a.Set), "key": a.Key, "operator": t.Packed.Operator}})
	})
}

func beside(dirs []string, number uint64) (out []string) {
	for _, d := range dirs {
		out = append(out, filepath.Join(d, approvalName(number)))
	}
	return out
}

func ownWork(who string) error {
	return feed.NewFault(fmt.Errorf("%s may not approve what they made: %w", who, feed.ErrHeld), "H-644", "name", who)
}

// ApproveOrder adds an approver's signature to an order that waits for it.
// H-644 if who issued it, H-515 if the key is no approver's.
func ApproveOrder(db *state.DB, number uint64, key signature.Signer, who string, now time.Time) (feed.Order, error) {
	root, err := newestRoot(db.Dir())
	if err != nil {
		return feed.Order{}, err
	}
	var o SignedOrder
	var issuer string
	err = db.Update(func(tx state.Tx) error {
		all, err := ordersUnder(tx, root.Signed.Version)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(s SignedOrder) bool { return s.Number == number })
		if i < 0 {
			return feed.NewFault(fmt.Errorf("order %d: %w", number, feed.ErrConfig), "H-205", "name", strconv.FormatUint(number, 10))
		}
		if _, err := tx.Get(bucketIssued, numberKey(number), &issuer); err != nil {
			return err
		}
		if o = all[i]; issuer == who {
			return ownWork(who)
		}
		if err := signNew(db.Dir(), all[i:i+1]); err != nil {
			return err
		}
		o = all[i]
		if err := o.add(key); err != nil {
			return err
		}
		if err := o.allowed(root); err != nil {
			return feed.NewFault(fmt.Errorf("order %d: %w", number, err), "H-515", "number", strconv.FormatUint(number, 10), "detail", err.Error())
		}
		if err := o.put(tx, root.Signed.Version); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, Who: who, What: "approve order", Result: "ok", Detail: map[string]string{"order": strconv.FormatUint(number, 10), "operator": issuer}})
	})
	return o.Order, err
}

// WaitingOrders lists the orders that wait for an approver.
func WaitingOrders(db *state.DB, now time.Time) ([]feed.Order, error) {
	root, err := newestRoot(db.Dir())
	if errors.Is(err, feed.ErrConfig) {
		return nil, nil // no keys yet
	}
	if err != nil {
		return nil, err
	}
	var out []feed.Order
	err = db.View(func(tx state.Tx) error {
		all, err := ordersUnder(tx, root.Signed.Version)
		_, waiting := travelling(all, root, now)
		for _, o := range all {
			if slices.Contains(waiting, o.Number) {
				out = append(out, o.Order)
			}
		}
		return err
	})
	return out, err
}
