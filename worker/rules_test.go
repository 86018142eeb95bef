package worker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// stopNow puts the recipient on the list, as another worker does.
func (w *world) stopNow(p *process) {
	w.list[p.hash(number(w.t, recipient))] = fallback.Suppression{Cause: fallback.CauseStop}
}

// TestSuppressed: whenever the STOP comes before the first byte, nothing is sent; one-time passwords
// are no exception. [F-17]
func TestSuppressed(t *testing.T) {
	for _, class := range []wire.JobClass{wire.ClassNormal, wire.ClassUrgent} {
		for _, port := range []string{"", "begin", "step submitting", "suppressed"} {
			bubble(t, fmt.Sprint(class, " before ", port), func(t *testing.T) {
				w := newWorld(t)
				p := w.start(func(c *Config, _ *ports) { c.Limits = CapLimits{} })
				w.look(func() {
					if port == "" {
						w.stopNow(p)
						return
					}
					w.hooks[port] = func() { w.stopNow(p) }
				})
				j := w.job(secret)
				j.Class = class
				id := w.send(j)
				w.wait(time.Second)
				if w.told(id) != "suppressed" || len(w.submits) != 0 || !w.acked[id] || w.went(id) != "queued.0 submitting.1 suppressed.1" {
					t.Errorf("told %q after %d submits; went %s", w.told(id), len(w.submits), w.went(id))
				}
				for key, n := range w.counts {
					if n != 0 {
						t.Errorf("%d parts counted in %s", n, key)
					}
				}
				p.stop()
				w.leaks()
			})
		}
	}
	bubble(t, "between two parts", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		w.look(func() {
			w.script = func(int, sms.Message) sms.Result {
				w.stopNow(p)
				return sms.Result{IDs: []string{"a"}, Class: sms.Retry}
			}
		})
		id := w.send(w.job(strings.Repeat("a", 300)))
		w.wait(time.Minute)
		if w.told(id) != "suppressed" || len(w.submits) != 1 {
			t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
		}
		p.stop()
	})
}

// TestListFails: a job waits for a list that cannot be asked, and is not in doubt. [F-17]
func TestListFails(t *testing.T) {
	for _, times := range []int{1, portTries, 3 * portTries} {
		bubble(t, fmt.Sprint(times), func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(_ *Config, p *ports) { p.fails["suppressed"] = times })
			id := w.send(w.job(secret))
			w.wait(50 * time.Second)
			if w.told(id) != "submitted" || len(w.submits) != 1 {
				t.Errorf("told %q after %d submits, %v", w.told(id), len(w.submits), w.retries[id])
			}
			p.stop()
		})
	}
}

// TestCaps: parts are counted by number, sender, route and in all; what would pass a bound is capped,
// and not counted. [F-21]
func TestCaps(t *testing.T) {
	two := strings.Repeat("a", 200)
	tests := []struct {
		name   string
		limits CapLimits
		daily  int // of the route
		class  wire.JobClass
		texts  []string
		told   string
	}{
		{"number", CapLimits{PerNumber: 3, PerSender: -1}, 0, wire.ClassNormal, []string{two, two, "a", "a"}, "submitted capped submitted capped"},
		{"number, urgent", CapLimits{PerNumber: 1}, 0, wire.ClassUrgent, []string{"a", "a"}, "submitted capped"},
		{"sender", CapLimits{PerNumber: -1, PerSender: 2}, 0, wire.ClassNormal, []string{"a", two, "a"}, "submitted capped submitted"},
		{"route", CapLimits{PerNumber: -1, PerSender: -1}, 2, wire.ClassNormal, []string{two, "a"}, "submitted capped"},
		{"route, urgent", CapLimits{PerNumber: -1, PerSender: -1}, 1, wire.ClassUrgent, []string{"a", "a"}, "submitted capped"},
		{"all", CapLimits{PerNumber: -1, PerSender: -1, Daily: 2}, 0, wire.ClassNormal, []string{"a", two, "a", "a"}, "submitted capped submitted capped"},
		{"none", CapLimits{PerNumber: -1, PerSender: -1}, 0, wire.ClassNormal, []string{two, two}, "submitted submitted"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(c *Config, p *ports) {
				c.Limits, c.Routes = tt.limits, w.via(sms.Route{Transport: p, Daily: tt.daily})
			})
			var told []string
			for _, text := range tt.texts {
				j := w.job(text)
				j.Class = tt.class
				id := w.send(j)
				w.wait(time.Second)
				told = append(told, w.told(id))
			}
			if got := strings.Join(told, " "); got != tt.told {
				t.Errorf("told %q, want %q", got, tt.told)
			}
			p.stop()
			w.leaks()
		})
	}
	bubble(t, "the next day", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(c *Config, _ *ports) { c.Limits.PerNumber = 1 })
		for day := range 3 {
			id := w.send(w.job(secret))
			w.wait(time.Second)
			if w.told(id) != "submitted" {
				t.Errorf("day %d: told %q", day, w.told(id))
			}
			w.wait(24 * time.Hour)
		}
		p.stop()
	})
}

