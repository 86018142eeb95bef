package hooks

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Topics that pass, one of each length.
const (
	anID          = "AAECAwQFBgcICQoL"
	aTag          = "AAECAwQFBgcI"
	inboxTopic    = "i/" + aTag
	helloTopic    = "h/" + anID
	bundleTopic   = "b/" + anID
	presenceTopic = "p/" + aTag
)

// cat joins bytes: an int is one byte, a string is its bytes.
func cat(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// lp is a field with its length before it.
func lp(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

// props is a property list of less than 128 bytes with its length.
func props(parts ...any) []byte {
	list := cat(parts...)
	return cat(len(list), list)
}

func user(k, v string) []byte { return cat(int(packets.PropUser), lp(k), lp(v)) }

// connect builds the body of a CONNECT.
func connect(level, flags int, rest ...any) []byte {
	return cat(lp("MQTT"), level, flags, 0, 60, cat(rest...))
}

// a checkCase is one packet and the verdict on it.
type checkCase struct {
	name    string
	version byte
	header  byte
	body    []byte
	want    *checkError // nil: it passes
}

var filler = strings.Repeat("x", maxBody)

// checkCases has at least one packet that passes and one that is refused for each rule.
var checkCases = []checkCase{
	// CONNECT [M-3]
	{"connect 4", 0, 0x10, connect(4, 0xc2, lp("id"), lp("bj1"), lp("password")), nil},
	{"connect 5", 0, 0x10, connect(5, 0xc2, props(), lp("id"), lp("bj1"), lp("password")), nil},
	{"connect without credentials", 0, 0x10, connect(4, 0x02, lp("")), nil},
	{"connect with a user name only", 0, 0x10, connect(4, 0x82, lp(""), lp("bj1")), nil},
	{"connect, every field full", 0, 0x10, connect(4, 0xc2, lp(filler[:23]), lp(filler[:8]), lp(filler[:200])), nil},
	{"first packet a ping", 0, 0xc0, nil, errNotConnect},
	{"first packet of type 0", 0, 0x00, nil, errNotConnect},
	{"connect with flags", 0, 0x11, connect(4, 2, lp("")), errNotConnect},
	{"connect empty", 0, 0x10, nil, errShort},
	{"connect of 401 bytes", 0, 0x10, []byte(filler[:401]), errTooLong},
	{"connect 3.1", 0, 0x10, cat(lp("MQIsdp"), 3, 2, 0, 60, lp("id")), errLevel},
	{"connect level 3", 0, 0x10, connect(3, 2, lp("id")), errLevel},
	{"connect level 6", 0, 0x10, connect(6, 2, lp("id")), errLevel},
	{"connect, name in small letters", 0, 0x10, cat(lp("mqtt"), 4, 2, 0, 60, lp("id")), errLevel},
	{"connect, name too short", 0, 0x10, cat(lp("MQT"), 4, 2, 0, 60, lp("id")), errLevel},
	{"connect, reserved flag", 0, 0x10, connect(4, 3, lp("id")), errConnectFlags},
	{"connect, will", 0, 0x10, connect(4, 6, lp("id"), lp("t"), lp("x")), errWill},
	{"connect, will QoS without a will", 0, 0x10, connect(4, 0x0a, lp("id")), errWill},
	{"connect, will QoS 3", 0, 0x10, connect(4, 0x1e, lp("id"), lp("t"), lp("x")), errWill},
	{"connect, will retain without a will", 0, 0x10, connect(4, 0x22, lp("id")), errWill},
	{"connect, stored session", 0, 0x10, connect(4, 0, lp("id")), errClean},
	{"connect, client id of 24", 0, 0x10, connect(4, 2, lp(filler[:24])), errClientID},
	{"connect, client id not UTF-8", 0, 0x10, connect(4, 2, lp("\xff")), errText},
	{"connect, client id with a surrogate", 0, 0x10, connect(4, 2, lp("\xed\xa0\x80")), errText},
	{"connect, client id with U+0000", 0, 0x10, connect(4, 2, lp("a\x00")), errText},
	{"connect, no client id", 0, 0x10, connect(4, 2), errShort},
	{"connect, user name of 9", 0, 0x10, connect(4, 0x82, lp(""), lp(filler[:9])), errCredentials},
	{"connect, user name missing", 0, 0x10, connect(4, 0x82, lp("")), errShort},
	{"connect, user name not UTF-8", 0, 0x10, connect(4, 0x82, lp(""), lp("\xc0\x80")), errText},
	{"connect, password alone", 0, 0x10, connect(4, 0x42, lp(""), lp("p")), errCredentials},
	{"connect, password empty", 0, 0x10, connect(4, 0xc2, lp(""), lp("bj1"), lp("")), errCredentials},
	{"connect, password of 201", 0, 0x10, connect(4, 0xc2, lp(""), lp("bj1"), lp(filler[:201])), errCredentials},
	{"connect, password cut", 0, 0x10, connect(4, 0xc2, lp(""), lp("bj1"), 0, 5, "pass"), errShort},
	{"connect, trailing byte", 0, 0x10, connect(4, 2, lp("id"), 0), errSurplus},
	{"second connect", 4, 0x10, connect(4, 2, lp("id")), errSecondConnect},
	// properties of CONNECT [M-7]
	{"connect 5 with all properties", 0, 0x10, connect(5, 2, props(
		0x11, 0, 0, 0, 9, 0x21, 0, 1, 0x27, 0, 0, 0x1a, 0x2f, 0x22, 0, 9, 0x19, 1, 0x17, 0,
		user("k", "v"), user("k", "v")), lp("")), nil},
	{"connect 5 without a property length", 0, 0x10, connect(5, 2), errShort},
	{"connect 5, receive maximum 0", 0, 0x10, connect(5, 2, props(0x21, 0, 0), lp("")), errProperty},
	{"connect 5, takes 6,702 bytes", 0, 0x10, connect(5, 2, props(0x27, 0, 0, 0x1a, 0x2e), lp("")), errSmallClient},
	{"connect 5, authentication method", 0, 0x10, connect(5, 2, props(0x15, lp("SCRAM")), lp("")), errAuthMethod},
	{"connect 5, authentication data", 0, 0x10, connect(5, 2, props(0x16, lp("x")), lp("")), errAuthMethod},
	{"connect 5, request problem information 2", 0, 0x10, connect(5, 2, props(0x17, 2), lp("")), errProperty},
	{"connect 5, property twice", 0, 0x10, connect(5, 2, props(0x22, 0, 1, 0x22, 0, 1), lp("")), errProperty},
	{"connect 5, property of a will", 0, 0x10, connect(5, 2, props(0x18, 0, 0, 0, 1), lp("")), errProperty},
	{"connect 5, property of a server", 0, 0x10, connect(5, 2, props(0x24, 1), lp("")), errProperty},
	{"connect 5, property cut", 0, 0x10, connect(5, 2, props(0x21, 0), lp("id")), errShort},
	{"connect 5, property 0", 0, 0x10, connect(5, 2, props(0), lp("")), errProperty},
	{"connect 5, property 43", 0, 0x10, connect(5, 2, props(43), lp("")), errProperty},
	{"connect 5, property 128+33", 0, 0x10, connect(5, 2, props(0xa1, 0, 0, 1), lp("")), errProperty},
	{"connect 5, 128 bytes of properties", 0, 0x10,
		connect(5, 2, 0x80, 1, user(filler[:123], ""), lp("")), nil},
	{"connect 5, 129 bytes of properties", 0, 0x10,
		connect(5, 2, 0x81, 1, user(filler[:124], ""), lp("")), errPropertyLength},
	{"connect 5, property length 0 in two bytes", 0, 0x10, connect(5, 2, 0x80, 0, lp("")), errPropertyLength},
	// PUBLISH [M-4] [M-5] [M-6]
	{"publish QoS 0", 4, 0x30, cat(lp(inboxTopic), "payload"), nil},
	{"publish QoS 1", 4, 0x32, cat(lp(inboxTopic), 0, 1, "payload"), nil},
	{"publish again", 4, 0x3a, cat(lp(helloTopic), 0, 1, "payload"), nil},
	{"publish nothing", 5, 0x32, cat(lp("c"), 0, 1, props()), nil},
	{"publish 5", 5, 0x32, cat(lp(inboxTopic), 0, 1, props(), "payload"), nil},
	{"publish the longest", 4, 0x32, cat(lp(helloTopic), 0, 1, filler[:maxBody-22]), nil},
	{"publish one too long", 4, 0x32, cat(lp(helloTopic), 0, 1, filler[:maxBody-21]), errTooLong},
	{"publish QoS 2", 4, 0x34, cat(lp(inboxTopic), 0, 1, "payload"), errQoS},
	{"publish QoS 3", 4, 0x36, cat(lp(inboxTopic), 0, 1, "payload"), errQoS},
	{"publish QoS 0 again", 4, 0x38, cat(lp(inboxTopic), "payload"), errType},
	{"publish with packet id 0", 4, 0x32, cat(lp(inboxTopic), 0, 0, "payload"), errPacketID},
	{"publish without packet id", 4, 0x32, lp(inboxTopic), errShort},
	{"publish a bundle, retained", 4, 0x33, cat(lp(bundleTopic), 0, 1, "payload"), nil},
	{"publish retained elsewhere", 4, 0x33, cat(lp(inboxTopic), 0, 1, "payload"), errRetain},
	{"publish presence, retained", 5, 0x31, cat(lp(presenceTopic), props(), 1), errRetain},
	{"publish to nothing", 4, 0x30, lp(""), errTopic},
	{"publish to a wildcard", 4, 0x30, lp("#"), errTopic},
	{"publish to $SYS", 4, 0x30, lp("$SYS/broker"), errTopic},
	{"publish to a third level", 4, 0x30, lp("i/AAAA/AAAAAAA"), errTopic},
	{"publish to 64 KiB of levels", 4, 0x30, cat(0xff, 0xff, strings.Repeat("/", 2000)), errTopic},
	{"publish, topic cut", 4, 0x30, cat(0, 14, "i/"), errShort},
	{"publish, empty", 4, 0x30, nil, errShort},
	{"publish 5 without a property length", 5, 0x30, lp(inboxTopic), errShort},
	// properties of PUBLISH [M-7]
	{"publish 5 with all properties", 5, 0x30, cat(lp(inboxTopic), props(0x01, 1, 0x02, 0, 0, 0, 9,
		0x03, lp("text/plain"), 0x08, lp("r"), 0x09, lp("id"), user("k", "v")), "payload"), nil},
	{"publish 5, topic alias", 5, 0x30, cat(lp(inboxTopic), props(0x23, 0, 1)), errTopicAlias},
	{"publish 5, topic alias only", 5, 0x30, cat(lp(""), props(0x23, 0, 1)), errTopic},
	{"publish 5, subscription identifier", 5, 0x30, cat(lp(inboxTopic), props(0x0b, 1)), errSubscriptionID},
	{"publish 5, payload format 2", 5, 0x30, cat(lp(inboxTopic), props(1, 2)), errProperty},
	{"publish 5, empty response topic", 5, 0x30, cat(lp(inboxTopic), props(8, lp(""))), errProperty},
	{"publish 5, wildcard as response topic", 5, 0x30, cat(lp(inboxTopic), props(8, lp("a/+"))), errProperty},
	{"publish 5, content type not UTF-8", 5, 0x30, cat(lp(inboxTopic), props(3, lp("\x80"))), errText},
	{"publish 5, user property cut", 5, 0x30, cat(lp(inboxTopic), props(0x26, lp("k"), 0, 9)), errShort},
	{"publish 5, properties past the end", 5, 0x30, cat(lp(inboxTopic), 9, 1), errShort},
	// PUBACK
	{"puback", 4, 0x40, cat(0, 1), nil},
	{"puback 5", 5, 0x40, cat(1, 0), nil},
	{"puback 5 with a reason", 5, 0x40, cat(0, 1, 0x83), nil},
	{"puback 5 with properties", 5, 0x40, cat(0, 1, 0x97, props(0x1f, lp("why"), user("k", "v"))), nil},
	{"puback of 0", 4, 0x40, cat(0, 0), errPacketID},
	{"puback of 1 byte", 4, 0x40, cat(1), errShort},
	{"puback with a reason", 4, 0x40, cat(0, 1, 0), errSurplus},
	{"puback 5, no matching subscribers", 5, 0x40, cat(0, 1, 0x10), errReason},
	{"puback 5, trailing byte", 5, 0x40, cat(0, 1, 0, props(), 0), errSurplus},
	{"puback with flags", 4, 0x42, cat(0, 1), errType},
	// SUBSCRIBE and UNSUBSCRIBE [M-4]
	{"subscribe", 4, 0x82, cat(0, 1, lp(presenceTopic), 1), nil},
	{"subscribe 5", 5, 0x82, cat(0, 1, props(user("k", "v")), lp(presenceTopic), 0x2d), nil},
	{"subscribe to 32", 4, 0x82, cat(0, 1, slices.Repeat(cat(lp(presenceTopic), 0), 32)), nil},
	{"subscribe to 33", 4, 0x82, cat(0, 1, slices.Repeat(cat(lp(presenceTopic), 0), 33)), errFilterCount},
	{"subscribe to nothing", 4, 0x82, cat(0, 1), errFilterCount},
	{"subscribe with packet id 0", 4, 0x82, cat(0, 0, lp(presenceTopic), 1), errPacketID},
	{"subscribe at QoS 2", 4, 0x82, cat(0, 1, lp(presenceTopic), 2), errQoS},
	{"subscribe 5 at QoS 2", 5, 0x82, cat(0, 1, props(), lp(presenceTopic), 2), errQoS},
	{"subscribe with options", 4, 0x82, cat(0, 1, lp(presenceTopic), 4), errOptions},
	{"subscribe 5, retain handling 3", 5, 0x82, cat(0, 1, props(), lp(presenceTopic), 0x30), errOptions},
	{"subscribe 5, reserved options", 5, 0x82, cat(0, 1, props(), lp(presenceTopic), 0x40), errOptions},
	{"subscribe to a wildcard", 4, 0x82, cat(0, 1, lp("p/+"), 0), errFilter},
	{"subscribe to everything", 4, 0x82, cat(0, 1, lp("#"), 0), errFilter},
	{"subscribe in a group", 4, 0x82, cat(0, 1, lp("$share/g/k"), 0), errFilter},
	{"subscribe in a GROUP", 4, 0x82, cat(0, 1, lp("$SHARE/g/k"), 0), errFilter},
	{"subscribe to $SYS", 4, 0x82, cat(0, 1, lp("$SYS/#"), 0), errFilter},
	{"subscribe to 64 KiB of levels", 4, 0x82, cat(0, 1, 0xff, 0xff, strings.Repeat("/", 2000)), errFilter},
	{"subscribe 5 without options", 5, 0x82, cat(0, 1, props(), lp("k")), errShort},
	{"subscribe without options", 4, 0x82, cat(0, 1, lp("k")), errShort},
	{"subscribe 5, subscription identifier", 5, 0x82, cat(0, 1, props(0x0b, 1), lp("k"), 0), errSubscriptionID},
	{"subscribe with flags 0", 4, 0x80, cat(0, 1, lp("k"), 0), errType},
	{"unsubscribe", 4, 0xa2, cat(0, 1, lp(presenceTopic)), nil},
	{"unsubscribe 5", 5, 0xa2, cat(0, 1, props(), lp(presenceTopic), lp("k")), nil},
	{"unsubscribe from nothing", 5, 0xa2, cat(0, 1, props()), errFilterCount},
	{"unsubscribe from a wildcard", 4, 0xa2, cat(0, 1, lp("+")), errFilter},
	{"unsubscribe, filter cut", 4, 0xa2, cat(0, 1, lp("k"), 0), errShort},
	{"unsubscribe with flags 0", 4, 0xa0, cat(0, 1, lp("k")), errType},
	// PINGREQ, DISCONNECT
	{"ping", 4, 0xc0, nil, nil},
	{"ping with a body", 4, 0xc0, cat(0), errSurplus},
	{"ping with flags", 5, 0xc1, nil, errType},
	{"disconnect", 4, 0xe0, nil, nil},
	{"disconnect 5", 5, 0xe0, nil, nil},
	{"disconnect 5 with a reason", 5, 0xe0, cat(4), nil},
	{"disconnect 5 with properties", 5, 0xe0, cat(0, props(0x11, 0, 0, 0, 0, 0x1f, lp("bye"))), nil},
	{"disconnect with a reason", 4, 0xe0, cat(0), errSurplus},
	{"disconnect 5, keep alive timeout", 5, 0xe0, cat(0x8d), errReason},
	{"disconnect 5, session kept after all", 5, 0xe0, cat(0, props(0x11, 0, 0, 0, 1)), errProperty},
	{"disconnect 5, server reference", 5, 0xe0, cat(0, props(0x1c, lp("b"))), errProperty},
	{"disconnect with flags", 4, 0xe2, nil, errType},
	// packets that are not a client's, or not offered [M-5]
	{"type 0", 4, 0x00, nil, errType},
	{"connack", 4, 0x20, cat(0, 0), errType},
	{"pubrec", 4, 0x50, cat(0, 1), errQoS},
	{"pubrel", 4, 0x62, cat(0, 1), errQoS},
	{"pubcomp", 4, 0x70, cat(0, 1), errQoS},
	{"suback", 4, 0x90, cat(0, 1, 0), errType},
	{"unsuback", 4, 0xb0, cat(0, 1), errType},
	{"pingresp", 4, 0xd0, nil, errType},
	{"auth", 5, 0xf0, cat(0x18, props()), errType},
}

// TestCheckPacket keeps [M-2], [M-3], [M-4], [M-5], [M-6] and [M-7].
func TestCheckPacket(t *testing.T) {
	reasons := map[*checkError]bool{}
	for _, c := range checkCases {
		reasons[c.want] = true
		p := packet{c.header, c.body}
		err := checkPacket(c.version, p)
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v, want it to pass", c.name, err)
				continue
			}
			if _, err := p.decode(versionOf(c.version, p)); err != nil {
				t.Errorf("%s: passes, and mochi's decoder says %v", c.name, err)
			}
		} else if err != error(c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, e := range closedSet {
		if !reasons[e] && e != errLength { // errLength: TestReadPacket
			t.Errorf("no packet is refused for %q", e.text)
		}
	}
}

// closedSet is every reason there is.
var closedSet = []*checkError{
	errLength, errTooLong, errShort, errSurplus, errText, errNotConnect, errSecondConnect, errType,
	errLevel, errConnectFlags, errWill, errClean, errClientID, errCredentials, errAuthMethod, errQoS,
	errRetain, errTopic, errFilter, errFilterCount, errOptions, errPacketID, errReason,
	errPropertyLength, errProperty, errTopicAlias, errSubscriptionID, errSmallClient,
}

// versionOf is the version to decode a packet by: a CONNECT carries its own.
func versionOf(version byte, p packet) byte {
	if version == 0 {
		return p.level()
	}
	return version
}

// wirePacket is a packet as it travels.
func wirePacket(header byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{header}, uint64(len(body))), body...)
}

