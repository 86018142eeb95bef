package hooks

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// roles are the levels of access that a connection can have. [P-17]
var roles = []string{"stranger", "enrolled", "messaging", "unlisted", "gateway"}

// as connects somebody with the access of a role; a stranger owns nothing.
func (st *stage) as(role string, level byte) (*phone, *person) {
	switch role {
	case "stranger":
		ph, _ := st.call(level, "")
		return ph, &person{device: &device{id: wire.ID{3}}}
	case "enrolled":
		p := st.enrolled()
		return st.on(p, level), p
	case "unlisted":
		p := st.enrolled()
		st.put(p, p.record(everything&^wire.ScopeGateway, func(c *wire.Consent) { c.Visibility = wire.Unlisted }))
		return st.on(p, level), p
	case "messaging":
		p := st.person(everything &^ wire.ScopeGateway)
		return st.on(p, level), p
	}
	p := st.person(everything)
	return st.on(p, level), p
}

// matrix is the table of [P-10] for each role: what a publish of a well-formed payload and a
// subscription are told. "+" is allowed; e no certificate, c no consent, x never.
var matrix = []struct {
	kind               byte
	own                bool
	publish, subscribe string
}{
	{'h', false, "ec+++", "xxxxx"},
	{'h', true, "ec+++", "xc+++"},
	{'i', false, "ec+++", "xxxxx"},
	{'i', true, "ec+++", "xc+++"},
	{'p', false, "xxxxx", "ec+++"},
	{'p', true, "xxxxx", "ec+++"},
	{'b', false, "xxxxx", "ec+++"},
	{'b', true, "xc+c+", "ec+++"},
	{'f', true, "eccc+", "xxxxx"},
	{'k', true, "xxxxx", "e++++"},
	{'x', true, "ec+++", "xxxxx"},
	{'c', true, "e++++", "xxxxx"},
	{'r', true, "xxxxx", "+++++"},
	{'e', true, "+++++", "xxxxx"},
	{'q', true, "ec+++", "xxxxx"},
}

var verdicts = map[byte]wire.Code{'e': wire.NotEnrolled, 'c': wire.NotConsented, 'x': wire.NotAllowed, '+': wire.OK}

// TestTopicsByAccess keeps [P-10] and [P-17]: every topic, for every level of access, for publishing
// and subscribing, end to end. What is refused is answered and reaches nobody.
func TestTopicsByAccess(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		for i, role := range roles {
			st := newStage(t, ListenConfig{})
			other := st.person(everything)
			to := st.on(other, level)
			to.subscribe(other.topic('p'), other.topic('b'))
			to.sync()
			for _, row := range matrix {
				ph, p := st.as(role, level) // anew: some change what one may do
				target := other
				if row.own {
					target = p
				}
				what := fmt.Sprintf("%s, own %v, %s", string(row.kind), row.own, role)
				want := verdicts[row.publish[i]]
				pid := ph.publish(target.topic(wire.TopicKind(row.kind)), st.wellFormed(row.kind, p))
				for _, at := range []*phone{ph, to, ph} {
					for _, e := range at.sync() {
						if e.kind == 3 && e.qos == 1 { // arrived
							at.ack(e)
							if want != wire.OK {
								t.Errorf("%s: refused, and arrived as %+v", what, e)
							}
						}
						ph.seen = append(ph.seen, e)
					}
				}
				ph.told(pid, want, "publish to "+what)
				codes := ph.subscribe(target.topic(wire.TopicKind(row.kind)))
				if want := verdicts[row.subscribe[i]]; want == wire.OK && codes[0] != 1 ||
					want != wire.OK && (codes[0] < 0x80 || level == 5 && codes[0] != want.Puback()) {
					t.Errorf("subscription to %s: %#x, want %v", what, codes[0], want)
				}
			}
		}
	})
}

