package hooks

import (
	"bufio"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"bluejay/consent"
	"bluejay/custody"
	"bluejay/wire"
)

// session is one live connection. Invariants: it is in Node.byConn from before the CONNACK until
// detach; in Node.byID while it is its ID's newest, else over; attached says whether custody
// delivers to it, which is so exactly while it is the newest and its user consents to messaging.
type session struct {
	conn   custody.Conn // also the epoch of its presence
	cl     *mqtt.Client
	net    *queuedConn
	self   consent.Self // zero ID: enrolment only
	gen    uint32
	seq    uint32      // stored when it connected, for the welcome
	cert   int64       // Unix seconds, the end of the certificate it connected with
	notice [16]byte    // of its consent record; under Node.mu once it is registered
	why    wire.Reason // why what was agreed to is not in force; 0: it is. The same
	v5     bool
	window int

	access atomic.Uint32 // consent.Access
	until  atomic.Int64  // Unix seconds; only Enrolled is left of access after it; 0 is never
	over   atomic.Bool   // a newer connection of the ID took over; set under Node.mu
	calls  atomic.Int32  // requests under way

	changing sync.Mutex // held across a change of consent, store included

	// Under Node.mu.
	opened     bool // CONNACK and welcome are queued
	attached   bool
	shown      bool // presence was turned blue by this session
	wantsKey   bool
	pending    []unanswered // own publishes
	outcomes   map[uint64]storedOutcome
	pseudonyms []wire.Pseudonym
}

// maxCalls is how many requests one connection may have under way.
const maxCalls = 8

// allowed is the connection's access now; it does not allocate.
func (s *session) allowed() consent.Access {
	if u := s.until.Load(); u != 0 && time.Now().Unix() > u {
		return consent.Access{Enrolled: time.Now().Unix() <= s.cert}
	}
	return consent.UnpackAccess(s.access.Load())
}

// may decides whether the connection may publish to a topic now. One that was taken over may not:
// a consent that ends is taken from the newest connection. [C-revoke] It reads no clock: before its loop
// waits for a packet it ends what is over, and it wakes when something will be. [P-17]
func (s *session) may(t wire.Topic) wire.Code {
	if s.over.Load() {
		return wire.TakenOver
	}
	return consent.UnpackAccess(s.access.Load()).Publish(s.self, t)
}

// grant makes st what the connection acts on; the state itself stays in the store, because an idle
// handset must be small.
func (s *session) grant(p consent.Policy, st consent.State, now time.Time) {
	s.access.Store(p.Access(st, now).Pack())
	s.until.Store(expiryOf(st))
	s.why = reasonOf(p.Standing(st, now))
	if st.Record != nil {
		s.notice = st.Record.Notice
	}
}

// reasonOf is what the handset is told of a standing: nothing while all is well, or when it knows by itself.
func reasonOf(l consent.Standing) wire.Reason {
	if l.Reason == wire.Withdrawn {
		return 0
	}
	return l.Reason
}

// expiryOf is when the access of a state ends by itself, in Unix seconds; 0 is never.
func expiryOf(st consent.State) int64 {
	switch {
	case st.Cert == nil:
		return 0
	case st.Record == nil:
		return st.Cert.NotAfter().Unix()
	}
	return min(st.Cert.NotAfter().Unix(), int64(st.Record.ExpiresAt))
}

func (n *Node) sessionOf(cl *mqtt.Client) *session {
	if v, ok := n.clients.Load(cl); ok {
		return v.(*session)
	}
	return nil
}

// write queues one PUBLISH; pid 0 is QoS 0. Callers hold n.mu.
func (n *Node) write(s *session, t wire.Topic, pid uint16, retain bool, payload []byte) {
	n.scratch = appendPublish(n.scratch[:0], s.v5, t, pid, retain, payload)
	_, _ = s.net.Write(n.scratch) // an error means the peer is gone: its reader ends the session
}

// reply queues a control message on r. Callers hold n.mu.
func (n *Node) reply(s *session, payload []byte) {
	n.write(s, wire.Topic{Kind: wire.TopicReply}, 0, false, payload)
}

// puback answers a publish: for MQTT 3.1.1 the reason of a refusal goes ahead on r. [C-1]
// Callers hold n.mu.
func (n *Node) puback(s *session, pid uint16, code wire.Code) {
	if pid == 0 {
		return
	}
	if !s.v5 && code != wire.OK {
		n.reply(s, wire.Notice{PacketID: pid, Code: code}.Marshal())
	}
	n.scratch = appendPuback(n.scratch[:0], s.v5, pid, code)
	_, _ = s.net.Write(n.scratch)
}

