package worker

import (
	"context"
	"fmt"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// maxQuietWait is how long a job is put off at a time while its route is quiet. [F-23]
const maxQuietWait = 15 * time.Minute

// noTurnPause is for how long a job whose route had no turn for it leaves its place to others.
const noTurnPause = time.Second

// admit decides whether the job may be submitted at all, waits for its turn and begins it in the
// journal. waits: it is back in the queue, and the journal knows nothing of it. [F-4] [F-6]
func (w *Worker) admit(ctx, stop context.Context, t *task) (waits bool, err error) {
	t.entry = Entry{
		At: time.Now(), ExpiresAt: t.job.ExpiresAt, NumberHash: w.hash(t.job.To), Sender: t.d.Sender(),
		Urgent: t.job.Class == wire.ClassUrgent, Party: party(t.d),
	}
	if err := w.emit(ctx, t.id, t.entry, fallback.Queued); err != nil {
		return false, err
	}
	ev, err := w.judge(ctx, t)
	if err != nil {
		return false, err
	}
	if ev == fallback.Begin {
		ev, err = w.afford(ctx, stop, t)
	}
	if err != nil {
		return false, err
	}
	if ev == fallback.None {
		w.back(ctx, t, max(w.quietFor(t), noTurnPause))
		return true, nil
	}
	t.happens(ev)
	return false, w.enter(ctx, t)
}

// afford waits for the job's turn and counts its parts. None: there was no turn in time. [F-21]
func (w *Worker) afford(ctx, stop context.Context, t *task) (fallback.Event, error) {
	if ev := w.turn(stop, t); ev != fallback.Begin {
		return ev, nil
	}
	if ok, err := w.spendJob(ctx, t); !ok || err != nil {
		return fallback.Cap, err
	}
	return fallback.Begin, nil
}

// turn waits until a part could be written at once. A job that only waits is not in the journal: its
// sender may still cancel it, a STOP is in time, and a worker that dies leaves no doubt about it. None:
// there was no turn in SubmitTimeout, or the worker stops. [F-10] [F-11] [F-17]
func (w *Worker) turn(stop context.Context, t *task) fallback.Event {
	ctx, cancel := context.WithTimeout(stop, w.cfg.SubmitTimeout)
	defer cancel()
	ctx, cancelAtExpiry := context.WithDeadline(ctx, t.entry.ExpiresAt)
	defer cancelAtExpiry()
	turn, err := t.route.Transport.Turn(ctx)
	t.turn = turn
	switch {
	case !time.Now().Before(t.entry.ExpiresAt):
		return fallback.OutOfTime
	case err != nil:
		return fallback.None
	}
	return fallback.Begin
}

// stood is how long a process may have stood still until another may have the job: less than the queue
// waits for a sign of life.
const stood = 20 * time.Second

// enter makes the job's entry in the journal, unless a cancellation or another worker was first.
func (w *Worker) enter(ctx context.Context, t *task) error {
	t.entry.State, t.entry.Attempt, t.entry.Owner, t.entry.At = t.state.Wire(), 1, w.owner(), time.Now()
	stored, ours, err := w.begin(ctx, t.id, t.entry)
	if err != nil {
		return err
	}
	t.begun, t.began, t.entry.Revision = ours, t.entry.At, stored.Revision
	switch {
	case !ours:
		if time.Since(t.entry.At) < stood { // else it may be ours, of which the answer was lost, and have gone out
			w.refundJob(ctx, t)
		}
		t.adopt(stored)
	case t.state.Final():
		w.observeState(t.entry, t.state)
	}
	return nil
}

// adopt takes over what the journal has. A cancellation knows only the id.
func (t *task) adopt(e Entry) {
	if e.Sender == (wire.Pseudonym{}) {
		e.Sender = t.d.Sender()
	}
	if len(e.Party) == 0 {
		e.Party = party(t.d)
	}
	t.entry, t.state = e, e.Stage()
}

// party is the token of a delivery; one that is longer than a broker makes is none.
func party(d Delivery) []byte {
	if p := d.Party(); len(p) <= maxParty {
		return p
	}
	return nil
}

// judge asks, in this order: expiry, route, quiet hours, sender, parts. None means that the job waits
// for the end of the quiet hours; an error, that the registrar could not be asked.
func (w *Worker) judge(ctx context.Context, t *task) (fallback.Event, error) {
	if ev := w.permit(t); ev != fallback.Begin {
		return ev, nil
	}
	if ok, err := w.checkSender(ctx, t); !ok || err != nil {
		return fallback.Refuse, err
	}
	t.entry.Parts = sms.Parts(w.compose(t), t.route.Charset)
	if t.entry.Parts > wire.MaxSMSParts {
		return fallback.Refuse, nil
	}
	return fallback.Begin, nil
}

// permit asks what may change between attempts: expiry, route and quiet hours. [F-4] [F-23] [F-22]
func (w *Worker) permit(t *task) fallback.Event {
	switch {
	case !time.Now().Before(t.entry.ExpiresAt):
		return fallback.OutOfTime
	case !w.pick(t):
		return fallback.Refuse
	case w.quietFor(t) == 0:
		return fallback.Begin
	case !t.route.Quiet.Until(time.Now()).Before(t.entry.ExpiresAt):
		return fallback.OutOfTime
	}
	return fallback.None
}

// quietFor is how long to wait for the end of the quiet hours, at most maxQuietWait; 0: they are not
// now, or the job is urgent. [F-23]
func (w *Worker) quietFor(t *task) time.Duration {
	now := time.Now()
	until := t.route.Quiet.Until(now)
	if t.entry.Urgent || until.IsZero() {
		return 0
	}
	return min(max(until.Sub(now), time.Second), maxQuietWait)
}

// pick finds the route to the job's number. Once a route has taken parts of the text, the rest goes
// there too, or nowhere. [F-22]
func (w *Worker) pick(t *task) bool {
	if len(t.entry.SMSCIDs) > 0 {
		route, ok := w.cfg.Routes.Named(t.entry.Route)
		t.route = route
		return ok
	}
	route, err := w.cfg.Routes.For(t.job.To)
	if err != nil {
		w.cfg.Log.Info("no route takes a job", "job", t.id, "err", err)
		return false
	}
	t.route, t.entry.Route = route, route.Transport.Route()
	return true
}

// checkSender has the registrar confirm a claimed number. An unconfirmed claim is refused, unless the
// route allows such texts without it. An error means that the registrar could not be asked. [F-6]
func (w *Worker) checkSender(ctx context.Context, t *task) (ok bool, err error) {
	if t.job.From.IsZero() {
		return true, nil
	}
	if sealed := t.d.SealedSender(); len(sealed) > 0 {
		err := once(ctx, func(ctx context.Context) (err error) {
			t.entry.Checked, err = w.cfg.Registrar.CheckSender(ctx, sealed, t.id, t.job.From)
			return err
		})
		if err != nil {
			return false, err
		}
	}
	return t.entry.Checked || t.route.Unchecked, nil
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
