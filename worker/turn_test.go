package worker

import (
	"context"
	"testing"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// gated is a transport whose link comes when the gate opens; it counts the turns that are out.
type gated struct {
	*ports
	gate chan struct{}
	out  int
}

func (g *gated) Turn(ctx context.Context) (*sms.Turn, error) {
	select {
	case <-g.gate:
		g.out++
		return sms.NewTurn(func() { g.out-- }), nil
	case <-ctx.Done():
		return nil, sms.ErrNoLink
	}
}

func (g *gated) Submit(ctx context.Context, m sms.Message) sms.Result {
	defer m.Turn.End()
	return g.ports.Submit(ctx, m)
}

// waiting starts a worker whose only route has no link yet.
func (w *world) waiting() (*process, *gated) {
	g := &gated{gate: make(chan struct{})}
	p := w.start(func(c *Config, p *ports) {
		g.ports, c.Routes, c.Limits = p, w.via(sms.Route{Transport: g}), CapLimits{PerNumber: 2}
	})
	return p, g
}

// untouched fails the test if a job that only waits has left a trace.
func (w *world) untouched(id wire.MessageID) {
	w.t.Helper()
	w.look(func() {
		if e, ok := w.journal[id]; ok {
			w.t.Errorf("a job that waits for its turn is in the journal: %+v", e.State)
		}
		for key, n := range w.counts {
			if n != 0 {
				w.t.Errorf("%d parts counted in %s", n, key)
			}
		}
	})
}

// TestTurn: a job waits for its route's turn before the journal has its attempt; so while it waits it
// can be cancelled, expire, or go back to the queue, and nothing of it is in doubt. [F-10] [F-11]
func TestTurn(t *testing.T) {
	bubble(t, "comes", func(t *testing.T) {
		w := newWorld(t)
		p, g := w.waiting()
		id := w.send(w.job(secret))
		w.wait(20 * time.Second)
		w.untouched(id)
		close(g.gate)
		w.wait(time.Second)
		if w.told(id) != "submitted" || len(w.submits) != 1 || g.out != 0 {
			t.Errorf("told %q after %d submits, %d turns out", w.told(id), len(w.submits), g.out)
		}
		p.stop()
	})
	bubble(t, "does not come in time", func(t *testing.T) {
		w := newWorld(t)
		p, _ := w.waiting()
		id := w.send(w.job(secret))
		w.wait(31 * time.Second)
		if len(w.retries[id]) != 1 || w.retries[id][0] != noTurnPause {
			t.Errorf("given back %v", w.retries[id])
		}
		w.untouched(id)
		p.stop()
	})
	bubble(t, "the worker stops", func(t *testing.T) {
		w := newWorld(t)
		p, _ := w.waiting()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		began := time.Now()
		p.stop()
		if d := time.Since(began); d != 0 || len(w.retries[id]) != 1 {
			t.Errorf("stopped after %v, given back %v", d, w.retries[id])
		}
		w.untouched(id)
	})
	bubble(t, "cancelled meanwhile", func(t *testing.T) {
		w := newWorld(t)
		p, g := w.waiting()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		w.untouched(id)
		w.look(func() { w.journal[id] = Entry{State: wire.JobCancelled} })
		close(g.gate)
		w.wait(time.Second)
		if w.told(id) != "cancelled" || len(w.submits) != 0 || g.out != 0 {
			t.Errorf("told %q after %d submits, %d turns out", w.told(id), len(w.submits), g.out)
		}
		p.stop()
	})
	bubble(t, "STOP meanwhile", func(t *testing.T) {
		w := newWorld(t)
		p, g := w.waiting()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		w.look(func() { w.stopNow(p) })
		close(g.gate)
		w.wait(time.Second)
		if w.told(id) != "suppressed" || len(w.submits) != 0 || g.out != 0 {
			t.Errorf("told %q after %d submits, %d turns out", w.told(id), len(w.submits), g.out)
		}
		p.stop()
	})
	bubble(t, "expired meanwhile", func(t *testing.T) {
		w := newWorld(t)
		p, g := w.waiting()
		j := w.job(secret)
		j.ExpiresAt = time.Now().Add(10 * time.Second)
		id := w.send(j)
		w.wait(11 * time.Second)
		if w.told(id) != "expired" || len(w.submits) != 0 || g.out != 0 {
			t.Errorf("told %q after %d submits, %d turns out", w.told(id), len(w.submits), g.out)
		}
		p.stop()
	})
	bubble(t, "a second attempt", func(t *testing.T) {
		w := newWorld(t)
		p, g := w.waiting()
		close(g.gate)
		w.script = func(n int, m sms.Message) sms.Result {
			if n == 1 {
				g.gate = make(chan struct{})
				return sms.Result{Class: sms.Retry}
			}
			return accepted(m, "id")
		}
		id := w.send(w.job(secret))
		w.wait(20 * time.Second)
		if e := w.journal[id]; e.Stage() != fallback.Queued || e.Attempt != 1 {
			t.Errorf("waiting for the second attempt: %v, attempt %d", e.Stage(), e.Attempt)
		}
		close(g.gate)
		w.wait(time.Minute)
		if w.told(id) != "submitted" || len(w.submits) != 2 || g.out != 0 {
			t.Errorf("told %q after %d submits, %d turns out", w.told(id), len(w.submits), g.out)
		}
		p.stop()
	})
}
