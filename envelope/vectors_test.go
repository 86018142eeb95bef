package envelope

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

var update = flag.Bool("update", false, "write the frozen vectors of this package anew")

// frozen compares v with the file, or writes the file under -update.
func frozen(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("%s: the wire format has changed (or, if only bytes that depend on randomness did, how Go draws it):\n%s", name, diff)
	}
}

type frameVector struct {
	Name    string   `json:"name"`
	Kind    byte     `json:"kind"`
	Acked   uint16   `json:"acked"`
	Text    string   `json:"text,omitempty"`
	TH      hexBytes `json:"th,omitempty"`
	Epoch   byte     `json:"epoch,omitempty"`
	N       uint16   `json:"n,omitempty"`
	Tag     hexBytes `json:"tag,omitempty"`
	Message hexBytes `json:"message_id,omitempty"`
	Frame   hexBytes `json:"frame"`
}

func (v frameVector) frame() Frame {
	f := Frame{Kind: FrameKind(v.Kind), Acked: v.Acked, Text: v.Text, Again: AgainRef{Epoch: v.Epoch, N: v.N}}
	copy(f.Again.TH[:], v.TH)
	copy(f.Tag[:], v.Tag)
	copy(f.Message[:], v.Message)
	return f
}

func frameVectorOf(t *testing.T, name string, f Frame) frameVector {
	t.Helper()
	b, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	v := frameVector{Name: name, Kind: byte(f.Kind), Acked: f.Acked, Text: f.Text, Epoch: f.Again.Epoch, N: f.Again.N, Frame: b}
	switch f.Kind {
	case KindTextAgain:
		v.TH = f.Again.TH[:]
	case KindTagUpdate:
		v.Tag = f.Tag[:]
	case KindHide:
		v.Message = f.Message[:]
	}
	return v
}

// TestFrameVectors freezes every kind of frame. [S-1]
func TestFrameVectors(t *testing.T) {
	var vectors []frameVector
	for _, c := range frameCases {
		if c.name == "longest" {
			continue
		}
		c.f.Acked = 2<<14 | 5
		vectors = append(vectors, frameVectorOf(t, c.name, c.f))
	}
	frozen(t, "testdata/frames.json", vectors)

	var stored []frameVector
	readJSON(t, "testdata/frames.json", &stored)
	for _, v := range stored {
		if f, err := ParseFrame(v.Frame); err != nil || f != v.frame() {
			t.Errorf("%s: read as %v, %v", v.Name, f, err)
		}
	}
}

// device is a party of a vector, with its secrets.
type device struct {
	Seed   hexBytes `json:"device_seed"`
	Cert   hexBytes `json:"cert"`
	Number string   `json:"number"`
	Tag    hexBytes `json:"tag"`
	RID    uint16   `json:"rid"`
}

type messageVector struct {
	From    string   `json:"from"`
	Day     float64  `json:"day"` // days after now
	Epoch   uint32   `json:"epoch"`
	N       uint16   `json:"n"`
	Ratchet hexBytes `json:"ratchet_secret,omitempty"` // X25519, where the epoch begins
	Frame   hexBytes `json:"frame"`
	Message hexBytes `json:"message"`
}

// sessionVector is a whole session with the secrets another implementation needs to follow it.
type sessionVector struct {
	Registrar  hexBytes        `json:"registrar_public"`
	Now        int64           `json:"now"`
	A          device          `json:"a"`
	B          device          `json:"b"`
	PrekeyID   uint16          `json:"prekey_id"`
	PrekeySeed hexBytes        `json:"prekey_seed"`
	Bundle     hexBytes        `json:"bundle"`
	EphA       hexBytes        `json:"ephemeral_secret_a"`
	EphB       hexBytes        `json:"ephemeral_secret_b"`
	InitFrame  hexBytes        `json:"init_frame"`
	Init       hexBytes        `json:"init"`
	TH         hexBytes        `json:"th_4"`
	RK0        hexBytes        `json:"rk0"`
	RespFrame  hexBytes        `json:"resp_frame"`
	Resp       hexBytes        `json:"resp"`
	Messages   []messageVector `json:"messages"`
	StateA     hexBytes        `json:"state_a"`
	StateB     hexBytes        `json:"state_b"`
}

// TestSessionVector freezes INIT, RESP and 40 messages over three epochs, all randomness from one
// seed, then follows them with an implementation that shares nothing with the package. [S-2] [S-4] [S-5]
func TestSessionVector(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 42)
	frozen(t, "testdata/session.json", makeSession(t))
	var v sessionVector
	readJSON(t, "testdata/session.json", &v)
	followSession(t, v)
}

