package envelope

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// TestHandshake follows the first two messages and reads what each side then knows. [S-2] [S-3] [S-4]
func TestHandshake(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	sa, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	if sa.Established() || !sa.PeerTag().IsZero() || sa.Acked() != NoAck {
		t.Error("a session without its RESP must not look established")
	}
	if _, _, err := sa.Seal(TextFrame("too early"), start); !errors.Is(err, ErrPending) {
		t.Errorf("Seal before the RESP: %v, want ErrPending", err)
	}
	if kind, id, err := Peek(init); kind != KindInit || id != 7 || err != nil {
		t.Errorf("Peek(INIT) = %v, %v, %v", kind, id, err)
	}
	offer, err := OpenInit(b, pre, init, start)
	if err != nil {
		t.Fatal(err)
	}
	if offer.Cert != a.Cert || offer.Number != a.Number || offer.Tag != tagA || offer.Frame.Text != greeting {
		t.Error("the offer does not say what the INIT said")
	}
	if offer.EncHash != sha256.Sum256(init[initHead:initHead+xwingEncLen]) {
		t.Error("EncHash is not SHA-256 of enc")
	}
	sb, resp, err := offer.Respond(b, tagB, ridB, TextFrame(replyText), start)
	if err != nil {
		t.Fatal(err)
	}
	if kind, rid, err := Peek(resp); kind != KindResp || rid != ridA || err != nil {
		t.Errorf("Peek(RESP) = %v, %v, %v", kind, rid, err)
	}
	f, err := sa.OpenResp(resp, start)
	if err != nil || f.Text != replyText {
		t.Fatalf("OpenResp: %v, %v", f, err)
	}
	checkFresh(t, sa, sb, a, b)
	if say(t, sa, sb, "on we go", start) != (Position{1, 0}) || say(t, sb, sa, "yes", start) != (Position{1, 1}) {
		t.Error("the RESP is number 0 of epoch 1 from the responder")
	}
}

// checkFresh compares both sides of a new session through the accessors.
func checkFresh(t *testing.T, sa, sb *Session, a, b Identity) {
	t.Helper()
	type view struct {
		Peer                   wire.ID
		Device                 wire.PublicKey
		Tag                    wire.Tag
		RID                    uint16
		Established, Initiator bool
		Acked                  uint16
	}
	look := func(s *Session) view {
		return view{s.Peer(), s.PeerDevice(), s.PeerTag(), s.RID(), s.Established(), s.Initiator(), s.Acked()}
	}
	wantA := view{b.Cert.ID, b.Cert.Device, tagB, ridA, true, true, 1 << 14} // the RESP is stored
	wantB := view{a.Cert.ID, a.Cert.Device, tagA, ridB, true, false, NoAck}
	if diff := cmp.Diff([]view{wantA, wantB}, []view{look(sa), look(sb)}); diff != "" {
		t.Error(diff)
	}
	if sa.TH() != sb.TH() || sa.TH() == [4]byte{} {
		t.Error("the two sides name the session differently")
	}
}

// TestRespAgain: the stored RESP sent again is a duplicate and changes nothing. [S-4]
func TestRespAgain(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	sa, init, err := Initiate(a, tagA, ridA, pre.Bundle(), AckFrame(NoAck), start)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := OpenInit(b, pre, init, start)
	if err != nil {
		t.Fatal(err)
	}
	_, resp, err := offer.Respond(b, tagB, ridB, AckFrame(NoAck), start)
	if err != nil {
		t.Fatal(err)
	}
	pending := sa.Marshal()
	for bit := 0; bit < len(resp)*8; bit += 5 {
		if _, err := sa.OpenResp(flipped(resp, bit), start); err == nil {
			t.Fatalf("a RESP with bit %d flipped opens", bit)
		}
	}
	if _, err := sa.OpenResp(resp[:len(resp)-1], start); err == nil {
		t.Error("a short RESP opens")
	}
	if !bytes.Equal(pending, sa.Marshal()) {
		t.Error("a refused RESP changed the session")
	}
	sa = reload(t, sa) // the handset restarted while it waited
	if _, err := sa.OpenResp(resp, start); err != nil {
		t.Fatal(err)
	}
	before := sa.Marshal()
	if _, err := sa.OpenResp(resp, start); !errors.Is(err, ErrDuplicate) || !bytes.Equal(before, sa.Marshal()) {
		t.Errorf("the RESP again: %v, want ErrDuplicate and no change", err)
	}
}

