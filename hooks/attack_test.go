package hooks

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/custody"
	"bluejay/wire"
)

// shelf is a Store in memory.
type shelf struct {
	mu     sync.Mutex
	states map[wire.ID]consent.State
}

func (s *shelf) Load(_ context.Context, id wire.ID) (consent.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[id], nil
}

func (s *shelf) Save(_ context.Context, id wire.ID, st consent.State) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[id].Revision != st.Revision {
		return 0, consent.ErrConflict
	}
	st.Revision++
	s.states[id] = st
	return st.Revision, nil
}

// journal is a log that several goroutines write and a test reads.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// A world is a node behind its listener on loopback, without other processes.
type world struct {
	*testing.T
	node      *Node
	listener  *Listener
	shelf     *shelf
	registrar ed25519.PrivateKey
	log       *journal
}

const worldName = "attacked"

// tooLong is when an innocent waits too long. Stock mochi took 36 s, or for ever; a test machine that others share
// can stand still for seconds.
const tooLong = 30 * time.Second

// An aging listener lets time pass for its connections alone: their deadlines come as if it were later. So a test of
// one waits for none, and whoever connects beside it has all the time that there is.
type aging struct {
	net.Listener
	mu     sync.Mutex
	passed time.Duration
	conns  []*agingConn
}

// An agingConn knows what had passed before it was accepted, and its deadline for reads.
type agingConn struct {
	net.Conn
	l      *aging
	before time.Duration
	due    time.Time
}

func listenAging(addr *net.TCPAddr) (net.Listener, error) {
	ln, err := listenTCP(addr)
	return &aging{Listener: ln}, err
}

func (l *aging) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	aged := &agingConn{Conn: c, l: l, before: l.passed}
	l.conns = append(l.conns, aged)
	return aged, nil
}

func (c *agingConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *agingConn) SetReadDeadline(t time.Time) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.due = t
	return c.set()
}

// set tells the socket its deadline. The listener's mu is held.
func (c *agingConn) set() error {
	if c.due.IsZero() {
		return c.Conn.SetReadDeadline(c.due)
	}
	return c.Conn.SetReadDeadline(c.due.Add(c.before - c.l.passed))
}

// pass makes it d later for every connection there is.
func (l *aging) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passed += d
	for _, c := range l.conns {
		_ = c.set()
	}
}

// silence is the end of the time until CONNECT, for whoever has connected by now.
func (w *world) silence() { w.listener.ln.(*aging).pass(w.listener.cfg.ConnectDeadline) }

