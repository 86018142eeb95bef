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

// doubtThen leaves the first n submits without an answer.
func doubtThen(n int, late <-chan sms.Answer) func(int, sms.Message) sms.Result {
	return func(i int, m sms.Message) sms.Result {
		if i <= n {
			return sms.Result{Outcome: sms.Unknown, Late: late, Err: sms.ErrNoAnswer}
		}
		return accepted(m, fmt.Sprint("id", i))
	}
}

// TestDoubtByClass: at most once for a text, at least once for a one-time password. [F-5]
func TestDoubtByClass(t *testing.T) {
	tests := []struct {
		name    string
		class   wire.JobClass
		doubts  int
		life    time.Duration
		state   wire.JobState
		submits int
	}{
		{"normal", wire.ClassNormal, 1, time.Hour, wire.JobUnknown, 1},
		{"urgent", wire.ClassUrgent, 1, time.Hour, wire.JobSubmitted, 2},
		{"urgent, silent twice", wire.ClassUrgent, 2, time.Hour, wire.JobSubmitted, 3},
		{"urgent, always silent", wire.ClassUrgent, 99, time.Hour, wire.JobUnknown, fallback.MaxUrgent},
		{"urgent, over meanwhile", wire.ClassUrgent, 1, 50 * time.Second, wire.JobUnknown, 1},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.script = doubtThen(tt.doubts, nil)
			p := w.start()
			j := w.job(secret)
			j.Class, j.ExpiresAt = tt.class, time.Now().Add(tt.life)
			id := w.send(j)
			w.wait(59 * time.Second)
			if len(w.submits) != 1 || w.acked[id] {
				t.Errorf("before the minute is over: %d submits, acknowledged %t", len(w.submits), w.acked[id])
			}
			w.wait(5 * time.Minute)
			if e := w.journal[id]; e.State != tt.state || len(w.submits) != tt.submits || !w.acked[id] {
				t.Errorf("%v after %d submits, acknowledged %t; want %v after %d", e.State, len(w.submits), w.acked[id], tt.state, tt.submits)
			}
			p.stop()
			w.leaks()
		})
	}
}

// TestUnsentCostsNothing: what certainly did not leave, or was refused, is none of the three submissions of an
// urgent job. [F-5]
func TestUnsentCostsNothing(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(n int, m sms.Message) sms.Result {
			switch {
			case n <= 4:
				return sms.Result{Outcome: sms.NotSent, Err: sms.ErrNoLink}
			case n <= 6:
				return sms.Result{Class: sms.Retry}
			case n <= 8:
				return sms.Result{Outcome: sms.Unknown, Err: sms.ErrLinkLost}
			}
			return accepted(m, "id")
		}
		p := w.start()
		j := w.job(secret)
		j.Class = wire.ClassUrgent
		id := w.send(j)
		w.wait(30 * time.Minute)
		if e := w.journal[id]; e.State != wire.JobSubmitted || len(w.submits) != 9 || e.Unsent != 4 || e.Refusals != 2 {
			t.Errorf("%v after %d submits, %d unsent and %d refused", e.State, len(w.submits), e.Unsent, e.Refusals)
		}
		p.stop()
	})
}

