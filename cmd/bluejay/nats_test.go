package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/sms"
	"bluejay/wire"
)

// run runs a command to its end and returns what it printed.
func run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	p := bluejay(t, nil, args...)
	code = p.wait(t)
	for line := range p.lines {
		out += string(line) + "\n"
	}
	return out + p.stderr.String(), code
}

// reader is an integrator of a running node.
type reader struct {
	t   *testing.T
	in  *bridge.Reader
	tap *wiretap
}

// integrator makes one with the command and connects as it.
func (w *world) integrator(t *testing.T, name string, more ...string) (*reader, string) {
	t.Helper()
	creds := filepath.Join(t.TempDir(), name+".creds")
	if out, code := run(t, append([]string{"nats", "creds", name, "--dir", w.dir, "--out", creds}, more...)...); code != 0 {
		t.Fatalf("%s", out)
	}
	info, err := os.Stat(creds)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("credentials: %v", err)
	}
	return w.reads(t, name, creds), creds
}

// reads connects as an integrator whose credentials were made, by way of a wiretap.
func (w *world) reads(t *testing.T, name, creds string) *reader {
	t.Helper()
	between := tap(t, w.at.NATS)
	in, err := bridge.OpenReader(bounded(t), bridge.IntegratorConfig{URL: between.url, Creds: creds, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	return &reader{t, in, between}
}

// awaits returns the next event of a type.
func (r *reader) awaits(kind string) wire.CloudEvent {
	r.t.Helper()
	for {
		raw, err := r.in.Next(bounded(r.t))
		if err != nil {
			r.t.Fatalf("no %s: %v", kind, err)
		}
		e, err := wire.ParseEvent(raw)
		if err != nil {
			r.t.Fatal(err)
		}
		if strings.Contains(string(raw), aliceNumber[1:]) || strings.Contains(string(raw), bobNumber[1:]) {
			r.t.Fatalf("a number in %s", raw)
		}
		if e.Type == kind {
			return e
		}
	}
}

// TestIntegrators: two integrators of a running node hear of what alice, who agreed to it, sends as SMS,
// under two pseudonyms, and nothing of what she sent before she did; when she withdraws, what they hold is gone, one
// event says so, and there is silence. [E-1] [E-2] [E-3] [E-5]
func TestIntegrators(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	acme, _ := w.integrator(t, "acme")
	beta, _ := w.integrator(t, "beta")
	alice, bob := w.pair()
	until(t, "both are served", func() bool { // a new integrator is served within seconds
		_, body := get(t, "http://"+w.at.HTTP+"/metrics")
		return strings.Contains(body, "bluejay_integrators 2")
	})
	alice.viaSMS(bob, "before alice agreed to this")
	everything := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway | wire.ScopeIntegrations
	if err := alice.OptIn(bounded(t), everything, wire.Listed); err != nil {
		t.Fatal(err)
	}
	agreed := alice.send("after alice agreed")
	alice.becomes(agreed, handset.SMSDelivered)
	one, two := acme.awaits("bluejay.sms.delivered"), beta.awaits("bluejay.sms.delivered")
	if one.Subject == two.Subject || one.Source != "/bluejay/bluejay" {
		t.Errorf("%+v and %+v", one, two)
	}
	var d wire.SMSEvent
	if err := json.Unmarshal(one.Data, &d); err != nil || !d.Final || d.Parts != 1 || d.Route != "smpp" {
		t.Errorf("%s", one.Data)
	}
	if about := acme.in.About(bounded(t)); len(about) != 1 || about[one.Subject] < 3 {
		t.Errorf("acme has heard of %v", about)
	}
	if err := alice.OptIn(bounded(t), everything&^wire.ScopeIntegrations, wire.Listed); err != nil {
		t.Fatal(err)
	}
	if e := acme.awaits("bluejay.consent.withdrawn"); e.Subject != one.Subject {
		t.Errorf("%+v", e)
	}
	if stored := acme.in.About(bounded(t)); stored[one.Subject] != 1 {
		t.Errorf("after the withdrawal acme has %v", stored)
	}
	again := alice.send("after the withdrawal")
	alice.becomes(again, handset.SMSDelivered)
	if stored := acme.in.About(bounded(t)); stored[one.Subject] != 1 {
		t.Errorf("after the silence began acme has %v", stored)
	}
	if out, code := run(t, "nats", "revoke", "acme", "--dir", w.dir); code != 0 {
		t.Errorf("%s", out)
	}
	until(t, "acme is served no more", func() bool {
		_, body := get(t, "http://"+w.at.HTTP+"/metrics")
		return strings.Contains(body, "bluejay_integrators 1")
	})
	w.stop()
	acme.tap.documented(t, "hearSMS", "hearWithdrawn")
	beta.tap.documented(t, "hearSMS", "hearWithdrawn")
}

// routed prepares a node whose only way out is an integrator called carrier, and returns its credentials.
func routed(t *testing.T) (w *world, creds string) {
	t.Helper()
	w = newWorld(t)
	if err := initKeys(w.dir, "bluejay"); err != nil {
		t.Fatal(err)
	}
	creds = filepath.Join(t.TempDir(), "carrier.creds")
	if out, code := run(t, "nats", "creds", "carrier", "--dir", w.dir, "--out", creds, "--sms"); code != 0 || !strings.Contains(out, `via = "remote"`) {
		t.Fatalf("%s", out)
	}
	routes := filepath.Join(t.TempDir(), "routes.toml")
	err := os.WriteFile(routes, []byte("[[route]]\nname = \"carrier\"\nvia = \"remote\"\nfrom = \"Bluejay\"\ncreds = \""+
		rolesDir(w.dir, bridge.RoleWorker).path("carrier.creds")+"\"\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w.args = append(w.args, "--sms-routes", routes)
	return w, creds
}

// TestRemoteRoute: an integrator is the way out: it gets the texts, and its receipts and what phones
// text to it come back. [F-18]
func TestRemoteRoute(t *testing.T) {
	t.Parallel()
	w, file := routed(t)
	carrier := w.start().reads(t, "carrier", file)
	in := carrier.in
	texts := make(chan sms.RemoteRequest, 10)
	if err := in.Serve(func(request []byte) []byte {
		var q sms.RemoteRequest
		if err := json.Unmarshal(request, &q); err != nil {
			return []byte(`{"status":"permanent"}`)
		}
		texts <- q
		return []byte(`{"status":"accepted","id":"` + q.ID + `"}`)
	}); err != nil {
		t.Fatal(err)
	}
	p := w.phone("alice", aliceNumber)
	if err := p.Enrol(bounded(t), p.number, p.Notice("en")); err != nil {
		t.Fatal(err)
	}
	q := <-texts
	if q.To != aliceNumber || q.Class != "urgent" || q.From != "Bluejay" || q.Parts != 1 {
		t.Errorf("%+v", q)
	}
	if err := p.Confirm(bounded(t), passwordPattern.FindString(q.Text)); err != nil {
		t.Errorf("the password came another way: %v", err)
	}
	for _, e := range []sms.RemoteEvent{
		{Event: "receipt", ID: q.ID, To: q.To, State: "delivered"}, {Event: "incoming", From: bobNumber, To: "Bluejay", Text: "HELP"},
	} {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := in.Report(bounded(t), raw); err != nil || string(answer) != "+OK" {
			t.Errorf("%s: %q, %v", e.Event, answer, err)
		}
	}
	select {
	case help := <-texts:
		if help.To != bobNumber || !strings.Contains(help.Text, "STOP") {
			t.Errorf("%+v", help)
		}
	case <-time.After(testTime):
		t.Error("no answer to HELP")
	}
	w.stop()
	carrier.tap.documented(t, "takeText", "takeText answer", "report", "report answer")
}

// TestCredsRefused: what would leave half an integrator behind, or two of a name, is refused.
func TestCredsRefused(t *testing.T) {
	t.Parallel()
	dir := made(t)
	here := t.TempDir()
	out := func(name string) string { return filepath.Join(here, name) }
	if text, code := run(t, "nats", "creds", "acme", "--dir", dir, "--out", out("acme")); code != 0 {
		t.Fatalf("%s", text)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"nats", "creds", "acme", "--dir", dir, "--out", out("again")}, "already"},
		{[]string{"nats", "creds", "Acme", "--dir", dir, "--out", out("x")}, "is no name"},
		{[]string{"nats", "creds", "../x", "--dir", dir, "--out", out("x")}, "is no name"},
		{[]string{"nats", "creds", "beta", "--dir", dir, "--out", out("acme")}, "file exists"},
		{[]string{"nats", "creds", "beta", "--dir", here}, "keys init"},
		{[]string{"nats", "revoke", "beta", "--dir", dir}, "no integrator is called"},
		{[]string{"nats", "revoke", "../broker", "--dir", dir}, "no integrator is called"},
		{[]string{"nats", "config", "--dir", here}, "no such file"},
	} {
		if text, code := run(t, tt.args...); code != 1 || !strings.Contains(text, tt.want) {
			t.Errorf("%v: exit code %d, %q", tt.args, code, text)
		}
	}
	c := nodeConfig{Dir: dir}
	list, err := c.integrators()
	if err != nil || len(list) != 1 || list[0].Name != "acme" || len(list[0].Key) != sizeEvent {
		t.Errorf("%d integrators, %v", len(list), err)
	}
	if text, code := run(t, "nats", "revoke", "acme", "--dir", dir); code != 0 {
		t.Errorf("%s", text)
	}
	if list, err := c.integrators(); err != nil || len(list) != 0 {
		t.Errorf("%d integrators after the revocation, %v", len(list), err)
	}
	if left := contents(t, string(integratorsDir(dir))); len(left) != 0 {
		t.Errorf("left behind: %d files", len(left))
	}
	if text, code := run(t, "nats", "creds", "acme", "--dir", dir, "--out", out("anew")); code != 0 {
		t.Errorf("the name can be given again: %s", text)
	}
	text, code := run(t, "nats", "config", "--dir", dir, "--listen", "127.0.0.1:4222", "--tls-cert", "")
	if code != 0 || !strings.Contains(text, "sync_interval: always") {
		t.Errorf("exit code %d, %s", code, text)
	}
}
