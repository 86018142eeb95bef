package simulator

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// Report is what a run found.
type Report struct {
	Counts
	Unaccounted int
	Presence    PresenceChecks
	Attempts    Attempts
	Handsets    int // with the app
	Real        int
	Lean        int
	Sessions    int64 // opened between lean handsets
	Failed      int64 // dials that failed
	Violations  []Violation
	Latencies   map[string]Latency
	Samples     []Sample
	FrameBytes  float64
	Sent, Read  int64 // bytes of MQTT packets in the running phase
	BytesBefore int64 // before it, both ways
	ReadyIn     time.Duration
	GreetedIn   time.Duration
	Ran         time.Duration
	Late        time.Duration // the simulator itself, at most
	Broker      *BrokerCounts // at the end; nil: not known
	Stopped     bool          // by a violation
}

// Run connects the population, lets it act, waits for what is under way, and gives the verdict. An
// error is about the run itself; violations are in the report.
func (f *Fleet) Run(ctx context.Context) (r Report, err error) {
	f.ctx, f.cancel = context.WithCancel(ctx)
	defer f.shutdown()
	f.start(f.watchStalls)
	f.every(100*time.Millisecond, f.ledger.Tick)
	for range dialers {
		f.start(f.dialAll)
	}
	began := time.Now()
	f.enter("connecting")
	if err := f.bringUp(); err != nil {
		return r, err
	}
	r.ReadyIn = time.Since(began)
	f.enter("greeting")
	began = time.Now()
	f.greetAll()
	r.GreetedIn = time.Since(began)
	f.enter("running")
	sent, read := f.figures.Bytes()
	r.BytesBefore = sent + read
	r.Late = f.act()
	r.Ran = time.Since(f.begun)
	r.Sent, r.Read = f.figures.Bytes()
	r.Sent, r.Read = r.Sent-sent, r.Read-read
	f.enter("settling")
	if r.Stopped = f.stopped(); !r.Stopped {
		f.settle()
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	r.Broker = f.conserve()
	return r, f.conclude(&r)
}

// stopped reports whether a violation has ended the run.
func (f *fleet) stopped() bool {
	select {
	case <-f.broken:
		return true
	default:
		return f.ctx.Err() != nil
	}
}

// bringUp makes the handsets and connects those who are there at the start.
func (f *fleet) bringUp() error {
	for i := range f.cfg.People {
		if err := f.makeDevice(i); err != nil {
			return err
		}
	}
	if err := f.startPollers(runtime.GOMAXPROCS(0)); err != nil { // they look into the devices
		return err
	}
	f.every(time.Second/4, f.sweep)
	var enrolled sync.WaitGroup
	failed := make(chan error, 1)
	enrolled.Go(func() { f.enrolReals(failed) })
	f.connectAll()
	enrolled.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	return f.awaitReady()
}

func (f *fleet) makeDevice(i int) error {
	switch m := f.cfg.People[i]; {
	case !f.plan.People[i].OptedIn: // a phone without the app
	case i < f.cfg.Real:
		r, err := newReal(f, i)
		if err != nil {
			return fmt.Errorf("%s: %w", rawName(i), err)
		}
		f.reals = append(f.reals, r)
		f.devices[i] = r
	case m.Credential != nil:
		l, err := newLean(f, i)
		if err != nil {
			return fmt.Errorf("%s: %w", rawName(i), err)
		}
		f.leans = append(f.leans, l)
		f.devices[i] = l
	}
	return nil
}

// enrolReals enrols the real handsets, a few at a time, and makes their contacts.
func (f *fleet) enrolReals(failed chan error) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, 4)
	for _, r := range f.reals {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			ctx, cancel := context.WithTimeout(f.ctx, enrolTime)
			defer cancel()
			err := r.enrol(ctx)
			if err == nil {
				err = r.meet(ctx)
			}
			if err != nil {
				select {
				case failed <- fmt.Errorf("%s: %w", rawName(r.who), err):
				default:
				}
			}
		})
	}
	wg.Wait()
}

// connectAll begins the connections of lean handsets at the profile's rate.
func (f *fleet) connectAll() {
	start, n := time.Now(), 0
	for _, l := range f.leans {
		if f.plan.People[l.who].Late {
			continue
		}
		at := start.Add(time.Duration(float64(n) / f.cfg.Profile.ConnectRate * float64(time.Second)))
		n++
		if !f.sleepUntil(at) {
			return
		}
		l.connect(at)
		if n%64 == 0 {
			f.tell(Progress{Done: float64(n) / float64(len(f.leans))})
		}
	}
}

func (f *fleet) sleepUntil(at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return f.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.ctx.Done():
		return false
	}
}

// readyTime bounds the wait for the last of them.
const readyTime = 60 * time.Second

