// Package broker is one node of the service: it starts the parts, joins them and stops them.
//
//  1. NATS: an embedded server with its streams on disk, or the URL of another one.
//  2. The bridge: consent states, the fallback queue, the registrar's services, other brokers.
//  3. hooks.Node: the MQTT sessions and what they may do.
//  4. The MQTT listener, last: nothing is accepted before everything works.
//  5. An HTTP listener for /livez, /readyz and the consent log; ready means that a text made the round
//     trip.
//
// Shutdown runs the other way, bounded by its context; every text in flight is still held by its
// sender. [C-7] The node never holds the VOPRF key, a number or the SMS worker's key.
package broker

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/custody"
	"bluejay/hooks"
	"bluejay/wire"
)

// Config is what a node needs. Required: Name, Dir or NATSURL, the keys.
type Config struct {
	Name     string       // the name handsets pin
	Addr     string       // MQTT; "" is 127.0.0.1:1883
	TLS      *tls.Config  // nil: loopback only, with time-stamped CONNECTs
	HTTPAddr string       // "" is no HTTP
	Metrics  http.Handler // at /metrics; nil: none
	MaxConns int          // 0 is 10,000

	NATSURL   string      // "" embeds a server
	NATS      NATSConfig  // the embedded server
	NATSCreds string      // the credentials file of the broker's role
	NATSTLS   *tls.Config // for NATSURL; nil: what the URL says

	Root       wire.PublicKey // signs the worker's key
	Registrar  wire.PublicKey // signs certificates
	Receipt    ed25519.PrivateKey
	TagKey     []byte
	SealSender func(wire.ID, wire.MessageID) ([]byte, error)

	// LogDir is where the consent log is kept and served from; LogKeys verified its older checkpoints.
	// "": consent is not logged, for tests only. [L-7]
	LogDir  string
	LogKeys []wire.PublicKey

	// Integrators lists who subscribes; it is read every five seconds. Nil: nobody does.
	Integrators func() ([]Integrator, error)

	// Notices lists the texts that count, each by its hash; it is read every five seconds. Nil: any text does.
	Notices    func() ([][16]byte, error)
	MinVersion int // the oldest version that handsets may be made for; 0: any
	// Observe is told how long after its arrival a revocation had reached each part. Nil: nobody is.
	Observe func(hooks.Part, time.Duration)

	Limits  bridge.Limits
	Quotas  consent.Limits // of hellos and bundles
	Custody custody.Config
	GreyMin time.Duration // 0 is 20 s
	GreyMax time.Duration // 0 is twice GreyMin
	Log     *slog.Logger
}

// Broker is a running node. The zero value is not usable; see [Start].
type Broker struct {
	cfg      Config
	nats     *NATS // nil with an external server
	bridge   *bridge.Bridge
	node     *hooks.Node
	ledger   *Ledger // nil: none
	listener *hooks.Listener
	http     *http.Server
	httpLn   net.Listener
	ready    *readiness
	outlets  *integrators                   // nil: no integrators
	policy   atomic.Pointer[consent.Policy] // what the node goes by
	stop     []func(context.Context) error  // in the order of starting
}

// Start starts a node and returns once it accepts handsets. On error everything it had started is
// stopped again.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	cfg.Log = orDiscard(cfg.Log)
	b := &Broker{cfg: cfg}
	steps := []func(context.Context) error{b.startNATS, b.startBridge, b.startNode, b.startListener, b.startHTTP}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			_ = b.Shutdown(ctx)
			return nil, err
		}
	}
	return b, nil
}

// onStop remembers how to stop a part that has started.
func (b *Broker) onStop(f func(context.Context) error) { b.stop = append(b.stop, f) }

func (b *Broker) startNATS(context.Context) error {
	if b.cfg.NATSURL != "" {
		return nil
	}
	b.cfg.NATS.Log = b.cfg.Log
	n, err := StartNATS(b.cfg.NATS)
	if err != nil {
		return err
	}
	b.nats = n
	b.onStop(n.Close)
	return nil
}

