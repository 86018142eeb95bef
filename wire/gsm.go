package wire

import (
	"strings"
	"unicode/utf16"
)

// gsmBasic is the GSM 03.38 default alphabet in code order; 0x1B is the escape.
const gsmBasic = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?" +
	"¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"

// gsmExtension pairs each character of the extension table with its code after the escape.
const gsmExtension = "\f\x0a^\x14{\x28}\x29\\\x2f[\x3c~\x3d]\x3e|\x40€\x65"

const gsmEscape = 0x1b

type gsmTable struct {
	enc      map[rune][2]byte // {code, 0} or {escape, code}
	basic    [128]rune
	extended map[byte]rune
}

var gsm = newGSMTable()

func newGSMTable() gsmTable {
	t := gsmTable{enc: map[rune][2]byte{}, extended: map[byte]rune{}}
	for i, r := range []rune(gsmBasic) {
		t.basic[i] = r
		if r != gsmEscape {
			t.enc[r] = [2]byte{byte(i)}
		}
	}
	ext := []rune(gsmExtension)
	for i := 0; i < len(ext); i += 2 {
		t.enc[ext[i]] = [2]byte{gsmEscape, byte(ext[i+1])}
		t.extended[byte(ext[i+1])] = ext[i]
	}
	return t
}

// GSMSeptets returns text as GSM 03.38 septets, one a byte, an extension character as two; ok is
// false when a character is in neither table.
func GSMSeptets(text string) (septets []byte, ok bool) {
	septets = make([]byte, 0, len(text))
	for _, r := range text {
		c, known := gsm.enc[r]
		switch {
		case !known:
			return nil, false
		case c[0] == gsmEscape && c[1] != 0:
			septets = append(septets, c[0], c[1])
		default:
			septets = append(septets, c[0])
		}
	}
	return septets, true
}

// GSMText is the inverse of [GSMSeptets]; ok is false for a code that stands for no character.
func GSMText(septets []byte) (text string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(septets); i++ {
		c := septets[i]
		if c > 0x7f {
			return "", false
		}
		if c != gsmEscape {
			b.WriteRune(gsm.basic[c])
			continue
		}
		i++
		if i == len(septets) {
			return "", false
		}
		r, known := gsm.extended[septets[i]]
		if !known {
			return "", false
		}
		b.WriteRune(r)
	}
	return b.String(), true
}

// PackGSM packs septets into octets, low bits first (GSM 03.38 section 6.1.2.1).
func PackGSM(septets []byte) []byte {
	out := make([]byte, (len(septets)*7+7)/8)
	for i, s := range septets {
		bit := i * 7
		w := uint16(s&0x7f) << (bit % 8)
		out[bit/8] |= byte(w)
		if w > 0xff {
			out[bit/8+1] |= byte(w >> 8)
		}
	}
	return out
}

// UnpackGSM unpacks n septets. It returns nil when packed is not exactly their packed length.
func UnpackGSM(packed []byte, n int) []byte {
	if n < 0 || len(packed) != (n*7+7)/8 {
		return nil
	}
	out := make([]byte, n)
	for i := range out {
		bit := i * 7
		w := uint16(packed[bit/8])
		if bit/8+1 < len(packed) {
			w |= uint16(packed[bit/8+1]) << 8
		}
		out[i] = byte(w>>(bit%8)) & 0x7f
	}
	return out
}

// MaxSMSParts is the most parts a fallback text may have. [F-3]
const MaxSMSParts = 6

// SMSParts returns how many SMS a text takes with an 8-bit reference (160/153 septets, 70/67
// UTF-16 units), and whether it fits the GSM alphabet. An escape or a surrogate pair is never
// split, which can cost a part. The empty text takes one.
func SMSParts(text string) (parts int, gsm7 bool) {
	if s, ok := GSMSeptets(text); ok {
		return countParts(len(s), 160, 153, func(i int) bool { return s[i] == gsmEscape }), true
	}
	u := utf16.Encode([]rune(text))
	return countParts(len(u), 70, 67, func(i int) bool { return u[i]>>10 == 0xd800>>10 }), false
}

// countParts splits n units; leads reports whether unit i must stay with unit i+1.
func countParts(n, single, per int, leads func(int) bool) int {
	if n <= single {
		return 1
	}
	parts := 0
	for at := 0; at < n; parts++ {
		end := min(at+per, n)
		if end < n && leads(end-1) {
			end--
		}
		at = end
	}
	return parts
}
