package simulator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// book is a ledger with two people, 0 and 1, who are connected and agreed to presence; 1 is watched
// by 0. Its clock moves only by hand.
type book struct {
	*Ledger
	t     *testing.T
	now   time.Time
	lines [2]*line
	pid   uint16
}

var bookTags = [2]wire.Tag{{1, 1}, {2, 2}}

func newBook(t *testing.T) *book {
	t.Helper()
	start := time.Unix(1e9, 0)
	b := &book{t: t, now: start}
	b.Ledger = NewLedger(LedgerConfig{Start: start, Grey: 46 * time.Second, Recorded: true, Alone: true}, 2, NewFigures(), nil)
	for i := range b.lines {
		b.connect(i)
		b.consent(i, wire.ScopeMessaging|wire.ScopePresence)
	}
	b.lines[0].sent(raw(appendSubscribe(nil, wire.Topic{Kind: wire.TopicPresence, Tag: bookTags[1]}, 1)), b.now)
	b.tellPresence(0, 1, true)
	return b
}

// raw parses one packet.
func raw(b []byte) packet {
	p, _, _ := parsePacket(b)
	return p
}

func (b *book) connect(who int) {
	b.lines[who] = b.dial(who, wire.ID{byte(who + 1)}, nil, b.now, b.now)
	b.reply(who, wire.Welcome{Gen: 1, Tag: bookTags[who]}.Marshal())
}

func (b *book) reply(who int, payload []byte) {
	b.lines[who].got(raw(appendPublish(nil, wire.Topic{Kind: wire.TopicReply}, 1, false, payload)), b.now)
}

func (b *book) consent(who int, scopes wire.Scope) {
	b.pid++
	rec := wire.Consent{ID: wire.ID{byte(who + 1)}, Scopes: scopes, Seq: uint32(b.pid), ExpiresAt: 2e9}
	req := wire.Request{ID: b.pid, Body: rec.Marshal()}
	b.lines[who].sent(raw(appendPublish(nil, wire.Topic{Kind: wire.TopicConsent}, b.pid, false, req.Marshal())), b.now)
	b.reply(who, wire.Answer{Request: b.pid, Code: wire.OK}.Marshal())
	b.lines[who].got(raw(appendPuback(nil, b.pid)), b.now)
}

func (b *book) tellPresence(watcher, owner int, blue bool) {
	payload := []byte{}
	if blue {
		payload = []byte{1}
	}
	b.lines[watcher].got(raw(appendPublish(nil, wire.Topic{Kind: wire.TopicPresence, Tag: bookTags[owner]}, 1, false, payload)), b.now)
}

// message is a MSG with a head of our own: it does not open, which no ledger tries.
func messageAt(epoch byte, n uint16, fill byte) []byte {
	m := []byte{0x80 | epoch, 0, 9, byte(n >> 8), byte(n)}
	return append(m, strings.Repeat(string(rune(fill)), envelope.MsgOverhead+11)...)
}

// publish has 0 publish a message for 1's inbox; it returns the packet id.
func (b *book) publish(m []byte) uint16 {
	b.pid++
	b.lines[0].sent(raw(appendPublish(nil, inboxOf(bookTags[1]), b.pid, false, m)), b.now)
	return b.pid
}

func (b *book) deliver(who int, tag wire.Tag, m []byte, pid uint16) {
	b.lines[who].got(raw(appendPublish(nil, inboxOf(tag), pid, false, m)), b.now)
}

func (b *book) acknowledge(who int, pid uint16) {
	b.lines[who].sent(raw(appendPuback(nil, pid)), b.now)
}

func (b *book) puback(pid uint16, code wire.Code) {
	if code != wire.OK {
		b.reply(0, wire.Notice{PacketID: pid, Code: code}.Marshal())
	}
	b.lines[0].got(raw(appendPuback(nil, pid)), b.now)
}

// pass lets time pass in steps of the fleet's.
func (b *book) pass(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(100 * time.Millisecond)
		b.Tick(b.now)
	}
}

