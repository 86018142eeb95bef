package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"

	"bluejay/clients/handset"
	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/wire"
)

// How long the phone waits for the node before it says so.
const phonePatience = 20 * time.Second

// phoneConfig is what the screen is made of.
type phoneConfig struct {
	ctx      context.Context // of the program; what waits for the node ends with it
	dev      phoneDevice
	settings phoneSettings
	number   wire.Number   // given by flag; zero: asked for
	mode     fallback.Mode // the rule the handset was opened with
	zone     *time.Location
	plain    bool // no colour and no other escape sequence (NO_COLOR)
	save     func(phoneSettings) error
}

// phoneModel is the screen. It is pure: messages in (keys, events, results), a view and commands
// out. It reads and changes the handset only inside commands, and never blocks.
//
// The screen is a page (a notice, a question, help), or, without one, the contacts with one
// conversation.
type phoneModel struct {
	phoneConfig
	theme         phoneTheme
	width, height int

	snap    phoneSnapshot
	reading bool // a snapshot is being taken
	stale   bool // and another is due after it
	begun   bool // the first snapshot has come

	with   handset.ContactID // the conversation shown; 0: none
	chosen handset.TextID    // the text that ^X is about; 0: the newest
	unread map[handset.ContactID]int
	drafts map[handset.ContactID]string
	input  textinput.Model

	page  *phonePage
	field textinput.Model // of the page
	note  string          // one line about what happened, until the next key
	busy  string          // what the node is being asked

	gateway bool       // ticked on the notice
	scopes  wire.Scope // agreed to, until the handset has signed them
	quit    bool
}

// phoneSnapshot is the handset as it was a moment ago.
type phoneSnapshot struct {
	status   handset.Status
	contacts []handset.Contact
	texts    []handset.Text // with the contact with
	with     handset.ContactID
	proofs   []handset.Proof
}

// scopes are those agreed to and in force.
func (s phoneSnapshot) scopes() wire.Scope {
	if n := len(s.proofs); s.status.On && n > 0 {
		return s.proofs[n-1].Consent.Scopes
	}
	return 0
}

// dials reports whether this phone connects by itself when it starts: if it is on, or if it was
// switched off without the node's word that it knows. [U-1] [U-10]
func (s phoneSnapshot) dials() bool {
	n := len(s.proofs)
	return s.status.Enrolled && (s.status.On || n > 0 && s.proofs[n-1].Consent.Scopes != 0)
}

// phoneDone is the end of something that was asked of the handset.
type phoneDone struct {
	what string // as given to ask
	err  error
	then func(*phoneModel, error) tea.Cmd
}

func newPhoneModel(c phoneConfig) phoneModel {
	m := phoneModel{
		phoneConfig: c, theme: newPhoneTheme(c.plain), width: 80, height: 24,
		unread: map[handset.ContactID]int{}, drafts: map[handset.ContactID]string{},
		reading: true,
	}
	m.input = newPhoneInput(envelope.MaxText)
	m.field = newPhoneInput(120)
	return m
}

func newPhoneInput(limit int) textinput.Model {
	in := textinput.New()
	in.Prompt = "> "
	in.CharLimit = limit
	in.SetVirtualCursor(false)
	in.SetStyles(textinput.Styles{}) // no colour of its own
	in.Focus()                       // the command only makes a virtual cursor blink
	return in
}

// Init reads the handset. It dials nothing. [U-1]
func (m phoneModel) Init() tea.Cmd { return m.read() }

// Update implements [tea.Model].
func (m phoneModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := m.handle(msg)
	if m.quit {
		cmd = tea.Quit
	}
	return m, cmd
}

func (m *phoneModel) handle(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m.key(msg)
	case tea.PasteMsg:
		return m.typed(tea.PasteMsg{Content: cleanLine(msg.Content)})
	case phoneSnapshot:
		return m.took(msg)
	case phoneDone:
		if m.busy == msg.what {
			m.busy = ""
		}
		return tea.Batch(msg.then(m, msg.err), m.refresh())
	case handset.Event:
		return tea.Batch(m.event(msg), m.refresh())
	case simulatedSMS:
		m.note = msg.String()
	}
	return nil
}

// read takes a snapshot of the handset.
func (m phoneModel) read() tea.Cmd {
	dev, with := m.dev, m.with
	return func() tea.Msg {
		s := phoneSnapshot{
			status: dev.Status(), contacts: dev.Contacts(), texts: dev.Texts(with), with: with, proofs: dev.Proofs(),
		}
		for i := range s.contacts {
			if !s.status.On { // nobody can be reached from a phone that is off [U-2]
				s.contacts[i].Colour = handset.Grey
			}
		}
		return s
	}
}

// refresh reads the handset again, one snapshot at a time, so that none is shown after a newer one.
func (m *phoneModel) refresh() tea.Cmd {
	if m.reading {
		m.stale = true
		return nil
	}
	m.reading = true
	return m.read()
}

// took shows a snapshot.
func (m *phoneModel) took(s phoneSnapshot) tea.Cmd {
	m.reading, m.snap = false, s
	if !slices.ContainsFunc(s.texts, func(t handset.Text) bool { return t.ID == m.chosen }) {
		m.chosen = 0
	}
	if m.stale || s.with != m.with {
		m.stale = false
		return m.refresh()
	}
	if m.with == 0 && len(s.contacts) > 0 {
		return m.open(s.contacts[0].ID)
	}
	if m.begun {
		return nil
	}
	m.begun = true
	return m.start()
}

