//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"bluejay/bridge"
	"bluejay/envelope"
	"bluejay/sms/smsc"
)

// secret is something that only some processes may hold.
type secret struct {
	name  string
	forms [][]byte
}

// telling is how much of a secret is enough to tell it from chance: 12 bytes of the value as hex.
const telling = 24

// newSecret lists the forms in which a process could hold a value, each by its beginning.
func newSecret(name string, value []byte) secret {
	h := hex.EncodeToString(value)
	s := secret{name: name}
	for _, form := range []string{
		string(value), h, strings.ToUpper(h), base64.RawStdEncoding.EncodeToString(value), base64.RawURLEncoding.EncodeToString(value),
	} {
		s.forms = append(s.forms, []byte(form[:min(telling, len(form))]))
	}
	return s
}

// natsSecret is the key in a NATS credentials file, as it stands there and as the 32 bytes it means.
func natsSecret(t *testing.T, name, file string) secret {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "-----BEGIN USER NKEY SEED-----")
	seed := strings.TrimSpace(strings.SplitN(strings.TrimSpace(rest), "\n", 2)[0])
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(seed)
	if !ok || err != nil || len(raw) != 2+32+2 { // prefix, seed, checksum
		t.Fatalf("%s: no key in it: %v", name, err)
	}
	s := newSecret(name, raw[2:34])
	s.forms = append(s.forms, []byte(seed[:telling]))
	return s
}

func (s secret) in(b []byte) bool {
	for _, form := range s.forms {
		if bytes.Contains(b, form) {
			return true
		}
	}
	return false
}

// region is a stretch of a process's memory that it may read.
type region struct {
	from, to uint64
	name     string
	resident bool
}

// regions lists what a process has mapped.
func regions(t *testing.T, pid int) []region {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var rs []region
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var r region
		var mode, offset, device string
		var inode int
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %d", &r.from, &r.to, &mode, &offset, &device, &inode); n == 6 {
			if i := strings.IndexAny(lines.Text(), "/["); i > 0 {
				r.name = lines.Text()[i:]
			}
			if mode[0] != 'r' || mode[1] != 'w' && strings.HasPrefix(r.name, "/") {
				r.to = r.from // not readable, or the program's own file: it was there before the keys
			}
			rs = append(rs, r)
		}
		var kB int
		for _, field := range []string{"Rss:", "Swap:"} {
			if n, _ := fmt.Sscanf(lines.Text(), field+" %d", &kB); n == 1 && kB > 0 {
				rs[len(rs)-1].resident = true
			}
		}
	}
	return rs
}

// mapped reports whether a process has something at an address now.
func mapped(t *testing.T, pid int, at uint64) bool {
	t.Helper()
	return slices.ContainsFunc(regions(t, pid), func(r region) bool { return r.from <= at && at < r.to })
}

// shadow is larger than any mapping that holds a program's own bytes: the race detector's shadow,
// which holds who touched what, takes terabytes.
const shadow = 8 << 30

// memoryOf finds which secrets stand in a process's memory: every page it can read, its stack with
// arguments and environment among them.
func memoryOf(t *testing.T, pid int, secrets []secret) map[string]bool {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatalf("the memory of a process of this user cannot be read, so nothing can be proved about it: %v", err)
	}
	defer func() { _ = mem.Close() }()
	found, total := map[string]bool{}, 0
	const overlap = 8 << 10
	buf := make([]byte, 16<<20)
	for _, r := range regions(t, pid) {
		if !r.resident || r.name == "[vvar]" || r.name == "[vvar_vclock]" || r.name == "[vsyscall]" || r.to-r.from > shadow {
			continue // never touched, or the kernel's own
		}
		for at := r.from; at < r.to; at += uint64(len(buf) - overlap) {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), r.to-at)], int64(at))
			if n == 0 && errors.Is(err, syscall.EIO) && !mapped(t, pid, at) {
				break // the process has given it back meanwhile
			}
			if n == 0 && err != nil && !strings.HasPrefix(r.name, "/") {
				t.Fatalf("%x-%x %s: %v", r.from, r.to, r.name, err)
			}
			total += n
			for _, s := range secrets {
				found[s.name] = found[s.name] || s.in(buf[:n])
			}
		}
	}
	t.Logf("process %d: %d MiB of memory searched", pid, total>>20)
	if total < 4<<20 {
		t.Fatalf("only %d bytes of memory were read", total)
	}
	return found
}

// environOf finds which secrets stand in the environment that a process was started with.
func environOf(t *testing.T, pid int, secrets []secret) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(b) == 0 {
		t.Fatalf("the environment cannot be read: %d bytes, %v", len(b), err)
	}
	found := map[string]bool{}
	for _, s := range secrets {
		found[s.name] = s.in(b)
	}
	return found
}

