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
	return bridge.Registrar{Enrol: r.HandleEnrol, Lookup: r.HandleLookup, Check: r.HandleCheck, Sign: r.HandleSign}
}
