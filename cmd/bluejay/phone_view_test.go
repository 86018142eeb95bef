package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

var updateViews = flag.Bool("update-views", false, "write the golden views of the phone")

// busyPhone shows one of everything.
func busyPhone(t testing.TB) *fakePhone {
	f := atHome(t)
	f.contacts = append(f.contacts, handset.Contact{ID: 3, Name: "Police", Dialled: "999"},
		handset.Contact{ID: 4, Number: mustNumber(t, "+8613800138000"), Changed: true},
		handset.Contact{ID: 5, Name: "A salesman with a very long name", Number: mustNumber(t, "+447700900005"), Blocked: true})
	text := func(id handset.TextID, out bool, body string, s handset.State, p fallback.Path, parts int, a handset.Action) handset.Text {
		return handset.Text{ID: id, Contact: 1, Out: out, Body: body, State: s, Path: p, Parts: parts, Action: a, At: teatime}
	}
	f.texts = []handset.Text{
		text(1, true, "Are you coming tonight?", handset.Delivered, fallback.PathIP, 0, handset.CanDelete),
		text(2, false, "Yes, at eight – 好的。一起吃晚饭吧\nShall I bring anything?", handset.Received, fallback.PathIP, 0, handset.CanDelete),
		text(3, true, "Bread, please. The train was late again and I had no signal at all until the tunnel ended.",
			handset.SMSSent, fallback.PathDevice, 1, handset.CanDelete),
		text(4, true, "Are you there?", handset.Failed, fallback.PathDevice, 1, handset.CanSendAgain),
		text(5, true, "Hello?", handset.Waiting, fallback.PathAsk, 1, handset.CanChoose),
	}
	f.texts[4].Why = fallback.WhyWasBlue
	return f
}

// What the user sees, character by character, in a narrow and a wide terminal.
func TestPhoneGoldenViews(t *testing.T) {
	tests := []struct {
		name string
		dev  func(testing.TB) *fakePhone
		w, h int
		keys []string
	}{
		{"main-40", busyPhone, 40, 24, nil},
		{"main-120", busyPhone, 120, 30, []string{`"See you’"`}},
		{"choose-40", busyPhone, 40, 16, []string{"ctrl+x"}},
		{"notice-40", func(testing.TB) *fakePhone { return &fakePhone{} }, 40, 24, nil},
		{"notice-120", func(testing.TB) *fakePhone { return &fakePhone{} }, 120, 26, nil},
		{"help-120", atHome, 120, 34, []string{"ctrl+g"}},
		{"off-120", func(t testing.TB) *fakePhone { f := busyPhone(t); f.agreed(0); return f }, 120, 12, nil},
		{"switch-off-40", atHome, 40, 16, []string{"ctrl+o"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScreen(t, tt.dev(t), func(c *phoneConfig) { c.settings.Name = "Alice" })
			s.send(tea.WindowSizeMsg{Width: tt.w, Height: tt.h})
			s.keys(tt.keys...)
			golden(t, tt.name, s.view())
		})
	}
}

