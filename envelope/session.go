package envelope

import (
	"encoding/binary"
	"fmt"
	"time"

	"bluejay/wire"
)

// Position is where a frame stands in one direction of a session. Zero value: the frame of an INIT,
// before the first epoch. [S-5]
type Position struct {
	Epoch uint32
	N     uint16
}

// after reports whether p is later than q.
func (p Position) after(q Position) bool {
	return p.Epoch > q.Epoch || p.Epoch == q.Epoch && p.N > q.N
}

// Session is one side of a conversation between two handsets. It never prints, and it is not for use
// by two goroutines at once. Zero value: no session; make one with [Initiate] or [Offer.Respond].
type Session struct {
	hidden
	initiator   bool
	established bool // false: an initiator waiting for its RESP
	announce    bool // this side made the epoch, and no frame of it has come back yet
	rid         uint16
	peerRID     uint16
	peer        wire.ID
	device      wire.PublicKey
	tag         wire.Tag
	tagAt       Position // of the frame that brought tag
	th          [4]byte

	epoch     uint32 // 0 until established
	count     uint16 // frames sealed and opened in this epoch
	root      [32]byte
	own       [32]byte // X25519 private
	ownPublic [32]byte
	theirs    [32]byte // X25519 public
	send      chain
	recv      [2]inbound // of this epoch and the one before
}

// Peer is the ID the peer's certificate names.
func (s *Session) Peer() wire.ID { return s.peer }

// PeerDevice is the peer's device key; another one under the same ID is a changed device.
func (s *Session) PeerDevice() wire.PublicKey { return s.device }

// PeerTag is the peer's inbox: zero until established. Tag updates that open change it, in the order
// the peer sealed them.
func (s *Session) PeerTag() wire.Tag { return s.tag }

// SetPeerTag sets what [Session.PeerTag] returns, when it was learnt through another session.
func (s *Session) SetPeerTag(t wire.Tag) { s.tag = t }

// RID is this side's name for the session: messages to this side carry it.
func (s *Session) RID() uint16 { return s.rid }

// Established reports whether MSG can be sealed and opened.
func (s *Session) Established() bool { return s.established }

// Initiator reports whether this side sent the INIT.
func (s *Session) Initiator() bool { return s.initiator }

// TH names the session to both sides for texts sealed again. [S-11]
func (s *Session) TH() [4]byte { return s.th }

// Acked is what to put in the next frame: (epoch&3)<<14 | n, where every frame of the epoch up to
// number n has been opened, for the newest epoch with any; [NoAck] for none. It says nothing about
// earlier epochs. Store texts together with the session, or it promises too much. [S-10]
func (s *Session) Acked() uint16 {
	for i := range s.recv {
		if n := s.recv[i].unbroken(); n > 0 {
			return uint16((s.epoch-uint32(i))&3)<<14 | (n - 1)
		}
	}
	return NoAck
}

// Confirms reports whether a frame with this Acked, just opened, says that the peer has stored what
// this side sealed at p. [S-10]
func (s *Session) Confirms(acked uint16, p Position) bool {
	if acked == NoAck || p.Epoch == 0 || p.N > acked&0x3fff {
		return false
	}
	return p.Epoch == s.epoch-(s.epoch-uint32(acked>>14))&3
}

// MayRepeat reports whether the bytes sealed at p may still be sent again. A MSG carries two bits of
// its epoch: four epochs on it could be taken for another, and acknowledged as received when it was
// not. Two epochs on the peer cannot open it anyway: seal the text again. [S-11]
func (s *Session) MayRepeat(p Position) bool { return s.epoch-p.Epoch <= 2 }

// Preferred is the session to send in when two were begun at once: the one begun by the smaller ID,
// bytewise. self is this side's ID; the other session stays for receiving. [S-9]
func Preferred(self wire.ID, a, b *Session) *Session {
	if a.begunBy(self).Compare(b.begunBy(self)) <= 0 {
		return a
	}
	return b
}

func (s *Session) begunBy(self wire.ID) wire.ID {
	if s.initiator {
		return self
	}
	return s.peer
}

// MessageKind is which of the three messages a payload is.
type MessageKind byte

// The messages between two handsets: INIT on h, RESP and MSG on i.
const (
	KindInit MessageKind = 1
	KindResp MessageKind = 2
	KindMsg  MessageKind = 3
)

// Peek tells what a payload is and for which session of the addressee: its rid for RESP and MSG, the
// prekey id for INIT. It proves nothing: anyone can write these bytes. [S-5]
func Peek(msg []byte) (kind MessageKind, rid uint16, err error) {
	switch {
	case len(msg) >= InitOverhead+frameBlock && msg[0] == typeInit:
		kind = KindInit
	case len(msg) >= RespOverhead+frameBlock && msg[0] == typeResp:
		kind = KindResp
	case len(msg) >= MsgOverhead+frameBlock && msg[0]&^(flagRatchet|3) == typeMsg:
		kind = KindMsg
	default:
		return 0, 0, fmt.Errorf("%w: not a message between handsets", wire.ErrMalformed)
	}
	return kind, binary.BigEndian.Uint16(msg[1:]), nil
}

// age is how long ago this side entered an epoch; a clock that was set back makes it 0.
func age(began uint32, now time.Time) time.Duration {
	return max(0, now.Sub(wire.Time32(began)))
}
