package fallback

import (
	"strings"
	"time"

	"bluejay/wire"
)

// FoldWindow is how far apart a text and its SMS copy may arrive. [F-13]
const FoldWindow = 10 * time.Minute

// Arrival is a text that reached the recipient's handset, over IP or by SMS.
type Arrival struct {
	Conversation string // whatever names the peer; equal for the same peer, never empty
	Text         string // without the "From +44…: " of a gateway, see [CutSender]
	At           time.Time
	Folded       bool // an IP text that has absorbed its SMS already
}

// Match finds the IP text that absorbs an SMS: same conversation, same text after transliteration to
// the GSM alphabet, at most [FoldWindow] apart in either order, and not taken by another SMS. Of
// several it takes the nearest in time. The caller marks it Folded and shows "also by SMS"; the SMS is
// never deleted. It returns -1 if there is none. [F-13]
func Match(sms Arrival, ip []Arrival) int {
	best, distance := -1, FoldWindow
	want := folded(sms.Text)
	for i, t := range ip {
		d := t.At.Sub(sms.At).Abs()
		if t.Folded || t.Conversation != sms.Conversation || d > FoldWindow || best >= 0 && d >= distance {
			continue
		}
		if folded(t.Text) == want {
			best, distance = i, d
		}
	}
	return best
}

// folded is a text as the two channels have it in common: networks trim and join white space.
func folded(text string) string {
	return strings.Join(strings.Fields(Transliterate(text)), " ")
}

// Transliterate replaces typographic characters and accented letters that the GSM alphabet lacks with
// plain ones that it has. What has no plain form stays as it is. One smart quote turns an SMS of 160
// characters into three. [F-13]
func Transliterate(text string) string {
	if _, ok := wire.GSMSeptets(text); ok {
		return text
	}
	return plain.Replace(text)
}

// plain lists only what GSM 03.38 lacks: it must leave a GSM text alone.
var plain = strings.NewReplacer(
	"‘", "'", "’", "'", "‚", "'", "‛", "'", "′", "'", "´", "'", "`", "'", "‹", "'", "›", "'",
	"“", `"`, "”", `"`, "„", `"`, "‟", `"`, "″", `"`, "«", `"`, "»", `"`,
	"‐", "-", "‑", "-", "‒", "-", "–", "-", "—", "-", "―", "-", "−", "-",
	"…", "...", "•", "*", "·", ".", "×", "x", "÷", "/", "©", "(c)", "®", "(r)", "™", "(tm)",
	"\u00a0", " ", "\u2002", " ", "\u2003", " ", "\u2007", " ", "\u2009", " ", "\u200a", " ", "\u202f", " ",
	"\u200b", "", "\u00ad", "", "\ufeff", "", "\t", " ",
	"À", "A", "Á", "A", "Â", "A", "Ã", "A", "Ā", "A", "Ă", "A", "Ą", "A", "Ć", "C", "Č", "C", "Ď", "D",
	"È", "E", "Ê", "E", "Ë", "E", "Ē", "E", "Ę", "E", "Ě", "E", "Ğ", "G", "Ì", "I", "Í", "I", "Î", "I",
	"Ï", "I", "Ī", "I", "İ", "I", "Ł", "L", "Ń", "N", "Ň", "N", "Ò", "O", "Ó", "O", "Ô", "O", "Õ", "O",
	"Ō", "O", "Ő", "O", "Œ", "OE", "Ř", "R", "Ś", "S", "Ş", "S", "Š", "S", "Ť", "T", "Ù", "U", "Ú", "U",
	"Û", "U", "Ū", "U", "Ů", "U", "Ű", "U", "Ý", "Y", "Ź", "Z", "Ż", "Z", "Ž", "Z",
	"á", "a", "â", "a", "ã", "a", "ā", "a", "ă", "a", "ą", "a", "ç", "c", "ć", "c", "č", "c", "ď", "d",
	"ê", "e", "ë", "e", "ē", "e", "ę", "e", "ě", "e", "ğ", "g", "í", "i", "î", "i", "ï", "i", "ī", "i",
	"ı", "i", "ł", "l", "ń", "n", "ň", "n", "ó", "o", "ô", "o", "õ", "o", "ō", "o", "ő", "o", "œ", "oe",
	"ř", "r", "ś", "s", "ş", "s", "š", "s", "ť", "t", "ú", "u", "û", "u", "ū", "u", "ů", "u", "ű", "u",
	"ý", "y", "ÿ", "y", "ź", "z", "ż", "z", "ž", "z",
)
