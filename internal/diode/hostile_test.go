package diode

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// A line on which somebody else talks too: random packets, truncated, altered
// and forged ones, replays, whole other sessions. Nothing wrong arrives, the
// transfer completes in its one pass, memory stays what it was.
// HASHIKE_HOSTILE sets the number of packets.
func TestHostilePackets(t *testing.T) {
	count := 100_000
	if n, err := strconv.Atoi(os.Getenv("HASHIKE_HOSTILE")); err == nil {
		count = n
	}
	if testing.Short() {
		count = 15_000
	}
	key := RandomKey()
	src, foreign := tree(t, 20, 100, 6<<20), tree(t, 21, 50, 1<<20)
	// What others can have recorded: a session under another key, and the
	// beginning of ours.
	other := newAir(1)
	other.keep, other.loss = true, 1
	send(t, other, quick(RandomKey()), job(t, foreign, small(), 1))

	a := newAir(2)
	a.loss, a.keep = 0.02, true
	g := newRig(t, key)
	g.start(a)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	j := job(t, src, Profile{60, 20, 512, 8}, 1)
	o := quick(key)
	o.Warm = time.Millisecond
	packets := int(j.Table.Blocks()) * 80
	w := &crowd{to: a, a: a, rng: rand.New(rand.NewPCG(5, 5)), foreign: other.sent, each: count/packets + 1, id: j.ID(), left: count}
	send(t, w, o, j)
	w.talk(w.left)
	a.over()
	same(t, src, g.wait())
	g.stop() // what the air still holds is not the receiver's
	runtime.GC()
	runtime.ReadMemStats(&after)
	st := g.r.Status()
	if st.Foreign < int64(count/2) || st.Damaged != 0 || len(st.Sessions) != 0 {
		t.Fatalf("%+v", st)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc) - sum(a.sent); grown > 24<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	g.none()
}

func sum(packets [][]byte) (n int64) {
	for _, p := range packets {
		n += int64(cap(p))
	}
	return n
}

// crowd mixes hostile packets into those of the sender.
type crowd struct {
	to      Wire
	a       *air
	rng     *rand.Rand
	foreign [][]byte
	each    int
	left    int
	id      ID
}

func (c *crowd) Write(b []byte, size int) error {
	c.talk(min(c.each*len(b)/size, c.left))
	return c.to.Write(b, size)
}

func (c *crowd) talk(n int) {
	for range n {
		c.left--
		c.a.mu.Lock()
		var ours []byte
		if k := len(c.a.sent); k > 0 {
			ours = c.a.sent[c.rng.IntN(k)]
		}
		c.a.mu.Unlock()
		p := c.one(ours)
		c.a.mu.Lock()
		c.a.queue = append(c.a.queue, p)
		for len(c.a.queue) > 4000 && !c.a.ended {
			c.a.more.Broadcast()
			c.a.more.Wait()
		}
		c.a.mu.Unlock()
	}
}

func (c *crowd) one(ours []byte) []byte {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(c.rng.Uint32())
		}
		return b
	}
	kind := c.rng.IntN(8)
	if ours == nil && kind > 2 {
		kind = 0
	}
	switch kind {
	case 0:
		return random(c.rng.IntN(1600))
	case 1: // our form, our session, no key
		b := random(headerSize + 512 + tagSize)
		h := header{kind: byte(c.rng.IntN(6)), k: byte(c.rng.Uint32()), p: byte(c.rng.Uint32()), run: c.rng.Uint64(), seq: c.rng.Uint32(), session: c.id,
			block: c.rng.Uint32N(400), shard: byte(c.rng.IntN(80)), size: c.rng.Uint32()}
		h.put(b)
		return b
	case 2:
		return c.foreign[c.rng.IntN(len(c.foreign))]
	case 3: // truncated
		return ours[:c.rng.IntN(len(ours))]
	case 4: // one bit
		b := bytes.Clone(ours)
		b[c.rng.IntN(len(b))] ^= 1 << c.rng.IntN(8)
		return b
	case 5: // our header, another shard
		b := bytes.Clone(ours)
		copy(b[headerSize:], random(64))
		return b
	case 6: // moved to another place
		b := bytes.Clone(ours)
		binary.BigEndian.PutUint32(b[36:], c.rng.Uint32N(400))
		return b
	}
	return ours // replayed as it was
}

