package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
)

// publish builds an MQTT 3.1.1 PUBLISH at QoS 1.
func publish(topic string, id uint16, payload string) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
	body = binary.BigEndian.AppendUint16(append(body, topic...), id)
	body = append(body, payload...)
	return append(binary.AppendUvarint([]byte{0x32}, uint64(len(body))), body...)
}

func puback(id uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0x40, 2}, id) }

func TestPublishOf(t *testing.T) {
	for _, tt := range []struct {
		name    string
		p       []byte
		kind    byte
		payload string
	}{
		{"QoS 1", publish("i/tag", 7, "body"), 'i', "body"},
		{"long", publish("h/tag", 7, strings.Repeat("b", 300)), 'h', strings.Repeat("b", 300)},
		{"no payload", publish("r", 7, ""), 'r', ""},
		{"QoS 0", []byte("\x30\x07\x00\x03c/xok"), 'c', "ok"},
		{"PUBACK", puback(7), 0, ""},
		{"PINGREQ", []byte{0xc0, 0}, 0, ""},
		{"no topic", []byte{0x32, 4, 0, 0, 0, 7}, 0, ""},
		{"topic past the end", []byte{0x32, 4, 0, 9, 'i', '/'}, 0, ""},
		{"topic of 64 KiB", []byte{0x32, 4, 0xff, 0xff, 'i', '/'}, 0, ""},
		{"no packet id", []byte{0x32, 3, 0, 1, 'i'}, 0, ""},
		{"half a topic length", []byte{0x32, 1, 0}, 0, ""},
		{"nothing", []byte{0x32, 0}, 0, ""},
		{"length without an end", []byte{0x32, 0x80}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if kind, payload := publishOf(tt.p); kind != tt.kind || string(payload) != tt.payload {
				t.Errorf("%c %q, want %c %q", kind, payload, tt.kind, tt.payload)
			}
		})
	}
}

func TestReadRaw(t *testing.T) {
	stream := bytes.Join([][]byte{publish("i/tag", 1, strings.Repeat("x", 200)), puback(1), {0xd0, 0}}, nil)
	in := bufio.NewReader(iotest.OneByteReader(bytes.NewReader(stream)))
	var again []byte
	for range 3 {
		p, err := readRaw(in)
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, p...)
	}
	if !bytes.Equal(again, stream) {
		t.Error("packets have changed")
	}
	if _, err := readRaw(in); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for name, b := range map[string]string{
		"cut": "\x32\x09\x00\x03i/", "too long": "\x32\xff\xff\xff\x7f", "no length": "\x32", "endless length": "\x32\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
	} {
		if _, err := readRaw(bufio.NewReader(strings.NewReader(b))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzRelayPackets: hostile bytes neither panic nor come out as others; what is called a publish has
// its topic and payload inside the packet, and can be repeated.
func FuzzRelayPackets(f *testing.F) {
	for _, seed := range [][]byte{
		publish("i/tag", 7, "body"), puback(0xf001), {0x40, 0}, {0x40, 1, 2}, {0x32, 4, 0xff, 0xff, 'i', '/'}, {0x32, 0}, {0x30, 3, 0, 1, 'h'},
		{0x32, 0x80, 0}, {0x32, 3, 0, 1, 'i'}, append(publish("r", 1, "\x56\xf0\x01\x00"), puback(1)...), {},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReader(bytes.NewReader(b))
		for {
			p, err := readRaw(in)
			if err != nil {
				return
			}
			if len(p) < 2 || len(p) > 64<<10+4 || p[0] != b[0] && !bytes.Contains(b, p[:1]) {
				t.Fatalf("%d bytes from %d", len(p), len(b))
			}
			kind, payload := publishOf(p)
			r := &relay{published: map[byte][]byte{}}
			r.sees(p)
			if r.keepsBack(p) && p[0] != 0x40 && kind != 'r' {
				t.Fatalf("%x was kept back", p)
			}
			if kind == 0 {
				continue
			}
			if !bytes.HasSuffix(p, payload) || packetIDAt(p)+len(payload) > len(p) {
				t.Fatalf("payload of %d bytes in %d", len(payload), len(p))
			}
			if q := r.published[kind]; q != nil {
				renumbered(q, 0xf0ff)
			}
		}
	})
}

// wires is a relay between a phone and a node, both played by the test.
type wires struct {
	t           *testing.T
	relay       *relay
	phone, node net.Conn
	fromNode    *bufio.Reader // at the phone
	fromPhone   *bufio.Reader // at the node
}

func newWires(t *testing.T) *wires {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	r, err := newRelay()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	r.to(ln.Addr().String())
	w := &wires{t: t, relay: r}
	if w.phone, err = net.Dial("tcp", r.addr()); err != nil {
		t.Fatal(err)
	}
	if w.node, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = w.phone.Close(), w.node.Close() })
	w.fromNode, w.fromPhone = bufio.NewReader(w.phone), bufio.NewReader(w.node)
	return w
}

