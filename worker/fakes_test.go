package worker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
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
	kept      int         // jobs that were given back and are not due yet
	arrived   chan struct{}
	journal   map[wire.MessageID]Entry
	revision  uint64 // of the journal
	list      map[numberHash]fallback.Suppression
	stopped   map[string]int // what the registrar was told to stop, and how often
	counts    map[string]int64
	steps     map[wire.MessageID][]string // transitions, each once
	seen      []Observation
	hooks     map[string]func() // called before the effect of a port; the world is locked
	outcomes  map[wire.MessageID][]wire.JobState
	dead      map[wire.MessageID]string
	acked     map[wire.MessageID]bool
	retries   map[wire.MessageID][]time.Duration
	trace     []string
	submits   []sms.Message
	script    func(n int, m sms.Message) sms.Result // n counts from 1
	network   sms.Handlers
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
		list: map[numberHash]fallback.Suppression{}, stopped: map[string]int{}, counts: map[string]int64{},
		steps: map[wire.MessageID][]string{}, hooks: map[string]func(){},
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
	party   []byte
	times   int
}

func (d *delivery) ID() wire.MessageID     { return d.id }
func (d *delivery) Class() wire.JobClass   { return d.class }
func (d *delivery) Sender() wire.Pseudonym { return d.sender }
func (d *delivery) Payload() []byte        { return d.payload }
func (d *delivery) Party() []byte          { return d.party }
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
		w.kept++
		time.AfterFunc(after, func() {
			w.look(func() { w.kept-- })
			w.push(&again)
		})
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
	stall   *stall         // nil: it never stands still
	crashAt int            // before the call of this number; 0: never
	fails   map[string]int // how often each port fails from now on
	crashed bool
	crash   func() // called once at the crash
}

// silent are the ports that are left out of the trace: they change nothing that lasts.
var silent = []string{"beat", "get", "each", "list", "suppressed", "count"}

// call lets one effect through, or not. After an error it may yet take effect: what it writes to is not read then.
func (p *ports) call(ctx context.Context, port string, effect func(*world)) error {
	return p.stall.around(ctx, port, func(ctx context.Context) error { return p.pass(ctx, port, effect) })
}

