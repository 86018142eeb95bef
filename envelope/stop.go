package envelope

import "bluejay/wire"

// stopLen is the size of a sealed number: enc 1,120 | HPKE(BCD 8) 24.
const stopLen = xwingEncLen + 8 + tagLen

// SealNumber is the SMS worker's word to the registrar that a number's owner wants no more: the number
// that said STOP, which can wait at rest until the registrar has heard it. [S-16] [F-18]
func SealNumber(registrar []byte, n wire.Number) ([]byte, error) {
	if n.IsZero() {
		return nil, badShape("a number")
	}
	bcd := n.BCD()
	b, _, err := sealTo(xwing(), registrar, "bj1 stop", nil, bcd[:])
	return b, err
}

// OpenNumber reads it. It does not prove that anybody said STOP: HPKE's base mode names no sender, and
// the sender of an SMS can be forged. Errors: [wire.ErrMalformed], [ErrUnreadable]. [S-16]
func (r RegistrarSecret) OpenNumber(b []byte) (wire.Number, error) {
	if len(b) != stopLen {
		return wire.Number{}, badShape("a sealed number")
	}
	plain, _, err := openFrom(r.key, xwingEncLen, "bj1 stop", 0, b)
	if err != nil {
		return wire.Number{}, err
	}
	return wire.NumberFromBCD([8]byte(plain))
}
