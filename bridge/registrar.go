package bridge

import (
	"context"
	"runtime"
	"strings"

	"github.com/nats-io/nats.go/micro"

	"bluejay/wire"
)

// Call asks the registrar; subject is [wire.SubjectEnrol] or [wire.SubjectLookup] for a broker,
// [wire.SubjectCheck] or [wire.SubjectSign] for a worker. The code is the registrar's; when nobody
// answered it is [wire.Unavailable], with an error that says why. body is without the code.
func (b *Bridge) Call(ctx context.Context, subject string, req []byte) (c wire.Code, body []byte, err error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, subject, req)
	if c, err = code("ask the registrar", m, err); err != nil {
		return c, nil, err
	}
	return c, m.Data[1:], nil
}

// CheckSender asks whether the broker sealed this message id for the owner of this number. False
// with a nil error is a no. A yes does not prove who holds the SIM today. [F-6]
func (b *Bridge) CheckSender(ctx context.Context, sealed []byte, id wire.MessageID, n wire.Number) (bool, error) {
	bcd := n.BCD()
	c, _, err := b.Call(ctx, wire.SubjectCheck, append(append(id[:], bcd[:]...), sealed...))
	switch {
	case err != nil:
		return false, err
	case c == wire.OK:
		return true, nil
	case c == wire.NotAllowed || c == wire.BadRecord:
		return false, nil
	}
	return false, refuse("check a sender", c)
}

// SignKey has the registrar sign the worker's next key. [F-2]
func (b *Bridge) SignKey(ctx context.Context, k wire.WorkerKey) (wire.WorkerKey, error) {
	const op = "sign the worker's key"
	unsigned := k.Marshal()[:wire.WorkerKeyLen-len(k.Sig)]
	c, body, err := b.Call(ctx, wire.SubjectSign, unsigned)
	if err != nil {
		return wire.WorkerKey{}, err
	}
	if c != wire.OK {
		return wire.WorkerKey{}, refuse(op, c)
	}
	signed, err := wire.ParseWorkerKey(body)
	if err != nil {
		return wire.WorkerKey{}, failure(op, err)
	}
	return signed, nil
}

// Handler answers one request with Code ‖ body. It is called by several goroutines and never with a
// request of more than [MaxRequest] bytes.
type Handler func(ctx context.Context, req []byte) []byte

// Registrar is what the registrar serves, one handler for each subject.
type Registrar struct {
	Enrol, Lookup, Check, Sign Handler
}

// MaxRequest bounds a request to the registrar, in bytes.
const MaxRequest = 4 << 10

const (
	serviceName    = "bj-registrar"
	serviceVersion = "1.0.0"
)

// ServeRegistrar answers the registrar's subjects until the bridge is closed. Several registrars
// share the requests. It works on as many requests at once as there are processors; more wait in
// line, and their callers' timeouts bound the line.
func (b *Bridge) ServeRegistrar(r Registrar) error {
	svc, err := micro.AddService(b.nc, micro.Config{Name: serviceName, Version: serviceVersion})
	if err != nil {
		return failure("serve", err)
	}
	work := make(chan func())
	for range runtime.GOMAXPROCS(0) {
		b.wg.Go(func() { b.serve(work) })
	}
	for subject, h := range map[string]Handler{
		wire.SubjectEnrol: r.Enrol, wire.SubjectLookup: r.Lookup, wire.SubjectCheck: r.Check, wire.SubjectSign: r.Sign,
	} {
		name := subject[strings.LastIndexByte(subject, '.')+1:]
		if err := svc.AddEndpoint(name, b.endpoint(h, work), micro.WithEndpointSubject(subject)); err != nil {
			_ = svc.Stop()
			return failure("serve", err)
		}
	}
	b.wg.Go(func() { <-b.ctx.Done(); _ = svc.Stop() })
	return nil
}

func (b *Bridge) serve(work <-chan func()) {
	for {
		select {
		case f := <-work:
			f()
		case <-b.ctx.Done():
			return
		}
	}
}

// endpoint holds up its subscription while every worker is busy. It answers only to inboxes: the
// registrar may publish urgent jobs, and a request could ask for its answer there. [F-5]
func (b *Bridge) endpoint(h Handler, work chan<- func()) micro.Handler {
	return micro.HandlerFunc(func(req micro.Request) {
		if !strings.HasPrefix(req.Reply(), RoleBroker.inbox()+".") && !strings.HasPrefix(req.Reply(), RoleWorker.inbox()+".") {
			return
		}
		select {
		case work <- func() { b.answer(h, req) }:
		case <-b.ctx.Done():
		}
	})
}

func (b *Bridge) answer(h Handler, req micro.Request) {
	answer := []byte{byte(wire.TooLarge)}
	if len(req.Data()) <= MaxRequest {
		ctx, cancel := b.bound(b.ctx)
		defer cancel()
		answer = []byte{byte(wire.Unavailable)} // stays if the handler panics
		b.guard("a registrar's handler", func() { answer = h(ctx, req.Data()) })
	}
	if err := req.Respond(answer); err != nil {
		b.log.Debug("an answer was lost", "reason", reason(err))
	}
}
