package main

import (
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// [U-3] every state of a text with its words and its one action, and what the action's key does.
func TestPhoneStatesAndActions(t *testing.T) {
	ask := []fallback.Path{fallback.PathDevice}
	tests := []struct {
		name  string
		text  handset.Text
		words string   // of the state
		key   string   // shown beside it
		keys  []string // pressed
		call  string
	}{
		{"waiting", handset.Text{Action: handset.CanCancel}, "you · waiting", "^X cancel", []string{"ctrl+x"}, "cancel 1"},
		{"waiting over IP", handset.Text{Path: fallback.PathIP, Action: handset.CanCancel},
			"waiting · over IP", "^X cancel", []string{"ctrl+x"}, "cancel 1"},
		{"waiting for blue", handset.Text{Why: fallback.WhyNever, Action: handset.CanCancel},
			"waiting · you chose never to use SMS", "^X cancel", []string{"ctrl+x"}, "cancel 1"},
		{"with the SIM", handset.Text{Path: fallback.PathDevice, Action: handset.CanCancel},
			"waiting · as SMS from this phone", "^X cancel", []string{"ctrl+x"}, "cancel 1"},
		{"with the gateway", handset.Text{Path: fallback.PathGateway, Action: handset.CanCancel},
			"waiting · with the SMS gateway · queued", "^X cancel", []string{"ctrl+x"}, "cancel 1"},
		{"a choice", handset.Text{Path: fallback.PathAsk, Why: fallback.WhyWasBlue, Offers: ask, Parts: 1, Action: handset.CanChoose},
			"shown as reachable when you sent it · how shall it go?", "^X choose how to send", []string{"ctrl+x", "2"}, "again 1 2"},
		{"a choice taken back", handset.Text{Path: fallback.PathAsk, Offers: ask, Action: handset.CanChoose},
			"how shall it go?", "^X choose how to send", []string{"ctrl+x", "c"}, "cancel 1"},
		{"delivered", handset.Text{State: handset.Delivered, Path: fallback.PathIP},
			"delivered · over IP, free", "^X delete", []string{"ctrl+x", "y"}, "erase 1"},
		{"delivered twice", handset.Text{State: handset.Delivered, AlsoSMS: true}, "also by SMS", "^X delete", []string{"ctrl+x", "y"}, "erase 1"},
		{"SMS sent", handset.Text{State: handset.SMSSent, Path: fallback.PathGateway, Parts: 2},
			"SMS sent · 2 parts · through the gateway", "^X delete", []string{"ctrl+x", "y"}, "erase 1"},
		{"simulated by the node", handset.Text{State: handset.SMSSent, Path: fallback.PathGateway, Parts: 1, Job: wire.JobSimulated},
			"simulated: nothing was sent", "^X delete", []string{"ctrl+x", "y"}, "erase 1"},
		{"SMS delivered", handset.Text{State: handset.SMSDelivered, Path: fallback.PathGateway, Parts: 1},
			"SMS delivered · 1 part", "^X delete", []string{"ctrl+x", "y"}, "erase 1"},
		{"failed", handset.Text{State: handset.Failed, Action: handset.CanSendAgain}, "failed", "^X send again", []string{"ctrl+x", "1"}, "again 1 1"},
		{"cancelled", handset.Text{State: handset.Failed, Cancelled: true, Action: handset.CanSendAgain},
			"failed · you took it back", "^X send again", []string{"ctrl+x", "2"}, "again 1 2"},
		{"perhaps sent", handset.Text{State: handset.Failed, Job: wire.JobUnknown, Action: handset.CanSendAgain},
			"failed · perhaps sent", "^X send again", []string{"ctrl+x", "esc"}, ""},
		{"undeliverable", handset.Text{State: handset.Failed, Path: fallback.PathGateway, Job: wire.JobUndeliverable, Action: handset.CanSendAgain},
			"SMS gateway: " + wire.JobUndeliverable.String(), "^X send again", []string{"ctrl+x", "esc"}, ""},
		{"no key", handset.Text{State: handset.Failed, Why: fallback.WhyNoGateway, Action: handset.CanSendAgain},
			"failed · the SMS gateway cannot be used now", "^X send again", []string{"ctrl+x", "esc"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := atHome(t)
			tt.text.ID, tt.text.Contact, tt.text.Out, tt.text.Body, tt.text.At = 1, 1, true, "See you at eight", teatime
			f.texts = []handset.Text{tt.text}
			s := newScreen(t, f, nil)
			s.send(tea.WindowSizeMsg{Width: 150, Height: 24})
			s.shows("17:04 you · ", tt.words, tt.key, "┃ See you at eight")
			s.keys(tt.keys...)
			if tt.call == "" {
				wantCalls(t, f)
			} else {
				wantCalls(t, f, tt.call)
			}
		})
	}
}

// [U-3] a text that came in; and one that was an SMS. A no erases nothing.
func TestPhoneReceived(t *testing.T) {
	f := atHome(t)
	f.texts = []handset.Text{
		{ID: 1, Contact: 1, State: handset.Received, Path: fallback.PathIP, AlsoSMS: true, Body: "Yes – 好的", At: teatime},
		{ID: 2, Contact: 1, State: handset.Received, Path: fallback.PathDevice, Body: "by SMS", At: teatime},
	}
	s := newScreen(t, f, nil)
	s.shows("17:04 Bob · received · also by SMS", "┃ Yes – 好的", "Bob · received · as SMS", "^X delete")
	s.keys("ctrl+x", "n", "ctrl+x", "esc")
	wantCalls(t, f)
	s.keys("up", "ctrl+x", "y")
	wantCalls(t, f, "erase 1")
}

// The path and its price stand there before anything is sent. [F-1] [U-2] [U-11]
func TestPhonePathIsShownBefore(t *testing.T) {
	long := strings.Repeat("x", 200)
	tests := []struct {
		name   string
		change func(*fakePhone)
		mode   fallback.Mode
		text   string
		want   string
	}{
		{"blue", nil, 0, "Hi", "free over IP"},
		{"blue, not connected", func(f *fakePhone) { f.status.Connected = false; f.fail["connect"] = handset.ErrOffline }, 0, "Hi", "1 SMS from this phone"},
		{"grey", grey, 0, "Hi", "1 SMS from this phone"},
		{"grey, long", grey, 0, long, "2 SMS from this phone"},
		{"grey, a smart quote", grey, 0, strings.Repeat("x", 100) + "’", "2 SMS from this phone (^P: written plainer, 1)"},
		{"gateway", func(f *fakePhone) { grey(f); f.agreed(7) }, fallback.ModeGateway, "Hi", "1 SMS through the gateway"},
		{"gateway counts its From line", func(f *fakePhone) { grey(f); f.agreed(7) }, fallback.ModeGateway, strings.Repeat("x", 150), "2 SMS through the gateway"},
		{"gateway not agreed to", grey, fallback.ModeGateway, "Hi", "asks you first: the SMS gateway cannot be used now"},
		{"ask", grey, fallback.ModeAsk, "Hi", "asks you first: you chose to be asked"},
		{"never", grey, fallback.ModeNever, "Hi", "waits: you chose never to use SMS"},
		{"more than six", grey, 0, strings.Repeat("x", 1000), "asks you first: long: more than six SMS"},
		{"nobody spoken to yet", func(f *fakePhone) { grey(f); f.contacts[0].Session = false }, 0, "Hi", "over IP if they answer in 10 s, free; else 1 SMS from this phone"},
		{"999", func(f *fakePhone) { f.contacts = []handset.Contact{{ID: 1, Name: "Police", Dialled: "999"}} }, fallback.ModeNever, "Help", "1 SMS from this phone"},
		{"999, before a word", func(f *fakePhone) { f.contacts = []handset.Contact{{ID: 1, Dialled: "999"}} }, 0, "", "never looked up; always this phone's own SMS"},
		{"blocked", func(f *fakePhone) { f.contacts[0].Blocked = true }, 0, "", "blocked: ^K unblocks"},
		{"changed", func(f *fakePhone) { f.contacts[0].Changed = true }, 0, "Hi", "nothing is sent until you accept it (^Y)"},
		{"nobody", func(f *fakePhone) { f.contacts = nil }, 0, "", "no contact yet: ^N adds one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := atHome(t)
			if tt.change != nil {
				tt.change(f)
			}
			s := newScreen(t, f, func(c *phoneConfig) { c.mode = tt.mode })
			s.send(tea.PasteMsg{Content: tt.text})
			s.shows(tt.want)
			if len(f.texts) > 0 {
				t.Error("a text was sent")
			}
		})
	}
}

