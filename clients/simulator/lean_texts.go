package simulator

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// peerOf finds a contact, or makes one of somebody who is a friend.
func (h *lean) peerOf(who int) *peer {
	for _, p := range h.peers {
		if p.who == who {
			return p
		}
	}
	p := &peer{who: who}
	h.peers = append(h.peers, p)
	return p
}

// write takes a text into the outbox, and sends it if it can.
func (h *lean) write(n TextNo, to int, body string, at time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.f.cfg.Closed {
		at = now
	}
	p := h.peerOf(to)
	if h.out || h.f.cfg.Closed && h.waiting() > 0 {
		return false // nobody writes who has opted out, or who waits in a closed loop
	}
	h.f.ledger.Accepted(n, h.who, to, at, now)
	if l, lean := h.f.devices[to].(*lean); lean && l != nil {
		h.f.ledger.Immediate(n)
	}
	p.queue = append(p.queue, &letter{n: n, body: body, at: at})
	h.pump(p, now)
	h.flush(now)
	return true
}

func (h *lean) waiting() (n int) {
	for _, p := range h.peers {
		n += len(p.queue)
	}
	return n
}

// pump moves what waits for a peer as far as it goes now.
func (h *lean) pump(p *peer, now time.Time) {
	if len(p.queue) == 0 {
		return
	}
	if !h.up() {
		if h.f.clock(now)-h.heard > greyAfter || h.out {
			h.decideAll(p, now)
		}
		return
	}
	s := p.sending(now)
	switch {
	case s != nil && (p.blue || h.f.clock(now) < p.settleBy):
		h.sendAll(p, s, now)
	case s != nil:
		h.decideAll(p, now)
	case h.greeting(p):
	case h.mayGreet(p, now):
		h.fetch(p, now)
	default:
		h.decideAll(p, now)
	}
}

// sending is the session to write in.
func (p *peer) sending(now time.Time) *leanSession {
	for i := len(p.sessions) - 1; i >= 0; i-- {
		if s := p.sessions[i]; s.Established() && !s.dead && !s.old && !s.NeedsRenewal(now) {
			return s
		}
	}
	return nil
}

func (h *lean) sendAll(p *peer, s *leanSession, now time.Time) {
	for _, t := range slices.Clone(p.queue) {
		if t.inflight || h.f.clock(now) < t.retry || t.job != nil || h.flying() >= window {
			continue
		}
		if !h.seal(p, s, t, now) {
			return
		}
	}
}

// flying is how many texts and jobs have no PUBACK.
func (h *lean) flying() (n int) {
	for i := range h.flights {
		if k := h.flights[i].kind; k == flightText || k == flightJob {
			n++
		}
	}
	return n
}

// seal publishes a text: the bytes it had before if they may be repeated, new ones if not.
func (h *lean) seal(p *peer, s *leanSession, t *letter, now time.Time) bool {
	if t.sealed == nil || t.session != s || !s.MayRepeat(t.pos) {
		f := envelope.TextFrame(t.body)
		if t.ref != nil {
			f = envelope.AgainFrame(*t.ref, t.body)
		}
		f.Acked = s.Acked()
		before := h.faultKey(s)
		b, pos, err := s.Seal(f, now)
		if err != nil {
			return false
		}
		h.reuseKey(s, before)
		t.sealed, t.session, t.pos = b, s, pos
		if t.ref == nil {
			t.ref = &envelope.AgainRef{TH: s.TH(), Epoch: byte(pos.Epoch), N: pos.N}
		}
		h.f.ledger.sealed(t.n, wire.MessageIDOf(b), s.PeerTag(), h.who)
	}
	p.unsaid, p.sayBy = 0, 0
	t.inflight = true
	h.publish(inboxOf(s.PeerTag()), t.sealed, false, leanFlight{kind: flightText, peer: p, letter: t})
	return true
}

func inboxOf(t wire.Tag) wire.Topic { return wire.Topic{Kind: wire.TopicInbox, Tag: t} }

