package blind

import (
	"bytes"
	"crypto/rand"
	"fmt"

	"github.com/cloudflare/circl/oprf"

	"bluejay/wire"
)

// ServerKey is the registrar's secret, from which every ID follows. It never prints. The zero value
// evaluates nothing. It may be used by several goroutines at once.
type ServerKey struct {
	hidden
	key    *oprf.PrivateKey
	public []byte
}

// GenerateServerKey makes a new key. To change it is to change every ID.
func GenerateServerKey() (k ServerKey, err error) {
	defer guard(&err)
	key, err := oprf.GenerateKey(suite(), rand.Reader)
	if err != nil {
		return ServerKey{}, ErrInternal
	}
	return newServerKey(key)
}

// newServerKey computes the public key at once: the library would do it at first use, unlocked.
func newServerKey(key *oprf.PrivateKey) (ServerKey, error) {
	public, err := key.Public().MarshalBinary()
	if err != nil {
		return ServerKey{}, ErrInternal
	}
	return ServerKey{key: key, public: public}, nil
}

// ParseServerKey reads what [ServerKey.Marshal] wrote: 32 bytes, the canonical encoding of a scalar
// that is not zero.
func ParseServerKey(b []byte) (k ServerKey, err error) {
	defer guard(&err)
	bad := fmt.Errorf("%w: not a look-up key", wire.ErrMalformed)
	key := new(oprf.PrivateKey)
	if len(b) != KeyLen || key.UnmarshalBinary(suite(), b) != nil {
		return ServerKey{}, bad
	}
	if again, err := key.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
		return ServerKey{}, bad
	}
	return newServerKey(key)
}

// Marshal returns the 32 secret bytes; nil for the zero value.
func (k ServerKey) Marshal() []byte {
	if k.key == nil {
		return nil
	}
	b, err := k.key.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}

// Public is the key handsets pin, 32 bytes; nil for the zero value.
func (k ServerKey) Public() []byte { return bytes.Clone(k.public) }

// Evaluate answers a batch, n u8 | n·32 with 1 to [MaxBatch] elements, by n u8 | n·32 | proof 64. It
// learns nothing about the numbers. Errors: [wire.ErrMalformed], [ErrInternal]. [S-15]
func (k ServerKey) Evaluate(batch []byte) (evaluated []byte, err error) {
	defer guard(&err)
	if k.key == nil {
		return nil, ErrInternal
	}
	elements, rest, err := parseBatch(batch)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%w: bytes after the batch", wire.ErrMalformed)
	}
	e, err := oprf.NewVerifiableServer(suite(), k.key).Evaluate(&oprf.EvaluationRequest{Elements: elements})
	if err != nil {
		return nil, ErrInternal
	}
	out, err := appendBatch(e.Elements)
	if err != nil {
		return nil, err
	}
	proof, err := e.Proof.MarshalBinary()
	if err != nil {
		return nil, ErrInternal
	}
	return append(out, proof...), nil
}

// FullEvaluate is the ID of a number the registrar has been shown. [P-1]
func (k ServerKey) FullEvaluate(n wire.Number) (id wire.ID, err error) {
	defer guard(&err)
	if k.key == nil {
		return wire.ID{}, ErrInternal
	}
	in, err := input(n)
	if err != nil {
		return wire.ID{}, err
	}
	out, err := oprf.NewVerifiableServer(suite(), k.key).FullEvaluate(in)
	if err != nil {
		return wire.ID{}, ErrInternal
	}
	return outputID(out), nil
}
