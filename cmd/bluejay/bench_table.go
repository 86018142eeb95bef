package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// ourVersion tells this build of ours.
func ourVersion() string {
	info, ok := debug.ReadBuildInfo()
	changed := ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.modified" && s.Value == "true" })
	if changed {
		return version().Version + " with changes, " + runtime.Version()
	}
	return version().Version + ", " + runtime.Version()
}

// benchSpread is a value over its repeats.
type benchSpread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// benchCell is one broker in one row.
type benchCell struct {
	Broker  string                 `json:"broker"`
	Version string                 `json:"version"`
	Repeats int                    `json:"repeats"`
	Values  map[string]benchSpread `json:"values"`
	// Ratio is, in the cell of ours only, our median over each peer's: below 1 we take less.
	Ratio   map[string]map[string]float64 `json:"ratio,omitempty"`
	last    time.Time
	machine string
}

// benchLine is one row of the table.
type benchLine struct {
	Row   benchRow    `json:"row"`
	Cells []benchCell `json:"brokers"`
}

// benchTable is everything that was measured.
type benchTable struct {
	plan  benchPlan
	names []string
	lines []benchLine
}

// headline are the figures of which the summary has one each for every broker, with the bench they are of.
var headline = []struct{ name, bench string }{
	{"rss_kib_per_handset", "idle"}, {"cpu_us_per_connect", "connect"}, {"cpu_us_per_text", "deliver"}, {"p99_ms", "deliver"},
	{"cpu_us_per_watcher", "presence"},
}

// summarise takes medians. A row lacks the brokers that have no sample in it.
func summarise(samples []benchSample, rows []benchRow, names []string, p benchPlan) benchTable {
	t := benchTable{plan: p, names: names}
	for _, row := range rows {
		line := benchLine{Row: row}
		for _, name := range names {
			cell := benchCell{Broker: name, Values: map[string]benchSpread{}}
			of := map[string][]float64{}
			for repeat := range p.Repeats {
				at := slices.IndexFunc(samples, func(s benchSample) bool { return s.same(row, name, repeat, p) })
				if at < 0 {
					continue
				}
				cell.Repeats++
				cell.Version, cell.last, cell.machine = samples[at].Version, samples[at].At, samples[at].Machine
				for k, v := range samples[at].Values {
					of[k] = append(of[k], v)
				}
			}
			for k, v := range of {
				slices.Sort(v)
				cell.Values[k] = benchSpread{median(v), v[0], v[len(v)-1]}
			}
			if cell.Repeats > 0 {
				line.Cells = append(line.Cells, cell)
			}
		}
		line.compare()
		t.lines = append(t.lines, line)
	}
	return t
}

// compare fills in the ratios of ours, which is the first.
func (l *benchLine) compare() {
	if len(l.Cells) == 0 || l.Cells[0].Broker != oursName {
		return
	}
	ours := &l.Cells[0]
	ours.Ratio = map[string]map[string]float64{}
	for _, peer := range l.Cells[1:] {
		r := map[string]float64{}
		for k, v := range peer.Values {
			if mine, ok := ours.Values[k]; ok && v.Median > 0 && !strings.HasPrefix(k, "load_") {
				r[k] = math.Round(100*mine.Median/v.Median) / 100
			}
		}
		ours.Ratio[peer.Broker] = r
	}
}

// summary is the headline figures of each broker, of the last row that has them, and ours over each peer's.
func (t benchTable) summary() (brokers, ratio map[string]map[string]float64) {
	brokers, ratio = map[string]map[string]float64{}, map[string]map[string]float64{}
	for _, line := range t.lines {
		if line.Row.TLS {
			continue // the plain rows are the ones that all have
		}
		brokers, ratio = line.headlines(brokers, ratio)
	}
	if len(brokers) == 0 && len(t.lines) > 0 {
		return t.lines[0].headlines(brokers, ratio)
	}
	return brokers, ratio
}

