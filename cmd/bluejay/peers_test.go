//go:build integration

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/envelope"
	"bluejay/wire"
)

// Which fault is shown by which test, each with real peers in processes of their own:
//
//	SMSC down at start and killed mid-run      TestPeersLink
//	accepts TCP and says nothing               TestPeersLink
//	wrong password                             TestPeersLink, TestPeersKannel
//	throttle                                   TestPeersScripted, TestPeersPace
//	invalid destination, temporary error       TestPeersScripted
//	no answer, link lost after accept          TestPeersDoubt
//	worker kill -9 at four points              TestPeersKillPoints; among many: TestPeersWorkerKilled, TestPeersChaos;
//	                                           stopped and continued: TestPeersStoodStill
//	NATS kill -9                               TestPeersNATSKilled
//	receipt early, late, doubled, orphaned     TestPeersScripted
//	message id constant                        TestPeersIDs, TestPeersNetSMPP
//	message id empty                           TestPeersIDs, TestPeersDriveSMPP
//	message id hex, decimal                    TestPeersIDs
//	malformed PDU (fuzz)                       TestPeersFuzz
//	third part of five fails                   TestPeersScripted
//	queue full                                 TestPeersQueueFull
//	STOP between queue and submit              TestPeersStop; on a spool: TestPeersGammu
//	cancelled just before the submit           TestPeersCancelRace, TestPeersTurnsBlue

// scripted is scripts/smsc/smsc.js: an SMSC on npm's smpp that does what stands in each text.
type scripted struct {
	t    *testing.T
	name string // of the script
	port int
	args []string
	cmd  *exec.Cmd
	in   io.WriteCloser

	mu      sync.Mutex
	submits []submitted
	events  map[string]int // how often each came
	ended   chan struct{}
}

// submitted is one submit_sm as the SMSC saw it.
type submitted struct {
	Event, To, From, Text, ID string
	Ref, Of, Index, Port      int
	TON, Coding               int
	Validity                  string
	Status                    int
	At                        int64
	OK                        bool
}

// startSMSC starts it on a port of its own; again starts it on the port it had.
func startSMSC(t *testing.T, args ...string) *scripted {
	t.Helper()
	return startScript(t, "smsc.js", args...)
}

// startScript starts a script of scripts/smsc that says where it listens.
func startScript(t *testing.T, name string, args ...string) *scripted {
	t.Helper()
	s := &scripted{t: t, name: name, args: args, events: map[string]int{}}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *scripted) start() {
	s.t.Helper()
	script, err := filepath.Abs("../../scripts/smsc/" + s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(script), "node_modules", "smpp")); err != nil {
		s.t.Fatalf("%v: install the peers with scripts/peers", err)
	}
	// Of a flag that stands twice the first counts.
	s.cmd = exec.Command("node", slices.Concat([]string{script}, s.args, []string{"--port", fmt.Sprint(s.port), "--password", "secret"})...)
	in, err1 := s.cmd.StdinPipe()
	out, err2 := s.cmd.StdoutPipe()
	s.cmd.Stderr = s.t.Output()
	if err := errors.Join(err1, err2, s.cmd.Start()); err != nil {
		s.t.Fatal(err)
	}
	s.in, s.ended = in, make(chan struct{})
	listening := make(chan int, 1)
	go s.read(json.NewDecoder(out), listening, s.ended)
	select {
	case s.port = <-listening:
	case <-s.ended:
		s.t.Fatalf("%s does not start", s.name)
	}
}

func (s *scripted) read(lines *json.Decoder, listening chan<- int, ended chan<- struct{}) {
	defer close(ended)
	for {
		var e submitted
		if err := lines.Decode(&e); err != nil {
			return
		}
		if e.Event == "listening" {
			listening <- e.Port
		}
		s.mu.Lock()
		s.events[e.Event]++
		if e.Event == "submit" {
			s.submits = append(s.submits, e)
		}
		s.mu.Unlock()
	}
}

// kill ends it as a machine that fails does.
func (s *scripted) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
	_ = s.cmd.Wait()
}

// accepted counts the parts it accepted of texts that contain what.
func (s *scripted) accepted(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.submits {
		if e.Status == 0 && strings.Contains(e.Text, what) {
			n++
		}
	}
	return n
}

