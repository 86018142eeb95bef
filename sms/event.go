package sms

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"bluejay/wire"
)

// RemoteEvent is what the network says by itself, as JSON: of an HTTP gateway that signs, or of a
// remote worker. It has the fields of a receipt or of a text from a phone, never of both.
type RemoteEvent struct {
	Event string `json:"event"`           // "receipt" or "incoming"
	ID    string `json:"id,omitempty"`    // a receipt: as answered; a text: the network's, if it has one
	To    string `json:"to"`              // a receipt: the recipient, +44…; a text: our own number
	State string `json:"state,omitempty"` // a receipt: delivered, undeliverable, expired, rejected or submitted
	From  string `json:"from,omitempty"`  // a text: its sender, +44…
	Text  string `json:"text,omitempty"`
}

// receiptStates are the states that a network may report.
var receiptStates = map[string]wire.JobState{
	"submitted": wire.JobSubmitted, "delivered": wire.JobDelivered, "undeliverable": wire.JobUndeliverable,
	"expired": wire.JobExpired, "rejected": wire.JobRejected,
}

// readEvent reads an event of a route. An unknown field, as any other fault, is errCallback.
func readEvent(route string, body []byte) (func(context.Context, Handlers) error, error) {
	var e RemoteEvent
	if err := strictJSON(body, &e); err != nil {
		return nil, err
	}
	switch e.Event {
	case "receipt":
		to, err := wire.ParseNumber(e.To)
		state, ok := receiptStates[e.State]
		if err != nil || !ok || len(e.ID) > maxID || e.From != "" || e.Text != "" {
			return nil, errCallback
		}
		return storeReceipt(Receipt{Route: route, ID: e.ID, To: to, State: state}), nil
	case "incoming":
		m, err := incomingOf(e.From, e.To, e.Text)
		if err != nil || e.State != "" || len(e.ID) > maxID {
			return nil, errCallback
		}
		m.Route, m.ID = route, e.ID
		return storeIncoming(m), nil
	}
	return nil, errCallback
}

// incomingOf checks what a gateway says of a text from a phone.
func incomingOf(from, to, text string) (Incoming, error) {
	n, err := wire.ParseNumber(from)
	if err != nil || len(to) > 32 || len(text) > maxIncoming || !utf8.ValidString(text) {
		return Incoming{}, errCallback
	}
	return Incoming{From: n, To: to, Text: text}, nil
}

// strictJSON reads one JSON value with no unknown field and nothing after it.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil || d.More() {
		return fmt.Errorf("%w: not the JSON that is documented", errCallback)
	}
	return nil
}
