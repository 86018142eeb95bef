package handset

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// zeroTime is "not set" of every time in the state.
var zeroTime time.Time

// repeats says when an unanswered INIT is sent again, counted from the first. [U-8]
var repeats = [...]time.Duration{15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

const (
	helloEvery   = time.Hour      // at most one new INIT per contact
	fetchEvery   = time.Minute    // at most one bundle asked for per contact
	receiveOnly  = 24 * time.Hour // how long a session that is not written in is kept
	simultaneous = 5 * time.Minute
	maxHeld      = 16 // hellos held for AcceptChange
)

// hello makes sure that a hello is under way, if one is due: the stored INIT again, or a new one
// once the contact's bundle has come. [U-8]
func (m *model) hello(c *contact, wrote bool) {
	switch {
	case !m.ready() || m.helloUnderWay(c) || c.Changed != nil || c.Blocked:
	case c.peer().IsZero():
		m.lookUp(c)
	case c.Hello != nil && m.now.Before(c.Hello.NotAfter):
		if wrote || !c.Hello.Taken || !c.KnownGrey {
			m.repeatHello(c)
		}
	case m.mayInit(c):
		c.Hello = nil
		c.fetchBy, c.fetched = m.now.Add(m.cfg.helloTimeout), m.now
		m.do(subscribe{bundleOf(c)})
	}
}

// mayInit limits new INITs to one an hour, except that a session which lives and is only worn out
// is renewed when it must be. [S-6] [U-8]
func (m *model) mayInit(c *contact) bool {
	worn := slices.ContainsFunc(c.sessions, func(s *session) bool {
		return s.Established() && !s.Dead && s.Until.IsZero() && s.NeedsRenewal(m.now)
	})
	return worn || m.now.Sub(c.LastInit) >= helloEvery && m.now.Sub(c.fetched) >= fetchEvery
}

// helloUnderWay reports whether an answer of some kind may still come soon.
func (m *model) helloUnderWay(c *contact) bool {
	return c.lookup || m.now.Before(c.fetchBy) || m.now.Before(c.answerBy)
}

func bundleOf(c *contact) wire.Topic { return wire.Topic{Kind: wire.TopicBundle, ID: c.peer()} }

// bundle is a key bundle that was asked for. One of another device stops sending. [U-5]
func (m *model) bundle(id wire.ID, payload []byte) {
	c := m.contactOf(id)
	if c == nil || c.fetchBy.IsZero() || len(payload) == 0 {
		return
	}
	b, err := wire.ParseBundle(payload)
	if err != nil || b.Verify(m.cfg.pins.Registrar, m.now) != nil || b.Cert.ID != id {
		return // the time limit turns the contact grey
	}
	m.stopFetch(c)
	if !m.sameDevice(c, b.Cert) {
		return
	}
	m.initiate(c, b)
}

func (m *model) stopFetch(c *contact) {
	c.fetchBy = zeroTime
	m.do(unsubscribe{bundleOf(c)})
}

// sameDevice accepts the first device of a contact for ever; a newer one needs the user's word. [U-5]
func (m *model) sameDevice(c *contact, cert wire.Certificate) bool {
	switch {
	case c.Device == nil:
		c.Device, c.Issued = cert.Device[:], cert.IssuedAt
		m.saveContact(c)
		return true
	case wire.PublicKey(c.Device) == cert.Device:
		return c.Changed == nil
	case cert.IssuedAt >= c.Issued:
		c.Changed = cert.Marshal()
		m.saveContact(c)
		m.event(Event{Kind: CertChanged, Contact: c.ID})
	}
	return false
}

// initiate opens a session, with the oldest waiting text inside.
func (m *model) initiate(c *contact, b *wire.Bundle) {
	t := m.helloText(c)
	f := envelope.AckFrame(envelope.NoAck)
	if t != nil {
		f = envelope.TextFrame(t.Body)
		if t.Ref != nil {
			f = envelope.AgainFrame(*t.Ref, t.Body)
		}
		f.Acked = envelope.NoAck
	}
	s, init, err := envelope.Initiate(m.ident, m.link.tag, m.newRID(), b, f, m.now)
	if errors.Is(err, envelope.ErrTooLong) && t != nil {
		t = nil
		s, init, err = envelope.Initiate(m.ident, m.link.tag, m.newRID(), b, envelope.AckFrame(envelope.NoAck), m.now)
	}
	if err != nil {
		m.unanswered(c)
		return
	}
	m.beginHello(c, s, init, b, t)
}

// helloText is what an INIT carries: the oldest text that nothing else does.
func (m *model) helloText(c *contact) *text {
	for _, t := range c.queue {
		if !t.inflight && !t.Writing && t.Job == nil && !t.Cancelled && (t.Forced == fallback.PathWait || t.Forced == fallback.PathIP) {
			return t
		}
	}
	return nil
}

// beginHello stores the session, the INIT and where its text was sealed, and sends it.
func (m *model) beginHello(c *contact, s *envelope.Session, init []byte, b *wire.Bundle, t *text) {
	m.dropPending(c)
	first := m.now
	h := &outgoingHello{
		RID: s.RID(), Bundle: b.Marshal(), Init: init, NotAfter: wire.Time32(b.NotAfter), First: first,
	}
	if t != nil {
		h.Text, t.RID, t.Sealed = t.ID, s.RID(), nil
		if t.Ref == nil {
			t.Ref = &envelope.AgainRef{TH: s.TH()}
		}
		m.saveText(t)
	}
	m.addSession(c, s)
	c.Hello, c.LastInit = h, m.now
	m.publishHello(c)
}

func (m *model) publishHello(c *contact) {
	c.answerBy = m.now.Add(m.cfg.helloTimeout)
	m.saveContact(c)
	m.send(wire.Topic{Kind: wire.TopicHello, ID: c.peer()}, c.Hello.Init, flight{kind: flightHello, contact: c.ID, rid: c.Hello.RID})
}

// repeatHello sends the same bytes, or, when their text has gone by SMS, the empty frame. [U-8]
func (m *model) repeatHello(c *contact) {
	h := c.Hello
	if t := m.texts[h.Text]; h.Text == 0 || t != nil && t.State == Waiting && !t.Writing && t.Job == nil {
		m.publishHello(c)
		return
	}
	b, err := wire.ParseBundle(h.Bundle)
	if err != nil {
		return
	}
	first, n := h.First, h.Repeats
	if m.initiate(c, b); c.Hello != nil && c.Hello != h {
		c.Hello.First, c.Hello.Repeats = first, n
		m.saveContact(c)
	}
}

// helloDone is the PUBACK of an INIT: it is no receipt. [P-19]
func (m *model) helloDone(f flight, code wire.Code) {
	c := m.contacts[f.contact]
	if c == nil || c.Hello == nil || c.Hello.RID != f.rid {
		return
	}
	c.Hello.Taken = true // or refused: it is not sent again before its time
	m.saveContact(c)
	if code == wire.OK {
		return
	}
	c.answerBy = zeroTime
	m.unanswered(c)
}

// unanswered turns a contact grey and lets the policy decide. [U-2] [U-8]
func (m *model) unanswered(c *contact) {
	m.setBlue(c, false)
	c.KnownGrey = true
	m.saveContact(c)
	if s := m.sending(c); s != nil && c.Hello != nil && !s.Begun.Before(c.Hello.First) {
		m.dropPending(c) // both began at once, and only theirs was answered
		c.Hello = nil
	}
	m.pump(c, false)
}

// dropPending forgets the session of the hello under way.
func (m *model) dropPending(c *contact) {
	if c.Hello == nil {
		return
	}
	if s := m.sessions[c.Hello.RID]; s != nil && !s.Established() {
		m.dropSession(s)
	}
}

func (m *model) addSession(c *contact, s *envelope.Session) *session {
	n := &session{s, sessionRecord{Contact: c.ID, Begun: m.now}}
	m.sessions[s.RID()] = n
	c.sessions = append(c.sessions, n)
	m.saveSession(n)
	return n
}

func (m *model) dropSession(s *session) {
	delete(m.sessions, s.RID())
	if c := m.contacts[s.Contact]; c != nil {
		c.sessions = slices.DeleteFunc(c.sessions, func(o *session) bool { return o == s })
	}
	m.erase(sessionKey(s.RID()))
}

// resp completes a session that this handset began. Whatever the RESP is, it needs no answer.
func (m *model) resp(rid uint16, msg []byte) {
	s := m.sessions[rid]
	if s == nil || s.Established() {
		return
	}
	c := m.contacts[s.Contact]
	f, err := s.OpenResp(msg, m.now)
	if err != nil || c == nil {
		return
	}
	m.saveSession(s)
	if h := c.Hello; h != nil && h.RID == rid {
		m.helloAnswered(c, h)
	}
	m.prefer(c, s)
	m.sessionUp(c, s)
	if f.IsText() {
		m.show(c, s, f, envelope.Position{Epoch: 1})
	}
	m.pump(c, false)
}

// helloAnswered: the text inside was stored by the recipient before it answered.
func (m *model) helloAnswered(c *contact, h *outgoingHello) {
	c.Hello, c.answerBy, c.KnownGrey = nil, zeroTime, false
	m.saveContact(c)
	if t := m.texts[h.Text]; t != nil && t.Out && t.RID == h.RID && t.State != Delivered && !t.Queued {
		m.delivered(t)
	}
}

// prefer makes fresh the session to write in, unless the two sides began at once and the other one
// was begun by the smaller ID. The loser stays for receiving. [S-9]
func (m *model) prefer(c *contact, fresh *session) {
	for _, o := range slices.Clone(c.sessions) {
		if o == fresh || !o.Established() || !o.Until.IsZero() {
			continue
		}
		loser := o
		tie := o.Initiator() != fresh.Initiator() && fresh.Begun.Sub(o.Begun).Abs() < simultaneous && !o.Dead
		if tie && envelope.Preferred(m.me(), o.Session, fresh.Session) == o.Session {
			loser = fresh
		}
		loser.Until = m.now.Add(receiveOnly)
		m.saveSession(loser)
	}
}

// sessionUp watches the peer's presence; its handset was there a moment ago. [U-2]
func (m *model) sessionUp(c *contact, s *session) {
	c.settleBy = m.now.Add(settleTime)
	c.confirmed = false
	for _, o := range c.sessions { // the newest word on where the peer's inbox is
		if o != s && o.Established() && o.PeerTag() != s.PeerTag() {
			m.do(unsubscribe{presenceOf(o.PeerTag())})
			o.SetPeerTag(s.PeerTag())
			m.saveSession(o)
		}
	}
	m.do(subscribe{presenceOf(s.PeerTag())})
}

func presenceOf(t wire.Tag) wire.Topic { return wire.Topic{Kind: wire.TopicPresence, Tag: t} }

// heldOffer is a hello of a changed device.
type heldOffer struct {
	offer  *envelope.Offer
	prekey uint16
}

// incomingHello is an INIT. Whatever does not pass is met with silence. [U-4]
func (m *model) incomingHello(msg []byte) {
	_, prekey, err := envelope.Peek(msg)
	pre := m.prekeys[prekey]
	if err != nil || pre == nil || !m.ready() || m.repeatedHello(msg) {
		return
	}
	o, err := envelope.OpenInit(m.ident, pre.open(), msg, m.now)
	if err != nil || !m.admits(o.Number) {
		return
	}
	if id, ok := m.ids[o.Number]; ok {
		m.accept(o, prekey, id)
		return
	}
	m.lookUpHello(o, prekey)
}

// repeatedHello answers an INIT that made a session with the RESP it had. [S-4]
func (m *model) repeatedHello(msg []byte) bool {
	const encAt, encEnd = 3, 3 + 1120
	if len(msg) < encEnd {
		return false
	}
	r, ok := m.hellos[helloKey(sha256.Sum256(msg[encAt:encEnd]))]
	if s := m.sessions[r.RID]; ok && s != nil && !s.Dead {
		if c := m.contacts[s.Contact]; c != nil && !c.Blocked {
			m.send(wire.Topic{Kind: wire.TopicInbox, Tag: r.Tag}, r.Resp, flight{})
		}
	}
	return ok
}

// admits is the user's rule; a blocked contact meets silence under every rule. [U-4]
func (m *model) admits(n wire.Number) bool {
	c := m.numbers[n]
	switch {
	case c != nil && c.Blocked || m.self.Visible == Nobody:
		return false
	case m.self.Visible == Anyone:
		return true
	}
	return c != nil && c.Name != ""
}

// accept answers a hello whose number was looked up and gave id.
func (m *model) accept(o *envelope.Offer, prekey uint16, id wire.ID) {
	if id != o.Cert.ID || !m.admits(o.Number) || !m.ready() {
		return
	}
	stranger := m.numbers[o.Number] == nil
	c := m.addContact("", o.Number, "")
	if stranger {
		m.event(Event{Kind: ContactAdded, Contact: c.ID})
	}
	c.Peer = id[:]
	m.saveContact(c)
	if !m.sameDevice(c, o.Cert) {
		if len(m.held) < maxHeld && c.Changed != nil {
			m.held[id] = heldOffer{o, prekey}
		}
		return
	}
	m.respond(c, o, prekey)
}

// respond stores the text, the session and the RESP together, then sends the RESP.
func (m *model) respond(c *contact, o *envelope.Offer, prekey uint16) {
	e, resp, err := o.Respond(m.ident, m.link.tag, m.newRID(), envelope.AckFrame(envelope.NoAck), m.now)
	if err != nil {
		return
	}
	s := m.addSession(c, e)
	m.saveHello(helloKey(o.EncHash), helloRecord{RID: s.RID(), Prekey: prekey, Resp: resp, Tag: o.Tag})
	c.KnownGrey = false
	m.saveContact(c)
	if o.Frame.IsText() {
		m.show(c, s, o.Frame, envelope.Position{})
	}
	m.send(wire.Topic{Kind: wire.TopicInbox, Tag: o.Tag}, resp, flight{})
	m.prefer(c, s)
	m.sessionUp(c, s)
	m.pump(c, false)
}

// acceptChange is the user's word on a contact's new device: sending goes on, with it. [U-5]
func (m *model) acceptChange(id ContactID) error {
	c := m.contacts[id]
	if c == nil || c.Changed == nil {
		return ErrNoContact
	}
	cert, err := wire.ParseCertificate(c.Changed)
	if err != nil {
		return errState
	}
	c.Device, c.Issued, c.Changed = cert.Device[:], cert.IssuedAt, nil
	for _, s := range slices.Clone(c.sessions) {
		m.dropSession(s)
	}
	c.Hello, c.LastInit, c.fetched, c.KnownGrey = nil, zeroTime, zeroTime, false
	m.saveContact(c)
	if h, ok := m.held[c.peer()]; ok {
		delete(m.held, c.peer())
		if h.offer.Cert.Device == cert.Device {
			m.accept(h.offer, h.prekey, c.peer())
		}
	}
	m.pump(c, true)
	return nil
}
