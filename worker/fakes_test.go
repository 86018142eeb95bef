package worker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/envelope"
	"bluejay/sms"
	"bluejay/wire"
)

const (
	recipient = "+447700900123"
	claimant  = "+447700900456"
	secret    = "see you at eight"
)

var errDown = errors.New("port down")

// world is everything around workers, in memory. It survives a worker that crashes.
type world struct {
	t testing.TB

	mu        sync.Mutex
	queue     []*delivery // ready to be handed out
	arrived   chan struct{}
	journal   map[wire.MessageID]Entry
	outcomes  map[wire.MessageID][]wire.JobState
	dead      map[wire.MessageID]string
	acked     map[wire.MessageID]bool
	retries   map[wire.MessageID][]time.Duration
	trace     []string
	submits   []sms.Message
	script    func(n int, m sms.Message) sms.Result // n counts from 1
	receipts  sms.ReceiptHandler
	owns      func(sealed []byte, n wire.Number) (bool, error)
	published []wire.WorkerKey
	keyFails  int
	beats     int
	logs      bytes.Buffer
	root      ed25519.PrivateKey
}

func newWorld(t testing.TB) *world {
	t.Helper()
	_, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		t: t, arrived: make(chan struct{}, 10_000), journal: map[wire.MessageID]Entry{},
		outcomes: map[wire.MessageID][]wire.JobState{}, dead: map[wire.MessageID]string{}, acked: map[wire.MessageID]bool{},
		retries: map[wire.MessageID][]time.Duration{}, root: root,
		script: func(n int, m sms.Message) sms.Result { return accepted(m, fmt.Sprint("id", n)) },
		owns:   func([]byte, wire.Number) (bool, error) { return true, nil },
	}
}

// accepted is the result of an SMSC that takes what is left of a text.
func accepted(m sms.Message, id string) sms.Result {
	parts, _ := wire.SMSParts(m.Text)
	var ids []string
	for i := m.Done; i < parts; i++ {
		ids = append(ids, fmt.Sprint(id, ".", i))
	}
	return sms.Result{IDs: ids}
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// delivery is one job in the world's queue.
type delivery struct {
	w       *ports
	id      wire.MessageID
	class   wire.JobClass
	sender  wire.Pseudonym
	payload []byte
	sealed  []byte
	times   int
}

func (d *delivery) ID() wire.MessageID     { return d.id }
func (d *delivery) Class() wire.JobClass   { return d.class }
func (d *delivery) Sender() wire.Pseudonym { return d.sender }
func (d *delivery) Payload() []byte        { return d.payload }
func (d *delivery) SealedSender() []byte   { return d.sealed }
func (d *delivery) Delivered() int         { return d.times }

func (d *delivery) Ack(ctx context.Context) error {
	return d.w.call(ctx, "ack", func(w *world) { w.acked[d.id] = true })
}

func (d *delivery) Retry(ctx context.Context, after time.Duration) error {
	return d.w.call(ctx, "retry", func(w *world) {
		w.retries[d.id] = append(w.retries[d.id], after)
		again := *d
		again.times++
		time.AfterFunc(after, func() { w.push(&again) })
	})
}

func (d *delivery) InProgress(ctx context.Context) error {
	return d.w.call(ctx, "beat", func(w *world) { w.beats++ })
}

func (d *delivery) DeadLetter(ctx context.Context, reason string) error {
	return d.w.call(ctx, "dead letter", func(w *world) { w.dead[d.id] = reason })
}

func (w *world) push(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, d)
	w.arrived <- struct{}{}
}

// ports is the world as one worker process sees it. Once crashed, nothing gets through any more.
type ports struct {
	*world
	calls   int
	crashAt int            // before the call of this number; 0: never
	fails   map[string]int // how often each port fails from now on
	crashed bool
	crash   func() // called once at the crash
}

// call lets one effect through, or not.
func (p *ports) call(ctx context.Context, port string, effect func(*world)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port != "beat" {
		p.calls++
	}
	if p.crashAt > 0 && p.calls >= p.crashAt && !p.crashed {
		p.crashed = true
		p.crash()
	}
	switch {
	case p.crashed || ctx.Err() != nil:
		return errDown
	case p.fails[port] > 0:
		p.fails[port]--
		return errDown
	}
	effect(p.world)
	if port != "beat" && port != "get" {
		p.note("%s", port)
	}
	return nil
}

func (p *ports) Next(ctx context.Context) (Delivery, error) {
	for {
		select {
		case <-p.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.mu.Unlock()
			continue
		}
		d := *p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		d.w = p
		return &d, nil
	}
}

func (p *ports) Begin(ctx context.Context, id wire.MessageID, e Entry) (stored Entry, err error) {
	exists := false
	if err := p.call(ctx, "begin", func(w *world) {
		if stored, exists = w.journal[id]; !exists {
			w.journal[id], stored = e, e
		}
	}); err != nil {
		return Entry{}, err
	}
	if exists {
		return stored, ErrExists
	}
	return stored, nil
}

func (p *ports) Put(ctx context.Context, id wire.MessageID, e Entry) error {
	return p.call(ctx, "put", func(w *world) { w.journal[id] = e })
}

func (p *ports) Get(ctx context.Context, id wire.MessageID) (e Entry, ok bool, err error) {
	err = p.call(ctx, "get", func(w *world) { e, ok = w.journal[id] })
	return e, ok, err
}

func (p *ports) Outcome(ctx context.Context, to wire.Pseudonym, o wire.Outcome) error {
	return p.call(ctx, "tell "+o.State.String(), func(w *world) {
		if to != pseudonym {
			w.t.Errorf("told %v", to)
		}
		if had := w.outcomes[o.Message]; !slices.Contains(had, o.State) { // as Nats-Msg-Id does
			w.outcomes[o.Message] = append(had, o.State)
		}
	})
}

