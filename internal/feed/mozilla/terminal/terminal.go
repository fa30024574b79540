// Package terminal simulates a Thunderbird with its updater, written from the
// vendor's documented rules and not from our server, and a vendor that makes
// and signs releases for it. Tests use both.
package terminal

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Terminal is a Thunderbird as its updater's rules describe it (the vendor's
// toolkit/mozapps/update; SettingUpAnUpdateServer; modules/libmar). It shares no
// code with the feed: questions, answers, archives and versions are read anew.
type Terminal struct {
	Do             func(*http.Request) (*http.Response, error)
	Policies       string // policies.json
	Version, Build string
	Target, Locale string
	Cert           []byte   // of the updater
	Channels       []string // ACCEPTED_MAR_CHANNEL_IDS of update-settings.ini
	Took           []string // what it applied: "partial 128.4.0"
	Code           int      // of update.status: 0, or why an update was refused
}

// Codes of update.status (toolkit/mozapps/update/common/updatererrors.h).
const (
	ReadError       = 6
	CertVerifyError = 19
	ChannelMismatch = 22
	DowngradeError  = 23
)

// variable is what Thunderbird fills in itself.
var variable = regexp.MustCompile(`%(\w+)%`)

// component is JavaScript's encodeURIComponent.
func component(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.!~*'()", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func (t *Terminal) question() (string, error) {
	var p struct {
		Policies struct{ AppUpdateURL string } `json:"policies"`
	}
	if err := json.Unmarshal([]byte(t.Policies), &p); err != nil || p.Policies.AppUpdateURL == "" {
		return "", fmt.Errorf("policies.json: %q, %w", t.Policies, errors.Join(err))
	}
	values := map[string]string{"PRODUCT": "Thunderbird", "VERSION": t.Version, "BUILD_ID": t.Build, "BUILD_TARGET": t.Target, "LOCALE": t.Locale, "CHANNEL": "esr",
		"OS_VERSION": "Windows_NT 10.0.0.0.19045.3803 (x64)", "SYSTEM_CAPABILITIES": "ISET:SSE4_2,MEM:32676", "DISTRIBUTION": "default", "DISTRIBUTION_VERSION": "default"}
	return variable.ReplaceAllStringFunc(p.Policies.AppUpdateURL, func(s string) string {
		if v, ok := values[strings.Trim(s, "%")]; ok {
			return component(v)
		}
		return component(s)
	}), nil
}

func (t *Terminal) get(u string, header ...string) (*http.Response, []byte, error) {
	r, err := http.NewRequest("GET", u, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := t.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, b, err
}

type patch struct {
	Type string `xml:"type,attr"`
	URL  string `xml:"URL,attr"`
	Size int    `xml:"size,attr"`
	Func string `xml:"hashFunction,attr"`
	Hash string `xml:"hashValue,attr"`
}

// Check looks for an update and applies it; false if there is none.
func (t *Terminal) Check() (bool, error) {
	u, err := t.question()
	if err != nil {
		return false, err
	}
	res, body, err := t.get(u, "Cache-Control", "no-cache", "Pragma", "no-cache")
	if err != nil || res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/xml") {
		return false, fmt.Errorf("%s: %v, %w", u, res, errors.Join(err))
	}
	var doc struct {
		XMLName xml.Name `xml:"updates"`
		Updates []struct {
			Type    string  `xml:"type,attr"`
			Version string  `xml:"appVersion,attr"`
			Build   string  `xml:"buildID,attr"`
			Patches []patch `xml:"patch"`
		} `xml:"update"`
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		return false, fmt.Errorf("%q: %w", body, err)
	}
	for _, up := range doc.Updates {
		if up.Type != "minor" && up.Type != "major" || up.Version == "" || up.Build == "" || len(up.Patches) == 0 {
			continue
		}
		if !older(t.Version, up.Version) && !(t.Version == up.Version && up.Build > t.Build) {
			continue
		}
		// The partial file first; the complete one if that fails.
		slices.SortStableFunc(up.Patches, func(a, b patch) int { return -strings.Compare(a.Type, b.Type) })
		for _, p := range up.Patches {
			if t.Code, err = t.apply(p); err != nil {
				return false, err
			}
			if t.Code == 0 {
				if t.Version != up.Version || t.Build != up.Build {
					return false, fmt.Errorf("offered %s of %s, became %s of %s", up.Version, up.Build, t.Version, t.Build)
				}
				t.Took = append(t.Took, p.Type+" "+t.Version)
				return true, nil
			}
		}
	}
	return false, nil
}

// apply downloads in pieces as nsIIncrementalDownload, checks and applies.
func (t *Terminal) apply(p patch) (int, error) {
	const piece = 300000
	var b []byte
	for len(b) < p.Size {
		res, part, err := t.get(p.URL, "Range", fmt.Sprintf("bytes=%d-%d", len(b), min(len(b)+piece, p.Size)-1))
		if err != nil || res.StatusCode != 206 || len(part) == 0 {
			return 0, fmt.Errorf("%s: %v, %w", p.URL, res, errors.Join(err))
		}
		b = append(b, part...)
	}
	if len(b) != p.Size {
		return ReadError, nil
	}
	if sum := sha256.Sum256(b); p.Func != "sha256" || hex.EncodeToString(sum[:]) != p.Hash { // clients before 65 check it
		return ReadError, nil
	}
	members, code := t.archive(b)
	if code != 0 {
		return code, nil
	}
	place := "win64 ja "
	switch string(members["updatev3.manifest"]) {
	case "type \"partial\"\n":
		if p.Type != "partial" || string(members["from"]) != place+t.Version+" "+t.Build {
			return ReadError, nil // the patches do not fit what is installed
		}
	case "type \"complete\"\n":
		if p.Type != "complete" {
			return ReadError, nil
		}
	}
	is := strings.Fields(strings.TrimPrefix(string(members["application.ini"]), place))
	if len(is) != 2 {
		return ReadError, nil
	}
	t.Version, t.Build = is[0], is[1]
	return 0, nil
}

// archive checks signature, channel and version, and reads the members.
func (t *Terminal) archive(b []byte) (map[string][]byte, int) {
	u32 := func(at int) int { return int(binary.BigEndian.Uint32(b[at:])) }
	if string(b[:4]) != "MAR1" || u32(12) != len(b) || u32(16) != 1 || u32(20) != 2 || u32(24) != 256 {
		return nil, CertVerifyError
	}
	c, err := x509.ParseCertificate(t.Cert)
	if err != nil {
		return nil, CertVerifyError
	}
	sum := sha512.Sum384(append(bytes.Clone(b[:28]), b[28+256:]...))
	if rsa.VerifyPKCS1v15(c.PublicKey.(*rsa.PublicKey), crypto.SHA384, sum[:], b[28:28+256]) != nil {
		return nil, CertVerifyError
	}
	at := 28 + 256
	if u32(at) != 1 || u32(at+8) != 1 {
		return nil, ChannelMismatch
	}
	info := bytes.Split(b[at+12:at+4+u32(at+4)], []byte{0})
	if !slices.Contains(t.Channels, string(info[0])) {
		return nil, ChannelMismatch
	}
	if older(string(info[1]), t.Version) {
		return nil, DowngradeError
	}
	members := map[string][]byte{}
	for at := u32(4) + 4; at < len(b); {
		name, _, _ := bytes.Cut(b[at+12:], []byte{0})
		members[string(name)] = b[u32(at) : u32(at)+u32(at+4)]
		at += 13 + len(name)
	}
	return members, 0
}
