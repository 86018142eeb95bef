package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// TestNotices: the folder's texts count, as they are read; without a folder those of this version; a folder that names
// none, or something that is none, is refused.
func TestNotices(t *testing.T) {
	t.Parallel()
	c := defaultConfig()
	if got, err := c.notices(); err != nil || len(got) != len(handset.NoticeHashes()) {
		t.Errorf("this version's: %d, %v", len(got), err)
	}
	c.Notices = t.TempDir()
	if _, err := c.notices(); err == nil || !strings.Contains(err.Error(), "no *.txt") {
		t.Errorf("an empty folder: %v", err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(c.Notices, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("en.txt", "\nWhat you agree to.\n")
	write("README", "not a notice")
	if got, err := c.notices(); err != nil || len(got) != 1 || got[0] != wire.NoticeHash("What you agree to.") {
		t.Errorf("%x, %v", got, err)
	}
	for name, text := range map[string]string{"blank.txt": " \n", "long.txt": strings.Repeat("x", maxNotice+1)} {
		write(name, text)
		if _, err := c.notices(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(filepath.Join(c.Notices, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNewNoticeSuspendsEverybody: the operator raises the notice of a running node. Within seconds everybody is silent
// and told why; whose app does not have the new text cannot agree; whose app has it reads it and goes on; nobody
// else is switched on by that. [A-1] [A-2] [U-1]
func TestNewNoticeSuspendsEverybody(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "en.txt"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put((*handset.Handset)(nil).Notice("en").Text)
	w := newWorld(t, "--notices", folder, "--min-version", "2").start()
	alice, bob := w.pair()
	alice.viaIP(bob, "before the new notice")
	const text = "A new text, which says something else."
	put(text)
	for _, p := range []*phone{alice, bob} {
		p.awaits("it is told why", func(e handset.Event) bool { return e.Kind == handset.Silenced && e.Reason == wire.NewNotice })
		if s := p.Status(); s.On || s.Reason != wire.NewNotice {
			t.Errorf("%s: %+v", p.name, s)
		}
	}
	scopes := wire.ScopeMessaging | wire.ScopePresence
	if err := bob.OptIn(bounded(t), scopes, wire.Listed); !errors.Is(err, wire.WrongNotice) {
		t.Errorf("agrees to the old text: %v", err)
	}
	bob.update(text)
	if err := errors.Join(bob.Accept(bob.Notice("en")), bob.OptIn(bounded(t), scopes, wire.Listed)); err != nil {
		t.Fatalf("agrees to the new text: %v", err)
	}
	if s := bob.Status(); !s.On || s.Reason != 0 || alice.Status().On {
		t.Errorf("bob %+v, alice on %v", s, alice.Status().On)
	}
	_, metrics := get(t, "http://"+w.at.HTTP+"/metrics")
	if !strings.Contains(metrics, "bluejay_suspensions_total 2") || !strings.Contains(metrics, "bluejay_revocations_total 0") {
		t.Error("the figures are not those of two suspensions")
	}
	w.stop()
}

// update is the phone's app updated to a notice. The new app does not know in which seconds the old one has connected,
// and without TLS a second of those is refused as a replay. [P-16]
func (p *phone) update(notice string) {
	p.w.t.Helper()
	if err := p.Close(); err != nil {
		p.w.t.Fatal(err)
	}
	until(p.w.t, "a second without a CONNECT begins", p.gate.passed)
	p.cfg.Notices = map[string]string{"en": notice}
	h, err := handset.Open(p.cfg)
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.Handset, p.seen = h, watch(h.Events())
}
