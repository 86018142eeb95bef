package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/clients/handset"
)

// madeBeside is a node made for docker-compose.yml.
func madeBeside(t *testing.T, with beside) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	if err := initNode(dir, "bluejay", with); err != nil {
		t.Fatal(err)
	}
	return dir
}

var everythingBeside = beside{nats: []string{"nats", "127.0.0.1"}, mqtt: []string{"localhost"}, kannel: "http://worker:8090"}

// trusts opens a TLS 1.3 connection to a server that has the certificate in d, with what is in ca.
func trusts(t *testing.T, d keyDir, ca, name string) error {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(d.path(fileTLSCert), d.path(fileTLSKey))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := readCA(ca)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if conn, err := ln.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, conn) // shakes hands, and reads to the end
			_ = conn.Close()
		}
	}()
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(bounded(t), "tcp", ln.Addr().String())
	if err == nil {
		_ = conn.Close()
	}
	_ = ln.Close()
	<-served
	return err
}

// TestKeysTLS: each server's certificate is good under its own authority, for its own names, and nothing else;
// no authority's key is kept.
func TestKeysTLS(t *testing.T) {
	t.Parallel()
	dir := madeBeside(t, everythingBeside)
	nats, phones := keyDir(filepath.Join(dir, "keys", "nats")), rolesDir(dir, bridge.RoleBroker)
	natsCA, mqttCA := filepath.Join(dir, fileNATSCA), filepath.Join(dir, fileMQTTCA)
	for _, tt := range []struct {
		server   keyDir
		ca, name string
		ok       bool
	}{
		{nats, natsCA, "nats", true}, {nats, natsCA, "127.0.0.1", true}, {phones, mqttCA, "localhost", true},
		{nats, natsCA, "localhost", false}, {phones, mqttCA, "nats", false},
		{nats, mqttCA, "nats", false}, {phones, natsCA, "localhost", false},
	} {
		if err := trusts(t, tt.server, tt.ca, tt.name); (err == nil) != tt.ok {
			t.Errorf("%s as %s, trusted by %s: %v", tt.server, tt.name, tt.ca, err)
		}
	}
	for _, r := range append(bridge.Roles(), roleOperator) {
		if err := trusts(t, nats, rolesDir(dir, r).path(fileNATSCA), "nats"); err != nil {
			t.Errorf("what the %s believes: %v", r, err)
		}
	}
	private := 0
	for name, b := range contents(t, dir) {
		if strings.Contains(string(b), "PRIVATE KEY") {
			private++
			if filepath.Base(name) != fileTLSKey {
				t.Errorf("a private key in %s", name)
			}
		}
	}
	if private != 2 {
		t.Errorf("%d private keys", private)
	}
}

// TestKeysCertificate: a certificate can serve and nothing else, and it does not outlive what signed it.
func TestKeysCertificate(t *testing.T) {
	t.Parallel()
	d := keyDir(filepath.Join(t.TempDir(), "keys"))
	pem, err := makeCert(d, []string{"nats", "nats.example.net", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no authority")
	}
	pair, err := tls.LoadX509KeyPair(d.path(fileTLSCert), d.path(fileTLSKey))
	if err != nil {
		t.Fatal(err)
	}
	leaf := pair.Leaf
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("it may be used for %v, %v", leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	for at, ok := range map[time.Duration]bool{-2 * time.Hour: false, 0: true, certLife - time.Hour: true, certLife + time.Hour: false} {
		chains, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "nats.example.net", CurrentTime: time.Now().Add(at)})
		if (err == nil) != ok {
			t.Errorf("after %v: %v", at, err)
		}
		for _, chain := range chains {
			if ca := chain[len(chain)-1]; leaf.NotAfter.After(ca.NotAfter) || !ca.IsCA || !ca.MaxPathLenZero {
				t.Errorf("authority until %v, certificate until %v", ca.NotAfter, leaf.NotAfter)
			}
		}
	}
	if err := leaf.VerifyHostname("::1"); err != nil {
		t.Error(err)
	}
	if _, err := makeCert(d, []string{"nats"}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second certificate over the first: %v", err)
	}
}

