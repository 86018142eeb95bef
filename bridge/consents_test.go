package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"bluejay/wire"
)

// TestConsents: the registrar asks the broker for a seq and hands it revocations; the worker hands the
// registrar numbers that said STOP; every code arrives, and silence is an error. [P-7] [F-18]
func TestConsents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	broker, registrar, worker := w.dial(t, RoleBroker), w.dial(t, RoleRegistrar), w.dial(t, RoleWorker)
	if _, _, err := registrar.Seq(t.Context(), wire.ID{1}); !errors.Is(err, wire.Unavailable) {
		t.Errorf("nobody serves: %v", err)
	}
	if err := worker.Stop(t.Context(), []byte("sealed")); !errors.Is(err, wire.Unavailable) {
		t.Errorf("nobody serves: %v", err)
	}
	answers := map[byte][]byte{
		1: binary.BigEndian.AppendUint32([]byte{byte(wire.OK)}, 77), 2: {byte(wire.NotEnrolled)}, 3: {byte(wire.Unavailable)}, 4: {byte(wire.OK), 1},
	}
	seq := func(_ context.Context, req []byte) []byte { return answers[req[0]] }
	revoke := func(_ context.Context, req []byte) []byte { return []byte{req[0]} }
	stop := func(_ context.Context, req []byte) []byte { return []byte{req[0]} }
	if err := errors.Join(
		broker.ServeConsents(Consents{Seq: seq, Revoke: revoke}),
		registrar.ServeRegistrar(Registrar{Enrol: echo, Lookup: echo, Check: echo, Sign: echo, Stop: stop}),
	); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the services are known", func() bool {
		_, _, err := registrar.Seq(t.Context(), wire.ID{1})
		return err == nil && worker.Stop(t.Context(), []byte{byte(wire.OK)}) == nil
	})
	if n, ok, err := registrar.Seq(t.Context(), wire.ID{1}); n != 77 || !ok || err != nil {
		t.Errorf("%d, %v, %v", n, ok, err)
	}
	if _, ok, err := registrar.Seq(t.Context(), wire.ID{2}); ok || err != nil {
		t.Errorf("nobody enrolled: %v, %v", ok, err)
	}
	for id, want := range map[byte]error{3: wire.Unavailable, 4: wire.ErrMalformed} {
		if _, _, err := registrar.Seq(t.Context(), wire.ID{id}); !errors.Is(err, want) {
			t.Errorf("answer %d: %v, want %v", id, err, want)
		}
	}
	for _, code := range []wire.Code{wire.OK, wire.StaleRecord, wire.BadRecord} {
		if got, err := registrar.Revoke(t.Context(), []byte{byte(code)}); got != code || err != nil {
			t.Errorf("%v, %v", got, err)
		}
	}
	if err := worker.Stop(t.Context(), []byte{byte(wire.BadRecord)}); !errors.Is(err, wire.BadRecord) {
		t.Errorf("%v", err)
	}
	quick, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := worker.Call(quick, wire.SubjectSeq, make([]byte, 12)); err == nil {
		t.Error("a worker asked for a seq")
	}
}
