package packager

import (
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// The codes of a list, however they are typed, are the list.
func TestNeedCodes(t *testing.T) {
	for _, ranges := range []int{1, 50, 400, 1500} {
		n := Need{Number: 412, feeds: map[int][]span{}}
		for i := range int64(ranges) {
			n.feeds[0] = append(n.feeds[0], span{i * 3000, i*3000 + 1 + i%200})
		}
		codes := n.Codes()
		for i, c := range codes {
			if strings.ToUpper(c) != c || len(c) > codeLetters+9 || strings.ContainsAny(c, " :/") {
				t.Errorf("code %d: %s", i, c)
			}
		}
		rand.Shuffle(len(codes), func(i, j int) { codes[i], codes[j] = codes[j], codes[i] })
		for _, end := range []string{"", "\n", "\r\n", " ", "\t"} {
			got, err := ParseNeed(strings.ToLower(strings.Join(append(codes, codes[0]), end)))
			if err != nil || got.String() != n.String() {
				t.Errorf("%d ranges, %q: %v", ranges, end, err)
			}
		}
		for i := range codes {
			if len(codes) > 1 {
				without := append(append([]string{}, codes[:i]...), codes[i+1:]...)
				wantFault(t, without, "H-622")
			}
			bad := append([]string{}, codes...)
			bad[i] = bad[i][:len(bad[i])-1] + map[bool]string{true: "1", false: "0"}[strings.HasSuffix(bad[i], "0")]
			wantFault(t, bad, "H-222")
			wantFault(t, append(bad, codes[i]), "H-622") // it contradicts itself
		}
	}
	huge := Need{Number: 1, feeds: map[int][]span{0: nil}}
	for i := range int64(20_000) {
		huge.feeds[0] = append(huge.feeds[0], span{i * 3, i*3 + 1})
	}
	if huge.Codes() != nil {
		t.Error("a list for nobody to scan became codes")
	}
	for _, text := range []string{"HN.0.1.AAAA", "HN.2.1.AAAA", "HN.1.99.AAAA", "HN.1.2.AAAA HN.2.3.BBBB"} {
		wantFault(t, []string{text}, "H-622")
	}
}

func wantFault(t *testing.T, codes []string, code string) {
	t.Helper()
	if _, err := ParseNeed(strings.Join(codes, "\n")); err == nil || !strings.Contains(err.Error(), code) {
		t.Errorf("%.60v…: %v, want %s", codes, err, code)
	}
}

// Any list is refused or says nothing but places in the drop's own directory.
func FuzzDropList(f *testing.F) {
	good, err := dropList(412, []DropFile{{Name: "a00bg001.dat", Path: "set.json", Size: 3, Digest: feed.DigestOf([]byte("abc"))}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(dropStart))
	f.Fuzz(func(t *testing.T, b []byte) {
		head, files, ok := parseDropList(b)
		if !ok {
			return
		}
		if head.Files != len(files) || len(files) == 0 {
			t.Errorf("%d of %d", len(files), head.Files)
		}
		for _, d := range files {
			if !fs.ValidPath(d.Path) || strings.ContainsAny(d.Name, `/`) || d.Size < 0 {
				t.Errorf("%+v", d)
			}
		}
	})
}