// TestCountedOnce: repeating a job is free, whatever it is repeated for; losing the race to begin it,
// too. [F-21]
func TestCountedOnce(t *testing.T) {
	tests := []struct {
		name   string
		class  wire.JobClass
		script func(int, sms.Message) sms.Result
	}{
		{"refused for now", wire.ClassNormal, func(n int, m sms.Message) sms.Result {
			if n < 3 {
				return sms.Result{Class: sms.Retry}
			}
			return accepted(m, "id")
		}},
		{"in doubt", wire.ClassUrgent, doubtThen(2, nil)},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.script = tt.script
			p := w.start(func(c *Config, _ *ports) { c.Limits.PerNumber = 1 })
			j := w.job(secret)
			j.Class = tt.class
			id := w.send(j)
			w.wait(10 * time.Minute)
			if w.told(id) != "submitted" || len(w.submits) != 3 {
				t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
			}
			p.stop()
		})
	}
	bubble(t, "cancelled first", func(t *testing.T) {
		w := newWorld(t)
		p := w.start(func(c *Config, _ *ports) { c.Limits.PerNumber = 1 })
		id := w.send(w.job(secret), func(d *delivery) {
			w.look(func() { w.journal[d.id] = Entry{State: wire.JobCancelled} })
		})
		next := w.send(w.job(secret))
		w.wait(time.Second)
		if w.told(id) != "cancelled" || w.told(next) != "submitted" {
			t.Errorf("told %q and %q", w.told(id), w.told(next))
		}
		p.stop()
	})
}

// TestCapsFail: what cannot be counted waits; a one-time password goes. [F-21]
func TestCapsFail(t *testing.T) {
	for _, class := range []wire.JobClass{wire.ClassNormal, wire.ClassUrgent} {
		bubble(t, class.String(), func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(c *Config, p *ports) { c.Limits = CapLimits{}; p.fails["count"] = 3 })
			j := w.job(secret)
			j.Class = class
			id := w.send(j)
			w.wait(500 * time.Millisecond)
			if at := len(w.submits); at != map[wire.JobClass]int{wire.ClassUrgent: 1}[class] {
				t.Errorf("%d submits while the caps are away", at)
			}
			w.wait(time.Minute)
			if w.told(id) != "submitted" || len(w.submits) != 1 {
				t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
			}
			p.stop()
		})
	}
}

// TestTransitions: every step is reported once it is in the journal, and again when a redelivery is
// recognised; without a party a lost report holds nothing up. [F-20]
func TestTransitions(t *testing.T) {
	bubble(t, "delivered", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(n int, m sms.Message) sms.Result {
			if n == 1 {
				return sms.Result{Class: sms.Retry}
			}
			return accepted(m, "id")
		}
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(time.Minute)
		if err := w.say("id.0", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		if got, want := w.went(id), "queued.0 submitting.1 queued.1 submitting.2 submitted.2 delivered.2"; got != want {
			t.Errorf("went %s, want %s", got, want)
		}
		p.stop()
	})
	for _, state := range []string{"queued", "submitting", "submitted"} {
		for _, with := range []bool{false, true} {
			bubble(t, fmt.Sprint(state, " fails, with a party: ", with), func(t *testing.T) {
				w := newWorld(t)
				p := w.start(func(_ *Config, p *ports) { p.fails["step "+state] = portTries })
				id := w.send(w.job(secret), func(d *delivery) {
					if with {
						d.party = []byte("token")
					}
				})
				w.wait(50 * time.Second)
				if w.told(id) != "submitted" || len(w.submits) != 1 || !w.acked[id] {
					t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
				}
				if told := strings.Contains(w.went(id), state+"."); told != with {
					t.Errorf("went %s", w.went(id))
				}
				p.stop()
			})
		}
	}
	bubble(t, "redelivered", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		id := w.send(w.job(secret), func(d *delivery) {
			d.times, d.party = 2, make([]byte, maxParty+1) // longer than any broker's: no party
			w.look(func() { w.journal[d.id] = Entry{State: wire.JobDelivered, Attempt: 1, Sender: pseudonym} })
		})
		w.wait(time.Second)
		if w.went(id) != "delivered.1" {
			t.Errorf("went %s", w.went(id))
		}
		p.stop()
	})
}

// TestObserve: what a worker counts, and that it names nobody. [F-9]
func TestObserve(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(1, nil)
		p := w.start()
		w.send(w.job(secret))
		w.wait(2 * time.Minute)
		w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.text(claimant, "STOP"); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		count := map[Kind]int{}
		for _, o := range w.seen {
			count[o.Kind]++
		}
		want := map[Kind]int{ObservedState: 2, ObservedSubmit: 2, ObservedDoubt: 1, ObservedIncoming: 1, ObservedSuppress: 1, ObservedRevoked: 1, ObservedNoReceipt: 1}
		for k, n := range want {
			if count[k] != n {
				t.Errorf("kind %d: %d observations, want %d", k, count[k], n)
			}
		}
		p.stop()
		w.leaks()
	})
}

// TestReady: what keeps a worker from working is said.
func TestReady(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.keyFails = 1
		var via []string
		r := &road{name: "road", via: &via}
		p := w.start(func(c *Config, p *ports) { r.ports = p; c.Routes = w.via(sms.Route{Transport: r}) })
		w.wait(0)
		if err := p.Ready(t.Context()); err != errNoKey {
			t.Errorf("without a published key: %v", err)
		}
		w.key()
		w.wait(0)
		if err := p.Ready(t.Context()); err != errNoLink {
			t.Errorf("without a link: %v", err)
		}
		r.linked = true
		if err := p.Ready(t.Context()); err != nil {
			t.Errorf("with all there is: %v", err)
		}
		w.look(func() { p.ports.fails["get"] = 1 })
		if err := p.Ready(t.Context()); err == nil {
			t.Error("ready without a journal")
		}
		p.sawQueue(errDown)
		if err := p.Ready(t.Context()); err == nil {
			t.Error("ready without a queue")
		}
		p.stop()
	})
}
