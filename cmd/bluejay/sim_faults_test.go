//go:build faults

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// simFaults are the promises that a build with the tag faults can break, and what the simulator calls it.
var simFaults = map[string]string{
	"early-puback":              "early puback",
	"double-delivery":           "double delivery",
	"delivery-after-revocation": "delivery after opt-out",
	"wrong-tag":                 "wrong tag",
	"stale-blue":                "stale blue",
	"lost-return":               "lost return",
	"reused-key":                "reused key",
}

// faultOptions are a run in which each of the faults shows within seconds.
func faultOptions(t *testing.T) simOptions {
	t.Helper()
	file := filepath.Join(t.TempDir(), "churn.toml")
	// Long enough away to be grey, and there long enough to miss an answer, by the bound below.
	stays := strings.NewReplacer(`"300ms"`, `"6s"`, `"2s"`, `"8s"`)
	if err := os.WriteFile(file, []byte(stays.Replace(churnProfile)), 0o600); err != nil {
		t.Fatal(err)
	}
	return simOptions{
		lean: 24, duration: 8 * time.Second, profile: file, seed: 1, rate: 120,
		deadline: time.Second, greyMin: 200 * time.Millisecond, greyMax: 400 * time.Millisecond,
		bound: 5 * time.Second, // the machine may do other things, too
	}
}

// TestFaultsControl: the same run against the same build with no fault named breaks nothing, so that
// what TestFaults finds is the fault.
func TestFaultsControl(t *testing.T) {
	o := faultOptions(t)
	o.deadline = 5 * time.Second // and with it the patience for what a worker that stood still owes
	if events, err := runFleet(t, o); err != nil {
		t.Fatalf("%v: %v", err, events)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil || !bytes.Contains(b, []byte(faultMark())) {
		t.Errorf("the mark of this build is not in it (%v): its absence from the ordinary build would prove nothing", err)
	}
}

// TestFaults: each broken promise ends the run with a violation of its kind, and exit code 1.
func TestFaults(t *testing.T) {
	for fault, want := range simFaults {
		t.Run(fault, func(t *testing.T) {
			t.Setenv("BJ_FAULT", fault)
			o := faultOptions(t)
			o.duration = 30 * time.Second // it ends with the first violation
			events, err := runFleet(t, o)
			if !errors.Is(err, errViolations) {
				t.Fatalf("the run ended with %v, want a violation", err)
			}
			kinds := map[any]int{}
			for _, e := range events {
				if e["event"] == "violation" {
					kinds[e["kind"]]++
				}
			}
			if kinds[want] == 0 {
				t.Errorf("found %v, want %q", kinds, want)
			}
			t.Logf("found %v", kinds)
		})
	}
}
