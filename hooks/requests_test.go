package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// TestRelayed keeps [P-13] and [P-14]: a request on e goes to the registrar behind a token of the
// client's address, one on q behind the asking ID; the answer is on r ahead of the PUBACK.
func TestRelayed(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st, today := newStage(t, ListenConfig{}), day(time.Now())
		p := st.person(everything)
		ph := st.on(p, level)
		st.reply = []byte("the answer")
		query, enrol := cat(int(wire.LookupByUser), 1, filler[:32]), cat(int(wire.CtlEnrol), "sealed")
		for _, x := range []struct {
			topic string
			body  []byte
		}{{"q", query}, {"e", enrol}, {"e", enrol}} {
			if a := ph.ask(x.topic, x.body); a.Code != wire.OK || string(a.Body) != "the answer" {
				t.Errorf("%s: %+v", x.topic, a)
			}
		}
		if want := cat(wire.SubjectLookup+" ", p.id[:], query); !bytes.Equal(st.calls[0], want) {
			t.Errorf("look-up: %q, want %q", st.calls[0], want)
		}
		prefix := len(wire.SubjectEnrol) + 1
		if got := st.calls[1]; string(got[:prefix]) != wire.SubjectEnrol+" " || !bytes.Equal(got[prefix+16:], enrol) {
			t.Errorf("enrolment: %q", got)
		}
		midnight := day(time.Now()) != today // when the token changes
		if token := st.calls[1][prefix : prefix+16]; bytes.Contains(token, []byte("127")) || !midnight && !bytes.Equal(st.calls[1], st.calls[2]) {
			t.Errorf("address token %x is not one of the day's", token)
		}
	})
}

// TestRegistrarFails: when the registrar is down, answers too much or is not there, the answer is
// Unavailable, and the connection goes on. What is no request is refused. [P-13]
func TestRegistrarFails(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		ph := st.on(st.person(everything), level)
		st.fail("call", errors.New("down"))
		if a := ph.ask("q", []byte{0, 1}); a.Code != wire.Unavailable || len(a.Body) != 0 {
			t.Errorf("down: %+v", a)
		}
		st.fail("call", nil)
		st.reply = make([]byte, wire.MaxAnswerBody)
		if a := ph.ask("e", []byte{byte(wire.CtlRenew)}); a.Code != wire.OK || len(a.Body) != wire.MaxAnswerBody {
			t.Errorf("the largest answer: %v, %d bytes", a.Code, len(a.Body))
		}
		st.reply = make([]byte, wire.MaxAnswerBody+1)
		if a := ph.ask("e", []byte{byte(wire.CtlRenew)}); a.Code != wire.Unavailable {
			t.Errorf("an oversized answer: %v", a.Code)
		}
		for _, topic := range []string{"c", "e", "q"} {
			ph.told(ph.publish(topic, []byte{0, 1}), wire.NotAllowed, "no body on "+topic)
		}
		alone := newStage(t, ListenConfig{}, func(c *Config) { c.Relay = nil })
		if a := alone.on(alone.person(everything), level).ask("q", []byte{0}); a.Code != wire.Unavailable {
			t.Errorf("no registrar: %v", a.Code)
		}
	})
}

// TestEightRequests keeps [P-13]: at most 8 requests are under way on one connection; the ninth is
// told so, the read loop goes on meanwhile [C-5], and afterwards there is room again.
func TestEightRequests(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		from, to, inbox := st.pair(level)
		release := st.hold("call")
		var pids []uint16
		for i := range maxCalls {
			pids = append(pids, from.publish("e", wire.Request{ID: uint16(i), Body: []byte{1}}.Marshal()))
		}
		from.told(from.publish("q", wire.Request{ID: 99, Body: []byte{1}}.Marshal()), wire.OverQuota, "the ninth")
		pid := from.publish(inbox, []byte("meanwhile"))
		to.ack(to.receive(inbox))
		from.told(pid, wire.OK, "a text meanwhile")
		release()
		for i, pid := range pids {
			from.answer(uint16(i), pid)
		}
		if a := from.ask("q", []byte{0, 1}); a.Code != wire.OK {
			t.Errorf("afterwards: %v", a.Code)
		}
	})
}

