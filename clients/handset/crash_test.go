package handset

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// dyingLog fails after some writes, in the middle of one or before its sync, as a power cut does.
type dyingLog struct {
	diskFile
	left int
	torn bool
}

func (l *dyingLog) Write(p []byte) (int, error) {
	if l.left--; l.left > 0 {
		return l.diskFile.Write(p)
	}
	if l.torn {
		p = p[:len(p)/2]
	}
	n, _ := l.diskFile.Write(p)
	return n, errFault
}

// dieAfter makes the handset's disk fail at its nth write from now.
func (p *phone) dieAfter(n int, torn bool) {
	p.Handset.mu.Lock()
	defer p.Handset.mu.Unlock()
	p.store.log = &dyingLog{p.store.log, n, torn}
}

func (p *phone) dead() bool {
	p.Handset.mu.Lock()
	defer p.Handset.mu.Unlock()
	return p.failed != nil
}

// revive opens the directory of a handset that died.
func (p *phone) revive() {
	p.reopen()
	if err := p.Connect(p.t.Context()); err != nil {
		p.t.Fatal("connect after a crash: ", err)
	}
}

// chaos is one run of two phones that only ever use IP, under everything that can go wrong.
type chaos struct {
	t      *testing.T
	r      *rand.Rand
	luck   *rand.Rand // the broker's own
	b      *fakeBroker
	phones [2]*phone
	peer   [2]ContactID
	sent   [2]map[string]bool // accepted by Send: must arrive
	maybe  [2]map[string]bool // Send said that the disk failed: may arrive
}

func (c *chaos) step(i int) {
	who := c.r.IntN(2)
	p := c.phones[who]
	switch c.r.IntN(10) {
	case 0:
		c.b.cut(p.Status().ID)
	case 1:
		p.dieAfter(1+c.r.IntN(12), c.r.IntN(2) == 0)
	case 2:
		if c.r.IntN(3) == 0 {
			p.reopen()
			_ = p.Connect(c.t.Context())
		}
	default:
		body := fmt.Sprintf("%d from %d", i, who)
		if _, err := p.Send(c.t.Context(), c.peer[who], body); err == nil {
			c.sent[who][body] = true
		} else if errors.Is(err, ErrStorage) {
			c.maybe[who][body] = true
		} else {
			c.t.Fatal(err)
		}
	}
	if c.r.IntN(3) > 0 {
		settle(time.Duration(c.r.IntN(20_000)) * time.Millisecond)
	}
	if p.dead() {
		p.revive()
	}
}

// unfair loses publishes, or their PUBACKs, now and then.
func (c *chaos) unfair(_ wire.ID, t wire.Topic, body []byte) (wire.Code, bool) {
	switch n := c.luck.IntN(40); {
	case t.Kind == wire.TopicConsent || t.Kind == wire.TopicQuery:
	case n == 0:
		return wire.Unavailable, false
	case n == 1 && t.Kind == wire.TopicInbox:
		return wire.NoRecipient, false
	case n == 2:
		for o := range c.b.conns { // delivered, and nobody is told
			if o.tag == t.Tag && t.Kind == wire.TopicInbox {
				o.send(t, body, 1, nil)
			}
		}
		return wire.OK, true
	}
	return wire.OK, false
}

// calm lets everything arrive: the network is well, and both users write now and then.
func (c *chaos) calm() {
	c.b.setJudge(nil)
	for _, p := range c.phones {
		p.revive()
	}
	for i := range 8 {
		for who, p := range c.phones {
			if !p.Status().Connected {
				if err := p.Connect(c.t.Context()); err != nil {
					c.t.Fatal(err)
				}
			}
			body := fmt.Sprintf("calm %d from %d", i, who)
			p.send(c.peer[who], body)
			c.sent[who][body] = true
		}
		settle(70 * time.Minute)
	}
}

// check: every text that Send accepted is delivered and shown exactly once; no other is shown twice. [U-6] [U-9]
func (c *chaos) check(seed uint64) {
	for who, p := range c.phones {
		shown := map[string]int{}
		for _, body := range c.phones[1-who].bodies() {
			shown[body]++
		}
		for body, n := range shown {
			if n != 1 || !c.sent[who][body] && !c.maybe[who][body] {
				c.t.Errorf("seed %d: %q is shown %d times", seed, body, n)
			}
		}
		for body := range maps.Keys(c.sent[who]) {
			if shown[body] != 1 {
				c.t.Errorf("seed %d: %q, accepted, is shown %d times", seed, body, shown[body])
			}
		}
		for _, x := range p.Texts(c.peer[who]) {
			if x.Out && x.State != Delivered && shown[x.Body] == 1 {
				c.t.Errorf("seed %d: a text that is shown is %v at its sender", seed, x.State)
			}
		}
	}
}

