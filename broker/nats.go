package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// NATSConfig says how to run a NATS server inside this process. A node that is given the URL of
// another server needs none; everything else is the same.
type NATSConfig struct {
	Dir    string      // where JetStream keeps its files. Required; of one server only, nothing locks it
	Listen string      // host:port; empty: 127.0.0.1 and any free port
	TLS    *tls.Config // required when Listen is not this machine only
	// Trust is the folder that [Authority.WriteTrust] wrote: who may connect, and what each may do. An
	// account that is added to it later is found without a restart. Required
	Trust string
	// MaxStore bounds JetStream's files, in bytes. Zero: the server takes three quarters of what is free.
	MaxStore int64
	Log      *slog.Logger // nil: nothing is logged
}

// NATS is a running server. Every write that it acknowledges is on disk. [C-4]
type NATS struct{ srv *server.Server }

// ErrNATS reports a server that cannot be started as configured.
var ErrNATS = errors.New("broker: NATS server")

const (
	natsMaxPayload = 64 << 10
	natsMaxLine    = 8 << 10          // a CONNECT carries a token
	natsAccounts   = 1024             // at most
	natsStartWait  = 20 * time.Second // a large store is read first
)

// StartNATS starts the server and returns when clients can connect and JetStream is ready. It
// installs no signal handlers, writes nothing to the terminal, and opens no monitoring port.
func StartNATS(cfg NATSConfig) (*NATS, error) {
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNATS, err)
	}
	log := &natsLog{log: orDiscard(cfg.Log)}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start() // returns once it listens, or has failed
	if text := log.fatal.Load(); text != nil {
		srv.Shutdown()
		return nil, fmt.Errorf("%w: %s", ErrNATS, *text)
	}
	if !srv.ReadyForConnections(natsStartWait) || !srv.JetStreamEnabled() {
		srv.Shutdown()
		return nil, fmt.Errorf("%w: not ready in time", ErrNATS)
	}
	return &NATS{srv}, nil
}

func orDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

func (c NATSConfig) options() (*server.Options, error) {
	host, port, err := c.listen()
	if err != nil {
		return nil, err
	}
	if c.Dir == "" || c.Trust == "" {
		return nil, fmt.Errorf("%w: a directory and the accounts are needed", ErrNATS)
	}
	opts := &server.Options{
		ServerName: "bluejay", Host: host, Port: port, TLSConfig: c.TLS, TLS: c.TLS != nil,
		JetStream: true, StoreDir: c.Dir, SyncAlways: true, JetStreamMaxStore: c.MaxStore,
		NoSigs: true, NoLog: true, DisableJetStreamBanner: true, MaxPayload: natsMaxPayload, MaxControlLine: natsMaxLine,
	}
	return opts, c.trust(opts)
}

// trust has the server believe the operator, and find accounts where their tokens are.
func (c NATSConfig) trust(opts *server.Options) error {
	token, err := os.ReadFile(filepath.Join(c.Trust, fileOperator))
	if err != nil {
		return fmt.Errorf("%w: %w (make it with `bluejay keys init`)", ErrNATS, err)
	}
	operator, err := jwt.DecodeOperatorClaims(string(token))
	if err != nil {
		return fmt.Errorf("%w: %s is no operator's token", ErrNATS, fileOperator)
	}
	resolver, err := server.NewDirAccResolver(filepath.Join(c.Trust, dirAccounts), natsAccounts, time.Hour, server.NoDelete)
	if err != nil {
		return fmt.Errorf("%w: accounts: %w", ErrNATS, err)
	}
	opts.TrustedOperators = []*jwt.OperatorClaims{operator}
	opts.SystemAccount, opts.AccountResolver = operator.SystemAccount, resolver
	return nil
}

func (c NATSConfig) listen() (host string, port int, err error) {
	if c.Listen == "" {
		return "127.0.0.1", server.RANDOM_PORT, nil
	}
	host, p, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return "", 0, fmt.Errorf("%w: listen must be host:port", ErrNATS)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%w: listen must be host:port", ErrNATS)
	}
	ip := net.ParseIP(host)
	if c.TLS == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("%w: other machines may connect only with TLS", ErrNATS)
	}
	if n == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(n), nil
}

// URL is where clients connect, without user and password.
func (n *NATS) URL() string { return n.srv.ClientURL() }

// InProcessConn connects without a socket; pass the NATS itself as [bridge.Config.InProcess].
func (n *NATS) InProcessConn() (net.Conn, error) { return n.srv.InProcessConn() }

// Healthy reports whether the store still takes writes. After the disk was full it does not, even
// when there is space again, until the server is started anew.
func (n *NATS) Healthy() bool { return n.srv.Running() && n.srv.JetStreamEnabled() }

// Close stops the server and waits until its files are closed, or until ctx ends.
func (n *NATS) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() { n.srv.Shutdown(); n.srv.WaitForShutdown(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: still closing its files: %w", ErrNATS, ctx.Err())
	}
}

// natsLog gives the server's log to slog. It blanks what could stand in a subject: a tag, a
// pseudonym, an ID.
type natsLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string] // why the server cannot run
}

var natsSecrets = regexp.MustCompile(`(bj\.route\.|bj\.sms\.[a-z.]+\.|\$KV\.[a-z_]+\.)[-_A-Za-z0-9]+`)

func (l *natsLog) at(level slog.Level, format string, v []any) string {
	text := natsSecrets.ReplaceAllString(fmt.Sprintf(format, v...), "$1…")
	l.log.Log(context.Background(), level, "nats server", "text", text)
	return text
}

// Noticef is Debug here: the server tells much about itself at start.
func (l *natsLog) Noticef(f string, v ...any) { l.at(slog.LevelDebug, f, v) }

// Warnf logs a warning.
func (l *natsLog) Warnf(f string, v ...any) { l.at(slog.LevelWarn, f, v) }

// Errorf logs an error.
func (l *natsLog) Errorf(f string, v ...any) { l.at(slog.LevelError, f, v) }

// Fatalf keeps what the server cannot go on without; embedded, it does not end the process.
func (l *natsLog) Fatalf(f string, v ...any) {
	text := l.at(slog.LevelError, f, v)
	l.fatal.Store(&text)
}

// Debugf is off.
func (l *natsLog) Debugf(string, ...any) {}

// Tracef is off.
func (l *natsLog) Tracef(string, ...any) {}
