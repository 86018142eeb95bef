package fallback

import (
	"errors"
	"time"

	"bluejay/wire"
)

// State is where a job is as the worker sees it: a [wire.JobState], with the queued one split by
// what may have reached the SMSC. Zero value: Queued. [F-7]
type State byte

// States before the SMSC has answered. All others are those of package wire.
const (
	Queued     = State(wire.JobQueued) // nothing was written since the last answer
	Submitting = State(0x80)           // the journal says a worker may be writing
	Doubtful   = State(0x81)           // written, and no answer: perhaps sent
)

// Wire is the state as the sender may be told it.
func (s State) Wire() wire.JobState {
	if s == Submitting || s == Doubtful {
		return wire.JobQueued
	}
	return wire.JobState(s)
}

// Final reports whether no further state follows.
func (s State) Final() bool { return s.Wire().Final() }

// String is the state's name.
func (s State) String() string {
	switch s {
	case Submitting:
		return "submitting"
	case Doubtful:
		return "doubtful"
	}
	return s.Wire().String()
}

// Event is something that happened to a job. Zero value: none.
type Event byte

// Events. The receipts are the SMSC's word; it does not prove that a person read the text.
const (
	None          Event = iota
	Begin               // the journal has this attempt: writing may start
	Cancel              // the sender took it back before any attempt
	Refuse              // the operator's rules or the sender check say no
	OutOfTime           // its expiry passed and nothing is in the SMSC's hands
	Stop                // the recipient's number is on the suppression list
	Cap                 // a spending or rate cap was met
	Accept              // the SMSC took every part; an answer says so, or a receipt
	Simulate            // the console printed it
	NotSent             // the connection failed before anything was written
	TryLater            // the SMSC refused for now
	Reject              // the SMSC refused for good
	NoAnswer            // written, and no answer came; or a worker died while it might have written
	Resume              // the doubtful part was accepted after all; the rest may follow
	DoubtOver           // the wait for a late answer or a receipt is over
	ReceiptOK           // delivered
	ReceiptFailed       // undeliverable
	ReceiptLate         // the SMSC gave up at the validity period
	ReceiptReject       // refused by the network or the phone
	NoReceipt           // validity + 1 h passed without one
)

// Facts is what a transition depends on besides state and event.
type Facts struct {
	Class    wire.JobClass
	Attempts int  // submissions begun so far that may have been taken: neither refused nor certainly unsent
	Refusals int  // temporary refusals so far, this one included
	Expired  bool // the job's expiry has passed
}

// Limits of repetition. [F-5]
const (
	MaxRefusals = 6 // temporary refusals before a job has failed
	MaxUrgent   = 3 // submissions of an urgent job that may have been taken
)

// ErrNoTransition says that the event cannot happen in that state; the state stays what it was.
var ErrNoTransition = errors.New("fallback: no such transition")

var transitions = map[State]map[Event]State{
	Queued: {
		Begin: Submitting, Cancel: State(wire.JobCancelled), Refuse: State(wire.JobFailed),
		OutOfTime: State(wire.JobExpired), Stop: State(wire.JobSuppressed), Cap: State(wire.JobCapped),
	},
	Submitting: {
		Accept: State(wire.JobSubmitted), Simulate: State(wire.JobSimulated), NotSent: Queued,
		TryLater: Queued, Reject: State(wire.JobFailed), NoAnswer: Doubtful,
		OutOfTime: State(wire.JobExpired), Stop: State(wire.JobSuppressed), Cap: State(wire.JobCapped),
	},
	Doubtful: {
		Accept: State(wire.JobSubmitted), Resume: Submitting, NotSent: Queued, TryLater: Queued,
		Reject: State(wire.JobFailed), DoubtOver: State(wire.JobUnknown),
	},
	State(wire.JobSubmitted): {
		ReceiptOK: State(wire.JobDelivered), ReceiptFailed: State(wire.JobUndeliverable),
		ReceiptLate: State(wire.JobExpired), ReceiptReject: State(wire.JobRejected),
		NoReceipt: State(wire.JobNoReceipt),
	},
}

// Next is the one table of what follows what. At most once for normal jobs and at least once for
// urgent ones is the DoubtOver row: only an urgent job goes back to the queue after it may have been
// sent. No final state has a row. [F-5] [F-7] [F-11]
func Next(s State, e Event, f Facts) (State, error) {
	next, ok := transitions[s][e]
	switch {
	case !ok:
		return s, ErrNoTransition
	case s == Doubtful && e == DoubtOver && mayRepeat(f):
		return Queued, nil
	case e == TryLater && f.Refusals >= MaxRefusals:
		return State(wire.JobFailed), nil
	}
	return next, nil
}

func mayRepeat(f Facts) bool {
	return f.Class == wire.ClassUrgent && f.Attempts < MaxUrgent && !f.Expired
}

// OfReceipt is the event of a part's final state as its receipt reports it; None when it is not one.
func OfReceipt(s wire.JobState) Event {
	switch s {
	case wire.JobDelivered:
		return ReceiptOK
	case wire.JobUndeliverable:
		return ReceiptFailed
	case wire.JobExpired:
		return ReceiptLate
	case wire.JobRejected:
		return ReceiptReject
	}
	return None
}

// Combine is the event of a whole text from its parts' states: delivered when every part is, and the
// first part that failed decides at once. None while parts are outstanding or there are none.
func Combine(parts []wire.JobState) Event {
	delivered := 0
	for _, p := range parts {
		switch e := OfReceipt(p); e {
		case None:
		case ReceiptOK:
			delivered++
		default:
			return e
		}
	}
	if delivered == 0 || delivered < len(parts) {
		return None
	}
	return ReceiptOK
}

// Delay is how long to wait before submission number n (from 1 for the first repetition): one
// second, doubled each time, at most one minute.
func Delay(n int) time.Duration {
	return min(time.Second<<min(max(n-1, 0), 6), time.Minute)
}
