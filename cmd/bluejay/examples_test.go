//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// examples start the programs for integrators of one language, as processes.
type examples func(t *testing.T, program string, args ...string) *peer

// goExamples builds examples/go, which is a module of its own.
func goExamples(t *testing.T) examples {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./...")
	build.Dir = filepath.Join("..", "..", "examples", "go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building examples/go: %v\n%s", err, out)
	}
	return func(t *testing.T, program string, args ...string) *peer {
		return startProgram(t, filepath.Join(bin, program), args...)
	}
}

// jsExamples are examples/js on Node.
func jsExamples(t *testing.T) examples {
	t.Helper()
	dir := filepath.Join("..", "..", "examples", "js")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@nats-io", "jetstream")); err != nil {
		t.Fatalf("%v: install it with scripts/peers", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v: install Node 18 or newer", err)
	}
	return func(t *testing.T, program string, args ...string) *peer {
		return startProgram(t, node, append([]string{filepath.Join(dir, program+".mjs")}, args...)...)
	}
}

// prints returns the next line of a program that has a form, and what its groups matched.
func (p *peer) prints(t *testing.T, form string) []string {
	t.Helper()
	ctx, wanted := bounded(t), regexp.MustCompile(form)
	for {
		select {
		case line := <-p.lines:
			if m := wanted.FindStringSubmatch(line); m != nil {
				return m
			}
		case <-p.ended:
			t.Fatalf("it ended before it printed %s:\n%s", form, p.log)
		case <-ctx.Done():
			t.Fatalf("it does not print %s:\n%s", form, p.log)
		}
	}
}