func deviceOf(self Identity, tag wire.Tag, rid uint16) device {
	return device{Seed: self.Device.Seed(), Cert: self.Cert.Marshal(), Number: self.Number.E164(), Tag: tag[:], RID: rid}
}

func makeSession(t *testing.T) sessionVector {
	t.Helper()
	a, b := alice(t), bob(t)
	pre := prekeyOf(t, b, 7)
	v := sessionVector{
		Registrar: a.Registrar[:], Now: start.Unix(), A: deviceOf(a, tagA, ridA), B: deviceOf(b, tagB, ridB),
		PrekeyID: 7, PrekeySeed: pre.seed[:], Bundle: pre.Bundle().Marshal(),
	}
	first, reply := TextFrame(thirty), AckFrame(NoAck)
	v.InitFrame, v.RespFrame = frameVectorOf(t, "", first).Frame, frameVectorOf(t, "", reply).Frame
	sa, init, err := Initiate(a, tagA, ridA, pre.Bundle(), first, start)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := OpenInit(b, pre, init, start)
	if err != nil {
		t.Fatal(err)
	}
	v.Init, v.EphA, v.TH, v.RK0 = init, bytes.Clone(sa.own[:]), sa.th[:], offer.root[:]
	sb, resp, err := offer.Respond(b, tagB, ridB, reply, start)
	if err != nil {
		t.Fatal(err)
	}
	v.Resp, v.EphB = resp, bytes.Clone(sb.own[:])
	if _, err := sa.OpenResp(resp, start); err != nil {
		t.Fatal(err)
	}
	v.Messages = makeMessages(t, sa, sb)
	v.StateA, v.StateB = sa.Marshal(), sb.Marshal()
	return v
}

// makeMessages writes 40 messages over three days, some overtaken by the next.
func makeMessages(t *testing.T, sa, sb *Session) (all []messageVector) {
	t.Helper()
	r := rand.New(rand.NewPCG(40, 40))
	var held []byte
	for i := range 40 {
		from, name := sa, "a"
		if r.IntN(2) == 0 {
			from, name = sb, "b"
		}
		days := float64(i) * 2.5 / 40
		now := start.Add(time.Duration(days * float64(day)))
		f := messageFrame(i)
		f.Acked = from.Acked()
		epoch := from.epoch
		msg, pos, err := from.Seal(f, now)
		if err != nil {
			t.Fatal(err)
		}
		m := messageVector{From: name, Day: days, Epoch: pos.Epoch, N: pos.N, Frame: frameVectorOf(t, "", f).Frame, Message: msg}
		if pos.Epoch > epoch {
			m.Ratchet = bytes.Clone(from.own[:])
		}
		all = append(all, m)
		if i%7 == 3 { // overtaken by the next of the same side
			held = msg
			continue
		}
		openEither(t, sa, sb, msg, now)
		if held != nil {
			openEither(t, sa, sb, held, now)
			held = nil
		}
	}
	return all
}

func messageFrame(i int) Frame {
	switch i % 10 {
	case 4:
		return AckFrame(0)
	case 6:
		return TagFrame(wire.Tag{byte(i)})
	case 8:
		return HideFrame(wire.MessageIDOf([]byte{byte(i)}))
	case 9:
		return TextFrame(fmt.Sprintf("сообщение %d", i))
	}
	return TextFrame(fmt.Sprintf("message %d%s", i, strings.Repeat("!", i)))
}

// openEither opens a message at the side its rid names.
func openEither(t *testing.T, sa, sb *Session, msg []byte, now time.Time) {
	t.Helper()
	to := sb
	if _, rid, _ := Peek(msg); rid == sa.RID() {
		to = sa
	}
	if _, _, err := to.Open(msg, now); err != nil {
		t.Fatal(err)
	}
}

// sealedVectors are the messages to the worker and the registrar, with the secrets that open them.
type sealedVectors struct {
	Worker    hexBytes `json:"worker_secret"`
	WorkerKey hexBytes `json:"worker_public"`
	Job       hexBytes `json:"job"`
	JobTo     string   `json:"job_to"`
	JobFrom   string   `json:"job_from"`
	JobText   string   `json:"job_text"`
	JobExpiry int64    `json:"job_expires_at"`
	Anonymous hexBytes `json:"job_without_from"`

	Registrar hexBytes `json:"registrar_seed"`
	Device    hexBytes `json:"device_seed"`
	Number    string   `json:"number"`
	Enrol     hexBytes `json:"enrol"`
	Nonce     hexBytes `json:"enrol_nonce"`
	OTP       string   `json:"one_time_password"`
	Confirm   hexBytes `json:"confirm"`
	AnswerKey hexBytes `json:"answer_key"`
	Answer    hexBytes `json:"answer"`
	Sealed    hexBytes `json:"sealed_answer"`
	ID        hexBytes `json:"sender_id"`
	MessageID hexBytes `json:"sender_message_id"`
	Sender    hexBytes `json:"sealed_sender"`

	Off        hexBytes `json:"off"`
	OffNonce   hexBytes `json:"off_nonce"`
	OffConfirm hexBytes `json:"off_confirm"`
}

