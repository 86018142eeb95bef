package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"bluejay/clients/simulator"
)

// runFleet runs a fleet against a node of its own and returns its events.
func runFleet(t *testing.T, o simOptions) (events []map[string]any, err error) {
	t.Helper()
	var out bytes.Buffer
	o.json = true
	err = runSim(bounded(t), &o, &out)
	for line := range bytes.Lines(out.Bytes()) {
		var e map[string]any
		if json.Unmarshal(line, &e) != nil {
			t.Fatalf("not JSON: %s", line)
		}
		events = append(events, e)
	}
	return events, err
}

// eventNamed is the last event of a name.
func eventNamed(t *testing.T, events []map[string]any, name string) map[string]any {
	t.Helper()
	for _, e := range slices.Backward(events) {
		if e["event"] == name {
			return e
		}
	}
	t.Fatalf("no event %q in %v", name, events)
	return nil
}

// quick are options of a run of a few seconds in which people leave, opt out and write SMS.
func quick(t *testing.T, profile string) simOptions {
	t.Helper()
	o := simOptions{
		lean: 20, real: 4, duration: 3 * time.Second, profile: profile, seed: 1, rate: 60,
		deadline: 2 * time.Second, greyMin: 200 * time.Millisecond, greyMax: 400 * time.Millisecond,
		bound: 5 * time.Second, // under the race detector, on a machine that does other things, too
	}
	return o
}

// TestSim: real and lean handsets together, with leaves, airplane mode, opt-outs and SMS: every text
// has its one outcome, and no promise is broken.
func TestSim(t *testing.T) {
	file := filepath.Join(t.TempDir(), "churn.toml")
	if err := os.WriteFile(file, []byte(churnProfile), 0o600); err != nil {
		t.Fatal(err)
	}
	o := quick(t, file)
	events, err := runFleet(t, o)
	if err != nil {
		t.Fatalf("%v: %v", err, events)
	}
	s := eventNamed(t, events, "summary")
	count := func(k string) int { f, _ := s[k].(float64); return int(f) }
	if count("texts") < 50 || count("texts") != count("ip")+count("sms")+count("returned") {
		t.Errorf("%d texts, %d over IP, %d by SMS, %d returned", count("texts"), count("ip"), count("sms"), count("returned"))
	}
	if s["unaccounted"] != 0.0 || s["violations"] != 0.0 {
		t.Errorf("summary %v", s)
	}
	for _, k := range []string{"ip", "sms", "presence_checks_blue", "sessions", "real"} {
		if count(k) == 0 {
			t.Errorf("%s is 0: nothing was tested there", k)
		}
	}
	if sample := eventNamed(t, events, "sample"); !memoryKnown(sample, "broker_rss_bytes", true) || !memoryKnown(sample, "rss_bytes", true) {
		t.Errorf("memory in %v", sample)
	}
	raised, _ := eventNamed(t, events, "started")["raised"].([]any)
	if len(raised) == 0 || !strings.Contains(raised[0].(string), "no bound instead of 30") {
		t.Errorf("raised quotas %v", raised)
	}
	if eventNamed(t, events, "certified")["handsets"] != 20.0 {
		t.Error("it is not said that certificates were made in bulk")
	}
}

// TestSimPatience: people who send no SMS take back, while the run goes on, what they wrote to somebody
// who opted out, whichever kind of handset they have.
func TestSimPatience(t *testing.T) {
	file := filepath.Join(t.TempDir(), "patience.toml")
	text := "about = \"a test\"\nopt-in = 1.0\ncontacts = 6\nopt-outs = 900\npatience = \"500ms\"\n[fallback]\nnever = 1.0\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, lean := range map[string]int{"lean": 20, "real": 0} {
		t.Run(name, func(t *testing.T) {
			o := quick(t, file)
			o.lean, o.real, o.duration = lean, 0, 5*time.Second
			if lean == 0 {
				o.real = 6
			}
			events, err := runFleet(t, o)
			if err != nil {
				t.Fatalf("%v: %v", err, events)
			}
			while := 0.0
			for _, e := range events {
				if e["phase"] == "settling" {
					break
				}
				if n, ok := e["returned"].(float64); ok {
					while = max(while, n)
				}
			}
			if while == 0 {
				t.Errorf("nothing was taken back before the end: %v", events)
			}
		})
	}
}

// memoryKnown reports whether a sample has a plausible resident set: a MiB or more, 0 where it cannot be known.
func memoryKnown(sample map[string]any, field string, known bool) bool {
	v, ok := sample[field].(float64)
	if known && runtime.GOOS == "linux" {
		return ok && v > 1<<20
	}
	return ok && v == 0
}

// churnProfile has everything happen within seconds.
const churnProfile = `about = "a test"
opt-in = 0.9
keepalive = "4m"
contacts = 6
online = "2s"
offline = "300ms"
abrupt = 0.5
opt-outs = 120

[fallback]
gateway = 0.6
device = 0.3
never = 0.1
`