// wellFormed is a payload that the broker accepts from p on a topic.
func (st *stage) wellFormed(kind byte, p *person) []byte {
	switch kind {
	case 'b':
		if p.device.key == nil {
			return []byte("no key")
		}
		return st.bundle(p, time.Hour)
	case 'f':
		return job(wire.ClassNormal, time.Hour, "a job")
	case 'x':
		return wire.ByMessageID(byte(wire.CtlUnread), wire.MessageID{1})
	case 'c', 'e', 'q':
		return wire.Request{ID: 1, Body: []byte{byte(wire.CtlNextTag), 0, 0, 0, 9}}.Marshal()
	}
	return []byte("a text")
}

// TestNotOffered keeps [M-3] to [M-6]: QoS 0 and 2, wildcards, shares, $SYS, retained texts and
// wills end the connection, with a reason for MQTT 5, and reach nobody.
func TestNotOffered(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		b := st.person(everything)
		to := st.on(b, level)
		filter := func(f string) func(*phone) {
			return func(ph *phone) { ph.send(headSubscribe, cat(0, 1, props()[:level-4], lp(f), 0)) }
		}
		publish := func(header byte, topic string) func(*phone) {
			return func(ph *phone) { ph.publishAs(header, 1, topic, []byte("text")) }
		}
		for name, f := range map[string]func(*phone){
			"QoS 0":           publish(0x30, b.topic('i')),
			"QoS 2":           publish(0x34, b.topic('i')),
			"retained":        publish(0x33, b.topic('i')),
			"$SYS publish":    publish(0x32, "$SYS/broker"),
			"#":               filter("#"),
			"i/+":             filter("i/+"),
			"$share":          filter("$share/g/k"),
			"$SYS":            filter("$SYS/#"),
			"QoS 2 subscribe": func(ph *phone) { ph.send(headSubscribe, cat(0, 1, props()[:level-4], lp("k"), 2)) },
		} {
			ph := st.on(st.person(everything), level)
			f(ph)
			if reason := ph.closed(); (reason != 0) != (level == 5) {
				t.Errorf("%s: DISCONNECT %#x", name, reason)
			}
		}
		to.quiet("a recipient")
	})
}

// pair is a sender and a recipient who have agreed to everything.
func (st *stage) pair(level byte) (from, to *phone, inbox string) {
	st.Helper()
	a, b := st.person(everything), st.person(everything)
	return st.on(a, level), st.on(b, level), b.topic(wire.TopicInbox)
}

// TestPubackAfterRecipients keeps [C-1] and [C-6]: the sender's PUBACK comes after the recipient's
// and not before; the same bytes again, under the same packet id or another, start nothing, and
// each packet id is answered once.
func TestPubackAfterRecipients(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		from, to, inbox := st.pair(level)
		first := from.publish(inbox, []byte("hello"))
		from.quiet("before the recipient has it")
		got := to.receive(inbox)
		if string(got.payload) != "hello" || got.qos != 1 || got.retain {
			t.Errorf("delivered: %+v", got)
		}
		for range 2 * receiveMaximum { // also: they count as one of the 64 in flight
			from.publishAs(0x3a, first, inbox, []byte("hello"))
		}
		second := from.publish(inbox, []byte("hello"))
		from.quiet("before the recipient acknowledges")
		to.quiet("a copy of what is in flight")
		to.ack(got)
		from.told(first, wire.OK, "the first packet id")
		from.told(second, wire.OK, "the second packet id")
		from.quiet("nothing else")
		if c := st.node.Counts().Custody; c.Accepted != 1 || c.Delivered != 1 || c.Joined != 2*receiveMaximum+1 {
			t.Errorf("counts: %+v", c)
		}
	})
}

