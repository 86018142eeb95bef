package handset

import (
	"crypto/rand"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// hellos records the INITs that pass.
type hellos struct {
	at    []time.Time
	bytes []string
}

func (h *hellos) judge(_ wire.ID, t wire.Topic, b []byte) (wire.Code, bool) {
	if t.Kind == wire.TopicHello {
		h.at, h.bytes = append(h.at, time.Now()), append(h.bytes, string(b))
	}
	return wire.OK, false
}

// An unanswered hello is sent again by its schedule: the same bytes, until its text goes by SMS;
// then one with the empty frame. [U-8]
func TestHelloSchedule(t *testing.T) {
	tests := []struct {
		name string
		mode fallback.Mode
		same bool
	}{
		{"the text waits", fallback.ModeNever, true},
		{"the text went by SMS", fallback.ModeDevice, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
				_ = bob.Disconnect(t.Context())
				if err := alice.SetMode(toBob, tt.mode); err != nil {
					t.Fatal(err)
				}
				var h hellos
				b.setJudge(h.judge)
				start := time.Now()
				alice.send(toBob, "anyone?")
				settle(50 * time.Hour)
				var got []time.Duration
				for _, at := range h.at {
					got = append(got, at.Sub(start).Round(time.Second))
				}
				want := []time.Duration{0, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("hellos at (-want +got):\n%s", diff)
				}
				if same := h.bytes[0] == h.bytes[1]; same != tt.same || h.bytes[1] != h.bytes[2] {
					t.Errorf("second hello has the bytes of the first: %v, want %v", same, tt.same)
				}
				if !tt.same && len(h.bytes[1]) != envelope.InitOverhead+16 {
					t.Errorf("hello after the SMS has %d bytes, want the empty frame", len(h.bytes[1]))
				}
			})
		})
	}
}

// A repeated hello is answered once the recipient is back, and its text is shown once. [U-8] [U-9]
func TestHelloAnsweredLater(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
		_ = bob.Disconnect(t.Context())
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		first := alice.send(toBob, "first")
		settle(11 * time.Second)
		if err := bob.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		alice.wantState(first, Waiting, fallback.PathWait)
		second := alice.send(toBob, "second") // the user writes: the hello is repeated
		settle(time.Second)
		alice.wantState(first, Delivered, fallback.PathIP)
		alice.wantState(second, Delivered, fallback.PathIP)
		if got := bob.bodies(); !slices.Equal(got, []string{"first", "second"}) {
			t.Errorf("Bob sees %q", got)
		}
	})
}

// A hello whose RESP is lost is answered with the same RESP, and its text shown once. [U-9]
func TestLostResp(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
		lose := true
		var resps []string
		b.setJudge(func(_ wire.ID, t wire.Topic, body []byte) (wire.Code, bool) {
			if kind, _, err := envelope.Peek(body); t.Kind == wire.TopicInbox && err == nil && kind == envelope.KindResp {
				resps = append(resps, string(body))
				if lose {
					lose = false
					return wire.NoRecipient, false
				}
			}
			return wire.OK, false
		})
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		id := alice.send(toBob, "once")
		settle(16 * time.Minute)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := bob.bodies(); !slices.Equal(got, []string{"once"}) {
			t.Errorf("Bob sees %q", got)
		}
		if len(resps) != 2 || resps[0] != resps[1] {
			t.Errorf("%d RESPs, want the same one twice", len(resps))
		}
	})
}

// Whose hellos are answered is the recipient's rule; silence otherwise. [U-4]
func TestVisibility(t *testing.T) {
	tests := []struct {
		name     string
		rule     VisibleTo
		contact  bool
		block    bool
		answered bool
	}{
		{"contacts: a contact", Contacts, true, false, true},
		{"contacts: a stranger", Contacts, false, false, false},
		{"anyone: a stranger", Anyone, false, false, true},
		{"anyone: a blocked contact", Anyone, true, true, false},
		{"nobody: a contact", Nobody, true, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFakeBroker(t)
				alice, bob := newPhone(t, b, aliceNumber, nil), newPhone(t, b, bobNumber, nil)
				alice.join(everything)
				bob.join(everything)
				if err := bob.SetVisibleTo(tt.rule); err != nil {
					t.Fatal(err)
				}
				if tt.contact {
					if c := bob.contact("Alice", aliceNumber); tt.block {
						if err := bob.Block(c); err != nil {
							t.Fatal(err)
						}
					}
				}
				settled() // Bob has published all that a stranger needs
				sent := b.count(wire.TopicInbox)
				alice.send(alice.contact("Bob", bobNumber), "knock knock")
				settle(time.Second)
				if got := len(bob.bodies()) == 1; got != tt.answered {
					t.Errorf("shown %v, want %v", got, tt.answered)
				}
				if !tt.answered && b.count(wire.TopicInbox) != sent {
					t.Error("a hello that was not admitted was not met with silence")
				}
				if !tt.contact && tt.answered && bob.events(ContactAdded) != 1 {
					t.Error("the user is not told of the new contact")
				}
			})
		})
	}
}

