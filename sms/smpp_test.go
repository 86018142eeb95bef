package sms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bluejay/sms"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

const recipient = "+447700900123"

// line is an SMPP transport over TCP to an SMSC that others wrote.
type line struct {
	*sms.SMPP
	smsc *smsc.Server

	stored  chan sms.Receipt
	failing atomic.Int32 // how many receipts to refuse
}

func newLine(t testing.TB, cfg sms.SMPPConfig) *line {
	t.Helper()
	server, err := smsc.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	cfg.Addr, cfg.SystemID, cfg.Password = server.Addr(), smsc.SystemID, smsc.Password
	smpp, err := sms.NewSMPP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{SMPP: smpp, smsc: server, stored: make(chan sms.Receipt, 10_000)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := smpp.Run(ctx, sms.Handlers{Receipt: l.receipt}); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return l
}

func (l *line) receipt(_ context.Context, r sms.Receipt) error {
	if l.failing.Add(-1) >= 0 {
		return errors.New("journal down")
	}
	l.stored <- r
	return nil
}

// got waits until n more receipts have been stored.
func (l *line) got(t testing.TB, n int) []sms.Receipt {
	t.Helper()
	var have []sms.Receipt
	deadline := time.After(30 * time.Second)
	for len(have) < n {
		select {
		case r := <-l.stored:
			have = append(have, r)
		case <-deadline:
			t.Fatalf("%d receipts, want %d", len(have), n)
		}
	}
	return have
}

func message(t testing.TB, text string) sms.Message {
	t.Helper()
	to, err := wire.ParseNumber(recipient)
	if err != nil {
		t.Fatal(err)
	}
	from, err := sms.ParseSender("Bluejay")
	if err != nil {
		t.Fatal(err)
	}
	return sms.Message{To: to, From: from, Text: text, Ref: 0x0142, ValidUntil: time.Now().Add(time.Hour)}
}

// texts a phone must show as they were written. [F-3]
var texts = map[string]string{
	"plain":              "see you at eight",
	"whole alphabet":     "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà",
	"extension":          "^{}\\[~]|€",
	"long GSM":           strings.Repeat("all work and no play € ", 35),
	"Cyrillic":           "увидимся в восемь",
	"long with emoji":    strings.Repeat("увидимся 😀", 18),
	"exactly 160":        strings.Repeat("a", 160),
	"escape at the edge": strings.Repeat("a", 152) + "€" + strings.Repeat("b", 152) + "€",
	"empty":              "",
}

func TestTextsArrive(t *testing.T) {
	l := newLine(t, sms.SMPPConfig{})
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			m := message(t, text)
			parts, _ := wire.SMSParts(text)
			if r := l.Submit(t.Context(), m); r.Outcome != sms.Answered || r.Class != sms.Accepted || len(r.IDs) != parts {
				t.Fatalf("Submit: %v %v, %d ids of %d parts, %v", r.Outcome, r.Class, len(r.IDs), parts, r.Err)
			}
			got, err := l.smsc.Wait(t.Context(), func(m smsc.Message) bool { return m.Text == text })
			want := smsc.Message{To: recipient, From: "Bluejay", Text: text, Parts: parts, Receipt: true}
			ignore := cmpopts.IgnoreFields(smsc.Message{}, "At", "Validity")
			if diff := cmp.Diff(want, got, ignore); err != nil || diff != "" {
				t.Errorf("the phone got (-want +got) %v:\n%s", err, diff)
			}
			if got.Validity < "000000005950000R" || got.Validity > "000000010000000R" {
				t.Errorf("validity %q, want about an hour", got.Validity)
			}
		})
	}
}