// TestLateAnswer: an answer within the minute ends the doubt. [F-11]
func TestLateAnswer(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		answer  sms.Answer
		told    string
		submits int
	}{
		{"accepted", secret, sms.Answer{ID: "late"}, "submitted", 1},
		{"refused for good", secret, sms.Answer{Class: sms.Permanent}, "failed", 1},
		{"refused for now", secret, sms.Answer{Class: sms.Retry}, "submitted", 2},
		{"throttled", secret, sms.Answer{Class: sms.Throttled}, "submitted", 2},
		{"the first of three parts", strings.Repeat("a", 400), sms.Answer{ID: "late"}, "submitted", 2},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			late := make(chan sms.Answer, 1)
			w.script = doubtThen(1, late)
			p := w.start()
			id := w.send(w.job(tt.text))
			w.wait(30 * time.Second)
			late <- tt.answer
			w.wait(10 * time.Second)
			if w.told(id) != tt.told || len(w.submits) != tt.submits {
				t.Errorf("told %q after %d submits; want %q after %d", w.told(id), len(w.submits), tt.told, tt.submits)
			}
			if n := len(w.submits); n == 2 && tt.answer.Class == sms.Accepted && w.submits[1].Done != 1 {
				t.Errorf("the rest began at part %d", w.submits[1].Done)
			}
			p.stop()
		})
	}
	bubble(t, "none can come", func(t *testing.T) {
		w := newWorld(t)
		late := make(chan sms.Answer)
		close(late)
		w.script = doubtThen(1, late)
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(50 * time.Second)
		if w.told(id) != "" {
			t.Errorf("told %q before the minute was over: a receipt may still come", w.told(id))
		}
		w.wait(time.Minute)
		if w.told(id) != "unknown" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
}

// TestReceiptEndsDoubt: a receipt that can only be this job's says that the SMSC has it; with two
// jobs for one number it would be a guess. [F-11] [F-14]
func TestReceiptEndsDoubt(t *testing.T) {
	for name, when := range map[string]time.Duration{"in the wait": 30 * time.Second, "before the wait": 0} {
		bubble(t, name, func(t *testing.T) {
			w := newWorld(t)
			script := doubtThen(1, nil)
			w.script = func(n int, m sms.Message) sms.Result {
				if when == 0 { // it comes while the worker still waits for the answer
					go func() { _ = w.say("x1", recipient, wire.JobUndeliverable) }()
				}
				return script(n, m)
			}
			p := w.start()
			id := w.send(w.job(secret))
			w.wait(when + time.Second)
			if when > 0 {
				if err := w.say("x1", recipient, wire.JobUndeliverable); err != nil {
					t.Fatal(err)
				}
			}
			w.wait(time.Second)
			if w.told(id) != "submitted undeliverable" || !w.acked[id] {
				t.Errorf("told %q", w.told(id))
			}
			p.stop()
		})
	}
	bubble(t, "another number's", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(1, nil)
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(30 * time.Second)
		if err := w.say("x1", claimant, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Minute)
		if w.told(id) != "unknown" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
	bubble(t, "two for one number", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(2, nil)
		p := w.start()
		a, b := w.send(w.job(secret)), w.send(w.job(secret))
		w.wait(30 * time.Second)
		if err := w.say("x1", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Minute)
		if w.told(a) != "unknown" || w.told(b) != "unknown" {
			t.Errorf("told %q and %q", w.told(a), w.told(b))
		}
		p.stop()
	})
	bubble(t, "of a part that was accepted", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(n int, m sms.Message) sms.Result {
			go func() { _ = w.say("p1", recipient, wire.JobDelivered) }()
			return sms.Result{Outcome: sms.Unknown, IDs: []string{"p1"}, Err: sms.ErrNoAnswer}
		}
		p := w.start()
		id := w.send(w.job(strings.Repeat("a", 300)))
		w.wait(30 * time.Second)
		if w.told(id) != "" {
			t.Errorf("told %q: part 1's receipt says nothing of part 2", w.told(id))
		}
		if e := w.journal[id]; len(e.SMSCIDs) != 1 {
			t.Errorf("the journal has %d accepted parts", len(e.SMSCIDs))
		}
		w.wait(time.Minute)
		if w.told(id) != "unknown" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
}

// TestDoubtHoldsNobodyUp: jobs in doubt do not take the window from others.
func TestDoubtHoldsNobodyUp(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(5, nil)
		p := w.start(func(c *Config, _ *ports) { c.Window = 2 })
		for range 5 {
			w.send(w.job(secret))
		}
		w.wait(time.Second)
		id := w.send(w.job("after them"))
		w.wait(time.Second)
		if w.told(id) != "submitted" {
			t.Errorf("told %q: five silent answers stopped a window of two", w.told(id))
		}
		p.stop()
	})
}

