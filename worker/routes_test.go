package worker

import (
	"context"
	"strings"
	"testing"
	"time"

	"bluejay/sms"
	"bluejay/wire"
)

// road is a transport of another name that submits through ports; receipts come on it under its name.
type road struct {
	*ports
	name   string
	linked bool
	via    *[]string // the names of roads submitted to, in order
}

func (r *road) Route() string { return r.name }

func (r *road) Linked() bool { return r.linked }

func (r *road) Submit(ctx context.Context, m sms.Message) sms.Result {
	*r.via = append(*r.via, r.name)
	return r.ports.Submit(ctx, m)
}

// TestRoutes: a job goes by its number's route, with that route's validity and charset; a number that
// no route takes fails its job. [F-4] [F-22]
func TestRoutes(t *testing.T) {
	tests := []struct {
		name, to, text string
		told, via      string
		parts          int
		validity       time.Duration
	}{
		{"the country's route", recipient, secret, "submitted", "british", 1, 10 * time.Minute},
		{"by UCS-2, two parts", recipient, strings.Repeat("a", 71), "submitted", "british", 2, 10 * time.Minute},
		{"too long by UCS-2", recipient, strings.Repeat("a", 6*67+1), "failed", "", 7, 0},
		{"every other country", "+33612345678", strings.Repeat("a", 71), "submitted", "others", 1, time.Hour},
		{"premium", "+449098790000", secret, "failed", "", 0, 0},
		{"impossible", "+4477009001", secret, "failed", "", 0, 0},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			var via []string
			p := w.start(func(c *Config, p *ports) {
				c.Routes = w.via(
					sms.Route{Transport: &road{p, "others", true, &via}},
					sms.Route{Transport: &road{p, "british", true, &via}, Countries: []string{"GB"}, Charset: sms.CharsetUCS2, Validity: 10 * time.Minute},
				)
			})
			j := w.job(tt.text)
			j.To = number(t, tt.to)
			id := w.send(j)
			submitted := time.Now()
			w.wait(time.Second)
			e := w.journal[id]
			if w.told(id) != tt.told || strings.Join(via, " ") != tt.via || e.Parts != tt.parts || !w.acked[id] {
				t.Errorf("told %q by %v in %d parts; want %q by %q in %d", w.told(id), via, e.Parts, tt.told, tt.via, tt.parts)
			}
			if tt.via != "" && (e.Route != tt.via || w.submits[0].ValidUntil.Sub(submitted).Round(time.Second) != tt.validity) {
				t.Errorf("journalled route %q, valid for %v", e.Route, w.submits[0].ValidUntil.Sub(submitted))
			}
			p.stop()
		})
	}
}

// TestReceiptsOfRoute: an id counts for the route it came on, only. [F-14] [F-22]
func TestReceiptsOfRoute(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		id := w.send(w.job(secret))
		w.wait(time.Second)
		r := sms.Receipt{Route: "another", ID: "id1.0", To: number(t, recipient), State: wire.JobUndeliverable}
		if err := w.network.Receipt(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		r.Route, r.State = "route", wire.JobDelivered
		if err := w.network.Receipt(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got := w.told(id); got != "submitted delivered" {
			t.Errorf("told %q", got)
		}
		p.stop()
	})
}

// TestWhole: a gateway that cuts texts itself gives one id, and one receipt settles the text. [F-14]
func TestWhole(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(int, sms.Message) sms.Result { return sms.Result{IDs: []string{"one"}, Whole: true} }
		p := w.start()
		id := w.send(w.job(strings.Repeat("a", 400)))
		w.wait(time.Second)
		if err := w.say("one", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		if e := w.journal[id]; w.told(id) != "submitted delivered" || e.Parts != 3 || !e.Whole {
			t.Errorf("told %q, %d parts", w.told(id), e.Parts)
		}
		p.stop()
	})
}

