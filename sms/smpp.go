package sms

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/linxGnu/gosmpp/pdu"
)

// SMPPConfig configures one SMPP bind. Addr and SystemID must be set.
type SMPPConfig struct {
	Name       string // names the route; "": Addr. Changing it orphans outstanding receipts
	Addr       string // host:port
	SystemID   string
	Password   string // at most 8 bytes (SMPP 3.4 section 5.2.2)
	SystemType string
	TLS        *tls.Config // nil: plain TCP, for a private network only

	Dial func(context.Context) (net.Conn, error) // nil: TCP, with TLS if set, to Addr

	Window          int              // parts written and not answered; 0: 10
	Rate            float64          // parts a second at most; 0: 1,000
	BindTimeout     time.Duration    // to connect and bind; 0: 10 s
	ResponseTimeout time.Duration    // for the answer to a part; 0: 10 s
	EnquireLink     time.Duration    // between looks at an idle link; 0: 30 s
	RefusedPause    time.Duration    // before binding again where the bind was refused; 0: 60 s
	Statuses        map[Status]Class // overrides for this route
	Log             *slog.Logger     // nil: no log. It never gets a number, a text or a password
}

// Pauses before connecting again: the first, and the longest.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
	steadyFor  = 10 * time.Second // a session that lasted this long starts the pauses afresh
)

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (c SMPPConfig) withDefaults() SMPPConfig {
	c.Name = orDefault(c.Name, c.Addr)
	c.Window = orDefault(c.Window, 10)
	c.Rate = orDefault(c.Rate, 1000)
	c.BindTimeout = orDefault(c.BindTimeout, 10*time.Second)
	c.ResponseTimeout = orDefault(c.ResponseTimeout, 10*time.Second)
	c.EnquireLink = orDefault(c.EnquireLink, 30*time.Second)
	c.RefusedPause = orDefault(c.RefusedPause, time.Minute)
	c.Log = orDefault(c.Log, slog.New(slog.DiscardHandler))
	if c.Dial == nil {
		c.Dial = c.dial
	}
	return c
}

