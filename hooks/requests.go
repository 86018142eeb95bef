package hooks

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"bluejay/custody"
	"bluejay/wire"
)

// request runs a request on c, e or q on a goroutine of its own, because its answer may need
// another process; the answer on r goes ahead of the PUBACK. [P-13] [C-5]
func (n *Node) request(s *session, kind wire.TopicKind, in incoming) {
	req, err := wire.ParseRequest(in.payload)
	if err != nil {
		n.answer(s, in.pid, wire.NotAllowed)
		return
	}
	if s.calls.Add(1) > maxCalls {
		s.calls.Add(-1)
		n.answer(s, in.pid, wire.OverQuota)
		return
	}
	n.call(func(ctx context.Context) {
		answered := false
		defer func() {
			s.calls.Add(-1)
			if !answered { // a panic: the connection could not tell what became of its request
				n.end(s, wire.Unavailable)
			}
		}()
		code, body := n.handle(ctx, s, kind, req.Body)
		answered = true
		n.mu.Lock()
		defer n.mu.Unlock()
		n.reply(s, wire.Answer{Request: req.ID, Code: code, Body: body}.Marshal())
		n.scratch = appendPuback(n.scratch[:0], s.v5, in.pid, wire.OK) // the answer has the code
		_, _ = s.net.Write(n.scratch)
	})
}

func (n *Node) handle(ctx context.Context, s *session, kind wire.TopicKind, body []byte) (wire.Code, []byte) {
	switch kind {
	case wire.TopicConsent:
		switch wire.ControlKind(body[0]) {
		case wire.CtlNextTag:
			return n.nextTag(s, body)
		case wire.CtlSuspend:
			return n.suspend(ctx, s, body), nil
		}
		return n.record(ctx, s, body)
	case wire.TopicEnrol:
		token := n.addressToken(s)
		return n.relay(ctx, wire.SubjectEnrol, append(token[:], body...))
	case wire.TopicQuery:
		return n.lookUp(ctx, s, body)
	}
	return wire.NotAllowed, nil
}

// asking counts an ID's look-ups under way; cancel ends them, and done closes when none is left.
type asking struct {
	n      int
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// lookUp relays a look-up for as long as its user consents: a revocation ends it, and waits until it has
// ended. [P-11] [C-revoke]
func (n *Node) lookUp(ctx context.Context, s *session, body []byte) (wire.Code, []byte) {
	a, code := n.ask(s)
	if code != wire.OK { // consent may have ended meanwhile
		return code, nil
	}
	defer n.askedFor(s.self.ID, a)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	return n.relay(ctx, wire.SubjectLookup, append(slices.Clone(s.self.ID[:]), body...))
}

// ask counts one look-up of a session's ID in, if it may.
func (n *Node) ask(s *session) (*asking, wire.Code) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if code := s.may(wire.Topic{Kind: wire.TopicQuery}); code != wire.OK {
		return nil, code
	}
	if n.byID[s.self.ID] != s { // it has ended, and a revocation since then would not have told it
		return nil, wire.TakenOver
	}
	a := n.asking[s.self.ID]
	if a == nil {
		a = &asking{done: make(chan struct{})}
		a.ctx, a.cancel = context.WithCancel(n.ctx)
		n.asking[s.self.ID] = a
	}
	a.n++
	return a, wire.OK
}

// askedFor counts it out.
func (n *Node) askedFor(id wire.ID, a *asking) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.n--; a.n > 0 {
		return
	}
	a.cancel()
	close(a.done)
	if n.asking[id] == a {
		delete(n.asking, id)
	}
}

func (n *Node) relay(ctx context.Context, subject string, request []byte) (wire.Code, []byte) {
	if n.cfg.Relay == nil {
		return wire.Unavailable, nil
	}
	code, body, err := n.cfg.Relay.Call(ctx, subject, request)
	if err != nil || len(body) > wire.MaxAnswerBody {
		n.cfg.Log.Warn("registrar did not answer", "subject", subject, "error", err)
		return wire.Unavailable, nil
	}
	return code, body
}

