package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// [U-1] the notice comes first, in full; a no, leaving, and whatever else is pressed dial nothing.
func TestPhoneNothingBeforeYes(t *testing.T) {
	for _, keys := range [][]string{
		{"n"}, {"esc"}, {"ctrl+c"}, {"enter", "x", "space", "q", "down", "up", "tab"}, {"g", "g", "n", "ctrl+n", `"999"`, "enter", "enter"},
		{"n", "ctrl+o", "n", "ctrl+o", "esc"}, {"y", "esc"}, // yes, and then no number
	} {
		f := &fakePhone{}
		s := newScreen(t, f, nil)
		s.shows(strings.Fields(f.Notice("en").Text)...)
		s.shows("This phone has not dialled anything, and will not before you switch it on.")
		s.keys(keys...)
		if got := f.dialled(); len(got) > 0 {
			t.Errorf("%q dialled: %q", keys, got)
		}
	}
}

// [U-1] [P-14] the whole way in, with a wrong password on it.
func TestPhoneEnrols(t *testing.T) {
	f := &fakePhone{fail: map[string]error{"confirm": wire.WrongPassword}}
	s := newScreen(t, f, nil)
	s.keys("y")
	s.shows("Your number", "one-time password")
	s.keys(`"07700 900001"`, "enter")
	s.shows("a number must start with +")
	wantCalls(t, f)
	for range 12 {
		s.keys("backspace")
	}
	s.keys(`"+44 7700 900001"`, "enter")
	s.shows("Waiting for the SMS to +447700900001")
	s.keys("enter")
	s.shows("six digits")
	s.keys(`"000000"`, "enter")
	s.shows(wire.WrongPassword.String())
	f.fail["confirm"] = nil
	s.keys(`" code: 123456."`, "enter")
	s.shows("● connected", "on: texts, presence", "^O switch off", "on. The receipt is stored on this phone", "+447700900001")
	wantCalls(t, f, "enrol +447700900001", "confirm 000000", "confirm 123456", "optin 3")
	if s.saved.Lang != "en" {
		t.Errorf("the language of the accepted notice was not kept: %q", s.saved.Lang)
	}
}

// [P-14] a password that is used up leads back to the number.
func TestPhonePasswordGone(t *testing.T) {
	f := &fakePhone{fail: map[string]error{"confirm": wire.PasswordGone}}
	s := newScreen(t, f, func(c *phoneConfig) { c.number = mustNumber(t, "+447700900001") })
	s.keys("y", "enter", `"123456"`, "enter")
	s.shows("Your number", "+447700900001", wire.PasswordGone.String())
	s.keys("enter")
	s.shows("The one-time password")
}

// [P-6] nothing is ticked beforehand: y agrees to what stands beside it, t to texts alone, and the
// gateway is a choice of its own.
func TestPhoneScopesAreChosen(t *testing.T) {
	for keys, want := range map[string]string{"y": "optin 3", "t": "optin 1", "gy": "optin 7", "gt": "optin 5", "ggy": "optin 3"} {
		f := atHome(t)
		f.agreed(0)
		s := newScreen(t, f, nil)
		s.keys("ctrl+o")
		s.shows("[ ] texts may also go through the SMS gateway")
		s.hides("[x]")
		s.keys(strings.Split(keys, "")...)
		wantCalls(t, f, want)
	}
}

// Opting out is as easy as opting in, at the same place: the same key at the same end of the same
// line, and one answer. [U-10]
func TestPhoneOptOutWhereOptIn(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	on := place(s, "^O switch off")
	s.keys("ctrl+o")
	s.shows("Switch Bluejay off?", "nothing goes to or from this phone")
	s.keys("n")
	wantCalls(t, f)
	s.keys("ctrl+o", "y")
	s.shows("off. The node has stored it", "○ off: nothing goes to or from here")
	off := place(s, "^O switch on")
	s.keys("ctrl+o", "y")
	s.shows("● connected")
	wantCalls(t, f, "optout", "optin 3")
	if on != off || on < 0 {
		t.Errorf("switching off stands on line %d, switching on on line %d", on, off)
	}
}

// A phone that was silenced says why, at the place where it is switched on again; what has to be done
// first follows: to read the notice, or to prove the number. An app that is too old says that.
func TestPhoneSaysWhyItIsOff(t *testing.T) {
	for _, why := range []wire.Reason{wire.NewNotice, wire.SIMChanged, wire.NewDevice, wire.ReproofDue, wire.Reason(wire.CauseOperator)} {
		f := atHome(t)
		s := newScreen(t, f, nil)
		on := place(s, "^O switch off")
		f.status.On, f.status.Reason = false, why
		s.send(handset.Event{Kind: handset.Silenced, Reason: why})
		s.shows("○ off: "+why.String(), "off: "+why.String()+". ^O shows what to do")
		if off := place(s, "^O switch on"); off != on {
			t.Errorf("%s: switching off stands on line %d, switching on on line %d", why, on, off)
		}
		s.keys("ctrl+o")
		s.shows("Off: " + why.String())
		s.keys("y")
		if why == wire.SIMChanged {
			s.shows("Your number")
			wantCalls(t, f)
			continue
		}
		wantCalls(t, f, "optin 3")
		if f.accepted != f.Notice("en").Hash {
			t.Errorf("%s: agreed to %x", why, f.accepted)
		}
	}
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.send(handset.Event{Kind: handset.Refused, Code: wire.TooOld})
	s.shows(wire.TooOld.String())
}

