package main

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/wire"
)

// askTimes asks about both numbers in turn, n times each, and returns how long each took.
func askTimes(t *testing.T, w *world, n int, numbers ...string) map[string][]time.Duration {
	t.Helper()
	pins, err := handset.LoadPins(filepath.Join(w.dir, filePins))
	if err != nil {
		t.Fatal(err)
	}
	b := w.as(t, bridge.RoleOperator)
	took := map[string][]time.Duration{}
	for i := range n + 3 {
		for _, number := range numbers {
			parsed, err := wire.ParseNumber(number)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if _, err := (&asker{b: b, pins: pins, number: parsed}).hold(bounded(t)); err != nil {
				t.Fatal(err)
			}
			if i >= 3 { // the first ones warm caches up
				took[number] = append(took[number], time.Since(began))
			}
		}
	}
	return took
}

// TestHoldTime: a stranger's number takes as long as a user's: whoever sees only the time tells the two apart
// rarely. The bound is generous, because the machine is busy, and one lookup that finds nothing is a little
// cheaper than one that does; and what is no chance shows three times, the same way round. [H-2]
func TestHoldTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	w.enrol("alice", aliceNumber)
	const stranger = "+447700900999"
	differ := map[bool]int{} // whether the user's took longer
	for differ[true]+differ[false] < 3 {
		ratio := medians(t, askTimes(t, w, 40, aliceNumber, stranger), stranger)
		if ratio <= 1.5 && ratio >= 1/1.5 {
			return
		}
		differ[ratio > 1]++
	}
	if differ[true] == 0 || differ[false] == 0 {
		t.Errorf("a user's number takes longer than a stranger's: %t, three times", differ[true] > 0)
	}
}

// medians returns how many times as long as a stranger's a user's number takes.
func medians(t *testing.T, took map[string][]time.Duration, stranger string) float64 {
	t.Helper()
	slower := 0
	for _, user := range took[aliceNumber] {
		for _, other := range took[stranger] {
			if user > other {
				slower++
			}
		}
	}
	share := float64(slower) / float64(len(took[aliceNumber])*len(took[stranger]))
	for _, d := range took {
		slices.Sort(d)
	}
	user, other := took[aliceNumber][20], took[stranger][20]
	t.Logf("medians: a user's %v, a stranger's %v; the user's is slower in %.0f %% of pairs", user, other, 100*share)
	return float64(user) / float64(other)
}
