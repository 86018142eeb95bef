package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"bluejay/sms"
	"bluejay/wire"
)

type word struct {
	id    string
	state wire.JobState
}

// TestReceipts: what the network says afterwards reaches the sender. [F-7] [F-14]
func TestReceipts(t *testing.T) {
	const three = 400 // characters: three parts
	tests := []struct {
		name   string
		length int
		say    []word
		told   string
	}{
		{"delivered", 10, []word{{"id1.0", wire.JobDelivered}}, "submitted delivered"},
		{"undeliverable", 10, []word{{"id1.0", wire.JobUndeliverable}}, "submitted undeliverable"},
		{"expired", 10, []word{{"id1.0", wire.JobExpired}}, "submitted expired"},
		{"rejected", 10, []word{{"id1.0", wire.JobRejected}}, "submitted rejected"},
		{"none", 10, nil, "submitted"},
		{"not final", 10, []word{{"id1.0", wire.JobSubmitted}}, "submitted"},
		{"of another part", 10, []word{{"id9.0", wire.JobDelivered}}, "submitted"},
		{"twice", 10, []word{{"id1.0", wire.JobDelivered}, {"id1.0", wire.JobDelivered}}, "submitted delivered"},
		{"the first word counts", 10, []word{{"id1.0", wire.JobDelivered}, {"id1.0", wire.JobUndeliverable}}, "submitted delivered"},
		{"all parts", three, []word{{"id1.2", wire.JobDelivered}, {"id1.0", wire.JobDelivered}, {"id1.1", wire.JobDelivered}}, "submitted delivered"},
		{"two of three parts", three, []word{{"id1.2", wire.JobDelivered}, {"id1.0", wire.JobDelivered}}, "submitted"},
		{"one part failed", three, []word{{"id1.2", wire.JobDelivered}, {"id1.0", wire.JobUndeliverable}}, "submitted undeliverable"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			id := w.send(w.job(strings.Repeat("a", tt.length)))
			w.wait(time.Second)
			for _, s := range tt.say {
				if err := w.say(s.id, recipient, s.state); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.told(id); got != tt.told {
				t.Errorf("told %q, want %q", got, tt.told)
			}
			p.stop()
			w.leaks()
		})
	}
}

// TestReceiptFirst: a receipt that overtakes the SMSC's answer is kept for it. [F-14]
func TestReceiptFirst(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		gate := make(chan struct{})
		p := w.start(func(c *Config, p *ports) {
			c.Routes = w.via(sms.Route{Transport: &slowTransport{ports: p, gate: gate}})
		})
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		close(gate)
		w.wait(time.Second)
		if got := w.told(id); got != "submitted delivered" || !w.acked[id] {
			t.Errorf("told %q", got)
		}
		p.stop()
	})
}

// slowJournal replaces an entry only when the gate lets it.
type slowJournal struct {
	*ports
	gate chan struct{}
}

func (j *slowJournal) Replace(ctx context.Context, id wire.MessageID, e Entry) (Entry, error) {
	select {
	case <-j.gate:
		return j.ports.Replace(ctx, id, e)
	case <-ctx.Done():
		return Entry{}, ctx.Err()
	}
}

// TestReceiptOvertakesEntry: a receipt that comes while its answer is on its way into the journal waits for
// that, and makes no entry of its own as a stray would; but it does not wait for ever. [F-14]
func TestReceiptOvertakesEntry(t *testing.T) {
	for _, tt := range []struct {
		name  string
		stuck time.Duration // for how long the journal takes nothing
		rows  int           // in the journal then
		trace string
	}{
		{"soon", answerWait / 2, 1, "begin submit put begin tell submitted ack put tell delivered"},
		{"late", 2 * answerWait, 2, "begin submit begin put begin put tell submitted put tell delivered ack"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			gate := make(chan struct{})
			p := w.start(func(c *Config, p *ports) { c.Journal = &slowJournal{ports: p, gate: gate} })
			id := w.send(w.job(secret))
			w.wait(time.Millisecond) // it is answered
			said := make(chan error, 1)
			go func() { said <- w.say("id1.0", recipient, wire.JobDelivered) }()
			w.wait(tt.stuck)
			if w.look(func() {}); len(w.journal) != tt.rows {
				t.Errorf("%d rows, want %d", len(w.journal), tt.rows)
			}
			close(gate)
			if err := <-said; err != nil {
				t.Error(err)
			}
			w.wait(time.Second)
			if got := w.told(id); got != "submitted delivered" {
				t.Errorf("told %q", got)
			}
			if got := strings.Join(w.trace, " "); got != tt.trace {
				t.Errorf("the ports were called as %q, want %q", got, tt.trace)
			}
			p.stop()
		})
	}
}

// TestReceiptAtAnotherWorker: receipts come on any bind of the route. [F-14]
func TestReceiptAtAnotherWorker(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		first := w.start()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		first.stop()
		second := w.start()
		w.wait(time.Second)
		if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		if got := w.told(id); got != "submitted delivered" {
			t.Errorf("told %q", got)
		}
		second.stop()
	})
}

// TestReceiptNotStored: the SMSC must repeat what the journal did not take, and a job settled just
// before a crash is told when it does. [F-14]
func TestReceiptNotStored(t *testing.T) {
	for _, port := range []string{"put", "get", "tell delivered"} {
		bubble(t, port, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			id := w.send(w.job(secret))
			w.wait(time.Second)
			w.look(func() { p.ports.fails[port] = portTries })
			if err := w.say("id1.0", recipient, wire.JobDelivered); err == nil {
				t.Error("no error: the SMSC would forget the receipt")
			}
			if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
				t.Error(err)
			}
			if got := w.told(id); got != "submitted delivered" {
				t.Errorf("told %q", got)
			}
			p.stop()
		})
	}
}

