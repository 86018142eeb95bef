package envelope

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"

	"golang.org/x/crypto/chacha20poly1305"

	"bluejay/wire"
)

const (
	xwingEncLen = 1120
	x25519Len   = 32
	tagLen      = chacha20poly1305.Overhead
)

// xwing is the KEM between handsets and to the registrar, dhkem the one to the SMS worker. [S-2] [S-13]
func xwing() hpke.KEM { return hpke.MLKEM768X25519() }
func dhkem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// newSender sets up HPKE base mode (RFC 9180 section 5.1.1) to a serialised public key.
func newSender(kem hpke.KEM, public, info []byte) (enc []byte, s *hpke.Sender, err error) {
	pk, err := kem.NewPublicKey(public)
	if err != nil {
		return nil, nil, wire.ErrMalformed
	}
	enc, s, err = hpke.NewSender(pk, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info)
	if err != nil {
		return nil, nil, wire.ErrMalformed // a public key nothing can be sealed to
	}
	return enc, s, nil
}

func newRecipient(enc []byte, k hpke.PrivateKey, info []byte) (*hpke.Recipient, error) {
	if k == nil {
		return nil, ErrUnreadable
	}
	r, err := hpke.NewRecipient(enc, k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info)
	if err != nil {
		return nil, ErrUnreadable
	}
	return r, nil
}

// sealTo appends enc and ciphertext of a single-shot HPKE message to head, which it binds through
// info = lp(label, head). The sender is returned for its exporter.
func sealTo(kem hpke.KEM, public []byte, label string, head, plain []byte) ([]byte, *hpke.Sender, error) {
	enc, s, err := newSender(kem, public, wire.LP(label, head))
	if err != nil {
		return nil, nil, err
	}
	ct, err := s.Seal(nil, plain)
	if err != nil {
		return nil, nil, err
	}
	return append(append(head, enc...), ct...), s, nil
}

// openFrom is the inverse of sealTo, for a head of n bytes.
func openFrom(k hpke.PrivateKey, encLen int, label string, n int, b []byte) ([]byte, *hpke.Recipient, error) {
	if len(b) < n+encLen {
		return nil, nil, wire.ErrMalformed
	}
	r, err := newRecipient(b[n:n+encLen], k, wire.LP(label, b[:n]))
	if err != nil {
		return nil, nil, err
	}
	plain, err := r.Open(nil, b[n+encLen:])
	if err != nil {
		return nil, nil, ErrUnreadable
	}
	return plain, r, nil
}

// aeadSeal appends the ciphertext under a key that is used once, hence nonce 0. [S-5]
func aeadSeal(key *[32]byte, head, plain []byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, err
	}
	var nonce [chacha20poly1305.NonceSize]byte
	out := make([]byte, len(head), len(head)+len(plain)+tagLen)
	copy(out, head)
	return a.Seal(out, nonce[:], plain, head), nil
}

func aeadOpen(key *[32]byte, head, ciphertext []byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, err
	}
	var nonce [chacha20poly1305.NonceSize]byte
	plain, err := a.Open(nil, nonce[:], ciphertext, head)
	if err != nil {
		return nil, ErrUnreadable
	}
	return plain, nil
}

func extract(salt, ikm []byte) ([32]byte, error) {
	prk, err := hkdf.Extract(sha256.New, ikm, salt)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(prk), nil
}

// agree is X25519; a public key of low order is refused.
func agree(private, public *[32]byte) ([]byte, error) {
	sk, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return nil, err
	}
	pk, err := ecdh.X25519().NewPublicKey(public[:])
	if err != nil {
		return nil, ErrUnreadable
	}
	shared, err := sk.ECDH(pk)
	if err != nil {
		return nil, ErrUnreadable
	}
	return shared, nil
}
