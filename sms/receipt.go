package sms

import (
	"math/big"
	"regexp"
	"strings"

	"github.com/linxGnu/gosmpp/pdu"

	"bluejay/wire"
)

// Parts of esm_class, SMPP 3.4 section 5.2.12.
const (
	esmTypeMask    = 0x3c
	esmTypeReceipt = 0x04
)

// receiptField is one "key:value" of a receipt's text form (SMPP 3.4 appendix B). Its own text
// field comes last and may look like anything, so the first of each key counts.
var receiptField = regexp.MustCompile(`(?i)\b(id|stat):\s*([^\s]*)`)

// maxID is the longest message_id (SMPP 3.4 section 5.2.23), in bytes.
const maxID = 64

var statesByName = map[string]wire.JobState{
	"DELIVRD": wire.JobDelivered, "EXPIRED": wire.JobExpired, "DELETED": wire.JobUndeliverable,
	"UNDELIV": wire.JobUndeliverable, "REJECTD": wire.JobRejected,
}

// statesByCode is message_state, SMPP 3.4 section 5.2.28.
var statesByCode = map[byte]wire.JobState{
	2: wire.JobDelivered, 3: wire.JobExpired, 4: wire.JobUndeliverable, 5: wire.JobUndeliverable, 8: wire.JobRejected,
}

// parseReceipt reads the receipt in a deliver_sm: the optional parameters first, the text form for
// what they leave out. A state that is in neither, or not final, is JobSubmitted: the SMSC still has
// the text. ok is false when it is no receipt. [F-14]
func parseReceipt(d *pdu.DeliverSM) (r Receipt, ok bool) {
	if d.EsmClass&esmTypeMask != esmTypeReceipt {
		return Receipt{}, false
	}
	r = receiptText(d)
	if v := d.OptionalParameters[pdu.TagReceiptedMessageID].Data; len(v) > 0 {
		r.ID = strings.TrimRight(string(v), "\x00")
	}
	if v := d.OptionalParameters[pdu.TagMessageStateOption].Data; len(v) == 1 {
		r.State = finalOr(statesByCode[v[0]])
	}
	if len(r.ID) > maxID {
		r.ID = ""
	}
	// The source of a receipt is the text's recipient; if it is no number, To stays zero.
	r.To, _ = wire.ParseNumber("+" + strings.TrimPrefix(d.SourceAddr.Address(), "+"))
	return r, true
}

func receiptText(d *pdu.DeliverSM) Receipt {
	text, _ := d.Message.GetMessageData()
	if len(text) == 0 {
		text = d.OptionalParameters[pdu.TagMessagePayload].Data
	}
	r := Receipt{State: wire.JobSubmitted}
	seen := map[string]bool{}
	for _, m := range receiptField.FindAllSubmatch(text, 8) {
		key, value := strings.ToLower(string(m[1])), string(m[2])
		if seen[key] {
			continue
		}
		seen[key] = true
		if key == "id" {
			if !strings.HasPrefix(strings.ToLower(value), "sub:") { // else the id is empty: "id: sub:001"
				r.ID = value
			}
		} else {
			r.State = finalOr(statesByName[strings.ToUpper(value)])
		}
	}
	return r
}

// finalOr is the state, or JobSubmitted for the zero of a map that lacks it.
func finalOr(s wire.JobState) wire.JobState {
	if s.Final() {
		return s
	}
	return wire.JobSubmitted
}

// IDForm is how a route writes message ids. SMPP leaves it open, and some SMSCs answer in one form and
// report in another. Zero value: IDsAsIs. [F-14]
type IDForm byte

// Forms. An id that is no number of its form stays as it is.
const (
	IDsAsIs       IDForm = iota // compared byte by byte
	IDsNumeric                  // decimal in both, with or without leading zeros
	IDsHexDecimal               // hexadecimal in the answer, decimal in the receipt
	IDsDecimalHex               // decimal in the answer, hexadecimal in the receipt
)

// answer is the id of a submit_sm_resp in the form that both are compared in: decimal digits.
func (f IDForm) answer(id string) string { return f.decimal(id, f == IDsHexDecimal) }

// receipt is the id of a receipt in the same form.
func (f IDForm) receipt(id string) string { return f.decimal(id, f == IDsDecimalHex) }

func (f IDForm) decimal(id string, hex bool) string {
	if f == IDsAsIs {
		return id
	}
	base := 10
	if hex {
		base = 16
	}
	n, ok := new(big.Int).SetString(strings.TrimSpace(id), base)
	if !ok || n.Sign() < 0 {
		return id
	}
	return n.String()
}