// TestReadPacket keeps [M-1].
func TestReadPacket(t *testing.T) {
	tests := []struct {
		name  string
		in    []byte
		limit int
		want  packet
		err   error
	}{
		{"ping", cat(0xc0, 0), maxBody, packet{header: 0xc0}, nil},
		{"puback", cat(0x40, 2, 0, 1), maxBody, packet{0x40, cat(0, 1)}, nil},
		{"at the limit", wirePacket(0x30, []byte(filler)), maxBody, packet{0x30, []byte(filler)}, nil},
		{"128 in two bytes", wirePacket(0x30, []byte(filler[:128])), maxBody, packet{0x30, []byte(filler[:128])}, nil},
		{"over the limit", wirePacket(0x30, []byte(filler+"x")), maxBody, packet{}, errTooLong},
		{"1 GiB announced by 5 bytes", cat(0x10, 0xff, 0xff, 0xff, 0x7f), maxConnect, packet{}, errTooLong},
		{"5 length bytes", cat(0x30, 0x80, 0x80, 0x80, 0x80, 1), maxBody, packet{}, errLength},
		{"endless length", cat(0x30, strings.Repeat("\x80", 1000)), maxBody, packet{}, errLength},
		{"0 in two bytes", cat(0xc0, 0x80, 0), maxBody, packet{}, errLength},
		{"2 in three bytes", cat(0x40, 0x82, 0x80, 0, 0, 1), maxBody, packet{}, errLength},
		{"nothing", nil, maxBody, packet{}, io.EOF},
		{"header alone", cat(0xc0), maxBody, packet{}, io.ErrUnexpectedEOF},
		{"length cut", cat(0x30, 0x80), maxBody, packet{}, io.ErrUnexpectedEOF},
		{"body missing", cat(0x40, 2), maxBody, packet{}, io.ErrUnexpectedEOF},
		{"body cut", cat(0x40, 2, 0), maxBody, packet{}, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		for _, r := range []io.Reader{bytes.NewReader(tt.in), iotest.OneByteReader(bytes.NewReader(tt.in))} {
			got, err := readPacket(bufio.NewReaderSize(r, 128), tt.limit)
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(packet{})); d != "" || !errors.Is(err, tt.err) {
				t.Errorf("%s: error %v, want %v; packet -want +got:\n%s", tt.name, err, tt.err, d)
			}
		}
	}
}

