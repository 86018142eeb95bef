package registrar

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/envelope"
	"bluejay/wire"
)

const offTail = " switches Bluejay off for this number. If you did not ask, ignore this."

// askOff sends the first request of a phone that wants p's number off, and returns its nonce.
func (o *office) askOff(t *testing.T, n wire.Number) (wire.Code, [16]byte, []byte) {
	t.Helper()
	body, nonce, err := envelope.SealOff(o.cfg.Secret.Public(), n)
	if err != nil {
		t.Fatal(err)
	}
	req := append(bytes.Clone(place), body...)
	got := o.HandleEnrol(t.Context(), req)
	if len(got) != 1 {
		t.Fatalf("an answer of %d bytes", len(got))
	}
	return wire.Code(got[0]), nonce, req
}

func (o *office) confirmOff(t *testing.T, otp string, nonce [16]byte) wire.Code {
	t.Helper()
	body, err := envelope.SealOffConfirm(o.cfg.Secret.Public(), otp, nonce)
	if err != nil {
		t.Fatal(err)
	}
	got := o.HandleEnrol(t.Context(), append(bytes.Clone(place), body...))
	if len(got) != 1 {
		t.Fatalf("an answer of %d bytes", len(got))
	}
	return wire.Code(got[0])
}

// TestOffByAnotherPhone: the password that came to the number switches it off, once, from whichever phone
// asked, with cause 2; nothing else does, and it is good for nothing else. [A-4] [P-7]
func TestOffByAnotherPhone(t *testing.T) {
	o, s, n, id := stopped(t)
	owner := &phone{number: n}
	code, nonce, req := o.askOff(t, n)
	if code != wire.OK {
		t.Fatal(code)
	}
	if again := o.HandleEnrol(t.Context(), req); wire.Code(again[0]) != wire.OK || len(o.jobs.sent) != 1 {
		t.Errorf("the same request again: %x, %d SMS", again, len(o.jobs.sent))
	}
	otp := o.otpIn(t, owner, offTail)
	if code := o.confirmOff(t, wrong(otp), nonce); code != wire.WrongPassword {
		t.Errorf("a wrong password: %v", code)
	}
	if code := o.confirmOff(t, otp, [16]byte{1}); code != wire.PasswordGone {
		t.Errorf("somebody else's request: %v", code)
	}
	enrols := newPhone(t, n.E164())
	enrols.nonce = nonce
	if code, _ := o.confirm(t, enrols, otp); code != wire.PasswordGone {
		t.Errorf("the password for a certificate: %v", code)
	}
	if len(s.got) != 0 {
		t.Fatalf("switched off before the right password")
	}
	for _, want := range []wire.Code{wire.OK, wire.PasswordGone} {
		if code := o.confirmOff(t, otp, nonce); code != want {
			t.Errorf("the right password: %v, want %v", code, want)
		}
	}
	if len(s.got) != 1 || s.got[0].ID != id || s.got[0].Seq != 42 || s.got[0].Cause != wire.CausePhone {
		t.Errorf("%+v", s.got)
	}
	if log := o.logged.String(); strings.Contains(log, "7700900123") || strings.Contains(log, id.String()) || strings.Contains(log, otp) {
		t.Errorf("log: %s", log)
	}
}

