package custody

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

const (
	modelEvents  = 40_000 // for each seed
	modelPeople  = 12
	modelWindow  = 4
	modelWaiting = 6
)

// TestModel drives a Machine with random events and holds every effect against an oracle that
// knows only the sentences: one word for each waiter [C-1], the reasons for returning [C-2],
// nothing after the outcome [C-3], jobs told when stored [C-4], joining resends [C-6], the counts
// [C-7], and silence after a revocation [C-revoke].
func TestModel(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			o := newOracle(t, seed)
			for i := range modelEvents {
				o.step()
				if t.Failed() {
					t.Fatalf("after event %d", i)
				}
			}
			o.finish()
		})
	}
}

// An item is a text, job or push that the oracle holds to be in flight.
type item struct {
	key      Key
	serial   uint64
	payload  string // the serial number in digits
	push     uint64 // its Ref; 0: an attempt
	waiters  []Waiter
	deadline time.Time
	ref      uint64 // of Forward or Enqueue, until it is resolved or handed over
	sess     *sess
	place    int // order within sess
	pid      uint16
}

// A sess is a connection as its client sees it.
type sess struct {
	conn   Conn
	owner  wire.ID
	tag    wire.Tag
	window int
	ready  bool
	places int
	last   int              // place of the last item written
	used   map[uint16]*item // every packet id ever written; nil: acknowledged or decided
	open   map[uint16]bool  // written and not acknowledged
}

type oracle struct {
	*testing.T
	r     *rand.Rand
	m     *Machine
	now   time.Time
	want  Counts
	conns map[Conn]*sess
	tags  map[wire.Tag]*sess
	items map[string]*item // by payload: everything in flight
	refs  map[uint64]*item
	told  map[Waiter]bool // who has not been told yet
	serial,
	lastConn uint64
}

func newOracle(t *testing.T, seed uint64) *oracle {
	return &oracle{
		T: t, r: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1e9, 0),
		m:     New(Config{Deadline: 8 * time.Second, Window: modelWindow, MaxWaiting: modelWaiting}),
		conns: map[Conn]*sess{}, tags: map[wire.Tag]*sess{}, items: map[string]*item{},
		refs: map[uint64]*item{}, told: map[Waiter]bool{},
	}
}

func person(i int) wire.ID      { return wire.ID{1, byte(i)} }
func tagOf(id wire.ID) wire.Tag { return wire.Tag{2, id[1]} }

func (o *oracle) anyone() wire.ID { return person(o.r.IntN(modelPeople)) }

// conn is a random live connection, nil if there is none.
func (o *oracle) conn() *sess {
	return pick(o.r, o.conns, func(s *sess) uint64 { return uint64(s.conn) })
}

func (o *oracle) item() *item {
	return pick(o.r, o.items, func(i *item) uint64 { return i.serial })
}

// pick chooses a value of a map, the same for the same seed whatever the order of the map.
func pick[K comparable, V any](r *rand.Rand, m map[K]V, serial func(V) uint64) (chosen V) {
	salt, least := r.Uint64(), uint64(math.MaxUint64)
	for _, v := range m {
		if h := (serial(v) ^ salt) * 0x9e3779b97f4a7c15; h <= least {
			chosen, least = v, h
		}
	}
	return chosen
}

// step performs one random event and checks what must hold after any.
func (o *oracle) step() {
	events := []struct {
		weight int
		do     func()
	}{
		{8, o.attach}, {8, o.makeReady}, {4, o.detach}, {30, o.publish}, {10, o.resend}, {6, o.enqueue},
		{6, o.pushOne}, {40, o.ack}, {4, o.unreadable}, {10, o.resolve}, {14, o.advance}, {1, o.revoke}, {3, o.withdraw},
	}
	n := o.r.IntN(144)
	for _, e := range events {
		if n -= e.weight; n < 0 {
			e.do()
			break
		}
	}
	o.invariants()
}

func (o *oracle) invariants() {
	o.want.InFlight = 0
	var due time.Time
	for _, i := range o.items {
		if i.push == 0 {
			o.want.InFlight++
			if due.IsZero() || i.deadline.Before(due) {
				due = i.deadline
			}
		}
		if s := i.sess; s != nil && i.pid == 0 && s.ready && len(s.open) < s.window {
			o.Errorf("%s waits although the window has room", i.payload)
		}
	}
	if got := o.m.Counts(); got != o.want {
		o.Errorf("counts (-oracle +machine):\n%s", cmp.Diff(o.want, got))
	}
	if d := o.m.Counts().Difference(); d != 0 {
		o.Errorf("[C-7] is off by %d", d)
	}
	if at, ok := o.m.Next(); ok != !due.IsZero() || ok && !at.Equal(due) {
		o.Errorf("Next is %v, %v; the earliest deadline is %v", at, ok, due)
	}
}

