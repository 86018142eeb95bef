package main

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// noSocketsEnv makes TestWithoutSockets the process that gives sockets up and becomes the command: its
// value is the command's arguments, one a line.
const noSocketsEnv = "BLUEJAY_TEST_NO_SOCKETS"

// TestWithoutSockets is that process; by itself it only shows that its filter bites.
func TestWithoutSockets(t *testing.T) {
	args := os.Getenv(noSocketsEnv)
	if args == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestWithoutSockets$")
		c.Env = append(os.Environ(), noSocketsEnv+"=health\ntcp://127.0.0.1:1")
		if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "operation not permitted") {
			t.Fatalf("the control could open a socket: %v, %s", err, out)
		}
		return
	}
	runtime.LockOSThread()
	if err := giveUpSockets(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Fatal("a socket in this thread")
	}
	t.Fatal(syscall.Exec(os.Args[0], append([]string{"bluejay"}, strings.Split(args, "\n")...), plainEnv()))
}

// giveUpSockets makes socket(2) fail with EPERM in this thread and what it executes: a seccomp filter
// of four instructions (load the call's number; socket? EPERM; else allowed).
func giveUpSockets() error {
	const (
		prSetSeccomp, prSetNoNewPrivs, modeFilter = 22, 38, 2
		retErrno, retAllow                        = 0x00050000, 0x7fff0000
	)
	filter := []syscall.SockFilter{
		{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS},
		{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, K: syscall.SYS_SOCKET, Jf: 1},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: retErrno | uint32(syscall.EPERM)},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: retAllow},
	}
	prog := syscall.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetSeccomp, modeFilter, uintptr(unsafe.Pointer(&prog)), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// TestConsentVerifyDialsNothing verifies and exports in a process that cannot have a socket. [P-8]
func TestConsentVerifyDialsNothing(t *testing.T) {
	t.Parallel()
	file := tempFile(t, makeReceipt(1, testScopes))
	for _, args := range [][]string{{"consent", "verify", file}, {"consent", "export", file, "--format", "dpv"}} {
		c := exec.Command(os.Args[0], "-test.run=^TestWithoutSockets$")
		c.Env = append(os.Environ(), noSocketsEnv+"="+strings.Join(append(args, testKeys()...), "\n"))
		if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "oQAAAAAAAAAAAAAH") {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
}
