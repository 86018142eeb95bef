package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"bluejay/clients/simulator"
)

// simOptions are what `bluejay sim` is told.
type simOptions struct {
	real, lean int
	duration   time.Duration
	profile    string
	seed       uint64
	rate       float64
	texts      int
	closed     bool
	json       bool
	html       string
	keep       string

	deadline, greyMin, greyMax, bound time.Duration

	addr, pins, ca, credentials, state string
}

func simCmd() *cobra.Command {
	var o simOptions
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "A fleet of simulated handsets against a node, every text judged",
		Long: `Runs a fleet against a node: its own one by default (broker, registrar and SMS worker in processes
of their own, an SMSC in this one), or the one that --addr names. Real handsets are the SDK with a
state directory each; lean handsets write the same bytes with the same cryptography and keep their
state in memory, so that thousands fit.

Every text must have exactly one outcome, that its sender, its recipient and the SMSC agree on; no
delivery after an opt-out, nothing to anybody else, nothing twice, presence right within its bound.
What breaks a promise is printed with the history of its text, and the exit code is 1.

A profile says how people behave and over which networks: ` + strings.Join(builtinProfiles(), ", ") + `, or a file.
The same --seed gives the same people doing the same things at the same times.`,
		Example: `  bluejay sim --handsets 500 --for 20s
  bluejay sim --real 20 --handsets 200 --profile commute --for 2m --html report.html
  bluejay sim --handsets 5000 --texts 1000000 --rate 1700 --for 10m --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runSim(cmd.Context(), &o, cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.IntVar(&o.lean, "handsets", 200, "lean handsets")
	f.IntVar(&o.real, "real", 0, "real handsets, beside them")
	f.DurationVar(&o.duration, "for", 20*time.Second, "how long people act, once all are connected")
	f.StringVar(&o.profile, "profile", "city", "a built-in profile or a TOML file")
	f.Uint64Var(&o.seed, "seed", 1, "of everything that is drawn at random about people")
	f.Float64Var(&o.rate, "rate", 0, "texts a second of everybody together; 0: as the profile says")
	f.IntVar(&o.texts, "texts", 0, "stop writing after so many; 0: no bound")
	f.BoolVar(&o.closed, "closed", false, "closed loop: nobody writes before the last text has an outcome; times count from the writing")
	f.BoolVar(&o.json, "json", false, "one JSON object a line")
	f.StringVar(&o.html, "html", "", "write a report with plots to this file")
	f.StringVar(&o.keep, "keep", "", "leave the node's directory and the state directories in this new directory")
	f.DurationVar(&o.deadline, "deadline", 8*time.Second, "of the node: how long a text may wait for its recipient")
	f.DurationVar(&o.greyMin, "grey-min", 20*time.Second, "of the node: shortest delay before somebody who left shows grey")
	f.DurationVar(&o.greyMax, "grey-max", 40*time.Second, "of the node: longest such delay")
	f.DurationVar(&o.bound, "bound", time.Second, "from a connection to blue; grey, and answers past the deadline, may be late by as much")
	f.StringVar(&o.addr, "addr", "", "another node, HOST:PORT; needs --pins, and --credentials or --state")
	f.StringVar(&o.pins, "pins", "", "that node's pins.json")
	f.StringVar(&o.ca, "ca", "", "PEM of the CA of that node's certificate; without one the address must be loopback")
	f.StringVar(&o.credentials, "credentials", "", "file of lean handsets for that node, from bluejay sim enrol")
	f.StringVar(&o.state, "state", "", "directory with state directories handset-0, handset-1, … of real handsets enrolled there")
	cmd.AddCommand(simEnrolCmd())
	return cmd
}

// errViolations reports a run that broke a promise; what it was has been printed.
var errViolations = errors.New("the node broke its promises: see the violations above")

// runSim runs one fleet and tells what it found.
func runSim(ctx context.Context, o *simOptions, out io.Writer) (err error) {
	profile, err := loadProfile(o.profile)
	if err != nil {
		return err
	}
	dir, done, err := simDir(o.keep)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	cfg := simulator.Config{
		Profile: profile, Seed: o.seed, Rate: o.rate, Texts: o.texts, For: o.duration, Closed: o.closed, Real: o.real,
		Dir: filepath.Join(dir, "handsets"), Deadline: o.deadline, GreyMax: o.greyMax, Bound: o.bound,
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return err
	}
	teller := newSimTeller(out, o)
	save := thrift(o.real)
	cfg.Tell = func(p simulator.Progress) {
		save(p.Phase)
		teller.tell(p)
	}
	world, err := o.world(ctx, dir, &cfg, teller)
	if err != nil {
		return err
	}
	defer world.close()
	fleet, err := simulator.New(cfg)
	if err != nil {
		return err
	}
	world.feed(fleet)
	teller.started(&cfg, world)
	usage := cpuTime()
	report, err := fleet.Run(ctx)
	if err != nil {
		return err
	}
	return teller.finished(&cfg, report, cpuTime()-usage)
}

// thrift is told of each phase. It has the collector come as often as in a node, and twice as often while real handsets
// enrol: each throws away several times what it keeps, and what it keeps would lie scattered over pages that stay half
// empty. Lean handsets need nothing of the kind, and a running fleet has better use for its CPU.
func thrift(reals int) func(phase string) {
	var mu sync.Mutex
	last := ""
	return func(phase string) {
		mu.Lock()
		defer mu.Unlock()
		if phase == last || os.Getenv("GOGC") != "" {
			return
		}
		percent := garbagePercent
		if last = phase; reals > 0 && phase != "running" {
			percent /= 2
		}
		debug.SetGCPercent(percent)
	}
}

// simDir is where the run keeps what it must.
func simDir(keep string) (dir string, done func() error, err error) {
	if keep != "" {
		return keep, func() error { return nil }, os.Mkdir(keep, 0o700)
	}
	dir, err = os.MkdirTemp("", "bluejay-sim-")
	return dir, func() error { return os.RemoveAll(dir) }, err
}

// loadProfile reads a built-in profile or a file.
func loadProfile(name string) (p simulator.Profile, err error) {
	if slices.Contains(builtinProfiles(), name) {
		b, err := profileFiles.ReadFile("profiles/" + name + ".toml")
		if err != nil {
			return p, err
		}
		return p, decodeTOML(name, b, &p)
	}
	if !strings.ContainsAny(name, "./\\") {
		return p, fmt.Errorf("profile: %q is none of %s, and no file", name, strings.Join(builtinProfiles(), ", "))
	}
	if err := readTOML(name, &p); err != nil {
		return p, err
	}
	if err := p.Check(); err != nil {
		return p, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// builtinProfiles are the names of the profiles that come with the command.
func builtinProfiles() []string {
	files, _ := profileFiles.ReadDir("profiles") // embedded: always there
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".toml"))
	}
	return names
}
