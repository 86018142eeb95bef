package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"bluejay/bridge"
	"bluejay/sms"
	"bluejay/worker"
)

// ways are the ways out that a worker has, and the operator's rules.
type ways struct {
	routes    *sms.Routes
	limits    worker.CapLimits
	replies   worker.Replies
	callbacks callbacksConfig
	handler   *http.ServeMux // what gateways call; nil: none does
	remotes   []*remoteLine
}

// openWays reads the settings of the SMS side; nothing is connected yet. out takes what a console
// prints.
func openWays(c *nodeConfig, out io.Writer, log *slog.Logger) (*ways, error) {
	if c.SMSRoutes == "" {
		return oneWay(c, out, log)
	}
	file, err := readSMSConfig(c.SMSRoutes)
	if err != nil {
		return nil, err
	}
	w := &ways{
		limits:    worker.CapLimits{PerNumber: file.Limits.PerNumber, PerSender: file.Limits.PerSender, Daily: file.Limits.Daily},
		replies:   file.Replies.texts(),
		callbacks: file.Callbacks,
	}
	var routes []sms.Route
	for i, r := range file.Routes {
		route, err := w.route(r, out, log)
		if err != nil {
			return nil, fmt.Errorf("%s: route %d (%s): %w", c.SMSRoutes, i+1, r.Name, err)
		}
		routes = append(routes, route)
	}
	policy := sms.NumberPolicy{Countries: file.Numbers.Countries, Premium: file.Numbers.Premium}
	if w.routes, err = sms.NewRoutes(routes, policy); err != nil {
		return nil, fmt.Errorf("%s: %w", c.SMSRoutes, err)
	}
	return w, nil
}

// texts are the replies, the defaults where nothing is said.
func (r repliesConfig) texts() worker.Replies {
	pick := func(said, otherwise string) string {
		switch said {
		case "":
			return otherwise
		case "-":
			return ""
		}
		return said
	}
	d := worker.DefaultReplies()
	return worker.Replies{Start: pick(r.Start, d.Start), Help: pick(r.Help, d.Help)}
}

// oneWay is what --sms says: one way for every country.
func oneWay(c *nodeConfig, out io.Writer, log *slog.Logger) (*ways, error) {
	t, err := newTransport(c, out, log)
	if err != nil {
		return nil, err
	}
	from, err := sms.ParseSender(c.SMSFrom)
	if err != nil {
		return nil, fmt.Errorf("sms-from: %w", err)
	}
	routes, err := sms.NewRoutes([]sms.Route{{Transport: t, From: from, Unchecked: c.Unchecked}}, sms.NumberPolicy{})
	return &ways{routes: routes, replies: worker.DefaultReplies()}, err
}

// newTransport reads the sms setting.
func newTransport(c *nodeConfig, out io.Writer, log *slog.Logger) (sms.Transport, error) {
	if c.SMS == "console" {
		return sms.NewConsole(out), nil
	}
	cfg, err := smppAddress(c.SMS)
	if err != nil {
		return nil, fmt.Errorf("sms: want console, or %w", err)
	}
	if cfg.Password, err = smsPassword(); err != nil {
		return nil, err
	}
	cfg.Name, cfg.Log = "smpp", log
	return sms.NewSMPP(cfg)
}

