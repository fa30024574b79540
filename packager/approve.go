package packager

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/hashike/hashike/internal/feed"
)

// minPassphrase is the least length of an approver's passphrase, in bytes.
const minPassphrase = 8

// NewApproverKey makes an approver's key (ECDSA P-256): the private half
// encrypted with a passphrase that only the approver knows, and the public
// half for Change.Approvers, both PEM.
func NewApproverKey(pass string) (private, public []byte, err error) {
	if len(pass) < minPassphrase {
		return nil, nil, fmt.Errorf("a passphrase of at least %d characters: %w", minPassphrase, feed.ErrConfig)
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
