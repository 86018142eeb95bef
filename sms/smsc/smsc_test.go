package smsc_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/fiorix/go-smpp/smpp"
	"github.com/fiorix/go-smpp/smpp/pdu"
	"github.com/fiorix/go-smpp/smpp/pdu/pdufield"
	"github.com/fiorix/go-smpp/smpp/pdu/pdutext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bluejay/sms/smsc"
)

func start(t *testing.T) *smsc.Server {
	t.Helper()
	s, err := smsc.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// client binds with the library's own client, so that the server is tested by what nobody here wrote.
func client(t *testing.T, s *smsc.Server, handler smpp.HandlerFunc) *smpp.Transceiver {
	t.Helper()
	c := &smpp.Transceiver{Addr: s.Addr(), User: smsc.SystemID, Passwd: smsc.Password, Handler: handler, RespTimeout: 30 * time.Second}
	status := <-c.Bind()
	if status.Error() != nil {
		t.Fatal(status.Error())
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestServerRecords(t *testing.T) {
	s := start(t)
	receipts := make(chan string, 1)
	c := client(t, s, func(p pdu.Body) {
		if p.Header().ID == pdu.DeliverSMID {
			receipts <- p.Fields()[pdufield.ShortMessage].String()
		}
	})
	sent := &smpp.ShortMessage{Src: "shop", Dst: "447700900123", DestAddrTON: 1, Text: pdutext.UCS2("привет"), Register: pdufield.FinalDeliveryReceipt}
	sm, err := c.Submit(sent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Wait(t.Context(), func(m smsc.Message) bool { return m.From == "shop" })
	want := smsc.Message{To: "+447700900123", From: "shop", Text: "привет", Parts: 1, Receipt: true}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(smsc.Message{}, "At")); err != nil || diff != "" {
		t.Errorf("recorded (-want +got) %v:\n%s", err, diff)
	}
	if r := <-receipts; len(r) < 11 || r[:3] != "id:" || r[3:11] != sm.RespID() {
		t.Errorf("receipt %q for id %q", r, sm.RespID())
	}
	if len(s.Messages()) != 1 || s.Submits() != 1 || got.At.IsZero() {
		t.Errorf("%d messages of %d submits at %v", len(s.Messages()), s.Submits(), got.At)
	}
}

// TestFollow: whoever follows gets each message once, those that were there before, too, and they are
// forgotten; who waits beside it does not stumble.
func TestFollow(t *testing.T) {
	s := start(t)
	c := client(t, s, nil)
	submit := func() {
		t.Helper()
		if _, err := c.Submit(&smpp.ShortMessage{Src: "shop", Dst: "447700900123", Text: pdutext.GSM7("x")}); err != nil {
			t.Fatal(err)
		}
	}
	submit()
	ctx, cancel := context.WithCancel(t.Context())
	got, waited, ended := make(chan smsc.Message, 9), make(chan error, 1), make(chan bool)
	go func() {
		_, err := s.Wait(ctx, func(smsc.Message) bool { return false })
		waited <- err
	}()
	go func() { s.Follow(ctx, func(m smsc.Message) { got <- m }); close(ended) }()
	for range 3 {
		if m := <-got; m.Text != "x" {
			t.Errorf("%+v", m)
		}
		submit()
	}
	<-got
	cancel()
	<-ended
	if err := <-waited; !errors.Is(err, context.Canceled) || len(got) != 0 || len(s.Messages()) != 0 {
		t.Errorf("%v; %d too many, %d kept", err, len(got), len(s.Messages()))
	}
}

func TestServerScript(t *testing.T) {
	s := start(t)
	s.Play(func(p smsc.Part) smsc.Reply { return smsc.Reply{Status: 0x0b} })
	c := client(t, s, nil)
	_, err := c.Submit(&smpp.ShortMessage{Src: "shop", Dst: "447700900123", Text: pdutext.GSM7("x")})
	if err == nil || len(s.Messages()) != 0 {
		t.Errorf("refused: %v, %d messages", err, len(s.Messages()))
	}
}

func TestServerEnds(t *testing.T) {
	s := start(t)
	client(t, s, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Wait(ctx, func(smsc.Message) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	s.Close()
	s.Close()
	if c, err := net.Dial("tcp", s.Addr()); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}
	if _, err := smsc.Start("256.0.0.1:0"); err == nil {
		t.Error("listening on no address")
	}
	if s.Unreported() != 0 {
		t.Error("receipts without texts")
	}
}
