package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

// errLost is a call that took effect, and whose answer never came.
var errLost = errors.New("the answer is lost")

// pause is how a process stands still at a call of a port.
type pause int

const (
	beforeSent    pause = iota // before it takes effect, and then it does
	beforeLost                 // before it, and then its time is over
	beforeLate                 // before it: the caller is told that its time is over, and it takes effect all the same
	afterAnswered              // after it
	afterLost                  // after it, and then the time for its answer is over
	pauses
)

func (p pause) String() string {
	return [...]string{"before, sent", "before, lost", "before, late", "after, answered", "after, lost"}[p]
}

// stall makes a whole process stand still once, as SIGSTOP does: none of its calls gets on meanwhile.
type stall struct {
	at   int // which of its calls; signs of life and looks over everything are not counted
	how  pause
	long time.Duration

	mu    sync.Mutex
	calls int
	port  string        // where it stood still; "": not yet
	over  chan struct{} // closed when it goes on; nil: it does not stand still
}

// around makes a call, and stands still before or after it if it is the one.
func (s *stall) around(ctx context.Context, port string, call func(context.Context) error) error {
	if s == nil {
		return call(ctx)
	}
	s.wait()
	if !s.counts(port) {
		err := call(ctx)
		s.wait() // the answer is not read
		return err
	}
	how := s.how
	if port == "submit" && how < afterAnswered {
		how = beforeSent // a transport looks at the clock before it writes
	} else {
		ctx = context.WithoutCancel(ctx) // its time is over, but that is found out in here
	}
	switch how {
	case beforeSent:
		s.stand(port)
		return call(ctx)
	case beforeLost:
		s.stand(port)
		return errDown
	case beforeLate:
		s.stand(port)
		time.AfterFunc(50*time.Millisecond, func() { _ = call(ctx) })
		return errDown
	}
	err := call(ctx)
	s.stand(port)
	if how == afterLost {
		return errLost
	}
	return err
}

func (s *stall) counts(port string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if port == "beat" || port == "each" || port == "list" {
		return false
	}
	s.calls++
	return s.calls == s.at
}

func (s *stall) stand(port string) {
	over := make(chan struct{})
	s.mu.Lock()
	s.port, s.over = port, over
	s.mu.Unlock()
	time.Sleep(s.long)
	s.mu.Lock()
	s.over = nil
	s.mu.Unlock()
	close(over)
}

// wait waits until the process does not stand still.
func (s *stall) wait() {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over != nil {
		<-over
	}
}

func (s *stall) standing() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over != nil
}

// stood is where it stood still; "": nowhere yet.
func (s *stall) stood() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// tends reports whether a process gives signs of life for a job.
func (p *process) tends() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held) > 0 && !p.ports.stall.standing()
}

// ackWait is what the queue does: it hands a job out again of which nobody has given a sign of life for 30 s.
// It ends when the job is acknowledged, and fails when that takes longer than limit.
func (w *world) ackWait(d delivery, limit time.Duration, workers ...*process) {
	w.t.Helper()
	const tick = 5 * time.Second
	silent := time.Duration(0)
	for began := time.Now(); time.Since(began) < limit; {
		w.wait(tick)
		acked, waits := false, false
		w.look(func() { acked, waits = w.acked[d.id], len(w.queue)+w.kept > 0 })
		held := waits
		for _, p := range workers {
			held = held || p.tends()
		}
		switch silent += tick; {
		case acked:
			return
		case held:
			silent = 0
		case silent >= 30*time.Second:
			silent = 0
			d.times++
			again := d
			w.push(&again)
		}
	}
	w.t.Errorf("not acknowledged in %v", limit)
}

// heard is what the sender of a job makes of what it was told: a final state is its last. [F-7]
func (w *world) heard(id wire.MessageID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var heard []string
	final := wire.JobQueued
	for _, s := range w.outcomes[id] {
		switch {
		case !final.Final():
			heard = append(heard, s.String())
			final = s
		case s.Final():
			w.t.Errorf("told %v, and then %v", final, s)
		}
	}
	return strings.Join(heard, " ")
}

// TestStoodStillAnywhere: a worker stands still at each of its calls in turn, before and after it takes
// effect, longer than the queue waits for a sign of life, and another takes its job over. Then it goes on.
// A text is taken at most once, and a one-time password at least once; no final state is left; what the
// sender was told is true; the job is acknowledged, and both are idle again. [F-5] [F-7] [F-11] [F-21]
func TestStoodStillAnywhere(t *testing.T) {
	ports := map[string]int{}
	silent := sms.Result{Outcome: sms.Unknown, Err: sms.ErrNoAnswer}
	for _, tt := range []struct {
		name    string
		first   sms.Result // of the first try; zero: it is taken
		receipt bool       // one comes 10 s after a text was taken
	}{
		{"taken", sms.Result{}, false},
		{"delivered", sms.Result{}, true},
		{"refused", sms.Result{Class: sms.Retry, Status: 0x08}, true},
		{"silent", silent, false},
		{"silent, delivered", silent, true},
	} {
		for _, class := range []wire.JobClass{wire.ClassNormal, wire.ClassUrgent} {
			for how := range pauses {
				for _, long := range []time.Duration{45 * time.Second, 75 * time.Second} {
					for at, port := 1, "?"; port != "" && at <= 60; at++ {
						bubble(t, fmt.Sprint(tt.name, ", ", class, ", ", how, " ", at, ", ", long), func(t *testing.T) {
							port = standAt(t, class, tt.first, tt.receipt, &stall{at: at, how: how, long: long})
							ports[port]++
						})
					}
				}
			}
		}
	}
	for _, port := range []string{"step queued", "count", "begin", "step submitting", "suppressed", "submit", "get", "put", "retry", "tell submitted", "tell unknown", "ack"} {
		if ports[port] == 0 {
			t.Errorf("it never stood still at %q", port)
		}
	}
}

