package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/fallback"
	"bluejay/wire"
)

var alice, bob = wire.Pseudonym{1}, wire.Pseudonym{2}

// TestJobSurvivesRestart: [C-4] what Enqueue acknowledged is there when the server is back, and both
// ends have connected again by themselves.
func TestJobSurvivesRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	_, q := w.queue(t)
	w.stop()
	eventually(t, "the connection's end", func() bool { return !broker.Connected() })
	err := broker.Jobs().Enqueue(t.Context(), wire.ClassNormal, alice, wire.MessageIDOf(nil), nil, nil, nil)
	if !errors.Is(err, wire.Unavailable) {
		t.Errorf("enqueue without a server: %v, want Unavailable", err)
	}
	w.serve(t)
	eventually(t, "connected again", broker.Connected)
	id := enqueue(t, broker, alice, "a sealed job")
	w.restart(t, broker, q.b)
	d := must(q.Next(t.Context()))(t)
	if d.ID() != id || d.Sender() != alice || d.Class() != wire.ClassNormal || string(d.Payload()) != "a sealed job" {
		t.Errorf("the job came back changed: %+v", d)
	}
	if err := d.Ack(t.Context()); err != nil {
		t.Errorf("ack: %v", err)
	}
}

// TestDuplicateEnqueue: a resend of the same bytes is one job. [C-6]
func TestDuplicateEnqueue(t *testing.T) {
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	first := enqueue(t, broker, alice, "once")
	enqueue(t, broker, alice, "once")
	second := enqueue(t, broker, alice, "other")
	_, q := w.queue(t)
	var got []wire.MessageID
	for range 2 {
		d := must(q.Next(t.Context()))(t)
		got = append(got, d.ID())
		if err := d.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]wire.MessageID{first, second}, got); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if n := must(w.dial(t, RoleBroker).js.Stream(t.Context(), wire.StreamJobs))(t).CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d jobs left in the queue, want none", n)
	}
}

func TestEnqueueRefuses(t *testing.T) {
	w := newWorld(t, Limits{Jobs: 3, JobsPerSender: 2})
	broker, registrar := w.dial(t, RoleBroker), w.dial(t, RoleRegistrar)
	enqueue(t, broker, alice, "a1")
	enqueue(t, broker, alice, "a2")
	big := make([]byte, maxPayload+1)
	tests := []struct {
		name    string
		b       *Bridge
		class   wire.JobClass
		from    wire.Pseudonym
		payload []byte
		sealed  []byte
		want    wire.Code
	}{
		{"one sender's share is used up", broker, wire.ClassNormal, alice, []byte("a3"), nil, wire.QueueFull},
		{"another sender still may", broker, wire.ClassNormal, bob, []byte("b1"), nil, wire.OK},
		{"the whole queue is full", broker, wire.ClassNormal, bob, []byte("b2"), nil, wire.QueueFull},
		{"also for one-time passwords", registrar, wire.ClassUrgent, wire.Pseudonym{}, []byte("u"), nil, wire.QueueFull},
		{"payload too large", broker, wire.ClassNormal, bob, big, nil, wire.TooLarge},
		{"sealed sender too large", broker, wire.ClassNormal, bob, nil, big, wire.TooLarge},
		{"urgent by a broker [F-5]", broker, wire.ClassUrgent, bob, []byte("u"), nil, wire.NotAllowed},
		{"normal by the registrar", registrar, wire.ClassNormal, bob, []byte("n"), nil, wire.NotAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.b.Jobs().Enqueue(t.Context(), tt.class, tt.from, wire.MessageIDOf(tt.payload), tt.payload, tt.sealed, nil)
			if got := codeOf(err); got != tt.want {
				t.Errorf("got %v (%v), want %v", got, err, tt.want)
			}
		})
	}
}

// codeOf is how callers read an error.
func codeOf(err error) wire.Code {
	c := wire.OK
	if err != nil && !errors.As(err, &c) {
		return wire.Unavailable
	}
	return c
}

// TestCancelRace: [F-10] [F-11] a worker that begins a job and its sender's cancellation never both
// win, nor both lose.
func TestCancelRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	jobs, journal := w.dial(t, RoleBroker).Jobs(), w.dial(t, RoleWorker).Journal()
	cancelled := 0
	for i := range 200 {
		id := wire.MessageIDOf(fmt.Appendf(nil, "job %d", i))
		var began, taken bool
		var errB, errC error
		var wg sync.WaitGroup
		wg.Go(func() {
			_, errB = journal.Begin(t.Context(), id, fallback.Entry{Owner: "w1"})
			began = errB == nil
		})
		wg.Go(func() { taken, errC = jobs.Cancel(t.Context(), id) })
		wg.Wait()
		if began == taken || errC != nil || (!began && !errors.Is(errB, fallback.ErrExists)) {
			t.Fatalf("round %d: began %v (%v), cancelled %v (%v): want exactly one", i, began, errB, taken, errC)
		}
		if taken {
			cancelled++
		}
		again, err := jobs.Cancel(t.Context(), id)
		if again != taken || err != nil {
			t.Fatalf("round %d: cancelling again gave %v, %v; want %v", i, again, err, taken)
		}
	}
	t.Logf("of 200 races the sender won %d", cancelled)
}

