package handset

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/blind"
	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// lab is the keys that pure models are made with: no broker, no disk, no clock.
type lab struct {
	t         testing.TB
	registrar ed25519.PrivateKey
	root      ed25519.PrivateKey
	receipt   ed25519.PrivateKey
	voprf     blind.ServerKey
	box       envelope.RegistrarSecret
	now       time.Time
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, registrar: newKey(), root: newKey(), receipt: newKey(), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	var err error
	if l.voprf, err = blind.GenerateServerKey(); err != nil {
		t.Fatal(err)
	}
	if l.box, err = envelope.GenerateRegistrarSecret(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) config() modelConfig {
	return modelConfig{
		pins: Pins{
			Broker: "lab", Root: publicOf(l.root), Registrar: publicOf(l.registrar), VOPRF: l.voprf.Public(),
			RegistrarBox: l.box.Public(), Receipt: []wire.PublicKey{publicOf(l.receipt)},
		},
		policy: Policy{JobLife: 12 * time.Hour}, sim: true, helloTimeout: 10 * time.Second, greyAfter: 30 * time.Second,
	}
}

// device is a pure model with what it has written.
type device struct {
	*model
	lab   *lab
	state map[string][]byte
	last  []effect
}

func (l *lab) device(num string) *device {
	l.t.Helper()
	d := &device{lab: l, state: map[string][]byte{}}
	m, err := newModel(l.config(), d.state, l.now)
	if err != nil {
		l.t.Fatal(err)
	}
	d.model = m
	n := number(l.t, num)
	id, err := l.voprf.FullEvaluate(n)
	if err != nil {
		l.t.Fatal(err)
	}
	key := newKey()
	c := wire.Certificate{ID: id, Device: publicOf(key), IssuedAt: wire.Unix32(l.now), LifetimeHours: 4320, KID: 1}
	c.Sign(l.registrar)
	d.event(func() {
		m.enrol(&enrolment{Number: packed(n), Device: key.Seed(), Nonce: make([]byte, 16)}, c)
		m.self.On, m.self.Listed, m.self.Gateway = true, true, true
	})
	d.event(func() { m.welcome(wire.Welcome{Gen: 0, Tag: wire.MakeTag(fakeTagKey, id, 0), Seq: 0}) })
	return d
}

// event lets something happen and keeps what is written and what is to be done.
func (d *device) event(f func()) []effect {
	d.model.now = d.lab.now
	f()
	t, effects := d.take()
	for _, o := range t.ops {
		if o.value == nil {
			delete(d.state, o.key)
		} else {
			d.state[o.key] = o.value
		}
	}
	d.last = effects
	return effects
}

// knows makes a contact whose number was looked up.
func (d *device) knows(name string, other *device) *contact {
	n := numberOf(other.self.Number)
	var c *contact
	d.event(func() {
		id := other.me()
		d.ids[n] = id
		d.saveRaw(idKey(n), id[:])
		c = d.addContact(name, n, "")
	})
	return c
}

func (d *device) write(c *contact, body string) TextID {
	d.lab.t.Helper()
	var id TextID
	d.event(func() {
		var err error
		if id, err = d.model.write(c.ID, body); err != nil {
			d.lab.t.Fatal(err)
		}
	})
	return id
}

// script writes effects in a few words each.
func script(effects []effect) []string {
	out := []string{}
	for _, e := range effects {
		switch e := e.(type) {
		case publish:
			out = append(out, "publish "+string(rune(e.topic.Kind)))
		case subscribe:
			out = append(out, "subscribe "+string(rune(e.topic.Kind)))
		case unsubscribe:
			out = append(out, "unsubscribe "+string(rune(e.topic.Kind)))
		case acknowledge:
			out = append(out, "ack")
		case sendSMS:
			out = append(out, "sms")
		case reconnect:
			out = append(out, "reconnect")
		case hangUp:
			out = append(out, "hang up")
		}
	}
	return out
}

func (d *device) want(what string, want ...string) {
	d.lab.t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, script(d.last)); diff != "" {
		d.lab.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// published is the payload of the only publish on a topic.
func (d *device) published(kind wire.TopicKind) publish {
	d.lab.t.Helper()
	for _, e := range d.last {
		if p, ok := e.(publish); ok && p.topic.Kind == kind {
			return p
		}
	}
	d.lab.t.Fatalf("nothing was published on %c", kind)
	return publish{}
}

func (d *device) pass(t time.Duration) {
	d.lab.now = d.lab.now.Add(t)
	d.event(func() { d.tick() })
}

// The first text, step by step: what each side publishes, subscribes and acknowledges, in order.
// The transaction of each step is taken before its effects. [U-6] [U-8]
func TestHelloScript(t *testing.T) {
	l := newLab(t)
	alice, bob := l.device(aliceNumber), l.device(bobNumber)
	toBob := alice.knows("Bob", bob)
	bob.knows("Alice", alice)
	bundle := bob.model.prekeys[1].open().Bundle().Marshal()

	id := alice.write(toBob, "hi")
	alice.want("write", "subscribe b")
	alice.event(func() { alice.message(wire.Topic{Kind: 'b', ID: bob.me()}, bundle, 1) })
	alice.want("bundle", "unsubscribe b", "publish h", "ack")
	init := alice.published('h')
	if _, ok := alice.state[sessionKey(toBob.Hello.RID)]; !ok {
		t.Error("the session is not stored with the INIT")
	}
	bob.event(func() { bob.message(init.topic, init.payload, 2) })
	bob.want("INIT", "publish i", "subscribe p", "ack")
	resp := bob.published('i')
	alice.event(func() { alice.done(init.flight, wire.OK) })
	alice.want("PUBACK of the INIT: no receipt")
	if alice.texts[id].State != Waiting {
		t.Error("a PUBACK on the hello lane was taken for a receipt")
	}
	alice.event(func() { alice.message(resp.topic, resp.payload, 3) })
	alice.want("RESP", "subscribe p", "ack")
	if alice.texts[id].State != Delivered {
		t.Error("the text is not delivered after the RESP")
	}
	alice.write(toBob, "again")
	alice.want("second text", "publish i")
	second := alice.published('i')
	bob.event(func() { bob.message(second.topic, second.payload, 4) })
	bob.want("MSG", "ack")
	bob.event(func() { bob.message(second.topic, second.payload, 5) })
	bob.want("the same MSG again: acknowledged, not shown", "ack")
	bob.event(func() { bob.message(second.topic, append([]byte{0x80, 9, 9}, second.payload[3:]...), 6) })
	bob.want("a MSG of no session: not acknowledged", "publish x")
}

// What a model writes, a new one reads: the same texts, contacts and sessions. [U-6]
func TestModelReadsWhatItWrote(t *testing.T) {
	l := newLab(t)
	alice, bob := l.device(aliceNumber), l.device(bobNumber)
	toBob := alice.knows("Bob", bob)
	alice.write(toBob, "hi")
	alice.event(func() {
		alice.message(wire.Topic{Kind: 'b', ID: bob.me()}, bob.model.prekeys[1].open().Bundle().Marshal(), 1)
	})
	again, err := newModel(l.config(), alice.state, l.now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(alice.self, again.self); diff != "" {
		t.Error("self: ", diff)
	}
	if diff := cmp.Diff(toBob.contactRecord, again.contacts[toBob.ID].contactRecord); diff != "" {
		t.Error("contact: ", diff)
	}
	for id, x := range alice.texts {
		if diff := cmp.Diff(x.textRecord, again.texts[id].textRecord); diff != "" {
			t.Error("text: ", diff)
		}
	}
	if len(again.sessions) != 1 || len(again.prekeys) != 1 || again.ids[numberOf(bob.self.Number)] != bob.me() {
		t.Errorf("%d sessions, %d prekeys", len(again.sessions), len(again.prekeys))
	}
	if q := again.contacts[toBob.ID].queue; len(q) != 1 || len(again.contacts[toBob.ID].sessions) != 1 {
		t.Errorf("%d texts wait", len(q))
	}
}

// A record that does not decode is refused, not skipped.
func TestModelRefusesForeignRecords(t *testing.T) {
	l := newLab(t)
	for _, key := range []string{
		keySelf, contactKey(1), textKey(1), sessionKey(1), prekeyKey(1), keyHello + "00", keySeen + "00", keyID + "00",
	} {
		if _, err := newModel(l.config(), map[string][]byte{key: []byte("{rubbish")}, l.now); err == nil {
			t.Errorf("%s: rubbish was accepted", key)
		}
	}
}

// next never lies: with time moved there, tick leaves nothing that is overdue, so that the clock
// does not spin. Random events, with time moving as the clock moves it.
func TestClockNeverSpins(t *testing.T) {
	for seed := range uint64(40) {
		l, r := newLab(t), rand.New(rand.NewPCG(seed, 5))
		alice, bob := l.device(aliceNumber), l.device(bobNumber)
		c := alice.knows("Bob", bob)
		for i := range 120 {
			switch r.IntN(8) {
			case 0:
				alice.write(c, fmt.Sprint(i))
			case 1:
				alice.event(func() { alice.linkDown() })
			case 2:
				alice.event(func() {
					alice.message(wire.Topic{Kind: 'r'}, wire.Welcome{Tag: wire.Tag{1}, Seq: 0}.Marshal(), 1)
				})
			case 3:
				alice.event(func() {
					alice.message(wire.Topic{Kind: 'b', ID: bob.me()}, bob.model.prekeys[1].open().Bundle().Marshal(), 1)
				})
			case 4:
				for _, e := range alice.last {
					if p, ok := e.(publish); ok {
						code := []wire.Code{wire.OK, wire.NoRecipient, wire.Unavailable, wire.OverQuota}[r.IntN(4)]
						alice.event(func() { alice.done(p.flight, code) })
						break
					}
				}
			default:
				if next := alice.next(); r.IntN(2) == 0 && next.After(l.now) {
					l.now = next
				}
				alice.pass(0)
				if next := alice.next(); !next.IsZero() && !next.After(l.now) {
					t.Fatalf("seed %d, step %d: due %v ago, after tick", seed, i, l.now.Sub(next))
				}
			}
		}
	}
}

// A text waits for the SIM, the gateway or the user, never for two of them. [U-3]
func TestOneCustodian(t *testing.T) {
	l := newLab(t)
	alice, bob := l.device(aliceNumber), l.device(bobNumber)
	c := alice.knows("Bob", bob)
	id := alice.write(c, "x")
	alice.pass(10 * time.Second)
	alice.want("the bundle never came", "unsubscribe b", "sms")
	for range 3 {
		alice.write(c, "another")
		alice.want("another text: its own SMS only", "sms")
	}
	alice.event(func() { alice.smsDone(id, true) })
	alice.want("the SIM has it")
	alice.event(func() { alice.smsDone(id, true) })
	if x := alice.texts[id]; x.State != SMSSent || x.Writing {
		t.Errorf("%v, writing %v", x.State, x.Writing)
	}
}

// A worker key that the root did not sign seals nothing. [F-2]
func TestWorkerKeyIsChecked(t *testing.T) {
	l := newLab(t)
	alice := l.device(aliceNumber)
	w, err := envelope.NewWorkerSecret(3, l.now.Add(-time.Hour), l.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		by   ed25519.PrivateKey
		at   time.Time
		want bool
	}{
		{"signed by the root", l.root, l.now, true},
		{"signed by another", l.receipt, l.now, false},
		{"run out", l.root, l.now.Add(2 * time.Hour), false},
	} {
		alice.worker = nil
		k := w.Key()
		k.Sign(tt.by)
		alice.event(func() {
			alice.model.now = tt.at
			alice.message(wire.Topic{Kind: 'k'}, k.Marshal(), 1)
		})
		if got := alice.worker != nil; got != tt.want {
			t.Errorf("%s: accepted %v", tt.name, got)
		}
	}
}

// Each state of a text has one action. [U-3]
func TestActions(t *testing.T) {
	tests := []struct {
		r       textRecord
		changed bool
		want    Action
	}{
		{textRecord{State: Waiting}, false, CanCancel},
		{textRecord{State: Waiting, Path: fallback.PathGateway}, false, CanCancel},
		{textRecord{State: Waiting, Path: fallback.PathAsk}, false, CanChoose},
		{textRecord{State: Waiting, Path: fallback.PathAsk}, true, CanAcceptChange},
		{textRecord{State: Delivered}, true, CanDelete},
		{textRecord{State: SMSSent}, false, CanDelete},
		{textRecord{State: SMSDelivered}, false, CanDelete},
		{textRecord{State: Failed}, true, CanSendAgain},
		{textRecord{State: Received}, false, CanDelete},
	}
	for _, tt := range tests {
		if got := tt.r.view(tt.changed); got.Action != tt.want {
			t.Errorf("%v on path %d: %q, want %q", tt.r.State, tt.r.Path, got.Action, tt.want)
		}
	}
	for s := Waiting; s <= Received; s++ {
		if s.String() == "invalid" {
			t.Errorf("state %d has no name", s)
		}
	}
	if State(99).String() != "invalid" || Action(99).String() != "invalid" || CanDelete.String() == "invalid" {
		t.Error("names out of the closed sets")
	}
}

// BenchmarkWrite is what Send costs without the disk: seal, and the transaction's bytes.
func BenchmarkWrite(b *testing.B) {
	l := newLab(b)
	alice, bob := l.device(aliceNumber), l.device(bobNumber)
	c := alice.knows("Bob", bob)
	bob.knows("Alice", alice)
	alice.write(c, "hi")
	alice.event(func() {
		alice.message(wire.Topic{Kind: 'b', ID: bob.me()}, bob.model.prekeys[1].open().Bundle().Marshal(), 1)
	})
	init := alice.published('h')
	bob.event(func() { bob.message(init.topic, init.payload, 2) })
	resp := bob.published('i')
	alice.event(func() { alice.message(resp.topic, resp.payload, 3) })
	body := strings.Repeat("x", 30)
	for b.Loop() {
		id := alice.write(c, body)
		b.StopTimer()
		msg := alice.published('i')
		bob.event(func() { bob.message(msg.topic, msg.payload, 4) })
		alice.event(func() { alice.done(msg.flight, wire.OK) })
		if alice.texts[id].State != Delivered {
			b.Fatal("not delivered")
		}
		if n := bob.sending(bob.numbers[numberOf(alice.self.Number)]); n != nil && alice.sending(c) == nil {
			b.Fatal("the session is worn out")
		}
		reply := bob.write(bob.numbers[numberOf(alice.self.Number)], "ok")
		back := bob.published('i')
		alice.event(func() { alice.message(back.topic, back.payload, 5) })
		bob.event(func() { bob.done(back.flight, wire.OK) })
		_ = reply
		l.now = l.now.Add(time.Millisecond)
		b.StartTimer()
	}
}
