package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// phonePage is something the user reads, and answers by a key or by typing.
type phonePage struct {
	title   string
	body    string
	choices []phoneChoice
	field   bool // the user types, and ends with enter
	submit  func(*phoneModel, string) tea.Cmd
	scroll  int
}

// phoneChoice is a key of a page. Without a label it is not shown.
type phoneChoice struct {
	key, label string
	run        func(*phoneModel) tea.Cmd
}

// closePage goes back to the conversation.
func (m *phoneModel) closePage() tea.Cmd {
	m.page = nil
	return nil
}

// form shows a page with a line to type in.
func (m *phoneModel) form(p phonePage, value string) {
	p.field = true
	m.field.SetValue(value)
	m.field.CursorEnd()
	m.page = &p
}

func backChoice(label string) phoneChoice { return phoneChoice{"esc", label, (*phoneModel).closePage} }

// noticeWords are the words around the notice, in its language. What y agrees to is said beside y:
// nothing is ticked before the user has done it.
type noticeWords struct {
	title, nothing, yes, textsOnly, gateway, no string
}

var phoneNoticeWords = map[string]noticeWords{
	"en": {
		"Before anything is sent",
		"This phone has not dialled anything, and will not before you switch it on.",
		"switch on: texts over the internet; people you have accepted see that you are reachable",
		"switch on texts only: everybody sees you as grey",
		"texts may also go through the SMS gateway, which opens each to send it",
		"leave it off",
	},
	"zh": {
		"在发送任何内容之前",
		"本机尚未建立任何连接；在您开启之前也不会建立。",
		"开启：通过互联网收发短信；您接受的联系人能看到可以联系到您",
		"仅开启短信：所有人看到您都是灰色",
		"短信也可以经由短信网关发送；网关会打开每条短信以便发送",
		"保持关闭",
	},
}

// noticePage shows the notice and what can be agreed to. It stands where switching off stands, and
// asks as much: one key and one answer. [U-1]
func (m *phoneModel) noticePage() *phonePage {
	n := m.dev.Notice(m.settings.Lang)
	w := phoneNoticeWords[n.Lang]
	if m.snap.status.Enrolled {
		w.nothing = m.offBecause()
	}
	box := "[ ] "
	if m.gateway {
		box = "[x] "
	}
	agree := func(s wire.Scope) func(*phoneModel) tea.Cmd {
		return func(m *phoneModel) tea.Cmd { return m.whenRead(func() tea.Cmd { return m.accepted(n, s) }) }
	}
	return &phonePage{title: w.title, body: strings.TrimSpace(w.nothing + "\n\n" + n.Text), choices: []phoneChoice{
		{"g", box + w.gateway, (*phoneModel).tickGateway},
		{"y", w.yes, agree(wire.ScopeMessaging | wire.ScopePresence)},
		{"t", w.textsOnly, agree(wire.ScopeMessaging)},
		{"n", w.no, (*phoneModel).declined},
		{"esc", "", (*phoneModel).declined},
	}}
}

// offBecause is why a phone that had agreed is off; "" if its user has switched it off.
func (m *phoneModel) offBecause() string {
	if why := m.snap.status.Reason; why != 0 {
		return "Off: " + why.String() + "."
	}
	return ""
}

// whenRead carries on once the whole page was in sight: what is agreed to is the text that was shown.
func (m *phoneModel) whenRead(yes func() tea.Cmd) tea.Cmd {
	if m.page.scroll < m.lastScroll() {
		m.note = "there is more to read: ↓"
		return nil
	}
	return yes()
}

func (m *phoneModel) tickGateway() tea.Cmd {
	m.gateway = !m.gateway
	scroll := m.page.scroll
	m.page = m.noticePage()
	m.page.scroll = scroll
	return nil
}

func (m *phoneModel) declined() tea.Cmd {
	m.page = nil
	m.note = "off: nothing was sent, nothing is dialled. ^O shows the notice again"
	return nil
}

// accepted goes on to the number, or, with a certificate, straight to consent.
func (m *phoneModel) accepted(n handset.Notice, scopes wire.Scope) tea.Cmd {
	if m.gateway {
		scopes |= wire.ScopeGateway
	}
	m.scopes = scopes
	if !m.snap.status.Enrolled || m.snap.status.Reason == wire.SIMChanged {
		m.numberPage(n)
		return nil
	}
	m.page = nil
	if m.failed(m.dev.Accept(n)) {
		return nil
	}
	return m.optIn(m.scopes)
}

