package simulator

import (
	"container/heap"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"
)

// Action is what somebody does at a time.
type Action byte

// Actions of a schedule.
const (
	Write    Action = iota + 1 // a text to To, of Length characters
	Arrive                     // comes to the service: connects for the first time
	Leave                      // goes offline
	Cut                        // the same, and the connection breaks without a word
	Drop                       // the connection breaks, and is made again at once
	Return                     // is back online
	RadioOff                   // airplane mode: the path is dead and nobody is told
	RadioOn                    // and back
	OptOut                     // withdraws consent, for good
)

var actionNames = [...]string{"", "write", "arrive", "leave", "cut", "drop", "return", "radio off", "radio on", "opt out"}

// String is the action's name.
func (a Action) String() string { return actionNames[a] }

// Planned is one action of one person at a time since the start of the run.
type Planned struct {
	At     time.Duration
	Who    int
	Action Action
	To     int // of Write
	Length int // of Write, in characters
	Emoji  bool
}

// Person is what a schedule knows of one member of the population before anything happens.
type Person struct {
	OptedIn  bool
	Late     bool  // arrives during the run
	Link     int   // index in the profile's links; -1: none
	Fallback int   // 0 gateway, 1 device, 2 never
	Contacts []int // those this person says hello to first; they have this person as a contact, too
}

// Schedule is everything that a population will do, from a seed. It draws from a generator of its
// own for each person, so that what one does never depends on when it is asked for. Not for
// concurrent use.
type Schedule struct {
	People []Person

	profile Profile
	rates   float64 // texts a second of one person
	friends [][]int // by person: contacts of both kinds
	minds   []*rand.Rand
	next    agenda
}

// NewSchedule makes the population and its plans; the first agreed people have opted in. rate is
// texts a second of everybody together; 0 is the profile's. The same arguments give the same schedule.
func NewSchedule(p Profile, people, agreed int, rate float64, seed uint64) *Schedule {
	s := &Schedule{profile: p.withDefaults(), People: make([]Person, people), friends: make([][]int, people)}
	s.rates = s.profile.Texts / 3600
	for i := range s.People {
		s.minds = append(s.minds, rand.New(rand.NewPCG(seed, uint64(i)+1)))
		s.People[i] = s.person(s.minds[i])
		s.People[i].OptedIn = i < agreed
	}
	s.befriend(rand.New(rand.NewPCG(seed, 0)))
	if rate > 0 {
		s.rates = rate / float64(max(1, s.writers()))
	}
	for i := range s.People {
		s.begin(i)
	}
	s.storms(rand.New(rand.NewPCG(seed, math.MaxUint64)))
	heap.Init(&s.next)
	return s
}

// person draws what does not depend on others.
func (s *Schedule) person(r *rand.Rand) Person {
	p := Person{Late: r.Float64() < s.profile.Arrivals, Link: -1}
	if n := len(s.profile.Links); n > 0 {
		shares := make([]float64, n)
		for i, l := range s.profile.Links {
			shares[i] = l.Share
		}
		p.Link = draw(r, shares)
	}
	f := s.profile.Fallback
	p.Fallback = draw(r, []float64{f.Gateway, f.Device, f.Never})
	return p
}

// draw picks an index by weight.
func draw(r *rand.Rand, weights []float64) int {
	var sum float64
	for _, w := range weights {
		sum += w
	}
	x := r.Float64() * sum
	for i, w := range weights {
		if x < w {
			return i
		}
		x -= w
	}
	return len(weights) - 1
}

// befriend makes the contact graph: everybody picks half of the contacts, the popular more often,
// and is picked for the other half.
func (s *Schedule) befriend(r *rand.Rand) {
	n := len(s.People)
	if n < 2 || s.profile.Contacts == 0 {
		return
	}
	order, popular := r.Perm(n), func() int { return r.IntN(n) }
	if s.profile.Zipf > 1 {
		z := rand.NewZipf(r, s.profile.Zipf, 10, uint64(n-1))
		popular = func() int { return int(z.Uint64()) }
	}
	known := map[[2]int]bool{}
	for i := range s.People {
		want := s.profile.Contacts / 2
		if s.profile.Contacts%2 == 1 && r.IntN(2) == 0 {
			want++
		}
		for try := 0; want > 0 && try < 20*s.profile.Contacts; try++ {
			o := order[popular()]
			if o == i || known[[2]int{min(i, o), max(i, o)}] || s.full(i) || s.full(o) {
				continue
			}
			known[[2]int{min(i, o), max(i, o)}] = true
			s.friends[i], s.friends[o] = append(s.friends[i], o), append(s.friends[o], i)
			s.first(i, o)
			want--
		}
	}
}

// first decides who of two says hello; only who opted in can.
func (s *Schedule) first(i, o int) {
	if !s.People[i].OptedIn {
		i, o = o, i
	}
	if s.People[i].OptedIn {
		s.People[i].Contacts = append(s.People[i].Contacts, o)
	}
}

func (s *Schedule) full(i int) bool { return len(s.friends[i]) >= s.profile.MaxContacts }

