package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tinyPlan is enough to show that everything is measured.
func tinyPlan() benchPlan {
	return benchPlan{
		Repeats: 1, Settle: 200 * time.Millisecond, Warm: 50 * time.Millisecond, Deliver: 200 * time.Millisecond,
		Saturate: time.Second, Told: 24, Rate: 200, Window: 2, Keepalive: 60,
	}
}

// TestBenchOurs measures each kind of row on our own node, with the load in a process of its own: every column of the
// table has its figure, and what was kept in a file is not measured again.
func TestBenchOurs(t *testing.T) {
	t.Parallel()
	rows := []benchRow{
		{"connect", true, 6}, {"deliver", false, 6}, {"presence", false, 6}, {"idle", false, 6},
	}
	save := filepath.Join(t.TempDir(), "bench.jsonl")
	measure := func() *benchRun {
		t.Helper()
		b := &benchRun{plan: tinyPlan(), names: []string{oursName}, dir: t.TempDir(), tell: &benchTeller{out: io.Discard}}
		var err error
		if b.samples, err = loadSamples(save); err != nil {
			t.Fatal(err)
		}
		if err := b.prepare(bounded(t), rows); err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if err := b.row(bounded(t), row, save); err != nil {
				t.Fatalf("%s: %v", row, err)
			}
		}
		return b
	}
	b := measure()
	for _, l := range summarise(b.samples, rows, b.names, b.plan).lines {
		if len(l.Cells) != 1 || l.Cells[0].Version == "" {
			t.Fatalf("%s: %+v", l.Row, l.Cells)
		}
		for _, f := range benchFigures[l.Row.Bench] {
			v, ok := l.Cells[0].Values[f.name]
			mayBeZero := f.unit == "% of a core" || strings.Contains(f.name, "cpu") || f.name == "lost_texts" || strings.HasSuffix(f.name, "_per_handset")
			if !ok || v.Median <= 0 && !mayBeZero { // so little is below a clock tick, or lost among pages
				t.Errorf("%s: %s is %v, %v", l.Row, f.name, v, ok)
			}
		}
	}
	for i, s := range b.samples { // one row of another build is kept as it is; a part of one is not completed
		if b.samples[i].Version = "another build"; s.Row.Bench == "idle" {
			b.samples[i].Broker = "mochi"
		}
		missing, other := b.missing(s.Row)
		if want := "another build"; s.Row.Bench != "idle" && (missing || other != want) || s.Row.Bench == "idle" && (!missing || other != "") {
			t.Errorf("%s: missing %v, %q", s.Row, missing, other)
		}
	}
	again := measure()
	if again.tell.done != len(rows) || again.tell.fresh != 0 || len(again.samples) != len(rows) {
		t.Errorf("measured again: %+v, %d samples", again.tell, len(again.samples))
	}
}

// sampleOf is a measurement of nothing.
func sampleOf(broker string, repeat int, cpu float64) benchSample {
	return benchSample{
		Row: benchRow{"connect", false, 10}, Plan: "64 at a time", Broker: broker, Version: broker + " 1.0", Machine: "a machine", Repeat: repeat,
		At: time.Date(2026, 11, 26, 12, 0, repeat, 0, time.UTC), Values: map[string]float64{"cpu_us_per_connect": cpu, "load_cpu_us_per_connect": 7},
	}
}