// place is the line that ends with something; -1: none.
func place(s *screen, end string) int {
	return slices.IndexFunc(strings.Split(s.view(), "\n"), func(l string) bool { return strings.HasSuffix(l, end) })
}

// [U-10] without the node the phone is off at once, and says that the node has still to be told; the
// next start tells it. One that was told, or never agreed, dials nothing.
func TestPhoneOptOutOffline(t *testing.T) {
	f := atHome(t)
	f.fail["optout"] = context.DeadlineExceeded
	newScreen(t, f, nil).keys("ctrl+o", "y").shows("off on this phone; the node is told at the next connection", "has not answered in time")
	tests := []struct {
		name   string
		status handset.Status
		proofs []wire.Scope
		dials  bool
	}{
		{"new", handset.Status{}, nil, false},
		{"enrolled, never agreed", handset.Status{Enrolled: true}, nil, false},
		{"on", handset.Status{Enrolled: true, On: true}, []wire.Scope{3}, true},
		{"off and told", handset.Status{Enrolled: true}, []wire.Scope{3, 0}, false},
		{"off, not told", handset.Status{Enrolled: true}, []wire.Scope{3}, true},
	}
	for _, tt := range tests {
		f := &fakePhone{status: tt.status}
		for _, s := range tt.proofs {
			f.proofs = append(f.proofs, handset.Proof{Consent: wire.Consent{Scopes: s}})
		}
		newScreen(t, f, nil)
		if got := len(f.dialled()) > 0; got != tt.dials {
			t.Errorf("%s: dials %v, want %v", tt.name, got, tt.dials)
		}
	}
}

// [P-6] a scope can be added and taken back while the phone is on.
func TestPhoneGatewayScope(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.keys("ctrl+o", "g")
	s.shows("on: texts, presence, gateway")
	s.keys("ctrl+o")
	s.shows("stay on, without the SMS gateway")
	s.keys("g")
	s.hides("gateway")
	wantCalls(t, f, "optin 7", "optin 3")
}

// [U-10] consent that ended elsewhere is told.
func TestPhoneTellsEvents(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	f.status.On = false
	for kind, want := range map[handset.EventKind]string{
		handset.ConsentEnded: "switched off elsewhere", handset.Refused: "refuses this phone", handset.RolledBack: "older than what the node has seen",
		handset.StorageFailed: "disk", handset.Missed: "too much", handset.ContactAdded: "somebody new", handset.CertChanged: "another device",
	} {
		s.send(handset.Event{Kind: kind, Contact: 1})
		s.shows(want)
	}
	s.keys("tab")
	s.hides("another device")
}

// The notice is shown in the user's language, and again in the one it was accepted in: its hash is in
// the consent record. [U-1]
func TestPhoneNoticeLanguage(t *testing.T) {
	f := &fakePhone{}
	s := newScreen(t, f, func(c *phoneConfig) { c.settings.Lang = "zh" })
	s.send(tea.WindowSizeMsg{Width: 100, Height: 30})
	s.shows("以下各项在您开启之前都关闭", "本机尚未建立任何连接", "保持关闭")
	s.keys("y", `"+447700900001"`, "enter")
	if s.saved.Lang != "zh" {
		t.Errorf("accepted in Chinese, kept as %q", s.saved.Lang)
	}
}

// [U-4] who may reach this phone is chosen here, shown, and remembered.
func TestPhoneVisibleTo(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.shows("reached by numbers in my contacts")
	s.keys("ctrl+v")
	s.shows("never sent", "anyone who has my number")
	s.keys("3")
	s.shows("reached by nobody new")
	wantCalls(t, f, "visible 2")
	if s.saved.Visible != handset.Nobody {
		t.Errorf("kept as %v", s.saved.Visible)
	}
}

// [U-12] the export is a new file for the user's eyes.
func TestPhoneExports(t *testing.T) {
	f := atHome(t)
	path := filepath.Join(t.TempDir(), "e.json")
	s := newScreen(t, f, nil)
	s.keys("ctrl+e")
	s.shows("Keys are not in it")
	for range len("bluejay-export.json") {
		s.keys("backspace")
	}
	s.keys(`"`+path+`"`, "enter")
	s.shows("exported to")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("export: %v, %v", info, err)
	}
	if err := exportTo(f, path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second export over the first: %v", err)
	}
}

func TestPhoneSettings(t *testing.T) {
	dir := t.TempDir()
	want := phoneSettings{Name: "Alice", Lang: "zh", Visible: handset.Anyone}
	if err := savePhoneSettings(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := loadPhoneSettings(dir); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "{", `{"visible":3}`} {
		if err := os.WriteFile(filepath.Join(dir, phoneSettingsFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadPhoneSettings(dir); err == nil || !strings.Contains(err.Error(), "delete the file") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got, err := loadPhoneSettings(t.TempDir()); err != nil || got != (phoneSettings{}) {
		t.Errorf("none: %+v, %v", got, err)
	}
}