// TestRequestPanics keeps [M-15]: a panic in a request ends that connection and nothing else.
func TestRequestPanics(t *testing.T) {
	st := newStage(t, ListenConfig{}, func(c *Config) { c.Relay = nil })
	from, to, inbox := st.pair(5)
	bad := st.on(st.person(everything), 5)
	st.node.cfg.Relay = (*stage)(nil)
	bad.publish("q", wire.Request{ID: 1, Body: []byte(secret)}.Marshal())
	bad.closed()
	pid := from.publish(inbox, []byte("undisturbed"))
	to.ack(to.receive(inbox))
	from.told(pid, wire.OK, "the others")
	st.eventually("it is logged", func() bool { return strings.Count(st.log.String(), "panic in a call") == 1 })
	if strings.Contains(st.log.String(), secret) {
		t.Errorf("the log holds the request: %s", st.log)
	}
	st.log.mu.Lock()
	defer st.log.mu.Unlock()
	st.log.b.Reset() // stop looks for panics
}

// TestNextTag keeps [P-12]: a device is told the tags of the next 16 generations, no others, and the
// one it was told is the one it gets.
func TestNextTag(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		p := st.person(everything)
		p.gen = 3
		ph := st.on(p, level)
		for gen, want := range map[uint32]wire.Code{3: wire.StaleRecord, 2: wire.StaleRecord, 4: wire.OK, 19: wire.OK, 20: wire.StaleRecord} {
			a := ph.ask("c", wire.NextTagRequest(gen))
			if tag := wire.MakeTag(make([]byte, 32), p.id, gen); a.Code != want || want == wire.OK && !bytes.Equal(a.Body, tag[:]) {
				t.Errorf("generation %d: %+v", gen, a)
			}
		}
		if a := ph.ask("c", []byte{byte(wire.CtlNextTag), 1}); a.Code != wire.NotAllowed {
			t.Errorf("malformed: %v", a.Code)
		}
		p.gen = 19
		st.on(p, level)
	})
}

// TestCheckJob keeps [F-3] to [F-5]: what is not sealed of a job is checked before it is queued.
func TestCheckJob(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		ph := st.on(st.person(everything), level)
		good := job(wire.ClassNormal, time.Hour, "")
		for _, tt := range []struct {
			name string
			job  []byte
			want wire.Code
		}{
			{"the smallest", good, wire.OK},
			{"the largest", job(wire.ClassNormal, time.Hour, string(make([]byte, maxJob-minJob))), wire.OK},
			{"too large", job(wire.ClassNormal, time.Hour, string(make([]byte, maxJob-minJob+1))), wire.TooLarge},
			{"too small", good[:minJob-1], wire.BadRecord},
			{"no job", cat(0x40, good[1:]), wire.BadRecord},
			{"urgent", job(wire.ClassUrgent, time.Hour, ""), wire.NotAllowed},
			{"class 2", job(2, time.Hour, ""), wire.NotAllowed},
			{"expired", job(wire.ClassNormal, -2*time.Second, ""), wire.OutOfTime},
			{"a day", job(wire.ClassNormal, 24*time.Hour, "day"), wire.OK},
			{"longer than a day and the skew", job(wire.ClassNormal, 24*time.Hour+5*time.Minute, ""), wire.OutOfTime},
		} {
			ph.told(ph.publish("f", tt.job), tt.want, tt.name)
		}
		if n := st.queued(); n != 3 {
			t.Errorf("%d jobs queued, want 3", n)
		}
		if c := st.node.Counts().Custody; c.Queued != 3 || c.Accepted != 3 {
			t.Errorf("%+v", c)
		}
	})
}

