//go:build !linux

package simulator

import "net"

// pollers are Linux's.
type pollers struct{}

func (f *fleet) startPollers(int) error { return nil }

// read has a goroutine read the connection. Callers hold h.mu.
func (h *lean) read(c net.Conn) { h.f.start(func() { h.readOwn(c) }) }
