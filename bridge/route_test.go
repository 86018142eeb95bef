package bridge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"bluejay/wire"
)

var tag1, tag2 = wire.Tag{1}, wire.Tag{2}

// claim claims a tag and waits until another broker sees it.
func claim(t testing.TB, r, from *Router, tag wire.Tag) {
	t.Helper()
	if err := r.Claim(tag); err != nil {
		t.Fatal(err)
	}
	forwards(t, from, tag, wire.OK)
}

// forwards waits until a frame for a tag has this outcome. One that meets a claim's end is lost, so
// none is waited for long.
func forwards(t testing.TB, from *Router, tag wire.Tag, want wire.Code) {
	t.Helper()
	eventually(t, "a forward that ends in: "+want.String(), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		c, err := from.Forward(ctx, tag, nil)
		return err == nil && c == want
	})
}

// TestForward: [C-2] the broker that holds the tag answers with the outcome, later if need be; with
// no such broker the frame is undeliverable at once.
func TestForward(t *testing.T) {
	w := newWorld(t, Limits{})
	type frame struct {
		tag     wire.Tag
		payload string
		reply   func(wire.Code)
	}
	frames := make(chan frame, 16)
	holder := w.dial(t, RoleBroker).OpenRouter(func(tag wire.Tag, p []byte, reply func(wire.Code)) {
		if len(p) == 0 {
			reply(wire.OK)
			return
		}
		frames <- frame{tag, string(p), reply}
	})
	sender := w.dial(t, RoleBroker).OpenRouter(func(wire.Tag, []byte, func(wire.Code)) { t.Error("not mine") })
	claim(t, holder, sender, tag1)
	claim(t, holder, sender, tag1) // once more is once

	type result struct {
		code wire.Code
		err  error
	}
	results := make(chan result, 1)
	go func() {
		c, err := sender.Forward(t.Context(), tag1, []byte("a frame"))
		results <- result{c, err}
	}()
	f := <-frames
	if f.tag != tag1 || f.payload != "a frame" {
		t.Errorf("got %q", f.payload)
	}
	select {
	case r := <-results:
		t.Errorf("answered %v before the recipient did", r.code)
	default:
	}
	f.reply(wire.Unreadable)
	if r := <-results; r.code != wire.Unreadable || r.err != nil {
		t.Errorf("outcome %v, %v", r.code, r.err)
	}
	if len(frames) != 0 {
		t.Error("the frame came twice")
	}

	start := time.Now()
	if c, err := sender.Forward(t.Context(), tag2, []byte("x")); c != wire.NoRecipient || err != nil {
		t.Errorf("nobody's tag: %v, %v", c, err)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("known only after %v", took)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if c, err := sender.Forward(ctx, tag1, []byte("never answered")); c != wire.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v, %v", c, err)
	}
	holder.Release(tag1)
	holder.Release(tag1)
	forwards(t, sender, tag1, wire.NoRecipient)
}

// TestRouteIgnoresStrangers: what did not come from a broker's Forward is not a frame.
func TestRouteIgnoresStrangers(t *testing.T) {
	w := newWorld(t, Limits{})
	got := make(chan string, 4)
	holder := w.dial(t, RoleBroker).OpenRouter(func(_ wire.Tag, p []byte, reply func(wire.Code)) {
		if len(p) > 0 { // else claim asks, and its last frames may be late
			got <- string(p)
		}
		reply(wire.OK)
	})
	other := w.dial(t, RoleBroker)
	claim(t, holder, other.OpenRouter(nil), tag1)
	if err := other.nc.Publish(wire.RouteSubject(tag1), []byte("no reply")); err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"bj.sms.job.normal.AAAAAAAAAAAA", RoleWorker.inbox() + ".x"} {
		if err := other.nc.PublishRequest(wire.RouteSubject(tag1), reply, []byte("forged")); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := other.nc.Request(wire.RouteSubject(tag1), []byte("good"), patience); err != nil || wire.Code(c.Data[0]) != wire.OK {
		t.Fatal(err)
	}
	if p := <-got; p != "good" || len(got) != 0 {
		t.Errorf("took %q, and %d more", p, len(got))
	}
}

