package envelope

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"bluejay/wire"
)

// A follower reads a session vector by the sentences of spec/sessions.md alone: it calls no function
// of this package, so that an error made twice, in sealing and in opening, shows. [S-5]
type follower struct {
	t    *testing.T
	root []byte
	keys map[uint32]map[string][][]byte // epoch → sender → message keys by number
	ours map[string]*ecdh.PrivateKey
}

func labelled(label string, parts ...[]byte) []byte {
	b := append([]byte(label), 0)
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
	}
	return b
}

func (f *follower) expand(key []byte, info string, n int) []byte {
	f.t.Helper()
	out, err := hkdf.Expand(sha256.New, key, info, n)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *follower) extract(salt, ikm []byte) []byte {
	f.t.Helper()
	out, err := hkdf.Extract(sha256.New, ikm, salt)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *follower) secret(b []byte) *ecdh.PrivateKey {
	f.t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		f.t.Fatal(err)
	}
	return k
}

// enter derives the keys of an epoch, 128 for each side.
func (f *follower) enter(epoch uint32) {
	f.t.Helper()
	dh, err := f.ours["a"].ECDH(f.ours["b"].PublicKey())
	if err != nil {
		f.t.Fatal(err)
	}
	out := f.expand(f.extract(f.root, dh), "bj1 root", 96)
	f.root = out[:32]
	f.keys[epoch] = map[string][][]byte{}
	for i, who := range []string{"a", "b"} {
		ck := out[32+32*i : 64+32*i]
		for range 128 {
			step := f.expand(ck, "bj1 step", 64)
			ck = step[:32]
			f.keys[epoch][who] = append(f.keys[epoch][who], step[32:])
		}
	}
}

func (f *follower) open(key, head, ct []byte) []byte {
	f.t.Helper()
	a, err := chacha20poly1305.New(key)
	if err != nil {
		f.t.Fatal(err)
	}
	plain, err := a.Open(nil, make([]byte, 12), ct, head)
	if err != nil {
		f.t.Fatal(err)
	}
	return plain
}

// openInit reads the INIT with the prekey's seed and returns rk0. [S-2]
func (f *follower) openInit(v sessionVector) []byte {
	f.t.Helper()
	k, err := hpke.MLKEM768X25519().NewPrivateKey(v.PrekeySeed)
	if err != nil {
		f.t.Fatal(err)
	}
	head, enc, ct := v.Init[:3], v.Init[3:1123], v.Init[1123:]
	idB, bundle := v.B.Cert[1:13], sha256.Sum256(v.Bundle)
	r, err := hpke.NewRecipient(enc, k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), labelled("bj1 init", idB, bundle[:], head))
	if err != nil {
		f.t.Fatal(err)
	}
	inner, err := r.Open(head, ct)
	if err != nil {
		f.t.Fatal(err)
	}
	th := sha256.Sum256(labelled("bj1 th", idB, bundle[:], head, enc, inner[:167]))
	n, err := wire.ParseNumber(v.A.Number)
	bcd := n.BCD()
	want := bytes.Join([][]byte{v.A.Cert, bcd[:], f.ours["a"].PublicKey().Bytes(), binary.BigEndian.AppendUint16(nil, v.A.RID), v.A.Tag}, nil)
	if err != nil || !bytes.Equal(inner[:167], want) || !bytes.Equal(inner[231:], v.InitFrame) || !bytes.Equal(th[:4], v.TH) {
		f.t.Error("the INIT holds something else")
	}
	secret, err := r.Export("bj1 rk0", 32)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.extract(th[:], secret)
}

// followSession opens INIT, RESP and every message of the vector.
func followSession(t *testing.T, v sessionVector) {
	t.Helper()
	f := &follower{t: t, keys: map[uint32]map[string][][]byte{}}
	f.ours = map[string]*ecdh.PrivateKey{"a": f.secret(v.EphA), "b": f.secret(v.EphB)}
	f.root = f.openInit(v)
	if !bytes.Equal(f.root, v.RK0) {
		t.Error("rk0 differs")
	}
	f.enter(1)
	resp := f.open(f.keys[1]["b"][0], v.Resp[:35], v.Resp[35:])
	want := bytes.Join([][]byte{binary.BigEndian.AppendUint16(nil, v.B.RID), v.B.Tag, v.RespFrame}, nil)
	if !bytes.Equal(resp, want) || !bytes.Equal(v.Resp[3:35], f.ours["b"].PublicKey().Bytes()) {
		t.Error("the RESP holds something else")
	}
	epochs := uint32(1)
	for i, m := range v.Messages {
		if m.Ratchet != nil {
			f.ours[m.From] = f.secret(m.Ratchet)
			epochs++
			f.enter(epochs)
		}
		f.message(i, m, map[string]uint16{"a": v.B.RID, "b": v.A.RID}[m.From])
	}
	if epochs < 3 || len(v.Messages) != 40 {
		t.Errorf("%d epochs and %d messages, want 3 and 40", epochs, len(v.Messages))
	}
}

// message opens one MSG. [S-5]
func (f *follower) message(i int, m messageVector, rid uint16) {
	f.t.Helper()
	head := 5
	if m.Message[0]&4 != 0 {
		head += 32
		if !bytes.Equal(m.Message[5:37], f.ours[m.From].PublicKey().Bytes()) {
			f.t.Errorf("message %d announces another key", i)
		}
	}
	want := binary.BigEndian.AppendUint16([]byte{0x80 | m.Message[0]&4 | byte(m.Epoch&3)}, rid)
	if !bytes.Equal(m.Message[:5], binary.BigEndian.AppendUint16(want, m.N)) {
		f.t.Errorf("message %d begins with %x", i, m.Message[:5])
	}
	if got := f.open(f.keys[m.Epoch][m.From][m.N], m.Message[:head], m.Message[head:]); !bytes.Equal(got, m.Frame) {
		f.t.Errorf("message %d holds another frame", i)
	}
}
