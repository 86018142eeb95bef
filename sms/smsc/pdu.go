package smsc

import (
	"fmt"
	"strings"
	"time"

	"github.com/fiorix/go-smpp/smpp/pdu"
	"github.com/fiorix/go-smpp/smpp/pdu/pdufield"
	"github.com/fiorix/go-smpp/smpp/pdu/pdutext"
	"github.com/fiorix/go-smpp/smpp/pdu/pdutlv"
)

const (
	esmReceipt = 0x04
	esmUDH     = 0x40
	codingUCS2 = 0x08
	tonNumber  = 1
	udhLen     = 6 // of a concatenation header with an 8-bit reference
)

// field is a field as text, "" if it is not there.
func field(p pdu.Body, name pdufield.Name) string {
	if f, ok := p.Fields()[name]; ok {
		return f.String()
	}
	return ""
}

// number is a field of one octet, 0 if it is not there.
func number(p pdu.Body, name pdufield.Name) byte {
	if f, ok := p.Fields()[name].(*pdufield.Fixed); ok {
		return f.Data
	}
	return 0
}

// address is an address as a phone shows it.
func address(p pdu.Body, ton, addr pdufield.Name) string {
	if number(p, ton) == tonNumber {
		return "+" + field(p, addr)
	}
	return field(p, addr)
}

// decode reads a submit_sm, and whether it asks for a receipt.
func decode(p pdu.Body) (part Part, wants bool) {
	part = Part{
		To:    address(p, pdufield.DestAddrTON, pdufield.DestinationAddr),
		From:  address(p, pdufield.SourceAddrTON, pdufield.SourceAddr),
		Index: 1, Of: 1,
	}
	var body []byte
	if f, ok := p.Fields()[pdufield.ShortMessage]; ok {
		body = f.Bytes()
	}
	if number(p, pdufield.ESMClass)&esmUDH != 0 && len(body) >= udhLen && body[0] == 5 && body[1] == 0 && body[2] == 3 {
		if of, index := int(body[4]), int(body[5]); index >= 1 && index <= of {
			part.Reference, part.Of, part.Index = body[3], of, index
		}
		body = body[udhLen:]
	}
	part.Text = text(body, number(p, pdufield.DataCoding))
	return part, number(p, pdufield.RegisteredDelivery)&1 != 0
}

func text(body []byte, coding byte) string {
	if coding == codingUCS2 {
		return string(pdutext.UCS2(body).Decode())
	}
	return string(pdutext.GSM7(body).Decode())
}

var states = map[string]byte{
	"ENROUTE": 1, "DELIVRD": 2, "EXPIRED": 3, "DELETED": 4, "UNDELIV": 5, "ACCEPTD": 6, "UNKNOWN": 7, "REJECTD": 8,
}

// deliver sends a receipt, or a phone's text, to the client. s.mu is held.
func (s *Server) deliver(r receipt) {
	if s.client == nil {
		r.due = time.Now().Add(repeatAfter)
		s.later(r)
		return
	}
	p := pdu.NewDeliverSM()
	if r.said != nil {
		r.said.fill(p)
	} else {
		r.fill(p)
	}
	// The codec writes a length octet for an absent user data header, which no peer could read:
	// a field of no octets in its place writes none.
	p.Fields()[pdufield.UDHLength], p.Fields()[pdufield.GSMUserData] = &pdufield.SM{}, &pdufield.SM{}
	s.sent[p.Header().Seq] = r
	_ = s.client.Write(p) // without a link it waits for the next one
}

// fill makes a receipt.
func (r receipt) fill(p pdu.Body) {
	state := r.reply.Receipt
	if state == "" {
		state = "DELIVRD"
	}
	body := fmt.Sprintf("id:%s sub:001 dlvrd:001 submit date:2601010000 done date:2601010000 stat:%s err:000 text:%.10s", r.reply.ID, state, "sent")
	from(p, r.part.To, r.part.From)
	_ = p.Fields().Set(pdufield.ESMClass, esmReceipt)
	_ = p.Fields().Set(pdufield.ShortMessage, body)
	if !r.reply.Bare {
		_ = p.TLVFields().Set(pdutlv.TagReceiptedMessageID, pdutlv.CString(r.reply.ID))
		_ = p.TLVFields().Set(pdutlv.TagMessageStateOption, states[state])
	}
}

// fill makes a phone's text: in UCS-2, which has every character.
func (t *said) fill(p pdu.Body) {
	from(p, t.from, t.to)
	_ = p.Fields().Set(pdufield.DataCoding, codingUCS2)
	_ = p.Fields().Set(pdufield.ShortMessage, pdutext.UCS2(t.text).Encode())
}

// from sets who a deliver_sm is from and to. Strings and octets are always accepted.
func from(p pdu.Body, source, destination string) {
	f := p.Fields()
	_ = f.Set(pdufield.SourceAddrTON, tonNumber)
	_ = f.Set(pdufield.SourceAddrNPI, 1)
	_ = f.Set(pdufield.SourceAddr, strings.TrimPrefix(source, "+"))
	_ = f.Set(pdufield.DestinationAddr, destination)
}
