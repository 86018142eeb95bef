package handset

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func labPins(t *testing.T) Pins {
	t.Helper()
	return newLab(t).config().pins
}

// Pins survive their file, and nothing incomplete is accepted.
func TestPins(t *testing.T) {
	pins := labPins(t)
	b, err := json.Marshal(pins)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pins.json")
	writeFile(t, path, b, 0o644)
	got, err := LoadPins(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pins, got); diff != "" {
		t.Error(diff)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for name := range fields {
		var without Pins
		broken := map[string]any{}
		for k, v := range fields {
			if k != name {
				broken[k] = v
			}
		}
		c, err := json.Marshal(broken)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(c, &without); !errors.Is(err, ErrPins) {
			t.Errorf("pins without %s: %v, want ErrPins", name, err)
		}
	}
}

func TestLoadPinsRefuses(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	writeFile(t, large, make([]byte, maxPinsFile+1), 0o600)
	if _, err := LoadPins(large); !errors.Is(err, ErrPins) {
		t.Errorf("a large file: %v", err)
	}
	if _, err := LoadPins(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	other := filepath.Join(dir, "other")
	writeFile(t, other, []byte("[]"), 0o600)
	if _, err := LoadPins(other); !errors.Is(err, ErrPins) {
		t.Errorf("another file: %v", err)
	}
}

func FuzzPins(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"broker":"b","root":"AA","receipt":["AA"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Pins
		if json.Unmarshal(b, &p) == nil && p.check() != nil {
			t.Error("incomplete pins were accepted")
		}
	})
}

// Without TLS only loopback; zero values mean the defaults named.
func TestConfig(t *testing.T) {
	pins := labPins(t)
	tests := []struct {
		addr string
		want error
	}{
		{"127.0.0.1:1883", nil},
		{"[::1]:1883", nil},
		{"localhost:1883", nil},
		{"192.0.2.1:1883", ErrPlain},
		{"broker.example:1883", ErrPlain},
	}
	for _, tt := range tests {
		c, err := Config{Dir: "x", Pins: pins, Addr: tt.addr}.withDefaults()
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.addr, err, tt.want)
		}
		if err == nil && (c.HelloTimeout != 10*time.Second || c.GreyAfter != 30*time.Second || c.Log == nil || c.Dial == nil) {
			t.Errorf("%s: a default is missing", tt.addr)
		}
	}
	if _, err := Open(Config{Dir: privateDir(t), Addr: "127.0.0.1:1"}); !errors.Is(err, ErrPins) {
		t.Errorf("without pins: %v", err)
	}
	if _, err := Open(Config{Dir: privateDir(t), Pins: pins, Addr: "nowhere"}); err == nil || !strings.Contains(err.Error(), "address") {
		t.Errorf("without a port: %v", err)
	}
}

// Two handsets cannot have one directory, and a closed one says so. [U-7]
func TestOpenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		if _, err := Open(p.cfg); !errors.Is(err, ErrLocked) {
			t.Errorf("open again: %v, want ErrLocked", err)
		}
		p.close()
		if err := p.Close(); !errors.Is(err, ErrClosed) {
			t.Errorf("close again: %v, want ErrClosed", err)
		}
		if err := p.SetVisibleTo(Nobody); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v, want ErrClosed", err)
		}
		p.open()
	})
}

// What a caller gets wrong is refused with a closed set of errors.
func TestRefusedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		ctx := t.Context()
		c := p.contact("Bob", bobNumber)
		calls := map[string]error{
			"send again to nobody":  p.SendAgain(ctx, 77, 1),
			"cancel nothing":        p.Cancel(ctx, 77),
			"delete nothing":        p.DeleteText(77),
			"a receipt for nothing": p.SMSDelivered(77),
		}
		for what, err := range calls {
			if !errors.Is(err, ErrNoText) && !errors.Is(err, ErrNoContact) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for what, err := range map[string]error{
			"block":        p.Block(c + 1),
			"unblock":      p.Unblock(c + 1),
			"mode":         p.SetMode(c+1, 0),
			"accept":       p.AcceptChange(c),
			"conversation": p.OpenConversation(c + 1),
			"delete":       p.DeleteConversation(c + 1),
		} {
			if !errors.Is(err, ErrNoContact) {
				t.Errorf("%s of a contact that is not there: %v", what, err)
			}
		}
		if err := p.SetVisibleTo(9); err == nil {
			t.Error("an unknown rule was accepted")
		}
	})
}

// OpenConversation turns the icon blue before the first text. [U-2]
func TestOpenConversation(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		if err := alice.OpenConversation(toBob); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if got := alice.Contacts()[0]; got.Colour != Blue || len(bob.bodies()) != 0 {
			t.Errorf("%v, Bob sees %d texts", got.Colour, len(bob.bodies()))
		}
	})
}
