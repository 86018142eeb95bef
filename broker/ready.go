package broker

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"bluejay/hooks"
	"bluejay/wire"
)

// readiness sends a text to itself through the node's own listener: accept, CONNECT, consent,
// custody, delivery, the recipient's PUBACK and the sender's. A broker that is deadlocked, out of
// descriptors or deaf fails it.
type readiness struct {
	mu      sync.Mutex // one check at a time: a newer one would take the older's connection over
	addr    string
	tls     *tls.Config
	connect func(exporter []byte) []byte
	tag     wire.Tag
	last    time.Time // of the newest success
}

// readyFor is how long a success answers further checks: who polls often must not make the node
// busy with itself, and without TLS each CONNECT uses up a second of its clock.
const readyFor = 2 * time.Second

func newReadiness(n *hooks.Node, addr string, server *tls.Config) (*readiness, error) {
	connect, tag, err := n.NewProbe()
	if err != nil {
		return nil, err
	}
	r := &readiness{addr: addr, connect: connect, tag: tag}
	if server != nil {
		// The probe talks to its own process over loopback; who the server is was never in doubt.
		r.tls = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	}
	return r, nil
}

// check makes one round trip; ctx bounds it.
func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.last) < readyFor {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(5 * time.Second)
	}
	_ = conn.SetDeadline(deadline)
	exporter, conn, err := r.secure(ctx, conn)
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	if err := r.roundTrip(conn, exporter); err != nil {
		return fmt.Errorf("round trip: %w", err)
	}
	r.last = time.Now()
	return nil
}

func (r *readiness) secure(ctx context.Context, conn net.Conn) ([]byte, net.Conn, error) {
	if r.tls == nil {
		return nil, conn, nil
	}
	c := tls.Client(conn, r.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	st := c.ConnectionState()
	exporter, err := st.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen)
	return exporter, c, err
}

// roundTrip speaks just enough MQTT 3.1.1 to be both ends of one text.
func (r *readiness) roundTrip(conn net.Conn, exporter []byte) error {
	var nonce [32]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return err
	}
	topic := wire.Topic{Kind: wire.TopicInbox, Tag: r.tag}.String()
	out := connectPacket(r.connect(exporter))
	if _, err := conn.Write(out); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	if p, err := readMQTT(in); err != nil || p.head != 0x20 || len(p.body) != 2 || p.body[1] != 0 {
		return errors.Join(errors.New("CONNECT refused"), err)
	}
	if _, err := conn.Write(publishPacket(topic, 1, nonce[:])); err != nil {
		return err
	}
	return r.await(conn, in, nonce[:])
}

// await acknowledges the text when it arrives and returns when its own publish is acknowledged;
// the second before the first is an error.
func (r *readiness) await(conn net.Conn, in *bufio.Reader, nonce []byte) error {
	delivered := false
	for {
		p, err := readMQTT(in)
		if err != nil {
			return err
		}
		switch p.head >> 4 {
		case 3: // PUBLISH: the welcome on r, or our text
			if n := len(p.body) - len(nonce); n > 2 && string(p.body[n:]) == string(nonce) {
				delivered = true
				if _, err := conn.Write([]byte{0x40, 2, p.body[n-2], p.body[n-1]}); err != nil {
					return err
				}
			}
		case 4:
			if !delivered {
				return errors.New("acknowledged before it was delivered")
			}
			_, _ = conn.Write([]byte{0xe0, 0})
			return nil
		}
	}
}

type mqttPacket struct {
	head byte
	body []byte
}

// readMQTT reads one packet of at most 64 KiB from our own broker.
func readMQTT(r *bufio.Reader) (mqttPacket, error) {
	head, err := r.ReadByte()
	if err != nil {
		return mqttPacket{}, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil || n > 64<<10 {
		return mqttPacket{}, errors.Join(errors.New("bad length"), err)
	}
	p := mqttPacket{head, make([]byte, n)}
	_, err = io.ReadFull(r, p.body)
	return p, err
}

func mqttString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func framed(head byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{head}, uint64(len(body))), body...)
}

func connectPacket(password []byte) []byte {
	b := append(mqttString(nil, []byte("MQTT")), 4, 0xc2, 0, 30) // clean, user name, password; 30 s
	b = mqttString(b, nil)
	b = mqttString(b, []byte(wire.Protocol))
	return framed(0x10, mqttString(b, password))
}

func publishPacket(topic string, id uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(mqttString(nil, []byte(topic)), id)
	return framed(0x32, append(b, payload...))
}
