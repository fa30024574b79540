package mozilla

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/mar/martest"
	"github.com/hashike/hashike/verifier"
)

// maker is a generated vendor: it signs as Mozilla does and answers as its
// update service does. Its rules are written here anew, from the vendor's
// documentation, not by what the package under test does.
type maker struct {
	t      *testing.T
	pgp    feed.Anchor
	sign   func(text []byte) []byte
	key    *rsa.PrivateKey
	anchor feed.Anchor
	signed map[string][]byte // signatures by text: made once, as the vendor's
}

func newMaker(t *testing.T, name string, now time.Time) *maker {
	key, der := martest.NewKey(t, "Release MAR signing key "+name)
	pgp := feedtest.NewSigner(t, name, now.Add(-24*time.Hour))
	return &maker{t: t, pgp: pgp.Anchor, key: key, signed: map[string][]byte{},
		sign:   func(text []byte) []byte { return pgp.Detached(t, text, now.Add(-30*time.Hour), true) },
		anchor: feed.Anchor{Name: name + "-mar", Use: verifier.UseMAR, Data: der, Source: "made for this test"}}
}

func (m *maker) anchors() []feed.Anchor { return []feed.Anchor{m.pgp, m.anchor} }

// published is one release of the generated vendor.
type published struct {
	version, build string
	partials       []string // versions it has partial files from
}

// history is what the vendor has published, oldest first. Who is older than
// watershed must pass it.
type history struct {
	all       []published
	watershed string
}

func (h history) newest() published { return h.all[len(h.all)-1] }

func (h history) find(version string) (published, bool) {
	i := slices.IndexFunc(h.all, func(p published) bool { return p.version == version })
	if i < 0 {
		return published{}, false
	}
	return h.all[i], true
}

// upTo is the vendor as it was when version was its newest.
func (h history) upTo(version string) history {
	i := slices.IndexFunc(h.all, func(p published) bool { return p.version == version })
	return history{h.all[:i+1], h.watershed}
}

const (
	marChannelESR = "thunderbird-comm-esr"
	win, win32Dir = "win64", "win32"
)

func (m *maker) complete(p published, place string) []byte {
	return martest.Signed(m.t, m.key, marChannelESR, p.version,
		martest.Member{Name: "updatev3.manifest", Body: []byte("type \"complete\"\n")},
		martest.Member{Name: "application.ini", Body: []byte(place + " " + p.version + " " + p.build)},
		martest.Member{Name: "xul.dll", Body: bytes.Repeat([]byte(p.version), 200)})
}

func (m *maker) partial(from, p published, place string) []byte {
	return martest.Signed(m.t, m.key, marChannelESR, p.version,
		martest.Member{Name: "updatev3.manifest", Body: []byte("type \"partial\"\n")},
		martest.Member{Name: "from", Body: []byte(place + " " + from.version + " " + from.build)},
		martest.Member{Name: "application.ini", Body: []byte(place + " " + p.version + " " + p.build)})
}

// release is a release's folder: pub/thunderbird/releases/…
func (m *maker) release(h history, p published, places []string, extra ...string) feedtest.Files {
	root := "pub/thunderbird/releases/" + p.version + "esr"
	below := feedtest.Files{"source/thunderbird-" + p.version + "esr.source.tar.xz": []byte("source")}
	for _, place := range places {
		platform, locale, _ := strings.Cut(place, " ")
		at := path.Join("update", platform, locale)
		below[at+"/thunderbird-"+p.version+"esr.complete.mar"] = m.complete(p, place)
		for _, v := range p.partials {
			from, _ := h.find(v)
			below[at+"/thunderbird-"+v+"esr-"+p.version+"esr.partial.mar"] = m.partial(from, p, place)
		}
		below[path.Join(platform, locale)+"/Thunderbird Setup "+p.version+"esr.exe"] = []byte("MZ installer " + place + p.version)
	}
	var sums strings.Builder
	for _, n := range slices.Sorted(maps.Keys(below)) {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(below[n]), n)
	}
	for _, n := range extra {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256([]byte("escaped")), n)
	}
	if m.signed[sums.String()] == nil {
		m.signed[sums.String()] = m.sign([]byte(sums.String()))
	}
	out := feedtest.Files{root + "/SHA256SUMS": []byte(sums.String()), root + "/SHA256SUMS.asc": m.signed[sums.String()]}
	for n, b := range below {
		out[root+"/"+n] = b
	}
	return out
}

