package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of a peer's life.
const (
	peerStartTime = 90 * time.Second // Erlang on a busy machine
	peerStopTime  = 10 * time.Second // from SIGTERM to SIGKILL
	peerPoll      = 20 * time.Millisecond
)

// benchPeer is another MQTT broker under test, in processes of its own.
type benchPeer struct {
	version string
	addr    string       // where it takes MQTT: 127.0.0.1:PORT, TLS 1.3 if it was started with a certificate
	pids    func() []int // every process that does its work, now; empty once it is stopped
	stop    func() error // ends them and waits; bounded; again does nothing. An error if one had ended before
}

// peerNames are the brokers that startPeer knows.
var peerNames = []string{"mosquitto", "mochi", "nats-server", "rabbitmq"}

// peerKind is what there is to know about one of them.
type peerKind struct {
	ports   int // that it needs; the first one takes MQTT
	plan    func(peerPlace) peerPlan
	version func(ctx context.Context, program string) (string, error)
}

// peerPlace is where a peer is to run.
type peerPlace struct {
	dir       string // absolute
	cert, key string // PEM files, absolute; empty for plain TCP
	ports     []int  // on 127.0.0.1
}

// peerPlan is all that starting a peer takes, decided before anything starts.
type peerPlan struct {
	files    map[string]string // in dir: name and text
	programs []peerProgram     // in this order; the last one is the broker
}

// peerProgram is one process of a peer. It sees this environment, PATH, and dir as HOME, and nothing else.
type peerProgram struct {
	name      string
	args, env []string
	port      int // where it listens once it has started
}

var peerKinds = map[string]peerKind{
	"mosquitto":   {ports: 1, plan: planMosquitto, version: versionMosquitto},
	"mochi":       {ports: 3, plan: planMochi, version: versionGo},
	"nats-server": {ports: 2, plan: planNATS, version: versionGo},
	"rabbitmq":    {ports: 3, plan: planRabbitMQ, version: versionRabbitMQ},
}

// planMosquitto: a listener of one's own is what turns "local only" mode off, so that anonymous access must be
// allowed in words. Persistence is off and connections are unlimited by default. The log says what failed,
// not who came. Started by root it would become the user mosquitto, who may read neither key nor folder.
func planMosquitto(p peerPlace) peerPlan {
	conf := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nlog_dest stderr\nlog_type error\nlog_type warning\nuser root\n", p.ports[0])
	if p.cert != "" {
		conf += fmt.Sprintf("certfile %s\nkeyfile %s\ntls_version tlsv1.3\n", p.cert, p.key)
	}
	return peerPlan{
		files:    map[string]string{"mosquitto.conf": conf},
		programs: []peerProgram{{name: "mosquitto", args: []string{"-c", filepath.Join(p.dir, "mosquitto.conf")}, port: p.ports[0]}},
	}
}

// planMochi: its stock command has flags and no file. It allows everybody, keeps nothing on disk, has no limit
// of connections and logs warnings; its WebSocket and status listeners cannot be turned off, and are idle. It
// would speak TLS 1.2 as well, if asked.
func planMochi(p peerPlace) peerPlan {
	args := []string{"-tcp", loopback(p.ports[0]), "-ws", loopback(p.ports[1]), "-info", loopback(p.ports[2])}
	if p.cert != "" {
		args = append(args, "-tls-cert-file", p.cert, "-tls-key-file", p.key)
	}
	return peerPlan{programs: []peerProgram{{name: "mochi", args: args, port: p.ports[0]}}}
}

