package sms

import (
	"context"
	"sync"
	"time"
)

// Turn is leave to write one part at once: a link, a place in its window, and the word of the pace.
// A worker asks for it before it tells its journal that it may write, so that a text which only waits
// is never in doubt. It is used up by the [Message] that carries it; whoever does not submit gives it
// back with End.
type Turn struct {
	end  func() // gives the place back
	once sync.Once
	link *session // of SMPP; nil: the transport has no link to choose
}

// NewTurn returns a turn of a transport without links of its own; end is called once.
func NewTurn(end func()) *Turn { return &Turn{end: end} }

// End gives the turn back, at the latest now. More than once, and on nil, it does nothing.
func (t *Turn) End() {
	if t != nil {
		t.once.Do(t.end)
	}
}

// place takes a place in a window; nil: gone was closed, or ctx ended, before there was one.
func place(ctx context.Context, window chan struct{}, gone <-chan struct{}) *Turn {
	select {
	case window <- struct{}{}:
		if ctx.Err() == nil {
			return NewTurn(func() { <-window })
		}
		<-window // both were ready
	case <-gone:
	case <-ctx.Done():
	}
	return nil
}

// wait waits for d or the end of ctx; it reports whether d passed.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// over reports whether ctx has ended, or should have: after a process stood still its timers are late, and
// who waited in another process has given it up. [F-11]
func over(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(end)
}
