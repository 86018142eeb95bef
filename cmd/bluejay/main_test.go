package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// TestMain lets the test binary be the bluejay command: what the code under test starts through
// os.Executable is this very code. A subcommand as first argument tells; go test's own arguments all
// begin with a dash.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"serve", "keys", "demo", "sim", "bench", benchLoadName, "sms", "number", "nats", "consent", "health", "version"}, os.Args[1]) {
		misbehave()
		main()
		os.Exit(0)
	}
	// A program with the race detector sleeps for a second at its end; with processes by the dozen
	// that is most of the time these tests take.
	if err := os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// faultEnv makes a child of a test misbehave; it outlives plainEnv.
const faultEnv = "BJTEST_FAULT"

// misbehave is what a bad node would do: write a number down, or not start at all.
func misbehave() {
	at := slices.Index(os.Args, "--dir")
	if os.Args[1] != "serve" || at < 0 {
		return
	}
	switch os.Getenv(faultEnv) {
	case "leak":
		if err := os.WriteFile(filepath.Join(os.Args[at+1], "debug.txt"), []byte("to=447700900456\n"), 0o600); err != nil {
			panic(err)
		}
	case "mute":
		os.Exit(3)
	}
}

// testTime bounds every wait in these tests; nothing normal comes near it.
const testTime = 60 * time.Second

func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	t.Cleanup(cancel)
	return ctx
}

// until polls what no channel tells.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, tick := bounded(t), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// missed tells of a figure that depends on what else the machine does, and how fast it is today: times here drift
// by a factor of two. BLUEJAY_FIGURES=1, on a machine that does nothing else, makes it a failure.
func missed(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("BLUEJAY_FIGURES") != "" {
		t.Errorf("MISSED: %s", what)
		return
	}
	t.Logf("MISSED in this run: %s", what)
}

// tail is a process's standard error, safe to read while it is written.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// proc is this binary as the bluejay command.
type proc struct {
	cmd    *exec.Cmd
	in     io.Closer
	stderr *tail
	lines  chan []byte // of standard output
	ended  chan struct{}
	err    error // once ended
}

// bluejay starts the command. It ends with its standard input, which a test that is killed closes, too.
func bluejay(t testing.TB, env []string, args ...string) *proc {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &proc{cmd: exec.Command(self, args...), stderr: &tail{}, lines: make(chan []byte, 4096), ended: make(chan struct{})}
	p.cmd.Env = append(append(plainEnv(), childEnv+"=1"), env...)
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a test can press Ctrl-C
	in, err1 := p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, p.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	p.in = in
	go p.run(out)
	t.Cleanup(func() { p.cleanUp(t) })
	return p
}

func (p *proc) run(out io.Reader) {
	s := bufio.NewScanner(out)
	for s.Scan() {
		p.lines <- bytes.Clone(s.Bytes())
	}
	close(p.lines)
	p.err = p.cmd.Wait()
	close(p.ended)
}

func (p *proc) cleanUp(t testing.TB) {
	_ = p.in.Close()
	kill := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	<-p.ended
	if log := p.stderr.String(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		t.Errorf("in a child:\n%s", log)
	} else if t.Failed() {
		t.Logf("log of %s:\n%s", p.cmd.Args[1], log)
	}
}

// wait returns the process's exit code.
func (p *proc) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-bounded(t).Done():
		t.Fatalf("%s does not end", p.cmd.Args[1])
		return -1
	}
}

// readyLine is what serve announces.
type readyLine struct {
	Event, Addr, HTTP, NATS string
	WorkerHTTP              string `json:"worker_http"`
	PID                     int
	Children                map[string]int
}

// ready waits for serve's announcement.
func (p *proc) ready(t testing.TB) readyLine { t.Helper(); return p.event(t, "ready") }

// event waits for a line of serve --json.
func (p *proc) event(t testing.TB, name string) readyLine {
	t.Helper()
	ctx := bounded(t)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("it ended before %q:\n%s", name, p.stderr)
			}
			var r readyLine
			if json.Unmarshal(line, &r) == nil && r.Event == name {
				return r
			}
		case <-ctx.Done():
			t.Fatalf("no %q in time:\n%s", name, p.stderr)
		}
	}
}

// world is a node in processes of its own, an SMSC, and handsets.
type world struct {
	t    testing.TB
	dir  string
	args []string
	env  []string
	node *proc
	at   readyLine
	addr atomic.Value // where handsets dial now
	smsc *smsc.Server
	tls  *tls.Config // of handsets
}

