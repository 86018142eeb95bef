package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"bluejay/bridge"
	"bluejay/sms"
	"bluejay/wire"
)

var updateSchemas = flag.Bool("update-schemas", false, "write docs/integrators/*.json anew")

// printed runs a command of this binary in this process.
func printed(t *testing.T, args ...string) []byte {
	t.Helper()
	root := rootCmd()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out.Bytes()
}

// TestSchemaFiles: what docs/integrators has is what the types say.
func TestSchemaFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "docs", "integrators")
	want := map[string][]byte{"asyncapi.json": printed(t, "nats", "asyncapi")}
	for _, name := range schemaNames() {
		want[name+".schema.json"] = printed(t, "nats", "schema", name)
	}
	for name, text := range want {
		if *updateSchemas {
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), text, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatalf("run with -update-schemas: %v", err)
		}
		if diff := cmp.Diff(string(have), string(text)); diff != "" {
			t.Errorf("%s: run with -update-schemas if this is meant:\n%s", name, diff)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(want) {
		t.Errorf("%d files, want %d (%v)", len(files), len(want), err)
	}
}

// compiled compiles a document, with formats held to.
func compiled(t testing.TB, draft *jsonschema.Draft, document any, place string) *jsonschema.Schema {
	t.Helper()
	s, err := compile(draft, document, place)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compile(draft *jsonschema.Draft, document any, place string) (*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(draft)
	c.AssertFormat()
	if err := c.AddResource("urn:test:document", document); err != nil {
		return nil, err
	}
	return c.Compile("urn:test:document" + place)
}

// parsed is JSON as the validator wants it.
func parsedJSON(t testing.TB, raw []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

// asJSON is a value as its JSON is read back.
func asJSON(t testing.TB, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return parsedJSON(t, raw)
}

// A fault is a valid document with one thing changed. The zero value changes nothing: it is valid.
type fault struct {
	base, field string // a.b for b in a
	value       any    // absent: the field is taken away
	lax         bool   // the node's own parser lets it pass
}

type gone struct{}

var absent gone

// valid are frozen documents of each schema: the events are the vectors of package wire.
var valid = map[string]map[string]string{
	"event": {
		"submitting": `{"specversion":"1.0","id":"CQkAAAAAAAAAAAAAAAAAAA.submitting.2","source":"/bluejay/test","type":"bluejay.sms.submitting","subject":"KxUNi6vs6-4WacXpc8DVYA","time":"2027-01-15T08:00:00Z","datacontenttype":"application/json","dataschema":"urn:bluejay:schema:sms:1","data":{"message":"CQkAAAAAAAAAAAAAAAAAAA","state":"submitting","final":false,"attempt":2,"parts":3,"route":"uk"}}`,
		"delivered":  `{"specversion":"1.0","id":"CQkAAAAAAAAAAAAAAAAAAA.delivered","source":"/bluejay/test","type":"bluejay.sms.delivered","subject":"KxUNi6vs6-4WacXpc8DVYA","time":"2027-01-15T08:00:00Z","datacontenttype":"application/json","dataschema":"urn:bluejay:schema:sms:1","data":{"message":"CQkAAAAAAAAAAAAAAAAAAA","state":"delivered","final":true,"attempt":2,"parts":3}}`,
		"withdrawn":  `{"specversion":"1.0","id":"KxUNi6vs6-4WacXpc8DVYA.withdrawn.1800000000000","source":"/bluejay/test","type":"bluejay.consent.withdrawn","subject":"KxUNi6vs6-4WacXpc8DVYA","time":"2027-01-15T08:00:00.123Z","datacontenttype":"application/json","dataschema":"urn:bluejay:schema:withdrawn:1","data":{"erase":true}}`,
	},
	"sms": {
		"submitting": `{"message":"CQkAAAAAAAAAAAAAAAAAAA","state":"submitting","final":false,"attempt":2,"parts":3,"route":"uk"}`,
		"delivered":  `{"message":"CQkAAAAAAAAAAAAAAAAAAA","state":"delivered","final":true,"attempt":0,"parts":7}`,
	},
	"withdrawn": {"it": `{"erase":true}`},
	"remote-request": {
		"text":     `{"id":"CQkAAAAAAAAAAAAAAAAAAA","to":"+447700900123","from":"Bluejay","text":"hello","parts":1,"valid_until":"2027-01-15T08:00:00Z","class":"normal"}`,
		"password": `{"id":"CQkAAAAAAAAAAAAAAAAAAA","to":"+447700900123","from":"447700900000","text":"","parts":6,"class":"urgent"}`,
	},
	"remote-answer": {
		"accepted": `{"status":"accepted","id":"4711"}`, "throttled": `{"status":"throttled"}`, "retry": `{"status":"retry"}`, "permanent": `{"status":"permanent"}`,
	},
	"remote-event": {
		"receipt":  `{"event":"receipt","id":"4711","to":"+447700900123","state":"delivered"}`,
		"incoming": `{"event":"incoming","id":"4711","to":"60777","from":"+447700900123","text":"STOP"}`,
	},
}

// faults are what is wrong with one field, and nothing else.
var faults = map[string][]fault{
	"event": {
		{base: "delivered", field: "specversion", value: "0.3"},
		{base: "delivered", field: "id", value: ""},
		{base: "delivered", field: "id", value: "CQkAAAAAAAAAAAAAAAAAAA.delivered.2", lax: true},
		{base: "withdrawn", field: "id", value: "CQkAAAAAAAAAAAAAAAAAAA.delivered", lax: true},
		{base: "delivered", field: "source", value: "https://example.net"},
		{base: "delivered", field: "source", value: "/bluejay/", lax: true},
		{base: "delivered", field: "source", value: "/bluejay/" + strings.Repeat("x", 248), lax: true},
		{base: "delivered", field: "type", value: "bluejay.text.read"},
		{base: "delivered", field: "type", value: "bluejay.consent.withdrawn"},
		{base: "withdrawn", field: "type", value: "bluejay.sms.delivered"},
		{base: "delivered", field: "subject", value: "alice"},
		{base: "delivered", field: "subject", value: "KxUNi6vs6-4WacXpc8DVYB"}, // another way to write the same bytes
		{base: "delivered", field: "time", value: "2027-02-30T08:00:00Z"},
		{base: "delivered", field: "time", value: "2027-01-15T08:00:00+01:00", lax: true},
		{base: "delivered", field: "datacontenttype", value: "text/plain"},
		{base: "delivered", field: "dataschema", value: "urn:bluejay:schema:sms:2"},
		{base: "delivered", field: "dataschema", value: "urn:bluejay:schema:withdrawn:1"},
		{base: "withdrawn", field: "dataschema", value: "urn:bluejay:schema:sms:1"},
		{base: "delivered", field: "data", value: map[string]any{"erase": true}},
		{base: "delivered", field: "to", value: "+447700900123"},
		{base: "delivered", field: "data.to", value: "+447700900123"},
		{base: "delivered", field: "data.state", value: "rejected"},
		{base: "delivered", field: "data.final", value: false, lax: true},
		{base: "withdrawn", field: "data.erase", value: false},
	},
	"sms": {
		{base: "delivered", field: "message", value: "CQkAAAAAAAAAAAAAAAAAAB"},
		{base: "delivered", field: "message", value: ""},
		{base: "delivered", field: "state", value: "lost"},
		{base: "delivered", field: "final", value: false},
		{base: "submitting", field: "final", value: true},
		{base: "submitting", field: "final", value: "false"},
		{base: "submitting", field: "attempt", value: -1},
		{base: "submitting", field: "attempt", value: 1.5},
		{base: "submitting", field: "parts", value: -1},
		{base: "submitting", field: "parts", value: 8},
		{base: "submitting", field: "route", value: ""},
		{base: "submitting", field: "route", value: strings.Repeat("x", 257)},
		{base: "submitting", field: "to", value: "+447700900123"},
	},
	"withdrawn": {{base: "it", field: "erase", value: false}, {base: "it", field: "subject", value: "x"}},
	"remote-request": {
		{base: "text", field: "id", value: "AQ"},
		{base: "text", field: "to", value: "07700900123"},
		{base: "text", field: "from", value: "much too long"},
		{base: "text", field: "from", value: "+447700900123"},
		{base: "text", field: "text", value: strings.Repeat("x", 919)},
		{base: "text", field: "parts", value: -1},
		{base: "text", field: "parts", value: 7},
		{base: "text", field: "valid_until", value: "2027-02-30T08:00:00Z"},
		{base: "text", field: "valid_until", value: "2027-01-15T08:00:00+01:00"},
		{base: "text", field: "class", value: "bulk"},
		{base: "text", field: "sender", value: "alice"},
	},
	"remote-answer": {
		{base: "accepted", field: "status", value: "delivered"},
		{base: "accepted", field: "id", value: strings.Repeat("x", 65)},
		{base: "accepted", field: "ids", value: "4711"},
	},
	"remote-event": {
		{base: "receipt", field: "event", value: "answer"},
		{base: "incoming", field: "event", value: "answer"},
		{base: "receipt", field: "event", value: "incoming"},
		{base: "incoming", field: "event", value: "receipt"},
		{base: "receipt", field: "id", value: strings.Repeat("x", 65)},
		{base: "receipt", field: "to", value: "60777"},
		{base: "incoming", field: "to", value: strings.Repeat("x", 33)},
		{base: "receipt", field: "state", value: "lost"},
		{base: "receipt", field: "state", value: absent},
		{base: "incoming", field: "state", value: "delivered"},
		{base: "incoming", field: "from", value: "60777"},
		{base: "incoming", field: "from", value: absent},
		{base: "receipt", field: "from", value: "+447700900123"},
		{base: "receipt", field: "text", value: "STOP"},
		{base: "incoming", field: "text", value: strings.Repeat("x", 3673)},
		{base: "receipt", field: "price", value: "1"},
	},
}

// trial is a document and what it is to be.
type trial struct {
	name      string
	good, lax bool
	document  any
}

// trials are all documents of a schema, good ones and bad ones.
func trials(t testing.TB, schema string) (list []trial) {
	t.Helper()
	try := func(f fault, good bool) {
		document := parsedJSON(t, []byte(valid[schema][f.base]))
		if f.field != "" {
			f.apply(t, document)
		}
		list = append(list, trial{fmt.Sprintf("%s: %s = %.40v", f.base, f.field, f.value), good, f.lax, document})
	}
	for base, text := range valid[schema] {
		try(fault{base: base}, true)
		for field, value := range parsedJSON(t, []byte(text)).(map[string]any) {
			try(fault{base: base, field: field, value: []any{}}, false)
			if inner, ok := value.(map[string]any); ok {
				for name := range inner {
					try(fault{base: base, field: field + "." + name, value: []any{}}, false)
				}
			}
		}
	}
	for _, field := range required(t, schema) {
		for base := range valid[schema] {
			try(fault{base: base, field: field, value: absent, lax: base == "incoming" && field == "to"}, false)
		}
	}
	for _, f := range faults[schema] {
		try(f, false)
	}
	list = append(list, trial{name: "no object", document: []any{}})
	return append(list, wordTrials(t, schema)...)
}

func (f fault) apply(t testing.TB, document any) {
	t.Helper()
	object := document.(map[string]any)
	outer, inner, nested := strings.Cut(f.field, ".")
	if nested {
		object, outer = object[outer].(map[string]any), inner
	}
	object[outer] = asJSON(t, f.value)
	if f.value == absent {
		delete(object, outer)
	}
}

func required(t testing.TB, schema string) (fields []string) {
	t.Helper()
	s, err := schemaNamed(schema)
	if err != nil {
		t.Fatal(err)
	}
	return s.Required
}

// wordTrials has every word of a closed set once, and for events every way in which the type, the id
// and the data may differ.
func wordTrials(t testing.TB, schema string) (list []trial) {
	t.Helper()
	for _, state := range []string{"submitted", "delivered", "undeliverable", "expired", "rejected"} {
		if schema == "remote-event" {
			list = append(list, trial{"state " + state, true, false, asJSON(t, sms.RemoteEvent{Event: "receipt", To: aliceNumber, State: state})})
		}
	}
	for _, state := range wire.SMSStates() {
		e, err := wire.NewSMSEvent("test", wire.EventPseudonym{}, exampleTime, wire.SMSEvent{Message: exampleMessage.String(), State: state, Attempt: 1})
		if err != nil {
			t.Fatal(err)
		}
		switch schema {
		case "sms":
			list = append(list, trial{"state " + state, true, false, parsedJSON(t, e.Data)})
		case "event":
			list = append(list, trial{"state " + state, true, false, asJSON(t, e)})
			list = append(list, differing(t, e, state)...)
		}
	}
	return list
}

// differing gives one of an event's three mentions of its state another one of the same finality.
func differing(t testing.TB, e wire.CloudEvent, state string) (list []trial) {
	t.Helper()
	final := finality()
	var others []string
	for _, s := range wire.SMSStates() {
		if s != state && final[s] == final[state] {
			others = append(others, s)
		}
	}
	for _, f := range []fault{
		{field: "type", value: typeSMS + others[0]}, {field: "id", value: exampleMessage.String() + "." + others[0], lax: true}, {field: "data.state", value: others[0]},
	} {
		document := asJSON(t, e)
		f.apply(t, document)
		list = append(list, trial{state + ": " + f.field + " of " + others[0], false, f.lax, document})
	}
	return list
}

// TestSchemas: each document compiles, alone and with the others; what is valid is, and what is broken
// in one field is not. [E-1]
func TestSchemas(t *testing.T) {
	t.Parallel()
	all := parsedJSON(t, printed(t, "nats", "schema"))
	for _, name := range schemaNames() {
		alone := compiled(t, jsonschema.Draft2020, parsedJSON(t, printed(t, "nats", "schema", name)), "")
		together := compiled(t, jsonschema.Draft2020, all, "#/$defs/"+name)
		for _, d := range trials(t, name) {
			if err := alone.Validate(d.document); (err == nil) != d.good {
				t.Errorf("%s: %s: %v", name, d.name, err)
			}
			if err := together.Validate(d.document); (err == nil) != d.good {
				t.Errorf("%s, with the others: %s: %v", name, d.name, err)
			}
		}
	}
	if _, err := schemaNamed("text"); err == nil || !strings.Contains(err.Error(), "remote-answer") {
		t.Errorf("%v", err)
	}
}

// forReaders are keywords that others make superfluous: they help people and generators of code.
var forReaders = map[string]bool{
	"event /properties/type/enum": true, "event /properties/dataschema/enum": true, "event /properties/data/type": true,
	"sms /properties/final/type": true,
}

// TestSchemasSayNoMore: take any keyword out of a schema, and it judges one of the documents of
// [TestSchemas] otherwise: each is needed, and each is tested.
func TestSchemasSayNoMore(t *testing.T) {
	t.Parallel()
	for _, name := range schemaNames() {
		if name == "event" { // what it has of others is tried with them
			continue
		}
		unneeded(t, name)
	}
	unneeded(t, "event")
}

func unneeded(t *testing.T, name string) {
	t.Helper()
	document := parsedJSON(t, printed(t, "nats", "schema", name))
	list := trials(t, name)
	taken := 0
	eachKeyword(document.(map[string]any), "", func(place string) {
		s, err := compile(jsonschema.Draft2020, document, "")
		if err != nil {
			t.Fatalf("%s without %s: %v", name, place, err)
		}
		taken++
		changed := slices.ContainsFunc(list, func(d trial) bool { return (s.Validate(d.document) == nil) != d.good })
		if changed == forReaders[name+" "+place] {
			t.Errorf("%s without %s: does it judge otherwise? %v", name, place, changed)
		}
	})
	t.Logf("%s: %d keywords taken out, %d documents", name, taken, len(list))
}

// eachKeyword takes one assertion at a time out of a schema and calls f.
func eachKeyword(s map[string]any, place string, f func(place string)) {
	for _, word := range slices.Sorted(maps.Keys(s)) {
		value := s[word]
		switch word {
		case "$schema", "$id", "$defs", "title", "description":
			continue
		case "type":
			if s["enum"] != nil || s["const"] != nil {
				continue // for readers
			}
		case "properties":
			for _, field := range slices.Sorted(maps.Keys(value.(map[string]any))) {
				switch inner := value.(map[string]any)[field].(type) {
				case map[string]any:
					eachKeyword(inner, place+"/properties/"+field, f)
				case bool:
					delete(value.(map[string]any), field)
					f(place + "/properties/" + field)
					value.(map[string]any)[field] = inner
				}
			}
			continue
		case "required":
			for i := range value.([]any) {
				s[word] = slices.Delete(slices.Clone(value.([]any)), i, i+1)
				f(fmt.Sprintf("%s/required/%v", place, value.([]any)[i]))
			}
			s[word] = value
			continue
		case "if", "then", "else":
			eachKeyword(value.(map[string]any), place+"/"+word, f)
		case "anyOf":
			for i, inner := range value.([]any) {
				eachKeyword(inner.(map[string]any), fmt.Sprintf("%s/anyOf/%d", place, i), f)
			}
		}
		delete(s, word)
		f(place + "/" + word)
		s[word] = value
	}
}

// TestSchemaAndParser: the schema refuses what the node's own parser refuses, and more only where it is
// said. [E-1]
func TestSchemaAndParser(t *testing.T) {
	t.Parallel()
	parsers := map[string]func([]byte) bool{
		"event":         func(b []byte) bool { _, err := wire.ParseEvent(b); return err == nil },
		"remote-answer": answers, "remote-event": delivers,
	}
	for name, accepts := range parsers {
		for _, d := range trials(t, name) {
			raw, err := json.Marshal(d.document)
			if err != nil {
				t.Fatal(err)
			}
			if accepts(raw) != (d.good || d.lax) {
				t.Errorf("%s: %s: accepted: %v", name, d.name, accepts(raw))
			}
		}
	}
}

// answers reports whether a remote route understands an answer.
func answers(raw []byte) bool {
	r, err := sms.NewRemote(sms.RemoteConfig{Name: "x", Call: func(context.Context, []byte) ([]byte, error) { return raw, nil }})
	return err == nil && r.Submit(context.Background(), exampleText()).Outcome != sms.Unknown
}

// delivers reports whether a remote route understands an event; nobody is there to store it.
func delivers(raw []byte) bool {
	r, err := sms.NewRemote(sms.RemoteConfig{Name: "x", Call: func(context.Context, []byte) ([]byte, error) { return nil, nil }})
	return err == nil && errors.Is(r.Deliver(context.Background(), raw), sms.ErrNoLink)
}

func exampleText() sms.Message {
	to, err1 := wire.ParseNumber(aliceNumber)
	from, err2 := sms.ParseSender("Bluejay")
	if err := errors.Join(err1, err2); err != nil {
		panic(err)
	}
	return sms.Message{To: to, From: from, Text: "hello"}
}

// TestSchemaOfRequests: whatever the node asks a remote route to send is as the schema says.
func TestSchemaOfRequests(t *testing.T) {
	t.Parallel()
	schema := compiled(t, jsonschema.Draft2020, parsedJSON(t, printed(t, "nats", "schema", "remote-request")), "")
	var asked [][]byte
	r, err := sms.NewRemote(sms.RemoteConfig{Name: "x", Call: func(_ context.Context, q []byte) ([]byte, error) {
		asked = append(asked, q)
		return []byte(`{"status":"accepted"}`), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"Bluejay", "A.b-c 1", "60777", "+447700900000"} {
		for _, text := range []string{"", "x", strings.Repeat("x", 918), strings.Repeat("嗨", 402), strings.Repeat("€", 456)} {
			m := exampleText()
			m.Text = text
			if m.From, err = sms.ParseSender(from); err != nil {
				t.Fatal(err)
			}
			r.Submit(t.Context(), m)
			m.Class, m.ValidUntil = wire.ClassUrgent, exampleTime.Add(time.Nanosecond)
			r.Submit(t.Context(), m)
		}
	}
	for _, q := range asked {
		if err := schema.Validate(parsedJSON(t, q)); err != nil {
			t.Errorf("%v: %s", err, q)
		}
	}
	if len(asked) != 40 {
		t.Errorf("%d requests", len(asked))
	}
}

// TestSchemaTables: a field without a rule, and a rule without a field, are errors.
func TestSchemaTables(t *testing.T) {
	t.Parallel()
	for _, fields := range []map[string]rule{{}, {"delete": {}}, {"erase": {}, "more": {}}} {
		if _, err := (schema{name: "x", of: wire.WithdrawnEvent{}, fields: fields}).document(); err == nil {
			t.Errorf("%v: no error", fields)
		}
	}
}

// asyncTree is the AsyncAPI document as its readers have it.
func asyncTree(t testing.TB) (asyncDocument, any) {
	t.Helper()
	d, err := asyncAPI()
	if err != nil {
		t.Fatal(err)
	}
	return d, asJSON(t, d)
}

// payload compiles the payload of a message.
func payload(t testing.TB, tree any, message string) *jsonschema.Schema {
	t.Helper()
	return compiled(t, jsonschema.Draft7, tree, "#/components/messages/"+message+"/payload")
}

// TestAsyncAPIExamples: each example is valid for its own message and for no other that comes the same way.
func TestAsyncAPIExamples(t *testing.T) {
	t.Parallel()
	d, tree := asyncTree(t)
	for name, m := range d.Components.Messages {
		if len(m.Examples) == 0 {
			t.Errorf("%s has no example", name)
		}
		for _, example := range m.Examples {
			for other := range d.Components.Messages {
				err := payload(t, tree, other).Validate(asJSON(t, example.Payload))
				if (err == nil) != (name == other) {
					t.Errorf("%s's example %s as %s: %v", name, example.Name, other, err)
				}
			}
			if m.Headers != nil && compiled(t, jsonschema.Draft7, tree, "#/components/messages/"+name+"/headers").Validate(asJSON(t, example.Headers)) != nil {
				t.Errorf("%s: headers of %s", name, example.Name)
			}
		}
	}
}

// TestAsyncAPITrials: the schemas judge in AsyncAPI, which is draft-07, as they do alone.
func TestAsyncAPITrials(t *testing.T) {
	t.Parallel()
	_, tree := asyncTree(t)
	for _, name := range schemaNames() {
		s := compiled(t, jsonschema.Draft7, tree, "#/components/schemas/"+name)
		for _, d := range trials(t, name) {
			if err := s.Validate(d.document); (err == nil) != d.good {
				t.Errorf("%s: %s: %v", name, d.name, err)
			}
		}
	}
}

// TestAsyncAPIReferences: every reference leads somewhere and has nothing beside it, which draft-07
// would ignore; every name in an address is a parameter; and an integrator may do what stands there.
func TestAsyncAPIReferences(t *testing.T) {
	t.Parallel()
	d, tree := asyncTree(t)
	eachObject(tree, func(o map[string]any) {
		if target, ok := o["$ref"].(string); ok && (len(o) != 1 || at(tree, target) == nil) {
			t.Errorf("reference %v", o)
		}
	})
	publish, subscribe := bridge.IntegratorPermissions(true)
	for name, o := range d.Operations {
		c := d.Channels[strings.TrimPrefix(o.Channel.Ref, "#/channels/")]
		may := map[string][]string{"send": publish, "receive": subscribe}[o.Action]
		if c.Address == nil || !slices.ContainsFunc(may, func(p string) bool { return covers(p, *c.Address) }) {
			t.Errorf("an integrator may not %s (%s)", name, o.Action)
		}
		for _, m := range o.Messages {
			if !strings.HasPrefix(m.Ref, o.Channel.Ref+"/messages/") {
				t.Errorf("%s: %s is of another channel", name, m.Ref)
			}
		}
	}
	for name, c := range d.Channels {
		if c.Address == nil {
			continue
		}
		if n := strings.Count(*c.Address, "{"); n != len(c.Parameters) {
			t.Errorf("%s: %d names in the address, %d parameters", name, n, len(c.Parameters))
		}
	}
}

// covers reports whether a pattern that may end in ">" allows a subject.
func covers(pattern, subject string) bool {
	before, open := strings.CutSuffix(pattern, ">")
	return open && strings.HasPrefix(subject, before) || pattern == subject
}

// at follows a reference; nil: nothing is there.
func at(tree any, target string) any {
	for step := range strings.SplitSeq(strings.TrimPrefix(target, "#/"), "/") {
		o, ok := tree.(map[string]any)
		if !ok {
			return nil
		}
		tree = o[step]
	}
	return tree
}

func eachObject(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, inner := range v {
			eachObject(inner, f)
		}
	case []any:
		for _, inner := range v {
			eachObject(inner, f)
		}
	}
}

// TestIntegratorsPage: each JSON document that docs/integrators.md shows is valid, of one schema, and so
// are its links and what it says of bounds.
func TestIntegratorsPage(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "integrators.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	seen := map[string]int{}
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)\n```").FindAllStringSubmatch(page, -1) {
		var is []string
		for _, name := range schemaNames() {
			s := compiled(t, jsonschema.Draft2020, parsedJSON(t, printed(t, "nats", "schema", name)), "")
			if s.Validate(parsedJSON(t, []byte(m[1]))) == nil {
				is = append(is, name)
				seen[name]++
			}
		}
		if len(is) != 1 {
			t.Errorf("it is %q: %s", is, m[1])
		}
	}
	want := map[string]int{"event": 2, "remote-request": 1, "remote-answer": 1, "remote-event": 2}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	for _, m := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("..", "..", "docs", m[1])); err != nil {
			t.Error(err)
		}
	}
	for _, state := range wire.SMSStates() {
		if !strings.Contains(page, "`"+state+"`") {
			t.Errorf("it does not explain %s", state)
		}
	}
	if !strings.Contains(page, "`"+bridge.StreamIntegrator+"`") || !strings.Contains(page, fmt.Sprintf("| %d KiB; 16 KiB |", wire.MaxEvent>>10)) {
		t.Error("it names another stream, or another bound")
	}
}
