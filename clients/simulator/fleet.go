package simulator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// Member is one person of the population: a number, its ID, and for a lean handset what it is
// certified with.
type Member struct {
	Number     wire.Number
	ID         wire.ID
	Credential *Credential // nil: no lean handset
}

// BrokerCounts are a node's own figures. [C-7]
type BrokerCounts struct {
	Accepted, Delivered, Queued, Returned, InFlight, Difference int64
	PostRevocation                                              int64
	RSS                                                         int64   // bytes; 0: not known
	CPU                                                         float64 // seconds; 0: not known
}

// Config is what a fleet is run with. Required: Profile, People, For, Addr and Pins.
type Config struct {
	Profile Profile
	Seed    uint64
	Rate    float64       // texts a second of everybody; 0: the profile's
	Texts   int           // the last text; 0: no bound
	For     time.Duration // how long people act, from when all are connected
	Closed  bool          // closed loop: nobody writes before the last text has an outcome, and times count from the writing

	People []Member
	Real   int    // the first so many have a real handset; then come those with a lean one, then those with none
	Dir    string // for their state directories

	Addr    string
	TLS     *tls.Config // nil: loopback
	Pins    handset.Pins
	Gateway wire.Number // sender of gateway SMS
	Alone   bool        // nobody else uses the node

	Deadline time.Duration // of the node; 0: 8 s
	GreyMax  time.Duration // of the node; 0: 40 s
	Bound    time.Duration // from a connection to blue; grey and answers may be late by as much; 0: 1 s

	// Password waits for the one-time password that was sent to a number; nil: there is no way to
	// read one. It is called by several goroutines at once.
	Password func(ctx context.Context, to wire.Number) (string, error)
	// Recorded says that every SMS of the node comes to [Fleet.ReceiveSMS].
	Recorded bool
	// Counts reads the node's figures; nil: they are not known.
	Counts func(ctx context.Context) (BrokerCounts, error)
	// Memory reads the resident sets of the broker and of this process, in bytes, 0 where one is not
	// known; nil: neither is.
	Memory func() (broker, own int64)
	// Tell is told what happens; nil: nobody is. It must not block.
	Tell func(Progress)
}

// Progress is what happens during a run.
type Progress struct {
	Phase     string  // connecting, greeting, running, settling
	Done      float64 // of the phase, 0 to 1
	Sample    Sample
	Violation *Violation // else nil
}

// device is a handset with the person who holds it.
type device interface {
	connect(intended time.Time)
	leave(abrupt bool)
	drop(now time.Time)
	radio(on bool)
	write(n TextNo, to int, body string, at time.Time) bool // false: its person does not write now
	optOut()
	greet()
	receiveSMS(from wire.Number, body string)
	giveUp(since time.Time) // what was written by then and could not be sent
	isReady() bool
	stop()
}

// Fleet is a population against a node. Make one with [New], and [Fleet.Run] it once.
type Fleet = fleet

type fleet struct {
	cfg     Config
	plan    *Schedule
	ledger  *Ledger
	figures *Figures

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	devices []device // nil: a phone without the app
	reals   []*real
	leans   []*lean
	byNum   map[[8]byte]int
	byID    map[wire.ID]int
	dials   chan dialling
	stall   stall
	pollers pollers
	key     workerKeys
	hellos  atomic.Int64 // of lean handsets, without an answer
	begun   time.Time    // of the running phase
	broken  chan struct{}
	once    sync.Once

	phase   atomic.Pointer[string]
	numbers atomic.Uint32 // of texts, given out
	claimed atomic.Int64  // texts of Config.Texts that are written, or about to be
	written atomic.Int64  // texts in an outbox
	opened  atomic.Int64  // sessions of lean handsets
	failed  atomic.Int64  // dials that failed
}

