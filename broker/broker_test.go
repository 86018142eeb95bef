package broker

import (
	"context"
	"crypto/ed25519"
	"errors"
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
		NATS:    natsConfig(t, t.TempDir()),
		Receipt: receipt, TagKey: make([]byte, 32), NATSCreds: credsOf(t, bridge.RoleBroker),
	}
	if change != nil {
		change(&cfg)
	}
	b, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), natsPatience)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return b
}

// [M-24]: ready is a text that made the round trip, counted by custody; however often it is asked,
// one round trip answers for two seconds.
func TestReadyIsARoundTrip(t *testing.T) {
	b := start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), natsPatience)
	defer cancel()
	for range 100 {
		if err := b.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Counts().Custody; got.Delivered < 1 || got.Delivered > 10 || got.Difference() != 0 {
		t.Errorf("after a hundred checks: %+v", got)
	}
	b.ready.last = time.Time{}
	before := b.Counts().Custody.Delivered
	if err := b.Ready(ctx); err != nil || b.Counts().Custody.Delivered != before+1 {
		t.Errorf("a check later on: %v, %+v", err, b.Counts().Custody)
	}
}

// A second broker on the same NATS refuses to start, and the first goes on; after the first has
// ended the second may.
func TestOneBrokerForANATS(t *testing.T) {
	nats, err := StartNATS(natsConfig(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nats.Close(context.Background()) })
	_, receipt := testKey(t)
	cfg := Config{
		Name: "test", Addr: "127.0.0.1:0", NATSURL: nats.URL(), NATSCreds: credsOf(t, bridge.RoleBroker), Receipt: receipt, TagKey: make([]byte, 32),
	}
	first, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrSecond) {
		t.Errorf("a second broker: %v, want ErrSecond", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), natsPatience)
	defer cancel()
	if err := first.Ready(ctx); err != nil {
		t.Errorf("the first, after the second was refused: %v", err)
	}
	if err := first.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := next.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
