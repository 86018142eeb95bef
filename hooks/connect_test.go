package hooks

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// TestEnrolmentOnly keeps [P-17]: a connection without a proof may use only e and r; every other
// publish and subscription is answered with the reason, and reaches nobody.
func TestEnrolmentOnly(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		b := st.person(everything)
		to := st.on(b, level)
		ph, code := st.call(level, "")
		if code != 0 {
			t.Fatalf("CONNACK %#x", code)
		}
		for _, kind := range "hifxcq" {
			pid := ph.publish(b.topic(wire.TopicKind(kind)), []byte("x"))
			ph.told(pid, wire.NotEnrolled, "publish to "+string(kind))
		}
		for _, kind := range "bpkr" {
			ph.told(ph.publish(b.topic(wire.TopicKind(kind)), nil), wire.NotAllowed, "publish to "+string(kind))
		}
		for i, code := range ph.subscribe("r", "k", b.topic('h'), b.topic('i'), b.topic('p'), b.topic('b'), "e", "c") {
			if (code >= 0x80) != (i > 0) {
				t.Errorf("subscription %d: %#x", i, code)
			}
		}
		if a := ph.ask("e", []byte{byte(wire.CtlEnrol), 1}); a.Code != wire.OK {
			t.Errorf("enrolment: %v", a.Code)
		}
		to.quiet("the others")
	})
}

// A refusal is a CONNECT that must be refused, with the code to be told.
type refusal struct {
	name     string
	want     wire.Code
	password func(st *stage) string
}

func cert(c wire.Certificate) func(*wire.Connect) {
	return func(p *wire.Connect) { p.Cert = &c }
}

var refusals = []refusal{
	{"a certificate with a bad signature", wire.BadRecord, func(st *stage) string {
		p := st.person(everything)
		p.cert.Sig[7]++
		return p.proof(cert(p.cert))
	}},
	{"another registrar's certificate", wire.BadRecord, func(st *stage) string {
		p := st.person(everything)
		_, other, _ := ed25519.GenerateKey(rand.Reader)
		p.cert.Sign(other)
		return p.proof(cert(p.cert))
	}},
	{"an expired certificate", wire.OutOfTime, func(st *stage) string {
		p := st.certify(wire.ID{1}, time.Now().Add(-25*time.Hour))
		return p.proof(cert(p.cert))
	}},
	{"a certificate of the future", wire.OutOfTime, func(st *stage) string {
		p := st.certify(wire.ID{1}, time.Now().Add(time.Hour))
		return p.proof(cert(p.cert))
	}},
	{"a stored certificate that has expired", wire.NotEnrolled, func(st *stage) string {
		p := st.certify(wire.ID{1}, time.Now().Add(-25*time.Hour))
		st.put(p)
		return p.proof()
	}},
	{"an older certificate than the stored one [P-5]", wire.Revoked, func(st *stage) string {
		p := st.person(everything)
		old := st.certify(p.id, time.Now().Add(-time.Hour))
		return old.proof(cert(old.cert))
	}},
	{"nothing stored", wire.NotEnrolled, func(st *stage) string {
		return st.certify(wire.ID{1}, time.Now()).proof()
	}},
	{"another device's signature", wire.BadRecord, func(st *stage) string {
		p := st.person(everything)
		return st.certify(p.id, time.Now()).proof()
	}},
	{"another broker's name [P-15]", wire.BadRecord, func(st *stage) string {
		p := st.person(everything)
		c := wire.Connect{ID: p.id, TS: wire.Unix32(time.Now())}
		c.Sign(p.key, nil, "another")
		return string(c.Marshal())
	}},
	{"a replay [P-16]", wire.OutOfTime, func(st *stage) string {
		password := st.person(everything).proof()
		if _, code := st.call(4, password); code != 0 {
			st.Errorf("the original: CONNACK %#x", code)
		}
		return password
	}},
	{"61 s behind [P-16]", wire.OutOfTime, func(st *stage) string {
		return st.person(everything).proof(func(c *wire.Connect) { c.TS = wire.Unix32(time.Now()) - 62 })
	}},
	{"2 min ahead [P-16]", wire.OutOfTime, func(st *stage) string {
		return st.person(everything).proof(func(c *wire.Connect) { c.TS = wire.Unix32(time.Now()) + 120 })
	}},
	{"a TLS proof on a plain connection [P-15]", wire.NotAllowed, func(st *stage) string {
		p := st.person(everything)
		c := wire.Connect{ID: p.id, TLS: true}
		c.Sign(p.key, make([]byte, wire.ExporterLen), worldName)
		return string(c.Marshal())
	}},
	{"a lower generation than stored [P-12]", wire.StaleRecord, func(st *stage) string {
		p := st.person(everything)
		p.gen = 5
		_ = st.on(p, 4).Close()
		p.gen = 4
		return p.proof()
	}},
	{"too high a generation [P-12]", wire.NotAllowed, func(st *stage) string {
		p := st.person(everything)
		p.gen = consent.MaxGenStep + 1
		return p.proof()
	}},
	{"no proof", wire.BadRecord, func(*stage) string { return strings.Repeat("x", 85) }},
	{"the store does not answer", wire.Unavailable, func(st *stage) string {
		p := st.person(everything)
		st.fail("load", errors.New("down"))
		return p.proof()
	}},
	{"the store does not take it", wire.Unavailable, func(st *stage) string {
		p := st.person(everything)
		p.gen = 1
		st.fail("save", errors.New("down"))
		return p.proof()
	}},
	{"other brokers are always first", wire.Unavailable, func(st *stage) string {
		p := st.person(everything)
		p.gen = 1
		st.fail("save", consent.ErrConflict)
		return p.proof()
	}},
}