// TestReturned keeps [C-2]: what is undeliverable comes back as NoRecipient (0x10 in MQTT 5, a notice
// before the PUBACK in MQTT 3.1.1): at once for a tag without a session, when the recipient's
// connection breaks, and when it comes back with another tag.
func TestReturned(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		a, b := st.person(everything), st.person(everything)
		from, inbox := st.on(a, level), b.topic(wire.TopicInbox)
		from.told(from.publish("i/"+aTag, []byte("nobody")), wire.NoRecipient, "an unknown tag")
		from.told(from.publish(inbox, []byte("offline")), wire.NoRecipient, "a grey tag")
		to := st.on(b, level)
		pid := from.publish(inbox, []byte("reset"))
		to.receive(inbox)
		_ = to.Conn.(*net.TCPConn).SetLinger(0)
		_ = to.Close()
		from.told(pid, wire.NoRecipient, "a recipient that resets")
		to = st.on(b, level)
		pid = from.publish(inbox, []byte("taken over"))
		to.receive(inbox)
		b.gen++
		again := st.on(b, level)
		from.told(pid, wire.NoRecipient, "a recipient with another tag")
		again.quiet("the new tag")
	})
}

// TestDeadline keeps [C-2] and [C-3]: after 8 s a text comes back, is not delivered again, and a late
// PUBACK changes nothing but the room in the window.
func TestDeadline(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) {
			st := newStage(t, inMemory())
			from, to, inbox := st.pair(level)
			start := time.Now()
			pid := from.publish(inbox, []byte("slow"))
			late := to.receive(inbox)
			from.told(pid, wire.NoRecipient, "the deadline")
			if took := time.Since(start); took < 8*time.Second || took > 9*time.Second {
				t.Errorf("returned after %v", took)
			}
			pid = from.publish(inbox, []byte("next"))
			to.ack(late)
			next := to.receive(inbox)
			from.quiet("a late PUBACK acknowledges nothing")
			to.ack(next)
			from.told(pid, wire.OK, "the next")
			if c := st.node.Counts().Custody; c.Late != 1 || next.pid == late.pid {
				t.Errorf("%+v; packet ids %d and %d", c, late.pid, next.pid)
			}
		})
	})
}

// TestTakeoverHandsOver keeps [C-2]: a newer session of the same tag takes over what was in flight.
func TestTakeoverHandsOver(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		a, b := st.person(everything), st.person(everything)
		from, to, inbox := st.on(a, level), st.on(b, level), b.topic(wire.TopicInbox)
		var pids []uint16
		for i := range 40 { // more than the window: some are written, some wait
			pids = append(pids, from.publish(inbox, fmt.Appendf(nil, "text %d", i)))
		}
		from.sync()
		again := st.on(b, 9-level)
		for i, pid := range pids {
			e := again.receive(inbox)
			if string(e.payload) != fmt.Sprintf("text %d", i) {
				t.Fatalf("text %d: %q", i, e.payload)
			}
			again.ack(e)
			from.told(pid, wire.OK, "handed over")
		}
		if reason := to.closed(); level == 5 && reason != wire.TakenOver.Connack() {
			t.Errorf("DISCONNECT %#x", reason)
		}
	})
}

// TestUnreadable keeps [C-1]: what the recipient cannot open, as it says on x or with an MQTT 5
// reason, comes back with its reason; x about anything else does nothing.
func TestUnreadable(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		from, to, inbox := st.pair(level)
		text := []byte("garbled")
		pid := from.publish(inbox, text)
		to.receive(inbox)
		x := func(id wire.MessageID) []byte { return wire.ByMessageID(byte(wire.CtlUnread), id) }
		from.told(from.publish("x", x(wire.MessageIDOf(text))), wire.OK, "x by another")
		to.told(to.publish("x", x(wire.MessageID{1})), wire.OK, "x about nothing")
		to.told(to.publish("x", []byte("no message id")), wire.NotAllowed, "x that is none")
		from.quiet("still in flight")
		to.told(to.publish("x", x(wire.MessageIDOf(text))), wire.OK, "x")
		from.told(pid, wire.Unreadable, "unreadable")
		if level == 5 {
			pid = from.publish(inbox, []byte("refused"))
			e := to.receive(inbox)
			to.send(headPuback, append(binary.BigEndian.AppendUint16(nil, e.pid), 0x83))
			from.told(pid, wire.Unreadable, "refused by its PUBACK")
		}
	})
}

