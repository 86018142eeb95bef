package envelope

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"bluejay/wire"
)

// Shape of a MSG: 0x80 | R<<2 | epoch&3 (1 byte) | rid u16 | n u16 | [ratchet key 32 if R] | AEAD(frame).
// [S-5]
const (
	typeMsg     = 0x80
	flagRatchet = 0x04
	msgHead     = 1 + 2 + 2

	// MsgOverhead is a MSG's size less its frame and, with R, less its 32-byte ratchet key, in bytes.
	MsgOverhead = msgHead + tagLen
)

// When a session moves on. A receiver reads longer than a sender writes, so that what was under way
// still opens. [S-6]
const (
	stepAfter     = 32 // frames, both directions together
	stepAge       = 24 * time.Hour
	maxWrite      = 96 // frames of one direction in one epoch
	maxWriteAge   = 48 * time.Hour
	maxRead       = 128
	maxReadAge    = 72 * time.Hour
	maxFrameCount = 2 * maxRead
)

// chain makes one key for each number of a direction of an epoch. [S-5]
type chain struct {
	key [32]byte
	n   uint16 // the next number
}

// step returns the key of number n: (ck, mk) = HKDF-Expand(ck, "bj1 step", 64).
func (c *chain) step() (mk [32]byte, err error) {
	out, err := hkdf.Expand(sha256.New, c.key[:], "bj1 step", 64)
	if err != nil {
		return mk, err
	}
	c.key, mk = [32]byte(out), [32]byte(out[32:])
	c.n++
	return mk, nil
}

// skippedKey is the key of a number that was overtaken.
type skippedKey struct {
	n   byte
	key [32]byte
}

// inbound is the receiving direction of one epoch.
type inbound struct {
	chain   chain
	began   uint32            // when this side entered the epoch, Unix seconds
	seen    [maxRead / 8]byte // bit n: number n was opened [S-7]
	skipped []skippedKey      // ascending by n; all below chain.n and not in seen; never changed in place
}

func (in *inbound) has(n uint16) bool { return in.seen[n/8]>>(n%8)&1 == 1 }

// unbroken is how many numbers from 0 on have been opened without a gap.
func (in *inbound) unbroken() (n uint16) {
	for n < maxRead && in.has(n) {
		n++
	}
	return n
}

// take returns the key of number n and marks n as opened, keeping the keys of the numbers it passes.
// Call it on a copy and drop that copy if the message does not open. [S-7]
func (in *inbound) take(n uint16) (key [32]byte, err error) {
	if n >= maxRead {
		return key, ErrUnreadable
	}
	if in.has(n) {
		return key, ErrDuplicate
	}
	in.seen[n/8] |= 1 << (n % 8)
	kept := make([]skippedKey, 0, len(in.skipped)+int(max(n, in.chain.n)-in.chain.n))
	for _, k := range in.skipped {
		if uint16(k.n) == n {
			key = k.key
			continue
		}
		kept = append(kept, k)
	}
	for in.chain.n <= n {
		at := in.chain.n
		if key, err = in.chain.step(); err != nil {
			return key, err
		}
		if at < n {
			kept = append(kept, skippedKey{byte(at), key})
		}
	}
	in.skipped = kept
	return key, nil
}

// advance enters the next epoch with the keys own and theirs as they are:
// prk = HKDF-Extract(salt = rk, ikm = DH); (rk, ck A to B, ck B to A) = HKDF-Expand(prk, "bj1 root", 96).
// [S-5]
func (s *Session) advance(now time.Time) error {
	shared, err := agree(&s.own, &s.theirs)
	if err != nil {
		return err
	}
	prk, err := extract(s.root[:], shared)
	if err != nil {
		return err
	}
	out, err := hkdf.Expand(sha256.New, prk[:], "bj1 root", 96)
	if err != nil {
		return err
	}
	s.root = [32]byte(out)
	fromA, fromB := chain{key: [32]byte(out[32:])}, chain{key: [32]byte(out[64:])}
	if !s.initiator {
		fromA, fromB = fromB, fromA
	}
	s.send = fromA
	s.recv[1], s.recv[0] = s.recv[0], inbound{chain: fromB, began: wire.Unix32(now)}
	s.epoch++
	s.count = 0
	return nil
}

// mayStep reports whether the next epoch is this side's to make: even ones are the initiator's. [S-6]
func (s *Session) mayStep() bool { return s.initiator == ((s.epoch+1)%2 == 0) }

// stepDue reports whether the epoch has been used for long enough. [S-6]
func (s *Session) stepDue(now time.Time) bool {
	return s.count >= stepAfter || age(s.recv[0].began, now) >= stepAge
}

// NeedsRenewal reports whether Seal would say [ErrRenew]: 48 hours or 96 frames into an epoch whose
// successor is the peer's to make. [S-6]
func (s *Session) NeedsRenewal(now time.Time) bool {
	worn := s.send.n >= maxWrite || age(s.recv[0].began, now) >= maxWriteAge
	return s.established && worn && !s.mayStep()
}