// TestConnectRefused keeps [P-15], [P-16], [P-12] and [P-5]: each refusal has its code, changes
// nothing stored, and is one line of the log that holds nothing of the CONNECT.
func TestConnectRefused(t *testing.T) {
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			each(t, func(t *testing.T, level byte) { r.check(newStage(t, ListenConfig{}), level) })
		})
	}
}

func (r refusal) check(st *stage, level byte) {
	password := r.password(st)
	before, lines := fmt.Sprint(st.shelf.states), strings.Count(st.log.String(), "\n")
	ph, code := st.call(level, password)
	want := r.want.Connack()
	if level == 4 {
		want = connack3(r.want)
	}
	if code != want {
		st.Errorf("CONNACK %#x, want %#x", code, want)
	}
	ph.closed()
	log := strings.SplitAfter(st.log.String(), "\n")
	if len(log)-1-lines != 1 || !strings.Contains(log[lines], r.want.String()) {
		st.Errorf("log: %q", log[lines:])
	}
	if leaks(log[lines], password) {
		st.Errorf("the log holds the CONNECT: %q", log[lines])
	}
	if after := fmt.Sprint(st.shelf.states); after != before || st.node.Counts().Refused != 1 {
		st.Errorf("stored: %s, before: %s; %d refused", after, before, st.node.Counts().Refused)
	}
}

// leaks reports whether a log line holds six bytes of a password in a row, or its ID, in any form.
func leaks(line, password string) bool {
	for i := 0; i+6 <= len(password); i++ {
		part := password[i : i+6]
		for _, form := range []string{part, fmt.Sprintf("%x", part), strings.Trim(fmt.Sprint([]byte(part)), "[]")} {
			if strings.Contains(line, form) {
				return true
			}
		}
	}
	var id wire.ID
	copy(id[:], password[1:])
	return strings.Contains(line, id.String())
}

// TestUserName keeps [P-15]: the user name is bj and the version that the device was made for.
func TestUserName(t *testing.T) {
	st := newStage(t, ListenConfig{})
	for _, name := range []string{"", "bj", "bj0", "bj02", "bj256", "bluejay", "j1"} {
		ph := &phone{peer: st.dial(), st: st}
		ph.send(headConnect, connect(4, 0xc2, lp(""), lp(name), lp(st.person(everything).proof())))
		if e := ph.next(); e.kind != 2 || e.codes[0] != 5 {
			t.Errorf("user name %q: %+v", name, e)
		}
		ph.closed()
	}
}

// TestNewDevice keeps [P-5] and [P-12]: a new device of an ID is given the stored generation + 1
// and starts switched off; the old one's connection, consent, bundle and presence end, also what
// it had left behind when it was not connected.
func TestNewDevice(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		for _, connected := range []bool{true, false} {
			st := newStage(t, ListenConfig{})
			old, friend := st.person(everything), st.person(everything)
			old.gen = 7
			was := st.on(old, level)
			was.told(was.publish(old.topic('b'), st.bundle(old, time.Hour)), wire.OK, "bundle")
			if !connected {
				_ = was.Close()
				st.eventually("the old one is gone", func() bool { return st.node.Counts().Sessions == 0 })
			}
			new := st.certify(old.id, time.Now())
			ph, code := st.call(level, new.proof(cert(new.cert)))
			if code != 0 {
				t.Fatalf("CONNACK %#x", code)
			}
			new.gen = 8
			w, err := wire.ParseWelcome(ph.next().payload)
			if err != nil || w != (wire.Welcome{Gen: 8, Tag: new.tag(), Seq: 1}) {
				t.Errorf("welcome %+v, %v", w, err)
			}
			if connected {
				if reason := was.closed(); level == 5 && reason != wire.TakenOver.Connack() {
					t.Errorf("the old one: DISCONNECT %#x", reason)
				}
			}
			if c := st.node.Counts(); c.Blue != 0 || c.Bundles != 0 {
				t.Errorf("connected %v: left of the old one: %+v", connected, c)
			}
			st.eventually("one session", func() bool { return st.node.Counts().Sessions == 1 }) // its loop ends after its socket
			ph.told(ph.publish(friend.topic('i'), nil), wire.NotConsented, "a text without consent")
			new.seq = 1
			if a := ph.ask("c", new.record(everything)); a.Code != wire.OK {
				t.Errorf("consent: %v", a.Code)
			}
			_ = ph.Close()
			if _, code := st.call(level, new.proof()); code != 0 {
				t.Errorf("the next CONNECT, without the certificate: %#x", code)
			}
			if _, code := st.call(level, old.proof()); code == 0 {
				t.Error("the old device is still let in")
			}
		}
	})
}

