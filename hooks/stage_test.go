package hooks

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// A stage is a world whose node has all its other processes, played by the stage itself: each can
// be made to fail or to wait, and the order in which they were asked is kept.
type stage struct {
	*world
	memory *memory // nil: real TCP

	mu    sync.Mutex
	order []string
	fails map[string]error
	gates map[string]chan struct{}
	jobs  map[wire.MessageID]wire.Pseudonym
	begun map[wire.MessageID]bool // by a worker: too late to cancel
	outs  map[wire.Pseudonym][]wire.Outcome
	calls [][]byte                                        // what the registrar was asked
	reply []byte                                          // what it answers
	onAsk func(what string, id wire.ID, p wire.Pseudonym) // told of look-ups and jobs when they arrive; nil: nobody is
}

// ask plays one request to another process.
func (st *stage) ask(ctx context.Context, what string) error {
	st.mu.Lock()
	st.order = append(st.order, what)
	err, gate := st.fails[what], st.gates[what]
	st.mu.Unlock()
	if gate == nil {
		return err
	}
	select {
	case <-gate:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fail makes every request of a kind end with err.
func (st *stage) fail(what string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.fails[what] = err
}

// hold makes every request of a kind wait until the function returned is called.
func (st *stage) hold(what string) (release func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	gate := make(chan struct{})
	st.gates[what] = gate
	return func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		close(gate)
		delete(st.gates, what)
	}
}

// asked returns what the other processes were asked since the last call.
func (st *stage) asked() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	o := st.order
	st.order = nil
	return o
}

func (st *stage) Load(ctx context.Context, id wire.ID) (consent.State, error) {
	if err := st.ask(ctx, "load"); err != nil {
		return consent.State{}, err
	}
	return st.shelf.Load(ctx, id)
}

func (st *stage) Save(ctx context.Context, id wire.ID, s consent.State) (uint64, error) {
	if err := st.ask(ctx, "save"); err != nil {
		return 0, err
	}
	return st.shelf.Save(ctx, id, s)
}

func (st *stage) Call(ctx context.Context, subject string, request []byte) (wire.Code, []byte, error) {
	if st.onAsk != nil && subject == wire.SubjectLookup {
		st.onAsk("look-up", wire.ID(request), wire.Pseudonym{})
	}
	err := st.ask(ctx, "call")
	st.mu.Lock()
	defer st.mu.Unlock()
	st.calls = append(st.calls, append([]byte(subject+" "), request...))
	return wire.OK, st.reply, err
}

func (st *stage) Enqueue(ctx context.Context, _ wire.JobClass, p wire.Pseudonym, m wire.MessageID, _, _, _ []byte) error {
	if st.onAsk != nil {
		st.onAsk("job", wire.ID{}, p)
	}
	if err := st.ask(ctx, "enqueue"); err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.jobs[m] = p
	return nil
}

func (st *stage) Cancel(ctx context.Context, m wire.MessageID) (bool, error) {
	err := st.ask(ctx, "cancel")
	st.mu.Lock()
	defer st.mu.Unlock()
	_, queued := st.jobs[m]
	delete(st.jobs, m)
	return queued && !st.begun[m], err
}

func (st *stage) CancelAll(ctx context.Context, ps []wire.Pseudonym) error {
	if err := st.ask(ctx, "cancel all"); err != nil {
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for m, p := range st.jobs {
		if slices.Contains(ps, p) {
			delete(st.jobs, m)
		}
	}
	return nil
}

func (st *stage) queued() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.jobs)
}

func (st *stage) Pending(ctx context.Context, p wire.Pseudonym) ([]wire.Outcome, error) {
	err := st.ask(ctx, "pending")
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.outs[p]), err
}

func (st *stage) Done(ctx context.Context, p wire.Pseudonym, o wire.Outcome) error {
	err := st.ask(ctx, "done")
	st.mu.Lock()
	defer st.mu.Unlock()
	st.outs[p] = slices.DeleteFunc(st.outs[p], func(x wire.Outcome) bool { return x == o })
	return err
}

func (st *stage) config() Config {
	_, receipt, _ := ed25519.GenerateKey(rand.Reader)
	return Config{
		Name: worldName, Registrar: wire.PublicKey(st.registrar.Public().(ed25519.PublicKey)), Receipt: receipt,
		TagKey: make([]byte, 32), Store: st, Relay: st, Jobs: st, Outcomes: st,
		Log: slog.New(slog.NewTextHandler(st.log, nil)),
	}
}

// newStage starts a node on loopback, or, in a synctest bubble, behind a listener in memory.
func newStage(t *testing.T, cfg ListenConfig, tweaks ...func(*Config)) *stage {
	t.Helper()
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	st := blank(&world{T: t, shelf: &shelf{states: map[wire.ID]consent.State{}}, log: new(journal), registrar: private})
	st.start(cfg, tweaks...)
	return st
}

