package simulator

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"bluejay/wire"
)

// CrowdConfig says whom a [Crowd] is made of and where it connects.
type CrowdConfig struct {
	Addr string      // HOST:PORT
	TLS  *tls.Config // nil: plain TCP
	Size int         // connections
	// People are certified handsets of a Bluejay node, at least Size, and Broker its name as pinned. Without any the
	// broker is somebody else's: the same packets to the same kind of topic, but no credential, a client id and a
	// SUBSCRIBE to one's own inbox.
	People    []Member
	Broker    string
	Keepalive time.Duration // each connection sends a PINGREQ when three quarters of it have passed; 0: none
}

// Crowd is a raw MQTT load, the same for every broker: many connections that say as little as a measurement needs, with
// no session cryptography and no judgement of texts (that is what a [Fleet] is for). Everything it counts it has seen
// arrive. Its methods are called one after the other.
type Crowd struct {
	cfg   CrowdConfig
	start time.Time
	all   []*rawClient
	stop  chan struct{}
	wg    sync.WaitGroup
	ended atomic.Bool
	lost  atomic.Int64 // connections that ended before the crowd did
	now   atomic.Pointer[phase]
}

// phase is what is measured now; what belongs to an earlier one is not counted.
type phase struct {
	number  byte
	arrived atomic.Int64
	refused atomic.Int64
	// of presence: since when the new state was true, after the crowd's start. nil: no word on presence is counted.
	changed *time.Duration
	all     chan struct{}   // closed when wanted arrived
	wanted  int64           // 0: nobody waits
	windows []chan struct{} // closed loop: free places of each sender

	mu   sync.Mutex
	took *hdrhistogram.Histogram // µs
}

// rawClient is one connection.
type rawClient struct {
	c      *Crowd
	who    int
	tag    wire.Tag
	seq    uint32 // of its consent record, as the node has it
	stamp  uint32
	conn   net.Conn
	answer chan answer   // of CONNECT, SUBSCRIBE and consent
	waits  atomic.Uint32 // for which packet type
	gone   chan struct{}

	mu    sync.Mutex // of writes
	pid   uint16
	buf   []byte
	bound time.Time // when the deadline of writes is to be set again
}

// answer is the end of an exchange; a non-nil error is a refusal.
type answer struct {
	kind byte
	err  error
}

// Times of a crowd.
const (
	crowdPatience = 30 * time.Second // with any one answer
	drainTime     = 10 * time.Second // what was sent must have arrived by then
)

// crowdPayload is a sealed text of 30 characters, in bytes: what is timed is the way, not what is in it.
const crowdPayload = 64

// NewCrowd makes the crowd; nothing is connected yet.
func NewCrowd(cfg CrowdConfig) (*Crowd, error) {
	if cfg.Size < 1 || cfg.People != nil && len(cfg.People) < cfg.Size {
		return nil, fmt.Errorf("simulator: a crowd of %d with credentials for %d", cfg.Size, len(cfg.People))
	}
	c := &Crowd{cfg: cfg, start: time.Now(), stop: make(chan struct{})}
	for i := range cfg.Size {
		h := &rawClient{c: c, who: i}
		binary.BigEndian.PutUint32(h.tag[:], uint32(i)+1) // of a Bluejay node the welcome says another
		c.all = append(c.all, h)
	}
	c.begin(&phase{})
	return c, nil
}

// begin starts to count anew.
func (c *Crowd) begin(p *phase) *phase {
	p.all, p.took = make(chan struct{}), newHistogram()
	if old := c.now.Load(); old != nil {
		p.number = old.number + 1
	}
	c.now.Store(p)
	return p
}

// count notes one arrival, took after it was to be sent.
func (p *phase) count(took time.Duration) {
	p.mu.Lock()
	_ = p.took.RecordValue(min(max(int64(took/time.Microsecond), 1), longest)) // in range
	p.mu.Unlock()
	if p.arrived.Add(1) == p.wanted {
		close(p.all)
	}
}

