package simulator

import (
	"net"
	"syscall"
	"time"
)

// pollers wait for what nodes write to lean handsets, each for its share of them, so that a handset
// that is idle has no goroutine at all. Connections under TLS are read by a goroutine each.
type pollers []int // epoll file descriptors

// pollTime bounds a wait, so that the end of a run is seen.
const pollTime = 100 // ms

// startPollers starts n of them.
func (f *fleet) startPollers(n int) error {
	for range n {
		fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return err
		}
		f.pollers = append(f.pollers, fd)
		f.start(func() { f.poll(fd) })
	}
	return nil
}

// poll reads for the handsets of one poller until the fleet stops.
func (f *fleet) poll(epfd int) {
	defer func() { _ = syscall.Close(epfd) }()
	events, buf := make([]syscall.EpollEvent, 256), make([]byte, 64<<10)
	for f.ctx.Err() == nil {
		n, err := syscall.EpollWait(epfd, events, pollTime)
		if err != nil && err != syscall.EINTR {
			return
		}
		for _, e := range events[:max(0, n)] {
			if h, ok := f.devices[e.Fd].(*lean); ok {
				h.readable(buf)
			}
		}
	}
}

// read has the connection polled. Callers hold h.mu.
func (h *lean) read(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		h.f.start(func() { h.readOwn(c) })
		return
	}
	raw, err := t.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { h.fd = int(fd) })
	}
	if err == nil {
		epfd := h.f.pollers[h.who%len(h.f.pollers)]
		e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(h.who)}
		err = syscall.EpollCtl(epfd, syscall.EPOLL_CTL_ADD, h.fd, &e)
	}
	if err != nil {
		h.hangUp(time.Now())
	}
}

// readable takes what has come. A connection is closed under h.mu only, so its descriptor is its
// own as long as the lock is held.
func (h *lean) readable(buf []byte) {
	for {
		h.mu.Lock()
		c, x := h.conn, h.pipe
		if c == nil {
			h.mu.Unlock()
			return
		}
		n, err := syscall.Read(h.fd, buf)
		if n > 0 && x == nil {
			h.arrivedLocked(c, buf[:n])
		}
		h.mu.Unlock()
		switch {
		case err == syscall.EAGAIN || err == syscall.EINTR:
			return
		case err != nil || n == 0:
			h.lost(c)
			return
		case x != nil:
			x.came(buf[:n])
		}
		if n < len(buf) {
			return
		}
	}
}
