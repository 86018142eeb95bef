package bridge

import (
	"context"
	"errors"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// Reader is an integrator's side, as small as can be: for looking at what an integrator gets. An
// integrator needs nothing of it but a NATS client.
type Reader struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	events *nats.Subscription
}

// OpenReader connects with an integrator's own credentials and begins to listen.
func OpenReader(ctx context.Context, c IntegratorConfig) (*Reader, error) {
	const op = "connect as an integrator"
	opts := []nats.Option{nats.Name(c.Name), nats.UserCredentials(c.Creds)}
	if c.TLS != nil {
		opts = append(opts, nats.Secure(c.TLS))
	}
	nc, err := nats.Connect(c.URL, opts...)
	if err != nil {
		return nil, failure(op, err)
	}
	r := &Reader{nc: nc}
	if r.js, err = jetstream.New(nc); err == nil {
		r.events, err = nc.SubscribeSync(wire.IntegratorSubjects())
	}
	if err == nil {
		err = nc.FlushWithContext(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, failure(op, err)
	}
	return r, nil
}

// Next returns the next event as it is published.
func (r *Reader) Next(ctx context.Context) ([]byte, error) {
	m, err := r.events.NextMsgWithContext(ctx)
	if err != nil {
		return nil, failure("next event", err)
	}
	return m.Data, nil
}

// About counts the stored events by pseudonym.
func (r *Reader) About(ctx context.Context) map[string]int {
	about := map[string]int{}
	c, err := r.js.OrderedConsumer(ctx, StreamIntegrator, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil
	}
	for {
		m, err := c.Next(jetstream.FetchContext(ctx))
		if err != nil {
			return nil
		}
		about[m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]]++
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			return about
		}
	}
}

// Serve answers the texts of a route for SMS.
func (r *Reader) Serve(f func(request []byte) []byte) error {
	_, err := r.nc.Subscribe(subjectSubmit, func(m *nats.Msg) { _ = m.Respond(f(m.Data)) })
	return failure("serve a route", errors.Join(err, r.nc.Flush()))
}

// Report sends a receipt, or a text from a phone, and returns the answer.
func (r *Reader) Report(ctx context.Context, event []byte) ([]byte, error) {
	m, err := r.nc.RequestWithContext(ctx, subjectReceipt, event)
	if err != nil {
		return nil, failure("report", err)
	}
	return m.Data, nil
}

// Close ends the connection.
func (r *Reader) Close() { r.nc.Close() }
