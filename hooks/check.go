package hooks

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/mochi-mqtt/server/v2/packets"

	"bluejay/wire"
)

// Limits on the remaining length of a packet, in bytes. [M-1]
const (
	maxConnect = 400  // CONNECT: 247 for MQTT 3.1.1 with every field full, and 128 of properties
	maxBody    = 6700 // later: 1,600 characters of 4 bytes sealed as one text, with topic and properties
	maxPacket  = 1 + 2 + maxBody
)

// Limits on the fields of a packet. [M-3] [M-4] [M-7]
const (
	maxClientID   = 23 // bytes
	maxUserName   = 8  // bytes
	maxPassword   = 200
	maxFilters    = 32  // in one SUBSCRIBE or UNSUBSCRIBE
	maxProperties = 128 // bytes of properties in one packet
)

// First bytes of the packets whose flags are fixed.
const (
	headConnect     = 0x10
	headPuback      = 0x40
	headSubscribe   = 0x82
	headUnsubscribe = 0xa2
	headPingreq     = 0xc0
	headDisconnect  = 0xe0
)

// A checkError is why a packet was refused: one of the variables below, never another. It holds
// nothing of the packet, so that it can be logged as it is. reason is the MQTT 5 reason code. [M-2]
type checkError struct {
	reason byte
	text   string
}

// Error is one line for the log.
func (e *checkError) Error() string { return "mqtt: " + e.text }

// What is wrong with a packet; the closed set of [M-2].
var (
	errLength         = &checkError{0x81, "remaining length not in its shortest form"}
	errTooLong        = &checkError{0x95, "packet longer than allowed here"}
	errShort          = &checkError{0x81, "a field runs past the end of the packet"}
	errSurplus        = &checkError{0x81, "bytes left over after the last field"}
	errText           = &checkError{0x81, "text is not UTF-8 without U+0000"}
	errNotConnect     = &checkError{0x82, "first packet is not a CONNECT"}
	errSecondConnect  = &checkError{0x82, "second CONNECT"}
	errType           = &checkError{0x82, "packet type or flags that a client may not send"}
	errLevel          = &checkError{0x84, "protocol is neither MQTT 3.1.1 nor 5"}
	errConnectFlags   = &checkError{0x81, "reserved or contradictory CONNECT flags"}
	errWill           = &checkError{0x83, "wills are not offered"}
	errClean          = &checkError{0x83, "sessions are not stored: set clean start"}
	errClientID       = &checkError{0x85, "client id longer than 23 bytes"}
	errCredentials    = &checkError{0x86, "user name or password missing or too long"}
	errAuthMethod     = &checkError{0x8c, "enhanced authentication is not offered"}
	errQoS            = &checkError{0x9b, "QoS 2 is not offered"}
	errRetain         = &checkError{0x9a, "RETAIN is for key bundles only"}
	errTopic          = &checkError{0x90, "not a topic of this protocol"}
	errFilter         = &checkError{0x8f, "not a topic of this protocol: wildcards and shares are not offered"}
	errFilterCount    = &checkError{0x82, "no filter, or more than 32"}
	errOptions        = &checkError{0x81, "reserved subscription options"}
	errPacketID       = &checkError{0x82, "packet id 0"}
	errReason         = &checkError{0x81, "reason code not for this packet"}
	errPropertyLength = &checkError{0x81, "more than 128 bytes of properties, or their length badly written"}
	errProperty       = &checkError{0x82, "property not for this packet, twice, or out of range"}
	errTopicAlias     = &checkError{0x94, "topic aliases are not offered"}
	errSubscriptionID = &checkError{0xa1, "subscription identifiers are not offered"}
	errSmallClient    = &checkError{0x95, "client takes only packets smaller than this protocol's"}
)

// connack3 maps to the return codes of an MQTT 3.1.1 CONNACK; 0 is none: close without a word.
func (e *checkError) connack3() byte {
	switch e.reason {
	case 0x84:
		return 1
	case 0x85:
		return 2
	case 0x86:
		return 4
	case 0x83, 0x8c:
		return 5
	}
	return 0
}

// answer is the packet that may still be sent before closing: a CONNACK to who was connecting
// (version 0), a DISCONNECT to an MQTT 5 client, nothing to an MQTT 3.1.1 client. [M-2] [M-23]
func (e *checkError) answer(version byte, p packet) []byte {
	switch {
	case version == 5:
		return []byte{headDisconnect, 2, e.reason, 0}
	case version != 0 || e == errNotConnect:
		return nil
	case p.level() == 5:
		return []byte{packets.Connack << 4, 3, 0, e.reason, 0}
	case e.connack3() != 0:
		return []byte{packets.Connack << 4, 2, 0, e.connack3()}
	}
	return nil
}

