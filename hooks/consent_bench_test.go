package hooks

import (
	"testing"

	"bluejay/consent"
	"bluejay/wire"
)

// checked is a session that may publish, and what a publish of a text is checked against.
func checked(b testing.TB) (s *session, name string) {
	b.Helper()
	s = &session{self: consent.Self{ID: wire.ID{1}, Tag: wire.Tag{1}}}
	s.access.Store(consent.Access{Enrolled: true, Listed: true, Scopes: everything}.Pack())
	return s, wire.Topic{Kind: wire.TopicInbox, Tag: wire.Tag{7, 8, 9}}.String()
}

// BenchmarkConsent is what consent costs every publish: may this connection, now? It reads two words of the session;
// nothing in it depends on how many users there are. It reads no clock (130 to 220 ns on some machines): the loop
// does that once for each packet, to end what is over. "with topic" has the topic's name read, too. Due: at most 200 ns
// and no allocation; one that allocates fails.
//
//	go test -run '^$' -bench Consent -benchmem ./hooks
func BenchmarkConsent(b *testing.B) {
	s, name := checked(b)
	topic, err := wire.ParseTopic(name)
	if err != nil {
		b.Fatal(err)
	}
	check := func(b *testing.B, may func() wire.Code) {
		b.ReportAllocs()
		if n := testing.AllocsPerRun(100, func() { _ = may() }); n != 0 {
			b.Fatalf("%v allocations", n)
		}
		for b.Loop() {
			if may() != wire.OK {
				b.Fatal("refused")
			}
		}
	}
	b.Run("check", func(b *testing.B) { check(b, func() wire.Code { return s.may(topic) }) })
	b.Run("with topic", func(b *testing.B) {
		check(b, func() wire.Code {
			t, err := wire.ParseTopic(name)
			if err != nil {
				return wire.NotAllowed
			}
			return s.may(t)
		})
	})
}

// TestConsentAllocatesNothing holds the publish path to that in every run of the tests, and to the answers. [P-17]
func TestConsentAllocatesNothing(t *testing.T) {
	s, name := checked(t)
	topic, err := wire.ParseTopic(name)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if s.may(topic) != wire.OK {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations for each publish", n)
	}
	for access, want := range map[consent.Access]wire.Code{{}: wire.NotEnrolled, {Enrolled: true}: wire.NotConsented} {
		s.access.Store(access.Pack())
		if code := s.may(topic); code != want {
			t.Errorf("%+v: %v, want %v", access, code, want)
		}
	}
	s.over.Store(true)
	if code := s.may(topic); code != wire.TakenOver {
		t.Errorf("taken over: %v", code)
	}
}
