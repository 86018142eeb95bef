package handset

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"bluejay/wire"
)

const (
	dialTimeout  = 20 * time.Second
	writeTimeout = 10 * time.Second
	// maxMail bounds what has arrived and is not handled yet; then reading stops.
	maxMail = 256
)

// ErrRefused reports that the broker refused the CONNECT: the clock is wrong, this device was
// replaced by a newer one, or its state is an old copy.
var ErrRefused = errors.New("handset: the broker refuses this device; check the clock, else enrol again")

// ErrTooOld reports that the operator requires a newer protocol than this application is made for.
var ErrTooOld = errors.New("handset: " + wire.TooOld.String())

// ErrUnavailable reports a broker that cannot take connections now.
var ErrUnavailable = errors.New("handset: the broker is unavailable; trying again may help")

// link is one MQTT connection: paho, made anew for each attempt, with its store unused. The outbox
// is the handset's own.
type link struct {
	client mqtt.Client
	mail   *mailbox
	lost   chan struct{}
	once   sync.Once
}

// connectProof makes the password; exporter is nil without TLS.
type connectProof func(exporter []byte) []byte

// dialLink connects and waits for CONNACK. The password is bound to the TLS connection, so the
// connection is made first and handed to paho. What arrives is signalled on signal. [P-15]
func dialLink(ctx context.Context, cfg Config, proof connectProof, signal chan struct{}) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, exporter, err := dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l := &link{mail: newMailbox(signal), lost: make(chan struct{})}
	l.client = mqtt.NewClient(l.options(cfg, &tap{Conn: conn, mail: l.mail}, string(proof(exporter))))
	token := l.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		_ = conn.Close()
		<-token.Done()
	}
	if err := token.Error(); err != nil {
		return nil, errors.Join(refusal(token, err), conn.Close())
	}
	return l, nil
}

func refusal(token mqtt.Token, err error) error {
	t, ok := token.(*mqtt.ConnectToken)
	switch {
	case ok && t.ReturnCode() == 1: // MQTT 3.1.1's "unacceptable protocol version"
		return ErrTooOld
	case ok && t.ReturnCode() == 3:
		return ErrUnavailable
	case ok && (t.ReturnCode() == 4 || t.ReturnCode() == 5):
		return ErrRefused
	}
	return fmt.Errorf("handset: connect: %w", err)
}

// dial opens the connection, and TLS on it if configured.
func dial(ctx context.Context, cfg Config) (net.Conn, []byte, error) {
	conn, err := cfg.Dial(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("handset: dial: %w", err)
	}
	if cfg.TLS == nil {
		return conn, nil, nil
	}
	secure := cfg.TLS.Clone()
	if secure.ServerName == "" {
		secure.ServerName, _, _ = net.SplitHostPort(cfg.Addr)
	}
	secure.MinVersion = tls.VersionTLS13 // the exporter of older versions can be made to collide
	c := tls.Client(conn, secure)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("handset: TLS: %w", err), conn.Close())
	}
	state := c.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("handset: TLS: %w", err), conn.Close())
	}
	return c, exporter, nil
}

func (l *link) options(cfg Config, conn net.Conn, password string) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + cfg.Addr).SetProtocolVersion(4)
	o.SetUsername(wire.Protocol).SetPassword(password).SetCleanSession(true).SetResumeSubs(false)
	o.SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(dialTimeout).SetWriteTimeout(writeTimeout)
	o.SetKeepAlive(cfg.KeepAlive).SetPingTimeout(10 * time.Second).SetStore(noStore{})
	o.SetOrderMatters(true).SetAutoAckDisabled(true) // the handler only queues: order costs nothing
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { l.mail.message(m, l.lost) })
	o.SetConnectionLostHandler(func(mqtt.Client, error) { l.end() })
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil })
	return o
}

// end marks the connection as over.
func (l *link) end() { l.once.Do(func() { close(l.lost) }) }

// close disconnects; what has been published before is written first.
func (l *link) close() {
	l.end()
	l.client.Disconnect(250)
}

