package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHealth: 200 is healthy; all else is not, with a reason of one bounded line.
func TestHealth(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	answer := func(path string, status int, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = w.Write([]byte(body)) })
	}
	answer("/readyz", http.StatusOK, "ok\n")
	answer("/silent", http.StatusOK, "")
	answer("/busy", http.StatusServiceUnavailable, "not ready: no connection to NATS\na second line\n")
	answer("/long", http.StatusInternalServerError, strings.Repeat("x", 10*maxHealth))
	answer("/terminal", http.StatusTeapot, "\x1b[2Jgone\n")
	mux.Handle("/moved", http.RedirectHandler("/readyz", http.StatusFound))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	tcp := "tcp" + strings.TrimPrefix(server.URL, "http")
	for _, tt := range []struct{ url, want string }{
		{server.URL + "/readyz", ""},
		{server.URL + "/silent", ""},
		{tcp, ""},
		{server.URL + "/busy", `status 503: "not ready: no connection to NATS"`},
		{server.URL + "/terminal", `status 418: "\x1b[2Jgone"`},
		{server.URL + "/moved", "status 302"},
		{server.URL + "/nothing", "status 404"},
		{closedAddr(t, "http://"), "connection refused"},
		{closedAddr(t, "tcp://"), "connection refused"},
		{"127.0.0.1:8080", "want a URL"},
		{"", "want a URL"},
		{"file:///etc/passwd", "want a URL"},
		{"ftp://127.0.0.1", `http, https or tcp, not "ftp"`},
	} {
		err := checkHealth(bounded(t), tt.url)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.url, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q has more than a line", tt.url, err)
		}
	}
	if err := checkHealth(bounded(t), server.URL+"/long"); err == nil || len(err.Error()) > 2*maxHealth {
		t.Errorf("a long answer: %v", err)
	}
}

// closedAddr is where nobody listens: its port is taken by a socket that does not, so that no other process gets it.
func closedAddr(t *testing.T, scheme string) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	err1 := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	name, err2 := syscall.Getsockname(fd)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s127.0.0.1:%d", scheme, name.(*syscall.SockaddrInet4).Port)
}

// TestHealthBounded: who accepts and never answers does not hold a check up.
func TestHealthBounded(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := checkHealth(ctx, "http://"+ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("%v", err)
	}
}

// TestHealthCommand: what a container's health check runs.
func TestHealthCommand(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	if out, code := run(t, "health", "tcp"+strings.TrimPrefix(server.URL, "http")); code != 0 || out != "" {
		t.Errorf("exit code %d, %q", code, out)
	}
	if out, code := run(t, "health", server.URL); code != 1 || out != "bluejay: health: status 404: \"404 page not found\"\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}
