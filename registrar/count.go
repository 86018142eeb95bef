package registrar

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"bluejay/wire"
)

// Count is all that the registrar stores, one for each ID. Zero value: an ID never seen. [P-11]
type Count struct {
	Lookups    uint32                   // used of the allowance for a lifetime
	Day        uint32                   // days since 1970, of the next two
	DayLookups uint16                   // used on Day, after the allowance for a lifetime
	DayHellos  uint16                   // used on Day
	Enrolments [monthlyEnrolments]Epoch // the latest, newest first
	Issued     uint32                   // Unix seconds: issued_at of the newest certificate
	Device     [16]byte                 // SHA-256(device key)[:16] of the newest certificate
}

// Epoch is a UTC day, in days since 1970. Zero: never.
type Epoch uint32

const (
	day               = 24 * time.Hour
	monthlyEnrolments = 3
	month             = 30 // days

	countVersion = 1
	countLen     = 1 + 4 + 4 + 2 + 2 + 4*monthlyEnrolments + 4 + 16
)

func epoch(t time.Time) Epoch { return Epoch(t.Unix() / int64(day/time.Second)) }

// ErrConflict is what [Counts.Save] returns when the stored revision is another than the one given.
var ErrConflict = errors.New("registrar: counts changed meanwhile")

// Counts keeps counts durably. An absent ID has the zero Count at revision 0.
type Counts interface {
	Load(ctx context.Context, id wire.ID) (c Count, rev uint64, err error)
	// Save is compare and set: it returns [ErrConflict] if the stored revision is not rev.
	Save(ctx context.Context, id wire.ID, c Count, rev uint64) error
}

// Marshal returns 45 bytes: version 1, then the fields in order, big endian.
func (c Count) Marshal() []byte {
	b := append(make([]byte, 0, countLen), countVersion)
	b = binary.BigEndian.AppendUint32(b, c.Lookups)
	b = binary.BigEndian.AppendUint32(b, c.Day)
	b = binary.BigEndian.AppendUint16(b, c.DayLookups)
	b = binary.BigEndian.AppendUint16(b, c.DayHellos)
	for _, e := range c.Enrolments {
		b = binary.BigEndian.AppendUint32(b, uint32(e))
	}
	b = binary.BigEndian.AppendUint32(b, c.Issued)
	return append(b, c.Device[:]...)
}

// ParseCount reads what Marshal wrote; empty input is the zero Count.
func ParseCount(b []byte) (Count, error) {
	if len(b) == 0 {
		return Count{}, nil
	}
	if len(b) != countLen || b[0] != countVersion {
		return Count{}, fmt.Errorf("%w: not a registrar's count", wire.ErrMalformed)
	}
	c := Count{
		Lookups: binary.BigEndian.Uint32(b[1:]), Day: binary.BigEndian.Uint32(b[5:]),
		DayLookups: binary.BigEndian.Uint16(b[9:]), DayHellos: binary.BigEndian.Uint16(b[11:]),
	}
	b = b[13:]
	for i := range c.Enrolments {
		c.Enrolments[i], b = Epoch(binary.BigEndian.Uint32(b)), b[4:]
	}
	c.Issued, c.Device = binary.BigEndian.Uint32(b), [16]byte(b[4:])
	return c, nil
}

// lookUp counts n look-ups, all or none. The allowance for a lifetime is used first; n may be split
// between it and the day's. [P-11]
func (c *Count) lookUp(kind wire.LookupKind, n int, now time.Time, q Quotas) wire.Code {
	if d := uint32(epoch(now)); c.Day != d {
		c.Day, c.DayLookups, c.DayHellos = d, 0, 0
	}
	if kind == wire.LookupByHello {
		if int(c.DayHellos)+n > q.DailyHellos {
			return wire.OverQuota
		}
		c.DayHellos += uint16(n)
		return wire.OK
	}
	first := min(n, max(0, q.Lookups-int(c.Lookups)))
	if int(c.DayLookups)+n-first > q.DailyLookups {
		return wire.OverQuota
	}
	c.Lookups += uint32(first)
	c.DayLookups += uint16(n - first)
	return wire.OK
}

// mayEnrol reports whether one more enrolment fits into the last 30 days. [P-11]
func (c *Count) mayEnrol(now time.Time) bool {
	oldest := c.Enrolments[monthlyEnrolments-1]
	return oldest == 0 || epoch(now) >= oldest+month
}

// enrol counts an enrolment and makes device the ID's only one.
func (c *Count) enrol(device [16]byte, now time.Time) {
	copy(c.Enrolments[1:], c.Enrolments[:])
	c.Enrolments[0] = epoch(now)
	c.Device = device
	c.issue(now)
}

// issue moves the newest certificate's time to now, and always forward: the newest one wins. [P-5]
func (c *Count) issue(now time.Time) { c.Issued = max(wire.Unix32(now), c.Issued+1) }
