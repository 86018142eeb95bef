package bridge

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"bluejay/wire"
)

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// TestPanic: a callback that panics once costs that one call: the service goes on, and the log has one
// line with the panic's type and nothing of its value. [P-20]
func TestPanic(t *testing.T) {
	const secret = "+447700900123"
	w := newWorld(t, Limits{})
	var log logBuffer
	logged := func() Config { return Config{Log: slog.New(slog.NewTextHandler(&log, nil))} }
	dial := func(r Role) *Bridge { c := logged(); c.Role = r; return w.dialWith(t, c) }
	panics := func(where string) {
		t.Helper()
		said := log.String()
		if strings.Count(said, where) != 1 || !strings.Contains(said, where+`" type=string`) || strings.Contains(said, secret) {
			t.Errorf("log:\n%s", said)
		}
	}

	broker := w.dial(t, RoleBroker)
	var armed atomic.Bool
	lookup := func(ctx context.Context, req []byte) []byte {
		if armed.CompareAndSwap(true, false) {
			panic(secret)
		}
		return echo(ctx, req)
	}
	if err := dial(RoleRegistrar).ServeRegistrar(Registrar{Enrol: echo, Lookup: lookup, Check: echo, Sign: echo}); err != nil {
		t.Fatal(err)
	}
	serving(t, broker)
	armed.Store(true)
	for _, want := range []wire.Code{wire.Unavailable, wire.OK} {
		if c, _, err := broker.Call(t.Context(), wire.SubjectLookup, []byte(secret)); c != want || err != nil {
			t.Errorf("%v, %v; want %v", c, err, want)
		}
	}
	panics("panic in a request's handler")

	var calls atomic.Int32
	holder := dial(RoleBroker).OpenRouter(func(_ wire.Tag, _ []byte, reply func(wire.Code)) {
		if calls.Add(1) == 1 {
			panic(secret)
		}
		reply(wire.OK)
	})
	claim(t, holder, broker.OpenRouter(func(wire.Tag, []byte, func(wire.Code)) {}), tag1)
	panics("panic in a route's callback")

	live := make(chan wire.Outcome, 2)
	first := true
	if err := dial(RoleBroker).Outcomes().Watch(func(_ wire.Pseudonym, o wire.Outcome) {
		if first {
			first = false
			panic(secret)
		}
		live <- o
	}); err != nil {
		t.Fatal(err)
	}
	worker := w.dial(t, RoleWorker)
	states := []wire.JobState{wire.JobSubmitted, wire.JobDelivered}
	for _, s := range states {
		if err := worker.Outcome(t.Context(), alice, wire.Outcome{State: s}); err != nil {
			t.Fatal(err)
		}
	}
	if o := <-live; o.State != states[1] {
		t.Errorf("live: %v", o.State)
	}
	panics("panic in a follower of " + wire.StreamOutcomes)
}
