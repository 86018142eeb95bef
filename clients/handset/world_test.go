package handset

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// phone is a handset in a test, with its events and its SIM.
type phone struct {
	*Handset
	t      *testing.T
	cfg    Config
	number wire.Number
	sim    *fakeSIM
	mu     sync.Mutex
	seen   []Event
	done   chan struct{}
}

type fakeSIM struct {
	mu   sync.Mutex
	sent []string
	err  error
	hang chan struct{} // nil: it answers at once
}

var errNoSignal = errors.New("no signal")

func (s *fakeSIM) SendSMS(_ context.Context, _ Dialled, text string) error {
	if s.hang != nil {
		<-s.hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.sent = append(s.sent, text)
	return nil
}

func (s *fakeSIM) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

const (
	aliceNumber = "+447700900001"
	bobNumber   = "+447700900002"
)

func number(t testing.TB, s string) wire.Number {
	t.Helper()
	n, err := wire.ParseNumber(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func privateDir(t testing.TB) string {
	t.Helper()
	d := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(d, 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

func newPhone(t *testing.T, b *fakeBroker, num string, change func(*Config)) *phone {
	t.Helper()
	p := &phone{t: t, number: number(t, num), sim: &fakeSIM{}}
	p.cfg = Config{Dir: privateDir(t), Pins: b.pins(), Addr: "127.0.0.1:1883", Dial: b.dial, SIM: p.sim, EventBuffer: 1024}
	if change != nil {
		change(&p.cfg)
	}
	p.open()
	t.Cleanup(p.close)
	return p
}

func (p *phone) open() {
	p.t.Helper()
	h, err := Open(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Handset, p.done = h, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		for e := range h.Events() {
			p.mu.Lock()
			p.seen = append(p.seen, e)
			p.mu.Unlock()
		}
	}(p.done)
}

func (p *phone) close() {
	if err := p.Close(); err != nil && !errors.Is(err, ErrClosed) {
		p.t.Error(err)
	}
	<-p.done
}

func (p *phone) reopen() {
	p.t.Helper()
	p.close()
	p.open()
}

const everything = wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway

func (p *phone) join(scopes wire.Scope) {
	p.t.Helper()
	ctx := p.t.Context()
	if err := p.Enrol(ctx, p.number, p.Notice("en")); err != nil {
		p.t.Fatal("enrol: ", err)
	}
	if err := p.Confirm(ctx, fakeOTP); err != nil {
		p.t.Fatal("confirm: ", err)
	}
	if err := p.OptIn(ctx, scopes, wire.Listed); err != nil {
		p.t.Fatal("opt in: ", err)
	}
}

func (p *phone) contact(name, num string) ContactID {
	p.t.Helper()
	id, err := p.AddContact(p.t.Context(), name, number(p.t, num))
	if err != nil {
		p.t.Fatal("add contact: ", err)
	}
	return id
}

func (p *phone) send(c ContactID, text string) TextID {
	p.t.Helper()
	id, err := p.Send(p.t.Context(), c, text)
	if err != nil {
		p.t.Fatal("send: ", err)
	}
	return id
}

// text finds one text of the handset.
func (p *phone) text(id TextID) Text {
	p.t.Helper()
	for _, c := range p.Contacts() {
		for _, t := range p.Texts(c.ID) {
			if t.ID == id {
				return t
			}
		}
	}
	p.t.Fatalf("text %d is not shown", id)
	return Text{}
}

// bodies lists what was received, in order.
func (p *phone) bodies() []string {
	var out []string
	for _, c := range p.Contacts() {
		for _, t := range p.Texts(c.ID) {
			if !t.Out {
				out = append(out, t.Body)
			}
		}
	}
	return out
}

func (p *phone) events(k EventKind) int {
	synctest.Wait() // what was told is read by another goroutine
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range p.seen {
		if e.Kind == k {
			n++
		}
	}
	return n
}

// pair runs a test with two phones that know each other's number, in virtual time.
func pair(t *testing.T, test func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID)) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		alice, bob := newPhone(t, b, aliceNumber, nil), newPhone(t, b, bobNumber, nil)
		alice.join(everything)
		bob.join(everything)
		toBob, toAlice := alice.contact("Bob", bobNumber), bob.contact("Alice", aliceNumber)
		test(t, b, alice, bob, toBob, toAlice)
	})
}

// wantState checks where a text is.
func (p *phone) wantState(id TextID, s State, path fallback.Path) {
	p.t.Helper()
	if got := p.text(id); got.State != s || got.Path != path {
		p.t.Errorf("text %d: %v on path %d (%v), want %v on path %d", id, got.State, got.Path, got.Why, s, path)
	}
}

func settle(d time.Duration) {
	<-time.After(d) // virtual: over at once when nothing else can happen
	synctest.Wait()
}