// TestRedelivery: what the journal has of a job decides what its next delivery does. [F-11]
func TestRedelivery(t *testing.T) {
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	tests := []struct {
		name    string
		entry   func() Entry
		class   wire.JobClass
		after   time.Duration
		told    string
		submits int
	}{
		{"submitted", func() Entry {
			return Entry{State: wire.JobSubmitted, Attempt: 1, Parts: 1, Route: "route", SMSCIDs: []string{"a"}}
		}, wire.ClassNormal, time.Second, "submitted", 0},
		{"delivered", func() Entry { return Entry{State: wire.JobDelivered} }, wire.ClassNormal, time.Second, "delivered", 0},
		{"failed", func() Entry { return Entry{State: wire.JobFailed} }, wire.ClassNormal, time.Second, "failed", 0},
		{"unknown", func() Entry { return Entry{State: wire.JobUnknown} }, wire.ClassUrgent, time.Second, "unknown", 0},
		{"released", func() Entry { return Entry{Attempt: 1, Parts: 1, ExpiresAt: time.Now().Add(time.Hour)} }, wire.ClassNormal, time.Second, "submitted", 1},
		{"released and over", func() Entry { return Entry{Attempt: 1, Parts: 1, ExpiresAt: ago(time.Second)} }, wire.ClassNormal, time.Second, "expired", 0},
		{"begun just now", func() Entry {
			return Entry{Attempt: 1, Owner: "other/1", At: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}
		}, wire.ClassNormal, 59 * time.Second, "", 0},
		{"begun a minute ago", func() Entry {
			return Entry{Attempt: 1, Owner: "other/1", At: ago(time.Minute), ExpiresAt: time.Now().Add(time.Hour)}
		}, wire.ClassNormal, time.Second, "unknown", 0},
		{
			"urgent, begun a minute ago",
			func() Entry {
				return Entry{Attempt: 1, Owner: "other/1", At: ago(time.Minute), ExpiresAt: time.Now().Add(time.Hour), Urgent: true, Parts: 1}
			},
			wire.ClassUrgent, 5 * time.Second, "submitted", 1,
		},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			j := w.job(secret)
			j.Class = tt.class
			var id wire.MessageID
			w.send(j, func(d *delivery) {
				id = d.id
				e := tt.entry()
				e.Sender = pseudonym
				w.look(func() { w.journal[id] = e })
			})
			w.wait(tt.after)
			if got := w.told(id); got != tt.told || len(w.submits) != tt.submits || w.acked[id] != (tt.told != "") {
				t.Errorf("told %q after %d submits, acknowledged %t; want %q after %d", got, len(w.submits), w.acked[id], tt.told, tt.submits)
			}
			p.stop()
		})
	}
}

// TestBeginRace: another worker begins between this one's look into the journal and its own begin. [F-11]
func TestBeginRace(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		var id wire.MessageID
		w.owns = func([]byte, wire.Number) (bool, error) { // this worker has looked, and not begun
			if _, ok := w.journal[id]; !ok {
				w.journal[id] = Entry{Owner: "other/1", Attempt: 1, At: time.Now(), Parts: 1, ExpiresAt: time.Now().Add(time.Hour), Sender: pseudonym}
			}
			return true, nil
		}
		p := w.start()
		j := w.job(secret)
		j.From = number(t, claimant)
		w.send(j, func(d *delivery) { id = d.id })
		w.wait(2 * time.Minute)
		if w.told(id) != "unknown" || len(w.submits) != 0 {
			t.Errorf("told %q after %d submits of ours", w.told(id), len(w.submits))
		}
		p.stop()
	})
}

