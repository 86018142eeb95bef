package handset

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// shownTexts lists what a phone shows of what came in, as "text", "text +" when also by SMS.
func shownTexts(p *phone, c ContactID) []string {
	var out []string
	for _, t := range p.Texts(c) {
		switch {
		case t.Out:
		case t.AlsoSMS:
			out = append(out, t.Body+" +")
		default:
			out = append(out, t.Body)
		}
	}
	return out
}

// An SMS copy is folded into its text, whichever comes first; one text absorbs one SMS. [U-9]
func TestFolding(t *testing.T) {
	const window = fallback.FoldWindow
	tests := []struct {
		name  string
		first string // what comes first: "ip" or "sms"
		gap   time.Duration
		sms   []string
		want  []string
	}{
		{"SMS after", "ip", time.Minute, []string{"“hi”"}, []string{"“hi” +"}},
		{"SMS before", "sms", time.Minute, []string{"“hi”"}, []string{"“hi” +"}},
		{"transliterated", "ip", time.Minute, []string{`"hi"`}, []string{"“hi” +"}},
		{"another text", "ip", time.Minute, []string{"hello"}, []string{"“hi”", "hello"}},
		{"too late", "ip", window + time.Minute, []string{"“hi”"}, []string{"“hi”", "“hi”"}},
		{"twice", "ip", time.Minute, []string{"“hi”", "“hi”"}, []string{"“hi” +", "“hi”"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
				sms := func() {
					for _, s := range tt.sms {
						if err := bob.ReceiveSMS(alice.number, s); err != nil {
							t.Fatal(err)
						}
					}
				}
				if tt.first == "sms" {
					sms()
					settle(tt.gap)
				}
				alice.send(toBob, "“hi”")
				settle(time.Second)
				if tt.first == "ip" {
					settle(tt.gap)
					sms()
				}
				if got := shownTexts(bob, toAlice); !slices.Equal(got, tt.want) {
					t.Errorf("shown %q, want %q", got, tt.want)
				}
				if n := len(bob.store.under(keyText)); n != 1+len(tt.sms) {
					t.Errorf("%d texts are kept, want %d: an SMS is never deleted", n, 1+len(tt.sms))
				}
			})
		})
	}
}

// The "From" line is believed of a configured gateway only. [U-9] [F-6]
func TestGatewaySender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		gateway, other := number(t, "+447700900900"), number(t, "+447700900901")
		bob := newPhone(t, b, bobNumber, func(c *Config) { c.Gateways = []wire.Number{gateway} })
		alice := bob.contact("Alice", aliceNumber)
		bob.contact("Other", "+447700900901")
		line := fallback.WithSender(aliceNumber, "by the gateway")
		for _, from := range []wire.Number{gateway, other, number(t, "+447700900902")} {
			if err := bob.ReceiveSMS(from, line); err != nil {
				t.Fatal(err)
			}
		}
		if got := shownTexts(bob, alice); !slices.Equal(got, []string{"by the gateway"}) {
			t.Errorf("from Alice: %q", got)
		}
		if n := len(bob.bodies()); n != 2 {
			t.Errorf("%d texts are shown, want 2: the third has no conversation", n)
		}
	})
}

// Delivered over IP and by SMS is one text marked so, at its sender too. [U-9]
func TestRespAfterSMS(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		b.setJudge(func(_ wire.ID, t wire.Topic, _ []byte) (wire.Code, bool) { return wire.OK, t.Kind == wire.TopicBundle })
		var release []func()
		b.setJudge(func(from wire.ID, t wire.Topic, body []byte) (wire.Code, bool) {
			if t.Kind != wire.TopicInbox {
				return wire.OK, false
			}
			release = append(release, func() {
				for o := range b.conns {
					if o.tag == t.Tag {
						o.send(t, body, 1, nil)
					}
				}
			})
			return wire.OK, true
		})
		id := alice.send(toBob, "slow")
		settle(11 * time.Second)
		alice.wantState(id, SMSSent, fallback.PathDevice)
		b.mu.Lock()
		for _, f := range release {
			f()
		}
		b.mu.Unlock()
		settle(time.Second)
		alice.wantState(id, Delivered, fallback.PathIP)
		if !alice.text(id).AlsoSMS {
			t.Error("not marked as also sent by SMS")
		}
	})
}

// Texts that were shown are acknowledged alone at most once in 30 s, and not at all when a reply
// carries the acknowledgement. [S-10]
func TestAcknowledgements(t *testing.T) {
	for _, reply := range []bool{false, true} {
		t.Run(fmt.Sprintf("reply %v", reply), func(t *testing.T) {
			pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
				talk(t, alice, bob, toBob, toAlice)
				settle(2 * time.Minute)
				before := b.count(wire.TopicInbox)
				for i := range 5 {
					alice.send(toBob, fmt.Sprint(i))
				}
				settle(time.Second)
				want := 5 + 1
				if reply {
					bob.send(toAlice, "seen") // and Alice acknowledges that
				}
				settle(2 * time.Minute)
				if reply {
					want++
				}
				if got := b.count(wire.TopicInbox) - before; got != want {
					t.Errorf("%d messages, want %d", got, want)
				}
			})
		})
	}
}
