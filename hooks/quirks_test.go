package hooks_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// The tests of this file describe mochi v2.7.9 as it comes, one defect each that package hooks is
// built around. None of them is about our code: when one fails after an upgrade, mochi has changed
// there, and what we do about it can be looked at again.

// A script is a connection whose peer has said everything it will say. It records what is written
// and which deadlines are set. enter, if set, is called before each Read and Write.
type script struct {
	in    bytes.Reader
	enter func(op string)

	mu        sync.Mutex
	out       bytes.Buffer
	deadlines []time.Time
	closed    bool
}

func (s *script) call(op string) {
	if s.enter != nil {
		s.enter(op)
	}
}

func (s *script) Read(p []byte) (int, error) { s.call("read"); return s.in.Read(p) }

func (s *script) Write(p []byte) (int, error) {
	s.call("write")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *script) set(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadlines = append(s.deadlines, t)
	return nil
}

// sent returns what was written since the last call.
func (s *script) sent() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.out.Reset()
	return bytes.Clone(s.out.Bytes())
}

func (s *script) Close() error                       { s.mu.Lock(); defer s.mu.Unlock(); s.closed = true; return nil }
func (s *script) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (s *script) SetDeadline(t time.Time) error      { return s.set(t) }
func (s *script) SetReadDeadline(t time.Time) error  { return s.set(t) }
func (s *script) SetWriteDeadline(t time.Time) error { return s.set(t) }

func says(packets ...[]byte) *script {
	s := new(script)
	s.in.Reset(bytes.Join(packets, nil))
	return s
}

// A quirkHook allows everything that its functions do not decide.
type quirkHook struct {
	mqtt.HookBase
	connect      func(*mqtt.Client) error
	established  func(*mqtt.Client)
	disconnected func(*mqtt.Client)
	unsubscribed func(*mqtt.Client)
	acl          func(topic string, write bool) bool
	publish      func() error
	processed    func()
}

func (*quirkHook) ID() string           { return "quirks" }
func (*quirkHook) Provides(b byte) bool { return b < mqtt.StoredClients }

func (h *quirkHook) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	if h.connect != nil {
		return h.connect(cl)
	}
	return nil
}

func (*quirkHook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (h *quirkHook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	if h.established != nil {
		h.established(cl)
	}
}

func (h *quirkHook) OnDisconnect(cl *mqtt.Client, _ error, _ bool) {
	if h.disconnected != nil {
		h.disconnected(cl)
	}
}

func (h *quirkHook) OnUnsubscribed(cl *mqtt.Client, _ packets.Packet) {
	if h.unsubscribed != nil {
		h.unsubscribed(cl)
	}
}

func (h *quirkHook) OnACLCheck(_ *mqtt.Client, topic string, write bool) bool {
	return h.acl == nil || h.acl(topic, write)
}

func (h *quirkHook) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if h.publish != nil {
		return pk, h.publish()
	}
	return pk, nil
}

func (h *quirkHook) OnPacketProcessed(*mqtt.Client, packets.Packet, error) {
	if h.processed != nil {
		h.processed()
	}
}

// stock is a mochi server with its default options, quiet, and not serving.
func stock(t *testing.T, h *quirkHook, tweaks ...func(*mqtt.Options)) *mqtt.Server {
	t.Helper()
	o := &mqtt.Options{
		Capabilities: mqtt.NewDefaultServerCapabilities(), InlineClient: true, SysTopicResendInterval: 1 << 20,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, tweak := range tweaks {
		tweak(o)
	}
	s := mqtt.New(o)
	if err := s.AddHook(h, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// attached makes a client of s without a listener or a goroutine; feed it with InjectPacket.
func attached(s *mqtt.Server, version byte, id string) (*mqtt.Client, *script) {
	conn := new(script)
	cl := s.NewClient(conn, "l", id, false)
	cl.Properties.ProtocolVersion = version
	cl.State.Inflight.ResetReceiveQuota(10)
	s.Clients.Add(cl)
	return cl, conn
}

func field(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func frame(header byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(binary.AppendUvarint([]byte{header}, uint64(len(body))), body...)
}

// connectAs is an MQTT 3.1.1 CONNECT; flags as in the packet.
func connectAs(id, userName string, flags byte, keepalive uint16, more ...[]byte) []byte {
	head := append(field("MQTT"), 4, flags|0x80, byte(keepalive>>8), byte(keepalive))
	return frame(0x10, head, field(id), bytes.Join(more, nil), field(userName))
}

func publishOf(topic string, qos byte, id uint16) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, PacketID: id, Payload: []byte("x"),
	}
}

func ackOf(id uint16) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id}
}

