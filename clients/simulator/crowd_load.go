package simulator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bluejay/wire"
)

// DeliverResult is a load of texts between pairs.
type DeliverResult struct {
	Sent      int64   `json:"sent"`
	Delivered int64   `json:"delivered"`
	Refused   int64   `json:"refused"` // told so by a Bluejay node
	Seconds   float64 `json:"seconds"` // until the last arrived
	Took      Latency `json:"took"`    // from when a text was to be sent to its arrival at the recipient
}

// Layout of a text: phase 1 | who sent it 4 | when it was to be sent, ns since the crowd's start 8 | filler.
const (
	textSender = 1
	textStamp  = 5
	textFiller = 13
)

// text is an arrival in an inbox.
func (c *Crowd) text(payload []byte) {
	p := c.now.Load()
	if len(payload) != crowdPayload || payload[0] != p.number {
		return
	}
	p.count(time.Since(c.start) - time.Duration(binary.BigEndian.Uint64(payload[textStamp:])))
	if from := int(binary.BigEndian.Uint32(payload[textSender:])); from < len(p.windows) {
		select {
		case p.windows[from] <- struct{}{}:
		default: // a second copy frees no place
		}
	}
}

// say sends one text to somebody, as of a time.
func (h *rawClient) say(p *phase, to *rawClient, at time.Duration) error {
	return h.write(func(b []byte, pid uint16) []byte {
		var payload [crowdPayload]byte
		payload[0] = p.number
		binary.BigEndian.PutUint32(payload[textSender:], uint32(h.who))
		binary.BigEndian.PutUint64(payload[textStamp:], uint64(at))
		return appendPublish(b, wire.Topic{Kind: wire.TopicInbox, Tag: to.tag}, pid, false, payload[:])
	})
}

// talkers is how many goroutines send: a connection that takes nothing more holds up one of them.
const talkers = 8

// Deliver sends texts at an even rate, each first half's member to one of the second half, at QoS 1. The loop is open:
// a broker that stands still makes the texts late that were to be sent meanwhile.
func (c *Crowd) Deliver(ctx context.Context, rate float64, during time.Duration) (r DeliverResult, err error) {
	pairs, total := len(c.all)/2, int(rate*during.Seconds())
	if pairs == 0 || total == 0 {
		return r, errors.New("simulator: nobody to write to, or nothing to write")
	}
	p, began := c.begin(&phase{wanted: int64(total)}), time.Now()
	origin := began.Sub(c.start)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range talkers {
		wg.Go(func() {
			t := time.NewTimer(time.Hour)
			defer t.Stop()
			for n := next.Add(1) - 1; n < int64(total) && ctx.Err() == nil; n = next.Add(1) - 1 {
				at := time.Duration(float64(n) / rate * float64(time.Second))
				if early := at - time.Since(began); early > 0 {
					t.Reset(early)
					<-t.C
				}
				k := int(n) % pairs
				if err := c.all[k].say(p, c.all[k+pairs], origin+at); err != nil {
					failed.Store(&err)
					return
				}
				atomic.AddInt64(&r.Sent, 1)
			}
		})
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return r, *e
	}
	p.wait(ctx, drainTime)
	return r.filled(p, began), ctx.Err()
}

func (r DeliverResult) filled(p *phase, began time.Time) DeliverResult {
	r.Delivered, r.Refused, r.Took, r.Seconds = p.arrived.Load(), p.refused.Load(), p.latency(), time.Since(began).Seconds()
	return r
}

