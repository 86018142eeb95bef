package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // quiet hours name a time zone; a small image has no database

	"bluejay/sms"
)

// smsConfig is the file that `--sms-routes` names (TOML): every way out of an operator, and the
// operator's rules. It holds no secret; each stands in a file of its own, which it names.
type smsConfig struct {
	Routes    []routeConfig   `toml:"route"`
	Numbers   numbersConfig   `toml:"numbers"`
	Limits    limitsConfig    `toml:"limits"`
	Replies   repliesConfig   `toml:"replies"`
	Callbacks callbacksConfig `toml:"callbacks"`
}

// numbersConfig says which numbers may get an SMS at all.
type numbersConfig struct {
	Countries []string `toml:"countries"` // ISO 3166-1 alpha-2; empty: those of the routes
	Premium   bool     `toml:"premium"`   // premium and shared-cost numbers, too: an invitation to toll fraud
}

// limitsConfig bounds what can be spent, in SMS parts a UTC day. Zero: the worker's default.
type limitsConfig struct {
	PerNumber int `toml:"per-number"`
	PerSender int `toml:"per-sender"`
	Daily     int `toml:"daily"` // all routes together; zero: no bound
}

// repliesConfig is what is answered to a keyword; "-" for nothing, empty for the default.
type repliesConfig struct {
	Start string `toml:"start"`
	Help  string `toml:"help"`
}

// callbacksConfig is where HTTP gateways reach this worker.
type callbacksConfig struct {
	Listen string `toml:"listen"` // host:port; empty: none
	URL    string `toml:"url"`    // the same from the gateway's side, like https://sms.example.net
}

// routeConfig is one way out.
type routeConfig struct {
	Name  string `toml:"name"`
	Via   string `toml:"via"` // smpp, kannel, http, gammu, remote or console
	URL   string `toml:"url"` // smpp://USER@HOST:PORT, smpps://…, http://…, https://…, nats://…
	CA    string `toml:"ca"`  // PEM of the CA that signed the peer's certificate; empty: the system's
	Creds string `toml:"creds"`

	PasswordFile string `toml:"password-file"` // for Kannel: USERNAME:PASSWORD
	SecretFile   string `toml:"secret-file"`   // signs the addresses that a gateway calls back

	Countries []string `toml:"countries"` // empty: every country that no other route has
	From      string   `toml:"from"`
	Validity  duration `toml:"validity"`
	Charset   string   `toml:"charset"` // auto, ucs2, latin1, ascii
	Unchecked bool     `toml:"allow-unchecked"`
	Quiet     string   `toml:"quiet"` // like 22:00-07:00 Europe/London
	Daily     int      `toml:"daily"`

	Bind       string            `toml:"bind"` // transceiver, transmitter, receiver, both
	SystemType string            `toml:"system-type"`
	IDs        string            `toml:"ids"` // as-is, hex-decimal
	Rate       float64           `toml:"rate"`
	Window     int               `toml:"window"`
	Statuses   map[string]string `toml:"statuses"` // "0x58" = "throttled"

	HTTP  httpConfig  `toml:"http"`
	Gammu gammuConfig `toml:"gammu"`
}

// httpConfig describes a gateway that is not Kannel.
type httpConfig struct {
	Method   string            `toml:"method"`
	Headers  map[string]string `toml:"headers"`
	Body     string            `toml:"body"` // a Go template
	IDField  string            `toml:"id-field"`
	CheckURL string            `toml:"check-url"`
	Accepted []int             `toml:"accepted"`
	Retry    []int             `toml:"retry"`
	Throttle []int             `toml:"throttled"`
}

// gammuConfig names the folders of gammu-smsd's files backend.
type gammuConfig struct {
	Outbox string   `toml:"outbox"`
	Sent   string   `toml:"sent"`
	Error  string   `toml:"error"`
	Inbox  string   `toml:"inbox"`
	Poll   duration `toml:"poll"`
}

// readSMSConfig reads the file; an unknown key is an error that names its line.
func readSMSConfig(file string) (smsConfig, error) {
	var c smsConfig
	if err := readTOML(file, &c); err != nil {
		return c, err
	}
	if len(c.Routes) == 0 {
		return c, fmt.Errorf("%s: no [[route]]: nothing could be sent", file)
	}
	return c, nil
}

// classesByName are the words of a route's error table.
var classesByName = map[string]sms.Class{
	"accepted": sms.Accepted, "throttled": sms.Throttled, "retry": sms.Retry, "rebind": sms.Rebind,
	"refused": sms.Refused, "permanent": sms.Permanent,
}

// statuses reads a route's own error table.
func (r routeConfig) statuses() (map[sms.Status]sms.Class, error) {
	table := map[sms.Status]sms.Class{}
	for code, word := range r.Statuses {
		n, err := strconv.ParseUint(code, 0, 32)
		class, ok := classesByName[word]
		if err != nil || !ok {
			return nil, fmt.Errorf("statuses: want lines like \"0x58\" = \"throttled\" with one of %s, not %q = %q", words(classesByName), code, word)
		}
		table[sms.Status(n)] = class
	}
	return table, nil
}

// words lists the keys of a table, but for the empty one.
func words[T any](table map[string]T) string {
	return strings.TrimPrefix(strings.Join(slices.Sorted(maps.Keys(table)), ", "), ", ")
}

// errQuiet says what quiet hours look like.
var errQuiet = errors.New(`quiet: want hours and a time zone, like "22:00-07:00 Europe/London"`)

// quietHours reads "22:00-07:00 Europe/London"; empty is none.
func quietHours(s string) (sms.QuietHours, error) {
	if s == "" {
		return sms.QuietHours{}, nil
	}
	span, zone, ok := strings.Cut(s, " ")
	from, until, dash := strings.Cut(span, "-")
	begin, err1 := minutes(from)
	end, err2 := minutes(until)
	if err := errors.Join(err1, err2); err != nil || !ok || !dash || begin == end {
		return sms.QuietHours{}, errQuiet
	}
	where, err := time.LoadLocation(strings.TrimSpace(zone))
	if err != nil || zone == "" || zone == "Local" {
		return sms.QuietHours{}, fmt.Errorf("quiet: no time zone %q: %w", zone, errQuiet)
	}
	return sms.QuietHours{From: begin, To: end, Location: where}, nil
}

// minutes reads a time of day as minutes since midnight.
func minutes(s string) (int, error) {
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err
}
