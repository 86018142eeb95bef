package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"bluejay/bridge"
)

// benchRun measures rows and gathers samples.
type benchRun struct {
	plan    benchPlan
	names   []string
	dir     string
	node    string // our node's directory, everybody in it has agreed
	cert    string // PEM files of a server on 127.0.0.1, for every broker
	key     string
	ca      string
	started int // brokers, so far
	samples []benchSample
	tell    *benchTeller
}

// benchSample is one measurement of one broker.
type benchSample struct {
	Row     benchRow           `json:"row"`
	Plan    string             `json:"plan"` // how long, how often: benchPlan.of
	Broker  string             `json:"broker"`
	Version string             `json:"version"`
	Machine string             `json:"machine"`
	Repeat  int                `json:"repeat"`
	At      time.Time          `json:"at"`
	Values  map[string]float64 `json:"values"`
}

// same reports whether s is the measurement that a run with this plan wants.
func (s benchSample) same(row benchRow, broker string, repeat int, p benchPlan) bool {
	return s.Row == row && s.Broker == broker && s.Repeat == repeat && s.Plan == p.of(row)
}

// underTest is a broker that runs, and the load's process if there is one.
type underTest struct {
	*benchPeer
	name string
	load *loadChild
}

func (u *underTest) close() error {
	var err error
	if u.load != nil {
		err = u.load.stop()
	}
	return errors.Join(err, u.stop())
}

// use is the memory (bytes) and CPU (seconds) of all its processes.
func (u *underTest) use() (rss int64, cpu float64) {
	for _, pid := range u.pids() {
		r, c := processUse(pid)
		rss, cpu = rss+r, cpu+c
	}
	return rss, cpu
}

