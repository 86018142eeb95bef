package fallback

import (
	"strings"

	"bluejay/wire"
)

// Mode is what the user wants when a contact is grey. [F-1]
type Mode byte

// Modes. As the user's setting ModeUnset means ModeDevice; for one contact it means the setting.
const (
	ModeUnset   Mode = iota
	ModeDevice       // SMS from the phone's own SIM: no server learns anything
	ModeGateway      // a sealed job to the SMS worker
	ModeAsk
	ModeNever // wait until the contact is reachable
)

// Path is the way a text goes.
type Path byte

// Paths. Zero value: the text waits.
const (
	PathWait    Path = iota
	PathIP           // sealed, to the contact's handset
	PathDevice       // SMS from the phone's own SIM
	PathGateway      // a sealed job on topic f
	PathAsk          // the user chooses from Offers
)

// Why explains a [Decision] to the user.
type Why byte

// Reasons. Each is a sentence of the user interface.
const (
	WhyReachable Why = iota // the contact is blue
	WhyGrey                 // not reachable: the user's own rule
	WhyOwnSMS               // a short code, an emergency number or a name: the phone's own SMS
	WhyNever                // the user wants no SMS
	WhyWasBlue              // it was shown as going over IP: no silent downgrade
	WhyUserAsks             // the user wants to be asked
	WhyRoaming              // an SMS from this SIM may cost more abroad
	WhyNoSIM                // the device cannot send an SMS itself
	WhyNoGateway            // no consent to the gateway, or no current key for it
	WhyTooLong              // more than six parts
	WhyNoWay                // nothing can carry it now
	whyCount
)

var whyTexts = [whyCount]string{
	"reachable", "not reachable", "always the phone's own SMS", "you chose never to use SMS",
	"shown as reachable when you sent it", "you chose to be asked", "you are roaming",
	"this device has no SIM", "the SMS gateway cannot be used now", "long: more than six SMS",
	"no way to send it now",
}

// String is the reason in words.
func (w Why) String() string {
	if w < whyCount {
		return whyTexts[w]
	}
	return "unknown reason"
}

// Input is all that [Decide] looks at.
type Input struct {
	Text string
	From string // the user's own number as "+44…" if a gateway SMS shall claim it; "" if not

	OwnSMSOnly bool // from [OwnSMSOnly] of what was dialled
	Blue       bool // the contact is reachable now, and this text was not returned as undeliverable
	ShownBlue  bool // the user saw blue when pressing send

	Setting Mode // the user's rule
	Contact Mode // this contact's own rule; ModeUnset if there is none

	SIM        bool // the device can send an SMS itself
	Roaming    bool
	RoamingSMS bool // the user accepts the phone's own SMS while roaming
	Gateway    bool // scope 2 is granted, and a worker key is at hand that is good long enough
}

// Decision is what to do with a text, and what to show before it is done. [F-1]
type Decision struct {
	Path   Path
	Why    Why
	Parts  int    // SMS parts on this path, or on the first offer; 0 over IP and while waiting
	GSM7   bool   // the text fits the GSM alphabet
	Offers []Path // only with PathAsk: what can carry it, most private first
	Plain  string // a transliteration that takes fewer parts, worth offering; "" if none does
}

// Decide picks the path of one text. The order of its rules is the order of this list: the phone's
// own SMS for what is never looked up; IP for a blue contact; the user's never; a question instead of
// a silent downgrade; a question if the text takes more than six parts; then the user's mode, turned
// into a question wherever it cannot be followed as it stands. [F-1] [F-3] [F-12]
func Decide(in Input) Decision {
	switch mode := in.mode(); {
	case in.OwnSMSOnly && in.SIM:
		return in.send(PathDevice, WhyOwnSMS)
	case in.OwnSMSOnly:
		return Decision{Why: WhyNoSIM}
	case in.Blue:
		return Decision{Path: PathIP}
	case mode == ModeNever:
		return Decision{Why: WhyNever}
	case in.ShownBlue && !in.Gateway && in.Contact == ModeUnset:
		return in.ask(WhyWasBlue)
	case mode == ModeAsk:
		return in.ask(WhyUserAsks)
	case mode == ModeGateway:
		return in.gateway(WhyNoGateway)
	case !in.SIM:
		return in.gateway(WhyNoSIM)
	case in.Roaming && !in.RoamingSMS:
		return in.gateway(WhyRoaming)
	case in.parts(PathDevice) > wire.MaxSMSParts:
		return in.ask(WhyTooLong)
	}
	return in.send(PathDevice, WhyGrey)
}

func (in Input) mode() Mode {
	switch {
	case in.Contact != ModeUnset:
		return in.Contact
	case in.Setting != ModeUnset:
		return in.Setting
	}
	return ModeDevice
}

// gateway takes the gateway if it may be taken, and asks otherwise: it never turns into an SMS from
// the user's own SIM by itself, because that is another price and another sender.
func (in Input) gateway(instead Why) Decision {
	switch {
	case in.Gateway && in.parts(PathGateway) > wire.MaxSMSParts:
		return in.ask(WhyTooLong)
	case in.Gateway:
		return in.send(PathGateway, WhyGrey)
	}
	return in.ask(instead)
}

func (in Input) send(p Path, why Why) Decision {
	d := Decision{Path: p, Why: why, Parts: in.parts(p)}
	_, d.GSM7 = wire.SMSParts(in.Text)
	plain := Transliterate(in.Text)
	if n, _ := wire.SMSParts(in.carried(p, plain)); n < d.Parts {
		d.Plain = plain
	}
	return d
}

// ask offers what can carry the text; with nothing to offer, the text waits.
func (in Input) ask(why Why) Decision {
	var offers []Path
	if in.SIM {
		offers = append(offers, PathDevice)
	}
	if in.Gateway && in.parts(PathGateway) <= wire.MaxSMSParts {
		offers = append(offers, PathGateway)
	}
	if len(offers) == 0 {
		return Decision{Why: WhyNoWay}
	}
	d := in.send(offers[0], why)
	d.Path, d.Offers = PathAsk, offers
	return d
}

func (in Input) parts(p Path) int {
	n, _ := wire.SMSParts(in.carried(p, in.Text))
	return n
}

func (in Input) carried(p Path, text string) string {
	if p == PathGateway {
		return WithSender(in.From, text)
	}
	return text
}

const (
	senderBefore = "From "
	senderAfter  = ": "
)

// WithSender is the text of a gateway SMS that claims a checked sender, "From +44…: text"; the text
// itself when from is "". The parts of a job are counted with it. [F-3] [F-6]
func WithSender(from, text string) string {
	if from == "" {
		return text
	}
	return senderBefore + from + senderAfter + text
}

// CutSender undoes [WithSender]. ok is false when the text claims no number; the claim is worth what
// the gateway it came from is worth. [F-6]
func CutSender(sms string) (from wire.Number, text string, ok bool) {
	rest, found := strings.CutPrefix(sms, senderBefore)
	claim, text, colon := strings.Cut(rest, senderAfter)
	from, err := wire.ParseNumber(claim)
	if !found || !colon || err != nil {
		return wire.Number{}, "", false
	}
	return from, text, true
}
