//go:build integration

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// dockerCompose is Debian's; a missing one fails the test: run scripts/peers.
const dockerCompose = "/usr/bin/docker-compose"

// composed runs the services of docker-compose.yml as processes of this machine, since it has no
// container engine. Commands, flags and health checks are those of the file, and the programs are built
// by the Dockerfile's own lines from what .dockerignore lets through. Three things are mapped, in
// arguments and in the configuration files that they name, and nothing else:
//
//   - a host: each service has an address of its own in 127.0.0.0/8 instead of a name, which 0.0.0.0 and
//     127.0.0.1 become, too, so that ports stay as they are;
//   - a path below a mount: each volume is a folder of the test;
//   - the image's entrypoint: the program built.
//
// What only an engine does is not tried: users, capabilities, read-only roots, networks.
type composed struct {
	t      *testing.T
	file   composeFile
	stages map[string]*imageStage
	dir    string
	bin    string // where the programs built are
	ran    map[string]*peer
	ended  []string // of the one-shots

	network *peer // the phone network now
}

// volume is the folder that stands for a volume.
func (c *composed) volume(name string) string { return filepath.Join(c.dir, "volumes", name) }

// address is a service's, chosen by this process's number, so that two tests do not meet.
func (c *composed) address(service string) string {
	names := slices.Sorted(maps.Keys(c.file.Services))
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>8&0x7f, pid&0xff, 10+slices.Index(names, service))
}

var (
	composeHost = regexp.MustCompile(`(//|-host = )([a-z]+)(:|\n)`)
	anyHost     = regexp.MustCompile(`\b(0\.0\.0\.0|127\.0\.0\.1)\b`)
	anyPath     = regexp.MustCompile(`(^|[ "])(/[a-z][^ "\n]*)`)
)

// local maps what a service is told: an argument, or a file.
func (c *composed) local(service, text string) string {
	text = composeHost.ReplaceAllStringFunc(text, func(s string) string {
		m := composeHost.FindStringSubmatch(s)
		if _, ok := c.file.Services[m[2]]; !ok {
			return s
		}
		return m[1] + c.address(m[2]) + m[3]
	})
	text = anyHost.ReplaceAllString(text, c.address(service))
	return anyPath.ReplaceAllStringFunc(text, func(s string) string {
		m := anyPath.FindStringSubmatch(s)
		return m[1] + c.path(service, m[2])
	})
}

// path maps a path below a mount.
func (c *composed) path(service, file string) string {
	for _, m := range c.file.Services[service].mounts() {
		rest, ok := strings.CutPrefix(file+"/", m.at+"/")
		if !ok {
			continue
		}
		from := c.volume(m.from)
		if strings.HasPrefix(m.from, ".") {
			from = filepath.Join(c.dir, "mounted", service, filepath.Base(m.from))
		}
		return filepath.Join(from, rest)
	}
	return file
}

// hostFlags are followed by a bare host.
var hostFlags = []string{"-H", "--nats-host"}

// args maps a command; its first word becomes the program of this machine.
func (c *composed) args(service string, command []string) []string {
	var args []string
	for i, arg := range command {
		_, isService := c.file.Services[arg]
		switch {
		case i > 0 && slices.Contains(hostFlags, command[i-1]) && isService:
			arg = c.address(arg)
		case strings.HasPrefix(arg, "/usr/local/bin/"): // of the Dockerfile; TestComposeFile finds it there
			arg = filepath.Join(c.bin, filepath.Base(arg))
		default:
			arg = strings.TrimSuffix(c.local(service, arg+"\n"), "\n")
		}
		args = append(args, arg)
	}
	return args
}

// command is what a service runs.
func (c *composed) command(service string) []string {
	s := c.file.Services[service]
	if entry := c.stages[s.Build.Target].entrypoint; entry != "" {
		return c.args(service, append([]string{entry}, s.Command...))
	}
	return c.args(service, s.Command)
}

var (
	goBuild = regexp.MustCompile(`go build .*?-o (/out/\S+) \S+`)
	goEnv   = regexp.MustCompile(`(?m)^ENV (\S+)$`)
)

