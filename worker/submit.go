package worker

import (
	"context"
	"encoding/binary"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// drive follows the state machine until the job is out of this worker's hands.
func (w *Worker) drive(ctx, stop, submits context.Context, t *task) error {
	foreign := t.state == fallback.Submitting && !t.begun
	if foreign {
		t.state = next(t.state, fallback.NoAnswer, t.entry) // whoever began it may have written it
	}
	if t.state.Wire() == wire.JobQueued {
		t.written = foreign
		w.open.add(t)
		defer w.open.remove(t)
	}
	for {
		var done bool
		var err error
		if t.state != fallback.Submitting {
			t.turn.End() // nothing will be written soon
		}
		switch t.state {
		case fallback.Submitting:
			w.submit(ctx, submits, t)
		case fallback.Doubtful:
			done, err = w.waitInDoubt(ctx, stop, t)
		case fallback.Queued:
			done, err = w.again(ctx, stop, t)
		default:
			done, err = true, w.finish(ctx, t)
		}
		if done || err != nil {
			return err
		}
	}
}

// submit makes one attempt. Only a changed state says that anything happened. [F-11]
func (w *Worker) submit(ctx, submits context.Context, t *task) {
	if t.dead != "" || t.route.Transport == nil && !w.pick(t) { // parts are sent, and the rest cannot be
		t.happens(fallback.Reject)
		return
	}
	t.tried = true
	if ev := w.clear(ctx, t); ev != fallback.None {
		t.happens(ev)
		return
	}
	w.open.writes(t)
	r := w.write(submits, t)
	t.entry.SMSCIDs = append(t.entry.SMSCIDs, r.IDs...)
	t.entry.Whole = t.entry.Whole || r.Whole
	t.late = r.Late
	t.happens(eventOf(r))
	if t.state.Wire() == wire.JobSubmitted {
		w.open.accepted(t)
	}
	if t.state == fallback.Doubtful {
		w.cfg.Observe(Observation{Kind: ObservedDoubt, Route: t.entry.Route, Class: classOf(t.entry)})
	}
	if r.Err != nil || r.Class != sms.Accepted {
		w.cfg.Log.Info("an SMS was not accepted", "job", t.id, "outcome", r.Outcome.String(), "status", r.Status.String(), "state", t.state.String(), "err", r.Err)
	}
}

// clear is what comes immediately before the first byte: the attempt is announced, and the number
// must not be on the suppression list. Neither can be skipped, so a port that fails puts the job off.
// [F-17] [F-20]
func (w *Worker) clear(ctx context.Context, t *task) fallback.Event {
	if err := w.emit(ctx, t.id, t.entry, fallback.Submitting); err != nil {
		w.cfg.Log.Warn("an attempt cannot be announced", "job", t.id, "err", err)
		return fallback.NotSent
	}
	_, on, err := w.suppressed(ctx, t.entry.NumberHash)
	switch {
	case err != nil:
		w.cfg.Log.Warn("the suppression list cannot be asked", "job", t.id, "err", err)
		return fallback.NotSent
	case on && len(t.entry.SMSCIDs) == 0:
		w.refundJob(ctx, t)
		return fallback.Stop
	case on:
		return fallback.Stop
	}
	return fallback.None
}

// write hands the rest of the text to the route's transport. The time for it began with the attempt: when
// another worker gives this one up, nothing is written any more, however long this one stood still. [F-11]
func (w *Worker) write(submits context.Context, t *task) sms.Result {
	ctx, cancel := context.WithDeadline(submits, t.began.Add(w.cfg.SubmitTimeout))
	defer cancel()
	ctx, cancelAtExpiry := context.WithDeadline(ctx, t.entry.ExpiresAt)
	defer cancelAtExpiry()
	began := time.Now()
	if len(t.entry.SMSCIDs) == 0 {
		t.entry.Since = began
	}
	r := t.route.Transport.Submit(ctx, sms.Message{
		To: t.job.To, From: t.route.From, Text: w.compose(t), Charset: t.route.Charset,
		ValidUntil: validUntil(t.entry.ExpiresAt, t.route.Validity), Class: t.job.Class,
		Ref: binary.BigEndian.Uint16(t.id[:]), Done: len(t.entry.SMSCIDs), Turn: t.turn,
	})
	t.turn = nil
	w.cfg.Observe(Observation{
		Kind: ObservedSubmit, Route: t.entry.Route, Class: t.job.Class, Outcome: r.Outcome, Answer: r.Class,
		Parts: len(r.IDs), Took: time.Since(began),
	})
	return r
}

// validUntil is the job's own end, or the route's if that is sooner. [F-4] [F-22]
func validUntil(expiry time.Time, atMost time.Duration) time.Time {
	if end := time.Now().Add(atMost); atMost > 0 && end.Before(expiry) {
		return end
	}
	return expiry
}

// happens applies an event to the task.
func (t *task) happens(ev fallback.Event) {
	switch ev {
	case fallback.TryLater:
		t.entry.Refusals++
	case fallback.NotSent:
		t.entry.Unsent++
	case fallback.NoAnswer:
		t.entry.At = time.Now()
	case fallback.Resume:
		t.began = time.Now()
	}
	t.state = next(t.state, ev, t.entry)
}

// eventOf is what a result means. A throttled or unbound session says nothing against the message,
// so only its own temporary refusals are counted. [F-15]
func eventOf(r sms.Result) fallback.Event {
	switch {
	case r.Simulated:
		return fallback.Simulate
	case r.Outcome == sms.Unknown:
		return fallback.NoAnswer
	case r.Outcome == sms.NotSent && r.Class == sms.Permanent:
		return fallback.Reject
	case r.Outcome == sms.NotSent:
		return fallback.NotSent
	}
	return eventOfClass(r.Class)
}

func eventOfClass(c sms.Class) fallback.Event {
	switch c {
	case sms.Accepted:
		return fallback.Accept
	case sms.Retry:
		return fallback.TryLater
	case sms.Throttled, sms.Rebind, sms.Refused:
		return fallback.NotSent
	}
	return fallback.Reject
}

// again handles a job of which nothing is in doubt and which is not submitted: after an attempt of
// ours it goes back to the queue; from the queue, it gets a new attempt or an end.
func (w *Worker) again(ctx, stop context.Context, t *task) (done bool, err error) {
	if t.tried {
		t.entry.Owner, t.entry.At = "", time.Now()
		if over, err := w.record(ctx, t); over || err != nil {
			return t.elsewhere(), err
		}
		if err := w.emit(ctx, t.id, t.entry, fallback.Queued); err != nil {
			return true, err
		}
		w.back(ctx, t, fallback.Delay(t.entry.Attempt))
		return true, nil
	}
	if t.dead != "" {
		t.happens(fallback.Refuse)
		return false, nil
	}
	ev := w.permit(t)
	if ev == fallback.Begin {
		ev = w.turn(stop, t)
	}
	switch ev {
	case fallback.None:
		w.back(ctx, t, max(w.quietFor(t), noTurnPause))
		return true, nil
	case fallback.Begin:
		return w.claim(ctx, t)
	default:
		t.happens(ev)
		return false, nil
	}
}

// claim begins the next attempt, unless another worker has begun it. done: it has gone on from there. [F-11]
func (w *Worker) claim(ctx context.Context, t *task) (done bool, err error) {
	mine := Entry{Owner: w.owner(), Attempt: t.entry.Attempt + 1, At: time.Now(), ExpiresAt: t.entry.ExpiresAt}
	stored, ours, err := w.begin(ctx, attemptKey(t.id, mine.Attempt), mine)
	if err != nil {
		return true, err
	}
	t.entry.Owner, t.entry.Attempt, t.entry.At = stored.Owner, mine.Attempt, stored.At
	t.happens(fallback.Begin)
	if !ours {
		t.state = next(t.state, fallback.NoAnswer, t.entry)
		w.open.writes(t)
		return false, nil
	}
	t.begun, t.began = true, t.entry.At
	t.entry.Parts = sms.Parts(w.compose(t), t.route.Charset)
	over, err := w.record(ctx, t)
	return over && t.elsewhere(), err
}

// finish records a state that ends this worker's part, and acknowledges the job. What came from the
// journal is only told again: the crash may have been between the two. [F-7] [F-11]
func (w *Worker) finish(ctx context.Context, t *task) error {
	if err := w.settle(ctx, t); err != nil || t.state.Wire() == wire.JobQueued {
		return err // the other one acknowledges it, or the queue hands it out again
	}
	return persist(ctx, t.d.Ack)
}

func (w *Worker) settle(ctx context.Context, t *task) error {
	defer w.locks.lock(t.id)()
	if t.entry.State != t.state.Wire() {
		t.entry.State, t.entry.Owner, t.entry.At = t.state.Wire(), "", time.Now()
		if err := w.haunt(ctx, t.entry); err != nil {
			return err
		}
		over, err := w.record(ctx, t)
		switch {
		case err != nil, over && t.elsewhere():
			return err
		case !over:
			w.observeState(t.entry, t.state)
		}
	}
	if t.entry.State != wire.JobSubmitted {
		return w.tell(ctx, t.id, t.entry)
	}
	early, err := w.index(ctx, t.id, t.entry)
	if err != nil {
		return err
	}
	if err := w.tell(ctx, t.id, t.entry); err != nil || !early {
		return err
	}
	return w.resolve(ctx, t.id)
}

// back gives the job back to the queue. If that fails, the queue hands it out by itself.
func (w *Worker) back(ctx context.Context, t *task, after time.Duration) {
	w.cfg.Observe(Observation{Kind: ObservedRetry, Route: t.entry.Route, Class: t.d.Class(), Took: after})
	err := once(ctx, func(ctx context.Context) error { return t.d.Retry(ctx, after) })
	if err != nil {
		w.cfg.Log.Warn("could not give a job back", "job", t.id, "err", err)
	}
}