// takePuback handles the answer to a publish.
func (h *lean) takePuback(pid uint16, now time.Time) {
	i := slices.IndexFunc(h.flights, func(f leanFlight) bool { return f.pid == pid })
	if i < 0 {
		return
	}
	fl := h.flights[i]
	h.flights = slices.Delete(h.flights, i, i+1)
	if len(h.flights) == 0 {
		h.flights = nil
	}
	code := h.line.codeOf(pid)
	switch fl.kind {
	case flightText:
		h.textDone(fl, code, now)
		h.refill(now)
	case flightJob:
		h.jobDone(fl, code, now)
		h.refill(now)
	case flightConsent:
		if fl.ok && code == wire.OK {
			h.agreed(now)
		} else {
			h.agreeBy = h.f.clock(now) + retryTime // a part of the node is busy, or down
		}
	case flightBundle:
		if code == wire.OK {
			h.unlisted = nil
		} else {
			h.offerBy = h.f.clock(now) + retryTime
		}
	case flightOptOut:
		if fl.ok && code == wire.OK {
			h.on = false
			for _, p := range h.peers {
				p.blue = false
				h.decideAll(p, now)
			}
		}
	}
}

// refill sends what waited for room in the window.
func (h *lean) refill(now time.Time) {
	if h.flying() != window-1 {
		return
	}
	for _, p := range h.peers {
		h.pump(p, now)
	}
}

// textDone is the truth about a text. [C-1]
func (h *lean) textDone(fl leanFlight, code wire.Code, now time.Time) {
	p, t := fl.peer, fl.letter
	t.inflight = false
	switch code {
	case wire.OK:
		h.finish(p, t, OverIP, now)
	case wire.NoRecipient:
		p.blue, p.settleBy = false, 0
		h.pump(p, now)
	case wire.Unreadable:
		if t.session != nil {
			t.session.dead = true
		}
		t.sealed = nil
		h.pump(p, now)
	case wire.NotConsented, wire.NotEnrolled, wire.Revoked:
		h.decide(p, t, now)
	default:
		t.retry = h.f.clock(now) + retryTime
	}
}

// finish takes a text out of the outbox with its outcome.
func (h *lean) finish(p *peer, t *letter, o Outcome, now time.Time) {
	n := len(p.queue)
	p.queue = slices.DeleteFunc(p.queue, func(q *letter) bool { return q == t })
	if len(p.queue) == 0 {
		p.queue = nil
	}
	if len(p.queue) < n {
		h.f.ledger.Told(t.n, o, now)
	}
}

// decideAll asks the policy about every text that waits for one. [F-1]
func (h *lean) decideAll(p *peer, now time.Time) {
	for _, t := range slices.Clone(p.queue) {
		if !t.inflight && (t.job == nil || !t.job.queued) {
			h.decide(p, t, now)
		}
	}
}

// placeholder is as long as the longest line that names a sender: only its length counts.
const placeholder = "+100000000000000"

func (h *lean) decide(p *peer, t *letter, now time.Time) {
	if t.job != nil {
		h.pushJob(p, t, now)
		return
	}
	mode := modes[h.f.plan.People[h.who].Fallback]
	key, known := h.f.key.get()
	d := fallback.Decide(fallback.Input{
		Text: t.body, From: placeholder, Setting: mode, SIM: !h.dark, Gateway: h.up() && known && wire.Time32(key.NotAfter).After(now.Add(time.Minute)),
	})
	switch {
	case d.Path == fallback.PathGateway:
		h.sealJob(p, t, key, now)
	case d.Path == fallback.PathDevice || d.Path == fallback.PathAsk && !h.dark:
		h.finish(p, t, BySMS, now)
		h.f.ownSMS(h.who, h.f.cfg.People[p.who].Number, t.body)
	case h.out:
		h.finish(p, t, Returned, now)
	}
}

// jobLife is how late a gateway SMS may arrive.
const jobLife = 12 * time.Hour

func (h *lean) sealJob(p *peer, t *letter, key wire.WorkerKey, now time.Time) {
	until := now.Add(jobLife)
	if end := wire.Time32(key.NotAfter); end.Before(until) {
		until = end
	}
	b, err := envelope.SealJob(key, envelope.Job{
		To: h.f.cfg.People[p.who].Number, From: h.f.cfg.People[h.who].Number, Text: t.body, ExpiresAt: until.Truncate(time.Second),
	})
	if err != nil {
		h.finish(p, t, Returned, now)
		return
	}
	t.job = &job{peer: p, letter: t, bytes: b, id: wire.MessageIDOf(b)}
	if h.jobs == nil {
		h.jobs = map[wire.MessageID]*job{}
	}
	h.jobs[t.job.id] = t.job
	h.pushJob(p, t, now)
}

