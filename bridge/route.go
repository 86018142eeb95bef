package bridge

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"bluejay/wire"
)

// Router passes frames between brokers, by tag. The broker that holds a tag's session claims the
// tag; nothing about it is stored. [C-2]
type Router struct {
	b     *Bridge
	calls chan *nats.Msg // of every claimed tag

	mu    sync.Mutex
	subs  map[wire.Tag]*nats.Subscription
	fence OnFence
}

// OnFence silences an ID whose tag this broker has claimed, from what is stored, and returns once nothing goes to or
// from it here any more. It may take its time.
type OnFence func(ctx context.Context, id wire.ID) wire.Code

// headerFence marks a request that brings no frame: the ID in it is to be silent. It is in the payload, because no
// subject names an ID. [F-8]
const headerFence = "Bj-Fence"

// Fenced says who silences an ID here. Without it another broker's revocation is not acknowledged.
func (r *Router) Fenced(f OnFence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fence = f
}

// Fence has the broker that has claimed a tag silence its owner, whose revocation is stored. A nil error means that no
// session of that tag is left on any other broker, nobody having claimed it among them. [C-revoke]
func (r *Router) Fence(ctx context.Context, tag wire.Tag, id wire.ID) error {
	const op = "silence a session"
	ctx, cancel := r.b.bound(ctx)
	defer cancel()
	m := nats.NewMsg(wire.RouteSubject(tag))
	m.Header.Set(headerFence, "1")
	m.Data = id[:]
	answer, err := r.b.nc.RequestMsgWithContext(ctx, m)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil
	}
	c, err := code(op, answer, err)
	if err == nil && c != wire.OK {
		err = refuse(op, c)
	}
	return err
}

// silence answers another broker's Fence, on a goroutine of its own: it waits for the store.
func (r *Router) silence(m *nats.Msg) {
	r.mu.Lock()
	f := r.fence
	r.mu.Unlock()
	r.b.wg.Go(func() {
		c := wire.Unavailable
		if f != nil && len(m.Data) == len(wire.ID{}) {
			ctx, cancel := r.b.bound(r.b.ctx)
			defer cancel()
			r.b.guard("a fence", func() { c = f(ctx, wire.ID(m.Data)) })
		}
		if err := m.Respond([]byte{byte(c)}); err != nil {
			r.b.log.Debug("a fence's answer was lost", "reason", reason(err))
		}
	})
}

// OnRoute takes a frame that another broker sends to a claimed tag. It must not block: one goroutine
// calls it for every tag. It, or who it hands the frame to, calls reply once, when the outcome is
// known; a reply that never comes is the sender's timeout. payload is the callee's.
type OnRoute func(tag wire.Tag, payload []byte, reply func(wire.Code))

// routeBacklog is how many frames may wait for OnRoute. One more is dropped: its sender times out.
const routeBacklog = 4096

// OpenRouter starts to take frames for this broker, until the bridge is closed. Call it once.
func (b *Bridge) OpenRouter(on OnRoute) *Router {
	r := &Router{b: b, calls: make(chan *nats.Msg, routeBacklog), subs: map[wire.Tag]*nats.Subscription{}}
	b.wg.Go(func() { r.run(on) })
	return r
}

func (r *Router) run(on OnRoute) {
	for {
		select {
		case m := <-r.calls:
			r.b.guard("a route's callback", func() { r.take(m, on) }) // the sender times out
		case <-r.b.ctx.Done():
			return
		}
	}
}

func (r *Router) take(m *nats.Msg, on OnRoute) {
	tag, err := wire.ParseRouteSubject(m.Subject)
	if err != nil || !strings.HasPrefix(m.Reply, RoleBroker.inbox()+".") {
		return // not from a broker's Forward
	}
	if m.Header.Get(headerFence) != "" {
		r.silence(m)
		return
	}
	on(tag, m.Data, func(c wire.Code) {
		if err := m.Respond([]byte{byte(c)}); err != nil {
			r.b.log.Debug("a route's reply was lost", "reason", reason(err))
		}
	})
}

// Claim says that this broker holds the session of a tag. Other brokers see it a moment later.
// Claiming twice is once. Two brokers may claim the same tag for the moment of a takeover: both get
// the frame, and the first reply counts.
func (r *Router) Claim(tag wire.Tag) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subs[tag] != nil {
		return nil
	}
	s, err := r.b.nc.ChanSubscribe(wire.RouteSubject(tag), r.calls)
	if err != nil {
		return failure("claim a tag", err)
	}
	r.subs[tag] = s
	return nil
}

// Release ends a claim. A frame on its way may still arrive, or be lost: then its sender times out
// and still has it. [C-2]
func (r *Router) Release(tag wire.Tag) {
	r.mu.Lock()
	s := r.subs[tag]
	delete(r.subs, tag)
	r.mu.Unlock()
	if s != nil {
		_ = s.Unsubscribe() // fails only when the connection is closed, and with it the claim
	}
}

// Forward sends a frame to the broker that has claimed tag and waits for its reply.
// [wire.NoRecipient] with a nil error means that no broker has: known at once, no waiting.
// [wire.Unavailable] comes with an error, and leaves open whether the frame was delivered. [C-2]
func (r *Router) Forward(ctx context.Context, tag wire.Tag, payload []byte) (wire.Code, error) {
	ctx, cancel := r.b.bound(ctx)
	defer cancel()
	m, err := r.b.nc.RequestWithContext(ctx, wire.RouteSubject(tag), payload)
	if errors.Is(err, nats.ErrNoResponders) {
		return wire.NoRecipient, nil
	}
	return code("forward", m, err)
}

// code reads the first byte of an answer.
func code(op string, m *nats.Msg, err error) (wire.Code, error) {
	if err == nil && (len(m.Data) == 0 || !wire.Code(m.Data[0]).Known()) {
		err = wire.ErrMalformed
	}
	if err != nil {
		return wire.Unavailable, failure(op, err)
	}
	return wire.Code(m.Data[0]), nil
}