// A hello that claims another's number is met with silence. [U-4]
func TestNumberOfAnother(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
		mallory := newPhone(t, b, "+447700900666", nil)
		mallory.join(everything)
		if err := mallory.step(func(m *model) { m.ident.Number = alice.number }); err != nil {
			t.Fatal(err)
		}
		c := mallory.contact("Bob", bobNumber)
		sent := b.count(wire.TopicInbox)
		mallory.send(c, "it is me, Alice")
		settle(time.Second)
		if len(bob.bodies()) != 0 || b.count(wire.TopicInbox) != sent {
			t.Error("a false number was answered")
		}
	})
}

// Both write first at the same moment: both texts are shown, and one session remains. [S-9] [U-9]
func TestSimultaneousHellos(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		a1, b1 := alice.send(toBob, "from Alice"), bob.send(toAlice, "from Bob")
		settle(time.Second)
		a2, b2 := alice.send(toBob, "again Alice"), bob.send(toAlice, "again Bob")
		settle(time.Second)
		for _, id := range []TextID{a1, a2} {
			alice.wantState(id, Delivered, fallback.PathIP)
		}
		for _, id := range []TextID{b1, b2} {
			bob.wantState(id, Delivered, fallback.PathIP)
		}
		if got := bob.bodies(); !slices.Equal(got, []string{"from Alice", "again Alice"}) {
			t.Errorf("Bob sees %q", got)
		}
		if got := alice.bodies(); !slices.Equal(got, []string{"from Bob", "again Bob"}) {
			t.Errorf("Alice sees %q", got)
		}
		sa, sb := sendingOf(alice, toBob), sendingOf(bob, toAlice)
		if sa.TH() != sb.TH() || sa.Initiator() == sb.Initiator() {
			t.Error("the two sides write in different sessions")
		}
		if smaller := alice.Status().ID.Compare(bob.Status().ID) < 0; sa.Initiator() != smaller {
			t.Error("the session begun by the smaller ID did not win")
		}
	})
}

func sendingOf(p *phone, c ContactID) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Handset.mu.Lock()
	defer p.Handset.mu.Unlock()
	return p.m.sending(p.m.contacts[c])
}

// A recipient that lost the session says so; the sender begins anew with the text inside, at most
// once an hour. Nothing is shown twice. [U-8] [U-9]
func TestSessionLost(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		settle(2 * time.Hour)
		forget := func() {
			if err := bob.step(func(m *model) {
				for _, s := range sorted(m.sessions) {
					m.dropSession(s)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		forget()
		hellos := b.count(wire.TopicHello)
		id := alice.send(toBob, "can you read this?")
		settle(time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := b.count(wire.TopicHello) - hellos; got != 1 {
			t.Errorf("%d hellos, want 1", got)
		}
		forget()
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		id = alice.send(toBob, "and this?")
		settle(30 * time.Minute)
		alice.wantState(id, Waiting, fallback.PathWait)
		settle(time.Hour)
		alice.send(toBob, "and now?")
		settle(time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := bob.bodies(); !slices.Equal(got, []string{"hello", "can you read this?", "and this?", "and now?"}) {
			t.Errorf("Bob sees %q", got)
		}
	})
}

// Another device of the contact: nothing is sent before the user accepts it. [U-5]
func TestChangedDevice(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		before, err := alice.SafetyNumber(toBob)
		if err != nil {
			t.Fatal(err)
		}
		_ = bob.Disconnect(t.Context())
		settle(2 * time.Hour)
		stolen := newPhone(t, b, bobNumber, nil)
		stolen.join(everything)
		stolen.contact("Alice", aliceNumber)
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		id := alice.send(toBob, "are you still you?")
		settle(time.Minute)
		if got := alice.text(id); got.State != Waiting || got.Action != CanAcceptChange {
			t.Errorf("%v, %v; want waiting for the user's word", got, got.Action)
		}
		if alice.events(CertChanged) != 1 || !alice.Contacts()[0].Changed || len(stolen.bodies()) != 0 {
			t.Error("the change is not shown, or something was sent")
		}
		if err := alice.AcceptChange(toBob); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := stolen.bodies(); !slices.Equal(got, []string{"are you still you?"}) {
			t.Errorf("the new device sees %q", got)
		}
		if after, err := alice.SafetyNumber(toBob); err != nil || after == before {
			t.Error("the safety number did not change with the device")
		}
	})
}

// A hello from a changed device is not answered before the user accepts it. [U-5]
func TestHelloOfChangedDevice(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		_ = bob.Disconnect(t.Context())
		settle(time.Minute)
		other := newPhone(t, b, bobNumber, nil)
		other.join(everything)
		shown := len(alice.bodies())
		id := other.send(other.contact("Alice", aliceNumber), "new phone!")
		settle(time.Second)
		if len(alice.bodies()) != shown || alice.events(CertChanged) != 1 {
			t.Errorf("shown %d texts more, told %d times", len(alice.bodies())-shown, alice.events(CertChanged))
		}
		if err := alice.AcceptChange(toBob); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		other.wantState(id, Delivered, fallback.PathIP)
	})
}

