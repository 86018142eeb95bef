package handset

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/quick"

	"github.com/google/go-cmp/cmp"
)

// faultyDisk is a disk in memory. Bytes are durable only once synced; at a crash, unsynced ones
// are kept in part, lost, or turned to zeros, as real disks do.
type faultyDisk struct {
	files   map[string]*faultyFile
	names   map[string]*faultyFile // what a crash leaves of the directory
	failAt  int                    // the operation that fails, counted down; 0: none
	crashed bool
}

type faultyFile struct {
	d      *faultyDisk
	data   []byte
	synced int
}

var errFault = errors.New("injected fault")

func newFaultyDisk() *faultyDisk {
	return &faultyDisk{files: map[string]*faultyFile{}, names: map[string]*faultyFile{}}
}

func (d *faultyDisk) fail() error {
	if d.crashed {
		return errFault
	}
	if d.failAt--; d.failAt == 0 {
		d.crashed = true
		return errFault
	}
	return nil
}

func (d *faultyDisk) Read(name string) ([]byte, error) {
	f := d.files[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(f.data), nil
}

func (d *faultyDisk) Append(name string, _ bool) (diskFile, error) {
	if err := d.fail(); err != nil {
		return nil, err
	}
	if d.files[name] == nil {
		d.files[name] = &faultyFile{d: d}
	}
	return d.files[name], nil
}

func (d *faultyDisk) Rename(from, to string) error {
	if err := d.fail(); err != nil {
		return err
	}
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

func (d *faultyDisk) Remove(name string) error {
	if d.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	return nil
}

func (d *faultyDisk) Sync() error {
	if err := d.fail(); err != nil {
		return err
	}
	d.names = maps.Clone(d.files)
	return nil
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.d.fail(); err != nil {
		n := len(p) / 2
		f.data = append(f.data, p[:n]...)
		return n, err
	}
	f.data = append(f.data, p...)
	return len(p), nil
}

func (f *faultyFile) Truncate(n int64) error {
	f.data = f.data[:n]
	f.synced = min(f.synced, int(n))
	return f.d.fail()
}

func (f *faultyFile) Sync() error {
	if err := f.d.fail(); err != nil {
		return err
	}
	f.synced = len(f.data)
	return nil
}

func (f *faultyFile) Close() error { return nil }

// afterCrash is the disk as the next process finds it.
func (d *faultyDisk) afterCrash(r *rand.Rand) *faultyDisk {
	next := newFaultyDisk()
	names := d.names
	if r.IntN(2) == 0 { // renames may or may not have reached the disk
		names = d.files
	}
	for name, f := range names {
		data := bytes.Clone(f.data)
		switch tail := data[f.synced:]; r.IntN(3) {
		case 0:
			data = data[:f.synced+r.IntN(len(tail)+1)]
		case 1:
			clear(tail[r.IntN(len(tail)+1):])
		}
		next.files[name] = &faultyFile{d: next, data: data, synced: len(data)}
	}
	next.names = maps.Clone(next.files)
	return next
}

func mustOpen(t *testing.T, d disk) *store {
	t.Helper()
	s, err := openStore(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// random makes a transaction and applies it to a copy of want.
func randomTx(r *rand.Rand, want map[string][]byte) (*tx, map[string][]byte) {
	t, next := &tx{}, maps.Clone(want)
	for range 1 + r.IntN(4) {
		k := fmt.Sprintf("key/%d", r.IntN(12))
		if r.IntN(4) == 0 {
			t.del(k)
			delete(next, k)
			continue
		}
		v := bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(3000))
		t.put(k, v)
		next[k] = v
	}
	return t, next
}

// Whatever operation fails, and whatever a crash leaves of unsynced bytes, the next process finds
// every acknowledged transaction whole, and the one under way whole or not at all. [U-6]
func TestCrashAnywhere(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newFaultyDisk()
		d.failAt = 5 + r.IntN(900)
		want, maybe := map[string][]byte{}, map[string][]byte{}
		if s, err := openStore(d); err == nil {
			for range 400 {
				var u *tx
				u, maybe = randomTx(r, want)
				if err := s.commit(u); err != nil {
					break
				}
				want = maybe
			}
		}
		s, err := openStore(d.afterCrash(r))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !equalState(s.state, want) && !equalState(s.state, maybe) {
			t.Fatalf("seed %d: state is neither that of the last acknowledged transaction nor that of the next", seed)
		}
	}
}

func equalState(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return bytes.Equal(x, y) })
}

