package hooks

import (
	"fmt"
	"slices"
	"testing"

	"bluejay/wire"
)

// TestCheckAsksNobody: while texts pass, the store is not asked: what a check costs does not depend on how many
// users there are, only who is connected is in memory. [H-10]
func TestCheckAsksNobody(t *testing.T) {
	st := newStage(t, ListenConfig{})
	a, b := st.person(everything), st.person(everything)
	from, to := st.on(a, 4), st.on(b, 4)
	st.asked()
	for i := range 100 {
		pid := from.publish(b.topic('i'), fmt.Appendf(nil, "text %d", i))
		to.ack(to.receive(b.topic('i')))
		from.told(pid, wire.OK, "a text")
	}
	if asked := st.asked(); slices.Contains(asked, "load") || slices.Contains(asked, "save") {
		t.Errorf("asked for %v", asked)
	}
	from.publish("c", wire.Request{ID: 7, Body: a.record(everything)}.Marshal())
	st.eventually("a consent record does ask", func() bool { return slices.Contains(st.asked(), "load") })
}
