package sms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
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

	Window          int           // parts written and not answered; 0: 10
	Rate            float64       // parts a second at most; 0: 1,000
	BindTimeout     time.Duration // to connect and bind; 0: 10 s
	ResponseTimeout time.Duration // for the answer to a part; 0: 10 s
	EnquireLink     time.Duration // between looks at an idle link; 0: 30 s
	RefusedPause    time.Duration // before binding again where the bind was refused; 0: 60 s
	Bind            Bind
	IDs             IDForm           // how answers and receipts write message ids
	Statuses        map[Status]Class // overrides for this route
	Log             *slog.Logger     // nil: no log. It never gets a number, a text or a password
}

// Bind is what is asked of the SMSC (SMPP 3.4 section 4.1). Zero value: Transceiver.
type Bind byte

// Binds.
const (
	Transceiver Bind = iota // one link for both directions
	Transmitter             // submits only: no receipts and no texts from phones
	Receiver                // receipts and texts only: a Submit fails for good
	TwoLinks                // a transmitter and a receiver, as older SMSCs want it
)

// links are the binds of the links to keep up.
func (b Bind) links() []Bind {
	if b == TwoLinks {
		return []Bind{Transmitter, Receiver}
	}
	return []Bind{b}
}

// Pauses before connecting again: the first, and the longest.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 30 * time.Second
	steadyFor  = 10 * time.Second // a session that lasted this long, or answered a submit, starts the pauses afresh
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

// SMPP is a transport over SMPP 3.4, whose bind is kept up while Run runs.
type SMPP struct {
	cfg SMPPConfig

	mu        sync.Mutex // guards what follows
	pace      *pacer
	bound     *session      // the one that submits; nil: none
	changed   chan struct{} // closed at the next change of bound
	listening bool          // a receiver's link is up
}

// NewSMPP returns a transport. It does not connect: Run does.
func NewSMPP(cfg SMPPConfig) (*SMPP, error) {
	if cfg.Addr == "" && cfg.Dial == nil || cfg.SystemID == "" || len(cfg.SystemID) > 15 || len(cfg.Password) > 8 {
		return nil, errors.New("sms: SMPP needs an address, a system id of at most 15 and a password of at most 8 bytes")
	}
	cfg = cfg.withDefaults()
	return &SMPP{cfg: cfg, pace: newPacer(cfg.Rate, time.Now()), changed: make(chan struct{})}, nil
}

// Route is the configured name.
func (t *SMPP) Route() string { return t.cfg.Name }

// Run binds, and binds again with growing pauses whenever a link is lost, until ctx ends. Then it
// unbinds: submit nothing more before ctx ends, or the outcome may be Unknown.
func (t *SMPP) Run(ctx context.Context, h Handlers) error {
	var running sync.WaitGroup
	for _, as := range t.cfg.Bind.links() {
		running.Go(func() { t.keepUp(ctx, as, h) })
	}
	running.Wait()
	return nil
}

// keepUp keeps one link up until ctx ends.
func (t *SMPP) keepUp(ctx context.Context, as Bind, h Handlers) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		began := time.Now()
		worked, err := t.serve(ctx, as, h)
		if worked || time.Since(began) >= steadyFor {
			pause = firstPause
		}
		if ctx.Err() == nil {
			wait(ctx, t.pauseAfter(err, pause))
		}
		if ctx.Err() != nil {
			return
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

// serve is one session from connecting to its end. Nothing it started runs when it returns. worked
// reports whether the SMSC answered a submit on it.
func (t *SMPP) serve(ctx context.Context, as Bind, h Handlers) (worked bool, err error) {
	s, err := t.open(ctx, as)
	if err != nil {
		return false, err
	}
	handling, cancel := context.WithCancel(ctx)
	var started sync.WaitGroup
	started.Go(s.read)
	for range storers {
		started.Go(func() { s.store(handling, h) })
	}
	t.cfg.Log.Info("bound to the SMSC", "route", t.cfg.Name)
	t.set(as, s)
	err = s.keep(ctx)
	t.set(as, nil)
	cancel()
	started.Wait()
	return s.worked.Load(), err
}

func (t *SMPP) open(ctx context.Context, as Bind) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.BindTimeout)
	defer cancel()
	conn, err := t.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return bind(ctx, t.cfg, as, conn)
}

