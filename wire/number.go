package wire

import (
	"fmt"
	"log/slog"
	"strings"
)

// Number is an E.164 phone number that does not print itself. Shape: 1 to 15 digits, no leading
// zero, packed as 8 bytes of BCD, high nibble first, padded with 0xF. Zero value: no number.
// String, Format, LogValue and MarshalText all redact: only [Number.E164] reveals it, and a test
// at the module root lists the packages that may call it. [P-4]
type Number struct{ bcd [8]byte }

// numberMarks are what people write between digits.
var numberMarks = strings.NewReplacer(" ", "", "-", "", ".", "", "(", "", ")", "")

// ParseNumber reads "+44 7700 900123": a plus sign, then digits; spaces, dots, dashes and
// brackets are ignored. It does not know national formats or which numbers exist.
func ParseNumber(s string) (Number, error) {
	digits, ok := strings.CutPrefix(strings.TrimSpace(s), "+")
	if !ok {
		return Number{}, fmt.Errorf("%w: a number must start with + and a country code", ErrMalformed)
	}
	digits = numberMarks.Replace(digits)
	if len(digits) < 7 || len(digits) > 15 || digits[0] == '0' {
		return Number{}, fmt.Errorf("%w: a number has 7 to 15 digits after the +", ErrMalformed)
	}
	n := Number{bcd: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	for i := range len(digits) {
		d := digits[i] - '0'
		if d > 9 {
			return Number{}, fmt.Errorf("%w: a number has only digits after the +", ErrMalformed)
		}
		if i%2 == 0 {
			n.bcd[i/2] = d<<4 | 0x0f
		} else {
			n.bcd[i/2] = n.bcd[i/2]&0xf0 | d
		}
	}
	return n, nil
}

// NumberFromBCD reads the packed form; it refuses every encoding but the canonical one.
func NumberFromBCD(b [8]byte) (Number, error) {
	n := Number{bcd: b}
	m, err := ParseNumber("+" + n.digits())
	if err != nil || m != n {
		return Number{}, fmt.Errorf("%w: not a packed number", ErrMalformed)
	}
	return n, nil
}

func (n Number) digits() string {
	var b [16]byte
	k := 0
	for _, x := range n.bcd {
		for _, d := range [2]byte{x >> 4, x & 15} {
			if d > 9 {
				return string(b[:k])
			}
			b[k] = '0' + d
			k++
		}
	}
	return string(b[:k])
}

// E164 reveals the number as "+447700900123". Call it only where a number must be known.
func (n Number) E164() string { return "+" + n.digits() }

// BCD is the packed form for a sealed record.
func (n Number) BCD() [8]byte { return n.bcd }

// IsZero reports whether n is unset.
func (n Number) IsZero() bool { return n.bcd == [8]byte{} }

const redacted = "+[number]"

// String redacts.
func (n Number) String() string { return redacted }

// GoString redacts.
func (n Number) GoString() string { return redacted }

// Format redacts under every verb.
func (n Number) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue redacts.
func (n Number) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText redacts, so that no encoder writes a number by accident.
func (n Number) MarshalText() ([]byte, error) { return []byte(redacted), nil }
