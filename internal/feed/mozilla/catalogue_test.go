package mozilla

import (
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
)

// TestCatalogue: as winget-pkgs describes the same package.
func TestCatalogue(t *testing.T) {
	now := time.Now()
	m, _ := revocable(t, now)
	m.Program = []byte("MZ program")
	b := newBench(t, func(c *Config) { c.Installers = []string{"exe"} })
	c := b.must(m.state(terminal.NewHistory(now), []string{"win64 ja"}), nil)
	list, err := feed.Installers(b.feed, feed.View{Content: c})
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	i := list[0]
	if i.ID != "Mozilla.Thunderbird.ESR.ja" || i.Version != "128.4.0" || i.ProductCode != "Mozilla Thunderbird 128.4.0 (x64 ja)" || i.Name != "Mozilla Thunderbird (x64 ja)" ||
		i.Type != "nullsoft" || i.Locale != "ja-JP" || i.Digest != feed.DigestOf(m.Program) {
		t.Errorf("%+v", i)
	}
	s := stream{Platform: "win32", Locale: "en-US"}
	if got := (line{"firefox", esr}).describe(s, "140.12.0"); got.ID != "Mozilla.Firefox.ESR" || got.ProductCode != "Mozilla Firefox 140.12.0 ESR (x86 en-US)" || got.Arch != "x86" {
		t.Errorf("%+v", got)
	}
	if got := (line{"firefox", "release"}).describe(s, "150.0"); got.ID != "Mozilla.Firefox" || got.Name != "Mozilla Firefox (x86 en-US)" {
		t.Errorf("%+v", got)
	}
	if held, err := feed.Installers(b.feed, feed.View{Content: c, Withheld: map[string]string{i.Path: "test"}}); err != nil || len(held) != 0 {
		t.Errorf("withheld, and yet %+v %v", held, err)
	}
}
