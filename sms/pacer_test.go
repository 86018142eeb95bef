package sms

import (
	"testing"
	"time"
)

// smscCap is a model of an SMSC that takes so many parts in each second and refuses the rest.
type smscCap struct {
	second int64
	taken  int
	limit  int
}

func (c *smscCap) take(now time.Time) bool {
	if s := now.Unix(); s != c.second {
		c.second, c.taken = s, 0
	}
	c.taken++
	return c.taken <= c.limit
}

// TestPacerUnderACap: a minute against an SMSC that takes 50 a second. [F-15]
func TestPacerUnderACap(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	now := start
	p := newPacer(1000, now)
	model := smscCap{limit: 50}
	accepted, rejected := 0, 0
	for now.Sub(start) < time.Minute {
		now = now.Add(p.reserve(now))
		if model.take(now) {
			accepted++
		} else {
			rejected++
			p.throttled(now)
		}
	}
	perSecond := accepted / 60
	t.Logf("%d/s accepted of a cap of 50, %d rejected in a minute", perSecond, rejected)
	if perSecond < 40 || rejected > 120 {
		t.Errorf("%d/s accepted (want at least 40), %d rejected (want at most 120)", perSecond, rejected)
	}
}

func TestPacerSteps(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := newPacer(100, now)
	if d := p.reserve(now); d != 0 {
		t.Errorf("the first part waits %v", d)
	}
	if d := p.reserve(now); d != 10*time.Millisecond {
		t.Errorf("the second part at 100/s waits %v, want 10ms", d)
	}
	for range 48 {
		p.reserve(now)
	}
	p.throttled(now)
	if p.rate != 41 && p.rate != 40.8 && (p.rate < 39 || p.rate > 42) {
		t.Errorf("after 50 parts and a rejection the rate is %v, want about 40", p.rate)
	}
	rate := p.rate
	p.throttled(now.Add(500 * time.Millisecond))
	if p.rate != rate {
		t.Errorf("a second rejection within a second moved the rate from %v to %v", rate, p.rate)
	}
	later := now.Add(throttlePause)
	if d := p.reserve(later); d < 0 {
		t.Errorf("reserve waits %v", d)
	}
	p.reserve(now.Add(time.Hour))
	if p.rate != 100 {
		t.Errorf("after an hour the rate is %v, want the ceiling", p.rate)
	}
}

func TestPacerPause(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := newPacer(100, now)
	p.reserve(now)
	p.throttled(now)
	if d := p.reserve(now); d < throttlePause {
		t.Errorf("after a rejection the next part waits %v, want at least %v", d, throttlePause)
	}
	for i := range 100 {
		p.throttled(now.Add(time.Duration(i) * time.Minute / 50))
	}
	if p.rate < minRate {
		t.Errorf("the rate fell to %v", p.rate)
	}
}
