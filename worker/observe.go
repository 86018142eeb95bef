package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// Kind is what an [Observation] is about.
type Kind byte

// Kinds, and which fields beside Kind count.
const (
	ObservedState     Kind = iota // a job reached State for the first time: State, Route, Class, Parts
	ObservedQueue                 // a job was taken from the queue: Class, and Took since it was queued
	ObservedSubmit                // a transport returned: Route, Class, Outcome, Answer, Parts accepted, Took
	ObservedDoubt                 // a job is in doubt: Route, Class
	ObservedRetry                 // a job went back to the queue: Route, Class, and Took until it is due
	ObservedIncoming              // an SMS came in: Route, Keyword
	ObservedSuppress              // a number went on the list, or off it (Keyword start)
	ObservedReply                 // a reply was submitted: Route, Keyword, Outcome, Answer
	ObservedNoReceipt             // a sweep for missing receipts ended: Parts is how many it found, Took
	ObservedRevoked               // the registrar took a stopped number's consent back; Took since the STOP
)

// Observation is one thing worth counting. It names no number, no sender and no message.
type Observation struct {
	Kind    Kind
	State   fallback.State
	Route   string
	Class   wire.JobClass
	Outcome sms.Outcome
	Answer  sms.Class
	Keyword fallback.Keyword
	Parts   int
	Took    time.Duration
}

// observeState reports a state that a job is in for the first time.
func (w *Worker) observeState(e Entry, s fallback.State) {
	w.cfg.Observe(Observation{Kind: ObservedState, State: s, Route: e.Route, Class: classOf(e), Parts: e.Parts})
}

func classOf(e Entry) wire.JobClass {
	if e.Urgent {
		return wire.ClassUrgent
	}
	return wire.ClassNormal
}

// observeQueue reports how long a job was queued, if the queue knows.
func (w *Worker) observeQueue(d Delivery) {
	if q, ok := d.(interface{ QueuedAt() time.Time }); ok && d.Delivered() <= 1 {
		w.cfg.Observe(Observation{Kind: ObservedQueue, Class: d.Class(), Took: time.Since(q.QueuedAt())})
	}
}

// Reasons why a worker is not ready.
var (
	errNoKey  = errors.New("worker: today's key is not published: no handset can seal a job to this worker")
	errNoLink = errors.New("worker: no route has a link to its network")
)

// Ready reports what keeps the worker from working: an unpublished day key, a queue or a journal
// that does not answer, or no route with a link. nil when nothing does.
func (w *Worker) Ready(ctx context.Context) error {
	w.mu.Lock()
	key, queueErr := w.told, w.queueErr
	w.mu.Unlock()
	switch {
	case key == (wire.WorkerKey{}) || key != w.keys.current():
		return errNoKey
	case queueErr != nil:
		return fmt.Errorf("worker: no job from the queue: %w", queueErr)
	}
	if _, _, err := w.cfg.Journal.Get(ctx, wire.MessageID{}); err != nil {
		return fmt.Errorf("worker: the journal does not answer: %w", err)
	}
	for _, r := range w.cfg.Routes.All() {
		if r.Transport.Linked() {
			return nil
		}
	}
	return errNoLink
}

// sawQueue remembers how the queue answered last.
func (w *Worker) sawQueue(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queueErr = err
}

// sawKey remembers which key is published.
func (w *Worker) sawKey(k wire.WorkerKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = k
}
