package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// program is what reads and writes a phone with --json.
type program struct {
	t      *testing.T
	in     *io.PipeWriter
	out    *bufio.Scanner
	events chan handset.Event
	sim    terminalSIM
	saved  phoneSettings
}

func startJSON(t *testing.T, dev phoneDevice) *program {
	t.Helper()
	in, write := io.Pipe()
	read, out := io.Pipe()
	p := &program{t: t, in: write, out: bufio.NewScanner(read), events: make(chan handset.Event), sim: make(terminalSIM, 1)}
	s := &phoneScript{dev: dev, out: out, save: func(s phoneSettings) error { p.saved = s; return nil }}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.run(t.Context(), p.events, p.sim, in); err != nil {
			t.Error(err)
		}
		_ = out.Close()
	})
	t.Cleanup(func() {
		_ = write.Close()
		for p.out.Scan() { // what nobody has read
		}
		wg.Wait()
	})
	p.want("ready")
	return p
}

// next reads one line of output.
func (p *program) next() map[string]any {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatal("the output ends")
	}
	var l map[string]any
	if err := json.Unmarshal(p.out.Bytes(), &l); err != nil {
		p.t.Fatalf("%s: %v", p.out.Text(), err)
	}
	return l
}

func (p *program) want(event string) map[string]any {
	p.t.Helper()
	l := p.next()
	if l["event"] != event {
		p.t.Errorf("event %v, want %v", l, event)
	}
	return l
}

func (p *program) do(line, event string) map[string]any {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
	return p.want(event)
}

// [U-1] the way of a program: nothing is dialled before its optin.
func TestPhoneJSON(t *testing.T) {
	f := &fakePhone{}
	p := startJSON(t, f)
	n := p.do(`{"do":"notice"}`, "done")
	if n["notice"] != f.Notice("en").Text {
		t.Errorf("notice: %v", n)
	}
	p.do(`{"do":"status"}`, "done")
	p.do(`{"do":"contacts"}`, "done")
	p.do(`{"do":"optin","number":"+447700900001","notice":"00"}`, "error")
	p.do(`{"do":"optin","number":"+447700900001","scopes":["everything"]}`, "error")
	p.do(`{"do":"optin","number":"+447700900001","scopes":["presence"]}`, "error")
	p.do(`{"do":"optin","number":"07700 900001"}`, "error")
	if len(f.dialled()) > 0 {
		t.Errorf("dialled %q", f.dialled())
	}
	p.do(`{"do":"optin","number":"+447700900001","notice":"`+n["hash"].(string)+`","scopes":["messaging","presence","gateway"]}`, "done")
	if l := p.do(`{"do":"otp","code":"123456"}`, "done"); l["on"] != true {
		t.Errorf("%v", l)
	}
	p.do(`{"do":"add","name":"Bob","number":"+447700900002"}`, "done")
	p.do(`{"do":"add","name":"Police","number":"999"}`, "done") // [U-11]
	if l := p.do(`{"do":"send","to":"Bob","text":"Hello"}`, "done"); l["id"] != 1.0 || l["contact"] != 1.0 {
		t.Errorf("%v", l)
	}
	l := p.do(`{"do":"texts","with":"+44 7700 900002"}`, "done")
	if got := l["texts"].([]any)[0].(map[string]any); got["text"] != "Hello" || got["state"] != "waiting" || got["action"] != "cancel" {
		t.Errorf("%v", l)
	}
	p.do(`{"do":"optout"}`, "done")
	p.do(`{"do":"optin"}`, "done")
	wantCalls(t, f, "enrol +447700900001", "confirm 123456", "optin 7", "add +447700900002 Bob", "dialled 999 Police", "send 1 Hello", "optout", "optin 3")
	p.do(`{"do":"quit"}`, "done")
}

func TestPhoneJSONCommands(t *testing.T) {
	dir := t.TempDir()
	tests := []struct{ line, call string }{
		{`{"do":"open","with":"Bob"}`, "open 1"},
		{`{"do":"accept","with":"2"}`, "accept 2"},
		{`{"do":"block","with":"+447700900002"}`, "block 1"},
		{`{"do":"unblock","with":"1"}`, "unblock 1"},
		{`{"do":"mode","with":"Bob","mode":"never"}`, "mode 1 4"},
		{`{"do":"mode","with":"Bob"}`, "mode 1 0"},
		{`{"do":"again","id":3,"via":"device"}`, "again 3 2"},
		{`{"do":"cancel","id":3}`, "cancel 3"},
		{`{"do":"delete","id":3}`, "erase 3"},
		{`{"do":"delete","with":"Bob"}`, "forget 1"},
		{`{"do":"safety","with":"Bob"}`, "safety 1"},
		{`{"do":"visible","visible":"anyone"}`, "visible 1"},
		{`{"do":"export","file":"` + filepath.Join(dir, "e.json") + `"}`, "export"},
		{`{"do":"receipt","file":"` + filepath.Join(dir, "r.json") + `"}`, "receipt"},
	}
	for _, tt := range tests {
		f := atHome(t)
		f.status.On, f.proofs = false, nil // not connecting
		p := startJSON(t, f)
		p.do(tt.line, "done")
		wantCalls(t, f, tt.call)
	}
}