func (b *Broker) startBridge(ctx context.Context) error {
	c := bridge.Config{
		URL: b.cfg.NATSURL, Role: bridge.RoleBroker, Creds: b.cfg.NATSCreds, TLS: b.cfg.NATSTLS, Log: b.cfg.Log,
	}
	if b.nats != nil {
		c.InProcess = b.nats
	}
	br, err := bridge.Connect(ctx, c)
	if err != nil {
		return fmt.Errorf("broker: NATS: %w", err)
	}
	b.bridge = br
	b.onStop(br.Close)
	return br.EnsureStreams(ctx, b.cfg.Limits)
}

func (b *Broker) startNode(ctx context.Context) error {
	var err error
	jobs, outcomes := b.bridge.Jobs(), b.bridge.Outcomes()
	var node *hooks.Node
	router := b.bridge.OpenRouter(func(t wire.Tag, payload []byte, reply func(wire.Code)) {
		if t == onlyBroker {
			reply(wire.OK)
			return
		}
		node.Route(t, payload, reply)
	})
	if err := alone(ctx, router); err != nil {
		return err
	}
	cfg := hooks.Config{
		Name: b.cfg.Name, Registrar: b.cfg.Registrar, Receipt: b.cfg.Receipt, TagKey: b.cfg.TagKey,
		SealSender: b.cfg.SealSender, Store: b.bridge.Store(), Relay: b.bridge, Jobs: jobs, Outcomes: outcomes,
		Router: router, Quotas: b.cfg.Quotas, Custody: b.cfg.Custody, GreyMin: b.cfg.GreyMin, GreyMax: b.cfg.GreyMax, Log: b.cfg.Log,
		MinVersion: b.cfg.MinVersion, Observe: b.cfg.Observe,
	}
	if b.cfg.LogDir != "" {
		if err := b.startLedger(); err != nil {
			return err
		}
		cfg.Ledger = b.ledger
	}
	if cfg.Policy, err = b.readPolicy(); err != nil {
		return fmt.Errorf("broker: the notices: %w", err)
	}
	b.policy.Store(&cfg.Policy)
	b.startIntegrators(&cfg)
	node, err = hooks.New(cfg)
	if err != nil {
		return err
	}
	b.node = node
	b.onStop(node.Close)
	router.Fenced(node.Fence)
	b.watchPolicy()
	if err := b.bridge.WatchWorkerKey(b.workerKey); err != nil {
		return err
	}
	if err := b.bridge.ServeConsents(bridge.Consents{Seq: node.HandleSeq, Revoke: node.HandleRevoke}); err != nil {
		return err
	}
	k := b.keeper()
	if err := b.bridge.ServeQuestions(bridge.Questions{Hold: k.HandleKept, Erase: k.HandleForget}); err != nil {
		return err
	}
	return outcomes.Watch(node.Outcome)
}

// startLedger opens the consent log, for this process alone: two that wrote it would sign two logs.
func (b *Broker) startLedger() error {
	release, err := lockDir(b.cfg.LogDir)
	if err != nil {
		return err
	}
	b.onStop(func(context.Context) error { return release() })
	b.ledger, err = OpenLedger(b.cfg.LogDir, b.cfg.Name, b.cfg.Receipt, b.cfg.LogKeys...)
	return err
}

// startIntegrators begins to pass events on, and has the node tell when a user withdraws.
func (b *Broker) startIntegrators(cfg *hooks.Config) {
	if b.cfg.Integrators == nil {
		return
	}
	x := b.newIntegrators()
	b.outlets = x
	cfg.SealParty = func(id wire.ID) ([]byte, error) { return sealParty(x.key, id, time.Now()) }
	cfg.Withdraw = x.withdraw
	b.runUntilStopped(x.run)
}

// runUntilStopped runs f in a goroutine until the broker is shut down, which waits for it.
func (b *Broker) runUntilStopped(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f(ctx); close(done) }()
	b.onStop(func(stop context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-stop.Done():
			return stop.Err()
		}
	})
}

// EventCounts returns the figures about integrators.
func (b *Broker) EventCounts() EventCounts {
	if b.outlets == nil {
		return EventCounts{}
	}
	return b.outlets.counts()
}

