package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// fakePhone is a handset that does as it is told and remembers what it was asked.
type fakePhone struct {
	status   handset.Status
	contacts []handset.Contact
	texts    []handset.Text
	proofs   []handset.Proof
	calls    []string         // in order: "enrol", "send 1 Hello"
	fail     map[string]error // by the first word of a call
	safety   string
	accepted [16]byte // hash of the notice accepted last
}

func (f *fakePhone) call(format string, args ...any) error {
	c := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, c)
	word, _, _ := strings.Cut(c, " ")
	return f.fail[word]
}

// dialled lists the calls that open a connection.
func (f *fakePhone) dialled() []string {
	return slices.DeleteFunc(slices.Clone(f.calls), func(c string) bool {
		word, _, _ := strings.Cut(c, " ")
		return !slices.Contains([]string{"connect", "enrol", "confirm", "optin", "optout"}, word)
	})
}

func (f *fakePhone) Notice(lang string) handset.Notice { return (*handset.Handset)(nil).Notice(lang) }
func (f *fakePhone) Status() handset.Status            { return f.status }
func (f *fakePhone) Contacts() []handset.Contact       { return slices.Clone(f.contacts) }
func (f *fakePhone) Proofs() []handset.Proof           { return slices.Clone(f.proofs) }

func (f *fakePhone) Texts(c handset.ContactID) []handset.Text {
	return slices.DeleteFunc(slices.Clone(f.texts), func(t handset.Text) bool { return t.Contact != c })
}

func (f *fakePhone) SafetyNumber(c handset.ContactID) (string, error) {
	return f.safety, f.call("safety %d", uint32(c))
}

func (f *fakePhone) Enrol(_ context.Context, n wire.Number, a handset.Notice) error {
	if a.Hash != f.Notice(a.Lang).Hash {
		return handset.ErrNotice
	}
	f.status.Number = n
	return f.call("enrol %s", n.E164())
}

func (f *fakePhone) Confirm(_ context.Context, otp string) error {
	err := f.call("confirm %s", otp)
	f.status.Enrolled = f.status.Enrolled || err == nil
	f.status.Connected = f.status.Enrolled
	return err
}

// Accept is no call of its own: it sends nothing.
func (f *fakePhone) Accept(n handset.Notice) error {
	if n != f.Notice(n.Lang) {
		return handset.ErrNotice
	}
	f.accepted = n.Hash
	return f.fail["accept"]
}

func (f *fakePhone) OptIn(_ context.Context, s wire.Scope, _ wire.Visibility) error {
	f.agreed(s)
	return f.call("optin %d", byte(s))
}

func (f *fakePhone) OptOut(context.Context) error {
	f.agreed(0)
	return f.call("optout")
}

func (f *fakePhone) agreed(s wire.Scope) {
	f.status.On, f.status.Connected = s != 0, s != 0
	f.proofs = append(f.proofs, handset.Proof{Consent: wire.Consent{Scopes: s}})
}

func (f *fakePhone) Connect(context.Context) error {
	f.status.Connected = f.fail["connect"] == nil
	return f.call("connect")
}

func (f *fakePhone) AddContact(_ context.Context, name string, n wire.Number) (handset.ContactID, error) {
	id := handset.ContactID(len(f.contacts) + 1)
	f.contacts = append(f.contacts, handset.Contact{ID: id, Name: name, Number: n})
	return id, f.call("add %s %s", n.E164(), name)
}

func (f *fakePhone) AddDialled(name, dialled string) (handset.ContactID, error) {
	id := handset.ContactID(len(f.contacts) + 1)
	f.contacts = append(f.contacts, handset.Contact{ID: id, Name: name, Dialled: handset.Dialled(dialled)})
	return id, f.call("dialled %s %s", dialled, name)
}

func (f *fakePhone) Send(_ context.Context, c handset.ContactID, text string) (handset.TextID, error) {
	if err := f.call("send %d %s", uint32(c), text); err != nil {
		return 0, err
	}
	id := handset.TextID(len(f.texts) + 1)
	f.texts = append(f.texts, handset.Text{ID: id, Contact: c, Out: true, Body: text, Action: handset.CanCancel, At: teatime})
	return id, nil
}

func (f *fakePhone) SendAgain(_ context.Context, id handset.TextID, p fallback.Path) error {
	return f.call("again %d %d", uint64(id), p)
}

func (f *fakePhone) Cancel(_ context.Context, id handset.TextID) error {
	return f.call("cancel %d", uint64(id))
}

func (f *fakePhone) edit(c handset.ContactID, change func(*handset.Contact)) {
	for i := range f.contacts {
		if f.contacts[i].ID == c {
			change(&f.contacts[i])
		}
	}
}

func (f *fakePhone) AcceptChange(c handset.ContactID) error {
	f.edit(c, func(c *handset.Contact) { c.Changed = false })
	return f.call("accept %d", uint32(c))
}

func (f *fakePhone) Block(c handset.ContactID) error {
	f.edit(c, func(c *handset.Contact) { c.Blocked = true })
	return f.call("block %d", uint32(c))
}

func (f *fakePhone) Unblock(c handset.ContactID) error {
	f.edit(c, func(c *handset.Contact) { c.Blocked = false })
	return f.call("unblock %d", uint32(c))
}

func (f *fakePhone) SetMode(c handset.ContactID, m fallback.Mode) error {
	f.edit(c, func(c *handset.Contact) { c.Mode = m })
	return f.call("mode %d %d", uint32(c), m)
}