// TestRoutesAnswerIsChecked: an answer that is no code is Unavailable.
func TestRoutesAnswerIsChecked(t *testing.T) {
	for _, data := range [][]byte{nil, {0x7f}} {
		if c, err := code("test", &nats.Msg{Data: data}, nil); c != wire.Unavailable || !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("% x: %v, %v", data, c, err)
		}
	}
}

// BenchmarkClaim reports what a claimed tag costs in the broker, and what it costs in the server,
// which is in this process too: there it is measured with a client that keeps nothing.
func BenchmarkClaim(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, Limits{})
		r := w.dial(b, RoleBroker).OpenRouter(nil)
		both := perTag(b, func(t wire.Tag) error { return r.Claim(t) }, r.b.nc.Flush)

		w = newWorld(b, Limits{})
		c, err := net.Dial("tcp", strings.TrimPrefix(w.srv.ClientURL(), "nats://"))
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		in, n := bufio.NewReader(c), 0
		fmt.Fprintf(c, "CONNECT {\"user\":%q,\"pass\":%q}\r\n", RoleBroker, password)
		server := perTag(b, func(t wire.Tag) error {
			n++
			_, err := fmt.Fprintf(c, "SUB %s %d\r\n", wire.RouteSubject(t), n)
			return err
		}, func() error { return pong(c, in) })
		b.ReportMetric(both-server, "B/tag-broker")
		b.ReportMetric(server, "B/tag-server")
		runtime.KeepAlive(r)
	}
}

// pong waits until the server has read everything.
func pong(c net.Conn, in *bufio.Reader) error {
	fmt.Fprint(c, "PING\r\n")
	for {
		line, err := in.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "PONG") {
			return err
		}
	}
}

func perTag(b *testing.B, claim func(wire.Tag) error, flush func() error) float64 {
	b.Helper()
	const tags = 50_000
	before := heap()
	for i := range tags {
		if err := claim(wire.Tag{byte(i), byte(i >> 8), byte(i >> 16)}); err != nil {
			b.Fatal(err)
		}
	}
	if err := flush(); err != nil {
		b.Fatal(err)
	}
	return (heap() - before) / tags
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// TestFence: the broker that has claimed a tag is asked to silence its owner, and its answer is waited for; nobody is
// nobody left; who cannot is an error, and so is who does not know how. No subject names the ID. [C-revoke] [F-8]
func TestFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Limits{})
	answers := func(_ wire.Tag, _ []byte, reply func(wire.Code)) { reply(wire.OK) }
	holder, asker := w.dial(t, RoleBroker).OpenRouter(answers), w.dial(t, RoleBroker).OpenRouter(answers)
	id := wire.ID{1, 2, 3}
	if err := asker.Fence(t.Context(), tag1, id); err != nil {
		t.Errorf("nobody has it: %v", err)
	}
	claim(t, holder, asker, tag1)
	if err := asker.Fence(t.Context(), tag1, id); !errors.Is(err, wire.Unavailable) {
		t.Errorf("who does not know how: %v", err)
	}
	var asked wire.ID
	code := wire.OK
	holder.Fenced(func(_ context.Context, id wire.ID) wire.Code {
		asked = id
		return code
	})
	if err := asker.Fence(t.Context(), tag1, id); err != nil || asked != id {
		t.Errorf("asked for %v: %v", asked, err)
	}
	if code = wire.Unavailable; !errors.Is(asker.Fence(t.Context(), tag1, id), wire.Unavailable) {
		t.Error("who cannot")
	}
	holder.Fenced(func(context.Context, wire.ID) wire.Code { panic("in a fence") })
	if err := asker.Fence(t.Context(), tag1, id); !errors.Is(err, wire.Unavailable) {
		t.Errorf("a panic: %v", err)
	}
	forwards(t, asker, tag1, wire.OK)
}
