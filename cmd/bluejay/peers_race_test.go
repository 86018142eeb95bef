//go:build integration

package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// TestPeersStop: STOP from a phone while texts to it wait for their next try: what was queued does not
// go, neither does a one-time password, and nothing queued later. Others' texts go on. [F-17] [F-18]
func TestPeersStop(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, ""))
	b.work()
	b.becomes(b.queue(number(1), "a first text", wire.ClassNormal), "delivered")
	waiting := b.queue(number(1), "[first=0x08*4] was queued before", wire.ClassNormal)
	password := b.queue(number(1), "[first=0x08*4] 123456 is the password", wire.ClassUrgent)
	other := b.queue(number(2), "[first=0x08*2] somebody else's", wire.ClassNormal)
	until(t, "each was tried", func() bool {
		return s.tries("queued before") > 0 && s.tries("password") > 0 && s.tries("somebody") > 0
	})
	s.tell("say " + number(1)[1:] + " 12345 Please stop texting me")
	b.figure(`bluejay_sms_suppressions_total{keyword="stop"} 1`)
	tried := s.tries("before") + s.tries("password")
	b.becomes(waiting, "suppressed")
	b.settles(password, "suppressed")
	b.becomes(b.queue(number(1), "after STOP", wire.ClassNormal), "suppressed")
	b.becomes(other, "delivered")
	if n := s.tries("before") + s.tries("password") + s.tries("after STOP"); n != tried {
		t.Errorf("%d tries after STOP", n-tried)
	}
	if s.accepted("before") != 0 || s.accepted("password") != 0 {
		t.Error("a text went after STOP")
	}
}

// TestPeersCancelRace: the sender takes a text back at the moment in which a worker begins it, hundreds
// of times: either nobody sends it, or the sender is told that it is too late and it is sent once. [F-10]
func TestPeersCancelRace(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, ""))
	b.work()
	texts := amount("BLUEJAY_CANCELS", 400)
	ids, won := make([]wire.MessageID, texts), make([]bool, texts)
	taken := 0
	for i, wait := 0, time.Millisecond; i < texts; i++ {
		var err error
		if ids[i], err = b.tryQueue(senderOf(i), number(i), fmt.Sprintf("text <%d>", i), wire.ClassNormal); err != nil {
			t.Fatal(err)
		}
		<-time.After(wait)
		if won[i], err = b.broker.Jobs().Cancel(bounded(t), ids[i]); err != nil {
			t.Fatal(err)
		}
		if won[i] { // keep to the moment, however fast the machine is
			taken++
			wait = wait * 9 / 8
		} else {
			wait = max(wait*8/9, 50*time.Microsecond)
		}
	}
	b.becomes(b.queue(number(9000), "after all", wire.ClassNormal), "delivered")
	for i, id := range ids {
		text := fmt.Sprintf("<%d>", i)
		if !won[i] {
			b.becomes(id, "delivered")
		}
		if n := s.tries(text); won[i] && n != 0 || !won[i] && n != 1 {
			t.Errorf("text %d, taken back: %v, was sent %d times", i, won[i], n)
		}
		if again, err := b.broker.Jobs().Cancel(bounded(t), id); again != won[i] || err != nil {
			t.Errorf("text %d, asked again: %v, %v; want %v", i, again, err, won[i])
		}
	}
	t.Logf("%d of %d taken back in time", taken, texts)
	if taken < texts/20 || taken > texts*19/20 {
		t.Error("this was no race")
	}
}

