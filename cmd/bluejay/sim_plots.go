package main

import (
	htmltemplate "html/template"
	"strconv"

	"github.com/go-analyze/charts"

	"bluejay/clients/simulator"
)

// plot is one figure of a report: its SVG, and what it shows.
type plot struct {
	Title, Note string
	SVG         htmltemplate.HTML
}

// series is a named row of values over the same times.
type series struct {
	name   string
	values []float64
}

// maxPoints is how many points a plot has; of a longer run neighbours are joined.
const maxPoints = 240

// thin joins neighbouring samples until few enough are left: counters keep their last value,
// latencies their worst.
func thin(all []simulator.Sample) []simulator.Sample {
	step := (len(all) + maxPoints - 1) / maxPoints
	if step <= 1 {
		return all
	}
	var out []simulator.Sample
	for i := 0; i < len(all); i += step {
		group := all[i:min(i+step, len(all))]
		s := group[len(group)-1]
		for _, g := range group[:len(group)-1] {
			s.P50, s.P99, s.P999 = max(s.P50, g.P50), max(s.P99, g.P99), max(s.P999, g.P999)
			s.Late, s.BlueP99 = max(s.Late, g.Late), max(s.BlueP99, g.BlueP99)
			s.Connects += g.Connects
		}
		out = append(out, s)
	}
	return out
}

// per is a counter's rise a second, between one sample and the next.
func per(all []simulator.Sample, read func(simulator.Sample) float64) []float64 {
	out := make([]float64, len(all))
	var last, at float64
	for i, s := range all {
		v := read(s)
		out[i] = (v - last) / max(0.001, s.At-at)
		last, at = v, s.At
	}
	return out
}

func each(all []simulator.Sample, read func(simulator.Sample) float64) []float64 {
	out := make([]float64, len(all))
	for i, s := range all {
		out[i] = read(s)
	}
	return out
}

// plotsOf draws every figure of a run.
func plotsOf(r simulator.Report, began int64) ([]plot, error) {
	all := thin(untilEnd(r))
	if len(all) < 2 {
		return nil, nil // too short for a plot
	}
	read := func(f func(simulator.Sample) float64) []float64 { return each(all, f) }
	texts := per(all, func(s simulator.Sample) float64 { return float64(s.Texts) })
	traffic := per(all, func(s simulator.Sample) float64 { return float64(s.Bytes) })
	traffic[0] = per([]simulator.Sample{all[0]}, func(s simulator.Sample) float64 { return float64(s.Bytes - began) })[0]
	for i := range traffic {
		traffic[i] /= max(1, texts[i])
	}
	draws := []struct {
		title, note string
		area        bool
		rows        []series
	}{
		{"Latency of texts, median, ms", "From when a text was to be written until the recipient's handset had stored it. A stall of the node, or of this machine, counts for every text it held up.", false, []series{
			{"p50", read(func(s simulator.Sample) float64 { return s.P50 })}}},
		{"Latency of texts, the slowest, ms", "The same for one text in a hundred and one in a thousand of each moment. A text to somebody who is away waits: it is among these when it arrives.", false, []series{
			{"p99", read(func(s simulator.Sample) float64 { return s.P99 })},
			{"p99.9", read(func(s simulator.Sample) float64 { return s.P999 })}}},
		{"Outcomes, texts so far", "What became of every text: over IP, by SMS, or back at its sender. The rest is under way.", true, []series{
			{"over IP", read(func(s simulator.Sample) float64 { return float64(s.IP) })},
			{"by SMS", read(func(s simulator.Sample) float64 { return float64(s.SMS) })},
			{"returned", read(func(s simulator.Sample) float64 { return float64(s.Returned) })}}},
		{"Texts a second", "Written, as the schedule says, whether or not the node keeps up.", false, []series{{"texts/s", texts}}},
		{"Bytes a text", "All MQTT packets that handsets wrote and read, over the texts of that moment: texts, acknowledgements, presence and connections.", false, []series{{"bytes", traffic}}},
		{"Connections", "Handsets connected with consent, and connections made a second.", false, []series{
			{"connected", read(func(s simulator.Sample) float64 { return float64(s.Connected) })},
			{"connects/s", read(func(s simulator.Sample) float64 { return float64(s.Connects) })}}},
		{"Presence: blue seen, ms", "Until a watcher saw somebody blue who had connected: p99 of each moment. The bound is 1 s, and what the links add.", false, []series{
			{"p99", read(func(s simulator.Sample) float64 { return s.BlueP99 })}}},
		{"The simulator's own lateness, ms", "How late its timers were, at most. While this is not small, the other figures say more about this machine than about the node; the presence bounds are widened by it.", false, []series{
			{"late", read(func(s simulator.Sample) float64 { return s.Late })}}},
		{"Memory, MiB", "Resident sets of the broker's process and of this one. What else the node runs is not in it, nor are the kernel's buffers; 0 is not known, as of another machine's node.", false, []series{
			{"broker", read(func(s simulator.Sample) float64 { return float64(s.BrokerRSS) / (1 << 20) })},
			{"simulator", read(func(s simulator.Sample) float64 { return float64(s.RSS) / (1 << 20) })}}},
	}
	var out []plot
	for _, d := range draws {
		svg, err := draw(all, d.rows, d.area)
		if err != nil {
			return nil, err
		}
		out = append(out, plot{d.title, d.note, svg})
	}
	return out, nil
}

// untilEnd leaves out what was sampled while the run settled.
func untilEnd(r simulator.Report) []simulator.Sample {
	var out []simulator.Sample
	for _, s := range r.Samples {
		if s.At <= r.Ran.Seconds()+0.2 {
			out = append(out, s)
		}
	}
	return out
}

var plotColours = []charts.Color{
	charts.ColorFromHex("#2563eb"), charts.ColorFromHex("#f59e0b"), charts.ColorFromHex("#dc2626"),
}

// draw makes a line plot as SVG.
func draw(all []simulator.Sample, rows []series, area bool) (htmltemplate.HTML, error) {
	var values [][]float64
	var names, labels []string
	for _, r := range rows {
		values, names = append(values, r.values), append(names, r.name)
	}
	for _, s := range all {
		labels = append(labels, strconv.FormatFloat(s.At, 'f', 0, 64)+" s")
	}
	o := charts.NewLineChartOptionWithData(values)
	o.Theme = charts.GetTheme(charts.ThemeLight).WithSeriesColors(plotColours).WithBackgroundColor(charts.ColorTransparent)
	o.XAxis.Labels, o.XAxis.LabelCount, o.XAxis.BoundaryGap = labels, min(len(labels), 9), charts.Ptr(false)
	o.YAxis[0].Min = charts.Ptr(0.0)
	o.Symbol, o.LineStrokeWidth = charts.Symbol{Shape: charts.SymbolNone}, 2
	o.Legend.SeriesNames, o.Legend.Show = names, charts.Ptr(len(names) > 1)
	if area {
		o.StackSeries, o.FillOpacity = charts.Ptr(true), 140
	}
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: 640, Height: 300})
	if err := p.LineChart(o); err != nil {
		return "", err
	}
	b, err := p.Bytes()
	return htmltemplate.HTML(b), err // drawn here, from numbers
}
