package sms

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"bluejay/wire"
)

// What a gateway calls, below [GatewayConfig.CallbackURL]:
//
//	…/receipt/TOKEN   what became of one text. The token was made for it: it holds the id and the
//	                  recipient, sealed, so that nobody can make one up and a log of URLs names nobody.
//	…/incoming/KEY    a text from a phone, for gateways that cannot sign; KEY is as secret as a password.
//	…/event           JSON with a signature over time and body.
const (
	pathReceipt  = "receipt"
	pathIncoming = "incoming"
	pathEvent    = "event"
)

// receiptLife is how long a receipt's address is good: longer than a job lives. [F-4]
const receiptLife = 48 * time.Hour

// Errors of callbacks.
var (
	errForged   = errors.New("sms: not signed with this route's secret, or too old")
	errCallback = errors.New("sms: malformed callback")
)

var b64url = base64.RawURLEncoding.Strict()

// gatewayID names one request to a gateway.
type gatewayID [16]byte

func newGatewayID() (id gatewayID) {
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

// String is the id as the journal has it.
func (id gatewayID) String() string { return b64url.EncodeToString(id[:]) }

// key derives a key of a route for one purpose.
func (g *Gateway) key(label string) []byte {
	m := hmac.New(sha256.New, g.cfg.Secret)
	m.Write(wire.LP("bj1 sms callback", []byte(label), []byte(g.cfg.Name)))
	return m.Sum(nil)
}

// callback is the address for the receipts of one text; "" when none are asked for.
func (g *Gateway) callback(id gatewayID, m Message) string {
	if g.cfg.CallbackURL == "" {
		return ""
	}
	bcd := m.To.BCD()
	plain := append(append([]byte{}, id[:]...), bcd[:]...)
	plain = binary.BigEndian.AppendUint32(plain, wire.Unix32(time.Now().Add(receiptLife)))
	a, _ := chacha20poly1305.NewX(g.key(pathReceipt)) // fails for another key length only
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return strings.TrimSuffix(g.cfg.CallbackURL, "/") + "/" + pathReceipt + "/" + b64url.EncodeToString(a.Seal(nonce, nonce, plain, nil))
}

// openToken reads what callback sealed.
func (g *Gateway) openToken(token string) (id string, to wire.Number, err error) {
	a, _ := chacha20poly1305.NewX(g.key(pathReceipt))
	raw, err := b64url.DecodeString(token)
	if err != nil || len(raw) != chacha20poly1305.NonceSizeX+16+8+4+chacha20poly1305.Overhead {
		return "", to, errForged
	}
	plain, err := a.Open(nil, raw[:chacha20poly1305.NonceSizeX], raw[chacha20poly1305.NonceSizeX:], nil)
	if err != nil || time.Now().After(wire.Time32(binary.BigEndian.Uint32(plain[24:]))) {
		return "", to, errForged
	}
	to, err = wire.NumberFromBCD([8]byte(plain[16:24]))
	return gatewayID(plain).String(), to, err
}

// IncomingURL is where a gateway that cannot sign hands on texts from phones; "" without callbacks. It
// is a secret.
func (g *Gateway) IncomingURL() string {
	if g.cfg.CallbackURL == "" {
		return ""
	}
	return strings.TrimSuffix(g.cfg.CallbackURL, "/") + "/" + pathIncoming + "/" + b64url.EncodeToString(g.key(pathIncoming))
}

// HeaderSignature signs an event: "t=UNIX,v1=HEX" with HMAC-SHA256(secret, "UNIX." ‖ body).
const HeaderSignature = "Bluejay-Signature"

// maxAge is how far an event's time may be off, either way.
const maxAge = 5 * time.Minute

// SignEvent is the signature of an event's body at a time.
func SignEvent(secret, body []byte, at time.Time) string {
	t := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(t + "."))
	m.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// verifyEvent checks a signature. An event repeated within maxAge is taken again: receipts and
// keywords do nothing the second time.
func verifyEvent(secret, body []byte, signature string, now time.Time) error {
	t, _, _ := strings.Cut(strings.TrimPrefix(signature, "t="), ",")
	unix, err := strconv.ParseInt(t, 10, 64)
	if err != nil || now.Sub(time.Unix(unix, 0)).Abs() > maxAge {
		return errForged
	}
	if !hmac.Equal([]byte(SignEvent(secret, body, time.Unix(unix, 0))), []byte(signature)) {
		return errForged
	}
	return nil
}

// Callbacks serves what the gateway calls; mount it at the path of CallbackURL. Refusals: 403 for what
// is not authentic, 400 for what cannot be read, 413, and 503 for what could not be stored, which the
// gateway is to repeat. A body in an answer could be sent to the phone, so there is none.
func (g *Gateway) Callbacks() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(g.called(w, r))
	})
}

func (g *Gateway) called(w http.ResponseWriter, r *http.Request) (status int) {
	if g.cfg.CallbackURL == "" || r.Method != http.MethodGet && r.Method != http.MethodPost {
		return http.StatusNotFound
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallback))
	if err != nil {
		return http.StatusRequestEntityTooLarge
	}
	store, err := g.read(r, body)
	switch {
	case errors.Is(err, errForged):
		return http.StatusForbidden
	case err != nil:
		return http.StatusBadRequest
	}
	h := g.inbox.Load()
	if h == nil {
		return http.StatusServiceUnavailable
	}
	switch err := store(r.Context(), *h); {
	case errors.Is(err, errNobody):
		return http.StatusNotFound
	case err != nil:
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// read finds out what a callback is about, once it is authentic.
func (g *Gateway) read(r *http.Request, body []byte) (func(context.Context, Handlers) error, error) {
	before, last := cutLast(strings.TrimSuffix(r.URL.Path, "/"))
	_, kind := cutLast(before)
	switch {
	case last == pathEvent:
		if err := verifyEvent(g.cfg.Secret, body, r.Header.Get(HeaderSignature), time.Now()); err != nil {
			return nil, err
		}
		return readEvent(g.cfg.Name, body)
	case kind == pathReceipt:
		id, to, err := g.openToken(last)
		if err != nil {
			return nil, err
		}
		state, err := g.dialect.receipt(r.URL.Query(), body)
		if err != nil {
			return nil, err
		}
		return storeReceipt(Receipt{Route: g.cfg.Name, ID: id, To: to, State: state}), nil
	case kind == pathIncoming:
		if !hmac.Equal([]byte(last), []byte(b64url.EncodeToString(g.key(pathIncoming)))) {
			return nil, errForged
		}
		m, err := g.dialect.incoming(r.URL.Query(), body)
		m.Route = g.cfg.Name
		return storeIncoming(m), err
	}
	return nil, errForged
}

func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

func storeReceipt(r Receipt) func(context.Context, Handlers) error {
	return func(ctx context.Context, h Handlers) error {
		if h.Receipt == nil {
			return errNobody
		}
		return h.Receipt(ctx, r)
	}
}

func storeIncoming(m Incoming) func(context.Context, Handlers) error {
	return func(ctx context.Context, h Handlers) error {
		if h.Incoming == nil {
			return errNobody
		}
		return h.Incoming(ctx, m)
	}
}

// urlOf reads an http or https URL.
func urlOf(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errGateway
	}
	return u, nil
}

// hideURL takes the URL out of an error of net/http: it can hold a number or a password.
func hideURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w", u.Op, u.Err)
	}
	return err
}
