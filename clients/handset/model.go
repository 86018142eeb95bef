package handset

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"bluejay/blind"
	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// model decides everything the user sees and everything that is sent. It is pure but for the
// randomness of keys: events in (methods, with the time in now), effects and one transaction out
// (take). It holds no connection, no file and no clock, and is not for concurrent use.
//
// The rule that keeps texts and keys safe: the transaction is durable before any of the effects
// that came with it is carried out. [U-6]
type model struct {
	cfg   modelConfig
	now   time.Time // of the event being handled
	self  selfRecord
	ident envelope.Identity // valid when enrolled

	prekeys  map[uint16]*prekey
	contacts map[ContactID]*contact
	numbers  map[wire.Number]*contact
	texts    map[TextID]*text
	sessions map[uint16]*session
	hellos   map[string]helloRecord   // by store key
	seen     map[string]seenRecord    // by store key
	jobs     map[wire.MessageID]*text // whose outcome is still to come
	ids      map[wire.Number]wire.ID  // looked up, for ever

	link     linkState
	requests map[uint16]*request
	nextReq  uint16
	held     map[wire.ID]heldOffer // hellos of a changed device, until accepted [U-5]
	worker   *wire.WorkerKey
	blinder  *blind.Client
	cycleAt  time.Time // when to reconnect with the new tag; zero: not
	flying   int       // texts and jobs without a PUBACK; at most window
	silence  uint16    // the request whose PUBACK promises silence

	announcing    int // tag updates without a PUBACK
	consentWaiter uint64
	rotateWaiters []uint64

	maintain time.Time // when to look for what has expired

	dirty   map[string]func() []byte // what take writes; nil result: delete
	effects []effect
}

// modelConfig is the part of Config that decisions depend on.
type modelConfig struct {
	pins         Pins
	policy       Policy
	sim          bool
	gateways     []wire.Number
	helloTimeout time.Duration
	greyAfter    time.Duration
	notices      [][16]byte // that this application shows; nil: any
}

// linkState is the connection as the model sees it.
type linkState struct {
	up    bool     // welcomed: tag and seq are known
	tag   wire.Tag // our inbox on this connection
	down  time.Time
	greys bool // everything was turned grey since down
	prune bool // rolled back: nothing may be sent
}

// contact is a contact with what is forgotten when the process ends.
type contact struct {
	contactRecord
	queue     []*text    // out and waiting, in the order written
	sessions  []*session // newest last
	blue      bool
	confirmed bool      // the broker has said so since we connected
	settleBy  time.Time // until when a missing presence byte means nothing
	fetchBy   time.Time // a bundle is awaited
	answerBy  time.Time // a RESP is awaited
	fetched   time.Time // when a bundle was last asked for
	ackDue    time.Time // when to acknowledge what was shown, if nothing is said before
	acked     time.Time // when we last did so
	lookup    bool      // a look-up is under way
}

func (c *contact) number() wire.Number { return numberOf(c.Number) }
func (c *contact) ownSMSOnly() bool    { return c.Dialled != "" }

func (c *contact) colour() Colour {
	if c.blue {
		return Blue
	}
	return Grey
}

// text is a text with what is forgotten when the process ends.
type text struct {
	textRecord
	inflight   bool // published on this connection, and no PUBACK yet
	cancelling bool // a cancellation of its job is under way
	retry      time.Time
	tries      int
}

// session is an envelope session with its record.
type session struct {
	*envelope.Session
	sessionRecord
}

// prekey is a prekey as the store has it, sharing the store's bytes: computed it takes 9.5 KiB more, and
// it is wanted for a hello and at a connect only.
type prekey struct {
	id    uint16
	until time.Time // when it is to be erased
	raw   []byte    // secret, as envelope.Prekey marshals it
}

// String keeps the secret out of logs. [S-12]
func (prekey) String() string { return "[sealed]" }

// GoString does the same under %#v.
func (prekey) GoString() string { return "[sealed]" }

func keepPrekey(p *envelope.Prekey) *prekey { return &prekey{p.ID(), p.EraseAfter(), p.Marshal()} }

// offeredUntil is when others stop using it.
func (p *prekey) offeredUntil() time.Time { return p.until.Add(-envelope.PrekeyGrace) }

// open computes the whole prekey; what was read once can be read again.
func (p *prekey) open() *envelope.Prekey {
	full, _ := envelope.ParsePrekey(p.raw)
	return full
}

// An effect is something to be done once the transaction is durable.
type effect any

