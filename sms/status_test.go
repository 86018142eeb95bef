package sms

import "testing"

// [F-15]
func TestStatusClass(t *testing.T) {
	tests := map[Status]Class{
		0: Accepted, 0x58: Throttled, 0x14: Throttled, 0x08: Retry, 0x64: Retry, 0x45: Retry, 0x04: Rebind,
		0x0d: Refused, 0x0e: Refused, 0x0f: Refused,
		0x01: Permanent, 0x0b: Permanent, 0x65: Permanent, 0xff: Permanent, 0x400: Permanent, 0xffffffff: Permanent,
	}
	for s, want := range tests {
		if got := s.Class(nil); got != want {
			t.Errorf("%v is %v, want %v", s, got, want)
		}
	}
	route := map[Status]Class{0x400: Throttled, 0x08: Permanent}
	if Status(0x400).Class(route) != Throttled || Status(0x08).Class(route) != Permanent || Status(0x58).Class(route) != Throttled {
		t.Error("a route's overrides do not come first")
	}
}

func TestNames(t *testing.T) {
	for c := Accepted; c <= Permanent; c++ {
		if c.String() == "invalid" {
			t.Errorf("class %d has no name", c)
		}
	}
	for o := Answered; o <= Unknown; o++ {
		if o.String() == "invalid" {
			t.Errorf("outcome %d has no name", o)
		}
	}
	if Class(99).String() != "invalid" || Outcome(99).String() != "invalid" || Status(0x58).String() != "0x58" {
		t.Error("names out of range")
	}
}
