// Package consent decides what a device may do: who opted in, on what proof, and who opted out.
//
// The life of one ID's [State]:
//
//  1. none: nothing stored. Only enrolment is possible.
//  2. enrolled: the registrar certified a device key. The newest certificate wins; a newer one voids
//     the consent of the older, so a new phone starts switched off. [P-5]
//  3. consented: the device signed a record with some scopes, above every earlier seq. [P-6]
//  4. revoked: a record with no scope, or the registrar's revocation. The seq stays, so that an old
//     record can never switch the user on again. [P-7]
//
// Everything here is pure: State in, State out; a refused record leaves the state as it was. The
// caller stores a new State durably before it acts on it. [C-revoke]
package consent

import (
	"errors"
	"fmt"
	"math"
	"time"

	"bluejay/wire"
)

// ErrConflict reports that a store holds another revision than the one a change started from.
var ErrConflict = errors.New("consent: state changed meanwhile")

// State is everything the broker stores about one ID: no number, no contact, no text. Zero value:
// nothing is known of the ID. Revision is the store's, for compare and set; it is not marshalled.
type State struct {
	Cert     *wire.Certificate
	Record   *wire.Consent    // the last consent record, also after it was revoked
	Off      *wire.Revocation // set while the registrar's revocation is the last word
	Receipt  wire.Receipt     // for Record
	Gen      uint32           // the highest tag generation ever used; never falls
	Seq      uint32           // the highest seq ever accepted
	Revision uint64
}

// Scopes returns what the user agrees to now: none without a valid certificate of the same device,
// after expiry, or after a revocation.
func (s State) Scopes(now time.Time) wire.Scope {
	if s.Cert == nil || s.Record == nil || s.Off != nil || now.After(s.Cert.NotAfter()) {
		return 0
	}
	if now.After(wire.Time32(s.Record.ExpiresAt)) {
		return 0
	}
	return s.Record.Scopes
}

// Listed reports whether the user's key bundle may be published.
func (s State) Listed(now time.Time) bool {
	return s.Scopes(now).Has(wire.ScopeMessaging) && s.Record.Visibility == wire.Listed
}

// WithCertificate accepts a certificate that the caller has verified. The stored one again changes
// nothing; an older one is refused with [wire.Revoked], one of another ID with [wire.BadRecord]; a
// newer one of another device voids the consent. [P-5]
func (s State) WithCertificate(c wire.Certificate) (next State, changed bool, err error) {
	switch {
	case s.Cert == nil:
	case s.Cert.ID != c.ID:
		return s, false, wire.BadRecord
	case *s.Cert == c:
		return s, false, nil
	case c.IssuedAt <= s.Cert.IssuedAt:
		return s, false, wire.Revoked
	}
	sameDevice := s.Cert != nil && s.Cert.Device == c.Device
	next = s
	next.Cert = &c
	if !sameDevice {
		next.Record, next.Off, next.Receipt = nil, nil, wire.Receipt{}
	}
	return next, true, nil
}

// MaxGenStep is how far a CONNECT may raise the generation, so that a device which has the number
// for a day cannot use them up for whoever has it next. [P-12]
const MaxGenStep = 1 << 10

// WithGen accepts the tag generation a device connects with. A lower one than ever before is
// refused with [wire.StaleRecord]: the device's state was rolled back. One more than [MaxGenStep]
// above the stored one is [wire.NotAllowed]. [P-12]
func (s State) WithGen(gen uint32) (next State, changed bool, err error) {
	switch {
	case gen < s.Gen:
		return s, false, wire.StaleRecord
	case gen-s.Gen > MaxGenStep:
		return s, false, wire.NotAllowed
	}
	next = s
	next.Gen = gen
	return next, gen != s.Gen, nil
}

// MaxConsent bounds how long a consent record may be valid. [P-6]
const MaxConsent = 400 * 24 * time.Hour

// lastSeq is kept for a revocation: no device can take the room for one.
const lastSeq = math.MaxUint32

