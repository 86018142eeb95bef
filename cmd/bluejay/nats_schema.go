package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
	"github.com/spf13/cobra"

	"bluejay/sms"
	"bluejay/wire"
)

// Schemas of what integrators read and write: JSON Schema, draft 2020-12, made from the Go types by
// reflection. What a type does not say (bounds, words, shapes) stands in a table with a line for each
// field, and a table that is not exactly about its type's fields is an error: no field comes or goes
// unnoticed. Only keywords that mean the same in draft-07 are used, because AsyncAPI builds on that.

const schemaURN = "urn:bluejay:schema:%s:1"

// Shapes of strings.
const (
	shape16    = `[A-Za-z0-9_-]{21}[AQgw]` // 16 bytes in base64url
	shapeE164  = `^\+[1-9][0-9]{6,14}$`
	shapeTime  = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$`
	typeSMS    = "bluejay.sms."
	typeForget = "bluejay.consent.withdrawn"
)

// Bounds of package sms, in characters; it counts bytes.
const (
	maxNetworkID = 64
	maxPhoneText = 4 * wire.MaxSMSParts * 153
	maxOurNumber = 32
)

// rule is what the schema says of a field beyond its type. Zero value: nothing.
type rule struct {
	about   string
	pattern string
	words   []string // the only values
	is      any      // the only value
	chars   int      // at most; 0: as many as the pattern allows
	most    int      // of an integer; 0: no bound. None is below zero.
}

func (r rule) apply(s *jsonschema.Schema) {
	s.Description, s.Pattern, s.Const = r.about, r.pattern, r.is
	for _, w := range r.words {
		s.Enum = append(s.Enum, w)
	}
	if r.chars > 0 {
		s.MaxLength = new(uint64(r.chars))
	}
	if s.Type == "integer" {
		s.Minimum = "0"
	}
	if r.most > 0 {
		s.Maximum = json.Number(fmt.Sprint(r.most))
	}
}

// schema is one document: of a type, with a rule for each field, and what joins fields.
type schema struct {
	name, title string
	of          any
	about       string
	fields      map[string]rule
	join        func(*jsonschema.Schema)
	embeds      []string // names of schemas that join refers to
}

// schemas lists every document. The names of data stand in each event's dataschema.
func schemas() []schema {
	return []schema{
		{name: "event", title: "Event", of: wire.CloudEvent{}, fields: eventRules(), join: joinEvent, embeds: []string{"sms", "withdrawn"},
			about: "A CloudEvents 1.0 event, structured JSON of at most 4 KiB, about one user who agreed to integrations. It has no number, no text and no second person."},
		{name: "sms", title: "Step of an SMS", of: wire.SMSEvent{}, fields: smsRules(), join: joinSMS,
			about: "Data of bluejay.sms.*: a step of a text that the user sent as SMS through the gateway."},
		{name: "withdrawn", title: "Consent withdrawn", of: wire.WithdrawnEvent{}, fields: withdrawnRules(),
			about: "Data of bluejay.consent.withdrawn: the user no longer agrees. What the stream held about the user is gone; erase what you have (GDPR Art. 17 and 19)."},
		{name: "remote-request", title: "Text to send", of: sms.RemoteRequest{}, fields: requestRules(),
			about: "A text that the node asks a remote SMS route to send. It is personal data: a number and what somebody wrote."},
		{name: "remote-answer", title: "Answer to a text", of: sms.RemoteAnswer{}, fields: answerRules(),
			about: "What became of a text that a remote SMS route was asked to send. An answer that is not like this leaves open whether the text was taken: the node does not send it again, unless it is urgent."},
		{name: "remote-event", title: "Receipt or text from a phone", of: sms.RemoteEvent{}, fields: remoteRules(), join: joinRemote,
			about: "What the network tells a remote SMS route by itself: a receipt for a text, or a text from a phone. At most 16 KiB."},
	}
}

func eventRules() map[string]rule {
	types := []string{typeForget}
	for _, s := range wire.SMSStates() {
		types = append(types, typeSMS+s)
	}
	return map[string]rule{
		"specversion":     {is: "1.0"},
		"id":              {about: "The same event again has the same: drop one that you have seen."},
		"source":          {about: "The node: /bluejay/ and its broker's name.", pattern: `^/bluejay/.+$`, chars: 256},
		"type":            {words: types},
		"subject":         {about: "The user, by a pseudonym that no other integrator has.", pattern: "^" + shape16 + "$"},
		"time":            {about: "When it happened, in UTC.", pattern: shapeTime},
		"datacontenttype": {is: "application/json"},
		"dataschema":      {words: []string{urn("sms"), urn("withdrawn")}},
		"data":            {},
	}
}

func smsRules() map[string]rule {
	return map[string]rule{
		"message": {about: "Names the text: all its steps have the same. It is of no use anywhere else.", pattern: "^" + shape16 + "$"},
		"state":   {words: wire.SMSStates()},
		"final":   {about: "No other state follows."},
		"attempt": {about: "Which submission this is; 0 before the first."},
		"parts":   {about: "How many SMS the text takes. One more than may be sent: it was too long.", most: wire.MaxSMSParts + 1},
		"route":   {about: "The operator's name of the way out.", pattern: `^.+$`, chars: 256},
	}
}

func withdrawnRules() map[string]rule { return map[string]rule{"erase": {is: true}} }

func requestRules() map[string]rule {
	return map[string]rule{
		"id":          {about: "Names this request. The same text again has another.", pattern: "^" + shape16 + "$"},
		"to":          {about: "The recipient, E.164.", pattern: shapeE164},
		"from":        {about: "What the recipient is to see: the digits of a number, a short code, or a name.", pattern: `^([0-9]{3,15}|[A-Za-z0-9 .-]{1,11})$`},
		"text":        {about: "What somebody wrote: do not log it, do not keep it.", chars: wire.MaxSMSParts * 153},
		"parts":       {about: "How many SMS the node counts for it.", most: wire.MaxSMSParts},
		"valid_until": {about: "After this it is not to be sent any more; none: the network's own default.", pattern: shapeTime},
		"class":       {about: "urgent: a one-time password.", words: []string{wire.ClassNormal.String(), wire.ClassUrgent.String()}},
	}
}

func answerRules() map[string]rule {
	return map[string]rule{
		"status": {
			about: "accepted: it is on its way. throttled, retry: it certainly did not leave, ask again later. permanent: it will never leave.",
			words: []string{"accepted", "throttled", "retry", "permanent"},
		},
		"id": {about: "Under which its receipts will come; none: the request's.", chars: maxNetworkID},
	}
}

func remoteRules() map[string]rule {
	return map[string]rule{
		"event": {words: []string{"receipt", "incoming"}},
		"id":    {about: "Of a receipt: the answer's. Of a text: the network's, if it has one; the same text again has the same.", chars: maxNetworkID},
		"to":    {about: "Of a receipt: the recipient, E.164. Of a text: the number or name it was sent to.", chars: maxOurNumber},
		"state": {about: "Of a receipt.", words: []string{"submitted", "delivered", "undeliverable", "expired", "rejected"}},
		"from":  {about: "Of a text: who wrote it, E.164.", pattern: shapeE164},
		"text":  {about: "Of a text. STOP, START and HELP are answered by the node.", chars: maxPhoneText},
	}
}

// properties makes a schema that constrains some fields.
func properties(fields map[string]*jsonschema.Schema) *jsonschema.Schema {
	s := &jsonschema.Schema{Properties: jsonschema.NewProperties()}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		s.Properties.Set(name, fields[name])
	}
	return s
}

func only(value any) *jsonschema.Schema      { return &jsonschema.Schema{Const: value} }
func like(form string) *jsonschema.Schema    { return &jsonschema.Schema{Pattern: form} }
func refer(schema string) *jsonschema.Schema { return &jsonschema.Schema{Ref: urn(schema)} }
func urn(schema string) string               { return fmt.Sprintf(schemaURN, schema) }

// joinEvent holds the data, its schema and the id to the type.
func joinEvent(s *jsonschema.Schema) {
	s.If = properties(map[string]*jsonschema.Schema{"type": only(typeForget)})
	s.Then = properties(map[string]*jsonschema.Schema{
		"id": like("^" + shape16 + `\.withdrawn\.[0-9]{1,15}$`), "dataschema": only(urn("withdrawn")), "data": refer("withdrawn"),
	})
	s.Else = properties(map[string]*jsonschema.Schema{"dataschema": only(urn("sms")), "data": refer("sms")})
	final := finality()
	for _, state := range wire.SMSStates() {
		attempt := `(\.[1-9][0-9]{0,8})?`
		if final[state] {
			attempt = ""
		}
		s.Else.AnyOf = append(s.Else.AnyOf, properties(map[string]*jsonschema.Schema{
			"type": only(typeSMS + state), "id": like("^" + shape16 + `\.` + state + attempt + "$"),
			"data": properties(map[string]*jsonschema.Schema{"state": only(state)}),
		}))
	}
}

// finality tells of each state whether anything follows, as the events themselves do.
func finality() map[string]bool {
	is := map[string]bool{}
	for _, state := range wire.SMSStates() {
		var d wire.SMSEvent
		e, err := wire.NewSMSEvent("", wire.EventPseudonym{}, exampleTime, wire.SMSEvent{State: state})
		if err == nil && json.Unmarshal(e.Data, &d) == nil {
			is[state] = d.Final
		}
	}
	return is
}

// joinSMS holds "final" to the state.
func joinSMS(s *jsonschema.Schema) {
	follows, final := &jsonschema.Schema{}, finality()
	for _, state := range wire.SMSStates() {
		if !final[state] {
			follows.Enum = append(follows.Enum, state)
		}
	}
	s.If = properties(map[string]*jsonschema.Schema{"state": follows})
	s.Then = properties(map[string]*jsonschema.Schema{"final": only(false)})
	s.Else = properties(map[string]*jsonschema.Schema{"final": only(true)})
}

// joinRemote: a receipt has nothing of a text from a phone, and the other way round.
func joinRemote(s *jsonschema.Schema) {
	s.If = properties(map[string]*jsonschema.Schema{"event": only("receipt")})
	s.Then = properties(map[string]*jsonschema.Schema{"to": like(shapeE164), "from": jsonschema.FalseSchema, "text": jsonschema.FalseSchema})
	s.Then.Required = []string{"state"}
	s.Else = properties(map[string]*jsonschema.Schema{"state": jsonschema.FalseSchema})
	s.Else.Required = []string{"from"}
}

// reflected makes the document of a type, without those it refers to.
func (d schema) reflected() (*jsonschema.Schema, error) {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true}
	s := r.Reflect(d.of)
	s.ID, s.Title, s.Description = jsonschema.ID(urn(d.name)), d.title, d.about
	if s.Properties.Len() != len(d.fields) {
		return nil, fmt.Errorf("schema %s: %d rules for %d fields", d.name, len(d.fields), s.Properties.Len())
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		r, ok := d.fields[p.Key]
		if !ok {
			return nil, fmt.Errorf("schema %s: no rule for %q", d.name, p.Key)
		}
		if p.Value == jsonschema.TrueSchema || p.Value.Type == "" { // any JSON
			p.Value = &jsonschema.Schema{Type: "object"}
		}
		r.apply(p.Value)
	}
	if d.join != nil {
		d.join(s)
	}
	return s, nil
}

// document makes a document that is complete: what it refers to is in it.
func (d schema) document() (*jsonschema.Schema, error) {
	s, err := d.reflected()
	if err != nil || len(d.embeds) == 0 {
		return s, err
	}
	s.Definitions = jsonschema.Definitions{}
	for _, e := range schemas() {
		if !slices.Contains(d.embeds, e.name) {
			continue
		}
		inner, err := e.reflected()
		if err != nil {
			return nil, err
		}
		s.Definitions[e.name] = inner
	}
	return s, nil
}

// allSchemas is one document that has all the others.
func allSchemas() (*jsonschema.Schema, error) {
	s := &jsonschema.Schema{
		Version: jsonschema.Version, ID: jsonschema.ID(urn("all")), Title: "Everything an integrator reads and writes",
		Definitions: jsonschema.Definitions{},
	}
	for _, d := range schemas() {
		inner, err := d.reflected()
		if err != nil {
			return nil, err
		}
		s.Definitions[d.name] = inner
	}
	return s, nil
}

// schemaNamed makes a document by its name; "" is all of them.
func schemaNamed(name string) (*jsonschema.Schema, error) {
	if name == "" {
		return allSchemas()
	}
	i := slices.IndexFunc(schemas(), func(d schema) bool { return d.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no schema is called %q: there are %s", name, strings.Join(schemaNames(), ", "))
	}
	return schemas()[i].document()
}

func schemaNames() (names []string) {
	for _, d := range schemas() {
		names = append(names, d.name)
	}
	return names
}

// writeIndented prints a document for people.
func writeIndented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func schemaCmd() *cobra.Command {
	return &cobra.Command{
		Use: "schema [NAME]", Short: "Print the JSON Schemas of what an integrator reads and writes",
		Long: "Prints a JSON Schema (draft 2020-12), or all of them in one document. There are " + strings.Join(schemaNames(), ", ") + `.
The same documents are in docs/integrators.`,
		Example: "  bluejay nats schema event > event.schema.json",
		Args:    cobra.MaximumNArgs(1), ValidArgs: schemaNames(),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := schemaNamed(strings.Join(args, ""))
			if err != nil {
				return err
			}
			return writeIndented(c.OutOrStdout(), s)
		},
	}
}
