package sms

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"bluejay/wire"
)

// way is a transport of a name that does nothing.
type way struct {
	*Console
	name string
	err  error
}

func (w way) Route() string { return w.name }

func (w way) Run(ctx context.Context, _ Handlers) error {
	if w.err == nil {
		<-ctx.Done()
	}
	return w.err
}

func sender(t testing.TB) Sender {
	t.Helper()
	s, err := ParseSender("Bluejay")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRoutesFor: each number has the route of its country, or a reason why it has none. [F-22]
func TestRoutesFor(t *testing.T) {
	from := sender(t)
	routes, err := NewRoutes([]Route{
		{Transport: way{name: "isles"}, Countries: []string{"GB", "IE"}, From: from},
		{Transport: way{name: "america"}, Countries: []string{"US", "CA"}, From: from, Daily: 7},
		{Transport: way{name: "rest"}, From: from},
	}, NumberPolicy{Countries: []string{"GB", "IE", "US", "DE"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		number, route string
		err           error
	}{
		{"+447400123456", "isles", nil},
		{"+447700900123", "isles", nil}, // Ofcom's numbers for fiction: possible, handed out to nobody
		{"+353851234567", "isles", nil},
		{"+12015550123", "america", nil},
		{"+14165550123", "", ErrCountry}, // Toronto: no longer allowed
		{"+4915123456789", "rest", nil},
		{"+33612345678", "", ErrCountry},
		{"+449098790000", "", ErrPremium},
		{"+448431234567", "", ErrPremium}, // shared cost
		{"+447012345678", "", ErrPremium}, // personal number
		{"+447640123456", "", ErrPremium}, // pager
		{"+4474001", "", ErrImpossible},
		{"+999123456789", "", ErrImpossible},
	} {
		r, err := routes.For(mustNumber(t, tt.number))
		if !errors.Is(err, tt.err) || err == nil && r.Transport.Route() != tt.route {
			t.Errorf("%s: %v, want %q, %v", tt.number, err, tt.route, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), tt.number[3:]) {
			t.Errorf("the number is in the error: %v", err)
		}
	}
	if r, ok := routes.Named("america"); !ok || r.Daily != 7 {
		t.Errorf("%v", ok)
	}
	if _, ok := routes.Named("nowhere"); ok {
		t.Error("a route of no name")
	}
	premium, err := NewRoutes([]Route{{Transport: way{name: "gb"}, Countries: []string{"GB"}, From: from}}, NumberPolicy{Premium: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := premium.For(mustNumber(t, "+449098790000")); err != nil {
		t.Errorf("premium, allowed: %v", err)
	}
	if _, err := premium.For(mustNumber(t, "+33612345678")); !errors.Is(err, ErrNoRoute) {
		t.Errorf("no route: %v", err)
	}
}

// TestNewRoutesRefuses: what could send a text the wrong way is no configuration.
func TestNewRoutesRefuses(t *testing.T) {
	from := sender(t)
	ok := Route{Transport: way{name: "a"}, From: from}
	for _, tt := range []struct {
		name   string
		routes []Route
		policy NumberPolicy
		want   string
	}{
		{"none", nil, NumberPolicy{}, "no route"},
		{"no transport", []Route{{From: from}}, NumberPolicy{}, "no transport"},
		{"no sender", []Route{{Transport: way{name: "a"}}}, NumberPolicy{}, "no sender"},
		{"no name", []Route{{Transport: way{}, From: from}}, NumberPolicy{}, "called"},
		{"one name twice", []Route{ok, {Transport: way{name: "a"}, Countries: []string{"GB"}, From: from}}, NumberPolicy{}, "called"},
		{"two defaults", []Route{ok, {Transport: way{name: "b"}, From: from}}, NumberPolicy{}, "every other country"},
		{"a country twice", []Route{
			{Transport: way{name: "b"}, Countries: []string{"GB"}, From: from}, {Transport: way{name: "c"}, Countries: []string{"FR", "GB"}, From: from},
		}, NumberPolicy{}, "GB"},
		{"no country", []Route{{Transport: way{name: "a"}, Countries: []string{"England"}, From: from}}, NumberPolicy{}, "no country"},
		{"a small country", []Route{{Transport: way{name: "a"}, Countries: []string{"gb"}, From: from}}, NumberPolicy{}, "no country"},
		{"no such allowed", []Route{ok}, NumberPolicy{Countries: []string{"44"}}, "no country"},
	} {
		if _, err := NewRoutes(tt.routes, tt.policy); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", tt.name, err, tt.want)
		}
	}
	if _, err := NewRoutes([]Route{{Transport: NewConsole(io.Discard)}}, NumberPolicy{}); err != nil {
		t.Errorf("a console needs no sender: %v", err)
	}
}

// TestRoutesRun: all run until the end; one that gives up does not end the others, and is named.
func TestRoutesRun(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		broken := errors.New("broken")
		from := sender(t)
		routes, err := NewRoutes([]Route{
			{Transport: way{name: "a"}, From: from}, {Transport: way{name: "b", err: broken}, Countries: []string{"GB"}, From: from},
		}, NumberPolicy{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err = routes.Run(ctx, Handlers{})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), `"b"`) || time.Since(began) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// TestQuietUntil: by the clock on the wall, across midnight and across its changes. [F-23]
func TestQuietUntil(t *testing.T) {
	london, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	night, noon := QuietHours{22 * 60, 7 * 60, london}, QuietHours{12 * 60, 13*60 + 30, london}
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, london)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		q          QuietHours
		now, until string // "": not quiet
	}{
		{night, "2026-11-24 21:59", ""}, {night, "2026-11-24 22:00", "2026-11-25 07:00"}, {night, "2026-11-25 03:00", "2026-11-25 07:00"},
		{night, "2026-11-25 06:59", "2026-11-25 07:00"}, {night, "2026-11-25 07:00", ""},
		{night, "2026-12-31 23:30", "2027-01-01 07:00"},
		{night, "2026-03-28 23:00", "2026-03-29 07:00"}, // an hour is missing in this night
		{night, "2026-10-24 23:00", "2026-10-25 07:00"}, // and twice in this
		{noon, "2026-11-24 11:59", ""}, {noon, "2026-11-24 12:00", "2026-11-24 13:30"}, {noon, "2026-11-24 13:30", ""},
		{QuietHours{}, "2026-11-24 03:00", ""}, {QuietHours{Location: london}, "2026-11-24 00:00", ""},
	} {
		got := tt.q.Until(at(tt.now).UTC())
		if tt.until == "" && !got.IsZero() || tt.until != "" && !got.Equal(at(tt.until)) {
			t.Errorf("%s: until %v, want %q", tt.now, got, tt.until)
		}
	}
	if d := night.Until(at("2026-03-28 23:00")).Sub(at("2026-03-28 23:00")); d != 7*time.Hour {
		t.Errorf("the short night is %v", d)
	}
}

// TestClassify: what the plans say, and that nothing is certain beyond them.
func TestClassify(t *testing.T) {
	for number, want := range map[string]NumberInfo{
		"+447400123456":  {Country: "GB", Possible: true, Valid: true},
		"+447700900123":  {Country: "GB", Possible: true},
		"+449098790000":  {Country: "GB", Possible: true, Valid: true, Special: true},
		"+441534123456":  {Country: "JE", Possible: true, Valid: true}, // Jersey shares the code
		"+12015550123":   {Country: "US", Possible: true, Valid: true},
		"+9991234567890": {},
	} {
		if got := Classify(mustNumber(t, number)); got != want {
			t.Errorf("%s: %+v, want %+v", number, got, want)
		}
	}
	if got := Classify(wire.Number{}); got.Possible {
		t.Errorf("no number: %+v", got)
	}
}

func BenchmarkClassify(b *testing.B) {
	n, err := wire.ParseNumber("+447400123456")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		Classify(n)
	}
}