// TestReadBeforeAllocating shows that an announced length costs nothing before it is allowed. [M-1]
func TestReadBeforeAllocating(t *testing.T) {
	in := bytes.NewReader(cat(0x10, 0xff, 0xff, 0xff, 0x7f))
	r := bufio.NewReaderSize(in, 128)
	allocs := testing.AllocsPerRun(100, func() {
		_, _ = in.Seek(0, io.SeekStart)
		r.Reset(in)
		_, _ = readPacket(r, maxConnect)
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a length that is refused, want 0", allocs)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = readPacket(bufio.NewReaderSize(bytes.NewReader(cat(0x30, 0x80, 0x14)), 128), maxBody)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<10 {
		t.Errorf("%d bytes allocated for 3 bytes received", n)
	}
}

// TestLimitsHold shows that the largest legal packets fit, and that limits depend on CONNECT. [M-1]
func TestLimitsHold(t *testing.T) {
	if limitFor(0) != maxConnect || limitFor(4) != maxBody || limitFor(5) != maxBody {
		t.Error("a connection that has not sent CONNECT must have the smaller limit")
	}
	full := connect(5, 0xc2, 0x80, 1, user(filler[:123], ""), lp(filler[:23]), lp(filler[:8]), lp(filler[:200]))
	if err := checkPacket(0, packet{headConnect, full}); err != nil {
		t.Errorf("the largest CONNECT of MQTT 5, %d bytes: %v", len(full), err)
	}
	longest := cat(lp(helloTopic), 0, 1, 0x80, 1, user(filler[:123], ""), filler[:2048])
	if err := checkPacket(5, packet{0x32, longest}); err != nil {
		t.Errorf("a hello of 2 KiB, %d bytes: %v", len(longest), err)
	}
}

// TestAnswer shows what each kind of client is told before its connection closes. [M-2] [M-23]
func TestAnswer(t *testing.T) {
	v4, v5 := packet{0x10, connect(4, 0)}, packet{0x10, connect(5, 0)}
	tests := []struct {
		name    string
		err     *checkError
		version byte
		p       packet
		want    []byte
	}{
		{"3.1.1 will", errWill, 0, v4, cat(0x20, 2, 0, 5)},
		{"5 will", errWill, 0, v5, cat(0x20, 3, 0, 0x83, 0)},
		{"level 6", errLevel, 0, packet{0x10, connect(6, 0)}, cat(0x20, 2, 0, 1)},
		{"3.1.1 client id", errClientID, 0, v4, cat(0x20, 2, 0, 2)},
		{"3.1.1 password", errCredentials, 0, v4, cat(0x20, 2, 0, 4)},
		{"3.1.1 malformed", errShort, 0, v4, nil},
		{"5 malformed", errShort, 0, v5, cat(0x20, 3, 0, 0x81, 0)},
		{"no CONNECT", errNotConnect, 0, packet{header: 0xc0}, nil},
		{"3.1.1 connected", errTopic, 4, packet{}, nil},
		{"5 connected", errTopic, 5, packet{}, cat(0xe0, 2, 0x90, 0)},
		{"header only", errTooLong, 0, packet{}, nil},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, tt.err.answer(tt.version, tt.p)); d != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, d)
		}
	}
}

