//go:build integration

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bluejay/clients/handset"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// TestPeersRoutes: three countries on one SMSC, each with its own sender, charset, validity and meaning of
// a status, and a fourth that no route serves. What the SMSC reads is what the file says. [F-4] [F-15] [F-22]
func TestPeersRoutes(t *testing.T) {
	t.Parallel()
	s := startSMSC(t)
	one := smppRoutes(t, s.port, "")
	limits, route, _ := strings.Cut(one, "[[route]]")
	country := func(name, from, more string) string {
		return "[[route]]" + strings.NewReplacer(`name = "npm"`, fmt.Sprintf("name = %q", name), `from = "Bluejay"`, fmt.Sprintf("from = %q", from)).Replace(route) + more
	}
	b := newBench(t, limits+
		country("uk", "Bluejay", "countries = [\"GB\"]\n[route.statuses]\n\"0x0b\" = \"retry\"\n")+
		country("france", "+33644000001", "countries = [\"FR\"]\ncharset = \"ucs2\"\nvalidity = \"5m\"\n")+
		country("germany", "12345", "countries = [\"DE\"]\ncharset = \"latin1\"\n"))
	b.work()
	for _, tt := range []struct {
		to, text, want string
		from           string
		ton, coding    int
		validity       time.Duration
	}{
		{"+447400000001", "[first=0x0b*1] to the UK", "delivered", "Bluejay", 5, 0, time.Hour},
		{"+33644000002", "to France", "delivered", "33644000001", 1, 8, 5 * time.Minute},
		{"+4915123456789", "to Germany, grün", "delivered", "12345", 3, 3, time.Hour},
		{"+12025550123", "to nobody's country", "failed", "", 0, 0, 0},
		{"+33899700000", "to a premium number", "failed", "", 0, 0, 0},
	} {
		b.becomes(b.queue(tt.to, tt.text, wire.ClassNormal), tt.want)
		s.mu.Lock()
		last := submitted{}
		if n := len(s.submits); n > 0 && s.submits[n-1].Text == tt.text {
			last = s.submits[n-1]
		}
		s.mu.Unlock()
		if last.From != tt.from || last.TON != tt.ton || last.Coding != tt.coding || (last.To == "") != (tt.from == "") {
			t.Errorf("%s: the SMSC had %+v", tt.text, last)
		}
		if until, err := time.Parse(time.RFC3339, last.Validity); tt.validity > 0 && (err != nil || time.Until(until.Add(-tt.validity)).Abs() > time.Minute) {
			t.Errorf("%s: valid until %q", tt.text, last.Validity)
		}
	}
	b.figure(`bluejay_sms_jobs_total{class="normal",route="france",state="delivered"} 1`)
}

