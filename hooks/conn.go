package hooks

import (
	"crypto/tls"
	"errors"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bluejay/wire"
)

// errSlowConsumer ends a connection whose peer lets more bytes pile up than it may. [M-8]
var errSlowConsumer = errors.New("hooks: peer does not read what it is sent")

// counters are totals since the start of the process. Bytes are MQTT's, before TLS.
type counters struct {
	bytesIn, bytesOut atomic.Int64
	slowConsumers     atomic.Int64 // connections reset because their peer did not read [M-8] [M-9]
	accepted          atomic.Int64
	refused           atomic.Int64 // connections over the cap [M-17]
	acceptErrors      atomic.Int64 // [M-11]
	panics            atomic.Int64 // [M-15]
}

// connConfig is what the connections of one listener share.
type connConfig struct {
	maxPending   int           // bytes queued and not yet taken by the kernel
	writeTimeout time.Duration // for the peer to take what is being written
	drain        time.Duration // for the same, once closed
	counters     *counters

	mu   sync.Mutex // after a connection's
	busy map[*queuedConn]struct{}
}

// works notes whether a connection has something on its way.
func (c *connConfig) works(conn *queuedConn, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !on {
		delete(c.busy, conn)
		return
	}
	if c.busy == nil {
		c.busy = map[*queuedConn]struct{}{}
	}
	c.busy[conn] = struct{}{}
}

// working lists the connections that have something on their way: few, of whatever many. [C-revoke]
func (c *connConfig) working() []*queuedConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.busy))
}

// keptBuffer is the largest buffer worth keeping for another connection, in bytes.
const keptBuffer = 4096

// buffers recycles what connections queue into; an idle connection holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// queuedConn is a connection whose Write and Close never wait for the peer, so that whoever sends
// to a client cannot be held up by it. [M-8] [M-19]
//
//  1. Write adds to a bounded queue. A peer that lets it fill is reset.
//  2. While the queue holds something, one goroutine, the flusher, writes it out: several packets
//     at once if they came meanwhile, which saves segments and TLS records.
//  3. Close lets the flusher send what was queued before (a last PUBACK or CONNACK), for a
//     bounded time, and closes the socket. Only the flusher ever closes it.
//  4. wait returns when the flusher has ended; who accepted the connection calls it. [M-16]
//
// mochi sets one deadline, from its read loop, for both directions: here it holds for reads only,
// since a write that lasts has its own. [M-9] Safe for use by several goroutines.
type queuedConn struct {
	net.Conn
	cfg *connConfig
	run func() // flush, bound once so that starting it allocates nothing

	flusher sync.WaitGroup

	mu       sync.Mutex
	queue    *[]byte // from buffers; nil when empty
	size     int     // bytes in queue and in the flusher's hands; at most cfg.maxPending
	flushing bool
	queued   uint64 // bytes ever taken by Write
	awaited  []sent // who waits until what was queued by then has left
	closing  bool
	closed   bool
	reset    bool  // close without sending what is left
	err      error // why, for those who write next
	onClose  func()
}

func newQueuedConn(conn net.Conn, cfg *connConfig) *queuedConn {
	c := &queuedConn{Conn: conn, cfg: cfg}
	c.run = c.flush
	return c
}

// Read counts what it reads.
func (c *queuedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.cfg.counters.bytesIn.Add(int64(n))
	return n, err
}

// Write queues a copy of p and returns at once. It does not prove that the peer will get it.
// Errors: the reason the connection was given up, or [net.ErrClosed] after Close.
func (c *queuedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || len(p) == 0 {
		return 0, c.err
	}
	if c.size+len(p) > c.cfg.maxPending {
		c.giveUp(errSlowConsumer)
		return 0, c.err
	}
	if c.queue == nil {
		c.queue = buffers.Get().(*[]byte)
	}
	*c.queue = append(*c.queue, p...)
	c.size += len(p)
	c.queued += uint64(len(p))
	c.start()
	return len(p), nil
}

// start runs the flusher if it does not run. mu is held.
func (c *queuedConn) start() {
	if !c.flushing {
		c.flushing = true
		c.cfg.works(c, true)
		c.flusher.Add(1)
		go c.run()
	}
}

// giveUp closes without sending what is left: the peer does not read, or the stream is broken in
// the middle of a packet. mu is held.
func (c *queuedConn) giveUp(err error) {
	c.reset = true
	c.shut(err, time.Unix(1, 0))
}

// shut takes no more writes, ends reads at once and writes at by. mu is held.
func (c *queuedConn) shut(err error, by time.Time) {
	if !c.closing {
		c.closing, c.err = true, err
	}
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	_ = c.Conn.SetWriteDeadline(by)
	c.start()
}

// flush writes the queue out until it is empty, and then closes the socket if that was asked.
func (c *queuedConn) flush() {
	defer c.flusher.Done()
	for {
		batch := c.next()
		if batch == nil {
			return
		}
		n, err := c.Conn.Write(*batch)
		c.cfg.counters.bytesOut.Add(int64(n))
		c.written(batch, err)
	}
}

