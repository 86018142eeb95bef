// Package smsc is a phone network in miniature: an SMSC on a TCP port of this machine, for the demo
// and for tests. Like the network it plays, it knows numbers and texts in the clear and keeps them
// in memory; never let a real user's message reach it.
//
// How it works:
//
//  1. The server and the codec are github.com/fiorix/go-smpp's, written by others than the client in
//     package sms: the two meet over a real TCP connection and can only agree on SMPP itself.
//  2. A small relay in front of it picks the port, and can cut every link, as real networks do.
//  3. Each submit_sm is recorded, answered as the [Script] says, and joined with its other parts into
//     a [Message]; if a receipt was asked for, one is sent and repeated until it is taken.
//
// It proves nothing about a real SMSC's limits, routes or prices.
package smsc

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/fiorix/go-smpp/smpp/pdu"
	"github.com/fiorix/go-smpp/smpp/pdu/pdufield"
	"github.com/fiorix/go-smpp/smpp/smpptest"
)

// What a client must bind with.
const (
	SystemID = "bluejay"
	Password = "bluejay"
)

// Message is a text as a phone would show it, joined from its parts.
type Message struct {
	To, From string // as a phone shows them: "+44…" or a name
	Text     string
	Parts    int
	Receipt  bool      // a receipt was asked for
	Validity string    // as submitted, in SMPP's form
	At       time.Time // when the last part came
}

// Part is one submit_sm.
type Part struct {
	To, From  string
	Number    int // counts all submits, from 1
	Reference byte
	Index     int // from 1
	Of        int // 1: not a part of several
	Text      string
}

// Reply is what to do with one submit_sm. Zero value: accept it under a fresh id, and report it
// delivered if a receipt was asked for.
type Reply struct {
	Status  uint32 // other than 0: refuse it with this command_status
	ID      string // "": a fresh one
	Silent  bool   // take it, say nothing
	Hangup  bool   // take it, then cut the link without an answer
	Receipt string // state to report, as in "UNDELIV"; "": DELIVRD
	Early   bool   // report before the answer
	Mute    bool   // take it, answer it, report nothing
	Bare    bool   // report in the text form only, without optional parameters
}

// Script decides the reply to each submit_sm. Calls come one at a time.
type Script func(Part) Reply

// Server is a running SMSC.
type Server struct {
	upstream *smpptest.Server
	front    net.Listener
	done     sync.WaitGroup
	receipts chan *receipt
	closing  chan struct{}

	mu       sync.Mutex // guards what follows, and writing to clients
	script   Script
	submits  int
	client   smpptest.Conn      // the link that was last heard of
	sent     map[uint32]receipt // receipts sent and not taken yet, by sequence number
	pieces   map[string]*Message
	missing  map[string][]string // texts of the parts so far
	messages []Message
	changed  chan struct{} // closed at the next message
	links    map[net.Conn]bool
	closed   bool
}

// Start listens on addr ("127.0.0.1:0" for any free port) with the default script.
func Start(addr string) (*Server, error) {
	front, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		upstream: smpptest.NewUnstartedServer(), front: front,
		receipts: make(chan *receipt, 1<<16), closing: make(chan struct{}),
		script: func(Part) Reply { return Reply{} }, sent: map[uint32]receipt{},
		pieces: map[string]*Message{}, missing: map[string][]string{},
		changed: make(chan struct{}), links: map[net.Conn]bool{},
	}
	s.upstream.User, s.upstream.Passwd, s.upstream.Handler = SystemID, Password, s.handle
	s.done.Go(s.upstream.Serve)
	s.done.Go(s.accept)
	s.done.Go(s.report)
	return s, nil
}

// Addr is where it listens, host:port.
func (s *Server) Addr() string { return s.front.Addr().String() }

// Play changes the script, from the next submit_sm on.
func (s *Server) Play(script Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// Submits is how many submit_sm have come, refused ones included.
func (s *Server) Submits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.submits
}