// packet is one MQTT control packet as read: its first byte and what follows the remaining
// length. Zero value: not a packet.
type packet struct {
	header byte
	body   []byte
}

// level is the protocol level a CONNECT claims; 0 if it is too short to say.
func (p packet) level() byte {
	if len(p.body) < 7 {
		return 0
	}
	return p.body[6]
}

// limitFor is the remaining length allowed to a client of version (0: not connected yet). [M-1]
func limitFor(version byte) int {
	if version == 0 {
		return maxConnect
	}
	return maxBody
}

// readPacket reads one packet whose remaining length is at most limit. The body is allocated only
// once its length is known to be allowed, and belongs to the caller: decoded topics point into it.
// Errors: a [checkError], or the reader's; io.EOF only between packets. [M-1]
func readPacket(r *bufio.Reader, limit int) (packet, error) {
	header, err := r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	n, err := readLength(r, limit)
	if err != nil {
		return packet{}, inPacket(err)
	}
	if n == 0 {
		return packet{header: header}, nil
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return packet{}, inPacket(err)
	}
	return packet{header, body}, nil
}

// inPacket tells an end within a packet from one between packets.
func inPacket(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLength reads a remaining length, giving up at the first byte that decides against it. [M-1]
func readLength(r *bufio.Reader, limit int) (int, error) {
	n := 0
	for i := range 4 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int(b&0x7f) << (7 * i)
		switch {
		case b == 0 && i > 0: // the byte before would have done
			return 0, errLength
		case n > limit:
			return 0, errTooLong
		case b < 0x80:
			return n, nil
		}
	}
	return 0, errLength
}

// checkPacket accepts exactly the packets a client of this protocol may send: mochi decodes each of
// them without error, and into what the bytes say. version is 4 or 5, or 0 before CONNECT, which
// carries it. The error is nil or a [checkError]. It does not allocate. [M-2]
// It does not prove that this client may use the topic, nor anything about the payload.
func checkPacket(version byte, p packet) error {
	if e := check(version, p); e != nil {
		return e
	}
	return nil
}

func check(version byte, p packet) *checkError {
	kind := p.header >> 4
	switch {
	case version == 0 && p.header != headConnect:
		return errNotConnect
	case len(p.body) > limitFor(version):
		return errTooLong
	case version == 0:
		return checkConnect(p)
	case kind == packets.Publish:
		return checkPublish(version, p)
	case p.header == headPuback:
		return checkPuback(version, p)
	case p.header == headSubscribe, p.header == headUnsubscribe:
		return checkFilters(version, p)
	case p.header == headPingreq:
		c := cursor{rest: p.body}
		return c.end()
	case p.header == headDisconnect:
		return checkDisconnect(version, p)
	}
	return refuseKind(kind)
}

// refuseKind names the packet types that are refused for what they ask. [M-3] [M-5]
func refuseKind(kind byte) *checkError {
	switch kind {
	case packets.Connect:
		return errSecondConnect
	case packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return errQoS
	}
	return errType
}

// checkConnect checks a CONNECT. [M-3]
func checkConnect(p packet) *checkError {
	c := cursor{rest: p.body}
	name, level := c.bytes(4, errLevel), c.byte()
	if string(name) != "MQTT" || level != 4 && level != 5 {
		return c.because(errLevel)
	}
	flags := c.byte()
	c.uint16() // keepalive: any, it is clamped
	if e := checkConnectFlags(flags); e != nil {
		return c.because(e)
	}
	if level == 5 {
		c.properties(packets.Connect)
	}
	c.text(maxClientID, errClientID)
	if flags&flagUserName != 0 {
		c.text(maxUserName, errCredentials)
	}
	if flags&flagPassword != 0 && len(c.bytes(maxPassword, errCredentials)) == 0 {
		return c.because(errCredentials)
	}
	return c.end()
}

// Bits of the CONNECT flags.
const (
	flagReserved = 0x01
	flagClean    = 0x02
	flagWill     = 0x04 | 0x08 | 0x10 | 0x20 // flag, QoS and retain
	flagPassword = 0x40
	flagUserName = 0x80
)

// checkConnectFlags checks the flags byte of a CONNECT. [M-3]
func checkConnectFlags(flags byte) *checkError {
	switch {
	case flags&flagReserved != 0:
		return errConnectFlags
	case flags&flagWill != 0:
		return errWill
	case flags&flagClean == 0:
		return errClean
	case flags&flagPassword != 0 && flags&flagUserName == 0:
		return errCredentials
	}
	return nil
}

