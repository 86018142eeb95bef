package worker

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// bubble runs a test in virtual time; synctest itself fails it if a goroutine is left.
func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// TestOrder: journal before write, journal before event, event before ack. [F-11]
func TestOrder(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		want := []string{"begin", "submit", "put", "begin", "tell submitted", "ack"}
		if diff := cmp.Diff(want, w.trace); diff != "" {
			t.Errorf("effects (-want +got):\n%s", diff)
		}
		w.trace = nil
		if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"put", "tell delivered"}, w.trace); diff != "" || w.told(id) != "submitted delivered" {
			t.Errorf("told %q; effects (-want +got):\n%s", w.told(id), diff)
		}
		e := w.journal[id]
		if e.State != wire.JobDelivered || e.Parts != 1 || e.NumberHash == (numberHash{}) || e.Sender != pseudonym {
			t.Errorf("journal: %+v", e)
		}
		m := w.submits[0]
		if m.Text != secret || m.To != number(t, recipient) || m.ValidUntil != e.ExpiresAt || m.From.IsZero() {
			t.Errorf("submitted: from set %t, until %v", !m.From.IsZero(), m.ValidUntil)
		}
		p.stop()
		w.leaks()
	})
}

// TestSenderCheck: a claimed number is confirmed and shown, or the job is refused. [F-6]
func TestSenderCheck(t *testing.T) {
	yes := func([]byte, wire.Number) (bool, error) { return true, nil }
	no := func([]byte, wire.Number) (bool, error) { return false, nil }
	sealed := func(d *delivery) { d.sealed = []byte("sealed") }
	tests := []struct {
		name      string
		from      string
		owns      func([]byte, wire.Number) (bool, error)
		change    func(*delivery)
		unchecked bool
		text      string // submitted; "": nothing
		told      string
	}{
		{"nothing claimed", "", no, sealed, false, secret, "submitted"},
		{"confirmed", claimant, yes, sealed, false, "From " + claimant + ": " + secret, "submitted"},
		{"denied", claimant, no, sealed, false, "", "failed"},
		{"not vouched for", claimant, yes, func(d *delivery) { d.sealed = nil }, false, "", "failed"},
		{"denied, unchecked allowed", claimant, no, sealed, true, secret, "submitted"},
		{"confirmed, unchecked allowed", claimant, yes, sealed, true, "From " + claimant + ": " + secret, "submitted"},
		{"not vouched for, unchecked allowed", claimant, yes, func(d *delivery) { d.sealed = nil }, true, secret, "submitted"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.owns = tt.owns
			p := w.start(func(c *Config, p *ports) { c.Routes = w.via(sms.Route{Transport: p, Unchecked: tt.unchecked}) })
			j := w.job(secret)
			if tt.from != "" {
				j.From = number(t, tt.from)
			}
			id := w.send(j, tt.change)
			w.wait(time.Second)
			if got := w.told(id); got != tt.told || !w.acked[id] {
				t.Errorf("told %q, acknowledged %t; want %q", got, w.acked[id], tt.told)
			}
			got := ""
			if len(w.submits) > 0 {
				got = w.submits[0].Text
			}
			if got != tt.text {
				t.Errorf("submitted %q, want %q", got, tt.text)
			}
			p.stop()
			w.leaks()
		})
	}
	bubble(t, "registrar down, then back", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(_ *Config, p *ports) { p.fails["check"] = 2 })
		j := w.job(secret)
		j.From = number(t, claimant)
		id := w.send(j)
		w.wait(time.Minute)
		if got := w.told(id); got != "submitted" || len(w.submits) != 1 || len(w.retries[id]) != 2 {
			t.Errorf("told %q after %d submits, %v", got, len(w.submits), w.retries[id])
		}
		p.stop()
	})
	bubble(t, "the claim makes it too long", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		j := w.job(strings.Repeat("a", 6*153))
		j.From = number(t, claimant)
		id := w.send(j)
		w.wait(time.Second)
		if got := w.told(id); got != "failed" || len(w.submits) != 0 { // [F-3]
			t.Errorf("told %q after %d submits", got, len(w.submits))
		}
		p.stop()
	})
}