// prepare makes the certificate, and a node of ours in which everybody has agreed.
func (b *benchRun) prepare(ctx context.Context, rows []benchRow) error {
	cert := keyDir(filepath.Join(b.dir, "cert"))
	if err := os.Mkdir(string(cert), 0o700); err != nil {
		return err
	}
	ca, err := makeCert(cert, []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	b.cert, b.key, b.ca = cert.path(fileTLSCert), cert.path(fileTLSKey), cert.path("ca.pem")
	b.node = filepath.Join(b.dir, "node")
	if err := errors.Join(os.WriteFile(b.ca, ca, 0o600), initKeys(b.node, oursName)); err != nil {
		return err
	}
	for _, f := range []string{b.dir, string(cert)} { // RabbitMQ and mosquitto may run as somebody else
		if err := os.Chmod(f, 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{b.cert, b.key} {
		if err := os.Chmod(f, 0o644); err != nil {
			return err
		}
	}
	people := 0
	for _, row := range rows {
		people = max(people, row.Handsets+1)
	}
	if err := simEnrol(b.node, b.credentials(), people); err != nil {
		return err
	}
	b.tell.note("%d handsets of our node agree first", people)
	u, err := b.start(ctx, oursName, benchRow{})
	if err != nil {
		return err
	}
	if err = u.crowd(b, benchRow{}, people); err == nil {
		err = u.orders(ctx, loadOrder{Do: "connect"}, loadOrder{Do: "prepare"})
	}
	return errors.Join(err, u.close())
}

func (b *benchRun) credentials() string { return filepath.Join(b.dir, "credentials.jsonl") }

// start starts a broker in a directory of its own.
func (b *benchRun) start(ctx context.Context, name string, row benchRow) (u *underTest, err error) {
	u = &underTest{name: name}
	cert, key := "", ""
	if row.TLS {
		cert, key = b.cert, b.key
	}
	if name == oursName {
		u.benchPeer, err = b.startOurs(ctx, cert, key)
		return u, err
	}
	b.started++
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.started))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	u.benchPeer, err = startPeer(ctx, name, dir, cert, key)
	return u, err
}

// startOurs runs the node as anybody would: broker, registrar and SMS worker, each in a process.
func (b *benchRun) startOurs(ctx context.Context, cert, key string) (*benchPeer, error) {
	args := []string{"--listen", "127.0.0.1:0", "--http", "", "--log", "warn", "--max-connections", strconv.Itoa(maxBench)}
	if cert != "" {
		args = append(args, "--tls-cert", cert, "--tls-key", key)
	}
	w := &simWorld{dir: b.node, pids: map[string]int{}}
	if err := w.serve(ctx, args); err != nil {
		w.close()
		return nil, err
	}
	pids := make([]int, 0, len(bridge.Roles()))
	for _, pid := range w.pids {
		pids = append(pids, pid)
	}
	return &benchPeer{
		version: ourVersion(), addr: w.addr, pids: func() []int { return pids },
		stop: func() error { w.close(); return nil },
	}, nil
}

// crowd starts the load's process for size connections.
func (u *underTest) crowd(b *benchRun, row benchRow, size int) (err error) {
	cfg := loadConfig{Addr: u.addr, Size: size, Keepalive: b.plan.Keepalive}
	if row.TLS {
		cfg.CA = b.ca
	}
	if u.name == oursName {
		cfg.Credentials, cfg.Broker = b.credentials(), oursName
	}
	u.load, err = startLoadChild(cfg)
	return err
}

// orders gives the load's process orders for their effect, until one fails.
func (u *underTest) orders(ctx context.Context, orders ...loadOrder) error {
	for _, o := range orders {
		if _, err := u.load.do(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// row measures what is missing of a row, each repeat with the brokers in another order.
func (b *benchRun) row(ctx context.Context, row benchRow, save string) error {
	for repeat := range b.plan.Repeats {
		var names []string
		for i := range b.names {
			name := b.names[(i+repeat)%len(b.names)]
			if slices.ContainsFunc(b.samples, func(s benchSample) bool { return s.same(row, name, repeat, b.plan) }) {
				b.tell.skip()
				continue
			}
			names = append(names, name)
		}
		keep := func(u *underTest, values map[string]float64) error {
			s := benchSample{
				Row: row, Plan: b.plan.of(row), Broker: u.name, Version: u.version, Machine: machine(), Repeat: repeat,
				At: time.Now().UTC().Truncate(time.Second), Values: values,
			}
			b.samples = append(b.samples, s)
			b.tell.sample(s, b.plan.Repeats)
			return appendSample(save, s)
		}
		if row.Bench == "idle" {
			if err := b.idle(ctx, row, names, keep); err != nil {
				return err
			}
			continue
		}
		for _, name := range names {
			if err := b.one(ctx, row, name, keep); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// one measures one broker on its own.
func (b *benchRun) one(ctx context.Context, row benchRow, name string, keep func(*underTest, map[string]float64) error) (err error) {
	u, err := b.start(ctx, name, row)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	size := row.Handsets
	if row.Bench == "presence" {
		size++ // who is watched
	}
	if err := u.crowd(b, row, size); err != nil {
		return err
	}
	if err := pause(ctx, b.plan.Warm); err != nil { // what a start leaves to be done
		return err
	}
	values := map[string]float64{}
	switch row.Bench {
	case "connect":
		err = b.connect(ctx, u, values)
	case "deliver":
		err = b.deliver(ctx, u, values)
	case "presence":
		err = b.presence(ctx, u, row.Handsets, values)
	}
	if err != nil {
		return err
	}
	return keep(u, values)
}

// spent is what an order took, in seconds: the CPU of the broker and of the load, and the time from its beginning until
// all that it sent had arrived.
type spent struct{ broker, load, wall float64 }

// during carries out an order. An error is also a connection that the broker ended.
func (u *underTest) during(ctx context.Context, o loadOrder) (r loadReport, s spent, err error) {
	before, err := u.load.do(ctx, loadOrder{Do: "report"})
	if err != nil {
		return r, s, err
	}
	_, cpu := u.use()
	began := time.Now()
	r, err = u.load.do(ctx, o)
	s.wall = time.Since(began).Seconds()
	_, after := u.use()
	s.broker, s.load = after-cpu, r.CPU-before.CPU
	if err == nil && r.Lost > 0 {
		err = fmt.Errorf("%s: the broker ended %d connections", o.Do, r.Lost)
	}
	return r, s, err
}

const micro = 1e6

func (b *benchRun) connect(ctx context.Context, u *underTest, v map[string]float64) error {
	r, cpu, err := u.during(ctx, loadOrder{Do: "connect"})
	if err != nil {
		return err
	}
	n := float64(r.Connect.Connected)
	v["connects_per_s"], v["cpu_us_per_connect"], v["load_cpu_us_per_connect"] = n/r.Connect.Seconds, cpu.broker*micro/n, cpu.load*micro/n
	v["connect_p50_ms"], v["connect_p99_ms"] = r.Connect.Took.P50, r.Connect.Took.P99
	return nil
}

func (b *benchRun) deliver(ctx context.Context, u *underTest, v map[string]float64) error {
	if err := u.orders(ctx, loadOrder{Do: "connect"}, loadOrder{Do: "prepare"},
		loadOrder{Do: "deliver", Rate: b.plan.Rate, Seconds: b.plan.Warm.Seconds()}); err != nil {
		return err
	}
	r, cpu, err := u.during(ctx, loadOrder{Do: "deliver", Rate: b.plan.Rate, Seconds: b.plan.Deliver.Seconds()})
	if err != nil {
		return err
	}
	d := r.Deliver
	if d.Delivered == 0 {
		return fmt.Errorf("nothing of %d arrived", d.Sent)
	}
	n := float64(d.Delivered)
	v["cpu_us_per_text"], v["load_cpu_us_per_text"], v["lost_texts"] = cpu.broker*micro/n, cpu.load*micro/n, float64(d.Sent-d.Delivered)
	v["p50_ms"], v["p99_ms"], v["p999_ms"] = d.Took.P50, d.Took.P99, d.Took.P999
	r, cpu, err = u.during(ctx, loadOrder{Do: "saturate", Window: b.plan.Window, Seconds: b.plan.Saturate.Seconds()})
	if err != nil {
		return err
	}
	if r.Deliver.Delivered == 0 {
		return fmt.Errorf("nothing of %d arrived in %v", r.Deliver.Sent, b.plan.Saturate)
	}
	sent := float64(r.Deliver.Sent) // all of them had arrived when the order was done
	v["texts_per_s"] = float64(r.Deliver.Delivered) / r.Deliver.Seconds
	v["saturated_cpu_us_per_text"], v["load_saturated_cpu_us_per_text"] = cpu.broker*micro/sent, cpu.load*micro/sent
	v["saturated_cores"] = (cpu.broker + cpu.load) / cpu.wall
	return nil
}

func (b *benchRun) presence(ctx context.Context, u *underTest, watchers int, v map[string]float64) error {
	if err := u.orders(ctx, loadOrder{Do: "connect"}, loadOrder{Do: "watch"}, loadOrder{Do: "fanout", Changes: 1}); err != nil {
		return err
	}
	r, cpu, err := u.during(ctx, loadOrder{Do: "fanout", Changes: b.plan.changes(watchers)})
	if err != nil {
		return err
	}
	f := r.FanOut
	if f.Told != int64(f.Watchers*f.Changes) {
		return fmt.Errorf("%d of %d watchers were told", f.Told, f.Watchers*f.Changes)
	}
	v["cpu_us_per_watcher"], v["load_cpu_us_per_watcher"] = cpu.broker*micro/float64(f.Told), cpu.load*micro/float64(f.Told)
	v["watcher_p50_ms"], v["watcher_p99_ms"], v["last_watcher_p50_ms"] = f.Took.P50, f.Took.P99, f.Last.P50
	return nil
}

// idle measures all brokers over the same minute: each is empty for a while, then gets its handsets, one broker after
// the other so that what the kernel takes can be told apart, and then nothing happens but PINGREQ.
func (b *benchRun) idle(ctx context.Context, row benchRow, names []string, keep func(*underTest, map[string]float64) error) (err error) {
	type measured struct {
		*underTest
		empty, kernel int64
		cpu, asked    float64
	}
	var all []*measured
	defer func() {
		for _, m := range all {
			err = errors.Join(err, m.close())
		}
	}()
	for _, name := range names {
		u, err := b.start(ctx, name, row)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, &measured{underTest: u})
		if err := u.crowd(b, row, row.Handsets); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := pause(ctx, b.plan.Base); err != nil {
		return err
	}
	for _, m := range all {
		m.empty, _ = m.use()
		before := kernelMemory()
		err := m.orders(ctx, loadOrder{Do: "connect"}, loadOrder{Do: "prepare"}, loadOrder{Do: "hold"})
		if err == nil {
			err = pause(ctx, time.Second)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		m.kernel = kernelMemory() - before
	}
	half := b.plan.Settle / 2
	if err := pause(ctx, half); err != nil {
		return err
	}
	for _, m := range all {
		_, m.cpu = m.use()
		r, err := m.load.do(ctx, loadOrder{Do: "report"})
		if err != nil {
			return err
		}
		m.asked = r.CPU
	}
	if err := pause(ctx, half); err != nil {
		return err
	}
	for _, m := range all {
		rss, cpu := m.use()
		r, err := m.load.do(ctx, loadOrder{Do: "report"})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("%s: %d of %d connections were lost", m.name, r.Lost, row.Handsets)
		}
		if err != nil {
			return err
		}
		n := float64(row.Handsets)
		if err := keep(m.underTest, map[string]float64{
			"rss_kib_per_handset": float64(rss-m.empty) / 1024 / n, "kernel_kib_per_handset": float64(m.kernel) / 1024 / n,
			"empty_rss_mib": float64(m.empty) / (1 << 20), "idle_cpu_percent": 100 * (cpu - m.cpu) / half.Seconds(),
			"load_idle_cpu_percent": 100 * (r.CPU - m.asked) / half.Seconds(),
		}); err != nil {
			return err
		}
	}
	return nil
}

// kernelMemory is what the kernel takes for sockets, files, stacks and page tables, in bytes, of all processes. Both
// ends of a connection are in it here.
func kernelMemory() (sum int64) {
	mem, _ := os.ReadFile("/proc/meminfo")
	for line := range bytes.Lines(mem) {
		var name string
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "%s %d kB", &name, &kib); n == 2 && slices.Contains([]string{"Slab:", "KernelStack:", "PageTables:"}, name) {
			sum += kib << 10
		}
	}
	sockets, _ := os.ReadFile("/proc/net/sockstat")
	for line := range bytes.Lines(sockets) {
		if f := strings.Fields(string(line)); len(f) > 2 && f[0] == "TCP:" && f[len(f)-2] == "mem" {
			pages, _ := strconv.ParseInt(f[len(f)-1], 10, 64)
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loadSamples reads what an earlier run kept; no file, or none yet, is empty.
func loadSamples(file string) (samples []benchSample, err error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, 16<<20))
	for row := 1; lines.Scan(); row++ {
		var s benchSample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("%s: line %d is no measurement: take the line away, or another file", file, row)
		}
		samples = append(samples, s)
	}
	return samples, lines.Err()
}

// appendSample keeps one measurement.
func appendSample(file string, s benchSample) (err error) {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return json.NewEncoder(f).Encode(s)
}
