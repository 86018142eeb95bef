package simulator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"time"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// real is a handset of package handset, with its own state directory, and the person behind it.
type real struct {
	f   *fleet
	who int
	dir string
	h   *handset.Handset

	acting sync.Mutex
	ops    []func(context.Context) // the first is under way

	mu       sync.Mutex
	contacts map[int]handset.ContactID
	people   map[handset.ContactID]int
	texts    map[handset.TextID]TextNo
	link     *tap // the newest connection
	pipe     *pipeConn
	dark     bool // the radio is off
	intended time.Time
}

// enrolTime bounds each step of an enrolment, and a connection.
const enrolTime = 30 * time.Second

var modes = [...]fallback.Mode{fallback.ModeGateway, fallback.ModeDevice, fallback.ModeNever}

func newReal(f *fleet, who int) (*real, error) {
	r := &real{
		f: f, who: who, dir: filepath.Join(f.cfg.Dir, fmt.Sprintf("handset-%d", who)),
		contacts: map[int]handset.ContactID{}, people: map[handset.ContactID]int{}, texts: map[handset.TextID]TextNo{},
	}
	var err error
	r.h, err = handset.Open(handset.Config{
		Dir: r.dir, Pins: f.cfg.Pins, Addr: f.cfg.Addr, TLS: f.cfg.TLS, Dial: r.dial, SIM: sim{r},
		Policy:   handset.Policy{Mode: modes[f.plan.People[who].Fallback]},
		Gateways: []wire.Number{f.cfg.Gateway}, KeepAlive: f.cfg.Profile.Keepalive.Std(),
		MaxBackoff: 5 * time.Second, EventBuffer: 32,
	})
	if err != nil {
		return nil, err
	}
	f.start(r.listen)
	return r, nil
}

// do queues what the person does; a goroutine runs while something is in the queue.
func (r *real) do(op func(context.Context)) {
	r.acting.Lock()
	defer r.acting.Unlock()
	if r.ops = append(r.ops, op); len(r.ops) == 1 {
		r.f.start(r.act)
	}
}

// act does what the person does, in order.
func (r *real) act() {
	for op := r.op(); op != nil; op = r.done() {
		ctx, cancel := context.WithTimeout(r.f.ctx, enrolTime)
		op(ctx)
		cancel()
	}
}

// op is what is to be done now; nil: nothing.
func (r *real) op() func(context.Context) {
	r.acting.Lock()
	defer r.acting.Unlock()
	if len(r.ops) == 0 || r.f.ctx.Err() != nil {
		return nil
	}
	return r.ops[0]
}

// done takes out what was done, and returns what is next.
func (r *real) done() func(context.Context) {
	r.acting.Lock()
	r.ops = r.ops[1:]
	r.acting.Unlock()
	return r.op()
}

// dial connects from an address of this handset's own, over its link, under the ledger's eyes.
func (r *real) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	r.mu.Lock()
	dark, began := r.dark, r.intended
	r.intended = time.Time{}
	r.mu.Unlock()
	if dark {
		return nil, errors.New("simulator: the radio is off")
	}
	now := time.Now()
	if began.IsZero() {
		began = now
	}
	c, err := r.f.dial(ctx, network, addr, r.who)
	if err != nil {
		return nil, err
	}
	p := r.f.pathOf(r.who, now)
	var x *pipeConn
	if p != nil {
		x = newPipeConn(c, p, r.f.start)
		c = x
	}
	if r.f.cfg.TLS != nil {
		return c, nil // below TLS there is nothing to see
	}
	t := &tap{Conn: c, line: r.f.ledger.dial(r.who, r.f.cfg.People[r.who].ID, p, began, now)}
	r.mu.Lock()
	r.link, r.pipe = t, x
	r.mu.Unlock()
	return t, nil
}

// enrol proves the number, agrees, and connects.
func (r *real) enrol(ctx context.Context) error {
	number := r.f.cfg.People[r.who].Number
	if !r.h.Status().Enrolled {
		if r.f.cfg.Password == nil {
			return errors.New("simulator: a real handset needs a one-time password, which this node's SMS would bring; give state directories that are enrolled")
		}
		if err := r.h.Enrol(ctx, number, r.h.Notice("en")); err != nil {
			return fmt.Errorf("enrol: %w", err)
		}
		password, err := r.f.cfg.Password(ctx, number)
		if err != nil {
			return fmt.Errorf("one-time password: %w", err)
		}
		if err := r.h.Confirm(ctx, password); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
	scopes := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway
	if err := r.h.OptIn(ctx, scopes, wire.Listed); err != nil {
		return fmt.Errorf("opt in: %w", err)
	}
	return r.h.Connect(ctx)
}

// meet adds every friend as a contact.
func (r *real) meet(ctx context.Context) error {
	for _, o := range r.f.plan.Friends(r.who) {
		id, err := r.h.AddContact(ctx, fmt.Sprintf("friend %d", o), r.f.cfg.People[o].Number)
		if err != nil {
			return fmt.Errorf("contact: %w", err)
		}
		r.mu.Lock()
		r.contacts[o], r.people[id] = id, o
		r.mu.Unlock()
	}
	return nil
}

// greet says hello to those whom this person writes to first.
func (r *real) greet() {
	r.do(func(context.Context) {
		for _, o := range r.f.plan.People[r.who].Contacts {
			r.mu.Lock()
			id := r.contacts[o]
			r.mu.Unlock()
			_ = r.h.OpenConversation(id) // the first text tries again
		}
	})
}

func (r *real) write(n TextNo, to int, body string, at time.Time) bool {
	r.do(func(ctx context.Context) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.f.ledger.Accepted(n, r.who, to, at, time.Now())
		id, err := r.h.Send(ctx, r.contacts[to], body)
		if err != nil {
			r.f.ledger.Told(n, Returned, time.Now())
			return
		}
		r.texts[id] = n
	})
	return true
}