// WithRecord accepts a consent record signed by the certified device. The stored record again
// changes nothing (the device lost the receipt). Refusals: [wire.NotEnrolled] without a
// certificate, [wire.BadRecord], [wire.OutOfTime], [wire.StaleRecord] for a seq not above the
// stored one. [P-6]
func (s State) WithRecord(raw []byte, now time.Time) (next State, changed bool, err error) {
	r, err := wire.ParseConsent(raw)
	if err != nil {
		return s, false, wire.BadRecord
	}
	if s.Cert == nil || now.After(s.Cert.NotAfter()) {
		return s, false, wire.NotEnrolled
	}
	if r.ID != s.Cert.ID || r.Seq == lastSeq || r.Verify(s.Cert.Device) != nil {
		return s, false, wire.BadRecord
	}
	if s.Record != nil && *s.Record == r && s.Off == nil {
		return s, false, nil
	}
	if err := timely(r, now); err != nil {
		return s, false, err
	}
	if r.Seq <= s.Seq {
		return s, false, wire.StaleRecord
	}
	next = s
	next.Record, next.Seq, next.Off, next.Receipt = &r, r.Seq, nil, wire.Receipt{}
	return next, true, nil
}

// timely refuses records from the future, expired, or valid for too long. A back-dated record is
// harmless: its seq decides, and its receipt carries the broker's time.
func timely(r wire.Consent, now time.Time) error {
	issued, expires := wire.Time32(r.IssuedAt), wire.Time32(r.ExpiresAt)
	switch {
	case issued.After(now.Add(wire.ClockSkew)):
		return wire.OutOfTime
	case r.Scopes == 0: // a revocation is never too old
		return nil
	case expires.Before(now), expires.Sub(issued) > MaxConsent:
		return wire.OutOfTime
	}
	return nil
}

// WithRevocation accepts the registrar's revocation, which the caller has verified; it can only
// switch off, and its seq must be the stored one plus one. [P-7]
func (s State) WithRevocation(r wire.Revocation) (State, error) {
	if s.Cert == nil || r.ID != s.Cert.ID {
		return s, wire.NotEnrolled
	}
	if s.Seq == lastSeq || r.Seq != s.Seq+1 {
		return s, wire.StaleRecord
	}
	s.Off, s.Seq = &r, r.Seq
	return s, nil
}

// WithReceipt attaches the broker's receipt for Record.
func (s State) WithReceipt(r wire.Receipt) State {
	s.Receipt = r
	return s
}

const stateVersion = 1

// Bits of the second byte of a marshalled State.
const (
	hasCert = 1 << iota
	hasRecord
	hasOff
)

// Marshal returns the stored form: version, what is there, gen, seq, then the records; at most
// 388 bytes.
func (s State) Marshal() []byte {
	b := []byte{stateVersion, 0}
	b = append(b, be32(s.Gen)...)
	b = append(b, be32(s.Seq)...)
	if s.Cert != nil {
		b[1] |= hasCert
		b = append(b, s.Cert.Marshal()...)
	}
	if s.Record != nil {
		b[1] |= hasRecord
		b = append(append(b, s.Record.Marshal()...), s.Receipt.Marshal()...)
	}
	if s.Off != nil {
		b[1] |= hasOff
		b = append(b, s.Off.Marshal()...)
	}
	return b
}

func be32(u uint32) []byte { return []byte{byte(u >> 24), byte(u >> 16), byte(u >> 8), byte(u)} }

func u32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// ParseState reads the stored form. Empty input is the zero State; anything else that Marshal
// would not have written is an error.
func ParseState(b []byte) (State, error) {
	if len(b) == 0 {
		return State{}, nil
	}
	if len(b) < 10 || b[0] != stateVersion || b[1] > hasCert|hasRecord|hasOff {
		return State{}, fmt.Errorf("consent: stored state: %w", wire.ErrMalformed)
	}
	s := State{Gen: u32(b[2:]), Seq: u32(b[6:])}
	flags, r := b[1], reader{b: b[10:]}
	if flags&hasCert != 0 {
		s.Cert = field(&r, wire.CertificateLen, wire.ParseCertificate)
	}
	if flags&hasRecord != 0 {
		s.Record = field(&r, wire.ConsentLen, wire.ParseConsent)
		if rc := field(&r, wire.ReceiptLen, wire.ParseReceipt); rc != nil {
			s.Receipt = *rc
		}
	}
	if flags&hasOff != 0 {
		s.Off = field(&r, wire.RevocationLen, wire.ParseRevocation)
	}
	if r.err != nil || len(r.b) != 0 {
		return State{}, fmt.Errorf("consent: stored state: %w", wire.ErrMalformed)
	}
	return s, nil
}

type reader struct {
	b   []byte
	err error
}

// field reads the next n bytes; after the first error it returns nil.
func field[T any](r *reader, n int, parse func([]byte) (T, error)) *T {
	if r.err != nil || len(r.b) < n {
		r.err = wire.ErrMalformed
		return nil
	}
	v, err := parse(r.b[:n])
	if err != nil {
		r.err = err
		return nil
	}
	r.b = r.b[n:]
	return &v
}
