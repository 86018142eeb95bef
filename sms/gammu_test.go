package sms

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"bluejay/wire"
)

// spool makes the folders of gammu-smsd.
func spool(t testing.TB, change ...func(*GammuConfig)) *Gammu {
	t.Helper()
	root := t.TempDir()
	dir := func(name string) string {
		d := filepath.Join(root, name)
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		return d
	}
	c := GammuConfig{Name: "modem", Outbox: dir("outbox"), Sent: dir("sent"), Error: dir("error"), Inbox: dir("inbox"), Poll: time.Millisecond}
	for _, f := range change {
		f(&c)
	}
	g, err := NewGammu(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// TestGammuSubmit: the file's name and form are gammu-smsd's, and nothing half written is ever seen.
func TestGammuSubmit(t *testing.T) {
	g := spool(t)
	m := testMessage(t, "grüß dich 😀")
	m.Class = wire.ClassUrgent
	r := g.Submit(t.Context(), m)
	if r.Class != Accepted || !r.Whole || len(r.IDs) != 1 || !g.Linked() {
		t.Fatalf("%+v", r)
	}
	names := files(t, g.cfg.Outbox)
	want := regexp.MustCompile(`^OUTA\d{8}_\d{6}_00_\+447700900123_` + r.IDs[0] + `\.txtd$`)
	if len(names) != 1 || !want.MatchString(names[0]) {
		t.Fatalf("%q", names)
	}
	text, err := readSpool(filepath.Join(g.cfg.Outbox, names[0]))
	if err != nil || text != m.Text {
		t.Errorf("%q, %v", text, err)
	}
	m.Done = 1
	if r := g.Submit(t.Context(), m); r.Class != Accepted || len(files(t, g.cfg.Outbox)) != 1 {
		t.Errorf("accepted before: %+v", r)
	}
}

// TestGammuFull: a spool that is full, gone or cannot be written takes nothing, and says so. [F-11]
func TestGammuFull(t *testing.T) {
	g := spool(t, func(c *GammuConfig) { c.Limit = 2 })
	for i := range 4 {
		r := g.Submit(t.Context(), testMessage(t, "x"))
		if i < 3 != (r.Class == Accepted) {
			t.Errorf("text %d: %+v", i+1, r)
		}
		if i == 3 && (r.Class != Retry || r.Outcome != Answered) {
			t.Errorf("full: %+v", r)
		}
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if r := g.Submit(stoodStill{late}, testMessage(t, "x")); r.Outcome != NotSent || !errors.Is(r.Err, ErrNoLink) {
		t.Errorf("after its time: %+v", r)
	}
	if r := g.Submit(t.Context(), testMessage(t, strings.Repeat("x", 1000))); r.Outcome != NotSent || r.Class != Permanent {
		t.Errorf("too long: %+v", r)
	}
	gone := spool(t)
	if err := os.Remove(gone.cfg.Outbox); err != nil {
		t.Fatal(err)
	}
	if r := gone.Submit(t.Context(), testMessage(t, "x")); r.Outcome != NotSent || r.Class != Retry || gone.Linked() {
		t.Errorf("gone: %+v", r)
	}
	if err := gone.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "make the folder") {
		t.Errorf("check: %v", err)
	}
	if err := g.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if left := files(t, g.cfg.Inbox); len(left) != 0 {
		t.Errorf("the check left %q", left)
	}
	if _, err := NewGammu(GammuConfig{Name: "modem"}); err == nil {
		t.Error("no folders: accepted")
	}
}

// TestGammuLook: what the phone sent, what it could not, and what came in; a file that is none of ours
// stays; one that was not stored stays until it is. [F-14] [F-18]
func TestGammuLook(t *testing.T) {
	g := spool(t)
	h := &heard{}
	put := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id := strings.Repeat("0123456789abcdef", 2)
	put(g.cfg.Error, "OUTM20261124_010203_00_+447700900123_"+id+".txtd", "x")
	put(g.cfg.Sent, "OUTM20261124_010203_00_+447700900123_"+id+".txtd", "x")
	put(g.cfg.Sent, "OUT+447700900123.txt", "somebody else's")
	put(g.cfg.Inbox, "IN20261124_010203_00_+447700900123_00.txt", "STOP")
	put(g.cfg.Inbox, "IN20261124_010204_00_447700900123_00.txt", "\xfe\xff\x90\x00\x8b\xa2")
	put(g.cfg.Inbox, "IN20261124_010205_00_+447700900123_00.txt", "\xff\xfe\x00\x90\xa2\x8b")
	put(g.cfg.Inbox, "IN20261124_010206_00_12345_00.txt", "from a short code")
	put(g.cfg.Inbox, "IN20261124_010207_00_+447700900123_00.txt", "arr\xeat")
	put(g.cfg.Inbox, "IN20261124_010208_00_+447700900123_00.bin", "\x00")
	h.err = errors.New("down")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	look := func() { // one look each
		g.look(t.Context(), g.cfg.Error, func(n string) error { return g.ended(ctx, h.handlers(), n, wire.JobUndeliverable) })
		g.look(t.Context(), g.cfg.Sent, func(n string) error { return g.ended(ctx, h.handlers(), n, wire.JobSubmitted) })
		g.look(t.Context(), g.cfg.Inbox, func(n string) error { return g.incoming(ctx, h.handlers(), n) })
	}
	look()
	if len(files(t, g.cfg.Error)) != 1 || len(files(t, g.cfg.Sent)) != 2 || len(files(t, g.cfg.Inbox)) != 5 {
		t.Errorf("not stored, and gone: %q %q %q", files(t, g.cfg.Error), files(t, g.cfg.Sent), files(t, g.cfg.Inbox))
	}
	h.err, h.receipts, h.texts = nil, nil, nil
	look()
	look()
	if len(h.receipts) != 2 || h.receipts[0].State != wire.JobUndeliverable || h.receipts[0].ID != id || h.receipts[1].State != wire.JobSubmitted {
		t.Fatalf("%d receipts", len(h.receipts))
	}
	var texts []string
	for _, m := range h.texts {
		if m.From.E164() != "+447700900123" || m.Route != "modem" {
			t.Errorf("%q on %q", m.Text, m.Route)
		}
		texts = append(texts, m.Text)
	}
	if got := strings.Join(texts, "|"); got != "STOP|退订|退订|arrêt" {
		t.Errorf("%q", got)
	}
	if len(files(t, g.cfg.Error)) != 0 || len(files(t, g.cfg.Sent)) != 1 || len(files(t, g.cfg.Inbox)) != 1 {
		t.Errorf("left: %q %q %q", files(t, g.cfg.Error), files(t, g.cfg.Sent), files(t, g.cfg.Inbox))
	}
}

// TestGammuRun: it looks again and again, also at folders that are not there yet, and ends when told.
func TestGammuRun(t *testing.T) {
	g := spool(t)
	if err := os.Remove(g.cfg.Inbox); err != nil {
		t.Fatal(err)
	}
	got := make(chan Incoming, 1)
	running(t, g, Handlers{Incoming: func(_ context.Context, m Incoming) error { got <- m; return nil }})
	if err := os.Mkdir(g.cfg.Inbox, 0o700); err != nil {
		t.Fatal(err)
	}
	aside := filepath.Join(g.cfg.Inbox, "aside")
	if err := os.WriteFile(aside, []byte("STOP"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, filepath.Join(g.cfg.Inbox, "IN20261124_010203_00_+447700900123_00.txt")); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-got:
		if m.Text != "STOP" {
			t.Errorf("%q", m.Text)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("never seen")
	}
}

// FuzzSpool: whatever a file is called and holds, nothing but a text from a number is handed on.
func FuzzSpool(f *testing.F) {
	f.Add("IN20261124_010203_00_+447700900123_00.txt", []byte("STOP"))
	f.Add("IN20261124_010203_00_1_00.txt", []byte("\xfe\xff\xd8"))
	f.Add("OUTM20261124_010203_00_+447700900123_"+strings.Repeat("a", 32)+".txtd", []byte{})
	f.Add("IN20261124_010203_00_+447700900123_00.txt", []byte(backup))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		if in := inName.FindStringSubmatch(name); in != nil && strings.ContainsAny(name, "/\x00") {
			t.Errorf("%q", name)
		}
		if out := outName.FindStringSubmatch(name); out != nil && strings.ContainsAny(name, "/\x00") {
			t.Errorf("%q", name)
		}
		if text := spooled(content); !utf8.ValidString(text) || len(text) > 3*len(content)+3 {
			t.Errorf("%q", text)
		}
	})
}

// backup is what gammu-smsd 1.42 writes with "inboxformat = detail": two parts of one text.
const backup = "; This file format was designed for Gammu and is compatible with Gammu+\n\n[SMSBackup000]\n; pleas\nPDU = Deliver\n" +
	"Number = \"+447700900123\"\nNumberUnicode = 002B0034\nText00 = 0070006C0065\nText01 = 006100730065\nCoding = Default_No_Compression\n\n" +
	"[SMSBackup001]\r\nText00 = 0020007300740\nText01 = 002000730074006F0070\r\n"

// TestSpooled: each format that gammu-smsd may be set to write; a text that is too long is cut, between
// characters. [F-18]
func TestSpooled(t *testing.T) {
	long := strings.Repeat("é", maxIncoming)
	for _, tt := range []struct{ file, want string }{
		{"", ""}, {"stop", "stop"}, {"\xfe\xff\x00s\x00t\x00o\x00p", "stop"}, {"\xff\xfes\x00t\x00o\x00p\x00", "stop"},
		{"arr\xeat", "arrêt"}, {"\xfe\xff\xd8\x3d\xde\x00", "😀"}, {"\xfe\xff\xd8\x3d", "\ufffd"}, {"\xfe", "þ"},
		{backup, "please stop"}, {"\n[SMSBackup000]\nText00 = \n", ""}, {long, long[:maxIncoming]}, {"x" + long, "x" + long[:maxIncoming-2]},
	} {
		path := filepath.Join(t.TempDir(), "IN")
		if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readSpool(path); got != tt.want || err != nil {
			t.Errorf("%.40q is %.40q, %v; want %.40q", tt.file, got, err, tt.want)
		}
	}
}
