package sms

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	fpdu "github.com/fiorix/go-smpp/smpp/pdu"
	"github.com/fiorix/go-smpp/smpp/pdu/pdufield"
	"github.com/linxGnu/gosmpp/data"

	"bluejay/wire"
)

// peer is an SMSC at the other end of a net.Pipe, in virtual time. It speaks through fiorix's codec
// and does what its script says.
type peer struct {
	conn   net.Conn
	script func(*peer, fpdu.Body)
	turn   *sync.Mutex // the scripts of one world run one at a time
	out    chan []byte
	over   chan struct{} // closed by hangUp
}

// send queues what the peer says; a peer that waited for its reader could deadlock on a pipe.
func (p *peer) send(b fpdu.Body) {
	var buf bytes.Buffer
	_ = b.SerializeTo(&buf)
	select {
	case p.out <- buf.Bytes():
	case <-p.over:
	}
}

func (p *peer) answer(to, with fpdu.Body, status fpdu.Status) {
	with.Header().Seq, with.Header().Status = to.Header().Seq, status
	p.send(with)
}

// accept answers a submit_sm.
func (p *peer) accept(to fpdu.Body, id string, status fpdu.Status) {
	resp := fpdu.NewSubmitSMResp()
	_ = resp.Fields().Set(pdufield.MessageID, id)
	p.answer(to, resp, status)
}

// polite does what every SMSC does.
func polite(p *peer, b fpdu.Body) {
	switch b.Header().ID {
	case fpdu.BindTransceiverID:
		p.send(fpdu.NewBindTransceiverResp()) // under a number of its own, as smpptest does
	case fpdu.EnquireLinkID:
		p.answer(b, fpdu.NewEnquireLinkResp(), 0)
	case fpdu.UnbindID:
		p.answer(b, fpdu.NewUnbindResp(), 0)
	}
}

// onSubmit is polite and leaves submits to f.
func onSubmit(f func(*peer, fpdu.Body)) func(*peer, fpdu.Body) {
	return func(p *peer, b fpdu.Body) {
		if b.Header().ID == fpdu.SubmitSMID {
			f(p, b)
			return
		}
		polite(p, b)
	}
}

func (p *peer) run() {
	defer p.conn.Close()
	for {
		b, err := fpdu.Decode(p.conn)
		if err != nil {
			return
		}
		p.turn.Lock()
		p.script(p, b)
		p.turn.Unlock()
	}
}

// write sends what is queued. After the link has gone it throws away.
func (p *peer) write() {
	for {
		select {
		case b := <-p.out:
			_, _ = p.conn.Write(b)
		case <-p.over:
			return
		}
	}
}

// hangUp ends the peer; what is queued is thrown away. Scripts may still be at work.
func (p *peer) hangUp() {
	_ = p.conn.Close()
	close(p.over)
}

// world runs an SMPP transport against scripted peers. Each dial takes the next script, the last
// one over and over.
type world struct {
	*SMPP
	stop func() // ends Run and waits for it

	mu    sync.Mutex
	dials []time.Time
	peers []*peer
}

func newWorld(t *testing.T, cfg SMPPConfig, handler ReceiptHandler, scripts ...func(*peer, fpdu.Body)) *world {
	t.Helper()
	return newWorldWith(t, cfg, Handlers{Receipt: handler}, scripts...)
}

func newWorldWith(t *testing.T, cfg SMPPConfig, h Handlers, scripts ...func(*peer, fpdu.Body)) *world {
	t.Helper()
	w := &world{}
	var running sync.WaitGroup
	var turn sync.Mutex
	cfg.SystemID, cfg.Name = "me", "route"
	cfg.Dial = func(context.Context) (net.Conn, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		near, far := net.Pipe()
		p := &peer{conn: far, turn: &turn, script: scripts[min(len(w.dials), len(scripts)-1)], out: make(chan []byte, 1000), over: make(chan struct{})}
		w.dials, w.peers = append(w.dials, time.Now()), append(w.peers, p)
		running.Go(p.run)
		running.Go(p.write)
		return near, nil
	}
	smpp, err := NewSMPP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.SMPP = smpp
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- smpp.Run(ctx, h) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, p := range w.peers {
			p.hangUp()
		}
		running.Wait()
	})
	return w
}

