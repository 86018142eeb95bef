package hooks

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/wire"
)

// TestMain fails when a goroutine of the node or the listener outlives the tests: whoever starts
// one waits for it. [M-16]
func TestMain(m *testing.M) {
	code := m.Run()
	left := leaked()
	for start := time.Now(); code == 0 && left != "" && time.Since(start) < 10*time.Second; left = leaked() {
		time.Sleep(10 * time.Millisecond) // one that is about to return may not have been scheduled
	}
	if code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

func leaked() string {
	buf := make([]byte, 1<<20)
	var left []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "hooks.(*Node)") || strings.Contains(g, "hooks.(*Listener)") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// TestGreyDelay keeps [P-18]: blue on connect, grey 20 to 40 s after the session ended and at once
// when consent is withdrawn; a watcher is sent one byte, then nothing but an empty payload.
func TestGreyDelay(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t, inMemory())
			a, b := st.person(everything), st.person(everything)
			watcher, topic := st.on(a, level), b.topic(wire.TopicPresence)
			watcher.subscribe(topic)
			watcher.quiet("a grey tag")
			first := st.on(b, level)
			if e := watcher.receive(topic); len(e.payload) != 1 || e.retain {
				t.Errorf("blue: %+v", e)
			}
			watcher.subscribe(topic)
			blue := watcher.receive(topic)
			if len(blue.payload) != 1 || !blue.retain {
				t.Errorf("a watch of a blue tag: %+v", blue)
			}
			_ = first.Close()
			synctest.Wait()
			left := time.Now()
			for time.Since(left) < 19*time.Second {
				wait(time.Second)
				watcher.quiet("a quick return is not seen")
			}
			wait(12 * time.Second) // and reads: a pipe that nobody reads from for 20 s is cut
			if e := watcher.receive(topic); len(e.payload) != 0 || e.qos != 0 {
				t.Errorf("grey: %+v", e)
			}
			again := st.on(b, level)
			if e := watcher.receive(topic); len(e.payload) != 1 || bytes.Equal(e.payload, blue.payload) {
				t.Errorf("a new session: %+v, want a fresh byte", e)
			}
			at := time.Now()
			pid := again.publish("c", wire.Request{ID: 7, Body: b.record(0)}.Marshal())
			if e := watcher.receive(topic); len(e.payload) != 0 || time.Since(at) > 0 {
				t.Errorf("withdrawn: %+v after %v", e, time.Since(at))
			}
			again.answer(7, pid)
		})
	})
}

// wait lets synctest's clock run.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestWithdrawnWhileLeaving keeps [P-18]: a withdrawal turns grey at once also the tag of a session
// that has just ended, be it this generation's or the one's before.
func TestWithdrawnWhileLeaving(t *testing.T) {
	for _, step := range []uint32{0, 1} {
		st := newStage(t, ListenConfig{})
		a, b := st.person(everything), st.person(everything)
		watcher, topic := st.on(a, 4), b.topic(wire.TopicPresence)
		watcher.subscribe(topic)
		_ = st.on(b, 4).Close()
		st.eventually("the session ends", func() bool { return st.node.Counts().Sessions == 1 })
		watcher.sync()
		b.gen += step
		st.on(b, 5).ask("c", b.record(0))
		if got := watcher.sync(); len(got) == 0 || len(got[len(got)-1].payload) != 0 {
			t.Errorf("generation +%d: %+v", step, got)
		}
		if c := st.node.Counts(); c.Blue != 1 {
			t.Errorf("generation +%d: %d tags are blue, want the watcher's", step, c.Blue)
		}
	}
}

// TestPresenceSaysNothing keeps [P-18]: an unknown tag, a grey one, one whose owner shows no
// presence and one whose owner withdrew are answered with identical bytes.
func TestPresenceSaysNothing(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		grey, hidden, off := st.person(everything), st.person(wire.ScopeMessaging), st.person(everything)
		st.on(hidden, level)
		st.on(off, level).ask("c", off.record(0))
		watcher := st.on(st.person(everything), level)
		var nobody person
		nobody.device = &device{id: wire.ID{9}}
		var answers [][]byte
		for _, p := range []*person{&nobody, grey, hidden, off} {
			watcher.pid = 500 // the packet id is the client's
			codes := watcher.subscribe(p.topic(wire.TopicPresence))
			answers = append(answers, codes)
			watcher.quiet("a tag that is not blue")
		}
		for _, a := range answers {
			if !bytes.Equal(a, []byte{1}) {
				t.Errorf("answers differ: %x", answers)
			}
		}
	})
}

