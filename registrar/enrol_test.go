package registrar

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/envelope"
	"bluejay/wire"
)

const (
	number1 = "+447700900123"
	number2 = "+447700900124"
)

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

// TestEnrol: [P-14] a number, a password, a certificate; then nothing of it is left.
func TestEnrol(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, p := newOffice(t), newPhone(t, number1)
		c := o.enrol(t, p)
		if got := time.Duration(c.LifetimeHours) * time.Hour; got < reproof-2*day || got > reproof {
			t.Errorf("lifetime %v, want about %v", got, reproof)
		}
		if len(o.pending) != 0 {
			t.Errorf("%d attempts held after success", len(o.pending))
		}
		if code, _ := o.confirm(t, p, o.otp(t, p)); code != wire.PasswordGone {
			t.Errorf("the password again: %v, want PasswordGone", code)
		}
		want := Count{
			Enrolments: [3]Epoch{epoch(time.Now())}, Issued: wire.Unix32(time.Now()), Device: deviceHash(p.device()),
		}
		if diff := cmp.Diff(want, o.counts.counts[c.ID]); diff != "" {
			t.Errorf("stored (-want +got):\n%s", diff)
		}
	})
}

// TestPasswordEnds: [P-14] five tries, five minutes, one device, one nonce.
func TestPasswordEnds(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, o *office, p *phone, otp string)
		want  wire.Code
	}{
		{"at once", func(*testing.T, *office, *phone, string) {}, wire.OK},
		{"four wrong tries", tries(4), wire.OK},
		{"five wrong tries", tries(5), wire.PasswordGone},
		{"just in time", wait(passwordLife - time.Second), wire.OK},
		{"five minutes", wait(passwordLife), wire.PasswordGone},
		{"another device", func(t *testing.T, _ *office, p *phone, _ string) { p.key = newPhone(t, number1).key }, wire.PasswordGone},
		{"another nonce", func(_ *testing.T, _ *office, p *phone, _ string) { p.nonce[0]++ }, wire.PasswordGone},
		{"used already", func(t *testing.T, o *office, p *phone, otp string) { o.confirm(t, p, otp) }, wire.PasswordGone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				o, p := newOffice(t), newPhone(t, number1)
				o.ask(t, p)
				otp := o.otp(t, p)
				tt.spoil(t, o, p, otp)
				if code, _ := o.confirm(t, p, otp); code != tt.want {
					t.Errorf("got %v, want %v", code, tt.want)
				}
				<-time.After(passwordLife) // virtual
				o.admit(token{}, [16]byte{}, p.number, attempt{})
				if len(o.pending) != 1 || len(o.order) != 1 {
					t.Errorf("%d attempts and %d dates held, want only the last one", len(o.pending), len(o.order))
				}
			})
		})
	}
}

func tries(n int) func(*testing.T, *office, *phone, string) {
	return func(t *testing.T, o *office, p *phone, otp string) {
		for i := range n {
			want := wire.WrongPassword
			if i == passwordTries-1 {
				want = wire.PasswordGone
			}
			if code, _ := o.confirm(t, p, wrong(otp)); code != want {
				t.Errorf("wrong try %d: %v, want %v", i+1, code, want)
			}
		}
	}
}

func wait(d time.Duration) func(*testing.T, *office, *phone, string) {
	return func(*testing.T, *office, *phone, string) { <-time.After(d) }
}

// TestAskAgain: a resend of request 1 sends no second SMS; a new request does, under quota.
func TestAskAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, p := newOffice(t), newPhone(t, number1)
		o.ask(t, p)
		for range 10 {
			if code := o.again(t, p); code != wire.OK {
				t.Fatalf("resend: %v", code)
			}
		}
		if n := len(o.jobs.sent); n != 1 {
			t.Errorf("%d SMS for one request", n)
		}
		var got []wire.Code
		for range 3 {
			got = append(got, o.ask(t, p))
		}
		<-time.After(time.Hour)
		for range 4 {
			got = append(got, o.ask(t, p))
		}
		<-time.After(2 * time.Hour)
		got = append(got, o.ask(t, p)) // the day's six are used up
		<-time.After(day)
		got = append(got, o.ask(t, p))
		ok, over := wire.OK, wire.OverQuota
		if diff := cmp.Diff([]wire.Code{ok, ok, over, ok, ok, ok, over, over, ok}, got); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
	})
}

// TestPlaceQuota: [P-14] one network address cannot have SMS sent to many numbers.
func TestPlaceQuota(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o := newOffice(t, func(c *Config) { c.Quotas.HourlyPlace = 2 })
		ask := func(i int) wire.Code { return o.ask(t, newPhone(t, fmt.Sprintf("+44770090%04d", i))) }
		got := []wire.Code{ask(1), ask(2), ask(3)}
		place[0]++
		got = append(got, ask(4))
		place[0]--
		if diff := cmp.Diff([]wire.Code{wire.OK, wire.OK, wire.OverQuota, wire.OK}, got); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
	})
}

