package custody

import (
	"cmp"
	"maps"
	"slices"
)

// session is a recipient's connection. Invariants: len(out) <= open <= Window; bytes is the size of
// the open messages; nothing waits while there is room for the first that waits; a packet id is in out or in lapsed or in neither, and is used for a new message
// only if in neither.
type session struct {
	Session
	ready    bool
	lastPID  uint16
	out      map[uint16]*transfer // written, no outcome yet
	lapsed   map[uint16]lapse     // decided before their PUBACK [C-2]
	open     int                  // messages written and not acknowledged, decided or not
	bytes    int                  // their size; one message goes whatever its size
	maxBytes int
	waiting  []*transfer
}

// lapse is a packet id that stays reserved: the size of its message until the late PUBACK, then -1.
type lapse int

const acknowledged lapse = -1

// maxWindow and maxLapsed bound the packet ids a session has in use and keeps reserved, so that
// there is always a free one. A session that let maxLapsed texts lapse is written to no more.
const (
	maxWindow = 1<<15 - 1
	maxLapsed = 1 << 15
)

func (s *session) room(t *transfer) bool {
	return s.ready && s.open < s.Window && len(s.lapsed) < maxLapsed && (s.bytes == 0 || s.bytes+t.size() <= s.maxBytes)
}

// size is about what t takes of a connection: its payload, topic and headers.
func (t *transfer) size() int { return len(t.payload) + 32 }

// drain fills the window from what waits. A transfer decided while it waited is not there. [C-3]
func (s *session) drain(dst []Effect) []Effect {
	for len(s.waiting) > 0 && s.room(s.waiting[0]) {
		t := s.waiting[0]
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		dst = append(dst, s.send(t))
	}
	if len(s.waiting) == 0 {
		s.waiting = nil
	}
	return dst
}

// send writes t under the next free packet id.
func (s *session) send(t *transfer) Effect {
	s.lastPID++
	for s.lastPID == 0 || s.reserved(s.lastPID) {
		s.lastPID++
	}
	if s.out == nil {
		s.out = map[uint16]*transfer{}
	}
	s.out[s.lastPID] = t
	s.open++
	s.bytes += t.size()
	t.rcpt, t.pid = s, s.lastPID
	return Effect{Kind: Deliver, Conn: s.Conn, PacketID: t.pid, Topic: t.key.Topic, Payload: t.payload}
}

func (s *session) reserved(pid uint16) bool {
	_, lapsed := s.lapsed[pid]
	return lapsed || s.out[pid] != nil
}

// leave takes t out of its session's queue, or out of its window: its packet id then stays
// reserved until the session ends. [C-2] [C-3]
func (t *transfer) leave() {
	s := t.rcpt
	switch {
	case s == nil:
		return
	case t.pid == 0:
		i := slices.Index(s.waiting, t)
		s.waiting = slices.Delete(s.waiting, i, i+1)
	default:
		delete(s.out, t.pid)
		if s.lapsed == nil {
			s.lapsed = map[uint16]lapse{}
		}
		s.lapsed[t.pid] = lapse(t.size())
	}
	t.rcpt, t.pid = nil, 0
}

// free gives the place of a decided message back, once; its packet id stays reserved.
func (s *session) free(pid uint16) bool {
	size, lapsed := s.lapsed[pid]
	if !lapsed || size == acknowledged {
		return false
	}
	s.lapsed[pid] = acknowledged
	s.open--
	s.bytes -= int(size)
	return true
}

// written lists what is in the window, in the order of sending: packet ids rise, and the one after
// the last assigned is the oldest.
func (s *session) written() []*transfer {
	ts := slices.Collect(maps.Values(s.out))
	slices.SortFunc(ts, func(a, b *transfer) int {
		return cmp.Compare(a.pid-s.lastPID-1, b.pid-s.lastPID-1)
	})
	return ts
}

// vacate takes everything without an outcome away from s, in the order it came.
func (s *session) vacate() []*transfer {
	left := append(s.written(), s.waiting...)
	for _, t := range left {
		t.rcpt, t.pid = nil, 0
	}
	s.out, s.lapsed, s.waiting = nil, nil, nil
	return left
}
