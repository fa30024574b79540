package packager

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/internal/typed"
)

// SetupName is the set-up file's name on the set-up medium (初期登録媒体).
const SetupName = "hashike-setup.json"

// setup is the set-up file: what an inside is born with. The fingerprint on
// paper covers all of it, so that neither root, site, time nor secret can be
// exchanged on the way.
type setup struct {
	Schema  int       `json:"schema"`
	Format  string    `json:"format"` // "hashike-setup"
	Site    int       `json:"site"`
	Created time.Time `json:"created"` // the inside's first time floor
	Secret  []byte    `json:"secret"`  // 32 random bytes: the key of this site's receipts
	Root    []byte    `json:"root"`    // 1.root.json
}

const (
	setupFormat = "hashike-setup"
	secretSize  = 32
	maxSetup    = maxMetadata * 2
)

// fingerprintDigits is the length of a fingerprint: 38 digits hold 126 bits of
// SHA-256, two check them.
const fingerprintDigits = 40

// fingerprint is the first 38 decimal digits' worth of SHA-256 over a fixed
// layout (docs/bundle.md §8), and two check digits.
func (s setup) fingerprint() string {
	root := sha256.Sum256(s.Root)
	b := []byte("hashike-setup-v1\x00")
	b = binary.BigEndian.AppendUint32(b, uint32(s.Site))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Created.Unix()))
	b = append(b, s.Secret...)
	b = append(b, root[:]...)
	h := sha256.Sum256(b)
	n := new(big.Int).SetBytes(h[:])
	n.Mod(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(fingerprintDigits-2), nil))
	return withCheck(fmt.Sprintf("%0*s", fingerprintDigits-2, n.String()))
}

// PairedSites lists the sites that a set-up medium was made for, rising.
func PairedSites(data state.Dir) ([]int, error) {
	ents, err := os.ReadDir(data.Keys())
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range ents {
		digits, _ := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".json"), "site-")
		if site, err := strconv.Atoi(digits); err == nil && secretPath(data, site) == filepath.Join(data.Keys(), e.Name()) {
			out = append(out, site)
		}
	}
	slices.Sort(out)
	return out, nil
}

func secretPath(data state.Dir, site int) string {
	return filepath.Join(data.Keys(), "site-"+strconv.Itoa(site)+".json")
}

// WriteSetup writes the set-up file for one inside to path and returns the
// fingerprint for the paper sheet: ten groups of four digits. The site's
// secret is made at the first call and kept in keys/; a later call for the
// same site writes the same file.
func WriteSetup(data state.Dir, site int, path string, now time.Time) (string, error) {
	if site < 1 || site > maxSite {
		return "", fmt.Errorf("site %d is not 1 to %d: %w", site, maxSite, feed.ErrConfig)
	}
	s, err := readSetup(secretPath(data, site))
	if errors.Is(err, fs.ErrNotExist) {
		s, err = newSetup(data, site, now)
	}
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return typed.Groups(s.fingerprint()), durable.WriteFile(path, b)
}

func newSetup(data state.Dir, site int, now time.Time) (setup, error) {
	root, err := os.ReadFile(rootPath(data.Trust(), 1))
	if err != nil {
		return setup{}, noKeys(err)
	}
	s := setup{Schema: 1, Format: setupFormat, Site: site, Created: now.UTC().Truncate(time.Second), Root: root, Secret: make([]byte, secretSize)}
	rand.Read(s.Secret)
	b, err := json.Marshal(s)
	if err != nil {
		return s, err
	}
	return s, durable.WriteFile(secretPath(data, site), b)
}