func subscribed(s *mqtt.Server, cl *mqtt.Client, filter string) {
	sub := packets.Subscription{Filter: filter, Qos: 1}
	s.Topics.Subscribe(cl.ID, sub)
	cl.State.Subscriptions.Add(filter, sub)
}

// inject feeds a packet and reports a panic as an error.
func inject(s *mqtt.Server, cl *mqtt.Client, pk packets.Packet) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return s.InjectPacket(cl, pk)
}

// dial starts mochi's own connection handling on a pipe. The peer's end is returned; done is closed
// when mochi has let the connection go.
func dial(s *mqtt.Server, first []byte) (peer net.Conn, done chan struct{}) {
	ours, peer := net.Pipe()
	done = make(chan struct{})
	go func() {
		defer close(done)
		_ = s.EstablishConnection("l", ours)
	}()
	_, _ = peer.Write(first)
	return peer, done
}

// receive reads one packet of less than 128 bytes.
func receive(t *testing.T, c net.Conn) []byte {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatalf("no packet: %v", err)
	}
	body := make([]byte, head[1])
	_, _ = io.ReadFull(c, body)
	return append(head, body...)
}

// bodyOf is the source of one of mochi's methods.
func bodyOf(t *testing.T, method any, receiver, name string) string {
	t.Helper()
	path, _ := runtime.FuncForPC(reflect.ValueOf(method).Pointer()).FileLine(0)
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, 0)
	if err != nil {
		t.Fatalf("mochi's source (do not test with -trimpath): %v", err)
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name && f.Recv != nil {
			if star, ok := f.Recv.List[0].Type.(*ast.StarExpr); ok && fmt.Sprint(star.X) == receiver {
				var calls []string
				ast.Inspect(f.Body, func(n ast.Node) bool {
					if sel, ok := n.(*ast.SelectorExpr); ok {
						calls = append(calls, sel.Sel.Name)
					}
					return true
				})
				return strings.Join(calls, " ")
			}
		}
	}
	t.Fatalf("mochi has no (%s).%s", receiver, name)
	return ""
}

// Two read locks, one inside the other: a writer between them waits for the first, the second for
// the writer, and the broker stands still. Seen after 359 publishes. Shown by the source, since the
// window is a few nanoseconds. We keep mochi's in-flight map empty. [M-20]
func TestQuirkNestedReadLocks(t *testing.T) {
	outer := bodyOf(t, (*mqtt.Inflight).NextImmediate, "Inflight", "NextImmediate")
	inner := bodyOf(t, (*mqtt.Inflight).GetAll, "Inflight", "GetAll")
	if !strings.HasPrefix(outer, "RLock RUnlock GetAll") || !strings.HasPrefix(inner, "RLock RUnlock") {
		t.Errorf("NextImmediate uses %q, GetAll %q: no nested read lock any more", outer, inner)
	}
}