// smppAddress reads smpp://USER@HOST:PORT, or smpps:// for TLS.
func smppAddress(s string) (sms.SMPPConfig, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "smpp" && u.Scheme != "smpps") || u.Host == "" || u.User == nil {
		return sms.SMPPConfig{}, errors.New("smpp://USER@HOST:PORT or smpps://USER@HOST:PORT")
	}
	if _, has := u.User.Password(); has {
		return sms.SMPPConfig{}, errors.New("smpp://USER@HOST:PORT without the password, which every user of this machine could read here")
	}
	cfg := sms.SMPPConfig{Addr: u.Host, SystemID: u.User.Username()}
	if u.Scheme == "smpps" {
		cfg.TLS = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

// transports make a route's transport, by what it is sent via.
var transports = map[string]func(*ways, routeConfig, io.Writer, *slog.Logger) (sms.Transport, error){
	"console": func(_ *ways, _ routeConfig, out io.Writer, _ *slog.Logger) (sms.Transport, error) {
		return sms.NewConsole(out), nil
	},
	"smpp": (*ways).smpp, "kannel": (*ways).kannel, "http": (*ways).web, "gammu": (*ways).gammu,
	"remote": (*ways).remote,
}

func (w *ways) route(r routeConfig, out io.Writer, log *slog.Logger) (route sms.Route, err error) {
	make, ok := transports[r.Via]
	if !ok {
		return route, fmt.Errorf("via: %q is none of %s", r.Via, words(transports))
	}
	if r.Name == "" {
		return route, errors.New("name: every route needs one; receipts are told apart by it")
	}
	route = sms.Route{Countries: r.Countries, Validity: time.Duration(r.Validity), Unchecked: r.Unchecked, Daily: r.Daily}
	if r.From != "" {
		if route.From, err = sms.ParseSender(r.From); err != nil {
			return route, fmt.Errorf("from: %w", err)
		}
	}
	if route.Charset, err = oneOf("charset", r.Charset, charsets); err != nil {
		return route, err
	}
	if route.Quiet, err = quietHours(r.Quiet); err != nil {
		return route, err
	}
	route.Transport, err = make(w, r, out, log)
	return route, err
}

var charsets = map[string]sms.Charset{
	"": sms.CharsetAuto, "auto": sms.CharsetAuto, "ucs2": sms.CharsetUCS2, "latin1": sms.CharsetLatin1, "ascii": sms.CharsetASCII,
}

var idForms = map[string]sms.IDForm{
	"": sms.IDsAsIs, "as-is": sms.IDsAsIs, "numeric": sms.IDsNumeric, "hex-decimal": sms.IDsHexDecimal, "decimal-hex": sms.IDsDecimalHex,
}

var binds = map[string]sms.Bind{
	"": sms.Transceiver, "transceiver": sms.Transceiver, "transmitter": sms.Transmitter, "receiver": sms.Receiver, "both": sms.TwoLinks,
}

func (w *ways) smpp(r routeConfig, _ io.Writer, log *slog.Logger) (sms.Transport, error) {
	cfg, err := smppAddress(r.URL)
	if err != nil {
		return nil, fmt.Errorf("url: want %w", err)
	}
	if r.PasswordFile != "" {
		if cfg.Password, err = readSecret(r.PasswordFile); err != nil {
			return nil, fmt.Errorf("password-file: %w", err)
		}
	}
	if cfg.Statuses, err = r.statuses(); err != nil {
		return nil, err
	}
	if cfg.IDs, err = oneOf("ids", r.IDs, idForms); err != nil {
		return nil, err
	}
	if cfg.Bind, err = oneOf("bind", r.Bind, binds); err != nil {
		return nil, err
	}
	if r.CA != "" && cfg.TLS != nil {
		if cfg.TLS.RootCAs, err = readCA(r.CA); err != nil {
			return nil, err
		}
	}
	cfg.Name, cfg.SystemType, cfg.Rate, cfg.Window, cfg.Log = r.Name, r.SystemType, r.Rate, r.Window, log.With("route", r.Name)
	return sms.NewSMPP(cfg)
}

// gateway is what Kannel and other gateways have in common.
func (w *ways) gateway(r routeConfig, log *slog.Logger) (sms.GatewayConfig, error) {
	cfg := sms.GatewayConfig{Name: r.Name, URL: r.URL, Window: r.Window, Rate: r.Rate, Log: log.With("route", r.Name)}
	if r.CA != "" {
		roots, err := readCA(r.CA)
		if err != nil {
			return cfg, err
		}
		cfg.RootCAs = roots
	}
	if r.SecretFile == "" {
		return cfg, nil
	}
	if w.callbacks.URL == "" {
		return cfg, errors.New("secret-file: set url in [callbacks], where the gateway reaches this worker")
	}
	s, err := readSecret(r.SecretFile)
	if err != nil {
		return cfg, fmt.Errorf("secret-file: %w", err)
	}
	cfg.Secret = []byte(s)
	cfg.CallbackURL = strings.TrimSuffix(w.callbacks.URL, "/") + callbackPath(r.Name)
	return cfg, nil
}

// callbackPath is where a route's gateway calls back.
func callbackPath(route string) string { return "/sms/" + url.PathEscape(route) }

// mount lets a gateway call back.
func (w *ways) mount(r routeConfig, g *sms.Gateway, err error) (sms.Transport, error) {
	if err != nil || r.SecretFile == "" {
		return g, err
	}
	if w.handler == nil {
		w.handler = http.NewServeMux()
	}
	w.handler.Handle(callbackPath(r.Name)+"/", g.Callbacks())
	return g, nil
}

func (w *ways) kannel(r routeConfig, _ io.Writer, log *slog.Logger) (sms.Transport, error) {
	cfg, err := w.gateway(r, log)
	if err != nil {
		return nil, err
	}
	login, err := readSecret(r.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("password-file: %w", err)
	}
	user, password, ok := strings.Cut(login, ":")
	if !ok {
		return nil, errors.New("password-file: for Kannel it holds USERNAME:PASSWORD")
	}
	g, err := sms.NewKannel(sms.KannelConfig{GatewayConfig: cfg, Username: user, Password: password})
	return w.mount(r, g, err)
}

func (w *ways) web(r routeConfig, _ io.Writer, log *slog.Logger) (sms.Transport, error) {
	cfg, err := w.gateway(r, log)
	if err != nil {
		return nil, err
	}
	h := r.HTTP
	if r.PasswordFile != "" {
		token, err := readSecret(r.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password-file: %w", err)
		}
		h.Headers = maps.Clone(h.Headers)
		for k, v := range h.Headers {
			h.Headers[k] = strings.ReplaceAll(v, "$PASSWORD", token)
		}
	}
	g, err := sms.NewWeb(sms.WebConfig{
		GatewayConfig: cfg, Method: h.Method, Headers: h.Headers, Body: h.Body, IDField: h.IDField, CheckURL: h.CheckURL,
		Accepted: h.Accepted, Retry: h.Retry, Throttled: h.Throttle,
	})
	return w.mount(r, g, err)
}

func (w *ways) gammu(r routeConfig, _ io.Writer, log *slog.Logger) (sms.Transport, error) {
	return sms.NewGammu(sms.GammuConfig{
		Name: r.Name, Outbox: r.Gammu.Outbox, Sent: r.Gammu.Sent, Error: r.Gammu.Error, Inbox: r.Gammu.Inbox,
		Poll: time.Duration(r.Gammu.Poll), Log: log.With("route", r.Name),
	})
}

// errRemote ends a call of a route that is not connected.
var errRemote = errors.New("the route is not connected")

// remote is a route that an integrator serves; it is connected by [ways.connect], since it needs NATS.
func (w *ways) remote(r routeConfig, _ io.Writer, log *slog.Logger) (sms.Transport, error) {
	if r.Creds == "" {
		return nil, errors.New("creds: name the file that `bluejay nats creds --sms` made for the worker")
	}
	if err := checkCreds(r.Creds); err != nil {
		return nil, err
	}
	line := &remoteLine{name: r.Name, creds: r.Creds}
	t, err := sms.NewRemote(sms.RemoteConfig{Name: r.Name, Call: line.call, Probe: line.probe, Window: r.Window, Log: log.With("route", r.Name)})
	line.deliver = t.Deliver
	w.remotes = append(w.remotes, line)
	return t, err
}

// remoteLine is the connection of a remote route.
type remoteLine struct {
	name, creds string
	deliver     func(context.Context, []byte) error
	to          atomic.Pointer[bridge.Remote]
}

func (l *remoteLine) call(ctx context.Context, request []byte) ([]byte, error) {
	to := l.to.Load()
	if to == nil {
		return nil, sms.ErrNobody
	}
	answer, err := to.Call(ctx, request)
	if errors.Is(err, bridge.ErrNobody) {
		err = sms.ErrNobody
	}
	return answer, err
}

// probe reports whether the route is connected. Whether its integrator listens shows at the first text.
func (l *remoteLine) probe(context.Context) error {
	if l.to.Load() == nil {
		return fmt.Errorf("%w: it needs a running node; `serve` connects it", errRemote)
	}
	return nil
}

// connect connects the remote routes over the worker's NATS.
func (w *ways) connect(ctx context.Context, b *bridge.Bridge, url string) error {
	for _, l := range w.remotes {
		to, err := b.OpenRemote(ctx, bridge.IntegratorConfig{URL: url, Creds: l.creds, Name: l.name})
		if err == nil {
			l.to.Store(to)
			err = to.Receive(l.deliver)
		}
		if err != nil {
			return fmt.Errorf("route %s: %w", l.name, err)
		}
	}
	return nil
}

// disconnect ends what connect began.
func (w *ways) disconnect() {
	for _, l := range w.remotes {
		if to := l.to.Swap(nil); to != nil {
			to.Close()
		}
	}
}

// oneOf looks a word up, or says which there are.
func oneOf[T any](key, word string, known map[string]T) (T, error) {
	v, ok := known[word]
	if !ok {
		return v, fmt.Errorf("%s: %q is none of %s", key, word, words(known))
	}
	return v, nil
}

// maxSecret bounds a secret's file, in bytes.
const maxSecret = 1 << 10

// readSecret reads a file's one line.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if len(b) > maxSecret || s == "" || strings.ContainsAny(s, "\r\n") {
		return "", fmt.Errorf("%s: want one line of at most %d bytes", path, maxSecret)
	}
	return s, nil
}

// readCA reads the certificates that a peer's may be signed by.
func readCA(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("ca: %s: no certificate in it (PEM)", path)
	}
	return pool, nil
}

// serve listens for what gateways call; nil: no route is called back.
func (w *ways) serve() (*statusServer, error) {
	if w.handler == nil {
		return nil, nil
	}
	if w.callbacks.Listen == "" {
		return nil, errors.New("callbacks: a route is called back by its gateway: set listen and url in [callbacks]")
	}
	return listenHTTP(w.callbacks.Listen, w.handler)
}
