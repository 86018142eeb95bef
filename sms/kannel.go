package sms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"bluejay/wire"
)

// KannelConfig configures Kannel's sendsms service, which many gateways speak (Kannel user's guide,
// "HTTP interface to smsbox"). The URL is like http://127.0.0.1:13013/cgi-bin/sendsms.
type KannelConfig struct {
	GatewayConfig
	Username, Password string
	SMSC               string // forces one of its SMSCs; "": as its own routing says
}

// NewKannel returns a transport that speaks to Kannel. For texts from phones, its sms-service posts to
// [Gateway.IncomingURL], with "?from=%p&to=%P&text=%a&charset=UTF-8" and max-messages = 0.
func NewKannel(c KannelConfig) (*Gateway, error) {
	if c.Username == "" || c.Password == "" {
		return nil, errors.New("sms: Kannel needs the user name and password of a sendsms-user")
	}
	return newGateway(c.GatewayConfig, kannel{url: c.URL, username: c.Username, password: c.Password, smsc: c.SMSC})
}

type kannel struct{ url, username, password, smsc string }

// dlrMask asks for delivered 1, failed 2 and rejected by the SMSC 16.
const dlrMask = 1 | 2 | 16

func (k kannel) request(ctx context.Context, m Message, _ int, _, callback string) (*http.Request, error) {
	q := k.login()
	q.Set("from", m.From.addr)
	q.Set("to", m.To.E164())
	q.Set("text", m.Text)
	q.Set("charset", "UTF-8")
	q.Set("coding", "0")
	if _, gsm := wire.GSMSeptets(m.Text); !gsm || m.Charset == CharsetUCS2 {
		q.Set("coding", "2")
	}
	if !m.ValidUntil.IsZero() {
		q.Set("validity", strconv.Itoa(max(int(time.Until(m.ValidUntil)/time.Minute), 1)))
	}
	if k.smsc != "" {
		q.Set("smsc", k.smsc)
	}
	if callback != "" {
		q.Set("dlr-mask", strconv.Itoa(dlrMask))
		q.Set("dlr-url", callback+"?type=%d") // Kannel puts the kind of report for %d
	}
	return k.get(ctx, q)
}

func (k kannel) login() url.Values {
	return url.Values{"username": {k.username}, "password": {k.password}}
}

func (k kannel) get(ctx context.Context, q url.Values) (*http.Request, error) {
	u, err := urlOf(k.url)
	if err != nil {
		return nil, err
	}
	u.RawQuery = q.Encode()
	return http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
}

// judge goes by the status; of 202, by "0: Accepted for delivery" and "3: Queued for later delivery".
func (k kannel) judge(status int, body []byte) (Answer, bool) {
	switch {
	case status == http.StatusAccepted && (strings.HasPrefix(string(body), "0:") || strings.HasPrefix(string(body), "3:")):
		return Answer{}, true
	case status == http.StatusServiceUnavailable: // "Temporal failure, try again later."
		return Answer{Class: Retry}, true
	case status == http.StatusTooManyRequests:
		return Answer{Class: Throttled}, true
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return Answer{Class: Refused}, true
	case status >= 400 && status < 500:
		return Answer{Class: Permanent}, true
	}
	return Answer{}, false
}

// check asks for a text without a recipient: Kannel looks at the password first.
func (k kannel) check(ctx context.Context) (*http.Request, error) { return k.get(ctx, k.login()) }

func (k kannel) checked(status int, body []byte) error {
	switch {
	case status == http.StatusForbidden || status == http.StatusUnauthorized || strings.Contains(string(body), "Authorization failed"):
		return errors.New("refused: Kannel does not take the user name or the password: check the sendsms-user in its configuration, and user-allow-ip")
	case status == http.StatusNotFound:
		return errors.New("nothing at this URL: check the port of sendsms, and the path /cgi-bin/sendsms")
	case status >= 500:
		return fmt.Errorf("status %d from Kannel: is its bearerbox up?", status)
	}
	return nil
}

// receipt reads Kannel's kind of report. Buffered and accepted are not final.
func (k kannel) receipt(q url.Values, _ []byte) (wire.JobState, error) {
	switch q.Get("type") {
	case "1":
		return wire.JobDelivered, nil
	case "2":
		return wire.JobUndeliverable, nil
	case "16":
		return wire.JobRejected, nil
	case "4", "8":
		return wire.JobSubmitted, nil
	}
	return 0, errCallback
}

func (k kannel) incoming(q url.Values, _ []byte) (Incoming, error) {
	return incomingOf("+"+strings.TrimPrefix(strings.TrimSpace(q.Get("from")), "+"), q.Get("to"), q.Get("text"))
}
