package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func mustNumber(t testing.TB, s string) Number {
	t.Helper()
	n, err := ParseNumber(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestParseNumber: what a person may write, and what it means. [P-4]
func TestParseNumber(t *testing.T) {
	good := map[string]string{
		"+447700900123": "+447700900123", " +44 7700 900123 ": "+447700900123", "+44 (7700) 900-123": "+447700900123",
		"+1.202.555.0143": "+12025550143", "+1234567": "+1234567", "+123456789012345": "+123456789012345",
	}
	for s, want := range good {
		n, err := ParseNumber(s)
		if err != nil || n.E164() != want || n.IsZero() {
			t.Errorf("%q: %v", s, err)
		}
		if back, err := NumberFromBCD(n.BCD()); err != nil || back != n {
			t.Errorf("%q does not survive packing: %v", s, err)
		}
	}
	for _, s := range []string{"", "+", "447700900123", "00447700900123", "+0447700900123", "+123456", "+1234567890123456", "+44770090012x",
		"+44+7700900123", "+٤٤٧٧٠٠٩٠٠", "+44770090012\x00", "tel:+447700900123", "+" + strings.Repeat(" ", 1<<16)} {
		if n, err := ParseNumber(s); !errors.Is(err, ErrMalformed) || !n.IsZero() {
			t.Errorf("%.30q is read: %v", s, err)
		} else if strings.ContainsAny(err.Error(), "89") || strings.Contains(err.Error(), "44") {
			t.Errorf("the error quotes the number: %v", err)
		}
	}
}

// TestBCD: one encoding for each number. [P-4]
func TestBCD(t *testing.T) {
	if got := mustNumber(t, "+447700900123").BCD(); got != [8]byte{0x44, 0x77, 0x00, 0x90, 0x01, 0x23, 0xff, 0xff} {
		t.Errorf("even: %x", got)
	}
	if got := mustNumber(t, "+12025550143").BCD(); got != [8]byte{0x12, 0x02, 0x55, 0x50, 0x14, 0x3f, 0xff, 0xff} {
		t.Errorf("odd: %x", got)
	}
	bad := map[string][8]byte{
		"zero value": {}, "no digits": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "six digits": {0x12, 0x34, 0x56, 0xff, 0xff, 0xff, 0xff, 0xff},
		"leading zero": {0x04, 0x47, 0x70, 0x09, 0x00, 0x12, 0x3f, 0xff}, "digit after the end": {0x44, 0x77, 0x00, 0x90, 0xff, 0x12, 0xff, 0xff},
		"padded with A": {0x44, 0x77, 0x00, 0x90, 0x01, 0x23, 0xaa, 0xaa}, "padded with one F": {0x44, 0x77, 0x00, 0x90, 0x01, 0x2f, 0x0f, 0xff},
		"sixteen digits": {0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56},
	}
	for name, b := range bad {
		if n, err := NumberFromBCD(b); !errors.Is(err, ErrMalformed) || !n.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNumberNeverPrints: no verb, encoder or logger shows a digit. [P-4]
func TestNumberNeverPrints(t *testing.T) {
	n := mustNumber(t, "+447700900123")
	wrapped := struct{ N Number }{n}
	outs := map[string]string{"String": n.String(), "GoString": n.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%10v", "%-20s", "%08d"} { // %p asks no method: go vet refuses it
		outs[verb] = fmt.Sprintf(verb, n)
		outs[verb+" in a struct"] = fmt.Sprintf(verb, wrapped)
		outs[verb+" in a slice"] = fmt.Sprintf(verb, []Number{n})
		outs[verb+" in a map"] = fmt.Sprintf(verb, map[Number]int{n: 1})
		outs[verb+" by pointer"] = fmt.Sprintf(verb, &n)
	}
	outs["error"] = fmt.Errorf("sending to %v: %w", n, ErrMalformed).Error()
	for name, v := range map[string]any{"number": n, "struct": wrapped, "map": map[Number]Number{n: n}, "pointer": &n} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		outs["json "+name] = string(b)
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("m", "n", n, "p", &n, "s", wrapped, "l", []Number{n}, slog.Group("g", "n", n))
	}
	outs["slog"] = strings.ReplaceAll(log.String(), "time=", "")
	for name, out := range outs {
		for _, part := range []string{"7700", "9001", "0123", "77 0", "119", "4d00"} {
			if strings.Contains(out, part) {
				t.Errorf("%s shows digits: %s", name, out)
			}
		}
	}
	if outs["%v"] != "+[number]" || outs["json number"] != `"+[number]"` {
		t.Errorf("%q, %q", outs["%v"], outs["json number"])
	}
}

// TestNumberNotFromJSON: an encoder's redacted text must not read back as a number.
func TestNumberNotFromJSON(t *testing.T) {
	got := map[string]Number{}
	if err := json.Unmarshal([]byte(`{"n":"+[number]"}`), &got); err == nil || !got["n"].IsZero() {
		t.Errorf("a redacted number was read: %v", err)
	}
}

func FuzzNumber(f *testing.F) {
	f.Add("+447700900123", []byte{0x44, 0x77, 0x00, 0x90, 0x01, 0x23, 0xff, 0xff})
	f.Add("+1 (202) 555-0143", make([]byte, 8))
	f.Fuzz(func(t *testing.T, s string, b []byte) {
		if n, err := ParseNumber(s); err == nil {
			if again, err := ParseNumber(n.E164()); err != nil || again != n {
				t.Errorf("%q does not survive E.164", s)
			}
			if packed, err := NumberFromBCD(n.BCD()); err != nil || packed != n {
				t.Errorf("%q does not survive packing", s)
			}
		}
		if len(b) != 8 {
			return
		}
		if n, err := NumberFromBCD([8]byte(b)); err == nil && n.BCD() != [8]byte(b) {
			t.Errorf("%x is packed as %x", b, n.BCD())
		}
	})
}
