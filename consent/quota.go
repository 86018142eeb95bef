package consent

import (
	"crypto/hmac"
	"crypto/sha256"
	"math"
	"time"

	"bluejay/wire"
)

// Quotas of the hello lane and of bundles, per UTC day and hour. [P-19]
const (
	NewRecipientsPerDay = 20  // INITs to recipients not written to today
	HellosPerHour       = 30  // INITs one recipient gets
	HellosPerPairHour   = 4   // of them from one sender: nobody closes another's lane alone
	BundlesPerDay       = 60  // key bundles one device fetches
	CancelsPerDay       = 200 // SMS jobs one device takes back: each leaves a journal entry for a day
)

// Limits are quotas that an operator may set; zero is the default above. [P-19]
type Limits struct {
	NewRecipients int // a day of one sender
	Hellos        int // an hour to one recipient
	PairHellos    int // of them from one sender
	Bundles       int // a day of one device
}

// or is l where it says something, else otherwise.
func or(l int, otherwise uint16) uint16 {
	if l <= 0 {
		return otherwise
	}
	return uint16(min(l, math.MaxUint16))
}

// maxCounters bounds the memory of Quotas; beyond it everything new is refused until midnight.
const maxCounters = 1 << 20

// Quotas counts in memory under a key that is forgotten every day, so that yesterday's counters
// say nothing about who wrote to whom. Zero value: see [NewQuotas]. Use it under one lock.
type Quotas struct {
	Limits Limits
	random func([]byte)
	day    int64
	hour   int64
	key    [32]byte
	seen   map[[12]byte]struct{} // sender and recipient
	perDay map[[12]byte]uint16   // sender, bundle reader
	perHr  map[[12]byte]uint16   // recipient; sender and recipient
}

// NewQuotas returns empty counters; random fills a slice with secret bytes.
func NewQuotas(random func([]byte)) *Quotas { return &Quotas{random: random, day: -1} }

func (q *Quotas) roll(now time.Time) {
	if d := now.Unix() / 86400; d != q.day {
		q.day = d
		q.random(q.key[:])
		q.seen, q.perDay = map[[12]byte]struct{}{}, map[[12]byte]uint16{}
	}
	if h := now.Unix() / 3600; h != q.hour || q.perHr == nil {
		q.hour = h
		q.perHr = map[[12]byte]uint16{}
	}
}

func (q *Quotas) name(kind byte, parts ...[]byte) [12]byte {
	m := hmac.New(sha256.New, q.key[:])
	m.Write(wire.LP("bj1 quota", append(parts, []byte{kind})...))
	return [12]byte(m.Sum(nil)[:12])
}

// Hello counts an INIT. sender is false when the sender has written to too many new recipients
// today: it is told so. deliver is false when the recipient has had too many this hour: nobody is
// told. A repeat to the same recipient is not a new recipient. [P-19]
func (q *Quotas) Hello(now time.Time, from, to wire.ID) (sender, deliver bool) {
	q.roll(now)
	pair, day, hour := q.name('p', from[:], to[:]), q.name('s', from[:]), q.name('r', to[:])
	if _, again := q.seen[pair]; !again {
		if q.perDay[day] >= or(q.Limits.NewRecipients, NewRecipientsPerDay) || len(q.seen) >= maxCounters {
			return false, false
		}
		q.perDay[day]++
		q.seen[pair] = struct{}{}
	}
	again := q.name('h', from[:], to[:])
	if q.perHr[hour] >= or(q.Limits.Hellos, HellosPerHour) || q.perHr[again] >= or(q.Limits.PairHellos, HellosPerPairHour) {
		return true, false
	}
	q.perHr[hour]++
	q.perHr[again]++
	return true, true
}

// Bundle counts the fetch of a key bundle; false is over quota.
func (q *Quotas) Bundle(now time.Time, reader wire.ID) bool {
	return q.daily(now, 'b', reader, or(q.Limits.Bundles, BundlesPerDay))
}

// Cancel counts the cancellation of an SMS job; false is over quota. [F-10]
func (q *Quotas) Cancel(now time.Time, sender wire.ID) bool {
	return q.daily(now, 'c', sender, CancelsPerDay)
}

func (q *Quotas) daily(now time.Time, kind byte, who wire.ID, limit uint16) bool {
	q.roll(now)
	k := q.name(kind, who[:])
	if q.perDay[k] >= limit || len(q.perDay) >= maxCounters {
		return false
	}
	q.perDay[k]++
	return true
}

// Replays remembers the signatures of time-stamped CONNECTs for as long as they would verify.
// [P-16] Zero value: ready. Use it under one lock.
type Replays struct {
	current, previous map[[16]byte]struct{} // the first half of R: unique to a signature
	turn              time.Time
}

// maxReplays bounds the memory of Replays; beyond it CONNECTs are refused until the next turn.
const maxReplays = 1 << 17

// Fresh reports whether a CONNECT stamped ts is within [wire.ClockSkew] of now and not seen before,
// and remembers it. Ask it after the signature has verified: what it remembers should be paid for.
func (r *Replays) Fresh(now, ts time.Time, sig wire.Signature) bool {
	if d := now.Sub(ts); d > wire.ClockSkew || d < -wire.ClockSkew {
		return false
	}
	if r.current == nil || now.Sub(r.turn) > 2*wire.ClockSkew {
		if now.Sub(r.turn) > 4*wire.ClockSkew {
			r.current = nil
		}
		r.previous, r.current, r.turn = r.current, map[[16]byte]struct{}{}, now
	}
	key := [16]byte(sig[:16])
	if _, seen := r.previous[key]; seen {
		return false
	}
	if _, seen := r.current[key]; seen || len(r.current) >= maxReplays {
		return false
	}
	r.current[key] = struct{}{}
	return true
}
