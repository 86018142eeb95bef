package sms

import "fmt"

// Status is an SMPP command_status (SMPP 3.4 section 5.1.3). Zero value: accepted.
type Status uint32

// Class is what a status means for what happens next. Zero value: Accepted. [F-15]
type Class byte

// Classes.
const (
	Accepted  Class = iota
	Throttled       // the whole bind slows down, the part is sent again
	Retry           // this message again later, a limited number of times
	Rebind          // the session is of no use: bind anew, then again
	Refused         // the bind was refused: raise an alarm, bind again after a minute, jobs stay queued
	Permanent       // never again
)

// String is the class's name.
func (c Class) String() string {
	if c > Permanent {
		return "invalid"
	}
	return [...]string{"accepted", "throttled", "retry", "rebind", "refused", "permanent"}[c]
}

const statusOK Status = 0

// classes lists every status that is not permanent. [F-15]
var classes = map[Status]Class{
	statusOK: Accepted,
	0x58:     Throttled, // ESME_RTHROTTLED
	0x14:     Throttled, // ESME_RMSGQFUL
	0x08:     Retry,     // ESME_RSYSERR
	0x64:     Retry,     // ESME_RX_T_APPN
	0x45:     Retry,     // ESME_RSUBMITFAIL
	0x04:     Rebind,    // ESME_RINVBNDSTS
	0x0d:     Refused,   // ESME_RBINDFAIL
	0x0e:     Refused,   // ESME_RINVPASWD
	0x0f:     Refused,   // ESME_RINVSYSID
}

// Class is the status's class; a route's overrides come first. [F-15]
func (s Status) Class(overrides map[Status]Class) Class {
	if c, ok := overrides[s]; ok {
		return c
	}
	if c, ok := classes[s]; ok {
		return c
	}
	return Permanent
}

// String is the status in hexadecimal, as SMSC manuals list it.
func (s Status) String() string { return fmt.Sprintf("0x%02x", uint32(s)) }
