package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"bluejay/bridge"
)

// TestServerConf: a nats-server of its own with the printed configuration takes the same roles and
// integrators as the embedded one, and nobody else; its store syncs every write. [C-4] [F-5]
func TestServerConf(t *testing.T) {
	trust := trusted(t)
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	before, err := a.NewIntegrator(trust, "before", false, 0)
	if err != nil {
		t.Fatal(err)
	}
	accounts := filepath.Join(t.TempDir(), "accounts")
	text, err := ServerConf(trust, ServerConfig{Listen: "127.0.0.1:-1", Store: t.TempDir(), Trust: accounts})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if !opts.SyncAlways || !opts.JetStream || opts.MaxControlLine != natsMaxLine {
		t.Errorf("sync %v, JetStream %v, control line %d", opts.SyncAlways, opts.JetStream, opts.MaxControlLine)
	}
	opts.NoSigs, opts.NoLog, opts.JetStreamMaxStore, opts.AuthTimeout = true, true, 2<<30, natsPatience.Seconds()
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(natsPatience) {
		t.Fatal("it does not start")
	}
	b := connect(t, bridge.Config{Role: bridge.RoleBroker, URL: srv.ClientURL()})
	if err := b.EnsureStreams(t.Context(), bridge.Limits{}); err != nil {
		t.Error(err)
	}
	connect(t, bridge.Config{Role: bridge.RoleWorker, URL: srv.ClientURL()})
	after, err := a.NewIntegrator(accounts[:len(accounts)-len("/accounts")], "after", false, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, creds := range map[string][]byte{"before": before.User, "after": after.User} {
		nc, err := dialNATS(srv.ClientURL(), nats.UserCredentials(written(t, creds)))
		if err != nil {
			t.Errorf("the integrator made %s: %v", name, err)
			continue
		}
		nc.Close()
	}
	if nc, err := dialNATS(srv.ClientURL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("anybody may connect, or %v", err)
		if nc != nil {
			nc.Close()
		}
	}
}

func TestServerConfRefuses(t *testing.T) {
	trust := trusted(t)
	for name, c := range map[string]ServerConfig{
		"no port": {Listen: "127.0.0.1"}, "everywhere, no TLS": {Listen: "0.0.0.0:4222"}, "anywhere, no TLS": {Listen: ":4222"}, "a name, no TLS": {Listen: "nats:4222"},
	} {
		if _, err := ServerConf(trust, c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	text, err := ServerConf(trust, ServerConfig{Listen: "0.0.0.0:4222", Cert: "/c", Key: "/k"})
	if err != nil || !strings.Contains(text, `min_version: "1.3"`) {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := ServerConf(t.TempDir(), ServerConfig{Listen: "127.0.0.1:1"}); err == nil {
		t.Error("no operator: accepted")
	}
}
