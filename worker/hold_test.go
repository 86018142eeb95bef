package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// shelf is [Records] over the world's stores. Its rows have a revision, so that a change in between is seen.
type shelf struct {
	*world
	revisions map[wire.MessageID]uint64
	between   func(id wire.MessageID) // called between reading a row and changing it
	err       error
	wiped     int
}

func (s *shelf) EachRow(ctx context.Context, f func(wire.Held, Entry) error) error {
	if s.err != nil {
		return s.err
	}
	rows := map[wire.MessageID]Entry{}
	s.look(func() {
		for id, e := range s.journal {
			rows[id] = e
		}
	})
	for id, e := range rows {
		raw, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := f(wire.Held{Store: "KV_bj_journal", Key: id.String(), Seq: s.revisions[id], Raw: raw}, e); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) change(h wire.Held, f func(id wire.MessageID)) error {
	id, err := wire.ParseMessageID(h.Key)
	if err != nil {
		return err
	}
	if s.between != nil {
		s.between(id)
	}
	if s.revisions[id] != h.Seq {
		return ErrChanged
	}
	s.revisions[id]++
	s.look(func() { f(id) })
	return nil
}

func (s *shelf) Rewrite(_ context.Context, h wire.Held, e Entry) error {
	return s.change(h, func(id wire.MessageID) { s.enter(id, e) })
}

func (s *shelf) EraseRow(_ context.Context, h wire.Held) error {
	return s.change(h, func(id wire.MessageID) { delete(s.journal, id) })
}

func (s *shelf) OnList(_ context.Context, n [16]byte) (held []wire.Held, err error) {
	s.look(func() {
		if e, on := s.list[n]; on {
			raw, _ := json.Marshal(e)
			held = append(held, wire.Held{Store: "KV_bj_suppressed", Raw: raw})
		}
	})
	return held, s.err
}

func (s *shelf) Spent(_ context.Context, key string) (held []wire.Held, err error) {
	s.look(func() {
		if n := s.counts[key]; n > 0 {
			held = append(held, wire.Held{Store: "BJ_CAPS", Key: key, Raw: fmt.Appendf(nil, `{"val":"%d"}`, n)})
		}
	})
	return held, s.err
}

func (s *shelf) Wipe(context.Context) error { s.wiped++; return s.err }

// records gives a worker the shelf, and counts what goes to a number.
func (w *world) records() (*shelf, func(*Config, *ports)) {
	s := &shelf{world: w, revisions: map[wire.MessageID]uint64{}}
	return s, func(c *Config, _ *ports) { c.Records, c.Limits = s, CapLimits{PerNumber: 9} }
}

// ask puts a sealed question and opens the answer.
func (p *process) ask(t *testing.T, handle func(context.Context, []byte) []byte, q envelope.Question) (wire.Code, wire.HeldPage) {
	t.Helper()
	req, key, err := envelope.SealWorkerQuestion(p.ports.key(), q)
	if err != nil {
		t.Fatal(err)
	}
	got := handle(t.Context(), req)
	if len(got) == 1 {
		return wire.Code(got[0]), wire.HeldPage{}
	}
	plain, err := key.Open(got[1:])
	if err != nil || strings.Contains(string(got), "KV_bj") {
		t.Fatalf("%v, or not sealed", err)
	}
	page, err := wire.ParsePage(plain)
	if err != nil {
		t.Fatal(err)
	}
	return wire.Code(got[0]), page
}

func (p *process) holds(t *testing.T, n wire.Number) (found []string) {
	t.Helper()
	code, page := p.ask(t, p.HandleHold, envelope.Question{Number: n, Purpose: wire.AskWorker, At: time.Now()})
	if code != wire.OK {
		t.Fatal(code)
	}
	for _, h := range page.Items {
		found = append(found, h.Store)
		if string(h.Value) != string(h.Raw) {
			t.Errorf("%s reads as %s", h.Raw, h.Value)
		}
	}
	return found
}

// TestHold: the worker names what it has of a number, by its HMAC, and of a stranger's nothing; the log names
// neither. [H-1] [H-2] [H-3] [F-9]
func TestHold(t *testing.T) {
	bubble(t, "hold", func(t *testing.T) {
		w := newWorld(t)
		_, with := w.records()
		p := w.start(with)
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if w.told(id) == "" {
			t.Fatal("no text was sent")
		}
		w.look(func() { w.list[p.hash(number(t, recipient))] = fallback.Suppression{Cause: fallback.CauseComplaint} })
		if got := strings.Join(p.holds(t, number(t, recipient)), " "); !strings.HasPrefix(got, "KV_bj_journal") || !strings.HasSuffix(got, "KV_bj_suppressed BJ_CAPS") {
			t.Errorf("held: %s", got)
		}
		if got := p.holds(t, number(t, claimant)); len(got) != 0 {
			t.Errorf("of a stranger: %v", got)
		}
		p.stop()
		w.leaks()
	})
}

// TestHoldRefused: a question for another purpose, of another time or to a key that is gone is not answered, nor one
// that a store does not answer. [H-4] [S-17]
func TestHoldRefused(t *testing.T) {
	bubble(t, "refused", func(t *testing.T) {
		w := newWorld(t)
		s, with := w.records()
		p := w.start(with)
		n := number(t, recipient)
		for what, x := range map[string]struct {
			q    envelope.Question
			want wire.Code
		}{
			"an erasure":      {envelope.Question{Number: n, Purpose: wire.EraseNumber, At: time.Now()}, wire.BadRecord},
			"the registrar's": {envelope.Question{Number: n, Purpose: wire.AskRegistrar, At: time.Now()}, wire.BadRecord},
			"old":             {envelope.Question{Number: n, Purpose: wire.AskWorker, At: time.Now().Add(-2 * time.Minute)}, wire.OutOfTime},
		} {
			if got, _ := p.ask(t, p.HandleHold, x.q); got != x.want {
				t.Errorf("%s: %v, want %v", what, got, x.want)
			}
		}
		other, err := envelope.NewWorkerSecret(p.ports.key().KID+1, time.Now(), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		req, _, err := envelope.SealWorkerQuestion(other.Key(), envelope.Question{Number: n, Purpose: wire.AskWorker, At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		for what, b := range map[string][]byte{"another key": req, "nothing": nil} {
			if got := wire.Code(p.HandleHold(t.Context(), b)[0]); got != wire.OutOfTime {
				t.Errorf("%s: %v", what, got)
			}
		}
		s.err = errors.New("down")
		for _, x := range []struct {
			handle  func(context.Context, []byte) []byte
			purpose wire.Purpose
		}{{p.HandleHold, wire.AskWorker}, {p.HandleErase, wire.EraseNumber}} {
			if got, _ := p.ask(t, x.handle, envelope.Question{Number: n, Purpose: x.purpose, At: time.Now()}); got != wire.Unavailable {
				t.Errorf("a store is down: %v", got)
			}
		}
		p.stop()
		bare := w.start()
		w.wait(time.Second) // its own key is published
		if got, _ := bare.ask(t, bare.HandleHold, envelope.Question{Number: n, Purpose: wire.AskWorker, At: time.Now()}); got != wire.Unavailable {
			t.Errorf("without stores: %v", got)
		}
		bare.stop()
	})
}

// TestEraseRows: after an erasure no row has the number's HMAC. Rows that keep a text from going out twice stay
// without it, all others go; others' rows are as they were; a row that changes meanwhile is met again. [H-6] [F-11]
func TestEraseRows(t *testing.T) {
	bubble(t, "rows", func(t *testing.T) {
		w := newWorld(t)
		s, with := w.records()
		p := w.start(with)
		n := number(t, recipient)
		h, now := p.hash(n), time.Now()
		rows := map[string]Entry{
			"a job on its way":     {State: wire.JobSubmitted, Attempt: 1, At: now, ExpiresAt: now.Add(time.Hour), NumberHash: h, Sender: pseudonym},
			"a part of it":         {State: wire.JobSubmitted, Job: wire.MessageID{1}, At: now, ExpiresAt: now.Add(time.Hour), NumberHash: h},
			"an old job":           {State: wire.JobDelivered, Attempt: 1, At: now.Add(-9 * time.Hour), ExpiresAt: now.Add(-2 * time.Hour), NumberHash: h},
			"a reply":              {State: wire.JobUnknown, At: now, NumberHash: h},
			"a ghost":              {State: wire.JobUnknown, At: now, ExpiresAt: now.Add(time.Hour), NumberHash: h},
			"somebody else's":      {State: wire.JobSubmitted, Attempt: 1, At: now, ExpiresAt: now.Add(time.Hour), NumberHash: numberHash{9}},
			"a row without number": {State: wire.JobQueued, At: now, Owner: "w"},
		}
		w.look(func() {
			for name, e := range rows {
				w.journal[wire.MessageIDOf([]byte(name))] = e
			}
			w.list[h] = fallback.Suppression{Cause: fallback.CauseStop}
		})
		meddled := false
		s.between = func(id wire.MessageID) {
			if !meddled {
				meddled = true
				s.revisions[id]++
			}
		}
		if got, _ := p.ask(t, p.HandleErase, envelope.Question{Number: n, Purpose: wire.EraseNumber, At: now}); got != wire.OK {
			t.Fatal(got)
		}
		w.look(func() {
			for name, was := range rows {
				e, there := w.journal[wire.MessageIDOf([]byte(name))]
				want, stays := was, true
				want.Revision = e.Revision
				switch name {
				case "a job on its way", "a part of it":
					want.NumberHash = numberHash{}
				case "an old job", "a reply", "a ghost":
					stays = false
				}
				if there != stays || there && fmt.Sprint(e) != fmt.Sprint(want) {
					t.Errorf("%s: there %t, %+v", name, there, e)
				}
			}
			if _, on := w.list[h]; !on || s.wiped != 1 || !meddled {
				t.Errorf("on the list %t, wiped %d times, meddled %t", on, s.wiped, meddled)
			}
		})
		s.between = func(id wire.MessageID) { s.revisions[id]++ }
		w.look(func() { w.journal[wire.MessageID{5}] = rows["a reply"] })
		if got, _ := p.ask(t, p.HandleErase, envelope.Question{Number: n, Purpose: wire.EraseNumber, At: now}); got != wire.Unavailable {
			t.Errorf("rows that always change: %v", got)
		}
		p.stop()
	})
}
