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

	StreamJobs     = "BJ_SMS"
	StreamOutcomes = "BJ_OUTCOME"
	BucketConsent  = "bj_consent" // ID → consent state
	BucketKeys     = "bj_keys"    // "worker" → WorkerKey
	BucketJournal  = "bj_journal" // message id → job state
	BucketCounts   = "bj_counts"  // ID → look-up and enrolment counts

	subjectJobs     = "bj.sms.job."
	subjectOutcomes = "bj.sms.outcome."
	subjectRoute    = "bj.route."

	// HeaderSender carries the broker's sealed word on who sent a job. [F-6]
	HeaderSender = "Bj-Sender"
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
