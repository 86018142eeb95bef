package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// TestStopBySMS: a phone texts STOP; its user is off without having touched the handset, nothing comes
// by SMS any more either, and both are told. START lifts the second, and only the user the first.
// [F-17] [F-18] [F-19] [P-7] [C-revoke]
func TestStopBySMS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--worker-http", "127.0.0.1:0").start()
	alice, bob := w.pair()
	alice.viaIP(bob, "before the stop")

	w.smsc.Say(bobNumber, "Bluejay", "Please stop texting me")
	alice.awaits("bob turns grey", colour(alice.contact, handset.Grey))
	bob.awaits("bob is off", func(e handset.Event) bool { return e.Kind == handset.ConsentEnded })
	if bob.Status().On {
		t.Error("bob is still on")
	}

	id := alice.send("a text to one who said STOP")
	alice.becomes(id, handset.Failed)
	for _, m := range w.smsc.Messages() {
		if m.To == bobNumber && strings.Contains(m.Text, "said STOP") {
			t.Error("an SMS after STOP")
		}
	}

	w.smsc.Say(bobNumber, "Bluejay", "START")
	w.sms("the answer to START", func(m smsc.Message) bool { return m.To == bobNumber && strings.Contains(m.Text, "You can get SMS") })
	if bob.Status().On {
		t.Error("an SMS switched bob on")
	}
	again := alice.send("after START")
	w.sms("the text", func(m smsc.Message) bool { return m.To == bobNumber && isFallback(m, "after START") })
	alice.becomes(again, handset.SMSSent, handset.SMSDelivered)

	scopes := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway
	if err := errors.Join(bob.OptIn(bounded(t), scopes, wire.Listed), bob.Connect(bounded(t))); err != nil {
		t.Fatalf("bob agrees again: %v", err)
	}
	until(t, "bob is on again", func() bool { return bob.Status().On })
	w.stop()
}

