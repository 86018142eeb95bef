package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"bluejay/wire"
)

// TestStepAfter32: the first frame after 32 in an epoch begins the next, if it is this side's turn;
// the ratchet key rides along until a frame of the new epoch comes back. [S-6]
func TestStepAfter32(t *testing.T) {
	a, b := established(t) // the RESP was the first frame of epoch 1
	for i := range stepAfter - 1 {
		if pos := say(t, a, b, "x", start); pos != (Position{1, uint16(i)}) {
			t.Fatalf("frame %d at %v", i, pos)
		}
	}
	for i := range 3 {
		msg, pos := mustSeal(t, a, "new epoch", start)
		if pos != (Position{2, uint16(i)}) || msg[0] != typeMsg|flagRatchet|2 || len(msg) != MsgOverhead+x25519Len+16 {
			t.Fatalf("frame %d of epoch 2: %v, type %x, %d bytes", i, pos, msg[0], len(msg))
		}
		mustOpen(t, b, msg, "new epoch", start)
	}
	if pos := say(t, b, a, "seen", start); pos != (Position{2, 0}) {
		t.Fatalf("B answers at %v, want epoch 2", pos)
	}
	if msg, _ := mustSeal(t, a, "without the key", start); msg[0] != typeMsg|2 {
		t.Errorf("type %x: the key still rides along after an answer", msg[0])
	}
	for b.count < stepAfter {
		say(t, a, b, "x", start)
	}
	if pos := say(t, b, a, "B's turn", start); pos != (Position{3, 0}) {
		t.Errorf("B steps to %v, want epoch 3", pos)
	}
}

// TestStepAfter24h: time steps as well, on the first frame of the side whose turn it is. [S-6]
func TestStepAfter24h(t *testing.T) {
	a, b := established(t)
	if pos := say(t, b, a, "not B's turn", start.Add(25*time.Hour)); pos.Epoch != 1 {
		t.Errorf("B stepped to %v", pos)
	}
	if pos := say(t, a, b, "just before", start.Add(day-time.Second)); pos.Epoch != 1 {
		t.Errorf("A stepped early, to %v", pos)
	}
	if pos := say(t, a, b, "a day on", start.Add(day)); pos != (Position{2, 0}) {
		t.Errorf("A sealed at %v, want epoch 2", pos)
	}
}

// TestStepsCross: B's frame of the old epoch and A's step are under way at the same time. [S-6]
func TestStepsCross(t *testing.T) {
	a, b := established(t)
	old, _ := mustSeal(t, b, "sealed in epoch 1", start.Add(day))
	stepped, _ := mustSeal(t, a, "sealed in epoch 2", start.Add(day))
	mustOpen(t, b, stepped, "sealed in epoch 2", start.Add(day))
	if pos := mustOpen(t, a, old, "sealed in epoch 1", start.Add(day)); pos.Epoch != 1 || !a.announce {
		t.Errorf("an old frame (%v) must not end the announcement", pos)
	}
	next, _ := mustSeal(t, b, "from epoch 2", start.Add(day))
	mustOpen(t, a, next, "from epoch 2", start.Add(day))
	if a.announce {
		t.Error("A still announces after a frame of the epoch")
	}
}

// TestWritesToReader is "A writes 500 texts to a B who only reads": every text arrives, in few
// sessions, and no epoch carries more than it may. [S-6]
func TestWritesToReader(t *testing.T) {
	for _, initiator := range []bool{true, false} {
		t.Run(fmt.Sprint("writer began: ", initiator), func(t *testing.T) {
			writer, reader := established(t)
			if !initiator {
				writer, reader = reader, writer
			}
			sessions, inEpoch := 1, map[Position]int{}
			for i := range 500 {
				text := fmt.Sprint("text ", i)
				msg, pos, err := writer.Seal(TextFrame(text), start)
				if errors.Is(err, ErrRenew) {
					if !writer.NeedsRenewal(start) {
						t.Fatal("NeedsRenewal and Seal disagree")
					}
					writer, reader = established(t)
					sessions++
					continue // the text went inside the INIT
				}
				if err != nil {
					t.Fatal(err)
				}
				mustOpen(t, reader, msg, text, start)
				inEpoch[Position{Epoch: uint32(sessions)<<16 | pos.Epoch}]++
			}
			for _, n := range inEpoch {
				if n > maxWrite {
					t.Errorf("%d frames in one epoch, more than %d", n, maxWrite)
				}
			}
			if sessions < 4 || sessions > 6 {
				t.Errorf("500 texts took %d sessions, want 4 to 6", sessions)
			}
			t.Logf("500 texts: %d sessions, %d epochs", sessions, len(inEpoch))
		})
	}
}

