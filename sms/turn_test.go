package sms

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	fpdu "github.com/fiorix/go-smpp/smpp/pdu"
)

// TestTurn: a turn is a place in the window of a living link, at the pace; it is given back once.
// [F-11] [F-15]
func TestTurn(t *testing.T) {
	accepting := onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "id", 0) })
	bubble(t, "one place", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{Window: 1}, noReceipts, accepting)
		defer w.stop()
		first, err := w.Turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if second, err := w.Turn(ctx); second != nil || !errors.Is(err, ErrNoLink) {
			t.Errorf("a second turn: %v", err)
		}
		m := testMessage(t, testText)
		m.Turn = first
		if r := w.Submit(t.Context(), m); r.Class != Accepted || len(r.IDs) != 1 {
			t.Errorf("by the turn: %v, %v", r.Outcome, r.Err)
		}
		first.End()
		again, err := w.Turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again.End()
		again.End()
		if n := len(w.link(t.Context()).window); n != 0 {
			t.Errorf("%d places taken", n)
		}
	})
	bubble(t, "the link is lost meanwhile", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{Rate: 1}, noReceipts, accepting)
		defer w.stop()
		turn, err := w.Turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		turn.End()
		began := time.Now()
		got := make(chan *Turn, 1)
		go func() {
			turn, _ := w.Turn(t.Context()) // its pace is in a second
			got <- turn
		}()
		synctest.Wait()
		_ = w.last().conn.Close()
		turn = <-got
		if d := time.Since(began); d != time.Second || turn == nil || turn.link.reason() != nil {
			t.Errorf("after %v; want a living link, and one wait for the pace", d)
		}
		m := testMessage(t, testText)
		m.Turn = turn
		if r := w.Submit(t.Context(), m); r.Class != Accepted || len(r.IDs) != 1 {
			t.Errorf("by the turn: %v, %v", r.Outcome, r.Err)
		}
	})
	bubble(t, "the link is lost before the submit", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, accepting)
		defer w.stop()
		m := testMessage(t, testText)
		m.Turn, _ = w.Turn(t.Context())
		_ = w.last().conn.Close()
		synctest.Wait()
		if r := w.Submit(t.Context(), m); r.Outcome != NotSent {
			t.Errorf("%v: nothing was written", r.Outcome)
		}
	})
}

// TestWorkingLinkLost: a link that carried a text and is lost is bound again soon, however often; one
// that never worked is left alone for longer and longer (TestPausesGrow).
func TestWorkingLinkLost(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "id", 0) }))
		defer w.stop()
		began := time.Now()
		for range 20 {
			if r := w.Submit(t.Context(), testMessage(t, testText)); r.Class != Accepted || len(r.IDs) != 1 {
				t.Fatalf("%v, %v", r.Outcome, r.Err)
			}
			_ = w.last().conn.Close()
			synctest.Wait()
		}
		if d := time.Since(began); d > 20*2*firstPause {
			t.Errorf("20 texts over 20 links took %v", d)
		}
	})
}
