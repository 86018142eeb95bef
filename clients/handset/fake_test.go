package handset

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"bluejay/blind"
	"bluejay/consent"
	"bluejay/envelope"
	"bluejay/wire"
)

// fakeBroker speaks just enough MQTT 3.1.1 and Bluejay for a few handsets, in memory, with the
// registrar and the SMS worker inside. It is deliberately naive: it has no quotas and no store.
type fakeBroker struct {
	t         *testing.T
	registrar ed25519.PrivateKey
	root      ed25519.PrivateKey
	receipt   ed25519.PrivateKey
	voprf     blind.ServerKey
	box       envelope.RegistrarSecret
	worker    envelope.WorkerSecret

	mu        sync.Mutex
	conns     map[*fakeConn]bool
	states    map[wire.ID]*fakeState
	bundles   map[wire.ID][]byte
	otps      map[wire.PublicKey]envelope.EnrolRequest
	jobs      map[wire.MessageID]fakeJob
	transfers map[wire.MessageID]func(wire.Code)
	counts    map[wire.TopicKind]int // publishes seen
	bytes     int                    // bytes received by the broker, of any kind
	tls       *tls.Config            // nil: none
	refuse    byte                   // CONNACK code for every CONNECT
	// judge, if set, may answer a publish in place of the broker: ok false and the code is sent
	// as a notice; drop true and nothing is answered.
	judge       func(from wire.ID, t wire.Topic, payload []byte) (c wire.Code, drop bool)
	sealed      [][]byte  // MSGs that came to an inbox
	suspended   []wire.ID // whose SIM is another
	suspendCode wire.Code
	wrongNotice [16]byte // hash of a text that does not count
}

type fakeState struct {
	cert   wire.Certificate
	gen    uint32
	seq    uint32
	scopes wire.Scope
	record []byte
}

type fakeJob struct {
	job    envelope.Job
	sender wire.ID
	wrote  bool
}

type fakeConn struct {
	b       *fakeBroker
	net     net.Conn
	out     chan packets.ControlPacket
	id      wire.ID
	tag     wire.Tag
	watches map[wire.Tag]bool
	pid     uint16
	waiting map[uint16]func()
}

const fakeOTP = "123456"

var fakeTagKey = []byte("a tag key of thirty-two bytes...")

func newFakeBroker(t *testing.T) *fakeBroker {
	t.Helper()
	b := &fakeBroker{
		t: t, registrar: newKey(), root: newKey(), receipt: newKey(), conns: map[*fakeConn]bool{},
		states: map[wire.ID]*fakeState{}, bundles: map[wire.ID][]byte{}, otps: map[wire.PublicKey]envelope.EnrolRequest{},
		transfers: map[wire.MessageID]func(wire.Code){}, jobs: map[wire.MessageID]fakeJob{}, counts: map[wire.TopicKind]int{},
	}
	var err error
	if b.voprf, err = blind.GenerateServerKey(); err != nil {
		t.Fatal(err)
	}
	if b.box, err = envelope.GenerateRegistrarSecret(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if b.worker, err = envelope.NewWorkerSecret(1, now.Add(-time.Hour), now.Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	return b
}

func newKey() ed25519.PrivateKey {
	_, k, _ := ed25519.GenerateKey(rand.Reader)
	return k
}

func publicOf(k ed25519.PrivateKey) wire.PublicKey {
	return wire.PublicKey(k.Public().(ed25519.PublicKey))
}

func (b *fakeBroker) pins() Pins {
	return Pins{
		Broker: "fake", Root: publicOf(b.root), Registrar: publicOf(b.registrar), VOPRF: b.voprf.Public(),
		RegistrarBox: b.box.Public(), Receipt: []wire.PublicKey{publicOf(b.receipt)},
	}
}

// dial is Config.Dial.
func (b *fakeBroker) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	c := &fakeConn{
		b: b, net: ours, out: make(chan packets.ControlPacket, 1024), watches: map[wire.Tag]bool{},
		waiting: map[uint16]func(){},
	}
	if b.tls != nil {
		c.net = tls.Server(ours, b.tls)
	}
	go c.write()
	go c.read()
	return theirs, nil
}

func (c *fakeConn) write() {
	for p := range c.out {
		if p.Write(c.net) != nil {
			_ = c.net.Close()
		}
	}
}

type counter struct {
	io.Reader
	b *fakeBroker
}

func (r counter) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.b.mu.Lock()
	r.b.bytes += n
	r.b.mu.Unlock()
	return n, err
}

