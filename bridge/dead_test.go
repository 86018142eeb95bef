package bridge

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bluejay/fallback"
	"bluejay/wire"
)

// TestDeadLetters: listed with its reason, tried again whole, with what the broker attached, and dropped
// for good. [F-16] [F-6]
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	broker, op := w.dial(t, RoleBroker), w.dial(t, RoleOperator).DeadLetters()
	if list, err := op.List(t.Context(), 10); len(list) != 0 || err != nil {
		t.Fatalf("%v, %v", list, err)
	}
	_, q := w.queue(t)
	kill := func(payload string) wire.MessageID {
		id := wire.MessageIDOf([]byte(payload))
		if err := broker.Jobs().Enqueue(t.Context(), wire.ClassNormal, alice, id, []byte(payload), []byte("word"), []byte("party")); err != nil {
			t.Fatal(err)
		}
		if err := must(q.Next(t.Context()))(t).DeadLetter(t.Context(), "a reason"); err != nil {
			t.Fatal(err)
		}
		return id
	}
	first, second := kill("one"), kill("two")
	list, err := op.List(t.Context(), 10)
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	if d := list[0]; d.Message != first || d.Reason != "a reason" || d.Class != wire.ClassNormal || d.Sender != alice || d.Bytes != 3 || time.Since(d.At) > time.Minute {
		t.Errorf("%+v", d)
	}
	if short, err := op.List(t.Context(), 1); len(short) != 1 || err != nil {
		t.Errorf("at most one: %d, %v", len(short), err)
	}
	if err := op.Retry(t.Context(), list[1].Seq); err == nil {
		t.Error("retried while the queue would take it for a repetition, and dropped: it would be lost")
	}
	if left, _ := op.List(t.Context(), 10); len(left) != 2 || left[1].Message != second {
		t.Errorf("%v", left)
	}
	if err := op.Drop(t.Context(), list[0].Seq); err != nil {
		t.Error(err)
	}
	if left, _ := op.List(t.Context(), 10); len(left) != 1 {
		t.Errorf("%v", left)
	}
	for _, err := range []error{op.Drop(t.Context(), list[0].Seq), op.Drop(t.Context(), 99), op.Retry(t.Context(), 99)} {
		if !errors.Is(err, ErrNoDeadLetter) {
			t.Errorf("%v", err)
		}
	}
}

// TestDeadLetterRetried: once the queue has forgotten the id, the job comes back as it was.
func TestDeadLetterRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	op, worker := w.dial(t, RoleOperator), w.dial(t, RoleWorker)
	dead := nats.NewMsg(subjectDead + "urgent." + alice.String()) // as a worker leaves it
	dead.Data = []byte("three")
	dead.Header.Set(headerReason, "a reason")
	dead.Header.Set(wire.HeaderSender, b64.EncodeToString([]byte("word")))
	dead.Header.Set(wire.HeaderParty, b64.EncodeToString([]byte("party")))
	if _, err := worker.publish(t.Context(), dead, "dead"); err != nil {
		t.Fatal(err)
	}
	list := must(op.DeadLetters().List(t.Context(), 10))(t)
	if err := op.DeadLetters().Retry(t.Context(), list[0].Seq); err != nil {
		t.Fatal(err)
	}
	_, q := w.queue(t)
	d := must(q.Next(t.Context()))(t)
	if string(d.Payload()) != "three" || d.Class() != wire.ClassUrgent || d.Sender() != alice || string(d.SealedSender()) != "word" || string(d.Party()) != "party" {
		t.Errorf("%q of class %v", d.Payload(), d.Class())
	}
	if left := must(op.DeadLetters().List(t.Context(), 10))(t); len(left) != 0 {
		t.Errorf("%v", left)
	}
	if q, ok := d.(interface{ QueuedAt() time.Time }); !ok || time.Since(q.QueuedAt()) > time.Minute {
		t.Error("no time of queueing")
	}
}

// TestTransitions: with a party they are kept, once, in order, until they are passed on; without one
// they are for whoever listens. [F-20]
func TestTransitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	worker, broker, op := w.dial(t, RoleWorker), w.dial(t, RoleBroker), w.dial(t, RoleOperator)
	heard := make(chan *nats.Msg, 10)
	if _, err := op.nc.ChanSubscribe(wire.EventSubjects(false), heard); err != nil {
		t.Fatal(err)
	}
	if err := op.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	step := func(state string, party string) fallback.Transition {
		return fallback.Transition{Message: wire.MessageID{7}, State: state, Attempt: 1, Parts: 2, Route: "uk", At: time.Unix(1_800_000_000, 0).UTC(), Party: []byte(party)}
	}
	if err := worker.Transition(t.Context(), step("queued", "p")); err != nil { // before anybody followed
		t.Fatal(err)
	}
	if err := broker.KeepEvents(t.Context(), "integrators"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []fallback.Transition{step("submitting", ""), step("submitting", "p"), step("submitting", "p"), step("submitted", "p"), step("delivered", "p")} {
		if err := worker.Transition(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	m := <-heard
	if m.Subject != "bj.event.sms.submitting" || string(m.Data) != `{"message":"BwAAAAAAAAAAAAAAAAAAAA","state":"submitting","attempt":1,"parts":2,"route":"uk","at":"2027-01-15T08:00:00Z"}` || m.Header.Get(wire.HeaderParty) != "" {
		t.Errorf("%s: %s", m.Subject, m.Data)
	}
	var got []string
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failed := false
	err := broker.PullEvents(ctx, "integrators", func(_ context.Context, s fallback.Transition) error {
		if s.State == "submitted" && !failed {
			failed = true
			return errors.New("the integrator is away")
		}
		got = append(got, s.State)
		if want := step(s.State, "p"); s.Message != want.Message || string(s.Party) != "p" || !s.At.Equal(want.At) || s.Parts != 2 || s.Route != "uk" {
			t.Errorf("%+v", s)
		}
		if s.State == "delivered" {
			stop()
		}
		return nil
	})
	if err != nil || len(got) != 3 || got[0] != "submitting" || got[1] != "submitted" || got[2] != "delivered" {
		t.Errorf("%v, %v", got, err)
	}
	if len(heard) != 0 {
		t.Error("what has a party was published to everybody, too")
	}
	if err := errors.Join(broker.ForgetEvents(t.Context(), "integrators"), broker.ForgetEvents(t.Context(), "integrators")); err != nil {
		t.Error(err)
	}
}