// tries counts the parts it was asked to take, refused ones included.
func (s *scripted) tries(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.submits {
		if strings.Contains(e.Text, what) {
			n++
		}
	}
	return n
}

// count is how often something happened.
func (s *scripted) count(event string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events[event]
}

func (s *scripted) tell(line string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.t.Fatal(err)
	}
}

// bench is a broker and a registrar in one process, SMS workers in others, and this test in the place
// of the senders' handsets.
type bench struct {
	t      *testing.T
	dir    string
	node   *proc
	nats   string
	routes string
	worker []*proc
	status string // where the latest worker serves its status

	broker, registrar *bridge.Bridge
	key               wire.WorkerKey
	sender            wire.Pseudonym
	mu                sync.Mutex
	told              map[wire.MessageID][]wire.JobState
}

// newBench starts everything but the worker; routes is the worker's file.
func newBench(t *testing.T, routes string) *bench {
	t.Helper()
	b := prepareBench(t, routes)
	b.start("")
	return b
}

// prepareBench makes the keys and the files.
func prepareBench(t *testing.T, routes string) *bench {
	t.Helper()
	b := &bench{t: t, dir: filepath.Join(t.TempDir(), "node"), told: map[wire.MessageID][]wire.JobState{}, sender: wire.Pseudonym{1}}
	if err := initKeys(b.dir, "bluejay"); err != nil {
		t.Fatal(err)
	}
	b.routes = filepath.Join(t.TempDir(), "routes.toml")
	if err := os.WriteFile(b.routes, []byte(routes), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// start starts the node; nats is the URL of a server beside it, "" for one in the node's own process.
func (b *bench) start(nats string) {
	b.t.Helper()
	b.node = bluejay(b.t, nil, "serve", "--json", "--dir", b.dir, "--roles", "broker,registrar", "--one-process", "--listen", "127.0.0.1:0",
		"--http", "", "--nats", nats)
	b.nats = b.node.ready(b.t).NATS
	b.broker, b.registrar = b.open(bridge.RoleBroker), b.open(bridge.RoleRegistrar)
	if err := b.broker.Outcomes().Watch(b.hear); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) open(r bridge.Role) *bridge.Bridge {
	b.t.Helper()
	br, err := bridge.Connect(bounded(b.t), bridge.Config{URL: b.nats, Role: r, Creds: rolesDir(b.dir, r).path(fileCreds), Timeout: 30 * time.Second})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = br.Close(ctx) // the server may have been killed
	})
	return br
}

func (b *bench) hear(_ wire.Pseudonym, o wire.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[o.Message] = append(b.told[o.Message], o.State)
}

// work starts a worker and waits for its key.
func (b *bench) work() *proc { b.t.Helper(); return b.workVia(b.nats) }

// workVia is work with another way to NATS.
func (b *bench) workVia(nats string) *proc {
	b.t.Helper()
	p := bluejay(b.t, nil, "serve", "--json", "--roles", "worker", "--nats", nats, "--keys", string(rolesDir(b.dir, bridge.RoleWorker)),
		"--sms-routes", b.routes, "--worker-http", "127.0.0.1:0", "--log", "info")
	b.status = "http://" + p.ready(b.t).WorkerHTTP
	if b.key == (wire.WorkerKey{}) {
		got := make(chan wire.WorkerKey, 10)
		if err := b.broker.WatchWorkerKey(func(k wire.WorkerKey) { got <- k }); err != nil {
			b.t.Fatal(err)
		}
		select {
		case b.key = <-got:
		case <-bounded(b.t).Done():
			b.t.Fatal("the worker publishes no key")
		}
	}
	b.worker = append(b.worker, p)
	return p
}

// figure waits until the latest worker's metrics have a line.
func (b *bench) figure(line string) {
	b.t.Helper()
	until(b.t, "the metrics have "+line, func() bool {
		_, body := get(b.t, b.status+"/metrics")
		return strings.Contains(body, line+"\n")
	})
}

// kill9 ends a process with -9 and waits.
func (p *proc) kill9() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// number is one that no other text of the test goes to.
func number(i int) string { return fmt.Sprintf("+4474%08d", i) }

