package hooks_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Eight bytes end the process: SUBSCRIBE of MQTT 5 without options. Found by the F-Secure fuzzer. [M-2]
func TestQuirkTruncatedSubscribePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("decoded")
		}
	}()
	pk := packets.Packet{ProtocolVersion: 5}
	_ = pk.SubscribeDecode([]byte{0, 1, 0, 0, 1, 'a'})
}

// $SHARE in capitals is a share group. [M-4]
func TestQuirkShareInCapitals(t *testing.T) {
	s := stock(t, &quirkHook{})
	s.Topics.Subscribe("thief", packets.Subscription{Filter: "$SHARE/g/t"})
	if n := len(s.Topics.Subscribers("t").Shared); n != 1 {
		t.Errorf("%d shared subscriptions", n)
	}
}

// The reason of an MQTT 5 DISCONNECT of one byte is not read. Nothing here depends on it.
func TestQuirkShortDisconnectReason(t *testing.T) {
	pk := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Disconnect, Remaining: 1}}
	if err := pk.DisconnectDecode([]byte{0x81}); err != nil || pk.ReasonCode != 0 {
		t.Errorf("reason %#x, %v", pk.ReasonCode, err)
	}
}

// Without room for pending writes mochi's own fan-out drops instead of waiting: we rely on it. [M-20]
func TestQuirkNoPendingWritesNoFanOut(t *testing.T) {
	s := stock(t, &quirkHook{}, func(o *mqtt.Options) { o.Capabilities.MaximumClientWritesPending = 0 })
	cl, conn := attached(s, 4, "c")
	subscribed(s, cl, "t")
	if err := s.Publish("t", []byte("x"), false, 1); err != nil || len(conn.sent()) != 0 || cl.State.Inflight.Len() != 0 {
		t.Errorf("%v, %d in flight", err, cl.State.Inflight.Len())
	}
}

// A second CONNECT is logged with its password. Our server's log is discarded. [M-2]
func TestQuirkSecondConnectIsLogged(t *testing.T) {
	log := new(bytes.Buffer)
	s := stock(t, &quirkHook{}, func(o *mqtt.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	first := connectAs("x", "u", 2, 60)
	second := frame(0x10, append(field("MQTT"), 4, 0xc2, 0, 60), field("x"), field("u"), field("hunter2"))
	_ = s.EstablishConnection("l", says(first, second))
	if !strings.Contains(log.String(), strings.Trim(fmt.Sprint([]byte("hunter2")), "[]")) {
		t.Error("the log does not hold the password any more")
	}
}
