package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// readyTimeout bounds one answer of /readyz.
const readyTimeout = 5 * time.Second

// statusServer serves what an operator asks a role: is it alive, is it ready, what has it counted.
type statusServer struct {
	addr string
	srv  *http.Server
	done chan error
}

// serveStatus listens at addr; with addr "" nothing is served and the result is nil.
func serveStatus(addr string, ready func(context.Context) error, metrics http.Handler) (*statusServer, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		if err := ready(ctx); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", metrics)
	return listenHTTP(addr, mux)
}

// listenHTTP serves h at addr; nil for addr "".
func listenHTTP(addr string, h http.Handler) (*statusServer, error) {
	if addr == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("HTTP: %w", err)
	}
	s := &statusServer{addr: ln.Addr().String(), done: make(chan error, 1), srv: &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}}
	go func() { s.done <- s.srv.Serve(ln) }()
	return s, nil
}

// stop ends the server, letting requests finish until ctx ends. A nil server has nothing to stop.
func (s *statusServer) stop(ctx context.Context) error {
	if s == nil {
		return nil
	}
	err := s.srv.Shutdown(ctx)
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// address is where it listens, "" for nil.
func (s *statusServer) address() string {
	if s == nil {
		return ""
	}
	return s.addr
}