func newWorld(t *testing.T, cfg ListenConfig) *world {
	t.Helper()
	w := &world{T: t, shelf: &shelf{states: map[wire.ID]consent.State{}}, log: new(journal)}
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	_, receipt, _ := ed25519.GenerateKey(rand.Reader)
	w.registrar = private
	log := slog.New(slog.NewTextHandler(w.log, nil))
	var err error
	w.node, err = New(Config{
		Name: worldName, Registrar: wire.PublicKey(public), Receipt: receipt, TagKey: make([]byte, 32),
		Store: w.shelf, Custody: custody.Config{Deadline: tooLong}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Addr, cfg.Log, cfg.Serve, cfg.counters = "127.0.0.1:0", log, w.node.Serve, new(counters)
	if w.listener, err = Listen(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.listener.Close(ctx); err != nil {
			t.Errorf("the listener did not close: %v", err)
		}
		if err := w.node.Close(ctx); err != nil {
			t.Errorf("the node did not close: %v", err)
		}
	})
	return w
}

// A device is somebody who has opted in to messaging and presence.
type device struct {
	id  wire.ID
	key ed25519.PrivateKey
	ts  uint32
}

func (w *world) device() *device {
	w.Helper()
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	d := &device{key: private, ts: wire.Unix32(time.Now()) - 35}
	_, _ = rand.Read(d.id[:])
	now := wire.Unix32(time.Now()) - 1
	cert := wire.Certificate{ID: d.id, Device: wire.PublicKey(public), IssuedAt: now, LifetimeHours: 24}
	cert.Sign(w.registrar)
	record := wire.Consent{ID: d.id, Scopes: wire.ScopeMessaging | wire.ScopePresence, Seq: 1, IssuedAt: now, ExpiresAt: now + 3600}
	record.Sign(private)
	st, _, err := consent.State{}.WithCertificate(cert)
	if err == nil {
		st, _, err = st.WithRecord(record.Marshal(), time.Now())
	}
	if err == nil {
		_, err = w.shelf.Save(w.Context(), d.id, st)
	}
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (d *device) inbox() string {
	return wire.Topic{Kind: wire.TopicInbox, Tag: wire.MakeTag(make([]byte, 32), d.id, 0)}.String()
}

// password is fresh at each call; ninety fit into the clock skew that is allowed, and the first has half a minute.
func (d *device) password() string {
	d.ts++
	c := wire.Connect{ID: d.id, TS: d.ts}
	c.Sign(d.key, nil, worldName)
	return string(c.Marshal())
}

// A peer is a client that can send anything.
type peer struct {
	net.Conn
	r *bufio.Reader
}

// dial opens a connection and sends nothing on it.
func (w *world) dial() *peer {
	w.Helper()
	c, err := net.Dial("tcp", w.listener.Addr().String())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return &peer{c, bufio.NewReader(c)}
}

// join connects d and waits for its CONNACK.
func (w *world) join(d *device, level byte) *peer {
	w.Helper()
	p := w.dial()
	more := cat(lp(""), lp(wire.Protocol), lp(d.password()))
	if level == 5 {
		more = cat(props(), more)
	}
	p.send(headConnect, connect(int(level), 0xc2, more))
	_ = p.SetReadDeadline(time.Now().Add(tooLong))
	if got, err := p.next(); err != nil || got.header != 0x20 || got.body[1] != 0 {
		w.Fatalf("CONNACK: %x, %v", got, err)
	}
	return p
}

func (p *peer) send(header byte, body []byte) { _, _ = p.Write(wirePacket(header, body)) }
func (p *peer) next() (packet, error)         { return readPacket(p.r, 1<<20) }

// await reads until a packet with this first byte.
func (p *peer) await(header byte) (packet, error) {
	_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		got, err := p.next()
		if err != nil || got.header == header {
			return got, err
		}
	}
}

// refused fails the test unless the broker ends the connection by itself.
func (w *world) refused(p *peer) {
	w.Helper()
	_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, p.r); err != nil && strings.Contains(err.Error(), "timeout") {
		w.Error("the connection goes on")
	}
	_ = p.Close()
}

// innocents are two clients that talk to each other while something else goes on.
type innocents struct {
	from, to *peer
	topic    string
	stop     chan struct{}
	ended    sync.WaitGroup
	got      [][]byte // what the recipient received

	sent    [][]byte
	slowest time.Duration
	err     error
}

func (w *world) innocents() *innocents {
	a, b := w.device(), w.device()
	in := &innocents{from: w.join(a, 4), to: w.join(b, 4), topic: b.inbox(), stop: make(chan struct{})}
	in.ended.Go(in.receive)
	in.ended.Go(in.talk)
	return in
}

// receive acknowledges every text.
func (in *innocents) receive() {
	_ = in.to.SetReadDeadline(time.Time{})
	for {
		p, err := in.to.next()
		if err != nil {
			return
		}
		if p.header == 0x32 {
			at := 2 + len(in.topic)
			in.got = append(in.got, p.body[at+2:])
			in.to.send(headPuback, p.body[at:at+2])
		}
	}
}

// talk sends a text and a ping every 2 ms, and waits for both answers; ten times at least, so that
// it also shows that all is well after a short attack.
func (in *innocents) talk() {
	defer in.to.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for id := uint16(1); in.err == nil; id++ {
		<-tick.C
		if in.stopped() && id > 10 {
			return
		}
		start := time.Now()
		in.err = in.roundTrip(id)
		in.slowest = max(in.slowest, time.Since(start))
	}
}

