package bridge

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bluejay/consent"
	"bluejay/wire"
)

// ErrConflict reports a compare and set that lost: what is stored is not the revision that was
// read. Load again and decide again. It is [consent.ErrConflict], for every bucket.
var ErrConflict = consent.ErrConflict

// Error is what a failed call returns: which call, and the code to answer with. errors.Is finds the
// code and the cause; the text names neither subject nor key. [P-20]
type Error struct {
	Op   string
	Code wire.Code // QueueFull, TooLarge, NotAllowed, AlreadyHandled or Unavailable
	// cause is for errors.Is only: a library's own text can name a subject.
	cause error
}

// Error says what was tried and how it ended.
func (e *Error) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("bridge: %s: %s", e.Op, e.Code)
	}
	return fmt.Sprintf("bridge: %s: %s (%s)", e.Op, e.Code, reason(e.cause))
}

// Unwrap gives errors.Is and errors.As the code and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Code}
	}
	return []error{e.Code, e.cause}
}

// failure wraps a library's error; nil stays nil.
func failure(op string, err error) error {
	if err == nil {
		return nil
	}
	code := wire.Unavailable
	if storeFull(err) {
		code = wire.QueueFull
	}
	return &Error{Op: op, Code: code, cause: err}
}

// guard calls f. A panic ends f and not the process: one bad input must not end the service for all.
// Only the panic's type is logged: its value can hold what a request held. [P-20]
func (b *Bridge) guard(what string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			b.log.Error("panic in "+what, "type", fmt.Sprintf("%T", v))
		}
	}()
	f()
}

func refuse(op string, code wire.Code) error { return &Error{Op: op, Code: code} }

// JetStream API error codes that the client library does not name.
const (
	apiStoreFailed = 10077 // DiscardNew: the stream, or one subject of it, is full
)

// storeFull tells a stream at its bound, which will take more later, from one that is broken. The
// server uses one code for both and tells them apart by its text.
func storeFull(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != apiStoreFailed {
		return false
	}
	switch api.Description {
	case "maximum messages exceeded", "maximum bytes exceeded", "maximum messages per subject exceeded":
		return true
	}
	return false
}

// reasons are all texts about a cause that an error or a log entry may show.
var reasons = []struct {
	err  error
	text string
}{
	{context.Canceled, "cancelled"},
	{context.DeadlineExceeded, "timeout"},
	{nats.ErrTimeout, "timeout"},
	{nats.ErrNoResponders, "nobody answers"},
	{jetstream.ErrNoStreamResponse, "nobody answers"},
	{nats.ErrNoServers, "no server"},
	{nats.ErrReconnectBufExceeded, "disconnected"},
	{nats.ErrDisconnected, "disconnected"},
	{nats.ErrConnectionReconnecting, "disconnected"},
	{nats.ErrConnectionClosed, "connection closed"},
	{nats.ErrConnectionDraining, "connection closed"},
	{nats.ErrAuthorization, "wrong user or password"},
	{nats.ErrPermissionViolation, "permission denied"},
	{nats.ErrSlowConsumer, "too slow: messages dropped"},
	{nats.ErrMaxPayload, "too large"},
	{jetstream.ErrStreamNotFound, "no such stream"},
	{jetstream.ErrConsumerNotFound, "no such consumer"},
	{jetstream.ErrBucketNotFound, "no such bucket"},
	{jetstream.ErrNoHeartbeat, "no heartbeat"},
	{ErrConflict, "changed meanwhile"},
	{wire.ErrMalformed, "malformed"},
}

func reason(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) {
		return fmt.Sprintf("JetStream error %d", api.ErrorCode)
	}
	return "other"
}