// text writes text n from 0 to 1 and delivers it as it should be.
func (b *book) text(n TextNo) {
	m := messageAt(1, uint16(n), 'a')
	b.Accepted(n, 0, 1, b.now, b.now)
	b.Immediate(n)
	b.sealed(n, wire.MessageIDOf(m), bookTags[1], 0)
	pid := b.publish(m)
	b.deliver(1, bookTags[1], m, 5)
	b.Shown(n, 1, 0, b.now)
	b.acknowledge(1, 5)
	b.puback(pid, wire.OK)
	b.Told(n, OverIP, b.now)
}

// expect checks which violations there are, each once or more.
func (b *book) expect(kinds ...Kind) {
	b.t.Helper()
	found := map[Kind]bool{}
	for _, v := range b.Violations() {
		found[v.Kind] = true
		if !slices.Contains(kinds, v.Kind) {
			b.t.Errorf("not expected: %s", v)
		}
	}
	for _, k := range kinds {
		if !found[k] {
			b.t.Errorf("not found: %s", k)
		}
	}
}

// TestGoodRun: what the spec promises is no violation, and each text is counted once.
func TestGoodRun(t *testing.T) {
	b := newBook(t)
	for n := TextNo(1); n <= 5; n++ {
		b.text(n)
	}
	b.Accepted(6, 0, 1, b.now, b.now)
	m := messageAt(1, 6, 'b')
	b.puback(b.publish(m), wire.NoRecipient) // offline: returned, then by SMS
	b.Recorded(6, 1, b.now)
	b.Told(6, BySMS, b.now)
	b.Accepted(7, 0, 1, b.now, b.now)
	b.Told(7, Returned, b.now)
	b.pass(2 * time.Minute)
	if n := b.Close(b.now); n != 0 {
		t.Errorf("%d unaccounted", n)
	}
	b.expect()
	if c := b.Counts(); c.Texts != 7 || c.IP != 5 || c.SMS != 1 || c.Returned != 1 {
		t.Errorf("counts %+v", c)
	}
	if c := b.Presence(); c.Blue == 0 {
		t.Error("presence was never looked at")
	}
	if len(b.texts) != 0 || len(b.messages) != 0 {
		t.Errorf("%d texts and %d messages are kept after they were done", len(b.texts), len(b.messages))
	}
}

// TestResendIsNoDouble: a text that was returned and is sent again may arrive again.
func TestResendIsNoDouble(t *testing.T) {
	b := newBook(t)
	m := messageAt(1, 1, 'a')
	first := b.publish(m)
	b.deliver(1, bookTags[1], m, 5)
	b.puback(first, wire.NoRecipient)
	b.pass(3 * time.Second)
	second := b.publish(m)
	b.deliver(1, bookTags[1], m, 6)
	b.acknowledge(1, 6)
	b.puback(second, wire.OK)
	b.pass(time.Minute)
	b.expect()
}