type (
	publish struct {
		topic    wire.Topic
		payload  []byte
		retained bool
		flight   flight
	}
	subscribe   struct{ topic wire.Topic }
	unsubscribe struct{ topic wire.Topic }
	acknowledge struct{ delivery uint64 }
	sendSMS     struct {
		text TextID
		to   Dialled
		body string
	}
	tell   struct{ event Event }
	finish struct { // an API call that waits
		waiter uint64
		err    error
	}
	reconnect struct{}
	hangUp    struct{ err error }
)

// flight says what a publish was for, when its PUBACK comes.
type flight struct {
	kind    flightKind
	text    TextID
	contact ContactID
	rid     uint16
	request uint16
}

type flightKind byte

const (
	flightNone   flightKind = iota // nothing depends on it
	flightText                     // MSG with a text
	flightHello                    // INIT
	flightJob                      // sealed SMS job
	flightCancel                   // cancellation of a job
	flightFrame                    // MSG with the new tag
	flightRequest
)

// request is an open request on c or q.
type request struct {
	id      uint16
	kind    requestKind
	by      time.Time
	waiter  uint64
	contact ContactID       // look-up by the user
	number  wire.Number     // look-up
	pending *blind.Pending  // look-up
	offer   *envelope.Offer // look-up by a hello
	prekey  uint16          // of the hello
	gen     uint32          // next tag
	record  []byte          // consent
	again   bool            // consent: signed again above the stored seq
}

type requestKind byte

const (
	requestLookup requestKind = iota
	requestConsent
	requestTag
	requestSuspend
)

// window is how many texts and jobs may be without a PUBACK; the broker refuses more than 32.
const window = 16

// requestTimeout is how long an answer on r may take.
const requestTimeout = 15 * time.Second

// newModel reads the state.
func newModel(cfg modelConfig, state map[string][]byte, now time.Time) (*model, error) {
	blinder, err := blind.NewClient(cfg.pins.VOPRF)
	if err != nil {
		return nil, ErrPins
	}
	m := &model{
		cfg: cfg, now: now, blinder: blinder,
		prekeys: map[uint16]*prekey{}, contacts: map[ContactID]*contact{}, numbers: map[wire.Number]*contact{},
		texts: map[TextID]*text{}, sessions: map[uint16]*session{}, hellos: map[string]helloRecord{},
		seen: map[string]seenRecord{}, jobs: map[wire.MessageID]*text{}, ids: map[wire.Number]wire.ID{},
		requests: map[uint16]*request{}, held: map[wire.ID]heldOffer{}, dirty: map[string]func() []byte{},
	}
	m.link.down = now
	return m, m.load(state)
}

// take returns what the last events want written and done.
func (m *model) take() (tx, []effect) {
	var t tx
	for _, k := range slices.Sorted(maps.Keys(m.dirty)) {
		if v := m.dirty[k](); v != nil {
			t.put(k, v)
		} else {
			t.del(k)
		}
	}
	clear(m.dirty)
	effects := m.effects
	m.effects = nil
	return t, effects
}

func (m *model) do(e effect) { m.effects = append(m.effects, e) }

// send publishes if there is a connection; what is sent without one is decided again at the next.
func (m *model) send(t wire.Topic, payload []byte, f flight) {
	if m.link.up {
		m.do(publish{topic: t, payload: payload, flight: f})
	}
}

func (m *model) event(e Event) {
	e.At = m.now
	m.do(tell{e})
}

func encode(v any) func() []byte {
	return func() []byte {
		b, _ := json.Marshal(v) // our own types: no channel, no cycle
		return b
	}
}

func (m *model) saveSelf()              { m.dirty[keySelf] = encode(&m.self) }
func (m *model) saveContact(c *contact) { m.dirty[contactKey(c.ID)] = encode(&c.contactRecord) }
func (m *model) saveText(t *text)       { m.dirty[textKey(t.ID)] = encode(&t.textRecord) }
func (m *model) erase(key string)       { m.dirty[key] = func() []byte { return nil } }
func (m *model) saveRaw(key string, b []byte) {
	m.dirty[key] = func() []byte { return b }
}

func (m *model) saveSession(s *session) {
	m.dirty[sessionKey(s.RID())] = func() []byte {
		s.State = s.Marshal()
		return encode(&s.sessionRecord)()
	}
}

func (m *model) saveHello(key string, r helloRecord) {
	m.hellos[key] = r
	m.dirty[key] = encode(r)
}

// sawText remembers that the text sealed first at ref has been shown.
func (m *model) sawText(ref envelope.AgainRef) {
	r := seenRecord{m.now}
	m.seen[seenKey(ref)] = r
	m.dirty[seenKey(ref)] = encode(r)
}

