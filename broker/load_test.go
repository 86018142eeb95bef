package broker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bluejay/hooks"
	"bluejay/wire"
)

// The load that a revocation is timed under.
const (
	loadHandsets = 5000
	loadTexts    = 500 // a second, each acknowledged by its recipient
	loadOff      = 600 // withdrawals by devices, and half as many revocations by the registrar
	offEvery     = 40 * time.Millisecond
)

// loadEnv makes the test binary the handsets' process: its value is the broker's address.
const loadEnv = "BLUEJAY_TEST_LOAD"

// BenchmarkRevocation times revocations on a node with 5,000 connected handsets, each watching two others, and 500 texts
// a second between them: from the arrival of each to its receipt at the broker, for the devices' own and the registrar's
// together, and from sending to the PUBACK at the device. The handsets live in a process of their own; the store is the
// embedded server, with every write synced. Due: p50 5 ms and p99 50 ms, and nothing on a connection after its receipt.
//
//	go test -run '^$' -bench Revocation -benchtime 1x ./broker
func BenchmarkRevocation(b *testing.B) {
	var mu sync.Mutex
	took := map[hooks.Part][]time.Duration{}
	br := start(b, func(c *Config) {
		ofTests(c)
		c.MaxConns = loadHandsets + 100
		c.Observe = func(p hooks.Part, d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			took[p] = append(took[p], d)
		}
	})
	for i := range loadHandsets {
		settleConsent(b, br, i)
	}
	for b.Loop() {
		load := startLoad(b, br)
		before := br.Counts().Custody
		began := time.Now()
		load.begin()
		tick := time.NewTicker(2 * offEvery)
		for i := range loadOff / 2 {
			<-tick.C
			r := wire.Revocation{ID: idleCert(i).ID, Cause: wire.CauseOperator, Seq: 2, IssuedAt: wire.Unix32(time.Now()), KID: 1}
			r.Sign(idleKey("registrar", 0))
			if code := br.node.Revoke(b.Context(), r.Marshal()); code != wire.OK {
				b.Fatalf("revoked: %v", code)
			}
		}
		tick.Stop()
		result := load.end()
		c := br.Counts()
		rate := float64(c.Custody.Delivered-before.Delivered) / time.Since(began).Seconds()
		mu.Lock()
		receipts := slices.Sorted(slices.Values(took[hooks.PartReceipt]))
		for p := hooks.PartStored; p <= hooks.PartReceipt; p++ {
			if d := slices.Sorted(slices.Values(took[p])); len(d) > 0 {
				b.Logf("%-10s p50 %8v  p99 %8v  max %8v", p, at(d, 50), at(d, 99), d[len(d)-1])
			}
		}
		mu.Unlock()
		own := slices.Sorted(slices.Values(result.Took))
		b.Logf("at the devices: p50 %v, p99 %v; %d deliveries read, %.0f delivered a second", at(own, 50), at(own, 99), result.Read, rate)
		b.ReportMetric(float64(at(receipts, 50).Microseconds())/1000, "ms-p50")
		b.ReportMetric(float64(at(receipts, 99).Microseconds())/1000, "ms-p99")
		b.ReportMetric(float64(at(own, 50).Microseconds())/1000, "ms-device-p50")
		b.ReportMetric(float64(at(own, 99).Microseconds())/1000, "ms-device-p99")
		b.ReportMetric(rate, "texts/s")
		if len(receipts) < loadOff+loadOff/2 || len(own) != loadOff {
			b.Errorf("%d and %d revocations were timed", len(receipts), len(own))
		}
		if result.After != 0 || c.PostRevocation != 0 || c.Custody.Difference() != 0 {
			b.Errorf("%d packets after a receipt, %+v", result.After, c)
		}
		if at(receipts, 50) > 5*time.Millisecond || at(receipts, 99) > 50*time.Millisecond {
			b.Errorf("p50 %v and p99 %v; 5 ms and 50 ms are due", at(receipts, 50), at(receipts, 99))
		}
	}
}

// at is a percentile of sorted values, by nearest rank.
func at(sorted []time.Duration, p int) time.Duration {
	return sorted[max((p*len(sorted)+99)/100, 1)-1]
}

// loadResult is what the handsets' process says at its end.
type loadResult struct {
	Took  []time.Duration // from sending a withdrawal to its PUBACK
	After int64           // packets read on a connection after its receipt, but for the broker's word on r
	Read  int64           // deliveries read
}

