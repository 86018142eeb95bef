package sms

import (
	"context"
	"fmt"
	"io"
	"sync"

	"bluejay/wire"
)

// Console is the transport that sends nothing: it prints each text and marks it simulated, for
// trying the rest out. It prints numbers and texts, so nobody's real messages belong on it.
type Console struct {
	mu  sync.Mutex
	out io.Writer
}

// NewConsole returns a transport that prints to out.
func NewConsole(out io.Writer) *Console { return &Console{out: out} }

// Route is "console".
func (c *Console) Route() string { return "console" }

// Check has nothing to check.
func (c *Console) Check(context.Context) error { return nil }

// Linked is always true.
func (c *Console) Linked() bool { return true }

// Run waits for ctx to end: the console has no link and gets neither receipts nor texts.
func (c *Console) Run(ctx context.Context, _ Handlers) error {
	<-ctx.Done()
	return nil
}

// Turn has nothing to wait for.
func (c *Console) Turn(context.Context) (*Turn, error) { return nil, nil }

// Submit prints the text. It is NotSent only when the printing failed.
func (c *Console) Submit(_ context.Context, m Message) Result {
	parts, _ := wire.SMSParts(m.Text)
	if parts > wire.MaxSMSParts {
		return Result{Outcome: NotSent, Class: Permanent, Err: ErrTooLong}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := fmt.Fprintf(c.out, "SMS (simulated, %d part(s)) from %s to %s: %s\n", parts, m.From.addr, m.To.E164(), m.Text)
	if err != nil {
		return Result{Outcome: NotSent, Class: Retry, Err: ErrNoLink}
	}
	return Result{Simulated: true, IDs: make([]string, max(parts-m.Done, 0))}
}
