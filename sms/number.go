package sms

import (
	"errors"

	"github.com/nyaruka/phonenumbers"

	"bluejay/wire"
)

// Reasons why a number gets no SMS. The job ends "failed". [F-22]
var (
	ErrImpossible = errors.New("sms: no phone number has this shape")
	ErrPremium    = errors.New("sms: a premium or special number: refused against toll fraud")
	ErrCountry    = errors.New("sms: not a country that this operator sends to")
	ErrNoRoute    = errors.New("sms: no route to this country")
)

// NumberInfo is what the numbering plans say about a number; not who has it, nor that anybody has.
type NumberInfo struct {
	Country  string // ISO 3166-1 alpha-2 of the plan it belongs to; "" when no country has it
	Possible bool   // the length and the country code exist
	Valid    bool   // it is in a range that is handed out; new ranges may be missing here
	Special  bool   // premium rate, shared cost, pager, personal, universal access or voice mail
}

// special are the types of number that cost their callers more, or are no phones. [F-22]
var special = map[phonenumbers.PhoneNumberType]bool{
	phonenumbers.PREMIUM_RATE: true, phonenumbers.SHARED_COST: true, phonenumbers.PAGER: true,
	phonenumbers.PERSONAL_NUMBER: true, phonenumbers.UAN: true, phonenumbers.VOICEMAIL: true,
}

// Classify looks a number up in the numbering plans, which are in memory after the first call.
func Classify(n wire.Number) NumberInfo {
	p, err := phonenumbers.Parse(n.E164(), "ZZ")
	if err != nil {
		return NumberInfo{}
	}
	info := NumberInfo{
		Country:  phonenumbers.GetRegionCodeForNumber(p),
		Possible: phonenumbers.IsPossibleNumberWithReason(p) == phonenumbers.IS_POSSIBLE,
		Special:  special[phonenumbers.GetNumberType(p)],
	}
	info.Valid = info.Country != "" && phonenumbers.IsValidNumber(p)
	if info.Country == "" || info.Country == "ZZ" { // not handed out: the main country of its code
		info.Country = phonenumbers.GetRegionCodeForCountryCode(int(p.GetCountryCode()))
	}
	return info
}

// NumberPolicy says which numbers may get an SMS at all. Zero value: every possible number of every
// country that has a route, but no special ones.
type NumberPolicy struct {
	Countries []string // ISO 3166-1 alpha-2; empty: every country
	Premium   bool     // special numbers, too
}
