package broker

import (
	"bufio"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/wire"
)

// everything is what a raw handset agrees to.
const everything = wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway

// A raw handset speaks just enough MQTT 3.1.1 for what it is tested with: small, so that there can be thousands, and
// with keys that any process of a test can derive.
type raw struct {
	i    int
	cert wire.Certificate
	tag  wire.Tag
	seq  uint32
	conn net.Conn
	in   *bufio.Reader

	mu  sync.Mutex // of writes
	pid uint16
}

// recordOf signs a consent record of handset i.
func recordOf(i int, seq uint32, scopes wire.Scope, tweaks ...func(*wire.Consent)) []byte {
	now := wire.Unix32(time.Now())
	r := wire.Consent{ID: idleCert(i).ID, Scopes: scopes, Seq: seq, IssuedAt: now, ExpiresAt: now + 86400}
	for _, f := range tweaks {
		f(&r)
	}
	r.Sign(idleKey("device", i))
	return r.Marshal()
}

// settleConsent stores that handset i has agreed.
func settleConsent(tb testing.TB, b *Broker, i int) {
	tb.Helper()
	cert := idleCert(i)
	s, _, err := consent.State{}.WithCertificate(cert)
	if err == nil {
		s, _, err = s.WithRecord(recordOf(i, 1, everything), time.Now())
	}
	if err == nil {
		_, err = b.bridge.Store().Save(tb.Context(), cert.ID, s)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// dialRaw connects handset i; ts is a second that it has not used before. [P-16]
func dialRaw(addr string, i int, ts time.Time) (*raw, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	h := &raw{i: i, cert: idleCert(i), conn: c, in: bufio.NewReaderSize(c, 512)}
	proof := wire.Connect{Cert: &h.cert, ID: h.cert.ID, TS: wire.Unix32(ts)}
	proof.Sign(idleKey("device", i), nil, "test")
	if _, err := c.Write(connectPacket(proof.Marshal())); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if p, err := readMQTT(h.in); err != nil || p.head != 0x20 || p.body[1] != 0 {
		return nil, errors.Join(fmt.Errorf("handset %d: CONNECT refused: %x", i, p.body), err, c.Close())
	}
	p, err := readMQTT(h.in)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	w, err := wire.ParseWelcome(p.body[3:]) // behind topic r
	h.tag, h.seq = w.Tag, w.Seq
	return h, err
}

func (h *raw) inbox() string { return wire.Topic{Kind: wire.TopicInbox, Tag: h.tag}.String() }

// publish sends at QoS 1.
func (h *raw) publish(topic string, payload []byte) (uint16, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pid++; h.pid == 0 {
		h.pid = 1
	}
	_, err := h.conn.Write(publishPacket(topic, h.pid, payload))
	return h.pid, err
}

func (h *raw) ack(pid []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.conn.Write([]byte{0x40, 2, pid[0], pid[1]})
	return err
}

// next reads one packet: what it is, and of a publish its topic and payload. Deliveries are acknowledged.
func (h *raw) next() (kind byte, topic string, payload []byte, err error) {
	p, err := readMQTT(h.in)
	if err != nil {
		return 0, "", nil, err
	}
	kind = p.head >> 4
	if kind != 3 {
		return kind, "", p.body, nil
	}
	n := 2 + int(binary.BigEndian.Uint16(p.body))
	topic, payload = string(p.body[2:n]), p.body[n:]
	if p.head&6 != 0 {
		err = h.ack(payload[:2])
		payload = payload[2:]
	}
	return kind, topic, payload, err
}

// told waits for the PUBACK of a publish and returns what it came with: the code of a notice, of an answer, or OK.
func (h *raw) told(pid uint16, err error) (code wire.Code, body []byte, _ error) {
	for err == nil {
		var kind byte
		var topic string
		var payload []byte
		kind, topic, payload, err = h.next()
		switch {
		case err != nil:
		case kind == 4 && binary.BigEndian.Uint16(payload) == pid:
			return code, body, nil
		case kind == 3 && topic == "r":
			if n, err := wire.ParseNotice(payload); err == nil && n.PacketID == pid {
				code = n.Code
			}
			if a, err := wire.ParseAnswer(payload); err == nil && a.Request == pid {
				code, body = a.Code, a.Body
			}
		}
	}
	return 0, nil, err
}

// ask sends a request on c and returns its answer.
func (h *raw) ask(body []byte) (wire.Code, []byte, error) {
	h.mu.Lock()
	next := h.pid + 1
	h.mu.Unlock()
	return h.told(h.publish("c", wire.Request{ID: next, Body: body}.Marshal()))
}

// must is ask, and a text to somebody, in a test.
func (h *raw) must(tb testing.TB, what string, want wire.Code, ask func() (wire.Code, []byte, error)) {
	tb.Helper()
	_ = h.conn.SetDeadline(time.Now().Add(natsPatience))
	if code, _, err := ask(); err != nil || code != want {
		tb.Errorf("%s: %v, %v; want %v", what, code, err, want)
	}
}

func (h *raw) record(seq uint32, scopes wire.Scope) func() (wire.Code, []byte, error) {
	return func() (wire.Code, []byte, error) { return h.ask(recordOf(h.i, seq, scopes)) }
}

func (h *raw) text(topic string) func() (wire.Code, []byte, error) {
	return func() (wire.Code, []byte, error) { return h.told(h.publish(topic, []byte("a text"))) }
}

func ofTests(c *Config) {
	c.Registrar, c.Log = wire.PublicKey(idleKey("registrar", 0).Public().(ed25519.PublicKey)), nil
}

// TestFullDisk: when the store takes no more, a new consent is refused and changes nothing, nobody is switched on, and
// what was agreed to and withdrawn before goes on being enforced; a withdrawal that cannot be stored is not
// acknowledged. It is the real server, with a store that has room for little. [C-revoke] [P-6]
func TestFullDisk(t *testing.T) {
	b := start(t, func(c *Config) {
		ofTests(c)
		c.Limits = bridge.Limits{JobBytes: 32 << 10}
		c.NATS.MaxStore = 384 << 10
	})
	for i := range 4 {
		settleConsent(t, b, i)
	}
	cert := idleCert(4) // enrolled, has not agreed
	if _, err := b.bridge.Store().Save(t.Context(), cert.ID, consent.State{Cert: &cert}); err != nil {
		t.Fatal(err)
	}
	dial := func(i int) *raw {
		t.Helper()
		h, err := dialRaw(b.Addr(), i, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.conn.Close() })
		return h
	}
	on, off, stays, fresh := dial(0), dial(1), dial(3), dial(4)
	off.must(t, "withdrawn while there is room", wire.OK, off.record(2, 0))
	fill(t, b)
	fresh.must(t, "a first consent", wire.Unavailable, fresh.record(1, everything))
	fresh.must(t, "a text of who could not agree", wire.NotConsented, fresh.text(on.inbox()))
	off.must(t, "a new consent", wire.Unavailable, off.record(3, everything))
	off.must(t, "a text of who has withdrawn", wire.NotConsented, off.text(on.inbox()))
	on.must(t, "a text to who has withdrawn", wire.NoRecipient, on.text(off.inbox()))
	on.must(t, "a wider consent", wire.Unavailable, on.record(2, everything|wire.ScopeIntegrations))
	on.must(t, "a text of who has agreed", wire.OK, on.text(on.inbox()))
	on.must(t, "a withdrawal that cannot be stored", wire.Unavailable, on.record(3, 0))
	again := dial(2) // agreed long ago, comes only now
	again.must(t, "a text of who comes back", wire.OK, again.text(again.inbox()))
	stays.must(t, "a text of who stayed", wire.OK, stays.text(stays.inbox()))
	for id, want := range map[wire.ID]uint32{idleCert(0).ID: 1, idleCert(1).ID: 2, idleCert(2).ID: 1, cert.ID: 0} {
		s, err := b.bridge.Store().Load(t.Context(), id)
		if err != nil || s.Seq != want || want == 2 && s.Scopes(time.Now()) != 0 || want == 1 && s.Scopes(time.Now()) != everything {
			t.Errorf("stored: seq %d, want %d, scopes %b, %v", s.Seq, want, s.Scopes(time.Now()), err)
		}
	}
	if c := b.Counts(); c.Custody.Difference() != 0 || c.PostRevocation != 0 || c.Revocations != 1 {
		t.Errorf("%+v", c)
	}
}

// fill stores consents of others until the store takes no more.
func fill(t *testing.T, b *Broker) {
	t.Helper()
	for i := 10_000; i < 20_000; i++ {
		cert := idleCert(i)
		s, _, _ := consent.State{}.WithCertificate(cert)
		s, _, _ = s.WithRecord(recordOf(i, 1, everything), time.Now())
		if _, err := b.bridge.Store().Save(t.Context(), cert.ID, s); err != nil {
			t.Logf("full after %d consents: %v", i-10_000, err)
			return
		}
	}
	t.Fatal("it is never full")
}
