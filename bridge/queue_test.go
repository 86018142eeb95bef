package bridge

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

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

// TestRedelivery: a job that a worker drops comes back, counted; one that is held does not.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{AckWait: 800 * time.Millisecond})
	id := enqueue(t, w.dial(t, RoleBroker), alice, "job")
	_, q := w.queue(t)
	first := must(q.Next(t.Context()))(t)

	beat := time.NewTicker(50 * time.Millisecond)
	defer beat.Stop()
	held, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	got := make(chan error, 1)
	go func() { _, err := q.Next(held); got <- err }()
	for waiting := true; waiting; {
		select {
		case <-beat.C:
			if err := first.InProgress(t.Context()); err != nil {
				t.Fatal(err)
			}
		case err := <-got:
			waiting = false
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a held job came back: %v", err)
			}
		}
	}
	second := must(q.Next(t.Context()))(t) // nobody holds it any longer
	if second.ID() != id || second.Delivered() != 2 {
		t.Errorf("second delivery of %v: number %d", second.ID() == id, second.Delivered())
	}
	if err := second.Retry(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	third := must(q.Next(t.Context()))(t)
	if third.ID() != id || third.Delivered() != 3 {
		t.Errorf("third delivery: number %d", third.Delivered())
	}
	if err := third.Ack(t.Context()); err != nil {
		t.Error(err)
	}
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
	start := time.Now()
	must(q.Next(t.Context()))(t)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the job came back after %v", took)
	}
}
