package consent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"bluejay/wire"
)

// strict accepts one text, the one that record says was shown.
var strict = Policy{Notices: [][16]byte{wire.NoticeHash("the notice")}}

func older(r *wire.Consent) { r.Notice = wire.NoticeHash("an older notice") }

func isErased(seq uint32) move {
	r := wire.Revocation{ID: alice, Cause: wire.CauseErasure, Seq: seq, IssuedAt: wire.Unix32(now), KID: 1}
	r.Sign(registrar)
	return isRevoked(r)
}

func changesSIM(s State) (State, bool, error) { return s.WithSIMChange() }

// transitions is the life of the messaging scope, step by step, each step a word of moved or said below:
// phase, and reason where there is one.
const transitions = `
	                                          none
	enrols                                    offered
	enrols agrees                             granted
	enrols agrees-to-presence                 offered
	enrols agrees renews                      granted
	enrols agrees-older                       suspended 16
	enrols agrees-older agrees                granted
	enrols agrees-older withdraws             revoked 15
	enrols agrees-older STOP                  revoked 1
	enrols agrees new-device                  suspended 18
	enrols agrees new-device agrees-2         granted
	enrols agrees new-device withdraws-2      revoked 15
	enrols agrees new-device STOP             revoked 1
	enrols agrees new-device new-device-again suspended 18
	enrols new-device                         offered
	enrols agrees withdraws new-device        offered
	enrols agrees STOP new-device             offered
	enrols agrees SIM                         suspended 17
	enrols SIM                                suspended 17
	enrols agrees SIM renews                  suspended 17
	enrols agrees SIM withdraws               revoked 15
	enrols agrees SIM STOP                    revoked 1
	enrols agrees SIM new-device              suspended 18
	enrols agrees SIM new-device agrees-2     granted
	enrols agrees later                       suspended 19
	enrols agrees later renews-later          suspended 19
	enrols agrees later renews-later agrees-later granted
	enrols later                              none
	enrols agrees withdraws                   revoked 15
	enrols agrees withdraws later             revoked 15
	enrols agrees withdraws agrees            granted
	enrols agrees STOP                        revoked 1
	enrols agrees STOP later                  revoked 1
	enrols agrees STOP agrees                 granted
	enrols STOP                               revoked 1
	enrols erased                             erased 4
	enrols agrees erased                      erased 4
	enrols agrees withdraws erased            erased 4
	enrols agrees STOP erased                 erased 4
	enrols agrees SIM erased                  erased 4
	enrols agrees erased later                erased 4
	enrols agrees erased new-device           offered
	enrols agrees erased new-device agrees-2  granted`

// A walker takes the words of a row one after the other, signing with the next seq.
type walker struct {
	s  State
	at time.Time
}

func (w *walker) step(t *testing.T, word string) {
	t.Helper()
	later := now.AddDate(1, 0, 1)
	agree := func(k int, scopes wire.Scope, changes ...func(*wire.Consent)) move {
		device := phone1
		if k == 2 {
			device = phone2
		}
		return func(s State) (State, bool, error) {
			at := func(r *wire.Consent) {
				r.IssuedAt, r.ExpiresAt = wire.Unix32(w.at), wire.Unix32(w.at.Add(24*time.Hour))
			}
			return s.WithRecord(record(device, s.Seq+1, scopes, append(changes, at)...), w.at)
		}
	}
	again := func(k int, at time.Time) move {
		device := phone1
		if k == 2 {
			device = phone2
		}
		c := wire.Certificate{ID: alice, Device: public(device), IssuedAt: wire.Unix32(at), LifetimeHours: 180 * 24, KID: 1}
		c.Sign(registrar)
		return enrols(c)
	}
	moved := map[string]move{
		"enrols": enrols(cert(phone1, time.Hour)), "renews": again(1, now), "new-device": again(2, now), "new-device-again": again(1, now.Add(time.Second)),
		"renews-later": again(1, later), "agrees": agree(1, messaging), "agrees-2": agree(2, messaging), "agrees-older": agree(1, messaging, older),
		"agrees-later": agree(1, messaging), "agrees-to-presence": agree(1, wire.ScopePresence), "withdraws": agree(1, 0, older),
		"withdraws-2": agree(2, 0), "STOP": isRevoked(revocation(w.s.Seq+1, alice)), "erased": isErased(w.s.Seq + 1), "SIM": changesSIM,
		"later": func(s State) (State, bool, error) { w.at = later; return s, true, nil },
	}
	next, _, err := moved[word](w.s)
	if err != nil {
		t.Fatalf("%s: %v", word, err)
	}
	w.s = next
}

