package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/clients/handset"
	"bluejay/fallback"
)

// alive reports whether a process is there and not a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z'
}

func (w *world) allGone() {
	w.t.Helper()
	for role, pid := range w.at.Children {
		until(w.t, role+" ends", func() bool { return !alive(pid) })
	}
}

func (w *world) readyz() (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(bounded(w.t), http.MethodGet, "http://"+w.at.HTTP+"/readyz", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestServe: three processes are ready; the node is stopped and started again on its directory, and
// enrolments, consent and conversations go on without a word from the user. [M-24]
func TestServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	if code, body := w.readyz(); code != http.StatusOK {
		t.Fatalf("/readyz: %d %q [M-24]", code, body)
	}
	if len(w.at.Children) != 2 || w.at.PID != w.node.cmd.Process.Pid {
		t.Fatalf("not three processes: %+v", w.at)
	}
	if b, err := os.ReadFile(filepath.Join(w.dir, "addr")); err != nil || strings.TrimSpace(string(b)) != w.at.Addr {
		t.Errorf("address file: %q, %v", b, err)
	}
	alice, bob := w.pair()
	alice.viaIP(bob, "before the restart")

	start := time.Now()
	w.addr.Store("")
	if err := w.node.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := w.node.wait(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	w.allGone()
	if took := time.Since(start); took > 2*stopTime { // a process may be given a while before it hears of it
		t.Errorf("stopping took %v", took)
	}

	w.start()
	for _, p := range []*phone{alice, bob} {
		until(t, p.name+" is back", func() bool { return p.Status().Connected && p.Status().On })
	}
	alice.viaIP(bob, "after the restart")
	alice.viaSMS(bob, "and as an SMS")
	w.stop()
	w.allGone()
}

// TestCtrlC: a terminal sends SIGINT to all three processes at once; that is an orderly end, too.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	if err := syscall.Kill(-w.node.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := w.node.wait(t); code != 0 {
		t.Errorf("exit code %d after Ctrl-C:\n%s", code, w.node.stderr)
	}
	w.allGone()
}

// TestLateSignal: a child that ended well was told to, by what this process hears of within seconds; one that failed
// is missed soon, and never after a signal.
func TestLateSignal(t *testing.T) {
	for _, tt := range []struct {
		err    error
		signal time.Duration
		told   bool
	}{
		{nil, 0, true}, {nil, 4 * time.Second, true}, {nil, 6 * time.Second, false},
		{io.EOF, 0, true}, {io.EOF, 4 * time.Second, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tt.signal)
			defer cancel()
			began := time.Now()
			err := (&child{role: bridge.RoleWorker, err: tt.err}).lost(ctx)
			if took := time.Since(began); (err == nil) != tt.told || took > min(tt.signal, signalDelay) || tt.err != nil && took > time.Second {
				t.Errorf("it ends with %v, the signal comes after %v: %v after %v", tt.err, tt.signal, err, took)
			}
		})
	}
}

// TestChildDies: a node without one of its parts promises what it cannot keep, so it ends and says so.
func TestChildDies(t *testing.T) {
	for _, role := range []string{"registrar", "worker"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t).start()
			if err := syscall.Kill(w.at.Children[role], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if code := w.node.wait(t); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if want := "bluejay: the " + role + " has ended; see its log above"; !strings.Contains(w.node.stderr.String(), want) {
				t.Errorf("no %q in:\n%s", want, w.node.stderr)
			}
			w.allGone()
		})
	}
}

// TestWorkerGivesUp: a worker that cannot read its day keys ends the node at once, with the reason in
// the log, in a process of its own or not. [F-2]
func TestWorkerGivesUp(t *testing.T) {
	for name, args := range map[string][]string{"own process": nil, "one process": {"--one-process"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, args...)
			if err := initKeys(w.dir, "bluejay"); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(rolesDir(w.dir, bridge.RoleWorker).path("worker-001.key"), []byte("not a day key"), 0o600); err != nil {
				t.Fatal(err)
			}
			p := bluejay(t, w.env, w.args...)
			until(t, "the worker gives up", func() bool {
				select {
				case <-p.ended:
					return true
				default:
					return strings.Contains(p.stderr.String(), "a day key does not parse")
				}
			})
			start := time.Now()
			if code := p.wait(t); code != 1 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(start); took > readyTime { // else it waits for a worker that is not coming
				t.Errorf("it took %v", took)
			}
			for _, want := range []string{"a day key does not parse", "worker has ended"} {
				if !strings.Contains(p.stderr.String(), want) {
					t.Errorf("no %q in:\n%s", want, p.stderr)
				}
			}
		})
	}
}

