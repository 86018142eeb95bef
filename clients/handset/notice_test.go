package handset

import (
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"bluejay/consent"
)

// mustName is what each language's notice has to say: what is switched on, what is kept and what is
// not, and the ways to stop. [U-1]
var mustName = map[string]map[string]string{
	"en": {
		"messaging": "texting", "presence": "reachable", "gateway": "gateway", "backup": "backup", "integrations": "linked services",
		"off by default": "off until you switch it on", "the number": "your number", "what is kept": "It keeps", "what is not": "does not keep",
		"stop here": "stop at any time: here", "stop by SMS": "STOP", "stop elsewhere": "another phone", "stop by asking": "operator", "erasure": "erase",
	},
	"zh": {
		"messaging": "收发短信", "presence": "看到可以联系到您", "gateway": "网关", "backup": "备份", "integrations": "关联服务",
		"off by default": "开启之前都关闭", "the number": "您的号码", "what is kept": "它保存", "what is not": "不保存",
		"stop here": "随时停止:在这里", "stop by SMS": "STOP", "stop elsewhere": "另一部手机", "stop by asking": "运营者", "erasure": "删除",
	},
}

// TestNoticeSaysEverything keeps [U-1]: each notice names all that is asked for and every way out.
func TestNoticeSaysEverything(t *testing.T) {
	for lang, words := range mustName {
		text := noticeIn(lang).Text
		for what, word := range words {
			if !strings.Contains(text, word) {
				t.Errorf("%s: the notice does not say %q (%s)", lang, word, what)
			}
		}
	}
}

// TestNoticeIsReadable bounds the English sentences: 16 words on average and 32 at most, and words of
// at most 5 letters on average. Chinese has at most 60 characters between two full stops. [U-1]
func TestNoticeIsReadable(t *testing.T) {
	stop := regexp.MustCompile(`[.。]\s*`)
	for _, n := range []Notice{noticeIn("en"), noticeIn("zh")} {
		var sentences, words, letters, longest int
		for _, s := range stop.Split(n.Text, -1) {
			size := len(strings.Fields(s))
			if n.Lang == "zh" {
				size = utf8.RuneCountInString(s)
			}
			if size == 0 {
				continue
			}
			sentences, words, longest = sentences+1, words+size, max(longest, size)
			letters += len(strings.Join(strings.Fields(s), ""))
		}
		t.Logf("%s: %d sentences, the longest of %d, %.1f on average, %.1f bytes a word", n.Lang, sentences, longest,
			float64(words)/float64(sentences), float64(letters)/float64(words))
		if n.Lang == "en" && (words > 16*sentences || longest > 32 || letters > 5*words) {
			t.Errorf("en: %d words of %d letters in %d sentences, the longest of %d", words, letters, sentences, longest)
		}
		if n.Lang == "zh" && longest > 60 {
			t.Errorf("zh: a sentence of %d characters", longest)
		}
	}
}

// TestNoticesAreFrozen holds each text to the list of released hashes: whoever changes a character
// without a new version fails here. [P-6]
func TestNoticesAreFrozen(t *testing.T) {
	found := map[[16]byte]bool{}
	err := fs.WalkDir(notices, "notice", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		version, err := strconv.Atoi(path.Base(path.Dir(name)))
		if err != nil {
			return err
		}
		lang := strings.TrimSuffix(path.Base(name), ".txt")
		n, ok := noticeText(version, lang)
		released, known := consent.NoticeByHash(n.Hash)
		if !ok || !known || released.Version != version || released.Lang != lang {
			t.Errorf("%s: its hash %x is not that of version %d in %s: add a version, and leave released texts alone", name, n.Hash, version, lang)
		}
		found[n.Hash] = true
		if again, ok := NoticeByHash(n.Hash); !ok || again != n {
			t.Errorf("%s is not found by its hash", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range consent.Notices() {
		if !found[n.Hash] {
			t.Errorf("version %d in %s: a released text is gone; records bound to it can no longer be explained", n.Version, n.Lang)
		}
	}
	if _, ok := NoticeByHash([16]byte{1}); ok {
		t.Error("any hash is a notice")
	}
}
