package simulator

import (
	"slices"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// line is one connection of one handset as the ledger sees it: every packet written and read passes
// here, the written ones before they leave. Its fields are under the ledger's lock.
type line struct {
	l    *Ledger
	who  int
	id   wire.ID
	tag  wire.Tag // zero: not welcomed
	over bool
	hole bool          // the path is dead: answers are not to be expected
	dies time.Time     // when it dies; zero: it does not
	nat  time.Duration // without use it dies after this; 0: it does not
	used time.Time

	flights []flight
	inbound []arrival
	notices []wire.Notice
	last    wire.Notice // the answer that came last
	asked   []wire.ID   // bundles
	watches []*watch
	left    []wire.Tag // watched until lately
	began   time.Time
	silent  bool // a withdrawal was acknowledged on this connection
}

// flight is a publish without its PUBACK.
type flight struct {
	pid   uint16
	kind  wire.TopicKind
	m     wire.MessageID
	scope int // of a consent record on c, else -1
	req   uint16
	code  wire.Code // of the answer on r
}

// arrival is a publish that came in and was not acknowledged yet.
type arrival struct {
	pid uint16
	m   wire.MessageID
}

// awaited is a publish whose answer is due.
type awaited struct {
	line *line
	pid  uint16
	m    wire.MessageID
	at   time.Time
}

// requestTime is how long an answer to a request, or to a hello, may take.
const requestTime = 15 * time.Second

// dial notes a new connection of who, which was to be there at began; p is its path, nil for none.
func (l *Ledger) dial(who int, id wire.ID, p *path, began, now time.Time) *line {
	c := &line{l: l, who: who, id: id, began: began, used: now}
	if p != nil {
		c.dies, c.nat = p.dies, p.link.NAT.Std()
	}
	return c
}

// alive reports whether anything can pass, and notes when that is over. The node is not told, so
// presence has the longest bound.
func (c *line) alive(now time.Time) bool {
	if !c.hole && (!c.dies.IsZero() && now.After(c.dies) || c.nat > 0 && now.Sub(c.used) > c.nat) {
		c.hole = true
		c.l.ownerGone(c, now, &c.l.presence.deadDue, c.l.cfg.Dead)
	}
	return !c.hole
}

// sent takes a packet that is about to be written.
func (c *line) sent(p packet, now time.Time) {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.figures.bytes(up, p.size())
	if c.alive(now) {
		c.used = now
	}
	switch p.kind() {
	case mqttPublish:
		c.sentPublish(p, now)
	case mqttPuback:
		c.sentPuback(p.id())
	case mqttSubscribe, mqttUnsubscribe:
		for _, f := range p.filters() {
			c.filter(f, p.kind() == mqttSubscribe, now)
		}
	case mqttDisconnect:
		l.end(c, now)
	}
}

func (c *line) filter(filter string, subscribe bool, now time.Time) {
	t, err := wire.ParseTopic(filter)
	switch {
	case err != nil:
	case t.Kind == wire.TopicBundle && subscribe:
		c.asked = append(c.asked, t.ID)
	case t.Kind == wire.TopicPresence && subscribe:
		c.l.watch(c, t.Tag, now)
	case t.Kind == wire.TopicPresence:
		c.l.unwatch(c, t.Tag)
		c.left = append(c.left, t.Tag)
		if len(c.left) > 16 {
			c.left = c.left[1:]
		}
	}
}

func (c *line) sentPublish(p packet, now time.Time) {
	topic, pid, payload, ok := p.publish()
	t, err := wire.ParseTopic(topic)
	if !ok || err != nil {
		return
	}
	f := flight{pid: pid, kind: t.Kind, m: wire.MessageIDOf(payload), scope: -1}
	switch t.Kind {
	case wire.TopicInbox:
		c.published(f.m, t.Tag, payload, p.size(), now)
	case wire.TopicConsent:
		f.scope, f.req = scopesOf(payload)
		c.l.people[c.who].leaving = f.scope == 0
	}
	c.flights = append(c.flights, f)
	which, bound := 0, c.l.cfg.Deadline+2*c.l.cfg.Blue
	if t.Kind != wire.TopicInbox && t.Kind != wire.TopicFallback {
		which, bound = 1, requestTime
	}
	c.l.overdue[which].push(now.Add(bound), awaited{c, pid, f.m, now})
}

// scopesOf reads the scopes of a consent record in a request; -1 for another request.
func scopesOf(payload []byte) (scopes int, req uint16) {
	r, err := wire.ParseRequest(payload)
	if err != nil {
		return -1, 0
	}
	rec, err := wire.ParseConsent(r.Body)
	if err != nil {
		return -1, r.ID
	}
	return int(rec.Scopes), r.ID
}

// published notes one more publish of a message to an inbox.
func (c *line) published(id wire.MessageID, to wire.Tag, payload []byte, size int, now time.Time) {
	l := c.l
	m := l.messages[id]
	if m == nil {
		m = &message{to: to, from: c.who}
		l.messages[id] = m
	}
	m.sent++
	m.open++
	l.step(m.text, now, c.who, "publishes it")
	kind, _, err := envelope.Peek(payload)
	if err != nil || kind != envelope.KindMsg {
		return
	}
	if m.sent == 1 {
		l.figures.frame(size)
	}
	if l.people[c.who].keys.reused(to, payload, id) {
		l.fail(ReusedKey, now, m.text, "%d sealed two messages with one key", c.who)
	}
}

func (l *Ledger) step(n TextNo, at time.Time, who int, what string) {
	if t := l.texts[n]; t != nil && n != 0 {
		t.step(at, who, what)
	}
}

// Sealed says which text a message carries.
func (l *Ledger) sealed(n TextNo, id wire.MessageID, to wire.Tag, from int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.messages[id]; m != nil {
		m.text = n
		return
	}
	l.messages[id] = &message{text: n, to: to, from: from}
}

func (c *line) sentPuback(pid uint16) {
	i := slices.IndexFunc(c.inbound, func(a arrival) bool { return a.pid == pid })
	if i < 0 {
		return
	}
	if m := c.l.messages[c.inbound[i].m]; m != nil {
		m.acked = true
	}
	c.inbound = slices.Delete(c.inbound, i, i+1)
}

// got takes a packet that has just been read.
func (c *line) got(p packet, now time.Time) {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.figures.bytes(down, p.size())
	if c.alive(now) {
		c.used = now
	}
	switch p.kind() {
	case mqttPublish:
		c.gotPublish(p, now)
	case mqttPuback:
		c.gotPuback(p.id(), now)
	}
}

func (c *line) gotPublish(p packet, now time.Time) {
	topic, pid, payload, ok := p.publish()
	t, err := wire.ParseTopic(topic)
	if !ok || err != nil {
		c.l.fail(WrongTag, now, 0, "%d was sent a message on no topic of the protocol", c.who)
		return
	}
	if c.silent && (t.Kind == wire.TopicInbox || t.Kind == wire.TopicHello || t.Kind == wire.TopicPresence) {
		c.l.fail(AfterRevocation, now, c.l.textOf(payload), "%d was sent a message on %c after its withdrawal was acknowledged", c.who, t.Kind)
		c.inbound = append(c.inbound, arrival{pid, wire.MessageIDOf(payload)})
		return
	}
	switch t.Kind {
	case wire.TopicReply:
		c.gotReply(payload, now)
	case wire.TopicInbox:
		c.gotText(t.Tag, pid, payload, now)
	case wire.TopicHello, wire.TopicBundle:
		if t.ID != c.id && !slices.Contains(c.asked, t.ID) {
			c.l.fail(WrongTag, now, 0, "%d was sent a message on %c of somebody else", c.who, t.Kind)
		}
	case wire.TopicPresence:
		c.l.hears(c, t.Tag, len(payload) > 0, now)
	}
}

func (l *Ledger) textOf(payload []byte) TextNo {
	if m := l.messages[wire.MessageIDOf(payload)]; m != nil {
		return m.text
	}
	return 0
}

func (c *line) gotReply(b []byte, now time.Time) {
	if w, err := wire.ParseWelcome(b); err == nil && c.tag.IsZero() {
		c.tag = w.Tag
		c.l.welcomed(c, now)
		return
	}
	if n, err := wire.ParseNotice(b); err == nil {
		c.notices = append(c.notices, n)
		return
	}
	if a, err := wire.ParseAnswer(b); err == nil {
		for i := range c.flights {
			if f := &c.flights[i]; f.kind == wire.TopicConsent && f.req == a.Request {
				f.code = a.Code
			}
		}
	}
}

// gotText judges one delivery to an inbox.
func (c *line) gotText(to wire.Tag, pid uint16, payload []byte, now time.Time) {
	l, id := c.l, wire.MessageIDOf(payload)
	c.inbound = append(c.inbound, arrival{pid, id})
	m := l.messages[id]
	if m == nil {
		if l.cfg.Alone {
			l.fail(DoubleDelivery, now, 0, "%d got a message that nobody has on its way", c.who)
		}
		return
	}
	l.step(m.text, now, c.who, "gets it")
	if m.line != c {
		m.line, m.delivered = c, 0
	}
	m.delivered++
	switch gone := l.people[m.from].revoked; {
	case to != c.tag || m.to != c.tag:
		l.fail(WrongTag, now, m.text, "%d got a message of %d that is for another tag", c.who, m.from)
	case m.delivered > m.sent:
		l.fail(DoubleDelivery, now, m.text, "%d got a message of %d %d times, published %d times", c.who, m.from, m.delivered, m.sent)
	case !gone.IsZero() && now.Sub(gone) > l.cfg.Blue+l.cfg.Slack():
		l.fail(AfterRevocation, now, m.text, "%d got a message of %d, who had opted out", c.who, m.from)
	}
}

func (c *line) gotPuback(pid uint16, now time.Time) {
	l := c.l
	code := wire.OK
	if i := slices.IndexFunc(c.notices, func(n wire.Notice) bool { return n.PacketID == pid }); i >= 0 {
		code = c.notices[i].Code
		c.notices = slices.Delete(c.notices, i, i+1)
	}
	c.last = wire.Notice{PacketID: pid, Code: code}
	i := slices.IndexFunc(c.flights, func(f flight) bool { return f.pid == pid })
	if i < 0 {
		return
	}
	f := c.flights[i]
	c.flights = slices.Delete(c.flights, i, i+1)
	switch f.kind {
	case wire.TopicInbox:
		c.answer(f, code, now)
	case wire.TopicConsent:
		if f.scope >= 0 && code == wire.OK && f.code == wire.OK {
			l.consented(c, wire.Scope(f.scope), now)
		}
	}
}

// codeOf is what the PUBACK that was taken last meant.
func (c *line) codeOf(pid uint16) wire.Code {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.last.PacketID != pid {
		return wire.OK
	}
	return c.last.Code
}

// answer judges the answer to a publish on an inbox. [C-1]
func (c *line) answer(f flight, code wire.Code, now time.Time) {
	l := c.l
	m := l.messages[f.m]
	if m == nil {
		return
	}
	m.open--
	if code == wire.OK {
		l.attempts.OK++
		l.step(m.text, now, c.who, "has the PUBACK")
	} else {
		l.attempts.Back++
		l.step(m.text, now, c.who, "has it back: "+code.String())
	}
	if code == wire.OK && !m.acked {
		l.fail(EarlyPuback, now, m.text, "%d was told that its message to another had arrived, and nobody had acknowledged it", c.who)
	}
	l.answered.push(now.Add(grace), f.m)
}

// consented notes a consent record whose receipt, or whose silence, has come.
func (l *Ledger) consented(c *line, scopes wire.Scope, now time.Time) {
	p := &l.people[c.who]
	p.visible = scopes.Has(wire.ScopeMessaging | wire.ScopePresence)
	if scopes == 0 {
		p.revoked, c.silent = now, true
		for _, w := range slices.Clone(c.watches) {
			l.unwatch(c, w.tag)
		}
		l.ownerGone(c, now, &l.presence.goneDue, l.cfg.Blue)
		return
	}
	p.revoked, c.silent = time.Time{}, false
	l.ownerUp(c, now)
}

func (l *Ledger) welcomed(c *line, now time.Time) {
	if o := l.presence.owners[c.tag]; o != nil && o.who != c.who {
		l.fail(WrongTag, now, 0, "%d was given the tag of %d", c.who, o.who)
	}
	l.figures.Connected(now.Sub(c.began))
	l.people[c.who].line = c
	l.ownerUp(c, now)
}

// deadPath notes that nothing passes on a connection any more, and nobody was told.
func (c *line) deadPath(now time.Time) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if !c.over {
		c.dies = now.Add(-1)
		c.alive(now)
	}
}

