package envelope

import (
	"crypto/rand"

	"bluejay/wire"
)

// Shapes, sealed to the registrar with X-Wing, from a phone that needs no account:
//
//	off          0x64 | enc 1120 | HPKE(number BCD 8 | nonce 16)
//	off confirm  0x65 | enc 1120 | HPKE(password 6 | nonce 16)
const (
	offLen        = 1 + xwingEncLen + 8 + nonceLen + tagLen
	offConfirmLen = 1 + xwingEncLen + otpLen + nonceLen + tagLen
)

// OffRequest is the first half of switching a number off from another phone, opened. Nothing is proved
// about Number yet. It prints as "[sealed]".
type OffRequest struct {
	Number wire.Number
	Nonce  [nonceLen]byte
}

// SealOff asks that a one-time password be sent to a number whose owner wants to be switched off. Keep
// nonce for [SealOffConfirm]: nobody else can use the password.
func SealOff(registrar []byte, n wire.Number) (body []byte, nonce [nonceLen]byte, err error) {
	if n.IsZero() {
		return nil, nonce, badShape("a number")
	}
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, nonce, err
	}
	bcd := n.BCD()
	body, _, err = sealTo(xwing(), registrar, "bj1 off", []byte{byte(wire.CtlOff)}, append(bcd[:], nonce[:]...))
	return body, nonce, err
}

// OpenOff reads it. Errors: [wire.ErrMalformed], [ErrUnreadable].
func (r RegistrarSecret) OpenOff(body []byte) (OffRequest, error) {
	plain, err := r.openOff(body, wire.CtlOff, offLen, "bj1 off")
	if err != nil {
		return OffRequest{}, err
	}
	n, err := wire.NumberFromBCD([8]byte(plain))
	if err != nil {
		return OffRequest{}, err
	}
	return OffRequest{Number: n, Nonce: [nonceLen]byte(plain[8:])}, nil
}

// SealOffConfirm brings the password back.
func SealOffConfirm(registrar []byte, otp string, nonce [nonceLen]byte) ([]byte, error) {
	if !checkOTP(otp) {
		return nil, badShape("a one-time password")
	}
	body, _, err := sealTo(xwing(), registrar, "bj1 off confirm", []byte{byte(wire.CtlOffConfirm)}, append([]byte(otp), nonce[:]...))
	return body, err
}

// OffConfirm is the second half, opened. It prints as "[sealed]".
type OffConfirm struct {
	OTP   string // six digits
	Nonce [nonceLen]byte
}

// OpenOffConfirm reads it. Errors: [wire.ErrMalformed], [ErrUnreadable].
func (r RegistrarSecret) OpenOffConfirm(body []byte) (OffConfirm, error) {
	plain, err := r.openOff(body, wire.CtlOffConfirm, offConfirmLen, "bj1 off confirm")
	if err != nil {
		return OffConfirm{}, err
	}
	c := OffConfirm{OTP: string(plain[:otpLen]), Nonce: [nonceLen]byte(plain[otpLen:])}
	if !checkOTP(c.OTP) {
		return OffConfirm{}, badShape("a one-time password")
	}
	return c, nil
}

func (r RegistrarSecret) openOff(body []byte, kind wire.ControlKind, size int, label string) ([]byte, error) {
	if len(body) != size || wire.ControlKind(body[0]) != kind {
		return nil, badShape("a request to switch off")
	}
	plain, _, err := openFrom(r.key, xwingEncLen, label, 1, body)
	return plain, err
}