// load is the handsets' process.
type load struct {
	tb  testing.TB
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

func startLoad(tb testing.TB, br *Broker) *load {
	tb.Helper()
	l := &load{tb: tb, cmd: exec.Command(os.Args[0])}
	l.cmd.Env, l.cmd.Stderr = append(os.Environ(), loadEnv+"="+br.Addr()), os.Stderr
	in, err1 := l.cmd.StdinPipe()
	out, err2 := l.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, l.cmd.Start()); err != nil {
		tb.Fatal(err)
	}
	l.in, l.out = in, bufio.NewReader(out)
	tb.Cleanup(func() { _ = in.Close(); _ = l.cmd.Wait() })
	if line, err := l.out.ReadString('\n'); err != nil || strings.TrimSpace(line) != "connected" {
		tb.Fatalf("handsets: %q %v", line, err)
	}
	return l
}

func (l *load) begin() { _, _ = fmt.Fprintln(l.in, "go") }

// end waits for the result.
func (l *load) end() (r loadResult) {
	l.tb.Helper()
	line, err := l.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		l.tb.Fatalf("handsets: %q %v", line, err)
	}
	return r
}

// crowd is the handsets of one process.
type crowd struct {
	all         []*member
	after, read atomic.Int64
}

// member is a connected handset with a goroutine that reads.
type member struct {
	*raw
	crowd *crowd
	off   atomic.Bool   // it has its receipt
	acks  chan struct{} // of its own records
	mine  atomic.Int32  // packet id of the record under way
}

// runLoad connects the crowd, waits for the word, makes load and withdraws, and tells how it went.
func runLoad(addr string) error {
	c := &crowd{}
	for i := range loadHandsets {
		h, err := dialRaw(addr, i, time.Now())
		if err != nil {
			return err
		}
		c.all = append(c.all, &member{raw: h, crowd: c, acks: make(chan struct{}, 1)})
	}
	for i, m := range c.all {
		if err := m.watch(c.all[(i+1)%len(c.all)], c.all[(i+7)%len(c.all)]); err != nil {
			return err
		}
		go m.readAll()
	}
	fmt.Println("connected")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	stop := make(chan struct{})
	go c.talk(stop)
	result, err := c.withdraw()
	close(stop)
	result.After, result.Read = c.after.Load(), c.read.Load()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// watch subscribes to the presence of others, unanswered here: the reader skips the SUBACK.
func (m *member) watch(others ...*member) error {
	body := []byte{0, 1}
	for _, o := range others {
		topic := wire.Topic{Kind: wire.TopicPresence, Tag: o.tag}.String()
		body = append(mqttString(body, []byte(topic)), 0)
	}
	_, err := m.conn.Write(framed(0x82, body))
	return err
}

func (m *member) readAll() {
	for {
		kind, topic, payload, err := m.next()
		switch {
		case err != nil:
			return // revoked by the registrar, or the end
		case kind == 4 && int32(payload[0])<<8|int32(payload[1]) == m.mine.Load():
			m.off.Store(!m.off.Load())
			m.acks <- struct{}{}
		case kind == 3 && topic != "r":
			m.crowd.read.Add(1)
			if m.off.Load() {
				m.crowd.after.Add(1)
			}
		}
	}
}

// talk sends texts at an even rate, from anybody to anybody.
func (c *crowd) talk(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second / loadTexts)
	defer tick.Stop()
	began := time.Now()
	for n := 0; ; {
		select {
		case <-tick.C: // some ticks are dropped
			for due := int(time.Since(began) * loadTexts / time.Second); n < due; n++ {
				from, to := c.all[rand.IntN(len(c.all))], c.all[rand.IntN(len(c.all))]
				_, _ = from.publish(to.inbox(), []byte("text "+strconv.Itoa(n)+" to somebody")) // some are off: refused
			}
		case <-stop:
			return
		}
	}
}

// withdraw has one after the other withdraw and agree again, from the end of the list: the registrar begins at its
// other end.
func (c *crowd) withdraw() (r loadResult, err error) {
	tick := time.NewTicker(offEvery)
	defer tick.Stop()
	for i := range loadOff {
		<-tick.C
		m := c.all[len(c.all)-1-i]
		began := time.Now()
		if err := m.send(2, 0); err != nil {
			return r, err
		}
		r.Took = append(r.Took, time.Since(began))
		if err := m.send(3, everything); err != nil {
			return r, err
		}
	}
	return r, nil
}

// send sends a record and waits for its PUBACK.
func (m *member) send(seq uint32, scopes wire.Scope) error {
	body := recordOf(m.i, seq, scopes)
	m.mu.Lock()
	next := m.pid + 1
	m.mine.Store(int32(next))
	m.pid = next
	_, err := m.conn.Write(publishPacket("c", next, wire.Request{ID: next, Body: body}.Marshal()))
	m.mu.Unlock()
	if err != nil {
		return err
	}
	t := time.NewTimer(20 * time.Second)
	defer t.Stop()
	select {
	case <-m.acks:
		return nil
	case <-t.C:
		return fmt.Errorf("handset %d: no PUBACK", m.i)
	}
}