// TestWatchEnds keeps [P-18]: a watch ends with its UNSUBSCRIBE or its connection, one connection
// has at most 512, and watching needs consent.
func TestWatchEnds(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		b := st.person(everything)
		watcher, topic := st.on(st.person(everything), level), b.topic(wire.TopicPresence)
		watcher.subscribe(topic)
		body := cat(0, 77)
		if level == 5 {
			body = cat(body, 0)
		}
		watcher.send(headUnsubscribe, cat(body, lp(topic), lp(topic), lp("k")))
		if got := watcher.until("UNSUBACK", func(e event) bool { return e.kind == 11 }); len(got.codes) != 3*int(level-4) {
			t.Errorf("UNSUBACK: %+v", got)
		}
		st.on(b, level)
		watcher.quiet("after the end of the watch")
		for i := range 17 { // not a divisor of 512: the bound is exact within one packet too
			var topics []string
			for j := range 31 {
				topics = append(topics, wire.Topic{Kind: wire.TopicPresence, Tag: wire.Tag{1, byte(i), byte(j)}}.String())
			}
			watcher.subscribe(topics...)
		}
		if n := st.node.Counts().Watches; n != maxWatches {
			t.Errorf("%d watches, want %d", n, maxWatches)
		}
		_ = watcher.Close()
		st.eventually("its watches are gone", func() bool { return st.node.Counts().Watches == 0 })
	})
}

// TestTakeoverLeavesNothingStale keeps [P-18]: under random connects, closes and takeovers, with
// old ends that come late, the tag is blue at the end exactly when a session is there.
func TestTakeoverLeavesNothingStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, inMemory())
		rnd := mathrand.New(mathrand.NewPCG(1, 2))
		p, w := st.person(everything), st.person(everything)
		watcher := st.on(w, 5)
		watcher.subscribe(p.topic(wire.TopicPresence))
		var phones []*phone
		var seen []event
		for i := range 200 {
			for range 1 + rnd.IntN(3) {
				switch rnd.IntN(3) {
				case 0:
					if len(phones) > 0 {
						_ = phones[rnd.IntN(len(phones))].Close()
					}
				default:
					phones = append(phones, st.on(p, byte(4+i%2)))
				}
			}
			wait(time.Duration(rnd.IntN(15)) * time.Second)
			seen = append(seen, watcher.sync()...)
		}
		wait(41 * time.Second)
		c := st.node.Counts()
		if c.Blue != c.Sessions {
			t.Errorf("%d tags are blue and %d sessions here", c.Blue, c.Sessions)
		}
		last := event{}
		for _, e := range append(seen, watcher.sync()...) {
			if e.kind == 3 {
				last = e
			}
		}
		if len(last.payload) != c.Sessions-1 {
			t.Errorf("the watcher's last word is %x, with %d sessions", last.payload, c.Sessions-1)
		}
	})
}

// TestAccessLapses keeps [P-17]: access ends by itself when the consent record or the certificate
// expires, with all that goes with it, and a new record on the same connection begins it again.
func TestAccessLapses(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t, inMemory())
			a, b := st.person(everything), st.enrolled()
			st.put(b, b.record(everything, func(r *wire.Consent) { r.ExpiresAt = r.IssuedAt + 30 }))
			from, to, topic := st.on(a, level), st.on(b, level), b.topic(wire.TopicPresence)
			from.subscribe(topic)
			from.sync()
			wait(32 * time.Second)
			if e := from.receive(topic); len(e.payload) != 0 {
				t.Errorf("presence after the record expired: %+v", e)
			}
			from.told(from.publish(b.topic(wire.TopicInbox), []byte("late")), wire.NoRecipient, "a text to it")
			to.told(to.publish(a.topic(wire.TopicInbox), []byte("late")), wire.NotConsented, "a text from it")
			to.why(wire.ReproofDue)
			to.quiet("nothing else")
			if a := to.ask("c", b.record(everything)); a.Code != wire.OK {
				t.Errorf("a new record: %v", a.Code)
			}
			pid := from.publish(b.topic(wire.TopicInbox), []byte("again"))
			to.ack(to.receive(b.topic(wire.TopicInbox)))
			from.told(pid, wire.OK, "a text after the new record")
		})
	})
}

