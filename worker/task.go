package worker

import (
	"context"
	"encoding/binary"
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

	late    <-chan sms.Answer
	begun   bool        // the attempt was begun by this task: it may submit
	tried   bool        // this task has submitted, or waited in doubt
	outside bool        // its place in the window went to another
	number  numberHash  // under which openJobs has it
	crowded bool        // another task for the same number was open beside it; guarded by openJobs
	strays  chan string // SMSC ids of receipts that nobody else expects
}

// work takes one job as far as it gets. stop ends the waiting of jobs in doubt, submits everything.
// It owns a place in the window when called, and returns that or the place in doubt it took instead.
func (w *Worker) work(stop, submits context.Context, d Delivery) {
	ctx := context.WithoutCancel(submits) // what was submitted must be journalled, whatever ends
	t := &task{d: d, id: d.ID(), strays: make(chan string, maxStrays)}
	w.hold(d)
	defer w.letGo(d)
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
		e := Entry{State: wire.JobUnknown, Sender: t.d.Sender()}
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
// that a port failed and the job is as the journal has it.
func (w *Worker) advance(ctx, stop, submits context.Context, t *task) error {
	t.dead = w.unseal(t)
	if t.dead == deadID {
		return w.bury(ctx, t)
	}
	entry, known, err := w.get(ctx, t.id)
	switch {
	case err != nil:
		return err
	case known:
		t.adopt(entry)
	case t.dead != "":
		return w.bury(ctx, t)
	default:
		err = w.admit(ctx, t)
	}
	if err != nil {
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
		if err := w.tell(ctx, t.id, Entry{State: wire.JobFailed, Sender: t.d.Sender()}); err != nil {
			return err
		}
	}
	return persist(ctx, func(ctx context.Context) error { return t.d.DeadLetter(ctx, t.dead) })
}

// admit decides whether the job may be submitted at all and begins it in the journal. [F-4] [F-6]
func (w *Worker) admit(ctx context.Context, t *task) error {
	now := time.Now()
	t.entry = Entry{
		At: now, ExpiresAt: t.job.ExpiresAt, NumberHash: w.hash(t.job.To), Sender: t.d.Sender(),
		Urgent: t.job.Class == wire.ClassUrgent,
	}
	ev, err := w.judge(ctx, t)
	if err != nil {
		return err
	}
	t.entry.Parts, _ = wire.SMSParts(w.compose(t))
	if t.entry.Parts > wire.MaxSMSParts {
		ev = fallback.Refuse
	}
	t.happens(ev)
	t.entry.State, t.entry.Attempt, t.entry.Owner = t.state.Wire(), 1, w.owner()
	stored, ours, err := w.begin(ctx, t.id, t.entry)
	if err != nil {
		return err
	}
	t.begun = ours
	if !ours {
		t.adopt(stored)
	}
	return nil
}

// adopt takes over what the journal has. A cancellation knows only the id.
func (t *task) adopt(e Entry) {
	if e.Sender == (wire.Pseudonym{}) {
		e.Sender = t.d.Sender()
	}
	t.entry, t.state = e, e.Stage()
}

// judge is expiry and the sender check. An error means that the registrar could not be asked.
func (w *Worker) judge(ctx context.Context, t *task) (fallback.Event, error) {
	if !time.Now().Before(t.job.ExpiresAt) {
		return fallback.OutOfTime, nil
	}
	if t.job.From.IsZero() {
		return fallback.Begin, nil
	}
	if sealed := t.d.SealedSender(); len(sealed) > 0 {
		err := once(ctx, func(ctx context.Context) (err error) {
			t.entry.Checked, err = w.cfg.Registrar.CheckSender(ctx, sealed, t.id, t.job.From)
			return err
		})
		if err != nil {
			return fallback.None, err
		}
	}
	if !t.entry.Checked && !w.cfg.AllowUnchecked {
		return fallback.Refuse, nil
	}
	return fallback.Begin, nil
}

// compose is the text to submit. An unconfirmed claim is left out: a line "From" that nobody checked
// would be worth less than none. [F-6]
func (w *Worker) compose(t *task) string {
	if t.entry.Checked {
		return fallback.WithSender(t.job.From.E164(), t.job.Text)
	}
	return t.job.Text
}

// owner names one attempt, unlike any other of any process.
func (w *Worker) owner() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turns++
	return fmt.Sprintf("%s/%d", w.name, w.turns)
}