// planNATS: MQTT needs JetStream and a name for the server. JetStream stores QoS 1 in files, the only way there is
// for MQTT, and syncs them every two minutes; each QoS 1 subscription is a consumer of one stream, which takes a thousand
// unless it is told otherwise. Unless something else is said everybody is let in, 65,536 at once.
func planNATS(p peerPlace) peerPlan {
	var tls string
	if p.cert != "" {
		tls = fmt.Sprintf("  tls { cert_file: %q, key_file: %q, min_version: \"1.3\" }\n", p.cert, p.key)
	}
	conf := fmt.Sprintf("server_name: bench\nlisten: %q\njetstream {\n  store_dir: %q\n  limits { default_max_consumers: -1 }\n}\nmqtt {\n  listen: %q\n%s}\n",
		loopback(p.ports[1]), filepath.Join(p.dir, "jetstream"), loopback(p.ports[0]), tls)
	return peerPlan{
		files:    map[string]string{"nats.conf": conf},
		programs: []peerProgram{{name: "nats-server", args: []string{"-c", filepath.Join(p.dir, "nats.conf")}, port: p.ports[0]}},
	}
}

// planRabbitMQ: MQTT is a plugin; AMQP, which nobody speaks here, is off. A client without a name is guest, who
// is let in from every address: each is a loopback one. The log has errors only and goes to our file. A node of
// Erlang needs a name, a port mapper (epmd) and a port for other nodes: all are on loopback and, like
// configuration, cookie and data, apart from those of the machine's own RabbitMQ. The script that we start
// turns into the broker, as it does for systemd; otherwise it would stand between us and the broker.
func planRabbitMQ(p peerPlace) peerPlan {
	listeners := fmt.Sprintf("mqtt.listeners.tcp.1 = %s\n", loopback(p.ports[0]))
	if p.cert != "" {
		listeners = fmt.Sprintf("mqtt.listeners.tcp = none\nmqtt.listeners.ssl.1 = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\nssl_options.versions.1 = tlsv1.3\n",
			loopback(p.ports[0]), p.cert, p.key)
	}
	mapper := []string{fmt.Sprintf("ERL_EPMD_PORT=%d", p.ports[1]), "ERL_EPMD_ADDRESS=127.0.0.1"}
	in := func(name string) string { return filepath.Join(p.dir, name) }
	return peerPlan{
		files: map[string]string{
			"rabbitmq.conf": "listeners.tcp = none\nloopback_users = none\nmqtt.allow_anonymous = true\n" + listeners + "log.console = true\nlog.console.level = error\nlog.file = false\n",
			"plugins":       "[rabbitmq_mqtt].\n",
		},
		programs: []peerProgram{
			{name: "epmd", args: []string{"-port", fmt.Sprint(p.ports[1]), "-address", "127.0.0.1"}, port: p.ports[1]},
			{name: "rabbitmq-server", port: p.ports[0], env: append(mapper,
				"RABBITMQ_NODENAME=bench@localhost", fmt.Sprintf("RABBITMQ_DIST_PORT=%d", p.ports[2]),
				"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
				"RABBITMQ_CONF_ENV_FILE="+in("none"), "RABBITMQ_ADVANCED_CONFIG_FILE="+in("none"), "RABBITMQ_CONFIG_FILE="+in("rabbitmq.conf"),
				"RABBITMQ_ENABLED_PLUGINS_FILE="+in("plugins"), "RABBITMQ_MNESIA_BASE="+in("mnesia"), "RABBITMQ_LOG_BASE="+in("logs"),
				"RUNNING_UNDER_SYSTEMD=true", "LANG=C.UTF-8")},
		},
	}
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// startPeer starts the peer of that name in dir, which is empty and stays behind; cert and key are PEM files,
// empty for plain TCP. It returns once an MQTT CONNECT would be answered, having sent one; ctx bounds no more
// than that. The peer is at its defaults but for what its plan explains, and ends with this process, however
// this ends. Each connection takes one of the file descriptors that one process may have (ulimit -n).
func startPeer(ctx context.Context, name, dir, cert, key string) (_ *benchPeer, err error) {
	kind, known := peerKinds[name]
	if !known {
		return nil, fmt.Errorf("no peer is called %q: there are %s", name, strings.Join(peerNames, ", "))
	}
	place, err := kind.place(dir, cert, key)
	if err != nil {
		return nil, err
	}
	plan := kind.plan(place)
	paths, err := plan.find()
	if err != nil {
		return nil, err
	}
	version, err := kind.version(ctx, paths[len(paths)-1])
	if err != nil {
		return nil, fmt.Errorf("%s does not tell its version: %w", name, err)
	}
	for file, text := range plan.files {
		if err := os.WriteFile(filepath.Join(place.dir, file), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, peerStartTime)
	defer cancel()
	run := &peerRun{patience: peerStopTime}
	defer func() {
		if err != nil {
			_ = run.stop()
		}
	}()
	for i, program := range plan.programs {
		ready := func() error { return reached(ctx, loopback(program.port)) }
		if i == len(paths)-1 {
			ready = func() error { return takesMQTT(ctx, loopback(program.port), place.cert != "") }
		}
		if err := run.start(ctx, program, paths[i], place.dir, ready); err != nil {
			return nil, err
		}
	}
	return &benchPeer{version: version, addr: loopback(place.ports[0]), pids: run.pids, stop: sync.OnceValue(run.stop)}, nil
}

// place makes paths absolute and finds ports.
func (k peerKind) place(dir, cert, key string) (p peerPlace, err error) {
	if (cert == "") != (key == "") {
		return p, errors.New("a certificate goes with its key")
	}
	for _, path := range []*string{&dir, &cert, &key} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return p, err
		}
	}
	ports, err := freePorts(k.ports)
	return peerPlace{dir: dir, cert: cert, key: key, ports: ports}, err
}

