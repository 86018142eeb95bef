package simulator

import (
	"net"
	"os"
	"sync"
	"time"
)

// conveyor delivers bytes at their time, in order. It starts no goroutine that waits: a timer runs
// only while something is on its way.
type conveyor struct {
	deliver func([]byte)

	mu      sync.Mutex
	items   []parcel
	running bool // a timer is set, or deliver runs
	closed  bool
}

type parcel struct {
	at time.Time
	b  []byte
}

// put delivers b at once if it is due and nothing waits; else it keeps a copy until then.
func (q *conveyor) put(b []byte, at, now time.Time) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	if !q.running && !at.After(now) {
		q.mu.Unlock()
		q.deliver(b)
		return
	}
	q.items = append(q.items, parcel{at, append([]byte(nil), b...)})
	start := !q.running
	q.running = true
	q.mu.Unlock()
	if start {
		time.AfterFunc(at.Sub(now), q.run)
	}
}

// run delivers what is due, then sets the timer for the rest.
func (q *conveyor) run() {
	for {
		q.mu.Lock()
		if q.closed || len(q.items) == 0 {
			q.running, q.items = false, nil
			q.mu.Unlock()
			return
		}
		wait := time.Until(q.items[0].at)
		if wait > 0 {
			q.mu.Unlock()
			time.AfterFunc(wait, q.run)
			return
		}
		b := q.items[0].b
		q.items = q.items[1:]
		q.mu.Unlock()
		q.deliver(b)
	}
}

func (q *conveyor) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.items = true, nil
}

// pipe is a connection over a path. What is written to a dead path is gone, and so is what comes.
type pipe struct {
	net.Conn
	up, down conveyor

	mu   sync.Mutex
	path *path
}

// newPipe makes a pipe; arrive gets what came, at its time.
func newPipe(c net.Conn, p *path, arrive func([]byte)) *pipe {
	x := &pipe{Conn: c, path: p}
	x.up.deliver = func(b []byte) { _, _ = c.Write(b) } // an error means that the reader ends, too
	x.down.deliver = arrive
	return x
}

// Write sends b on its way.
func (x *pipe) Write(b []byte) (int, error) {
	now := time.Now()
	x.mu.Lock()
	at, ok := x.path.send(up, now, len(b))
	x.mu.Unlock()
	if ok {
		x.up.put(b, at, now)
	}
	return len(b), nil
}

// came takes what the node has written.
func (x *pipe) came(b []byte) {
	now := time.Now()
	x.mu.Lock()
	at, ok := x.path.send(down, now, len(b))
	x.mu.Unlock()
	if ok {
		x.down.put(b, at, now)
	}
}

// kill makes the path dead: neither side is told.
func (x *pipe) kill() {
	x.mu.Lock()
	x.path.dead = true
	x.mu.Unlock()
	x.up.close()
	x.down.close()
}

// Close ends the connection.
func (x *pipe) Close() error {
	x.up.close()
	x.down.close()
	return x.Conn.Close()
}

// pipeConn is a pipe that can be read, for a handset that wants a net.Conn.
type pipeConn struct {
	*pipe
	mu       sync.Mutex
	buf      []byte
	err      error
	deadline time.Time
	wake     chan struct{}
}

// newPipeConn reads from c until it ends; wait is told of the reader's goroutine.
func newPipeConn(c net.Conn, p *path, start func(func())) *pipeConn {
	x := &pipeConn{wake: make(chan struct{}, 1)}
	x.pipe = newPipe(c, p, x.append)
	start(x.pull)
	return x
}

func (x *pipeConn) poke() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

func (x *pipeConn) append(b []byte) {
	x.mu.Lock()
	x.buf = append(x.buf, b...)
	x.mu.Unlock()
	x.poke()
}

// pull moves what comes into the path.
func (x *pipeConn) pull() {
	b := make([]byte, 4096)
	for {
		n, err := x.Conn.Read(b)
		if n > 0 {
			x.came(b[:n])
		}
		if err != nil {
			x.mu.Lock()
			x.err = err
			x.mu.Unlock()
			x.poke()
			return
		}
	}
}

// Read returns what has arrived by now.
func (x *pipeConn) Read(p []byte) (int, error) {
	for {
		x.mu.Lock()
		n := copy(p, x.buf)
		x.buf = x.buf[n:]
		if len(x.buf) == 0 {
			x.buf = nil
		}
		err, deadline := x.err, x.deadline
		x.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, err
		case !deadline.IsZero() && !time.Now().Before(deadline):
			return 0, os.ErrDeadlineExceeded
		}
		if !x.await(deadline) {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (x *pipeConn) await(deadline time.Time) bool {
	if deadline.IsZero() {
		<-x.wake
		return true
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-x.wake:
		return true
	case <-t.C:
		return false
	}
}

// SetReadDeadline bounds the next Read.
func (x *pipeConn) SetReadDeadline(t time.Time) error {
	x.mu.Lock()
	x.deadline = t
	x.mu.Unlock()
	x.poke()
	return nil
}

// SetDeadline bounds the next Read; a Write never waits.
func (x *pipeConn) SetDeadline(t time.Time) error { return x.SetReadDeadline(t) }

// SetWriteDeadline does nothing: a Write never waits.
func (x *pipeConn) SetWriteDeadline(time.Time) error { return nil }

// tap shows a ledger what a real handset writes and reads. Without a line, it shows nothing.
type tap struct {
	net.Conn
	line     *line
	out, in  splitter
	outMu    sync.Mutex
	onClosed func()
	once     sync.Once
}

// Write shows what is about to be written.
func (t *tap) Write(b []byte) (int, error) {
	t.outMu.Lock()
	_ = t.out.feed(b, func(p packet) bool { t.line.sent(p, time.Now()); return true })
	t.outMu.Unlock()
	return t.Conn.Write(b)
}

// Read shows what has been read.
func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if n > 0 {
		_ = t.in.feed(b[:n], func(p packet) bool { t.line.got(p, time.Now()); return true })
	}
	if err != nil && n == 0 {
		t.end()
	}
	return n, err
}

func (t *tap) end() {
	t.once.Do(func() {
		t.line.close(time.Now())
		if t.onClosed != nil {
			t.onClosed()
		}
	})
}

// Close ends the connection.
func (t *tap) Close() error {
	t.end()
	return t.Conn.Close()
}