// TestPeersGateway: an HTTP gateway that is described by templates, in another process and another
// language: texts, receipts and a STOP in events that it signs; one that somebody else signed is refused.
// Wrong credentials are found by the check, and at a running worker its texts wait. [F-14] [F-18]
func TestPeersGateway(t *testing.T) {
	t.Parallel()
	callbacks, dir := freePort(t), t.TempDir()
	g := startScript(t, "gateway.js", "--token", "of-the-tests", "--secret", "a secret of 16 bytes or more", "--callback", "http://127.0.0.1:"+callbacks+"/sms/web")
	for name, text := range map[string]string{"token": "of-the-tests", "secret": "a secret of 16 bytes or more"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := newBench(t, fmt.Sprintf(`[callbacks]
listen = "127.0.0.1:%[1]s"
url = "http://127.0.0.1:%[1]s"
[[route]]
name = "web"
via = "http"
url = "http://127.0.0.1:%[2]d/messages"
password-file = "%[3]s/token"
secret-file = "%[3]s/secret"
from = "Bluejay"
[route.http]
headers = { Authorization = "Bearer $PASSWORD" }
body = '{"to": {{json .To}}, "from": {{json .From}}, "text": {{json .Text}}, "minutes": {{.Minutes}}}'
id-field = "messages.0.id"
check-url = "http://127.0.0.1:%[2]d/balance"
`, callbacks, g.port, dir))
	if out, code := run(t, "sms", "check", "--sms-routes", b.routes); code != 0 {
		t.Errorf("check: exit code %d: %s", code, out)
	}
	b.work()
	b.becomes(b.queue(number(1), `with "quotes", grün`, wire.ClassNormal), "delivered")
	b.becomes(b.queue(number(2), "[state=undeliverable] off", wire.ClassNormal), "undeliverable")
	if n := g.accepted(`with "quotes", grün`); n != 1 {
		t.Errorf("the gateway got it %d times", n)
	}
	g.tell("forge " + number(1) + " STOP")
	until(t, "the forged one is answered", func() bool { return g.count("told") == 3 })
	b.becomes(b.queue(number(1), "after a forged STOP", wire.ClassNormal), "delivered")
	g.tell("say " + number(1) + " Stop please")
	b.figure(`bluejay_sms_suppressions_total{keyword="stop"} 1`)
	b.becomes(b.queue(number(1), "after STOP", wire.ClassNormal), "suppressed")

	g.tell("token changed")
	until(t, "the check finds it", func() bool {
		out, code := run(t, "sms", "check", "--sms-routes", b.routes)
		return code == 1 && strings.Contains(out, "check the credentials")
	})
	waits := b.queue(number(3), "until the token is right", wire.ClassNormal)
	b.figure(`bluejay_sms_link_up{route="web"} 0`)
	if got := b.last(waits); got != "" {
		t.Errorf("told %q while nothing was sent", got)
	}
	g.tell("token of-the-tests")
	b.becomes(waits, "delivered")
	b.figure(`bluejay_sms_link_up{route="web"} 1`)
}

// TestPeersSenderAway: a sender hears what became of each text when it comes back, though its phone was
// off when the last word on it came. [F-7]
func TestPeersSenderAway(t *testing.T) {
	t.Parallel()
	registrar := "127.0.0.1:" + freePort(t)
	w := newWorld(t, "--registrar-http", registrar).start()
	alice, bob := w.pair()
	if err := bob.Disconnect(bounded(t)); err != nil {
		t.Fatal(err)
	}
	until(t, "bob is grey", func() bool { return alice.Contacts()[0].Colour == handset.Grey })
	w.smsc.Play(func(p smsc.Part) smsc.Reply {
		switch {
		case strings.Contains(p.Text, "undeliverable"):
			return smsc.Reply{Receipt: "UNDELIV"}
		case strings.Contains(p.Text, "refused"):
			return smsc.Reply{Status: 0x0b}
		case strings.Contains(p.Text, "rejected"):
			return smsc.Reply{Receipt: "REJECTD"}
		case strings.Contains(p.Text, "expired"):
			return smsc.Reply{Receipt: "EXPIRED"}
		}
		return smsc.Reply{}
	})
	worker := w.at.Children["worker"]
	if err := syscall.Kill(worker, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(worker, syscall.SIGCONT) }) // after a failure
	ends := map[string]wire.JobState{
		"delivered": wire.JobDelivered, "undeliverable": wire.JobUndeliverable, "refused": wire.JobFailed,
		"rejected": wire.JobRejected, "expired": wire.JobExpired,
	}
	ids := map[string]handset.TextID{}
	for text := range ends {
		ids[text] = alice.send("will be " + text)
	}
	until(t, "the queue has all", func() bool {
		_, body := get(t, "http://"+w.at.HTTP+"/metrics")
		return strings.Contains(body, `bluejay_custody_ended_total{outcome="queued"} 5`)
	})
	if err := alice.Disconnect(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(worker, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "the SMSC has all", func() bool { return w.smsc.Submits() == 2+len(ends) }) // two one-time passwords
	if err := alice.Connect(bounded(t)); err != nil {
		t.Fatal(err)
	}
	for text, want := range ends {
		until(t, text, func() bool {
			for _, x := range alice.Texts(alice.contact) {
				if x.ID == ids[text] {
					return x.Job == want
				}
			}
			return false
		})
	}
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "go_goroutines"} {
		if code, body := get(t, "http://"+registrar+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("the registrar's %s: %d %.100s", path, code, body)
		}
	}
	w.stop()
}
