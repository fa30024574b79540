package fec

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		blocks  int64
		percent int
		want    Geometry
	}{
		{0, 10, Geometry{}},
		{7, 0, Geometry{Blocks: 7}},
		{1, 10, Geometry{1, 1, 1, 1}},
		{200, 10, Geometry{200, 1, 200, 20}},
		{201, 10, Geometry{201, 2, 101, 11}},
		{170, 50, Geometry{170, 1, 170, 85}},
		{1000, 100, Geometry{1000, 8, 125, 125}},
	} {
		if g := Plan(c.blocks, c.percent, 0); g != c.want {
			t.Errorf("%d blocks, %d %%: %+v", c.blocks, c.percent, g)
		}
	}
}

// Every block is in exactly one group; a run takes what Worst says.
func TestGeometry(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := Plan(rapid.Int64Range(1, 3000).Draw(rt, "blocks"), rapid.IntRange(1, MaxPercent).Draw(rt, "percent"), rapid.Int64Range(0, 20).Draw(rt, "most"))
		if err := g.Check(); err != nil {
			rt.Fatal(err)
		}
		from := rapid.Int64Range(0, g.Blocks).Draw(rt, "from")
		to := rapid.Int64Range(from, g.Blocks).Draw(rt, "to")
		seen, worst := map[int64]bool{}, int64(0)
		for i := range g.Groups {
			hit := int64(0)
			for _, n := range g.Shards(i) {
				if n >= 0 && seen[n] {
					rt.Fatalf("block %d twice", n)
				}
				seen[n] = true
				if n >= from && n < to {
					hit++
				}
			}
			worst = max(worst, hit)
		}
		delete(seen, -1)
		if int64(len(seen)) != g.Blocks+g.ParityBlocks() {
			rt.Fatalf("%d blocks in groups, %d there are", len(seen), g.Blocks+g.ParityBlocks())
		}
		if w := g.Worst(from, to, 0, 0); w != worst || w > (to-from+g.Groups-1)/g.Groups {
			rt.Fatalf("run [%d,%d) of %+v takes %d, Worst says %d", from, to, g, worst, w)
		}
	})
}

func TestRebuild(t *testing.T) {
	g := Plan(50, 10, 0)
	c, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	shards, whole := make([][]byte, g.Data+g.Parity), make([][]byte, g.Data+g.Parity)
	for i := range shards {
		shards[i] = make([]byte, 64)
		for j := range shards[i] {
			if int64(i) < g.Data {
				shards[i][j] = byte(rand.IntN(256))
			}
		}
	}
	if err := c.Encode(shards); err != nil {
		t.Fatal(err)
	}
	for i := range shards {
		whole[i] = bytes.Clone(shards[i])
	}
	for lost := int64(0); lost <= g.Parity+1; lost++ {
		have := make([]bool, len(shards))
		for i := range have {
			shards[i], have[i] = bytes.Clone(whole[i]), true
		}
		for _, i := range rand.Perm(len(shards))[:lost] {
			clear(shards[i])
			have[i] = false
		}
		err := c.Rebuild(shards, have)
		if lost > g.Parity {
			if !errors.Is(err, ErrTooFew) {
				t.Errorf("%d lost: %v", lost, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range g.Data {
			if !bytes.Equal(shards[i], whole[i]) {
				t.Errorf("%d lost: block %d is wrong", lost, i)
			}
		}
	}
}
