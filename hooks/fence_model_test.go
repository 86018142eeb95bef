package hooks

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bluejay/wire"
)

// A ledger knows who is silent, and since when: the moment in which a receipt was in the hands of whoever had
// asked for the silence. Moments are counted, not timed. What leaves the broker is entered when it has left, so
// what is entered after a receipt was allowed to leave after it.
type ledger struct {
	t       *testing.T
	clock   atomic.Int64
	cast    []*actor
	byID    map[wire.ID]*actor
	jobs    map[wire.Pseudonym]*actor
	byTag   map[string]*actor // "p/" and tag, "b/" and ID
	byOwner sync.Map          // net address of a phone → *actor
	bad     atomic.Int32
	seen    atomic.Int64 // publishes judged
	ended   atomic.Bool  // a connection has, that should not: nobody acts any more
}

// wrong reports a violation, a few of them.
func (l *ledger) wrong(format string, args ...any) {
	if l.bad.Add(1) < 10 {
		l.t.Errorf(format, args...)
	}
}

// silent reports whether somebody was silent before the moment at.
func (a *actor) silent(at int64) bool {
	since := a.since.Load()
	return since != 0 && at > since
}

// ledgerListener hands out connections that enter what the broker has written to them.
type ledgerListener struct {
	net.Listener
	ledger *ledger
}

func (l ledgerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return ledgerConn{c, l.ledger}, nil
}

type ledgerConn struct {
	net.Conn
	ledger *ledger
}

// Write enters every packet of a batch once the kernel has it: a batch holds whole packets.
func (c ledgerConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	at := c.ledger.clock.Add(1)
	var owner *actor
	if v, ok := c.ledger.byOwner.Load(c.RemoteAddr().String()); ok {
		owner = v.(*actor)
	}
	for b := p[:n]; len(b) > 1; {
		size, head := binary.Uvarint(b[1:])
		end := 1 + head + int(size)
		if head <= 0 || end > len(b) {
			break // cut by an error
		}
		if b[0]>>4 == 3 {
			c.ledger.judge(owner, at, b[0], b[1+head:end])
		}
		b = b[end:]
	}
	return n, err
}

// judge looks at one PUBLISH that has left: to whom, from whom, about whom. [C-revoke]
func (l *ledger) judge(to *actor, at int64, head byte, body []byte) {
	l.seen.Add(1)
	n := 2 + int(binary.BigEndian.Uint16(body))
	topic, rest := string(body[2:n]), body[n:]
	if head&6 != 0 {
		rest = rest[2:]
	}
	if to != nil && to.level == 5 {
		rest = rest[1:] // no properties
	}
	if to != nil && topic != "r" && to.silent(at) {
		l.wrong("%s left for somebody silent", topic[:1])
	}
	if about := l.byTag[topic]; about != nil && len(rest) > 0 && about.silent(at) {
		l.wrong("%s of somebody silent", topic[:1])
	}
	if kind := topic[0]; kind != 'i' && kind != 'h' {
		return
	}
	l.text(at, string(rest))
}

// text judges a text by who wrote it, and in which epoch of consent.
func (l *ledger) text(at int64, text string) {
	var sender, op int
	var epoch int64
	if _, err := fmt.Sscanf(text, "<%d %d %d>", &sender, &epoch, &op); err != nil {
		l.wrong("not what anybody sent: %v", err)
		return
	}
	if at > l.cast[sender].ended(epoch) {
		l.wrong("a text of epoch %d, which has ended", epoch)
	}
}

// ended is the moment of the receipt that ended an epoch of consent; far ahead if none has.
func (a *actor) ended(epoch int64) int64 {
	if at, ok := a.ends.Load(epoch); ok {
		return at.(int64)
	}
	return math.MaxInt64
}

// An actor is a person in the test of interleavings. It reads everything that it is sent.
type actor struct {
	*phone
	p        *person
	self     int
	ledger   *ledger
	rnd      *rand.Rand
	level    byte
	on       bool // since it sent its consent, until its end was acknowledged
	epoch    int64
	since    atomic.Int64 // the moment of the receipt it is silent since; 0: it is not
	ends     sync.Map     // epoch → the moment of the receipt that ended it
	connects int
	texts    int // received
	bundle   []byte
	ops      int
}

// eventsEnv is how many events the test of interleavings plays, seedEnv where its dice begin.
const eventsEnv, seedEnv = "BLUEJAY_EVENTS", "BLUEJAY_SEED"

