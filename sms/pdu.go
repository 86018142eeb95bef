package sms

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/linxGnu/gosmpp/data"
	"github.com/linxGnu/gosmpp/pdu"
)

// Sizes of PDUs, in bytes. Nothing an SMSC has to tell us comes near maxPDU.
const (
	headerLen = 16
	maxPDU    = 8 << 10
)

// frame is one PDU off the wire. body is nil when the codec could not read it: the header, which
// the framing rests on, is sound all the same.
type frame struct {
	command data.CommandIDType
	status  Status
	seq     int32
	body    pdu.PDU
}

// readFrame reads one PDU. An error ends the connection: it cannot be known where the next PDU
// begins. The length is bounded before anything is allocated for it.
func readFrame(r io.Reader) (frame, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n < headerLen || n > maxPDU {
		return frame{}, ErrPDU
	}
	raw := make([]byte, n)
	copy(raw, h[:])
	if _, err := io.ReadFull(r, raw[headerLen:]); err != nil {
		return frame{}, err
	}
	head := pdu.ParseHeader(h)
	f := frame{command: head.CommandID, status: Status(head.CommandStatus), seq: head.SequenceNumber}
	if body, err := parsePDU(raw); err == nil {
		f.body = body
	}
	return f, nil
}

// parsePDU is the seam to the codec, whose parser panics on a malformed query_sm: at the seam, what
// it panics on is a malformed PDU like any other.
func parsePDU(raw []byte) (p pdu.PDU, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, ErrPDU
		}
	}()
	return pdu.Parse(bytes.NewReader(raw))
}

func marshal(p pdu.PDU, seq int32) []byte {
	p.SetSequenceNumber(seq)
	b := pdu.NewBuffer(nil)
	p.Marshal(b)
	return b.Bytes()
}

var (
	bindings    = map[Bind]pdu.BindingType{Transceiver: pdu.Transceiver, Transmitter: pdu.Transmitter, Receiver: pdu.Receiver}
	bindAnswers = map[Bind]data.CommandIDType{
		Transceiver: data.BIND_TRANSCEIVER_RESP, Transmitter: data.BIND_TRANSMITTER_RESP, Receiver: data.BIND_RECEIVER_RESP,
	}
)

// bindPDU asks for one link.
func bindPDU(as Bind, systemID, password, systemType string) pdu.PDU {
	b := pdu.NewBindRequest(bindings[as])
	b.SystemID, b.Password, b.SystemType = systemID, password, systemType
	return b
}

// submitPDUs are the submit_sm of the parts of m, with receipts asked for. [F-4]
func submitPDUs(m Message, now time.Time) ([]*pdu.SubmitSM, error) {
	if m.From.IsZero() {
		return nil, ErrSender
	}
	s, err := split(m.Text, m.Charset, byte(m.Ref))
	if err != nil {
		return nil, err
	}
	out := make([]*pdu.SubmitSM, 0, len(s.parts))
	for _, part := range s.parts {
		p, err := submitPDU(m, s, part, now)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func submitPDU(m Message, s segments, part []byte, now time.Time) (*pdu.SubmitSM, error) {
	p, ok := pdu.NewSubmitSM().(*pdu.SubmitSM)
	if !ok {
		return nil, ErrPDU
	}
	p.SourceAddr = address(m.From.ton, m.From.npi, m.From.addr)
	p.DestAddr = address(tonInternational, npiISDN, m.To.E164()[1:])
	p.ValidityPeriod = validity(m.ValidUntil, now)
	p.RegisteredDelivery = data.SM_SMSC_RECEIPT_REQUESTED
	if s.udh {
		p.EsmClass |= data.SM_UDH_GSM
	}
	if err := p.Message.SetMessageDataWithEncoding(part, coding(s.coding)); err != nil {
		return nil, ErrPDU
	}
	return p, nil
}

// address never fails: numbers have at most 15 digits and senders at most 15 characters, of 21.
func address(ton, npi byte, addr string) pdu.Address {
	a := pdu.NewAddressWithTonNpi(ton, npi)
	_ = a.SetAddress(addr)
	return a
}

func coding(c byte) data.Encoding { return data.FromDataCoding(c) }

// validity is the time left in SMPP's relative form (SMPP 3.4 section 7.1.1.2), which needs no
// agreement on clocks or time zones; "" for the zero time. A text whose time is over gets a second.
func validity(until, now time.Time) string {
	if until.IsZero() {
		return ""
	}
	s := max(int(until.Sub(now)/time.Second), 1)
	return fmt.Sprintf("0000%02d%02d%02d%02d000R", min(s/86400, 30), s/3600%24, s/60%60, s%60)
}