// TestKeysBeside: what is made beside a node's own keys is closed to others, and each secret is with the two
// who share it and nobody else.
func TestKeysBeside(t *testing.T) {
	t.Parallel()
	dir := madeBeside(t, everythingBeside)
	for name, mode := range map[string]os.FileMode{
		"keys/nats": 0o700, "keys/nats/tls.key": 0o600, "keys/nats/server.conf": 0o600, "keys/kannel": 0o700, "keys/kannel/admin.conf": 0o600,
		"keys/kannel/sendsms.conf": 0o600, "keys/kannel/incoming.conf": 0o600, "keys/worker/kannel.login": 0o600,
		"keys/worker/callbacks.key": 0o600, "keys/broker/tls.key": 0o600, "nats-ca.pem": 0o644, "mqtt-ca.pem": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, want mode %v", name, err, mode)
		}
	}
	worker := rolesDir(dir, bridge.RoleWorker)
	login, err1 := readSecret(worker.path(fileLogin))
	secret, err2 := readSecret(worker.path(fileCallback))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	_, password, _ := strings.Cut(login, ":")
	for value, want := range map[string][]string{
		password: {"keys/kannel/sendsms.conf", "keys/worker/kannel.login"}, secret: {"keys/worker/callbacks.key"},
	} {
		var in []string
		for name, b := range contents(t, dir) {
			if strings.Contains(string(b), value) {
				rel, _ := filepath.Rel(dir, name)
				in = append(in, rel)
			}
		}
		if slices.Sort(in); len(value) < 32 || !slices.Equal(in, want) {
			t.Errorf("a secret of %d characters in %v, want %v", len(value), in, want)
		}
	}
	conf, err := os.ReadFile(filepath.Join(dir, "keys", "nats", fileNATSConf))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sync_interval: always", `cert_file: "/run/keys/tls.crt"`, `http: "127.0.0.1:8222"`, "operator: ey"} {
		if !strings.Contains(string(conf), want) {
			t.Errorf("no %q in the configuration of NATS", want)
		}
	}
	if _, err := handset.LoadPins(filepath.Join(dir, filePins)); err != nil {
		t.Error(err)
	}
}

// TestKeysBesideRefused: what cannot be used is refused before there are keys.
func TestKeysBesideRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ flag, value, want string }{
		{"--nats-host", "nats:4222", "neither a host name"}, {"--nats-host", "tls://nats", "neither a host name"},
		{"--nats-host", "nats,", "neither a host name"}, {"--mqtt-host", "two words", "neither a host name"},
		{"--mqtt-host", strings.Repeat("a.", 130) + "net", "neither a host name"}, {"--mqtt-host", "*.example.net", "neither a host name"},
		{"--kannel", "worker:8090", "kannel: want a URL"}, {"--kannel", "http://", "kannel: want a URL"},
		{"--kannel", "http://worker:8090/sms", "kannel: want a URL"}, {"--kannel", "ftp://worker", "kannel: want a URL"},
		{"--kannel", "http://me:secret@worker", "kannel: want a URL"}, {"--kannel", "http://worker?x=\"", "kannel: want a URL"},
	} {
		dir := filepath.Join(t.TempDir(), "node")
		out, code := run(t, "keys", "init", "--dir", dir, tt.flag, tt.value)
		if code != 1 || !strings.Contains(out, tt.want) || strings.Contains(out, "secret") {
			t.Errorf("%s %q: exit code %d, %q", tt.flag, tt.value, code, out)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s %q: a directory was made", tt.flag, tt.value)
		}
	}
}

// TestKeysOnce: with --once the second time is no error and changes nothing, and half a node is one.
func TestKeysOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "node")
	args := []string{"keys", "init", "--once", "--dir", dir, "--nats-host", "nats"}
	if out, code := run(t, args...); code != 0 {
		t.Fatalf("%s", out)
	}
	before := contents(t, dir)
	if out, code := run(t, append(args, "--mqtt-host", "late.example.net")...); code != 0 {
		t.Errorf("exit code %d, %s", code, out)
	}
	after := contents(t, dir)
	if len(before) != len(after) {
		t.Errorf("%d files have become %d", len(before), len(after))
	}
	for name, b := range before {
		if string(after[name]) != string(b) {
			t.Errorf("%s has changed", name)
		}
	}
	if err := os.Remove(filepath.Join(dir, filePins)); err != nil {
		t.Fatal(err)
	}
	if out, code := run(t, args...); code != 1 || !strings.Contains(out, "has keys already") {
		t.Errorf("half a node: exit code %d, %s", code, out)
	}
}