// TestTransitions walks every row under a policy that accepts one notice, and reads back what is stored. Only what is
// granted lets anything through.
func TestTransitions(t *testing.T) {
	seen := map[Phase]bool{}
	for row := range strings.Lines(strings.TrimLeft(transitions, "\n")) {
		words := strings.Fields(row)
		want := words[len(words)-1:]
		if words[len(words)-1][0] <= '9' {
			want = words[len(words)-2:]
		}
		t.Run(strings.Join(words, " "), func(t *testing.T) {
			w := &walker{at: now}
			for _, word := range words[:len(words)-len(want)] {
				w.step(t, word)
				if stored, err := ParseState(w.s.Marshal()); err != nil || string(stored.Marshal()) != string(w.s.Marshal()) || stored.Held != w.s.Held || stored.Erased != w.s.Erased {
					t.Errorf("after %s: stored and read again: %+v, %v", word, stored, err)
				}
			}
			got := strict.Life(w.s, messaging, w.at)
			seen[got.Phase] = true
			if got.Phase.String() != want[0] || len(want) == 2 && atoi(want[1]) != int(got.Reason) || len(want) == 1 && got.Reason != 0 {
				t.Errorf("%v %d, want %v", got.Phase, got.Reason, want)
			}
			if a := strict.Access(w.s, w.at); a.Receive() != (got.Phase == Granted) || got.Phase != Granted && a.Listed {
				t.Errorf("%v: %+v", got.Phase, a)
			}
			if got.Reason != 0 && !got.Reason.Known() {
				t.Errorf("reason %d has no words", got.Reason)
			}
		})
	}
	if len(seen) != int(Erased)+1 || (Erased+1).String() != "invalid" {
		t.Errorf("%d phases seen", len(seen))
	}
}

func atoi(s string) (n int) {
	for _, r := range s {
		n = 10*n + int(r-'0')
	}
	return n
}

// TestEachScopeByItself: what is agreed to for one scope says nothing about another, and a reason is only about
// what was agreed to.
func TestEachScopeByItself(t *testing.T) {
	s := after(t, enrols(cert(phone1, time.Hour)), signs(record(phone1, 1, messaging|gateway, older)))
	for scope, want := range map[wire.Scope]Phase{
		messaging: Granted, gateway: Granted, wire.ScopePresence: Offered, wire.ScopeBackup: Offered, wire.ScopeIntegrations: Offered,
	} {
		if got := (Policy{}).Life(s, scope, now); got.Phase != want {
			t.Errorf("scope %b: %v, want %v", scope, got.Phase, want)
		}
		if got := strict.Life(s, scope, now); want == Granted && got != (Standing{Suspended, wire.NewNotice}) || want == Offered && got.Phase != Offered {
			t.Errorf("scope %b under another notice: %v", scope, got)
		}
	}
	if got := (Policy{}).Scopes(s, now); got != messaging|gateway {
		t.Errorf("scopes %b", got)
	}
	if got := strict.Scopes(s, now); got != 0 {
		t.Errorf("scopes %b while suspended", got)
	}
}

// TestErasedStaysErased: of an erased user 101 bytes are left, and neither the old certificate nor a renewal of it that
// was signed before, nor an old record, comes back. [A-6] [P-7]
func TestErasedStaysErased(t *testing.T) {
	s := after(t, append(consented[:2:2], connects(7), isErased(2))...)
	if n := len(s.Marshal()); n != 101 || s.Seq != 2 || s.Gen != 7 || s.Cert != nil || s.Record != nil {
		t.Errorf("%d bytes are left: %+v", n, s)
	}
	for what, try := range map[string]struct {
		do   move
		want error
	}{
		"the old certificate":          {enrols(cert(phone1, time.Hour)), wire.Revoked},
		"one from before":              {enrols(cert(phone2, 2*time.Hour)), wire.Revoked},
		"somebody else's":              {enrols(wire.Certificate{ID: mallory, IssuedAt: 1 << 31}), wire.BadRecord},
		"the old record":               {signs(record(phone1, 1, messaging)), wire.NotEnrolled},
		"a new record of the old one":  {signs(record(phone1, 3, messaging)), wire.NotEnrolled},
		"another revocation":           {isRevoked(revocation(3, alice)), wire.NotEnrolled},
		"another erasure":              {isErased(3), wire.NotEnrolled},
		"the SIM of a device not here": {changesSIM, wire.NotEnrolled},
	} {
		if next, changed, err := try.do(s); !errors.Is(err, try.want) || changed || string(next.Marshal()) != string(s.Marshal()) {
			t.Errorf("%s: changed %v, %v", what, changed, err)
		}
	}
	anew := after(t, append(consented[:2:2], isErased(2), enrols(cert(phone2, 0)))...)
	for seq, want := range map[uint32]error{1: wire.StaleRecord, 2: wire.StaleRecord, 3: nil} {
		if _, _, err := anew.WithRecord(record(phone2, seq, messaging), now); !errors.Is(err, want) {
			t.Errorf("a record with seq %d after enrolling anew: %v, want %v", seq, err, want)
		}
	}
}

