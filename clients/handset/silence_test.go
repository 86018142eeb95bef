package handset

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/wire"
)

// tell sends a reason to every connection of an ID.
func (b *fakeBroker) tell(id wire.ID, why wire.Reason) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if c.id == id {
			c.reply(wire.ByReason(wire.CtlReason, why))
		}
	}
}

func settled() {
	settle(time.Second)
}

// A handset that the broker silences is off at once, tells why once, keeps that across a restart, and is on again when
// its user has agreed again.
func TestSilenced(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		id := alice.Status().ID
		for range 2 {
			b.tell(id, wire.ReproofDue)
			settled()
		}
		if s := alice.Status(); s.On || !s.Connected || s.Reason != wire.ReproofDue || alice.events(Silenced) != 1 || alice.Contacts()[0].Colour != Grey {
			t.Errorf("%+v, told %d times", s, alice.events(Silenced))
		}
		alice.reopen()
		if s := alice.Status(); s.Reason != wire.ReproofDue || s.On {
			t.Errorf("after a restart: %+v", s)
		}
		if err := alice.OptIn(t.Context(), everything, wire.Listed); err != nil {
			t.Errorf("agree again: %v", err)
		}
		if s := alice.Status(); s.Reason != 0 || !s.On {
			t.Errorf("%+v", s)
		}
	})
}

// With a new notice the user reads and accepts that first: the record is bound to the text that was shown, and nothing
// else passes. [A-2] [U-1] [P-6]
func TestAgreesToTheNewNotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		first, second := map[string]string{"en": "first text", "zh": "一"}, map[string]string{"en": "second text"}
		p := newPhone(t, b, aliceNumber, func(c *Config) { c.Notices = first })
		if n := p.Notice("zh-CN"); n.Text != "一" || n.Lang != "zh" || p.Notice("fr").Text != "first text" {
			t.Errorf("%+v", n)
		}
		if err := p.Enrol(t.Context(), p.number, noticeIn("en")); !errors.Is(err, ErrNotice) {
			t.Errorf("another application's text: %v", err)
		}
		p.join(everything)
		id := p.Status().ID
		b.mu.Lock()
		b.wrongNotice = wire.NoticeHash("first text")
		b.mu.Unlock()
		if err := p.OptIn(t.Context(), wire.ScopeMessaging, wire.Listed); !errors.Is(err, wire.WrongNotice) {
			t.Errorf("the old text: %v", err)
		}
		settled() // until the event is told, too
		if s := p.Status(); s.On || s.Reason != wire.NewNotice || p.events(Silenced) != 1 {
			t.Errorf("%+v", s)
		}
		seq := p.Status().Seq
		b.cut(id)
		settle(10 * time.Second)
		if p.Status().Seq != seq || p.events(Connected) < 2 {
			t.Error("a refused record is sent again")
		}
		p.close()
		p.cfg.Notices = second // the app was updated
		p.open()
		if err := p.OptIn(t.Context(), everything, wire.Listed); !errors.Is(err, ErrNotice) {
			t.Errorf("not read yet: %v", err)
		}
		for what, n := range map[string]Notice{"the old": {Text: "first text", Lang: "en", Hash: wire.NoticeHash("first text")}, "none": {}} {
			if err := p.Accept(n); !errors.Is(err, ErrNotice) {
				t.Errorf("accepts %s: %v", what, err)
			}
		}
		if err := errors.Join(p.Accept(p.Notice("en")), p.OptIn(t.Context(), everything, wire.Listed)); err != nil {
			t.Fatal(err)
		}
		proofs := p.Proofs()
		if last := proofs[len(proofs)-1].Consent; last.Notice != wire.NoticeHash("second text") || !p.Status().On {
			t.Errorf("agreed to %x", last.Notice)
		}
	})
}

// With another SIM the handset is silent whether or not the broker can be reached, tells it once it can, and agrees to
// nothing before the number is proved anew.
func TestAnotherSIM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		p.join(everything)
		told := func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.suspended)
		}
		b.mu.Lock()
		b.suspendCode = wire.Unavailable
		b.mu.Unlock()
		if err := p.SIMChanged(t.Context()); !errors.Is(err, wire.Unavailable) || told() != 1 {
			t.Errorf("not stored: %v", err)
		}
		if s := p.Status(); s.On || s.Reason != wire.SIMChanged {
			t.Errorf("%+v", s)
		}
		b.mu.Lock()
		b.suspendCode = wire.OK
		b.mu.Unlock()
		p.reopen()
		if err := p.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		settled()
		if told() != 2 {
			t.Errorf("told %d times", told())
		}
		b.cut(p.Status().ID)
		settle(10 * time.Second)
		if told() != 2 || p.events(Silenced) != 1 {
			t.Errorf("told %d times, its user %d times", told(), p.events(Silenced))
		}
		if err := p.OptIn(t.Context(), everything, wire.Listed); !errors.Is(err, ErrReproof) {
			t.Errorf("agrees without a proof: %v", err)
		}
		p.join(everything)
		if s := p.Status(); !s.On || s.Reason != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A phone that only switches another off dials once for each half, and keeps nothing.
func TestAskOffRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		c := Config{Pins: b.pins(), Addr: "127.0.0.1:1883", Dial: b.dial}
		if _, err := AskOff(t.Context(), c, wire.Number{}); !errors.Is(err, ErrOff) {
			t.Errorf("no number: %v", err)
		}
		if _, err := AskOff(t.Context(), Config{Addr: c.Addr}, number(t, aliceNumber)); !errors.Is(err, ErrPins) {
			t.Errorf("no pins: %v", err)
		}
		if _, err := AskOff(t.Context(), c, number(t, aliceNumber)); !errors.Is(err, wire.PasswordGone) { // all this broker can
			t.Errorf("refused: %v", err)
		}
		o := &Off{cfg: c}
		if err := o.Confirm(t.Context(), "12x456"); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("no password: %v", err)
		}
		c.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }
		if _, err := AskOff(t.Context(), c, number(t, aliceNumber)); err == nil {
			t.Error("nobody was asked")
		}
	})
}
