package sms

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/linxGnu/gosmpp/data"
	"github.com/linxGnu/gosmpp/pdu"

	"bluejay/wire"
)

// deliverSM builds a deliver_sm with the library's codec.
func deliverSM(t testing.TB, esm byte, source, text string, tlvs ...pdu.Field) *pdu.DeliverSM {
	t.Helper()
	d := pdu.NewDeliverSM().(*pdu.DeliverSM)
	d.EsmClass = esm
	d.SourceAddr = address(1, 1, source)
	if err := d.Message.SetMessageDataWithEncoding([]byte(text), data.GSM7BIT); err != nil {
		t.Fatal(err)
	}
	for _, f := range tlvs {
		d.RegisterOptionalParam(f)
	}
	return d
}

func tlv(tag pdu.Tag, b ...byte) pdu.Field { return pdu.Field{Tag: tag, Data: b} }

func idTLV(id string) pdu.Field { return tlv(pdu.TagReceiptedMessageID, []byte(id)...) }

const textForm = "id:7F2a sub:001 dlvrd:001 submit date:2601011200 done date:2601011201 stat:%s err:000 text:see"

// [F-14]
func TestParseReceipt(t *testing.T) {
	form := func(stat string) string { return strings.Replace(textForm, "%s", stat, 1) }
	number := mustNumber(t, testNumber)
	tests := []struct {
		name   string
		d      *pdu.DeliverSM
		want   Receipt
		wantOK bool
	}{
		{"text form", deliverSM(t, 0x04, "447700900123", form("DELIVRD")), Receipt{ID: "7F2a", To: number, State: wire.JobDelivered}, true},
		{"an empty id", deliverSM(t, 0x04, "447700900123", "id: sub:001 dlvrd:001 stat:DELIVRD"), Receipt{To: number, State: wire.JobDelivered}, true},
		{"lower case", deliverSM(t, 0x04, "+447700900123", "ID:9 STAT:undeliv"), Receipt{ID: "9", To: number, State: wire.JobUndeliverable}, true},
		{"expired", deliverSM(t, 0x04, "447700900123", form("EXPIRED")), Receipt{ID: "7F2a", To: number, State: wire.JobExpired}, true},
		{"deleted", deliverSM(t, 0x04, "447700900123", form("DELETED")), Receipt{ID: "7F2a", To: number, State: wire.JobUndeliverable}, true},
		{"rejected", deliverSM(t, 0x04, "447700900123", form("REJECTD")), Receipt{ID: "7F2a", To: number, State: wire.JobRejected}, true},
		{"enroute is not final", deliverSM(t, 0x04, "447700900123", form("ENROUTE")), Receipt{ID: "7F2a", To: number, State: wire.JobSubmitted}, true},
		{"accepted is not final", deliverSM(t, 0x04, "447700900123", form("ACCEPTD")), Receipt{ID: "7F2a", To: number, State: wire.JobSubmitted}, true},
		{"unknown state", deliverSM(t, 0x04, "447700900123", form("WHATEVER")), Receipt{ID: "7F2a", To: number, State: wire.JobSubmitted}, true},
		{
			"optional parameters win",
			deliverSM(t, 0x04, "447700900123", form("UNDELIV"), idTLV("other\x00"), tlv(pdu.TagMessageStateOption, 2)),
			Receipt{ID: "other", To: number, State: wire.JobDelivered}, true,
		},
		{
			"each parameter for itself",
			deliverSM(t, 0x04, "447700900123", form("UNDELIV"), idTLV("other")),
			Receipt{ID: "other", To: number, State: wire.JobUndeliverable}, true,
		},
		{
			"text form in message_payload",
			deliverSM(t, 0x04, "447700900123", "", tlv(pdu.TagMessagePayload, []byte(form("DELIVRD"))...)),
			Receipt{ID: "7F2a", To: number, State: wire.JobDelivered}, true,
		},
		{"the user's text is not read as a receipt", deliverSM(t, 0x04, "447700900123", "id:1 stat:UNDELIV text:id:2 stat:DELIVRD"), Receipt{ID: "1", To: number, State: wire.JobUndeliverable}, true},
		{"no id", deliverSM(t, 0x04, "447700900123", "stat:DELIVRD"), Receipt{To: number, State: wire.JobDelivered}, true},
		{"a monstrous id", deliverSM(t, 0x04, "447700900123", "stat:DELIVRD", idTLV(strings.Repeat("9", 65))), Receipt{To: number, State: wire.JobDelivered}, true},
		{"from a name", deliverSM(t, 0x04, "bank", "id:1 stat:DELIVRD"), Receipt{ID: "1", State: wire.JobDelivered}, true},
		{"other esm bits", deliverSM(t, 0x04|0x03, "447700900123", "id:1 stat:DELIVRD"), Receipt{ID: "1", To: number, State: wire.JobDelivered}, true},
		{"a text from a phone", deliverSM(t, 0x00, "447700900123", form("DELIVRD")), Receipt{}, false},
		{"a delivery acknowledgement", deliverSM(t, 0x08, "447700900123", form("DELIVRD")), Receipt{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := readFrame(bytes.NewReader(marshal(tt.d, 7)))
			if err != nil || f.body == nil {
				t.Fatalf("readFrame: %v, %v", f.body, err)
			}
			got, ok := parseReceipt(f.body.(*pdu.DeliverSM))
			if ok != tt.wantOK || got != tt.want {
				t.Errorf("parseReceipt: %t, id %q, state %v, number right %t; want %t, %q, %v", ok, got.ID, got.State, got.To == tt.want.To, tt.wantOK, tt.want.ID, tt.want.State)
			}
		})
	}
}