// TestWindow keeps [C-2]: a client is written at most 32 unacknowledged messages, or fewer if it
// asks for fewer; each acknowledgement makes room for one.
func TestWindow(t *testing.T) {
	st := newStage(t, ListenConfig{})
	a, b := st.person(everything), st.person(everything)
	from, inbox := st.on(a, 4), b.topic(wire.TopicInbox)
	for _, tt := range []struct {
		level  byte
		asks   []any
		window int
	}{{4, nil, 32}, {5, nil, 32}, {5, []any{0x21, 0, 3}, 3}, {5, []any{0x21, 9, 9}, 32}} {
		to, _ := st.callOn(st.dial(), tt.level, b.proof(), tt.asks...)
		for i := range 40 {
			from.publish(inbox, fmt.Appendf(nil, "text %d %v", i, tt))
		}
		from.sync()
		got := slices.DeleteFunc(to.sync(), func(e event) bool { return e.topic != inbox })
		if len(got) != tt.window {
			t.Errorf("%+v: %d written", tt, len(got))
		}
		to.ack(got[0])
		if more := to.sync(); len(more) != 1 {
			t.Errorf("%+v: %d after one PUBACK", tt, len(more))
		}
		_ = to.Close()
		for range 40 - 1 {
			from.until("the others are returned", func(e event) bool { return e.kind == 4 })
		}
		from.sync()
	}
}

// TestInFlight: more than 64 publishes without an answer are refused as over quota, and a recipient
// that never acknowledges delays nobody else. [C-5]
func TestInFlight(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		from, deaf, inbox := st.pair(level)
		for i := range receiveMaximum {
			from.publish(inbox, fmt.Appendf(nil, "text %d", i))
		}
		from.quiet("in flight")
		from.told(from.publish(inbox, []byte("one more")), wire.OverQuota, "the 65th")
		from.told(from.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OverQuota, "a job")
		other, to, open := st.pair(level)
		pid := other.publish(open, []byte("undisturbed"))
		to.ack(to.receive(open))
		other.told(pid, wire.OK, "the others")
		deaf.ack(deaf.receive(inbox))
		from.told(1, wire.OK, "the first")
		pid = from.publish(inbox, []byte("one more"))
		from.quiet("accepted again")
		_ = deaf.Close()
		from.told(pid, wire.NoRecipient, "returned in the end")
	})
}

// TestDeafRecipient keeps [C-2] and [C-5]: of those who write to a recipient that never reads, 256
// wait beside its window, the next is told at once, and nobody else notices.
func TestDeafRecipient(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		b := st.person(everything)
		deaf, inbox := st.on(b, level), b.topic(wire.TopicInbox)
		_ = deaf.Conn.(*net.TCPConn).SetReadBuffer(4096)
		n := 32 + 256
		for n > 0 {
			from := st.on(st.person(everything), level)
			for i := range min(n, receiveMaximum) {
				from.publish(inbox, fmt.Appendf(nil, "%s %d %d", filler[:900], n, i))
			}
			from.quiet("in flight")
			n -= min(n, receiveMaximum)
		}
		from, to, open := st.pair(level)
		from.told(from.publish(inbox, []byte("too many wait")), wire.NoRecipient, "the 289th")
		pid := from.publish(open, []byte("undisturbed"))
		to.ack(to.receive(open))
		from.told(pid, wire.OK, "the others")
	})
}

// A fabric joins nodes as NATS does: the node that has claimed a tag is asked.
type fabric struct {
	mu     sync.Mutex
	claims map[wire.Tag]*port
}

type port struct {
	*fabric
	node *Node
}

func (p *port) Claim(t wire.Tag) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims[t] = p
	return nil
}

func (p *port) Release(t wire.Tag) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claims[t] == p {
		delete(p.claims, t)
	}
}

