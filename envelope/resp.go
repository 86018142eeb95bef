package envelope

import (
	"encoding/binary"
	"fmt"
	"time"

	"bluejay/wire"
)

// Shape of a RESP: 0x02 | rid of A u16 | ephemeral 32 | AEAD(rid of B u16 | tag of B 9 | frame). [S-4]
const (
	typeResp  = 0x02
	respHead  = 1 + 2 + x25519Len
	respInner = 2 + 9

	// RespOverhead is a RESP's size less its frame, in bytes.
	RespOverhead = respHead + respInner + tagLen
)

// respPosition is where the frame of a RESP stands: number 0 of epoch 1, from the responder. [S-4]
var respPosition = Position{Epoch: 1, N: 0}

// Respond accepts the offer: it begins epoch 1 and seals f into the RESP. Store the session's Marshal,
// the RESP bytes and EncHash before sending them. [S-4]
func (o *Offer) Respond(_ Identity, tag wire.Tag, rid uint16, f Frame, now time.Time) (*Session, []byte, error) {
	frame, err := f.Marshal()
	if err != nil {
		return nil, nil, err
	}
	s := &Session{
		established: true, rid: rid, peerRID: o.peerRID, th: o.th, root: o.root, theirs: o.theirs,
		peer: o.Cert.ID, device: o.Cert.Device, tag: o.Tag,
	}
	if s.own, s.ownPublic, err = newEphemeral(); err != nil {
		return nil, nil, err
	}
	if err := s.advance(now); err != nil {
		return nil, nil, err
	}
	key, err := s.send.step()
	if err != nil {
		return nil, nil, err
	}
	s.count++
	head := binary.BigEndian.AppendUint16([]byte{typeResp}, s.peerRID)
	body := append(binary.BigEndian.AppendUint16(nil, rid), tag[:]...)
	resp, err := aeadSeal(&key, append(head, s.ownPublic[:]...), append(body, frame...))
	if err != nil {
		return nil, nil, err
	}
	return s, resp, nil
}

// OpenResp establishes the session that [Initiate] began and returns the frame in the RESP. After
// that, [ErrDuplicate]: the RESP came again. Its other errors change nothing. What opens proves that
// the sender had the secret of the bundle's prekey; its position is epoch 1, number 0. [S-4]
func (s *Session) OpenResp(msg []byte, now time.Time) (Frame, error) {
	switch {
	case len(msg) < RespOverhead+frameBlock || len(msg) > RespOverhead+maxFrame || msg[0] != typeResp:
		return Frame{}, fmt.Errorf("%w: not a RESP", wire.ErrMalformed)
	case !s.initiator || binary.BigEndian.Uint16(msg[1:]) != s.rid:
		return Frame{}, ErrUnreadable
	case s.established:
		return Frame{}, ErrDuplicate
	}
	next := *s
	next.theirs = [32]byte(msg[3:])
	if err := next.advance(now); err != nil {
		return Frame{}, err
	}
	key, err := next.recv[0].take(0)
	if err != nil {
		return Frame{}, err
	}
	inner, err := aeadOpen(&key, msg[:respHead], msg[respHead:])
	if err != nil {
		return Frame{}, err
	}
	f, err := ParseFrame(inner[respInner:])
	if err != nil {
		return Frame{}, err
	}
	next.established, next.count = true, 1
	next.peerRID, next.tag, next.tagAt = binary.BigEndian.Uint16(inner), wire.Tag(inner[2:respInner]), respPosition
	next.learn(f, respPosition)
	*s = next
	return f, nil
}
