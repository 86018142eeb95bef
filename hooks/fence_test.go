package hooks

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// noticed is a record that was agreed to after a text.
func (p *person) noticed(scopes wire.Scope, text string) []byte {
	return p.record(scopes, func(c *wire.Consent) { c.Notice = wire.NoticeHash(text) })
}

func noticesAre(texts ...string) (p consent.Policy) {
	for _, t := range texts {
		p.Notices = append(p.Notices, wire.NoticeHash(t))
	}
	return p
}

// TestNewNotice: raising the notice silences everybody connected at once, as a revocation does; each is told why,
// now and at the next connection, and agrees again, to the new text only; what was agreed to under a text
// that counts again is in force without a word. [A-1] [A-2] [C-revoke]
func TestNewNotice(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{}, func(c *Config) { c.Policy = noticesAre("first", "second") })
		a, b, c := st.enrolled(), st.enrolled(), st.enrolled()
		st.put(a, a.noticed(everything, "second"))
		st.put(b, b.noticed(everything, "first"))
		st.put(c, c.noticed(everything, "first"))
		from, to := st.on(a, level), st.on(b, level)
		from.subscribe(b.topic('p'))
		from.receive(b.topic('p'))
		to.told(to.publish(b.topic('b'), st.bundle(b, time.Hour)), wire.OK, "bundle")
		to.told(to.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "job")
		incoming := from.publish(b.topic('i'), []byte("in flight"))
		to.receive(b.topic('i'))

		st.node.SetPolicy(noticesAre("second"))
		if c := st.node.Counts(); c.Bundles != 0 || c.Blue != 1 || c.Custody.InFlight != 0 || c.Suspensions != 1 || c.Revocations != 0 {
			t.Errorf("when the policy is set: %+v", c)
		}
		if e := from.receive(b.topic('p')); len(e.payload) != 0 {
			t.Errorf("presence: %+v", e)
		}
		from.told(incoming, wire.NoRecipient, "what was in flight")
		to.why(wire.NewNotice)
		st.eventually("its jobs are cancelled", func() bool { return st.queued() == 0 })
		from.told(from.publish(b.topic('i'), []byte("later")), wire.NoRecipient, "a text to it")
		to.told(to.publish(a.topic('i'), []byte("later")), wire.NotConsented, "a text from it")
		old := b.noticed(everything, "first")
		if answer := to.ask("c", old); answer.Code != wire.WrongNotice || len(answer.Body) != 0 {
			t.Errorf("agreed to the old text: %+v", answer)
		}
		b.seq--
		if answer := to.ask("c", b.noticed(everything, "second")); answer.Code != wire.OK {
			t.Errorf("agreed to the new text: %+v", answer)
		}
		from.receive(b.topic('p'))
		pid := from.publish(b.topic('i'), []byte("again"))
		to.ack(to.receive(b.topic('i')))
		from.told(pid, wire.OK, "a text to who agreed again")

		away := st.on(c, level) // was not connected when the notice changed
		away.why(wire.NewNotice)
		away.told(away.publish(a.topic('i'), []byte("x")), wire.NotConsented, "a text of who was away")
		if answer := away.ask("c", c.record(0)); answer.Code != wire.OK {
			t.Errorf("a withdrawal while suspended: %+v", answer)
		}
		away.ask("c", c.noticed(everything, "second"))
		st.node.SetPolicy(noticesAre("second", "third"))
		from.quiet("a text more that counts is nothing to tell")
	})
}

// TestNoticeBack: an operator's mistake costs a connection, and no consent.
func TestNoticeBack(t *testing.T) {
	st := newStage(t, ListenConfig{}, func(c *Config) { c.Policy = noticesAre("text") })
	p := st.enrolled()
	st.put(p, p.noticed(everything, "text"))
	ph := st.on(p, 5)
	st.node.SetPolicy(noticesAre("mistake"))
	ph.why(wire.NewNotice)
	st.node.SetPolicy(noticesAre("text"))
	ph.closed()
	ph = st.on(p, 5)
	ph.quiet("nothing to tell")
	ph.told(ph.publish("i/"+aTag, nil), wire.NoRecipient, "a text")
}