// pushJob publishes a job until the queue has it.
func (h *lean) pushJob(p *peer, t *letter, now time.Time) {
	if t.job.queued || t.inflight || !h.up() || h.f.clock(now) < t.retry || h.flying() >= window {
		return
	}
	t.inflight = true
	h.publish(wire.Topic{Kind: wire.TopicFallback}, t.job.bytes, false, leanFlight{kind: flightJob, peer: p, letter: t})
}

func (h *lean) jobDone(fl leanFlight, code wire.Code, now time.Time) {
	t := fl.letter
	t.inflight = false
	switch code {
	case wire.OK:
		if t.job != nil {
			t.job.queued = true
		}
	case wire.OverQuota, wire.Unavailable, wire.QueueFull:
		t.retry = h.f.clock(now) + retryTime
	default:
		h.dropJob(t)
		h.finish(fl.peer, t, Returned, now)
	}
}

func (h *lean) dropJob(t *letter) {
	if t.job != nil {
		delete(h.jobs, t.job.id)
		t.job = nil
	}
}

// jobOutcome is the gateway's word on a job. [F-7]
func (h *lean) jobOutcome(o wire.Outcome, now time.Time) {
	j := h.jobs[o.Message]
	if j == nil {
		return
	}
	j.queued = true
	switch o.State {
	case wire.JobQueued:
	case wire.JobSubmitted, wire.JobDelivered, wire.JobNoReceipt, wire.JobSimulated:
		h.finish(j.peer, j.letter, BySMS, now)
	default:
		h.finish(j.peer, j.letter, Returned, now)
		h.f.ledger.Told(j.letter.n, Returned, now) // also of one that was submitted before
	}
	if o.State.Final() {
		delete(h.jobs, o.Message)
	}
}

// inbox opens what came to this handset; false: it is not to be acknowledged.
func (h *lean) inbox(payload []byte, now time.Time) bool {
	kind, rid, err := envelope.Peek(payload)
	switch {
	case err != nil || kind == envelope.KindInit:
		return true
	case kind == envelope.KindResp:
		h.takeResp(rid, payload, now)
		return true
	}
	p, s := h.sessionOf(rid)
	if s == nil {
		return h.unread(payload)
	}
	f, _, err := s.Open(payload, now)
	switch {
	case errors.Is(err, envelope.ErrDuplicate):
		return true
	case err != nil:
		return h.unread(payload)
	}
	h.frame(p, s, f, now)
	return true
}

func (h *lean) sessionOf(rid uint16) (*peer, *leanSession) {
	for _, p := range h.peers {
		for _, s := range p.sessions {
			if s.RID() == rid {
				return p, s
			}
		}
	}
	return nil, nil
}

// unread tells the sender that this cannot be opened. [S-8]
func (h *lean) unread(payload []byte) bool {
	b := wire.ByMessageID(byte(wire.CtlUnread), wire.MessageIDOf(payload))
	h.publish(wire.Topic{Kind: wire.TopicUnread}, b, false, leanFlight{})
	return false
}

func (h *lean) frame(p *peer, s *leanSession, f envelope.Frame, now time.Time) {
	for _, t := range slices.Clone(p.queue) {
		if t.session == s && t.sealed != nil && s.Confirms(f.Acked, t.pos) {
			h.dropJob(t)
			h.finish(p, t, OverIP, now)
		}
	}
	switch {
	case f.Kind == envelope.KindTagUpdate:
		h.watch(p, s, now)
	case f.IsText():
		h.show(p, f, now)
	}
}

// show stores a text: the ledger is this handset's store.
func (h *lean) show(p *peer, f envelope.Frame, now time.Time) {
	n := NumberOf(f.Text)
	if f.Kind == envelope.KindTextAgain && h.f.ledger.HasShown(n) {
		return
	}
	h.f.ledger.Shown(n, h.who, p.who, now)
	if p.unsaid++; p.sayBy == 0 {
		p.sayBy = h.f.clock(now) + sayAfter
	}
	if p.unsaid >= sayFrames {
		h.say(p, now)
	}
}

// say acknowledges what was shown with a frame of its own. [S-10]
func (h *lean) say(p *peer, now time.Time) {
	p.unsaid, p.sayBy = 0, 0
	s := p.sending(now)
	if s == nil || !h.up() || !p.blue || s.Acked() == envelope.NoAck {
		return
	}
	if b, _, err := s.Seal(envelope.AckFrame(s.Acked()), now); err == nil {
		h.publish(inboxOf(s.PeerTag()), b, false, leanFlight{})
	}
}