func (p *ports) pass(ctx context.Context, port string, effect func(*world)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port != "beat" && port != "each" && port != "list" {
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
	if hook := p.hooks[port]; hook != nil {
		hook()
	}
	effect(p.world)
	if !slices.Contains(silent, port) && !strings.HasPrefix(port, "step ") {
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
		if p.stall.standing() {
			p.arrived <- struct{}{} // for another worker
			p.stall.wait()
			continue
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

func (p *ports) Begin(ctx context.Context, id wire.MessageID, e Entry) (Entry, error) {
	exists, stored := false, Entry{}
	if err := p.call(ctx, "begin", func(w *world) {
		if stored, exists = w.journal[id]; !exists {
			stored = w.enter(id, e)
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
	return p.call(ctx, "put", func(w *world) { w.enter(id, e) })
}

func (p *ports) Replace(ctx context.Context, id wire.MessageID, e Entry) (Entry, error) {
	other, stored := false, Entry{}
	if err := p.call(ctx, "put", func(w *world) {
		if stored = w.journal[id]; stored.Revision != e.Revision {
			other = true
			return
		}
		stored = w.enter(id, e)
	}); err != nil {
		return Entry{}, err
	}
	if other {
		return stored, ErrExists
	}
	return stored, nil
}

// enter makes an entry. A job's final state is never left, and submitted only for what a receipt says. [F-7]
func (w *world) enter(id wire.MessageID, e Entry) Entry {
	had := w.journal[id]
	if isJob := had.Attempt > 0 && had.Job == (wire.MessageID{}); isJob && had.State != e.State {
		byReceipt := e.State == wire.JobNoReceipt || fallback.OfReceipt(e.State) != fallback.None
		if had.State.Final() || had.State == wire.JobSubmitted && !byReceipt {
			w.t.Errorf("the journal had %v, and then %v", had.State, e.State)
		}
	}
	w.revision++
	e.Revision = w.revision
	w.journal[id] = e
	return e
}

func (p *ports) Get(ctx context.Context, id wire.MessageID) (Entry, bool, error) {
	e, ok := Entry{}, false
	if err := p.call(ctx, "get", func(w *world) { e, ok = w.journal[id] }); err != nil {
		return Entry{}, false, err
	}
	return e, ok, nil
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

// Each calls f with a copy, as a real journal does that others write to meanwhile.
func (p *ports) Each(ctx context.Context, f func(wire.MessageID, Entry) error) error {
	all := map[wire.MessageID]Entry{}
	if err := p.call(ctx, "each", func(w *world) { maps.Copy(all, w.journal) }); err != nil {
		return err
	}
	for id, e := range all {
		if err := f(id, e); err != nil {
			return err
		}
	}
	return nil
}

func (p *ports) Transition(ctx context.Context, t fallback.Transition) error {
	return p.call(ctx, "step "+t.State, func(w *world) {
		step := fmt.Sprint(t.State, ".", t.Attempt)
		if had := w.steps[t.Message]; !slices.Contains(had, step) { // as Nats-Msg-Id does
			w.steps[t.Message] = append(had, step)
		}
	})
}

// Stop is the registrar revoking the consent of a number's owner.
func (p *ports) Stop(ctx context.Context, sealed []byte) error {
	return p.call(ctx, "stop", func(w *world) { w.stopped[string(sealed)]++ })
}

// Add is a counter that all workers share.
func (p *ports) Add(ctx context.Context, key string, n int64) (int64, error) {
	total := int64(0)
	if err := p.call(ctx, "count", func(w *world) { w.counts[key] += n; total = w.counts[key] }); err != nil {
		return 0, err
	}
	return total, nil
}

// list is the suppression list as one worker process sees it.
type list struct{ p *ports }

func (l list) Suppressed(ctx context.Context, n [16]byte) (fallback.Suppression, bool, error) {
	s, on := fallback.Suppression{}, false
	if err := l.p.call(ctx, "suppressed", func(w *world) { s, on = w.list[n] }); err != nil {
		return fallback.Suppression{}, false, err
	}
	return s, on, nil
}

func (l list) Suppress(ctx context.Context, n [16]byte, s fallback.Suppression) error {
	return l.p.call(ctx, "suppress", func(w *world) { w.list[n] = s })
}

func (l list) Lift(ctx context.Context, n [16]byte) error {
	return l.p.call(ctx, "lift", func(w *world) { delete(w.list, n) })
}

func (l list) Each(ctx context.Context, f func([16]byte, fallback.Suppression) error) error {
	all := map[numberHash]fallback.Suppression{}
	if err := l.p.call(ctx, "list", func(w *world) { maps.Copy(all, w.list) }); err != nil {
		return err
	}
	for n, s := range all {
		if err := f(n, s); err != nil {
			return err
		}
	}
	return nil
}

// sealNumber stands for envelope.SealNumber: what it returns names the number to the registrar only.
func sealNumber(n wire.Number) ([]byte, error) {
	h := sha256.Sum256([]byte(n.E164()))
	return h[:], nil
}

func (p *ports) Route() string { return "route" }

func (p *ports) Run(ctx context.Context, h sms.Handlers) error {
	p.mu.Lock()
	p.network = h
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (p *ports) Check(context.Context) error { return nil }

func (p *ports) Linked() bool { return true }

// via is the routes of a worker: each as it is given, from "Bluejay".
func (w *world) via(routes ...sms.Route) *sms.Routes {
	w.t.Helper()
	from, err := sms.ParseSender("Bluejay")
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range routes {
		routes[i].From = from
	}
	all, err := sms.NewRoutes(routes, sms.NumberPolicy{})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (p *ports) Turn(context.Context) (*sms.Turn, error) { return nil, nil }

// Submit is the SMSC. What it takes is taken even if the worker crashes while it does.
func (p *ports) Submit(ctx context.Context, m sms.Message) sms.Result {
	var r sms.Result
	if err := p.call(ctx, "submit", func(w *world) {
		w.submits = append(w.submits, m)
		r = w.script(len(w.submits), m)
	}); errors.Is(err, errLost) {
		return sms.Result{Outcome: sms.Unknown, Err: sms.ErrNoAnswer}
	} else if err != nil {
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
	cfg := Config{
		Queue: p, Journal: p, Events: p, Registrar: p, Keys: p, Suppressions: list{p}, Caps: p,
		Routes: w.via(sms.Route{Transport: p}), SealNumber: sealNumber, Limits: CapLimits{PerNumber: -1, PerSender: -1},
		Observe:   func(o Observation) { w.look(func() { w.seen = append(w.seen, o) }) },
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
	h := w.network.Receipt
	w.mu.Unlock()
	return h(w.t.Context(), sms.Receipt{Route: "route", ID: id, To: number(w.t, to), State: state})
}

// text is a person sending an SMS to the service.
func (w *world) text(from, text string) error {
	w.mu.Lock()
	h := w.network.Incoming
	w.mu.Unlock()
	return h(w.t.Context(), sms.Incoming{Route: "route", From: number(w.t, from), Text: text})
}

// went is which steps of a job were reported, in order.
func (w *world) went(id wire.MessageID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.steps[id], " ")
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
	rest, err := json.Marshal([]any{fmt.Sprint(w.journal), fmt.Sprint(w.outcomes), fmt.Sprint(w.dead), fmt.Sprint(w.steps), fmt.Sprint(w.counts), fmt.Sprint(w.list), fmt.Sprint(w.seen), w.logs.String()})
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
