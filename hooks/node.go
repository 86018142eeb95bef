package hooks

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"bluejay/consent"
	"bluejay/custody"
	"bluejay/presence"
	"bluejay/wire"
)

// Store keeps consent states durably. Save is compare and set on State.Revision (0 creates) and
// returns the new revision once the state is on disk; a lost race is [consent.ErrConflict]. It is asked when
// somebody connects, agrees or withdraws, and never for a text: sessions remember what they may do. [H-10]
type Store interface {
	Load(ctx context.Context, id wire.ID) (consent.State, error)
	Save(ctx context.Context, id wire.ID, s consent.State) (revision uint64, err error)
}

// Ledger is the log of consent events. Log returns nil only once the event is in it and on disk; the
// same event again soon after has the same entry. Size is how many entries there are. [L-7] [L-8]
type Ledger interface {
	Log(ctx context.Context, event []byte) (consent.Entry, error)
	Size() uint64
}

// Registrar relays a request to the registrar, which the broker never replaces.
type Registrar interface {
	Call(ctx context.Context, subject string, request []byte) (wire.Code, []byte, error)
}

// Jobs is the durable fallback queue. Enqueue returns nil only once a job is on disk; its error
// wraps the [wire.Code] to answer with. [C-4]
type Jobs interface {
	Enqueue(ctx context.Context, c wire.JobClass, p wire.Pseudonym, m wire.MessageID, payload, sender, party []byte) error
	Cancel(ctx context.Context, m wire.MessageID) (bool, error)
	CancelAll(ctx context.Context, ps []wire.Pseudonym) error
}

// Outcomes are what became of SMS jobs, kept until the sender's handset has them. [F-7]
type Outcomes interface {
	Pending(ctx context.Context, p wire.Pseudonym) ([]wire.Outcome, error)
	Done(ctx context.Context, p wire.Pseudonym, o wire.Outcome) error
}

// Router finds the session of a tag on other brokers. [C-2]
type Router interface {
	Claim(t wire.Tag) error
	Release(t wire.Tag)
	Forward(ctx context.Context, t wire.Tag, payload []byte) (wire.Code, error)
	// Fence has whichever broker has the session of a tag end what its owner may not do any more, by the state that
	// is stored. Nil: there is no such session left elsewhere. [C-revoke]
	Fence(ctx context.Context, t wire.Tag, id wire.ID) error
}

// Config is what a Node needs. Zero durations mean the default named.
type Config struct {
	Name       string             // the broker's name, pinned by handsets
	Registrar  wire.PublicKey     // verifies certificates
	Receipt    ed25519.PrivateKey // signs receipts
	TagKey     []byte             // K_tag, 32 bytes, shared by the cluster
	SealSender func(wire.ID, wire.MessageID) ([]byte, error)
	// SealParty seals an ID for the node itself, so that events about its SMS jobs find back to it.
	// Nil: no integrators. [E-4]
	SealParty func(wire.ID) ([]byte, error)
	// Withdraw takes back what integrators have of an ID that does not agree to that, before it is
	// told so; had: it agreed until now. Nil: no integrators. [C-revoke]
	Withdraw func(ctx context.Context, id wire.ID, had bool) error

	Policy     consent.Policy // until SetPolicy; zero: any notice is accepted
	MinVersion int            // the oldest version that handsets may be made for; 0: any
	// Observe is told how long after its arrival a revocation had reached each part. It must not block.
	// Nil: nobody is.
	Observe func(part Part, took time.Duration)

	Store    Store
	Ledger   Ledger // nil: consent is not logged; for tests only
	Relay    Registrar
	Jobs     Jobs
	Outcomes Outcomes
	Router   Router // nil: no other brokers

	Quotas         consent.Limits
	Custody        custody.Config
	GreyMin        time.Duration // 20 s
	GreyMax        time.Duration // 40 s
	CallTimeout    time.Duration // 10 s: one request to the registrar, the store or the queue
	ConnectTimeout time.Duration // 10 s: until CONNECT is answered
	Log            *slog.Logger
}