// presence is the broker's word on a tag. [U-2]
func (h *lean) presence(tag wire.Tag, blue bool, now time.Time) {
	for _, p := range h.peers {
		if s := p.established(); s != nil && s.PeerTag() == tag {
			p.settleBy, p.blue = 0, blue
			h.pump(p, now)
			return
		}
	}
}

// greeting reports whether an answer to a hello may still come.
func (h *lean) greeting(p *peer) bool { return p.fetchBy != 0 || p.answerBy != 0 }

func (h *lean) mayGreet(p *peer, now time.Time) bool {
	return !p.tried || h.f.clock(now)-p.lastInit >= helloEvery
}

// greet says hello to those whom this person writes to first.
func (h *lean) greet() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, o := range h.f.plan.People[h.who].Contacts {
		if p := h.peerOf(o); h.up() && p.established() == nil && !h.greeting(p) {
			h.fetch(p, now)
		}
	}
	h.flush(now)
}

func bundleOf(id wire.ID) wire.Topic { return wire.Topic{Kind: wire.TopicBundle, ID: id} }

// fetch asks for a peer's key bundle. [P-9]
func (h *lean) fetch(p *peer, now time.Time) {
	p.tried, p.lastInit = true, h.f.clock(now)
	p.fetchBy = p.lastInit + helloTime
	h.f.hellos.Add(1)
	h.write1(appendSubscribe(nil, bundleOf(h.f.cfg.People[p.who].ID), h.nextPID()))
}

// unanswered: the peer is not to be reached, and the policy decides.
func (h *lean) unanswered(p *peer, now time.Time) {
	if h.greeting(p) {
		h.f.hellos.Add(-1)
	}
	p.fetchBy, p.answerBy, p.blue = 0, 0, false
	h.decideAll(p, now)
}

func (h *lean) bundle(id wire.ID, payload []byte, now time.Time) {
	who, ok := h.f.byID[id]
	if !ok {
		return
	}
	p := h.peerOf(who)
	if p.fetchBy == 0 {
		return
	}
	h.write1(appendUnsubscribe(nil, bundleOf(id), h.nextPID()))
	b, err := wire.ParseBundle(payload)
	if err != nil {
		h.unanswered(p, now) // nobody's, or not listed
		return
	}
	h.rid = h.newRID()
	s, init, err := envelope.Initiate(h.self(), h.tag, h.rid, b, envelope.AckFrame(envelope.NoAck), now)
	if err != nil {
		h.unanswered(p, now)
		return
	}
	p.sessions = slices.DeleteFunc(p.sessions, func(s *leanSession) bool { return !s.Established() || s.dead })
	p.sessions = append(p.sessions, &leanSession{Session: s, begun: h.f.clock(now)})
	p.fetchBy, p.answerBy = 0, h.f.clock(now)+helloTime
	h.publish(wire.Topic{Kind: wire.TopicHello, ID: id}, init, false, leanFlight{kind: flightHello, peer: p})
}

// newRID is a name for a session that no other of this handset has.
func (h *lean) newRID() uint16 {
	for rid := h.rid + 1; ; rid++ {
		if _, s := h.sessionOf(rid); s == nil && rid != 0 {
			return rid
		}
	}
}

// takeResp completes a session that this handset began.
func (h *lean) takeResp(rid uint16, payload []byte, now time.Time) {
	p, s := h.sessionOf(rid)
	if s == nil || s.Established() {
		return
	}
	if _, err := s.OpenResp(payload, now); err != nil {
		return
	}
	if h.greeting(p) {
		h.f.hellos.Add(-1)
	}
	p.fetchBy, p.answerBy = 0, 0
	h.f.opened.Add(1)
	h.sessionUp(p, s, now)
}

// simultaneous is how close two hellos are that met. [S-9]
const simultaneous = 5 * time.Minute

// sessionUp makes s the session to write in, unless the other side's was first by rule.
func (h *lean) sessionUp(p *peer, s *leanSession, now time.Time) {
	for _, o := range p.sessions {
		if o == s || !o.Established() || o.old {
			continue
		}
		tie := o.Initiator() != s.Initiator() && s.begun-o.begun < simultaneous && !o.dead
		if tie && envelope.Preferred(h.cred.Cert.ID, o.Session, s.Session) == o.Session {
			s.old = true
		} else {
			o.old = true
		}
		if o.PeerTag() != s.PeerTag() {
			o.SetPeerTag(s.PeerTag())
		}
	}
	h.watch(p, s, now)
	h.pump(p, now)
}

