package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"bluejay/clients/handset"
	"bluejay/clients/simulator"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// simWorld is what a fleet runs against: this command's own node with an SMSC, or somebody else's.
type simWorld struct {
	dir    string
	smsc   *smsc.Server
	node   nodeChild
	addr   string
	http   string
	pids   map[string]int // of the node's processes
	raised []string       // quotas above their default
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	passwords map[string]chan string // by number
}

// world starts the node, or reads what is needed of another one, and fills in the population.
func (o *simOptions) world(ctx context.Context, dir string, cfg *simulator.Config, tell *simTeller) (*simWorld, error) {
	if o.addr != "" {
		return o.foreign(cfg)
	}
	w := &simWorld{dir: filepath.Join(dir, "node"), passwords: map[string]chan string{}, pids: map[string]int{}}
	if err := w.open(ctx, o, cfg); err != nil {
		w.close()
		return nil, err
	}
	began := time.Now()
	if err := w.populate(o, cfg); err != nil {
		w.close()
		return nil, err
	}
	tell.certified(o.lean, time.Since(began))
	cfg.Addr, cfg.Alone, cfg.Recorded, cfg.Password, cfg.Counts = w.addr, true, true, w.password, w.counts
	cfg.Memory = w.memory
	cfg.Gateway = simNumber(gatewayPlace)
	return w, nil
}

// open starts the SMSC and the node, as anybody would, with quotas that a crowd of this size needs.
func (w *simWorld) open(ctx context.Context, o *simOptions, cfg *simulator.Config) (err error) {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return err
	}
	if w.smsc, err = smsc.Start("127.0.0.1:0"); err != nil {
		return err
	}
	if err := initKeys(w.dir, "bluejay"); err != nil {
		return err
	}
	routes, err := w.writeRoutes()
	if err != nil {
		return err
	}
	args := []string{"--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--sms-routes", routes, "--log", "warn", "--deadline", o.deadline.String(),
		"--grey-min", o.greyMin.String(), "--grey-max", o.greyMax.String()}
	args = append(args, w.raise("max-connections", max(10_000, 2*(o.lean+o.real)), 10_000)...)
	args = append(args, w.raise("quota-hellos", 4*max(8, cfg.Profile.MaxContacts), 30)...)
	args = append(args, w.raise("quota-recipients", max(20, 4*cfg.Profile.Contacts), 20)...)
	args = append(args, w.raise("quota-pair-hellos", 20, 4)...)
	args = append(args, w.raise("quota-bundles", max(60, 20*cfg.Profile.Contacts), 60)...)
	return w.serve(ctx, args)
}

// raise is a flag that sets a quota, if it is above its default; it is told at the start.
func (w *simWorld) raise(flag string, value, usual int) []string {
	if value <= usual {
		return nil
	}
	w.raised = append(w.raised, fmt.Sprintf("%s %d instead of %d", flag, value, usual))
	return []string{"--" + flag, strconv.Itoa(value)}
}

// writeRoutes writes the way out to the SMSC, without the daily bounds.
func (w *simWorld) writeRoutes() (string, error) {
	password, routes := filepath.Join(w.dir, "smsc-password"), filepath.Join(w.dir, "sms.toml")
	w.raised = append(w.raised, "SMS parts to one number a day: no bound instead of 30", "of one sender: no bound instead of 200")
	text := fmt.Sprintf(`[limits]
per-number = -1
per-sender = -1

[[route]]
name          = "sim"
via           = "smpp"
url           = "smpp://%s@%s"
password-file = %q
from          = %q
rate          = 2000
window        = 200
`, smsc.SystemID, w.smsc.Addr(), password, simNumber(gatewayPlace).E164())
	return routes, errors.Join(os.WriteFile(password, []byte(smsc.Password), 0o600), os.WriteFile(routes, []byte(text), 0o600))
}

// serve runs the node in processes of its own and waits until it is ready.
func (w *simWorld) serve(ctx context.Context, args []string) error {
	var err error
	if w.node, err = startNodeChild(w.dir, args); err != nil {
		return err
	}
	w.pids["broker"] = w.node.cmd.Process.Pid
	ready := make(chan error, 1)
	out := w.node.out
	w.wg.Go(func() { ready <- w.listen(out); _, _ = io.Copy(io.Discard, out) })
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listen reads the node's output until it says where it is.
func (w *simWorld) listen(out io.Reader) error {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e struct {
			Event, Addr, HTTP string
			Children          map[string]int
		}
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "ready" {
			w.addr, w.http = e.Addr, e.HTTP
			for role, pid := range e.Children {
				w.pids[role] = pid
			}
			return nil
		}
	}
	return errNodeEnded
}

