package handset

import (
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// settleTime is how long after subscribing a missing presence byte means nothing yet.
const settleTime = 3 * time.Second

// maxFrame keeps a MSG within the 6,700 bytes the broker takes of a packet, which would otherwise
// end the connection. Every text of 1,600 characters fits. [M-1]
const maxFrame = 6700 - 2 - wire.MaxTopic - 2 - envelope.MsgOverhead - 32

// Errors a text can be refused with before anything is stored.
var (
	ErrTooLong   = errors.New("handset: a text has 1 to 1600 characters, as valid UTF-8")
	ErrNoContact = errors.New("handset: there is no such contact")
	ErrNoText    = errors.New("handset: there is no such text, or it is not in a state for this")
	ErrBlocked   = errors.New("handset: you have blocked this contact; unblock it first")
	ErrTooLate   = errors.New("handset: too late: the text is on its way")
)

// write puts a new text into the outbox and sends it if it can. [U-3]
func (m *model) write(id ContactID, body string) (TextID, error) {
	c := m.contacts[id]
	switch n := utf8.RuneCountInString(body); {
	case c == nil:
		return 0, ErrNoContact
	case c.Blocked:
		return 0, ErrBlocked
	case n == 0 || n > envelope.MaxText || !utf8.ValidString(body):
		return 0, ErrTooLong
	}
	t := m.newText(c, body)
	t.Out, t.ShownBlue = true, c.blue
	c.queue = append(c.queue, t)
	m.pump(c, true)
	m.changed(t)
	return t.ID, nil
}

// pump moves a contact's waiting texts as far as they go now. wrote: because the user wrote.
func (m *model) pump(c *contact, wrote bool) {
	switch {
	case len(c.queue) == 0 || c.Blocked:
	case c.ownSMSOnly():
		m.decideAll(c)
	case c.Changed != nil: // [U-5]
	case m.ready():
		m.pumpOnline(c, wrote)
	case m.link.greys || m.link.up:
		m.decideAll(c)
	}
}

// pumpOnline: over IP while the contact is blue, or may be; else a hello, and the policy.
func (m *model) pumpOnline(c *contact, wrote bool) {
	s := m.sending(c)
	if s != nil && (c.blue || m.now.Before(c.settleBy)) {
		m.flush(c, s)
		return
	}
	if s != nil { // grey: the policy first, then see whether its tag has moved
		m.decideAll(c)
		if wrote {
			m.hello(c, true)
		}
		return
	}
	m.hello(c, wrote)
	if c.KnownGrey || !m.helloUnderWay(c) {
		m.decideAll(c)
	}
}

// flush seals and publishes what waits.
func (m *model) flush(c *contact, s *session) {
	for _, t := range slices.Clone(c.queue) {
		switch {
		case t.inflight || t.Writing || m.now.Before(t.retry) || m.inHello(c, t) || m.flying >= window:
		case t.Path == fallback.PathGateway && t.Job != nil:
			m.pushJob(c, t)
		case t.Forced == fallback.PathDevice || t.Forced == fallback.PathGateway:
			m.decide(c, t)
		case t.Sealed == nil && s.NeedsRenewal(m.now):
			m.hello(c, false)
			return
		default:
			m.seal(c, s, t)
		}
	}
}

// inHello reports whether t travels in a hello that may still be answered soon.
func (m *model) inHello(c *contact, t *text) bool {
	return c.Hello != nil && c.Hello.Text == t.ID && m.now.Before(c.answerBy)
}

// seal sends t over IP: the bytes it had before if their session lives, new ones if not.
func (m *model) seal(c *contact, s *session, t *text) {
	if old := m.sessions[t.RID]; t.Sealed == nil || old == nil || old.Dead {
		if !m.sealIn(s, t) {
			m.decide(c, t)
			return
		}
	}
	t.Path, t.Why, t.Offers, t.inflight = fallback.PathIP, fallback.WhyReachable, nil, true
	m.flying++
	m.saveText(t)
	c.ackDue = zeroTime
	m.send(inboxOf(s), t.Sealed, flight{kind: flightText, text: t.ID, contact: c.ID, rid: t.RID})
}

// sealIn makes the MSG of t, and remembers where it was sealed first.
func (m *model) sealIn(s *session, t *text) bool {
	f := envelope.TextFrame(t.Body)
	if t.Ref != nil {
		f = envelope.AgainFrame(*t.Ref, t.Body)
	}
	f.Acked = s.Acked()
	if b, err := f.Marshal(); err != nil || len(b) > maxFrame {
		return false
	}
	b, pos, err := s.Seal(f, m.now)
	if err != nil {
		return false
	}
	t.Sealed, t.RID, t.Pos = b, s.RID(), pos
	if t.Ref == nil {
		t.Ref = &envelope.AgainRef{TH: s.TH(), Epoch: byte(pos.Epoch), N: pos.N}
	}
	m.saveSession(s)
	return true
}

func inboxOf(s *session) wire.Topic { return wire.Topic{Kind: wire.TopicInbox, Tag: s.PeerTag()} }

// sending is the session to write in: the newest that lives; nil if there is none.
func (m *model) sending(c *contact) *session {
	for _, s := range slices.Backward(c.sessions) {
		if s.Established() && !s.Dead && s.Until.IsZero() && !s.NeedsRenewal(m.now) {
			return s
		}
	}
	return nil
}

// decideAll asks the policy about every text that waits for one.
func (m *model) decideAll(c *contact) {
	for _, t := range slices.Clone(c.queue) {
		if !t.inflight && !t.Writing && !t.Queued {
			m.decide(c, t)
		}
	}
}

// decide asks the policy about one text of a grey contact. [F-1]
func (m *model) decide(c *contact, t *text) {
	if t.Path == fallback.PathGateway && t.Job != nil && m.now.Before(t.JobUntil) {
		m.pushJob(c, t)
		return
	}
	d := fallback.Decide(m.input(c, t))
	if t.Forced != fallback.PathWait {
		d = m.forced(c, t, d)
	}
	same := t.Path == d.Path && t.Why == d.Why && slices.Equal(t.Offers, d.Offers)
	t.Path, t.Why, t.Offers, t.Parts = d.Path, d.Why, d.Offers, d.Parts
	switch d.Path {
	case fallback.PathDevice:
		t.Writing = true
		m.do(sendSMS{t.ID, c.to(), t.Body})
	case fallback.PathGateway:
		m.sealJob(c, t)
	}
	if !same {
		m.changed(t)
	}
}

// forced follows the user's own choice; over IP it waits for blue.
func (m *model) forced(c *contact, t *text, d fallback.Decision) fallback.Decision {
	in := m.input(c, t)
	in.ShownBlue = false
	switch t.Forced {
	case fallback.PathDevice:
		in.Contact = fallback.ModeDevice
		in.RoamingSMS = true
	case fallback.PathGateway:
		in.Contact = fallback.ModeGateway
	default:
		return fallback.Decision{Path: fallback.PathWait, Why: d.Why}
	}
	f := fallback.Decide(in)
	if t.Forced == fallback.PathDevice && f.Path == fallback.PathAsk && m.cfg.sim {
		f.Path, f.Offers = fallback.PathDevice, nil // more than six parts, and the user has said yes
	}
	return f
}

// to is what an SMS to c goes to.
func (c *contact) to() Dialled {
	if c.ownSMSOnly() {
		return Dialled(c.Dialled)
	}
	return Dialled(c.number().E164())
}

// sealJob makes the sealed SMS job of t and publishes it. [F-3]
func (m *model) sealJob(c *contact, t *text) {
	j := envelope.Job{To: c.number(), Text: t.Body, Class: wire.ClassNormal, ExpiresAt: m.jobUntil()}
	if !m.cfg.policy.HideNumber {
		j.From = numberOf(m.self.Number)
	}
	b, err := envelope.SealJob(*m.worker, j)
	if err != nil {
		t.Path, t.Why = fallback.PathWait, fallback.WhyNoGateway
		m.setState(t, Failed)
		return
	}
	id := wire.MessageIDOf(b)
	t.Job, t.JobID, t.JobUntil, t.JobState, t.Queued = b, id[:], j.ExpiresAt, wire.JobQueued, false
	m.jobs[id] = t
	m.pushJob(c, t)
}

// pushJob publishes the job of t until the queue has it.
func (m *model) pushJob(c *contact, t *text) {
	if t.Queued || t.inflight || !m.ready() || m.now.Before(t.retry) || m.flying >= window {
		return
	}
	t.inflight = true
	m.flying++
	m.saveText(t)
	m.send(wire.Topic{Kind: wire.TopicFallback}, t.Job, flight{kind: flightJob, text: t.ID, contact: c.ID})
}

// textDone is the PUBACK of a MSG with a text: the truth about it. [C-1] [U-3]
func (m *model) textDone(f flight, code wire.Code) {
	t, c := m.texts[f.text], m.contacts[f.contact]
	if t == nil || c == nil || t.State != Waiting {
		return
	}
	t.inflight = false
	switch code {
	case wire.OK:
		m.delivered(t)
	case wire.NoRecipient:
		m.undeliverable(c, t)
	case wire.Unreadable:
		m.unreadable(c, t)
	case wire.OverQuota, wire.Unavailable, wire.QueueFull:
		m.later(t)
	case wire.NotConsented, wire.NotEnrolled, wire.Revoked:
		m.decide(c, t)
	default:
		m.setState(t, Failed)
	}
}

func (m *model) delivered(t *text) {
	t.AlsoSMS = t.AlsoSMS || t.State == SMSSent || t.State == SMSDelivered
	t.Sealed, t.Path, t.Offers, t.Cancelled = nil, fallback.PathIP, nil, false
	m.setState(t, Delivered)
}

// undeliverable: the icon turns grey at once, and the policy decides. [U-2]
func (m *model) undeliverable(c *contact, t *text) {
	m.setBlue(c, false)
	c.settleBy = zeroTime
	if t.Cancelled {
		m.setState(t, Failed)
	} else {
		m.saveText(t)
	}
	m.pump(c, true)
}

// unreadable: the peer has lost the session. It gets one hello an hour, with the text inside.
func (m *model) unreadable(c *contact, t *text) {
	if s := m.sessions[t.RID]; s != nil && !s.Dead {
		s.Dead = true
		m.saveSession(s)
	}
	t.Sealed = nil
	m.saveText(t)
	m.pump(c, true)
}

// later tries a text again after 5, 10, 20… seconds, at most 5 minutes.
func (m *model) later(t *text) {
	t.retry = m.now.Add(min(5*time.Second<<min(t.tries, 10), 5*time.Minute))
	t.tries++
	m.saveText(t)
}

// jobDone is the PUBACK of a job: the queue has it, or not. [C-4]
func (m *model) jobDone(f flight, code wire.Code) {
	t, c := m.texts[f.text], m.contacts[f.contact]
	if t == nil || c == nil || t.Job == nil {
		return
	}
	t.inflight = false
	switch code {
	case wire.OK:
		t.Queued = true
		m.changed(t)
		m.recall(c)
	case wire.OverQuota, wire.Unavailable, wire.QueueFull:
		m.later(t)
	default:
		m.dropJob(t)
		t.Path, t.Why = fallback.PathWait, fallback.WhyNoGateway
		m.setState(t, Failed)
	}
}

func (m *model) dropJob(t *text) {
	if len(t.JobID) == len(wire.MessageID{}) {
		delete(m.jobs, wire.MessageID(t.JobID))
	}
	t.Job, t.JobID, t.Queued, t.cancelling = nil, nil, false, false
}

// recall takes jobs back that nobody has submitted yet, once the contact is blue. [F-10]
func (m *model) recall(c *contact) {
	for _, t := range c.queue {
		if c.blue && t.Queued && t.Forced != fallback.PathGateway {
			m.cancelJob(c, t)
		}
	}
}

func (m *model) cancelJob(c *contact, t *text) {
	if t.cancelling || !m.ready() {
		return
	}
	t.cancelling = true
	b := wire.ByMessageID(wire.TypeCancel, wire.MessageID(t.JobID))
	m.send(wire.Topic{Kind: wire.TopicFallback}, b, flight{kind: flightCancel, text: t.ID, contact: c.ID})
}

// cancelDone: custody is back with this phone, or it is too late. [F-10]
func (m *model) cancelDone(f flight, code wire.Code) {
	t, c := m.texts[f.text], m.contacts[f.contact]
	if t == nil || c == nil || !t.cancelling {
		return
	}
	t.cancelling = false
	if code != wire.OK {
		t.Cancelled = false
		m.changed(t)
		return
	}
	m.takenBack(c, t)
}

func (m *model) takenBack(c *contact, t *text) {
	m.dropJob(t)
	t.Path, t.Forced = fallback.PathWait, fallback.PathWait
	if t.Cancelled {
		m.setState(t, Failed)
		return
	}
	m.changed(t)
	m.pump(c, false)
}

// outcome is the gateway's word on a job. What is final and not delivered is failed, with the
// exception that a job without a receipt was still sent. [F-7] [U-3]
func (m *model) outcome(o wire.Outcome) {
	t := m.jobs[o.Message]
	if t == nil || t.JobState.Final() {
		return
	}
	t.JobState, t.Queued = o.State, true
	if o.State.Final() {
		delete(m.jobs, o.Message)
		t.Job = nil
	}
	switch o.State {
	case wire.JobQueued:
		m.changed(t)
	case wire.JobSubmitted, wire.JobNoReceipt, wire.JobSimulated:
		m.smsState(t, SMSSent)
	case wire.JobDelivered:
		m.smsState(t, SMSDelivered)
	case wire.JobCancelled:
		if c := m.contacts[t.Contact]; c != nil && t.State == Waiting {
			m.takenBack(c, t)
		}
	default:
		m.smsState(t, Failed)
	}
}

// smsState never takes "delivered" from a text that also went over IP.
func (m *model) smsState(t *text, s State) {
	if t.State == Delivered {
		t.AlsoSMS = s != Failed
		m.changed(t)
		return
	}
	m.setState(t, s)
}

// smsDone is what the phone's own SIM says.
func (m *model) smsDone(id TextID, ok bool) {
	t := m.texts[id]
	if t == nil || !t.Writing {
		return
	}
	t.Writing = false
	if ok {
		m.smsState(t, SMSSent)
	} else {
		m.smsState(t, Failed)
	}
}

// sendAgain follows the user's choice for a text that failed or waits for a decision.
func (m *model) sendAgain(id TextID, via fallback.Path) error {
	t := m.texts[id]
	if t == nil || !t.Out || t.inflight || t.Writing || t.Queued && t.State == Waiting {
		return ErrNoText
	}
	c := m.contacts[t.Contact]
	if c == nil || c.Blocked || t.State != Failed && t.State != Waiting {
		return ErrNoText
	}
	m.dropJob(t)
	t.Forced, t.Path, t.Cancelled, t.retry, t.tries = via, fallback.PathWait, false, zeroTime, 0
	t.JobState, t.ShownBlue, t.State = wire.JobQueued, false, Waiting
	if !slices.Contains(c.queue, t) {
		c.queue = append(c.queue, t)
		slices.SortFunc(c.queue, func(a, b *text) int { return int(a.ID) - int(b.ID) })
	}
	if via == fallback.PathDevice || via == fallback.PathGateway {
		m.decide(c, t)
	}
	m.pump(c, true)
	m.changed(t)
	return nil
}

// cancel takes a text back that nobody else holds. One that is on its way over IP may arrive yet.
func (m *model) cancel(id TextID) error {
	t := m.texts[id]
	if t == nil || !t.Out || t.State != Waiting {
		return ErrNoText
	}
	c := m.contacts[t.Contact]
	switch {
	case c == nil:
		return ErrNoText
	case t.Writing:
		return ErrTooLate
	case t.inflight && t.Job == nil:
		t.Cancelled = true
		return nil
	case t.Job != nil && (t.Queued || t.inflight):
		t.Cancelled = true
		m.cancelJob(c, t)
		return nil
	}
	t.Cancelled = true
	m.dropJob(t)
	m.setState(t, Failed)
	return nil
}
