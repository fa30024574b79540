package packager

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// The root role: any two of three keys that never lie on a running machine.
const (
	rootKeys      = 3
	rootThreshold = 2
)

// Validity is how long a bundle may be under way, and its limits; the root's own life.
const (
	DefaultValidity = 45 * 24 * time.Hour
	MinValidity     = 7 * 24 * time.Hour
	MaxValidity     = 400 * 24 * time.Hour
	rootYears       = 5
)

func bundleKeyPath(data state.Dir) string { return filepath.Join(data.Keys(), "bundle.pem") }

func rootPath(dir string, version int64) string {
	return filepath.Join(dir, strconv.FormatInt(version, 10)+".root.json")
}

// HasKeys reports whether this outside has a root of trust.
func HasKeys(data state.Dir) bool {
	_, err := os.Stat(rootPath(data.Trust(), 1))
	return err == nil
}

// CreateKeys makes a new outside's keys and its first root: the bundle key, as
// this system keeps it (Guard), three root keys (ECDSA P-256) for the holders,
// and trust/1.root.json, written last. deliver gets the root keys and must have
// them safely elsewhere when it returns: no file of data ever holds one, and
// they are gone with the process. It refuses to replace a root (ErrConfig); a
// run that was killed is begun anew.
func CreateKeys(data state.Dir, holders []string, now time.Time, deliver func([]RootKey) error) error {
	if HasKeys(data) {
		return fmt.Errorf("%s: this outside has keys already: %w", rootPath(data.Trust(), 1), feed.ErrConfig)
	}
	for _, d := range []string{data.Keys(), data.Trust()} {
		if err := durable.Mkdir(d); err != nil {
			return err
		}
	}
	bundle, err := newBundleKey(data, "")
	if err != nil {
		return err
	}
	root := metadata.Root(now.UTC().Truncate(time.Second).AddDate(rootYears, 0, 0))
	root.Signed.Roles[metadata.ROOT].Threshold = rootThreshold
	var keys []RootKey
	var book []Holder
	for slot := 1; slot <= rootKeys; slot++ {
		k, err := NewRootKey(slot)
		if err != nil {
			return err
		}
		h, err := hold(k, holders, now)
		if err != nil {
			return err
		}
		keys, book = append(keys, k), append(book, h)
		if err := addKey(root, k.sign, metadata.ROOT); err != nil {
			return err
		}
	}
	for _, role := range bundleRoles() {
		if err := addKey(root, bundle, role); err != nil {
			return err
		}
	}
	if err := deliver(keys); err != nil {
		return err
	}
	if err := (custody{Schema: 1}).keep(data, book...); err != nil {
		return err
	}
	return writeRoot(rootPath(data.Trust(), 1), root, signersOf(keys))
}

// hold is the custody book's line for a new root key.
func hold(k RootKey, holders []string, now time.Time) (Holder, error) {
	id, err := k.ID()
	if err == nil && len(holders) != rootKeys {
		err = fmt.Errorf("%d holders for %d root keys: %w", len(holders), rootKeys, feed.ErrConfig)
	}
	if err != nil {
		return Holder{}, err
	}
	return Holder{Slot: k.Slot, Name: holders[k.Slot-1], Key: id, Made: now.UTC().Truncate(time.Second)}, nil
}

func signersOf(keys []RootKey) []signature.Signer {
	var out []signature.Signer
	for _, k := range keys {
		out = append(out, k.sign)
	}
	return out
}

// bundleRoles are the roles the bundle key signs.
func bundleRoles() []string {
	return []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
}

func loadKey(pem []byte, pass cryptoutils.PassFunc) (signature.Signer, error) {
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(pem, pass)
	if err != nil {
		return nil, err
	}
	return signature.LoadSigner(priv, crypto.SHA256)
}

func tufKey(s signature.Signer) (*metadata.Key, string, error) {
	pub, err := s.PublicKey()
	if err != nil {
		return nil, "", err
	}
	k, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	id, err := k.ID()
	return k, id, err
}

func addKey(root *metadata.Metadata[metadata.RootType], s signature.Signer, role string) error {
	k, _, err := tufKey(s)
	if err != nil {
		return err
	}
	return root.Signed.AddKey(k, role)
}

func writeRoot(path string, root *metadata.Metadata[metadata.RootType], signers []signature.Signer) error {
	root.ClearSignatures()
	for _, s := range signers {
		if _, err := root.Sign(s); err != nil {
			return err
		}
	}
	b, err := root.ToBytes(false)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, b)
}

// roots reads the chain of roots in dir, from version 1 on.
func roots(dir string) ([][]byte, error) {
	var out [][]byte
	for v := int64(1); v <= maxRoots; v++ {
		b, err := os.ReadFile(rootPath(dir, v))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, noKeys(fmt.Errorf("%s has no root of trust", dir))
	}
	return out, nil
}

// noKeys is an outside whose keys were not made yet.
func noKeys(err error) error {
	return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-216")
}

// newestRoot reads the last root of an outside's chain.
func newestRoot(data state.Dir) (*metadata.Metadata[metadata.RootType], error) {
	chain, err := roots(data.Trust())
	if err != nil {
		return nil, err
	}
	return trustRoot(chain[len(chain)-1])
}

// KeyExpiry is when the newest root ends and how urgent that is.
type KeyExpiry struct {
	Root    time.Time
	Warning int // 180, 90 or 30: days within which it ends; 0 is none, -1 ended
}

// Expiry reads the newest root of either side.
func Expiry(data state.Dir, db *state.DB, now time.Time) (KeyExpiry, error) {
	dir := data.Trust()
	if side, _, err := db.Identity(); err == nil && side == "inside" {
		a, err := accepted(db)
		if err != nil {
			return KeyExpiry{}, err
		}
		dir = filepath.Join(dir, a.Dir)
	}
	chain, err := roots(dir)
	if err != nil {
		return KeyExpiry{}, err
	}
	root, err := metadata.Root().FromBytes(chain[len(chain)-1])
	if err != nil {
		return KeyExpiry{}, fmt.Errorf("%s: %w: %w", dir, err, feed.ErrDamaged)
	}
	return KeyExpiry{root.Signed.Expires, warning(root.Signed.Expires.Sub(now))}, nil
}

func warning(left time.Duration) int {
	if left < 0 {
		return -1
	}
	for _, days := range []int{30, 90, 180} {
		if left <= time.Duration(days)*24*time.Hour {
			return days
		}
	}
	return 0
}
