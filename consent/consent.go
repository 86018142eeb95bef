// Package consent decides what a device may do: who opted in, on what proof, and who opted out.
//
// The life of one ID's [State]:
//
//  1. none: nothing stored. Only enrolment is possible.
//  2. enrolled: the registrar certified a device key. The newest certificate wins; a newer one voids
//     the consent of the older, so a new phone starts switched off. [P-5]
//  3. consented: the device signed a record with some scopes, above every earlier seq. [P-6]
//  4. suspended: the record is there and not in force, for a reason that the handset shows: the notice has
//     changed, the record is over, there is a new device or another SIM.
//  5. revoked: a record with no scope, or the registrar's revocation. The seq stays, so that an old
//     record can never switch the user on again. [P-7]
//  6. erased: what is left keeps old records out, and says nothing else.
//
// [Life] tells which of these it is, for each scope, and what a user agrees to follows from it.
//
// Everything here is pure: State in, State out; a refused record leaves the state as it was. The
// caller stores a new State durably before it acts on it. [C-revoke]
package consent

import (
	"cmp"
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
	Entries  Entries          // where Record, Off and a new device's Cert are in the log [L-2]
	Held     wire.Reason      // NewDevice or SIMChanged: why what was agreed to is not in force; 0: it is
	Erased   uint32           // issued_at of the newest certificate there was when the user was erased; 0: not erased
	Revision uint64
}

// WithCertificate accepts a certificate that the caller has verified. The stored one again changes
// nothing; an older one is refused with [wire.Revoked], one of another ID with [wire.BadRecord]; a
// newer one of another device voids the consent, and so an erased user begins anew. [P-5]
func (s State) WithCertificate(c wire.Certificate) (next State, changed bool, err error) {
	switch {
	case s.Off != nil && s.Off.ID != c.ID:
		return s, false, wire.BadRecord
	case s.Cert == nil && s.Erased != 0 && c.IssuedAt <= s.Erased:
		return s, false, wire.Revoked
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
	next.Cert, next.Erased = &c, 0
	if !sameDevice {
		next.Record, next.Off, next.Receipt, next.Entries, next.Held = nil, nil, wire.Receipt{}, Entries{}, s.heldBy(wire.NewDevice)
	}
	return next, true, nil
}

// heldBy is what holds the consent of a state back once why has come over it: nothing, where nothing was
// agreed to.
func (s State) heldBy(why wire.Reason) wire.Reason {
	switch {
	case s.Off != nil, s.Record != nil && s.Record.Scopes == 0:
		return 0
	case s.Record != nil, s.Held != 0:
		return why
	}
	return 0
}

// WithSIMChange suspends a device that says that its SIM is another: its number has to be proved anew, which
// ends in a new certificate. [wire.NotEnrolled] without a certificate.
func (s State) WithSIMChange() (next State, changed bool, err error) {
	if s.Cert == nil {
		return s, false, wire.NotEnrolled
	}
	next = s
	next.Held = wire.SIMChanged
	return next, s.Held != next.Held, nil
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
// certificate, or when the number has to be proved anew first; [wire.BadRecord], [wire.OutOfTime],
// [wire.StaleRecord] for a seq not above the stored one; [wire.WrongNotice] when something is agreed to
// after a text that p does not accept. A withdrawal is taken whatever the text. [P-6]
func (p Policy) WithRecord(s State, raw []byte, now time.Time) (next State, changed bool, err error) {
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
	same := s.Record != nil && *s.Record == r && s.Off == nil
	switch {
	case same && r.Scopes == 0:
		return s, false, nil
	case !same && r.Seq <= s.Seq:
		return s, false, cmp.Or(timely(r, now), error(wire.StaleRecord))
	case r.Scopes != 0 && s.Held == wire.SIMChanged:
		return s, false, wire.NotEnrolled
	case r.Scopes != 0 && !p.Accepts(r.Notice):
		return s, false, wire.WrongNotice
	case same:
		return s, false, nil
	}
	if err := timely(r, now); err != nil {
		return s, false, err
	}
	next = s
	next.Record, next.Seq, next.Off, next.Receipt, next.Held = &r, r.Seq, nil, wire.Receipt{}, s.lasting()
	next.Entries[EventRecord], next.Entries[EventRevocation] = Entry{}, Entry{}
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
// switch off, and its seq must be the stored one plus one. An erasure leaves of the user what keeps old
// certificates and records from coming back, and nothing else: 101 bytes. [P-7]
func (s State) WithRevocation(r wire.Revocation) (State, error) {
	if s.Cert == nil || r.ID != s.Cert.ID {
		return s, wire.NotEnrolled
	}
	if s.Seq == lastSeq || r.Seq != s.Seq+1 {
		return s, wire.StaleRecord
	}
	s.Off, s.Seq, s.Held, s.Entries[EventRevocation] = &r, r.Seq, s.lasting(), Entry{}
	if r.Cause == wire.CauseErasure {
		s.Erased = max(s.Cert.IssuedAt, 1)
		s.Cert, s.Record, s.Receipt, s.Held, s.Entries = nil, nil, wire.Receipt{}, 0, Entries{}
	}
	return s, nil
}

// lasting is what still holds a device back once its user has said something new.
func (s State) lasting() wire.Reason {
	if s.Held == wire.SIMChanged {
		return s.Held
	}
	return 0
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
	heldNewDevice
	heldSIMChanged
	hasErased
	hasEntries = 1 << 7
)

var holds = map[wire.Reason]byte{wire.NewDevice: heldNewDevice, wire.SIMChanged: heldSIMChanged}

// Marshal returns the stored form: version, what is there, gen, seq, then the records and their
// entries in the log; at most 463 bytes.
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
	if s.Erased != 0 {
		b[1] |= hasErased
		b = append(b, be32(s.Erased)...)
	}
	b[1] |= holds[s.Held]
	if s.Entries != (Entries{}) {
		b[1] |= hasEntries
		b = s.appendEntries(b)
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
	if len(b) < 10 || b[0] != stateVersion || !possible(b[1]) {
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
	if flags&hasErased != 0 {
		s.Erased = erasedAt(&r)
	}
	for why, bit := range holds {
		if flags&bit != 0 {
			s.Held = why
		}
	}
	if flags&hasEntries != 0 && r.err == nil {
		r.err, r.b = s.parseEntries(r.b), nil
	}
	if r.err != nil || len(r.b) != 0 {
		return State{}, fmt.Errorf("consent: stored state: %w", wire.ErrMalformed)
	}
	return s, nil
}

// possible reports whether flags are ones that Marshal writes: an erased user has a revocation and nothing
// else, a new device that is held back nothing but its certificate.
func possible(flags byte) bool {
	const is = hasCert | hasRecord | hasOff | heldNewDevice | heldSIMChanged
	switch {
	case flags&^(is|hasErased|hasEntries) != 0:
		return false
	case flags&hasErased != 0:
		return flags&is == hasOff
	case flags&heldNewDevice != 0:
		return flags&is == heldNewDevice|hasCert
	}
	return flags&heldSIMChanged == 0 || flags&hasCert != 0
}

// erasedAt reads what is never zero.
func erasedAt(r *reader) uint32 {
	u := field(r, 4, func(b []byte) (uint32, error) {
		if u32(b) == 0 {
			return 0, wire.ErrMalformed
		}
		return u32(b), nil
	})
	if u == nil {
		return 0
	}
	return *u
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
