package worker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// sealedFor is what the registrar is told of a number.
func (w *world) sealedFor(s string) string {
	b, _ := sealNumber(number(w.t, s))
	return string(b)
}

// TestStop: a STOP is on the list before the network is answered, its consent is revoked by and by,
// and then the sealed number is gone. [F-9] [F-17] [F-18]
func TestStop(t *testing.T) {
	for _, down := range []int{0, 1, 20} {
		bubble(t, fmt.Sprint("registrar down for ", down), func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(_ *Config, p *ports) { p.fails["stop"] = down })
			w.key()
			if err := w.text(recipient, "Please stop texting me!"); err != nil {
				t.Fatal(err)
			}
			h := p.hash(number(t, recipient))
			w.look(func() {
				if s, on := w.list[h]; !on || s.Cause != fallback.CauseStop {
					t.Errorf("answered, and on the list: %t, %q", on, s.Cause)
				}
			})
			w.wait(30 * time.Minute)
			if s, on := w.list[h]; !on || len(s.Sealed) != 0 || w.stopped[w.sealedFor(recipient)] != 1 {
				t.Errorf("on the list %t, sealed %d bytes, told %d times", on, len(s.Sealed), w.stopped[w.sealedFor(recipient)])
			}
			id := w.send(w.job(secret))
			w.wait(time.Second)
			if w.told(id) != "suppressed" {
				t.Errorf("told %q", w.told(id))
			}
			p.stop()
			w.leaks()
		})
	}
}

// TestStopNotStored: the network must repeat what the list did not take. [F-18]
func TestStopNotStored(t *testing.T) {
	for _, port := range []string{"suppressed", "suppress"} {
		bubble(t, port, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			w.key()
			w.look(func() { p.ports.fails[port] = portTries })
			if err := w.text(recipient, "STOP"); err == nil {
				t.Error("no error: the network would forget the STOP")
			}
			if err := w.text(recipient, "STOP"); err != nil {
				t.Error(err)
			}
			p.stop()
		})
	}
	bubble(t, "not sealed", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(c *Config, _ *ports) {
			c.SealNumber = func(wire.Number) ([]byte, error) { return nil, errors.New("no key") }
		})
		w.key()
		err := w.text(recipient, "STOP")
		if _, on := w.list[p.hash(number(t, recipient))]; err == nil || !on {
			t.Errorf("%v; on the list %t: the number must be spared even so", err, on)
		}
		p.stop()
	})
}

// TestStart: START lifts a STOP, never an operator's entry, and not before an owed revocation. [F-18]
func TestStart(t *testing.T) {
	tests := []struct {
		name    string
		was     fallback.Suppression
		text    string
		down    int // how often the registrar fails
		refused bool
		on      bool
		stopped int
	}{
		{"after a STOP", fallback.Suppression{Cause: fallback.CauseStop}, "START", 0, false, false, 0},
		{"after an operator's entry", fallback.Suppression{Cause: fallback.CauseOperator}, "START", 0, false, true, 0},
		{"after a complaint", fallback.Suppression{Cause: fallback.CauseComplaint}, "UNSTOP", 0, false, true, 0},
		{"YES is nothing", fallback.Suppression{Cause: fallback.CauseStop}, "YES", 0, false, true, 0},
		{"a revocation is owed", fallback.Suppression{Cause: fallback.CauseStop, Sealed: []byte("sealed")}, "START", 0, false, false, 1},
		{"and cannot be made", fallback.Suppression{Cause: fallback.CauseStop, Sealed: []byte("sealed")}, "START", 99, true, true, 0},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			w.key()
			w.wait(time.Second)
			h := p.hash(number(t, recipient))
			w.look(func() { w.list[h] = tt.was; p.ports.fails["stop"] = tt.down })
			if err := w.text(recipient, tt.text); (err != nil) != tt.refused {
				t.Errorf("answered %v", err)
			}
			if _, on := w.list[h]; on != tt.on || w.stopped["sealed"] != tt.stopped {
				t.Errorf("on the list %t, revoked %d times", on, w.stopped["sealed"])
			}
			p.stop()
		})
	}
	bubble(t, "a STOP does not become the operator's", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		w.key()
		h := p.hash(number(t, recipient))
		w.look(func() { w.list[h] = fallback.Suppression{Cause: fallback.CauseOperator} })
		for _, text := range []string{"STOP", "START"} {
			if err := w.text(recipient, text); err != nil {
				t.Fatal(err)
			}
			w.wait(time.Second)
		}
		if s := w.list[h]; s.Cause != fallback.CauseOperator || w.stopped[w.sealedFor(recipient)] != 1 {
			t.Errorf("cause %q, revoked %d times", s.Cause, w.stopped[w.sealedFor(recipient)])
		}
		p.stop()
	})
	bubble(t, "while the STOP is carried out", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		w.key()
		h := p.hash(number(t, recipient))
		w.look(func() { // the START of another worker comes in between
			w.hooks["stop"] = func() { delete(w.list, h) }
		})
		if err := w.text(recipient, "STOP"); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		if _, on := w.list[h]; on {
			t.Error("the STOP came back after the START")
		}
		p.stop()
	})
}

