package handset

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"bluejay/envelope"
	"bluejay/wire"
)

// load reads every record of the state log.
func (m *model) load(state map[string][]byte) error {
	if b, ok := state[keySelf]; ok {
		if err := json.Unmarshal(b, &m.self); err != nil {
			return errState
		}
	}
	m.identify()
	for _, read := range []func(map[string][]byte) error{
		m.loadContacts, m.loadTexts, m.loadSessions, m.loadPrekeys, m.loadMemory, m.loadIDs,
	} {
		if err := read(state); err != nil {
			return err
		}
	}
	m.afterCrash()
	return nil
}

// identify fills in the identity once there is a certificate.
func (m *model) identify() {
	cert, ok := m.self.cert()
	if !ok {
		return
	}
	m.ident = envelope.Identity{
		Cert: cert, Device: m.self.device(), Number: numberOf(m.self.Number), Registrar: m.cfg.pins.Registrar,
	}
}

func (m *model) loadContacts(state map[string][]byte) error {
	return readInto(state, keyContact, func(_ string, r contactRecord) error {
		c := &contact{contactRecord: r}
		m.contacts[r.ID] = c
		if n := c.number(); !n.IsZero() {
			m.numbers[n] = c
		}
		return nil
	})
}

func (m *model) loadTexts(state map[string][]byte) error {
	err := readInto(state, keyText, func(_ string, r textRecord) error {
		t := &text{textRecord: r}
		m.texts[r.ID] = t
		if len(t.JobID) == len(wire.MessageID{}) && !t.JobState.Final() {
			m.jobs[wire.MessageID(t.JobID)] = t
		}
		return nil
	})
	for _, t := range sorted(m.texts) {
		if c := m.contacts[t.Contact]; c != nil && t.Out && t.State == Waiting {
			c.queue = append(c.queue, t)
		}
	}
	return err
}

func (m *model) loadSessions(state map[string][]byte) error {
	err := readInto(state, keySession, func(_ string, r sessionRecord) error {
		s, err := envelope.ParseSession(r.State)
		if err != nil {
			return errState
		}
		m.sessions[s.RID()] = &session{s, r}
		return nil
	})
	for _, s := range sorted(m.sessions) {
		if c := m.contacts[s.Contact]; c != nil {
			c.sessions = append(c.sessions, s)
		}
	}
	for _, c := range m.contacts {
		slices.SortFunc(c.sessions, func(a, b *session) int { return a.Begun.Compare(b.Begun) })
	}
	return err
}

func (m *model) loadPrekeys(state map[string][]byte) error {
	for k, v := range state {
		if !strings.HasPrefix(k, keyPrekey) {
			continue
		}
		p, err := envelope.ParsePrekey(v)
		if err != nil {
			return errState
		}
		m.prekeys[p.ID()] = &prekey{p.ID(), p.EraseAfter(), v}
	}
	return nil
}

// loadMemory reads which hellos were answered and which texts were shown.
func (m *model) loadMemory(state map[string][]byte) error {
	err := readInto(state, keyHello, func(k string, r helloRecord) error {
		m.hellos[keyHello+k] = r
		return nil
	})
	if err != nil {
		return err
	}
	return readInto(state, keySeen, func(k string, r seenRecord) error {
		m.seen[keySeen+k] = r
		return nil
	})
}

func (m *model) loadIDs(state map[string][]byte) error {
	for k, v := range state {
		rest, ok := strings.CutPrefix(k, keyID)
		if !ok {
			continue
		}
		b, err := hex.DecodeString(rest)
		n := numberOf(b)
		if err != nil || n.IsZero() || len(v) != len(wire.ID{}) {
			return errState
		}
		m.ids[n] = wire.ID(v)
	}
	return nil
}

// afterCrash settles what a process that ended could not. A text the SIM had been given is failed,
// because it was perhaps sent: it is never sent twice without the user's word. [U-3]
func (m *model) afterCrash() {
	for _, t := range sorted(m.texts) {
		if t.Writing {
			t.Writing = false
			m.setState(t, Failed)
		}
	}
}

// beginAnew stops using every session for sending: their keys may have been used by a copy, or have
// gone back. Each conversation continues with a hello. [U-7]
func (m *model) beginAnew() {
	for _, s := range sorted(m.sessions) {
		s.Dead, s.Until = true, m.now.Add(receiveOnly)
		m.saveSession(s)
	}
	for _, c := range sorted(m.contacts) {
		c.Hello, c.LastInit, c.fetched = nil, zeroTime, zeroTime
		m.saveContact(c)
	}
}

// enrol takes the place of whoever this handset was before, once the registrar has certified the
// new device key. Contacts and texts stay; every conversation begins anew.
func (m *model) enrol(e *enrolment, cert wire.Certificate) {
	for id := range m.prekeys {
		m.erasePrekey(id)
	}
	for _, s := range sorted(m.sessions) {
		m.dropSession(s)
	}
	m.self = selfRecord{
		Number: e.Number, Device: e.Device, Cert: cert.Marshal(), NoticeHash: e.Notice, Visible: m.self.Visible,
		Contacts: m.self.Contacts, Texts: m.self.Texts, Prekeys: m.self.Prekeys,
	}
	m.link.prune = false
	m.beginAnew()
	m.identify()
	m.saveSelf()
}
