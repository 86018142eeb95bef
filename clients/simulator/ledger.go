package simulator

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"bluejay/wire"
)

// Outcome is what became of a text, as its sender was told. Zero value: nothing yet.
type Outcome byte

// Outcomes of a text.
const (
	Open     Outcome = iota
	OverIP           // the recipient's handset has stored it
	BySMS            // the phone network took it
	Returned         // it failed: nobody has it but its sender, as far as is known
)

var outcomeNames = [...]string{"open", "delivered", "SMS", "returned"}

// String is the outcome's name.
func (o Outcome) String() string { return outcomeNames[o&3] }

// Kind is which promise was broken.
type Kind string

// Kinds of violation: a closed set, each with the sentence it breaks.
const (
	EarlyPuback     Kind = "early puback"           // the sender was told before the recipient had acknowledged [C-1]
	DoubleDelivery  Kind = "double delivery"        // delivered more often than published, or after the outcome [C-3]
	AfterRevocation Kind = "delivery after opt-out" // to or from somebody who had withdrawn consent [C-revoke]
	WrongTag        Kind = "wrong tag"              // a message, or presence, for another tag [P-10] [P-18]
	Misdelivered    Kind = "misdelivered"           // shown to somebody else, or as from somebody else
	StaleBlue       Kind = "stale blue"             // still blue though gone for longer than the bound [P-18]
	LateBlue        Kind = "late blue"              // connected, and not blue within the bound [P-18]
	FalseGrey       Kind = "false grey"             // grey while connected [P-18]
	LostReturn      Kind = "lost return"            // a publish without an answer past the deadline [C-2]
	ReusedKey       Kind = "reused key"             // two texts sealed in one place [S-5]
	ShownTwice      Kind = "shown twice"            // the user sees one text twice [U-9]
	NeverShown      Kind = "delivered, never shown" // told delivered, and not in the recipient's store [C-1]
	NotRecorded     Kind = "SMS, never recorded"    // told SMS, and the SMSC has no record of it
	TwoOutcomes     Kind = "two outcomes"           // delivered, then something else
	Unaccounted     Kind = "unaccounted"            // accepted, and no outcome at the end
	Conservation    Kind = "conservation"           // the broker's counts do not add up [C-7]
	Silent          Kind = "fell silent"            // a handset that should be connected is not, at the end
)

// Violation is one promise that was broken, with what is known.
type Violation struct {
	Kind    Kind
	At      time.Duration // since the start
	Text    TextNo        // 0: not about a text, or not known about which
	Detail  string        // names people by their place in the population
	History []string      // of the text, oldest first
}

// String is one line, and one more for each step of the text's history.
func (v Violation) String() string {
	s := fmt.Sprintf("%s at %s: %s", v.Kind, v.At.Round(time.Microsecond), v.Detail)
	if v.Text != 0 {
		s += fmt.Sprintf(" (text %s)", Body(v.Text, 0, false))
	}
	return strings.Join(append([]string{s}, v.History...), "\n    ")
}

// LedgerConfig is what a ledger holds a node to.
type LedgerConfig struct {
	Start    time.Time
	Deadline time.Duration        // of a text at the node; 0: 8 s [C-2]
	Blue     time.Duration        // from a connection to blue; 0: 1 s
	Grey     time.Duration        // from its end to grey; 0: 41 s
	Dead     time.Duration        // from the death of its path, of which the node is not told, to grey; 0: 40 s + 1.5 × 4 min
	Slack    func() time.Duration // what the links and the simulator's own stalls add to every bound; nil: 0
	Recorded bool                 // the phone network's record is known
	Alone    bool                 // nobody else uses the node: what nobody here published is a violation
}

// grace is how long a text that is done, or a message that was answered, is kept in full.
const grace = 5 * time.Second

// maxKept is how many violations are kept in full.
const maxKept = 100

// Ledger hears of everything and judges it. It has a lock, and neither clock nor goroutine: every
// call brings its time. Make one with [NewLedger].
type Ledger struct {
	cfg    LedgerConfig
	onFail func(Violation)

	mu         sync.Mutex
	people     []standing
	texts      map[TextNo]*text
	done       []byte // of every text, by number: what is left of it
	closing    queue[TextNo]
	messages   map[wire.MessageID]*message
	answered   queue[wire.MessageID]
	attempts   Attempts
	overdue    [2]queue[awaited] // texts and jobs; requests
	presence   presenceBook
	counts     Counts
	violations []Violation
	figures    *Figures
}