func (in *innocents) stopped() bool {
	select {
	case <-in.stop:
		return true
	default:
		return false
	}
}

func (in *innocents) roundTrip(id uint16) error {
	payload := cat(filler[:40], fmt.Sprintf("%13d", id))
	in.sent = append(in.sent, payload)
	pid := binary.BigEndian.AppendUint16(nil, id)
	in.from.send(0x32, cat(lp(in.topic), pid, payload))
	in.from.send(headPingreq, nil)
	_ = in.from.SetReadDeadline(time.Now().Add(tooLong))
	pong, acked := false, false
	for !pong || !acked {
		p, err := in.from.next()
		switch {
		case err != nil:
			return fmt.Errorf("round trip %d: %w", id, err)
		case p.header == 0xd0:
			pong = true
		case p.header == headPuback:
			acked = bytes.Equal(p.body, pid)
		case bytes.Contains(p.body, []byte{byte(wire.CtlNotice), pid[0], pid[1]}):
			return fmt.Errorf("text %d was returned as undeliverable", id)
		}
	}
	return nil
}

// check ends the talk and judges it: nothing lost, nothing twice, nothing out of order, and nothing
// that hangs.
func (in *innocents) check(w *world) {
	w.Helper()
	close(in.stop)
	in.ended.Wait()
	if in.err != nil {
		w.Errorf("the innocents: %v", in.err)
	}
	if in.slowest > tooLong || len(in.sent) < 10 {
		w.Errorf("the innocents made %d round trips, the slowest in %v", len(in.sent), in.slowest)
	}
	if !slices.EqualFunc(in.sent, in.got, bytes.Equal) {
		w.Errorf("the innocents sent %d texts and received %d, or others", len(in.sent), len(in.got))
	}
	w.Logf("%d round trips beside it, the slowest in %v", len(in.sent), in.slowest.Round(10*time.Microsecond))
}

// eventually polls until ok.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); !ok(); <-tick.C {
		if time.Since(start) > 10*time.Second {
			w.Errorf("not within 10 s: %s", what)
			return
		}
	}
}

// secret stands in every attack's content; no log may hold it.
const secret = "hunter2-hunter2"

// levels is a topic of many levels.
func levels(n int) []byte { return lp(strings.Repeat("/", n)) }

// An attack is what stopped, slowed or filled a stock mochi (the figures are its).
type attack struct {
	name string
	cfg  ListenConfig
	run  func(w *world)
}

// once is an attack of bytes that a consented client sends and is refused for.
func once(level byte, packets ...[]byte) func(*world) {
	return func(w *world) {
		for range 20 {
			p := w.join(w.device(), level)
			_, _ = p.Write(bytes.Join(packets, nil))
			w.refused(p)
		}
	}
}

