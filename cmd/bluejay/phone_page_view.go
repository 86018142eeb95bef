package main

import (
	"fmt"
	"strings"

	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
)

// pageLines draws a page: its title, as much of its body as there is room for, and always its
// choices and its line to type in.
func (m *phoneModel) pageLines() ([]string, *tea.Cursor) {
	p := m.page
	foot := m.pageFoot()
	body := m.pageBody()
	room := max(m.height-1-len(foot), 0)
	top := min(p.scroll, max(len(body)-room, 0))
	lines := []string{m.theme.bold(m.pageTitle(top+room < len(body)))}
	lines = append(lines, body[top:min(top+room, len(body))]...)
	lines = append(lines, foot...)
	if over := len(lines) - m.height; over > 0 {
		lines = append(lines[:1], lines[1+over:]...)
	}
	if !p.field {
		return lines, nil
	}
	return lines, m.cursor(m.fieldWindow(), len(lines)-1-len(m.choiceLines())-m.noteRows())
}

func (m *phoneModel) pageTitle(more bool) string {
	if more {
		return spread(cleanLine(m.page.title), "↓ more", m.width)
	}
	return fit(cleanLine(m.page.title), m.width)
}

func (m *phoneModel) pageBody() []string {
	if m.page.body == "" {
		return nil
	}
	return wrap(m.page.body, min(m.width, 78))
}

// pageFoot is what is always in sight.
func (m *phoneModel) pageFoot() []string {
	var foot []string
	if m.page.field {
		foot = append(foot, fit(m.fieldWindow().View(), m.width))
	}
	foot = append(foot, m.choiceLines()...)
	if m.noteRows() > 0 {
		foot = append(foot, m.lastLine())
	}
	return foot
}

func (m *phoneModel) noteRows() int {
	if m.note == "" && m.busy == "" {
		return 0
	}
	return 1
}

func (m *phoneModel) choiceLines() []string {
	var lines []string
	for _, c := range m.page.choices {
		if c.label == "" {
			continue
		}
		for i, l := range wrap(c.label, m.width-6) {
			key := ""
			if i == 0 {
				key = c.key
			}
			lines = append(lines, fmt.Sprintf(" %s %s", m.theme.bold(fit(key, 4)), l))
		}
	}
	return lines
}

// lastScroll is how far a page can be scrolled.
func (m *phoneModel) lastScroll() int {
	room := max(m.height-1-len(m.pageFoot()), 0)
	return max(len(m.pageBody())-room, 0)
}

func (m *phoneModel) fieldWindow() textinput.Model { return lineWindow(m.field, m.width) }
func (m *phoneModel) inputWindow() textinput.Model { return lineWindow(m.input, m.width) }

// lineWindow is the part of a line that fits, with the cursor in it.
func lineWindow(in textinput.Model, w int) textinput.Model {
	in.SetWidth(max(w-len(in.Prompt)-1, 1))
	in.SetCursor(in.Position()) // moves the window
	return in
}

func (m *phoneModel) inputLine() string {
	if c, ok := m.contact(); ok && m.input.Value() == "" {
		return m.input.Prompt + m.theme.faint(fit("write to "+shownName(c), m.width-len(m.input.Prompt)))
	}
	return fit(strings.TrimRight(m.inputWindow().View(), " "), m.width)
}

// cursor is the terminal's own cursor, in a line that stands at row y.
func (m *phoneModel) cursor(in textinput.Model, y int) *tea.Cursor {
	c := in.Cursor()
	if c == nil || y < 0 || y >= m.height {
		return nil
	}
	c.X, c.Y = min(c.X, max(m.width-1, 0)), y
	c.Blink = false
	return c
}
