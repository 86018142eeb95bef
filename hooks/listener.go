package hooks

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Back-off after a failed accept: the first wait, and the longest. [M-11]
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// killGrace is how long Close waits for connections after cutting them off.
const killGrace = time.Second

// ListenConfig says where to listen and what to allow.
type ListenConfig struct {
	Addr            string                                   // host:port; port 0 picks a free one
	TLS             *tls.Config                              // nil: loopback only [M-14]
	MaxConns        int                                      // open connections; 0 is 10,000 [M-17]
	ConnectDeadline time.Duration                            // from accept to CONNECT, TLS included; 0 is 10 s [M-13]
	WriteTimeout    time.Duration                            // for a peer to take a write; 0 is 20 s [M-9]
	DrainTimeout    time.Duration                            // for what is queued at Close; 0 is 2 s [M-10]
	MaxPending      int                                      // bytes queued to one connection; 0 is 64 KiB [M-8]
	Serve           func(ctx context.Context, c *queuedConn) // owns c until it returns; ctx ends with the listener
	Log             *slog.Logger                             // nil: no log
	counters        *counters                                // nil: not shared
	listen          func(*net.TCPAddr) (net.Listener, error) // nil: TCP
}

func (cfg ListenConfig) withDefaults() ListenConfig {
	cfg.MaxConns = cmp.Or(cfg.MaxConns, 10_000)
	cfg.ConnectDeadline = cmp.Or(cfg.ConnectDeadline, 10*time.Second)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, 20*time.Second)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 2*time.Second)
	cfg.MaxPending = cmp.Or(cfg.MaxPending, 64<<10)
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	cfg.counters = cmp.Or(cfg.counters, new(counters))
	if cfg.listen == nil {
		cfg.listen = listenTCP
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.MinVersion = tls.VersionTLS13
	}
	return cfg
}

// Listener accepts connections, each in a goroutine of its own, until Close.
type Listener struct {
	cfg    ListenConfig
	shared connConfig
	ln     net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when every goroutine has ended

	mu      sync.Mutex
	closing bool
	open    map[net.Conn]*queuedConn // by socket; nil during the TLS handshake
	conns   sync.WaitGroup
}

// Listen opens the socket and starts accepting. Without TLS only a loopback address will do: a
// CONNECT is bound to its TLS connection, and the network must not see topics. [M-14]
func Listen(cfg ListenConfig) (*Listener, error) {
	cfg = cfg.withDefaults()
	addr, err := listenAddr(cfg)
	if err != nil {
		return nil, err
	}
	ln, err := cfg.listen(addr)
	if err != nil {
		return nil, fmt.Errorf("hooks: %w", err)
	}
	l := &Listener{cfg: cfg, ln: ln, done: make(chan struct{}), open: map[net.Conn]*queuedConn{}}
	l.shared.maxPending, l.shared.writeTimeout, l.shared.drain, l.shared.counters = cfg.MaxPending, cfg.WriteTimeout, cfg.DrainTimeout, cfg.counters
	l.ctx, l.cancel = context.WithCancel(context.Background())
	go l.run()
	return l, nil
}

// listenAddr resolves the address once, so that what was checked is what is bound.
func listenAddr(cfg ListenConfig) (*net.TCPAddr, error) {
	addr, err := net.ResolveTCPAddr("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("hooks: %w", err)
	}
	if cfg.TLS == nil && !addr.IP.IsLoopback() {
		return nil, fmt.Errorf("hooks: %s is not a loopback address: give a TLS certificate, or listen on 127.0.0.1", cfg.Addr)
	}
	if t := cfg.TLS; t != nil && len(t.Certificates) == 0 && t.GetCertificate == nil && t.GetConfigForClient == nil {
		return nil, errors.New("hooks: TLS without a certificate")
	}
	return addr, nil
}

// listenTCP turns the kernel's keepalive probes off: every 15 s they would wake a phone's radio,
// and MQTT has its own. [M-18]
func listenTCP(addr *net.TCPAddr) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	return lc.Listen(context.Background(), "tcp", addr.String())
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Conns is the number of connections open, those still in their TLS handshake included.
func (l *Listener) Conns() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// Traffic is a listener's totals since it started, and what is open now. Bytes are MQTT's, before
// TLS. No figure says anything of one client.
type Traffic struct {
	Open              int
	Accepted, Refused int64 // Refused: over the cap [M-17]
	AcceptErrors      int64 // [M-11]
	SlowConsumers     int64 // reset because they did not read [M-8] [M-9]
	Panics            int64 // [M-15]
	BytesIn, BytesOut int64
}

