package broker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bluejay/bridge"
	"bluejay/wire"
)

// natsPatience is how long a test waits for what must happen, so that a busy machine is slow, not red.
const natsPatience = 30 * time.Second

// authority is one for all tests of the package; making one takes many keys.
var authority = sync.OnceValues(NewAuthority)

// trusted writes the trust of the tests' authority.
func trusted(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	a, err := authority()
	if err == nil {
		err = a.WriteTrust(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// credsOf makes the credentials of a role.
func credsOf(t testing.TB, r bridge.Role) (file string) {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.RoleCreds(r)
	if err != nil {
		t.Fatal(err)
	}
	return written(t, b)
}

func written(t testing.TB, b []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func natsConfig(t testing.TB, dir string) NATSConfig {
	t.Helper()
	return NATSConfig{Dir: dir, Trust: trusted(t), MaxStore: 2 << 30}
}

func startNATS(t *testing.T, c NATSConfig) *NATS {
	t.Helper()
	n, err := StartNATS(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), natsPatience)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return n
}

func connect(t *testing.T, c bridge.Config) *bridge.Bridge {
	t.Helper()
	c.Creds = credsOf(t, c.Role)
	b, err := dialBridge(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), natsPatience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// dialNATS returns once the server has said yes or no. It gives a CONNECT 2 s, and pings after one: a machine that stood
// still for so long got neither answer, and asks again.
func dialNATS(url string, opts ...nats.Option) (*nats.Conn, error) {
	opts = append(opts, nats.Timeout(natsPatience))
	for start := time.Now(); ; {
		nc, err := nats.Connect(url, opts...)
		if err == nil || errors.Is(err, nats.ErrAuthorization) || time.Since(start) > natsPatience {
			return nc, err
		}
	}
}

// dialBridge is dialNATS for a bridge.
func dialBridge(ctx context.Context, c bridge.Config) (*bridge.Bridge, error) {
	c.Timeout = natsPatience
	for start := time.Now(); ; {
		b, err := bridge.Connect(ctx, c)
		if !errors.Is(err, wire.Unavailable) || time.Since(start) > natsPatience {
			return b, err
		}
	}
}

// A user is a plain NATS client with a role's credentials, and nothing of the bridge's care.
type user struct {
	nc     *nats.Conn
	denied chan struct{}
}

func newUser(t *testing.T, n *NATS, r bridge.Role) user {
	t.Helper()
	u := user{denied: make(chan struct{}, 1)}
	nc, err := dialNATS(n.URL(), nats.UserCredentials(credsOf(t, r)), nats.ErrorHandler(
		func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				u.denied <- struct{}{}
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	u.nc = nc
	return u
}

// refused does something and reports whether the server refused it: a refusal comes before the
// answer to the ping that follows.
func (u user) refused(t *testing.T, do func() error) bool {
	t.Helper()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	if err := u.nc.FlushTimeout(natsPatience); err != nil {
		t.Fatal(err)
	}
	if u.nc.LastError() == nil {
		return false
	}
	<-u.denied
	return true
}

func (u user) publish(subject string) func() error {
	return func() error { return u.nc.Publish(subject, nil) }
}

func (u user) subscribe(subject string) func() error {
	return func() error { _, err := u.nc.SubscribeSync(subject); return err }
}

// permissions says for each subject who may publish to it: b, r, w, o.
var permissions = map[string]string{
	wire.SubjectEnrol:                            "b",
	wire.SubjectLookup:                           "b",
	wire.SubjectCheck:                            "w",
	wire.SubjectSign:                             "w",
	"bj.sms.job.normal.AAAAAAAAAAAA":             "bo",
	"bj.sms.job.urgent.AAAAAAAAAAAA":             "ro",
	"bj.sms.outcome.AAAAAAAAAAAA":                "w",
	"bj.sms.dead.normal.AAAAAAAAAAAA":            "w",
	"bj.route.AAAAAAAAAAAA":                      "b",
	"$KV.bj_consent.AAAA":                        "b",
	"$KV.bj_counts.AAAA":                         "r",
	"$KV.bj_journal.AAAA":                        "bw",
	"$KV.bj_keys.worker":                         "w",
	"$KV.bj_keys.other":                          "",
	"$JS.API.STREAM.UPDATE.BJ_SMS":               "b",
	"$JS.API.STREAM.DELETE.BJ_SMS":               "",
	"$JS.API.STREAM.PURGE.BJ_SMS":                "",
	"$JS.API.STREAM.CREATE.OTHER":                "",
	"$JS.API.STREAM.MSG.GET.BJ_SMS":              "b",
	"$JS.API.STREAM.MSG.GET.KV_bj_consent":       "b",
	"$JS.API.STREAM.MSG.GET.KV_bj_counts":        "r",
	"$JS.API.STREAM.MSG.GET.KV_bj_journal":       "bw",
	"$JS.API.STREAM.MSG.DELETE.BJ_SMS":           "b",
	"$JS.API.STREAM.MSG.DELETE.KV_bj_consent":    "",
	"$JS.API.DIRECT.GET.KV_bj_consent":           "",
	"$JS.API.DIRECT.GET.BJ_SMS":                  "",
	"$JS.API.CONSUMER.MSG.NEXT.BJ_SMS.urgent":    "w",
	"$JS.API.CONSUMER.MSG.NEXT.BJ_SMS.normal":    "w",
	"$JS.API.CONSUMER.CREATE.BJ_SMS.x":           "b",
	"$JS.API.CONSUMER.DELETE.BJ_SMS.normal":      "",
	"$JS.ACK.BJ_SMS.normal.1.1.1.1.0":            "w",
	"$JS.ACK._.hash.BJ_SMS.normal.1.1.1.1.0.rnd": "w",
	"$JS.ACK.BJ_OUTCOME.x.1.1.1.1.0":             "",
	"$JS.API.CONSUMER.CREATE.BJ_OUTCOME.x":       "b",
	"$JS.API.CONSUMER.CREATE.KV_bj_keys.x":       "br",
	"$JS.API.CONSUMER.CREATE.KV_bj_consent.x":    "b",
	"$JS.API.ACCOUNT.PURGE.$G":                   "",
	"$SYS.REQ.SERVER.PING":                       "",
	"_INBOX_broker.x":                            "br",
	"_INBOX_worker.x":                            "r",
	"_INBOX_registrar.x":                         "b",
	"_INBOX_operator.x":                          "rw",
	wire.SubjectStop:                             "w",
	wire.SubjectOff:                              "o",
	wire.SubjectSeq:                              "r",
	wire.SubjectRevoke:                           "r",
	"bj.sms.dead.urgent.AAAAAAAAAAAA":            "w",
	"bj.event.sms.submitted":                     "w",
	"bj.event.party.submitted":                   "w",
	"bj.caps.20261124.number.AAAA":               "w",
	"$KV.bj_suppressed.AAAA":                     "wo",
	"$JS.API.STREAM.MSG.GET.BJ_DEAD":             "bo",
	"$JS.API.STREAM.MSG.DELETE.BJ_DEAD":          "bo",
	"$JS.API.STREAM.PURGE.BJ_DEAD":               "",
	"$JS.API.STREAM.MSG.GET.BJ_CAPS":             "bw",
	"$JS.API.CONSUMER.CREATE.BJ_EVENT.x":         "b",
	"$JS.API.CONSUMER.CREATE.KV_bj_journal.x":    "bw",
	"$JS.ACK.BJ_EVENT.x.1.1.1.1.0":               "b",
	"anything.else":                              "",
	wire.SubjectHold:                             "o",
	wire.SubjectErase:                            "o",
	wire.SubjectWorkerHold:                       "o",
	wire.SubjectWorkerErase:                      "o",
	wire.SubjectKept:                             "r",
	wire.SubjectForget:                           "r",
	"$KV.bj_void.AAAA":                           "b",
	"$KV.bj_consent.wipe.1":                      "b",
	"$KV.bj_counts.wipe.1":                       "r",
	"$KV.bj_journal.wipe.1":                      "w",
	"$KV.bj_suppressed.wipe.1":                   "w",
	"$KV.bj_consent.other.1":                     "",
	"$JS.API.STREAM.PURGE.KV_bj_consent":         "b",
	"$JS.API.STREAM.PURGE.KV_bj_counts":          "r",
	"$JS.API.STREAM.PURGE.KV_bj_journal":         "w",
	"$JS.API.STREAM.PURGE.KV_bj_suppressed":      "w",
	"$JS.API.STREAM.PURGE.KV_bj_void":            "",
	"$JS.API.STREAM.PURGE.KV_bj_keys":            "",
	"$JS.API.STREAM.PURGE.BJ_OUTCOME":            "",
	"$JS.API.STREAM.MSG.GET.KV_bj_void":          "b",
	"$JS.API.STREAM.MSG.GET.KV_bj_keys":          "rwo",
	"$JS.API.STREAM.MSG.GET.BJ_EVENT":            "b",
	"$JS.API.STREAM.MSG.DELETE.BJ_EVENT":         "b",
	"$JS.API.CONSUMER.CREATE.KV_bj_counts.x":     "r",
}

// listeners says for each subject who may subscribe to it.
var listeners = map[string]string{
	"bj.route.AAAAAAAAAAAA": "b",
	"bj.route.*":            "b",
	wire.SubjectEnrol:       "r",
	wire.SubjectSign:        "r",
	"bj.sms.job.>":          "",
	"bj.sms.outcome.*":      "",
	"$KV.bj_consent.*":      "",
	"$KV.>":                 "",
	"_INBOX_broker.>":       "b",
	"_INBOX_registrar.>":    "r",
	"_INBOX_worker.>":       "w",
	"_INBOX.>":              "",
	"_INBOX_operator.>":     "o",
	wire.SubjectStop:        "r",
	wire.SubjectOff:         "r",
	wire.SubjectSeq:         "b",
	wire.SubjectRevoke:      "b",
	"bj.event.sms.*":        "o",
	"bj.event.party.*":      "",
	"bj.sms.dead.>":         "",
	"bj.caps.>":             "",
	"$SRV.PING":             "brw",
	wire.SubjectHold:        "r",
	wire.SubjectErase:       "r",
	wire.SubjectWorkerHold:  "w",
	wire.SubjectWorkerErase: "w",
	wire.SubjectKept:        "b",
	wire.SubjectForget:      "b",
	"$JS.API.>":             "",
	"$JS.EVENT.ADVISORY.>":  "",
	">":                     "",
}

// TestPermissions: [F-5] [F-8] each role may do what it must, and everything else is denied.
func TestPermissions(t *testing.T) {
	n := startNATS(t, natsConfig(t, t.TempDir()))
	for _, r := range append(bridge.Roles(), bridge.RoleOperator) {
		t.Run(string(r), func(t *testing.T) {
			check := func(what string, u user, who, subject string, do func() error) {
				want := !strings.Contains(who, string(r[0]))
				if got := u.refused(t, do); got != want {
					t.Errorf("%s %s to %s: denied %v, want %v", r, what, subject, got, want)
				}
			}
			for subject, who := range permissions {
				u := newUser(t, n, r)
				check("publishing", u, who, subject, u.publish(subject))
			}
			for subject, who := range listeners {
				u := newUser(t, n, r)
				check("subscribing", u, who, subject, u.subscribe(subject))
			}
		})
	}
}

// TestNobodyElse: without credentials, with those of another operator, or with a token and another key,
// nobody gets in. [F-5]
func TestNobodyElse(t *testing.T) {
	n := startNATS(t, natsConfig(t, t.TempDir()))
	if _, err := dialNATS(n.URL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without credentials: %v", err)
	}
	if _, err := dialNATS(n.URL(), nats.UserInfo("broker", "broker")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with a password: %v", err)
	}
	other, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.RoleCreds(bridge.RoleBroker)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialNATS(n.URL(), nats.UserCredentials(written(t, theirs))); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with another operator's: %v", err)
	}
	ours, err := os.ReadFile(credsOf(t, bridge.RoleBroker))
	if err != nil {
		t.Fatal(err)
	}
	token, _, _ := strings.Cut(string(ours), "------END NATS USER JWT")
	_, key, _ := strings.Cut(string(theirs), "------END NATS USER JWT")
	if _, err := dialNATS(n.URL(), nats.UserCredentials(written(t, []byte(token+"------END NATS USER JWT"+key)))); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with our token and another key: %v", err)
	}
}

func TestNATSConfigRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*NATSConfig){
		"no directory":         func(c *NATSConfig) { c.Dir = "" },
		"no accounts":          func(c *NATSConfig) { c.Trust = "" },
		"accounts elsewhere":   func(c *NATSConfig) { c.Trust = filepath.Join(c.Trust, "none") },
		"no operator":          func(c *NATSConfig) { _ = os.WriteFile(filepath.Join(c.Trust, fileOperator), []byte("x"), 0o600) },
		"everywhere, no TLS":   func(c *NATSConfig) { c.Listen = "0.0.0.0:0" },
		"anywhere, no TLS":     func(c *NATSConfig) { c.Listen = ":0" },
		"another host, no TLS": func(c *NATSConfig) { c.Listen = "192.0.2.1:4222" },
		"no port":              func(c *NATSConfig) { c.Listen = "127.0.0.1" },
		"a port by name":       func(c *NATSConfig) { c.Listen = "127.0.0.1:nats" },
		"a port too high":      func(c *NATSConfig) { c.Listen = "127.0.0.1:70000" },
		"a file for directory": func(c *NATSConfig) { c.Dir = os.Args[0] },
	} {
		c := natsConfig(t, t.TempDir())
		spoil(&c)
		if _, err := StartNATS(c); !errors.Is(err, ErrNATS) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNATSPortTaken: a server that cannot run says why, at once.
func TestNATSPortTaken(t *testing.T) {
	n := startNATS(t, natsConfig(t, t.TempDir()))
	c := natsConfig(t, t.TempDir())
	c.Listen = strings.TrimPrefix(n.URL(), "nats://")
	if _, err := StartNATS(c); !errors.Is(err, ErrNATS) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
}

// TestNATSOverTLS: other machines need TLS, the broker's own connection does not.
func TestNATSOverTLS(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, public, private)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	c := natsConfig(t, t.TempDir())
	c.Listen, c.TLS = "0.0.0.0:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
	n := startNATS(t, c)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(n.URL(), "tls://"), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	url := "tls://127.0.0.1:" + port
	if _, err := bridge.Connect(t.Context(), bridge.Config{Role: bridge.RoleWorker, URL: url, Creds: credsOf(t, bridge.RoleWorker)}); !errors.Is(err, wire.Unavailable) {
		t.Errorf("with a server nobody vouches for: %v", err)
	}
	connect(t, bridge.Config{Role: bridge.RoleWorker, URL: url, TLS: &tls.Config{RootCAs: roots}})
	b := connect(t, bridge.Config{Role: bridge.RoleBroker, InProcess: n})
	if err := b.EnsureStreams(t.Context(), bridge.Limits{}); err != nil {
		t.Error(err)
	}
}

// lines is a log that tests can read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *lines) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// TestNATSLog: [F-8] the server's log goes to slog, without what a subject can hold.
func TestNATSLog(t *testing.T) {
	var log lines
	c := natsConfig(t, t.TempDir())
	c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n := startNATS(t, c)
	secret := wire.Tag{1, 2, 3, 0xff}.String()
	for _, subject := range []string{"bj.route.", "bj.sms.job.urgent.", "$KV.bj_counts."} {
		u := newUser(t, n, bridge.RoleWorker)
		if !u.refused(t, u.publish(subject+secret)) {
			t.Errorf("%s was not refused", subject)
		}
	}
	text := log.String()
	if strings.Contains(text, secret) || strings.Count(text, "Violation") != 3 || !strings.Contains(text, "bj.route.…") {
		t.Errorf("the log shows a secret, or not three violations:\n%s", text)
	}
}

// TestNATSCloseIsBounded: a deadline that has passed is reported; the server ends all the same.
func TestNATSCloseIsBounded(t *testing.T) {
	n := startNATS(t, natsConfig(t, t.TempDir()))
	if !n.Healthy() {
		t.Error("a server that runs is not healthy")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Close(ctx); err != nil && !errors.Is(err, context.Canceled) { // nil: it was closed before anybody looked
		t.Errorf("close: %v", err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Errorf("close again: %v", err)
	}
	if n.Healthy() {
		t.Error("a server that has ended is healthy")
	}
}

// The environment of the server process of TestKill.
const (
	childDir   = "BLUEJAY_TEST_NATS_DIR"
	childTrust = "BLUEJAY_TEST_NATS_TRUST"
)

// TestNATSChild is the server process of TestKill; by itself it does nothing.
func TestNATSChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	n, err := StartNATS(NATSConfig{Dir: dir, Trust: os.Getenv(childTrust), MaxStore: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("URL", n.URL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or its parent is
}

// child starts a NATS server in a process of its own.
func child(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestNATSChild$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childTrust+"="+trusted(t))
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = in.Close()
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if u, ok := strings.CutPrefix(lines.Text(), "URL "); ok {
			return u, kill
		}
	}
	t.Fatal("the server process did not start")
	return "", nil
}

// TestKill: [C-4] with kill -9 in the middle of the load, every job that was acknowledged is in the
// queue when the server is back, once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[wire.MessageID]bool{}
	for round := range 3 {
		url, kill := child(t, dir)
		b := connect(t, bridge.Config{Role: bridge.RoleBroker, URL: url})
		if err := b.EnsureStreams(t.Context(), bridge.Limits{}); err != nil {
			t.Fatal(err)
		}
		enqueueUntilKilled(t, b, round, acked, kill)
	}
	url, _ := child(t, dir)
	q, err := connect(t, bridge.Config{Role: bridge.RoleWorker, URL: url}).OpenQueue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total, extra, seen := len(acked), 0, map[wire.MessageID]bool{}
	for len(acked) > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 3*natsPatience) // what met the end of a request is back after AckWait, 30 s
		d, err := q.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%d of %d acknowledged jobs are lost", len(acked), total)
		}
		if seen[d.ID()] {
			t.Error("a job came twice")
		}
		seen[d.ID()] = true
		if !acked[d.ID()] {
			extra++ // stored, and the server died before it could say so
		}
		delete(acked, d.ID())
		if err := d.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledged, none lost, %d stored without an acknowledgement", total, extra)
}

// enqueueUntilKilled queues from four goroutines and kills the server after 100 jobs.
func enqueueUntilKilled(t *testing.T, b *bridge.Bridge, round int, acked map[wire.MessageID]bool, kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for lane := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				payload := fmt.Appendf(nil, "%d/%d/%d", round, lane, i)
				id := wire.MessageIDOf(payload)
				err := b.Jobs().Enqueue(ctx, wire.ClassNormal, wire.Pseudonym{byte(lane)}, id, payload, nil, nil)
				if err != nil {
					return
				}
				mu.Lock()
				acked[id] = true
				if len(acked) == (round+1)*100 {
					wg.Go(func() { kill(); cancel() })
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
