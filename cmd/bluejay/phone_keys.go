package main

import (
	"context"
	"slices"

	tea "charm.land/bubbletea/v2"

	"bluejay/clients/handset"
)

// phoneKey is a key of the conversation view.
type phoneKey struct {
	keys  []string // as bubbletea names them
	label string
	help  string
	run   func(*phoneModel) tea.Cmd
}

// phoneKeys is the one table of keys: it is carried out, and shown as help.
func phoneKeys() []phoneKey {
	return []phoneKey{
		{[]string{"tab", "ctrl+down"}, "tab", "next contact (shift+tab: the one before)", func(m *phoneModel) tea.Cmd { return m.step(1) }},
		{[]string{"shift+tab", "ctrl+up"}, "", "", func(m *phoneModel) tea.Cmd { return m.step(-1) }},
		{[]string{"up"}, "↑ ↓", "choose a text (page up and down: five at once)", func(m *phoneModel) tea.Cmd { return m.choose(-1) }},
		{[]string{"down"}, "", "", func(m *phoneModel) tea.Cmd { return m.choose(1) }},
		{[]string{"pgup"}, "", "", func(m *phoneModel) tea.Cmd { return m.choose(-5) }},
		{[]string{"pgdown"}, "", "", func(m *phoneModel) tea.Cmd { return m.choose(5) }},
		{[]string{"enter"}, "enter", "send", (*phoneModel).send},
		{[]string{"ctrl+x"}, "^X", "what the chosen text offers: cancel, choose, send again, accept, delete", (*phoneModel).act},
		{[]string{"ctrl+p"}, "^P", "write it plainer, if that takes fewer SMS", (*phoneModel).plainer},
		{[]string{"ctrl+n"}, "^N", "add a contact", (*phoneModel).addContact},
		{[]string{"ctrl+f"}, "^F", "what to do while this contact is grey", (*phoneModel).modePage},
		{[]string{"ctrl+y"}, "^Y", "accept this contact's new device", (*phoneModel).acceptPage},
		{[]string{"ctrl+s"}, "^S", "safety number", (*phoneModel).safetyPage},
		{[]string{"ctrl+k"}, "^K", "block, or unblock", (*phoneModel).blockPage},
		{[]string{"ctrl+v"}, "^V", "who may see and reach me", (*phoneModel).visiblePage},
		{[]string{"ctrl+d"}, "^D", "delete this conversation", (*phoneModel).deletePage},
		{[]string{"ctrl+e"}, "^E", "export my data", (*phoneModel).exportPage},
		{[]string{"ctrl+o"}, "^O", "switch Bluejay on or off", (*phoneModel).onOff},
		{[]string{"ctrl+g", "f1"}, "^G ?", "this help", (*phoneModel).helpPage},
		{[]string{"ctrl+q", "ctrl+c"}, "^Q", "quit (texts that wait stay on this phone)", (*phoneModel).leave},
	}
}

func (m *phoneModel) leave() tea.Cmd {
	m.quit = true
	return nil
}

// key carries out one key press.
func (m *phoneModel) key(k tea.KeyPressMsg) tea.Cmd {
	m.note = ""
	name := k.String()
	switch {
	case name == "ctrl+c" || name == "ctrl+q":
		return m.leave()
	case m.tooSmall():
		return nil // nothing is answered that cannot be read
	case m.page != nil:
		return m.pageKey(k)
	case name == "?" && m.input.Value() == "":
		return m.helpPage()
	}
	for _, e := range phoneKeys() {
		if slices.Contains(e.keys, name) {
			return e.run(m)
		}
	}
	return m.typed(k)
}

// typed goes to the line being written. The first character to a contact without a conversation
// opens it, so that the icon can turn blue before the text is sent. [U-2]
func (m *phoneModel) typed(msg tea.Msg) tea.Cmd {
	line := &m.input
	if m.page != nil {
		if !m.page.field {
			return nil
		}
		line = &m.field
	}
	before := line.Value()
	var cmd tea.Cmd
	*line, cmd = line.Update(msg)
	c, ok := m.contact()
	if line == &m.input && before == "" && line.Value() != "" && ok && m.opens(c) {
		return tea.Batch(cmd, m.hello(c.ID))
	}
	return cmd
}

// hello opens a conversation. Whether the contact answers is shown by the icon. [U-8]
func (m *phoneModel) hello(id handset.ContactID) tea.Cmd {
	open := func(_ context.Context, d phoneDevice) error { return d.OpenConversation(id) }
	return m.ask("", open, func(*phoneModel, error) tea.Cmd { return nil })
}

func (m *phoneModel) opens(c handset.Contact) bool {
	return m.snap.status.On && m.snap.status.Connected && !c.Session && !c.Blocked && !c.Changed && c.Dialled == ""
}

// pageKey answers a page: a choice, scrolling, or typing.
func (m *phoneModel) pageKey(k tea.KeyPressMsg) tea.Cmd {
	p, name := *m.page, k.String()
	for _, c := range p.choices {
		if c.key != "" && c.key == name && c.run != nil && (!p.field || name == "esc") {
			return c.run(m)
		}
	}
	switch name {
	case "enter":
		if p.submit != nil && m.busy == "" {
			return p.submit(m, m.field.Value())
		}
	case "up", "pgup":
		p.scroll = max(p.scroll-1, 0)
	case "down", "pgdown", "space":
		p.scroll++ // the view stops at the end
	}
	if p.field && name != "up" && name != "down" {
		return m.typed(k)
	}
	p.scroll = min(p.scroll, m.lastScroll())
	m.page = &p
	return nil
}

// step shows the conversation n contacts further.
func (m *phoneModel) step(n int) tea.Cmd {
	cs := m.snap.contacts
	if len(cs) == 0 {
		return nil
	}
	i := slices.IndexFunc(cs, func(c handset.Contact) bool { return c.ID == m.with })
	return m.open(cs[(i+n+len(cs))%len(cs)].ID)
}

// choose moves to the text n further; past the newest there is none.
func (m *phoneModel) choose(n int) tea.Cmd {
	if _, ok := m.text(); ok {
		i := min(max(m.place()+n, 0), len(m.snap.texts)-1)
		m.chosen = m.snap.texts[i].ID
	}
	return nil
}
