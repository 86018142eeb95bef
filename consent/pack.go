package consent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"bluejay/wire"
)

// The short stored form, version 2, leaves out what the store's key or another field says: the ID in each
// record, type bytes, the notice's hash when [Notices] lists it, and all of a time but its distance from
// the one before. Numbers are varints (those of encoding/binary):
//
//	2 | flags | gen | seq
//	certificate  device 32 | issued at u32 | hours u16 | kid | sig 64
//	record       scopes, and visibility in bit 7 | issued − certificate's | lifetime | notice | [seq − its own] | sig 64
//	receipt      received − issued | sig 64
//	revocation   cause | kid | issued − certificate's | seq − its own | sig 64
//	erased       the newest certificate's time u32
//	entries      which, a bit each | index | salt 16, for each
//
// A flag stands for a record whose seq is the state's. notice is its place in the list, from 1, or 0 and
// the hash. A lifetime in whole hours is 2h, one in seconds 2s + 1.
const packedVersion = 2

// lastSaid is a flag of the short form alone: the record has the state's seq.
const lastSaid = 1 << 6

// Pack returns what a store keeps of the state under id: the short form if that says everything, else
// [State.Marshal]'s. A state with certificate, record and receipt takes 242 bytes, less than a third of it
// not keys and signatures; its entry in the log 18 to 21 more. [H-9]
func (s State) Pack(id wire.ID) []byte {
	short := s.pack()
	if again, err := unpack(id, short); err == nil && bytes.Equal(again.Marshal(), s.Marshal()) {
		return short
	}
	return s.Marshal()
}

// Unpack reads what Pack wrote, in either form. Empty input is the zero State. [H-9]
func Unpack(id wire.ID, b []byte) (State, error) {
	if len(b) == 0 || b[0] != packedVersion {
		return ParseState(b)
	}
	s, err := unpack(id, b)
	if err != nil || !bytes.Equal(s.pack(), b) { // one state has one form
		return State{}, fmt.Errorf("consent: stored state: %w", wire.ErrMalformed)
	}
	return s, nil
}

// since is the time from which the others of a state are counted.
func (s State) since() int64 {
	if s.Cert == nil {
		return 0
	}
	return int64(s.Cert.IssuedAt)
}

func (s State) pack() []byte {
	b := []byte{packedVersion, holds[s.Held]}
	b = binary.AppendUvarint(b, uint64(s.Gen))
	b = binary.AppendUvarint(b, uint64(s.Seq))
	if c := s.Cert; c != nil {
		b[1] |= hasCert
		b = append(b, c.Device[:]...)
		b = binary.BigEndian.AppendUint32(b, c.IssuedAt)
		b = append(binary.BigEndian.AppendUint16(b, c.LifetimeHours), c.KID)
		b = append(b, c.Sig[:]...)
	}
	if s.Record != nil {
		b[1] |= hasRecord
		if s.Record.Seq == s.Seq {
			b[1] |= lastSaid
		}
		b = s.packRecord(b)
	}
	if o := s.Off; o != nil {
		b[1] |= hasOff
		b = binary.AppendVarint(append(b, byte(o.Cause), o.KID), int64(o.IssuedAt)-s.since())
		b = append(binary.AppendUvarint(b, uint64(s.Seq-o.Seq)), o.Sig[:]...)
	}
	if s.Erased != 0 {
		b[1] |= hasErased
		b = append(b, be32(s.Erased)...)
	}
	if s.Entries != (Entries{}) {
		b[1] |= hasEntries
		b = s.Entries.pack(b)
	}
	return b
}

func (all Entries) pack(b []byte) []byte {
	which := len(b)
	b = append(b, 0)
	for e, at := range all {
		if !at.IsZero() {
			b[which] |= 1 << e
			b = append(binary.AppendUvarint(b, at.Index), at.Salt[:]...)
		}
	}
	return b
}

func (s State) packRecord(b []byte) []byte {
	r := s.Record
	b = append(b, byte(r.Scopes)|byte(r.Visibility)<<7)
	b = binary.AppendVarint(b, int64(r.IssuedAt)-s.since())
	life := uint64(r.ExpiresAt - r.IssuedAt)
	if life%3600 == 0 {
		b = binary.AppendUvarint(b, life/3600<<1)
	} else {
		b = binary.AppendUvarint(b, life<<1|1)
	}
	b = append(b, noticePlace(r.Notice))
	if b[len(b)-1] == 0 {
		b = append(b, r.Notice[:]...)
	}
	if r.Seq != s.Seq {
		b = binary.AppendUvarint(b, uint64(s.Seq-r.Seq))
	}
	b = append(b, r.Sig[:]...)
	b = binary.AppendVarint(b, int64(s.Receipt.ReceivedAt)-int64(r.IssuedAt))
	return append(b, s.Receipt.Sig[:]...)
}