// TestRefusalsSayNothing shows that a reason holds nothing of the packet: the same value for all. [M-2]
func TestRefusalsSayNothing(t *testing.T) {
	for _, e := range closedSet {
		if e.reason < 0x80 || len(e.Error()) > 100 || strings.ContainsAny(e.Error(), "%\n") {
			t.Errorf("%#02x %q: not a reason of one line", e.reason, e.Error())
		}
	}
	secret := "0123456789 secret"
	err := checkPacket(4, packet{0x32, cat(lp(secret), 0, 1, secret)})
	if err == nil || strings.Contains(err.Error(), secret[:8]) {
		t.Errorf("the refusal repeats the packet: %v", err)
	}
}

// TestDecodeRefuses shows the types mochi's decoder is never asked about.
func TestDecodeRefuses(t *testing.T) {
	for _, header := range []byte{0x00, 0x20, 0x31 | 0x06, 0x50, 0x90, 0xc1, 0xf0} {
		if _, err := (packet{header: header}).decode(5); err == nil {
			t.Errorf("header %#02x: decoded", header)
		}
	}
}

// reencode encodes a decoded packet with mochi and decodes that again.
func reencode(t *testing.T, version byte, pk packets.Packet) packets.Packet {
	t.Helper()
	pk.Mods.AllowResponseInfo = true
	var b bytes.Buffer
	encode := map[byte]func(*bytes.Buffer) error{
		packets.Connect: pk.ConnectEncode, packets.Publish: pk.PublishEncode, packets.Puback: pk.PubackEncode,
		packets.Subscribe: pk.SubscribeEncode, packets.Unsubscribe: pk.UnsubscribeEncode,
		packets.Pingreq: pk.PingreqEncode, packets.Disconnect: pk.DisconnectEncode,
	}[pk.FixedHeader.Type]
	if err := encode(&b); err != nil {
		t.Fatalf("mochi encodes what it decoded: %v", err)
	}
	p, err := readPacket(bufio.NewReader(&b), 2*maxBody) // mochi may write properties we had short
	if err != nil {
		t.Fatalf("what mochi encoded: %v", err)
	}
	again, err := p.decode(version)
	if err != nil {
		t.Fatalf("mochi decodes what it encoded: %v", err)
	}
	return again
}

