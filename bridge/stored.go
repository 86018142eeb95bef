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

// Holding is one store that can have something about a number, and what of it does.
type Holding struct {
	From  Role        `json:"from"`  // who answers for it
	Store string      `json:"store"` // stream on disk
	About string      `json:"about"`
	Until string      `json:"until"` // when it goes
	Items []wire.Held `json:"items"` // an empty list is an answer: nothing
}

// Holdings lists every such store, with no items. [H-1]
func Holdings() []Holding {
	none := []wire.Held{}
	return []Holding{
		{RoleRegistrar, kvStream + wire.BucketCounts, "counts of look-ups and enrolments", "erased", none},
		{RoleBroker, kvStream + wire.BucketConsent, "certificate, consent record, receipt, revocation, and where they are in the consent log", "erased", none},
		{RoleBroker, wire.StreamJobs, "sealed SMS jobs that the user sent", "taken by a worker", none},
		{RoleBroker, wire.StreamOutcomes, "what became of them", "told, or 48 hours", none},
		{RoleBroker, StreamDead, "sealed jobs that no worker could use", "7 days", none},
		{RoleBroker, wire.StreamEvents, "steps of jobs on their way to integrators", "48 hours", none},
		{RoleBroker, kvStream + wire.BucketJournal, "the journal of SMS jobs that the user sent", "30 hours", none},
		{RoleBroker, wire.StreamCaps, "how many SMS the user sent", "48 hours", none},
		{RoleBroker, StreamIntegrator, "events about the user, at integrators", "7 days", none},
		{RoleWorker, kvStream + wire.BucketJournal, "the journal of SMS to the number", "30 hours", none},
		{RoleWorker, kvStream + wire.BucketSuppressed, "that the number wants no SMS", "START", none},
		{RoleWorker, wire.StreamCaps, "how many SMS went to the number", "48 hours", none},
	}
}

// notRead is the value of what its keeper cannot read.
var notRead = json.RawMessage("null")

func heldOf(store, subject string, seq uint64, at time.Time, header map[string][]string, raw []byte) wire.Held {
	h := wire.Held{Store: store, Key: subject, Seq: seq, Stored: at.UTC(), Value: notRead, Raw: raw}
	for k, v := range header {
		if h.Header == nil {
			h.Header = map[string]string{}
		}
		h.Header[k] = v[0]
	}
	return h
}

// About returns what a stream holds at one subject, oldest first. [H-1]
func (b *Bridge) About(ctx context.Context, stream, subject string) ([]wire.Held, error) {
	const op = "read what is held"
	ctx, cancel := b.bound(ctx)
	defer cancel()
	s, err := b.handle(ctx, stream)
	if err != nil {
		return nil, failure(op, err)
	}
	held, err := about(ctx, s, stream, subject)
	return held, failure(op, err)
}

func about(ctx context.Context, s jetstream.Stream, stream, subject string) (held []wire.Held, err error) {
	for seq := uint64(1); ; {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return held, nil
		}
		if err != nil {
			return nil, err
		}
		held = append(held, heldOf(stream, m.Subject, m.Sequence, m.Time, m.Header, m.Data))
		seq = m.Sequence + 1
	}
}

// handle returns a stream that is asked for by name once; asking the server each time would cost a round trip.
func (b *Bridge) handle(ctx context.Context, name string) (jetstream.Stream, error) {
	if s, ok := b.handles.Load(name); ok {
		return s.(jetstream.Stream), nil
	}
	s, err := b.js.Stream(ctx, name)
	if err == nil {
		b.handles.Store(name, s)
	}
	return s, err
}

// EachHeld calls f for everything that a stream holds, oldest first. What is moved meanwhile, as when a
// bucket's files are rewritten, comes at least once: perhaps at its old place and at its new one. [H-1]
func (b *Bridge) EachHeld(ctx context.Context, stream string, f func(wire.Held) error) error {
	return failure("read what is held", b.scan(ctx, stream, toTheEnd, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		return f(heldOf(stream, m.Subject(), meta.Sequence.Stream, meta.Timestamp, m.Headers(), m.Data()))
	}))
}

