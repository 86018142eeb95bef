package consent

import (
	"slices"
	"time"

	"bluejay/wire"
)

// Policy is the operator's part in what is in force. Zero value: any notice is accepted.
type Policy struct {
	// Notices are the texts that count, each as the first 16 bytes of its SHA-256. Whoever agreed after
	// another one is suspended until agreeing again. Empty: any text.
	Notices [][16]byte
}

// Accepts reports whether a text, by its hash, counts.
func (p Policy) Accepts(notice [16]byte) bool {
	return len(p.Notices) == 0 || slices.Contains(p.Notices, notice)
}

// Phase is where one scope of one user is in its life.
type Phase byte

// Phases. Zero value: nothing is known of the user.
const (
	None      Phase = iota // no valid certificate, and nothing agreed to
	Offered                // enrolled: it can be agreed to, and has not been
	Granted                // in force
	Suspended              // agreed to, and not in force until the reason is gone
	Revoked                // withdrawn, by the device or by a revocation
	Erased                 // nothing is left but what keeps old records out
)

var phases = [...]string{"none", "offered", "granted", "suspended", "revoked", "erased"}

// String is the phase's name.
func (p Phase) String() string {
	if int(p) < len(phases) {
		return phases[p]
	}
	return "invalid"
}

// Standing is a phase, and for Suspended and Revoked why.
type Standing struct {
	Phase  Phase
	Reason wire.Reason
}

// Life tells where one scope of a user is, from what is stored, the operator's policy and the time, and from
// nothing else. Only Granted lets anything through.
func (p Policy) Life(s State, scope wire.Scope, now time.Time) Standing {
	l := p.standing(s, now)
	if s.Record != nil && s.Record.Scopes != 0 && !s.Record.Scopes.Has(scope) && (l.Phase == Granted || l.Phase == Suspended) {
		return Standing{Phase: Offered}
	}
	return l
}

// standing is where everything is that the record agrees to. What can be lifted last comes first: a
// revocation stays whatever else is amiss.
func (p Policy) standing(s State, now time.Time) Standing {
	over := s.Cert == nil || now.After(s.Cert.NotAfter())
	switch {
	case s.Erased != 0:
		return Standing{Erased, wire.Reason(wire.CauseErasure)}
	case s.Off != nil:
		return Standing{Revoked, wire.Reason(s.Off.Cause)}
	case s.Record != nil && s.Record.Scopes == 0:
		return Standing{Revoked, wire.Withdrawn}
	case s.Held != 0:
		return Standing{Suspended, s.Held}
	case s.Record == nil && over:
		return Standing{Phase: None}
	case s.Record == nil:
		return Standing{Phase: Offered}
	case over, now.After(wire.Time32(s.Record.ExpiresAt)):
		return Standing{Suspended, wire.ReproofDue}
	case !p.Accepts(s.Record.Notice):
		return Standing{Suspended, wire.NewNotice}
	}
	return Standing{Phase: Granted}
}

// Standing is that of everything a user agreed to at once, for the handset to show.
func (p Policy) Standing(s State, now time.Time) Standing { return p.standing(s, now) }

// Scopes returns what the user agrees to now: none unless it is granted.
func (p Policy) Scopes(s State, now time.Time) wire.Scope {
	if p.standing(s, now).Phase != Granted {
		return 0
	}
	return s.Record.Scopes
}

// Access returns the access of a connection whose certificate was verified. It holds until the
// certificate or the record expires or the policy changes: after that it has to be worked out again.
func (p Policy) Access(s State, now time.Time) Access {
	enrolled := s.Cert != nil && !now.After(s.Cert.NotAfter())
	scopes := p.Scopes(s, now)
	listed := scopes.Has(wire.ScopeMessaging) && s.Record.Visibility == wire.Listed
	return Access{Enrolled: enrolled, Listed: listed, Scopes: scopes}
}

// WithRecord, Scopes and Listed of a state are those under the zero Policy.
func (s State) WithRecord(raw []byte, now time.Time) (next State, changed bool, err error) {
	return Policy{}.WithRecord(s, raw, now)
}

// Scopes is what the user agrees to now, whatever the notice.
func (s State) Scopes(now time.Time) wire.Scope { return Policy{}.Scopes(s, now) }

// Listed reports whether the user's key bundle may be published, whatever the notice.
func (s State) Listed(now time.Time) bool { return Policy{}.Access(s, now).Listed }