// standing is what the ledger knows of one person.
type standing struct {
	line    *line // the newest connection
	visible bool  // agreed to presence
	leaving bool  // has asked to opt out: grey may come before the answer
	revoked time.Time
	keys    keyWatch
}

// Attempts are answers to publishes on inboxes: the senders' side of the broker's counts. [C-7]
type Attempts struct{ OK, Back int }

// Counts are texts, since the start.
type Counts struct {
	Texts, IP, SMS, Returned int
	Folded                   int // shown once, and folded with its SMS copy
	Violations               int
}

// text is one text that is not yet done, or was done lately.
type text struct {
	from, to int32
	lean     bool // both sides tell of it at once
	outcome  Outcome
	shown    uint8
	recorded uint8
	at       time.Time // when it was to be written
	changed  time.Time
	history  []step
}

type step struct {
	at   time.Time
	who  int32
	what string
}

// message is one payload on an inbox topic.
type message struct {
	text      TextNo // 0: not known
	to        wire.Tag
	from      int
	sent      int
	open      int // publishes without an answer
	acked     bool
	line      *line // which got it last
	delivered int   // to line
}

// NewLedger makes a ledger for a population. fail is told each violation as it is found, with the
// ledger locked; figures takes what is measured.
func NewLedger(c LedgerConfig, people int, figures *Figures, fail func(Violation)) *Ledger {
	c.Deadline = orElse(c.Deadline, 8*time.Second)
	c.Blue = orElse(c.Blue, time.Second)
	c.Grey = orElse(c.Grey, 41*time.Second)
	c.Dead = orElse(c.Dead, 40*time.Second+6*time.Minute)
	if c.Slack == nil {
		c.Slack = func() time.Duration { return 0 }
	}
	return &Ledger{
		cfg: c, onFail: fail, people: make([]standing, people), texts: map[TextNo]*text{}, figures: figures,
		messages: map[wire.MessageID]*message{}, presence: newPresenceBook(),
	}
}

// fail notes a violation. Callers hold l.mu.
func (l *Ledger) fail(k Kind, at time.Time, n TextNo, format string, args ...any) {
	l.counts.Violations++
	if len(l.violations) >= maxKept {
		return
	}
	v := Violation{Kind: k, At: at.Sub(l.cfg.Start), Text: n, Detail: fmt.Sprintf(format, args...), History: l.history(n)}
	l.violations = append(l.violations, v)
	if l.onFail != nil {
		l.onFail(v)
	}
}

// history is what is known of a text, in words.
func (l *Ledger) history(n TextNo) (lines []string) {
	t := l.texts[n]
	if t == nil {
		if n != 0 && int(n) < len(l.done) {
			lines = append(lines, fmt.Sprintf("done and put away: %s, shown %d times, %d SMS", Outcome(l.done[n]&3), l.done[n]>>2&7, l.done[n]>>5))
		}
		return lines
	}
	lines = append(lines, fmt.Sprintf("%s: from %d to %d, to be written", t.at.Sub(l.cfg.Start).Round(time.Microsecond), t.from, t.to))
	for _, s := range t.history {
		lines = append(lines, fmt.Sprintf("%s: %d %s", s.at.Sub(l.cfg.Start).Round(time.Microsecond), s.who, s.what))
	}
	return lines
}

func (t *text) step(at time.Time, who int, what string) {
	t.changed = at
	t.history = append(t.history, step{at, int32(who), what})
}

// Accepted notes a text that a handset has put into its outbox; at is when it was to be written.
func (l *Ledger) Accepted(n TextNo, from, to int, at, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &text{from: int32(from), to: int32(to), at: at}
	t.step(now, from, "accepted it")
	l.texts[n] = t
	for int(n) >= len(l.done) {
		l.done = append(l.done, 0)
	}
	l.counts.Texts++
}

