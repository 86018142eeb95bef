package hooks

import (
	"context"
	"errors"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// Part is something that a revocation ends: a closed set.
type Part byte

// Parts, in the order in which a revocation reaches them.
const (
	PartStored   Part = iota // on disk, not silent yet
	PartSessions             // the live session may publish and subscribe no more
	PartBundle
	PartPresence
	PartWatches  // what it had subscribed to
	PartInFlight // texts from and to it have their outcome
	PartTag      // other brokers find it no more
	PartLookups  // look-ups under way have ended
	PartLastByte // what had been queued for others, or for itself, has left or never will
	PartJobs     // queued SMS jobs
	PartEvents   // what integrators hold
	PartReceipt  // all of it: the acknowledgement
)

var parts = [...]string{
	"stored", "sessions", "bundle", "presence", "watches", "in_flight", "tag", "look_ups", "last_byte", "jobs", "events", "receipt",
}

// String is the part as a label.
func (p Part) String() string {
	if int(p) < len(parts) {
		return parts[p]
	}
	return "invalid"
}

// fence follows one revocation from its arrival to its receipt. A nil fence follows nothing: what ends then
// ends without anybody waiting for it. [C-revoke]
type fence struct {
	n       *Node
	arrived time.Time
	unseen  bool              // no revocation: it is not observed
	conns   []*queuedConn     // that had something on its way at the cut
	left    []<-chan struct{} // of each, once it has left
	asked   []<-chan struct{} // look-ups that were under way: cancelled
}

func (n *Node) newFence() *fence { return &fence{n: n, arrived: time.Now()} }

// reached reports that nothing of a part is left.
func (f *fence) reached(p Part) {
	if f != nil && !f.unseen && f.n.cfg.Observe != nil {
		f.n.cfg.Observe(p, time.Since(f.arrived))
	}
}

// remember notes what may be under way at the cut of an ID: its look-ups, which end here, and whatever has not
// left the broker yet. Callers hold n.mu.
func (f *fence) remember(id wire.ID) {
	if f == nil {
		return
	}
	if a := f.n.asking[id]; a != nil {
		a.cancel()
		delete(f.n.asking, id) // what is asked once consented again is another's business
		f.asked = append(f.asked, a.done)
	}
	for _, c := range f.n.working() {
		f.await(c)
	}
}

// await has flush wait for what is queued on a connection now.
func (f *fence) await(c *queuedConn) {
	if left := c.left(); left != nil {
		f.conns, f.left = append(f.conns, c), append(f.left, left)
	}
}

// working lists the connections that have something on their way. Any of them may hold something of, or about,
// whoever is cut: a text, a presence, a bundle.
func (n *Node) working() (all []*queuedConn) {
	n.serving.Range(func(cfg, _ any) bool {
		all = append(all, cfg.(*connConfig).working()...)
		return true
	})
	return all
}

// lastByte is how long a peer who does not read may hold a revocation up; then its connection is reset, and
// what it may have held of the ID with it. [C-revoke]
const lastByte = time.Second

// flush waits until what was under way at the cut has left or ended.
func (f *fence) flush(ctx context.Context) error {
	if f == nil {
		return nil
	}
	for _, asked := range f.asked {
		select {
		case <-asked: // soon: it was cancelled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.reached(PartLookups)
	if !allLeft(f.left) {
		for i, c := range f.conns {
			select {
			case <-f.left[i]:
			default:
				c.kill()
			}
		}
		for _, left := range f.left { // closed with its connection
			<-left
		}
	}
	f.conns, f.left, f.asked = nil, nil, nil
	f.reached(PartLastByte)
	return nil
}

// allLeft waits for each, for a bounded time in all.
func allLeft(each []<-chan struct{}) bool {
	t := time.NewTimer(lastByte)
	defer t.Stop()
	for _, left := range each {
		select {
		case <-left:
		case <-t.C:
			return false
		}
	}
	return true
}

// hush ends an ID's newest connection: it is told Revoked, and what was queued for it is dropped. It returns
// when nothing goes to it any more. [C-revoke]
func (n *Node) hush(id wire.ID, f *fence) {
	n.mu.Lock()
	s := n.byID[id]
	n.mu.Unlock()
	if s == nil {
		return
	}
	var last []byte
	if s.v5 {
		last = []byte{headDisconnect, 2, wire.Revoked.Connack(), 0}
	}
	s.net.silence(last, time.Now().Add(lastByte))
	f.await(s.net)
	s.cl.Stop(wire.Revoked)
}

// elsewhere has the ID's session on another broker silenced, if there is one. [C-revoke]
func (n *Node) elsewhere(ctx context.Context, self consent.Self, has wire.Scope, f *fence) error {
	var err error
	if n.cfg.Router != nil && !self.Tag.IsZero() && !has.Has(wire.ScopeMessaging) {
		err = n.cfg.Router.Fence(ctx, self.Tag, self.ID)
	}
	if err == nil {
		f.reached(PartTag)
	}
	return err
}

// Fence is another broker's word that the state of an ID that is connected here has changed in the store. It answers
// OK once nothing goes to or from it here that the state does not allow. [C-revoke]
func (n *Node) Fence(ctx context.Context, id wire.ID) wire.Code {
	if !n.enter() {
		return wire.Unavailable
	}
	defer n.wg.Done()
	f := &fence{n: n, unseen: true}
	for range 4 { // a lost race with another change of the same state is tried again
		now, seen := time.Now(), n.changed(id)
		stored, err := n.cfg.Store.Load(ctx, id)
		if err != nil {
			return wire.Unavailable
		}
		self := consent.Self{ID: id, Tag: wire.MakeTag(n.cfg.TagKey, id, stored.Gen)}
		if !n.apply(self, stored.Gen, stored, seen, now, f) {
			continue
		}
		if stored.Off != nil {
			n.hush(id, f)
		}
		n.route(self)
		if f.flush(ctx) != nil {
			return wire.Unavailable
		}
		return wire.OK
	}
	return wire.Unavailable
}

// revoked counts a revocation that is acknowledged; nil is none.
func (n *Node) revoked(f *fence) {
	if f == nil {
		return
	}
	f.reached(PartReceipt)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Revocations++
	n.counts.RevocationLast = time.Since(f.arrived)
}

// policyNow is the operator's policy.
func (n *Node) policyNow() consent.Policy {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.policy
}

// tellWhy tells a device why nothing goes to or from it; 0 is nothing to tell. Callers hold n.mu.
func (n *Node) tellWhy(s *session, why wire.Reason) {
	if s.why = why; why != 0 && s.opened {
		n.reply(s, wire.ByReason(wire.CtlReason, why))
	}
}

// SetPolicy makes p the policy. Whoever is connected and agreed after a text that p does not accept is silent
// when it returns, like one who withdrew, and told why; their queued SMS jobs and what integrators hold end
// soon after. Whoever p lets back in connects anew. [A-2] [C-revoke]
func (n *Node) SetPolicy(p consent.Policy) {
	if !n.enter() {
		return
	}
	defer n.wg.Done()
	f := &fence{n: n, unseen: true}
	cut, back := n.changePolicy(p, f)
	for _, s := range back {
		n.end(s, wire.Unavailable)
	}
	for _, c := range cut {
		n.route(c.self)
	}
	_ = f.flush(n.ctx) // fails only when the node ends
	n.wg.Go(func() {
		defer n.recovered()
		for _, c := range cut {
			n.afterwards(c)
		}
	})
}

// suspended is who was cut, and what it had agreed to.
type suspended struct {
	self consent.Self
	had  wire.Scope
}

// afterwards ends what a suspended user had left to others, one user at a time.
func (n *Node) afterwards(c suspended) {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.CallTimeout)
	defer cancel()
	if err := n.silence(ctx, c.self.ID, c.had, 0, nil); err != nil && n.ctx.Err() == nil {
		n.cfg.Log.Warn("a suspended user's jobs and events are not taken back", "error", err)
	}
}

func (n *Node) changePolicy(p consent.Policy, f *fence) (cut []suspended, back []*session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.policy = p
	for i := range n.changes { // whoever is deciding under the old policy begins again
		n.changes[i]++
	}
	for id, s := range n.byID {
		a := consent.UnpackAccess(s.access.Load())
		switch {
		case a.Scopes != 0 && !p.Accepts(s.notice) && !n.probed(id):
			s.access.Store(consent.Access{Enrolled: a.Enrolled}.Pack())
			n.cutLocked(s.self, s.gen, f)
			n.tellWhy(s, wire.NewNotice)
			n.counts.Suspensions++
			cut = append(cut, suspended{s.self, a.Scopes})
		case s.why == wire.NewNotice && p.Accepts(s.notice):
			back = append(back, s)
		}
	}
	n.arm()
	return cut, back
}

// suspend takes a device's word that its SIM is another: stored, then silence, then OK. [A-2] [C-revoke]
func (n *Node) suspend(ctx context.Context, s *session, body []byte) wire.Code {
	if why, err := wire.ParseByReason(wire.CtlSuspend, body); err != nil || why != wire.SIMChanged {
		return wire.NotAllowed
	}
	f := n.newFence()
	s.changing.Lock()
	defer s.changing.Unlock()
	for range 4 { // a lost race with another change of the same state is tried again
		code, again := n.trySuspend(ctx, s, f)
		if !again {
			return code
		}
	}
	return wire.Unavailable
}

func (n *Node) trySuspend(ctx context.Context, s *session, f *fence) (code wire.Code, again bool) {
	now, seen := time.Now(), n.changed(s.self.ID)
	stored, err := n.cfg.Store.Load(ctx, s.self.ID)
	if err != nil {
		return wire.Unavailable, false
	}
	next, changed, err := stored.WithSIMChange()
	if err != nil {
		return codeOf(err), false
	}
	if changed {
		if next.Revision, err = n.cfg.Store.Save(ctx, s.self.ID, next); err != nil {
			return wire.Unavailable, errors.Is(err, consent.ErrConflict)
		}
	}
	if !n.apply(s.self, s.gen, next, seen, now, f) {
		return wire.Unavailable, true
	}
	n.route(s.self)
	if n.elsewhere(ctx, s.self, 0, f) != nil {
		return wire.Unavailable, false
	}
	if n.silence(ctx, s.self.ID, stored.Scopes(now), 0, f) != nil {
		return wire.Unavailable, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Suspensions++
	return wire.OK, false
}