// freePorts are n ports of 127.0.0.1 that nobody has at this moment, and that nobody is given by chance before
// a slow peer has them: they are below those that systems give to whoever asks for any.
func freePorts(n int) (ports []int, err error) {
	for tries := 0; len(ports) < n; tries++ {
		ln, err := net.Listen("tcp", loopback(10_000+rand.IntN(22_000)))
		if err == nil {
			defer func() { _ = ln.Close() }() // all at once, so that no two are the same
			ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
		} else if tries > 1000 {
			return nil, err
		}
	}
	return ports, nil
}

// find is where each program is.
func (p peerPlan) find() (paths []string, err error) {
	for _, program := range p.programs {
		path, err := findPeer(program.name)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// findPeer looks where scripts/bench-peers puts programs, and where PATH says. RabbitMQ's own folder comes
// before PATH, in which a script of Debian's has the same name and wants to become another user.
func findPeer(name string) (string, error) {
	folders := append([]string{"/usr/lib/rabbitmq/bin"}, filepath.SplitList(os.Getenv("PATH"))...)
	if root := moduleRoot(); root != "" {
		folders = append([]string{filepath.Join(root, "bin", "peers")}, folders...)
	}
	for _, folder := range append(folders, "/usr/sbin") {
		path, err := exec.LookPath(filepath.Join(folder, name))
		if folder != "" && err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("no program %s here: scripts/bench-peers installs it", name)
}

// moduleRoot is the nearest folder with a go.mod, from the working directory upwards; empty if there is none.
func moduleRoot() string {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return ""
}

// versionGo is what the Go toolchain wrote into the program.
func versionGo(_ context.Context, program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(info.Main.Version, "v"), nil
}

var (
	mosquittoVersion = regexp.MustCompile(`mosquitto version (\S+)`)
	rabbitVersion    = regexp.MustCompile(`rabbitmq_server-([^/]+)`)
)

func versionMosquitto(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "-h").CombinedOutput() // exits with 3
	if m := mosquittoVersion.FindSubmatch(out); m != nil {
		return string(m[1]), nil
	}
	return "", errors.Join(err, errors.New("it should stand in the first line of mosquitto -h"))
}

// versionRabbitMQ is in the path behind the link: asking costs a start of Erlang.
func versionRabbitMQ(_ context.Context, program string) (string, error) {
	path, err := filepath.EvalSymlinks(program)
	if m := rabbitVersion.FindStringSubmatch(path); m != nil {
		return m[1], nil
	}
	return "", errors.Join(err, fmt.Errorf("it should be part of the path %s", path))
}

// reached reports whether somebody listens there.
func reached(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// MQTT 3.1.1 as bytes: a client that wants no session, and what it hears.
const (
	probeConnect    = "\x10\x17\x00\x04MQTT\x04\x02\x00\x3c\x00\x0bbench-probe"
	probeConnack    = "\x20\x02\x00\x00"
	probeDisconnect = "\xe0\x00"
)

// takesMQTT connects as a client without a name does. It takes any certificate: it tells this peer nothing.
func takesMQTT(ctx context.Context, addr string, secure bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	}
	got := make([]byte, len(probeConnack))
	if _, err := io.WriteString(c, probeConnect); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != probeConnack {
		return fmt.Errorf("CONNECT was answered with %x", got)
	}
	_, err = io.WriteString(c, probeDisconnect)
	return err
}

// peerRun is the processes of a peer, started in this order.
type peerRun struct {
	processes []*peerProcess
	patience  time.Duration // from SIGTERM to SIGKILL, and as long again for what they started
}

// peerProcess is a process that leads a group of its own.
type peerProcess struct {
	name string
	log  string // a file
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and been waited for
}

// start starts a program and returns once ready says nil, or says why that cannot be. Its output goes into
// a file in dir.
func (r *peerRun) start(ctx context.Context, program peerProgram, path, dir string, ready func() error) error {
	log, err := os.OpenFile(filepath.Join(dir, program.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	p := &peerProcess{name: program.name, log: log.Name(), cmd: exec.Command(path, program.args...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, program.env...)
	p.cmd.SysProcAttr = peerAttr()
	raiseFileLimit()
	started := make(chan error)
	go func() {
		// It would get its death signal at the end of the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended only matters if it should not have
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	r.processes = append(r.processes, p)
	return p.await(ctx, ready)
}

// await asks ready until it says nil, the process ends, or ctx does.
func (p *peerProcess) await(ctx context.Context, ready func() error) error {
	tick := time.NewTicker(peerPoll)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.died()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w), the last try: %w; its log ends:\n%s", p.name, ctx.Err(), err, p.lastLines())
		case <-tick.C:
		}
	}
}

// ended reports a process that is no more.
func (p *peerProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// died says how it ended, which nobody had asked for.
func (p *peerProcess) died() error {
	return fmt.Errorf("%s ended by itself (%s), its log ends:\n%s", p.name, p.cmd.ProcessState, p.lastLines())
}

// lastLines is the end of its log, ten lines at most.
func (p *peerProcess) lastLines() string {
	const most = 4096
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text[max(0, len(text)-most):]), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-10):], []byte("\n")))
}

