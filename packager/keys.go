package packager

import (
	"crypto"
	"crypto/elliptic"
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

// BundleKey is where the bundle key lies.
func BundleKey(data state.Dir) string { return bundleKeyPath(data) }

func bundleKeyPath(data state.Dir) string { return filepath.Join(data.Keys(), "bundle.pem") }

// OfflineDir holds the three root keys until they are put into envelopes.
func OfflineDir(data state.Dir) string { return filepath.Join(data.Keys(), "offline") }

func rootPath(dir string, version int64) string {
	return filepath.Join(dir, strconv.FormatInt(version, 10)+".root.json")
}

// CreateKeys makes a new outside's keys and its first root: keys/bundle.pem,
// keys/offline/root-{1,2,3}.pem (ECDSA P-256, PKCS #8, 0600) and
// trust/1.root.json, written last. It refuses to replace a root (ErrConfig); a
// run that was killed is begun anew.
func CreateKeys(data state.Dir, now time.Time) error {
	first := rootPath(data.Trust(), 1)
	if _, err := os.Stat(first); err == nil {
		return fmt.Errorf("%s: this outside has keys already: %w", first, feed.ErrConfig)
	}
	for _, d := range []string{data.Keys(), OfflineDir(data), data.Trust()} {
		if err := durable.Mkdir(d); err != nil {
			return err
		}
	}
	bundle, err := newKey(bundleKeyPath(data))
	if err != nil {
		return err
	}
	var roots []signature.Signer
	for i := range rootKeys {
		s, err := newKey(filepath.Join(OfflineDir(data), fmt.Sprintf("root-%d.pem", i+1)))
		if err != nil {
			return err
		}
		roots = append(roots, s)
	}
	root := metadata.Root(now.UTC().Truncate(time.Second).AddDate(rootYears, 0, 0))
	root.Signed.Roles[metadata.ROOT].Threshold = rootThreshold
	for _, s := range roots {
		if err := addKey(root, s, metadata.ROOT); err != nil {
			return err
		}
	}
	for _, role := range bundleRoles() {
		if err := addKey(root, bundle, role); err != nil {
			return err
		}
	}
	return writeRoot(first, root, roots)
}

// bundleRoles are the roles the bundle key signs.
func bundleRoles() []string {
	return []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
}

func newKey(path string) (signature.Signer, error) {
	priv, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), cryptoutils.SkipPassword)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, priv); err != nil {
		return nil, err
	}
	return loadKey(priv)
}

func loadKey(pem []byte) (signature.Signer, error) {
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(pem, cryptoutils.SkipPassword)
	if err != nil {
		return nil, err
	}
	return signature.LoadSigner(priv, crypto.SHA256)
}

func bundleKey(data state.Dir) (signature.Signer, error) {
	pem, err := os.ReadFile(bundleKeyPath(data))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this outside has no bundle key (run init): %w: %w", err, feed.ErrConfig)
	}
	if err != nil {
		return nil, err
	}
	s, err := loadKey(pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bundleKeyPath(data), err)
	}
	return s, nil
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
		return nil, fmt.Errorf("%s has no root of trust (run init): %w", dir, feed.ErrConfig)
	}
	return out, nil
}

// RotateBundleKey makes a new bundle key and the next root that names it,
// signed with the offline keys given as PEM (two or three of this root's). The
// inside learns it from the next bundle and then believes nothing the old key
// signed. Root keys stay; issue 3 adds their rotation.
func RotateBundleKey(data state.Dir, offline [][]byte, now time.Time) error {
	chain, err := roots(data.Trust())
	if err != nil {
		return err
	}
	root, err := metadata.Root().FromBytes(chain[len(chain)-1])
	if err != nil {
		return err
	}
	signers, err := rootSigners(root, offline)
	if err != nil {
		return err
	}
	pem, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), cryptoutils.SkipPassword)
	if err != nil {
		return err
	}
	bundle, err := loadKey(pem)
	if err != nil {
		return err
	}
	for _, role := range bundleRoles() {
		for _, id := range root.Signed.Roles[role].KeyIDs {
			if err := root.Signed.RevokeKey(id, role); err != nil {
				return err
			}
		}
		if err := addKey(root, bundle, role); err != nil {
			return err
		}
	}
	root.Signed.Version++
	root.Signed.Expires = now.UTC().Truncate(time.Second).AddDate(rootYears, 0, 0)
	// The key first: killed between the two, the old root stands and pack says
	// that the key does not fit it; a second run mends both.
	if err := durable.WriteFile(bundleKeyPath(data), pem); err != nil {
		return err
	}
	return writeRoot(rootPath(data.Trust(), root.Signed.Version), root, signers)
}

// rootSigners loads the offline keys and checks that they are this root's and enough.
func rootSigners(root *metadata.Metadata[metadata.RootType], offline [][]byte) ([]signature.Signer, error) {
	known, seen := map[string]bool{}, map[string]bool{}
	for _, id := range root.Signed.Roles[metadata.ROOT].KeyIDs {
		known[id] = true
	}
	var out []signature.Signer
	for i, pem := range offline {
		s, err := loadKey(pem)
		if err != nil {
			return nil, fmt.Errorf("root key %d: %w: %w", i+1, err, feed.ErrConfig)
		}
		_, id, err := tufKey(s)
		if err != nil {
			return nil, err
		}
		if !known[id] {
			return nil, fmt.Errorf("root key %d is not one of this root's: %w", i+1, feed.ErrConfig)
		}
		if !seen[id] {
			out = append(out, s)
		}
		seen[id] = true
	}
	if n := root.Signed.Roles[metadata.ROOT].Threshold; len(out) < n {
		return nil, fmt.Errorf("%d root keys given, %d are needed: %w", len(out), n, feed.ErrConfig)
	}
	return out, nil
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
