// Package custody decides when a sender may be told that a text has arrived.
//
// At any time at least one party holds a text: the sender's handset, the recipient's handset or
// the durable fallback queue. The broker is never the only one: it holds a copy in memory only
// while the sender still does.
//
//  1. A publish becomes an attempt, named by (sender, topic, message id). [C-6]
//  2. It is written to the recipient's live session, or other brokers are asked. [C-2]
//  3. The recipient's PUBACK ends it as delivered; no session, the deadline or the end of the
//     session ends it as returned. Exactly one of them happens. [C-1] [C-2]
//  4. Then, and only then, the sender's PUBACK is due. [C-1]
//  5. A job for the fallback queue ends as queued when the queue has it durably. [C-4]
//
// [Machine] is pure: events in, effects out, no clock, no lock, no goroutine, so no client's read
// loop can wait in it for another client. [C-5] Its zero value is not usable; see [New].
package custody

import (
	"time"

	"bluejay/wire"
)

// Conn numbers one connection; a number is never used again. Zero value: no connection.
type Conn uint64

// Key names an attempt: who sends which bytes to which topic. A resend of the same bytes has the
// same Key, whatever its packet id, DUP flag or connection. [C-6] [C-7]
type Key struct {
	Sender  wire.ID
	Topic   wire.Topic
	Message wire.MessageID
}

// Waiter is who is told the outcome: a packet id of a connection here, or another broker's request.
type Waiter struct {
	Conn     Conn
	PacketID uint16
	Route    uint64 // not 0: a request of another broker
}

// Attempt is one publish taken into custody.
type Attempt struct {
	Key     Key
	Waiter  Waiter
	Payload []byte
}

// Session is one recipient's connection, ready or not.
type Session struct {
	Conn   Conn
	Owner  wire.ID
	Tag    wire.Tag
	Window int // how many messages may be unacknowledged at once; the client's Receive Maximum
}

// EffectKind says what an adapter has to do.
type EffectKind uint8

// Effects. An adapter performs them in order and reports back as the comment says.
const (
	Deliver EffectKind = iota + 1 // write PUBLISH QoS 1 Topic, PacketID, Payload to Conn
	Tell                          // tell Conn's PacketID the outcome Code: (notice and) PUBACK
	Reply                         // answer another broker's request Ref with Code
	Forward                       // ask other brokers to deliver Payload to Topic.Tag; then Resolve(Ref)
	Enqueue                       // store Payload in the fallback queue; then Resolve(Ref)
	Pushed                        // the push with Ref was acknowledged by Conn
)

// Effect is one thing to do. Fields not named by its kind are zero.
type Effect struct {
	Kind     EffectKind
	Code     wire.Code
	PacketID uint16
	Conn     Conn
	Ref      uint64
	Topic    wire.Topic
	Sender   wire.ID
	Message  wire.MessageID
	Payload  []byte
}

// Counts are attempts since start. [C-7]: Accepted = Delivered + Queued + Returned + InFlight.
type Counts struct {
	Accepted, Delivered, Queued, Returned, InFlight int64
	Late                                            int64 // PUBACKs that came after the outcome
	Joined                                          int64 // resends that met their attempt in flight
}

// Difference is Accepted minus what became of it; it must be 0. [C-7]
func (c Counts) Difference() int64 {
	return c.Accepted - c.Delivered - c.Queued - c.Returned - c.InFlight
}

// Config bounds a Machine. Zero values: 8 s, 32, 256, 32 KiB. A Window has at most 32,767.
type Config struct {
	Deadline   time.Duration // from acceptance to undeliverable
	Window     int           // unacknowledged messages a session may have at most; also for one that names none
	MaxWaiting int           // messages that wait for one recipient's window
	MaxBytes   int           // written to one recipient and not acknowledged: a burst of long texts must not make it look like one that does not read
}

func (c Config) withDefaults() Config {
	if c.Deadline == 0 {
		c.Deadline = 8 * time.Second
	}
	if c.Window == 0 {
		c.Window = 32
	}
	c.Window = min(c.Window, maxWindow)
	if c.MaxBytes == 0 {
		c.MaxBytes = 32 << 10
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = 256
	}
	return c
}

// deadline is when an attempt accepted now becomes undeliverable. A copy that another broker asked
// us to deliver is dropped an eighth earlier, so that it is gone here before its sender is told
// there. [C-3]
func (c Config) deadline(now time.Time, w Waiter) time.Time {
	if w.Route != 0 {
		return now.Add(c.Deadline - c.Deadline/8)
	}
	return now.Add(c.Deadline)
}