// Whoever knows the key but lies about everything else must not harm either:
// an outside that is not ours any more.
func TestHostileOutside(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	var err error
	if g.r, err = NewReceiver(g.o); err != nil {
		t.Fatal(err)
	}
	r := g.r
	rng := rand.New(rand.NewPCG(9, 9))
	s := newSeal(key)
	go func() { // what a decoder would take
		for w := range r.work {
			r.finishBlock(w)
		}
	}()
	c := &chunk{}
	src := tree(t, 22, 3, 0)
	j := job(t, src, small(), 1)
	count := 60_000
	if testing.Short() {
		count = 10_000
	}
	for i := range count {
		shard := 512
		if rng.IntN(4) == 0 {
			shard = minShard + 64*rng.IntN(20)
		}
		b := make([]byte, headerSize+shard+tagSize)
		h := header{kind: byte(rng.IntN(6)), k: byte(rng.IntN(70)), p: byte(rng.IntN(70)), run: uint64(rng.IntN(20)), seq: uint32(i), session: ID{byte(rng.IntN(30))},
			block: rng.Uint32() >> rng.IntN(32), shard: byte(rng.Uint32()), size: rng.Uint32() >> rng.IntN(32)}
		if rng.IntN(3) == 0 {
			h.session = j.ID()
		}
		if rng.IntN(3) == 0 { // a table that cannot be one
			h.kind, h.k, h.p, h.block, h.shard, h.size = kindTable, 1, 1, 0, byte(rng.IntN(2)), uint32(1+rng.IntN(512))
			rng2 := rng.Uint64()
			binary.BigEndian.PutUint64(b[headerSize:], rng2)
		}
		h.put(b)
		s.sign(b)
		c.buf, c.ends = append(c.buf[:0], b...), append(c.ends[:0], len(b))
		r.chunk(c)
	}
	if len(r.tables) > maxTables || len(r.sessions) > 0 {
		t.Fatalf("%d tables, %d sessions", len(r.tables), len(r.sessions))
	}
	close(r.work)
}

// Many sessions at once keep to their limit; the stillest ones go.
func TestTooManySessions(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	a := newAir(1)
	g.start(a)
	s, err := NewSender(a, quick(key))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSessions + 5 { // tables only: their data never comes
		if err := s.sendTable(context.Background(), job(t, tree(t, uint64(100+i), 1, 0), small(), 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	a.over()
	g.stop()
	if n := len(g.r.Status().Sessions); n == 0 || n > maxSessions {
		t.Fatalf("%d sessions", n)
	}
	if left, _ := os.ReadDir(g.r.spool()); len(left) > maxSessions {
		t.Fatalf("%d in the spool", len(left))
	}
}

func FuzzPacket(f *testing.F) {
	var key Key
	s := newSeal(key)
	h := header{kind: kindData, run: 1, seq: 2, block: 3, shard: 4}
	b := make([]byte, headerSize+minShard+tagSize)
	h.put(b)
	s.sign(b)
	f.Add(b, true)
	f.Add(b[:40], false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		s := newSeal(key)
		if b = bytes.Clone(b); sign && len(b) >= headerSize+tagSize {
			s.sign(b)
		}
		h, shard, err := s.open(b)
		if err != nil {
			return
		}
		again := make([]byte, len(b))
		h.put(again)
		copy(again[headerSize:], shard)
		s.sign(again)
		if !bytes.Equal(again, b) {
			t.Fatal("a packet has two forms")
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte(`{"format":"hashike-diode","schema":1,"name":"4","k":224,"p":32,"shard":1408,"interleave":32,"bytes":3,"files":1}` + "\n" + `{"f":"a","n":3,"d":"` + string(bytes.Repeat([]byte("00"), 32)) + `"}` + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tab, err := parseTable(raw)
		if err != nil {
			return
		}
		n := int64(0)
		for _, x := range tab.Files {
			if !validPath(x.Path) || x.Size < 0 || x.at != n {
				t.Fatalf("%+v", x)
			}
			n += x.Size
		}
		if n != tab.Bytes {
			t.Fatal("bytes do not add up")
		}
	})
}

func FuzzNeed(f *testing.F) {
	f.Add(Need{Session: [8]byte{1, 2}, Blocks: []Span{{0, 3}, {7, 8}}}.String())
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseNeed(text)
		if err != nil {
			return
		}
		m, err := ParseNeed(n.String())
		if err != nil || len(m.Blocks) != len(n.Blocks) {
			t.Fatal(n, m, err)
		}
		clip(n.Blocks, 100)
	})
}
