package envelope

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// scheduleEvents is how many events each seed runs for.
const scheduleEvents = 20_000

// A handset is one side in the schedule: sessions in memory and, since persisted, in the store.
type handset struct {
	name   string
	self   Identity
	live   map[uint16]*Session // by rid
	stored map[uint16][]byte   // what a crash leaves
	opened map[string]bool     // texts in the store
	newest uint16
	unsent []packet // persisted, and not yet given to the network
}

// A packet is one MSG under way, with what the oracle knows of it.
type packet struct {
	to   *handset
	rid  uint16
	msg  []byte
	text string
	pos  Position
}

// schedule is the world of one seed.
type schedule struct {
	t       *testing.T
	r       *rand.Rand
	now     time.Time
	a, b    *handset
	nextRID uint16
	texts   int
	network []packet
	keys    map[[32]byte][32]byte // message key → hash of what it sealed, for all that left a handset
	count   map[string]int
}

// TestRandomSchedule sends, loses, reorders, repeats and damages messages, lets days pass, and
// crashes both sides between any two steps. Its oracle: no key seals two different plaintexts
// ([S-5], [S-12]); a refused message changes nothing ([S-12]); every text opens at most once
// ([S-7]), and exactly when the limits say it should ([S-6], [S-8]).
func TestRandomSchedule(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := newSchedule(t, seed)
			for range scheduleEvents {
				s.event()
			}
			t.Logf("%d keys, %v", len(s.keys), s.count)
			for _, kind := range []string{"delivered", "lost", "duplicate", "damaged", "gone", "step", "renewed", "crash"} {
				if s.count[kind] == 0 {
					t.Errorf("the schedule never came to: %s", kind)
				}
			}
		})
	}
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	s := &schedule{t: t, r: rand.New(rand.NewPCG(seed, 0xb1e)), now: start, keys: map[[32]byte][32]byte{}, count: map[string]int{}}
	side := func(name string, self Identity) *handset {
		return &handset{name: name, self: self, live: map[uint16]*Session{}, stored: map[uint16][]byte{}, opened: map[string]bool{}}
	}
	s.a, s.b = side("A", alice(t)), side("B", bob(t))
	s.renew(s.a, s.b)
	return s
}

func (s *schedule) peer(h *handset) *handset {
	if h == s.a {
		return s.b
	}
	return s.a
}

// event runs one event, most often a text or a delivery.
func (s *schedule) event() {
	h := s.a
	if s.r.IntN(2) == 0 {
		h = s.b
	}
	switch n := s.r.IntN(1000); {
	case n < 400:
		s.write(h)
	case n < 860:
		s.deliver()
	case n < 940:
		s.flush(h)
	case n < 980:
		s.crash(h)
	case n < 998:
		s.now = s.now.Add(time.Duration(s.r.IntN(90)) * time.Minute)
	case n < 999:
		s.now = s.now.Add(30 * time.Hour)
	default:
		s.now = s.now.Add(80 * time.Hour)
	}
}

