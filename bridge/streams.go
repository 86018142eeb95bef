package bridge

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// Limits bounds what the streams hold. The zero value is right for one server.
type Limits struct {
	Replicas int   // of every stream and bucket; zero: 1. A cluster uses 3
	Jobs     int64 // jobs waiting for a worker; zero: 100,000
	JobBytes int64 // zero: 256 MiB
	// JobsPerSender is how many jobs of one sender and day may wait, so that nobody fills the queue
	// alone; the registrar's one-time passwords count as one sender. Zero: 1,000.
	JobsPerSender int64
	// AckWait is how long a worker may hold a job without a sign of life. Zero: 30 s.
	AckWait time.Duration
}

const (
	// outcomeAge is how long an outcome waits for its sender to connect. [F-7]
	outcomeAge = 48 * time.Hour
	// journalAge lets an entry outlive every job it is about: expiry is at most 24 h away, and an id
	// is refused for one hour more. It only cleans up; the worker reads the times. [F-11]
	journalAge = 30 * time.Hour
	deadAge    = 7 * 24 * time.Hour   // the worker's key is erased long before
	eventAge   = 48 * time.Hour       // for an integrator that cannot be reached
	voidAge    = 181 * 24 * time.Hour // no certificate lasts longer [H-7]
	// dedupWindow catches a resend that follows a lost answer; the journal catches a later one.
	dedupWindow = 5 * time.Minute

	maxPayload = 4 << 10 // of a job: 64 B and six parts take under 2 KiB
	maxSealed  = 2 << 10 // of a sealed sender
	maxParty   = 512     // of a party's token
	maxStored  = 8 << 10 // of a job with its headers
	maxValue   = 4 << 10 // in a bucket
)

func (l Limits) withDefaults() Limits {
	set := func(v *int64, otherwise int64) {
		if *v == 0 {
			*v = otherwise
		}
	}
	set(&l.Jobs, 100_000)
	set(&l.JobBytes, 256<<20)
	set(&l.JobsPerSender, 1000)
	if l.Replicas == 0 {
		l.Replicas = 1
	}
	if l.AckWait == 0 {
		l.AckWait = 30 * time.Second
	}
	return l
}

// ensureTime is how long a server may take to make a dozen streams, each with its files: a busy disk takes seconds for
// all of them, and a start that failed for that would be tried again at once. A part has 30 s to become ready.
const ensureTime = 25 * time.Second

// EnsureStreams makes the streams, buckets and consumers, or brings existing ones to these limits.
// Only a broker may; every broker does, at start, with the same limits.
func (b *Bridge) EnsureStreams(ctx context.Context, l Limits) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTime)
	defer cancel()
	l = l.withDefaults()
	for _, cfg := range l.streams() {
		if err := b.ensureStream(ctx, cfg); err != nil {
			return failure("make stream "+cfg.Name, err)
		}
	}
	for _, c := range []wire.JobClass{wire.ClassUrgent, wire.ClassNormal} {
		if _, err := b.js.CreateOrUpdateConsumer(ctx, wire.StreamJobs, l.consumer(c)); err != nil {
			return failure("make the consumer of "+c.String()+" jobs", err)
		}
	}
	return nil
}

// ensureStream asks before it makes: two brokers that start together may both make it.
func (b *Bridge) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	_, err := b.js.UpdateStream(ctx, cfg)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = b.js.CreateStream(ctx, cfg)
	}
	return err
}

func streamNames() []string {
	var names []string
	for _, cfg := range (Limits{}).streams() {
		names = append(names, cfg.Name)
	}
	return names
}

// streams never allow direct get: it can answer from a replica that has not yet seen a revocation or
// a cancellation, and its answer is the bare payload, at a subject the asker names.
func (l Limits) streams() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{
			Name: wire.StreamJobs, Subjects: []string{wire.JobSubjects()}, Storage: jetstream.FileStorage,
			Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
			MaxMsgs: l.Jobs, MaxBytes: l.JobBytes, MaxMsgsPerSubject: l.JobsPerSender,
			MaxMsgSize: maxStored, Duplicates: dedupWindow, Replicas: l.Replicas,
		}, {
			Name: wire.StreamOutcomes, Subjects: []string{wire.OutcomeSubjects()}, Storage: jetstream.FileStorage,
			MaxAge: outcomeAge, MaxMsgsPerSubject: 3 * l.JobsPerSender, MaxBytes: l.JobBytes, MaxMsgSize: 1 << 10,
			Duplicates: dedupWindow, Replicas: l.Replicas,
		}, {
			Name: StreamDead, Subjects: []string{subjectDead + ">"}, Storage: jetstream.FileStorage,
			MaxAge: deadAge, MaxBytes: l.JobBytes, MaxMsgSize: maxStored,
			Duplicates: dedupWindow, Replicas: l.Replicas,
		},
		l.bucket(wire.BucketConsent, 0), l.bucket(wire.BucketKeys, 0),
		l.bucket(wire.BucketJournal, journalAge), l.bucket(wire.BucketCounts, 0), l.bucket(wire.BucketSuppressed, 0),
		l.bucket(wire.BucketVoid, voidAge),
		{
			Name: wire.StreamEvents, Subjects: []string{wire.EventSubjects(true)}, Storage: jetstream.FileStorage,
			MaxAge: eventAge, MaxBytes: l.JobBytes, MaxMsgSize: 2 << 10, Duplicates: dedupWindow, Replicas: l.Replicas,
		}, {
			Name: wire.StreamCaps, Subjects: []string{wire.CapSubject("*.*.*")}, Storage: jetstream.FileStorage, PersistMode: l.countersPersist(),
			AllowMsgCounter: true, MaxMsgsPerSubject: 1, MaxAge: capAge, MaxMsgSize: 1 << 10, Replicas: l.Replicas,
		},
	}
}

