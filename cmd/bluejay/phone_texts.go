package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// stateWords says where a text is, which way it went, and what that does not mean. [U-3]
func stateWords(t handset.Text) string {
	words := []string{t.State.String()}
	add := func(ok bool, w string) {
		if ok {
			words = append(words, w)
		}
	}
	sms := t.State == handset.SMSSent || t.State == handset.SMSDelivered
	switch t.State {
	case handset.Waiting:
		words = append(words, waitingWords(t)...)
	case handset.Failed:
		words = append(words, failedWords(t)...)
	}
	add(t.State == handset.Delivered, "over IP, free")
	add(sms && t.Parts > 0, plural(t.Parts, "part"))
	add(sms && t.Path == fallback.PathGateway, "through the gateway")
	add(sms && t.Path == fallback.PathGateway && t.Job == wire.JobSimulated, "simulated: nothing was sent")
	add(t.State == handset.Received && t.Path == fallback.PathDevice, "as SMS")
	add(t.AlsoSMS, "also by SMS")
	return strings.Join(words, " · ")
}

func waitingWords(t handset.Text) []string {
	switch {
	case t.Action == handset.CanAcceptChange:
		return []string{"their device has changed"}
	case t.Path == fallback.PathAsk:
		return []string{t.Why.String(), "how shall it go?"}
	case t.Path == fallback.PathIP:
		return []string{"over IP"}
	case t.Path == fallback.PathDevice:
		return []string{"as SMS from this phone"}
	case t.Path == fallback.PathGateway:
		return []string{"with the SMS gateway", t.Job.String()}
	case t.Why != fallback.WhyReachable:
		return []string{t.Why.String()}
	}
	return nil
}

func failedWords(t handset.Text) []string {
	switch {
	case t.Cancelled:
		return []string{"you took it back"}
	case t.Job == wire.JobUnknown:
		return []string{"perhaps sent: nothing is sent twice without your word"}
	case t.Path == fallback.PathGateway && t.Job != wire.JobQueued:
		return []string{"SMS gateway: " + t.Job.String()}
	case t.Why != fallback.WhyReachable:
		return []string{t.Why.String()}
	}
	return nil
}

// simulated is the SMS that this phone would have sent for t; ok if it is one of those.
func simulated(t handset.Text, c handset.Contact) (s simulatedSMS, ok bool) {
	sms := t.State == handset.SMSSent || t.State == handset.SMSDelivered
	return simulatedSMS{shownNumber(c), t.Parts}, t.Out && sms && t.Path == fallback.PathDevice
}

// decide is what the policy would do now with a text to c. The handset decides again when it is
// sent. [F-1]
func (m *phoneModel) decide(c handset.Contact, text string) fallback.Decision {
	s := m.snap.status
	in := fallback.Input{
		Text: text, OwnSMSOnly: c.Dialled != "", Blue: c.Colour == handset.Blue && s.On && s.Connected,
		Setting: m.mode, Contact: c.Mode, SIM: true,
		Gateway: s.Connected && m.snap.scopes().Has(wire.ScopeGateway),
	}
	if !s.Number.IsZero() {
		in.From = s.Number.E164()
	}
	return fallback.Decide(in)
}

// preview says which way the text being written would go, and what it would cost, before it is
// sent. [F-1]
func (m *phoneModel) preview() string {
	c, ok := m.contact()
	text := m.input.Value()
	switch {
	case !ok:
		return "no contact yet: ^N adds one"
	case c.Blocked:
		return "blocked: ^K unblocks"
	case c.Changed:
		return "their device has changed: nothing is sent until you accept it (^Y)" // [U-5]
	case text == "" && c.Dialled != "":
		return "never looked up; always this phone's own SMS" // [U-11]
	case text == "":
		return m.presenceWords(c)
	}
	d := m.decide(c, text)
	words := m.pathWords(c, d)
	if n, _ := wire.SMSParts(d.Plain); d.Plain != "" {
		words += fmt.Sprintf(" (^P: written plainer, %d)", n)
	}
	return words
}

func (m *phoneModel) presenceWords(c handset.Contact) string {
	switch {
	case !m.snap.status.On:
		return "Bluejay is off: SMS only"
	case c.Colour == handset.Blue:
		return "reachable: free over IP"
	case !c.Session:
		return "not known to be reachable; writing says hello"
	}
	return "not reachable now"
}