// listen passes on what the handset tells its user.
func (r *real) listen() {
	for e := range r.h.Events() {
		switch e.Kind {
		case handset.TextChanged:
			r.changed(e)
		case handset.TextReceived:
			r.received(e)
		case handset.Missed:
			r.catchUp(e.At)
		}
	}
}

func (r *real) changed(e handset.Event) {
	r.mu.Lock()
	n := r.texts[e.Text]
	r.mu.Unlock()
	t, ok := r.h.Text(e.Text) // as it is now: after events were missed, the ones that waited are old news
	if o := outcomeOf(t.State); ok && n != 0 && o != Open {
		r.f.ledger.Told(n, o, e.At)
	}
}

// catchUp reads what became of the texts whose events were lost; what came in is in the store.
func (r *real) catchUp(now time.Time) {
	r.mu.Lock()
	texts := maps.Clone(r.texts)
	r.mu.Unlock()
	for id, n := range texts {
		if t, ok := r.h.Text(id); ok && outcomeOf(t.State) != Open {
			r.f.ledger.Told(n, outcomeOf(t.State), now)
		}
	}
}

func outcomeOf(s handset.State) Outcome {
	switch s {
	case handset.Delivered:
		return OverIP
	case handset.SMSSent, handset.SMSDelivered:
		return BySMS
	case handset.Failed:
		return Returned
	}
	return Open
}

// received tells the ledger what came over IP; an SMS is in the phone network's record.
func (r *real) received(e handset.Event) {
	t, ok := r.h.Text(e.Text)
	if !ok || t.Path != fallback.PathIP {
		return
	}
	r.mu.Lock()
	from := r.people[e.Contact]
	r.mu.Unlock()
	r.f.ledger.Shown(NumberOf(t.Body), r.who, from, e.At)
}

func (r *real) connect(intended time.Time) {
	r.mu.Lock()
	r.intended = intended
	r.mu.Unlock()
	r.do(func(ctx context.Context) { _ = r.h.Connect(ctx) }) // it goes on trying
}

func (r *real) leave(abrupt bool) {
	r.do(func(ctx context.Context) {
		if abrupt {
			r.cut()
		}
		_ = r.h.Disconnect(ctx)
	})
}

// cut breaks the connection without a word.
func (r *real) cut() {
	r.mu.Lock()
	t := r.link
	r.mu.Unlock()
	if t != nil {
		_ = t.Close()
	}
}

func (r *real) drop(time.Time) { r.do(func(context.Context) { r.cut() }) }

// radio turns airplane mode on or off: the path is dead, the handset finds out by itself.
func (r *real) radio(on bool) {
	r.mu.Lock()
	r.dark = !on
	t, x := r.link, r.pipe
	r.mu.Unlock()
	if !on && x != nil {
		x.kill()
		t.line.deadPath(time.Now())
	}
	if on && t != nil {
		_ = t.Close() // a phone whose network is back does not wait for its old connection
	}
}

func (r *real) optOut() {
	r.do(func(ctx context.Context) {
		_ = r.h.OptOut(ctx)
		_ = r.h.Connect(ctx) // without consent, to see that nothing comes
	})
}

func (r *real) receiveSMS(from wire.Number, body string) { _ = r.h.ReceiveSMS(from, body) }

// giveUp cancels what waits and was written by since: the person does not want to send it any more.
func (r *real) giveUp(since time.Time) {
	r.do(func(ctx context.Context) {
		r.mu.Lock()
		contacts := make([]handset.ContactID, 0, len(r.people))
		for c := range r.people {
			contacts = append(contacts, c)
		}
		r.mu.Unlock()
		for _, c := range contacts {
			for _, t := range r.h.Texts(c) {
				if t.Out && t.State == handset.Waiting && !t.At.After(since) {
					_ = r.h.Cancel(ctx, t.ID)
				}
			}
		}
		r.catchUp(time.Now()) // should the last events have been missed
	})
}

func (r *real) isReady() bool { s := r.h.Status(); return s.Connected && s.On }

func (r *real) stop() { _ = r.h.Close() }

// inspect reads the state directory as it is on the disk, and shows the ledger what it has.
func (r *real) inspect() error {
	s, err := handset.ReadState(r.dir)
	if err != nil {
		return err
	}
	shows := map[TextNo]int{}
	for _, t := range s.Received() {
		if n := NumberOf(t.Body); n != 0 {
			shows[n]++
		}
	}
	r.f.ledger.Stored(r.who, shows, time.Now())
	return nil
}

// sim is the phone's own SMS.
type sim struct{ r *real }

// SendSMS hands a text to the phone network.
func (s sim) SendSMS(_ context.Context, to handset.Dialled, text string) error {
	s.r.mu.Lock()
	dark := s.r.dark
	s.r.mu.Unlock()
	n, err := wire.ParseNumber(string(to))
	if err != nil || dark {
		return errors.New("simulator: no network")
	}
	s.r.f.ownSMS(s.r.who, n, text)
	return nil
}

// pathOf makes the path of a new connection of who; nil: loopback as it is.
func (f *fleet) pathOf(who int, now time.Time) *path {
	link := f.plan.People[who].Link
	if link < 0 && f.cfg.Profile.Airplane == 0 {
		return nil
	}
	l := Link{RTO: Duration(300 * time.Millisecond)}
	if link >= 0 {
		l = f.cfg.Profile.Links[link]
	}
	return newPath(l, rand.New(rand.NewPCG(f.cfg.Seed, rand.Uint64())), now)
}
