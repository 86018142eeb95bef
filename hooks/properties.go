package hooks

import (
	"bytes"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// legalProperties holds, for each packet type a client sends, the set of MQTT 5 properties that may
// stand in it (MQTT 5 table 2-4), one bit each. Those not offered are left out. [M-7]
var legalProperties = [16]uint64{
	packets.Connect: 1<<packets.PropSessionExpiryInterval | 1<<packets.PropReceiveMaximum |
		1<<packets.PropMaximumPacketSize | 1<<packets.PropTopicAliasMaximum |
		1<<packets.PropRequestResponseInfo | 1<<packets.PropRequestProblemInfo | 1<<packets.PropUser,
	packets.Publish: 1<<packets.PropPayloadFormat | 1<<packets.PropMessageExpiryInterval |
		1<<packets.PropContentType | 1<<packets.PropResponseTopic |
		1<<packets.PropCorrelationData | 1<<packets.PropUser,
	packets.Puback:      1<<packets.PropReasonString | 1<<packets.PropUser,
	packets.Subscribe:   1 << packets.PropUser,
	packets.Unsubscribe: 1 << packets.PropUser,
	packets.Disconnect:  1<<packets.PropSessionExpiryInterval | 1<<packets.PropReasonString | 1<<packets.PropUser,
}

// legalReasons lists the reason codes a client may give (MQTT 5 tables 3-4 and 3-10). None between
// 0x01 and 0x7f is in PUBACK's: only a server says "no matching subscribers".
var legalReasons = [16][]byte{
	packets.Puback: {0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	packets.Disconnect: {0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
		0x98, 0x99},
}

// refusedProperties gives the properties that are refused by name.
func refusedProperty(id byte) *checkError {
	switch id {
	case packets.PropTopicAlias:
		return errTopicAlias
	case packets.PropSubscriptionIdentifier:
		return errSubscriptionID
	case packets.PropAuthenticationMethod, packets.PropAuthenticationData:
		return errAuthMethod
	}
	return errProperty
}

// properties reads the property list of a packet of this type. [M-7]
func (c *cursor) properties(kind byte) {
	list := cursor{rest: c.take(c.propertyLength())}
	var seen uint64
	for len(list.rest) > 0 {
		id := list.byte()
		bit := uint64(1) << (id & 63)
		switch {
		case id > packets.PropSharedSubAvailable || legalProperties[kind]&bit == 0:
			list.fail(refusedProperty(id))
		case seen&bit != 0 && id != packets.PropUser:
			list.fail(errProperty)
		default:
			list.property(kind, id)
		}
		seen |= bit
	}
	if list.err != nil {
		c.fail(list.err)
	}
}

// propertyLength reads the length of the list. It is 128 at most, so that it has two bytes in one
// case only, 80 01.
func (c *cursor) propertyLength() int {
	n := int(c.byte())
	if n < 0x80 {
		return n
	}
	if n > 0x80 || c.byte() != 1 {
		c.fail(errPropertyLength)
	}
	return maxProperties
}

// property reads the value of one property.
func (c *cursor) property(kind, id byte) {
	ok := true
	switch id {
	case packets.PropPayloadFormat, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
		ok = c.byte() <= 1
	case packets.PropReceiveMaximum:
		ok = c.uint16() != 0
	case packets.PropTopicAliasMaximum:
		c.uint16()
	case packets.PropSessionExpiryInterval: // sessions end with the connection, also after DISCONNECT
		ok = c.uint32() == 0 || kind == packets.Connect
	case packets.PropMaximumPacketSize:
		if c.uint32() < maxPacket {
			c.fail(errSmallClient)
		}
	case packets.PropMessageExpiryInterval:
		c.uint32()
	case packets.PropCorrelationData:
		c.bytes(maxProperties, errShort)
	case packets.PropResponseTopic:
		topic := c.text(maxProperties, errShort)
		ok = len(topic) > 0 && !bytes.ContainsAny(topic, "+#")
	case packets.PropUser:
		c.text(maxProperties, errShort)
		c.text(maxProperties, errShort)
	case packets.PropContentType, packets.PropReasonString:
		c.text(maxProperties, errShort)
	}
	if !ok {
		c.fail(errProperty)
	}
}

// reason reads the optional end of an MQTT 5 PUBACK or DISCONNECT: a reason code, then properties.
func (c *cursor) reason(kind byte) {
	if len(c.rest) == 0 {
		return
	}
	if bytes.IndexByte(legalReasons[kind], c.byte()) < 0 {
		c.fail(errReason)
	}
	if len(c.rest) > 0 {
		c.properties(kind)
	}
}

// bytes reads a field with its length (u16) before it, refusing one of more than limit bytes.
func (c *cursor) bytes(limit int, tooLong *checkError) []byte {
	n := int(c.uint16())
	if n > limit {
		c.fail(tooLong)
	}
	return c.take(n)
}

// text reads a field like bytes, and demands UTF-8 without U+0000 (MQTT 5 section 1.5.4).
func (c *cursor) text(limit int, tooLong *checkError) []byte {
	b := c.bytes(limit, tooLong)
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		c.fail(errText)
	}
	return b
}

// packetID reads a packet id, which is never 0. [M-2]
func (c *cursor) packetID() {
	if c.uint16() == 0 {
		c.fail(errPacketID)
	}
}