// TestViolations tells each broken promise as a script: the ledger finds it, and nothing else.
func TestViolations(t *testing.T) {
	m := messageAt(1, 1, 'a')
	for name, tt := range map[string]struct {
		want Kind
		play func(b *book)
	}{
		"the PUBACK before the recipient's [C-1]": {EarlyPuback, func(b *book) {
			pid := b.publish(m)
			b.deliver(1, bookTags[1], m, 5)
			b.puback(pid, wire.OK)
		}},
		"delivered twice [C-3]": {DoubleDelivery, func(b *book) {
			b.publish(m)
			b.deliver(1, bookTags[1], m, 5)
			b.deliver(1, bookTags[1], m, 6)
		}},
		"delivered after its outcome [C-3]": {DoubleDelivery, func(b *book) {
			pid := b.publish(m)
			b.puback(pid, wire.NoRecipient)
			b.pass(20 * time.Second)
			b.deliver(1, bookTags[1], m, 5)
		}},
		"a delivery after the opt-out was acknowledged [C-revoke]": {AfterRevocation, func(b *book) {
			b.publish(m)
			b.consent(1, 0)
			b.tellPresence(0, 1, false)
			b.deliver(1, bookTags[1], m, 5)
		}},
		"a message of somebody who had opted out [C-revoke]": {AfterRevocation, func(b *book) {
			b.publish(m)
			b.consent(0, 0)
			b.now = b.now.Add(2 * time.Second)
			b.deliver(1, bookTags[1], m, 5)
		}},
		"a message for another tag [P-10]": {WrongTag, func(b *book) {
			b.publish(m)
			b.deliver(0, bookTags[1], m, 5)
		}},
		"presence nobody asked for [P-18]": {WrongTag, func(b *book) { b.tellPresence(1, 0, true) }},
		"somebody else's tag at the welcome": {WrongTag, func(b *book) {
			b.lines[0].close(b.now)
			b.lines[0] = b.dial(0, wire.ID{1}, nil, b.now, b.now)
			b.reply(0, wire.Welcome{Gen: 2, Tag: bookTags[1]}.Marshal())
		}},
		"blue though gone [P-18]": {StaleBlue, func(b *book) {
			b.lines[1].close(b.now)
			b.pass(50 * time.Second)
		}},
		"blue though opted out [C-revoke]": {StaleBlue, func(b *book) {
			b.consent(1, 0)
			b.pass(3 * time.Second)
		}},
		"not blue though connected [P-18]": {LateBlue, func(b *book) {
			b.lines[1].close(b.now)
			b.tellPresence(0, 1, false)
			b.connect(1)
			b.pass(3 * time.Second)
		}},
		"grey though connected [P-18]": {FalseGrey, func(b *book) {
			b.pass(5 * time.Second)
			b.tellPresence(0, 1, false)
		}},
		"no answer past the deadline [C-2]": {LostReturn, func(b *book) {
			b.publish(m)
			b.pass(12 * time.Second)
		}},
		"one key for two messages [S-5]": {ReusedKey, func(b *book) {
			b.puback(b.publish(messageAt(1, 7, 'x')), wire.NoRecipient)
			b.puback(b.publish(messageAt(1, 7, 'y')), wire.NoRecipient)
		}},
		"shown to somebody else": {Misdelivered, func(b *book) {
			b.Accepted(1, 0, 1, b.now, b.now)
			b.Shown(1, 0, 0, b.now)
			b.Told(1, Returned, b.now)
		}},
		"shown twice [U-9]": {ShownTwice, func(b *book) {
			b.text(1)
			b.Shown(1, 1, 0, b.now)
		}},
		"shown again when long done [U-9]": {ShownTwice, func(b *book) {
			b.text(1)
			b.pass(time.Minute)
			b.Shown(1, 1, 0, b.now)
		}},
		"twice in the store [U-9]": {ShownTwice, func(b *book) {
			b.text(1)
			b.Stored(1, map[TextNo]int{1: 2}, b.now)
		}},
		"two SMS": {ShownTwice, func(b *book) {
			b.Accepted(1, 0, 1, b.now, b.now)
			b.Recorded(1, 1, b.now)
			b.Recorded(1, 1, b.now)
			b.Told(1, BySMS, b.now)
		}},
		"told delivered, and nobody has it [C-1]": {NeverShown, func(b *book) {
			b.Accepted(1, 0, 1, b.now, b.now)
			b.Told(1, OverIP, b.now)
			b.Close(b.now)
		}},
		"told SMS, and no SMSC has it": {NotRecorded, func(b *book) {
			b.Accepted(1, 0, 1, b.now, b.now)
			b.Told(1, BySMS, b.now)
			b.Close(b.now)
		}},
		"two outcomes": {TwoOutcomes, func(b *book) {
			b.text(1)
			b.Told(1, Returned, b.now)
		}},
		"no outcome": {Unaccounted, func(b *book) {
			b.Accepted(1, 0, 1, b.now, b.now)
			if b.Close(b.now) != 1 {
				b.t.Error("it is not counted")
			}
		}},
		"counts that do not add up [C-7]": {Conservation, func(b *book) { b.Balance(BrokerCounts{Accepted: 2, Delivered: 1}, 0, b.now) }},
		"more told than delivered [C-7]": {Conservation, func(b *book) {
			b.text(1)
			b.Balance(BrokerCounts{}, b.Attempts().OK, b.now)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			b.play(tt.play)
			b.expect(tt.want)
		})
	}
}

