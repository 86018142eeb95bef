package bridge

import (
	"context"

	"bluejay/wire"
)

// Questions is what a process serves about numbers: what it holds, and to erase it. Erase may be called
// again and again.
type Questions struct{ Hold, Erase Handler }

// questions says on which subjects a role answers, and whom: the broker the registrar, which knows the ID,
// the registrar and the worker the operator, who knows the number. [H-1] [H-3]
var questions = map[Role]struct {
	name        string
	hold, erase string
	caller      Role
}{
	RoleBroker:    {"bj-kept", wire.SubjectKept, wire.SubjectForget, RoleRegistrar},
	RoleRegistrar: {"bj-hold", wire.SubjectHold, wire.SubjectErase, RoleOperator},
	RoleWorker:    {"bj-hold-sms", wire.SubjectWorkerHold, wire.SubjectWorkerErase, RoleOperator},
}

// ServeQuestions answers them until the bridge is closed, and takes up a rewriting that an erasure before the
// last crash left owing. [H-1] [H-8]
func (b *Bridge) ServeQuestions(q Questions) error {
	as := questions[b.role]
	if as.name == "" {
		return refuse("serve questions", wire.NotAllowed)
	}
	b.wg.Go(b.resumeRewrites)
	return b.service(as.name, []Role{as.caller}, map[string]Handler{as.hold: q.Hold, as.erase: q.Erase})
}

// rewrites are the buckets that a role rewrites.
func (b *Bridge) rewrites() []*bucket {
	switch b.role {
	case RoleBroker:
		return []*bucket{&b.consent}
	case RoleRegistrar:
		return []*bucket{&b.counts}
	case RoleWorker:
		return []*bucket{&b.journal, &b.suppressed}
	}
	return nil
}

func (b *Bridge) resumeRewrites() {
	for _, k := range b.rewrites() {
		for b.ctx.Err() == nil {
			owed, err := k.owed(b.ctx)
			if owed {
				k.beginRewrite()
			}
			if err == nil {
				break
			}
			wait(b.ctx, rewriteAgain) // a bucket that the broker has yet to make
		}
	}
}

// Ask puts a sealed question about a number; subject is one that the operator may use. [H-3] [H-4]
func (b *Bridge) Ask(ctx context.Context, subject string, req []byte) (c wire.Code, body []byte, err error) {
	return b.call(ctx, "ask about a number", subject, req)
}

// Kept asks the broker for the page of what it holds under an ID that begins at item skip. [H-1]
func (b *Bridge) Kept(ctx context.Context, id wire.ID, skip uint32) (page []byte, err error) {
	const op = "ask the broker what it holds"
	c, body, err := b.call(ctx, op, wire.SubjectKept, wire.KeptRequest(id, skip))
	if err == nil && c != wire.OK {
		err = refuse(op, c)
	}
	return body, err
}

// Forget has the broker take one step of an erasure. [H-6]
func (b *Bridge) Forget(ctx context.Context, step byte, id wire.ID) (wire.Code, error) {
	c, _, err := b.call(ctx, "have the broker forget", wire.SubjectForget, wire.ForgetRequest(step, id))
	return c, err
}

// CurrentWorkerKey returns the worker key that was published last; the caller verifies it. [F-2]
func (b *Bridge) CurrentWorkerKey(ctx context.Context) (wire.WorkerKey, error) {
	const op = "read the worker's key"
	v, rev, err := b.keys.load(ctx, keyWorker)
	if err != nil {
		return wire.WorkerKey{}, failure(op, err)
	}
	if rev == 0 {
		return wire.WorkerKey{}, refuse(op, wire.Unavailable)
	}
	k, err := wire.ParseWorkerKey(v)
	return k, failure(op, err)
}
