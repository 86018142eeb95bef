package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/fallback"
	"bluejay/wire"
)

// Queue is the receiving end of the queue of sealed SMS jobs. Several workers share the jobs.
//
// It asks for one urgent and one normal job at a time, so that a one-time password never waits
// behind texts, and keeps what nobody has taken yet alive: a job fetched early and left to time out
// would be handed out twice.
type Queue struct {
	b              *Bridge
	urgent, normal chan *Delivery
}

const (
	pullWait  = 5 * time.Second // of one request for a job; the next follows at once
	pullBeat  = time.Second     // how often the server shows that the request stands
	pullPause = 250 * time.Millisecond
	holdBeat  = 10 * time.Second // a third of the AckWait
	// maxRetry bounds how long the server keeps a job back; a longer wait is the worker's business.
	maxRetry = 15 * time.Minute
)

// OpenQueue starts to fetch jobs, until the bridge is closed. Call it once a process. A job that is on
// its way at that moment comes back after AckWait; one that is already here is given back at once.
func (b *Bridge) OpenQueue(ctx context.Context) (*Queue, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	q := &Queue{b: b, urgent: make(chan *Delivery), normal: make(chan *Delivery)}
	consumers := map[wire.JobClass]jetstream.Consumer{}
	for _, class := range []wire.JobClass{wire.ClassUrgent, wire.ClassNormal} {
		c, err := b.js.Consumer(ctx, wire.StreamJobs, class.String())
		if err != nil {
			return nil, failure("open the queue", err)
		}
		consumers[class] = c
	}
	b.wg.Go(func() { q.feed(consumers[wire.ClassUrgent], q.urgent) })
	b.wg.Go(func() { q.feed(consumers[wire.ClassNormal], q.normal) })
	return q, nil
}

// Next waits for a job, urgent ones first. It fails when ctx ends, with its error, or when the
// bridge is closed.
func (q *Queue) Next(ctx context.Context) (fallback.Delivery, error) {
	select {
	case d := <-q.urgent:
		return d, nil
	default:
	}
	select {
	case d := <-q.urgent:
		return d, nil
	case d := <-q.normal:
		return d, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-q.b.ctx.Done():
		return nil, failure("next job", nats.ErrConnectionClosed)
	}
}

func (q *Queue) feed(c jetstream.Consumer, out chan<- *Delivery) {
	for q.b.ctx.Err() == nil {
		msg, err := q.pull(c)
		switch {
		case err == nil:
			q.hand(msg, out)
		case !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded):
			q.pause(err)
		}
	}
}

func (q *Queue) pull(c jetstream.Consumer) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(q.b.ctx, pullWait)
	defer cancel()
	return c.Next(jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullBeat))
}

func (q *Queue) pause(err error) {
	if q.b.ctx.Err() != nil {
		return
	}
	q.b.log.Debug("no job could be asked for", "reason", reason(err))
	select {
	case <-time.After(pullPause):
	case <-q.b.ctx.Done():
	}
}

// hand waits until a worker takes the job, and keeps it alive meanwhile. On close the job is let go
// and the server hands it out again.
func (q *Queue) hand(msg jetstream.Msg, out chan<- *Delivery) {
	d, err := q.b.delivery(msg)
	if err != nil {
		q.reject(msg, d)
		return
	}
	beat := time.NewTicker(holdBeat)
	defer beat.Stop()
	for {
		select {
		case out <- d:
			return
		case <-beat.C:
			if err := msg.InProgress(); err != nil {
				return // disconnected: the server will hand it out again
			}
		case <-q.b.ctx.Done():
			_ = msg.Nak() // if this is lost, AckWait does the same later
			return
		}
	}
}

func (q *Queue) reject(msg jetstream.Msg, d *Delivery) {
	ctx, cancel := q.b.bound(q.b.ctx)
	defer cancel()
	if err := d.DeadLetter(ctx, "malformed"); err != nil {
		q.b.log.Warn("a malformed job could not be moved away", "reason", reason(err))
		_ = msg.NakWithDelay(time.Minute) // so that it does not come straight back
	}
}

