//go:build integration

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// Debian's Kannel. A missing one fails the tests: run scripts/peers.
const (
	bearerboxPath = "/usr/sbin/bearerbox"
	smsboxPath    = "/usr/sbin/smsbox"
	fakesmscPath  = "/usr/lib/kannel/test/fakesmsc"
)

// kannel is a Kannel of its own on loopback, with its fakesmsc as the phone network.
type kannel struct {
	t        *testing.T
	dir      string
	admin    string
	sendsms  string // host:port
	smsc     string // port that fakesmsc connects to
	incoming string // where texts from phones go
	network  *peer  // fakesmsc
	boxes    []*peer
}

// peer is a process of somebody else's program; its output is kept, line by line.
type peer struct {
	cmd   *exec.Cmd
	lines chan string
	ended chan struct{}
	log   *tail
}

func startProgram(t *testing.T, path string, args ...string) *peer {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: install the peers with scripts/peers", err)
	}
	p := &peer{cmd: exec.Command(path, args...), lines: make(chan string, 4096), ended: make(chan struct{}), log: &tail{}}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		s := bufio.NewScanner(out)
		for s.Scan() {
			_, _ = io.WriteString(p.log, s.Text()+"\n")
			select {
			case p.lines <- s.Text():
			default: // nobody reads them
			}
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			log := p.log.String()
			t.Logf("%s:\n%s", filepath.Base(path), log[max(0, len(log)-4000):])
		}
	})
	return p
}

func (p *peer) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

var portsTaken atomic.Int64

// freePort is a port that was free a moment ago, and that nobody is given by chance: it is below those
// that systems give to connections. Another test's process begins to look elsewhere.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := fmt.Sprint(20_000 + (int64(os.Getpid())*10+portsTaken.Add(1))%10_000)
		if ln, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// accepts waits until something listens.
