package sms

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"

	"github.com/linxGnu/gosmpp/data"
	"github.com/linxGnu/gosmpp/pdu"

	"bluejay/wire"
)

// maxIncoming bounds a text from a phone, in bytes: SMPP's message_payload could have 64 KiB.
const maxIncoming = 4 * wire.MaxSMSParts * 153

// parseIncoming reads a text from a phone: a deliver_sm that is no receipt. A part of a long text is
// handed on by itself, without its header: a keyword fits the first. ok is false when the sender is
// no E.164 number, since nothing could be done for it, and for an alphabet that is not read here.
func parseIncoming(d *pdu.DeliverSM) (m Incoming, ok bool) {
	from, err := wire.ParseNumber("+" + strings.TrimPrefix(d.SourceAddr.Address(), "+"))
	if err != nil || d.EsmClass&esmTypeMask != 0 {
		return Incoming{}, false
	}
	raw, _ := d.Message.GetMessageData()
	if len(raw) == 0 {
		raw, ok = withoutHeader(d.OptionalParameters[pdu.TagMessagePayload].Data, d.EsmClass)
		if !ok {
			return Incoming{}, false
		}
	}
	text, ok := decode(raw, d.Message.Encoding())
	if !ok {
		return Incoming{}, false
	}
	return Incoming{From: from, To: d.DestAddr.Address(), Text: text}, true
}

// withoutHeader cuts a user data header off a message_payload; the codec does it for short_message.
// ok is false when the header does not end.
func withoutHeader(b []byte, esm byte) (rest []byte, ok bool) {
	switch {
	case esm&data.SM_UDH_GSM == 0 || len(b) == 0:
		return b, true
	case 1+int(b[0]) > len(b):
		return nil, false
	}
	return b[1+int(b[0]):], true
}

// decode reads a text in one of the alphabets in use (SMPP 3.4 section 5.2.19): the GSM alphabet one
// septet an octet, ASCII, Latin-1, UCS-2.
func decode(b []byte, enc data.Encoding) (string, bool) {
	if enc == nil || len(b) > maxIncoming {
		return "", false
	}
	switch enc.DataCoding() {
	case data.GSM7BITCoding:
		return wire.GSMText(b)
	case data.ASCIICoding, data.LATIN1Coding:
		return latin1(b), true
	case data.UCS2Coding:
		return ucs2(b)
	}
	return "", false
}

func latin1(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func ucs2(b []byte) (string, bool) {
	if len(b)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units)), true
}
