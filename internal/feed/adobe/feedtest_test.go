package adobe

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

const (
	productCode = "{AC76BA86-1033-FF00-7760-BC15014EA700}"
	upgradeCode = "{A6EADE66-0000-0000-484E-7E8A45000000}"
	base        = "15.007.20033"
)

// vendor makes signed files; one version's never change.
type vendor struct {
	t    testing.TB
	by   *feedtest.Publisher
	made map[string][]byte
}

func newVendor(t testing.TB, at time.Time) *vendor {
	return &vendor{t, feedtest.NewPublisher(t, use, "Adobe Inc.", at), map[string][]byte{}}
}

func ver(s string) Version {
	v, ok := ParseVersion(s)
	if !ok {
		panic(s)
	}
	return v
}

func (v *vendor) exe(version string) []byte {
	if v.made["exe"+version] == nil {
		x := ver(version)
		v.made["exe"+version] = v.by.Program(v.t, feedtest.UnsignedProgram([4]uint16{uint16(x.Year), uint16(x.Quarter), uint16(x.Build)}, 0x14c, 1, []byte(version)), time.Now())
	}
	return v.made["exe"+version]
}

func (v *vendor) msp(version, from string) []byte {
	if v.made["msp"+version] == nil {
		v.made["msp"+version] = v.by.Patch(v.t, fmt.Sprintf("{AC76BA86-0000-0000-7760-7E8%09d}", ver(version).order()%1e9), []string{productCode},
			productCode+from+";"+productCode+version+";"+upgradeCode)
	}
	return v.made["msp"+version]
}

func name(form, version string) string {
	p, _ := parseProduct("reader-x64")
	return file{p, form, "MUI", ver(version)}.path()
}

// state: a quarterly version with its installer, and what came after it.
func (v *vendor) state(quarterly string, later ...string) feedtest.State {
	f := feedtest.Files{"pub/" + name("exe", quarterly): v.exe(quarterly), "pub/" + name("msp", quarterly): v.msp(quarterly, base)}
	newest := quarterly
	for _, l := range later {
		f["pub/"+name("msp", l)] = v.msp(l, quarterly)
		newest = l
	}
	f["arm/win/AcrobatDC/reader/current_version.txt"] = []byte(newest + "\r\n")
	return feedtest.State{Files: f}
}

const config = "oracle = '{url}/arm'\ncatalogue = '{url}/scup'\narchive = '{url}/pub'\n"

func TestConformance(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	v, other := newVendor(t, now), newVendor(t, now)
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Trust: []feed.Anchor{v.by.Anchor}, Time: now, Config: config,
		Older: v.state("24.005.20320"), Now: v.state("25.001.20428", "25.001.20531"), Newer: v.state("25.001.20428", "25.001.20531", "25.001.20577"),
		Forged:   other.state("25.001.20428", "25.001.20540"), // of another version: what is held of one is never fetched again
		Optional: func(string) bool { return true },           // each file stands alone
		Huge:     func(string) bool { return true },
		Loose: func(p string, at int) bool {
			f, ok := parsePath(strings.TrimPrefix(p, "pub/"))
			return ok && f.form == "msp" && feedtest.Slack(t, v.made["msp"+f.version.String()], at)
		},
		Hostile: func(p string) feedtest.State {
			s := v.state("25.001.20428")
			s.Files["arm/win/AcrobatDC/reader/current_version.txt"] = []byte(p)
			return s
		},
		Without: map[string]string{"mixed": "a version's file never changes: no path has other bytes"},
		Gone:    func(p string) bool { return p == name("msp", "24.005.20320") }, // keep = 2
		Unsigned: map[string]func(feedtest.Files){"signature damaged": func(f feedtest.Files) {
			for p, b := range f {
				if i := bytes.Index(b, []byte("Adobe Inc.1")); i > 0 {
					b = bytes.Clone(b)
					b[i+200] ^= 1
					f[p] = b
				}
			}
		}},
		Requests: []feedtest.Request{
			{Path: "/" + name("exe", "25.001.20428")}, {Path: "/" + name("exe", "25.001.20577"), Status: 404},
			{Path: "/route.json?product=reader-x64&language=MUI&installed=24.005.20320", Holds: name("msp", "25.001.20428")},
			{Path: "/route.json?product=reader-x64&language=MUI&installed=25.001.20428", Holds: `"version": "25.001.20577"`},
			{Path: "/route.json?product=reader-x64&language=MUI&installed=25.001.20577", Holds: `"steps": []`},
			{Path: "/route.json?product=reader-x64&installed=25", Status: 400}, {Method: "POST", Path: "/route.json", Status: 405},
		},
	})
}
