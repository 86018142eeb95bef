package handset

import (
	"embed"
	"errors"
	"strings"

	"bluejay/wire"
)

//go:embed notice/en.txt notice/zh.txt
var notices embed.FS

// ErrNotice reports an acceptance of another text than this version shows.
var ErrNotice = errors.New("handset: show the user the text of Handset.Notice and pass that one on")

// Notice is what the user is shown before anything is sent: at most 120 words. Its hash goes into
// the consent record, so that the exact text and language can be proved later. [U-1]
type Notice struct {
	Text string
	Lang string // "en" or "zh"
	Hash [16]byte
}

// Notice returns the text in a language; English for a language there is no text in. [U-1]
func (h *Handset) Notice(lang string) Notice { return noticeIn(lang) }

func noticeIn(lang string) Notice {
	lang, _, _ = strings.Cut(strings.ToLower(lang), "-")
	b, err := notices.ReadFile("notice/" + lang + ".txt")
	if err != nil {
		lang = "en"
		b, _ = notices.ReadFile("notice/en.txt") // embedded: it is there
	}
	text := strings.TrimSpace(string(b))
	return Notice{Text: text, Lang: lang, Hash: wire.NoticeHash(text)}
}

// current reports whether n is, byte for byte, a text of this version.
func (n Notice) current() bool { return n == noticeIn(n.Lang) }
