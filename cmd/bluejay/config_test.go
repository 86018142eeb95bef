package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"bluejay/bridge"
)

// loaded runs load as serve does: a file's text ("" for none) and command-line arguments.
func loaded(t *testing.T, text string, args ...string) (nodeConfig, error) {
	t.Helper()
	c := defaultConfig()
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.flags(f)
	if err := f.Parse(args); err != nil {
		return c, err
	}
	file := ""
	if text != "" {
		file = filepath.Join(t.TempDir(), "bluejay.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := c.load(file, f)
	return c, err
}

// TestConfigRefused: what cannot be meant is refused, with the line or the setting it is about.
func TestConfigRefused(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		args       []string
		want       []string
	}{
		{"unknown key", "dir = \"x\"\n\nlissen = \"127.0.0.1:1\"\n", nil, []string{"bluejay.toml: line 3", `unknown key "lissen"`, "docs/configuration.md"}},
		{"unknown keys", "a = 1\nb = 2\n", nil, []string{`line 1: unknown key "a"`, `line 2: unknown key "b"`}},
		{"unknown table", "log = \"warn\"\n[tls]\ncert = \"x\"\n", nil, []string{"line 2", `"tls`}},
		{"malformed", "dir = \"x\"\nname = \n", nil, []string{"bluejay.toml: line 2"}},
		{"not closed", "name = \"x\n", nil, []string{"bluejay.toml: line 1"}},
		{"a number for a text", "\ndir = 7\n", nil, []string{"bluejay.toml: line 2"}},
		{"a text for a number", "max-connections = \"many\"\n", nil, []string{"bluejay.toml: line 1"}},
		{"a text for a list", "roles = \"broker\"\n", nil, []string{"bluejay.toml: line 1"}},
		{"a text for a switch", "json = \"yes\"\n", nil, []string{"bluejay.toml: line 1"}},
		{"no unit", "deadline = \"20\"\n", nil, []string{"bluejay.toml: line 1", `"20" is not a duration like 20s`}},
		{"a bare number", "deadline = 20\n", nil, []string{"deadline: 20ns is below a millisecond; give a unit, like 20s"}},
		{"below zero", "grey-min = \"-5s\"\n", nil, []string{"bluejay.toml: line 1", "is not a duration"}},
		{"twice", "log = \"warn\"\nlog = \"info\"\n", nil, []string{"bluejay.toml: line 2"}},
		{"role in the file", "roles = [\"broker\", \"brokr\"]\n", nil, []string{`roles: "brokr" is none of broker, registrar, worker`}},
		{"role", "", []string{"--roles", "smsc"}, []string{`roles: "smsc" is none of`}},
		{"duration", "", []string{"--deadline", "soon"}, []string{`"soon" is not a duration`}},
		{"no deadline", "", []string{"--deadline", "0s"}, []string{"deadline must be above 0"}},
		{"certificate alone", "", []string{"--tls-cert", "c.pem"}, []string{"tls-cert and tls-key go together"}},
		{"key alone", "tls-key = \"k.pem\"\n", nil, []string{"tls-cert and tls-key go together"}},
		{"grey", "", []string{"--grey-min", "10s", "--grey-max", "9s"}, []string{"grey-max is below grey-min"}},
		{"log level", "log = \"loud\"\n", nil, []string{`log: "loud" is none of debug, info, warn, error`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loaded(t, tt.text, tt.args...)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

// TestConfigPrecedence: a flag wins over the environment, the environment over the file, the file
// over the default; for every kind of setting.
func TestConfigPrecedence(t *testing.T) {
	const file = `
listen = "127.0.0.1:1"
max-connections = 1
json = true
deadline = "1s"
roles = ["broker"]
`
	env := map[string]string{
		"BLUEJAY_LISTEN": "127.0.0.1:2", "BLUEJAY_MAX_CONNECTIONS": "2", "BLUEJAY_JSON": "false", "BLUEJAY_DEADLINE": "2s",
		"BLUEJAY_ROLES": "registrar,worker",
	}
	flags := []string{
		"--listen", "127.0.0.1:3", "--max-connections", "3", "--json", "--deadline", "3s", "--roles", "worker", "--roles", "broker",
	}
	type values struct {
		Listen   string
		Max      int
		JSON     bool
		Deadline time.Duration
		Roles    []bridge.Role
	}
	of := func(c nodeConfig) values {
		return values{c.Listen, c.MaxConns, c.JSON, time.Duration(c.Deadline), c.roles()}
	}
	b, r, w := bridge.RoleBroker, bridge.RoleRegistrar, bridge.RoleWorker
	for _, tt := range []struct {
		name string
		text string
		env  bool
		args []string
		want values
	}{
		{"default", "", false, nil, values{"127.0.0.1:1883", 10_000, false, 8 * time.Second, []bridge.Role{b, r, w}}},
		{"file", file, false, nil, values{"127.0.0.1:1", 1, true, time.Second, []bridge.Role{b}}},
		{"environment over file", file, true, nil, values{"127.0.0.1:2", 2, false, 2 * time.Second, []bridge.Role{r, w}}},
		{"environment alone", "", true, nil, values{"127.0.0.1:2", 2, false, 2 * time.Second, []bridge.Role{r, w}}},
		{"flag over both", file, true, flags, values{"127.0.0.1:3", 3, true, 3 * time.Second, []bridge.Role{b, w}}},
		{"flag over file", file, false, flags, values{"127.0.0.1:3", 3, true, 3 * time.Second, []bridge.Role{b, w}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for k, v := range env {
				if tt.env {
					t.Setenv(k, v)
				}
			}
			c, err := loaded(t, tt.text, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, of(c)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestConfigEnvironmentErrors: the setting is named, too, when the environment is wrong.
func TestConfigEnvironmentErrors(t *testing.T) {
	for name, want := range map[string]string{
		"BLUEJAY_MAX_CONNECTIONS": "max-connections: ", "BLUEJAY_DEADLINE": "deadline: ", "BLUEJAY_ONE_PROCESS": "one-process: ",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "nonsense")
			if _, err := loaded(t, ""); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

// TestConfigKeepsFlags: a flag's value comes through load as it was given.
func TestConfigKeepsFlags(t *testing.T) {
	for _, listen := range []string{"[::1]:1883", ":8883", "", "localhost:1"} {
		c, err := loaded(t, "log = \"warn\"\n", "--listen", listen, "--http", "")
		if err != nil {
			t.Fatal(err)
		}
		if c.Listen != listen || c.HTTP != "" || c.Log != "warn" {
			t.Errorf("--listen %q became %q", listen, c.Listen)
		}
	}
}

// TestEverySetting: file, flags and environment know the same names.
func TestEverySetting(t *testing.T) {
	c := defaultConfig()
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.flags(f)
	var text strings.Builder
	f.VisitAll(func(f *pflag.Flag) {
		v := map[string]string{"int": "7", "bool": "true", "duration": `"1h"`, "stringSlice": `["worker"]`}[f.Value.Type()]
		switch {
		case v == "":
			v = `"warn"`
		case f.Name == "min-version":
			v = "2" // is bounded by what the node knows
		}
		if f.Name == "min-version" {
			v = "1"
		}
		text.WriteString(f.Name + " = " + v + "\n")
		if f.Usage == "" {
			t.Errorf("%s is not described", f.Name)
		}
	})
	if _, err := loaded(t, text.String()); err != nil {
		t.Errorf("a flag is no key of the file: %v", err)
	}
}

// TestWhereToListen: without a TLS certificate a node that other machines could reach does not start,
// and says what to do. [M-14]
func TestWhereToListen(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:0", ":0"} {
		w := newWorld(t, "--listen", listen, "--sms", "console", "--http", "")
		p := bluejay(t, w.env, w.args...)
		if code := p.wait(t); code != 1 {
			t.Errorf("%s: exit code %d", listen, code)
		}
		if text := p.stderr.String(); !strings.Contains(text, "is not a loopback address: give a TLS certificate, or listen on 127.0.0.1") {
			t.Errorf("%s: %s", listen, text)
		}
	}
}

// TestCertificateFiles: what is wrong with a certificate is said before anything listens.
func TestCertificateFiles(t *testing.T) {
	c := defaultConfig()
	c.TLSCert, c.TLSKey = filepath.Join(t.TempDir(), "none.pem"), "none.key"
	if _, err := serverTLS(&c); err == nil || !strings.Contains(err.Error(), "TLS certificate: open "+c.TLSCert) {
		t.Error(err)
	}
	c.TLSCert, c.TLSKey, _ = selfSigned(t)
	if _, err := serverTLS(&c); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(c.TLSKey, []byte("SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := serverTLS(&c); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}

// TestTransport: the sms setting is one of three forms, and an error never repeats it: a careless
// URL may hold a password.
func TestTransport(t *testing.T) {
	for _, tt := range []struct {
		sms string
		ok  bool
	}{
		{"console", true}, {"smpp://me@127.0.0.1:2775", true}, {"smpps://me@smsc.example:3550", true},
		{"", false}, {"smpp://127.0.0.1:2775", false}, {"smpp://me@", false}, {"http://me:hunter2@127.0.0.1:1", false}, {"smpp://me:hunter2@127.0.0.1:1", false}, {"%zz hunter2", false},
	} {
		c := defaultConfig()
		c.SMS = tt.sms
		_, err := newTransport(&c, io.Discard, c.logger())
		if (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.sms, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q is repeated: %v", tt.sms, err)
		}
	}
}

func FuzzReadConfig(f *testing.F) {
	for _, seed := range []string{
		"", "dir = \"x\"\n", "deadline = \"8s\"\nroles = [\"worker\"]\n", "a.b = 1", "[t]\nx = 1", "deadline = 20", "roles = [1]",
		"name = '''x", "max-connections = 1e9", "json = tru", "dir = {a=1}", "\x00", "dir = \"\\u0000\"", "[[roles]]",
	} {
		f.Add([]byte(seed))
	}
	file := filepath.Join(f.TempDir(), "fuzz.toml")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := defaultConfig()
		err := readTOML(file, &c)
		if err != nil && !strings.HasPrefix(err.Error(), file+": ") {
			t.Errorf("%q does not name the file", err)
		}
		if err == nil && c.check() == nil && (c.Deadline <= 0 || c.GreyMin < 0 || c.GreyMax < c.GreyMin) {
			t.Errorf("accepted: %+v", c)
		}
	})
}
