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
	// returns that one and [ErrExists].
	Begin(ctx context.Context, id wire.MessageID, e Entry) (Entry, error)
	// Put stores the entry whatever was there.
	Put(ctx context.Context, id wire.MessageID, e Entry) error
	// Get returns the entry; false if there is none.
	Get(ctx context.Context, id wire.MessageID) (Entry, bool, error)
}

// Events tells senders what became of their jobs, durably and at least once; id and state together
// de-duplicate. [F-7]
type Events interface {
	Outcome(ctx context.Context, sender wire.Pseudonym, o wire.Outcome) error
}

// Registrar answers what only the registrar can know.
type Registrar interface {
	// CheckSender reports whether the sender sealed by the broker for this message owns the number.
	CheckSender(ctx context.Context, sealed []byte, id wire.MessageID, n wire.Number) (bool, error)
	// SignKey returns the key with the root's signature.
	SignKey(ctx context.Context, k wire.WorkerKey) (wire.WorkerKey, error)
}

// Keys publishes the worker's key to every handset, on topic k. [F-2]
type Keys interface {
	PublishWorkerKey(ctx context.Context, k wire.WorkerKey) error
}
