package broker

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// Ledger keeps the consent log as plain files, in the layout in which it is served: `checkpoint` and
// `tile/<level>/<n>`, a tile that is not full yet being shorter. The files are only ever appended to;
// the checkpoint is replaced by rename once everything it covers is on disk, and so is the commit.
// Whoever finds the turn free writes for all who wait: there is no goroutine and nothing to close.
// Two must not write one directory: see lockDir. [L-9]
type Ledger struct {
	dir    string
	origin string
	key    ed25519.PrivateKey
	keys   []wire.PublicKey // sign older checkpoints, its own included
	turn   chan struct{}    // full while somebody writes

	mu     sync.Mutex
	tip    *consent.Frontier // of what is on disk
	signed []byte            // its checkpoint
	batch  *batch            // what the next turn writes; nil: nothing
	recent map[[sha256.Size]byte]*place
	swept  time.Time
	failed error // until the files have been read again
	tried  time.Time
}

// batch is what becomes durable together. Its fields are read once done is closed.
type batch struct {
	leaves []consent.Hash
	first  uint64
	err    error
	done   chan struct{}
}

// place is where an event is in a batch, and its salt.
type place struct {
	batch *batch
	at    int
	salt  [16]byte
	since time.Time
}

// Times of a ledger: how long an event's place is remembered, so that it has one although storing its
// state lost a race; and how long a failed ledger rests before its files are read again.
const (
	rememberEvent = time.Minute
	restFailed    = time.Second
)

// Names of a ledger's files.
const (
	fileCheckpoint    = "checkpoint"
	fileCheckpointNew = "checkpoint.new"
	fileLock          = "lock"
)

// ErrLogInUse reports a consent log that another process writes.
var ErrLogInUse = errors.New("broker: another broker writes this consent log: stop it first, or give this one a directory of its own")

// lockDir makes this process the only one to write a log. The lock ends with the process.
func lockDir(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("broker: consent log: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("broker: consent log: %w", err)
	}
	if flock(f) != nil {
		return nil, errors.Join(ErrLogInUse, f.Close())
	}
	return f.Close, nil
}

// OpenLedger reads and verifies the log in dir, or begins one where there is none. key signs its
// checkpoints; older are the public keys that once did. What was never acknowledged is cut off;
// anything else that is wrong is an error that says what to do. It reads the whole log: about 90 ms
// for each 100,000 entries. [L-9]
func OpenLedger(dir, broker string, key ed25519.PrivateKey, older ...wire.PublicKey) (*Ledger, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("broker: consent log: no key to sign with")
	}
	public, _ := key.Public().(ed25519.PublicKey)
	l := &Ledger{
		dir: filepath.Clean(dir), origin: consent.LogOrigin(broker), key: key, keys: append(older, wire.PublicKey(public)),
		turn: make(chan struct{}, 1), recent: map[[sha256.Size]byte]*place{},
	}
	return l, l.load()
}

// Size is how many entries are in the log.
func (l *Ledger) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tip.Size()
}

// LogCounts are the figures of the consent log.
type LogCounts struct {
	Entries uint64
	Failed  bool // it could not be written when it was tried last: no consent begins
}

// LogCounts returns the figures of the consent log.
func (b *Broker) LogCounts() LogCounts {
	if b.ledger == nil {
		return LogCounts{}
	}
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	return LogCounts{Entries: b.ledger.tip.Size(), Failed: b.ledger.failed != nil}
}

// Checkpoint returns the newest signed checkpoint.
func (l *Ledger) Checkpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signed
}

// Log puts an event into the log; nil means that the leaf and a checkpoint over it are on disk. The
// same event within a minute has the same entry. An error leaves open whether it was logged, ctx
// ending among them; logging it again finds out. [L-7] [L-8]
func (l *Ledger) Log(ctx context.Context, event []byte) (consent.Entry, error) {
	p := l.place(event)
	if err := l.settle(ctx, p.batch); err != nil {
		return consent.Entry{}, fmt.Errorf("consent log: %w", err)
	}
	return consent.Entry{Salt: p.salt, Index: p.batch.first + uint64(p.at)}, nil
}