// checkPublish checks a PUBLISH: QoS 0 or 1, an exact topic, RETAIN only where the broker keeps
// what it is given. [M-4] [M-5] [M-6]
func checkPublish(version byte, p packet) *checkError {
	retain, qos, dup := p.header&1 != 0, p.header>>1&3, p.header&8 != 0
	switch {
	case qos > 1:
		return errQoS
	case dup && qos == 0:
		return errType
	}
	c := cursor{rest: p.body}
	topic, err := wire.ParseTopic(string(c.bytes(wire.MaxTopic, errTopic)))
	if err != nil {
		return c.because(errTopic)
	}
	if retain && topic.Kind != wire.TopicBundle {
		return errRetain
	}
	if qos == 1 {
		c.packetID()
	}
	if version == 5 {
		c.properties(packets.Publish)
	}
	return c.err // the rest is the payload
}

// checkPuback checks a PUBACK: of 2 bytes, or the longer forms of MQTT 5. [M-2]
func checkPuback(version byte, p packet) *checkError {
	c := cursor{rest: p.body}
	c.packetID()
	if version == 5 {
		c.reason(packets.Puback)
	}
	return c.end()
}

// checkDisconnect checks a DISCONNECT: empty, or the longer forms of MQTT 5. [M-2]
func checkDisconnect(version byte, p packet) *checkError {
	c := cursor{rest: p.body}
	if version == 5 {
		c.reason(packets.Disconnect)
	}
	return c.end()
}

// checkFilters checks a SUBSCRIBE or UNSUBSCRIBE: from 1 to 32 exact topics. [M-4]
func checkFilters(version byte, p packet) *checkError {
	c := cursor{rest: p.body}
	c.packetID()
	if version == 5 {
		c.properties(p.header >> 4)
	}
	n := 0
	for ; len(c.rest) > 0 && n <= maxFilters; n++ {
		if _, err := wire.ParseTopic(string(c.bytes(wire.MaxTopic, errFilter))); err != nil {
			return c.because(errFilter)
		}
		if p.header == headSubscribe {
			c.options(version)
		}
	}
	if n == 0 || n > maxFilters {
		return c.because(errFilterCount)
	}
	return c.end()
}

// options reads the options of one subscription: QoS 0 or 1, and those of MQTT 5. [M-5]
func (c *cursor) options(version byte) {
	b := c.byte()
	reserved, handling := b&0xc0, b>>4&3
	if version == 4 {
		reserved, handling = b&0xfc, 0
	}
	switch {
	case reserved != 0 || handling == 3:
		c.fail(errOptions)
	case b&3 > 1:
		c.fail(errQoS)
	}
}

// decode hands a checked packet to mochi's decoder. What it returns points into p.body.
// It is total only for packets that [checkPacket] accepts. [M-2]
func (p packet) decode(version byte) (pk packets.Packet, err error) {
	err = p.decodeInto(&pk, version)
	return pk, err
}

// decodeInto is decode without a copy: pk is empty.
func (p packet) decodeInto(pk *packets.Packet, version byte) (err error) {
	pk.ProtocolVersion = version
	if err := pk.FixedHeader.Decode(p.header); err != nil {
		return err
	}
	pk.FixedHeader.Remaining = len(p.body)
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectDecode(p.body)
	case packets.Publish:
		err = pk.PublishDecode(p.body)
	case packets.Puback:
		err = pk.PubackDecode(p.body)
	case packets.Subscribe:
		err = pk.SubscribeDecode(p.body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(p.body)
	case packets.Pingreq:
	case packets.Disconnect:
		err = pk.DisconnectDecode(p.body)
	default:
		err = errType
	}
	return err
}

// cursor reads fields off the front of a packet. The first failure sticks: nothing is left to read
// after it, and every further field is empty. Zero value: the end of a packet.
type cursor struct {
	rest []byte
	err  *checkError
}

// fail ends the reading for a reason, if it has not ended before.
func (c *cursor) fail(e *checkError) {
	c.rest, c.err = nil, c.because(e)
}

// because is the first failure: the one before, or e.
func (c *cursor) because(e *checkError) *checkError {
	if c.err != nil {
		return c.err
	}
	return e
}

// end is the verdict when no field should be left.
func (c *cursor) end() *checkError {
	if len(c.rest) > 0 {
		return errSurplus
	}
	return c.err
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.fail(errShort)
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}
