package fallback

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// TestDecide: one row for each rule, and for each way it gives way to another. [F-1] [F-12]
func TestDecide(t *testing.T) {
	long, claim := strings.Repeat("a", 6*153), "+447700900123"
	device := Decision{Path: PathDevice, Why: WhyGrey, Parts: 1, GSM7: true}
	gateway := Decision{Path: PathGateway, Why: WhyGrey, Parts: 1, GSM7: true}
	ask := func(why Why, offers ...Path) Decision {
		return Decision{Path: PathAsk, Why: why, Parts: 1, GSM7: true, Offers: offers}
	}
	tests := []struct {
		name string
		in   Input
		want Decision
	}{
		{"blue", Input{Blue: true, SIM: true}, Decision{Path: PathIP}},
		{"blue, and the user never wants SMS", Input{Blue: true, Setting: ModeNever}, Decision{Path: PathIP}},
		{"grey", Input{SIM: true}, device},
		{"grey, device chosen", Input{SIM: true, Setting: ModeDevice, Gateway: true}, device},
		{"never", Input{SIM: true, Setting: ModeNever, Gateway: true}, Decision{Why: WhyNever}},
		{"never for this contact", Input{SIM: true, Contact: ModeNever}, Decision{Why: WhyNever}},
		{"the contact's rule comes first", Input{SIM: true, Setting: ModeNever, Contact: ModeDevice}, device},

		{"an emergency number", Input{OwnSMSOnly: true, SIM: true, Setting: ModeNever}, Decision{Path: PathDevice, Why: WhyOwnSMS, Parts: 1, GSM7: true}},
		{"an emergency number, never the gateway", Input{OwnSMSOnly: true, SIM: true, Setting: ModeGateway, Gateway: true}, Decision{Path: PathDevice, Why: WhyOwnSMS, Parts: 1, GSM7: true}},
		{"an emergency number, not over IP", Input{OwnSMSOnly: true, SIM: true, Blue: true}, Decision{Path: PathDevice, Why: WhyOwnSMS, Parts: 1, GSM7: true}},
		{"an emergency number abroad", Input{OwnSMSOnly: true, SIM: true, Roaming: true}, Decision{Path: PathDevice, Why: WhyOwnSMS, Parts: 1, GSM7: true}},
		{"an emergency number without a SIM", Input{OwnSMSOnly: true, Gateway: true}, Decision{Why: WhyNoSIM}},

		{"was blue", Input{ShownBlue: true, SIM: true}, ask(WhyWasBlue, PathDevice)},
		{"was blue, scope 2", Input{ShownBlue: true, SIM: true, Gateway: true}, device},
		{"was blue, chosen for this contact", Input{ShownBlue: true, SIM: true, Contact: ModeDevice}, device},
		{"was blue, never", Input{ShownBlue: true, SIM: true, Setting: ModeNever}, Decision{Why: WhyNever}},
		{"was blue, nothing to offer", Input{ShownBlue: true}, Decision{Why: WhyNoWay}},

		{"ask", Input{SIM: true, Gateway: true, Setting: ModeAsk}, ask(WhyUserAsks, PathDevice, PathGateway)},
		{"ask without a SIM", Input{Gateway: true, Contact: ModeAsk}, ask(WhyUserAsks, PathGateway)},

		{"gateway", Input{SIM: true, Gateway: true, Setting: ModeGateway}, gateway},
		{"gateway without consent or key", Input{SIM: true, Setting: ModeGateway}, ask(WhyNoGateway, PathDevice)},
		{"no SIM", Input{Gateway: true}, gateway},
		{"no SIM and no gateway", Input{}, Decision{Why: WhyNoWay}},
		{"roaming", Input{SIM: true, Roaming: true}, ask(WhyRoaming, PathDevice)},
		{"roaming with a gateway", Input{SIM: true, Roaming: true, Gateway: true}, gateway},
		{"roaming, accepted", Input{SIM: true, Roaming: true, RoamingSMS: true}, device},

		{"six parts", Input{SIM: true, Text: long}, Decision{Path: PathDevice, Why: WhyGrey, Parts: 6, GSM7: true}},
		{"seven parts", Input{SIM: true, Text: long + "a"}, Decision{Path: PathAsk, Why: WhyTooLong, Parts: 7, GSM7: true, Offers: []Path{PathDevice}}},
		{"six parts by gateway", Input{Gateway: true, Text: long}, Decision{Path: PathGateway, Why: WhyGrey, Parts: 6, GSM7: true}},
		{"seven parts with the sender's number", Input{SIM: true, Gateway: true, Setting: ModeGateway, Text: long, From: claim}, Decision{Path: PathAsk, Why: WhyTooLong, Parts: 6, GSM7: true, Offers: []Path{PathDevice}}},
		{"seven parts, gateway only", Input{Gateway: true, Text: long + "a"}, Decision{Why: WhyNoWay}},
		{"the sender's number takes a part", Input{Gateway: true, Text: strings.Repeat("a", 150), From: claim}, Decision{Path: PathGateway, Why: WhyGrey, Parts: 2, GSM7: true}},

		{"a smart quote", Input{SIM: true, Text: strings.Repeat("a", 159) + "’"}, Decision{Path: PathDevice, Why: WhyGrey, Parts: 3, Plain: strings.Repeat("a", 159) + "'"}},
		{"a short smart quote", Input{SIM: true, Text: "it’s"}, Decision{Path: PathDevice, Why: WhyGrey, Parts: 1}},
		{"an emoji has no plain form", Input{SIM: true, Text: strings.Repeat("a", 100) + "😀"}, Decision{Path: PathDevice, Why: WhyGrey, Parts: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Decide(tt.in)); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
		})
	}
}

