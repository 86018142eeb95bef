package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// DeadLetter is a job that no worker could use, as an operator may see it: sealed, and without its
// bytes.
type DeadLetter struct {
	Seq     uint64 // its number in the stream: names it for Retry and Drop
	Message wire.MessageID
	Class   wire.JobClass
	Sender  wire.Pseudonym
	Reason  string // one of the worker's fixed texts
	At      time.Time
	Bytes   int
}

// DeadLetters are the jobs in [StreamDead], kept for seven days. [F-16]
type DeadLetters struct{ b *Bridge }

// DeadLetters returns the dead letters. Only the operator's role may use them.
func (b *Bridge) DeadLetters() DeadLetters { return DeadLetters{b} }

// ErrNoDeadLetter says that there is no dead letter of that number any more.
var ErrNoDeadLetter = errors.New("bridge: no dead letter has this number")

// List returns up to max dead letters, oldest first.
func (d DeadLetters) List(ctx context.Context, max int) ([]DeadLetter, error) {
	const op = "list the dead letters"
	ctx, cancel := d.b.bound(ctx)
	defer cancel()
	s, err := d.b.js.Stream(ctx, StreamDead)
	if err != nil {
		return nil, failure(op, err)
	}
	var found []DeadLetter
	for seq := uint64(1); len(found) < max; {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subjectDead+">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, failure(op, err)
		}
		found = append(found, deadLetter(m))
		seq = m.Sequence + 1
	}
	return found, nil
}

func deadLetter(m *jetstream.RawStreamMsg) DeadLetter {
	d := DeadLetter{Seq: m.Sequence, Message: wire.MessageIDOf(m.Data), Reason: m.Header.Get(headerReason), At: m.Time, Bytes: len(m.Data)}
	d.Class, d.Sender, _ = wire.ParseJobSubject(liveSubject(m.Subject)) // a worker wrote it
	return d
}

// DeadSubject is where the dead letters of a class and a sender lie.
func DeadSubject(c wire.JobClass, p wire.Pseudonym) string {
	return subjectDead + strings.TrimPrefix(wire.JobSubject(c, p), strings.TrimSuffix(wire.JobSubjects(), ">"))
}

// liveSubject is where a dead letter was queued.
func liveSubject(dead string) string {
	return strings.TrimSuffix(wire.JobSubjects(), ">") + strings.TrimPrefix(dead, subjectDead)
}

// Retry queues a dead letter again, whole, and then drops it. A worker whose journal has an end for
// it will tell that again and send nothing. [F-11]
func (d DeadLetters) Retry(ctx context.Context, seq uint64) error {
	const op = "queue a dead letter again"
	ctx, cancel := d.b.bound(ctx)
	defer cancel()
	s, err := d.b.js.Stream(ctx, StreamDead)
	if err != nil {
		return failure(op, err)
	}
	m, err := s.GetMsg(ctx, seq)
	if err != nil {
		return deadFailure(op, seq, err)
	}
	again := nats.NewMsg(liveSubject(m.Subject))
	again.Data = m.Data
	keepHeaders(again.Header, m.Header)
	// The id is the job's own, as the worker asks for. The queue forgets ids after dedupWindow.
	ack, err := d.b.publish(ctx, again, wire.MessageIDOf(m.Data).String())
	if err == nil && ack.Duplicate {
		return fmt.Errorf("it was queued less than %s ago: try again later", dedupWindow)
	}
	if err != nil {
		return failure(op, err)
	}
	return deadFailure(op, seq, s.DeleteMsg(ctx, seq))
}

// Drop forgets a dead letter.
func (d DeadLetters) Drop(ctx context.Context, seq uint64) error {
	const op = "drop a dead letter"
	ctx, cancel := d.b.bound(ctx)
	defer cancel()
	s, err := d.b.js.Stream(ctx, StreamDead)
	if err != nil {
		return failure(op, err)
	}
	return deadFailure(op, seq, s.SecureDeleteMsg(ctx, seq))
}

func deadFailure(op string, seq uint64, err error) error {
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("%w: %d", ErrNoDeadLetter, seq)
	}
	return failure(op, err)
}