// next takes what is queued. When there is nothing, it ends the flusher's life, and the
// connection's if it is closing.
func (c *queuedConn) next() *[]byte {
	c.mu.Lock()
	if c.queue != nil && !c.reset {
		defer c.mu.Unlock()
		batch := c.queue
		c.queue = nil
		if !c.closing { // else Close has set the last deadline
			_ = c.Conn.SetWriteDeadline(time.Now().Add(c.cfg.writeTimeout))
		}
		return batch
	}
	if !c.closing {
		c.flushing = false
		c.cfg.works(c, false)
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock() // flushing stays set: this was the last flusher
	c.finish()
	return nil
}

// written settles a batch: its buffer goes back, and an error ends the connection. A timeout is
// the peer's fault. [M-9]
func (c *queuedConn) written(batch *[]byte, err error) {
	c.mu.Lock()
	c.size -= len(*batch)
	if err != nil {
		c.giveUp(err)
	}
	c.tellSent(c.queued - uint64(c.size))
	c.mu.Unlock()
	recycle(batch)
}

// sent is somebody who waits until the first bytes of a connection have left.
type sent struct {
	bytes uint64
	done  chan struct{}
}

// left returns a channel that is closed once everything queued up to now was handed to the kernel, or the
// connection is closed; nil: it was already. [C-revoke]
func (c *queuedConn) left() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size == 0 || c.closed {
		return nil
	}
	s := sent{c.queued, make(chan struct{})}
	c.awaited = append(c.awaited, s)
	return s.done
}

// tellSent tells who waits for no more than n bytes. mu is held.
func (c *queuedConn) tellSent(n uint64) {
	for len(c.awaited) > 0 && c.awaited[0].bytes <= n {
		close(c.awaited[0].done)
		c.awaited = c.awaited[1:]
	}
	if len(c.awaited) == 0 {
		c.awaited = nil
	}
}

// silence drops what is queued and not on its way yet, sends last instead, and closes; what is on its way
// has until by. The peer sees whole packets or a connection that breaks. [C-revoke]
func (c *queuedConn) silence(last []byte, by time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		_ = c.Conn.SetWriteDeadline(by) // a close that was in no hurry
		return
	}
	if c.queue != nil {
		c.size -= len(*c.queue)
		recycle(c.queue)
		c.queue = nil
	}
	if len(last) > 0 {
		c.queue = buffers.Get().(*[]byte)
		*c.queue = append(*c.queue, last...)
		c.size += len(last)
		c.queued += uint64(len(last))
	}
	c.shut(net.ErrClosed, by)
}

func recycle(b *[]byte) {
	if cap(*b) <= keptBuffer {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// finish closes the socket. Only the flusher calls it, once.
func (c *queuedConn) finish() {
	c.mu.Lock()
	reset, slow := c.reset, isSlow(c.err)
	c.mu.Unlock()
	if slow {
		c.cfg.counters.slowConsumers.Add(1)
	}
	if reset {
		abort(c.Conn)
	} else {
		_ = c.Conn.Close()
	}
	c.mu.Lock()
	c.closed = true
	done := c.onClose
	c.onClose = nil
	if c.queue != nil {
		recycle(c.queue)
		c.queue, c.size = nil, 0
	}
	c.tellSent(math.MaxUint64)
	c.cfg.works(c, false)
	c.mu.Unlock()
	if done != nil {
		done()
	}
}

// isSlow reports whether a connection ended because its peer did not read.
func isSlow(err error) bool {
	var timeout net.Error
	return err == errSlowConsumer || errors.As(err, &timeout) && timeout.Timeout()
}

// abort closes a socket at once: no TLS farewell, and the kernel forgets what it has not sent.
func abort(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// Close ends reads at once and returns. What was queued is still sent, for as long as the drain
// time allows, then the socket closes. It always returns nil. [M-10]
func (c *queuedConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.shut(net.ErrClosed, time.Now().Add(c.cfg.drain))
	}
	return nil
}

// kill closes without sending what is left.
func (c *queuedConn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.giveUp(net.ErrClosed)
	}
}

// wait returns once the flusher has ended. Call it after Close: nothing then starts another flusher,
// and this one lasts no longer than the drain time (and crypto/tls's 5 s for a farewell that the
// kernel does not take).
func (c *queuedConn) wait() { c.flusher.Wait() }

// connected lifts the deadline until CONNECT; its reader sets one for each silence. [M-13]
func (c *queuedConn) connected() { _ = c.SetReadDeadline(time.Time{}) }

// SetDeadline sets the deadline of reads. After Close it has no effect. [M-9]
func (c *queuedConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline sets the deadline of reads. After Close it has no effect.
func (c *queuedConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return net.ErrClosed
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline does nothing: Write never waits, and the flusher has its own deadline. [M-9]
func (c *queuedConn) SetWriteDeadline(time.Time) error { return nil }

// exporter returns the 32 bytes that bind a CONNECT to this TLS connection (RFC 8446 section 7.5);
// false without TLS 1.3. [M-14]
func (c *queuedConn) exporter() ([]byte, bool) {
	t, ok := c.Conn.(*tls.Conn)
	if !ok {
		return nil, false
	}
	state := t.ConnectionState()
	if state.Version != tls.VersionTLS13 {
		return nil, false
	}
	b, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen)
	return b, err == nil
}
