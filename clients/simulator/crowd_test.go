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
	"testing/synctest"
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
	texts int                   // published
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
		return !b.hangUp.Load() && write(c, mqttPong<<4, 0)
	case mqttPublish:
		topic, id, payload, _ := p.publish()
		b.texts++
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

// after is a context that ends once n more texts were published, or the test has waited in vain.
func (b *anyBroker) after(t *testing.T, n int) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	published := func() int { b.mu.Lock(); defer b.mu.Unlock(); return b.texts }
	n += published()
	b.wg.Go(func() {
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && published() < n {
			<-tick.C
		}
	})
	return ctx
}

// crowdAt is a crowd that is connected to b.
func crowdAt(t *testing.T, b *anyBroker, size int) *Crowd {
	t.Helper()
	c, err := NewCrowd(CrowdConfig{Addr: b.Addr().String(), Size: size})
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
	r, err = c.Saturate(b.after(t, 100), 3, time.Hour) // 30 at a time: it goes on with what has arrived
	if err != nil || r.Sent < 100 || r.Delivered < r.Sent-30 || r.Delivered > r.Sent {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = c.Saturate(t.Context(), 3, time.Millisecond); err != nil || r.Delivered > r.Sent {
		t.Errorf("when its time is over: %+v, %v", r, err)
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

// TestCrowdHolds: every connection says PINGREQ within its keepalive, again and again.
func TestCrowdHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keepalive = 400 * time.Millisecond
		c, err := NewCrowd(CrowdConfig{Size: 5, Keepalive: keepalive})
		if err != nil {
			t.Fatal(err)
		}
		pings := make([]chan time.Time, len(c.all))
		for i, h := range c.all {
			near, far := net.Pipe()
			h.conn, pings[i] = near, make(chan time.Time, 100)
			go func() {
				defer close(pings[i])
				in := bufio.NewReader(far)
				for p, err := readPacket(in, nil); err == nil; p, err = readPacket(in, nil) {
					if p.kind() == mqttPing {
						pings[i] <- time.Now()
					}
				}
			}()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*keepalive)
		defer cancel()
		began := time.Now()
		c.Hold(ctx)
		end := time.Now()
		c.Close()
		for i, at := range pings {
			last := began
			for p := range at {
				if p.Sub(last) > keepalive {
					t.Errorf("connection %d says nothing for %v", i, p.Sub(last))
				}
				last = p
			}
			if end.Sub(last) > keepalive {
				t.Errorf("connection %d says nothing for the last %v", i, end.Sub(last))
			}
		}
	})
}

// TestCrowdLost: a connection that the broker ends is counted.
func TestCrowdLost(t *testing.T) {
	b := newAnyBroker(t)
	c := crowdAt(t, b, 5)
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
	ctx := b.after(t, 10) // and no later: a crowd's own patience is longer
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