// publish sends at QoS 1 and returns the packet id that its PUBACK will carry.
func (l *link) publish(topic string, payload []byte, retained bool) (uint16, error) {
	token := l.client.Publish(topic, 1, retained, payload)
	if t, ok := token.(*mqtt.PublishToken); ok && t.MessageID() != 0 {
		return t.MessageID(), nil
	}
	return 0, fmt.Errorf("handset: publish: %w", token.Error())
}

// letter is something that arrived, in the order of the wire.
type letter struct {
	message mqtt.Message // nil: a PUBACK
	puback  uint16
}

// mailbox keeps the order of the wire between two things that paho reports apart: messages, which
// pass through several of its goroutines, and PUBACKs, which do not. Without it a PUBACK could
// overtake the notice that says what it means. [C-1]
type mailbox struct {
	mu       sync.Mutex
	messages []mqtt.Message
	pubacks  []puback
	taken    uint64 // messages handed out so far
	signal   chan struct{}
	room     chan struct{}
}

// puback is a PUBACK and how many messages stood before it on the wire.
type puback struct {
	id    uint16
	after uint64
}

func newMailbox(signal chan struct{}) *mailbox {
	return &mailbox{signal: signal, room: make(chan struct{}, 1)}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// message queues a message; while the box is full it waits, and with it the reading.
func (b *mailbox) message(m mqtt.Message, lost <-chan struct{}) {
	for {
		b.mu.Lock()
		full := len(b.messages) >= maxMail
		if !full {
			b.messages = append(b.messages, m)
		}
		b.mu.Unlock()
		if !full {
			poke(b.signal)
			return
		}
		select {
		case <-b.room:
		case <-lost:
			return
		}
	}
}

// puback queues a PUBACK; more than there are packet ids are a fault of the broker.
func (b *mailbox) puback(p puback) {
	b.mu.Lock()
	if len(b.pubacks) <= 0xffff {
		b.pubacks = append(b.pubacks, p)
	}
	b.mu.Unlock()
	poke(b.signal)
}

// next takes the next letter, if it has arrived.
func (b *mailbox) next() (letter, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pubacks) > 0 && b.pubacks[0].after <= b.taken {
		p := b.pubacks[0]
		b.pubacks = b.pubacks[1:]
		return letter{puback: p.id}, true
	}
	if len(b.messages) == 0 {
		return letter{}, false
	}
	m := b.messages[0]
	b.messages = b.messages[1:]
	b.taken++
	poke(b.room)
	return letter{message: m}, true
}

// tap watches what paho reads, to see PUBACKs in their place among the messages.
type tap struct {
	net.Conn
	mail     *mailbox
	messages uint64
	scan     scanner
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	for _, b := range p[:n] {
		switch kind, id := t.scan.next(b); kind {
		case packetPublish:
			t.messages++
		case packetPuback:
			t.mail.puback(puback{id, t.messages})
		}
	}
	if errors.Is(err, net.ErrClosed) && n == 0 {
		err = io.EOF // paho swallows a closed connection that it has not closed itself
	}
	return n, err
}

const (
	packetPublish = 3
	packetPuback  = 4
)

// scanner finds packet boundaries in a stream of MQTT packets. Zero value: at the start of one.
type scanner struct {
	kind  byte
	shift uint
	left  int // bytes of the body to come; -1: the length is not complete
	inLen bool
	head  [2]byte // the first bytes of the body: a PUBACK's packet id
	got   int
}

// next takes one byte and returns the packet's kind when it was its last, else 0.
func (s *scanner) next(b byte) (kind byte, id uint16) {
	switch {
	case s.kind == 0:
		*s = scanner{kind: b >> 4, inLen: true}
		if s.kind == 0 {
			s.kind = 15 // reserved: paho closes the connection
		}
		return 0, 0
	case s.inLen:
		s.left |= int(b&0x7f) << s.shift
		s.shift += 7
		s.inLen = b&0x80 != 0 && s.shift < 28
	default:
		if s.got < len(s.head) {
			s.head[s.got] = b
		}
		s.got++
		s.left--
	}
	if s.inLen || s.left > 0 {
		return 0, 0
	}
	kind, id = s.kind, uint16(s.head[0])<<8|uint16(s.head[1])
	*s = scanner{}
	return kind, id
}