// TestRenewalKeepsConsent keeps [P-5]: a renewal for the same device keeps consent and bundle.
func TestRenewalKeepsConsent(t *testing.T) {
	st := newStage(t, ListenConfig{})
	p, friend := st.person(everything), st.person(everything)
	was := st.on(p, 4)
	was.told(was.publish(p.topic('b'), st.bundle(p, time.Hour)), wire.OK, "bundle")
	p.cert.IssuedAt++
	p.cert.Sign(st.registrar)
	ph, code := st.call(5, p.proof(cert(p.cert)))
	if code != 0 || st.node.Counts().Bundles != 1 {
		t.Fatalf("CONNACK %#x, %+v", code, st.node.Counts())
	}
	ph.next()
	to := st.on(friend, 4)
	pid := ph.publish(friend.topic('i'), []byte("still on"))
	to.ack(to.receive(friend.topic('i')))
	ph.told(pid, wire.OK, "a text")
}

// racing loses the first Saves to another broker, which stores the state first.
type racing struct {
	*stage
	losses int
	other  func(consent.State) consent.State
}

func (r *racing) Save(ctx context.Context, id wire.ID, s consent.State) (uint64, error) {
	if r.losses > 0 {
		r.losses--
		now, _ := r.shelf.Load(ctx, id)
		_, _ = r.shelf.Save(ctx, id, r.other(now))
	}
	return r.stage.Save(ctx, id, s)
}

// TestBrokersRace: a CONNECT that loses a race on the stored state is decided again from what is
// stored now, without being a replay of itself. [P-16]
func TestBrokersRace(t *testing.T) {
	for name, tt := range map[string]struct {
		other func(consent.State) consent.State
		want  byte
	}{
		"a receipt": {func(s consent.State) consent.State { return s }, 0},
		"a higher generation": {func(s consent.State) consent.State {
			s.Gen += 10
			return s
		}, 0x83},
	} {
		r := &racing{losses: 3, other: tt.other}
		r.stage = newStage(t, ListenConfig{}, func(c *Config) { c.Store = r })
		p := r.person(everything)
		p.gen = 2
		if _, code := r.call(5, p.proof()); code != tt.want {
			t.Errorf("%s: CONNACK %#x, want %#x", name, code, tt.want)
		}
	}
}

// TestConnectMeetsRevocation keeps [C-revoke]: a CONNECT that has loaded the state before a
// revocation, on another connection of the ID, was stored and acknowledged, does not bring it back.
func TestConnectMeetsRevocation(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		st := newStage(t, ListenConfig{})
		late := &lateStore{stage: st, loaded: make(chan struct{}), proceed: make(chan struct{})}
		st.node.cfg.Store = late
		a, b := st.person(everything), st.person(everything)
		from, first := st.on(a, level), st.on(b, level)
		late.arm()
		second := &phone{peer: st.dial(), st: st, v5: level == 5}
		more := cat(lp(""), lp(wire.Protocol), lp(b.proof()))
		if level == 5 {
			more = cat(props(), more)
		}
		second.send(headConnect, connect(int(level), 0xc2, more))
		<-late.loaded
		if a := first.ask("c", b.record(0)); a.Code != wire.OK {
			t.Fatalf("revocation: %v", a.Code)
		}
		close(late.proceed)
		if e := second.next(); e.codes[0] != 0 {
			t.Fatalf("CONNACK: %+v", e)
		}
		second.next()
		from.told(from.publish(b.topic('i'), []byte("no more")), wire.NoRecipient, "a text to the revoked")
		second.told(second.publish(a.topic('i'), []byte("no more")), wire.NotConsented, "a text from the revoked")
		second.quiet("the revoked")
	})
}

// lateStore lets one Load return only when told.
type lateStore struct {
	*stage
	armed           bool
	loaded, proceed chan struct{}
}

func (l *lateStore) arm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = true
}

func (l *lateStore) Load(ctx context.Context, id wire.ID) (consent.State, error) {
	s, err := l.stage.Load(ctx, id)
	l.mu.Lock()
	wait := l.armed
	l.armed = false
	l.mu.Unlock()
	if wait {
		close(l.loaded)
		<-l.proceed
	}
	return s, err
}

