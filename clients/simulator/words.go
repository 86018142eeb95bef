package simulator

import (
	"strconv"
	"strings"
)

// TextNo numbers the texts of a run, from 1. Zero value: no text.
type TextNo uint32

// Mark begins every text, before its number, so that it is known wherever it turns up: in an outbox,
// in a store, in the SMSC's record.
const Mark = "#"

var words = strings.Fields(`are you at the station already shall we walk to the sea today bring the red umbrella please
	I am ten minutes late sorry see you at eight can you call me when you are home did the parcel come yes no maybe
	thanks a lot that was a lovely evening what shall I cook tonight the train is full again good night sleep well`)

const emoji = "☂"

// Body is text number n of about length characters; with emoji it leaves GSM-7.
func Body(n TextNo, length int, leaveGSM bool) string {
	var b strings.Builder
	b.WriteString(Mark)
	b.WriteString(strconv.FormatUint(uint64(n), 36))
	if leaveGSM {
		b.WriteString(" " + emoji)
		length -= 2
	}
	for i := int(n); b.Len() < length; i++ {
		w := words[i%len(words)]
		if left := length - b.Len() - 1; left < len(w) {
			w = w[:max(1, left)]
		}
		b.WriteByte(' ')
		b.WriteString(w)
	}
	return b.String()
}

// NumberOf reads the number of a text of this run; 0 if it has none.
func NumberOf(body string) TextNo {
	s, ok := strings.CutPrefix(body, Mark)
	if !ok {
		return 0
	}
	if i := strings.IndexByte(s, ' '); i >= 0 {
		s = s[:i]
	}
	n, err := strconv.ParseUint(s, 36, 32)
	if err != nil {
		return 0
	}
	return TextNo(n)
}
