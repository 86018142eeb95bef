package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// processClock is the CPU time of a process and its threads, ended ones too, in nanoseconds; ok is false where there is
// none. The clock's id is made of the pid as clock_getcpuclockid(3) makes it.
func processClock(pid int) (used time.Duration, ok bool) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, false
	}
	return time.Duration(t.Nano()), true
}