func (w *world) last() *peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peers[len(w.peers)-1]
}

func testMessage(t testing.TB, text string) Message {
	from, err := ParseSender("Bluejay")
	if err != nil {
		t.Fatal(err)
	}
	return Message{To: mustNumber(t, testNumber), From: from, Text: text, Ref: 7}
}

func noReceipts(context.Context, Receipt) error { return nil }

// bubble runs a test in virtual time.
func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// TestOutcomes: each way a submit can end. [F-11]
func TestOutcomes(t *testing.T) {
	tests := []struct {
		name   string
		script func(*peer, fpdu.Body)
		want   Result // Late is compared by whether there is one
		after  time.Duration
	}{
		{"accepted", onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "id1", 0) }), Result{IDs: []string{"id1"}}, 0},
		{"refused for good", onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "", 0x0b) }), Result{Status: 0x0b, Class: Permanent}, 0},
		{"refused for now", onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "", 0x08) }), Result{Status: 0x08, Class: Retry}, 0},
		{"session not bound", onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "", 0x04) }), Result{Status: 0x04, Class: Rebind}, 0},
		{"nacked", onSubmit(func(p *peer, b fpdu.Body) { p.answer(b, fpdu.NewGenericNACK(), 0x03) }), Result{Status: 0x03, Class: Permanent}, 0},
		{"a nack that says OK", onSubmit(func(p *peer, b fpdu.Body) { p.answer(b, fpdu.NewGenericNACK(), 0) }), Result{Class: Permanent}, 0},
		{"no answer", onSubmit(func(*peer, fpdu.Body) {}), Result{Outcome: Unknown, Err: ErrNoAnswer}, 10 * time.Second},
		{"link lost after writing", onSubmit(func(p *peer, _ fpdu.Body) { _ = p.conn.Close() }), Result{Outcome: Unknown, Err: ErrLinkLost}, 0},
		{"answer under a wrong number", onSubmit(func(p *peer, b fpdu.Body) { b.Header().Seq += 9; p.accept(b, "x", 0) }), Result{Outcome: Unknown, Err: ErrNoAnswer}, 10 * time.Second},
		{"the empty id", onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "", 0) }), Result{IDs: []string{""}}, 0},
		{"a monstrous id", onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, strings.Repeat("9", 65), 0) }), Result{IDs: []string{""}}, 0},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, SMPPConfig{}, noReceipts, tt.script)
			defer w.stop()
			began := time.Now()
			got := w.Submit(t.Context(), testMessage(t, testText))
			if (got.Late != nil) != (got.Outcome == Unknown) {
				t.Errorf("%v has a late answer: %t", got.Outcome, got.Late != nil)
			}
			if got.Outcome != tt.want.Outcome || got.Status != tt.want.Status || got.Class != tt.want.Class ||
				!slices.Equal(got.IDs, tt.want.IDs) || !errors.Is(got.Err, tt.want.Err) {
				t.Errorf("Submit: %v %v %v %q %v; want %v %v %v %q %v", got.Outcome, got.Status, got.Class, got.IDs, got.Err,
					tt.want.Outcome, tt.want.Status, tt.want.Class, tt.want.IDs, tt.want.Err)
			}
			if d := time.Since(began); d != tt.after {
				t.Errorf("it took %v, want %v", d, tt.after)
			}
		})
	}
}

// TestLateAnswer: an answer after the timeout still reaches who waits for it; without one the
// channel closes. [F-11]
func TestLateAnswer(t *testing.T) {
	bubble(t, "comes", func(t *testing.T) {
		var asked fpdu.Body
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(_ *peer, b fpdu.Body) { asked = b }))
		defer w.stop()
		r := w.Submit(t.Context(), testMessage(t, testText))
		wait(t.Context(), 20*time.Second)
		synctest.Wait()
		w.last().accept(asked, "late", 0)
		if a, ok := <-r.Late; !ok || a.ID != "late" || a.Class != Accepted {
			t.Errorf("late answer %+v, %t", a, ok)
		}
	})
	bubble(t, "never comes", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(*peer, fpdu.Body) {}))
		defer w.stop()
		r := w.Submit(t.Context(), testMessage(t, testText))
		began := time.Now()
		if _, ok := <-r.Late; ok || time.Since(began) < lateFor || time.Since(began) > 2*lateFor {
			t.Errorf("an answer: %t, given up after %v", ok, time.Since(began))
		}
	})
	bubble(t, "link lost meanwhile", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(*peer, fpdu.Body) {}))
		defer w.stop()
		r := w.Submit(t.Context(), testMessage(t, testText))
		_ = w.last().conn.Close()
		if _, ok := <-r.Late; ok {
			t.Error("an answer over a lost link")
		}
	})
}

