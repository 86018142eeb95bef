package simulator

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"bluejay/wire"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// TestPackets: what is written is read back, however the stream is cut.
func TestPackets(t *testing.T) {
	tag := wire.Topic{Kind: wire.TopicInbox, Tag: wire.Tag{1}}
	stream := appendConnect(nil, 240, []byte("secret"))
	stream = appendPublish(stream, tag, 7, true, bytes.Repeat([]byte("x"), 300))
	stream = appendPuback(stream, 8)
	stream = appendSubscribe(stream, tag, 9)
	stream = appendUnsubscribe(stream, tag, 10)
	stream = append(stream, mqttPing<<4, 0)
	want := []byte{mqttConnect, mqttPublish, mqttPuback, mqttSubscribe, mqttUnsubscribe, mqttPing}
	for _, cut := range []int{1, 2, 3, 17, len(stream)} {
		var s splitter
		var kinds []byte
		size := 0
		for part := range slices.Chunk(stream, cut) {
			if err := s.feed(part, func(p packet) bool { kinds = append(kinds, p.kind()); size += p.size(); check(t, p, tag); return true }); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(kinds, want) || size != len(stream) || s.rest != nil {
			t.Errorf("cut by %d: kinds %v, %d of %d bytes, %d left", cut, kinds, size, len(stream), len(s.rest))
		}
	}
}

func check(t *testing.T, p packet, topic wire.Topic) {
	t.Helper()
	switch p.kind() {
	case mqttPublish:
		name, id, payload, ok := p.publish()
		if !ok || name != topic.String() || id != 7 || len(payload) != 300 {
			t.Errorf("publish read as %q, %d, %d bytes", name, id, len(payload))
		}
	case mqttPuback:
		if p.id() != 8 {
			t.Errorf("puback of %d", p.id())
		}
	case mqttSubscribe, mqttUnsubscribe:
		if got := p.filters(); !slices.Equal(got, []string{topic.String()}) {
			t.Errorf("filters %q", got)
		}
	}
}

// FuzzSplitter: any bytes give packets or an error, and never more than they hold.
func FuzzSplitter(f *testing.F) {
	f.Add(appendPuback(nil, 1))
	f.Add(appendSubscribe(nil, wire.Topic{Kind: wire.TopicKey}, 3))
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0x32, 4, 0, 9, 'x', 'y'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s splitter
		total := 0
		err := s.feed(b, func(p packet) bool {
			total += p.size()
			p.publish()
			p.filters()
			p.id()
			return true
		})
		if err == nil && total+len(s.rest) > len(b)+4*len(b) {
			t.Errorf("%d bytes of packets and %d left of %d", total, len(s.rest), len(b))
		}
	})
}
