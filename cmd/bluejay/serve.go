package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"bluejay/bridge"
)

func serveCmd() *cobra.Command {
	c := defaultConfig()
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node: broker, registrar and SMS worker, each in a process of its own",
		Long: `Run a node. The first start makes its keys in DIR; hand DIR/pins.json to handsets, it is public.

The broker's process never holds the key that turns numbers into IDs, nor the one that opens sealed
SMS jobs: serve starts the registrar and the SMS worker as processes that get their own key folder
and nothing else. Without a TLS certificate it listens on loopback only.

Settings come from flags, from the environment (BLUEJAY_LISTEN=…) and from --config FILE (TOML, the
flags' names as keys), in that order.`,
		Example: `  bluejay serve --sms console
  bluejay serve --listen :8883 --tls-cert cert.pem --tls-key key.pem --sms smpps://me@smsc.example:3550
  bluejay serve --roles worker --nats nats://127.0.0.1:4222 --keys /run/secrets/worker`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(file, cmd.Flags()); err != nil {
				return err
			}
			if roles := c.roles(); roles[0] == bridge.RoleBroker && len(roles) > 1 && !c.OneProcess {
				if err := hidePassword(); err != nil {
					return err
				}
			}
			return serve(cmd.Context(), &c, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "TOML file")
	c.flags(cmd.Flags())
	return cmd
}

// serve runs the roles asked for until ctx ends or one of them cannot start.
func serve(ctx context.Context, c *nodeConfig, out io.Writer) error {
	log := c.logger()
	n := &node{c: c, log: log, out: out, died: make(chan *child, len(bridge.Roles()))}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if err := n.close(stop); err != nil {
			log.Error("shutdown", "error", err)
		}
	}()
	if err := n.start(ctx); err != nil {
		return err
	}
	n.announce()
	quietly, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { giveBack(quietly) })
	defer func() { cancel(); wg.Wait() }()
	return n.wait(ctx)
}

// signalDelay is by how much the terminal's signal may reach a child before this process, which a busy machine may not
// let run for seconds. Only a child that ended well gets so much: one that failed is in no doubt.
const signalDelay = 5 * time.Second

// wait returns when the node has to stop.
func (n *node) wait(ctx context.Context) error {
	var keyed <-chan struct{}
	if os.Getenv(childEnv) != "" && len(n.keyed) > 0 {
		keyed = n.keyed[0]
	}
	gone := parentGone()
	for {
		select {
		case <-keyed:
			_, _ = fmt.Fprintln(n.out, `{"event":"keyed"}`)
			keyed = nil
		case <-ctx.Done():
			return nil
		case <-gone:
			return nil
		case k := <-n.died:
			return k.lost(ctx)
		case <-n.ended:
			return errEnded
		}
	}
}

// lost returns the error of a node without one of its parts, which promises what it cannot keep. Ctrl-C ends the
// children, too, and perhaps first: that is none.
func (k *child) lost(ctx context.Context) error {
	delay := signalDelay
	if k.err != nil {
		delay /= 10
	}
	select {
	case <-ctx.Done():
	case <-time.After(delay):
	}
	if ctx.Err() != nil { // both may have come while this process did not run
		return nil
	}
	return k.died()
}

// errEnded reports a worker in this process that gave up; the shutdown that follows logs why.
var errEnded = errors.New("the SMS worker has ended; see the log above")

// node is what this command runs: roles in this process and children for the others.
type node struct {
	c    *nodeConfig
	log  *slog.Logger
	out  io.Writer
	here []*role
	kids []*child
	died chan *child // that ended

	password *os.File // the SMSC's, for the worker only; nil: in the environment or not needed

	keyed []<-chan struct{}
	ended <-chan struct{} // the worker, if it runs here

	nats, addr, http string
}

