package hooks

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"bluejay/wire"
)

// revocation is the registrar's, above the stored seq.
func (st *stage) revocation(p *person, tweaks ...func(*wire.Revocation)) []byte {
	st.Helper()
	s, err := st.shelf.Load(st.Context(), p.id)
	if err != nil {
		st.Fatal(err)
	}
	r := wire.Revocation{ID: p.id, Cause: wire.CauseStop, Seq: s.Seq + 1, IssuedAt: wire.Unix32(time.Now()), KID: 1}
	for _, f := range tweaks {
		f(&r)
	}
	r.Sign(st.registrar)
	return r.Marshal()
}

// TestOperatorRevocation keeps [P-7] and [C-revoke]: what is in flight is answered, presence and bundle
// end, jobs are cancelled, and only then is it acknowledged; the connection ends, and the device finds
// the new seq when it comes back and can agree again.
func TestOperatorRevocation(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		a, b := st.person(everything), st.person(everything)
		from, to, inbox := st.on(a, level), st.on(b, level), b.topic('i')
		from.subscribe(b.topic('p'))
		from.receive(b.topic('p'))
		to.told(to.publish(b.topic('b'), st.bundle(b, time.Hour)), wire.OK, "bundle")
		to.told(to.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "job")
		incoming := from.publish(inbox, []byte("to the one who said STOP"))
		to.receive(inbox)
		raw := st.revocation(b)
		if code := st.node.Revoke(t.Context(), raw); code != wire.OK {
			t.Fatalf("%v", code)
		}
		if c := st.node.Counts(); c.Bundles != 0 || c.Blue != 1 || c.Custody.InFlight != 0 || c.Revocations != 1 || st.queued() != 0 {
			t.Errorf("at the acknowledgement: %+v, %d jobs", c, st.queued())
		}
		if e := from.receive(b.topic('p')); len(e.payload) != 0 {
			t.Errorf("presence: %+v", e)
		}
		from.told(incoming, wire.NoRecipient, "what was in flight")
		from.told(from.publish(inbox, []byte("later")), wire.NoRecipient, "a text after it")
		to.closed()
		if code := st.node.Revoke(t.Context(), raw); code != wire.OK {
			t.Errorf("the same again: %v", code)
		}

		b.seq++ // which the welcome tells the device
		back := st.on(b, level)
		back.told(back.publish(a.topic('i'), []byte("x")), wire.NotConsented, "a text of the revoked")
		stale := b.record(everything, func(c *wire.Consent) { c.Seq-- })
		b.seq--
		if a := back.ask("c", stale); a.Code != wire.StaleRecord || binary.BigEndian.Uint32(a.Body) != b.seq {
			t.Errorf("a record with the revocation's seq: %+v", a)
		}
		if a := back.ask("c", b.record(everything)); a.Code != wire.OK {
			t.Errorf("agreed again: %+v", a)
		}
		if code := st.node.Revoke(t.Context(), raw); code != wire.StaleRecord {
			t.Errorf("the old revocation after a new consent: %v", code)
		}
	})
}

// TestOperatorRevocationRefused: a revocation that is forged, from the future, of nobody or of another
// seq changes nothing, and says why. [P-7]
func TestOperatorRevocationRefused(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p, stranger := st.person(everything), st.certify(wire.ID{9}, time.Now())
	good := st.revocation(p)
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	for what, x := range map[string]struct {
		raw  []byte
		want wire.Code
	}{
		"forged":       {forged, wire.BadRecord},
		"short":        {good[1:], wire.BadRecord},
		"nothing":      {nil, wire.BadRecord},
		"seq too low":  {st.revocation(p, func(r *wire.Revocation) { r.Seq-- }), wire.StaleRecord},
		"seq too high": {st.revocation(p, func(r *wire.Revocation) { r.Seq++ }), wire.StaleRecord},
		"future":       {st.revocation(p, func(r *wire.Revocation) { r.IssuedAt += 120 }), wire.OutOfTime},
		"a stranger's": {st.revocation(stranger), wire.NotEnrolled},
	} {
		if got := st.node.Revoke(t.Context(), x.raw); got != x.want {
			t.Errorf("%s: %v, want %v", what, got, x.want)
		}
	}
	for _, what := range []string{"load", "save", "cancel all"} { // the last after it was stored
		st.fail(what, errors.New("down"))
		if got := st.node.Revoke(t.Context(), good); got != wire.Unavailable {
			t.Errorf("%s fails: %v", what, got)
		}
		st.fail(what, nil)
	}
	if c := st.node.Counts(); c.Revocations != 0 {
		t.Errorf("acknowledged: %+v", c)
	}
	if got := st.node.Revoke(t.Context(), good); got != wire.OK {
		t.Errorf("the good one, in the end: %v", got)
	}
}

