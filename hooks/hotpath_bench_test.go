package hooks

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"bluejay/consent"
	"bluejay/wire"
)

// A hall is a node for benchmarks, with its store, and what the connections of one listener share. What the node
// sends goes to a sink and is counted: no system call is in any of these benchmarks, and no TLS; the flushers run.
type hall struct {
	*testing.B
	n         *Node
	shelf     *shelf
	conns     *connConfig
	registrar ed25519.PrivateKey
	sessions  []*session // that stay until the end
}

func newConns() *connConfig {
	return &connConfig{maxPending: 1 << 20, writeTimeout: time.Second, drain: time.Second, counters: new(counters)}
}

func newHall(b *testing.B) *hall {
	b.Helper()
	h := &hall{B: b, shelf: &shelf{states: map[wire.ID]consent.State{}}, conns: newConns()}
	_, h.registrar, _ = ed25519.GenerateKey(nil)
	_, receipt, _ := ed25519.GenerateKey(nil)
	n, err := New(Config{
		Name: worldName, TagKey: make([]byte, 32), Receipt: receipt, Store: h.shelf,
		Registrar: wire.PublicKey(h.registrar.Public().(ed25519.PublicKey)),
	})
	if err != nil {
		b.Fatal(err)
	}
	n.serving.Store(h.conns, struct{}{})
	h.n = n
	b.Cleanup(h.close)
	return h
}

func (h *hall) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.n.Close(ctx); err != nil {
		h.Error(err)
	}
	settle(h.sessions)
}

// seen is what benchmarked users agreed to: no gateway, whose sessions ask for outcomes of SMS, too.
const seen = wire.ScopeMessaging | wire.ScopePresence

// arrive brings an ID in as a CONNECT does that was verified: registered, answered, welcomed, blue.
func (h *hall) arrive(id wire.ID) *session {
	s := h.n.newSession(newQueuedConn(sink{}, h.conns), packets.Packet{ProtocolVersion: 4})
	s.self = consent.Self{ID: id, Tag: wire.MakeTag(h.n.cfg.TagKey, id, 0)}
	s.access.Store(consent.Access{Enrolled: true, Scopes: seen}.Pack())
	if !h.n.register(s, h.n.changed(id), false) || !h.n.establish(s) {
		h.Fatal("not established")
	}
	return s
}

// depart is the end of arrive.
func (h *hall) depart(s *session) {
	h.n.detach(s)
	_ = s.net.Close()
	s.net.wait()
}

// join is arrive for sessions that stay until the end.
func (h *hall) join(id wire.ID) *session {
	s := h.arrive(id)
	h.sessions = append(h.sessions, s)
	return s
}

// crowd lets in so many others, who are in every table of the node and do nothing.
func (h *hall) crowd(size int) {
	for i := range size {
		var id wire.ID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		id[11] = 'c'
		h.join(id)
	}
	h.ready()
}

// ready waits for what setting up has queued, and has its garbage collected, so that the loop pays for neither.
func (h *hall) ready() {
	settle(h.sessions)
	runtime.GC()
	h.ReportAllocs()
}

// settle waits until what was queued to sessions is with the sink.
func settle(sessions []*session) {
	for _, s := range sessions {
		s.net.wait()
	}
}

// sent is how many bytes have reached the sink.
func (h *hall) sent() int { return int(h.conns.counters.bytesOut.Load()) }

// welcomed is what a new session is sent: CONNACK, then its welcome on r.
var welcomed = 4 + len(appendPublish(nil, false, wire.Topic{Kind: wire.TopicReply}, 0, false, wire.Welcome{}.Marshal()))

// Sizes of a presence change to one watcher of MQTT 3.1.1: PUBLISH, length, the 14 bytes of p/<tag> with their
// length, and the byte if it is blue.
const (
	greySize = 2 + 2 + 14
	blueSize = greySize + 1
)

// few and many are how many others are connected.
const few, many = 10, 50_000

