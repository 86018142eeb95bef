package bridge

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// leftIndex remembers for whom the stream of outcomes may hold some. What is stored while a sender is away reaches the
// index by the same way that pushes it to one who is there: whoever listens first and asks then misses nothing. It has
// an entry for each sender who was not told yet, not for each user.
//
// It is believed only while that way is known to be whole. When the connection to NATS is lost, everybody may have some
// until the stream was listed again, and for ever if the server came back with less than it had acknowledged: the
// follower waits for a number that is long since another outcome's. Zero value: knows nothing, so everybody may.
type leftIndex struct {
	mu       sync.Mutex
	watching bool
	full     bool
	doubts   uint64 // how often it was doubted
	last     uint64 // the newest message that came by, by its number in the stream
	n        uint64 // of entries made so far: no two are the same
	of       map[wire.Pseudonym]leftMark
	swept    time.Time
}

// leftMark is when an entry was made.
type leftMark struct {
	n  uint64
	at time.Time
}

// maxLeft is how many subjects one listing of a stream holds. A longer one comes in pages of a list that changes between
// them, so it is not believed.
const maxLeft = 100_000

// came notes one that the follower has read.
func (x *leftIndex) came(p wire.Pseudonym, seq uint64, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = max(x.last, seq)
	x.addLocked(p, now)
	if now.Sub(x.swept) < time.Hour {
		return
	}
	x.swept = now
	for p, m := range x.of {
		if now.Sub(m.at) > outcomeAge {
			delete(x.of, p) // the stream has forgotten it, too
		}
	}
}

func (x *leftIndex) addLocked(p wire.Pseudonym, now time.Time) {
	if x.of == nil {
		x.of = map[wire.Pseudonym]leftMark{}
	}
	x.n++
	x.of[p] = leftMark{x.n, now}
}

// watch says that a follower has begun.
func (x *leftIndex) watch() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watching = true
}

// doubt is the end of a connection.
func (x *leftIndex) doubt() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.full = false
	x.doubts++
}

// before is to be asked before the stream is listed; what it returns is for fill. watching is false where nobody
// follows the stream.
func (x *leftIndex) before() (doubts, last uint64, watching bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.doubts, x.last, x.watching
}

// fill takes the subjects that the stream held, and believes the index from then on, unless it was doubted meanwhile.
func (x *leftIndex) fill(subjects map[string]uint64, doubts uint64, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := range subjects {
		if p, err := wire.ParseOutcomeSubject(s); err == nil {
			x.addLocked(p, now)
		}
	}
	x.full = x.doubts == doubts
}

// may reports whether there may be outcomes for p; seen is for none.
func (x *leftIndex) may(p wire.Pseudonym) (seen uint64, may bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	m, may := x.of[p]
	return m.n, may || !x.full
}

// none says that there were none, unless one came since.
func (x *leftIndex) none(p wire.Pseudonym, seen uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if m, ok := x.of[p]; ok && m.n == seen {
		delete(x.of, p)
	}
}

// refill lists the stream for the index. Where it cannot, everybody is asked for, as if there were no index.
func (o Outcomes) refill() {
	doubts, last, watching := o.b.left.before()
	if !watching {
		return
	}
	ctx, cancel := o.b.bound(o.b.ctx)
	defer cancel()
	info, err := o.list(ctx)
	switch {
	case err != nil:
		o.b.log.Warn("outcomes are not listed: each handset that connects asks for its own", "reason", reason(err))
	case info.State.LastSeq < last:
		o.b.log.Error("the stream of outcomes has lost messages that it had acknowledged: restart the broker, so that senders are told at once again")
	case len(info.State.Subjects) >= maxLeft:
		o.b.log.Warn("too many outcomes wait to be listed: each handset that connects asks for its own")
	default:
		o.b.left.fill(info.State.Subjects, doubts, time.Now())
	}
}

func (o Outcomes) list(ctx context.Context) (*jetstream.StreamInfo, error) {
	s, err := o.b.stream(ctx, wire.StreamOutcomes)
	if err != nil {
		return nil, err
	}
	return s.Info(ctx, jetstream.WithSubjectFilter(wire.OutcomeSubjects()))
}
