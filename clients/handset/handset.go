package handset

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Handset is one device. Its methods may be called from several goroutines at once.
type Handset struct {
	cfg    Config
	dir    *stateDir
	events chan Event

	mu      sync.Mutex
	m       *model
	store   *store
	failed  error // sticky: nothing more is done
	closed  bool
	net     []effect // for the connection, in order
	sms     []sendSMS
	waiters map[uint64]chan error
	waiter  uint64
	missed  bool
	stop    context.CancelFunc // ends run; nil: not connecting
	stopped chan struct{}      // run has ended

	netKick   chan struct{}
	smsKick   chan struct{}
	clockKick chan struct{}
	quit      context.CancelFunc
	wg        sync.WaitGroup

	stamped uint32 // of the newest CONNECT without TLS; under mu
}

// ErrClosed reports a handset that has been closed.
var ErrClosed = errors.New("handset: closed")

// Open opens or creates the state directory. It makes no connection: before the user has accepted
// the notice not a byte is sent. [U-1] Close the handset to release the directory.
func Open(cfg Config) (*Handset, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, err := openDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	h := &Handset{
		cfg: cfg, dir: dir, events: make(chan Event, cfg.EventBuffer), waiters: map[uint64]chan error{},
		netKick: make(chan struct{}, 1), smsKick: make(chan struct{}, 1), clockKick: make(chan struct{}, 1),
	}
	if err := h.load(); err != nil {
		return nil, errors.Join(err, h.release())
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.quit = cancel
	h.wg.Go(func() { h.clock(ctx) })
	h.wg.Go(func() { h.sim(ctx) })
	return h, nil
}

// load reads the log and checks that the directory is the one it was written in. [U-7]
func (h *Handset) load() error {
	s, err := openStore(h.dir)
	if err != nil {
		return err
	}
	h.store = s
	here, err := h.dir.where()
	if err != nil {
		return err
	}
	there, written := s.state[keyPlace]
	moved := written && string(there) != string(here[:])
	if moved && !h.cfg.Moved {
		return ErrCopied
	}
	if h.m, err = newModel(h.modelConfig(), s.state, time.Now()); err != nil {
		return err
	}
	if moved || !written {
		h.m.saveRaw(keyPlace, here[:])
	}
	return h.step(func(m *model) {
		if moved || s.suspect {
			m.beginAnew()
		}
		m.tick()
	})
}

func (h *Handset) modelConfig() modelConfig {
	return modelConfig{
		pins: h.cfg.Pins, policy: h.cfg.Policy, sim: h.cfg.SIM != nil, gateways: h.cfg.Gateways,
		helloTimeout: h.cfg.HelloTimeout, greyAfter: h.cfg.GreyAfter, notices: h.cfg.hashes(),
	}
}

func (h *Handset) release() error {
	var err error
	if h.store != nil {
		err = h.store.close()
	}
	return errors.Join(err, h.dir.close())
}

// Close disconnects, waits for everything the handset started, and releases the directory.
func (h *Handset) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return ErrClosed
	}
	h.closed = true
	h.mu.Unlock()
	_ = h.Disconnect(context.Background()) // bounded by the time limits of what run does
	h.quit()
	h.wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.waiters {
		h.release1(w, ErrClosed)
	}
	h.failed = ErrClosed
	close(h.events)
	return h.release()
}

// step lets something happen: the model decides, the log is written, and only then is anything
// done. After a failed write nothing more is done at all. [U-6]
func (h *Handset) step(event func(*model)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.locked(event)
}

func (h *Handset) locked(event func(*model)) error {
	if h.failed != nil {
		return h.failed
	}
	h.m.now = time.Now()
	event(h.m)
	t, effects := h.m.take()
	if err := h.store.commit(&t); err != nil {
		h.failed = err
		h.cfg.Log.Error("state not written: the handset stops", "error", err)
		h.emit(Event{Kind: StorageFailed, At: h.m.now})
		for w := range h.waiters {
			h.release1(w, err)
		}
		poke(h.netKick)
		return err
	}
	for _, e := range effects {
		h.dispatch(e)
	}
	poke(h.clockKick)
	return nil
}

// dispatch hands an effect to whoever carries it out. It never blocks.
func (h *Handset) dispatch(e effect) {
	switch e := e.(type) {
	case tell:
		h.emit(e.event)
	case finish:
		h.release1(e.waiter, e.err)
	case sendSMS:
		h.sms = append(h.sms, e)
		poke(h.smsKick)
	default:
		h.net = append(h.net, e)
		poke(h.netKick)
	}
}

// emit passes an event on. What nobody reads in time is dropped, and said to be.
func (h *Handset) emit(e Event) {
	if h.missed {
		select {
		case h.events <- Event{Kind: Missed, At: e.At}:
			h.missed = false
		default:
			return
		}
	}
	select {
	case h.events <- e:
	default:
		h.missed = true
	}
}

// Events is where everything that happens is told, in order. It is closed by Close.
func (h *Handset) Events() <-chan Event { return h.events }

func (h *Handset) release1(w uint64, err error) {
	if c := h.waiters[w]; c != nil {
		delete(h.waiters, w)
		c <- err // has room for one
	}
}

// await runs an event that ends with finish, and waits for it.
func (h *Handset) await(ctx context.Context, event func(m *model, waiter uint64)) error {
	h.mu.Lock()
	h.waiter++
	w, c := h.waiter, make(chan error, 1)
	h.waiters[w] = c
	err := h.locked(func(m *model) { event(m, w) })
	h.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		h.mu.Lock()
		delete(h.waiters, w)
		h.mu.Unlock()
		return ctx.Err()
	}
}

// clock lets time pass in the model.
func (h *Handset) clock(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		h.mu.Lock()
		next := h.m.next()
		h.mu.Unlock()
		timer.Reset(max(time.Until(next), time.Millisecond))
		select {
		case <-ctx.Done():
			return
		case <-h.clockKick:
		case <-timer.C:
			if h.step(func(m *model) { m.tick() }) != nil {
				return
			}
		}
	}
}

// sim sends SMS from the phone itself, one at a time.
func (h *Handset) sim(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.smsKick:
		}
		h.mu.Lock()
		jobs := h.sms
		h.sms = nil
		h.mu.Unlock()
		for _, j := range jobs {
			ok := ctx.Err() == nil && h.cfg.SIM != nil && h.cfg.SIM.SendSMS(ctx, j.to, j.body) == nil
			if ctx.Err() != nil {
				return // stays "perhaps sent"
			}
			_ = h.step(func(m *model) { m.smsDone(j.text, ok) })
		}
	}
}