func grey(f *fakePhone) { f.contacts[0].Colour = handset.Grey }

// [F-13] ^P writes what the GSM alphabet lacks plainer.
func TestPhonePlainer(t *testing.T) {
	f := atHome(t)
	grey(f)
	s := newScreen(t, f, nil)
	text := strings.Repeat("x", 100)
	s.send(tea.PasteMsg{Content: text + "’"})
	s.keys("ctrl+p", "enter")
	wantCalls(t, f, "send 1 "+text+"'")
}

// A text is sent once, to the one it was written to, and comes back to the line if it is refused.
func TestPhoneSends(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.keys("enter", `"   "`, "enter")
	wantCalls(t, f)
	s.keys("backspace", "backspace", "backspace", `"For Bob"`, "tab", `"For Carol"`)
	s.shows("> For Carol", "Carol · grey")
	s.keys("enter", "enter", "shift+tab")
	s.shows("> For Bob", "Bob · blue")
	s.keys("enter")
	wantCalls(t, f, "send 2 For Carol", "send 1 For Bob")
	f.fail["send"] = handset.ErrTooLong
	s.keys(`"again"`, "enter")
	s.shows("a text has 1 to 1600 characters", "> again")
}

// [U-2] the first character to somebody without a conversation says hello, once, so that the icon
// can turn blue; to 999 and the blocked it never does. [U-11]
func TestPhoneHelloWhileWriting(t *testing.T) {
	f := atHome(t)
	f.contacts[1].Session = false
	f.contacts = append(f.contacts, handset.Contact{ID: 3, Dialled: "999"}, handset.Contact{ID: 4, Name: "Dan", Blocked: true, Number: f.contacts[0].Number})
	newScreen(t, f, nil).keys(`"Hi"`, "tab", `"Hello"`, "tab", `"Help"`, "tab", `"x"`)
	wantCalls(t, f, "open 2")
}

