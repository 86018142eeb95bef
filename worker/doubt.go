package worker

import (
	"context"
	"slices"
	"sync"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// maxStrays is how many stray receipts a task remembers.
const maxStrays = 2 * wire.MaxSMSParts

// waitInDoubt waits for a sign that the SMSC has the part it did not answer: a late answer, or a
// receipt. Then, or after UnknownWait, it applies what follows. done: the job is out of our hands.
// [F-5] [F-11]
func (w *Worker) waitInDoubt(ctx, stop context.Context, t *task) (done bool, err error) {
	t.tried = true
	w.open.doubts(t)
	if len(t.entry.SMSCIDs) > 0 { // so that nobody repeats the parts that were accepted
		if over, err := w.record(ctx, t); over || err != nil {
			return t.elsewhere(), err
		}
	}
	if !w.stepAside(stop, t) {
		w.back(ctx, t, 0)
		return true, nil
	}
	ev, stopped := w.sign(stop, t)
	switch {
	case stopped:
		w.back(ctx, t, 0)
		return true, nil
	case ev == fallback.DoubtOver:
		return w.doubtOver(ctx, t)
	case ev == fallback.Resume:
		done = !w.stepBack(stop, t)
	}
	t.happens(ev)
	if done { // shutting down: the parts so far are known, the rest is for the next worker
		t.entry.Owner = ""
		_, err = w.record(ctx, t)
		w.back(ctx, t, 0)
	}
	return done, err
}

// stepAside gives the task's place in the window to another job: an SMSC that fell silent must not
// stop the worker. The number of jobs in doubt is bounded too.
func (w *Worker) stepAside(stop context.Context, t *task) bool {
	if t.outside {
		return true
	}
	select {
	case w.doubt <- struct{}{}:
	case <-stop.Done():
		return false
	}
	<-w.window
	t.outside = true
	return true
}

// stepBack takes a place in the window again.
func (w *Worker) stepBack(stop context.Context, t *task) bool {
	select {
	case w.window <- struct{}{}:
	case <-stop.Done():
		return false
	}
	<-w.doubt
	t.outside = false
	return true
}

// sign waits for what ends the doubt. Since when the job is in doubt is in the journal: a restart
// does not begin the wait anew.
func (w *Worker) sign(stop context.Context, t *task) (ev fallback.Event, stopped bool) {
	over := time.NewTimer(time.Until(t.entry.At.Add(w.cfg.UnknownWait)))
	defer over.Stop()
	for {
		select {
		case a, ok := <-t.late:
			if ok {
				return t.answered(a), false
			}
			t.late = nil
		case id := <-t.strays:
			if w.open.alone(t) && !slices.Contains(t.entry.SMSCIDs, id) && !w.haunted(stop, t) {
				return t.answered(sms.Answer{ID: id}), false
			}
		case <-over.C:
			return fallback.DoubtOver, false
		case <-stop.Done():
			return fallback.None, true
		}
	}
}

// answered is the event of an answer to the part in doubt.
func (t *task) answered(a sms.Answer) fallback.Event {
	if a.Class != sms.Accepted {
		return eventOfClass(a.Class)
	}
	t.entry.SMSCIDs = append(t.entry.SMSCIDs, a.ID)
	if len(t.entry.SMSCIDs) < len(receiptsDue(t.entry)) {
		return fallback.Resume
	}
	return fallback.Accept
}

// doubtOver decides by class, unless another worker that was slow, not dead, has settled the job
// meanwhile. [F-5]
func (w *Worker) doubtOver(ctx context.Context, t *task) (done bool, err error) {
	stored, ok, err := w.get(ctx, t.id)
	if err != nil {
		return true, err
	}
	if ok && (stored.State != wire.JobQueued || stored.Attempt > t.entry.Attempt) {
		t.adopt(stored)
		if t.state != fallback.Submitting {
			return false, nil
		}
		w.back(ctx, t, w.cfg.UnknownWait) // it is being submitted elsewhere right now
		return true, nil
	}
	t.happens(fallback.DoubtOver)
	return false, nil
}

// haunt remembers that a job ended unknown: until its receipt cannot come any more, a receipt that
// nobody expects may be its own. [F-14]
func (w *Worker) haunt(ctx context.Context, e Entry) error {
	if e.State != wire.JobUnknown {
		return nil
	}
	key := hauntKey(e.NumberHash)
	had, _, err := w.get(ctx, key)
	if err != nil || had.ExpiresAt.After(e.ExpiresAt) {
		return err
	}
	return w.put(ctx, key, Entry{State: wire.JobUnknown, At: time.Now(), ExpiresAt: e.ExpiresAt, NumberHash: e.NumberHash})
}

// haunted reports whether a receipt for the task's number may be an older job's. In doubt it is.
func (w *Worker) haunted(ctx context.Context, t *task) bool {
	e, ok, err := w.get(ctx, hauntKey(t.entry.NumberHash))
	return err != nil || ok && time.Now().Before(e.ExpiresAt.Add(receiptWait))
}

// openJobs knows which numbers are being written to. A receipt under an id that no answer named can
// be matched only while exactly one job for its number is open; with two it would be a guess.
type openJobs struct {
	mu       sync.Mutex
	byNumber map[numberHash]map[*task]bool
}

func (o *openJobs) add(t *task) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.number, t.settled = t.entry.NumberHash, make(chan struct{})
	tasks := o.byNumber[t.number]
	if tasks == nil {
		tasks = map[*task]bool{}
		o.byNumber[t.number] = tasks
	}
	tasks[t] = true
	if len(tasks) > 1 {
		for other := range tasks {
			other.crowded = true
		}
	}
}

func (o *openJobs) remove(t *task) {
	o.mu.Lock()
	defer o.mu.Unlock()
	tasks := o.byNumber[t.number]
	delete(tasks, t)
	close(t.settled)
	if len(tasks) == 0 {
		delete(o.byNumber, t.number)
	}
}

// unsettled returns what is closed when a job for the number, other than id, has its end or its answer;
// nil if none waits for an answer right now.
func (o *openJobs) unsettled(n numberHash, id wire.MessageID) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range o.byNumber[n] {
		if t.written && !t.doubtful && t.id != id {
			return t.settled
		}
	}
	return nil
}

// accepted marks that the SMSC took all of t, and that the journal is about to say so.
func (o *openJobs) accepted(t *task) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.named = slices.Clone(t.entry.SMSCIDs)
}

// entering returns what is closed once the journal has a text to the number that was accepted under the
// id; nil if none waits for that right now.
func (o *openJobs) entering(n numberHash, smscID string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range o.byNumber[n] {
		if slices.Contains(t.named, smscID) {
			return t.settled
		}
	}
	return nil
}

// doubts marks that nobody should wait for t any more.
func (o *openJobs) doubts(t *task) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.doubtful = true
}

// writes marks that something is about to be written for t. A stray receipt from before is not its.
func (o *openJobs) writes(t *task) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t.written = true
}

// alone reports whether no other job for the number was open beside t.
func (o *openJobs) alone(t *task) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !t.crowded
}

// stray offers the id of a receipt that came before any answer to the one job it can belong to.
func (o *openJobs) stray(n numberHash, smscID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range o.byNumber[n] {
		if !t.written {
			continue
		}
		select {
		case t.strays <- smscID:
		default: // more than a text has parts: not ours
		}
	}
}