// inCrowds runs a benchmark among few, under its name, and among many. It fails if an iteration takes ten times as
// long there: anything done for each session would, 5,000 times as many as there are. Below a thousand iterations
// the times say too little. What it does allow for is that 50,000 sessions, some 90 MB, fit in no cache and that the
// collector has more to mark.
func inCrowds(b *testing.B, name string, f func(b *testing.B, crowd int)) {
	took := map[int]time.Duration{}
	for _, crowd := range []int{few, many} {
		at := name
		if crowd == many {
			at = fmt.Sprintf("%s/registered=%d", name, many)
		}
		b.Run(at, func(b *testing.B) {
			f(b, crowd)
			if b.N >= 1000 {
				took[crowd] = b.Elapsed() / time.Duration(b.N)
			}
		})
	}
	if alone := took[few]; alone > 0 && took[many] > 10*alone {
		b.Errorf("%s: %v among %d, %v among %d", name, alone, few, took[many], many)
	}
}

// BenchmarkConnect is one connection from its first byte to its end: the CONNECT read, checked and decoded, the state
// loaded, signature and freshness verified, the session registered, CONNACK and welcome written, presence shown (nobody
// watches), then end of file, and everything forgotten again: a node that only filled would measure the growth of its
// tables. 64 devices take turns, so each is still blue when it comes again.
//
// "id" is a handset that the broker knows: its device's signature is verified. "certificate" brings the certificate
// that is stored, whose signature is verified as well. "signatures" is these two Ed25519 verifications alone:
// three quarters of "certificate".
//
// Not in it: TCP, TLS (whose handshake signs and agrees on a key, and to which a proof is then bound instead of being
// looked up among replays), the listener's goroutine, a store on a disk or across a network, saving a certificate that
// is new, outcomes of SMS. The cache of replays is emptied every 2,560 CONNECTs, and grows again.
//
// 48 allocations ("certificate": 51). 16 are mochi's client, whose tables stay empty, 7 the HMAC that makes the
// tag, 8 the contexts that bound CONNECT and end it with the node, 2 the reader and its buffer, 2 the connection and
// its flusher. The others come one or two at a time: session, packet body, CONNACK, welcome, the entries in the tables,
// what is signed, the number of the client as text. None depends on how many others there are.
func BenchmarkConnect(b *testing.B) {
	for _, form := range []string{"id", "certificate"} {
		inCrowds(b, form, func(b *testing.B, crowd int) {
			h := newHall(b)
			h.crowd(crowd)
			from := h.newHandsets(form == "certificate")
			h.greeted(from)
			before, refused := h.sent(), h.n.Counts().Refused
			for b.Loop() {
				h.serve(&caller{rest: from.connect()})
			}
			if got := h.sent() - before; got != b.N*welcomed {
				b.Errorf("%d bytes were sent, want %d", got, b.N*welcomed)
			}
			if c := h.n.Counts(); c.Refused != refused || c.Sessions != crowd {
				b.Errorf("%d were refused, %d sessions are left, want %d", c.Refused-refused, c.Sessions, crowd)
			}
		})
	}
	b.Run("signatures", func(b *testing.B) {
		h, now := newHall(b), time.Now()
		proof := h.newHandsets(true).proof(0, now)
		h.ready()
		for b.Loop() {
			if proof.Cert.Verify(h.n.cfg.Registrar, now) != nil || proof.Verify(proof.Cert.Device, nil, worldName) != nil {
				b.Fatal("refused")
			}
		}
	})
}

// A caller is a connection that sends some bytes, and no more.
type caller struct {
	sink
	rest []byte
	told bytes.Buffer
	keep bool // what it is told
}

func (c *caller) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *caller) Write(p []byte) (int, error) {
	if c.keep {
		return c.told.Write(p)
	}
	return len(p), nil
}

// serve does for a connection what the listener's goroutine does.
func (h *hall) serve(conn *caller) {
	c := newQueuedConn(conn, h.conns)
	h.n.Serve(h.Context(), c)
	_ = c.Close()
	c.wait()
}

// handsets are devices that consent, and CONNECTs of theirs, each good once.
type handsets struct {
	h        *hall
	with     bool // their certificates
	keys     []ed25519.PrivateKey
	certs    []wire.Certificate
	connects [][]byte
	at       int
	signed   time.Time
}

// As many devices take turns, each with as many time stamps, a second apart, as stay fresh for proofsAge.
const (
	devices   = 64
	stamps    = 40
	proofsAge = 20 * time.Second
)