// says writes to one end and wants to read the same at the other.
func (w *wires) says(from net.Conn, to *bufio.Reader, p []byte) {
	w.t.Helper()
	if _, err := from.Write(p); err != nil {
		w.t.Fatal(err)
	}
	if got, err := readRaw(to); err != nil || !bytes.Equal(got, p) {
		w.t.Fatalf("%x became %x, %v", p, got, err)
	}
}

// TestRelayCounts: every byte and every delivery is counted, and nothing is changed.
func TestRelayCounts(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	up := [][]byte{publish("i/a", 1, "text"), publish("h/a", 2, "hello"), puback(3)}
	down := [][]byte{puback(1), publish("i/b", 9, "in"), publish("h/b", 10, "in"), publish("r", 11, "not a delivery"), {0xd0, 0}}
	total := 0
	for _, p := range up {
		w.says(w.phone, w.fromPhone, p)
		total += len(p)
	}
	for _, p := range down {
		w.says(w.node, w.fromNode, p)
		total += len(p)
	}
	if d, b, n := w.relay.dials.Load(), w.relay.bytes.Load(), w.relay.deliveries.Load(); d != 1 || b != int64(total) || n != 2 {
		t.Errorf("%d dials, %d bytes, %d deliveries; want 1, %d, 2", d, b, n, total)
	}
}

// TestRelayRepeats: the newest publish of a kind goes out again under new packet ids, and the phone
// hears nothing of the answers.
func TestRelayRepeats(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	if n := w.relay.repeat('i', 3); n != 0 {
		t.Errorf("%d publishes repeated where there was none", n)
	}
	w.says(w.phone, w.fromPhone, publish("i/a", 1, "old"))
	w.says(w.phone, w.fromPhone, publish("i/a", 2, "new"))
	w.says(w.phone, w.fromPhone, []byte("\x30\x07\x00\x03i/aq0")) // no packet id: not repeated
	if n := w.relay.repeat('i', 3); n != 3 {
		t.Fatalf("%d of 3 repeated", n)
	}
	if n := w.relay.repeat('h', 1); n != 0 {
		t.Errorf("%d publishes repeated of a kind there was none of", n)
	}
	for i := range 3 {
		id := uint16(repeatID + 1 + i)
		if p, err := readRaw(w.fromPhone); err != nil || !bytes.Equal(p, publish("i/a", id, "new")) {
			t.Fatalf("repeat %d: %x, %v", i, p, err)
		}
		notice := binary.BigEndian.AppendUint16([]byte{0x56}, id)
		if _, err := w.node.Write(append(publish("r", 1, string(append(notice, 0))), puback(id)...)); err != nil {
			t.Fatal(err)
		}
	}
	w.says(w.node, w.fromNode, puback(2)) // the phone's own answer is the first that it hears
	if n := w.relay.answers.Load(); n != 3 {
		t.Errorf("%d answers counted", n)
	}
}

// TestRelayHostile: packets that end too early close nothing but their own connection.
func TestRelayHostile(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	for _, p := range [][]byte{{0x40, 0}, {0x40, 1, 0xff}, {0x32, 0}, {0x32, 4, 0xff, 0xff, 'i', '/'}, publish("r", 1, "\x56")} {
		w.says(w.node, w.fromNode, p)
		w.says(w.phone, w.fromPhone, p)
	}
	if _, err := w.node.Write([]byte("\x32\xff\xff\xff\x7f")); err != nil {
		t.Fatal(err)
	}
	if _, err := readRaw(w.fromNode); err == nil {
		t.Error("a packet of 256 MiB came through")
	}
}

// TestRelayCloses: close ends every connection and waits for what it started; a phone that dials
// when there is no node is counted, and nothing more.
func TestRelayCloses(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	w.says(w.phone, w.fromPhone, puback(1))
	w.relay.close()
	if _, err := w.phone.Read(make([]byte, 1)); err == nil {
		t.Error("the phone is still connected")
	}
	r, err := newRelay()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	c, err := net.Dial("tcp", r.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("connected to nothing")
	}
	if r.dials.Load() != 1 || r.bytes.Load() != 0 || r.repeat('i', 1) != 0 {
		t.Errorf("%d dials, %d bytes", r.dials.Load(), r.bytes.Load())
	}
}