// TestOpenInitRefuses: damage, the wrong prekey, time and shape. [S-3]
func TestOpenInitRefuses(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	_, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	for bit := 0; bit < len(init)*8; bit += 211 {
		if _, err := OpenInit(b, pre, flipped(init, bit), start); err == nil {
			t.Fatalf("an INIT with bit %d flipped opens", bit)
		}
	}
	elsewhere := b
	elsewhere.Registrar = publicOf(seeded(1))
	cases := []struct {
		name string
		self Identity
		pre  *Prekey
		msg  []byte
		now  time.Time
		want error
	}{
		{"another prekey of the same number", b, prekeyOf(t, b, 7), init, start, ErrUnreadable},
		{"another prekey", b, prekeyOf(t, b, 8), init, start, ErrUnreadable},
		{"no prekey", b, nil, init, start, wire.ErrMalformed},
		{"too short", b, pre, init[:len(init)-1], start, wire.ErrMalformed},
		{"too long", b, pre, append(bytes.Clone(init), make([]byte, MaxInit)...), start, wire.ErrMalformed},
		{"not an INIT", b, pre, append([]byte{2}, init[1:]...), start, wire.ErrMalformed},
		{"last moment", b, pre, init, start.Add(PrekeyLife + PrekeyGrace), nil},
		{"prekey past its grace", b, pre, init, start.Add(PrekeyLife + PrekeyGrace + time.Second), wire.ErrExpired},
		{"issued in the future", b, pre, init, start.Add(-2 * wire.ClockSkew), wire.ErrExpired},
		{"another registrar", elsewhere, pre, init, start, wire.ErrSignature},
	}
	for _, c := range cases {
		if _, err := OpenInit(c.self, c.pre, c.msg, c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestOpenInitForged: an INIT whose inside was made by someone without A's device key. [S-2] [S-3]
func TestOpenInitForged(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	forged := a
	forged.Device = seeded(0xee) // A's certificate, another key
	_, init, err := Initiate(forged, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenInit(b, pre, init, start); !errors.Is(err, wire.ErrSignature) {
		t.Errorf("signed by another device: %v, want ErrSignature", err)
	}
	unnumbered := a
	unnumbered.Number = wire.Number{}
	_, init, err = Initiate(unnumbered, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenInit(b, pre, init, start); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("without a number: %v, want malformed", err)
	}
	self := b
	self.Cert.ID[0]++ // sealed as somebody else, then claimed to be B
	_, init, err = Initiate(self, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenInit(b, pre, init, start); !errors.Is(err, wire.ErrSignature) {
		t.Errorf("a certificate that was changed: %v, want ErrSignature", err)
	}
}

// TestNoReplayToAnotherBundle: the same INIT under another bundle of the same prekey does not open,
// because the info and the transcript name the bundle. [S-2]
func TestNoReplayToAnotherBundle(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	_, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	moved := *pre
	moved.bundle.NotAfter++
	moved.bundle.Sign(b.Device)
	moved.hash = sha256.Sum256(moved.bundle.Marshal())
	if _, err := OpenInit(b, &moved, init, start); !errors.Is(err, ErrUnreadable) {
		t.Errorf("error %v, want ErrUnreadable", err)
	}
}

// TestInitiateRefuses: bundles that do not verify, this user's own, and what the hello lane cannot
// carry. [S-2]
func TestInitiateRefuses(t *testing.T) {
	a, b := alice(t), bob(t)
	good := prekeyOf(t, b, 7).Bundle()
	tampered := *good
	tampered.Prekey[100] ^= 1
	cases := []struct {
		name string
		self Identity
		peer *wire.Bundle
		f    Frame
		now  time.Time
		want error
	}{
		{"no bundle", a, nil, AckFrame(NoAck), start, wire.ErrMalformed},
		{"own bundle", b, good, AckFrame(NoAck), start, wire.ErrMalformed},
		{"no device key", Identity{Cert: a.Cert, Registrar: a.Registrar}, good, AckFrame(NoAck), start, wire.ErrMalformed},
		{"tampered", a, &tampered, AckFrame(NoAck), start, wire.ErrSignature},
		{"prekey too old", a, good, AckFrame(NoAck), start.Add(PrekeyLife + time.Second), wire.ErrExpired},
		{"672 bytes of frame", a, good, TextFrame(strings.Repeat("ж", 334)), start, nil},
		{"688 bytes of frame", a, good, TextFrame(strings.Repeat("ж", 335)), start, ErrTooLong},
		{"empty text", a, good, TextFrame(""), start, wire.ErrMalformed},
	}
	for _, c := range cases {
		s, init, err := Initiate(c.self, tagA, ridA, c.peer, c.f, c.now)
		if !errors.Is(err, c.want) || (err == nil) != (s != nil && len(init) <= MaxInit) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestTwoOffers: opening an INIT twice, and answering it twice, gives two sessions with nothing in
// common but their beginning. [S-3]
func TestTwoOffers(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	_, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	var roots [][32]byte
	for range 2 {
		offer, err := OpenInit(b, pre, init, start)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s, _, err := offer.Respond(b, tagB, ridB, AckFrame(NoAck), start)
			if err != nil {
				t.Fatal(err)
			}
			roots = append(roots, s.root)
		}
	}
	for i := range roots {
		for j := range i {
			if roots[i] == roots[j] {
				t.Error("two answers to one INIT share their keys")
			}
		}
	}
}

// TestLowOrder: an ephemeral of low order, whose shared secret everybody knows, is refused. [S-4]
func TestLowOrder(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	_, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := OpenInit(b, pre, init, start)
	if err != nil {
		t.Fatal(err)
	}
	offer.theirs = [32]byte{1}
	if _, _, err := offer.Respond(b, tagB, ridB, AckFrame(NoAck), start); !errors.Is(err, ErrUnreadable) {
		t.Errorf("error %v, want ErrUnreadable", err)
	}
}

// TestPreferred: of two sessions begun at once, both sides send in the one of the smaller ID. [S-9]
func TestPreferred(t *testing.T) {
	a, b := alice(t), bob(t)
	if a.Cert.ID.Compare(b.Cert.ID) >= 0 {
		t.Fatal("the test wants A's ID to be the smaller")
	}
	a1, b1 := handshake(t, a, b, prekeyOf(t, b, 1), start)
	b2, a2 := handshake(t, b, a, prekeyOf(t, a, 1), start)
	for _, pair := range [][2]*Session{{a1, a2}, {a2, a1}} {
		if Preferred(a.Cert.ID, pair[0], pair[1]) != a1 {
			t.Error("A prefers the session B began")
		}
	}
	for _, pair := range [][2]*Session{{b1, b2}, {b2, b1}} {
		if Preferred(b.Cert.ID, pair[0], pair[1]) != b1 {
			t.Error("B prefers the session it began")
		}
	}
	say(t, a1, b1, "in the preferred one", start)
	say(t, b2, a2, "and the other still receives", start)
}

// FuzzOpenInit feeds the hello lane's decoder; what opens must be this INIT and no other.
func FuzzOpenInit(f *testing.F) {
	a, b := alice(f), bob(f)
	pre := prekeyOf(f, b, 7)
	_, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(init)
	f.Add(init[:InitOverhead+frameBlock-1])
	f.Fuzz(func(t *testing.T, msg []byte) {
		if _, err := OpenInit(b, pre, msg, start); err == nil && !bytes.Equal(msg, init) {
			t.Error("an INIT nobody sealed opens")
		}
	})
}

// FuzzParseInner feeds what stands inside an INIT, which any enrolled device can write.
func FuzzParseInner(f *testing.F) {
	o := opening{self: alice(f), tag: tagA, s: &Session{rid: ridA}}
	frame, err := TextFrame(greeting).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(append(o.signedPart(0), make([]byte, 64)...), frame...))
	f.Fuzz(func(t *testing.T, inner []byte) {
		if len(inner) < innerHead { // OpenInit makes sure
			return
		}
		if offer, err := parseInner(inner); err == nil && offer.Number.IsZero() {
			t.Error("an offer without a number")
		}
	})
}

// FuzzOpenResp feeds a pending session.
func FuzzOpenResp(f *testing.F) {
	a, b := alice(f), bob(f)
	pre := prekeyOf(f, b, 7)
	sa, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(greeting), start)
	if err != nil {
		f.Fatal(err)
	}
	offer, err := OpenInit(b, pre, init, start)
	if err != nil {
		f.Fatal(err)
	}
	_, resp, err := offer.Respond(b, tagB, ridB, AckFrame(NoAck), start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(resp)
	f.Add(resp[:RespOverhead])
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := reload(t, sa)
		if _, err := s.OpenResp(msg, start); err == nil != bytes.Equal(msg, resp) {
			t.Errorf("error %v", err)
		}
	})
}
