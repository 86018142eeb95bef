package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bluejay/clients/simulator"
)

// outside finds what a page would fetch: anything but an XML name space.
var outside = regexp.MustCompile(`(?:src|href|url\()\s*[=(]?\s*["']?(?:https?:)?//`)

// TestSimReport: the report is one file with every plot in it that fetches nothing, says the verdict
// first, and shows a violation with its history, escaped.
func TestSimReport(t *testing.T) {
	r := simulator.Report{Ran: 20 * time.Second, Handsets: 3, Latencies: map[string]simulator.Latency{"shown": {Count: 7, P50: 1.5}}}
	r.Counts = simulator.Counts{Texts: 1234567, IP: 1234000, SMS: 500, Returned: 67}
	for i := range 600 {
		r.Samples = append(r.Samples, simulator.Sample{At: float64(i) / 30, Texts: i * 100, IP: i * 90, P50: 1, P99: 5, P999: 9, Connected: 3, Bytes: int64(i) * 1000, BrokerRSS: 9 << 20, RSS: 5 << 20})
	}
	o := simOptions{lean: 3, duration: 20 * time.Second, profile: "city", seed: 4, rate: 100, texts: 9, closed: true}
	good := rendered(t, &o, r)
	for _, want := range []string{"✓ Every text", "1 234 567", "bluejay sim --handsets 3 --real 0 --for 20s --profile city --seed 4 --rate 100 --texts 9 --closed", "over IP", "1.50"} {
		if !strings.Contains(good, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if n := strings.Count(good, "<svg"); n != 9 {
		t.Errorf("%d plots, want 9", n)
	}
	if at := outside.FindString(good); at != "" || strings.Contains(good, "<script") {
		t.Errorf("the report fetches something: %q", at)
	}
	r.Counts.Violations, r.Violations = 1, []simulator.Violation{{Kind: simulator.StaleBlue, Detail: "<b>1</b>", History: []string{"step one"}}}
	bad := rendered(t, &o, r)
	for _, want := range []string{"✗ 1 violations", "stale blue", "&lt;b&gt;1", "step one"} {
		if !strings.Contains(bad, want) {
			t.Errorf("a bad report lacks %q", want)
		}
	}
}

func rendered(t *testing.T, o *simOptions, r simulator.Report) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.html")
	if err := writeReport(file, &simulator.Config{Addr: "127.0.0.1:1"}, o, r, 1); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestThin: a long run keeps few points, and none of its worst.
func TestThin(t *testing.T) {
	var all []simulator.Sample
	for i := range 6000 {
		all = append(all, simulator.Sample{At: float64(i), Texts: i, Connects: 1})
	}
	all[1234].P999, all[4000].Late = 99, 7
	few := thin(all)
	var worst, late float64
	connects := 0
	for _, s := range few {
		worst, late, connects = max(worst, s.P999), max(late, s.Late), connects+s.Connects
	}
	if len(few) > maxPoints || few[len(few)-1].Texts != 5999 || worst != 99 || late != 7 || connects != 6000 {
		t.Errorf("%d points, last %d, worst %v, late %v, %d connects", len(few), few[len(few)-1].Texts, worst, late, connects)
	}
}

// TestSimStory: the lines for people name every outcome, what was late, and each kind of violation.
func TestSimStory(t *testing.T) {
	var out strings.Builder
	teller := newSimTeller(&out, &simOptions{})
	teller.tell(simulator.Progress{Phase: "running", Sample: simulator.Sample{At: 5, Texts: 3, P50: 1}})
	teller.tell(simulator.Progress{Phase: "running", Violation: &simulator.Violation{Kind: simulator.WrongTag, Detail: "x"}})
	r := simulator.Report{Ran: 40 * time.Second, Late: time.Second, Stopped: true, Violations: []simulator.Violation{{Kind: simulator.WrongTag}}}
	for i := range 40 {
		r.Samples = append(r.Samples, simulator.Sample{At: float64(i), BrokerRSS: 100 << 20})
	}
	r.Samples[39].BrokerRSS = 0
	r.Counts.Violations = 1
	if err := teller.finished(&simulator.Config{}, r, 1); err != errViolations {
		t.Errorf("finished: %v", err)
	}
	for _, want := range []string{"running …", "3 texts", "✗ wrong tag", "0 unaccounted for", "late itself", "stopped at the first", "1 × wrong tag", "memory of the broker, 8s to 38s: 100 → 100 MiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not said:\n%s", want, out.String())
		}
	}
}
