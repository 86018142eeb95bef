package bridge

import (
	"context"
	"encoding/base64"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/fallback"
	"bluejay/wire"
)

// Jobs is the sending end of the queue of sealed SMS jobs.
type Jobs struct{ b *Bridge }

// Jobs returns the sending end of the queue.
func (b *Bridge) Jobs() Jobs { return Jobs{b} }

// Enqueue returns nil only when the queue has stored the job durably, or had already stored the
// same one. [C-4]
//
// id must be the [wire.MessageIDOf] the payload; sealedSender and party may be empty. Errors carry
// [wire.QueueFull], [wire.TooLarge], [wire.NotAllowed] (a class this role may not send),
// [wire.AlreadyHandled] (this very job was cancelled) or [wire.Unavailable]; after the last the job
// may be stored all the same, and the same call again is safe.
func (j Jobs) Enqueue(ctx context.Context, class wire.JobClass, from wire.Pseudonym, id wire.MessageID, payload, sealedSender, party []byte) error {
	const op = "enqueue a job"
	switch {
	case len(payload) > maxPayload || len(sealedSender) > maxSealed || len(party) > maxParty:
		return refuse(op, wire.TooLarge)
	case (class == wire.ClassUrgent) != (j.b.role == RoleRegistrar): // [F-5]
		return refuse(op, wire.NotAllowed)
	}
	m := nats.NewMsg(wire.JobSubject(class, from))
	m.Data = payload
	if len(sealedSender) > 0 {
		m.Header.Set(wire.HeaderSender, b64.EncodeToString(sealedSender))
	}
	if len(party) > 0 {
		m.Header.Set(wire.HeaderParty, b64.EncodeToString(party))
	}
	ack, err := j.b.publish(ctx, m, id.String())
	if err != nil {
		return failure(op, err)
	}
	if ack.Duplicate {
		return j.stillWanted(ctx, id)
	}
	j.b.queued.add(id, ack.Sequence)
	return nil
}

// keepHeaders copies what must travel with a job.
func keepHeaders(to, from nats.Header) {
	for _, h := range []string{wire.HeaderSender, wire.HeaderParty} {
		if v := from.Get(h); v != "" {
			to.Set(h, v)
		}
	}
}

var b64 = base64.RawURLEncoding.Strict()

// publish returns when the stream has stored m, or knows its id already.
func (b *Bridge) publish(ctx context.Context, m *nats.Msg, id string) (*jetstream.PubAck, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	return b.js.PublishMsg(ctx, m, jetstream.WithMsgID(id))
}

// stillWanted refuses a job that was queued before and cancelled since: the stream knows its id, so
// it was not queued again.
func (j Jobs) stillWanted(ctx context.Context, id wire.MessageID) error {
	e, ok, err := j.b.Journal().Get(ctx, id)
	if err == nil && ok && e.State == wire.JobCancelled {
		return refuse("enqueue a job", wire.AlreadyHandled)
	}
	return err
}

// PublishUrgent queues a one-time password. Only the registrar may. [F-5]
func (j Jobs) PublishUrgent(ctx context.Context, payload []byte) error {
	return j.Enqueue(ctx, wire.ClassUrgent, wire.Pseudonym{}, wire.MessageIDOf(payload), payload, nil, nil)
}

// Cancel takes a job back. True means that no worker has begun it and none will: custody is with
// the sender again. False means that it is too late. Cancelling twice gives the same answer. [F-10]
//
// The id is the only proof asked for: it is the hash of bytes that only the sender made.
func (j Jobs) Cancel(ctx context.Context, id wire.MessageID) (bool, error) {
	won, err := j.cancel(ctx, id)
	if won {
		if seq, ok := j.b.queued.take(id); ok {
			j.forget(ctx, seq)
		}
	}
	return won, err
}

func (j Jobs) cancel(ctx context.Context, id wire.MessageID) (bool, error) {
	now := time.Now().UTC().Truncate(time.Second)
	e, err := j.b.Journal().Begin(ctx, id, fallback.Entry{
		State: wire.JobCancelled, At: now, ExpiresAt: now.Add(24 * time.Hour),
	})
	if errors.Is(err, fallback.ErrExists) {
		return e.State == wire.JobCancelled, nil
	}
	return err == nil, err
}

// forget takes a cancelled job out of the queue. Failing is harmless: the worker that gets it finds
// the cancellation in the journal.
func (j Jobs) forget(ctx context.Context, seq uint64) {
	ctx, cancel := j.b.bound(ctx)
	defer cancel()
	s, err := j.b.stream(ctx, wire.StreamJobs)
	if err == nil {
		err = s.SecureDeleteMsg(ctx, seq)
	}
	if err != nil {
		j.b.log.Debug("a cancelled job stays for the worker to drop", "reason", reason(err))
	}
}

// CancelAll takes back every job of these senders that no worker has begun, and removes it from the
// queue; the others go their way. [C-revoke]
func (j Jobs) CancelAll(ctx context.Context, senders []wire.Pseudonym) error {
	ctx, cancel := j.b.bound(ctx)
	defer cancel()
	for _, p := range senders {
		err := j.b.each(ctx, wire.StreamJobs, wire.JobSubject(wire.ClassNormal, p), func(m *jetstream.RawStreamMsg) error {
			return j.cancelQueued(ctx, m)
		})
		if err != nil {
			return failure("cancel all jobs", err)
		}
	}
	return nil
}

// cancelQueued removes one message, not the whole subject: one that a worker has begun must stay, or
// nobody would finish it after that worker's crash.
func (j Jobs) cancelQueued(ctx context.Context, m *jetstream.RawStreamMsg) error {
	id, err := wire.ParseMessageID(m.Header.Get(jetstream.MsgIDHeader))
	if err == nil {
		var won bool
		if won, err = j.cancel(ctx, id); err != nil || !won {
			return err
		}
	}
	j.forget(ctx, m.Sequence) // also what has no id: no worker would take it
	return nil
}

// stream returns a handle that is made once; asking the server each time would cost a round trip.
func (b *Bridge) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	handle := &b.jobs
	if name == wire.StreamOutcomes {
		handle = &b.outcomes
	}
	return handle.get(func() (jetstream.Stream, error) { return b.js.Stream(ctx, name) })
}

// each calls f for every message that a stream holds of one subject, oldest first.
func (b *Bridge) each(ctx context.Context, stream, subject string, f func(*jetstream.RawStreamMsg) error) error {
	s, err := b.stream(ctx, stream)
	if err != nil {
		return err
	}
	for seq := uint64(1); ; {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(m); err != nil {
			return err
		}
		seq = m.Sequence + 1
	}
}

// seqIndex remembers where in the stream this process queued a job, for the latest indexSize jobs.
// What it has forgotten is only removed later, by the worker. Zero value: empty.
type seqIndex struct {
	mu    sync.Mutex
	at    map[wire.MessageID]uint64
	order []wire.MessageID // a ring, once full
	next  int
}

const indexSize = 16 << 10

func (x *seqIndex) add(id wire.MessageID, seq uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.at == nil {
		x.at = map[wire.MessageID]uint64{}
	}
	if len(x.order) < indexSize {
		x.order = append(x.order, id)
	} else {
		delete(x.at, x.order[x.next])
		x.order[x.next] = id
		x.next = (x.next + 1) % indexSize
	}
	x.at[id] = seq
}

func (x *seqIndex) take(id wire.MessageID) (seq uint64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seq, ok = x.at[id]
	delete(x.at, id)
	return seq, ok
}
