package hooks

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// HandleSeq answers the registrar's question for the seq of an ID's last consent record: 12 bytes →
// OK ‖ seq u32, or NotEnrolled. It is what a revocation must be above. [P-7]
func (n *Node) HandleSeq(ctx context.Context, req []byte) []byte {
	var id wire.ID
	if len(req) != len(id) {
		return []byte{byte(wire.BadRecord)}
	}
	copy(id[:], req)
	st, err := n.cfg.Store.Load(ctx, id)
	switch {
	case err != nil:
		return []byte{byte(wire.Unavailable)}
	case st.Cert == nil: // nor one who was erased
		return []byte{byte(wire.NotEnrolled)}
	}
	return binary.BigEndian.AppendUint32([]byte{byte(wire.OK)}, st.Seq)
}

// HandleRevoke takes the registrar's revocation: STOP by SMS, another phone, the operator, an erasure.
// It goes the way of the device's own record: verified, stored with fsync, silence, and only then OK.
// The ID's connection ends with Revoked, so that the device learns of it when it comes back. The same
// revocation again repeats the whole; any other seq than the stored one plus one is StaleRecord and
// changes nothing. [P-7] [C-revoke]
func (n *Node) HandleRevoke(ctx context.Context, raw []byte) []byte {
	return []byte{byte(n.Revoke(ctx, raw))}
}

// Revoke is HandleRevoke with its code as one.
func (n *Node) Revoke(ctx context.Context, raw []byte) wire.Code {
	f := n.newFence()
	r, err := wire.ParseRevocation(raw)
	if err != nil || r.Verify(n.cfg.Registrar) != nil {
		return wire.BadRecord
	}
	if wire.Time32(r.IssuedAt).After(f.arrived.Add(wire.ClockSkew)) {
		return wire.OutOfTime
	}
	if !n.enter() {
		return wire.Unavailable
	}
	defer n.wg.Done()
	for range 4 { // a lost race with another change of the same state is tried again
		code, again := n.tryRevoke(ctx, r, f)
		if again {
			continue
		}
		if code == wire.OK {
			n.revoked(f)
		}
		return code
	}
	return wire.Unavailable
}

func (n *Node) tryRevoke(ctx context.Context, r wire.Revocation, f *fence) (code wire.Code, again bool) {
	now, seen := time.Now(), n.changed(r.ID)
	stored, err := n.cfg.Store.Load(ctx, r.ID)
	if err != nil {
		return wire.Unavailable, false
	}
	next := stored
	if stored.Off == nil || *stored.Off != r {
		if next, err = stored.WithRevocation(r); err != nil {
			return codeOf(err), false
		}
		if next.Revision, err = n.cfg.Store.Save(ctx, r.ID, next); err != nil {
			return wire.Unavailable, errors.Is(err, consent.ErrConflict)
		}
	}
	f.reached(PartStored)
	self := consent.Self{ID: r.ID, Tag: wire.MakeTag(n.cfg.TagKey, r.ID, next.Gen)}
	if !n.apply(self, next.Gen, next, seen, now, f) {
		return wire.Unavailable, true
	}
	n.hush(r.ID, f)
	n.route(self)
	if n.elsewhere(ctx, self, 0, f) != nil {
		return wire.Unavailable, false
	}
	if n.silence(ctx, r.ID, stored.Scopes(now), 0, f) != nil {
		return wire.Unavailable, false
	}
	if _, again, err = n.logEnd(ctx, r.ID, stored, next, consent.EventRevocation, r.Marshal()); err != nil {
		return wire.Unavailable, again
	}
	return wire.OK, false
}
