package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"bluejay/blind"
	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/clients/handset"
	"bluejay/consent"
	"bluejay/custody"
	"bluejay/envelope"
	"bluejay/hooks"
	"bluejay/registrar"
	"bluejay/wire"
	"bluejay/worker"
)

// dirLog is the folder of the consent log below a node's directory.
const dirLog = "consent-log"

// stopTime bounds a shutdown.
const stopTime = 15 * time.Second

// role is one running part of a node. stop is bounded by its context.
type role struct {
	stop func(context.Context) error
	nats string // broker: how the others reach NATS
	addr string // broker: where handsets connect
	http string

	keyed <-chan struct{} // registrar: closed when it has the worker's key
	ended <-chan struct{} // worker: closed when it gave up by itself; stop then says why
}

// startRole starts one part in this process, reading only that part's key folder.
func startRole(ctx context.Context, r bridge.Role, c *nodeConfig, natsURL string, log *slog.Logger) (*role, error) {
	log = log.With("role", string(r))
	switch r {
	case bridge.RoleBroker:
		return startBroker(ctx, c, log)
	case bridge.RoleRegistrar:
		return startRegistrar(ctx, c, natsURL, log)
	case bridge.RoleWorker:
		return startWorker(ctx, c, natsURL, log)
	}
	return nil, fmt.Errorf("unknown role %q", r)
}

func startBroker(ctx context.Context, c *nodeConfig, log *slog.Logger) (*role, error) {
	keys := c.keyDir(bridge.RoleBroker)
	pins, err := handset.LoadPins(c.pinsPath())
	if err != nil {
		return nil, err
	}
	cfg, err := brokerConfig(c, keys, pins)
	if err != nil {
		return nil, err
	}
	cfg.Log = log
	metrics := newMetrics()
	var started atomic.Pointer[broker.Broker] // nil: all figures are 0
	metrics.MustRegister(
		newFigures(func() hooks.Counts {
			if b := started.Load(); b != nil {
				return b.Counts()
			}
			return hooks.Counts{}
		}, brokerFigures),
		newFigures(func() broker.EventCounts {
			if b := started.Load(); b != nil {
				return b.EventCounts()
			}
			return broker.EventCounts{}
		}, eventFigures),
		newFigures(func() broker.LogCounts {
			if b := started.Load(); b != nil {
				return b.LogCounts()
			}
			return broker.LogCounts{}
		}, logFigures))
	fence := newFenceMetrics()
	metrics.MustRegister(fence)
	cfg.Observe = fence.observe
	cfg.Metrics = metricsHandler(metrics)
	b, err := broker.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	started.Store(b)
	return &role{stop: b.Shutdown, nats: b.NATSURL(), addr: b.Addr(), http: b.HTTPAddr()}, nil
}

func brokerConfig(c *nodeConfig, keys keyDir, pins handset.Pins) (broker.Config, error) {
	receipt, err1 := keys.seed(fileReceipt)
	tag, err2 := keys.exactly(fileTag, sizeTag)
	tlsConfig, err3 := serverTLS(c)
	natsTLS, err4 := c.natsTLS()
	err5 := checkCreds(c.creds(bridge.RoleBroker))
	cfg := broker.Config{
		Name: pins.Broker, Addr: c.Listen, TLS: tlsConfig, HTTPAddr: c.HTTP, MaxConns: c.MaxConns,
		NATSURL: c.NATS, NATSCreds: c.creds(bridge.RoleBroker), NATSTLS: natsTLS,
		NATS: broker.NATSConfig{Dir: filepath.Join(c.Dir, "nats"), Listen: c.NATSListen, Trust: trustDir(c.Dir)},
		Root: pins.Root, Registrar: pins.Registrar, Receipt: receipt, TagKey: tag,
		LogDir: filepath.Join(c.Dir, dirLog), LogKeys: pins.Receipt,
		SealSender: func(id wire.ID, m wire.MessageID) ([]byte, error) {
			return envelope.SealSender(pins.RegistrarBox, id, m)
		},
		Custody: custody.Config{Deadline: time.Duration(c.Deadline)},
		Quotas:  consent.Limits{NewRecipients: c.Recipients, Hellos: c.Hellos, PairHellos: c.PairHellos, Bundles: c.Bundles},
		GreyMin: time.Duration(c.GreyMin), GreyMax: time.Duration(c.GreyMax), Integrators: c.integrators,
		Notices: c.notices, MinVersion: c.MinVer,
	}
	return cfg, errors.Join(err1, err2, err3, err4, err5)
}

func serverTLS(c *nodeConfig) (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, nil
}

// connect opens a role's connection to NATS.
func connect(ctx context.Context, r bridge.Role, c *nodeConfig, natsURL string, log *slog.Logger) (*bridge.Bridge, error) {
	natsTLS, err := c.natsTLS()
	if err != nil {
		return nil, err
	}
	creds := c.creds(r)
	if err := checkCreds(creds); err != nil {
		return nil, err
	}
	return bridge.Connect(ctx, bridge.Config{URL: natsURL, Role: r, Creds: creds, TLS: natsTLS, Log: log})
}

// checkCreds names a credentials file that cannot be used; NATS's own errors do not.
func checkCreds(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("NATS credentials: %w (make the keys with `bluejay keys init`)", err)
	}
	defer clear(b)
	if !bytes.Contains(b, []byte("BEGIN NATS USER JWT")) || !bytes.Contains(b, []byte("BEGIN USER NKEY SEED")) {
		return fmt.Errorf("%s: not a NATS credentials file", file)
	}
	return nil
}

