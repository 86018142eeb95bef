package handset

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"bluejay/consent"
	"bluejay/envelope"
	"bluejay/wire"
)

// Errors of what needs the broker. A [wire.Code] says why the broker refused.
var (
	ErrOffline     = errors.New("handset: not connected")
	ErrNotEnrolled = errors.New("handset: enrol this device first")
	ErrReceipt     = errors.New("handset: the broker's receipt does not verify; nothing was switched on")
	ErrRolledBack  = errors.New("handset: this state is older than what the broker has seen of it; " +
		"put it aside, open an empty directory and enrol again")
	ErrReproof  = errors.New("handset: another SIM: prove the number anew before agreeing again")
	ErrReplaced = errors.New("handset: a later choice took the place of this one")
)

const (
	consentLife = 180 * 24 * time.Hour // then the number is proved again by a one-time password
	prekeyEarly = 12 * time.Hour       // how long before its end a prekey is replaced
	maxLookups  = 8                    // look-ups for hellos under way at once
	cycleDelay  = 3 * time.Second      // how long tag updates have before the old tag is left
)

// reply is what the broker says on r; notices are the connection's business.
func (m *model) reply(b []byte) {
	if len(b) == 0 {
		return
	}
	switch wire.ControlKind(b[0]) {
	case wire.CtlWelcome:
		if w, err := wire.ParseWelcome(b); err == nil && !m.link.up { // once a connection
			m.welcome(w)
		}
	case wire.CtlAnswer:
		if a, err := wire.ParseAnswer(b); err == nil {
			m.answer(a)
		}
	case wire.CtlReason:
		if r, err := wire.ParseByReason(wire.CtlReason, b); err == nil && m.link.up {
			m.silent(r)
		}
	case wire.CtlOutcome:
		if o, err := wire.ParseOutcome(b); err == nil {
			m.outcome(o)
		}
	}
}

// welcome: from here on the connection is ours. A generation that this state does not know of
// means that a newer state of this device was used: nothing is sent any more. [U-7]
func (m *model) welcome(w wire.Welcome) {
	if w.Gen > m.self.Gen && m.self.Synced {
		m.link.prune = true
		m.event(Event{Kind: RolledBack})
		m.do(hangUp{ErrRolledBack})
		return
	}
	m.link.up, m.link.tag, m.link.greys = true, w.Tag, false
	m.self.Gen, m.self.Synced = w.Gen, true
	m.saveSelf()
	if !m.self.Rotate {
		m.rotateDone(nil)
	}
	m.event(Event{Kind: Connected})
	m.compareConsent(w.Seq)
	if m.self.TellSIM {
		m.tellSIM(0)
	}
	m.becomeReady()
}

// silent: the broker says why nothing goes to or from this device. It stays enrolled and connected, and its user can
// agree again.
func (m *model) silent(why wire.Reason) {
	known := m.self.Reason == why && !m.self.On
	m.self.On, m.self.Reason = false, why
	m.saveSelf()
	for _, c := range sorted(m.contacts) {
		m.setBlue(c, false)
		m.pump(c, false)
	}
	if !known {
		m.event(Event{Kind: Silenced, Reason: why})
	}
}

// simChanged takes effect here at once, whether the broker can be reached or not.
func (m *model) simChanged() {
	if !m.enrolled() {
		return
	}
	m.self.TellSIM = true
	m.silent(wire.SIMChanged)
}

func (m *model) tellSIM(waiter uint64) {
	if !m.enrolled() {
		m.finish(waiter, ErrNotEnrolled)
		return
	}
	m.newRequest(wire.TopicConsent, wire.ByReason(wire.CtlSuspend, wire.SIMChanged), request{kind: requestSuspend, waiter: waiter})
}

// compareConsent learns that consent was ended elsewhere, or sends the record that was not
// acknowledged before the connection ended.
func (m *model) compareConsent(stored uint32) {
	switch {
	case stored > m.self.Seq:
		m.self.Seq = stored
		m.consentEnded()
	case len(m.self.Record) > 0 && (stored < m.self.Seq || !m.self.Proved):
		m.sendRecord()
	}
}

