package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"bluejay/clients/handset"
)

// pump prints what happens until ctx ends.
func (s *phoneScript) pump(ctx context.Context, events <-chan handset.Event, sim terminalSIM) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-events:
			if !open {
				return
			}
			s.event(e)
		case sms := <-sim:
			s.print("sms", phoneLine{"simulated": true, "to": sms.to, "parts": sms.parts, "words": sms.String()})
		}
	}
}

// phoneEvents are the names of events.
var phoneEvents = map[handset.EventKind]string{
	handset.PresenceChanged: "presence", handset.TextChanged: "text", handset.TextReceived: "received",
	handset.CertChanged: "device-changed", handset.ContactAdded: "contact-added", handset.Connected: "connected",
	handset.Disconnected: "disconnected", handset.Refused: "refused", handset.ConsentEnded: "consent-ended",
	handset.Silenced:   "silenced",
	handset.RolledBack: "rolled-back", handset.StorageFailed: "storage-failed", handset.Missed: "missed",
}

func (s *phoneScript) event(e handset.Event) {
	l := phoneLine{"at": e.At.UTC().Format(time.RFC3339Nano)}
	for _, c := range s.dev.Contacts() {
		if e.Contact != 0 && c.ID == e.Contact {
			l["contact"], l["name"] = c.ID, c.Name
			s.addText(l, e, c)
		}
	}
	switch e.Kind {
	case handset.PresenceChanged:
		l["colour"] = e.Colour.String()
	case handset.TextChanged: // as it was then: by now it may have moved on
		l["id"], l["state"] = e.Text, e.State.String()
	case handset.Refused:
		l["why"] = e.Code.String()
	case handset.Silenced:
		l["reason"] = e.Reason.String()
	}
	s.print(phoneEvents[e.Kind], l)
}

// addText tells what the text is, as it is now.
func (s *phoneScript) addText(l phoneLine, e handset.Event, c handset.Contact) {
	if e.Text == 0 {
		return
	}
	for _, t := range s.dev.Texts(c.ID) {
		if t.ID == e.Text {
			at := l["at"]
			maps.Copy(l, textLine(t, c))
			l["at"] = at
		}
	}
}

// print writes one line. Texts come from strangers and lines end up in terminals, so that no
// character of a line is one that could control one.
func (s *phoneScript) print(event string, l phoneLine) {
	out := maps.Clone(l)
	out["event"] = event
	b, err := json.Marshal(out)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if err == nil {
		_, err = s.out.Write([]byte(escapeJSON(string(b)) + "\n"))
	}
	s.err = err
}

// escapeJSON writes what cleanText would replace as \u00XX, which JSON reads as the same character.
func escapeJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		if clean, keep := cleanRune(r); r < 0x10000 && (!keep || clean != r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
