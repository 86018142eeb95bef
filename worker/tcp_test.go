package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/envelope"
	"bluejay/sms"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// line replaces the scripted transport by SMPP over TCP to an SMSC that others wrote.
func line(t testing.TB, w *world, cfg sms.SMPPConfig) (*smsc.Server, func(*Config, *ports)) {
	t.Helper()
	server, err := smsc.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	cfg.Addr, cfg.SystemID, cfg.Password, cfg.Rate = server.Addr(), smsc.SystemID, smsc.Password, 1e6
	return server, func(c *Config, _ *ports) {
		transport, err := sms.NewSMPP(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.Routes = w.via(sms.Route{Transport: transport})
	}
}

// until waits for a state of the world, in real time and for at most a minute.
func (w *world) until(done func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	for ok := false; !ok; {
		if !sleep(ctx, time.Millisecond) {
			w.t.Fatal("it does not happen")
		}
		w.look(func() { ok = done() })
	}
}

// allFinal is that each job has ended, in the journal and for its sender, who is told next.
func (w *world) allFinal(ids []wire.MessageID) func() bool {
	return func() bool {
		return !slices.ContainsFunc(ids, func(id wire.MessageID) bool {
			told := w.outcomes[id]
			return !w.journal[id].State.Final() || !w.journal[id].Urgent && (len(told) == 0 || !told[len(told)-1].Final())
		})
	}
}

// TestOverTCP: a job becomes what a phone shows, and its receipts find the way back. [F-6] [F-7]
func TestOverTCP(t *testing.T) {
	w := newWorld(t)
	server, overTCP := line(t, w, sms.SMPPConfig{})
	server.Play(func(p smsc.Part) smsc.Reply {
		return smsc.Reply{Early: p.Number%2 == 0, Bare: p.Number%3 == 0, Receipt: map[bool]string{true: "UNDELIV"}[strings.Contains(p.Text, "nowhere")]}
	})
	p := w.start(overTCP)
	j := w.job(strings.Repeat("see you at eight, ", 20) + "€")
	j.From = number(t, claimant)
	long := w.send(j)
	plain := w.send(w.job("увидимся"))
	nowhere := w.send(w.job("nowhere"))
	w.until(w.allFinal([]wire.MessageID{long, plain, nowhere}))
	p.stop()
	want := map[string]bool{"From " + claimant + ": " + j.Text: true, "увидимся": true, "nowhere": true}
	for _, m := range server.Messages() {
		if !want[m.Text] || m.To != recipient || m.From != "Bluejay" {
			t.Errorf("the phone shows %q from %s", m.Text, m.From)
		}
		delete(want, m.Text)
	}
	if len(want) != 0 {
		t.Errorf("the phone misses %d texts", len(want))
	}
	for id, told := range map[wire.MessageID]string{long: "submitted delivered", plain: "submitted delivered", nowhere: "submitted undeliverable"} {
		if got := w.told(id); got != told {
			t.Errorf("told %q, want %q", got, told)
		}
	}
	w.leaks()
}

// TestRateOverTCP: many jobs with journal in memory and receipts; each once.
func TestRateOverTCP(t *testing.T) {
	const n = 500
	w := newWorld(t)
	server, overTCP := line(t, w, sms.SMPPConfig{})
	w.start(overTCP)
	var ids []wire.MessageID
	jobs := make([]envelope.Job, n)
	for i := range jobs {
		jobs[i] = w.job(fmt.Sprint("text ", i))
	}
	began := time.Now()
	for _, j := range jobs {
		ids = append(ids, w.send(j))
	}
	w.until(w.allFinal(ids))
	t.Logf("%.0f jobs a second, with receipts", n/time.Since(began).Seconds())
	texts := map[string]int{}
	for _, m := range server.Messages() {
		texts[m.Text]++
	}
	for i := range n {
		if k := texts[fmt.Sprint("text ", i)]; k != 1 {
			t.Errorf("text %d arrived %d times", i, k)
		}
	}
}

// TestChaos: the link is cut again and again, the SMSC hangs up after taking texts, the worker is
// restarted, somebody says STOP. No text arrives twice, none after the STOP; what is told "submitted" or more arrived; what is told "failed"
// did not. [F-5] [F-11] [F-17]
func TestChaos(t *testing.T) {
	const n = 150
	w := newWorld(t)
	server, overTCP := line(t, w, sms.SMPPConfig{ResponseTimeout: time.Second, EnquireLink: 200 * time.Millisecond})
	server.Play(func(p smsc.Part) smsc.Reply { return smsc.Reply{Hangup: p.Number%60 == 0} })
	secrets := &memory{}
	config := func(c *Config, _ *ports) {
		c.Secrets, c.UnknownWait, c.Grace = secrets, 300*time.Millisecond, time.Second
	}
	p := w.start(overTCP, config)
	var ids []wire.MessageID
	for i := range n {
		ids = append(ids, w.send(w.job(fmt.Sprint("text ", i))))
	}
	w.until(func() bool { return len(w.acked) > n/3 })
	server.Cut()
	if err := p.incoming(t.Context(), sms.Incoming{Route: "route", From: number(t, claimant), Text: "STOP"}); err != nil {
		t.Fatal(err)
	}
	var stopped []wire.MessageID
	for i := range 10 {
		j := w.job(fmt.Sprint("after the STOP ", i))
		j.To = number(t, claimant)
		stopped = append(stopped, w.send(j))
	}
	w.until(func() bool { return len(w.acked) > n/2 })
	p.stop()
	p = w.start(overTCP, config)
	w.until(w.allFinal(slices.Concat(ids, stopped)))
	p.stop() // from here on nobody changes the journal
	for _, id := range stopped {
		if w.told(id) != "suppressed" {
			t.Errorf("after a STOP: told %q", w.told(id))
		}
	}
	texts := map[string]int{}
	for _, m := range server.Messages() {
		texts[m.Text]++
		if m.To == claimant {
			t.Error("a text arrived after the STOP")
		}
	}
	count := map[wire.JobState]int{}
	for i, id := range ids {
		state, k := w.journal[id].State, texts[fmt.Sprint("text ", i)]
		count[state]++
		if k > 1 || state == wire.JobDelivered && k != 1 || state == wire.JobFailed && k != 0 {
			t.Errorf("text %d is %v and arrived %d times", i, state, k)
		}
	}
	t.Logf("%v", count)
}

// TestUrgentChaos: the same for one-time passwords: every one arrives. [F-5]
func TestUrgentChaos(t *testing.T) {
	const n = 20
	w := newWorld(t)
	server, overTCP := line(t, w, sms.SMPPConfig{ResponseTimeout: time.Second})
	server.Play(func(p smsc.Part) smsc.Reply { return smsc.Reply{Hangup: p.Number == 5, Silent: p.Number == 9} })
	w.start(overTCP, func(c *Config, _ *ports) { c.UnknownWait = 1200 * time.Millisecond })
	for i := range n {
		j := w.job(fmt.Sprint("code ", i))
		j.Class = wire.ClassUrgent
		w.send(j)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := server.Wait(ctx, func(m smsc.Message) bool { return m.Text == fmt.Sprint("code ", i) }); err != nil {
				t.Errorf("code %d never arrived", i)
			}
		})
	}
	wg.Wait()
}

// BenchmarkJob is one job after another, from the queue to the acknowledgement, over TCP.
func BenchmarkJob(b *testing.B) {
	w := newWorld(b)
	server, overTCP := line(b, w, sms.SMPPConfig{})
	server.Play(func(smsc.Part) smsc.Reply { return smsc.Reply{Mute: true} })
	acked := make(chan struct{}, 1)
	w.start(overTCP, func(c *Config, p *ports) { c.Events = notify{p, acked} })
	var took []time.Duration
	j := w.job("see you at eight")
	for b.Loop() {
		began := time.Now()
		w.send(j)
		<-acked
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}

type notify struct {
	*ports
	told chan struct{}
}

func (n notify) Outcome(ctx context.Context, to wire.Pseudonym, o wire.Outcome) error {
	err := n.ports.Outcome(ctx, to, o)
	n.told <- struct{}{}
	return err
}
