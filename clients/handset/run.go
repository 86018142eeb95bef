package handset

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"bluejay/wire"
)

const (
	firstBackoff = time.Second
	welcomeTime  = 20 * time.Second // between CONNACK and the welcome
	// pubackTime is how long a PUBACK may take. The broker tells the truth about a text within 8 s;
	// one that says nothing has lost it, and the same bytes are sent over another connection.
	pubackTime = 30 * time.Second
	lookEvery  = 5 * time.Second
)

// Connect keeps the device connected until Disconnect, with back-off between attempts. It returns
// at the first welcome, at a refusal, or when ctx ends; only a refusal stops the trying.
func (h *Handset) Connect(ctx context.Context) error {
	h.mu.Lock()
	switch {
	case h.closed:
		h.mu.Unlock()
		return ErrClosed
	case h.failed != nil:
		defer h.mu.Unlock()
		return h.failed
	case !h.m.enrolled():
		h.mu.Unlock()
		return ErrNotEnrolled
	case h.m.link.up:
		h.mu.Unlock()
		return nil
	}
	first := make(chan error, 1)
	h.start(first)
	h.mu.Unlock()
	select {
	case err := <-first:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start runs the connection, after the one before has ended. Callers hold h.mu.
func (h *Handset) start(first chan error) {
	before, stop := h.stopped, h.stop
	if stop != nil {
		stop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	h.stop, h.stopped = cancel, done
	h.wg.Go(func() {
		defer close(done)
		defer cancel()
		if before != nil {
			<-before
		}
		h.run(ctx, first)
	})
}

// Disconnect ends the connection and the trying. Texts stay in the outbox.
func (h *Handset) Disconnect(ctx context.Context) error {
	h.mu.Lock()
	stop, stopped := h.stop, h.stopped
	h.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// outcome of one connection.
type verdict int

const (
	again  verdict = iota // connect again, after a while
	atOnce                // connect again now: a new tag
	stop                  // do not
)

// trying is what one connection leaves for the next, and how it went.
type trying struct {
	h        *Handset
	first    chan error // told how the first attempt that decides something went
	backoff  time.Duration
	withCert bool
	c        *courier      // of the connection; nil: there was none
	err      error         // why there was none
	wait     time.Duration // before the next
	over     bool
}

func (t *trying) say(err error) {
	select {
	case t.first <- err:
	default:
	}
}

// run connects again and again.
func (h *Handset) run(ctx context.Context, first chan error) {
	t := &trying{h: h, first: first, backoff: firstBackoff, withCert: true}
	for !t.over {
		apart(func() { t.dial(ctx) })
		if t.c != nil {
			t.c.serve(ctx)
		}
		apart(func() { t.over = !t.next(ctx) })
		if !t.over && t.wait > 0 && !sleep(ctx, t.wait) {
			t.say(ctx.Err())
			t.over = true
		}
	}
	_ = h.step(func(m *model) { m.stopped() })
}

// apart runs f on a goroutine of its own, and waits for it. Keys, files and dialling need a deep
// stack for a moment; the goroutine that waits for days is not to keep one.
func apart(f func()) {
	var g sync.WaitGroup
	g.Go(f)
	g.Wait()
}

// dial makes a connection.
func (t *trying) dial(ctx context.Context) {
	t.c = nil
	l, err := dialLink(ctx, t.h.cfg, t.h.proof(t.withCert), t.h.netKick)
	if t.err = err; err != nil {
		return
	}
	t.h.hungUp()
	t.c = &courier{
		h: t.h, link: l, welcomed: t.welcomed,
		began: time.Now(), look: time.NewTimer(lookEvery), set: true,
	}
}

// end ends the connection, if there was one, and returns how it went.
func (t *trying) end() (verdict, error) {
	c := t.c
	if t.c = nil; c == nil { // a handset that waits for a network keeps nothing of the connection it had
		return again, t.err
	}
	c.look.Stop()
	c.link.close()
	return c.over.verdict, c.over.err
}

// next decides after a connection whether there is to be another, and when.
func (t *trying) next(ctx context.Context) bool {
	h := t.h
	t.wait = 0
	v, err := t.end()
	if broken := h.step(func(m *model) { m.linkDown() }); broken != nil {
		t.say(broken)
		return false
	}
	switch {
	case ctx.Err() != nil || v == stop || h.hungUp():
		t.say(errors.Join(err, ctx.Err()))
		return false
	case errors.Is(err, ErrTooOld):
		_ = h.step(func(m *model) { m.event(Event{Kind: Refused, Code: wire.TooOld}) })
		t.say(err)
		return false
	case errors.Is(err, ErrRefused) && t.withCert:
		_ = h.step(func(m *model) { m.event(Event{Kind: Refused, Code: wire.Revoked}) })
		t.say(err)
		return false
	case errors.Is(err, ErrRefused): // perhaps the broker has lost our certificate
		t.withCert = true
		return true
	case v == atOnce:
		return true
	}
	h.cfg.Log.Info("not connected", "error", err, "again_in", t.backoff)
	t.wait = t.backoff/2 + rand.N(t.backoff)
	t.backoff = min(2*t.backoff, h.cfg.MaxBackoff)
	return true
}

// welcomed: the connection is good.
func (t *trying) welcomed() {
	t.backoff, t.withCert = firstBackoff, false
	t.say(nil)
}

// hungUp drops what was meant for a connection that has ended, and reports whether the model had
// ended it.
func (h *Handset) hungUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	over := slices.ContainsFunc(h.net, func(e effect) bool { _, is := e.(hangUp); return is })
	h.net = nil
	return over
}

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

// proof signs the CONNECT of this attempt. [P-15]
func (h *Handset) proof(withCert bool) connectProof {
	h.mu.Lock()
	defer h.mu.Unlock()
	cert, gen, key := h.m.ident.Cert, h.m.self.Gen, h.m.ident.Device
	return func(exporter []byte) []byte {
		c := wire.Connect{ID: cert.ID, Gen: gen, TLS: exporter != nil}
		if withCert {
			c.Cert = &cert
		}
		if !c.TLS {
			c.TS = h.stamp()
		}
		c.Sign(key, exporter, h.cfg.Pins.Broker)
		return c.Marshal()
	}
}

// stamp is the time of a CONNECT without TLS. Signatures are deterministic, so a second used twice
// would be refused as a replay: connecting often borrows from the seconds to come. [P-16]
func (h *Handset) stamp() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stamped = max(h.stamped+1, wire.Unix32(time.Now()))
	return h.stamped
}

// courier carries effects to a connection, and what arrives on it to the model.
type courier struct {
	h       *Handset
	link    *link
	flights []*departed  // without a PUBACK
	last    uint64       // delivery
	held    mqtt.Message // it, until the model has decided
	up      bool
	over    *ending // nil: it goes on

	welcomed func()
	began    time.Time
	look     *time.Timer // whether it still answers; an idle phone is not woken
	set      bool        // look is
	looking  bool        // it is time
}

// departed is a flight and when it left.
type departed struct {
	flight
	id   uint16 // of its packet
	at   time.Time
	code wire.Code // what a notice said before the PUBACK [C-1]
}

// departed finds the flight of a packet; nil: none is awaited.
func (c *courier) departed(id uint16) *departed {
	for _, f := range c.flights {
		if f.id == id {
			return f
		}
	}
	return nil
}

// ending is why a connection is to end.
type ending struct {
	verdict verdict
	err     error
}

// serve runs until the connection ends, by whichever side. It waits here for days.
func (c *courier) serve(ctx context.Context) {
	for c.over == nil {
		select {
		case <-ctx.Done():
			c.end(stop, nil)
		case <-c.link.lost:
			c.end(again, ErrOffline)
		case <-c.look.C:
			c.looking = true
		case <-c.h.netKick:
		}
		apart(c.work)
	}
}

// work does what there is to do. What the model wanted before goes out first: it may be to end this connection, and
// then nothing more is taken from it. What has arrived counts before it is asked whether anything does.
func (c *courier) work() {
	if c.over != nil {
		return
	}
	c.carryOut()
	c.receive()
	c.carryOut()
	if !c.up && c.h.linkUp() {
		c.up = true
		c.welcomed()
	}
	if c.looking && c.over == nil {
		c.lookAround(time.Now())
	}
	if !c.set && len(c.flights) > 0 {
		c.look.Reset(lookEvery)
		c.set = true
	}
}

// lookAround ends a connection on which nothing answers.
func (c *courier) lookAround(now time.Time) {
	c.looking = false
	if !c.up && now.Sub(c.began) >= welcomeTime || c.stuck(now) {
		c.end(again, ErrUnavailable)
	}
	if c.set = !c.up; c.set {
		c.look.Reset(lookEvery)
	}
}

// stuck reports whether a PUBACK is overdue.
func (c *courier) stuck(now time.Time) bool {
	for _, f := range c.flights {
		if now.Sub(f.at) >= pubackTime {
			return true
		}
	}
	return false
}

func (h *Handset) linkUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m.link.up
}

func (c *courier) end(v verdict, err error) {
	if c.over == nil {
		c.over = &ending{v, err}
	}
}

// step lets the model decide; a storage failure ends the connection.
func (c *courier) step(event func(*model)) {
	if err := c.h.step(event); err != nil {
		c.end(stop, err)
	}
}

// receive hands everything that has arrived to the model, in the order of the wire.
func (c *courier) receive() {
	for c.over == nil {
		l, ok := c.link.mail.next()
		switch {
		case !ok:
			return
		case l.message == nil:
			c.puback(l.puback)
		default:
			c.message(l.message)
		}
	}
}

func (c *courier) puback(id uint16) {
	f := c.departed(id)
	if f == nil {
		return
	}
	c.flights = slices.DeleteFunc(c.flights, func(o *departed) bool { return o == f })
	c.step(func(m *model) { m.done(f.flight, f.code) })
}

// message passes one publish on. A notice is kept for the PUBACK that follows it. [C-1]
func (c *courier) message(msg mqtt.Message) {
	t, err := wire.ParseTopic(msg.Topic())
	if err != nil {
		msg.Ack() // not of this protocol
		return
	}
	if n, err := wire.ParseNotice(msg.Payload()); err == nil && t.Kind == wire.TopicReply {
		if f := c.departed(n.PacketID); f != nil {
			f.code = n.Code
		}
		msg.Ack()
		return
	}
	c.last++
	c.held = msg
	c.step(func(m *model) { m.message(t, msg.Payload(), c.last) })
	c.carryOut()
	c.held = nil // if it was not acknowledged now, it never will be
}

// carryOut does what the model wants of the connection, in order.
func (c *courier) carryOut() {
	c.h.mu.Lock()
	effects, failed := c.h.net, c.h.failed
	c.h.net = nil
	c.h.mu.Unlock()
	if failed != nil {
		c.end(stop, failed)
	}
	for _, e := range effects {
		if c.over == nil {
			c.carry(e)
		}
	}
}

func (c *courier) carry(e effect) {
	switch e := e.(type) {
	case publish:
		id, err := c.link.publish(e.topic.String(), e.payload, e.retained)
		if err != nil {
			c.end(again, err)
			return
		}
		c.flights = append(c.flights, &departed{flight: e.flight, id: id, at: time.Now()})
	case subscribe:
		c.link.client.Subscribe(e.topic.String(), 1, nil)
	case unsubscribe:
		c.link.client.Unsubscribe(e.topic.String())
	case acknowledge:
		if c.held != nil && e.delivery == c.last {
			c.held.Ack()
		}
	case reconnect:
		c.end(atOnce, nil)
	case hangUp:
		c.end(stop, e.err)
	}
}
