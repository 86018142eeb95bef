package hooks

import (
	"context"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"bluejay/consent"
	"bluejay/custody"
	"bluejay/presence"
	"bluejay/wire"
)

// maxHello bounds a message on the hello lane, in bytes. [P-19]
const maxHello = 2 << 10

// incoming is what the node needs of a PUBLISH. Mochi's packet is 824 bytes: handed on by value from
// one to the next it made a text just too deep for a stack of 16 KiB, and the next one up is 32.
type incoming struct {
	topic   string
	qos     byte
	pid     uint16
	payload []byte
}

// publish decides one PUBLISH of a client; every path answers its packet id exactly once, now or
// when custody decides. [C-1]
func (n *Node) publish(s *session, in incoming) {
	topic, err := wire.ParseTopic(in.topic)
	if err != nil || in.qos != 1 {
		n.cfg.Log.Info("publish refused", "reason", "only QoS 1 is offered")
		n.end(s, wire.NotAllowed) // nothing of this protocol travels at QoS 0
		return
	}
	if code := s.may(topic); code != wire.OK {
		n.answer(s, in.pid, code)
		return
	}
	switch topic.Kind {
	case wire.TopicInbox:
		n.takeCustody(s, topic, in)
	case wire.TopicHello:
		n.hello(s, topic, in)
	case wire.TopicFallback:
		n.fallback(s, topic, in)
	case wire.TopicUnread:
		n.unreadable(s, in)
	case wire.TopicBundle:
		n.answer(s, in.pid, n.keepBundle(s, in.payload))
	default:
		n.request(s, topic.Kind, in)
	}
}

// answer acknowledges a publish with a result.
func (n *Node) answer(s *session, pid uint16, code wire.Code) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.puback(s, pid, code)
}

// unanswered is a publish whose answer comes later.
type unanswered struct {
	pid     uint16
	message wire.MessageID
}

// begin notes a publish whose answer comes later; false means it goes no further: too many are
// unanswered, or its packet id is in use for something else, which ends the connection
// ([MQTT-2.2.1-3]). Sent again as it was, it is answered once and counts once. Callers hold n.mu.
func (n *Node) begin(s *session, p unanswered) bool {
	for _, q := range s.pending {
		if q.pid == p.pid {
			if q != p {
				n.wg.Go(func() { n.end(s, wire.NotAllowed) })
			}
			return q == p
		}
	}
	if len(s.pending) >= receiveMaximum {
		n.puback(s, p.pid, wire.OverQuota)
		return false
	}
	s.pending = append(s.pending, p)
	return true
}

// tell answers a publish that began. Callers hold n.mu.
func (n *Node) tell(e *custody.Effect) {
	s := n.byConn[e.Conn]
	if s == nil {
		return
	}
	if i := slices.IndexFunc(s.pending, func(u unanswered) bool { return u.pid == e.PacketID }); i >= 0 {
		last := len(s.pending) - 1
		s.pending[i], s.pending = s.pending[last], s.pending[:last]
	}
	if faultLostReturn && e.Code == wire.NoRecipient {
		return
	}
	n.puback(s, e.PacketID, e.Code)
}

// takeCustody takes a text or a sealed job into custody. The access is checked again under the lock:
// a revocation that was acknowledged meanwhile has taken it away. [C-1] [C-4] [C-revoke]
func (n *Node) takeCustody(s *session, topic wire.Topic, in incoming) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if code := s.may(topic); code != wire.OK {
		n.puback(s, in.pid, code)
		return
	}
	a := n.attempt(s, topic, in)
	if !n.begin(s, unanswered{in.pid, a.Key.Message}) {
		return
	}
	if faultEarlyPuback && topic.Kind == wire.TopicInbox {
		n.puback(s, in.pid, wire.OK)
	}
	if topic.Kind == wire.TopicFallback {
		n.perform(n.custody.Enqueue(n.effects[:0], time.Now(), a))
	} else {
		n.perform(n.custody.Publish(n.effects[:0], time.Now(), a))
	}
	n.arm()
}

func (n *Node) attempt(s *session, topic wire.Topic, in incoming) custody.Attempt {
	return custody.Attempt{
		Key:     custody.Key{Sender: s.self.ID, Topic: topic, Message: wire.MessageIDOf(in.payload)},
		Waiter:  custody.Waiter{Conn: s.conn, PacketID: in.pid},
		Payload: in.payload,
	}
}