func (l benchLine) headlines(brokers, ratio map[string]map[string]float64) (_, _ map[string]map[string]float64) {
	put := func(m map[string]map[string]float64, name, k string, v float64) {
		if m[name] == nil {
			m[name] = map[string]float64{}
		}
		m[name][k] = v
	}
	for _, h := range headline {
		for _, c := range l.Cells {
			if v, ok := c.Values[h.name]; ok && l.Row.Bench == h.bench {
				put(brokers, c.Broker, h.name, v.Median)
			}
			for peer, r := range c.Ratio {
				if v, ok := r[h.name]; ok && l.Row.Bench == h.bench {
					put(ratio, peer, h.name, v)
				}
			}
		}
	}
	return brokers, ratio
}

// benchTeller tells how far it is.
type benchTeller struct {
	out   io.Writer
	json  bool
	total int // measurements
	done  int
	fresh int // of them, not read from a file
	began time.Time
}

func (t *benchTeller) note(format string, args ...any) {
	t.began = time.Now()
	if !t.json {
		_, _ = fmt.Fprintf(t.out, format+"\n", args...)
	}
}

// skip is a measurement that an earlier run kept.
func (t *benchTeller) skip() { t.done++ }

func (t *benchTeller) sample(s benchSample, repeats int) {
	t.done++
	t.fresh++
	if t.json {
		_, _ = t.out.Write(jsonLine([]any{"event", "sample", "row", s.Row, "broker", s.Broker, "version", s.Version, "repeat", s.Repeat + 1, "values", s.Values}))
		return
	}
	left := time.Duration(float64(time.Since(t.began)) / float64(t.fresh) * float64(t.total-t.done)).Round(10 * time.Second)
	var figures []string
	for _, f := range benchFigures[s.Row.Bench] {
		figures = append(figures, f.text(s.Values[f.name])+" "+f.unit)
	}
	_, _ = fmt.Fprintf(t.out, "%3d/%d  %-28s %-11s %d/%d  %s  (%v left)\n", t.done, t.total, s.Row, s.Broker, s.Repeat+1, repeats, strings.Join(figures, ", "), left)
}

// table tells the result.
func (t *benchTeller) table(table benchTable) {
	if t.json {
		for _, l := range table.lines {
			_, _ = t.out.Write(jsonLine([]any{"event", "row", "row", l.Row, "brokers", l.Cells}))
		}
		brokers, ratio := table.summary()
		_, _ = t.out.Write(jsonLine([]any{"event", "summary", "repeats", table.plan.Repeats, "brokers", brokers, "ratio", ratio}))
		return
	}
	_, _ = fmt.Fprint(t.out, "\n", table.markdown())
}

// benchColumn is one column.
type benchColumn struct {
	name, head, unit string
	digits           int
}

func (f benchColumn) text(v float64) string { return fmt.Sprintf("%.*f", f.digits, v) }

// benchFigures are the columns of each kind of row.
var benchFigures = map[string][]benchColumn{
	"idle": {
		{"rss_kib_per_handset", "RSS a handset", "KiB", 1}, {"kernel_kib_per_handset", "kernel a connection, both ends", "KiB", 1},
		{"idle_cpu_percent", "CPU", "% of a core", 1}, {"load_idle_cpu_percent", "CPU of the load", "% of a core", 1},
		{"empty_rss_mib", "RSS empty", "MiB", 0},
	},
	"connect": {
		{"cpu_us_per_connect", "CPU a connect", "µs", 1}, {"load_cpu_us_per_connect", "of the load", "µs", 1},
		{"connects_per_s", "at most", "connects/s", 0}, {"connect_p50_ms", "p50", "ms", 1}, {"connect_p99_ms", "p99", "ms", 1},
	},
	"deliver": {
		{"cpu_us_per_text", "CPU a text", "µs", 1}, {"load_cpu_us_per_text", "of the load", "µs", 1},
		{"p50_ms", "p50", "ms", 2}, {"p99_ms", "p99", "ms", 2}, {"p999_ms", "p99.9", "ms", 2}, {"lost_texts", "lost", "texts", 0},
		{"texts_per_s", "at most", "texts/s", 0}, {"saturated_cpu_us_per_text", "then CPU a text", "µs", 1},
		{"load_saturated_cpu_us_per_text", "of the load", "µs", 1},
	},
	"presence": {
		{"cpu_us_per_watcher", "CPU a watcher", "µs", 2}, {"load_cpu_us_per_watcher", "of the load", "µs", 2},
		{"watcher_p50_ms", "p50", "ms", 1}, {"watcher_p99_ms", "p99", "ms", 1}, {"last_watcher_p50_ms", "all told, median", "ms", 1},
	},
}