func (p *ports) CheckSender(ctx context.Context, sealed []byte, _ wire.MessageID, n wire.Number) (owns bool, err error) {
	if failed := p.call(ctx, "check", func(w *world) { owns, err = w.owns(sealed, n) }); failed != nil {
		return false, failed
	}
	return owns, err
}

func (p *ports) SignKey(_ context.Context, k wire.WorkerKey) (wire.WorkerKey, error) {
	k.Sign(p.root)
	return k, nil
}

func (p *ports) PublishWorkerKey(_ context.Context, k wire.WorkerKey) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keyFails > 0 {
		p.keyFails--
		return errDown
	}
	p.published = append(p.published, k)
	return nil
}

func (p *ports) Route() string { return "route" }

func (p *ports) Run(ctx context.Context, h sms.ReceiptHandler) error {
	p.mu.Lock()
	p.receipts = h
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Submit is the SMSC. What it takes is taken even if the worker crashes while it does.
func (p *ports) Submit(ctx context.Context, m sms.Message) sms.Result {
	var r sms.Result
	if err := p.call(ctx, "submit", func(w *world) {
		w.submits = append(w.submits, m)
		r = w.script(len(w.submits), m)
	}); err != nil {
		return sms.Result{Outcome: sms.NotSent, Err: sms.ErrNoLink}
	}
	p.mu.Lock()
	crashed := p.crashed
	p.mu.Unlock()
	if crashed {
		return sms.Result{Outcome: sms.Unknown, Err: sms.ErrLinkLost}
	}
	return r
}

// process is a running worker.
type process struct {
	*Worker
	ports *ports
	stop  func()
}

// start runs a worker in the world. change may change its configuration.
func (w *world) start(change ...func(*Config, *ports)) *process {
	w.t.Helper()
	p := &ports{world: w, fails: map[string]int{}}
	from, err := sms.ParseSender("Bluejay")
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := Config{
		Queue: p, Journal: p, Events: p, Registrar: p, Keys: p, Transport: p, From: from,
		NumberKey: []byte("0123456789abcdef0123456789abcdef"), Log: slog.New(slog.NewTextHandler(lockedWriter{w}, nil)),
	}
	for _, c := range change {
		c(&cfg, p)
	}
	worker, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.crash = cancel
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		w.look(func() {})
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		if len(worker.window)+len(worker.doubt) != 0 {
			w.t.Errorf("after Run %d places in the window and %d in doubt are still taken", len(worker.window), len(worker.doubt))
		}
	})
	w.t.Cleanup(stop)
	return &process{Worker: worker, ports: p, stop: stop}
}

type lockedWriter struct{ w *world }

func (l lockedWriter) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.logs.Write(b)
}

var pseudonym = wire.Pseudonym{1, 2, 3}

func number(t testing.TB, s string) wire.Number {
	t.Helper()
	n, err := wire.ParseNumber(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// key waits for the worker's published key.
func (w *world) key() wire.WorkerKey {
	w.t.Helper()
	for {
		w.mu.Lock()
		n := len(w.published)
		w.mu.Unlock()
		if n > 0 {
			break
		}
		sleep(w.t.Context(), time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.published[len(w.published)-1]
}

// job is a normal job without a claimed sender, for an hour.
func (w *world) job(text string) envelope.Job {
	return envelope.Job{To: number(w.t, recipient), Text: text, ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second)}
}

// send seals a job to the current key and queues it, as a broker does.
func (w *world) send(j envelope.Job, change ...func(*delivery)) wire.MessageID {
	w.t.Helper()
	payload, err := envelope.SealJob(w.key(), j)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &delivery{id: wire.MessageIDOf(payload), class: j.Class, sender: pseudonym, payload: payload, times: 1}
	if !j.From.IsZero() {
		d.sealed = []byte("sealed by the broker")
	}
	for _, c := range change {
		c(d)
	}
	w.push(d)
	return d.id
}

// say delivers a receipt through the transport, as the SMSC does.
func (w *world) say(id string, to string, state wire.JobState) error {
	w.mu.Lock()
	h := w.receipts
	w.mu.Unlock()
	return h(w.t.Context(), sms.Receipt{Route: "route", ID: id, To: number(w.t, to), State: state})
}

// told is what the sender of a job was told, in order.
func (w *world) told(id wire.MessageID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []string
	for _, o := range w.outcomes[id] {
		s = append(s, o.String())
	}
	return strings.Join(s, " ")
}

// wait lets time pass until nothing happens any more. Taking the lock first orders what the test has
// looked at before what the workers do next.
func (w *world) wait(d time.Duration) {
	w.look(func() {})
	sleep(w.t.Context(), d)
	synctest.Wait()
}

// look lets the test look at the world, or change it, while workers run.
func (w *world) look(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// leaks fails the test if a number or a text is at rest or in the log. [F-9]
func (w *world) leaks() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	rest, err := json.Marshal([]any{fmt.Sprint(w.journal), fmt.Sprint(w.outcomes), fmt.Sprint(w.dead), w.logs.String()})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range w.journal {
		b, err := json.Marshal(e)
		if err != nil {
			w.t.Fatal(err)
		}
		rest = append(rest, b...)
	}
	for _, s := range []string{recipient[1:], claimant[1:], "7700900", secret} {
		if bytes.Contains(rest, []byte(s)) {
			w.t.Errorf("%q is at rest or in the log", s)
		}
	}
}
