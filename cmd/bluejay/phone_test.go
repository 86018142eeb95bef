package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"bluejay/blind"
	"bluejay/clients/handset"
	"bluejay/envelope"
	"bluejay/wire"
)

// testPins are keys of a node that is not there.
func testPins(t *testing.T) handset.Pins {
	t.Helper()
	public := func() wire.PublicKey {
		p, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return wire.PublicKey(p)
	}
	voprf, err1 := blind.GenerateServerKey()
	box, err2 := envelope.GenerateRegistrarSecret()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return handset.Pins{
		Broker: "test", Root: public(), Registrar: public(), VOPRF: voprf.Public(), RegistrarBox: box.Public(), Receipt: []wire.PublicKey{public()},
	}
}

var errUnplugged = errors.New("unplugged")

// realPhone is a screen on a real handset whose cable counts dials and leads nowhere.
func realPhone(t *testing.T) (s *screen, h *handset.Handset, dials *atomic.Int32) {
	t.Helper()
	dials = new(atomic.Int32)
	h, err := handset.Open(handset.Config{
		Dir: filepath.Join(t.TempDir(), "state"), Pins: testPins(t), Addr: "127.0.0.1:1", SIM: make(terminalSIM, 16),
		Dial: func(context.Context, string, string) (net.Conn, error) { dials.Add(1); return nil, errUnplugged },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return newScreen(t, h, nil), h, dials
}

// await hands the handset's events to the screen until one of a kind has come.
func (s *screen) await(h *handset.Handset, until func(handset.Event) bool) {
	s.t.Helper()
	late := time.After(testTime)
	for {
		select {
		case e := <-h.Events():
			s.send(e)
			if until(e) {
				return
			}
		case <-late:
			s.t.Fatal("the event has not come")
		}
	}
}

// [U-1] [U-11] on a real handset: no byte before yes; a text to 999 without one is this phone's own
// SMS, and is shown as simulated; a yes dials.
func TestPhoneRealHandset(t *testing.T) {
	s, h, dials := realPhone(t)
	s.shows("Before anything is sent")
	s.keys("n", "ctrl+n", `"999"`, "enter", `"Police"`, "enter", `"Help"`)
	s.shows("1 SMS from this phone")
	s.keys("enter")
	s.await(h, func(e handset.Event) bool { return e.State == handset.SMSSent })
	s.shows("SMS sent · 1 part", "» simulated: this phone would now send an SMS to 999 (1 part); nothing", "┃ Help")
	s.keys("ctrl+x", "y")
	s.hides("┃ Help")
	if n := dials.Load(); n != 0 {
		t.Fatalf("%d dials before yes", n)
	}
	s.keys("ctrl+o", "y", `"+447700900001"`, "enter")
	s.shows("unplugged", "Your number")
	if dials.Load() == 0 {
		t.Error("a yes and a number dial nothing: the count proves nothing")
	}
}

// [U-3] [U-4] [U-5] a real handset without a connection: texts wait, can be taken back and sent again.
func TestPhoneRealOffline(t *testing.T) {
	s, h, _ := realPhone(t)
	s.keys("n", "ctrl+n", `"+447700900002"`, "enter", `"Bob"`, "enter", `"Hi"`, "enter")
	s.shows("you · waiting", "^X cancel", "○ Bob · grey")
	s.keys("ctrl+x")
	s.shows("failed · you took it back", "^X send again")
	s.keys("ctrl+x")
	s.shows("1 over IP, free, once they are reachable", "2 1 SMS from this phone")
	s.keys("2")
	s.await(h, func(e handset.Event) bool { return e.State == handset.SMSSent })
	s.shows("SMS sent · 1 part", "nothing was sent")
	s.keys("ctrl+s")
	s.shows("not known yet")
	s.keys("ctrl+k", "y")
	s.shows("blocked: ^K unblocks")
	s.keys(`"x"`, "enter")
	s.shows("you have blocked this contact", "> x")
	s.keys("ctrl+k", "ctrl+d", "y")
	s.hides("SMS sent")
}

// The program on a terminal of the test's own: the notice, a no, and ^Q; it ends with its context, too.
func TestPhoneProgram(t *testing.T) {
	for name, keys := range map[string]string{"quits": "n\x11", "is stopped": ""} {
		ctx, cancel := context.WithCancel(t.Context())
		in, w := io.Pipe()
		// not the title: of that, only what differs from what stood there may be written
		out := &watchedOutput{want: "has not dialled anything", seen: func() {
			if keys == "" {
				cancel()
			}
			go func() { _, _ = io.WriteString(w, keys) }()
		}}
		o := &phoneOptions{dir: filepath.Join(t.TempDir(), "state"), fallback: "device", terminal: []tea.ProgramOption{
			tea.WithInput(in), tea.WithOutput(out), tea.WithWindowSize(100, 30), tea.WithEnvironment([]string{"TERM=dumb"}),
		}}
		sim := make(terminalSIM, 1)
		h, err := handset.Open(handset.Config{Dir: o.dir, Pins: testPins(t), Addr: "127.0.0.1:1", SIM: sim})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.screen(ctx, h, sim, phoneSettings{Lang: "en"}, wire.Number{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := h.Close(); !errors.Is(err, handset.ErrClosed) {
			t.Errorf("%s: the handset was left open: %v", name, err)
		}
		_ = w.Close()
		cancel()
	}
}

// watchedOutput tells, once, when something is on the screen.
type watchedOutput struct {
	mu   sync.Mutex
	all  strings.Builder
	want string
	seen func()
}

func (o *watchedOutput) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all.Write(b)
	if o.seen != nil && strings.Contains(o.all.String(), o.want) {
		o.seen()
		o.seen = nil
	}
	return len(b), nil
}

func runPhone(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := phoneCmd()
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// node writes what serve writes for handsets.
func nodeDir(t *testing.T, addr string) string {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(testPins(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, filePins), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if addr != "" {
		if err := os.WriteFile(filepath.Join(dir, "addr"), []byte(addr+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The command, as a program uses it.
func TestPhoneCommand(t *testing.T) {
	node, dir := nodeDir(t, "127.0.0.1:1"), filepath.Join(t.TempDir(), "phone")
	out, err := runPhone(t, `{"do":"add","name":"P","number":"999"}`+"\n"+`{"do":"visible","visible":"nobody"}`+"\n"+`{"do":"quit"}`+"\n",
		"--json", "--node", node, "--dir", dir)
	if err != nil || strings.Count(out, `"event":"done"`) != 3 || !strings.Contains(out, `"event":"ready"`) {
		t.Fatalf("%v\n%s", err, out)
	}
	if s, err := loadPhoneSettings(dir); err != nil || s.Visible != handset.Nobody {
		t.Errorf("settings %+v, %v", s, err)
	}
	out, err = runPhone(t, `{"do":"contacts"}`, "--json", "--dir", dir, "--pins", filepath.Join(node, filePins), "--addr", "localhost:1")
	if err != nil || !strings.Contains(out, `"number":"999"`) {
		t.Errorf("again: %v\n%s", err, out)
	}
}

func TestPhoneCommandRefuses(t *testing.T) {
	node, noAddr, dir := nodeDir(t, "127.0.0.1:1"), nodeDir(t, ""), t.TempDir()
	pins := filepath.Join(node, filePins)
	tests := []struct {
		why  string
		args []string
	}{
		{"say which node", nil},
		{"say which node", []string{"--pins", pins}},
		{"is `bluejay serve --dir", []string{"--node", noAddr}},
		{"pins", []string{"--node", dir, "--addr", "127.0.0.1:1"}},
		{"none of device, gateway, ask, never", []string{"--node", node, "--fallback", "pigeon"}},
		{"none of en, zh", []string{"--node", node, "--lang", "tlh"}},
		{"number: ", []string{"--node", node, "--number", "07700 900001"}},
		{"ca: ", []string{"--node", node, "--ca", filepath.Join(dir, "none.pem")}},
		{"no PEM certificate", []string{"--node", node, "--ca", pins}},
		{"address", []string{"--pins", pins, "--addr", "nowhere"}},
	}
	for _, tt := range tests {
		_, err := runPhone(t, "", append(tt.args, "--json", "--dir", filepath.Join(dir, "phone"))...)
		if err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%q: %v, want %q", tt.args, err, tt.why)
		}
	}
}

// Without TLS only on loopback; TLS elsewhere, whatever is given.
func TestPhoneTLS(t *testing.T) {
	for addr, plain := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, "192.0.2.1:8883": false, "node.example:8883": false} {
		c, err := phoneNode{addr: addr}.tls()
		if err != nil || (c == nil) != plain {
			t.Errorf("%s: %v, %v", addr, c, err)
		}
	}
}

// forward ends with the handset, and drops nothing before.
func TestPhoneForward(t *testing.T) {
	events, sim := make(chan handset.Event, 2), make(terminalSIM, 1)
	var got []tea.Msg
	var wg sync.WaitGroup
	wg.Go(func() { forward(events, sim, func(m tea.Msg) { got = append(got, m) }) })
	events <- handset.Event{Kind: handset.Connected}
	events <- handset.Event{Kind: handset.Disconnected}
	close(events)
	wg.Wait()
	if len(got) != 2 {
		t.Errorf("%v", got)
	}
}