// TestNotSent: nothing left this machine whole. [F-11]
func TestNotSent(t *testing.T) {
	bubble(t, "no link in time", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, func(*peer, fpdu.Body) {})
		defer w.stop()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if r := w.Submit(ctx, testMessage(t, testText)); r.Outcome != NotSent || !errors.Is(r.Err, ErrNoLink) {
			t.Errorf("without a link: %v, %v", r.Outcome, r.Err)
		}
	})
	bubble(t, "half a PDU left", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, func(p *peer, b fpdu.Body) {
			polite(p, b)
			_, _ = p.conn.Read(make([]byte, 20))
			_ = p.conn.Close()
		})
		defer w.stop()
		if r := w.Submit(t.Context(), testMessage(t, testText)); r.Outcome != NotSent || !errors.Is(r.Err, ErrNoLink) {
			t.Errorf("half a PDU: %v, %v", r.Outcome, r.Err)
		}
	})
	bubble(t, "no place in the window", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{Window: 1, ResponseTimeout: time.Hour}, noReceipts, onSubmit(func(*peer, fpdu.Body) {}))
		defer w.stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		outcomes := make(chan Outcome, 2)
		for range 2 {
			go func() { outcomes <- w.Submit(ctx, testMessage(t, testText)).Outcome }()
		}
		got := []Outcome{<-outcomes, <-outcomes}
		slices.Sort(got)
		if !slices.Equal(got, []Outcome{NotSent, Unknown}) {
			t.Errorf("outcomes %v, want one unknown and one not sent", got)
		}
	})
	bubble(t, "its time was over before it was written", func(t *testing.T) {
		written := 0
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(*peer, fpdu.Body) { written++ }))
		defer w.stop()
		late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		r := w.Submit(stoodStill{late}, testMessage(t, testText))
		if r.Outcome != NotSent || !errors.Is(r.Err, ErrNoLink) || written != 0 {
			t.Errorf("after its time: %v, %v, %d written", r.Outcome, r.Err, written)
		}
	})
	bubble(t, "too long", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, polite)
		defer w.stop()
		r := w.Submit(t.Context(), testMessage(t, strings.Repeat("a", 1000)))
		if r.Outcome != NotSent || r.Class != Permanent || !errors.Is(r.Err, ErrTooLong) {
			t.Errorf("seven parts: %v %v %v", r.Outcome, r.Class, r.Err)
		}
	})
}

// stoodStill is a context of a process that stood still: its time is over, and nobody has said so yet.
type stoodStill struct{ context.Context }

func (stoodStill) Done() <-chan struct{} { return nil }
func (stoodStill) Err() error            { return nil }

// TestParts: a text stops at the first part that is not accepted and goes on from there.
func TestParts(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := 0
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(p *peer, b fpdu.Body) {
			n++
			status := fpdu.Status(0)
			if n == 2 {
				status = 0x08
			}
			p.accept(b, string(rune('a'+n-1)), status)
		}))
		defer w.stop()
		m := testMessage(t, strings.Repeat("a", 400))
		r := w.Submit(t.Context(), m)
		if r.Class != Retry || !slices.Equal(r.IDs, []string{"a"}) {
			t.Fatalf("first attempt: %v, ids %q", r.Class, r.IDs)
		}
		m.Done = len(r.IDs)
		if r = w.Submit(t.Context(), m); r.Class != Accepted || !slices.Equal(r.IDs, []string{"c", "d"}) || n != 4 {
			t.Errorf("second attempt: %v, ids %q, %d submits; want the two parts that were left", r.Class, r.IDs, n)
		}
	})
}