// passes reports whether anything can pass.
func (c *line) passes(now time.Time) bool {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.alive(now)
}

// close notes the end of a connection; again, it does nothing.
func (c *line) close(now time.Time) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.end(c, now)
}

func (l *Ledger) end(c *line, now time.Time) {
	if c.over {
		return
	}
	c.over = true
	for _, f := range c.flights {
		if m := l.messages[f.m]; m != nil && f.kind == wire.TopicInbox {
			m.open--
			l.answered.push(now.Add(grace), f.m)
		}
	}
	for _, w := range slices.Clone(c.watches) {
		l.unwatch(c, w.tag)
	}
	if !c.hole && !c.silent {
		l.ownerGone(c, now, &l.presence.greyDue, l.cfg.Grey)
	}
	c.flights, c.inbound, c.notices, c.asked, c.left = nil, nil, nil, nil, nil
}

// lookOverdue judges a publish whose answer was due.
func (l *Ledger) lookOverdue(a awaited, now time.Time) {
	c := a.line
	if c.over || !c.alive(now) {
		return
	}
	for _, f := range c.flights {
		if f.pid == a.pid && f.m == a.m {
			n := TextNo(0)
			if m := l.messages[a.m]; m != nil {
				n = m.text
			}
			l.fail(LostReturn, now, n, "%d has no answer to a publish on %c after %s", c.who, f.kind, now.Sub(a.at).Round(time.Millisecond))
			return
		}
	}
}
