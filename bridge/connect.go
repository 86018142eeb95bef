package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// InProcess opens a connection to a NATS server in this process, without a socket.
type InProcess interface {
	InProcessConn() (net.Conn, error)
}

// Config says how to reach NATS, and as what.
type Config struct {
	// URL is nats://host:port, or tls://host:port. A host that is not this machine needs TLS: jobs
	// are sealed, but tags in subjects are not. Ignored when InProcess is set.
	URL string
	// InProcess, when set, is used instead of URL.
	InProcess InProcess
	// Role decides which inbox this process reads, and what the server should permit. Required.
	Role Role
	// User defaults to the role's name. Password may be empty when Creds is set.
	User, Password string
	// Creds is the path of a NATS credentials file; empty: user and password.
	Creds string
	// TLS is used when set; its zero value means what the URL says.
	TLS *tls.Config
	// Name identifies the connection on the server; it defaults to the role's name.
	Name string
	// Log takes what happens to the connection. Nil: nothing is logged.
	Log *slog.Logger
	// Timeout bounds each request whose context has no deadline. Zero: 5 s.
	Timeout time.Duration
}

const defaultTimeout = 5 * time.Second

// ErrConfig reports a [Config] that cannot work. It does not depend on the server.
var ErrConfig = errors.New("bridge: bad configuration")

// Bridge is one connection to NATS. Its methods may be called from any goroutine.
type Bridge struct {
	role    Role
	timeout time.Duration
	log     *slog.Logger
	tls     *tls.Config
	nc      *nats.Conn
	js      jetstream.JetStream
	closed  chan struct{} // closed by the connection's end

	ctx  context.Context // ends when Close begins; parent of everything the bridge starts
	stop context.CancelFunc
	wg   sync.WaitGroup // everything the bridge starts

	consent, keys, journal, counts, suppressed, void bucket
	jobs, outcomes                                   lazy[jetstream.Stream]
	queued                                           seqIndex
	left                                             leftIndex
	handles                                          sync.Map // name → jetstream.Stream
}

// Connect opens the connection, or fails: it does not wait for a server that is not there. After
// that the bridge reconnects for ever, and calls made meanwhile fail with [wire.Unavailable].
func Connect(ctx context.Context, cfg Config) (*Bridge, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	b := &Bridge{role: cfg.Role, timeout: cfg.Timeout, log: cfg.Log, tls: cfg.TLS, closed: make(chan struct{})}
	if b.timeout == 0 {
		b.timeout = defaultTimeout
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	nc, err := nats.Connect(cfg.address(), b.options(ctx, cfg)...)
	if err != nil {
		return nil, failure("connect", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(b.timeout))
	if err != nil {
		nc.Close()
		return nil, failure("connect", err)
	}
	b.nc, b.js = nc, js
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.openBuckets()
	return b, nil
}

func (c Config) check() error {
	if !c.Role.known() {
		return fmt.Errorf("%w: unknown role", ErrConfig)
	}
	if c.InProcess != nil || c.TLS != nil {
		return nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" {
		return fmt.Errorf("%w: the NATS URL must be like nats://127.0.0.1:4222", ErrConfig)
	}
	if u.Scheme != "tls" && !loopback(u.Hostname()) {
		return fmt.Errorf("%w: a NATS server on another machine needs tls://", ErrConfig)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Config) address() string {
	if c.InProcess != nil {
		return "nats://in-process"
	}
	return c.URL
}

// options never buffer: a publish while disconnected must fail at once, not be sent when the sender
// has long been told that it failed.
func (b *Bridge) options(ctx context.Context, c Config) []nats.Option {
	opts := []nats.Option{
		nats.Name(orElse(c.Name, string(c.Role))),
		nats.CustomInboxPrefix(c.Role.inbox()),
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectBufSize(-1),
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.Timeout(b.within(ctx)), nats.DrainTimeout(time.Minute),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
		nats.DisconnectErrHandler(func(*nats.Conn, error) {
			b.left.doubt()
			b.log.Warn("nats: disconnected")
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.log.Info("nats: connected again")
			b.Outcomes().refill()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			// Only the kind: the text names the subject, and a subject can hold a tag.
			b.log.Error("nats: asynchronous error", "reason", reason(err))
		}),
	}
	switch {
	case c.Creds != "":
		opts = append(opts, nats.UserCredentials(c.Creds))
	default:
		opts = append(opts, nats.UserInfo(orElse(c.User, string(c.Role)), c.Password))
	}
	if c.InProcess != nil {
		return append(opts, nats.InProcessServer(c.InProcess))
	}
	if c.TLS != nil {
		opts = append(opts, nats.Secure(c.TLS))
	}
	return opts
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// within is how long a call may take that began now under ctx.
func (b *Bridge) within(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return max(min(time.Until(end), b.timeout), time.Millisecond)
	}
	return b.timeout
}

// bound gives ctx a deadline when it has none.
func (b *Bridge) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.timeout)
}

// Connected reports whether the server can be reached now; a process's readiness is built on it.
func (b *Bridge) Connected() bool { return b.nc.IsConnected() }

// Close stops everything the bridge started, lets what is in flight finish until ctx ends, and then
// cuts it off. It may be called more than once; only a cut-off is an error.
func (b *Bridge) Close(ctx context.Context) error {
	b.stop()
	idle := make(chan struct{})
	go func() { b.wg.Wait(); close(idle) }()
	for _, done := range []<-chan struct{}{idle, b.drain()} {
		select {
		case <-done:
		case <-ctx.Done():
			b.nc.Close()
			return failure("close", ctx.Err())
		}
	}
	return nil
}

// drain begins to drain the connection; one that is disconnected has nothing to drain.
func (b *Bridge) drain() <-chan struct{} {
	if err := b.nc.Drain(); err != nil {
		b.nc.Close()
	}
	return b.closed
}
