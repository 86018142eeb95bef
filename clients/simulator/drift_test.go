package simulator

import (
	"math"
	"testing"
	"time"
)

// TestDrifts: the parts' medians are held against the first after the warm-up; what was before it,
// after the end, not known, or a spike of one sample does not count.
func TestDrifts(t *testing.T) {
	r := Report{Ran: 600 * time.Second}
	for s := 1; s <= 620; s++ {
		v := Sample{At: float64(s), BrokerRSS: 1000, RSS: 2000}
		switch {
		case s < 120 || s > 601:
			v.BrokerRSS = 1 // while it warms up, and when all is over
		case s == 290:
			v.BrokerRSS = 1_000_000
		case s >= 300 && s < 420:
			v.BrokerRSS = 980
		case s >= 500:
			v.BrokerRSS = 1040
		}
		r.Samples = append(r.Samples, v)
	}
	broker, own := r.Drifts()
	if broker.First != 1000 || broker.Last != 1040 || broker.Peak != 1_000_000 || math.Abs(broker.Least+0.02) > 1e-9 || math.Abs(broker.Most-0.04) > 1e-9 {
		t.Errorf("broker %+v", broker)
	}
	if own.First != 2000 || own.Last != 2000 || own.Least != 0 || own.Most != 0 || own.From != 2*time.Minute || own.To < 590*time.Second || own.Peak != 2000 {
		t.Errorf("own %+v", own)
	}
	short := Report{Ran: 12 * time.Second, Samples: r.Samples[:12]}
	if b, o := short.Drifts(); b != (Drift{}) || o != (Drift{}) {
		t.Errorf("one part has a drift: %+v %+v", b, o)
	}
	r.Samples = []Sample{{At: 1}, {At: 2}}
	if b, o := r.Drifts(); b != (Drift{}) || o != (Drift{}) {
		t.Errorf("what is not known has a drift: %+v %+v", b, o)
	}
}
