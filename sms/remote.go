package sms

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// RemoteRequest is a text handed to a worker elsewhere, as JSON. The whole text is one request.
type RemoteRequest struct {
	ID         string    `json:"id"` // the same text again has another
	To         string    `json:"to"`
	From       string    `json:"from"`
	Text       string    `json:"text"`
	Parts      int       `json:"parts"`
	ValidUntil time.Time `json:"valid_until,omitzero"`
	Class      string    `json:"class"` // normal or urgent
}

// RemoteAnswer is what became of it, as JSON.
type RemoteAnswer struct {
	Status string `json:"status"`       // accepted, throttled, retry or permanent
	ID     string `json:"id,omitempty"` // under which receipts come; "": the request's
}

// ErrNobody says that nobody took a request: it certainly did not leave.
var ErrNobody = errors.New("sms: nobody serves this route")

// RemoteConfig configures a route that somebody else serves. Name and Call must be set.
type RemoteConfig struct {
	Name string
	// Call sends a request and returns its answer. [ErrNobody]: nobody had it. Any other error leaves
	// open whether somebody did.
	Call    func(ctx context.Context, request []byte) (answer []byte, err error)
	Probe   func(context.Context) error // reports whether the route is served; nil: not known
	Timeout time.Duration               // for an answer; 0: 10 s
	Window  int                         // requests under way; 0: 10
	Log     *slog.Logger
}

// Remote is a transport over somebody else's worker.
type Remote struct {
	cfg    RemoteConfig
	window chan struct{}
	away   atomic.Bool
	inbox  atomic.Pointer[Handlers]
}

// NewRemote returns a transport.
func NewRemote(cfg RemoteConfig) (*Remote, error) {
	if cfg.Name == "" || cfg.Call == nil {
		return nil, errors.New("sms: a remote route needs a name and a way to call")
	}
	cfg.Timeout = orDefault(cfg.Timeout, 10*time.Second)
	cfg.Window = orDefault(cfg.Window, 10)
	return &Remote{cfg: cfg, window: make(chan struct{}, cfg.Window)}, nil
}

// Route is the configured name.
func (r *Remote) Route() string { return r.cfg.Name }

// Linked reports whether somebody served the last request; before the first, true.
func (r *Remote) Linked() bool { return !r.away.Load() }

// Check reports whether somebody serves the route.
func (r *Remote) Check(ctx context.Context) error {
	if r.cfg.Probe == nil {
		return nil
	}
	return r.cfg.Probe(ctx)
}

// Run takes events until ctx ends.
func (r *Remote) Run(ctx context.Context, h Handlers) error {
	r.inbox.Store(&h)
	defer r.inbox.Store(nil)
	<-ctx.Done()
	return nil
}

// Deliver takes an event; see [RemoteEvent]. An error means that it was not stored, and is to be sent
// again unless it is malformed.
func (r *Remote) Deliver(ctx context.Context, event []byte) error {
	if len(event) > maxCallback {
		return errCallback
	}
	store, err := readEvent(r.cfg.Name, event)
	if err != nil {
		return err
	}
	h := r.inbox.Load()
	if h == nil {
		return ErrNoLink
	}
	return store(ctx, *h)
}

// Turn waits for a place among the texts handed over and not answered.
func (r *Remote) Turn(ctx context.Context) (*Turn, error) {
	if turn := place(ctx, r.window, nil); turn != nil {
		return turn, nil
	}
	return nil, ErrNoLink
}

// Submit hands over the whole text.
func (r *Remote) Submit(ctx context.Context, m Message) Result {
	parts, result, done := wholeText(m)
	if done {
		return result
	}
	turn := m.Turn
	if turn == nil {
		if turn, _ = r.Turn(ctx); turn == nil {
			return Result{Outcome: NotSent, Err: ErrNoLink}
		}
	}
	defer turn.End()
	if over(ctx) {
		return Result{Outcome: NotSent, Err: ErrNoLink}
	}
	return r.submit(ctx, RemoteRequest{
		ID: newGatewayID().String(), To: m.To.E164(), From: m.From.addr, Text: m.Text, Parts: parts,
		ValidUntil: m.ValidUntil.UTC(), Class: m.Class.String(),
	})
}

func (r *Remote) submit(ctx context.Context, q RemoteRequest) Result {
	request, err := json.Marshal(q)
	if err != nil {
		return Result{Outcome: NotSent, Class: Permanent, Err: ErrPDU}
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	raw, err := r.cfg.Call(ctx, request)
	r.away.Store(errors.Is(err, ErrNobody))
	switch {
	case errors.Is(err, ErrNobody):
		return Result{Outcome: NotSent, Class: Retry, Err: ErrNoLink}
	case err != nil:
		return Result{Outcome: Unknown, Err: ErrNoAnswer}
	}
	return answered(raw, q.ID)
}

// remoteClasses are the words of an answer.
var remoteClasses = map[string]Class{"accepted": Accepted, "throttled": Retry, "retry": Retry, "permanent": Permanent}

// answered reads an answer; one that cannot be read does not say whether the text was taken.
func answered(raw []byte, id string) Result {
	var a RemoteAnswer
	if len(raw) > maxAnswer || strictJSON(raw, &a) != nil || len(a.ID) > maxID {
		return Result{Outcome: Unknown, Err: ErrNoAnswer}
	}
	class, ok := remoteClasses[a.Status]
	switch {
	case !ok:
		return Result{Outcome: Unknown, Err: ErrNoAnswer}
	case class != Accepted:
		return Result{Class: class}
	}
	return Result{IDs: []string{orDefault(a.ID, id)}, Whole: true}
}