// Machine holds every attempt in flight. Use it under one lock.
type Machine struct {
	cfg      Config
	counts   Counts
	byConn   map[Conn]*session     // live sessions
	byTag    map[wire.Tag]*session // those of byConn that have a tag
	attempts map[Key]*transfer
	refs     map[uint64]*transfer // Forward and Enqueue under way
	lastRef  uint64
	ours     list // attempts published here, by deadline
	routed   list // attempts other brokers asked for, by deadline
	pushes   list
	free     *transfer
}

// New returns an empty Machine.
func New(cfg Config) *Machine {
	return &Machine{
		cfg:    cfg.withDefaults(),
		byConn: map[Conn]*session{}, byTag: map[wire.Tag]*session{},
		attempts: map[Key]*transfer{}, refs: map[uint64]*transfer{},
	}
}

// Counts returns the figures of [C-7].
func (m *Machine) Counts() Counts { return m.counts }

// Next is when Expire is due; ok is false when nothing is in flight.
func (m *Machine) Next() (at time.Time, ok bool) {
	t := m.oldest()
	if t == nil {
		return time.Time{}, false
	}
	return t.deadline, true
}

// Attach registers a connection before its CONNACK: from now on its tag is found, and what arrives
// waits for Ready. A session that holds the tag already is over for the Machine, and hands over
// what it has not acknowledged and what waits: same attempt, same deadline, no outcome yet. A
// connection that was withdrawn can be attached again; its reserved packet ids stay so. [C-2]
func (m *Machine) Attach(s Session) {
	if s.Window <= 0 || s.Window > m.cfg.Window {
		s.Window = m.cfg.Window
	}
	n := m.byConn[s.Conn]
	if n == nil {
		n = &session{maxBytes: m.cfg.MaxBytes}
		m.byConn[s.Conn] = n
	}
	n.Session, n.ready = s, false
	if s.Tag.IsZero() {
		return
	}
	if old := m.byTag[s.Tag]; old != nil && old != n {
		delete(m.byConn, old.Conn)
		for _, t := range old.vacate() {
			t.rcpt = n
			n.waiting = append(n.waiting, t)
		}
	}
	m.byTag[s.Tag] = n
}

// Ready opens the window after the CONNACK was written.
func (m *Machine) Ready(dst []Effect, c Conn) []Effect {
	s := m.byConn[c]
	if s == nil {
		return dst
	}
	s.ready = true
	return s.drain(dst)
}

// Detach ends a session: what it held and did not acknowledge is returned. [C-2]
func (m *Machine) Detach(dst []Effect, c Conn) []Effect {
	s := m.byConn[c]
	if s == nil {
		return dst
	}
	delete(m.byConn, c)
	delete(m.byTag, s.Tag)
	for _, t := range s.vacate() {
		dst = m.decide(dst, t, wire.NoRecipient)
	}
	return dst
}

// Withdraw ends deliveries to a connection that stays, because its user withdrew consent: what it
// held is returned, pushes are dropped, its tag is not found any more, and the packet ids in use
// stay reserved, so that a PUBACK still to come cannot acknowledge anything later. [C-2] [C-revoke]
func (m *Machine) Withdraw(dst []Effect, c Conn) []Effect {
	s := m.byConn[c]
	if s == nil {
		return dst
	}
	delete(m.byTag, s.Tag)
	s.Tag, s.ready = wire.Tag{}, false
	for _, t := range append(s.written(), s.waiting...) {
		dst = m.decide(dst, t, wire.NoRecipient)
	}
	return dst
}

// Publish takes an attempt on i/<tag> into custody. A resend of what is in flight only adds a
// waiter; if it was on its way to another broker and the session is here by now, it goes there.
// [C-1] [C-6]
func (m *Machine) Publish(dst []Effect, now time.Time, a Attempt) []Effect {
	s := m.byTag[a.Key.Topic.Tag]
	if t := m.attempts[a.Key]; t != nil {
		m.join(t, a.Waiter)
		if t.rcpt != nil || s == nil {
			return dst
		}
		delete(m.refs, t.ref)
		return m.give(dst, s, t)
	}
	t := m.accept(now, a)
	if s != nil {
		return m.give(dst, s, t)
	}
	if a.Waiter.Route != 0 { // another broker asked us, and the session has just left
		return m.decide(dst, t, wire.NoRecipient)
	}
	return append(dst, Effect{Kind: Forward, Ref: m.refer(t), Topic: a.Key.Topic, Sender: a.Key.Sender, Payload: a.Payload})
}

// Enqueue takes a sealed SMS job into custody: the sender is told when the queue has it. [C-4]
func (m *Machine) Enqueue(dst []Effect, now time.Time, a Attempt) []Effect {
	if t := m.attempts[a.Key]; t != nil {
		m.join(t, a.Waiter)
		return dst
	}
	t := m.accept(now, a)
	return append(dst, Effect{
		Kind: Enqueue, Ref: m.refer(t), Topic: a.Key.Topic, Sender: a.Key.Sender,
		Message: a.Key.Message, Payload: a.Payload,
	})
}

