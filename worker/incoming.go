package worker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// incoming reads what a person sent. STOP and START are stored when it returns nil; after an error the
// network should say it again. What is no keyword is dropped: nobody but its sender may read it. [F-18]
func (w *Worker) incoming(ctx context.Context, m sms.Incoming) error {
	if m.From.IsZero() {
		return nil // a short code or a name: nobody to suppress or to answer
	}
	k := fallback.ReadKeyword(m.Text)
	w.cfg.Observe(Observation{Kind: ObservedIncoming, Route: m.Route, Keyword: k})
	var err error
	switch k {
	case fallback.KeywordNone:
		return nil
	case fallback.KeywordStop:
		return w.stopNumber(ctx, m.From)
	case fallback.KeywordStart:
		err = w.startNumber(ctx, m.From)
	}
	if err != nil {
		return err
	}
	return w.answer(ctx, k, m)
}

// stopNumber puts a number on the list, durably and at once; its owner's consent is revoked in the
// background. What an operator entered stays the operator's. [F-17] [F-18]
func (w *Worker) stopNumber(ctx context.Context, n wire.Number) error {
	number := w.hash(n)
	defer w.locks.lock(wire.MessageID(number))()
	had, on, err := w.suppressed(ctx, number)
	if err != nil {
		return err
	}
	s := fallback.Suppression{At: time.Now(), Cause: fallback.CauseStop}
	if on {
		s.Cause = had.Cause
	}
	sealed, sealErr := w.cfg.SealNumber(n)
	if sealErr == nil {
		s.Sealed = sealed
	}
	if err := w.suppress(ctx, number, s); err != nil {
		return err
	}
	w.cfg.Observe(Observation{Kind: ObservedSuppress, Keyword: fallback.KeywordStop})
	if sealErr != nil {
		return fmt.Errorf("worker: a stopped number cannot be sealed to the registrar: %w", sealErr)
	}
	w.stops.add(number, sealed)
	return nil
}

// startNumber takes off the list what a STOP put there, and nothing else. A revocation that is still
// owed comes first: START gives no consent back. [F-18]
func (w *Worker) startNumber(ctx context.Context, n wire.Number) error {
	number := w.hash(n)
	defer w.locks.lock(wire.MessageID(number))()
	had, on, err := w.suppressed(ctx, number)
	if err != nil || !on || had.Cause != fallback.CauseStop {
		return err
	}
	if len(had.Sealed) > 0 {
		if err := once(ctx, func(ctx context.Context) error { return w.cfg.Registrar.Stop(ctx, had.Sealed) }); err != nil {
			return fmt.Errorf("worker: a START waits for the registrar to carry out the STOP before it: %w", err)
		}
	}
	err = persist(ctx, func(ctx context.Context) error { return w.cfg.Suppressions.Lift(ctx, number) })
	if err == nil {
		w.stops.done(number, had.Sealed)
		w.cfg.Observe(Observation{Kind: ObservedSuppress, Keyword: fallback.KeywordStart})
	}
	return err
}

func (w *Worker) suppressed(ctx context.Context, n numberHash) (s fallback.Suppression, on bool, err error) {
	err = persist(ctx, func(ctx context.Context) error {
		s, on, err = w.cfg.Suppressions.Suppressed(ctx, n)
		return err
	})
	return s, on, err
}

func (w *Worker) suppress(ctx context.Context, n numberHash, s fallback.Suppression) error {
	return persist(ctx, func(ctx context.Context) error { return w.cfg.Suppressions.Suppress(ctx, n, s) })
}

// stops are the numbers whose consent is to be revoked, sealed to the registrar. The list of
// suppressions holds the same, durably.
type stops struct {
	mu      sync.Mutex
	pending map[numberHash][]byte
	wake    chan struct{} // has an element after an addition
}

func (s *stops) add(n numberHash, sealed []byte) {
	s.mu.Lock()
	s.pending[n] = sealed
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// done forgets a number, unless it was stopped again meanwhile.
func (s *stops) done(n numberHash, sealed []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Equal(s.pending[n], sealed) {
		delete(s.pending, n)
	}
}

func (s *stops) all() map[numberHash][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.pending)
}

// revokeStopped has the registrar revoke the consent of every stopped number, with growing pauses
// while it cannot. What a crash has left, here or at another worker, is found on the list at the start
// and every ten minutes. [F-18]
func (w *Worker) revokeStopped(ctx context.Context) {
	due := true
	for pause := time.Second; ; {
		if due {
			due = !w.findStopped(ctx)
		}
		failed := w.revokeAll(ctx)
		wait := sweepEvery
		if due || failed {
			wait, pause = pause, min(2*pause, time.Minute)
		} else {
			pause = time.Second
		}
		over := time.NewTimer(wait)
		select {
		case <-w.stops.wake:
		case <-over.C:
			due = due || !failed
		case <-ctx.Done():
			return
		}
		over.Stop()
	}
}

// revokeAll tries every pending number once and reports whether one is left.
func (w *Worker) revokeAll(ctx context.Context) (failed bool) {
	for n, sealed := range w.stops.all() {
		if err := w.revoke(ctx, n, sealed); err != nil {
			failed = true
			w.cfg.Log.Error("a STOP is not yet carried out by the registrar", "err", err)
		}
	}
	return failed
}

// findStopped collects what a crash has left; false means that the list could not be read.
func (w *Worker) findStopped(ctx context.Context) bool {
	err := w.cfg.Suppressions.Each(ctx, func(n [16]byte, s fallback.Suppression) error {
		if len(s.Sealed) > 0 {
			w.stops.add(n, s.Sealed)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		w.cfg.Log.Warn("the suppression list cannot be read", "err", err)
	}
	return err == nil
}

// revoke has the registrar carry out one STOP, and then erases the sealed number. [F-9] [F-18]
func (w *Worker) revoke(ctx context.Context, n numberHash, sealed []byte) error {
	if err := once(ctx, func(ctx context.Context) error { return w.cfg.Registrar.Stop(ctx, sealed) }); err != nil {
		return err
	}
	defer w.locks.lock(wire.MessageID(n))()
	s, on, err := w.suppressed(ctx, n)
	if err != nil {
		return err
	}
	if on && bytes.Equal(s.Sealed, sealed) { // neither stopped again nor started since
		w.cfg.Observe(Observation{Kind: ObservedRevoked, Took: time.Since(s.At)})
		s.Sealed = nil
		if err := w.suppress(ctx, n, s); err != nil {
			return err
		}
	}
	w.stops.done(n, sealed)
	return nil
}
