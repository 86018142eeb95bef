package simulator

import (
	"math/rand/v2"
	"time"
)

// direction of bytes on a path.
type direction int

const (
	up   direction = iota // from the handset
	down                  // to it
)

// segment is what one packet of the network below carries.
const segment = 1400

// path is one connection over a [Link]: pure, told the time. Not for concurrent use.
type path struct {
	link Link
	rng  *rand.Rand
	free [2]time.Time // when the last byte sent leaves the narrow part
	last [2]time.Time // when the last bytes arrive: nothing overtakes
	used time.Time    // when anything passed last
	dies time.Time    // zero: does not
	dead bool
}

func newPath(l Link, rng *rand.Rand, now time.Time) *path {
	p := &path{link: l, rng: rng, used: now}
	if l.HalfOpen > 0 {
		p.dies = now.Add(pause(rng, l.HalfOpen.Std().Seconds()))
	}
	return p
}

// alive reports whether anything passes at this time.
func (p *path) alive(now time.Time) bool {
	gone := !p.dies.IsZero() && now.After(p.dies) || p.link.NAT > 0 && now.Sub(p.used) > p.link.NAT.Std()
	p.dead = p.dead || gone
	return !p.dead
}

// send says when n bytes written now arrive; false: never, and nobody is told.
func (p *path) send(d direction, now time.Time, n int) (time.Time, bool) {
	if !p.alive(now) {
		return time.Time{}, false
	}
	p.used = now
	at := now
	if rate := [2]float64{p.link.Up, p.link.Down}[d]; rate > 0 {
		at = later(p.free[d], now).Add(time.Duration(float64(8*n) / rate * float64(time.Millisecond)))
		p.free[d] = at
	}
	at = at.Add(p.link.Latency.Std() + p.delay(n))
	at = later(at, p.last[d])
	p.last[d] = at
	return at, true
}

// delay is jitter, and what losses cost: TCP sends again after RTO, then waits twice as long.
func (p *path) delay(n int) (d time.Duration) {
	if p.link.Jitter > 0 {
		d = time.Duration(p.rng.Float64() * float64(p.link.Jitter))
	}
	for range (n + segment - 1) / segment {
		for rto := p.link.RTO.Std(); p.link.Loss > 0 && p.rng.Float64() < p.link.Loss; rto *= 2 {
			d += rto
		}
	}
	return d
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