// hello passes an INIT on. Its PUBACK is always success, written before the recipient is looked
// for: it says the same to a stranger whether the ID is online, offline, blocked or nobody's. [P-19]
func (n *Node) hello(s *session, topic wire.Topic, in incoming) {
	if len(in.payload) > maxHello {
		n.answer(s, in.pid, wire.TooLarge)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if code := s.may(topic); code != wire.OK {
		n.puback(s, in.pid, code)
		return
	}
	sender, deliver := n.quotas.Hello(time.Now(), s.self.ID, topic.ID)
	if !sender {
		n.puback(s, in.pid, wire.OverQuota)
		return
	}
	n.puback(s, in.pid, wire.OK)
	to := n.byID[topic.ID]
	if !deliver || to == nil || !to.attached || !to.allowed().Receive() {
		n.counts.HellosUndelivred++
		return
	}
	dst, _ := n.custody.Push(n.effects[:0], to.conn, custody.Push{Topic: topic, Sender: s.self.ID, Payload: in.payload})
	n.perform(dst)
}

// unreadable passes on that this connection cannot open a text now in flight to it.
func (n *Node) unreadable(s *session, in incoming) {
	id, err := wire.ParseByMessageID(byte(wire.CtlUnread), in.payload)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.puback(s, in.pid, wire.NotAllowed)
		return
	}
	n.perform(n.custody.Unreadable(n.effects[:0], s.conn, id))
	n.puback(s, in.pid, wire.OK)
}

// ack takes a recipient's PUBACK; an MQTT 5 reason of 0x80 and above is a refusal to take the text.
func (n *Node) ack(s *session, pid uint16, reason byte) {
	n.do(func(dst []custody.Effect) []custody.Effect {
		if reason >= 0x80 {
			return n.custody.Refuse(dst, s.conn, pid)
		}
		return n.custody.Ack(dst, s.conn, pid)
	})
}