// feed passes every SMS of the SMSC's record to the fleet, and one-time passwords to who waits.
func (w *simWorld) feed(f *simulator.Fleet) {
	if w.smsc == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.wg.Go(func() {
		w.smsc.Follow(ctx, func(m smsc.Message) { w.took(f, m) })
	})
}

func (w *simWorld) took(f *simulator.Fleet, m smsc.Message) {
	if p := passwordPattern.FindString(m.Text); p != "" && !strings.Contains(m.Text, simulator.Mark) {
		w.waiting(m.To) <- p
		return
	}
	from, err1 := wire.ParseNumber(m.From)
	to, err2 := wire.ParseNumber(m.To)
	if err1 == nil && err2 == nil {
		f.ReceiveSMS(from, to, m.Text)
	}
}

// waiting is where the password of a number goes; each number asks a few times at most.
func (w *simWorld) waiting(number string) chan string {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.passwords[number]
	if c == nil {
		c = make(chan string, 16)
		w.passwords[number] = c
	}
	return c
}

func (w *simWorld) password(ctx context.Context, to wire.Number) (string, error) {
	select {
	case p := <-w.waiting(to.E164()):
		return p, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// counts reads the broker's own figures, as an operator would.
func (w *simWorld) counts(ctx context.Context) (c simulator.BrokerCounts, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.http+"/metrics", nil)
	if err != nil {
		return c, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return c, err
	}
	defer func() { _ = res.Body.Close() }()
	fields := map[string]*int64{
		`bluejay_custody_accepted_total`:                   &c.Accepted,
		`bluejay_custody_ended_total{outcome="delivered"}`: &c.Delivered,
		`bluejay_custody_ended_total{outcome="queued"}`:    &c.Queued,
		`bluejay_custody_ended_total{outcome="returned"}`:  &c.Returned,
		`bluejay_custody_in_flight`:                        &c.InFlight,
		`bluejay_custody_difference`:                       &c.Difference,
		`bluejay_post_revocation_deliveries_total`:         &c.PostRevocation,
	}
	found := 0
	for lines := bufio.NewScanner(io.LimitReader(res.Body, 1<<20)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if field := fields[name]; ok && field != nil {
			v, _ := strconv.ParseFloat(value, 64)
			*field = int64(v)
			found++
		}
	}
	if found != len(fields) {
		return c, fmt.Errorf("/metrics has %d of %d figures", found, len(fields))
	}
	c.RSS, c.CPU = processUse(w.pids["broker"])
	return c, nil
}

// memory is the broker's resident set and this process's.
func (w *simWorld) memory() (broker, own int64) {
	if pid := w.pids["broker"]; pid != 0 { // another node: not ours to see
		broker, _ = processUse(pid)
	}
	own, _ = processUse(os.Getpid())
	return broker, own
}

func (w *simWorld) close() {
	if w.cancel != nil {
		w.cancel()
	}
	_ = w.node.stop()
	if w.smsc != nil {
		w.smsc.Close()
	}
	w.wg.Wait()
}

// foreign reads what is needed of a node that somebody else runs.
func (o *simOptions) foreign(cfg *simulator.Config) (w *simWorld, err error) {
	if o.pins == "" || o.lean > 0 && o.credentials == "" || o.real > 0 && o.state == "" {
		return nil, errors.New("another node: --pins FILE is needed; --credentials FILE (from bluejay sim enrol) for --handsets, or --handsets 0; --state DIR for --real")
	}
	if cfg.Pins, err = handset.LoadPins(o.pins); err != nil {
		return nil, err
	}
	if o.ca != "" {
		if cfg.TLS, err = simTLS(o.ca); err != nil {
			return nil, err
		}
	}
	cfg.Addr = o.addr
	if o.state != "" {
		cfg.Dir = o.state
	}
	w = &simWorld{}
	cfg.Memory = w.memory
	cfg.People, err = readCredentials(o.credentials, o.real, o.lean)
	return w, err
}