// place finds an event a place in a batch, or the one it has.
func (l *Ledger) place(event []byte) *place {
	key, now := sha256.Sum256(event), time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	if p := l.recent[key]; p != nil && !p.lost() {
		return p
	}
	if l.batch == nil {
		l.batch = &batch{done: make(chan struct{})}
	}
	p := &place{batch: l.batch, at: len(l.batch.leaves), since: now}
	_, _ = rand.Read(p.salt[:]) // never fails: Go 1.24
	l.batch.leaves = append(l.batch.leaves, consent.Leaf(p.salt, event))
	l.recent[key] = p
	return p
}

// lost reports that a place's batch was not written.
func (p *place) lost() bool {
	select {
	case <-p.batch.done:
		return p.batch.err != nil
	default:
		return false
	}
}

// sweep forgets places, and with them the salts. Callers hold l.mu. [L-2]
func (l *Ledger) sweep(now time.Time) {
	if now.Sub(l.swept) < rememberEvent/4 {
		return
	}
	l.swept = now
	for k, p := range l.recent {
		if now.Sub(p.since) > rememberEvent {
			delete(l.recent, k)
		}
	}
}

// settle returns once a batch is on disk, or is not going to be: by this caller's turn or another's.
func (l *Ledger) settle(ctx context.Context, b *batch) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	case l.turn <- struct{}{}:
		l.commit()
		<-l.turn
	}
	<-b.done // by us, or by who had the turn before
	return b.err
}

// commit writes what waits. Callers have the turn.
func (l *Ledger) commit() {
	l.mu.Lock()
	b := l.batch
	l.batch = nil
	l.mu.Unlock()
	if b == nil {
		return
	}
	defer close(b.done)
	if b.err = l.mend(); b.err != nil {
		return
	}
	l.mu.Lock()
	next := l.tip.Clone()
	l.mu.Unlock()
	b.first = next.Size()
	signed, err := l.write(next, b.leaves)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		b.err, l.failed, l.tried = err, err, time.Now()
		return
	}
	l.tip, l.signed = next, signed
}

