package hooks

import (
	"bufio"
	"crypto/ed25519"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// benchNode is a node with two sessions whose bytes go nowhere, and the packets of one text between
// them: as the sender publishes it and as the recipient acknowledges it.
func benchNode(b *testing.B) (n *Node, from, to *session, text []byte) {
	b.Helper()
	_, receipt, _ := ed25519.GenerateKey(nil)
	n, err := New(Config{Name: "bench", TagKey: make([]byte, 32), Receipt: receipt, Store: &shelf{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = n.Close(b.Context()) })
	join := func(id wire.ID) *session {
		c := newQueuedConn(sink{}, &connConfig{maxPending: 1 << 20, writeTimeout: time.Second, counters: new(counters)})
		p := packet{headConnect, connect(4, 0x82, lp(""), lp(wire.Protocol))}
		pk, err := p.decode(4)
		if err != nil {
			b.Fatal(err)
		}
		s := n.newSession(c, pk)
		s.self = consent.Self{ID: id, Tag: wire.MakeTag(n.cfg.TagKey, id, 0)}
		s.access.Store(consent.Access{Enrolled: true, Scopes: wire.ScopeMessaging}.Pack())
		if !n.register(s, 0, false) || !n.establish(s) {
			b.Fatal("not established")
		}
		b.Cleanup(func() { n.detach(s) })
		return s
	}
	from, to = join(wire.ID{1}), join(wire.ID{2})
	body := cat(lp(wire.Topic{Kind: wire.TopicInbox, Tag: to.self.Tag}.String()), 0, 1, filler[:53])
	return n, from, to, wirePacket(0x32, body)
}

// BenchmarkPublishDeliverAck is the node's whole work for one text of 30 characters: the sender's
// PUBLISH, custody, the recipient's copy queued, its PUBACK, the sender's PUBACK queued. The writes go
// to a sink, so no system call is in it; flushers run as they do in life, one goroutine per burst.
//
// "node" begins with a decoded packet, and allocates nothing: the bytes it reports are queues that
// grow because the benchmark is faster than the flushers.
//
// "packets" begins with bytes. Seven allocations: the body of the PUBLISH (the payload stays in it
// and is not copied until it is queued), the PUBACK's of two bytes, and five in mochi: processPublish
// and Hooks.OnPublish, which moves its packets.Packet of some 900 bytes to the heap, and the hook's
// deferred recover. checkPacket and the decoders allocate nothing.
func BenchmarkPublishDeliverAck(b *testing.B) {
	b.Run("node", func(b *testing.B) {
		n, from, to, text := benchNode(b)
		p, _ := readPacket(bufio.NewReader(&again{b: text}), maxBody)
		pk, err := p.decode(4)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			n.publish(from, incoming{pk.TopicName, pk.FixedHeader.Qos, uint16(i%60000 + 1), pk.Payload})
			n.ack(to, uint16(i%65535+1), 0)
		}
		delivered(b, n)
	})
	inCrowds(b, "packets", func(b *testing.B, crowd int) {
		n, from, to, text := benchNode(b)
		others := &hall{B: b, n: n, conns: newConns()}
		others.crowd(crowd)
		ack := wirePacket(headPuback, []byte{0, 0})
		publishes := bufio.NewReaderSize(&again{b: text}, readBuffer)
		acking := &again{b: ack}
		acks := bufio.NewReaderSize(acking, len(ack))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			binary.BigEndian.PutUint16(ack[2:], uint16(i%65535+1))
			if !n.step(from, publishes) {
				b.Fatal("publish refused")
			}
			acks.Reset(acking)
			if !n.step(to, acks) {
				b.Fatal("PUBACK refused")
			}
		}
		delivered(b, n)
	})
}

// delivered checks that each iteration was one text, delivered.
func delivered(b *testing.B, n *Node) {
	b.Helper()
	if c := n.Counts().Custody; c.Delivered != c.Accepted || c.Delivered == 0 || c.InFlight != 0 {
		b.Fatalf("%+v", c)
	}
}

// again is a reader of the same bytes without end.
type again struct {
	b  []byte
	at int
}

func (a *again) Read(p []byte) (int, error) {
	if len(a.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.b[a.at:])
	a.at = (a.at + n) % len(a.b)
	return n, nil
}
