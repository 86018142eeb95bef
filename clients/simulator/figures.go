package simulator

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Figures are what a run measures. Safe for concurrent use.
type Figures struct {
	upBytes, downBytes atomic.Int64

	mu       sync.Mutex
	shown    *hdrhistogram.Histogram // µs from when a text was to be written
	told     *hdrhistogram.Histogram
	sms      *hdrhistogram.Histogram
	connect  *hdrhistogram.Histogram
	blue     *hdrhistogram.Histogram
	grey     *hdrhistogram.Histogram
	interval *hdrhistogram.Histogram // shown, since the last sample
	blueing  *hdrhistogram.Histogram // blue, since the last sample
	connects int
	frames   int
	framed   int64 // bytes of frames
	samples  []Sample
}

// Sample is one point of the plots.
type Sample struct {
	At             float64 // seconds since the start
	Texts          int     // accepted so far; the next three likewise
	IP             int
	SMS            int
	Returned       int
	P50, P99, P999 float64 // ms, of texts shown since the last sample; 0 if none was
	Connects       int     // since the last sample
	Connected      int
	Bytes          int64 // both ways, so far
	BlueP99        float64
	Late           float64 // ms that the simulator itself was late at most
	BrokerRSS, RSS int64   // bytes: resident sets of the broker and of the simulator; 0: not known
}

// Latency sums up one histogram, in milliseconds.
type Latency struct {
	Count                    int64
	P50, P90, P99, P999, Max float64
}

const longest = int64(time.Hour / time.Microsecond)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// NewFigures is empty.
func NewFigures() *Figures {
	return &Figures{
		shown: newHistogram(), told: newHistogram(), sms: newHistogram(), connect: newHistogram(),
		blue: newHistogram(), grey: newHistogram(), interval: newHistogram(), blueing: newHistogram(),
	}
}

func (f *Figures) note(d time.Duration, hs ...*hdrhistogram.Histogram) {
	f.mu.Lock()
	defer f.mu.Unlock()
	us := min(max(1, d.Microseconds()), longest)
	for _, h := range hs {
		_ = h.RecordValue(us) // within its range
	}
}

// Shown notes how long after it was to be written a text was shown.
func (f *Figures) Shown(d time.Duration) { f.note(d, f.shown, f.interval) }

// Told notes the same of its sender's being told.
func (f *Figures) Told(d time.Duration) { f.note(d, f.told) }

// BySMS notes the same of the phone network's taking it.
func (f *Figures) BySMS(d time.Duration) { f.note(d, f.sms) }

// Blue notes how long it took until a watcher saw blue.
func (f *Figures) Blue(d time.Duration) { f.note(d, f.blue, f.blueing) }

// Grey notes the same of grey.
func (f *Figures) Grey(d time.Duration) { f.note(d, f.grey) }

// Connected notes how long after it was to begin a connection was welcomed.
func (f *Figures) Connected(d time.Duration) {
	f.note(d, f.connect)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connects++
}

func (f *Figures) bytes(d direction, n int) {
	if d == up {
		f.upBytes.Add(int64(n))
	} else {
		f.downBytes.Add(int64(n))
	}
}

// frame notes the size of the PUBLISH of a message between two handsets.
func (f *Figures) frame(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frames++
	f.framed += int64(n)
}

// Bytes are all that handsets wrote and read so far, in MQTT packets.
func (f *Figures) Bytes() (sent, read int64) { return f.upBytes.Load(), f.downBytes.Load() }

// FrameBytes is the mean size of a PUBLISH between two handsets.
func (f *Figures) FrameBytes() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return float64(f.framed) / float64(max(1, f.frames))
}

// begin forgets what was gathered for the first sample: the running phase begins.
func (f *Figures) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connects = 0
	f.interval.Reset()
	f.blueing.Reset()
}

// Sample takes a point; the rest of it is filled in.
func (f *Figures) Sample(s Sample) Sample {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Bytes = f.upBytes.Load() + f.downBytes.Load()
	if f.interval.TotalCount() > 0 {
		s.P50, s.P99, s.P999 = msOf(f.interval, 50), msOf(f.interval, 99), msOf(f.interval, 99.9)
	}
	s.BlueP99 = msOf(f.blueing, 99)
	s.Connects = f.connects
	f.connects = 0
	f.interval.Reset()
	f.blueing.Reset()
	f.samples = append(f.samples, s)
	return s
}

func msOf(h *hdrhistogram.Histogram, q float64) float64 {
	if h.TotalCount() == 0 {
		return 0
	}
	return float64(h.ValueAtQuantile(q)) / 1000
}

// Latencies are all histograms, by name.
func (f *Figures) Latencies() map[string]Latency {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]*hdrhistogram.Histogram{
		"shown": f.shown, "told": f.told, "sms": f.sms, "connect": f.connect, "blue": f.blue, "grey": f.grey,
	}
	out := map[string]Latency{}
	for name, h := range all {
		out[name] = latencyOf(h)
	}
	return out
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	l := Latency{Count: h.TotalCount(), P50: msOf(h, 50), P90: msOf(h, 90), P99: msOf(h, 99), P999: msOf(h, 99.9)}
	if l.Count > 0 {
		l.Max = float64(h.Max()) / 1000
	}
	return l
}

// Samples are the points so far.
func (f *Figures) Samples() []Sample {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Sample(nil), f.samples...)
}