func (b *book) play(f func(*book)) { f(b) }

// TestDeadPathExcuses: on a path that is dead nobody waits for an answer or for a word on presence,
// and whoever is behind it has to turn grey within the longer bound.
func TestDeadPathExcuses(t *testing.T) {
	b := newBook(t)
	b.publish(messageAt(1, 1, 'a'))
	b.lines[0].deadPath(b.now)
	b.lines[1].close(b.now)
	b.pass(2 * time.Minute)
	b.expect()
}

// TestOptOutEndsWaiting: a text that the queue had when its sender opted out counts as returned:
// nobody is told any more. [C-revoke]
func TestOptOutEndsWaiting(t *testing.T) {
	b := newBook(t)
	b.Accepted(1, 0, 1, b.now, b.now)
	b.consent(0, 0)
	if n := b.Close(b.now); n != 0 || b.Counts().Returned != 1 {
		t.Errorf("%d unaccounted, %d returned", n, b.Counts().Returned)
	}
	b.expect()
}

// TestHistory: a violation tells what happened to its text, in order.
func TestHistory(t *testing.T) {
	b := newBook(t)
	b.text(1)
	b.Shown(1, 1, 0, b.now)
	_, v, _ := strings.Cut(b.Violations()[0].String(), "\n")
	at := -1
	for _, want := range []string{"from 0 to 1", "accepted it", "publishes it", "gets it", "shows it", "has the PUBACK", "was told: delivered"} {
		i := strings.Index(v, want)
		if i < at || i < 0 {
			t.Errorf("%q is not in its place in:\n%s", want, v)
		}
		at = i
	}
}

// TestKeyWatch: the same bytes again are a resend; a new epoch begins at 0 again; an older epoch is
// still known, two epochs back it is not judged.
func TestKeyWatch(t *testing.T) {
	var k keyWatch
	id := func(m []byte) wire.MessageID { return wire.MessageIDOf(m) }
	for i, step := range []struct {
		epoch byte
		n     uint16
		fill  byte
		want  bool
	}{
		{1, 0, 'a', false}, {1, 1, 'b', false}, {1, 0, 'a', false}, {1, 1, 'c', true},
		{2, 0, 'd', false}, {1, 0, 'a', false}, {1, 0, 'z', true}, {2, 1, 'e', false},
		{3, 0, 'f', false}, {0, 0, 'g', false}, {1, 0, 'h', false}, {1, 0, 'i', true},
	} {
		m := messageAt(step.epoch, step.n, step.fill)
		if got := k.reused(bookTags[0], m, id(m)); got != step.want {
			t.Errorf("step %d: reused %v, want %v", i, got, step.want)
		}
	}
}

// TestQueue: things come out when they are due, in order, and the queue does not grow for ever.
func TestQueue(t *testing.T) {
	var q queue[int]
	start := time.Unix(0, 0)
	next := 0
	for i := range 10_000 {
		now := start.Add(time.Duration(i) * time.Second)
		q.push(now.Add(10*time.Second), i)
		for v, ok := q.pop(now); ok; v, ok = q.pop(now) {
			if v != next {
				t.Fatalf("%d comes before %d", v, next)
			}
			next++
		}
	}
	if next < 9_980 || len(q.items) > 100 {
		t.Errorf("%d came, %d are kept", next, len(q.items))
	}
}
