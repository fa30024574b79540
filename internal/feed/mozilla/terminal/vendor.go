package terminal

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
	"time"

	"github.com/hashike/hashike/internal/format/mar/martest"
)

// Vendor signs as Mozilla does and answers as its update service does. Its
// rules too are written from the vendor's documentation.
type Vendor struct {
	T    martest.Fataler
	Key  *rsa.PrivateKey          // of MAR files
	Sign func(text []byte) []byte // of lists: armored OpenPGP

	Program []byte // every installer; nil makes small ones

	signed map[string][]byte // by text: made once, as the vendor's
}

// Published is one release of the generated vendor.
type Published struct {
	Version, Build string
	Partials       []string // versions it has partial files from
}

// History is what the vendor has Published, oldest first. Who is older than
// Watershed must pass it.
type History struct {
	All       []Published
	Watershed string
}

func (h History) Newest() Published { return h.All[len(h.All)-1] }

func (h History) Find(version string) (Published, bool) {
	i := slices.IndexFunc(h.All, func(p Published) bool { return p.Version == version })
	if i < 0 {
		return Published{}, false
	}
	return h.All[i], true
}

// UpTo is the vendor as it was when version was its newest.
func (h History) UpTo(version string) History {
	i := slices.IndexFunc(h.All, func(p Published) bool { return p.Version == version })
	return History{h.All[:i+1], h.Watershed}
}

// Channel is the channel id in the vendor's archives.
const Channel = "thunderbird-comm-esr"

func (v *Vendor) complete(p Published, place string) []byte {
	return martest.Signed(v.T, v.Key, Channel, p.Version,
		martest.Member{Name: "updatev3.manifest", Body: []byte("type \"complete\"\n")},
		martest.Member{Name: "application.ini", Body: []byte(place + " " + p.Version + " " + p.Build)},
		martest.Member{Name: "xul.dll", Body: bytes.Repeat([]byte(p.Version), 200)})
}

func (v *Vendor) partial(from, p Published, place string) []byte {
	return martest.Signed(v.T, v.Key, Channel, p.Version,
		martest.Member{Name: "updatev3.manifest", Body: []byte("type \"partial\"\n")},
		martest.Member{Name: "from", Body: []byte(place + " " + from.Version + " " + from.Build)},
		martest.Member{Name: "application.ini", Body: []byte(place + " " + p.Version + " " + p.Build)})
}

// release is a release's folder: pub/thunderbird/releases/…
func (v *Vendor) release(h History, p Published, places []string, extra ...string) map[string][]byte {
	root := "pub/thunderbird/releases/" + p.Version + "esr"
	below := map[string][]byte{"source/thunderbird-" + p.Version + "esr.source.tar.xz": []byte("source")}
	for _, place := range places {
		platform, locale, _ := strings.Cut(place, " ")
		at := path.Join("update", platform, locale)
		below[at+"/thunderbird-"+p.Version+"esr.complete.mar"] = v.complete(p, place)
		for _, old := range p.Partials {
			from, _ := h.Find(old)
			below[at+"/thunderbird-"+old+"esr-"+p.Version+"esr.partial.mar"] = v.partial(from, p, place)
		}
		below[path.Join(platform, locale)+"/Thunderbird Setup "+p.Version+"esr.exe"] = v.installer("MZ installer " + place + p.Version)
	}
	var sums strings.Builder
	for _, n := range slices.Sorted(maps.Keys(below)) {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(below[n]), n)
	}
	for _, n := range extra {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256([]byte("escaped")), n)
	}
	if v.signed == nil {
		v.signed = map[string][]byte{}
	}
	if v.signed[sums.String()] == nil {
		v.signed[sums.String()] = v.Sign([]byte(sums.String()))
	}
	out := map[string][]byte{root + "/SHA256SUMS": []byte(sums.String()), root + "/SHA256SUMS.asc": v.signed[sums.String()]}
	for n, b := range below {
		out[root+"/"+n] = b
	}
	return out
}

func (v *Vendor) installer(text string) []byte {
	if v.Program != nil {
		return v.Program
	}
	return []byte(text)
}

// State is the vendor's two servers: service below aus/, files below pub/.
// extra names stand in the newest release's list.
func (v *Vendor) State(h History, places []string, extra ...string) (map[string][]byte, http.Handler) {
	files := map[string][]byte{}
	for i, p := range h.All {
		var more []string
		if i == len(h.All)-1 {
			more = extra
		}
		maps.Copy(files, v.release(h, p, places, more...))
	}
	return files, h.Service(files)
}

// Service answers update questions.
func (h History) Service(files map[string][]byte) http.Handler {
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

func (h History) offer(product, version, build, target, locale, channel string, files map[string][]byte) string {
	platform := map[string]string{"WINNT_x86_64-msvc-x64": "win64", "WINNT_x86-msvc-x64": "win32", "Darwin_x86_64-gcc3-u-i386-x86_64": "mac"}[target]
	to := h.Newest()
	if _, ok := h.Find(h.Watershed); ok && older(version, h.Watershed) {
		to, _ = h.Find(h.Watershed)
	}
	if product != "Thunderbird" || channel != "esr" || platform == "" || !older(version, to.Version) {
		return ""
	}
	at := "pub/thunderbird/releases/" + to.Version + "esr/update/" + platform + "/" + locale + "/thunderbird-"
	patch := func(kind, name string) string {
		b, ok := files[at+name]
		if !ok {
			return ""
		}
		sum := sha512.Sum512(b)
		return fmt.Sprintf("<patch type=%q URL=\"https://download.mozilla.org/?product=thunderbird-%s&amp;os=win64&amp;lang=ja\" hashFunction=\"sha512\" hashValue=%q size=\"%d\"/>\n",
			kind, to.Version, hex.EncodeToString(sum[:]), len(b))
	}
	full := patch("complete", to.Version+"esr.complete.mar")
	if full == "" {
		return ""
	}
	part := ""
	if from, ok := h.Find(version); ok && from.Build == build {
		part = patch("partial", version+"esr-"+to.Version+"esr.partial.mar")
	}
	return fmt.Sprintf("<update appVersion=%q buildID=%q detailsURL=\"https://live.thunderbird.net/?a=b&amp;c=d\" displayVersion=\"%sesr\" type=\"minor\">\n%s%s</update>\n",
		to.Version, to.Build, to.Version, part, full)
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

// NewHistory is six releases of an ESR line up to now: 115.18.0 is a Watershed. Partial files lead from the two
// versions before, as the vendor makes them.
func NewHistory(now time.Time) History {
	build := func(days int) string { return now.UTC().AddDate(0, 0, -days).Format("20060102150405") }
	return History{Watershed: "115.18.0", All: []Published{
		{Version: "115.17.0", Build: build(400)},
		{Version: "115.18.0", Build: build(370), Partials: []string{"115.17.0"}},
		{Version: "128.1.0", Build: build(200), Partials: []string{"115.18.0"}},
		{Version: "128.2.0", Build: build(100), Partials: []string{"128.1.0"}},
		{Version: "128.3.0", Build: build(60), Partials: []string{"128.1.0", "128.2.0"}},
		{Version: "128.4.0", Build: build(30), Partials: []string{"128.2.0", "128.3.0"}},
	}}
}