func (c *fakeConn) read() {
	defer c.gone()
	for {
		p, err := packets.ReadPacket(counter{c.net, c.b})
		if err != nil {
			return
		}
		c.b.mu.Lock()
		over := c.handle(p)
		c.b.mu.Unlock()
		if over {
			return
		}
	}
}

func (c *fakeConn) gone() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	_ = c.net.Close()
	live := c.b.conns[c]
	delete(c.b.conns, c)
	close(c.out)
	if live {
		c.b.show(c, false)
	}
	for _, f := range c.waiting {
		f()
	}
}

func (c *fakeConn) handle(p packets.ControlPacket) (over bool) {
	switch p := p.(type) {
	case *packets.ConnectPacket:
		return c.connect(p)
	case *packets.PublishPacket:
		c.publish(p)
	case *packets.PubackPacket:
		if f := c.waiting[p.MessageID]; f != nil {
			delete(c.waiting, p.MessageID)
			f()
		}
	case *packets.SubscribePacket:
		c.subscribe(p)
	case *packets.UnsubscribePacket:
		a := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
		a.MessageID = p.MessageID
		c.out <- a
	case *packets.PingreqPacket:
		c.out <- packets.NewControlPacket(packets.Pingresp)
	case *packets.DisconnectPacket:
		return true
	}
	return false
}

func (c *fakeConn) connect(p *packets.ConnectPacket) (over bool) {
	a := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	a.ReturnCode = c.b.refuse
	sent := false
	defer func() {
		if !sent {
			c.out <- a
		}
	}()
	if c.b.refuse != 0 {
		return false // the client closes
	}
	if !p.PasswordFlag {
		return false // an enrolment session
	}
	proof, err := wire.ParseConnect(p.Password)
	if err != nil {
		c.b.t.Error("CONNECT with a malformed proof")
		return true
	}
	st := c.b.states[proof.ID]
	if proof.Cert != nil && (st == nil || proof.Cert.IssuedAt > st.cert.IssuedAt || st.cert == *proof.Cert) {
		if st == nil {
			st = &fakeState{}
			c.b.states[proof.ID] = st
		} else if st.cert.Device != proof.Cert.Device {
			st.gen, st.scopes = st.gen+1, 0
		}
		st.cert = *proof.Cert
	}
	if st == nil || proof.Verify(st.cert.Device, c.exporter(), "fake") != nil {
		a.ReturnCode = 5
		return false
	}
	st.gen = max(st.gen, proof.Gen)
	for o := range c.b.conns { // take over
		if o.id == proof.ID {
			_ = o.net.Close()
		}
	}
	c.id, c.tag = proof.ID, wire.MakeTag(fakeTagKey, proof.ID, st.gen)
	c.b.conns[c] = true
	c.out <- a
	sent = true
	c.reply(wire.Welcome{Gen: st.gen, Tag: c.tag, Seq: st.seq}.Marshal())
	c.b.show(c, true)
	return false
}

func (c *fakeConn) exporter() []byte {
	t, ok := c.net.(*tls.Conn)
	if !ok {
		return nil
	}
	s := t.ConnectionState()
	e, err := s.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen)
	if err != nil {
		c.b.t.Error(err)
	}
	return e
}

// show tells the watchers of c's tag.
func (b *fakeBroker) show(c *fakeConn, up bool) {
	st := b.states[c.id]
	if st == nil || !st.scopes.Has(wire.ScopePresence) {
		return
	}
	var body []byte
	if up {
		body = []byte{1}
	}
	for o := range b.conns {
		if o.watches[c.tag] {
			o.send(wire.Topic{Kind: wire.TopicPresence, Tag: c.tag}, body, 0, nil)
		}
	}
}

// send publishes to the client; done runs at its PUBACK, or when the client has gone.
func (c *fakeConn) send(t wire.Topic, body []byte, qos byte, done func()) uint16 {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = t.String(), body, qos
	if qos > 0 {
		c.pid++
		p.MessageID = c.pid
		if done != nil {
			c.waiting[c.pid] = done
		}
	}
	c.out <- p
	return p.MessageID
}

func (c *fakeConn) reply(b []byte) { c.send(wire.Topic{Kind: wire.TopicReply}, b, 0, nil) }

// puback tells a result the way of MQTT 3.1.1.
func (c *fakeConn) puback(id uint16, code wire.Code) {
	if !c.open() {
		return
	}
	if code != wire.OK {
		c.reply(wire.Notice{PacketID: id, Code: code}.Marshal())
	}
	a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	a.MessageID = id
	c.out <- a
}

func (c *fakeConn) open() bool { return c.id.IsZero() || c.b.conns[c] }

