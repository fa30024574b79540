package packager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/typed"
)

var hexA = "sha256:" + strings.Repeat("a", 64)

func seedSet() Set {
	r := Ref{feed.Digest(hexA), 10, 1}
	return Set{Schema: 1, Format: setFormat, Sites: []int{1, 2}, Number: 412, Version: 1_700_000_000, Root: 1,
		Created: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Expires: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
		Base: &BaseRef{400, feed.Digest(hexA)}, Bytes: 5 << 20, Feeds: r, Blobs: r, Volumes: r, Orders: r, Blocks: Ref{feed.Digest(hexA), 160, 5}}
}

func FuzzSet(f *testing.F) {
	b, _, err := seedSet().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":2,"format":"hashike-set"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSet(b)
		if err != nil {
			return
		}
		again, _, err := s.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q was accepted and is written %q (%v)", b, again, err)
		}
	})
}

// lines is a table of JSON lines.
func lines(v ...any) []byte {
	var b bytes.Buffer
	for _, l := range v {
		j, _ := json.Marshal(l)
		b.Write(append(j, '\n'))
	}
	return b.Bytes()
}

func compressed(b []byte) []byte {
	z, _ := zstd.NewWriter(nil)
	return z.EncodeAll(b, nil)
}

func FuzzBlobMap(f *testing.F) {
	a := feed.Digest(hexA)
	f.Add(lines(Container{Volume: 1, Type: typePack, Digest: a, Size: 4096, Count: 2}, Member{a, 512, 10}, Member{a, 1536, 0},
		Container{Volume: 1, Type: typeFile, Digest: a, Size: 9}, Container{Volume: 2, Type: typeSegment, Digest: a, Size: 5, Of: a, At: 5, All: 10}), int64(5))
	f.Add([]byte(`{"v":1,"t":"pack","c":"`+hexA+`","n":10,"k":1}`+"\n"+`{"d":"`+hexA+`","o":9223372036854775807,"n":9}`+"\n"), int64(2))
	f.Fuzz(func(t *testing.T, raw []byte, n int64) {
		for _, b := range [][]byte{raw, compressed(raw)} {
			seen, volume := int64(0), 1
			for c, err := range containers(bytes.NewReader(b), n, 3) {
				if err != nil {
					break
				}
				seen += 1 + int64(len(c.Members))
				end := int64(0)
				for _, m := range c.Members {
					if m.Offset < end || m.Size < 0 || m.Offset+m.Size > c.Size || m.Offset+m.Size < 0 {
						t.Fatalf("member %+v of %+v", m, c)
					}
					end = m.Offset + m.Size
				}
				if c.Volume < volume || c.Volume > 3 || c.Size < 0 {
					t.Fatalf("container %+v", c)
				}
				volume = c.Volume
			}
			if seen > max(n, 0) {
				t.Fatalf("%d lines of %d", seen, n)
			}
		}
	})
}

