package sophos

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/feed"
)

// Whoever configures it is told why it cannot be, and what to do.
func TestRefusedWithReason(t *testing.T) {
	p := filepath.Join(t.TempDir(), "hashike.toml")
	if err := os.WriteFile(p, []byte("schema = 1\nside = \"outside\"\n[feed.av]\nkind = \"sophos\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(p, []feed.Kind{Kind()})
	f, ok := errors.AsType[*feed.Fault](err)
	if !errors.Is(err, feed.ErrConfig) || !ok || f.Code != "H-219" || f.Args["file"] != p {
		t.Errorf("%v", err)
	}
}