// consentEnded: switched off by STOP, another phone or the operator. Sessions begin anew, should
// the reason be that this state is an old one. [U-10] The connection that ended may have said why
// first, and this device is off already: its user is told all the same, once.
func (m *model) consentEnded() {
	was := m.self.On || m.self.Reason != 0 && m.agreedBefore()
	m.self.On, m.self.Record, m.self.Proved = false, nil, false
	m.saveSelf()
	for _, c := range sorted(m.contacts) {
		m.setBlue(c, false)
	}
	if was {
		m.beginAnew()
		m.event(Event{Kind: ConsentEnded})
	}
}

// agreedBefore reports whether the user's last word, as the broker has acknowledged it, was to agree.
func (m *model) agreedBefore() bool {
	r, err := wire.ParseConsent(m.self.Record)
	return err == nil && m.self.Proved && r.Scopes != 0
}

// becomeReady starts everything that waits for a connection with consent.
func (m *model) becomeReady() {
	if !m.ready() {
		for _, c := range sorted(m.contacts) {
			m.pump(c, false)
		}
		return
	}
	m.offerPrekey()
	if m.self.Gateway {
		m.do(subscribe{wire.Topic{Kind: wire.TopicKey}})
	}
	for _, c := range sorted(m.contacts) {
		m.resume(c)
	}
	m.wantTag()
}

// resume watches a contact again and sends what waits for it.
func (m *model) resume(c *contact) {
	if c.Blocked || c.ownSMSOnly() {
		m.pump(c, false)
		return
	}
	if s := m.watched(c); s != nil {
		c.settleBy, c.confirmed = m.now.Add(settleTime), false
		m.do(subscribe{presenceOf(s.PeerTag())})
	}
	if c.peer().IsZero() {
		m.lookUp(c)
	}
	if c.Hello != nil && (!c.Hello.Taken || !c.KnownGrey) {
		m.hello(c, false)
	}
	m.pump(c, false)
}

// watched is the session whose tag shows the contact's presence.
func (m *model) watched(c *contact) *session {
	for _, s := range slices.Backward(c.sessions) {
		if s.Established() {
			return s
		}
	}
	return nil
}

// linkDown: nothing is in flight any more; what was is decided again after the next welcome.
func (m *model) linkDown() {
	if m.link.up {
		m.event(Event{Kind: Disconnected})
		m.link.up, m.link.down = false, m.now
	}
	m.cycleAt, m.flying, m.announcing = zeroTime, 0, 0
	m.silenced()
	for _, r := range m.requests {
		m.requestFailed(r, ErrOffline)
	}
	for _, c := range sorted(m.contacts) {
		c.fetchBy, c.answerBy, c.settleBy, c.lookup = zeroTime, zeroTime, zeroTime, false
		for _, t := range slices.Clone(c.queue) {
			t.inflight, t.cancelling = false, false
			if t.Cancelled && !t.Queued {
				m.dropJob(t)
				m.setState(t, Failed)
			}
		}
	}
}

// stopped: nobody is trying to connect any more, so nobody shall wait.
func (m *model) stopped() {
	m.consentDone(ErrOffline)
	m.rotateDone(ErrOffline)
}

// newRequest publishes a request and waits for its answer on r.
func (m *model) newRequest(topic wire.TopicKind, body []byte, r request) {
	if !m.link.up {
		m.requestFailed(&r, ErrOffline)
		return
	}
	m.nextReq++
	r.id, r.by = m.nextReq, m.now.Add(requestTimeout)
	m.requests[r.id] = &r
	b := wire.Request{ID: r.id, Body: body}.Marshal()
	m.send(wire.Topic{Kind: topic}, b, flight{kind: flightRequest, request: r.id})
}

// answer goes ahead of the PUBACK. [P-13]
func (m *model) answer(a wire.Answer) {
	r := m.requests[a.Request]
	if r == nil {
		return
	}
	delete(m.requests, a.Request)
	if r.kind == requestConsent {
		m.consentAnswered(r, a)
		return
	}
	if a.Code != wire.OK {
		m.requestFailed(r, a.Code)
		return
	}
	switch r.kind {
	case requestLookup:
		m.lookedUp(r, a.Body)
	case requestTag:
		m.nextTag(r, a.Body)
	case requestSuspend:
		m.self.TellSIM = false
		m.saveSelf()
		m.finish(r.waiter, nil)
	}
}

