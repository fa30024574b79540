package mirror

import (
	"net/http"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics has its own registry: nothing of the process's or Go's is exposed.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	feeds    map[string]*feedStats
}

// feedStats are one feed's counters, looked up once and not per request.
type feedStats struct {
	class [6]prometheus.Counter // 1xx … 5xx; 0 is anything else
	bytes prometheus.Counter
}

func (s *feedStats) count(status int, n int64) {
	c := status / 100
	if c < 0 || c > 5 {
		c = 0
	}
	s.class[c].Inc()
	s.bytes.Add(float64(n))
}

func newMetrics(names []string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hashike_requests_total", Help: "Requests answered to terminals."}, []string{"feed", "status"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hashike_response_bytes_total", Help: "Body bytes sent to terminals."}, []string{"feed"}),
		feeds:    map[string]*feedStats{},
	}
	m.registry.MustRegister(m.requests, m.bytes)
	for _, n := range names {
		s := &feedStats{bytes: m.bytes.WithLabelValues(n)}
		for i, class := range []string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"} {
			s.class[i] = m.requests.WithLabelValues(n, class)
		}
		m.feeds[n] = s
	}
	return m
}

func (m *metrics) of(name string) *feedStats { return m.feeds[name] }

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// gauges reads the state of publication at each scrape.
type gauges struct {
	s                               *Server
	serial, generation, age, ledger *prometheus.Desc
}

func newGauges(s *Server) *gauges {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hashike_"+name, help, labels, nil)
	}
	return &gauges{
		s:          s,
		serial:     d("feed_serial", "Serial of the snapshot that a ring sees.", "feed", "ring"),
		generation: d("feed_generation", "Number of the generation that a ring sees.", "feed", "ring"),
		age:        d("feed_age_seconds", "Time since the vendor released what a ring sees.", "feed", "ring"),
		ledger:     d("ledger_dropped_total", "Reports of terminals that were not kept."),
	}
}

func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- g.serial
	ch <- g.generation
	ch <- g.age
	ch <- g.ledger
}

func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, l ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l...)
	}
	for name, m := range g.s.watch.tree.Load().feeds {
		for _, ring := range feed.Rings() {
			gen, ok := m.gens[ring]
			if !ok {
				continue
			}
			gauge(g.serial, float64(gen.Serial), name, ring)
			gauge(g.generation, float64(gen.Number), name, ring)
			if at, _ := g.s.ages.of(m.setup, gen.Serial); !at.IsZero() {
				gauge(g.age, max(g.s.o.Clock().Sub(at), 0).Truncate(time.Second).Seconds(), name, ring)
			}
		}
	}
	ch <- prometheus.MustNewConstMetric(g.ledger, prometheus.CounterValue, float64(g.s.ledger.losses()))
}
