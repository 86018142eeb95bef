package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"bluejay/sms"
)

// Config says what a worker works with. The first seven fields must be set.
type Config struct {
	Queue     Queue
	Journal   Journal
	Events    Events
	Registrar Registrar
	Keys      Keys
	Transport sms.Transport
	NumberKey []byte // K_sms, at least 16 bytes, the same for all workers of a journal [F-9]

	From           sms.Sender    // what recipients see as the sender; the console needs none
	AllowUnchecked bool          // send texts whose claimed sender is not confirmed, without the claim [F-6]
	Secrets        Secrets       // keeps the day keys; nil: in memory, so a restart loses what is queued
	Window         int           // jobs being submitted at once; 0: 10
	UnknownWait    time.Duration // how long a job in doubt waits; 0: 60 s
	SubmitTimeout  time.Duration // for one attempt, waiting for a link included; 0: 30 s
	Heartbeat      time.Duration // between "in progress" for held jobs, below a third of AckWait; 0: 10 s
	Grace          time.Duration // for jobs being submitted when Run's ctx ends; 0: 10 s
	Log            *slog.Logger  // nil: no log. It never gets a number or a text
}

// Limits of the worker itself.
const (
	doubtfulPerWindow = 16               // jobs in doubt for each place in the window
	portTimeout       = 10 * time.Second // for one call of a port
	portTries         = 5
	maxLifetime       = 24 * time.Hour // of a job [F-4]
)

func (c Config) withDefaults() Config {
	c.Secrets = orDefault[Secrets](c.Secrets, &memory{})
	c.Window = orDefault(c.Window, 10)
	c.UnknownWait = orDefault(c.UnknownWait, time.Minute)
	c.SubmitTimeout = orDefault(c.SubmitTimeout, 30*time.Second)
	c.Heartbeat = orDefault(c.Heartbeat, 10*time.Second)
	c.Grace = orDefault(c.Grace, 10*time.Second)
	c.Log = orDefault(c.Log, slog.New(slog.DiscardHandler))
	return c
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// errConfig is all that can be wrong with a Config.
var errConfig = errors.New("worker: queue, journal, events, registrar, keys, transport and a number key of 16 bytes must be set")

// Worker is one process's worker. Make it with [New] and call [Worker.Run] once.
type Worker struct {
	cfg   Config
	name  string // of this process in the journal
	keys  *keyring
	open  openJobs
	locks locks

	window chan struct{} // one element for each job being submitted
	doubt  chan struct{} // one element for each job in doubt

	mu    sync.Mutex // guards what follows
	held  map[Delivery]struct{}
	turns int // numbers this process's attempts
}

// New returns a worker, or an error if the configuration lacks something.
func New(cfg Config) (*Worker, error) {
	if cfg.Queue == nil || cfg.Journal == nil || cfg.Events == nil || cfg.Registrar == nil || cfg.Keys == nil ||
		cfg.Transport == nil || len(cfg.NumberKey) < 16 {
		return nil, errConfig
	}
	cfg = cfg.withDefaults()
	return &Worker{
		cfg: cfg, name: rand.Text(), keys: &keyring{store: cfg.Secrets},
		open: openJobs{byNumber: map[numberHash]map[*task]bool{}}, locks: locks{held: map[lockKey]*lock{}},
		window: make(chan struct{}, cfg.Window), doubt: make(chan struct{}, doubtfulPerWindow*cfg.Window),
		held: map[Delivery]struct{}{},
	}, nil
}

// Run works until ctx ends, then shuts down in this order: no new jobs; jobs in doubt go back to the
// queue; jobs being submitted get Grace to finish; the rest are cut off and go back in doubt; the
// transport unbinds. It fails only when the day keys cannot be read at the start.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.keys.rotate(ctx, time.Now()); err != nil {
		return err
	}
	ports, endPorts := context.WithCancel(context.WithoutCancel(ctx)) // what journals and reports
	submits, endSubmits := context.WithCancel(ports)
	var helpers, jobs sync.WaitGroup
	helpers.Go(func() { w.publishKeys(ctx) })
	helpers.Go(func() { w.heartbeat(ports) })
	helpers.Go(func() { w.link(ports) })

	w.take(ctx, submits, &jobs)

	cutOff := time.AfterFunc(w.cfg.Grace, endSubmits)
	jobs.Wait()
	cutOff.Stop()
	endSubmits()
	endPorts()
	helpers.Wait()
	return nil
}

// link runs the transport. Only ctx ends it, whatever it says.
func (w *Worker) link(ctx context.Context) {
	if err := w.cfg.Transport.Run(ctx, w.receipt); err != nil {
		w.cfg.Log.Error("the SMS transport ended", "route", w.cfg.Transport.Route(), "err", err)
	}
}

// take hands each job to a goroutine of its own, Window at a time, until stop ends.
func (w *Worker) take(stop, submits context.Context, jobs *sync.WaitGroup) {
	for pause := time.Second; ; {
		select {
		case w.window <- struct{}{}:
		case <-stop.Done():
			return
		}
		d, err := w.cfg.Queue.Next(stop)
		if err == nil {
			jobs.Go(func() { w.work(stop, submits, d) })
			continue
		}
		<-w.window
		if stop.Err() != nil {
			return
		}
		w.cfg.Log.Warn("no job from the queue", "err", err)
		sleep(stop, pause)
	}
}

// sleep waits for d or the end of ctx; it reports whether d passed.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// heartbeat tells the queue which jobs are held: a job that the queue believes lost would be handed
// out twice.
func (w *Worker) heartbeat(ctx context.Context) {
	for sleep(ctx, w.cfg.Heartbeat) {
		w.mu.Lock()
		held := make([]Delivery, 0, len(w.held))
		for d := range w.held {
			held = append(held, d)
		}
		w.mu.Unlock()
		for _, d := range held {
			if err := d.InProgress(ctx); err != nil && ctx.Err() == nil {
				w.cfg.Log.Warn("could not hold a job", "job", d.ID(), "err", err)
			}
		}
	}
}

func (w *Worker) hold(d Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[d] = struct{}{}
}

func (w *Worker) letGo(d Delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.held, d)
}

// persist calls a port until it succeeds, a few times: what the SMSC has taken must reach the
// journal and the sender if at all possible.
func persist(ctx context.Context, call func(context.Context) error) error {
	err := error(nil)
	for i := range portTries {
		if err = once(ctx, call); err == nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, 100*time.Millisecond<<i)
	}
	return err
}

func once(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, portTimeout)
	defer cancel()
	return call(ctx)
}
