package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/wire"
)

func TestConnectRefuses(t *testing.T) {
	w := newWorld(t, Limits{})
	url := w.srv.ClientURL()
	for name, tt := range map[string]struct {
		cfg  Config
		want error
	}{
		"no role":             {Config{URL: url}, ErrConfig},
		"unknown role":        {Config{URL: url, Role: "admin"}, ErrConfig},
		"no URL":              {Config{Role: RoleBroker}, ErrConfig},
		"not a URL":           {Config{Role: RoleBroker, URL: "::"}, ErrConfig},
		"far without TLS":     {Config{Role: RoleBroker, URL: "nats://nats.example:4222"}, ErrConfig},
		"far by address":      {Config{Role: RoleBroker, URL: "nats://192.0.2.1:4222"}, ErrConfig},
		"wrong password":      {Config{Role: RoleBroker, URL: url, Password: "x"}, wire.Unavailable},
		"no server":           {Config{Role: RoleBroker, URL: "nats://127.0.0.1:1"}, wire.Unavailable},
		"no credentials file": {Config{Role: RoleBroker, URL: url, Creds: "/nowhere"}, wire.Unavailable},
	} {
		if _, err := Connect(t.Context(), tt.cfg); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// TestInProcess: without a socket, everything is the same.
func TestInProcess(t *testing.T) {
	w := newWorld(t, Limits{})
	b, err := Connect(t.Context(), Config{Role: RoleBroker, InProcess: w.srv, Password: password, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	enqueue(t, b, alice, "job")
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	err = b.Jobs().Enqueue(t.Context(), wire.ClassNormal, alice, wire.MessageID{}, nil, nil, nil)
	if !errors.Is(err, wire.Unavailable) {
		t.Errorf("enqueue after close: %v", err)
	}
}

// TestUnavailable: without a server every call fails, at once and with the same code.
func TestUnavailable(t *testing.T) {
	w := newWorld(t, Limits{})
	broker, worker := w.dial(t, RoleBroker), w.dial(t, RoleWorker)
	router := broker.OpenRouter(nil)
	w.stop()
	eventually(t, "the connections' end", func() bool { return !broker.Connected() && !worker.Connected() })
	id, ctx := wire.MessageIDOf(nil), t.Context()
	start := time.Now()
	for name, call := range map[string]func() error{
		"load":     func() error { _, err := broker.Store().Load(ctx, wire.ID{}); return err },
		"enqueue":  func() error { return broker.Jobs().Enqueue(ctx, wire.ClassNormal, alice, id, nil, nil, nil) },
		"cancel":   func() error { _, err := broker.Jobs().Cancel(ctx, id); return err },
		"all":      func() error { return broker.Jobs().CancelAll(ctx, []wire.Pseudonym{alice}) },
		"pending":  func() error { _, err := broker.Outcomes().Pending(ctx, alice); return err },
		"done":     func() error { return broker.Outcomes().Done(ctx, alice, wire.Outcome{}) },
		"forward":  func() error { _, err := router.Forward(ctx, tag1, nil); return err },
		"call":     func() error { _, _, err := broker.Call(ctx, wire.SubjectEnrol, nil); return err },
		"streams":  func() error { return broker.EnsureStreams(ctx, Limits{}) },
		"outcome":  func() error { return worker.Outcome(ctx, alice, wire.Outcome{}) },
		"journal":  func() error { _, _, err := worker.Journal().Get(ctx, id); return err },
		"key":      func() error { return worker.PublishWorkerKey(ctx, wire.WorkerKey{}) },
		"sign":     func() error { _, err := worker.SignKey(ctx, wire.WorkerKey{}); return err },
		"queue":    func() error { _, err := worker.OpenQueue(ctx); return err },
		"watch":    func() error { return broker.WatchWorkerKey(nil) },
		"outcomes": func() error { return broker.Outcomes().Watch(nil) },
	} {
		if err := call(); !errors.Is(err, wire.Unavailable) {
			t.Errorf("%s: %v, want Unavailable", name, err)
		}
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("all calls took %v", took)
	}
}

// TestCloseIsBounded: what does not end by itself is cut off.
func TestCloseIsBounded(t *testing.T) {
	w := newWorld(t, Limits{})
	b := w.dial(t, RoleBroker)
	hold := make(chan struct{})
	b.wg.Go(func() { <-hold })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	close(hold)
}

// logged is a log that tests can read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logged) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// TestLogsNoSubject: [F-8] the library's texts name subjects, and a subject can be a tag.
func TestLogsNoSubject(t *testing.T) {
	w := newWorld(t, Limits{})
	var log logged
	worker := w.dialWith(t, Config{Role: RoleWorker, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err := worker.nc.Publish(wire.RouteSubject(tag1), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refusal is logged", func() bool { return strings.Contains(log.String(), "permission denied") })
	if strings.Contains(log.String(), tag1.String()) || strings.Contains(log.String(), "bj.route") {
		t.Errorf("the log names a subject:\n%s", &log)
	}
}

// TestErrorsNameNothing: an error's text comes from a closed list.
func TestErrorsNameNothing(t *testing.T) {
	secret := "bj.route." + tag1.String()
	for _, tt := range []struct {
		cause error
		code  wire.Code
		text  string
	}{
		{fmt.Errorf("%w: %s", nats.ErrPermissionViolation, secret), wire.Unavailable, "permission denied"},
		{errors.New(secret), wire.Unavailable, "other"},
		{&jetstream.APIError{ErrorCode: apiStoreFailed, Description: "maximum bytes exceeded"}, wire.QueueFull, "10077"},
		{&jetstream.APIError{ErrorCode: apiStoreFailed, Description: secret}, wire.Unavailable, "10077"},
		{&jetstream.APIError{ErrorCode: 10023, Description: secret}, wire.Unavailable, "10023"},
		{ErrConflict, wire.Unavailable, "changed meanwhile"},
	} {
		err := failure("test", tt.cause)
		if !errors.Is(err, tt.code) || !errors.Is(err, tt.cause) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), secret) {
			t.Errorf("%v: %q", tt.cause, err)
		}
	}
	if failure("test", nil) != nil {
		t.Error("no cause, no error")
	}
	if err := refuse("test", wire.TooLarge); err.Error() != "bridge: test: too large" || !errors.Is(err, wire.TooLarge) {
		t.Errorf("refusal: %v", err)
	}
}