func (c Config) withDefaults() Config {
	defaults := []struct {
		v *time.Duration
		d time.Duration
	}{
		{&c.GreyMin, 20 * time.Second}, {&c.GreyMax, 2 * c.GreyMin},
		{&c.CallTimeout, 10 * time.Second}, {&c.ConnectTimeout, 10 * time.Second},
	}
	for _, x := range defaults {
		if *x.v == 0 {
			*x.v = x.d
		}
	}
	if c.GreyMax < c.GreyMin {
		c.GreyMax = 2 * c.GreyMin
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Counts are a node's figures since start; no label of them names an ID.
type Counts struct {
	Custody          custody.Counts
	Sessions         int
	Blue, Watches    int
	Refused          int64 // CONNECTs
	PostRevocation   int64 // deliveries stopped at the last check; each is a bug upstream of it
	Revocations      int64
	Suspensions      int64         // connected devices that a change of policy, or their own word, has silenced
	RevocationLast   time.Duration // from the record's arrival to the acknowledgement, the last one
	Bundles          int
	HellosUndelivred int64
}

// Node is one broker's share of the protocol: the sessions connected to it and what they do.
// Make one with [New]; Close ends its goroutines.
type Node struct {
	cfg    Config
	srv    *mqtt.Server
	hook   *hook
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	clients sync.Map   // *mqtt.Client → *session, for the hooks
	serving sync.Map   // *connConfig: whose connections are served
	routing sync.Mutex // held across a claim or release of a tag; before mu

	mu       sync.Mutex
	last     custody.Conn
	custody  *custody.Machine
	presence *presence.Table
	quotas   *consent.Quotas
	replays  consent.Replays
	byConn   map[custody.Conn]*session
	byID     map[wire.ID]*session
	senders  map[wire.Pseudonym]*session
	bundles  map[wire.ID]storedBundle
	storing  map[wire.ID]*storing
	asking   map[wire.ID]*asking
	changes  [4096]uint64 // see change
	closed   bool
	policy   consent.Policy
	lastRef  uint64
	worker   []byte // current worker key record
	counts   Counts
	effects  []custody.Effect
	shows    []presence.Effect
	scratch  []byte
	timer    *time.Timer
	timerAt  time.Time
	routes   map[uint64]func(wire.Code)
	probe    *probe
}

type storedBundle struct {
	raw      []byte
	notAfter time.Time
}

type storedOutcome struct {
	sender  wire.Pseudonym
	outcome wire.Outcome
}

// storing counts an ID's SMS jobs on their way into the queue; done closes when none is left.
type storing struct {
	n    int
	done chan struct{}
}

// New returns a Node that serves connections handed to [Node.Serve].
func New(cfg Config) (*Node, error) {
	if len(cfg.TagKey) < 32 || len(cfg.Receipt) != ed25519.PrivateKeySize || cfg.Store == nil || cfg.Name == "" {
		return nil, errors.New("hooks: a node needs a name, a store, a tag key of 32 bytes and a receipt key")
	}
	cfg = cfg.withDefaults()
	n := &Node{
		cfg: cfg, custody: custody.New(cfg.Custody), presence: presence.New(),
		quotas: consent.NewQuotas(func(b []byte) { _, _ = rand.Read(b) }),
		byConn: map[custody.Conn]*session{}, byID: map[wire.ID]*session{},
		senders: map[wire.Pseudonym]*session{}, bundles: map[wire.ID]storedBundle{},
		storing: map[wire.ID]*storing{}, asking: map[wire.ID]*asking{}, policy: cfg.Policy, routes: map[uint64]func(wire.Code){},
	}
	n.quotas.Limits = cfg.Quotas
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.timer = time.AfterFunc(time.Hour, n.expire)
	n.hook = &hook{n: n}
	n.srv = newMochi(n.hook)
	if err := n.srv.AddHook(n.hook, nil); err != nil {
		return nil, err
	}
	return n, nil
}

// enter counts a caller in, so that Close waits for what it starts; false: the node is closed.
func (n *Node) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.wg.Add(1)
	}
	return !n.closed
}

// Close ends every session, those still connecting included, and waits for them and for the
// node's own goroutines until ctx ends. Attempts in flight are not answered: their senders still
// hold the texts. [C-7]
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.timer.Stop()
	n.Disconnect()
	done := make(chan struct{})
	go func() { n.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Disconnect ends every session, telling MQTT 5 clients why. It does not wait for them.
func (n *Node) Disconnect() {
	n.mu.Lock()
	all := make([]*session, 0, len(n.byConn))
	for _, s := range n.byConn {
		all = append(all, s)
	}
	n.mu.Unlock()
	for _, s := range all {
		n.end(s, wire.Unavailable)
	}
}

// Counts returns the node's figures.
func (n *Node) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.counts
	c.Custody = n.custody.Counts()
	c.Sessions, c.Bundles = len(n.byConn), len(n.bundles)
	c.Blue, c.Watches = n.presence.Len()
	return c
}

