package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// peerTexts is what each peer is told, plain and with TLS: its files, then its programs' arguments and settings.
var peerTexts = map[string]string{
	"mosquitto": `
== mosquitto.conf
listener 1001 127.0.0.1
allow_anonymous true
log_dest stderr
log_type error
log_type warning
user root
== mosquitto 1001
-c
/d/mosquitto.conf
`,
	"mosquitto TLS": `
== mosquitto.conf
listener 1001 127.0.0.1
allow_anonymous true
log_dest stderr
log_type error
log_type warning
user root
certfile /c.pem
keyfile /k.pem
tls_version tlsv1.3
== mosquitto 1001
-c
/d/mosquitto.conf
`,
	"mochi": `
== mochi 1001
-tcp
127.0.0.1:1001
-ws
127.0.0.1:1002
-info
127.0.0.1:1003
`,
	"mochi TLS": `
== mochi 1001
-tcp
127.0.0.1:1001
-ws
127.0.0.1:1002
-info
127.0.0.1:1003
-tls-cert-file
/c.pem
-tls-key-file
/k.pem
`,
	"nats-server": `
== nats.conf
server_name: bench
listen: "127.0.0.1:1002"
jetstream {
  store_dir: "/d/jetstream"
  limits { default_max_consumers: -1 }
}
mqtt {
  listen: "127.0.0.1:1001"
}
== nats-server 1001
-c
/d/nats.conf
`,
	"nats-server TLS": `
== nats.conf
server_name: bench
listen: "127.0.0.1:1002"
jetstream {
  store_dir: "/d/jetstream"
  limits { default_max_consumers: -1 }
}
mqtt {
  listen: "127.0.0.1:1001"
  tls { cert_file: "/c.pem", key_file: "/k.pem", min_version: "1.3" }
}
== nats-server 1001
-c
/d/nats.conf
`,
	"rabbitmq": `
== plugins
[rabbitmq_mqtt].
== rabbitmq.conf
listeners.tcp = none
loopback_users = none
mqtt.allow_anonymous = true
mqtt.listeners.tcp.1 = 127.0.0.1:1001
log.console = true
log.console.level = error
log.file = false
` + rabbitPrograms,
	"rabbitmq TLS": `
== plugins
[rabbitmq_mqtt].
== rabbitmq.conf
listeners.tcp = none
loopback_users = none
mqtt.allow_anonymous = true
mqtt.listeners.tcp = none
mqtt.listeners.ssl.1 = 127.0.0.1:1001
ssl_options.certfile = /c.pem
ssl_options.keyfile = /k.pem
ssl_options.versions.1 = tlsv1.3
log.console = true
log.console.level = error
log.file = false
` + rabbitPrograms,
}

const rabbitPrograms = `== epmd 1002
-port
1002
-address
127.0.0.1
== rabbitmq-server 1001
ERL_EPMD_PORT=1002
ERL_EPMD_ADDRESS=127.0.0.1
RABBITMQ_NODENAME=bench@localhost
RABBITMQ_DIST_PORT=1003
RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}
RABBITMQ_CONF_ENV_FILE=/d/none
RABBITMQ_ADVANCED_CONFIG_FILE=/d/none
RABBITMQ_CONFIG_FILE=/d/rabbitmq.conf
RABBITMQ_ENABLED_PLUGINS_FILE=/d/plugins
RABBITMQ_MNESIA_BASE=/d/mnesia
RABBITMQ_LOG_BASE=/d/logs
RUNNING_UNDER_SYSTEMD=true
LANG=C.UTF-8
`

func TestPeerConfigurations(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for name, kind := range peerKinds {
		ports := []int{1001, 1002, 1003}[:kind.ports]
		got[name] = planText(kind.plan(peerPlace{dir: "/d", ports: ports}))
		got[name+" TLS"] = planText(kind.plan(peerPlace{dir: "/d", cert: "/c.pem", key: "/k.pem", ports: ports}))
	}
	if diff := cmp.Diff(peerTexts, got); diff != "" {
		t.Errorf("what peers are told (-want +got):\n%s", diff)
	}
	if names := slices.Sorted(maps.Keys(peerKinds)); !slices.Equal(names, slices.Sorted(slices.Values(peerNames))) {
		t.Errorf("peers are %v, and are called %v", names, peerNames)
	}
}