// start decides what the user sees first: the notice, unless it was accepted before.
func (m *phoneModel) start() tea.Cmd {
	switch {
	case m.snap.dials():
		return m.connect()
	case m.snap.status.Enrolled:
		return nil // switched off: the same key switches it on again
	}
	m.page = m.noticePage()
	return nil
}

// ask lets the handset do something that takes time, and then continues.
func (m *phoneModel) ask(what string, f func(context.Context, phoneDevice) error, then func(*phoneModel, error) tea.Cmd) tea.Cmd {
	m.busy = orElse(what, m.busy)
	parent, dev := m.ctx, m.dev
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(parent, phonePatience)
		defer cancel()
		return phoneDone{what, f(ctx, dev), then}
	}
}

// tell is ask with nothing to do afterwards but to say how it went.
func (m *phoneModel) tell(done string, f func(context.Context, phoneDevice) error) tea.Cmd {
	return m.ask("", f, func(m *phoneModel, err error) tea.Cmd {
		m.note = done
		m.failed(err)
		return nil
	})
}

// failed shows an error, if there is one.
func (m *phoneModel) failed(err error) bool {
	if err != nil {
		m.note = phoneWhy(err)
	}
	return err != nil
}

// phoneWhy is an error in words for the user. The handset's errors hold no number and no text.
func phoneWhy(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the node has not answered in time"
	}
	s := strings.ReplaceAll(err.Error(), "handset: ", "")
	return cleanLine(strings.ReplaceAll(s, "\n", "; "))
}

func (m *phoneModel) connect() tea.Cmd {
	dial := func(ctx context.Context, d phoneDevice) error { return d.Connect(ctx) }
	return m.ask("connecting", dial, func(m *phoneModel, err error) tea.Cmd {
		if errors.Is(err, context.DeadlineExceeded) {
			m.note = "no connection yet; trying again and again"
			return nil
		}
		m.failed(err)
		return nil
	})
}

// phoneNotes says what an event means, where the change on the screen does not.
var phoneNotes = map[handset.EventKind]string{
	handset.Refused:       "the node refuses this phone: its clock is wrong, or a newer phone has its number",
	handset.ConsentEnded:  "switched off elsewhere: by STOP, from another phone, or by the operator. ^O switches on again",
	handset.RolledBack:    "this state is older than what the node has seen. Put it aside and enrol again in an empty directory",
	handset.StorageFailed: "the disk could not be written: nothing more is done. Free some space and start again",
	handset.Missed:        "too much happened at once: this is how it is now",
}

func (m *phoneModel) event(e handset.Event) tea.Cmd {
	if note, ok := phoneNotes[e.Kind]; ok {
		m.note = note
	}
	switch e.Kind {
	case handset.Refused:
		if e.Code == wire.TooOld {
			m.note = e.Code.String()
		}
	case handset.Silenced:
		m.note = "off: " + e.Reason.String() + ". ^O shows what to do"
	case handset.CertChanged:
		m.note = m.nameOf(e.Contact) + " has another device: nothing is sent until you accept it (^Y)" // [U-5]
	case handset.ContactAdded:
		m.note = "somebody new wrote to you"
	case handset.TextReceived:
		if e.Contact != m.with {
			m.unread[e.Contact]++
		}
	}
	return nil
}

// contact is the one whose conversation is shown.
func (m *phoneModel) contact() (handset.Contact, bool) { return m.find(m.with) }

func (m *phoneModel) find(id handset.ContactID) (handset.Contact, bool) {
	i := slices.IndexFunc(m.snap.contacts, func(c handset.Contact) bool { return c.ID == id })
	if i < 0 {
		return handset.Contact{}, false
	}
	return m.snap.contacts[i], true
}

func (m *phoneModel) nameOf(id handset.ContactID) string {
	if c, ok := m.find(id); ok {
		return shownName(c)
	}
	return "a contact"
}

// shownName is a contact's name, or its number if the user has given none.
func shownName(c handset.Contact) string {
	return orElse(cleanLine(c.Name), shownNumber(c))
}

func shownNumber(c handset.Contact) string {
	if c.Dialled != "" {
		return cleanLine(string(c.Dialled))
	}
	return c.Number.E164()
}

// open shows a conversation. What was being written to another stays with that one.
func (m *phoneModel) open(id handset.ContactID) tea.Cmd {
	m.drafts[m.with] = m.input.Value()
	m.with, m.chosen = id, 0
	m.input.SetValue(m.drafts[id])
	m.input.CursorEnd()
	delete(m.unread, id)
	return m.refresh()
}

// text is the one that ^X is about: the chosen one, or the newest.
func (m *phoneModel) text() (handset.Text, bool) {
	n := len(m.snap.texts)
	if m.snap.with != m.with || n == 0 {
		return handset.Text{}, false
	}
	return m.snap.texts[m.place()], true
}

// place is where the chosen text stands; there must be one.
func (m *phoneModel) place() int {
	i := slices.IndexFunc(m.snap.texts, func(t handset.Text) bool { return t.ID == m.chosen })
	if i < 0 {
		i = len(m.snap.texts) - 1
	}
	return i
}
