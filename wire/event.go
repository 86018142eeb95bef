package wire

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Events for integrators: CloudEvents 1.0.2 in structured JSON. One event is about one user, by a
// pseudonym that each integrator has another of: sender and recipient together would be an edge. No
// event has a number, an ID, a text or a tag. [E-1] [E-2]
const (
	// EventContentType is the media type of an event.
	EventContentType = "application/cloudevents+json"
	// MaxEvent bounds an event, in bytes.
	MaxEvent = 4 << 10

	eventVersion = "1.0"
	eventData    = "application/json"

	typeSMS       = "bluejay.sms." // and a state
	typeWithdrawn = "bluejay.consent.withdrawn"

	subjectEvents = "bluejay.events."
	schemaBase    = "urn:bluejay:schema:"
)

// EventPseudonym stands for a user towards one integrator, as long as the integrator has its key.
// Shape: 16 bytes, 22 characters of base64url. [E-2]
type EventPseudonym [16]byte

// IntegratorPseudonym makes the pseudonym of an ID: HMAC-SHA256(K_integrator, lp("bj1 integrator",
// ID))[:16]. Two integrators cannot join theirs, nor can whoever leaks one. [E-2]
func IntegratorPseudonym(key []byte, id ID) EventPseudonym {
	m := hmac.New(sha256.New, key)
	m.Write(LP("bj1 integrator", id[:]))
	return EventPseudonym(m.Sum(nil))
}

// String is the pseudonym as a subject token.
func (p EventPseudonym) String() string { return b64.EncodeToString(p[:]) }

// CloudEvent is the envelope. Zero value: not valid.
type CloudEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`      // the same event again has the same
	Source          string          `json:"source"`  // /bluejay/<the broker's name>
	Type            string          `json:"type"`    // bluejay.sms.<state> or bluejay.consent.withdrawn
	Subject         string          `json:"subject"` // whom it is about: a pseudonym
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	DataSchema      string          `json:"dataschema"`
	Data            json.RawMessage `json:"data"`
}

// SMSEvent is the data of bluejay.sms.*: a step of a text that the user sent as SMS through the gateway.
type SMSEvent struct {
	Message string `json:"message"` // names the text; of no use to anybody else
	State   string `json:"state"`
	Final   bool   `json:"final"` // nothing follows
	Attempt int    `json:"attempt"`
	Parts   int    `json:"parts"`
	Route   string `json:"route,omitempty"` // the operator's name of the way out
}

// WithdrawnEvent is the data of bluejay.consent.withdrawn: the user no longer agrees. What was stored
// here about the user is gone, and the integrator is to erase what it has (GDPR Art. 17, 19).
type WithdrawnEvent struct {
	Erase bool `json:"erase"` // always true
}

// SMSStates are the states of an [SMSEvent]: those of a [JobState] and "submitting".
func SMSStates() []string { return append([]string{"submitting"}, jobStates[:]...) }

// NewSMSEvent makes the event of a step. [E-1]
func NewSMSEvent(source string, who EventPseudonym, at time.Time, d SMSEvent) (CloudEvent, error) {
	i := slices.Index(jobStates[:], d.State)
	if i < 0 && d.State != "submitting" {
		return CloudEvent{}, fmt.Errorf("%w: no state %.20q", ErrMalformed, d.State)
	}
	d.Final = i >= 0 && JobState(i).Final()
	id := d.Message + "." + d.State
	if d.Attempt > 1 && !d.Final {
		id = fmt.Sprintf("%s.%d", id, d.Attempt)
	}
	return newEvent(source, who, at, typeSMS+d.State, id, "sms", d)
}

// NewWithdrawnEvent makes the last event about a user.
func NewWithdrawnEvent(source string, who EventPseudonym, at time.Time) (CloudEvent, error) {
	id := fmt.Sprintf("%s.withdrawn.%d", who, at.UnixMilli())
	return newEvent(source, who, at, typeWithdrawn, id, "withdrawn", WithdrawnEvent{Erase: true})
}

func newEvent(source string, who EventPseudonym, at time.Time, kind, id, schema string, data any) (CloudEvent, error) {
	b, err := json.Marshal(data)
	return CloudEvent{
		SpecVersion: eventVersion, ID: id, Source: "/bluejay/" + source, Type: kind, Subject: who.String(), Time: at.UTC(),
		DataContentType: eventData, DataSchema: schemaBase + schema + ":1", Data: b,
	}, err
}

// Marshal returns the event as JSON, at most [MaxEvent] bytes.
func (e CloudEvent) Marshal() ([]byte, error) {
	b, err := json.Marshal(e)
	if err == nil && len(b) > MaxEvent {
		err = fmt.Errorf("%w: event too large", ErrMalformed)
	}
	return b, err
}

// ParseEvent reads an event as strictly as it is written: no unknown field, no other version, data as
// its type says.
func ParseEvent(b []byte) (e CloudEvent, err error) {
	if len(b) > MaxEvent {
		return e, fmt.Errorf("%w: event too large", ErrMalformed)
	}
	if err := strict(b, &e); err != nil {
		return e, err
	}
	p, err := b64.DecodeString(e.Subject)
	switch {
	case err != nil || len(p) != len(EventPseudonym{}):
		return e, badEvent("subject")
	case e.SpecVersion != eventVersion || e.ID == "" || e.Time.IsZero() || e.DataContentType != eventData:
		return e, badEvent("envelope")
	case !strings.HasPrefix(e.Source, "/bluejay/"):
		return e, badEvent("source")
	}
	return e, e.check()
}

// check holds the data to the type.
func (e CloudEvent) check() error {
	if e.Type == typeWithdrawn {
		var d WithdrawnEvent
		if err := strict(e.Data, &d); err != nil || !d.Erase || e.DataSchema != schemaBase+"withdrawn:1" {
			return badEvent("data")
		}
		return nil
	}
	state, ok := strings.CutPrefix(e.Type, typeSMS)
	var d SMSEvent
	if !ok || strict(e.Data, &d) != nil || d.State != state || !slices.Contains(SMSStates(), state) || e.DataSchema != schemaBase+"sms:1" {
		return badEvent("data")
	}
	if _, err := ParseMessageID(d.Message); err != nil || d.Attempt < 0 || d.Parts < 0 || d.Parts > MaxSMSParts+1 {
		return badEvent("data")
	}
	return nil
}

func badEvent(what string) error { return fmt.Errorf("%w: an event's %s", ErrMalformed, what) }

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil || d.More() {
		return badEvent("JSON")
	}
	return nil
}

// IntegratorSubject is where an event is, in each integrator's account: bluejay.events.sms.<state>.<who>
// or bluejay.events.consent.withdrawn.<who>. [E-3]
func IntegratorSubject(e CloudEvent) string {
	return subjectEvents + strings.TrimPrefix(e.Type, "bluejay.") + "." + e.Subject
}

// IntegratorSubjects matches every event.
func IntegratorSubjects() string { return subjectEvents + ">" }

// WithdrawnSubjects begins the subject of every event that says that a user agrees no longer. [E-5]
func WithdrawnSubjects() string { return subjectEvents + "consent.withdrawn." }

// SubjectsAbout matches every event about one user, so that all of it can be purged. [E-3]
func SubjectsAbout(who EventPseudonym) string { return subjectEvents + "*.*." + who.String() }
