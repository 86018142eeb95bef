package hooks

import (
	"bytes"
	"io"
	"log/slog"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"bluejay/wire"
)

// receiveMaximum is how many publishes a client may have unacknowledged; more are refused.
const receiveMaximum = 64

// newMochi returns a mochi server that decodes, validates and dispatches packets for us. It is
// never told to Serve: its event loop, listeners, takeover and expiry stay off, and its log is
// discarded because it prints packets. [M-20]
func newMochi(h *hook) *mqtt.Server {
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumPacketSize = 64 << 10
	caps.MaximumQos = 1
	caps.RetainAvailable = 1
	caps.WildcardSubAvailable, caps.SharedSubAvailable, caps.SubIDAvailable = 0, 0, 0
	caps.TopicAliasMaximum = 0
	caps.MaximumSessionExpiryInterval = 0
	caps.MaximumMessageExpiryInterval = 0
	caps.ReceiveMaximum = receiveMaximum
	caps.MaximumInflight = receiveMaximum
	caps.MaximumClientWritesPending = 0
	return mqtt.New(&mqtt.Options{
		Capabilities:            caps,
		Logger:                  slog.New(slog.NewTextHandler(io.Discard, nil)),
		ClientNetReadBufferSize: 16,
		SysTopicResendInterval:  1 << 20,
	})
}

// hook is what mochi calls. Each method recovers, so that a defect here ends one connection and
// not the process; no method ever returns an error that mochi would ignore. [M-21]
type hook struct {
	mqtt.HookBase
	n *Node
}

// ID implements mqtt.Hook.
func (h *hook) ID() string { return "bluejay" }

// Provides implements mqtt.Hook.
func (h *hook) Provides(b byte) bool {
	return bytes.IndexByte([]byte{
		mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPublish, mqtt.OnPacketProcessed, mqtt.OnPacketEncode, mqtt.OnWill,
	}, b) >= 0
}

// OnConnectAuthenticate implements mqtt.Hook: nobody gets in through mochi's own attach.
func (h *hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return false }

// OnWill implements mqtt.Hook: there are no wills.
func (h *hook) OnWill(*mqtt.Client, mqtt.Will) (mqtt.Will, error) {
	return mqtt.Will{}, packets.ErrRejectPacket
}

// OnACLCheck implements mqtt.Hook. Reads are decided here. Writes are decided in OnPublish, which
// can answer: a refusal here would disconnect an MQTT 3.1.1 client.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) (ok bool) {
	defer recoverTo(&ok)
	s := h.n.sessionOf(cl)
	t, err := wire.ParseTopic(topic)
	if s == nil || err != nil {
		return false
	}
	return write || s.allowed().Subscribe(s.self, t) == wire.OK
}

func recoverTo(ok *bool) {
	if recover() != nil {
		*ok = false
	}
}

// OnPublish implements mqtt.Hook: the node takes every publish over, and mochi keeps nothing of
// it. Any other error would be ignored for MQTT 3.1.1 and the message published.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (out packets.Packet, err error) {
	defer func() {
		if recover() != nil {
			cl.Stop(packets.ErrUnspecifiedError)
		}
		out, err = pk, packets.ErrRejectPacket
	}()
	if s := h.n.sessionOf(cl); s != nil {
		h.n.publish(s, incoming{pk.TopicName, pk.FixedHeader.Qos, pk.PacketID, pk.Payload})
	}
	return
}

// OnPacketProcessed implements mqtt.Hook: it sees every PUBACK, also of packet ids mochi does not know.
func (h *hook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	defer func() {
		if recover() != nil {
			cl.Stop(packets.ErrUnspecifiedError)
		}
	}()
	if pk.FixedHeader.Type != packets.Puback {
		return
	}
	if s := h.n.sessionOf(cl); s != nil {
		h.n.ack(s, pk.PacketID, pk.ReasonCode)
	}
}

// OnPacketEncode implements mqtt.Hook: MQTT 3.1.1 has no DISCONNECT from the server, and MQTT 5
// clients are told what this broker does not do. [M-23]
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	v5 := cl.Properties.ProtocolVersion == 5
	switch {
	case pk.FixedHeader.Type == packets.Disconnect && !v5:
		pk.FixedHeader.Type = packets.Reserved // WritePacket then writes nothing
	case pk.FixedHeader.Type == packets.Connack && v5 && pk.ReasonCode == 0:
		p := &pk.Properties
		p.MaximumPacketSize = maxPacket
		p.WildcardSubAvailable, p.WildcardSubAvailableFlag = 0, true
		p.SharedSubAvailable, p.SharedSubAvailableFlag = 0, true
		p.SubIDAvailable, p.SubIDAvailableFlag = 0, true
		p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = 0, true
	}
	return pk
}
