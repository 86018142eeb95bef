package sms

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	fpdu "github.com/fiorix/go-smpp/smpp/pdu"
	"github.com/fiorix/go-smpp/smpp/pdu/pdufield"
	"github.com/linxGnu/gosmpp/data"
	"github.com/linxGnu/gosmpp/pdu"
)

// textSM is a text from a phone in an alphabet.
func textSM(t testing.TB, source string, enc data.Encoding, raw string, change ...func(*pdu.DeliverSM)) *pdu.DeliverSM {
	t.Helper()
	d := deliverSM(t, 0, source, "")
	d.DestAddr = address(3, 0, "12345")
	if err := d.Message.SetMessageDataWithEncoding([]byte(raw), enc); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(d)
	}
	return d
}

// TestParseIncoming: a text in every alphabet, whole or in parts; what cannot be read is refused. [F-18]
func TestParseIncoming(t *testing.T) {
	payload := func(b string) func(*pdu.DeliverSM) {
		return func(d *pdu.DeliverSM) { d.RegisterOptionalParam(tlv(pdu.TagMessagePayload, []byte(b)...)) }
	}
	esm := func(b byte) func(*pdu.DeliverSM) { return func(d *pdu.DeliverSM) { d.EsmClass = b } }
	for _, tt := range []struct {
		name string
		d    *pdu.DeliverSM
		want string
		ok   bool
	}{
		{"GSM", textSM(t, "447700900123", data.GSM7BIT, "STOP \x02 \x1b\x65"), "STOP $ €", true},
		{"a plus", textSM(t, "+447700900123", data.GSM7BIT, "STOP"), "STOP", true},
		{"ASCII", textSM(t, "447700900123", data.ASCII, "stop $"), "stop $", true},
		{"Latin-1", textSM(t, "447700900123", data.LATIN1, "arr\xeat"), "arrêt", true},
		{"UCS-2", textSM(t, "447700900123", data.UCS2, "\x90\x00\x8b\xa2"), "退订", true},
		{"a surrogate pair", textSM(t, "447700900123", data.UCS2, "\xd8\x3d\xde\x00"), "😀", true},
		{"half a unit", textSM(t, "447700900123", data.UCS2, "\x90"), "", false},
		{"no GSM character", textSM(t, "447700900123", data.GSM7BIT, "\x80"), "", false},
		{"binary", textSM(t, "447700900123", data.BINARY8BIT1, "\x01"), "", false},
		{"in the payload", textSM(t, "447700900123", data.GSM7BIT, "", payload("STOP")), "STOP", true},
		{"in the payload, behind a header", textSM(t, "447700900123", data.GSM7BIT, "", payload("\x05\x00\x03\x07\x02\x01STOP"), esm(0x40)), "STOP", true},
		{"a header without end", textSM(t, "447700900123", data.GSM7BIT, "", payload("\x7f\x00"), esm(0x40)), "", false},
		{"too long", textSM(t, "447700900123", data.GSM7BIT, "", payload(strings.Repeat("x", maxIncoming+1))), "", false},
		{"as long as may be", textSM(t, "447700900123", data.GSM7BIT, "", payload(strings.Repeat("x", maxIncoming))), strings.Repeat("x", maxIncoming), true},
		{"nothing", textSM(t, "447700900123", data.GSM7BIT, ""), "", true},
		{"from a name", textSM(t, "Bank", data.GSM7BIT, "STOP"), "", false},
		{"from a short code", textSM(t, "12345", data.GSM7BIT, "STOP"), "", false},
		{"a receipt", textSM(t, "447700900123", data.GSM7BIT, "id:1 stat:DELIVRD", esm(0x04)), "", false},
		{"a phone's acknowledgement", textSM(t, "447700900123", data.GSM7BIT, "x", esm(0x08)), "", false},
	} {
		m, ok := parseIncoming(tt.d)
		if ok != tt.ok || m.Text != tt.want || ok && (m.From.E164() != "+447700900123" || m.To != "12345") {
			t.Errorf("%s: %q from %q, %v", tt.name, m.Text, m.To, ok)
		}
	}
}

// moPDU is a text from a phone as fiorix encodes it.
func moPDU(text string) fpdu.Body {
	p := receiptPDU("x")
	_ = p.Fields().Set(pdufield.ESMClass, 0)
	_ = p.Fields().Set(pdufield.DestinationAddr, "12345")
	_ = p.Fields().Set(pdufield.ShortMessage, text)
	p.Fields()[pdufield.UDHLength], p.Fields()[pdufield.GSMUserData] = &pdufield.SM{}, &pdufield.SM{}
	return p
}

// TestIncoming: the SMSC is told "received" only once a text is stored, to repeat it when not, and that
// it is of no use when nobody here takes texts. [F-18]
func TestIncoming(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		none bool
		want fpdu.Status
	}{{"stored", nil, false, 0}, {"not stored", errors.New("down"), false, 0x64}, {"nobody", nil, true, 0x65}} {
		bubble(t, tt.name, func(t *testing.T) {
			var got []fpdu.Status
			var texts []Incoming
			h := Handlers{Incoming: func(_ context.Context, m Incoming) error { texts = append(texts, m); return tt.err }}
			if tt.none {
				h.Incoming = nil
			}
			w := newWorldWith(t, SMPPConfig{}, h, statuses(&got))
			defer w.stop()
			synctest.Wait()
			w.last().send(moPDU("Stop"))
			synctest.Wait()
			if len(got) != 1 || got[0] != tt.want {
				t.Fatalf("answered %v, want %v", got, tt.want)
			}
			if tt.none != (len(texts) == 0) || !tt.none && (texts[0].Text != "Stop" || texts[0].Route != "route") {
				t.Errorf("%d texts", len(texts))
			}
		})
	}
}

