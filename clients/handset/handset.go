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
	sending bool // a goroutine sends what is in sms
	waiters map[uint64]chan error
	waiter  uint64
	missed  bool
	stop    context.CancelFunc // ends run; nil: not connecting
	stopped chan struct{}      // run has ended

	netKick chan struct{}
	clock   *time.Timer        // lets time pass in the model
	life    context.Context    // ends in Close; then no goroutine starts any more
	quit    context.CancelFunc // ends life; under mu
	wg      sync.WaitGroup

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
		netKick: make(chan struct{}, 1),
	}
	h.life, h.quit = context.WithCancel(context.Background())
	if err := h.load(); err != nil {
		h.quit()
		return nil, errors.Join(err, h.release())
	}
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
	h.mu.Lock()
	h.quit()
	h.clock.Stop()
	h.mu.Unlock()
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
	h.wind()
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
		if !h.sending && h.life.Err() == nil {
			h.sending = true
			h.wg.Go(h.sendAll)
		}
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

// wind sets the clock to when something is due in the model. Callers hold h.mu.
func (h *Handset) wind() {
	wait := max(time.Until(h.m.next()), time.Millisecond)
	switch {
	case h.life.Err() != nil:
	case h.clock == nil:
		h.clock = time.AfterFunc(wait, h.strike)
	default:
		h.clock.Reset(wait)
	}
}

// strike does what is due. All of it is under h.mu: after Close it does nothing.
func (h *Handset) strike() { _ = h.step(func(m *model) { m.tick() }) }

// sendAll sends SMS from the phone itself, one at a time, until none is left.
func (h *Handset) sendAll() {
	for j, ok := h.nextSMS(); ok; j, ok = h.nextSMS() {
		sent := h.cfg.SIM != nil && h.cfg.SIM.SendSMS(h.life, j.to, j.body) == nil
		if h.life.Err() != nil {
			return // stays "perhaps sent"
		}
		_ = h.step(func(m *model) { m.smsDone(j.text, sent) })
	}
}

// nextSMS takes out what is to be sent now; without one, or after Close, sendAll is over.
func (h *Handset) nextSMS() (sendSMS, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sms) == 0 || h.life.Err() != nil {
		h.sending, h.sms = false, nil
		return sendSMS{}, false
	}
	j := h.sms[0]
	h.sms = h.sms[1:]
	return j, true
}
