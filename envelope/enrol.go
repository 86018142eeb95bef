package envelope

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"bluejay/wire"
)

// Shapes, sealed to the registrar with X-Wing [S-14]:
//
//	enrol    0x61 | enc 1120 | HPKE(number BCD 8 | device 32 | nonce 16) | sig 64
//	confirm  0x62 | enc 1120 | HPKE(password 6 | device 32 | nonce 16)
//	sender          enc 1120 | HPKE(ID 12 | message id 16)
const (
	nonceLen   = 16
	otpLen     = 6
	enrolPlain = 8 + 32 + nonceLen
	enrolLen   = 1 + xwingEncLen + enrolPlain + tagLen + ed25519.SignatureSize
	confirmLen = 1 + xwingEncLen + otpLen + 32 + nonceLen + tagLen
	senderLen  = xwingEncLen + 12 + 16 + tagLen

	registrarVersion = 1
)

func badShape(what string) error { return fmt.Errorf("%w: not %s", wire.ErrMalformed, what) }

// RegistrarSecret opens what handsets seal to the registrar. It never prints. [S-14]
type RegistrarSecret struct {
	hidden
	key  hpke.PrivateKey
	seed [32]byte
}

// GenerateRegistrarSecret makes a new secret.
func GenerateRegistrarSecret() (RegistrarSecret, error) {
	k, err := xwing().GenerateKey()
	if err != nil {
		return RegistrarSecret{}, err
	}
	seed, err := k.Bytes()
	if err != nil {
		return RegistrarSecret{}, err
	}
	return RegistrarSecret{key: k, seed: [32]byte(seed)}, nil
}

// Marshal returns 33 secret bytes: version 1 | seed 32.
func (r RegistrarSecret) Marshal() []byte { return append([]byte{registrarVersion}, r.seed[:]...) }

// ParseRegistrarSecret reads what [RegistrarSecret.Marshal] wrote.
func ParseRegistrarSecret(b []byte) (RegistrarSecret, error) {
	if len(b) != 33 || b[0] != registrarVersion {
		return RegistrarSecret{}, badShape("a registrar secret")
	}
	k, err := xwing().NewPrivateKey(b[1:])
	if err != nil {
		return RegistrarSecret{}, badShape("a registrar secret")
	}
	return RegistrarSecret{key: k, seed: [32]byte(b[1:])}, nil
}

// Public is the key handsets pin, 1,216 bytes; nil for the zero value.
func (r RegistrarSecret) Public() []byte {
	if r.key == nil {
		return nil
	}
	return r.key.PublicKey().Bytes()
}

// EnrolRequest is request 1 of an enrolment, opened. The device's signature has been checked: whoever
// wrote the request holds that key. Nothing is proved about Number yet. It prints as "[sealed]".
type EnrolRequest struct {
	Number wire.Number
	Device wire.PublicKey
	Nonce  [nonceLen]byte
}

func enrolSigned(b []byte) []byte { return wire.LP("bj1 enrol sig", b) }

// SealEnrol makes request 1: a number to prove, and the device key to certify, which signs it. Keep
// nonce for [SealConfirm]. [S-14]
func SealEnrol(registrar []byte, n wire.Number, device ed25519.PrivateKey) (body []byte, nonce [nonceLen]byte, err error) {
	if len(device) != ed25519.PrivateKeySize || n.IsZero() {
		return nil, nonce, badShape("an enrolment")
	}
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, nonce, err
	}
	bcd := n.BCD()
	plain := append(append(bcd[:], device[32:]...), nonce[:]...)
	body, _, err = sealTo(xwing(), registrar, "bj1 enrol", []byte{byte(wire.CtlEnrol)}, plain)
	if err != nil {
		return nil, nonce, err
	}
	return append(body, ed25519.Sign(device, enrolSigned(body))...), nonce, nil
}

// OpenEnrol reads request 1. Errors: [wire.ErrMalformed], [ErrUnreadable], [wire.ErrSignature]. [S-14]
func (r RegistrarSecret) OpenEnrol(body []byte) (EnrolRequest, error) {
	if len(body) != enrolLen || wire.ControlKind(body[0]) != wire.CtlEnrol {
		return EnrolRequest{}, badShape("an enrolment")
	}
	signed, sig := body[:enrolLen-ed25519.SignatureSize], body[enrolLen-ed25519.SignatureSize:]
	plain, _, err := openFrom(r.key, xwingEncLen, "bj1 enrol", 1, signed)
	if err != nil {
		return EnrolRequest{}, err
	}
	n, err := wire.NumberFromBCD([8]byte(plain))
	if err != nil {
		return EnrolRequest{}, err
	}
	q := EnrolRequest{Number: n, Device: wire.PublicKey(plain[8:]), Nonce: [nonceLen]byte(plain[40:])}
	if !ed25519.Verify(q.Device[:], enrolSigned(signed), sig) {
		return EnrolRequest{}, wire.ErrSignature
	}
	return q, nil
}

