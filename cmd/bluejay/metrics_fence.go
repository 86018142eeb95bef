package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bluejay/hooks"
)

// fenceBuckets span a revocation on a node at rest and one that waits for a peer who does not read, in seconds.
var fenceBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 10}

// fenceMetrics times revocations: from the arrival of each to the end of each of its parts, the receipt being the
// last. It has classic buckets and, for who scrapes them, native ones.
type fenceMetrics struct{ *prometheus.HistogramVec }

func newFenceMetrics() fenceMetrics {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "revocation_seconds", Help: "From a revocation's arrival to the last byte of each part.",
		Buckets: fenceBuckets, NativeHistogramBucketFactor: 1.1,
	}, []string{"part"})
	for p := hooks.PartStored; p <= hooks.PartReceipt; p++ {
		v.WithLabelValues(p.String()) // there from the start, at 0
	}
	return fenceMetrics{v}
}

func (m fenceMetrics) observe(p hooks.Part, took time.Duration) {
	m.WithLabelValues(p.String()).Observe(took.Seconds())
}
