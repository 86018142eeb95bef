package fallback

import (
	"context"
	"errors"
	"time"

	"bluejay/wire"
)

// ErrExists says that the journal already has an entry under that id.
var ErrExists = errors.New("fallback: the journal has an entry for this id")

// Entry is what the worker's journal keeps of one job, and all it keeps: no number, no text, no ID.
// It lives until ExpiresAt plus one hour and is encoded as JSON. The zero value with Owner set is a
// job about to be written to the SMSC. [F-9] [F-11]
//
// The same bucket holds two more kinds of entry under derived ids: one for each further attempt
// (only Owner and At count) and one for each part the SMSC has named (Job, State, At). They make the
// journal's create-if-absent decide every race: who may submit, and whether the SMSC's answer or its
// receipt came first.
type Entry struct {
	State      wire.JobState  `json:"state"`
	Attempt    int            `json:"attempt,omitempty"`  // submissions begun so far
	Refusals   int            `json:"refusals,omitempty"` // temporary refusals so far
	Owner      string         `json:"owner,omitempty"`    // which worker is submitting; "" when none is
	At         time.Time      `json:"at"`                 // of the last change
	ExpiresAt  time.Time      `json:"expires_at,omitzero"`
	NumberHash [16]byte       `json:"number_hash,omitzero"` // HMAC-SHA256(K_sms, E.164)[:16]
	Sender     wire.Pseudonym `json:"sender,omitzero"`      // whom to tell; zero: nobody
	Parts      int            `json:"parts,omitempty"`
	SMSCIDs    []string       `json:"smsc_ids,omitempty"` // of the parts accepted so far, in order
	Urgent     bool           `json:"urgent,omitempty"`
	Checked    bool           `json:"checked,omitempty"` // the text begins with the sender's checked number

	Job       wire.MessageID `json:"job,omitzero"` // in a part's entry: whose part it is
	Ambiguous bool           `json:"ambiguous,omitempty"`
}

// Stage is where the entry's job is in the worker's terms. A queued job that has an owner may have
// been written to the SMSC already. [F-11]
func (e Entry) Stage() State {
	switch {
	case e.State != wire.JobQueued:
		return State(e.State)
	case e.Owner != "":
		return Submitting
	}
	return Queued
}

// Delivery is one job as the queue hands it out, held by one worker until it is acknowledged. It is
// declared here, not in package worker, so that the bridge that implements it needs no SMS code.
type Delivery interface {
	ID() wire.MessageID        // [wire.MessageIDOf] the payload; the queue de-duplicates on it
	Class() wire.JobClass      // from the subject, where only the registrar may publish urgent jobs
	Sender() wire.Pseudonym    // zero: nobody waits for the outcome
	Payload() []byte           // the sealed job
	SealedSender() []byte      // the broker's sealed word on who sent it; may be empty
	Delivered() int            // how often it was handed out, this time included
	Ack(context.Context) error // done: the queue forgets it

	// Retry puts the job back, to be handed out again not before after.
	Retry(ctx context.Context, after time.Duration) error
	// InProgress tells the queue that the job is still held.
	InProgress(context.Context) error
	// DeadLetter stores a full copy for the operator, then forgets the job.
	DeadLetter(ctx context.Context, reason string) error
}
