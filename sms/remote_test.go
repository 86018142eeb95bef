package sms

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"bluejay/wire"
)

func remote(t testing.TB, call func(context.Context, []byte) ([]byte, error)) *Remote {
	t.Helper()
	r, err := NewRemote(RemoteConfig{Name: "far", Call: call})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRemoteRequest is the frozen form of a request; the id differs each time.
func TestRemoteRequest(t *testing.T) {
	var got string
	r := remote(t, func(_ context.Context, b []byte) ([]byte, error) {
		got = string(b)
		return []byte(`{"status":"accepted","id":"x1"}`), nil
	})
	m := testMessage(t, "hello")
	m.ValidUntil = time.Unix(1_800_000_000, 0)
	res := r.Submit(t.Context(), m)
	var q RemoteRequest
	if err := json.Unmarshal([]byte(got), &q); err != nil || len(q.ID) != 22 {
		t.Fatalf("%s: %v", got, err)
	}
	const want = `{"id":"ID","to":"+447700900123","from":"Bluejay","text":"hello","parts":1,"valid_until":"2027-01-15T08:00:00Z","class":"normal"}`
	if s := strings.Replace(got, q.ID, "ID", 1); s != want {
		t.Errorf("%s", s)
	}
	if len(res.IDs) != 1 || res.IDs[0] != "x1" || !res.Whole || res.Class != Accepted {
		t.Errorf("%+v", res)
	}
}

// TestRemoteOutcomes: nobody there is certainly not sent; silence and nonsense are in doubt. [F-11]
func TestRemoteOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		err          error
		outcome      Outcome
		class        Class
		linked       bool
	}{
		{"accepted", `{"status":"accepted"}`, nil, Answered, Accepted, true},
		{"again", `{"status":"retry"}`, nil, Answered, Retry, true},
		{"throttled", `{"status":"throttled"}`, nil, Answered, Retry, true},
		{"never", `{"status":"permanent"}`, nil, Answered, Permanent, true},
		{"nobody", ``, ErrNobody, NotSent, Retry, false},
		{"lost", ``, errors.New("connection closed"), Unknown, Accepted, true},
		{"nonsense", `ok`, nil, Unknown, Accepted, true},
		{"another word", `{"status":"fine"}`, nil, Unknown, Accepted, true},
		{"an unknown field", `{"status":"accepted","to":"+44"}`, nil, Unknown, Accepted, true},
		{"a long id", `{"status":"accepted","id":"` + strings.Repeat("x", 65) + `"}`, nil, Unknown, Accepted, true},
		{"two answers", `{"status":"accepted"}{"status":"retry"}`, nil, Unknown, Accepted, true},
		{"a big answer", strings.Repeat(" ", maxAnswer) + `{"status":"accepted"}`, nil, Unknown, Accepted, true},
	} {
		r := remote(t, func(context.Context, []byte) ([]byte, error) { return []byte(tt.answer), tt.err })
		got := r.Submit(t.Context(), testMessage(t, "x"))
		if got.Outcome != tt.outcome || got.Class != tt.class || r.Linked() != tt.linked {
			t.Errorf("%s: %+v, linked %v", tt.name, got, r.Linked())
		}
		if tt.name == "accepted" && len(got.IDs[0]) != 22 {
			t.Errorf("without an id, the request's: %q", got.IDs)
		}
	}
}

// TestRemoteRefuses: what cannot be sent is not, and a route needs a way to call.
func TestRemoteRefuses(t *testing.T) {
	r := remote(t, func(context.Context, []byte) ([]byte, error) { t.Error("called"); return nil, nil })
	for _, m := range []Message{{To: testMessage(t, "x").To, Text: "x"}, testMessage(t, strings.Repeat("x", 1000))} {
		if got := r.Submit(t.Context(), m); got.Outcome != NotSent || got.Class != Permanent {
			t.Errorf("%+v", got)
		}
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	for range cap(r.window) {
		r.window <- struct{}{}
	}
	if got := r.Submit(ended, testMessage(t, "x")); got.Outcome != NotSent {
		t.Errorf("%+v", got)
	}
	for _, c := range []RemoteConfig{{}, {Name: "far"}} {
		if _, err := NewRemote(c); err == nil {
			t.Error("accepted")
		}
	}
	down := errors.New("nobody serves it")
	probed, _ := NewRemote(RemoteConfig{Name: "far", Call: r.cfg.Call, Probe: func(context.Context) error { return down }})
	if err := probed.Check(t.Context()); !errors.Is(err, down) || r.Check(t.Context()) != nil {
		t.Errorf("%v", err)
	}
}

// TestRemoteDeliver: receipts and texts, strictly.
func TestRemoteDeliver(t *testing.T) {
	r := remote(t, func(context.Context, []byte) ([]byte, error) { return nil, nil })
	good := `{"event":"receipt","id":"x1","to":"+447700900123","state":"delivered"}`
	if err := r.Deliver(t.Context(), []byte(good)); !errors.Is(err, ErrNoLink) {
		t.Errorf("before Run: %v", err)
	}
	h := &heard{}
	running(t, r, h.handlers())
	for r.inbox.Load() == nil {
	}
	if err := r.Deliver(t.Context(), []byte(good)); err != nil || h.receipts[0].State != wire.JobDelivered || h.receipts[0].Route != "far" || h.receipts[0].ID != "x1" {
		t.Errorf("%v", err)
	}
	if err := r.Deliver(t.Context(), []byte(`{"event":"incoming","id":"9","from":"+447700900123","to":"12345","text":"退订"}`)); err != nil || h.texts[0].Text != "退订" || h.texts[0].ID != "9" {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{
		``, `[]`, `{}`, `{"event":"other"}`, good + `x`, `{"event":"receipt","id":"x1","to":"447700900123","state":"delivered"}`,
		`{"event":"receipt","id":"x1","to":"+447700900123","state":"queued"}`, `{"event":"receipt","id":"x1","to":"+447700900123"}`,
		`{"event":"receipt","id":"` + strings.Repeat("x", 65) + `","to":"+447700900123","state":"delivered"}`,
		`{"event":"receipt","id":"x1","to":"+447700900123","state":"delivered","text":"x"}`,
		`{"event":"incoming","from":"Bank","to":"1","text":"x"}`, `{"event":"incoming","from":"+447700900123","to":"1","text":"x","state":"delivered"}`,
		`{"event":"incoming","from":"+447700900123","to":"` + strings.Repeat("1", 33) + `","text":"x"}`,
		`{"event":"incoming","from":"+447700900123","to":"1","text":"` + strings.Repeat("x", maxIncoming+1) + `"}`, strings.Repeat("x", maxCallback+1),
	} {
		if err := r.Deliver(t.Context(), []byte(bad)); !errors.Is(err, errCallback) {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
	if len(h.receipts)+len(h.texts) != 2 {
		t.Error("something malformed was handed on")
	}
	h.err = errors.New("down")
	if err := r.Deliver(t.Context(), []byte(good)); !errors.Is(err, h.err) {
		t.Errorf("not stored: %v", err)
	}
}
