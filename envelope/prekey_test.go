package envelope

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"bluejay/wire"
)

// TestPrekeyStored: a prekey survives the store and opens what was sealed to it. [S-3]
func TestPrekeyStored(t *testing.T) {
	a, b := alice(t), bob(t)
	p := prekeyOf(t, b, 65535)
	if err := p.Bundle().Verify(b.Registrar, start); err != nil {
		t.Fatalf("its bundle: %v", err)
	}
	stored, err := ParsePrekey(p.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored.Marshal(), p.Marshal()) || stored.ID() != 65535 || !stored.EraseAfter().Equal(start.Add(9*24*time.Hour)) {
		t.Error("the stored prekey differs")
	}
	_, init, err := Initiate(a, tagA, ridA, p.Bundle(), TextFrame(greeting), start)
	if err != nil {
		t.Fatal(err)
	}
	if offer, err := OpenInit(b, stored, init, start); err != nil || offer.Frame.Text != greeting {
		t.Errorf("opened with the stored prekey: %v", err)
	}
}

func TestBundleIsACopy(t *testing.T) {
	p := prekeyOf(t, bob(t), 1)
	p.Bundle().PrekeyID = 9
	if p.ID() != 1 || p.Bundle().PrekeyID != 1 {
		t.Error("a caller changed the prekey through its bundle")
	}
}

func TestParsePrekeyRefuses(t *testing.T) {
	good := prekeyOf(t, bob(t), 1).Marshal()
	change := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	cases := map[string][]byte{
		"empty": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
		"version": change(0), "another seed": change(1), "another public key": change(200),
		"suite": change(1 + prekeySeedLen + wire.CertificateLen), "certificate": change(1 + prekeySeedLen),
	}
	for name, b := range cases {
		if _, err := ParsePrekey(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

func FuzzParsePrekey(f *testing.F) {
	f.Add(prekeyOf(f, bob(f), 1).Marshal())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParsePrekey(b); err == nil && !bytes.Equal(p.Marshal(), b) {
			t.Error("a prekey marshals differently from what it was read from")
		}
	})
}
