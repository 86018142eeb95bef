package wire

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

var b64 = base64.RawURLEncoding.Strict()

// ID is the pseudonym of a phone number: the first 12 bytes of its VOPRF output. Shape: 12 bytes,
// 16 characters of base64url in a topic. Zero value: no ID, never valid. [P-1]
type ID [12]byte

// String is the ID as a topic level, 16 characters of base64url.
func (id ID) String() string { return b64.EncodeToString(id[:]) }

// IsZero reports whether id is unset.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs bytewise; the session begun by the smaller ID wins a tie. [S-9]
func (id ID) Compare(o ID) int { return bytes.Compare(id[:], o[:]) }

// ParseID decodes the 16-character form; anything else is [ErrMalformed].
func ParseID(s string) (ID, error) {
	var id ID
	return id, decodeExact(id[:], s)
}

// Tag is the capability to write to one device's inbox and to watch its presence. Shape: 9 bytes,
// 12 characters in a topic. Zero value: no tag. It proves nothing about who holds it. [P-12]
type Tag [9]byte

// String is the tag as a topic level, 12 characters of base64url.
func (t Tag) String() string { return b64.EncodeToString(t[:]) }

// IsZero reports whether t is unset.
func (t Tag) IsZero() bool { return t == Tag{} }

// ParseTag decodes the 12-character form; anything else is [ErrMalformed].
func ParseTag(s string) (Tag, error) {
	var t Tag
	return t, decodeExact(t[:], s)
}

// MakeTag derives the tag of generation gen of id under the cluster's secret key. [P-12]
func MakeTag(key []byte, id ID, gen uint32) Tag {
	m := hmac.New(sha256.New, key)
	m.Write(LP("bj1 tag", id[:], binary.BigEndian.AppendUint32(nil, gen)))
	return Tag(m.Sum(nil)[:9])
}

// MessageID identifies one payload: the first 16 bytes of its SHA-256. A resend of the same bytes
// has the same id on any node, under any packet id. [C-6]
type MessageID [16]byte

// MessageIDOf returns the id of a payload. [C-6]
func MessageIDOf(payload []byte) MessageID {
	h := sha256.Sum256(payload)
	return MessageID(h[:16])
}

// String is the id in base64url, 22 characters.
func (m MessageID) String() string { return b64.EncodeToString(m[:]) }

// ParseMessageID decodes the 22-character form; anything else is [ErrMalformed].
func ParseMessageID(s string) (MessageID, error) {
	var m MessageID
	return m, decodeExact(m[:], s)
}

// Pseudonym names a sender towards the SMS worker for one UTC day. It cannot be joined across days
// without the broker's day secret, and it is not reversible to an ID without it. [F-9]
type Pseudonym [9]byte

// String is the pseudonym as a NATS subject token, 12 characters of base64url.
func (p Pseudonym) String() string { return b64.EncodeToString(p[:]) }

// ParsePseudonym decodes the 12-character form; anything else is [ErrMalformed].
func ParsePseudonym(s string) (Pseudonym, error) {
	var p Pseudonym
	return p, decodeExact(p[:], s)
}

// MakePseudonym derives the pseudonym of id on a UTC day (days since 1970) under a broker secret. [F-9]
func MakePseudonym(key []byte, id ID, day uint32) Pseudonym {
	m := hmac.New(sha256.New, key)
	m.Write(LP("bj1 day", id[:], binary.BigEndian.AppendUint32(nil, day)))
	return Pseudonym(m.Sum(nil)[:9])
}

// decodeExact decodes the only base64url text of len(dst) bytes; it refuses non-canonical forms.
func decodeExact(dst []byte, s string) error {
	if len(s) != b64.EncodedLen(len(dst)) {
		return fmt.Errorf("%w: %d characters where %d are due", ErrMalformed, len(s), b64.EncodedLen(len(dst)))
	}
	if strings.ContainsAny(s, "\r\n") { // the decoder would skip them
		return ErrMalformed
	}
	var buf [24]byte
	n, err := b64.Decode(buf[:], []byte(s))
	if err != nil || n != len(dst) {
		return fmt.Errorf("%w: not base64url", ErrMalformed)
	}
	copy(dst, buf[:n])
	return nil
}

// LP is the injective encoding under every signature and key derivation:
// label ‖ 0x00 ‖ for each part (u16 length ‖ part). [P-2]
// A part longer than 65,535 bytes cannot be encoded; callers bound their parts before.
func LP(label string, parts ...[]byte) []byte {
	n := len(label) + 1
	for _, p := range parts {
		n += 2 + len(p)
	}
	b := make([]byte, 0, n)
	b = append(append(b, label...), 0)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		b = append(b, p...)
	}
	return b
}
