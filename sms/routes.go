package sms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"bluejay/wire"
)

// Route is a transport and the rules of the countries it serves.
type Route struct {
	Transport Transport
	Countries []string      // ISO 3166-1 alpha-2; empty: every country that no other route has
	From      Sender        // required, but for a console
	Validity  time.Duration // at most; 0: the job's own
	Charset   Charset
	Unchecked bool // a text whose claimed sender is not confirmed goes, without the claim [F-6]
	Quiet     QuietHours
	Daily     int // SMS parts a UTC day; 0: no bound
}

// Routes picks the route of a number and runs all of them.
type Routes struct {
	all       []Route
	byCountry map[string]int // index in all; "" is the default
	byName    map[string]int
	policy    NumberPolicy
	allowed   map[string]bool // nil: every country
}

// NewRoutes checks that every country has at most one route, that names differ and that each route
// has a sender.
func NewRoutes(rs []Route, p NumberPolicy) (*Routes, error) {
	if len(rs) == 0 {
		return nil, errors.New("sms: no route: nothing could be sent")
	}
	t := &Routes{all: slices.Clone(rs), byCountry: map[string]int{}, byName: map[string]int{}, policy: p}
	for i, r := range t.all {
		if err := t.add(i, r); err != nil {
			return nil, err
		}
	}
	if len(p.Countries) > 0 {
		t.allowed = map[string]bool{}
	}
	for _, c := range p.Countries {
		if !isCountry(c) {
			return nil, fmt.Errorf("sms: %q is no country: want two capital letters (ISO 3166-1)", c)
		}
		t.allowed[c] = true
	}
	return t, nil
}

func (t *Routes) add(i int, r Route) error {
	if r.Transport == nil {
		return fmt.Errorf("sms: route %d has no transport", i+1)
	}
	name := r.Transport.Route()
	if _, taken := t.byName[name]; taken || name == "" {
		return fmt.Errorf("sms: two routes are called %q: receipts are told apart by it", name)
	}
	if _, prints := r.Transport.(*Console); r.From.IsZero() && !prints {
		return fmt.Errorf("sms: route %q has no sender: there is no default, each country has its rules", name)
	}
	t.byName[name] = i
	countries := r.Countries
	if len(countries) == 0 {
		countries = []string{""}
	}
	for _, c := range countries {
		if c != "" && !isCountry(c) {
			return fmt.Errorf("sms: route %q: %q is no country: want two capital letters (ISO 3166-1)", name, c)
		}
		if j, taken := t.byCountry[c]; taken {
			return fmt.Errorf("sms: routes %q and %q both serve %s", t.all[j].Transport.Route(), name, countryName(c))
		}
		t.byCountry[c] = i
	}
	return nil
}

func countryName(c string) string {
	if c == "" {
		return "every other country"
	}
	return c
}

func isCountry(c string) bool {
	return len(c) == 2 && c[0] >= 'A' && c[0] <= 'Z' && c[1] >= 'A' && c[1] <= 'Z'
}

// For returns the route of a number, or why it gets no SMS: [ErrImpossible], [ErrPremium],
// [ErrCountry] or [ErrNoRoute]. [F-22]
func (t *Routes) For(n wire.Number) (Route, error) {
	info := Classify(n)
	switch {
	case !info.Possible:
		return Route{}, ErrImpossible
	case info.Special && !t.policy.Premium:
		return Route{}, ErrPremium
	case t.allowed != nil && !t.allowed[info.Country]:
		return Route{}, ErrCountry
	}
	i, ok := t.byCountry[info.Country]
	if !ok {
		i, ok = t.byCountry[""]
	}
	if !ok {
		return Route{}, ErrNoRoute
	}
	return t.all[i], nil
}

// Named returns the route of a name.
func (t *Routes) Named(name string) (Route, bool) {
	i, ok := t.byName[name]
	if !ok {
		return Route{}, false
	}
	return t.all[i], true
}

// All returns every route, in the order given.
func (t *Routes) All() []Route { return slices.Clone(t.all) }

// Run runs every transport until ctx ends and all of them have. It returns their errors.
func (t *Routes) Run(ctx context.Context, h Handlers) error {
	errs := make([]error, len(t.all))
	var running sync.WaitGroup
	for i, r := range t.all {
		running.Go(func() {
			if err := r.Transport.Run(ctx, h); err != nil {
				errs[i] = fmt.Errorf("route %q: %w", r.Transport.Route(), err)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}
