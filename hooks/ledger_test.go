package hooks

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// book is the consent log as the stage plays it: it asks the stage, so that it can be made to fail,
// and its entries are kept in order.
type book struct {
	st    *stage
	mu    sync.Mutex
	lost  uint64 // entries that were taken away
	lines [][]byte
}

func (b *book) Log(ctx context.Context, event []byte) (consent.Entry, error) {
	if err := b.st.ask(ctx, "log"); err != nil {
		return consent.Entry{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.lines, func(l []byte) bool { return bytes.Equal(l, event) })
	if i < 0 {
		i, b.lines = len(b.lines), append(b.lines, bytes.Clone(event))
	}
	return consent.Entry{Salt: [16]byte{1, byte(i)}, Index: uint64(i)}, nil
}

func (b *book) Size() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(len(b.lines)) - b.lost
}

func (b *book) lose(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = n
}

// has fails the test unless these are the log's events.
func (b *book) has(what string, want ...[]byte) {
	b.st.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.EqualFunc(b.lines, want, bytes.Equal) {
		b.st.Errorf("%s: %d events are logged, want %d: %x", what, len(b.lines), len(want), b.lines)
	}
}

// withBook starts a stage whose node logs.
func withBook(t *testing.T) (*stage, *book) {
	b := &book{}
	st := newStage(t, ListenConfig{}, func(c *Config) {
		b.st = c.Store.(*stage)
		c.Ledger = b
	})
	return st, b
}

// stored is an ID's state on the shelf.
func (st *stage) stored(p *person) consent.State {
	st.Helper()
	s, err := st.shelf.Load(st.Context(), p.id)
	if err != nil {
		st.Fatal(err)
	}
	return s
}

var errDisk = errors.New("no space left on device")

// TestConsentIsLogged keeps [L-7], [L-8] and [L-1]: logged, then stored, then acknowledged with the
// receipt and the entry; the same record again is one event, a withdrawal another, which is silent
// before it is logged.
func TestConsentIsLogged(t *testing.T) {
	st, log := withBook(t)
	p := st.enrolled()
	ph := st.on(p, 5)
	st.asked()
	grant := p.record(everything)
	first := ph.ask("c", grant)
	if order := st.asked(); !slices.Equal(order[:3], []string{"load", "log", "save"}) {
		t.Errorf("in the order %q", order)
	}
	entry, err := consent.ParseEntry(first.Body[wire.ReceiptLen:])
	if err != nil || first.Code != wire.OK || st.stored(p).Logged(consent.EventRecord) != entry {
		t.Errorf("%+v: entry %+v, %v", first, entry, err)
	}
	if again := ph.ask("c", grant); again.Code != wire.OK || !bytes.Equal(again.Body, first.Body) {
		t.Errorf("the same record again: %+v", again)
	}
	log.has("a grant, twice", grant)
	off := p.record(0)
	st.asked()
	if a := ph.ask("c", off); a.Code != wire.OK || len(a.Body) != wire.ReceiptLen+consent.EntryLen {
		t.Errorf("a withdrawal: %+v", a)
	}
	if order := st.asked(); !slices.Equal(order, []string{"load", "save", "cancel all", "log", "save"}) {
		t.Errorf("a withdrawal in the order %q", order)
	}
	log.has("and a withdrawal", grant, off)
	revocation := st.revocation(p)
	for range 2 {
		if code := st.node.Revoke(t.Context(), revocation); code != wire.OK {
			t.Errorf("a revocation: %v", code)
		}
	}
	log.has("and a revocation, twice", grant, off, revocation)
	if s := st.stored(p); s.Logged(consent.EventRevocation).Index != 2 || s.Logged(consent.EventRecord).Index != 1 {
		t.Errorf("stored entries %+v", s.Entries)
	}
}