// samePacket compares what packets mean, not how long they are.
var samePacket = cmp.Options{
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(packets.FixedHeader{}, "Remaining"),
	cmpopts.IgnoreFields(packets.Packet{}, "Mods"),
}

// FuzzCheckPacket: what passes is decoded by mochi without error or panic, validates, and means
// the same when mochi has encoded it again; and the fields that policy relies on are those in the
// bytes. [M-2]
func FuzzCheckPacket(f *testing.F) {
	for _, c := range checkCases {
		f.Add(c.version, c.header, c.body)
	}
	f.Fuzz(func(t *testing.T, version, header byte, body []byte) {
		if version != 4 && version != 5 {
			version = 0
		}
		p := packet{header, body}
		if err := checkPacket(version, p); err != nil {
			if e := (*checkError)(nil); !errors.As(err, &e) || !slices.Contains(closedSet, e) {
				t.Fatalf("%v is not in the closed set", err)
			}
			_ = err.(*checkError).answer(version, p)
			return
		}
		version = versionOf(version, p)
		pk, err := p.decode(version)
		if err != nil {
			t.Fatalf("checked, but mochi says: %v", err)
		}
		if d := cmp.Diff(pk, reencode(t, version, pk), samePacket); d != "" {
			t.Fatalf("-decoded +encoded and decoded again:\n%s", d)
		}
		validate(t, pk, body)
	})
}