// A message held back by the receiver's Receive Maximum gives no quota back when it is
// acknowledged: after two of them the receiver of 2 is deaf. We keep a window of our own. [M-20]
func TestQuirkSendQuotaLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stock(t, &quirkHook{})
		from, _ := attached(s, 5, "from")
		to, conn := attached(s, 5, "to")
		to.State.Inflight.ResetSendQuota(2)
		subscribed(s, to, "x")
		go to.WriteLoop()
		for id := uint16(1); id <= 4; id++ { // two beyond the window
			_ = inject(s, from, publishOf("x", 1, id))
		}
		for id := uint16(1); id <= 4; id++ {
			_ = inject(s, to, ackOf(id))
		}
		synctest.Wait()
		if n := bytes.Count(conn.sent(), []byte("x")); n < 4 || to.State.Inflight.Len() != 0 {
			t.Fatalf("%d delivered, %d in flight after all were acknowledged", n, to.State.Inflight.Len())
		}
		_ = inject(s, from, publishOf("x", 1, 9))
		_ = inject(s, to, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
		synctest.Wait()
		if got := conn.sent(); !bytes.Equal(got, []byte{0xd0, 0}) || to.State.Inflight.Len() != 1 {
			t.Errorf("the receiver got %x with %d held: the quota does not leak any more", got, to.State.Inflight.Len())
		}
		to.Stop(nil)
	})
}

// Both directions' packet ids share one map: a client's own publish erases a delivery. [M-20]
func TestQuirkPacketIDsShareAMap(t *testing.T) {
	s := stock(t, &quirkHook{})
	from, _ := attached(s, 4, "from")
	to, _ := attached(s, 4, "to")
	subscribed(s, to, "x")
	_ = inject(s, from, publishOf("x", 1, 77))
	before := to.State.Inflight.Len()
	_ = inject(s, to, publishOf("elsewhere", 1, 1)) // the delivery's id
	if after := to.State.Inflight.Len(); before != 1 || after != 0 {
		t.Errorf("in flight %d, then %d: want 1, then 0", before, after)
	}
}

// An OnPublish that fails does not stop the publish, but for ErrRejectPacket and, on MQTT 5 at
// QoS 1, a bare packets.Code; a wrapped one panics. Ours returns nothing else. [M-21]
func TestQuirkOnPublishFailsOpen(t *testing.T) {
	plain, denied := errors.New("plain"), packets.ErrNotAuthorized
	tests := []struct {
		version, qos byte
		err          error
		published    bool
		panics       bool
	}{
		{4, 1, denied, true, false},
		{4, 0, denied, true, false},
		{5, 0, denied, true, false},
		{5, 1, plain, true, false},
		{5, 1, denied, false, false},
		{5, 1, fmt.Errorf("%w: why", denied), false, true},
		{4, 1, packets.ErrRejectPacket, false, false},
		{5, 0, packets.ErrRejectPacket, false, false},
	}
	for _, tt := range tests {
		s := stock(t, &quirkHook{publish: func() error { return tt.err }})
		cl, _ := attached(s, tt.version, "c")
		pk := publishOf("x", tt.qos, uint16(tt.qos))
		pk.FixedHeader.Retain = true
		err := inject(s, cl, pk)
		_, published := s.Topics.Retained.Get("x")
		if panics := err != nil && strings.HasPrefix(err.Error(), "panic"); published != tt.published || panics != tt.panics {
			t.Errorf("MQTT %d QoS %d %v: published %v, panics %v", tt.version, tt.qos, tt.err, published, panics)
		}
	}
}

// A write happens under the client's lock and without a deadline, so that who does not read stops
// all who send to it. Our connections only queue. [M-8] [M-9]
func TestQuirkWritesUnderALock(t *testing.T) {
	s := stock(t, &quirkHook{})
	cl, conn := attached(s, 4, "c")
	writing, release := make(chan struct{}), make(chan struct{})
	conn.enter = func(string) { close(writing); <-release }
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cl.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingresp}})
	}()
	<-writing
	if cl.TryLock() {
		cl.Unlock()
		t.Error("the lock is free during a write")
	}
	close(release)
	<-done
	if len(conn.deadlines) != 0 {
		t.Error("a write has a deadline")
	}
}