func golden(t *testing.T, name, view string) {
	t.Helper()
	lines := strings.Split(view, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", "phone", name+".txt")
	if *updateViews {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run with -update-views if this is meant:\n%s", diff)
	}
}

// Every page and the conversation, in every size from nothing on: nothing crashes, and screen.check
// holds each view to the window. [U-2]
func TestPhoneEverySize(t *testing.T) {
	pages := [][]string{nil, {"ctrl+x"}, {"ctrl+n"}, {"ctrl+o"}, {"ctrl+g"}, {"up", "up", "up", "up"}, {"tab", "tab", "tab", `"x"`}}
	for _, keys := range pages {
		s := newScreen(t, busyPhone(t), nil)
		s.keys(keys...)
		for _, w := range []int{0, 1, 15, 16, 17, 40, 63, 64, 120} {
			for _, h := range []int{0, 1, 5, 6, 9, 10, 24} {
				s.send(tea.WindowSizeMsg{Width: w, Height: h})
				if c := s.model.View().Cursor; c != nil && (c.X < 0 || c.X >= w || c.Y < 0 || c.Y >= h) {
					t.Errorf("%q: the cursor is at %d, %d of %d by %d", keys, c.X, c.Y, w, h)
				}
			}
		}
		s.send(tea.WindowSizeMsg{Width: 1, Height: 1})
		s.keys("down", "pgup", "pgdown", "up", "esc", "ctrl+q")
		if !s.over {
			t.Errorf("%q: ^Q does not quit", keys)
		}
	}
	newScreen(t, &fakePhone{}, nil).send(tea.WindowSizeMsg{Width: 20, Height: 7}) // the notice
}

// The notice can be read to its end where it does not fit, with its answers in sight. [U-1]
func TestPhoneNoticeScrolls(t *testing.T) {
	s := newScreen(t, &fakePhone{}, nil)
	s.send(tea.WindowSizeMsg{Width: 40, Height: 18})
	s.shows("↓ more", "Before anything is sent")
	s.hides("erase what is kept.")
	s.keys("y")
	s.shows("there is more to read", "has not dialled anything")
	for range 40 {
		s.keys("down")
	}
	s.shows("erase what is kept.", "leave it off")
	s.hides("↓ more")
	s.keys("up")
	s.shows("↓ more")
	s.send(tea.WindowSizeMsg{Width: 10, Height: 4})
	s.keys("y") // nothing is agreed to unseen
	s.send(tea.WindowSizeMsg{Width: 100, Height: 40})
	s.shows("Before anything is sent")
	s.keys("y")
	s.shows("Your number")
}

// The chosen text is always in sight, however long the conversation; so are the newest ones when none
// is chosen.
func TestPhoneScrolls(t *testing.T) {
	f := atHome(t)
	for i := range 300 {
		f.texts = append(f.texts, handset.Text{ID: handset.TextID(i + 1), Contact: 1, State: handset.Received, Body: "text number " + string(rune('A'+i%26)), At: teatime})
	}
	f.texts[0].Body, f.texts[299].Body = "the very first", "the very last"
	s := newScreen(t, f, nil)
	s.shows("the very last")
	for range 60 { // five texts each
		s.keys("pgup")
	}
	s.shows("▸17:04")
	s.shows("the very first")
	s.hides("the very last")
	s.keys(`"x"`, "enter")
	s.shows("┃ x", "▸17:04 you")
}

// A text from a stranger must not control the terminal, nor pass for the words of the phone. What is
// checked here for every character, screen.check checks for every view of every test.
func TestPhoneTextCannotControlTerminal(t *testing.T) {
	for _, evil := range []string{
		"\x1b[2J\x1b[H", "\x1b]52;c;ZXZpbA==\x07", "\x1b]0;title\x1b\\", "\u009b31m", "a\rb", "a\bb", "\x00\x7f", "\u202eevil\u202c", "\u2066x\u2069",
		"a\u2028b\u2029c", "\u200b\ufeff\u00ad", "\xff\xfe", "\x1bP+q544e\x1b\\", "\u0090x\u009c", "e\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301",
	} {
		f := busyPhone(t)
		f.texts[4] = handset.Text{ID: 5, Contact: 1, State: handset.Received, Body: "before " + evil + " after", At: teatime}
		f.contacts[0].Name = "Bob" + evil
		s := newScreen(t, f, nil)
		s.shows("before", "after")
		s.keys("ctrl+s", "esc", "ctrl+k", "esc", "ctrl+x", "esc")
		s.send(tea.PasteMsg{Content: evil})
		s.send(tea.WindowSizeMsg{Width: 40, Height: 12})
	}
	for from, want := range map[string]string{
		"\x1b[31m": "␛[31m", "a\tb": "a b", "\x7f": "␡", "\u009b": "�", "a\r\nb": "a\nb", "👩‍👩‍👧 ok": "👩‍👩‍👧 ok", "नमस्ते": "नमस्ते", "🏴󠁧󠁢󠁥󠁮󠁧󠁿": "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
	} {
		if got := cleanText(from); got != want {
			t.Errorf("cleanText(%q) = %q, want %q", from, got, want)
		}
	}
}

// A line inside a text that looks like the phone's own stands behind the bar.
func TestPhoneTextCannotForgeState(t *testing.T) {
	f := atHome(t)
	f.texts = []handset.Text{{ID: 1, Contact: 1, State: handset.Received, Body: "x\n 17:05 you · delivered · over IP, free", At: teatime}}
	s := newScreen(t, f, nil)
	for _, l := range strings.Split(s.view(), "\n") {
		if strings.Contains(l, "17:05") && !strings.Contains(l, "┃  17:05") {
			t.Errorf("forged: %q", l)
		}
	}
}

func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"", "Hello", "\x1b[2J", "\u009b\u202e\u2028", "\xff", "好的\n👩‍👩‍👧", "\U000f0000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := cleanText(s)
		if !utf8.ValidString(got) || ansi.Strip(got) != got {
			t.Errorf("%q becomes %q", s, got)
		}
		for _, r := range got {
			if r != '\n' && unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control) {
				t.Errorf("%U stays in %q", r, got)
			}
		}
		if again := cleanText(got); again != got {
			t.Errorf("cleaned twice: %q, then %q", got, again)
		}
	})
}

// [U-2] blue and grey differ in shape; with NO_COLOR nothing but text leaves the program, and else
// the colours are there too.
func TestPhoneNoColour(t *testing.T) {
	plain, colour := newScreen(t, busyPhone(t), nil), newScreen(t, busyPhone(t), func(c *phoneConfig) { c.plain = false })
	if v := plain.view(); strings.Contains(v, "\x1b") {
		t.Errorf("NO_COLOR: %q", v)
	}
	v := colour.view()
	if !strings.Contains(v, "\x1b[94m●") || strings.Contains(v, "\x1b[94m○") {
		t.Errorf("no blue ●: %q", v)
	}
	if ansi.Strip(v) != plain.view() {
		t.Errorf("colour says more than words:\n%s", cmp.Diff(ansi.Strip(v), plain.view()))
	}
}

// The status line: connected, what was agreed to, who may reach this phone. [U-4] [P-6]
func TestPhoneStatusLine(t *testing.T) {
	f := atHome(t)
	f.agreed(wire.ScopeMessaging | wire.ScopeGateway)
	s := newScreen(t, f, nil)
	s.shows("● connected · on: texts, gateway · reached by numbers in my contacts · +447700900001")
	f.status.Connected = false
	s.send(handset.Event{Kind: handset.Disconnected})
	s.shows("○ not connected")
	s.send(tea.WindowSizeMsg{Width: 40, Height: 12})
	s.shows("○ not connected · on: tex", "^O switch off", "reached by numbers in my contacts")
}
