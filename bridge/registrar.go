package bridge

import (
	"context"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/micro"

	"bluejay/wire"
)

// Call asks the registrar; subject is [wire.SubjectEnrol] or [wire.SubjectLookup] for a broker,
// [wire.SubjectCheck] or [wire.SubjectSign] for a worker. The code is the registrar's; when nobody
// answered it is [wire.Unavailable], with an error that says why. body is without the code.
func (b *Bridge) Call(ctx context.Context, subject string, req []byte) (c wire.Code, body []byte, err error) {
	return b.call(ctx, "ask the registrar", subject, req)
}

func (b *Bridge) call(ctx context.Context, op, subject string, req []byte) (c wire.Code, body []byte, err error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, subject, req)
	if c, err = code(op, m, err); err != nil {
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

// Stop has the registrar revoke the consent of whoever has enrolled with a sealed number; nil when that
// is done and its silence has begun, and when nobody has enrolled with it. [F-18]
func (b *Bridge) Stop(ctx context.Context, sealed []byte) error {
	const op = "stop a number"
	c, _, err := b.Call(ctx, wire.SubjectStop, sealed)
	if err == nil && c != wire.OK {
		err = refuse(op, c)
	}
	return err
}

// Off has the registrar revoke the consent of whoever has enrolled with a number that is sealed to it
// (envelope.SealNumber), because the operator or, as an erasure, the number's owner wants it: the
// operator's half of the five ways off. seq is the revocation's, which the device learns when it comes
// back; 0: nobody has enrolled with the number. A nil error means that the silence has begun, or that there
// was nothing to end. [A-5] [C-revoke]
func (b *Bridge) Off(ctx context.Context, sealed []byte, cause wire.Cause) (seq uint32, err error) {
	const op = "switch a number off"
	c, body, err := b.Call(ctx, wire.SubjectOff, append([]byte{byte(cause)}, sealed...))
	switch {
	case err != nil:
		return 0, err
	case c != wire.OK:
		return 0, refuse(op, c)
	case len(body) != 4:
		return 0, failure(op, wire.ErrMalformed)
	}
	return binary.BigEndian.Uint32(body), nil
}

// Seq asks the broker for the seq of the last consent record of an ID; false: it is not enrolled. [P-7]
func (b *Bridge) Seq(ctx context.Context, id wire.ID) (seq uint32, enrolled bool, err error) {
	const op = "ask for a consent's seq"
	c, body, err := b.Call(ctx, wire.SubjectSeq, id[:])
	switch {
	case err != nil:
		return 0, false, err
	case c == wire.NotEnrolled:
		return 0, false, nil
	case c != wire.OK:
		return 0, false, refuse(op, c)
	case len(body) != 4:
		return 0, false, failure(op, wire.ErrMalformed)
	}
	return binary.BigEndian.Uint32(body), true, nil
}

// Revoke hands the registrar's revocation to the broker; [wire.OK] means that silence has begun.
// [C-revoke]
func (b *Bridge) Revoke(ctx context.Context, raw []byte) (wire.Code, error) {
	c, _, err := b.Call(ctx, wire.SubjectRevoke, raw)
	return c, err
}

// Consents is what a broker serves to the registrar.
type Consents struct{ Seq, Revoke Handler }

// ServeConsents answers the registrar, and nobody else, until the bridge is closed. [P-7]
func (b *Bridge) ServeConsents(c Consents) error {
	return b.service("bj-consents", []Role{RoleRegistrar}, map[string]Handler{wire.SubjectSeq: c.Seq, wire.SubjectRevoke: c.Revoke})
}

// Handler answers one request with Code ‖ body. It is called by several goroutines and never with a
// request of more than [MaxRequest] bytes.
type Handler func(ctx context.Context, req []byte) []byte

// Registrar is what the registrar serves, one handler for each subject.
type Registrar struct {
	Enrol, Lookup, Check, Sign, Stop, Off Handler
}

// MaxRequest bounds a request, in bytes.
const MaxRequest = 4 << 10

const serviceVersion = "1.0.0"

// ServeRegistrar answers the registrar's subjects until the bridge is closed. Several registrars
// share the requests. It works on as many requests at once as there are processors; more wait in
// line, and their callers' timeouts bound the line.
func (b *Bridge) ServeRegistrar(r Registrar) error {
	return b.service("bj-registrar", []Role{RoleBroker, RoleWorker, RoleOperator}, map[string]Handler{
		wire.SubjectEnrol: r.Enrol, wire.SubjectLookup: r.Lookup, wire.SubjectCheck: r.Check, wire.SubjectSign: r.Sign,
		wire.SubjectStop: r.Stop, wire.SubjectOff: r.Off,
	})
}

// service answers subjects to callers of some roles.
func (b *Bridge) service(name string, callers []Role, handlers map[string]Handler) error {
	svc, err := micro.AddService(b.nc, micro.Config{Name: name, Version: serviceVersion})
	if err != nil {
		return failure("serve", err)
	}
	work := make(chan func())
	for range runtime.GOMAXPROCS(0) {
		b.wg.Go(func() { b.serve(work) })
	}
	for subject, h := range handlers {
		short := subject[strings.LastIndexByte(subject, '.')+1:]
		if err := svc.AddEndpoint(short, b.endpoint(h, callers, work), micro.WithEndpointSubject(subject)); err != nil {
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
func (b *Bridge) endpoint(h Handler, callers []Role, work chan<- func()) micro.Handler {
	inbox := func(r Role, reply string) bool { return strings.HasPrefix(reply, r.inbox()+".") }
	return micro.HandlerFunc(func(req micro.Request) {
		if !slices.ContainsFunc(callers, func(r Role) bool { return inbox(r, req.Reply()) }) {
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
		b.guard("a request's handler", func() { answer = h(ctx, req.Data()) })
	}
	if err := req.Respond(answer); err != nil {
		b.log.Debug("an answer was lost", "reason", reason(err))
	}
}
