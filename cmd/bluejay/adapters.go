package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"bluejay/bridge"
	"bluejay/registrar"
	"bluejay/wire"
	"bluejay/worker"
)

// What the bridge gives as it is: it may not import the packages that declare these interfaces.
var (
	_ registrar.Jobs   = bridge.Jobs{}
	_ worker.Queue     = (*bridge.Queue)(nil)
	_ worker.Journal   = bridge.Journal{}
	_ worker.Events    = (*bridge.Bridge)(nil)
	_ worker.Registrar = (*bridge.Bridge)(nil)
	_ worker.Keys      = (*bridge.Bridge)(nil)
)

// counts is [registrar.Counts] on a bucket that stores bytes.
type counts struct{ bridge.Counts }

func (c counts) Load(ctx context.Context, id wire.ID) (registrar.Count, uint64, error) {
	b, rev, err := c.Counts.Load(ctx, id)
	if err != nil {
		return registrar.Count{}, 0, err
	}
	v, err := registrar.ParseCount(b)
	return v, rev, err
}

func (c counts) Save(ctx context.Context, id wire.ID, v registrar.Count, rev uint64) error {
	err := c.Counts.Save(ctx, id, v.Marshal(), rev)
	if errors.Is(err, bridge.ErrConflict) {
		return registrar.ErrConflict
	}
	return err
}

// latestKey holds the worker key that was published last. Give its set to
// [bridge.Bridge.WatchWorkerKey] and its get to [registrar.Config].
type latestKey struct {
	p     atomic.Pointer[wire.WorkerKey]
	once  sync.Once
	first chan struct{} // closed when there is one: enrolment works from then on
}

func newLatestKey() *latestKey { return &latestKey{first: make(chan struct{})} }

func (l *latestKey) set(k wire.WorkerKey) {
	l.p.Store(&k)
	l.once.Do(func() { close(l.first) })
}

func (l *latestKey) get() (wire.WorkerKey, bool) {
	if k := l.p.Load(); k != nil {
		return *k, true
	}
	return wire.WorkerKey{}, false
}

// handlers is what [bridge.Bridge.ServeRegistrar] serves.
func handlers(r *registrar.Registrar) bridge.Registrar {
	return bridge.Registrar{Enrol: r.HandleEnrol, Lookup: r.HandleLookup, Check: r.HandleCheck, Sign: r.HandleSign, Stop: r.HandleStop, Off: r.HandleOff}
}

// kept is [registrar.Records]: its own counts, and what the broker says.
type kept struct{ b *bridge.Bridge }

func (k kept) Held(ctx context.Context, id wire.ID) ([]wire.Held, error) {
	return k.b.Counts().Held(ctx, id)
}
func (k kept) Erase(ctx context.Context, id wire.ID) error { return k.b.Counts().Erase(ctx, id) }
func (k kept) Kept(ctx context.Context, id wire.ID, skip uint32) ([]byte, error) {
	return k.b.Kept(ctx, id, skip)
}
func (k kept) Forget(ctx context.Context, step byte, id wire.ID) (wire.Code, error) {
	return k.b.Forget(ctx, step, id)
}

// rows is [worker.Records].
type rows struct{ b *bridge.Bridge }

func (r rows) EachRow(ctx context.Context, f func(wire.Held, worker.Entry) error) error {
	return r.b.Journal().EachHeld(ctx, f)
}
func (r rows) Rewrite(ctx context.Context, h wire.Held, e worker.Entry) error {
	return changed(r.b.Journal().Rewrite(ctx, h, e))
}
func (r rows) EraseRow(ctx context.Context, h wire.Held) error {
	return changed(r.b.Journal().Erase(ctx, h))
}
func (r rows) OnList(ctx context.Context, n [16]byte) ([]wire.Held, error) {
	return r.b.Suppressions().Held(ctx, n)
}
func (r rows) Spent(ctx context.Context, key string) ([]wire.Held, error) {
	return r.b.Caps().Held(ctx, key)
}
func (r rows) Wipe(ctx context.Context) error { return r.b.Journal().Wipe(ctx) }

func changed(err error) error {
	if errors.Is(err, bridge.ErrConflict) {
		return worker.ErrChanged
	}
	return err
}
