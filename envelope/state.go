package envelope

import (
	"encoding/binary"
	"fmt"

	"bluejay/wire"
)

// Layout of a stored session: version 1 | flags 1 | rid u16 | peer rid u16 | peer 12 | device 32 | tag 9 |
// tag's position 6 | th 4 | epoch u32 | count u16 | root 32 | own 32 | own public 32 | theirs 32 | chain 34 |
// two inbound directions, each: chain 34 | began u32 | seen 16 | skipped 1 | as many times (n 1 | key 32).
const (
	sessionVersion = 1

	flagInitiator   = 1
	flagEstablished = 2
	flagAnnounce    = 4

	sessionHead = 1 + 1 + 2 + 2 + 12 + 32 + 9 + 6 + 4 + 4 + 2 + 4*32 + 34
	inboundHead = 34 + 4 + maxRead/8 + 1
	skippedLen  = 1 + 32

	// MinSession and MaxSession bound the size of a stored session, in bytes; without messages
	// under way it has the smaller one.
	MinSession = sessionHead + 2*inboundHead
	MaxSession = MinSession + 2*(maxRead-1)*skippedLen
)

var errSession = fmt.Errorf("%w: not a session", wire.ErrMalformed)

// Marshal returns the secret state for the handset's store, 347 bytes and 33 for each message that was
// overtaken. To load an older state after a newer one has been used is to use keys twice. [S-12]
func (s *Session) Marshal() []byte {
	b := make([]byte, 0, MinSession+skippedLen*(len(s.recv[0].skipped)+len(s.recv[1].skipped)))
	b = append(b, sessionVersion, s.flags())
	b = binary.BigEndian.AppendUint16(b, s.rid)
	b = binary.BigEndian.AppendUint16(b, s.peerRID)
	b = append(append(append(b, s.peer[:]...), s.device[:]...), s.tag[:]...)
	b = binary.BigEndian.AppendUint32(b, s.tagAt.Epoch)
	b = binary.BigEndian.AppendUint16(b, s.tagAt.N)
	b = append(b, s.th[:]...)
	b = binary.BigEndian.AppendUint32(b, s.epoch)
	b = binary.BigEndian.AppendUint16(b, s.count)
	b = append(append(b, s.root[:]...), s.own[:]...)
	b = append(append(b, s.ownPublic[:]...), s.theirs[:]...)
	b = s.send.append(b)
	return s.recv[1].append(s.recv[0].append(b))
}

func (s *Session) flags() (f byte) {
	if s.initiator {
		f |= flagInitiator
	}
	if s.established {
		f |= flagEstablished
	}
	if s.announce {
		f |= flagAnnounce
	}
	return f
}

func (c *chain) append(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(b, c.key[:]...), c.n)
}

func (in *inbound) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(in.chain.append(b), in.began)
	b = append(append(b, in.seen[:]...), byte(len(in.skipped)))
	for _, k := range in.skipped {
		b = append(append(b, k.n), k.key[:]...)
	}
	return b
}

// ParseSession reads what [Session.Marshal] wrote, and only that: a state it could not have written is
// [wire.ErrMalformed]. It cannot tell an old state from the newest.
func ParseSession(b []byte) (*Session, error) {
	if len(b) < MinSession || len(b) > MaxSession || b[0] != sessionVersion || b[1] > flagInitiator|flagEstablished|flagAnnounce {
		return nil, errSession
	}
	r := reader{b[2:]}
	s := &Session{
		initiator: b[1]&flagInitiator != 0, established: b[1]&flagEstablished != 0, announce: b[1]&flagAnnounce != 0,
		rid: r.u16(), peerRID: r.u16(), peer: wire.ID(r.next(12)), device: wire.PublicKey(r.next(32)),
		tag: wire.Tag(r.next(9)), tagAt: Position{r.u32(), r.u16()}, th: [4]byte(r.next(4)),
		epoch: r.u32(), count: r.u16(), root: r.key(), own: r.key(), ownPublic: r.key(), theirs: r.key(), send: r.chain(),
	}
	for i := range s.recv {
		if !r.inbound(&s.recv[i]) {
			return nil, errSession
		}
	}
	if len(r.b) != 0 || !s.consistent() {
		return nil, errSession
	}
	return s, nil
}

// consistent reports whether the parts of a stored session can belong together.
func (s *Session) consistent() bool {
	switch {
	case s.established != (s.epoch > 0) || !s.established && !s.initiator:
		return false
	case s.send.n > maxRead || s.count > maxFrameCount:
		return false
	case s.announce && s.mayStep():
		return false
	}
	return true
}

// reader takes a buffer apart; the caller has made sure of the length.
type reader struct{ b []byte }

func (r *reader) next(n int) []byte {
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.next(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.next(4)) }
func (r *reader) key() [32]byte { return [32]byte(r.next(32)) }
func (r *reader) chain() chain  { return chain{r.key(), r.u16()} }

// inbound reads one receiving direction; false: too short, or not as it is written.
func (r *reader) inbound(in *inbound) bool {
	if len(r.b) < inboundHead {
		return false
	}
	in.chain, in.began = r.chain(), r.u32()
	copy(in.seen[:], r.next(len(in.seen)))
	count := int(r.next(1)[0])
	if in.chain.n > maxRead || count >= maxRead || len(r.b) < count*skippedLen {
		return false
	}
	for range count {
		in.skipped = append(in.skipped, skippedKey{r.next(1)[0], r.key()})
	}
	return in.consistent()
}

// consistent reports whether every number below chain.n is either opened or skipped, and none above.
func (in *inbound) consistent() bool {
	rest := in.skipped
	for n := range uint16(maxRead) {
		skipped := len(rest) > 0 && uint16(rest[0].n) == n
		if skipped {
			rest = rest[1:]
		}
		passed := n < in.chain.n
		if passed != (skipped || in.has(n)) || skipped && in.has(n) {
			return false
		}
	}
	return len(rest) == 0
}
