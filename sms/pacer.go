package sms

import "time"

// Pacing of a bind (measured in spec: a throttled bind that slows as a whole gets more through than
// messages that back off each for itself). [F-15]
const (
	throttlePause  = 250 * time.Millisecond // after each throttling answer
	throttleFactor = 0.8                    // to the rate, at most once a second
	throttleEvery  = time.Second
	recovery       = 2.0 // a second more, each second
	minRate        = 1.0
)

// pacer says when the next part may be written. It is not safe for concurrent use.
//
// Invariant: minRate <= rate <= ceiling.
type pacer struct {
	ceiling float64   // parts a second
	rate    float64   // now
	grown   time.Time // until when recovery has been added
	next    time.Time // the earliest time of the next part
	cut     time.Time // of the last reduction

	second time.Time // start of the second being counted
	sent   int       // parts reserved in it
	before int       // parts reserved in the second before
}

func newPacer(perSecond float64, now time.Time) *pacer {
	return &pacer{ceiling: perSecond, rate: perSecond, grown: now}
}

// reserve takes the next turn and returns how long to wait for it.
func (p *pacer) reserve(now time.Time) time.Duration {
	p.grow(now)
	p.count(now)
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.rate))
	return wait
}

// throttled slows the bind. The first time it starts from what was really sent: a ceiling far above
// it would take many rejections to come down.
func (p *pacer) throttled(now time.Time) {
	if until := now.Add(throttlePause); p.next.Before(until) {
		p.next = until
	}
	if now.Sub(p.cut) < throttleEvery {
		return
	}
	p.grow(now)
	p.count(now)
	if seen := float64(max(p.sent, p.before)); seen >= minRate {
		p.rate = min(p.rate, seen)
	}
	p.rate = max(p.rate*throttleFactor, minRate)
	p.cut = now
}

func (p *pacer) grow(now time.Time) {
	if d := now.Sub(p.grown); d > 0 {
		p.rate = min(p.rate+recovery*d.Seconds(), p.ceiling)
		p.grown = now
	}
}

func (p *pacer) count(now time.Time) {
	switch d := now.Sub(p.second); {
	case d >= 2*time.Second:
		p.second, p.before, p.sent = now, 0, 0
	case d >= time.Second:
		p.second, p.before, p.sent = now, p.sent, 0
	}
	p.sent++
}
