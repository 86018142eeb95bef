package worker

import (
	"context"
	"encoding/base64"
	"time"

	"bluejay/wire"
)

// A charge is one counter that a text counts against. [F-21]
type charge struct {
	key   string
	limit int // SMS parts a day
}

// chargeKey is "<yyyymmdd>.<kind>.<base64url>", the day in UTC.
func chargeKey(now time.Time, kind string, of []byte) string {
	return now.UTC().Format("20060102") + "." + kind + "." + base64.RawURLEncoding.EncodeToString(of)
}

// charges lists the counters of a text, the narrowest first. sender zero: nobody's.
func (w *Worker) charges(number numberHash, sender wire.Pseudonym, route string, daily int) []charge {
	now, l, routeID := time.Now(), w.cfg.Limits, wire.MessageIDOf([]byte(route)) // names may be long
	all := []charge{{chargeKey(now, "number", number[:]), l.PerNumber}}
	if sender != (wire.Pseudonym{}) {
		all = append(all, charge{chargeKey(now, "sender", sender[:]), l.PerSender})
	}
	all = append(all, charge{chargeKey(now, "route", routeID[:]), daily}, charge{chargeKey(now, "all", []byte("all")), l.Daily})
	bounded := all[:0]
	for _, c := range all {
		if c.limit > 0 {
			bounded = append(bounded, c)
		}
	}
	return bounded
}

// spend counts n parts against every counter, or against none if one of them is met. An error means
// that it could not be counted; then some of it may be. [F-21]
func (w *Worker) spend(ctx context.Context, cs []charge, n int) (ok bool, err error) {
	for i, c := range cs {
		var total int64
		err := once(ctx, func(ctx context.Context) (err error) {
			total, err = w.cfg.Caps.Add(ctx, c.key, int64(n))
			return err
		})
		switch {
		case err != nil:
			w.refund(ctx, cs[:i], n)
			return false, err
		case total > int64(c.limit):
			w.refund(ctx, cs[:i+1], n)
			return false, nil
		}
	}
	return true, nil
}

// refund takes back what was counted for a text that is not submitted. It may fail: too much counted
// is safe.
func (w *Worker) refund(ctx context.Context, cs []charge, n int) {
	for _, c := range cs {
		err := once(ctx, func(ctx context.Context) error {
			_, err := w.cfg.Caps.Add(ctx, c.key, -int64(n))
			return err
		})
		if err != nil {
			w.cfg.Log.Warn("a cap counts a text that was not sent", "err", err)
			return
		}
	}
}

// spendJob counts a job before its first attempt; its repetitions are free. When the counters cannot
// be reached a text waits, because what cannot be counted cannot be bounded; a one-time password
// goes, because the registrar bounds those by itself. [F-21]
func (w *Worker) spendJob(ctx context.Context, t *task) (ok bool, err error) {
	cs := w.charges(t.entry.NumberHash, t.entry.Sender, t.entry.Route, t.route.Daily)
	ok, err = w.spend(ctx, cs, t.entry.Parts)
	switch {
	case err != nil && t.entry.Urgent:
		w.cfg.Log.Error("the caps cannot be reached: a one-time password goes uncounted", "job", t.id, "err", err)
		return true, nil
	case ok:
		t.charged = cs
	}
	return ok, err
}

// refundJob takes back what this task has counted.
func (w *Worker) refundJob(ctx context.Context, t *task) {
	w.refund(ctx, t.charged, t.entry.Parts)
	t.charged = nil
}
