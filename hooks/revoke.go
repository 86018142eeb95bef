package hooks

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"bluejay/consent"
	"bluejay/presence"
	"bluejay/wire"
)

// record takes a consent record from its device. On success the answer's body is the receipt; a
// stale one is answered with the stored seq. A revocation follows [C-revoke]: verified, stored
// with fsync, silence, logged, and only then acknowledged. The same record again repeats the whole of
// it.
func (n *Node) record(ctx context.Context, s *session, raw []byte) (wire.Code, []byte) {
	var f *fence
	if len(raw) == wire.ConsentLen && raw[13] == 0 {
		f = n.newFence()
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	for range 4 { // a lost race with another change of the same state is tried again
		code, body, again := n.tryRecord(ctx, s, raw, f)
		if again {
			continue
		}
		if code == wire.OK {
			n.revoked(f)
		}
		return code, body
	}
	return wire.Unavailable, nil
}

// tryRecord decides from what is stored now, not from what the connection was told: another
// connection of the ID may have changed it.
func (n *Node) tryRecord(ctx context.Context, s *session, raw []byte, f *fence) (code wire.Code, body []byte, again bool) {
	now, seen, policy := time.Now(), n.changed(s.self.ID), n.policyNow()
	stored, err := n.cfg.Store.Load(ctx, s.self.ID)
	if err != nil {
		return wire.Unavailable, nil, false
	}
	next, changed, err := policy.WithRecord(stored, raw, now)
	if code = codeOf(err); err != nil {
		if code == wire.StaleRecord {
			body = binary.BigEndian.AppendUint32(nil, stored.Seq)
		}
		return code, body, false
	}
	if changed {
		next = next.WithReceipt(wire.NewReceipt(n.cfg.Receipt, raw, now))
	}
	ends := onlyEnds(stored, next)
	if changed || !ends && n.unlogged(next, consent.EventRecord) {
		if !ends { // what begins is logged before it is in force [L-7]
			if next, err = n.logged(ctx, stored, next, consent.EventRecord, raw); err != nil {
				return wire.Unavailable, nil, false
			}
		}
		if next.Revision, err = n.cfg.Store.Save(ctx, s.self.ID, next); err != nil {
			return wire.Unavailable, nil, errors.Is(err, consent.ErrConflict)
		}
	}
	f.reached(PartStored)
	if !n.apply(s.self, s.gen, next, seen, now, f) {
		return wire.Unavailable, nil, true
	}
	n.route(s.self)
	if n.elsewhere(ctx, s.self, policy.Scopes(next, now), f) != nil {
		return wire.Unavailable, nil, false
	}
	// What integrators may hold was agreed to whatever the notice.
	if n.silence(ctx, s.self.ID, stored.Scopes(now), policy.Scopes(next, now), f) != nil {
		return wire.Unavailable, nil, false
	}
	if next, again, err = n.logEnd(ctx, s.self.ID, stored, next, consent.EventRecord, raw); err != nil {
		return wire.Unavailable, nil, again
	}
	return wire.OK, receiptOf(next), false
}

// silence ends what goes on without a session after an ID's scopes changed from had to has: bytes on their
// way to others, SMS jobs in the queue, and what integrators hold. Doing it again does no harm. [C-revoke]
func (n *Node) silence(ctx context.Context, id wire.ID, had, has wire.Scope, f *fence) error {
	if err := f.flush(ctx); err != nil {
		return err
	}
	if !has.Has(wire.ScopeGateway) {
		if err := n.cancelJobs(ctx, id); err != nil {
			return err
		}
		f.reached(PartJobs)
	}
	if n.cfg.Withdraw == nil || has.Has(wire.ScopeIntegrations) {
		return nil
	}
	err := n.cfg.Withdraw(ctx, id, had.Has(wire.ScopeIntegrations))
	if err == nil {
		f.reached(PartEvents)
	}
	return err
}

// apply makes a stored state true for its ID's newest session, which need not be the one that self
// and gen are of: what it no longer allows has ended when apply returns, but for what silence ends.
// It reports false, and nothing happens, if the state may have changed again since seen was read.
func (n *Node) apply(self consent.Self, gen uint32, next consent.State, seen uint64, now time.Time, f *fence) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := self.ID
	if *n.change(id) != seen {
		return false
	}
	*n.change(id)++
	a := n.policy.Access(next, now)
	current := n.byID[id]
	if current != nil {
		current.grant(n.policy, next, now)
	}
	f.reached(PartSessions)
	if !a.Receive() && !faultAfterRevocation {
		n.cutLocked(self, gen, f)
	}
	if !a.Listed {
		delete(n.bundles, id)
	}
	if current != nil {
		n.serveLocked(current, a)
		n.tellWhy(current, current.why)
	}
	n.arm()
	return true
}

// serveLocked attaches the newest session of an ID, and shows or hides it, according to its
// access. Callers hold n.mu.
func (n *Node) serveLocked(s *session, a consent.Access) {
	if a.Receive() && !s.attached {
		n.attachCustody(s)
	}
	switch {
	case a.Receive() && !s.shown:
		n.admitLocked(s)
	case !a.Visible() && s.shown:
		s.shown = false
		n.show(n.presence.Clear(n.shows[:0], s.self.Tag))
	}
}

// cutLocked ends everything from and to an ID: its presence, that of a session which has just ended
// included, its watches, what is in flight, its bundle. Sessions that were taken over have nothing
// left of these. Callers hold n.mu. [C-revoke]
func (n *Node) cutLocked(self consent.Self, gen uint32, f *fence) {
	delete(n.bundles, self.ID)
	f.reached(PartBundle)
	n.show(n.presence.Clear(n.shows[:0], self.Tag))
	if gen > 0 {
		n.show(n.presence.Clear(n.shows[:0], wire.MakeTag(n.cfg.TagKey, self.ID, gen-1)))
	}
	if s := n.byID[self.ID]; s != nil {
		if s.self.Tag != self.Tag {
			n.show(n.presence.Clear(n.shows[:0], s.self.Tag))
		}
		s.shown, s.attached, s.outcomes = false, false, nil
		n.presence.Drop(presence.Conn(s.conn))
		n.perform(n.custody.Withdraw(n.effects[:0], s.conn))
	}
	f.reached(PartPresence)
	f.reached(PartWatches)
	f.remember(self.ID)
	n.perform(n.custody.Revoke(n.effects[:0], self.ID))
	f.reached(PartInFlight)
}

// cancelJobs takes back every queued SMS job of an ID that no SMSC has yet, those included that are
// on their way into the queue: none begins any more, and it waits for them. [C-revoke] [F-10]
func (n *Node) cancelJobs(ctx context.Context, id wire.ID) error {
	if n.cfg.Jobs == nil || id.IsZero() {
		return nil
	}
	n.mu.Lock()
	h := n.storing[id]
	n.mu.Unlock()
	if h != nil {
		select {
		case <-h.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	today := day(time.Now())
	return n.cfg.Jobs.CancelAll(ctx, []wire.Pseudonym{n.pseudonym(id, today), n.pseudonym(id, today-1)})
}