func (n *node) start(ctx context.Context) error {
	roles := n.c.roles()
	n.nats = n.c.NATS
	if roles[0] == bridge.RoleBroker {
		n.password = passwordFile()
		if err := n.ensureKeys(ctx); err != nil {
			return err
		}
	} else if n.nats == "" {
		return errors.New("a registrar or worker without the broker needs --nats URL")
	}
	if n.c.OneProcess && len(roles) > 1 {
		n.log.Warn("one process holds every key: for debugging only, never with real numbers")
	}
	for i, r := range roles {
		if err := n.startOne(ctx, r, i == 0 || n.c.OneProcess); err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	if len(roles) == len(bridge.Roles()) {
		return n.waitKeyed(ctx)
	}
	return nil
}

// waitKeyed waits until the registrar has the worker's key: before that nobody could enrol.
func (n *node) waitKeyed(ctx context.Context) error {
	t := time.NewTimer(readyTime)
	defer t.Stop()
	for _, keyed := range n.keyed {
		select {
		case <-keyed:
		case k := <-n.died:
			return k.died()
		case <-n.ended:
			return errEnded
		case <-t.C:
			return errors.New("the registrar has no key of the SMS worker: is its NATS connection up?")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// readyTime bounds the start of a part.
const readyTime = 30 * time.Second

func (n *node) startOne(ctx context.Context, r bridge.Role, here bool) error {
	if !here {
		k, err := n.spawn(r)
		if err != nil {
			return err
		}
		n.kids = append(n.kids, k)
		if r == bridge.RoleRegistrar {
			n.keyed = append(n.keyed, k.keyed)
		}
		return k.waitReady(ctx)
	}
	p, err := startRole(ctx, r, n.c, n.nats, n.log)
	if err != nil {
		return err
	}
	n.here = append(n.here, p)
	if p.keyed != nil {
		n.keyed = append(n.keyed, p.keyed)
	}
	if p.ended != nil {
		n.ended = p.ended
	}
	if r != bridge.RoleBroker && n.http == "" {
		n.http = p.http // of a role that runs alone
	}
	if r == bridge.RoleBroker {
		n.nats, n.addr, n.http = p.nats, p.addr, p.http
		return errors.Join(
			os.WriteFile(filepath.Join(n.c.Dir, "addr"), []byte(p.addr+"\n"), 0o644),
			os.WriteFile(filepath.Join(n.c.Dir, fileURL), []byte(p.nats+"\n"), 0o644))
	}
	return nil
}

// ensureKeys makes the keys of a new node in a process that ends before this one reads its own.
func (n *node) ensureKeys(ctx context.Context) error {
	done, err := initialised(n.c.Dir)
	if done || err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "keys", "init", "--dir", n.c.Dir, "--name", n.c.Name)
	cmd.Env = plainEnv()
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making keys: %w: %s", err, strings.TrimSpace(string(b)))
	}
	return nil
}

// plainEnv is the environment without this program's settings, secrets among them.
func plainEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "BLUEJAY_") {
			env = append(env, v)
		}
	}
	return env
}

// child is another process of this node. It ends when its standard input does, so that it never
// outlives its parent.
type child struct {
	role  bridge.Role
	cmd   *exec.Cmd
	stdin io.Closer
	ready chan error
	http  string // once ready: where it serves its status
	keyed chan struct{}
	err   error // once it has ended: how
	wg    sync.WaitGroup
}

func (n *node) spawn(r bridge.Role) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"serve", "--json", "--roles", string(r), "--nats", n.nats, "--keys", string(rolesDir(n.c.Dir, r)), "--log", n.c.Log}
	k := &child{role: r, cmd: exec.Command(self), ready: make(chan error, 1), keyed: make(chan struct{})}
	env := append(plainEnv(), childEnv+"=1")
	if r == bridge.RoleRegistrar {
		args = append(args, "--registrar-http", n.c.RegistrarHTTP)
	}
	if r == bridge.RoleWorker {
		args = append(args, "--sms", n.c.SMS, "--sms-from", n.c.SMSFrom, fmt.Sprintf("--sms-allow-unchecked=%t", n.c.Unchecked),
			"--sms-routes", n.c.SMSRoutes, "--worker-http", n.c.WorkerHTTP)
		env = append(env, n.givePassword(k)...)
	}
	if n.c.NATSCreds != "" {
		args = append(args, "--nats-creds", n.c.NATSCreds)
	}
	if n.c.NATSCA != "" {
		args = append(args, "--nats-ca", n.c.NATSCA)
	}
	k.cmd.Args, k.cmd.Env, k.cmd.Stderr = append(k.cmd.Args, args...), env, os.Stderr
	if k.stdin, err = k.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := k.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	if len(k.cmd.ExtraFiles) > 0 {
		_ = n.password.Close() // the worker has it now
	}
	k.wg.Go(func() {
		k.watch(stdout, n.out)
		k.err = k.cmd.Wait()
		n.died <- k
	})
	return k, nil
}

