package fallback

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// states are all states there are.
func states() []State {
	all := []State{Submitting, Doubtful}
	for s := wire.JobQueued; s.Known(); s++ {
		all = append(all, State(s))
	}
	return all
}

// TestTransitions holds the whole table to testdata/transitions.txt: one line for each state and
// event that leads anywhere, for a normal job at its first attempt. [F-7]
func TestTransitions(t *testing.T) {
	var got strings.Builder
	for _, s := range states() {
		for e := None; e <= NoReceipt+1; e++ {
			n, err := Next(s, e, Facts{Attempts: 1, Refusals: 1})
			switch {
			case err == nil:
				fmt.Fprintf(&got, "%s + %s = %s\n", s, eventNames[e], n)
			case !errors.Is(err, ErrNoTransition) || n != s:
				t.Errorf("%v + %d: %v, %v; a refused event must leave the state", s, e, n, err)
			}
		}
	}
	want, err := os.ReadFile("testdata/transitions.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(want), "\n\n")
	if diff := cmp.Diff(table, got.String()); diff != "" {
		t.Errorf("transitions (-testdata +code):\n%s", diff)
	}
}

var eventNames = map[Event]string{
	Begin: "begin", Cancel: "cancel", Refuse: "refuse", OutOfTime: "out of time", Stop: "stop", Cap: "cap",
	Accept: "accept", Simulate: "simulate", NotSent: "not sent", TryLater: "try later", Reject: "reject",
	NoAnswer: "no answer", Resume: "resume", DoubtOver: "doubt over", ReceiptOK: "receipt delivered",
	ReceiptFailed: "receipt undeliverable", ReceiptLate: "receipt expired", ReceiptReject: "receipt rejected",
	NoReceipt: "no receipt",
}

// TestFinalIsFinal: no event leaves a final state, for any class. [F-7]
func TestFinalIsFinal(t *testing.T) {
	for _, s := range states() {
		for e := None; e <= NoReceipt; e++ {
			for _, f := range []Facts{{}, {Class: wire.ClassUrgent, Attempts: 1}, {Expired: true}} {
				if n, err := Next(s, e, f); s.Final() && (err == nil || n != s) {
					t.Errorf("%v + %s = %v", s, eventNames[e], n)
				}
			}
		}
	}
}

// TestNeverTwice: by the table alone, a normal job that may have been written never comes back to a
// state from which it is written, except when the SMSC itself says that it does not have it. [F-5] [F-11]
func TestNeverTwice(t *testing.T) {
	for _, e := range []Event{None, Begin, Cancel, Accept, Simulate, NoAnswer, DoubtOver, OutOfTime, ReceiptOK, NoReceipt} {
		n, _ := Next(Doubtful, e, Facts{Class: wire.ClassNormal, Attempts: 1})
		if n == Queued || n == Submitting {
			t.Errorf("in doubt + %s = %v", eventNames[e], n)
		}
	}
}

// TestDoubtOver: what the class decides. [F-5]
func TestDoubtOver(t *testing.T) {
	tests := []struct {
		f    Facts
		want State
	}{
		{Facts{Class: wire.ClassNormal, Attempts: 1}, State(wire.JobUnknown)},
		{Facts{Class: wire.ClassUrgent, Attempts: 1}, Queued},
		{Facts{Class: wire.ClassUrgent, Attempts: MaxUrgent - 1}, Queued},
		{Facts{Class: wire.ClassUrgent, Attempts: MaxUrgent}, State(wire.JobUnknown)},
		{Facts{Class: wire.ClassUrgent, Attempts: 1, Expired: true}, State(wire.JobUnknown)},
	}
	for _, tt := range tests {
		if got, err := Next(Doubtful, DoubtOver, tt.f); got != tt.want || err != nil {
			t.Errorf("%+v: %v, %v; want %v", tt.f, got, err, tt.want)
		}
	}
}

// TestRefusals: the SMSC's temporary refusals are counted. [F-15]
func TestRefusals(t *testing.T) {
	for n := 1; n <= MaxRefusals+1; n++ {
		want := Queued
		if n >= MaxRefusals {
			want = State(wire.JobFailed)
		}
		for _, s := range []State{Submitting, Doubtful} {
			if got, err := Next(s, TryLater, Facts{Refusals: n}); got != want || err != nil {
				t.Errorf("%v, refusal %d: %v, %v; want %v", s, n, got, err, want)
			}
		}
	}
}

func TestDelay(t *testing.T) {
	want := []time.Duration{1, 1, 2, 4, 8, 16, 32, 60, 60}
	for n, w := range want {
		if got := Delay(n); got != w*time.Second {
			t.Errorf("Delay(%d) = %v, want %v", n, got, w*time.Second)
		}
	}
	if Delay(-5) != time.Second || Delay(1<<30) != time.Minute {
		t.Error("Delay out of range")
	}
}

// TestCombine: a text is delivered when all its parts are. [F-14]
func TestCombine(t *testing.T) {
	const d, s, u, x, r = wire.JobDelivered, wire.JobSubmitted, wire.JobUndeliverable, wire.JobExpired, wire.JobRejected
	tests := []struct {
		parts []wire.JobState
		want  Event
	}{
		{nil, None},
		{[]wire.JobState{d}, ReceiptOK},
		{[]wire.JobState{s}, None},
		{[]wire.JobState{wire.JobQueued}, None},
		{[]wire.JobState{d, d, d}, ReceiptOK},
		{[]wire.JobState{d, s, d}, None},
		{[]wire.JobState{s, u}, ReceiptFailed},
		{[]wire.JobState{d, x}, ReceiptLate},
		{[]wire.JobState{r, s}, ReceiptReject},
	}
	for _, tt := range tests {
		if got := Combine(tt.parts); got != tt.want {
			t.Errorf("Combine(%v) = %s, want %s", tt.parts, eventNames[got], eventNames[tt.want])
		}
	}
}

// TestStates: what a sender may be told of each state. [F-7]
func TestStates(t *testing.T) {
	for _, s := range states() {
		if s.String() == "invalid" || !s.Wire().Known() || s.Final() != s.Wire().Final() {
			t.Errorf("state %d: %q, %v", s, s, s.Wire())
		}
	}
	if Submitting.Wire() != wire.JobQueued || Doubtful.Wire() != wire.JobQueued || State(99).String() != "invalid" {
		t.Error("states before the answer are queued to the sender")
	}
}

// TestEntry holds the journal's JSON to testdata/entry.json: brokers and workers of different
// versions share it. [F-9]
func TestEntry(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	entries := []Entry{
		{At: at, ExpiresAt: at.Add(time.Hour), Owner: "w/1", Attempt: 1, NumberHash: [16]byte{1, 2}, Sender: wire.Pseudonym{3}, Parts: 1, Checked: true},
		{At: at, State: wire.JobSubmitted, Attempt: 3, Refusals: 1, Unsent: 1, Parts: 2, SMSCIDs: []string{"a", ""}, Urgent: true},
		{At: at, State: wire.JobDelivered, Job: wire.MessageID{9}, Ambiguous: true},
		{At: at, State: wire.JobCancelled},
		{At: at, State: wire.JobSubmitted, Attempt: 1, Parts: 3, SMSCIDs: []string{"a"}, Whole: true, Since: at, Route: "uk", Party: []byte{1, 2}},
	}
	want, err := os.ReadFile("testdata/entry.json")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, e := range entries {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(append(b, '\n'))
		var back Entry
		if err := json.Unmarshal(b, &back); err != nil || !cmp.Equal(e, back) {
			t.Errorf("there and back: %v %s", err, cmp.Diff(e, back))
		}
	}
	if got.String() != string(want) {
		t.Errorf("entries are now\n%s", got.String())
	}
}

// TestSuppression holds the suppression list's JSON: workers and the operator's command share it. [F-17]
func TestSuppression(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		s    Suppression
		want string
	}{
		{Suppression{At: at, Cause: CauseStop, Sealed: []byte{1, 2}}, `{"at":"2026-01-02T03:04:05Z","cause":"stop","sealed":"AQI="}`},
		{Suppression{At: at, Cause: CauseOperator}, `{"at":"2026-01-02T03:04:05Z","cause":"operator"}`},
		{Suppression{At: at, Cause: CauseComplaint}, `{"at":"2026-01-02T03:04:05Z","cause":"complaint"}`},
	}
	for _, tt := range tests {
		b, err := json.Marshal(tt.s)
		var back Suppression
		if err != nil || string(b) != tt.want || json.Unmarshal(b, &back) != nil || !cmp.Equal(tt.s, back) {
			t.Errorf("%s, %v; want %s", b, err, tt.want)
		}
	}
}

// TestStage: what an entry says about what may have been written. [F-11]
func TestStage(t *testing.T) {
	tests := []struct {
		e    Entry
		want State
	}{
		{Entry{}, Queued},
		{Entry{Attempt: 3}, Queued},
		{Entry{Owner: "w"}, Submitting},
		{Entry{State: wire.JobSubmitted, Owner: "w"}, State(wire.JobSubmitted)},
		{Entry{State: wire.JobCancelled}, State(wire.JobCancelled)},
	}
	for _, tt := range tests {
		if got := tt.e.Stage(); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.e, got, tt.want)
		}
	}
}
