package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// oursName is this broker among the others.
const oursName = "bluejay"

// benchOptions are what `bluejay bench` is told.
type benchOptions struct {
	bench    string // idle, connect, deliver, presence, all
	handsets int    // 0: as the row says
	tls      bool
	peers    []string
	quick    bool
	json     bool
	save     string
	markdown string
	rate     float64
}

// benchRow is one comparison: the same load for every broker.
type benchRow struct {
	Bench    string `json:"bench"`
	TLS      bool   `json:"tls"`
	Handsets int    `json:"handsets"` // connections; of presence, watchers
}

func (r benchRow) String() string {
	s := fmt.Sprintf("%s, %d handsets", r.Bench, r.Handsets)
	if r.Bench == "presence" {
		s = fmt.Sprintf("presence, %d watchers", r.Handsets)
	}
	if r.TLS {
		s += ", TLS 1.3"
	}
	return s
}

// fullTable is what bench all measures.
func fullTable() []benchRow {
	return []benchRow{
		{"connect", false, 2000}, {"connect", true, 2000}, {"deliver", false, 1000},
		{"presence", false, 1000}, {"presence", false, 10_000}, {"idle", false, 5000}, {"idle", true, 5000},
	}
}

// quickTable is the same in small.
func quickTable() []benchRow {
	return []benchRow{
		{"connect", false, 1000}, {"connect", true, 300}, {"deliver", false, 200}, {"presence", false, 500},
		{"idle", false, 500}, {"idle", true, 500},
	}
}

// benchPlan is how long and how often.
type benchPlan struct {
	Repeats   int
	Base      time.Duration // from the start of the last broker to the measurement of what the first one takes empty
	Settle    time.Duration // from the last connection to the memory it takes
	Warm      time.Duration // of texts, not measured
	Deliver   time.Duration
	Saturate  time.Duration
	Told      int     // watchers to be told, of all changes of presence together
	Rate      float64 // texts a second
	Window    int     // texts under way of each pair, when saturating
	Keepalive int     // seconds
}

// of is what a measurement of a row depends on; only the same is compared, and only the same is not measured again.
func (p benchPlan) of(row benchRow) string {
	switch row.Bench {
	case "idle":
		return fmt.Sprintf("%v, then %v at keepalive %d s", p.Base, p.Settle, p.Keepalive)
	case "deliver":
		return fmt.Sprintf("%v/s for %v after %v, then %d each for %v", p.Rate, p.Deliver, p.Warm, p.Window, p.Saturate)
	case "presence":
		return fmt.Sprintf("%d changes", p.changes(row.Handsets))
	}
	return fmt.Sprintf("%d at a time", storm)
}

func (o *benchOptions) plan() benchPlan {
	p := benchPlan{
		Repeats: 5, Base: 10 * time.Second, Settle: time.Minute, Warm: 2 * time.Second, Deliver: 10 * time.Second,
		Saturate: 5 * time.Second, Told: 50_000, Rate: 2000, Window: 4, Keepalive: 60,
	}
	if o.quick {
		p.Repeats, p.Base, p.Settle, p.Warm = 1, 2*time.Second, 10*time.Second, time.Second
		p.Deliver, p.Saturate, p.Told, p.Rate = 3*time.Second, 2*time.Second, 10_000, 500
	}
	if o.rate > 0 {
		p.Rate = o.rate
	}
	return p
}

// changes is how often presence changes: the CPU of few is below the clock's tick. Each change of ours is a CONNECT with
// a second of its own, and a node takes none that is a minute ahead.
func (p benchPlan) changes(watchers int) int { return min(max(p.Told/watchers, 4), 40) }

func benchCmd() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench idle|connect|deliver|presence|all|table",
		Short: "This broker beside mosquitto, mochi, nats-server and RabbitMQ, under the same load",
		Long: `Measures this broker and others in one run, taking turns, each started afresh for every repeat:

  idle      memory and CPU of connected handsets that say nothing but PINGREQ, after a settled minute
  connect   connections a second, and the broker's CPU for each
  deliver   QoS 1 from one handset to another: the broker's CPU for each, latency at a fixed rate, most a second
  presence  one change told to every watcher
  all       the table of docs/performance.md: about an hour; with --save, a run that was cut off goes on
  table     that table from what --save has kept; measures nothing

What is compared is not the same work. This broker verifies two signatures at each CONNECT and a consent
at each publish, and acknowledges a text only when its recipient has it; the others let anybody in and
acknowledge at once. The load comes from a process of its own and from many loopback addresses.

The other brokers are installed by scripts/bench-peers.`,
		Example: `  bluejay bench connect --peer mosquitto
  bluejay bench idle --handsets 5000 --tls --json
  bluejay bench all --save bench.jsonl --markdown docs/performance.md`,
		Args: cobra.ExactArgs(1), ValidArgs: benchNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.bench = args[0]
			return runBench(cmd.Context(), &o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.handsets, "handsets", 0, "how many; of presence, watchers; 0: as in the table")
	f.BoolVar(&o.tls, "tls", false, "over TLS 1.3")
	f.StringSliceVar(&o.peers, "peer", peerNames, "the brokers beside this one; \"\" for none")
	f.BoolVar(&o.quick, "quick", false, "a small crowd, one repeat, ten seconds to settle: shows that it works, not how fast")
	f.BoolVar(&o.json, "json", false, "one JSON object a line")
	f.StringVar(&o.save, "save", "", "keep each measurement in this file (JSON lines) as it ends, and do not repeat what it holds")
	f.StringVar(&o.markdown, "markdown", "", "write the table into this file, between its two marks")
	f.Float64Var(&o.rate, "rate", 0, "texts a second of deliver; 0: 2000, or 500 with --quick")
	return cmd
}