// expire runs when an attempt's deadline or a grey delay is due. It is the node's only timer.
func (n *Node) expire() {
	if !n.enter() {
		return
	}
	defer n.wg.Done()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.timerAt = time.Time{}
	n.perform(n.custody.Expire(n.effects[:0], now))
	n.show(n.presence.Expire(n.shows[:0], now))
	n.arm()
}

// arm sets the timer for the earliest deadline. Callers hold n.mu.
func (n *Node) arm() {
	at, ok := n.custody.Next()
	if p, leaving := n.presence.Next(); leaving && (!ok || p.Before(at)) {
		at, ok = p, true
	}
	if !ok || (!n.timerAt.IsZero() && !at.Before(n.timerAt)) {
		return
	}
	n.timerAt = at
	n.timer.Reset(time.Until(at))
}

// do runs f under the lock, performs its effects and arms the timer.
func (n *Node) do(f func(dst []custody.Effect) []custody.Effect) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.perform(f(n.effects[:0]))
	n.arm()
}

// call runs f on a goroutine of the node with the call timeout; f must not be needed for n to end.
// Callers are counted in, or run in a goroutine that is. A panic in f ends f. [M-15]
func (n *Node) call(f func(ctx context.Context)) {
	n.wg.Go(func() {
		defer n.recovered()
		ctx, cancel := context.WithTimeout(n.ctx, n.cfg.CallTimeout)
		defer cancel()
		f(ctx)
	})
}

// recovered logs where a call panicked, not with what. Deferred.
func (n *Node) recovered() {
	if v := recover(); v != nil {
		n.cfg.Log.Error("panic in a call", "type", fmt.Sprintf("%T", v), "at", callers())
	}
}

// change counts how often the stored state of an ID changed what connections act on. Who read it
// before loading a state may act on the state only if it reads the same now; other IDs share the
// counter, which costs them a load. Callers hold n.mu. [C-revoke]
func (n *Node) change(id wire.ID) *uint64 {
	return &n.changes[int(binary.BigEndian.Uint16(id[:]))%len(n.changes)]
}

// changed returns the count of change.
func (n *Node) changed(id wire.ID) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return *n.change(id)
}

func (n *Node) greyDelay() time.Duration {
	span := n.cfg.GreyMax - n.cfg.GreyMin
	if span <= 0 {
		return n.cfg.GreyMin
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	return n.cfg.GreyMin + time.Duration(binary.BigEndian.Uint64(b[:])%uint64(span))
}

// day is the UTC day of a pseudonym.
func day(t time.Time) uint32 { return uint32(t.Unix() / 86400) }

// pseudonym is how the SMS worker knows a sender on one day. [F-9]
func (n *Node) pseudonym(id wire.ID, d uint32) wire.Pseudonym {
	return wire.MakePseudonym(n.cfg.TagKey, id, d)
}

// SetWorkerKey makes a verified worker key record the one on topic k and sends it to everybody
// connected that asked for it.
func (n *Node) SetWorkerKey(k wire.WorkerKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.worker = k.Marshal()
	for _, s := range n.byConn {
		if s.wantsKey {
			n.write(s, wire.Topic{Kind: wire.TopicKey}, 0, false, n.worker)
		}
	}
}

// Outcome hands the outcome of an SMS job to its sender if it is connected here; otherwise it
// stays stored until the sender connects.
func (n *Node) Outcome(p wire.Pseudonym, o wire.Outcome) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.senders[p]; s != nil {
		n.pushOutcome(s, p, o)
	}
}

// Route delivers a text for another broker; reply is called exactly once. [C-2]
func (n *Node) Route(t wire.Tag, payload []byte, reply func(wire.Code)) {
	if !n.enter() {
		reply(wire.NoRecipient)
		return
	}
	defer n.wg.Done()
	n.do(func(dst []custody.Effect) []custody.Effect {
		n.lastRef++
		n.routes[n.lastRef] = reply
		topic := wire.Topic{Kind: wire.TopicInbox, Tag: t}
		return n.custody.Publish(dst, time.Now(), custody.Attempt{
			Key:    custody.Key{Topic: topic, Message: wire.MessageIDOf(payload)},
			Waiter: custody.Waiter{Route: n.lastRef}, Payload: payload,
		})
	})
}
