package simulator

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Duration is a time.Duration that reads "20s" or "5m" from a file.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler; durations are not negative.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration like 20s or 5m", b)
	}
	*d = Duration(v)
	return nil
}

// Std is the standard library's form.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Profile is how a population behaves. Each zero value means "never" or "none", unless said otherwise.
type Profile struct {
	About string `toml:"about"`

	ConnectRate float64  `toml:"connect-rate"` // handsets a second that connect at the start; 0: 200
	ArrivalRate float64  `toml:"arrival-rate"` // handsets a second that come later; 0: all are there at the start
	Arrivals    float64  `toml:"arrivals"`     // the share of the population that comes later
	OptIn       float64  `toml:"opt-in"`       // the share that agreed; beside them are people with a phone number only
	Keepalive   Duration `toml:"keepalive"`    // 0: 4 min

	Contacts    int     `toml:"contacts"`     // of one person, on average
	MaxContacts int     `toml:"max-contacts"` // of one person; 0: 200
	Zipf        float64 `toml:"zipf"`         // how much more popular the popular are; above 1; 0: all alike

	Texts  float64 `toml:"texts"`  // one person writes an hour
	Length Length  `toml:"length"` // of a text

	Online   Duration `toml:"online"`   // a stay online, on average; 0: for ever
	Offline  Duration `toml:"offline"`  // the time between two stays, on average
	Abrupt   float64  `toml:"abrupt"`   // the share of leaves without a word, the connection cut
	Airplane float64  `toml:"airplane"` // times an hour a radio is off at once, for Offline
	OptOuts  float64  `toml:"opt-outs"` // times an hour one person opts out, for good

	Patience Duration `toml:"patience"` // somebody takes back what could not be sent for so long; 0: at the end of the run

	Storm      Duration `toml:"storm"`       // every so often many connections are cut at once
	StormShare float64  `toml:"storm-share"` // how many of them

	Fallback Fallback `toml:"fallback"`
	Links    []Link   `toml:"link"` // none: the machine's own loopback
}

// Length is how many characters texts have: a log-normal distribution.
type Length struct {
	Median int     `toml:"median"` // 0: 30
	P95    int     `toml:"p95"`    // 0: 120
	Max    int     `toml:"max"`    // 0: 300; at most 1,600
	Emoji  float64 `toml:"emoji"`  // the share of texts with a character outside GSM-7
}

// Fallback is the shares of the users' rules for a contact that is grey; they need not add up to 1.
// All 0: everybody uses the gateway.
type Fallback struct {
	Gateway float64 `toml:"gateway"`
	Device  float64 `toml:"device"`
	Never   float64 `toml:"never"`
}

// Link is a mobile network as TCP sees it: a lost packet is a delay, and a dead path says nothing.
type Link struct {
	Name     string   `toml:"name"`
	Share    float64  `toml:"share"`     // of the population, among all links
	Latency  Duration `toml:"latency"`   // one way
	Jitter   Duration `toml:"jitter"`    // added at random, up to this
	Up       float64  `toml:"up"`        // kbit/s; 0: no bound
	Down     float64  `toml:"down"`      // kbit/s; 0: no bound
	Loss     float64  `toml:"loss"`      // the share of packets lost; each costs RTO, then twice that
	RTO      Duration `toml:"rto"`       // 0: 300 ms
	HalfOpen Duration `toml:"half-open"` // after this long on average the path dies, and neither side is told
	NAT      Duration `toml:"nat"`       // a mapping unused for this long is gone
}

// withDefaults fills in what is zero.
func (p Profile) withDefaults() Profile {
	p.ConnectRate = orElse(p.ConnectRate, 200)
	p.Keepalive = orElse(p.Keepalive, Duration(4*time.Minute))
	p.MaxContacts = orElse(p.MaxContacts, 200)
	p.Length.Median = orElse(p.Length.Median, 30)
	p.Length.P95 = orElse(p.Length.P95, 4*p.Length.Median)
	p.Length.Max = orElse(p.Length.Max, max(300, p.Length.P95))
	if f := p.Fallback; f.Gateway+f.Device+f.Never == 0 {
		p.Fallback.Gateway = 1
	}
	p.Links = slices.Clone(p.Links)
	for i := range p.Links {
		p.Links[i].RTO = orElse(p.Links[i].RTO, Duration(300*time.Millisecond))
	}
	return p
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// maxWatched is the most presence subscriptions that a broker gives one connection.
const maxWatched = 512

// Check refuses a profile that cannot be run, and says which key is wrong.
func (p Profile) Check() error {
	q := p.withDefaults()
	shares := map[string]float64{
		"opt-in": p.OptIn, "arrivals": p.Arrivals, "abrupt": p.Abrupt, "storm-share": p.StormShare, "length.emoji": p.Length.Emoji,
		"fallback.gateway": p.Fallback.Gateway, "fallback.device": p.Fallback.Device, "fallback.never": p.Fallback.Never,
	}
	for i, l := range p.Links {
		shares[fmt.Sprintf("link %d (%s): loss", i+1, l.Name)] = l.Loss
		if l.Share <= 0 {
			return fmt.Errorf("link %d (%s): share: every link needs one above 0", i+1, l.Name)
		}
	}
	for key, v := range shares {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("%s: %v is not a share between 0 and 1", key, v)
		}
	}
	for key, v := range map[string]float64{
		"connect-rate": p.ConnectRate, "arrival-rate": p.ArrivalRate, "texts": p.Texts, "airplane": p.Airplane, "opt-outs": p.OptOuts,
	} {
		if !(v >= 0 && v <= 1e6) {
			return fmt.Errorf("%s: %v is not a rate from 0 to a million", key, v)
		}
	}
	return q.checkRest()
}

func (p Profile) checkRest() error {
	switch {
	case p.OptIn == 0:
		return errors.New("opt-in: with 0 nobody could be connected; give the share of people who agreed, such as 0.9")
	case p.Zipf != 0 && !(p.Zipf > 1 && p.Zipf < 10):
		return errors.New("zipf: must be above 1 and below 10, or 0 for no difference")
	case p.Contacts < 0 || p.MaxContacts < 0 || p.MaxContacts > maxWatched:
		return fmt.Errorf("contacts: from 0; max-contacts: at most %d, the presence a broker lets one connection watch", maxWatched)
	case p.Length.Median < 1 || p.Length.P95 < p.Length.Median || p.Length.Max < p.Length.P95 || p.Length.Max > 1600:
		return errors.New("length: wants 1 ≤ median ≤ p95 ≤ max ≤ 1600")
	case p.Online > 0 && p.Offline == 0:
		return errors.New("offline: needs a duration when online has one")
	case p.Airplane > 0 && p.Offline == 0:
		return errors.New("offline: needs a duration when there is airplane mode: it is how long that lasts")
	case p.Arrivals > 0 && p.ArrivalRate == 0:
		return errors.New("arrival-rate: needs a rate when arrivals is not 0")
	case p.Storm > 0 && p.StormShare == 0:
		return errors.New("storm-share: needs a share when storm has an interval")
	}
	return nil
}

// Strangers is how many people without the service there are beside so many with it.
func (p Profile) Strangers(agreed int) int {
	return int(math.Round(float64(agreed) * (1 - p.OptIn) / p.OptIn))
}

// slowest is the most that a link adds to what a handset sees, one way, but for long rows of losses.
func (p Profile) slowest() (d time.Duration) {
	for _, l := range p.Links {
		one := l.Latency + l.Jitter
		if l.Loss > 0 {
			one += 7 * l.RTO // three losses in a row
		}
		d = max(d, one.Std())
	}
	return d
}
