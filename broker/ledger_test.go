package broker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/wire"
)

const ledgerName = "test"

// ledgerKey signs the checkpoints of these tests.
var ledgerKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func ledgerKeys() []wire.PublicKey {
	return []wire.PublicKey{wire.PublicKey(ledgerKey.Public().(ed25519.PublicKey))}
}

func openLedger(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := OpenLedger(dir, ledgerName, ledgerKey)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func logEvent(t testing.TB, l *Ledger, event string) consent.Entry {
	t.Helper()
	e, err := l.Log(t.Context(), []byte(event))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// checkpointOf opens a ledger's newest checkpoint.
func checkpointOf(t testing.TB, l *Ledger) consent.Checkpoint {
	t.Helper()
	c, err := consent.OpenCheckpoint(l.Checkpoint(), consent.LogOrigin(ledgerName), ledgerKeys())
	if err != nil || c.Size != l.Size() {
		t.Fatalf("checkpoint %+v, %v; the ledger has %d", c, err, l.Size())
	}
	return c
}

// holds proves that an event is in the log at its entry.
func holds(t testing.TB, l *Ledger, e consent.Entry, event string) {
	t.Helper()
	p, err := consent.ProveInclusion(e, []byte(event), l.Checkpoint(), checkpointOf(t, l), l.Tile)
	if err != nil {
		t.Fatalf("%q at %d of %d: %v", event, e.Index, l.Size(), err)
	}
	if _, err := p.Verify([]byte(event), consent.LogOrigin(ledgerName), ledgerKeys()); err != nil {
		t.Fatalf("%q at %d: %v", event, e.Index, err)
	}
}

// fill logs n events, many at once, and returns their entries.
func logged(t testing.TB, l *Ledger, from, n int) map[string]consent.Entry {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	entries := map[string]consent.Entry{}
	work := make(chan string)
	for range 32 {
		wg.Go(func() {
			for event := range work {
				e, err := l.Log(t.Context(), []byte(event))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				entries[event] = e
				mu.Unlock()
			}
		})
	}
	for i := range n {
		work <- fmt.Sprintf("event %d", from+i)
	}
	close(work)
	wg.Wait()
	return entries
}

// TestLedger logs many at once over two starts: each event has a place of its own, can be proved, and
// the log only ever grew. [L-4] [L-6] [L-7]
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir)
	if l.Size() != 0 {
		t.Fatalf("a new log has %d entries", l.Size())
	}
	empty := checkpointOf(t, l)
	entries := logged(t, l, 0, 300)
	middle := checkpointOf(t, l)
	l = openLedger(t, dir)
	for event, e := range logged(t, l, 300, 300) {
		entries[event] = e
	}
	places := map[uint64]bool{}
	for event, e := range entries {
		places[e.Index] = true
		if e.Index%20 == 0 {
			holds(t, l, e, event)
		}
	}
	if len(entries) != 600 || len(places) != 600 || l.Size() != 600 {
		t.Errorf("%d events at %d places in a log of %d", len(entries), len(places), l.Size())
	}
	for _, older := range []consent.Checkpoint{empty, middle} {
		if err := consent.CheckConsistency(older, checkpointOf(t, l), l.Tile); err != nil {
			t.Errorf("since %d: %v", older.Size, err)
		}
	}
}

// TestLedgerOnce: the same event has one entry, whoever asks and however often, also while the first
// is being written; salts are forgotten after a while. [L-8] [L-2]
func TestLedgerOnce(t *testing.T) {
	l := openLedger(t, t.TempDir())
	var wg sync.WaitGroup
	var got [20]consent.Entry
	for i := range got {
		wg.Go(func() { got[i], _ = l.Log(t.Context(), []byte("once")) })
	}
	wg.Wait()
	if l.Size() != 1 || slices.ContainsFunc(got[:], func(e consent.Entry) bool { return e != got[0] || e.IsZero() }) {
		t.Errorf("%d entries: %+v", l.Size(), got)
	}
	l.mu.Lock()
	l.sweep(time.Now().Add(2 * rememberEvent))
	left := len(l.recent)
	l.mu.Unlock()
	if left != 0 {
		t.Errorf("%d salts are still in memory", left)
	}
}

