package hooks

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipe returns a queuedConn and its peer, in memory: the peer takes a byte only when it reads.
func pipe(maxPending int) (*queuedConn, net.Conn, *counters) {
	ours, theirs := net.Pipe()
	n := new(counters)
	cfg := &connConfig{maxPending: maxPending, writeTimeout: 20 * time.Second, drain: 2 * time.Second, counters: n}
	return newQueuedConn(ours, cfg), theirs, n
}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
}

// TestWriteNeverWaits: nobody reads, and no write takes any time; then all arrives in order. [M-8]
func TestWriteNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, n := pipe(1000)
		start := time.Now()
		for range 10 {
			mustWrite(t, c, "0123456789")
		}
		synctest.Wait()
		if !time.Now().Equal(start) {
			t.Error("a write waited")
		}
		got := make([]byte, 100)
		if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("0123456789"), 10)) {
			t.Errorf("read %q, %v", got, err)
		}
		synctest.Wait()
		if c.flushing || c.queue != nil || c.size != 0 {
			t.Errorf("idle, but flushing %v, queue %v, size %d", c.flushing, c.queue, c.size)
		}
		if n.bytesOut.Load() != 100 {
			t.Errorf("%d bytes counted, want 100", n.bytesOut.Load())
		}
		_ = c.Close()
		c.wait()
	})
}

// TestSlowConsumerIsReset: the queue is bounded, what is being written counted in. [M-8]
func TestSlowConsumerIsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, n := pipe(100)
		closed := 0
		c.setOnClose(func() { closed++ })
		mustWrite(t, c, string(make([]byte, 60)))
		synctest.Wait() // the flusher holds the 60 now
		mustWrite(t, c, string(make([]byte, 40)))
		if _, err := c.Write([]byte{1}); !errors.Is(err, errSlowConsumer) {
			t.Errorf("byte 101: %v", err)
		}
		if _, err := c.Write([]byte{1}); !errors.Is(err, errSlowConsumer) {
			t.Errorf("after that: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("its own reader goes on")
		}
		c.wait()
		if _, err := peer.Read(make([]byte, 200)); err != io.EOF {
			t.Errorf("the peer reads on: %v", err)
		}
		if closed != 1 || n.slowConsumers.Load() != 1 || n.bytesOut.Load() != 0 {
			t.Errorf("onClose ran %d times, %d slow consumers, %d bytes out; want 1, 1, 0", closed, n.slowConsumers.Load(), n.bytesOut.Load())
		}
		_ = c.Close()
		c.kill()
		c.wait()
	})
}

// TestOneWriteTooLarge: also without a flusher running. [M-8]
func TestOneWriteTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, n := pipe(100)
		if _, err := c.Write(make([]byte, 101)); !errors.Is(err, errSlowConsumer) {
			t.Errorf("101 bytes into 100: %v", err)
		}
		c.wait()
		if !c.closed || n.slowConsumers.Load() != 1 {
			t.Errorf("closed %v, slow consumers %d", c.closed, n.slowConsumers.Load())
		}
	})
}

// TestWriteTimeout: a peer that takes nothing is given up after the write timeout, and one that
// takes each write in time is not. [M-9]
func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, n := pipe(100)
		start := time.Now()
		for range 3 {
			mustWrite(t, c, "x")
			time.Sleep(15 * time.Second)
			if _, err := peer.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		mustWrite(t, c, "x")
		c.wait() // not closed: this waits for the flusher alone
		if d := time.Since(start); d != 65*time.Second || n.slowConsumers.Load() != 1 {
			t.Errorf("flusher ended after %v with %d slow consumers", d, n.slowConsumers.Load())
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("the connection goes on")
		}
	})
}

// TestDeadlinesAreForReads: mochi's SetDeadline does not cut writes. [M-9]
func TestDeadlinesAreForReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, _ := pipe(100)
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_ = c.SetWriteDeadline(time.Unix(1, 0))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read without an end")
		}
		mustWrite(t, c, "x")
		time.Sleep(5 * time.Second)
		if n, err := peer.Read(make([]byte, 1)); n != 1 {
			t.Errorf("nothing arrived: %v", err)
		}
		c.connected()
		go func() { _, _ = peer.Write([]byte("y")) }()
		if n, err := c.Read(make([]byte, 1)); n != 1 {
			t.Errorf("connected, and still under the first deadline: %v", err)
		}
		_ = c.Close()
		c.wait()
	})
}

