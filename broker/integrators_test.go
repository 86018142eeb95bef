package broker

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bluejay/bridge"
	"bluejay/fallback"
	"bluejay/wire"
)

// agency is a node with integrators, and the SMS worker's end of its NATS.
type agency struct {
	t      *testing.T
	node   *Broker
	worker *bridge.Bridge
	store  bridge.Store

	mu   sync.Mutex
	list []Integrator
	err  error
	user map[string]IntegratorCreds
}

func newAgency(t *testing.T, names ...string) *agency {
	t.Helper()
	a := &agency{t: t, user: map[string]IntegratorCreds{}}
	var trust string
	a.node = start(t, func(c *Config) {
		trust = c.NATS.Trust
		for _, name := range names {
			a.add(trust, name)
		}
		c.Integrators = func() ([]Integrator, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return append([]Integrator(nil), a.list...), a.err
		}
	})
	a.worker = connect(t, bridge.Config{Role: bridge.RoleWorker, URL: a.node.NATSURL()})
	a.store = connect(t, bridge.Config{Role: bridge.RoleBroker, URL: a.node.NATSURL()}).Store()
	a.until("all are served", func() bool { return a.node.EventCounts().Integrators == len(names) })
	return a
}

// add makes an account and has the node find it at its next look.
func (a *agency) add(trust, name string) {
	a.t.Helper()
	op, err := authority()
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := op.NewIntegrator(trust, name, false, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.user[name] = made
	a.list = append(a.list, Integrator{Name: name, Key: []byte("the key of " + name), Creds: written(a.t, made.Publisher)})
}

func (a *agency) until(what string, ok func() bool) {
	a.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(natsPatience); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			a.t.Fatalf("never: %s", what)
		}
	}
}

