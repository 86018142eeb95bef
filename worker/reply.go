package worker

import (
	"context"
	"encoding/binary"
	"time"

	"bluejay/fallback"
	"bluejay/sms"
	"bluejay/wire"
)

const (
	maxReplies   = 64        // waiting to be submitted; what exceeds them is dropped
	replyLife    = time.Hour // a reply that comes later is of no use
	replyTimeout = 30 * time.Second
)

// reply is one answer to a keyword. The journal has it: nobody will make it again.
type reply struct {
	key     wire.MessageID
	keyword fallback.Keyword
	to      wire.Number
	route   sms.Route
	text    string
}

// answer queues a reply: one a keyword, number and UTC day, decided by the journal's create-if-absent,
// so that two machines that answer each other soon fall silent. [F-19]
func (w *Worker) answer(ctx context.Context, k fallback.Keyword, m sms.Incoming) error {
	text := w.cfg.Replies.Help
	if k == fallback.KeywordStart {
		text = w.cfg.Replies.Start
	}
	route, ok := w.replyRoute(m)
	if text == "" || !ok {
		return nil
	}
	number := w.hash(m.From)
	key := replyKey(k, number, time.Now())
	// Unknown is final, and true: nobody follows what becomes of a reply.
	_, first, err := w.begin(ctx, key, Entry{State: wire.JobUnknown, Owner: w.owner(), At: time.Now(), NumberHash: number})
	if err != nil || !first {
		return err
	}
	select {
	case w.replies <- reply{key, k, m.From, route, text}:
	default:
		w.cfg.Log.Warn("too many replies are waiting: one is dropped", "route", m.Route)
	}
	return nil
}

// replyRoute is the route that the text came in on, if a job to its sender would be allowed at all.
func (w *Worker) replyRoute(m sms.Incoming) (sms.Route, bool) {
	route, err := w.cfg.Routes.For(m.From)
	if err != nil {
		return sms.Route{}, false
	}
	if same, ok := w.cfg.Routes.Named(m.Route); ok {
		route = same
	}
	return route, true
}

// sendReplies submits replies one after another until stop ends. What is lost then stays lost.
func (w *Worker) sendReplies(stop, submits context.Context) {
	for {
		select {
		case r := <-w.replies:
			w.sendReply(context.WithoutCancel(submits), submits, r)
		case <-stop.Done():
			return
		}
	}
}

// sendReply submits a reply once, whatever comes of it. Its parts are indexed, so that their receipts
// are not taken for those of a job in doubt.
func (w *Worker) sendReply(ctx, submits context.Context, r reply) {
	t := &task{id: r.key, entry: Entry{NumberHash: w.hash(r.to), Route: r.route.Transport.Route(), ExpiresAt: time.Now().Add(replyLife)}, strays: make(chan string, maxStrays)}
	t.entry.Parts = sms.Parts(r.text, r.route.Charset)
	if !w.mayReply(ctx, r, t) {
		return
	}
	w.open.add(t)
	defer w.open.remove(t)
	t.entry.Since = time.Now()
	submit, cancel := context.WithTimeout(submits, replyTimeout)
	defer cancel()
	result := r.route.Transport.Submit(submit, sms.Message{
		To: r.to, From: r.route.From, Text: r.text, Charset: r.route.Charset, Class: wire.ClassNormal,
		ValidUntil: validUntil(t.entry.ExpiresAt, r.route.Validity), Ref: binary.BigEndian.Uint16(r.key[:]),
	})
	w.cfg.Observe(Observation{Kind: ObservedReply, Route: t.entry.Route, Keyword: r.keyword, Outcome: result.Outcome, Answer: result.Class})
	t.entry.SMSCIDs = result.IDs
	_, err := w.index(ctx, r.key, t.entry)
	if err == nil && result.Outcome == sms.Unknown {
		t.entry.State = wire.JobUnknown
		err = w.haunt(ctx, t.entry)
	}
	if err != nil {
		w.cfg.Log.Warn("a reply was not recorded", "err", err)
	}
}

// mayReply asks the suppression list and the caps; a reply that cannot be counted is not made. [F-17]
// [F-19]
func (w *Worker) mayReply(ctx context.Context, r reply, t *task) bool {
	if t.entry.Parts > wire.MaxSMSParts {
		return false
	}
	_, on, err := w.suppressed(ctx, t.entry.NumberHash)
	if on || err != nil {
		return false
	}
	ok, err := w.spend(ctx, w.charges(t.entry.NumberHash, wire.Pseudonym{}, t.entry.Route, r.route.Daily), t.entry.Parts)
	return ok && err == nil
}
