package handset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// The state directory is one append-only log. Each record is a transaction: several puts and
// deletes that are all there after a crash, or none. [U-6]
//
//	file:   "bluejay state 1\n" | record…
//	record: body length u32 | seq u64 | CRC-32C of these 12 | CRC-32C of the body | body
//	body:   op… ; op: 1 put or 2 delete | key length u16 | key | value length u32 | value
const (
	logMagic  = "bluejay state 1\n"
	logName   = "log"
	newName   = "log.new"
	recordHdr = 20
	opPut     = 1
	opDelete  = 2

	// compactAt is the size below which the log is not rewritten.
	compactAt = 256 << 10
	// snapshotRecord is about how large one record of a snapshot gets.
	snapshotRecord = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt reports a log that is damaged elsewhere than at its end, so that texts or session
// keys may be missing.
var ErrCorrupt = errors.New("handset: the state log is damaged in the middle; " +
	"restore nothing over it: move the directory aside, open an empty one and enrol again")

// ErrStorage reports that a write or a sync failed. What was being written is on disk or not; the
// handset does nothing more until it is opened again.
var ErrStorage = errors.New("handset: the state could not be written; free some space and open the handset again")

// disk is the directory as the store sees it; tests put a faulty one here.
type disk interface {
	// Read returns the whole file; a missing file is [fs.ErrNotExist].
	Read(name string) ([]byte, error)
	// Append opens a file for writing at its end, creating it if asked.
	Append(name string, create bool) (diskFile, error)
	Rename(from, to string) error
	Remove(name string) error
	// Sync makes creations and renames durable.
	Sync() error
}

type diskFile interface {
	Write(p []byte) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// tx is one transaction. Zero value: empty.
type tx struct{ ops []op }

type op struct {
	key   string
	value []byte // nil: delete
}

func (t *tx) put(key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	t.ops = append(t.ops, op{key, value})
}

func (t *tx) del(key string) { t.ops = append(t.ops, op{key, nil}) }

// marshal returns the record of t.
func (t *tx) marshal(seq uint64) []byte {
	size := recordHdr
	for _, o := range t.ops {
		size += int(opSize(o.key, o.value))
	}
	b := make([]byte, recordHdr, size)
	for _, o := range t.ops {
		b = o.append(b)
	}
	body := b[recordHdr:]
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	binary.BigEndian.PutUint64(b[4:], seq)
	binary.BigEndian.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
	binary.BigEndian.PutUint32(b[16:], crc32.Checksum(body, castagnoli))
	return b
}

func (o op) append(b []byte) []byte {
	kind := byte(opPut)
	if o.value == nil {
		kind = opDelete
	}
	b = binary.BigEndian.AppendUint16(append(b, kind), uint16(len(o.key)))
	b = binary.BigEndian.AppendUint32(append(b, o.key...), uint32(len(o.value)))
	return append(b, o.value...)
}

// apply carries out the body of a record on m; a malformed body changes nothing past its fault.
func apply(m map[string][]byte, body []byte) error {
	for len(body) > 0 {
		o, rest, ok := parseOp(body)
		if !ok {
			return ErrCorrupt
		}
		if o.value == nil {
			delete(m, o.key)
		} else {
			m[o.key] = o.value
		}
		body = rest
	}
	return nil
}

func parseOp(b []byte) (o op, rest []byte, ok bool) {
	if len(b) < 7 || b[0] != opPut && b[0] != opDelete {
		return op{}, nil, false
	}
	kind, klen := b[0], int(binary.BigEndian.Uint16(b[1:]))
	b = b[3:]
	if len(b) < klen+4 {
		return op{}, nil, false
	}
	o.key, b = string(b[:klen]), b[klen:]
	vlen := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(vlen) > uint64(len(b)) || kind == opDelete && vlen != 0 {
		return op{}, nil, false
	}
	if kind == opPut {
		o.value = bytes.Clone(b[:vlen])
		if o.value == nil {
			o.value = []byte{}
		}
	}
	return o, b[vlen:], true
}

// record reads one record at the start of b. state says why there is none.
func record(b []byte) (body []byte, seq uint64, state recordState) {
	if len(b) < recordHdr {
		return nil, 0, recordShort
	}
	if crc32.Checksum(b[:12], castagnoli) != binary.BigEndian.Uint32(b[12:]) {
		return nil, 0, recordBad
	}
	n, seq := binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:])
	if uint64(n) > uint64(len(b)-recordHdr) {
		return nil, seq, recordShort
	}
	body = b[recordHdr : recordHdr+int(n)]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return nil, seq, recordBad
	}
	return body, seq, recordGood
}

type recordState int

const (
	recordGood  recordState = iota
	recordShort             // the file ends within it: it was never acknowledged
	recordBad               // its bytes are all there and wrong
)

// replayed is what a log says.
type replayed struct {
	state map[string][]byte
	seq   uint64 // of the last record
	size  int64  // up to where the log is good
	// suspect: the log ended in a record that was whole and wrong. It was most likely never
	// acknowledged, but if it was, session keys have gone back: they must not be used again.
	suspect bool
}

