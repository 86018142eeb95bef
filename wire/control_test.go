package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

var someMessage = MessageIDOf([]byte("abc"))

// control is one kind of control message, as bytes and as what writes back what was read.
type control struct {
	name   string
	bytes  []byte
	reread func([]byte) ([]byte, error)
}

// controls are all control messages. [P-13]
func controls() []control {
	byID := func(kind byte) func([]byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) {
			id, err := ParseByMessageID(kind, b)
			return ByMessageID(kind, id), err
		}
	}
	byReason := func(kind ControlKind) func([]byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) {
			r, err := ParseByReason(kind, b)
			return ByReason(kind, r), err
		}
	}
	return []control{
		{"reason", ByReason(CtlReason, NewNotice), byReason(CtlReason)},
		{"suspend", ByReason(CtlSuspend, SIMChanged), byReason(CtlSuspend)},
		{"welcome", Welcome{Gen: 5, Tag: someTag, Seq: 41}.Marshal(), again(ParseWelcome, Welcome.Marshal)},
		{"cannot read", ByMessageID(byte(CtlUnread), someMessage), byID(byte(CtlUnread))},
		{"cancel", ByMessageID(TypeCancel, someMessage), byID(TypeCancel)},
		{"outcome", Outcome{someMessage, JobDelivered}.Marshal(), again(ParseOutcome, Outcome.Marshal)},
		{"next tag", NextTagRequest(6), again(ParseNextTagRequest, NextTagRequest)},
		{"answer", Answer{0x0102, OverQuota, []byte("body")}.Marshal(), again(ParseAnswer, Answer.Marshal)},
		{"notice", Notice{0x0102, NoRecipient}.Marshal(), again(ParseNotice, Notice.Marshal)},
		{"request", Request{0x0102, []byte{byte(LookupByHello), 1}}.Marshal(), again(ParseRequest, Request.Marshal)},
	}
}

// TestControlRoundTrip: each control message reads back as itself; its bytes are frozen. [P-13] [P-11]
// [F-7] [C-1]
func TestControlRoundTrip(t *testing.T) {
	frozenHex := map[string]string{}
	for _, c := range controls() {
		if got, err := c.reread(c.bytes); err != nil || !bytes.Equal(got, c.bytes) {
			t.Errorf("%s came back as %x, %v", c.name, got, err)
		}
		frozenHex[c.name] = hex.EncodeToString(c.bytes)
	}
	frozen(t, "testdata/control.json", frozenHex)
}

// TestControlRefuse: no other length, no other kind. [P-13]
func TestControlRefuse(t *testing.T) {
	for _, c := range controls() {
		open := c.name == "answer" || c.name == "request" // these end where the payload ends
		for n := range c.bytes {
			if open && n >= 4 || c.name == "request" && n == 3 {
				continue
			}
			if _, err := c.reread(c.bytes[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %d of %d bytes read: %v", c.name, n, len(c.bytes), err)
			}
		}
		if _, err := c.reread(append(bytes.Clone(c.bytes), 0)); !open && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: one byte more is read: %v", c.name, err)
		}
		for kind := range 256 {
			b := bytes.Clone(c.bytes)
			b[0] = byte(kind)
			if _, err := c.reread(b); c.name != "request" && (err == nil) != (b[0] == c.bytes[0]) {
				t.Errorf("%s reads as kind %02x: %v", c.name, kind, err)
			}
		}
	}
	if _, err := ParseAnswer(Answer{Body: make([]byte, MaxAnswerBody+1)}.Marshal()); !errors.Is(err, ErrMalformed) {
		t.Errorf("an answer over its limit: %v", err)
	}
	if _, err := ParseAnswer(Answer{Body: make([]byte, MaxAnswerBody)}.Marshal()); err != nil {
		t.Errorf("an answer at its limit: %v", err)
	}
}

// TestControlCodes: codes and states that are not in the closed sets are refused. [P-20] [F-7]
func TestControlCodes(t *testing.T) {
	for c := range 256 {
		_, err := ParseNotice(Notice{1, Code(c)}.Marshal())
		if (err == nil) != Code(c).Known() {
			t.Errorf("notice with code %02x: %v", c, err)
		}
		_, err = ParseAnswer(Answer{1, Code(c), nil}.Marshal())
		if (err == nil) != Code(c).Known() {
			t.Errorf("answer with code %02x: %v", c, err)
		}
		_, err = ParseOutcome(Outcome{someMessage, JobState(c)}.Marshal())
		if (err == nil) != JobState(c).Known() {
			t.Errorf("outcome %d: %v", c, err)
		}
	}
}

// TestReasons: a closed set, each with a text of its own.
func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for i := range 256 {
		r := Reason(i)
		if _, err := ParseByReason(CtlReason, ByReason(CtlReason, r)); (err == nil) != r.Known() {
			t.Errorf("reason %d: %v", i, err)
		}
		if r.Known() && seen[r.String()] {
			t.Errorf("reason %d says what another says", i)
		}
		seen[r.String()] = true
	}
	if len(seen) != 10 || Reason(0).Known() { // "" is what is none
		t.Errorf("%d texts", len(seen))
	}
}

// TestVersions: a user name says what a device was made for, in one way only.
func TestVersions(t *testing.T) {
	for name, want := range map[string]int{"bj1": 1, Protocol: Version, "bj255": 255, "bj0": 0, "bj01": 0, "bj+1": 0, "bj256": 0, "bj": 0, "": 0, "BJ1": 0, "bj1 ": 0} {
		if got, ok := ParseProtocol(name); got != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v", name, got, ok)
		}
	}
}

// TestJobStates: thirteen states, and from which on nothing follows. [F-7]
func TestJobStates(t *testing.T) {
	seen := map[string]bool{}
	for s := range JobState(255) {
		if s.Known() {
			if seen[s.String()] || s.String() == "invalid" {
				t.Errorf("state %d shares its name %q", s, s)
			}
			seen[s.String()] = true
		} else if s.String() != "invalid" || s.Final() {
			t.Errorf("state %d is %q", s, s)
		}
	}
	if len(seen) != 13 || JobQueued.Final() || JobSubmitted.Final() || !JobDelivered.Final() || !JobSimulated.Final() {
		t.Errorf("%d states", len(seen))
	}
}

func FuzzControl(f *testing.F) {
	all := controls()
	for _, c := range all {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range all {
			if got, err := c.reread(b); err == nil && !bytes.Equal(got, b) {
				t.Errorf("%s: %x came back as %x", c.name, b, got)
			}
		}
	})
}