// TestFourDaysSilent is "both silent for 4 days, then either side first": whose turn the step is goes
// on, the other begins anew, and both arrive. [S-6]
func TestFourDaysSilent(t *testing.T) {
	later := start.Add(4 * day)
	for epoch := uint32(1); epoch <= 4; epoch++ {
		for _, first := range []string{"A", "B"} {
			t.Run(fmt.Sprintf("epoch %d, %s first", epoch, first), func(t *testing.T) {
				a, b := established(t)
				for a.epoch < epoch {
					say(t, a, b, "to and", start)
					say(t, b, a, "fro", start)
				}
				for b.epoch < epoch {
					say(t, a, b, "to", start)
				}
				speaker, listener := a, b
				if first == "B" {
					speaker, listener = b, a
				}
				msg, pos, err := speaker.Seal(TextFrame("long time"), later)
				if speaker.mayStep() { // still: Seal failed, so nothing changed
					t.Fatalf("its turn, and did not step: %v", err)
				}
				turn := (epoch%2 == 1) == (first == "A")
				if !turn {
					if !errors.Is(err, ErrRenew) {
						t.Fatalf("not its turn: %v, want ErrRenew", err)
					}
					speaker, listener = handshake(t, alice(t), bob(t), prekeyOf(t, bob(t), 9), later)
				} else {
					if err != nil || pos != (Position{epoch + 1, 0}) {
						t.Fatalf("its turn: %v, %v; want a step", pos, err)
					}
					mustOpen(t, listener, msg, "long time", later)
				}
				say(t, listener, speaker, "indeed", later)
				say(t, speaker, listener, "so it is", later)
			})
		}
	}
}

// TestReadLimits: a receiver refuses at 72 hours and at number 128. [S-6] [S-8]
func TestReadLimits(t *testing.T) {
	a, b := established(t)
	msg, _ := mustSeal(t, b, "slow", start.Add(47*time.Hour))
	refused(t, a, msg, start.Add(maxReadAge), ErrUnreadable)
	mustOpen(t, a, msg, "slow", start.Add(maxReadAge-time.Second))

	if _, _, err := b.Seal(TextFrame("x"), start.Add(maxWriteAge)); !errors.Is(err, ErrRenew) {
		t.Errorf("sealing at 48 h out of turn: %v, want ErrRenew", err)
	}
	for n := range uint16(maxRead + 2) { // a sender that ignores its own limit
		key, err := b.send.step()
		if err != nil {
			t.Fatal(err)
		}
		_ = n
		frame, err := TextFrame("x").Marshal()
		if err != nil {
			t.Fatal(err)
		}
		at := b.send.n - 1
		msg, err := aeadSeal(&key, b.head(at), frame)
		if err != nil {
			t.Fatal(err)
		}
		if at >= maxRead {
			refused(t, a, msg, start, ErrUnreadable)
			break
		}
		if at == maxRead-1 {
			mustOpen(t, a, msg, "x", start)
		}
	}
}

// TestClockSetBack: an epoch that seems to begin in the future is a young one. [S-6]
func TestClockSetBack(t *testing.T) {
	a, b := established(t)
	say(t, a, b, "yesterday", start.Add(-day))
	say(t, b, a, "indeed", start.Add(-30*day))
}