// wait returns when all that was wanted has arrived, or too much time has passed.
func (p *phase) wait(ctx context.Context, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-p.all:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (p *phase) latency() Latency {
	p.mu.Lock()
	defer p.mu.Unlock()
	return latencyOf(p.took)
}

// ConnectResult is a storm of connections.
type ConnectResult struct {
	Connected int     `json:"connected"`
	Seconds   float64 `json:"seconds"`
	Took      Latency `json:"took"` // from dialling to CONNACK, or to a Bluejay node's welcome
}

// Connect connects everybody, at most parallel at a time, as fast as the broker lets them.
func (c *Crowd) Connect(ctx context.Context, parallel int) (r ConnectResult, err error) {
	p := c.begin(&phase{wanted: int64(len(c.all))})
	r.Seconds, err = c.each(ctx, parallel, func(h *rawClient) error {
		began := time.Now()
		err := h.connect(ctx)
		p.count(time.Since(began))
		return err
	})
	r.Connected, r.Took = len(c.all), p.latency()
	return r, err
}

// Prepare has everybody take part in what follows: agree with messaging and presence, if the node has no record of them
// yet, or on another broker subscribe to an inbox of one's own, as a Bluejay node does by itself.
func (c *Crowd) Prepare(ctx context.Context, parallel int) error {
	_, err := c.each(ctx, parallel, func(h *rawClient) error {
		if c.cfg.People == nil {
			return h.subscribe(ctx, wire.Topic{Kind: wire.TopicInbox, Tag: h.tag}, 1)
		}
		if h.seq > 0 {
			return nil
		}
		return h.agree(ctx)
	})
	return err
}

// each runs f for everybody, at most parallel at a time, until one fails.
func (c *Crowd) each(ctx context.Context, parallel int, f func(*rawClient) error) (seconds float64, err error) {
	began, turn := time.Now(), make(chan *rawClient)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range max(1, parallel) {
		wg.Go(func() {
			for h := range turn {
				if err := f(h); err != nil {
					cancel(fmt.Errorf("simulator: connection %d: %w", h.who, err))
				}
			}
		})
	}
	for _, h := range c.all {
		select {
		case turn <- h:
		case <-ctx.Done():
		}
	}
	close(turn)
	wg.Wait()
	return time.Since(began).Seconds(), context.Cause(ctx)
}

// Lost is how many connections ended by themselves.
func (c *Crowd) Lost() int64 { return c.lost.Load() }

// Close ends every connection and waits for what read them.
func (c *Crowd) Close() {
	if c.ended.Swap(true) {
		return
	}
	close(c.stop)
	for _, h := range c.all {
		h.hangUp()
	}
	c.wg.Wait()
}

// Hold keeps the connections alive until ctx ends: each says PINGREQ in its turn.
func (c *Crowd) Hold(ctx context.Context) {
	if c.cfg.Keepalive <= 0 {
		<-ctx.Done()
		return
	}
	every := c.cfg.Keepalive * 3 / 4
	t := time.NewTicker(max(every/time.Duration(len(c.all)), time.Millisecond))
	defer t.Stop()
	began, sent := time.Now(), 0
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(began).Seconds() / every.Seconds() * float64(len(c.all))); sent < due; sent++ {
			c.all[sent%len(c.all)].ping()
		}
	}
}

// connect dials, says CONNECT and waits until the broker has taken it.
func (h *rawClient) connect(ctx context.Context) error {
	d := net.Dialer{Timeout: crowdPatience, LocalAddr: sourceOf(h.c.cfg.Addr, h.who), KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", h.c.cfg.Addr)
	if err != nil {
		return err
	}
	var exporter []byte
	if h.c.cfg.TLS != nil {
		t := tls.Client(conn, h.c.cfg.TLS)
		bounded, cancel := context.WithTimeout(ctx, crowdPatience)
		err := t.HandshakeContext(bounded)
		cancel()
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		state := t.ConnectionState()
		if exporter, err = state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen); err != nil {
			return errors.Join(err, t.Close())
		}
		conn = t
	}
	h.mu.Lock()
	h.conn, h.answer, h.gone, h.bound = conn, make(chan answer, 2), make(chan struct{}), time.Time{}
	h.buf = h.hello(h.buf[:0], exporter)
	h.waits.Store(mqttConnack)
	err = h.send()
	h.mu.Unlock()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	gone, answers := h.gone, h.answer
	h.c.wg.Go(func() {
		defer close(gone)
		h.read(conn, answers)
	})
	return h.await(ctx)
}

// hello is the CONNECT packet.
func (h *rawClient) hello(b, exporter []byte) []byte {
	keepalive := uint16(h.c.cfg.Keepalive / time.Second)
	if h.c.cfg.People == nil {
		return appendAnonymous(b, keepalive, fmt.Sprintf("bench-%d", h.who))
	}
	h.stamp = nextStamp(h.stamp, time.Now())
	return appendConnect(b, keepalive, h.c.cfg.People[h.who].Credential.proof(0, h.stamp, exporter, h.c.cfg.Broker, true))
}