func (p *port) Forward(ctx context.Context, t wire.Tag, payload []byte) (wire.Code, error) {
	p.mu.Lock()
	to := p.claims[t]
	p.mu.Unlock()
	if to == nil {
		return wire.NoRecipient, nil
	}
	reply := make(chan wire.Code, 2)
	to.node.Route(t, payload, func(c wire.Code) { reply <- c })
	select {
	case c := <-reply:
		return c, nil
	case <-ctx.Done():
		return wire.Unavailable, ctx.Err()
	}
}

func (p *port) Fence(ctx context.Context, t wire.Tag, id wire.ID) error {
	p.mu.Lock()
	to := p.claims[t]
	p.mu.Unlock()
	if to == nil {
		return nil
	}
	if code := to.node.Fence(ctx, id); code != wire.OK {
		return code
	}
	return nil
}

// claimed is how many tags have a node.
func (f *fabric) claimed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.claims)
}

// cluster starts two nodes of one service.
func cluster(t *testing.T, lc func() ListenConfig) (*fabric, *stage, *stage) {
	f := &fabric{claims: map[wire.Tag]*port{}}
	p, q := &port{fabric: f}, &port{fabric: f}
	one := newStage(t, lc(), func(c *Config) { c.Router = p })
	two := blank(&world{T: t, shelf: one.shelf, log: one.log, registrar: one.registrar})
	two.start(lc(), func(c *Config) { c.Router = q })
	p.node, q.node = one.node, two.node
	return f, one, two
}

// TestAcrossBrokers keeps [C-1], [C-2] and [C-3] across two brokers: the sender's PUBACK comes after the
// recipient's, undeliverable is known, both deadlines hold, and both brokers' counts add up.
func TestAcrossBrokers(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) {
			_, one, two := cluster(t, inMemory)
			a, b := one.person(everything), one.person(everything)
			from, to, inbox := one.on(a, level), two.on(b, level), b.topic(wire.TopicInbox)
			synctest.Wait() // a tag is claimed after the welcome
			pid := from.publish(inbox, []byte("across"))
			e := to.receive(inbox)
			from.quiet("not acknowledged yet")
			to.ack(e)
			from.told(pid, wire.OK, "across")
			from.told(from.publish("i/"+aTag, []byte("nobody")), wire.NoRecipient, "nobody's tag")
			pid = from.publish(inbox, []byte("slow"))
			late, start := to.receive(inbox), time.Now()
			from.told(pid, wire.NoRecipient, "the deadline")
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("returned after %v", took)
			}
			to.ack(late)
			to.sync()
			pid = from.publish(inbox, []byte("gone"))
			to.receive(inbox)
			to.ask("c", b.record(0))
			from.told(pid, wire.NoRecipient, "withdrawn over there")
			from.told(from.publish(inbox, []byte("after")), wire.NoRecipient, "after the withdrawal")
			if c, d := one.node.Counts().Custody, two.node.Counts().Custody; c.Delivered != 1 || d.Delivered != 1 || d.Late != 1 {
				t.Errorf("one %+v, two %+v", c, d)
			}
		})
	})
}

// TestClaims keeps [C-2]: a tag is claimed exactly while its session is here: not after a takeover
// with another tag, nor after a withdrawal, and still after the late end of an older session.
func TestClaims(t *testing.T) {
	f, one, _ := cluster(t, func() ListenConfig { return ListenConfig{} })
	p := one.person(everything)
	is := func(what string, want int) {
		t.Helper()
		one.eventually(what, func() bool { return f.claimed() == want })
	}
	first := one.on(p, 4)
	is("connected", 1)
	second := one.on(p, 5)
	first.closed()
	one.eventually("the first has ended", func() bool { return one.node.Counts().Sessions == 1 })
	second.sync()
	is("taken over", 1)
	p.gen++
	third := one.on(p, 4)
	second.closed()
	is("another tag", 1)
	third.ask("c", p.record(0))
	is("withdrawn", 0)
	third.ask("c", p.record(everything))
	is("consented again", 1)
	_ = third.Close()
	is("ended", 0)
	for range 20 {
		_ = one.on(p, 4).Close()
		last := one.on(p, 4)
		last.sync()
		one.eventually("one is left", func() bool { return one.node.Counts().Sessions == 1 })
		is("a quick return", 1)
		_ = last.Close()
	}
}

