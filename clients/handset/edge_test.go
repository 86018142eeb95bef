package handset

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// only judges publishes of one topic.
func only(kind wire.TopicKind, code wire.Code, drop bool) func(wire.ID, wire.Topic, []byte) (wire.Code, bool) {
	return func(_ wire.ID, t wire.Topic, _ []byte) (wire.Code, bool) {
		if t.Kind == kind {
			return code, drop
		}
		return wire.OK, false
	}
}

// A log that ends in a whole and wrong record may have lost a session's newest state: every
// conversation begins anew, and no key is used twice. [U-7]
func TestSuspectLogBeginsAnew(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		alice.send(toBob, "the last transaction")
		settle(time.Second)
		alice.close()
		path := filepath.Join(alice.cfg.Dir, logName)
		log, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		log[len(log)-1] ^= 1
		writeFile(t, path, log, 0o600)
		alice.open()
		if err := alice.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		hellos, before := b.count(wire.TopicHello), len(b.messages())
		id := alice.send(toBob, "after the fault")
		settle(time.Minute)
		alice.wantState(id, Delivered, fallback.PathIP)
		if b.count(wire.TopicHello) != hellos+1 {
			t.Errorf("%d hellos more, want 1; %d messages more", b.count(wire.TopicHello)-hellos, len(b.messages())-before)
		}
	})
}

// Damage in the middle of the log is refused, and the directory is left as it was. [U-6]
func TestDamagedLogIsRefused(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		alice.close()
		path := filepath.Join(alice.cfg.Dir, logName)
		log, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		log[len(log)/2] ^= 1
		writeFile(t, path, log, 0o600)
		if _, err := Open(alice.cfg); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "enrol again") {
			t.Errorf("open: %v, want ErrCorrupt that says what to do", err)
		}
		if after, err := os.ReadFile(path); err != nil || !slices.Equal(after, log) {
			t.Error("the damaged log was changed")
		}
		if _, err := ReadState(alice.cfg.Dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("read state: %v", err)
		}
	})
}

// A text on its way can be taken back only if it does not arrive. [U-3]
func TestCancelOnTheWay(t *testing.T) {
	tests := []struct {
		name string
		code wire.Code
		want State
	}{
		{"it arrived", wire.OK, Delivered},
		{"nobody was there", wire.NoRecipient, Failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			alice, bob := l.device(aliceNumber), l.device(bobNumber)
			c := alice.knows("Bob", bob)
			bob.knows("Alice", alice)
			alice.open(bob, c)
			id := alice.write(c, "wait!")
			f := alice.published('i').flight
			alice.event(func() {
				if err := alice.cancel(id); err != nil {
					t.Error(err)
				}
			})
			alice.event(func() { alice.done(f, tt.code) })
			if x := alice.texts[id]; x.State != tt.want || x.Cancelled != (tt.want == Failed) {
				t.Errorf("%v, cancelled %v; want %v", x.State, x.Cancelled, tt.want)
			}
		})
	}
}

// open opens a conversation between two pure models.
func (d *device) open(other *device, c *contact) {
	d.lab.t.Helper()
	d.write(c, "hello")
	d.event(func() {
		d.message(wire.Topic{Kind: 'b', ID: other.me()}, other.model.prekeys[other.self.Prekeys].open().Bundle().Marshal(), 1)
	})
	init := d.published('h')
	other.event(func() { other.message(init.topic, init.payload, 2) })
	resp := other.published('i')
	d.event(func() { d.message(resp.topic, resp.payload, 3) })
	if d.sending(c) == nil {
		d.lab.t.Fatal("no session")
	}
}

// A cancelled text in flight when the connection breaks is failed, not sent again. [U-3]
func TestCancelThenBrokenConnection(t *testing.T) {
	l := newLab(t)
	alice, bob := l.device(aliceNumber), l.device(bobNumber)
	c := alice.knows("Bob", bob)
	bob.knows("Alice", alice)
	alice.open(bob, c)
	id := alice.write(c, "wait!")
	alice.event(func() { _ = alice.cancel(id); alice.linkDown() })
	if x := alice.texts[id]; x.State != Failed || !x.Cancelled {
		t.Errorf("%v, cancelled %v", x.State, x.Cancelled)
	}
}

// A gateway that cannot be used is not a silent SMS from elsewhere. [F-1]
func TestGatewayRefuses(t *testing.T) {
	tests := []struct {
		code  wire.Code
		state State
		path  fallback.Path
	}{
		{wire.QueueFull, Waiting, fallback.PathGateway},
		{wire.Unavailable, Waiting, fallback.PathGateway},
		{wire.NotAllowed, Failed, fallback.PathWait},
		{wire.OutOfTime, Failed, fallback.PathWait},
	}
	for _, tt := range tests {
		t.Run(tt.code.String(), func(t *testing.T) {
			gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
				_ = bob.Disconnect(t.Context())
				b.setJudge(only(wire.TopicFallback, tt.code, false))
				id := alice.send(toBob, "x")
				settle(12 * time.Second)
				alice.wantState(id, tt.state, tt.path)
				b.setJudge(nil)
				settle(time.Minute)
				if tt.state == Waiting && len(b.queued()) != 1 {
					t.Error("not tried again")
				}
			})
		})
	}
}

// A job whose outcome never comes is failed an hour after its expiry, as perhaps sent. [U-3]
func TestOutcomeNeverComes(t *testing.T) {
	gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
		_ = bob.Disconnect(t.Context())
		id := alice.send(toBob, "into the void")
		settle(12 * time.Hour)
		alice.wantState(id, Waiting, fallback.PathGateway)
		settle(3 * time.Hour)
		if got := alice.text(id); got.State != Failed || got.Job != wire.JobUnknown {
			t.Errorf("%v, job %v", got.State, got.Job)
		}
	})
}

