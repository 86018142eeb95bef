package registrar

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/blind"
	"bluejay/envelope"
	"bluejay/wire"
)

// memory is [Counts] in RAM; conflicts makes the next saves lose.
type memory struct {
	mu        sync.Mutex
	counts    map[wire.ID]Count
	revs      map[wire.ID]uint64
	conflicts int
	down      bool
}

func (m *memory) Load(_ context.Context, id wire.ID) (Count, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return Count{}, 0, wire.Unavailable
	}
	return m.counts[id], m.revs[id], nil
}

func (m *memory) Save(_ context.Context, id wire.ID, c Count, rev uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.down:
		return wire.Unavailable
	case m.conflicts > 0:
		m.conflicts--
		return ErrConflict
	case m.revs[id] != rev:
		return ErrConflict
	}
	m.counts[id], m.revs[id] = c, rev+1
	return nil
}

// outbox is [Jobs] that keeps what it is given.
type outbox struct {
	mu   sync.Mutex
	sent [][]byte
	err  error
}

func (o *outbox) PublishUrgent(_ context.Context, p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.sent = append(o.sent, p)
	}
	return o.err
}

// office is a registrar with all that it needs, and all that tests look at.
type office struct {
	*Registrar
	counts *memory
	jobs   *outbox
	worker envelope.WorkerSecret
	key    wire.WorkerKey // signed, current
	logged *bytes.Buffer
}

func newOffice(t testing.TB, change ...func(*Config)) *office {
	t.Helper()
	_, cert, _ := ed25519.GenerateKey(nil)
	_, root, _ := ed25519.GenerateKey(nil)
	voprf, err1 := blind.GenerateServerKey()
	secret, err2 := envelope.GenerateRegistrarSecret()
	now := time.Now()
	worker, err3 := envelope.NewWorkerSecret(1, now, now.Add(400*day))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	o := &office{
		counts: &memory{counts: map[wire.ID]Count{}, revs: map[wire.ID]uint64{}},
		jobs:   &outbox{}, worker: worker, key: worker.Key(), logged: &bytes.Buffer{},
	}
	o.key.Sign(root)
	c := Config{
		Cert: cert, Root: root, VOPRF: voprf, Secret: secret, KID: 7, Counts: o.counts, Jobs: o.jobs,
		WorkerKey: func() (wire.WorkerKey, bool) { return o.key, o.key != wire.WorkerKey{} },
		Log:       slog.New(slog.NewTextHandler(o.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&c)
	}
	if o.Registrar, err1 = New(c); err1 != nil {
		t.Fatal(err1)
	}
	return o
}

// A phone is a handset as the registrar meets it.
type phone struct {
	number wire.Number
	key    ed25519.PrivateKey
	nonce  [16]byte
	begun  []byte // request 1
}

func newPhone(t testing.TB, number string) *phone {
	t.Helper()
	n, err := wire.ParseNumber(number)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(nil)
	return &phone{number: n, key: key}
}

func (p *phone) device() wire.PublicKey { return wire.PublicKey(p.key.Public().(ed25519.PublicKey)) }

var place = make([]byte, placeLen)

// ask sends a new request 1.
func (o *office) ask(t testing.TB, p *phone) wire.Code {
	t.Helper()
	body, nonce, err := envelope.SealEnrol(o.cfg.Secret.Public(), p.number, p.key)
	if err != nil {
		t.Fatal(err)
	}
	p.nonce, p.begun = nonce, append(bytes.Clone(place), body...)
	return o.again(t, p)
}

// again sends the same request 1.
func (o *office) again(t testing.TB, p *phone) wire.Code {
	t.Helper()
	got := o.HandleEnrol(t.Context(), p.begun)
	if len(got) != 1 {
		t.Fatalf("request 1: an answer of %d bytes, want a code only", len(got))
	}
	return wire.Code(got[0])
}

// otp reads the password from the last SMS and checks the rest of it.
func (o *office) otp(t testing.TB, p *phone) string {
	t.Helper()
	return o.otpIn(t, p, ". If you did not ask, ignore this.")
}

// otpIn is otp of an SMS that ends in tail.
func (o *office) otpIn(t testing.TB, p *phone, tail string) string {
	t.Helper()
	job, err := o.worker.OpenJob(o.jobs.sent[len(o.jobs.sent)-1])
	if err != nil {
		t.Fatal(err)
	}
	if job.To != p.number || !job.From.IsZero() || job.Class != wire.ClassUrgent {
		t.Errorf("the SMS is not an urgent one to the number asked for")
	}
	rest, ok := strings.CutPrefix(job.Text, "Bluejay code ")
	otp, whole := strings.CutSuffix(rest, tail)
	if !ok || !whole || len(otp) != 6 {
		t.Errorf("an SMS of %d characters that does not end in %q", len(job.Text), tail)
	}
	return otp
}

// confirm sends request 2; cert is nil unless the code is OK.
func (o *office) confirm(t testing.TB, p *phone, otp string) (wire.Code, *wire.Certificate) {
	t.Helper()
	body, key, err := envelope.SealConfirm(o.cfg.Secret.Public(), otp, p.device(), p.nonce)
	if err != nil {
		t.Fatal(err)
	}
	got := o.HandleEnrol(t.Context(), append(bytes.Clone(place), body...))
	if got[0] != byte(wire.OK) {
		if len(got) != 1 {
			t.Errorf("a refusal of %d bytes", len(got))
		}
		return wire.Code(got[0]), nil
	}
	raw, err := key.Open(got[1:])
	if err != nil {
		t.Fatal(err)
	}
	return wire.OK, o.certificate(t, p, raw)
}

// certificate checks a certificate that the phone got.
func (o *office) certificate(t testing.TB, p *phone, raw []byte) *wire.Certificate {
	t.Helper()
	c, err := wire.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(o.certs, time.Now()); err != nil {
		t.Errorf("certificate: %v", err)
	}
	id, err := o.cfg.VOPRF.FullEvaluate(p.number)
	if err != nil || c.ID != id || c.Device != p.device() || c.KID != 7 {
		t.Errorf("the certificate is about something else: %+v, %v", c, err)
	}
	return &c
}

// enrol does both requests.
func (o *office) enrol(t testing.TB, p *phone) *wire.Certificate {
	t.Helper()
	if code := o.ask(t, p); code != wire.OK {
		t.Fatalf("request 1: %v", code)
	}
	code, c := o.confirm(t, p, o.otp(t, p))
	if code != wire.OK {
		t.Fatalf("request 2: %v", code)
	}
	return c
}

func (o *office) renewal(t testing.TB, p *phone, c *wire.Certificate) []byte {
	t.Helper()
	raw := c.Marshal()
	body := append([]byte{byte(wire.CtlRenew)}, raw...)
	body = append(body, ed25519.Sign(p.key, renewSigned(raw))...)
	return o.HandleEnrol(t.Context(), append(bytes.Clone(place), body...))
}

// wrong is a password that is not otp.
func wrong(otp string) string {
	if otp == "000000" {
		return "000001"
	}
	return "000000"
}
