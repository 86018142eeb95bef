package custody

import (
	"bytes"
	"testing"
	"time"

	"bluejay/wire"
)

// A pair is a sender and a ready recipient on one Machine.
type pair struct {
	m   *Machine
	dst []Effect
	now time.Time
	a   Attempt
}

const (
	sending   Conn = 1
	receiving Conn = 2
)

func newPair(cfg Config) *pair {
	p := &pair{m: New(cfg), now: time.Unix(1e9, 0)}
	tag := wire.Tag{1}
	p.m.Attach(Session{Conn: receiving, Owner: wire.ID{2}, Tag: tag})
	p.m.Ready(nil, receiving)
	p.a = Attempt{Key: Key{Sender: wire.ID{1}, Topic: wire.Topic{Kind: wire.TopicInbox, Tag: tag}}, Payload: make([]byte, 80)}
	return p
}

// publish sends a new text and returns its effects.
func (p *pair) publish(i int) []Effect {
	p.a.Key.Message = wire.MessageID{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}
	p.a.Waiter = Waiter{Conn: sending, PacketID: uint16(i)}
	p.dst = p.m.Publish(p.dst[:0], p.now, p.a)
	return p.dst
}

func (p *pair) ack(pid uint16) []Effect {
	p.dst = p.m.Ack(p.dst[:0], receiving, pid)
	return p.dst
}

// TestPacketIDsWrap shows that 65,535 is followed by 1, and that an id reserved by [C-2] is left
// out each time.
func TestPacketIDsWrap(t *testing.T) {
	p := newPair(Config{})
	lapsed := p.publish(0)[0].PacketID
	p.now = p.now.Add(time.Hour)
	p.m.Expire(nil, p.now)
	last := lapsed
	for i := range 140_000 {
		e := p.publish(i)
		want := last + 1
		for want == 0 || want == lapsed {
			want++
		}
		if len(e) != 1 || e[0].Kind != Deliver || e[0].PacketID != want {
			t.Fatalf("text %d: %+v, want packet id %d", i, e, want)
		}
		last = want
		if e := p.ack(want); len(e) != 1 || e[0].Code != wire.OK {
			t.Fatalf("text %d: %+v after its PUBACK", i, e)
		}
	}
}

// TestOrderAcrossWrap shows that a takeover hands over in the order of sending. [C-2]
func TestOrderAcrossWrap(t *testing.T) {
	p := newPair(Config{})
	for i := range 65_530 {
		p.ack(p.publish(i)[0].PacketID)
	}
	for i := range 20 {
		p.publish(i)
	}
	p.m.Attach(Session{Conn: 3, Tag: p.a.Key.Topic.Tag})
	p.m.Ready(nil, 3)
	for i := range 20 {
		e := p.m.Ack(nil, 3, uint16(i+1))
		if len(e) != 1 || e[0].PacketID != uint16(i) {
			t.Fatalf("packet id %d of the new session: %+v, want text %d told", i+1, e, i)
		}
	}
}

// TestReservedIDsAreBounded shows that a recipient that lets every text lapse runs into a bound,
// not into a search for a free packet id. [C-2]
func TestReservedIDsAreBounded(t *testing.T) {
	p := newPair(Config{Window: 1 << 20})
	for i := range maxLapsed {
		e := p.publish(i)
		if len(e) != 1 || e[0].Kind != Deliver {
			t.Fatalf("text %d: %+v", i, e)
		}
		p.now = p.now.Add(time.Minute)
		p.m.Expire(nil, p.now)
		p.ack(e[0].PacketID)
	}
	if e := p.publish(maxLapsed); len(e) != 0 {
		t.Errorf("a text after %d lapsed: %+v, want it to wait", maxLapsed, e)
	}
	if got := p.m.Counts(); got.Late != maxLapsed || got.InFlight != 1 {
		t.Errorf("counts %+v", got)
	}
}

// TestWindowIsBounded shows that no configuration leaves a session without a free packet id.
func TestWindowIsBounded(t *testing.T) {
	p, written := newPair(Config{Window: 1 << 20, MaxBytes: 1 << 30}), 0
	for i := range maxWindow + 1000 {
		written += len(p.publish(i)) // Deliver while there is room; then they wait, and too many are told
		if got := int(p.m.Counts().Returned); got != 0 {
			break
		}
	}
	if written != maxWindow+1 { // and the one that was told
		t.Errorf("%d effects, want %d written and one told", written, maxWindow)
	}
}

// TestUnknownConnections shows that events of connections that are gone do nothing. [C-5]
func TestUnknownConnections(t *testing.T) {
	p := newPair(Config{})
	p.publish(1)
	var effects []Effect
	effects = p.m.Ready(effects, 9)
	effects = p.m.Ack(effects, 9, 1)
	effects = p.m.Unreadable(effects, 9, p.a.Key.Message)
	effects = p.m.Detach(effects, 9)
	if len(effects) != 0 {
		t.Errorf("effects %+v", effects)
	}
	if _, ok := p.m.Next(); !ok {
		t.Error("the text in flight has no deadline")
	}
}

