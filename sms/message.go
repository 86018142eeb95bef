package sms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"bluejay/wire"
)

// Errors of this package. None carries a number or a text.
var (
	ErrTooLong  = errors.New("sms: more than six parts")
	ErrSender   = errors.New("sms: not a sender id: want +number, 3 to 8 digits, or up to 11 letters and digits")
	ErrNoLink   = errors.New("sms: no link to the SMSC")
	ErrNoAnswer = errors.New("sms: the SMSC did not answer in time")
	ErrLinkLost = errors.New("sms: the link was lost before the SMSC answered")
	ErrPDU      = errors.New("sms: malformed PDU")
	ErrReceiver = errors.New("sms: this route is bound as a receiver: it cannot send")
)

// Message is one text for one recipient. It does not print itself.
type Message struct {
	To         wire.Number
	From       Sender
	Text       string
	ValidUntil time.Time // the SMSC gives up then; zero: the SMSC's own default
	Charset    Charset
	Class      wire.JobClass
	Ref        uint16 // the same for every attempt of one message; its low byte joins the parts
	Done       int    // how many parts an earlier Submit has had accepted
	Turn       *Turn  // for the first part; nil: Submit waits for one
}

// Format redacts under every verb.
func (Message) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[sms]")) }

// LogValue redacts.
func (Message) LogValue() slog.Value { return slog.StringValue("[sms]") }

// Charset is how a route writes texts. Zero value: CharsetAuto.
type Charset byte

// Charsets. A text that does not fit the route's charset goes as UCS-2.
const (
	CharsetAuto   Charset = iota // the GSM 03.38 alphabet, else UCS-2
	CharsetUCS2                  // always UCS-2: data_coding 8
	CharsetLatin1                // ISO-8859-1: data_coding 3
	CharsetASCII                 // IA5: data_coding 1
)

// Sender is what a recipient sees as the sender. There is no default: each country has its own
// rules. Zero value: none, which transports refuse.
type Sender struct {
	ton, npi byte // SMPP 3.4 sections 5.2.5 and 5.2.6
	addr     string
}

// Types of number, SMPP 3.4 section 5.2.5; the numbering plan goes with them.
const (
	tonInternational = 1
	tonNetwork       = 3
	tonAlphanumeric  = 5
	npiISDN          = 1
)

// ParseSender reads "+447700900123", a short code of 3 to 8 digits, or a name of up to 11 letters,
// digits, spaces, dots and dashes with at least one letter.
func ParseSender(s string) (Sender, error) {
	if strings.HasPrefix(s, "+") {
		n, err := wire.ParseNumber(s)
		if err != nil {
			return Sender{}, ErrSender
		}
		return Sender{tonInternational, npiISDN, n.E164()[1:]}, nil
	}
	if strings.Trim(s, "0123456789") == "" && len(s) >= 3 && len(s) <= 8 {
		return Sender{ton: tonNetwork, addr: s}, nil
	}
	if len(s) > 11 || strings.TrimFunc(s, isNameChar) != "" || !strings.ContainsFunc(s, isLetter) {
		return Sender{}, ErrSender
	}
	return Sender{ton: tonAlphanumeric, addr: s}, nil
}

func isLetter(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' }

func isNameChar(r rune) bool {
	return isLetter(r) || r >= '0' && r <= '9' || strings.ContainsRune(" .-", r)
}

// IsZero reports whether s is unset.
func (s Sender) IsZero() bool { return s.addr == "" }

// Outcome is what is known of the first part that was not accepted, or of the last part. Zero
// value: Answered. [F-11]
type Outcome byte

// The three outcomes.
const (
	Answered Outcome = iota // the SMSC answered: see Status
	NotSent                 // it certainly did not leave
	Unknown                 // it was written, and no answer came
)

// String is the outcome's name.
func (o Outcome) String() string {
	if o > Unknown {
		return "invalid"
	}
	return [...]string{"answered", "not sent", "unknown"}[o]
}

// Answer is the SMSC's answer to one part.
type Answer struct {
	Status Status
	Class  Class  // of the status on this route
	ID     string // the SMSC's id of the part; may be empty, constant, hex or decimal
}

// Result is all that is known when Submit returns. Status and Class count only when Answered. Class
// Accepted means that every part was accepted; it does not prove delivery, only a receipt does.
type Result struct {
	Outcome   Outcome
	Status    Status
	Class     Class
	IDs       []string      // ids of the parts accepted by this call, in order
	Late      <-chan Answer // when Unknown: an answer that comes after all; closed when none can
	Whole     bool          // IDs has one id, and that stands for all parts: a gateway cut the text
	Simulated bool          // printed, not sent
	Err       error         // why it is not Answered; one of this package's errors
}

// Receipt is what the network says about one part later. It does not print itself. [F-14]
type Receipt struct {
	Route string // of the transport that received it
	ID    string // the SMSC's id; may be empty
	To    wire.Number
	State wire.JobState // JobSubmitted while it is not final
}

// Format redacts under every verb.
func (Receipt) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[receipt]")) }

// LogValue redacts.
func (Receipt) LogValue() slog.Value { return slog.StringValue("[receipt]") }

// ReceiptHandler stores a receipt. It may be called concurrently, for the same receipt more than
// once, and before Submit has returned. An error means "not stored": the SMSC will repeat it. [F-14]
type ReceiptHandler func(ctx context.Context, r Receipt) error

// Incoming is a text that a phone sent to one of our numbers. It does not print itself. Who sent it
// is the network's word, and can be forged.
type Incoming struct {
	Route string // of the transport that received it
	ID    string // the network's, if it gives one; for telling a repetition
	From  wire.Number
	To    string // our own number or short code, as the network writes it
	Text  string // at most 1,600 characters
}

// Format redacts under every verb.
func (Incoming) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[incoming sms]")) }

// LogValue redacts.
func (Incoming) LogValue() slog.Value { return slog.StringValue("[incoming sms]") }

// IncomingHandler stores what a text asks for. It may be called concurrently and for the same text
// more than once. An error means "not stored": the network will repeat it.
type IncomingHandler func(ctx context.Context, m Incoming) error

// Handlers take what the network sends by itself. A nil one has it refused for good.
type Handlers struct {
	Receipt  ReceiptHandler
	Incoming IncomingHandler
}

// Transport is one route to the phone network.
type Transport interface {
	// Route names this transport: SMSC ids are unique at most within it.
	Route() string
	// Run keeps the transport connected and hands on what the network sends until ctx ends; then it
	// returns nil, and nothing it started runs any more. Call it once.
	Run(ctx context.Context, h Handlers) error
	// Turn waits until a part could be written at once, or until ctx ends, which is [ErrNoLink]. Nil and
	// no error: there is nothing to wait for.
	Turn(ctx context.Context) (*Turn, error)
	// Submit sends the parts of m from m.Done on, in order, and stops at the first that is not
	// accepted. The first goes by m.Turn; for the others it waits for a link and a turn until ctx ends.
	// It writes nothing after ctx's deadline; once a part is written it waits for the answer as long as
	// the route allows, unless ctx ends, which makes it Unknown.
	Submit(ctx context.Context, m Message) Result
	// Check connects and authenticates as Run would, and sends nothing. Its errors say what to do; nil
	// does not prove that the network would deliver.
	Check(ctx context.Context) error
	// Linked reports whether a Submit now would not have to wait for a link.
	Linked() bool
}
