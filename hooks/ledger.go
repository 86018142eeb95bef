package hooks

import (
	"context"
	"errors"

	"bluejay/consent"
	"bluejay/wire"
)

// errOlderLog reports a log that lacks entries which stored states have.
var errOlderLog = errors.New("hooks: the consent log is older than the stored states: put the newer one back, then start again")

// logged puts an event of s into the log, before s is stored over before, and notes its entry in s; an
// event that has one keeps it. An error leaves s as it was. [L-7] [L-8]
func (n *Node) logged(ctx context.Context, before, s consent.State, e consent.Event, event []byte) (consent.State, error) {
	if n.cfg.Ledger == nil || !s.Logged(e).IsZero() {
		return s, nil
	}
	size := n.cfg.Ledger.Size()
	for _, at := range before.Entries {
		if !at.IsZero() && at.Index >= size {
			n.cfg.Log.Error("consent refused", "error", errOlderLog)
			return s, errOlderLog
		}
	}
	at, err := n.cfg.Ledger.Log(ctx, event)
	if err != nil {
		n.cfg.Log.Error("consent log not written: no consent begins, and no end of one is acknowledged", "error", err)
		return s, err
	}
	return s.WithEntry(e, at), nil
}

// logEnd logs what has already ended consent, or some of it, and stores the entry: silence does not
// wait for the log, and the acknowledgement waits for both. An event that has an entry is done. With an
// error there is no acknowledgement; again: the state changed meanwhile. [L-7] [C-revoke]
func (n *Node) logEnd(ctx context.Context, id wire.ID, before, s consent.State, e consent.Event, event []byte) (done consent.State, again bool, err error) {
	if !n.unlogged(s, e) {
		return s, false, nil
	}
	if s, err = n.logged(ctx, before, s, e, event); err == nil {
		s.Revision, err = n.cfg.Store.Save(ctx, id, s)
	}
	return s, errors.Is(err, consent.ErrConflict), err
}

// unlogged reports that an event of a stored state is not in the log: storing it was done, and logging
// it was not. [L-7]
func (n *Node) unlogged(s consent.State, e consent.Event) bool {
	return n.cfg.Ledger != nil && s.Logged(e).IsZero()
}

// onlyEnds reports that next, whose record is new or was stored before it could be logged, agrees to
// less than s: that takes effect before it is logged. [L-7]
func onlyEnds(s, next consent.State) bool {
	had, has := s.Record, next.Record.Scopes
	return has == 0 || had != nil && s.Off == nil && has != had.Scopes && had.Scopes.Has(has)
}

// receiptOf is the answer to a record that is stored and logged: the receipt, and the entry if there
// is a log. [P-8] [L-2]
func receiptOf(s consent.State) []byte {
	b := s.Receipt.Marshal()
	if at := s.Logged(consent.EventRecord); !at.IsZero() {
		b = append(b, at.Marshal()...)
	}
	return b
}