// TestBenchTable: medians, spreads and ratios; a broker that was not measured has no figures rather than zeros.
func TestBenchTable(t *testing.T) {
	p := benchPlan{Repeats: 3}
	samples := []benchSample{
		sampleOf(oursName, 0, 300), sampleOf(oursName, 1, 100), sampleOf(oursName, 2, 200),
		sampleOf("mosquitto", 0, 50), sampleOf("mosquitto", 1, 80), sampleOf("mosquitto", 2, 60),
		sampleOf("mosquitto", 3, 1), // of a run with more repeats
	}
	row := benchRow{"connect", false, 10}
	table := summarise(samples, []benchRow{row}, []string{oursName, "mosquitto", "mochi"}, p)
	cells := table.lines[0].Cells
	if len(cells) != 2 || cells[0].Repeats != 3 || cells[0].Values["cpu_us_per_connect"] != (benchSpread{200, 100, 300}) ||
		cells[1].Values["cpu_us_per_connect"] != (benchSpread{60, 50, 80}) {
		t.Fatalf("%+v", cells)
	}
	want := map[string]map[string]float64{"mosquitto": {"cpu_us_per_connect": 3.33}}
	if !maps.EqualFunc(cells[0].Ratio, want, maps.Equal) || cells[1].Ratio != nil {
		t.Errorf("ratio %v", cells[0].Ratio)
	}
	brokers, ratio := table.summary()
	if brokers["mosquitto"]["cpu_us_per_connect"] != 60 || ratio["mosquitto"]["cpu_us_per_connect"] != 3.33 || len(brokers) != 2 {
		t.Errorf("%v, %v", brokers, ratio)
	}
	text := table.markdown()
	for _, part := range []string{"Measured on 2026-11-26: a machine. Medians of 3 repeats", "- mosquitto: mosquitto 1.0\n", "### Connect, 10 handsets\n",
		"| bluejay | 200.0 (100.0–300.0) | 7.0 (7.0–7.0) |", "\nOurs over theirs: CPU a connect: mosquitto 3.33.\n"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
}

// TestBenchFiles: a table replaces the one in its file and nothing else, and a file that cannot take one, or holds what
// is no measurement, is told before anything is measured.
func TestBenchFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.md")
	put := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("above\n" + markBegin + "old\n" + markEnd + "below\n")
	for _, table := range []string{"one\n", "two\n"} {
		if err := writeMarks(file, table); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "above\n"+markBegin+"two\n"+markEnd+"below\n" {
		t.Errorf("%s, %v", b, err)
	}
	put("no marks")
	if err := checkMarks(file); err == nil {
		t.Error("no marks, and yet a table")
	}
	if _, err := loadSamples(file); err == nil {
		t.Error("that is no measurement")
	}
	if s, err := loadSamples(filepath.Join(t.TempDir(), "none")); err != nil || s != nil {
		t.Errorf("%v, %v", s, err)
	}
}

// TestBenchRefuses what cannot be measured.
func TestBenchRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"speed"}, {"connect", "--handsets", "1"}, {"connect", "--handsets", "20000"}, {"all", "--tls"}, {"all", "--handsets", "5"},
		{"connect", "--peer", "apache"}, {"connect", "--peer", "mochi,mochi"}, {"connect", "--markdown", "/nowhere/p.md"}, {},
	} {
		if out, code := run(t, append([]string{"bench"}, args...)...); code == 0 || out == "" {
			t.Errorf("%v: exit %d, %q", args, code, out)
		}
	}
	if err := runLoad(t.Context(), strings.NewReader("hello"), io.Discard); err == nil {
		t.Error("no configuration is a configuration")
	}
	var out bytes.Buffer
	orders := `{"addr":"127.0.0.1:1","size":1}` + "\n" + `{"do":"connect"}` + "\n" + `{"do":"dance"}` + "\n"
	if err := runLoad(t.Context(), strings.NewReader(orders), &out); err != nil {
		t.Fatal(err)
	}
	for in := json.NewDecoder(&out); ; {
		var r loadReport
		if err := in.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil || r.Error == "" {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestPerformancePage: no row of the full table is left out in docs/performance.md, and no broker of a row.
func TestPerformancePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), markBegin)
	measured, _, ok := strings.Cut(rest, markEnd)
	if !ok {
		t.Fatal("no table in docs/performance.md")
	}
	parts := strings.Split(measured, "\n### ")
	for _, row := range fullTable() {
		title := strings.ToUpper(row.String()[:1]) + row.String()[1:]
		at := slices.IndexFunc(parts, func(s string) bool { return strings.HasPrefix(s, title+"\n") })
		if at < 0 {
			t.Errorf("no row %q", title)
			continue
		}
		for _, name := range append([]string{oursName}, peerNames...) {
			if !strings.Contains(parts[at], "\n| "+name+" | ") {
				t.Errorf("%s: no %s", title, name)
			}
		}
	}
}