func (h *hall) newHandsets(with bool) *handsets {
	c := &handsets{h: h, with: with}
	for i := range devices {
		key, cert, state := h.enrol(wire.ID{'d', byte(i)})
		h.shelf.states[cert.ID] = state
		c.keys, c.certs = append(c.keys, key), append(c.certs, cert)
	}
	c.sign()
	return c
}

// enrol is a new device of an ID, and its state with a first consent record.
func (h *hall) enrol(id wire.ID) (ed25519.PrivateKey, wire.Certificate, consent.State) {
	public, key, _ := ed25519.GenerateKey(nil)
	cert := wire.Certificate{ID: id, Device: wire.PublicKey(public), IssuedAt: wire.Unix32(time.Now()), LifetimeHours: 24}
	cert.Sign(h.registrar)
	state, _, err := consent.State{Revision: 1}.WithCertificate(cert)
	if err == nil {
		state, _, err = state.WithRecord(recordOf(id, key, 1, seen), time.Now())
	}
	if err != nil {
		h.Fatal(err)
	}
	return key, cert, state
}

func recordOf(id wire.ID, key ed25519.PrivateKey, seq uint32, scopes wire.Scope) []byte {
	now := wire.Unix32(time.Now())
	r := wire.Consent{ID: id, Scopes: scopes, Seq: seq, IssuedAt: now, ExpiresAt: now + 3600}
	r.Sign(key)
	return r.Marshal()
}

// proof is what a device signs at a time.
func (c *handsets) proof(device int, at time.Time) wire.Connect {
	p := wire.Connect{ID: c.certs[device].ID, TS: wire.Unix32(at)}
	if c.with {
		p.Cert = &c.certs[device]
	}
	p.Sign(c.keys[device], nil, worldName)
	return p
}

func (c *handsets) sign() {
	c.signed, c.connects = time.Now(), c.connects[:0]
	for k := range devices * stamps {
		p := c.proof(k%devices, c.signed.Add(time.Duration(k/devices-stamps/2)*time.Second))
		body := connect(4, 0xc2, lp(""), lp(wire.Protocol), lp(string(p.Marshal())))
		c.connects = append(c.connects, wirePacket(headConnect, body))
	}
}

// connect is the next CONNECT. When all were used, the node forgets them; old ones are signed anew, off the clock.
func (c *handsets) connect() []byte {
	if c.at == len(c.connects) {
		c.at = 0
		c.h.n.mu.Lock()
		c.h.n.replays = consent.Replays{}
		c.h.n.mu.Unlock()
		if time.Since(c.signed) > proofsAge {
			c.h.StopTimer()
			c.sign()
			c.h.StartTimer()
		}
	}
	c.at++
	return c.connects[c.at-1]
}

// greeted checks what one caller is told, byte by byte; of the others only the length is.
func (h *hall) greeted(from *handsets) {
	h.Helper()
	first := &caller{rest: from.connect(), keep: true}
	h.serve(first)
	want := wire.Welcome{Tag: wire.MakeTag(h.n.cfg.TagKey, from.certs[0].ID, 0), Seq: 1}
	told := append([]byte{0x20, 2, 0, 0}, appendPublish(nil, false, wire.Topic{Kind: wire.TopicReply}, 0, false, want.Marshal())...)
	if !bytes.Equal(first.told.Bytes(), told) || len(told) != welcomed {
		h.Fatalf("told %x, want %x", first.told.Bytes(), told)
	}
}

