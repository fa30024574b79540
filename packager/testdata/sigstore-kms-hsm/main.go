// Command sigstore-kms-hsm signs with a key in a PKCS #11 token by way of
// OpenSC's pkcs11-tool, as a plug-in of sigstore's protocol: what a town with a
// token would put on its PATH. The tests run it with SoftHSM.
//
//	hsm://TOKEN/LABEL      a key in a token; HASHIKE_HSM_MODULE names the library, HASHIKE_HSM_PIN the PIN
//	hsm://file=PATH        a key in a PEM file, where there is no token
package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

func main() {
	args, err := handler.GetPluginArgs(os.Args)
	if err == nil {
		_, err = handler.Dispatch(os.Stdout, os.Stdin, args, &token{ref: args.InitOptions.KeyResourceID})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type token struct{ ref string }

func (t *token) file() (signature.SignerVerifier, bool, error) {
	path, ok := strings.CutPrefix(t.ref, "file=")
	if !ok {
		return nil, false, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, true, err
	}
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(b, cryptoutils.SkipPassword)
	if err != nil {
		return nil, true, err
	}
	sv, err := signature.LoadSignerVerifier(priv, crypto.SHA256)
	return sv, true, err
}

// tool runs pkcs11-tool with files in a directory of its own.
func (t *token) tool(dir string, args ...string) error {
	name, label, ok := strings.Cut(t.ref, "/")
	if !ok {
		return errors.New("want TOKEN/LABEL")
	}
	args = append(args, "--module", os.Getenv("HASHIKE_HSM_MODULE"), "--token-label", name, "--label", label)
	cmd := exec.Command("pkcs11-tool", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("pkcs11-tool: %w: %s", err, out)
	}
	return nil
}

func (t *token) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	if sv, ok, err := t.file(); ok {
		if err != nil {
			return nil, err
		}
		return sv.PublicKey()
	}
	dir, err := os.MkdirTemp("", "hsm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := t.tool(dir, "--read-object", "--type", "pubkey", "--output-file", "pub.der"); err != nil {
		return nil, err
	}
	der, err := os.ReadFile(filepath.Join(dir, "pub.der"))
	if err != nil {
		return nil, err
	}
	return x509.ParsePKIXPublicKey(der)
}

func (t *token) SignMessage(r io.Reader, opts ...signature.SignOption) ([]byte, error) {
	if sv, ok, err := t.file(); ok {
		if err != nil {
			return nil, err
		}
		return sv.SignMessage(r, opts...)
	}
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hsm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "digest"), h.Sum(nil), 0o600); err != nil {
		return nil, err
	}
	err = t.tool(dir, "--login", "--pin", os.Getenv("HASHIKE_HSM_PIN"), "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl",
		"--input-file", "digest", "--output-file", "signature")
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "signature"))
}

var errNot = errors.New("this plug-in only signs")

func (t *token) VerifySignature(io.Reader, io.Reader, ...signature.VerifyOption) error { return errNot }

func (t *token) CreateKey(context.Context, string) (crypto.PublicKey, error) { return nil, errNot }

func (t *token) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errNot
}

func (t *token) SupportedAlgorithms() []string { return []string{t.DefaultAlgorithm()} }

func (t *token) DefaultAlgorithm() string { return "ecdsa-p256-sha256" }