// hello answers an INIT of a friend. [S-3] [S-4]
func (h *lean) hello(msg []byte, now time.Time) {
	const encAt, encEnd = 3, 3 + 1120
	if !h.on || h.out || len(msg) < encEnd {
		return
	}
	enc := sha256.Sum256(msg[encAt:encEnd])
	for _, p := range h.peers {
		if p.resp != nil && p.enc == enc {
			h.publish(inboxOf(p.respTo), p.resp, false, leanFlight{})
			return
		}
	}
	pre, err := h.pre.open(h.cred.Cert)
	if err != nil {
		return
	}
	o, err := envelope.OpenInit(h.self(), pre, msg, now)
	if err != nil {
		return
	}
	if who, ok := h.f.byID[o.Cert.ID]; ok && h.f.byNum[o.Number.BCD()] == who {
		h.respond(h.peerOf(who), o, now)
	}
}

func (h *lean) respond(p *peer, o *envelope.Offer, now time.Time) {
	h.rid = h.newRID()
	s, resp, err := o.Respond(h.self(), h.tag, h.rid, envelope.AckFrame(envelope.NoAck), now)
	if err != nil {
		return
	}
	n := &leanSession{Session: s, begun: h.f.clock(now)}
	p.sessions = append(slices.DeleteFunc(p.sessions, func(s *leanSession) bool { return s.dead }), n)
	p.enc, p.resp, p.respTo = o.EncHash, resp, o.Tag
	if o.Frame.IsText() {
		h.show(p, o.Frame, now)
	}
	h.publish(inboxOf(o.Tag), resp, false, leanFlight{})
	h.sessionUp(p, n, now)
}

// giveUp returns what only this handset holds, and was to be written by since: its person does not
// want to send it any more.
func (h *lean) giveUp(since time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, p := range h.peers {
		for _, t := range slices.Clone(p.queue) {
			queued := t.job != nil && t.job.queued
			if t.at.After(since) {
				continue
			}
			if !t.inflight && !queued || h.out { // who has opted out is told of no job any more [C-revoke]
				h.dropJob(t)
				h.finish(p, t, Returned, now)
			}
		}
	}
}

// sweep does what is due for every lean handset.
func (f *fleet) sweep(now time.Time) {
	for _, h := range f.leans {
		h.tick(now)
	}
}

func (h *lean) tick(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.f.clock(now)
	if h.back != 0 && at >= h.back {
		h.dialLocked(now)
	}
	switch {
	case h.conn == nil:
	case h.agreeBy != 0 && at >= h.agreeBy && !h.on && !h.out:
		h.agree(now)
	case h.offerBy != 0 && at >= h.offerBy && h.up():
		h.offer(now)
	case h.mute(at):
		h.breakLocked(true)
		h.againLocked(now)
	case at-h.heard >= h.f.cfg.Profile.Keepalive.Std()*9/10:
		h.write1([]byte{mqttPing << 4, 0})
		h.pinged = at
	}
	for _, p := range h.peers {
		h.tickPeer(p, at, now)
	}
	h.flush(now)
}

// mute reports whether the node has owed an answer for too long, as on a path that is dead.
func (h *lean) mute(at time.Duration) bool {
	switch {
	case h.tag.IsZero():
		return at-h.heard >= welcomeTime
	case h.pinged != 0 && at-h.pinged >= pongTime:
		return true
	}
	return len(h.flights) > 0 && at-h.flights[0].at >= pubackTime
}

func (h *lean) tickPeer(p *peer, at time.Duration, now time.Time) {
	if p.fetchBy != 0 && at >= p.fetchBy || p.answerBy != 0 && at >= p.answerBy {
		h.unanswered(p, now)
	}
	if p.settleBy != 0 && at >= p.settleBy {
		p.settleBy = 0
		h.pump(p, now)
	}
	if p.sayBy != 0 && at >= p.sayBy {
		h.say(p, now)
	}
	if slices.ContainsFunc(p.queue, func(t *letter) bool { return t.retry != 0 && at >= t.retry }) {
		for _, t := range p.queue {
			t.retry = 0
		}
		h.pump(p, now)
	}
	if len(p.queue) > 0 && !h.up() {
		h.pump(p, now)
	}
}
