package registrar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// drawer is [Records] in RAM. It notes what is done, in order.
type drawer struct {
	mu     sync.Mutex
	counts map[wire.ID][]byte
	page   string
	done   []string
	answer map[byte]wire.Code // to Forget; absent: OK
	err    map[string]error
}

func (d *drawer) note(what string, id wire.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = append(d.done, fmt.Sprintf("%s %x", what, id[:2]))
	return d.err[what]
}

func (d *drawer) Held(_ context.Context, id wire.ID) (held []wire.Held, err error) {
	err = d.note("held", id)
	if raw, ok := d.counts[id]; ok {
		held = append(held, wire.Held{Store: "KV_bj_counts", Key: "$KV.bj_counts." + id.String(), Seq: 7, Raw: raw})
	}
	return held, err
}

func (d *drawer) Erase(_ context.Context, id wire.ID) error { return d.note("erase", id) }

func (d *drawer) Kept(_ context.Context, id wire.ID, skip uint32) ([]byte, error) {
	return []byte(d.page), d.note(fmt.Sprintf("kept from %d:", skip), id)
}

func (d *drawer) Forget(_ context.Context, step byte, id wire.ID) (wire.Code, error) {
	err := d.note(fmt.Sprint("forget ", step), id)
	return d.answer[step], err
}

// asking is an office with a drawer, a shelf with one enrolled user, and that user.
func asking(t *testing.T, change ...func(*Config)) (*office, *shelf, *drawer, wire.Number, wire.ID) {
	t.Helper()
	d := &drawer{counts: map[wire.ID][]byte{}, page: `{"items":[],"more":false}`, answer: map[byte]wire.Code{}, err: map[string]error{}}
	s := &shelf{seqs: map[wire.ID]uint32{}}
	o := newOffice(t, append(change, func(c *Config) { c.Consents, c.Records = s, d })...)
	n := newPhone(t, "+447700900123").number
	id, err := o.cfg.VOPRF.FullEvaluate(n)
	if err != nil {
		t.Fatal(err)
	}
	s.key, s.seqs[id] = o.certs, 41
	d.counts[id] = Count{Lookups: 3, Day: 20000, Enrolments: [3]Epoch{20001}, Issued: 1_800_000_000}.Marshal()
	return o, s, d, n, id
}

func (o *office) question(t *testing.T, q envelope.Question) ([]byte, envelope.AnswerKey) {
	t.Helper()
	b, key, err := envelope.SealQuestion(o.cfg.Secret.Public(), q)
	if err != nil {
		t.Fatal(err)
	}
	return b, key
}

// TestHold: the registrar says what it counts, in words and byte for byte, and passes on what the broker says, both
// for the asker's eyes only. [H-1] [H-3]
func TestHold(t *testing.T) {
	o, _, d, n, id := asking(t)
	req, key := o.question(t, envelope.Question{Number: n, Purpose: wire.AskRegistrar, At: time.Now()})
	got := o.HandleHold(t.Context(), req)
	if wire.Code(got[0]) != wire.OK || strings.Contains(string(got), "KV_bj_counts") {
		t.Fatalf("%v, or not sealed", wire.Code(got[0]))
	}
	plain, err := key.Open(got[1:])
	if err != nil {
		t.Fatal(err)
	}
	page, err := wire.ParsePage(plain)
	if err != nil || len(page.Items) != 1 || string(page.Items[0].Raw) != string(d.counts[id]) {
		t.Fatalf("%s, %v", plain, err)
	}
	for _, want := range []string{`"lookups":3`, `"enrolled_on":["2024-10-05"]`, `"certificate_issued_at":"2027-01-15T08:00:00Z"`} {
		if !strings.Contains(string(page.Items[0].Value), want) {
			t.Errorf("no %s in %s", want, page.Items[0].Value)
		}
	}
	req, key = o.question(t, envelope.Question{Number: n, Purpose: wire.AskBroker, At: time.Now(), Skip: 9})
	if plain, err := key.Open(o.HandleHold(t.Context(), req)[1:]); err != nil || string(plain) != d.page {
		t.Errorf("%s, %v", plain, err)
	}
	if want := fmt.Sprintf("kept from 9: %x", id[:2]); d.done[len(d.done)-1] != want {
		t.Errorf("%v, want %s", d.done, want)
	}
	if log := o.logged.String(); !strings.Contains(log, "audit: answered") || strings.Contains(log, "7700900123") || strings.Contains(log, id.String()) {
		t.Errorf("log: %s", log)
	}
}

// TestHoldStranger: as many questions are put, and the answer has nothing. [H-2]
func TestHoldStranger(t *testing.T) {
	o, _, d, _, _ := asking(t)
	req, key := o.question(t, envelope.Question{Number: newPhone(t, "+447700900999").number, Purpose: wire.AskRegistrar, At: time.Now()})
	if plain, err := key.Open(o.HandleHold(t.Context(), req)[1:]); err != nil || string(plain) != `{"items":[],"more":false}` || len(d.done) != 1 {
		t.Errorf("%s, %v, %v", plain, err, d.done)
	}
}