// TestSIMChanged: on the device's word that its SIM is another it is silent, durably, and nothing can be agreed to
// before the number was proved anew; another word is none. [A-2] [C-revoke]
func TestSIMChanged(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		p, friend := st.person(everything), st.person(everything)
		ph, other := st.on(p, level), st.on(friend, level)
		other.subscribe(p.topic('p'))
		other.receive(p.topic('p'))
		for _, bad := range [][]byte{wire.ByReason(wire.CtlSuspend, wire.NewNotice), {byte(wire.CtlSuspend)}, {byte(wire.CtlSuspend), 99}} {
			if a := ph.ask("c", bad); a.Code != wire.NotAllowed {
				t.Errorf("%x: %v", bad, a.Code)
			}
		}
		st.fail("save", errors.New("down"))
		if a := ph.ask("c", wire.ByReason(wire.CtlSuspend, wire.SIMChanged)); a.Code != wire.Unavailable {
			t.Errorf("not stored: %v", a.Code)
		}
		st.fail("save", nil)
		for range 2 {
			if a := ph.ask("c", wire.ByReason(wire.CtlSuspend, wire.SIMChanged)); a.Code != wire.OK {
				t.Errorf("%v", a.Code)
			}
		}
		if e := other.receive(p.topic('p')); len(e.payload) != 0 {
			t.Errorf("presence: %+v", e)
		}
		ph.why(wire.SIMChanged)
		ph.told(ph.publish(friend.topic('i'), []byte("x")), wire.NotConsented, "a text")
		if a := ph.ask("c", p.record(everything)); a.Code != wire.NotEnrolled {
			t.Errorf("agreed without a new proof: %v", a.Code)
		}
		p.seq--
		again := st.on(p, level)
		again.why(wire.SIMChanged)

		renewed := st.certify(p.id, time.Now().Add(-time.Second))
		renewed.gen, renewed.seq = p.gen, p.seq
		anew, code := st.call(level, renewed.proof(func(c *wire.Connect) { c.Cert = &renewed.cert }))
		if code != 0 {
			t.Fatalf("the new certificate: %#x", code)
		}
		anew.why(wire.NewDevice)
		if a := anew.ask("c", renewed.record(everything)); a.Code != wire.OK {
			t.Errorf("agreed after a new proof: %v", a.Code)
		}
	})
}

// TestReasons: who comes back after a revocation is told by what.
func TestReasons(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p := st.person(everything)
	for cause := wire.CauseStop; cause <= wire.CauseOperator; cause++ {
		if code := st.node.Revoke(t.Context(), st.revocation(p, func(r *wire.Revocation) { r.Cause = cause })); code != wire.OK {
			t.Fatal(code)
		}
		p.seq++
		st.on(p, 4).why(wire.Reason(cause))
	}
	raw := st.revocation(p, func(r *wire.Revocation) { r.Cause = wire.CauseErasure })
	for range 2 { // and repeated
		if code := st.node.Revoke(t.Context(), raw); code != wire.OK {
			t.Fatal(code)
		}
	}
	if got := st.node.HandleSeq(t.Context(), p.id[:]); wire.Code(got[0]) != wire.NotEnrolled {
		t.Errorf("who was erased is enrolled: %x", got)
	}
	for level, want := range map[byte]byte{4: 5, 5: wire.Revoked.Connack()} {
		if _, code := st.call(level, p.proof(func(c *wire.Connect) { c.Cert = &p.cert })); code != want {
			t.Errorf("the erased certificate, MQTT %d: %#x, want %#x", level, code, want)
		}
	}
}

// TestMinVersion: an older handset gets a reason that it can show, in either MQTT, also when it only wants to
// enrol. [A-7] [P-20]
func TestMinVersion(t *testing.T) {
	st := newStage(t, ListenConfig{}, func(c *Config) { c.MinVersion = 2 })
	p := st.person(everything)
	for _, tt := range []struct {
		user  string
		level byte
		proof string
		want  byte
	}{
		{"bj1", 4, p.proof(), 1}, {"bj1", 5, p.proof(), 0x84}, {"bj1", 4, "", 1},
		{"bj2", 4, p.proof(), 0}, {"bj3", 5, p.proof(), 0}, {"bj2", 5, "", 0},
	} {
		ph := &phone{peer: st.dial(), st: st, v5: tt.level == 5}
		flags, more := 0x82, cat(lp(""), lp(tt.user))
		if tt.proof != "" {
			flags, more = 0xc2, cat(more, lp(tt.proof))
		}
		if ph.v5 {
			more = cat(props(), more)
		}
		ph.send(headConnect, connect(int(tt.level), flags, more))
		if e := ph.next(); e.kind != 2 || e.codes[0] != tt.want {
			t.Errorf("%s, MQTT %d: %+v, want %#x", tt.user, tt.level, e, tt.want)
		}
	}
}

// TestObserved: each revocation is timed at each part, in order, whoever made it; a suspension is none.
func TestObserved(t *testing.T) {
	var mu sync.Mutex
	var got []Part
	last := time.Duration(0)
	st := newStage(t, ListenConfig{}, func(c *Config) {
		c.Observe = func(p Part, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, p); p != PartStored && took < last {
				t.Errorf("%s after %v, before the part before it", p, took)
			}
			last = took
		}
	})
	observed := func() []Part {
		mu.Lock()
		defer mu.Unlock()
		p := got
		got = nil
		return p
	}
	var want []Part
	for p := PartStored; p <= PartReceipt; p++ {
		if p != PartEvents { // without integrators
			want = append(want, p)
		}
		if p.String() == "invalid" || (PartReceipt+1).String() != "invalid" {
			t.Errorf("part %d has no name", p)
		}
	}
	a := st.person(everything)
	ph := st.on(a, 5)
	ph.ask("c", a.record(0))
	if p := observed(); !slices.Equal(p, want) {
		t.Errorf("the device's own: %v, want %v", p, want)
	}
	ph.ask("c", a.record(everything))
	st.node.SetPolicy(noticesAre("x"))
	if p := observed(); len(p) != 0 {
		t.Errorf("consent and suspension: %v", p)
	}
	if code := st.node.Revoke(t.Context(), st.revocation(a)); code != wire.OK {
		t.Fatal(code)
	}
	if p := observed(); !slices.Equal(p, want) {
		t.Errorf("the registrar's: %v, want %v", p, want)
	}
}

