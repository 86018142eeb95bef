package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"bluejay/clients/handset"
)

// inboxWatch keeps every event of a phone, so that waiting for one never misses it.
type inboxWatch struct {
	mu     sync.Mutex
	events []handset.Event
	next   int // events before it have been waited past
	more   chan struct{}
}

func watch(ch <-chan handset.Event) *inboxWatch {
	w := &inboxWatch{more: make(chan struct{}, 1)}
	go func() {
		for e := range ch {
			w.mu.Lock()
			w.events = append(w.events, e)
			w.mu.Unlock()
			select {
			case w.more <- struct{}{}:
			default:
			}
		}
	}()
	return w
}

// await returns when an event matches that no earlier await has gone past.
func (w *inboxWatch) await(ctx context.Context, match func(handset.Event) bool) error {
	for {
		w.mu.Lock()
		for w.next < len(w.events) {
			e := w.events[w.next]
			w.next++
			if match(e) {
				w.mu.Unlock()
				return nil
			}
		}
		w.mu.Unlock()
		select {
		case <-w.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// teller prints what happens: for programs one JSON object a line, for people a story.
type teller struct {
	out    io.Writer
	json   bool
	colour bool
}

func newTeller(out io.Writer, asJSON bool) *teller {
	f, ok := out.(*os.File)
	return &teller{out: out, json: asJSON, colour: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""}
}

// event prints one event with its fields, name and value in turn, in this order.
func (t *teller) event(name string, fields ...any) {
	if t.json {
		_, _ = t.out.Write(jsonLine(append([]any{"event", name}, fields...)))
		return
	}
	m := map[string]any{}
	for i := 0; i+1 < len(fields); i += 2 {
		m[fields[i].(string)] = fields[i+1]
	}
	line := stories[name+storyVariant(m)]
	if line == "" {
		return
	}
	_, _ = fmt.Fprintln(t.out, t.paint(fill(line, m)))
}

// jsonLine encodes fields in their order.
func jsonLine(fields []any) []byte {
	var b bytes.Buffer
	for i := 0; i+1 < len(fields); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		b.WriteByte(sep)
		k, _ := json.Marshal(fields[i])
		v, err := json.Marshal(fields[i+1])
		if err != nil {
			v = []byte("null")
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// storyVariant tells events of one name apart: by colour or path.
func storyVariant(m map[string]any) string {
	for _, k := range []string{"colour", "path"} {
		if v, ok := m[k].(string); ok {
			return "/" + v
		}
	}
	return ""
}

// stories is what a person reads. {name} is a field; [b…], [g…], [k…] and [r…] are blue, grey,
// green and red up to the next ].
var stories = map[string]string{
	"started": `A node has started on {addr}: broker, registrar and SMS worker, {processes} processes with
separate keys; beside it an SMSC that nobody here wrote. (For the demo an icon turns grey after
{grey_min} to {grey_max}, in service after 20 to 40 s; the deadline is {deadline}, as in service.)
`,
	"before_consent": `[k✓] Alice has not agreed to anything yet. She adds Bob, she tries to connect:
  {dials} dials, {bytes} bytes left her phone.`,
	"enrolled": `[k✓] {phone} read the notice, got a one-time password by SMS and opted in ({ms} ms).
  Now the same counter shows {bytes_after_consent} bytes.`,
	"presence/blue": `[k✓] Alice adds Bob, and his icon turns [b● blue] ({ms} ms): texts to him are free now.`,
	"delivered/ip": `[k✓] [b“{text}”] went over IP: Bob's phone has stored it before Alice
  was told "delivered". Median of {texts} texts: {ms} ms.`,
	"presence/grey": `[k✓] Bob's phone leaves. After {ms} ms his icon is [g○ grey].`,
	"delivered/sms": `[k✓] [g“{text}”] went as an SMS: the SMSC's own record has it.
  Median of {texts}: {ms} ms from Alice's thumb to the SMSC.`,
	"revoked": `[k✓] Bob comes back and opts out. {silence_ms} ms later it is silent, and only then
  his phone is told so.`,
	"after_revocation": `[k✓] {attempts} more publishes to Bob, the same bytes that reached him just before ({control_before} of 2):
  {deliveries} arrived.`,
	"scan": `[k✓] The node is stopped, and all it wrote ({files} files, {bytes} bytes: keys, logs, the NATS store)
  is searched for both numbers and every text in eight encodings: {numbers} numbers, {texts} texts.
  (The same search found all {control_found} planted ones.)`,
	"summary": `[k✓] {accepted} texts written: {ip} over IP, {sms} by SMS, {returned} returned, {unaccounted} unaccounted for, {doubled} doubled.

Next: [bbluejay serve] runs a node, [bbluejay phone] is a handset in your terminal.`,
	"failed": `[r✗ The demo failed: {reason}]`,
}

func fill(line string, m map[string]any) string {
	for k, v := range m {
		word := fmt.Sprint(v)
		if k == "phone" {
			word = strings.ToUpper(word[:1]) + word[1:]
		}
		line = strings.ReplaceAll(line, "{"+k+"}", word)
	}
	return line
}

var paints = map[byte]string{'b': "\x1b[1;34m", 'g': "\x1b[90m", 'k': "\x1b[32m", 'r': "\x1b[31m"}

// paint turns [x…] into colour on a terminal and into plain text elsewhere.
func (t *teller) paint(s string) string {
	var b strings.Builder
	open := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '[' && i+1 < len(s) && paints[s[i+1]] != "":
			i++
			open = true
			if t.colour {
				b.WriteString(paints[s[i]])
			}
		case s[i] == ']' && open:
			open = false
			if t.colour {
				b.WriteString("\x1b[0m")
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
