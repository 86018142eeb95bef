// Package blind turns a phone number into an ID without showing the number to the one who holds the
// key: the verifiable oblivious pseudorandom function of RFC 9497, suite ristretto255-SHA512.
//
//  1. The handset blinds numbers ([Client.Blind]): what it sends is random to everyone else.
//  2. The registrar multiplies each with its key and proves that it is the key all handsets pin
//     ([ServerKey.Evaluate]). Without the proof it could mark a user by using a key of their own.
//  3. The handset checks the proof and unblinds ([Pending.Finalize]): the first 12 bytes of each
//     output are the [wire.ID].
//  4. At enrolment the registrar, which is shown the number then, computes the same ID alone
//     ([ServerKey.FullEvaluate]).
//
// What is promised: the key's holder learns how many numbers were asked for, and nothing about which.
// What is not: who holds the key can compute the ID of every number there is, so the key must not be
// where the IDs are stored.
//
// Input comes from strangers: identity elements, encodings that are not canonical, empty and oversized
// batches are refused before they reach the library below, and a panic in there becomes [ErrInternal].
// The sentences are [P-1] and [S-15] of spec/.
package blind

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"github.com/cloudflare/circl/zk/dleq"

	"bluejay/wire"
)

// MaxBatch is the most numbers in one look-up. [S-15]
const MaxBatch = 32

// Sizes, in bytes, of an element, a proof and a server key. A batch is 1 + 32·n, its answer 65 + 32·n.
const (
	ElementLen = 32
	ProofLen   = 64
	KeyLen     = 32
)

// ErrProof reports an answer that was not made with the pinned key: some other key, or a wrong result.
var ErrProof = errors.New("blind: answer does not verify")

// ErrInternal reports a panic of the library below. Its cause is not told: it could hold a secret.
var ErrInternal = errors.New("blind: internal error")

func suite() oprf.Suite { return oprf.SuiteRistretto255 }

// guard turns a panic of the library into ErrInternal; use it as defer guard(&err).
func guard(err *error) {
	if recover() != nil {
		*err = ErrInternal
	}
}

// input is what is hashed to the group: "bj1 id:" and the number in E.164. [P-1]
func input(n wire.Number) ([]byte, error) {
	if n.IsZero() {
		return nil, fmt.Errorf("%w: no number", wire.ErrMalformed)
	}
	return []byte("bj1 id:" + n.E164()), nil
}

// parseElement reads the one encoding of a group element that is not the identity. [S-15]
func parseElement(b []byte) (group.Element, error) {
	e := group.Ristretto255.NewElement()
	if err := e.UnmarshalBinary(b); err != nil {
		return nil, errElement
	}
	again, err := e.MarshalBinaryCompress()
	if err != nil || !bytes.Equal(again, b) || e.IsIdentity() {
		return nil, errElement
	}
	return e, nil
}

var errElement = fmt.Errorf("%w: not a group element", wire.ErrMalformed)

// parseBatch reads n u8 | n·32 and returns what follows, 0 < n <= MaxBatch.
func parseBatch(b []byte) (elements []group.Element, rest []byte, err error) {
	if len(b) == 0 || b[0] == 0 || b[0] > MaxBatch || len(b) < 1+int(b[0])*ElementLen {
		return nil, nil, fmt.Errorf("%w: not a batch of 1 to %d elements", wire.ErrMalformed, MaxBatch)
	}
	n, b := int(b[0]), b[1:]
	elements = make([]group.Element, n)
	for i := range elements {
		if elements[i], err = parseElement(b[:ElementLen]); err != nil {
			return nil, nil, err
		}
		b = b[ElementLen:]
	}
	return elements, b, nil
}

func appendBatch(elements []group.Element) ([]byte, error) {
	b := append(make([]byte, 0, 1+len(elements)*ElementLen+ProofLen), byte(len(elements)))
	for _, e := range elements {
		one, err := e.MarshalBinaryCompress()
		if err != nil {
			return nil, ErrInternal
		}
		b = append(b, one...)
	}
	return b, nil
}

const redacted = "[blind]"

// hidden keeps what embeds it out of logs.
type hidden struct{}

// String redacts.
func (hidden) String() string { return redacted }

// Format redacts under every verb.
func (hidden) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue redacts.
func (hidden) LogValue() slog.Value { return slog.StringValue(redacted) }

// outputID is the ID in a 64-byte output of the function. [P-1]
func outputID(output []byte) wire.ID { return wire.ID(output[:len(wire.ID{})]) }

func parseProof(b []byte) (*dleq.Proof, error) {
	p := new(dleq.Proof)
	if len(b) != ProofLen || p.UnmarshalBinary(group.Ristretto255, b) != nil {
		return nil, fmt.Errorf("%w: not a proof", wire.ErrMalformed)
	}
	return p, nil
}
