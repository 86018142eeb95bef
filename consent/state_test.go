package consent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

var update = flag.Bool("update", false, "write testdata instead of checking it")

// now is when everything here happens, unless a test says otherwise.
var now = time.Unix(1_800_000_000, 0)

// Keys of the cast: a registrar, a broker, and two devices that one user has one after the other.
var (
	registrar, broker, phone1, phone2 = keyOf(1), keyOf(2), keyOf(3), keyOf(4)
	alice                             = wire.ID{0xa1}
	mallory                           = wire.ID{0xee}
)

func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) wire.PublicKey {
	return wire.PublicKey(k.Public().(ed25519.PublicKey))
}

// cert certifies a device of alice, issued so long before now, for 180 days.
func cert(device ed25519.PrivateKey, age time.Duration) wire.Certificate {
	c := wire.Certificate{ID: alice, Device: public(device), IssuedAt: wire.Unix32(now.Add(-age)), LifetimeHours: 180 * 24, KID: 1}
	c.Sign(registrar)
	return c
}

// record is a consent record of alice's for a year, changed as told before the device signs.
func record(device ed25519.PrivateKey, seq uint32, scopes wire.Scope, changes ...func(*wire.Consent)) []byte {
	r := wire.Consent{
		ID: alice, Scopes: scopes, Seq: seq, IssuedAt: wire.Unix32(now), ExpiresAt: wire.Unix32(now.AddDate(1, 0, 0)),
		Notice: wire.NoticeHash("the notice"),
	}
	for _, change := range changes {
		change(&r)
	}
	r.Sign(device)
	return r.Marshal()
}

func revocation(seq uint32, id wire.ID) wire.Revocation {
	r := wire.Revocation{ID: id, Cause: wire.CauseStop, Seq: seq, IssuedAt: wire.Unix32(now), KID: 1}
	r.Sign(registrar)
	return r
}

// A move is one thing that can happen to a State.
type move func(State) (next State, changed bool, err error)

func enrols(c wire.Certificate) move {
	return func(s State) (State, bool, error) { return s.WithCertificate(c) }
}

func signs(raw []byte) move {
	return func(s State) (State, bool, error) { return s.WithRecord(raw, now) }
}

func connects(gen uint32) move {
	return func(s State) (State, bool, error) { return s.WithGen(gen) }
}

func isRevoked(r wire.Revocation) move {
	return func(s State) (State, bool, error) {
		next, err := s.WithRevocation(r)
		return next, err == nil, err
	}
}

// after is the State that moves lead to.
func after(t testing.TB, moves ...move) State {
	t.Helper()
	var s State
	for i, m := range moves {
		next, _, err := m(s)
		if err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
		s = next
	}
	return s
}

const messaging, gateway = wire.ScopeMessaging, wire.ScopeGateway

// lives are moves that are accepted, and what the user then agrees to. [P-5] [P-6] [P-7]
var lives = []struct {
	name  string
	moves []move
	want  wire.Scope
	seq   uint32
}{
	{"nothing known", nil, 0, 0},
	{"enrolled is not consented [P-17]", []move{enrols(cert(phone1, time.Hour))}, 0, 0},
	{"consented", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging))}, messaging, 1},
	{"a wider record", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), signs(record(phone1, 7, messaging|gateway))}, messaging | gateway, 7},
	{"the same record again", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), signs(record(phone1, 1, messaging))}, messaging, 1},
	{"withdrawn by the device", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), signs(record(phone1, 2, 0))}, 0, 2},
	{"a withdrawal is never too old", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), signs(record(phone1, 2, 0, issued(-2*365*24*time.Hour), expires(-time.Hour)))}, 0, 2},
	{"withdrawn and given again", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), signs(record(phone1, 2, 0)), signs(record(phone1, 3, messaging))}, messaging, 3},
	{"STOP", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), isRevoked(revocation(2, alice))}, 0, 2},
	{"STOP twice", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), isRevoked(revocation(2, alice)), isRevoked(revocation(3, alice))}, 0, 3},
	{"STOP before any record", []move{enrols(cert(phone1, time.Hour)), isRevoked(revocation(1, alice))}, 0, 1},
	{"given again after STOP", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), isRevoked(revocation(2, alice)), signs(record(phone1, 3, messaging))}, messaging, 3},
	{"STOP at the highest seq a device can use", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, math.MaxUint32-1, messaging)), isRevoked(revocation(math.MaxUint32, alice))}, 0, math.MaxUint32},
	{"renewed certificate, same device", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), enrols(cert(phone1, 0))}, messaging, 1},
	{"STOP survives a renewal", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging)), isRevoked(revocation(2, alice)), enrols(cert(phone1, 0))}, 0, 2},
	{"a new phone starts switched off", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 5, messaging)), enrols(cert(phone2, 0))}, 0, 5},
	{"a new phone consents", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 5, messaging)), enrols(cert(phone2, 0)), signs(record(phone2, 6, messaging))}, messaging, 6},
	{"a new phone after STOP starts switched off", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 5, messaging)), isRevoked(revocation(6, alice)), enrols(cert(phone2, 0))}, 0, 6},
	{"generations rise and stay [P-12]", []move{enrols(cert(phone1, time.Hour)), connects(0), connects(3), connects(3), connects(MaxGenStep)}, 0, 0},
	{"the clock of the phone is a little ahead [P-16]", []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging, issued(wire.ClockSkew)))}, messaging, 1},
}

