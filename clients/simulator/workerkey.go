package simulator

import (
	"sync/atomic"
	"time"

	"bluejay/wire"
)

// workerKeys is the SMS worker's key, the same for every lean handset. Zero value: none is known.
type workerKeys struct {
	key atomic.Pointer[wire.WorkerKey]
}

func (k *workerKeys) get() (wire.WorkerKey, bool) {
	if p := k.key.Load(); p != nil {
		return *p, true
	}
	return wire.WorkerKey{}, false
}

// workerKey takes a record from topic k, if the pinned root signed it. [F-2]
func (f *fleet) workerKey(payload []byte, now time.Time) {
	if old, ok := f.key.get(); ok && string(old.Marshal()) == string(payload) {
		return
	}
	k, err := wire.ParseWorkerKey(payload)
	if err == nil && k.Verify(f.cfg.Pins.Root, now) == nil {
		f.key.key.Store(&k)
	}
}