// TestThrottle: a throttled part is sent again after a pause, and counts once. [F-15]
func TestThrottle(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n := 0
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(p *peer, b fpdu.Body) {
			if n++; n <= 3 {
				p.accept(b, "", []fpdu.Status{0x58, 0x14, 0x58}[n-1])
				return
			}
			p.accept(b, "ok", 0)
		}))
		defer w.stop()
		began := time.Now()
		r := w.Submit(t.Context(), testMessage(t, testText))
		if d := time.Since(began); r.Class != Accepted || len(r.IDs) != 1 || d < 3*throttlePause {
			t.Errorf("after three throttling answers: %v, %d ids, %v", r.Class, len(r.IDs), d)
		}
	})
	bubble(t, "until ctx ends", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "", 0x58) }))
		defer w.stop()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if r := w.Submit(ctx, testMessage(t, testText)); r.Outcome == Unknown || r.Outcome == Answered && r.Class == Accepted {
			t.Errorf("throttled for ever: %v %v", r.Outcome, r.Class)
		}
	})
}

// TestBinding: how binds fail and how soon they are tried again.
func TestBinding(t *testing.T) {
	refuse := func(status byte) func(*peer, fpdu.Body) {
		return func(p *peer, _ fpdu.Body) { // a header alone, as many SMSCs refuse
			p.out <- []byte{0, 0, 0, 16, 0x80, 0, 0, 9, 0, 0, 0, status, 0, 0, 0, 1}
		}
	}
	tests := []struct {
		name     string
		script   func(*peer, fpdu.Body)
		min, max time.Duration // between the first dials
	}{
		{"silent", func(*peer, fpdu.Body) {}, 10*time.Second + firstPause, 12 * time.Second},
		{"hangs up", func(p *peer, _ fpdu.Body) { _ = p.conn.Close() }, firstPause, time.Second},
		{"wrong password", refuse(0x0e), time.Minute, 61 * time.Second},
		{"wrong system id", refuse(0x0f), time.Minute, 61 * time.Second},
		{"bind failed", refuse(0x0d), time.Minute, 61 * time.Second},
		{"system error", refuse(0x08), firstPause, time.Second},
		{"rubbish", func(p *peer, _ fpdu.Body) { p.out <- []byte("HTTP/1.1 400 Bad Request") }, firstPause, time.Second},
		{"another answer", func(p *peer, _ fpdu.Body) { p.send(fpdu.NewEnquireLink()) }, firstPause, time.Second},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, SMPPConfig{}, noReceipts, tt.script, polite)
			defer w.stop()
			wait(t.Context(), 2*time.Minute)
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.dials) != 2 {
				t.Fatalf("%d dials, want a second, good one", len(w.dials))
			}
			if d := w.dials[1].Sub(w.dials[0]); d < tt.min || d > tt.max {
				t.Errorf("bound again after %v, want %v to %v", d, tt.min, tt.max)
			}
		})
	}
}

// TestPausesGrow: an SMSC that is down is left alone more and more.
func TestPausesGrow(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, func(p *peer, _ fpdu.Body) { _ = p.conn.Close() })
		wait(t.Context(), 10*time.Minute)
		w.stop()
		if n := len(w.dials); n < 15 || n > 30 {
			t.Errorf("%d binds in ten minutes", n)
		}
	})
}