// frameSeeds are PDUs as SMSCs send them, and some as they should not.
func frameSeeds(t testing.TB) [][]byte {
	resp := pdu.NewSubmitSMResp().(*pdu.SubmitSMResp)
	resp.MessageID = "7F2a"
	whole := marshal(resp, 5)
	headerOnly := append([]byte(nil), whole[:16]...)
	headerOnly[3], headerOnly[11] = 16, 0x58
	return [][]byte{
		whole, headerOnly, panicking,
		marshal(deliverSM(t, 0x04, "447700900123", textForm, idTLV("a"), tlv(pdu.TagMessageStateOption, 2)), 9),
		marshal(deliverSM(t, 0x44, "447700900123", "\x05\x00\x03\x01\x02\x01id:1 stat:DELIVRD"), 9),
		marshal(pdu.NewEnquireLink(), 3), marshal(pdu.NewUnbind(), 4), marshal(pdu.NewGenericNack(), 6),
		{0, 0, 0, 15, 0, 0, 0, 4}, {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1}, {},
	}
}

// FuzzReadFrame: any bytes yield frames, then an error; never a panic, never an allocation beyond
// the bound; a receipt in them yields a state of the closed set.
func FuzzReadFrame(f *testing.F) {
	for _, seed := range frameSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			before := r.Len()
			fr, err := readFrame(r)
			if err != nil {
				return
			}
			if n := before - r.Len(); n < headerLen || n > maxPDU {
				t.Fatalf("a frame of %d bytes", n)
			}
			d, ok := fr.body.(*pdu.DeliverSM)
			if !ok {
				continue
			}
			if rec, ok := parseReceipt(d); ok && (len(rec.ID) > maxID || !rec.State.Known() || rec.State == wire.JobQueued) {
				t.Fatalf("a receipt with an id of %d bytes, state %v", len(rec.ID), rec.State)
			}
		}
	})
}

// FuzzReceipt drives the text form alone, where the fuzzer need not find a valid PDU first. [F-14]
func FuzzReceipt(f *testing.F) {
	f.Add([]byte(textForm), "447700900123", byte(4))
	f.Add([]byte("id:1 stat:DELIVRD"), "bank", byte(0x44))
	f.Add([]byte("ID: \x00 stat:\xff"), "", byte(4))
	f.Fuzz(func(t *testing.T, text []byte, source string, esm byte) {
		d := pdu.NewDeliverSM().(*pdu.DeliverSM)
		d.EsmClass, d.SourceAddr = esm, address(1, 1, source)
		d.RegisterOptionalParam(tlv(pdu.TagMessagePayload, text...))
		rec, ok := parseReceipt(d)
		if ok != (esm&0x3c == 4) {
			t.Fatalf("esm_class %#x: receipt %t", esm, ok)
		}
		if ok && (len(rec.ID) > maxID || !rec.State.Known() || rec.State == wire.JobQueued) {
			t.Fatalf("an id of %d bytes, state %v", len(rec.ID), rec.State)
		}
	})
}