var benchNames = []string{"idle", "connect", "deliver", "presence", "all", "table"}

// rows are what is to be measured.
func (o *benchOptions) rows() ([]benchRow, error) {
	if o.handsets < 0 || o.handsets == 1 || o.handsets > maxBench {
		return nil, fmt.Errorf("--handsets: from 2 to %d, or 0 for as many as in the table", maxBench)
	}
	table := fullTable()
	if o.quick {
		table = quickTable()
	}
	if o.bench == "all" || o.bench == "table" {
		if o.handsets != 0 || o.tls {
			return nil, errors.New("bench all and bench table have their own --handsets and --tls")
		}
		return table, nil
	}
	at := slices.IndexFunc(table, func(r benchRow) bool { return r.Bench == o.bench })
	if at < 0 {
		return nil, fmt.Errorf("%q is none of %s", o.bench, strings.Join(benchNames, ", "))
	}
	row := table[at]
	row.TLS = o.tls
	if o.handsets > 0 {
		row.Handsets = o.handsets
	}
	return []benchRow{row}, nil
}

// maxBench is how many connections a process can hold here, with its other files.
const maxBench = 18_000

// brokers are the names of those that are measured, ours first.
func (o *benchOptions) brokers() ([]string, error) {
	names := []string{oursName}
	for _, p := range o.peers {
		if p == "" {
			continue
		}
		if !slices.Contains(peerNames, p) || slices.Contains(names, p) {
			return nil, fmt.Errorf("--peer: %q is none of %s, or twice", p, strings.Join(peerNames, ", "))
		}
		names = append(names, p)
	}
	return names, nil
}

// runBench measures every row and tells what it found.
func runBench(ctx context.Context, o *benchOptions, out io.Writer) (err error) {
	rows, err1 := o.rows()
	names, err2 := o.brokers()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if o.markdown != "" {
		if err := checkMarks(o.markdown); err != nil { // now, not in an hour
			return err
		}
	}
	tell := &benchTeller{out: out, json: o.json, total: len(rows) * len(names) * o.plan().Repeats}
	b := &benchRun{plan: o.plan(), names: names, tell: tell}
	if b.samples, err = loadSamples(o.save); err != nil {
		return err
	}
	if o.bench != "table" {
		if err := b.measure(ctx, rows, o.save); err != nil {
			return err
		}
	}
	table := summarise(b.samples, rows, names, b.plan)
	tell.table(table)
	if o.markdown != "" {
		return writeMarks(o.markdown, table.markdown())
	}
	return nil
}

// missing reports whether something of a row is still to be measured, and which other build of ours a part of it is of.
func (b *benchRun) missing(row benchRow) (missing bool, other string) {
	for _, name := range b.names {
		for repeat := range b.plan.Repeats {
			at := slices.IndexFunc(b.samples, func(s benchSample) bool { return s.same(row, name, repeat, b.plan) })
			if at < 0 {
				missing = true
			} else if v := b.samples[at].Version; name == oursName && v != ourVersion() {
				other = v
			}
		}
	}
	return missing, other
}

// measure measures what is missing of every row.
func (b *benchRun) measure(ctx context.Context, rows []benchRow, save string) (err error) {
	for _, row := range rows {
		missing, other := b.missing(row)
		switch {
		case other != "" && missing:
			return fmt.Errorf("%s: %s holds measurements of another build (%s): take another file, so that no median is of two", row, save, other)
		case other != "":
			b.tell.note("%s: kept, of build %s", row, other)
		}
	}
	if b.dir, err = os.MkdirTemp("", "bluejay-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.prepare(ctx, rows); err != nil {
		return fmt.Errorf("preparing our node: %w", err)
	}
	for _, row := range rows {
		if err := b.row(ctx, row, save); err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
	}
	return nil
}
