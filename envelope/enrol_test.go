package envelope

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"bluejay/wire"
)

func registrarSecret(t testing.TB) RegistrarSecret {
	t.Helper()
	r, err := GenerateRegistrarSecret()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEnrolment runs both requests and the sealed answer. [S-14]
func TestEnrolment(t *testing.T) {
	r, device, n := registrarSecret(t), seeded(5), number(t, "+447700900123")
	body, nonce, err := SealEnrol(r.Public(), n, device)
	if err != nil {
		t.Fatal(err)
	}
	q, err := r.OpenEnrol(body)
	if err != nil || q != (EnrolRequest{n, publicOf(device), nonce}) {
		t.Fatalf("opened another request; %v", err)
	}
	body, mine, err := SealConfirm(r.Public(), "012345", q.Device, nonce)
	if err != nil {
		t.Fatal(err)
	}
	c, theirs, err := r.OpenConfirm(body)
	if err != nil || c != (Confirm{"012345", q.Device, nonce}) {
		t.Fatalf("opened another confirmation; %v", err)
	}
	answer := []byte("certificate")
	first, second := theirs.Seal(answer), theirs.Seal(answer)
	if bytes.Equal(first, second) {
		t.Error("two answers under one nonce")
	}
	for _, sealed := range [][]byte{first, second, mine.Seal(answer)} {
		if got, err := mine.Open(sealed); err != nil || !bytes.Equal(got, answer) {
			t.Errorf("the answer does not open: %v", err)
		}
	}
	if got, err := mine.Open(theirs.Seal(nil)); err != nil || len(got) != 0 {
		t.Errorf("an empty answer: %v", err)
	}
	for _, bad := range [][]byte{nil, first[:27], flipped(first, 0), flipped(first, 8*len(first)-1)} {
		if _, err := mine.Open(bad); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if _, other, err := SealConfirm(r.Public(), "012345", q.Device, nonce); err != nil {
		t.Error(err)
	} else if _, err := other.Open(first); !errors.Is(err, ErrUnreadable) {
		t.Errorf("another request's key: %v", err)
	}
}

// TestEnrolRefuses: every field is bound; a broker that swaps one gets nothing. [S-14]
func TestEnrolRefuses(t *testing.T) {
	r, device, n := registrarSecret(t), seeded(5), number(t, "+447700900123")
	body, nonce, err := SealEnrol(r.Public(), n, device)
	if err != nil {
		t.Fatal(err)
	}
	confirm, _, err := SealConfirm(r.Public(), "012345", publicOf(device), nonce)
	if err != nil {
		t.Fatal(err)
	}
	for bit := 0; bit < 8*len(body); bit += 97 {
		if _, err := r.OpenEnrol(flipped(body, bit)); err == nil {
			t.Fatalf("enrolment with bit %d flipped opens", bit)
		}
	}
	for bit := 0; bit < 8*len(confirm); bit += 97 {
		if _, _, err := r.OpenConfirm(flipped(confirm, bit)); err == nil {
			t.Fatalf("confirmation with bit %d flipped opens", bit)
		}
	}
	resigned := append(bytes.Clone(body[:enrolLen-64]), ed25519.Sign(seeded(6), enrolSigned(body[:enrolLen-64]))...)
	if _, err := r.OpenEnrol(resigned); !errors.Is(err, wire.ErrSignature) {
		t.Errorf("signed by another device: %v", err)
	}
	for _, other := range []RegistrarSecret{registrarSecret(t), {}} {
		if _, err := other.OpenEnrol(body); !errors.Is(err, ErrUnreadable) {
			t.Errorf("another registrar: %v", err)
		}
		if _, _, err := other.OpenConfirm(confirm); !errors.Is(err, ErrUnreadable) {
			t.Errorf("another registrar: %v", err)
		}
	}
	if _, _, err := r.OpenConfirm(body); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("an enrolment as a confirmation: %v", err)
	}
	if _, err := r.OpenEnrol(body[:len(body)-1]); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a short enrolment: %v", err)
	}
}

func TestSealEnrolRefuses(t *testing.T) {
	r, n := registrarSecret(t), number(t, "+447700900123")
	if _, _, err := SealEnrol(r.Public(), wire.Number{}, seeded(5)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no number: %v", err)
	}
	if _, _, err := SealEnrol(r.Public(), n, nil); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no device: %v", err)
	}
	if _, _, err := SealEnrol(nil, n, seeded(5)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no registrar: %v", err)
	}
	for _, otp := range []string{"", "12345", "1234567", "12345x", "１２"} {
		if _, _, err := SealConfirm(r.Public(), otp, wire.PublicKey{}, [16]byte{}); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("a password of %d bytes: %v", len(otp), err)
		}
	}
}

// TestSealedSender is the broker's word on who published a job. [S-14]
func TestSealedSender(t *testing.T) {
	r, id, m := registrarSecret(t), wire.ID{1, 2, 3}, wire.MessageIDOf([]byte("job"))
	b, err := SealSender(r.Public(), id, m)
	if err != nil {
		t.Fatal(err)
	}
	gotID, gotM, err := r.OpenSender(b)
	if err != nil || gotID != id || gotM != m || len(b) != 1164 {
		t.Errorf("%v %v, %d bytes, %v", gotID, gotM, len(b), err)
	}
	for bit := 0; bit < 8*len(b); bit += 97 {
		if _, _, err := r.OpenSender(flipped(b, bit)); err == nil {
			t.Fatalf("bit %d flipped: opens", bit)
		}
	}
	if _, _, err := r.OpenSender(b[1:]); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("short: %v", err)
	}
}

// TestRegistrarSecretStored: the secret survives its store. [S-14]
func TestRegistrarSecretStored(t *testing.T) {
	r := registrarSecret(t)
	stored, err := ParseRegistrarSecret(r.Marshal())
	if err != nil || !bytes.Equal(stored.Public(), r.Public()) || len(r.Public()) != wire.XWingPublicLen {
		t.Errorf("the stored secret differs: %v", err)
	}
	if (RegistrarSecret{}).Public() != nil {
		t.Error("the zero secret has a public key")
	}
	for _, bad := range [][]byte{nil, r.Marshal()[1:], append([]byte{9}, r.Marshal()[1:]...), append(r.Marshal(), 0)} {
		if _, err := ParseRegistrarSecret(bad); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func FuzzRegistrar(f *testing.F) {
	r, device := registrarSecret(f), seeded(5)
	enrol, nonce, err := SealEnrol(r.Public(), number(f, "+447700900123"), device)
	if err != nil {
		f.Fatal(err)
	}
	confirm, key, err := SealConfirm(r.Public(), "012345", publicOf(device), nonce)
	if err != nil {
		f.Fatal(err)
	}
	sender, err := SealSender(r.Public(), wire.ID{1}, wire.MessageID{2})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{enrol, confirm, sender, key.Seal([]byte("x")), r.Marshal()} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err1 := r.OpenEnrol(b)
		_, _, err2 := r.OpenConfirm(b)
		_, _, err3 := r.OpenSender(b)
		if err1 == nil && !bytes.Equal(b, enrol) || err2 == nil && !bytes.Equal(b, confirm) || err3 == nil && !bytes.Equal(b, sender) {
			t.Error("something nobody sealed opens")
		}
		_, _ = key.Open(b)
		if s, err := ParseRegistrarSecret(b); err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Error("a secret marshals differently from what it was read from")
		}
	})
}