// EraseHeld overwrites messages on disk and removes them. It is no error if one is gone already. [H-6]
func (b *Bridge) EraseHeld(ctx context.Context, held []wire.Held) error {
	const op = "erase what is held"
	for _, h := range held {
		s, err := b.handle(ctx, h.Store)
		if err != nil {
			return failure(op, err)
		}
		err = s.SecureDeleteMsg(ctx, h.Seq)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return failure(op, err)
		}
	}
	return nil
}

// extent is how far a scan goes.
type extent bool

const (
	asItBegan extent = false // what the stream had at the beginning and has still: for who writes to it while he reads
	toTheEnd  extent = true  // until nothing is left to read, so that nothing is missed that moved to the end
)

// scanQuiet is how long a scan waits for a message that should come before it asks whether it still does.
const scanQuiet = time.Second

// scan calls f for every message of a stream, oldest first. It reads ahead a bounded number of them,
// whatever the stream holds.
func (b *Bridge) scan(ctx context.Context, stream string, how extent, f func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	last := s.CachedInfo().State.LastSeq
	if s.CachedInfo().State.Msgs == 0 {
		return nil
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	it, err := c.Messages(jetstream.PullMaxMessages(eachAhead))
	if err != nil {
		return err
	}
	defer it.Stop()
	stop := context.AfterFunc(ctx, it.Stop)
	defer stop()
	for at := (jetstream.MsgMetadata{}); ; {
		m, err := it.Next(jetstream.NextMaxWait(scanQuiet))
		if errors.Is(err, nats.ErrTimeout) && ctx.Err() == nil {
			info, err := c.Info(ctx)
			if err != nil {
				return err
			}
			// What was delivered and not read yet waits here, where this process stood still and both came at once.
			read := info.Delivered.Consumer == 0 || info.Name == at.Consumer && info.Delivered.Consumer <= at.Sequence.Consumer
			if read && info.NumPending == 0 { // the rest was removed
				return nil
			}
			continue
		}
		if err != nil {
			return errorsFirst(ctx.Err(), err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		at = *meta
		if how == toTheEnd || meta.Sequence.Stream <= last {
			if err := f(m, meta); err != nil {
				return err
			}
		}
		if meta.NumPending == 0 || how == asItBegan && meta.Sequence.Stream >= last {
			return nil
		}
	}
}

// Held returns what is stored of an ID. [H-1]
func (s Store) Held(ctx context.Context, id wire.ID) ([]wire.Held, error) {
	return s.b.consent.held(ctx, id.String())
}

// Held returns what is counted of an ID; what it means is the registrar's business. [H-1]
func (c Counts) Held(ctx context.Context, id wire.ID) ([]wire.Held, error) {
	return c.b.counts.held(ctx, id.String())
}

// Erase forgets the counts of an ID, and has the bucket's files rewritten soon after. [H-6] [H-8]
func (c Counts) Erase(ctx context.Context, id wire.ID) error {
	return failure("erase counts", c.b.counts.eraseFully(ctx, func() error { return c.b.counts.forget(ctx, id.String(), 0) }))
}

// Held returns a number's entry as it is stored. [H-1]
func (s Suppressions) Held(ctx context.Context, n [16]byte) ([]wire.Held, error) {
	return s.b.suppressed.held(ctx, suppressKey(n))
}

// Held returns a counter as the server has it. [H-1]
func (c Caps) Held(ctx context.Context, key string) ([]wire.Held, error) {
	if !capKey.MatchString(key) {
		return nil, refuse("read what is spent", wire.NotAllowed)
	}
	return c.b.About(ctx, wire.StreamCaps, wire.CapSubject(key))
}

// held returns what is stored under a key; a marker of a removal is nothing.
func (k *bucket) held(ctx context.Context, key string) ([]wire.Held, error) {
	all, err := k.b.About(ctx, kvStream+k.name, kvKeys+k.name+"."+key)
	var held []wire.Held
	for _, h := range all {
		if h.Header[kvOperation] == "" {
			held = append(held, h)
		}
	}
	return held, err
}

// EachHeld calls f for every row, as it is stored and as it reads; for one that moves meanwhile at least
// once. [H-1]
func (j Journal) EachHeld(ctx context.Context, f func(h wire.Held, e fallback.Entry) error) error {
	return j.b.EachHeld(ctx, kvStream+wire.BucketJournal, func(h wire.Held) error {
		if h.Header[kvOperation] != "" {
			return nil
		}
		e, err := decodeEntry(h.Raw)
		if err != nil {
			return nil // nothing that a worker wrote
		}
		h.Value = json.RawMessage(h.Raw)
		return f(h, e)
	})
}

// Rewrite stores e in place of a row that [Journal.EachHeld] gave, unless that has changed since:
// [ErrConflict]. [H-6]
func (j Journal) Rewrite(ctx context.Context, h wire.Held, e fallback.Entry) error {
	v, err := encodeEntry(e)
	if err == nil {
		_, err = j.b.journal.save(ctx, j.b.journal.key(h), v, h.Seq)
	}
	return failure("rewrite a row of the journal", err)
}

// Erase removes such a row, unless it has changed since: [ErrConflict]. [H-6]
func (j Journal) Erase(ctx context.Context, h wire.Held) error {
	return failure("erase a row of the journal", j.b.journal.forget(ctx, j.b.journal.key(h), h.Seq))
}

// Wipe has the files of the journal and of the suppression list rewritten soon, without what was removed. [H-8]
func (j Journal) Wipe(ctx context.Context) error {
	return failure("rewrite the journal", errors.Join(j.b.journal.rewriteSoon(ctx), j.b.suppressed.rewriteSoon(ctx)))
}

// Held returns what an integrator's stream has at a subject, which may have wildcards. [H-1]
func (i *Integrator) Held(ctx context.Context, subject string) ([]wire.Held, error) {
	const op = "read an integrator's events"
	ctx, cancel := i.b.bound(ctx)
	defer cancel()
	s, err := i.js.Stream(ctx, StreamIntegrator)
	if err != nil {
		return nil, failure(op, err)
	}
	held, err := about(ctx, s, StreamIntegrator, subject)
	for n := range held {
		held[n].Value = json.RawMessage(held[n].Raw)
		if !json.Valid(held[n].Raw) {
			held[n].Value = notRead
		}
	}
	return held, failure(op, err)
}

// Void makes the certificates that a device has of an ID now worthless: [Store.Save] lets none of them make a
// state anew. What is stored says neither which ID nor which device to whoever has not both. [H-7]
func (s Store) Void(ctx context.Context, c wire.Certificate, now time.Time) error {
	v := fmt.Appendf(nil, "%d", wire.Unix32(now))
	return failure("void a certificate", s.b.void.put(ctx, voidKey(c), v))
}

func voidKey(c wire.Certificate) string {
	return wire.MessageIDOf(wire.LP("bj1 void", c.ID[:], c.Device[:])).String()
}

// mayBegin refuses the certificate of an erased user. [H-7]
func (s Store) mayBegin(ctx context.Context, c wire.Certificate) error {
	const op = "save consent"
	v, rev, err := s.b.void.load(ctx, voidKey(c))
	if err != nil || rev == 0 {
		return failure(op, err)
	}
	var at uint32
	if _, err := fmt.Sscanf(string(v), "%d", &at); err != nil || c.IssuedAt <= at {
		return refuse(op, wire.NotEnrolled)
	}
	return nil
}

// Erase forgets an ID whose state is still the one loaded at a revision, and has the bucket's files rewritten
// soon after; [ErrConflict] if it is not. Revision 0: there was none, and only the files are rewritten. [H-6] [H-8]
func (s Store) Erase(ctx context.Context, id wire.ID, revision uint64) error {
	return failure("erase consent", s.b.consent.eraseFully(ctx, func() error {
		if revision == 0 {
			return nil
		}
		return s.b.consent.forget(ctx, id.String(), revision)
	}))
}