func (m *phoneModel) numberPage(n handset.Notice) {
	value := ""
	if !m.number.IsZero() {
		value = m.number.E164()
	}
	m.form(phonePage{
		title: "Your number", body: "With its country code, such as +44 7700 900123. A one-time password comes to it by SMS.",
		choices: []phoneChoice{{"esc", "not now", (*phoneModel).declined}},
		submit:  func(m *phoneModel, s string) tea.Cmd { return m.enrol(s, n) },
	}, value)
}

func (m *phoneModel) enrol(s string, n handset.Notice) tea.Cmd {
	number, err := wire.ParseNumber(s)
	if m.failed(err) {
		return nil
	}
	enrol := func(ctx context.Context, d phoneDevice) error { return d.Enrol(ctx, number, n) }
	return m.ask("asking for a one-time password", enrol, func(m *phoneModel, err error) tea.Cmd {
		if m.failed(err) {
			return nil
		}
		m.number, m.settings.Lang = number, n.Lang
		m.passwordPage(n)
		return m.saveSettings()
	})
}

// passwordPage waits for the SMS.
func (m *phoneModel) passwordPage(n handset.Notice) {
	m.form(phonePage{
		title:   "The one-time password",
		body:    "Waiting for the SMS to " + m.number.E164() + ". Type the six digits that are in it.",
		choices: []phoneChoice{{"esc", "another number, or another SMS", func(m *phoneModel) tea.Cmd { m.numberPage(n); return nil }}},
		submit:  func(m *phoneModel, s string) tea.Cmd { return m.confirm(s, n) },
	}, "")
}

func (m *phoneModel) confirm(s string, n handset.Notice) tea.Cmd {
	otp := onlyDigits(s)
	if otp == "" {
		m.note = "the password is the six digits in the SMS"
		return nil
	}
	confirm := func(ctx context.Context, d phoneDevice) error { return d.Confirm(ctx, otp) }
	return m.ask("checking the password", confirm, func(m *phoneModel, err error) tea.Cmd {
		switch {
		case errors.Is(err, wire.PasswordGone):
			m.numberPage(n)
		case errors.Is(err, wire.WrongPassword):
			m.field.SetValue("")
		}
		if m.failed(err) {
			return nil
		}
		m.page = nil
		return m.optIn(m.scopes)
	})
}

func onlyDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, s)
}

// optIn signs what was ticked.
func (m *phoneModel) optIn(scopes wire.Scope) tea.Cmd {
	agree := func(ctx context.Context, d phoneDevice) error { return d.OptIn(ctx, scopes, wire.Listed) }
	return m.ask("switching on", agree, func(m *phoneModel, err error) tea.Cmd {
		m.note = "on. The receipt is stored on this phone"
		m.failed(err)
		return nil
	})
}

// onOff is one key for both: the notice if Bluejay is off, one question if it is on. [U-1] [U-10]
func (m *phoneModel) onOff() tea.Cmd {
	if !m.snap.status.On {
		m.page = m.noticePage()
		return nil
	}
	gateway := phoneChoice{"g", "stay on, and allow the SMS gateway too", func(m *phoneModel) tea.Cmd { return m.agree(wire.ScopeGateway) }}
	if m.snap.scopes().Has(wire.ScopeGateway) {
		gateway.label = "stay on, without the SMS gateway"
	}
	m.page = &phonePage{
		title: "Switch Bluejay off?",
		body: "From then on nothing goes to or from this phone, and your contacts see you as grey. " +
			"Contacts, texts and the proofs of what you agreed to stay here. You can switch it on again in the same place.",
		choices: []phoneChoice{{"y", "switch off", (*phoneModel).optOut}, gateway, {"n", "stay on", (*phoneModel).closePage}, backChoice("")},
	}
	return nil
}

// agree changes one scope of a consent in force.
func (m *phoneModel) agree(change wire.Scope) tea.Cmd {
	m.page = nil
	return m.optIn(m.snap.scopes() ^ change)
}

func (m *phoneModel) optOut() tea.Cmd {
	m.page = nil
	off := func(ctx context.Context, d phoneDevice) error { return d.OptOut(ctx) }
	return m.ask("switching off", off, func(m *phoneModel, err error) tea.Cmd {
		m.note = "off. The node has stored it: nothing goes to or from this phone"
		if err != nil {
			m.note = "off on this phone; the node is told at the next connection (" + phoneWhy(err) + ")"
		}
		return nil
	})
}