// TestLiveness: a link that says nothing is given up, a lively one is not.
func TestLiveness(t *testing.T) {
	bubble(t, "dead", func(t *testing.T) {
		dead := func(p *peer, b fpdu.Body) {
			if b.Header().ID == fpdu.BindTransceiverID {
				polite(p, b)
			}
		}
		w := newWorld(t, SMPPConfig{EnquireLink: 30 * time.Second}, noReceipts, dead, polite)
		wait(t.Context(), 5*time.Minute)
		w.stop()
		if len(w.dials) != 2 || w.dials[1].Sub(w.dials[0]) > 62*time.Second {
			t.Errorf("dials at %v, want a second within 62 s", w.dials)
		}
	})
	bubble(t, "alive", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, polite)
		wait(t.Context(), time.Hour)
		w.stop()
		if len(w.dials) != 1 {
			t.Errorf("%d dials in an hour", len(w.dials))
		}
	})
	bubble(t, "the SMSC asks and unbinds", func(t *testing.T) {
		answers := map[fpdu.ID]int{}
		count := func(p *peer, b fpdu.Body) { answers[b.Header().ID]++; polite(p, b) }
		w := newWorld(t, SMPPConfig{}, noReceipts, count)
		synctest.Wait()
		p := w.last()
		p.send(fpdu.NewEnquireLink())
		synctest.Wait()
		p.send(fpdu.NewUnbind())
		wait(t.Context(), time.Minute)
		w.stop()
		if answers[fpdu.EnquireLinkRespID] != 1 || answers[fpdu.UnbindRespID] != 1 || answers[fpdu.BindTransceiverID] != 2 {
			t.Errorf("the SMSC got %v", answers)
		}
	})
}

// TestRebindStatus: an SMSC that says "not bound" gets a new session.
func TestRebindStatus(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t, SMPPConfig{}, noReceipts, onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "", 0x04) }),
			onSubmit(func(p *peer, b fpdu.Body) { p.accept(b, "ok", 0) }))
		defer w.stop()
		if r := w.Submit(t.Context(), testMessage(t, testText)); r.Class != Rebind {
			t.Fatalf("first: %v", r.Class)
		}
		synctest.Wait()
		if r := w.Submit(t.Context(), testMessage(t, testText)); r.Class != Accepted || len(r.IDs) != 1 {
			t.Errorf("on the new session: %v %v", r.Outcome, r.Class)
		}
	})
}

// receiptPDU is a receipt through fiorix's codec.
func receiptPDU(id string) fpdu.Body {
	p := fpdu.NewDeliverSM()
	f := p.Fields()
	_ = f.Set(pdufield.SourceAddr, testNumber[1:])
	_ = f.Set(pdufield.ESMClass, 0x04)
	_ = f.Set(pdufield.ShortMessage, "id:"+id+" stat:DELIVRD")
	f[pdufield.UDHLength], f[pdufield.GSMUserData] = &pdufield.SM{}, &pdufield.SM{}
	return p
}

// statuses collects how deliver_sm are answered.
func statuses(got *[]fpdu.Status) func(*peer, fpdu.Body) {
	return func(p *peer, b fpdu.Body) {
		if id := b.Header().ID; id == fpdu.DeliverSMRespID || id == fpdu.GenericNACKID {
			*got = append(*got, b.Header().Status)
		}
		polite(p, b)
	}
}

// TestReceiptStoredFirst: the SMSC hears "received" only after the handler has stored it. [F-14]
func TestReceiptStoredFirst(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var got []fpdu.Status
		var stored []Receipt
		var fail error = errors.New("journal down")
		release := make(chan struct{})
		w := newWorld(t, SMPPConfig{}, func(_ context.Context, r Receipt) error {
			<-release
			stored = append(stored, r)
			return fail
		}, statuses(&got))
		defer w.stop()
		synctest.Wait()
		w.last().send(receiptPDU("a1"))
		wait(t.Context(), time.Second)
		if len(got) != 0 {
			t.Fatalf("answered %v before it was stored", got)
		}
		release <- struct{}{}
		synctest.Wait()
		fail = nil
		close(release)
		w.last().send(receiptPDU("a1"))
		synctest.Wait()
		if !slices.Equal(got, []fpdu.Status{0x64, 0}) {
			t.Errorf("answered %v, want try again, then received", got)
		}
		want := Receipt{Route: "route", ID: "a1", To: mustNumber(t, testNumber), State: wire.JobDelivered}
		if len(stored) != 2 || stored[0] != want {
			t.Errorf("stored %d, right: %t", len(stored), len(stored) > 0 && stored[0] == want)
		}
	})
}

