package wire

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPages: however much is held, the pages together have each item once, in order, and none is larger
// than NATS carries. [H-1]
func TestPages(t *testing.T) {
	for _, n := range []int{0, 1, 9, 50} {
		var all, got []Held
		for i := range n {
			all = append(all, Held{Store: "S", Key: "k", Seq: uint64(i), Value: json.RawMessage("null"), Raw: make([]byte, 8<<10)})
		}
		pages := 0
		for more := true; more; pages++ {
			b, err := PageOf(all, uint32(len(got)))
			if err != nil || len(b) > 56<<10 {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			p, err := ParsePage(b)
			if err != nil {
				t.Fatal(err)
			}
			got, more = append(got, p.Items...), p.More
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("%d items (-want +got):\n%s", n, diff)
		}
		if want := max(1, (n+2)/3); pages != want {
			t.Errorf("%d items on %d pages, want %d", n, pages, want)
		}
	}
	if b, err := PageOf(nil, 1<<32-1); err != nil || string(b) != `{"items":[],"more":false}` {
		t.Errorf("beyond the end: %s, %v", b, err)
	}
	for _, bad := range []string{"", "{}", `{"items":null}`, `{"items":[],"more":true}`, `[]`} {
		if _, err := ParsePage([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestHoldRequests: what one side writes the other reads, and nothing else. [H-1] [H-6]
func TestHoldRequests(t *testing.T) {
	id := ID{1, 2, 3}
	if got, skip, err := ParseKept(KeptRequest(id, 77)); got != id || skip != 77 || err != nil {
		t.Errorf("%v, %d, %v", got, skip, err)
	}
	for _, s := range []byte{ForgetMark, ForgetAll} {
		if step, got, err := ParseForget(ForgetRequest(s, id)); step != s || got != id || err != nil {
			t.Errorf("%d, %v, %v", step, got, err)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, 15), make([]byte, 17), KeptRequest(id, 0)[1:]} {
		if _, _, err := ParseKept(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x is a question: %v", bad, err)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, 13), ForgetRequest(3, id), ForgetRequest(1, id)[:12]} {
		if _, _, err := ParseForget(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x is a request: %v", bad, err)
		}
	}
}

func FuzzParsePage(f *testing.F) {
	f.Add([]byte(`{"items":[],"more":false}`))
	f.Add([]byte(`{"items":[{"store":"KV_bj_counts","key":"k","seq":1,"stored_at":"2026-11-26T11:00:00Z","value":null,"raw":"AQ=="}],"more":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePage(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if p.More && len(p.Items) == 0 {
			t.Error("more, and nothing to go on from")
		}
	})
}
func TestNewest(t *testing.T) {
	rows := []Held{{Store: "a", Key: "1", Seq: 3}, {Store: "a", Key: "2", Seq: 4}, {Store: "b", Key: "1", Seq: 5}, {Store: "a", Key: "1", Seq: 9}, {Store: "a", Key: "2", Seq: 4}}
	var got []string
	for _, h := range Newest(rows) {
		got = append(got, h.Store+h.Key)
	}
	if want := []string{"a2", "b1", "a1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if left := Newest(nil); len(left) != 0 {
		t.Errorf("of nothing: %v", left)
	}
}