// standAt reports at which port it stood still; "": it had no such call.
func standAt(t *testing.T, class wire.JobClass, first sms.Result, receipt bool, s *stall) (port string) {
	w := newWorld(t)
	secrets := &memory{}
	taken := 0
	w.script = func(n int, m sms.Message) sms.Result {
		r := accepted(m, fmt.Sprint("id", n))
		if n == 1 && (first.Outcome != sms.Answered || first.Class != sms.Accepted) {
			r = first
		}
		if r.Class != sms.Accepted {
			return r
		}
		taken++
		if receipt {
			time.AfterFunc(10*time.Second, func() {
				for range 300 { // an SMSC says it again
					if w.say(fmt.Sprintf("id%d.0", n), recipient, wire.JobDelivered) == nil {
						break
					}
					time.Sleep(time.Second)
				}
			})
		}
		return r
	}
	still := w.start(func(c *Config, p *ports) { c.Secrets, c.Limits, p.stall = secrets, CapLimits{PerSender: -1}, s })
	j := w.job(secret)
	j.Class = class
	var d delivery
	id := w.send(j, func(x *delivery) { x.party = []byte("token"); d = *x })
	w.wait(time.Millisecond)
	other := w.start(func(c *Config, _ *ports) { c.Secrets, c.Limits = secrets, CapLimits{PerSender: -1} })
	w.ackWait(d, 10*time.Minute, still, other)
	w.wait(s.long + 2*time.Minute)
	port = s.stood()

	told, e := w.heard(id), Entry{}
	w.look(func() { e = w.journal[id] })
	if class == wire.ClassNormal && taken > 1 || class == wire.ClassUrgent && taken < 1 || taken > fallback.MaxUrgent {
		t.Errorf("%v: taken %d times", port, taken)
	}
	switch told {
	case "unknown":
	case "submitted", "delivered", "submitted delivered":
		if taken == 0 {
			t.Errorf("%v: told %q, and nothing was taken", port, told)
		}
	default:
		t.Errorf("%v: told %q", port, told)
	}
	if !strings.HasSuffix(told, e.State.String()) {
		t.Errorf("%v: told %q, and the journal has %v", port, told, e.State)
	}
	if receipt && class == wire.ClassNormal && strings.HasSuffix(told, "submitted") {
		t.Errorf("%v: told %q, and a receipt came", port, told)
	}
	for _, counted := range w.counts {
		if counted < int64(min(taken, 1)) || counted > 2 {
			t.Errorf("%v: %d parts counted of %d", port, counted, taken)
		}
	}
	if still.tends() || other.tends() {
		t.Errorf("%v: a job is still held", port)
	}
	still.stop()
	other.stop()
	if t.Failed() {
		t.Logf("%s: %d tries, told %q, journal %v.%d %q\n%s", port, len(w.submits), told, e.State, e.Attempt, strings.Join(w.trace, " "), w.logs.String())
	}
	return port
}

// TestMovedOn: while a worker stood still before it stored a state, another stored one. That stays, and it is
// what the sender is told. [F-7]
func TestMovedOn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		does  func(*world) // until this worker stores a state
		other wire.JobState
		told  string
	}{
		{"doubt is over, and the other was answered late", func(w *world) {
			w.script = doubtThen(1, nil)
			w.send(w.job(secret))
			w.wait(2 * time.Minute)
		}, wire.JobSubmitted, "submitted"},
		{"delivered, and the other was told otherwise", func(w *world) {
			put := w.hooks["put"]
			w.look(func() { delete(w.hooks, "put") })
			w.send(w.job(secret))
			w.wait(time.Second)
			w.look(func() { w.hooks["put"] = put })
			if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
				w.t.Error(err)
			}
		}, wire.JobUndeliverable, "submitted undeliverable"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			var job wire.MessageID
			w.hooks["put"] = func() {
				for id, e := range w.journal {
					if e.Attempt > 0 && e.State != tt.other {
						job, e.State, e.Owner = id, tt.other, ""
						w.enter(id, e)
					}
				}
			}
			p := w.start()
			tt.does(w)
			w.wait(time.Second)
			if got := w.told(job); w.journal[job].State != tt.other || got != tt.told || !w.acked[job] {
				t.Errorf("the journal has %v, told %q, want %q", w.journal[job].State, got, tt.told)
			}
			p.stop()
		})
	}
}

// TestRowSavedAnew: that a row of the journal was only written again, as when the journal's files are cleaned of
// what was erased, takes no job from its worker. [H-8] [F-7]
func TestRowSavedAnew(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		var id wire.MessageID
		again := func() {
			w.enter(id, w.journal[id])
			delete(w.hooks, "put")
		}
		w.look(func() { w.hooks["put"] = again })
		p := w.start()
		w.send(w.job(secret), func(d *delivery) { id = d.id })
		w.wait(time.Second)
		w.look(func() { w.hooks["put"] = again })
		if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
			t.Error(err)
		}
		w.wait(time.Second)
		if got := w.told(id); got != "submitted delivered" || len(w.submits) != 1 || strings.Contains(w.logs.String(), "took its job over") {
			t.Errorf("told %q after %d submits: %s", got, len(w.submits), w.logs.String())
		}
		p.stop()
	})
}
