package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"bluejay/wire"
)

// midway is a session with everything in it that a store must keep.
func midway(t testing.TB) (a, b *Session) {
	t.Helper()
	a, b = established(t)
	mustSeal(t, a, "lost", start)
	say(t, a, b, "after it", start)
	mustSeal(t, a, "lost too", start.Add(day))
	say(t, a, b, "in epoch 2", start.Add(day))
	return a, b
}

// TestStateRoundTrip: a session reads back as itself at every stage, and goes on. [S-12]
func TestStateRoundTrip(t *testing.T) {
	pending, _, err := Initiate(alice(t), tagA, ridA, prekeyOf(t, bob(t), 1).Bundle(), AckFrame(NoAck), start)
	if err != nil {
		t.Fatal(err)
	}
	a, b := established(t)
	c, d := midway(t)
	for name, s := range map[string]*Session{"pending": pending, "fresh A": a, "fresh B": b, "midway A": c, "midway B": d} {
		if !bytes.Equal(reload(t, s).Marshal(), s.Marshal()) {
			t.Errorf("%s: reads back differently", name)
		}
	}
	if n := len(a.Marshal()); n != 347 {
		t.Errorf("a session without messages under way takes %d bytes, want 347", n)
	}
	if n := len(d.Marshal()); n != MinSession+2*skippedLen {
		t.Errorf("with two overtaken messages %d bytes, want %d", n, MinSession+2*skippedLen)
	}
	say(t, reload(t, c), reload(t, d), "and goes on", start.Add(day))
}

// TestParseSessionRefuses: what Marshal could not have written. [S-12]
func TestParseSessionRefuses(t *testing.T) {
	_, s := midway(t)
	good := s.Marshal()
	const (
		atEpoch   = 1 + 1 + 2 + 2 + 12 + 32 + 9 + 6 + 4
		atCount   = atEpoch + 4
		atSendN   = sessionHead - 2
		atRecvN   = sessionHead + 32
		atSeen    = sessionHead + 34 + 4
		atSkipped = atSeen + maxRead/8
	)
	set := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	cases := map[string][]byte{
		"empty": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
		"head only": good[:sessionHead], "huge": make([]byte, MaxSession+1),
		"version":                           set(0, 2),
		"unknown flag":                      set(1, good[1]|8),
		"established in epoch 0":            set(atEpoch, 0, 0, 0, 0),
		"pending responder":                 set(1, 0),
		"announces out of turn":             set(1, good[1]|flagAnnounce),
		"count":                             set(atCount, 0xff, 0xff),
		"send number":                       set(atSendN, 0, maxRead+1),
		"receive number":                    set(atRecvN, 0, maxRead+1),
		"a number above the chain was seen": set(atSeen+15, 0x80),
		"skipped and seen":                  set(atSeen, good[atSeen]|1),
		"more skipped than there are":       set(atSkipped, 200),
		"skipped twice as many":             set(atSkipped, 127),
	}
	for name, b := range cases {
		if _, err := ParseSession(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
	if binary.BigEndian.Uint32(good[atEpoch:]) != 2 {
		t.Error("the offsets above are wrong")
	}
}

func FuzzParseSession(f *testing.F) {
	a, b := midway(f)
	f.Add(a.Marshal())
	f.Add(b.Marshal())
	f.Add(make([]byte, MinSession))
	msg, _ := mustSeal(f, a, "x", start.Add(day))
	f.Fuzz(func(t *testing.T, state []byte) {
		s, err := ParseSession(state)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Marshal(), state) {
			t.Fatal("a session marshals differently from what it was read from")
		}
		if s.NeedsRenewal(start) && !s.Established() {
			t.Error("a pending session wants renewal")
		}
		_, _, _ = s.Open(msg, start) // whatever the state, no panic
		_, _, _ = s.Seal(AckFrame(s.Acked()), start)
	})
}