// countersPersist has counters written, but waits for no disk: a crash of the server forgets the last
// moment of what was spent, not the day. Replicas keep each other's, and the server wants them to.
func (l Limits) countersPersist() jetstream.PersistModeType {
	if l.Replicas > 1 {
		return jetstream.DefaultPersistMode
	}
	return jetstream.AsyncPersistMode
}

// bucket is a key-value bucket that keeps one value a key. It has no bound in bytes: a revocation
// must never be refused because there are many users.
func (l Limits) bucket(name string, age time.Duration) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: kvStream + name, Subjects: []string{kvKeys + name + ".>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxAge: age, MaxMsgSize: maxValue, Discard: jetstream.DiscardNew,
		AllowRollup: true, DenyDelete: true, Duplicates: dedupWindow, Replicas: l.Replicas,
	}
}

// consumer counts no deliveries and holds nothing back: the worker counts attempts itself, and a
// consumer's own limits have lost messages.
func (l Limits) consumer(c wire.JobClass) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: c.String(), FilterSubject: jobSubjects(c), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: l.AckWait, MaxDeliver: -1, MaxAckPending: -1, Replicas: l.Replicas,
	}
}

// jobSubjects matches every job of one class.
func jobSubjects(c wire.JobClass) string { return anyLast(wire.JobSubject(c, wire.Pseudonym{})) }

// anyLast puts a wildcard for a subject's last token.
func anyLast(subject string) string { return subject[:strings.LastIndexByte(subject, '.')+1] + "*" }

var routeSubjects = anyLast(wire.RouteSubject(wire.Tag{}))

// bucket is one key-value bucket, opened at its first use: a worker may start before the broker has
// made the buckets.
type bucket struct {
	b    *Bridge
	name string
	once lazy[jetstream.KeyValue]

	rewrite rewriting
}

func (b *Bridge) openBuckets() {
	for name, k := range map[string]*bucket{
		wire.BucketConsent: &b.consent, wire.BucketKeys: &b.keys,
		wire.BucketJournal: &b.journal, wire.BucketCounts: &b.counts, wire.BucketSuppressed: &b.suppressed,
		wire.BucketVoid: &b.void,
	} {
		k.b, k.name = b, name
	}
}

func (k *bucket) open(ctx context.Context) (jetstream.KeyValue, error) {
	return k.once.get(func() (jetstream.KeyValue, error) { return k.b.js.KeyValue(ctx, k.name) })
}

// load returns a value and its revision; both are zero when the key is absent.
func (k *bucket) load(ctx context.Context, key string) ([]byte, uint64, error) {
	ctx, cancel := k.b.bound(ctx)
	defer cancel()
	kv, err := k.open(ctx)
	if err != nil {
		return nil, 0, err
	}
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return e.Value(), e.Revision(), nil
}

// save writes a value over revision rev, zero for a key that is absent, and returns the new
// revision. It returns [ErrConflict] when the stored revision is another.
func (k *bucket) save(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	ctx, cancel := k.b.bound(ctx)
	defer cancel()
	kv, err := k.open(ctx)
	if err != nil {
		return 0, err
	}
	if rev == 0 {
		rev, err = kv.Create(ctx, key, value)
	} else {
		rev, err = kv.Update(ctx, key, value, rev)
	}
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		err = ErrConflict
	}
	return rev, err
}

// put writes a value over whatever is there.
func (k *bucket) put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := k.b.bound(ctx)
	defer cancel()
	kv, err := k.open(ctx)
	if err == nil {
		_, err = kv.Put(ctx, key, value)
	}
	return err
}