// TestOverloadedEpochs opens the numbers of two epochs in random order: keys that are skipped are
// kept, within 256 over two epochs. [S-7]
func TestOverloadedEpochs(t *testing.T) {
	a, b := established(t)
	msgs := map[string][]byte{}
	for i := range stepAfter - 1 + maxWrite {
		text := fmt.Sprint("text ", i)
		msgs[text], _ = mustSeal(t, a, text, start)
	}
	order := make([]string, 0, len(msgs))
	for i := range stepAfter - 1 + maxWrite {
		order = append(order, fmt.Sprint("text ", i))
	}
	r := rand.New(rand.NewPCG(2, 2))
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	most := 0
	for _, text := range order {
		mustOpen(t, b, msgs[text], text, start)
		b = reload(t, b)
		most = max(most, len(b.recv[0].skipped)+len(b.recv[1].skipped))
	}
	if most == 0 || most > 256 || len(b.Marshal()) != MinSession {
		t.Errorf("most %d keys kept at once, %d bytes at the end", most, len(b.Marshal()))
	}
	for _, text := range order {
		refused(t, b, msgs[text], start, ErrDuplicate)
	}
}

// TestDuplicate: the same bytes again, at once, late, and after a restart. [S-7]
func TestDuplicate(t *testing.T) {
	a, b := established(t)
	first, _ := mustSeal(t, a, "first", start)
	second, _ := mustSeal(t, a, "second", start)
	mustOpen(t, b, second, "second", start)
	refused(t, b, second, start, ErrDuplicate)
	mustOpen(t, b, first, "first", start)
	refused(t, b, first, start, ErrDuplicate)
	b = reload(t, b)
	refused(t, b, second, start, ErrDuplicate)
	say(t, a, b, "a day on", start.Add(day)) // epoch 2
	refused(t, b, first, start.Add(day), ErrDuplicate)
}

// TestOpenRefuses: damage anywhere, other sessions, shapes, epochs that are gone. Nothing changes.
// [S-8] [S-12]
func TestOpenRefuses(t *testing.T) {
	a, b := established(t)
	msg, _ := mustSeal(t, a, thirty, start)
	for bit := range len(msg) * 8 {
		before := b.Marshal()
		if _, _, err := b.Open(flipped(msg, bit), start); err == nil || !bytes.Equal(before, b.Marshal()) {
			t.Fatalf("bit %d flipped: error %v", bit, err)
		}
	}
	for n := range len(msg) {
		refused(t, b, msg[:n], start, malformedOr(n, len(msg)))
	}
	refused(t, b, append(bytes.Clone(msg), make([]byte, maxFrame)...), start, wire.ErrMalformed)
	refused(t, a, msg, start, ErrUnreadable) // A's own, reflected
	_, other := established(t)
	refused(t, other, msg, start, ErrUnreadable)
	for b.epoch < 4 {
		if !a.MayRepeat(Position{1, 0}) != (a.epoch > 3) {
			t.Errorf("in epoch %d: MayRepeat %v", a.epoch, a.MayRepeat(Position{1, 0}))
		}
		say(t, a, b, "x", start)
		say(t, b, a, "y", start)
		if b.epoch > 2 {
			refused(t, b, msg, start, ErrUnreadable) // two epochs ago and more
		}
	}
	pending, _, err := Initiate(alice(t), tagA, ridA, prekeyOf(t, bob(t), 1).Bundle(), AckFrame(NoAck), start)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, pending, msg, start, ErrPending)
}

func malformedOr(n, full int) error {
	if n < MsgOverhead+frameBlock {
		return wire.ErrMalformed
	}
	_ = full
	return ErrUnreadable
}

