package hooks

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// TestConsentRecord keeps [P-6] and [P-8]: the answer to a record is its receipt, which verifies; the
// same record again gets the same receipt; a stale one the stored seq; none other changes anything.
func TestConsentRecord(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		p := st.enrolled()
		ph := st.on(p, level)
		first := p.record(wire.ScopeMessaging)
		record := p.record(everything)
		a := ph.ask("c", record)
		receipt, err := wire.ParseReceipt(a.Body)
		if a.Code != wire.OK || err != nil {
			t.Fatalf("%+v, %v", a, err)
		}
		proof := slices.Concat(p.cert.Marshal(), record, a.Body)
		broker := wire.PublicKey(st.node.cfg.Receipt.Public().(ed25519.PublicKey))
		if receipt.Verify(broker, record) != nil {
			t.Error("the receipt does not verify")
		}
		if _, err := consent.VerifyProof(proof, st.node.cfg.Registrar, []wire.PublicKey{broker}); err != nil {
			t.Errorf("the proof: %v", err)
		}
		if again := ph.ask("c", record); string(again.Body) != string(a.Body) {
			t.Errorf("the same record again: %+v", again)
		}
		if a := ph.ask("c", first); a.Code != wire.StaleRecord || binary.BigEndian.Uint32(a.Body) != 2 {
			t.Errorf("a stale record: %+v", a)
		}
		before, _ := st.shelf.Load(t.Context(), p.id)
		other := st.enrolled()
		for what, x := range map[string]struct {
			raw  []byte
			want wire.Code
		}{
			"another's":    {other.record(everything), wire.BadRecord},
			"future":       {p.record(everything, func(c *wire.Consent) { c.IssuedAt += 120 }), wire.OutOfTime},
			"too long":     {p.record(everything, func(c *wire.Consent) { c.ExpiresAt += 401 * 86400 }), wire.OutOfTime},
			"the last seq": {p.record(everything, func(c *wire.Consent) { c.Seq = 1<<32 - 1 }), wire.BadRecord},
			"malformed":    {record[:len(record)-1], wire.BadRecord},
		} {
			if a := ph.ask("c", x.raw); a.Code != x.want {
				t.Errorf("%s: %v, want %v", what, a.Code, x.want)
			}
		}
		if after, _ := st.shelf.Load(t.Context(), p.id); after.Revision != before.Revision {
			t.Error("a refused record changed what is stored")
		}
	})
}

// TestRecordStoreFails keeps [C-revoke]: when the store does not take a record, or other brokers are
// always first, the answer is Unavailable and nothing has changed; a race that ends is won.
func TestRecordStoreFails(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		p := st.person(everything)
		ph := st.on(p, level)
		off := p.record(0)
		for what, err := range map[string]error{"load": errors.New("down"), "save": errors.New("down")} {
			st.fail(what, err)
			if a := ph.ask("c", off); a.Code != wire.Unavailable || len(a.Body) != 0 {
				t.Errorf("%s fails: %+v", what, a)
			}
			st.fail(what, nil)
		}
		st.fail("save", consent.ErrConflict)
		if a := ph.ask("c", off); a.Code != wire.Unavailable {
			t.Errorf("always another first: %+v", a)
		}
		st.fail("save", nil)
		pid := ph.publish(p.topic('i'), []byte("still on"))
		ph.ack(ph.receive(p.topic('i')))
		ph.told(pid, wire.OK, "a text")
		st.fail("cancel all", errors.New("down"))
		if a := ph.ask("c", off); a.Code != wire.Unavailable || st.node.Counts().Revocations != 0 {
			t.Errorf("jobs not cancelled: %+v", a)
		}
		st.fail("cancel all", nil)
		for range 2 {
			if a := ph.ask("c", off); a.Code != wire.OK {
				t.Errorf("the same again repeats the whole of it: %+v", a)
			}
		}
		if c := st.node.Counts(); c.Revocations != 2 || c.RevocationLast <= 0 {
			t.Errorf("%+v", c)
		}
	})
}

// TestRevocationOrder keeps [C-revoke] and [F-10]: stored, then silence, then the jobs, then the PUBACK.
func TestRevocationOrder(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		a, b := st.person(everything), st.person(everything)
		from, to, inbox := st.on(a, level), st.on(b, level), b.topic('i')
		from.subscribe(b.topic('p'))
		from.receive(b.topic('p'))
		to.subscribe(a.topic('p'))
		to.receive(a.topic('p'))
		to.told(to.publish(b.topic('b'), st.bundle(b, time.Hour)), wire.OK, "bundle")
		to.told(to.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "job")
		incoming := from.publish(inbox, []byte("to the one who withdraws"))
		got := to.receive(inbox)
		outgoing := to.publish(a.topic('i'), []byte("from the one who withdraws"))
		mine := from.receive(a.topic('i'))
		st.asked()
		saving, cancelling := st.hold("save"), st.hold("cancel all")
		pid := to.publish("c", wire.Request{ID: 7, Body: b.record(0)}.Marshal())
		st.eventually("it is being stored", func() bool { return slices.Contains(st.asked(), "save") })
		from.quiet("nothing has changed before it is stored")
		to.quiet("nothing has changed before it is stored")
		saving()
		if e := from.receive(b.topic('p')); len(e.payload) != 0 {
			t.Errorf("presence: %+v", e)
		}
		from.told(incoming, wire.NoRecipient, "what was in flight to it")
		to.told(outgoing, wire.Revoked, "what was in flight from it")
		if c := st.node.Counts(); c.Bundles != 0 || c.Blue != 1 || c.Custody.InFlight != 0 || c.Watches != 1 {
			t.Errorf("before the jobs: %+v", c)
		}
		to.quiet("no PUBACK before the jobs are cancelled")
		cancelling()
		to.answer(7, pid)
		if st.queued() != 0 {
			t.Error("a job is left")
		}
		to.ack(got) // what had been written: late, and nobody's
		from.ack(mine)
		from.told(from.publish(inbox, []byte("after")), wire.NoRecipient, "a text to it")
		from.told(from.publish(b.topic('h'), []byte("after")), wire.OK, "a hello to it")
		for _, topic := range []string{a.topic('i'), a.topic('h'), "f", "x", "q", b.topic('b')} {
			to.told(to.publish(topic, []byte("after")), wire.NotConsented, topic)
		}
		to.quiet("after the PUBACK")
		consented(st, from, to, a, b)
	})
}