// [U-5] a changed device stops sending until it is accepted; accepting is one question, and the
// safety number is at hand.
func TestPhoneChangedDevice(t *testing.T) {
	f := atHome(t)
	f.contacts[0].Changed, f.safety = true, strings.TrimSpace(strings.Repeat("01234 ", 12))
	f.texts = []handset.Text{{ID: 1, Contact: 1, Out: true, Body: "Hi", Action: handset.CanAcceptChange, At: teatime}}
	s := newScreen(t, f, nil)
	s.shows("new device: ^Y", "waiting · their device has changed", "^X accept the new device", "nothing is sent until you accept it")
	s.keys("ctrl+x")
	s.shows("Bob has another device", "their number now belongs to somebody else", "compare the safety number")
	s.keys("n", "ctrl+y", "esc")
	wantCalls(t, f)
	s.keys("ctrl+y", "y")
	s.hides("new device: ^Y")
	s.keys("ctrl+y")
	s.shows("their device has not changed")
	s.keys("ctrl+s")
	s.shows("Safety number with Bob", "01234 01234 01234 01234", "Compare them in person")
	wantCalls(t, f, "accept 1", "safety 1")
}

// [U-5] without a conversation there is no safety number, and for 999 never.
func TestPhoneNoSafetyNumber(t *testing.T) {
	f := atHome(t)
	f.fail["safety"] = handset.ErrNoKey
	f.contacts[1] = handset.Contact{ID: 2, Dialled: "999"}
	s := newScreen(t, f, nil)
	s.keys("ctrl+s")
	s.shows("not known yet")
	s.keys("tab", "ctrl+s")
	s.shows("there is no safety number for SMS")
}

