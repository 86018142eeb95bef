package worker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bluejay/sms"
	"bluejay/wire"
)

// TestNoReceipt: an hour after its expiry a submitted job without a receipt is no_receipt, whoever
// looks, and stays it. [F-7] [F-24]
func TestNoReceipt(t *testing.T) {
	for _, workers := range []int{1, 2} {
		bubble(t, fmt.Sprint(workers, " workers"), func(t *testing.T) {
			w := newWorld(t)
			secrets := &memory{}
			var all []*process
			for range workers {
				all = append(all, w.start(func(c *Config, _ *ports) { c.Secrets = secrets }))
			}
			id := w.send(w.job(secret)) // expires in an hour
			w.wait(time.Second)
			long := w.send(w.job(strings.Repeat("a", 200)))
			w.wait(time.Second)
			if err := w.say("id2.0", recipient, wire.JobDelivered); err != nil { // of two parts
				t.Fatal(err)
			}
			w.wait(119*time.Minute - time.Second)
			if w.told(id) != "submitted" {
				t.Errorf("told %q within the hour", w.told(id))
			}
			w.wait(11 * time.Minute)
			for _, job := range []wire.MessageID{id, long} {
				if w.told(job) != "submitted no_receipt" || w.journal[job].State != wire.JobNoReceipt {
					t.Errorf("told %q", w.told(job))
				}
			}
			if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
				t.Fatal(err)
			}
			w.wait(time.Hour)
			if w.told(id) != "submitted no_receipt" || w.journal[id].State != wire.JobNoReceipt {
				t.Errorf("after a late receipt: told %q", w.told(id))
			}
			for _, p := range all {
				p.stop()
			}
		})
	}
}

// TestSweepAtStart: jobs whose worker is gone are found by the next one; a receipt that was stored and
// not told counts; nothing else is touched. [F-24]
func TestSweepAtStart(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		w := newWorld(t)
		over := time.Now().Add(-receiptWait)
		h := numberHash{7}
		due := func(ids ...string) Entry {
			return Entry{State: wire.JobSubmitted, Attempt: 1, Parts: len(ids), SMSCIDs: ids, ExpiresAt: over, Sender: pseudonym, NumberHash: h, Route: "route"}
		}
		plain, stored, fresh, part, queued := wire.MessageID{1}, wire.MessageID{2}, wire.MessageID{3}, wire.MessageID{4}, wire.MessageID{5}
		w.journal[plain], w.journal[stored] = due("x"), due("y", "z")
		w.journal[partKey("route", "y", h)] = Entry{State: wire.JobUndeliverable, Job: stored}
		w.journal[fresh] = due("f")
		e := w.journal[fresh]
		e.ExpiresAt = over.Add(time.Minute)
		w.journal[fresh] = e
		w.journal[part] = Entry{State: wire.JobSubmitted, Job: plain, ExpiresAt: over}
		w.journal[queued] = Entry{Attempt: 1, ExpiresAt: over}
		p := w.start(func(_ *Config, p *ports) { p.fails["each"] = 0 })
		w.wait(time.Second)
		for id, want := range map[wire.MessageID]string{plain: "no_receipt", stored: "undeliverable", fresh: "", part: "", queued: ""} {
			if got := w.told(id); got != want {
				t.Errorf("%x: told %q, want %q", id[0], got, want)
			}
		}
		p.stop()
	})
	bubble(t, "the journal cannot be read at first", func(t *testing.T) {
		w := newWorld(t)
		w.journal[wire.MessageID{1}] = Entry{State: wire.JobSubmitted, Attempt: 1, Parts: 1, SMSCIDs: []string{"x"}, ExpiresAt: time.Now().Add(-receiptWait), Sender: pseudonym}
		p := w.start(func(_ *Config, p *ports) { p.fails["each"] = 1; p.fails["put"] = portTries })
		w.wait(25 * time.Minute)
		if got := w.told(wire.MessageID{1}); got != "no_receipt" {
			t.Errorf("told %q", got)
		}
		p.stop()
	})
}

// TestReceiptMeetsSweep: when a receipt and a sweep of another worker meet, one of them decides for
// both. [F-7] [F-24]
func TestReceiptMeetsSweep(t *testing.T) {
	for _, port := range []string{"get", "begin", "put"} {
		bubble(t, port, func(t *testing.T) {
			w := newWorld(t)
			p := w.start()
			j := w.job(secret)
			id := w.send(j)
			w.wait(time.Second)
			w.look(func() { w.journal[endKey(id)] = Entry{State: wire.JobNoReceipt, Owner: "other/1"} })
			sleep(t.Context(), time.Until(j.ExpiresAt.Add(receiptWait-contested)))
			w.look(func() { p.ports.fails[port] = 1 })
			if err := w.say("id1.0", recipient, wire.JobDelivered); err != nil {
				t.Fatal(err)
			}
			if got := w.told(id); got != "submitted no_receipt" {
				t.Errorf("told %q", got)
			}
			p.stop()
		})
	}
}

// TestStrays: a receipt under an unknown id is a job's own only if no older text can have it. [F-11]
// [F-14]
func TestStrays(t *testing.T) {
	bubble(t, "of an older unknown job", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(2, nil)
		secrets := &memory{}
		p := w.start(func(c *Config, _ *ports) { c.Secrets = secrets })
		old := w.send(w.job(secret))
		w.wait(2 * time.Minute)
		p.stop()
		p = w.start(func(c *Config, _ *ports) { c.Secrets = secrets }) // it is in the journal, not in memory
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.say("old", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		w.wait(2 * time.Minute)
		if w.told(old) != "unknown" || w.told(id) != "unknown" {
			t.Errorf("told %q and %q", w.told(old), w.told(id))
		}
		w.wait(3 * time.Hour) // no receipt of the first two can come any more
		w.look(func() {
			w.script = func(int, sms.Message) sms.Result { return sms.Result{Outcome: sms.Unknown, Err: sms.ErrNoAnswer} }
		})
		id = w.send(w.job(secret))
		w.wait(time.Second)
		if err := w.say("new", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		if w.told(id) != "submitted delivered" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
	bubble(t, "from before the first byte", func(t *testing.T) {
		w := newWorld(t)
		w.script = doubtThen(1, nil)
		p := w.start()
		w.look(func() {
			w.hooks["suppressed"] = func() { // open, and nothing written yet
				for task := range p.open.byNumber[p.hash(number(t, recipient))] {
					if task.written {
						t.Error("written before it is")
					}
				}
				p.open.stray(p.hash(number(t, recipient)), "old")
			}
		})
		id := w.send(w.job(secret))
		w.wait(2 * time.Minute)
		if w.told(id) != "unknown" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
	bubble(t, "a word older than the text with its id", func(t *testing.T) {
		w := newWorld(t)
		w.script = func(_ int, m sms.Message) sms.Result { return sms.Result{IDs: []string{"constant"}} }
		p := w.start()
		w.key()
		if err := w.say("constant", recipient, wire.JobUndeliverable); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		id := w.send(w.job(secret))
		w.wait(time.Second)
		if w.told(id) != "submitted" {
			t.Errorf("told %q: the receipt was there before the text", w.told(id))
		}
		if err := w.say("constant", recipient, wire.JobDelivered); err != nil {
			t.Fatal(err)
		}
		if w.told(id) != "submitted delivered" {
			t.Errorf("told %q", w.told(id))
		}
		p.stop()
	})
}