// creds is the credentials file of a role.
func (c *nodeConfig) creds(r bridge.Role) string {
	if c.NATSCreds != "" {
		return c.NATSCreds
	}
	return c.keyDir(r).path(fileCreds)
}

// natsTLS says whom to believe that it is the NATS server; nil: as the URL says.
func (c *nodeConfig) natsTLS() (*tls.Config, error) {
	if c.NATSCA == "" {
		return nil, nil
	}
	roots, err := readCA(c.NATSCA)
	if err != nil {
		return nil, fmt.Errorf("nats-%w", err)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

func startRegistrar(ctx context.Context, c *nodeConfig, natsURL string, log *slog.Logger) (*role, error) {
	cfg, err := registrarConfig(c.keyDir(bridge.RoleRegistrar))
	if err != nil {
		return nil, err
	}
	b, err := connect(ctx, bridge.RoleRegistrar, c, natsURL, log)
	if err != nil {
		return nil, err
	}
	key := newLatestKey()
	cfg.Counts, cfg.Jobs, cfg.WorkerKey, cfg.Consents, cfg.Records, cfg.Log = counts{b.Counts()}, b.Jobs(), key.get, b, kept{b}, log
	reg, err := registrar.New(cfg)
	if err == nil {
		err = errors.Join(b.WatchWorkerKey(key.set), b.ServeRegistrar(handlers(reg)),
			b.ServeQuestions(bridge.Questions{Hold: reg.HandleHold, Erase: reg.HandleErase}))
	}
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	ready := func(context.Context) error {
		if _, ok := key.get(); !ok || !b.Connected() {
			return errors.New("no connection to NATS, or no key of the SMS worker yet: nobody can enrol")
		}
		return nil
	}
	status, err := serveStatus(c.RegistrarHTTP, ready, metricsHandler(newMetrics()))
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	stop := func(ctx context.Context) error { return errors.Join(status.stop(ctx), b.Close(ctx)) }
	return &role{stop: stop, keyed: key.first, http: status.address()}, nil
}

func registrarConfig(keys keyDir) (registrar.Config, error) {
	cert, err1 := keys.seed(fileCert)
	root, err2 := keys.seed(fileRoot)
	voprf, err3 := parsed(keys, fileVOPRF, blind.ParseServerKey)
	box, err4 := parsed(keys, fileBox, envelope.ParseRegistrarSecret)
	return registrar.Config{Cert: cert, Root: root, VOPRF: voprf, Secret: box, KID: 1}, errors.Join(err1, err2, err3, err4)
}

func startWorker(ctx context.Context, c *nodeConfig, natsURL string, log *slog.Logger) (*role, error) {
	keys := c.keyDir(bridge.RoleWorker)
	number, err1 := keys.exactly(fileNumber, sizeNumber)
	box, err2 := keys.exactly(fileStopBox, sizeBox)
	ways, err3 := openWays(c, os.Stdout, log)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	b, err := connect(ctx, bridge.RoleWorker, c, natsURL, log)
	if err != nil {
		return nil, err
	}
	if err := ways.connect(ctx, b, natsURL); err != nil {
		ways.disconnect()
		return nil, errors.Join(err, b.Close(ctx))
	}
	queue, err := b.OpenQueue(ctx)
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	counted := newWorkerMetrics()
	counted.watch(ways.routes.All())
	w, err := worker.New(worker.Config{
		Queue: queue, Journal: b.Journal(), Events: b, Registrar: b, Keys: b, Suppressions: b.Suppressions(), Caps: b.Caps(),
		Routes: ways.routes, Limits: ways.limits, Replies: ways.replies, Observe: counted.observe,
		SealNumber: func(n wire.Number) ([]byte, error) { return envelope.SealNumber(box, n) },
		NumberKey:  number, Secrets: worker.Folder(keys), Log: log, Records: rows{b},
	})
	if err == nil {
		err = b.ServeQuestions(bridge.Questions{Hold: w.HandleHold, Erase: w.HandleErase})
	}
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	return serveWorker(c, ways, w, counted, b)
}

// serveWorker runs w and what it serves over HTTP: to its operator, and to the gateways that call back.
func serveWorker(c *nodeConfig, ways *ways, w *worker.Worker, counted *workerMetrics, b *bridge.Bridge) (*role, error) {
	callbacks, err1 := ways.serve()
	status, err2 := serveStatus(c.WorkerHTTP, w.Ready, metricsHandler(counted.registry))
	r := runWorker(w, b)
	r.http = status.address()
	stop := r.stop
	r.stop = func(ctx context.Context) error {
		err := errors.Join(callbacks.stop(ctx), stop(ctx), status.stop(ctx))
		ways.disconnect()
		return err
	}
	if err := errors.Join(err1, err2); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		return nil, errors.Join(err, r.stop(ctx))
	}
	return r, nil
}

// runWorker runs w until stop, then closes its connection.
func runWorker(w *worker.Worker, b *bridge.Bridge) *role {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var err error
	go func() { err = w.Run(ctx); close(done) }()
	return &role{ended: done, stop: func(stop context.Context) error {
		cancel()
		select {
		case <-done:
			return errors.Join(err, b.Close(stop))
		case <-stop.Done():
			return errors.Join(stop.Err(), b.Close(stop))
		}
	}}
}

// The SMSC's password is in the environment of the command; serve takes it out of the broker's and
// gives the worker a pipe to read it from.
const (
	envPassword   = "BLUEJAY_SMS_PASSWORD"
	envPasswordFD = "BLUEJAY_SMS_PASSWORD_FD"
)

func smsPassword() (string, error) {
	f := passwordFile()
	if f == nil {
		return os.Getenv(envPassword), nil
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", fmt.Errorf("SMS password: %w", err)
	}
	return string(b), nil
}
