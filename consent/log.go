package consent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"bluejay/wire"
)

// The log of consent events is an RFC 6962 Merkle tree. A leaf is a commitment to one event, so that
// the log can be shown to anybody and says nothing about anybody; who holds the event's bytes and its
// [Entry] can show where it is. [L-1]

// Errors of what is said about the log.
var (
	ErrLog     = errors.New("consent: the log does not verify: what was logged has been changed or removed")
	ErrNotLog  = errors.New("consent: not what this log writes")
	ErrLogKey  = errors.New("consent: the checkpoint has no signature by this broker's key")
	ErrNoEntry = errors.New("consent: this event is not in the log at this place")
)

// EntryLen is the size of an [Entry], in bytes.
const EntryLen = 24

// Entry is where an event is in the log, and the salt that opens its leaf. It is kept beside the
// event, by the user and in the stored state, and nowhere else: without it the leaf is noise, also
// for who can recompute every ID. Shape: `salt 16 | index u64`. Zero value: not logged. [L-2]
type Entry struct {
	Salt  [16]byte
	Index uint64
}

// IsZero reports that there is no entry.
func (e Entry) IsZero() bool { return e == Entry{} }

// Marshal returns the 24 bytes.
func (e Entry) Marshal() []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, EntryLen), e.Salt[:]...), e.Index)
}

// ParseEntry reads the shape only.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) != EntryLen {
		return Entry{}, fmt.Errorf("%w: an entry has %d bytes", wire.ErrMalformed, EntryLen)
	}
	return Entry{Salt: [16]byte(b[:16]), Index: binary.BigEndian.Uint64(b[16:])}, nil
}

// A Hash is a node of the log's tree.
type Hash = tlog.Hash

// Leaf is the hash under which an event stands in the log: the tree's hash of a leaf whose data is
// SHA-256(lp("bj1 leaf", salt, SHA-256(event))). The event is the record's bytes. [L-2]
func Leaf(salt [16]byte, event []byte) Hash {
	h := sha256.Sum256(event)
	commitment := sha256.Sum256(wire.LP("bj1 leaf", salt[:], h[:]))
	return tlog.RecordHash(commitment[:])
}

// maxLog bounds the size of a log that is believed, in leaves: below it no index overflows.
const maxLog = 1 << 48

// Checkpoint is the log at one size. Zero value: none. It does not prove that everybody is shown the
// same one: compare it with another's, or with an older one of your own. [L-3]
type Checkpoint struct {
	Origin string // which log: see [LogOrigin]
	Size   uint64 // in leaves
	Root   Hash
}

// LogOrigin names the log of a broker. A byte that a signed note's key name cannot have is written
// as = and two hex digits.
func LogOrigin(broker string) string {
	var b strings.Builder
	b.WriteString("bluejay-consent/")
	for _, c := range []byte(broker) {
		if c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '.' || c == '-' || c == '_' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "=%02x", c)
	}
	return b.String()
}

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

func (c Checkpoint) tree() tlog.Tree { return tlog.Tree{N: int64(c.Size), Hash: c.Root} }

// signer signs notes with a key that is not in their package's own form.
type signer struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

func verifier(origin string, key []byte) (note.Verifier, error) {
	v, err := note.NewEd25519VerifierKey(origin, key)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(v)
}

// Sign returns the checkpoint as a signed note, as tlog-checkpoint and signed-note of C2SP have it.
// The text begins with the origin, which no lp encoding does. [L-3]
func (c Checkpoint) Sign(broker ed25519.PrivateKey) ([]byte, error) {
	public, _ := broker.Public().(ed25519.PublicKey)
	v, err := verifier(c.Origin, public)
	if err != nil {
		return nil, fmt.Errorf("consent: sign checkpoint: %w", err)
	}
	return note.Sign(&note.Note{Text: c.text()}, signer{v, broker})
}

// MaxCheckpoint bounds a signed checkpoint, in bytes; witnesses may add their lines to it.
const MaxCheckpoint = 8 << 10

