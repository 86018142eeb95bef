package worker

import (
	"context"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// Times of missing receipts. [F-24]
const (
	receiptWait = time.Hour        // after a job's expiry; then no receipt comes any more
	sweepEvery  = 10 * time.Minute // between looks at the whole journal
	contested   = time.Minute      // before receiptWait is over: longer than a receipt takes to be stored
)

// sweepReceipts looks for submitted jobs that no receipt has ended, at the start and every ten minutes.
// [F-24]
func (w *Worker) sweepReceipts(ctx context.Context) {
	for again := true; again; again = sleep(ctx, sweepEvery) {
		began := time.Now()
		n, err := w.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			w.cfg.Log.Warn("a sweep for missing receipts was cut short", "err", err)
		}
		w.cfg.Observe(Observation{Kind: ObservedNoReceipt, Parts: n, Took: time.Since(began)})
	}
}

func (w *Worker) sweep(ctx context.Context) (n int, err error) {
	var due []wire.MessageID
	now := time.Now()
	err = w.cfg.Journal.Each(ctx, func(id wire.MessageID, e Entry) error {
		if overdue(e, now) {
			due = append(due, id)
		}
		return nil
	})
	for _, id := range due {
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		if failed := w.noReceipt(ctx, id); failed != nil {
			err = failed
			continue
		}
		n++
	}
	return n, err
}

// overdue reports whether e is a submitted job, not a part of one, whose receipts are not coming.
func overdue(e Entry, now time.Time) bool {
	return e.State == wire.JobSubmitted && e.Job == (wire.MessageID{}) && !now.Before(e.ExpiresAt.Add(receiptWait))
}

// noReceipt ends a job that is overdue, by its receipts if they were stored and it was not settled.
func (w *Worker) noReceipt(ctx context.Context, id wire.MessageID) error {
	defer w.locks.lock(id)()
	job, ok, err := w.get(ctx, id)
	if err != nil || !ok || !overdue(job, time.Now()) {
		return err
	}
	ev, err := w.verdict(ctx, id, job)
	if err != nil {
		return err
	}
	if ev == fallback.None {
		ev = fallback.NoReceipt
	}
	return w.end(ctx, id, job, ev)
}
