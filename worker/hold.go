package worker

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// Records is the worker's stores as they are stored, for who asks what is held on a number. [H-1]
type Records interface {
	// EachRow calls f for every row of the journal there was when it began.
	EachRow(ctx context.Context, f func(h wire.Held, e Entry) error) error
	// Rewrite and EraseRow change a row that EachRow gave, unless it has changed since: [ErrChanged].
	Rewrite(ctx context.Context, h wire.Held, e Entry) error
	EraseRow(ctx context.Context, h wire.Held) error
	// OnList returns a number's entry on the suppression list, Spent a counter that [Caps] counts.
	OnList(ctx context.Context, n [16]byte) ([]wire.Held, error)
	Spent(ctx context.Context, key string) ([]wire.Held, error)
	// Wipe has the files of the journal rewritten soon, without what was erased.
	Wipe(ctx context.Context) error
}

// ErrChanged is what [Records] returns when a row has changed meanwhile.
var ErrChanged = errors.New("worker: a row of the journal changed meanwhile")

// HandleHold answers a sealed question what is held on a number by its HMAC: rows of the journal, an entry of the
// suppression list, counters. Codes: BadRecord, OutOfTime (asked more than a minute ago, or to a key that is
// gone), Unavailable. [H-1] [H-2] [H-3]
func (w *Worker) HandleHold(ctx context.Context, req []byte) []byte {
	q, key, code := w.asked(req, wire.AskWorker)
	if code != wire.OK {
		return []byte{byte(code)}
	}
	held, err := w.holds(ctx, w.hash(q.Number))
	var page []byte
	if err == nil {
		page, err = wire.PageOf(held, q.Skip)
	}
	if err != nil {
		w.cfg.Log.Warn("a question what is held is not answered", "err", err)
		return []byte{byte(wire.Unavailable)}
	}
	w.cfg.Log.Info("audit: answered what is held")
	return append([]byte{byte(wire.OK)}, key.Seal(page)...)
}

func (w *Worker) asked(req []byte, p wire.Purpose) (q envelope.Question, key envelope.AnswerKey, code wire.Code) {
	secret, ok := w.keys.find(envelope.QuestionKID(req))
	if !ok {
		return q, key, wire.OutOfTime
	}
	q, key, err := secret.OpenQuestion(req)
	switch {
	case err != nil, q.Purpose != p:
		return q, key, wire.BadRecord
	case !q.Fresh(p, time.Now()):
		return q, key, wire.OutOfTime
	case w.cfg.Records == nil:
		return q, key, wire.Unavailable
	}
	return q, key, wire.OK
}

func (w *Worker) holds(ctx context.Context, n numberHash) (held []wire.Held, err error) {
	err = w.cfg.Records.EachRow(ctx, func(h wire.Held, e Entry) error {
		if e.NumberHash == n {
			held = append(held, h)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	held = wire.Newest(held)
	listed, err := w.cfg.Records.OnList(ctx, n)
	if err != nil {
		return nil, err
	}
	held = append(held, listed...)
	for day := range 3 { // counters live for 48 hours
		at := time.Now().AddDate(0, 0, -day)
		spent, err := w.cfg.Records.Spent(ctx, chargeKey(at, "number", n[:]))
		if err != nil {
			return nil, err
		}
		held = append(held, spent...)
	}
	for i, h := range held {
		if json.Valid(h.Raw) {
			held[i].Value = json.RawMessage(h.Raw)
		}
	}
	return held, nil
}

// eraseTries bounds how often the journal is read while rows change under the erasure.
const eraseTries = 4

// HandleErase answers a sealed request to erase a number with OK once no row of the journal names it. What is on
// the suppression list stays. Asking again does no harm. Codes as [Worker.HandleHold]. [H-6]
func (w *Worker) HandleErase(ctx context.Context, req []byte) []byte {
	q, _, code := w.asked(req, wire.EraseNumber)
	if code != wire.OK {
		return []byte{byte(code)}
	}
	n := w.hash(q.Number)
	for range eraseTries {
		changed, err := w.eraseRows(ctx, n)
		if err == nil && changed {
			continue
		}
		if err == nil {
			err = w.cfg.Records.Wipe(ctx)
		}
		if err != nil {
			w.cfg.Log.Warn("a number is not yet erased", "err", err)
			break
		}
		w.cfg.Log.Info("audit: erased a number")
		return []byte{byte(wire.OK)}
	}
	return []byte{byte(wire.Unavailable)}
}

// eraseRows goes once through the journal; changed reports that a row was changed by somebody else meanwhile.
func (w *Worker) eraseRows(ctx context.Context, n numberHash) (changed bool, err error) {
	err = w.cfg.Records.EachRow(ctx, func(h wire.Held, e Entry) error {
		if e.NumberHash != n {
			return nil
		}
		err := w.eraseRow(ctx, h, e)
		if errors.Is(err, ErrChanged) {
			changed = true
			return nil
		}
		return err
	})
	return changed, err
}

// eraseRow removes a row, or, while the journal needs it to keep a text from going out twice, takes out of it
// whom it is to. A text that is on its way then ends without a receipt. [H-6] [F-11]
func (w *Worker) eraseRow(ctx context.Context, h wire.Held, e Entry) error {
	if !needed(e, time.Now()) {
		return w.cfg.Records.EraseRow(ctx, h)
	}
	e.NumberHash = numberHash{}
	return w.cfg.Records.Rewrite(ctx, h, e)
}

// needed reports whether a row is of a job, or of a part of one, that may come again.
func needed(e Entry, now time.Time) bool {
	isJob := e.Job != (wire.MessageID{}) || e.Attempt > 0 || e.State == wire.JobCancelled
	return isJob && now.Before(e.ExpiresAt.Add(receiptWait))
}
