package envelope

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

var frameCases = []struct {
	name string
	f    Frame
	size int
}{
	{"one character", TextFrame("a"), 16},
	{"13 septets fill one block", TextFrame(strings.Repeat("a", 13)), 16},
	{"14 septets need another", TextFrame(strings.Repeat("a", 14)), 32},
	{"30 characters GSM-7", TextFrame(thirty), 32},
	{"30 characters UTF-8", TextFrame("ж" + thirty[2:]), 48},
	{"7 spare bits", TextFrame("1234567"), 16},
	{"8 septets that end in @", TextFrame("1234567@"), 16},
	{"7 septets that end in CR", TextFrame("123456\r"), 16},
	{"8 septets that end in CR", TextFrame("1234567\r"), 16},
	{"extension table", TextFrame("{€}"), 16},
	{"longest", TextFrame(strings.Repeat("😀", MaxText)), 6416},
	{"again", AgainFrame(AgainRef{TH: [4]byte{1, 2, 3, 4}, Epoch: 5, N: 95}, thirty), 48},
	{"tag update", TagFrame(tagA), 16},
	{"hide", HideFrame(wire.MessageIDOf([]byte("x"))), 32},
	{"ack", AckFrame(3<<14 | 127), 16},
	{"empty", AckFrame(NoAck), 16},
}

