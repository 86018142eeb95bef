package simulator

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// lean is a handset that keeps nothing on a disk: the same packets and the same session crypto as a
// real one, in little memory. It has no goroutine of its own: a few pollers read for all of them (or,
// under TLS and where there is no epoll, one goroutine parked in a read), and what is due at a time is
// looked for by the fleet's sweep.
type lean struct {
	f    *fleet
	who  int
	cred *Credential
	pre  shortPrekey

	mu       sync.Mutex
	conn     net.Conn
	fd       int   // conn's, where it is polled
	pipe     *pipe // conn, if it is one
	line     *line
	rest     splitter
	tag      wire.Tag
	gen      uint32
	seq      uint32
	stamp    uint32
	pid, req uint16
	rid      uint16
	wanted   bool // is to be connected
	dialing  bool
	dark     bool // the radio is off
	on       bool // consent is in force
	out      bool // has opted out
	known    bool // the broker has the certificate
	stopped  bool
	heard    time.Duration // when something was written last
	pinged   time.Duration // a PING without any answer; 0: none
	back     time.Duration // when to connect again; 0: not
	agreeBy  time.Duration // when to send the consent record again; 0: not
	offerBy  time.Duration // when to send the key bundle again; 0: not
	tries    int

	unlisted []byte // the key bundle, until the broker has stored it
	peers    []*peer
	flights  []leanFlight
	jobs     map[wire.MessageID]*job
	buf      []byte // what this step writes
}

// peer is another person, as a lean handset knows one.
type peer struct {
	who      int
	blue     bool
	settleBy time.Duration // until when a missing word on presence means nothing
	fetchBy  time.Duration // a bundle is awaited
	answerBy time.Duration // a RESP is awaited
	lastInit time.Duration
	tried    bool
	sessions []*leanSession // newest last
	queue    []*letter
	enc      [32]byte // of the INIT that was answered last, with the answer
	resp     []byte
	respTo   wire.Tag
	unsaid   int           // frames shown and not acknowledged by one of ours
	sayBy    time.Duration // when to say so
}

type leanSession struct {
	*envelope.Session
	begun time.Duration
	dead  bool
	old   bool // for receiving only
}

// letter is a text that waits.
type letter struct {
	n        TextNo
	body     string
	at       time.Time
	inflight bool
	sealed   []byte
	session  *leanSession
	pos      envelope.Position
	ref      *envelope.AgainRef
	job      *job
	retry    time.Duration
}

// job is a sealed SMS job.
type job struct {
	peer   *peer
	letter *letter
	bytes  []byte
	id     wire.MessageID
	queued bool
}

type leanFlight struct {
	pid    uint16
	kind   flightKind
	peer   *peer
	letter *letter
	req    uint16
	at     time.Duration
	ok     bool // the answer on r was
}

type flightKind byte

const (
	flightOther flightKind = iota
	flightText
	flightHello
	flightJob
	flightConsent
	flightOptOut
	flightBundle
)

// Times of a lean handset, those of package handset.
const (
	helloTime  = 10 * time.Second
	settleTime = 3 * time.Second
	sayAfter   = 30 * time.Second
	sayFrames  = 24
	greyAfter  = 30 * time.Second // without a connection of one's own
	window     = 16
	retryTime  = 5 * time.Second
	helloEvery = time.Minute
	prekeyLife = envelope.PrekeyLife

	welcomeTime = 20 * time.Second // from CONNECT to the welcome
	pubackTime  = 30 * time.Second // a node that says nothing has lost it
	pongTime    = 10 * time.Second
)

func newLean(f *fleet, who int) (*lean, error) {
	h := &lean{f: f, who: who, cred: f.cfg.People[who].Credential}
	return h, nil
}

func (h *lean) self() envelope.Identity {
	return envelope.Identity{
		Cert: h.cred.Cert, Device: h.cred.key(), Number: h.f.cfg.People[h.who].Number, Registrar: h.f.cfg.Pins.Registrar,
	}
}

// clock is the time since the fleet began, small enough to be kept often.
func (f *fleet) clock(now time.Time) time.Duration { return now.Sub(f.ledger.cfg.Start) }

// dialling is a connection that is to be made.
type dialling struct {
	h        *lean
	intended time.Time
}