// noticePlace is a text's place in the list of all that were released, from 1; 0: it is not there.
func noticePlace(hash [16]byte) byte {
	for i, n := range notices[:min(len(notices), math.MaxUint8)] {
		if n.Hash == hash {
			return byte(i + 1)
		}
	}
	return 0
}

func unpack(id wire.ID, b []byte) (s State, err error) {
	if len(b) < 2 || !possible(b[1]&^lastSaid) || b[1]&(hasRecord|lastSaid) == lastSaid {
		return s, wire.ErrMalformed
	}
	flags, r := b[1], packed{b: b[2:]}
	s.Gen, s.Seq = r.u32(), r.u32()
	if flags&hasCert != 0 {
		c := wire.Certificate{ID: id}
		copy(c.Device[:], r.next(len(c.Device)))
		c.IssuedAt = binary.BigEndian.Uint32(r.next(4))
		c.LifetimeHours, c.KID = binary.BigEndian.Uint16(r.next(2)), r.next(1)[0]
		copy(c.Sig[:], r.next(len(c.Sig)))
		s.Cert = &c
	}
	if flags&hasRecord != 0 {
		s.Record, s.Receipt = r.record(id, s, flags&lastSaid != 0)
	}
	if flags&hasOff != 0 {
		o := wire.Revocation{ID: id, Cause: wire.Cause(r.next(1)[0]), KID: r.next(1)[0]}
		o.IssuedAt, o.Seq = r.after(s.since()), s.Seq-r.u32()
		copy(o.Sig[:], r.next(len(o.Sig)))
		r.bad = r.bad || o.Cause < wire.CauseStop || o.Cause > wire.CauseErasure
		s.Off = &o
	}
	if flags&hasErased != 0 {
		s.Erased = binary.BigEndian.Uint32(r.next(4))
	}
	if flags&hasEntries != 0 {
		s.Entries = r.entries(s)
	}
	for why, bit := range holds {
		if flags&bit != 0 {
			s.Held = why
		}
	}
	if r.bad || len(r.b) != 0 {
		return State{}, wire.ErrMalformed
	}
	return s, nil
}

func (p *packed) entries(s State) (all Entries) {
	which := p.next(1)[0]
	p.bad = p.bad || which == 0 || which >= 1<<events
	for e := range events {
		if which&(1<<e) == 0 {
			continue
		}
		all[e].Index = p.uvarint(math.MaxUint64)
		copy(all[e].Salt[:], p.next(len(all[e].Salt)))
		p.bad = p.bad || !s.has(e)
	}
	return all
}

func (p *packed) record(id wire.ID, s State, last bool) (*wire.Consent, wire.Receipt) {
	said := p.next(1)[0]
	r := wire.Consent{ID: id, Scopes: wire.Scope(said &^ 0x80), Visibility: wire.Visibility(said >> 7), IssuedAt: p.after(s.since())}
	if life := p.uvarint(math.MaxUint32<<1 | 1); life&1 == 0 {
		r.ExpiresAt = r.IssuedAt + uint32(life>>1*3600)
	} else {
		r.ExpiresAt = r.IssuedAt + uint32(life>>1)
	}
	switch place := int(p.next(1)[0]); {
	case place == 0:
		copy(r.Notice[:], p.next(len(r.Notice)))
	case place <= len(notices):
		r.Notice = notices[place-1].Hash
	default:
		p.bad = true
	}
	if r.Seq = s.Seq; !last {
		r.Seq -= p.u32()
	}
	copy(r.Sig[:], p.next(len(r.Sig)))
	receipt := wire.Receipt{ReceivedAt: p.after(int64(r.IssuedAt))}
	copy(receipt.Sig[:], p.next(len(receipt.Sig)))
	if _, err := wire.ParseConsent(r.Marshal()); err != nil {
		p.bad = true
	}
	return &r, receipt
}

// packed reads a short form; after the first error it returns zeros, and bad stays.
type packed struct {
	b   []byte
	bad bool
}

func (p *packed) next(n int) []byte {
	if len(p.b) < n {
		p.b, p.bad = nil, true
		return make([]byte, n)
	}
	v := p.b[:n]
	p.b = p.b[n:]
	return v
}

func (p *packed) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || v > most {
		p.b, p.bad = nil, true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *packed) u32() uint32 { return uint32(p.uvarint(math.MaxUint32)) }

// after reads a time that is counted from another.
func (p *packed) after(since int64) uint32 {
	v, n := binary.Varint(p.b)
	if at := since + v; n > 0 && v > -1<<33 && v < 1<<33 && at >= 0 && at <= math.MaxUint32 {
		p.b = p.b[n:]
		return uint32(at)
	}
	p.b, p.bad = nil, true
	return 0
}
