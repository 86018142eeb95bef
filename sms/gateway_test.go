package sms

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bluejay/wire"
)

var gatewaySecret = []byte("sixteen bytes at least")

// heard keeps what a transport hands on, or refuses it.
type heard struct {
	mu       sync.Mutex
	receipts []Receipt
	texts    []Incoming
	err      error
}

func (h *heard) handlers() Handlers {
	return Handlers{
		Receipt: func(_ context.Context, r Receipt) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.receipts = append(h.receipts, r)
			return h.err
		},
		Incoming: func(_ context.Context, m Incoming) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.texts = append(h.texts, m)
			return h.err
		},
	}
}

// running runs a transport until the test ends.
func running(t *testing.T, tr Transport, h Handlers) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := tr.Run(ctx, h); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// listening waits until callbacks are taken.
func listening(t *testing.T, g *Gateway) {
	t.Helper()
	for g.inbox.Load() == nil {
		if t.Context().Err() != nil {
			t.Fatal("Run never began")
		}
	}
}

// kannelAt is a Kannel transport to a server of the test.
func kannelAt(t *testing.T, handler http.HandlerFunc) *Gateway {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	g, err := NewKannel(KannelConfig{
		GatewayConfig: GatewayConfig{
			Name: "k", URL: srv.URL + "/cgi-bin/sendsms", Timeout: 30 * time.Second,
			CallbackURL: "http://127.0.0.1:1/sms/k", Secret: gatewaySecret,
		},
		Username: "tester", Password: "foobar",
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestKannelRequest: what Kannel is asked for, for each alphabet.
func TestKannelRequest(t *testing.T) {
	var got url.Values
	g := kannelAt(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.Query()
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "0: Accepted for delivery")
	})
	for _, tt := range []struct {
		text    string
		charset Charset
		coding  string
	}{
		{"see you at eight", CharsetAuto, "0"}, {"at the café, 10 €", CharsetAuto, "0"}, {"привет", CharsetAuto, "2"},
		{"plain", CharsetUCS2, "2"}, {strings.Repeat("long ", 60), CharsetAuto, "0"},
	} {
		m := testMessage(t, tt.text)
		m.Charset, m.ValidUntil = tt.charset, time.Now().Add(90*time.Minute+30*time.Second) // whole minutes are said
		r := g.Submit(t.Context(), m)
		if r.Outcome != Answered || r.Class != Accepted || !r.Whole || len(r.IDs) != 1 || r.Err != nil {
			t.Fatalf("%+v", r)
		}
		want := map[string]string{
			"username": "tester", "password": "foobar", "to": m.To.E164(), "from": "Bluejay", "text": tt.text,
			"charset": "UTF-8", "coding": tt.coding, "validity": "90", "dlr-mask": "19",
		}
		for k, v := range want {
			if got.Get(k) != v {
				t.Errorf("%s is %q, want %q", k, got.Get(k), v)
			}
		}
		dlr := got.Get("dlr-url")
		if !strings.HasPrefix(dlr, "http://127.0.0.1:1/sms/k/receipt/") || !strings.HasSuffix(dlr, "?type=%d") ||
			strings.Contains(dlr, m.To.E164()[4:]) || strings.Contains(dlr, r.IDs[0]) {
			t.Errorf("dlr-url %q", dlr)
		}
	}
}

// TestGatewayAnswers: every answer has one of the three outcomes, and no request is made twice. [F-11]
func TestGatewayAnswers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		status  int
		body    string
		outcome Outcome
		class   Class
	}{
		{"accepted", 202, "0: Accepted for delivery", Answered, Accepted},
		{"queued", 202, "3: Queued for later delivery", Answered, Accepted},
		{"202 of something else", 202, "<html>", Unknown, Accepted},
		{"temporal failure", 503, "Temporal failure, try again later.", Answered, Retry},
		{"wrong password", 403, "Authorization failed for sendsms", Answered, Refused},
		{"bad number", 400, "Missing receiver number, rejected", Answered, Permanent},
		{"server error", 500, "", Unknown, Accepted},
		{"bad gateway", 502, "", Unknown, Accepted},
		{"redirect", 302, "", Unknown, Accepted},
		{"not modified", 204, "", Unknown, Accepted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			g := kannelAt(t, func(w http.ResponseWriter, _ *http.Request) {
				asked++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				if tt.status != 204 {
					_, _ = io.WriteString(w, tt.body)
				}
			})
			r := g.Submit(t.Context(), testMessage(t, "hello"))
			if r.Outcome != tt.outcome || r.Class != tt.class || asked != 1 || (r.Outcome != Answered) != (r.Err != nil) {
				t.Errorf("%+v after %d requests", r, asked)
			}
		})
	}
}