// dialers is how many connections are made at once.
const dialers = 32

// dialAll makes connections until the fleet stops.
func (f *fleet) dialAll() {
	for {
		select {
		case d := <-f.dials:
			d.h.dialNow(d.intended)
		case <-f.ctx.Done():
			return
		}
	}
}

func (h *lean) connect(intended time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted = true
	h.dialLocked(intended)
}

// dialLocked has a connection made, if there is none and none under way. Callers hold h.mu.
func (h *lean) dialLocked(intended time.Time) {
	h.back = 0
	if h.conn != nil || h.dialing || h.dark || h.stopped || !h.wanted {
		return
	}
	select {
	case h.f.dials <- dialling{h, intended}:
		h.dialing = true
	default: // more wait than there are people
	}
}

// dialNow makes the connection, says CONNECT, and has what comes read.
func (h *lean) dialNow(intended time.Time) {
	ctx, cancel := context.WithTimeout(h.f.ctx, enrolTime)
	defer cancel()
	c, exporter, err := h.open(ctx)
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dialing = false
	if err != nil || h.stopped || !h.wanted || h.dark {
		if c != nil {
			_ = c.Close()
		}
		if err != nil {
			h.againLocked(now)
		}
		return
	}
	p := h.f.pathOf(h.who, now)
	h.conn, h.pipe, h.rest, h.tag = c, nil, splitter{}, wire.Tag{}
	if p != nil {
		h.pipe = newPipe(c, p, func(b []byte) { h.arrived(c, b) })
	}
	h.line = h.f.ledger.dial(h.who, h.cred.Cert.ID, p, intended, now)
	h.stamp = nextStamp(h.stamp, now)
	h.write1(appendConnect(nil, uint16(h.f.cfg.Profile.Keepalive.Std()/time.Second),
		h.cred.proof(h.gen, h.stamp, exporter, h.f.cfg.Pins.Broker, !h.known)))
	h.flush(now)
	h.read(c)
}

func (h *lean) open(ctx context.Context) (net.Conn, []byte, error) {
	c, err := h.f.dial(ctx, "tcp", h.f.cfg.Addr, h.who)
	if err != nil || h.f.cfg.TLS == nil {
		return c, nil, err
	}
	t := tls.Client(c, h.f.cfg.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return c, nil, err
	}
	state := t.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen)
	return t, exporter, err
}

// againLocked plans another try, as a real handset does.
func (h *lean) againLocked(now time.Time) {
	h.tries = min(h.tries+1, 6)
	h.back = h.f.clock(now) + time.Second<<(h.tries-1)/2 + time.Duration(h.who%500)*time.Millisecond
}

// arrived takes bytes that have come on a connection.
func (h *lean) arrived(c net.Conn, b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.arrivedLocked(c, b)
}

// arrivedLocked is arrived for callers that hold h.mu.
func (h *lean) arrivedLocked(c net.Conn, b []byte) {
	if h.conn != c {
		return
	}
	now := time.Now()
	h.pinged = 0
	err := h.rest.feed(b, func(p packet) bool {
		h.line.got(p, now)
		h.take(p, now)
		return h.conn == c
	})
	if err != nil {
		h.f.ledger.Fail(WrongTag, now, rawName(h.who)+" was sent what is no packet of this protocol")
		_ = c.Close()
		return
	}
	h.flush(now)
}

// lost notes the end of a connection; what was in flight waits again.
func (h *lean) lost(c net.Conn) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != c {
		return
	}
	h.hangUp(now)
	if h.wanted {
		h.againLocked(now)
	}
}

// hangUp forgets the connection. Callers hold h.mu.
func (h *lean) hangUp(now time.Time) {
	if h.conn == nil {
		return
	}
	h.line.close(now)
	if h.pipe != nil {
		_ = h.pipe.Close()
	}
	_ = h.conn.Close()
	h.conn, h.pipe, h.flights, h.buf, h.pinged = nil, nil, nil, nil, 0
	h.heard = h.f.clock(now)
	for _, p := range h.peers {
		if p.answerBy != 0 || p.fetchBy != 0 {
			h.f.hellos.Add(-1)
		}
		p.fetchBy, p.answerBy, p.settleBy = 0, 0, 0
		for _, t := range p.queue {
			t.inflight = false
		}
	}
}

