package handset

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/fallback"
)

// The whole way: notice, enrolment, consent, look-up, hello, texts both ways. [U-1] [U-2] [U-3]
func TestFirstConversation(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		first := alice.send(toBob, "Are you coming tonight?")
		settle(time.Second)
		alice.wantState(first, Delivered, fallback.PathIP)
		if diff := cmp.Diff([]string{"Are you coming tonight?"}, bob.bodies()); diff != "" {
			t.Error(diff)
		}
		if c := alice.Contacts()[0]; c.Colour != Blue || !c.Session {
			t.Errorf("Bob is %v, session %v; want blue and a session", c.Colour, c.Session)
		}
		reply := bob.send(toAlice, "Yes, at eight – 好的")
		again := alice.send(toBob, "Good")
		settle(time.Second)
		bob.wantState(reply, Delivered, fallback.PathIP)
		alice.wantState(again, Delivered, fallback.PathIP)
		if diff := cmp.Diff([]string{"Yes, at eight – 好的"}, alice.bodies()); diff != "" {
			t.Error(diff)
		}
		if got := b.count('h'); got != 1 {
			t.Errorf("%d hellos, want 1", got)
		}
	})
}