// A takeover with a clean session can delete the client that took over: it is connected, and deaf.
// Our registry is our own, and no two connections share an id.
func TestQuirkTakeoverDeletesTheNewClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taking, cleaning, connected := make(chan struct{}), make(chan struct{}), make(chan struct{})
		calls := 0
		h := &quirkHook{
			disconnected: func(*mqtt.Client) { <-taking },
			unsubscribed: func(*mqtt.Client) {
				if calls++; calls == 1 { // by the one that takes over: goes on when the old one cleans up
					close(taking)
					<-cleaning
				} else { // by the old one: goes on when the new one is there
					close(cleaning)
					<-connected
				}
			},
		}
		s := stock(t, h)
		old, oldDone := dial(s, connectAs("x", "u", 2, 60))
		receive(t, old)
		go func() { _, _ = io.Copy(io.Discard, old) }()
		next, nextDone := dial(s, connectAs("x", "u", 2, 60))
		receive(t, next) // its CONNACK
		close(connected)
		<-oldDone
		if _, ok := s.Clients.Get("x"); ok {
			t.Error("the new client is known: takeover is safe now")
		}
		h.unsubscribed = nil
		_ = next.Close()
		<-nextDone
	})
}

// OnDisconnect of the old connection can come after OnSessionEstablished of the new one.
func TestQuirkDisconnectAfterTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		release := make(chan struct{})
		s := stock(t, &quirkHook{
			established:  func(cl *mqtt.Client) { order = append(order, "established "+string(cl.Properties.Username)) },
			disconnected: func(cl *mqtt.Client) { order = append(order, "disconnected "+string(cl.Properties.Username)) },
		})
		first := says(connectAs("x", "old", 2, 60))
		reads := 0
		first.enter = func(op string) {
			if reads++; op == "read" && reads > 2 { // past CONNECT and CONNACK: a reader that wakes late
				<-release
			}
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.EstablishConnection("l", first) }()
		synctest.Wait()
		next, nextDone := dial(s, connectAs("x", "new", 2, 60))
		receive(t, next)
		synctest.Wait()
		close(release)
		<-done
		_ = next.Close()
		<-nextDone
		want := []string{"established old", "established new", "disconnected old", "disconnected new"}
		if !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
	})
}

// A session belongs to a client id, not to an account: whoever names it inherits it. We keep none. [M-3]
func TestQuirkSessionOfAnotherAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stock(t, &quirkHook{})
		victim, done := dial(s, connectAs("x", "victim", 0, 60))
		receive(t, victim)
		_ = victim.Close()
		<-done
		thief, done := dial(s, connectAs("x", "thief", 0, 60))
		if connack := receive(t, thief); connack[2] != 1 {
			t.Error("no session present: sessions are bound to accounts now")
		}
		_ = thief.Close()
		<-done
	})
}

// A message queued for a stored session is delivered although reading was forbidden meanwhile. [M-3]
func TestQuirkDeliveredAfterRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		allowed := true
		s := stock(t, &quirkHook{acl: func(string, bool) bool { return allowed }})
		c, done := dial(s, connectAs("x", "u", 0, 60))
		receive(t, c)
		_, _ = c.Write(frame(0x82, []byte{0, 1}, field("t"), []byte{1}))
		receive(t, c)
		_ = c.Close()
		<-done
		_ = s.Publish("t", []byte("secret"), false, 1)
		allowed = false
		c, done = dial(s, connectAs("x", "u", 0, 60))
		receive(t, c)
		if p := receive(t, c); !bytes.Contains(p, []byte("secret")) {
			t.Errorf("got %x", p)
		}
		_ = c.Close()
		<-done
	})
}

