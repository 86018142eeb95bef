//go:build integration

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bluejay/broker"
	"bluejay/wire"
)

// natsGate stands between a worker and NATS. It reads what the worker says and keeps back what a test
// wants kept back: so a worker can be stopped between any two of its steps, from outside.
type natsGate struct {
	to string
	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	keeps func(subject string, payload []byte) bool // nil: nothing
	kept  map[string]map[string]bool                // by subject, the payloads: said again is kept once
	acks  int                                       // jobs acknowledged, that were let through
	conns map[net.Conn]bool
}

func newGate(t *testing.T, nats string) *natsGate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &natsGate{to: strings.TrimPrefix(nats, "nats://"), ln: ln, kept: map[string]map[string]bool{}, conns: map[net.Conn]bool{}}
	g.wg.Go(g.accept)
	t.Cleanup(g.close)
	return g
}

func (g *natsGate) url() string { return "nats://" + g.ln.Addr().String() }

func (g *natsGate) close() {
	_ = g.ln.Close()
	g.mu.Lock()
	for c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.wg.Wait()
}

func (g *natsGate) accept() {
	for {
		worker, err := g.ln.Accept()
		if err != nil {
			return
		}
		nats, err := net.Dial("tcp", g.to)
		if err != nil {
			_ = worker.Close()
			continue
		}
		g.mu.Lock()
		g.conns[worker], g.conns[nats] = true, true
		g.mu.Unlock()
		g.wg.Go(func() { _, _ = io.Copy(worker, nats); _ = worker.Close() })
		g.wg.Go(func() { g.pass(bufio.NewReader(worker), nats); _ = nats.Close() })
	}
}

// pass passes on what the worker says, one protocol message at a time
// (https://docs.nats.io/reference/reference-protocols/nats-protocol).
func (g *natsGate) pass(worker *bufio.Reader, nats io.Writer) {
	for {
		line, err := worker.ReadBytes('\n')
		if err != nil {
			return
		}
		words := strings.Fields(string(line))
		if len(words) > 2 && (words[0] == "PUB" || words[0] == "HPUB") {
			n, _ := strconv.Atoi(words[len(words)-1])
			payload := make([]byte, n+2)
			if _, err := io.ReadFull(worker, payload); err != nil {
				return
			}
			if g.keep(words[1], payload) {
				continue
			}
			line = append(line, payload...)
		}
		if _, err := nats.Write(line); err != nil {
			return
		}
	}
}

func (g *natsGate) keep(subject string, payload []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keeps != nil && g.keeps(subject, payload) {
		if g.kept[subject] == nil {
			g.kept[subject] = map[string]bool{}
		}
		g.kept[subject][string(payload)] = true
		return true
	}
	if isAck(subject, payload) {
		g.acks++
	}
	return false
}

// withhold keeps back from now on what f says.
func (g *natsGate) withhold(f func(subject string, payload []byte) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keeps = f
}

// holds reports whether it has kept something back under each of the subjects.
func (g *natsGate) holds(subjects ...string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range subjects {
		if len(g.kept[s]) == 0 {
			return false
		}
	}
	return true
}

// counts is how many different things it has kept back, and how many jobs were acknowledged through it.
func (g *natsGate) counts() (kept, acks int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, payloads := range g.kept {
		kept += len(payloads)
	}
	return kept, g.acks
}

// isAck is the acknowledgement of a job, not the sign that it is still held ("+WPI").
func isAck(subject string, payload []byte) bool {
	return strings.HasPrefix(subject, "$JS.ACK."+wire.StreamJobs+".") && bytes.HasPrefix(payload, []byte("+ACK"))
}

// asksTheList is the question whether a number is on the suppression list: the last thing between the journal
// and the first byte. At its start a worker also asks whether the list is still to be rewritten ("wipe").
func asksTheList(subject string, payload []byte) bool {
	return strings.HasSuffix(subject, "STREAM.MSG.GET.KV_"+wire.BucketSuppressed) && !bytes.Contains(payload, []byte(`.wipe"`))
}

// journalled is where the worker writes a job's entry.
func journalled(id wire.MessageID) string { return "$KV." + wire.BucketJournal + "." + id.String() }

