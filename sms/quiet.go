package sms

import "time"

// QuietHours is a part of the day in which normal texts wait. Zero value: none.
type QuietHours struct {
	From, To int            // minutes since midnight, on the clock of Location; To before From goes across midnight
	Location *time.Location // nil: no quiet hours
}

// Until returns when the quiet hours that hold at now end; the zero time when none do. On the days on
// which the clocks change it goes by the clock, as people do.
func (q QuietHours) Until(now time.Time) time.Time {
	if q.Location == nil || q.From == q.To {
		return time.Time{}
	}
	local := now.In(q.Location)
	clock := local.Hour()*60 + local.Minute()
	inside := clock >= q.From && clock < q.To
	if q.From > q.To {
		inside = clock >= q.From || clock < q.To
	}
	if !inside {
		return time.Time{}
	}
	y, m, d := local.Date()
	if clock >= q.To {
		d++
	}
	return time.Date(y, m, d, q.To/60, q.To%60, 0, 0, q.Location)
}