// finish lets everything end: then each waiter was told, and nothing is left.
func (o *oracle) finish() {
	o.now = o.now.Add(time.Minute)
	o.expire()
	for len(o.conns) > 0 {
		o.detach()
	}
	o.invariants()
	if len(o.items)+len(o.told) != 0 {
		o.Errorf("%d items and %d waiters are left", len(o.items), len(o.told))
	}
	if m := o.m; len(m.attempts)+len(m.refs)+len(m.byConn)+len(m.byTag) != 0 || m.pushes.head != nil {
		o.Errorf("the machine holds %d attempts, %d refs, %d and %d sessions", len(m.attempts), len(m.refs), len(m.byConn), len(m.byTag))
	}
}

// attach makes a new connection, or attaches a withdrawn one again.
func (o *oracle) attach() {
	n := o.conn()
	if n == nil || !n.tag.IsZero() {
		o.lastConn++
		n = &sess{conn: Conn(o.lastConn), owner: o.anyone(), window: 1 + o.r.IntN(modelWindow), used: map[uint16]*item{}, open: map[uint16]bool{}}
	}
	n.tag, n.ready = tagOf(n.owner), false
	if old := o.tags[n.tag]; old != nil {
		delete(o.conns, old.conn)
		for _, i := range o.held(old) {
			n.places++
			i.sess, i.place, i.pid = n, n.places, 0
		}
	}
	o.conns[n.conn], o.tags[n.tag] = n, n
	o.m.Attach(Session{Conn: n.conn, Owner: n.owner, Tag: n.tag, Window: n.window})
}

// held lists what a session holds, in order.
func (o *oracle) held(s *sess) []*item {
	var held []*item
	for _, i := range o.items {
		if i.sess == s {
			held = append(held, i)
		}
	}
	slices.SortFunc(held, func(a, b *item) int { return a.place - b.place })
	return held
}

func (o *oracle) makeReady() {
	if s := o.conn(); s != nil {
		s.ready = true
		o.check(o.m.Ready(nil, s.conn), nil)
	}
}

func (o *oracle) detach() {
	if s := o.conn(); s != nil {
		delete(o.conns, s.conn)
		delete(o.tags, s.tag)
		o.check(o.m.Detach(nil, s.conn), o.returned(s))
	}
}

func (o *oracle) withdraw() {
	if s := o.conn(); s != nil {
		delete(o.tags, s.tag)
		s.tag, s.ready = wire.Tag{}, false
		o.check(o.m.Withdraw(nil, s.conn), o.returned(s))
	}
}

// returned is how what a session holds ends with it.
func (o *oracle) returned(s *sess) map[*item]wire.Code {
	ends := map[*item]wire.Code{}
	for _, i := range o.held(s) {
		ends[i] = wire.NoRecipient
	}
	return ends
}

// waiter is a packet id never used before, or now and then another broker's request.
func (o *oracle) waiter() Waiter {
	if o.r.IntN(8) == 0 {
		o.serial++
		return Waiter{Route: o.serial}
	}
	return o.local()
}

func (o *oracle) local() Waiter {
	o.serial++
	return Waiter{Conn: Conn(1e6 + o.serial>>16), PacketID: uint16(o.serial)}
}

// accept enters a new attempt into the oracle's books.
func (o *oracle) accept(topic wire.Topic, w Waiter) (*item, Attempt) {
	o.serial++
	payload := fmt.Sprint(o.serial)
	i := &item{
		key:    Key{Sender: o.anyone(), Topic: topic, Message: wire.MessageIDOf([]byte(payload))},
		serial: o.serial, payload: payload, waiters: []Waiter{w}, deadline: o.now.Add(8 * time.Second),
	}
	if w.Route != 0 {
		i.deadline = o.now.Add(7 * time.Second)
	}
	o.items[payload], o.told[w] = i, true
	o.want.Accepted++
	return i, Attempt{Key: i.key, Waiter: w, Payload: []byte(payload)}
}

