package sms

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

const (
	testNumber = "+447700900123"
	testText   = "see you at eight"
)

func mustNumber(t testing.TB, s string) wire.Number {
	t.Helper()
	n, err := wire.ParseNumber(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestParseSender(t *testing.T) {
	tests := []struct {
		in   string
		want Sender
		err  error
	}{
		{in: testNumber, want: Sender{1, 1, "447700900123"}},
		{in: "84433", want: Sender{3, 0, "84433"}},
		{in: "Bluejay", want: Sender{5, 0, "Bluejay"}},
		{in: "A1 B-c.d", want: Sender{5, 0, "A1 B-c.d"}},
		{in: "", err: ErrSender},
		{in: "12", err: ErrSender},
		{in: "123456789", err: ErrSender},
		{in: "TwelveLetter", err: ErrSender},
		{in: "Grüße", err: ErrSender},
		{in: "+12", err: ErrSender},
		{in: ". -", err: ErrSender},
		{in: "a\x00b", err: ErrSender},
	}
	for _, tt := range tests {
		got, err := ParseSender(tt.in)
		if !errors.Is(err, tt.err) || got != tt.want {
			t.Errorf("ParseSender(%q) = %v, %v; want %v, %v", tt.in, got, err, tt.want, tt.err)
		}
		if got.IsZero() != (tt.err != nil) {
			t.Errorf("ParseSender(%q).IsZero() = %t", tt.in, got.IsZero())
		}
	}
}

func TestNothingPrints(t *testing.T) {
	m := Message{To: mustNumber(t, testNumber), Text: testText}
	r := Receipt{To: m.To, ID: "id"}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "m", m, "r", r, "p", &m)
	for _, v := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&b, v+v+v, m, r, &m)
	}
	for _, secret := range []string{testText, "447700900123", "900123"} {
		if strings.Contains(b.String(), secret) {
			t.Errorf("printed %q: %s", secret, b.String())
		}
	}
}

// The console marks what it prints as simulated, and counts parts as the others do.
func TestConsole(t *testing.T) {
	var b bytes.Buffer
	c := NewConsole(&b)
	from, _ := ParseSender("Bluejay")
	r := c.Submit(t.Context(), Message{To: mustNumber(t, testNumber), From: from, Text: testText})
	if want := (Result{Simulated: true, IDs: []string{""}}); !cmp.Equal(r, want) {
		t.Errorf("result %v", cmp.Diff(want, r))
	}
	if want := "SMS (simulated, 1 part(s)) from Bluejay to " + testNumber + ": " + testText + "\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
	r = c.Submit(t.Context(), Message{To: mustNumber(t, testNumber), From: from, Text: strings.Repeat("a", 1000)})
	if r.Outcome != NotSent || !errors.Is(r.Err, ErrTooLong) || c.Route() != "console" {
		t.Errorf("1,000 characters: %v, %v", r.Outcome, r.Err)
	}
	r = NewConsole(brokenWriter{}).Submit(t.Context(), Message{To: mustNumber(t, testNumber), Text: "x"})
	if r.Outcome != NotSent {
		t.Errorf("a console that cannot print says %v", r.Outcome)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }
