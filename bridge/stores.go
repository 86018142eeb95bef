package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// Store keeps the consent state of every ID, in bucket bj_consent. [C-revoke]
type Store struct{ b *Bridge }

// Store returns the broker's consent store.
func (b *Bridge) Store() Store { return Store{b} }

// Load returns the state of an ID, the zero State when there is none. Revision is set.
func (s Store) Load(ctx context.Context, id wire.ID) (consent.State, error) {
	v, rev, err := s.b.consent.load(ctx, id.String())
	if err != nil {
		return consent.State{}, failure("load consent", err)
	}
	st, err := consent.Unpack(id, v)
	if err != nil {
		return consent.State{}, failure("load consent", err)
	}
	st.Revision = rev
	return st, nil
}

// Save stores a state over the revision it was loaded at, and returns the new revision; a nil error
// means stored durably. [ErrConflict] means that another broker was faster.
// A certificate that was erased makes no state anew: [wire.NotEnrolled]. [H-7]
func (s Store) Save(ctx context.Context, id wire.ID, st consent.State) (revision uint64, err error) {
	if st.Revision == 0 && st.Cert != nil {
		if err := s.mayBegin(ctx, *st.Cert); err != nil {
			return 0, err
		}
	}
	revision, err = s.b.consent.save(ctx, id.String(), st.Pack(id), st.Revision)
	return revision, failure("save consent", err)
}

// Counts keeps the registrar's counts of every ID, in bucket bj_counts. What they mean is the
// registrar's business. [P-11]
type Counts struct{ b *Bridge }

// Counts returns the registrar's store of counts.
func (b *Bridge) Counts() Counts { return Counts{b} }

// Load returns the counts of an ID and their revision; nil and 0 when there are none.
func (c Counts) Load(ctx context.Context, id wire.ID) (value []byte, rev uint64, err error) {
	value, rev, err = c.b.counts.load(ctx, id.String())
	return value, rev, failure("load counts", err)
}

// Save stores counts over the revision they were loaded at, or fails with [ErrConflict].
func (c Counts) Save(ctx context.Context, id wire.ID, value []byte, rev uint64) error {
	if len(value) > maxValue {
		return refuse("save counts", wire.TooLarge)
	}
	_, err := c.b.counts.save(ctx, id.String(), value, rev)
	return failure("save counts", err)
}

// Journal keeps what became of each job, in bucket bj_journal. [F-11]
type Journal struct{ b *Bridge }

// Journal returns the journal of SMS jobs.
func (b *Bridge) Journal() Journal { return Journal{b} }

// Begin stores an entry if there is none under id. When there is one it returns that and
// [fallback.ErrExists]: whoever begins first wins, be it a worker or a cancellation. An error of
// another kind leaves open whether the entry was stored; begin again to find out.
func (j Journal) Begin(ctx context.Context, id wire.MessageID, e fallback.Entry) (fallback.Entry, error) {
	e.Revision = 0
	return j.save(ctx, "begin a job", id, e)
}

// Replace stores an entry over the one of e's revision. When there is another by now it returns that and
// [fallback.ErrExists]. An error of another kind leaves open whether the entry was stored.
func (j Journal) Replace(ctx context.Context, id wire.MessageID, e fallback.Entry) (fallback.Entry, error) {
	return j.save(ctx, "replace a job", id, e)
}

func (j Journal) save(ctx context.Context, op string, id wire.MessageID, e fallback.Entry) (fallback.Entry, error) {
	v, err := encodeEntry(e)
	if err != nil {
		return fallback.Entry{}, failure(op, err)
	}
	rev, err := j.b.journal.save(ctx, id.String(), v, e.Revision)
	if !errors.Is(err, ErrConflict) {
		e.Revision = rev
		return e, failure(op, err)
	}
	stored, ok, err := j.Get(ctx, id)
	if err == nil && !ok {
		err = refuse(op, wire.Unavailable) // it aged out in between
	}
	if err != nil {
		return fallback.Entry{}, err
	}
	return stored, fallback.ErrExists
}

// Put stores an entry over whatever is there.
func (j Journal) Put(ctx context.Context, id wire.MessageID, e fallback.Entry) error {
	v, err := encodeEntry(e)
	if err == nil {
		err = j.b.journal.put(ctx, id.String(), v)
	}
	return failure("put a job", err)
}

// Get returns the entry under id; ok is false when there is none.
func (j Journal) Get(ctx context.Context, id wire.MessageID) (e fallback.Entry, ok bool, err error) {
	v, rev, err := j.b.journal.load(ctx, id.String())
	if err != nil || rev == 0 {
		return fallback.Entry{}, false, failure("get a job", err)
	}
	e, err = decodeEntry(v)
	e.Revision = rev
	return e, err == nil, failure("get a job", err)
}

// Each calls f once for every entry that there was when it began. f may use the journal.
func (j Journal) Each(ctx context.Context, f func(id wire.MessageID, e fallback.Entry) error) error {
	return failure("read the journal", j.b.journal.each(ctx, func(key string, v []byte) error {
		id, err := wire.ParseMessageID(key)
		if err != nil {
			return nil // nothing that a worker wrote
		}
		e, err := decodeEntry(v)
		if err != nil {
			return nil
		}
		return f(id, e)
	}))
}

func encodeEntry(e fallback.Entry) ([]byte, error) {
	v, err := json.Marshal(e)
	if err == nil && len(v) > maxValue {
		err = fmt.Errorf("%w: journal entry too large", wire.ErrMalformed)
	}
	return v, err
}

func decodeEntry(v []byte) (fallback.Entry, error) {
	var e fallback.Entry
	if err := json.Unmarshal(v, &e); err != nil || !e.State.Known() {
		return fallback.Entry{}, fmt.Errorf("%w: not a journal entry", wire.ErrMalformed)
	}
	return e, nil
}