// drive follows the state machine until the job is out of this worker's hands.
func (w *Worker) drive(ctx, stop, submits context.Context, t *task) error {
	if t.state == fallback.Submitting && !t.begun {
		t.state = next(t.state, fallback.NoAnswer, t.entry) // whoever began it may have written it
	}
	if t.state.Wire() == wire.JobQueued {
		w.open.add(t)
		defer w.open.remove(t)
	}
	for {
		var done bool
		var err error
		switch t.state {
		case fallback.Submitting:
			w.submit(submits, t)
		case fallback.Doubtful:
			done, err = w.waitInDoubt(ctx, stop, t)
		case fallback.Queued:
			done, err = w.again(ctx, t)
		default:
			done, err = true, w.finish(ctx, t)
		}
		if done || err != nil {
			return err
		}
	}
}

// submit makes one attempt. Only a changed state says that anything happened. [F-11]
func (w *Worker) submit(submits context.Context, t *task) {
	if t.dead != "" { // a receipt vouched for a part, and the key for the rest is gone
		t.happens(fallback.Reject)
		return
	}
	ctx, cancel := context.WithTimeout(submits, w.cfg.SubmitTimeout)
	defer cancel()
	ctx, cancelAtExpiry := context.WithDeadline(ctx, t.entry.ExpiresAt)
	defer cancelAtExpiry()
	r := w.cfg.Transport.Submit(ctx, sms.Message{
		To: t.job.To, From: w.cfg.From, Text: w.compose(t), ValidUntil: t.entry.ExpiresAt,
		Class: t.job.Class, Ref: binary.BigEndian.Uint16(t.id[:]), Done: len(t.entry.SMSCIDs),
	})
	t.tried = true
	t.entry.SMSCIDs = append(t.entry.SMSCIDs, r.IDs...)
	t.late = r.Late
	t.happens(eventOf(r))
	if r.Err != nil || r.Class != sms.Accepted {
		w.cfg.Log.Info("an SMS was not accepted", "job", t.id, "outcome", r.Outcome.String(), "status", r.Status.String(), "state", t.state.String(), "err", r.Err)
	}
}

// happens applies an event to the task.
func (t *task) happens(ev fallback.Event) {
	switch ev {
	case fallback.TryLater:
		t.entry.Refusals++
	case fallback.NoAnswer:
		t.entry.At = time.Now()
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
func (w *Worker) again(ctx context.Context, t *task) (done bool, err error) {
	if t.tried {
		t.entry.Owner, t.entry.At = "", time.Now()
		if err := w.put(ctx, t.id, t.entry); err != nil {
			return true, err
		}
		w.back(ctx, t, fallback.Delay(t.entry.Attempt))
		return true, nil
	}
	switch {
	case t.dead != "":
		t.happens(fallback.Refuse)
	case !time.Now().Before(t.entry.ExpiresAt):
		t.happens(fallback.OutOfTime)
	default:
		return false, w.claim(ctx, t)
	}
	return false, nil
}

// claim begins the next attempt, unless another worker has begun it. [F-11]
func (w *Worker) claim(ctx context.Context, t *task) error {
	mine := Entry{Owner: w.owner(), Attempt: t.entry.Attempt + 1, At: time.Now(), ExpiresAt: t.entry.ExpiresAt}
	stored, ours, err := w.begin(ctx, attemptKey(t.id, mine.Attempt), mine)
	if err != nil {
		return err
	}
	t.entry.Owner, t.entry.Attempt, t.entry.At = stored.Owner, mine.Attempt, stored.At
	t.happens(fallback.Begin)
	if !ours {
		t.state = next(t.state, fallback.NoAnswer, t.entry)
		return nil
	}
	t.begun = true
	return w.put(ctx, t.id, t.entry)
}

// finish records a state that ends this worker's part, and acknowledges the job. What came from the
// journal is only told again: the crash may have been between the two. [F-7] [F-11]
func (w *Worker) finish(ctx context.Context, t *task) error {
	if err := w.settle(ctx, t); err != nil {
		return err
	}
	return persist(ctx, t.d.Ack)
}

func (w *Worker) settle(ctx context.Context, t *task) error {
	defer w.locks.lock(t.id)()
	if t.entry.State != t.state.Wire() {
		t.entry.State, t.entry.Owner, t.entry.At = t.state.Wire(), "", time.Now()
		if err := w.put(ctx, t.id, t.entry); err != nil {
			return err
		}
	}
	if t.entry.State != wire.JobSubmitted {
		return w.tell(ctx, t.id, t.entry)
	}
	if err := w.index(ctx, t.id, t.entry); err != nil {
		return err
	}
	if err := w.tell(ctx, t.id, t.entry); err != nil {
		return err
	}
	return w.resolve(ctx, t.id)
}

// back gives the job back to the queue. If that fails, the queue hands it out by itself.
func (w *Worker) back(ctx context.Context, t *task, after time.Duration) {
	err := once(ctx, func(ctx context.Context) error { return t.d.Retry(ctx, after) })
	if err != nil {
		w.cfg.Log.Warn("could not give a job back", "job", t.id, "err", err)
	}
}