func (c *fakeConn) subscribe(p *packets.SubscribePacket) {
	a := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	a.MessageID, a.ReturnCodes = p.MessageID, p.Qoss
	c.out <- a
	for _, name := range p.Topics {
		t, err := wire.ParseTopic(name)
		if err != nil {
			c.b.t.Errorf("SUBSCRIBE to a topic that is none")
		}
		c.watch(t)
	}
}

func (c *fakeConn) watch(t wire.Topic) {
	switch t.Kind {
	case wire.TopicPresence:
		c.watches[t.Tag] = true
		for o := range c.b.conns {
			if o.tag == t.Tag && c.b.states[o.id].scopes.Has(wire.ScopePresence) {
				c.send(t, []byte{1}, 0, nil)
			}
		}
	case wire.TopicBundle:
		if b := c.b.bundles[t.ID]; b != nil {
			c.send(t, b, 0, nil)
		}
	case wire.TopicKey:
		k := c.b.worker.Key()
		k.Sign(c.b.root)
		c.send(t, k.Marshal(), 0, nil)
	}
}

func (c *fakeConn) publish(p *packets.PublishPacket) {
	t, err := wire.ParseTopic(p.TopicName)
	if err != nil || p.Qos != 1 {
		c.b.t.Errorf("PUBLISH of another protocol")
	}
	c.b.counts[t.Kind]++
	if c.b.judge != nil {
		if code, drop := c.b.judge(c.id, t, p.Payload); drop || code != wire.OK {
			if !drop {
				c.puback(p.MessageID, code)
			}
			return
		}
	}
	switch t.Kind {
	case wire.TopicInbox:
		c.inbox(t, p)
	case wire.TopicHello:
		c.puback(p.MessageID, wire.OK)
		for o := range c.b.conns {
			if o.id == t.ID {
				o.send(t, p.Payload, 1, nil)
			}
		}
	case wire.TopicBundle:
		c.b.bundles[t.ID] = p.Payload
		c.puback(p.MessageID, wire.OK)
	case wire.TopicUnread:
		c.puback(p.MessageID, c.b.unread(p.Payload))
	case wire.TopicFallback:
		c.puback(p.MessageID, c.b.job(c.id, p.Payload))
	default:
		c.request(t.Kind, p)
	}
}

// inbox keeps custody: the sender's PUBACK waits for the recipient's.
func (c *fakeConn) inbox(t wire.Topic, p *packets.PublishPacket) {
	c.b.sealed = append(c.b.sealed, p.Payload)
	for o := range c.b.conns {
		if o.tag == t.Tag {
			o.deliver(c, t, p)
			return
		}
	}
	c.puback(p.MessageID, wire.NoRecipient)
}

func (o *fakeConn) deliver(c *fakeConn, t wire.Topic, p *packets.PublishPacket) {
	told := false
	tell := func(code wire.Code) {
		if !told {
			told = true
			c.puback(p.MessageID, code)
		}
	}
	o.b.transfers[wire.MessageIDOf(p.Payload)] = tell
	o.send(t, p.Payload, 1, func() {
		if o.b.conns[o] {
			tell(wire.OK)
		}
		tell(wire.NoRecipient)
	})
	time.AfterFunc(8*time.Second, func() {
		c.b.mu.Lock()
		defer c.b.mu.Unlock()
		tell(wire.NoRecipient)
	})
}

func (b *fakeBroker) unread(payload []byte) wire.Code {
	id, err := wire.ParseByMessageID(byte(wire.CtlUnread), payload)
	if tell := b.transfers[id]; err == nil && tell != nil {
		tell(wire.Unreadable)
		return wire.OK
	}
	return wire.NotAllowed
}

func (b *fakeBroker) job(sender wire.ID, payload []byte) wire.Code {
	if id, err := wire.ParseByMessageID(wire.TypeCancel, payload); err == nil {
		if b.jobs[id].wrote {
			return wire.AlreadyHandled
		}
		delete(b.jobs, id)
		return wire.OK
	}
	j, err := b.worker.OpenJob(payload)
	if err != nil {
		return wire.BadRecord
	}
	b.jobs[wire.MessageIDOf(payload)] = fakeJob{job: j, sender: sender}
	return wire.OK
}

// outcome tells the sender of every job its state.
func (b *fakeBroker) outcome(s wire.JobState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, j := range b.jobs {
		j.wrote = true
		b.jobs[id] = j
		for c := range b.conns {
			if c.id == j.sender {
				c.send(wire.Topic{Kind: wire.TopicReply}, wire.Outcome{Message: id, State: s}.Marshal(), 1, nil)
			}
		}
	}
}