// TestForgedStep: a frame that claims the next epoch costs one DH and changes nothing; one that claims
// it out of turn is not even tried. [S-6] [S-8]
func TestForgedStep(t *testing.T) {
	a, b := established(t)
	real, _ := mustSeal(t, a, "step", start.Add(day))
	forged := bytes.Clone(real)
	copy(forged[msgHead:], bytes.Repeat([]byte{9}, x25519Len))
	refused(t, b, forged, start.Add(day), ErrUnreadable)
	lowOrder := bytes.Clone(real)
	copy(lowOrder[msgHead:], make([]byte, x25519Len))
	refused(t, b, lowOrder, start.Add(day), ErrUnreadable)
	bare := append(bytes.Clone(real[:msgHead]), real[msgHead+x25519Len:]...)
	bare[0] &^= flagRatchet
	refused(t, b, bare, start.Add(day), ErrUnreadable)
	mustOpen(t, b, real, "step", start.Add(day))
	claimed := bytes.Clone(real)
	claimed[0] = typeMsg | flagRatchet | 3
	claimed[1], claimed[2] = byte(b.rid>>8), byte(b.rid)
	refused(t, b, claimed, start.Add(day), ErrUnreadable) // epoch 3 is B's own to make
}

// TestUnknownFrame: a frame that opens but is none of ours is refused, and nothing changes. [S-8]
func TestUnknownFrame(t *testing.T) {
	a, b := established(t)
	key, err := a.send.step()
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, frameBlock)
	frame[0], frame[3] = 0x77, 0x80
	msg, err := aeadSeal(&key, a.head(0), frame)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, b, msg, start, wire.ErrMalformed)
}

// TestSealRefuses: a frame that cannot be written uses no number. [S-12]
func TestSealRefuses(t *testing.T) {
	a, _ := established(t)
	before := a.Marshal()
	for _, f := range []Frame{{}, TextFrame(""), TextFrame(string(make([]byte, MaxText+1)))} {
		if _, _, err := a.Seal(f, start); err == nil {
			t.Errorf("sealed %v", f)
		}
	}
	if !bytes.Equal(before, a.Marshal()) {
		t.Error("a frame that was refused changed the session")
	}
}

// TestAcked: the highest number below which nothing is missing, in the newest epoch with any. [S-10]
func TestAcked(t *testing.T) {
	a, b := established(t)
	var msgs [][]byte
	for range 4 {
		msg, _ := mustSeal(t, a, "x", start)
		msgs = append(msgs, msg)
	}
	steps := []struct {
		open int
		want uint16
	}{{1, NoAck}, {0, 1<<14 | 1}, {3, 1<<14 | 1}, {2, 1<<14 | 3}}
	for _, s := range steps {
		mustOpen(t, b, msgs[s.open], "x", start)
		if got := b.Acked(); got != s.want {
			t.Errorf("after number %d: acked %x, want %x", s.open, got, s.want)
		}
	}
	if !a.Confirms(b.Acked(), Position{1, 3}) || a.Confirms(b.Acked(), Position{1, 4}) ||
		a.Confirms(NoAck, Position{1, 0}) || a.Confirms(b.Acked(), Position{}) || a.Confirms(b.Acked(), Position{2, 0}) {
		t.Error("Confirms misreads an acked of epoch 1")
	}
	say(t, a, b, "epoch 2", start.Add(day))
	if got := b.Acked(); got != 2<<14 {
		t.Errorf("acked %x, want number 0 of epoch 2", got)
	}
	if !a.Confirms(b.Acked(), Position{2, 0}) || a.Confirms(b.Acked(), Position{1, 0}) {
		t.Error("an acked speaks of its own epoch only")
	}
	if !a.Confirms(1<<14|3, Position{1, 3}) {
		t.Error("an acked of the epoch before still counts")
	}
}

// TestAckedLostStart: while number 0 of a new epoch is missing, the epoch before is acked. [S-10]
func TestAckedLostStart(t *testing.T) {
	a, b := established(t)
	say(t, a, b, "in epoch 1", start)
	lost, _ := mustSeal(t, a, "lost", start.Add(day))
	say(t, a, b, "number 1 of epoch 2", start.Add(day))
	if got := b.Acked(); got != 1<<14 {
		t.Errorf("acked %x, want number 0 of epoch 1", got)
	}
	mustOpen(t, b, lost, "lost", start.Add(day))
	if got := b.Acked(); got != 2<<14|1 {
		t.Errorf("acked %x, want number 1 of epoch 2", got)
	}
}