// TestDeadLetters: a malformed job ends alone, with a reason, and its sender is told. [F-16]
func TestDeadLetters(t *testing.T) {
	flip := func(i int) func(*delivery) {
		return func(d *delivery) {
			d.payload = bytes.Clone(d.payload)
			d.payload[i] ^= 1
			d.id = wire.MessageIDOf(d.payload)
		}
	}
	tests := []struct {
		name   string
		change func(*delivery)
		reason string
		told   string
	}{
		{"empty", func(d *delivery) { d.payload = nil; d.id = wire.MessageIDOf(nil) }, deadShape, "failed"},
		{"short", func(d *delivery) { d.payload = d.payload[:40]; d.id = wire.MessageIDOf(d.payload) }, deadShape, "failed"},
		{"another type", flip(0), deadShape, "failed"},
		{"another key id", flip(1), deadKey, "failed"},
		{"class changed in the header", flip(2), deadClass, "failed"}, // [F-5]
		{"class of the subject", func(d *delivery) { d.class = wire.ClassUrgent }, deadClass, "failed"},
		{"expiry changed", flip(6), deadOpen, "failed"},
		{"ciphertext changed", flip(60), deadOpen, "failed"},
		{"id of another payload", func(d *delivery) { d.id[0] ^= 1 }, deadID, ""},
	}
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		var good []wire.MessageID
		ids := map[string]wire.MessageID{}
		for i, tt := range tests {
			var id wire.MessageID
			w.send(w.job(secret), tt.change, func(d *delivery) { id = d.id })
			ids[tt.name] = id
			good = append(good, w.send(w.job(fmt.Sprint("good ", i))))
		}
		w.wait(time.Second)
		for _, tt := range tests {
			id := ids[tt.name]
			if w.dead[id] != tt.reason || w.told(id) != tt.told {
				t.Errorf("%s: dead-lettered as %q, told %q; want %q, %q", tt.name, w.dead[id], w.told(id), tt.reason, tt.told)
			}
		}
		for i, id := range good {
			if w.told(id) != "submitted" {
				t.Errorf("good job %d: told %q", i, w.told(id))
			}
		}
		if len(w.submits) != len(good) {
			t.Errorf("%d submits of %d good jobs", len(w.submits), len(good))
		}
		p.stop()
		w.leaks()
	})
}

// TestExpiry: what is over is not sent; nothing outlives a day. [F-4]
func TestExpiry(t *testing.T) {
	bubble(t, "over before it is taken", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		j := w.job(secret)
		j.ExpiresAt = time.Now().Add(time.Minute)
		payload := j
		w.key()
		p.stop()
		id := w.send(payload)
		w.wait(2 * time.Minute)
		p = w.start(func(c *Config, _ *ports) { c.Secrets = p.cfg.Secrets })
		w.wait(time.Second)
		if got := w.told(id); got != "expired" || len(w.submits) != 0 || !w.acked[id] {
			t.Errorf("told %q after %d submits", got, len(w.submits))
		}
		p.stop()
	})
	bubble(t, "over while the SMSC is away", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(int, sms.Message) sms.Result { return sms.Result{Outcome: sms.NotSent, Err: sms.ErrNoLink} }
		p := w.start()
		j := w.job(secret)
		j.ExpiresAt = time.Now().Add(10 * time.Minute)
		id := w.send(j)
		w.wait(12 * time.Minute)
		if got := w.told(id); got != "expired" || !w.acked[id] {
			t.Errorf("told %q", got)
		}
		if n := len(w.retries[id]); n < 10 || n > 20 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		p.stop()
	})
	bubble(t, "longer than a day", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		j := w.job(secret)
		j.ExpiresAt = time.Now().Add(25 * time.Hour)
		id := w.send(j)
		w.wait(time.Second)
		if w.dead[id] != deadTooLate || len(w.submits) != 0 {
			t.Errorf("dead-lettered as %q after %d submits", w.dead[id], len(w.submits))
		}
		p.stop()
	})
}

// TestAnswers: what each answer of the SMSC leads to. [F-7] [F-15]
func TestAnswers(t *testing.T) {
	answer := func(c sms.Class) func(int, sms.Message) sms.Result {
		return func(n int, m sms.Message) sms.Result {
			if n > 3 {
				return accepted(m, "id")
			}
			return sms.Result{Class: c, Status: 1}
		}
	}
	always := func(r sms.Result) func(int, sms.Message) sms.Result {
		return func(int, sms.Message) sms.Result { return r }
	}
	tests := []struct {
		name    string
		script  func(int, sms.Message) sms.Result
		told    string
		submits int
	}{
		{"refused for good", answer(sms.Permanent), "failed", 1},
		{"refused for now, three times", answer(sms.Retry), "submitted", 4},
		{"refused for now, always", always(sms.Result{Class: sms.Retry}), "failed", fallback.MaxRefusals},
		{"throttled", answer(sms.Throttled), "submitted", 4},
		{"not bound", answer(sms.Rebind), "submitted", 4},
		{"bind refused", answer(sms.Refused), "submitted", 4},
		{"no link", func(n int, m sms.Message) sms.Result {
			if n > 20 {
				return accepted(m, "id")
			}
			return sms.Result{Outcome: sms.NotSent, Err: sms.ErrNoLink}
		}, "submitted", 21},
		{"cannot be sent", always(sms.Result{Outcome: sms.NotSent, Class: sms.Permanent, Err: sms.ErrSender}), "failed", 1},
		{"console", always(sms.Result{Simulated: true}), "simulated", 1},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.script = tt.script
			p := w.start()
			id := w.send(w.job(secret))
			w.wait(40 * time.Minute)
			if got := w.told(id); got != tt.told || len(w.submits) != tt.submits || !w.acked[id] {
				t.Errorf("told %q after %d submits, acknowledged %t; want %q after %d", got, len(w.submits), w.acked[id], tt.told, tt.submits)
			}
			p.stop()
			w.leaks()
		})
	}
}