// write1 adds a packet to what this step writes, under the ledger's eyes.
func (h *lean) write1(b []byte) {
	if p, n, err := parsePacket(b); err == nil && n == len(b) {
		h.line.sent(p, time.Now())
	}
	h.buf = append(h.buf, b...)
}

// flush writes what this step has gathered.
func (h *lean) flush(now time.Time) {
	if len(h.buf) == 0 || h.conn == nil {
		return
	}
	b := h.buf
	h.buf = nil
	h.heard = h.f.clock(now)
	if h.pipe != nil {
		_, _ = h.pipe.Write(b)
		return
	}
	_, _ = h.conn.Write(b) // an error means that the reader ends, too
}

func (h *lean) nextPID() uint16 {
	if h.pid++; h.pid == 0 {
		h.pid = 1
	}
	return h.pid
}

// publish adds a PUBLISH and what its answer is about.
func (h *lean) publish(t wire.Topic, payload []byte, retain bool, fl leanFlight) {
	fl.pid, fl.at = h.nextPID(), h.f.clock(time.Now())
	h.flights = append(h.flights, fl)
	h.write1(appendPublish(nil, t, fl.pid, retain, payload))
}

// request adds a request on c. [P-13]
func (h *lean) request(body []byte, fl leanFlight) {
	h.req++
	fl.req = h.req
	h.publish(wire.Topic{Kind: wire.TopicConsent}, wire.Request{ID: h.req, Body: body}.Marshal(), false, fl)
}

// leanScopes is what a lean handset's user agrees to.
const leanScopes = wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway

// take handles one packet.
func (h *lean) take(p packet, now time.Time) {
	switch p.kind() {
	case mqttConnack:
		if len(p.body) != 2 || p.body[1] != 0 {
			h.known = false
			_ = h.conn.Close()
		}
	case mqttPublish:
		h.takePublish(p, now)
	case mqttPuback:
		h.takePuback(p.id(), now)
	}
}

func (h *lean) takePublish(p packet, now time.Time) {
	topic, pid, payload, ok := p.publish()
	t, err := wire.ParseTopic(topic)
	if !ok || err != nil {
		return
	}
	keep := true
	switch t.Kind {
	case wire.TopicReply:
		h.reply(payload, now)
	case wire.TopicInbox:
		keep = h.inbox(payload, now)
	case wire.TopicHello:
		h.hello(payload, now)
	case wire.TopicPresence:
		h.presence(t.Tag, len(payload) > 0, now)
	case wire.TopicBundle:
		h.bundle(t.ID, payload, now)
	case wire.TopicKey:
		h.f.workerKey(payload, now)
	}
	if keep && pid != 0 && h.conn != nil {
		h.write1(appendPuback(nil, pid))
	}
}

// reply is what the broker says on r; notices are read by the ledger's line and here.
func (h *lean) reply(b []byte, now time.Time) {
	if len(b) == 0 {
		return
	}
	switch wire.ControlKind(b[0]) {
	case wire.CtlWelcome:
		if w, err := wire.ParseWelcome(b); err == nil {
			h.welcome(w, now)
		}
	case wire.CtlAnswer:
		if a, err := wire.ParseAnswer(b); err == nil {
			h.answered(a, now)
		}
	case wire.CtlOutcome:
		if o, err := wire.ParseOutcome(b); err == nil {
			h.jobOutcome(o, now)
		}
	}
}

func (h *lean) welcome(w wire.Welcome, now time.Time) {
	h.tag, h.gen, h.known, h.tries = w.Tag, w.Gen, true, 0
	h.seq = max(h.seq, w.Seq)
	switch {
	case h.out:
	case !h.on:
		h.agree(now)
	default:
		h.offer(now)
		h.ready(now)
	}
}

// agree sends a consent record.
func (h *lean) agree(now time.Time) {
	h.agreeBy = 0
	h.seq++
	h.request(h.cred.record(leanScopes, h.seq, now), leanFlight{kind: flightConsent})
}

// answered is the broker's word on a consent record; its PUBACK follows.
func (h *lean) answered(a wire.Answer, now time.Time) {
	for i := range h.flights {
		fl := &h.flights[i]
		if fl.req != a.Request || fl.req == 0 {
			continue
		}
		fl.ok = a.Code == wire.OK
		if seq, stale := seqOf(a.Body); a.Code == wire.StaleRecord && stale {
			h.seq = seq + 1
			kind := fl.kind
			h.request(h.cred.record(scopesFor(kind), h.seq, now), leanFlight{kind: kind})
		}
		return
	}
}