// markdown is the dated table, as docs/performance.md has it.
func (t benchTable) markdown() string {
	var b strings.Builder
	last, where := time.Time{}, ""
	versions := map[string][]string{}
	for _, l := range t.lines {
		for _, c := range l.Cells {
			if !slices.Contains(versions[c.Broker], c.Version) {
				versions[c.Broker] = append(versions[c.Broker], c.Version)
			}
			if c.last.After(last) {
				last, where = c.last, c.machine
			}
		}
	}
	fmt.Fprintf(&b, "Measured on %s: %s. Medians of %d repeats, brokers in turn; in brackets the least and the most.\n\n", last.Format("2006-01-02"), where, t.plan.Repeats)
	for _, name := range t.names {
		fmt.Fprintf(&b, "- %s: %s\n", name, strings.Join(versions[name], "; "))
	}
	for _, l := range t.lines {
		figures := benchFigures[l.Row.Bench]
		fmt.Fprintf(&b, "\n### %s%s\n\n| broker |", strings.ToUpper(l.Row.String()[:1]), l.Row.String()[1:])
		for _, f := range figures {
			fmt.Fprintf(&b, " %s, %s |", f.head, f.unit)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(figures)) + "\n")
		for _, c := range l.Cells {
			fmt.Fprintf(&b, "| %s |", c.Broker)
			for _, f := range figures {
				v := c.Values[f.name]
				fmt.Fprintf(&b, " %s (%s–%s) |", f.text(v.Median), f.text(v.Min), f.text(v.Max))
			}
			b.WriteString("\n")
		}
		if ratio := l.ratios(); ratio != "" {
			b.WriteString("\nOurs over theirs: " + ratio + ".\n")
		}
	}
	return b.String()
}

// ratios is our main benchColumn of the row over each peer's.
func (l benchLine) ratios() string {
	if len(l.Cells) == 0 {
		return ""
	}
	main := benchFigures[l.Row.Bench][0]
	var parts []string
	for _, peer := range slices.Sorted(maps.Keys(l.Cells[0].Ratio)) {
		parts = append(parts, fmt.Sprintf("%s %.2f", peer, l.Cells[0].Ratio[peer][main.name]))
	}
	if len(parts) == 0 {
		return ""
	}
	return main.head + ": " + strings.Join(parts, ", ")
}

// machine says what it ran on, without a name.
func machine() string {
	model := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(info) {
		if k, v, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	return fmt.Sprintf("%d cores of %s, %s %s, shared by the load and the brokers", runtime.NumCPU(), model, runtime.GOOS, release)
}

// The table stands between these in its file.
const (
	markBegin = "<!-- bench: begin -->\n"
	markEnd   = "<!-- bench: end -->"
)

func checkMarks(file string) error {
	_, _, err := aroundMarks(file)
	return err
}

// aroundMarks is what stands in front of the table and behind it.
func aroundMarks(file string) (before, after string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	before, rest, ok1 := strings.Cut(string(text), markBegin)
	_, after, ok2 := strings.Cut(rest, markEnd)
	if !ok1 || !ok2 {
		return "", "", fmt.Errorf("%s: it needs a line %q and after it one %q", file, strings.TrimSpace(markBegin), markEnd)
	}
	return before + markBegin, markEnd + after, nil
}

func writeMarks(file, table string) error {
	before, after, err := aroundMarks(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(before+table+after), 0o644)
}
