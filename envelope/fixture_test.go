package envelope

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"bluejay/wire"
)

// start is when every test begins.
var start = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

const (
	day       = 24 * time.Hour
	ridA      = 0x0a0a
	ridB      = 0x0b0b
	thirty    = "Hi Bob, are you coming tonight" // 30 characters
	greeting  = "first text"
	replyText = "reply"
)

var (
	tagA = wire.Tag{0xa, 1, 2, 3, 4, 5, 6, 7, 8}
	tagB = wire.Tag{0xb, 1, 2, 3, 4, 5, 6, 7, 8}
)

func seeded(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func registrarKey() ed25519.PrivateKey { return seeded(0xcc) }

func publicOf(k ed25519.PrivateKey) wire.PublicKey { return wire.PublicKey(k[32:]) }

func number(t testing.TB, s string) wire.Number {
	t.Helper()
	n, err := wire.ParseNumber(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// identity is a certified device; who seeds its ID and its key.
func identity(t testing.TB, who byte, e164 string) Identity {
	t.Helper()
	device := seeded(who)
	cert := wire.Certificate{ID: wire.ID{who, 1, 2}, Device: publicOf(device), IssuedAt: wire.Unix32(start), LifetimeHours: 180 * 24, KID: 1}
	cert.Sign(registrarKey())
	return Identity{Cert: cert, Device: device, Number: number(t, e164), Registrar: publicOf(registrarKey())}
}

func alice(t testing.TB) Identity { return identity(t, 0xa1, "+447700900123") }
func bob(t testing.TB) Identity   { return identity(t, 0xb2, "+4915112345678") }

func prekeyOf(t testing.TB, self Identity, id uint16) *Prekey {
	t.Helper()
	p, err := NewPrekey(self, id, start.Add(PrekeyLife))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// handshake opens a session from a to the owner of pre.
func handshake(t testing.TB, from, to Identity, pre *Prekey, now time.Time) (a, b *Session) {
	t.Helper()
	a, init, err := Initiate(from, tagA, ridA, pre.Bundle(), TextFrame(greeting), now)
	if err != nil {
		t.Fatalf("Initiate: %v", err)
	}
	offer, err := OpenInit(to, pre, init, now)
	if err != nil {
		t.Fatalf("OpenInit: %v", err)
	}
	b, resp, err := offer.Respond(to, tagB, ridB, AckFrame(NoAck), now)
	if err != nil {
		t.Fatalf("Respond: %v", err)
	}
	if _, err := a.OpenResp(resp, now); err != nil {
		t.Fatalf("OpenResp: %v", err)
	}
	return a, b
}

// established is a fresh session, both sides.
func established(t testing.TB) (a, b *Session) {
	t.Helper()
	return handshake(t, alice(t), bob(t), prekeyOf(t, bob(t), 7), start)
}

func mustSeal(t testing.TB, s *Session, text string, now time.Time) ([]byte, Position) {
	t.Helper()
	msg, pos, err := s.Seal(TextFrame(text), now)
	if err != nil {
		t.Fatalf("Seal: %v", err)
	}
	return msg, pos
}

func mustOpen(t testing.TB, s *Session, msg []byte, want string, now time.Time) Position {
	t.Helper()
	f, pos, err := s.Open(msg, now)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	if f.Text != want {
		t.Fatalf("opened another text than %q", want)
	}
	return pos
}

// say sends one text from one side to the other.
func say(t testing.TB, from, to *Session, text string, now time.Time) Position {
	t.Helper()
	msg, _ := mustSeal(t, from, text, now)
	return mustOpen(t, to, msg, text, now)
}

// refused checks that a message does not open, with this error, and that nothing changes. [S-12]
func refused(t testing.TB, s *Session, msg []byte, now time.Time, want error) {
	t.Helper()
	before := s.Marshal()
	if _, _, err := s.Open(msg, now); !errors.Is(err, want) {
		t.Errorf("Open: error %v, want %v", err, want)
	}
	if !bytes.Equal(before, s.Marshal()) {
		t.Errorf("a refused message (%v) changed the session", want)
	}
}

// reload is what is left of a session after a crash.
func reload(t testing.TB, s *Session) *Session {
	t.Helper()
	r, err := ParseSession(s.Marshal())
	if err != nil {
		t.Fatalf("ParseSession: %v", err)
	}
	return r
}

func flipped(b []byte, bit int) []byte {
	c := bytes.Clone(b)
	c[bit/8] ^= 1 << (bit % 8)
	return c
}