// family is the processes and all that they started.
func (r *peerRun) family() []peerMember {
	var leaders []int
	for _, p := range r.processes {
		if !p.ended() {
			leaders = append(leaders, p.cmd.Process.Pid)
		}
	}
	return peerFamily(leaders)
}

func (r *peerRun) pids() (pids []int) {
	for _, m := range r.family() {
		pids = append(pids, m.pid)
	}
	return pids
}

// stop asks each process to end, the broker first, and waits; what is left when patience is over is killed.
func (r *peerRun) stop() error {
	var errs []error
	left := r.family() // what a broker started may outlive it
	for _, p := range slices.Backward(r.processes) {
		if p.ended() {
			errs = append(errs, p.died())
			continue
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(r.patience):
			left = append(left, r.family()...)
			killPeer(p.cmd.Process)
			<-p.done
		}
	}
	return errors.Join(append(errs, awaitGone(left, r.patience))...)
}

// awaitGone waits for processes whose broker has ended, and kills those that stay.
func awaitGone(left []peerMember, patience time.Duration) error {
	tick := time.NewTicker(peerPoll)
	defer tick.Stop()
	for begun := time.Now(); ; <-tick.C {
		left = slices.DeleteFunc(left, peerMember.gone)
		switch waited := time.Since(begun); {
		case len(left) == 0:
			return nil
		case waited > patience+peerStopTime:
			return fmt.Errorf("%d processes stay, whatever one does: %v", len(left), left)
		case waited > patience:
			for _, m := range left {
				m.kill()
			}
		}
	}
}
