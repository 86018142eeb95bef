//go:build !faults

package main

import (
	"bytes"
	"os"
	"testing"
)

// TestNoFaults: nothing of the faults is in the ordinary build. This test's own binary is one: it is
// the bluejay command, too. make faults looks for the same mark in the other build, and finds it.
func TestNoFaults(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(faultMark())) {
		t.Error("the ordinary build can be told to break a promise")
	}
}