// TestLogFails keeps [L-7]: while the log cannot be written no consent begins, grows or is renewed; what
// is in force stays; what ends ends at once and is acknowledged only once it is logged.
func TestLogFails(t *testing.T) {
	st, log := withBook(t)
	a, b := st.enrolled(), st.person(everything)
	from, to := st.on(b, 5), st.on(a, 5)
	st.fail("log", errDisk)
	grant := a.record(everything)
	if got := to.ask("c", grant); got.Code != wire.Unavailable || st.stored(a).Record != nil {
		t.Errorf("a grant: %+v, stored %+v", got, st.stored(a).Record)
	}
	to.told(to.publish(b.topic('i'), []byte("x")), wire.NotConsented, "a text without consent")
	if got := from.ask("c", b.record(everything)); got.Code != wire.Unavailable {
		t.Errorf("a renewal: %+v", got)
	}
	from.told(from.publish("f", job(wire.ClassNormal, time.Hour, "")), wire.OK, "what is in force")
	if got := from.ask("c", b.record(wire.ScopeMessaging)); got.Code != wire.Unavailable || st.stored(b).Scopes(time.Now()) != wire.ScopeMessaging {
		t.Errorf("less: %+v, in force %v", got, st.stored(b).Scopes(time.Now()))
	}
	if got := from.ask("c", b.record(everything)); got.Code != wire.Unavailable || st.stored(b).Scopes(time.Now()) != wire.ScopeMessaging {
		t.Errorf("more again: %+v, in force %v", got, st.stored(b).Scopes(time.Now()))
	}
	off := b.record(0)
	if got := from.ask("c", off); got.Code != wire.Unavailable {
		t.Errorf("a withdrawal: %+v, want no acknowledgement", got)
	}
	if st.queued() != 0 || st.node.Counts().Blue != 0 {
		t.Errorf("after a withdrawal that is not acknowledged: %d jobs, %+v", st.queued(), st.node.Counts())
	}
	from.told(from.publish(a.topic('i'), []byte("x")), wire.NotConsented, "a text after it")
	log.has("nothing")
	st.fail("log", nil)
	if got := from.ask("c", off); got.Code != wire.OK || len(got.Body) != wire.ReceiptLen+consent.EntryLen {
		t.Errorf("the withdrawal again: %+v", got)
	}
	if got := to.ask("c", grant); got.Code != wire.OK {
		t.Errorf("the grant again: %+v", got)
	}
	log.has("both, once", off, grant)
}

// TestRevocationWithoutLog: the registrar's revocation takes effect although it cannot be logged, and is
// not acknowledged until it is. [L-7] [C-revoke]
func TestRevocationWithoutLog(t *testing.T) {
	st, log := withBook(t)
	p := st.person(everything)
	ph := st.on(p, 5)
	st.fail("log", errDisk)
	raw := st.revocation(p)
	if code := st.node.Revoke(t.Context(), raw); code != wire.Unavailable {
		t.Errorf("%v, want Unavailable", code)
	}
	if s := st.stored(p); s.Scopes(time.Now()) != 0 || st.node.Counts().Blue != 0 {
		t.Errorf("still in force: %+v", s)
	}
	ph.closed()
	st.fail("log", nil)
	if code := st.node.Revoke(t.Context(), raw); code != wire.OK {
		t.Errorf("again: %v", code)
	}
	log.has("once", raw)
}

// TestNewDeviceIsLogged: the certificate of a new device voids the old one's consent, and is an event;
// if it cannot be logged the new device is not let in, and the old one's consent stays. [L-1] [L-7] [P-5]
func TestNewDeviceIsLogged(t *testing.T) {
	st, log := withBook(t)
	old := st.person(everything)
	fresh := st.certify(old.id, time.Now())
	withCert := func(c *wire.Connect) { c.Cert = &fresh.cert }
	st.fail("log", errDisk)
	if _, code := st.call(5, fresh.proof(withCert)); code != wire.Unavailable.Connack() {
		t.Errorf("CONNACK %#x", code)
	}
	if s := st.stored(old); s.Cert.Device != old.cert.Device || s.Scopes(time.Now()) != everything {
		t.Errorf("stored %+v", s)
	}
	log.has("nothing")
	st.fail("log", nil)
	for range 2 {
		ph, code := st.call(5, fresh.proof(withCert, func(c *wire.Connect) { c.Gen = st.stored(old).Gen }))
		if code != 0 {
			t.Fatalf("CONNACK %#x", code)
		}
		_ = ph.Close()
	}
	if s := st.stored(old); s.Record != nil || s.Logged(consent.EventDevice).IsZero() {
		t.Errorf("stored %+v", s)
	}
	log.has("the new certificate, once", fresh.cert.Marshal())
}

// TestLogOnceAfterLostRaces: a record whose state lost the race for the store is one event. [L-8]
func TestLogOnceAfterLostRaces(t *testing.T) {
	st, log := withBook(t)
	p := st.enrolled()
	ph := st.on(p, 5)
	st.fail("save", consent.ErrConflict)
	grant := p.record(everything)
	if got := ph.ask("c", grant); got.Code != wire.Unavailable {
		t.Errorf("%+v, want Unavailable", got)
	}
	st.fail("save", nil)
	if got := ph.ask("c", grant); got.Code != wire.OK {
		t.Errorf("again: %+v", got)
	}
	log.has("one event", grant)
}

// TestOlderLog: with a log that lacks an entry which a stored state has, nothing is logged for that
// ID. [L-9]
func TestOlderLog(t *testing.T) {
	st, log := withBook(t)
	p := st.enrolled()
	ph := st.on(p, 5)
	if got := ph.ask("c", p.record(everything)); got.Code != wire.OK {
		t.Fatalf("%+v", got)
	}
	log.lose(1)
	off := p.record(0)
	if got := ph.ask("c", off); got.Code != wire.Unavailable {
		t.Errorf("with an older log: %+v", got)
	}
	ph.told(ph.publish(p.topic('h'), []byte("x")), wire.NotConsented, "off all the same")
	log.lose(0)
	if got := ph.ask("c", off); got.Code != wire.OK {
		t.Errorf("with the log put back: %+v", got)
	}
}
