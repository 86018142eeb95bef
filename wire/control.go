package wire

import (
	"encoding/binary"
	"fmt"
)

// ControlKind is the first byte of a message on r, x, f, c or e.
type ControlKind byte

// Control messages. Requests on c, e and q begin with a request id (u16) before this byte; their
// answer on r carries the same id. [P-13]
const (
	CtlWelcome ControlKind = 0x51 // r: gen, tag, stored consent seq
	CtlUnread  ControlKind = 0x52 // x: message id
	CtlOutcome ControlKind = 0x53 // r: outcome of an SMS job
	CtlNextTag ControlKind = 0x54 // c: ask for the tag of a generation
	CtlAnswer  ControlKind = 0x55 // r: answer to a request
	CtlNotice  ControlKind = 0x56 // r: refusal or undeliverable, for MQTT 3.1.1
	CtlReason  ControlKind = 0x57 // r: why nothing goes to or from this device
	CtlSuspend ControlKind = 0x58 // c: the SIM is another
	CtlEnrol   ControlKind = 0x61 // e: enrolment request 1
	CtlConfirm ControlKind = 0x62 // e: enrolment request 2
	CtlRenew   ControlKind = 0x63 // e: certificate renewal

	CtlOff        ControlKind = 0x64 // e: switch a number off from another phone, request 1
	CtlOffConfirm ControlKind = 0x65 // e: the same, request 2
)

func badControl(what string) error { return fmt.Errorf("%w: not a %s", ErrMalformed, what) }

// Welcome is the first message on r: which tag this connection owns, and the seq of the consent
// record the broker holds. Shape: 18 bytes. [P-13]
type Welcome struct {
	Gen uint32
	Tag Tag
	Seq uint32
}

// Marshal returns the 18 bytes.
func (w Welcome) Marshal() []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(CtlWelcome)}, w.Gen)
	return binary.BigEndian.AppendUint32(append(b, w.Tag[:]...), w.Seq)
}

// ParseWelcome reads a Welcome.
func ParseWelcome(b []byte) (Welcome, error) {
	if len(b) != 18 || ControlKind(b[0]) != CtlWelcome {
		return Welcome{}, badControl("welcome")
	}
	return Welcome{Gen: binary.BigEndian.Uint32(b[1:]), Tag: Tag(b[5:14]), Seq: binary.BigEndian.Uint32(b[14:])}, nil
}

// Notice tells an MQTT 3.1.1 sender, just before the PUBACK of the same packet id, that the
// publish was refused or is undeliverable. Shape: 4 bytes. [C-1]
type Notice struct {
	PacketID uint16
	Code     Code
}

// Marshal returns the 4 bytes.
func (n Notice) Marshal() []byte {
	return append(binary.BigEndian.AppendUint16([]byte{byte(CtlNotice)}, n.PacketID), byte(n.Code))
}

// ParseNotice reads a Notice; an unknown code is malformed.
func ParseNotice(b []byte) (Notice, error) {
	if len(b) != 4 || ControlKind(b[0]) != CtlNotice || !Code(b[3]).Known() {
		return Notice{}, badControl("notice")
	}
	return Notice{PacketID: binary.BigEndian.Uint16(b[1:]), Code: Code(b[3])}, nil
}

// ByReason is a 2-byte control message about a reason: CtlReason on r, CtlSuspend on c.
func ByReason(kind ControlKind, r Reason) []byte { return []byte{byte(kind), byte(r)} }

// ParseByReason reads one; an unknown reason is malformed.
func ParseByReason(kind ControlKind, b []byte) (Reason, error) {
	if len(b) != 2 || ControlKind(b[0]) != kind || !Reason(b[1]).Known() {
		return 0, badControl("message about a reason")
	}
	return Reason(b[1]), nil
}

// MaxAnswerBody bounds the body of an answer, in bytes.
const MaxAnswerBody = 2048

// Answer is the reply to a request on c, e or q. [P-13]
type Answer struct {
	Request uint16
	Code    Code
	Body    []byte
}

// Marshal returns 4 bytes and the body.
func (a Answer) Marshal() []byte {
	b := binary.BigEndian.AppendUint16([]byte{byte(CtlAnswer)}, a.Request)
	return append(append(b, byte(a.Code)), a.Body...)
}

// ParseAnswer reads an Answer; Body aliases b.
func ParseAnswer(b []byte) (Answer, error) {
	if len(b) < 4 || len(b) > 4+MaxAnswerBody || ControlKind(b[0]) != CtlAnswer || !Code(b[3]).Known() {
		return Answer{}, badControl("answer")
	}
	return Answer{Request: binary.BigEndian.Uint16(b[1:]), Code: Code(b[3]), Body: b[4:]}, nil
}

