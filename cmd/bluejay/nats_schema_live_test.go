package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// wiretap stands between an integrator and the node's NATS, and keeps each message as it is on the wire,
// in both directions: whatever library the integrator uses.
type wiretap struct {
	url string
	ln  net.Listener

	mu       sync.Mutex
	messages []tapped
	errs     []error
}

// tapped is one message. It was sent by the integrator, or received.
type tapped struct {
	sent           bool
	subject, reply string
	header         textproto.MIMEHeader
	payload        []byte
}

// tap listens, and passes on to a NATS server.
func tap(t *testing.T, server string) *wiretap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wiretap{url: "nats://" + ln.Addr().String(), ln: ln}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.serve(c, strings.TrimPrefix(server, "nats://")) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return w
}

func (w *wiretap) serve(client net.Conn, server string) {
	defer func() { _ = client.Close() }()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return // the node has been stopped, and the client hears so; whoever expects messages asks for them
	}
	defer func() { _ = s.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() { w.copy(s, client, true); _ = s.Close() })
	wg.Go(func() { w.copy(client, s, false); _ = client.Close() })
	wg.Wait()
}

func (w *wiretap) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

// copy passes one direction on, line by line, until it ends.
func (w *wiretap) copy(to io.Writer, from io.Reader, sent bool) {
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		m, head, size, err := parseLine(strings.Fields(string(line)))
		if err != nil {
			w.failed(err)
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		if size > 0 {
			m.sent = sent
			w.keep(m, head, body)
		}
		if _, err := to.Write(append(line, body...)); err != nil {
			return
		}
	}
}

// parseLine reads a line of the NATS protocol: PUB and MSG, or with headers HPUB and HMSG, have a body,
// here with the two bytes after it. Others have none.
func parseLine(words []string) (m tapped, head, size int, err error) {
	if len(words) == 0 || !slices.Contains([]string{"PUB", "HPUB", "MSG", "HMSG"}, words[0]) {
		return m, 0, 0, nil
	}
	op, numbers, names := words[0], 1, words[1:]
	if op[0] == 'H' {
		numbers = 2
	}
	if len(names) < numbers+1 {
		return m, 0, 0, fmt.Errorf("not NATS: %q", words)
	}
	counts := names[len(names)-numbers:]
	names = names[:len(names)-numbers]
	size, err = strconv.Atoi(counts[numbers-1])
	if numbers == 2 && err == nil {
		head, err = strconv.Atoi(counts[0])
	}
	m.subject = names[0]
	if strings.HasSuffix(op, "MSG") {
		names = names[1:] // the subscription
	}
	if len(names) > 1 {
		m.reply = names[1]
	}
	return m, head, size + 2, err
}

func (w *wiretap) keep(m tapped, head int, body []byte) {
	m.payload = body[head : len(body)-2]
	if _, fields, ok := bytes.Cut(body[:head], []byte("\r\n")); ok {
		h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(fields))).ReadMIMEHeader()
		if err != nil {
			w.failed(err)
		}
		m.header = h
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages = append(w.messages, m)
}

// documented holds everything that was heard and said to the AsyncAPI document, and wants each of these
// operations at least once, "name" or "name answer".
func (w *wiretap) documented(t *testing.T, operations ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(w.errs...); err != nil {
		t.Fatal(err)
	}
	d, tree := asyncTree(t)
	c := &converse{asyncDocument: d, tree: tree, answers: map[string]string{}, count: map[string]int{}}
	for _, m := range w.messages {
		if err := c.hear(t, m); err != nil {
			t.Errorf("%s: %v\n%s", m.subject, err, m.payload)
		}
	}
	for _, o := range operations {
		if c.count[o] == 0 {
			t.Errorf("no %s among %v", o, c.count)
		}
	}
	if len(c.count) != len(operations) {
		t.Errorf("%v, want only %q", c.count, operations)
	}
	t.Logf("as documented: %v", c.count)
}

// converse is a conversation held to the document.
type converse struct {
	asyncDocument
	tree    any
	answers map[string]string // by the subject they come on, the operation
	count   map[string]int    // of messages, by operation
}

// hear finds the operation of a message, and the one of its messages that it is.
func (c *converse) hear(t *testing.T, m tapped) error {
	t.Helper()
	for name, o := range c.Operations {
		if (o.Action == "send") != m.sent || c.address(o.Channel) == "" {
			continue
		}
		if values, ok := matched(c.address(o.Channel), m.subject); ok {
			if o.Reply != nil && m.reply != "" {
				c.answers[m.reply] = name
			}
			c.count[name]++
			return c.one(t, m, o.Messages, c.Channels[channelName(o.Channel)].Parameters, values)
		}
	}
	if name, ok := c.answers[m.subject]; ok {
		o := c.Operations[name]
		if (o.Action == "send") == m.sent {
			return errors.New("an answer in the wrong direction")
		}
		c.count[name+" answer"]++
		return c.one(t, m, o.Reply.Messages, nil, nil)
	}
	if strings.HasPrefix(m.subject, "$JS.") || strings.HasPrefix(m.subject, "_INBOX.") {
		return nil // NATS's own
	}
	return errors.New("no operation of the document is this")
}

