package simulator

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

// TestConveyor: what is put arrives at its time, in order, whatever its size, and nothing after close.
func TestConveyor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		start := time.Now()
		q := conveyor{deliver: func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(b)+time.Since(start).String())
		}}
		for i, wait := range []time.Duration{0, 20, 20, 50} {
			q.put([]byte{byte('a' + i)}, start.Add(wait*time.Millisecond), start)
		}
		time.Sleep(30 * time.Millisecond)
		q.close()
		q.put([]byte("z"), time.Now(), time.Now())
		time.Sleep(time.Second)
		if want := []string{"a0s", "b20ms", "c20ms"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// linked is a pipeConn over a link and the node's end of it.
func linked(t *testing.T, l Link) (*pipeConn, net.Conn, *sync.WaitGroup) {
	t.Helper()
	phone, node := net.Pipe()
	var wg sync.WaitGroup
	x := newPipeConn(phone, newPath(l, newRand(1), time.Now()), func(g func()) { wg.Go(g) })
	return x, node, &wg
}

// TestPipeConn: both ways take the link's time, a read ends at its deadline and at the connection's
// end.
func TestPipeConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, node, wg := linked(t, Link{Latency: Duration(100 * time.Millisecond)})
		start := time.Now()
		if _, err := x.Write([]byte("up")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8)
		if n, err := node.Read(b); err != nil || string(b[:n]) != "up" || time.Since(start) != 100*time.Millisecond {
			t.Errorf("up: %q after %s, %v", b[:n], time.Since(start), err)
		}
		start = time.Now()
		if _, err := node.Write([]byte("down")); err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(x, b[:4]); err != nil || string(b[:n]) != "down" || time.Since(start) != 100*time.Millisecond {
			t.Errorf("down: %q after %s, %v", b[:n], time.Since(start), err)
		}
		_ = x.SetDeadline(time.Now().Add(time.Second))
		if _, err := x.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read past its deadline: %v", err)
		}
		_, _, _ = x.SetDeadline(time.Time{}), x.SetWriteDeadline(time.Time{}), node.Close()
		if _, err := x.Read(b); err != io.EOF {
			t.Errorf("a read after the end: %v", err)
		}
		_ = x.Close()
		wg.Wait()
	})
}

// TestPipeKilled: a path that died swallows both ways, and the connection stays open.
func TestPipeKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, node, wg := linked(t, Link{})
		x.kill()
		if n, err := x.Write([]byte("lost")); n != 4 || err != nil {
			t.Errorf("a write on a dead path: %d, %v", n, err)
		}
		if _, err := node.Write([]byte("lost")); err != nil {
			t.Errorf("the node is told: %v", err)
		}
		_ = x.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := x.Read(make([]byte, 8)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read on a dead path: %d, %v", n, err)
		}
		_ = x.Close()
		wg.Wait()
	})
}

// TestSizes: a lean handset's packets have the sizes that the protocol states. [S-1]
func TestSizes(t *testing.T) {
	frame, err := envelope.TextFrame("are you at the station already").Marshal() // 30 characters of GSM-7
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, len(frame)+envelope.MsgOverhead)
	if n := len(appendPublish(nil, inboxOf(wire.Tag{1}), 1, false, payload)); len(payload) != 53 || n != 73 {
		t.Errorf("a text of 30 characters: %d bytes, %d as a publish; want 53 and 73", len(payload), n)
	}
	c := appendConnect(nil, 240, make([]byte, 189))
	if p := raw(c); p.kind() != mqttConnect || !bytes.HasPrefix(p.body, []byte("\x00\x04MQTT\x04\xc2\x00\xf0\x00\x00\x00\x03bj2\x00\xbd")) {
		t.Errorf("CONNECT %x", c[:24])
	}
}

// TestStall: the worst of the last seconds counts, and is forgotten after.
func TestStall(t *testing.T) {
	var s stall
	now := time.Unix(1e9, 0)
	s.note(time.Second, now)
	s.note(time.Millisecond, now.Add(stallKept/2))
	if got := s.worst(); got != time.Second {
		t.Errorf("worst %s", got)
	}
	for i := range 4 {
		s.note(time.Millisecond, now.Add(time.Duration(i+1)*2*stallKept))
	}
	if got := s.worst(); got != time.Millisecond {
		t.Errorf("worst %s long after", got)
	}
}

// TestFigures: percentiles come from what was noted, a sample takes what came since the last one.
func TestFigures(t *testing.T) {
	f := NewFigures()
	for i := range 1000 {
		f.Shown(time.Duration(i+1) * time.Millisecond)
	}
	l := f.Latencies()["shown"]
	if l.Count != 1000 || l.P50 < 499 || l.P50 > 501 || l.P99 < 989 || l.P99 > 992 || l.Max < 999 {
		t.Errorf("latency %+v", l)
	}
	if s := f.Sample(Sample{At: 1}); s.P50 < 499 || s.P50 > 501 {
		t.Errorf("first sample %+v", s)
	}
	if s := f.Sample(Sample{At: 2}); s.P50 != 0 || len(f.Samples()) != 2 {
		t.Errorf("a sample of nothing: %+v", s)
	}
}
