package consent

import (
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// TileHeight is the height of a tile: 256 hashes, 8 KiB when full.
const TileHeight = 8

const tileWidth = 1 << TileHeight

// TilePath is where width hashes of the n-th tile of a level are found below a log's address, as
// tlog-tiles of C2SP has it: tile/0/x001/067, and with fewer than 256 hashes tile/0/x001/067.p/5. [L-5]
func TilePath(level int, n uint64, width int) string {
	p := tlog.Tile{H: TileHeight, L: level, N: int64(n), W: width}.Path()
	return "tile/" + strings.TrimPrefix(p, "tile/8/")
}

// ParseTilePath is the inverse of [TilePath]; only the one spelling of a path is read.
func ParseTilePath(path string) (level int, n uint64, width int, err error) {
	rest, ok := strings.CutPrefix(path, "tile/")
	t, err := tlog.ParseTilePath("tile/8/" + rest)
	if !ok || err != nil || t.L < 0 || len(path) > 64 {
		return 0, 0, 0, fmt.Errorf("%w: not the path of a tile", ErrNotLog)
	}
	return t.L, uint64(t.N), t.W, nil
}

// TileWidth is how many hashes the n-th tile of a level has in a log of this size; 0: there is none.
func TileWidth(level int, n, size uint64) int {
	if level < 0 || level > 6 {
		return 0
	}
	hashes := size >> (level * TileHeight)
	if first := n << TileHeight; n>>48 == 0 && first < hashes {
		return int(min(hashes-first, tileWidth))
	}
	return 0
}

// Tiles reads a log: the bytes of a tile at its [TilePath]. What it returns is believed only as far
// as a checkpoint bears it out.
type Tiles func(path string) ([]byte, error)

// Height implements tlog.TileReader.
func (t Tiles) Height() int { return TileHeight }

// ReadTiles implements tlog.TileReader.
func (t Tiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, x := range tiles {
		b, err := t.tile(x.L, uint64(x.N), x.W)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// SaveTiles implements tlog.TileReader; nothing is kept.
func (t Tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (t Tiles) tile(level int, n uint64, width int) ([]byte, error) {
	path := TilePath(level, n, width)
	b, err := t(path)
	if err != nil {
		return nil, err
	}
	if len(b) != width*tlog.HashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes, want %d", ErrLog, path, len(b), width*tlog.HashSize)
	}
	return b, nil
}

// CheckConsistency checks that the log at its newer checkpoint begins with the log at the older: that
// nothing logged then has been changed or removed. It reads a few tiles, whatever the log's size.
// Errors: [ErrLog], those of tiles. [L-6]
func CheckConsistency(older, newer Checkpoint, tiles Tiles) error {
	switch {
	case older.Origin != newer.Origin:
		return fmt.Errorf("%w: the checkpoints are of two logs", ErrNotLog)
	case older.Size > newer.Size:
		return fmt.Errorf("%w: it had %d entries, now it has %d", ErrLog, older.Size, newer.Size)
	case older.Size == 0 || older.Size == newer.Size:
		return sameRoot(older, newer)
	}
	p, err := tlog.ProveTree(int64(newer.Size), int64(older.Size), tlog.TileHashReader(newer.tree(), tiles))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLog, err)
	}
	if tlog.CheckTree(p, int64(newer.Size), newer.Root, int64(older.Size), older.Root) != nil {
		return fmt.Errorf("%w: its first %d entries are not what they were", ErrLog, older.Size)
	}
	return nil
}

func sameRoot(older, newer Checkpoint) error {
	var empty Frontier
	if older.Size == newer.Size && older.Root != newer.Root || older.Size == 0 && older.Root != empty.Root() {
		return fmt.Errorf("%w: two logs of %d entries", ErrLog, older.Size)
	}
	return nil
}

// ProveInclusion makes the proof of an event that is in the log, from the tiles. Errors: [ErrLog],
// [ErrNoEntry], those of tiles. [L-4]
func ProveInclusion(e Entry, event, checkpoint []byte, c Checkpoint, tiles Tiles) (Inclusion, error) {
	if e.Index >= c.Size {
		return Inclusion{}, fmt.Errorf("%w: the log has %d entries, and entry %d is asked for", ErrNoEntry, c.Size, e.Index)
	}
	path, err := tlog.ProveRecord(int64(c.Size), int64(e.Index), tlog.TileHashReader(c.tree(), tiles))
	if err != nil {
		return Inclusion{}, fmt.Errorf("%w: %w", ErrLog, err)
	}
	if tlog.CheckRecord(path, int64(c.Size), c.Root, int64(e.Index), Leaf(e.Salt, event)) != nil {
		return Inclusion{}, ErrNoEntry
	}
	return Inclusion{Entry: e, Path: append([]Hash(nil), path...), Checkpoint: checkpoint}, nil
}

// CheckAll reads every tile of a log and checks that they are the log that the checkpoint signs. It
// returns the frontier, from which the log can be carried on. done, which may be nil, is told how
// many leaves have been read. Errors: [ErrLog], those of tiles. [L-6]
func CheckAll(c Checkpoint, tiles Tiles, done func(leaves uint64)) (*Frontier, error) {
	f := &Frontier{}
	want := map[int][]byte{} // of each level above the leaves: the tile that is filling
	for f.Size() < c.Size {
		n := f.Size() / tileWidth
		b, err := tiles.tile(0, n, TileWidth(0, n, c.Size))
		if err != nil {
			return nil, err
		}
		for ; len(b) > 0; b = b[tlog.HashSize:] {
			if err := addChecked(f, Hash(b[:tlog.HashSize]), c.Size, want, tiles); err != nil {
				return nil, err
			}
		}
		if done != nil {
			done(f.Size())
		}
	}
	if f.Root() != c.Root {
		return nil, fmt.Errorf("%w: its %d leaves are not those of the checkpoint", ErrLog, c.Size)
	}
	return f, nil
}

// addChecked adds a leaf, and compares each tile above the leaves once all that it holds is known.
func addChecked(f *Frontier, leaf Hash, size uint64, want map[int][]byte, tiles Tiles) error {
	for level, h := range f.Add(leaf) {
		if level == 0 {
			continue
		}
		want[level] = append(want[level], h[:]...)
		index := f.Size()>>(level*TileHeight) - 1
		width := TileWidth(level, index>>TileHeight, size)
		if len(want[level]) < width*tlog.HashSize {
			continue
		}
		b, err := tiles.tile(level, index>>TileHeight, width)
		if err != nil {
			return err
		}
		if string(b) != string(want[level]) {
			return fmt.Errorf("%w: %s does not follow from the leaves", ErrLog, TilePath(level, index>>TileHeight, width))
		}
		want[level] = nil
	}
	return nil
}

// Frontier is what has to be remembered of a tree to append to it: the roots of its perfect subtrees,
// the largest first. Zero value: the empty log.
type Frontier struct {
	size  uint64
	roots []Hash
}

// Size is how many leaves there are.
func (f *Frontier) Size() uint64 { return f.size }

// Add appends a leaf. It returns what this adds to the tiles of each level: the leaf to level 0, and
// one hash to each level above of which a tile became full.
func (f *Frontier) Add(leaf Hash) (byLevel []Hash) {
	byLevel = []Hash{leaf}
	f.roots = append(f.roots, leaf)
	for height := 1; f.size>>(height-1)&1 == 1; height++ {
		n := len(f.roots) - 2
		f.roots[n] = tlog.NodeHash(f.roots[n], f.roots[n+1])
		f.roots = f.roots[:n+1]
		if height%TileHeight == 0 {
			byLevel = append(byLevel, f.roots[n])
		}
	}
	f.size++
	return byLevel
}

// Root is the root of the tree, SHA-256 of nothing when it is empty (RFC 6962 section 2.1).
func (f *Frontier) Root() Hash {
	if f.size == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	h := f.roots[len(f.roots)-1]
	for i := len(f.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f.roots[i], h)
	}
	return h
}

// Clone returns a frontier that grows on its own.
func (f *Frontier) Clone() *Frontier { return &Frontier{f.size, append([]Hash(nil), f.roots...)} }

// Checkpoint is the log as it stands.
func (f *Frontier) Checkpoint(origin string) Checkpoint {
	return Checkpoint{Origin: origin, Size: f.size, Root: f.Root()}
}
