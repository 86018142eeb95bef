package bridge

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"
)

// ErrNobody says that nobody serves the subject of a request: it reached nobody.
var ErrNobody = errors.New("bridge: nobody serves it")

// maxRemote bounds what an integrator sends about SMS, in bytes.
const maxRemote = 16 << 10

// Remote is the SMS worker's connection to an integrator that is a route for SMS.
type Remote struct {
	nc *nats.Conn
	b  *Bridge
	wg sync.WaitGroup
}

// OpenRemote connects to the account of an integrator that is a route for SMS.
func (b *Bridge) OpenRemote(ctx context.Context, c IntegratorConfig) (*Remote, error) {
	nc, err := b.account(ctx, c)
	if err != nil {
		return nil, failure("open a remote route", err)
	}
	return &Remote{nc: nc, b: b}, nil
}

// Call hands over a text and waits for the answer. [ErrNobody]: it reached nobody. Any other error
// leaves open whether it did.
func (r *Remote) Call(ctx context.Context, request []byte) (answer []byte, err error) {
	ctx, cancel := r.b.bound(ctx)
	defer cancel()
	m, err := r.nc.RequestWithContext(ctx, subjectSubmit, request)
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrReconnectBufExceeded):
		return nil, ErrNobody
	case err != nil:
		return nil, failure("hand over a text", err)
	}
	return m.Data, nil
}

// Receive calls f for each receipt and each text from a phone that the integrator sends, and answers
// "+OK" when f has stored it, "-ERR" when not. f may be called concurrently. It returns when the server
// knows who listens: an integrator that was told the route is open is never answered "nobody".
func (r *Remote) Receive(f func(ctx context.Context, event []byte) error) error {
	_, err := r.nc.Subscribe(subjectReceipt, func(m *nats.Msg) {
		if m.Reply == "" || len(m.Data) > maxRemote {
			return // nobody would hear that it was not stored
		}
		r.wg.Go(func() {
			answer := "-ERR not stored: send it again"
			r.b.guard("a receipt's handler", func() {
				ctx, cancel := r.b.bound(r.b.ctx)
				defer cancel()
				if f(ctx, m.Data) == nil {
					answer = "+OK"
				}
			})
			_ = m.Respond([]byte(answer)) // if it is lost, it is sent again
		})
	})
	return failure("receive receipts", errors.Join(err, r.nc.Flush()))
}

// Close ends the connection and waits for what is being received.
func (r *Remote) Close() {
	r.nc.Close()
	r.wg.Wait()
}
