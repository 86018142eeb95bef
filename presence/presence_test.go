package presence

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

// scripts tell the story of [P-18]: each line is a step, and after "->" what watchers are sent.
// Watchers are numbers, tags are names; "down" gives the delay the adapter drew from 20 to 40 s.
var scripts = []struct{ name, text string }{
	{"blue while the session lasts, grey after the delay", `
		watch 7 ann
		up ann 1            -> 7:ann=blue/1
		down ann 1 25s
		advance 24999ms
		advance 1ms         -> 7:ann=grey
		advance 1h`},
	{"a new watch is told at once, and only of blue", `
		up ann 1
		watch 7 ann         -> 7:ann=blue/1/retained
		watch 7 ann         -> 7:ann=blue/1/retained
		watch 8 ann         -> 8:ann=blue/1/retained
		down ann 1 20s
		watch 9 ann         -> 9:ann=blue/1/retained
		advance 20s         -> 7:ann=grey 8:ann=grey 9:ann=grey
		watch 10 ann`},
	{"an unknown tag, one that left and one revoked look the same", `
		up left 1
		down left 1 20s
		advance 20s
		up revoked 2
		clear revoked
		watch 7 unknown
		watch 7 left
		watch 7 revoked
		advance 1h`},
	{"a quick return is not seen as absence, and sends a fresh byte", `
		watch 7 ann
		up ann 1            -> 7:ann=blue/1
		down ann 1 30s
		advance 29s
		up ann 2            -> 7:ann=blue/2
		advance 1h
		down ann 2 20s
		advance 20s         -> 7:ann=grey`},
	{"taken over: the end of the old session comes late", `
		watch 7 ann
		up ann 1            -> 7:ann=blue/1
		up ann 2            -> 7:ann=blue/2
		down ann 1 20s
		advance 1h
		down ann 2 20s
		advance 20s         -> 7:ann=grey`},
	{"an older session that comes up late changes nothing", `
		watch 7 ann
		up ann 2            -> 7:ann=blue/2
		up ann 1
		down ann 1 20s
		advance 1h
		down ann 2 20s
		up ann 1
		advance 20s         -> 7:ann=grey`},
	{"the end of a session that comes twice does not move the time", `
		watch 7 ann
		up ann 1            -> 7:ann=blue/1
		down ann 1 20s
		advance 10s
		down ann 1 40s
		advance 10s         -> 7:ann=grey
		down ann 1 20s
		advance 1h`},
	{"consent withdrawn: grey at once [C-revoke]", `
		watch 7 ann
		up ann 1            -> 7:ann=blue/1
		clear ann           -> 7:ann=grey
		clear ann
		down ann 1 20s
		advance 1h
		up ann 2            -> 7:ann=blue/2
		down ann 2 30s
		clear ann           -> 7:ann=grey
		advance 1h`},
	{"consent withdrawn and given again in one session", `
		watch 7 ann
		up ann 1            -> 7:ann=blue/1
		clear ann           -> 7:ann=grey
		up ann 1            -> 7:ann=blue/1
		down ann 1 20s
		advance 20s         -> 7:ann=grey`},
	{"a watcher that leaves is told nothing more", `
		watch 7 ann
		watch 8 ann
		watch 7 bob
		up ann 1            -> 7:ann=blue/1 8:ann=blue/1
		drop 7
		up bob 2
		up ann 3            -> 8:ann=blue/3
		unwatch 8 ann
		unwatch 8 ann
		unwatch 8 nobody
		up ann 4
		drop 8`},
	{"each tag at its own time", `
		watch 7 ann
		watch 7 bob
		watch 7 cyd
		up ann 1            -> 7:ann=blue/1
		up bob 2            -> 7:bob=blue/2
		up cyd 3            -> 7:cyd=blue/3
		down ann 1 40s
		down bob 2 20s
		down cyd 3 30s
		advance 20s         -> 7:bob=grey
		up cyd 4            -> 7:cyd=blue/4
		advance 10s
		advance 10s         -> 7:ann=grey`},
	{"the byte is the session counter modulo 256", `
		watch 7 ann
		up ann 255          -> 7:ann=blue/255
		up ann 256          -> 7:ann=blue/0`},
}

func TestScripts(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			w := &world{Table: New(), now: time.Unix(1e9, 0)}
			for line := range strings.Lines(s.text) {
				step, want, _ := strings.Cut(strings.TrimSpace(line), "->")
				if step == "" {
					continue
				}
				if diff := cmp.Diff(strings.Fields(want), w.run(t, strings.Fields(step)), sorted); diff != "" {
					t.Errorf("%s (-want +got):\n%s", step, diff)
				}
			}
		})
	}
}

// sorted compares what watchers are sent as a set: they are independent connections.
var sorted = cmp.Transformer("sorted", func(s []string) []string {
	return append([]string{}, slices.Sorted(slices.Values(s))...)
})

type world struct {
	*Table
	now time.Time
}

func (w *world) run(t *testing.T, f []string) []string {
	var effects []Effect
	switch f[0] {
	case "up":
		effects = w.Up(nil, named(f[1]), uint64(number(t, f[2])))
	case "down":
		w.Down(named(f[1]), uint64(number(t, f[2])), w.now.Add(delay(t, f[3])))
	case "clear":
		effects = w.Clear(nil, named(f[1]))
	case "watch":
		effects = w.Watch(nil, Conn(number(t, f[1])), named(f[2]))
	case "unwatch":
		w.Unwatch(Conn(number(t, f[1])), named(f[2]))
	case "drop":
		w.Drop(Conn(number(t, f[1])))
	case "advance":
		w.now = w.now.Add(delay(t, f[1]))
		effects = w.Expire(nil, w.now)
		if at, ok := w.Next(); ok && !at.After(w.now) {
			t.Errorf("due at %v, and it is %v", at, w.now)
		}
	default:
		t.Fatalf("no such step: %q", f)
	}
	var out []string
	for _, e := range effects {
		out = append(out, show(e))
	}
	return out
}