// renew begins a session anew, from one side to the other; the old ones stay for receiving.
func (s *schedule) renew(from, to *handset) {
	pre, err := NewPrekey(to.self, 1, s.now.Add(PrekeyLife))
	if err != nil {
		s.t.Fatal(err)
	}
	s.nextRID++
	sa, init, err := Initiate(from.self, tagA, s.nextRID, pre.Bundle(), AckFrame(NoAck), s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	offer, err := OpenInit(to.self, pre, init, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	sb, resp, err := offer.Respond(to.self, tagB, s.nextRID, AckFrame(NoAck), s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := sa.OpenResp(resp, s.now); err != nil {
		s.t.Fatal(err)
	}
	from.live[s.nextRID], to.live[s.nextRID] = sa, sb
	from.newest, to.newest = s.nextRID, s.nextRID
	from.persist(s.nextRID)
	to.persist(s.nextRID)
	s.count["renewed"]++
}

func (h *handset) persist(rid uint16) { h.stored[rid] = h.live[rid].Marshal() }

// crash forgets everything that is not in the store.
func (s *schedule) crash(h *handset) {
	s.count["crash"]++
	for rid, b := range h.stored {
		restored, err := ParseSession(b)
		if err != nil {
			s.t.Fatalf("%s cannot read its store: %v", h.name, err)
		}
		h.live[rid] = restored
	}
}

// write seals a text and persists; a crash may come before or after that.
func (s *schedule) write(h *handset) {
	rid := h.newest
	before := *h.live[rid]
	s.texts++
	text := fmt.Sprintf("text %d of %s", s.texts, h.name)
	f := TextFrame(text)
	f.Acked = before.Acked()
	msg, pos, err := h.live[rid].Seal(f, s.now)
	if errors.Is(err, ErrRenew) {
		s.renew(h, s.peer(h))
		return
	}
	if err != nil {
		s.t.Fatalf("%s: Seal: %v", h.name, err)
	}
	if pos.Epoch > before.epoch {
		s.count["step"]++
	}
	if s.r.IntN(20) == 0 { // before it is persisted: as if nothing had been written
		s.crash(h)
		return
	}
	h.persist(rid)
	s.noteKey(&before, h.live[rid], msg, f)
	p := packet{s.peer(h), rid, msg, text, pos}
	if s.r.IntN(20) == 0 { // between persist and send: the bytes are in the store
		h.unsent = append(h.unsent, p)
		s.crash(h)
		return
	}
	s.network = append(s.network, p)
}

// noteKey recomputes the key of a message from the states around it, and checks that it opens the
// message and has sealed nothing else.
func (s *schedule) noteKey(before, after *Session, msg []byte, f Frame) {
	c := before.send
	if after.epoch > before.epoch {
		again := *before
		again.own = after.own
		if err := again.advance(s.now); err != nil {
			s.t.Fatal(err)
		}
		c = again.send
	}
	key, err := c.step()
	if err != nil {
		s.t.Fatal(err)
	}
	head, ct, err := parseMsg(msg)
	if err != nil {
		s.t.Fatal(err)
	}
	plain, err := aeadOpen(&key, head, ct)
	if err != nil {
		s.t.Fatalf("the recomputed key does not open the message: %v", err)
	}
	want, err := f.Marshal()
	if err != nil || !bytes.Equal(plain, want) {
		s.t.Fatal("the message does not hold the frame")
	}
	sum := sha256.Sum256(append(bytes.Clone(head), plain...))
	if earlier, used := s.keys[key]; used && earlier != sum {
		s.t.Fatal("one key has sealed two different plaintexts")
	}
	s.keys[key] = sum
}

// flush gives the network what a crash kept back, and some of it twice.
func (s *schedule) flush(h *handset) {
	s.network = append(s.network, h.unsent...)
	if s.r.IntN(2) == 0 {
		h.unsent = nil
	}
}

// deliver takes one of the oldest messages and loses it, repeats it, damages it or lets it arrive.
func (s *schedule) deliver() {
	if len(s.network) == 0 {
		return
	}
	at := s.r.IntN(min(len(s.network), 12))
	p := s.network[at]
	s.network = append(s.network[:at], s.network[at+1:]...)
	switch s.r.IntN(20) {
	case 0:
		s.count["lost"]++
		return
	case 1, 2:
		s.network = append(s.network, p)
	case 3:
		s.count["damaged"]++
		s.open(packet{to: p.to, rid: p.rid, msg: flipped(p.msg, s.r.IntN(8*len(p.msg)))})
	}
	s.open(p)
}

// open lets a message arrive, and holds the result to what the limits say.
func (s *schedule) open(p packet) {
	session := p.to.live[p.rid]
	before := session.Marshal()
	want := s.expect(session, p)
	f, pos, err := session.Open(p.msg, s.now)
	if p.text == "" && err == nil || p.text != "" && !errors.Is(err, want) {
		s.t.Fatalf("epoch %d: a message at %v gives %v, want %v", session.epoch, p.pos, err, want)
	}
	if err != nil {
		if !bytes.Equal(before, session.Marshal()) {
			s.t.Fatalf("a message refused with %v changed the session", err)
		}
		if errors.Is(err, ErrDuplicate) {
			s.count["duplicate"]++
		} else if p.text != "" {
			s.count["gone"]++
		}
		return
	}
	if f.Text != p.text || pos != p.pos {
		s.t.Fatalf("opened another text, at %v instead of %v", pos, p.pos)
	}
	if s.r.IntN(20) == 0 { // before it is persisted: it comes again
		s.crash(p.to)
		s.network = append(s.network, p)
		return
	}
	if p.to.opened[p.text] {
		s.t.Fatal("a text was stored twice")
	}
	p.to.opened[p.text] = true
	p.to.persist(p.rid)
	s.count["delivered"]++
}

// expect is what opening p must give, from what the oracle knows.
func (s *schedule) expect(session *Session, p packet) error {
	if p.text == "" {
		return nil // damaged: any error
	}
	switch ahead := int(p.pos.Epoch) - int(session.epoch); {
	case ahead == 1:
		return nil
	case ahead > 1 || ahead < -3:
		return s.alias(session, p)
	case ahead < -1, age(session.recv[-ahead].began, s.now) >= maxReadAge:
		return ErrUnreadable
	}
	if p.to.opened[p.text] {
		return ErrDuplicate
	}
	return nil
}

// alias is the result for a message so old that its two bits name another epoch: the sender would not
// have repeated it ([S-11]), the network may.
func (s *schedule) alias(session *Session, p packet) error {
	copied, err := ParseSession(session.Marshal())
	if err != nil {
		s.t.Fatal(err)
	}
	if _, _, err = copied.Open(p.msg, s.now); err == nil {
		s.t.Fatal("a message of long ago opens")
	}
	return err
}
