package bridge

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// Outcome reports where a job is to whom it concerns; nil means that the report is stored for 48 h.
// The same report again is stored once. [F-7]
func (b *Bridge) Outcome(ctx context.Context, to wire.Pseudonym, o wire.Outcome) error {
	m := nats.NewMsg(wire.OutcomeSubject(to))
	m.Data = o.Marshal()
	_, err := b.publish(ctx, m, o.Message.String()+"."+o.State.String())
	return failure("report an outcome", err)
}

// Outcomes is the broker's side: what senders have not yet been told. [F-7]
type Outcomes struct{ b *Bridge }

// Outcomes returns the stored outcomes.
func (b *Bridge) Outcomes() Outcomes { return Outcomes{b} }

// Pending returns what a sender has not acknowledged, oldest first, none older than 48 h. While outcomes are watched it
// asks NATS only about a sender who may have some: every handset that connects asks, and few have.
func (o Outcomes) Pending(ctx context.Context, p wire.Pseudonym) ([]wire.Outcome, error) {
	seen, may := o.b.left.may(p)
	if !may && o.b.Connected() { // else it is about to be doubted
		return nil, nil
	}
	var pending []wire.Outcome
	err := o.each(ctx, p, func(_ uint64, got wire.Outcome) error {
		pending = append(pending, got)
		return nil
	})
	if err == nil && len(pending) == 0 {
		o.b.left.none(p, seen)
	}
	return pending, failure("pending outcomes", err)
}

// Done forgets an outcome that its sender has acknowledged, and with a final one everything else
// about the same job. Doing it twice is no error.
func (o Outcomes) Done(ctx context.Context, p wire.Pseudonym, done wire.Outcome) error {
	ctx, cancel := o.b.bound(ctx)
	defer cancel()
	return failure("forget an outcome", o.each(ctx, p, func(seq uint64, got wire.Outcome) error {
		if got != done && (got.Message != done.Message || !done.State.Final()) {
			return nil
		}
		s, err := o.b.stream(ctx, wire.StreamOutcomes)
		if err != nil {
			return err
		}
		return s.DeleteMsg(ctx, seq)
	}))
}

func (o Outcomes) each(ctx context.Context, p wire.Pseudonym, f func(uint64, wire.Outcome) error) error {
	ctx, cancel := o.b.bound(ctx)
	defer cancel()
	return o.b.each(ctx, wire.StreamOutcomes, wire.OutcomeSubject(p), func(m *jetstream.RawStreamMsg) error {
		got, err := wire.ParseOutcome(m.Data)
		if err != nil {
			return nil // a worker's mistake; it ages out
		}
		return f(m.Sequence, got)
	})
}

// Watch calls f for each outcome stored from now on, in order, one at a time, until the bridge is
// closed; after a lost connection it goes on where it was. f must not block.
func (o Outcomes) Watch(f func(wire.Pseudonym, wire.Outcome)) error {
	err := o.b.follow(wire.StreamOutcomes, wire.OutcomeSubjects(), fromNow, func(m jetstream.Msg) error {
		p, err := wire.ParseOutcomeSubject(m.Subject())
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		o.b.left.came(p, meta.Sequence.Stream, time.Now())
		got, err := wire.ParseOutcome(m.Data())
		if err == nil {
			f(p, got)
		}
		return err
	})
	if err != nil {
		return err
	}
	o.b.left.watch()
	o.refill()
	return nil
}

// start says where to begin to follow a stream.
type start bool

const (
	fromNow  start = false
	fromLast start = true // the last message of each subject, then what comes
)

// follow calls f for each message of a stream until the bridge is closed.
func (b *Bridge) follow(stream, filter string, from start, f func(jetstream.Msg) error) error {
	op := "follow " + stream
	ctx, cancel := b.bound(b.ctx)
	defer cancel()
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return failure(op, err)
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}}
	switch from {
	case fromLast:
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
	case fromNow:
		// By number: "new" would begin anew after an outage that comes before the first message.
		cfg.DeliverPolicy = jetstream.DeliverByStartSequencePolicy
		cfg.OptStartSeq = s.CachedInfo().State.LastSeq + 1
	}
	c, err := s.OrderedConsumer(ctx, cfg)
	if err != nil {
		return failure(op, err)
	}
	run, err := c.Consume(func(m jetstream.Msg) {
		b.guard("a follower of "+stream, func() {
			if err := f(m); err != nil {
				b.log.Warn(fmt.Sprintf("skipped a message of %s", stream), "reason", reason(err))
			}
		})
	})
	if err != nil {
		return failure(op, err)
	}
	b.wg.Go(func() { <-b.ctx.Done(); run.Stop(); <-run.Closed() })
	return nil
}