// await waits for the end of an exchange.
func (h *rawClient) await(ctx context.Context) error {
	t := time.NewTimer(crowdPatience)
	defer t.Stop()
	select {
	case a := <-h.answer:
		h.waits.Store(0)
		return a.err
	case <-t.C:
		return errors.New("no answer: is the broker overloaded?")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask sends what f appends and waits for an answer of this packet type.
func (h *rawClient) ask(ctx context.Context, kind byte, f func(b []byte, pid uint16) []byte) error {
	h.waits.Store(uint32(kind))
	if err := h.write(f); err != nil {
		return err
	}
	return h.await(ctx)
}

// answered passes on what is waited for.
func (h *rawClient) answered(answers chan answer, a answer) {
	if h.waits.Load() == uint32(a.kind) {
		put(answers, a)
	}
}

func (h *rawClient) hangUp() {
	h.mu.Lock()
	conn := h.conn
	h.conn = nil
	h.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// write sends what f appends, under the next packet id.
func (h *rawClient) write(f func(b []byte, pid uint16) []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil {
		return net.ErrClosed
	}
	if h.pid++; h.pid == 0 {
		h.pid = 1
	}
	h.buf = f(h.buf[:0], h.pid)
	return h.send()
}

// send writes the buffer; a broker that takes nothing for so long has failed. Callers hold h.mu.
func (h *rawClient) send() error {
	if now := time.Now(); now.After(h.bound) { // not at each packet: it costs the load, too
		h.bound = now.Add(crowdPatience / 2)
		_ = h.conn.SetWriteDeadline(now.Add(crowdPatience))
	}
	_, err := h.conn.Write(h.buf)
	return err
}

func (h *rawClient) ping() {
	_ = h.write(func(b []byte, _ uint16) []byte { return append(b, mqttPing<<4, 0) }) // an end is the reader's to see
}

func (h *rawClient) subscribe(ctx context.Context, topic wire.Topic, qos byte) error {
	return h.ask(ctx, mqttSuback, func(b []byte, pid uint16) []byte {
		b = appendSubscribe(b, topic, pid)
		b[len(b)-1] = qos
		return b
	})
}

// agree sends a consent record; its PUBACK is the node's word that it is stored.
func (h *rawClient) agree(ctx context.Context) error {
	h.seq++
	body := h.c.cfg.People[h.who].Credential.record(leanScopes, h.seq, time.Now())
	return h.ask(ctx, mqttPuback, func(b []byte, pid uint16) []byte {
		return appendPublish(b, wire.Topic{Kind: wire.TopicConsent}, pid, false, wire.Request{ID: pid, Body: body}.Marshal())
	})
}

// read takes what comes until the connection ends.
func (h *rawClient) read(conn net.Conn, answers chan answer) {
	in, err := bufio.NewReaderSize(conn, 256), error(nil)
	for body := []byte(nil); err == nil; {
		var p packet
		if p, err = readPacket(in, body); err == nil {
			body = p.body[:0]
			err = h.take(p, answers)
		}
	}
	_ = conn.Close()
	h.mu.Lock()
	mine := h.conn == conn
	h.mu.Unlock()
	if mine && !h.c.ended.Load() {
		h.c.lost.Add(1)
	}
	put(answers, answer{err: fmt.Errorf("the broker hung up: %w", err)})
}

// put never waits: what nobody awaits is dropped.
func put(to chan answer, a answer) {
	select {
	case to <- a:
	default:
	}
}

// readPacket reads one packet into buf, or a larger one.
func readPacket(in *bufio.Reader, buf []byte) (p packet, err error) {
	if p.head, err = in.ReadByte(); err != nil {
		return p, err
	}
	n, err := binary.ReadUvarint(in)
	switch {
	case err != nil:
		return p, err
	case n > maxPacket:
		return p, errPacket
	case int(n) > cap(buf):
		buf = make([]byte, n)
	}
	p.body = buf[:n]
	_, err = io.ReadFull(in, p.body)
	return p, err
}

// take handles one packet.
func (h *rawClient) take(p packet, answers chan answer) error {
	switch p.kind() {
	case mqttConnack:
		if len(p.body) != 2 || p.body[1] != 0 {
			return fmt.Errorf("CONNECT refused: %x", p.body)
		}
		if h.c.cfg.People == nil {
			h.answered(answers, answer{kind: mqttConnack})
		}
	case mqttSuback:
		var err error
		if p.body[len(p.body)-1] == 0x80 {
			err = errors.New("SUBSCRIBE refused")
		}
		h.answered(answers, answer{mqttSuback, err})
	case mqttPuback:
		h.answered(answers, answer{kind: mqttPuback})
	case mqttPublish:
		return h.takePublish(p, answers)
	}
	return nil
}

func (h *rawClient) takePublish(p packet, answers chan answer) error {
	topic, pid, payload, ok := p.publish()
	if !ok || topic == "" {
		return errPacket
	}
	switch wire.TopicKind(topic[0]) {
	case wire.TopicReply:
		h.control(payload, answers)
	case wire.TopicInbox:
		h.c.text(payload)
	case wire.TopicPresence:
		h.c.seen(len(payload) > 0)
	}
	if pid == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = appendPuback(h.buf[:0], pid)
	if h.conn == nil {
		return net.ErrClosed
	}
	return h.send()
}

// control is what a Bluejay node says on r.
func (h *rawClient) control(b []byte, answers chan answer) {
	if w, err := wire.ParseWelcome(b); err == nil {
		h.tag, h.seq = w.Tag, w.Seq
		h.answered(answers, answer{kind: mqttConnack})
		return
	}
	if n, err := wire.ParseNotice(b); err == nil && n.Code != wire.OK {
		h.c.now.Load().refused.Add(1)
	}
	if a, err := wire.ParseAnswer(b); err == nil && a.Code != wire.OK {
		put(answers, answer{err: fmt.Errorf("the node refuses: %w", a.Code)})
	}
}

// sourceOf is an address of who's own: to one loopback address from one other there are only so many ports, and nodes
// bound what comes from one address. It is nil where addr is no IPv4 loopback address.
func sourceOf(addr string, who int) net.Addr {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || !net.ParseIP(host).IsLoopback() || net.ParseIP(host).To4() == nil {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(127, byte(1+who/62500), byte(1+who/250%250), byte(1+who%250))}
}
