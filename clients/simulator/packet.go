package simulator

import (
	"encoding/binary"
	"errors"

	"bluejay/wire"
)

// MQTT 3.1.1 packet types, in the high half of the first byte.
const (
	mqttConnect     = 1
	mqttConnack     = 2
	mqttPublish     = 3
	mqttPuback      = 4
	mqttSubscribe   = 8
	mqttSuback      = 9
	mqttUnsubscribe = 10
	mqttPing        = 12
	mqttPong        = 13
	mqttDisconnect  = 14
)

// maxPacket bounds what is taken from a node, in bytes after the fixed header. [M-1]
const maxPacket = 6700

// packet is one MQTT packet; body aliases what it was read from.
type packet struct {
	head byte
	body []byte
}

func (p packet) kind() byte { return p.head >> 4 }

// size is what p takes on the wire.
func (p packet) size() int {
	n := 2 + len(p.body)
	if len(p.body) > 127 {
		n++
	}
	return n
}

// id is the packet id of all but PUBLISH.
func (p packet) id() uint16 {
	if len(p.body) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(p.body)
}

// publish reads a PUBLISH; ok is false for what is none.
func (p packet) publish() (topic string, id uint16, payload []byte, ok bool) {
	if p.kind() != mqttPublish || len(p.body) < 2 {
		return "", 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(p.body))
	rest := p.body[2:]
	if len(rest) < n {
		return "", 0, nil, false
	}
	topic, rest = string(rest[:n]), rest[n:]
	if p.head&6 != 0 {
		if len(rest) < 2 {
			return "", 0, nil, false
		}
		id, rest = binary.BigEndian.Uint16(rest), rest[2:]
	}
	return topic, id, rest, true
}

// filters reads the topics of a SUBSCRIBE or UNSUBSCRIBE.
func (p packet) filters() (topics []string) {
	b := p.body
	if len(b) < 2 {
		return nil
	}
	for b = b[2:]; len(b) >= 2; {
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return topics
		}
		topics, b = append(topics, string(b[2:2+n])), b[2+n:]
		if p.kind() == mqttSubscribe && len(b) > 0 {
			b = b[1:]
		}
	}
	return topics
}

// errPacket reports bytes that are no MQTT packet of this protocol.
var errPacket = errors.New("simulator: not an MQTT packet, or one too large")

// splitter cuts a stream into packets. It keeps only what is incomplete. Zero value: ready.
type splitter struct{ rest []byte }

// feed passes on every packet that b completes, until each says false.
func (s *splitter) feed(b []byte, each func(packet) bool) error {
	if len(s.rest) > 0 {
		s.rest = append(s.rest, b...)
		b = s.rest
	}
	for {
		p, n, err := parsePacket(b)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		b = b[n:]
		if !each(p) {
			break
		}
	}
	s.keep(b)
	return nil
}

func (s *splitter) keep(b []byte) {
	if len(b) == 0 {
		s.rest = nil
		return
	}
	s.rest = append([]byte(nil), b...)
}

// parsePacket reads the packet at the start of b; n is 0 while it is not complete.
func parsePacket(b []byte) (p packet, n int, err error) {
	length, shift := 0, 0
	for i := 1; ; i++ {
		switch {
		case i > 4:
			return p, 0, errPacket
		case i >= len(b):
			return p, 0, nil
		}
		length |= int(b[i]&0x7f) << shift
		shift += 7
		if b[i]&0x80 != 0 {
			continue
		}
		if length > maxPacket {
			return p, 0, errPacket
		}
		if end := i + 1 + length; len(b) >= end {
			return packet{b[0], b[i+1 : end : end]}, end, nil
		}
		return p, 0, nil
	}
}

// appendPacket writes a packet with the body that write appends.
func appendPacket(b []byte, head byte, size int, write func([]byte) []byte) []byte {
	b = binary.AppendUvarint(append(b, head), uint64(size))
	return write(b)
}

// appendConnect is CONNECT at level 4, clean, with the protocol's user name. [P-15]
func appendConnect(b []byte, keepalive uint16, password []byte) []byte {
	size := 10 + 2 + 2 + len(wire.Protocol) + 2 + len(password)
	return appendPacket(b, mqttConnect<<4, size, func(b []byte) []byte {
		b = append(b, 0, 4, 'M', 'Q', 'T', 'T', 4, 0xc2)
		b = binary.BigEndian.AppendUint16(b, keepalive)
		b = append(b, 0, 0) // no client id: it is not used
		b = appendString(b, wire.Protocol)
		return appendString(b, string(password))
	})
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// appendPublish is PUBLISH at QoS 1.
func appendPublish(b []byte, topic wire.Topic, id uint16, retain bool, payload []byte) []byte {
	t, head := topic.String(), byte(mqttPublish<<4|2)
	if retain {
		head |= 1
	}
	return appendPacket(b, head, 4+len(t)+len(payload), func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(appendString(b, t), id)
		return append(b, payload...)
	})
}

func appendPuback(b []byte, id uint16) []byte {
	return binary.BigEndian.AppendUint16(append(b, mqttPuback<<4, 2), id)
}

// appendSubscribe is SUBSCRIBE to one topic at QoS 1.
func appendSubscribe(b []byte, topic wire.Topic, id uint16) []byte {
	t := topic.String()
	return appendPacket(b, mqttSubscribe<<4|2, 5+len(t), func(b []byte) []byte {
		return append(appendString(binary.BigEndian.AppendUint16(b, id), t), 1)
	})
}

func appendUnsubscribe(b []byte, topic wire.Topic, id uint16) []byte {
	t := topic.String()
	return appendPacket(b, mqttUnsubscribe<<4|2, 4+len(t), func(b []byte) []byte {
		return appendString(binary.BigEndian.AppendUint16(b, id), t)
	})
}

// appendAnonymous is CONNECT at level 4, clean, with a client id and nothing else: for brokers that know no consent.
func appendAnonymous(b []byte, keepalive uint16, client string) []byte {
	return appendPacket(b, mqttConnect<<4, 10+2+len(client), func(b []byte) []byte {
		b = append(b, 0, 4, 'M', 'Q', 'T', 'T', 4, 2)
		return appendString(binary.BigEndian.AppendUint16(b, keepalive), client)
	})
}
