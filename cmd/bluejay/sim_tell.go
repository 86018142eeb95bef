package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"charm.land/bubbles/v2/progress"
	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"

	"bluejay/clients/simulator"
)

// simTeller tells how a run goes: one JSON object a line, a bar with live figures on a terminal, or
// plain lines.
type simTeller struct {
	out  io.Writer
	o    *simOptions
	live bool
	bar  progress.Model

	mu    sync.Mutex
	phase string
	drawn bool
	last  simulator.Sample
	shown time.Time
}

func newSimTeller(out io.Writer, o *simOptions) *simTeller {
	f, ok := out.(*os.File)
	t := &simTeller{out: out, o: o, live: !o.json && ok && term.IsTerminal(int(f.Fd()))}
	t.bar = progress.New(progress.WithWidth(30), progress.WithoutPercentage())
	return t
}

// line prints a line above the bar.
func (t *simTeller) line(format string, args ...any) {
	t.wipe()
	_, _ = fmt.Fprintf(t.out, format+"\n", args...)
}

func (t *simTeller) wipe() {
	if t.drawn {
		_, _ = io.WriteString(t.out, "\r\x1b[K")
		t.drawn = false
	}
}

func (t *simTeller) json(name string, fields ...any) {
	_, _ = t.out.Write(jsonLine(append([]any{"event", name}, fields...)))
}

func (t *simTeller) certified(n int, took time.Duration) {
	if n == 0 {
		return
	}
	if t.o.json {
		t.json("certified", "handsets", n, "ms", ms(took))
		return
	}
	t.line("%d lean handsets certified in bulk with the registrar's key that this command made (%s); real ones enrol.", n, took.Round(time.Millisecond))
}

func (t *simTeller) started(cfg *simulator.Config, w *simWorld) {
	if t.o.json {
		t.json("started", "addr", cfg.Addr, "profile", t.o.profile, "seed", cfg.Seed, "handsets", t.o.lean, "real", t.o.real,
			"raised", append([]string{}, w.raised...), "deadline", cfg.Deadline.String(), "grey_max", cfg.GreyMax.String(), "bound", cfg.Bound.String())
		return
	}
	t.line("Node %s, profile %s (%s), seed %d.", cfg.Addr, t.o.profile, cfg.Profile.About, cfg.Seed)
	if len(w.raised) > 0 {
		t.line("Quotas raised: %s.", strings.Join(w.raised, "; "))
	}
}

// tell takes one step of a run. It is called by several goroutines.
func (t *simTeller) tell(p simulator.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case p.Violation != nil:
		t.violation(*p.Violation)
		return
	case p.Phase != t.phase:
		t.phase = p.Phase
		if t.o.json {
			t.json("phase", "phase", p.Phase)
		} else if !t.live {
			t.line("%s …", p.Phase)
		}
	}
	if p.Sample.At > 0 {
		t.last = p.Sample
		t.sampled(p)
	}
	if t.live && time.Since(t.shown) > 50*time.Millisecond {
		t.draw(p)
	}
}

func (t *simTeller) violation(v simulator.Violation) {
	if t.o.json {
		t.json("violation", "kind", string(v.Kind), "at_s", v.At.Seconds(), "text", v.Text, "detail", v.Detail, "history", append([]string{}, v.History...))
		return
	}
	t.line("✗ %s", v)
}

func (t *simTeller) sampled(p simulator.Progress) {
	s := p.Sample
	switch {
	case t.o.json:
		t.json("sample", "s", round(s.At), "connected", s.Connected, "texts", s.Texts, "ip", s.IP, "sms", s.SMS, "returned", s.Returned,
			"p50_ms", round(s.P50), "p99_ms", round(s.P99), "p999_ms", round(s.P999), "connects", s.Connects, "bytes", s.Bytes,
			"broker_rss_bytes", s.BrokerRSS, "rss_bytes", s.RSS)
	case !t.live && int(s.At)%5 == 0:
		t.line("%4.0f s  %s", s.At, figuresOf(s))
	}
}

func figuresOf(s simulator.Sample) string {
	return fmt.Sprintf("%d connected, %d texts: %d IP, %d SMS, %d returned; shown after %.1f ms (p50), %.1f ms (p99)",
		s.Connected, s.Texts, s.IP, s.SMS, s.Returned, s.P50, s.P99)
}

// draw redraws the bar in its line.
func (t *simTeller) draw(p simulator.Progress) {
	t.shown = time.Now()
	line := fmt.Sprintf("\r%-10s %s", t.phase, t.bar.ViewAs(p.Done))
	if t.phase == "running" || t.phase == "settling" {
		line += " " + figuresOf(t.last)
	}
	_, _ = io.WriteString(t.out, clip(line, t.out)+"\x1b[K")
	t.drawn = true
}

