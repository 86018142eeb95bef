//go:build integration

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPeersBrokers: each broker that `bluejay bench` measures starts, plain and with TLS 1.3, lets a client in
// without a name and from any loopback address, carries QoS 1, and leaves no process behind.
func TestPeersBrokers(t *testing.T) {
	t.Parallel()
	cert, key, pool := selfSigned(t)
	for _, name := range peerNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("plain", func(t *testing.T) { checkBroker(t, name, "", "", nil) })
			t.Run("TLS", func(t *testing.T) { checkBroker(t, name, cert, key, pool) })
		})
	}
}

func checkBroker(t *testing.T, name, cert, key string, pool *x509.CertPool) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*peerStartTime) // to tell its version and to start
	defer cancel()
	begun := time.Now()
	b, err := startPeer(ctx, name, t.TempDir(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.stop() })
	took := time.Since(begun)
	if host, _, err := net.SplitHostPort(b.addr); err != nil || host != "127.0.0.1" || strings.Count(b.version, ".") < 2 {
		t.Errorf("%s %q listens on %q", name, b.version, b.addr)
	}
	carries(t, b.addr, pool)
	pids := b.pids()
	if len(pids) == 0 || slices.ContainsFunc(pids, func(pid int) bool { return !runs(t, pid) }) {
		t.Errorf("the processes are said to be %v", pids)
	}
	begun = time.Now()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%s %s: ready after %s, %d processes, stopped in %s", name, b.version, took.Round(time.Millisecond), len(pids), time.Since(begun).Round(time.Millisecond))
	if left := b.pids(); len(left) > 0 {
		t.Errorf("these are said to run still: %v", left)
	}
	until(t, "no process to be left", func() bool { // init may be about to hear of it
		return !slices.ContainsFunc(pids, func(pid int) bool { return runs(t, pid) })
	})
	if err := b.stop(); err != nil {
		t.Errorf("stopped again: %v", err)
	}
}

// runs reports whether there is such a process.
func runs(t *testing.T, pid int) bool {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p.Signal(syscall.Signal(0)) == nil
}

// carries subscribes with one client and publishes with another.
func carries(t *testing.T, addr string, pool *x509.CertPool) {
	t.Helper()
	reader, writer := dialRaw(t, addr, "127.0.0.1", "bench-01", pool), dialRaw(t, addr, "127.3.2.1", "bench-02", pool)
	reader.send("\x82\x0c\x00\x05\x00\x07bench/a\x01")
	if got := reader.receive(); got != "\x90\x03\x00\x05\x01" {
		t.Fatalf("SUBSCRIBE was answered with %x", got)
	}
	writer.send("\x32\x10\x00\x07bench/a\x00\x09hello")
	if got := writer.receive(); got != "\x40\x02\x00\x09" {
		t.Errorf("PUBLISH was answered with %x", got)
	}
	got := reader.receive()
	if len(got) != 18 || got[:11] != "\x32\x10\x00\x07bench/a" || got[13:] != "hello" {
		t.Fatalf("this was delivered: %x", got)
	}
	reader.send("\x40\x02" + got[11:13])
}

// rawClient is an MQTT connection, packet by packet; each is shorter than 128 bytes.
type rawClient struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

// dialRaw connects from an address, without a user name.
func dialRaw(t *testing.T, addr, from, id string, pool *x509.CertPool) rawClient {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(bounded(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if pool != nil {
		c = tls.Client(c, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13})
	}
	if err := c.SetDeadline(time.Now().Add(testTime)); err != nil {
		t.Fatal(err)
	}
	client := rawClient{t, c, bufio.NewReader(c)}
	client.send("\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08" + id)
	if got := client.receive(); got != "\x20\x02\x00\x00" {
		t.Fatalf("CONNECT from %s was answered with %x", from, got)
	}
	return client
}

func (c rawClient) send(packet string) {
	c.t.Helper()
	if _, err := io.WriteString(c.c, packet); err != nil {
		c.t.Fatal(err)
	}
}

func (c rawClient) receive() string {
	c.t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(c.r, head); err != nil {
		c.t.Fatal(err)
	}
	body := make([]byte, head[1])
	if _, err := io.ReadFull(c.r, body); err != nil {
		c.t.Fatal(err)
	}
	return string(head) + string(body)
}
