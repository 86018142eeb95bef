package consent

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// released is a record after a text of the list, as a handset signs it two minutes after its enrolment.
func released(c *wire.Consent) {
	c.Notice, c.ExpiresAt = notices[0].Hash, c.IssuedAt+180*86400
}

// packs are states that every release must read: the ordinary one, one whose text nobody knows, one that
// was revoked, one that is only enrolled.
func packs(t testing.TB) map[string]State {
	t.Helper()
	signed := func(change func(*wire.Consent)) State {
		raw := record(phone1, 1, messaging, change)
		s := after(t, enrols(cert(phone1, 2*time.Minute)), signs(raw))
		return s.WithReceipt(wire.NewReceipt(broker, raw, now.Add(time.Second)))
	}
	ordinary := signed(released)
	off, err := ordinary.WithRevocation(revocation(2, alice))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]State{
		"ordinary": ordinary, "off": off, "enrolled": after(t, enrols(cert(phone1, 0))),
		"logged":       ordinary.WithEntry(EventRecord, Entry{Index: 99_999, Salt: [16]byte{1, 2, 3}}),
		"another text": signed(func(c *wire.Consent) { released(c); c.Notice = wire.NoticeHash("another") }),
	}
}

// TestFrozenPacks: the stored form of each, byte for byte, and within what is said of its size. What
// comes back verifies offline. [H-9] [P-8]
func TestFrozenPacks(t *testing.T) {
	const file = "testdata/packs.txt"
	var got strings.Builder
	for _, name := range []string{"ordinary", "off", "enrolled", "logged", "another text"} {
		s := packs(t)[name]
		b := s.Pack(alice)
		got.WriteString(name + ": " + hex.EncodeToString(b) + "\n")
		again, err := Unpack(alice, b)
		if diff := cmp.Diff(s, again); diff != "" || err != nil || b[0] != packedVersion {
			t.Errorf("%s: %v (-was +is):\n%s", name, err, diff)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got.String() != string(want) {
		t.Errorf("error %v; stored forms\n%swant\n%s", err, got.String(), want)
	}
	s := packs(t)["ordinary"]
	if n := len(s.Pack(alice)); n > 242 {
		t.Errorf("%d bytes", n)
	}
	proof := append(append(s.Cert.Marshal(), s.Record.Marshal()...), s.Receipt.Marshal()...)
	if _, err := VerifyProof(proof, public(registrar), []wire.PublicKey{public(broker)}); err != nil {
		t.Errorf("offline: %v [P-8]", err)
	}
}

// TestPackReadsOlderForms: what earlier versions stored is read as it was. [H-9]
func TestPackReadsOlderForms(t *testing.T) {
	for name, s := range packs(t) {
		if again, err := Unpack(alice, s.Marshal()); err != nil || !cmp.Equal(s, again) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := Unpack(alice, nil); err != nil || !cmp.Equal(s, State{}) {
		t.Errorf("nothing: %+v, %v", s, err)
	}
}

// TestPackLosesNothing: a state that the short form cannot say is stored in the long one. [H-9]
func TestPackLosesNothing(t *testing.T) {
	s := packs(t)["off"]
	for name, change := range map[string]func(*State){
		"another's certificate": func(s *State) { c := *s.Cert; c.ID = mallory; s.Cert = &c },
		"another's record":      func(s *State) { r := *s.Record; r.ID = mallory; s.Record = &r },
		"another's revocation":  func(s *State) { o := *s.Off; o.ID = mallory; s.Off = &o },
		"expires before it is issued": func(s *State) {
			r := *s.Record
			r.IssuedAt, r.ExpiresAt = math.MaxUint32, 0
			s.Record = &r
		},
		"a record of a later seq": func(s *State) { s.Seq = 0 },
		"no certificate":          func(s *State) { s.Cert = nil },
		"the last of everything":  func(s *State) { s.Gen, s.Seq, s.Receipt.ReceivedAt = math.MaxUint32, math.MaxUint32, 0 },
	} {
		changed := s
		change(&changed)
		again, err := Unpack(alice, changed.Pack(alice))
		if err != nil || !bytes.Equal(again.Marshal(), changed.Marshal()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEveryLifePacks: whatever a state has been through, it comes back, and is never larger than before.
func TestEveryLifePacks(t *testing.T) {
	for _, life := range lives {
		var s State
		for _, m := range life.moves {
			s, _, _ = m(s)
			b := s.Pack(alice)
			if again, err := Unpack(alice, b); err != nil || !bytes.Equal(again.Marshal(), s.Marshal()) || len(b) > len(s.Marshal()) {
				t.Errorf("%s: %d bytes, %v", life.name, len(b), err)
			}
		}
	}
}

// FuzzUnpack: what is read is what would be written, and no byte too many is taken.
func FuzzUnpack(f *testing.F) {
	seedStates(f, func(b []byte) { f.Add(b) })
	for _, s := range packs(f) {
		f.Add(s.Pack(alice))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Unpack(alice, b)
		if err == nil && len(b) != 0 && b[0] == packedVersion && !bytes.Equal(s.pack(), b) {
			t.Errorf("read %x, would write %x", b, s.pack())
		}
		if err == nil {
			if again, err := Unpack(alice, s.Pack(alice)); err != nil || !bytes.Equal(again.Marshal(), s.Marshal()) {
				t.Errorf("%x: %v", b, err)
			}
		}
	})
}