func (o *oracle) publish() {
	tag := tagOf(o.anyone())
	i, a := o.accept(wire.Topic{Kind: wire.TopicInbox, Tag: tag}, o.waiter())
	ends := o.bind(i)
	if i.sess == nil && a.Waiter.Route != 0 {
		ends[i] = wire.NoRecipient
	}
	o.check(o.m.Publish(nil, o.now, a), ends)
}

// bind gives an item to the session of its tag, unless there is none or too much waits for it.
func (o *oracle) bind(i *item) (ends map[*item]wire.Code) {
	ends = map[*item]wire.Code{}
	s := o.tags[i.key.Topic.Tag]
	if s == nil {
		return ends
	}
	delete(o.refs, i.ref)
	i.ref = 0
	s.places++
	i.sess, i.place = s, s.places
	if o.waitingFor(s) > modelWaiting {
		ends[i] = wire.NoRecipient
	}
	return ends
}

// waitingFor counts what a session holds and may not write now.
func (o *oracle) waitingFor(s *sess) int {
	held := 0
	for _, i := range o.items {
		if i.sess == s && i.pid == 0 {
			held++
		}
	}
	if s.ready {
		held -= s.window - len(s.open)
	}
	return held
}

// resend publishes the bytes of an attempt in flight again: under a packet id it has, or another.
func (o *oracle) resend() {
	i := o.item()
	if i == nil || i.push != 0 {
		return
	}
	w := i.waiters[o.r.IntN(len(i.waiters))]
	if o.r.IntN(2) == 0 {
		w = o.waiter()
		o.told[w] = true
		i.waiters = append(i.waiters, w)
	}
	o.want.Joined++
	a := Attempt{Key: i.key, Waiter: w, Payload: []byte(i.payload)}
	if i.key.Topic.Kind == wire.TopicFallback {
		o.check(o.m.Enqueue(nil, o.now, a), nil)
		return
	}
	var ends map[*item]wire.Code
	if i.sess == nil {
		ends = o.bind(i)
	}
	o.check(o.m.Publish(nil, o.now, a), ends)
}

func (o *oracle) enqueue() {
	_, a := o.accept(wire.Topic{Kind: wire.TopicFallback}, o.local())
	o.check(o.m.Enqueue(nil, o.now, a), nil)
}

func (o *oracle) pushOne() {
	s := o.conn()
	if s == nil {
		return
	}
	o.serial++
	i := &item{serial: o.serial, payload: fmt.Sprint(o.serial), push: o.serial, key: Key{Sender: o.anyone(), Topic: wire.Topic{Kind: wire.TopicHello, ID: s.owner}}}
	free := o.waitingFor(s) < modelWaiting
	if free {
		o.items[i.payload] = i
		s.places++
		i.sess, i.place = s, s.places
	}
	effects, ok := o.m.Push(nil, s.conn, Push{Topic: i.key.Topic, Sender: i.key.Sender, Payload: []byte(i.payload), Ref: i.push})
	if ok != free {
		o.Errorf("Push returned %v", ok)
	}
	o.check(effects, nil)
}

func (o *oracle) ack() {
	s := o.conn()
	if s == nil {
		return
	}
	pid := uint16(o.r.IntN(len(s.used) + 2))
	i := s.used[pid]
	switch {
	case i != nil:
		delete(s.open, pid)
		o.check(o.m.Ack(nil, s.conn, pid), map[*item]wire.Code{i: wire.OK})
	case s.open[pid]:
		delete(s.open, pid)
		o.want.Late++
		fallthrough
	default:
		o.check(o.m.Ack(nil, s.conn, pid), nil)
	}
}

func (o *oracle) unreadable() {
	s, i := o.conn(), o.item()
	if s == nil || i == nil {
		return
	}
	var ends map[*item]wire.Code
	if i.sess == s && i.pid != 0 && i.push == 0 {
		ends = map[*item]wire.Code{i: wire.Unreadable}
		delete(s.open, i.pid) // it has been read: its place is free
	}
	o.check(o.m.Unreadable(nil, s.conn, wire.MessageIDOf([]byte(i.payload))), ends)
}

func (o *oracle) resolve() {
	ref := o.m.lastRef - uint64(o.r.IntN(12))
	code := []wire.Code{wire.OK, wire.NoRecipient, wire.QueueFull}[o.r.IntN(3)]
	var ends map[*item]wire.Code
	if i := o.refs[ref]; i != nil {
		ends = map[*item]wire.Code{i: code}
	}
	o.check(o.m.Resolve(nil, ref, code), ends)
}