// requestDone is the PUBACK of a request. Without an answer before it, it was refused.
func (m *model) requestDone(f flight, code wire.Code) {
	if m.silence == f.request {
		m.silenced()
	}
	r := m.requests[f.request]
	if r == nil {
		return
	}
	if code == wire.OK {
		code = wire.Unavailable
	}
	m.requestFailed(r, code)
}

// silenced: the broker has stored the revocation, and nothing comes or goes any more.
func (m *model) silenced() {
	if m.silence != 0 {
		m.silence = 0
		m.consentDone(nil)
		m.do(hangUp{})
	}
}

func (m *model) requestFailed(r *request, err error) {
	delete(m.requests, r.id)
	switch r.kind {
	case requestLookup:
		if c := m.contacts[r.contact]; c != nil && r.offer == nil {
			c.lookup = false
			m.unanswered(c)
		}
	case requestTag:
		m.rotateDone(err)
	case requestConsent:
		if !errors.Is(err, ErrOffline) { // else it is sent again after the next welcome
			m.consentDone(err)
		}
	}
	m.finish(r.waiter, err)
}

func (m *model) finish(waiter uint64, err error) {
	if waiter != 0 {
		m.do(finish{waiter, err})
	}
}

// chooseConsent signs a new record and sends it; it is sent again until its receipt is stored.
func (m *model) chooseConsent(scopes wire.Scope, v wire.Visibility, waiter uint64) {
	if !m.enrolled() {
		m.finish(waiter, ErrNotEnrolled)
		return
	}
	if err := m.mayAgree(scopes); err != nil {
		m.finish(waiter, err)
		return
	}
	m.consentDone(ErrReplaced)
	m.consentWaiter = waiter
	m.signRecord(scopes, v)
	if scopes == 0 { // from here on nothing is sent, so nobody can be reached [U-10]
		m.self.On = false
		for _, c := range sorted(m.contacts) {
			m.setBlue(c, false)
		}
	}
	m.sendRecord()
}

// mayAgree reports what the user has to do before anything can be agreed to. Switching off needs nothing.
func (m *model) mayAgree(scopes wire.Scope) error {
	shown := func(h [16]byte) bool { return string(h[:]) == string(m.self.NoticeHash) }
	switch {
	case scopes == 0:
		return nil
	case m.self.Reason == wire.SIMChanged:
		return ErrReproof
	case len(m.cfg.notices) > 0 && !slices.ContainsFunc(m.cfg.notices, shown):
		return ErrNotice
	}
	return nil
}

func (m *model) signRecord(scopes wire.Scope, v wire.Visibility) {
	m.self.Seq++
	c := wire.Consent{
		ID: m.me(), Scopes: scopes, Visibility: v, Seq: m.self.Seq, IssuedAt: wire.Unix32(m.now),
		ExpiresAt: wire.Unix32(m.now.Add(consentLife)),
	}
	copy(c.Notice[:], m.self.NoticeHash)
	c.Sign(m.ident.Device)
	m.self.Record, m.self.Proved = c.Marshal(), false
	m.saveSelf()
}

func (m *model) sendRecord() {
	if m.link.up {
		m.newRequest(wire.TopicConsent, m.self.Record, request{kind: requestConsent, record: m.self.Record})
	}
}

func (m *model) consentDone(err error) {
	m.finish(m.consentWaiter, err)
	m.consentWaiter = 0
}

