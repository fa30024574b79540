package fetcher

import "github.com/prometheus/client_golang/prometheus"

// metrics are the fetcher's own collectors; the command registers them.
type metrics struct {
	runs     *prometheus.CounterVec // feed, result: accepted unchanged refused error
	requests *prometheus.CounterVec // feed, host
	bytes    *prometheus.CounterVec // feed
	accepted *prometheus.GaugeVec   // feed: Unix time of the last run that found all well
	took     *prometheus.GaugeVec   // feed: seconds
}

func newMetrics() *metrics {
	c := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "hashike", Subsystem: "fetch", Name: name, Help: help}, labels)
	}
	g := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "hashike", Subsystem: "fetch", Name: name, Help: help}, labels)
	}
	return &metrics{
		runs:     c("runs_total", "Runs by result.", "feed", "result"),
		requests: c("requests_total", "Requests sent, with retries and redirects.", "feed", "host"),
		bytes:    c("received_bytes_total", "Bytes of answers received.", "feed"),
		accepted: g("last_good_seconds", "When a run last ended well, Unix time.", "feed"),
		took:     g("last_run_seconds", "How long the last run took.", "feed"),
	}
}

// Collectors are the fetcher's metrics.
func (f *Fetcher) Collectors() []prometheus.Collector {
	m := f.metrics
	return []prometheus.Collector{m.runs, m.requests, m.bytes, m.accepted, m.took}
}

func (f *Fetcher) count(r Result, result string) {
	m := f.metrics
	m.runs.WithLabelValues(r.Feed, result).Inc()
	m.bytes.WithLabelValues(r.Feed).Add(float64(r.Bytes))
	m.took.WithLabelValues(r.Feed).Set(r.Took.Seconds())
	if result == "accepted" || result == "unchanged" {
		m.accepted.WithLabelValues(r.Feed).Set(float64(f.Clock().Unix()))
	}
}