func (m *phoneModel) pathWords(c handset.Contact, d fallback.Decision) string {
	words := decisionWords(d)
	s := m.snap.status
	if d.Path != fallback.PathIP && c.Dialled == "" && !c.Session && s.On && s.Connected {
		return "over IP if they answer in 10 s, free; else " + words
	}
	return words
}

func decisionWords(d fallback.Decision) string {
	switch d.Path {
	case fallback.PathIP:
		return "free over IP"
	case fallback.PathDevice, fallback.PathGateway:
		return pathLabel(d.Path, d.Parts)
	case fallback.PathAsk:
		return "asks you first: " + d.Why.String()
	}
	return "waits: " + d.Why.String()
}

func pathLabel(p fallback.Path, parts int) string {
	switch p {
	case fallback.PathDevice:
		return fmt.Sprintf("%d SMS from this phone", parts)
	case fallback.PathGateway:
		return fmt.Sprintf("%d SMS through the gateway", parts)
	}
	return "over IP, free, once they are reachable"
}

// plainer replaces the text being written with one that takes fewer SMS, if there is one. [F-13]
func (m *phoneModel) plainer() tea.Cmd {
	c, ok := m.contact()
	if d := m.decide(c, m.input.Value()); ok && d.Plain != "" {
		m.input.SetValue(d.Plain)
		m.input.CursorEnd()
	}
	return nil
}

// send gives the text to the handset. The line is emptied at once, so that a second enter cannot
// send it twice, and filled again if the handset refuses it.
func (m *phoneModel) send() tea.Cmd {
	c, ok := m.contact()
	text := m.input.Value()
	if !ok || strings.TrimSpace(text) == "" {
		return nil
	}
	m.input.SetValue("")
	m.chosen = 0
	give := func(ctx context.Context, d phoneDevice) error {
		_, err := d.Send(ctx, c.ID, text)
		return err
	}
	return m.ask("", give, func(m *phoneModel, err error) tea.Cmd {
		if m.failed(err) && m.with == c.ID && m.input.Value() == "" {
			m.input.SetValue(text)
			m.input.CursorEnd()
		}
		return nil
	})
}

// act does what the chosen text offers: each state has one action. [U-3]
func (m *phoneModel) act() tea.Cmd {
	t, ok := m.text()
	if !ok {
		return nil
	}
	switch t.Action {
	case handset.CanCancel:
		return m.tell("", func(ctx context.Context, d phoneDevice) error { return d.Cancel(ctx, t.ID) })
	case handset.CanChoose:
		m.choosePage(t, t.Offers, "How shall it go? ("+t.Why.String()+")")
	case handset.CanSendAgain:
		m.choosePage(t, m.ways(), "Send it again?")
	case handset.CanAcceptChange:
		return m.acceptPage()
	default:
		m.confirmPage("Delete this text?", "It is erased from this phone's disk; the other phone keeps its own.", "delete",
			func(_ context.Context, d phoneDevice) error { return d.DeleteText(t.ID) })
	}
	return nil
}

// ways is what can carry an SMS for this contact.
func (m *phoneModel) ways() []fallback.Path {
	ways := []fallback.Path{fallback.PathDevice}
	if c, _ := m.contact(); c.Dialled == "" && m.snap.scopes().Has(wire.ScopeGateway) {
		ways = append(ways, fallback.PathGateway)
	}
	return ways
}

// choosePage offers the ways a text can go, with their price.
func (m *phoneModel) choosePage(t handset.Text, ways []fallback.Path, title string) {
	if c, _ := m.contact(); c.Dialled == "" {
		ways = append([]fallback.Path{fallback.PathIP}, ways...)
	}
	var choices []phoneChoice
	for i, way := range ways {
		again := func(ctx context.Context, d phoneDevice) error { return d.SendAgain(ctx, t.ID, way) }
		choices = append(choices, phoneChoice{fmt.Sprint(i + 1), pathLabel(way, m.parts(way, t.Body)), closing("", again)})
	}
	if t.State == handset.Waiting {
		cancel := func(ctx context.Context, d phoneDevice) error { return d.Cancel(ctx, t.ID) }
		choices = append(choices, phoneChoice{"c", "take it back", closing("", cancel)})
	}
	m.page = &phonePage{title: title, body: cleanText(t.Body), choices: append(choices, backChoice("back"))}
}

func (m *phoneModel) parts(way fallback.Path, text string) int {
	if way == fallback.PathGateway && !m.snap.status.Number.IsZero() {
		text = fallback.WithSender(m.snap.status.Number.E164(), text)
	}
	n, _ := wire.SMSParts(text)
	return n
}