// Traffic returns the figures of this moment.
func (l *Listener) Traffic() Traffic {
	n := l.cfg.counters
	return Traffic{
		Open: l.Conns(), Accepted: n.accepted.Load(), Refused: n.refused.Load(), AcceptErrors: n.acceptErrors.Load(),
		SlowConsumers: n.slowConsumers.Load(), Panics: n.panics.Load(), BytesIn: n.bytesIn.Load(), BytesOut: n.bytesOut.Load(),
	}
}

// run accepts until Close, then waits for the connections.
func (l *Listener) run() {
	defer close(l.done)
	for backoff := time.Duration(0); l.ctx.Err() == nil; {
		conn, err := l.ln.Accept()
		if err == nil {
			backoff = 0
			l.admit(conn)
			continue
		}
		backoff = l.pause(backoff, err)
	}
	l.conns.Wait()
}

// pause waits after a failed accept, longer each time; running out of descriptors ends nothing.
// Only the first failure of a row is logged. [M-11]
func (l *Listener) pause(backoff time.Duration, err error) time.Duration {
	if l.ctx.Err() != nil {
		return 0
	}
	l.cfg.counters.acceptErrors.Add(1)
	if backoff == 0 {
		l.cfg.Log.Warn("accept failed; trying on", "error", err)
	}
	backoff = min(max(2*backoff, minBackoff), maxBackoff)
	select {
	case <-time.After(backoff):
	case <-l.ctx.Done():
	}
	return backoff
}

// admit starts a connection's goroutine, or resets it if there are too many. [M-17]
func (l *Listener) admit(conn net.Conn) {
	l.mu.Lock()
	full := l.closing || len(l.open) >= l.cfg.MaxConns
	if !full {
		l.open[conn] = nil
	}
	l.mu.Unlock()
	if full {
		l.cfg.counters.refused.Add(1)
		abort(conn)
		return
	}
	l.cfg.counters.accepted.Add(1)
	l.conns.Go(func() { l.serve(conn) })
}

// serve is a connection's goroutine: handshake, Serve, and a bounded farewell.
func (l *Listener) serve(conn net.Conn) {
	defer l.forget(conn)
	_ = conn.SetDeadline(time.Now().Add(l.cfg.ConnectDeadline)) // Serve moves it after CONNECT [M-13]
	secured, err := l.handshake(conn)
	if err != nil {
		abort(conn)
		return
	}
	c := newQueuedConn(secured, &l.shared)
	if l.established(conn, c) {
		l.guard(c)
	}
	_ = c.Close()
	c.wait()
}

// handshake returns conn itself without TLS. Closing conn interrupts it.
func (l *Listener) handshake(conn net.Conn) (net.Conn, error) {
	if l.cfg.TLS == nil {
		return conn, nil
	}
	secured := tls.Server(conn, l.cfg.TLS)
	return secured, secured.HandshakeContext(context.Background())
}

// established makes c known to Close; false if that has begun.
func (l *Listener) established(conn net.Conn, c *queuedConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[conn] = c
	return !l.closing
}

func (l *Listener) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, conn)
}

// guard keeps a panic from ending more than the connection that met it. It logs where, not with
// what: the value could hold a text. [M-15]
func (l *Listener) guard(c *queuedConn) {
	defer func() {
		if v := recover(); v != nil {
			l.cfg.counters.panics.Add(1)
			l.cfg.Log.Error("panic in a connection, which is closed", "type", fmt.Sprintf("%T", v), "at", callers())
		}
	}()
	l.cfg.Serve(l.ctx, c)
}

// callers names the functions below a recovered panic, innermost first, without their arguments.
func callers() string {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var at []string
	for {
		f, more := frames.Next()
		at = append(at, fmt.Sprintf("%s:%d", f.Function, f.Line))
		if !more {
			return strings.Join(at, " < ")
		}
	}
}

// Close stops accepting, ends the context given to Serve, closes every connection after sending
// what is queued to it, and waits for their goroutines. When ctx ends first, it cuts the rest off,
// waits one second more, and returns ctx's error if any Serve has not returned by then. [M-16]
func (l *Listener) Close(ctx context.Context) error {
	l.cancel()
	err := l.ln.Close()
	l.each((*queuedConn).Close)
	if l.ended(ctx.Done()) {
		return ignoreClosed(err)
	}
	l.each(func(c *queuedConn) error { c.kill(); return nil })
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
	defer cancel()
	if l.ended(grace.Done()) {
		return ignoreClosed(err)
	}
	return fmt.Errorf("hooks: %d connections did not end: %w", l.Conns(), ctx.Err())
}

// each ends every connection; a handshake is cut off.
func (l *Listener) each(end func(*queuedConn) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for conn, c := range l.open {
		if c == nil {
			_ = conn.Close()
			continue
		}
		_ = end(c)
	}
}

// ended waits for every goroutine, or for the end of patience.
func (l *Listener) ended(patience <-chan struct{}) bool {
	select {
	case <-l.done:
		return true
	case <-patience:
		return false
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
