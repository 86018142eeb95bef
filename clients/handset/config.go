package handset

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"bluejay/wire"
)

// Pins are the public keys a handset trusts, built into the application. None of them is secret.
type Pins struct {
	Broker       string           // the broker's name, signed in CONNECT
	Root         wire.PublicKey   // signs worker keys
	Registrar    wire.PublicKey   // signs certificates
	VOPRF        []byte           // 32 bytes: proves that all numbers are evaluated under one key
	RegistrarBox []byte           // 1216 bytes, X-Wing: enrolment is sealed to it
	Receipt      []wire.PublicKey // sign receipts of consent
}

// pinsJSON is the file form: keys in base64url without padding.
type pinsJSON struct {
	Broker       string   `json:"broker"`
	Root         string   `json:"root"`
	Registrar    string   `json:"registrar"`
	VOPRF        string   `json:"voprf"`
	RegistrarBox string   `json:"registrar_box"`
	Receipt      []string `json:"receipt"`
}

var b64 = base64.RawURLEncoding.Strict()

// MarshalJSON writes the keys in base64url.
func (p Pins) MarshalJSON() ([]byte, error) {
	j := pinsJSON{
		Broker: p.Broker, Root: b64.EncodeToString(p.Root[:]), Registrar: b64.EncodeToString(p.Registrar[:]),
		VOPRF: b64.EncodeToString(p.VOPRF), RegistrarBox: b64.EncodeToString(p.RegistrarBox), Receipt: []string{},
	}
	for _, k := range p.Receipt {
		j.Receipt = append(j.Receipt, b64.EncodeToString(k[:]))
	}
	return json.Marshal(j)
}

// ErrPins reports pins that are incomplete or of the wrong length.
var ErrPins = errors.New("handset: the pinned keys are incomplete or malformed")

// UnmarshalJSON reads what MarshalJSON wrote, and refuses keys of another length.
func (p *Pins) UnmarshalJSON(b []byte) error {
	var j pinsJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("%w: %w", ErrPins, err)
	}
	q := Pins{
		Broker: j.Broker, Root: wire.PublicKey(pin(j.Root, 32)), Registrar: wire.PublicKey(pin(j.Registrar, 32)),
		VOPRF: pin(j.VOPRF, 32), RegistrarBox: pin(j.RegistrarBox, wire.XWingPublicLen),
	}
	for _, k := range j.Receipt {
		q.Receipt = append(q.Receipt, wire.PublicKey(pin(k, 32)))
	}
	if err := q.check(); err != nil {
		return err
	}
	*p = q
	return nil
}

// pin decodes a key of n bytes; anything else gives n zero bytes, which [Pins.check] refuses.
func pin(s string, n int) []byte {
	b, err := b64.DecodeString(s)
	if err != nil || len(b) != n {
		return make([]byte, n)
	}
	return b
}

// check refuses pins that lack a key: a zero key would accept nothing, and say so late.
func (p Pins) check() error {
	ok := p.Broker != "" && p.Root != wire.PublicKey{} && p.Registrar != wire.PublicKey{} &&
		len(p.VOPRF) == 32 && !zero(p.VOPRF) && len(p.RegistrarBox) == wire.XWingPublicLen && !zero(p.RegistrarBox) &&
		len(p.Receipt) > 0
	for _, k := range p.Receipt {
		ok = ok && k != wire.PublicKey{}
	}
	if !ok {
		return ErrPins
	}
	return nil
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// maxPinsFile bounds a pins file, in bytes.
const maxPinsFile = 64 << 10

// LoadPins reads a pins file.
func LoadPins(path string) (Pins, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Pins{}, fmt.Errorf("handset: pins: %w", err)
	}
	if info.Size() > maxPinsFile {
		return Pins{}, ErrPins
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Pins{}, fmt.Errorf("handset: pins: %w", err)
	}
	var p Pins
	return p, json.Unmarshal(b, &p)
}

// Config is what a handset is opened with. Dir, Pins and Addr are required; each zero value else
// means the default named.
type Config struct {
	Dir  string // the state directory; made if it is not there
	Pins Pins
	Addr string      // the broker, host:port
	TLS  *tls.Config // nil: no TLS, only to a loopback address

	// Dial opens the connection below TLS; nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	SIM      SIM           // nil: this device cannot send an SMS
	Policy   Policy        // what to do while a contact is grey
	Gateways []wire.Number // senders of gateway SMS, whose "From +44…:" line is believed

	// Notices are the application's own texts of what the user agrees to, by language ("en" is required); nil: this
	// package's. Each is at most 120 words. [U-1]
	Notices map[string]string

	HelloTimeout time.Duration // until a contact that does not answer is grey; zero: 10 s
	GreyAfter    time.Duration // without a connection of our own, until all contacts are grey; zero: 30 s
	KeepAlive    time.Duration // zero: 4 min
	MaxBackoff   time.Duration // between attempts to connect; zero: 2 min
	EventBuffer  int           // events kept while nobody reads; zero: 256

	// Moved accepts a state directory that is not where it was made: every conversation begins
	// anew, because a copy may have used its keys. [U-7]
	Moved bool

	Log *slog.Logger // nil: none. Neither numbers nor texts are logged
}

// ErrPlain reports a configuration without TLS to an address that is not loopback.
var ErrPlain = errors.New("handset: without TLS only a loopback address is allowed")

// withDefaults checks c and fills in what is zero.
func (c Config) withDefaults() (Config, error) {
	if err := c.Pins.check(); err != nil {
		return c, err
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return c, fmt.Errorf("handset: broker address: %w", err)
	}
	if c.TLS == nil && !loopback(host) {
		return c, ErrPlain
	}
	c.HelloTimeout = orDefault(c.HelloTimeout, 10*time.Second)
	c.GreyAfter = orDefault(c.GreyAfter, 30*time.Second)
	c.KeepAlive = orDefault(c.KeepAlive, 4*time.Minute)
	c.MaxBackoff = orDefault(c.MaxBackoff, 2*time.Minute)
	c.Policy.JobLife = min(orDefault(c.Policy.JobLife, 12*time.Hour), 24*time.Hour)
	c.EventBuffer = orDefault(c.EventBuffer, 256)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}
