package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// peerAttr makes a process the leader of a group, whom Ctrl-C does not reach, and kills it when this process
// ends, even by SIGKILL.
func peerAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killPeer kills the group that p leads.
func killPeer(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }

// raiseFileLimit lets processes that are started from now on open as many files as root allows. Go does that
// for itself at its start, and takes it back for its children unless the limit was set in words.
func raiseFileLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // it stays what it was: fewer connections
	}
}

// peerMember is a process. Its start tells it from a later one with the same number.
type peerMember struct {
	pid, parent, group int
	started            string // in the kernel's ticks
}

// peerFamily is the processes that have these leaders, are in their groups, or descend from one of those.
func peerFamily(leaders []int) (family []peerMember) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	var all []peerMember
	for _, stat := range stats {
		if m, ok := readMember(stat); ok {
			all = append(all, m)
		}
	}
	in := map[int]bool{}
	for grown := true; grown; { // a parent may have the higher number
		grown = false
		for _, m := range all {
			if !in[m.pid] && (in[m.parent] || slices.Contains(leaders, m.group) || slices.Contains(leaders, m.pid)) {
				in[m.pid], grown = true, true
				family = append(family, m)
			}
		}
	}
	return family
}

// readMember reads a stat file of /proc; a process that has ended is none, waited for or not.
func readMember(path string) (m peerMember, ok bool) {
	text, err := os.ReadFile(path)
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // the program's name before it may be anything
	if err != nil || len(fields) < 20 || fields[0][0] == 'Z' {
		return m, false
	}
	pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
	parent, err2 := strconv.Atoi(string(fields[1]))
	group, err3 := strconv.Atoi(string(fields[2]))
	return peerMember{pid, parent, group, string(fields[19])}, err1 == nil && err2 == nil && err3 == nil
}

// gone reports whether the process has ended.
func (m peerMember) gone() bool {
	now, ok := readMember("/proc/" + strconv.Itoa(m.pid) + "/stat")
	return !ok || now.started != m.started
}

func (m peerMember) kill() {
	if !m.gone() {
		_ = syscall.Kill(m.pid, syscall.SIGKILL)
	}
}
