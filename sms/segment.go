package sms

import (
	"encoding/binary"
	"unicode/utf16"

	"bluejay/wire"
)

// Data codings, SMPP 3.4 section 5.2.19.
const (
	codingGSM7   = 0x00 // the SMSC's default alphabet, one septet an octet
	codingASCII  = 0x01
	codingLatin1 = 0x03
	codingUCS2   = 0x08
)

const gsmEscape = 0x1b

// segments are the short_message fields of one text, ready to be submitted.
type segments struct {
	coding byte
	udh    bool // each begins with a user data header
	parts  [][]byte
}

// split cuts a text into at most six parts: 160 septets or 70 UTF-16 units alone, 153 or 67 behind a
// header with an 8-bit reference (3GPP TS 23.040 section 9.2.3.24.1); 140 or 134 octets of Latin-1. It
// agrees with wire.SMSParts, which knows no other charsets. [F-3]
func split(text string, c Charset, ref byte) (segments, error) {
	if s, ok := wire.GSMSeptets(text); ok && c == CharsetAuto {
		leads := func(last int) bool { return s[last] == gsmEscape }
		return cut(s, layout{codingGSM7, 160, 153, 1}, ref, leads)
	}
	if b, ok := octets(text, c); ok {
		whole := func(int) bool { return false }
		if c == CharsetASCII {
			return cut(b, layout{codingASCII, 160, 153, 1}, ref, whole)
		}
		return cut(b, layout{codingLatin1, 140, 134, 1}, ref, whole)
	}
	units := utf16.Encode([]rune(text))
	b := make([]byte, 0, 2*len(units))
	for _, u := range units {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	leads := func(last int) bool { return b[last-1]>>2 == 0xd8>>2 }
	return cut(b, layout{codingUCS2, 140, 134, 2}, ref, leads)
}

// octets is a text in a charset of one octet a character; ok is false when the charset has more, or
// the text does not fit.
func octets(text string, c Charset) (b []byte, ok bool) {
	limits := map[Charset]rune{CharsetLatin1: 0xff, CharsetASCII: 0x7f}
	limit, ok := limits[c]
	if !ok {
		return nil, false
	}
	for _, r := range text {
		if r > limit {
			return nil, false
		}
		b = append(b, byte(r))
	}
	return b, true
}

// Parts counts the SMS that a text takes in a charset; one more than six stands for any number above. [F-3]
func Parts(text string, c Charset) int {
	s, err := split(text, c, 0)
	if err != nil {
		return wire.MaxSMSParts + 1
	}
	return len(s.parts)
}

// layout is how many octets a coding allows: in a text of one part, in one of several, in a unit.
type layout struct {
	coding            byte
	single, per, unit int
}

// cut cuts b into parts. leads reports whether the unit that ends with octet last belongs to the
// unit after it.
func cut(b []byte, l layout, ref byte, leads func(last int) bool) (segments, error) {
	if len(b) <= l.single {
		return segments{coding: l.coding, parts: [][]byte{b}}, nil
	}
	var bodies [][]byte
	for at := 0; at < len(b); {
		end := min(at+l.per, len(b))
		if end < len(b) && leads(end-1) {
			end -= l.unit
		}
		bodies = append(bodies, b[at:end])
		at = end
	}
	if len(bodies) > wire.MaxSMSParts {
		return segments{}, ErrTooLong
	}
	return segments{coding: l.coding, udh: true, parts: withHeaders(bodies, ref)}, nil
}

// withHeaders puts the concatenation header with an 8-bit reference before each body.
func withHeaders(bodies [][]byte, ref byte) [][]byte {
	parts := make([][]byte, len(bodies))
	for i, body := range bodies {
		header := []byte{5, 0, 3, ref, byte(len(bodies)), byte(i + 1)}
		parts[i] = append(header, body...)
	}
	return parts
}
