package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/bridge"
	"bluejay/wire"
)

// TestAuthorityStored: the operator's secret survives its store, and nothing else is taken for one.
func TestAuthorityStored(t *testing.T) {
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(b)
	if err != nil {
		t.Fatal(err)
	}
	if b2, err := again.Marshal(); err != nil || !bytes.Equal(b, b2) {
		t.Errorf("another: %v", err)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", a, a, a, a); strings.Contains(s, "SO") || strings.Contains(s, "{") {
		t.Errorf("it prints: %s", s)
	}
	for _, bad := range []string{"", "{}", "[]", strings.Replace(string(b), `"operator":"S`, `"operator":"T`, 1), strings.Replace(string(b), `"worker"`, `"walker"`, 1)} {
		if _, err := ParseAuthority([]byte(bad)); !errors.Is(err, errAuthority) {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
	if _, err := a.RoleCreds("nobody"); err == nil {
		t.Error("credentials of no role")
	}
}

// client connects with an integrator's credentials and reports refusals.
func client(t *testing.T, n *NATS, creds []byte) user {
	t.Helper()
	u := user{denied: make(chan struct{}, 100)}
	nc, err := dialNATS(n.URL(), nats.UserCredentials(written(t, creds)), nats.ErrorHandler(
		func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				u.denied <- struct{}{}
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	u.nc = nc
	return u
}

// TestIntegratorAccounts: an integrator's account is there while the server runs; it reads the events
// that the broker publishes there, live, from the stream and with a durable consumer, and nothing of
// another integrator, of the node, or of the server. [E-3]
func TestIntegratorAccounts(t *testing.T) {
	c := natsConfig(t, t.TempDir())
	n := startNATS(t, c)
	broker := connect(t, bridge.Config{Role: bridge.RoleBroker, URL: n.URL()})
	if err := broker.EnsureStreams(t.Context(), bridge.Limits{}); err != nil {
		t.Fatal(err)
	}
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	integrator := func(name string) (IntegratorCreds, *bridge.Integrator) {
		made, err := a.NewIntegrator(c.Trust, name, false, 0)
		if err != nil {
			t.Fatal(err)
		}
		i, err := broker.OpenIntegrator(t.Context(), bridge.IntegratorConfig{URL: n.URL(), Creds: written(t, made.Publisher), Name: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(i.Close)
		return made, i
	}
	acme, toAcme := integrator("acme")
	acmeTwo, toAcmeTwo := integrator("acme-two")
	one, two := client(t, n, acme.User), client(t, n, acmeTwo.User)
	live, err := one.nc.SubscribeSync(wire.IntegratorSubjects())
	if err != nil {
		t.Fatal(err)
	}
	other, err := two.nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.nc.Flush(), two.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	<-two.denied // ">" is more than it may have
	_ = other
	who := wire.IntegratorPseudonym([]byte("key of acme"), wire.ID{1})
	e, err := wire.NewSMSEvent("test", who, time.Now(), wire.SMSEvent{Message: wire.MessageID{1}.String(), State: "submitted", Attempt: 1, Parts: 1})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // stored once
		if err := toAcme.Publish(t.Context(), wire.IntegratorSubject(e), e.ID, raw); err != nil {
			t.Fatal(err)
		}
	}
	m, err := live.NextMsg(natsPatience)
	if err != nil || !bytes.Equal(m.Data, raw) || m.Header.Get("Content-Type") != wire.EventContentType {
		t.Errorf("live: %v", err)
	}
	js, err := jetstream.New(one.nc)
	if err != nil {
		t.Fatal(err)
	}
	durable, err := js.CreateOrUpdateConsumer(t.Context(), bridge.StreamIntegrator, jetstream.ConsumerConfig{Durable: "mine", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := durable.Next(jetstream.FetchMaxWait(natsPatience))
	if err != nil || !bytes.Equal(msg.Data(), raw) {
		t.Fatalf("durable: %v", err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := durable.Next(jetstream.FetchMaxWait(200 * time.Millisecond)); err == nil {
		t.Error("the same event twice")
	}
	jsTwo, err := jetstream.New(two.nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jsTwo.Stream(t.Context(), bridge.StreamIntegrator)
	if err != nil || s.CachedInfo().State.Msgs != 0 {
		t.Errorf("another integrator's stream: %v", err)
	}
	for what, do := range map[string]func() error{
		"publish an event":          one.publish("bluejay.events.sms.submitted.x"),
		"another's subject":         one.publish("acme-two.x"),
		"a wildcard of a name":      one.publish("acme-x"),
		"purge the stream":          one.publish("$JS.API.STREAM.PURGE." + bridge.StreamIntegrator),
		"make a stream":             one.publish("$JS.API.STREAM.CREATE.MINE"),
		"queue a job":               one.publish("bj.sms.job.normal.AAAAAAAAAAAA"),
		"ask the registrar":         one.publish(wire.SubjectLookup),
		"serve SMS":                 one.subscribe("bluejay.sms.submit"),
		"listen to jobs":            one.subscribe("bj.sms.job.>"),
		"listen to the system":      one.subscribe("$SYS.>"),
		"listen to another's inbox": one.subscribe("_INBOX_bluejay.>"),
	} {
		if !one.refused(t, do) {
			t.Errorf("it may %s", what)
		}
	}
	if err := toAcmeTwo.Publish(t.Context(), wire.IntegratorSubject(e), e.ID, raw); err != nil {
		t.Error(err)
	}
	had, err := toAcme.Purge(t.Context(), wire.SubjectsAbout(who))
	if !had || err != nil {
		t.Errorf("purge: %v, %v", had, err)
	}
	if had, err = toAcme.Purge(t.Context(), wire.SubjectsAbout(who)); had || err != nil {
		t.Errorf("purged again: %v, %v", had, err)
	}
	if s, err = jsTwo.Stream(t.Context(), bridge.StreamIntegrator); err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("the purge reached another's: %v", err)
	}
}

// TestRemoteRoute: with sms an integrator serves texts and sends receipts; the worker's user in its
// account may call it and nothing more.
func TestRemoteRoute(t *testing.T) {
	c := natsConfig(t, t.TempDir())
	n := startNATS(t, c)
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	made, err := a.NewIntegrator(c.Trust, "carrier", true, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	carrier := client(t, n, made.User)
	if _, err := carrier.nc.Subscribe("bluejay.sms.submit", func(m *nats.Msg) { _ = m.Respond(append([]byte("got "), m.Data...)) }); err != nil {
		t.Fatal(err)
	}
	if err := carrier.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	b := connect(t, bridge.Config{Role: bridge.RoleWorker, URL: n.URL()})
	r, err := b.OpenRemote(t.Context(), bridge.IntegratorConfig{URL: n.URL(), Creds: written(t, made.Remote), Name: "carrier"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if got, err := r.Call(t.Context(), []byte("a text")); err != nil || string(got) != "got a text" {
		t.Errorf("%q, %v", got, err)
	}
	if err := r.Receive(func(_ context.Context, event []byte) error {
		if string(event) != "delivered" {
			return errors.New("no")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for event, want := range map[string]string{"delivered": "+OK", "nonsense": "-ERR"} {
		m, err := carrier.nc.Request("bluejay.sms.receipt", []byte(event), natsPatience)
		if err != nil || !strings.HasPrefix(string(m.Data), want) {
			t.Errorf("%s: %v", event, err)
		}
	}
	if !carrier.refused(t, carrier.subscribe("bluejay.sms.receipt")) {
		t.Error("the carrier may listen to receipts")
	}
	carrier.nc.Close() // which the server notices in a moment; until then a text is in doubt
	for deadline := time.Now().Add(natsPatience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := r.Call(ctx, []byte("a text"))
		cancel()
		if errors.Is(err, bridge.ErrNobody) {
			break
		}
		if err == nil || time.Now().After(deadline) {
			t.Fatalf("nobody serves: %v", err)
		}
	}
	plain, err := a.NewIntegrator(c.Trust, "plain", false, 0)
	if err != nil || plain.Remote != nil {
		t.Errorf("%v", err)
	}
}

// TestIntegratorEnds: credentials that have expired, and an account that was removed, let nobody in.
func TestIntegratorEnds(t *testing.T) {
	c := natsConfig(t, t.TempDir())
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	gone, err := a.NewIntegrator(c.Trust, "gone", false, 0)
	if err != nil {
		t.Fatal(err)
	}
	old, err := a.NewIntegrator(c.Trust, "old", false, -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := RemoveIntegrator(c.Trust, gone.Account); err != nil {
		t.Fatal(err)
	}
	n := startNATS(t, c)
	for name, creds := range map[string][]byte{"removed": gone.User, "expired": old.User} {
		if nc, err := dialNATS(n.URL(), nats.UserCredentials(written(t, creds))); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
			if nc != nil {
				nc.Close()
			}
		}
	}
	for _, bad := range []string{"", "../operator", "AAAA", filepath.Base(os.Args[0])} {
		if err := RemoveIntegrator(c.Trust, bad); err == nil {
			t.Errorf("removed %q", bad)
		}
	}
	for _, bad := range []string{"", "Acme", "a.b", "a*", "../x", "-a", strings.Repeat("a", 33), "ä"} {
		if _, err := a.NewIntegrator(c.Trust, bad, false, 0); err == nil {
			t.Errorf("an integrator called %q", bad)
		}
	}
}