var attacks = []attack{
	// every other SUBSCRIBE waited 36 s
	{name: "a filter of 64 KiB of levels", run: once(4, wirePacket(headSubscribe, cat(0, 1, levels(65535), 0)))},
	{name: "a filter of 2,500 levels", run: once(4, wirePacket(headSubscribe, cat(0, 1, levels(2500), 0)))},
	{name: "a publish to 2,500 levels", run: once(4, wirePacket(0x33, cat(levels(2500), 0, 1, secret)))},
	// accepted after 390 million bytes
	{name: "a length without an end", run: func(w *world) {
		for range 20 {
			p := w.dial()
			_, _ = p.Write(cat(0x10, bytes.Repeat([]byte{0x80}, 10_000)))
			w.refused(p)
		}
	}},
	// 25 GB of heap
	{name: "5 bytes that announce 256 MiB", run: func(w *world) {
		w.within(32<<20, func() {
			for range 100 {
				p := w.dial()
				_, _ = p.Write(cat(0x10, 0xff, 0xff, 0xff, 0x7f))
				w.refused(p)
			}
			p := w.join(w.device(), 4)
			_, _ = p.Write(cat(0x30, 0xff, 0xff, 0xff, 0x7f, lp(inboxTopic)))
			w.refused(p)
		})
	}},
	// kept for ever
	{name: "300 silent connections", cfg: ListenConfig{listen: listenAging}, run: func(w *world) {
		var all []*peer
		for range 300 {
			all = append(all, w.dial())
		}
		w.eventually("all are accepted", func() bool { return w.listener.cfg.counters.accepted.Load() == 302 })
		w.silence()
		for _, p := range all {
			w.refused(p)
		}
		w.eventually("only the innocents are left", func() bool { return w.listener.Conns() == 2 })
	}},
	// joined another client's group; others' p50 from 0.25 to 313 ms
	{name: "share groups", run: func(w *world) {
		for i, group := range []string{"$share/g/", "$SHARE/g/", "$Share/a/"} {
			once(byte(4+i%2), wirePacket(headSubscribe, cat(0, 1, props()[:i%2], lp(group+"k"), 0)))(w)
		}
	}},
	// 2.5 KB of heap each
	{name: "6,400 subscriptions by one client", run: func(w *world) {
		p := w.join(w.device(), 4)
		for i := range 200 {
			body := cat(1, i)
			for j := range 32 {
				tag := wire.Tag{byte(i), byte(j), 1}
				body = cat(body, lp(wire.Topic{Kind: wire.TopicPresence, Tag: tag}.String()), 1)
			}
			p.send(headSubscribe, body)
			if _, err := p.await(0x90); err != nil {
				w.Fatal(err)
			}
		}
		if n := w.node.Counts().Watches; n > maxWatches {
			w.Errorf("%d watches, want at most %d", n, maxWatches)
		}
	}},
	// 1 GB held, and the publisher told of messages that were dropped
	{name: "a recipient that never acknowledges", run: func(w *world) {
		deaf, loud := w.device(), w.device()
		w.join(deaf, 4)
		p := w.join(loud, 4)
		w.within(64<<20, func() {
			for i := range 2000 {
				p.send(0x32, cat(lp(deaf.inbox()), 1+i>>8, i, secret, filler[:2000], i>>8, i))
			}
			p.send(headPingreq, nil)
			if _, err := p.await(0xd0); err != nil {
				w.Error(err)
			}
		})
		if c := w.node.Counts().Custody; c.Difference() != 0 {
			w.Errorf("custody does not add up: %+v", c)
		}
	}},
	// 18 clients connected but deaf
	{name: "80 takeovers", run: func(w *world) {
		d, friend := w.device(), w.device()
		var last *peer
		for i := range 80 {
			last = w.join(d, byte(4+i%2))
		}
		p := w.join(friend, 4)
		p.send(0x32, cat(lp(d.inbox()), 0, 1, "to the last"))
		got, err := last.await(0x32)
		if err != nil || !bytes.HasSuffix(got.body, []byte("to the last")) {
			w.Errorf("the last to take over got %x, %v", got.body, err)
		}
		w.eventually("one session of it is left", func() bool { return w.node.Counts().Sessions == 4 })
	}},
	// 190 MB kept with no client left
	{name: "wills", run: func(w *world) {
		for _, level := range []int{4, 5} {
			p := w.dial()
			p.send(headConnect, connect(level, 0x26, props()[:level-4], lp(""), props()[:level-4], lp(inboxTopic), lp(secret)))
			if got, err := p.await(0x20); err != nil || got.body[1] == 0 {
				w.Errorf("MQTT %d: %x, %v", level, got, err)
			}
			w.refused(p)
		}
	}},
	// 3.9 GB
	{name: "topic aliases", run: once(5, wirePacket(0x32, cat(lp(inboxTopic), 0, 1, props(0x23, 0, 1), secret)))},
	// 65 KB kept for each byte of payload
	{name: "QoS 2 that is never released", run: once(5, wirePacket(0x34, cat(lp(inboxTopic), 0, 1, props(), secret)))},
	// the process exits
	{name: "a truncated SUBSCRIBE", run: once(5, []byte{0x82, 6, 0, 1, 0, 0, 1, 'k'})},
	// the listener never accepts again
	{name: "more connections than there is room", cfg: ListenConfig{MaxConns: 50, listen: listenAging}, run: func(w *world) {
		for range 300 {
			if c, err := net.Dial("tcp", w.listener.Addr().String()); err == nil { // else reset at once
				w.Cleanup(func() { _ = c.Close() })
			}
		}
		w.eventually("48 had room", func() bool { return w.listener.cfg.counters.refused.Load() == 252 })
		w.silence()
		w.eventually("the others are gone", func() bool { return w.listener.Conns() == 2 })
		w.join(w.device(), 4)
	}},
	// its publishers freeze
	{name: "a client that stops reading", run: func(w *world) {
		w.node.SetWorkerKey(wire.WorkerKey{KID: 1})
		p := w.join(w.device(), 4)
		_ = p.Conn.(*net.TCPConn).SetReadBuffer(4096)
		body := wirePacket(headSubscribe, cat(0, 1, bytes.Repeat(cat(lp("k"), 0), 32)))
		for i := 0; w.listener.cfg.counters.slowConsumers.Load() == 0; i++ {
			if _, err := p.Write(body); i > 50_000 {
				w.Fatalf("%d answers are queued for it: %v", i, err)
			}
		}
		w.eventually("its session ends", func() bool { return w.node.Counts().Sessions == 2 })
	}},
	// the password in the log
	{name: "a second CONNECT", run: once(4, wirePacket(headConnect, connect(4, 0xc2, lp(""), lp("bj1"), lp(secret))))},
	{name: "a CONNECT with a bad proof", run: func(w *world) {
		for _, password := range []string{secret, w.device().password() + "x", string(make([]byte, 85))} {
			p := w.dial()
			p.send(headConnect, connect(4, 0xc2, lp(""), lp("bj1"), lp(password)))
			w.refused(p)
		}
	}},
	{name: "noise", run: func(w *world) {
		for i := range 100 {
			p := w.dial()
			if i%2 == 1 {
				p = w.join(w.device(), byte(4+i/2%2))
			}
			noise := make([]byte, 1000)
			_, _ = rand.Read(noise)
			_, _ = p.Write(noise)
			_ = p.Conn.(*net.TCPConn).CloseWrite() // else what looks like a packet is waited for
			w.refused(p)
		}
	}},
}