// TestOffEnds: five wrong tries or five minutes end it, and the quotas are those of enrolment, shared with
// it; whether anybody has enrolled makes no difference. [A-4] [P-14]
func TestOffEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, s, n, _ := stopped(t)
		owner, stranger := &phone{number: n}, newPhone(t, "+447700900999")
		_, nonce, _ := o.askOff(t, n)
		otp := o.otpIn(t, owner, offTail)
		for i := range passwordTries {
			want := wire.WrongPassword
			if i == passwordTries-1 {
				want = wire.PasswordGone
			}
			if code := o.confirmOff(t, wrong(otp), nonce); code != want {
				t.Errorf("wrong try %d: %v", i+1, code)
			}
		}
		_, nonce, _ = o.askOff(t, n)
		otp = o.otpIn(t, owner, offTail)
		<-time.After(passwordLife)
		if code := o.confirmOff(t, otp, nonce); code != wire.PasswordGone {
			t.Errorf("after five minutes: %v", code)
		}
		var got []wire.Code
		got = append(got, o.ask(t, newPhone(t, n.E164())))
		code, _, _ := o.askOff(t, n)
		got = append(got, code)
		code, nonce, _ = o.askOff(t, stranger.number)
		got = append(got, code, o.confirmOff(t, o.otpIn(t, stranger, offTail), nonce))
		if diff := cmp.Diff([]wire.Code{wire.OK, wire.OverQuota, wire.OK, wire.OK}, got); diff != "" || len(s.got) != 0 {
			t.Errorf("codes, %d revocations (-want +got):\n%s", len(s.got), diff)
		}
	})
}

// TestOffWithoutTheBroker: what cannot be carried out now leaves the password good.
func TestOffWithoutTheBroker(t *testing.T) {
	o, s, n, _ := stopped(t)
	_, nonce, _ := o.askOff(t, n)
	otp := o.otpIn(t, &phone{number: n}, offTail)
	s.err = wire.Unavailable
	if code := o.confirmOff(t, otp, nonce); code != wire.Unavailable {
		t.Errorf("the broker is away: %v", code)
	}
	s.err = nil
	if code := o.confirmOff(t, otp, nonce); code != wire.OK || len(s.got) != 1 {
		t.Errorf("the broker is back: %v", code)
	}
	o.key = wire.WorkerKey{}
	if code, _, _ := o.askOff(t, n); code != wire.Unavailable {
		t.Errorf("no SMS worker: %v", code)
	}
	o.jobs.err = wire.QueueFull
	for what, req := range map[string][]byte{"short": append(bytes.Clone(place), byte(wire.CtlOff), 1), "short password": append(bytes.Clone(place), byte(wire.CtlOffConfirm))} {
		if got := o.HandleEnrol(t.Context(), req); !bytes.Equal(got, answer(wire.BadRecord)) {
			t.Errorf("%s: %x", what, got)
		}
	}
}

// TestOffByOperator: the operator's and an erasure's revocation, with the seq; a stranger's number has the
// same shape; the other causes are not the operator's to give. [A-5] [P-7]
func TestOffByOperator(t *testing.T) {
	o, s, n, id := stopped(t)
	off := func(cause wire.Cause, n wire.Number) []byte {
		return o.HandleOff(t.Context(), append([]byte{byte(cause)}, sealed(t, o, n)...))
	}
	for i, cause := range []wire.Cause{wire.CauseOperator, wire.CauseErasure} {
		seq := uint32(42 + i)
		if got := off(cause, n); !bytes.Equal(got, binary.BigEndian.AppendUint32(answer(wire.OK), seq)) {
			t.Errorf("cause %d: %x", cause, got)
		}
		if r := s.got[i]; r.ID != id || r.Cause != cause || r.Seq != seq {
			t.Errorf("%+v", r)
		}
	}
	if got := off(wire.CauseOperator, newPhone(t, "+447700900999").number); !bytes.Equal(got, append(answer(wire.OK), 0, 0, 0, 0)) {
		t.Errorf("a stranger: %x", got)
	}
	for _, cause := range []wire.Cause{0, wire.CauseStop, wire.CausePhone, 5} {
		if got := off(cause, n); !bytes.Equal(got, answer(wire.BadRecord)) {
			t.Errorf("cause %d: %x", cause, got)
		}
	}
	for what, req := range map[string][]byte{"nothing": nil, "no number": {3}, "not sealed": append([]byte{3}, make([]byte, 1144)...)} {
		if got := o.HandleOff(t.Context(), req); !bytes.Equal(got, answer(wire.BadRecord)) {
			t.Errorf("%s: %x", what, got)
		}
	}
	s.err = wire.Unavailable
	if got := off(wire.CauseOperator, n); !bytes.Equal(got, answer(wire.Unavailable)) {
		t.Errorf("the broker is away: %x", got)
	}
}
