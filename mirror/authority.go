package mirror

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// authority is the private CA of one data directory. Terminals install its
// certificate, so it must be worth nothing outside: critical name constraints
// (RFC 5280 §4.2.1.10) allow the configured names and private addresses only,
// and the only use is server authentication.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	names []string
	clock func() time.Time

	mu   sync.Mutex
	leaf *tls.Certificate
}

// Lifetimes. A terminal's clock may be behind: certificates begin earlier.
const (
	caLife   = 10 * 365 * day
	leafLife = 90 * day
	renewAt  = 30 * day // before the end
	backdate = 30 * day
)

// CAPath is where the CA certificate lies, for terminals to install.
func CAPath(data state.Dir) string { return filepath.Join(data.Keys(), "server-ca.crt") }

func caKeyPath(data state.Dir) string { return filepath.Join(data.Keys(), "server-ca.key") }

// openAuthority opens the CA, or makes it for the given names and addresses.
func openAuthority(data state.Dir, hosts []string, clock func() time.Time) (*authority, error) {
	a := &authority{clock: clock, names: hosts}
	kb, err := os.ReadFile(caKeyPath(data))
	if errors.Is(err, fs.ErrNotExist) {
		if err := a.create(data); err != nil {
			return nil, fmt.Errorf("private CA: %w", err)
		}
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	cb, err := os.ReadFile(CAPath(data))
	if err != nil {
		return nil, err
	}
	kp, _ := pem.Decode(kb)
	cp, _ := pem.Decode(cb)
	if kp == nil || cp == nil {
		return nil, fmt.Errorf("private CA in %s: %w", data.Keys(), feed.ErrDamaged)
	}
	key, err := x509.ParsePKCS8PrivateKey(kp.Bytes)
	if err == nil {
		a.cert, err = x509.ParseCertificate(cp.Bytes)
	}
	ok := false
	if err == nil {
		a.key, ok = key.(*ecdsa.PrivateKey)
	}
	if err != nil || !ok || !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return nil, fmt.Errorf("private CA in %s: %w: %w", data.Keys(), err, feed.ErrDamaged)
	}
	return a, a.covers()
}

// covers refuses names that the installed CA may not speak for: terminals
// would refuse the certificate, with a message that nobody understands.
func (a *authority) covers() error {
	if _, err := a.issue(); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	for _, h := range a.names {
		_, err := a.leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: h, CurrentTime: a.leaf.Leaf.NotBefore.Add(time.Minute)})
		if err != nil {
			err = fmt.Errorf("the private CA was made for other names than %q (%w); remove %s to make another one, and install it on all terminals: %w",
				h, err, filepath.Dir(caKeyPath("")), feed.ErrConfig)
			return feed.NewFault(err, "H-202", "name", h)
		}
	}
	return nil
}

// privateNetworks may be named by the CA beside its DNS names: RFC 1918, RFC
// 6598, RFC 4193, link-local and loopback.
func privateNetworks() []*net.IPNet {
	var out []*net.IPNet
	for _, s := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8", "fc00::/7", "fe80::/10", "::1/128"} {
		_, n, _ := net.ParseCIDR(s)
		out = append(out, n)
	}
	return out
}

func (a *authority) create(data state.Dir) error {
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	dns := []string{"localhost"}
	nets := privateNetworks()
	for _, h := range a.names {
		ip := net.ParseIP(h)
		switch {
		case ip == nil:
			dns = append(dns, strings.ToLower(h))
		case ip.To4() != nil:
			nets = append(nets, &net.IPNet{IP: ip.To4(), Mask: net.CIDRMask(32, 32)})
		default:
			nets = append(nets, &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)})
		}
	}
	now := a.clock()
	t := &x509.Certificate{
		SerialNumber: serial128(),
		Subject:      pkix.Name{CommonName: "Hashike mirror CA " + now.UTC().Format("2006-01-02")},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: dns, PermittedIPRanges: nets,
		PermittedEmailAddresses: []string{"invalid"}, PermittedURIDomains: []string{"invalid"},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	kb, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	if err := durable.Mkdir(data.Keys()); err != nil {
		return err
	}
	// The key comes last: a certificate without one is made anew.
	if err := durable.WriteFile(CAPath(data), a.pem()); err != nil {
		return err
	}
	return durable.WriteFile(caKeyPath(data), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}))
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func serial128() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return n.Add(n, big.NewInt(1))
}

// issue returns the server's certificate and makes a new one 30 days before
// the old one ends. Its key lives in memory only.
func (a *authority) issue() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	if a.leaf != nil && now.Before(a.leaf.Leaf.NotAfter.Add(-renewAt)) {
		return a.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial128(), Subject: pkix.Name{CommonName: "Hashike mirror"},
		NotBefore: later(now.Add(-backdate), a.cert.NotBefore), NotAfter: earlier(now.Add(leafLife), a.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range a.names {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, strings.ToLower(h))
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return a.leaf, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// certFiles serves a given certificate and reads it again when its file changes.
type certFiles struct {
	cert, key string
	mu        sync.Mutex
	at        time.Time // of the file that was read
	checked   time.Time
	have      *tls.Certificate
}

func (c *certFiles) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have != nil && time.Since(c.checked) < time.Minute {
		return c.have, nil
	}
	c.checked = time.Now()
	st, err := os.Stat(c.cert)
	if err == nil && c.have != nil && st.ModTime().Equal(c.at) {
		return c.have, nil
	}
	pair, perr := tls.LoadX509KeyPair(c.cert, c.key)
	if err = errors.Join(err, perr); err != nil {
		if c.have != nil {
			return c.have, nil // half-written files of a renewal: the old one serves
		}
		return nil, fmt.Errorf("certificate %s: %w: %w", c.cert, err, feed.ErrConfig)
	}
	c.have, c.at = &pair, st.ModTime()
	return c.have, nil
}