// clip keeps a line within the terminal's width, so that it can be drawn over; the bar's own colours
// take no room.
func clip(line string, out io.Writer) string {
	f, ok := out.(*os.File)
	if !ok {
		return line
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 {
		return line
	}
	return ansi.Truncate(line, width-1, "")
}

func round(v float64) float64 { return math.Round(v*100) / 100 }

// finished prints the summary and writes the report.
func (t *simTeller) finished(cfg *simulator.Config, r simulator.Report, cpu float64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wipe()
	if t.o.json {
		t.json("summary", summaryFields(cfg, r, cpu)...)
	} else {
		t.story(r, cpu)
	}
	if t.o.html != "" {
		if err := writeReport(t.o.html, cfg, t.o, r, cpu); err != nil {
			return err
		}
		if !t.o.json {
			t.line("Report: %s", t.o.html)
		}
	}
	if r.Counts.Violations > 0 || r.Unaccounted > 0 {
		return errViolations
	}
	return nil
}

// summaryFields are the last line of --json.
func summaryFields(cfg *simulator.Config, r simulator.Report, cpu float64) []any {
	fields := []any{
		"texts", r.Texts, "ip", r.IP, "sms", r.SMS, "returned", r.Returned, "unaccounted", r.Unaccounted,
		"violations", r.Counts.Violations, "folded", r.Folded, "handsets", r.Handsets, "real", r.Real, "lean", r.Lean,
		"sessions", r.Sessions, "presence_checks_blue", r.Presence.Blue, "presence_checks_grey", r.Presence.Grey,
		"seconds", round(r.Ran.Seconds()), "texts_per_second", round(float64(r.Texts) / max(0.001, r.Ran.Seconds())),
		"ready_s", round(r.ReadyIn.Seconds()), "greeted_s", round(r.GreetedIn.Seconds()),
		"bytes_per_publish", round(r.FrameBytes), "bytes_per_text", round(bytesPerText(r)),
		"late_ms", ms(r.Late), "cpu_s", round(cpu), "dials_failed", r.Failed, "stopped", r.Stopped, "closed_loop", cfg.Closed,
	}
	for _, name := range latencyNames {
		l := r.Latencies[name]
		fields = append(fields, name+"_ms", map[string]any{
			"count": l.Count, "p50": round(l.P50), "p90": round(l.P90), "p99": round(l.P99), "p999": round(l.P999), "max": round(l.Max),
		})
	}
	if b := r.Broker; b != nil {
		fields = append(fields, "broker", map[string]any{
			"accepted": b.Accepted, "delivered": b.Delivered, "queued": b.Queued, "returned": b.Returned, "in_flight": b.InFlight,
			"difference": b.Difference, "rss_bytes": b.RSS, "cpu_s": round(b.CPU),
		})
	}
	broker, own := r.Drifts()
	return append(fields, "broker_memory", driftFields(broker), "memory", driftFields(own))
}

// driftFields is a drift in JSON; nil: not known.
func driftFields(d simulator.Drift) map[string]any {
	if d.First == 0 {
		return nil
	}
	return map[string]any{
		"from_s": round(d.From.Seconds()), "to_s": round(d.To.Seconds()), "first_bytes": d.First, "last_bytes": d.Last,
		"least_percent": round(100 * d.Least), "most_percent": round(100 * d.Most), "peak_bytes": d.Peak,
	}
}

var latencyNames = []string{"shown", "told", "sms", "connect", "blue", "grey"}

// bytesPerText is everything that handsets wrote and read in the running phase, by text.
func bytesPerText(r simulator.Report) float64 {
	return float64(r.Sent+r.Read) / float64(max(1, r.Texts))
}

// story is the summary for people.
func (t *simTeller) story(r simulator.Report, cpu float64) {
	t.line("")
	t.line("%d texts in %s: %d over IP, %d by SMS, %d returned, %d unaccounted for; %d folded with their SMS copy.",
		r.Texts, r.Ran.Round(100*time.Millisecond), r.IP, r.SMS, r.Returned, r.Unaccounted, r.Folded)
	t.line("%d handsets (%d real, %d lean), connected in %s, %d conversations between lean ones opened in %s.",
		r.Handsets, r.Real, r.Lean, r.ReadyIn.Round(time.Millisecond), r.Sessions, r.GreetedIn.Round(time.Millisecond))
	what := map[string]string{
		"shown": "a text shown, from when it was to be written", "told": "its sender told", "sms": "an SMS taken by the network",
		"connect": "a connection welcomed", "blue": "blue seen", "grey": "grey seen",
	}
	for _, name := range latencyNames {
		if l := r.Latencies[name]; l.Count > 0 {
			t.line("  %-46s p50 %9.2f  p99 %9.2f  p99.9 %9.2f ms  (%d)", what[name], l.P50, l.P99, l.P999, l.Count)
		}
	}
	t.line("  %.0f bytes a PUBLISH between handsets; %.0f bytes of MQTT a text in all, both ways, both sides.", r.FrameBytes, bytesPerText(r))
	t.line("  presence looked at %d times for blue, %d times for grey.", r.Presence.Blue, r.Presence.Grey)
	if b := r.Broker; b != nil {
		t.line("  broker: %d accepted = %d delivered + %d queued + %d returned + %d in flight; %.0f MiB, %.1f s CPU; this process %.1f s.",
			b.Accepted, b.Delivered, b.Queued, b.Returned, b.InFlight, float64(b.RSS)/(1<<20), b.CPU, cpu)
	}
	broker, own := r.Drifts()
	for _, d := range []struct {
		whose string
		simulator.Drift
	}{{"the broker", broker}, {"this process", own}} {
		if d.First > 0 {
			t.line("  memory of %s, %s to %s: %.0f → %.0f MiB, %+.1f to %+.1f %% of the first, peak %.0f MiB.", d.whose, d.From.Round(time.Second),
				d.To.Round(time.Second), float64(d.First)/(1<<20), float64(d.Last)/(1<<20), 100*d.Least, 100*d.Most, float64(d.Peak)/(1<<20))
		}
	}
	if r.Late > 100*time.Millisecond {
		t.line("  ! this process was up to %s late itself: these times say more about it than about the node.", r.Late.Round(time.Millisecond))
	}
	if r.Stopped {
		t.line("  ! stopped at the first violation: what was under way has no verdict.")
	}
	kinds := map[simulator.Kind]int{}
	for _, v := range r.Violations {
		kinds[v.Kind]++
	}
	if len(kinds) == 0 {
		t.line("✓ no violation.")
		return
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		t.line("✗ %d × %s", kinds[k], k)
	}
}
