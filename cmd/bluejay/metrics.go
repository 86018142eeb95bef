package main

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// namespace begins the name of every metric.
const namespace = "bluejay"

// newMetrics returns an empty registry of one process with what Go knows of itself.
func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// metricsHandler serves a registry. What cannot be read is left out, the rest is served.
func metricsHandler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 5 * time.Second})
}

// figure is one number read when it is asked for. Its labels are fixed: none ever names a user.
type figure[T any] struct {
	name, help string
	labels     prometheus.Labels
	counter    bool
	read       func(T) float64
}

// figures reads one snapshot for each scrape and reports every figure from it, so that sums that must
// be equal are.
type figures[T any] struct {
	snapshot func() T
	list     []figure[T]
	descs    []*prometheus.Desc
}

// newFigures returns a collector of figures.
func newFigures[T any](snapshot func() T, list []figure[T]) *figures[T] {
	c := &figures[T]{snapshot: snapshot, list: list}
	for _, f := range list {
		c.descs = append(c.descs, prometheus.NewDesc(namespace+"_"+f.name, f.help, nil, f.labels))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *figures[T]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *figures[T]) Collect(ch chan<- prometheus.Metric) {
	now := c.snapshot()
	for i, f := range c.list {
		kind := prometheus.GaugeValue
		if f.counter {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(c.descs[i], kind, f.read(now))
	}
}