func issued(d time.Duration) func(*wire.Consent) {
	return func(r *wire.Consent) { r.IssuedAt = wire.Unix32(now.Add(d)) }
}

func expires(d time.Duration) func(*wire.Consent) {
	return func(r *wire.Consent) { r.ExpiresAt = wire.Unix32(now.Add(d)) }
}

func TestLives(t *testing.T) {
	for _, life := range lives {
		t.Run(life.name, func(t *testing.T) {
			s := after(t, life.moves...)
			if got := s.Scopes(now); got != life.want || s.Seq != life.seq {
				t.Errorf("scopes %b and seq %d, want %b and %d", got, s.Seq, life.want, life.seq)
			}
			parsed, err := ParseState(s.Marshal())
			if diff := cmp.Diff(s, parsed); diff != "" || err != nil {
				t.Errorf("stored and read again: %v (-was +is):\n%s", err, diff)
			}
			if len(s.Marshal()) > 388 {
				t.Errorf("%d bytes are stored", len(s.Marshal()))
			}
		})
	}
}

// refusals are moves that are refused. Each leaves the state as it was, byte for byte.
var refusals = []struct {
	name  string
	given []move
	try   move
	want  wire.Code
}{
	{"a record before enrolment", nil, signs(record(phone1, 1, messaging)), wire.NotEnrolled},
	{"a record after the certificate's end", []move{enrols(cert(phone1, 181*24*time.Hour))}, signs(record(phone1, 1, messaging)), wire.NotEnrolled},
	{"a record of another device [P-6]", consented, signs(record(phone2, 2, messaging)), wire.BadRecord},
	{"a record of another ID", consented, signs(record(phone1, 2, messaging, func(r *wire.Consent) { r.ID = mallory })), wire.BadRecord},
	{"a record cut short", consented, signs(record(phone1, 2, messaging)[:106]), wire.BadRecord},
	{"no record", consented, signs(nil), wire.BadRecord},
	{"an unknown scope", consented, signs(record(phone1, 2, 1<<5)), wire.BadRecord},
	{"an unknown visibility", consented, signs(record(phone1, 2, messaging, func(r *wire.Consent) { r.Visibility = 2 })), wire.BadRecord},
	{"another record of the same seq", consented, signs(record(phone1, 1, gateway)), wire.StaleRecord},
	{"seq 0", []move{enrols(cert(phone1, time.Hour))}, signs(record(phone1, 0, messaging)), wire.StaleRecord},
	{"the seq kept for a revocation", consented, signs(record(phone1, math.MaxUint32, messaging)), wire.BadRecord},
	{"the record from before a withdrawal", append(consented[:2:2], signs(record(phone1, 2, 0))), signs(record(phone1, 1, messaging)), wire.StaleRecord},
	{"the record from before STOP [P-7]", append(consented[:2:2], isRevoked(revocation(2, alice))), signs(record(phone1, 1, messaging)), wire.StaleRecord},
	{"the old phone's record after a new phone", append(consented[:2:2], enrols(cert(phone2, 0))), signs(record(phone1, 2, messaging)), wire.BadRecord},
	{"a record from the future [P-16]", consented, signs(record(phone1, 2, messaging, issued(wire.ClockSkew+time.Second))), wire.OutOfTime},
	{"a withdrawal from the future", consented, signs(record(phone1, 2, 0, issued(wire.ClockSkew+time.Second))), wire.OutOfTime},
	{"an expired record", consented, signs(record(phone1, 2, messaging, expires(-time.Second))), wire.OutOfTime},
	{"a record for more than 400 days", consented, signs(record(phone1, 2, messaging, expires(MaxConsent+time.Second))), wire.OutOfTime},
	{"an older certificate [P-5]", consented, enrols(cert(phone2, 2*time.Hour)), wire.Revoked},
	{"another certificate of the same second", consented, enrols(cert(phone2, time.Hour)), wire.Revoked},
	{"a certificate of another ID", consented, enrols(wire.Certificate{ID: mallory, IssuedAt: math.MaxUint32}), wire.BadRecord},
	{"a lower generation [P-12]", append(consented[:2:2], connects(5)), connects(4), wire.StaleRecord},
	{"a generation far ahead [P-12]", append(consented[:2:2], connects(5)), connects(5 + MaxGenStep + 1), wire.NotAllowed},
	{"STOP for nobody", nil, isRevoked(revocation(1, alice)), wire.NotEnrolled},
	{"STOP for another ID", consented, isRevoked(revocation(2, mallory)), wire.NotEnrolled},
	{"STOP again", append(consented[:2:2], isRevoked(revocation(2, alice))), isRevoked(revocation(2, alice)), wire.StaleRecord},
	{"STOP that skips a seq", consented, isRevoked(revocation(3, alice)), wire.StaleRecord},
	{"STOP whose seq wraps", append(consented[:1:1], signs(record(phone1, math.MaxUint32-1, messaging)), isRevoked(revocation(math.MaxUint32, alice))), isRevoked(revocation(0, alice)), wire.StaleRecord},
}

