// Package presence decides who sees whom as reachable. The broker alone authors presence: a
// handset's connection is the only thing that turns its tag blue. [P-18]
//
//  1. A session comes up with an epoch: the tag turns blue and every watcher is sent one byte.
//  2. The session ends: the tag stays blue for a random 20 to 40 s, then turns grey, unless a newer
//     epoch came up meanwhile. Only the current epoch can take a tag down, so the late end of a
//     taken-over session never leaves a stale state.
//  3. Consent withdrawn: the tag turns grey at once and nothing of the owner stays.
//
// A watch is an edge of the social graph: it lives here, in memory, and ends with its connection.
// [Table] is pure: no clock, no lock, no goroutine.
package presence

import (
	"container/heap"
	"slices"
	"time"

	"bluejay/wire"
)

// Conn numbers the connection of a watcher.
type Conn uint64

// Effect tells one watcher about one tag. Blue: Payload is the retained byte; grey: Blue is false
// and the payload is empty. Retained is true for the answer to a new watch.
type Effect struct {
	Conn     Conn
	Tag      wire.Tag
	Blue     bool
	Byte     byte
	Retained bool
}

// entry is one tag. Invariants: it exists while the tag is blue or watched; greyAt is set exactly
// while the tag is blue and its session has ended; index is its place in the heap, -1 if none.
type entry struct {
	tag      wire.Tag
	epoch    uint64
	blue     bool
	greyAt   time.Time
	index    int
	watchers []Conn
}

// Table holds every tag that is blue or watched. Use it under one lock. Zero value: see [New].
type Table struct {
	tags    map[wire.Tag]*entry
	watches map[Conn][]*entry
	leaving leaving
}

// New returns an empty Table.
func New() *Table { return &Table{tags: map[wire.Tag]*entry{}, watches: map[Conn][]*entry{}} }

// Blue reports whether a tag shows as reachable.
func (t *Table) Blue(tag wire.Tag) bool { e := t.tags[tag]; return e != nil && e.blue }

// Len returns how many tags are blue and how many watches there are.
func (t *Table) Len() (blue, watches int) {
	for _, e := range t.tags {
		if e.blue {
			blue++
		}
		watches += len(e.watchers)
	}
	return blue, watches
}

func (t *Table) get(tag wire.Tag) *entry {
	e := t.tags[tag]
	if e == nil {
		e = &entry{tag: tag, index: -1}
		t.tags[tag] = e
	}
	return e
}

// Up turns a tag blue for the session of this epoch. Epochs rise: an older one changes nothing. The
// Up of a session comes before its Down; those of different sessions come in any order.
// Watchers of a tag that was blue already are sent the new byte too: it tells those whose icon
// turned grey by an undeliverable notice that a new session is there.
func (t *Table) Up(dst []Effect, tag wire.Tag, epoch uint64) []Effect {
	e := t.get(tag)
	if epoch < e.epoch {
		return dst
	}
	t.stay(e)
	e.epoch, e.blue = epoch, true
	return e.show(dst)
}

// Down starts the leave of the session of this epoch; the tag turns grey at the time given unless
// a newer session comes up before.
func (t *Table) Down(tag wire.Tag, epoch uint64, greyAt time.Time) {
	e := t.tags[tag]
	if e == nil || e.epoch != epoch || !e.blue || e.index >= 0 {
		return
	}
	e.greyAt = greyAt
	heap.Push(&t.leaving, e)
}

// Clear turns a tag grey at once, whatever its epoch: its owner withdrew consent. [C-revoke]
func (t *Table) Clear(dst []Effect, tag wire.Tag) []Effect {
	e := t.tags[tag]
	if e == nil || !e.blue {
		return dst
	}
	return t.grey(dst, e)
}

// Expire turns grey every tag whose time has come.
func (t *Table) Expire(dst []Effect, now time.Time) []Effect {
	for len(t.leaving) > 0 && !t.leaving[0].greyAt.After(now) {
		dst = t.grey(dst, t.leaving[0])
	}
	return dst
}

// Next is when Expire is due; ok is false when no tag is leaving.
func (t *Table) Next() (at time.Time, ok bool) {
	if len(t.leaving) == 0 {
		return time.Time{}, false
	}
	return t.leaving[0].greyAt, true
}

// Watch subscribes a connection to a tag and tells it at once if the tag is blue. Nothing tells
// whether the tag belongs to anybody. A second watch of the same tag only repeats the answer.
func (t *Table) Watch(dst []Effect, c Conn, tag wire.Tag) []Effect {
	e := t.get(tag)
	if !slices.Contains(e.watchers, c) {
		e.watchers = append(e.watchers, c)
		t.watches[c] = append(t.watches[c], e)
	}
	if e.blue {
		dst = append(dst, Effect{Conn: c, Tag: tag, Blue: true, Byte: byte(e.epoch), Retained: true})
	}
	return dst
}

// Watches returns how many tags a connection watches.
func (t *Table) Watches(c Conn) int { return len(t.watches[c]) }

// Unwatch ends one watch.
func (t *Table) Unwatch(c Conn, tag wire.Tag) {
	e := t.tags[tag]
	if e == nil {
		return
	}
	if i := slices.Index(t.watches[c], e); i >= 0 {
		t.watches[c] = slices.Delete(t.watches[c], i, i+1)
	}
	if len(t.watches[c]) == 0 {
		delete(t.watches, c)
	}
	t.leave(e, c)
}

// Drop ends every watch of a connection.
func (t *Table) Drop(c Conn) {
	for _, e := range t.watches[c] {
		t.leave(e, c)
	}
	delete(t.watches, c)
}

func (t *Table) leave(e *entry, c Conn) {
	if i := slices.Index(e.watchers, c); i >= 0 {
		last := len(e.watchers) - 1
		e.watchers[i] = e.watchers[last]
		e.watchers = e.watchers[:last]
	}
	t.tidy(e)
}

func (t *Table) grey(dst []Effect, e *entry) []Effect {
	t.stay(e)
	e.blue = false
	dst = e.show(dst)
	t.tidy(e)
	return dst
}

func (t *Table) stay(e *entry) {
	if e.index >= 0 {
		heap.Remove(&t.leaving, e.index)
	}
	e.greyAt = time.Time{}
}

// tidy forgets a tag that is neither blue nor watched.
func (t *Table) tidy(e *entry) {
	if !e.blue && len(e.watchers) == 0 {
		delete(t.tags, e.tag)
	}
}

func (e *entry) show(dst []Effect) []Effect {
	for _, w := range e.watchers {
		dst = append(dst, Effect{Conn: w, Tag: e.tag, Blue: e.blue, Byte: byte(e.epoch)})
	}
	return dst
}

// leaving is a heap of tags by the time they turn grey.
type leaving []*entry

func (l leaving) Len() int           { return len(l) }
func (l leaving) Less(i, j int) bool { return l[i].greyAt.Before(l[j].greyAt) }
func (l leaving) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push implements heap.Interface.
func (l *leaving) Push(x any) {
	e := x.(*entry)
	e.index = len(*l)
	*l = append(*l, e)
}

// Pop implements heap.Interface.
func (l *leaving) Pop() any {
	last := len(*l) - 1
	e := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	e.index = -1
	return e
}