// TestWrongNotice: a record after a text that does not count is refused and changes nothing; so is one before the
// number is proved anew. A withdrawal is taken whatever the text. [A-2] [P-6]
func TestWrongNotice(t *testing.T) {
	s := after(t, consented...)
	for what, try := range map[string]struct {
		s    State
		raw  []byte
		want error
	}{
		"another text":                       {s, record(phone1, 2, messaging, older), wire.WrongNotice},
		"no text":                            {s, record(phone1, 2, messaging, func(r *wire.Consent) { r.Notice = [16]byte{} }), wire.WrongNotice},
		"a withdrawal":                       {s, record(phone1, 2, 0, older), nil},
		"the stored one, of another text":    {after(t, consented[0], signs(record(phone1, 1, messaging, older))), record(phone1, 1, messaging, older), wire.WrongNotice},
		"forged, of another text":            {s, record(phone2, 2, messaging, older), wire.BadRecord},
		"stale, of another text":             {s, record(phone1, 1, messaging, older), wire.StaleRecord},
		"future, of another text":            {s, record(phone1, 2, messaging, older, issued(time.Hour)), wire.WrongNotice},
		"with another SIM":                   {after(t, consented[0], consented[1], changesSIM), record(phone1, 2, messaging), wire.NotEnrolled},
		"the stored one, with another SIM":   {after(t, consented[0], consented[1], changesSIM), record(phone1, 1, messaging), wire.NotEnrolled},
		"a withdrawal with another SIM":      {after(t, consented[0], consented[1], changesSIM), record(phone1, 2, 0), nil},
		"the stored withdrawal, once more":   {after(t, consented[0], consented[1], signs(record(phone1, 2, 0, older))), record(phone1, 2, 0, older), nil},
		"the right text, after another text": {after(t, consented[0], signs(record(phone1, 1, messaging, older))), record(phone1, 2, messaging), nil},
	} {
		before := try.s.Marshal()
		next, changed, err := strict.WithRecord(try.s, try.raw, now)
		if !errors.Is(err, try.want) || err != nil && (changed || string(next.Marshal()) != string(before)) {
			t.Errorf("%s: changed %v, %v; want %v", what, changed, err, try.want)
		}
	}
}

// FuzzLife: whatever is stored, one phase of the closed set, the access follows from it, and a policy takes away and
// never gives.
func FuzzLife(f *testing.F) {
	seedStates(f, func(b []byte) { f.Add(b, now.Unix(), byte(messaging)) })
	for _, last := range []move{changesSIM, isErased(2), enrols(cert(phone2, 0))} {
		s := State{}
		for _, m := range append(consented[:2:2], last) {
			s, _, _ = m(s)
		}
		f.Add(s.Marshal(), now.Unix(), byte(messaging))
	}
	f.Fuzz(func(t *testing.T, b []byte, at int64, scope byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		when, one := time.Unix(at, 0), wire.Scope(scope)
		l := strict.Life(s, one, when)
		if l.Phase.String() == "invalid" || l.Reason != 0 && !l.Reason.Known() || (l.Phase == Suspended || l.Phase == Revoked) != (l.Reason != 0) && l.Phase != Erased {
			t.Errorf("%+v", l)
		}
		if one != 0 && (l.Phase == Granted) != strict.Scopes(s, when).Has(one) {
			t.Errorf("%v of scope %b, scopes %b", l, one, strict.Scopes(s, when))
		}
		if got := strict.Scopes(s, when); got&^(Policy{}).Scopes(s, when) != 0 {
			t.Errorf("a policy gave %b", got)
		}
	})
}