// appendPublish encodes a PUBLISH ([MQTT-3.3.1]); mochi's encoder would allocate and lock.
func appendPublish(b []byte, v5 bool, t wire.Topic, pid uint16, retain bool, payload []byte) []byte {
	var room [wire.MaxTopic]byte
	topic := t.Append(room[:0])
	size := 2 + len(topic) + len(payload)
	head := byte(packets.Publish << 4)
	if retain {
		head |= 1
	}
	if pid != 0 {
		head |= 2
		size += 2
	}
	if v5 {
		size++
	}
	b = binary.AppendUvarint(append(b, head), uint64(size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	if pid != 0 {
		b = binary.BigEndian.AppendUint16(b, pid)
	}
	if v5 {
		b = append(b, 0)
	}
	return append(b, payload...)
}

// appendPuback encodes a PUBACK ([MQTT-3.4]).
func appendPuback(b []byte, v5 bool, pid uint16, code wire.Code) []byte {
	if v5 && code != wire.OK {
		b = append(b, headPuback, 3)
		return append(binary.BigEndian.AppendUint16(b, pid), code.Puback())
	}
	b = append(b, headPuback, 2)
	return binary.BigEndian.AppendUint16(b, pid)
}

// end tells a client why (MQTT 5) and closes its connection; its own goroutine then detaches it.
// It must not be called under n.mu.
func (n *Node) end(s *session, code wire.Code) {
	if s.v5 {
		_, _ = s.net.Write([]byte{headDisconnect, 2, code.Connack(), 0})
	}
	s.cl.Stop(code)
}

// loop parks in the read with small frames only, so that an idle handset costs a 4 KiB stack.
//
//go:noinline
func (n *Node) loop(s *session, r *bufio.Reader) {
	for !s.cl.Closed() {
		silent := time.Now().Add(patience(s.cl.State.Keepalive))
		for {
			by := n.lapse(s, silent)
			if s.net.SetReadDeadline(by) != nil {
				return
			}
			_, err := r.Peek(1)
			if err == nil {
				break
			}
			if !by.Before(silent) || !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
		if pinged(r) {
			if _, err := s.net.Write(pingresp); err != nil {
				return
			}
			continue
		}
		if !n.step(s, r) {
			return
		}
	}
}

// pingresp answers PINGREQ.
var pingresp = []byte{0xd0, 0}

// pinged takes a PINGREQ off r, if one is there. Mochi would do the same, at the bottom of a stack that stays as deep as
// that until a collection comes by: of a node whose handsets do nothing else it was half the memory.
//
//go:noinline
func pinged(r *bufio.Reader) bool {
	if r.Buffered() < 2 {
		return false
	}
	if b, _ := r.Peek(2); b[0] != headPingreq || b[1] != 0 {
		return false
	}
	_, _ = r.Discard(2) // they are there
	return true
}

// lapse ends what a session may not do any more because its consent record or its certificate has
// expired: as if withdrawn, but its queued SMS jobs go their way. It returns until when to wait for
// the next packet: silent, or the next such end. [P-17]
//
//go:noinline
func (n *Node) lapse(s *session, silent time.Time) time.Time {
	end := s.until.Load()
	if now := time.Now().Unix(); end != 0 && now > end {
		n.lapsed(s, end)
		end = s.until.Load()
	}
	if t := time.Unix(end+1, 0); end != 0 && t.Before(silent) {
		return t
	}
	return silent
}

func (n *Node) lapsed(s *session, end int64) {
	n.mu.Lock()
	if s.until.Load() == end { // else a new record has come
		left := consent.Access{Enrolled: time.Now().Unix() <= s.cert}
		had := consent.UnpackAccess(s.access.Swap(left.Pack())).Scopes
		if s.until.Store(s.cert); !left.Enrolled {
			s.until.Store(0) // nothing is left that could end
		}
		if n.byID[s.self.ID] == s {
			n.cutLocked(s.self, s.gen, nil)
			if had != 0 {
				n.tellWhy(s, wire.ReproofDue)
			}
		}
		n.arm()
	}
	n.mu.Unlock()
	n.route(s.self)
}

// maxKeepalive is the longest keep alive, in seconds. [M-12]
const maxKeepalive = 1200

// patience is how long a client may be silent: 1.5 × its keep alive, at most 30 minutes. [M-12]
func patience(keepalive uint16) time.Duration {
	d := time.Duration(keepalive) * 3 * time.Second / 2
	if d == 0 || d > 30*time.Minute {
		return 30 * time.Minute
	}
	return d
}

//go:noinline
func (n *Node) step(s *session, r *bufio.Reader) bool {
	version := byte(4)
	if s.v5 {
		version = 5
	}
	p, err := readPacket(r, maxBody)
	if err == nil {
		err = checkPacket(version, p)
	}
	if err != nil {
		n.refusePacket(s.net, version, p, err)
		return false
	}
	return n.dispatch(s, p, version)
}

// refusePacket tells a client what is wrong with its packet where the protocol allows, and logs
// one line without anything of the packet. [M-2]
func (n *Node) refusePacket(c *queuedConn, version byte, p packet, err error) {
	e, ok := err.(*checkError)
	if !ok {
		return // the connection ended
	}
	if a := e.answer(version, p); a != nil {
		_, _ = c.Write(a)
	}
	n.cfg.Log.Info("packet refused", "reason", e.text)
}

// dispatch hands a checked packet to mochi, whose hooks come back to the node. SUBSCRIBE and
// UNSUBSCRIBE are the node's own: mochi's tables stay empty. Nobody above it on the stack has a
// packets.Packet: two of those are a tenth of what a text may take.
//
//go:noinline
func (n *Node) dispatch(s *session, p packet, version byte) bool {
	var pk packets.Packet
	if p.decodeInto(&pk, version) != nil {
		return false
	}
	switch pk.FixedHeader.Type {
	case packets.Subscribe:
		n.subscribe(s, pk)
		return true
	case packets.Unsubscribe:
		n.unsubscribe(s, pk)
		return true
	case packets.Disconnect:
		return false
	}
	return n.srv.InjectPacket(s.cl, pk) == nil
}