// TestTagUpdates: the latest update the peer sealed wins, in whatever order they open.
func TestTagUpdates(t *testing.T) {
	a, b := established(t)
	var msgs [][]byte
	for i := range 3 {
		msg, _, err := a.Seal(TagFrame(wire.Tag{byte(i + 1)}), start)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, msg)
	}
	for _, step := range []struct{ open, want byte }{{1, 2}, {0, 2}, {2, 3}} {
		if _, _, err := b.Open(msgs[step.open], start); err != nil {
			t.Fatal(err)
		}
		b = reload(t, b)
		if b.PeerTag() != (wire.Tag{step.want}) {
			t.Errorf("after update %d the tag is %v", step.open, b.PeerTag()[0])
		}
	}
	b.SetPeerTag(tagA)
	if b.PeerTag() != tagA {
		t.Error("SetPeerTag did not")
	}
}

// TestHeals: who copied B's whole state reads on until both sides have stepped, and then no more.
// [S-6]
func TestHeals(t *testing.T) {
	a, b := established(t)
	thief := reload(t, b)
	read, _ := mustSeal(t, a, "the thief reads this", start)
	mustOpen(t, thief, read, "the thief reads this", start)
	mustOpen(t, b, read, "the thief reads this", start)
	say(t, a, b, "epoch 2", start.Add(day))
	say(t, b, a, "epoch 3", start.Add(2*day+time.Hour))
	safe, _ := mustSeal(t, a, "and not this", start.Add(2*day+time.Hour))
	mustOpen(t, b, safe, "and not this", start.Add(2*day+time.Hour))
	if _, _, err := thief.Open(safe, start.Add(2*day+time.Hour)); err == nil {
		t.Error("a stolen state still reads two epochs later")
	}
}

// FuzzOpen feeds an established session; what opens must be the message that was sealed.
func FuzzOpen(f *testing.F) {
	a, b := established(f)
	plain, _ := mustSeal(f, a, "plain", start)
	stepped, _ := mustSeal(f, a, "stepped", start.Add(day))
	f.Add(plain)
	f.Add(stepped)
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := reload(t, b)
		_, _, err := s.Open(msg, start)
		if (err == nil) != (bytes.Equal(msg, plain) || bytes.Equal(msg, stepped)) {
			t.Errorf("error %v", err)
		}
		if err != nil && !bytes.Equal(s.Marshal(), b.Marshal()) {
			t.Error("a refused message changed the session")
		}
	})
}

// FuzzPeek: any input gives a kind or an error.
func FuzzPeek(f *testing.F) {
	a, _ := established(f)
	msg, _ := mustSeal(f, a, "x", start)
	f.Add(msg)
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if kind, _, err := Peek(msg); (err == nil) != (kind >= KindInit && kind <= KindMsg) {
			t.Errorf("kind %v, error %v", kind, err)
		}
	})
}

// TestLimits holds the numbers of the protocol themselves, as the tests above only use their names.
// [S-6] [S-7]
func TestLimits(t *testing.T) {
	type limits struct {
		Step, Write, Read           int
		StepAge, WriteAge, ReadAge  time.Duration
		PrekeyLife, PrekeyGrace     time.Duration
		Text, Init, KeysKept, NoAck int
	}
	want := limits{32, 96, 128, 24 * time.Hour, 48 * time.Hour, 72 * time.Hour, 168 * time.Hour, 48 * time.Hour, 1600, 2048, 254, 65535}
	got := limits{stepAfter, maxWrite, maxRead, stepAge, maxWriteAge, maxReadAge, PrekeyLife, PrekeyGrace, MaxText, MaxInit,
		(MaxSession - MinSession) / skippedLen, int(NoAck)}
	if got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
	a, b := established(t) // and once by behaviour: out of turn, 96 frames and no more
	for range 95 {         // the RESP was the first
		if _, _, err := b.Seal(AckFrame(NoAck), start); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Seal(AckFrame(NoAck), start); !errors.Is(err, ErrRenew) {
		t.Errorf("frame 97: %v, want ErrRenew", err)
	}
	say(t, a, b, "A may still step", start)
}