// TestHoldRefused: stale, for something else, unreadable, too often, without stores. [H-4] [H-5]
func TestHoldRefused(t *testing.T) {
	o, _, d, n, _ := asking(t, func(c *Config) { c.Quotas.HourlyAsked = 2 })
	ask := func(q envelope.Question) wire.Code {
		req, _ := o.question(t, q)
		return wire.Code(o.HandleHold(t.Context(), req)[0])
	}
	now := time.Now()
	for what, x := range map[string]struct {
		q    envelope.Question
		want wire.Code
	}{
		"old":           {envelope.Question{Number: n, Purpose: wire.AskRegistrar, At: now.Add(-2 * time.Minute)}, wire.OutOfTime},
		"of the future": {envelope.Question{Number: n, Purpose: wire.AskBroker, At: now.Add(2 * time.Minute)}, wire.OutOfTime},
		"an erasure":    {envelope.Question{Number: n, Purpose: wire.EraseUser, At: now}, wire.BadRecord},
		"the worker's":  {envelope.Question{Number: n, Purpose: wire.AskWorker, At: now}, wire.BadRecord},
	} {
		if got := ask(x.q); got != x.want {
			t.Errorf("%s: %v, want %v", what, got, x.want)
		}
	}
	if got := wire.Code(o.HandleHold(t.Context(), []byte("x"))[0]); got != wire.BadRecord || len(d.done) != 0 {
		t.Errorf("%v, %v", got, d.done)
	}
	d.err["held"], d.err["kept from 0:"] = errors.New("down"), errors.New("down")
	for _, p := range []wire.Purpose{wire.AskRegistrar, wire.AskBroker} {
		if got := ask(envelope.Question{Number: n, Purpose: p, At: now}); got != wire.Unavailable {
			t.Errorf("a store is down: %v", got)
		}
	}
	if got := ask(envelope.Question{Number: n, Purpose: wire.AskRegistrar, At: now}); got != wire.OverQuota {
		t.Errorf("the third: %v [H-5]", got)
	}
	bare := newOffice(t)
	req, _ := bare.question(t, envelope.Question{Number: n, Purpose: wire.AskRegistrar, At: now})
	if got := wire.Code(bare.HandleHold(t.Context(), req)[0]); got != wire.Unavailable {
		t.Errorf("without stores: %v", got)
	}
}

func (o *office) eraseIt(t *testing.T, n wire.Number) wire.Code {
	t.Helper()
	req, _ := o.question(t, envelope.Question{Number: n, Purpose: wire.EraseUser, At: time.Now()})
	return wire.Code(o.HandleErase(t.Context(), req)[0])
}

// TestErase: old certificates are void first, then consent ends by a revocation with the cause, then all is
// forgotten, in this order; for a stranger the same is done, and said. [H-6] [H-7] [C-revoke]
func TestErase(t *testing.T) {
	o, s, d, n, id := asking(t)
	if got := o.eraseIt(t, n); got != wire.OK {
		t.Fatal(got)
	}
	want := []string{fmt.Sprintf("forget 1 %x", id[:2]), fmt.Sprintf("forget 2 %x", id[:2]), fmt.Sprintf("erase %x", id[:2])}
	if !slices.Equal(d.done, want) || len(s.got) != 1 || s.got[0].Cause != wire.CauseErasure || s.got[0].Seq != 42 {
		t.Errorf("%v, %+v", d.done, s.got)
	}
	d.done = nil
	if got := o.eraseIt(t, newPhone(t, "+447700900999").number); got != wire.OK || len(d.done) != 3 || len(s.got) != 1 {
		t.Errorf("a stranger: %v, %v", got, d.done)
	}
	if log := o.logged.String(); !strings.Contains(log, "audit: erased a user") || strings.Contains(log, id.String()) {
		t.Errorf("log: %s", log)
	}
}

// TestEraseFails: wherever it breaks off, the answer is to ask again, and asked again it goes through. A consent that
// comes in between is revoked, too. [H-6]
func TestEraseFails(t *testing.T) {
	o, s, d, n, _ := asking(t)
	for what, broken := range map[string]func(bool){
		"mark":   func(on bool) { d.err["forget 1"] = failing(on) },
		"revoke": func(on bool) { s.err = failing(on) },
		"forget": func(on bool) { d.err["forget 2"] = failing(on) },
		"counts": func(on bool) { d.err["erase"] = failing(on) },
		"always": func(on bool) {
			d.answer[wire.ForgetAll] = wire.OK
			if on {
				d.answer[wire.ForgetAll] = wire.StaleRecord
			}
		},
	} {
		broken(true)
		if got := o.eraseIt(t, n); got != wire.Unavailable {
			t.Errorf("%s: %v", what, got)
		}
		broken(false)
		if got := o.eraseIt(t, n); got != wire.OK {
			t.Errorf("%s, again: %v", what, got)
		}
	}
	req, _ := o.question(t, envelope.Question{Number: n, Purpose: wire.AskRegistrar, At: time.Now()})
	for _, bad := range [][]byte{nil, req} {
		if got := wire.Code(o.HandleErase(t.Context(), bad)[0]); got != wire.BadRecord {
			t.Errorf("%v", got)
		}
	}
}

func failing(on bool) error {
	if on {
		return errors.New("down")
	}
	return nil
}

// TestEraseIsBounded: so many numbers a day, each as often as it takes; the next day as many again. [H-5]
func TestEraseIsBounded(t *testing.T) {
	now := time.Now()
	o, _, _, n, _ := asking(t, func(c *Config) {
		c.Quotas.DailyErased = 2
		c.Now = func() time.Time { return now }
	})
	second, third := newPhone(t, "+447700900998").number, newPhone(t, "+447700900999").number
	at := func(n wire.Number) wire.Code {
		req, _ := o.question(t, envelope.Question{Number: n, Purpose: wire.EraseUser, At: now})
		return wire.Code(o.HandleErase(t.Context(), req)[0])
	}
	for i, x := range []struct {
		n    wire.Number
		want wire.Code
	}{{n, wire.OK}, {n, wire.OK}, {second, wire.OK}, {third, wire.OverQuota}, {n, wire.OK}} {
		if got := at(x.n); got != x.want {
			t.Errorf("request %d: %v, want %v", i, got, x.want)
		}
	}
	now = now.Add(day)
	if got := at(third); got != wire.OK {
		t.Errorf("a day later: %v", got)
	}
}
