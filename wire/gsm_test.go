package wire

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// gsmRows is GSM 03.38 section 6.2.1, transcribed by rows of sixteen from the standard's table and
// not from the code; the escape is shown as \x1b.
var gsmRows = [8]string{
	"@£$¥èéùìòÇ\nØø\rÅå",
	"Δ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ",
	" !\"#¤%&'()*+,-./",
	"0123456789:;<=>?",
	"¡ABCDEFGHIJKLMNO",
	"PQRSTUVWXYZÄÖÑÜ§",
	"¿abcdefghijklmno",
	"pqrstuvwxyzäöñüà",
}

var gsmExtended = map[byte]rune{0x0a: '\f', 0x14: '^', 0x28: '{', 0x29: '}', 0x2f: '\\', 0x3c: '[', 0x3d: '~', 0x3e: ']', 0x40: '|', 0x65: '€'}

// TestGSMTables compares every code with the standard's tables, both ways.
func TestGSMTables(t *testing.T) {
	for row, text := range gsmRows {
		if utf8.RuneCountInString(text) != 16 {
			t.Fatalf("row %d has %d characters", row, utf8.RuneCountInString(text))
		}
		for column, r := range []rune(text) {
			code := byte(row*16 + column)
			if code == gsmEscape {
				continue
			}
			if got, ok := GSMSeptets(string(r)); !ok || !bytes.Equal(got, []byte{code}) {
				t.Errorf("%q is written as %x, want %02x", r, got, code)
			}
			if got, ok := GSMText([]byte{code}); !ok || got != string(r) {
				t.Errorf("%02x is read as %q, want %q", code, got, r)
			}
		}
	}
	for code := range byte(128) {
		r, known := gsmExtended[code]
		got, ok := GSMText([]byte{gsmEscape, code})
		if ok != known || known && got != string(r) {
			t.Errorf("escape %02x is read as %q, %v", code, got, ok)
		}
		if back, ok := GSMSeptets(string(r)); known && (!ok || !bytes.Equal(back, []byte{gsmEscape, code})) {
			t.Errorf("%q is written as %x", r, back)
		}
	}
}

// TestGSMAlphabet: exactly 127 + 10 characters of Unicode are in the alphabet.
func TestGSMAlphabet(t *testing.T) {
	n := 0
	for r := range rune(0x20000) { // the planes in use by people
		if !utf8.ValidRune(r) {
			continue
		}
		if _, ok := GSMSeptets(string(r)); ok {
			n++
		}
	}
	if n != 137 {
		t.Errorf("%d characters, want 137", n)
	}
	for _, bad := range []string{"`", "ê", "ç", "\t", "\x1b", "ж", "😀", "\xff", "a\u0301"} {
		if _, ok := GSMSeptets(bad); ok {
			t.Errorf("%q is in the alphabet", bad)
		}
	}
	for _, bad := range [][]byte{{gsmEscape}, {'a', gsmEscape}, {0x80}, {0xff}, {gsmEscape, gsmEscape}, {gsmEscape, 0x80}} {
		if got, ok := GSMText(bad); ok || got != "" {
			t.Errorf("%x is read as %q", bad, got)
		}
	}
}

// TestPackGSM: the packing of GSM 03.38 section 6.1.2.1, with the usual examples.
func TestPackGSM(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "a": "61", "hellohello": "e8329bfd4697d9ec37", "12345678": "31d98c56b3dd70", "@": "00", "1234567": "31d98c56b3dd00",
	} {
		septets, _ := GSMSeptets(text)
		got := PackGSM(septets)
		if hex.EncodeToString(got) != want {
			t.Errorf("%q is packed as %x, want %s", text, got, want)
		}
		if back := UnpackGSM(got, len(septets)); !bytes.Equal(back, septets) {
			t.Errorf("%q is unpacked as %x", text, back)
		}
	}
	r := rand.New(rand.NewPCG(3, 3))
	for n := range 200 {
		septets := make([]byte, n)
		for i := range septets {
			septets[i] = byte(r.IntN(128))
		}
		packed := PackGSM(septets)
		if len(packed) != (7*n+7)/8 || !bytes.Equal(UnpackGSM(packed, n), septets) {
			t.Errorf("%d septets do not survive packing", n)
		}
	}
	for _, n := range []int{-1, 0, 1, 6, 9, 100} {
		if UnpackGSM(make([]byte, 7), n) != nil {
			t.Errorf("7 bytes unpack to %d septets", n)
		}
	}
	if got := PackGSM([]byte{0xff}); !bytes.Equal(got, []byte{0x7f}) {
		t.Errorf("an eighth bit is packed: %x", got)
	}
}

