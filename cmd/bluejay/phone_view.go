package main

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// The view's measures, in cells.
const (
	twoColumns  = 64 // below it the contacts are one line above the conversation
	leftWidth   = 22 // of the contacts
	leastWidth  = 16 // below it there is nothing to show
	leastHeight = 6
)

// View implements [tea.Model]. Every line is cut to the terminal's width and the whole to its height.
func (m phoneModel) View() tea.View {
	lines, cursor := m.lines()
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], max(m.width, 0), "")
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen, v.WindowTitle, v.Cursor = true, "Bluejay", cursor
	return v
}

func (m *phoneModel) lines() ([]string, *tea.Cursor) {
	switch {
	case m.tooSmall():
		return wrap("Bluejay: this window is too small", m.width)[:1], nil
	case m.page != nil:
		return m.pageLines()
	}
	return m.mainLines()
}

func (m *phoneModel) tooSmall() bool { return m.width < leastWidth || m.height < leastHeight }

// mainLines is the conversation view.
func (m *phoneModel) mainLines() ([]string, *tea.Cursor) {
	foot := m.footLines()
	h := m.height - len(foot)
	var body []string
	if m.width < twoColumns {
		body = append([]string{m.contactStrip()}, m.conversation(m.width, h-1)...)
	} else {
		right := m.conversation(m.width-leftWidth-2, h)
		left := m.contactList(h)
		for i := range right {
			body = append(body, fit(left[i], leftWidth)+m.theme.faint("│")+" "+right[i])
		}
	}
	return append(body, foot...), m.cursor(m.inputWindow(), len(body)+1)
}

// footLines are those below the conversation; a low window keeps the most important.
func (m *phoneModel) footLines() []string {
	lines := []string{m.theme.faint(strings.Repeat("─", m.width)), m.inputLine(), m.theme.faint(fit(m.preview(), m.width))}
	if m.low() {
		return append(lines, m.statusLines()[0])
	}
	return append(append(lines, m.statusLines()...), m.lastLine())
}

// low is a window with room for four lines below the conversation, not more.
func (m *phoneModel) low() bool { return m.height < 10 }

// lastLine is what has just happened, or the keys.
func (m *phoneModel) lastLine() string {
	switch {
	case m.note != "":
		return m.theme.warn(fit(m.note, m.width))
	case m.busy != "":
		return m.theme.faint(fit(m.busy+" …", m.width))
	}
	return m.theme.faint(fit("^N add  ^X "+m.actionWord()+"  ^S safety  ^K block  ^V seen by  ^O on/off  ^G help  ^Q quit", m.width))
}

func (m *phoneModel) actionWord() string {
	if t, ok := m.text(); ok {
		return t.Action.String()
	}
	return "text"
}

// statusLines: connected or not, what was agreed to, who may reach this phone; and where to switch.
// In a low window the last note takes their place, for it must not be lost.
func (m *phoneModel) statusLines() []string {
	if m.low() && m.note != "" {
		return []string{m.theme.warn(fit(m.note, m.width))}
	}
	s := m.snap.status
	if !s.On {
		why := orElse(s.Reason.String(), "nothing goes to or from here")
		return []string{spread("○ off: "+why, "^O switch on", m.width)}
	}
	link := m.theme.icon(handset.Grey) + " not connected"
	if s.Connected {
		link = m.theme.icon(handset.Blue) + " connected"
	}
	link += " · on: " + scopeWords(m.snap.scopes())
	seen := "reached by " + visibleWords[m.settings.Visible]
	if m.width < twoColumns {
		return []string{spread(link, "^O switch off", m.width), fit(seen, m.width)}
	}
	return []string{spread(link+" · "+seen+" · "+s.Number.E164(), "^O switch off", m.width)}
}