// TestReplies: one a keyword, number and day; none to a number on the list, none beyond the caps, none
// again. [F-19]
func TestReplies(t *testing.T) {
	replies := Replies{Start: "again", Help: "help"}
	bubble(t, "once a day", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(c *Config, _ *ports) { c.Replies = replies })
		other := w.start(func(c *Config, _ *ports) { c.Replies, c.Secrets = replies, p.cfg.Secrets })
		w.key()
		for range 2 {
			for _, text := range []string{"HELP", "INFO", "START", "help", "hello", "STOP", "START"} {
				if err := w.text(recipient, text); err != nil {
					t.Fatal(err)
				}
				w.wait(time.Second)
			}
			w.wait(24 * time.Hour)
		}
		var said string
		for _, m := range w.submits {
			said += m.Text + " "
		}
		if said != "help again help again " || w.submits[0].To != number(t, recipient) || w.submits[0].From.IsZero() {
			t.Errorf("said %q", said)
		}
		p.stop()
		other.stop()
		w.leaks()
	})
	tests := []struct {
		name   string
		from   string
		change func(*Config, *ports)
		on     bool
		fails  string
	}{
		{"none configured", recipient, func(c *Config, _ *ports) { c.Replies = Replies{} }, false, ""},
		{"on the list", recipient, func(*Config, *ports) {}, true, ""},
		{"list away", recipient, func(*Config, *ports) {}, false, "suppressed"},
		{"capped", recipient, func(c *Config, _ *ports) { c.Limits.Daily = 1; c.Replies.Help += string(make([]byte, 200)) }, false, ""},
		{"caps away", recipient, func(c *Config, _ *ports) { c.Limits.Daily = 1 }, false, "count"},
		{"premium", "+449098790000", func(*Config, *ports) {}, false, ""},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(c *Config, p *ports) { c.Replies = replies; tt.change(c, p) })
			w.key()
			w.look(func() {
				if tt.on {
					w.stopNow(p)
				}
				if tt.fails != "" {
					p.ports.fails[tt.fails] = portTries
				}
			})
			if err := w.text(tt.from, "HELP"); err != nil {
				t.Error(err)
			}
			w.wait(time.Minute)
			if len(w.submits) != 0 {
				t.Errorf("%d replies", len(w.submits))
			}
			p.stop()
		})
	}
}

// TestReplyReceipts: the receipt of a reply ends nobody's doubt, and is told to nobody. [F-14] [F-19]
func TestReplyReceipts(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(1, nil)
		p := w.start(func(c *Config, _ *ports) { c.Replies = DefaultReplies() })
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.text(recipient, "HELP"); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		for range 2 {
			if err := w.say("id2.0", recipient, wire.JobDelivered); err != nil {
				t.Fatal(err)
			}
		}
		w.wait(time.Minute)
		if w.told(id) != "unknown" || len(w.submits) != 2 || len(w.outcomes) != 1 || len(w.steps) != 1 {
			t.Errorf("told %q after %d submits; %d jobs took steps", w.told(id), len(w.submits), len(w.steps))
		}
		p.stop()
	})
	bubble(t, "before the answer", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(n int, m sms.Message) sms.Result {
			if n == 1 {
				return sms.Result{Outcome: sms.Unknown, Err: sms.ErrNoAnswer}
			}
			go func() { _ = w.say("id2.0", recipient, wire.JobDelivered) }()
			return accepted(m, "id2")
		}
		p := w.start(func(c *Config, _ *ports) { c.Replies = DefaultReplies() })
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.text(recipient, "HELP"); err != nil {
			t.Fatal(err)
		}
		w.wait(2 * time.Minute)
		if w.told(id) != "unknown" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
}