// Wills are published past OnACLCheck and OnPublish. Ours are refused. [M-3]
func TestQuirkWillsBypassHooks(t *testing.T) {
	published := false
	s := stock(t, &quirkHook{
		acl:     func(_ string, write bool) bool { return !write },
		publish: func() error { published = true; return packets.ErrRejectPacket },
	})
	_ = s.EstablishConnection("l", says(connectAs("x", "u", 0x26, 60, field("p/victim"), field("forged"))))
	if _, ok := s.Topics.Retained.Get("p/victim"); !ok || published {
		t.Errorf("retained %v, OnPublish asked %v: want true, false", ok, published)
	}
}

// The CONNACK is out before OnSessionEstablished, so that a message sent at once finds nobody.
func TestQuirkConnackComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := stock(t, &quirkHook{established: func(*mqtt.Client) { <-release }})
		c, done := dial(s, connectAs("x", "u", 2, 60))
		if p := receive(t, c); p[0] != 0x20 {
			t.Errorf("got %x", p)
		}
		close(release)
		_ = c.Close()
		<-done
	})
}

// OnConnect's error reaches nobody: no CONNACK.
func TestQuirkOnConnectErrorIsSilent(t *testing.T) {
	s := stock(t, &quirkHook{connect: func(*mqtt.Client) error { return packets.ErrNotAuthorized }})
	c := says(connectAs("x", "u", 2, 60))
	if err := s.EstablishConnection("l", c); err == nil || len(c.sent()) != 0 {
		t.Errorf("%v, and the client was told", err)
	}
}

// MQTT 3.1.1 clients are sent a DISCONNECT, which they do not know; and a refused QoS 1 publish is
// answered so, without a PUBACK. [M-23]
func TestQuirkDisconnectToMQTT3(t *testing.T) {
	s := stock(t, &quirkHook{acl: func(string, bool) bool { return false }})
	cl, conn := attached(s, 4, "c")
	_ = inject(s, cl, publishOf("x", 1, 1))
	if got := conn.sent(); len(got) == 0 || got[0] != 0xe0 || !cl.Closed() {
		t.Errorf("sent %x, closed %v", got, cl.Closed())
	}
}

// A length is allocated before a byte of it has come, before CONNECT, and its encoding has no end. [M-1]
func TestQuirkAllocatesWhatIsAnnounced(t *testing.T) {
	s := stock(t, &quirkHook{})
	cl := s.NewClient(says(), "l", "c", false)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = cl.ReadPacket(&packets.FixedHeader{Type: packets.Connect, Remaining: 8 << 20})
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n < 8<<20 {
		t.Errorf("%d bytes allocated for a packet that did not come", n)
	}
	endless := append(bytes.Repeat([]byte{0x80}, 10_000), 0)
	if n, bytesUsed, err := packets.DecodeLength(bytes.NewReader(endless)); n != 0 || bytesUsed != 10_001 || err != nil {
		t.Errorf("length %d of %d bytes, %v", n, bytesUsed, err)
	}
}

// There is no deadline before CONNECT. [M-13]
func TestQuirkNoDeadlineBeforeConnect(t *testing.T) {
	c := says()
	atRead := -1
	c.enter = func(string) { atRead = len(c.deadlines) }
	_ = stock(t, &quirkHook{}).EstablishConnection("l", c)
	if atRead != 0 {
		t.Errorf("%d deadlines were set before the first read", atRead)
	}
}

// failing is a net.Listener that fails to accept.
type failing struct{ net.Listener }

func (failing) Accept() (net.Conn, error) { return nil, errors.New("too many open files") }

// One accept error ends a listener for ever, without a word. [M-11]
func TestQuirkAcceptErrorEndsListener(t *testing.T) {
	log := new(bytes.Buffer)
	l := listeners.NewNet("l", failing{})
	_ = l.Init(slog.New(slog.NewTextHandler(log, nil)))
	l.Serve(nil) // returns
	if log.Len() != 0 {
		t.Errorf("logged %q", log)
	}
}