// A forged or foreign bundle begins nothing. [U-5]
func TestForeignBundle(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
		b.mu.Lock()
		b.bundles[bob.Status().ID] = b.bundles[alice.Status().ID]
		b.mu.Unlock()
		alice.send(toBob, "to whom?")
		settle(11 * time.Second)
		if b.count(wire.TopicHello) != 0 {
			t.Error("a hello was sealed to a foreign bundle")
		}
	})
}

// Rubbish on any topic changes nothing and stops nothing.
func TestRubbish(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		b.mu.Lock()
		for c := range b.conns {
			for _, kind := range []wire.Topic{{Kind: 'r'}, {Kind: 'i', Tag: c.tag}, {Kind: 'h', ID: c.id}, {Kind: 'p', Tag: c.tag}, {Kind: 'k'}, {Kind: 'b', ID: c.id}} {
				for _, n := range []int{0, 1, 17, 18, 21, 200, 2000} {
					body := make([]byte, n)
					_, _ = rand.Read(body)
					if n > 0 && kind.Kind == 'r' {
						body[0] = byte(wire.CtlWelcome) + body[0]%6
					}
					if n > 0 && kind.Kind != 'p' {
						c.send(kind, body, 1, nil)
					}
				}
			}
		}
		b.mu.Unlock()
		settle(time.Second)
		id := alice.send(toBob, "still here")
		settle(time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
	})
}

// A blocked contact is cut off: it no longer reaches this device nor sees it. Others do. [U-4]
func TestBlock(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		carol := newPhone(t, b, "+447700900003", nil)
		carol.join(everything)
		bob.contact("Carol", "+447700900003")
		fromCarol := carol.contact("Bob", bobNumber)
		talk(t, alice, bob, toBob, toAlice)
		carol.send(fromCarol, "hi Bob")
		settle(time.Second)
		gen := bob.Status().Gen
		if err := bob.Block(toAlice); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Second)
		if got := bob.Status(); got.Gen != gen+1 || !got.Connected {
			t.Errorf("gen %d, connected %v; want %d and connected", got.Gen, got.Connected, gen+1)
		}
		if alice.Contacts()[0].Colour != Grey {
			t.Error("Alice still sees Bob")
		}
		shown := len(bob.bodies())
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		alice.send(toBob, "why so quiet?")
		id := carol.send(fromCarol, "still here")
		settle(3 * time.Hour)
		carol.wantState(id, Delivered, fallback.PathIP)
		if len(bob.bodies()) != shown+1 {
			t.Errorf("%d texts more are shown, want only Carol's", len(bob.bodies())-shown)
		}
		if _, err := bob.Send(t.Context(), toAlice, "x"); err != ErrBlocked {
			t.Errorf("send to a blocked contact: %v", err)
		}
		if err := bob.Unblock(toAlice); err != nil {
			t.Fatal(err)
		}
		again := alice.send(toBob, "friends?")
		settle(time.Minute)
		alice.wantState(again, Delivered, fallback.PathIP)
	})
}

// A contact that missed the tag update finds back with one hello. [P-12]
func TestRotateWhileContactIsAway(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		_ = alice.Disconnect(t.Context())
		settle(2 * time.Hour)
		if err := bob.RotateTag(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := alice.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		settle(10 * time.Second)
		hellos := b.count(wire.TopicHello)
		id := alice.send(toBob, "where are you?")
		settle(10 * time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := b.count(wire.TopicHello) - hellos; got != 1 {
			t.Errorf("%d hellos, want 1", got)
		}
	})
}

// Days of silence wear a session out; either side may write first. [S-6]
func TestLongSilence(t *testing.T) {
	for _, first := range []string{"alice", "bob"} {
		t.Run(first, func(t *testing.T) {
			pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
				talk(t, alice, bob, toBob, toAlice)
				settle(4 * 24 * time.Hour)
				from, to, back := alice, toBob, bob
				if first == "bob" {
					from, to, back = bob, toAlice, alice
				}
				id := from.send(to, "long time")
				settle(time.Minute)
				from.wantState(id, Delivered, fallback.PathIP)
				if got := back.bodies(); got[len(got)-1] != "long time" {
					t.Errorf("the other side sees %q", got)
				}
			})
		})
	}
}

// Prekeys are replaced before their end, and erased after the grace time. [S-3]
func TestPrekeysComeAndGo(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		first := string(b.bundle(bob.Status().ID))
		settle(8 * 24 * time.Hour)
		second := string(b.bundle(bob.Status().ID))
		if first == second {
			t.Error("the bundle was not replaced")
		}
		settle(2 * 24 * time.Hour)
		bob.Handset.mu.Lock()
		defer bob.Handset.mu.Unlock()
		if _, ok := bob.m.prekeys[1]; ok {
			t.Error("the first prekey was not erased")
		}
		if len(bob.store.under(keyHello)) != 0 {
			t.Error("the hellos of an erased prekey are kept")
		}
	})
}
