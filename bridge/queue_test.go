package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"bluejay/fallback"
	"bluejay/wire"
)

// TestUrgentFirst: [F-5] a one-time password does not wait behind texts.
func TestUrgentFirst(t *testing.T) {
	w := newWorld(t, Limits{})
	broker, registrar := w.dial(t, RoleBroker), w.dial(t, RoleRegistrar)
	for _, s := range []string{"n1", "n2", "n3"} {
		enqueue(t, broker, alice, s)
	}
	if err := registrar.Jobs().PublishUrgent(t.Context(), []byte("a password")); err != nil {
		t.Fatal(err)
	}
	_, q := w.queue(t)
	q2 := &Queue{b: q.b, urgent: q.urgent, normal: make(chan *Delivery)} // sees urgent jobs only
	d := must(q2.Next(t.Context()))(t)
	if d.Class() != wire.ClassUrgent || d.Sender() != (wire.Pseudonym{}) || string(d.Payload()) != "a password" {
		t.Errorf("got class %v", d.Class())
	}
	if err := d.Ack(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRedelivery: a job that a worker drops comes back, counted; one that is held does not. A round in which the machine
// stood still for half of AckWait says nothing: no worker could have held its job.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	const ackWait = 800 * time.Millisecond
	w := newWorld(t, Limits{AckWait: ackWait})
	broker := w.dial(t, RoleBroker)
	_, q := w.queue(t)
	for round := range 20 {
		gap := longestGap()
		err := redelivered(t, q, enqueue(t, broker, alice, fmt.Sprintf("job %d", round)), 2*time.Second)
		stood := gap()
		if err == nil {
			return
		}
		if stood < ackWait/2 {
			t.Fatal(err)
		}
		t.Logf("round %d: %v, but the machine stood still for %v", round, err, stood)
	}
	t.Error("the machine stood still in every round")
}

// longestGap watches how evenly time passes for this process; the function returned ends that, and says for how long
// at most it did not.
func longestGap() (end func() time.Duration) {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-tick.C:
			case <-stop:
				longest <- max(most, time.Since(last))
				return
			}
			most, last = max(most, time.Since(last)), time.Now()
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-longest
	}
}

// redelivered holds a job for a while, drops it, gives it back and ends it. What is left of other rounds is ended, too.
func redelivered(t *testing.T, q *Queue, id wire.MessageID, hold time.Duration) error {
	next := func(ctx context.Context) (fallback.Delivery, error) {
		for {
			d, err := q.Next(ctx)
			if err != nil || d.ID() == id {
				return d, err
			}
			if err := d.Ack(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := must(next(t.Context()))(t)
	beat := time.NewTicker(50 * time.Millisecond)
	defer beat.Stop()
	held, cancel := context.WithTimeout(t.Context(), hold)
	defer cancel()
	got := make(chan error, 1)
	go func() { _, err := next(held); got <- err }()
	for waiting := true; waiting; {
		select {
		case <-beat.C:
			if err := first.InProgress(t.Context()); err != nil {
				t.Fatal(err)
			}
		case err := <-got:
			waiting = false
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("a held job came back: %w", err)
			}
		}
	}
	second := must(next(t.Context()))(t) // nobody holds it any longer
	if second.Delivered() != first.Delivered()+1 {
		return fmt.Errorf("delivery %d, and then %d", first.Delivered(), second.Delivered())
	}
	if err := second.Retry(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	third := must(next(t.Context()))(t)
	if third.Delivered() != first.Delivered()+2 {
		return fmt.Errorf("delivery %d was given back, and then %d", second.Delivered(), third.Delivered())
	}
	if err := third.Ack(t.Context()); err != nil {
		t.Error(err)
	}
	if first.Delivered() != 1 {
		return fmt.Errorf("the first delivery is number %d", first.Delivered())
	}
	return nil
}

// TestSealedSenderTravels: the broker's word comes to the worker unchanged, or not at all. [F-6]
func TestSealedSenderTravels(t *testing.T) {
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	_, q := w.queue(t)
	for _, sealed := range [][]byte{nil, {0, 0xff, '\r', '\n', ':'}} {
		payload := append([]byte("job"), sealed...)
		if err := broker.Jobs().Enqueue(t.Context(), wire.ClassNormal, alice, wire.MessageIDOf(payload), payload, sealed, nil); err != nil {
			t.Fatal(err)
		}
		d := must(q.Next(t.Context()))(t)
		if diff := cmp.Diff(string(sealed), string(d.SealedSender())); diff != "" {
			t.Errorf("sealed sender (-want +got):\n%s", diff)
		}
		if err := d.Ack(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestDeadLetter: a full copy is stored before the job is gone, and what is malformed goes there
// without a worker seeing it.
func TestDeadLetter(t *testing.T) {
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	malformed := []func(*nats.Msg){
		func(m *nats.Msg) { m.Header.Set(nats.MsgIdHdr, wire.MessageID{}.String()) }, // not the payload's
		func(m *nats.Msg) { m.Header.Set(nats.MsgIdHdr, "x") },
		func(m *nats.Msg) { m.Header.Set(wire.HeaderSender, "not base64url!") },
		func(m *nats.Msg) { m.Subject = "bj.sms.job.normal.short" },
	}
	for i, spoil := range malformed {
		m := nats.NewMsg(wire.JobSubject(wire.ClassNormal, alice))
		m.Data = []byte{byte(i)}
		m.Header.Set(nats.MsgIdHdr, wire.MessageIDOf(m.Data).String())
		spoil(m)
		must(broker.js.PublishMsg(t.Context(), m))(t)
	}
	id := enqueue(t, broker, alice, "unreadable")
	_, q := w.queue(t)
	d := must(q.Next(t.Context()))(t)
	if d.ID() != id {
		t.Fatalf("the worker saw a malformed job: %q", d.Payload())
	}
	if err := d.DeadLetter(t.Context(), "cannot open"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty queue", func() bool {
		return must(broker.js.Stream(t.Context(), wire.StreamJobs))(t).CachedInfo().State.Msgs == 0
	})
	dead := must(broker.js.Stream(t.Context(), StreamDead))(t)
	if n := dead.CachedInfo().State.Msgs; n != uint64(len(malformed))+1 {
		t.Errorf("%d dead letters, want %d", n, len(malformed)+1)
	}
}

// TestNextEnds: Next returns when its context or the bridge ends.
func TestNextEnds(t *testing.T) {
	w := newWorld(t, Limits{})
	b, q := w.queue(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next after cancel: %v", err)
	}
	enqueue(t, w.dial(t, RoleBroker), alice, "fetched, not taken")
	eventually(t, "a fetched job", func() bool { return strings.Contains(ours(), "(*Queue).hand(") })
	got := make(chan error, 1)
	go func() { _, err := (&Queue{b: b}).Next(context.Background()); got <- err }()
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, wire.Unavailable) || strings.Contains(err.Error(), "bj.") {
		t.Errorf("next after close: %v", err)
	}
	_, q = w.queue(t) // another worker has the job at once: it was let go, not left to time out
	start, gap := time.Now(), longestGap()
	must(q.Next(t.Context()))(t)
	took, stood := time.Since(start), gap()
	if took > 20*time.Second && stood < pullBeat { // else it may have met the end of a request that got no beat
		t.Errorf("the job came back after %v", took)
	}
}
