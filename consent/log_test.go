package consent

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"bluejay/wire"
)

const origin = "bluejay-consent/test"

// A memoryLog is a log whose tiles are in memory, by the path of the full tile.
type memoryLog struct {
	Frontier
	files map[string][]byte
	signs map[uint64]Checkpoint
}

// eventOf and saltOf are what entry i is about.
func eventOf(i uint64) []byte    { return fmt.Appendf(nil, "event %d", i) }
func saltOf(i uint64) [16]byte   { return [16]byte{15: byte(i), 14: byte(i >> 8), 0: 1} }
func entryOf(index uint64) Entry { return Entry{Salt: saltOf(index), Index: index} }

func newMemoryLog(size uint64) *memoryLog {
	l := &memoryLog{files: map[string][]byte{}, signs: map[uint64]Checkpoint{}}
	l.signs[0] = l.Checkpoint(origin)
	for l.Size() < size {
		l.grow(Leaf(saltOf(l.Size()), eventOf(l.Size())))
	}
	return l
}

func (l *memoryLog) grow(leaf Hash) {
	for level, h := range l.Add(leaf) {
		path := TilePath(level, (l.Size()>>(level*TileHeight)-1)>>TileHeight, tileWidth)
		l.files[path] = append(l.files[path], h[:]...)
	}
	l.signs[l.Size()] = l.Checkpoint(origin)
}

func (l *memoryLog) tiles(path string) ([]byte, error) {
	level, n, width, err := ParseTilePath(path)
	if err != nil {
		return nil, err
	}
	b := l.files[TilePath(level, n, tileWidth)]
	if len(b) < width*tlog.HashSize {
		return nil, os.ErrNotExist
	}
	return b[:width*tlog.HashSize], nil
}

func signed(t testing.TB, c Checkpoint) []byte {
	t.Helper()
	b, err := c.Sign(broker)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFrontier compares the roots of every size with the ones that a library which keeps every hash
// computes, and the empty one and that of one empty leaf with RFC 6962's. [L-1]
func TestFrontier(t *testing.T) {
	var f Frontier
	var stored []Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (hs []Hash, err error) {
		for _, i := range indexes {
			hs = append(hs, stored[i])
		}
		return hs, nil
	})
	for i := range int64(1100) {
		if want, err := tlog.TreeHash(i, reader); err != nil || f.Root() != want {
			t.Fatalf("%d leaves: root %v, %v; want %v", i, f.Root(), err, want)
		}
		leaf := Leaf(saltOf(uint64(i)), eventOf(uint64(i)))
		f.Add(leaf)
		hs, err := tlog.StoredHashesForRecordHash(i, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
	}
	var empty, one Frontier
	one.Add(tlog.RecordHash(nil))
	for got, want := range map[Hash]string{
		empty.Root(): "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		one.Root():   "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
	} {
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("root %x, want %s", got, want)
		}
	}
	c := f.Clone()
	c.Add(Hash{1})
	if f.Size() != 1100 || f.Root() == c.Root() {
		t.Error("a clone grows with its original")
	}
}

// sizes are where a tile, or a level, begins or ends, and some between.
var sizes = []uint64{0, 1, 2, 3, 7, 8, 200, 255, 256, 257, 300, 511, 512, 513, 700}

// TestConsistency proves every pair of sizes, and refuses what is no continuation. [L-6]
func TestConsistency(t *testing.T) {
	l := newMemoryLog(700)
	for _, older := range sizes {
		for _, newer := range sizes {
			err := CheckConsistency(l.signs[older], l.signs[newer], l.tiles)
			if (err == nil) != (older <= newer) || err != nil && !errors.Is(err, ErrLog) {
				t.Errorf("from %d to %d: %v", older, newer, err)
			}
			lying := l.signs[older]
			lying.Root[31] ^= 1
			if err := CheckConsistency(lying, l.signs[newer], l.tiles); !errors.Is(err, ErrLog) {
				t.Errorf("another log of %d entries, to %d: %v", older, newer, err)
			}
		}
	}
	other := l.signs[3]
	other.Origin += "x"
	if err := CheckConsistency(other, l.signs[7], l.tiles); !errors.Is(err, ErrNotLog) {
		t.Errorf("the checkpoint of another log: %v", err)
	}
}

