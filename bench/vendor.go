//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// vendor is an upstream of our own: it signs a list of files it makes up and
// answers over loopback.
type vendor interface {
	block() string // of hashike.toml
	key() []byte   // armoured public key
}

// blob is a file that exists as a seed and a size only.
type blob struct {
	path string
	seed uint64
	size int64
	sum  string // hex
}

// grain is the piece that repeats in a blob, each time with its own number.
const grain = 1 << 20

// grains holds one block of random bytes for all blobs: making it costs more
// than hashing it.
var grains = sync.OnceValue(func() []byte {
	b := make([]byte, grain)
	rand.NewChaCha8([32]byte{'h', 'a', 's', 'h', 'i', 'k', 'e'}).Read(b)
	return b
})

// write makes the blob's bytes: incompressible, and no two pieces alike.
func (b blob) write(w io.Writer) error {
	piece := bytes.Clone(grains()[:min(b.size, grain)])
	for at := int64(0); at < b.size; at += grain {
		var head [16]byte
		binary.LittleEndian.PutUint64(head[:], b.seed)
		binary.LittleEndian.PutUint64(head[8:], uint64(at))
		copy(piece, head[:])
		if _, err := w.Write(piece[:min(b.size-at, grain)]); err != nil {
			return err
		}
	}
	return nil
}

func (b *blob) hash() {
	h := sha256.New()
	b.write(h)
	b.sum = hex.EncodeToString(h.Sum(nil))
}

// blobs makes n files of one size under dir.
func blobs(dir string, n int, size int64) []blob {
	out := make([]blob, n)
	for i := range out {
		out[i] = blob{path: fmt.Sprintf("%s/%03d/package-%06d_1.0_amd64.deb", dir, i/1000, i), seed: uint64(i) + 1, size: size}
		out[i].hash()
	}
	return out
}

// upstream answers for a vendor and counts. It sends neither ETag nor
// Last-Modified: the worst that vendors do.
type upstream struct {
	url      string
	entity   *openpgp.Entity
	mu       sync.RWMutex
	docs     map[string][]byte
	files    map[string]blob
	requests atomic.Int64
	bytes    atomic.Int64
	http     *http.Server
}

func newUpstream() (*upstream, error) {
	e, err := openpgp.NewEntity("Benchmark Vendor", "", "vendor@vendor.example", &packet.Config{RSABits: 2048})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{url: "http://" + l.Addr().String(), entity: e, docs: map[string][]byte{}, files: map[string]blob{}}
	u.http = &http.Server{Handler: u}
	go u.http.Serve(l)
	return u, nil
}

func (u *upstream) close() { u.http.Close() }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.requests.Add(1)
	p := strings.TrimLeft(r.URL.Path, "/")
	u.mu.RLock()
	doc, isDoc := u.docs[p]
	b, isFile := u.files[p]
	u.mu.RUnlock()
	switch {
	case isDoc:
		u.bytes.Add(int64(len(doc)))
		w.Header().Set("Content-Length", fmt.Sprint(len(doc)))
		w.Write(doc)
	case isFile:
		u.bytes.Add(b.size)
		w.Header().Set("Content-Length", fmt.Sprint(b.size))
		b.write(w)
	default:
		http.NotFound(w, r)
	}
}

func (u *upstream) key() []byte {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	fail(err)
	fail(u.entity.Serialize(w))
	fail(w.Close())
	return b.Bytes()
}

// treeVendor is a SHA256SUMS with a detached signature.
type treeVendor struct{ *upstream }

func (t treeVendor) block() string {
	return fmt.Sprintf("[feed.%s]\nkind = \"tree\"\nurl = %q\nkeys = [\"vendor.asc\"]\nclass = \"security\"\nmax_file = 100000000000\n", feedName, t.url+"/")
}

// offer publishes a new list.
func (t treeVendor) offer(files []blob) error {
	var list bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&list, "%s  %s\n", f.sum, f.path)
	}
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, t.entity, bytes.NewReader(list.Bytes()), nil); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.docs["SHA256SUMS"], t.docs["SHA256SUMS.asc"] = list.Bytes(), sig.Bytes()
	clear(t.files)
	for _, f := range files {
		t.files[f.path] = f
	}
	return nil
}

// aptVendor is a Debian-style archive of one suite.
type aptVendor struct{ *upstream }

func (a aptVendor) block() string {
	return fmt.Sprintf("[feed.%s]\nkind = \"apt\"\nurl = %q\nsuites = [\"bench\"]\ncomponents = [\"main\"]\narchitectures = [\"amd64\"]\nkeys = [\"vendor.asc\"]\n", feedName, a.url)
}

// offer publishes the suite. The .deb files are random bytes: no mirror looks
// into them.
func (a aptVendor) offer(files []blob) error {
	var plain, packed bytes.Buffer
	for i, f := range files {
		fmt.Fprintf(&plain, "Package: package-%06d\nVersion: 1.0\nArchitecture: amd64\nMaintainer: Vendor <vendor@vendor.example>\nDescription: one of many\nFilename: %s\nSize: %d\nMD5sum: %032x\nSHA256: %s\n\n",
			i, f.path, f.size, i, f.sum)
	}
	z := gzip.NewWriter(&packed)
	z.Write(plain.Bytes())
	if err := z.Close(); err != nil {
		return err
	}
	docs := map[string][]byte{}
	var rel strings.Builder
	fmt.Fprintf(&rel, "Origin: Bench\nLabel: Bench\nSuite: bench\nCodename: bench\nDate: %s\nArchitectures: amd64\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	for name, b := range map[string][]byte{"Packages": plain.Bytes(), "Packages.gz": packed.Bytes()} {
		sum := sha256.Sum256(b)
		fmt.Fprintf(&rel, " %x %d main/binary-amd64/%s\n", sum, len(b), name)
		docs["dists/bench/main/binary-amd64/"+name] = b
		docs[fmt.Sprintf("dists/bench/main/binary-amd64/by-hash/SHA256/%x", sum)] = b
	}
	var signed, detached bytes.Buffer
	w, err := clearsign.Encode(&signed, a.entity.PrivateKey, nil)
	if err != nil {
		return err
	}
	io.WriteString(w, rel.String())
	if err := w.Close(); err != nil {
		return err
	}
	if err := openpgp.ArmoredDetachSign(&detached, a.entity, strings.NewReader(rel.String()), nil); err != nil {
		return err
	}
	docs["dists/bench/InRelease"], docs["dists/bench/Release"], docs["dists/bench/Release.gpg"] = signed.Bytes(), []byte(rel.String()), detached.Bytes()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.docs = docs
	clear(a.files)
	for _, f := range files {
		a.files[f.path] = f
	}
	return nil
}