// awaitReady waits until everybody who is to be there is connected and has agreed.
func (f *fleet) awaitReady() error {
	for by := time.Now().Add(readyTime); ; {
		waiting, all := 0, 0
		for i, d := range f.devices {
			if d != nil && !f.plan.People[i].Late {
				all++
				if !d.isReady() {
					waiting++
				}
			}
		}
		if waiting == 0 || f.stopped() {
			return f.ctx.Err()
		}
		if time.Now().After(by) {
			return fmt.Errorf("simulator: %d of %d handsets are not connected after %s (%d dials failed): is the node up, and may so many connect?", waiting, all, readyTime, f.failed.Load())
		}
		f.tell(Progress{Done: 1 - float64(waiting)/float64(all)})
		if !f.sleepUntil(time.Now().Add(20 * time.Millisecond)) {
			return f.ctx.Err()
		}
	}
}

// maxHellos is how many hellos of lean handsets are under way at once at the start.
const maxHellos = 128

// greetAll opens the conversations. What does not open now opens with the first text.
func (f *fleet) greetAll() {
	for i, d := range f.devices {
		if d == nil || f.plan.People[i].Late || f.stopped() {
			continue
		}
		d.greet()
		f.tell(Progress{Done: float64(i) / float64(len(f.devices))})
		for by := time.Now().Add(helloTime); f.hellos.Load() >= maxHellos && time.Now().Before(by) && !f.stopped(); {
			if !f.sleepUntil(time.Now().Add(time.Millisecond)) {
				return
			}
		}
	}
	for by := time.Now().Add(helloTime); f.hellos.Load() > 0 && time.Now().Before(by) && !f.stopped(); {
		if !f.sleepUntil(time.Now().Add(5 * time.Millisecond)) {
			return
		}
	}
}

// act lets the population do what it has planned, and returns how late the simulator was at most.
func (f *fleet) act() (late time.Duration) {
	f.begun = time.Now()
	f.figures.begin()
	var wg sync.WaitGroup
	hands := make([]chan Planned, 2*runtime.GOMAXPROCS(0))
	for i := range hands {
		hands[i] = make(chan Planned, 1024)
		wg.Go(func() {
			for p := range hands[i] {
				f.perform(p)
			}
		})
	}
	f.every(time.Second, func(now time.Time) { f.sample(now) })
	f.every(2*time.Second, func(time.Time) { f.conserve() })
	if patience := f.cfg.Profile.Patience.Std(); patience > 0 {
		f.every(max(patience/4, 100*time.Millisecond), func(now time.Time) { f.loseHeart(now.Add(-patience)) })
	}
	for {
		p, ok := f.plan.Next()
		if !ok || p.At > f.cfg.For {
			f.waitUntil(f.begun.Add(f.cfg.For))
			break
		}
		if p.Action == Write && f.cfg.Texts > 0 && f.written.Load() >= int64(f.cfg.Texts) {
			break
		}
		if !f.waitUntil(f.begun.Add(p.At)) {
			break
		}
		late = max(late, time.Since(f.begun)-p.At)
		hands[p.Who%len(hands)] <- p
	}
	for _, h := range hands {
		close(h)
	}
	wg.Wait()
	return late
}

// waitUntil is sleepUntil that a violation ends, too.
func (f *fleet) waitUntil(at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return !f.stopped()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.broken:
	case <-f.ctx.Done():
	}
	return false
}

// perform carries out one action.
func (f *fleet) perform(p Planned) {
	d := f.devices[p.Who]
	if d == nil {
		return
	}
	at := f.begun.Add(p.At)
	switch p.Action {
	case Write:
		f.writeText(d, p, at)
	case Arrive, Return:
		d.connect(at)
	case Leave, Cut:
		d.leave(p.Action == Cut)
	case Drop:
		d.drop(at)
	case RadioOff, RadioOn:
		d.radio(p.Action == RadioOn)
	case OptOut:
		d.optOut()
	}
}

// writeText has somebody write, if that is not one text more than the run is to have.
func (f *fleet) writeText(d device, p Planned, at time.Time) {
	if f.claimed.Add(1) > int64(f.cfg.Texts) && f.cfg.Texts > 0 {
		f.claimed.Add(-1)
		return
	}
	n := TextNo(f.numbers.Add(1))
	if !d.write(n, p.To, Body(n, p.Length, p.Emoji), at) {
		f.claimed.Add(-1)
		return
	}
	f.written.Add(1)
}

// loseHeart has everybody take back what waits since then.
func (f *fleet) loseHeart(since time.Time) {
	for _, d := range f.devices {
		if d != nil {
			d.giveUp(since)
		}
	}
}

