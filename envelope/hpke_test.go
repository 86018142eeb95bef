package envelope

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	chpke "github.com/cloudflare/circl/hpke"
)

// hexBytes is bytes as hex in JSON.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

type hpkeVector struct {
	Source      string   `json:"source"`
	KEM         uint16   `json:"kem_id"`
	KDF         uint16   `json:"kdf_id"`
	AEAD        uint16   `json:"aead_id"`
	Info        hexBytes `json:"info"`
	IKM         hexBytes `json:"ikmR"`
	Public      hexBytes `json:"pkRm"`
	Enc         hexBytes `json:"enc"`
	Encryptions []struct {
		AAD        hexBytes `json:"aad"`
		Ciphertext hexBytes `json:"ct"`
		Plaintext  hexBytes `json:"pt"`
	} `json:"encryptions"`
	Exports []struct {
		Context hexBytes `json:"exporter_context"`
		Length  int      `json:"L"`
		Value   hexBytes `json:"exported_value"`
	} `json:"exports"`
}

// TestHPKEVectors runs the recipient of both suites this package uses against RFC 9180 (X25519, base
// mode) and the draft for X-Wing. [S-2] [S-13]
func TestHPKEVectors(t *testing.T) {
	var vectors []hpkeVector
	readJSON(t, "testdata/hpke.json", &vectors)
	if len(vectors) != 2 || vectors[0].KEM != dhkem().ID() || vectors[1].KEM != xwing().ID() {
		t.Fatal("want one vector for each KEM of this package")
	}
	for i, kem := range []hpke.KEM{dhkem(), xwing()} {
		v := vectors[i]
		t.Run(v.Source, func(t *testing.T) {
			if v.KDF != hpke.HKDFSHA256().ID() || v.AEAD != hpke.ChaCha20Poly1305().ID() {
				t.Fatal("a vector of another suite")
			}
			k, err := kem.DeriveKeyPair(v.IKM)
			if err != nil || !bytes.Equal(k.PublicKey().Bytes(), v.Public) {
				t.Fatalf("another public key; %v", err)
			}
			r, err := newRecipient(v.Enc, k, v.Info)
			if err != nil {
				t.Fatal(err)
			}
			for n, e := range v.Encryptions {
				if pt, err := r.Open(e.AAD, e.Ciphertext); err != nil || !bytes.Equal(pt, e.Plaintext) {
					t.Errorf("encryption %d: %v", n, err)
				}
			}
			for n, e := range v.Exports {
				if got, err := r.Export(string(e.Context), e.Length); err != nil || !bytes.Equal(got, e.Value) {
					t.Errorf("export %d: %v", n, err)
				}
			}
		})
	}
}

// xwingVectors reads testdata/xwing.txt: blocks of "name     hex", where long values stand on the
// lines below their name.
func xwingVectors(t *testing.T, text []byte) []map[string][]byte {
	t.Helper()
	var all []map[string][]byte
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		v, name := map[string]string{}, ""
		for line := range strings.Lines(block) {
			if line[0] == ' ' {
				v[name] += strings.TrimSpace(line)
				continue
			}
			var value string
			name, value, _ = strings.Cut(strings.TrimSpace(line), " ")
			v[name] = strings.TrimSpace(value)
		}
		decoded := map[string][]byte{}
		for k, h := range v {
			b, err := hex.DecodeString(h)
			if err != nil {
				t.Fatal(err)
			}
			decoded[k] = b
		}
		all = append(all, decoded)
	}
	return all
}

