package diode

import (
	"context"
	"errors"
	"math"
	"net"
	"time"
)

// Pad sends packets that mean nothing for so long: the outside's half of a
// test of the line.
func (s *Sender) Pad(ctx context.Context, d time.Duration, shard int) error {
	return s.beats(ctx, d, shard)
}

// Measured is what a test of the line found.
type Measured struct {
	Packets, Lost  int64
	Foreign, Newer int64
	Longest        int64   // packets lost in a row
	Drops          int64   // by this machine's kernel; -1 unknown
	Rate           float64 // bits per second of UDP payload
	Shard          int     // of the packets that came
	Late           int64   // out of order
	First, Last    time.Time
}

// Loss is the share of packets lost on the way.
func (m Measured) Loss() float64 {
	if m.Packets+m.Lost == 0 {
		return 0
	}
	return float64(m.Lost) / float64(m.Packets+m.Lost)
}

// Measure listens for so long after the first packet, or until the context ends.
func Measure(ctx context.Context, in Inlet, key Key, d time.Duration) (Measured, error) {
	var m Measured
	var rs runs
	var bytes int64
	var run uint64
	var next uint32
	s := newSeal(key)
	stop := context.AfterFunc(ctx, func() { in.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for ctx.Err() == nil && (m.First.IsZero() || time.Since(m.First) < d) {
		if !m.First.IsZero() {
			in.SetReadDeadline(m.First.Add(d))
		}
		err := in.Read(func(b []byte) {
			h, shard, err := s.open(b)
			if err != nil {
				if err == errNewer {
					m.Newer++
				} else {
					m.Foreign++
				}
				return
			}
			m.Last = time.Now()
			if m.First.IsZero() {
				m.First = m.Last
			}
			if h.run == run && h.seq > next {
				m.Longest = max(m.Longest, int64(h.seq-next))
			} else if h.run == run && h.seq < next {
				m.Late++
			}
			if h.run != run || h.seq >= next {
				run, next = h.run, h.seq+1
			}
			m.Packets++
			bytes += int64(len(b))
			m.Shard = len(shard)
			rs.note(h.run, h.seq)
		})
		var timeout net.Error
		if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
			return m, err
		}
	}
	m.Lost, m.Drops = rs.total(), in.Drops()
	if t := m.Last.Sub(m.First).Seconds(); t > 0 {
		m.Rate = float64(bytes) * 8 / t
	}
	return m, nil
}

// Profiles are those to choose from, the leanest first.
func Profiles() []Profile {
	var out []Profile
	for _, p := range [][2]int{{240, 16}, {224, 32}, {216, 40}, {192, 64}, {160, 96}, {128, 128}} {
		out = append(out, Profile{Data: p[0], Parity: p[1], Shard: 1408, Interleave: 32})
	}
	return out
}

// Unrecoverable is the probability that a block cannot be put together after
// so many passes, if each packet is lost by itself with probability loss. What
// a pass brought of a block is kept for the next.
func (p Profile) Unrecoverable(loss float64, passes int) float64 {
	if loss <= 0 {
		return 0
	}
	q := math.Pow(loss, float64(passes)) // a shard never came
	if q >= 1 {
		return 1
	}
	n := p.Data + p.Parity
	sum := 0.0
	for lost := p.Parity + 1; lost <= n; lost++ {
		l, _ := math.Lgamma(float64(n + 1))
		a, _ := math.Lgamma(float64(lost + 1))
		b, _ := math.Lgamma(float64(n - lost + 1))
		sum += math.Exp(l - a - b + float64(lost)*math.Log(q) + float64(n-lost)*math.Log1p(-q))
	}
	return min(sum, 1)
}

// Choose is the leanest profile that loses less than one block in a hundred
// transfers of 100 GB, in one pass, at twice the loss measured; the strongest
// if none does.
func Choose(loss float64) Profile {
	list := Profiles()
	for _, p := range list {
		if p.Unrecoverable(2*loss, 1)*100e9/float64(p.Block()) < 0.01 {
			return p
		}
	}
	return list[len(list)-1]
}

// InterleaveFor is how many blocks a sender sends in turns: 32, fewer where
// their packets are so large that two groups would crowd the 64 MiB which a
// receiver has for blocks that are not whole.
func InterleaveFor(data, parity, shard int) int {
	return max(1, min(32, (24<<20)/((data+parity)*shard)))
}

// ShardFor is the largest shard whose packet fits an MTU, with IPv6's header
// if v6.
func ShardFor(mtu int, v6 bool) int {
	ip := 20
	if v6 {
		ip = 40
	}
	return min((mtu-ip-8-headerSize-tagSize)&^63, maxShard)
}
