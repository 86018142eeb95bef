package consent

import (
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/wire"
)

func newQuotas() *Quotas { return NewQuotas(func(b []byte) { _, _ = rand.Read(b) }) }

func id(n int) wire.ID {
	var id wire.ID
	binary.BigEndian.PutUint32(id[:], uint32(n)+1)
	return id
}

// hello asks for one INIT and names the answer.
func hello(q *Quotas, from, to int) string {
	switch sender, deliver := q.Hello(time.Now(), id(from), id(to)); {
	case !sender && !deliver:
		return "over quota"
	case !deliver:
		return "dropped in silence"
	case !sender:
		return "impossible"
	}
	return "delivered"
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// TestHellosOfASender shows [P-19]: 20 new recipients a UTC day, repeats not counted.
func TestHellosOfASender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas()
		for to := range NewRecipientsPerDay {
			expect(t, "a new recipient", hello(q, 0, to+1), "delivered")
		}
		expect(t, "the 21st", hello(q, 0, 21), "over quota")
		expect(t, "a repeat to the first", hello(q, 0, 1), "delivered")
		expect(t, "another sender to the 21st", hello(q, 99, 21), "delivered")
		time.Sleep(24*time.Hour - time.Nanosecond) // the bubble begins at midnight
		expect(t, "just before midnight", hello(q, 0, 21), "over quota")
		time.Sleep(time.Nanosecond)
		expect(t, "at midnight", hello(q, 0, 21), "delivered")
	})
}

// TestHellosToARecipient shows [P-19]: 30 an hour, then silence, of which no sender is told.
func TestHellosToARecipient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas()
		for from := range HellosPerHour {
			expect(t, "a hello", hello(q, from+1, 0), "delivered")
		}
		expect(t, "the 31st", hello(q, 31, 0), "dropped in silence")
		expect(t, "the 31st, repeated", hello(q, 31, 0), "dropped in silence")
		expect(t, "to another recipient", hello(q, 31, 32), "delivered")
		time.Sleep(time.Hour)
		expect(t, "an hour later", hello(q, 31, 0), "delivered")
	})
}

// TestHellosOfAPair shows [P-19]: one sender takes at most 4 of a recipient's 30 an hour.
func TestHellosOfAPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas()
		for range HellosPerPairHour {
			expect(t, "a hello", hello(q, 1, 0), "delivered")
		}
		expect(t, "one more", hello(q, 1, 0), "dropped in silence")
		expect(t, "from a friend", hello(q, 2, 0), "delivered")
		time.Sleep(time.Hour)
		expect(t, "an hour later", hello(q, 1, 0), "delivered")
	})
}

// TestBundlesOfAReader shows that key bundles and hellos are counted apart, by the day.
func TestBundlesOfAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas()
		for i := range BundlesPerDay + 1 {
			if got, want := q.Bundle(time.Now(), id(0)), i < BundlesPerDay; got != want {
				t.Errorf("bundle %d: %v", i+1, got)
			}
		}
		if !q.Bundle(time.Now(), id(1)) {
			t.Error("another reader is refused")
		}
		expect(t, "a hello", hello(q, 0, 1), "delivered")
		time.Sleep(24 * time.Hour)
		if !q.Bundle(time.Now(), id(0)) {
			t.Error("refused the next day")
		}
	})
}

// TestCountersAreForgotten shows that the next day neither counters nor names of the last are left.
func TestCountersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas()
		hello(q, 0, 1)
		key, name := q.key, q.name('p', []byte("a"))
		time.Sleep(24 * time.Hour)
		q.Bundle(time.Now(), id(5))
		if q.key == key || q.name('p', []byte("a")) == name {
			t.Error("the key of yesterday is still in use")
		}
		if len(q.seen) != 0 || len(q.perHr) != 0 || len(q.perDay) != 1 {
			t.Errorf("left: %d pairs, %d hours, %d days", len(q.seen), len(q.perHr), len(q.perDay))
		}
	})
}

// TestCountersAreBounded shows that with its memory full nothing new is counted, and old is.
func TestCountersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas()
		expect(t, "the first", hello(q, 0, 1), "delivered")
		for i := range maxCounters {
			var k [12]byte
			binary.BigEndian.PutUint32(k[:], uint32(i))
			q.seen[k] = struct{}{}
		}
		expect(t, "a new pair", hello(q, 0, 2), "over quota")
		expect(t, "a known pair", hello(q, 0, 1), "delivered")
	})
}