// event is the next event of a type that a program prints; it is held to the schema.
func (p *peer) event(t *testing.T, kind string) wire.CloudEvent {
	t.Helper()
	line := p.prints(t, `^\{.*"type":"`+regexp.QuoteMeta(kind)+`".*\}$`)[0]
	schema := compiled(t, jsonschema.Draft2020, parsedJSON(t, printed(t, "nats", "schema", "event")), "")
	if err := schema.Validate(parsedJSON(t, []byte(line))); err != nil {
		t.Error(err)
	}
	e, err := wire.ParseEvent([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// joins enrols a user; the password comes by way of the program that is the route for SMS.
func (w *world) joins(t *testing.T, route *peer, name, number string, scopes wire.Scope) *phone {
	t.Helper()
	p := w.phone(name, number)
	if err := p.Enrol(bounded(t), p.number, p.Notice("en")); err != nil {
		t.Fatal(err)
	}
	text := route.prints(t, `^SMS to `+regexp.QuoteMeta(number)+`: (.*)`)[1]
	if err := p.Confirm(bounded(t), passwordPattern.FindString(text)); err != nil {
		t.Fatal(err)
	}
	if err := p.OptIn(bounded(t), scopes, wire.Listed); err != nil {
		t.Fatal(err)
	}
	if err := p.Connect(bounded(t)); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPeersExamples: the programs that docs/integrators.md shows do what it says, in Go and in
// JavaScript, on a real node: texts go out by the example route and their senders hear of it, the live
// one prints events, the durable one loses none when it is killed, stores none twice, acknowledges each,
// and erases. All that they hear and say is as documented. [E-3] [E-5]
func TestPeersExamples(t *testing.T) {
	for language, built := range map[string]func(*testing.T) examples{"go": goExamples, "js": jsExamples} {
		t.Run(language, func(t *testing.T) { tryExamples(t, built(t)) })
	}
}

func tryExamples(t *testing.T, program examples) {
	w, carrier := routed(t)
	acme := filepath.Join(t.TempDir(), "acme.creds")
	if out, code := run(t, "nats", "creds", "acme", "--dir", w.dir, "--out", acme); code != 0 {
		t.Fatal(out)
	}
	w.start()
	routeTap, liveTap, durableTap := tap(t, w.at.NATS), tap(t, w.at.NATS), tap(t, w.at.NATS)
	route := program(t, "smsworker", routeTap.url, carrier)
	route.prints(t, "serving")
	live := program(t, "tail", liveTap.url, acme)
	live.prints(t, "listening")
	store := filepath.Join(t.TempDir(), "events")
	durable := program(t, "durable", durableTap.url, acme, store)

	agreed := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway | wire.ScopeIntegrations
	alice := w.joins(t, route, "alice", aliceNumber, agreed)
	bob := w.joins(t, route, "bob", bobNumber, agreed&^wire.ScopeIntegrations)
	alice.meets(t, bob)

	text := func(words string) (message string) {
		id := alice.send(words)
		route.prints(t, `^SMS to `+regexp.QuoteMeta(bobNumber)+`: .*`+words)
		alice.becomes(id, handset.SMSDelivered)
		e := live.event(t, "bluejay.sms.delivered")
		return strings.TrimSuffix(e.ID, ".delivered")
	}
	first := text("the first text")
	if e := durable.event(t, "bluejay.sms.delivered"); e.ID != first+".delivered" {
		t.Errorf("%s, want %s", e.ID, first)
	}
	until(t, "each event is acknowledged", durableTap.acknowledged)
	durable.kill()
	second := text("while the durable one was away")
	durable = program(t, "durable", durableTap.url, acme, store)
	if e := durable.event(t, "bluejay.sms.queued"); !strings.HasPrefix(e.ID, second) {
		t.Errorf("first of all it prints %s, want %s", e.ID, second)
	}
	durable.event(t, "bluejay.sms.delivered")
	again := filepath.Join(t.TempDir(), "again") // for the server another consumer, which gets everything
	if err := os.CopyFS(again, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	twice := program(t, "durable", w.at.NATS, acme, again)
	third := text("the third text")
	if e := twice.event(t, "bluejay.sms.queued"); !strings.HasPrefix(e.ID, third) {
		t.Errorf("stored twice: %s, want %s", e.ID, third)
	}
	withdraws(t, alice, live, durable, store)
	until(t, "each event is acknowledged", durableTap.acknowledged)
	w.stop()
	routeTap.documented(t, "takeText", "takeText answer", "report", "report answer")
	liveTap.documented(t, "hearSMS", "hearWithdrawn")
	durableTap.documented(t, "hearSMS", "hearWithdrawn")
}

// acknowledged reports whether there were events, and as many acknowledgements.
func (w *wiretap) acknowledged() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, acks := 0, 0
	for _, m := range w.messages {
		switch {
		case !m.sent && strings.HasPrefix(m.subject, "bluejay.events."):
			events++
		case m.sent && strings.HasPrefix(m.subject, "$JS.ACK.BLUEJAY_EVENTS."):
			acks++
		}
	}
	return events > 0 && acks == events
}

// meets adds each to the other's contacts; then the other one leaves.
func (p *phone) meets(t *testing.T, other *phone) {
	t.Helper()
	var err error
	if other.contact, err = other.AddContact(bounded(t), "Alice", p.number); err != nil {
		t.Fatal(err)
	}
	if p.contact, err = p.AddContact(bounded(t), "Bob", other.number); err != nil {
		t.Fatal(err)
	}
	if err := p.OpenConversation(p.contact); err != nil {
		t.Fatal(err)
	}
	p.awaits("blue", colour(p.contact, handset.Blue))
	if err := other.Disconnect(bounded(t)); err != nil {
		t.Fatal(err)
	}
	p.awaits("grey", colour(p.contact, handset.Grey))
}

// withdraws takes a consent back: both programs hear of it, and one event about the user is left.
func withdraws(t *testing.T, p *phone, live, durable *peer, store string) {
	t.Helper()
	if stored := contents(t, store); len(stored) < 9 {
		t.Errorf("%d events stored of three texts", len(stored))
	}
	if err := p.OptIn(bounded(t), wire.ScopeMessaging|wire.ScopePresence|wire.ScopeGateway, wire.Listed); err != nil {
		t.Fatal(err)
	}
	live.event(t, "bluejay.consent.withdrawn")
	e := durable.event(t, "bluejay.consent.withdrawn")
	left, err := filepath.Glob(filepath.Join(store, "*", "*"))
	if err != nil || len(left) != 1 || !strings.HasSuffix(left[0], filepath.Join(e.Subject, e.ID+".json")) {
		t.Errorf("left in the store: %q", left)
	}
}

// TestPeersAsyncAPI: the document is valid AsyncAPI 3.0 by AsyncAPI's own JSON Schema, and one that is
// not, in any of these ways, is refused.
func TestPeersAsyncAPI(t *testing.T) {
	file := filepath.Join("..", "..", "scripts", "asyncapi", "node_modules", "@asyncapi", "specs", "schemas", "3.0.0.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: install it with scripts/peers", err)
	}
	schema, err := compile(jsonschema.Draft7, parsedJSON(t, raw), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(parsedJSON(t, printed(t, "nats", "asyncapi"))); err != nil {
		t.Errorf("%#v", err)
	}
	for name, spoil := range map[string]func(map[string]any){
		"another version":   func(d map[string]any) { d["asyncapi"] = "2.6.0" },
		"no title":          func(d map[string]any) { delete(d["info"].(map[string]any), "title") },
		"an unknown action": func(d map[string]any) { at(d, "#/operations/report").(map[string]any)["action"] = "publish" },
		"an unknown scheme": func(d map[string]any) {
			at(d, "#/components/securitySchemes/credentials").(map[string]any)["type"] = "natsCredentials"
		},
		"an unknown type": func(d map[string]any) { at(d, "#/components/schemas/sms").(map[string]any)["type"] = "record" },
		"an unknown key":  func(d map[string]any) { at(d, "#/channels/submit").(map[string]any)["queue"] = "sms" },
	} {
		_, tree := asyncTree(t)
		spoil(tree.(map[string]any))
		if schema.Validate(tree) == nil {
			t.Errorf("%s: valid", name)
		}
	}
}