// replay reads a log. A torn end is cut off, damage elsewhere is [ErrCorrupt]. [U-6]
func replay(log []byte) (replayed, error) {
	r := replayed{state: map[string][]byte{}}
	if len(log) < len(logMagic) && strings.HasPrefix(logMagic, string(log)) {
		return r, nil // a crash during creation
	}
	if !bytes.HasPrefix(log, []byte(logMagic)) {
		return r, ErrCorrupt
	}
	r.size = int64(len(logMagic))
	for int(r.size) < len(log) {
		rest := log[r.size:]
		body, seq, state := record(rest)
		if state != recordGood {
			r.suspect = state == recordBad
			return r, tornOnly(rest[1:], r.seq)
		}
		if r.seq != 0 && seq != r.seq+1 {
			return r, ErrCorrupt
		}
		if err := apply(r.state, body); err != nil {
			return r, err
		}
		r.seq, r.size = seq, r.size+recordHdr+int64(len(body))
	}
	return r, nil
}

// tornOnly is nil when no later record follows in b, so that what precedes b is a torn end.
func tornOnly(b []byte, last uint64) error {
	for ; len(b) >= recordHdr; b = b[1:] {
		seq := binary.BigEndian.Uint64(b[4:])
		if seq <= last || seq > last+1<<20 {
			continue
		}
		if _, _, state := record(b); state == recordGood {
			return ErrCorrupt
		}
	}
	return nil
}

// store is an open state log. Not for concurrent use.
type store struct {
	disk    disk
	log     diskFile
	state   map[string][]byte
	seq     uint64
	size    int64
	live    int64 // about what a snapshot would take
	suspect bool
	err     error // sticky
}

// openStore opens or creates the log.
func openStore(d disk) (*store, error) {
	if err := d.Remove(newName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, storageError(err)
	}
	b, err := d.Read(logName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, storageError(err)
	}
	r, err := replay(b)
	if err != nil {
		return nil, err
	}
	s := &store{disk: d, state: r.state, seq: r.seq, size: r.size, suspect: r.suspect}
	for k, v := range s.state {
		s.live += opSize(k, v)
	}
	return s, s.repair(int64(len(b)))
}

// repair opens the log for appending, cuts its torn end off, and writes the magic of a new one.
func (s *store) repair(found int64) error {
	f, err := s.disk.Append(logName, true)
	if err != nil {
		return storageError(err)
	}
	s.log = f
	if s.size < found {
		err = errors.Join(f.Truncate(s.size), f.Sync())
	}
	if err == nil && s.size == 0 {
		_, err = f.Write([]byte(logMagic))
		s.size = int64(len(logMagic))
		err = errors.Join(err, f.Sync(), s.disk.Sync())
	}
	if err != nil {
		return errors.Join(storageError(err), f.Close())
	}
	return nil
}

func storageError(err error) error { return fmt.Errorf("%w: %w", ErrStorage, err) }

func opSize(k string, v []byte) int64 { return int64(7 + len(k) + len(v)) }

// commit makes t durable before it returns; after an error the store takes nothing more. [U-6]
func (s *store) commit(t *tx) error {
	if s.err != nil || len(t.ops) == 0 {
		return s.err
	}
	b := t.marshal(s.seq + 1)
	if _, err := s.log.Write(b); err != nil {
		s.err = storageError(err)
		return s.err
	}
	if err := s.log.Sync(); err != nil {
		s.err = storageError(err)
		return s.err
	}
	s.seq, s.size = s.seq+1, s.size+int64(len(b))
	for _, o := range t.ops {
		s.set(o)
	}
	return s.compact()
}

func (s *store) set(o op) {
	if old, ok := s.state[o.key]; ok {
		s.live -= opSize(o.key, old)
	}
	if o.value == nil {
		delete(s.state, o.key)
		return
	}
	s.state[o.key] = o.value
	s.live += opSize(o.key, o.value)
}

// compact rewrites the log when three quarters of it are dead. A crash leaves the old log or the
// new one, both whole.
func (s *store) compact() error {
	if s.size < compactAt || s.size < 4*s.live {
		return nil
	}
	if err := s.rewrite(); err != nil {
		s.err = storageError(err)
	}
	return s.err
}

func (s *store) rewrite() error {
	f, err := s.disk.Append(newName, true)
	if err != nil {
		return err
	}
	b, seq := s.snapshot()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.disk.Rename(newName, logName)
	}
	if err == nil {
		err = s.disk.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	old := s.log
	s.log, s.size, s.seq = f, int64(len(b)), seq
	return old.Close()
}

// snapshot returns a log that holds only the live state, and its last seq.
func (s *store) snapshot() ([]byte, uint64) {
	b, seq, t, n := []byte(logMagic), s.seq, tx{}, int64(0)
	for _, k := range slices.Sorted(maps.Keys(s.state)) {
		t.put(k, s.state[k])
		if n += opSize(k, s.state[k]); n > snapshotRecord {
			seq++
			b, t, n = append(b, t.marshal(seq)...), tx{}, 0
		}
	}
	return append(b, t.marshal(seq+1)...), seq + 1
}

// under returns the values whose keys begin with prefix, by key.
func (s *store) under(prefix string) []op {
	var found []op
	for k, v := range s.state {
		if strings.HasPrefix(k, prefix) {
			found = append(found, op{k, v})
		}
	}
	slices.SortFunc(found, func(a, b op) int { return strings.Compare(a.key, b.key) })
	return found
}

// close releases the log.
func (s *store) close() error { return s.log.Close() }
