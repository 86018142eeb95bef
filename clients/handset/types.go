package handset

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// ContactID names a contact in one state directory. Zero value: none.
type ContactID uint32

// TextID names a text in one state directory; later texts have larger ones. Zero value: none.
type TextID uint64

// Colour is whether a contact can be reached over IP now. Zero value: grey. [U-2]
type Colour byte

// Grey says nothing about why: offline, not a user, or you are blocked all look the same.
const (
	Grey Colour = iota
	Blue
)

// String is the colour's name.
func (c Colour) String() string {
	if c == Blue {
		return "blue"
	}
	return "grey"
}

// State is where a text is. [U-3]
type State byte

// States of a text. Received is the only one of a text that came in.
const (
	Waiting      State = iota // this phone holds it
	Delivered                 // the recipient's handset has stored it
	SMSSent                   // handed to the mobile network, in Parts SMS
	SMSDelivered              // the network's receipt says so
	Failed                    // nobody has it but this phone; perhaps sent, if Job says unknown
	Received
)

var stateNames = [...]string{"waiting", "delivered", "SMS sent", "SMS delivered", "failed", "received"}

// String is the state's name.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "invalid"
}

// Action is what the user can do about a text. [U-3]
type Action byte

// Actions, each with the method that carries it out.
const (
	CanDelete       Action = iota // [Handset.DeleteText]
	CanCancel                     // [Handset.Cancel]
	CanChoose                     // [Handset.SendAgain] over one of Offers
	CanSendAgain                  // [Handset.SendAgain]
	CanAcceptChange               // [Handset.AcceptChange]
)

var actionNames = [...]string{"delete", "cancel", "choose how to send", "send again", "accept the new device"}

// String is what a button may say.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "invalid"
}

// VisibleTo says whose hellos are answered. It is decided on the handset and never sent. [U-4]
type VisibleTo byte

// Rules. Zero value: contacts.
const (
	Contacts VisibleTo = iota // numbers in this handset's contacts
	Anyone                    // anyone who has the number
	Nobody
)

const hidden = "[hidden]"

// Dialled is what an SMS goes to: an E.164 number, a short code or a name. It does not print
// itself; convert it to string where it must be known.
type Dialled string

// Format redacts under every verb.
func (Dialled) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(hidden)) }

// LogValue redacts.
func (Dialled) LogValue() slog.Value { return slog.StringValue(hidden) }

// Contact is one row of the contact list. It does not print itself.
type Contact struct {
	ID      ContactID
	Name    string
	Number  wire.Number // zero for a short code
	Dialled Dialled     // of a short code, else empty
	Colour  Colour
	Known   bool // looked up: its ID is cached for ever
	Session bool // a conversation is open: texts go to the contact's own inbox
	Changed bool // its device has changed, and nothing is sent before AcceptChange [U-5]
	Blocked bool
	Mode    fallback.Mode // the contact's own rule; ModeUnset: the user's
}

// Format redacts all but the ID.
func (c Contact) Format(s fmt.State, _ rune) { _, _ = fmt.Fprintf(s, "contact %d", uint32(c.ID)) }

// LogValue redacts all but the ID.
func (c Contact) LogValue() slog.Value { return slog.Uint64Value(uint64(c.ID)) }

// Text is one text as the user sees it. It does not print itself.
type Text struct {
	ID        TextID
	Contact   ContactID
	Out       bool // written here
	Body      string
	State     State
	Path      fallback.Path   // the way it went, or is going
	Parts     int             // SMS parts; 0 over IP
	Why       fallback.Why    // explains Path
	Offers    []fallback.Path // with CanChoose
	Action    Action
	AlsoSMS   bool          // it went both ways, or its SMS copy was folded into it [U-9]
	Job       wire.JobState // the gateway's last word, with PathGateway
	Cancelled bool          // with Failed: the user took it back
	At        time.Time     // when it was written or received
}

// Format redacts all but the ID and the state.
func (t Text) Format(s fmt.State, _ rune) { _, _ = fmt.Fprintf(s, "text %d %s", uint64(t.ID), t.State) }

// LogValue redacts all but the ID.
func (t Text) LogValue() slog.Value { return slog.Uint64Value(uint64(t.ID)) }

// EventKind says what an [Event] is about.
type EventKind byte

// Kinds of event.
const (
	PresenceChanged EventKind = iota + 1 // Contact, Colour
	TextChanged                          // Contact, Text, State, Path
	TextReceived                         // Contact, Text
	CertChanged                          // Contact: its device has changed [U-5]
	ContactAdded                         // Contact: someone new wrote, and the rule admits anyone
	Connected
	Disconnected
	Refused       // Code: the broker refuses this device
	ConsentEnded  // switched off elsewhere: STOP, another phone, the operator
	Silenced      // Reason: why nothing goes to or from this device
	RolledBack    // this state is older than what the broker has seen [U-7]
	StorageFailed // see ErrStorage
	Missed        // events were dropped because nobody read them: read Contacts and Texts again
)

// Event is something the user may want to see. It holds no number and no text.
type Event struct {
	Kind    EventKind
	Contact ContactID
	Text    TextID
	Colour  Colour
	State   State
	Path    fallback.Path
	Code    wire.Code
	Reason  wire.Reason
	At      time.Time
}

// SIM sends an SMS from the phone itself. SendSMS returns nil once the network has taken every
// part; an error means that nothing is known to be sent. It must end when ctx does.
type SIM interface {
	SendSMS(ctx context.Context, to Dialled, text string) error
}

// Policy is the user's rule for contacts that are grey. Zero value: SMS from the own SIM. [F-1]
type Policy struct {
	Mode       fallback.Mode
	RoamingSMS bool // send the phone's own SMS while roaming
	Roaming    func() bool
	HideNumber bool          // a gateway SMS does not claim the user's number
	JobLife    time.Duration // how late a gateway SMS may arrive; zero: 12 h, at most 24 h
}