func channelName(r ref) string           { return strings.TrimPrefix(r.Ref, "#/channels/") }
func (c *converse) address(r ref) string { return deref(c.Channels[channelName(r)].Address) }
func messageName(r ref) string           { return r.Ref[strings.LastIndexByte(r.Ref, '/')+1:] }
func instance(m asyncMessage, b []byte) any {
	return map[bool]any{true: string(b)}[m.ContentType == "text/plain"]
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

var named = regexp.MustCompile(`\\\{([a-z]+)\\\}`)

// matched compares a subject with an address and returns what its parameters are.
func matched(address, subject string) (map[string]string, bool) {
	form := regexp.MustCompile("^" + named.ReplaceAllString(regexp.QuoteMeta(address), `(?P<$1>[^.]+)`) + "$")
	found := form.FindStringSubmatch(subject)
	values := map[string]string{}
	for i, name := range form.SubexpNames() {
		if name != "" && found != nil {
			values[name] = found[i]
		}
	}
	return values, found != nil
}

// one wants a message to be exactly one of those that an operation has, with its headers, and the
// parameters of the subject to be where they are said to be in it.
func (c *converse) one(t *testing.T, m tapped, among []ref, parameters map[string]asyncParameter, values map[string]string) error {
	t.Helper()
	var is []string
	var errs []error
	for _, r := range among {
		kind := c.Components.Messages[messageName(r)]
		err := c.valid(t, kind, m, parameters, values)
		if err == nil {
			is = append(is, kind.Name)
		}
		errs = append(errs, err)
	}
	if len(is) == 1 {
		return nil
	}
	return fmt.Errorf("it is %q: %w", is, errors.Join(errs...))
}

func (c *converse) valid(t *testing.T, kind asyncMessage, m tapped, parameters map[string]asyncParameter, values map[string]string) error {
	t.Helper()
	document := instance(kind, m.payload)
	if document == nil {
		document = parsedJSON(t, m.payload)
	}
	if err := payload(t, c.tree, kind.Name).Validate(document); err != nil {
		return err
	}
	for name, p := range parameters {
		if said := at(document, strings.TrimPrefix(p.Location, "$message.payload")); said != values[name] {
			return fmt.Errorf("%s is %q in the subject and %v in the event", name, values[name], said)
		}
		if len(p.Enum) > 0 && !slices.Contains(p.Enum, values[name]) {
			return fmt.Errorf("%s may not be %q", name, values[name])
		}
	}
	if kind.Headers == nil {
		return nil
	}
	h := map[string]any{}
	for name := range m.header {
		h[name] = m.header.Get(name)
	}
	if h["Nats-Msg-Id"] != at(document, "#/id") {
		return fmt.Errorf("the headers are %v", h)
	}
	return compiled(t, jsonschema.Draft7, c.tree, "#/components/messages/"+kind.Name+"/headers").Validate(h)
}

// TestWiretapBites: what is not as documented is found.
func TestWiretapBites(t *testing.T) {
	t.Parallel()
	d, tree := asyncTree(t)
	event := []byte(valid["event"]["delivered"])
	header := textproto.MIMEHeader{"Content-Type": {"application/cloudevents+json"}, "Nats-Msg-Id": {"CQkAAAAAAAAAAAAAAAAAAA.delivered"}}
	good := tapped{subject: "bluejay.events.sms.delivered.KxUNi6vs6-4WacXpc8DVYA", header: header, payload: event}
	for name, tt := range map[string]struct {
		change func(*tapped)
		want   string
	}{
		"nothing":            {func(*tapped) {}, ""},
		"published":          {func(m *tapped) { m.sent = true }, "no operation"},
		"another subject":    {func(m *tapped) { m.subject = "bluejay.jobs.normal.x" }, "no operation"},
		"another user":       {func(m *tapped) { m.subject = strings.Replace(m.subject, "KxUN", "AAAA", 1) }, "user is"},
		"another state":      {func(m *tapped) { m.subject = strings.Replace(m.subject, "delivered", "expired", 1) }, "state is"},
		"an unknown state":   {func(m *tapped) { m.subject = strings.Replace(m.subject, "delivered", "read", 1) }, "state is"},
		"withdrawn, it says": {func(m *tapped) { m.subject = "bluejay.events.consent.withdrawn.KxUNi6vs6-4WacXpc8DVYA" }, "data"},
		"no headers":         {func(m *tapped) { m.header = nil }, "headers"},
		"another id":         {func(m *tapped) { m.header = textproto.MIMEHeader{"Nats-Msg-Id": {"x"}} }, "headers"},
		"a number": {func(m *tapped) {
			m.payload = bytes.Replace(event, []byte(`"parts"`), []byte(`"to":"+447700900123","parts"`), 1)
		}, "additional properties"},
		"of NATS":             {func(m *tapped) { m.subject = "_INBOX.x" }, ""},
		"an answer to nobody": {func(m *tapped) { m.sent, m.subject = true, "_INBOX_bluejay.x" }, "no operation"},
	} {
		m := good
		tt.change(&m)
		c := &converse{asyncDocument: d, tree: tree, answers: map[string]string{}, count: map[string]int{}}
		if err := c.hear(t, m); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