// TestHello keeps [P-19]: the PUBACK is the same, on the same path, whether the recipient is online,
// offline, no user, or over its quota; only a sender over its own quota is told, and a hello of
// more than 2 KiB is too large.
func TestHello(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) { // whose clock stands still: quotas are of an hour or a day
			st := newStage(t, inMemory())
			online, offline := st.person(everything), st.person(everything)
			to := st.on(online, level)
			from := st.on(st.person(everything), level)
			answers := func(p *person, payload []byte) string {
				from.publishAs(0x32, 9, p.topic(wire.TopicHello), payload)
				return fmt.Sprintf("%+v", from.sync())
			}
			want := fmt.Sprintf("%+v", []event{{kind: 4, pid: 9, codes: []byte{}}})
			for i := range consent.HellosPerPairHour {
				if got := answers(online, fmt.Appendf(nil, "hello %d", i)); got != want {
					t.Fatalf("hello %d: %s, want %s", i, got, want)
				}
				to.ack(to.receive(online.topic(wire.TopicHello)))
			}
			nobody := &person{device: &device{id: wire.ID{1, 2, 3}}}
			for name, p := range map[string]*person{"over the pair's quota": online, "offline": offline, "nobody": nobody} {
				if got := answers(p, []byte("hello")); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
			to.quiet("the recipient of too many hellos")
			from.told(from.publish(offline.topic('h'), make([]byte, maxHello)), wire.OK, "2 KiB")
			from.told(from.publish(offline.topic('h'), make([]byte, maxHello+1)), wire.TooLarge, "more than 2 KiB")
			for i := range consent.NewRecipientsPerDay - 3 {
				answers(&person{device: &device{id: wire.ID{4, byte(i)}}}, nil)
			}
			from.told(from.publish((&person{device: &device{id: wire.ID{5}}}).topic('h'), nil), wire.OverQuota, "the 21st new recipient")
			if got := answers(online, []byte("again")); got != want {
				t.Errorf("a repeat is not new: %s", got)
			}
		})
	})
}

// TestBundles keeps [P-9]: only the owner publishes a bundle, verified; it is answered right after
// the SUBACK, also when the owner has left; an empty payload is none.
func TestBundles(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		synctest.Test(t, func(t *testing.T) { // whose clock stands still: quotas are of an hour or a day
			st := newStage(t, inMemory())
			p, other := st.person(everything), st.person(everything)
			owner, reader, topic := st.on(p, level), st.on(other, level), p.topic(wire.TopicBundle)
			fetch := func() []byte {
				reader.subscribe(topic)
				e := reader.next() // nothing between
				if e.topic != topic || !e.retain || e.qos != 0 {
					t.Fatalf("after the SUBACK: %+v", e)
				}
				return e.payload
			}
			good, forged := st.bundle(p, time.Hour), st.bundle(p, time.Hour)
			forged[300]++
			for what, b := range map[string][]byte{"forged": forged, "another's": st.bundle(other, time.Hour), "empty": nil, "expired": st.bundle(p, -time.Hour)} {
				owner.told(owner.publish(topic, b), wire.BadRecord, what)
			}
			owner.told(owner.publish(topic, st.bundle(p, 9*24*time.Hour)), wire.OutOfTime, "9 days")
			reader.told(reader.publish(topic, good), wire.NotAllowed, "by another")
			if b := fetch(); len(b) != 0 {
				t.Errorf("none yet: %d bytes", len(b))
			}
			owner.publishAs(0x33, 50, topic, good) // RETAIN may be set here [M-6]
			owner.told(50, wire.OK, "the owner's")
			_ = owner.Close()
			st.eventually("the owner leaves", func() bool { return st.node.Counts().Sessions == 1 })
			if b := fetch(); !bytes.Equal(b, good) {
				t.Errorf("fetched %d bytes", len(b))
			}
			st.on(p, level).ask("c", p.record(0))
			if b := fetch(); len(b) != 0 || st.node.Counts().Bundles != 0 {
				t.Error("a bundle after the withdrawal")
			}
			for range consent.BundlesPerDay - 3 {
				fetch()
			}
			if codes := reader.subscribe(topic); codes[0] < 0x80 || level == 5 && codes[0] != wire.OverQuota.Puback() {
				t.Errorf("the 61st of a day: %#x", codes)
			}
			if codes := reader.subscribe(other.topic('b')); codes[0] != 1 {
				t.Errorf("one's own: %#x", codes)
			}
		})
	})
}