// TestPendingIsBounded: memory does not grow with requests.
func TestPendingIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o := newOffice(t, func(c *Config) { c.Quotas.Pending = 2 })
		p := newPhone(t, number1)
		first := o.ask(t, p)
		second := o.ask(t, newPhone(t, number2))
		third := o.ask(t, newPhone(t, "+447700900125"))
		if diff := cmp.Diff([]wire.Code{wire.OK, wire.OK, wire.Unavailable}, []wire.Code{first, second, third}); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
		<-time.After(passwordLife)
		if code := o.ask(t, newPhone(t, "+447700900125")); code != wire.OK {
			t.Errorf("after the others expired: %v", code)
		}
		m := newMeter(time.Hour, 1)
		for i := range meterKeys + 10 {
			if k := o.keyed(fmt.Sprint(i)); m.has(time.Now(), k) {
				m.take(k)
			}
		}
		if len(m.used) != meterKeys {
			t.Errorf("a meter of %d keys", len(m.used))
		}
	})
}

// TestMonthlyEnrolments: [P-11] three a month for one ID, over all devices.
func TestMonthlyEnrolments(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o := newOffice(t)
		var last *wire.Certificate
		for range 3 {
			c := o.enrol(t, newPhone(t, number1))
			if last != nil && c.IssuedAt <= last.IssuedAt {
				t.Errorf("issued at %d after %d: the newest must win", c.IssuedAt, last.IssuedAt)
			}
			last = c
			<-time.After(5 * day)
		}
		sent := len(o.jobs.sent)
		if code := o.ask(t, newPhone(t, number1)); code != wire.OverQuota || len(o.jobs.sent) != sent {
			t.Errorf("the fourth in a month: %v, %d SMS", code, len(o.jobs.sent)-sent)
		}
		o.enrol(t, newPhone(t, number2))
		<-time.After(15 * day)
		o.enrol(t, newPhone(t, number1))
	})
}

// TestEnrolTwiceInOneSecond: the second certificate is newer all the same. [P-5]
func TestEnrolTwiceInOneSecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o := newOffice(t)
		a, b := o.enrol(t, newPhone(t, number1)), o.enrol(t, newPhone(t, number1))
		if b.IssuedAt != a.IssuedAt+1 {
			t.Errorf("issued at %d, then %d", a.IssuedAt, b.IssuedAt)
		}
	})
}

// TestOutages: a part that is down costs neither a quota nor a password that was right.
func TestOutages(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, p := newOffice(t), newPhone(t, number1)
		o.counts.down = true
		before := o.ask(t, p)
		o.counts.down = false
		key := o.key
		o.key = wire.WorkerKey{}
		noKey := o.ask(t, p)
		o.key = key
		o.key.Sig[0]++
		forged := o.ask(t, p)
		o.key = key
		o.jobs.err = wire.QueueFull
		full := o.ask(t, p)
		o.jobs.err = nil
		again := o.again(t, p)
		for i, code := range []wire.Code{before, noKey, forged, full} {
			if code != wire.Unavailable {
				t.Errorf("outage %d: %v, want Unavailable", i, code)
			}
		}
		if again != wire.OK {
			t.Fatalf("the same request afterwards: %v", again)
		}
		otp := o.otp(t, p)
		o.counts.down = true
		if code, _ := o.confirm(t, p, otp); code != wire.Unavailable {
			t.Errorf("confirm without a store: %v", code)
		}
		o.counts.down = false
		o.counts.conflicts = 2
		if code, _ := o.confirm(t, p, otp); code != wire.OK {
			t.Errorf("confirm afterwards: %v", code)
		}
	})
}

// TestConfirmRace: [P-14] a password that arrives many times at once makes one certificate.
func TestConfirmRace(t *testing.T) {
	o, p := newOffice(t), newPhone(t, number1)
	o.ask(t, p)
	otp := o.otp(t, p)
	var wg sync.WaitGroup
	codes := make([]wire.Code, 8)
	for i := range codes {
		wg.Go(func() { codes[i], _ = o.confirm(t, p, otp) })
	}
	wg.Wait()
	won := 0
	for _, c := range codes {
		if c == wire.OK {
			won++
		} else if c != wire.PasswordGone {
			t.Errorf("loser: %v", c)
		}
	}
	if won != 1 {
		t.Errorf("%d certificates for one password", won)
	}
}

// TestRenew: [P-14] the device enrolled last renews with its key alone, until 180 days.
func TestRenew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, p := newOffice(t, func(c *Config) { c.CertLifetime = 30 * day }), newPhone(t, number1)
		first := o.enrol(t, p)
		if got := o.renewal(t, p, first); !bytes.Equal(got[1:], first.Marshal()) {
			t.Error("a renewal on the first day should give the same certificate")
		}
		<-time.After(40 * day)
		got := o.renewal(t, p, first) // it expired, the device is still the last
		second := o.certificate(t, p, got[1:])
		if again := o.renewal(t, p, first); !bytes.Equal(again, got) {
			t.Error("a renewal whose answer was lost should give the same certificate")
		}
		<-time.After(130 * day)
		third := o.certificate(t, p, o.renewal(t, p, second)[1:])
		if left := time.Until(third.NotAfter()); left > 10*day {
			t.Errorf("valid for %v more: longer than the number's proof", left)
		}
		<-time.After(10 * day)
		if got := o.renewal(t, p, third); wire.Code(got[0]) != wire.NotEnrolled || len(got) != 1 {
			t.Errorf("after 180 days: %v, want NotEnrolled", wire.Code(got[0]))
		}
	})
}

