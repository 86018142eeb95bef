package hooks

import (
	"bufio"
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"bluejay/consent"
	"bluejay/custody"
	"bluejay/presence"
	"bluejay/wire"
)

// readBuffer holds a text of 30 characters as MQTT 5 carries it, in one read.
const readBuffer = 96

// Serve drives one accepted connection until it ends. It never returns while the connection's
// goroutine is needed, and it closes c.
func (n *Node) Serve(ctx context.Context, c *queuedConn) {
	s, r := n.welcome(ctx, c)
	if s == nil {
		return
	}
	defer n.leave(s) // also when the loop panics [M-15]
	n.loop(s, r)
}

// welcome counts the connection in and attaches it; nil: it is over. It keeps what it needs off the
// stack of Serve, under which an idle handset is parked.
//
//go:noinline
func (n *Node) welcome(ctx context.Context, c *queuedConn) (s *session, r *bufio.Reader) {
	if !n.enter() {
		_ = c.Close()
		return nil, nil
	}
	defer func() {
		if s == nil {
			_ = c.Close()
			n.wg.Done()
		}
	}()
	n.serving.LoadOrStore(c.cfg, struct{}{})
	r = bufio.NewReaderSize(c, readBuffer)
	if s = n.attach(ctx, c, r); s != nil {
		c.connected()
	}
	return s, r
}

// leave ends what welcome began.
func (n *Node) leave(s *session) {
	defer n.wg.Done()
	defer func() { _ = s.net.Close() }()
	n.detach(s)
}

