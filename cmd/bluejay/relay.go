package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay stands between one phone and the node, counts what passes and can repeat what the phone
// published: the demo's witness that a zero is a zero. It understands just enough MQTT 3.1.1 to see
// packets; it changes none.
type relay struct {
	ln   net.Listener
	node string
	wg   sync.WaitGroup

	dials      atomic.Int64
	bytes      atomic.Int64
	deliveries atomic.Int64 // PUBLISH to h/… or i/… towards the phone
	answers    atomic.Int64 // to repeated publishes
	pings      atomic.Int64 // of the relay's own, not answered yet
	pongs      chan struct{}

	mu        sync.Mutex
	published map[byte][]byte // newest PUBLISH of the phone by kind of topic, as sent
	live      *relayed
	lastID    uint16
	closed    bool
}

// relayed is one connection. Writes to the node are whole packets.
type relayed struct {
	phone, node net.Conn
	mu          sync.Mutex
}

// repeatID is the first packet id of repeated publishes, above those a phone uses in a demo.
const repeatID = 0xf000

// newRelay listens on a free loopback port; nodeAddr may be set later with to.
func newRelay() (*relay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{pongs: make(chan struct{}, 1), ln: ln, published: map[byte][]byte{}, lastID: repeatID}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

// to sets the node; connections before that are counted and closed.
func (r *relay) to(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.node = addr
}

func (r *relay) accept() {
	for {
		c, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.dials.Add(1)
		r.wg.Go(func() { r.carry(c) })
	}
}

func (r *relay) carry(phone net.Conn) {
	defer func() { _ = phone.Close() }()
	r.mu.Lock()
	addr := r.node
	r.mu.Unlock()
	node, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = node.Close() }()
	c := &relayed{phone: phone, node: node}
	if !r.begin(c) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.up(c); _ = node.Close() })
	both.Go(func() { r.down(c); _ = phone.Close() })
	both.Wait()
}

func (r *relay) begin(c *relayed) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.live = c
	return true
}

// up carries the phone's packets and keeps the newest publish to each kind of topic.
func (r *relay) up(c *relayed) {
	in := bufio.NewReader(c.phone)
	for {
		p, err := readRaw(in)
		if err != nil {
			return
		}
		r.bytes.Add(int64(len(p)))
		r.sees(p)
		c.mu.Lock()
		_, err = c.node.Write(p)
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// sees keeps a publish that could be repeated: without QoS there is no packet id to change.
func (r *relay) sees(p []byte) {
	if kind, _ := publishOf(p); kind != 0 && p[0]&6 != 0 {
		r.mu.Lock()
		r.published[kind] = p
		r.mu.Unlock()
	}
}

// down carries the node's packets; answers to repeated publishes stay here.
func (r *relay) down(c *relayed) {
	in := bufio.NewReader(c.node)
	for {
		p, err := readRaw(in)
		if err != nil {
			return
		}
		r.bytes.Add(int64(len(p)))
		if r.keepsBack(p) || r.pong(p) {
			continue
		}
		if _, err := c.phone.Write(p); err != nil {
			return
		}
	}
}

// keepsBack counts what came from the node, and reports whether it answers a repeated publish.
func (r *relay) keepsBack(p []byte) bool {
	kind, body := publishOf(p)
	switch {
	case p[0] == 0x40 && len(p) == 4 && binary.BigEndian.Uint16(p[2:]) >= repeatID:
		r.answers.Add(1)
		return true
	case kind == 'r' && len(body) == 4 && body[0] == 0x56 && binary.BigEndian.Uint16(body[1:]) >= repeatID:
		return true // the notice ahead of such an answer
	case kind == 'h' || kind == 'i':
		r.deliveries.Add(1)
	}
	return false
}

// repeat sends the newest publish to a kind of topic again, n times, over the phone's own
// connection, each under a new packet id. It returns how many were written.
func (r *relay) repeat(kind byte, n int) int {
	r.mu.Lock()
	p, c := r.published[kind], r.live
	r.mu.Unlock()
	if p == nil || c == nil {
		return 0
	}
	for i := range n {
		if !r.repeatOnce(c, p) {
			return i
		}
	}
	return n
}

func (r *relay) repeatOnce(c *relayed, p []byte) bool {
	r.mu.Lock()
	r.lastID++
	id := r.lastID
	r.mu.Unlock()
	q := renumbered(p, id)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.node.Write(q)
	return err == nil
}

// ping makes a round trip to the node on the phone's connection: what the node had written to the
// phone before has then been counted.
func (r *relay) ping(ctx context.Context) error {
	r.mu.Lock()
	c := r.live
	r.mu.Unlock()
	if c == nil {
		return errors.New("not connected")
	}
	r.pings.Add(1)
	c.mu.Lock()
	_, err := c.node.Write([]byte{0xc0, 0})
	c.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-r.pongs:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pong takes the answer to a ping of the relay's own out of the stream.
func (r *relay) pong(p []byte) bool {
	if p[0] != 0xd0 || r.pings.Load() == 0 {
		return false
	}
	r.pings.Add(-1)
	r.pongs <- struct{}{}
	return true
}

// newest is the size of the phone's newest publish to a kind of topic, in bytes; 0 if there is none.
func (r *relay) newest(kind byte) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.published[kind])
}

// renumbered is a publish that [relay.sees] kept, under another packet id.
func renumbered(p []byte, id uint16) []byte {
	q := append([]byte(nil), p...)
	binary.BigEndian.PutUint16(q[packetIDAt(q):], id)
	return q
}

func (r *relay) close() {
	_ = r.ln.Close()
	r.mu.Lock()
	r.closed = true
	live := r.live
	r.mu.Unlock()
	if live != nil {
		_ = live.phone.Close()
		_ = live.node.Close()
	}
	r.wg.Wait()
}

// readRaw reads one MQTT packet as it is, of at most 64 KiB.
func readRaw(in *bufio.Reader) ([]byte, error) {
	head, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(in)
	if err != nil || size > 64<<10 {
		return nil, io.ErrUnexpectedEOF
	}
	p := binary.AppendUvarint([]byte{head}, size)
	at := len(p)
	p = append(p, make([]byte, size)...)
	_, err = io.ReadFull(in, p[at:])
	return p, err
}

// topicAt is where the topic of a PUBLISH begins, after its length; 0 if p is none.
func topicAt(p []byte) int {
	_, n := binary.Uvarint(p[1:])
	if p[0]>>4 != 3 || n <= 0 || len(p) < 1+n+2 {
		return 0
	}
	return 1 + n + 2
}

func packetIDAt(p []byte) int {
	at := topicAt(p)
	return at + int(binary.BigEndian.Uint16(p[at-2:]))
}

// publishOf returns the first letter of the topic and the payload of an MQTT 3.1.1 PUBLISH; 0 if p
// is none, or has no topic.
func publishOf(p []byte) (kind byte, payload []byte) {
	at := topicAt(p)
	if at == 0 || at >= len(p) || packetIDAt(p) == at {
		return 0, nil
	}
	end := packetIDAt(p)
	if p[0]&6 != 0 {
		end += 2
	}
	if end > len(p) {
		return 0, nil
	}
	return p[at], p[end:]
}
