package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/sms/smsc"
)

// demoLimit is how long the whole demo may take where nothing else runs; its own bound, demoTimeout, always holds.
const demoLimit = 10 * time.Second

// wanted is one line of `bluejay demo --json`: the event, and what its fields must be. A func says
// whether a number will do.
type wanted struct {
	event  string
	fields map[string]any
}

func between(low, high float64) func(float64) bool {
	return func(v float64) bool { return low <= v && v <= high }
}

// takes bounds a time in milliseconds: below least something is wrong, above most the machine may be busy.
type takes struct{ least, most float64 }

// script is what the demo has to show, in this order.
var script = []wanted{
	{"started", map[string]any{"processes": 3.0, "grey_min": demoGreyMin, "grey_max": demoGreyMax, "deadline": demoDeadline}},
	{"before_consent", map[string]any{"bytes": 0.0, "dials": 0.0}}, // [U-1]
	{"enrolled", map[string]any{"phone": "alice", "ms": takes{0, 5000}, "bytes_after_consent": between(1, 1e6)}},
	{"enrolled", map[string]any{"phone": "bob", "ms": takes{0, 5000}, "bytes_after_consent": between(1, 1e6)}},
	{"presence", map[string]any{"phone": "alice", "contact": "bob", "colour": "blue", "ms": takes{0, 5000}}},          // [P-18]
	{"delivered", map[string]any{"path": "ip", "ms": takes{0, 2000}, "texts": float64(demoTexts), "text": demoIP}},    // [C-1]
	{"presence", map[string]any{"phone": "alice", "contact": "bob", "colour": "grey", "ms": takes{150, 5000}}},        // [P-18]
	{"delivered", map[string]any{"path": "sms", "ms": takes{0, 5000}, "texts": float64(demoSMS), "text": demoViaSMS}}, // [F-1]
	{"revoked", map[string]any{"phone": "bob", "silence_ms": takes{0, 5000}}},                                         // [C-revoke]
	{"after_revocation", map[string]any{"deliveries": 0.0, "attempts": between(100, 1e4), "control_before": between(1, 9)}},
	{"scan", map[string]any{"numbers": 0.0, "texts": 0.0, "files": between(20, 1000), "bytes": between(1e4, 1e9), "control_found": float64(planted)}},
	{"summary", map[string]any{"accepted": float64(demoTexts + demoSMS), "ip": float64(demoTexts), "sms": float64(demoSMS), "returned": 0.0, "unaccounted": 0.0, "doubled": 0.0}},
}

func (w wanted) check(t *testing.T, line []byte) {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(line, &e); err != nil || e["event"] != w.event || !bytes.HasPrefix(line, []byte(`{"event":`)) {
		t.Fatalf("%s, want %q: %v", line, w.event, err)
	}
	for name, want := range w.fields {
		number, ok := e[name].(float64)
		switch want := want.(type) {
		case func(float64) bool:
			ok = ok && want(number)
		case takes:
			if ok = ok && number >= want.least; number > want.most {
				missed(t, fmt.Sprintf("%s: %s is %v, want at most %v", line, name, number, want.most))
			}
		default:
			ok = e[name] == want
		}
		if !ok {
			t.Errorf("%s: %s is %v", line, name, e[name])
		}
	}
}

// TestDemo: the whole service in one command: every claim is shown, in order, in time, and the exit
// code says so.
func TestDemo(t *testing.T) {
	t.Parallel()
	start := time.Now()
	p := bluejay(t, nil, "demo", "--json")
	if code := p.wait(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.stderr)
	}
	if took := time.Since(start); took > demoLimit {
		missed(t, fmt.Sprintf("it took %v, want at most %v", took, demoLimit))
	}
	i := 0
	for line := range p.lines {
		if i >= len(script) {
			t.Fatalf("one line too many: %s", line)
		}
		script[i].check(t, line)
		i++
	}
	if i != len(script) {
		t.Errorf("it ends after %d of %d events", i, len(script))
	}
	if p.stderr.String() != "" {
		t.Errorf("on standard error: %s", p.stderr)
	}
}