// attach reads CONNECT and answers it; nil means the connection is over. [P-15]
//
//go:noinline
func (n *Node) attach(ctx context.Context, c *queuedConn, r *bufio.Reader) *session {
	defer context.AfterFunc(n.ctx, func() { _ = c.Close() })() // nobody knows it yet: Close would wait
	p, err := readPacket(r, maxConnect)
	if err == nil {
		err = checkPacket(0, p)
	}
	if err != nil {
		n.refusePacket(c, 0, p, err)
		return nil
	}
	pk, err := p.decode(p.level())
	if err != nil || pk.ConnectValidate() != packets.CodeSuccess {
		return nil
	}
	s := n.newSession(c, pk)
	ctx, cancel := context.WithTimeout(ctx, n.cfg.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	if code := n.authenticate(ctx, s, pk); code != wire.OK {
		n.refuseConnect(s, code)
		return nil
	}
	if !n.establish(s) {
		return nil
	}
	return s
}

func (n *Node) newSession(c *queuedConn, pk packets.Packet) *session {
	s := &session{net: c, v5: pk.ProtocolVersion == 5, cl: n.srv.NewClient(nil, "bluejay", "", false)}
	s.cl.Net.Conn = c // not through NewClient, which would add a read buffer that nobody reads from
	s.cl.ParseConnect("bluejay", pk)
	s.cl.Properties.Will.Flag = 0
	s.cl.Properties.Username = nil           // it would keep the whole CONNECT in memory
	s.cl.State.TopicAliases = noTopicAliases // refused by checkPacket: one empty table serves all
	s.cl.State.Subscriptions = noSubscriptions
	if s.cl.State.Keepalive > maxKeepalive { // MQTT 5 clients are told; others are held to it
		s.cl.State.Keepalive, s.cl.State.ServerKeepalive = maxKeepalive, s.v5
	}
	s.window = int(pk.Properties.ReceiveMaximum) // 0 in MQTT 3.1.1: the machine's default
	n.mu.Lock()
	n.last++
	s.conn = n.last
	n.mu.Unlock()
	s.cl.ID = strconv.FormatUint(uint64(s.conn), 36)
	return s
}

// What mochi keeps for each client and this broker never uses.
var (
	noTopicAliases  = mqtt.NewTopicAliases(0)
	noSubscriptions = mqtt.NewSubscriptions()
)

func (n *Node) refuseConnect(s *session, code wire.Code) {
	n.mu.Lock()
	n.counts.Refused++
	n.mu.Unlock()
	n.cfg.Log.Info("connect refused", "code", code.String())
	reply := []byte{packets.Connack << 4, 2, 0, connack3(code)}
	if s.v5 {
		reply = []byte{packets.Connack << 4, 3, 0, code.Connack(), 0}
	}
	_, _ = s.net.Write(reply)
}

// connack3 is the MQTT 3.1.1 return code of a refusal: 1 unacceptable protocol version, 3 server
// unavailable, 5 not authorized.
func connack3(code wire.Code) byte {
	switch code {
	case wire.TooOld:
		return 1
	case wire.Unavailable:
		return 3
	}
	return 5
}

// authenticate works out who connects, and registers the session with what it may do. Without a
// password the connection can only enrol. [P-15] [P-16]
func (n *Node) authenticate(ctx context.Context, s *session, pk packets.Packet) wire.Code {
	switch version, ok := wire.ParseProtocol(string(pk.Connect.Username)); {
	case !ok:
		return wire.NotAllowed
	case version < n.cfg.MinVersion:
		return wire.TooOld
	}
	if len(pk.Connect.Password) == 0 {
		n.register(s, 0, false)
		return wire.OK
	}
	proof, err := wire.ParseConnect(pk.Connect.Password)
	if err != nil {
		return wire.BadRecord
	}
	return n.verify(ctx, s, proof)
}

func (n *Node) verify(ctx context.Context, s *session, proof wire.Connect) wire.Code {
	exporter, secure := s.net.exporter()
	if proof.TLS != secure {
		return wire.NotAllowed
	}
	now := time.Now()
	if n.isProbe(proof) {
		return n.verifyProbe(s, proof, exporter, now)
	}
	for try := range 4 { // a lost race with another change of the same state is tried again
		seen := n.changed(proof.ID)
		stored, next, code := n.known(ctx, proof, now)
		if code != wire.OK {
			return code
		}
		if code := n.check(proof, next.Cert.Device, exporter, now, try == 0); code != wire.OK {
			return code
		}
		next, saved, err := n.keep(ctx, proof, stored, next)
		if errors.Is(err, consent.ErrConflict) {
			continue
		}
		if err != nil {
			return codeOf(err)
		}
		s.self = consent.Self{ID: proof.ID, Tag: wire.MakeTag(n.cfg.TagKey, proof.ID, next.Gen)}
		s.gen, s.seq, s.cert = next.Gen, next.Seq, next.Cert.NotAfter().Unix()
		s.grant(n.policyNow(), next, now)
		if n.register(s, seen, saved) {
			return wire.OK
		}
	}
	return wire.Unavailable
}

// codeOf is the code to refuse with: the error's own, or Unavailable for a failing part.
func codeOf(err error) wire.Code {
	var c wire.Code
	if errors.As(err, &c) {
		return c
	}
	return wire.Unavailable
}

// check verifies a CONNECT's signature and, without TLS, that it is fresh: in this order, so that
// only who holds a device key can fill the replay cache. [P-16]
func (n *Node) check(p wire.Connect, device wire.PublicKey, exporter []byte, now time.Time, first bool) wire.Code {
	if p.Verify(device, exporter, n.cfg.Name) != nil {
		return wire.BadRecord
	}
	if p.TLS || !first { // a CONNECT tried again is not a replay of itself
		return wire.OK
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.replays.Fresh(now, wire.Time32(p.TS), p.Sig) {
		return wire.OutOfTime
	}
	return wire.OK
}

// known loads the state of an ID and applies the certificate the proof brings, if any.
func (n *Node) known(ctx context.Context, p wire.Connect, now time.Time) (stored, next consent.State, code wire.Code) {
	if p.Cert != nil {
		if err := p.Cert.Verify(n.cfg.Registrar, now); errors.Is(err, wire.ErrExpired) {
			return stored, next, wire.OutOfTime
		} else if err != nil {
			return stored, next, wire.BadRecord
		}
	}
	stored, err := n.cfg.Store.Load(ctx, p.ID)
	if err != nil {
		return stored, next, wire.Unavailable
	}
	next = stored
	if p.Cert != nil {
		if next, _, err = stored.WithCertificate(*p.Cert); err != nil {
			return stored, next, codeOf(err)
		}
	}
	if next.Cert == nil || now.After(next.Cert.NotAfter()) {
		return stored, next, wire.NotEnrolled
	}
	return stored, next, wire.OK
}

// keep stores what a verified CONNECT changes: a newer certificate, a higher generation. It runs
// after the signature was checked, so that nobody else can void a consent or burn generations. A
// new device cannot know the generation of the old one: it is given the next. [P-12]
func (n *Node) keep(ctx context.Context, p wire.Connect, stored, next consent.State) (kept consent.State, saved bool, err error) {
	if stored.Cert != nil && stored.Cert.Device != next.Cert.Device && p.Gen <= stored.Gen && stored.Gen < math.MaxUint32 {
		p.Gen = stored.Gen + 1
	}
	next, newGen, err := next.WithGen(p.Gen)
	if err != nil {
		return stored, false, err
	}
	if !newGen && stored.Cert != nil && *stored.Cert == *next.Cert {
		return next, false, nil
	}
	if stored.Voids(next) { // [P-5]
		if next, err = n.logged(ctx, stored, next, consent.EventDevice, next.Cert.Marshal()); err != nil {
			return stored, false, err
		}
	}
	next.Revision, err = n.cfg.Store.Save(ctx, p.ID, next)
	return next, true, err
}

// establish answers CONNECT once the session is registered, so that a text sent to this handset the
// moment it sees its CONNACK finds it; then welcomes it and opens its window.
func (n *Node) establish(s *session) bool {
	if n.srv.SendConnack(s.cl, packets.CodeSuccess, false, nil) != nil {
		n.detach(s)
		return false
	}
	if !s.self.ID.IsZero() {
		n.open(s)
	}
	return true
}

// register makes s its ID's session and ends the one it takes over. It reports false, and nothing
// happens, if the ID's state may have changed since seen was read: what s may do would be out of
// date, and nobody would tell it. [C-revoke]
func (n *Node) register(s *session, seen uint64, saved bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := s.self.ID
	if !id.IsZero() && *n.change(id) != seen && !n.probed(id) {
		return false
	}
	n.clients.Store(s.cl, s)
	n.byConn[s.conn] = s
	if id.IsZero() {
		return true
	}
	if saved {
		*n.change(id)++
	}
	old := n.byID[id]
	n.byID[id] = s
	receive := s.allowed().Receive()
	if receive {
		n.attachCustody(s)
	} else { // a new device, or consent gone: of the old one nothing may stay [P-5]
		n.cutLocked(s.self, s.gen, nil)
	}
	if old != nil {
		n.takeOver(s, old)
	}
	n.arm()
	return true
}

// takeOver ends the session that s replaces. Of the same tag, s has taken over what was in flight;
// what waits for another tag is returned. [C-2] Callers hold n.mu.
func (n *Node) takeOver(s, old *session) {
	if s.attached && old.self.Tag == s.self.Tag {
		s.outcomes = old.outcomes
	}
	old.over.Store(true)
	old.attached, old.outcomes = false, nil
	n.presence.Drop(presence.Conn(old.conn))
	n.perform(n.custody.Detach(n.effects[:0], old.conn))
	if old.shown && !s.attached {
		old.shown = false
		n.show(n.presence.Clear(n.shows[:0], old.self.Tag))
	}
	n.wg.Go(func() { n.end(old, wire.TakenOver) })
}

func (n *Node) attachCustody(s *session) {
	n.custody.Attach(custody.Session{Conn: s.conn, Owner: s.self.ID, Tag: s.self.Tag, Window: s.window})
	s.attached = true
}

// open sends the welcome, opens the window and turns the tag blue.
func (n *Node) open(s *session) {
	n.mu.Lock()
	n.reply(s, wire.Welcome{Gen: s.gen, Tag: s.self.Tag, Seq: s.seq}.Marshal())
	s.opened = true
	n.tellWhy(s, s.why)
	n.admitLocked(s)
	n.arm()
	n.mu.Unlock()
	n.route(s.self)
	if s.allowed().Scopes.Has(wire.ScopeGateway) {
		n.call(func(ctx context.Context) { n.pendingOutcomes(ctx, s) })
	}
}

// admitLocked brings an attached session into service, once it is welcomed: deliveries flow and
// presence shows. Callers hold n.mu.
func (n *Node) admitLocked(s *session) {
	if !s.attached || !s.opened {
		return
	}
	n.perform(n.custody.Ready(n.effects[:0], s.conn))
	if s.allowed().Visible() {
		s.shown = true
		n.show(n.presence.Up(n.shows[:0], s.self.Tag, uint64(s.conn)))
	}
}

// route claims a tag towards the other brokers while its session is here, and else releases it; one
// at a time, so that the end of an old session never ends the claim of a newer one. [C-2]
func (n *Node) route(self consent.Self) {
	if n.cfg.Router == nil || self.Tag.IsZero() {
		return
	}
	n.routing.Lock()
	defer n.routing.Unlock()
	n.mu.Lock()
	s := n.byID[self.ID]
	here := s != nil && s.attached && s.self.Tag == self.Tag
	n.mu.Unlock()
	if !here {
		n.cfg.Router.Release(self.Tag)
		return
	}
	if err := n.cfg.Router.Claim(self.Tag); err != nil {
		n.cfg.Log.Warn("tag not claimed: other brokers cannot deliver to it", "error", err)
	}
}

// detach forgets a session: what it held is returned, its watches end, and it turns grey later
// unless a newer session is there. [P-18]
func (n *Node) detach(s *session) {
	s.cl.Stop(nil)
	n.clients.Delete(s.cl)
	n.mu.Lock()
	delete(n.byConn, s.conn)
	if n.byID[s.self.ID] == s {
		delete(n.byID, s.self.ID)
	}
	if s.shown && !faultStaleBlue {
		n.presence.Down(s.self.Tag, uint64(s.conn), time.Now().Add(n.greyDelay()))
	}
	n.presence.Drop(presence.Conn(s.conn))
	for _, p := range s.pseudonyms {
		if n.senders[p] == s {
			delete(n.senders, p)
		}
	}
	n.perform(n.custody.Detach(n.effects[:0], s.conn))
	n.arm()
	n.mu.Unlock()
	n.route(s.self)
}