// closing closes the page and lets the handset do something.
func closing(done string, f func(context.Context, phoneDevice) error) func(*phoneModel) tea.Cmd {
	return func(m *phoneModel) tea.Cmd {
		m.page = nil
		return m.tell(done, f)
	}
}

func (m *phoneModel) confirmPage(title, body, yes string, f func(context.Context, phoneDevice) error) {
	m.page = &phonePage{title: title, body: body, choices: []phoneChoice{
		{"y", yes, closing("", f)}, {"n", "back", (*phoneModel).closePage}, backChoice(""),
	}}
}

// acceptPage is the user's word on a contact's new device. [U-5]
func (m *phoneModel) acceptPage() tea.Cmd {
	c, ok := m.contact()
	if !ok || !c.Changed {
		m.note = "their device has not changed"
		return nil
	}
	name := shownName(c)
	m.confirmPage(name+" has another device",
		"A new phone; or their number now belongs to somebody else. Until you accept it nothing is sent. If it matters, ask them "+
			"first in another way; afterwards compare the safety number (^S), which is a new one.",
		"accept the new device", func(_ context.Context, d phoneDevice) error { return d.AcceptChange(c.ID) })
	return nil
}

// safetyPage shows the 60 digits that both sides see alike. [U-5]
func (m *phoneModel) safetyPage() tea.Cmd {
	c, ok := m.contact()
	if !ok || c.Dialled != "" {
		m.note = "there is no safety number for SMS"
		return nil
	}
	var digits string
	ask := func(_ context.Context, d phoneDevice) (err error) {
		digits, err = d.SafetyNumber(c.ID)
		return err
	}
	return m.ask("", ask, func(m *phoneModel, err error) tea.Cmd {
		if m.failed(err) {
			return nil
		}
		m.page = &phonePage{
			title: "Safety number with " + shownName(c),
			body:  groupLines(digits) + "\n\nBoth phones show the same digits if nobody is in between. Compare them in person or in a call.",
			choices: []phoneChoice{
				backChoice("back"), {"enter", "", (*phoneModel).closePage},
			},
		}
		return nil
	})
}

// groupLines puts twelve groups on three lines.
func groupLines(digits string) string {
	groups := strings.Fields(digits)
	var lines []string
	for len(groups) > 0 {
		n := min(4, len(groups))
		lines = append(lines, strings.Join(groups[:n], " "))
		groups = groups[n:]
	}
	return strings.Join(lines, "\n")
}

// blockPage blocks after a question, and unblocks at once. [U-4]
func (m *phoneModel) blockPage() tea.Cmd {
	c, ok := m.contact()
	switch {
	case !ok:
		return nil
	case c.Blocked:
		return m.tell(shownName(c)+" is not blocked any more", func(_ context.Context, d phoneDevice) error { return d.Unblock(c.ID) })
	}
	m.confirmPage("Block "+shownName(c)+"?",
		"They see you as grey, as if you were away, and are not told. What they send is not taken. ^K takes it back.", "block",
		func(_ context.Context, d phoneDevice) error { return d.Block(c.ID) })
	return nil
}

// modePage is this contact's own rule. [F-1]
func (m *phoneModel) modePage() tea.Cmd {
	c, ok := m.contact()
	if !ok || c.Dialled != "" {
		return nil
	}
	labels := [...]string{
		fallback.ModeUnset: "my rule for everybody", fallback.ModeDevice: "SMS from this phone",
		fallback.ModeGateway: "SMS through the gateway", fallback.ModeAsk: "ask me each time", fallback.ModeNever: "wait",
	}
	var choices []phoneChoice
	for mode, label := range labels {
		if fallback.Mode(mode) == c.Mode {
			label += " (as now)"
		}
		set := func(_ context.Context, d phoneDevice) error { return d.SetMode(c.ID, fallback.Mode(mode)) }
		choices = append(choices, phoneChoice{fmt.Sprint(mode), label, closing("", set)})
	}
	m.page = &phonePage{title: "While " + shownName(c) + " is grey", choices: append(choices, backChoice("back"))}
	return nil
}

func (m *phoneModel) deletePage() tea.Cmd {
	c, ok := m.contact()
	if !ok {
		return nil
	}
	m.confirmPage("Delete the conversation with "+shownName(c)+"?", // [U-12]
		"Its texts are erased from this phone's disk, those that wait included. The contact stays.", "delete",
		func(_ context.Context, d phoneDevice) error { return d.DeleteConversation(c.ID) })
	return nil
}

func clock(t time.Time, zone *time.Location) string { return t.In(zone).Format("15:04") }