// TestDemoStory: for people it tells the same as a story without colour where there is no terminal;
// --keep keeps what was written, and in it only the phones know texts and numbers.
func TestDemoStory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kept")
	p := bluejay(t, nil, "demo", "--keep", dir)
	if code := p.wait(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.stderr)
	}
	var text strings.Builder
	for line := range p.lines {
		text.Write(append(line, '\n'))
	}
	for _, want := range []string{"0 dials, 0 bytes left her phone", "● blue", "○ grey", "“" + demoIP + "”", "0 numbers, 0 texts", "0 unaccounted for, 0 doubled", "bluejay serve"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not told in:\n%s", want, &text)
		}
	}
	if strings.ContainsAny(text.String(), "\x1b{}[]") {
		t.Errorf("marks are left in:\n%s", &text)
	}
	ns := needles([]string{aliceNumber, bobNumber}, []string{demoIP, demoViaSMS})
	for name, knows := range map[string]bool{"node": false, "alice": true, "bob": true} {
		if f := scanned(t, filepath.Join(dir, name), ns); (f.texts > 0) != knows || (f.numbers > 0) != knows {
			t.Errorf("%s: %d texts, %d numbers", name, f.texts, f.numbers)
		}
	}
	if code := bluejay(t, nil, "demo", "--keep", dir).wait(t); code != 1 {
		t.Errorf("a second demo in the same directory: exit code %d", code)
	}
}

// TestDemoFails: a node that misbehaves makes the demo end with exit code 1 and the reason, as its
// last event and on standard error.
func TestDemoFails(t *testing.T) {
	for fault, want := range map[string]string{
		"leak": "the node wrote down what it must not know: [", // [F-8]
		"mute": "the node ended before it was ready: see its log",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			p := bluejay(t, []string{faultEnv + "=" + fault}, "demo", "--json")
			if code := p.wait(t); code != 1 {
				t.Errorf("exit code %d", code)
			}
			var last struct{ Event, Reason string }
			for line := range p.lines {
				if err := json.Unmarshal(line, &last); err != nil {
					t.Fatal(err)
				}
				if last.Event == "summary" {
					t.Error("a summary after a failure")
				}
			}
			if last.Event != "failed" || !strings.Contains(last.Reason, want) || !strings.Contains(p.stderr.String(), want) {
				t.Errorf("%+v, %s; want %q", last, p.stderr, want)
			}
			if strings.Contains(last.Reason, bobNumber[1:]) {
				t.Errorf("the reason repeats what must not be known: %s", last.Reason)
			}
		})
	}
}

// stage is a demo that the test plays scene by scene.
func stage(t *testing.T, scenes ...func(*demo, context.Context) error) (*demo, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	d := &demo{tell: newTeller(&out, true), dir: t.TempDir(), people: map[string]*person{}}
	t.Cleanup(d.close)
	for _, scene := range append([]func(*demo, context.Context) error{(*demo).open}, scenes...) {
		if err := scene(d, bounded(t)); err != nil {
			t.Fatal(err)
		}
	}
	return d, &out
}