// Seal makes a MSG. Store Marshal before sending it, and to repeat it send the same bytes: position
// and key are then never used for anything else. Errors, none of which changes anything: [ErrPending],
// [ErrRenew], those of [Frame.Marshal]. [S-5] [S-6] [S-12]
func (s *Session) Seal(f Frame, now time.Time) ([]byte, Position, error) {
	frame, err := f.Marshal()
	switch {
	case err != nil:
		return nil, Position{}, err
	case !s.established:
		return nil, Position{}, ErrPending
	case s.NeedsRenewal(now):
		return nil, Position{}, ErrRenew
	}
	next := *s
	if next.mayStep() && next.stepDue(now) {
		if err := next.step(now); err != nil {
			return nil, Position{}, err
		}
	}
	pos := Position{next.epoch, next.send.n}
	key, err := next.send.step()
	if err != nil {
		return nil, Position{}, err
	}
	next.count++
	msg, err := aeadSeal(&key, next.head(pos.N), frame)
	if err != nil {
		return nil, Position{}, err
	}
	*s = next
	return msg, pos, nil
}

// step makes the next epoch with a fresh key, which every frame then carries until the peer is seen
// to have it. [S-6]
func (s *Session) step(now time.Time) (err error) {
	if s.own, s.ownPublic, err = newEphemeral(); err != nil {
		return err
	}
	s.announce = true
	return s.advance(now)
}

func (s *Session) head(n uint16) []byte {
	b := append(make([]byte, 0, msgHead+x25519Len), typeMsg|byte(s.epoch&3))
	b = binary.BigEndian.AppendUint16(b, s.peerRID)
	b = binary.BigEndian.AppendUint16(b, n)
	if s.announce {
		b[0] |= flagRatchet
		b = append(b, s.ownPublic[:]...)
	}
	return b
}

// parseMsg splits a MSG into what is authenticated and what is sealed.
func parseMsg(msg []byte) (head, ciphertext []byte, err error) {
	if len(msg) < msgHead || msg[0]&^(flagRatchet|3) != typeMsg {
		return nil, nil, errMsg
	}
	n := msgHead
	if msg[0]&flagRatchet != 0 {
		n += x25519Len
	}
	if len(msg) < n+frameBlock+tagLen || len(msg) > n+maxFrame+tagLen {
		return nil, nil, errMsg
	}
	return msg[:n], msg[n:], nil
}

var errMsg = fmt.Errorf("%w: not a MSG", wire.ErrMalformed)

// Open reads a MSG. [ErrDuplicate]: it was read before. The other errors ([wire.ErrMalformed],
// [ErrUnreadable], [ErrPending]) mean that this session cannot read it. None of them changes anything.
// What opens was sealed by the peer's device, or by someone who stole a state of this session since
// the last two epochs began. [S-5] [S-7] [S-8]
func (s *Session) Open(msg []byte, now time.Time) (Frame, Position, error) {
	head, ct, err := parseMsg(msg)
	switch {
	case err != nil:
		return Frame{}, Position{}, err
	case !s.established:
		return Frame{}, Position{}, ErrPending
	case binary.BigEndian.Uint16(head[1:]) != s.rid:
		return Frame{}, Position{}, ErrUnreadable
	}
	next := *s
	back, err := next.enter(head, now)
	if err != nil {
		return Frame{}, Position{}, err
	}
	pos := Position{next.epoch - uint32(back), binary.BigEndian.Uint16(head[3:])}
	key, err := next.recv[back].take(pos.N)
	if err != nil {
		return Frame{}, Position{}, err
	}
	plain, err := aeadOpen(&key, head, ct)
	if err != nil {
		return Frame{}, Position{}, err
	}
	f, err := ParseFrame(plain)
	if err != nil {
		return Frame{}, Position{}, err
	}
	next.opened(f, pos)
	*s = next
	return f, pos, nil
}

// enter finds the epoch of a head: 0 for the newest, 1 for the one before. It makes the next epoch if
// the head brings its key and it is the peer's to make. [S-6] [S-8]
func (s *Session) enter(head []byte, now time.Time) (back int, err error) {
	switch low := head[0] & 3; {
	case low == byte(s.epoch&3):
	case low == byte((s.epoch-1)&3) && s.epoch > 1:
		back = 1
	case low == byte((s.epoch+1)&3) && head[0]&flagRatchet != 0 && !s.mayStep():
		s.theirs = [32]byte(head[msgHead:])
		s.announce = false
		return 0, s.advance(now)
	default:
		return 0, ErrUnreadable
	}
	if age(s.recv[back].began, now) >= maxReadAge {
		return 0, ErrUnreadable
	}
	return back, nil
}

// opened notes that the frame at pos was opened.
func (s *Session) opened(f Frame, pos Position) {
	if pos.Epoch == s.epoch {
		s.announce = false // the peer is in the newest epoch too
		s.count++
	}
	s.learn(f, pos)
}

// learn takes over a tag update, unless a later one was opened before it.
func (s *Session) learn(f Frame, pos Position) {
	if f.Kind == KindTagUpdate && !s.tagAt.after(pos) {
		s.tag, s.tagAt = f.Tag, pos
	}
}
