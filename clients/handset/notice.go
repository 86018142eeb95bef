package handset

import (
	"bytes"
	"embed"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"bluejay/consent"
	"bluejay/wire"
)

//go:embed notice
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
func (h *Handset) Notice(lang string) Notice {
	if h == nil || len(h.cfg.Notices) == 0 {
		return noticeIn(lang)
	}
	lang, _, _ = strings.Cut(strings.ToLower(lang), "-")
	if h.cfg.Notices[lang] == "" {
		lang = "en"
	}
	text := strings.TrimSpace(h.cfg.Notices[lang])
	return Notice{Text: text, Lang: lang, Hash: wire.NoticeHash(text)}
}

// Accept is the user's yes to a notice, which must be what [Handset.Notice] returned: what is agreed to from now on
// is agreed to after this text. After [wire.NewNotice] it goes before [Handset.OptIn]. It sends nothing. [U-1]
func (h *Handset) Accept(n Notice) error {
	if !h.current(n) {
		return ErrNotice
	}
	return h.step(func(m *model) { m.self.NoticeHash = bytes.Clone(n.Hash[:]); m.saveSelf() })
}

// current reports whether n is, byte for byte, a text of this application.
func (h *Handset) current(n Notice) bool { return n == h.Notice(n.Lang) && n.Text != "" }

// hashes are those of every text of this application.
func (c Config) hashes() [][16]byte {
	if len(c.Notices) == 0 {
		return NoticeHashes()
	}
	var all [][16]byte
	for _, text := range c.Notices {
		all = append(all, wire.NoticeHash(strings.TrimSpace(text)))
	}
	return all
}

// NoticeByHash returns the released text that a consent record is bound to, for showing it again;
// ok is false for any other text. [U-1] [P-6]
func NoticeByHash(hash [16]byte) (n Notice, ok bool) {
	known, ok := consent.NoticeByHash(hash)
	if !ok {
		return Notice{}, false
	}
	return noticeText(known.Version, known.Lang)
}

func noticeIn(lang string) Notice {
	lang, _, _ = strings.Cut(strings.ToLower(lang), "-")
	n, ok := noticeText(consent.NoticeVersion, lang)
	if !ok {
		n, _ = noticeText(consent.NoticeVersion, "en") // embedded: it is there
	}
	return n
}

func noticeText(version int, lang string) (n Notice, ok bool) {
	b, err := notices.ReadFile("notice/" + strconv.Itoa(version) + "/" + lang + ".txt")
	if err != nil {
		return Notice{}, false
	}
	text := strings.TrimSpace(string(b))
	return Notice{Text: text, Lang: lang, Hash: wire.NoticeHash(text)}, true
}

// NoticeHashes are those of the texts of this version, for a broker that accepts these.
func NoticeHashes() [][16]byte { return slices.Clone(noticeHashes()) }

var noticeHashes = sync.OnceValue(func() [][16]byte { return [][16]byte{noticeIn("en").Hash, noticeIn("zh").Hash} })