// TestCancel: a cancelled job leaves the queue, and the same bytes do not come back.
func TestCancel(t *testing.T) {
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	id := enqueue(t, broker, alice, "never mind")
	if ok, err := broker.Jobs().Cancel(t.Context(), id); !ok || err != nil {
		t.Fatalf("cancel: %v, %v", ok, err)
	}
	if n := must(broker.js.Stream(t.Context(), wire.StreamJobs))(t).CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d jobs left in the queue, want none", n)
	}
	err := broker.Jobs().Enqueue(t.Context(), wire.ClassNormal, alice, id, []byte("never mind"), nil, nil)
	if !errors.Is(err, wire.AlreadyHandled) {
		t.Errorf("the same job again: %v, want AlreadyHandled", err)
	}
	// Another broker, or this one after a restart, does not know where the job is queued: it stays
	// for the worker, which finds the cancellation.
	id = enqueue(t, broker, alice, "by another")
	if ok, err := w.dial(t, RoleBroker).Jobs().Cancel(t.Context(), id); !ok || err != nil {
		t.Fatalf("cancel by another broker: %v, %v", ok, err)
	}
	worker, q := w.queue(t)
	d := must(q.Next(t.Context()))(t)
	e, err := worker.Journal().Begin(t.Context(), d.ID(), fallback.Entry{Owner: "w1"})
	if !errors.Is(err, fallback.ErrExists) || e.State != wire.JobCancelled {
		t.Errorf("begin after a cancellation: %v, %v", e.State, err)
	}
}

// TestCancelAll: [C-revoke] everything one sender has waiting is taken back, except what a worker
// has begun; nobody else's jobs are touched.
func TestCancelAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	broker, worker := w.dial(t, RoleBroker), w.dial(t, RoleWorker)
	begun := enqueue(t, broker, alice, "a0")
	if _, err := worker.Journal().Begin(t.Context(), begun, fallback.Entry{Owner: "w1"}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		enqueue(t, broker, alice, fmt.Sprint("a", i+1))
	}
	other := enqueue(t, broker, bob, "b0")
	if err := broker.Jobs().CancelAll(t.Context(), []wire.Pseudonym{alice, {9}}); err != nil {
		t.Fatal(err)
	}
	_, q := w.queue(t)
	var left []wire.MessageID
	for range 2 {
		d := must(q.Next(t.Context()))(t)
		left = append(left, d.ID())
		if err := d.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]wire.MessageID{begun, other}, left); diff != "" {
		t.Errorf("jobs left (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if d, err := q.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more job: %v, %v", d, err)
	}
	e, ok, err := worker.Journal().Get(t.Context(), wire.MessageIDOf([]byte("a3")))
	if !ok || err != nil || e.State != wire.JobCancelled {
		t.Errorf("journal of a cancelled job: %v, %v, %v", e.State, ok, err)
	}
}

func TestSeqIndexForgets(t *testing.T) {
	var x seqIndex
	id := func(i int) wire.MessageID { return wire.MessageIDOf(fmt.Append(nil, i)) }
	for i := range indexSize + 10 {
		x.add(id(i), uint64(i))
	}
	if _, ok := x.take(id(9)); ok {
		t.Error("the oldest should be forgotten")
	}
	if seq, ok := x.take(id(10)); !ok || seq != 10 {
		t.Errorf("job 10 is at %d, %v", seq, ok)
	}
	if _, ok := x.take(id(10)); ok || len(x.at) != indexSize-1 {
		t.Errorf("taken twice, or %d entries", len(x.at))
	}
}

// BenchmarkEnqueue measures one durable enqueue, with every write synced.
func BenchmarkEnqueue(b *testing.B) {
	w := newWorld(b, Limits{JobsPerSender: 1 << 20})
	jobs := w.dial(b, RoleBroker).Jobs()
	var took []time.Duration
	for b.Loop() {
		payload := fmt.Appendf(nil, "job %d %0200d", len(took), 0)
		start := time.Now()
		if err := jobs.Enqueue(b.Context(), wire.ClassNormal, alice, wire.MessageIDOf(payload), payload, nil, nil); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