// Every command that cannot be understood or carried out is answered with the reason.
func TestPhoneJSONErrors(t *testing.T) {
	f := atHome(t)
	f.status.On, f.proofs = false, nil
	f.fail["cancel"], f.fail["confirm"], f.fail["enrol"] = handset.ErrTooLate, wire.WrongPassword, wire.OverQuota
	f.contacts = append(f.contacts, handset.Contact{ID: 3, Name: "Bob", Number: mustNumber(t, "+447700900009")})
	p := startJSON(t, f)
	for _, line := range []string{
		`hello`, `[]`, `"send"`, `{}`, `{"do":"dance"}`, `{"do":4}`, `{"do":"send","to":"Zoe","text":"x"}`, `{"do":"send","to":"Bob","text":"x"}`,
		`{"do":"send","text":"x"}`, `{"do":"texts"}`, `{"do":"add","number":"12345678"}`, `{"do":"again","id":1,"via":"pigeon"}`,
		`{"do":"mode","with":"Carol","mode":"sometimes"}`, `{"do":"visible"}`, `{"do":"cancel","id":1}`, `{"do":"otp","code":"1"}`,
		`{"do":"optin","number":"+447700900001"}`, `{"do":"delete"}`, `{"do":"safety"}`, `{"do":"export","file":"/nowhere/at/all"}`, `{"do":"receipt"}`, `{"do":"block"}`,
	} {
		if l := p.do(line, "error"); l["why"] == "" || l["why"] == nil {
			t.Errorf("%s: %v", line, l)
		}
	}
	if _, err := io.WriteString(p.in, "\n  \n"); err != nil { // empty lines are nothing
		t.Fatal(err)
	}
	p.do(`{"do":"status"}`, "done")
	go func() { _, _ = io.WriteString(p.in, strings.Repeat("x", maxCommand+1)) }() // ends the input
	p.want("error")
}

// Events, with the texts they are about; and no character that could control a terminal. [U-3]
func TestPhoneJSONEvents(t *testing.T) {
	f := atHome(t)
	f.status.On, f.proofs = false, nil
	f.texts = []handset.Text{{ID: 7, Contact: 1, Body: "\x1b[2J\u009b\u202ehi\u2028", State: handset.Received, At: teatime}}
	p := startJSON(t, f)
	p.events <- handset.Event{Kind: handset.TextReceived, Contact: 1, Text: 7}
	l := p.want("received")
	if l["text"] != f.texts[0].Body || l["name"] != "Bob" {
		t.Errorf("%v", l)
	}
	if line := p.out.Text(); cleanText(line) != line {
		t.Errorf("raw: %q", line)
	}
	p.events <- handset.Event{Kind: handset.PresenceChanged, Contact: 2, Colour: handset.Blue}
	if l := p.want("presence"); l["colour"] != "blue" || l["contact"] != 2.0 {
		t.Errorf("%v", l)
	}
	p.events <- handset.Event{Kind: handset.TextChanged, Contact: 1, Text: 9, State: handset.Delivered}
	if l := p.want("text"); l["state"] != "delivered" || l["id"] != 9.0 {
		t.Errorf("%v", l)
	}
	p.events <- handset.Event{Kind: handset.Refused, Code: wire.Revoked}
	if l := p.want("refused"); l["why"] != wire.Revoked.String() {
		t.Errorf("%v", l)
	}
	p.sim <- simulatedSMS{"999", 1}
	if l := p.want("sms"); l["simulated"] != true || !strings.Contains(l["words"].(string), "nothing was sent") {
		t.Errorf("%v", l)
	}
	for k := handset.PresenceChanged; k <= handset.Missed; k++ {
		if phoneEvents[k] == "" {
			t.Errorf("event %d has no name", k)
		}
	}
}

// A phone that is on connects by itself, and says so if it cannot. [U-1]
func TestPhoneJSONConnects(t *testing.T) {
	f := atHome(t)
	f.fail["connect"] = handset.ErrRefused
	p := startJSON(t, f)
	if l := p.want("error"); l["do"] != "connect" {
		t.Errorf("%v", l)
	}
}

// The end of the input, or of the program, is a quit; a reader that is gone is an error.
func TestPhoneJSONEnds(t *testing.T) {
	s := &phoneScript{dev: &fakePhone{}, out: io.Discard}
	if err := s.run(t.Context(), nil, nil, strings.NewReader("")); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never, w := io.Pipe()
	defer func() { _ = w.Close() }()
	if err := s.run(ctx, nil, nil, never); err != nil {
		t.Error(err)
	}
	closed := &phoneScript{dev: &fakePhone{}, out: brokenPipe{}}
	if err := closed.run(t.Context(), nil, nil, strings.NewReader(`{"do":"status"}`)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("nobody reads: %v", err)
	}
	var out bytes.Buffer
	closed = &phoneScript{dev: &fakePhone{}, out: &out}
	closed.print("x", phoneLine{"never": func() {}})
	if closed.err == nil {
		t.Error("what is no JSON was printed")
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