func blank(w *world) *stage {
	return &stage{
		world: w,
		fails: map[string]error{}, gates: map[string]chan struct{}{}, jobs: map[wire.MessageID]wire.Pseudonym{},
		begun: map[wire.MessageID]bool{}, outs: map[wire.Pseudonym][]wire.Outcome{},
	}
}

// inMemory makes a stage use pipes, so that synctest owns its time.
func inMemory() ListenConfig {
	m := newMemory()
	return ListenConfig{listen: func(*net.TCPAddr) (net.Listener, error) { return m, nil }}
}

func (st *stage) start(lc ListenConfig, tweaks ...func(*Config)) {
	st.Helper()
	cfg := st.config()
	for _, f := range tweaks {
		f(&cfg)
	}
	var err error
	if st.node, err = New(cfg); err != nil {
		st.Fatal(err)
	}
	lc.Addr, lc.Log, lc.Serve, lc.counters = "127.0.0.1:0", cfg.Log, st.node.Serve, new(counters)
	if st.listener, err = Listen(lc); err != nil {
		st.Fatal(err)
	}
	st.memory, _ = st.listener.ln.(*memory)
	st.Cleanup(st.stop)
}

// stop checks what holds at the end of every test. [C-7] [C-revoke]
func (st *stage) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(st.listener.Close(ctx), st.node.Close(ctx)); err != nil {
		st.Errorf("not closed: %v", err)
	}
	c := st.node.Counts()
	if c.Custody.Difference() != 0 || c.PostRevocation != 0 || c.Sessions != 0 || c.Watches != 0 {
		st.Errorf("it does not add up: %+v", c)
	}
	if n := st.listener.cfg.counters.panics.Load(); n != 0 || strings.Contains(st.log.String(), "panic") {
		st.Errorf("panics: %s", st.log)
	}
}

// A person is a device with what its owner agreed to.
type person struct {
	*device
	cert wire.Certificate
	seq  uint32
	gen  uint32
}

const everything = wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway

// certify makes a certificate for an ID and a new device key.
func (st *stage) certify(id wire.ID, issued time.Time) *person {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	p := &person{device: &device{id: id, key: private}}
	p.cert = wire.Certificate{ID: id, Device: wire.PublicKey(public), IssuedAt: wire.Unix32(issued), LifetimeHours: 24}
	p.cert.Sign(st.registrar)
	return p
}

// enrolled is somebody who has a certificate and has agreed to nothing.
func (st *stage) enrolled() *person {
	var id wire.ID
	_, _ = rand.Read(id[:])
	p := st.certify(id, time.Now().Add(-time.Minute))
	st.put(p)
	return p
}

// person is somebody who has agreed to some scopes.
func (st *stage) person(scopes wire.Scope) *person {
	p := st.enrolled()
	st.put(p, p.record(scopes))
	return p
}

// put stores a person's certificate and records as if they had been sent long ago.
func (st *stage) put(p *person, records ...[]byte) {
	st.Helper()
	old, _ := st.shelf.Load(st.Context(), p.id)
	s, _, err := old.WithCertificate(p.cert)
	for _, raw := range records {
		if err == nil {
			s, _, err = s.WithRecord(raw, time.Now())
		}
	}
	if err == nil {
		_, err = st.shelf.Save(st.Context(), p.id, s)
	}
	if err != nil {
		st.Fatal(err)
	}
}

// record signs the next consent record, listed and good for an hour.
func (p *person) record(scopes wire.Scope, tweaks ...func(*wire.Consent)) []byte {
	p.seq++
	now := wire.Unix32(time.Now())
	r := wire.Consent{ID: p.id, Scopes: scopes, Seq: p.seq, IssuedAt: now, ExpiresAt: now + 3600}
	for _, f := range tweaks {
		f(&r)
	}
	r.Sign(p.key)
	return r.Marshal()
}

// proof is a fresh CONNECT password; ninety at once fit into the clock skew allowed, and each has half a minute. [P-16]
func (p *person) proof(tweaks ...func(*wire.Connect)) string {
	p.ts = max(p.ts+1, wire.Unix32(time.Now())-30)
	c := wire.Connect{ID: p.id, Gen: p.gen, TS: p.ts}
	for _, f := range tweaks {
		f(&c)
	}
	c.Sign(p.key, nil, worldName)
	return string(c.Marshal())
}

func (p *person) tag() wire.Tag { return wire.MakeTag(make([]byte, 32), p.id, p.gen) }

