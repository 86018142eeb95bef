package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"bluejay/bridge"
	"bluejay/wire"
)

// duration is a time.Duration in the configuration file, a flag or the environment: "20s".
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(b []byte) error { return d.Set(string(b)) }

// Set implements pflag.Value; durations are not negative.
func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration like 20s or 5m", s)
	}
	*d = duration(v)
	return nil
}

// String implements pflag.Value.
func (d *duration) String() string { return time.Duration(*d).String() }

// Type implements pflag.Value.
func (d *duration) Type() string { return "duration" }

// nodeConfig is everything `bluejay serve` can be told: the same names in the file (TOML), as flags
// and in the environment (BLUEJAY_LISTEN for listen). A flag wins over the environment, the
// environment over the file.
type nodeConfig struct {
	Dir      string   `toml:"dir"`
	Name     string   `toml:"name"`
	Listen   string   `toml:"listen"`
	HTTP     string   `toml:"http"`
	TLSCert  string   `toml:"tls-cert"`
	TLSKey   string   `toml:"tls-key"`
	MaxConns int      `toml:"max-connections"`
	Notices  string   `toml:"notices"`
	MinVer   int      `toml:"min-version"`
	Roles    []string `toml:"roles"`
	Keys     string   `toml:"keys"`

	NATS       string `toml:"nats"`
	NATSListen string `toml:"nats-listen"`
	NATSCreds  string `toml:"nats-creds"`
	NATSCA     string `toml:"nats-ca"`

	SMS        string `toml:"sms"`
	SMSFrom    string `toml:"sms-from"`
	Unchecked  bool   `toml:"sms-allow-unchecked"`
	SMSRoutes  string `toml:"sms-routes"`
	WorkerHTTP string `toml:"worker-http"`

	RegistrarHTTP string `toml:"registrar-http"`

	Deadline duration `toml:"deadline"`
	GreyMin  duration `toml:"grey-min"`
	GreyMax  duration `toml:"grey-max"`

	Recipients int `toml:"quota-recipients"`
	Hellos     int `toml:"quota-hellos"`
	PairHellos int `toml:"quota-pair-hellos"`
	Bundles    int `toml:"quota-bundles"`

	OneProcess bool   `toml:"one-process"`
	Log        string `toml:"log"`
	JSON       bool   `toml:"json"`
}

func defaultConfig() nodeConfig {
	return nodeConfig{
		Dir: "bluejay-node", Name: "bluejay", Listen: "127.0.0.1:1883", HTTP: "127.0.0.1:8080",
		MaxConns: 10_000, MinVer: 1, NATSListen: "127.0.0.1:0", SMS: "console", SMSFrom: "Bluejay",
		Deadline: duration(8 * time.Second), GreyMin: duration(20 * time.Second), GreyMax: duration(40 * time.Second),
		Log: "info",
	}
}

func (c *nodeConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.Dir, "dir", c.Dir, "where the node keeps its keys, its NATS store and its address; made if missing")
	f.StringVar(&c.Name, "name", c.Name, "the broker's name, pinned by handsets; used when the keys are made")
	f.StringVar(&c.Listen, "listen", c.Listen, "MQTT address; anything but loopback needs a TLS certificate")
	f.StringVar(&c.HTTP, "http", c.HTTP, `address of /livez, /readyz and /metrics; "" for none`)
	f.StringVar(&c.WorkerHTTP, "worker-http", c.WorkerHTTP, `the same of the SMS worker; "" for none`)
	f.StringVar(&c.RegistrarHTTP, "registrar-http", c.RegistrarHTTP, `the same of the registrar; "" for none`)
	f.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "TLS 1.3 certificate (PEM)")
	f.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "its private key (PEM)")
	f.IntVar(&c.MaxConns, "max-connections", c.MaxConns, "how many handsets may be connected")
	f.StringVar(&c.Notices, "notices", c.Notices, "folder of the notices that users may agree to (*.txt, read every five seconds): whoever agreed to another is suspended; empty: those of this version")
	f.IntVar(&c.MinVer, "min-version", c.MinVer, "the oldest protocol version that a handset may be made for")
	f.StringSliceVar(&c.Roles, "roles", c.Roles, "broker, registrar, worker: which parts this command runs; empty is all, each in a process of its own")
	f.StringVar(&c.Keys, "keys", c.Keys, "key folder of a single role; empty is DIR/keys/ROLE")
	f.StringVar(&c.NATS, "nats", c.NATS, "URL of a NATS server with JetStream; empty embeds one")
	f.StringVar(&c.NATSListen, "nats-listen", c.NATSListen, "where the embedded NATS server listens")
	f.StringVar(&c.NATSCreds, "nats-creds", c.NATSCreds, "NATS credentials file; empty is the role's password")
	f.StringVar(&c.NATSCA, "nats-ca", c.NATSCA, "PEM of the CA of the NATS server's certificate; empty: the system's")
	f.StringVar(&c.SMS, "sms", c.SMS, "the way out: console (prints, sends nothing), smpp://USER@HOST:PORT or smpps://… (password in BLUEJAY_SMS_PASSWORD)")
	f.StringVar(&c.SMSFrom, "sms-from", c.SMSFrom, "sender of fallback SMS: +number, short code or up to 11 letters")
	f.BoolVar(&c.Unchecked, "sms-allow-unchecked", c.Unchecked, "send texts whose claimed sender is not confirmed, without the claim")
	f.StringVar(&c.SMSRoutes, "sms-routes", c.SMSRoutes, "TOML file with every way out, its countries and limits; replaces --sms (see docs/configuration.md)")
	f.Var(&c.Deadline, "deadline", "how long a text may wait for its recipient's acknowledgement")
	f.Var(&c.GreyMin, "grey-min", "shortest delay before somebody who left shows grey")
	f.Var(&c.GreyMax, "grey-max", "longest such delay")
	f.IntVar(&c.Recipients, "quota-recipients", c.Recipients, "new recipients of one sender a day; 0 is 20")
	f.IntVar(&c.Hellos, "quota-hellos", c.Hellos, "hellos to one recipient an hour; 0 is 30")
	f.IntVar(&c.PairHellos, "quota-pair-hellos", c.PairHellos, "of them from one sender; 0 is 4")
	f.IntVar(&c.Bundles, "quota-bundles", c.Bundles, "key bundles that one device fetches a day; 0 is 60")
	f.BoolVar(&c.OneProcess, "one-process", c.OneProcess, "debugging only: all keys in one process")
	f.StringVar(&c.Log, "log", c.Log, "debug, info, warn or error")
	f.BoolVar(&c.JSON, "json", c.JSON, "print events as JSON, one object a line")
}