// TestKilledMidText: [C-4] [C-7] the broker is killed with a text on its way; the sender still holds
// it, and it arrives once the broker is back. No child outlives its parent.
func TestKilledMidText(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	alice, bob := w.pair()
	alice.viaIP(bob, "a first one")

	// bob's phone stops reading: the broker has the text and waits for his acknowledgement.
	if err := alice.SetMode(alice.contact, fallback.ModeNever); err != nil {
		t.Fatal(err)
	}
	bob.gate.close()
	id := alice.send("held by its sender")
	<-bob.gate.held
	kids := w.at.Children
	w.addr.Store("")
	if err := w.node.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.node.wait(t)
	for role, pid := range kids {
		until(t, role+" ends with its parent", func() bool { return !alive(pid) })
	}
	bob.gate.open()
	if s := alice.state(id); s != handset.Waiting {
		t.Fatalf("the text is %v while the broker is dead; want %v [C-7]", s, handset.Waiting)
	}

	w.start()
	alice.becomes(id, handset.Delivered)
	shown := 0
	for _, text := range bob.Texts(bob.contact) {
		if text.Body == "held by its sender" {
			shown++
		}
	}
	if shown != 1 {
		t.Errorf("bob's phone shows the text %d times", shown)
	}
	w.stop()
}

func (p *phone) state(id handset.TextID) handset.State {
	p.w.t.Helper()
	for _, text := range p.Texts(p.contact) {
		if text.ID == id {
			return text.State
		}
	}
	p.w.t.Fatalf("%s: no such text", p.name)
	return 0
}

// TestOneProcess: it warns, and it works.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--one-process", "--sms", "console").start()
	if want := "one process holds every key: for debugging only"; !strings.Contains(w.node.stderr.String(), want) {
		t.Errorf("no %q in:\n%s", want, w.node.stderr)
	}
	if len(w.at.Children) != 0 {
		t.Errorf("children: %v", w.at.Children)
	}
	w.enrol("alice", aliceNumber)
	w.stop()
}

// TestExternalNATS: the same flow with a NATS server that is not the node's own, given the
// accounts that the node trusts. [F-5]
func TestExternalNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := initKeys(w.dir, "bluejay"); err != nil {
		t.Fatal(err)
	}
	n, err := broker.StartNATS(broker.NATSConfig{Dir: filepath.Join(t.TempDir(), "external"), Trust: trustDir(w.dir), MaxStore: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	ending(t, n.Close)
	w.args = append(w.args, "--nats", n.URL())
	w.start()
	if w.at.NATS != n.URL() {
		t.Errorf("the node uses %s, not %s", w.at.NATS, n.URL())
	}
	alice, bob := w.pair()
	alice.viaIP(bob, "through another's NATS")
	alice.viaSMS(bob, "and an SMS through it")
	w.stop()
	if _, err := os.Stat(filepath.Join(w.dir, "nats")); !os.IsNotExist(err) {
		t.Errorf("the node made a store of its own: %v", err)
	}
}

// selfSigned writes an Ed25519 certificate for 127.0.0.1 and returns what trusts it.
func selfSigned(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bluejay test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err1 := x509.CreateCertificate(nil, template, template, public, private)
	pkcs8, err2 := x509.MarshalPKCS8PrivateKey(private)
	parsed, err3 := x509.ParseCertificate(der)
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	err4 := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	err5 := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return cert, key, pool
}

// TestTLS: [P-15] the whole flow over TLS 1.3, where CONNECT is bound to the connection; TLS 1.2 and
// no TLS at all get nothing.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key, pool := selfSigned(t)
	w := newWorld(t, "--tls-cert", cert, "--tls-key", key)
	w.tls = &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}
	w.start()
	if code, body := w.readyz(); code != http.StatusOK {
		t.Fatalf("/readyz: %d %q", code, body)
	}
	alice, bob := w.pair()
	alice.viaIP(bob, "over TLS 1.3")
	alice.viaSMS(bob, "and back to SMS")

	c, err := tls.Dial("tcp", w.at.Addr, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12})
	if err == nil {
		_ = c.Close()
		t.Error("TLS 1.2 was accepted")
	} else if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2 was refused for another reason: %v", err)
	}
	if _, err := tls.Dial("tcp", w.at.Addr, &tls.Config{MinVersion: tls.VersionTLS13}); err == nil {
		t.Error("the certificate was trusted without its root")
	}
	w.stop()
}