// inputs is every combination of what Decide looks at.
func inputs(yield func(Input) bool) {
	flag := func(n, bit int) bool { return n>>bit&1 == 1 }
	for n := range 1 << 7 {
		for setting := ModeUnset; setting <= ModeNever; setting++ {
			for contact := ModeUnset; contact <= ModeNever; contact++ {
				for _, text := range []string{"x", strings.Repeat("a", 1000)} {
					in := Input{
						OwnSMSOnly: flag(n, 0), Blue: flag(n, 1), ShownBlue: flag(n, 2), SIM: flag(n, 3), Roaming: flag(n, 4),
						RoamingSMS: flag(n, 5), Gateway: flag(n, 6), Setting: setting, Contact: contact, Text: text, From: "+447700900123",
					}
					if !yield(in) {
						return
					}
				}
			}
		}
	}
}

// TestDecideAlways: what no combination may break. [F-1] [F-3] [F-12]
func TestDecideAlways(t *testing.T) {
	for in := range inputs {
		d := Decide(in)
		mode := in.mode()
		bad := ""
		switch {
		case in.OwnSMSOnly && d.Path != PathDevice && d.Path != PathWait:
			bad = "an emergency number goes another way"
		case !in.OwnSMSOnly && in.Blue && d.Path != PathIP:
			bad = "a blue contact is not sent to over IP"
		case !in.OwnSMSOnly && mode == ModeNever && d.Path != PathIP && d.Path != PathWait:
			bad = "an SMS against the user's never"
		case d.Path == PathDevice && !in.SIM || d.Path == PathGateway && !in.Gateway:
			bad = "a path that is not there"
		case d.Path == PathGateway && d.Parts > wire.MaxSMSParts:
			bad = "too long for the gateway"
		case d.Path == PathDevice && !in.OwnSMSOnly && d.Parts > wire.MaxSMSParts:
			bad = "more than six parts without asking"
		case d.Path == PathDevice && mode == ModeGateway && !in.OwnSMSOnly:
			bad = "the user's own SIM instead of the gateway, without asking"
		case in.ShownBlue && !in.Gateway && in.Contact == ModeUnset && !in.OwnSMSOnly && (d.Path == PathDevice || d.Path == PathGateway):
			bad = "a silent downgrade"
		case (d.Path == PathAsk) != (len(d.Offers) > 0):
			bad = "offers without a question, or a question without offers"
		case (d.Path >= PathDevice) != (d.Parts > 0):
			bad = "parts not shown"
		case d.Why.String() == "unknown reason":
			bad = "no reason"
		}
		if bad != "" {
			t.Fatalf("%s: %+v\n%+v", bad, in, d)
		}
	}
}

