package blind

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"

	"bluejay/wire"
)

var update = flag.Bool("update", false, "write the frozen vectors of this package anew")

// rfcVector is RFC 9497 appendix A.1.2: ristretto255-SHA512 in VOPRF mode.
type rfcVector struct {
	Public, Secret string
	Vectors        []struct {
		Blind, BlindedElement, EvaluationElement, Input, Output string
		Proof                                                   struct{ Proof string }
	}
}

func (v *rfcVector) UnmarshalJSON(b []byte) error {
	var raw struct {
		PkSm    string
		SkSm    string
		Vectors json.RawMessage
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	v.Public, v.Secret = raw.PkSm, raw.SkSm
	return json.Unmarshal(raw.Vectors, &v.Vectors)
}

// unhexList decodes hex values with commas between them.
func unhexList(t *testing.T, s string) (all [][]byte) {
	t.Helper()
	for part := range strings.SplitSeq(s, ",") {
		b, err := hex.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	return unhexList(t, s)[0]
}

func readVector(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// join is a batch as on the wire.
func join(elements [][]byte, rest ...[]byte) []byte {
	b := append([]byte{byte(len(elements))}, bytes.Join(elements, nil)...)
	return append(b, bytes.Join(rest, nil)...)
}

// TestRFC9497 runs the RFC's vectors through this package's encodings: blinding with the RFC's blinds,
// the server's evaluation, and the RFC's own answer and proof. [S-15]
func TestRFC9497(t *testing.T) {
	var rfc rfcVector
	readVector(t, "testdata/rfc9497.json", &rfc)
	k, err := ParseServerKey(unhex(t, rfc.Secret))
	if err != nil || !bytes.Equal(k.Public(), unhex(t, rfc.Public)) {
		t.Fatalf("the key differs: %v", err)
	}
	c := client(t, k)
	for i, v := range rfc.Vectors {
		inputs := unhexList(t, v.Input)
		var blinds []oprf.Blind
		for _, b := range unhexList(t, v.Blind) {
			s := group.Ristretto255.NewScalar()
			if err := s.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			blinds = append(blinds, s)
		}
		p, batch, err := c.begin(len(inputs), func() (*oprf.FinalizeData, *oprf.EvaluationRequest, error) {
			return c.oprf.DeterministicBlind(inputs, blinds)
		})
		if err != nil || !bytes.Equal(batch, join(unhexList(t, v.BlindedElement))) {
			t.Fatalf("vector %d: blinded differently: %v", i, err)
		}
		answer := join(unhexList(t, v.EvaluationElement), unhex(t, v.Proof.Proof))
		got, err := p.outputs(answer)
		if err != nil || !bytes.Equal(bytes.Join(got, nil), bytes.Join(unhexList(t, v.Output), nil)) {
			t.Errorf("vector %d: the RFC's answer gives another output: %v", i, err)
		}
		ours, err := k.Evaluate(batch)
		if err != nil || !bytes.Equal(ours[:len(batch)], answer[:len(batch)]) {
			t.Errorf("vector %d: evaluated differently: %v", i, err)
		}
		if got, err = p.outputs(ours); err != nil || !bytes.Equal(bytes.Join(got, nil), bytes.Join(unhexList(t, v.Output), nil)) {
			t.Errorf("vector %d: this package's own answer: %v", i, err)
		}
	}
}

// idVector is a look-up of ours, from numbers to IDs.
type idVector struct {
	Secret    string   `json:"server_key"`
	Public    string   `json:"server_public"`
	Numbers   []string `json:"numbers"`
	Batch     string   `json:"batch"`
	Evaluated string   `json:"evaluated"`
	IDs       []string `json:"ids"`
}

// TestIDVector freezes how a number becomes an ID, and one whole look-up. The IDs depend on the key and
// the number only; batch and answer on the seed of the test's randomness as well. [P-1]
func TestIDVector(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 44)
	got := makeIDVector(t)
	b, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	const name = "testdata/ids.json"
	if *update {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("the frozen look-up has changed (%v): got\n%s", err, b)
	}
}

func makeIDVector(t *testing.T) idVector {
	t.Helper()
	k := serverKey(t)
	ns := numbers(t, 3)
	p, batch := batchOf(t, client(t, k), ns)
	evaluated, err := k.Evaluate(batch)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := p.Finalize(evaluated)
	if err != nil {
		t.Fatal(err)
	}
	v := idVector{Secret: hex.EncodeToString(k.Marshal()), Public: hex.EncodeToString(k.Public()),
		Batch: hex.EncodeToString(batch), Evaluated: hex.EncodeToString(evaluated)}
	for i := range ns {
		v.Numbers = append(v.Numbers, ns[i].E164())
		v.IDs = append(v.IDs, ids[i].String())
	}
	return v
}

// TestIDsFromStoredKey reads the frozen key and numbers and computes the IDs alone. [P-1]
func TestIDsFromStoredKey(t *testing.T) {
	var v idVector
	readVector(t, "testdata/ids.json", &v)
	k, err := ParseServerKey(unhex(t, v.Secret))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range v.Numbers {
		n, err := wire.ParseNumber(s)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := k.FullEvaluate(n); err != nil || id.String() != v.IDs[i] {
			t.Errorf("number %d: %v, %v; want %s", i, id, err, v.IDs[i])
		}
	}
}

func FuzzEvaluate(f *testing.F) {
	k := serverKey(f)
	_, batch := batchOf(f, client(f, k), numbers(f, 2))
	f.Add(batch)
	f.Add([]byte{0})
	f.Add(make([]byte, 33))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := k.Evaluate(b); err == nil && len(out) != len(b)+ProofLen {
			t.Errorf("%d bytes answer %d", len(out), len(b))
		}
	})
}

func FuzzFinalize(f *testing.F) {
	k := serverKey(f)
	p, batch := batchOf(f, client(f, k), numbers(f, 2))
	good, err := k.Evaluate(batch)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:65])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := p.Finalize(b); err == nil && !bytes.Equal(b[:65], good[:65]) {
			t.Error("a wrong answer is accepted")
		}
	})
}

func FuzzParseServerKey(f *testing.F) {
	f.Add(serverKey(f).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseServerKey(b); err == nil && !bytes.Equal(k.Marshal(), b) {
			t.Error("a key marshals differently from what it was read from")
		}
		if c, err := NewClient(b); err == nil && c == nil {
			t.Error("neither a client nor an error")
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	k := serverKey(b)
	c := client(b, k)
	for _, n := range []int{1, MaxBatch} {
		_, batch := batchOf(b, c, numbers(b, n))
		b.Run(map[int]string{1: "one", MaxBatch: "32"}[n], func(b *testing.B) {
			for b.Loop() {
				if _, err := k.Evaluate(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	k := serverKey(b)
	c := client(b, k)
	ns := numbers(b, 1)
	b.Run("blind", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := c.Blind(ns); err != nil {
				b.Fatal(err)
			}
		}
	})
	p, batch := batchOf(b, c, ns)
	evaluated, err := k.Evaluate(batch)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("finalize", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.Finalize(evaluated); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			if _, err := k.FullEvaluate(ns[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
