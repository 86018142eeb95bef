package hooks

import (
	"bufio"
	"bytes"
	"testing"
)

// TestPinged: a whole PINGREQ is taken off the stream, and nothing else is touched. That it is answered, every test that
// waits for its own PINGRESP shows.
func TestPinged(t *testing.T) {
	for in, want := range map[string]bool{
		"\xc0\x00": true, "\xc0\x00\xc0\x00": true, "\xc0\x00\x32": true, // and what follows it stays
		"\xc0": false, "": false, "\xc0\x01": false, "\xc1\x00": false, "\xd0\x00": false, "\x32\x00": false, "\xe0\x00": false,
	} {
		r := bufio.NewReader(bytes.NewReader([]byte(in)))
		_, _ = r.Peek(1)
		before := r.Buffered()
		if got := pinged(r); got != want {
			t.Errorf("%x: %v", in, got)
		}
		if left := before - r.Buffered(); want && left != 2 || !want && left != 0 {
			t.Errorf("%x: %d bytes taken", in, left)
		}
	}
}
