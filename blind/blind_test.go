package blind

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cloudflare/circl/group"
	"github.com/google/go-cmp/cmp"

	"bluejay/wire"
)

func serverKey(t testing.TB) ServerKey {
	t.Helper()
	k, err := GenerateServerKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func client(t testing.TB, k ServerKey) *Client {
	t.Helper()
	c, err := NewClient(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func numbers(t testing.TB, n int) []wire.Number {
	t.Helper()
	ns := make([]wire.Number, n)
	for i := range ns {
		var err error
		if ns[i], err = wire.ParseNumber(fmt.Sprintf("+4477009%05d", i)); err != nil {
			t.Fatal(err)
		}
	}
	return ns
}

func batchOf(t testing.TB, c *Client, ns []wire.Number) (*Pending, []byte) {
	t.Helper()
	p, batch, err := c.Blind(ns)
	if err != nil {
		t.Fatal(err)
	}
	return p, batch
}

// TestLookup: blinded or not, a number has one ID, and batches keep their order. [P-1] [S-15]
func TestLookup(t *testing.T) {
	k := serverKey(t)
	c := client(t, k)
	for _, n := range []int{1, 2, MaxBatch} {
		ns := numbers(t, n)
		p, batch := batchOf(t, c, ns)
		evaluated, err := k.Evaluate(batch)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) != 1+32*n || len(evaluated) != 65+32*n {
			t.Errorf("%d numbers: %d bytes up, %d down", n, len(batch), len(evaluated))
		}
		got, err := p.Finalize(evaluated)
		if err != nil {
			t.Fatal(err)
		}
		var want []wire.ID
		for _, number := range ns {
			id, err := k.FullEvaluate(number)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, id)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d numbers:\n%s", n, diff)
		}
	}
}

// TestBlinded: the same number twice gives unrelated requests, even within one batch. [S-15]
func TestBlinded(t *testing.T) {
	k := serverKey(t)
	c := client(t, k)
	n := numbers(t, 1)[0]
	_, one := batchOf(t, c, []wire.Number{n, n})
	_, two := batchOf(t, c, []wire.Number{n, n})
	if bytes.Equal(one, two) || bytes.Equal(one[1:33], one[33:]) {
		t.Error("a request tells that a number was asked before")
	}
}

// TestOtherKey: an answer made with another key is refused, whatever key the registrar meant: it could
// mark a user with it. [S-15]
func TestOtherKey(t *testing.T) {
	pinned, other := serverKey(t), serverKey(t)
	c := client(t, pinned)
	p, batch := batchOf(t, c, numbers(t, 3))
	evaluated, err := other.Evaluate(batch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Finalize(evaluated); !errors.Is(err, ErrProof) {
		t.Errorf("another key: %v, want ErrProof", err)
	}
	honest, err := pinned.Evaluate(batch)
	if err != nil {
		t.Fatal(err)
	}
	mixed := bytes.Clone(honest)
	copy(mixed[1:33], evaluated[1:33]) // one element of the batch under another key
	if _, err := p.Finalize(mixed); !errors.Is(err, ErrProof) {
		t.Errorf("one element under another key: %v, want ErrProof", err)
	}
	swapped := bytes.Clone(honest)
	copy(swapped[1:33], honest[33:65])
	copy(swapped[33:65], honest[1:33])
	if _, err := p.Finalize(swapped); !errors.Is(err, ErrProof) {
		t.Errorf("two elements swapped: %v, want ErrProof", err)
	}
	if _, err := p.Finalize(honest); err != nil {
		t.Errorf("the honest answer after the others: %v", err)
	}
}

func basepoint(t testing.TB) []byte {
	t.Helper()
	b, err := group.Ristretto255.Generator().MarshalBinaryCompress()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// notElements are 32 bytes, or nearly, that are no element to accept: RFC 9496 appendix A.2 and more.
func notElements(t testing.TB) map[string][]byte {
	t.Helper()
	full := bytes.Repeat([]byte{0xff}, 32)
	p := append([]byte{0xed}, bytes.Repeat([]byte{0xff}, 31)...)
	p[31] = 0x7f
	above := bytes.Clone(p)
	above[0] += 2
	high := basepoint(t)
	high[31] |= 0x80
	negative := append([]byte{1}, make([]byte, 31)...)
	return map[string][]byte{
		"identity": make([]byte, 32), "the prime (a second zero)": p, "above the prime": above, "all ones": full,
		"high bit": high, "negative": negative,
		"square root missing": append([]byte{0x26, 0x94, 0x8d, 0x35, 0xca, 0x62, 0xe6, 0x43, 0xe2, 0x6a, 0x83, 0x17, 0x73, 0x32, 0xe6, 0xb6, 0xaf, 0xeb, 0x9d, 0x08, 0xe4, 0x26, 0x8b, 0x65, 0x0f, 0x1f, 0x5b, 0xbd, 0x8d, 0x81, 0xd3}, 0x71),
		"P-256 generator":     append([]byte{0x03}, bytes.Repeat([]byte{0x6b}, 32)...),
	}
}

// TestEvaluateRefuses: what a stranger may send instead of a batch. [S-15]
func TestEvaluateRefuses(t *testing.T) {
	k := serverKey(t)
	good := basepoint(t)
	cases := map[string][]byte{
		"nothing": nil, "no elements": {0}, "no elements, one sent": append([]byte{0}, good...),
		"one announced, none sent": {1}, "half an element": append([]byte{1}, good[:16]...),
		"bytes after the batch": append(append([]byte{1}, good...), 0),
		"33 elements":           append([]byte{33}, bytes.Repeat(good, 33)...),
		"255 elements":          append([]byte{255}, bytes.Repeat(good, 255)...),
	}
	for name, e := range notElements(t) {
		cases[name] = append([]byte{1}, e...)
		cases["second of two: "+name] = append(append([]byte{2}, good...), e...)
	}
	for name, batch := range cases {
		if out, err := k.Evaluate(batch); !errors.Is(err, wire.ErrMalformed) || out != nil {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
	if _, err := k.Evaluate(append([]byte{32}, bytes.Repeat(good, 32)...)); err != nil {
		t.Errorf("32 equal elements: %v", err)
	}
}

// TestFinalizeRefuses: what a registrar may answer. [S-15]
func TestFinalizeRefuses(t *testing.T) {
	k := serverKey(t)
	p, batch := batchOf(t, client(t, k), numbers(t, 2))
	good, err := k.Evaluate(batch)
	if err != nil {
		t.Fatal(err)
	}
	one, err := k.Evaluate(append([]byte{1}, batch[1:33]...))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{
		"nothing": nil, "no proof": good[:65], "half a proof": good[:100], "longer": append(bytes.Clone(good), 0),
		"answer to one": one, "scalars out of range": append(bytes.Clone(good[:65]), bytes.Repeat([]byte{0xff}, 64)...),
	}
	for name, e := range notElements(t) {
		cases[name] = append(append([]byte{2}, e...), good[33:]...)
	}
	for name, b := range cases {
		if ids, err := p.Finalize(b); !errors.Is(err, wire.ErrMalformed) || ids != nil {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
	zero := append(bytes.Clone(good[:65]), make([]byte, 64)...)
	if _, err := p.Finalize(zero); !errors.Is(err, ErrProof) {
		t.Errorf("a proof of zeros: %v, want ErrProof", err)
	}
	for i := 1; i < len(good); i += 7 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := p.Finalize(bad); err == nil {
			t.Errorf("byte %d changed: accepted", i)
		}
	}
}

// TestBlindRefuses: numbers that are none, and too many. [S-15]
func TestBlindRefuses(t *testing.T) {
	c := client(t, serverKey(t))
	for name, ns := range map[string][]wire.Number{
		"none": nil, "33": numbers(t, 33), "the zero number": {{}}, "one zero number": append(numbers(t, 1), wire.Number{}),
	} {
		if p, batch, err := c.Blind(ns); !errors.Is(err, wire.ErrMalformed) || p != nil || batch != nil {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

// TestNewClientRefuses: a public key of identity would make every ID computable by anyone. [S-15]
func TestNewClientRefuses(t *testing.T) {
	cases := notElements(t)
	cases["nothing"] = nil
	for name, b := range cases {
		if c, err := NewClient(b); !errors.Is(err, wire.ErrMalformed) || c != nil {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

// TestServerKeyStored: a key survives its store, and only one encoding of it is read. [S-15]
func TestServerKeyStored(t *testing.T) {
	k := serverKey(t)
	stored, err := ParseServerKey(k.Marshal())
	if err != nil || !bytes.Equal(stored.Public(), k.Public()) || len(k.Marshal()) != KeyLen {
		t.Fatalf("the stored key differs: %v", err)
	}
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	for name, b := range map[string][]byte{
		"nothing": nil, "short": k.Marshal()[1:], "long": append(k.Marshal(), 0), "zero": make([]byte, 32),
		"the group's order (a second zero)": order, "all ones": bytes.Repeat([]byte{0xff}, 32),
	} {
		if _, err := ParseServerKey(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

func TestZeroKey(t *testing.T) {
	var k ServerKey
	if _, err := k.Evaluate(append([]byte{1}, basepoint(t)...)); !errors.Is(err, ErrInternal) {
		t.Errorf("Evaluate: %v", err)
	}
	if _, err := k.FullEvaluate(numbers(t, 1)[0]); !errors.Is(err, ErrInternal) {
		t.Errorf("FullEvaluate: %v", err)
	}
	if k.Marshal() != nil || k.Public() != nil {
		t.Error("the zero key has bytes")
	}
	if _, err := serverKey(t).FullEvaluate(wire.Number{}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("the zero number: %v", err)
	}
}

// TestGuard: the second line behind the checks. [S-15]
func TestGuard(t *testing.T) {
	f := func() (err error) {
		defer guard(&err)
		var e group.Element
		_ = e.IsIdentity() // as the library does with a nil element
		return nil
	}
	if err := f(); !errors.Is(err, ErrInternal) {
		t.Errorf("a panic below: %v, want ErrInternal", err)
	}
}

// TestNothingPrints: neither keys nor numbers under any verb or logger.
func TestNothingPrints(t *testing.T) {
	k := serverKey(t)
	p, _ := batchOf(t, client(t, k), numbers(t, 1))
	for _, v := range []any{k, &k, p, *p} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(verb, v); got != redacted {
				t.Errorf("%T under %s: %s", v, verb, got)
			}
		}
		if !strings.Contains(log.String(), redacted) {
			t.Errorf("%T in slog: %s", v, &log)
		}
	}
}