func readSetup(path string) (setup, error) {
	var s setup
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSetup+1))
	if err == nil && len(b) > maxSetup {
		err = fmt.Errorf("over %d bytes: %w", maxSetup, feed.ErrDamaged)
	}
	if err == nil {
		err = strict(b, &s)
	}
	if err == nil && (s.Schema != 1 || s.Format != setupFormat || s.Site < 1 || s.Site > maxSite || len(s.Secret) != secretSize || s.Created.IsZero()) {
		err = fmt.Errorf("not a set-up file of this version: %w", feed.ErrDamaged)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Pair makes data a new inside from the set-up file (or the directory that
// holds it) and the fingerprint typed from the paper sheet. Full-width digits,
// spaces and dashes are accepted. Errors: H-508 for a fingerprint that was
// mistyped (ErrConfig) or does not fit the file (ErrUntrusted); ErrConfig if
// data is set up already. No other function accepts a first root or a secret.
func Pair(data state.Dir, file, fingerprint string) error {
	if _, err := os.Stat(data.DB()); err == nil {
		return fmt.Errorf("%s is set up already: %w", data, feed.ErrConfig)
	}
	digits, ok := typed.Digits(fingerprint)
	if !ok || len(digits) != fingerprintDigits || !checks(digits) {
		return feed.NewFault(fmt.Errorf("the fingerprint is %d digits in groups of four and was mistyped: %w", fingerprintDigits, feed.ErrConfig), "H-508", "reason", "mistyped")
	}
	file = setupIn(file)
	s, err := readSetup(file)
	if err != nil {
		return err
	}
	if s.fingerprint() != digits {
		return feed.NewFault(fmt.Errorf("%s does not have the fingerprint on paper: %w", file, feed.ErrUntrusted), "H-508", "reason", "mismatch", "file", file)
	}
	if err := soundRoot(s.Root, 1); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return settle(data, s)
}

// CheckSetup reports whether path is a set-up file or a directory that holds
// one, before anybody types its fingerprint (H-213).
func CheckSetup(path string) error {
	if _, err := readSetup(setupIn(path)); errors.Is(err, fs.ErrNotExist) || errors.Is(err, feed.ErrDamaged) {
		return noMedium(path, "setup", err)
	} else if err != nil {
		return err
	}
	return nil
}

func setupIn(path string) string {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return filepath.Join(path, SetupName)
	}
	return path
}

// soundRoot checks that b is a root of the given version signed by itself.
func soundRoot(b []byte, version int64) error {
	root, err := trustRoot(b)
	if err == nil && root.Signed.Version != version {
		err = fmt.Errorf("root has version %d, not %d: %w", root.Signed.Version, version, feed.ErrUntrusted)
	}
	if err == nil && len(root.Signed.Roles[metadata.ROOT].KeyIDs) == 0 {
		err = fmt.Errorf("root without keys: %w", feed.ErrUntrusted)
	}
	if err == nil {
		err = exactRoot("root", root, root, b)
	}
	return err
}

// settle writes what Pair accepted; the database comes last, so that a killed
// run is simply repeated.
func settle(data state.Dir, s setup) error {
	dir := filepath.Join(data.Trust(), firstTrust)
	for _, d := range []string{data.Keys(), dir} {
		if err := durable.Mkdir(d); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(rootPath(dir, 1), s.Root); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(data.Keys(), "receipt.secret"), s.Secret); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, nameFloor), []byte(s.Created.Format(time.RFC3339))); err != nil {
		return err
	}
	return state.At(data, "init").Create("inside", s.Site)
}

// nameFloor holds the first time floor beside the first root, so that making
// the database stays the one last step of pairing.
const nameFloor = "created"

// firstFloor is the floor before the first bundle.
func firstFloor(data state.Dir) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(data.Trust(), firstTrust, nameFloor))
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, string(b))
}

// LineSecret is what an inside and its outside share since pairing, for the
// tags of diode packets (docs/diode.md §3). On the inside site is not read.
func LineSecret(data state.Dir, side string, site int) ([]byte, error) {
	if side == "inside" {
		return os.ReadFile(filepath.Join(data.Keys(), "receipt.secret"))
	}
	s, err := readSetup(secretPath(data, site))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, feed.NewFault(fmt.Errorf("no set-up medium was made for site %d: %w", site, feed.ErrConfig), "H-205", "name", strconv.Itoa(site))
	}
	return s.Secret, err
}
