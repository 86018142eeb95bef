package consent

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	server := keyOf(77) // a server that makes a device of its own, and signs all it can
	made := wire.Certificate{ID: alice, Device: public(server), IssuedAt: good.IssuedAt, LifetimeHours: good.LifetimeHours, KID: 1}
	made.Sign(broker)
	future := record(phone1, 3, messaging, func(c *wire.Consent) { c.IssuedAt += 61 })
	late := record(phone1, 3, messaging, func(c *wire.Consent) { c.ExpiresAt = wire.Unix32(now) - 1 })
	long := record(phone1, 3, messaging, func(c *wire.Consent) { c.ExpiresAt = c.IssuedAt + 401*24*3600 })
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
		{"a device of the broker's making", proof(made, record(server, 3, messaging), now), wire.ErrSignature},
		{"a record that the broker signed", proof(good, record(broker, 3, messaging), now), wire.ErrSignature},
		{"a receipt from before its record", proof(good, future, now), wire.ErrExpired},
		{"a receipt for a record that was over", proof(good, late, now), wire.ErrExpired},
		{"a record for too long", proof(good, long, now), wire.ErrExpired},
		{"a seq that only a revocation has", proof(good, record(phone1, math.MaxUint32, messaging), now), wire.ErrExpired},
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

// TestParseProofs reads a receipt in each form that a user may have it in, and refuses what is none. [P-8] [U-10]
func TestParseProofs(t *testing.T) {
	whole := proof(cert(phone1, time.Hour), record(phone1, 3, messaging), now)
	second := proof(cert(phone1, time.Hour), record(phone1, 4, 0), now)
	text := b64.EncodeToString(whole)
	e := entryOf(7)
	export := fmt.Sprintf(`{"number":"+447700900001","texts":[{"text":"{"}],"consent_proofs":[%q,%q],"consent_log_entries":["",%q]}`,
		text, b64.EncodeToString(second), e.encode())
	for name, tt := range map[string]struct {
		b    string
		want []ProofFile
	}{
		"291 bytes":             {string(whole), []ProofFile{{Proof: whole}}},
		"base64url":             {" " + text + "\n", []ProofFile{{Proof: whole}}},
		"a file":                {string(ProofFile{Proof: whole, Entry: e}.Marshal()), []ProofFile{{whole, e}}},
		"a file without entry":  {string(ProofFile{Proof: whole}.Marshal()), []ProofFile{{Proof: whole}}},
		"a handset's export":    {export, []ProofFile{{Proof: whole}, {second, e}}},
		"one byte short":        {string(whole[:290]), nil},
		"one byte long":         {string(whole) + "\n", nil},
		"another record":        {"\x21" + string(whole[1:]), nil},
		"text, short":           {text[:387], nil},
		"text, padded":          {text + "=", nil},
		"text, no base64url":    {text[:387] + "+", nil},
		"nothing":               {"", nil},
		"an empty object":       {"{}", nil},
		"another version":       {`{"bluejay_receipt":2,"proof":"` + text + `"}`, nil},
		"half an entry":         {`{"bluejay_receipt":1,"proof":"` + text + `","log_entry":"AAAA"}`, nil},
		"an export without one": {`{"consent_proofs":[]}`, nil},
		"not JSON":              {`{"bluejay_receipt":1,`, nil},
		"another type":          {`{"bluejay_receipt":1,"proof":7}`, nil},
	} {
		got, err := ParseProofs([]byte(tt.b))
		if tt.want == nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
		if tt.want != nil && (err != nil || cmp.Diff(tt.want, got) != "") {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(tt.want, got))
		}
	}
}

// FuzzParseProofs: whatever is read has the shape of proofs, and is written and read again the same.
func FuzzParseProofs(f *testing.F) {
	whole := proof(cert(phone1, time.Hour), record(phone1, 3, messaging), now)
	f.Add(whole)
	f.Add([]byte(b64.EncodeToString(whole)))
	f.Add(ProofFile{Proof: whole, Entry: entryOf(3)}.Marshal())
	f.Add([]byte(`{"consent_proofs":["` + b64.EncodeToString(whole) + `"],"consent_log_entries":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := ParseProofs(b)
		if err != nil {
			return
		}
		for _, p := range all {
			again, err := ParseProofs(p.Marshal())
			if len(p.Proof) != ProofLen || err != nil || len(again) != 1 || cmp.Diff(p, again[0]) != "" {
				t.Errorf("%q reads as %+v, again %+v, %v", b, p, again, err)
			}
		}
	})
}
