package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bluejay/blind"
	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/envelope"
	"bluejay/registrar"
	"bluejay/wire"
)

// dialer returns what connects a role to a NATS server of the test's own.
func dialer(t *testing.T) func(bridge.Role) *bridge.Bridge {
	t.Helper()
	_, open := natsServer(t)
	return open
}

// natsServer starts a NATS server of the test's own, and returns its folder and what connects a role to it.
func natsServer(t *testing.T) (dir string, open func(bridge.Role) *bridge.Bridge) {
	t.Helper()
	node := made(t)
	dir = filepath.Join(node, "nats")
	n, err := broker.StartNATS(broker.NATSConfig{Dir: dir, Trust: trustDir(node), MaxStore: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	ending(t, n.Close)
	return dir, func(r bridge.Role) *bridge.Bridge {
		creds := rolesDir(node, r).path(fileCreds)
		b, err := bridge.Connect(bounded(t), bridge.Config{Role: r, URL: n.URL(), Creds: creds, Timeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ending(t, b.Close)
		return b
	}
}

func ending(t *testing.T, end func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := end(ctx); err != nil {
			t.Error(err)
		}
	})
}

// call asks the registrar and waits while it is not yet there.
func call(t *testing.T, b *bridge.Bridge, subject string, req []byte) (wire.Code, []byte) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, body, err := b.Call(t.Context(), subject, req)
		if err == nil && c != wire.Unavailable {
			return c, body
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("the registrar never answered: %v, %v", c, err)
		}
	}
}

// newRegistrar makes a registrar with keys of its own, on a bridge.
func newRegistrar(t *testing.T, b *bridge.Bridge) (*registrar.Registrar, registrar.Config) {
	t.Helper()
	_, cert, err1 := ed25519.GenerateKey(nil)
	_, root, err2 := ed25519.GenerateKey(nil)
	voprf, err3 := blind.GenerateServerKey()
	secret, err4 := envelope.GenerateRegistrarSecret()
	key := newLatestKey()
	if err := errors.Join(err1, err2, err3, err4, b.WatchWorkerKey(key.set)); err != nil {
		t.Fatal(err)
	}
	cfg := registrar.Config{
		Cert: cert, Root: root, VOPRF: voprf, Secret: secret, Counts: counts{b.Counts()}, Jobs: b.Jobs(), WorkerKey: key.get,
	}
	r, err := registrar.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r, cfg
}

// TestEnrolmentOverNATS: [P-14] broker, registrar and worker, each on its own connection with its own
// permissions: a key is signed and published, a password is sent, a certificate comes back, and it is
// counted.
func TestEnrolmentOverNATS(t *testing.T) {
	dial := dialer(t)
	br := dial(bridge.RoleBroker)
	if err := br.EnsureStreams(t.Context(), bridge.Limits{}); err != nil {
		t.Fatal(err)
	}
	rb := dial(bridge.RoleRegistrar)
	r, cfg := newRegistrar(t, rb)
	if err := rb.ServeRegistrar(handlers(r)); err != nil {
		t.Fatal(err)
	}
	wb := dial(bridge.RoleWorker)
	now := time.Now()
	worker, err := envelope.NewWorkerSecret(1, now, now.Add(48*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	call(t, wb, wire.SubjectSign, nil) // wait for the service
	signed, err := wb.SignKey(t.Context(), worker.Key())
	if err != nil {
		t.Fatal(err)
	}
	if err := wb.PublishWorkerKey(t.Context(), signed); err != nil {
		t.Fatal(err)
	}

	number, err := wire.ParseNumber("+447700900123")
	if err != nil {
		t.Fatal(err)
	}
	public, device, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	place := make([]byte, 16)
	body, nonce, err := envelope.SealEnrol(cfg.Secret.Public(), number, device)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := call(t, br, wire.SubjectEnrol, append(bytes.Clone(place), body...)); c != wire.OK {
		t.Fatalf("request 1: %v", c)
	}
	q, err := wb.OpenQueue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, err := q.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	job, err := worker.OpenJob(d.Payload())
	if err != nil || d.Class() != wire.ClassUrgent || job.To != number {
		t.Fatalf("the password's SMS: class %v, %v", d.Class(), err)
	}
	otp := strings.TrimPrefix(job.Text, "Bluejay code ")[:6]
	body, answer, err := envelope.SealConfirm(cfg.Secret.Public(), otp, wire.PublicKey(public), nonce)
	if err != nil {
		t.Fatal(err)
	}
	c, sealed := call(t, br, wire.SubjectEnrol, append(bytes.Clone(place), body...))
	raw, err := answer.Open(sealed)
	if c != wire.OK || err != nil {
		t.Fatalf("request 2: %v, %v", c, err)
	}
	cert, err := wire.ParseCertificate(raw)
	if err != nil || cert.Device != wire.PublicKey(public) {
		t.Fatalf("certificate: %v", err)
	}
	count, rev, err := (counts{rb.Counts()}).Load(t.Context(), cert.ID)
	if err != nil || count.Issued != cert.IssuedAt {
		t.Errorf("count: %+v, %v", count, err)
	}
	if err := (counts{rb.Counts()}).Save(t.Context(), cert.ID, count, rev+1); !errors.Is(err, registrar.ErrConflict) {
		t.Errorf("a lost race: %v, want the registrar's ErrConflict", err)
	}

	// [F-6] the sealed word on that ID, checked by the worker against the number.
	id := wire.MessageIDOf([]byte("job"))
	word, err := envelope.SealSender(cfg.Secret.Public(), cert.ID, id)
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := wb.CheckSender(t.Context(), word, id, number); !yes || err != nil {
		t.Errorf("check: %v, %v", yes, err)
	}
}
