package worker

import (
	"context"
	"fmt"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// Reasons for the dead-letter stream. They are stored in the clear and name nothing. [F-16]
const (
	deadID      = "the message id is not that of the payload"
	deadShape   = "not a sealed job"
	deadClass   = "the class inside is not that of the subject"
	deadKey     = "sealed to a key that this worker does not have"
	deadOpen    = "does not open: damaged, or sealed to another key under this key id"
	deadPanic   = "the worker panicked while working on it"
	deadTooLate = "expires later than 24 hours from now, or after its key"
)

// task is one delivery being worked on.
type task struct {
	d     Delivery
	id    wire.MessageID
	job   envelope.Job
	dead  string // why it could not be opened; ""
	entry Entry
	state fallback.State
	route sms.Route // of the next submission; zero: not picked yet
	turn  *sms.Turn // for the next submission, which uses it up; nil: none

	charged []charge // what this task has counted for it
	late    <-chan sms.Answer
	begun   bool        // the attempt was begun by this task: it may submit
	began   time.Time   // and since when
	tried   bool        // this task has submitted, or waited in doubt
	outside bool        // its place in the window went to another
	number  numberHash  // under which openJobs has it
	crowded bool        // another task for the same number was open beside it; guarded by openJobs
	written bool        // something may have been written for it; guarded by openJobs
	named   []string    // SMSC ids of a text that was accepted and is not in the journal as such; guarded by openJobs
	strays  chan string // SMSC ids of receipts that nobody else expects

	settled  chan struct{} // closed when it leaves openJobs
	doubtful bool          // it has been in doubt; guarded by openJobs
}

// elsewhere reports that another worker has the job, if the journal's entry is not this task's.
func (t *task) elsewhere() bool { return t.state.Wire() == wire.JobQueued }

// work takes one job as far as it gets. stop ends the waiting of jobs in doubt, submits everything.
// It owns a place in the window when called, and returns that or the place in doubt it took instead.
func (w *Worker) work(stop, submits context.Context, d Delivery) {
	ctx := context.WithoutCancel(submits) // what was submitted must be journalled, whatever ends
	t := &task{d: d, id: d.ID(), strays: make(chan string, maxStrays)}
	w.observeQueue(d)
	w.hold(d)
	defer w.letGo(d)
	defer func() { t.turn.End() }()
	defer func() {
		if t.outside { // its doubt ended, or the worker stops
			<-w.doubt
		} else {
			<-w.window
		}
	}()
	ok := w.guard(t, func() {
		if err := w.advance(ctx, stop, submits, t); err != nil {
			w.cfg.Log.Warn("a job goes back to the queue", "job", t.id, "err", err)
			w.back(ctx, t, fallback.Delay(d.Delivered()))
		}
	})
	if !ok {
		w.giveUp(ctx, t)
	}
}

// guard calls f and reports whether it came to its end. A panic must not take the other jobs along;
// only its type is logged, because its value can hold a number or a text. [F-9]
func (w *Worker) guard(t *task, f func()) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			w.cfg.Log.Error("panic in a job", "job", t.id, "type", fmt.Sprintf("%T", v))
		}
	}()
	f()
	return true
}

// giveUp dead-letters a job that made the worker panic: given back, it would do so again and again.
// Its sender hears "perhaps sent" unless more is known: "failed" would invite a second text. Each
// step is guarded, for the port may be what panics.
func (w *Worker) giveUp(ctx context.Context, t *task) {
	w.guard(t, func() {
		if t.id != wire.MessageIDOf(t.d.Payload()) {
			return // a false id: it may be another job's
		}
		e := Entry{State: wire.JobUnknown, Sender: t.d.Sender(), Party: party(t.d)}
		if t.entry.State != wire.JobQueued {
			e.State = t.entry.State
		}
		if err := w.tell(ctx, t.id, e); err != nil {
			w.cfg.Log.Warn("could not report a job", "job", t.id, "err", err)
		}
	})
	w.guard(t, func() {
		if err := persist(ctx, func(ctx context.Context) error { return t.d.DeadLetter(ctx, deadPanic) }); err != nil {
			w.cfg.Log.Warn("could not dead-letter a job", "job", t.id, "err", err)
		}
	})
}

// advance takes the job to an end: acknowledged, dead-lettered, or back in the queue. An error means
// that a port failed and the job is as the journal has it. A job that comes for the first time is not
// looked up: its beginning finds whatever the journal has.
func (w *Worker) advance(ctx, stop, submits context.Context, t *task) error {
	t.dead = w.unseal(t)
	if t.dead == deadID {
		return w.bury(ctx, t)
	}
	if t.dead == "" && t.d.Delivered() <= 1 {
		return w.start(ctx, stop, submits, t)
	}
	entry, known, err := w.get(ctx, t.id)
	switch {
	case err != nil:
		return err
	case known:
		t.adopt(entry)
		return w.drive(ctx, stop, submits, t)
	case t.dead != "":
		return w.bury(ctx, t)
	}
	return w.start(ctx, stop, submits, t)
}

func (w *Worker) start(ctx, stop, submits context.Context, t *task) error {
	if waits, err := w.admit(ctx, stop, t); waits || err != nil {
		return err
	}
	return w.drive(ctx, stop, submits, t)
}

// unseal opens the job and checks what anyone could have got wrong; it returns why it is dead, or "".
// [F-2] [F-4] [F-5]
func (w *Worker) unseal(t *task) (dead string) {
	payload := t.d.Payload()
	header, err := envelope.ParseJobHeader(payload)
	switch {
	case t.id != wire.MessageIDOf(payload):
		return deadID
	case err != nil:
		return deadShape
	case header.Class != t.d.Class():
		return deadClass
	}
	key, ok := w.keys.find(header.KID)
	if !ok {
		return deadKey
	}
	if t.job, err = key.OpenJob(payload); err != nil {
		return deadOpen
	}
	end := wire.Time32(key.Key().NotAfter)
	if t.job.ExpiresAt.After(end) || t.job.ExpiresAt.After(time.Now().Add(maxLifetime+wire.ClockSkew)) {
		return deadTooLate
	}
	return ""
}

// bury tells the sender "failed" and dead-letters the job. It needs no journal: nothing was sent, and
// the dead letter is the record. Under a false id nobody is told: it may be another job's. [F-16]
func (w *Worker) bury(ctx context.Context, t *task) error {
	w.cfg.Log.Warn("a job is dead-lettered", "job", t.id, "reason", t.dead)
	if t.dead != deadID {
		e := Entry{State: wire.JobFailed, At: time.Now(), Sender: t.d.Sender(), Party: party(t.d), Urgent: t.d.Class() == wire.ClassUrgent}
		if err := w.tell(ctx, t.id, e); err != nil {
			return err
		}
		w.observeState(e, e.Stage())
	}
	return persist(ctx, func(ctx context.Context) error { return t.d.DeadLetter(ctx, t.dead) })
}