// TestRevocationOfWhoDoesNotRead: bytes that were queued for who is revoked, and bytes of theirs that were queued
// for somebody, do not leave after the receipt; whoever does not read is cut off, and holds nobody up.
func TestRevocationOfWhoDoesNotRead(t *testing.T) {
	st := newStage(t, ListenConfig{MaxPending: 8 << 20, WriteTimeout: time.Minute}) // which must not be what cuts it off
	from, deaf := st.person(everything), st.person(everything)
	sender := st.on(from, 5)
	st.on(deaf, 5) // reads no more
	s := st.session(deaf)
	for size := 0; size < 6<<20; size += len(filler) { // more than the kernel takes
		if _, err := s.net.Write([]byte(filler)); err != nil {
			t.Fatal(err)
		}
	}
	stuck := func() bool { return s.net.left() != nil }
	if sender.sync(); !stuck() {
		t.Fatal("the kernel takes it all")
	}
	began := time.Now()
	if code := st.node.Revoke(t.Context(), st.revocation(from)); code != wire.OK {
		t.Fatal(code)
	}
	if took := time.Since(began); took > 30*time.Second || stuck() {
		t.Errorf("after %v something is still queued", took)
	}
	if code := st.node.Revoke(t.Context(), st.revocation(deaf)); code != wire.OK {
		t.Error(code)
	}
	sender.closed()
}

// TestLookUpEnds: a look-up under way when consent ends is cancelled, and the receipt waits until it has.
func TestLookUpEnds(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p := st.person(everything)
	ph := st.on(p, 5)
	release := st.hold("call")
	defer release()
	pid := ph.publish("q", wire.Request{ID: 3, Body: []byte("blinded")}.Marshal())
	st.eventually("it is under way", func() bool { return slices.Contains(st.asked(), "call") })
	if a := ph.ask("c", p.record(0)); a.Code != wire.OK {
		t.Errorf("%v", a.Code)
	}
	if a := ph.answer(3, pid); a.Code != wire.Unavailable {
		t.Errorf("the look-up: %v", a.Code)
	}
	ph.told(ph.publish("q", []byte("blinded")), wire.NotConsented, "one after it")
}

// TestRevokedAcrossBrokers: a revocation reaches the session through the other brokers, wherever it is: when the
// receipt is there nothing goes to or from it on either. One that cannot be reached is not acknowledged. [A-3] [C-revoke]
func TestRevokedAcrossBrokers(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		fabric, one, two := cluster(t, func() ListenConfig { return ListenConfig{} })
		a, b, c := one.person(everything), one.person(everything), one.person(everything)
		from, to, near := one.on(a, level), two.on(b, level), two.on(c, level)
		near.subscribe(b.topic('p'))
		near.receive(b.topic('p'))
		one.eventually("every tag is claimed", func() bool { return fabric.claimed() == 3 })
		pid := from.publish(b.topic('i'), []byte("across"))
		to.receive(b.topic('i'))
		raw := one.revocation(b)
		two.fail("load", errors.New("down"))
		if code := one.node.Revoke(t.Context(), raw); code != wire.Unavailable {
			t.Errorf("not silenced over there: %v", code)
		}
		two.fail("load", nil)
		if code := one.node.Revoke(t.Context(), raw); code != wire.OK {
			t.Errorf("%v", code)
		}
		if c := two.node.Counts(); c.Custody.InFlight != 0 || c.Blue != 1 {
			t.Errorf("at the receipt: %+v", c)
		}
		from.told(pid, wire.NoRecipient, "what was in flight")
		to.closed()
		if e := near.receive(b.topic('p')); len(e.payload) != 0 {
			t.Errorf("presence over there: %+v", e)
		}
		from.told(from.publish(b.topic('i'), []byte("later")), wire.NoRecipient, "a text after it")
	})
}

// TestLookUpOfAnEndedSession: a look-up that its connection left behind does not begin once the connection has ended,
// because nobody would end it then. The test of interleavings has found one in 600,000 events. [C-revoke]
func TestLookUpOfAnEndedSession(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p := st.person(everything)
	ph := st.on(p, 4)
	s := st.session(p)
	_ = ph.Close()
	st.eventually("the session ends", func() bool { return st.node.Counts().Sessions == 0 })
	if code := st.node.Revoke(t.Context(), st.revocation(p)); code != wire.OK {
		t.Fatal(code)
	}
	if code, _ := st.node.lookUp(t.Context(), s, []byte("late")); code != wire.TakenOver {
		t.Errorf("%v", code)
	}
	if slices.Contains(st.asked(), "call") {
		t.Error("the registrar was asked")
	}
}