// TestSMSParts: the limits at which a text takes another SMS. [F-3]
func TestSMSParts(t *testing.T) {
	a, e, zh, smile := "a", "€", "ж", "😀"
	cases := []struct {
		text  string
		parts int
		gsm   bool
	}{
		{"", 1, true}, {a, 1, true},
		{strings.Repeat(a, 160), 1, true}, {strings.Repeat(a, 161), 2, true},
		{strings.Repeat(a, 306), 2, true}, {strings.Repeat(a, 307), 3, true},
		{strings.Repeat(a, 6*153), 6, true}, {strings.Repeat(a, 6*153+1), 7, true},
		{strings.Repeat(a, 158) + e, 1, true}, {strings.Repeat(a, 159) + e, 2, true},
		{strings.Repeat(e, 80), 1, true}, {strings.Repeat(e, 81), 2, true},
		{strings.Repeat(e, 152), 2, true}, {strings.Repeat(e, 153), 3, true}, // 76 in each part, as 153 is odd
		{strings.Repeat(a, 152) + e + strings.Repeat(a, 152), 3, true}, // the pair moves to part 2
		{strings.Repeat(a, 152) + e + strings.Repeat(a, 151), 2, true},
		{strings.Repeat(zh, 70), 1, false}, {strings.Repeat(zh, 71), 2, false},
		{strings.Repeat(zh, 134), 2, false}, {strings.Repeat(zh, 135), 3, false},
		{strings.Repeat(smile, 35), 1, false}, {strings.Repeat(smile, 36), 2, false},
		{strings.Repeat(smile, 66), 2, false}, {strings.Repeat(smile, 67), 3, false}, // 33 in each part
		{strings.Repeat(zh, 66) + smile + strings.Repeat(zh, 66), 3, false},
		{strings.Repeat(zh, 66) + smile + strings.Repeat(zh, 65), 2, false},
		{strings.Repeat(a, 69) + zh, 1, false}, {strings.Repeat(a, 70) + zh, 2, false},
	}
	for _, c := range cases {
		parts, gsm7 := SMSParts(c.text)
		if parts != c.parts || gsm7 != c.gsm {
			t.Errorf("%d characters beginning %.3q: %d parts, GSM %v; want %d, %v", utf8.RuneCountInString(c.text), c.text, parts, gsm7, c.parts, c.gsm)
		}
	}
}

// FuzzGSM: text that is in the alphabet survives septets and packing, and parts never shrink as a text
// grows.
func FuzzGSM(f *testing.F) {
	f.Add("hello €{}", []byte{0x1b, 0x65})
	f.Add("été", []byte{0x1b})
	f.Fuzz(func(t *testing.T, text string, septets []byte) {
		if s, ok := GSMSeptets(text); ok {
			if back, ok := GSMText(UnpackGSM(PackGSM(s), len(s))); !ok || back != text {
				t.Errorf("%q came back as %q", text, back)
			}
		}
		if got, ok := GSMText(septets); ok {
			if again, ok := GSMSeptets(got); !ok || !bytes.Equal(again, septets) {
				t.Errorf("%x came back as %x", septets, again)
			}
		}
		UnpackGSM(septets, len(text))
		parts, _ := SMSParts(text)
		if more, _ := SMSParts(text + "a"); parts < 1 || more < parts {
			t.Errorf("%q takes %d parts, with one more character %d", text, parts, more)
		}
	})
}