// TestEarlyReceiptNotStored: the same for a receipt that nobody expects yet. [F-14]
func TestEarlyReceiptNotStored(t *testing.T) {
	for _, port := range []string{"begin", "get"} {
		bubble(t, port, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			w.key()
			w.look(func() { p.ports.fails[port] = portTries })
			if err := w.say("early", recipient, wire.JobDelivered); err == nil {
				t.Error("no error: the SMSC would forget the receipt")
			}
			if err := w.say("early", recipient, wire.JobDelivered); err != nil || len(w.journal) != 1 {
				t.Errorf("%v, %d entries", err, len(w.journal))
			}
			p.stop()
		})
	}
}

// TestRepeatedIDs: SMSCs that reuse ids, down to one for everything, never get a job another job's
// receipt. [F-14]
func TestRepeatedIDs(t *testing.T) {
	for _, smscID := range []string{"constant", ""} {
		script := func(_ int, m sms.Message) sms.Result {
			r := accepted(m, "")
			for i := range r.IDs {
				r.IDs[i] = smscID
			}
			return r
		}
		bubble(t, fmt.Sprintf("%q, two numbers", smscID), func(t *testing.T) {
			w := newWorld(t)
			w.script = script
			p := w.start()
			a := w.send(w.job(secret))
			other := w.job(secret)
			other.To = number(t, claimant)
			b := w.send(other)
			w.wait(time.Second)
			if err := w.say(smscID, claimant, wire.JobUndeliverable); err != nil {
				t.Fatal(err)
			}
			if w.told(a) != "submitted" || w.told(b) != "submitted undeliverable" {
				t.Errorf("told %q and %q", w.told(a), w.told(b))
			}
			p.stop()
		})
		bubble(t, fmt.Sprintf("%q, one number", smscID), func(t *testing.T) {
			w := newWorld(t)
			w.script = script
			p := w.start()
			a := w.send(w.job(secret))
			w.wait(time.Second)
			b := w.send(w.job("another"))
			w.wait(time.Second)
			if err := w.say(smscID, recipient, wire.JobDelivered); err != nil {
				t.Fatal(err)
			}
			if w.told(a) != "submitted" || w.told(b) != "submitted" {
				t.Errorf("told %q and %q: one of them is a guess", w.told(a), w.told(b))
			}
			p.stop()
		})
		bubble(t, fmt.Sprintf("%q, one number, and the receipt overtakes the answer", smscID), func(t *testing.T) {
			w := newWorld(t)
			w.script = script
			gate := make(chan struct{})
			p := w.start(func(c *Config, p *ports) {
				c.Routes = w.via(sms.Route{Transport: &slowTransport{ports: p, gate: gate}})
			})
			a := w.send(w.job(secret))
			gate <- struct{}{}
			w.wait(time.Second)
			b := w.send(w.job("another"))
			w.wait(time.Second) // it is written
			said := make(chan error, 1)
			go func() { said <- w.say(smscID, recipient, wire.JobUndeliverable) }()
			w.wait(answerWait / 2)
			gate <- struct{}{}
			if err := <-said; err != nil {
				t.Fatal(err)
			}
			w.wait(time.Second)
			if w.told(a) != "submitted" || w.told(b) != "submitted" {
				t.Errorf("told %q and %q: one has the other's receipt", w.told(a), w.told(b))
			}
			p.stop()
		})
		bubble(t, fmt.Sprintf("%q, one after the other", smscID), func(t *testing.T) {
			w := newWorld(t)
			w.script = script
			p := w.start()
			for range 3 {
				id := w.send(w.job(secret))
				w.wait(time.Second)
				if err := w.say(smscID, recipient, wire.JobDelivered); err != nil {
					t.Fatal(err)
				}
				if w.told(id) != "submitted delivered" {
					t.Errorf("told %q", w.told(id))
				}
			}
			p.stop()
		})
		bubble(t, fmt.Sprintf("%q, two parts", smscID), func(t *testing.T) {
			w := newWorld(t)
			w.script = script
			p := w.start()
			id := w.send(w.job(strings.Repeat("a", 200)))
			w.wait(time.Second)
			if err := w.say(smscID, recipient, wire.JobDelivered); err != nil {
				t.Fatal(err)
			}
			if w.told(id) != "submitted" {
				t.Errorf("told %q: which part was it?", w.told(id))
			}
			p.stop()
		})
	}
}

// TestReceiptFromNowhere: a receipt without a number is taken and changes nothing.
func TestReceiptFromNowhere(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		w.key()
		if err := p.receipt(t.Context(), sms.Receipt{ID: "x", State: wire.JobDelivered}); err != nil || len(w.journal) != 0 {
			t.Errorf("%v, %d entries", err, len(w.journal))
		}
		p.stop()
	})
}

// TestSubjects: what the queue shows of a job is its class and its sender's day pseudonym. [F-8]
func TestSubjects(t *testing.T) {
	want := "bj.sms.job.normal." + pseudonym.String()
	if got := wire.JobSubject(wire.ClassNormal, pseudonym); got != want {
		t.Errorf("job subject %q, want %q", got, want)
	}
	if got := wire.OutcomeSubject(pseudonym); got != "bj.sms.outcome."+pseudonym.String() {
		t.Errorf("outcome subject %q", got)
	}
}