// settles waits until the journal has a state: of urgent texts nobody else is told.
func (b *bench) settles(id wire.MessageID, want string) {
	b.t.Helper()
	got := ""
	b.soon("the journal has "+want, func() bool {
		e, ok, err := b.broker.Journal().Get(bounded(b.t), id)
		if err != nil {
			b.t.Fatal(err)
		}
		if got = e.State.String(); ok && e.State.Final() && got != want {
			b.t.Fatalf("the journal has %q, want %q", got, want)
		}
		return ok && got == want
	})
}

// TestPeersKillPoints: a worker is killed with -9 at each point of a submission, with a normal text and
// an urgent one in hand. What another worker makes of them is what the journal and the SMSC allow: a text
// that may have been written is never written again unless it is urgent, and one that was answered and
// journalled not even then. [F-5] [F-7] [F-11]
func TestPeersKillPoints(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script   string
		reach          func(*testing.T, *bench, *scripted, *natsGate, []wire.MessageID) // until the worker is at the point
		normal, urgent string                                                           // their ends
		tries          [2]int                                                           // how often the SMSC was asked
	}{
		// The journal has the attempt, and no byte has left: whoever finds it cannot know that.
		{"before the write", "", func(t *testing.T, b *bench, s *scripted, _ *natsGate, ids []wire.MessageID) {
			for _, id := range ids {
				until(t, "the journal has the attempt", func() bool { return b.begun(id) })
			}
		}, "unknown", "delivered", [2]int{0, 1}},
		{"after the write", "[silent] [once]", func(t *testing.T, _ *bench, s *scripted, _ *natsGate, _ []wire.MessageID) {
			until(t, "both are written", func() bool { return s.tries("text") == 2 })
		}, "unknown", "delivered", [2]int{1, 2}},
		{"after the answer", "[hold] [once] [mute]", afterTheAnswer, "unknown", "submitted", [2]int{1, 2}},
		{"after the answer, and a receipt comes", "[hold] [once] [late=45000]", afterTheAnswer, "delivered", "delivered", [2]int{1, 1}},
		{"before the ack", "[late=2000]", func(t *testing.T, _ *bench, _ *scripted, g *natsGate, _ []wire.MessageID) {
			until(t, "it acknowledges both", func() bool { kept, _ := g.counts(); return kept == 2 })
		}, "delivered", "delivered", [2]int{1, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startSMSC(t)
			b := newBench(t, smppRoutes(t, s.port, ""))
			gate := newGate(t, b.nats)
			switch tt.name {
			case "before the write":
				gate.withhold(asksTheList)
			case "before the ack":
				gate.withhold(isAck)
			}
			w := b.workVia(gate.url())
			ids := []wire.MessageID{b.queue(number(1), tt.script+" normal text", wire.ClassNormal), b.queue(number(2), tt.script+" urgent text", wire.ClassUrgent)}
			tt.reach(t, b, s, gate, ids)
			w.kill9()
			next := newGate(t, b.nats)
			b.workVia(next.url())
			b.becomes(ids[0], tt.normal)
			b.settles(ids[1], tt.urgent)
			b.soon("both are acknowledged", func() bool { _, acks := next.counts(); return acks == 2 })
			if n, u := s.tries("normal"), s.tries("urgent"); n != tt.tries[0] || u != tt.tries[1] {
				t.Errorf("the SMSC was asked %d and %d times, want %v", n, u, tt.tries)
			}
		})
	}
}