func (o *oracle) advance() {
	o.now = o.now.Add(time.Duration(o.r.IntN(2000)) * time.Millisecond)
	o.expire()
}

func (o *oracle) expire() {
	ends := map[*item]wire.Code{}
	for _, i := range o.items {
		if i.push == 0 && !i.deadline.After(o.now) {
			ends[i] = wire.NoRecipient
			if i.key.Topic.Kind == wire.TopicFallback {
				ends[i] = wire.Unavailable
			}
		}
	}
	o.check(o.m.Expire(nil, o.now), ends)
}

func (o *oracle) revoke() {
	id := o.anyone()
	ends := map[*item]wire.Code{}
	for _, i := range o.items {
		if i.key.Sender == id {
			ends[i] = wire.Revoked
		} else if s := o.tags[i.key.Topic.Tag]; i.sess != nil && i.sess.owner == id || s != nil && s.owner == id {
			ends[i] = wire.NoRecipient
		}
	}
	o.check(o.m.Revoke(nil, id), ends)
}

// check holds the effects of one event against the items that end by it: those, and only those,
// are told, each waiter once; what is written afterwards is in flight, in order, within the window.
func (o *oracle) check(effects []Effect, ends map[*item]wire.Code) {
	told := map[Waiter]wire.Code{}
	for i, code := range ends {
		o.end(i, code)
		for _, w := range i.waiters {
			told[w] = code
		}
	}
	for _, e := range effects {
		switch e.Kind {
		case Deliver:
			o.delivered(e)
		case Tell, Reply:
			o.tell(e, told)
		case Forward, Enqueue:
			o.referred(e)
		case Pushed:
			if code, ok := ends[o.pushed(ends, e)]; !ok || code != wire.OK {
				o.Errorf("Pushed %d, which was not acknowledged now", e.Ref)
			}
		default:
			o.Errorf("unknown effect %+v", e)
		}
	}
	if len(told) != 0 {
		o.Errorf("not told: %v", told)
	}
}

func (o *oracle) pushed(ends map[*item]wire.Code, e Effect) *item {
	for i := range ends {
		if i.push != 0 && i.push == e.Ref {
			return i
		}
	}
	return nil
}

// end removes an item from the oracle's books and counts it.
func (o *oracle) end(i *item, code wire.Code) {
	delete(o.items, i.payload)
	delete(o.refs, i.ref)
	if i.pid != 0 {
		i.sess.used[i.pid] = nil
	}
	switch {
	case i.push != 0:
	case code != wire.OK:
		o.want.Returned++
	case i.key.Topic.Kind == wire.TopicFallback:
		o.want.Queued++
	default:
		o.want.Delivered++
	}
}

func (o *oracle) tell(e Effect, told map[Waiter]wire.Code) {
	w := Waiter{Conn: e.Conn, PacketID: e.PacketID}
	if e.Kind == Reply {
		w = Waiter{Route: e.Ref}
	}
	code, due := told[w]
	if !o.told[w] || !due || code != e.Code {
		o.Errorf("%+v was told %v; due %v, waits %v, want %v", w, e.Code, due, o.told[w], code)
	}
	delete(told, w)
	delete(o.told, w)
}

func (o *oracle) referred(e Effect) {
	i := o.items[string(e.Payload)]
	if i == nil || i.ref != 0 || i.sess != nil {
		o.Errorf("%+v of what is not in flight, or elsewhere", e)
		return
	}
	i.ref, o.refs[e.Ref] = e.Ref, i
}

func (o *oracle) delivered(e Effect) {
	i, s := o.items[string(e.Payload)], o.conns[e.Conn]
	if i == nil || s == nil || i.sess != s || i.pid != 0 || i.key.Topic != e.Topic {
		o.Errorf("%s was written to connection %d: not in flight, not to it, or twice", e.Payload, e.Conn)
		return
	}
	_, reused := s.used[e.PacketID]
	if reused || e.PacketID == 0 || !s.ready || len(s.open) >= s.window || i.place <= s.last {
		o.Errorf("%s as %d: reused %v, ready %v, %d unacknowledged, place %d after %d",
			e.Payload, e.PacketID, reused, s.ready, len(s.open), i.place, s.last)
	}
	i.pid, s.last = e.PacketID, i.place
	s.used[e.PacketID], s.open[e.PacketID] = i, true
}