// New checks a configuration and makes the population; nothing is connected yet.
func New(cfg Config) (*Fleet, error) {
	if err := cfg.Profile.Check(); err != nil {
		return nil, err
	}
	cfg.Profile = cfg.Profile.withDefaults()
	if len(cfg.People) < cfg.Real || cfg.For <= 0 || cfg.Addr == "" {
		return nil, errors.New("simulator: a run needs people, an address and a duration")
	}
	f := &fleet{
		cfg: cfg, figures: NewFigures(), broken: make(chan struct{}), dials: make(chan dialling, len(cfg.People)),
		plan:  NewSchedule(cfg.Profile, len(cfg.People), agreed(cfg), cfg.Rate, cfg.Seed),
		byNum: map[[8]byte]int{}, byID: map[wire.ID]int{}, devices: make([]device, len(cfg.People)),
	}
	for i, m := range cfg.People {
		f.byNum[m.Number.BCD()] = i
		f.byID[m.ID] = i
	}
	grey, bound := orElse(cfg.GreyMax, 40*time.Second), orElse(cfg.Bound, time.Second)
	f.ledger = NewLedger(LedgerConfig{
		Start: time.Now(), Deadline: cfg.Deadline, Blue: bound, Grey: grey + bound, Dead: grey + cfg.Profile.Keepalive.Std()*3/2 + bound, Slack: f.slack, Recorded: cfg.Recorded, Alone: cfg.Alone,
	}, len(cfg.People), f.figures, f.violated)
	return f, nil
}

// agreed is how many people have a handset: they stand before the others.
func agreed(cfg Config) int {
	n := cfg.Real
	for n < len(cfg.People) && cfg.People[n].Credential != nil {
		n++
	}
	return n
}

// slack is what the links and the simulator's own stalls add to every bound.
func (f *fleet) slack() time.Duration { return 2*f.cfg.Profile.slowest() + f.stall.worst() }

func (f *fleet) violated(v Violation) {
	f.tell(Progress{Violation: &v})
	f.once.Do(func() { close(f.broken) })
}

func (f *fleet) tell(p Progress) {
	if f.cfg.Tell != nil {
		p.Phase = f.Phase()
		f.cfg.Tell(p)
	}
}

// Phase is where the run is.
func (f *Fleet) Phase() string {
	if p := f.phase.Load(); p != nil {
		return *p
	}
	return ""
}

func (f *fleet) enter(phase string) {
	f.phase.Store(&phase)
	f.tell(Progress{})
}

// start runs g until the fleet stops; Run waits for it.
func (f *fleet) start(g func()) { f.wg.Go(g) }

// dial opens a TCP connection from an address of who's own.
func (f *fleet) dial(ctx context.Context, network, addr string, who int) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: sourceOf(addr, who), KeepAlive: -1}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		f.failed.Add(1)
	}
	return c, err
}

// ownSMS is an SMS from a phone's own SIM.
func (f *fleet) ownSMS(from int, to wire.Number, body string) {
	f.deliverSMS(f.cfg.People[from].Number, to, NumberOf(body), body)
}

// ReceiveSMS takes a message from the SMSC's record and hands it to the phone it is for.
func (f *Fleet) ReceiveSMS(from, to wire.Number, body string) {
	text := body
	if _, rest, ok := fallback.CutSender(body); ok {
		text = rest
	}
	if n := NumberOf(text); n != 0 { // else a one-time password
		f.deliverSMS(from, to, n, body)
	}
}

func (f *fleet) deliverSMS(from, to wire.Number, n TextNo, body string) {
	who, ok := f.byNum[to.BCD()]
	if !ok {
		f.ledger.Fail(Misdelivered, time.Now(), "an SMS of this run went to a number of nobody's")
		return
	}
	f.ledger.Recorded(n, who, time.Now())
	if d := f.devices[who]; d != nil {
		d.receiveSMS(from, body)
	}
}

// stall is how late the simulator's own timers were lately: what it cannot see more finely, it must
// not hold against the node.
type stall struct {
	mu       sync.Mutex
	now, was time.Duration
	turned   time.Time
}

const (
	stallEvery = 10 * time.Millisecond
	stallKept  = 3 * time.Second
)

func (s *stall) note(d time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.turned) > stallKept {
		s.was, s.now, s.turned = s.now, 0, now
	}
	s.now = max(s.now, d)
}

func (s *stall) worst() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.now, s.was)
}

// watchStalls measures until the fleet stops.
func (f *fleet) watchStalls() {
	t := time.NewTicker(stallEvery)
	defer t.Stop()
	for last := time.Now(); ; {
		select {
		case <-f.ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		f.stall.note(max(0, now.Sub(last)-stallEvery), now)
		last = now
	}
}

// every calls g now and then until the fleet stops.
func (f *fleet) every(d time.Duration, g func(now time.Time)) {
	f.start(func() {
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-f.ctx.Done():
				return
			case <-t.C:
				g(time.Now())
			}
		}
	})
}

// rawName is for errors that name somebody by place.
func rawName(who int) string { return fmt.Sprintf("handset %d", who) }