// consented checks that consenting again on the same connection works, and that no packet id in use
// before is used again. [C-revoke]
func consented(st *stage, from, to *phone, a, b *person) {
	st.Helper()
	if a := to.ask("c", b.record(everything)); a.Code != wire.OK {
		st.Errorf("consenting again: %v", a.Code)
	}
	if e := from.receive(b.topic('p')); len(e.payload) != 1 {
		st.Errorf("blue again: %+v", e)
	}
	pid := from.publish(b.topic('i'), []byte("to the one who consents"))
	e := to.receive(b.topic('i'))
	if e.pid == 1 {
		st.Error("a reserved packet id is used again")
	}
	to.ack(e)
	from.told(pid, wire.OK, "a text to it")
	pid = to.publish(a.topic('i'), []byte("from the one who consents"))
	from.ack(from.receive(a.topic('i')))
	to.told(pid, wire.OK, "a text from it")
}

// TestRevocationWaitsForTheQueue keeps [C-revoke] and [C-4]: a job on its way into the queue when
// consent ends is stored before the jobs are cancelled, and so cancelled with them.
func TestRevocationWaitsForTheQueue(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p := st.person(everything)
	ph := st.on(p, 4)
	release := st.hold("enqueue")
	sent := ph.publish("f", job(wire.ClassNormal, time.Hour, "on its way"))
	st.eventually("it is on its way", func() bool { return slices.Contains(st.asked(), "enqueue") })
	pid := ph.publish("c", wire.Request{ID: 7, Body: p.record(0)}.Marshal())
	ph.told(sent, wire.Revoked, "the job")
	ph.quiet("not yet")
	if slices.Contains(st.asked(), "cancel all") {
		t.Error("the jobs are cancelled before the last is stored")
	}
	release()
	ph.answer(7, pid)
	if st.queued() != 0 {
		t.Error("a job was queued after the revocation")
	}
}

// TestOldConnectionCannotConsent keeps [P-7] and [C-revoke]: on a connection that was taken over, the
// record from before a withdrawal is stale, a text is refused, and a withdrawal is one for all.
func TestOldConnectionCannotConsent(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		p := st.enrolled()
		p.seq = 0
		on := p.record(everything)
		st.put(p, on)
		old := st.on(p, level)
		s := st.session(p)
		again := st.on(p, level)
		if a := again.ask("c", p.record(0)); a.Code != wire.OK {
			t.Fatalf("withdrawal: %v", a.Code)
		}
		code, body := st.node.record(t.Context(), s, on) // as if it had been read just before
		if code != wire.StaleRecord || len(body) != 4 || s.may(wire.Topic{Kind: wire.TopicInbox}) != wire.TakenOver {
			t.Errorf("on the old connection: %v", code)
		}
		again.told(again.publish("i/"+aTag, nil), wire.NotConsented, "a text")
		again.ask("c", p.record(everything))
		if code, _ := st.node.record(t.Context(), s, p.record(0)); code != wire.OK {
			t.Errorf("a withdrawal on the old connection: %v", code)
		}
		again.told(again.publish("i/"+aTag, nil), wire.NotConsented, "a text after the old connection's withdrawal")
		old.closed()
	})
}

// session is the newest one of a person.
func (st *stage) session(p *person) *session {
	st.node.mu.Lock()
	defer st.node.mu.Unlock()
	return st.node.byID[p.id]
}

// TestScopes keeps [P-6] and [P-18]: scopes are separate. Taking presence away turns grey and nothing
// else, unlisting removes the bundle, taking the gateway away cancels its jobs.
func TestScopes(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p := st.person(everything)
	ph := st.on(p, 5)
	ph.told(ph.publish(p.topic('b'), st.bundle(p, time.Hour)), wire.OK, "bundle")
	ph.told(ph.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "job")
	for _, tt := range []struct {
		scopes              wire.Scope
		visibility          wire.Visibility
		blue, bundles, jobs int
	}{
		{everything &^ wire.ScopePresence, wire.Listed, 0, 1, 1},
		{everything, wire.Listed, 1, 1, 1},
		{everything, wire.Unlisted, 1, 0, 1},
		{everything &^ wire.ScopeGateway, wire.Unlisted, 1, 0, 0},
		{wire.ScopePresence, wire.Listed, 0, 0, 0},
		{everything, wire.Listed, 1, 0, 0},
	} {
		ph.ask("c", p.record(tt.scopes, func(c *wire.Consent) { c.Visibility = tt.visibility }))
		if c := st.node.Counts(); c.Blue != tt.blue || c.Bundles != tt.bundles || st.queued() != tt.jobs {
			t.Errorf("%+v: %+v, %d jobs", tt, c, st.queued())
		}
	}
}
