package bridge

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// TestOutcomes: [F-7] kept until the sender says done; told live as well; the same report is one.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	worker, broker := w.dial(t, RoleWorker), w.dial(t, RoleBroker)
	type told struct {
		to wire.Pseudonym
		o  wire.Outcome
	}
	live := make(chan told, 16)
	m1, m2 := wire.MessageIDOf([]byte("1")), wire.MessageIDOf([]byte("2"))
	sent := []told{
		{alice, wire.Outcome{Message: m1, State: wire.JobSubmitted}},
		{alice, wire.Outcome{Message: m2, State: wire.JobSubmitted}},
		{bob, wire.Outcome{Message: m1, State: wire.JobFailed}},
		{alice, wire.Outcome{Message: m1, State: wire.JobDelivered}},
	}
	report := func(s told) {
		if err := worker.Outcome(t.Context(), s.to, s.o); err != nil {
			t.Fatal(err)
		}
	}
	before := told{bob, wire.Outcome{Message: m2, State: wire.JobExpired}}
	report(before)
	err := broker.Outcomes().Watch(func(p wire.Pseudonym, o wire.Outcome) { live <- told{p, o} })
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sent {
		report(s)
		report(s) // a worker that is not sure says it again
	}
	for _, s := range sent {
		if got := <-live; got != s {
			t.Errorf("live: %+v, want %+v", got, s)
		}
	}
	check := func(p wire.Pseudonym, want ...wire.Outcome) {
		t.Helper()
		got, err := broker.Outcomes().Pending(t.Context(), p)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("pending: %v (-want +got):\n%s", err, diff)
		}
	}
	done := func(p wire.Pseudonym, o wire.Outcome) {
		t.Helper()
		if err := broker.Outcomes().Done(t.Context(), p, o); err != nil {
			t.Error(err)
		}
	}
	check(alice, sent[0].o, sent[1].o, sent[3].o)
	done(alice, sent[1].o)
	check(alice, sent[0].o, sent[3].o)
	done(alice, sent[3].o) // final: nothing earlier about that job is left to say
	done(alice, sent[3].o)
	check(alice)
	check(bob, before.o, sent[2].o)
	check(wire.Pseudonym{9})
}

// TestPendingAsksOnce: whoever has nothing to be told costs no request, which shows when NATS is away; what was stored
// before the watch, and what comes after somebody had nothing, is found. [F-7]
func TestPendingAsksOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	worker, broker := w.dial(t, RoleWorker), w.dial(t, RoleBroker)
	o := wire.Outcome{Message: wire.MessageIDOf([]byte("1")), State: wire.JobDelivered}
	other := wire.Outcome{Message: wire.MessageIDOf([]byte("2")), State: wire.JobDelivered}
	report := func(p wire.Pseudonym, o wire.Outcome) {
		t.Helper()
		if err := worker.Outcome(t.Context(), p, o); err != nil {
			t.Fatal(err)
		}
	}
	pending := func(p wire.Pseudonym, want int) {
		t.Helper()
		if got, err := broker.Outcomes().Pending(t.Context(), p); err != nil || len(got) != want {
			t.Errorf("%d pending, %v; want %d", len(got), err, want)
		}
	}
	report(alice, o)
	live := make(chan wire.Pseudonym, 4)
	if err := broker.Outcomes().Watch(func(p wire.Pseudonym, _ wire.Outcome) { live <- p }); err != nil {
		t.Fatal(err)
	}
	pending(alice, 1)
	pending(bob, 0)
	report(bob, other)
	select {
	case <-live:
	case <-time.After(patience):
		t.Fatal("not told")
	}
	pending(bob, 1)
	if err := broker.Outcomes().Done(t.Context(), alice, o); err != nil {
		t.Fatal(err)
	}
	pending(alice, 0) // asks, and remembers
	w.stop()
	eventually(t, "the connection's end", func() bool { return !broker.Connected() })
	pending(alice, 0)
	pending(wire.Pseudonym{9}, 0)
	if _, err := broker.Outcomes().Pending(t.Context(), bob); !errors.Is(err, wire.Unavailable) {
		t.Errorf("bob has one, and NATS is away: %v", err)
	}
}

