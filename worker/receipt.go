package worker

import (
	"context"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// receipt stores what the network says of one part, and settles its job when that was the last word
// needed. It returns an error when the SMSC should say it again. A receipt may come before the SMSC's
// answer, twice, and to another worker than the one that submitted. [F-14]
func (w *Worker) receipt(ctx context.Context, r sms.Receipt) error {
	if !r.State.Final() || r.To.IsZero() {
		return nil // it changes nothing, or it cannot be told whose it is
	}
	number := w.hash(r.To)
	key := partKey(r.Route, r.ID, number)
	word := Entry{State: r.State, Owner: w.owner(), At: time.Now(), NumberHash: number}
	stored, ours, err := w.begin(ctx, key, word)
	switch {
	case err != nil:
		return err
	case ours:
		w.open.stray(number, r.ID)
		return nil
	case stored.Ambiguous || stored.Job == (wire.MessageID{}):
		return nil
	}
	if !stored.State.Final() {
		stored.State, stored.At = r.State, time.Now()
		if err := w.put(ctx, key, stored); err != nil {
			return err
		}
	}
	defer w.locks.lock(stored.Job)()
	return w.resolve(ctx, stored.Job)
}

// index enters the parts of a submitted job, so that their receipts find it; a receipt that came
// first is kept. Ids that repeat for one recipient while a receipt is due make receipts ambiguous:
// such a job ends without one rather than with another's. [F-14]
func (w *Worker) index(ctx context.Context, id wire.MessageID, job Entry) error {
	seen := map[string]bool{}
	for _, smscID := range job.SMSCIDs {
		if err := w.indexPart(ctx, id, job, smscID, seen[smscID]); err != nil {
			return err
		}
		seen[smscID] = true
	}
	return nil
}

func (w *Worker) indexPart(ctx context.Context, id wire.MessageID, job Entry, smscID string, repeated bool) error {
	key := partKey(w.cfg.Transport.Route(), smscID, job.NumberHash)
	part := Entry{State: wire.JobSubmitted, Owner: w.owner(), Job: id, At: time.Now(), ExpiresAt: job.ExpiresAt, NumberHash: job.NumberHash}
	stored, ours, err := w.begin(ctx, key, part)
	switch {
	case err != nil || ours:
		return err
	case repeated:
		part.Ambiguous = true
	case stored.Job == id:
		return nil
	case stored.Job == (wire.MessageID{}):
		part.State = stored.State
	case !stored.State.Final():
		part.Ambiguous = true
	}
	return w.put(ctx, key, part)
}

// resolve settles a submitted job by its receipts, if they decide it, and tells a final state again
// if it was settled before: the crash may have been in between. The job's lock is held. [F-7]
func (w *Worker) resolve(ctx context.Context, id wire.MessageID) error {
	job, ok, err := w.get(ctx, id)
	if err != nil || !ok || job.State == wire.JobQueued {
		return err
	}
	if job.State.Final() {
		return w.tell(ctx, id, job)
	}
	states := make([]wire.JobState, job.Parts)
	for i, smscID := range job.SMSCIDs[:min(len(job.SMSCIDs), job.Parts)] {
		part, ok, err := w.get(ctx, partKey(w.cfg.Transport.Route(), smscID, job.NumberHash))
		if err != nil {
			return err
		}
		if ok && part.Job == id && !part.Ambiguous {
			states[i] = part.State
		}
	}
	ev := fallback.Combine(states)
	if ev == fallback.None {
		return nil
	}
	job.State, job.At = next(job.Stage(), ev, job).Wire(), time.Now()
	if err := w.put(ctx, id, job); err != nil {
		return err
	}
	return w.tell(ctx, id, job)
}