// TestSealedVectors freezes job, enrol, confirm, answer, sender and off. [S-13] [S-14]
func TestSealedVectors(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 43)
	frozen(t, "testdata/sealed.json", makeSealed(t))
	var v sealedVectors
	readJSON(t, "testdata/sealed.json", &v)
	v.open(t)
}

func makeSealed(t *testing.T) (v sealedVectors) {
	t.Helper()
	w, r, j := workerSecret(t, 3), registrarSecret(t), job(t)
	id, m := wire.ID{1, 2, 3}, wire.MessageIDOf([]byte("job"))
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	v.Worker, v.WorkerKey = w.secret[:], w.record.Public[:]
	v.JobTo, v.JobFrom, v.JobText, v.JobExpiry = j.To.E164(), j.From.E164(), j.Text, j.ExpiresAt.Unix()
	v.Job, err = SealJob(w.Key(), j)
	check(err)
	j.From = wire.Number{}
	v.Anonymous, err = SealJob(w.Key(), j)
	check(err)
	device, n := seeded(5), number(t, "+447700900123")
	v.Registrar, v.Device, v.Number = r.seed[:], device.Seed(), n.E164()
	enrol, nonce, err := SealEnrol(r.Public(), n, device)
	check(err)
	v.Enrol, v.Nonce, v.OTP, v.Answer = enrol, nonce[:], "012345", []byte("certificate")
	confirm, key, err := SealConfirm(r.Public(), v.OTP, publicOf(device), nonce)
	check(err)
	v.Confirm, v.AnswerKey, v.Sealed = confirm, key.key[:], key.Seal(v.Answer)
	v.ID, v.MessageID = id[:], m[:]
	v.Sender, err = SealSender(r.Public(), id, m)
	check(err)
	off, offNonce, err := SealOff(r.Public(), n)
	check(err)
	v.Off, v.OffNonce = off, offNonce[:]
	v.OffConfirm, err = SealOffConfirm(r.Public(), v.OTP, offNonce)
	check(err)
	return v
}

// open reads the stored bytes with the stored secrets.
func (v sealedVectors) open(t *testing.T) {
	t.Helper()
	w, err := ParseWorkerSecret(append([]byte{1, 3, 0, 0, 0, 0, 0, 0, 0, 0}, v.Worker...))
	if err != nil || !bytes.Equal(w.record.Public[:], v.WorkerKey) {
		t.Fatalf("worker secret: %v", err)
	}
	j, err := w.OpenJob(v.Job)
	if err != nil || j.To.E164() != v.JobTo || j.From.E164() != v.JobFrom || j.Text != v.JobText || j.ExpiresAt.Unix() != v.JobExpiry {
		t.Errorf("job: %v", err)
	}
	if j, err := w.OpenJob(v.Anonymous); err != nil || !j.From.IsZero() || j.Text != v.JobText {
		t.Errorf("job without a sender: %v", err)
	}
	r, err := ParseRegistrarSecret(append([]byte{1}, v.Registrar...))
	if err != nil {
		t.Fatal(err)
	}
	q, err := r.OpenEnrol(v.Enrol)
	if err != nil || q.Number.E164() != v.Number || !bytes.Equal(q.Nonce[:], v.Nonce) {
		t.Errorf("enrol: %v", err)
	}
	c, key, err := r.OpenConfirm(v.Confirm)
	if err != nil || c.OTP != v.OTP || c.Device != q.Device || !bytes.Equal(key.key[:], v.AnswerKey) {
		t.Errorf("confirm: %v", err)
	}
	if got, err := key.Open(v.Sealed); err != nil || !bytes.Equal(got, v.Answer) {
		t.Errorf("answer: %v", err)
	}
	id, m, err := r.OpenSender(v.Sender)
	if err != nil || !bytes.Equal(id[:], v.ID) || !bytes.Equal(m[:], v.MessageID) {
		t.Errorf("sender: %v", err)
	}
	o, err := r.OpenOff(v.Off)
	if err != nil || o.Number.E164() != v.Number || !bytes.Equal(o.Nonce[:], v.OffNonce) {
		t.Errorf("off: %v", err)
	}
	oc, err := r.OpenOffConfirm(v.OffConfirm)
	if err != nil || oc.OTP != v.OTP || oc.Nonce != o.Nonce {
		t.Errorf("off confirm: %v", err)
	}
}