// Told notes what a sender was told about its text. The last word counts; after "delivered" no other
// may come.
func (l *Ledger) Told(n TextNo, o Outcome, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.texts[n]
	if t == nil || t.outcome == o {
		return
	}
	t.step(now, int(t.from), "was told: "+o.String())
	if t.outcome == OverIP {
		l.fail(TwoOutcomes, now, n, "%d was told %s after delivered", t.from, o)
		return
	}
	l.recount(t.outcome, -1)
	l.recount(o, 1)
	if o == OverIP && t.outcome == Open {
		l.figures.Told(now.Sub(t.at))
	}
	t.outcome = o
	if o == OverIP && t.lean && t.shown == 0 {
		l.fail(NeverShown, now, n, "%d was told delivered, %d has not stored it", t.from, t.to)
	}
	l.closing.push(now.Add(grace), n)
}

func (l *Ledger) recount(o Outcome, by int) {
	switch o {
	case OverIP:
		l.counts.IP += by
	case BySMS:
		l.counts.SMS += by
	case Returned:
		l.counts.Returned += by
	}
}

// Immediate says that the recipient of n tells of it before it acknowledges, so that "delivered" can
// be judged at once.
func (l *Ledger) Immediate(n TextNo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.texts[n]; t != nil {
		t.lean = true
	}
}

// Shown notes that who has stored a text that came over IP and shows it as from somebody.
func (l *Ledger) Shown(n TextNo, who, from int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.texts[n]
	if t == nil {
		l.shownLate(n, who, now)
		return
	}
	t.step(now, who, fmt.Sprintf("shows it, over IP, as from %d", from))
	t.shown++
	switch {
	case int(t.to) != who || int(t.from) != from:
		l.fail(Misdelivered, now, n, "from %d to %d, shown by %d as from %d", t.from, t.to, who, from)
	case t.shown > 1:
		l.fail(ShownTwice, now, n, "%d shows it %d times", who, t.shown)
	case l.silencedBefore(who, now):
		l.fail(AfterRevocation, now, n, "%d shows it after it opted out", who)
	default:
		l.figures.Shown(now.Sub(t.at))
	}
	if t.recorded > 0 {
		l.counts.Folded++
	}
}

// shownLate judges a text that was put away.
func (l *Ledger) shownLate(n TextNo, who int, now time.Time) {
	if n == 0 || int(n) >= len(l.done) {
		return // not of this run
	}
	if l.done[n]>>2&7 > 0 {
		l.fail(ShownTwice, now, n, "%d shows it again, long after its outcome", who)
	}
	if l.done[n]>>2&7 < 7 {
		l.done[n] += 1 << 2
	}
}

// HasShown reports whether a text was shown already: what a handset knows of a text sealed again.
func (l *Ledger) HasShown(n TextNo) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.texts[n]; t != nil {
		return t.shown > 0
	}
	return int(n) < len(l.done) && l.done[n]>>2&7 > 0
}

// silencedBefore reports whether who had opted out when what it shows now was on its way.
func (l *Ledger) silencedBefore(who int, now time.Time) bool {
	r := l.people[who].revoked
	return !r.IsZero() && now.After(r)
}

// Recorded notes a text in the phone network's record.
func (l *Ledger) Recorded(n TextNo, to int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.texts[n]
	if t == nil {
		if n != 0 && int(n) < len(l.done) && l.done[n]>>5 < 7 {
			if l.done[n] += 1 << 5; l.done[n]>>5 > 1 {
				l.fail(ShownTwice, now, n, "%d gets it by SMS again", to)
			}
		}
		return
	}
	t.step(now, to, "gets it as an SMS, says the network")
	t.recorded++
	l.figures.BySMS(now.Sub(t.at))
	if t.shown > 0 {
		l.counts.Folded++
	}
	switch {
	case int(t.to) != to:
		l.fail(Misdelivered, now, n, "from %d to %d, SMS to %d", t.from, t.to, to)
	case t.recorded > 1:
		l.fail(ShownTwice, now, n, "%d gets it by SMS %d times", to, t.recorded)
	}
}