func FuzzTables(f *testing.F) {
	a := feed.Digest(hexA)
	o := Object{a, 3}
	f.Add(lines(FeedLine{"alpha", "apt", 1, a, a, a}, FeedLine{"beta", "apt", 1, a, a, ""}), int64(2))
	f.Add(lines(VolumeLine{1, 1, 1, o, o, o}), int64(1))
	sealed, err := sealOrder(feed.Order{Schema: 1, Number: 1, Kind: feed.OrderPullBack, Feed: "alpha", Reason: "r", Operator: "o", Issued: time.Unix(1, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(lines(sealed.env), int64(1))
	f.Fuzz(func(t *testing.T, raw []byte, n int64) {
		z := compressed(raw)
		if l, err := readFeeds(bytes.NewReader(z), n); err == nil && int64(len(l)) != max(n, 0) {
			t.Errorf("%d feeds of %d lines", len(l), n)
		}
		readFeeds(bytes.NewReader(raw), n)
		if l, err := readVolumes(bytes.NewReader(raw), n); err == nil && int64(len(l)) != max(n, 0) {
			t.Errorf("%d volumes of %d lines", len(l), n)
		}
		if l, err := readOrders(bytes.NewReader(raw), n); err == nil && int64(len(l)) != max(n, 0) {
			t.Errorf("%d orders of %d lines", len(l), n)
		}
	})
}

// A table that inflates without end costs no memory and ends at its line count.
func TestTableBomb(t *testing.T) {
	var b bytes.Buffer
	z, _ := zstd.NewWriter(&b)
	for range 64 {
		z.Write(bytes.Repeat([]byte{'\n'}, 1<<20))
	}
	z.Close()
	if _, err := readFeeds(&b, 1<<20); !errors.Is(err, feed.ErrDamaged) {
		t.Error(err)
	}
	b.Reset()
	z, _ = zstd.NewWriter(&b)
	for range 64 {
		z.Write(bytes.Repeat([]byte{' '}, 1<<20))
	}
	z.Close()
	if _, err := readFeeds(&b, 1); !errors.Is(err, feed.ErrDamaged) {
		t.Error(err)
	}
}

// FuzzPack offers any bytes as a pack whose members the blob map names: only
// blobs with their own digest come out.
func FuzzPack(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), int64(2), int64(3), int64(7), int64(4), byte(0))
	f.Add([]byte(""), int64(0), int64(0), int64(0), int64(0), byte(1))
	f.Fuzz(func(t *testing.T, raw []byte, o1, n1, o2, n2 int64, flip byte) {
		size := int64(len(raw))
		if size > 1<<16 || o1 < 0 || n1 < 0 || o2 < o1 || n2 < 0 || o1 > size || n1 > size-o1 || o2 < o1+n1 || o2 > size || n2 > size-o2 {
			return
		}
		dir := t.TempDir()
		c := &Container{Volume: 1, Type: typePack, Digest: feed.DigestOf(raw), Size: size, Count: 2, Members: []Member{
			{feed.DigestOf(raw[o1 : o1+n1]), o1, n1}, {feed.DigestOf(raw[o2 : o2+n2]), o2, n2}}}
		bad := bytes.Clone(raw)
		if size > 0 {
			bad[int(flip)%len(bad)] ^= flip
		}
		os.MkdirAll(filepath.Join(dir, "m", dirBlobs), 0o755)
		os.WriteFile(filepath.Join(dir, "m", blobName(c.Digest)), bad, 0o644)
		os.WriteFile(filepath.Join(dir, "m", nameSet), nil, 0o644)
		m, err := openMedium(filepath.Join(dir, "m"))
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		store, err := cas.Open(filepath.Join(dir, "s"), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		a := newAbsorber(context.Background(), &Bundle{}, store)
		defer a.group.Close()
		for _, mem := range c.Members {
			a.wanted[sumOf(mem.Digest)] = struct{}{}
		}
		if err := a.pack(m, c); err != nil {
			t.Fatal(err)
		}
		if err := a.group.Flush(); err != nil {
			t.Fatal(err)
		}
		if changed := !bytes.Equal(raw, bad); changed != (len(a.b.damaged) == 1) {
			t.Errorf("changed %v, damaged %v", changed, a.b.damaged)
		}
		store.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
			if err := store.Verify(context.Background(), d); err != nil {
				t.Error(err)
			}
			return nil
		})
	})
}

// FuzzMetadata offers any bytes as TUF metadata and as a root: no panic, and
// nothing unsigned is believed.
func FuzzMetadata(f *testing.F) {
	m := metadata.Timestamp(time.Unix(1<<31, 0))
	b, _ := m.ToBytes(false)
	f.Add(b)
	r := metadata.Root(time.Unix(1<<31, 0))
	b, _ = r.ToBytes(false)
	f.Add(b)
	f.Add([]byte(`{"signatures":[],"signed":{"_type":"root","keys":{"a":null},"roles":{"root":{"keyids":["a"],"threshold":1}},"version":1}}`))
	f.Add([]byte(`{"signatures":[],"signed":{"_type":"timestamp","meta":{"snapshot.json":null}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := trustRoot(b); err == nil {
			t.Skip("a root that signs itself") // not reachable by mutation
		}
		_, err := judge(trusted{roots: [][]byte{b}}, func(string) ([]byte, error) { return b, nil }, approvals{})
		if err == nil {
			t.Error("believed")
		}
	})
}

func FuzzApproval(f *testing.F) {
	f.Add([]byte(`{"schema":1,"format":"hashike-approval","number":7,"set":"` + hexA + `","version":1,"key":"a","signature":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseApproval(b); err == nil {
			if again, _ := json.Marshal(a); !bytes.Equal(again, b) {
				t.Error("two spellings")
			}
		}
	})
}

func FuzzDigits(f *testing.F) {
	f.Add("1234 5678")
	f.Add("１２３４ー５６７８")
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := typed.Digits(s); ok {
			for _, c := range d {
				if c < '0' || c > '9' {
					t.Errorf("%q reads as %q", s, d)
				}
			}
			if len(d) > 0 && !checks(withCheck(d)) {
				t.Errorf("%s does not check", withCheck(d))
			}
		}
	})
}

func FuzzReturn(f *testing.F) {
	f.Add(Return{Receipt: "00001 1 2", Need: "ABCD"}.text())
	f.Add("hashike-return 1\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseReturn(s)
		if err != nil {
			return
		}
		if again, err := parseReturn(r.text()); err != nil || again != r {
			t.Errorf("%+v became %+v: %v", r, again, err)
		}
	})
}

func FuzzLabel(f *testing.F) {
	f.Add(readme(Set{Number: 3}, 1, 2, "U-012"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := labelOf(b); s != "" && !ValidMedium(s) {
			t.Errorf("label %q", s)
		}
	})
}
