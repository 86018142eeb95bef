package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"bluejay/clients/simulator"
)

// benchLoadName is the hidden command that makes load, in a process of its own.
const benchLoadName = "bench-load"

// loadConfig is the first line on its input.
type loadConfig struct {
	Addr        string `json:"addr"`
	CA          string `json:"ca,omitempty"`          // PEM file; empty: plain TCP
	Credentials string `json:"credentials,omitempty"` // of a Bluejay node's handsets; empty: another broker
	Broker      string `json:"broker,omitempty"`      // the node's name, as pinned
	Size        int    `json:"size"`
	Keepalive   int    `json:"keepalive_s"`
}

// loadOrder is each further line: one thing to do. The answer is one loadReport.
type loadOrder struct {
	Do      string  `json:"do"` // connect, prepare, watch, deliver, saturate, fanout, report; hold goes on until another
	Rate    float64 `json:"rate,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Window  int     `json:"window,omitempty"`
	Changes int     `json:"changes,omitempty"`
}

func (o loadOrder) during() time.Duration { return time.Duration(o.Seconds * float64(time.Second)) }

// loadReport says how it went; only what was asked for is there.
type loadReport struct {
	Error   string                   `json:"error,omitempty"`
	Lost    int64                    `json:"lost"`  // connections that the broker ended, so far
	CPU     float64                  `json:"cpu_s"` // what the load's process has used, so far
	Connect *simulator.ConnectResult `json:"connect,omitempty"`
	Deliver *simulator.DeliverResult `json:"deliver,omitempty"`
	FanOut  *simulator.FanOutResult  `json:"fanout,omitempty"`
}

// storm is how many connections, subscriptions and consents are under way at once.
const storm = 64

func benchLoadCmd() *cobra.Command {
	return &cobra.Command{
		Use: benchLoadName, Short: "Make the load of bluejay bench", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLoad(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// runLoad does what it is told, line by line, until its input ends; that ends what is being done, too.
func runLoad(ctx context.Context, in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(bufio.NewReader(in))
	var cfg loadConfig
	if err := decoder.Decode(&cfg); err != nil {
		return fmt.Errorf("%s is for bluejay bench: %w", benchLoadName, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orders, bad := make(chan loadOrder, 8), error(nil)
	go func() { // it ends with the input, which is this process's own
		defer close(orders)
		for {
			var o loadOrder
			if err := decoder.Decode(&o); err != nil {
				if !errors.Is(err, io.EOF) {
					bad = err
				}
				cancel()
				return
			}
			orders <- o
		}
	}()
	crowd, err := cfg.crowd()
	if err != nil {
		return err
	}
	defer crowd.Close()
	hold := func() {}
	defer func() { hold() }()
	for o := range orders {
		if o.Do != "report" {
			hold()
			hold = func() {}
		}
		if o.Do == "hold" {
			hold = holding(ctx, crowd)
		}
		r := o.run(ctx, crowd)
		r.Lost, r.CPU = crowd.Lost(), cpuTime()
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	}
	return bad
}

// holding keeps the crowd alive until stop is called.
func holding(ctx context.Context, crowd *simulator.Crowd) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		crowd.Hold(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (cfg loadConfig) crowd() (*simulator.Crowd, error) {
	c := simulator.CrowdConfig{Addr: cfg.Addr, Size: cfg.Size, Broker: cfg.Broker, Keepalive: time.Duration(cfg.Keepalive) * time.Second}
	var err error
	if cfg.Credentials != "" {
		if c.People, err = readCredentials(cfg.Credentials, 0, cfg.Size); err != nil {
			return nil, err
		}
	}
	if cfg.CA != "" {
		if c.TLS, err = simTLS(cfg.CA); err != nil {
			return nil, err
		}
		c.TLS.ServerName, _, _ = net.SplitHostPort(cfg.Addr)
	}
	return simulator.NewCrowd(c)
}

// run does one thing.
func (o loadOrder) run(ctx context.Context, crowd *simulator.Crowd) (r loadReport) {
	var err error
	switch o.Do {
	case "connect":
		r.Connect = new(simulator.ConnectResult)
		*r.Connect, err = crowd.Connect(ctx, storm)
	case "prepare":
		err = crowd.Prepare(ctx, storm)
	case "watch":
		err = crowd.Watch(ctx, storm)
	case "deliver":
		r.Deliver = new(simulator.DeliverResult)
		*r.Deliver, err = crowd.Deliver(ctx, o.Rate, o.during())
	case "saturate":
		r.Deliver = new(simulator.DeliverResult)
		*r.Deliver, err = crowd.Saturate(ctx, o.Window, o.during())
	case "fanout":
		r.FanOut = new(simulator.FanOutResult)
		*r.FanOut, err = crowd.FanOut(ctx, o.Changes)
	case "hold", "report":
	default:
		err = fmt.Errorf("no order %q", o.Do)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// loadChild is the load's process, as bluejay bench sees it.
type loadChild struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startLoadChild(cfg loadConfig) (*loadChild, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &loadChild{cmd: exec.Command(self, benchLoadName)}
	l.cmd.Env, l.cmd.Stderr = append(plainEnv(), childEnv+"=1"), os.Stderr
	in, err1 := l.cmd.StdinPipe()
	out, err2 := l.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	l.in, l.out = in, json.NewDecoder(out)
	return l, json.NewEncoder(in).Encode(cfg)
}

// do gives an order and waits for its report. When ctx ends, so does the load.
func (l *loadChild) do(ctx context.Context, o loadOrder) (r loadReport, err error) {
	stop := context.AfterFunc(ctx, func() { _ = l.cmd.Process.Kill() })
	defer stop()
	if err := json.NewEncoder(l.in).Encode(o); err != nil {
		return r, fmt.Errorf("the load's process has ended: %w", err)
	}
	if err := l.out.Decode(&r); err != nil {
		return r, fmt.Errorf("the load's process has ended: %w", err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%s: %s", o.Do, r.Error)
	}
	return r, nil
}

// stop ends it and waits; again, it does nothing.
func (l *loadChild) stop() error {
	if l.in == nil {
		return nil
	}
	_ = l.in.Close()
	l.in = nil
	kill := time.AfterFunc(stopTime, func() { _ = l.cmd.Process.Kill() })
	defer kill.Stop()
	return l.cmd.Wait()
}
