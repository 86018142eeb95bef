package blind

import (
	"errors"
	"fmt"

	"github.com/cloudflare/circl/oprf"

	"bluejay/wire"
)

// Client blinds numbers for one registrar. It may be used by several goroutines at once.
type Client struct {
	oprf oprf.VerifiableClient
}

// NewClient pins the registrar's public key, 32 bytes: [ServerKey.Public]. [S-15]
func NewClient(public []byte) (c *Client, err error) {
	defer guard(&err)
	if _, err := parseElement(public); err != nil {
		return nil, err
	}
	key := new(oprf.PublicKey)
	if err := key.UnmarshalBinary(suite(), public); err != nil {
		return nil, errElement
	}
	return &Client{oprf.NewVerifiableClient(suite(), key)}, nil
}

// Pending waits for the answer to one batch. It holds the numbers and what blinds them: it never
// prints, and belongs in no store.
type Pending struct {
	hidden
	client *Client
	data   *oprf.FinalizeData
	count  int
}

// Blind makes a batch of 1 to [MaxBatch] numbers, 1 + 32·n bytes for the registrar. The same number
// blinded twice gives unrelated bytes. Errors: [wire.ErrMalformed], [ErrInternal]. [S-15]
func (c *Client) Blind(ns []wire.Number) (p *Pending, batch []byte, err error) {
	inputs, err := inputsOf(ns)
	if err != nil {
		return nil, nil, err
	}
	return c.begin(len(ns), func() (*oprf.FinalizeData, *oprf.EvaluationRequest, error) {
		return c.oprf.Blind(inputs)
	})
}

func inputsOf(ns []wire.Number) ([][]byte, error) {
	if len(ns) == 0 || len(ns) > MaxBatch {
		return nil, fmt.Errorf("%w: not 1 to %d numbers", wire.ErrMalformed, MaxBatch)
	}
	inputs := make([][]byte, len(ns))
	for i, n := range ns {
		var err error
		if inputs[i], err = input(n); err != nil {
			return nil, err
		}
	}
	return inputs, nil
}

// begin runs the library's blinding and encodes what it gives.
func (c *Client) begin(n int, blind func() (*oprf.FinalizeData, *oprf.EvaluationRequest, error)) (p *Pending, batch []byte, err error) {
	defer guard(&err)
	data, req, err := blind()
	if err != nil {
		return nil, nil, ErrInternal
	}
	if batch, err = appendBatch(req.Elements); err != nil {
		return nil, nil, err
	}
	return &Pending{client: c, data: data, count: n}, batch, nil
}

// Finalize checks the registrar's answer and returns the IDs in the order of the numbers. Errors:
// [wire.ErrMalformed]; [ErrProof] when the answer was not made with the pinned key for this batch;
// [ErrInternal]. It does not prove that anybody has enrolled with an ID. [S-15]
func (p *Pending) Finalize(evaluated []byte) ([]wire.ID, error) {
	outputs, err := p.outputs(evaluated)
	if err != nil {
		return nil, err
	}
	ids := make([]wire.ID, len(outputs))
	for i, out := range outputs {
		ids[i] = outputID(out)
	}
	return ids, nil
}

func (p *Pending) outputs(evaluated []byte) (outputs [][]byte, err error) {
	defer guard(&err)
	e, err := parseEvaluation(evaluated, p.count)
	if err != nil {
		return nil, err
	}
	outputs, err = p.client.oprf.Finalize(p.data, e)
	switch {
	case errors.Is(err, oprf.ErrInvalidProof):
		return nil, ErrProof
	case err != nil:
		return nil, ErrInternal
	}
	return outputs, nil
}

// parseEvaluation reads the answer to a batch of n elements.
func parseEvaluation(b []byte, n int) (*oprf.Evaluation, error) {
	elements, rest, err := parseBatch(b)
	if err != nil {
		return nil, err
	}
	if len(elements) != n {
		return nil, fmt.Errorf("%w: answer to another batch", wire.ErrMalformed)
	}
	proof, err := parseProof(rest)
	if err != nil {
		return nil, err
	}
	return &oprf.Evaluation{Elements: elements, Proof: proof}, nil
}
