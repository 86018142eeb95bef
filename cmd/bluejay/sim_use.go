package main

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"strconv"
	"time"
)

// profileFiles are the profiles that come with the command.
//
//go:embed profiles/*.toml
var profileFiles embed.FS

// clockTick is the kernel's unit of CPU time in /proc: 100 a second on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// processUse is the memory and the CPU time of a process, as /proc has them; 0 where there is none.
func processUse(pid int) (rss int64, cpu float64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range bytes.Lines(status) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "VmRSS: %d kB", &kib); n == 1 {
			rss = kib << 10
		}
	}
	if used, ok := processClock(pid); ok {
		return rss, used.Seconds()
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	after := stat[bytes.LastIndexByte(stat, ')')+1:] // the name may hold anything
	fields := bytes.Fields(after)
	if len(fields) < 13 {
		return rss, 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return rss, (time.Duration(user+system) * clockTick).Seconds()
}

// cpuTime is what this process has used.
func cpuTime() float64 {
	_, cpu := processUse(os.Getpid())
	return cpu
}