// validate applies mochi's own rules and ours to a decoded packet.
func validate(t *testing.T, pk packets.Packet, body []byte) {
	code := packets.CodeSuccess
	switch pk.FixedHeader.Type {
	case packets.Connect:
		code = pk.ConnectValidate()
		if pk.Connect.WillFlag || !pk.Connect.Clean || len(pk.Connect.ClientIdentifier) > maxClientID {
			t.Fatal("a CONNECT that asks for what is not offered")
		}
	case packets.Publish:
		code = pk.PublishValidate(0)
		if !bytes.HasSuffix(body, pk.Payload) || pk.FixedHeader.Qos > 1 || len(pk.TopicName) > 18 {
			t.Fatal("a PUBLISH that does not mean its bytes")
		}
	case packets.Subscribe:
		code = pk.SubscribeValidate()
		if len(pk.Filters) > maxFilters {
			t.Fatal("too many filters")
		}
	case packets.Unsubscribe:
		code = pk.UnsubscribeValidate()
	}
	if code != packets.CodeSuccess {
		t.Fatalf("checked, but mochi refuses: %v", code)
	}
}

// FuzzReadPacket: any stream yields packets within the limit or an end, and what was read is what
// was sent. [M-1]
func FuzzReadPacket(f *testing.F) {
	f.Add(cat(0xc0, 0, 0x40, 2, 0, 1))
	f.Add(cat(0x10, 0xff, 0xff, 0xff, 0x7f))
	f.Add(cat(0x30, 0x80, 0x80, 0x80, 0x80, 0x80))
	f.Add(wirePacket(0x32, cat(lp(inboxTopic), 0, 1, "payload")))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), 128)
		var back []byte
		for {
			p, err := readPacket(r, maxBody)
			if err != nil {
				break
			}
			if len(p.body) > maxBody {
				t.Fatalf("a body of %d bytes", len(p.body))
			}
			back = append(back, wirePacket(p.header, p.body)...)
		}
		if !bytes.HasPrefix(in, back) {
			t.Fatalf("read %x from %x", back, in)
		}
	})
}