// TestLeftIndex: what comes while somebody is told that nothing is left is not forgotten.
func TestLeftIndex(t *testing.T) {
	var x leftIndex
	if _, may := x.may(alice); !may {
		t.Error("who knows nothing says that there is nothing")
	}
	x.fill(map[string]uint64{wire.OutcomeSubject(alice): 1, "nonsense": 1})
	seen, may := x.may(alice)
	if _, other := x.may(bob); !may || other {
		t.Errorf("alice %v, bob %v", may, other)
	}
	x.add(alice)
	x.none(alice, seen)
	seen, may = x.may(alice)
	if !may {
		t.Error("what came meanwhile is forgotten")
	}
	x.none(alice, seen)
	if _, may = x.may(alice); may || len(x.of) != 0 {
		t.Errorf("%v, %d entries", may, len(x.of))
	}
}

// TestWatchGoesOn: after an outage nothing is missed, also when nothing had come before it, and also
// what came before the broker was back. [F-7]
func TestWatchGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	live := make(chan wire.Outcome, 16)
	if err := broker.Outcomes().Watch(func(_ wire.Pseudonym, o wire.Outcome) { live <- o }); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		w.stop()
		eventually(t, "the connection's end", func() bool { return !broker.Connected() })
		w.serve(t)
		o := wire.Outcome{Message: wire.MessageIDOf([]byte{byte(i)}), State: wire.JobDelivered}
		if err := w.dial(t, RoleWorker).Outcome(t.Context(), alice, o); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-live:
			if got != o {
				t.Errorf("outage %d: %+v, want %+v", i, got, o)
			}
		case <-time.After(patience):
			t.Fatalf("outage %d: the outcome was missed", i)
		}
	}
}

// TestWorkerKey: [F-2] who watches gets the current key, then each later one.
func TestWorkerKey(t *testing.T) {
	w := newWorld(t, Limits{})
	worker := w.dial(t, RoleWorker)
	first, second := wire.WorkerKey{KID: 1, NotAfter: 9}, wire.WorkerKey{KID: 2}
	if err := worker.PublishWorkerKey(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	var seen []chan wire.WorkerKey
	for _, r := range []Role{RoleBroker, RoleRegistrar} {
		got := make(chan wire.WorkerKey, 4)
		seen = append(seen, got)
		if err := w.dial(t, r).WatchWorkerKey(func(k wire.WorkerKey) { got <- k }); err != nil {
			t.Fatal(err)
		}
	}
	for _, got := range seen {
		if k := <-got; k != first {
			t.Errorf("first key %d", k.KID)
		}
	}
	if err := worker.keys.put(t.Context(), keyWorker, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if err := worker.PublishWorkerKey(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	for _, got := range seen {
		if k := <-got; k != second {
			t.Errorf("after garbage: key %d, want the second", k.KID)
		}
	}
}

func TestWatchNeedsAStream(t *testing.T) {
	t.Parallel()
	w := &world{dir: t.TempDir(), port: -1}
	w.serve(t)
	defer w.stop()
	b := w.dial(t, RoleBroker)
	if err := b.Outcomes().Watch(nil); !errors.Is(err, wire.Unavailable) {
		t.Errorf("watch without a stream: %v", err)
	}
	worker := w.dial(t, RoleWorker)
	if _, err := worker.OpenQueue(t.Context()); !errors.Is(err, wire.Unavailable) {
		t.Errorf("queue without a stream: %v", err)
	}
	// A bucket that is made later is found then.
	if err := worker.PublishWorkerKey(t.Context(), wire.WorkerKey{}); !errors.Is(err, wire.Unavailable) {
		t.Errorf("publish without a bucket: %v", err)
	}
	for range 2 { // the second time everything is there, with other limits
		if err := b.EnsureStreams(t.Context(), Limits{Jobs: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if err := worker.PublishWorkerKey(t.Context(), wire.WorkerKey{}); err != nil {
		t.Errorf("publish afterwards: %v", err)
	}
}