// TestCloseDrains: what was queued before Close still arrives; nothing can be added. [M-10]
func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, n := pipe(100)
		closed := 0
		c.setOnClose(func() { closed++ })
		mustWrite(t, c, "CONN")
		mustWrite(t, c, "ACK")
		start := time.Now()
		_ = c.Close()
		_ = c.Close()
		if !time.Now().Equal(start) {
			t.Error("Close waited")
		}
		if _, err := c.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after Close: %v", err)
		}
		if c.SetReadDeadline(time.Time{}) == nil {
			t.Error("a closed connection can be read again")
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read after Close")
		}
		time.Sleep(time.Second)
		got, err := io.ReadAll(peer)
		if string(got) != "CONNACK" || err != nil {
			t.Errorf("the peer got %q, %v", got, err)
		}
		c.wait()
		if closed != 1 || n.slowConsumers.Load() != 0 {
			t.Errorf("onClose ran %d times, %d slow consumers; want 1, 0", closed, n.slowConsumers.Load())
		}
		c.setOnClose(func() { closed++ })
		if closed != 2 {
			t.Error("a function set after the end did not run")
		}
	})
}

// TestCloseIsBounded: a peer that does not read holds a closed connection for the drain time, also
// if a write had begun with a longer deadline. [M-10]
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := pipe(100)
		mustWrite(t, c, "x")
		synctest.Wait()
		start := time.Now()
		_ = c.Close()
		c.wait()
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("closed after %v, want the drain time", d)
		}
	})
}

// TestCloseIsBoundedInAll: the drain time is for everything queued, not for each write. [M-10]
func TestCloseIsBoundedInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, _ := pipe(100)
		mustWrite(t, c, "x")
		synctest.Wait() // the flusher holds it
		mustWrite(t, c, "y")
		start := time.Now()
		_ = c.Close()
		time.Sleep(1500 * time.Millisecond)
		if _, err := peer.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		c.wait()
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("closed after %v, want the drain time", d)
		}
	})
}

// TestKill cuts a drain short. [M-16]
func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, _ := pipe(100)
		mustWrite(t, c, "x")
		_ = c.Close()
		start := time.Now()
		c.kill()
		c.wait()
		if _, err := peer.Read(make([]byte, 1)); err != io.EOF || !time.Now().Equal(start) {
			t.Errorf("killed: the peer reads %v after %v", err, time.Since(start))
		}
	})
}

// TestPeerGone: an error of the socket reaches the next writer, and counts as nobody's slowness.
func TestPeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, n := pipe(100)
		_ = peer.Close()
		mustWrite(t, c, "x")
		c.wait()
		if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) || n.slowConsumers.Load() != 0 {
			t.Errorf("wrote to nobody: %v, %d slow consumers", err, n.slowConsumers.Load())
		}
	})
}

// TestWritersDoNotMix: packets of many writers arrive whole, and each writer's in order. [M-8]
func TestWritersDoNotMix(t *testing.T) {
	c, peer, _ := pipe(1 << 20)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				_, _ = c.Write([]byte{byte(w), byte(i), byte(w), byte(i)})
			}
		})
	}
	var next [8]byte
	for range 8 * 200 {
		var b [4]byte
		if _, err := io.ReadFull(peer, b[:]); err != nil {
			t.Fatal(err)
		}
		if b[0] != b[2] || b[1] != b[3] || next[b[0]] != b[1] {
			t.Fatalf("packet %v where writer %d was at %d", b, b[0], next[b[0]])
		}
		next[b[0]]++
	}
	wg.Wait()
	_ = c.Close()
	c.wait()
}

// sink takes everything at once, without allocating.
type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error)      { return len(p), nil }
func (sink) Read([]byte) (int, error)         { return 0, io.EOF }
func (sink) Close() error                     { return nil }
func (sink) SetReadDeadline(time.Time) error  { return nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }

// TestWriteAllocatesNothing in the steady state: neither the queue nor the flusher. [M-8]
func TestWriteAllocatesNothing(t *testing.T) {
	c := newQueuedConn(sink{}, &connConfig{maxPending: 1 << 10, writeTimeout: time.Second, counters: new(counters)})
	p := aText()
	// wait per write, so that each starts a flusher. The pool may lose a buffer to the collector.
	if allocs := testing.AllocsPerRun(1000, func() { _, _ = c.Write(p); c.wait() }); allocs >= 1 {
		t.Errorf("%v allocations for each write, want 0", allocs)
	}
	if _, err := c.Read(nil); err != io.EOF {
		t.Errorf("Read: %v", err)
	}
}

func BenchmarkQueuedWrite(b *testing.B) {
	c := newQueuedConn(sink{}, &connConfig{maxPending: 1 << 10, writeTimeout: time.Second, counters: new(counters)})
	p := aText()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			c.wait()
		}
		c.wait()
	}
}

// tcpPair is a connection over loopback.
func tcpPair(t testing.TB) (ours, theirs *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return b.(*net.TCPConn), a.(*net.TCPConn)
}