// queue queues a text, as a broker does when a handset published it; urgent ones as the registrar does.
func (b *bench) queue(to, text string, c wire.JobClass) wire.MessageID {
	b.t.Helper()
	id, err := b.tryQueue(b.sender, to, text, c)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *bench) tryQueue(sender wire.Pseudonym, to, text string, c wire.JobClass) (wire.MessageID, error) {
	sealed, err := b.seal(to, text, c)
	if err != nil {
		return wire.MessageID{}, err
	}
	return wire.MessageIDOf(sealed), b.enqueue(sender, sealed, c)
}

func (b *bench) seal(to, text string, c wire.JobClass) ([]byte, error) {
	n, err := wire.ParseNumber(to)
	if err != nil {
		return nil, err
	}
	return envelope.SealJob(b.key, envelope.Job{To: n, Text: text, Class: c, ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second)})
}

func (b *bench) enqueue(sender wire.Pseudonym, sealed []byte, c wire.JobClass) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if c == wire.ClassUrgent {
		return b.registrar.Jobs().PublishUrgent(ctx, sealed)
	}
	return b.broker.Jobs().Enqueue(ctx, c, sender, wire.MessageIDOf(sealed), sealed, nil, nil)
}

// last is the state that the sender goes by: the last told, but a final one is never left, because two
// workers may tell theirs in either order. "" for none.
func (b *bench) last(id wire.MessageID) (state string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.told[id] {
		state = s.String()
		if s.Final() {
			break
		}
	}
	return state
}

// longTime bounds what takes a minute by itself: a job in doubt, a bind that was refused.
const longTime = 4 * time.Minute

// soon polls what may take that minute.
func (b *bench) soon(what string, ok func() bool) {
	b.t.Helper()
	deadline, tick := time.Now().Add(longTime), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if <-tick.C; time.Now().After(deadline) {
			b.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// becomes waits until the sender was told a state. Another final one fails at once: none is ever left.
func (b *bench) becomes(id wire.MessageID, want string) {
	b.t.Helper()
	deadline, tick := time.Now().Add(longTime), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for got := ""; got != want; got = b.last(id) {
		if <-tick.C; time.Now().After(deadline) || slices.Contains(finals, got) {
			b.t.Fatalf("told %q, want %q", got, want)
		}
	}
}

// finals are the names of the states that are never left.
var finals = func() (names []string) {
	for s := range wire.JobState(0xff) {
		if s.Final() {
			names = append(names, s.String())
		}
	}
	return names
}()

// smppRoutes is a routes file with the scripted SMSC.
func smppRoutes(t *testing.T, port int, more string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[limits]\nper-number = 1000\nper-sender = 1000000\n[[route]]\nname = \"npm\"\nvia = \"smpp\"\nurl = \"smpp://me@127.0.0.1:%d\"\npassword-file = \"%s\"\nfrom = \"Bluejay\"\n%s", port, file, more)
}

// TestPeersScripted: every answer an SMSC may give, on npm's smpp: the state each text ends in, how often
// the SMSC took it, and that the next text works. [F-5] [F-11] [F-14] [F-15]
func TestPeersScripted(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, ""))
	b.work()
	long := strings.Repeat("a long text for many parts, ", 24) // 672 characters: five parts
	for i, tt := range []struct {
		name, text, want string
		tries, accepted  int // parts, by the SMSC; -1: not looked at
	}{
		{"delivered", "plain", "delivered", 1, 1},
		{"in five parts", long, "delivered", 5, 5},
		{"in UCS-2", "привет, это текст", "delivered", -1, -1},
		{"an invalid destination", "[status=0x0b] nobody", "failed", 1, 0},
		{"any other status", "[status=0x99] what", "failed", 1, 0},
		{"a temporary error, twice", "[first=0x08*2] twice", "delivered", 3, 1},
		{"a full queue, twice", "[first=0x14*2] full", "delivered", 3, 1},
		{"throttled, twice", "[first=0x58*2] slow down", "delivered", 3, 1},
		{"temporary for ever", "[status=0x64] for ever", "failed", 6, 0},
		{"not bound, it says", "[first=0x04*1] rebind", "delivered", 2, 1},
		{"the third part of five fails", strings.Repeat("[part=3,0x0b] in each ", 30), "failed", 3, 2},
		{"a receipt before the answer", "[early] early", "delivered", 1, 1},
		{"a late receipt", "[late=700] late", "delivered", 1, 1},
		{"a doubled receipt", "[double] double", "delivered", 1, 1},
		{"an orphaned receipt before its own", "[orphan] orphan", "delivered", 1, 1},
		{"undeliverable", "[state=UNDELIV] off", "undeliverable", 1, 1},
		{"expired at the SMSC", "[state=EXPIRED] old", "expired", 1, 1},
		{"rejected by the network", "[state=REJECTD] no", "rejected", 1, 1},
		{"no receipt yet", "[mute] mute", "submitted", 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			marker := fmt.Sprintf(" #%d#", i)
			text := tt.text + marker
			if len(tt.text) > 160 {
				marker = tt.text[:10]
			}
			b.t = t
			b.becomes(b.queue(number(i), text, wire.ClassNormal), tt.want)
			if n, m := s.tries(marker), s.accepted(marker); tt.tries >= 0 && (n != tt.tries || m != tt.accepted) {
				t.Errorf("the SMSC was asked for %d parts and took %d, want %d and %d", n, m, tt.tries, tt.accepted)
			}
		})
	}
}

