package envelope

import (
	"fmt"
	"log/slog"
)

const redacted = "[sealed]"

// hidden keeps what embeds it out of logs: under every fmt verb and in slog it is "[sealed]".
// A value in an unexported field of another struct is out of its reach, as fmt then calls no method.
type hidden struct{}

// String redacts.
func (hidden) String() string { return redacted }

// Format redacts under every verb.
func (hidden) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue redacts.
func (hidden) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format redacts under every verb.
func (Identity) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (Identity) LogValue() slog.Value { return hidden{}.LogValue() }

// Format prints the kind only.
func (f Frame) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("frame:" + f.Kind.String())) }

// LogValue is the kind only.
func (f Frame) LogValue() slog.Value { return slog.StringValue("frame:" + f.Kind.String()) }

// Format redacts under every verb.
func (Job) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (Job) LogValue() slog.Value { return hidden{}.LogValue() }

// Format redacts under every verb.
func (EnrolRequest) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (EnrolRequest) LogValue() slog.Value { return hidden{}.LogValue() }

// Format redacts under every verb.
func (Confirm) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (Confirm) LogValue() slog.Value { return hidden{}.LogValue() }

// Format redacts under every verb.
func (Question) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (Question) LogValue() slog.Value { return hidden{}.LogValue() }

// Format redacts under every verb.
func (OffRequest) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (OffRequest) LogValue() slog.Value { return hidden{}.LogValue() }

// Format redacts under every verb.
func (OffConfirm) Format(s fmt.State, v rune) { hidden{}.Format(s, v) }

// LogValue redacts.
func (OffConfirm) LogValue() slog.Value { return hidden{}.LogValue() }
