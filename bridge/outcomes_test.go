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

// TestPendingAsksOnce: whoever has nothing to be told costs no request, except while NATS is away; what was stored
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
	if _, may := broker.left.may(alice); may {
		t.Error("asked for again, although there was nothing")
	}
	w.stop()
	eventually(t, "the connection's end", func() bool { return !broker.Connected() })
	for _, p := range []wire.Pseudonym{alice, bob, {9}} {
		if _, err := broker.Outcomes().Pending(t.Context(), p); !errors.Is(err, wire.Unavailable) {
			t.Errorf("NATS is away: %v", err)
		}
	}
}

// TestLeftIndex: what comes while somebody is told that nothing is left is not forgotten, whoever else asks meanwhile;
// what the stream has forgotten is; and a lost connection makes everybody ask again.
func TestLeftIndex(t *testing.T) {
	var x leftIndex
	now := time.Unix(1795241969, 0)
	mayHave := func(p wire.Pseudonym, want bool) (seen uint64) {
		t.Helper()
		seen, may := x.may(p)
		if may != want {
			t.Errorf("may have some: %v, want %v", may, want)
		}
		return seen
	}
	mayHave(bob, true) // who knows nothing
	x.watch()
	doubts, _, _ := x.before()
	x.fill(map[string]uint64{wire.OutcomeSubject(alice): 1, "nonsense": 1}, doubts, now)
	mayHave(bob, false)
	first, second := mayHave(alice, true), mayHave(alice, true) // two connections ask at once
	x.none(alice, second)
	mayHave(alice, false)
	x.came(alice, 7, now)
	x.none(alice, first)
	third := mayHave(alice, true)
	x.none(alice, third)
	mayHave(alice, false)

	x.came(alice, 8, now)
	x.came(bob, 9, now.Add(outcomeAge+time.Minute))
	mayHave(alice, false)
	mayHave(bob, true)

	doubts, last, watching := x.before()
	if last != 9 || !watching {
		t.Errorf("last %d, watching %v", last, watching)
	}
	x.doubt()
	mayHave(alice, true)
	x.fill(nil, doubts, now) // listed before the connection was lost
	mayHave(alice, true)
	doubts, _, _ = x.before()
	x.fill(nil, doubts, now)
	mayHave(alice, false)
}

// TestIndexAfterAnOutage: while NATS is away everybody may have outcomes; afterwards only who has some; and a server
// that comes back with less than it had acknowledged is not believed again. [F-7]
func TestIndexAfterAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	live := make(chan wire.Pseudonym, 4)
	if err := broker.Outcomes().Watch(func(p wire.Pseudonym, _ wire.Outcome) { live <- p }); err != nil {
		t.Fatal(err)
	}
	may := func(p wire.Pseudonym) bool { _, may := broker.left.may(p); return may }
	if may(bob) {
		t.Error("nothing is stored, and yet bob may have some")
	}
	w.stop()
	eventually(t, "doubt", func() bool { return may(bob) })
	w.serve(t)
	eventually(t, "the index", func() bool { return !may(bob) })
	if err := w.dial(t, RoleWorker).Outcome(t.Context(), alice, wire.Outcome{Message: wire.MessageIDOf([]byte("1")), State: wire.JobDelivered}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-live:
	case <-time.After(patience):
		t.Fatal("not told after the outage")
	}
	if !may(alice) || may(bob) {
		t.Errorf("alice %v, bob %v", may(alice), may(bob))
	}
	broker.left.came(alice, 1000, time.Now()) // which the server does not know of any more
	broker.left.doubt()
	broker.Outcomes().refill()
	if !may(bob) {
		t.Error("an index without what was lost is believed")
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
