//go:build !linux

package main

import (
	"os"
	"syscall"
)

// Outside Linux a peer outlives this process if this is killed, and only the processes that were
// started here are known, not what they started.

func peerAttr() *syscall.SysProcAttr { return nil }

func killPeer(p *os.Process) { _ = p.Kill() }

func raiseFileLimit() {} // it is what the shell says: ulimit -n

// peerMember is a process that was started here, and waited for.
type peerMember struct{ pid int }

func peerFamily(leaders []int) (family []peerMember) {
	for _, pid := range leaders {
		family = append(family, peerMember{pid})
	}
	return family
}

func (m peerMember) gone() bool { return true } // who asks has waited for it

func (m peerMember) kill() {}