// TestUrgentSaysNothing: a one-time password has no sender to tell, and is sent as any other. [F-5]
func TestUrgentSaysNothing(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		j := w.job("code 123456")
		j.Class = wire.ClassUrgent
		id := w.send(j, func(d *delivery) { d.sender = wire.Pseudonym{} })
		w.wait(time.Second)
		if len(w.submits) != 1 || w.submits[0].Class != wire.ClassUrgent || len(w.outcomes) != 0 || !w.acked[id] {
			t.Errorf("%d submits, told %v", len(w.submits), w.outcomes)
		}
		p.stop()
	})
}

// TestCancel: whoever begins first in the journal wins. [F-10]
func TestCancel(t *testing.T) {
	bubble(t, "the sender is first", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		var id wire.MessageID
		w.send(w.job(secret), func(d *delivery) {
			id = d.id
			w.look(func() { w.journal[id] = Entry{State: wire.JobCancelled} })
		})
		w.wait(time.Second)
		if w.told(id) != "cancelled" || len(w.submits) != 0 || !w.acked[id] {
			t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
		}
		p.stop()
	})
	bubble(t, "between look and begin", func(t *testing.T) {
		w := newWorld(t)
		var id wire.MessageID
		w.owns = func([]byte, wire.Number) (bool, error) { // the worker has looked, and not begun
			w.journal[id] = Entry{State: wire.JobCancelled}
			return true, nil
		}
		p := w.start()
		j := w.job(secret)
		j.From = number(t, claimant)
		w.send(j, func(d *delivery) { id = d.id })
		w.wait(time.Second)
		if w.told(id) != "cancelled" || len(w.submits) != 0 {
			t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
		}
		p.stop()
	})
	bubble(t, "the worker is first", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if _, err := p.ports.Begin(t.Context(), id, Entry{State: wire.JobCancelled}); err == nil {
			t.Error("a cancellation began after the worker")
		}
		p.stop()
	})
}

// TestPortsFail: what fails for a while is tried again, and the SMS is sent once. [F-11]
func TestPortsFail(t *testing.T) {
	for _, port := range []string{"get", "begin", "put", "tell submitted", "ack", "retry", "beat"} {
		for _, times := range []int{1, 3, 7} {
			bubble(t, fmt.Sprint(port, " ", times), func(t *testing.T) {
				w := newWorld(t)
				p := w.start(func(_ *Config, p *ports) { p.fails[port] = times })
				id := w.send(w.job(secret))
				w.wait(10 * time.Minute)
				if len(w.submits) > 1 || !w.acked[id] {
					t.Errorf("%d submits, told %q, acknowledged %t", len(w.submits), w.told(id), w.acked[id])
				}
				if got := w.told(id); got != "submitted" && got != "unknown" {
					t.Errorf("told %q", got)
				}
				p.stop()
			})
		}
	}
}