// consentAnswered stores the proof: certificate, record and receipt, kept for ever. [U-10]
func (m *model) consentAnswered(r *request, a wire.Answer) {
	rec, err := wire.ParseConsent(r.record)
	switch {
	case err != nil || rec.Seq != m.self.Seq:
		return // a later record is under way
	case a.Code == wire.StaleRecord && !r.again && len(a.Body) == 4 && binary.BigEndian.Uint32(a.Body) >= rec.Seq:
		m.self.Seq = binary.BigEndian.Uint32(a.Body)
		m.signRecord(rec.Scopes, rec.Visibility)
		m.sendRecord()
		for _, r := range m.requests {
			r.again = r.again || r.kind == requestConsent
		}
		return
	case a.Code == wire.WrongNotice: // it would be refused at each connection
		m.self.Record = nil
		m.silent(wire.NewNotice)
		m.consentDone(a.Code)
		return
	case a.Code != wire.OK:
		m.consentDone(a.Code)
		return
	case !m.receipted(r.record, a.Body):
		m.consentDone(ErrReceipt)
		return
	}
	m.saveRaw(proofKey(rec.Seq), slices.Concat(m.self.Cert, r.record, a.Body[:wire.ReceiptLen]))
	if entry := a.Body[wire.ReceiptLen:]; len(entry) > 0 { // where it is in the log [L-2]
		m.saveRaw(entryKey(rec.Seq), entry)
	}
	m.self.Proved, m.self.On, m.self.Reason = true, rec.Scopes.Has(wire.ScopeMessaging), m.stillHeld()
	m.self.Gateway, m.self.Listed = rec.Scopes.Has(wire.ScopeGateway), rec.Visibility == wire.Listed
	m.saveSelf()
	if rec.Scopes == 0 { // silence is promised by the PUBACK, which is next [C-revoke]
		m.silence = r.id
		return
	}
	m.consentDone(nil)
	m.becomeReady()
}

// stillHeld is what the user's new word does not lift.
func (m *model) stillHeld() wire.Reason {
	if m.self.Reason == wire.SIMChanged {
		return m.self.Reason
	}
	return 0
}

// receipted checks a receipt against every pinned key.
func (m *model) receipted(record, body []byte) bool {
	if len(body) != wire.ReceiptLen && len(body) != wire.ReceiptLen+consent.EntryLen {
		return false
	}
	r, err := wire.ParseReceipt(body[:wire.ReceiptLen])
	if err != nil {
		return false
	}
	return slices.ContainsFunc(m.cfg.pins.Receipt, func(k wire.PublicKey) bool { return r.Verify(k, record) == nil })
}

// offerPrekey publishes the bundle of a prekey that is young enough, if the user is listed.
func (m *model) offerPrekey() {
	if !m.self.Listed || !m.ready() {
		return
	}
	b := m.youngBundle()
	if b == nil {
		p, err := envelope.NewPrekey(m.ident, m.self.Prekeys+1, m.now.Add(envelope.PrekeyLife))
		if err != nil {
			return
		}
		m.self.Prekeys++
		k := keepPrekey(p)
		m.prekeys[k.id], b = k, p.Bundle()
		m.saveRaw(prekeyKey(k.id), k.raw)
		m.saveSelf()
	}
	m.do(publish{topic: wire.Topic{Kind: wire.TopicBundle, ID: m.me()}, payload: b.Marshal(), retained: true})
}

// youngBundle is the bundle of the newest prekey; nil: it is not this device's, or old.
func (m *model) youngBundle() *wire.Bundle {
	p := m.prekeys[m.self.Prekeys]
	if p == nil || m.now.After(p.offeredUntil().Add(-prekeyEarly)) {
		return nil
	}
	if b := p.open().Bundle(); b.Cert == m.ident.Cert {
		return b
	}
	return nil
}

// erasePrekey forgets a prekey and the hellos that it opened: from now on their first texts are
// forward secret. [S-3]
func (m *model) erasePrekey(id uint16) {
	delete(m.prekeys, id)
	m.erase(prekeyKey(id))
	for k, r := range m.hellos {
		if r.Prekey == id {
			delete(m.hellos, k)
			m.erase(k)
		}
	}
}

func (m *model) workerKey(payload []byte) {
	k, err := wire.ParseWorkerKey(payload)
	if err != nil || k.Verify(m.cfg.pins.Root, m.now) != nil {
		return
	}
	m.worker = &k
	for _, c := range sorted(m.contacts) {
		m.pump(c, false)
	}
}

// lookUp asks for the ID of a contact's number: once, then it is cached for ever. [P-11]
func (m *model) lookUp(c *contact) { m.lookUpFor(c, 0) }

func (m *model) lookUpFor(c *contact, waiter uint64) {
	n := c.number()
	if id, ok := m.ids[n]; ok || n.IsZero() || c.lookup || !m.ready() {
		if ok {
			c.Peer = id[:]
			m.saveContact(c)
		}
		m.finish(waiter, nil)
		return
	}
	c.lookup = true
	m.query(n, wire.LookupByUser, request{kind: requestLookup, waiter: waiter, contact: c.ID, number: n})
}