// load layers file, environment and flags over the defaults already in c.
func (c *nodeConfig) load(file string, flags *pflag.FlagSet) error {
	given := map[string]string{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = value(f) })
	if file != "" {
		if err := readTOML(file, c); err != nil {
			return err
		}
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		v, ok := given[f.Name]
		if !ok {
			v, ok = os.LookupEnv(envName(f.Name))
		}
		if ok && f.Name != "config" && f.Name != "help" {
			if err := set(f, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f.Name, err))
			}
		}
	})
	return errors.Join(append(errs, c.check())...)
}

// value is what set takes: a list without the brackets that it prints itself with.
func value(f *pflag.Flag) string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return strings.Join(list.GetSlice(), ",")
	}
	return f.Value.String()
}

// set replaces a flag's value; a list is replaced, not appended to.
func set(f *pflag.Flag, v string) error {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		if v == "" {
			return list.Replace(nil)
		}
		return list.Replace(strings.Split(v, ","))
	}
	return f.Value.Set(v)
}

func envName(flag string) string {
	return "BLUEJAY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readTOML reads a TOML file; an unknown key is an error that names its line.
func readTOML(file string, c any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return decodeTOML(file, b, c)
}

// decodeTOML reads TOML that is called file.
func decodeTOML(file string, b []byte, c any) error {
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	err := d.Decode(c)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var at []string
		for _, e := range unknown.Errors {
			row, _ := e.Position()
			at = append(at, fmt.Sprintf("line %d: unknown key %q", row, strings.Join(e.Key(), ".")))
		}
		return fmt.Errorf("%s: %s (see docs/configuration.md for the keys)", file, strings.Join(at, "; "))
	case errors.As(err, &bad):
		row, _ := bad.Position()
		return fmt.Errorf("%s: line %d: %s", file, row, bad.Error())
	}
	return err
}

func (c *nodeConfig) check() error {
	for _, r := range c.Roles {
		if !slices.Contains(bridge.Roles(), bridge.Role(r)) {
			return fmt.Errorf("roles: %q is none of broker, registrar, worker", r)
		}
	}
	for name, d := range map[string]duration{"deadline": c.Deadline, "grey-min": c.GreyMin, "grey-max": c.GreyMax} {
		if d > 0 && d < duration(time.Millisecond) { // the file's decoder takes a bare number for nanoseconds
			return fmt.Errorf("%s: %s is below a millisecond; give a unit, like 20s", name, &d)
		}
	}
	var level slog.Level
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("tls-cert and tls-key go together")
	case c.GreyMax < c.GreyMin:
		return errors.New("grey-max is below grey-min")
	case c.MinVer < 1 || c.MinVer > wire.Version:
		return fmt.Errorf("min-version is 1 to %d, which is what this node knows", wire.Version)
	case min(c.Recipients, c.Hellos, c.PairHellos, c.Bundles) < 0:
		return errors.New("quota-…: a quota is above 0, or 0 for its default")
	case c.Deadline == 0:
		return errors.New("deadline must be above 0")
	case level.UnmarshalText([]byte(c.Log)) != nil:
		return fmt.Errorf("log: %q is none of debug, info, warn, error", c.Log)
	}
	return nil
}

// roles returns what to run.
func (c *nodeConfig) roles() []bridge.Role {
	if len(c.Roles) == 0 {
		return bridge.Roles()
	}
	var rs []bridge.Role
	for _, r := range bridge.Roles() { // in the order of starting
		if slices.Contains(c.Roles, string(r)) {
			rs = append(rs, r)
		}
	}
	return rs
}

func (c *nodeConfig) keyDir(r bridge.Role) keyDir {
	if c.Keys != "" {
		return keyDir(c.Keys)
	}
	return rolesDir(c.Dir, r)
}

func (c *nodeConfig) pinsPath() string { return filepath.Join(c.Dir, filePins) }

func (c *nodeConfig) logger() *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log)) // checked
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
