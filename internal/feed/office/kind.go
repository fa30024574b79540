// Package office carries Microsoft 365 Apps and the volume editions of Office
// that install by Click-to-Run, per update channel.
//
// A snapshot holds, per channel and processor, the newest build and some older
// ones (terminals update by the difference to what they have): the tree below
// /office/data as Microsoft's own distribution servers have it. What proves it:
//
//	v64.cab, v64_<build>.cab   Authenticode; they say which build is the newest
//	<build>/*.cab              Authenticode, or the signed catalogue beside them
//	<build>/*.dat              the signed catalogue beside them (.dat.cat)
//
// The .dat are the payload, gigabytes each. The s-cabinets also hold a SHA-256
// of each; its form is known from no sample, so it is compared where it reads
// as one and never enough by itself.
package office

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is an office feed's block.
type Config struct {
	Channels  []string      `toml:"channels" doc:"更新チャネル / update channels: Current, MonthlyEnterprise, SemiAnnual, SemiAnnualPreview, CurrentPreview, PerpetualVL2019, PerpetualVL2021, PerpetualVL2024"`
	Arch      []string      `toml:"arch" doc:"x64、x86 / processors"`
	Languages []string      `toml:"languages" doc:"言語（ja-jp など） / languages"`
	Keep      int           `toml:"keep" doc:"残しておく版の数。端末は手元の版からの差分で更新する / builds kept: terminals update by the difference to theirs"`
	CDN       string        `toml:"cdn" doc:"配布元のURL / where Microsoft distributes from"`
	List      string        `toml:"list" doc:"ファイル一覧のURL / where the list of a build's files is asked"`
	Yellow    feed.Duration `toml:"yellow" doc:"最新の版がこれより古ければ黄 / age of the newest build that is shown yellow"`
	Red       feed.Duration `toml:"red" doc:"最新の版がこれより古ければ赤 / age that is shown red"`
}

// channels are the folders of the distribution servers (Microsoft's release
// service, December 2024).
func channels() map[string]string {
	return map[string]string{
		"Current":           "492350f6-3a01-4f97-b9c0-c7c6ddf67d60",
		"MonthlyEnterprise": "55336b82-a18d-4dd6-b5f6-9e5095c314a6",
		"SemiAnnual":        "7ffbc6bf-bc32-4f92-8982-f9dd17fd3114",
		"SemiAnnualPreview": "b8f9b850-328d-4355-9145-c59439a0c4cf",
		"CurrentPreview":    "64256afe-f5d9-4f86-8936-8840a6a4f5be",
		"PerpetualVL2019":   "f2e724c1-748f-4b47-8fb8-8e0d210e9208",
		"PerpetualVL2021":   "5030841d-c919-4594-8d2d-84ae4f96e58e",
		"PerpetualVL2024":   "7983bac0-e531-40cf-be00-fd24fe66619c",
	}
}

const (
	day     = 24 * time.Hour
	maxKeep = 20
)

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "office",
		Title: feed.Text{JA: "Microsoft 365 Apps・Office（クイック実行）", EN: "Microsoft 365 Apps and Office (Click-to-Run)"},
		Config: func() any {
			return &Config{Channels: []string{"SemiAnnual"}, Arch: []string{"x64"}, Languages: []string{"ja-jp"}, Keep: 2,
				CDN: "https://officecdn.microsoft.com/pr", List: "https://clients.config.office.net/releases/v1.0/filelist",
				Yellow: feed.Duration(45 * day), Red: feed.Duration(75 * day)}
		},
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Metadata: feed.Signed, feed.Security: feed.Signed},
		Anchors: verifier.MicrosoftAnchors(),
		Prefer:  feed.Security,
	}
}

type office struct {
	cfg       Config
	cdn, list *url.URL
}

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	one := func(key string, list []string, ok func(string) bool) error {
		for i, s := range list {
			if !ok(s) || slices.Contains(list[:i], s) {
				return bad(key, fmt.Sprintf("%.60q", s))
			}
		}
		if len(list) == 0 {
			return bad(key, "at least one is needed")
		}
		return nil
	}
	folders := channels()
	for _, err := range []error{
		one("channels", cfg.Channels, func(s string) bool { return folders[s] != "" }),
		one("arch", cfg.Arch, func(s string) bool { return s == "x64" || s == "x86" }),
		one("languages", cfg.Languages, isLanguage),
	} {
		if err != nil {
			return nil, err
		}
	}
	switch {
	case cfg.Keep < 1 || cfg.Keep > maxKeep:
		return nil, bad("keep", fmt.Sprintf("%d is not from 1 to %d", cfg.Keep, maxKeep))
	case cfg.Yellow <= 0 || cfg.Red < cfg.Yellow:
		return nil, bad("red", "must not be less than yellow")
	}
	f := &office{cfg: cfg}
	for key, into := range map[string]struct {
		text string
		u    **url.URL
	}{"cdn": {cfg.CDN, &f.cdn}, "list": {cfg.List, &f.list}} {
		u, err := url.Parse(strings.TrimSuffix(into.text, "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, bad(key, fmt.Sprintf("%.200q is not an http or https address", into.text))
		}
		*into.u = u
	}
	return f, nil
}

// isLanguage: "ja-jp", "zh-hans", "sr-cyrl-ba".
func isLanguage(s string) bool {
	parts := strings.Split(s, "-")
	if len(parts) < 2 || len(parts) > 3 {
		return false
	}
	for _, p := range parts {
		if len(p) < 2 || len(p) > 8 || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return false
		}
	}
	return true
}

// Reaches implements feed.Reacher.
func (f *office) Reaches() []string { return []string{f.cdn.String() + "/", f.list.String()} }

// Released implements feed.Freshness: the newest build of the first channel.
func (f *office) Released(c feed.Content) (time.Time, string) {
	for _, arch := range f.cfg.Arch {
		if a, ok := c.Lookup(file{channel: f.cfg.Channels[0], arch: arch, role: newest}.path()); ok {
			return a.Time, a.Version
		}
	}
	return time.Time{}, ""
}

// Stale implements feed.Freshness: each channel has a build at least every month.
func (f *office) Stale() (yellow, red time.Duration) {
	return time.Duration(f.cfg.Yellow), time.Duration(f.cfg.Red)
}

// build is a version such as 16.0.17928.20336.
type build [4]uint32

// parseBuild reads a build as Microsoft writes it.
func parseBuild(s string) (b build, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return b, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil || n >= 1<<20 || i < 2 && n >= 1<<10 || strconv.FormatUint(n, 10) != p {
			return b, false
		}
		b[i] = uint32(n)
	}
	return b, true
}

// order is the place among builds: one channel never goes back.
func (b build) order() int64 {
	return int64(b[0])<<50 | int64(b[1])<<40 | int64(b[2])<<20 | int64(b[3])
}

func (b build) String() string { return fmt.Sprintf("%d.%d.%d.%d", b[0], b[1], b[2], b[3]) }
