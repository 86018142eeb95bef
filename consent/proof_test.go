package consent

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"bluejay/wire"
)

// proof is alice's consent as bytes. [P-8]
func proof(c wire.Certificate, raw []byte, at time.Time) []byte {
	b := append(c.Marshal(), raw...)
	return append(b, wire.NewReceipt(broker, raw, at).Marshal()...)
}

var theBroker = []wire.PublicKey{public(keyOf(9)), public(broker)}

func TestVerifyProof(t *testing.T) {
	raw := record(phone1, 3, messaging)
	p, err := VerifyProof(proof(cert(phone1, time.Hour), raw, now), public(registrar), theBroker)
	if err != nil {
		t.Fatal(err)
	}
	if p.Record.ID != alice || p.Record.Seq != 3 || p.Record.Scopes != messaging || !p.ReceivedAt.Equal(now) {
		t.Errorf("proof of %+v", p)
	}
}

// TestEveryBitOfAProof flips each of the 2,328 bits in turn: none can be changed unnoticed. [P-8]
func TestEveryBitOfAProof(t *testing.T) {
	whole := proof(cert(phone1, time.Hour), record(phone1, 3, messaging), now)
	if len(whole) != 291 {
		t.Fatalf("a proof has %d bytes, want 291", len(whole))
	}
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := VerifyProof(b, public(registrar), theBroker); err == nil {
			t.Errorf("bit %d of byte %d can be flipped", bit%8, bit/8)
		}
	}
}

func TestVerifyProofRefuses(t *testing.T) {
	good, raw := cert(phone1, time.Hour), record(phone1, 3, messaging)
	other := good
	other.ID = mallory
	other.Sign(registrar)
	self := good
	self.Sign(phone1)
	mixed := append(proof(good, raw, now)[:223:223], proof(good, record(phone1, 4, messaging), now)[223:]...)
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"one byte less", proof(good, raw, now)[:290], wire.ErrMalformed},
		{"nothing", nil, wire.ErrMalformed},
		{"a certificate of the device's own making", proof(self, raw, now), wire.ErrSignature},
		{"the certificate of another ID", proof(other, raw, now), wire.ErrSignature},
		{"the record of another device", proof(good, record(phone2, 3, messaging), now), wire.ErrSignature},
		{"the receipt of another record", mixed, wire.ErrSignature},
		{"received after the certificate's end", proof(good, raw, now.AddDate(1, 0, 0)), wire.ErrExpired},
		{"received before the certificate", proof(good, raw, now.AddDate(0, 0, -1)), wire.ErrExpired},
	} {
		if _, err := VerifyProof(c.b, public(registrar), theBroker); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := VerifyProof(proof(good, raw, now), public(registrar), theBroker[:1]); !errors.Is(err, wire.ErrSignature) {
		t.Errorf("the receipt of an unknown broker: %v", err)
	}
}

// FuzzVerifyProof shows that no input panics and that only the real one passes.
func FuzzVerifyProof(f *testing.F) {
	whole := proof(cert(phone1, time.Hour), record(phone1, 3, messaging), now)
	f.Add(whole)
	f.Add(whole[:290])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := VerifyProof(b, public(registrar), theBroker); err == nil && !bytes.Equal(b, whole) {
			t.Errorf("accepted %x", b)
		}
	})
}
