package registrar

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// shelf is [Consents] in RAM: like the broker, it takes a signed revocation of the next seq only.
type shelf struct {
	mu     sync.Mutex
	seqs   map[wire.ID]uint32
	key    wire.PublicKey
	races  int // so many times a device's record comes in between
	answer *wire.Code
	err    error
	got    []wire.Revocation
}

func (s *shelf) Seq(_ context.Context, id wire.ID) (uint32, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq, ok := s.seqs[id]
	if s.races > 0 {
		s.races--
		s.seqs[id]++
	}
	return seq, ok, s.err
}

func (s *shelf) Revoke(_ context.Context, raw []byte) (wire.Code, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := wire.ParseRevocation(raw)
	if s.answer != nil || s.err != nil || err != nil || r.Verify(s.key) != nil {
		if s.answer != nil {
			return *s.answer, s.err
		}
		return wire.BadRecord, s.err
	}
	if r.Seq != s.seqs[r.ID]+1 {
		return wire.StaleRecord, nil
	}
	s.seqs[r.ID] = r.Seq
	s.got = append(s.got, r)
	return wire.OK, nil
}

// stopped is an office whose shelf has one enrolled user, and that user's number.
func stopped(t *testing.T) (*office, *shelf, wire.Number, wire.ID) {
	t.Helper()
	s := &shelf{seqs: map[wire.ID]uint32{}}
	o := newOffice(t, func(c *Config) { c.Consents = s })
	n := newPhone(t, "+447700900123").number
	id, err := o.cfg.VOPRF.FullEvaluate(n)
	if err != nil {
		t.Fatal(err)
	}
	s.key = o.certs
	s.seqs[id] = 41
	return o, s, n, id
}

func sealed(t *testing.T, o *office, n wire.Number) []byte {
	t.Helper()
	b, err := envelope.SealNumber(o.cfg.Secret.Public(), n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStop: a number that said STOP loses its consent by a revocation above the stored seq, which the
// broker checks by itself. [P-7] [F-18]
func TestStop(t *testing.T) {
	o, s, n, id := stopped(t)
	if got := o.HandleStop(t.Context(), sealed(t, o, n)); string(got) != string(answer(wire.OK)) {
		t.Fatalf("%x", got)
	}
	if len(s.got) != 1 {
		t.Fatalf("%d revocations", len(s.got))
	}
	r := s.got[0]
	if r.ID != id || r.Seq != 42 || r.Cause != wire.CauseStop || r.KID != 7 || time.Since(wire.Time32(r.IssuedAt)).Abs() > time.Minute {
		t.Errorf("%+v", r)
	}
	if log := o.logged.String(); !strings.Contains(log, "audit: revoked") || strings.Contains(log, "7700900123") || strings.Contains(log, id.String()) {
		t.Errorf("log: %s", log)
	}
}

// TestStopStranger: nobody has enrolled with the number: the answer is the same, and nothing happens.
func TestStopStranger(t *testing.T) {
	o, s, _, _ := stopped(t)
	other := newPhone(t, "+447700900999").number
	if got := o.HandleStop(t.Context(), sealed(t, o, other)); string(got) != string(answer(wire.OK)) || len(s.got) != 0 {
		t.Errorf("%x, %d revocations", got, len(s.got))
	}
}

// TestStopRaces: a record that the device sends in between takes the seq; the revocation is signed
// anew, above it. [P-7]
func TestStopRaces(t *testing.T) {
	o, s, n, _ := stopped(t)
	s.races = changeTries - 1
	if got := o.HandleStop(t.Context(), sealed(t, o, n)); string(got) != string(answer(wire.OK)) || len(s.got) != 1 {
		t.Errorf("%x, %d revocations", got, len(s.got))
	}
	s.races = changeTries
	if got := o.HandleStop(t.Context(), sealed(t, o, n)); string(got) != string(answer(wire.Unavailable)) {
		t.Errorf("always another first: %x", got)
	}
}

// TestStopRefused: what cannot be read is a bad record; what cannot be done now is to be asked again.
func TestStopRefused(t *testing.T) {
	o, s, n, _ := stopped(t)
	good := sealed(t, o, n)
	for what, req := range map[string][]byte{"nothing": nil, "short": good[1:], "damaged": append([]byte{good[0] ^ 1}, good[1:]...)} {
		if got := o.HandleStop(t.Context(), req); string(got) != string(answer(wire.BadRecord)) {
			t.Errorf("%s: %x", what, got)
		}
	}
	denied := wire.BadRecord
	s.answer = &denied
	if got := o.HandleStop(t.Context(), good); string(got) != string(answer(wire.Unavailable)) {
		t.Errorf("the broker refuses: %x", got)
	}
	s.answer, s.err = nil, wire.Unavailable
	if got := o.HandleStop(t.Context(), good); string(got) != string(answer(wire.Unavailable)) {
		t.Errorf("the broker is away: %x", got)
	}
	alone := newOffice(t)
	if got := alone.HandleStop(t.Context(), sealed(t, alone, n)); string(got) != string(answer(wire.Unavailable)) {
		t.Errorf("no broker: %x", got)
	}
}