// TestWorkerStatus: the SMS worker is alive, says what it lacks, and counts what became of jobs.
func TestWorkerStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--worker-http", "127.0.0.1:0").start()
	worker := "http://" + w.at.WorkerHTTP
	until(t, "the worker is ready", func() bool { code, _ := get(t, worker+"/readyz"); return code == http.StatusOK })
	alice, bob := w.pair()
	alice.viaSMS(bob, "count me")
	until(t, "a delivered job", func() bool {
		_, body := get(t, worker+"/metrics")
		return strings.Contains(body, `bluejay_sms_jobs_total{class="normal",route="smpp",state="delivered"} 1`)
	})
	_, body := get(t, worker+"/metrics")
	for _, want := range []string{
		`bluejay_sms_jobs_total{class="urgent",route="smpp",state="submitted"} 2`, `bluejay_sms_answers_total{answer="accepted",outcome="answered",route="smpp"} 3`,
		`bluejay_sms_submit_seconds_count{route="smpp"} 3`, `bluejay_sms_queue_seconds_count{class="normal"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, aliceNumber[1:]) || strings.Contains(body, bobNumber[1:]) {
		t.Error("a number in the metrics")
	}
	if _, body := get(t, "http://"+w.at.HTTP+"/metrics"); !strings.Contains(body, `bluejay_custody_ended_total{outcome="queued"} 1`) || !strings.Contains(body, "bluejay_custody_difference 0") {
		t.Error("the broker's figures are not those of one job")
	}
	w.smsc.Close()
	until(t, "it says that no route has a link", func() bool {
		code, body := get(t, worker+"/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "no route has a link")
	})
	w.stop()
}

// TestDeadLetters: a job that no worker can use is listed without what is in it, tried again and
// dropped, by its number in the list. [F-16]
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	creds := rolesDir(w.dir, bridge.RoleBroker).path(fileCreds)
	b, err := bridge.Connect(bounded(t), bridge.Config{URL: w.at.NATS, Role: bridge.RoleBroker, Creds: creds})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close(bounded(t)) }()
	run := func(args ...string) (string, int) {
		p := bluejay(t, nil, append([]string{"sms", "dead"}, append(args, "--dir", w.dir)...)...)
		code := p.wait(t)
		var out strings.Builder
		for line := range p.lines {
			out.Write(line)
			out.WriteByte('\n')
		}
		return out.String() + p.stderr.String(), code
	}
	if out, code := run("list"); code != 0 || !strings.Contains(out, "No dead jobs.") {
		t.Errorf("none: %q, exit code %d", out, code)
	}
	payload := []byte("nothing that anybody sealed")
	id := wire.MessageIDOf(payload)
	if err := b.Jobs().Enqueue(bounded(t), wire.ClassNormal, wire.Pseudonym{1}, id, payload, nil, nil); err != nil {
		t.Fatal(err)
	}
	var list string
	until(t, "it is among the dead", func() bool { list, _ = run("list"); return strings.Contains(list, id.String()) })
	if !strings.Contains(list, "not a sealed job") || strings.Contains(list, "anybody") {
		t.Errorf("%s", list)
	}
	if out, code := run("list", "--json"); code != 0 || !strings.Contains(out, `"reason":"not a sealed job"`) {
		t.Errorf("%q, exit code %d", out, code)
	}
	if out, code := run("retry", "1"); code == 0 || !strings.Contains(out, "try again later") {
		t.Errorf("retry within the time in which the queue knows its id: %q, exit code %d", out, code)
	}
	if out, code := run("drop", "1"); code != 0 || out != "" {
		t.Errorf("drop: %q, exit code %d", out, code)
	}
	if out, code := run("list"); code != 0 || !strings.Contains(out, "No dead jobs.") {
		t.Errorf("dropped: %q, exit code %d", out, code)
	}
	for _, tt := range []struct{ do, number, want string }{
		{"drop", "99", "no dead letter has this number"}, {"retry", "99", "no dead letter has this number"},
		{"retry", "x", "is not a number that"},
	} {
		if out, code := run(tt.do, tt.number); code == 0 || !strings.Contains(out, tt.want) {
			t.Errorf("%s %s: %q, exit code %d", tt.do, tt.number, out, code)
		}
	}
}

// TestSMSCheck: each route is bound and nothing is sent; a wrong password, a file that makes no sense
// and a port that is none of SMPP are told apart, with what to do.
func TestSMSCheck(t *testing.T) {
	t.Parallel()
	s, err := smsc.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := write("good", smsc.Password+"\n"), write("bad", "wrong\n")
	route := func(name, password, more string) string {
		return "[[route]]\nname = \"" + name + "\"\nvia = \"smpp\"\nurl = \"smpp://" + smsc.SystemID + "@" + s.Addr() +
			"\"\npassword-file = \"" + password + "\"\nfrom = \"Bluejay\"\n" + more
	}
	for _, tt := range []struct {
		name, file string
		code       int
		want       []string
	}{
		{"two routes", route("uk", good, "countries = [\"GB\"]\nquiet = \"22:00-07:00 Europe/London\"\nids = \"hex-decimal\"\n[route.statuses]\n\"0x0b\" = \"retry\"\n") + route("rest", good, ""),
			0, []string{"uk", "rest", "ok"}},
		{"a wrong password", route("uk", bad, ""), 1, []string{"uk", "FAILS", "check system id, password", "1 of 1 routes cannot be used"}},
		{"no route", "[limits]\ndaily = 5\n", 1, []string{"no [[route]]"}},
		{"an unknown key", route("uk", good, "colour = \"blue\"\n"), 1, []string{"line 7", `unknown key "route.colour"`}},
		{"an unknown way", "[[route]]\nname = \"x\"\nvia = \"pigeon\"\n", 1, []string{`"pigeon" is none of`, "smpp"}},
		{"no sender", "[[route]]\nname = \"x\"\nvia = \"smpp\"\nurl = \"smpp://a@127.0.0.1:1\"\n", 1, []string{"no sender"}},
		{"a password in the URL", "[[route]]\nname = \"x\"\nvia = \"smpp\"\nurl = \"smpp://a:hunter2@127.0.0.1:1\"\n", 1, []string{"without the password"}},
		{"one country twice", route("a", good, "countries = [\"GB\"]\n") + route("b", good, "countries = [\"GB\"]\n"), 1, []string{"both serve GB"}},
		{"no such hours", route("a", good, "quiet = \"late\"\n"), 1, []string{"want hours and a time zone"}},
		{"no such status", route("a", good, "[route.statuses]\n\"x\" = \"retry\"\n"), 1, []string{"want lines like"}},
		{"no password file", route("a", filepath.Join(dir, "none"), ""), 1, []string{"password-file"}},
		{"Kannel without a login", "[[route]]\nname = \"k\"\nvia = \"kannel\"\nurl = \"http://127.0.0.1:1/\"\nfrom = \"X1\"\npassword-file = \"" + good + "\"\n", 1, []string{"USERNAME:PASSWORD"}},
		{"callbacks without an address", "[[route]]\nname = \"k\"\nvia = \"http\"\nurl = \"http://127.0.0.1:1/\"\nfrom = \"X1\"\nsecret-file = \"" + good + "\"\n", 1, []string{"set url in [callbacks]"}},
		{"a spool that is not there", "[[route]]\nname = \"m\"\nvia = \"gammu\"\nfrom = \"X1\"\n[route.gammu]\noutbox = \"" + dir + "/o\"\nsent = \"" + dir + "\"\nerror = \"" + dir + "\"\n", 1, []string{"make the folder"}},
	} {
		p := bluejay(t, nil, "sms", "check", "--sms-routes", write("routes.toml", tt.file))
		code := p.wait(t)
		out := p.stderr.String()
		for line := range p.lines {
			out += string(line) + "\n"
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) || code != tt.code {
				t.Errorf("%s: exit code %d, no %q in %q", tt.name, code, want, out)
			}
		}
		if strings.Contains(out, "hunter2") || strings.Contains(out, smsc.Password+"\n") {
			t.Errorf("%s: a password in %q", tt.name, out)
		}
	}
	if s.Submits() != 0 {
		t.Error("a check sent something")
	}
}
