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
	w.answerEnters(ctx, number, r.ID)
	part, known, err := w.get(ctx, key)
	if err == nil && !known {
		word := Entry{State: r.State, Owner: w.owner(), At: time.Now(), NumberHash: number}
		var first bool
		if part, first, err = w.begin(ctx, key, word); first {
			w.open.stray(number, r.ID)
			return nil
		}
	}
	if err == nil && known && w.answersSettle(ctx, number, part.Job) {
		part, _, err = w.get(ctx, key)
	}
	if err != nil || part.Ambiguous || part.Job == (wire.MessageID{}) {
		return err
	}
	defer w.locks.lock(part.Job)()
	return w.attribute(ctx, key, part, r.State)
}

// answerWait bounds how long a receipt waits for answers, to its own text and to others to its number.
const answerWait = time.Second

// answerEnters waits while the answer that gave this id is on its way into the journal. A receipt that
// overtook it there would be a stray: it would find its text all the same, but take the journal five
// synced writes for a text instead of four. An answer that has not come is not waited for.
func (w *Worker) answerEnters(ctx context.Context, n numberHash, smscID string) {
	entered := w.open.entering(n, smscID)
	if entered == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	select {
	case <-entered:
	case <-ctx.Done():
	}
}

// answersSettle waits until no other text to the number is between its writing and the journal's entry of
// its answer. If the SMSC repeats ids, a receipt that overtook an answer would be taken for that of an
// older text; after the answer the journal knows that the id repeats. waited: look again. [F-14]
func (w *Worker) answersSettle(ctx context.Context, n numberHash, id wire.MessageID) (waited bool) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	for other := w.open.unsettled(n, id); other != nil; other = w.open.unsettled(n, id) {
		waited = true
		select {
		case <-other:
		case <-ctx.Done():
			return true
		}
	}
	return waited
}

// attribute gives a word to the part's job, whose lock is held. The first word on a part counts. Of a
// text in one piece the job's own entry is the record; of others, that of each part.
func (w *Worker) attribute(ctx context.Context, key wire.MessageID, part Entry, s wire.JobState) error {
	job, ok, err := w.get(ctx, part.Job)
	switch {
	case err != nil:
		return err
	case ok && job.Attempt == 0:
		return nil // a reply: nobody waits to hear
	case ok && job.State == wire.JobSubmitted && len(receiptsDue(job)) == 1:
		return w.end(ctx, part.Job, job, fallback.OfReceipt(s))
	case ok && job.State.Final():
		return w.tell(ctx, part.Job, job)
	}
	if !part.State.Final() {
		part.State, part.At = s, time.Now()
		if err := w.put(ctx, key, part); err != nil {
			return err
		}
	}
	return w.resolve(ctx, part.Job)
}

// index enters the parts of a submitted job, so that their receipts find it; early reports that a
// receipt may have come first. Ids that repeat for one recipient while a receipt is due make receipts
// ambiguous: such a job ends without one rather than with another's. [F-14]
func (w *Worker) index(ctx context.Context, id wire.MessageID, job Entry) (early bool, err error) {
	seen := map[string]bool{}
	for _, smscID := range job.SMSCIDs {
		first, err := w.indexPart(ctx, id, job, smscID, seen[smscID])
		if err != nil {
			return false, err
		}
		early, seen[smscID] = early || !first, true
	}
	return early, nil
}

// indexPart enters one part; first reports that nothing was known of its id. A word from before the
// part was written is an older text's, whose answer never came.
func (w *Worker) indexPart(ctx context.Context, id wire.MessageID, job Entry, smscID string, repeated bool) (first bool, err error) {
	key := partKey(job.Route, smscID, job.NumberHash)
	part := Entry{State: wire.JobSubmitted, Owner: w.owner(), Job: id, At: time.Now(), ExpiresAt: job.ExpiresAt, NumberHash: job.NumberHash}
	stored, ours, err := w.begin(ctx, key, part)
	switch {
	case err != nil || ours:
		return ours, err
	case repeated:
		part.Ambiguous = true
	case stored.Job == id:
		return false, nil
	case stored.Job == (wire.MessageID{}):
		if !stored.At.Before(job.Since) {
			part.State = stored.State
		}
	case !stored.State.Final():
		if part.Ambiguous, err = w.due(ctx, stored); err != nil {
			return false, err
		}
	}
	return false, w.put(ctx, key, part)
}

// due reports whether a receipt for another text's part may still come under an id that repeats. A
// reply's is not waited for, only kept in mind.
func (w *Worker) due(ctx context.Context, part Entry) (bool, error) {
	other, ok, err := w.get(ctx, part.Job)
	if other.Attempt == 0 {
		return ok && time.Now().Before(part.ExpiresAt), err
	}
	return ok && !other.State.Final(), err
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
	ev, err := w.verdict(ctx, id, job)
	if err != nil || ev == fallback.None {
		return err
	}
	return w.end(ctx, id, job, ev)
}

// receiptsDue are the SMSC ids that a receipt each is due for: of every part, or one for a text that
// the network took as a whole.
func receiptsDue(job Entry) []string {
	n := job.Parts
	if job.Whole {
		n = 1
	}
	due := make([]string, n)
	copy(due, job.SMSCIDs)
	return due
}

// verdict is what the receipts of a job come to. None: some are due.
func (w *Worker) verdict(ctx context.Context, id wire.MessageID, job Entry) (fallback.Event, error) {
	ids := receiptsDue(job)
	states := make([]wire.JobState, len(ids))
	for i, smscID := range ids {
		part, ok, err := w.get(ctx, partKey(job.Route, smscID, job.NumberHash))
		if err != nil {
			return fallback.None, err
		}
		if ok && part.Job == id && !part.Ambiguous {
			states[i] = part.State
		}
	}
	return fallback.Combine(states), nil
}

// end gives a submitted job its final state. Around the time at which sweeps give it no_receipt, the
// journal's create-if-absent decides which: a final state is never left. [F-7] [F-24]
func (w *Worker) end(ctx context.Context, id wire.MessageID, job Entry, ev fallback.Event) error {
	now := time.Now()
	final := next(job.Stage(), ev, job)
	if !now.Before(job.ExpiresAt.Add(receiptWait - contested)) {
		stored, _, err := w.begin(ctx, endKey(id), Entry{State: final.Wire(), Owner: w.owner(), At: now})
		if err != nil {
			return err
		}
		final = stored.Stage()
	}
	job.State, job.At = final.Wire(), now
	stored, over, err := w.replace(ctx, id, wire.JobSubmitted, job)
	if err != nil {
		return err
	}
	if !over {
		w.observeState(stored, final)
	}
	return w.tell(ctx, id, stored)
}
