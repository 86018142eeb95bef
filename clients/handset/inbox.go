package handset

import (
	"errors"
	"slices"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// ackAfter is how long a text that was shown waits for a reply to carry its acknowledgement. [S-10]
const ackAfter = 30 * time.Second

// message is a publish that came in. delivery is acknowledged (PUBACK) once what it changed is
// durable, or not at all: then the broker tells the sender that it was not delivered. [U-6]
func (m *model) message(t wire.Topic, payload []byte, delivery uint64) {
	keep := true
	switch t.Kind {
	case wire.TopicReply:
		m.reply(payload)
	case wire.TopicInbox:
		keep = m.inbox(payload)
	case wire.TopicHello:
		m.incomingHello(payload)
	case wire.TopicPresence:
		m.presence(t.Tag, payload)
	case wire.TopicBundle:
		m.bundle(t.ID, payload)
	case wire.TopicKey:
		m.workerKey(payload)
	}
	if keep {
		m.do(acknowledge{delivery})
	}
}

// inbox opens what came to this handset's own inbox; false: it is not to be acknowledged.
func (m *model) inbox(payload []byte) bool {
	kind, rid, err := envelope.Peek(payload)
	switch {
	case m.link.prune:
		return false // this state must not be used: the sender keeps the text
	case err != nil || kind == envelope.KindInit:
		return true // not of this protocol: nobody can want it again
	case kind == envelope.KindResp:
		m.resp(rid, payload)
		return true
	}
	s := m.sessions[rid]
	if s == nil {
		return m.unread(payload)
	}
	c := m.contacts[s.Contact]
	if c == nil || c.Blocked {
		return false // to the sender, a blocked contact is one who is not there
	}
	f, pos, err := s.Open(payload, m.now)
	switch {
	case errors.Is(err, envelope.ErrDuplicate):
		return true
	case err != nil:
		return m.unread(payload)
	}
	m.frame(c, s, f, pos)
	return true
}

// unread tells the sender that this text cannot be opened, so that it begins anew. [S-8]
func (m *model) unread(payload []byte) bool {
	b := wire.ByMessageID(byte(wire.CtlUnread), wire.MessageIDOf(payload))
	m.send(wire.Topic{Kind: wire.TopicUnread}, b, flight{})
	return false
}

// frame carries out what was opened; the session is stored with it.
func (m *model) frame(c *contact, s *session, f envelope.Frame, pos envelope.Position) {
	m.saveSession(s)
	m.confirmed(c, s, f.Acked)
	switch f.Kind {
	case envelope.KindTagUpdate:
		m.moved(c, s, f.Tag)
	case envelope.KindHide, envelope.KindAck: // hide is not offered to users yet
	default:
		m.show(c, s, f, pos)
	}
}

// moved follows a contact to its new inbox.
func (m *model) moved(c *contact, s *session, tag wire.Tag) {
	s.SetPeerTag(tag)
	m.saveSession(s)
	m.sessionUp(c, s)
}

// confirmed: the peer says it has stored our texts up to there, whatever became of a PUBACK. [S-10]
func (m *model) confirmed(c *contact, s *session, acked uint16) {
	for _, t := range slices.Clone(c.queue) {
		if t.RID == s.RID() && t.Sealed != nil && s.Confirms(acked, t.Pos) {
			m.delivered(t)
		}
	}
}

// show stores a text that came in, once. [U-9]
func (m *model) show(c *contact, s *session, f envelope.Frame, pos envelope.Position) {
	ref := envelope.AgainRef{TH: s.TH(), Epoch: byte(pos.Epoch), N: pos.N}
	first := ref
	if f.Kind == envelope.KindTextAgain {
		first = f.Again
	}
	known := m.wasSeen(ref) || m.wasSeen(first)
	m.sawText(ref)
	m.sawText(first)
	if known {
		return
	}
	t := m.received(c, f.Text)
	t.Path = fallback.PathIP
	m.foldInto(c, t)
	if c.ackDue.IsZero() {
		c.ackDue = later(m.now, c.acked).Add(ackAfter)
	}
}

func (m *model) received(c *contact, body string) *text {
	t := m.newText(c, body)
	t.State = Received
	m.event(Event{Kind: TextReceived, Contact: c.ID, Text: t.ID, State: Received})
	return t
}

// receiveSMS is what came into the phone's own SMS inbox. A copy of a text that came over IP is
// folded into it, never deleted. [U-9] [F-13]
func (m *model) receiveSMS(from wire.Number, body string) {
	if slices.Contains(m.cfg.gateways, from) {
		if n, rest, ok := fallback.CutSender(body); ok {
			from, body = n, rest
		}
	}
	c := m.numbers[from]
	if c == nil {
		return // not a conversation of ours: the phone's own inbox shows it
	}
	sms := fallback.Arrival{Conversation: contactKey(c.ID), Text: body, At: m.now}
	texts, arrivals := m.arrivals(c, false)
	match := fallback.Match(sms, arrivals)
	t := m.received(c, body)
	t.FromSMS, t.Path = true, fallback.PathDevice
	if match >= 0 {
		m.fold(t, texts[match])
	}
}

// arrivals lists the texts of c that came in lately over IP or by SMS.
func (m *model) arrivals(c *contact, sms bool) ([]*text, []fallback.Arrival) {
	var ts []*text
	var as []fallback.Arrival
	for _, t := range sorted(m.texts) {
		if t.Contact != c.ID || t.Out || t.FromSMS != sms || t.FoldedIn != 0 || m.now.Sub(t.At) > fallback.FoldWindow {
			continue
		}
		ts = append(ts, t)
		as = append(as, fallback.Arrival{Conversation: contactKey(c.ID), Text: t.Body, At: t.At, Folded: t.AlsoSMS})
	}
	return ts, as
}

// foldInto folds an SMS that came before its IP text.
func (m *model) foldInto(c *contact, t *text) {
	texts, smses := m.arrivals(c, true)
	ip := []fallback.Arrival{{Conversation: contactKey(c.ID), Text: t.Body, At: t.At}}
	for i, a := range smses {
		if fallback.Match(a, ip) == 0 {
			m.fold(texts[i], t)
			return
		}
	}
}

func (m *model) fold(sms, into *text) {
	sms.FoldedIn, into.AlsoSMS = into.ID, true
	m.saveText(sms)
	m.changed(into)
}

// presence is the broker's byte on a tag: blue while there is one. [U-2]
func (m *model) presence(tag wire.Tag, payload []byte) {
	for _, c := range sorted(m.contacts) {
		for _, s := range c.sessions {
			if s.Established() && s.PeerTag() == tag {
				m.seePresence(c, len(payload) > 0)
				break
			}
		}
	}
}

func (m *model) seePresence(c *contact, blue bool) {
	c.settleBy, c.confirmed = zeroTime, true
	m.setBlue(c, blue)
	if blue {
		m.recall(c)
		m.knownBlue(c)
	}
	m.pump(c, false)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// knownBlue: a hello that was to find out where the contact is has become needless.
func (m *model) knownBlue(c *contact) {
	if c.Hello != nil && m.sending(c) != nil && !m.helloUnderWay(c) {
		m.dropPending(c)
		c.Hello = nil
	}
	c.KnownGrey = false
	m.saveContact(c)
}

// acknowledgeShown sends an acknowledgement by itself. It depends on nothing and is never repeated.
func (m *model) acknowledgeShown(c *contact) {
	c.ackDue, c.acked = zeroTime, m.now
	s := m.sending(c)
	if s == nil || !m.ready() || !c.blue || s.Acked() == envelope.NoAck {
		return
	}
	b, _, err := s.Seal(envelope.AckFrame(s.Acked()), m.now)
	if err != nil {
		return
	}
	m.saveSession(s)
	m.send(inboxOf(s), b, flight{})
}