// aText is a text of 53 bytes to an inbox as MQTT 3.1.1 QoS 1 sends it: 73 bytes.
func aText() []byte { return wirePacket(0x32, cat(lp(inboxTopic), 0, 7, filler[:53])) }

// TestCheckAllocatesNothing: only the body of a packet is allocated, once. [M-1] [M-2]
func TestCheckAllocatesNothing(t *testing.T) {
	in := bytes.NewReader(aText())
	if in.Len() != 73 {
		t.Fatalf("the example has %d bytes, want 73", in.Len())
	}
	r := bufio.NewReaderSize(in, 128)
	var p packet
	read := testing.AllocsPerRun(100, func() {
		_, _ = in.Seek(0, io.SeekStart)
		r.Reset(in)
		p, _ = readPacket(r, maxBody)
	})
	checked := testing.AllocsPerRun(100, func() { _ = checkPacket(4, p) })
	if read > 1 || checked > 0 {
		t.Errorf("%v allocations to read and %v to check, want 1 and 0", read, checked)
	}
}

func BenchmarkCheckPublish(b *testing.B) {
	p := packet{0x32, aText()[2:]}
	b.ReportAllocs()
	for b.Loop() {
		if err := checkPacket(4, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadCheckDecode(b *testing.B) {
	in := bytes.NewReader(aText())
	r := bufio.NewReaderSize(in, 128)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = in.Seek(0, io.SeekStart)
		r.Reset(in)
		p, err := readPacket(r, maxBody)
		if err == nil {
			err = checkPacket(4, p)
		}
		if err == nil {
			_, err = p.decode(4)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