func (c SMPPConfig) dial(ctx context.Context) (net.Conn, error) {
	if c.TLS != nil {
		d := tls.Dialer{Config: c.TLS}
		return d.DialContext(ctx, "tcp", c.Addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", c.Addr)
}

// SMPP is a transport over one SMPP 3.4 transceiver bind that is kept up while Run runs.
type SMPP struct {
	cfg SMPPConfig

	mu    sync.Mutex // guards what follows
	pace  *pacer
	bound *session      // nil: none
	ready chan struct{} // closed while bound
}

// NewSMPP returns a transport. It does not connect: Run does.
func NewSMPP(cfg SMPPConfig) (*SMPP, error) {
	if cfg.Addr == "" && cfg.Dial == nil || cfg.SystemID == "" || len(cfg.SystemID) > 15 || len(cfg.Password) > 8 {
		return nil, errors.New("sms: SMPP needs an address, a system id of at most 15 and a password of at most 8 bytes")
	}
	cfg = cfg.withDefaults()
	return &SMPP{cfg: cfg, pace: newPacer(cfg.Rate, time.Now()), ready: make(chan struct{})}, nil
}

// Route is the configured name.
func (t *SMPP) Route() string { return t.cfg.Name }

// Run binds, and binds again with growing pauses whenever the link is lost, until ctx ends. Then it
// unbinds: submit nothing more before ctx ends, or the outcome may be Unknown.
func (t *SMPP) Run(ctx context.Context, receipts ReceiptHandler) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		began := time.Now()
		err := t.serve(ctx, receipts)
		if time.Since(began) >= steadyFor {
			pause = firstPause
		}
		if ctx.Err() == nil {
			wait(ctx, t.pauseAfter(err, pause))
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// pauseAfter logs why there is no session and says how long to leave the SMSC alone. An SMSC that
// refused the bind would lock the account if it were asked every second.
func (t *SMPP) pauseAfter(err error, pause time.Duration) time.Duration {
	var refused bindError
	if errors.As(err, &refused) && refused.status.Class(t.cfg.Statuses) == Refused {
		t.cfg.Log.Error("SMSC refused the bind: check system id and password", "route", t.cfg.Name, "status", refused.status.String())
		return max(t.cfg.RefusedPause, pause)
	}
	pause += rand.N(pause/4 + 1) // workers that lost one SMSC together come back apart
	t.cfg.Log.Warn("no link to the SMSC", "route", t.cfg.Name, "err", err, "again_in", pause)
	return pause
}

// wait waits for d or the end of ctx; it reports whether d passed.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve is one session from connecting to its end. Nothing it started runs when it returns.
func (t *SMPP) serve(ctx context.Context, receipts ReceiptHandler) error {
	s, err := t.open(ctx)
	if err != nil {
		return err
	}
	handling, cancel := context.WithCancel(ctx)
	var started sync.WaitGroup
	started.Go(s.read)
	for range receiptWorkers {
		started.Go(func() { s.store(handling, receipts) })
	}
	t.cfg.Log.Info("bound to the SMSC", "route", t.cfg.Name)
	t.set(s)
	err = s.keep(ctx)
	t.set(nil)
	cancel()
	started.Wait()
	return err
}

func (t *SMPP) open(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.BindTimeout)
	defer cancel()
	conn, err := t.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return bind(ctx, t.cfg, conn)
}

func (t *SMPP) set(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bound = s
	if s != nil {
		close(t.ready)
	} else {
		t.ready = make(chan struct{})
	}
}

// link waits for a session; nil when ctx ends first.
func (t *SMPP) link(ctx context.Context) *session {
	for {
		t.mu.Lock()
		s, ready := t.bound, t.ready
		t.mu.Unlock()
		if s != nil {
			return s
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
	}
}

// Submit submits the parts one after another. A throttled part is sent again, by and by, until ctx
// ends: the whole bind slows down for it. [F-15]
func (t *SMPP) Submit(ctx context.Context, m Message) Result {
	parts, err := submitPDUs(m, time.Now())
	if err != nil {
		return Result{Outcome: NotSent, Class: Permanent, Err: err}
	}
	var ids []string
	for _, p := range parts[min(m.Done, len(parts)):] {
		r := t.submitPart(ctx, p)
		if r.outcome != Answered || r.answer.Class != Accepted {
			return Result{Outcome: r.outcome, Status: r.answer.Status, Class: r.answer.Class, IDs: ids, Late: r.late, Err: r.err}
		}
		ids = append(ids, r.answer.ID)
	}
	return Result{IDs: ids}
}

func (t *SMPP) submitPart(ctx context.Context, p *pdu.SubmitSM) partResult {
	for {
		s := t.link(ctx)
		if s == nil {
			return partResult{outcome: NotSent, err: ErrNoLink}
		}
		r := t.inTurn(ctx, s, p)
		if r.outcome == Answered && r.answer.Class == Rebind {
			s.fail(errRebind)
		}
		if r.outcome != Answered || r.answer.Class != Throttled {
			return r
		}
		t.slowDown()
		if ctx.Err() != nil {
			return r
		}
	}
}

// inTurn takes a place in the window, then waits for the pace, then submits.
func (t *SMPP) inTurn(ctx context.Context, s *session, p *pdu.SubmitSM) partResult {
	select {
	case s.window <- struct{}{}:
		defer func() { <-s.window }()
	case <-s.done:
		return partResult{outcome: NotSent, err: ErrNoLink}
	case <-ctx.Done():
		return partResult{outcome: NotSent, err: ErrNoLink}
	}
	t.mu.Lock()
	turn := t.pace.reserve(time.Now())
	t.mu.Unlock()
	if turn > 0 && !wait(ctx, turn) {
		return partResult{outcome: NotSent, err: ErrNoLink}
	}
	return s.submit(ctx, p)
}

func (t *SMPP) slowDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pace.throttled(time.Now())
}