// Outcomes that came while the device was away find their text after a restart. [F-7]
func TestOutcomeAfterRestart(t *testing.T) {
	gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
		_ = bob.Disconnect(t.Context())
		id := alice.send(toBob, "x")
		settle(12 * time.Second)
		alice.reopen()
		if err := alice.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.outcome(wire.JobDelivered)
		settle(time.Second)
		alice.wantState(id, SMSDelivered, fallback.PathGateway)
	})
}

// Deleting a text whose job waits takes the job back. [U-12]
func TestDeleteTakesTheJobBack(t *testing.T) {
	gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
		_ = bob.Disconnect(t.Context())
		id := alice.send(toBob, "x")
		settle(12 * time.Second)
		if err := alice.DeleteText(id); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if len(b.queued()) != 0 {
			t.Error("the job is still queued")
		}
	})
}

// A look-up that fails leaves the contact, and says so; it is made again when it is needed. [P-11]
func TestLookupFails(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, _, _ ContactID) {
		b.setJudge(only(wire.TopicQuery, wire.OverQuota, false))
		c, err := alice.AddContact(t.Context(), "Carol", number(t, "+447700900003"))
		if !errors.Is(err, wire.OverQuota) || c == 0 {
			t.Fatalf("contact %d, %v; want one, and OverQuota", c, err)
		}
		b.setJudge(only(wire.TopicQuery, wire.OK, true))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := alice.AddContact(ctx, "Dora", number(t, "+447700900004")); !errors.Is(err, wire.Unavailable) {
			t.Errorf("no answer: %v, want Unavailable", err)
		}
		b.setJudge(nil)
		again, err := alice.AddContact(t.Context(), "Carol B", number(t, "+447700900003"))
		if err != nil || again != c {
			t.Errorf("contact %d, %v; want %d again", again, err, c)
		}
		if got := alice.Contacts()[1]; got.Name != "Carol B" || !got.Known {
			t.Error("not renamed or not known")
		}
	})
}

// A number is looked up once, ever. [P-11]
func TestLookupIsCached(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		n := b.count(wire.TopicQuery)
		alice.contact("Bobby", bobNumber)
		alice.reopen()
		if err := alice.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		talk(t, alice, bob, toBob, toAlice)
		if got := b.count(wire.TopicQuery) - n; got != 0 {
			t.Errorf("%d look-ups more", got)
		}
	})
}

// A publish that is never answered breaks the connection, not the text. [C-2]
func TestBrokerThatSaysNothing(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		b.setJudge(only(wire.TopicInbox, wire.OK, true))
		id := alice.send(toBob, "hello?")
		settle(20 * time.Second)
		alice.wantState(id, Waiting, fallback.PathIP)
		b.setJudge(nil)
		settle(30 * time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if alice.events(Disconnected) == 0 {
			t.Error("the connection was kept")
		}
	})
}

// A handset that is turned off in the middle of everything ends within bounds.
func TestCloseWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, func(c *Config) {
			c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done() // a network that does not answer
				return nil, ctx.Err()
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Enrol(ctx, p.number, p.Notice("en")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("enrol: %v", err)
		}
		begun := time.Now()
		p.close()
		if took := time.Since(begun); took > dialTimeout {
			t.Errorf("Close took %v", took)
		}
		p.open()
	})
}

// The hello of a stranger costs at most a few look-ups at once. [P-11]
func TestLookupsForHellosAreBounded(t *testing.T) {
	l := newLab(t)
	bob := l.device(bobNumber)
	bob.event(func() { bob.self.Visible = Anyone })
	asked := 0
	for i := range maxLookups + 4 {
		s := l.device("+4477009010" + string(rune('0'+i/10)) + string(rune('0'+i%10)))
		c := s.knows("Bob", bob)
		s.write(c, "hi")
		s.event(func() {
			s.message(wire.Topic{Kind: 'b', ID: bob.me()}, bob.model.prekeys[1].open().Bundle().Marshal(), 1)
		})
		init := s.published('h')
		for _, e := range bob.event(func() { bob.message(init.topic, init.payload, uint64(i)) }) {
			if p, ok := e.(publish); ok && p.topic.Kind == wire.TopicQuery {
				asked++
			}
		}
	}
	if asked != maxLookups {
		t.Errorf("%d look-ups under way, want %d", asked, maxLookups)
	}
}

// A second welcome on one connection is ignored; an answer to nothing too.
func TestRepliesOutOfPlace(t *testing.T) {
	l := newLab(t)
	alice := l.device(aliceNumber)
	for _, b := range [][]byte{
		{}, {0}, wire.Welcome{Gen: 9, Tag: wire.Tag{1}}.Marshal(), wire.Answer{Request: 77}.Marshal(),
		wire.Outcome{Message: wire.MessageID{1}, State: wire.JobFailed}.Marshal(),
	} {
		alice.event(func() { alice.reply(b) })
	}
	if alice.link.prune || alice.self.Gen != 0 {
		t.Error("a second welcome was believed")
	}
}

// A broker that always calls a record stale is not followed for ever. [P-6]
func TestStaleOnlyOnce(t *testing.T) {
	l := newLab(t)
	alice := l.device(aliceNumber)
	alice.event(func() { alice.chooseConsent(everything, wire.Listed, 1) })
	for i := range 5 {
		var r *request
		for _, r = range alice.requests {
		}
		if r == nil {
			if i != 2 {
				t.Errorf("gave up after %d answers, want 2", i)
			}
			return
		}
		alice.event(func() {
			alice.answer(wire.Answer{Request: r.id, Code: wire.StaleRecord, Body: []byte{0xff, 0, 0, byte(i)}})
		})
	}
	t.Error("follows for ever")
}