// Request is a message on c, e or q: a request id, then the body. On c the body is a consent
// record, CtlNextTag ‖ gen or CtlSuspend ‖ reason; on e it begins with CtlEnrol, CtlConfirm, CtlRenew, CtlOff or CtlOffConfirm; on q it is a
// [LookupKind] and a blinded batch. [P-13]
type Request struct {
	ID   uint16
	Body []byte
}

// Marshal returns the id and the body.
func (r Request) Marshal() []byte { return append(binary.BigEndian.AppendUint16(nil, r.ID), r.Body...) }

// ParseRequest reads a Request; Body aliases b and has at least one byte.
func ParseRequest(b []byte) (Request, error) {
	if len(b) < 3 {
		return Request{}, badControl("request")
	}
	return Request{ID: binary.BigEndian.Uint16(b), Body: b[2:]}, nil
}

// LookupKind is the first byte of a look-up's body. The two kinds have separate quotas. [P-11]
type LookupKind byte

// LookupByUser is caused by the user opening a contact, LookupByHello by a hello that arrived.
const (
	LookupByUser  LookupKind = 0
	LookupByHello LookupKind = 1
)

// NextTagRequest is the body that asks for the tag of generation gen.
func NextTagRequest(gen uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(CtlNextTag)}, gen)
}

// ParseNextTagRequest reads the body of a next-tag request.
func ParseNextTagRequest(b []byte) (gen uint32, err error) {
	if len(b) != 5 || ControlKind(b[0]) != CtlNextTag {
		return 0, badControl("next-tag request")
	}
	return binary.BigEndian.Uint32(b[1:]), nil
}

// ByMessageID is a 17-byte control message about one payload: CtlUnread on x, TypeCancel on f.
func ByMessageID(kind byte, id MessageID) []byte { return append([]byte{kind}, id[:]...) }

// ParseByMessageID reads a 17-byte control message of the kind given.
func ParseByMessageID(kind byte, b []byte) (MessageID, error) {
	if len(b) != 17 || b[0] != kind {
		return MessageID{}, badControl("message about a message id")
	}
	return MessageID(b[1:]), nil
}

// JobState is where an SMS job is. Zero value: unknown to the sender yet (queued). [F-7]
type JobState byte

// States of an SMS job. Those from JobDelivered on are final.
const (
	JobQueued        JobState = 0
	JobSubmitted     JobState = 1 // the SMSC answered; the text is an SMS now
	JobDelivered     JobState = 2 // the SMSC's receipt says so
	JobUndeliverable JobState = 3
	JobExpired       JobState = 4
	JobRejected      JobState = 5
	JobNoReceipt     JobState = 6 // submitted, and no receipt within validity + 1 h
	JobFailed        JobState = 7
	JobUnknown       JobState = 8 // written to the SMSC, and no answer: perhaps sent
	JobSuppressed    JobState = 9 // the recipient said STOP
	JobCapped        JobState = 10
	JobCancelled     JobState = 11
	JobSimulated     JobState = 12 // the console transport printed it: no SMS was sent
)

var jobStates = [...]string{
	"queued", "submitted", "delivered", "undeliverable", "expired", "rejected", "no_receipt",
	"failed", "unknown", "suppressed", "capped", "cancelled", "simulated",
}

// Known reports whether s is in the closed set.
func (s JobState) Known() bool { return int(s) < len(jobStates) }

// Final reports whether no further state follows.
func (s JobState) Final() bool { return s >= JobDelivered && s.Known() }

// String is the state's name in events and logs.
func (s JobState) String() string {
	if s.Known() {
		return jobStates[s]
	}
	return "invalid"
}

// Outcome tells a sender where its SMS job is. Shape: 18 bytes. [F-7]
type Outcome struct {
	Message MessageID
	State   JobState
}

// Marshal returns the 18 bytes.
func (o Outcome) Marshal() []byte {
	return append(append([]byte{byte(CtlOutcome)}, o.Message[:]...), byte(o.State))
}

// ParseOutcome reads an Outcome.
func ParseOutcome(b []byte) (Outcome, error) {
	if len(b) != 18 || ControlKind(b[0]) != CtlOutcome || !JobState(b[17]).Known() {
		return Outcome{}, badControl("job outcome")
	}
	return Outcome{Message: MessageID(b[1:17]), State: JobState(b[17])}, nil
}