// Friends are the contacts of one person, of both kinds.
func (s *Schedule) Friends(who int) []int { return s.friends[who] }

func (s *Schedule) writers() (n int) {
	for i := range s.People {
		if s.People[i].OptedIn && len(s.friends[i]) > 0 {
			n++
		}
	}
	return n
}

// begin plans the first of each kind of action of one person.
func (s *Schedule) begin(i int) {
	if !s.People[i].OptedIn {
		return
	}
	var from time.Duration
	if s.People[i].Late {
		from = time.Duration(s.minds[i].Float64() * s.profile.Arrivals * float64(len(s.People)) / s.profile.ArrivalRate * float64(time.Second))
		s.plan(Planned{At: from, Who: i, Action: Arrive})
	}
	s.write(i, from)
	s.leave(i, from)
	s.later(i, from, s.profile.Airplane/3600, RadioOff)
	s.later(i, from, s.profile.OptOuts/3600, OptOut)
}

func (s *Schedule) plan(p Planned) { s.next = append(s.next, p) }

// later plans an action that comes at random, rate times a second.
func (s *Schedule) later(who int, from time.Duration, rate float64, a Action) {
	if rate > 0 {
		s.plan(Planned{At: from + pause(s.minds[who], 1/rate), Who: who, Action: a})
	}
}

// pause is a time at random, exponential, with a mean in seconds.
func pause(r *rand.Rand, mean float64) time.Duration {
	return time.Duration(min(r.ExpFloat64()*mean, 1e6) * float64(time.Second))
}

func (s *Schedule) write(who int, from time.Duration) {
	if s.rates <= 0 || len(s.friends[who]) == 0 {
		return
	}
	r := s.minds[who]
	p := Planned{At: from + pause(r, 1/s.rates), Who: who, Action: Write, Emoji: r.Float64() < s.profile.Length.Emoji}
	p.To = s.friends[who][r.IntN(len(s.friends[who]))]
	l := s.profile.Length
	sigma := math.Log(float64(l.P95)/float64(l.Median)) / 1.645 // the normal distribution's 95th percentile
	p.Length = min(max(1, int(float64(l.Median)*math.Exp(r.NormFloat64()*sigma))), l.Max)
	s.plan(p)
}

func (s *Schedule) leave(who int, from time.Duration) {
	if s.profile.Online == 0 {
		return
	}
	a := Leave
	if s.minds[who].Float64() < s.profile.Abrupt {
		a = Cut
	}
	s.plan(Planned{At: from + pause(s.minds[who], s.profile.Online.Std().Seconds()), Who: who, Action: a})
}

// storms plans who is hit by each storm.
func (s *Schedule) storms(r *rand.Rand) {
	if s.profile.Storm == 0 {
		return
	}
	for n := 1; n <= 100; n++ {
		at := time.Duration(n) * s.profile.Storm.Std()
		for i := range s.People {
			if s.People[i].OptedIn && r.Float64() < s.profile.StormShare {
				s.plan(Planned{At: at, Who: i, Action: Drop})
			}
		}
	}
}

// Next is the next action of anybody; ok is false when nobody will ever do anything.
func (s *Schedule) Next() (p Planned, ok bool) {
	if len(s.next) == 0 {
		return Planned{}, false
	}
	p = heap.Pop(&s.next).(Planned)
	have := len(s.next)
	s.follow(p)
	for i := have; i < len(s.next); i++ {
		heap.Fix(&s.next, i)
	}
	return p, true
}

// follow plans what comes after p.
func (s *Schedule) follow(p Planned) {
	r := s.minds[p.Who]
	switch p.Action {
	case Write:
		s.write(p.Who, p.At)
	case Leave, Cut:
		if s.profile.Offline > 0 && s.profile.Online > 0 {
			s.plan(Planned{At: p.At + pause(r, s.profile.Offline.Std().Seconds()), Who: p.Who, Action: Return})
		}
	case Return:
		s.leave(p.Who, p.At)
	case RadioOff:
		s.plan(Planned{At: p.At + pause(r, s.profile.Offline.Std().Seconds()), Who: p.Who, Action: RadioOn})
	case RadioOn:
		s.later(p.Who, p.At, s.profile.Airplane/3600, RadioOff)
	}
}

// Append appends a fixed form of p to b, to compare schedules by.
func (p Planned) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.At))
	b = binary.BigEndian.AppendUint32(b, uint32(p.Who))
	b = binary.BigEndian.AppendUint32(b, uint32(p.To))
	return append(b, byte(p.Action), byte(p.Length>>8), byte(p.Length))
}

// agenda is a heap of plans by time, then person.
type agenda []Planned

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	if a[i].At != a[j].At {
		return a[i].At < a[j].At
	}
	if a[i].Who != a[j].Who {
		return a[i].Who < a[j].Who
	}
	return a[i].Action < a[j].Action
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

// Push implements heap.Interface.
func (a *agenda) Push(x any) { *a = append(*a, x.(Planned)) }

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	*a = (*a)[:last]
	return p
}