// TestCertificateLapses keeps [P-17]: with its certificate a connection loses everything but enrolment.
func TestCertificateLapses(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t, inMemory())
			for _, scopes := range []wire.Scope{0, everything} {
				p := st.certify(wire.ID{byte(scopes), 1}, time.Now().Add(30*time.Second-24*time.Hour))
				st.put(p)
				if scopes != 0 {
					st.put(p, p.record(scopes))
				}
				ph := st.on(p, level)
				wait(32 * time.Second)
				for _, topic := range []string{"c", "i/" + aTag, "f"} {
					ph.told(ph.publish(topic, []byte("too late")), wire.NotEnrolled, topic)
				}
				if codes := ph.subscribe("k"); codes[0] < 0x80 {
					t.Errorf("k: %x", codes)
				}
				if a := ph.ask("e", []byte{byte(wire.CtlRenew)}); a.Code != wire.OK || st.node.Counts().Blue != 0 {
					t.Errorf("renewal: %v", a.Code)
				}
			}
		})
	})
}

// TestCloseIsBoundedUnderWay: Close ends sessions, requests and forwards under way, those still
// connecting included, and answers other brokers; it is bounded by its context. [M-16]
func TestCloseIsBoundedUnderWay(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{ConnectDeadline: time.Hour}, func(c *Config) {
			c.Router = new(stuck)
			c.CallTimeout, c.ConnectTimeout, c.Custody.Deadline = time.Hour, time.Hour, time.Hour // nothing ends but by Close
		})
		a, b := st.person(everything), st.person(everything)
		from, to := st.on(a, level), st.on(b, level)
		for _, what := range []string{"call", "enqueue"} {
			defer st.hold(what)()
		}
		from.publish("e", wire.Request{ID: 1, Body: []byte{byte(wire.CtlEnrol)}}.Marshal())
		from.publish("f", job(wire.ClassNormal, time.Hour, "job"))
		from.publish("i/"+wire.Tag{8}.String(), []byte("forwarded"))
		from.publish(b.topic(wire.TopicInbox), []byte("in flight"))
		to.receive(b.topic(wire.TopicInbox))
		st.dial() // says nothing
		replies := make(chan wire.Code, 2)
		st.node.Route(b.tag(), []byte("from elsewhere"), func(c wire.Code) { replies <- c })
		to.receive(b.topic(wire.TopicInbox))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := st.node.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		st.node.Route(b.tag(), []byte("too late"), func(c wire.Code) { replies <- c })
		for range 2 {
			if c := <-replies; c != wire.NoRecipient {
				t.Errorf("another broker was told %v", c)
			}
		}
		if c := st.node.Counts(); c.Sessions != 0 || c.Custody.Difference() != 0 {
			t.Errorf("after Close: %+v", c)
		}
		if reason := from.closed(); level == 5 && reason != wire.Unavailable.Connack() {
			t.Errorf("DISCONNECT %#x", reason)
		}
	})
}

// stuck is a Router whose other brokers never answer.
type stuck struct{}

func (*stuck) Claim(wire.Tag) error { return nil }
func (*stuck) Release(wire.Tag)     {}

func (*stuck) Fence(context.Context, wire.Tag, wire.ID) error { return nil }

func (*stuck) Forward(ctx context.Context, _ wire.Tag, _ []byte) (wire.Code, error) {
	<-ctx.Done()
	return wire.Unavailable, ctx.Err()
}

// job is a sealed SMS job as the broker can see it.
func job(class wire.JobClass, life time.Duration, text string) []byte {
	b := []byte{wire.TypeJob, 1, byte(class)}
	b = binary.BigEndian.AppendUint32(b, wire.Unix32(time.Now().Add(life)))
	return cat(b, bytes.Repeat([]byte{7}, 32+8+1+16), text)
}
