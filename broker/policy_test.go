package broker

import (
	"errors"
	"sync"
	"testing"

	"bluejay/wire"
)

// TestPolicyIsReadAgain: the node goes by the notices that the operator names now; while they cannot be read it goes by
// those it knows; a broker that cannot read them at its start does not start.
func TestPolicyIsReadAgain(t *testing.T) {
	var mu sync.Mutex
	texts, failing := []string{"first"}, error(nil)
	notices := func() (all [][16]byte, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, text := range texts {
			all = append(all, wire.NoticeHash(text))
		}
		return all, failing
	}
	b := start(t, func(c *Config) { c.Notices = notices })
	accepts := func(text string) bool { return b.policy.Load().Accepts(wire.NoticeHash(text)) }
	if !accepts("first") || accepts("second") {
		t.Error("not what the operator named")
	}
	set := func(err error, now ...string) {
		mu.Lock()
		texts, failing = now, err
		mu.Unlock()
		b.refreshPolicy()
	}
	set(errors.New("the disk"), "second")
	if !accepts("first") {
		t.Error("forgotten while the disk fails")
	}
	set(nil, "second")
	if accepts("first") || !accepts("second") {
		t.Error("not read again")
	}
	set(errors.New("the disk"))
	{
		cfg := b.cfg
		cfg.Addr, cfg.HTTPAddr, cfg.NATS = "127.0.0.1:0", "", natsConfig(t, t.TempDir())
		if other, err := Start(t.Context(), cfg); err == nil {
			t.Error("started without knowing what counts")
			_ = other.Shutdown(t.Context())
		}
	}
}