// build runs the Dockerfile's own go build lines on what its builder is sent.
func (c *composed) build() {
	c.t.Helper()
	context, dockerfile := filepath.Join(c.dir, "context"), repositoryFile(c.t, "Dockerfile")
	c.send(context)
	c.bin = filepath.Join(c.dir, "out")
	lines := goBuild.FindAllString(dockerfile, -1)
	if len(lines) != 2 {
		c.t.Fatalf("the Dockerfile builds %q", lines)
	}
	for _, line := range lines {
		cmd := exec.CommandContext(c.t.Context(), "sh", "-c", strings.Replace(line, "/out/", c.bin+"/", 1))
		cmd.Dir, cmd.Env = context, append(plainEnv(), "GOFLAGS=", "GOWORK=off")
		for _, m := range goEnv.FindAllStringSubmatch(dockerfile, -1) {
			cmd.Env = append(cmd.Env, m[1])
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

// send copies what .dockerignore lets through: the folders and files that it names with "!", without
// what it names with "**/".
func (c *composed) send(to string) {
	c.t.Helper()
	var kept, dropped []string
	for line := range strings.Lines(repositoryFile(c.t, ".dockerignore")) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "!"); ok {
			kept = append(kept, name)
		}
		if name, ok := strings.CutPrefix(line, "**/"); ok {
			dropped = append(dropped, name)
		}
	}
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(repository, path)
		top, _, _ := strings.Cut(rel, "/")
		drop := slices.ContainsFunc(dropped, func(p string) bool { ok, _ := filepath.Match(p, d.Name()); return ok })
		switch {
		case err != nil || rel == ".":
			return err
		case d.IsDir() && (drop || !slices.Contains(kept, top)):
			return filepath.SkipDir
		case d.IsDir() || drop || !slices.Contains(kept, top):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o755), os.WriteFile(filepath.Join(to, rel), b, 0o644))
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// up starts everything in the order that depends_on asks for, waiting as it says.
func (c *composed) up() {
	c.t.Helper()
	for name := range c.file.Volumes {
		if err := os.MkdirAll(c.volume(name), 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	for len(c.ran)+len(c.ended) < len(c.file.Services) {
		before := len(c.ran) + len(c.ended)
		for _, name := range slices.Sorted(maps.Keys(c.file.Services)) {
			if c.ran[name] == nil && !slices.Contains(c.ended, name) && c.may(name) {
				c.start(name)
			}
		}
		if len(c.ran)+len(c.ended) == before {
			c.t.Fatal("depends_on goes in a circle")
		}
	}
	for name := range c.ran {
		c.healthy(name)
	}
}

// may reports whether everything that a service waits for was started, and then waits.
func (c *composed) may(name string) bool {
	waits := c.file.Services[name].DependsOn
	for other := range waits {
		if c.ran[other] == nil && !slices.Contains(c.ended, other) {
			return false
		}
	}
	for other, w := range waits {
		if w.Condition == "service_healthy" {
			c.healthy(other)
		}
	}
	return true
}

func (c *composed) start(name string) {
	c.t.Helper()
	if c.file.oneShot(name) {
		c.once(name)
		c.ended = append(c.ended, name)
		return
	}
	c.settle(name)
	// With nothing of this environment, as in a container.
	c.ran[name] = startProgram(c.t, "/usr/bin/env", append([]string{"-i"}, c.command(name)...)...)
}

// once runs a one-shot to its end. It is the only kind whose mounts lie in one another, so that they are
// put there first, and taken apart afterwards.
func (c *composed) once(name string) {
	c.t.Helper()
	inner := slices.DeleteFunc(c.file.Services[name].mounts(), func(m mount) bool { return m.at == "/node" })
	for _, m := range inner {
		c.move(c.volume(m.from), c.volume("node")+strings.TrimPrefix(m.at, "/node"))
	}
	c.run(c.command(name))
	for _, m := range inner {
		c.move(c.volume("node")+strings.TrimPrefix(m.at, "/node"), c.volume(m.from))
	}
}

func (c *composed) run(args []string) string {
	c.t.Helper()
	out, err := exec.CommandContext(bounded(c.t), "/usr/bin/env", append([]string{"-i"}, args...)...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// operator is docker-compose run --rm keys: another command in the place of the one-shot's.
func (c *composed) operator(command ...string) string {
	c.t.Helper()
	return c.run(c.args("keys", append([]string{c.stages["bluejay"].entrypoint}, command...)))
}

func (c *composed) move(from, to string) {
	c.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.RemoveAll(to), os.Rename(from, to)); err != nil {
		c.t.Fatal(err)
	}
}

// settle maps the configuration files that a service mounts; those of the repository are copied.
func (c *composed) settle(name string) {
	c.t.Helper()
	for _, m := range c.file.Services[name].mounts() {
		to := c.path(name, m.at)
		files := []string{to}
		if strings.HasPrefix(m.from, ".") {
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, []byte(repositoryFile(c.t, m.from)), 0o600)); err != nil {
				c.t.Fatal(err)
			}
		} else {
			files, _ = filepath.Glob(filepath.Join(to, "server.conf")) // the one made file that names paths
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, []byte(c.local(name, string(b))), 0o600)
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// healthy waits until a service's own health check succeeds.
func (c *composed) healthy(name string) {
	c.t.Helper()
	args := c.args(name, c.file.Services[name].Healthcheck.Test[1:])
	said := ""
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx := bounded(c.t); ; {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err == nil {
			return
		}
		said = string(out)
		select {
		case <-tick.C:
		case <-c.ran[name].ended:
			c.t.Fatalf("%s has ended:\n%s", name, c.ran[name].log)
		case <-ctx.Done():
			c.t.Fatalf("%s is not healthy: %s", name, said)
		}
	}
}

// down stops everything as an engine does: the newest first, with the time that the file gives.
func (c *composed) down() {
	c.t.Helper()
	for _, name := range []string{"registrar", "worker", "broker", "nats"} {
		p := c.ran[name]
		grace, err := time.ParseDuration(c.file.Services[name].Grace)
		if err := errors.Join(err, p.cmd.Process.Signal(syscall.SIGTERM)); err != nil {
			c.t.Fatal(err)
		}
		select {
		case <-p.ended:
		case <-time.After(grace):
			c.t.Fatalf("%s does not end", name)
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 0 && name != "nats" {
			c.t.Errorf("%s: exit code %d", name, code)
		}
	}
}

// TestPeersCompose: the services of docker-compose.yml, as processes, are a node: they become healthy in
// the order that the file gives, somebody enrols by an SMS that goes through Kannel, a text to somebody who is
// not there goes the same way and its receipt comes back, and STOP from a phone ends in silence. What was
// mounted read-only is as it was, and no volume and no log of Kannel's boxes holds a number or a text.
func TestPeersCompose(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), dockerCompose, "-f", filepath.Join(repository, "docker-compose.yml"), "config", "-q").CombinedOutput(); err != nil {
		t.Fatalf("%s config -q: %v: %s (missing? run scripts/peers)", dockerCompose, err, out)
	}
	c := &composed{t: t, file: loadCompose(t), stages: loadStages(t), dir: t.TempDir(), ran: map[string]*peer{}}
	from := time.Now()
	c.build()
	t.Logf("built in %v", time.Since(from).Round(time.Millisecond))
	from = time.Now()
	c.up()
	t.Logf("up and healthy in %v", time.Since(from).Round(time.Millisecond))
	before := c.readOnly()

	w := &world{t: t, dir: c.volume("node")}
	roots, err := readCA(filepath.Join(w.dir, fileMQTTCA))
	if err != nil {
		t.Fatal(err)
	}
	w.tls = &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	w.addr.Store(c.address("broker") + ":8883")
	c.network = c.ran["fakesmsc"]
	k := &kannel{t: t, network: c.network}
	alice, ctx := w.phone("alice", aliceNumber), bounded(t)
	from = time.Now()
	if err := alice.Enrol(ctx, alice.number, alice.Notice("en")); err != nil {
		t.Fatal(err)
	}
	password := passwordPattern.FindString(k.awaits(aliceNumber, passwordPattern.MatchString))
	t.Logf("a one-time password after %v", time.Since(from).Round(time.Millisecond))
	scopes := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway
	if err := errors.Join(alice.Confirm(ctx, password), alice.OptIn(ctx, scopes, wire.Listed), alice.Connect(ctx)); err != nil {
		t.Fatal(err)
	}
	number, err1 := wire.ParseNumber(bobNumber)
	contact, err2 := alice.AddContact(ctx, "Bob", number)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	const text = "the gardener counts seven umbrellas"
	alice.contact, from = contact, time.Now()
	id := alice.send(text)
	k.awaits(bobNumber, func(s string) bool { return strings.Contains(s, text) })
	t.Logf("from alice to the phone network in %v", time.Since(from).Round(time.Millisecond))
	alice.becomes(id, handset.SMSDelivered)

	c.stopFrom(aliceNumber)
	alice.awaits("alice is off by STOP", func(e handset.Event) bool { return e.Kind == handset.ConsentEnded })

	if out := c.operator("sms", "dead", "list", "--nats", "tls://nats:4222", "--nats-ca", "/node/nats-ca.pem",
		"--nats-creds", "/node/keys/operator/nats.creds"); !strings.Contains(out, "No dead jobs") {
		t.Errorf("the operator's command says %q", out)
	}
	c.down()
	c.unanswered(bobNumber)
	c.once("keys") // `up` again: nothing is made
	c.unchanged(before)
	c.silent(text, aliceNumber[1:], bobNumber[1:], password)
}

// stopFrom lets a phone of the network say STOP: a phone network that says something takes the place of the
// one that only listens.
func (c *composed) stopFrom(number string) {
	c.t.Helper()
	c.network.kill() // one at a time
	args := c.command("fakesmsc")
	i := slices.Index(args, "-m")
	args = append(slices.Clone(args[:i]), "-m", "1", number+" 12345 text STOP")
	c.network = startProgram(c.t, args[0], args[1:]...)
}

// unanswered lets a phone say something while nobody answers at the worker's address, until Kannel has
// failed once and tries again.
func (c *composed) unanswered(number string) {
	c.t.Helper()
	ln, err := net.Listen("tcp", c.address("worker")+":8090")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c.stopFrom(number)
	stop := time.AfterFunc(testTime, func() { _ = ln.Close() })
	defer stop.Stop()
	for range 2 {
		conn, err := ln.Accept()
		if err != nil {
			c.t.Fatalf("Kannel does not call: %v", err)
		}
		_ = conn.Close()
	}
}

// readOnly is what lies in volumes that nobody who stays may write.
func (c *composed) readOnly() map[string][]byte {
	c.t.Helper()
	all := map[string][]byte{}
	for volume, readers := range keyReaders {
		if !slices.Contains(slices.Collect(maps.Values(readers)), "rw") {
			maps.Copy(all, contents(c.t, c.volume(volume)))
		}
	}
	return all
}

func (c *composed) unchanged(before map[string][]byte) {
	c.t.Helper()
	after := c.readOnly()
	if len(before) < 15 || len(before) != len(after) {
		c.t.Errorf("%d files in volumes of keys have become %d", len(before), len(after))
	}
	for name, b := range before {
		if string(after[name]) != string(b) {
			c.t.Errorf("%s has changed", name)
		}
	}
}

// silent looks for words in the volumes, and in the logs of Kannel's boxes. The phone network's log has all
// of them.
func (c *composed) silent(words ...string) {
	c.t.Helper()
	places := map[string]string{}
	for name := range c.file.Volumes {
		for file, b := range contents(c.t, c.volume(name)) {
			places[file] = string(b)
		}
	}
	for name, p := range c.ran {
		if name != "fakesmsc" {
			places["the log of "+name] = p.log.String()
		}
	}
	network := strings.ReplaceAll(c.ran["fakesmsc"].log.String(), "+", " ")
	for _, word := range words {
		if !strings.Contains(network, word) {
			c.t.Errorf("the phone network never had %q: the search means nothing", word)
		}
		for place, content := range places {
			if strings.Contains(content, word) {
				c.t.Errorf("%q in %s", word, place)
			}
		}
	}
}
