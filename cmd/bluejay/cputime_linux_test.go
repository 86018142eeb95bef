package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestProcessClock: CPU time is counted finer than the kernel's tick, of this process and of another, and is nobody's
// for a pid that does not run.
func TestProcessClock(t *testing.T) {
	before, ok := processClock(os.Getpid())
	if !ok || before <= 0 {
		t.Fatalf("%v, %v", before, ok)
	}
	for began := time.Now(); time.Since(began) < 3*time.Millisecond; {
		_ = began
	}
	after, _ := processClock(os.Getpid())
	if spent := after - before; spent <= 0 || spent > time.Minute {
		t.Errorf("spent %v", spent)
	}
	other := exec.Command("cat")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if used, ok := processClock(other.Process.Pid); !ok || used < 0 || used > time.Minute {
		t.Errorf("another: %v, %v", used, ok)
	}
	_ = in.Close()
	_ = other.Wait()
	if used, ok := processClock(other.Process.Pid); ok {
		t.Errorf("of a process that has ended: %v", used)
	}
}