// Saturate has each pair keep so many texts under way, from sending to arrival, for as long as during: what the broker
// can do when it never waits for work. The loop is closed, so the latency is that of a full queue.
func (c *Crowd) Saturate(ctx context.Context, window int, during time.Duration) (r DeliverResult, err error) {
	pairs := len(c.all) / 2
	if pairs == 0 || window < 1 {
		return r, errors.New("simulator: nobody to write to, or nothing to write")
	}
	p, began := &phase{windows: make([]chan struct{}, pairs)}, time.Now()
	for i := range p.windows {
		p.windows[i] = make(chan struct{}, window)
		for range window {
			p.windows[i] <- struct{}{}
		}
	}
	c.begin(p)
	ctx, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for k, h := range c.all[:pairs] {
		wg.Go(func() {
			for {
				select {
				case <-p.windows[k]:
				case <-ctx.Done():
					return
				}
				if err := h.say(p, c.all[k+pairs], time.Since(c.start)); err != nil {
					failed.Store(&err)
					return
				}
				atomic.AddInt64(&r.Sent, 1)
			}
		})
	}
	wg.Wait()
	r = r.filled(p, began) // what arrived by now; the rest is under way
	if e := failed.Load(); e != nil {
		return r, *e
	}
	return r, c.drain(p, r.Sent)
}

// drain waits until what was sent has arrived.
func (c *Crowd) drain(p *phase, sent int64) error {
	for deadline := time.Now().Add(drainTime); p.arrived.Load() < sent; {
		if time.Now().After(deadline) {
			return fmt.Errorf("simulator: %d of %d texts never arrived", sent-p.arrived.Load(), sent)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// FanOutResult is one person's presence told to everybody else.
type FanOutResult struct {
	Watchers int     `json:"watchers"`
	Changes  int     `json:"changes"`
	Told     int64   `json:"told"` // of Watchers × Changes
	Seconds  float64 `json:"seconds"`
	Took     Latency `json:"took"` // from the change to its arrival at each watcher
	Last     Latency `json:"last"` // to its arrival at the last one
}

// seen is a word on presence.
func (c *Crowd) seen(blue bool) {
	if p := c.now.Load(); blue && p.changed != nil {
		p.count(time.Since(c.start) - *p.changed)
	}
}

// Watch has everybody but the first subscribe to the first one's presence, which a Bluejay node answers with the
// retained byte.
func (c *Crowd) Watch(ctx context.Context, parallel int) error {
	topic, at := wire.Topic{Kind: wire.TopicPresence, Tag: c.all[0].tag}, time.Since(c.start)
	p := c.begin(&phase{wanted: int64(len(c.all) - 1), changed: &at})
	_, err := c.each(ctx, parallel, func(h *rawClient) error {
		if h.who == 0 {
			return nil
		}
		return h.subscribe(ctx, topic, 0)
	})
	if err == nil && c.cfg.People != nil {
		p.wait(ctx, drainTime)
	}
	return err
}

// FanOut changes the first one's presence so many times, and waits each time until all watchers were told. On a Bluejay node it connects anew, which the broker itself makes a fresh retained byte of, so
// that CONNECT and its verification are part of it; on another broker it publishes a retained byte at QoS 1.
func (c *Crowd) FanOut(ctx context.Context, changes int) (r FanOutResult, err error) {
	r = FanOutResult{Watchers: len(c.all) - 1, Changes: changes}
	each, last, began := newHistogram(), newHistogram(), time.Now()
	for i := range changes {
		at := time.Now()
		changed := at.Sub(c.start)
		p := c.begin(&phase{wanted: int64(r.Watchers), changed: &changed})
		if err := c.all[0].change(ctx, byte(i+1)); err != nil {
			return r, err
		}
		p.wait(ctx, drainTime)
		_ = last.RecordValue(max(time.Since(at).Microseconds(), 1))
		r.Told += p.arrived.Load()
		p.mu.Lock()
		each.Merge(p.took)
		p.mu.Unlock()
	}
	r.Seconds, r.Took, r.Last = time.Since(began).Seconds(), latencyOf(each), latencyOf(last)
	return r, ctx.Err()
}

// change makes a new state of presence.
func (h *rawClient) change(ctx context.Context, state byte) error {
	if h.c.cfg.People != nil {
		h.hangUp()
		return h.connect(ctx)
	}
	return h.write(func(b []byte, pid uint16) []byte {
		return appendPublish(b, wire.Topic{Kind: wire.TopicPresence, Tag: h.tag}, pid, true, []byte{state})
	})
}
