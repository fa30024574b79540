package office

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/cab"
)

const useMicrosoft = "x509-microsoft"

func sources(at time.Time, files map[string][]byte) (out []cab.Source) {
	for n, b := range files {
		out = append(out, cab.Source{Name: n, Modified: at, Size: int64(len(b)), Body: bytes.NewReader(b)})
	}
	return out
}

func descriptor(build string) []byte {
	return []byte("\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<Version>\r\n  <Available Build=\"" + build + "\" I640Version=\"" + build + "\" />\r\n  <Prereq />\r\n</Version>\r\n")
}

// microsoft publishes builds of one channel for one processor.
type microsoft struct {
	t    *testing.T
	by   *feedtest.Publisher
	at   time.Time
	made map[string]feedtest.Files // by build: they never change
}

func (m microsoft) signed(files []cab.Source) []byte {
	return m.by.Cabinet(m.t, plain(m.t, files), m.at)
}

func plain(t *testing.T, files []cab.Source) []byte {
	var out bytes.Buffer
	if err := cab.Write(&out, files); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const inCDN = "pr/7ffbc6bf-bc32-4f92-8982-f9dd17fd3114/office/data/"

// state is what the servers have when build is the newest; all earlier builds stay.
func (m microsoft) state(builds ...string) feedtest.State {
	files := feedtest.Files{}
	for i, b := range builds {
		if one, ok := m.made[b]; ok {
			maps.Copy(files, one)
			files["v64.cab"] = one["v64_"+b+".cab"]
			continue
		}
		at := m.at.Add(time.Duration(i) * time.Hour).Truncate(2 * time.Second)
		ver := m.signed(sources(at, map[string][]byte{"VersionDescriptor.xml": descriptor(b)}))
		files["v64.cab"], files["v64_"+b+".cab"] = ver, ver
		one := feedtest.Files{"i640.cab": m.signed(sources(at, map[string][]byte{"x": []byte("i " + b)})),
			"i641041.cab":  plain(m.t, sources(at, map[string][]byte{"x": []byte("ja " + b)})), // by its catalogue
			"a640_exp.cab": m.signed(sources(at, map[string][]byte{"x": []byte("exp " + b)}))}
		for _, lang := range []string{"x-none", "ja-jp"} {
			one["stream.x64."+lang+".dat"] = bytes.Repeat([]byte(lang+" of "+b+"\n"), 3000)
		}
		one["s640.cab"] = m.signed(sources(at, map[string][]byte{
			"stream.x64.x-none.hash": []byte(feed.DigestOf(one["stream.x64.x-none.dat"]).Hex() + "\r\n")}))
		for _, n := range []string{"i641041.cab", "stream.x64.x-none.dat", "stream.x64.ja-jp.dat"} {
			one[n+".cat"] = m.by.Catalog(m.t, at, one[n])
		}
		all := feedtest.Files{"v64_" + b + ".cab": ver}
		for n, c := range one {
			all[b+"/"+n] = c
		}
		maps.Copy(files, all)
		m.made[b] = all
	}
	s := feedtest.State{Files: files}.Below(inCDN)
	s.Handler = m.list(builds, nil)
	return s
}

// list answers as the release service does, with what is not used too.
func (m microsoft) list(builds []string, hostile map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		b := q.Get("Version")
		if r.URL.Path != "/filelist" || q.Get("Channel") != "SemiAnnual" || q.Get("Arch") != "x64" || q.Get("Lid") != "ja-jp" || !strings.Contains(strings.Join(builds, " "), b) {
			http.NotFound(w, r)
			return
		}
		list := []map[string]any{{"url": "http://officecdn.microsoft.com/" + inCDN + "v64_" + b + ".cab", "name": "v64.cab", "relativePath": "/office/data/", "lcid": "0"}}
		for _, n := range []string{"a640_exp.cab", "i640.cab", "i641041.cab", "i641041.cab.cat", "s640.cab", "stream.x64.x-none.dat", "stream.x64.x-none.dat.cat", "stream.x64.ja-jp.dat", "stream.x64.ja-jp.dat.cat"} {
			list = append(list, map[string]any{"url": "http://officecdn.microsoft.com/" + inCDN + b + "/" + n, "name": n, "relativePath": "/office/data/" + b + "/", "hashAlgorithm": "Sha256"})
		}
		for n, dir := range hostile {
			list = append(list, map[string]any{"name": n, "relativePath": dir})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"channel": "SemiAnnual", "version": b, "architecture": "x64", "files": list})
	})
}

const block = "cdn = '{url}/pr'\nlist = '{url}/filelist'\n"

func TestConformance(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	vendor := feedtest.NewPublisher(t, useMicrosoft, "Microsoft Corporation", now)
	m := microsoft{t: t, by: vendor, at: now.Add(-24 * time.Hour)}
	m.made = map[string]feedtest.Files{}
	stranger := m
	stranger.made = map[string]feedtest.Files{}
	stranger.by = feedtest.NewPublisher(t, useMicrosoft, "Microsoft Corporation", now)
	b := []string{"16.0.17328.20670", "16.0.17928.20286", "16.0.17928.20336"}
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Trust: []feed.Anchor{vendor.Anchor}, Time: now, Config: block,
		Older: m.state(b[0]), Now: m.state(b[:2]...), Newer: m.state(b...), Forged: stranger.state(b[:2]...),
		Hostile: func(p string) feedtest.State {
			s := m.state(b...)
			s.Handler = m.list(b, map[string]string{p: "/office/data/" + b[2] + "/"})
			return s
		},
		// No signature says what a build consists of; without its catalogue a file is withheld.
		Optional: func(p string) bool { return !strings.HasSuffix(p, "/v64.cab") },
		// Two cabinets with the same bytes: which is the wrong one, nobody can tell.
		Falls: func(wrong, p string) bool {
			return strings.HasSuffix(wrong, "_exp.cab") || strings.HasSuffix(p, "_exp.cab")
		},
		Unsigned: map[string]func(feedtest.Files){
			"cabinet's signature cut off": func(f feedtest.Files) {
				p := "SemiAnnual/office/data/v64.cab"
				f[p] = plain(t, sources(now, map[string][]byte{"VersionDescriptor.xml": descriptor(b[1])}))
			},
			"catalogue's signature cut off": func(f feedtest.Files) {
				p := "SemiAnnual/office/data/" + b[1] + "/stream.x64.x-none.dat.cat"
				f[p] = f[p][:len(f[p])-72]
			},
		},
		Gone: func(p string) bool { return strings.Contains(p, b[0]) },
		Huge: func(p string) bool {
			return strings.HasSuffix(p, ".dat") || strings.Contains(p, "/i64") || strings.Contains(p, "s640") || strings.Contains(p, "a640")
		},
		Requests: []feedtest.Request{{Path: "/semiannual/Office/Data/V64.cab", Holds: b[2]}, {Path: "/SemiAnnual/office/data/" + b[2] + "/stream.x64.ja-jp.dat", Header: http.Header{"Range": {"bytes=0-4"}}, Status: 206, Holds: "ja-jp"},
			{Path: "/Current/office/data/v64.cab", Status: 404}, {Path: "/SemiAnnual/office/data/" + b[1] + "/i640.cab"}},
	})
}
