package broker

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// leaves has a user leave something in every store that the broker answers for.
func (a *agency) leaves(id wire.ID) (job, other wire.MessageID) {
	a.t.Helper()
	a.agree(id, wire.ScopeMessaging|wire.ScopeGateway|wire.ScopeIntegrations)
	p := wire.MakePseudonym(a.node.cfg.TagKey, id, uint32(time.Now().Unix()/86400))
	job, other = wire.MessageIDOf(id[:]), wire.MessageIDOf(append(id[:], 1))
	party, err := sealParty(partyKey(a.node.cfg.TagKey), id, time.Now())
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, day := a.t.Context(), time.Now().UTC().Format("20060102")
	_, err1 := a.worker.Caps().Add(ctx, day+".sender."+p.String(), 2)
	_, err2 := a.worker.Journal().Begin(ctx, job, fallback.Entry{State: wire.JobSubmitted, Attempt: 1, At: time.Now(), Sender: p, Party: party, NumberHash: [16]byte{1}})
	if err := errors.Join(err1, err2,
		a.node.bridge.Jobs().Enqueue(ctx, wire.ClassNormal, p, other, []byte(string(id[:])+"\x01"), nil, party),
		a.worker.Outcome(ctx, p, wire.Outcome{Message: job, State: wire.JobSubmitted}),
	); err != nil {
		a.t.Fatal(err)
	}
	a.step(id, id[0], "submitted")
	return job, other
}

// kept asks the node as the registrar would.
func (a *agency) kept(id wire.ID) (stores []string, items []wire.Held) {
	a.t.Helper()
	r := connect(a.t, bridge.Config{Role: bridge.RoleRegistrar, URL: a.node.NATSURL()})
	b, err := r.Kept(a.t.Context(), id, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	page, err := wire.ParsePage(b)
	if err != nil || page.More {
		a.t.Fatalf("%v, more %t", err, page.More)
	}
	for _, h := range page.Items {
		stores = append(stores, h.Store)
	}
	return stores, page.Items
}

// TestKept: the node names what each of its stores has about an ID, whichever mark it lies under, and of another
// ID nothing. [H-1] [H-2]
func TestKept(t *testing.T) {
	a := newAgency(t, "acme")
	one, two, stranger := wire.ID{1, 2, 3}, wire.ID{4, 5, 6}, wire.ID{7}
	a.leaves(one)
	a.leaves(two)
	a.until("acme has both", func() bool { return len(a.events("acme")) == 2 })
	stores, items := a.kept(one)
	want := []string{"KV_bj_consent", wire.StreamJobs, wire.StreamOutcomes, wire.StreamEvents, "KV_bj_journal", wire.StreamCaps, bridge.StreamIntegrator}
	if !slices.Equal(stores, want) {
		t.Errorf("held in %v, want %v", stores, want)
	}
	values := map[string]string{
		"KV_bj_consent": `"scopes":["messaging","gateway","integrations"]`, wire.StreamOutcomes: `"state":"submitted"`,
		"KV_bj_journal": `"attempt":1`, bridge.StreamIntegrator: `"specversion":"1.0"`, wire.StreamJobs: `null`,
	}
	for _, h := range items {
		if v := values[h.Store]; !json.Valid(h.Value) || !strings.Contains(string(h.Value), v) {
			t.Errorf("%s reads as %s, no %s", h.Store, h.Value, v)
		}
	}
	if stores, _ := a.kept(stranger); len(stores) != 0 {
		t.Errorf("of a stranger: %v", stores)
	}
}

// TestForget: nothing is forgotten before the revocation; after it everything but the word to integrators and the
// counters, and what is another's stays. The worker's row stays, without whose it was. [H-6] [E-5]
func TestForget(t *testing.T) {
	a := newAgency(t, "acme")
	r := connect(t, bridge.Config{Role: bridge.RoleRegistrar, URL: a.node.NATSURL()})
	one, two := wire.ID{1, 2, 3}, wire.ID{4, 5, 6}
	job, _ := a.leaves(one)
	a.leaves(two)
	a.until("acme has both", func() bool { return len(a.events("acme")) == 2 })
	before, _ := a.kept(two)
	forget := func(step byte) wire.Code {
		code, err := r.Forget(t.Context(), step, one)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	if code := forget(wire.ForgetAll); code != wire.StaleRecord {
		t.Errorf("without a revocation: %v", code)
	}
	if code := forget(wire.ForgetMark); code != wire.OK {
		t.Fatal(code)
	}
	_, private := testKey(t)
	st, err := a.store.Load(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	off := wire.Revocation{ID: one, Cause: wire.CauseErasure, Seq: st.Seq + 1, IssuedAt: wire.Unix32(time.Now())}
	off.Sign(private)
	next, err := st.WithRevocation(off)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Save(t.Context(), one, next); err != nil {
		t.Fatal(err)
	}
	if err := a.node.outlets.withdraw(t.Context(), one, true); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again does no harm
		if code := forget(wire.ForgetAll); code != wire.OK {
			t.Fatal(code)
		}
	}
	if left, _ := a.kept(one); !slices.Equal(left, []string{wire.StreamCaps, bridge.StreamIntegrator}) {
		t.Errorf("left in %v", left)
	}
	if now, _ := a.kept(two); !slices.Equal(now, before) {
		t.Errorf("another's: %v, was %v", now, before)
	}
	e, ok, err := a.worker.Journal().Get(t.Context(), job)
	if err != nil || !ok || e.Sender != (wire.Pseudonym{}) || e.Party != nil || e.NumberHash != [16]byte{1} || e.State != wire.JobSubmitted {
		t.Errorf("the worker's row: %+v, %t, %v", e, ok, err)
	}
	if _, err := a.store.Save(t.Context(), one, consent.State{Cert: st.Cert}); !errors.Is(err, wire.NotEnrolled) {
		t.Errorf("the erased certificate begins anew: %v [H-7]", err)
	}
}

// TestForgetRefused: what makes no sense is refused, and a store that does not answer is no "nothing". [H-4]
func TestForgetRefused(t *testing.T) {
	a := newAgency(t, "acme")
	k := a.node.keeper()
	for what, got := range map[string][]byte{
		"a question": k.HandleKept(t.Context(), []byte("x")), "a step": k.HandleForget(t.Context(), []byte{9}),
	} {
		if wire.Code(got[0]) != wire.BadRecord {
			t.Errorf("%s: %v", what, wire.Code(got[0]))
		}
	}
	a.mu.Lock()
	a.err = errors.New("the list cannot be read")
	a.mu.Unlock()
	if got := k.HandleKept(t.Context(), wire.KeptRequest(wire.ID{1}, 0)); wire.Code(got[0]) != wire.Unavailable {
		t.Errorf("without the integrators: %v", wire.Code(got[0]))
	}
	if err := a.node.nats.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string][]byte{
		"what is kept": k.HandleKept(t.Context(), wire.KeptRequest(wire.ID{1}, 0)),
		"forgetting":   k.HandleForget(t.Context(), wire.ForgetRequest(wire.ForgetAll, wire.ID{1})),
		"marking":      k.HandleForget(t.Context(), wire.ForgetRequest(wire.ForgetMark, wire.ID{1})),
	} {
		if wire.Code(got[0]) != wire.Unavailable {
			t.Errorf("%s without a store: %v", what, wire.Code(got[0]))
		}
	}
}