var consented = []move{enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging))}

func TestRefusalsChangeNothing(t *testing.T) {
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			s := after(t, r.given...).WithReceipt(wire.Receipt{ReceivedAt: 1})
			before := s.Marshal()
			next, changed, err := r.try(s)
			if err != r.want || changed {
				t.Errorf("changed %v, error %v; want %v", changed, err, r.want)
			}
			if !bytes.Equal(s.Marshal(), before) || !bytes.Equal(next.Marshal(), before) {
				t.Errorf("the state changed:\nwas %x\nis  %x\nor  %x", before, s.Marshal(), next.Marshal())
			}
		})
	}
}

// TestConsentEnds shows that an agreement ends by itself: with the record, with the certificate.
func TestConsentEnds(t *testing.T) {
	short := after(t, enrols(cert(phone1, 0)), signs(record(phone1, 1, messaging, expires(time.Hour))))
	long := after(t, consented...)
	for _, c := range []struct {
		name string
		s    State
		at   time.Time
		want Access
	}{
		{"valid", short, now.Add(time.Hour), Access{Enrolled: true, Listed: true, Scopes: messaging}},
		{"record over", short, now.Add(time.Hour + time.Second), Access{Enrolled: true}},
		{"certificate valid", long, now.Add(180*24*time.Hour - time.Hour), Access{Enrolled: true, Listed: true, Scopes: messaging}},
		{"certificate over", long, now.Add(180*24*time.Hour - time.Hour + time.Second), Access{}},
	} {
		if got := AccessOf(c.s, c.at); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestFrozenState compares the stored form with testdata: brokers read what older ones wrote.
func TestFrozenState(t *testing.T) {
	s := after(t, append(consented[:2:2], connects(7), isRevoked(revocation(2, alice)))...)
	s = s.WithReceipt(wire.NewReceipt(broker, record(phone1, 1, messaging), now))
	got := hex.EncodeToString(s.Marshal()) + "\n"
	const file = "testdata/state.hex"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Fatalf("error %v; stored form\n%swant\n%s", err, got, want)
	}
	raw, _ := hex.DecodeString(strings.TrimSpace(string(want)))
	parsed, err := ParseState(raw)
	if diff := cmp.Diff(s, parsed); diff != "" || err != nil {
		t.Errorf("read: %v (-was +is):\n%s", err, diff)
	}
}

func TestParseStateRefuses(t *testing.T) {
	whole := after(t, append(consented[:2:2], isRevoked(revocation(2, alice)))...).Marshal()
	set := func(i int, b byte) []byte {
		c := bytes.Clone(whole)
		c[i] = b
		return c
	}
	for name, b := range map[string][]byte{
		"version 2": set(0, 2), "unknown flag": set(1, 0x0f), "flag without record": set(1, hasCert|hasOff),
		"no type byte": set(10, 0), "unknown scope": set(10+116+13, 0xff), "one more": append(bytes.Clone(whole), 0), "one less": whole[:len(whole)-1],
		"only a version": {1}, "flag without bytes": {1, hasCert, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, err := ParseState(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if s, err := ParseState(nil); err != nil || !cmp.Equal(s, State{}) {
		t.Errorf("nothing stored: %+v, %v", s, err)
	}
}

// FuzzParseState shows that what is read is what would be written.
func FuzzParseState(f *testing.F) {
	seedStates(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err == nil && len(b) != 0 && !bytes.Equal(s.Marshal(), b) {
			t.Errorf("read %x, would write %x", b, s.Marshal())
		}
	})
}

func seedStates(f *testing.F, add func([]byte)) {
	add(nil)
	for _, life := range lives {
		var s State
		for _, m := range life.moves {
			s, _, _ = m(s)
		}
		add(s.Marshal())
	}
}