// addContact asks for a number, then for a name. Short codes and emergency numbers are never looked
// up. [U-11]
func (m *phoneModel) addContact() tea.Cmd {
	m.form(phonePage{
		title: "Add a contact: the number",
		body: "With its country code, such as +44 7700 900123; it is looked up once, blinded. A short code, 999, 112 " +
			"or a sender's name is never looked up: texts to it are always this phone's own SMS.",
		choices: []phoneChoice{backChoice("back")},
		submit:  (*phoneModel).numbered,
	}, "")
	return nil
}

func (m *phoneModel) numbered(s string) tea.Cmd {
	s = cleanLine(s)
	number, err := wire.ParseNumber(s)
	own := s != "" && fallback.OwnSMSOnly(s)
	if !own && m.failed(err) {
		return nil
	}
	m.form(phonePage{
		title: "Add a contact: the name", body: "What to call " + s + ".", choices: []phoneChoice{backChoice("back")},
		submit: func(m *phoneModel, name string) tea.Cmd {
			name = orElse(cleanLine(name), s)
			m.page = nil
			if own {
				return m.added("", func(_ context.Context, d phoneDevice) (handset.ContactID, error) { return d.AddDialled(name, s) })
			}
			return m.added("looking the number up", func(ctx context.Context, d phoneDevice) (handset.ContactID, error) {
				return d.AddContact(ctx, name, number)
			})
		},
	}, "")
	return nil
}

func (m *phoneModel) added(what string, add func(context.Context, phoneDevice) (handset.ContactID, error)) tea.Cmd {
	var id handset.ContactID
	f := func(ctx context.Context, d phoneDevice) (err error) {
		id, err = add(ctx, d)
		return err
	}
	return m.ask(what, f, func(m *phoneModel, err error) tea.Cmd {
		m.failed(err)
		if id == 0 {
			return nil
		}
		return m.open(id)
	})
}

// visiblePage is about who may see and reach this phone; nobody is told. [U-4]
func (m *phoneModel) visiblePage() tea.Cmd {
	var choices []phoneChoice
	for v, label := range visibleWords {
		choices = append(choices, phoneChoice{fmt.Sprint(v + 1), label, func(m *phoneModel) tea.Cmd { return m.setVisible(handset.VisibleTo(v)) }})
	}
	m.page = &phonePage{
		title:   "Who may see and reach you?",
		body:    "A greeting from anybody else is met with silence: they see you as grey. This is decided here and never sent.",
		choices: append(choices, backChoice("leave it at: "+visibleWords[m.settings.Visible])),
	}
	return nil
}

var visibleWords = [...]string{
	handset.Contacts: "numbers in my contacts", handset.Anyone: "anyone who has my number", handset.Nobody: "nobody new",
}

func (m *phoneModel) setVisible(v handset.VisibleTo) tea.Cmd {
	m.page = nil
	set := func(_ context.Context, d phoneDevice) error { return d.SetVisibleTo(v) }
	return m.ask("", set, func(m *phoneModel, err error) tea.Cmd {
		if m.failed(err) {
			return nil
		}
		m.settings.Visible = v
		return m.saveSettings()
	})
}

// saveSettings writes what is only shown.
func (m *phoneModel) saveSettings() tea.Cmd {
	save, s := m.save, m.settings
	return m.ask("", func(context.Context, phoneDevice) error { return save(s) }, func(m *phoneModel, err error) tea.Cmd {
		m.failed(err)
		return nil
	})
}

func (m *phoneModel) exportPage() tea.Cmd {
	m.form(phonePage{
		title:   "Export your data",
		body:    "Contacts with their numbers, texts, and the proofs of what you agreed to, as JSON in a new file that only you can read. Keys are not in it.",
		choices: []phoneChoice{backChoice("back")},
		submit: func(m *phoneModel, path string) tea.Cmd {
			m.page = nil
			return m.tell("exported to "+cleanLine(path), func(_ context.Context, d phoneDevice) error { return exportTo(d, path) })
		},
	}, "bluejay-export.json")
	return nil
}

// helpPage is the table of keys, and what the icons and words do and do not mean. [U-2]
func (m *phoneModel) helpPage() tea.Cmd {
	var b strings.Builder
	for _, k := range phoneKeys() {
		if k.help == "" {
			continue
		}
		fmt.Fprintf(&b, "%-5s %s\n", k.label, k.help)
	}
	b.WriteString("\n● blue: reachable over the internet, free.  ○ grey: not now; this says nothing about why.\n\n" +
		"Delivered means that the recipient's phone has stored the text, not that anybody has read it.")
	m.page = &phonePage{
		title: "Keys", body: b.String(),
		choices: []phoneChoice{backChoice("back"), {"enter", "", (*phoneModel).closePage}},
	}
	return nil
}