// TestPeersFuzz: an SMSC that sends damaged PDUs, some with a length that is right and some without,
// while texts go out: each text goes once and is reported, and the worker lives. [F-14]
func TestPeersFuzz(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, ""))
	w := b.work()
	b.becomes(b.queue(number(0), "before the damage", wire.ClassNormal), "delivered")
	ids := map[string]wire.MessageID{}
	for round := range 5 {
		s.tell(fmt.Sprintf("fuzz 1000 %d", 20260101+round))
		for i := range 10 {
			text := fmt.Sprintf("round %d, text <%d>", round, i)
			ids[text] = b.queue(number(100*round+i), text, wire.ClassNormal)
		}
	}
	for text, id := range ids {
		b.becomes(id, "delivered")
		if n := s.tries(text); n != 1 {
			t.Errorf("%s: taken %d times", text, n)
		}
	}
	until(t, "all were sent", func() bool { return s.count("fuzzed") == 5 })
	s.tell("garble")
	b.becomes(b.queue(number(900), "after broken PDUs", wire.ClassNormal), "delivered")
	if n := s.accepted("after broken PDUs"); n != 1 {
		t.Errorf("taken %d times", n)
	}
	select {
	case <-w.ended:
		t.Errorf("the worker has ended:\n%s", w.stderr)
	default:
	}
	if log := w.stderr.String(); strings.Contains(log, "panic") {
		t.Errorf("a panic:\n%s", log)
	}
}

// TestPeersIDs: receipts find their texts whatever the ids look like; where they cannot, no text has
// another's receipt. [F-14]
func TestPeersIDs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ids, more string
		unique    bool
	}{
		{"fresh", "", true}, {"hex", "", true}, {"hexdec", "ids = \"hex-decimal\"\n", true},
		{"constant", "", false}, {"empty", "", false},
	} {
		t.Run(tt.ids, func(t *testing.T) {
			t.Parallel()
			s := startSMSC(t, "--ids", tt.ids)
			b := newBench(t, smppRoutes(t, s.port, tt.more))
			b.work()
			b.becomes(b.queue(number(1), "one", wire.ClassNormal), "delivered")
			b.becomes(b.queue(number(2), "[state=UNDELIV] two", wire.ClassNormal), "undeliverable")

			waits := b.queue(number(3), "[mute] whose receipt does not come", wire.ClassNormal)
			b.becomes(waits, "submitted")
			other := b.queue(number(3), "[state=UNDELIV] to the same number", wire.ClassNormal)
			if tt.unique {
				b.becomes(other, "undeliverable")
			} else {
				until(t, "its receipt was taken", func() bool { return s.count("reported") == 3 })
				b.becomes(b.queue(number(4), "the next one", wire.ClassNormal), "delivered")
				if got := b.last(other); got != "submitted" {
					t.Errorf("a receipt that may be either's: %q", got)
				}
			}
			if got := b.last(waits); got != "submitted" {
				t.Errorf("a text has another's receipt: %q", got)
			}
		})
	}
}

