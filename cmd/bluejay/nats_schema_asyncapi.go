package main

import (
	"strings"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/spf13/cobra"

	"bluejay/bridge"
	"bluejay/sms"
	"bluejay/wire"
)

// The AsyncAPI 3.0 document: what an integrator hears and says, from its own point of view. Subjects,
// states, schemas and examples are made from the types; only the prose is written here.

// Subjects of the remote SMS route; bridge has them in the integrator's permissions.
const (
	addressSubmit  = "bluejay.sms.submit"
	addressReceipt = "bluejay.sms.receipt"
	queueWorkers   = "sms"
)

// ref points to another part of a document.
type ref struct {
	Ref string `json:"$ref"`
}

// asyncDocument is AsyncAPI 3.0, as far as it is needed here.
type asyncDocument struct {
	AsyncAPI    string                    `json:"asyncapi"`
	ID          string                    `json:"id"`
	Info        asyncInfo                 `json:"info"`
	ContentType string                    `json:"defaultContentType"`
	Servers     map[string]asyncServer    `json:"servers"`
	Channels    map[string]asyncChannel   `json:"channels"`
	Operations  map[string]asyncOperation `json:"operations"`
	Components  asyncComponents           `json:"components"`
}

type asyncInfo struct {
	Title       string            `json:"title"`
	Version     string            `json:"version"`
	Description string            `json:"description"`
	License     map[string]string `json:"license"`
}

type asyncServer struct {
	Host        string                    `json:"host"`
	Protocol    string                    `json:"protocol"`
	Description string                    `json:"description"`
	Variables   map[string]asyncParameter `json:"variables"`
	Security    []ref                     `json:"security"`
}

// asyncParameter is of an address, or a variable of a server.
type asyncParameter struct {
	Description string   `json:"description"`
	Enum        []string `json:"enum,omitempty"`
	Default     string   `json:"default,omitempty"`
	Examples    []string `json:"examples,omitempty"`
	Location    string   `json:"location,omitempty"`
}

type asyncChannel struct {
	Address     *string                   `json:"address"` // null: the reply subject of a request
	Title       string                    `json:"title"`
	Description string                    `json:"description"`
	Parameters  map[string]asyncParameter `json:"parameters,omitempty"`
	Messages    map[string]ref            `json:"messages"`
}

type asyncOperation struct {
	Action      string      `json:"action"` // of the integrator: send or receive
	Channel     ref         `json:"channel"`
	Title       string      `json:"title"`
	Description string      `json:"description"`
	Messages    []ref       `json:"messages"`
	Reply       *asyncReply `json:"reply,omitempty"`
	Bindings    any         `json:"bindings,omitempty"`
}

type asyncReply struct {
	Channel  ref   `json:"channel"`
	Messages []ref `json:"messages"`
}

type asyncComponents struct {
	Schemas  map[string]*jsonschema.Schema `json:"schemas"`
	Messages map[string]asyncMessage       `json:"messages"`
	Security map[string]map[string]string  `json:"securitySchemes"`
}

type asyncMessage struct {
	Name        string             `json:"name"`
	Title       string             `json:"title"`
	ContentType string             `json:"contentType"`
	Headers     *jsonschema.Schema `json:"headers,omitempty"`
	Payload     *jsonschema.Schema `json:"payload"`
	Examples    []asyncExample     `json:"examples"`
}

type asyncExample struct {
	Name    string            `json:"name"`
	Headers map[string]string `json:"headers,omitempty"`
	Payload any               `json:"payload"`
}

// asyncAPI makes the document.
func asyncAPI() (asyncDocument, error) {
	messages, err := asyncMessages()
	if err != nil {
		return asyncDocument{}, err
	}
	shapes, err := asyncSchemas()
	return asyncDocument{
		AsyncAPI: "3.0.0", ID: "urn:bluejay:asyncapi:integrators:1",
		Info: asyncInfo{
			Title: "Bluejay for integrators", Version: "1", License: map[string]string{"name": "Apache-2.0"},
			Description: "What an integrator of a Bluejay node hears, and, if it is a route for SMS, says. Everything is seen from the integrator's side. " +
				"Events are kept for seven days in the JetStream stream " + bridge.StreamIntegrator + " of the integrator's own account and delivered at least once: drop an id that you have seen. See docs/integrators.md.",
		},
		ContentType: "application/json",
		Servers:     map[string]asyncServer{"node": asyncNode()},
		Channels:    asyncChannels(),
		Operations:  asyncOperations(),
		Components: asyncComponents{Schemas: shapes, Messages: messages, Security: map[string]map[string]string{"credentials": {
			"type":        "asymmetricEncryption",
			"description": "The file that `bluejay nats creds NAME` makes: a NATS user JWT, and the Ed25519 key (nkey) that signs the server's nonce. No password, and the key never leaves the client.",
		}}},
	}, err
}

