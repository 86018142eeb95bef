package sms

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"bluejay/wire"
)

// GatewayConfig is what every HTTP gateway needs. Name and URL must be set.
type GatewayConfig struct {
	Name    string
	URL     string
	Client  *http.Client   // nil: one that follows no redirect
	RootCAs *x509.CertPool // for its certificate; nil: the system's
	Timeout time.Duration  // for one answer; 0: 10 s
	Window  int            // requests under way; 0: 10
	Rate    float64        // parts a second at most; 0: 1,000

	// CallbackURL is where the gateway reaches [Gateway.Callbacks], like https://sms.example.net/sms/uk.
	// Empty: it is not asked for receipts.
	CallbackURL string
	Secret      []byte // at least 16 bytes, signs what the gateway sends; required with CallbackURL
	Log         *slog.Logger
}

// Gateway is a transport over an HTTP gateway, which cuts texts into parts itself: one request carries
// a whole text. The three outcomes [F-11]: what was not written is NotSent; what was written and not
// answered, or answered in a way that says nothing, is Unknown. No request is ever repeated by itself.
type Gateway struct {
	cfg     GatewayConfig
	dialect dialect
	window  chan struct{}
	down    atomic.Bool // the last request did not get through
	inbox   atomic.Pointer[Handlers]

	mu   sync.Mutex // guards what follows
	pace *pacer
}

// dialect is how one kind of gateway is spoken to.
type dialect interface {
	// request makes the request for a text under an id of ours; callback is "" without receipts.
	request(ctx context.Context, m Message, parts int, id, callback string) (*http.Request, error)
	// judge reads an answer. ok is false when it does not say whether the text was taken.
	judge(status int, body []byte) (a Answer, ok bool)
	// check makes a request that sends nothing, and judges its answer.
	check(ctx context.Context) (*http.Request, error)
	checked(status int, body []byte) error
	// receipt and incoming read callbacks that were found authentic.
	receipt(query url.Values, body []byte) (wire.JobState, error)
	incoming(query url.Values, body []byte) (Incoming, error)
}

// Limits of what a gateway says, in bytes.
const (
	maxAnswer   = 16 << 10
	maxCallback = 16 << 10
)

var errGateway = errors.New("sms: a gateway needs a name and an http or https URL; callbacks need a secret of 16 bytes")

func newGateway(cfg GatewayConfig, d dialect) (*Gateway, error) {
	u, err := urlOf(cfg.URL)
	if cfg.Name == "" || err != nil || u.Host == "" || cfg.CallbackURL != "" && len(cfg.Secret) < 16 {
		return nil, errGateway
	}
	cfg.Timeout = orDefault(cfg.Timeout, 10*time.Second)
	cfg.Window = orDefault(cfg.Window, 10)
	cfg.Rate = orDefault(cfg.Rate, 1000)
	cfg.Log = orDefault(cfg.Log, slog.New(slog.DiscardHandler))
	if cfg.Client == nil {
		// One connection a request: net/http repeats a request that fails on a connection it used before.
		cfg.Client = &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: cfg.Timeout, ResponseHeaderTimeout: cfg.Timeout},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Gateway{cfg: cfg, dialect: d, window: make(chan struct{}, cfg.Window), pace: newPacer(cfg.Rate, time.Now())}, nil
}

// Route is the configured name.
func (g *Gateway) Route() string { return g.cfg.Name }

// Linked reports whether the last request got through and was not refused for its credentials; before
// the first, true.
func (g *Gateway) Linked() bool { return !g.down.Load() }

// Run takes callbacks until ctx ends.
func (g *Gateway) Run(ctx context.Context, h Handlers) error {
	g.inbox.Store(&h)
	defer g.inbox.Store(nil)
	<-ctx.Done()
	return nil
}

// Check asks the gateway something that sends nothing.
func (g *Gateway) Check(ctx context.Context) error {
	req, err := g.dialect.check(ctx)
	if err != nil {
		return err
	}
	status, body, _, err := g.do(req)
	if err != nil {
		return fmt.Errorf("no answer from the gateway: check its URL, and that it runs: %w", hideURL(err))
	}
	return g.dialect.checked(status, body)
}

