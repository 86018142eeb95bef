package wire

import (
	"fmt"
	"strings"
)

// NATS subjects, streams and buckets. None carries an ID, a number or a contact. [F-8]
const (
	SubjectEnrol  = "bj.registrar.enrol"  // address token 16 ‖ body of a request on e → Code ‖ body
	SubjectLookup = "bj.registrar.lookup" // ID 12 ‖ body of a request on q → Code ‖ body
	SubjectCheck  = "bj.registrar.check"  // message id 16 ‖ BCD 8 ‖ sealed sender → Code
	SubjectSign   = "bj.registrar.sign"   // unsigned worker key 42 → Code ‖ WorkerKey

	SubjectStop   = "bj.registrar.stop" // number sealed to the registrar → Code; OK also when nobody has enrolled with it [F-18]
	SubjectOff    = "bj.registrar.off"  // operator → registrar: Cause 1 ‖ number sealed → Code ‖ seq u32 of the revocation, 0: nobody has enrolled with it
	SubjectSeq    = "bj.consent.seq"    // registrar → broker: ID 12 → Code ‖ stored seq u32
	SubjectRevoke = "bj.consent.revoke" // registrar → broker: Revocation 87 → Code, OK only after silence [C-revoke]

	StreamJobs       = "BJ_SMS"
	StreamOutcomes   = "BJ_OUTCOME"
	StreamEvents     = "BJ_EVENT"      // transitions of jobs whose sender consented to integrations
	StreamCaps       = "BJ_CAPS"       // counters of what was spent, by day
	BucketConsent    = "bj_consent"    // ID → consent state
	BucketKeys       = "bj_keys"       // "worker" → WorkerKey
	BucketJournal    = "bj_journal"    // message id → job state
	BucketCounts     = "bj_counts"     // ID → look-up and enrolment counts
	BucketSuppressed = "bj_suppressed" // number hash → who wants no SMS

	subjectJobs     = "bj.sms.job."
	subjectOutcomes = "bj.sms.outcome."
	subjectRoute    = "bj.route."
	subjectEvent    = "bj.event.sms."   // of everybody, not stored
	subjectParty    = "bj.event.party." // of consenting senders, stored
	subjectCaps     = "bj.caps."

	// HeaderSender carries the broker's sealed word on who sent a job. [F-6]
	HeaderSender = "Bj-Sender"
	// HeaderParty carries the sender's ID sealed by the broker for itself, if the sender consented to
	// integrations when it sent the job.
	HeaderParty = "Bj-Party"
)

// JobClass is what an SMS job is for; only the registrar may publish urgent ones. [F-5]
type JobClass byte

// Job classes: a user's text (at most once), a one-time password (at least once).
const (
	ClassNormal JobClass = 0
	ClassUrgent JobClass = 1
)

// String is the class as a subject token.
func (c JobClass) String() string {
	if c == ClassUrgent {
		return "urgent"
	}
	return "normal"
}

// JobSubject is where a job of a class and a sender is queued. The pseudonym is the last token, so
// that everything of one sender can be purged. [F-8]
func JobSubject(c JobClass, p Pseudonym) string { return subjectJobs + c.String() + "." + p.String() }

// JobSubjects matches every job.
func JobSubjects() string { return subjectJobs + ">" }

// ParseJobSubject reads a job's subject.
func ParseJobSubject(s string) (JobClass, Pseudonym, error) {
	rest, ok := strings.CutPrefix(s, subjectJobs)
	class, token, dot := strings.Cut(rest, ".")
	p, err := ParsePseudonym(token)
	if !ok || !dot || err != nil {
		return 0, Pseudonym{}, fmt.Errorf("%w: not a job subject", ErrMalformed)
	}
	switch class {
	case "normal":
		return ClassNormal, p, nil
	case "urgent":
		return ClassUrgent, p, nil
	}
	return 0, Pseudonym{}, fmt.Errorf("%w: unknown job class", ErrMalformed)
}

// OutcomeSubject is where the outcomes of a sender's jobs are published.
func OutcomeSubject(p Pseudonym) string { return subjectOutcomes + p.String() }

// OutcomeSubjects matches every outcome.
func OutcomeSubjects() string { return subjectOutcomes + "*" }

// ParseOutcomeSubject reads an outcome's subject.
func ParseOutcomeSubject(s string) (Pseudonym, error) {
	token, ok := strings.CutPrefix(s, subjectOutcomes)
	if !ok {
		return Pseudonym{}, fmt.Errorf("%w: not an outcome subject", ErrMalformed)
	}
	return ParsePseudonym(token)
}

// EventSubject is where a job's transition is published; state is a state's name. A stored one is of
// a sender who consented to integrations. [F-20]
func EventSubject(state string, stored bool) string {
	if stored {
		return subjectParty + state
	}
	return subjectEvent + state
}

// EventSubjects matches every transition, stored or not.
func EventSubjects(stored bool) string { return EventSubject("*", stored) }

// CapSubject is where a counter is kept. [F-21]
func CapSubject(key string) string { return subjectCaps + key }

// RouteSubject is where the broker that holds the session of a tag answers. [C-2]
func RouteSubject(t Tag) string { return subjectRoute + t.String() }

// ParseRouteSubject reads a route subject.
func ParseRouteSubject(s string) (Tag, error) {
	token, ok := strings.CutPrefix(s, subjectRoute)
	if !ok {
		return Tag{}, fmt.Errorf("%w: not a route subject", ErrMalformed)
	}
	return ParseTag(token)
}
