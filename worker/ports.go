package worker

import (
	"context"

	"bluejay/fallback"
	"bluejay/wire"
)

// Delivery is a job held by this worker; see [fallback.Delivery].
type Delivery = fallback.Delivery

// Entry is a job in the journal; see [fallback.Entry].
type Entry = fallback.Entry

// ErrExists is what [Journal.Begin] returns beside the entry that is there already.
var ErrExists = fallback.ErrExists

// Queue hands out jobs, each to one worker at a time.
type Queue interface {
	// Next blocks until there is a job; it returns ctx.Err() at the end.
	Next(ctx context.Context) (Delivery, error)
}

// Journal is durable when it returns: what it has said survives a crash of the machine. [F-11]
type Journal interface {
	// Begin stores the entry if there is none under the id (compare and set). If there is one, it
	// returns that one and [ErrExists]. What is returned here and by Get has its Revision.
	Begin(ctx context.Context, id wire.MessageID, e Entry) (Entry, error)
	// Replace stores the entry over the one of its Revision (compare and set). If there is another by
	// now, it returns that one and [ErrExists].
	Replace(ctx context.Context, id wire.MessageID, e Entry) (Entry, error)
	// Put stores the entry whatever was there.
	Put(ctx context.Context, id wire.MessageID, e Entry) error
	// Get returns the entry; false if there is none.
	Get(ctx context.Context, id wire.MessageID) (Entry, bool, error)
	// Each calls f once for every entry there was when it began, in any order, and ends with f's
	// first error. f may call the other methods.
	Each(ctx context.Context, f func(id wire.MessageID, e Entry) error) error
}

// Events tells senders what became of their jobs, durably and at least once; id and state together
// de-duplicate. [F-7]
type Events interface {
	Outcome(ctx context.Context, sender wire.Pseudonym, o wire.Outcome) error
	// Transition tells operators, and integrators if t has a party; with a party it is durable when
	// it returns, and message, state and attempt together de-duplicate. [F-20]
	Transition(ctx context.Context, t fallback.Transition) error
}

// Suppressions is the list of numbers that want no SMS, by their HMAC. Durable when it returns. [F-17]
type Suppressions interface {
	// Suppressed reports whether the number is on the list, and why.
	Suppressed(ctx context.Context, n [16]byte) (fallback.Suppression, bool, error)
	// Suppress puts a number on the list, over whatever was there.
	Suppress(ctx context.Context, n [16]byte, s fallback.Suppression) error
	// Lift takes a number off; it is no error if it is not on.
	Lift(ctx context.Context, n [16]byte) error
	// Each calls f once for every number there was when it began, and ends with f's first error.
	Each(ctx context.Context, f func(n [16]byte, s fallback.Suppression) error) error
}

// Caps counts what was spent. A lost answer may count twice, never too little. [F-21]
type Caps interface {
	// Add adds n to a counter and returns its total. A key is "<yyyymmdd>.<kind>.<base64url>", kept
	// for 48 hours.
	Add(ctx context.Context, key string, n int64) (total int64, err error)
}

// Registrar answers what only the registrar can know.
type Registrar interface {
	// CheckSender reports whether the sender sealed by the broker for this message owns the number.
	CheckSender(ctx context.Context, sealed []byte, id wire.MessageID, n wire.Number) (bool, error)
	// SignKey returns the key with the root's signature.
	SignKey(ctx context.Context, k wire.WorkerKey) (wire.WorkerKey, error)
	// Stop revokes the consent of whoever has enrolled with the sealed number; nil when that is done,
	// or when nobody has. [F-18]
	Stop(ctx context.Context, sealed []byte) error
}

// Keys publishes the worker's key to every handset, on topic k. [F-2]
type Keys interface {
	PublishWorkerKey(ctx context.Context, k wire.WorkerKey) error
}
