package envelope

import (
	"bytes"

	"bluejay/wire"
)

// carriageReturn fills the seven spare bits of a packed text, as in GSM 03.38 section 6.1.2.3.1:
// left zero they would read as one more '@'.
const carriageReturn = 0x0d

// packText packs a text into septets, low bits first, without a length. Eight septets fill seven
// octets, so 8k+7 and 8k+8 septets take the same room: the shorter is filled with a carriage return.
// ok is false when a character is not in the alphabet, and for the one text that would then read as
// another, of 8k septets with a carriage return at the end: it goes as UTF-8. [S-1]
func packText(text string) (packed []byte, ok bool) {
	septets, ok := wire.GSMSeptets(text)
	switch n := len(septets); {
	case !ok || n == 0 || n%8 == 0 && septets[n-1] == carriageReturn:
		return nil, false
	case n%8 == 7:
		septets = append(septets, carriageReturn)
	}
	return wire.PackGSM(septets), true
}

// unpackText is the inverse of packText; it refuses what packText would not have written.
func unpackText(packed []byte) (text string, ok bool) {
	septets := wire.UnpackGSM(packed, len(packed)*8/7)
	if n := len(septets); n > 0 && n%8 == 0 && septets[n-1] == carriageReturn {
		septets = septets[:n-1]
	}
	if text, ok = wire.GSMText(septets); !ok {
		return "", false
	}
	again, ok := packText(text)
	return text, ok && bytes.Equal(again, packed)
}
