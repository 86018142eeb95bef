package handset

import (
	"slices"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

const (
	maintainEvery = time.Hour
	seenFor       = 30 * 24 * time.Hour // how long a text sealed again is recognised [S-11]
)

// next is when tick has something to do; zero: never.
func (m *model) next() time.Time {
	d := soonest(m.cycleAt)
	d.add(m.maintain)
	if !m.link.up && !m.link.greys {
		d.add(m.link.down.Add(m.cfg.greyAfter))
	}
	for _, r := range m.requests {
		d.add(r.by)
	}
	for _, c := range m.contacts {
		m.nextOf(c, &d)
	}
	return time.Time(d)
}

func (m *model) nextOf(c *contact, d *soonest) {
	d.add(c.fetchBy)
	d.add(c.answerBy)
	if !c.confirmed {
		d.add(c.settleBy)
	}
	if m.ready() {
		d.add(c.ackDue)
		d.add(m.repeatAt(c))
	}
	for _, t := range c.queue {
		d.add(t.retry)
	}
}

// soonest is the earliest of some times; zero ones do not count.
type soonest time.Time

func (s *soonest) add(t time.Time) {
	if old := time.Time(*s); !t.IsZero() && (old.IsZero() || t.Before(old)) {
		*s = soonest(t)
	}
}

// repeatAt is when the hello of c is due again by the schedule; zero: not. [U-8]
func (m *model) repeatAt(c *contact) time.Time {
	h := c.Hello
	if h == nil || h.Repeats >= len(repeats) || c.Blocked || c.Changed != nil {
		return zeroTime
	}
	at := h.First.Add(repeats[h.Repeats])
	if at.After(h.NotAfter) {
		return zeroTime
	}
	return at
}

// passed reports whether a time that is set has come.
func (m *model) passed(t time.Time) bool { return !t.IsZero() && !m.now.Before(t) }

// tick does what is due.
func (m *model) tick() {
	if !m.link.up && !m.link.greys && m.passed(m.link.down.Add(m.cfg.greyAfter)) {
		m.turnGrey()
	}
	for _, r := range sorted(m.requests) {
		if m.passed(r.by) {
			m.requestFailed(r, wire.Unavailable)
		}
	}
	for _, c := range sorted(m.contacts) {
		m.tickContact(c)
	}
	if m.passed(m.cycleAt) {
		m.cycleAt, m.announcing = zeroTime, 0
		m.do(reconnect{})
	}
	if m.maintain.IsZero() || m.passed(m.maintain) {
		m.maintain = m.now.Add(maintainEvery)
		m.expire()
	}
}

// turnGrey: without a connection of our own nobody can be reached, and the policy decides. [U-2]
func (m *model) turnGrey() {
	m.link.greys = true
	for _, c := range sorted(m.contacts) {
		m.setBlue(c, false)
		m.pump(c, false)
	}
}

func (m *model) tickContact(c *contact) {
	if m.passed(c.fetchBy) {
		m.stopFetch(c)
		m.unanswered(c)
	}
	if m.passed(c.answerBy) {
		c.answerBy = zeroTime
		m.unanswered(c)
	}
	if m.passed(c.settleBy) {
		c.settleBy = zeroTime
		if !c.confirmed {
			m.setBlue(c, false)
			m.pump(c, false)
		}
	}
	if m.passed(c.ackDue) {
		m.acknowledgeShown(c)
	}
	m.tickHello(c)
	m.tickTexts(c)
}

func (m *model) tickHello(c *contact) {
	at := m.repeatAt(c)
	if !m.passed(at) || !m.ready() {
		return
	}
	for c.Hello.Repeats < len(repeats) && m.passed(c.Hello.First.Add(repeats[c.Hello.Repeats])) {
		c.Hello.Repeats++
	}
	m.saveContact(c)
	if !m.helloUnderWay(c) {
		m.repeatHello(c)
	}
}

func (m *model) tickTexts(c *contact) {
	due := false
	for _, t := range c.queue {
		if m.passed(t.retry) {
			t.retry, due = zeroTime, true
		}
	}
	if due {
		m.pump(c, false)
	}
}

// expire erases what has had its time: prekeys, receive-only sessions, memories of texts shown,
// and jobs that the gateway can no longer send.
func (m *model) expire() {
	for _, p := range sorted(m.prekeys) {
		if m.now.After(p.until) {
			m.erasePrekey(p.id)
		}
	}
	for _, s := range sorted(m.sessions) {
		if m.passed(s.Until) {
			m.dropSession(s)
		}
	}
	for k, r := range m.seen {
		if m.now.Sub(r.At) > seenFor {
			delete(m.seen, k)
			m.erase(k)
		}
	}
	m.expireJobs()
	m.offerIfOld()
}

// expireJobs fails a job whose outcome never came: the gateway is past its expiry by an hour.
func (m *model) expireJobs() {
	for _, c := range sorted(m.contacts) {
		for _, t := range slices.Clone(c.queue) {
			if t.Path == fallback.PathGateway && t.Queued && m.now.After(t.JobUntil.Add(time.Hour)) {
				t.JobState = wire.JobUnknown
				m.dropJob(t)
				m.setState(t, Failed)
			}
		}
	}
}

// offerIfOld replaces the published prekey before others stop using it.
func (m *model) offerIfOld() {
	p := m.prekeys[m.self.Prekeys]
	if p != nil && m.now.After(p.offeredUntil().Add(-prekeyEarly)) {
		m.offerPrekey()
	}
}

// done is the PUBACK of a publish, with what a notice before it said.
func (m *model) done(f flight, code wire.Code) {
	if (code == wire.NotConsented || code == wire.Revoked) && m.self.On && f.kind != flightRequest {
		m.consentEnded()
	}
	if f.kind == flightText || f.kind == flightJob {
		m.flying--
		defer m.refill(m.flying == window-1)
	}
	switch f.kind {
	case flightText:
		m.textDone(f, code)
	case flightHello:
		m.helloDone(f, code)
	case flightJob:
		m.jobDone(f, code)
	case flightCancel:
		m.cancelDone(f, code)
	case flightFrame:
		m.frameDone()
	case flightRequest:
		m.requestDone(f, code)
	}
}

// refill sends what waited for room in the window.
func (m *model) refill(wasFull bool) {
	if !wasFull {
		return
	}
	for _, c := range sorted(m.contacts) {
		m.pump(c, false)
	}
}
