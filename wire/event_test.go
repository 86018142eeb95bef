package wire

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

var eventTime = time.Unix(1_800_000_000, 0)

func smsEvent(t testing.TB, d SMSEvent) CloudEvent {
	t.Helper()
	e, err := NewSMSEvent("test", IntegratorPseudonym([]byte("a key"), ID{1, 2, 3}), eventTime, d)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEventVectors are frozen: integrators store what they read. [E-1] [E-2] [E-3]
func TestEventVectors(t *testing.T) {
	message := MessageID{9, 9}.String()
	withdrawn, err := NewWithdrawnEvent("test", IntegratorPseudonym([]byte("a key"), ID{1, 2, 3}), eventTime)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		e             CloudEvent
		json, subject string
	}{
		{smsEvent(t, SMSEvent{Message: message, State: "submitting", Attempt: 2, Parts: 3, Route: "uk"}),
			`{"specversion":"1.0","id":"CQkAAAAAAAAAAAAAAAAAAA.submitting.2","source":"/bluejay/test","type":"bluejay.sms.submitting","subject":"PSEUDONYM","time":"2027-01-15T08:00:00Z","datacontenttype":"application/json","dataschema":"urn:bluejay:schema:sms:1","data":{"message":"CQkAAAAAAAAAAAAAAAAAAA","state":"submitting","final":false,"attempt":2,"parts":3,"route":"uk"}}`,
			"bluejay.events.sms.submitting.PSEUDONYM"},
		{smsEvent(t, SMSEvent{Message: message, State: "delivered", Attempt: 2, Parts: 3}),
			`{"specversion":"1.0","id":"CQkAAAAAAAAAAAAAAAAAAA.delivered","source":"/bluejay/test","type":"bluejay.sms.delivered","subject":"PSEUDONYM","time":"2027-01-15T08:00:00Z","datacontenttype":"application/json","dataschema":"urn:bluejay:schema:sms:1","data":{"message":"CQkAAAAAAAAAAAAAAAAAAA","state":"delivered","final":true,"attempt":2,"parts":3}}`,
			"bluejay.events.sms.delivered.PSEUDONYM"},
		{withdrawn,
			`{"specversion":"1.0","id":"PSEUDONYM.withdrawn.1800000000000","source":"/bluejay/test","type":"bluejay.consent.withdrawn","subject":"PSEUDONYM","time":"2027-01-15T08:00:00Z","datacontenttype":"application/json","dataschema":"urn:bluejay:schema:withdrawn:1","data":{"erase":true}}`,
			"bluejay.events.consent.withdrawn.PSEUDONYM"},
	} {
		const pseudonym = "KxUNi6vs6-4WacXpc8DVYA"
		b, err := tt.e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(tt.json, "PSEUDONYM", tt.e.Subject); string(b) != want {
			t.Errorf("%s, want\n%s", b, want)
		}
		if got := IntegratorSubject(tt.e); got != strings.ReplaceAll(tt.subject, "PSEUDONYM", tt.e.Subject) {
			t.Errorf("%s", got)
		}
		if tt.e.Subject != pseudonym {
			t.Errorf("the pseudonym is %s", tt.e.Subject)
		}
		again, err := ParseEvent(b)
		if err != nil || again.ID != tt.e.ID || string(again.Data) != string(tt.e.Data) {
			t.Errorf("%v", err)
		}
	}
	if a, b := IntegratorPseudonym([]byte("a key"), ID{1}), IntegratorPseudonym([]byte("b key"), ID{1}); a == b {
		t.Error("two integrators have the same pseudonym")
	}
	if IntegratorSubjects() != "bluejay.events.>" || SubjectsAbout(EventPseudonym{}) != "bluejay.events.*.*.AAAAAAAAAAAAAAAAAAAAAA" {
		t.Errorf("%s, %s", IntegratorSubjects(), SubjectsAbout(EventPseudonym{}))
	}
}

// TestEventStates: every state has an event, final or not as the job's state is; no other word has. [E-1]
func TestEventStates(t *testing.T) {
	final := 0
	for _, s := range SMSStates() {
		e := smsEvent(t, SMSEvent{Message: MessageID{}.String(), State: s})
		var d SMSEvent
		if err := json.Unmarshal(e.Data, &d); err != nil {
			t.Fatal(err)
		}
		if d.Final {
			final++
		}
		b, _ := e.Marshal()
		if _, err := ParseEvent(b); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if len(SMSStates()) != 14 || final != 11 {
		t.Errorf("%d states, %d final", len(SMSStates()), final)
	}
	if _, err := NewSMSEvent("x", EventPseudonym{}, eventTime, SMSEvent{State: "lost"}); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
}

// TestParseEventRefuses: what is not exactly an event is none; a number, a text or a second person has
// no place in one. [E-1]
func TestParseEventRefuses(t *testing.T) {
	good, err := smsEvent(t, SMSEvent{Message: MessageID{1}.String(), State: "submitted", Attempt: 1, Parts: 1}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) string { return strings.Replace(string(good), old, new, 1) }
	for name, bad := range map[string]string{
		"nothing":          "",
		"half":             string(good[:len(good)/2]),
		"two":              string(good) + string(good),
		"another version":  swap(`"1.0"`, `"0.3"`),
		"no id":            swap(`"id":"AQ`, `"id":"","x":"AQ`),
		"a number":         swap(`"parts":1`, `"parts":1,"to":"+447700900123"`),
		"a second person":  swap(`"data":{`, `"recipient":"x","data":{`),
		"a name":           swap(`"subject":"`, `"subject":"alice`),
		"another source":   swap(`"/bluejay/test"`, `"https://example.net"`),
		"another type":     swap(`bluejay.sms.submitted`, `bluejay.sms.delivered`),
		"an unknown type":  swap(`bluejay.sms.submitted`, `bluejay.text.read`),
		"another state":    strings.ReplaceAll(string(good), "submitted", "lost"),
		"another schema":   swap(`schema:sms:1`, `schema:sms:2`),
		"no message":       swap(`"message":"AQ`, `"message":"`),
		"a negative count": swap(`"attempt":1`, `"attempt":-1`),
		"too many parts":   swap(`"parts":1`, `"parts":99`),
		"no time":          swap(`2027-01-15T08:00:00Z`, `0001-01-01T00:00:00Z`),
		"another media":    swap(`"application/json"`, `"text/plain"`),
		"too large":        string(good) + strings.Repeat(" ", MaxEvent),
		"not erased":       swap(`bluejay.sms.submitted`, `bluejay.consent.withdrawn`),
	} {
		if _, err := ParseEvent([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	large := smsEvent(t, SMSEvent{Message: MessageID{1}.String(), State: "submitted"})
	large.Source += strings.Repeat("x", MaxEvent)
	if _, err := large.Marshal(); !errors.Is(err, ErrMalformed) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, s := range []string{"submitted", "delivered"} {
		b, err := smsEvent(f, SMSEvent{Message: MessageID{1}.String(), State: s, Attempt: 1, Parts: 1}).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"specversion":"1.0","data":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEvent(b)
		if err != nil {
			return
		}
		if s := IntegratorSubject(e); strings.Count(s, ".") != 4 || strings.ContainsAny(s, "*> \t\r\n") {
			t.Errorf("subject %q", s)
		}
	})
}
