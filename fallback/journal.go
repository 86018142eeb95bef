package fallback

import (
	"context"
	"errors"
	"time"

	"bluejay/wire"
)

// ErrExists says that the journal already has an entry under that id, or another than it had.
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
	Unsent     int            `json:"unsent,omitempty"`   // attempts so far that certainly did not leave
	Owner      string         `json:"owner,omitempty"`    // which worker is submitting; "" when none is
	At         time.Time      `json:"at"`                 // of the last change
	ExpiresAt  time.Time      `json:"expires_at,omitzero"`
	NumberHash [16]byte       `json:"number_hash,omitzero"` // HMAC-SHA256(K_sms, E.164)[:16]
	Sender     wire.Pseudonym `json:"sender,omitzero"`      // whom to tell; zero: nobody
	Parts      int            `json:"parts,omitempty"`
	SMSCIDs    []string       `json:"smsc_ids,omitempty"` // of the parts accepted so far, in order
	Whole      bool           `json:"whole,omitempty"`    // one SMSC id stands for the whole text
	Since      time.Time      `json:"since,omitzero"`     // when writing began: no receipt is older
	Urgent     bool           `json:"urgent,omitempty"`
	Checked    bool           `json:"checked,omitempty"` // the text begins with the sender's checked number
	Route      string         `json:"route,omitempty"`   // of the attempt; receipts are looked for under it
	Party      []byte         `json:"party,omitempty"`   // the broker's token, echoed in events; empty: nobody consented

	Job       wire.MessageID `json:"job,omitzero"` // in a part's entry: whose part it is
	Ambiguous bool           `json:"ambiguous,omitempty"`

	Revision uint64 `json:"-"` // of the journal, at which it was read or stored; 0: neither
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

// Transition is one step of a job as operators and integrators may see it: it names no number and no
// sender. [F-20]
type Transition struct {
	Message wire.MessageID
	State   string // [State.String]: queued, submitting, submitted, delivered …
	Attempt int    // submissions begun so far
	Parts   int
	Route   string // "" before one is picked
	At      time.Time
	Party   []byte // empty: nobody consented to integrations, and the event is not stored
}

// Suppression says that a number wants no SMS. It is kept under the number's HMAC, encoded as JSON. [F-17]
type Suppression struct {
	At     time.Time `json:"at"`
	Cause  string    `json:"cause"`            // one of the causes below
	Sealed []byte    `json:"sealed,omitempty"` // the number, sealed to the registrar, until that has revoked the consent
}

// Causes of a [Suppression].
const (
	CauseStop      = "stop"      // the number's owner said so, by SMS
	CauseOperator  = "operator"  // the operator entered it
	CauseComplaint = "complaint" // the network or its owner complained
)

// Delivery is one job as the queue hands it out, held by one worker until it is acknowledged. It is
// declared here, not in package worker, so that the bridge that implements it needs no SMS code.
type Delivery interface {
	ID() wire.MessageID        // [wire.MessageIDOf] the payload; the queue de-duplicates on it
	Class() wire.JobClass      // from the subject, where only the registrar may publish urgent jobs
	Sender() wire.Pseudonym    // zero: nobody waits for the outcome
	Payload() []byte           // the sealed job
	Party() []byte             // the broker's token for events; empty: nobody consented to integrations
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