// TestDefaults pins the figures of [C-2].
func TestDefaults(t *testing.T) {
	p := newPair(Config{})
	p.publish(0)
	if at, ok := p.m.Next(); !ok || at.Sub(p.now) != 8*time.Second {
		t.Errorf("due at %v, %v; want 8 s after %v", at, ok, p.now)
	}
	for i := range 32 + 256 + 1 {
		p.publish(i + 1)
	}
	if got := p.m.Counts(); got.Returned != 2 || got.InFlight != 32+256 {
		t.Errorf("counts %+v, want 32 written, 256 waiting, 2 returned", got)
	}
}

// BenchmarkPublishAck is the whole life of a text: publish, deliver, PUBACK, told.
func BenchmarkPublishAck(b *testing.B) {
	p := newPair(Config{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		pid := p.publish(i)[0].PacketID
		if e := p.ack(pid); len(e) != 1 || e[0].Kind != Tell {
			b.Fatalf("effects %+v", e)
		}
	}
}

// BenchmarkPublishAckCrowd is the same with 5,000 recipients and eight texts in flight for each.
func BenchmarkPublishAckCrowd(b *testing.B) {
	m, a, now := crowd()
	var dst []Effect
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		conn := i % crowdSize
		dst = m.Ack(dst[:0], Conn(conn+1), uint16(i/crowdSize+1))
		dst = publishTo(m, dst, a, now, conn, crowdEach+i/crowdSize)
		if len(dst) != 2 {
			b.Fatalf("effects %+v", dst)
		}
	}
}

// BenchmarkRevoke withdraws one ID among 5,000 sessions with 40,000 texts in flight. [C-revoke]
func BenchmarkRevoke(b *testing.B) {
	m, a, now := crowd()
	var dst []Effect
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		dst = m.Revoke(dst[:0], wire.ID{1, byte(i % crowdSize), byte(i % crowdSize >> 8)})
		b.StopTimer()
		conn := Conn(i%crowdSize + 1)
		m.Detach(nil, conn)
		join(m, int(conn)-1)
		for k := range crowdEach {
			dst = publishTo(m, dst, a, now, i%crowdSize, k)
		}
		b.StartTimer()
	}
}

const crowdSize, crowdEach = 5_000, 8

func crowd() (*Machine, Attempt, time.Time) {
	m, now := New(Config{}), time.Unix(1e9, 0)
	a := Attempt{Payload: make([]byte, 80)}
	var dst []Effect
	for i := range crowdSize {
		join(m, i)
	}
	for i := range crowdSize * crowdEach {
		dst = publishTo(m, dst[:0], a, now, i%crowdSize, i/crowdSize)
	}
	return m, a, now
}

func join(m *Machine, i int) {
	m.Attach(Session{Conn: Conn(i + 1), Owner: wire.ID{1, byte(i), byte(i >> 8)}, Tag: wire.Tag{1, byte(i), byte(i >> 8)}})
	m.Ready(nil, Conn(i+1))
}

func publishTo(m *Machine, dst []Effect, a Attempt, now time.Time, i, k int) []Effect {
	a.Key = Key{
		Sender:  wire.ID{2, byte(k)},
		Topic:   wire.Topic{Kind: wire.TopicInbox, Tag: wire.Tag{1, byte(i), byte(i >> 8)}},
		Message: wire.MessageID{byte(k), byte(k >> 8), byte(k >> 16)},
	}
	a.Waiter = Waiter{Conn: sending, PacketID: uint16(k)}
	return m.Publish(dst, now, a)
}

// TestWindowInBytes shows that long texts wait for each other's PUBACK, in order, and that one goes
// whatever its size.
func TestWindowInBytes(t *testing.T) {
	p := newPair(Config{MaxBytes: 1100})
	long := func(i int) []Effect {
		a := p.a
		a.Payload = bytes.Repeat([]byte{byte(i)}, 900)
		a.Key.Message, a.Waiter.PacketID = wire.MessageIDOf(a.Payload), uint16(i)
		return p.m.Publish(nil, p.now, a)
	}
	first := long(1)
	if len(first) != 1 || len(long(2)) != 0 || len(p.publish(3)) != 0 {
		t.Fatal("the second long text, and a short one after it, must wait")
	}
	e := p.ack(first[0].PacketID)
	if len(e) != 3 || e[1].Kind != Deliver || len(e[1].Payload) != 900 || e[2].Kind != Deliver {
		t.Errorf("%d effects after the first PUBACK, want it told and both written", len(e))
	}
}

// TestUnreadableFreesItsPlace shows that texts that a recipient cannot open do not use its window
// up: after more of them than the window holds, a good one is written. [C-1]
func TestUnreadableFreesItsPlace(t *testing.T) {
	p := newPair(Config{Window: 4})
	for i := range 40 {
		e := p.publish(i)
		if len(e) != 1 || e[0].Kind != Deliver {
			t.Fatalf("text %d: %+v", i, e)
		}
		if e = p.m.Unreadable(nil, receiving, p.a.Key.Message); len(e) != 1 || e[0].Code != wire.Unreadable {
			t.Fatalf("unreadable %d: %+v", i, e)
		}
	}
}
