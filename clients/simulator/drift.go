package simulator

import (
	"slices"
	"time"
)

// Drift is how a resident set moved during a run. Each part of the run, a tenth of it, stands for
// itself by its median: single samples go up and down with the garbage collector, which comes every
// ten to thirty seconds to a node with little work. Zero value: not known. It says nothing about what
// an hour would bring.
type Drift struct {
	From, To    time.Duration // since the start: first sample, last sample
	First, Last int64         // bytes, in these parts
	Least, Most float64       // of all parts over the first, less one: 0.05 is 5 % above
	Peak        int64         // bytes, the most of all single samples
}

// leastPart is how many samples, one a second, make a part at least.
const leastPart = 10

// drift judges what read takes from the samples between from and to.
func drift(all []Sample, from, to time.Duration, read func(Sample) int64) (d Drift) {
	var part, medians []int64
	size := max(leastPart, int(to.Seconds())/10)
	end := func() {
		slices.Sort(part)
		medians, part = append(medians, part[len(part)/2]), nil
	}
	for _, s := range all {
		if s.At < from.Seconds() || s.At > to.Seconds()+0.2 || read(s) == 0 {
			continue
		}
		d.Peak = max(d.Peak, read(s))
		if part = append(part, read(s)); len(part) == size {
			end()
		}
		d.To = time.Duration(s.At * float64(time.Second))
	}
	if len(part) > size/2 { // the last part is a little shorter
		end()
	}
	if len(medians) < 2 {
		return Drift{}
	}
	d.From, d.First, d.Last = from, medians[0], medians[len(medians)-1]
	d.Least = float64(slices.Min(medians))/float64(d.First) - 1
	d.Most = float64(slices.Max(medians))/float64(d.First) - 1
	return d
}

// warmUp is when a run's memory is looked at first: after two minutes, or a fifth of a shorter run.
func warmUp(ran time.Duration) time.Duration { return min(2*time.Minute, ran/5) }

// Drifts are those of the broker and of the simulator, from when the run has warmed up (two minutes,
// or a fifth of a shorter run) to when people stopped acting.
func (r Report) Drifts() (broker, own Drift) {
	from := warmUp(r.Ran)
	return drift(r.Samples, from, r.Ran, func(s Sample) int64 { return s.BrokerRSS }),
		drift(r.Samples, from, r.Ran, func(s Sample) int64 { return s.RSS })
}