// within fails if f makes the process allocate more than limit bytes. The innocents' share is small.
func (w *world) within(limit uint64, f func()) {
	w.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		w.Errorf("%d MiB were allocated, want at most %d", n>>20, limit>>20)
	}
}

// TestUnderAttack keeps [M-19]: beside each attack two clients exchange texts and pings, quickly
// and without a loss, custody adds up, and no log holds what was sent. [M-2]
func TestUnderAttack(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			w := newWorld(t, a.cfg)
			in := w.innocents()
			a.run(w)
			in.check(w)
			if c := w.node.Counts(); c.Custody.Difference() != 0 || c.PostRevocation != 0 {
				t.Errorf("custody does not add up: %+v", c)
			}
			if n := w.listener.cfg.counters.panics.Load(); n != 0 {
				t.Errorf("%d panics", n)
			}
			if log := w.log.String(); strings.Contains(log, secret) || strings.Contains(log, fmt.Sprint([]byte(secret[:7]))[1:20]) {
				t.Errorf("the log holds what was sent:\n%s", log)
			}
		})
	}
}

// TestPatience keeps [M-12].
func TestPatience(t *testing.T) {
	tests := map[uint16]time.Duration{
		1: 1500 * time.Millisecond, 60: 90 * time.Second, 1200: 30 * time.Minute,
		0: 30 * time.Minute, 1201: 30 * time.Minute, 43691: 30 * time.Minute, 65535: 30 * time.Minute,
	}
	for asked, want := range tests {
		if got := patience(asked); got != want {
			t.Errorf("keepalive %d: closed after %v, want %v", asked, got, want)
		}
	}
}
