package envelope

import (
	"strings"
	"testing"

	"bluejay/wire"
)

// mqttPublish is what MQTT 3.1.1 adds to a payload at QoS 1 on i/<tag>: type 1, length 1 or 2, topic
// 2 + 14, packet id 2.
func mqttPublish(payload int) int {
	head := 2 + 14 + 2
	if head+payload > 127 {
		return payload + head + 3
	}
	return payload + head + 2
}

const tlsRecord = 22 // header 5, content type 1, tag 16

// TestSizes is the table of spec/sessions.md. [S-1] [S-2] [S-4] [S-5]
func TestSizes(t *testing.T) {
	cases := []struct {
		what                       string
		text                       string
		payload, publish, withinTL int
	}{
		{"1 character", "a", 37, 57, 79},
		{"13 characters, GSM-7", strings.Repeat("a", 13), 37, 57, 79},
		{"30 characters, GSM-7", thirty, 53, 73, 95},
		{"30 characters, UTF-8", "ê" + strings.Repeat("a", 28) + "ê", 69, 89, 111},
		{"160 characters, GSM-7", strings.Repeat("a", 160), 165, 186, 208},
		{"70 characters, Cyrillic", strings.Repeat("ж", 70), 165, 186, 208},
	}
	a, _ := established(t)
	for _, c := range cases {
		msg, _ := mustSeal(t, a, c.text, start)
		got := [3]int{len(msg), mqttPublish(len(msg)), mqttPublish(len(msg)) + tlsRecord}
		if got != [3]int{c.payload, c.publish, c.withinTL} {
			t.Errorf("%s: MSG %d, publish %d, with TLS %d; want %d, %d, %d", c.what, got[0], got[1], got[2], c.payload, c.publish, c.withinTL)
		}
	}
	ack, _, err := a.Seal(AckFrame(a.Acked()), start)
	if err != nil || len(ack) != 37 {
		t.Errorf("an ack takes %d bytes, %v; want 37", len(ack), err)
	}
	stepped, _ := mustSeal(t, a, thirty, start.Add(day))
	if len(stepped) != 53+32 {
		t.Errorf("a MSG with a ratchet key takes %d bytes, want 85", len(stepped))
	}
}

// TestSetupSizes: INIT = 1370 + frame, RESP = 62 + frame, job = 64 + text. [S-2] [S-4] [S-13]
func TestSetupSizes(t *testing.T) {
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 1)
	_, init, err := Initiate(a, tagA, ridA, pre.Bundle(), TextFrame(thirty), start)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := OpenInit(b, pre, init, start)
	if err != nil {
		t.Fatal(err)
	}
	_, resp, err := offer.Respond(b, tagB, ridB, AckFrame(NoAck), start)
	if err != nil {
		t.Fatal(err)
	}
	anonymous := job(t)
	anonymous.From = wire.Number{}
	sealed, err := SealJob(workerSecret(t, 1).Key(), anonymous)
	if err != nil {
		t.Fatal(err)
	}
	got := [...]int{InitOverhead, len(init), RespOverhead, len(resp), JobOverhead, len(sealed), len(pre.Bundle().Marshal()), len(pre.Marshal()), enrolLen, confirmLen, senderLen}
	want := [...]int{1370, 1402, 62, 78, 64, 94, 1403, 1436, 1257, 1191, 1164}
	if got != want {
		t.Errorf("sizes %v, want %v", got, want)
	}
}