func scopesFor(kind flightKind) wire.Scope {
	if kind == flightOptOut {
		return 0
	}
	return leanScopes
}

// agreed: the broker has stored the record. The bundle follows, then the conversations.
func (h *lean) agreed(now time.Time) {
	h.on = true
	pre, bundle, err := newShortPrekey(h.self(), now.Add(prekeyLife).Truncate(time.Second))
	if err == nil {
		h.pre, h.unlisted = pre, bundle
	}
	h.offer(now)
	h.ready(now)
}

// offer publishes the key bundle, if the broker has not said that it stored it. [P-9]
func (h *lean) offer(now time.Time) {
	h.offerBy = 0
	if h.unlisted != nil {
		h.publish(wire.Topic{Kind: wire.TopicBundle, ID: h.cred.Cert.ID}, h.unlisted, true, leanFlight{kind: flightBundle})
	}
}

// ready starts what waits for a connection with consent.
func (h *lean) ready(now time.Time) {
	h.write1(appendSubscribe(nil, wire.Topic{Kind: wire.TopicKey}, h.nextPID()))
	for _, p := range h.peers {
		if s := p.established(); s != nil {
			h.watch(p, s, now)
		}
		h.pump(p, now)
	}
}

func (h *lean) watch(p *peer, s *leanSession, now time.Time) {
	p.settleBy = h.f.clock(now) + settleTime
	h.write1(appendSubscribe(nil, wire.Topic{Kind: wire.TopicPresence, Tag: s.PeerTag()}, h.nextPID()))
}

// up reports whether texts can be sent over IP.
func (h *lean) up() bool { return h.conn != nil && !h.tag.IsZero() && h.on && !h.out }

// isReady: others can begin a conversation with this handset, too.
func (h *lean) isReady() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up() && h.unlisted == nil
}

func (h *lean) leave(abrupt bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted, h.back = false, 0
	h.breakLocked(abrupt)
}

// breakLocked ends the connection, with DISCONNECT or without.
func (h *lean) breakLocked(abrupt bool) {
	if h.conn == nil {
		return
	}
	now := time.Now()
	if !abrupt {
		h.write1([]byte{mqttDisconnect << 4, 0})
		h.flush(now)
	}
	h.hangUp(now)
}

func (h *lean) drop(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.breakLocked(true)
	h.dialLocked(now)
}

// radio turns airplane mode on or off.
func (h *lean) radio(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.dark = !on; h.dark {
		if h.pipe != nil {
			h.pipe.kill()
			h.line.deadPath(now)
		}
		return
	}
	if h.pipe != nil && !h.line.passes(now) {
		h.breakLocked(true) // a phone whose network is back does not wait for its old connection
	}
	h.dialLocked(now)
}

func (h *lean) optOut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.out || !h.up() {
		return // the person tries again some day
	}
	now := time.Now()
	h.out = true
	h.seq++
	h.request(h.cred.record(0, h.seq, now), leanFlight{kind: flightOptOut})
	h.flush(now)
}

func (h *lean) receiveSMS(wire.Number, string) {} // the phone network's record has it

func (h *lean) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped, h.wanted = true, false
	h.hangUp(time.Now())
}

func (p *peer) established() *leanSession {
	for i := len(p.sessions) - 1; i >= 0; i-- {
		if p.sessions[i].Established() {
			return p.sessions[i]
		}
	}
	return nil
}

// readOwn reads with a buffer of its own: TLS, and systems where nothing better is known.
func (h *lean) readOwn(c net.Conn) {
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if n > 0 {
			h.came(c, b[:n])
		}
		if err != nil {
			h.lost(c)
			return
		}
	}
}

// came takes bytes off the network; over a link they arrive later.
func (h *lean) came(c net.Conn, b []byte) {
	h.mu.Lock()
	x := h.pipe
	if h.conn != c {
		x = nil
	}
	h.mu.Unlock()
	if x != nil {
		x.came(b)
		return
	}
	h.arrived(c, b)
}
