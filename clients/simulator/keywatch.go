package simulator

import (
	"encoding/binary"

	"bluejay/wire"
)

// keyWatch finds a key used twice from the packets alone: a MSG names its session, two bits of its
// epoch and its number in the clear, and two payloads that name the same place were sealed with one
// key. The same payload again is a resend. It keeps the newest epoch and the one before of each
// session: what comes of an older epoch is not judged. Of a payload it keeps 16 bits, so that one
// reuse in 65,535 looks like a resend. Zero value: nothing seen.
type keyWatch struct{ seen map[sessionName]*places }

// sessionName is where a session's messages go: the tag, and the addressee's name for it.
type sessionName struct {
	to  wire.Tag
	rid uint16
}

// places are what was sealed at each number, 0 for nothing.
type places struct {
	epoch           byte
	current, before []mark
}

// mark is what is kept of a payload; never 0.
type mark uint16

func markOf(id wire.MessageID) mark { return mark(binary.BigEndian.Uint16(id[:])%65535 + 1) }

// reused takes a MSG that is about to be published.
func (k *keyWatch) reused(to wire.Tag, msg []byte, id wire.MessageID) bool {
	epoch, n := msg[0]&3, binary.BigEndian.Uint16(msg[3:])
	name := sessionName{to, binary.BigEndian.Uint16(msg[1:])}
	if k.seen == nil {
		k.seen = map[sessionName]*places{}
	}
	p := k.seen[name]
	switch {
	case p == nil:
		p = &places{epoch: epoch}
		k.seen[name] = p
	case epoch == (p.epoch+1)&3 || epoch == (p.epoch+2)&3:
		p.before, p.current, p.epoch = p.current, nil, epoch
	}
	if epoch == p.epoch {
		return taken(&p.current, n, id)
	}
	return taken(&p.before, n, id)
}

// maxNumber is above every number that a session seals. [S-6]
const maxNumber = 128

// placeStep is by how many places a list grows: most sessions never seal more. There is a list for
// each pair of people and direction, so that a run whose lists doubled as they filled would grow for
// as long as it lasts.
const placeStep = 64

// taken notes what was sealed at a number, and reports whether something else was there.
func taken(place *[]mark, n uint16, id wire.MessageID) bool {
	if n >= maxNumber {
		return false
	}
	if int(n) >= len(*place) {
		grown := make([]mark, (int(n)/placeStep+1)*placeStep)
		copy(grown, *place)
		*place = grown
	}
	first, now := (*place)[n], markOf(id)
	if first == 0 {
		(*place)[n] = now
	}
	return first != 0 && first != now
}
