package consent

import (
	"encoding/hex"
	"testing"
)

// TestNotices freezes the list of released texts; a new one is added below. [P-6] [U-1]
func TestNotices(t *testing.T) {
	frozen := []struct {
		version    int
		lang, hash string
	}{
		{1, "en", "c1019b7003f641267863c1273c488226"},
		{1, "zh", "d80e1c6645b43166c098c40eb0a3f805"},
	}
	all := Notices()
	if len(all) != len(frozen) {
		t.Fatalf("%d notices, %d of them frozen", len(all), len(frozen))
	}
	newest := 0
	for i, n := range all {
		if f := frozen[i]; n.Version != f.version || n.Lang != f.lang || hex.EncodeToString(n.Hash[:]) != f.hash {
			t.Errorf("notice %d is now version %d in %s, %x", i, n.Version, n.Lang, n.Hash)
		}
		if got, ok := NoticeByHash(n.Hash); !ok || got != n {
			t.Errorf("%x is not found", n.Hash)
		}
		newest = max(newest, n.Version)
	}
	if _, ok := NoticeByHash([16]byte{}); ok || newest != NoticeVersion {
		t.Errorf("the newest is version %d, want %d; or the zero hash is a notice", newest, NoticeVersion)
	}
}