// TestThirdOfFive: what became of a text whose third part is not taken, and that what was taken is not
// sent again. [F-5] [F-11]
func TestThirdOfFive(t *testing.T) {
	two := []string{"a", "b"}
	tests := []struct {
		name    string
		first   sms.Result
		told    string
		submits int
	}{
		{"refused for good", sms.Result{IDs: two, Class: sms.Permanent}, "failed", 1},
		{"refused for now", sms.Result{IDs: two, Class: sms.Retry}, "submitted delivered", 2},
		{"not written", sms.Result{IDs: two, Outcome: sms.NotSent, Err: sms.ErrNoLink}, "submitted delivered", 2},
		{"no answer", sms.Result{IDs: two, Outcome: sms.Unknown, Err: sms.ErrNoAnswer}, "unknown", 1},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.script = func(n int, m sms.Message) sms.Result {
				if n == 1 {
					return tt.first
				}
				return accepted(m, "rest")
			}
			p := w.start()
			id := w.send(w.job(strings.Repeat("a", 5*153)))
			w.wait(5 * time.Minute)
			for _, part := range []string{"a", "b", "rest.2", "rest.3", "rest.4"} {
				if err := w.say(part, recipient, wire.JobDelivered); err != nil {
					t.Fatal(err)
				}
			}
			if w.told(id) != tt.told || len(w.submits) != tt.submits {
				t.Errorf("told %q after %d submits; want %q after %d", w.told(id), len(w.submits), tt.told, tt.submits)
			}
			if len(w.submits) == 2 && w.submits[1].Done != 2 {
				t.Errorf("the rest began at part %d", w.submits[1].Done)
			}
			p.stop()
		})
	}
}

// TestRouteGone: the rest of a text goes by the route that has its first parts, or not at all. [F-22]
func TestRouteGone(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		p := w.start()
		id := w.send(w.job(strings.Repeat("a", 300)), func(d *delivery) {
			d.times = 2
			w.look(func() {
				w.journal[d.id] = Entry{Attempt: 1, Parts: 2, SMSCIDs: []string{"a"}, Route: "gone", ExpiresAt: time.Now().Add(time.Hour), Sender: pseudonym}
			})
		})
		w.wait(time.Minute)
		if w.told(id) != "failed" || len(w.submits) != 0 {
			t.Errorf("told %q after %d submits", w.told(id), len(w.submits))
		}
		p.stop()
	})
}

// TestQuietHours: at night normal jobs wait, urgent ones go, and what the night outlasts expires at
// once. [F-23]
func TestQuietHours(t *testing.T) {
	// A bubble begins at midnight UTC.
	night := sms.QuietHours{From: 22 * 60, To: 7 * 60, Location: time.UTC}
	tests := []struct {
		name  string
		class wire.JobClass
		life  time.Duration
		soon  string // told after a minute
		late  string // told after the night
	}{
		{"normal", wire.ClassNormal, 10 * time.Hour, "", "submitted"},
		{"urgent", wire.ClassUrgent, 10 * time.Hour, "submitted", "submitted"},
		{"over before morning", wire.ClassNormal, 5 * time.Hour, "expired", "expired"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(func(c *Config, p *ports) { c.Routes = w.via(sms.Route{Transport: p, Quiet: night}) })
			j := w.job(secret)
			j.Class, j.ExpiresAt = tt.class, time.Now().Add(tt.life)
			id := w.send(j)
			w.wait(time.Minute)
			if got := w.told(id); got != tt.soon {
				t.Errorf("told %q at night, want %q", got, tt.soon)
			}
			w.wait(6*time.Hour + 58*time.Minute)
			early := len(w.submits)
			w.wait(2 * time.Minute)
			if got := w.told(id); got != tt.late || tt.soon == "" && early != 0 {
				t.Errorf("told %q in the morning, want %q; %d submits at night", got, tt.late, early)
			}
			for _, after := range w.retries[id] {
				if after > maxQuietWait {
					t.Errorf("put off for %v at a time", after)
				}
			}
			p.stop()
		})
	}
}
