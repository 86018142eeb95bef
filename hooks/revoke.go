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
// with fsync, silence, and only then acknowledged. The same record again repeats the whole of it.
func (n *Node) record(ctx context.Context, s *session, raw []byte) (wire.Code, []byte) {
	arrived := time.Now()
	s.changing.Lock()
	defer s.changing.Unlock()
	for range 4 {
		code, body, err := n.tryRecord(ctx, s, raw)
		if errors.Is(err, consent.ErrConflict) {
			continue
		}
		if code == wire.OK && len(raw) == wire.ConsentLen && raw[13] == 0 {
			n.revoked(arrived)
		}
		return code, body
	}
	return wire.Unavailable, nil
}

func (n *Node) tryRecord(ctx context.Context, s *session, raw []byte) (wire.Code, []byte, error) {
	now := time.Now()
	stored, err := n.cfg.Store.Load(ctx, s.self.ID)
	if err != nil {
		return wire.Unavailable, nil, nil
	}
	next, changed, err := stored.WithRecord(raw, now)
	if err != nil {
		code := codeOf(err)
		if code == wire.StaleRecord {
			return code, binary.BigEndian.AppendUint32(nil, stored.Seq), nil
		}
		return code, nil, nil
	}
	if changed {
		next = next.WithReceipt(wire.NewReceipt(n.cfg.Receipt, raw, now))
		if next.Revision, err = n.cfg.Store.Save(ctx, s.self.ID, next); err != nil {
			return wire.Unavailable, nil, err
		}
	}
	if err := n.apply(ctx, s, next, now); err != nil {
		return wire.Unavailable, nil, nil
	}
	return wire.OK, next.Receipt.Marshal(), nil
}

// apply makes a stored state true: what it no longer allows has ended when apply returns.
// Callers hold s.changing.
func (n *Node) apply(ctx context.Context, s *session, next consent.State, now time.Time) error {
	n.mu.Lock()
	s.setState(next, now)
	a := s.allowed()
	if !a.Receive() {
		n.cutLocked(s)
	} else if !s.attached && n.byID[s.self.ID] == s {
		n.attachCustody(s)
	}
	if !a.Listed {
		delete(n.bundles, s.self.ID)
	}
	n.presenceLocked(s, a)
	n.arm()
	n.mu.Unlock()
	n.claim(s)
	if a.Scopes.Has(wire.ScopeGateway) {
		return nil
	}
	return n.cancelJobs(ctx, s.self.ID)
}

// presenceLocked shows or hides the owner according to its access. Callers hold n.mu.
func (n *Node) presenceLocked(s *session, a consent.Access) {
	switch {
	case a.Receive() && !s.shown:
		n.admitLocked(s)
	case !a.Visible() && s.shown:
		s.shown = false
		n.show(n.presence.Clear(n.shows[:0], s.self.Tag))
	}
}

// cutLocked ends everything from and to a session's ID: its presence, its watches, what is in
// flight, its bundle. Callers hold n.mu. [C-revoke]
func (n *Node) cutLocked(s *session) {
	if s.shown {
		s.shown = false
		n.show(n.presence.Clear(n.shows[:0], s.self.Tag))
	}
	delete(n.bundles, s.self.ID)
	for conn, o := range n.byConn { // revocation is rare; the newest connection is not always the only one
		if o.self.ID != s.self.ID {
			continue
		}
		n.presence.Drop(presence.Conn(conn))
		o.attached = false
		n.perform(n.custody.Withdraw(n.effects[:0], conn))
	}
	n.perform(n.custody.Revoke(n.effects[:0], s.self.ID))
}

// cancelJobs takes back every queued SMS job of an ID that no SMSC has yet. [C-revoke] [F-10]
func (n *Node) cancelJobs(ctx context.Context, id wire.ID) error {
	if n.cfg.Jobs == nil || id.IsZero() {
		return nil
	}
	today := day(time.Now())
	return n.cfg.Jobs.CancelAll(ctx, []wire.Pseudonym{n.pseudonym(id, today), n.pseudonym(id, today-1)})
}

func (n *Node) revoked(arrived time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Revocations++
	n.counts.RevocationLast = time.Since(arrived)
}