// onlyBroker is a tag that no device can have by chance or wish; the broker of a NATS claims it.
var onlyBroker = wire.Tag{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ErrSecond reports another broker on the same NATS. Texts would find their way between the two,
// but a revocation, a takeover, presence and hellos would stop at the broker they reach.
var ErrSecond = errors.New("broker: another broker runs on this NATS: stop it first; several on one NATS are not supported yet")

// alone claims the NATS for this broker. Where there is no other, the NATS says so at once; another may be slow to
// answer, and is not to be overlooked. Two that start in the same moment are not told apart.
func alone(ctx context.Context, r *bridge.Router) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if code, err := r.Forward(ctx, onlyBroker, []byte{0}); err == nil && code == wire.OK {
		return ErrSecond
	}
	return r.Claim(onlyBroker)
}

// workerKey passes on a worker key record that the pinned root signed, and no other. [F-2]
func (b *Broker) workerKey(k wire.WorkerKey) {
	if err := k.Verify(b.cfg.Root, time.Now()); err != nil {
		b.cfg.Log.Warn("worker key refused", "error", err)
		return
	}
	b.node.SetWorkerKey(k)
}

func (b *Broker) startListener(context.Context) error {
	addr := b.cfg.Addr
	if addr == "" {
		addr = "127.0.0.1:1883"
	}
	l, err := hooks.Listen(hooks.ListenConfig{
		Addr: addr, TLS: b.cfg.TLS, MaxConns: b.cfg.MaxConns, Serve: b.node.Serve, Log: b.cfg.Log,
	})
	if err != nil {
		return err
	}
	b.listener = l
	b.onStop(func(ctx context.Context) error {
		b.node.Disconnect() // while what it says can still be written
		return l.Close(ctx)
	})
	if b.cfg.TLS == nil {
		b.cfg.Log.Warn("no TLS certificate: listening on loopback only", "addr", l.Addr().String())
	}
	return nil
}

func (b *Broker) startHTTP(context.Context) error {
	var err error
	if b.ready, err = newReadiness(b.node, b.Addr(), b.cfg.TLS); err != nil || b.cfg.HTTPAddr == "" {
		return err
	}
	if b.httpLn, err = net.Listen("tcp", b.cfg.HTTPAddr); err != nil {
		return fmt.Errorf("broker: HTTP: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", b.serveReady)
	if b.cfg.Metrics != nil {
		mux.Handle("GET /metrics", b.cfg.Metrics)
	}
	if b.ledger != nil {
		b.ledger.serveLog(mux)
	}
	b.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10}
	done := make(chan error, 1)
	go func() { done <- b.http.Serve(b.httpLn) }()
	b.onStop(func(ctx context.Context) error {
		err := b.http.Shutdown(ctx)
		<-done
		return err
	})
	return nil
}

func (b *Broker) serveReady(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := b.Ready(ctx); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// Ready makes a real round trip: a text published over the node's own listener, delivered to its
// recipient, acknowledged, and only then acknowledged to its sender; and NATS must answer. It does
// not prove that the registrar or the SMS worker is up. [M-24]
func (b *Broker) Ready(ctx context.Context) error {
	if !b.bridge.Connected() || (b.nats != nil && !b.nats.Healthy()) {
		return errors.New("NATS is not connected: the store and the fallback queue are out of reach")
	}
	return b.ready.check(ctx)
}

// Addr is where the node listens for MQTT.
func (b *Broker) Addr() string { return b.listener.Addr().String() }

// HTTPAddr is where the node serves /livez and /readyz, "" if nowhere.
func (b *Broker) HTTPAddr() string {
	if b.httpLn == nil {
		return ""
	}
	return b.httpLn.Addr().String()
}

// NATSURL is how the other processes of this node reach NATS.
func (b *Broker) NATSURL() string {
	if b.nats != nil {
		return b.nats.URL()
	}
	return b.cfg.NATSURL
}

// Counts returns the node's figures.
func (b *Broker) Counts() hooks.Counts { return b.node.Counts() }

// Shutdown stops the node, newest part first, each bounded by ctx. It returns every error.
func (b *Broker) Shutdown(ctx context.Context) error {
	var errs []error
	for i := len(b.stop) - 1; i >= 0; i-- {
		errs = append(errs, b.stop[i](ctx))
	}
	b.stop = nil
	return errors.Join(errs...)
}