// newWorld prepares a node in a new directory; start starts it. No test waits for its deadline to pass, and a text that
// a busy machine holds up for some seconds must not come back and go as an SMS.
func newWorld(t testing.TB, args ...string) *world {
	t.Helper()
	s, err := smsc.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "node"), smsc: s}
	w.env = []string{"BLUEJAY_SMS_PASSWORD=" + smsc.Password}
	w.args = append([]string{
		"serve", "--json", "--dir", w.dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--sms", "smpp://" + smsc.SystemID + "@" + s.Addr(), "--log", "debug",
		"--grey-min", "100ms", "--grey-max", "200ms", "--deadline", "30s",
	}, args...)
	return w
}

func (w *world) start() *world {
	w.t.Helper()
	w.node = bluejay(w.t, w.env, w.args...)
	w.at = w.node.ready(w.t)
	w.addr.Store(w.at.Addr)
	return w
}

// stop ends the node by its standard input and wants it to end well.
func (w *world) stop() {
	w.t.Helper()
	_ = w.node.in.Close()
	if code := w.node.wait(w.t); code != 0 {
		w.t.Fatalf("exit code %d after an orderly end", code)
	}
}

// phone is a handset of a world.
type phone struct {
	*handset.Handset
	w       *world
	name    string
	number  wire.Number
	seen    *inboxWatch
	contact handset.ContactID // the other one
	gate    *gate
	cfg     handset.Config
}

// gate stands in a phone's connection; while it is closed, what the node says is held back.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil: open
	held   chan struct{} // gets a value when something was held back
	second int64         // no CONNECT so far tells a later one
}

// connects is told of every dial before, and of every write after.
func (g *gate) connects(more int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.second = max(g.second+more, time.Now().Unix())
}

// passed reports whether a second has begun that no CONNECT has told.
func (g *gate) passed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Unix() > g.second
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened = nil
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Write(p []byte) (int, error) {
	defer c.gate.connects(0)
	return c.Conn.Write(p)
}

// Read loses what comes while the gate is closed, and with it the connection.
func (c gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.gate.mu.Lock()
	opened := c.gate.opened
	c.gate.mu.Unlock()
	if opened == nil || err != nil {
		return n, err
	}
	select {
	case c.gate.held <- struct{}{}:
	default:
	}
	<-opened
	return 0, io.ErrUnexpectedEOF
}

// phone opens a handset that dials wherever the node is now.
func (w *world) phone(name, number string) *phone {
	w.t.Helper()
	pins, err1 := handset.LoadPins(filepath.Join(w.dir, filePins))
	n, err2 := wire.ParseNumber(number)
	if err := errors.Join(err1, err2); err != nil {
		w.t.Fatal(err)
	}
	p := &phone{w: w, name: name, number: n, gate: &gate{held: make(chan struct{}, 1)}}
	cfg := handset.Config{
		Dir: filepath.Join(filepath.Dir(w.dir), name), Pins: pins, Addr: "127.0.0.1:1", TLS: w.tls, Dial: p.dial,
		Policy: handset.Policy{Mode: fallback.ModeGateway}, HelloTimeout: 5 * time.Second, MaxBackoff: 50 * time.Millisecond,
	}
	p.cfg = cfg
	if p.Handset, err1 = handset.Open(cfg); err1 != nil {
		w.t.Fatal(err1)
	}
	p.seen = watch(p.Events())
	w.t.Cleanup(func() { _ = p.Close() })
	return p
}

func (p *phone) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	p.gate.connects(1)
	addr, _ := p.w.addr.Load().(string)
	if addr == "" {
		return nil, errors.New("the node is down")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return gatedConn{c, p.gate}, nil
}

var consoleSMS = regexp.MustCompile(`^SMS \(simulated.* to (\+[0-9]+): (.*)$`)

// sms waits until the mobile network has a matching SMS, and returns its text. With --sms console
// the network is the worker's standard output, which serve passes on.
func (w *world) sms(what string, match func(smsc.Message) bool) string {
	w.t.Helper()
	ctx := bounded(w.t)
	if !slices.Contains(w.args, "console") {
		m, err := w.smsc.Wait(ctx, match)
		if err != nil {
			w.t.Fatalf("no SMS with %s: %v", what, err)
		}
		return m.Text
	}
	for {
		select {
		case line := <-w.node.lines:
			if m := consoleSMS.FindSubmatch(line); m != nil && match(smsc.Message{To: string(m[1]), Text: string(m[2])}) {
				return string(m[2])
			}
		case <-ctx.Done():
			w.t.Fatalf("the console prints no SMS with %s", what)
		}
	}
}