// agree stores a consent with some scopes, as if the device had sent it.
func (a *agency) agree(id wire.ID, scopes wire.Scope) {
	a.t.Helper()
	public, device, err := ed25519.GenerateKey(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	now := wire.Unix32(time.Now())
	st, err := a.store.Load(a.t.Context(), id)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := wire.Certificate{ID: id, Device: wire.PublicKey(public), IssuedAt: now - 60 + st.Seq, LifetimeHours: 24}
	next, _, err := st.WithCertificate(cert)
	if err != nil {
		a.t.Fatal(err)
	}
	r := wire.Consent{ID: id, Scopes: scopes, Seq: next.Seq + 1, IssuedAt: now, ExpiresAt: now + 3600}
	r.Sign(device)
	if next, _, err = next.WithRecord(r.Marshal(), time.Now()); err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.store.Save(a.t.Context(), id, next); err != nil {
		a.t.Fatal(err)
	}
}

// step has the worker publish a step of a job of an ID.
func (a *agency) step(id wire.ID, message byte, state string) {
	a.t.Helper()
	party, err := sealParty(partyKey(a.node.cfg.TagKey), id, time.Now())
	if err != nil {
		a.t.Fatal(err)
	}
	err = a.worker.Transition(a.t.Context(), fallback.Transition{
		Message: wire.MessageID{message}, State: state, Attempt: 1, Parts: 1, Route: "uk", At: time.Now(), Party: party,
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// events is what an integrator's stream holds.
func (a *agency) events(name string) (all []wire.CloudEvent) {
	a.t.Helper()
	u := client(a.t, a.node.nats, a.user[name].User)
	defer u.nc.Close()
	js, err := jetstream.New(u.nc)
	if err != nil {
		a.t.Fatal(err)
	}
	s, err := js.Stream(a.t.Context(), bridge.StreamIntegrator)
	if err != nil {
		a.t.Fatal(err)
	}
	n := int(s.CachedInfo().State.Msgs)
	c, err := js.OrderedConsumer(a.t.Context(), bridge.StreamIntegrator, jetstream.OrderedConsumerConfig{})
	if err != nil {
		a.t.Fatal(err)
	}
	for range n {
		m, err := c.Next(jetstream.FetchMaxWait(natsPatience))
		if err != nil {
			a.t.Fatal(err)
		}
		e, err := wire.ParseEvent(m.Data())
		if err != nil || m.Subject() != wire.IntegratorSubject(e) {
			a.t.Fatalf("%s: %v", m.Subject(), err)
		}
		all = append(all, e)
	}
	return all
}

var everyScope = wire.ScopeMessaging | wire.ScopeGateway | wire.ScopeIntegrations

// TestIntegrators: who agrees is heard of by every integrator, under another pseudonym at each, and by
// nothing else that could be joined; who does not agree is not, and stays so. [E-1] [E-2] [E-4]
func TestIntegrators(t *testing.T) {
	a := newAgency(t, "acme", "beta")
	yes, no := wire.ID{1, 1}, wire.ID{2, 2}
	a.agree(yes, everyScope)
	a.agree(no, everyScope&^wire.ScopeIntegrations)
	for _, state := range []string{"submitting", "submitted", "delivered"} {
		a.step(no, 2, state)
		a.step(yes, 1, state)
	}
	a.until("six published, six withheld", func() bool {
		c := a.node.EventCounts()
		return c.Published == 6 && c.Withheld == 6
	})
	subjects := map[string]string{}
	for _, name := range []string{"acme", "beta"} {
		got := a.events(name)
		if len(got) != 3 {
			t.Fatalf("%s has %d events", name, len(got))
		}
		for i, state := range []string{"submitting", "submitted", "delivered"} {
			e := got[i]
			want := wire.IntegratorPseudonym([]byte("the key of "+name), yes).String()
			if e.Type != "bluejay.sms."+state || e.Subject != want || e.Source != "/bluejay/test" || e.ID != (wire.MessageID{1}).String()+"."+state {
				t.Errorf("%s: %+v", name, e)
			}
			subjects[name] = e.Subject
			b, err := e.Marshal()
			if err != nil || strings.Contains(string(b), yes.String()) {
				t.Errorf("the ID is in it: %v", err)
			}
		}
	}
	if subjects["acme"] == subjects["beta"] {
		t.Error("two integrators can join their pseudonyms")
	}
	if err := a.worker.Transition(t.Context(), fallback.Transition{Message: wire.MessageID{9}, State: "submitted", At: time.Now(), Party: []byte("made up")}); err != nil {
		t.Fatal(err)
	}
	a.until("a party that is none is withheld", func() bool { return a.node.EventCounts().Withheld == 8 })
}

// TestWithdrawFromIntegrators: what is stored about the user goes, the last event says so, and nothing
// follows, not even what was on its way; others stay. Doing it again tells nobody anything. [E-5] [C-revoke]
func TestWithdrawFromIntegrators(t *testing.T) {
	a := newAgency(t, "acme", "beta")
	id, other := wire.ID{1, 1}, wire.ID{1, 2}
	a.agree(id, everyScope)
	a.agree(other, everyScope)
	a.step(id, 1, "submitted")
	a.step(other, 2, "submitted")
	a.until("published", func() bool { return a.node.EventCounts().Published == 4 })

	var going sync.WaitGroup
	stop := make(chan struct{})
	going.Go(func() {
		for i := byte(10); ; i++ {
			select {
			case <-stop:
				return
			default:
				a.step(id, i, "submitted")
			}
		}
	})
	a.agree(id, 0) // stored; the fence follows
	if err := a.node.outlets.withdraw(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	close(stop)
	going.Wait()
	a.step(id, 3, "delivered")
	a.step(other, 2, "delivered")
	a.until("the other's delivery", func() bool {
		got := a.events("acme")
		return got[len(got)-1].Type == "bluejay.sms.delivered"
	})
	if err := a.node.outlets.withdraw(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"acme", "beta"} {
		who := wire.IntegratorPseudonym([]byte("the key of "+name), id).String()
		var about []string
		for _, e := range a.events(name) {
			if e.Subject == who {
				about = append(about, e.Type)
			}
		}
		if len(about) != 1 || about[0] != "bluejay.consent.withdrawn" {
			t.Errorf("%s holds %v about who withdrew", name, about)
		}
	}
	stranger := wire.ID{7}
	if err := a.node.outlets.withdraw(t.Context(), stranger, false); err != nil {
		t.Fatal(err)
	}
	for _, e := range a.events("acme") {
		if e.Subject == wire.IntegratorPseudonym([]byte("the key of acme"), stranger).String() {
			t.Error("an event about somebody who never agreed")
		}
	}
}

// TestIntegratorsChange: one that is added is served from then on, one that cannot be reached holds up
// nobody but the withdrawal of who agreed, one that is removed gets nothing more. [E-3]
func TestIntegratorsChange(t *testing.T) {
	a := newAgency(t, "acme")
	id := wire.ID{1, 1}
	a.agree(id, everyScope)
	a.step(id, 1, "submitted")
	a.until("published", func() bool { return a.node.EventCounts().Published == 1 })
	a.add(a.node.cfg.NATS.Trust, "late")
	a.node.outlets.refresh(t.Context())
	a.until("both are served", func() bool { return a.node.EventCounts().Integrators == 2 })
	a.step(id, 1, "delivered")
	a.until("published to both", func() bool { return a.node.EventCounts().Published == 3 })
	if got := a.events("late"); len(got) != 1 || got[0].Type != "bluejay.sms.delivered" {
		t.Errorf("the late one has %d events", len(got))
	}

	a.mu.Lock()
	a.list = append(a.list, Integrator{Name: "broken", Key: []byte("a key"), Creds: "/nonexistent"})
	a.mu.Unlock()
	a.node.outlets.refresh(t.Context())
	a.step(id, 2, "submitted")
	a.until("the others are served", func() bool { return a.node.EventCounts().Published == 5 })
	if err := a.node.outlets.withdraw(t.Context(), id, true); err == nil {
		t.Error("withdrawn, though one could not be asked")
	}
	if err := a.node.outlets.withdraw(t.Context(), wire.ID{9}, false); err != nil {
		t.Errorf("who never agreed is held up: %v", err)
	}
	a.mu.Lock()
	a.list = a.list[:1]
	a.mu.Unlock()
	a.node.outlets.refresh(t.Context())
	if n := a.node.EventCounts().Integrators; n != 1 {
		t.Errorf("%d are served", n)
	}
	a.mu.Lock()
	a.err = errors.New("the folder cannot be read")
	a.mu.Unlock()
	a.node.outlets.refresh(t.Context())
	if n := a.node.EventCounts().Integrators; n != 1 {
		t.Errorf("%d are served while the list cannot be read", n)
	}
	if err := a.node.outlets.withdraw(t.Context(), id, true); err == nil {
		t.Error("withdrawn, though it is not known from whom")
	}
}

// TestParty: opens to its ID for three days, at the node that made it, and to nobody else. [E-4]
func TestParty(t *testing.T) {
	key, id, now := partyKey(make([]byte, 32)), wire.ID{1, 2, 3}, time.Unix(1_800_000_000, 0)
	p, err := sealParty(key, id, now)
	if err != nil || len(p) != partyLen {
		t.Fatalf("%d bytes, %v", len(p), err)
	}
	for days, ok := range map[int]bool{0: true, 2: true, 3: false, -1: false} {
		got, err := openParty(key, p, now.AddDate(0, 0, days))
		if (err == nil) != ok || ok && got != id {
			t.Errorf("after %d days: %v", days, err)
		}
	}
	again, err := sealParty(key, id, now)
	if err != nil || string(again) == string(p) {
		t.Error("the same sender looks the same twice")
	}
	for bit := range 8 * len(p) {
		bad := append([]byte(nil), p...)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := openParty(key, bad, now); !errors.Is(err, errParty) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
	for _, bad := range [][]byte{nil, p[1:], append(append([]byte(nil), p...), 0)} {
		if _, err := openParty(key, bad, now); !errors.Is(err, errParty) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if _, err := openParty(partyKey([]byte("another node's tag key, 32 bytes")), p, now); !errors.Is(err, errParty) {
		t.Errorf("another node: %v", err)
	}
	if _, err := sealParty(nil, id, now); err == nil {
		t.Error("sealed without a key")
	}
}