func sig(n int) (s wire.Signature) {
	binary.BigEndian.PutUint32(s[:], uint32(n))
	return s
}

// TestReplayWindow shows [P-16]: 60 s to either side, each signature once.
func TestReplayWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Replays
		now := time.Now()
		for i, c := range []struct {
			name string
			ts   time.Time
			sig  int
			want bool
		}{
			{"now", now, 1, true},
			{"again", now, 1, false},
			{"60 s ago", now.Add(-wire.ClockSkew), 2, true},
			{"61 s ago", now.Add(-wire.ClockSkew - time.Second), 3, false},
			{"60 s ahead", now.Add(wire.ClockSkew), 4, true},
			{"61 s ahead", now.Add(wire.ClockSkew + time.Second), 5, false},
		} {
			if got := r.Fresh(now, c.ts, sig(c.sig)); got != c.want {
				t.Errorf("%d, stamped %s: %v", i, c.name, got)
			}
		}
		time.Sleep(2 * wire.ClockSkew)
		if r.Fresh(time.Now(), now.Add(wire.ClockSkew), sig(4)) {
			t.Error("the one stamped ahead passes again at the end of its time")
		}
	})
}

// TestReplaysModel lets an attacker who has everything repeat it at random: nothing passes twice,
// and memory does not grow with time. [P-16]
func TestReplaysModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Replays
		random := mathrand.New(mathrand.NewPCG(1, 0))
		stamps, passed := []time.Time{}, map[int]bool{}
		for range 40_000 {
			now, n := time.Now(), len(stamps)
			if n > 0 && random.IntN(3) > 0 {
				n -= 1 + random.IntN(min(n, 400))
			} else {
				stamps = append(stamps, now.Add(time.Duration(random.Int64N(int64(2*wire.ClockSkew)))-wire.ClockSkew))
			}
			within := now.Sub(stamps[n]).Abs() <= wire.ClockSkew
			if got := r.Fresh(now, stamps[n], sig(n)); got != (within && !passed[n]) {
				t.Fatalf("CONNECT %d, stamped %v, at %v: %v, passed before %v", n, stamps[n], now, got, passed[n])
			} else if got {
				passed[n] = true
			}
			time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
		}
		if held := len(r.current) + len(r.previous); held > 1000 {
			t.Errorf("%d signatures are remembered", held)
		}
	})
}

// TestReplaysAreBounded shows that a flood is refused rather than remembered, for a while.
func TestReplaysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Replays
		for i := range maxReplays {
			if !r.Fresh(time.Now(), time.Now(), sig(i)) {
				t.Fatalf("CONNECT %d is refused", i)
			}
		}
		if r.Fresh(time.Now(), time.Now(), sig(maxReplays)) {
			t.Error("one more is remembered")
		}
		time.Sleep(2*wire.ClockSkew + time.Second)
		if !r.Fresh(time.Now(), time.Now(), sig(maxReplays)) {
			t.Error("still refused after the turn")
		}
	})
}

func BenchmarkHello(b *testing.B) {
	q := newQuotas()
	b.ReportAllocs()
	for b.Loop() {
		q.Hello(now, alice, mallory)
	}
}

// [F-10]: a device takes back a bounded number of jobs a day, apart from its other quotas.
func TestCancelsOfASender(t *testing.T) {
	q := NewQuotas(func(b []byte) { b[0]++ })
	now := time.Unix(1_800_000_000, 0)
	for i := range CancelsPerDay {
		if !q.Cancel(now, wire.ID{1}) {
			t.Fatalf("cancel %d of %d refused", i+1, CancelsPerDay)
		}
	}
	if q.Cancel(now, wire.ID{1}) {
		t.Error("one more is allowed")
	}
	if !q.Cancel(now, wire.ID{2}) || !q.Bundle(now, wire.ID{1}) || !q.Cancel(now.Add(24*time.Hour), wire.ID{1}) {
		t.Error("the quota is not of one sender, one kind and one day")
	}
}
