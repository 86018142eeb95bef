package consent

import (
	"fmt"

	"bluejay/wire"
)

// Event says which of an ID's events an [Entry] is of.
type Event byte

// The events of which a state keeps the entry. An erasure is a revocation, with that cause.
const (
	EventRecord     Event = iota // the consent record: a grant, or the device's withdrawal
	EventRevocation              // the registrar's
	EventDevice                  // the certificate of a new device, which voided the consent of the old
	events
)

// Entries are an ID's entries in the log, by event.
type Entries [events]Entry

// Logged returns where an event of this state is in the log; zero: it is not. [L-2]
func (s State) Logged(e Event) Entry { return s.Entries[e] }

// WithEntry notes where an event of this state is in the log.
func (s State) WithEntry(e Event, at Entry) State {
	s.Entries[e] = at
	return s
}

// Voids reports whether next, a state with a newer certificate, has lost the consent of s to a new
// device: an event of its own. [L-2] [P-5]
func (s State) Voids(next State) bool {
	return s.Record != nil && next.Record == nil && s.Cert != nil && next.Cert != nil && s.Cert.Device != next.Cert.Device
}

// has reports whether the event that an entry would be of is in the state.
func (s State) has(e Event) bool {
	switch e {
	case EventRecord:
		return s.Record != nil
	case EventRevocation:
		return s.Off != nil
	}
	return s.Cert != nil
}

// appendEntries appends `event 1 | entry 24` for each that there is.
func (s State) appendEntries(b []byte) []byte {
	for e, at := range s.Entries {
		if !at.IsZero() {
			b = append(append(b, byte(e)), at.Marshal()...)
		}
	}
	return b
}

// parseEntries reads at least one entry, in their order, to the end of b.
func (s *State) parseEntries(b []byte) error {
	last := -1
	for first := true; first || len(b) > 0; first = false {
		if len(b) < 1+EntryLen || int(b[0]) <= last || b[0] >= byte(events) || !s.has(Event(b[0])) {
			return fmt.Errorf("%w: entries", wire.ErrMalformed)
		}
		at, err := ParseEntry(b[1 : 1+EntryLen])
		if err != nil || at.IsZero() {
			return fmt.Errorf("%w: entries", wire.ErrMalformed)
		}
		last, s.Entries[b[0]], b = int(b[0]), at, b[1+EntryLen:]
	}
	return nil
}
