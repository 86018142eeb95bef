package handset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// Someone who never answers is grey after ten seconds, and the text goes by SMS. [U-2] [U-3]
func TestUnansweredGoesBySMS(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
		if err := bob.Disconnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		id := alice.send(toBob, "Are you there?")
		settle(9 * time.Second)
		alice.wantState(id, Waiting, fallback.PathWait)
		settle(2 * time.Second)
		alice.wantState(id, SMSSent, fallback.PathDevice)
		second := alice.send(toBob, "Hello?") // known to be grey: no waiting now
		settle(time.Millisecond)
		alice.wantState(second, SMSSent, fallback.PathDevice)
		if diff := cmp.Diff([]string{"Are you there?", "Hello?"}, alice.sim.texts()); diff != "" {
			t.Error(diff)
		}
		if got := alice.text(id); got.Parts != 1 || got.Action != CanDelete {
			t.Errorf("parts %d, action %v", got.Parts, got.Action)
		}
		if err := alice.SMSDelivered(id); err != nil {
			t.Error(err)
		}
		alice.wantState(id, SMSDelivered, fallback.PathDevice)
	})
}

// talk opens a conversation, so that both are blue to each other.
func talk(t *testing.T, alice, bob *phone, toBob, toAlice ContactID) {
	t.Helper()
	alice.send(toBob, "hello")
	settle(time.Second)
	bob.send(toAlice, "hello yourself")
	settle(time.Second)
	if alice.Contacts()[0].Colour != Blue || bob.Contacts()[0].Colour != Blue {
		t.Fatal("the conversation did not open")
	}
}

// What was shown as blue is not silently sent by SMS; the user chooses. The icon is grey at once. [U-2] [U-3]
func TestUndeliverableAsks(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		withdraw(t, alice, wire.ScopeMessaging|wire.ScopePresence)
		talk(t, alice, bob, toBob, toAlice)
		b.setJudge(func(_ wire.ID, t wire.Topic, _ []byte) (wire.Code, bool) {
			if t.Kind == wire.TopicInbox {
				return wire.NoRecipient, false
			}
			return wire.OK, false
		})
		id := alice.send(toBob, "still there?")
		settle(time.Second)
		alice.wantState(id, Waiting, fallback.PathAsk)
		got := alice.text(id)
		if got.Action != CanChoose || got.Why != fallback.WhyWasBlue || !slices.Equal(got.Offers, []fallback.Path{fallback.PathDevice}) {
			t.Errorf("action %v because %v, offers %v", got.Action, got.Why, got.Offers)
		}
		if alice.Contacts()[0].Colour != Grey {
			t.Error("still blue after an undeliverable notice")
		}
		if err := alice.SendAgain(t.Context(), id, fallback.PathDevice); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		alice.wantState(id, SMSSent, fallback.PathDevice)
	})
}

func withdraw(t *testing.T, p *phone, keep wire.Scope) {
	t.Helper()
	if err := p.OptIn(t.Context(), keep, wire.Listed); err != nil {
		t.Fatal(err)
	}
}

// Each refusal of a publish has one meaning for the text. [U-3]
func TestResultsOfAPublish(t *testing.T) {
	tests := []struct {
		code  wire.Code
		state State
		path  fallback.Path
	}{
		{wire.NoRecipient, SMSSent, fallback.PathDevice},
		{wire.Unreadable, SMSSent, fallback.PathDevice}, // its one hello this hour is spent
		{wire.OverQuota, Waiting, fallback.PathIP},
		{wire.Unavailable, Waiting, fallback.PathIP},
		{wire.TooLarge, Failed, fallback.PathIP},
		{wire.NotAllowed, Failed, fallback.PathIP},
		{wire.NotConsented, SMSSent, fallback.PathDevice},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(byte(tt.code)), func(t *testing.T) {
			pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
				talk(t, alice, bob, toBob, toAlice)
				if err := alice.SetMode(toBob, fallback.ModeDevice); err != nil {
					t.Fatal(err)
				}
				b.setJudge(func(_ wire.ID, t wire.Topic, _ []byte) (wire.Code, bool) {
					if t.Kind == wire.TopicInbox {
						return tt.code, false
					}
					return wire.OK, false
				})
				id := alice.send(toBob, "a text")
				settle(time.Second)
				alice.wantState(id, tt.state, tt.path)
			})
		})
	}
}

