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
		stored = e
	}
	return stored, ours, err
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

// tell reports a state to the sender; a job without a sender, such as a one-time password, has
// nobody to tell. [F-7]
func (w *Worker) tell(ctx context.Context, id wire.MessageID, e Entry) error {
	if e.Sender == (wire.Pseudonym{}) || e.State == wire.JobQueued {
		return nil
	}
	return persist(ctx, func(ctx context.Context) error {
		return w.cfg.Events.Outcome(ctx, e.Sender, wire.Outcome{Message: id, State: e.State})
	})
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
	f := fallback.Facts{Attempts: e.Attempt, Refusals: e.Refusals, Expired: !time.Now().Before(e.ExpiresAt)}
	if e.Urgent {
		f.Class = wire.ClassUrgent
	}
	n, _ := fallback.Next(s, ev, f)
	return n
}
