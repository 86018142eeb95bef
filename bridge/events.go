package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/fallback"
	"bluejay/wire"
)

// transition is a [fallback.Transition] as it travels, in JSON; the party is a header.
type transition struct {
	Message string    `json:"message"`
	State   string    `json:"state"`
	Attempt int       `json:"attempt"`
	Parts   int       `json:"parts"`
	Route   string    `json:"route,omitempty"`
	At      time.Time `json:"at"`
}

// Transition publishes a step of a job: stored, when it has a party, and nil means that it is; for
// whoever listens now, when not. The same step again is stored once. [F-20]
func (b *Bridge) Transition(ctx context.Context, t fallback.Transition) error {
	const op = "publish a transition"
	stored := len(t.Party) > 0
	data, err := json.Marshal(transition{t.Message.String(), t.State, t.Attempt, t.Parts, t.Route, t.At.UTC()})
	if err != nil {
		return failure(op, err)
	}
	m := nats.NewMsg(wire.EventSubject(t.State, stored))
	m.Data = data
	if !stored {
		return failure(op, b.nc.PublishMsg(m))
	}
	m.Header.Set(wire.HeaderParty, b64.EncodeToString(t.Party))
	_, err = b.publish(ctx, m, fmt.Sprintf("%s.%s.%d", t.Message, t.State, t.Attempt))
	return failure(op, err)
}

func parseTransition(m jetstream.Msg) (t fallback.Transition, err error) {
	var w transition
	if err := json.Unmarshal(m.Data(), &w); err != nil {
		return t, fmt.Errorf("%w: transition", wire.ErrMalformed)
	}
	if t.Message, err = wire.ParseMessageID(w.Message); err != nil {
		return t, err
	}
	if t.Party, err = b64.DecodeString(m.Headers().Get(wire.HeaderParty)); err != nil || len(t.Party) > maxParty {
		return t, fmt.Errorf("%w: transition's party", wire.ErrMalformed)
	}
	if m.Subject() != wire.EventSubject(w.State, true) || w.Attempt < 0 || w.Parts < 0 {
		return t, fmt.Errorf("%w: transition", wire.ErrMalformed)
	}
	t.State, t.Attempt, t.Parts, t.Route, t.At = w.State, w.Attempt, w.Parts, w.Route, w.At
	return t, nil
}

// eventAgain is how long an event that could not be passed on waits.
const eventAgain = time.Second

// PullEvents calls f for every stored transition, oldest first, until ctx ends or the bridge is
// closed. name names the place in the stream, which outlives the process and begins where the stream
// is when the name is new: what f returned nil for does not come again, but after a crash. What f
// fails for comes again, and holds up what follows.
func (b *Bridge) PullEvents(ctx context.Context, name string, f func(context.Context, fallback.Transition) error) error {
	c, err := b.follower(ctx, name)
	if err != nil {
		return failure("follow the events", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(b.ctx, stop)()
	for ctx.Err() == nil {
		m, err := c.Next(jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullBeat))
		switch {
		case err == nil:
			b.passOn(ctx, m, f)
		case !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded):
			wait(ctx, eventAgain)
		}
	}
	return nil
}

// KeepEvents gives a name its place in the stream: what is stored from now on is kept for it.
func (b *Bridge) KeepEvents(ctx context.Context, name string) error {
	_, err := b.follower(ctx, name)
	return failure("keep the events", err)
}

func (b *Bridge) follower(ctx context.Context, name string) (jetstream.Consumer, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	return b.js.CreateOrUpdateConsumer(ctx, wire.StreamEvents, jetstream.ConsumerConfig{
		Durable: name, DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		MaxAckPending: 1, MaxDeliver: -1, AckWait: time.Minute,
	})
}

// ForgetEvents ends a name's place in the stream; one that has none is no error.
func (b *Bridge) ForgetEvents(ctx context.Context, name string) error {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	err := b.js.DeleteConsumer(ctx, wire.StreamEvents, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil
	}
	return failure("forget a follower of the events", err)
}

func (b *Bridge) passOn(ctx context.Context, m jetstream.Msg, f func(context.Context, fallback.Transition) error) {
	t, err := parseTransition(m)
	if err != nil {
		b.log.Warn("an event is dropped", "reason", reason(err))
		_ = m.Term() // if it is lost, the event is dropped again
		return
	}
	err = wire.Unavailable // stays if f panics
	b.guard("an event's receiver", func() { err = f(ctx, t) })
	if err != nil {
		_ = m.NakWithDelay(eventAgain) // if it is lost, AckWait does the same later
		return
	}
	_ = m.Ack() // if it is lost, the event comes again and is recognised by its id
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