func TestReadFrame(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		err  error
	}{
		{"end", nil, io.EOF},
		{"half a header", make([]byte, 9), io.ErrUnexpectedEOF},
		{"length below the header", []byte{0, 0, 0, 15, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1}, ErrPDU},
		{"length above the bound", []byte{0, 0, 0x20, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1}, ErrPDU},
		{"body missing", []byte{0, 0, 0, 17, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1}, io.EOF},
	}
	for _, tt := range tests {
		if _, err := readFrame(bytes.NewReader(tt.in)); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
	}
	f, err := readFrame(bytes.NewReader([]byte{0, 0, 0, 17, 0x80, 0, 0, 9, 0, 0, 0, 0x0e, 0, 0, 0, 1, 'x'}))
	if err != nil || f.body != nil || f.status != 0x0e || f.seq != 1 {
		t.Errorf("a refused bind with a broken body: %+v, %v; the header must do", f, err)
	}
}

// panicking is a query_sm with an optional parameter, which gosmpp v0.3.1 panics on.
var panicking = []byte{0, 0, 0, 26, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 'x', 0, 1, 1, 0, 4, 0x27, 0, 1, 2}

// TestCodecPanics shows why the seam recovers; it tells when the library no longer needs it.
func TestCodecPanics(t *testing.T) {
	if p, err := parsePDU(panicking); !errors.Is(err, ErrPDU) || p != nil {
		t.Errorf("parsePDU: %v, %v", p, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("the codec does not panic any more: parsePDU need not recover")
		}
	}()
	_, _ = pdu.Parse(bytes.NewReader(panicking))
}

// TestSubmitVector freezes what a submit_sm of ours is on the wire. [F-3] [F-4]
func TestSubmitVector(t *testing.T) {
	from, err := ParseSender("Bluejay")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	var got strings.Builder
	for _, text := range []string{"hi €", "привет", strings.Repeat("abc", 60)} {
		parts, err := submitPDUs(Message{
			To: mustNumber(t, testNumber), From: from, Text: text, Ref: 0x12a7,
			ValidUntil: now.Add(90*time.Minute + 5*time.Second),
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range parts {
			got.WriteString(hexLines(marshal(p, int32(i+1))))
		}
	}
	want, err := os.ReadFile("testdata/submit_sm.txt")
	if err != nil || got.String() != string(want) {
		t.Errorf("submit_sm differs from testdata/submit_sm.txt (%v):\n%s", err, got.String())
	}
}

func hexLines(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for i, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
		if i%32 == 31 {
			s.WriteByte('\n')
		}
	}
	return s.String() + "\n\n"
}

func TestValidity(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	tests := map[time.Duration]string{
		24 * time.Hour: "000001000000000R", 90 * time.Minute: "000000013000000R", 0: "000000000001000R", -time.Hour: "000000000001000R",
		59 * time.Second: "000000000059000R", 400 * 24 * time.Hour: "000030000000000R",
	}
	for d, want := range tests {
		if got := validity(now.Add(d), now); got != want || len(got) != 16 {
			t.Errorf("validity of %v: %q, want %q", d, got, want)
		}
	}
	if got := validity(time.Time{}, now); got != "" {
		t.Errorf("no validity: %q", got)
	}
}

func TestSubmitNeedsASender(t *testing.T) {
	if _, err := submitPDUs(Message{To: mustNumber(t, testNumber), Text: "x"}, time.Now()); !errors.Is(err, ErrSender) {
		t.Errorf("without a sender: %v", err)
	}
}