func asyncNode() asyncServer {
	return asyncServer{
		Host: "{host}:{port}", Protocol: "nats",
		Description: "The NATS of a Bluejay node. Not on loopback it speaks TLS.",
		Variables: map[string]asyncParameter{
			"host": {Description: "Where the node is.", Default: "127.0.0.1"},
			"port": {Description: "Its NATS port, --nats-listen of `bluejay serve`.", Default: "4222"},
		},
		Security: []ref{{"#/components/securitySchemes/credentials"}},
	}
}

// address is where events of a type are.
func address(kind string) *string {
	return new(wire.IntegratorSubject(wire.CloudEvent{Type: kind, Subject: "{user}"}))
}

func asyncChannels() map[string]asyncChannel {
	user := asyncParameter{
		Description: "A pseudonym, 22 characters of base64url. The last token, so that everything about one user can be found and purged.",
		Examples:    []string{examplePseudonym().String()}, Location: "$message.payload#/subject",
	}
	state := asyncParameter{Description: "What became of the text.", Enum: wire.SMSStates(), Location: "$message.payload#/data/state"}
	return map[string]asyncChannel{
		"smsEvents": {
			Address: address(typeSMS + "{state}"), Title: "Steps of texts sent as SMS", Parameters: map[string]asyncParameter{"state": state, "user": user},
			Description: "Live, or from the stream " + bridge.StreamIntegrator + " with a consumer of your own.", Messages: of("sms"),
		},
		"withdrawnEvents": {
			Address: address(typeForget), Title: "Withdrawn consent", Parameters: map[string]asyncParameter{"user": user},
			Description: "The last event about a user until they agree again: erase what you have.", Messages: of("withdrawn"),
		},
		"submit": {
			Address: new(addressSubmit), Title: "Texts to send", Messages: of("remoteRequest"),
			Description: "Only with credentials made with --sms. Each message is a request: answer it once, within ten seconds, on its reply subject.",
		},
		"submitAnswer": {Title: "Answer to a text", Description: "The reply subject of the request.", Messages: of("remoteAnswer")},
		"receipt": {
			Address: new(addressReceipt), Title: "Receipts and texts from phones", Messages: of("receipt", "incoming"),
			Description: "Only with credentials made with --sms. Send each as a request, and send it again until the answer is +OK.",
		},
		"receiptAnswer": {Title: "Whether it is stored", Description: "The reply subject of the request.", Messages: of("stored")},
	}
}

// of names the messages of a channel.
func of(names ...string) map[string]ref {
	m := map[string]ref{}
	for _, n := range names {
		m[n] = ref{"#/components/messages/" + n}
	}
	return m
}

// operation is about messages of a channel.
func operation(action, channel, title, about string, messages ...string) asyncOperation {
	o := asyncOperation{Action: action, Channel: ref{"#/channels/" + channel}, Title: title, Description: about}
	o.Messages = messagesOf(channel, messages...)
	return o
}

func messagesOf(channel string, names ...string) (list []ref) {
	for _, n := range names {
		list = append(list, ref{"#/channels/" + channel + "/messages/" + n})
	}
	return list
}

func asyncOperations() map[string]asyncOperation {
	take := operation("receive", "submit", "Take a text", "Subscribe in a queue group: without one each of your workers sends every text.", "remoteRequest")
	take.Reply = &asyncReply{ref{"#/channels/submitAnswer"}, messagesOf("submitAnswer", "remoteAnswer")}
	take.Bindings = map[string]any{"nats": map[string]string{"queue": queueWorkers, "bindingVersion": "0.1.0"}}
	report := operation("send", "receipt", "Report", "What the network says of a text, and what phones text to you.", "receipt", "incoming")
	report.Reply = &asyncReply{ref{"#/channels/receiptAnswer"}, messagesOf("receiptAnswer", "stored")}
	return map[string]asyncOperation{
		"hearSMS":       operation("receive", "smsEvents", "Hear what became of texts", "Of users who agreed to integrations, and only while they do.", "sms"),
		"hearWithdrawn": operation("receive", "withdrawnEvents", "Hear that a user withdrew", "Erase what you have about the user.", "withdrawn"),
		"takeText":      take,
		"report":        report,
	}
}

// asyncSchemas are the schemas as AsyncAPI has them: one place for all, and no names of their own.
func asyncSchemas() (map[string]*jsonschema.Schema, error) {
	shapes := map[string]*jsonschema.Schema{}
	for _, d := range schemas() {
		s, err := d.reflected()
		if err != nil {
			return nil, err
		}
		s.Version, s.ID = "", ""
		placed(s)
		shapes[d.name] = s
	}
	return shapes, nil
}

// placed makes references by name references by place.
func placed(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	for _, d := range schemas() {
		if s.Ref == urn(d.name) {
			s.Ref = component(d.name).Ref
		}
	}
	for _, inner := range append(s.AnyOf, s.If, s.Then, s.Else) {
		placed(inner)
	}
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		placed(p.Value)
	}
}

func component(name string) *jsonschema.Schema {
	return &jsonschema.Schema{Ref: "#/components/schemas/" + name}
}