// TestQueued keeps [C-4]: a job's PUBACK comes only after the queue has stored it; a full queue, a
// failing one and none are told apart.
func TestQueued(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{}, func(c *Config) {
			c.SealSender = func(id wire.ID, m wire.MessageID) ([]byte, error) {
				if m == wire.MessageIDOf(nil) || id.IsZero() {
					return nil, errors.New("not sealed")
				}
				return []byte("sealed"), nil
			}
		})
		ph := st.on(st.person(everything), level)
		release := st.hold("enqueue")
		pid := ph.publish("f", job(wire.ClassNormal, time.Hour, "one"))
		st.eventually("it is asked", func() bool { return slices.Contains(st.asked(), "enqueue") })
		again := ph.publish("f", job(wire.ClassNormal, time.Hour, "one"))
		ph.quiet("before the queue has it")
		release()
		ph.told(pid, wire.OK, "queued")
		ph.told(again, wire.OK, "the same again")
		for err, want := range map[error]wire.Code{
			fmt.Errorf("bridge: %w", wire.QueueFull): wire.QueueFull, errors.New("down"): wire.Unavailable,
		} {
			st.fail("enqueue", err)
			ph.told(ph.publish("f", job(wire.ClassNormal, time.Hour, want.String())), want, "a failing queue")
		}
		if c := st.node.Counts().Custody; c.Queued != 1 || c.Returned != 2 || c.Joined != 1 {
			t.Errorf("%+v", c)
		}
		alone := newStage(t, ListenConfig{}, func(c *Config) { c.Jobs = nil })
		ph = alone.on(alone.person(everything), level)
		ph.told(ph.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.Unavailable, "no queue")
		ph.told(ph.publish("f", wire.ByMessageID(wire.TypeCancel, wire.MessageID{})), wire.Unavailable, "no queue to cancel in")
	})
}

// TestQueueDeadline keeps [C-4]: a queue that has not answered within the deadline is Unavailable.
func TestQueueDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, inMemory())
		ph := st.on(st.person(everything), 4)
		release := st.hold("enqueue")
		start := time.Now()
		ph.told(ph.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.Unavailable, "a slow queue")
		if took := time.Since(start); took != 8*time.Second {
			t.Errorf("told after %v", took)
		}
		release()
		synctest.Wait()
		ph.told(ph.publish("f", job(wire.ClassNormal, 59*time.Minute+52*time.Second, "")), wire.OK, "the same bytes again")
	})
}

// TestCancel keeps [F-10]: a queued job is taken back, one that a worker has begun is not, and the
// quota of a day holds.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) { // whose clock stands still: quotas are of an hour or a day
			st := newStage(t, inMemory())
			ph := st.on(st.person(everything), level)
			one, two := job(wire.ClassNormal, time.Hour, "one"), job(wire.ClassNormal, time.Hour, "two")
			ph.told(ph.publish("f", one), wire.OK, "one")
			ph.told(ph.publish("f", two), wire.OK, "two")
			st.begun[wire.MessageIDOf(two)] = true
			cancel := func(b []byte) uint16 {
				return ph.publish("f", wire.ByMessageID(wire.TypeCancel, wire.MessageIDOf(b)))
			}
			ph.told(cancel(one), wire.OK, "in time")
			ph.told(cancel(two), wire.AlreadyHandled, "too late")
			st.fail("cancel", errors.New("down"))
			ph.told(cancel(two), wire.Unavailable, "down")
			for range consent.CancelsPerDay - 3 {
				ph.result(cancel(one))
			}
			ph.told(cancel(one), wire.OverQuota, "the 201st")
		})
	})
}