// addressToken names a client address towards the registrar for one day, so that enrolments can
// be limited by address without the registrar learning one. [P-14]
func (n *Node) addressToken(s *session) [16]byte {
	host := network(s.net.RemoteAddr())
	m := hmac.New(sha256.New, n.cfg.TagKey)
	m.Write(wire.LP("bj1 address", []byte(host), binary.BigEndian.AppendUint32(nil, day(time.Now()))))
	return [16]byte(m.Sum(nil)[:16])
}

// network is what one subscriber has of an address: an IPv4 address, or the /64 of an IPv6 one. It
// is "" for what is no IP address.
func network(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return ""
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return ""
	}
	return p.String()
}

// nextTag tells a device the tag of a generation to come, so that it can announce it. [P-12]
func (n *Node) nextTag(s *session, body []byte) (wire.Code, []byte) {
	gen, err := wire.ParseNextTagRequest(body)
	if err != nil || s.self.ID.IsZero() {
		return wire.NotAllowed, nil
	}
	if gen <= s.gen || gen > s.gen+16 {
		return wire.StaleRecord, nil
	}
	t := wire.MakeTag(n.cfg.TagKey, s.self.ID, gen)
	return wire.OK, t[:]
}

// Bounds of a sealed job, in bytes and time. [F-3] [F-4]
const (
	minJob  = 1 + 1 + 1 + 4 + 32 + 8 + 1 + 16
	maxJob  = 2400
	jobLife = 24 * time.Hour
)

// fallback takes a sealed SMS job, or the cancellation of one. [F-3] [F-10]
func (n *Node) fallback(s *session, topic wire.Topic, in incoming) {
	if id, err := wire.ParseByMessageID(wire.TypeCancel, in.payload); err == nil {
		n.cancelJob(s, id, in.pid)
		return
	}
	if code := checkJob(in.payload, time.Now()); code != wire.OK {
		n.answer(s, in.pid, code)
		return
	}
	n.takeCustody(s, topic, in)
}

// checkJob reads what is not sealed of a job: kind, class, expiry. [F-4] [F-5]
func checkJob(b []byte, now time.Time) wire.Code {
	switch {
	case len(b) > maxJob:
		return wire.TooLarge
	case len(b) < minJob || b[0] != wire.TypeJob:
		return wire.BadRecord
	case wire.JobClass(b[2]) != wire.ClassNormal: // urgent is the registrar's
		return wire.NotAllowed
	}
	expires := wire.Time32(binary.BigEndian.Uint32(b[3:]))
	if expires.Before(now) || expires.After(now.Add(jobLife+wire.ClockSkew)) {
		return wire.OutOfTime
	}
	return wire.OK
}

// enqueue stores a job and then resolves its attempt. The sender is remembered under today's
// pseudonym, so that the outcome finds it. Callers hold n.mu. [C-4] [F-9]
func (n *Node) enqueue(e custody.Effect) {
	p := n.pseudonym(e.Sender, day(time.Now()))
	if s := n.byID[e.Sender]; s != nil {
		n.listen(s, p)
	}
	h := n.storing[e.Sender]
	if h == nil {
		h = &storing{done: make(chan struct{})}
		n.storing[e.Sender] = h
	}
	h.n++
	n.call(func(ctx context.Context) {
		defer n.stored(e.Sender)
		n.resolve(e.Ref, n.store(ctx, p, e))
	})
}

// stored counts one job of an ID out: the queue has it or does not.
func (n *Node) stored(id wire.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.storing[id]
	if h.n--; h.n == 0 {
		delete(n.storing, id)
		close(h.done)
	}
}

func (n *Node) store(ctx context.Context, p wire.Pseudonym, e custody.Effect) wire.Code {
	if n.cfg.Jobs == nil {
		return wire.Unavailable
	}
	var sealed []byte
	if n.cfg.SealSender != nil {
		var err error
		if sealed, err = n.cfg.SealSender(e.Sender, e.Message); err != nil {
			return wire.Unavailable
		}
	}
	party, err := n.party(e.Sender)
	if err != nil {
		return wire.Unavailable
	}
	if err := n.cfg.Jobs.Enqueue(ctx, wire.ClassNormal, p, e.Message, e.Payload, sealed, party); err != nil {
		return codeOf(err)
	}
	return wire.OK
}