// TestIDForms: answers and receipts meet, whichever form each has; what is no number stays as it is. [F-14]
func TestIDForms(t *testing.T) {
	for _, tt := range []struct {
		form            IDForm
		answer, receipt string
		meet            bool
	}{
		{IDsAsIs, "0A", "0A", true}, {IDsAsIs, "0A", "10", false}, {IDsAsIs, "7", "07", false},
		{IDsNumeric, "0007", "7", true}, {IDsNumeric, "7", "8", false},
		{IDsHexDecimal, "0A", "10", true}, {IDsHexDecimal, "1a2b3c4d5e6f7a8b9c0d", "0123577117385459009755", false},
		{IDsHexDecimal, "ffffffffffffffffffff", "1208925819614629174706175", true},
		{IDsDecimalHex, "10", "000a", true}, {IDsDecimalHex, "10", "10", false},
		{IDsHexDecimal, "uuid-1", "uuid-1", true}, {IDsNumeric, "", "", true}, {IDsNumeric, "-1", "-1", true},
	} {
		if a, r := tt.form.answer(tt.answer), tt.form.receipt(tt.receipt); (a == r) != tt.meet {
			t.Errorf("form %d: %q and %q are %q and %q", tt.form, tt.answer, tt.receipt, a, r)
		}
	}
}

// TestBinds: each bind asks for the links it should, and submits over the one that submits.
func TestBinds(t *testing.T) {
	for _, tt := range []struct {
		bind  Bind
		asked []fpdu.ID
		sends bool
	}{
		{Transceiver, []fpdu.ID{fpdu.BindTransceiverID}, true}, {Transmitter, []fpdu.ID{fpdu.BindTransmitterID}, true},
		{Receiver, []fpdu.ID{fpdu.BindReceiverID}, false}, {TwoLinks, []fpdu.ID{fpdu.BindTransmitterID, fpdu.BindReceiverID}, true},
	} {
		bubble(t, tt.asked[0].String(), func(t *testing.T) {
			asked := map[fpdu.ID]int{}
			var as *peer
			h := &heard{}
			w := newWorldWith(t, SMPPConfig{Bind: tt.bind}, h.handlers(), func(p *peer, b fpdu.Body) {
				asked[b.Header().ID]++
				switch b.Header().ID {
				case fpdu.BindTransmitterID:
					p.send(fpdu.NewBindTransmitterResp())
				case fpdu.BindReceiverID:
					as = p
					p.send(fpdu.NewBindReceiverResp())
				case fpdu.SubmitSMID:
					if p == as {
						t.Error("a receiver's link submits")
					}
					p.accept(b, "1", 0)
				default:
					polite(p, b)
				}
			})
			defer w.stop()
			synctest.Wait()
			for _, id := range tt.asked {
				if asked[id] != 1 || !w.Linked() {
					t.Errorf("asked %v, linked %v", asked, w.Linked())
				}
			}
			r := w.Submit(t.Context(), testMessage(t, "hello"))
			if tt.sends != (r.Outcome == Answered) || !tt.sends && !errors.Is(r.Err, ErrReceiver) {
				t.Errorf("%+v", r)
			}
			if as != nil {
				as.send(moPDU("STOP"))
				synctest.Wait()
				if len(h.texts) != 1 {
					t.Errorf("%d texts over the receiver's link", len(h.texts))
				}
				_ = as.conn.Close()
				synctest.Wait()
				if w.Linked() {
					t.Error("linked, though the receiver's link is lost")
				}
			}
		})
	}
}

// TestCheck: one bind, one unbind, nothing submitted; an error says what to do.
func TestCheck(t *testing.T) {
	refuse := func(p *peer, b fpdu.Body) {
		if b.Header().ID == fpdu.BindTransceiverID {
			p.answer(b, fpdu.NewBindTransceiverResp(), 0x0e)
		}
	}
	for _, tt := range []struct {
		name   string
		script func(*peer, fpdu.Body)
		want   string // in the error; "": none
	}{
		{"good", polite, ""}, {"wrong password", refuse, "check system id, password"},
		{"says nothing", func(*peer, fpdu.Body) {}, "is this the SMPP port?"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			submits := 0
			w := newWorldWith(t, SMPPConfig{}, Handlers{}, func(p *peer, b fpdu.Body) {
				if b.Header().ID == fpdu.SubmitSMID {
					submits++
				}
				tt.script(p, b)
			})
			w.stop()
			began := time.Now()
			c := &SMPP{cfg: w.cfg, changed: make(chan struct{}), pace: w.pace}
			err := c.Check(t.Context())
			w.mu.Lock()
			last := w.peers[len(w.peers)-1]
			w.mu.Unlock()
			last.hangUp()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || submits != 0 {
				t.Errorf("%v after %v, %d submits", err, time.Since(began), submits)
			}
		})
	}
}

// FuzzIncoming: whatever deliver_sm comes, it is a receipt, a text within bounds, or neither. [F-18]
func FuzzIncoming(f *testing.F) {
	for _, d := range []*pdu.DeliverSM{
		textSM(f, "447700900123", data.GSM7BIT, "STOP"), textSM(f, "447700900123", data.UCS2, "\x90\x00"), deliverSM(f, 4, "1", "id:1 stat:DELIVRD"),
	} {
		f.Add(marshal(d, 1))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := parsePDU(raw)
		d, ok := p.(*pdu.DeliverSM)
		if err != nil || !ok {
			return
		}
		_, receipt := parseReceipt(d)
		m, text := parseIncoming(d)
		if receipt && text || len([]rune(m.Text)) > maxIncoming || text && m.From.IsZero() {
			t.Errorf("receipt %v, text %v of %d", receipt, text, len(m.Text))
		}
	})
}