// TestPeersLink: the SMSC is away at the start, refuses the password, says nothing, or is killed: jobs
// wait, the operator can see why, and each goes once when the SMSC is back. [F-11] [F-15]
func TestPeersLink(t *testing.T) {
	t.Parallel()
	t.Run("down at the start, killed in between", func(t *testing.T) {
		t.Parallel()
		s := startSMSC(t)
		b := newBench(t, smppRoutes(t, s.port, ""))
		s.kill()
		b.work()
		first := b.queue(number(1), "while it was down", wire.ClassNormal)
		s.start()
		b.becomes(first, "delivered")
		s.kill()
		second := b.queue(number(2), "after it was killed", wire.ClassNormal)
		s.start()
		b.becomes(second, "delivered")
		if s.tries("while it was down") != 1 || s.tries("after it was killed") != 1 {
			t.Error("not once each")
		}
	})
	for _, tt := range []struct{ name, fault, value, check, log string }{
		{"wrong password", "--password", "other", "check system id, password", "SMSC refused the bind: check system id and password"},
		{"accepts and says nothing", "--mute-bind", "", "is this the SMPP port?", "no link to the SMSC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startSMSC(t, tt.fault, tt.value)
			b := newBench(t, smppRoutes(t, s.port, ""))
			if out, code := run(t, "sms", "check", "--sms-routes", b.routes); code != 1 || !strings.Contains(out, tt.check) {
				t.Errorf("exit code %d: %s", code, out)
			}
			w := b.work()
			id := b.queue(number(1), "waits for the repair", wire.ClassNormal)
			b.soon("the operator is told", func() bool { return strings.Contains(w.stderr.String(), tt.log) })
			code, body := get(t, b.status+"/readyz")
			if code != http.StatusServiceUnavailable || !strings.Contains(body, "no route has a link") {
				t.Errorf("/readyz: %d %s", code, body)
			}
			b.figure(`bluejay_sms_link_up{route="npm"} 0`)
			if got := b.last(id); got != "" {
				t.Errorf("told %q while nothing was sent", got)
			}
			s.kill()
			s.args = nil
			s.start()
			b.becomes(id, "delivered")
			b.figure(`bluejay_sms_link_up{route="npm"} 1`)
			if n := s.tries("waits for the repair"); n != 1 {
				t.Errorf("taken %d times", n)
			}
			if code, body := get(t, b.status+"/readyz"); code != http.StatusOK {
				t.Errorf("/readyz after the repair: %d %s", code, body)
			}
		})
	}
}

// TestPeersTLS: an SMSC with a certificate gets a text over TLS 1.2 or newer; one that nobody signed whom
// the operator trusts, or that speaks no TLS at all, does not get the password.
func TestPeersTLS(t *testing.T) {
	t.Parallel()
	cert, key, _ := selfSigned(t)
	s, plain := startSMSC(t, "--key", key, "--cert", cert), startSMSC(t)
	secure := func(port int, more string) string {
		return strings.Replace(smppRoutes(t, port, more), "smpp://", "smpps://", 1)
	}
	for _, tt := range []struct {
		name, routes, want string
	}{
		{"a stranger's certificate", secure(s.port, ""), "certificate"},
		{"no TLS there", secure(plain.port, "ca = \""+cert+"\"\n"), "FAILS"},
		{"no TLS here", smppRoutes(t, s.port, ""), "whether it expects TLS"},
	} {
		file := filepath.Join(t.TempDir(), "routes.toml")
		if err := os.WriteFile(file, []byte(tt.routes), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := run(t, "sms", "check", "--sms-routes", file); code != 1 || !strings.Contains(out, tt.want) {
			t.Errorf("%s: exit code %d: %s", tt.name, code, out)
		}
	}
	if n := s.count("bind") + plain.count("bind"); n != 0 {
		t.Errorf("%d binds reached somebody", n)
	}
	b := newBench(t, secure(s.port, "ca = \""+cert+"\"\n"))
	if out, code := run(t, "sms", "check", "--sms-routes", b.routes); code != 0 {
		t.Errorf("check: exit code %d: %s", code, out)
	}
	b.work()
	b.becomes(b.queue(number(1), "over TLS", wire.ClassNormal), "delivered")
}