// mend reads the files again after a failure: only they can say whether the last checkpoint is on
// disk. Callers have the turn. [L-9]
func (l *Ledger) mend() error {
	l.mu.Lock()
	failed, tried := l.failed, l.tried
	l.mu.Unlock()
	if failed == nil {
		return nil
	}
	if time.Since(tried) >= restFailed {
		failed = l.load()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if failed != l.failed {
		l.failed, l.tried = failed, time.Now()
	}
	return failed
}

// piece is what a batch adds to one tile.
type piece struct {
	level  int
	tile   uint64
	offset int64
	bytes  []byte
}

// write adds leaves to next and to the files, and returns the checkpoint: tiles first, each synced,
// then the checkpoint, synced before it takes the place of the old one. [L-9]
func (l *Ledger) write(next *consent.Frontier, leaves []consent.Hash) (signed []byte, err error) {
	for _, p := range pieces(next, leaves) {
		if err := l.append(p); err != nil {
			return nil, err
		}
	}
	if signed, err = next.Checkpoint(l.origin).Sign(l.key); err != nil {
		return nil, err
	}
	return signed, l.publish(signed)
}

func pieces(next *consent.Frontier, leaves []consent.Hash) []*piece {
	var all []*piece
	open := map[int]*piece{} // of each level: the last
	for _, leaf := range leaves {
		for level, h := range next.Add(leaf) {
			index := next.Size()>>(level*consent.TileHeight) - 1
			tile, offset := index>>consent.TileHeight, int64(index%(1<<consent.TileHeight))*int64(len(h))
			p := open[level]
			if p == nil || p.tile != tile {
				p = &piece{level: level, tile: tile, offset: offset}
				open[level], all = p, append(all, p)
			}
			p.bytes = append(p.bytes, h[:]...)
		}
	}
	return all
}

func (l *Ledger) tilePath(level int, n uint64) string {
	return filepath.Join(l.dir, filepath.FromSlash(consent.TilePath(level, n, 1<<consent.TileHeight)))
}

func (l *Ledger) append(p *piece) error {
	name := l.tilePath(p.level, p.tile)
	if p.offset == 0 {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p.bytes, p.offset)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil || p.offset > 0 {
		return err
	}
	for d := filepath.Dir(name); len(d) >= len(l.dir); d = filepath.Dir(d) { // a new file, perhaps in new folders
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) publish(signed []byte) error {
	fresh := filepath.Join(l.dir, fileCheckpointNew)
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(signed)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(l.dir, fileCheckpoint)); err != nil {
		return err
	}
	return syncDir(l.dir)
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Tile reads a tile at its path in the log, as far as the checkpoint covers it; else it is
// [fs.ErrNotExist]. [L-5]
func (l *Ledger) Tile(path string) ([]byte, error) { return l.tile(path, l.Size()) }

func (l *Ledger) tile(path string, size uint64) ([]byte, error) {
	level, n, width, err := consent.ParseTilePath(path)
	if err != nil || width > consent.TileWidth(level, n, size) {
		return nil, fs.ErrNotExist
	}
	return readTile(l.tilePath(level, n), width)
}

func readTile(name string, width int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, width*len(consent.Hash{}))
	_, err = io.ReadFull(f, b)
	return b, errors.Join(err, f.Close())
}

// errDamaged ends an error about a log that the broker must not carry on with.
const errDamaged = "put the directory back from a backup that is no older than the last checkpoint anybody has seen, " +
	"or move it away to begin a new log, which everybody who kept a checkpoint will notice"

// load makes what is on disk the ledger's state.
func (l *Ledger) load() error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return fmt.Errorf("broker: consent log: %w", err)
	}
	signed, err := os.ReadFile(filepath.Join(l.dir, fileCheckpoint))
	if errors.Is(err, fs.ErrNotExist) {
		if signed, err = l.begin(); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("broker: consent log: %w", err)
	}
	c, err := consent.OpenCheckpoint(signed, l.origin, l.keys)
	if err != nil {
		return fmt.Errorf("broker: the checkpoint in %s: %w; %s", l.dir, err, errDamaged)
	}
	tip, err := consent.CheckAll(c, func(path string) ([]byte, error) { return l.tile(path, c.Size) }, nil)
	if err != nil {
		return fmt.Errorf("broker: the consent log in %s, of %d entries: %w; %s", l.dir, c.Size, err, errDamaged)
	}
	if err := l.cut(c.Size); err != nil {
		return fmt.Errorf("broker: consent log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tip, l.signed = tip, signed
	return nil
}

// begin starts a new log, unless there are tiles: then its checkpoint was taken away.
func (l *Ledger) begin() ([]byte, error) {
	if _, err := os.Stat(filepath.Join(l.dir, "tile")); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("broker: the consent log in %s has tiles and no checkpoint; %s", l.dir, errDamaged)
	}
	signed, err := new(consent.Frontier).Checkpoint(l.origin).Sign(l.key)
	if err != nil {
		return nil, err
	}
	return signed, errors.Join(l.publish(signed), syncDir(filepath.Dir(l.dir)))
}

// cut takes away what is past a log of this size: a write that a crash ended. [L-9]
func (l *Ledger) cut(size uint64) error {
	if err := os.Remove(filepath.Join(l.dir, fileCheckpointNew)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for level := range 7 {
		hashes := size >> (level * consent.TileHeight)
		for n := hashes >> consent.TileHeight; ; n++ {
			name := l.tilePath(level, n)
			info, err := os.Stat(name)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return err
			}
			if keep := int64(consent.TileWidth(level, n, size) * len(consent.Hash{})); info.Size() > keep {
				if err := os.Truncate(name, keep); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
