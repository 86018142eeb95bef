package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"bluejay/blind"
	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/clients/handset"
	"bluejay/custody"
	"bluejay/envelope"
	"bluejay/registrar"
	"bluejay/sms"
	"bluejay/wire"
	"bluejay/worker"
)

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
	b, err := broker.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &role{stop: b.Shutdown, nats: b.NATSURL(), addr: b.Addr(), http: b.HTTPAddr()}, nil
}

func brokerConfig(c *nodeConfig, keys keyDir, pins handset.Pins) (broker.Config, error) {
	receipt, err1 := keys.seed(fileReceipt)
	tag, err2 := keys.exactly(fileTag, sizeTag)
	password, err3 := keys.password()
	users, err4 := natsUsers(keys)
	tlsConfig, err5 := serverTLS(c)
	cfg := broker.Config{
		Name: pins.Broker, Addr: c.Listen, TLS: tlsConfig, HTTPAddr: c.HTTP, MaxConns: c.MaxConns,
		NATSURL: c.NATS, NATSPassword: password, NATSCreds: c.NATSCreds,
		NATS: broker.NATSConfig{Dir: filepath.Join(c.Dir, "nats"), Listen: c.NATSListen, Users: users},
		Root: pins.Root, Registrar: pins.Registrar, Receipt: receipt, TagKey: tag,
		SealSender: func(id wire.ID, m wire.MessageID) ([]byte, error) {
			return envelope.SealSender(pins.RegistrarBox, id, m)
		},
		Custody: custody.Config{Deadline: time.Duration(c.Deadline)},
		GreyMin: time.Duration(c.GreyMin), GreyMax: time.Duration(c.GreyMax),
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
	password, err := c.keyDir(r).password()
	if err != nil {
		return nil, err
	}
	return bridge.Connect(ctx, bridge.Config{URL: natsURL, Role: r, Password: password, Creds: c.NATSCreds, Log: log})
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
	cfg.Counts, cfg.Jobs, cfg.WorkerKey, cfg.Log = counts{b.Counts()}, b.Jobs(), key.get, log
	reg, err := registrar.New(cfg)
	if err == nil {
		err = errors.Join(b.WatchWorkerKey(key.set), b.ServeRegistrar(handlers(reg)))
	}
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	return &role{stop: b.Close, keyed: key.first}, nil
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
	number, err := keys.exactly(fileNumber, sizeNumber)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(c, log)
	if err != nil {
		return nil, err
	}
	from, err := sms.ParseSender(c.SMSFrom)
	if err != nil {
		return nil, fmt.Errorf("sms-from: %w", err)
	}
	b, err := connect(ctx, bridge.RoleWorker, c, natsURL, log)
	if err != nil {
		return nil, err
	}
	queue, err := b.OpenQueue(ctx)
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	w, err := worker.New(worker.Config{
		Queue: queue, Journal: b.Journal(), Events: b, Registrar: b, Keys: b, Transport: transport,
		NumberKey: number, From: from, AllowUnchecked: c.Unchecked, Secrets: worker.Folder(keys), Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	return runWorker(w, b), nil
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

// newTransport reads the sms setting.
func newTransport(c *nodeConfig, log *slog.Logger) (sms.Transport, error) {
	if c.SMS == "console" {
		return sms.NewConsole(os.Stdout), nil
	}
	u, err := url.Parse(c.SMS)
	if err != nil || (u.Scheme != "smpp" && u.Scheme != "smpps") || u.Host == "" || u.User == nil {
		return nil, errors.New("sms: want console, smpp://USER@HOST:PORT or smpps://USER@HOST:PORT")
	}
	password, err := smsPassword()
	if err != nil {
		return nil, err
	}
	cfg := sms.SMPPConfig{Name: "smpp", Addr: u.Host, SystemID: u.User.Username(), Password: password, Log: log}
	if u.Scheme == "smpps" {
		cfg.TLS = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	return sms.NewSMPP(cfg)
}

// The SMSC's password is in the environment of the command; serve takes it out of the broker's and
// gives the worker a pipe to read it from.
const (
	envPassword   = "BLUEJAY_SMS_PASSWORD"
	envPasswordFD = "BLUEJAY_SMS_PASSWORD_FD"
	maxPassword   = 1 << 10
)

func smsPassword() (string, error) {
	f := passwordFile()
	if f == nil {
		return os.Getenv(envPassword), nil
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxPassword))
	if err != nil {
		return "", fmt.Errorf("SMS password: %w", err)
	}
	return string(b), nil
}