// OpenCheckpoint reads a signed checkpoint of the log with this origin and verifies it with one of
// the broker's keys; other signatures are ignored. Errors: [ErrNotLog], [ErrLogKey]. [L-3]
func OpenCheckpoint(b []byte, origin string, brokers []wire.PublicKey) (Checkpoint, error) {
	if len(b) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint has at most %d bytes", ErrNotLog, MaxCheckpoint)
	}
	var known []note.Verifier
	for i, k := range brokers {
		if slices.Contains(brokers[:i], k) {
			continue // given twice: notes want each once
		}
		v, err := verifier(origin, k[:])
		if err != nil {
			return Checkpoint{}, fmt.Errorf("%w: origin: %w", ErrNotLog, err)
		}
		known = append(known, v)
	}
	n, err := note.Open(b, note.VerifierList(known...))
	var bad *note.InvalidSignatureError
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &bad), errors.As(err, &unverified):
		return Checkpoint{}, ErrLogKey
	case err != nil:
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: %w", ErrNotLog, err)
	}
	return parseCheckpoint(n.Text, origin)
}

func parseCheckpoint(text, origin string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != origin {
		return Checkpoint{}, fmt.Errorf("%w: the checkpoint is not one of %s", ErrNotLog, origin)
	}
	size, err1 := strconv.ParseUint(lines[1], 10, 64)
	root, err2 := base64.StdEncoding.DecodeString(lines[2])
	if err1 != nil || err2 != nil || len(root) != tlog.HashSize || size > maxLog {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint", ErrNotLog)
	}
	c := Checkpoint{Origin: origin, Size: size, Root: Hash(root)}
	if c.text() != text {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: not in its one form", ErrNotLog)
	}
	return c, nil
}

// Inclusion shows that an event is in the log at one size. It needs the event and its salt to be
// checked, and shows nothing without them. [L-4]
type Inclusion struct {
	Entry
	Path       []Hash
	Checkpoint []byte // signed
}

// proofHead begins a proof file: tlog-proof of C2SP.
const proofHead = "c2sp.org/tlog-proof@v1\n"

// MaxInclusion bounds a proof file, in bytes.
const MaxInclusion = MaxCheckpoint + 4<<10

// Marshal returns the proof file: the head, `extra` with the salt, `index`, the path from the leaf
// up, an empty line, the checkpoint. [L-4]
func (p Inclusion) Marshal() []byte {
	b := []byte(proofHead)
	b = fmt.Appendf(b, "extra %s\nindex %d\n", base64.StdEncoding.EncodeToString(p.Salt[:]), p.Index)
	for _, h := range p.Path {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), p.Checkpoint...)
}

// ParseInclusion reads the shape of a proof file; the checkpoint is not looked into.
func ParseInclusion(b []byte) (Inclusion, error) {
	var p Inclusion
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if len(b) > MaxInclusion || !ok || len(lines) < 3 || len(lines) > 3+63 || lines[0]+"\n" != proofHead {
		return p, fmt.Errorf("%w: not a proof of inclusion", ErrNotLog)
	}
	salt, err1 := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	index, err2 := strconv.ParseUint(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err1 != nil || err2 != nil || len(salt) != len(p.Salt) {
		return p, fmt.Errorf("%w: proof of inclusion", ErrNotLog)
	}
	p.Entry, p.Checkpoint = Entry{Salt: [16]byte(salt), Index: index}, checkpoint
	for _, l := range lines[3:] {
		h, err := base64.StdEncoding.DecodeString(l)
		if err != nil || len(h) != tlog.HashSize {
			return p, fmt.Errorf("%w: proof of inclusion", ErrNotLog)
		}
		p.Path = append(p.Path, Hash(h))
	}
	if !bytes.Equal(p.Marshal(), b) {
		return p, fmt.Errorf("%w: proof of inclusion: not in its one form", ErrNotLog)
	}
	return p, nil
}

// Verify checks that the event is in the log, offline, and returns the checkpoint that says so.
// Errors: those of [OpenCheckpoint], [ErrNoEntry]. [L-4]
func (p Inclusion) Verify(event []byte, origin string, brokers []wire.PublicKey) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, origin, brokers)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Index >= c.Size ||
		tlog.CheckRecord(p.Path, int64(c.Size), c.Root, int64(p.Index), Leaf(p.Salt, event)) != nil {
		return c, ErrNoEntry
	}
	return c, nil
}
