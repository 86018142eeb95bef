package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"bluejay/sms"
	"bluejay/worker"
)

// workerMetrics counts what the SMS worker says of itself. No label names a number, a sender or a
// message; routes are the operator's own names.
type workerMetrics struct {
	registry *prometheus.Registry

	states, answers, parts, doubts, retries, incoming, suppressed, replies *prometheus.CounterVec
	noReceipt                                                              prometheus.Counter

	submit, queued *prometheus.HistogramVec
	revoked        prometheus.Histogram
}

// submitBuckets span a fast SMSC on the same machine and one that is asleep, in seconds.
var submitBuckets = []float64{.001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

func newWorkerMetrics() *workerMetrics {
	m := &workerMetrics{
		registry:   newMetrics(),
		states:     counters("sms_jobs_total", "Jobs that reached a state for the first time.", "state", "route", "class"),
		answers:    counters("sms_answers_total", "What a submission came to.", "route", "outcome", "answer"),
		parts:      counters("sms_parts_total", "SMS parts that a network took.", "route"),
		doubts:     counters("sms_doubts_total", "Submissions written and not answered.", "route", "class"),
		retries:    counters("sms_retries_total", "Jobs given back to the queue.", "route", "class"),
		incoming:   counters("sms_incoming_total", "Texts from phones, by the keyword in them.", "route", "keyword"),
		suppressed: counters("sms_suppressions_total", "Changes of the suppression list.", "keyword"),
		replies:    counters("sms_replies_total", "Replies to keywords.", "route", "keyword", "outcome"),
		noReceipt:  prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "sms_no_receipt_total", Help: "Jobs given up without a receipt."}),
		submit:     histograms("sms_submit_seconds", "From a submission to its answer.", "route"),
		queued:     histograms("sms_queue_seconds", "From the queue's storing a job to a worker's taking it.", "class"),
		revoked:    prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "sms_stop_seconds", Help: "From a STOP to the end of its sender's consent.", Buckets: submitBuckets}),
	}
	m.registry.MustRegister(m.states, m.answers, m.parts, m.doubts, m.retries, m.incoming, m.suppressed, m.replies, m.noReceipt, m.submit, m.queued, m.revoked)
	return m
}

// watch reports for each route whether it has a link now: an operator's alarm for a bind that is refused,
// an SMSC that says nothing, or one that is away.
func (m *workerMetrics) watch(routes []sms.Route) {
	for _, r := range routes {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "sms_link_up", Help: "1 while a text would not have to wait for a link.",
			ConstLabels: prometheus.Labels{"route": r.Transport.Route()},
		}, func() float64 {
			if r.Transport.Linked() {
				return 1
			}
			return 0
		}))
	}
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func histograms(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: submitBuckets}, labels)
}

// observe counts one observation.
func (m *workerMetrics) observe(o worker.Observation) {
	class := o.Class.String()
	switch o.Kind {
	case worker.ObservedState:
		m.states.WithLabelValues(o.State.String(), o.Route, class).Inc()
	case worker.ObservedQueue:
		m.queued.WithLabelValues(class).Observe(o.Took.Seconds())
	case worker.ObservedSubmit:
		m.answers.WithLabelValues(o.Route, o.Outcome.String(), o.Answer.String()).Inc()
		m.parts.WithLabelValues(o.Route).Add(float64(o.Parts))
		m.submit.WithLabelValues(o.Route).Observe(o.Took.Seconds())
	case worker.ObservedDoubt:
		m.doubts.WithLabelValues(o.Route, class).Inc()
	case worker.ObservedRetry:
		m.retries.WithLabelValues(o.Route, class).Inc()
	case worker.ObservedIncoming:
		m.incoming.WithLabelValues(o.Route, o.Keyword.String()).Inc()
	case worker.ObservedSuppress:
		m.suppressed.WithLabelValues(o.Keyword.String()).Inc()
	case worker.ObservedReply:
		m.replies.WithLabelValues(o.Route, o.Keyword.String(), o.Outcome.String()).Inc()
	case worker.ObservedNoReceipt:
		m.noReceipt.Add(float64(o.Parts))
	case worker.ObservedRevoked:
		m.revoked.Observe(o.Took.Seconds())
	}
}
