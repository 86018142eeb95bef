package main

import "testing"

// TestQuiet: memory is given back once after each burst, when it is over, and not while there is work.
func TestQuiet(t *testing.T) {
	const mib = 1 << 20
	var q quiet
	for i, look := range []struct {
		more uint64 // allocated since the last look
		want bool
	}{
		{50 * mib, false},                  // the start
		{60 * mib, false},                  // a storm of connections
		{mib / 2, true},                    // over
		{mib / 2, false}, {mib / 2, false}, // idle
		{7 * mib, false}, {0, true}, // little by little
		{2 * mib, false}, {2 * mib, false}, {0, false}, // not worth it
		{900 * mib, false}, {900 * mib, false}, // texts
		{0, true},
	} {
		if got := q.due(q.last+look.more, 20*mib); got != look.want {
			t.Errorf("look %d, %d bytes more: %v", i, look.more, got)
		}
	}
	if q.due(q.last+300*mib, 2000*mib); q.due(q.last, 2000*mib) {
		t.Error("a collection of 2 GB for 300 MB")
	}
	if q.due(q.last+300*mib, 2000*mib); !q.due(q.last, 2000*mib) {
		t.Error("none for 600 MB")
	}
}

// TestPercentFor: a small process keeps Go's 100, a large one has half as much garbage as it keeps.
func TestPercentFor(t *testing.T) {
	const mib = 1 << 20
	for kept, want := range map[uint64]int{0: 100, 10 * mib: 100, 32 * mib: 100, 33 * mib: 90, 50 * mib: 60, 64 * mib: 50, 900 * mib: 50} {
		if got := percentFor(kept); got != want {
			t.Errorf("%d MiB: %d %%, want %d", kept/mib, got, want)
		}
	}
}
