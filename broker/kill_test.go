package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/wire"
)

// killEnv makes the test binary a broker to be killed: its value is the directory of its store. Its other files are
// named by killTrust and killCreds.
const killEnv, killTrust, killCreds = "BLUEJAY_TEST_KILL_DIR", "BLUEJAY_TEST_KILL_TRUST", "BLUEJAY_TEST_KILL_CREDS"

// serveUntilKilled runs a broker until it is killed, or its parent has gone.
func serveUntilKilled(dir string) error {
	cfg := Config{
		Name: "test", Addr: "127.0.0.1:0", NATS: NATSConfig{Dir: dir, Trust: os.Getenv(killTrust), MaxStore: 2 << 30},
		Receipt: idleKey("receipt", 0), TagKey: make([]byte, 32), NATSCreds: os.Getenv(killCreds),
	}
	ofTests(&cfg)
	b, err := Start(context.Background(), cfg)
	if err != nil {
		return err
	}
	fmt.Println("UP", b.Addr(), b.NATSURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// A victim is a broker process.
type victim struct {
	addr, nats string
	kill       func()
}

func startVictim(t *testing.T, dir, trust, creds string) *victim {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killEnv+"="+dir, killTrust+"="+trust, killCreds+"="+creds)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	v := &victim{kill: func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = in.Close()
	}}
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, scanned := fmt.Sscanf(line, "UP %s %s", &v.addr, &v.nats); err != nil || scanned != nil {
		v.kill()
		t.Fatalf("the broker did not start: %q, %v", line, err)
	}
	return v
}

// killsEnv is how often TestKilledDuringRevocation kills.
const killsEnv = "BLUEJAY_KILLS"

// TestKilledDuringRevocation kills a broker with kill -9 at random moments while users are switched off, by their
// devices and by the registrar, and starts it again on the same files: what was acknowledged holds, what was not has
// happened or has not, and either way it can be repeated and then holds. BLUEJAY_KILLS=1000 does so as often; the default
// is the size of CI. [C-revoke]
func TestKilledDuringRevocation(t *testing.T) {
	kills := 8
	if v := os.Getenv(killsEnv); v != "" {
		var err error
		if kills, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	k := &killing{
		T: t, dir: t.TempDir(), trust: trusted(t), creds: credsOf(t, bridge.RoleBroker),
		registrar: credsOf(t, bridge.RoleRegistrar),
	}
	k.v = startVictim(t, k.dir, k.trust, k.creds)
	defer func() { k.v.kill() }()
	for n := range kills {
		k.once(n)
		if t.Failed() {
			t.Fatalf("at kill %d", n)
		}
	}
	if kills >= 8 && (k.acked == 0 || k.lost+k.held == 0) {
		t.Errorf("the kills came always before, or always after the receipt: %d and %d", k.lost+k.held, k.acked)
	}
	t.Logf("%d kills with %d revocations each: %d were acknowledged and all hold; of the others %d held, too, and %d had not happened",
		kills, victims, k.acked, k.held, k.lost)
}

// victims is how many users are being switched off when the broker is killed.
const victims = 6

type killing struct {
	*testing.T
	dir, trust, creds string
	registrar         string // its credentials
	v                 *victim
	acked, held, lost int
}

// dial connects, the second time with another second: a CONNECT is good once.
func (k *killing) dial(i int, again bool) *raw {
	k.Helper()
	ts := time.Now()
	if again {
		ts = ts.Add(-30 * time.Second)
	}
	h, err := dialRaw(k.v.addr, i, ts)
	if err != nil {
		k.Fatal(err)
	}
	_ = h.conn.SetDeadline(time.Now().Add(natsPatience))
	return h
}

// told is how one revocation ended for who asked for it.
type told struct {
	i     int
	acked bool
}

// once switches users off, kills in between, and looks.
func (k *killing) once(n int) {
	ends := make(chan told, victims)
	var phones []*raw
	for j := range victims {
		i := n*victims + j // a user of its own each time
		h := k.dial(i, false)
		h.must(k, "consent", wire.OK, h.record(1, everything))
		phones = append(phones, h)
	}
	ctx, cancel := context.WithCancel(k.Context())
	defer cancel()
	registrar, err := dialBridge(ctx, bridge.Config{URL: k.v.nats, Role: bridge.RoleRegistrar, Creds: k.registrar})
	if err != nil {
		k.Fatal(err)
	}
	for j, h := range phones {
		go func() {
			var code wire.Code
			var err error
			if j%2 == 0 {
				code, _, err = h.ask(recordOf(h.i, 2, 0))
			} else {
				r := wire.Revocation{ID: h.cert.ID, Cause: wire.CauseOperator, Seq: 2, IssuedAt: wire.Unix32(time.Now()), KID: 1}
				r.Sign(idleKey("registrar", 0))
				code, err = registrar.Revoke(ctx, r.Marshal())
			}
			ends <- told{h.i, err == nil && code == wire.OK}
		}()
	}
	acked := map[int]bool{}
	first := rand.IntN(victims) // so many receipts come before the kill, whatever the machine's pace
	for range first {
		e := <-ends
		acked[e.i] = e.acked
	}
	moment := time.NewTimer(time.Duration(rand.Int64N(int64(4 * time.Millisecond))))
	<-moment.C
	k.v.kill()
	cancel() // nobody answers any more
	for range victims - first {
		e := <-ends
		acked[e.i] = e.acked
	}
	_ = registrar.Close(ctx)
	k.v = startVictim(k.T, k.dir, k.trust, k.creds)
	for _, h := range phones {
		_ = h.conn.Close()
		k.look(h.i, acked[h.i])
	}
}

// look is what there is of a user after the restart.
func (k *killing) look(i int, acked bool) {
	h := k.dial(i, true)
	defer func() { _ = h.conn.Close() }()
	want, off := wire.NoRecipient, h.seq == 2
	if off {
		want = wire.NotConsented
	}
	nobody := wire.Topic{Kind: wire.TopicInbox, Tag: wire.Tag{9}}.String()
	h.must(k, fmt.Sprintf("a text of a user (switched off: %v)", off), want, h.text(nobody))
	switch {
	case acked && !off:
		k.Errorf("user %d: acknowledged, and not there after the restart (seq %d)", i, h.seq)
	case acked:
		k.acked++
	case off:
		k.held++
	default:
		k.lost++
		h.must(k, "once more", wire.OK, h.record(2, 0))
		h.must(k, "and it holds", wire.NotConsented, h.text(nobody))
	}
}