func scopeWords(s wire.Scope) string {
	var words []string
	for _, w := range []struct {
		scope wire.Scope
		word  string
	}{{wire.ScopeMessaging, "texts"}, {wire.ScopePresence, "presence"}, {wire.ScopeGateway, "gateway"}} {
		if s.Has(w.scope) {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ", ")
}

// contactList is the left column, h lines high, with the chosen contact in it.
func (m *phoneModel) contactList(h int) []string {
	title := "Bluejay"
	if m.settings.Name != "" {
		title = cleanLine(m.settings.Name)
	}
	lines := []string{m.theme.bold(fit(title, leftWidth-1))}
	at := 0
	for i, c := range m.snap.contacts {
		if c.ID == m.with {
			at = i
		}
	}
	from := max(at-(h-3), 0)
	for _, c := range m.snap.contacts[from:] {
		lines = append(lines, m.contactLine(c, leftWidth-1))
	}
	for len(lines) < h {
		lines = append(lines, "")
	}
	return lines[:h]
}

func (m *phoneModel) contactLine(c handset.Contact, w int) string {
	mark, name := " ", shownName(c)
	if c.ID == m.with {
		mark, name = "▸", m.theme.bold(fit(name, min(ansi.StringWidth(name), max(w-5, 1))))
	}
	icon := m.theme.icon(c.Colour)
	if c.Dialled != "" {
		icon = m.theme.faint("·") // never blue [U-11]
	}
	return spread(mark+icon+" "+name, m.contactMark(c), w)
}

// contactMark is what else there is to know of a contact.
func (m *phoneModel) contactMark(c handset.Contact) string {
	switch {
	case c.Blocked:
		return "⊘"
	case c.Changed:
		return m.theme.warn("!")
	case m.unread[c.ID] > 0:
		return m.theme.bold(fmt.Sprintf("+%d", m.unread[c.ID]))
	}
	return ""
}

// contactStrip is the contacts on one line, from the chosen one on.
func (m *phoneModel) contactStrip() string {
	var parts []string
	for i, c := range m.snap.contacts {
		if c.ID != m.with {
			continue
		}
		for k := range m.snap.contacts {
			c := m.snap.contacts[(i+k)%len(m.snap.contacts)]
			parts = append(parts, strings.TrimRight(m.contactLine(c, ansi.StringWidth(shownName(c))+6), " "))
		}
	}
	if len(parts) == 0 {
		return fit("no contacts yet: ^N", m.width)
	}
	return fit(strings.Join(parts, " "), m.width)
}

// conversation is the texts with the chosen contact, w wide and h high, newest at the bottom.
func (m *phoneModel) conversation(w, h int) []string {
	c, ok := m.contact()
	head := m.theme.faint("no conversation")
	if ok {
		head = m.heading(c, w)
	}
	lines, from, to := m.textLines(c, w)
	room := h - 1
	start := max(len(lines)-room, 0)
	if from < start { // the chosen text is above the window
		start = from
	}
	start = max(start, min(to-room, from))
	lines = lines[start:min(start+room, len(lines))]
	out := []string{fit(head, w)}
	for i := len(lines); i < room; i++ {
		out = append(out, fit("", w))
	}
	for _, l := range lines {
		out = append(out, fit(l, w))
	}
	return out[:max(h, 0)]
}

func (m *phoneModel) heading(c handset.Contact, w int) string {
	words := []string{m.theme.icon(c.Colour) + " " + m.theme.bold(shownName(c)), c.Colour.String()}
	if c.Dialled != "" {
		words = []string{m.theme.bold(shownName(c)), "SMS only"}
	}
	if c.Name != "" {
		words = append(words, shownNumber(c))
	}
	if c.Blocked {
		words = append(words, m.theme.warn("blocked"))
	}
	if c.Changed {
		words = append(words, m.theme.warn("new device: ^Y"))
	}
	return fit(strings.Join(words, " · "), w)
}

// textLines draws the texts near the chosen one, and says on which lines that one stands.
func (m *phoneModel) textLines(c handset.Contact, w int) (lines []string, from, to int) {
	chosen, ok := m.text()
	if !ok {
		return nil, 0, 0
	}
	at := m.place() // more than height texts away, each at least two lines high, nothing is in sight
	for _, t := range m.snap.texts[max(at-m.height, 0):min(at+m.height, len(m.snap.texts))] {
		drawn := m.drawText(t, c, w, t.ID == chosen.ID)
		if t.ID == chosen.ID {
			from, to = len(lines), len(lines)+len(drawn)
		}
		lines = append(lines, drawn...)
	}
	return lines, from, to
}

// drawText is one text: a line that says what is known of it, then its body behind a bar that no
// text can draw over, so that none can pass for the words of this program.
func (m *phoneModel) drawText(t handset.Text, c handset.Contact, w int, chosen bool) []string {
	who, indent := shownName(c), ""
	if t.Out {
		who, indent = "you", "  "
	}
	mark, action := " ", ""
	if t.Action != handset.CanDelete {
		action = "[" + t.Action.String() + "]"
	}
	if chosen {
		mark, action = "▸", m.theme.bold("^X "+t.Action.String())
	}
	var lines []string
	for _, l := range headLines(mark+clock(t.At, m.zone)+" "+who+" · "+m.stateText(t), action, w-len(indent)) {
		lines = append(lines, indent+l)
	}
	bar := indent + "  " + m.theme.blue("┃") + " "
	for _, l := range wrap(cleanText(t.Body), w-len(indent)-5) {
		lines = append(lines, bar+l)
	}
	if s, ok := simulated(t, c); ok {
		for _, l := range wrap(s.String(), w-len(indent)-4) {
			lines = append(lines, indent+"  "+m.theme.warn("» "+l))
		}
	}
	return lines
}

// headLines puts what is known of a text on as many lines as it takes: none of it is cut, least of
// all that nothing was really sent. The action stands at the end.
func headLines(words, action string, w int) []string {
	lines := wrap(words, w)
	last := len(lines) - 1
	if ansi.StringWidth(lines[last])+1+ansi.StringWidth(action) > w {
		return append(lines, fit("  "+action, w))
	}
	lines[last] = spread(lines[last], action, w)
	return lines
}

func (m *phoneModel) stateText(t handset.Text) string {
	if t.State == handset.Failed {
		return m.theme.warn(stateWords(t))
	}
	return stateWords(t)
}
