package bridge

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"bluejay/wire"
)

// echo answers OK and the request.
func echo(_ context.Context, req []byte) []byte { return append([]byte{byte(wire.OK)}, req...) }

// TestRegistrarService: each subject reaches its handler, several at once; requests out of bounds get
// a clear code and disturb nobody. [P-11] [P-14]
func TestRegistrarService(t *testing.T) {
	w := newWorld(t, Limits{})
	registrar, broker, worker := w.dial(t, RoleRegistrar), w.dial(t, RoleBroker), w.dial(t, RoleWorker)
	if c, _, err := broker.Call(t.Context(), wire.SubjectEnrol, nil); c != wire.Unavailable || !errors.Is(err, wire.Unavailable) {
		t.Errorf("nobody serves: %v, %v", c, err)
	}
	named := func(name string) Handler {
		return func(_ context.Context, req []byte) []byte { return append([]byte{byte(wire.OverQuota)}, name...) }
	}
	if err := registrar.ServeRegistrar(Registrar{Enrol: echo, Lookup: named("lookup"), Check: named("check"), Sign: named("sign")}); err != nil {
		t.Fatal(err)
	}
	serving(t, broker)
	for _, tt := range []struct {
		b       *Bridge
		subject string
		req     []byte
		code    wire.Code
		body    string
	}{
		{broker, wire.SubjectEnrol, []byte("hello"), wire.OK, "hello"},
		{broker, wire.SubjectEnrol, nil, wire.OK, ""},
		{broker, wire.SubjectEnrol, make([]byte, MaxRequest+1), wire.TooLarge, ""},
		{broker, wire.SubjectEnrol, bytes.Repeat([]byte("x"), MaxRequest), wire.OK, string(bytes.Repeat([]byte("x"), MaxRequest))},
		{broker, wire.SubjectLookup, []byte("x"), wire.OverQuota, "lookup"},
		{worker, wire.SubjectCheck, []byte("x"), wire.OverQuota, "check"},
		{worker, wire.SubjectSign, []byte("x"), wire.OverQuota, "sign"},
	} {
		c, body, err := tt.b.Call(t.Context(), tt.subject, tt.req)
		if c != tt.code || string(body) != tt.body || err != nil {
			t.Errorf("%s with %d bytes: %v, %d bytes, %v", tt.subject, len(tt.req), c, len(body), err)
		}
	}
}

// TestAnswersGoToInboxes: [F-5] a broker cannot have the registrar publish for it.
func TestAnswersGoToInboxes(t *testing.T) {
	w := newWorld(t, Limits{})
	broker := w.dial(t, RoleBroker)
	if err := w.dial(t, RoleRegistrar).ServeRegistrar(Registrar{Enrol: echo, Lookup: echo, Check: echo, Sign: echo}); err != nil {
		t.Fatal(err)
	}
	serving(t, broker)
	urgent := wire.JobSubject(wire.ClassUrgent, wire.Pseudonym{})
	if err := broker.nc.PublishRequest(wire.SubjectEnrol, urgent, []byte("a job of the broker's making")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := broker.Call(t.Context(), wire.SubjectEnrol, nil); err != nil {
		t.Fatal(err)
	}
	if n := must(broker.js.Stream(t.Context(), wire.StreamJobs))(t).CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d jobs were published for the broker", n)
	}
}

// serving waits until the service has subscribed.
func serving(t testing.TB, broker *Bridge) {
	t.Helper()
	eventually(t, "the registrar serves", func() bool {
		_, _, err := broker.Call(t.Context(), wire.SubjectEnrol, nil)
		return err == nil
	})
}

// TestCheckAndSign: what a worker makes of the registrar's answers. [F-2] [F-6]
func TestCheckAndSign(t *testing.T) {
	w := newWorld(t, Limits{})
	worker := w.dial(t, RoleWorker)
	n, err := wire.ParseNumber("+447700900123")
	if err != nil {
		t.Fatal(err)
	}
	id, bcd := wire.MessageIDOf([]byte("job")), n.BCD()
	var mu sync.Mutex
	var reply []byte
	say := func(b []byte) { mu.Lock(); defer mu.Unlock(); reply = b }
	said := func() []byte { mu.Lock(); defer mu.Unlock(); return reply }
	key := wire.WorkerKey{KID: 3, NotBefore: 1, NotAfter: 2, Public: [32]byte{4}}
	err = w.dial(t, RoleRegistrar).ServeRegistrar(Registrar{
		Enrol: echo, Lookup: echo,
		Check: func(_ context.Context, req []byte) []byte {
			if want := append(append(id[:], bcd[:]...), "sealed"...); !bytes.Equal(req, want) {
				return []byte{byte(wire.BadRecord), 1}
			}
			return said()
		},
		Sign: func(_ context.Context, req []byte) []byte {
			if want := key.Marshal()[:42]; !bytes.Equal(req, want) {
				return []byte{byte(wire.BadRecord)}
			}
			return said()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	serving(t, w.dial(t, RoleBroker))
	for _, tt := range []struct {
		code wire.Code
		yes  bool
		err  error
	}{{wire.OK, true, nil}, {wire.NotAllowed, false, nil}, {wire.BadRecord, false, nil}, {wire.OverQuota, false, wire.OverQuota}} {
		say([]byte{byte(tt.code)})
		yes, err := worker.CheckSender(t.Context(), []byte("sealed"), id, n)
		if yes != tt.yes || !errors.Is(err, tt.err) {
			t.Errorf("%v: %v, %v", tt.code, yes, err)
		}
	}
	signed := key
	signed.Sig[0] = 5
	say(append([]byte{byte(wire.OK)}, signed.Marshal()...))
	if got, err := worker.SignKey(t.Context(), key); got != signed || err != nil {
		t.Errorf("signed: %+v, %v", got, err)
	}
	say([]byte{byte(wire.OutOfTime)})
	if _, err := worker.SignKey(t.Context(), key); !errors.Is(err, wire.OutOfTime) {
		t.Errorf("refused: %v", err)
	}
	say([]byte{byte(wire.OK), 1})
	if _, err := worker.SignKey(t.Context(), key); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("garbled: %v", err)
	}
}

// TestRegistrarStops: after Close nobody is served, and a handler under way ended first.
func TestRegistrarStops(t *testing.T) {
	w := newWorld(t, Limits{})
	registrar, broker := w.dial(t, RoleRegistrar), w.dial(t, RoleBroker)
	begun, cancelled := make(chan struct{}), make(chan struct{})
	err := registrar.ServeRegistrar(Registrar{Enrol: echo, Check: echo, Sign: echo,
		Lookup: func(ctx context.Context, _ []byte) []byte {
			close(begun)
			<-ctx.Done() // Close cancels what is under way
			close(cancelled)
			return []byte{byte(wire.Unavailable)}
		}})
	if err != nil {
		t.Fatal(err)
	}
	serving(t, broker)
	answered := make(chan wire.Code, 1)
	go func() {
		c, _, _ := broker.Call(t.Context(), wire.SubjectLookup, nil)
		answered <- c
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := registrar.Close(ctx); err != nil {
		t.Fatal(err)
	}
	<-cancelled
	if c := <-answered; c != wire.Unavailable {
		t.Errorf("answer %v", c)
	}
}
