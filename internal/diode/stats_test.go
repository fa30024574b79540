package diode

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A line without packets is silent within a minute, also one that never spoke
// and one whose receiver died.
func TestSilentWithinAMinute(t *testing.T) {
	now := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	for name, s := range map[string]Status{
		"fell silent": {Started: now.Add(-time.Hour), LastPacket: now.Add(-time.Minute)},
		"never spoke": {Started: now.Add(-time.Minute)},
	} {
		if s.Silent(now).IsZero() {
			t.Errorf("%s: not silent after a minute", name)
		}
	}
	if s := (Status{Started: now.Add(-time.Hour), LastPacket: now.Add(-2 * time.Second)}); !s.Silent(now).IsZero() {
		t.Error("an idle line with heartbeats is silent")
	}
}

// Losses are counted exactly, whatever comes twice or in another order.
func TestLossIsCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 3000).Draw(t, "packets")
		var r runs
		var kept []uint32
		lost := map[int]bool{}
		for i := range n {
			if i > 0 && i < n-1 && rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
				lost[i] = true
			} else {
				kept = append(kept, uint32(i))
			}
		}
		swap := rapid.SliceOfN(rapid.IntRange(0, len(kept)-1), 0, 50).Draw(t, "swaps")
		for i, k := range swap {
			j := min(k+i, len(kept)-1)
			if k > 0 && j > 0 { // the first packet opens the run
				kept[k], kept[j] = kept[j], kept[k]
			}
		}
		for _, seq := range kept {
			r.note(7, seq)
			if seq%5 == 0 {
				r.note(7, seq) // twice
			}
		}
		if got := r.total(); got != int64(len(lost)) {
			t.Fatalf("%d lost of %d, counted %d", len(lost), n, got)
		}
	})
}

// The probability against a sum over exact binomials by another way.
func TestUnrecoverable(t *testing.T) {
	p := Profile{Data: 8, Parity: 2, Shard: 1408, Interleave: 32}
	// 1 - P(0) - P(1) - P(2) of ten shards at 10 %.
	want := 1 - math.Pow(.9, 10) - 10*.1*math.Pow(.9, 9) - 45*.01*math.Pow(.9, 8)
	if got := p.Unrecoverable(.1, 1); math.Abs(got-want) > 1e-12 {
		t.Errorf("%g, want %g", got, want)
	}
	if a, b := p.Unrecoverable(.1, 2), p.Unrecoverable(.01, 1); math.Abs(a-b) > 1e-15 {
		t.Errorf("two passes at 10 %%: %g, one at 1 %%: %g", a, b)
	}
	for loss, parity := range map[float64]int{0: 16, 0.001: 16, 0.01: 32, 0.05: 64, 0.3: 128} {
		if got := Choose(loss).Parity; got != parity {
			t.Errorf("%g: %d parity shards, want %d", loss, got, parity)
		}
	}
}

func TestNeedText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var n Need
		at := int64(0)
		for range rapid.IntRange(0, 80).Draw(t, "spans") {
			s := Span{From: at + rapid.Int64Range(1, 300).Draw(t, "gap")}
			s.To = s.From + rapid.Int64Range(1, 300).Draw(t, "length")
			n.Blocks, at = append(n.Blocks, s), s.To
		}
		few := Need{Session: n.Session, Blocks: coarse(n.Blocks, 20)}
		if len(few.Blocks) > 20 {
			t.Fatalf("%d spans", len(few.Blocks))
		}
		got, err := ParseNeed(few.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range n.Blocks { // nothing that lacks is left out
			found := false
			for _, f := range got.Blocks {
				found = found || f.From <= s.From && s.To <= f.To
			}
			if !found {
				t.Fatalf("%v is not asked for in %v", s, got.Blocks)
			}
		}
	})
}
