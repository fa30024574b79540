package config

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

type nothing struct{}

func (nothing) Fetch(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
	return "", nil
}
func (nothing) Verify(context.Context, feed.Content, feed.Trust, feed.Proof) error { return nil }
func (nothing) Handler(feed.Serving) (http.Handler, error)                         { return nil, nil }

type toyConfig struct {
	URL   string   `toml:"url" doc:"where"`
	Names []string `toml:"names" doc:"which"`
}

func toy() feed.Kind {
	return feed.Kind{
		Name: "toy", Title: feed.Text{JA: "見本", EN: "toy"},
		Config: func() any { return &toyConfig{URL: "https://vendor.example/", Names: []string{"a"}} },
		Floors: map[feed.Class]feed.Strength{feed.Metadata: feed.Listed},
		New: func(d feed.Decode) (feed.Feed, error) {
			var c toyConfig
			return nothing{}, d(&c)
		},
	}
}

func TestUnknownKeysNameTableAndKey(t *testing.T) {
	head := "side = \"outside\"\n"
	for text, want := range map[string]string{
		head + "colour = 1\n":                                                    `top level: unknown key "colour"`,
		head + "[network]\nproxi = \"none\"\n":                                   `[network]: unknown key "proxi"`,
		head + "[feed.a]\nkind = \"toy\"\nurll = \"x\"\n":                        `[feed.a]: unknown key "urll"`,
		head + "[feed.A]\nkind = \"toy\"\n":                                      "a feed's name",
		head + "[feed.com1]\nkind = \"toy\"\n":                                   "a feed's name",
		head + "[feed.a]\nkind = \"toi\"\n":                                      `kind "toi" is none of toy`,
		head + "[feed.a]\nkind = \"toy\"\nmount = \"/x\"\n":                      "mount",
		head + "[feed.a]\nkind = \"toy\"\nevery = \"1s\"\n":                      "at least one minute",
		head + "[feed.a]\nkind = \"toy\"\nleast = { metadata = \"attested\" }\n": "below the kind's own",
		head + "[feed.a]\nkind = \"toy\"\nleast = { payload = \"signed\" }\n":    "no such class",
		head + "[feed.a]\nkind = \"toy\"\nwaits = { everybody = \"1h\" }\n":      "the rings are",
		head + "scan = \"clamav\"\n":                                             "clamd:unix",
		head + "scan = \"clamd:tcp:localhost\"\n":                                "clamd:unix",
		head + "scan = [\"scanner\", \"--all\"]\n":                               "{file}",
		head + "scan = [\"scanner\", 1]\n":                                       "a list of texts",
		head + "scan = 3\n":                                                      "a list of texts",
		head + "over_limit = \"ignore\"\n":                                       "stop or record",
		head + "rescan_days = -1\n":                                              "rescan_days",
		head + "scan_limit_mb = -1\n":                                            "scan_limit_mb",
		"side = \"middle\"\n":                                                    "outside or inside",
		head + "schema = 99\n":                                                   "newer",
		head + "[bundle]\nexpiry_days = 3\n":                                     "7 to 400",
		head + "[feed.a]\nkind = \"toy\"\nmount=\"/x/\"\n[feed.b]\nkind = \"toy\"\nmount=\"/x/\"\n": "same mount",
	} {
		_, err := Parse("hashike.toml", text, []feed.Kind{toy()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestTemplateIsValidAndUncommentsToValid(t *testing.T) {
	kinds := []feed.Kind{toy()}
	for _, side := range []string{"outside", "inside"} {
		text := Template(side, "試験町", kinds)
		if _, err := Parse("t", text, kinds); err != nil {
			t.Fatalf("%s: %v\n%s", side, err, text)
		}
		var b strings.Builder
		for line := range strings.Lines(text) {
			if after, ok := strings.CutPrefix(line, "# "); ok && (strings.HasPrefix(after, "[feed.") || strings.Contains(after, " = ") && !strings.Contains(after, "/ ")) {
				line = after
			}
			b.WriteString(line)
		}
		f, err := Parse("t", b.String(), kinds)
		if err != nil {
			t.Fatalf("%s uncommented: %v\n%s", side, err, b.String())
		}
		if len(f.Feeds) != 1 || f.Feeds[0].Mount != "/toy-1/" || f.Feeds[0].Floors[feed.Metadata] != feed.Listed {
			t.Errorf("feeds %+v", f.Feeds)
		}
	}
}

func TestRaisedFloor(t *testing.T) {
	f, err := Parse("t", "side = \"inside\"\n[feed.a]\nkind = \"toy\"\nleast = { metadata = \"signed\" }\nwaits = { all = \"2d\" }\n", []feed.Kind{toy()})
	if err != nil {
		t.Fatal(err)
	}
	if f.Feeds[0].Floors[feed.Metadata] != feed.Signed {
		t.Error("floor was not raised")
	}
	if _, err := f.Feed("b"); err == nil {
		t.Error("an unknown feed was found")
	}
}

func TestLoadIsAConfigFault(t *testing.T) {
	_, err := Load("no-such-file.toml", nil)
	var f *feed.Fault
	if !errors.Is(err, feed.ErrConfig) || !errors.As(err, &f) || f.Code != "H-202" {
		t.Errorf("%v", err)
	}
}

func TestScanners(t *testing.T) {
	for text, want := range map[string]Scanner{
		`"clamd:unix:/run/clamav/clamd.ctl"`: {Name: "clamd:unix:/run/clamav/clamd.ctl"},
		`"clamd:tcp:[::1]:3310"`:             {Name: "clamd:tcp:[::1]:3310"},
		`"defender"`:                         {Name: "defender"},
		`["prog", "arg", "{file}"]`:          {Args: []string{"prog", "arg", "{file}"}},
		`""`:                                 {},
	} {
		f, err := Parse("hashike.toml", "side = \"outside\"\nscan = "+text+"\n", []feed.Kind{toy()})
		if err != nil || f.Scan.Name != want.Name || strings.Join(f.Scan.Args, " ") != strings.Join(want.Args, " ") || f.OverLimit != OverLimitRecord || f.RescanDays != 7 {
			t.Errorf("%s: %+v %v", text, f, err)
		}
	}
}