// Delivery is one job, held by one worker. It implements [fallback.Delivery].
type Delivery struct {
	b      *Bridge
	msg    jetstream.Msg
	id     wire.MessageID
	class  wire.JobClass
	sender wire.Pseudonym
	sealed []byte
	party  []byte
	times  int
	since  time.Time
}

// delivery checks what any publisher could have got wrong; d can be dead-lettered in any case.
// The id must be the payload's own: a false one would let one job block another. [C-6]
func (b *Bridge) delivery(msg jetstream.Msg) (d *Delivery, err error) {
	d = &Delivery{b: b, msg: msg, id: wire.MessageIDOf(msg.Data()), times: 1}
	if meta, err := msg.Metadata(); err == nil {
		d.times, d.since = int(meta.NumDelivered), meta.Timestamp
	}
	if d.class, d.sender, err = wire.ParseJobSubject(msg.Subject()); err != nil {
		return d, err
	}
	if msg.Headers().Get(jetstream.MsgIDHeader) != d.id.String() || len(msg.Data()) > maxPayload {
		return d, wire.ErrMalformed
	}
	if d.sealed, err = b64.DecodeString(msg.Headers().Get(wire.HeaderSender)); err != nil {
		return d, err
	}
	d.party, err = b64.DecodeString(msg.Headers().Get(wire.HeaderParty))
	return d, err
}

// Party is the broker's token for events about the job; empty: its sender did not consent to
// integrations.
func (d *Delivery) Party() []byte { return d.party }

// QueuedAt is when the queue stored the job.
func (d *Delivery) QueuedAt() time.Time { return d.since }

// ID is the message id of the payload.
func (d *Delivery) ID() wire.MessageID { return d.id }

// Class is read from the subject, where only the registrar may publish urgent jobs. [F-5]
func (d *Delivery) Class() wire.JobClass { return d.class }

// Sender is whom to tell; zero when nobody waits. [F-9]
func (d *Delivery) Sender() wire.Pseudonym { return d.sender }

// Payload is the sealed job.
func (d *Delivery) Payload() []byte { return d.msg.Data() }

// SealedSender is the broker's word on who sent the job, sealed to the registrar; empty if the
// sender claims no number. [F-6]
func (d *Delivery) SealedSender() []byte { return d.sealed }

// Delivered is how often the job was handed out, this time included. It counts more than the times
// a worker saw it.
func (d *Delivery) Delivered() int { return d.times }

// Ack removes the job; nil means that the server has said so.
func (d *Delivery) Ack(ctx context.Context) error {
	ctx, cancel := d.b.bound(ctx)
	defer cancel()
	return failure("acknowledge a job", d.msg.DoubleAck(ctx))
}

// Retry gives the job back, to be handed out again after a while of at most 15 minutes. If the
// request is lost the job comes back after AckWait instead.
func (d *Delivery) Retry(_ context.Context, after time.Duration) error {
	return failure("give a job back", d.msg.NakWithDelay(min(max(after, 0), maxRetry)))
}

// InProgress starts AckWait anew. Call it every 10 s for a job that is still held.
func (d *Delivery) InProgress(context.Context) error {
	return failure("hold a job", d.msg.InProgress())
}

// headerReason says in the dead-letter stream why a job ended there.
const headerReason = "Bj-Reason"

// DeadLetter stores a full copy in [StreamDead], and only then removes the job. reason must be a
// fixed text: it is stored in the clear.
func (d *Delivery) DeadLetter(ctx context.Context, reason string) error {
	const op = "dead-letter a job"
	m := nats.NewMsg(subjectDead + d.class.String() + "." + d.sender.String())
	m.Data = d.msg.Data()
	m.Header.Set(headerReason, reason)
	keepHeaders(m.Header, d.msg.Headers())
	if _, err := d.b.publish(ctx, m, d.id.String()); err != nil {
		return failure(op, err)
	}
	return failure(op, d.msg.TermWithReason(reason))
}