func (c *fakeConn) request(kind wire.TopicKind, p *packets.PublishPacket) {
	r, err := wire.ParseRequest(p.Payload)
	if err != nil {
		c.puback(p.MessageID, wire.NotAllowed)
		return
	}
	code, body := wire.NotAllowed, []byte(nil)
	switch kind {
	case wire.TopicConsent:
		code, body = c.consent(r.Body)
	case wire.TopicEnrol:
		code, body = c.b.enrol(r.Body)
	case wire.TopicQuery:
		if out, err := c.b.voprf.Evaluate(r.Body[1:]); err == nil {
			code, body = wire.OK, out
		}
	}
	c.reply(wire.Answer{Request: r.ID, Code: code, Body: body}.Marshal())
	c.puback(p.MessageID, wire.OK)
}

func (c *fakeConn) consent(body []byte) (wire.Code, []byte) {
	st := c.b.states[c.id]
	if gen, err := wire.ParseNextTagRequest(body); err == nil {
		t := wire.MakeTag(fakeTagKey, c.id, gen)
		return wire.OK, t[:]
	}
	if _, err := wire.ParseByReason(wire.CtlSuspend, body); err == nil {
		st.scopes = 0
		c.b.suspended = append(c.b.suspended, c.id)
		return c.b.suspendCode, nil
	}
	r, err := wire.ParseConsent(body)
	if err == nil && c.b.wrongNotice == r.Notice {
		return wire.WrongNotice, nil
	}
	if err != nil || r.Verify(st.cert.Device) != nil {
		return wire.BadRecord, nil
	}
	if bytes.Equal(body, st.record) {
		return wire.OK, c.b.receiptOf(body, r.Seq)
	}
	if r.Seq <= st.seq {
		return wire.StaleRecord, []byte{byte(st.seq >> 24), byte(st.seq >> 16), byte(st.seq >> 8), byte(st.seq)}
	}
	if r.Scopes == 0 {
		c.b.show(c, false)
		delete(c.b.bundles, c.id)
	}
	st.seq, st.scopes, st.record = r.Seq, r.Scopes, body
	c.b.show(c, true)
	return wire.OK, c.b.receiptOf(body, r.Seq)
}

// receiptOf is a receipt with an entry in a log that nobody keeps; every third broker has none.
func (b *fakeBroker) receiptOf(record []byte, seq uint32) []byte {
	receipt := wire.NewReceipt(b.receipt, record, time.Now()).Marshal()
	if seq%3 == 0 {
		return receipt
	}
	return append(receipt, fakeEntry(seq).Marshal()...)
}

func fakeEntry(seq uint32) consent.Entry {
	return consent.Entry{Salt: [16]byte{1, byte(seq)}, Index: uint64(seq)}
}

func (b *fakeBroker) enrol(body []byte) (wire.Code, []byte) {
	if r, err := b.box.OpenEnrol(body); err == nil {
		b.otps[r.Device] = r
		return wire.OK, nil
	}
	r, key, err := b.box.OpenConfirm(body)
	e, known := b.otps[r.Device]
	switch {
	case err != nil || !known || e.Nonce != r.Nonce:
		return wire.PasswordGone, nil
	case r.OTP != fakeOTP:
		return wire.WrongPassword, nil
	}
	id, err := b.voprf.FullEvaluate(e.Number)
	if err != nil {
		return wire.Unavailable, nil
	}
	c := wire.Certificate{ID: id, Device: r.Device, IssuedAt: wire.Unix32(time.Now()), LifetimeHours: 24 * 180, KID: 1}
	c.Sign(b.registrar)
	return wire.OK, key.Seal(c.Marshal())
}

// cut ends every connection of an ID, as a network does.
func (b *fakeBroker) cut(id wire.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if c.id == id {
			_ = c.net.Close()
		}
	}
}

func (b *fakeBroker) setJudge(f func(wire.ID, wire.Topic, []byte) (wire.Code, bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.judge = f
}

func (b *fakeBroker) count(k wire.TopicKind) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts[k]
}

func (b *fakeBroker) setRefuse(code byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = code
}

func (b *fakeBroker) bundle(id wire.ID) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bundles[id]
}

func (b *fakeBroker) queued() []fakeJob {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.jobs))
}

func (b *fakeBroker) scopes(id wire.ID) wire.Scope {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.states[id].scopes
}

func (b *fakeBroker) messages() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sealed)
}

func (b *fakeBroker) received() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

func (b *fakeBroker) setWrote(wrote bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for m, j := range b.jobs {
		j.wrote = wrote
		b.jobs[m] = j
	}
}