// set says which session a link has now; nil: none.
func (t *SMPP) set(as Bind, s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if as == Receiver {
		t.listening = s != nil
		return
	}
	t.bound = s
	close(t.changed)
	t.changed = make(chan struct{})
}

// Linked reports whether every link is bound.
func (t *SMPP) Linked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.cfg.Bind {
	case Receiver:
		return t.listening
	case TwoLinks:
		return t.listening && t.bound != nil
	}
	return t.bound != nil
}

// Check binds each link once and unbinds it.
func (t *SMPP) Check(ctx context.Context) error {
	for _, as := range t.cfg.Bind.links() {
		if err := t.check(ctx, as); err != nil {
			return err
		}
	}
	return nil
}

func (t *SMPP) check(ctx context.Context, as Bind) error {
	s, err := t.open(ctx, as)
	var refused bindError
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("%w: check system id, password and bind mode with the operator of the SMSC", err)
	case errors.Is(err, io.EOF):
		return errors.New("the SMSC ended the connection at the bind: check system id, password and bind mode, and whether it expects TLS")
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer to the bind within %s: is this the SMPP port?", t.cfg.BindTimeout)
	case err != nil:
		return fmt.Errorf("%w: check address and port", err)
	}
	var reading sync.WaitGroup
	reading.Go(s.read)
	s.unbind()
	reading.Wait()
	return nil
}

// link waits for a session that has not ended; nil when ctx ends first.
func (t *SMPP) link(ctx context.Context) *session {
	for {
		t.mu.Lock()
		s, changed := t.bound, t.changed
		t.mu.Unlock()
		if s != nil && s.reason() == nil {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Submit submits the parts one after another. A throttled part is sent again, by and by, until ctx
// ends: the whole bind slows down for it. [F-15]
func (t *SMPP) Submit(ctx context.Context, m Message) Result {
	parts, err := submitPDUs(m, time.Now())
	if t.cfg.Bind == Receiver {
		err = ErrReceiver
	}
	if err != nil {
		return Result{Outcome: NotSent, Class: Permanent, Err: err}
	}
	var ids []string
	for _, p := range parts[min(m.Done, len(parts)):] {
		r := t.submitPart(ctx, p, m.Turn)
		m.Turn = nil
		if r.outcome != Answered || r.answer.Class != Accepted {
			return Result{Outcome: r.outcome, Status: r.answer.Status, Class: r.answer.Class, IDs: ids, Late: r.late, Err: r.err}
		}
		ids = append(ids, r.answer.ID)
	}
	return Result{IDs: ids}
}

// submitPart submits one part by a turn, or waits for one.
func (t *SMPP) submitPart(ctx context.Context, p *pdu.SubmitSM, turn *Turn) partResult {
	for {
		if turn == nil {
			if turn, _ = t.Turn(ctx); turn == nil {
				return partResult{outcome: NotSent, err: ErrNoLink}
			}
		}
		r := partResult{outcome: NotSent, err: ErrNoLink}
		if !over(ctx) {
			r = turn.link.submit(ctx, p)
		}
		turn.End()
		if r.outcome == Answered && r.answer.Class == Rebind {
			turn.link.fail(errRebind)
		}
		if r.outcome != Answered || r.answer.Class != Throttled {
			return r
		}
		t.slowDown()
		if ctx.Err() != nil {
			return r
		}
		turn = nil
	}
}

// Turn waits for a link, for a place in its window and for the pace. A link that is lost meanwhile costs
// no second wait for the pace. [F-15]
func (t *SMPP) Turn(ctx context.Context) (*Turn, error) {
	if t.cfg.Bind == Receiver {
		return nil, nil // Submit refuses
	}
	for paced := false; ; {
		s := t.link(ctx)
		if s == nil || ctx.Err() != nil {
			return nil, ErrNoLink
		}
		turn := place(ctx, s.window, s.done)
		if turn == nil {
			continue
		}
		if !paced && !t.paced(ctx) {
			turn.End()
			return nil, ErrNoLink
		}
		if paced = true; s.reason() == nil {
			turn.link = s
			return turn, nil
		}
		turn.End()
	}
}

// paced waits for the pace; it reports whether ctx let it.
func (t *SMPP) paced(ctx context.Context) bool {
	t.mu.Lock()
	pause := t.pace.reserve(time.Now())
	t.mu.Unlock()
	return pause <= 0 || wait(ctx, pause)
}

func (t *SMPP) slowDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pace.throttled(time.Now())
}
