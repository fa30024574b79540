package chromium

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

// developer signs extensions.
type developer struct {
	key  *rsa.PrivateKey
	spki []byte
	id   string
	made map[string][]byte
}

func newDeveloper(t *testing.T) *developer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	d := &developer{key, spki, "", map[string][]byte{}}
	for _, c := range d.raw() {
		d.id += string([]byte{'a' + c>>4, 'a' + c&15})
	}
	return d
}

func (d *developer) raw() []byte {
	sum := sha256.Sum256(d.spki)
	return sum[:16]
}

// crx is a package as Chromium's own packer makes it (crx3.proto).
func (d *developer) crx(t *testing.T, version string) []byte {
	if b, ok := d.made[version]; ok {
		return b
	}
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	f, err := w.Create("manifest.json")
	if err == nil {
		_, err = fmt.Fprintf(f, `{"name":"test","version":%q,"manifest_version":3}`, version)
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	field := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	data := field(nil, 1, d.raw())
	sum := sha256.Sum256(bytes.Join([][]byte{[]byte("CRX3 SignedData\x00"), binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data, z.Bytes()}, nil))
	sig, err := rsa.SignPKCS1v15(rand.Reader, d.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	header := field(field(nil, 2, field(field(nil, 1, d.spki), 2, sig)), 10000, data)
	b := append([]byte("Cr24\x03\x00\x00\x00"), binary.LittleEndian.AppendUint32(nil, uint32(len(header)))...)
	d.made[version] = append(append(b, header...), z.Bytes()...)
	return d.made[version]
}

// store is the update service of extensions. It says id whoever signed.
func (d *developer) store(t *testing.T, id, version string) feedtest.State {
	name := "crx/" + strings.ReplaceAll(version, "/", "_") + ".crx"
	genuine := version
	if strings.Trim(version, "0123456789.") != "" {
		genuine = "9.9"
	}
	s := feedtest.State{Files: feedtest.Files{name: d.crx(t, genuine)}}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); r.URL.Path != "/update2/crx" || q.Get("acceptformat") != "crx3" || q.Get("x") != "id="+id+"&uc" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><gupdate xmlns="http://www.google.com/update2/response" protocol="2.0" server="prod"><daystart elapsed_days="6900"/>`+
			`<app appid="%s" cohort="" status="ok"><updatecheck codebase="../%s" version="%s" status="ok" hash_sha256="" size="1"/></app></gupdate>`, id, name, version)
	})
	return s
}

// A developer's key withdrawn by order.
func TestWithdrawnDeveloper(t *testing.T) {
	d := newDeveloper(t)
	b := d.crx(t, "1.0")
	sum := sha256.Sum256(d.spki)
	trust := feed.Trust{At: time.Now()}
	if _, ev, err := verifier.Extension(bytes.NewReader(b), int64(len(b)), d.id, trust); err != nil || ev.KeyID != fmt.Sprintf("%X", sum) {
		t.Fatalf("%+v %v", ev, err)
	}
	trust.Distrust = []feed.Distrust{{KeyID: fmt.Sprintf("%X", sum), Reason: "stolen"}}
	if _, _, err := verifier.Extension(bytes.NewReader(b), int64(len(b)), d.id, trust); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("withdrawn key: %v", err)
	}
}

func TestExtensions(t *testing.T) {
	d, stranger := newDeveloper(t), newDeveloper(t)
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Time: time.Now(), Config: "chrome = []\nextensions = ['" + d.id + "']\nstore_url = '{url}/update2/crx'\n",
		Older: d.store(t, d.id, "1.0"), Now: d.store(t, d.id, "1.2"), Newer: d.store(t, d.id, "1.10"), Forged: stranger.store(t, d.id, "1.3"),
		Hostile:  func(p string) feedtest.State { return d.store(t, d.id, p) },
		Optional: func(string) bool { return true },
		Huge:     func(string) bool { return true },
		Unsigned: map[string]func(feedtest.Files){"signature damaged": func(f feedtest.Files) {
			for p, b := range f {
				i := bytes.Index(b, d.spki) + len(d.spki) + 20
				b = bytes.Clone(b)
				b[i] ^= 1
				f[p] = b
			}
		}},
		Without: map[string]string{"mixed": "a version's package never changes", "orders": "an extension's identity is the hash of its key: there is no anchor; withdrawn keys: TestWithdrawnDeveloper"},
		Requests: []feedtest.Request{
			{Path: "/extensions/update.xml?x=id%3D" + d.id + "%26v%3D1.0%26uc", Holds: `version="1.10"`}, {Path: "/extensions/update.xml", Holds: d.id},
			{Path: "/extensions/update.xml?x=id%3D" + stranger.id, Holds: `status="noupdate"`}, {Path: "/extensions/update.xml?x=%25", Holds: "gupdate"},
			{Method: http.MethodPost, Path: "/extensions/update.xml", Status: 405},
		},
	})
}