// TestReplyRoute: a reply goes out where the question came in, if that route still is. [F-19] [F-22]
func TestReplyRoute(t *testing.T) {
	for came, want := range map[string]string{"others": "others", "british": "british", "gone": "british"} {
		bubble(t, came, func(t *testing.T) {
			w := newWorld(t)
			var via []string
			p := w.start(func(c *Config, p *ports) {
				c.Replies = DefaultReplies()
				c.Routes = w.via(sms.Route{Transport: &road{p, "others", true, &via}}, sms.Route{Transport: &road{p, "british", true, &via}, Countries: []string{"GB"}})
			})
			w.key()
			if err := w.network.Incoming(t.Context(), sms.Incoming{Route: came, From: number(t, recipient), Text: "INFO"}); err != nil {
				t.Fatal(err)
			}
			w.wait(time.Second)
			if len(via) != 1 || via[0] != want {
				t.Errorf("answered by %v, want %s", via, want)
			}
			p.stop()
		})
	}
}

// TestReplyWithConstantIDs: where all ids are the same, a reply's receipt is not taken for a job's.
// [F-14] [F-19]
func TestReplyWithConstantIDs(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(int, sms.Message) sms.Result { return sms.Result{IDs: []string{"constant"}} }
		p := w.start(func(c *Config, _ *ports) { c.Replies = DefaultReplies() })
		w.key()
		if err := w.text(recipient, "HELP"); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		id := w.send(w.job(secret))
		w.wait(time.Second)
		for range 2 { // the reply's, and the job's
			if err := w.say("constant", recipient, wire.JobDelivered); err != nil {
				t.Fatal(err)
			}
		}
		if w.told(id) != "submitted" {
			t.Errorf("told %q", w.told(id))
		}
		w.wait(3 * time.Hour)
		next := w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.say("constant", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		if w.told(id) != "submitted no_receipt" || w.told(next) != "submitted delivered" {
			t.Errorf("told %q and %q", w.told(id), w.told(next))
		}
		p.stop()
	})
}

// TestReplyInDoubt: a reply is never tried again, and no later receipt is taken for another's. [F-19]
func TestReplyInDoubt(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(2, nil)
		p := w.start(func(c *Config, _ *ports) { c.Replies = DefaultReplies() })
		w.key()
		if err := w.text(recipient, "HELP"); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.say("late", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Hour)
		if w.told(id) != "unknown" || len(w.submits) != 2 {
			t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
		}
		p.stop()
	})
}

func TestDefaultReplies(t *testing.T) {
	for _, text := range []string{DefaultReplies().Start, DefaultReplies().Help} {
		if n, gsm := wire.SMSParts(text); n != 1 || !gsm { // [F-19]
			t.Errorf("%d parts, GSM %t: %s", n, gsm, text)
		}
	}
}

// TestIncomingFromNobody: a short code is neither suppressed nor answered. [F-18]
func TestIncomingFromNobody(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(c *Config, _ *ports) { c.Replies = DefaultReplies() })
		w.key()
		for _, text := range []string{"STOP", "HELP"} {
			if err := p.incoming(t.Context(), sms.Incoming{Route: "route", Text: text}); err != nil {
				t.Error(err)
			}
		}
		w.wait(time.Second)
		if len(w.list)+len(w.submits) != 0 {
			t.Errorf("%d suppressed, %d submits", len(w.list), len(w.submits))
		}
		p.stop()
	})
}