// smallLog is a log of n transactions and the states after each.
func smallLog(t *testing.T, n int) ([]byte, []map[string][]byte, []int) {
	t.Helper()
	d := newFaultyDisk()
	s := mustOpen(t, d)
	states, ends := []map[string][]byte{{}}, []int{len(d.files[logName].data)}
	for i := range n {
		u := &tx{}
		u.put("text", fmt.Appendf(nil, "number %d", i))
		u.put(fmt.Sprintf("k%d", i), []byte{byte(i)})
		if i > 2 {
			u.del(fmt.Sprintf("k%d", i-2))
		}
		if err := s.commit(u); err != nil {
			t.Fatal(err)
		}
		states = append(states, maps.Clone(s.state))
		ends = append(ends, len(d.files[logName].data))
	}
	return d.files[logName].data, states, ends
}

// Cut at every byte, the log is the state of the last transaction that is whole. [U-6]
func TestCutAtEveryByte(t *testing.T) {
	log, states, ends := smallLog(t, 12)
	for cut := range len(log) + 1 {
		r, err := replay(log[:cut])
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n := 0
		for n+1 < len(ends) && ends[n+1] <= cut {
			n++
		}
		if !equalState(r.state, states[n]) || r.suspect {
			t.Fatalf("cut at %d: not the state after transaction %d (suspect %v)", cut, n, r.suspect)
		}
	}
}

// A byte changed in the middle is damage, never a silent loss; in the last record it is a torn end
// that raises suspicion. [U-6]
func TestEveryByteChanged(t *testing.T) {
	log, states, ends := smallLog(t, 6)
	last := ends[len(ends)-2]
	for i := range log {
		bad := bytes.Clone(log)
		bad[i] ^= 0x40
		r, err := replay(bad)
		switch {
		case i < last && !errors.Is(err, ErrCorrupt):
			t.Fatalf("byte %d of %d changed: error %v, want ErrCorrupt", i, last, err)
		case i >= last && (err != nil || !r.suspect || !equalState(r.state, states[len(states)-2])):
			t.Fatalf("byte %d of the last record changed: %v, suspect %v", i, err, r.suspect)
		}
	}
}

func TestRecordsOutOfOrderAreDamage(t *testing.T) {
	log, _, ends := smallLog(t, 5)
	without := append(bytes.Clone(log[:ends[2]]), log[ends[3]:]...)
	if _, err := replay(without); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a record missing: %v, want ErrCorrupt", err)
	}
	twice := append(bytes.Clone(log[:ends[3]]), log[ends[2]:]...)
	if _, err := replay(twice); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a record twice: %v, want ErrCorrupt", err)
	}
	if _, err := replay([]byte("some other file")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another file: %v, want ErrCorrupt", err)
	}
}

func TestCompactionKeepsEverything(t *testing.T) {
	d := newFaultyDisk()
	s := mustOpen(t, d)
	want, r := map[string][]byte{}, rand.New(rand.NewPCG(7, 7))
	largest := 0
	for range 1500 {
		u, next := randomTx(r, want)
		if err := s.commit(u); err != nil {
			t.Fatal(err)
		}
		want = next
		largest = max(largest, len(d.files[logName].data))
	}
	if largest > 2*compactAt {
		t.Errorf("the log grew to %d bytes for at most 36 kB of state", largest)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, d); !equalState(got.state, want) {
		t.Error("state differs after compaction")
	}
}