func (p *person) topic(kind wire.TopicKind) string {
	return wire.Topic{Kind: kind, ID: p.id, Tag: p.tag()}.String()
}

// An event is one packet that a phone received.
type event struct {
	kind    byte // packet type
	topic   string
	pid     uint16
	qos     byte
	retain  bool
	codes   []byte // reason of a PUBACK or CONNACK, codes of a SUBACK
	payload []byte
}

// A phone is a connected client of either version.
type phone struct {
	*peer
	st   *stage
	v5   bool
	pid  uint16
	seen []event // read while waiting for something else
}

func (st *stage) dial() *peer {
	if st.memory == nil {
		return st.world.dial()
	}
	c := st.memory.dial()
	st.Cleanup(func() { _ = c.Close() })
	return &peer{c, bufio.NewReader(c)}
}

// call sends a CONNECT and returns its answer; password "" is none.
func (st *stage) call(level byte, password string) (*phone, byte) {
	st.Helper()
	return st.callOn(st.dial(), level, password)
}

func (st *stage) callOn(c *peer, level byte, password string, properties ...any) (*phone, byte) {
	st.Helper()
	ph, ack := st.greet(c, level, password, properties...)
	if ack.kind != 2 {
		st.Fatalf("instead of CONNACK: %+v", ack)
	}
	return ph, ack.codes[0]
}

// greet sends a CONNECT and returns what comes next.
func (st *stage) greet(c *peer, level byte, password string, properties ...any) (*phone, event) {
	st.Helper()
	ph := &phone{peer: c, st: st, v5: level == 5}
	flags, more := 0x82, cat(lp(""), lp(wire.Protocol))
	if password != "" {
		flags, more = 0xc2, cat(more, lp(password))
	}
	if ph.v5 {
		more = cat(props(properties...), more)
	}
	ph.send(headConnect, connect(int(level), flags, more))
	return ph, ph.next()
}

// on connects a person and reads the welcome.
func (st *stage) on(p *person, level byte) *phone {
	st.Helper()
	ph, code := st.call(level, p.proof())
	if code != 0 {
		st.Fatalf("CONNACK %#x", code)
	}
	w, err := wire.ParseWelcome(ph.next().payload)
	if err != nil || w.Tag != p.tag() || w.Seq != p.seq || w.Gen != p.gen {
		st.Fatalf("welcome %+v, %v; want tag %s, seq %d", w, err, p.tag(), p.seq)
	}
	return ph
}

// next reads one packet; the zero event is the end of the connection.
func (ph *phone) next() event {
	ph.st.Helper()
	_ = ph.SetReadDeadline(time.Now().Add(10 * time.Second))
	p, err := ph.peer.next()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		ph.st.Fatal("nothing comes")
	}
	if err != nil {
		return event{}
	}
	return ph.parse(p)
}

func (ph *phone) parse(p packet) event {
	e, b := event{kind: p.header >> 4}, p.body
	switch e.kind {
	case 2:
		e.codes = b[1:2]
	case 3:
		e.qos, e.retain = p.header>>1&3, p.header&1 != 0
		n := 2 + int(binary.BigEndian.Uint16(b))
		e.topic, b = string(b[2:n]), b[n:]
		if e.qos > 0 {
			e.pid, b = binary.BigEndian.Uint16(b), b[2:]
		}
		if ph.v5 {
			b = b[1:]
		}
		e.payload = b
	case 4, 9, 11:
		e.pid, e.codes = binary.BigEndian.Uint16(b), b[2:]
		if ph.v5 && e.kind != 4 {
			e.codes = e.codes[1:]
		}
	case 14:
		e.codes = b
	}
	return e
}

// until reads until ok, keeping the rest for sync; the end of the connection fails the test.
func (ph *phone) until(what string, ok func(event) bool) event {
	ph.st.Helper()
	for i, e := range ph.seen {
		if ok(e) {
			ph.seen = slices.Delete(ph.seen, i, i+1)
			return e
		}
	}
	for {
		e := ph.next()
		if ok(e) {
			return e
		}
		if e.kind == 0 {
			ph.st.Fatalf("the connection ended before %s", what)
		}
		ph.seen = append(ph.seen, e)
	}
}

// sync returns what has been received until the broker has handled everything sent before.
func (ph *phone) sync() []event {
	ph.st.Helper()
	ph.send(headPingreq, nil)
	ph.until("PINGRESP", func(e event) bool { return e.kind == 13 })
	got := ph.seen
	ph.seen = nil
	return got
}

// why waits until the phone is told why nothing goes to or from it.
func (ph *phone) why(want wire.Reason) {
	ph.st.Helper()
	e := ph.until("a reason", func(e event) bool {
		return e.kind == 3 && e.topic == "r" && len(e.payload) == 2 && wire.ControlKind(e.payload[0]) == wire.CtlReason
	})
	if got := wire.Reason(e.payload[1]); got != want || e.qos != 0 {
		ph.st.Errorf("told %q, want %q", got, want)
	}
}

