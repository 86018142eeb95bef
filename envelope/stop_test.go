package envelope

import (
	"bytes"
	"errors"
	"testing"

	"bluejay/wire"
)

// TestSealedNumber: only the registrar reads who said STOP, and every bit counts. [S-16]
func TestSealedNumber(t *testing.T) {
	r, n := registrarSecret(t), number(t, "+447700900123")
	b, err := SealNumber(r.Public(), n)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.OpenNumber(b); err != nil || got != n || len(b) != 1144 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	again, err := SealNumber(r.Public(), n)
	if err != nil || bytes.Equal(again, b) {
		t.Errorf("the same number looks the same twice: %v", err)
	}
	if bcd := n.BCD(); bytes.Contains(b, bcd[:6]) {
		t.Error("the number stands in it")
	}
	for bit := 0; bit < 8*len(b); bit += 97 {
		if _, err := r.OpenNumber(flipped(b, bit)); err == nil {
			t.Fatalf("bit %d flipped: opens", bit)
		}
	}
	for what, bad := range map[string][]byte{"short": b[1:], "long": append(bytes.Clone(b), 0), "nothing": nil} {
		if _, err := r.OpenNumber(bad); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, other := range []RegistrarSecret{registrarSecret(t), {}} {
		if _, err := other.OpenNumber(b); !errors.Is(err, ErrUnreadable) {
			t.Errorf("another registrar: %v", err)
		}
	}
	sender, err := SealSender(r.Public(), wire.ID{1}, wire.MessageID{2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.OpenNumber(sender); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a sealed sender: %v", err)
	}
	if _, err := SealNumber(r.Public(), wire.Number{}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no number: %v", err)
	}
	if _, err := SealNumber(nil, n); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no registrar: %v", err)
	}
}

// FuzzOpenNumber: whatever comes, nothing opens that was not sealed, and nothing panics. [S-16]
func FuzzOpenNumber(f *testing.F) {
	r, err := GenerateRegistrarSecret()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(make([]byte, stopLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.OpenNumber(b); err == nil {
			t.Error("it opens")
		}
	})
}
