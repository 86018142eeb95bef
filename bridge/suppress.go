package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/fallback"
	"bluejay/wire"
)

// Suppressions is the list of numbers that want no SMS, in bucket bj_suppressed, by the worker's HMAC
// of each number. [F-17]
type Suppressions struct{ b *Bridge }

// Suppressions returns the list.
func (b *Bridge) Suppressions() Suppressions { return Suppressions{b} }

func suppressKey(n [16]byte) string { return b64.EncodeToString(n[:]) }

// Suppressed returns a number's entry; ok is false when it is not on the list.
func (s Suppressions) Suppressed(ctx context.Context, n [16]byte) (e fallback.Suppression, ok bool, err error) {
	const op = "read the suppression list"
	v, rev, err := s.b.suppressed.load(ctx, suppressKey(n))
	if err != nil || rev == 0 {
		return e, false, failure(op, err)
	}
	if err := json.Unmarshal(v, &e); err != nil {
		return e, false, failure(op, fmt.Errorf("%w: suppression", wire.ErrMalformed))
	}
	return e, true, nil
}

// Suppress puts a number on the list, over whatever was there; nil means stored durably.
func (s Suppressions) Suppress(ctx context.Context, n [16]byte, e fallback.Suppression) error {
	const op = "suppress a number"
	v, err := json.Marshal(e)
	if err == nil && len(v) > maxValue {
		return refuse(op, wire.TooLarge)
	}
	if err == nil {
		err = s.b.suppressed.put(ctx, suppressKey(n), v)
	}
	return failure(op, err)
}

// Lift takes a number off the list, and leaves no trace of it; one that is not on it is no error.
func (s Suppressions) Lift(ctx context.Context, n [16]byte) error {
	return failure("lift a suppression", s.b.suppressed.forget(ctx, suppressKey(n), 0))
}

// Each calls f once for every number that was on the list when it began.
func (s Suppressions) Each(ctx context.Context, f func(n [16]byte, e fallback.Suppression) error) error {
	return failure("read the suppression list", s.b.suppressed.each(ctx, func(key string, v []byte) error {
		raw, err := b64.DecodeString(key)
		var e fallback.Suppression
		if err != nil || len(raw) != 16 || json.Unmarshal(v, &e) != nil {
			return nil // nothing that a worker wrote
		}
		return f([16]byte(raw), e)
	}))
}

// Caps counts what was spent, in stream BJ_CAPS. No addition waits for the disk: a crash of the server
// forgets the last moment, a restart nothing. [F-21]
type Caps struct{ b *Bridge }

// Caps returns the counters.
func (b *Bridge) Caps() Caps { return Caps{b} }

// capAge lets a day's counters outlive the day in every time zone.
const capAge = 48 * time.Hour

var capKey = regexp.MustCompile(`^[0-9]{8}\.[a-z]{1,16}\.[-_A-Za-z0-9]{1,64}$`)

// Add adds n, which may be negative, to a counter and returns its total. A counter that was never
// added to is 0. A lost answer may have counted. Keys look like 20261124.number.AbC_9.
func (c Caps) Add(ctx context.Context, key string, n int64) (total int64, err error) {
	const op = "count what is spent"
	if !capKey.MatchString(key) {
		return 0, refuse(op, wire.NotAllowed)
	}
	ctx, cancel := c.b.bound(ctx)
	defer cancel()
	m := nats.NewMsg(wire.CapSubject(key))
	m.Header.Set("Nats-Incr", strconv.FormatInt(n, 10)) // ADR-49: the server adds
	answer, err := c.b.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, failure(op, err)
	}
	var ack struct {
		Value string              `json:"val"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, failure(op, err)
	}
	if ack.Error != nil {
		return 0, failure(op, ack.Error)
	}
	total, err = strconv.ParseInt(ack.Value, 10, 64)
	return total, failure(op, err)
}

// each calls f for the value of every key, in the order of writing. f may use the bucket.
func (k *bucket) each(ctx context.Context, f func(key string, value []byte) error) error {
	return k.b.scan(ctx, kvStream+k.name, asItBegan, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		if m.Headers().Get(kvOperation) != "" {
			return nil
		}
		return f(strings.TrimPrefix(m.Subject(), kvKeys+k.name+"."), m.Data())
	})
}

// eachAhead is how many values are read ahead.
const eachAhead = 256

func errorsFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