// TestOutcomes keeps [F-7] and [P-13]: an outcome is pushed at QoS 1 on r, stays stored until the
// handset has acknowledged it, and is delivered again at the next connection.
func TestOutcomes(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		p := st.person(everything)
		pseudonym := st.node.pseudonym(p.id, day(time.Now()))
		yesterday := st.node.pseudonym(p.id, day(time.Now())-1)
		o := wire.Outcome{Message: wire.MessageID{1}, State: wire.JobDelivered}
		old := wire.Outcome{Message: wire.MessageID{2}, State: wire.JobExpired}
		st.outs[pseudonym], st.outs[yesterday] = []wire.Outcome{o}, []wire.Outcome{old}
		left := func() int {
			st.mu.Lock()
			defer st.mu.Unlock()
			return len(st.outs[pseudonym]) + len(st.outs[yesterday])
		}
		outcome := func(want wire.Outcome) func(event) bool {
			return func(e event) bool {
				got, err := wire.ParseOutcome(e.payload)
				return e.topic == "r" && e.qos == 1 && err == nil && got == want
			}
		}
		// on connects and lets the node look through all days: what it had read before an acknowledgement it may push after it.
		on := func(level byte) *phone {
			st.asked()
			ph, days := st.on(p, level), 0
			st.eventually("it has asked for each day", func() bool {
				for _, what := range st.asked() {
					if what == "pending" {
						days++
					}
				}
				return days >= outcomeDays
			})
			return ph
		}
		ph := on(level)
		ph.until("an outcome", outcome(o))
		ph.until("yesterday's", outcome(old))
		_ = ph.Close()
		st.eventually("it ends", func() bool { return st.node.Counts().Sessions == 0 })
		if left() != 2 {
			t.Errorf("%d outcomes stored after a connection that acknowledged none", left())
		}
		ph = on(level)
		first := ph.until("it again", outcome(o))
		ph.until("yesterday's again", outcome(old))
		ph = on(9 - level) // taken over: each once more, and no more than once
		second := ph.until("it again", outcome(o))
		ph.ack(second)
		ph.ack(ph.until("yesterday's again", outcome(old)))
		st.eventually("both are removed", func() bool { return left() == 0 })
		if first.pid == 0 || second.pid == 0 {
			t.Error("no packet id")
		}
		live := wire.Outcome{Message: wire.MessageID{3}, State: wire.JobSubmitted}
		st.node.Outcome(pseudonym, live)
		ph.ack(ph.until("a live one", outcome(live)))
		st.node.Outcome(wire.Pseudonym{9}, live)
		ph.quiet("another's")
	})
}

// TestOutcomesFail: stores of outcomes that fail are logged, and cost nothing else; without consent
// to the gateway nothing is pushed.
func TestOutcomesFail(t *testing.T) {
	st := newStage(t, ListenConfig{})
	st.fail("pending", errors.New("down"))
	st.fail("done", errors.New("down"))
	p := st.person(everything)
	ph := st.on(p, 4)
	st.eventually("it is logged", func() bool { return strings.Contains(st.log.String(), "outcomes of SMS jobs not read") })
	ph.told(ph.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "a job") // from now on it is listened to
	st.node.Outcome(st.node.pseudonym(p.id, day(time.Now())), wire.Outcome{State: wire.JobDelivered})
	ph.ack(ph.until("an outcome", func(e event) bool { return e.qos == 1 }))
	st.eventually("it is logged", func() bool { return strings.Contains(st.log.String(), "outcome not removed") })
	none := newStage(t, ListenConfig{}, func(c *Config) { c.Outcomes = nil })
	p = none.person(everything)
	ph = none.on(p, 4)
	ph.told(ph.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "a job")
	none.node.Outcome(none.node.pseudonym(p.id, day(time.Now())), wire.Outcome{State: wire.JobDelivered})
	ph.ack(ph.until("an outcome", func(e event) bool { return e.qos == 1 }))
	ph.quiet("nothing else")
}

// [P-14]: who has a /64 has one address.
func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1", "pipe": "",
		"[2001:db8:1:2:3:4:5:6]:7": "2001:db8:1:2::/64", "[fe80::1%eth0]:7": "fe80::/64",
	} {
		if got := network(textAddr(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

type textAddr string

func (a textAddr) Network() string { return "tcp" }
func (a textAddr) String() string  { return string(a) }