// Tick judges what is due by now and forgets what is done.
func (l *Ledger) Tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, ok := l.closing.pop(now); ok; n, ok = l.closing.pop(now) {
		if t := l.texts[n]; t != nil && now.Sub(t.changed) >= grace && settled(t, l.cfg.Recorded) {
			l.putAway(n, t)
		}
	}
	for id, ok := l.answered.pop(now); ok; id, ok = l.answered.pop(now) {
		if m := l.messages[id]; m != nil && m.open > 0 {
			l.answered.push(now.Add(grace), id)
		} else {
			delete(l.messages, id)
		}
	}
	slack := l.cfg.Slack()
	for i := range l.overdue {
		for a, ok := l.overdue[i].pop(now.Add(-slack)); ok; a, ok = l.overdue[i].pop(now.Add(-slack)) {
			l.lookOverdue(a, now)
		}
	}
	l.lookPresence(now, slack)
}

// settled reports whether nothing more is to come of a text but what would be a violation.
func settled(t *text, recorded bool) bool {
	switch t.outcome {
	case OverIP:
		return t.shown > 0
	case BySMS:
		return !recorded || t.recorded > 0
	}
	return t.outcome == Returned
}

func (l *Ledger) putAway(n TextNo, t *text) {
	l.done[n] = byte(t.outcome) | min(t.shown, 7)<<2 | min(t.recorded, 7)<<5
	delete(l.texts, n)
}

// Counts returns the figures so far.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// OpenTexts is how many texts have no outcome yet.
func (l *Ledger) OpenTexts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts.Texts - l.counts.IP - l.counts.SMS - l.counts.Returned
}

// Fail notes a violation that somebody else has found.
func (l *Ledger) Fail(k Kind, now time.Time, detail string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail(k, now, 0, "%s", detail)
}

// Stored is what a state directory says about the texts of this run that it received, read when
// nobody writes any more: how often it shows each. It is judged against what the handset told.
func (l *Ledger) Stored(who int, shows map[TextNo]int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, times := range shows {
		if times > 1 {
			l.fail(ShownTwice, now, n, "the store of %d has it %d times", who, times)
		}
		if t := l.texts[n]; t != nil && t.shown == 0 && int(t.to) == who {
			t.shown = 1 // its event was not read
		}
	}
}

// Close gives the verdict on every text that is not put away yet, and returns how many have no
// outcome.
func (l *Ledger) Close(now time.Time) (unaccounted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := make([]TextNo, 0, len(l.texts))
	for n := range l.texts {
		open = append(open, n)
	}
	slices.Sort(open)
	for _, n := range open {
		t := l.texts[n]
		if t.outcome == Open && !l.people[t.from].revoked.IsZero() {
			t.outcome = Returned // an opt-out cancels what is queued, and tells nobody [C-revoke]
			l.recount(Returned, 1)
		}
		k, why := verdict(t.outcome, int(t.shown), int(t.recorded), l.cfg.Recorded)
		if k == Unaccounted {
			unaccounted++
		}
		if k != "" {
			l.fail(k, now, n, "from %d to %d: %s", t.from, t.to, why)
		}
		l.putAway(n, t)
	}
	return unaccounted
}

// verdict compares the sender's outbox, the recipient's store and the SMSC's record of one text:
// shown once, or shown once and folded with its SMS copy, or marked failed at the sender.
func verdict(o Outcome, shown, sms int, recorded bool) (k Kind, why string) {
	switch {
	case o == Open:
		return Unaccounted, "it has no outcome"
	case o == OverIP && shown == 0:
		return NeverShown, "its sender was told delivered, its recipient does not have it"
	case o == BySMS && recorded && sms == 0:
		return NotRecorded, "its sender was told SMS, the SMSC has no record of it"
	}
	return "", ""
}

// Violations are those found so far, at most 100.
func (l *Ledger) Violations() []Violation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.violations)
}

// queue is things by when they are due, which rises. Zero value: empty.
type queue[T any] struct {
	items []due[T]
	head  int
}

type due[T any] struct {
	at time.Time
	v  T
}

func (q *queue[T]) push(at time.Time, v T) { q.items = append(q.items, due[T]{at, v}) }

// pop takes the oldest if it is due by now.
func (q *queue[T]) pop(now time.Time) (v T, ok bool) {
	if q.head == len(q.items) || q.items[q.head].at.After(now) {
		return v, false
	}
	v = q.items[q.head].v
	q.items[q.head] = due[T]{}
	if q.head++; q.head > len(q.items)/2 {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	return v, true
}