// deafAddr is an address at which nobody listens, nor will while the test runs: a connection has the port.
func deafAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.LocalAddr().String()
}

// TestGatewayLink: nobody listens, the connection ends after the request, nothing is ever answered:
// only the first is certainly not sent. [F-11]
func TestGatewayLink(t *testing.T) {
	requests := make(chan struct{}, 10)
	g := kannelAt(t, func(w http.ResponseWriter, r *http.Request) {
		requests <- struct{}{}
		if r.URL.Query().Get("text") == "hang up" {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = c.Close()
			}
			return
		}
		<-r.Context().Done()
	})
	if r := g.Submit(t.Context(), testMessage(t, "hang up")); r.Outcome != Unknown || len(requests) != 1 {
		t.Errorf("hung up: %+v, %d requests", r, len(requests))
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-requests; <-requests; cancel() }()
	if r := g.Submit(ctx, testMessage(t, "silence")); r.Outcome != Unknown {
		t.Errorf("cut off while waiting: %+v", r)
	}
	if !g.Linked() {
		g.down.Store(false)
	}

	gone, err := NewKannel(KannelConfig{GatewayConfig: GatewayConfig{Name: "k", URL: "http://" + deafAddr(t)}, Username: "a", Password: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if r := gone.Submit(t.Context(), testMessage(t, "x")); r.Outcome != NotSent || r.Class != Retry || gone.Linked() {
		t.Errorf("nobody listens: %+v, linked %v", r, gone.Linked())
	}
	err = gone.Check(t.Context())
	if err == nil || strings.Contains(err.Error(), "password") || !strings.Contains(err.Error(), "check its URL") {
		t.Errorf("check: %v", err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if r := g.Submit(ended, testMessage(t, "x")); r.Outcome != NotSent {
		t.Errorf("no time: %+v", r)
	}
}

// TestGatewayThrottled: the whole route slows down and sends the text again. [F-15]
func TestGatewayThrottled(t *testing.T) {
	var asked []time.Time
	g := kannelAt(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked = append(asked, time.Now()); len(asked) == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "0: Accepted for delivery")
	})
	r := g.Submit(t.Context(), testMessage(t, "hello"))
	if r.Class != Accepted || len(asked) != 2 || asked[1].Sub(asked[0]) < throttlePause {
		t.Errorf("%+v, asked at %v", r, asked)
	}
}

// TestGatewayRefuses: what cannot be sent is not.
func TestGatewayRefuses(t *testing.T) {
	g := kannelAt(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was made") })
	for what, m := range map[string]Message{
		"no sender": {To: testMessage(t, "x").To, Text: "x"},
		"too long":  testMessage(t, strings.Repeat("x", 1000)),
	} {
		if r := g.Submit(t.Context(), m); r.Outcome != NotSent || r.Class != Permanent || r.Err == nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
	done := testMessage(t, "x")
	done.Done = 1
	if r := g.Submit(t.Context(), done); r.Outcome != Answered || r.Class != Accepted || len(r.IDs) != 0 {
		t.Errorf("accepted before: %+v", r)
	}
	for what, c := range map[string]KannelConfig{
		"nothing":     {},
		"no password": {GatewayConfig: GatewayConfig{Name: "k", URL: "http://127.0.0.1:1"}, Username: "a"},
		"no name":     {GatewayConfig: GatewayConfig{URL: "http://127.0.0.1:1"}, Username: "a", Password: "b"},
		"ftp":         {GatewayConfig: GatewayConfig{Name: "k", URL: "ftp://127.0.0.1:1"}, Username: "a", Password: "b"},
		"short secret": {GatewayConfig: GatewayConfig{Name: "k", URL: "http://127.0.0.1:1", CallbackURL: "http://127.0.0.1:2", Secret: []byte("short")},
			Username: "a", Password: "b"},
	} {
		if _, err := NewKannel(c); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// TestKannelCheck: the check sends nothing and says what to do.
func TestKannelCheck(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string // in the error; "": none
	}{
		{400, "Missing receiver number, rejected", ""}, {403, "Authorization failed for sendsms", "user name or the password"},
		{404, "", "path"}, {503, "", "bearerbox"},
	} {
		g := kannelAt(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("to") || r.URL.Query().Has("text") {
				t.Error("the check would send")
			}
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		err := g.Check(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d: %v", tt.status, err)
		}
	}
}

// call makes a callback.
func call(g *Gateway, method, target, body string, header ...string) int {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	g.Callbacks().ServeHTTP(w, r)
	if w.Body.Len() != 0 {
		return -1 // it could be sent to the phone
	}
	return w.Code
}

// TestCallbacks: what is authentic is handed on; what is not is refused, and nobody hears of it. [F-14]
func TestCallbacks(t *testing.T) {
	g := kannelAt(t, func(http.ResponseWriter, *http.Request) {})
	h := &heard{}
	m := testMessage(t, "hello")
	id := newGatewayID()
	receipt := strings.TrimPrefix(g.callback(id, m), "http://127.0.0.1:1")
	incoming := strings.TrimPrefix(g.IncomingURL(), "http://127.0.0.1:1")
	if code := call(g, "GET", receipt+"?type=1", ""); code != http.StatusServiceUnavailable {
		t.Errorf("before Run: %d", code)
	}
	running(t, g, h.handlers())
	listening(t, g)
	other := kannelAt(t, func(http.ResponseWriter, *http.Request) {})
	other.cfg.Secret = []byte("another secret of 16 bytes")
	event := `{"event":"incoming","from":"+447700900123","to":"12345","text":"STOP"}`
	now := time.Now()
	for _, tt := range []struct {
		name, method, target, body string
		header                     []string
		want                       int
	}{
		{"delivered", "GET", receipt + "?type=1", "", nil, 200},
		{"undeliverable", "POST", receipt + "?type=2", "", nil, 200},
		{"rejected", "GET", receipt + "?type=16", "", nil, 200},
		{"on its way", "GET", receipt + "?type=8", "", nil, 200},
		{"no kind", "GET", receipt, "", nil, 400},
		{"unknown kind", "GET", receipt + "?type=99", "", nil, 400},
		{"another token", "GET", strings.TrimPrefix(other.callback(id, m), "http://127.0.0.1:1") + "?type=1", "", nil, 403},
		{"half a token", "GET", receipt[:len(receipt)-4] + "?type=1", "", nil, 403},
		{"no token", "GET", "/sms/k/receipt/?type=1", "", nil, 403},
		{"a text", "GET", incoming + "?from=%2B447700900123&to=12345&text=STOP+please", "", nil, 200},
		{"a text without a plus", "GET", incoming + "?from=447700900123&to=12345&text=x", "", nil, 200},
		{"a text from a name", "GET", incoming + "?from=Bank&to=12345&text=x", "", nil, 400},
		{"a text that is too long", "GET", incoming + "?from=%2B447700900123&text=" + strings.Repeat("x", maxIncoming+1), "", nil, 400},
		{"another key", "GET", strings.TrimPrefix(other.IncomingURL(), "http://127.0.0.1:1") + "?from=%2B447700900123&text=x", "", nil, 403},
		{"elsewhere", "GET", "/sms/k", "", nil, 403},
		{"another method", "PUT", receipt + "?type=1", "", nil, 404},
		{"a big body", "POST", receipt + "?type=1", strings.Repeat("x", maxCallback+1), nil, 413},
		{"an event", "POST", "/sms/k/event", event, []string{HeaderSignature, SignEvent(gatewaySecret, []byte(event), now)}, 200},
		{"an event, unsigned", "POST", "/sms/k/event", event, nil, 403},
		{"an event, another body", "POST", "/sms/k/event", event + " ", []string{HeaderSignature, SignEvent(gatewaySecret, []byte(event), now)}, 403},
		{"an event, old", "POST", "/sms/k/event", event, []string{HeaderSignature, SignEvent(gatewaySecret, []byte(event), now.Add(-6*time.Minute))}, 403},
		{"an event, early", "POST", "/sms/k/event", event, []string{HeaderSignature, SignEvent(gatewaySecret, []byte(event), now.Add(6*time.Minute))}, 403},
		{"an event, another secret", "POST", "/sms/k/event", event, []string{HeaderSignature, SignEvent(other.cfg.Secret, []byte(event), now)}, 403},
		{"an event, malformed", "POST", "/sms/k/event", "{}", []string{HeaderSignature, SignEvent(gatewaySecret, []byte("{}"), now)}, 400},
	} {
		before := len(h.receipts) + len(h.texts)
		if code := call(g, tt.method, tt.target, tt.body, tt.header...); code != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, code, tt.want)
		}
		if after := len(h.receipts) + len(h.texts); (after > before) != (tt.want == 200) {
			t.Errorf("%s: handed on %v", tt.name, after > before)
		}
	}
	var states []wire.JobState
	for _, r := range h.receipts {
		if r.ID != id.String() || r.To != m.To || r.Route != "k" {
			t.Errorf("receipt %q on %q", r.ID, r.Route)
		}
		states = append(states, r.State)
	}
	if !slices.Equal(states, []wire.JobState{wire.JobDelivered, wire.JobUndeliverable, wire.JobRejected, wire.JobSubmitted}) {
		t.Errorf("%v", states)
	}
	if m := h.texts[0]; m.Text != "STOP please" || m.To != "12345" || m.Route != "k" || m.From.E164() != "+447700900123" {
		t.Errorf("%q to %q", m.Text, m.To)
	}
	h.err = errors.New("the store is down")
	if code := call(g, "GET", receipt+"?type=1", ""); code != http.StatusServiceUnavailable {
		t.Errorf("not stored: %d", code)
	}
}

// TestTokenExpires: a receipt's address is good for as long as a receipt can come.
func TestTokenExpires(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		g, err := NewKannel(KannelConfig{GatewayConfig: GatewayConfig{Name: "k", URL: "http://127.0.0.1:1", CallbackURL: "http://127.0.0.1:2", Secret: gatewaySecret}, Username: "a", Password: "b"})
		if err != nil {
			t.Fatal(err)
		}
		_, token := cutLast(g.callback(newGatewayID(), testMessage(t, "x")))
		time.Sleep(receiptLife - time.Second)
		if _, _, err := g.openToken(token); err != nil {
			t.Errorf("in time: %v", err)
		}
		time.Sleep(3 * time.Second)
		if _, _, err := g.openToken(token); !errors.Is(err, errForged) {
			t.Errorf("too late: %v", err)
		}
	})
}

// TestSignEventVector is frozen: a gateway computes the same.
func TestSignEventVector(t *testing.T) {
	got := SignEvent([]byte("0123456789abcdef"), []byte(`{"event":"receipt"}`), time.Unix(1_800_000_000, 0))
	const want = "t=1800000000,v1=48358ef5d7e89ca2a5552ad06e5a693c577334547e547569696562ddee275acc"
	if got != want {
		t.Errorf("%s", got)
	}
}

func FuzzCallback(f *testing.F) {
	g, err := NewKannel(KannelConfig{GatewayConfig: GatewayConfig{Name: "k", URL: "http://127.0.0.1:1", CallbackURL: "http://127.0.0.1:2/sms/k", Secret: gatewaySecret}, Username: "a", Password: "b"})
	if err != nil {
		f.Fatal(err)
	}
	g.inbox.Store(&Handlers{})
	f.Add("/sms/k/receipt/AAAA?type=1", "", "")
	f.Add("/sms/k/event", `{"event":"receipt","id":"1","to":"+447700900123","state":"delivered"}`, "t=1,v1=00")
	f.Add("/sms/k/incoming/x?from=1&text=y", "", "")
	f.Fuzz(func(t *testing.T, target, body, signature string) {
		u, err := url.Parse(target)
		if err != nil || !strings.HasPrefix(target, "/") || strings.ContainsAny(target, " \r\n\t\x00") {
			return
		}
		r := &http.Request{Method: http.MethodPost, URL: u, Header: http.Header{HeaderSignature: {signature}}, Body: io.NopCloser(strings.NewReader(body))}
		w := httptest.NewRecorder()
		g.Callbacks().ServeHTTP(w, r)
		if w.Code == http.StatusOK || w.Code == http.StatusNotFound {
			t.Errorf("%d for what nobody signed", w.Code)
		}
	})
}

func FuzzReadEvent(f *testing.F) {
	for _, s := range []string{
		`{"event":"receipt","id":"1","to":"+447700900123","state":"delivered"}`,
		`{"event":"incoming","from":"+447700900123","to":"12345","text":"STOP"}`, `{"event":"receipt"}`, `[]`, `{}{}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := &heard{}
		store, err := readEvent("r", b)
		if err != nil {
			return
		}
		if err := store(t.Context(), h.handlers()); err != nil || len(h.receipts)+len(h.texts) != 1 {
			t.Errorf("%v", err)
		}
	})
}