// keepBundle retains the owner's key bundle in memory until its not_after, whether or not the
// owner is connected. [P-9]
func (n *Node) keepBundle(s *session, raw []byte) wire.Code {
	b, err := wire.ParseBundle(raw)
	now := time.Now()
	if err != nil || b.Verify(n.cfg.Registrar, now) != nil || b.Cert.ID != s.self.ID {
		return wire.BadRecord
	}
	if wire.Time32(b.NotAfter).After(now.Add(maxBundleLife)) {
		return wire.OutOfTime
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.allowed().Listed || n.byID[s.self.ID] != s {
		return wire.NotConsented
	}
	until := min(int64(b.NotAfter), s.until.Load()) // nor longer than its owner's consent
	n.bundles[s.self.ID] = storedBundle{raw: raw, notAfter: time.Unix(until, 0)}
	return wire.OK
}

// maxBundleLife is the longest a prekey may be offered: 7 days, and a day for slow clocks. [P-9]
const maxBundleLife = 8 * 24 * time.Hour

// perform carries out effects in order. Callers hold n.mu; nothing here blocks: bytes are queued,
// and what needs another process runs on a goroutine of the node.
func (n *Node) perform(effects []custody.Effect) {
	for i := range effects {
		n.performOne(&effects[i])
	}
	n.effects = effects[:0]
}

func (n *Node) performOne(e *custody.Effect) {
	switch e.Kind {
	case custody.Deliver:
		n.deliver(e)
	case custody.Tell:
		n.tell(e)
	case custody.Reply:
		if reply := n.routes[e.Ref]; reply != nil {
			delete(n.routes, e.Ref)
			code := e.Code
			n.wg.Go(func() { reply(code) })
		}
	case custody.Forward:
		n.forward(*e)
	case custody.Enqueue:
		n.enqueue(*e)
	case custody.Pushed:
		n.pushed(e.Conn, e.Ref)
	}
}

// deliver writes to a recipient, after a last check that must never fail: revocation detaches the
// session from custody first. Consent that expired this second is no such failure. [P-17]
func (n *Node) deliver(e *custody.Effect) {
	s := n.byConn[e.Conn]
	if s == nil {
		return
	}
	if faultWrongTag && e.Topic.Kind == wire.TopicInbox && e.PacketID%4 == 3 {
		for _, other := range n.byID {
			if other != s && other.attached {
				s = other
			}
		}
	}
	if faultDoubleDelivery && e.Topic.Kind == wire.TopicInbox {
		n.write(s, e.Topic, e.PacketID, false, e.Payload)
	}
	if !faultAfterRevocation && e.Topic.Kind != wire.TopicReply && !s.allowed().Receive() {
		if !consent.UnpackAccess(s.access.Load()).Receive() {
			n.counts.PostRevocation++
		}
		return
	}
	n.write(s, e.Topic, e.PacketID, false, e.Payload)
}

// forward asks the other brokers; without any, nobody has the session. [C-2]
func (n *Node) forward(e custody.Effect) {
	n.call(func(ctx context.Context) {
		code := wire.NoRecipient
		if n.cfg.Router != nil {
			var err error
			if code, err = n.cfg.Router.Forward(ctx, e.Topic.Tag, e.Payload); err != nil {
				code = wire.NoRecipient // not known to be delivered
			}
		}
		n.resolve(e.Ref, code)
	})
}

func (n *Node) resolve(ref uint64, code wire.Code) {
	n.do(func(dst []custody.Effect) []custody.Effect { return n.custody.Resolve(dst, ref, code) })
}

// show queues presence to watchers: blue is one retained byte, grey an empty payload. [P-18]
// Callers hold n.mu.
func (n *Node) show(effects []presence.Effect) {
	for _, e := range effects {
		if s := n.byConn[custody.Conn(e.Conn)]; s != nil {
			var payload []byte
			if e.Blue {
				payload = []byte{e.Byte}
			}
			n.write(s, wire.Topic{Kind: wire.TopicPresence, Tag: e.Tag}, 0, e.Retained, payload)
		}
	}
	n.shows = effects[:0]
}

// maxWatches bounds the presence subscriptions of one connection.
const maxWatches = 512

// subscribe answers a SUBSCRIBE from the node's own tables. A key bundle and the worker's key are
// answered at once after the SUBACK, an empty payload meaning there is none; presence stays
// watched; the client's own topics are always delivered.
func (n *Node) subscribe(s *session, pk packets.Packet) {
	codes := make([]byte, 0, len(pk.Filters))
	n.mu.Lock()
	defer n.mu.Unlock()
	var granted []wire.Topic
	watches := n.presence.Watches(presence.Conn(s.conn))
	for _, f := range pk.Filters {
		t, code := n.maySubscribe(s, f.Filter, watches)
		if code != wire.OK {
			codes = append(codes, n.suback(s, code))
			continue
		}
		if granted = append(granted, t); t.Kind == wire.TopicPresence {
			watches++
		}
		codes = append(codes, min(f.Qos, 1))
	}
	n.scratch = appendSuback(n.scratch[:0], s.v5, pk.PacketID, codes)
	_, _ = s.net.Write(n.scratch)
	for _, t := range granted {
		n.first(s, t)
	}
}

func (n *Node) maySubscribe(s *session, filter string, watches int) (wire.Topic, wire.Code) {
	t, err := wire.ParseTopic(filter)
	if err != nil {
		return t, wire.NotAllowed
	}
	code := s.allowed().Subscribe(s.self, t)
	switch {
	case code != wire.OK:
	case s.over.Load():
		code = wire.TakenOver
	case t.Kind == wire.TopicPresence && watches >= maxWatches:
		code = wire.OverQuota
	case t.Kind == wire.TopicBundle && t.ID != s.self.ID && !n.quotas.Bundle(time.Now(), s.self.ID):
		code = wire.OverQuota
	}
	return t, code
}

func (n *Node) suback(s *session, code wire.Code) byte {
	if s.v5 {
		return code.Puback()
	}
	return 0x80
}

// first sends what a new subscription is owed.
func (n *Node) first(s *session, t wire.Topic) {
	switch t.Kind {
	case wire.TopicPresence:
		n.show(n.presence.Watch(n.shows[:0], presence.Conn(s.conn), t.Tag))
	case wire.TopicKey:
		s.wantsKey = true
		n.write(s, t, 0, true, n.worker)
	case wire.TopicBundle:
		b := n.bundles[t.ID]
		if !b.notAfter.IsZero() && time.Now().After(b.notAfter) {
			delete(n.bundles, t.ID)
			b.raw = nil
		}
		n.write(s, t, 0, true, b.raw)
	}
}

// unsubscribe ends watches. Unknown topics are answered like known ones.
func (n *Node) unsubscribe(s *session, pk packets.Packet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	codes := make([]byte, len(pk.Filters))
	for _, f := range pk.Filters {
		switch t, err := wire.ParseTopic(f.Filter); {
		case err != nil:
		case t.Kind == wire.TopicPresence:
			n.presence.Unwatch(presence.Conn(s.conn), t.Tag)
		case t.Kind == wire.TopicKey:
			s.wantsKey = false
		}
	}
	n.scratch = appendUnsuback(n.scratch[:0], s.v5, pk.PacketID, codes)
	_, _ = s.net.Write(n.scratch)
}

// appendSuback encodes a SUBACK ([MQTT-3.9]).
func appendSuback(b []byte, v5 bool, pid uint16, codes []byte) []byte {
	return appendAcks(b, packets.Suback<<4, v5, pid, codes)
}

// appendUnsuback encodes an UNSUBACK ([MQTT-3.11]); MQTT 3.1.1 has no codes in it.
func appendUnsuback(b []byte, v5 bool, pid uint16, codes []byte) []byte {
	if !v5 {
		codes = nil
	}
	return appendAcks(b, packets.Unsuback<<4, v5, pid, codes)
}

func appendAcks(b []byte, head byte, v5 bool, pid uint16, codes []byte) []byte {
	size := 2 + len(codes)
	if v5 {
		size++
	}
	b = append(b, head, byte(size), byte(pid>>8), byte(pid))
	if v5 {
		b = append(b, 0)
	}
	return append(b, codes...)
}
