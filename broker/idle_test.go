package broker

import (
	"bufio"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// idleHandsets is the size of the crowd that is measured.
const idleHandsets = 5000

// idleEnv makes the test binary the handsets' process: its value is the broker's address.
const idleEnv = "BLUEJAY_IDLE_HANDSETS"

func TestMain(m *testing.M) {
	if addr := os.Getenv(idleEnv); addr != "" {
		if err := holdHandsets(addr); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(killEnv); dir != "" {
		if err := serveUntilKilled(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if addr := os.Getenv(loadEnv); addr != "" {
		if err := runLoad(addr); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// idleKey derives the same key in both processes.
func idleKey(name string, i int) ed25519.PrivateKey {
	h := sha256.Sum256(fmt.Appendf(nil, "idle %s %d", name, i))
	return ed25519.NewKeyFromSeed(h[:])
}

// idleSince is when the certificates of this process begin: the same for each, whatever the hour becomes.
var idleSince = sync.OnceValue(func() time.Time { return time.Now().Truncate(time.Hour) })

func idleCert(i int) wire.Certificate {
	c := wire.Certificate{
		Device:   wire.PublicKey(idleKey("device", i).Public().(ed25519.PublicKey)),
		IssuedAt: wire.Unix32(idleSince()), LifetimeHours: 48, KID: 1,
	}
	binary.BigEndian.PutUint32(c.ID[:], uint32(i)+1)
	c.Sign(idleKey("registrar", 0))
	return c
}

// BenchmarkIdle measures the resident memory of one connected, consenting, visible handset that
// says nothing: the broker's process after a garbage collection, with and without 5,000 of them.
// The handsets live in a process of their own. Kernel socket memory is not in it.
//
//	go test -run '^$' -bench Idle -benchtime 1x ./broker
func BenchmarkIdle(b *testing.B) {
	registrar := wire.PublicKey(idleKey("registrar", 0).Public().(ed25519.PublicKey))
	br := start(b, func(c *Config) { c.Registrar, c.MaxConns, c.Log = registrar, idleHandsets+100, nil })
	for i := range idleHandsets {
		cert := idleCert(i)
		r := wire.Consent{
			ID: cert.ID, Scopes: wire.ScopeMessaging | wire.ScopePresence, Seq: 1,
			IssuedAt: cert.IssuedAt, ExpiresAt: cert.IssuedAt + 86400*2,
		}
		r.Sign(idleKey("device", i))
		st := consent.State{Cert: &cert, Record: &r, Seq: 1}
		if _, err := br.bridge.Store().Save(b.Context(), cert.ID, st); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		before, heap, stack := settledRSS(b)
		release := connectHandsets(b, br)
		after, heapAfter, stackAfter := settledRSS(b)
		counts := br.Counts()
		if counts.Sessions != idleHandsets || counts.Blue != idleHandsets {
			b.Fatalf("%d sessions and %d blue, want %d", counts.Sessions, counts.Blue, idleHandsets)
		}
		each := float64(after-before) / 1024 / idleHandsets
		b.ReportMetric(each, "KiB/handset")
		if each > 10 {
			b.Errorf("an idle handset takes %.1f KiB, at most 10 are due: did a frame under the parked read grow (KiB-stack above 4)?", each)
		}
		b.ReportMetric(float64(heapAfter-heap)/1024/idleHandsets, "KiB-heap/handset")
		b.ReportMetric(float64(stackAfter-stack)/1024/idleHandsets, "KiB-stack/handset")
		b.ReportMetric(float64(after)/(1<<20), "MiB-RSS")
		release()
	}
}

// connectHandsets starts the handsets' process and returns when all are connected.
func connectHandsets(b *testing.B, br *Broker) (release func()) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), idleEnv+"="+br.Addr())
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "connected" {
		b.Fatalf("handsets: %q %v", line, err)
	}
	return func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
}

// holdHandsets connects every handset, says so, and holds them until standard input ends.
func holdHandsets(addr string) error {
	conns := make([]net.Conn, 0, idleHandsets)
	for i := range idleHandsets {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		conns = append(conns, c)
		cert := idleCert(i)
		proof := wire.Connect{Cert: &cert, ID: cert.ID, TS: wire.Unix32(time.Now())}
		proof.Sign(idleKey("device", i), nil, "test")
		if _, err := c.Write(connectPacket(proof.Marshal())); err != nil {
			return err
		}
		in := bufio.NewReader(c)
		if p, err := readMQTT(in); err != nil || p.head != 0x20 || p.body[1] != 0 {
			return fmt.Errorf("handset %d: CONNECT refused (%v)", i, err)
		}
		if _, err := readMQTT(in); err != nil { // the welcome
			return err
		}
	}
	fmt.Println("connected")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	for _, c := range conns {
		_ = c.Close()
	}
	return nil
}

// settledRSS is this process's resident set after the collector gave back what it could, and the
// heap and the stacks in use. A stack shrinks by half a collection.
func settledRSS(b testing.TB) (rss, heap, stack int64) {
	b.Helper()
	for range 5 {
		runtime.GC()
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10, int64(m.HeapAlloc), int64(m.StackInuse)
		}
	}
	b.Fatal("no VmRSS in /proc/self/status")
	return 0, 0, 0
}
