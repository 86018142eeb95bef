package worker

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"bluejay/sms"
	"bluejay/wire"
)

// Worker is one process's worker. Make it with [New] and call [Worker.Run] once.
type Worker struct {
	cfg   Config
	name  string // of this process in the journal
	keys  *keyring
	open  openJobs
	locks locks

	window chan struct{} // one element for each job being submitted
	doubt  chan struct{} // one element for each job in doubt

	stops   stops
	replies chan reply // accepted by the journal, to be submitted

	mu       sync.Mutex // guards what follows
	held     map[Delivery]struct{}
	turns    int            // numbers this process's attempts
	told     wire.WorkerKey // the key last published, unsigned
	queueErr error          // of the latest look into the queue
}

// New returns a worker, or an error if the configuration lacks something.
func New(cfg Config) (*Worker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Worker{
		cfg: cfg, name: rand.Text(), keys: &keyring{store: cfg.Secrets},
		open: openJobs{byNumber: map[numberHash]map[*task]bool{}}, locks: locks{held: map[lockKey]*lock{}},
		window: make(chan struct{}, cfg.Window), doubt: make(chan struct{}, doubtfulPerWindow*cfg.Window),
		held: map[Delivery]struct{}{}, replies: make(chan reply, maxReplies),
		stops: stops{pending: map[numberHash][]byte{}, wake: make(chan struct{}, 1)},
	}, nil
}

// Run works until ctx ends, then shuts down in this order: no new jobs; jobs in doubt go back to the
// queue; jobs being submitted get Grace to finish; the rest are cut off and go back in doubt; the
// transports unbind. It fails only when the day keys cannot be read at the start.
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
	helpers.Go(func() { w.sweepReceipts(ctx) })
	helpers.Go(func() { w.revokeStopped(ctx) })
	helpers.Go(func() { w.sendReplies(ctx, submits) })

	w.take(ctx, submits, &jobs)

	cutOff := time.AfterFunc(w.cfg.Grace, endSubmits)
	jobs.Wait()
	cutOff.Stop()
	endSubmits()
	endPorts()
	helpers.Wait()
	return nil
}

// link runs the routes. Only ctx ends it, whatever they say.
func (w *Worker) link(ctx context.Context) {
	if err := w.cfg.Routes.Run(ctx, sms.Handlers{Receipt: w.receipt, Incoming: w.incoming}); err != nil {
		w.cfg.Log.Error("the SMS routes ended", "err", err)
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
		w.sawQueue(err)
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