// TestShutdown: what is being submitted finishes, what is in doubt or waiting goes back, and what is
// too slow is left in doubt for the next worker. [F-11]
func TestShutdown(t *testing.T) {
	bubble(t, "finishes", func(t *testing.T) {
		w := newWorld(t)
		gate := make(chan struct{})
		slow := &slowTransport{gate: gate}
		p := w.start(func(c *Config, p *ports) { slow.ports = p; c.Routes = w.via(sms.Route{Transport: slow}) })
		id := w.send(w.job(secret))
		w.wait(time.Second)
		time.AfterFunc(5*time.Second, func() { close(gate) })
		began := time.Now()
		p.stop()
		if d := time.Since(began); w.told(id) != "submitted" || !w.acked[id] || d != 5*time.Second {
			t.Errorf("told %q, stopped after %v", w.told(id), d)
		}
	})
	bubble(t, "too slow", func(t *testing.T) {
		w := newWorld(t)
		slow := &slowTransport{gate: make(chan struct{})}
		p := w.start(func(c *Config, p *ports) { slow.ports = p; c.Routes = w.via(sms.Route{Transport: slow}) })
		id := w.send(w.job(secret))
		w.wait(time.Second)
		began := time.Now()
		p.stop()
		if d := time.Since(began); w.acked[id] || d > 11*time.Second || len(w.retries[id]) != 1 {
			t.Errorf("acknowledged %t, stopped after %v, back in the queue %d times", w.acked[id], d, len(w.retries[id]))
		}
		next := w.start(func(c *Config, _ *ports) { c.Secrets = p.cfg.Secrets })
		w.wait(2 * time.Minute)
		if got := w.told(id); got != "unknown" || len(w.submits) != 1 {
			t.Errorf("the next worker told %q after %d submits in all", got, len(w.submits))
		}
		next.stop()
	})
	bubble(t, "in doubt", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(int, sms.Message) sms.Result { return sms.Result{Outcome: sms.Unknown, Err: sms.ErrLinkLost} }
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(20 * time.Second)
		began := time.Now()
		p.stop()
		if d := time.Since(began); d != 0 || w.acked[id] || len(w.retries[id]) != 1 || w.retries[id][0] != 0 {
			t.Errorf("stopped after %v, acknowledged %t, retries %v", d, w.acked[id], w.retries[id])
		}
		next := w.start(func(c *Config, _ *ports) { c.Secrets = p.cfg.Secrets })
		w.wait(39 * time.Second)
		if w.told(id) != "" {
			t.Errorf("told %q before the minute was over", w.told(id))
		}
		w.wait(2 * time.Second)
		if w.told(id) != "unknown" || len(w.submits) != 1 {
			t.Errorf("told %q after %d submits; a restart must not begin the minute anew", w.told(id), len(w.submits))
		}
		next.stop()
	})
}

// slowTransport answers when the gate opens.
type slowTransport struct {
	*ports
	gate chan struct{}
}

func (s *slowTransport) Submit(ctx context.Context, m sms.Message) sms.Result {
	r := s.ports.Submit(ctx, m)
	select {
	case <-s.gate:
		return r
	case <-ctx.Done():
		return sms.Result{Outcome: sms.Unknown, Err: sms.ErrNoAnswer}
	}
}

// TestHeartbeat: held jobs are kept alive, finished ones are not.
func TestHeartbeat(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(int, sms.Message) sms.Result { return sms.Result{Outcome: sms.Unknown, Err: sms.ErrNoAnswer} }
		p := w.start()
		w.send(w.job(secret))
		w.wait(10 * time.Minute)
		if w.beats < 5 || w.beats > 7 {
			t.Errorf("%d heartbeats for a job held for a minute", w.beats)
		}
		p.stop()
	})
}

// TestQueueFails: a queue that is down is asked again.
func TestQueueFails(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		q := &brokenQueue{fails: 3}
		p := w.start(func(c *Config, p *ports) { q.ports = p; c.Queue = q })
		id := w.send(w.job(secret))
		w.wait(10 * time.Second)
		if w.told(id) != "submitted" || q.fails != 0 {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
}

type brokenQueue struct {
	*ports
	fails int
}

func (q *brokenQueue) Next(ctx context.Context) (Delivery, error) {
	if q.fails > 0 {
		q.fails--
		return nil, errDown
	}
	return q.ports.Next(ctx)
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration is accepted")
	}
	w := newWorld(t)
	p := &ports{world: w}
	cfg := Config{
		Queue: p, Journal: p, Events: p, Registrar: p, Keys: p, Suppressions: list{p}, Caps: p,
		Routes: w.via(sms.Route{Transport: p}), SealNumber: sealNumber, NumberKey: []byte("short"),
	}
	if _, err := New(cfg); err == nil {
		t.Error("a short number key is accepted")
	}
	cfg.NumberKey = []byte("0123456789abcdef")
	got, err := New(cfg)
	if err != nil || got.cfg.Window != 32 || got.cfg.UnknownWait != time.Minute {
		t.Errorf("defaults: %v, %v", got, err)
	}
	cfg.Secrets = Folder("/nowhere")
	broken, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Run(t.Context()); err == nil {
		t.Error("a worker without a place for its keys runs")
	}
}

// TestNumberHash: the journal's stand-in for a number depends on the worker's key. [F-9]
func TestNumberHash(t *testing.T) {
	a := &Worker{cfg: Config{NumberKey: []byte("a")}}
	b := &Worker{cfg: Config{NumberKey: []byte("b")}}
	n := number(t, recipient)
	again := a.hash(number(t, recipient))
	if a.hash(n) == b.hash(n) || a.hash(n) == a.hash(number(t, claimant)) || a.hash(n) != again {
		t.Error("hashes do not depend on key and number alone")
	}
}