// sample takes one point of the plots and checks the node's counts.
func (f *fleet) sample(now time.Time) {
	c := f.ledger.Counts()
	ready := 0
	for _, d := range f.devices {
		if d != nil && d.isReady() {
			ready++
		}
	}
	var broker, own int64
	if f.cfg.Memory != nil {
		broker, own = f.cfg.Memory()
	}
	s := f.figures.Sample(Sample{
		BrokerRSS: broker, RSS: own,
		At: now.Sub(f.begun).Seconds(), Texts: c.Texts, IP: c.IP, SMS: c.SMS, Returned: c.Returned, Connected: ready,
		Late: float64(f.stall.worst()) / float64(time.Millisecond),
	})
	f.tell(Progress{Sample: s, Done: min(1, now.Sub(f.begun).Seconds()/f.cfg.For.Seconds())})
}

// settle brings everybody back, waits for every outcome, and after a while gives up what waits for
// somebody who does not come.
func (f *fleet) settle() {
	for _, d := range f.devices {
		if d != nil {
			d.radio(true)
			d.connect(time.Now())
		}
	}
	patience := orElse(f.cfg.Deadline, 8*time.Second) + f.slack()
	if f.awaitOutcomes(patience + helloTime/2) {
		return
	}
	for range 3 {
		f.loseHeart(time.Now())
		if f.awaitOutcomes(patience + 4*time.Second) {
			return
		}
	}
}

func (f *fleet) awaitOutcomes(d time.Duration) bool {
	all := f.ledger.OpenTexts()
	for by := time.Now().Add(d); time.Now().Before(by) && !f.stopped(); {
		open := f.ledger.OpenTexts()
		if open == 0 {
			return f.sleepUntil(time.Now().Add(300 * time.Millisecond)) // what comes after its outcome would be a violation
		}
		f.tell(Progress{Done: 1 - float64(open)/float64(max(1, all))})
		if !f.sleepUntil(time.Now().Add(20 * time.Millisecond)) {
			return false
		}
	}
	return f.stopped()
}

// conserve holds the node's counts against each other and against what senders were told. [C-7]
func (f *fleet) conserve() *BrokerCounts {
	if f.cfg.Counts == nil {
		return nil
	}
	told := f.ledger.Attempts().OK // before the counts: what comes meanwhile is in them
	ctx, cancel := context.WithTimeout(f.ctx, 5*time.Second)
	defer cancel()
	c, err := f.cfg.Counts(ctx)
	switch {
	case f.ctx.Err() != nil:
		return nil
	case err != nil:
		f.ledger.Fail(Conservation, time.Now(), "the node's counts cannot be read: "+err.Error())
		return nil
	}
	f.ledger.Balance(c, told, time.Now())
	return &c
}

// Balance judges a node's counts, read after senders had been told of so many deliveries.
func (l *Ledger) Balance(c BrokerCounts, told int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := c.Accepted - c.Delivered - c.Queued - c.Returned - c.InFlight; d != 0 || c.Difference != 0 {
		l.fail(Conservation, now, 0, "accepted %d, delivered %d, queued %d, returned %d, in flight %d: %d are missing",
			c.Accepted, c.Delivered, c.Queued, c.Returned, c.InFlight, d)
	}
	if l.cfg.Alone && int64(told) > c.Delivered {
		l.fail(Conservation, now, 0, "senders were told of %d deliveries, the node counts %d", told, c.Delivered)
	}
	if c.PostRevocation != 0 {
		l.fail(AfterRevocation, now, 0, "the node itself stopped %d deliveries at its last check", c.PostRevocation)
	}
}

// conclude stops the handsets, reads the stores and gives the verdict.
func (f *fleet) conclude(r *Report) error {
	for _, x := range f.reals {
		x.stop()
	}
	for _, x := range f.reals {
		if err := x.inspect(); err != nil {
			return fmt.Errorf("%s: %w", rawName(x.who), err)
		}
	}
	stopped := r.Stopped || f.stopped()
	if !stopped {
		r.Unaccounted = f.ledger.Close(time.Now())
	} else {
		r.Unaccounted = f.ledger.OpenTexts()
	}
	r.Stopped = stopped
	r.Counts, r.Presence, r.Violations = f.ledger.Counts(), f.ledger.Presence(), f.ledger.Violations()
	r.Attempts = f.ledger.Attempts()
	r.Handsets, r.Real, r.Lean = len(f.reals)+len(f.leans), len(f.reals), len(f.leans)
	r.Sessions, r.Failed = f.opened.Load(), f.failed.Load()
	r.Latencies, r.Samples, r.FrameBytes = f.figures.Latencies(), f.figures.Samples(), f.figures.FrameBytes()
	return nil
}

// Attempts are the answers to publishes on inboxes.
func (l *Ledger) Attempts() Attempts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attempts
}

// shutdown ends everything that was started, and waits for it.
func (f *fleet) shutdown() {
	f.cancel()
	for _, r := range f.reals {
		r.stop()
	}
	for _, l := range f.leans {
		l.stop()
	}
	f.wg.Wait()
}