// TestRenewRefuses: an older device, another's signature, a certificate of another registrar.
func TestRenewRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		o, p, q := newOffice(t), newPhone(t, number1), newPhone(t, number1)
		old := o.enrol(t, p)
		forged := *old
		forged.Device = q.device()
		if got := o.renewal(t, q, old); wire.Code(got[0]) != wire.BadRecord {
			t.Errorf("signed by another device: %v", wire.Code(got[0]))
		}
		if got := o.renewal(t, q, &forged); wire.Code(got[0]) != wire.BadRecord {
			t.Errorf("a certificate that the registrar did not sign: %v", wire.Code(got[0]))
		}
		o.enrol(t, q)
		if got := o.renewal(t, p, old); wire.Code(got[0]) != wire.Revoked {
			t.Errorf("the device before the last: %v, want Revoked", wire.Code(got[0]))
		}
	})
}

// TestNothingIsSaid: [P-14] [F-8] no number, password or ID in the log, whatever happens.
func TestNothingIsSaid(t *testing.T) {
	o, p := newOffice(t), newPhone(t, number1)
	o.ask(t, p)
	otp := o.otp(t, p)
	o.confirm(t, p, wrong(otp))
	_, c := o.confirm(t, p, otp)
	o.renewal(t, p, c)
	o.jobs.err = errors.New("a transport that says " + number2)
	o.ask(t, newPhone(t, number2))
	o.HandleSign(t.Context(), unsignedKey(o))
	text := o.logged.String()
	for _, secret := range []string{number1[3:], number2[3:], otp, c.ID.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("the log shows a secret:\n%s", text)
		}
	}
	if strings.Count(text, "audit: signed a certificate") != 2 || strings.Count(text, "audit: signed a worker key") != 1 {
		t.Errorf("each signature leaves one entry:\n%s", text)
	}
	state := fmt.Sprintf("%+v %+v", o.pending, o.order)
	if strings.Contains(state, "0900123") {
		t.Error("a number is held")
	}
}

// TestEnrolMalformed: every request that is none is refused, and the next one is answered.
func TestEnrolMalformed(t *testing.T) {
	o, p := newOffice(t), newPhone(t, number1)
	o.ask(t, p)
	other, err := envelope.GenerateRegistrarSecret()
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := envelope.SealEnrol(other.Public(), p.number, p.key)
	if err != nil {
		t.Fatal(err)
	}
	resigned := bytes.Clone(p.begun)
	resigned[len(resigned)-1]++
	for name, req := range map[string][]byte{
		"empty": nil, "address token only": place, "unknown kind": append(bytes.Clone(place), 0x60),
		"short request 1": p.begun[:len(p.begun)-1], "bad signature": resigned,
		"request 1 to another registrar": append(bytes.Clone(place), foreign...),
		"short request 2":                append(bytes.Clone(place), byte(wire.CtlConfirm), 1),
		"short renewal":                  append(bytes.Clone(place), byte(wire.CtlRenew), 1),
		"renewal of nothing":             append(bytes.Clone(place), append([]byte{byte(wire.CtlRenew)}, make([]byte, renewLen-1)...)...),
	} {
		if got := o.HandleEnrol(t.Context(), req); !bytes.Equal(got, []byte{byte(wire.BadRecord)}) {
			t.Errorf("%s: % x, want BadRecord", name, got)
		}
	}
	if code, _ := o.confirm(t, p, o.otp(t, p)); code != wire.OK {
		t.Errorf("the honest one afterwards: %v", code)
	}
}

func FuzzHandleEnrol(f *testing.F) {
	o, p := newOffice(f), newPhone(f, number1)
	o.ask(f, p)
	c := wire.Certificate{Device: p.device()}
	c.Sign(o.cfg.Cert)
	f.Add(p.begun)
	f.Add(append(bytes.Clone(place), append([]byte{byte(wire.CtlRenew)}, c.Marshal()...)...))
	f.Add(append(bytes.Clone(place), byte(wire.CtlConfirm)))
	f.Add(append(append(bytes.Clone(place), byte(wire.CtlOff)), make([]byte, 1160)...))
	f.Fuzz(func(t *testing.T, req []byte) {
		got := o.HandleEnrol(t.Context(), req)
		if len(got) == 0 || !wire.Code(got[0]).Known() {
			t.Errorf("not an answer: % x", got)
		}
	})
}
