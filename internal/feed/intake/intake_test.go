package intake

import (
	"bytes"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/hashike/hashike/internal/feed"
)

// forge writes a descriptor that Encode would refuse.
func forge(t testing.TB, d Descriptor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(d); err != nil {
		t.Fatal(err)
	}
	return append([]byte(head+string(feed.DigestOf(b.Bytes()))+"\n"), b.Bytes()...)
}