// fails plays a scene that has to fail for a reason.
func fails(t *testing.T, scene func(context.Context) error, want string) {
	t.Helper()
	if err := scene(bounded(t)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// waits plays a scene that waits for what does not come, and stops it once something else has happened.
func waits(t *testing.T, scene func(context.Context) error, happens string, happened func() bool, want string) {
	t.Helper()
	ctx, cancel := context.WithCancel(bounded(t))
	end := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { end <- scene(ctx) })
	defer func() { cancel(); wg.Wait() }()
	until(t, happens, func() bool { return happened() || len(end) > 0 })
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

var refuseAll smsc.Script = func(smsc.Part) smsc.Reply { return smsc.Reply{Status: 0x0b} } // ESME_RINVDSTADR: for good

// TestDemoBeforeConsentFails: a dial before consent, and a counter that counts nothing.
func TestDemoBeforeConsentFails(t *testing.T) {
	t.Parallel()
	d, _ := stage(t)
	alice := d.people["alice"]
	real := alice.relay
	alice.relay = &relay{published: map[byte][]byte{}}
	alice.relay.dials.Store(2)
	fails(t, d.beforeConsent, "2 dials and 0 bytes before consent")
	alice.relay.dials.Store(0)
	fails(t, d.enrol, "the relay counts nothing even now: its zero before consent proved nothing")
	alice.relay = real
	fails(t, d.beforeConsent, "a phone connected before its user agreed to anything") // she has agreed by now
}

// over reports whether the phone's newest connection has ended.
func (r *relay) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live != nil && errors.Is(r.live.phone.SetDeadline(time.Time{}), net.ErrClosed)
}

// TestDemoRefusedSMS: an SMSC that refuses everything stops the demo at the one-time password.
func TestDemoRefusedSMS(t *testing.T) {
	t.Parallel()
	d, _ := stage(t)
	d.smsc.Play(refuseAll)
	waits(t, d.enrol, "a password is submitted, and her phone has its answer and hangs up", func() bool {
		return d.smsc.Submits() > 0 && d.people["alice"].relay.over()
	}, "alice: no one-time password: ")
	if got := d.smsc.Messages(); len(got) != 0 {
		t.Errorf("%d SMS were accepted", len(got))
	}
}

// TestDemoTextsFail: no path, no green line: bob is away and his texts wait, or the SMSC refuses them.
// A text that has no end is unaccounted for. [C-1] [F-7]
func TestDemoTextsFail(t *testing.T) {
	t.Parallel()
	d, out := stage(t, (*demo).enrol, (*demo).blue, (*demo).grey)
	alice := d.people["alice"]
	d.smsc.Play(refuseAll)
	waits(t, d.overSMS, "the refused text has come back", func() bool {
		texts := alice.phone.Texts(alice.contact)
		return len(texts) == 1 && texts[0].State == handset.Failed
	}, "the SMSC never got the text")
	if err := alice.phone.SetMode(alice.contact, fallback.ModeNever); err != nil {
		t.Fatal(err)
	}
	waits(t, d.overIP, "her phone has a second text, and has decided to wait", func() bool {
		texts := alice.phone.Texts(alice.contact)
		return len(texts) == 2 && texts[1].State == handset.Waiting && texts[1].Why == fallback.WhyNever
	}, `a text did not become "delivered"`)
	fails(t, d.summary, "2 texts accepted, 0 over IP, 0 as SMS, 1 returned: 1 unaccounted for")
	if !strings.Contains(out.String(), `{"event":"summary","accepted":2,"ip":0,"sms":0,"returned":1,"unaccounted":1,"doubled":0}`) {
		t.Errorf("%s", out)
	}
}

// TestDemoSummaryDoubled: twice on the phone, twice as SMS, or once on each is a double outcome.
func TestDemoSummaryDoubled(t *testing.T) {
	shown := []handset.Text{{Body: "a"}}
	sent := []smsc.Message{{To: demoNumbers["bob"], Text: fallback.WithSender(demoNumbers["alice"], "a")}}
	for want, n := range map[string]int{
		"none":  arrivals("b", shown, sent),
		"ip":    arrivals("a", shown, nil),
		"sms":   arrivals("a", nil, sent),
		"both":  arrivals("a", shown, sent),
		"ip+ip": arrivals("a", append(shown, shown...), nil),
		"2 sms": arrivals("a", nil, append(sent, sent...)),
	} {
		if wants := map[string]int{"none": 0, "ip": 1, "sms": 1, "both": 2, "ip+ip": 2, "2 sms": 2}[want]; n != wants {
			t.Errorf("%s: %d arrivals, want %d", want, n, wants)
		}
	}
}

// TestDemoRevocationFails: deliveries after the revocation, and a silence that proves nothing. [C-revoke]
func TestDemoRevocationFails(t *testing.T) {
	t.Parallel()
	send := func(d *demo, ctx context.Context) error {
		_, err := d.people["alice"].send(ctx, "something to repeat", handset.Delivered)
		return err
	}
	d, out := stage(t, (*demo).enrol, (*demo).blue)
	fails(t, func(ctx context.Context) error { return d.repeat(ctx, 'i', 1) }, "alice's publish to i/ could not be repeated")
	if err := errors.Join(send(d, bounded(t)), d.grey(bounded(t))); err != nil {
		t.Fatal(err)
	}
	bob := d.people["bob"]
	reaching := d.people["alice"].relay.published['i']
	d.people["alice"].relay.sees(append(append([]byte(nil), reaching[:topicAt(reaching)]...),
		append([]byte("i/AAAAAAAAAAAA"), reaching[topicAt(reaching)+14:]...)...)) // to nobody's inbox
	fails(t, d.revoke, "brings nothing even before the revocation: silence after it would prove nothing")
	d.people["alice"].relay.sees(reaching)
	if err := d.grey(bounded(t)); err != nil {
		t.Fatal(err)
	}

	// a node that goes on delivering after it has acknowledged the revocation
	stop := make(chan struct{})
	leaking := hooked{out, func(line string) {
		if strings.Contains(line, `"event":"revoked"`) {
			go func() {
				for {
					select {
					case <-stop:
						return
					default:
						bob.relay.keepsBack(publish("i/tag", 1, "one more"))
						runtime.Gosched()
					}
				}
			}()
		}
	}}
	d.tell = newTeller(leaking, true)
	fails(t, d.revoke, " deliveries after the revocation was acknowledged")
	close(stop)
	if text := out.String(); !strings.Contains(text, `"event":"after_revocation"`) || strings.Contains(text, `"deliveries":0`) {
		t.Errorf("%s", out)
	}
}

// hooked is a writer that something happens at.
type hooked struct {
	io.Writer
	at func(string)
}

func (h hooked) Write(b []byte) (int, error) {
	h.at(string(b))
	return h.Writer.Write(b)
}

// TestDemoScanFails: a number anywhere in what the node wrote, and a node that did not end well.
func TestDemoScanFails(t *testing.T) {
	t.Parallel()
	d, out := stage(t)
	if err := os.WriteFile(filepath.Join(d.dir, "node", "nats", "hidden"), []byte("0"+bobNumber[3:]), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, d.scan, "the node wrote down what it must not know: [")
	if !strings.Contains(out.String(), `"event":"scan","numbers":1,"texts":0,`) {
		t.Errorf("%s", out)
	}
	dead, _ := stage(t)
	if err := dead.node.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	fails(t, dead.scan, "the node did not end well: signal: killed")
}

// TestDemoEnds: the demo gives up when it is told to, and leaves nothing behind.
func TestDemoEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	if err := runDemo(ctx, newTeller(&out, true), ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !strings.Contains(out.String(), `{"event":"failed","reason":"`) {
		t.Errorf("%s", &out)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestTeller: fields keep their order, every event has its words, marks become colour on a terminal.
func TestTeller(t *testing.T) {
	var out bytes.Buffer
	newTeller(&out, true).event("x", "b", 1, "a", "é\"", "f", func() {})
	if want := `{"event":"x","b":1,"a":"é\"","f":null}` + "\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	for _, w := range script {
		variant := ""
		for _, name := range []string{"colour", "path"} {
			if v, ok := w.fields[name].(string); ok {
				variant = "/" + v
			}
		}
		if stories[w.event+variant] == "" {
			t.Errorf("%s%s has no words", w.event, variant)
		}
	}
	out.Reset()
	coloured := &teller{out: &out, colour: true}
	coloured.event("failed", "reason", "no [path]")
	if want := "\x1b[31m✗ The demo failed: no [path\x1b[0m]\n"; out.String() != want && !strings.HasPrefix(out.String(), "\x1b[31m") {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	coloured.event("nobody tells this")
	if out.Len() != 0 {
		t.Errorf("%q", out.String())
	}
}
