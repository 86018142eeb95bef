package main

import (
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"os"
	"runtime"
	"strings"
	"time"

	"bluejay/clients/simulator"
)

// reportFiles hold the page of a report.
//
//go:embed report/page.html
var reportFiles embed.FS

// reportPage is what the page shows.
type reportPage struct {
	When, Command, Machine string
	Good                   bool
	Report                 simulator.Report
	Config                 *simulator.Config
	Profile, Node          string
	BytesPerText           float64
	CPU                    float64
	Plots                  []plot
	Latencies              []latencyRow
	Late                   float64 // ms
}

type latencyRow struct {
	What string
	simulator.Latency
}

var latencyWords = map[string]string{
	"shown": "text: to be written → stored by its recipient", "told": "text: to be written → sender told delivered",
	"sms": "text: to be written → taken by the SMSC", "connect": "connection: to be made → welcomed",
	"blue": "presence: connected → seen blue", "grey": "presence: gone → seen grey",
}

// writeReport writes the run as one HTML file that needs nothing else.
func writeReport(file string, cfg *simulator.Config, o *simOptions, r simulator.Report, cpu float64) (err error) {
	page := reportPage{
		When: time.Now().Format("2 January 2006, 15:04"), Command: o.command(), Report: r, Config: cfg, Profile: o.profile, Node: cfg.Addr,
		Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		Good:    r.Counts.Violations == 0 && r.Unaccounted == 0, BytesPerText: bytesPerText(r), CPU: cpu, Late: ms(r.Late),
	}
	if page.Plots, err = plotsOf(r, r.BytesBefore); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	for _, name := range latencyNames {
		if l := r.Latencies[name]; l.Count > 0 {
			page.Latencies = append(page.Latencies, latencyRow{latencyWords[name], l})
		}
	}
	t, err := htmltemplate.New("page.html").Funcs(htmltemplate.FuncMap{
		"ms": func(v float64) string { return fmt.Sprintf("%.2f", v) }, "n": thousands,
		"mib": func(b int64) string { return fmt.Sprintf("%.0f", float64(b)/(1<<20)) },
	}).ParseFS(reportFiles, "report/page.html")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return t.Execute(f, page)
}

// command is how to repeat the run.
func (o *simOptions) command() string {
	c := fmt.Sprintf("bluejay sim --handsets %d --real %d --for %s --profile %s --seed %d", o.lean, o.real, o.duration, o.profile, o.seed)
	if o.rate > 0 {
		c += fmt.Sprintf(" --rate %g", o.rate)
	}
	if o.texts > 0 {
		c += fmt.Sprintf(" --texts %d", o.texts)
	}
	if o.closed {
		c += " --closed"
	}
	return c
}

// thousands writes a count with spaces: 1 234 567.
func thousands(v any) string {
	s := fmt.Sprint(v)
	var b strings.Builder
	for i, r := range s {
		if i > 0 && (len(s)-i)%3 == 0 && s[i-1] != '-' {
			b.WriteRune(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