// [U-4] blocking asks once; unblocking does not.
func TestPhoneBlocks(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.keys("ctrl+k")
	s.shows("Block Bob?", "They see you as grey", "are not told")
	s.keys("n", "ctrl+k", "y")
	s.shows("⊘", "blocked")
	s.keys("ctrl+k")
	s.shows("Bob is not blocked any more")
	s.hides("⊘")
	wantCalls(t, f, "block 1", "unblock 1")
}

// [U-11] short codes, emergency numbers and names are never looked up, however they are written.
func TestPhoneNeverLooksUp(t *testing.T) {
	for _, dialled := range []string{"999", "112", "911", "1 1 2", "60300", "*100#", "BANK"} {
		f := atHome(t)
		s := newScreen(t, f, nil)
		s.keys("ctrl+n")
		s.shows("never looked up")
		s.keys(`"`+dialled+`"`, "enter", `"Help"`, "enter")
		s.shows("Help · SMS only")
		wantCalls(t, f, "dialled "+dialled+" Help")
	}
}

// [U-2] an ordinary number is looked up once; a national one is refused with the reason, not guessed.
func TestPhoneAddsContact(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.keys("ctrl+n", `"07700 900004"`, "enter")
	s.shows("a number must start with + and a country code")
	s.keys("esc", "ctrl+n", `"+44 7700 900004"`, "enter", "enter")
	s.shows("+44 7700 900004 · grey")
	wantCalls(t, f, "add +447700900004 +44 7700 900004")
}

// [F-1] a contact's own rule.
func TestPhoneContactRule(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.keys("ctrl+f")
	s.shows("While Bob is grey", "my rule for everybody (as now)", "ask me each time")
	s.keys("3")
	wantCalls(t, f, "mode 1 3")
}

// [U-12] a conversation is deleted after a question.
func TestPhoneDeletesConversation(t *testing.T) {
	f := atHome(t)
	newScreen(t, f, nil).keys("ctrl+d", "n", "ctrl+d", "y")
	wantCalls(t, f, "forget 1")
}

// The terminal has no SIM, and says so beside every text it would have sent. [U-3]
func TestPhoneSimulatedSIM(t *testing.T) {
	f := atHome(t)
	f.texts = []handset.Text{{ID: 1, Contact: 1, Out: true, Body: "Hi", State: handset.SMSSent, Path: fallback.PathDevice, Parts: 2, At: teatime}}
	s := newScreen(t, f, nil)
	const words = "simulated: this phone would now send an SMS to +447700900002 (2 parts); nothing was sent"
	s.shows("SMS sent · 2 parts", "» simulated: this phone would now send", "nothing was sent")
	sim := make(terminalSIM, 1)
	for range 3 { // never blocks
		if err := sim.SendSMS(t.Context(), "+447700900002", strings.Repeat("x", 200)); err != nil {
			t.Fatal(err)
		}
	}
	got := <-sim
	s.send(got)
	if got.String() != words {
		t.Errorf("%q", got)
	}
	s.shows("simulated: this phone would now send an SMS")
}

// A text that comes in elsewhere is counted there until it is seen.
func TestPhoneUnread(t *testing.T) {
	f := atHome(t)
	s := newScreen(t, f, nil)
	s.send(handset.Event{Kind: handset.TextReceived, Contact: 2, Text: 9})
	s.send(handset.Event{Kind: handset.TextReceived, Contact: 1, Text: 10})
	s.shows("○ Carol +1")
	s.keys("tab")
	s.hides("+1 ")
}