// TestLedgerGivesUp: who has no time left is told so, and is not in the way. [L-8]
func TestLedgerGivesUp(t *testing.T) {
	l := openLedger(t, t.TempDir())
	l.turn <- struct{}{} // somebody is writing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Log(ctx, []byte("late")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
	<-l.turn
	e := logEvent(t, l, "late")
	if l.Size() != 1 || e.Index != 0 {
		t.Errorf("tried again: entry %d of %d", e.Index, l.Size())
	}
}

// copyTree copies a log's files.
func copyTree(t testing.TB, from string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(from, name)
		files[rel] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func putFile(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func putTree(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, b := range files {
		putFile(t, dir, name, b)
	}
}

// TestLedgerCutAnywhere cuts each file of a small log at each byte, and of a larger one around each hash:
// what is left never passes for the log. [L-9]
func TestLedgerCutAnywhere(t *testing.T) {
	for _, tt := range []struct {
		size, files int
		at          func(n int) bool
	}{
		{20, 2, func(int) bool { return true }},
		{260, 4, func(n int) bool { return n%32 < 2 || n > 8160 }},
	} {
		dir := t.TempDir()
		logged(t, openLedger(t, dir), 0, tt.size)
		files := copyTree(t, dir)
		for name, whole := range files {
			for n := len(whole) - 1; n >= 0; n-- {
				if tt.at(n) {
					cutLedger(t, dir, name, n)
				}
			}
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenLedger(dir, ledgerName, ledgerKey); err == nil {
				t.Errorf("%s can be removed", name)
			}
			putFile(t, dir, name, whole)
		}
		if l := openLedger(t, dir); l.Size() != uint64(tt.size) || len(files) != tt.files {
			t.Errorf("put back: %d entries in %d files", l.Size(), len(files))
		}
	}
}

// cutLedger shortens a file to n bytes and shows that the log is refused, with what to do.
func cutLedger(t *testing.T, dir, name string, n int) {
	t.Helper()
	if err := os.Truncate(filepath.Join(dir, name), int64(n)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLedger(dir, ledgerName, ledgerKey); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Fatalf("%s cut to %d bytes: %v", name, n, err)
	}
}

// TestLedgerCrash stops the writing of a batch, which fills one tile and begins the next, after each
// byte: the log is the one before until the checkpoint has been renamed, and can be carried on. [L-9]
func TestLedgerCrash(t *testing.T) {
	dir := t.TempDir()
	logged(t, openLedger(t, dir), 0, 254)
	before := copyTree(t, dir)
	l := openLedger(t, dir)
	next := l.tip.Clone()
	var leaves []consent.Hash
	for i := range 4 {
		leaves = append(leaves, consent.Leaf([16]byte{byte(i)}, []byte("lost")))
	}
	writes := pieces(next, leaves) // end of tile 0, tile 0 of level 1, tile 1
	signed, err := next.Checkpoint(l.origin).Sign(ledgerKey)
	if err != nil || len(writes) != 3 {
		t.Fatalf("%d pieces, %v", len(writes), err)
	}
	state, stops := before, 0
	stop := func(name string, whole []byte, from int) {
		for n := from; n <= len(whole); n++ {
			crashed := t.TempDir()
			putTree(t, crashed, state)
			putFile(t, crashed, name, whole[:n])
			l := openLedger(t, crashed)
			if l.Size() != 254 {
				t.Fatalf("%s at byte %d: %d entries", name, n, l.Size())
			}
			if stops++; stops%16 == 0 {
				holds(t, l, logEvent(t, l, "after the crash"), "after the crash")
				if again := openLedger(t, crashed); again.Size() != 255 {
					t.Fatalf("%s at byte %d: carried on to %d", name, n, again.Size())
				}
			}
		}
		grown := map[string][]byte{name: whole}
		for k, v := range state {
			if k != name {
				grown[k] = v
			}
		}
		state = grown
	}
	for _, p := range writes {
		name := filepath.FromSlash(consent.TilePath(p.level, p.tile, 256))
		stop(name, append(bytes.Clone(state[name][:min(int(p.offset), len(state[name]))]), p.bytes...), int(p.offset))
	}
	stop(fileCheckpointNew, signed, 0)
	delete(state, fileCheckpointNew)
	state[fileCheckpoint] = signed
	crashed := t.TempDir()
	putTree(t, crashed, state)
	if l := openLedger(t, crashed); l.Size() != 258 {
		t.Errorf("renamed: %d entries", l.Size())
	}
	t.Logf("%d places to stop", stops)
}

// TestLedgerRefuses: a bit changed in any file, a checkpoint of another key or another broker, an older
// checkpoint over newer tiles with one of them changed: the broker does not carry on. [L-9]
func TestLedgerRefuses(t *testing.T) {
	dir := t.TempDir()
	logged(t, openLedger(t, dir), 0, 260)
	for name, whole := range copyTree(t, dir) {
		for at := 0; at < len(whole); at += 1 + len(whole)/64 {
			b := bytes.Clone(whole)
			b[at] ^= 4
			putFile(t, dir, name, b)
			if _, err := OpenLedger(dir, ledgerName, ledgerKey); err == nil {
				t.Errorf("%s: byte %d can be changed", name, at)
			}
		}
		putFile(t, dir, name, whole)
	}
	_, other := testKey(t)
	if _, err := OpenLedger(dir, ledgerName, other); !errors.Is(err, consent.ErrLogKey) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := OpenLedger(dir, "other", ledgerKey); err == nil {
		t.Error("under another name")
	}
	if l, err := OpenLedger(dir, ledgerName, other, ledgerKeys()...); err != nil || l.Size() != 260 {
		t.Errorf("a new key that knows the old one: %v", err)
	}
	if _, err := OpenLedger(t.TempDir(), ledgerName, nil); err == nil {
		t.Error("without a key")
	}
}

// TestLedgerDiskFails: while a file cannot be written nothing is acknowledged; then it goes on, and
// what was tried meanwhile has one entry. [L-7] [L-9]
func TestLedgerDiskFails(t *testing.T) {
	dir := t.TempDir()
	l := openLedger(t, dir)
	logEvent(t, l, "before")
	older := checkpointOf(t, l)
	for _, name := range []string{fileCheckpointNew, filepath.Join("tile", "1")} {
		inTheWay := filepath.Join(dir, name)
		if err := os.Mkdir(inTheWay, 0o755); err != nil && name == fileCheckpointNew {
			t.Fatal(err)
		}
		if name != fileCheckpointNew {
			if err := errors.Join(os.RemoveAll(inTheWay), os.WriteFile(inTheWay, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			for l.Size() < 255 {
				logged(t, l, 1000+int(l.Size()), 255-int(l.Size()))
			}
		}
		size, node := l.Size(), &Broker{ledger: l}
		for range 3 {
			if _, err := l.Log(t.Context(), []byte("during "+name)); err == nil {
				t.Fatalf("acknowledged although %s cannot be written", name)
			}
		}
		if c := node.LogCounts(); c != (LogCounts{size, true}) {
			t.Errorf("%+v, want %d entries and failed", c, size)
		}
		if err := os.Remove(inTheWay); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		l.tried = time.Time{} // it has rested
		l.mu.Unlock()
		holds(t, l, logEvent(t, l, "during "+name), "during "+name)
		if c := node.LogCounts(); c != (LogCounts{size + 1, false}) {
			t.Errorf("%+v after it, want %d entries", c, size+1)
		}
	}
	if err := consent.CheckConsistency(older, checkpointOf(t, l), l.Tile); err != nil {
		t.Error(err)
	}
	if again := openLedger(t, dir); again.Size() != l.Size() {
		t.Errorf("opened again: %d entries, want %d", again.Size(), l.Size())
	}
}

// ledgerEnv makes TestLedgerChild the process that is killed: its value is the directory.
const ledgerEnv = "BLUEJAY_TEST_LEDGER"

// TestLedgerChild logs until it is killed, and prints each entry that it was given; by itself it does
// nothing.
func TestLedgerChild(t *testing.T) {
	dir := os.Getenv(ledgerEnv)
	if dir == "" {
		return
	}
	l := openLedger(t, dir)
	var mu sync.Mutex
	for lane := range 4 {
		go func() {
			for i := 0; ; i++ {
				event := fmt.Sprintf("%d/%d/%d", os.Getpid(), lane, i)
				if e, err := l.Log(context.Background(), []byte(event)); err == nil {
					mu.Lock()
					fmt.Printf("ENTRY %s %x\n", event, e.Marshal())
					mu.Unlock()
				}
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// ledgerKills is how often the process is killed; BLUEJAY_LEDGER_KILLS asks for more.
func ledgerKills(t *testing.T) int {
	n := 6
	if v := os.Getenv("BLUEJAY_LEDGER_KILLS"); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestLedgerKill: with kill -9 in the middle of the load, at a random moment each time, every entry
// that was given out is in the log, which is consistent with every checkpoint seen before. [L-7] [L-9]
func TestLedgerKill(t *testing.T) {
	dir := t.TempDir()
	given := map[string]consent.Entry{}
	var seen []consent.Checkpoint
	for range ledgerKills(t) {
		killLedger(t, dir, 20+rand.IntN(150), given)
		l := openLedger(t, dir)
		now := checkpointOf(t, l)
		for event, e := range given {
			if e.Index >= now.Size {
				t.Fatalf("%s was given entry %d, and the log has %d", event, e.Index, now.Size)
			}
		}
		seen = append(seen, now)
	}
	l := openLedger(t, dir)
	for _, older := range seen {
		if err := consent.CheckConsistency(older, checkpointOf(t, l), l.Tile); err != nil {
			t.Error(err)
		}
	}
	for event, e := range given {
		b, err := l.Tile(consent.TilePath(0, e.Index>>8, consent.TileWidth(0, e.Index>>8, l.Size())))
		leaf := consent.Leaf(e.Salt, []byte(event))
		if err != nil || !bytes.Equal(b[e.Index%256*32:][:32], leaf[:]) {
			t.Errorf("%s is not at %d: %v", event, e.Index, err)
		}
	}
	t.Logf("%d entries given out in %d lives, none lost; %d in the log", len(given), len(seen), l.Size())
}

// killLedger runs the child until it has given out n entries, then kills it.
func killLedger(t *testing.T, dir string, n int, given map[string]consent.Entry) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLedgerChild$")
	cmd.Env = append(os.Environ(), ledgerEnv+"="+dir)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var event string
		var raw []byte
		if k, _ := fmt.Sscanf(lines.Text(), "ENTRY %s %x", &event, &raw); k != 2 {
			continue
		}
		e, err := consent.ParseEntry(raw)
		if err != nil {
			t.Fatal(err)
		}
		given[event] = e
		if n--; n == 0 {
			_ = cmd.Process.Kill() // what it printed until then is read to the end
		}
	}
	_ = cmd.Wait()
	_ = in.Close()
	if n > 0 {
		t.Fatal("the child ended by itself")
	}
}

// TestOneWriter: while a broker has a log no other opens it; when it has ended one does. [L-9]
func TestOneWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	release, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, receipt := testKey(t)
	cfg := Config{
		Name: "test", Addr: "127.0.0.1:0", NATS: natsConfig(t, t.TempDir()), Receipt: receipt, TagKey: make([]byte, 32),
		NATSCreds: credsOf(t, bridge.RoleBroker), LogDir: dir,
	}
	if b, err := Start(t.Context(), cfg); !errors.Is(err, ErrLogInUse) {
		t.Errorf("%v, %v; want ErrLogInUse", b, err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	b := start(t, func(c *Config) { c.LogDir = dir })
	if _, err := lockDir(dir); !errors.Is(err, ErrLogInUse) {
		t.Errorf("beside a running broker: %v", err)
	}
	if b.LogCounts() != (LogCounts{}) {
		t.Errorf("%+v", b.LogCounts())
	}
}

// TestLogIsServed: the checkpoint and tiles over HTTP are those of the log, read only, and nothing
// else of the disk. [L-5]
func TestLogIsServed(t *testing.T) {
	_, receipt := testKey(t)
	b := start(t, func(c *Config) { c.LogDir, c.Receipt = filepath.Join(t.TempDir(), "log"), receipt })
	logged(t, b.ledger, 0, 300)
	get := func(path string) (int, http.Header, []byte) {
		t.Helper()
		r, err := http.Get("http://" + b.HTTPAddr() + "/log/" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err := errors.Join(err, r.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, r.Header, body
	}
	status, header, note := get("checkpoint")
	c, err := consent.OpenCheckpoint(note, consent.LogOrigin("test"), []wire.PublicKey{wire.PublicKey(receipt.Public().(ed25519.PublicKey))})
	if err != nil || status != http.StatusOK || c.Size != 300 || header.Get("Cache-Control") != "no-cache" {
		t.Errorf("checkpoint: %d, %+v, %v, %v", status, c, err, header)
	}
	_, err = consent.CheckAll(c, func(path string) ([]byte, error) {
		status, header, b := get(path)
		if status != http.StatusOK || !strings.Contains(header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d, %v", path, status, header)
		}
		return b, nil
	}, nil)
	if err != nil {
		t.Error(err)
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0/001", "tile/0/001.p/45", "tile/0/002", "tile/1/000", "tile/1/000.p/2", "tile/2/000", "tile/0/0",
		"checkpoint.new", "tile/..%2fcheckpoint", "tile/0/..%2f..%2fcheckpoint", "tile/0/000%00", "tile/data/000",
	} {
		if status, _, body := get(path); status != http.StatusNotFound {
			t.Errorf("%s: %d, %q", path, status, body)
		}
	}
	if r, err := http.Post("http://"+b.HTTPAddr()+"/log/checkpoint", "text/plain", strings.NewReader("x")); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a POST: %v, %v", r, err)
	} else {
		_ = r.Body.Close()
	}
}

// BenchmarkLedger measures one event, fsyncs included, alone and 64 at once; the size of the log on
// disk; and how long it takes to read a log of 100,000.
//
//	go test -run '^$' -bench Ledger ./broker
func BenchmarkLedger(b *testing.B) {
	for _, lanes := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d at once", lanes), func(b *testing.B) {
			l := openLedger(b, b.TempDir())
			b.SetParallelism(lanes)
			var n sync.Mutex
			i := 0
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n.Lock()
					i++
					event := fmt.Sprint(i)
					n.Unlock()
					if _, err := l.Log(b.Context(), []byte(event)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	b.Run("open 100,000", func(b *testing.B) {
		dir := b.TempDir()
		l := openLedger(b, dir)
		next := l.tip.Clone()
		leaves := make([]consent.Hash, 100_000)
		for i := range leaves {
			leaves[i] = consent.Leaf([16]byte{byte(i), byte(i >> 8), byte(i >> 16)}, nil)
		}
		if _, err := l.write(next, leaves); err != nil {
			b.Fatal(err)
		}
		size := 0
		for _, f := range copyTree(b, dir) {
			size += len(f)
		}
		for b.Loop() {
			openLedger(b, dir)
		}
		b.ReportMetric(float64(size)/100_000, "B/entry")
	})
}
