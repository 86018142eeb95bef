package custody

import (
	"slices"
	"time"

	"bluejay/wire"
)

// transfer is an attempt in flight, or a push. Invariants: it is in exactly one list, and a text is
// in Machine.attempts, from acceptance to its outcome; rcpt is set exactly while a session holds
// it, in its window if pid is set, else in its queue.
type transfer struct {
	key      Key
	payload  []byte
	first    Waiter
	more     []Waiter
	rcpt     *session
	pid      uint16
	ref      uint64
	push     bool
	deadline time.Time
	list     *list
	prev     *transfer
	next     *transfer
}

// list holds transfers in the order they came. Zero value: empty.
type list struct{ head, tail *transfer }

func (l *list) add(t *transfer) {
	t.list, t.prev = l, l.tail
	if l.tail != nil {
		l.tail.next = t
	} else {
		l.head = t
	}
	l.tail = t
}

func (l *list) remove(t *transfer) {
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		l.head = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.tail = t.prev
	}
	t.list, t.prev, t.next = nil, nil, nil
}

// oldest is the attempt that is due first.
func (m *Machine) oldest() *transfer {
	a, b := m.ours.head, m.routed.head
	if a == nil || b != nil && b.deadline.Before(a.deadline) {
		return b
	}
	return a
}

// join adds a waiter to an attempt in flight; a second copy on one packet id is one waiter.
func (m *Machine) join(t *transfer, w Waiter) {
	m.counts.Joined++
	if t.first != w && !slices.Contains(t.more, w) {
		t.more = append(t.more, w)
	}
}

func (m *Machine) accept(now time.Time, a Attempt) *transfer {
	l := &m.ours
	if a.Waiter.Route != 0 {
		l = &m.routed
	}
	t := m.take(l)
	t.key, t.first, t.payload = a.Key, a.Waiter, a.Payload
	t.deadline = m.cfg.deadline(now, a.Waiter)
	m.attempts[a.Key] = t
	m.counts.Accepted++
	m.counts.InFlight++
	return t
}

func (m *Machine) refer(t *transfer) uint64 {
	m.lastRef++
	t.ref = m.lastRef
	m.refs[t.ref] = t
	return t.ref
}

// give writes t to s, or lets it wait for the window; a recipient for whom too much waits already
// is not reachable.
func (m *Machine) give(dst []Effect, s *session, t *transfer) []Effect {
	if len(s.waiting) == 0 && s.room(t) {
		return append(dst, s.send(t))
	}
	if len(s.waiting) >= m.cfg.MaxWaiting {
		return m.decide(dst, t, wire.NoRecipient)
	}
	t.rcpt = s
	s.waiting = append(s.waiting, t)
	return dst
}

// decide ends a transfer with its one outcome: it leaves the window or the queue first, then every
// waiter is told. Nobody waits for a push. [C-1] [C-3] [C-7]
func (m *Machine) decide(dst []Effect, t *transfer, code wire.Code) []Effect {
	t.leave()
	t.list.remove(t)
	if !t.push {
		delete(m.attempts, t.key)
		delete(m.refs, t.ref)
		m.count(t, code)
		dst = t.tell(dst, t.first, code)
		for _, w := range t.more {
			dst = t.tell(dst, w, code)
		}
	}
	*t = transfer{next: m.free}
	m.free = t
	return dst
}

func (m *Machine) count(t *transfer, code wire.Code) {
	m.counts.InFlight--
	switch {
	case code != wire.OK:
		m.counts.Returned++
	case t.key.Topic.Kind == wire.TopicFallback:
		m.counts.Queued++
	default:
		m.counts.Delivered++
	}
}

func (t *transfer) tell(dst []Effect, w Waiter, code wire.Code) []Effect {
	if w.Route != 0 {
		return append(dst, Effect{Kind: Reply, Ref: w.Route, Code: code})
	}
	return append(dst, Effect{Kind: Tell, Conn: w.Conn, PacketID: w.PacketID, Code: code, Message: t.key.Message})
}

// take returns an empty transfer in a list; decided ones are used again, so that the hot path does
// not allocate.
func (m *Machine) take(l *list) *transfer {
	t := m.free
	if t == nil {
		t = &transfer{}
	} else {
		m.free, t.next = t.next, nil
	}
	l.add(t)
	return t
}