// Unreported is how many receipts and texts were sent and not taken by a client.
func (s *Server) Unreported() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// Messages are the accepted texts whose parts have all come, oldest first.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Wait returns the first message that matches, now or later; its error is ctx's.
func (s *Server) Wait(ctx context.Context, match func(Message) bool) (Message, error) {
	for from := 0; ; {
		s.mu.Lock()
		seen, changed := s.messages, s.changed
		s.mu.Unlock()
		from = min(from, len(seen))
		if i := slices.IndexFunc(seen[from:], match); i >= 0 {
			return seen[from+i], nil
		}
		from = len(seen)
		select {
		case <-changed:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
	}
}

// Follow calls f for each message, in order, until ctx ends, and forgets it: neither Messages nor Wait
// sees it any more. It is for long runs.
func (s *Server) Follow(ctx context.Context, f func(Message)) {
	for {
		s.mu.Lock()
		came, changed := s.messages, s.changed
		s.messages = nil
		s.mu.Unlock()
		for _, m := range came {
			f(m)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Cut breaks every link, as a network does. Clients may connect again.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.links {
		_ = c.Close()
	}
}

// Close ends everything. What was recorded can still be read.
func (s *Server) Close() {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return
	}
	close(s.closing)
	_ = s.front.Close()
	s.Cut()
	s.upstream.Close()
	s.done.Wait()
}

// accept relays each client to the server behind, which can neither choose its port nor hang up.
func (s *Server) accept() {
	for {
		client, err := s.front.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", s.upstream.Addr())
		if err != nil {
			_ = client.Close()
			continue
		}
		s.mu.Lock()
		s.links[client], s.links[server] = true, true
		late := s.closed
		s.mu.Unlock()
		if late { // Close has cut the links before this one was among them
			s.Cut()
		}
		s.done.Go(func() { s.relay(server, client) })
		s.done.Go(func() { s.relay(client, server) })
	}
}

// relay copies until either side ends, then ends both.
func (s *Server) relay(to, from net.Conn) {
	_, _ = io.Copy(to, from) // why it ended does not matter
	_, _ = to.Close(), from.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, to)
	delete(s.links, from)
}

// handle serves one PDU of a bound client.
func (s *Server) handle(c smpptest.Conn, p pdu.Body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard(c)
	var answer pdu.Body
	switch p.Header().ID {
	case pdu.SubmitSMID:
		s.submit(c, p)
		return
	case pdu.DeliverSMRespID:
		s.taken(p.Header())
		return
	case pdu.EnquireLinkID:
		answer = pdu.NewEnquireLinkResp()
	case pdu.UnbindID:
		answer = pdu.NewUnbindResp()
	default:
		return
	}
	answer.Header().Seq = p.Header().Seq
	_ = c.Write(answer) // a client that is gone needs no answer
}

// heard notes the client's link; what the old link did not take is sent again on the new one.
func (s *Server) heard(c smpptest.Conn) {
	if s.client == c {
		return
	}
	s.client = c
	for seq, r := range s.sent {
		delete(s.sent, seq)
		s.later(r)
	}
}

func (s *Server) submit(c smpptest.Conn, p pdu.Body) {
	part, wants := decode(p)
	s.submits++
	part.Number = s.submits
	r := s.script(part)
	if r.Status == 0 {
		s.record(part, p, wants)
	}
	if r.ID == "" {
		r.ID = fmt.Sprintf("%08x", s.submits)
	}
	tell := r.Status == 0 && wants && !r.Mute
	if tell && r.Early {
		s.deliver(receipt{part: part, reply: r})
	}
	switch {
	case r.Hangup:
		_ = c.Close() // the client notices
	case !r.Silent:
		_ = c.Write(submitResp(p.Header().Seq, r)) // a client that is gone needs no answer
	}
	if tell && !r.Early {
		s.later(receipt{part: part, reply: r})
	}
}

func submitResp(seq uint32, r Reply) pdu.Body {
	resp := pdu.NewSubmitSMResp()
	resp.Header().Seq, resp.Header().Status = seq, pdu.Status(r.Status)
	if r.Status == 0 {
		_ = resp.Fields().Set(pdufield.MessageID, r.ID) // a string is always accepted
	}
	return resp
}

// receipt is one that is due, or a phone's text.
type receipt struct {
	part  Part
	reply Reply
	said  *said     // a phone's text; nil: a receipt
	due   time.Time // not before; zero: now
}

// said is what somebody texted to a number of the client's.
type said struct{ from, to, text string }

// Say has a phone text to a number of the client's. Like a receipt, it is repeated until it is taken.
func (s *Server) Say(from, to, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.later(receipt{said: &said{from, to, text}})
}

// repeatAfter is the pause before a receipt that the client could not store is sent again.
const repeatAfter = 20 * time.Millisecond

// taken forgets a receipt, or sends it again later if the client said "temporary error".
func (s *Server) taken(h *pdu.Header) {
	r, ok := s.sent[h.Seq]
	delete(s.sent, h.Seq)
	if ok && h.Status == 0x64 {
		r.due = time.Now().Add(repeatAfter)
		s.later(r)
	}
}

// later queues a receipt; with 65,536 waiting, it is lost, as in a real network.
func (s *Server) later(r receipt) {
	select {
	case s.receipts <- &r:
	default:
	}
}

// report sends receipts one after another.
func (s *Server) report() {
	for {
		select {
		case r := <-s.receipts:
			if wait := time.Until(r.due); wait > 0 {
				s.rest(wait)
			}
			s.mu.Lock()
			s.deliver(*r)
			s.mu.Unlock()
		case <-s.closing:
			return
		}
	}
}

// rest waits for d, or less when the server closes.
func (s *Server) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.closing:
	}
}

// record joins the parts of a text. s.mu is held.
func (s *Server) record(part Part, p pdu.Body, wants bool) {
	key := fmt.Sprint(part.From, part.To, part.Reference, part.Of)
	m, texts := s.pieces[key], s.missing[key]
	if m == nil {
		m, texts = &Message{To: part.To, From: part.From, Parts: part.Of, Receipt: wants}, make([]string, part.Of)
	}
	texts[part.Index-1] = part.Text
	s.pieces[key], s.missing[key] = m, texts
	if slices.Contains(texts, "") && part.Of > 1 {
		return
	}
	delete(s.pieces, key)
	delete(s.missing, key)
	for _, t := range texts {
		m.Text += t
	}
	m.At, m.Validity = time.Now(), field(p, pdufield.ValidityPeriod)
	s.messages = append(s.messages, *m)
	close(s.changed)
	s.changed = make(chan struct{})
}