// quiet fails the test if anything has been received.
func (ph *phone) quiet(what string) {
	ph.st.Helper()
	if got := ph.sync(); len(got) != 0 {
		ph.st.Errorf("%s: received %+v", what, got)
	}
}

// closed fails the test unless the connection ends; it returns the reason of a DISCONNECT.
func (ph *phone) closed() byte {
	ph.st.Helper()
	var reason byte
	for {
		switch e := ph.next(); e.kind {
		case 0:
			_ = ph.Close()
			return reason
		case 14:
			reason = e.codes[0]
		}
	}
}

// publish sends at QoS 1 and returns the packet id.
func (ph *phone) publish(topic string, payload []byte) uint16 {
	ph.pid++
	ph.publishAs(0x32, ph.pid, topic, payload)
	return ph.pid
}

func (ph *phone) publishAs(header byte, pid uint16, topic string, payload []byte) {
	body := lp(topic)
	if header&6 != 0 {
		body = binary.BigEndian.AppendUint16(body, pid)
	}
	if ph.v5 {
		body = append(body, 0)
	}
	ph.send(header, append(body, payload...))
}

// result waits for the PUBACK of a publish: the reason byte of MQTT 5, the code that MQTT 3.1.1 is
// told on r just before. [C-1]
func (ph *phone) result(pid uint16) wire.Code {
	ph.st.Helper()
	return ph.resultOf(pid, ph.until("PUBACK", func(e event) bool { return e.kind == 4 && e.pid == pid }))
}

func (ph *phone) resultOf(pid uint16, ack event) wire.Code {
	if ph.v5 && len(ack.codes) > 0 {
		return wire.Code(ack.codes[0])
	}
	for i, e := range ph.seen {
		if n, err := wire.ParseNotice(e.payload); err == nil && e.topic == "r" && n.PacketID == pid {
			ph.seen = slices.Delete(ph.seen, i, i+1)
			return n.Code
		}
	}
	return wire.OK
}

// told fails the test unless the publish has this result, as the phone's version is told it. [P-20]
func (ph *phone) told(pid uint16, want wire.Code, what string) {
	ph.st.Helper()
	got := ph.result(pid)
	if ph.v5 {
		want = wire.Code(want.Puback())
	}
	if got != want {
		ph.st.Errorf("%s: told %#x, want %#x", what, byte(got), byte(want))
	}
}

// ask sends a request on c, e or q and returns its answer; its PUBACK comes after it. [P-13]
func (ph *phone) ask(topic string, body []byte) wire.Answer {
	ph.st.Helper()
	id := ph.pid + 100
	pid := ph.publish(topic, wire.Request{ID: id, Body: body}.Marshal())
	return ph.answer(id, pid)
}

func (ph *phone) answer(id, pid uint16) (a wire.Answer) {
	ph.st.Helper()
	ph.until("an answer", func(e event) (ok bool) {
		if e.kind == 4 && e.pid == pid {
			ph.st.Error("PUBACK before the answer")
		}
		var err error
		a, err = wire.ParseAnswer(e.payload)
		return e.kind == 3 && e.topic == "r" && err == nil && a.Request == id
	})
	if code := ph.result(pid); code != wire.OK {
		ph.st.Errorf("PUBACK of a request: %#x", code)
	}
	return a
}

// subscribe returns the codes of the SUBACK.
func (ph *phone) subscribe(topics ...string) []byte {
	ph.st.Helper()
	ph.pid++
	body := binary.BigEndian.AppendUint16(nil, ph.pid)
	if ph.v5 {
		body = append(body, 0)
	}
	for _, t := range topics {
		body = cat(body, lp(t), 1)
	}
	ph.send(headSubscribe, body)
	return ph.until("SUBACK", func(e event) bool { return e.kind == 9 }).codes
}

// receive waits for a publish to a topic.
func (ph *phone) receive(topic string) event {
	ph.st.Helper()
	return ph.until("a publish to "+topic[:1], func(e event) bool { return e.kind == 3 && e.topic == topic })
}

// ack acknowledges a delivery.
func (ph *phone) ack(e event) { ph.send(headPuback, binary.BigEndian.AppendUint16(nil, e.pid)) }

// each runs a test with both versions of MQTT.
func each(t *testing.T, f func(t *testing.T, level byte)) {
	t.Run("MQTT 3.1.1", func(t *testing.T) { f(t, 4) })
	t.Run("MQTT 5", func(t *testing.T) { f(t, 5) })
}