// TestCrashInStop: a worker dies before each of its calls while a STOP is carried out. If the network
// was told "stored", the number is on the list and its consent is revoked in the end. [F-17] [F-18]
func TestCrashInStop(t *testing.T) {
	crashes := 0
	for at := 1; at <= 6; at++ {
		bubble(t, fmt.Sprint(at), func(t *testing.T) {
			w := newWorld(t)
			secrets := &memory{}
			first := w.start(func(c *Config, p *ports) { c.Secrets = secrets; p.crashAt = at })
			w.key()
			err := w.text(recipient, "STOP")
			w.wait(10 * time.Second)
			first.stop()
			if first.ports.crashed {
				crashes++
			}
			h := first.hash(number(t, recipient))
			if _, on := w.list[h]; err == nil && !on {
				t.Error("the network was told that the STOP is stored, and it is not")
			}
			second := w.start(func(c *Config, _ *ports) { c.Secrets = secrets })
			w.wait(time.Second)
			if err != nil { // the network says it again
				if err := w.text(recipient, "STOP"); err != nil {
					t.Fatal(err)
				}
			}
			w.wait(time.Minute)
			s, on := w.list[h]
			if n := w.stopped[w.sealedFor(recipient)]; !on || len(s.Sealed) != 0 || n < 1 || n > 2 {
				t.Errorf("on the list %t, sealed %d bytes, revoked %d times", on, len(s.Sealed), n)
			}
			second.stop()
			w.leaks()
		})
	}
	if crashes < 4 {
		t.Errorf("only %d crashes: the test no longer reaches the steps it is for", crashes)
	}
}

// TestListUnreadable: what a crash has left is found once the list can be read. [F-18]
func TestListUnreadable(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.list[numberHash{1}] = fallback.Suppression{Cause: fallback.CauseStop, Sealed: []byte("left")}
		p := w.start(func(_ *Config, p *ports) { p.fails["list"] = 3 })
		w.wait(time.Minute)
		if w.stopped["left"] != 1 || len(w.list[numberHash{1}].Sealed) != 0 {
			t.Errorf("revoked %d times", w.stopped["left"])
		}
		p.stop()
	})
}

// TestStopOfDeadWorker: what a worker that never came back owes is carried out by the others, and one
// number that the registrar cannot read holds no other up. [F-18]
func TestStopOfDeadWorker(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		w.key()
		w.wait(time.Second)
		w.look(func() {
			w.list[numberHash{1}] = fallback.Suppression{Cause: fallback.CauseStop, Sealed: []byte("left")}
		})
		w.wait(sweepEvery)
		if w.stopped["left"] != 1 || len(w.list[numberHash{1}].Sealed) != 0 {
			t.Errorf("revoked %d times", w.stopped["left"])
		}
		w.look(func() { p.ports.fails["stop"] = 10 })
		if err := w.text(recipient, "STOP"); err != nil {
			t.Fatal(err)
		}
		w.wait(5 * time.Minute)
		w.look(func() { p.ports.fails["stop"] = 1 }) // the first of two
		if err := w.text(claimant, "STOP"); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		if n := w.stopped[w.sealedFor(recipient)] + w.stopped[w.sealedFor(claimant)]; n != 1 {
			t.Errorf("%d numbers revoked at once", n)
		}
		p.stop()
	})
}

// TestTooManyReplies: replies wait in bounded number, and stop with the worker. [F-19]
func TestTooManyReplies(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		slow := &slowTransport{gate: make(chan struct{})}
		p := w.start(func(c *Config, p *ports) {
			slow.ports, c.Replies = p, DefaultReplies()
			c.Routes = w.via(sms.Route{Transport: slow})
		})
		w.key()
		w.wait(0) // until the routes run
		for i := range maxReplies + 5 {
			if err := w.text(fmt.Sprintf("+44770090%04d", i), "HELP"); err != nil {
				t.Fatal(err)
			}
		}
		w.wait(0)
		if n := len(p.replies); n != maxReplies {
			t.Errorf("%d replies wait", n)
		}
		p.stop()
		if n := len(w.submits); n != 1 {
			t.Errorf("%d replies submitted", n)
		}
	})
}