// What the broker could not take is sent again as the same bytes, later and later. [U-3]
func TestTriesAgainLater(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		refuse, seen := 4, map[string]int{}
		b.setJudge(func(_ wire.ID, t wire.Topic, body []byte) (wire.Code, bool) {
			if t.Kind == wire.TopicInbox && len(body) < 1000 {
				seen[string(body)]++
			}
			if refuse--; refuse >= 0 {
				return wire.Unavailable, false
			}
			return wire.OK, false
		})
		id := alice.send(toBob, "please")
		settle(20 * time.Second)
		alice.wantState(id, Waiting, fallback.PathIP)
		settle(2 * time.Minute)
		alice.wantState(id, Delivered, fallback.PathIP)
		if n := slices.Max(slices.Collect(mapValues(seen))); n != 5 {
			t.Errorf("the same bytes were sent %d times, want 5", n)
		}
	})
}

func mapValues[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// A PUBACK that is lost with the connection: the same bytes again, shown once. [U-9]
func TestResendAfterBrokenConnection(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		var seen []string
		b.setJudge(func(from wire.ID, t wire.Topic, body []byte) (wire.Code, bool) {
			if t.Kind != wire.TopicInbox {
				return wire.OK, false
			}
			if seen = append(seen, string(body)); len(seen) == 1 {
				for o := range b.conns { // it arrives, and nobody is told
					if o.tag == t.Tag {
						o.send(t, body, 1, nil)
					}
				}
				return wire.OK, true
			}
			return wire.OK, false
		})
		id := alice.send(toBob, "once")
		settle(time.Second)
		alice.wantState(id, Waiting, fallback.PathIP)
		b.cut(alice.Status().ID)
		settle(5 * time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := bob.bodies(); !slices.Equal(got, []string{"hello", "once"}) {
			t.Errorf("Bob sees %q", got)
		}
		if len(seen) != 2 || seen[0] != seen[1] {
			t.Errorf("sent %d times, want the same bytes twice", len(seen))
		}
	})
}

// Many texts stay in order and within the broker's window. [U-3]
func TestManyTextsInOrder(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		want := bob.bodies()
		for i := range 150 {
			body := fmt.Sprintf("text %d", i)
			alice.send(toBob, body)
			want = append(want, body)
		}
		settle(time.Minute)
		if diff := cmp.Diff(want, bob.bodies()); diff != "" {
			t.Error(diff)
		}
		for _, x := range alice.Texts(toBob) {
			if x.Out && x.State != Delivered {
				t.Fatalf("text %d is %v", x.ID, x.State)
			}
		}
	})
}

// Without a connection of our own everyone is grey after a while, and the policy decides. [U-2]
func TestNoConnectionOfOurOwn(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		b.setRefuse(3)
		b.cut(alice.Status().ID)
		settle(time.Second)
		if err := alice.SetMode(toBob, fallback.ModeDevice); err != nil {
			t.Fatal(err)
		}
		id := alice.send(toBob, "no network")
		settle(20 * time.Second)
		alice.wantState(id, Waiting, fallback.PathWait)
		settle(20 * time.Second)
		alice.wantState(id, SMSSent, fallback.PathDevice)
		if alice.Contacts()[0].Colour != Grey {
			t.Error("blue without a connection")
		}
	})
}

