package sms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/template"
	"time"

	"bluejay/wire"
)

// WebConfig configures a gateway of which nothing is known but its documentation.
type WebConfig struct {
	GatewayConfig
	Method  string            // "": POST
	Headers map[string]string // such as Authorization and Content-Type; values are templates
	// Body is a text/template over [WebMessage]; "": the message as JSON. In JSON, write {{json .Text}}.
	Body     string
	IDField  string // of the JSON answer, such as messages.0.id; "": the id is ours, sent as .ID
	CheckURL string // something to GET that sends nothing; "": only a connection is tried

	// What a status means. Empty: 200 to 299 accepted, 429 throttled, 503 retry, 401 and 403 refused,
	// other 4xx permanent. Everything else does not say whether the text was taken.
	Accepted, Retry, Throttled []int
}

// WebMessage is what a template sees.
type WebMessage struct {
	To       string    `json:"to"`   // +44…
	From     string    `json:"from"` // as recipients see it
	Text     string    `json:"text"`
	ID       string    `json:"id"`
	Parts    int       `json:"parts"`
	Until    time.Time `json:"valid_until,omitzero"`
	Minutes  int       `json:"-"` // validity
	Class    string    `json:"class"`
	Callback string    `json:"callback,omitempty"`
}

var webFuncs = template.FuncMap{
	"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	"form": url.QueryEscape,
}

// NewWeb returns a transport to such a gateway. Receipts come to the message's callback address with
// ?state=delivered or the like, or as signed events; see [RemoteEvent].
func NewWeb(c WebConfig) (*Gateway, error) {
	w := &web{cfg: c, headers: map[string]*template.Template{}}
	var err error
	if w.url, err = webTemplate(c.URL); err != nil {
		return nil, err
	}
	if w.body, err = webTemplate(orDefault(c.Body, "{{json .}}")); err != nil {
		return nil, err
	}
	for _, k := range slices.Sorted(maps.Keys(c.Headers)) {
		if w.headers[k], err = webTemplate(c.Headers[k]); err != nil {
			return nil, err
		}
	}
	return newGateway(c.GatewayConfig, w)
}

func webTemplate(s string) (*template.Template, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(webFuncs).Parse(s)
	if err == nil {
		err = t.Execute(&bytes.Buffer{}, WebMessage{})
	}
	if err != nil {
		return nil, fmt.Errorf("sms: gateway template: %w", err)
	}
	return t, nil
}

type web struct {
	cfg       WebConfig
	url, body *template.Template
	headers   map[string]*template.Template
}

func (w *web) request(ctx context.Context, m Message, parts int, id, callback string) (*http.Request, error) {
	v := WebMessage{
		To: m.To.E164(), From: m.From.addr, Text: m.Text, ID: id, Parts: parts, Until: m.ValidUntil,
		Class: m.Class.String(), Callback: callback,
	}
	if !m.ValidUntil.IsZero() {
		v.Minutes = max(int(time.Until(m.ValidUntil)/time.Minute), 1)
	}
	var to, body bytes.Buffer
	if err := errors.Join(w.url.Execute(&to, v), w.body.Execute(&body, v)); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, orDefault(w.cfg.Method, http.MethodPost), to.String(), &body)
	if err != nil {
		return nil, err
	}
	req.GetBody = nil // so that nothing repeats it
	req.Header.Set("Content-Type", "application/json")
	for k, t := range w.headers {
		var value bytes.Buffer
		if err := t.Execute(&value, v); err != nil {
			return nil, err
		}
		req.Header.Set(k, value.String())
	}
	return req, nil
}

func (w *web) judge(status int, body []byte) (Answer, bool) {
	in := func(list []int, otherwise bool) bool {
		return slices.Contains(list, status) || len(list) == 0 && otherwise
	}
	switch {
	case in(w.cfg.Throttled, status == http.StatusTooManyRequests):
		return Answer{Class: Throttled}, true
	case in(w.cfg.Retry, status == http.StatusServiceUnavailable):
		return Answer{Class: Retry}, true
	case in(w.cfg.Accepted, status >= 200 && status < 300):
		return Answer{ID: jsonField(body, w.cfg.IDField)}, true
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return Answer{Class: Refused}, true
	case status >= 400 && status < 500:
		return Answer{Class: Permanent}, true
	}
	return Answer{}, false
}

// jsonField follows a path like messages.0.id; "" when there is nothing of at most 64 bytes.
func jsonField(body []byte, path string) string {
	var v any
	if path == "" || json.Unmarshal(body, &v) != nil {
		return ""
	}
	for _, step := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i < 0 || i >= len(at) {
				return ""
			}
			v = at[i]
		default:
			return ""
		}
	}
	id, _ := v.(string)
	if n, ok := v.(float64); ok && n == float64(int64(n)) {
		id = fmt.Sprint(int64(n))
	}
	if len(id) > maxID {
		return ""
	}
	return id
}

func (w *web) check(ctx context.Context) (*http.Request, error) {
	method, to := http.MethodGet, w.cfg.CheckURL
	if to == "" {
		u, err := urlOf(w.cfg.URL)
		if err != nil {
			return nil, err
		}
		method, to = http.MethodOptions, u.Scheme+"://"+u.Host+"/"
	}
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return nil, err
	}
	for k, t := range w.headers {
		var value bytes.Buffer
		if err := t.Execute(&value, WebMessage{}); err != nil {
			return nil, err
		}
		req.Header.Set(k, value.String())
	}
	return req, nil
}

func (w *web) checked(status int, _ []byte) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("the gateway answers %d: check the credentials in the headers", status)
	case w.cfg.CheckURL != "" && status >= 300 || status >= 500:
		return fmt.Errorf("the gateway answers %d: check its URL", status)
	}
	return nil
}

// receipt reads ?state=… of the callback address.
func (w *web) receipt(q url.Values, _ []byte) (wire.JobState, error) {
	state, ok := receiptStates[q.Get("state")]
	if !ok {
		return 0, errCallback
	}
	return state, nil
}

func (w *web) incoming(q url.Values, _ []byte) (Incoming, error) {
	return incomingOf(q.Get("from"), q.Get("to"), q.Get("text"))
}