func (m *model) wasSeen(ref envelope.AgainRef) bool {
	_, ok := m.seen[seenKey(ref)]
	return ok
}

// enrolled reports whether there is a certificate.
func (m *model) enrolled() bool { return len(m.self.Cert) > 0 }

// ready reports whether texts can be sent over IP now.
func (m *model) ready() bool { return m.link.up && m.self.On && !m.link.prune }

// me is this device's ID.
func (m *model) me() wire.ID { return m.ident.Cert.ID }

// newRID finds a name for a session that no other has.
func (m *model) newRID() uint16 {
	for {
		var b [2]byte
		_, _ = rand.Read(b[:]) // never fails
		rid := binary.BigEndian.Uint16(b[:])
		if _, taken := m.sessions[rid]; !taken && rid != 0 {
			return rid
		}
	}
}

// sorted lists a map's values by key, so that every run does things in the same order.
func sorted[K cmp.Ordered, V any](m map[K]V) []V {
	var vs []V
	for _, k := range slices.Sorted(maps.Keys(m)) {
		vs = append(vs, m[k])
	}
	return vs
}

// contactOf finds whom an ID belongs to.
func (m *model) contactOf(id wire.ID) *contact {
	for _, c := range m.contacts {
		if !id.IsZero() && c.peer() == id {
			return c
		}
	}
	return nil
}

// addContact makes a contact, or finds the one with that number.
func (m *model) addContact(name string, n wire.Number, dialled string) *contact {
	if c := m.numbers[n]; c != nil && dialled == "" {
		if name != "" && c.Name != name {
			c.Name = name
			m.saveContact(c)
		}
		return c
	}
	m.self.Contacts++
	c := &contact{contactRecord: contactRecord{ID: ContactID(m.self.Contacts), Name: name, Dialled: dialled}}
	if dialled == "" {
		c.Number = packed(n)
		m.numbers[n] = c
		if id, ok := m.ids[n]; ok {
			c.Peer = id[:]
		}
	}
	m.contacts[c.ID] = c
	m.saveContact(c)
	m.saveSelf()
	return c
}

// setBlue shows a colour.
func (m *model) setBlue(c *contact, blue bool) {
	if c.blue == blue {
		return
	}
	c.blue = blue
	m.event(Event{Kind: PresenceChanged, Contact: c.ID, Colour: c.colour()})
}

// newText makes a text; the caller sets its state.
func (m *model) newText(c *contact, body string) *text {
	m.self.Texts++
	t := &text{textRecord: textRecord{ID: TextID(m.self.Texts), Contact: c.ID, Body: body, At: m.now}}
	m.texts[t.ID] = t
	m.saveSelf()
	m.saveText(t)
	return t
}

// setState moves a text, and says so.
func (m *model) setState(t *text, s State) {
	c := m.contacts[t.Contact]
	t.State = s
	if s != Waiting && c != nil {
		c.queue = slices.DeleteFunc(c.queue, func(q *text) bool { return q == t })
	}
	m.changed(t)
}

// changed stores a text and tells the user.
func (m *model) changed(t *text) {
	m.saveText(t)
	m.event(Event{Kind: TextChanged, Contact: t.Contact, Text: t.ID, State: t.State, Path: t.Path})
}

// canGateway reports whether a job may be sealed now.
func (m *model) canGateway() bool {
	return m.ready() && m.self.Gateway && m.worker != nil && m.jobUntil().After(m.now.Add(time.Minute))
}

// jobUntil is how late a job made now may be sent.
func (m *model) jobUntil() time.Time {
	until := m.now.Add(m.cfg.policy.JobLife)
	if end := wire.Time32(m.worker.NotAfter); end.Before(until) {
		until = end
	}
	return until.Truncate(time.Second)
}

// roaming asks the phone.
func (m *model) roaming() bool {
	return m.cfg.policy.Roaming != nil && m.cfg.policy.Roaming()
}

// input is what the policy looks at for a text that does not go over IP. [F-1]
func (m *model) input(c *contact, t *text) fallback.Input {
	in := fallback.Input{
		Text: t.Body, OwnSMSOnly: c.ownSMSOnly(), ShownBlue: t.ShownBlue,
		Setting: m.cfg.policy.Mode, Contact: c.Mode, SIM: m.cfg.sim,
		Roaming: m.roaming(), RoamingSMS: m.cfg.policy.RoamingSMS, Gateway: m.canGateway(),
	}
	if !m.cfg.policy.HideNumber && m.enrolled() {
		in.From = numberOf(m.self.Number).E164()
	}
	return in
}