// state is the vendor's two servers: service below aus/, files below pub/.
// extra names stand in the newest release's list.
func (m *maker) state(h history, places []string, extra ...string) feedtest.State {
	files := feedtest.Files{}
	for i, p := range h.all {
		var more []string
		if i == len(h.all)-1 {
			more = extra
		}
		maps.Copy(files, m.release(h, p, places, more...))
	}
	return feedtest.State{Files: files, Handler: h.service(files)}
}

// service answers update questions.
func (h history) service(files feedtest.Files) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := strings.Split(strings.TrimPrefix(r.URL.Path, "/aus/update/6/"), "/")
		if len(p) != 11 || p[10] != "update.xml" || r.URL.RawQuery != "force=1" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprint(w, "<?xml version=\"1.0\"?>\n<updates>\n", h.offer(p[0], p[1], p[2], p[3], p[4], p[5], files), "</updates>")
	})
}

func (h history) offer(product, version, build, target, locale, channel string, files feedtest.Files) string {
	platform := map[string]string{"WINNT_x86_64-msvc-x64": win, "WINNT_x86-msvc-x64": win32Dir, "Darwin_x86_64-gcc3-u-i386-x86_64": "mac"}[target]
	to := h.newest()
	if _, ok := h.find(h.watershed); ok && older(version, h.watershed) {
		to, _ = h.find(h.watershed)
	}
	if product != "Thunderbird" || channel != "esr" || platform == "" || !older(version, to.version) {
		return ""
	}
	at := "pub/thunderbird/releases/" + to.version + "esr/update/" + platform + "/" + locale + "/thunderbird-"
	patch := func(kind, name string) string {
		b, ok := files[at+name]
		if !ok {
			return ""
		}
		sum := sha512.Sum512(b)
		return fmt.Sprintf("<patch type=%q URL=\"https://download.mozilla.org/?product=thunderbird-%s&amp;os=win64&amp;lang=ja\" hashFunction=\"sha512\" hashValue=%q size=\"%d\"/>\n",
			kind, to.version, hex.EncodeToString(sum[:]), len(b))
	}
	full := patch("complete", to.version+"esr.complete.mar")
	if full == "" {
		return ""
	}
	part := ""
	if from, ok := h.find(version); ok && from.build == build {
		part = patch("partial", version+"esr-"+to.version+"esr.partial.mar")
	}
	return fmt.Sprintf("<update appVersion=%q buildID=%q detailsURL=\"https://live.thunderbird.net/?a=b&amp;c=d\" displayVersion=\"%sesr\" type=\"minor\">\n%s%s</update>\n",
		to.version, to.build, to.version, part, full)
}

// older compares the numbers of two versions.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; i < len(x) && i < len(y); i++ {
		var m, n int
		fmt.Sscan(x[i], &m)
		fmt.Sscan(y[i], &n)
		if m != n {
			return m < n
		}
	}
	return len(x) < len(y)
}

// vendorHistory: 115.18.0 is a watershed. Partial files lead from the two
// versions before, as the vendor makes them.
func vendorHistory(now time.Time) history {
	build := func(days int) string { return now.UTC().AddDate(0, 0, -days).Format("20060102150405") }
	return history{watershed: "115.18.0", all: []published{
		{version: "115.17.0", build: build(400)},
		{version: "115.18.0", build: build(370), partials: []string{"115.17.0"}},
		{version: "128.1.0", build: build(200), partials: []string{"115.18.0"}},
		{version: "128.2.0", build: build(100), partials: []string{"128.1.0"}},
		{version: "128.3.0", build: build(60), partials: []string{"128.1.0", "128.2.0"}},
		{version: "128.4.0", build: build(30), partials: []string{"128.2.0", "128.3.0"}},
	}}
}

const conformanceConfig = "product = 'thunderbird'\nchannel = 'esr'\nplatforms = ['win64']\nlocales = ['ja']\nversions = ['115.10.0', '128.1.0']\nkeep = 2\n" +
	"installers = ['exe']\nservice = '{url}/aus'\narchive = '{url}/pub'\n"