// Push is a message that nobody waits for: a hello, or the outcome of an SMS job.
type Push struct {
	Topic   wire.Topic
	Sender  wire.ID // zero: the broker itself
	Payload []byte
	Ref     uint64 // comes back in Pushed
}

// Push writes a message to a connection under the same window and packet ids as texts. It reports
// false, and nothing happens, when the connection is gone or too much waits for it. A push that is
// not acknowledged when the session ends is dropped without a word, unless a newer session of the
// same tag takes over.
func (m *Machine) Push(dst []Effect, c Conn, p Push) ([]Effect, bool) {
	s := m.byConn[c]
	if s == nil || len(s.waiting) >= m.cfg.MaxWaiting {
		return dst, false
	}
	t := m.take(&m.pushes)
	t.key.Topic, t.key.Sender, t.payload, t.push, t.ref = p.Topic, p.Sender, p.Payload, true, p.Ref
	return m.give(dst, s, t), true
}

// Resolve reports what became of a Forward or an Enqueue: OK is delivered or queued, anything
// else returned. A Ref that is not under way any more is ignored.
func (m *Machine) Resolve(dst []Effect, ref uint64, code wire.Code) []Effect {
	t := m.refs[ref]
	if t == nil {
		return dst
	}
	return m.decide(dst, t, code)
}

// Ack is the recipient's PUBACK. After the outcome it is counted, makes room in the window, and
// changes nothing else. [C-2]
func (m *Machine) Ack(dst []Effect, c Conn, pid uint16) []Effect {
	s := m.byConn[c]
	if s == nil {
		return dst
	}
	t := s.out[pid]
	if t == nil {
		return m.ackLate(dst, s, pid)
	}
	delete(s.out, pid)
	s.open--
	s.bytes -= t.size()
	t.rcpt, t.pid = nil, 0
	if t.push {
		dst = append(dst, Effect{Kind: Pushed, Conn: c, Ref: t.ref})
	}
	return s.drain(m.decide(dst, t, wire.OK))
}

func (m *Machine) ackLate(dst []Effect, s *session, pid uint16) []Effect {
	if !s.free(pid) {
		return dst
	}
	m.counts.Late++
	return s.drain(dst)
}

// Refuse is an MQTT 5 PUBACK with a reason of 0x80 or above: the recipient will not take what has
// this packet id. Its sender gets it back as unreadable, and the place in the window is free. [C-1]
func (m *Machine) Refuse(dst []Effect, c Conn, pid uint16) []Effect {
	s := m.byConn[c]
	if s == nil {
		return dst
	}
	if t := s.out[pid]; t != nil {
		dst = m.decide(dst, t, wire.Unreadable)
	}
	s.free(pid)
	return s.drain(dst)
}

// Unreadable is the recipient's word that it cannot open a text now in flight to this connection;
// for any other message it does nothing.
func (m *Machine) Unreadable(dst []Effect, c Conn, id wire.MessageID) []Effect {
	s := m.byConn[c]
	if s == nil {
		return dst
	}
	for _, t := range s.written() {
		if pid := t.pid; !t.push && t.key.Message == id {
			dst = m.decide(dst, t, wire.Unreadable)
			s.free(pid) // it has been read
			dst = s.drain(dst)
		}
	}
	return dst
}

// Expire returns every attempt whose deadline has passed. A job that the queue has not confirmed
// is [wire.Unavailable]: it may be stored all the same, and a resend of it is recognised. [C-2] [C-3]
func (m *Machine) Expire(dst []Effect, now time.Time) []Effect {
	for t := m.oldest(); t != nil && !t.deadline.After(now); t = m.oldest() {
		code := wire.NoRecipient
		if t.key.Topic.Kind == wire.TopicFallback {
			code = wire.Unavailable
		}
		dst = m.decide(dst, t, code)
	}
	return dst
}

// Revoke drops everything in flight from or to an ID, written or waiting; its attempts end as
// returned. After it no effect carries a payload from or to the ID until a new Publish, Enqueue or
// Push, which is for the adapter to refuse. [C-revoke]
func (m *Machine) Revoke(dst []Effect, id wire.ID) []Effect {
	for _, l := range [...]*list{&m.ours, &m.routed, &m.pushes} {
		for t := l.head; t != nil; {
			next := t.next
			if t.key.Sender == id {
				dst = m.decide(dst, t, wire.Revoked)
			} else if s := m.holder(t); s != nil && s.Owner == id {
				dst = m.decide(dst, t, wire.NoRecipient)
			}
			t = next
		}
	}
	return dst
}

// holder is the session a transfer is bound for, if it is here.
func (m *Machine) holder(t *transfer) *session {
	if t.rcpt != nil {
		return t.rcpt
	}
	return m.byTag[t.key.Topic.Tag]
}