// TestSeqOf: the registrar learns what a revocation must be above, and of nobody else anything. [P-7]
func TestSeqOf(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p := st.person(everything)
	if got := st.node.HandleSeq(t.Context(), p.id[:]); string(got) != string([]byte{byte(wire.OK), 0, 0, 0, 1}) {
		t.Errorf("%x", got)
	}
	for what, x := range map[string]struct {
		req  []byte
		want wire.Code
	}{"nobody": {make([]byte, 12), wire.NotEnrolled}, "short": {p.id[1:], wire.BadRecord}, "long": {make([]byte, 13), wire.BadRecord}} {
		if got := st.node.HandleSeq(t.Context(), x.req); len(got) != 1 || wire.Code(got[0]) != x.want {
			t.Errorf("%s: %x", what, got)
		}
	}
	st.fail("load", errors.New("down"))
	if got := st.node.HandleSeq(t.Context(), p.id[:]); wire.Code(got[0]) != wire.Unavailable {
		t.Errorf("store down: %x", got)
	}
}

// TestOperatorRevocationRaces: texts go on while the registrar revokes; after the acknowledgement none
// arrives. [C-revoke]
func TestOperatorRevocationRaces(t *testing.T) {
	for range 20 {
		st := newStage(t, ListenConfig{})
		a, b := st.person(everything), st.person(everything)
		from := st.on(a, 5)
		st.on(b, 5)
		var done sync.WaitGroup
		stop := make(chan struct{})
		done.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					from.publish(b.topic('i'), []byte{byte(i), byte(i >> 8), 1})
				}
			}
		})
		if code := st.node.Revoke(t.Context(), st.revocation(b)); code != wire.OK {
			t.Errorf("%v", code)
		}
		before := st.node.Counts().Custody.Delivered
		close(stop)
		done.Wait()
		if c := st.node.Counts(); c.PostRevocation != 0 || c.Custody.Delivered != before || c.Blue != 1 {
			t.Errorf("%+v, %d delivered before", c, before)
		}
	}
}

// TestWithdraw: integrators are told before the receipt, by the device's own record and by the
// registrar's, that scope 4 is gone, and only by who had it. [C-revoke]
func TestWithdraw(t *testing.T) {
	type told struct {
		id  wire.ID
		had bool
	}
	var mu sync.Mutex
	var got []told
	fail := error(nil)
	st := newStage(t, ListenConfig{}, func(c *Config) {
		c.Withdraw = func(_ context.Context, id wire.ID, had bool) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, told{id, had})
			return fail
		}
	})
	p := st.person(everything | wire.ScopeIntegrations)
	ph := st.on(p, 5)
	fail = errors.New("an integrator's stream is full")
	off := p.record(everything &^ wire.ScopeIntegrations)
	if a := ph.ask("c", off); a.Code != wire.Unavailable {
		t.Errorf("acknowledged all the same: %+v", a)
	}
	fail = nil
	if a := ph.ask("c", off); a.Code != wire.OK {
		t.Errorf("%+v", a)
	}
	if a := ph.ask("c", p.record(everything|wire.ScopeIntegrations)); a.Code != wire.OK {
		t.Errorf("%+v", a)
	}
	if code := st.node.Revoke(t.Context(), st.revocation(p)); code != wire.OK {
		t.Errorf("%v", code)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []told{{p.id, true}, {p.id, false}, {p.id, true}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("call %d: %+v, want %+v", i, got[i], want[i])
		}
	}
}