// TestPeersTurnsBlue: a handset's text waits as an SMS job, and its recipient turns blue just before a
// worker submits it. The phone takes the job back and sends over IP, or it is too late and the SMS goes:
// exactly one of the two, each time. [F-10] [F-7]
func TestPeersTurnsBlue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--deadline", "30s").start() // after it a text that was delivered may go as an SMS, too
	alice, bob := w.pair()
	worker, ok := w.at.Children["worker"]
	if !ok {
		t.Fatal("no worker among the children")
	}
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(worker, s); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { _ = syscall.Kill(worker, syscall.SIGCONT) }) // after a failure
	rounds := amount("BLUEJAY_TURNS", 20)                           // 30 SMS a day to one number
	overIP, last := 0, false
	lead, step := 20*time.Millisecond, 5*time.Millisecond // of bob before the worker; negative: of the worker
	for i := range rounds {
		if err := bob.Disconnect(bounded(t)); err != nil {
			t.Fatal(err)
		}
		until(t, "bob is grey", func() bool { return alice.Contacts()[0].Colour == handset.Grey })
		signal(syscall.SIGSTOP) // it neither begins a job nor gives up its place
		text := fmt.Sprintf("text <%d>", i)
		id := alice.send(text)
		goes := time.AfterFunc(max(lead, 0), func() { signal(syscall.SIGCONT) })
		<-time.After(max(-lead, 0))
		if err := bob.Connect(bounded(t)); err != nil {
			t.Fatal(err)
		}
		alice.becomes(id, handset.Delivered, handset.SMSDelivered)
		goes.Stop()
		signal(syscall.SIGCONT)
		ip, sms := shows(bob.Texts(bob.contact), text), 0
		for _, m := range w.smsc.Messages() {
			if m.To == bobNumber && strings.Contains(m.Text, text) {
				sms++
			}
		}
		if state := stateOf(alice, id); ip == (sms > 0) || sms > 1 || ip != (state == handset.Delivered) {
			t.Errorf("text %d: over IP %v, as SMS %d, and alice's phone says %v", i, ip, sms, state)
		}
		if ip {
			overIP++
		}
		switch { // find the moment, however fast the machine is, then keep to it
		case overIP == 0 || overIP == i+1:
			step = min(2*step, 5*time.Second)
		case ip != last:
			step = max(step/2, time.Millisecond)
		}
		if last = ip; ip {
			lead -= step
		} else {
			lead += step
		}
		until(t, "bob is blue", func() bool { return alice.Contacts()[0].Colour == handset.Blue })
	}
	t.Logf("%d of %d went over IP", overIP, rounds)
	if overIP == 0 || overIP == rounds {
		t.Error("this was no race")
	}
	w.stop()
}

func stateOf(p *phone, id handset.TextID) handset.State {
	for _, t := range p.Texts(p.contact) {
		if t.ID == id {
			return t.State
		}
	}
	return handset.Waiting
}

// TestPeersQueueFull: with no worker, a sender's jobs pile up until the queue refuses one. Other senders
// and one-time passwords are not held up; what was refused is not sent, and passes when there is room;
// what was taken goes once. [C-4]
func TestPeersQueueFull(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	b := newBench(t, smppRoutes(t, s.port, "window = 50\n"))
	b.work().kill9() // for its key
	const full = 1000
	ids := make([]wire.MessageID, full)
	var lanes sync.WaitGroup
	for lane := range 16 {
		lanes.Go(func() {
			for i := lane; i < full; i += 16 {
				var err error
				if ids[i], err = b.tryQueue(b.sender, number(i), fmt.Sprintf("text <%d>", i), wire.ClassNormal); err != nil {
					t.Errorf("text %d: %v", i, err)
				}
			}
		})
	}
	lanes.Wait()
	refused, err := b.seal(number(5000), "one too many", wire.ClassNormal)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := b.enqueue(b.sender, refused, wire.ClassNormal); !errors.Is(err, wire.QueueFull) {
			t.Fatalf("%v, want that the queue is full", err)
		}
	}
	other, err := b.tryQueue(wire.Pseudonym{2}, number(5001), "another sender's", wire.ClassNormal)
	if err != nil {
		t.Fatal(err)
	}
	password := b.queue(number(5002), "a password", wire.ClassUrgent)

	b.work()
	b.settles(password, "delivered")
	b.becomes(other, "delivered")
	b.ends(ids, longTime, "delivered")
	if n := s.tries("one too many"); n != 0 {
		t.Errorf("what was refused was sent %d times", n)
	}
	if err := b.enqueue(b.sender, refused, wire.ClassNormal); err != nil {
		t.Fatalf("there is room, and yet: %v", err)
	}
	b.becomes(wire.MessageIDOf(refused), "delivered")
	if n := s.tries(""); n != full+3 {
		t.Errorf("%d submits for %d texts", n, full+3)
	}
}
