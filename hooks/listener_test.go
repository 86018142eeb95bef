package hooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// memory is a net.Listener without a network: dial makes a pipe; an error in fail comes first.
type memory struct {
	conns chan net.Conn
	fail  chan error
	once  sync.Once
	gone  chan struct{}
}

func newMemory() *memory {
	return &memory{conns: make(chan net.Conn), fail: make(chan error, 100), gone: make(chan struct{})}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case err := <-m.fail:
		return nil, err
	default:
	}
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.gone:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.once.Do(func() { close(m.gone) }); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (m *memory) dial() net.Conn {
	ours, theirs := net.Pipe()
	m.conns <- ours
	return theirs
}

// open starts a Listener on m. Its Serve, if none is given, echoes until the connection ends.
func open(t *testing.T, m *memory, cfg ListenConfig) *Listener {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	cfg.listen = func(*net.TCPAddr) (net.Listener, error) { return m, nil }
	if cfg.Serve == nil {
		cfg.Serve = func(_ context.Context, c *queuedConn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }
	}
	cfg.counters = new(counters)
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// echoes reports whether a connection is served.
func echoes(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return false
	}
	got := make([]byte, 5)
	_, err := io.ReadFull(c, got)
	return err == nil && string(got) == "hello"
}

// TestAcceptBacksOff: failures in a row wait 5 ms, 10 ms, … up to a second, are logged once, and
// end nothing. [M-11]
func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, log := newMemory(), new(bytes.Buffer)
		for range 12 {
			m.fail <- syscall.EMFILE
		}
		start := time.Now()
		l := open(t, m, ListenConfig{Log: slog.New(slog.NewTextHandler(log, nil))})
		c := m.dial()
		// 5+10+20+40+80+160+320+640 ms, then 4 times a second
		if d := time.Since(start); d != 1275*time.Millisecond+4*time.Second {
			t.Errorf("accepted again after %v", d)
		}
		if !echoes(c) {
			t.Error("the connection after the failures is not served")
		}
		_ = l.Close(t.Context())
		if n := strings.Count(log.String(), "accept failed"); n != 1 || l.cfg.counters.acceptErrors.Load() != 12 {
			t.Errorf("logged %d times, counted %d; want 1, 12", n, l.cfg.counters.acceptErrors.Load())
		}
	})
}

// TestCloseDuringBackoff does not wait it out. [M-11] [M-16]
func TestCloseDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		for range 50 {
			m.fail <- syscall.EMFILE
		}
		l := open(t, m, ListenConfig{})
		time.Sleep(1500 * time.Millisecond)
		start := time.Now()
		if err := l.Close(t.Context()); err != nil || !time.Now().Equal(start) {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
	})
}

// TestConnectionCap: one too many is closed at once, and there is room again when one ends. [M-17]
func TestConnectionCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := open(t, m, ListenConfig{MaxConns: 2})
		a, b, c := m.dial(), m.dial(), m.dial()
		if !echoes(a) || !echoes(b) {
			t.Error("a connection within the cap is not served")
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("one too many: %v", err)
		}
		_ = a.Close()
		synctest.Wait()
		if l.Conns() != 1 || !echoes(m.dial()) {
			t.Errorf("no room after one ended: %d open", l.Conns())
		}
		_ = l.Close(t.Context())
		if d := cmp.Diff(Traffic{Accepted: 3, Refused: 1, BytesIn: 15, BytesOut: 15}, l.Traffic()); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// TestConnectDeadline: who sends nothing, or a byte now and then, is closed when the deadline from
// accept is over; who has connected is not. [M-13]
func TestConnectDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := open(t, m, ListenConfig{Serve: func(_ context.Context, c *queuedConn) {
			first := make([]byte, 8)
			if _, err := io.ReadFull(c, first); err != nil {
				return
			}
			c.connected()
			_, _ = io.Copy(c, c.Conn)
		}})
		silent, slow, good := m.dial(), m.dial(), m.dial()
		_, _ = good.Write([]byte("CONNECT!"))
		start := time.Now()
		go func() {
			for range 7 {
				_, _ = slow.Write([]byte("."))
				time.Sleep(3 * time.Second)
			}
		}()
		for _, c := range []net.Conn{silent, slow} {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(start) != 10*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		time.Sleep(time.Hour)
		if !echoes(good) {
			t.Error("a connection that has connected was closed")
		}
		_ = l.Close(t.Context())
	})
}

// TestPanicEndsOneConnection, and the log says where, not with what. [M-15]
func TestPanicEndsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, log := newMemory(), new(bytes.Buffer)
		l := open(t, m, ListenConfig{Log: slog.New(slog.NewTextHandler(log, nil)), Serve: func(_ context.Context, c *queuedConn) {
			b := make([]byte, 5)
			_, _ = io.ReadFull(c, b)
			if string(b) == "panic" {
				panic(fmt.Sprintf("on %q", b))
			}
			_, _ = c.Write(b)
		}})
		bad, good := m.dial(), m.dial()
		_, _ = bad.Write([]byte("panic"))
		if _, err := bad.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the panic: %v", err)
		}
		if !echoes(good) {
			t.Error("another connection is not served after a panic")
		}
		_ = l.Close(t.Context())
		if s := log.String(); !strings.Contains(s, "TestPanicEndsOneConnection") || strings.Contains(s, `\"panic\"`) {
			t.Errorf("log %q: want the place, not the value", s)
		}
		if l.cfg.counters.panics.Load() != 1 {
			t.Errorf("%d panics counted", l.cfg.counters.panics.Load())
		}
	})
}

