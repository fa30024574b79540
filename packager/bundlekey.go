package packager

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Guard is what keeps the bundle key from whoever copies the disk.
type Guard string

const (
	GuardFile       Guard = "file"       // keys/bundle.pem, 0600: the file system's permissions alone
	GuardPassphrase Guard = "passphrase" // keys/bundle.pem, encrypted; the passphrase lies in another file
	GuardCredential Guard = "credential" // a credential that systemd hands to the service
	GuardDPAPI      Guard = "dpapi"      // keys/bundle.dpapi, sealed to this Windows machine
	GuardPlugin     Guard = "plugin"     // a token or KMS, through a sigstore-kms-NAME program
)

// CredentialName is the systemd credential that holds the bundle key as PEM.
const CredentialName = "hashike-bundle"

// kept is keys/bundle.json: how the bundle key is kept. Without the file it is
// the credential if the service got one, else the plain file.
type kept struct {
	Schema int    `json:"schema"`
	Guard  Guard  `json:"guard"`
	Ref    string `json:"ref,omitempty"` // plugin: NAME://REFERENCE; passphrase: the file that holds it
}

func keptPath(data state.Dir) string { return filepath.Join(data.Keys(), "bundle.json") }

func sealedPath(data state.Dir) string { return filepath.Join(data.Keys(), "bundle.dpapi") }

func credential() string {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		return filepath.Join(dir, CredentialName)
	}
	return ""
}

func readKept(data state.Dir) (kept, error) {
	k := kept{Schema: 1, Guard: GuardFile}
	b, err := os.ReadFile(keptPath(data))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if c := credential(); c != "" {
			if _, err := os.Stat(c); err == nil {
				k.Guard = GuardCredential
			}
		}
		return k, nil
	case err != nil:
		return k, err
	}
	if err = json.Unmarshal(b, &k); err == nil && k.Schema != 1 {
		err = fmt.Errorf("schema %d is newer than this program's 1", k.Schema)
	}
	if err != nil {
		return k, fmt.Errorf("%s: %w: %w", keptPath(data), err, feed.ErrConfig)
	}
	return k, nil
}

func (k kept) write(data state.Dir) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return durable.WriteFile(keptPath(data), b)
}

// BundleGuard says how the bundle key is kept. left is true if a plain copy of
// it still lies in keys/bundle.pem although something better keeps it.
func BundleGuard(data state.Dir) (g Guard, ref string, left bool, err error) {
	k, err := readKept(data)
	if err != nil {
		return "", "", false, err
	}
	_, serr := os.Stat(bundleKeyPath(data))
	return k.Guard, k.Ref, serr == nil && k.Guard != GuardFile && k.Guard != GuardPassphrase, nil
}

// bundleKey loads the signer of bundles, wherever it is kept.
func bundleKey(data state.Dir) (signature.Signer, error) {
	k, err := readKept(data)
	if err != nil {
		return nil, err
	}
	s, err := k.load(data)
	if errors.Is(err, fs.ErrNotExist) && !HasKeys(data) {
		return nil, noKeys(err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, feed.NewFault(fmt.Errorf("this outside has no bundle key here (kept as %s): %w: %w", k.Guard, err, feed.ErrConfig), "H-516", "guard", string(k.Guard), "detail", err.Error())
	}
	if err != nil {
		return nil, feed.NewFault(fmt.Errorf("bundle key (kept as %s): %w: %w", k.Guard, err, feed.ErrConfig), "H-516", "guard", string(k.Guard), "detail", err.Error())
	}
	return s, nil
}

func (k kept) load(data state.Dir) (signature.Signer, error) {
	if k.Guard == GuardPlugin {
		return pluginKey(k.Ref)
	}
	b, err := k.pem(data)
	if err != nil {
		return nil, err
	}
	pass := cryptoutils.SkipPassword
	if k.Guard == GuardPassphrase {
		if pass, err = passphrase(k.Ref); err != nil {
			return nil, err
		}
	}
	return loadKey(b, pass)
}

// pem reads the key in the form it is kept in.
func (k kept) pem(data state.Dir) ([]byte, error) {
	switch k.Guard {
	case GuardFile, GuardPassphrase:
		return os.ReadFile(bundleKeyPath(data))
	case GuardCredential:
		c := credential()
		if c == "" {
			return nil, fmt.Errorf("$CREDENTIALS_DIRECTORY is not set, so systemd handed over no %s: %w", CredentialName, fs.ErrNotExist)
		}
		return os.ReadFile(c)
	case GuardDPAPI:
		b, err := os.ReadFile(sealedPath(data))
		if err != nil {
			return nil, err
		}
		return unseal(b)
	}
	return nil, fmt.Errorf("unknown guard %.40q: %w", k.Guard, feed.ErrConfig)
}

// passphrase reads the first line of a file.
func passphrase(path string) (cryptoutils.PassFunc, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimRight(line, "\r")
	if line == "" {
		return nil, fmt.Errorf("%s holds no passphrase: %w", path, feed.ErrConfig)
	}
	return cryptoutils.StaticPasswordFunc([]byte(line)), nil
}

// pluginName keeps a reference from naming a program by its path.
var pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// pluginKey is a key in a token or KMS, signed with by a program
// sigstore-kms-NAME on the PATH (sigstore's plug-in protocol, version v1): the
// private key never reaches this process.
func pluginKey(ref string) (signature.Signer, error) {
	if name, _, ok := strings.Cut(ref, "://"); !ok || !pluginName.MatchString(name) {
		return nil, fmt.Errorf("%q is not NAME://KEY: %w", ref, feed.ErrConfig)
	}
	s, err := cliplugin.LoadSignerVerifier(context.Background(), ref, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if _, _, err := tufKey(s); err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return s, nil
}

// newBundleKey makes the next bundle key and keeps it as the one before was,
// or in the token that plugin names. What systemd hands over cannot be
// replaced from here: the new key is a plain file until it is protected again.
func newBundleKey(data state.Dir, plugin string) (signature.Signer, error) {
	if plugin != "" {
		s, err := pluginKey(plugin)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, feed.ErrConfig)
		}
		if err := (kept{1, GuardPlugin, plugin}).write(data); err != nil {
			return nil, err
		}
		return s, nil
	}
	k, err := readKept(data)
	if err != nil {
		return nil, err
	}
	if k.Guard == GuardPlugin {
		return nil, fmt.Errorf("the bundle key is kept in %s: name the new one: %w", k.Ref, feed.ErrConfig)
	}
	if _, err := os.Stat(keptPath(data)); k.Guard == GuardFile && errors.Is(err, fs.ErrNotExist) {
		k.Guard = guardHere
	}
	pass := cryptoutils.SkipPassword
	switch k.Guard {
	case GuardPassphrase:
		if pass, err = passphrase(k.Ref); err != nil {
			return nil, err
		}
	case GuardCredential:
		k = kept{Schema: 1, Guard: GuardFile}
	}
	priv, _, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), pass)
	if err != nil {
		return nil, err
	}
	if err := k.store(data, priv); err != nil {
		return nil, err
	}
	return loadKey(priv, pass)
}