// TestTwoWorkersOneJob: a job handed out twice at once, because a worker was slow, is sent once. [F-11]
func TestTwoWorkersOneJob(t *testing.T) {
	tests := []struct {
		released bool
		times    int // how often the queue says the second one was handed out
	}{{false, 1}, {false, 2}, {true, 2}}
	for _, tt := range tests {
		released := tt.released
		bubble(t, fmt.Sprint("released before: ", released, ", handed out ", tt.times), func(t *testing.T) {
			w := newWorld(t)
			gate := make(chan struct{})
			slow := &slowTransport{gate: gate}
			secrets := &memory{}
			var processes []*process
			for range 2 {
				processes = append(processes, w.start(func(c *Config, p *ports) {
					c.Secrets = secrets
					c.Limits = CapLimits{}
					if slow.ports == nil {
						slow.ports = p
					}
					c.Routes = w.via(sms.Route{Transport: &slowTransport{ports: p, gate: gate}})
				}))
			}
			var d delivery
			id := w.send(w.job(secret), func(x *delivery) {
				x.party = []byte("token")
				x.times = tt.times
				d = *x
				if released {
					w.look(func() {
						w.journal[x.id] = Entry{Attempt: 1, Parts: 1, ExpiresAt: time.Now().Add(time.Hour), Sender: pseudonym}
					})
				}
			})
			w.push(&d)
			w.wait(20 * time.Second)
			close(gate) // the slow one gets its answer while the other waits in doubt
			w.wait(2 * time.Minute)
			if len(w.submits) != 1 || w.told(id) != "submitted" || !strings.Contains(w.went(id), "submitted.") {
				t.Errorf("%d submits, told %q, went %s", len(w.submits), w.told(id), w.went(id))
			}
			for _, n := range w.counts {
				if n != 1 {
					t.Errorf("counted %d times", n)
				}
			}
			for _, p := range processes {
				p.stop()
			}
		})
	}
}

// TestStoodStill: a worker stands still with a job in hand, longer than another waits in doubt, and goes
// on as if nothing had been. What the other told the sender stays true: no final state is left, whatever
// comes of the attempt, and a next attempt is not disturbed. [F-7] [F-11]
func TestStoodStill(t *testing.T) {
	refused := sms.Result{Class: sms.Retry, Status: 0x08}
	for _, tt := range []struct {
		name  string
		class wire.JobClass
		comes sms.Result // of the one that stood still
		told  string
		end   wire.JobState // in the journal
		takes int           // submits
	}{
		{"taken", wire.ClassNormal, sms.Result{IDs: []string{"late"}}, "unknown", wire.JobUnknown, 1},
		{"refused", wire.ClassNormal, refused, "unknown", wire.JobUnknown, 1},
		{"refused for good", wire.ClassNormal, sms.Result{Class: sms.Permanent, Status: 0x0b}, "unknown", wire.JobUnknown, 1},
		{"not sent", wire.ClassNormal, sms.Result{Outcome: sms.NotSent, Err: sms.ErrNoLink}, "unknown", wire.JobUnknown, 1},
		{"urgent and taken", wire.ClassUrgent, sms.Result{IDs: []string{"late"}}, "submitted", wire.JobSubmitted, 2},
		{"urgent and refused", wire.ClassUrgent, refused, "submitted", wire.JobSubmitted, 2},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			gate, secrets := make(chan struct{}), &memory{}
			still := w.start(func(c *Config, p *ports) {
				c.Secrets, c.Routes = secrets, w.via(sms.Route{Transport: &slowTransport{ports: p, gate: gate}})
				c.SubmitTimeout = time.Hour // nothing else ends an attempt while a process stands still
			})
			first := true
			w.script = func(n int, m sms.Message) sms.Result {
				if first {
					first = false
					return tt.comes
				}
				return accepted(m, fmt.Sprint("id", n))
			}
			j := w.job(secret)
			j.Class = tt.class
			var d delivery
			id := w.send(j, func(x *delivery) { d = *x })
			w.wait(30 * time.Second) // it has begun, and gives no sign of life
			other := w.start(func(c *Config, _ *ports) { c.Secrets = secrets })
			d.times = 2
			w.push(&d)
			w.wait(time.Minute)
			close(gate)
			w.wait(2 * time.Minute)
			w.look(func() {
				if e := w.journal[id]; e.State != tt.end || len(w.submits) != tt.takes {
					t.Errorf("the journal has %v after %d submits, want %v after %d", e.State, len(w.submits), tt.end, tt.takes)
				}
			})
			if got := w.told(id); got != tt.told || !w.acked[id] {
				t.Errorf("told %q, want %q", got, tt.told)
			}
			still.stop()
			other.stop()
		})
	}
}

