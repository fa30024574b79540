package i18n

import (
	"slices"
	"strings"
	"testing"
)

func TestWordList(t *testing.T) {
	list := strings.Fields(wordList)
	if len(list) != 256 {
		t.Fatalf("%d words", len(list))
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			t.Errorf("%s twice", sorted[i])
		}
		if strings.HasPrefix(sorted[i], sorted[i-1]) {
			t.Errorf("%s begins with %s", sorted[i], sorted[i-1])
		}
	}
	sum := make([]byte, 32)
	sum[0], sum[7] = 255, 1
	if w := Words(sum); len(w) != 8 || w[0] != list[255] || w[7] != list[1] {
		t.Errorf("%v", w)
	}
}
