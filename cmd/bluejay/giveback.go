package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A handset that connects costs a node several times the memory that it keeps while it is idle: two verified
// signatures, records, deep stacks. Go collects when as much again was allocated, which on a node of idle handsets takes
// hours, and a stack shrinks by half at each collection. So a process that has become quiet collects, after a burst that
// is worth it.
const (
	quietEvery = 5 * time.Second
	quietMost  = 1 << 20 // bytes allocated in that time, at most: PINGREQ of 100,000 handsets allocate less
	quietBurst = 8 << 20 // bytes allocated since memory was given back the last time, and a quarter of what lives
)

// quiet decides when memory is given back. Zero value: ready.
type quiet struct {
	last   uint64 // allocated by the last look
	behind uint64 // allocated by the time memory was given back
}

// due takes how much was allocated so far, and how much lived at the last collection, in bytes, at each look.
func (q *quiet) due(allocated, live uint64) bool {
	calm := q.last != 0 && allocated-q.last <= quietMost
	q.last = allocated
	if !calm || allocated-q.behind < max(quietBurst, live/4) {
		return false
	}
	q.behind = allocated
	return true
}

// garbagePercent is how much garbage a large process lets pile up, of what lives and of the stacks. With Go's own 100 a
// node of 5,000 handsets took a tenth more, and its resident set crept up to that for ten minutes, because a collection
// came every half a minute. Less than garbageLeast is not worth the CPU: a small process keeps Go's 100.
const (
	garbagePercent = 50
	garbageLeast   = 32 << 20 // bytes
)

// percentFor is the percentage for so many bytes that live or are stacks, in tens.
func percentFor(kept uint64) int {
	percent := max(garbagePercent, 100*garbageLeast/max(1, kept))
	return int(min(100, percent/10*10))
}

// giveBack keeps the garbage small, unless the operator has set GOGC, and returns memory to the system whenever this
// process has become quiet, until ctx ends.
func giveBack(ctx context.Context) {
	t := time.NewTicker(quietEvery)
	defer t.Stop()
	heap := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	ours, percent := os.Getenv("GOGC") == "", 100
	for q := (quiet{}); ; {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		metrics.Read(heap)
		if p := percentFor(heap[1].Value.Uint64() + heap[2].Value.Uint64()); ours && p != percent {
			percent = p
			debug.SetGCPercent(percent)
		}
		if q.due(heap[0].Value.Uint64(), heap[1].Value.Uint64()) {
			runtime.GC()
			runtime.GC() // stacks, again
			debug.FreeOSMemory()
			metrics.Read(heap)
			q.last = heap[0].Value.Uint64()
		}
	}
}