// TestCrashAnywhere: a worker dies before each of its effects in turn, and another takes over. A
// text is sent at most once, its sender is always told the truth, every step it says it took is
// reported, it is counted at most twice, and the job always ends. [F-11] [F-20] [F-21]
func TestCrashAnywhere(t *testing.T) {
	crashes := 0
	for _, class := range []wire.JobClass{wire.ClassNormal, wire.ClassUrgent} {
		for _, party := range []string{"", "token"} {
			for at := 1; at <= 12; at++ {
				bubble(t, fmt.Sprint(class, " ", party, at), func(t *testing.T) {
					if crashAt(t, class, party, at) {
						crashes++
					}
				})
			}
		}
	}
	if crashes < 44 {
		t.Errorf("only %d crashes: the test no longer reaches the steps it is for", crashes)
	}
}

func crashAt(t *testing.T, class wire.JobClass, party string, at int) (crashed bool) {
	w := newWorld(t)
	secrets := &memory{}
	limits := CapLimits{PerSender: -1}
	first := w.start(func(c *Config, p *ports) { c.Secrets, c.Limits = secrets, limits; p.crashAt = at })
	j := w.job(secret)
	j.Class = class
	var d delivery
	id := w.send(j, func(x *delivery) { x.party = []byte(party); d = *x })
	w.wait(time.Minute)
	first.stop()
	if !w.acked[id] {
		d.times = 2 // the queue notices that nobody holds it
		w.push(&d)
	}
	second := w.start(func(c *Config, _ *ports) { c.Secrets, c.Limits = secrets, limits })
	w.wait(10 * time.Minute)
	got, n := w.told(id), len(w.submits)
	if !w.acked[id] {
		t.Errorf("never acknowledged; told %q", got)
	}
	if class == wire.ClassNormal && n > 1 || class == wire.ClassUrgent && n < 1 || n > 2 {
		t.Errorf("%v: %d submits", class, n)
	}
	if got == "submitted" && n == 0 || got != "submitted" && got != "unknown" {
		t.Errorf("told %q after %d submits", got, n)
	}
	if steps := " " + w.went(id); party != "" && !strings.Contains(steps, " "+got+".") || n > 0 && party != "" && !strings.Contains(steps, " submitting.") {
		t.Errorf("told %q, and reported %q", got, steps)
	}
	for _, counted := range w.counts {
		if counted < int64(min(n, 1)) || counted > 2 {
			t.Errorf("%d parts counted of %d submits", counted, n)
		}
	}
	second.stop()
	w.leaks()
	return first.ports.crashed
}

// TestStopOrCancelAnywhere: a STOP or a cancellation comes just before each of a worker's effects in
// turn. From the first byte on it is too late; before, nothing is sent. [F-10] [F-17]
func TestStopOrCancelAnywhere(t *testing.T) {
	before := []string{"step queued", "count", "begin", "step submitting", "suppressed", "submit", "put", "tell submitted", "ack"}
	for i, port := range before {
		bubble(t, "stop before "+port, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(c *Config, _ *ports) { c.Limits = CapLimits{} })
			w.look(func() { w.hooks[port] = func() { w.stopNow(p) } })
			id := w.send(w.job(secret))
			w.wait(time.Second)
			want, submits := "suppressed", 0
			if i > 4 {
				want, submits = "submitted", 1
			}
			if w.told(id) != want || len(w.submits) != submits {
				t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
			}
			p.stop()
		})
		bubble(t, "cancel before "+port, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(c *Config, _ *ports) { c.Limits = CapLimits{} })
			var id wire.MessageID
			won := false
			w.look(func() {
				w.hooks[port] = func() { // what the bridge does for the sender
					if _, ok := w.journal[id]; !ok {
						w.journal[id], won = Entry{State: wire.JobCancelled}, true
					}
				}
			})
			w.send(w.job(secret), func(d *delivery) { id = d.id })
			w.wait(time.Second)
			want, submits := "cancelled", 0
			if i > 2 {
				want, submits = "submitted", 1
			}
			if w.told(id) != want || len(w.submits) != submits || won != (i <= 2) {
				t.Errorf("told %q after %d submits; the cancellation won: %t", w.told(id), len(w.submits), won)
			}
			p.stop()
		})
	}
}
