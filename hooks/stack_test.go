//go:build !race

package hooks

import (
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
)

// TestTextFitsStack: a connection that carries a text does it on a stack of 16 KiB. One frame more
// with a packet of mochi's by value, and every handset that writes takes 32. The race detector's
// frames are larger, so it is not asked.
func TestTextFitsStack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would shrink them
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, inMemory())
		const pairs = 100
		var all []*phone
		for range pairs {
			a, b := st.person(everything), st.person(everything)
			from, to := st.on(a, 4), st.on(b, 4)
			pid := from.publish(b.topic('i'), []byte("a sealed text"))
			to.ack(to.receive(b.topic('i')))
			from.told(pid, 0, "a text")
			pid = to.publish(a.topic('i'), []byte("a sealed answer"))
			from.ack(from.receive(a.topic('i')))
			to.told(pid, 0, "an answer")
			all = append(all, from, to)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		each := float64(m.StackInuse) / float64(len(all)) / 1024
		t.Logf("%.1f KiB of stack a connection, the test's end of it included; %d goroutines", each, runtime.NumGoroutine())
		if each > 28 {
			t.Errorf("%.1f KiB of stack a connection, at most 28 are due: 16, and the test's own", each)
		}
	})
}
