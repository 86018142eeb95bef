package registrar

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// Records is what is stored under IDs, as it is stored: by the registrar, and by the broker. [H-1]
type Records interface {
	// Held returns what the registrar's own store has; Erase forgets it, durably.
	Held(ctx context.Context, id wire.ID) ([]wire.Held, error)
	Erase(ctx context.Context, id wire.ID) error
	// Kept returns a page of what the broker has; Forget has it take a step of an erasure.
	Kept(ctx context.Context, id wire.ID, skip uint32) (page []byte, err error)
	Forget(ctx context.Context, step byte, id wire.ID) (wire.Code, error)
}

// HandleHold answers a sealed question what is held on a number: by the registrar itself, or by the broker
// under the number's ID, which leaves the registrar for the broker only. Codes: BadRecord, OutOfTime (asked
// more than a minute ago), OverQuota, Unavailable. A stranger's number is answered like any other, with
// nothing. [H-1] [H-2] [H-3]
func (r *Registrar) HandleHold(ctx context.Context, req []byte) []byte {
	q, key, err := r.cfg.Secret.OpenQuestion(req)
	if err != nil {
		return answer(wire.BadRecord)
	}
	id, code := r.asked(q, wire.AskRegistrar, wire.AskBroker)
	if code == wire.OK && !r.mayAnswer() {
		code = wire.OverQuota
	}
	if code != wire.OK {
		return answer(code)
	}
	page, err := r.page(ctx, id, q)
	if err != nil {
		return answer(wire.Unavailable)
	}
	r.log.Info("audit: answered what is held", "of", int(q.Purpose))
	return answer(wire.OK, key.Seal(page)...)
}

// asked checks a question and evaluates its ID.
func (r *Registrar) asked(q envelope.Question, purposes ...wire.Purpose) (id wire.ID, code wire.Code) {
	code = wire.BadRecord
	for _, p := range purposes {
		if q.Purpose == p {
			code = wire.OutOfTime
			if q.Fresh(p, r.cfg.Now()) {
				code = wire.OK
			}
		}
	}
	switch {
	case code != wire.OK:
		return id, code
	case r.cfg.Records == nil:
		return id, wire.Unavailable
	}
	id, err := r.cfg.VOPRF.FullEvaluate(q.Number)
	if err != nil {
		return id, wire.BadRecord
	}
	return id, wire.OK
}

func (r *Registrar) page(ctx context.Context, id wire.ID, q envelope.Question) ([]byte, error) {
	if q.Purpose == wire.AskBroker {
		return r.cfg.Records.Kept(ctx, id, q.Skip)
	}
	held, err := r.cfg.Records.Held(ctx, id)
	if err != nil {
		return nil, err
	}
	for i := range held {
		if c, err := ParseCount(held[i].Raw); err == nil {
			held[i].Value = c.view()
		}
	}
	return wire.PageOf(held, q.Skip)
}

// view is a count for people.
func (c Count) view() json.RawMessage {
	date := func(e Epoch) string { return time.Unix(int64(e)*86400, 0).UTC().Format(time.DateOnly) }
	enrolled := []string{}
	for _, e := range c.Enrolments {
		if e != 0 {
			enrolled = append(enrolled, date(e))
		}
	}
	b, err := json.Marshal(map[string]any{
		"lookups": c.Lookups, "day": date(Epoch(c.Day)), "lookups_of_the_day": c.DayLookups, "hellos_of_the_day": c.DayHellos,
		"enrolled_on": enrolled, "certificate_issued_at": wire.Time32(c.Issued).UTC().Format(time.RFC3339),
		"device_hash": hex.EncodeToString(c.Device[:]),
	})
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}

// forgetTries bounds how often an erasure begins anew because the user agreed to something in between.
const forgetTries = 3

// HandleErase answers a sealed request to erase a number's user with OK once nothing goes to or from its ID any
// more and neither the registrar nor the broker stores it; or when there is nobody: the two look alike. Asking
// again does no harm. Codes: BadRecord, OutOfTime, OverQuota (more numbers than a day has), Unavailable (ask
// again; some of it may be done). [H-6]
func (r *Registrar) HandleErase(ctx context.Context, req []byte) []byte {
	q, _, err := r.cfg.Secret.OpenQuestion(req)
	if err != nil {
		return answer(wire.BadRecord)
	}
	id, code := r.asked(q, wire.EraseUser)
	if code == wire.OK && !r.mayErase(id) {
		code = wire.OverQuota
	}
	if code != wire.OK {
		return answer(code)
	}
	for range forgetTries {
		if code = r.erase(ctx, id); code != wire.StaleRecord {
			return answer(code)
		}
	}
	return answer(wire.Unavailable)
}

// erase goes through one erasure: certificates of now are void, then silence, then what is stored. StaleRecord: a
// new consent came in between. [H-6] [H-7] [C-revoke]
func (r *Registrar) erase(ctx context.Context, id wire.ID) wire.Code {
	if code, err := r.cfg.Records.Forget(ctx, wire.ForgetMark, id); err != nil || code != wire.OK {
		return wire.Unavailable
	}
	if _, code := r.revoke(ctx, id, wire.CauseErasure); code != wire.OK {
		return code
	}
	switch code, err := r.cfg.Records.Forget(ctx, wire.ForgetAll, id); {
	case err != nil:
		return wire.Unavailable
	case code != wire.OK:
		return code
	}
	if err := r.cfg.Records.Erase(ctx, id); err != nil {
		return wire.Unavailable
	}
	r.log.Info("audit: erased a user")
	return wire.OK
}

// mayAnswer counts a question: each turns a number into an ID. [H-5]
func (r *Registrar) mayAnswer() bool { return r.once(&r.questions, token{}) }

// mayErase counts a number, once a day, however often it is asked for. [H-5]
func (r *Registrar) mayErase(id wire.ID) bool {
	key := r.keyed("bj1 erased", id[:])
	r.mu.Lock()
	_, again := r.erasures.used[key]
	fresh := r.cfg.Now().Sub(r.erasures.since) < r.erasures.span
	r.mu.Unlock()
	if again && fresh {
		return true
	}
	if !r.once(&r.erasures, token{}) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.erasures.take(key)
	return true
}

// once takes one use of a key from a meter, if it has one.
func (r *Registrar) once(m *meter, key token) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !m.has(r.cfg.Now(), key) {
		return false
	}
	m.take(key)
	return true
}