// exportOf is what a context with this shared secret exports, by RFC 9180 section 5.1 alone.
func exportOf(t *testing.T, kem hpke.KEM, shared []byte, info, context string) []byte {
	t.Helper()
	id := func(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }
	suite := bytes.Join([][]byte{[]byte("HPKE"), id(kem.ID()), id(1), id(3)}, nil)
	label := func(name string) []byte { return append(append([]byte("HPKE-v1"), suite...), name...) }
	extract := func(salt []byte, name string, ikm []byte) []byte {
		out, err := hkdf.Extract(sha256.New, append(label(name), ikm...), salt)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	expand := func(prk []byte, name string, info []byte) []byte {
		out, err := hkdf.Expand(sha256.New, prk, string(id(32))+string(label(name))+string(info), 32)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	schedule := append([]byte{0}, extract(nil, "psk_id_hash", nil)...)
	schedule = append(schedule, extract(nil, "info_hash", []byte(info))...)
	secret := extract(shared, "secret", nil)
	return expand(expand(secret, "exp", schedule), "sec", []byte(context))
}

// TestXWingVectors runs the three vectors of draft-connolly-cfrg-xwing-kem: seed to public key, and
// ciphertext to shared secret as seen through HPKE's exporter. The file is the draft's own, to the
// byte: its SHAKE128 is the one other implementations check. [S-2]
func TestXWingVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/xwing.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sha3.SumSHAKE128(text, 32)); got != "1bcd0057d861d6b866239936cadcaeee1ec0164dedc181c386e9e54fe46156fe" {
		t.Fatalf("the file is not the draft's: %s", got)
	}
	for i, v := range xwingVectors(t, text) {
		k, err := xwing().NewPrivateKey(v["seed"])
		if err != nil || !bytes.Equal(k.PublicKey().Bytes(), v["pk"]) {
			t.Fatalf("vector %d: another public key; %v", i, err)
		}
		r, err := newRecipient(v["ct"], k, []byte("info"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Export("context", 32)
		if err != nil || !bytes.Equal(got, exportOf(t, xwing(), v["ss"], "info", "context")) {
			t.Errorf("vector %d: another shared secret; %v", i, err)
		}
	}
}

// TestInteropCircl seals to and opens from an independent implementation of both suites. [S-2] [S-13]
func TestInteropCircl(t *testing.T) {
	cases := map[chpke.KEM]hpke.KEM{chpke.KEM_XWING: xwing(), chpke.KEM_X25519_HKDF_SHA256: dhkem()}
	info, aad, text := []byte("bj1 info"), []byte("aad"), []byte("hello")
	for theirs, ours := range cases {
		suite := chpke.NewSuite(theirs, chpke.KDF_HKDF_SHA256, chpke.AEAD_ChaCha20Poly1305)
		pk, sk, err := theirs.Scheme().GenerateKeyPair()
		if err != nil {
			t.Fatal(err)
		}
		public, _ := pk.MarshalBinary()
		secret, _ := sk.MarshalBinary()
		k, err := ours.NewPrivateKey(secret)
		if err != nil || !bytes.Equal(k.PublicKey().Bytes(), public) {
			t.Fatalf("KEM %x: keys differ; %v", theirs, err)
		}
		enc, sender, err := newSender(ours, public, info)
		if err != nil {
			t.Fatal(err)
		}
		ct, err := sender.Seal(aad, text)
		if err != nil {
			t.Fatal(err)
		}
		receiver, err := suite.NewReceiver(sk, info)
		if err != nil {
			t.Fatal(err)
		}
		opener, err := receiver.Setup(enc)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := opener.Open(ct, aad); err != nil || !bytes.Equal(got, text) {
			t.Errorf("KEM %x: sealed here, opened there: %v", theirs, err)
		}
		back(t, suite, public, k, info, aad, text)
	}
}

// back seals with circl and opens with this package; the exporters must agree.
func back(t *testing.T, suite chpke.Suite, public []byte, k hpke.PrivateKey, info, aad, text []byte) {
	t.Helper()
	kem, _, _ := suite.Params()
	pk, err := kem.Scheme().UnmarshalBinaryPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	s, err := suite.NewSender(pk, info)
	if err != nil {
		t.Fatal(err)
	}
	enc, sealer, err := s.Setup(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ct, err := sealer.Seal(text, aad)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRecipient(enc, k, info)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Open(aad, ct); err != nil || !bytes.Equal(got, text) {
		t.Errorf("sealed there, opened here: %v", err)
	}
	if got, err := r.Export("x", 32); err != nil || !bytes.Equal(got, sealer.Export([]byte("x"), 32)) {
		t.Errorf("the exporters differ: %v", err)
	}
}

// TestSealedToNonsense: a public key of the right size that is none.
func TestSealedToNonsense(t *testing.T) {
	if _, _, err := newSender(xwing(), bytes.Repeat([]byte{0xff}, 1216), nil); err == nil {
		t.Error("sealed to an ML-KEM key out of range")
	}
	if _, _, err := newSender(dhkem(), make([]byte, 32), nil); err == nil {
		t.Error("sealed to a point of low order")
	}
	if _, _, err := newSender(xwing(), nil, nil); err == nil {
		t.Error("sealed to nothing")
	}
}
