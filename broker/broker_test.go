package broker

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/wire"
)

func testKey(t testing.TB) (wire.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return wire.PublicKey(public), private
}

// start runs a node on loopback with keys of its own, stopped at the end of the test.
func start(t testing.TB, change func(*Config)) *Broker {
	t.Helper()
	_, receipt := testKey(t)
	cfg := Config{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Name: "test", Addr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0",
		NATS:    NATSConfig{Dir: t.TempDir(), Users: []NATSUser{NATSRole(bridge.RoleBroker, "b")}, MaxStore: 1 << 30},
		Receipt: receipt, TagKey: make([]byte, 32), NATSPassword: "b",
	}
	if change != nil {
		change(&cfg)
	}
	b, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return b
}

// [M-24]: ready is a text that made the round trip, counted by custody.
func TestReadyIsARoundTrip(t *testing.T) {
	b := start(t, nil)
	for range 3 {
		if err := b.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Counts().Custody; got.Delivered != 3 || got.Difference() != 0 {
		t.Errorf("after three checks: %+v", got)
	}
}
