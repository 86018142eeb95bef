package simulator

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
	"time"
)

// lively is a profile in which everything happens.
func lively() Profile {
	return Profile{
		OptIn: 0.9, Contacts: 6, Zipf: 1.3, Texts: 600, Online: Duration(10 * time.Second), Offline: Duration(2 * time.Second),
		Abrupt: 0.5, Airplane: 60, OptOuts: 20, Arrivals: 0.2, ArrivalRate: 10, Storm: Duration(20 * time.Second), StormShare: 0.2,
		Length: Length{Median: 30, P95: 100, Max: 200, Emoji: 0.2}, Fallback: Fallback{Gateway: 0.5, Device: 0.5},
		Links: []Link{{Name: "a", Share: 3, Latency: Duration(50 * time.Millisecond)}, {Name: "b", Share: 1}},
	}
}

// planned is the first minute of a schedule.
func planned(s *Schedule) (all []Planned) {
	for p, ok := s.Next(); ok && p.At < time.Minute; p, ok = s.Next() {
		all = append(all, p)
	}
	return all
}

func digest(all []Planned) [32]byte {
	var b []byte
	for _, p := range all {
		b = p.Append(b)
	}
	return sha256.Sum256(b)
}

// TestScheduleRepeats: the same seed gives the same people doing the same things at the same times,
// another seed gives others.
func TestScheduleRepeats(t *testing.T) {
	one := digest(planned(NewSchedule(lively(), 200, 180, 0, 7)))
	if again := digest(planned(NewSchedule(lively(), 200, 180, 0, 7))); again != one {
		t.Error("the same seed gave another schedule")
	}
	if other := digest(planned(NewSchedule(lively(), 200, 180, 0, 8))); other == one {
		t.Error("another seed gave the same schedule")
	}
}

// TestScheduleInOrder: times rise, every kind of action comes, and only who opted in acts.
func TestScheduleInOrder(t *testing.T) {
	s := NewSchedule(lively(), 200, 180, 0, 7)
	seen, last := map[Action]int{}, time.Duration(0)
	for _, p := range planned(s) {
		if p.At < last {
			t.Fatalf("%s at %s after %s", p.Action, p.At, last)
		}
		last = p.At
		seen[p.Action]++
		if !s.People[p.Who].OptedIn {
			t.Fatalf("%d acts and has not opted in", p.Who)
		}
		if p.Action == Write && (p.Length < 1 || p.Length > 200) {
			t.Fatalf("a text of %d characters", p.Length)
		}
	}
	for a := Write; a <= OptOut; a++ {
		if seen[a] == 0 {
			t.Errorf("nobody did %q in a minute: %v", a, seen)
		}
	}
}

// TestRate: as many texts a second as asked for, over those who can write.
func TestRate(t *testing.T) {
	n := 0
	for _, p := range planned(NewSchedule(lively(), 200, 180, 50, 1)) {
		if p.Action == Write {
			n++
		}
	}
	if n < 2700 || n > 3300 {
		t.Errorf("%d texts in a minute at 50 a second", n)
	}
}

// TestContacts: friendship is mutual, each pair has one who says hello, and the popular have more
// friends than others, up to the bound.
func TestContacts(t *testing.T) {
	p := lively()
	p.MaxContacts = 40
	s := NewSchedule(p, 300, 300, 0, 3)
	most, hellos, edges := 0, 0, 0
	for i := range s.People {
		most = max(most, len(s.Friends(i)))
		edges += len(s.Friends(i))
		hellos += len(s.People[i].Contacts)
		for _, o := range s.Friends(i) {
			if !contains(s.Friends(o), i) {
				t.Fatalf("%d has %d as a friend, and not the other way round", i, o)
			}
		}
	}
	if most != 40 {
		t.Errorf("the most popular has %d friends, want the bound of 40", most)
	}
	if hellos == 0 || hellos > edges/2 {
		t.Errorf("%d hellos for %d pairs", hellos, edges/2)
	}
}

func contains(all []int, x int) bool {
	for _, v := range all {
		if v == x {
			return true
		}
	}
	return false
}