// Confirm is request 2 of an enrolment, opened: the one-time password, tied to a device and to the
// nonce of request 1. It prints as "[sealed]".
type Confirm struct {
	OTP    string // six digits
	Device wire.PublicKey
	Nonce  [nonceLen]byte
}

// AnswerKey seals the registrar's answers to one confirmation. It never prints. [S-14]
type AnswerKey struct {
	hidden
	key [32]byte
}

func answerKey(e exporter) (AnswerKey, error) {
	k, err := e.Export("bj1 answer", 32)
	if err != nil {
		return AnswerKey{}, err
	}
	return AnswerKey{key: [32]byte(k)}, nil
}

func checkOTP(otp string) bool {
	for i := range len(otp) {
		if otp[i] < '0' || otp[i] > '9' {
			return false
		}
	}
	return len(otp) == otpLen
}

// SealConfirm makes request 2. The answer to it opens with key. [S-14]
func SealConfirm(registrar []byte, otp string, device wire.PublicKey, nonce [nonceLen]byte) (body []byte, key AnswerKey, err error) {
	if !checkOTP(otp) {
		return nil, key, badShape("a one-time password")
	}
	plain := append(append([]byte(otp), device[:]...), nonce[:]...)
	body, s, err := sealTo(xwing(), registrar, "bj1 confirm", []byte{byte(wire.CtlConfirm)}, plain)
	if err != nil {
		return nil, key, err
	}
	key, err = answerKey(s)
	return body, key, err
}

// OpenConfirm reads request 2 and gives the key its answer is sealed with. Errors:
// [wire.ErrMalformed], [ErrUnreadable]. [S-14]
func (r RegistrarSecret) OpenConfirm(body []byte) (Confirm, AnswerKey, error) {
	if len(body) != confirmLen || wire.ControlKind(body[0]) != wire.CtlConfirm {
		return Confirm{}, AnswerKey{}, badShape("a confirmation")
	}
	plain, recipient, err := openFrom(r.key, xwingEncLen, "bj1 confirm", 1, body)
	if err != nil {
		return Confirm{}, AnswerKey{}, err
	}
	c := Confirm{OTP: string(plain[:otpLen]), Device: wire.PublicKey(plain[otpLen:]), Nonce: [nonceLen]byte(plain[otpLen+32:])}
	if !checkOTP(c.OTP) {
		return Confirm{}, AnswerKey{}, badShape("a one-time password")
	}
	key, err := answerKey(recipient)
	return c, key, err
}

// Seal returns nonce 12 | ciphertext, 28 bytes more than b. The nonce is random, because a repeated
// request may be answered twice. [S-14]
func (k AnswerKey) Seal(b []byte) []byte {
	a, _ := chacha20poly1305.New(k.key[:]) // fails for another key length only
	nonce := make([]byte, chacha20poly1305.NonceSize, chacha20poly1305.NonceSize+len(b)+tagLen)
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return a.Seal(nonce, nonce, b, nil)
}

// Open is the inverse of Seal; its only error is [ErrUnreadable].
func (k AnswerKey) Open(b []byte) ([]byte, error) {
	a, err := chacha20poly1305.New(k.key[:])
	if err != nil || len(b) < chacha20poly1305.NonceSize+tagLen {
		return nil, ErrUnreadable
	}
	plain, err := a.Open(nil, b[:chacha20poly1305.NonceSize], b[chacha20poly1305.NonceSize:], nil)
	if err != nil {
		return nil, ErrUnreadable
	}
	return plain, nil
}

// SealSender is the broker's word to the registrar on who published a job. [S-14] [F-6]
func SealSender(registrar []byte, id wire.ID, m wire.MessageID) ([]byte, error) {
	b, _, err := sealTo(xwing(), registrar, "bj1 sender", nil, append(id[:], m[:]...))
	return b, err
}

// OpenSender reads it. It does not prove that the broker wrote it: HPKE's base mode names no sender.
// Errors: [wire.ErrMalformed], [ErrUnreadable]. [S-14] [F-6]
func (r RegistrarSecret) OpenSender(b []byte) (wire.ID, wire.MessageID, error) {
	if len(b) != senderLen {
		return wire.ID{}, wire.MessageID{}, badShape("a sealed sender")
	}
	plain, _, err := openFrom(r.key, xwingEncLen, "bj1 sender", 0, b)
	if err != nil {
		return wire.ID{}, wire.MessageID{}, err
	}
	return wire.ID(plain), wire.MessageID(plain[12:]), nil
}
