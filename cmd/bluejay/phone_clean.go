package main

import (
	"strings"
	"unicode"
)

// maxMarks is how many combining marks may follow one letter: enough for every script in use, too
// few to paint over the lines above and below.
const maxMarks = 4

// cleanText makes a text from anybody safe to show in a terminal: no character of it can move the
// cursor, change a colour, write the clipboard, turn the reading direction of what follows, or hide.
// What could is shown as a picture of itself (␛) or as "�"; line ends stay.
func cleanText(s string) string {
	var b strings.Builder
	marks := 0
	for _, r := range s {
		r, keep := cleanRune(r)
		if !keep {
			continue
		}
		if unicode.In(r, unicode.Mn, unicode.Me) {
			marks++
		} else {
			marks = 0
		}
		if marks <= maxMarks {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cleanLine is cleanText for what must stay on one line, such as a name.
func cleanLine(s string) string {
	return strings.Join(strings.Fields(cleanText(s)), " ")
}

// cleanRune returns what stands for r, and whether anything does.
func cleanRune(r rune) (rune, bool) {
	switch {
	case r == '\n':
		return r, true
	case r == '\t', r == '\u2028', r == '\u2029':
		return ' ', true
	case r == '\r':
		return 0, false
	case r < 0x20:
		return '\u2400' + r, true // the control pictures
	case r == 0x7f:
		return '\u2421', true
	case r < 0xa0 && r > 0x7f, r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069':
		return unicode.ReplacementChar, true
	case r == '\u200c', r == '\u200d', r >= 0xe0020 && r <= 0xe007f:
		return r, true // joiners of scripts and emoji; the letters inside flags
	case unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r):
		return 0, false
	}
	return r, true
}
