package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// JetStream only marks what it removes: the bytes stay in a file of many records until the file is
// compacted, which may be never. So an erasure ends with a rewriting of the bucket:
//
//  1. Filler is written until the server has begun a new file, and purged.
//  2. Every value in the older files is saved again, by compare and set, and so lies in a newer one.
//  3. The older files now hold nothing, and the server deletes them.
//
// A mark is written before anything is erased, and purged at the end: a bucket that has it owes a rewriting,
// also after a crash. [H-8]
const (
	kvOperation = "KV-Operation"
	kvRollup    = "Nats-Rollup"

	keyMark     = "wipe"  // $KV.<bucket>.wipe; filler is at $KV.<bucket>.wipe.<n>
	fileSize    = 4 << 20 // of one file of a bucket
	fillerPiece = maxValue - 1<<10
	fillers     = fileSize/fillerPiece + 2

	rewriteAgain = 10 * time.Second // after a failure
	rewriteAhead = 256              // writes under way at once
)

// key is the key of something held in the bucket.
func (k *bucket) key(h wire.Held) string { return strings.TrimPrefix(h.Key, kvKeys+k.name+".") }

// forget removes a key and everything that was ever stored under it, and leaves no marker with its name.
// With a revision that is not 0 it does so only if that is still the key's: else [ErrConflict]. What is
// stored under the key meanwhile stays.
func (k *bucket) forget(ctx context.Context, key string, rev uint64) error {
	ctx, cancel := k.b.bound(ctx)
	defer cancel()
	marker := nats.NewMsg(kvKeys + k.name + "." + key)
	marker.Header.Set(kvOperation, "PURGE")
	marker.Header.Set(kvRollup, "sub")
	var opts []jetstream.PublishOpt
	if rev != 0 {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(rev))
	}
	ack, err := k.b.js.PublishMsg(ctx, marker, opts...)
	if err != nil {
		return conflict(err)
	}
	s, err := k.b.js.Stream(ctx, kvStream+k.name)
	if err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(marker.Subject), jetstream.WithPurgeSequence(ack.Sequence+1))
}

// conflict tells a compare and set that lost from other errors.
func conflict(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return ErrConflict
	}
	return err
}

// rewriting is a bucket's rewriting under way.
type rewriting struct {
	mu      sync.Mutex
	running bool
	again   bool // asked for while it ran
}

// eraseFully owes a rewriting, erases, and has the bucket rewritten in the background.
func (k *bucket) eraseFully(ctx context.Context, erase func() error) error {
	if err := k.owe(ctx); err != nil {
		return err
	}
	if err := erase(); err != nil {
		return err
	}
	return k.rewriteSoon(ctx)
}

// rewriteSoon has the bucket rewritten in the background. nil: that is owed, durably.
func (k *bucket) rewriteSoon(ctx context.Context) error {
	if err := k.owe(ctx); err != nil { // again: a rewriting that ran meanwhile may have paid it
		return err
	}
	k.beginRewrite()
	return nil
}

func (k *bucket) owe(ctx context.Context) error {
	return k.put(ctx, keyMark, nil)
}

func (k *bucket) beginRewrite() {
	k.rewrite.mu.Lock()
	defer k.rewrite.mu.Unlock()
	k.rewrite.again = true
	if !k.rewrite.running && k.b.ctx.Err() == nil {
		k.rewrite.running = true
		k.b.wg.Go(k.runRewrite)
	}
}

func (k *bucket) runRewrite() {
	for k.wanted() {
		began := time.Now()
		err := k.rewriteAll(k.b.ctx)
		if err == nil {
			k.b.log.Info("audit: a bucket's files were rewritten without what was erased", "bucket", k.name, "took", time.Since(began))
			continue
		}
		if k.b.ctx.Err() == nil {
			k.b.log.Warn("a bucket is not yet rewritten", "bucket", k.name, "reason", reason(err))
		}
		k.beginRewrite()
		wait(k.b.ctx, rewriteAgain)
	}
}

// wanted takes up one more round, or ends the run.
func (k *bucket) wanted() bool {
	k.rewrite.mu.Lock()
	defer k.rewrite.mu.Unlock()
	k.rewrite.running = k.rewrite.again && k.b.ctx.Err() == nil
	k.rewrite.again = false
	return k.rewrite.running
}

// owed reports whether a rewriting was begun and not ended.
func (k *bucket) owed(ctx context.Context) (bool, error) {
	_, rev, err := k.load(ctx, keyMark)
	return rev != 0, err
}

func (k *bucket) rewriteAll(ctx context.Context) error {
	s, err := k.b.js.Stream(ctx, kvStream+k.name)
	if err != nil {
		return err
	}
	b := batch{js: k.b.js}
	for n := range fillers {
		if err := b.add(ctx, k.subject(keyMark+"."+strconv.Itoa(n)), make([]byte, fillerPiece), ""); err != nil {
			return err
		}
	}
	if err := b.wait(ctx); err != nil {
		return err
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(k.subject(keyMark+".*"))); err != nil {
		return err
	}
	if err := k.saveAgain(ctx); err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(k.subject(keyMark)))
}

func (k *bucket) subject(key string) string { return kvKeys + k.name + "." + key }

// saveAgain saves every value over itself. Who changes one at the same time wins; that one is saved
// already. What nobody needs any more is removed instead.
func (k *bucket) saveAgain(ctx context.Context) error {
	b := batch{js: k.b.js}
	err := k.b.scan(ctx, kvStream+k.name, asItBegan, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		key := strings.TrimPrefix(m.Subject(), k.subject(""))
		switch {
		case m.Headers().Get(kvOperation) != "", key == keyMark, strings.HasPrefix(key, keyMark+"."):
			return nil
		case k.name == wire.BucketJournal && over(m.Data(), meta.Timestamp):
			return k.forgetUnchanged(ctx, key, meta.Sequence.Stream)
		}
		return b.add(ctx, m.Subject(), m.Data(), strconv.FormatUint(meta.Sequence.Stream, 10))
	})
	return errors.Join(err, b.wait(ctx))
}

func (k *bucket) forgetUnchanged(ctx context.Context, key string, rev uint64) error {
	if err := k.forget(ctx, key, rev); !errors.Is(err, ErrConflict) {
		return err
	}
	return nil
}

// over reports whether a row of the journal is older than the journal keeps any: saving it again must not
// make it young.
func over(row []byte, stored time.Time) bool {
	var e struct {
		At time.Time `json:"at"`
	}
	if json.Unmarshal(row, &e) != nil || e.At.IsZero() {
		e.At = stored
	}
	return time.Since(e.At) > journalAge
}

// batch publishes with a bounded number of writes under way.
type batch struct {
	js      jetstream.JetStream
	pending []jetstream.PubAckFuture
}

// add publishes; rev "" is unconditional.
func (b *batch) add(ctx context.Context, subject string, value []byte, rev string) error {
	m := nats.NewMsg(subject)
	m.Data = value
	if rev != "" {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, rev)
	}
	f, err := b.js.PublishMsgAsync(m)
	if err != nil {
		return err
	}
	if b.pending = append(b.pending, f); len(b.pending) == rewriteAhead {
		return b.wait(ctx)
	}
	return nil
}

// wait returns when everything is stored. A write that lost to another is none that failed.
func (b *batch) wait(ctx context.Context) error {
	for _, f := range b.pending {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			if err = conflict(err); !errors.Is(err, ErrConflict) {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.pending = b.pending[:0]
	return nil
}