// TestCloseWaitsAndDrains: Close ends Serve's context and reads, sends what is queued, and returns
// when every goroutine has ended. [M-10] [M-16]
func TestCloseWaitsAndDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, ended := newMemory(), false
		l := open(t, m, ListenConfig{Serve: func(ctx context.Context, c *queuedConn) {
			_, _ = c.Write([]byte("last words"))
			_, _ = io.Copy(io.Discard, c)
			<-ctx.Done()
			time.Sleep(time.Second) // something to finish
			ended = true
		}})
		c := m.dial()
		synctest.Wait()
		got := make(chan string, 1)
		go func() { b, _ := io.ReadAll(c); got <- string(b) }()
		start := time.Now()
		if err := l.Close(t.Context()); err != nil || !ended || time.Since(start) != time.Second {
			t.Errorf("Close: %v, Serve ended: %v, after %v", err, ended, time.Since(start))
		}
		if s := <-got; s != "last words" {
			t.Errorf("the peer got %q", s)
		}
	})
}

// TestCloseIsBoundedByItsContext: a peer that does not read is cut off, and a Serve that does not
// return is reported, not waited for. [M-16]
func TestCloseIsBoundedByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, release := newMemory(), make(chan struct{})
		l := open(t, m, ListenConfig{Serve: func(context.Context, *queuedConn) { <-release }})
		m.dial()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		err := l.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 4*time.Second {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		close(release)
		<-l.done
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := open(t, m, ListenConfig{DrainTimeout: time.Minute, Serve: func(_ context.Context, c *queuedConn) {
			_, _ = c.Write([]byte("nobody reads this"))
			_, _ = io.Copy(io.Discard, c)
		}})
		m.dial()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := l.Close(ctx); err != nil || time.Since(start) != 3*time.Second {
			t.Errorf("Close: %v after %v, want the peer cut off at 3 s", err, time.Since(start))
		}
	})
}

// TestCloseCutsHandshakes: a TLS handshake that does not come is not waited for. [M-16]
func TestCloseCutsHandshakes(t *testing.T) {
	server, _ := testTLS(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := open(t, m, ListenConfig{TLS: server})
		c := m.dial()
		synctest.Wait()
		start := time.Now()
		if err := l.Close(t.Context()); err != nil || !time.Now().Equal(start) {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the peer reads %v", err)
		}
	})
}

// TestHandshakeDeadline: the deadline until CONNECT covers TLS. [M-13]
func TestHandshakeDeadline(t *testing.T) {
	server, _ := testTLS(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := open(t, m, ListenConfig{TLS: server})
		c, start := m.dial(), time.Now()
		if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		_ = l.Close(t.Context())
	})
}

// TestWhereToListen: without TLS only loopback; with TLS only with a certificate. [M-14]
func TestWhereToListen(t *testing.T) {
	server, _ := testTLS(t)
	tests := []struct {
		addr string
		tls  *tls.Config
		want string // a part of the error
	}{
		{"127.0.0.1:0", nil, ""},
		{"localhost:0", nil, ""},
		{":0", nil, "not a loopback address"},
		{"0.0.0.0:0", nil, "not a loopback address"},
		{"[::]:0", nil, "not a loopback address"},
		{"192.0.2.1:0", nil, "not a loopback address"},
		{"0.0.0.0:0", server, ""},
		{"0.0.0.0:0", &tls.Config{}, "without a certificate"},
		{"127.0.0.1", nil, "missing port"},
		{"192.0.2.1:0", server, "bind"},
	}
	for _, tt := range tests {
		l, err := Listen(ListenConfig{Addr: tt.addr, TLS: tt.tls})
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.addr, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.addr, err)
			continue
		}
		if l.Addr().(*net.TCPAddr).Port == 0 {
			t.Errorf("%s: Addr has no port", tt.addr)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("%s: Close: %v", tt.addr, err)
		}
	}
}

// TestTLSListener: the exporter reaches Serve, TLS 1.2 does not get in, and plain bytes are closed. [M-14]
func TestTLSListener(t *testing.T) {
	server, client := testTLS(t)
	l, err := Listen(ListenConfig{Addr: "127.0.0.1:0", TLS: server, Serve: func(_ context.Context, c *queuedConn) {
		b, ok := c.exporter()
		_, _ = c.Write(append([]byte{byte(len(b))}, b...))
		if !ok {
			t.Error("no exporter")
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	want, _ := state.ExportKeyingMaterial("EXPORTER-bluejay-connect", nil, 32)
	got, err := io.ReadAll(conn) // ends with TLS's farewell, not with a broken stream
	if err != nil || !bytes.Equal(got, append([]byte{32}, want...)) {
		t.Errorf("got %x, %v; want 20%x", got, err, want)
	}
	_ = conn.Close()
	old := client.Clone()
	old.MaxVersion = tls.VersionTLS12
	if conn, err := tls.Dial("tcp", l.Addr().String(), old); err == nil {
		conn.Close()
		t.Error("TLS 1.2 got in")
	}
	plain, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = plain.Write(wirePacket(headConnect, connect(4, 2, lp(""))))
	_ = plain.SetReadDeadline(time.Now().Add(5 * time.Second))
	if rest, err := io.ReadAll(plain); len(rest) > 7 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("plain MQTT on the TLS port: %x, %v", rest, err)
	}
	_ = plain.Close()
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNoKernelProbes: an accepted socket has SO_KEEPALIVE off. [M-18]
func TestNoKernelProbes(t *testing.T) {
	probes := make(chan int, 1)
	l, err := Listen(ListenConfig{Addr: "127.0.0.1:0", Serve: func(_ context.Context, c *queuedConn) {
		raw, err := c.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		_ = raw.Control(func(fd uintptr) {
			v, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			if err != nil {
				t.Error(err)
			}
			probes <- v
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v := <-probes; v != 0 {
		t.Errorf("SO_KEEPALIVE is %d", v)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