// A text that waits goes over IP as soon as the contact is blue again. [U-2]
func TestWaitsForBlue(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		if err := bob.Disconnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		id := alice.send(toBob, "when you can")
		settle(time.Hour)
		alice.wantState(id, Waiting, fallback.PathWait)
		if err := bob.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
	})
}

// gatewayPair is a pair whose sender has no SIM and wants the gateway.
func gatewayPair(t *testing.T, test func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID)) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		alice := newPhone(t, b, aliceNumber, func(c *Config) { c.SIM, c.Policy.Mode = nil, fallback.ModeGateway })
		bob := newPhone(t, b, bobNumber, nil)
		alice.join(everything)
		bob.join(everything)
		bob.contact("Alice", aliceNumber)
		test(t, b, alice, bob, alice.contact("Bob", bobNumber))
	})
}

// The states of a job become the states of its text. [F-7] [U-3]
func TestOutcomes(t *testing.T) {
	tests := []struct {
		job   wire.JobState
		state State
	}{
		{wire.JobQueued, Waiting},
		{wire.JobSubmitted, SMSSent},
		{wire.JobDelivered, SMSDelivered},
		{wire.JobUndeliverable, Failed},
		{wire.JobExpired, Failed},
		{wire.JobRejected, Failed},
		{wire.JobNoReceipt, SMSSent},
		{wire.JobFailed, Failed},
		{wire.JobUnknown, Failed},
		{wire.JobSuppressed, Failed},
		{wire.JobCapped, Failed},
		{wire.JobSimulated, SMSSent},
	}
	for _, tt := range tests {
		t.Run(tt.job.String(), func(t *testing.T) {
			gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
				_ = bob.Disconnect(t.Context())
				id := alice.send(toBob, "by the gateway")
				settle(11 * time.Second)
				alice.wantState(id, Waiting, fallback.PathGateway)
				b.outcome(tt.job)
				settle(time.Second)
				alice.wantState(id, tt.state, fallback.PathGateway)
				if got := alice.text(id); got.Job != tt.job || tt.state == Failed && got.Action != CanSendAgain {
					t.Errorf("job %v, action %v", got.Job, got.Action)
				}
				b.outcome(wire.JobSubmitted) // a late word changes nothing that is final
				settle(time.Second)
				if tt.job.Final() {
					alice.wantState(id, tt.state, fallback.PathGateway)
				}
			})
		})
	}
}

// The job says to whom, from whom and what, and only the worker can read it. [F-3]
func TestJobIsSealedToTheWorker(t *testing.T) {
	gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
		_ = bob.Disconnect(t.Context())
		alice.send(toBob, "sealed")
		settle(11 * time.Second)
		jobs := b.queued()
		if len(jobs) != 1 {
			t.Fatalf("%d jobs, want 1", len(jobs))
		}
		for _, j := range jobs {
			if j.job.To != bob.number || j.job.From != alice.number || j.job.Text != "sealed" || j.job.Class != wire.ClassNormal {
				t.Error("the job does not say what was meant")
			}
			if life := time.Until(j.job.ExpiresAt); life > 12*time.Hour || life < 11*time.Hour {
				t.Errorf("the job lives %v, want 12 h", life)
			}
		}
	})
}

// A contact that comes back before the SMS was submitted gets the text over IP. [F-10]
func TestRecall(t *testing.T) {
	for _, wrote := range []bool{false, true} {
		t.Run(fmt.Sprintf("submitted %v", wrote), func(t *testing.T) {
			gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
				alice.send(toBob, "first")
				settle(time.Second)
				_ = bob.Disconnect(t.Context())
				settle(time.Second)
				id := alice.send(toBob, "second")
				settle(time.Second)
				alice.wantState(id, Waiting, fallback.PathGateway)
				b.setWrote(wrote)
				if err := bob.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				settle(time.Second)
				if wrote {
					alice.wantState(id, Waiting, fallback.PathGateway)
					return
				}
				alice.wantState(id, Delivered, fallback.PathIP)
				if len(b.queued()) != 0 {
					t.Error("the job is still queued")
				}
			})
		})
	}
}

