package bridge

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

// PublishWorkerKey makes a signed worker key the current one; nil means stored. [F-2]
func (b *Bridge) PublishWorkerKey(ctx context.Context, k wire.WorkerKey) error {
	return failure("publish the worker's key", b.keys.put(ctx, keyWorker, k.Marshal()))
}

// WatchWorkerKey calls f with the current worker key, if there is one, and with each later one,
// until the bridge is closed. It checks the shape only: f must verify the root's signature. [F-2]
func (b *Bridge) WatchWorkerKey(f func(wire.WorkerKey)) error {
	subject := kvKeys + wire.BucketKeys + "." + keyWorker
	return b.follow(kvStream+wire.BucketKeys, subject, fromLast, func(m jetstream.Msg) error {
		k, err := wire.ParseWorkerKey(m.Data())
		if err == nil {
			f(k)
		}
		return err
	})
}