// narrowed is a schema with one field more exactly.
func narrowed(name, field string, s *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{AllOf: []*jsonschema.Schema{component(name), properties(map[string]*jsonschema.Schema{field: s})}}
}

// eventHeaders are the NATS headers of an event.
func eventHeaders() *jsonschema.Schema {
	s := properties(map[string]*jsonschema.Schema{
		"Content-Type": only(wire.EventContentType),
		"Nats-Msg-Id":  {Type: "string", MaxLength: new(uint64(96)), Description: "The event's id."},
	})
	s.Type, s.Required = "object", []string{"Content-Type", "Nats-Msg-Id"}
	return s
}

func asyncMessages() (map[string]asyncMessage, error) {
	steps, withdrawn, err := exampleEvents()
	if err != nil {
		return nil, err
	}
	said := exampleRemote()
	message := func(name, title string, payload *jsonschema.Schema) asyncMessage {
		return asyncMessage{Name: name, Title: title, ContentType: "application/json", Payload: payload, Examples: said[name]}
	}
	event := func(name, title string, data string, examples ...wire.CloudEvent) asyncMessage {
		m := message(name, title, narrowed("event", "data", component(data)))
		m.ContentType, m.Headers = wire.EventContentType, eventHeaders()
		for _, e := range examples {
			kind := strings.Split(e.Type, ".")
			m.Examples = append(m.Examples, asyncExample{kind[len(kind)-1], map[string]string{"Content-Type": wire.EventContentType, "Nats-Msg-Id": e.ID}, e})
		}
		return m
	}
	stored := message("stored", "Whether it is stored", &jsonschema.Schema{
		Type: "string", Pattern: `^(\+OK|-ERR .*)$`, Description: "+OK: stored. Anything else, or no answer: send it again later.",
	})
	stored.ContentType = "text/plain"
	return map[string]asyncMessage{
		"sms":           event("sms", "Step of an SMS", "sms", steps...),
		"withdrawn":     event("withdrawn", "Consent withdrawn", "withdrawn", withdrawn),
		"remoteRequest": message("remoteRequest", "Text to send", component("remote-request")),
		"remoteAnswer":  message("remoteAnswer", "Answer to a text", component("remote-answer")),
		"receipt":       message("receipt", "Receipt", narrowed("remote-event", "event", only("receipt"))),
		"incoming":      message("incoming", "Text from a phone", narrowed("remote-event", "event", only("incoming"))),
		"stored":        stored,
	}, nil
}

// What the examples are of. The numbers are of Ofcom's range for drama.
var (
	exampleTime    = time.Unix(1_800_000_000, 0)
	exampleMessage = wire.MessageIDOf([]byte("an example"))
)

func examplePseudonym() wire.EventPseudonym {
	return wire.IntegratorPseudonym([]byte("an example"), wire.ID{1})
}

func exampleEvents() (steps []wire.CloudEvent, withdrawn wire.CloudEvent, err error) {
	for attempt, state := range []string{"queued", "delivered"} {
		e, err := wire.NewSMSEvent("bluejay", examplePseudonym(), exampleTime, wire.SMSEvent{
			Message: exampleMessage.String(), State: state, Attempt: attempt, Parts: 1, Route: "uk",
		})
		if err != nil {
			return nil, withdrawn, err
		}
		steps = append(steps, e)
	}
	withdrawn, err = wire.NewWithdrawnEvent("bluejay", examplePseudonym(), exampleTime)
	return steps, withdrawn, err
}

func exampleRemote() map[string][]asyncExample {
	const to, own, text = "+447700900123", "+447700900999", "Shall we walk to the sea today?"
	id := exampleMessage.String()
	one := func(name string, payload any) asyncExample { return asyncExample{Name: name, Payload: payload} }
	return map[string][]asyncExample{
		"remoteRequest": {one("text", sms.RemoteRequest{
			ID: id, To: to, From: "Bluejay", Text: text, Parts: 1, ValidUntil: exampleTime.UTC().Add(time.Hour), Class: wire.ClassNormal.String(),
		})},
		"remoteAnswer": {one("accepted", sms.RemoteAnswer{Status: "accepted", ID: "4711"}), one("busy", sms.RemoteAnswer{Status: "throttled"})},
		"receipt":      {one("delivered", sms.RemoteEvent{Event: "receipt", ID: "4711", To: to, State: "delivered"})},
		"incoming":     {one("stop", sms.RemoteEvent{Event: "incoming", To: own, From: to, Text: "STOP"})},
		"stored":       {one("stored", "+OK"), one("notStored", "-ERR not stored: send it again")},
	}
}

func asyncapiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "asyncapi", Short: "Print an AsyncAPI 3.0 document of everything an integrator hears and says",
		Example: "  bluejay nats asyncapi > asyncapi.json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := asyncAPI()
			if err != nil {
				return err
			}
			return writeIndented(c.OutOrStdout(), d)
		},
	}
}