func accepts(t *testing.T, port string) {
	t.Helper()
	until(t, "port "+port, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

const kannelConf = `group = core
admin-port = %[1]s
admin-interface = 127.0.0.1
admin-password = bar
smsbox-port = %[2]s
box-deny-ip = "*.*.*.*"
box-allow-ip = "127.0.0.1"
dlr-storage = internal
sms-resend-freq = 2

group = smsc
smsc = fake
smsc-id = FAKE
port = %[3]s
connect-allow-ip = 127.0.0.1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = %[4]s
sendsms-interface = 127.0.0.1
http-request-retry = 10
http-queue-delay = 1

group = sendsms-user
username = tester
password = foobar
max-messages = 6
concatenation = true
user-allow-ip = "127.0.0.1"

group = sms-service
keyword = default
max-messages = 0
get-url = "%[5]s?from=%%p&to=%%P&text=%%a&charset=UTF-8"
`

// startKannel starts bearerbox, smsbox and fakesmsc. incoming is where texts from phones go.
func startKannel(t *testing.T, incoming string) *kannel {
	t.Helper()
	k := &kannel{t: t, dir: t.TempDir(), admin: freePort(t), smsc: freePort(t), incoming: incoming}
	box, send := freePort(t), freePort(t)
	k.sendsms = "127.0.0.1:" + send
	conf := filepath.Join(k.dir, "kannel.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, kannelConf, k.admin, box, k.smsc, send, incoming), 0o600); err != nil {
		t.Fatal(err)
	}
	k.boxes = append(k.boxes, startProgram(t, bearerboxPath, "-v", "1", conf))
	accepts(t, k.admin)
	accepts(t, k.smsc)
	k.boxes = append(k.boxes, startProgram(t, smsboxPath, "-v", "1", conf))
	accepts(t, send)
	return k
}

// phones starts the phone network; it says each of texts once, as soon as it is up.
func (k *kannel) phones(texts ...string) {
	k.t.Helper()
	args := []string{"-H", "127.0.0.1", "-r", k.smsc, "-i", "0.2", "-m", fmt.Sprint(max(len(texts), 1))}
	if len(texts) == 0 {
		texts = []string{"+447700900999 12345 text nothing for anybody"}
	}
	k.network = startProgram(k.t, fakesmscPath, append(args, texts...)...)
}

var gotMessage = regexp.MustCompile(`Got message \d+: <(\S+) (\S+) (\S+) (.*)>`)

// awaits returns the next text for a number that the network got.
func (k *kannel) awaits(number string, ok func(text string) bool) string {
	k.t.Helper()
	deadline := time.After(testTime)
	for {
		select {
		case line := <-k.network.lines:
			m := gotMessage.FindStringSubmatch(line)
			if m == nil || m[2] != number {
				continue
			}
			text := strings.ReplaceAll(m[4], "+", " ")
			if ok(text) {
				return text
			}
		case <-deadline:
			k.t.Fatalf("no such SMS for %s", number)
		}
	}
}

// TestPeersKannel: a whole node with Kannel as its gateway and Kannel's fakesmsc as the phone network:
// a wrong password is found by the check, one-time passwords arrive, a text goes as SMS and is reported
// as delivered, the gateway goes down and comes back without a text lost or doubled, and STOP from a
// phone ends in silence. [F-11] [F-14] [F-17] [F-18]
func TestPeersKannel(t *testing.T) {
	callbacks := freePort(t)
	w := newWorld(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secretFile := write("callbacks", "a secret of the tests, 16 bytes or more\n")
	routes := func(login, url string) string {
		return write("routes.toml", fmt.Sprintf(`[callbacks]
listen = "127.0.0.1:%s"
url = "http://127.0.0.1:%s"
[[route]]
name = "kannel"
via = "kannel"
url = "%s"
password-file = "%s"
secret-file = "%s"
from = "Bluejay"
`, callbacks, callbacks, url, login, secretFile))
	}
	file := routes(write("login", "tester:foobar\n"), "http://127.0.0.1:1/cgi-bin/sendsms")
	c := defaultConfig()
	c.SMSRoutes = file
	ways, err := openWays(&c, io.Discard, c.logger())
	if err != nil {
		t.Fatal(err)
	}
	incoming := ways.routes.All()[0].Transport.(interface{ IncomingURL() string }).IncomingURL()

	k := startKannel(t, incoming)
	url := "http://" + k.sendsms + "/cgi-bin/sendsms"
	bad := routes(write("bad", "tester:wrong\n"), url)
	if out, code := run(t, "sms", "check", "--sms-routes", bad); code != 1 || !strings.Contains(out, "does not take the user name or the password") {
		t.Errorf("exit code %d: %s", code, out)
	}
	file = routes(filepath.Join(dir, "login"), url)
	if out, code := run(t, "sms", "check", "--sms-routes", file); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	k.phones()
	w.args = append(w.args, "--sms-routes", file)
	w.start()

	enrol := func(name, number string) *phone {
		p, ctx := w.phone(name, number), bounded(t)
		if err := p.Enrol(ctx, p.number, p.Notice("en")); err != nil {
			t.Fatal(err)
		}
		text := k.awaits(number, func(s string) bool { return passwordPattern.MatchString(s) })
		scopes := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway
		if err := errors.Join(p.Confirm(ctx, passwordPattern.FindString(text)), p.OptIn(ctx, scopes, wire.Listed), p.Connect(ctx)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	alice, bob := enrol("alice", aliceNumber), enrol("bob", bobNumber)
	var err1, err2 error
	bob.contact, err1 = bob.AddContact(bounded(t), "Alice", alice.number)
	alice.contact, err2 = alice.AddContact(bounded(t), "Bob", bob.number)
	if err := errors.Join(err1, err2, alice.OpenConversation(alice.contact)); err != nil {
		t.Fatal(err)
	}
	alice.awaits("bob turns blue", colour(alice.contact, handset.Blue))
	if err := bob.Disconnect(bounded(t)); err != nil {
		t.Fatal(err)
	}
	alice.awaits("grey", colour(alice.contact, handset.Grey))

	id := alice.send("over the gateway, with an umlaut: grün")
	k.awaits(bobNumber, func(s string) bool { return strings.Contains(s, "with an umlaut: gr") })
	alice.becomes(id, handset.SMSDelivered)

	for _, b := range k.boxes { // the gateway goes down, and comes back on the same ports
		b.kill()
	}
	k.network.kill()
	late := alice.send("while the gateway was down")
	conf := filepath.Join(k.dir, "kannel.conf")
	startProgram(t, bearerboxPath, "-v", "1", conf)
	accepts(t, k.smsc)
	startProgram(t, smsboxPath, "-v", "1", conf)
	accepts(t, strings.TrimPrefix(k.sendsms, "127.0.0.1:"))
	k.phones()
	k.awaits(bobNumber, func(s string) bool { return strings.Contains(s, "while the gateway was down") })
	alice.becomes(late, handset.SMSDelivered)
	k.network.kill()
	once := strings.Count(k.network.log.String(), "gateway was down")
	k.phones(bobNumber + " 12345 text Please stop texting me")

	if err := bob.Connect(bounded(t)); err != nil && !bob.Status().Connected {
		t.Log(err) // STOP may have come first
	}
	bob.awaits("bob is off by STOP", func(e handset.Event) bool { return e.Kind == handset.ConsentEnded })
	last := alice.send("after STOP")
	alice.becomes(last, handset.Failed)
	for len(k.network.lines) > 0 {
		if line := <-k.network.lines; strings.Contains(line, "after") && strings.Contains(line, "STOP") {
			t.Errorf("an SMS after STOP: %s", line)
		}
	}
	if twice := strings.Count(k.network.log.String(), "gateway was down"); once != 1 || twice != 0 {
		t.Errorf("a text came %d and %d times", once, twice)
	}
	w.stop()
}
