package mozilla

import (
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
	"github.com/hashike/hashike/internal/format/mar/martest"
	"github.com/hashike/hashike/verifier"
)

// maker is a generated vendor and the public halves of its keys.
type maker struct {
	terminal.Vendor
	pgp, anchor feed.Anchor
}

func newMaker(t *testing.T, name string, now time.Time) *maker {
	key, der := martest.NewKey(t, "Release MAR signing key "+name)
	pgp := feedtest.NewSigner(t, name, now.Add(-24*time.Hour))
	sign := func(text []byte) []byte { return pgp.Detached(t, text, now.Add(-30*time.Hour), true) }
	return &maker{Vendor: terminal.Vendor{T: t, Key: key, Sign: sign}, pgp: pgp.Anchor,
		anchor: feed.Anchor{Name: name + "-mar", Use: verifier.UseMAR, Data: der, Source: "made for this test"}}
}

func (m *maker) anchors() []feed.Anchor { return []feed.Anchor{m.pgp, m.anchor} }

func (m *maker) state(h terminal.History, places []string, extra ...string) feedtest.State {
	files, service := m.State(h, places, extra...)
	return feedtest.State{Files: files, Handler: service}
}

const conformanceConfig = "product = 'thunderbird'\nchannel = 'esr'\nplatforms = ['win64']\nlocales = ['ja']\nversions = ['115.10.0', '128.1.0']\nkeep = 2\n" +
	"installers = ['exe']\nservice = '{url}/aus'\narchive = '{url}/pub'\n"