// Close waits for ever for a connection that has not sent CONNECT. [M-16]
func TestQuirkCloseHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stock(t, &quirkHook{})
		c, done := dial(s, nil)
		closed := make(chan struct{})
		go func() { defer close(closed); _ = s.Close() }()
		select {
		case <-closed:
			t.Error("Close returned")
		case <-time.After(24 * time.Hour):
		}
		_ = c.Close()
		<-done
		<-closed
	})
}

// The subscriptions of an expired session stay. [M-20]
func TestQuirkExpiredSessionsLeaveSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stock(t, &quirkHook{}, func(o *mqtt.Options) { o.Capabilities.MaximumSessionExpiryInterval = 1 })
		_ = s.Serve()
		c, done := dial(s, connectAs("x", "u", 0, 60))
		receive(t, c)
		_, _ = c.Write(frame(0x82, []byte{0, 1}, field("leak"), []byte{0}))
		receive(t, c)
		_ = c.Close()
		<-done
		time.Sleep(time.Minute)
		_, known := s.Clients.Get("x")
		if n := len(s.Topics.Subscribers("leak").Subscriptions); known || n != 1 {
			t.Errorf("client known %v with %d subscriptions: want false, 1", known, n)
		}
		_ = s.Close()
	})
}

// Half as much again as a long keepalive overflows its 16 bits. [M-12]
func TestQuirkKeepaliveOverflows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for asked, granted := range map[uint16]time.Duration{43690: 65535 * time.Second, 43691: 0, 65535: 32766 * time.Second} {
			s, c := stock(t, &quirkHook{}), says(connectAs("x", "u", 2, asked))
			_ = s.EstablishConnection("l", c)
			if got := time.Until(c.deadlines[0]); got != granted {
				t.Errorf("keepalive %d: the deadline is in %v, want %v", asked, got, granted)
			}
		}
	})
}

// With a topic alias, OnACLCheck is asked about "". [M-7]
func TestQuirkAliasReachesACLEmpty(t *testing.T) {
	var asked []string
	s := stock(t, &quirkHook{acl: func(topic string, _ bool) bool { asked = append(asked, topic); return true }})
	cl, _ := attached(s, 5, "c")
	for _, topic := range []string{"x", ""} {
		pk := publishOf(topic, 0, 0)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 1, true
		_ = inject(s, cl, pk)
	}
	if !slices.Equal(asked, []string{"x", ""}) {
		t.Errorf("asked about %q", asked)
	}
}

// A panic in a hook is nobody's: it ends the process. [M-15]
func TestQuirkHookPanicsAreNotRecovered(t *testing.T) {
	s := stock(t, &quirkHook{processed: func() { panic("in a hook") }})
	cl, _ := attached(s, 4, "c")
	if err := inject(s, cl, ackOf(1)); err == nil || !strings.Contains(err.Error(), "in a hook") {
		t.Errorf("mochi recovered: %v", err)
	}
}

// "No matching subscribers" is lost on the way out, and mochi's own PUBACK says 0x01, which MQTT 5
// does not define. We write ours. [M-20]
func TestQuirkPubackReasons(t *testing.T) {
	pk := ackOf(1)
	pk.ProtocolVersion, pk.ReasonCode = 5, packets.CodeNoMatchingSubscribers.Code
	out := new(bytes.Buffer)
	_ = pk.PubackEncode(out)
	if !bytes.Equal(out.Bytes(), []byte{0x40, 2, 0, 1}) {
		t.Errorf("encoded %x", out)
	}
	s := stock(t, &quirkHook{})
	cl, conn := attached(s, 5, "c")
	in := publishOf("x", 1, 1)
	in.Properties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
	_ = inject(s, cl, in)
	if got := conn.sent(); len(got) < 5 || got[4] != 1 {
		t.Errorf("mochi's PUBACK %x", got)
	}
}
