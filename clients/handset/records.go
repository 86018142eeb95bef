package handset

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// Keys of the state log. A value is JSON unless said otherwise.
const (
	keySelf    = "self"
	keyPlace   = "place"    // raw: place
	keyContact = "contact/" // + %08x: contactRecord
	keyText    = "text/"    // + %016x: textRecord
	keySession = "session/" // + %04x: sessionRecord
	keyPrekey  = "prekey/"  // + %04x: raw, envelope.Prekey
	keyHello   = "hello/"   // + hash of an accepted INIT: helloRecord
	keySeen    = "seen/"    // + where a shown text was sealed: seenRecord
	keyProof   = "proof/"   // + %08x, seq: raw, certificate, consent record and receipt
	keyEntry   = "entry/"   // + %08x, seq: raw, where that record is in the log
	keyID      = "id/"      // + number as packed: raw, its ID, cached for ever
)

// selfRecord is who this handset is and what its user agreed to.
type selfRecord struct {
	Number     []byte     // packed
	Device     []byte     // Ed25519 seed
	Pending    *enrolment `json:",omitempty"`
	Cert       []byte     `json:",omitempty"`
	Gen        uint32
	Synced     bool   // the broker has welcomed this device: a higher gen is now a sign of rollback
	Seq        uint32 // of the newest consent record
	Record     []byte `json:",omitempty"` // that record, if this device signed it
	Proved     bool   // its receipt is stored
	On         bool   // consent is in force, as far as this handset knows
	Gateway    bool   // scope 2
	Listed     bool
	NoticeHash []byte
	Reason     wire.Reason `json:",omitempty"` // why what was agreed to is not in force
	TellSIM    bool        `json:",omitempty"` // the broker does not know yet that the SIM is another
	Visible    VisibleTo
	Rotate     bool // a new tag is wanted
	Contacts   uint32
	Texts      uint64
	Prekeys    uint16
	Published  uint16 // the prekey that is published
}

// enrolment is one that waits for its one-time password.
type enrolment struct {
	Number []byte // packed
	Device []byte // Ed25519 seed
	Nonce  []byte
	Notice []byte // hash of what the user accepted
}

// contactRecord is a contact and how far a hello to it has come.
type contactRecord struct {
	ID        ContactID
	Name      string
	Number    []byte `json:",omitempty"` // packed
	Dialled   string `json:",omitempty"` // of what is never looked up
	Peer      []byte `json:",omitempty"` // its ID, once looked up
	Device    []byte `json:",omitempty"` // the device key accepted, and when it was certified
	Issued    uint32
	Changed   []byte `json:",omitempty"` // a certificate not accepted yet [U-5]
	Blocked   bool
	Mode      fallback.Mode
	Hello     *outgoingHello `json:",omitempty"`
	LastInit  time.Time      // when the newest INIT was made
	KnownGrey bool           // a hello went unanswered: new texts do not wait for another
}

// outgoingHello is an INIT without a RESP yet. The same bytes are repeated. [U-8]
type outgoingHello struct {
	RID      uint16
	Bundle   []byte
	Init     []byte
	Text     TextID // inside; 0: the empty frame
	NotAfter time.Time
	First    time.Time
	Repeats  int  // of the schedule
	Taken    bool // the broker has taken it
}

// textRecord is a text, and for one that goes out where custody of it is.
type textRecord struct {
	ID        TextID
	Contact   ContactID
	Out       bool
	Body      string
	At        time.Time
	State     State
	Path      fallback.Path
	Parts     int
	Why       fallback.Why
	Offers    []fallback.Path `json:",omitempty"`
	AlsoSMS   bool
	Cancelled bool

	ShownBlue bool          // the icon was blue when the user pressed send
	Forced    fallback.Path // the user's own choice
	Sealed    []byte        `json:",omitempty"` // the MSG; a resend is these bytes
	RID       uint16        // the session of Sealed, or of the hello it is in
	Pos       envelope.Position
	Ref       *envelope.AgainRef `json:",omitempty"` // where it was sealed first
	Writing   bool               // the SIM has been given it, and has not said
	Job       []byte             `json:",omitempty"`
	JobID     []byte             `json:",omitempty"`
	JobUntil  time.Time
	Queued    bool // the fallback queue holds the job
	JobState  wire.JobState

	FromSMS  bool   // came in as an SMS
	FoldedIn TextID // an SMS shown as part of this IP text
}

// sessionRecord is a session and whose it is.
type sessionRecord struct {
	Contact ContactID
	Begun   time.Time
	Until   time.Time // zero: current; else receive-only, and dropped then
	Dead    bool      // the peer cannot read it: nothing more is sealed in it
	State   []byte    // secret
}

// helloRecord is an accepted INIT: the same INIT gets the same RESP.
type helloRecord struct {
	RID    uint16
	Prekey uint16
	Resp   []byte
	Tag    wire.Tag // where the RESP went
}

// seenRecord remembers for 30 days that a text was shown.
type seenRecord struct{ At time.Time }

// errState reports a record of the log that this version cannot read.
var errState = errors.New("handset: a stored record does not decode; this state was written by another version")

func contactKey(id ContactID) string { return fmt.Sprintf("%s%08x", keyContact, uint32(id)) }
func textKey(id TextID) string       { return fmt.Sprintf("%s%016x", keyText, uint64(id)) }
func sessionKey(rid uint16) string   { return fmt.Sprintf("%s%04x", keySession, rid) }
func prekeyKey(id uint16) string     { return fmt.Sprintf("%s%04x", keyPrekey, id) }
func helloKey(h [32]byte) string     { return keyHello + hex.EncodeToString(h[:16]) }
func proofKey(seq uint32) string     { return fmt.Sprintf("%s%08x", keyProof, seq) }
func entryKey(seq uint32) string     { return fmt.Sprintf("%s%08x", keyEntry, seq) }

func seenKey(r envelope.AgainRef) string {
	return fmt.Sprintf("%s%x-%02x-%04x", keySeen, r.TH, r.Epoch, r.N)
}

func idKey(n wire.Number) string {
	b := n.BCD()
	return keyID + hex.EncodeToString(b[:])
}

// numberOf reads a packed number; anything else is the zero Number.
func numberOf(b []byte) wire.Number {
	if len(b) != 8 {
		return wire.Number{}
	}
	n, err := wire.NumberFromBCD([8]byte(b))
	if err != nil {
		return wire.Number{}
	}
	return n
}

func packed(n wire.Number) []byte {
	b := n.BCD()
	return b[:]
}

// device is the device key; nil before enrolment.
func (r *selfRecord) device() ed25519.PrivateKey {
	if len(r.Device) != ed25519.SeedSize {
		return nil
	}
	return ed25519.NewKeyFromSeed(r.Device)
}

// cert is the certificate; ok is false before enrolment is complete.
func (r *selfRecord) cert() (c wire.Certificate, ok bool) {
	c, err := wire.ParseCertificate(r.Cert)
	return c, err == nil
}

// peer is the contact's ID; zero before it was looked up.
func (r *contactRecord) peer() wire.ID {
	if len(r.Peer) != len(wire.ID{}) {
		return wire.ID{}
	}
	return wire.ID(r.Peer)
}

// readInto decodes every record under a prefix.
func readInto[T any](state map[string][]byte, prefix string, each func(key string, r T) error) error {
	for k, v := range state {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		var r T
		if err := json.Unmarshal(v, &r); err != nil {
			return errState
		}
		if err := each(rest, r); err != nil {
			return err
		}
	}
	return nil
}
