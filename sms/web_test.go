package sms

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bluejay/wire"
)

// webAt is a generic gateway at a server of the test.
func webAt(t *testing.T, c WebConfig, handler http.HandlerFunc) *Gateway {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	c.Name, c.URL = "web", srv.URL+c.URL
	if c.CheckURL != "" {
		c.CheckURL = srv.URL + c.CheckURL
	}
	g, err := NewWeb(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestWebRequest: the request is what the templates say, whatever is in the text.
func TestWebRequest(t *testing.T) {
	var method, path, auth, kind, body string
	answer := `{"messages":[{"id":"abc-1"},{"id":7}]}`
	keep := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		method, path, auth, kind, body = r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(b)
		_, _ = io.WriteString(w, answer)
	}
	m := testMessage(t, "a \"quote\" & a\nline")
	m.ValidUntil, m.Class = time.Now().Add(10*time.Minute+30*time.Second), wire.ClassUrgent // whole minutes are said

	g := webAt(t, WebConfig{Headers: map[string]string{"Authorization": "Bearer token"}, IDField: "messages.0.id"}, keep)
	r := g.Submit(t.Context(), m)
	var sent WebMessage
	if err := json.Unmarshal([]byte(body), &sent); err != nil {
		t.Fatal(err)
	}
	if len(r.IDs) != 1 || r.IDs[0] != "abc-1" || !r.Whole || method != "POST" || auth != "Bearer token" || kind != "application/json" {
		t.Errorf("%+v: %s %q %q", r, method, auth, kind)
	}
	if sent.To != m.To.E164() || sent.From != "Bluejay" || sent.Text != m.Text || sent.Parts != 1 || sent.Class != "urgent" || sent.ID == "" {
		t.Errorf("%s", body)
	}

	form := webAt(t, WebConfig{
		Method: "PUT", GatewayConfig: GatewayConfig{URL: "/send?to={{form .To}}&min={{.Minutes}}"}, Body: "text={{form .Text}}&ref={{.ID}}",
		Headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, IDField: "messages.1.id",
	}, keep)
	r = form.Submit(t.Context(), m)
	if r.IDs[0] != "7" || method != "PUT" || path != "/send?to=%2B447700900123&min=10" || !strings.HasPrefix(body, "text=a+%22quote%22+%26+a%0Aline&ref=") {
		t.Errorf("%+v: %s %s %q", r, method, path, body)
	}
	for _, other := range []string{"", "[]", "not json", `{"messages":[]}`, `{"messages":[{"id":{}}]}`, `{"messages":[{"id":"` + strings.Repeat("x", 65) + `"}]}`} {
		answer = other
		if r := g.Submit(t.Context(), m); r.Outcome != Answered || len(r.IDs) != 1 || len(r.IDs[0]) != 22 {
			t.Errorf("%.20q: without an id of the gateway's, ours: %+v", other, r)
		}
	}
}

// TestWebAnswers: the lists of an operator come before what a status usually means. [F-11]
func TestWebAnswers(t *testing.T) {
	status := 0
	answer := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	plain := webAt(t, WebConfig{}, answer)
	own := webAt(t, WebConfig{Accepted: []int{207}, Retry: []int{400, 500}}, answer)
	for _, tt := range []struct {
		g       *Gateway
		status  int
		outcome Outcome
		class   Class
	}{
		{plain, 200, Answered, Accepted}, {plain, 201, Answered, Accepted}, {plain, 400, Answered, Permanent}, {plain, 401, Answered, Refused},
		{plain, 404, Answered, Permanent}, {plain, 500, Unknown, Accepted}, {plain, 503, Answered, Retry}, {plain, 301, Unknown, Accepted},
		{own, 207, Answered, Accepted}, {own, 200, Unknown, Accepted}, {own, 400, Answered, Retry}, {own, 500, Answered, Retry}, {own, 503, Unknown, Accepted},
	} {
		status = tt.status
		if r := tt.g.Submit(t.Context(), testMessage(t, "x")); r.Outcome != tt.outcome || r.Class != tt.class {
			t.Errorf("%d: %+v", tt.status, r)
		}
		if tt.g.Linked() != (tt.class != Refused) {
			t.Errorf("%d: linked: %v", tt.status, tt.g.Linked())
		}
	}
}

// TestWebTooLate: what stood still until its time was over is not asked for. [F-11]
func TestWebTooLate(t *testing.T) {
	asked := false
	g := webAt(t, WebConfig{}, func(http.ResponseWriter, *http.Request) { asked = true })
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if r := g.Submit(stoodStill{late}, testMessage(t, "x")); r.Outcome != NotSent || !errors.Is(r.Err, ErrNoLink) || asked {
		t.Errorf("%+v, asked: %v", r, asked)
	}
}

// TestWebTemplates: a template that cannot work is refused at once, not at the first text.
func TestWebTemplates(t *testing.T) {
	for _, c := range []WebConfig{{Body: "{{.Nothing}}"}, {Body: "{{"}, {Headers: map[string]string{"X": "{{.Number}}"}}} {
		c.Name, c.GatewayConfig.URL = "web", "http://127.0.0.1:1"
		if _, err := NewWeb(c); err == nil {
			t.Errorf("%+v: accepted", c)
		}
	}
	bad := WebConfig{}
	bad.Name, bad.GatewayConfig.URL = "web", "http://127.0.0.1:1/{{.Nothing}}"
	if _, err := NewWeb(bad); err == nil {
		t.Error("a bad URL: accepted")
	}
}

// TestWebCheck: something that sends nothing, and what to do when it fails.
func TestWebCheck(t *testing.T) {
	status := 200
	var method, path string
	answer := func(w http.ResponseWriter, r *http.Request) {
		method, path = r.Method, r.URL.Path
		w.WriteHeader(status)
	}
	named := webAt(t, WebConfig{CheckURL: "/balance"}, answer)
	bare := webAt(t, WebConfig{}, answer)
	for _, tt := range []struct {
		g      *Gateway
		status int
		want   string // in the error; "": none
	}{{named, 200, ""}, {named, 401, "credentials"}, {named, 404, "URL"}, {named, 500, "URL"}, {bare, 405, ""}, {bare, 403, "credentials"}, {bare, 500, "URL"}} {
		status = tt.status
		err := tt.g.Check(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || method == "POST" {
			t.Errorf("%s %s %d: %v", method, path, tt.status, err)
		}
	}
}

// TestWebReceipt: the callback address takes a state by name.
func TestWebReceipt(t *testing.T) {
	g := webAt(t, WebConfig{GatewayConfig: GatewayConfig{CallbackURL: "http://127.0.0.1:1/sms/web", Secret: gatewaySecret}}, func(http.ResponseWriter, *http.Request) {})
	h := &heard{}
	running(t, g, h.handlers())
	listening(t, g)
	at := strings.TrimPrefix(g.callback(newGatewayID(), testMessage(t, "x")), "http://127.0.0.1:1")
	if code := call(g, "POST", at+"?state=expired", ""); code != 200 || h.receipts[0].State != wire.JobExpired {
		t.Errorf("%d", code)
	}
	if code := call(g, "POST", at+"?state=lost", ""); code != 400 {
		t.Errorf("an unknown state: %d", code)
	}
	in := strings.TrimPrefix(g.IncomingURL(), "http://127.0.0.1:1")
	if code := call(g, "GET", in+"?from=%2B447700900123&to=1&text=STOP", ""); code != 200 || h.texts[0].Text != "STOP" {
		t.Errorf("%d", code)
	}
}