// enrol takes a new handset through enrolment and consent. [P-14]
func (w *world) enrol(name, number string) *phone {
	w.t.Helper()
	p, ctx := w.phone(name, number), bounded(w.t)
	if err := p.Enrol(ctx, p.number, p.Notice("en")); err != nil {
		w.t.Fatalf("%s: enrol: %v", name, err)
	}
	text := w.sms("a password", func(m smsc.Message) bool { return m.To == number && passwordPattern.MatchString(m.Text) })
	scopes := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway
	err := errors.Join(p.Confirm(ctx, passwordPattern.FindString(text)), p.OptIn(ctx, scopes, wire.Listed), p.Connect(ctx))
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	return p
}

const aliceNumber, bobNumber = "+447700900123", "+447700900456"

// pair enrols alice and bob and opens their conversation.
func (w *world) pair() (alice, bob *phone) {
	w.t.Helper()
	alice, bob = w.enrol("alice", aliceNumber), w.enrol("bob", bobNumber)
	var err1, err2 error
	bob.contact, err1 = bob.AddContact(bounded(w.t), "Alice", alice.number)
	alice.contact, err2 = alice.AddContact(bounded(w.t), "Bob", bob.number)
	if err := errors.Join(err1, err2, alice.OpenConversation(alice.contact)); err != nil {
		w.t.Fatal(err)
	}
	alice.awaits("bob turns blue", colour(alice.contact, handset.Blue))
	return alice, bob
}

func (p *phone) awaits(what string, match func(handset.Event) bool) {
	p.w.t.Helper()
	if err := p.seen.await(bounded(p.w.t), match); err != nil {
		p.w.t.Fatalf("%s: %s: %v", p.name, what, err)
	}
}

// send puts a text into the outbox.
func (p *phone) send(text string) handset.TextID {
	p.w.t.Helper()
	id, err := p.Send(bounded(p.w.t), p.contact, text)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return id
}

func (p *phone) becomes(id handset.TextID, states ...handset.State) {
	p.w.t.Helper()
	p.awaits(fmt.Sprint(states), func(e handset.Event) bool {
		return e.Kind == handset.TextChanged && e.Text == id && slices.Contains(states, e.State)
	})
}

// viaIP sends a text that the other's handset then shows, once it is known to be there: who is grey gets an SMS.
func (p *phone) viaIP(to *phone, text string) {
	p.w.t.Helper()
	until(p.w.t, p.name+" sees that "+to.name+" is blue", func() bool {
		return slices.ContainsFunc(p.Contacts(), func(c handset.Contact) bool { return c.ID == p.contact && c.Colour == handset.Blue })
	})
	p.becomes(p.send(text), handset.Delivered)
	if !shows(to.Texts(to.contact), text) {
		p.w.t.Fatalf("%s does not show what was delivered", to.name)
	}
}

// viaSMS sends a text to somebody who has left: the SMSC gets it.
func (p *phone) viaSMS(to *phone, text string) handset.TextID {
	p.w.t.Helper()
	if err := to.Disconnect(bounded(p.w.t)); err != nil {
		p.w.t.Fatal(err)
	}
	p.awaits("grey", colour(p.contact, handset.Grey))
	id := p.send(text)
	p.w.sms("the text", func(m smsc.Message) bool { return isFallback(m, text) })
	p.becomes(id, handset.SMSSent, handset.SMSDelivered)
	return id
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"version"}, "bluejay devel (go"},
		{[]string{"version", "--json"}, `"protocol":"1"`},
	} {
		root := rootCmd()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(tt.args)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("%v: %q, want %q", tt.args, &out, tt.want)
		}
	}
}

// TestUsage: what cannot be understood ends with exit code 1 and one line that says why.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"serve", "--no-such-flag"}, "unknown flag: --no-such-flag"},
		{[]string{"serve", "extra"}, `unknown command "extra"`},
		{[]string{"demo", "--keep", "/"}, "file exists"},
		{[]string{"serve", "--config", "/nonexistent/file"}, "configuration: open /nonexistent/file"},
	} {
		p := bluejay(t, nil, tt.args...)
		if code := p.wait(t); code != 1 {
			t.Errorf("%v: exit code %d", tt.args, code)
		}
		if text := p.stderr.String(); !strings.HasPrefix(text, "bluejay: ") || !strings.Contains(text, tt.want) || strings.Count(text, "\n") != 1 {
			t.Errorf("%v: %q, want %q on one line", tt.args, text, tt.want)
		}
	}
}