// TestReceiptBacklog: when receipts cannot be stored fast enough the SMSC is told to wait, and
// submits still get their answers. [F-14]
func TestReceiptBacklog(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var got []fpdu.Status
		release := make(chan struct{})
		collect := statuses(&got)
		w := newWorld(t, SMPPConfig{}, func(context.Context, Receipt) error { <-release; return nil }, func(p *peer, b fpdu.Body) {
			if b.Header().ID == fpdu.SubmitSMID {
				p.accept(b, "ok", 0)
				return
			}
			collect(p, b)
		})
		defer w.stop()
		synctest.Wait()
		const sent = storeBacklog + storers + 10
		for range sent {
			w.last().send(receiptPDU("a"))
			synctest.Wait()
		}
		if len(got) != 10 || got[0] != 0x64 {
			t.Errorf("%d receipts answered %v while none is stored, want the ten above the backlog with 0x64", len(got), got)
		}
		if r := w.Submit(t.Context(), testMessage(t, testText)); r.Class != Accepted {
			t.Errorf("a submit behind the backlog: %v", r.Outcome)
		}
		close(release)
		synctest.Wait()
		if len(got) != sent {
			t.Errorf("%d of %d answered in the end", len(got), sent)
		}
	})
}

// TestOddPDUs: what is no receipt is refused for good, an unknown request is nacked, an unknown
// response is passed over, and the link stays up. [F-14]
func TestOddPDUs(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var got []fpdu.Status
		w := newWorld(t, SMPPConfig{}, noReceipts, statuses(&got))
		defer w.stop()
		synctest.Wait()
		say := func(b ...byte) {
			t.Helper()
			w.last().out <- append([]byte{0, 0, 0, byte(4 + len(b))}, b...)
			synctest.Wait()
		}
		say(0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 'x') // a broken deliver_sm
		say(0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 2)      // data_sm
		say(0x80, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 3)   // data_sm_resp
		say(panicking[4:]...)                        // what the codec panics on
		text := receiptPDU("x")                      // a text from a phone
		_ = text.Fields().Set(pdufield.ESMClass, 0)
		w.last().send(text)
		wait(t.Context(), time.Minute)
		synctest.Wait()
		if want := []fpdu.Status{0x65, 0x03, 0x03, 0x65}; !slices.Equal(got, want) || len(w.dials) != 1 {
			t.Errorf("answered %v over %d links, want %v over one", got, len(w.dials), want)
		}
	})
}

// TestShutdown: Run unbinds, and ends soon even when the SMSC does not answer.
func TestShutdown(t *testing.T) {
	for name, script := range map[string]func(*peer, fpdu.Body){
		"polite": polite,
		"rude": func(p *peer, b fpdu.Body) {
			if b.Header().ID != fpdu.UnbindID {
				polite(p, b)
			}
		},
	} {
		bubble(t, name, func(t *testing.T) {
			unbinds := 0
			w := newWorld(t, SMPPConfig{}, noReceipts, func(p *peer, b fpdu.Body) {
				if b.Header().ID == fpdu.UnbindID {
					unbinds++
				}
				script(p, b)
			})
			synctest.Wait()
			began := time.Now()
			w.stop()
			if d := time.Since(began); unbinds != 1 || d > unbindTimeout {
				t.Errorf("%d unbinds, stopped after %v", unbinds, d)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if r := w.Submit(ctx, testMessage(t, testText)); r.Outcome != NotSent {
				t.Errorf("a submit after the end: %v", r.Outcome)
			}
		})
	}
}

// TestSequence: numbers stay within SMPP's range.
func TestSequence(t *testing.T) {
	s := &session{seq: 0x7ffffffe}
	if a, b := s.next(), s.next(); a != 0x7fffffff || b != 1 {
		t.Errorf("after 0x7ffffffe come %#x and %#x", a, b)
	}
	if data.SUBMIT_SM != 4 {
		t.Error("submit_sm is 4")
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]SMPPConfig{
		"empty": {}, "no system id": {Addr: "x:1"}, "no address": {SystemID: "x"},
		"long password": {Addr: "x:1", SystemID: "x", Password: "123456789"}, "long id": {Addr: "x:1", SystemID: strings.Repeat("x", 16)},
	} {
		if _, err := NewSMPP(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s, err := NewSMPP(SMPPConfig{Addr: "x:1", SystemID: "x"})
	if err != nil || s.Route() != "x:1" || s.cfg.Window != 10 || s.cfg.RefusedPause != time.Minute {
		t.Errorf("defaults: %v, %v", s, err)
	}
}