func (f *fakePhone) OpenConversation(c handset.ContactID) error { return f.call("open %d", uint32(c)) }
func (f *fakePhone) SetVisibleTo(v handset.VisibleTo) error     { return f.call("visible %d", v) }
func (f *fakePhone) DeleteText(id handset.TextID) error         { return f.call("erase %d", uint64(id)) }
func (f *fakePhone) DeleteConversation(c handset.ContactID) error {
	return f.call("forget %d", uint32(c))
}

func (f *fakePhone) Export(w io.Writer) error {
	_, err := io.WriteString(w, "{}\n")
	return errors.Join(err, f.call("export"))
}

func (f *fakePhone) WriteReceipt(w io.Writer) error {
	_, err := io.WriteString(w, "{}\n")
	return errors.Join(err, f.call("receipt"))
}

// teatime is when everything happens.
var teatime = time.Date(2026, 11, 21, 17, 4, 0, 0, time.UTC)

// screen drives a phoneModel as bubbletea would, one message after the other.
type screen struct {
	t     *testing.T
	model phoneModel
	saved phoneSettings
	over  bool
}

func newScreen(t *testing.T, dev phoneDevice, change func(*phoneConfig)) *screen {
	t.Helper()
	s := &screen{t: t}
	cfg := phoneConfig{
		ctx: t.Context(), dev: dev, zone: time.UTC, plain: true, settings: phoneSettings{Lang: "en"},
		save: func(p phoneSettings) error { s.saved = p; return nil },
	}
	if change != nil {
		change(&cfg)
	}
	s.model = newPhoneModel(cfg)
	s.run(s.model.Init())
	s.send(tea.WindowSizeMsg{Width: 100, Height: 24})
	return s
}

// run carries out a command and what follows from it.
func (s *screen) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range msg {
			s.run(c)
		}
	case tea.QuitMsg:
		s.over = true
	default:
		s.send(msg)
	}
}

func (s *screen) send(msg tea.Msg) {
	m, cmd := s.model.Update(msg)
	s.model = m.(phoneModel)
	s.run(cmd)
	s.check()
}

// keys presses keys: names as bubbletea has them, or a text to type in quotes.
func (s *screen) keys(names ...string) *screen {
	s.t.Helper()
	for _, n := range names {
		if text, ok := strings.CutPrefix(n, `"`); ok {
			for _, r := range strings.TrimSuffix(text, `"`) {
				s.send(tea.KeyPressMsg{Code: r, Text: string(r)})
			}
			continue
		}
		s.send(press(n))
	}
	return s
}

var keyCodes = map[string]rune{
	"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown,
	"pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown, "backspace": tea.KeyBackspace,
}

func press(name string) tea.KeyPressMsg {
	if rest, ok := strings.CutPrefix(name, "ctrl+"); ok {
		return tea.KeyPressMsg{Code: []rune(rest)[0], Mod: tea.ModCtrl}
	}
	if rest, ok := strings.CutPrefix(name, "shift+"); ok {
		return tea.KeyPressMsg{Code: keyCodes[rest], Mod: tea.ModShift}
	}
	if c, ok := keyCodes[name]; ok {
		return tea.KeyPressMsg{Code: c}
	}
	return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
}

// check holds every view to what any terminal needs: no line too wide, not too many, no control
// character but line ends.
func (s *screen) check() {
	s.t.Helper()
	v := s.view()
	lines := strings.Split(v, "\n")
	if len(lines) > max(s.model.height, 1) {
		s.t.Errorf("%d lines in a window of %d:\n%s", len(lines), s.model.height, v)
	}
	for _, l := range lines {
		if w := ansi.StringWidth(l); w > max(s.model.width, 0) {
			s.t.Errorf("a line of %d cells in a window of %d: %q", w, s.model.width, l)
		}
	}
	for _, r := range v {
		if clean, keep := cleanRune(r); s.model.plain && (!keep || clean != r) {
			s.t.Errorf("%U reaches the terminal", r)
		}
	}
}

func (s *screen) view() string { return s.model.View().Content }

func (s *screen) shows(wants ...string) {
	s.t.Helper()
	v := s.view()
	flat := strings.Join(strings.Fields(v), " ")
	for _, w := range wants {
		if !strings.Contains(v, w) && !strings.Contains(flat, w) {
			s.t.Errorf("%q is not on the screen:\n%s", w, v)
		}
	}
}

func (s *screen) hides(words ...string) {
	s.t.Helper()
	for _, w := range words {
		if strings.Contains(s.view(), w) {
			s.t.Errorf("%q is on the screen:\n%s", w, s.view())
		}
	}
}

func mustNumber(t testing.TB, s string) wire.Number {
	t.Helper()
	n, err := wire.ParseNumber(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// atHome is a phone that is on, with Bob (blue) and Carol (grey) in its contacts.
func atHome(t testing.TB) *fakePhone {
	f := &fakePhone{fail: map[string]error{}}
	f.status = handset.Status{Enrolled: true, Number: mustNumber(t, "+447700900001")}
	f.agreed(wire.ScopeMessaging | wire.ScopePresence)
	f.contacts = []handset.Contact{
		{ID: 1, Name: "Bob", Number: mustNumber(t, "+447700900002"), Colour: handset.Blue, Known: true, Session: true},
		{ID: 2, Name: "Carol", Number: mustNumber(t, "+447700900003"), Known: true, Session: true},
	}
	return f
}

func wantCalls(t *testing.T, f *fakePhone, want ...string) {
	t.Helper()
	got := slices.DeleteFunc(slices.Clone(f.calls), func(c string) bool { return c == "connect" })
	if !slices.Equal(got, want) {
		t.Errorf("the handset was asked %q, want %q", got, want)
	}
}
