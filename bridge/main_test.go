package bridge

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"bluejay/wire"
)

// TestMain fails when a goroutine of this package outlives the tests: Close must end them all.
func TestMain(m *testing.M) {
	code := m.Run()
	left := ours()
	for start := time.Now(); code == 0 && left != "" && time.Since(start) < 10*time.Second; left = ours() {
		time.Sleep(10 * time.Millisecond) // one that is about to return may not have been scheduled
	}
	if code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

func ours() string {
	buf := make([]byte, 1<<20)
	var left []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "bluejay/bridge.") && !strings.Contains(g, "TestMain") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// A world is a NATS server on TCP loopback with the roles' real permissions, and its directory.
type world struct {
	dir  string
	srv  *server.Server
	port int
}

const password = "a password of the tests"

// patience is how long a test waits for what must happen, so that a busy machine is slow and not red.
const patience = 30 * time.Second

// serve starts the server, on the port it had before if it is started again.
func (w *world) serve(t testing.TB) {
	t.Helper()
	opts := &server.Options{
		Host: "127.0.0.1", Port: w.port, JetStream: true, StoreDir: w.dir, SyncAlways: true,
		NoSigs: true, NoLog: true, MaxPayload: 64 << 10, AuthTimeout: patience.Seconds(),
		DisableShortFirstPing: true, // which a client that stood still before its CONNECT would take for an answer
	}
	for _, r := range append(Roles(), RoleOperator) {
		pub, sub := Permissions(r)
		opts.Users = append(opts.Users, &server.User{Username: string(r), Password: password, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: pub}, Subscribe: &server.SubjectPermission{Allow: sub},
		}})
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not start")
	}
	w.srv, w.port = srv, srv.Addr().(*net.TCPAddr).Port
}

// stop ends the server; its files stay.
func (w *world) stop() {
	w.srv.Shutdown()
	w.srv.WaitForShutdown()
}

// restart ends the server and starts it again, and waits until these have noticed both.
func (w *world) restart(t testing.TB, bs ...*Bridge) {
	t.Helper()
	w.stop()
	for _, b := range bs {
		eventually(t, "the connection's end", func() bool { return !b.Connected() })
	}
	w.serve(t)
	for _, b := range bs {
		eventually(t, "connected again", b.Connected)
	}
}

// newWorld starts a server and has a broker make the streams.
func newWorld(t testing.TB, l Limits) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), port: server.RANDOM_PORT}
	w.serve(t)
	t.Cleanup(func() { w.stop() })
	if err := w.dial(t, RoleBroker).EnsureStreams(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	return w
}

// dial connects as a role, until the test ends.
func (w *world) dial(t testing.TB, r Role) *Bridge {
	t.Helper()
	return w.dialWith(t, Config{Role: r})
}

func (w *world) dialWith(t testing.TB, c Config) *Bridge {
	t.Helper()
	c.URL, c.Password, c.Timeout = w.srv.ClientURL(), password, patience
	b, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// queue opens the worker's queue.
func (w *world) queue(t testing.TB) (*Bridge, *Queue) {
	t.Helper()
	b := w.dial(t, RoleWorker)
	q, err := b.OpenQueue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b, q
}

// eventually waits for what another connection will see in a moment.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// must fails the test on an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// enqueue queues a text of one sender as a broker does.
func enqueue(t testing.TB, b *Bridge, from wire.Pseudonym, payload string) wire.MessageID {
	t.Helper()
	id := wire.MessageIDOf([]byte(payload))
	if err := b.Jobs().Enqueue(t.Context(), wire.ClassNormal, from, id, []byte(payload), nil, nil); err != nil {
		t.Fatalf("enqueue: %v", err)
	}
	return id
}