// TestPeersStoodStill: a worker process stands still between the journal and the first byte of two texts,
// longer than another waits in doubt, and then goes on: it sends neither, and what their senders were told
// stays true. [F-7] [F-11]
func TestPeersStoodStill(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, ""))
	gate := newGate(t, b.nats)
	gate.withhold(asksTheList)
	still := b.workVia(gate.url())
	normal, urgent := b.queue(number(1), "normal text", wire.ClassNormal), b.queue(number(2), "urgent text", wire.ClassUrgent)
	// The journal having both attempts would not do: the worker may not have been told so yet.
	until(t, "it has asked the list for both", func() bool { kept, _ := gate.counts(); return kept == 2 })
	if !b.begun(normal) || !b.begun(urgent) {
		t.Fatal("it asks the list before the journal has the attempt")
	}
	if err := still.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = still.cmd.Process.Signal(syscall.SIGCONT) // after a failure
		if _, acks := gate.counts(); t.Failed() {
			t.Logf("the worker that stood still acknowledged %d jobs, and said:\n%s", acks, still.stderr)
		}
	})
	gate.withhold(nil)
	b.work()
	b.becomes(normal, "unknown")
	b.settles(urgent, "delivered")
	if err := still.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "it sees that it stood still", func() bool { return strings.Count(still.stderr.String(), "another took its job over") == 2 })
	b.becomes(b.queue(number(3), "the next one", wire.ClassNormal), "delivered")
	b.becomes(normal, "unknown")
	b.settles(normal, "unknown")
	b.settles(urgent, "delivered")
	if n, u := s.tries("normal"), s.tries("urgent"); n != 0 || u != 1 {
		t.Errorf("the SMSC was asked %d and %d times, want 0 and 1", n, u)
	}
}

// begun reports whether the journal has an attempt under way.
func (b *bench) begun(id wire.MessageID) bool {
	e, ok, err := b.broker.Journal().Get(bounded(b.t), id)
	return err == nil && ok && e.Owner != ""
}

// afterTheAnswer lets the SMSC answer when the journal cannot be reached any more.
func afterTheAnswer(t *testing.T, _ *bench, s *scripted, g *natsGate, ids []wire.MessageID) {
	t.Helper()
	until(t, "both are written", func() bool { return s.tries("text") == 2 })
	g.withhold(func(subject string, _ []byte) bool { return strings.HasPrefix(subject, "$KV."+wire.BucketJournal+".") })
	s.tell("answer")
	until(t, "it has both answers", func() bool { return g.holds(journalled(ids[0]), journalled(ids[1])) })
}

// TestPeersDoubt: no answer, an answer that comes late, and a link cut after the text was taken: at most
// once by default, at least once when urgent. [F-5] [F-11]
func TestPeersDoubt(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, ""))
	b.work()
	dropped := b.queue(number(1), "[drop] [mute] cut off", wire.ClassNormal)
	until(t, "it is cut off, and there is a new link", func() bool { return s.accepted("cut off") == 1 && s.count("bind") >= 2 })
	urgent := b.queue(number(2), "[drop] [once] a password", wire.ClassUrgent)
	until(t, "and that", func() bool { return s.accepted("a password") == 1 })
	b.becomes(b.queue(number(3), "on a new link", wire.ClassNormal), "delivered")

	silent := b.queue(number(4), "[silent] no answer", wire.ClassNormal)
	vouched := b.queue(number(5), "[silent] [late=20000] vouched for by its receipt", wire.ClassNormal)
	late := b.queue(number(6), "[hold] answered late", wire.ClassNormal)
	b.becomes(b.queue(number(7), "the next one", wire.ClassNormal), "delivered")
	b.figure(`bluejay_sms_doubts_total{class="normal",route="npm"} 4`)
	s.tell("answer")
	b.becomes(late, "delivered")
	b.becomes(vouched, "delivered")
	b.becomes(dropped, "unknown")
	b.becomes(silent, "unknown")
	b.settles(urgent, "delivered")
	for _, tt := range []struct {
		text string
		want int
	}{{"cut off", 1}, {"no answer", 1}, {"vouched for", 1}, {"answered late", 1}, {"a password", 2}} {
		if n := s.tries(tt.text); n != tt.want {
			t.Errorf("%q was taken %d times, want %d", tt.text, n, tt.want)
		}
	}
}

