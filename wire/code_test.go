package wire

import (
	"errors"
	"fmt"
	"testing"
)

// Reason codes MQTT 5 allows in PUBACK (section 3.4.2.1), and in CONNACK (3.2.2.2) or DISCONNECT
// (3.14.2.1).
var (
	pubackCodes  = map[byte]bool{0x00: true, 0x10: true, 0x80: true, 0x83: true, 0x87: true, 0x90: true, 0x91: true, 0x97: true, 0x99: true}
	connackCodes = map[byte]bool{0x00: true, 0x80: true, 0x81: true, 0x82: true, 0x83: true, 0x84: true, 0x85: true, 0x86: true, 0x87: true,
		0x88: true, 0x89: true, 0x8a: true, 0x8c: true, 0x90: true, 0x95: true, 0x97: true, 0x99: true, 0x9a: true, 0x9b: true, 0x9c: true,
		0x9d: true, 0x9f: true, 0x8b: true, 0x8d: true, 0x8e: true, 0x8f: true, 0x93: true, 0x94: true, 0x96: true, 0x98: true, 0x9e: true,
		0xa0: true, 0xa1: true, 0xa2: true}
)

// TestCodes: a closed set of 20; each has a text of its own and codes MQTT 5 allows. [P-20]
func TestCodes(t *testing.T) {
	texts := map[string]Code{}
	for i := range 256 {
		c := Code(i)
		if !pubackCodes[c.Puback()] || !connackCodes[c.Connack()] {
			t.Errorf("code %02x: PUBACK %02x, CONNACK %02x", i, c.Puback(), c.Connack())
		}
		if !c.Known() {
			if c.String() != "unknown code" || c.Puback() != 0x80 {
				t.Errorf("code %02x is %q", i, c)
			}
			continue
		}
		if o, twice := texts[c.String()]; twice {
			t.Errorf("codes %02x and %02x say the same", byte(o), i)
		}
		texts[c.String()] = c
		if c.Error() != c.String() || (c.Puback() == 0) != (c == OK) || (c.Connack() == 0) != (c == OK) {
			t.Errorf("code %02x: %q, PUBACK %02x", i, c.Error(), c.Puback())
		}
	}
	if len(texts) != 20 {
		t.Errorf("%d codes, want 20", len(texts))
	}
	var c Code
	if err := fmt.Errorf("publishing: %w", NoRecipient); !errors.As(err, &c) || c != NoRecipient || NoRecipient.Puback() != 0x10 {
		t.Error("a code is no error")
	}
}