// party is the token under which integrators hear of a job, nil unless its sender agrees to that now.
func (n *Node) party(id wire.ID) ([]byte, error) {
	n.mu.Lock()
	s := n.byID[id]
	agreed := s != nil && s.allowed().Scopes.Has(wire.ScopeIntegrations)
	n.mu.Unlock()
	if !agreed || n.cfg.SealParty == nil {
		return nil, nil
	}
	return n.cfg.SealParty(id)
}

// cancelJob takes a job back if nothing was written to an SMSC for it. [F-10]
func (n *Node) cancelJob(s *session, id wire.MessageID, pid uint16) {
	n.mu.Lock()
	allowed := n.quotas.Cancel(time.Now(), s.self.ID)
	n.mu.Unlock()
	if !allowed {
		n.answer(s, pid, wire.OverQuota)
		return
	}
	n.call(func(ctx context.Context) {
		code := wire.Unavailable
		if n.cfg.Jobs != nil {
			switch cancelled, err := n.cfg.Jobs.Cancel(ctx, id); {
			case err != nil:
			case cancelled:
				code = wire.OK
			default:
				code = wire.AlreadyHandled
			}
		}
		n.answer(s, pid, code)
	})
}

// listen makes outcomes under a pseudonym go to s. Callers hold n.mu.
func (n *Node) listen(s *session, p wire.Pseudonym) {
	if n.senders[p] != s {
		n.senders[p] = s
		s.pseudonyms = append(s.pseudonyms, p)
	}
}

// outcomeDays is how many UTC days of outcomes a device can still be owed: kept 48 h. [F-7]
const outcomeDays = 3

// pendingOutcomes sends a device what happened to its jobs while it was away.
func (n *Node) pendingOutcomes(ctx context.Context, s *session) {
	today := day(time.Now())
	for i := range uint32(outcomeDays) {
		p := n.pseudonym(s.self.ID, today-i)
		n.mu.Lock()
		if n.byConn[s.conn] != s {
			n.mu.Unlock()
			return
		}
		n.listen(s, p)
		n.mu.Unlock()
		if n.cfg.Outcomes == nil {
			return
		}
		left, err := n.cfg.Outcomes.Pending(ctx, p)
		if err != nil {
			n.cfg.Log.Warn("outcomes of SMS jobs not read: they come at the next connect", "error", err)
			return
		}
		for _, o := range left {
			n.Outcome(p, o)
		}
	}
}

// pushOutcome delivers an outcome at QoS 1; it stays stored until the handset acknowledges it.
// Callers hold n.mu.
func (n *Node) pushOutcome(s *session, p wire.Pseudonym, o wire.Outcome) {
	if !s.attached {
		return
	}
	for _, under := range s.outcomes {
		if under == (storedOutcome{p, o}) { // taken over from the session before
			return
		}
	}
	n.lastRef++
	ref := n.lastRef
	dst, ok := n.custody.Push(n.effects[:0], s.conn, custody.Push{
		Topic: wire.Topic{Kind: wire.TopicReply}, Payload: o.Marshal(), Ref: ref,
	})
	if ok && s.outcomes == nil {
		s.outcomes = map[uint64]storedOutcome{}
	}
	if ok {
		s.outcomes[ref] = storedOutcome{p, o}
	}
	n.perform(dst)
}

// pushed runs when a handset has acknowledged a push. Callers hold n.mu.
func (n *Node) pushed(c custody.Conn, ref uint64) {
	s := n.byConn[c]
	if s == nil {
		return
	}
	o, ok := s.outcomes[ref]
	if !ok || n.cfg.Outcomes == nil {
		return
	}
	delete(s.outcomes, ref)
	n.call(func(ctx context.Context) {
		if err := n.cfg.Outcomes.Done(ctx, o.sender, o.outcome); err != nil {
			n.cfg.Log.Warn("acknowledged outcome not removed: it will be sent again", "error", err)
		}
	})
}
