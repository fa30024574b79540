package mirror

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Line is what is known of a one-way line (docs/diode.md §8).
type Line struct {
	Silent       time.Time // since when nothing came; zero while it does
	Last         time.Time // newest packet
	Rate         float64   // bits per second
	Loss         float64   // share of the last minute's packets
	Packets      int64
	Lost         int64
	Foreign      int64
	Drops        int64 // by the kernel; -1 unknown
	Rebuilt      int64
	Buffer       int // bytes
	BufferWanted int
	Problem      string
	Open         []LineSession
	Done         int
	LastDone     time.Time
	LastName     string
}

// LineSession is a bundle that is on its way.
type LineSession struct {
	Name         string
	Have, Blocks int64
	Need         string // what to send again, once a pass is over
}

// lineGauges reads the line's state at each scrape.
type lineGauges struct{ s *Server }

func lineDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("hashike_diode_"+name, help, nil, nil)
}

func (g lineGauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- lineDesc("up", "1 while packets of the outside arrive, 0 after 45 seconds without one.")
}

func (g lineGauges) Collect(ch chan<- prometheus.Metric) {
	l := g.s.o.Line()
	if l == nil {
		return
	}
	put := func(kind prometheus.ValueType, name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(lineDesc(name, help), kind, v)
	}
	up, missing := 1.0, int64(0)
	if !l.Silent.IsZero() {
		up = 0
	}
	for _, s := range l.Open {
		missing += s.Blocks - s.Have
	}
	put(prometheus.GaugeValue, "up", "1 while packets of the outside arrive, 0 after 45 seconds without one.", up)
	if !l.Last.IsZero() {
		put(prometheus.GaugeValue, "silence_seconds", "Time since the newest packet of the outside.", max(g.s.o.Clock().Sub(l.Last).Seconds(), 0))
	}
	put(prometheus.CounterValue, "packets_total", "Packets of the outside.", float64(l.Packets))
	put(prometheus.GaugeValue, "packets_lost", "Packets missing by the gaps in their numbers; one that comes late is no longer missing.", float64(l.Lost))
	put(prometheus.CounterValue, "packets_foreign_total", "Packets of nobody who knows the line's key.", float64(l.Foreign))
	if l.Drops >= 0 {
		put(prometheus.CounterValue, "kernel_drops_total", "Packets dropped by this machine's kernel.", float64(l.Drops))
	}
	put(prometheus.CounterValue, "blocks_rebuilt_total", "Blocks that needed parity.", float64(l.Rebuilt))
	put(prometheus.GaugeValue, "rate_bits_per_second", "UDP payload of the outside.", l.Rate)
	put(prometheus.GaugeValue, "loss_ratio", "Share of packets lost in the last minute.", l.Loss)
	put(prometheus.GaugeValue, "sessions_open", "Bundles on their way.", float64(len(l.Open)))
	put(prometheus.GaugeValue, "blocks_missing", "Blocks that bundles on their way lack.", float64(missing))
	put(prometheus.GaugeValue, "receive_buffer_bytes", "What the kernel gave for packets that wait.", float64(l.Buffer))
}