// TestTLSProof keeps [P-15]: over TLS 1.3 a proof bound to the connection's exporter is accepted,
// with the certificate and by ID; the same bytes on another connection, and a time-stamped proof,
// are refused.
func TestTLSProof(t *testing.T) {
	each(t, func(t *testing.T, level byte) {
		server, client := testTLS(t)
		st := newStage(t, ListenConfig{TLS: server})
		p := st.person(everything)
		dial := func() (*peer, []byte) {
			c, err := tls.Dial("tcp", st.listener.Addr().String(), client)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			state := c.ConnectionState()
			exporter, _ := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLen)
			return &peer{c, bufio.NewReader(c)}, exporter
		}
		proof := func(exporter []byte, c *wire.Certificate) string {
			m := wire.Connect{ID: p.id, Cert: c, TLS: true}
			m.Sign(p.key, exporter, worldName)
			return string(m.Marshal())
		}
		for _, c := range []*wire.Certificate{&p.cert, nil} {
			conn, exporter := dial()
			password := proof(exporter, c)
			if _, code := st.callOn(conn, level, password); code != 0 {
				t.Errorf("CONNACK %#x", code)
			}
			other, _ := dial()
			if _, code := st.callOn(other, level, password); code == 0 {
				t.Error("a proof was good for two connections")
			}
		}
		conn, _ := dial()
		if _, code := st.callOn(conn, level, p.proof()); code == 0 {
			t.Error("a time-stamped proof is accepted over TLS")
		}
	})
}

// TestConnackFirst: what waits for a handset is written after its CONNACK and its welcome, and
// a new MQTT 5 client is told what this broker does not do. [P-13]
func TestConnackFirst(t *testing.T) {
	st := newStage(t, ListenConfig{})
	a, b := st.person(everything), st.person(everything)
	from := st.on(a, 4)
	first := st.on(b, 4)
	pid := from.publish(b.topic('i'), []byte("waits"))
	first.receive(b.topic('i'))
	second := st.on(b, 5) // reads CONNACK, then the welcome
	if e := second.next(); string(e.payload) != "waits" {
		t.Errorf("after the welcome: %+v", e)
	} else {
		second.ack(e)
	}
	from.told(pid, wire.OK, "handed over")
	_, code := st.callOn(st.dial(), 5, b.proof(), 0x21, 0, 2)
	if code != 0 {
		t.Errorf("CONNACK %#x", code)
	}
}

// TestProbe: the node's own identity exists once, on this node alone, and is not refused while
// states change. [M-24]
func TestProbe(t *testing.T) {
	st := newStage(t, ListenConfig{})
	password, tag, err := st.node.NewProbe()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := st.node.NewProbe(); err == nil {
		t.Error("two probes")
	}
	ph, code := st.call(4, string(password(nil)))
	if w, err := wire.ParseWelcome(ph.next().payload); code != 0 || err != nil || w.Tag != tag {
		t.Fatalf("CONNACK %#x, %+v, %v", code, w, err)
	}
	pid := ph.publish("i/"+tag.String(), []byte("to myself"))
	ph.ack(ph.receive("i/" + tag.String()))
	ph.told(pid, wire.OK, "the round trip")
	if st.node.Counts().Blue != 0 || !bytes.Equal(ph.subscribe("k"), []byte{1}) {
		t.Error("the probe shows, or may not ask for the key")
	}
	if bad := password(make([]byte, 32)); len(bad) == 0 {
		t.Error("no TLS form")
	}
	other := newStage(t, ListenConfig{})
	if _, code := other.call(4, string(password(nil))); code == 0 {
		t.Error("another node lets the probe in")
	}
}

// TestNewRefuses a configuration that cannot work.
func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a node of nothing")
	}
	c := Config{GreyMin: time.Minute, GreyMax: time.Second}.withDefaults()
	if c.GreyMax != 2*time.Minute || c.CallTimeout != 10*time.Second || c.Log == nil {
		t.Errorf("defaults: %+v", c)
	}
}

// TestCodeOf maps what parts return to what a client is told. [P-20]
func TestCodeOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want wire.Code
	}{
		{fmt.Errorf("bridge: %w", wire.QueueFull), wire.QueueFull},
		{errors.New("down"), wire.Unavailable},
		{context.DeadlineExceeded, wire.Unavailable},
	} {
		if got := codeOf(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

// bundle signs a person's key bundle.
func (st *stage) bundle(p *person, life time.Duration) []byte {
	b := &wire.Bundle{Cert: p.cert, PrekeyID: 1, NotAfter: wire.Unix32(time.Now().Add(life))}
	_, _ = rand.Read(b.Prekey[:])
	b.Sign(p.key)
	return b.Marshal()
}