func TestWhy(t *testing.T) {
	seen := map[string]bool{}
	for w := WhyReachable; w < whyCount; w++ {
		if s := w.String(); s == "" || seen[s] {
			t.Errorf("reason %d reads %q", w, s)
		} else {
			seen[s] = true
		}
	}
	if whyCount.String() != "unknown reason" {
		t.Error("a reason out of range")
	}
}

// TestOwnSMSOnly: what must never be looked up. [F-12]
func TestOwnSMSOnly(t *testing.T) {
	tests := map[string]bool{
		"112": true, "911": true, "999": true, "110": true, "000": true, "1 1 2": true, "10111": true, "116 117": true,
		"+112": true, "+911": true, "+44 999": true, "84433": true, "123456": true, "7": true, "": true,
		"*100#": true, "#31#": true, "BANK": true, "O2": true, "+44 7700 90012x": true,
		"+44 7700 900123": false, "07700 900123": false, "(0)7700/900-123": false, "1234567": false, "00447700900123": false,
		"+1234567": false, "+123456": true,
	}
	for dialled, want := range tests {
		if got := OwnSMSOnly(dialled); got != want {
			t.Errorf("OwnSMSOnly(%q) = %t, want %t", dialled, got, want)
		}
	}
	for _, e := range emergency {
		if !OwnSMSOnly(e) || !OwnSMSOnly("+"+e) || !isEmergency(e) {
			t.Errorf("%q could be looked up", e)
		}
	}
}

// FuzzOwnSMSOnly: whatever wire takes for a number may be looked up, and nothing shorter. [F-12]
func FuzzOwnSMSOnly(f *testing.F) {
	for _, s := range []string{"112", "+44 7700 900123", "*100#", "BANK", "+(", "\xff", "٣٣٣٣٣٣٣٣"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dialled string) {
		_, err := wire.ParseNumber(dialled)
		if err == nil && strings.TrimSpace(dialled) == dialled && OwnSMSOnly(dialled) {
			t.Fatalf("%q is a number and is not looked up", dialled)
		}
		if digits := strings.Count(dialled, "") - 1; digits <= maxShortCode && !OwnSMSOnly(dialled) {
			t.Fatalf("%q could be looked up", dialled)
		}
	})
}

// TestSender: the line before a gateway SMS, and back. [F-6]
func TestSender(t *testing.T) {
	const text = "see you: at eight"
	claimed := WithSender("+447700900123", text)
	if claimed != "From +447700900123: "+text || WithSender("", text) != text {
		t.Errorf("WithSender: %q", claimed)
	}
	want, err := wire.ParseNumber("+447700900123")
	if err != nil {
		t.Fatal(err)
	}
	if from, rest, ok := CutSender(claimed); !ok || from != want || rest != text {
		t.Errorf("CutSender: %q, %t, number right: %t", rest, ok, from == want)
	}
	for _, s := range []string{"", text, "From me: hi", "From +44: hi", "From +447700900123", "from +447700900123: x", "From +447700900123 : x: y"} {
		if _, rest, ok := CutSender(s); ok && s != "From +447700900123 : x: y" || !ok && rest != "" {
			t.Errorf("CutSender(%q) = %q, %t", s, rest, ok)
		}
	}
}

// FuzzCutSender: the decoder is total, and undoes what it accepts up to how the number is written. [F-6]
func FuzzCutSender(f *testing.F) {
	f.Add("From +447700900123: hi")
	f.Add("From +: ")
	f.Add("From ")
	f.Fuzz(func(t *testing.T, s string) {
		from, text, ok := CutSender(s)
		if !ok {
			return
		}
		again, rest, ok := CutSender(WithSender(from.E164(), text))
		if !ok || again != from || rest != text {
			t.Fatalf("CutSender(%q) does not survive", s)
		}
	})
}