// amount is what an environment variable says, or the default.
func amount(t *testing.T, env string, otherwise int) int {
	t.Helper()
	v := os.Getenv(env)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// TestNothingAfterRevocation keeps [C-revoke] with many at once: they publish, say hello, look up, enqueue,
// watch, fetch bundles, connect, withdraw, are revoked by the registrar, and consent again at random. A
// model knows who is silent since which receipt; everything that leaves the broker is judged by it when it has left:
//
//   - to who is silent goes nothing but the broker's own word on r;
//   - no text, hello, presence or bundle of who is silent goes to anybody;
//   - no look-up of who is silent reaches the registrar, no job the queue, and none is left in it.
//
// BLUEJAY_EVENTS=1000000 plays as many events; the default is the size of CI. A revocation resets the connections that
// do not take what they are sent for a second. If this process stood still for half of that, one that a round needs can be
// among them: the round ends there and is not counted, though nothing that left in it is forgiven.
func TestNothingAfterRevocation(t *testing.T) {
	const actors, each = 8, 2600
	events := amount(t, eventsEnv, actors*each)
	var total play
	void := 0
	for round := uint64(amount(t, seedEnv, 0)); total.ops < events; round++ {
		gap := longestGap()
		p, whole := playRound(t, round, actors, min(each, (events-total.ops)/actors+1))
		switch stood := gap(); {
		case whole:
			total.add(p)
		case stood < lastByte/2 || void == 20:
			t.Errorf("a connection ended; the machine stood still for %v at most, and %d rounds before this one did not count", stood, void)
		default:
			void++
			t.Logf("round %d does not count: the machine stood still for %v", round, stood)
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	if share := total.ops / 20; total.texts < share || total.revocations < int64(total.ops/100) {
		t.Errorf("a tame play: %+v", total)
	}
	t.Logf("%d events in %d rounds: %d texts received, %d revocations, %d publishes judged, 0 after a receipt",
		total.ops, total.rounds, total.texts, total.revocations, total.judged)
}

// play counts what was played.
type play struct {
	ops, rounds, texts  int
	revocations, judged int64
}

func (p *play) add(q play) {
	p.ops, p.rounds, p.texts = p.ops+q.ops, p.rounds+1, p.texts+q.texts
	p.revocations, p.judged = p.revocations+q.revocations, p.judged+q.judged
}

// longestGap watches how evenly time passes for this process; the function returned ends that, and says for how long
// at most it did not.
func longestGap() (end func() time.Duration) {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-tick.C:
			case <-stop:
				longest <- max(most, time.Since(last))
				return
			}
			most, last = max(most, time.Since(last)), time.Now()
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-longest
	}
}

// playRound plays on a node of its own: how often a device may connect within a minute is bounded. [P-16] It is not
// whole if a connection ended that should not.
func playRound(t *testing.T, seed uint64, actors, ops int) (p play, whole bool) {
	l := &ledger{t: t, byID: map[wire.ID]*actor{}, byTag: map[string]*actor{}, jobs: map[wire.Pseudonym]*actor{}}
	st := newStage(t, ListenConfig{listen: func(a *net.TCPAddr) (net.Listener, error) {
		ln, err := net.ListenTCP("tcp", a)
		return ledgerListener{ln, l}, err
	}})
	var cast []*actor
	for i := range actors {
		a := &actor{p: st.person(everything), self: i, ledger: l, rnd: rand.New(rand.NewPCG(seed, uint64(i))), level: byte(4 + i%2), on: true, epoch: 1}
		cast = append(cast, a)
		l.jobs[st.node.pseudonym(a.p.id, day(time.Now()))] = a
		l.byID[a.p.id], l.byTag[a.p.topic('p')], l.byTag[a.p.topic('b')] = a, a, a
	}
	l.cast, st.onAsk = cast, l.asked
	for _, a := range cast {
		a.dial(st)
		a.bundle = st.bundle(a.p, time.Hour)
	}
	var wg sync.WaitGroup
	for _, a := range cast {
		wg.Go(func() {
			for a.ops < ops && !l.ended.Load() {
				a.act()
			}
			if !l.ended.Load() {
				a.withdraw()
			}
		})
	}
	wg.Wait()
	c, whole := st.node.Counts(), !l.ended.Load()
	if c.PostRevocation != 0 || whole && (c.Custody.InFlight != 0 || c.Blue != 0 || c.Bundles != 0 || c.Watches != 0 || st.queued() != 0) {
		t.Errorf("after everybody withdrew: %+v, %d jobs", c, st.queued())
	}
	p = play{ops: actors * ops, revocations: c.Revocations, judged: l.seen.Load()}
	for _, a := range cast {
		p.texts += a.texts
		_ = a.phone.Close()
	}
	st.stop()
	return p, whole
}

// asked judges what reaches the registrar and the queue, at the moment it does.
func (l *ledger) asked(what string, id wire.ID, p wire.Pseudonym) {
	a := l.byID[id]
	if a == nil {
		a = l.jobs[p]
	}
	if a != nil && a.silent(l.clock.Add(1)) {
		l.wrong("a %s of somebody silent", what)
	}
}

// act does one thing at random, and now and then takes stock.
func (a *actor) act() {
	a.ops++
	other := a.ledger.cast[a.rnd.IntN(len(a.ledger.cast))]
	text := fmt.Appendf(nil, "<%d %d %d>", a.self, a.epoch, a.ops)
	switch n := a.rnd.IntN(1000); {
	case n < 600:
		a.publish(other.p.topic('i'), text)
	case n < 690:
		a.publish(other.p.topic('h'), text)
	case n < 740:
		a.publish("f", job(wire.ClassNormal, time.Hour, string(text)))
	case n < 780:
		a.publish("q", wire.Request{ID: 2, Body: text}.Marshal())
	case n < 800:
		a.publish(a.p.topic('b'), a.bundle)
	case n < 850:
		a.watch(other.p.topic('p'))
	case n < 860:
		a.watch(other.p.topic('b'))
	case n < 880 && a.connects < 80:
		a.connect()
	case n < 900 && a.connects < 80 && a.on:
		a.revoked()
	case n < 950:
		if a.on {
			a.withdraw()
		} else {
			a.consent()
		}
	}
	if a.ops%16 == 0 {
		a.stock()
	}
}

// watch subscribes without waiting.
func (a *actor) watch(topic string) {
	a.pid++
	a.send(headSubscribe, slices.Concat(binary.BigEndian.AppendUint16(nil, a.pid), props()[:a.level-4], lp(topic), []byte{1}))
}

// dial connects.
func (a *actor) dial(st *stage) {
	peer := st.dial()
	a.ledger.byOwner.Store(peer.LocalAddr().String(), a)
	ph, ack := st.greet(peer, a.level, a.p.proof())
	switch {
	case ack.kind == 0:
		a.ledger.ended.Store(true)
	case ack.kind != 2 || ack.codes[0] != 0:
		st.Errorf("CONNACK %+v", ack)
	}
	if a.phone != nil {
		ph.pid = a.pid
	}
	a.phone = ph
}

// connect takes over from itself, or closes first.
func (a *actor) connect() {
	a.connects++
	old := a.phone
	if a.rnd.IntN(2) == 0 {
		_ = old.Close()
	}
	a.dial(a.st)
	_ = old.Close()
}

// consent agrees again, and waits for the PUBACK.
func (a *actor) consent() {
	a.on = true
	a.epoch++
	a.since.Store(0)
	pid := a.publish("c", wire.Request{ID: 1, Body: a.p.record(everything)}.Marshal())
	a.pump(func(e event) bool { return e.kind == 4 && e.pid == pid })
}

// withdraw is the device's own way off.
func (a *actor) withdraw() {
	pid := a.publish("c", wire.Request{ID: 1, Body: a.p.record(0)}.Marshal())
	if a.pump(func(e event) bool { return e.kind == 4 && e.pid == pid }) {
		a.off()
	}
}

// revoked is the registrar's: the connection ends, and the device comes back.
func (a *actor) revoked() {
	a.connects++
	if code := a.st.node.Revoke(context.Background(), a.st.revocation(a.p, func(r *wire.Revocation) { r.Cause = wire.Cause(1 + a.rnd.IntN(3)) })); code != wire.OK {
		a.st.Errorf("revoked: %v", code)
	}
	a.off()
	a.p.seq++
	for a.phone.next().kind != 0 {
	}
	_ = a.phone.Close()
	a.dial(a.st)
}

// off has the receipt: from this moment on it is silent, and nothing of it is in the queue.
func (a *actor) off() {
	at := a.ledger.clock.Add(1)
	a.on = false
	a.ends.Store(a.epoch, at)
	a.since.Store(at)
	a.st.mu.Lock()
	defer a.st.mu.Unlock()
	pseudonym := a.st.node.pseudonym(a.p.id, day(time.Now()))
	for _, p := range a.st.jobs {
		if p == pseudonym {
			a.ledger.wrong("a job is left after the receipt")
		}
	}
}

// stock reads what has been sent up to now.
func (a *actor) stock() {
	a.send(headPingreq, nil)
	a.pump(func(e event) bool { return e.kind == 13 })
}

// pump reads and acknowledges until done; false: the connection ended.
func (a *actor) pump(done func(event) bool) bool {
	for {
		e := a.phone.next()
		switch {
		case e.kind == 0:
			a.ledger.ended.Store(true)
			return false
		case e.kind == 3 && e.topic == "r":
			answer, err := wire.ParseAnswer(e.payload)
			if err == nil && answer.Request == 1 && answer.Code != wire.OK {
				a.st.Errorf("a record was refused: %v", answer.Code)
			}
		case e.kind == 3 && e.qos > 0:
			a.texts++
			a.ack(e)
		}
		if done(e) {
			return true
		}
	}
}