func named(s string) (tag wire.Tag) {
	copy(tag[:], s)
	return tag
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func delay(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func show(e Effect) string {
	s := fmt.Sprintf("%d:%s=", e.Conn, strings.TrimRight(string(e.Tag[:]), "\x00"))
	switch {
	case !e.Blue:
		return s + "grey"
	case e.Retained:
		return s + fmt.Sprintf("blue/%d/retained", e.Byte)
	}
	return s + fmt.Sprintf("blue/%d", e.Byte)
}

// TestTakeoverModel tries every order in which three sessions of one device can come up and go
// down (each up before it is down), with and without a minute passing after each event, with and
// without a watcher. [P-18]
func TestTakeoverModel(t *testing.T) {
	runs := 0
	interleave(nil, make([]int, 3), func(order []event) {
		for pauses := range 1 << len(order) {
			for _, watched := range []bool{false, true} {
				runs++
				if msg := try(order, pauses, watched); msg != "" {
					t.Fatalf("%v, pauses %b, watched %v: %s", order, pauses, watched, msg)
				}
			}
		}
	})
	if runs != 90*64*2 {
		t.Errorf("%d runs, want every one of %d", runs, 90*64*2)
	}
}

// An event is the coming or going of a session.
type event struct {
	epoch uint64
	up    bool
}

// interleave calls f with every order; done[i] says how many events of session i+1 are in it.
func interleave(order []event, done []int, f func([]event)) {
	if len(order) == 2*len(done) {
		f(order)
		return
	}
	for i := range done {
		if done[i] < 2 {
			done[i]++
			interleave(append(slices.Clone(order), event{uint64(i + 1), done[i] == 1}), done, f)
			done[i]--
		}
	}
}

// try plays one order and returns what was wrong.
func try(order []event, pauses int, watched bool) string {
	const watcher = 7
	table, now, ann := New(), time.Unix(1e9, 0), named("ann")
	if watched {
		table.Watch(nil, watcher, ann)
	}
	shown, newest, up := false, uint64(0), map[uint64]bool{}
	see := func(effects []Effect) {
		for _, e := range effects {
			shown = e.Blue
		}
	}
	for i, e := range order {
		if e.up {
			see(table.Up(nil, ann, e.epoch))
			newest = max(newest, e.epoch)
		} else {
			table.Down(ann, e.epoch, now.Add(30*time.Second))
		}
		up[e.epoch] = e.up
		if pauses>>i&1 == 1 {
			now = now.Add(time.Minute)
			see(table.Expire(nil, now))
		}
		switch {
		case up[newest] && !table.Blue(ann):
			return fmt.Sprintf("grey after event %d although the newest session is up", i)
		case watched && shown != table.Blue(ann):
			return fmt.Sprintf("after event %d the watcher was shown blue=%v", i, shown)
		}
	}
	see(table.Expire(nil, now.Add(time.Minute)))
	table.Drop(watcher)
	if shown && watched || table.Blue(ann) || len(table.tags)+len(table.watches)+len(table.leaving) != 0 {
		return fmt.Sprintf("stale at the end: shown blue=%v, %d tags", shown, len(table.tags))
	}
	return ""
}

// TestNothingStays shows that no edge survives its connection, and no tag its session. [P-18]
func TestNothingStays(t *testing.T) {
	table, now := New(), time.Unix(1e9, 0)
	for c := range Conn(50) {
		for k := range 20 {
			table.Watch(nil, c, wire.Tag{byte(k)})
		}
		table.Unwatch(c, wire.Tag{byte(c % 20)})
		if got := table.Watches(c); got != 19 {
			t.Fatalf("connection %d has %d watches, want 19", c, got)
		}
	}
	for k := range uint64(20) {
		table.Up(nil, wire.Tag{byte(k)}, k)
		table.Down(wire.Tag{byte(k)}, k, now)
	}
	if blue, watches := table.Len(); blue != 20 || watches != 50*19 {
		t.Errorf("Len is %d blue and %d watches, want 20 and %d", blue, watches, 50*19)
	}
	if got := len(table.Expire(nil, now)); got != 50*19 {
		t.Errorf("%d watchers were told, want %d", got, 50*19)
	}
	for c := range Conn(50) {
		table.Drop(c)
	}
	if len(table.tags)+len(table.watches)+len(table.leaving) != 0 {
		t.Errorf("left: %d tags, %d watchers, %d leaving", len(table.tags), len(table.watches), len(table.leaving))
	}
}

// BenchmarkFanOut is one return of a device with 200 watchers.
func BenchmarkFanOut(b *testing.B) {
	table, ann := New(), named("ann")
	for c := range Conn(200) {
		table.Watch(nil, c, ann)
	}
	var dst []Effect
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		dst = table.Up(dst[:0], ann, i)
	}
	if len(dst) != 200 {
		b.Fatalf("%d effects", len(dst))
	}
}

// BenchmarkLeave is the end of one session among 10,000 that are leaving.
func BenchmarkLeave(b *testing.B) {
	table, now := New(), time.Unix(1e9, 0)
	tag := func(i int) wire.Tag { return wire.Tag{byte(i), byte(i >> 8)} }
	for i := range 10_000 {
		table.Up(nil, tag(i), 0)
		table.Down(tag(i), 0, now.Add(time.Duration(i%20)*time.Second))
	}
	var dst []Effect
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		dst = table.Up(dst[:0], tag(i%10_000), uint64(i))
		table.Down(tag(i%10_000), uint64(i), now.Add(time.Duration(i%20)*time.Second))
	}
}
