package main

import (
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"bluejay/clients/handset"
)

// phoneTheme paints one line of text. Nothing depends on colour alone.
type phoneTheme struct {
	blue, faint, bold, warn func(...string) string
}

// newPhoneTheme paints with the terminal's own colours; plain paints nothing (NO_COLOR).
func newPhoneTheme(plain bool) phoneTheme {
	if plain {
		none := func(s ...string) string { return strings.Join(s, " ") }
		return phoneTheme{none, none, none, none}
	}
	s := lipgloss.NewStyle()
	return phoneTheme{
		blue: s.Foreground(lipgloss.BrightBlue).Render, faint: s.Faint(true).Render,
		bold: s.Bold(true).Render, warn: s.Foreground(lipgloss.Yellow).Render,
	}
}

// icon is a contact's colour, as a colour and as a shape. [U-2]
func (t phoneTheme) icon(c handset.Colour) string {
	if c == handset.Blue {
		return t.blue("●")
	}
	return t.faint("○")
}

// fit makes a line exactly w cells wide.
func fit(s string, w int) string {
	if w <= 0 {
		return ""
	}
	if ansi.StringWidth(s) > w {
		s = ansi.Truncate(s, w, "…")
	}
	return s + strings.Repeat(" ", max(w-ansi.StringWidth(s), 0))
}

// wrap breaks a text into lines of at most w cells.
func wrap(s string, w int) []string {
	return strings.Split(ansi.Wrap(s, max(w, 1), ""), "\n")
}

// spread puts two ends on one line; the right one wins if there is no room for both.
func spread(left, right string, w int) string {
	room := w - ansi.StringWidth(right)
	if room < 2 {
		return fit(right, w)
	}
	return fit(left, room-1) + " " + right
}
