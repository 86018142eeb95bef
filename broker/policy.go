package broker

import (
	"context"
	"slices"
	"time"

	"bluejay/consent"
)

// readPolicy asks which notices count.
func (b *Broker) readPolicy() (consent.Policy, error) {
	if b.cfg.Notices == nil {
		return consent.Policy{}, nil
	}
	hashes, err := b.cfg.Notices()
	return consent.Policy{Notices: hashes}, err
}

// watchPolicy has the node go by what the operator changes, within seconds.
func (b *Broker) watchPolicy() {
	if b.cfg.Notices == nil {
		return
	}
	b.runUntilStopped(func(ctx context.Context) {
		tick := time.NewTicker(reread)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.refreshPolicy()
			case <-ctx.Done():
				return
			}
		}
	})
}

func (b *Broker) refreshPolicy() {
	p, err := b.readPolicy()
	if err != nil {
		b.cfg.Log.Warn("the notices cannot be read; those known count on", "error", err)
		return
	}
	if slices.Equal(p.Notices, b.policy.Load().Notices) {
		return
	}
	b.policy.Store(&p) // first: nothing leaves for an integrator that the node does not allow any more
	b.node.SetPolicy(p)
	b.cfg.Log.Info("audit: other notices count now", "texts", len(p.Notices))
}