// lookUpHello checks that a hello's number belongs to its certificate.
func (m *model) lookUpHello(o *envelope.Offer, prekey uint16) {
	under := 0
	for _, r := range m.requests {
		if r.offer != nil {
			under++
		}
	}
	if under < maxLookups {
		m.query(o.Number, wire.LookupByHello, request{kind: requestLookup, number: o.Number, offer: o, prekey: prekey})
	}
}

func (m *model) query(n wire.Number, kind wire.LookupKind, r request) {
	p, batch, err := m.blinder.Blind([]wire.Number{n})
	if err != nil {
		m.requestFailed(&r, wire.Unavailable)
		return
	}
	r.pending = p
	m.newRequest(wire.TopicQuery, append([]byte{byte(kind)}, batch...), r)
}

func (m *model) lookedUp(r *request, body []byte) {
	ids, err := r.pending.Finalize(body)
	if err != nil || len(ids) != 1 {
		m.requestFailed(r, wire.Unavailable)
		return
	}
	id := ids[0]
	m.ids[r.number] = id
	m.saveRaw(idKey(r.number), id[:])
	if r.offer != nil {
		m.accept(r.offer, r.prekey, id)
		return
	}
	if c := m.contacts[r.contact]; c != nil {
		c.lookup, c.Peer = false, id[:]
		m.saveContact(c)
		m.pump(c, false)
	}
	m.finish(r.waiter, nil)
}

// rotate asks for a new tag: who is not told it is cut off. [P-12]
func (m *model) rotate(waiter uint64) {
	if waiter != 0 {
		m.rotateWaiters = append(m.rotateWaiters, waiter)
	}
	m.self.Rotate = true
	m.saveSelf()
	m.wantTag()
}

func (m *model) wantTag() {
	asked := slices.ContainsFunc(sorted(m.requests), func(r *request) bool { return r.kind == requestTag })
	if !m.self.Rotate || !m.ready() || asked || !m.cycleAt.IsZero() {
		return
	}
	gen := m.self.Gen + 1
	m.newRequest(wire.TopicConsent, wire.NextTagRequest(gen), request{kind: requestTag, gen: gen})
}

// nextTag tells every contact that is kept, then moves.
func (m *model) nextTag(r *request, body []byte) {
	if len(body) != len(wire.Tag{}) {
		m.requestFailed(r, wire.Unavailable)
		return
	}
	m.self.Gen, m.self.Rotate = r.gen, false
	m.saveSelf()
	m.cycleAt = m.now
	for _, c := range sorted(m.contacts) {
		if s := m.sending(c); s != nil && !c.Blocked && m.announce(c, s, wire.Tag(body)) {
			m.announcing++
			m.cycleAt = m.now.Add(cycleDelay)
		}
	}
}

func (m *model) announce(c *contact, s *session, tag wire.Tag) bool {
	f := envelope.TagFrame(tag)
	f.Acked = s.Acked()
	b, _, err := s.Seal(f, m.now)
	if err != nil {
		return false
	}
	m.saveSession(s)
	m.send(inboxOf(s), b, flight{kind: flightFrame, contact: c.ID})
	return true
}

// frameDone: once every contact has the new tag, the old one is left at once.
func (m *model) frameDone() {
	if m.announcing == 0 {
		return
	}
	if m.announcing--; m.announcing == 0 && !m.cycleAt.IsZero() {
		m.cycleAt = m.now
	}
}

func (m *model) rotateDone(err error) {
	for _, w := range m.rotateWaiters {
		m.finish(w, err)
	}
	m.rotateWaiters = nil
}

// block cuts a contact off: silence from now on, and a new tag that it is not told. [U-4]
func (m *model) block(id ContactID, blocked bool) error {
	c := m.contacts[id]
	if c == nil {
		return ErrNoContact
	}
	if c.Blocked == blocked {
		return nil
	}
	c.Blocked = blocked
	m.saveContact(c)
	if !blocked {
		m.resume(c)
		return nil
	}
	m.setBlue(c, false)
	if s := m.watched(c); s != nil {
		m.do(unsubscribe{presenceOf(s.PeerTag())})
		m.rotate(0)
	}
	return nil
}
