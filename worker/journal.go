package worker

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// numberHash stands for a number at rest: HMAC-SHA256(K_sms, E.164)[:16]. [F-9]
type numberHash = [16]byte

func (w *Worker) hash(n wire.Number) numberHash {
	m := hmac.New(sha256.New, w.cfg.NumberKey)
	m.Write([]byte(n.E164()))
	return numberHash(m.Sum(nil))
}

// attemptKey is where the journal decides who makes attempt n, from 2; attempt 1 is decided under
// the job's own id, where a cancellation competes too. [F-10] [F-11]
func attemptKey(id wire.MessageID, n int) wire.MessageID {
	return wire.MessageIDOf(wire.LP("bj1 attempt", id[:], binary.BigEndian.AppendUint32(nil, uint32(n))))
}

// partKey is where the journal joins the SMSC's answer and its receipt. SMSC ids may repeat, so the
// recipient is part of the key. [F-14]
func partKey(route, smscID string, n numberHash) wire.MessageID {
	return wire.MessageIDOf(wire.LP("bj1 part", []byte(route), []byte(smscID), n[:]))
}

// endKey is where the journal decides between a late receipt and a sweep which final state a
// submitted job gets. [F-24]
func endKey(id wire.MessageID) wire.MessageID {
	return wire.MessageIDOf(wire.LP("bj1 end", id[:]))
}

// hauntKey is where the journal keeps how long receipts of jobs that ended unknown may still come for
// a number. [F-14]
func hauntKey(n numberHash) wire.MessageID {
	return wire.MessageIDOf(wire.LP("bj1 haunt", n[:]))
}

// replyKey is where the journal decides who answers a keyword of a number on a UTC day. [F-19]
func replyKey(k fallback.Keyword, n numberHash, now time.Time) wire.MessageID {
	return wire.MessageIDOf(wire.LP("bj1 reply", []byte{byte(k)}, n[:], []byte(now.UTC().Format("20060102"))))
}

// begin stores e unless there is an entry. It reports what is stored and whether that is e. A first
// try whose answer was lost is recognised by its owner.
func (w *Worker) begin(ctx context.Context, id wire.MessageID, e Entry) (stored Entry, ours bool, err error) {
	err = persist(ctx, func(ctx context.Context) error {
		stored, err = w.cfg.Journal.Begin(ctx, id, e)
		if errors.Is(err, ErrExists) {
			ours = e.Owner != "" && stored.Owner == e.Owner && stored.Attempt == e.Attempt
			return nil
		}
		ours = err == nil
		return err
	})
	if ours {
		e.Revision = stored.Revision
		stored = e
	}
	return stored, ours, err
}

// replace stores e over the entry it was made from, which was in state was. over: another worker has moved the
// job on meanwhile, for this one stood still; then nothing is stored, and that is what the journal has. A row
// that was only saved anew, or had its number erased, is written over. [F-7] [F-11]
func (w *Worker) replace(ctx context.Context, id wire.MessageID, was wire.JobState, e Entry) (stored Entry, over bool, err error) {
	err = persist(ctx, func(ctx context.Context) (err error) {
		stored, err = w.cfg.Journal.Replace(ctx, id, e)
		switch {
		case !errors.Is(err, ErrExists):
			return err
		case stored.State == e.State && stored.Owner == e.Owner && stored.At.Equal(e.At): // a first try, whose answer was lost
			return nil
		case stored.State != was || stored.Attempt > e.Attempt:
			over = true
			return nil
		}
		e.Revision = stored.Revision
		return err
	})
	if over {
		w.cfg.Log.Warn("this worker stood still, and another took its job over", "job", id)
	}
	return stored, over, err
}

// record stores the task's entry. over: the task is as another worker has left it in the journal.
func (w *Worker) record(ctx context.Context, t *task) (over bool, err error) {
	stored, over, err := w.replace(ctx, t.id, wire.JobQueued, t.entry)
	switch {
	case err != nil:
		return false, err
	case over:
		t.adopt(stored)
	default:
		t.entry.Revision = stored.Revision
	}
	return over, nil
}

func (w *Worker) put(ctx context.Context, id wire.MessageID, e Entry) error {
	return persist(ctx, func(ctx context.Context) error { return w.cfg.Journal.Put(ctx, id, e) })
}

func (w *Worker) get(ctx context.Context, id wire.MessageID) (e Entry, ok bool, err error) {
	err = persist(ctx, func(ctx context.Context) error {
		e, ok, err = w.cfg.Journal.Get(ctx, id)
		return err
	})
	return e, ok, err
}

// tell reports a state to the sender, and to whoever follows transitions; a job without a sender,
// such as a one-time password, has nobody to tell. [F-7]
func (w *Worker) tell(ctx context.Context, id wire.MessageID, e Entry) error {
	if e.State == wire.JobQueued {
		return nil
	}
	if e.Sender != (wire.Pseudonym{}) {
		err := persist(ctx, func(ctx context.Context) error {
			return w.cfg.Events.Outcome(ctx, e.Sender, wire.Outcome{Message: id, State: e.State})
		})
		if err != nil {
			return err
		}
	}
	return w.emit(ctx, id, e, e.Stage())
}

// emit reports a transition. With a party it must succeed, as an outcome must; without one, only
// operators look, and a report that is lost holds no job up. [F-20]
func (w *Worker) emit(ctx context.Context, id wire.MessageID, e Entry, s fallback.State) error {
	call := func(ctx context.Context) error {
		return w.cfg.Events.Transition(ctx, fallback.Transition{
			Message: id, State: s.String(), Attempt: e.Attempt, Parts: e.Parts, Route: e.Route, At: e.At, Party: e.Party,
		})
	}
	if len(e.Party) > 0 {
		return persist(ctx, call)
	}
	if err := once(ctx, call); err != nil {
		w.cfg.Log.Warn("a transition was not reported", "job", id, "state", s.String(), "err", err)
	}
	return nil
}

// locks orders what this process does to one job: its states must be told in their order. Between
// processes the journal's own order has to do, and a final state is final for whoever is told.
type locks struct {
	mu   sync.Mutex
	held map[lockKey]*lock
}

type lockKey = wire.MessageID

type lock struct {
	sync.Mutex
	users int
}

// lock locks a job and returns the function that unlocks it.
func (l *locks) lock(id lockKey) (unlock func()) {
	l.mu.Lock()
	k := l.held[id]
	if k == nil {
		k = &lock{}
		l.held[id] = k
	}
	k.users++
	l.mu.Unlock()
	k.Lock()
	return func() {
		k.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, id)
		}
	}
}

// next applies an event to a job's state. An event that cannot happen leaves it as it was: the
// journal is never moved by a surprise.
func next(s fallback.State, ev fallback.Event, e Entry) fallback.State {
	f := fallback.Facts{Attempts: e.Attempt - e.Refusals - e.Unsent, Refusals: e.Refusals, Expired: !time.Now().Before(e.ExpiresAt)}
	if e.Urgent {
		f.Class = wire.ClassUrgent
	}
	n, _ := fallback.Next(s, ev, f)
	return n
}