// givePassword hands the SMSC's password to the worker and returns the variable that tells where it is.
func (n *node) givePassword(k *child) []string {
	if n.password != nil {
		k.cmd.ExtraFiles = []*os.File{n.password}
		return []string{envPasswordFD + "=3"} // the first after standard input, output and error
	}
	if v, ok := os.LookupEnv(envPassword); ok {
		return []string{envPassword + "=" + v}
	}
	return nil
}

// watch passes a child's output on and tells when it is ready, or has ended.
func (k *child) watch(stdout io.Reader, out io.Writer) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var e struct {
			Event string `json:"event"`
			HTTP  string `json:"http"`
		}
		_ = json.Unmarshal(lines.Bytes(), &e) // anything else is the child's own output
		switch e.Event {
		case "ready":
			k.http = e.HTTP
			k.ready <- nil
		case "keyed":
			close(k.keyed)
		default:
			_, _ = fmt.Fprintln(out, lines.Text())
		}
	}
	select {
	case k.ready <- fmt.Errorf("the %s ended before it was ready", k.role):
	default:
	}
}

func (k *child) waitReady(ctx context.Context) error {
	t := time.NewTimer(readyTime)
	defer t.Stop()
	select {
	case err := <-k.ready:
		return err
	case <-t.C:
		return fmt.Errorf("the %s is not ready after 30 s", k.role)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends a child: its input first, and if that does not do until ctx ends, the process.
func (k *child) close(ctx context.Context) error {
	_ = k.stdin.Close()
	stop := context.AfterFunc(ctx, func() { _ = k.cmd.Process.Kill() })
	defer stop()
	k.wg.Wait()
	if k.err != nil {
		return fmt.Errorf("%s: %w", k.role, k.err)
	}
	return nil
}

func (k *child) died() error {
	return fmt.Errorf("the %s has ended; see its log above, then start the node again", k.role)
}

// close stops the node, newest part first.
func (n *node) close(ctx context.Context) error {
	var errs []error
	for i := len(n.kids) - 1; i >= 0; i-- {
		errs = append(errs, n.kids[i].close(ctx))
	}
	for i := len(n.here) - 1; i >= 0; i-- {
		errs = append(errs, n.here[i].stop(ctx))
	}
	return errors.Join(errs...)
}

// announce says where the node is, once everything runs.
func (n *node) announce() {
	if n.c.JSON {
		_ = json.NewEncoder(n.out).Encode(map[string]any{
			"event": "ready", "addr": n.addr, "http": n.http, "nats": n.nats, "pid": os.Getpid(), "children": n.children(),
			"worker_http": n.workerHTTP(),
		})
		return
	}
	_, _ = fmt.Fprintf(n.out, "Bluejay node %q is ready.\n", n.c.Name)
	if n.addr == "" {
		return
	}
	_, _ = fmt.Fprintf(n.out, "  handsets   %s   (try: bluejay phone --node %s)\n  pins       %s   (public)\n  NATS       %s\n",
		n.addr, n.c.Dir, n.c.pinsPath(), n.nats)
	if n.http != "" {
		_, _ = fmt.Fprintf(n.out, "  readiness  http://%s/readyz\n", n.http)
	}
	if at := n.workerHTTP(); at != "" {
		_, _ = fmt.Fprintf(n.out, "  SMS worker http://%s/metrics\n", at)
	}
	if n.c.TLSCert == "" {
		_, _ = fmt.Fprintln(n.out, "  no TLS certificate: it listens on loopback only")
	}
}

// workerHTTP is where the SMS worker serves its status, "" if nowhere.
func (n *node) workerHTTP() string {
	for _, k := range n.kids {
		if k.role == bridge.RoleWorker {
			return k.http
		}
	}
	for _, p := range n.here {
		if p.ended != nil {
			return p.http
		}
	}
	return ""
}

func (n *node) children() map[string]int {
	pids := map[string]int{}
	for _, k := range n.kids {
		pids[string(k.role)] = k.cmd.Process.Pid
	}
	return pids
}

// childEnv marks a process that serve started: it ends with its standard input.
const childEnv = "BLUEJAY_CHILD"

// parentGone is closed when a child's standard input ends; elsewhere it never is.
func parentGone() <-chan struct{} {
	if os.Getenv(childEnv) == "" {
		return nil
	}
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(gone)
	}()
	return gone
}
