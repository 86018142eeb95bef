package sms

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linxGnu/gosmpp/data"
	"github.com/linxGnu/gosmpp/pdu"
)

// Statuses we answer with.
const (
	statusBadCommand Status = 0x03 // ESME_RINVCMDID
	statusTryAgain   Status = 0x64 // ESME_RX_T_APPN: not stored, repeat it
	statusNever      Status = 0x65 // ESME_RX_P_APPN: repeating it is of no use
)

const (
	storers       = 64              // most of them wait, for the journal or for an answer on its way there
	storeBacklog  = 4096            // receipts and texts read and not yet stored; above, "try again"
	lateFor       = 2 * time.Minute // how long an unanswered part is remembered
	unbindTimeout = time.Second
)

var (
	errUnbound = errors.New("sms: the SMSC closed the session")
	errClosed  = errors.New("sms: session closed")
	errRebind  = errors.New("sms: the SMSC says this session is not bound")
	errNobody  = errors.New("sms: nobody here takes it")
)

// bindError is a refusal to bind.
type bindError struct{ status Status }

func (e bindError) Error() string { return "sms: bind refused with " + e.status.String() }

// session is one bound connection. It ends once, by fail; then done is closed and stays so.
//
// Invariants: a sequence number is in open before its PDU is written; an entry leaves open exactly
// once, when its channel gets its answer or is closed.
type session struct {
	cfg      SMPPConfig
	conn     net.Conn
	in       *bufio.Reader
	window   chan struct{} // one element for each part being submitted
	received chan received
	done     chan struct{}
	heard    atomic.Bool // a PDU came since the last look
	worked   atomic.Bool // a submit was answered

	wmu sync.Mutex // one PDU at a time on conn

	mu   sync.Mutex // guards what follows
	seq  int32
	open map[int32]pending
	err  error // why the session ended
}

// pending is a part that was, or is about to be, written.
type pending struct {
	seq    int32
	since  time.Time
	answer chan Answer // capacity 1: the reader never waits for a submitter
}

// received is what a deliver_sm brought, and what to answer it with.
type received struct {
	seq   int32
	store func(ctx context.Context, h Handlers) error
}

// bind opens the session on conn, which it closes if it fails. The bind has a deadline of its own:
// an SMSC that accepts connections and says nothing is a common failure.
func bind(ctx context.Context, cfg SMPPConfig, as Bind, conn net.Conn) (*session, error) {
	s := &session{
		cfg: cfg, conn: conn, in: bufio.NewReader(conn), window: make(chan struct{}, cfg.Window),
		received: make(chan received, storeBacklog), done: make(chan struct{}),
		seq: 1, open: map[int32]pending{},
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.handshake(as)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// handshake accepts an answer under any sequence number: nothing else can be outstanding, and some
// SMSCs number their answer themselves.
func (s *session) handshake(as Bind) error {
	if err := s.conn.SetDeadline(time.Now().Add(s.cfg.BindTimeout)); err != nil {
		return err
	}
	request := bindPDU(as, s.cfg.SystemID, s.cfg.Password, s.cfg.SystemType)
	if _, err := s.conn.Write(marshal(request, s.seq)); err != nil {
		return err
	}
	f, err := readFrame(s.in)
	switch {
	case err != nil:
		return err
	case f.command != bindAnswers[as] && f.command != data.GENERIC_NACK:
		return fmt.Errorf("%w: not an answer to a bind", ErrPDU)
	case f.status != statusOK:
		return bindError{f.status}
	}
	return s.conn.SetDeadline(time.Time{})
}

// fail ends the session and leaves every part without an answer in doubt.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	for seq, p := range s.open {
		delete(s.open, seq)
		close(p.answer)
	}
	close(s.done)
	_ = s.conn.Close() // what went wrong is in err already
}

func (s *session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// register makes room for an answer. It fails when the session has ended.
func (s *session) register() (pending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return pending{}, s.err
	}
	p := pending{seq: s.next(), since: time.Now(), answer: make(chan Answer, 1)}
	s.open[p.seq] = p
	return p, nil
}

// next is the next sequence number, 1 to 0x7FFFFFFF (SMPP 3.4 section 5.1.4). s.mu is held.
func (s *session) next() int32 {
	s.seq = s.seq&0x7fffffff%0x7fffffff + 1
	return s.seq
}

// write puts one PDU on the wire. full reports whether all of it left: only then can the SMSC have
// understood it. Any error ends the session.
func (s *session) write(b []byte) (full bool, err error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.cfg.ResponseTimeout)) // if it fails, Write does
	n, err := s.conn.Write(b)
	if err != nil {
		s.fail(err)
	}
	return n == len(b), err
}

// partResult is a [Result] of one part.
type partResult struct {
	outcome Outcome
	answer  Answer
	late    <-chan Answer
	err     error
}

// submit writes one part and waits for its answer. [F-11]
func (s *session) submit(ctx context.Context, p *pdu.SubmitSM) partResult {
	w, err := s.register()
	if err != nil {
		return partResult{outcome: NotSent, err: ErrNoLink}
	}
	if full, err := s.write(marshal(p, w.seq)); err != nil && !full {
		return partResult{outcome: NotSent, err: ErrNoLink}
	}
	timeout := time.NewTimer(s.cfg.ResponseTimeout)
	defer timeout.Stop()
	select {
	case a, ok := <-w.answer:
		if !ok {
			return partResult{outcome: Unknown, late: w.answer, err: ErrLinkLost}
		}
		return partResult{answer: a}
	case <-timeout.C:
	case <-ctx.Done():
	}
	return partResult{outcome: Unknown, late: w.answer, err: ErrNoAnswer}
}

