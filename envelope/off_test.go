package envelope

import (
	"bytes"
	"errors"
	"testing"

	"bluejay/wire"
)

// TestOff: only the registrar reads which number is to be switched off, every bit counts, and neither half
// passes for the other or for an enrolment.
func TestOff(t *testing.T) {
	r, n := registrarSecret(t), number(t, "+447700900123")
	ask, nonce, err1 := SealOff(r.Public(), n)
	confirm, err2 := SealOffConfirm(r.Public(), "012345", nonce)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	q, err := r.OpenOff(ask)
	if err != nil || q.Number != n || q.Nonce != nonce || len(ask) != 1161 {
		t.Errorf("%d bytes, %v", len(ask), err)
	}
	c, err := r.OpenOffConfirm(confirm)
	if err != nil || c.OTP != "012345" || c.Nonce != nonce || len(confirm) != 1159 {
		t.Errorf("%d bytes, %v", len(confirm), err)
	}
	for bit := 0; bit < 8*len(confirm); bit += 97 {
		_, err1 := r.OpenOff(flipped(ask, bit))
		_, err2 := r.OpenOffConfirm(flipped(confirm, bit))
		if err1 == nil || err2 == nil {
			t.Fatalf("bit %d flipped: opens", bit)
		}
	}
	for what, bad := range map[string][]byte{"short": ask[1:], "long": append(bytes.Clone(ask), 0), "nothing": nil, "the other half": confirm} {
		if _, err := r.OpenOff(bad); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.OpenOffConfirm(ask); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("the other half: %v", err)
	}
	if _, err := registrarSecret(t).OpenOff(ask); !errors.Is(err, ErrUnreadable) {
		t.Errorf("another registrar: %v", err)
	}
	if _, _, err := SealOff(r.Public(), wire.Number{}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no number: %v", err)
	}
	for _, otp := range []string{"", "12345", "1234567", "12345x"} {
		if _, err := SealOffConfirm(r.Public(), otp, nonce); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("a password of %d bytes: %v", len(otp), err)
		}
	}
}

// FuzzOff: whatever comes, nothing opens that was not sealed, and nothing panics.
func FuzzOff(f *testing.F) {
	r := registrarSecret(f)
	ask, nonce, err1 := SealOff(r.Public(), number(f, "+447700900123"))
	confirm, err2 := SealOffConfirm(r.Public(), "012345", nonce)
	if err := errors.Join(err1, err2); err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{nil, ask, confirm} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err1 := r.OpenOff(b)
		_, err2 := r.OpenOffConfirm(b)
		if err1 == nil && !bytes.Equal(b, ask) || err2 == nil && !bytes.Equal(b, confirm) {
			t.Error("something nobody sealed opens")
		}
	})
}
