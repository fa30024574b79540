package msix

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
	"github.com/hashike/hashike/internal/format/appx/appxtest"
)

// What a package says of itself never leads out of the feed's folder.
func FuzzDescribe(f *testing.F) {
	p := appxtest.NewPublisher("Machi", time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
	one := p.Sign(appxtest.Build(appxtest.Spec{Identity: appx.Identity{Name: "Machi.App", Publisher: p.Name, Version: "1.2.3.4", Architecture: "x64"}, Display: "App", Vendor: "Machi",
		Files: map[string][]byte{"a.txt": []byte("a")}}))
	f.Add(one, ".msix")
	f.Add(p.Sign(appxtest.Bundle(appx.Identity{Name: "Machi.App", Publisher: p.Name, Version: "1.2.3.4"}, map[string][]byte{"x64.msix": one})), ".msixbundle")
	f.Fuzz(func(t *testing.T, b []byte, ext string) {
		if d, err := describe(bytes.NewReader(b), int64(len(b)), ext); err == nil && (!feed.ValidPath(d.path) || d.name() == "" || d.vendor() == "") {
			t.Errorf("%q %q %q", d.path, d.name(), d.vendor())
		}
	})
}