// TestSimProfiles: the built-in profiles load, and a wrong key is refused with its line.
func TestSimProfiles(t *testing.T) {
	names := builtinProfiles()
	for _, want := range []string{"city", "village", "commute", "storm", "idle", "load"} {
		if !slices.Contains(names, want) {
			t.Errorf("no profile %q among %v", want, names)
		}
	}
	for _, name := range names {
		p, err := loadProfile(name)
		if err != nil || p.About == "" || p.Check() != nil {
			t.Errorf("profile %s: %v, %v, about %q", name, err, p.Check(), p.About)
		}
	}
	file := filepath.Join(t.TempDir(), "mine.toml")
	for text, want := range map[string]string{
		"about = \"x\"\nopt-inn = 1\n":                        `line 2: unknown key "opt-inn"`,
		"opt-in = 1\n[[link]]\nname = \"a\"\nlatncy = \"1s\"": `line 4: unknown key "link.latncy"`,
		"opt-in = 1\nonline = \"soon\"\n":                     "line 2",
		"opt-in = 2\n":                                        "opt-in: 2 is not a share",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadProfile(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := loadProfile("cty"); err == nil || !strings.Contains(err.Error(), "city") {
		t.Errorf("a misspelt name: %v", err)
	}
}

// TestSimNumbers: the numbers are well-formed, differ, and lie in the range kept for fiction.
func TestSimNumbers(t *testing.T) {
	seen := map[string]bool{}
	for i := range simNumbers {
		n := simNumber(i).E164()
		if len(n) != 12 || n[5:10] != "55501" || seen[n] {
			t.Fatalf("number %d is %s", i, n)
		}
		seen[n] = true
	}
	if len(seen) < 20_000 {
		t.Errorf("only %d numbers", len(seen))
	}
	if _, err := certify(keyDir(t.TempDir()), 0, simNumbers, 0); err == nil {
		t.Error("more handsets than numbers were certified")
	}
}

// TestSimCredentials: what enrol writes for another node is what the fleet reads, and a damaged line
// is named.
func TestSimCredentials(t *testing.T) {
	dir := t.TempDir()
	if err := initKeys(filepath.Join(dir, "node"), "test"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "credentials")
	if err := simEnrol(filepath.Join(dir, "node"), file, 3); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	people, err := readCredentials(file, 1, 3)
	if err != nil || len(people) != 4 || people[0].Credential != nil {
		t.Fatalf("%d people, %v", len(people), err)
	}
	for i, m := range people[1:] {
		if m.Number != simNumber(i) || m.ID.IsZero() || m.Credential.Cert.ID != m.ID {
			t.Errorf("person %d: %v", i, m.ID)
		}
	}
	if _, err := readCredentials(file, 0, 4); err == nil || !strings.Contains(err.Error(), "3 handsets where 4") {
		t.Errorf("too few: %v", err)
	}
	if err := os.WriteFile(file, []byte("{\"number\":\"+1\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readCredentials(file, 0, 1); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("damaged: %v", err)
	}
}

// faultMark is the name of the variable that names a fault, turned round here so that this test does
// not bring it into the binary.
func faultMark() string {
	b := []byte("TLUAF_JB")
	slices.Reverse(b)
	return string(b)
}

// TestSimForeign: a fleet certified with bluejay sim enrol runs against a node that it did not start,
// in a closed loop until exactly as many texts as were asked for are accepted, and without the SMSC's
// record or the broker's counts.
func TestSimForeign(t *testing.T) {
	o := quick(t, "load")
	o.deadline = 20 * time.Second // nobody has another way: a text that waits for longer is returned
	o.lean, o.real = 1, 0
	profile, err := loadProfile("load")
	if err != nil {
		t.Fatal(err)
	}
	w, err := o.world(bounded(t), t.TempDir(), &simulator.Config{Profile: profile}, newSimTeller(io.Discard, &o))
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	file := filepath.Join(t.TempDir(), "fleet")
	if err := simEnrol(w.dir, file, 6); err != nil {
		t.Fatal(err)
	}
	o.lean, o.duration, o.closed, o.texts = 6, 30*time.Second, true, 70 // it ends with the last text, not with its time
	o.addr, o.pins, o.credentials = w.addr, filepath.Join(w.dir, filePins), file
	events, err := runFleet(t, o)
	if err != nil {
		t.Fatalf("%v: %v", err, events)
	}
	if s := eventNamed(t, events, "summary"); s["texts"] != 70.0 || s["ip"] != s["texts"] || s["broker"] != nil {
		t.Errorf("summary %v", s)
	}
	if sample := eventNamed(t, events, "sample"); !memoryKnown(sample, "broker_rss_bytes", false) || !memoryKnown(sample, "rss_bytes", true) {
		t.Errorf("memory in %v", sample)
	}
	o.credentials = ""
	if _, err := runFleet(t, o); err == nil || !strings.Contains(err.Error(), "bluejay sim enrol") {
		t.Errorf("without credentials: %v", err)
	}
}