// TestProfileRefused: what cannot be meant is refused with the key it is about.
func TestProfileRefused(t *testing.T) {
	for want, spoil := range map[string]func(*Profile){
		"opt-in":            func(p *Profile) { p.OptIn = 1.5 },
		"opt-in: with 0":    func(p *Profile) { p.OptIn = 0 },
		"zipf":              func(p *Profile) { p.Zipf = 0.5 },
		"texts":             func(p *Profile) { p.Texts = -1 },
		"length":            func(p *Profile) { p.Length.Max = 10 },
		"offline: needs":    func(p *Profile) { p.Offline = 0 },
		"arrival-rate":      func(p *Profile) { p.ArrivalRate = 0 },
		"storm-share":       func(p *Profile) { p.StormShare = 0 },
		"max-contacts":      func(p *Profile) { p.MaxContacts = 1000 },
		"link 2 (b): loss":  func(p *Profile) { p.Links[1].Loss = 2 },
		"link 1 (a): share": func(p *Profile) { p.Links[0].Share = 0 },
	} {
		p := lively()
		spoil(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if err := lively().Check(); err != nil {
		t.Errorf("a good profile is refused: %v", err)
	}
}

// TestBody: every text says which it is, has about its length, and leaves GSM-7 only if it shall.
func TestBody(t *testing.T) {
	for n := TextNo(1); n < 5000; n += 37 {
		for _, length := range []int{1, 5, 30, 160, 300} {
			b := Body(n, length, n%2 == 0)
			if NumberOf(b) != n {
				t.Fatalf("%q is number %d, want %d", b, NumberOf(b), n)
			}
			if length > 10 && (len(b) < length-2 || len(b) > length+4) {
				t.Errorf("%q has %d bytes, want about %d", b, len(b), length)
			}
			if strings.Contains(b, emoji) != (n%2 == 0) {
				t.Errorf("%q: emoji", b)
			}
		}
	}
	for _, other := range []string{"", "hello", "#", "#§", "123456"} {
		if NumberOf(other) != 0 {
			t.Errorf("%q is no text of a run", other)
		}
	}
}

// TestPath: latency and bandwidth add up, nothing overtakes, losses cost their time-outs.
func TestPath(t *testing.T) {
	start := time.Unix(1e9, 0)
	p := newPath(Link{Latency: Duration(100 * time.Millisecond), Up: 8}, nil, start) // 8 kbit/s: a byte a millisecond
	for i, want := range []time.Duration{150, 200, 250} {
		at, ok := p.send(up, start, 50)
		if got := at.Sub(start); !ok || got != want*time.Millisecond {
			t.Errorf("packet %d arrives after %s, want %d ms", i, got, want)
		}
	}
	lossy := newPath(Link{Loss: 1 / 2., RTO: Duration(time.Second), Jitter: Duration(time.Second)}, newRand(4), start)
	last, late := time.Time{}, 0
	for range 100 {
		at, _ := lossy.send(down, start, 10)
		if at.Before(last) {
			t.Fatal("a packet overtook another")
		}
		if at.Sub(start) > time.Second {
			late++
		}
		last = at
	}
	if late == 0 {
		t.Error("no packet was delayed by a loss")
	}
}

// TestPathDies: a NAT mapping that nothing uses is gone, and a path that was to die is dead: nothing
// passes, nobody is told.
func TestPathDies(t *testing.T) {
	start := time.Unix(1e9, 0)
	p := newPath(Link{NAT: Duration(time.Minute)}, nil, start)
	if _, ok := p.send(up, start.Add(50*time.Second), 1); !ok {
		t.Fatal("a mapping in use is gone")
	}
	if _, ok := p.send(down, start.Add(100*time.Second), 1); !ok {
		t.Fatal("use does not keep the mapping")
	}
	if _, ok := p.send(down, start.Add(3*time.Minute), 1); ok {
		t.Fatal("an unused mapping lets something pass")
	}
	if _, ok := p.send(up, start.Add(3*time.Minute), 1); ok {
		t.Fatal("a dead path lets something pass")
	}
	h := newPath(Link{HalfOpen: Duration(time.Second)}, newRand(1), start)
	if h.dies.IsZero() || !h.alive(h.dies) || h.alive(h.dies.Add(1)) {
		t.Error("a path with a half-open time does not die at it")
	}
}

// TestAppend: two plans that differ have different forms.
func TestAppend(t *testing.T) {
	a, b := Planned{At: 1, Who: 2, To: 3, Action: Write, Length: 300}, Planned{At: 1, Who: 2, To: 3, Action: Write, Length: 44}
	if bytes.Equal(a.Append(nil), b.Append(nil)) {
		t.Error("a length is not in the form")
	}
}