// TestTCPPeerThatDoesNotRead: the kernel's buffers fill, then ours, and only its own connection
// ends; one beside it is served all the while. [M-8]
func TestTCPPeerThatDoesNotRead(t *testing.T) {
	n := new(counters)
	cfg := &connConfig{maxPending: 64 << 10, writeTimeout: 20 * time.Second, drain: 2 * time.Second, counters: n}
	ours, theirs := tcpPair(t)
	_ = ours.SetWriteBuffer(4096)
	_ = theirs.SetReadBuffer(4096)
	slow := newQueuedConn(ours, cfg)
	ours2, innocent := tcpPair(t)
	beside := newQueuedConn(ours2, cfg)
	chunk := make([]byte, 2048)
	var err error
	for i := 0; err == nil; i++ {
		if i > 100_000 {
			t.Fatal("200 MB were taken by a peer that does not read")
		}
		_, err = slow.Write(chunk)
		if i%100 == 0 {
			mustWrite(t, beside, "ping")
			start := time.Now()
			_ = innocent.SetReadDeadline(start.Add(10 * time.Second)) // less than a write may take
			if _, err := io.ReadFull(innocent, make([]byte, 4)); err != nil {
				t.Fatalf("the innocent waited %v: %v", time.Since(start), err)
			}
		}
	}
	if !errors.Is(err, errSlowConsumer) {
		t.Errorf("ended with %v", err)
	}
	slow.wait()
	_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, theirs); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer's end: %v, want a reset: its kernel buffers are to be freed", err)
	}
	_ = beside.Close()
	beside.wait()
	_ = innocent.SetReadDeadline(time.Now().Add(10 * time.Second))
	if rest, err := io.ReadAll(innocent); len(rest) != 0 || err != nil {
		t.Errorf("the innocent's end: %q, %v", rest, err)
	}
	if n.slowConsumers.Load() != 1 {
		t.Errorf("%d slow consumers, want 1", n.slowConsumers.Load())
	}
}

// TestTCPWriteTimeoutResets: what the kernel holds for a peer that does not read goes with it. [M-9]
func TestTCPWriteTimeoutResets(t *testing.T) {
	n := new(counters)
	ours, theirs := tcpPair(t)
	_ = theirs.SetReadBuffer(4096)
	c := newQueuedConn(ours, &connConfig{maxPending: 32 << 20, writeTimeout: 50 * time.Millisecond, counters: n})
	mustWrite(t, c, string(make([]byte, 32<<20)))
	c.wait()
	_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, theirs); !errors.Is(err, syscall.ECONNRESET) || n.slowConsumers.Load() != 1 {
		t.Errorf("the peer's end: %v; %d slow consumers", err, n.slowConsumers.Load())
	}
}

// testTLS returns a server's and a client's configuration.
func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"broker"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "broker"}
}

// TestExporter: both ends of a TLS 1.3 connection have the same 32 bytes, two connections have
// different ones, and there are none otherwise. [M-14]
func TestExporter(t *testing.T) {
	server, client := testTLS(t)
	dial := func(version uint16) (ours []byte, theirs []byte, ok bool) {
		a, b := tcpPair(t)
		clientCfg := client.Clone()
		clientCfg.MaxVersion = version
		ts, tc := tls.Server(a, server), tls.Client(b, clientCfg)
		failed := make(chan error, 1)
		go func() { failed <- tc.Handshake() }()
		if err := errors.Join(ts.Handshake(), <-failed); err != nil {
			t.Fatal(err)
		}
		ours, ok = newQueuedConn(ts, &connConfig{counters: new(counters)}).exporter()
		state := tc.ConnectionState()
		theirs, _ = state.ExportKeyingMaterial("EXPORTER-bluejay-connect", nil, 32)
		return ours, theirs, ok
	}
	one, same, ok := dial(tls.VersionTLS13)
	other, _, _ := dial(tls.VersionTLS13)
	if !ok || len(one) != 32 || !bytes.Equal(one, same) || bytes.Equal(one, other) {
		t.Errorf("exporter %x, at the peer %x, of another connection %x", one, same, other)
	}
	if _, _, ok := dial(tls.VersionTLS12); ok {
		t.Error("an exporter without TLS 1.3")
	}
	plain, _, _ := pipe(100)
	if _, ok := plain.exporter(); ok {
		t.Error("an exporter without TLS")
	}
}

// TestCountersCount bytes in both directions.
func TestCountersCount(t *testing.T) {
	c, peer, n := pipe(100)
	go func() { fmt.Fprint(peer, "hello") }()
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil || n.bytesIn.Load() != 5 {
		t.Errorf("%d bytes in, %v", n.bytesIn.Load(), err)
	}
	_ = c.Close()
	c.wait()
}

// setOnClose has f called once when the socket has closed, in the flusher's goroutine; at once if it
// has. There is one such function; it must not wait.
func (c *queuedConn) setOnClose(f func()) {
	c.mu.Lock()
	late := c.closed
	if !late {
		c.onClose = f
	}
	c.mu.Unlock()
	if late {
		f()
	}
}
