package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// TestPeerStopped: a broker that does not want to end is killed with all that it started, even with what
// has left its group, as Erlang's helpers do.
func TestPeerStopped(t *testing.T) {
	t.Parallel()
	run, err := shell(t, "trap '' TERM; sleep 1000 & setsid sleep 1000 & wait", func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	until(t, "three processes", func() bool { return len(run.pids()) == 3 })
	family := run.family()
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(family, func(m peerMember) bool { return !m.gone() }) {
		t.Errorf("of %v some still run", family)
	}
}

// heldEnv makes TestPeerHeld a process that holds a peer.
const heldEnv = "BJTEST_HOLD"

// TestPeerHeld: when the process that started a peer is killed, the peer ends too.
func TestPeerHeld(t *testing.T) {
	t.Parallel()
	if os.Getenv(heldEnv) != "" {
		hold(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.CommandContext(t.Context(), self, "-test.run=^TestPeerHeld$")
	holder.Env = append(os.Environ(), heldEnv+"=1")
	in, err1 := holder.StdinPipe()
	out, err2 := holder.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer func() { _ = in.Close() }()
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, err2 := fmt.Sscanf(line, "held %d", &pid); err != nil || err2 != nil {
		t.Fatalf("%q, %v, %v", line, err, err2)
	}
	peer, ok := readMember(fmt.Sprintf("/proc/%d/stat", pid))
	if !ok {
		t.Fatal("the peer does not run")
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	until(t, "the peer to end", peer.gone)
}

// hold starts a peer, says so, and stays until its input ends.
func hold(t *testing.T) {
	run, err := shell(t, "exec sleep 1000", func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("held %d\n", run.processes[0].cmd.Process.Pid)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
