package simulator

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// anyBroker is a broker that knows no consent: it acknowledges at once and passes on.
type anyBroker struct {
	net.Listener
	wg     sync.WaitGroup
	refuse atomic.Bool // CONNECT
	drop   atomic.Bool // what is published to inboxes
	hangUp atomic.Bool // at the next PINGREQ
	full   atomic.Bool // SUBSCRIBE is refused

	mu    sync.Mutex
	at    map[string][]net.Conn // by topic
	names map[string]bool       // client ids
	hosts map[string]bool       // source addresses
	pings int
}

func newAnyBroker(t *testing.T) *anyBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &anyBroker{Listener: l, at: map[string][]net.Conn{}, names: map[string]bool{}, hosts: map[string]bool{}}
	b.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); b.wg.Wait() })
	return b
}

func (b *anyBroker) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	for {
		p, err := readPacket(in, nil)
		if err != nil || !b.handle(c, p) {
			return
		}
	}
}

func (b *anyBroker) handle(c net.Conn, p packet) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	write := func(to net.Conn, bytes ...byte) bool { _, err := to.Write(bytes); return err == nil }
	switch p.kind() {
	case mqttConnect:
		b.names[string(p.body[12:])] = true
		b.hosts[c.RemoteAddr().(*net.TCPAddr).IP.String()] = true
		if b.refuse.Load() {
			return write(c, mqttConnack<<4, 2, 0, 5)
		}
		return write(c, mqttConnack<<4, 2, 0, 0)
	case mqttSubscribe:
		topic := p.filters()[0]
		if b.full.Load() {
			return write(c, mqttSuback<<4, 3, p.body[0], p.body[1], 0x80)
		}
		b.at[topic] = append(b.at[topic], c)
		return write(c, mqttSuback<<4, 3, p.body[0], p.body[1], 1)
	case mqttPing:
		b.pings++
		return !b.hangUp.Load() && write(c, mqttPong<<4, 0)
	case mqttPublish:
		topic, id, payload, _ := p.publish()
		if !b.drop.Load() || !strings.HasPrefix(topic, "i/") {
			for _, to := range b.at[topic] {
				body := append(appendString(nil, topic), payload...)
				_ = write(to, append(binary.AppendUvarint([]byte{mqttPublish << 4}, uint64(len(body))), body...)...)
			}
		}
		return write(c, appendPuback(nil, id)...)
	}
	return true
}

// crowdAt is a crowd that is connected to b.
func crowdAt(t *testing.T, b *anyBroker, size int) *Crowd {
	t.Helper()
	c, err := NewCrowd(CrowdConfig{Addr: b.Addr().String(), Size: size, Keepalive: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if r, err := c.Connect(t.Context(), 8); err != nil || r.Connected != size || r.Took.Count != int64(size) || r.Seconds <= 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := c.Prepare(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCrowd: what is counted has arrived, each from an address and under a client id of its own.
func TestCrowd(t *testing.T) {
	b := newAnyBroker(t)
	c := crowdAt(t, b, 20)
	if len(b.names) != 20 || len(b.hosts) != 20 {
		t.Errorf("%d client ids from %d addresses", len(b.names), len(b.hosts))
	}
	r, err := c.Deliver(t.Context(), 400, 250*time.Millisecond)
	if err != nil || r.Sent != 100 || r.Delivered != 100 || r.Took.Count != 100 || r.Took.P50 <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = c.Saturate(t.Context(), 3, 100*time.Millisecond)
	if err != nil || r.Sent < 100 || r.Delivered == 0 || r.Delivered > r.Sent {
		t.Errorf("%+v, %v", r, err)
	}
	if err := c.Watch(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	f, err := c.FanOut(t.Context(), 3)
	if err != nil || f.Told != 19*3 || f.Took.Count != 19*3 || f.Last.Count != 3 || f.Watchers != 19 {
		t.Errorf("%+v, %v", f, err)
	}
	if c.Lost() != 0 {
		t.Errorf("%d connections lost", c.Lost())
	}
}

// TestCrowdHolds: every connection says PINGREQ within its keepalive, and one that ends is counted.
func TestCrowdHolds(t *testing.T) {
	b := newAnyBroker(t)
	c := crowdAt(t, b, 5)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	c.Hold(ctx)
	b.mu.Lock()
	if b.pings < 5 {
		t.Errorf("%d PINGREQ of 5 connections", b.pings)
	}
	b.mu.Unlock()
	b.hangUp.Store(true)
	c.all[0].ping()
	<-c.all[0].gone
	if c.Lost() != 1 {
		t.Errorf("%d connections lost", c.Lost())
	}
}

// TestCrowdTellsFailures: texts that never arrive are not counted as delivered, and a refusal is an error.
func TestCrowdTellsFailures(t *testing.T) {
	b := newAnyBroker(t)
	c := crowdAt(t, b, 4)
	b.drop.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // shorter than a crowd's own patience
	defer cancel()
	if r, err := c.Deliver(ctx, 100, 100*time.Millisecond); err == nil || r.Sent != 10 || r.Delivered != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := c.Deliver(t.Context(), 0, time.Second); err == nil {
		t.Error("no rate is a rate")
	}
	b.full.Store(true)
	if err := c.Prepare(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "SUBSCRIBE refused") {
		t.Errorf("%v", err)
	}
	b.refuse.Store(true)
	other, err := NewCrowd(CrowdConfig{Addr: b.Addr().String(), Size: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Connect(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "CONNECT refused") {
		t.Errorf("%v", err)
	}
	for _, cfg := range []CrowdConfig{{}, {Size: 2, People: []Member{{}}}} {
		if _, err := NewCrowd(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
}