// wholeText checks a text that goes as a whole, all parts in one request; done: r is all there is to say.
func wholeText(m Message) (parts int, r Result, done bool) {
	parts = Parts(m.Text, m.Charset)
	switch {
	case parts > wire.MaxSMSParts:
		return parts, Result{Outcome: NotSent, Class: Permanent, Err: ErrTooLong}, true
	case m.From.IsZero():
		return parts, Result{Outcome: NotSent, Class: Permanent, Err: ErrSender}, true
	case m.Done > 0: // accepted before: there are no further parts
		return parts, Result{Whole: true}, true
	}
	return parts, Result{}, false
}

// Turn waits for a place among the requests not answered, and for the pace.
func (g *Gateway) Turn(ctx context.Context) (*Turn, error) {
	turn := place(ctx, g.window, nil)
	if turn == nil {
		return nil, ErrNoLink
	}
	g.mu.Lock()
	pause := g.pace.reserve(time.Now())
	g.mu.Unlock()
	if pause > 0 && !wait(ctx, pause) {
		turn.End()
		return nil, ErrNoLink
	}
	return turn, nil
}

// Submit sends the whole text in one request. A throttled one is sent again, by and by, until ctx ends.
func (g *Gateway) Submit(ctx context.Context, m Message) Result {
	parts, r, done := wholeText(m)
	if done {
		return r
	}
	for ; ; m.Turn = nil {
		r := g.submit(ctx, m, parts)
		if r.Outcome != Answered || r.Class != Throttled {
			return r
		}
		g.mu.Lock()
		g.pace.throttled(time.Now())
		g.mu.Unlock()
		if ctx.Err() != nil {
			return r
		}
	}
}

// submit makes one request, in its turn.
func (g *Gateway) submit(ctx context.Context, m Message, parts int) Result {
	turn := m.Turn
	if turn == nil {
		if turn, _ = g.Turn(ctx); turn == nil {
			return Result{Outcome: NotSent, Err: ErrNoLink}
		}
	}
	defer turn.End()
	if over(ctx) {
		return Result{Outcome: NotSent, Err: ErrNoLink}
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	id := newGatewayID()
	req, err := g.dialect.request(ctx, m, parts, id.String(), g.callback(id, m))
	if err != nil {
		return Result{Outcome: NotSent, Class: Permanent, Err: ErrSender}
	}
	return g.result(req, id.String())
}

// result is what is known after the request.
func (g *Gateway) result(req *http.Request, id string) Result {
	status, body, written, err := g.do(req)
	switch {
	case err != nil && !written:
		return Result{Outcome: NotSent, Class: Retry, Err: ErrNoLink}
	case err != nil:
		return Result{Outcome: Unknown, Err: ErrNoAnswer}
	}
	a, ok := g.dialect.judge(status, body)
	switch {
	case !ok:
		return Result{Outcome: Unknown, Status: Status(status), Err: ErrNoAnswer}
	case a.Class != Accepted:
		if a.Class == Refused {
			g.down.Store(true)
			g.cfg.Log.Error("the gateway refuses the credentials: check them", "route", g.cfg.Name, "status", status)
		}
		return Result{Status: Status(status), Class: a.Class}
	case a.ID == "":
		a.ID = id
	}
	return Result{Status: Status(status), IDs: []string{a.ID}, Whole: true}
}

// do makes a request once. written reports whether any of it may have left.
func (g *Gateway) do(req *http.Request) (status int, body []byte, written bool, err error) {
	var left atomic.Bool
	trace := &httptrace.ClientTrace{
		WroteHeaders: func() { left.Store(true) },
		WroteRequest: func(i httptrace.WroteRequestInfo) { left.Store(true) },
	}
	resp, err := g.cfg.Client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	g.down.Store(err != nil)
	if err != nil {
		return 0, nil, left.Load(), err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, body, true, err
}