// The handset as a whole, under crashes at any write, broken connections and a broker that loses
// publishes and PUBACKs: no accepted text is lost, none is shown twice. [U-6] [U-9]
func TestChaos(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
				c := &chaos{
					t: t, r: rand.New(rand.NewPCG(seed, 99)), luck: rand.New(rand.NewPCG(seed, 98)), b: b, phones: [2]*phone{alice, bob},
					peer: [2]ContactID{toBob, toAlice},
					sent: [2]map[string]bool{{}, {}}, maybe: [2]map[string]bool{{}, {}},
				}
				if err := errors.Join(alice.SetMode(toBob, fallback.ModeNever), bob.SetMode(toAlice, fallback.ModeNever)); err != nil {
					t.Fatal(err)
				}
				b.setJudge(c.unfair)
				for i := range 80 {
					c.step(i)
				}
				c.calm()
				c.check(seed)
			})
		})
	}
}

// Every prefix of a real log, cut between transactions or within one, opens: the texts that were
// accepted by then are there, and no session has gone further than what was stored. [U-6]
func TestEveryPrefixOpens(t *testing.T) {
	var log []byte
	var cfg modelConfig
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		for i := range 5 {
			alice.send(toBob, fmt.Sprint(i))
			bob.send(toAlice, fmt.Sprint(i))
			settle(time.Second)
		}
		var err error
		if log, err = os.ReadFile(filepath.Join(alice.cfg.Dir, logName)); err != nil {
			t.Fatal(err)
		}
		cfg = alice.modelConfig()
	})
	texts, now := 0, time.Now()
	for cut, whole := len(logMagic), false; !whole; cut = min(cut+97, len(log)) {
		whole = cut == len(log)
		r, err := replay(log[:cut])
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		m, err := newModel(cfg, r.state, now)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if len(m.texts) < texts {
			t.Fatalf("cut at %d: %d texts, fewer than the %d of a shorter log", cut, len(m.texts), texts)
		}
		texts = len(m.texts)
		for _, x := range m.texts { // sealed bytes are never there without the session that sealed them
			if x.Sealed != nil && m.sessions[x.RID] == nil {
				t.Fatalf("cut at %d: a sealed text without its session", cut)
			}
		}
	}
	if texts != 12 {
		t.Errorf("%d texts in the whole log, want 12", texts)
	}
}

// A text that cannot be stored is not acknowledged: to its sender it is not delivered. [U-6]
func TestNotStoredIsNotDelivered(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		if err := alice.SetMode(toBob, fallback.ModeNever); err != nil {
			t.Fatal(err)
		}
		bob.dieAfter(1, true)
		id := alice.send(toBob, "onto a full disk")
		settle(time.Second)
		if got := alice.text(id); got.State != Waiting || !bob.dead() || bob.events(StorageFailed) != 1 {
			t.Errorf("%v; Bob dead %v, told %d times", got, bob.dead(), bob.events(StorageFailed))
		}
		if _, err := bob.Send(t.Context(), toAlice, "x"); !errors.Is(err, ErrStorage) {
			t.Errorf("send on a failed disk: %v, want ErrStorage", err)
		}
		bob.revive()
		settle(time.Minute)
		alice.wantState(id, Delivered, fallback.PathIP)
		if got := bob.bodies(); len(got) != 2 {
			t.Errorf("Bob sees %d texts, want 2", len(got))
		}
	})
}

// A process that ended while the SIM had a text: perhaps sent, so failed, and not sent again. [U-3]
func TestCrashWhileSIMWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		c, err := p.AddDialled("Bank", "72535")
		if err != nil {
			t.Fatal(err)
		}
		p.sim.hang = make(chan struct{})
		id := p.send(c, "BALANCE")
		synctest.Wait()
		state, err := ReadState(p.cfg.Dir)
		if err != nil || len(state.Texts) != 1 || state.Texts[0].State != Waiting {
			t.Errorf("on disk: %v (%v)", state.Texts, err)
		}
		log, err := os.ReadFile(filepath.Join(p.cfg.Dir, logName))
		if err != nil {
			t.Fatal(err)
		}
		close(p.sim.hang)
		synctest.Wait()
		r, err := replay(log)
		if err != nil {
			t.Fatal(err)
		}
		m, err := newModel(p.modelConfig(), r.state, time.Now())
		if err != nil || m.texts[id].State != Failed {
			t.Errorf("after the crash the text is %v (%v), want failed", m.texts[id].State, err)
		}
	})
}
