package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// textForms are the four identifiers that travel as base64url.
var textForms = map[string]struct {
	size  int
	parse func(string) (string, error)
}{
	"ID":         {12, func(s string) (string, error) { v, err := ParseID(s); return v.String(), err }},
	"tag":        {9, func(s string) (string, error) { v, err := ParseTag(s); return v.String(), err }},
	"message id": {16, func(s string) (string, error) { v, err := ParseMessageID(s); return v.String(), err }},
	"pseudonym":  {9, func(s string) (string, error) { v, err := ParsePseudonym(s); return v.String(), err }},
}

// TestTextForms: each identifier has one text, and everything else is refused. [P-1] [P-12]
func TestTextForms(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for name, form := range textForms {
		for range 200 {
			raw := make([]byte, form.size)
			for i := range raw {
				raw[i] = byte(r.Uint32())
			}
			s := b64.EncodeToString(raw)
			if got, err := form.parse(s); err != nil || got != s {
				t.Fatalf("%s %q came back as %q, %v", name, s, got, err)
			}
		}
		good := b64.EncodeToString(make([]byte, form.size))
		for _, bad := range []string{"", good[1:], good + "A", good + "=", good[:len(good)-1] + "+", good[:len(good)-1] + "/",
			good[:len(good)-1] + "=", good[:len(good)-1] + "\n", "\r" + good[1:], " " + good[1:], strings.Repeat("é", len(good)/2), strings.Repeat("A", 4096)} {
			if _, err := form.parse(bad); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %.30q is read: %v", name, bad, err)
			}
		}
	}
}

// TestMessageIDTail: 22 characters hold four bits too many; they must be zero. [C-6]
func TestMessageIDTail(t *testing.T) {
	good := strings.Repeat("A", 21)
	for _, tail := range "BCDEFGHIJKLMNOP" {
		if _, err := ParseMessageID(good + string(tail)); !errors.Is(err, ErrMalformed) {
			t.Errorf("two texts for one id: ends in %c: %v", tail, err)
		}
	}
	if _, err := ParseMessageID(good + "Q"); err != nil {
		t.Error(err)
	}
}

// TestIDOrder is the order that settles simultaneous INITs. [S-9]
func TestIDOrder(t *testing.T) {
	low, high := ID{0x7f, 0xff}, ID{0x80}
	if low.Compare(high) != -1 || high.Compare(low) != 1 || low.Compare(low) != 0 {
		t.Error("IDs are not ordered bytewise, unsigned")
	}
	if !(ID{}).IsZero() || low.IsZero() || !(Tag{}).IsZero() || (Tag{8: 1}).IsZero() {
		t.Error("IsZero")
	}
}

// TestDerived freezes what is derived from secrets of the cluster, and shows what each depends on.
// [P-12] [F-9] [C-6]
func TestDerived(t *testing.T) {
	key, other := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32)
	tag := MakeTag(key, someID, 5)
	for name, o := range map[string]Tag{"key": MakeTag(other, someID, 5), "ID": MakeTag(key, ID{1}, 5), "generation": MakeTag(key, someID, 6),
		"kind": Tag(MakePseudonym(key, someID, 5))} {
		if o == tag {
			t.Errorf("a tag does not depend on the %s", name)
		}
	}
	p := MakePseudonym(key, someID, 20778)
	if p == MakePseudonym(key, someID, 20779) || p == MakePseudonym(other, someID, 20778) || p == MakePseudonym(key, ID{1}, 20778) {
		t.Error("a pseudonym does not depend on key, ID and day")
	}
	frozen(t, "testdata/derived.json", map[string]string{
		"id": someID.String(), "key_of_32_times": "07", "tag_of_generation_5": tag.String(), "pseudonym_of_day_20778": p.String(),
		"message_id_of_abc": MessageIDOf([]byte("abc")).String(),
	})
}

// TestLP: the encoding under signatures cannot be cut in two ways. [P-2]
func TestLP(t *testing.T) {
	if got := string(LP("bj1 x", []byte("ab"), nil, []byte("c"))); got != "bj1 x\x00\x00\x02ab\x00\x00\x00\x01c" {
		t.Errorf("%q", got)
	}
	seen := map[string]string{}
	for name, b := range map[string][]byte{
		"ab,c": LP("l", []byte("ab"), []byte("c")), "a,bc": LP("l", []byte("a"), []byte("bc")), "abc": LP("l", []byte("abc")),
		"abc,": LP("l", []byte("abc"), nil), ",abc": LP("l", nil, []byte("abc")), "label la": LP("la", []byte("bc")), "nothing": LP("l"),
	} {
		if o, twice := seen[string(b)]; twice {
			t.Errorf("%s and %s are encoded alike", name, o)
		}
		seen[string(b)] = name
	}
}

func FuzzTextForms(f *testing.F) {
	f.Add(someID.String())
	f.Add(Tag{1}.String())
	f.Add(MessageID{1}.String())
	f.Add(strings.Repeat("A", 15) + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		for name, form := range textForms {
			if got, err := form.parse(s); err == nil && got != s {
				t.Errorf("%s: %q came back as %q", name, s, got)
			}
		}
	})
}