// store writes the key, then how it is kept.
func (k kept) store(data state.Dir, pem []byte) error {
	path := bundleKeyPath(data)
	if k.Guard == GuardDPAPI {
		var err error
		if pem, err = seal(pem); err != nil {
			return err
		}
		path = sealedPath(data)
	}
	if err := durable.WriteFile(path, pem); err != nil {
		return err
	}
	return k.write(data)
}

// Protect changes how the bundle key is kept, without changing the key: ref is
// the passphrase file of GuardPassphrase. The credential must be there already
// and hold the same key. A plain file that is left over is wiped. A token makes
// its own key: that is a rotation. ErrConfig for what cannot be.
func Protect(data state.Dir, g Guard, ref string) error {
	now, err := readKept(data)
	if err != nil {
		return err
	}
	if now.Guard == GuardPlugin || g == GuardPlugin {
		return fmt.Errorf("a key does not move into or out of a token (rotate it): %w", feed.ErrConfig)
	}
	old, err := now.load(data)
	if err != nil {
		return err
	}
	_, id, err := tufKey(old)
	if err != nil {
		return err
	}
	next := kept{1, g, ref}
	switch g {
	case GuardCredential:
		s, err := next.load(data)
		if err != nil {
			return fmt.Errorf("%w: %w", err, feed.ErrConfig)
		}
		if _, other, err := tufKey(s); err != nil || other != id {
			return fmt.Errorf("the credential %s holds another key: %w", CredentialName, errors.Join(err, feed.ErrConfig))
		}
		if err := next.write(data); err != nil {
			return err
		}
	case GuardFile, GuardPassphrase, GuardDPAPI:
		if err := now.reseal(data, next); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown guard %.40q: %w", g, feed.ErrConfig)
	}
	return wipeOthers(data)
}

// wipeOthers removes the files of guards that are not in use any more.
func wipeOthers(data state.Dir) error {
	k, err := readKept(data)
	if err != nil {
		return err
	}
	if k.Guard != GuardFile && k.Guard != GuardPassphrase {
		err = Wipe(bundleKeyPath(data))
	}
	if k.Guard != GuardDPAPI {
		err = errors.Join(err, Wipe(sealedPath(data)))
	}
	return err
}

// reseal stores the same key another way.
func (k kept) reseal(data state.Dir, next kept) error {
	b, err := k.pem(data)
	if err != nil {
		return err
	}
	pass := cryptoutils.SkipPassword
	if k.Guard == GuardPassphrase {
		if pass, err = passphrase(k.Ref); err != nil {
			return err
		}
	}
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(b, pass)
	if err != nil {
		return err
	}
	if next.Guard == GuardPassphrase {
		f, err := passphrase(next.Ref)
		if err != nil {
			return fmt.Errorf("%w: %w", err, feed.ErrConfig)
		}
		b, err = sealPEM(priv, f)
		if err != nil {
			return err
		}
	} else if b, err = cryptoutils.MarshalPrivateKeyToPEM(priv); err != nil {
		return err
	}
	return next.store(data, b)
}

// sealPEM encrypts a key with a passphrase (scrypt and NaCl secretbox, as
// cosign keeps its keys).
func sealPEM(priv crypto.PrivateKey, pass cryptoutils.PassFunc) ([]byte, error) {
	der, err := cryptoutils.MarshalPrivateKeyToEncryptedDER(priv, pass)
	if err != nil {
		return nil, err
	}
	return cryptoutils.PEMEncode(cryptoutils.EncryptedSigstorePrivateKeyPEMType, der), nil
}

// Wipe overwrites a file that held a key, flushes it and removes it. On flash
// and on journalling or copying file systems old bytes may survive that: sheets
// belong on a RAM disk. A missing file is no error.
func Wipe(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, st.Size()))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := durable.Remove(path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