// TestReceiptsArrive: one for each part, in either form, with the ids that Submit returned. [F-14]
func TestReceiptsArrive(t *testing.T) {
	for _, bare := range []bool{false, true} {
		t.Run(fmt.Sprintf("bare=%t", bare), func(t *testing.T) {
			l := newLine(t, sms.SMPPConfig{Name: "uk"})
			l.smsc.Play(func(p smsc.Part) smsc.Reply {
				return smsc.Reply{Bare: bare, Early: p.Index == 2, Receipt: []string{"DELIVRD", "UNDELIV", "EXPIRED"}[p.Index-1]}
			})
			r := l.Submit(t.Context(), message(t, strings.Repeat("a", 400)))
			states := map[string]wire.JobState{}
			for _, rec := range l.got(t, 3) {
				states[rec.ID] = rec.State
				if rec.Route != "uk" || rec.To != message(t, "").To {
					t.Errorf("route %q, number right: %t", rec.Route, rec.To == message(t, "").To)
				}
			}
			want := map[string]wire.JobState{r.IDs[0]: wire.JobDelivered, r.IDs[1]: wire.JobUndeliverable, r.IDs[2]: wire.JobExpired}
			if diff := cmp.Diff(want, states); diff != "" {
				t.Errorf("receipts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReceiptRepeated: what could not be stored comes again until it is. [F-14]
func TestReceiptRepeated(t *testing.T) {
	l := newLine(t, sms.SMPPConfig{})
	l.failing.Store(3)
	l.Submit(t.Context(), message(t, "x"))
	l.got(t, 1)
	if left := l.failing.Load(); left != -1 {
		t.Errorf("%d refusals left", left)
	}
}

// TestManyAtOnce: a thousand texts through one window; every one arrives once, every answer finds
// its submit. This is what the library's own client got wrong at window 10.
func TestManyAtOnce(t *testing.T) {
	const n = 1000
	l := newLine(t, sms.SMPPConfig{Rate: 1e6})
	ids := make([]string, n)
	var wg sync.WaitGroup
	began := time.Now()
	for w := range 10 {
		wg.Go(func() {
			for i := w; i < n; i += 10 {
				r := l.Submit(t.Context(), message(t, fmt.Sprint("text ", i)))
				if r.Outcome != sms.Answered || r.Class != sms.Accepted || len(r.IDs) != 1 {
					t.Errorf("text %d: %v %v %v", i, r.Outcome, r.Class, r.Err)
					return
				}
				ids[i] = r.IDs[0]
			}
		})
	}
	wg.Wait()
	t.Logf("%.0f submits a second at window 10", n/time.Since(began).Seconds())
	slices.Sort(ids)
	if len(slices.Compact(ids)) != n {
		t.Errorf("an answer reached two submits")
	}
	seen := map[string]int{}
	for _, m := range l.smsc.Messages() {
		seen[m.Text]++
	}
	for i := range n {
		if k := seen[fmt.Sprint("text ", i)]; k != 1 {
			t.Errorf("text %d arrived %d times", i, k)
		}
	}
	l.got(t, n)
}

// TestLinkCut: with the link cut again and again, what Submit calls accepted arrived once, what it
// calls not sent did not arrive, and only what it calls unknown may be either. [F-11]
func TestLinkCut(t *testing.T) {
	const n = 120
	l := newLine(t, sms.SMPPConfig{ResponseTimeout: 2 * time.Second})
	l.smsc.Play(func(p smsc.Part) smsc.Reply { return smsc.Reply{Hangup: p.Number%50 == 0, Mute: true} })
	results := make([]sms.Result, n)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				results[i] = l.Submit(t.Context(), message(t, fmt.Sprint("text ", i)))
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, m := range l.smsc.Messages() {
		seen[m.Text]++
	}
	count := map[sms.Outcome]int{}
	for i, r := range results {
		k := seen[fmt.Sprint("text ", i)]
		count[r.Outcome]++
		switch {
		case r.Outcome == sms.Answered && k != 1, r.Outcome == sms.NotSent && k != 0, k > 1:
			t.Errorf("text %d is %v and arrived %d times", i, r.Outcome, k)
		}
	}
	t.Logf("answered %d, not sent %d, unknown %d", count[sms.Answered], count[sms.NotSent], count[sms.Unknown])
	if count[sms.Unknown] == 0 || count[sms.Answered] < n/2 {
		t.Errorf("outcomes %v: the cuts hit nothing, or everything", count)
	}
}

// TestThrottledSMSC: an SMSC with a small cap gets every text once, and few more than it takes. [F-15]
func TestThrottledSMSC(t *testing.T) {
	l := newLine(t, sms.SMPPConfig{})
	rejected := 0
	l.smsc.Play(func(p smsc.Part) smsc.Reply {
		if p.Number == 3 || p.Number == 4 {
			rejected++
			return smsc.Reply{Status: 0x58}
		}
		return smsc.Reply{}
	})
	for i := range 6 {
		if r := l.Submit(t.Context(), message(t, fmt.Sprint(i))); r.Class != sms.Accepted {
			t.Errorf("text %d: %v", i, r.Class)
		}
	}
	if got := len(l.smsc.Messages()); got != 6 || l.smsc.Submits() != 8 {
		t.Errorf("%d texts of %d submits, want 6 of 8", got, l.smsc.Submits())
	}
}

// watchedLog keeps a log and tells when a word is in it.
type watchedLog struct {
	word  string
	found chan struct{} // closed then

	mu sync.Mutex
	b  bytes.Buffer
}

func (l *watchedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.Contains(l.b.String(), l.word) && bytes.Contains(p, []byte(l.word)) {
		close(l.found)
	}
	return l.b.Write(p)
}

// TestWrongPassword: smpptest hangs up without an answer; nothing is sent and nothing is logged that
// should not be.
func TestWrongPassword(t *testing.T) {
	server, err := smsc.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	log := &watchedLog{word: "no link", found: make(chan struct{})}
	l, err := sms.NewSMPP(sms.SMPPConfig{
		Addr: server.Addr(), SystemID: smsc.SystemID, Password: "hunter22", Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	run, end := context.WithCancel(t.Context())
	defer end()
	submit, giveUp := context.WithTimeout(t.Context(), 30*time.Second)
	defer giveUp()
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(run, sms.Handlers{Receipt: func(context.Context, sms.Receipt) error { return nil }}) })
	wg.Go(func() {
		select {
		case <-log.found:
			giveUp()
		case <-submit.Done():
		}
	})
	if r := l.Submit(submit, message(t, "secret text")); r.Outcome != sms.NotSent {
		t.Errorf("with a wrong password: %v", r.Outcome)
	}
	end()
	wg.Wait()
	if s := log.b.String(); !strings.Contains(s, "no link") || strings.Contains(s, "hunter22") || strings.Contains(s, "secret") {
		t.Errorf("log: %s", s)
	}
}

// BenchmarkSubmit is one text after another over TCP on this machine.
func BenchmarkSubmit(b *testing.B) {
	l := newLine(b, sms.SMPPConfig{Rate: 1e6})
	l.smsc.Play(func(smsc.Part) smsc.Reply { return smsc.Reply{Mute: true} })
	m := message(b, "see you at eight")
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if r := l.Submit(b.Context(), m); r.Class != sms.Accepted {
			b.Fatal(r.Outcome)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}