// TestEveryLeafCounts changes one leaf, one byte of a tile above, the length of a tile and the
// checkpoint, each in turn: none goes unnoticed by who reads the whole log. [L-6]
func TestEveryLeafCounts(t *testing.T) {
	const size = 300
	l := newMemoryLog(size)
	var told uint64
	f, err := CheckAll(l.signs[size], l.tiles, func(n uint64) { told = n })
	if err != nil || told != size || f.Root() != l.Root() {
		t.Fatalf("the log as it was written: %v, told %d", err, told)
	}
	for path, b := range l.files {
		for at := 0; at < len(b); at += tlog.HashSize {
			b[at] ^= 1
			if _, err := CheckAll(l.signs[size], l.tiles, nil); !errors.Is(err, ErrLog) {
				t.Fatalf("%s: byte %d can be changed: %v", path, at, err)
			}
			b[at] ^= 1
		}
		l.files[path] = b[:len(b)-1]
		if _, err := CheckAll(l.signs[size], l.tiles, nil); err == nil {
			t.Errorf("%s: the last byte can be cut off", path)
		}
		l.files[path] = b
	}
	for _, c := range []Checkpoint{{Origin: origin, Size: size - 1, Root: l.Root()}, {Origin: origin, Size: size}} {
		if _, err := CheckAll(c, l.tiles, nil); !errors.Is(err, ErrLog) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestRewrittenLog has a dishonest broker sign a log in which one old entry is another: it fits itself,
// and not what was signed before. [L-6]
func TestRewrittenLog(t *testing.T) {
	honest, forged := newMemoryLog(300), newMemoryLog(17)
	forged.grow(Leaf([16]byte{9}, []byte("backdated")))
	for forged.Size() < 400 {
		forged.grow(Leaf(saltOf(forged.Size()), eventOf(forged.Size())))
	}
	if _, err := CheckAll(forged.signs[400], forged.tiles, nil); err != nil {
		t.Fatalf("the forged log fits itself: %v", err)
	}
	for _, size := range []uint64{18, 19, 256, 300} {
		if err := CheckConsistency(honest.signs[size], forged.signs[400], forged.tiles); !errors.Is(err, ErrLog) {
			t.Errorf("since %d: %v", size, err)
		}
	}
	if err := CheckConsistency(honest.signs[17], forged.signs[400], forged.tiles); err != nil {
		t.Errorf("before the change: %v", err)
	}
}

// TestInclusion proves every entry at several sizes, offline, and refuses any other event, salt and
// place. [L-4] [L-2]
func TestInclusion(t *testing.T) {
	l := newMemoryLog(700)
	for _, size := range []uint64{1, 2, 257, 700} {
		c := l.signs[size]
		note := signed(t, c)
		for i := uint64(0); i < size; i += 1 + size/64 {
			p, err := ProveInclusion(entryOf(i), eventOf(i), note, c, l.tiles)
			if err != nil {
				t.Fatalf("entry %d of %d: %v", i, size, err)
			}
			q, err := ParseInclusion(p.Marshal())
			if err != nil || cmp.Diff(p, q) != "" {
				t.Fatalf("entry %d of %d does not come back: %v", i, size, err)
			}
			if got, err := q.Verify(eventOf(i), origin, theBroker); err != nil || got != c {
				t.Fatalf("entry %d of %d: %v", i, size, err)
			}
			if _, err := q.Verify(eventOf(i+1), origin, theBroker); !errors.Is(err, ErrNoEntry) {
				t.Errorf("entry %d of %d is also another event: %v", i, size, err)
			}
		}
		if _, err := ProveInclusion(entryOf(size), nil, note, c, l.tiles); !errors.Is(err, ErrNoEntry) {
			t.Errorf("an entry past the end of %d: %v", size, err)
		}
	}
	if _, err := ProveInclusion(entryOf(3), eventOf(4), nil, l.signs[700], l.tiles); !errors.Is(err, ErrNoEntry) {
		t.Errorf("an event that is not there is proved: %v", err)
	}
}

// TestEveryBitOfAnInclusion flips each bit of a proof file. [L-4]
func TestEveryBitOfAnInclusion(t *testing.T) {
	l := newMemoryLog(5)
	p, err := ProveInclusion(entryOf(2), eventOf(2), signed(t, l.signs[5]), l.signs[5], l.tiles)
	if err != nil {
		t.Fatal(err)
	}
	whole := p.Marshal()
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if q, err := ParseInclusion(b); err == nil {
			if _, err := q.Verify(eventOf(2), origin, theBroker); err == nil {
				t.Errorf("bit %d of byte %d can be flipped", bit%8, bit/8)
			}
		}
	}
	for cut := range len(whole) {
		if q, err := ParseInclusion(whole[:cut]); err == nil {
			if _, err := q.Verify(eventOf(2), origin, theBroker); err == nil {
				t.Errorf("the first %d bytes are a proof", cut)
			}
		}
	}
}

// TestCheckpoint reads what was signed, by one of the broker's keys, past a witness's line; each bit of
// it matters. [L-3]
func TestCheckpoint(t *testing.T) {
	c := newMemoryLog(9).signs[9]
	whole := signed(t, c)
	got, err := OpenCheckpoint(whole, origin, theBroker)
	if err != nil || got != c {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := OpenCheckpoint(whole, origin, append(theBroker, theBroker...)); err != nil || got != c {
		t.Errorf("with each key given twice: %v", err)
	}
	witnessed := append(bytes.Clone(whole), "— witness.example/w1 AAAAAAEBAQEBAQ==\n"...)
	if got, err := OpenCheckpoint(witnessed, origin, theBroker); err != nil || got != c {
		t.Errorf("with a witness: %v", err)
	}
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := OpenCheckpoint(b, origin, theBroker); err == nil {
			t.Errorf("bit %d of byte %d can be flipped", bit%8, bit/8)
		}
	}
	for name, tt := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":          {nil, ErrNotLog},
		"too much":         {bytes.Repeat(whole, 50), ErrNotLog},
		"not signed by it": {whole, ErrLogKey},
	} {
		if _, err := OpenCheckpoint(tt.b, origin, theBroker[:1]); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := OpenCheckpoint(whole, LogOrigin("other"), theBroker); err == nil {
		t.Error("the checkpoint of one log is that of another")
	}
	for _, text := range []string{"\n1\n", c.text() + "more\n", strings.Replace(c.text(), "\n9\n", "\n09\n", 1), strings.Replace(c.text(), "\n9\n", "\n281474976710657\n", 1)} {
		if _, err := parseCheckpoint(text, origin); !errors.Is(err, ErrNotLog) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLogOrigin: any broker's name makes a key name that a signed note can have. [L-3]
func TestLogOrigin(t *testing.T) {
	for name, want := range map[string]string{
		"bluejay": "bluejay-consent/bluejay", "": "bluejay-consent/", "a b+c\n": "bluejay-consent/a=20b=2bc=0a", "=": "bluejay-consent/=3d",
	} {
		c := Checkpoint{Origin: LogOrigin(name)}
		if c.Origin != want {
			t.Errorf("%q: %q, want %q", name, c.Origin, want)
		}
		if _, err := OpenCheckpoint(signed(t, c), c.Origin, theBroker); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestTilePath reads back what it writes, and no second spelling. [L-5]
func TestTilePath(t *testing.T) {
	for path, want := range map[string][3]uint64{
		"tile/0/000": {0, 0, 256}, "tile/0/000.p/1": {0, 0, 1}, "tile/1/x001/067": {1, 1067, 256}, "tile/3/x123/x456/789.p/255": {3, 123456789, 255},
	} {
		level, n, width, err := ParseTilePath(path)
		if err != nil || [3]uint64{uint64(level), n, uint64(width)} != want || TilePath(level, n, width) != path {
			t.Errorf("%s: %d, %d, %d, %v", path, level, n, width, err)
		}
	}
	for _, path := range []string{
		"", "tile/", "tile/0", "tile/0/0", "tile/0/00", "tile/0/000.p/0", "tile/0/000.p/256", "tile/data/000", "tile/0/x000/001", "tile/8/0/000",
		"/tile/0/000", "tile/0/../../checkpoint", "tile/-1/000", "tile/00/000", "tile/0/x001/067/" + strings.Repeat("x001/", 30) + "000",
	} {
		if _, _, _, err := ParseTilePath(path); !errors.Is(err, ErrNotLog) {
			t.Errorf("%q: %v", path, err)
		}
	}
	for size, want := range map[uint64][3]int{0: {0, 0, 0}, 1: {1, 0, 0}, 256: {256, 0, 1}, 257: {256, 1, 1}, 1 << 16: {256, 256, 256}} {
		if got := [3]int{TileWidth(0, 0, size), TileWidth(0, 1, size), TileWidth(1, 0, size)}; got != want {
			t.Errorf("%d leaves: widths %v, want %v", size, got, want)
		}
	}
	if TileWidth(-1, 0, 9) != 0 || TileWidth(7, 0, maxLog) != 0 || TileWidth(0, 1<<60, maxLog) != 0 {
		t.Error("tiles that cannot be")
	}
}

// TestEntries follows an ID's entries through its life: each goes with its event, and comes back from
// what is stored. [L-2] [P-5] [P-7]
func TestEntries(t *testing.T) {
	s, _, _ := State{}.WithCertificate(cert(phone1, 0))
	s, _, _ = s.WithRecord(record(phone1, 1, messaging), now)
	s = s.WithEntry(EventRecord, entryOf(4))
	s, err := s.WithRevocation(revocation(2, alice))
	if err != nil {
		t.Fatal(err)
	}
	s = s.WithEntry(EventRevocation, entryOf(5))
	if s.Logged(EventRecord) != entryOf(4) || s.Logged(EventRevocation) != entryOf(5) || !s.Logged(EventDevice).IsZero() {
		t.Errorf("%+v", s.Entries)
	}
	again, err := ParseState(s.Marshal())
	if err != nil || cmp.Diff(s, again) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(s, again))
	}
	newer := cert(phone2, 0)
	newer.IssuedAt++
	newer.Sign(registrar)
	taken, _, err := s.WithCertificate(newer)
	if err != nil || taken.Entries != (Entries{}) || !s.Voids(taken) || s.Voids(s) {
		t.Errorf("a new device: %v, entries %+v, voids %v", err, taken.Entries, s.Voids(taken))
	}
	taken = taken.WithEntry(EventDevice, entryOf(6))
	on, _, err := s.WithRecord(record(phone1, 3, messaging), now)
	if err != nil || on.Entries != (Entries{}) {
		t.Errorf("a new record: %v, entries %+v", err, on.Entries)
	}
	for name, b := range map[string][]byte{
		"an entry of an event that is not there": append(taken.Marshal(), append([]byte{byte(EventRecord)}, entryOf(1).Marshal()...)...),
		"an unknown event":                       append(taken.Marshal(), append([]byte{byte(events)}, entryOf(1).Marshal()...)...),
		"half an entry":                          s.Marshal()[:len(s.Marshal())-1],
		"none at all":                            s.Marshal()[:len(s.Marshal())-2*(1+EntryLen)],
		"the zero entry":                         append(s.Marshal()[:len(s.Marshal())-EntryLen], make([]byte, EntryLen)...),
	} {
		if _, err := ParseState(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLeafHides: the leaf of one event under two salts is two leaves that have nothing to do with each
// other, and the record's bytes alone find neither. [L-2]
func TestLeafHides(t *testing.T) {
	r := revocation(2, alice).Marshal() // a registrar can make these bytes again
	if Leaf([16]byte{1}, r) == Leaf([16]byte{2}, r) || Leaf([16]byte{1}, r) == tlog.RecordHash(r) {
		t.Error("the leaf does not depend on its salt")
	}
	if Leaf([16]byte{1}, r) != Leaf([16]byte{1}, revocation(2, alice).Marshal()) {
		t.Error("the leaf cannot be computed again by who has the salt")
	}
}

// logVectors are the frozen forms of a leaf, a checkpoint and a proof file.
type logVectors struct {
	Origin     string   `json:"origin"`
	BrokerSeed string   `json:"broker_seed"`
	Salt       string   `json:"salt"`
	Event      string   `json:"event"`
	Leaf       string   `json:"leaf"`
	Entry      string   `json:"entry"`
	Checkpoint string   `json:"checkpoint"`
	Proof      string   `json:"proof"`
	Receipt    string   `json:"receipt_file"`
	Leaves     []string `json:"leaves"`
}

// TestLogVectors freezes them. [L-2] [L-3] [L-4]
func TestLogVectors(t *testing.T) {
	const file = "testdata/log.json"
	l := newMemoryLog(5)
	e := record(phone1, 3, messaging)
	salt := [16]byte(bytes.Repeat([]byte{0x5a}, 16))
	at := Entry{Salt: salt, Index: l.Size()}
	l.grow(Leaf(salt, e))
	c := l.signs[l.Size()]
	p, err := ProveInclusion(at, e, signed(t, c), c, l.tiles)
	if err != nil {
		t.Fatal(err)
	}
	leaf := Leaf(salt, e)
	v := logVectors{
		Origin: origin, BrokerSeed: hex.EncodeToString(broker.Seed()), Salt: hex.EncodeToString(salt[:]), Event: hex.EncodeToString(e),
		Leaf: hex.EncodeToString(leaf[:]), Entry: hex.EncodeToString(at.Marshal()), Checkpoint: string(signed(t, c)), Proof: string(p.Marshal()),
		Receipt: string(ProofFile{Proof: proof(cert(phone1, time.Hour), e, now), Entry: at}.Marshal()),
	}
	for b := l.files["tile/0/000"]; len(b) > 0; b = b[tlog.HashSize:] {
		v.Leaves = append(v.Leaves, hex.EncodeToString(b[:tlog.HashSize]))
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("the log's format has changed:\n%s", diff)
	}
}

// FuzzOpenCheckpoint: what opens is what was signed, and nothing panics. [L-3]
func FuzzOpenCheckpoint(f *testing.F) {
	c := newMemoryLog(9).signs[9]
	whole := signed(f, c)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte(c.text()))
	f.Add([]byte("\n\n— x AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := OpenCheckpoint(b, origin, theBroker); err == nil && got != c {
			t.Errorf("%q opens as %+v", b, got)
		}
		if got, err := parseCheckpoint(string(b), origin); err == nil && got.text() != string(b) {
			t.Errorf("%q comes back as %q", b, got.text())
		}
	})
}

// FuzzParseInclusion: what is read is what would be written. [L-4]
func FuzzParseInclusion(f *testing.F) {
	l := newMemoryLog(5)
	p, err := ProveInclusion(entryOf(2), eventOf(2), signed(f, l.signs[5]), l.signs[5], l.tiles)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Marshal())
	f.Add([]byte(proofHead + "extra AAAAAAAAAAAAAAAAAAAAAA==\nindex 0\n\n"))
	f.Add([]byte(proofHead))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseInclusion(b)
		if err != nil {
			if !errors.Is(err, ErrNotLog) {
				t.Errorf("%q: %v", b, err)
			}
			return
		}
		if !bytes.Equal(p.Marshal(), b) {
			t.Errorf("%q comes back as %q", b, p.Marshal())
		}
		_, _ = p.Verify(b, origin, theBroker)
	})
}

// FuzzParseTilePath: one spelling for each tile. [L-5]
func FuzzParseTilePath(f *testing.F) {
	f.Add("tile/0/x001/067.p/5")
	f.Add("tile/0/000")
	f.Add("tile/8/0/000")
	f.Fuzz(func(t *testing.T, path string) {
		level, n, width, err := ParseTilePath(path)
		if err == nil && TilePath(level, n, width) != path {
			t.Errorf("%q comes back as %q", path, TilePath(level, n, width))
		}
		if err == nil {
			_ = TileWidth(level, n, maxLog)
		}
	})
}