// TestPeersWorkerKilled: a worker is killed with -9 while texts are going out: every text ends, and none
// is taken twice. [F-11]
func TestPeersWorkerKilled(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, "window = 50\n"))
	w := b.work()
	ids := b.queueMany(300, "text", wire.ClassNormal)
	until(t, "some are out", func() bool { return s.accepted("text <") > 50 })
	w.kill9()
	b.work()
	counts := b.ends(ids, longTime, "delivered", "unknown", "submitted")
	for i := range ids {
		if n := s.tries(fmt.Sprintf("<%d>", i)); n > 1 {
			t.Errorf("text %d was taken %d times", i, n)
		}
	}
	t.Logf("300 texts over a kill -9: %v", counts)
}

// natsPeer is a nats-server process beside the node, from go.mod, with every write on disk before it is
// acknowledged, as docker-compose.yml has it.
type natsPeer struct {
	t          *testing.T
	path, conf string
	port       string
	at         *peer
}

// startNATS builds and starts one that trusts what a node's keys say.
func startNATS(t *testing.T, dir string) *natsPeer {
	t.Helper()
	n := &natsPeer{t: t, path: filepath.Join(t.TempDir(), "nats-server"), conf: filepath.Join(t.TempDir(), "server.conf"), port: freePort(t)}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", n.path, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("nats-server: %v: %s", err, out)
	}
	conf, err := broker.ServerConf(trustDir(dir), broker.ServerConfig{Listen: "127.0.0.1:" + n.port, Store: filepath.Join(t.TempDir(), "store"), Trust: filepath.Join(t.TempDir(), "accounts")})
	if !strings.Contains(conf, "sync_interval: always") {
		t.Fatal("not every write would be on disk")
	}
	if err := errors.Join(err, os.WriteFile(n.conf, []byte(conf), 0o600)); err != nil {
		t.Fatal(err)
	}
	n.start()
	return n
}

func (n *natsPeer) start() {
	n.t.Helper()
	n.at = startProgram(n.t, n.path, "--config", n.conf)
	accepts(n.t, n.port)
}

func (n *natsPeer) url() string { return "nats://127.0.0.1:" + n.port }

// TestPeersNATSKilled: the NATS server is killed with -9 again and again while texts are queued and sent
// by two workers. What it had acknowledged is there, broker and workers come back by themselves, each
// text ends, and none is taken twice. [C-4] [F-7] [F-11]
func TestPeersNATSKilled(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := prepareBench(t, smppRoutes(t, s.port, "rate = 20\n"))
	n := startNATS(t, b.dir)
	b.start(n.url())
	b.work()
	b.work()
	const texts = 400
	stop := make(chan struct{})
	var wrecker sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); wrecker.Wait() })
	t.Cleanup(end)
	kills := 0
	wrecker.Go(func() {
		every(stop, 2*time.Second, func() {
			n.at.kill()
			<-time.After(500 * time.Millisecond) // an outage, however soon the machine starts the next
			n.start()
			kills++
		})
	})
	var ids []wire.MessageID
	for i := range texts {
		sealed, err := b.seal(number(i), fmt.Sprintf("text <%d>", i), wire.ClassNormal)
		if err != nil {
			t.Fatal(err)
		}
		// As a handset that gets no PUBACK: the same bytes again.
		until(t, "the queue has it", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return b.broker.Jobs().Enqueue(ctx, wire.ClassNormal, senderOf(i), wire.MessageIDOf(sealed), sealed, nil, nil) == nil
		})
		ids = append(ids, wire.MessageIDOf(sealed))
	}
	b.soon("nearly all are out", func() bool { return s.accepted("text <") > texts*9/10 })
	end()
	counts := b.ends(ids, longTime, "delivered", "unknown")
	t.Logf("%d texts over %d times kill -9 of NATS: %v", texts, kills, counts)
	for i := range ids {
		if n := s.tries(fmt.Sprintf("<%d>", i)); n > 1 || n == 0 && b.last(ids[i]) == "delivered" {
			t.Errorf("text %d, which is %q, was taken %d times", i, b.last(ids[i]), n)
		}
	}
	if kills < 2 {
		t.Errorf("%d kills", kills)
	}
	within(t, "in doubt", counts["unknown"], texts/20, kills*2*10) // two workers with a window each
	b.becomes(b.queue(number(9000), "after all that", wire.ClassNormal), "delivered")
	if code, body := get(t, b.status+"/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d %s", code, body)
	}
}
