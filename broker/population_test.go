//go:build integration

package broker

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/wire"
)

// populate stores users from..to.
func populate(t *testing.T, s bridge.Store, from, to int) {
	t.Helper()
	var wg sync.WaitGroup
	for lane := range 32 {
		wg.Go(func() {
			for i := from + lane; i < to; i += 32 {
				c := wire.Certificate{IssuedAt: 1_800_000_000, LifetimeHours: 1}
				binary.BigEndian.PutUint32(c.ID[:], uint32(i)+1)
				r := wire.Consent{ID: c.ID, Scopes: wire.ScopeMessaging, Seq: 1}
				if _, err := s.Save(t.Context(), c.ID, consent.State{Cert: &c, Record: &r, Seq: 1}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestMemoryDoesNotGrow: the broker's own memory is the same with a thousand and with very many users stored:
// it keeps only who is connected. (The NATS server has an index of keys in memory: that one grows.) [H-10]
//
//	BLUEJAY_CONSENTS=100000 go test -tags integration -run TestMemoryDoesNotGrow -v ./broker
func TestMemoryDoesNotGrow(t *testing.T) {
	many := 3000
	if n, err := strconv.Atoi(os.Getenv("BLUEJAY_CONSENTS")); err == nil {
		many = n
	}
	url, _ := child(t, t.TempDir())
	_, receipt := testKey(t)
	heapWith := func(from, to int) float64 {
		b, err := Start(t.Context(), Config{
			Name: "test", Addr: "127.0.0.1:0", NATSURL: url, NATSCreds: credsOf(t, bridge.RoleBroker), Receipt: receipt, TagKey: make([]byte, 32),
		})
		if err != nil {
			t.Fatal(err)
		}
		populate(t, b.bridge.Store(), from, to)
		if err := b.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		b, err = Start(t.Context(), b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 { // as many are looked up at either size
			var id wire.ID
			binary.BigEndian.PutUint32(id[:], uint32(i*(to/200))+1)
			if st, err := b.bridge.Store().Load(t.Context(), id); err != nil || st.Record == nil {
				t.Fatalf("user %d: %v", i*(to/200), err)
			}
		}
		_, heap, _ := settledRSS(t)
		if err := b.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		return float64(heap) / (1 << 20)
	}
	few := heapWith(0, 1000)
	lots := heapWith(1000, many)
	t.Logf("heap with 1,000 users stored: %.2f MiB; with %d: %.2f MiB", few, many, lots)
	if diff := (lots - few) * (1 << 20); diff > 8*float64(many-1000) && diff > 1<<20 {
		t.Error(fmt.Errorf("%.0f bytes more", diff))
	}
}