// BenchmarkPresence is a change of presence through the node until each of its watchers, on a connection each, has
// been written one PUBLISH; ns/watcher is what one costs. The flushers are waited for: an iteration ends when the bytes
// are with the sink. As in life each write wakes one, and all of them note in one table that they are at work.
//
// "up" is a session that arrives, its CONNECT verified before: registered, answered, welcomed, shown. It ends in the
// same iteration, which shows nothing: it is blue for 20 s more.
//
// "withdrawn" is a consent record on topic c that agrees, and one that withdraws: each verified, stored, in force,
// shown, and answered with a signed receipt; the withdrawal waits for its fence until nothing is on its way. So
// each watcher is written two. Four Ed25519 operations are in it, which is all there is to see with one watcher.
//
// "up" allocates nothing for a watcher, "withdrawn" two for each whose bytes have not left when the fence looks: the
// channel that it waits on, and its place in the connection; so the number varies from run to run. With 10,000 watchers
// the pool of buffers loses some to the collector. The rest is a session's 34 (most of BenchmarkConnect's), and a dozen
// and a half for two records, two receipts and the fence, its timer among them.
//
// Not in them: sockets, TLS, other brokers, a store that syncs, the consent log, the PUBLISH on c and its answer on r.
func BenchmarkPresence(b *testing.B) {
	up := func(watchers int) func(*testing.B, int) {
		return func(b *testing.B, crowd int) { benchUp(b, watchers, crowd) }
	}
	b.Run("up/watchers=1", func(b *testing.B) { benchUp(b, 1, few) })
	inCrowds(b, "up/watchers=100", up(100))
	b.Run("up/watchers=10000", func(b *testing.B) { benchUp(b, 10_000, few) })
	for _, watchers := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("withdrawn/watchers=%d", watchers), func(b *testing.B) { benchWithdrawn(b, watchers) })
	}
}

func benchUp(b *testing.B, watchers, crowd int) {
	h, id := newHall(b), wire.ID{'o'}
	watching := h.watch(id, watchers, crowd)
	before := h.sent()
	for b.Loop() {
		s := h.arrive(id)
		settle(watching)
		h.depart(s)
	}
	h.told(before, welcomed+watchers*blueSize, watchers)
}

func benchWithdrawn(b *testing.B, watchers int) {
	h, id := newHall(b), wire.ID{'o'}
	key, _, state := h.enrol(id)
	again, off := recordOf(id, key, 2, seen), recordOf(id, key, 3, 0)
	watching := h.watch(id, watchers, few)
	owner := h.join(id)
	agree := func(record []byte) {
		if code, receipt := h.n.record(b.Context(), owner, record); code != wire.OK || len(receipt) == 0 {
			b.Fatalf("%v, %d bytes of receipt", code, len(receipt))
		}
	}
	h.shelf.states[id] = state
	agree(off)
	h.ready()
	before := h.sent()
	for b.Loop() {
		h.shelf.states[id] = state // to it the same two records are new
		agree(again)
		settle(watching)
		agree(off)
	}
	h.told(before, watchers*(blueSize+greySize), 2*watchers)
}

// watch lets in a crowd, and as many that watch an ID's tag, which it returns.
func (h *hall) watch(id wire.ID, watchers, crowd int) []*session {
	h.crowd(crowd)
	topic := wire.Topic{Kind: wire.TopicPresence, Tag: wire.MakeTag(h.n.cfg.TagKey, id, 0)}
	p := packet{headSubscribe, cat(0, 1, lp(topic.String()), 1)}
	pk, err := p.decode(4)
	if err != nil {
		h.Fatal(err)
	}
	for i := range watchers {
		h.n.subscribe(h.join(wire.ID{'w', byte(i), byte(i >> 8)}), pk)
	}
	h.ready()
	if got := h.n.Counts().Watches; got != watchers {
		h.Fatalf("%d watch, want %d", got, watchers)
	}
	return h.sessions[crowd:]
}

// told checks that each iteration since before sent so many bytes, and reports what telling one watcher took.
func (h *hall) told(before, bytes, watchers int) {
	h.Helper()
	if got := h.sent() - before; got != h.N*bytes {
		h.Errorf("%d bytes were sent, want %d", got, h.N*bytes)
	}
	h.ReportMetric(float64(h.Elapsed().Nanoseconds())/float64(h.N*watchers), "ns/watcher")
}

// TestEncodersAllocateNothing: a PUBLISH is encoded for each text and for each watcher of a presence.
func TestEncodersAllocateNothing(t *testing.T) {
	room := make([]byte, 0, 128)
	topic := wire.Topic{Kind: wire.TopicInbox, Tag: wire.Tag{1}}
	for _, v5 := range []bool{false, true} {
		if n := testing.AllocsPerRun(100, func() {
			_ = appendPublish(room, v5, topic, 7, false, room[:53])
			_ = appendPuback(room, v5, 7, wire.NoRecipient)
		}); n != 0 {
			t.Errorf("MQTT 5 %v: %v allocations", v5, n)
		}
	}
}