// theirs lists what the broker must not hold, from the key folders of the others. The box secret
// and the day keys are searched for by their secret part, too.
func (w *world) theirs(t *testing.T, password string) (out []secret) {
	t.Helper()
	read := func(r bridge.Role, name string) []byte {
		b, err := rolesDir(w.dir, r).read(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, name := range []string{fileVOPRF, fileCert, fileRoot, fileBox} {
		out = append(out, newSecret(name, read(bridge.RoleRegistrar, name)))
	}
	box := &out[len(out)-1] // what was read from the file may be gone by now, and what is used has no version before it
	box.forms = append(box.forms, newSecret(fileBox, read(bridge.RoleRegistrar, fileBox)[1:]).forms...)
	out = append(out, newSecret(fileNumber, read(bridge.RoleWorker, fileNumber)))
	days, err := filepath.Glob(rolesDir(w.dir, bridge.RoleWorker).path("worker-*.key"))
	if err != nil || len(days) == 0 {
		t.Fatalf("the worker has no day key: %v", err)
	}
	for _, name := range days {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := envelope.ParseWorkerSecret(b); err != nil {
			t.Fatal(err)
		}
		out = append(out, newSecret("day key", b[len(b)-32:]))
	}
	for _, r := range []bridge.Role{bridge.RoleRegistrar, bridge.RoleWorker} {
		out = append(out, natsSecret(t, string(r)+"'s "+fileCreds, rolesDir(w.dir, r).path(fileCreds)))
	}
	return append(out, newSecret(envPassword, []byte(password)))
}

// doorman stands before the SMSC and lets the worker in under another password than the SMSC's own,
// which is a word that stands in every process.
func doorman(t *testing.T, addr, password string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { admit(c, addr, password) })
		}
	})
	return ln.Addr().String()
}

func admit(c net.Conn, addr, password string) {
	defer func() { _ = c.Close() }()
	s, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = s.Close() }()
	bind := make([]byte, 1024) // a bind is one short write, and the client waits for its answer
	n, err := c.Read(bind)
	if err != nil || !bytes.Contains(bind[:n], []byte(password)) {
		return
	}
	if _, err := s.Write(bytes.Replace(bind[:n], []byte(password), []byte(smsc.Password), 1)); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, s); _ = c.Close() })
	_, _ = io.Copy(s, c)
	_ = s.Close()
	back.Wait()
}

// holders says who may hold a secret.
func holders(name string) (broker, registrar, worker bool) {
	switch {
	case strings.HasPrefix(name, "own "):
		return true, false, false
	case name == fileNumber, name == "day key", name == envPassword:
		return false, false, true
	case name == "worker's "+fileCreds:
		return false, false, true
	}
	return false, true, false
}

// TestMemory: no process holds a key of another, in no encoding, after they were all used: two people
// enrolled, looked each other up, and texted over IP and as an SMS. The same search finds each key
// where it belongs, so that "not found" means something. [P-1] [F-2]
func TestMemory(t *testing.T) {
	t.Parallel()
	password := rand.Text()[:len(smsc.Password)]
	w := newWorld(t)
	w.env = []string{envPassword + "=" + password}
	w.args = append(w.args, "--sms", "smpp://"+smsc.SystemID+"@"+doorman(t, w.smsc.Addr(), password))
	w.start()
	alice, bob := w.pair()
	alice.viaIP(bob, "so that keys were used")
	alice.viaSMS(bob, "those of the worker, too")

	secrets := w.theirs(t, password)
	for _, name := range []string{fileTag, fileReceipt} {
		b, err := rolesDir(w.dir, bridge.RoleBroker).read(name)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, newSecret("own "+name, b))
	}
	pids := []int{w.at.PID, w.at.Children["registrar"], w.at.Children["worker"]}
	var memory, environ [3]map[string]bool
	for i, pid := range pids {
		memory[i], environ[i] = memoryOf(t, pid, secrets), environOf(t, pid, secrets)
	}
	for _, s := range secrets {
		broker, registrar, worker := holders(s.name)
		for i, want := range []bool{broker, registrar, worker} {
			who := []string{"broker", "registrar", "worker"}[i]
			if memory[i][s.name] != want {
				t.Errorf("%s in the memory of the %s: %t, want %t", s.name, who, memory[i][s.name], want)
			}
			if environ[i][s.name] {
				t.Errorf("%s in the environment of the %s", s.name, who)
			}
		}
	}
}

// TestMemoryControl: the search of an environment finds what is there: the SMS password in that of a
// node that runs in one process, where nothing can be hidden.
func TestMemoryControl(t *testing.T) {
	t.Parallel()
	password := rand.Text()
	w := newWorld(t, "--sms", "console", "--one-process")
	w.env = []string{envPassword + "=" + password}
	w.start()
	s := []secret{newSecret(envPassword, []byte(password))}
	if !environOf(t, w.at.PID, s)[envPassword] || !memoryOf(t, w.at.PID, s)[envPassword] {
		t.Error("the password is not found even where it is")
	}
}