func TestSnapshotOfManyRecords(t *testing.T) {
	d := newFaultyDisk()
	s := mustOpen(t, d)
	for i := range 40 {
		u := &tx{}
		u.put(fmt.Sprintf("big/%02d", i), bytes.Repeat([]byte{byte(i)}, 20_000))
		if err := s.commit(u); err != nil {
			t.Fatal(err)
		}
	}
	want := maps.Clone(s.state)
	if err := s.rewrite(); err != nil {
		t.Fatal(err)
	}
	u := &tx{}
	u.put("after", nil)
	if err := s.commit(u); err != nil {
		t.Fatal(err)
	}
	want["after"] = []byte{}
	if got := mustOpen(t, d); !equalState(got.state, want) {
		t.Error("state differs after a snapshot of several records")
	}
}

// After a failed write nothing more is written: the log may end in half a record. [U-6]
func TestStoreStaysBroken(t *testing.T) {
	d := newFaultyDisk()
	s := mustOpen(t, d)
	u := &tx{}
	u.put("a", []byte("1"))
	d.failAt = 2 // the sync
	if err := s.commit(u); !errors.Is(err, ErrStorage) {
		t.Fatalf("commit: %v, want ErrStorage", err)
	}
	d.failAt, d.crashed = 0, false
	if err := s.commit(u); !errors.Is(err, ErrStorage) {
		t.Errorf("commit after a failure: %v, want ErrStorage", err)
	}
}

func TestTransactionRoundTrip(t *testing.T) {
	property := func(puts map[string][]byte, dels []string, seq uint64) bool {
		u, want := &tx{}, map[string][]byte{}
		for k, v := range puts {
			if len(k) < 1<<16 {
				u.put(k, v)
				want[k] = append([]byte{}, v...)
			}
		}
		for _, k := range dels {
			u.del(k)
			delete(want, k)
		}
		body, got, state := record(u.marshal(seq))
		m := map[string][]byte{}
		return state == recordGood && got == seq && apply(m, body) == nil && equalState(m, want)
	}
	if err := quick.Check(property, nil); err != nil {
		t.Error(err)
	}
}

// The log's format is frozen: a handset must read what an older version wrote.
func TestLogVector(t *testing.T) {
	u := &tx{}
	u.put("text/0000000000000001", []byte("hello"))
	u.del("text/0000000000000000")
	got := hex.EncodeToString(append([]byte(logMagic), u.marshal(1)...))
	want, err := os.ReadFile(filepath.Join("testdata", "log.hex"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), got); diff != "" {
		t.Errorf("log format changed (-frozen +now):\n%s", diff)
	}
}

func FuzzReplay(f *testing.F) {
	u := &tx{}
	u.put("key", []byte("value"))
	f.Add([]byte{})
	f.Add([]byte(logMagic))
	f.Add(append([]byte(logMagic), u.marshal(1)...))
	f.Add(append(append([]byte(logMagic), u.marshal(1)...), u.marshal(2)[:9]...))
	f.Fuzz(func(t *testing.T, log []byte) {
		r, err := replay(log)
		if err != nil {
			return
		}
		again, err := replay(log[:r.size])
		if err != nil || !equalState(r.state, again.state) || again.seq != r.seq {
			t.Error("the part of the log that is kept reads differently")
		}
	})
}

func FuzzOp(f *testing.F) {
	f.Add(op{"k", []byte("v")}.append(nil))
	f.Add(op{"k", nil}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, rest, ok := parseOp(b); ok && !bytes.Equal(o.append(nil), b[:len(b)-len(rest)]) {
			t.Error("an operation that is not the only encoding of itself")
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	dir, err := openDir(privateDir(b))
	if err != nil {
		b.Fatal(err)
	}
	s, err := openStore(dir)
	if err != nil {
		b.Fatal(err)
	}
	v := make([]byte, 900) // about a text, its session and its sealed bytes
	for b.Loop() {
		u := &tx{}
		u.put("text/1", v)
		if err := s.commit(u); err != nil {
			b.Fatal(err)
		}
	}
}
