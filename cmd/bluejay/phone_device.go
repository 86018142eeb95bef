package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// phoneDevice is what the terminal phone uses of a [handset.Handset].
type phoneDevice interface {
	Notice(lang string) handset.Notice
	Status() handset.Status
	Contacts() []handset.Contact
	Texts(handset.ContactID) []handset.Text
	Proofs() []handset.Proof
	SafetyNumber(handset.ContactID) (string, error)

	Enrol(context.Context, wire.Number, handset.Notice) error
	Confirm(ctx context.Context, otp string) error
	Accept(handset.Notice) error
	OptIn(context.Context, wire.Scope, wire.Visibility) error
	OptOut(context.Context) error
	Connect(context.Context) error

	AddContact(ctx context.Context, name string, n wire.Number) (handset.ContactID, error)
	AddDialled(name, dialled string) (handset.ContactID, error)
	OpenConversation(handset.ContactID) error
	Send(ctx context.Context, c handset.ContactID, text string) (handset.TextID, error)
	SendAgain(context.Context, handset.TextID, fallback.Path) error
	Cancel(context.Context, handset.TextID) error
	AcceptChange(handset.ContactID) error
	Block(handset.ContactID) error
	Unblock(handset.ContactID) error
	SetMode(handset.ContactID, fallback.Mode) error
	SetVisibleTo(handset.VisibleTo) error
	DeleteText(handset.TextID) error
	DeleteConversation(handset.ContactID) error
	Export(io.Writer) error
	WriteReceipt(io.Writer) error
}

var _ phoneDevice = (*handset.Handset)(nil)

// simulatedSMS is what the phone would have given to its SIM.
type simulatedSMS struct {
	to    string
	parts int
}

// terminalSIM stands for the SIM that a terminal does not have: it sends nothing, takes every text,
// and says so. What nobody reads is dropped, since the conversation shows it too.
type terminalSIM chan simulatedSMS

// SendSMS implements [handset.SIM].
func (s terminalSIM) SendSMS(_ context.Context, to handset.Dialled, text string) error {
	parts, _ := wire.SMSParts(text)
	select {
	case s <- simulatedSMS{string(to), parts}:
	default:
	}
	return nil
}

// String is the sentence that marks a simulated SMS wherever it is shown.
func (s simulatedSMS) String() string {
	return fmt.Sprintf("simulated: this phone would now send an SMS to %s (%s); nothing was sent", s.to, plural(s.parts, "part"))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// phoneSettings is what the phone remembers beside the handset's own state, in phone.json: it is
// shown, and decides nothing.
type phoneSettings struct {
	Name    string            `json:"name,omitempty"`
	Lang    string            `json:"lang,omitempty"` // of the notice that was accepted
	Visible handset.VisibleTo `json:"visible,omitempty"`
}

const phoneSettingsFile = "phone.json"

func loadPhoneSettings(dir string) (s phoneSettings, err error) {
	b, err := os.ReadFile(filepath.Join(dir, phoneSettingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil && s.Visible > handset.Nobody {
		err = errors.New("visible is 0, 1 or 2")
	}
	if err != nil {
		return phoneSettings{}, fmt.Errorf("phone settings: %w (delete the file to begin with defaults)", err)
	}
	return s, nil
}

func savePhoneSettings(dir string, s phoneSettings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, phoneSettingsFile)
	if err := os.WriteFile(name+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// exportTo writes the user's data to a new file that only the user can read. [U-12]
func exportTo(dev phoneDevice, path string) error { return saveTo(path, dev.Export) }

// saveTo makes a new file that only the user can read; nothing is left of it if write fails.
func saveTo(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// phoneNode is where the node is and what to trust of it.
type phoneNode struct {
	dir, pins, addr, ca string
}

func (n *phoneNode) flags(f *pflag.FlagSet) {
	f.StringVar(&n.dir, "node", "", "a node's directory: its pins.json and addr are read")
	f.StringVar(&n.pins, "pins", "", "the node's public keys, instead of --node")
	f.StringVar(&n.addr, "addr", "", "the node's address, host:port, instead of --node")
	f.StringVar(&n.ca, "ca", "", "trust this certificate authority (PEM) for TLS; else the system's, and none on loopback")
}

// config reads the node's public files.
func (n phoneNode) config() (c handset.Config, err error) {
	if n.dir != "" {
		n.pins = orElse(n.pins, filepath.Join(n.dir, filePins))
		if n.addr == "" {
			b, err := os.ReadFile(filepath.Join(n.dir, "addr"))
			if err != nil {
				return c, fmt.Errorf("the node's address: %w (is `bluejay serve --dir %s` running?)", err, n.dir)
			}
			n.addr = strings.TrimSpace(string(b))
		}
	}
	if n.pins == "" || n.addr == "" {
		return c, errors.New("say which node: --node DIR, or --pins FILE with --addr HOST:PORT")
	}
	if c.Pins, err = handset.LoadPins(n.pins); err != nil {
		return c, err
	}
	c.Addr = n.addr
	c.TLS, err = n.tls()
	return c, err
}

// tls is nil for a loopback address without --ca: only there may a phone do without.
func (n phoneNode) tls() (*tls.Config, error) {
	if n.ca == "" {
		host, _, err := net.SplitHostPort(n.addr)
		ip := net.ParseIP(host)
		if err == nil && (host == "localhost" || ip != nil && ip.IsLoopback()) {
			return nil, nil
		}
		return &tls.Config{MinVersion: tls.VersionTLS13}, err
	}
	pem, err := os.ReadFile(n.ca)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: %s holds no PEM certificate", n.ca)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
