package sms

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"bluejay/wire"
)

// join is split's inverse: what a phone does. It fails the test where a phone would show rubbish.
func join(t *testing.T, s segments, ref byte) string {
	t.Helper()
	var all []byte
	for i, p := range s.parts {
		if len(p) > 160 {
			t.Fatalf("part %d has %d octets", i+1, len(p))
		}
		if s.udh {
			want := []byte{5, 0, 3, ref, byte(len(s.parts)), byte(i + 1)}
			if !bytes.Equal(p[:6], want) {
				t.Fatalf("part %d begins with % x, want % x", i+1, p[:6], want)
			}
			p = p[6:]
		}
		if _, ok := decodePart(p, s.coding); !ok {
			t.Fatalf("part %d splits a character: % x", i+1, p)
		}
		all = append(all, p...)
	}
	text, ok := decodePart(all, s.coding)
	if !ok {
		t.Fatalf("the parts together are no text")
	}
	return text
}

func decodePart(p []byte, coding byte) (string, bool) {
	if coding == codingGSM7 {
		return wire.GSMText(p)
	}
	var units []uint16
	for i := 0; i+1 < len(p); i += 2 {
		units = append(units, binary.BigEndian.Uint16(p[i:]))
	}
	for i, u := range units {
		first, last := u>>10 == 0xd800>>10, u>>10 == 0xdc00>>10
		if first && (i+1 == len(units) || units[i+1]>>10 != 0xdc00>>10) || last && (i == 0 || units[i-1]>>10 != 0xd800>>10) {
			return "", false
		}
	}
	return string(utf16.Decode(units)), len(p)%2 == 0
}

// [F-3]
func TestSplit(t *testing.T) {
	a, emoji := strings.Repeat, "😀"
	tests := []struct {
		name, text string
		parts      int
		coding     byte
	}{
		{"empty", "", 1, codingGSM7},
		{"one GSM part", a("a", 160), 1, codingGSM7},
		{"two GSM parts", a("a", 161), 2, codingGSM7},
		{"an extension counts two", a("a", 159) + "€", 2, codingGSM7},
		{"an escape is not split", a("a", 152) + "€" + a("a", 152), 3, codingGSM7},
		{"six GSM parts", a("a", 6*153), 6, codingGSM7},
		{"one UCS-2 part", a("я", 70), 1, codingUCS2},
		{"two UCS-2 parts", a("я", 71), 2, codingUCS2},
		{"a surrogate pair is not split", a("я", 66) + emoji + a("я", 66), 3, codingUCS2},
		{"six UCS-2 parts", a("я", 6*67), 6, codingUCS2},
		{"one smart quote", a("a", 159) + "’", 3, codingUCS2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := split(tt.text, CharsetAuto, 0xa7)
			if err != nil || len(s.parts) != tt.parts || s.coding != tt.coding {
				t.Fatalf("split: %d parts, coding %d, %v; want %d, %d", len(s.parts), s.coding, err, tt.parts, tt.coding)
			}
			if got := join(t, s, 0xa7); got != tt.text {
				t.Errorf("joined %q, want %q", got, tt.text)
			}
		})
	}
}

func TestSplitRefusesSeven(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", 6*153+1), strings.Repeat("я", 6*67+1)} {
		if _, err := split(text, CharsetAuto, 0); !errors.Is(err, ErrTooLong) {
			t.Errorf("%d characters: %v, want ErrTooLong", len([]rune(text)), err)
		}
	}
}

// TestPartsByCharset: parts by charset. [F-3] [F-22]
func TestPartsByCharset(t *testing.T) {
	tests := []struct {
		text  string
		c     Charset
		parts int
	}{
		{"", CharsetAuto, 1},
		{strings.Repeat("a", 160), CharsetAuto, 1},
		{strings.Repeat("a", 161), CharsetAuto, 2},
		{strings.Repeat("a", 70), CharsetUCS2, 1},
		{strings.Repeat("a", 71), CharsetUCS2, 2},
		{strings.Repeat("😀", 35), CharsetUCS2, 1},
		{strings.Repeat("😀", 67), CharsetUCS2, 3}, // 33 a part: no pair is split
		{strings.Repeat("é", 140), CharsetLatin1, 1},
		{strings.Repeat("é", 141), CharsetLatin1, 2},
		{strings.Repeat("я", 71), CharsetLatin1, 2},
		{strings.Repeat("é", 71), CharsetASCII, 2},
		{strings.Repeat("a", 160), CharsetASCII, 1},
		{strings.Repeat("a", 6*153+1), CharsetAuto, 7},
		{strings.Repeat("a", 5000), CharsetLatin1, 7},
	}
	for _, tt := range tests {
		if got := Parts(tt.text, tt.c); got != tt.parts {
			t.Errorf("%d bytes in charset %d: %d parts, want %d", len(tt.text), tt.c, got, tt.parts)
		}
	}
}

// FuzzSplit holds split to wire.SMSParts, by which a handset counts, and to its inverse. [F-3]
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"", "a", strings.Repeat("€", 90), strings.Repeat("a", 152) + "€€", strings.Repeat("я😀", 60), "\xff\xfe", "\x1b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = string([]rune(text)) // as every text from the wire: valid UTF-8
		want, gsm := wire.SMSParts(text)
		s, err := split(text, CharsetAuto, 1)
		if want > wire.MaxSMSParts {
			if !errors.Is(err, ErrTooLong) {
				t.Fatalf("%d parts: %v", want, err)
			}
			return
		}
		if err != nil || len(s.parts) != want || (s.coding == codingGSM7) != gsm {
			t.Fatalf("split: %d parts, coding %d, %v; wire counts %d, GSM %t", len(s.parts), s.coding, err, want, gsm)
		}
		if got := join(t, s, 1); got != text {
			t.Fatalf("joined %q, want %q", got, text)
		}
	})
}