// read handles PDUs until the session ends.
func (s *session) read() {
	for {
		f, err := readFrame(s.in)
		if err == nil {
			s.heard.Store(true)
			err = s.handle(f)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// handle never waits: a slow journal must not hold up the answers to submits.
func (s *session) handle(f frame) error {
	switch f.command {
	case data.SUBMIT_SM_RESP, data.GENERIC_NACK:
		s.answered(f)
	case data.DELIVER_SM:
		return s.deliver(f)
	case data.ENQUIRE_LINK:
		return s.respond(pdu.NewEnquireLinkResp(), f.seq)
	case data.UNBIND:
		_ = s.respond(pdu.NewUnbindResp(), f.seq) // a courtesy: the session ends either way
		return errUnbound
	case data.UNBIND_RESP:
		return errClosed
	default:
		return s.refuse(f)
	}
	return nil
}

func (s *session) answered(f frame) {
	a := Answer{Status: f.status, Class: f.status.Class(s.cfg.Statuses)}
	if f.command == data.GENERIC_NACK && f.status == statusOK {
		a.Class = Permanent // a nack that says OK is no acceptance
	}
	if resp, ok := f.body.(*pdu.SubmitSMResp); ok && len(resp.MessageID) <= maxID {
		a.ID = s.cfg.IDs.answer(resp.MessageID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.open[f.seq]; ok {
		s.worked.Store(true)
		delete(s.open, f.seq)
		p.answer <- a
	}
}

func (s *session) respond(p pdu.PDU, seq int32) error {
	_, err := s.write(marshal(p, seq))
	return err
}

// refuse answers a request that we do not serve; an unexpected response is passed over.
func (s *session) refuse(f frame) error {
	if uint32(f.command)&0x80000000 != 0 {
		return nil
	}
	nack := &pdu.GenericNack{}
	nack.CommandID, nack.CommandStatus = data.GENERIC_NACK, data.CommandStatusType(statusBadCommand)
	return s.respond(nack, f.seq)
}

// deliver passes a receipt, or a text from a phone, on to be stored. What cannot be read, and what
// nobody here keeps, is refused for good: an SMSC told "received" would forget it. [F-14]
func (s *session) deliver(f frame) error {
	d, ok := f.body.(*pdu.DeliverSM)
	if !ok {
		return s.delivered(f.seq, statusNever)
	}
	store := s.storeOf(d)
	if store == nil {
		return s.delivered(f.seq, statusNever)
	}
	select {
	case s.received <- received{f.seq, store}:
		return nil
	default:
		return s.delivered(f.seq, statusTryAgain)
	}
}

// storeOf says how to store what d brings; nil: not at all.
func (s *session) storeOf(d *pdu.DeliverSM) func(context.Context, Handlers) error {
	if r, ok := parseReceipt(d); ok {
		r.Route, r.ID = s.cfg.Name, s.cfg.IDs.receipt(r.ID)
		return storeReceipt(r)
	}
	m, ok := parseIncoming(d)
	if !ok {
		return nil
	}
	m.Route = s.cfg.Name
	return storeIncoming(m)
}

func (s *session) delivered(seq int32, status Status) error {
	resp := &pdu.DeliverSMResp{}
	resp.CommandID, resp.CommandStatus = data.DELIVER_SM_RESP, data.CommandStatusType(status)
	return s.respond(resp, seq)
}

// store hands on what was received and answers by what became of it. [F-14]
func (s *session) store(ctx context.Context, h Handlers) {
	for {
		select {
		case <-s.done:
			return
		case r := <-s.received:
			status := statusOK
			switch err := r.store(ctx, h); {
			case errors.Is(err, errNobody):
				status = statusNever
			case err != nil:
				status = statusTryAgain
			}
			_ = s.delivered(r.seq, status) // a failed write has ended the session
		}
	}
}

// keep watches the link until it ends or ctx does; then it unbinds. It returns why the session
// ended. An SMSC that says nothing between two looks, though it was asked, is gone.
func (s *session) keep(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.EnquireLink)
	defer tick.Stop()
	for asked := false; ; asked = true {
		select {
		case <-s.done:
			return s.reason()
		case <-ctx.Done():
			s.unbind()
			return s.reason()
		case <-tick.C:
		}
		if heard := s.heard.Swap(false); asked && !heard {
			s.fail(ErrNoAnswer)
		}
		s.forget(time.Now().Add(-lateFor - s.cfg.ResponseTimeout))
		s.ask(pdu.NewEnquireLink())
	}
}

// ask writes a request whose answer nobody waits for.
func (s *session) ask(p pdu.PDU) {
	s.mu.Lock()
	seq := s.next()
	s.mu.Unlock()
	_, _ = s.write(marshal(p, seq)) // a failed write has ended the session
}

// forget gives up on the answers to parts written before t.
func (s *session) forget(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq, p := range s.open {
		if p.since.Before(t) {
			delete(s.open, seq)
			close(p.answer)
		}
	}
}

func (s *session) unbind() {
	s.ask(pdu.NewUnbind())
	timeout := time.NewTimer(unbindTimeout)
	defer timeout.Stop()
	select {
	case <-s.done:
	case <-timeout.C:
	}
	s.fail(errClosed)
}