// planText is a plan as one text.
func planText(p peerPlan) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		b.WriteString("\n== " + name + "\n" + strings.TrimSpace(p.files[name]))
	}
	for _, program := range p.programs {
		_, port, _ := strings.Cut(loopback(program.port), ":")
		b.WriteString("\n== " + strings.Join(slices.Concat([]string{program.name + " " + port}, program.args, program.env), "\n"))
	}
	return b.String() + "\n"
}

func TestPeerRefused(t *testing.T) {
	t.Setenv("PATH", "")
	t.Chdir(t.TempDir()) // no project above it
	for what, c := range map[string]struct{ name, cert, want string }{
		"not there":    {name: "mochi", want: "no program mochi here: scripts/bench-peers installs it"},
		"unknown":      {name: "emqx", want: `no peer is called "emqx": there are mosquitto, mochi, nats-server, rabbitmq`},
		"half of TLS":  {name: "mochi", cert: "cert.pem", want: "a certificate goes with its key"},
		"not by paths": {name: "../mochi", want: `no peer is called "../mochi": there are mosquitto, mochi, nats-server, rabbitmq`},
	} {
		peer, err := startPeer(t.Context(), c.name, t.TempDir(), c.cert, "")
		if peer != nil || err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, %v, want %s", what, peer, err, c.want)
		}
	}
}

// TestPeerFound: the project's own programs come first, from any folder of it.
func TestPeerFound(t *testing.T) {
	root, elsewhere := t.TempDir(), t.TempDir()
	own, other := filepath.Join(root, "bin", "peers", "mochi"), filepath.Join(elsewhere, "mochi")
	below := filepath.Join(root, "a", "b")
	err1, err2 := os.MkdirAll(filepath.Dir(own), 0o700), os.MkdirAll(below, 0o700)
	err3, err4 := os.WriteFile(own, nil, 0o700), os.WriteFile(other, nil, 0o700)
	if err := errors.Join(err1, err2, err3, err4, os.WriteFile(filepath.Join(root, "go.mod"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", elsewhere)
	t.Chdir(below)
	for _, want := range []string{own, other} {
		got, err := findPeer("mochi")
		real, _ := filepath.EvalSymlinks(want) // a temporary folder may be behind one
		if same, _ := filepath.EvalSymlinks(got); err != nil || same != real {
			t.Errorf("found %q, %v, want %s", got, err, want)
		}
		if err := os.Remove(want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findPeer("mochi"); err == nil {
		t.Errorf("found %s, which is gone", got)
	}
}

// shell starts a shell script as a peer's program.
func shell(t *testing.T, script string, ready func() error) (*peerRun, error) {
	t.Helper()
	run := &peerRun{patience: 100 * time.Millisecond}
	t.Cleanup(func() { _ = run.stop() })
	return run, run.start(bounded(t), peerProgram{name: "broker", args: []string{"-c", script}}, "/bin/sh", t.TempDir(), ready)
}

var errNotReady = errors.New("nobody listens")

// TestPeerDies: a broker that ends by itself is reported with the end of its log, at its start and later.
func TestPeerDies(t *testing.T) {
	t.Parallel()
	_, err := shell(t, "seq 1 12; echo the port is taken >&2; exit 3", func() error { return errNotReady })
	want := "broker ended by itself (exit status 3), its log ends:\n4\n5\n6\n7\n8\n9\n10\n11\n12\nthe port is taken"
	if err == nil || err.Error() != want {
		t.Errorf("a start that fails: %v\nwant %s", err, want)
	}
	run, err := shell(t, "echo out of memory; kill -9 $$", func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	<-run.processes[0].done
	want = "broker ended by itself (signal: killed), its log ends:\nout of memory"
	if err := run.stop(); err == nil || err.Error() != want || len(run.pids()) > 0 {
		t.Errorf("stopped: %v, %v left\nwant %s", err, run.pids(), want)
	}
}

// TestPeerNotReady: the wait for a broker ends with its context.
func TestPeerNotReady(t *testing.T) {
	t.Parallel()
	p := &peerProcess{name: "broker", log: filepath.Join(t.TempDir(), "log"), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	err := p.await(ctx, func() error { cancel(); return errNotReady })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, errNotReady) {
		t.Errorf("%v, want both reasons", err)
	}
}