// TestBundleExpires keeps [P-9]: a bundle is gone after its not_after, and does not outlive its
// owner's consent.
func TestBundleExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, inMemory())
		reader := st.on(st.person(everything), 4)
		for _, tt := range []struct{ life, consent time.Duration }{
			{time.Minute, time.Hour}, {time.Hour, time.Minute},
		} {
			p := st.enrolled()
			st.put(p, p.record(everything, func(c *wire.Consent) { c.ExpiresAt = c.IssuedAt + uint32(tt.consent/time.Second) }))
			owner := st.on(p, 4)
			owner.told(owner.publish(p.topic('b'), st.bundle(p, tt.life)), wire.OK, "bundle")
			_ = owner.Close()
			for _, want := range []int{wire.BundleLen, 0} {
				reader.subscribe(p.topic('b'))
				if got := reader.receive(p.topic('b')); len(got.payload) != want {
					t.Errorf("%+v: %d bytes, want %d", tt, len(got.payload), want)
				}
				wait(62 * time.Second)
			}
			reader.sync()
		}
	})
}

// TestWorkerKey: k is answered at once, and again whenever the worker has a new key. [F-2]
func TestWorkerKey(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		ph, other := st.on(st.enrolled(), level), st.on(st.enrolled(), level)
		ph.subscribe("k")
		if e := ph.receive("k"); len(e.payload) != 0 || !e.retain {
			t.Errorf("none yet: %+v", e)
		}
		st.node.SetWorkerKey(wire.WorkerKey{KID: 7})
		if e := ph.receive("k"); len(e.payload) != wire.WorkerKeyLen || e.payload[1] != 7 {
			t.Errorf("the key: %+v", e)
		}
		other.quiet("who did not ask")
	})
}

// TestLogsSayNothing: whatever is refused, the log has neither topic, tag, ID nor text. [M-2]
func TestLogsSayNothing(t *testing.T) {
	st := newStage(t, ListenConfig{})
	a, b := st.person(everything), st.person(everything)
	from := st.on(a, 4)
	from.told(from.publish(b.topic('i'), []byte(secret)), wire.NoRecipient, "a text")
	from.told(from.publish("f", []byte(secret)), wire.BadRecord, "a job")
	from.ask("c", []byte(secret))
	from.publishAs(0x30, 0, b.topic('i'), []byte(secret))
	from.closed()
	for _, s := range []string{secret, a.id.String(), b.id.String(), a.tag().String(), b.tag().String()} {
		if strings.Contains(st.log.String(), s) {
			t.Errorf("the log says too much:\n%s", st.log)
		}
	}
}

// TestPacketIDInUse: a packet id under way may come again only with the same text, which is answered
// once; with another it ends the connection, or one sender could have any number of texts in flight.
func TestPacketIDInUse(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		from, to, open := st.pair(level)
		from.publishAs(0x32, 9, open, []byte("first"))
		from.publishAs(0x3a, 9, open, []byte("first")) // DUP
		to.ack(to.receive(open))
		from.told(9, wire.OK, "answered once")
		from.quiet("one answer")
		from.publishAs(0x32, 9, open, []byte("second"))
		from.publishAs(0x32, 9, open, []byte("third"))
		from.closed()
		to.ack(to.receive(open))
		to.quiet("the third text")
	})
}