// TestFrameRoundTrip covers every kind of frame. [S-1]
func TestFrameRoundTrip(t *testing.T) {
	for _, c := range frameCases {
		t.Run(c.name, func(t *testing.T) {
			b, err := c.f.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if len(b) != c.size {
				t.Errorf("%d bytes, want %d", len(b), c.size)
			}
			got, err := ParseFrame(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.f, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFrameKeepsAcked(t *testing.T) {
	f := TextFrame("x")
	f.Acked = 2<<14 | 17
	b, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseFrame(b); err != nil || got.Acked != f.Acked {
		t.Errorf("acked %x, %v; want %x", got.Acked, err, f.Acked)
	}
}

func TestFrameMarshalRefuses(t *testing.T) {
	cases := []struct {
		name string
		f    Frame
		want error
	}{
		{"zero value", Frame{}, wire.ErrMalformed},
		{"unknown kind", Frame{Kind: 7}, wire.ErrMalformed},
		{"empty text", TextFrame(""), wire.ErrMalformed},
		{"empty text again", AgainFrame(AgainRef{}, ""), wire.ErrMalformed},
		{"invalid UTF-8", TextFrame("a\xff"), wire.ErrMalformed},
		{"1,601 characters", TextFrame(strings.Repeat("a", MaxText+1)), ErrTooLong},
		{"1,601 emoji", TextFrame(strings.Repeat("😀", MaxText+1)), ErrTooLong},
	}
	for _, c := range cases {
		if b, err := c.f.Marshal(); !errors.Is(err, c.want) || b != nil {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
}

// TestParseFrameRefuses holds padding, kinds and bodies to one form. [S-1]
func TestParseFrameRefuses(t *testing.T) {
	pad := func(b ...byte) []byte {
		b = append(b, 0x80)
		for len(b)%frameBlock != 0 {
			b = append(b, 0)
		}
		return b
	}
	block := make([]byte, frameBlock)
	cases := map[string][]byte{
		"nothing":                 nil,
		"no padding":              append([]byte{6, 0xff, 0xff}, bytes.Repeat([]byte{1}, 13)...),
		"only zeros":              block,
		"not a multiple":          pad(6, 0xff, 0xff)[:15],
		"a block of padding more": append(pad(6, 0xff, 0xff), block...),
		"0x80 in the block before": append(append(bytes.Clone(pad(6, 0xff, 0xff)[:3]),
			append([]byte{0x80}, make([]byte, 12)...)...), block...),
		"kind only":            pad(6),
		"kind zero":            pad(0, 0xff, 0xff),
		"unknown kind":         pad(7, 0xff, 0xff),
		"ack with a body":      pad(6, 0xff, 0xff, 1),
		"short tag":            pad(4, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8),
		"long tag":             pad(4, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
		"short hide":           pad(5, 0xff, 0xff, 1),
		"again without a text": pad(3, 0xff, 0xff, 1, 2, 3, 4, 0, 0, 1),
		"again too short":      pad(3, 0xff, 0xff, 1, 2, 3, 4, 0, 0),
		"empty UTF-8":          pad(1, 0xff, 0xff),
		"empty GSM-7":          pad(2, 0xff, 0xff),
		"invalid UTF-8":        pad(1, 0xff, 0xff, 0xc3),
		"GSM-7, unknown escape": pad(append([]byte{2, 0xff, 0xff},
			wire.PackGSM([]byte{0x1b, 0x01})...)...),
		"GSM-7, 7 spare bits of zero": pad(append([]byte{2, 0xff, 0xff},
			wire.PackGSM([]byte("1234567"))[:6]...)...),
		"GSM-7, spare bits not zero": pad(2, 0xff, 0xff, 'a'|0x80),
		"1,601 characters":           pad(append([]byte{1, 0xff, 0xff}, strings.Repeat("a", MaxText+1)...)...),
		"too large":                  make([]byte, maxFrame+frameBlock),
	}
	for name, b := range cases {
		if f, err := ParseFrame(b); !errors.Is(err, wire.ErrMalformed) || f != (Frame{}) {
			t.Errorf("%s: %v, error %v; want malformed", name, f.Kind, err)
		}
	}
}

// TestGSM7Unambiguous packs every text of up to 17 septets over the characters that could be confused
// at the end, and 20,000 random ones: what is written reads back as itself. [S-1]
func TestGSM7Unambiguous(t *testing.T) {
	check := func(text string) {
		t.Helper()
		b, err := TextFrame(text).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if f, err := ParseFrame(b); err != nil || f.Text != text {
			t.Fatalf("%q came back as %q, %v", text, f.Text, err)
		}
	}
	for n := range 18 {
		for _, end := range []string{"@", "@@", "\r", "\r\r", "\r@", "@\r", "€", "a"} {
			check(strings.Repeat("b", n) + end)
		}
	}
	alphabet := []rune("@\ra€ £~")
	r := rand.New(rand.NewPCG(1, 7))
	for range 20_000 {
		text := make([]rune, 1+r.IntN(40))
		for i := range text {
			text[i] = alphabet[r.IntN(len(alphabet))]
		}
		check(string(text))
	}
}

// TestGSM7Choice: GSM-7 whenever the text allows, and in the one ambiguous case UTF-8. [S-1]
func TestGSM7Choice(t *testing.T) {
	cases := map[string]FrameKind{
		"hello":             KindTextGSM7,
		"été {}€":           KindTextGSM7,
		"tête":              KindTextUTF8, // ê is in neither table
		"Grüße":             KindTextGSM7,
		"жук":               KindTextUTF8,
		"1234567\r":         KindTextUTF8,
		"123456\r":          KindTextGSM7,
		"12345678901234\r":  KindTextGSM7,
		"123456789012345\r": KindTextUTF8,
	}
	for text, want := range cases {
		b, err := Frame{Kind: KindTextUTF8, Acked: NoAck, Text: text}.Marshal()
		if err != nil || FrameKind(b[0]) != want {
			t.Errorf("%q: kind %v, %v; want %v", text, b[0], err, want)
		}
	}
}

// FuzzParseFrame: any input gives a frame or an error, and a frame that parses says the same again.
func FuzzParseFrame(f *testing.F) {
	for _, c := range frameCases {
		b, err := c.f.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseFrame(b)
		if err != nil {
			return
		}
		again, err := got.Marshal()
		if err != nil {
			t.Fatalf("a parsed frame does not marshal: %v", err)
		}
		back, err := ParseFrame(again)
		if err != nil || back.Text != got.Text || back.Acked != got.Acked || back.Tag != got.Tag || back.Again != got.Again {
			t.Fatalf("%v became %v, %v", got, back, err)
		}
	})
}