// Cancel takes back what only this phone holds, at once; a job if the gateway agrees. [U-3]
func TestCancel(t *testing.T) {
	gatewayPair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob ContactID) {
		_ = bob.Disconnect(t.Context())
		waiting := alice.send(toBob, "not yet")
		settle(time.Second)
		if err := alice.Cancel(t.Context(), waiting); err != nil {
			t.Fatal(err)
		}
		if got := alice.text(waiting); got.State != Failed || !got.Cancelled {
			t.Errorf("cancelled: %v", got)
		}
		queued := alice.send(toBob, "queued")
		settle(11 * time.Second)
		alice.wantState(queued, Waiting, fallback.PathGateway)
		if err := alice.Cancel(t.Context(), queued); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if got := alice.text(queued); got.State != Failed || !got.Cancelled || len(b.queued()) != 0 {
			t.Errorf("cancelled job: %v, %d jobs left", got, len(b.queued()))
		}
		if err := alice.Cancel(t.Context(), queued); !errors.Is(err, ErrNoText) {
			t.Errorf("cancel again: %v, want ErrNoText", err)
		}
	})
}

// A failing SIM fails the text; the user sends it again. [U-3]
func TestSIMFails(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, _ ContactID) {
		_ = bob.Disconnect(t.Context())
		alice.sim.err = errNoSignal
		id := alice.send(toBob, "no signal")
		settle(11 * time.Second)
		alice.wantState(id, Failed, fallback.PathDevice)
		alice.sim.mu.Lock()
		alice.sim.err = nil
		alice.sim.mu.Unlock()
		if err := alice.SendAgain(t.Context(), id, fallback.PathDevice); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		alice.wantState(id, SMSSent, fallback.PathDevice)
	})
}

// Short codes are never looked up, and always the phone's own SMS. [U-11]
func TestShortCode(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, _, _ ContactID) {
		lookups := b.count(wire.TopicQuery)
		id, err := alice.AddDialled("My bank", "72535")
		if err != nil {
			t.Fatal(err)
		}
		text := alice.send(id, "BALANCE")
		settle(time.Second)
		alice.wantState(text, SMSSent, fallback.PathDevice)
		if b.count(wire.TopicQuery) != lookups {
			t.Error("a short code was looked up")
		}
		if _, err := alice.AddDialled("Bob", bobNumber); !errors.Is(err, ErrNoContact) {
			t.Errorf("a whole number as a short code: %v", err)
		}
	})
}

// What cannot be a text is refused before anything is stored. [U-3]
func TestRefusedTexts(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, toBob, _ ContactID) {
		tests := []struct {
			contact ContactID
			body    string
			want    error
		}{
			{toBob, "", ErrTooLong},
			{toBob, strings.Repeat("é", 1601), ErrTooLong},
			{toBob, "\xff\xfe", ErrTooLong},
			{toBob + 9, "x", ErrNoContact},
		}
		for _, tt := range tests {
			if _, err := alice.Send(t.Context(), tt.contact, tt.body); !errors.Is(err, tt.want) {
				t.Errorf("%d characters to %d: %v, want %v", len(tt.body), tt.contact, err, tt.want)
			}
		}
		if n := len(alice.Texts(toBob)); n != 0 {
			t.Errorf("%d texts stored", n)
		}
	})
}

// The longest text of any script fits a packet that the broker takes, and arrives whole. [M-1]
func TestLongestTexts(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		for _, c := range []string{"a", "好", "😀"} {
			text := strings.Repeat(c, envelope.MaxText)
			id := alice.send(toBob, text)
			settle(time.Second)
			alice.wantState(id, Delivered, fallback.PathIP)
			if got := bob.Texts(toAlice); got[len(got)-1].Body != text {
				t.Errorf("%d × %q did not arrive whole", envelope.MaxText, c)
			}
		}
	})
}
