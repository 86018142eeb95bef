//go:build integration

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bluejay/wire"
)

// Debian's other SMS peers. A missing one fails the tests: run scripts/peers.
const (
	driveSMPPPath = "/usr/lib/kannel/test/drive_smpp"
	netSMPPPath   = "/usr/share/doc/libnet-smpp-perl/examples/smsc.pl"
	perlPath      = "/usr/bin/perl"
	gammuSMSDPath = "/usr/bin/gammu-smsd"
)

// TestPeersDriveSMPP: Kannel's drive_smpp, which knows no transceiver, answers every text with an empty
// message id, and reports nothing: texts in one part, in two and in UCS-2 go once each and stay
// "submitted", two to one number among them. What it sends without being asked is answered. [F-14]
func TestPeersDriveSMPP(t *testing.T) {
	t.Parallel()
	// It wants something to listen where bearerbox waits for smsboxes, at a port that it does not let one choose.
	var bearerbox net.Listener
	until(t, "port 13001 is free", func() (ok bool) {
		var err error
		bearerbox, err = net.Listen("tcp", "127.0.0.1:13001")
		return err == nil
	})
	t.Cleanup(func() { _ = bearerbox.Close() })
	port := freePort(t)
	p := startProgram(t, driveSMPPPath, "-v", "0", "-p", port, "-m", "3") // it ends with the first link that ends
	b := newBench(t, strings.Replace(smppRoutes(t, 0, "bind = \"both\"\n"), ":0\"", ":"+port+"\"", 1))
	b.work()
	for i, text := range []string{"one part", strings.Repeat("more than one part ", 12), "привет", "to the same number"} {
		b.becomes(b.queue(number(min(i, 2)), text, wire.ClassNormal), "submitted")
	}
	until(t, "its three texts are answered", func() bool {
		return strings.Count(p.log.String(), "PDU of type deliver_sm_resp") == 3
	})
	log := p.log.String()
	for what, want := range map[string]int{
		"of type bind_transmitter": 1, "of type bind_receiver": 1, "of type submit_sm": 5, // one has two parts
		"short_message = <one part>": 1, "short_message = <to the same number>": 1,
	} {
		if n := strings.Count(log, what); n != want {
			t.Errorf("%d times %q, want %d", n, what, want)
		}
	}
}

// TestPeersNetSMPP: the SMSC among the examples of Net::SMPP gives every text the same message id and
// reports nothing. Bound in each way, the worker hands it each text once. [F-14]
func TestPeersNetSMPP(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(netSMPPPath)
	if err != nil {
		t.Fatalf("%v: install the peers with scripts/peers", err)
	}
	port := freePort(t)
	changed := strings.NewReplacer("$port = 9900;", "$port = "+port+";", "$trace = 0;", "$trace = 1;") // the two settings that it has no flag for
	copied := filepath.Join(t.TempDir(), "smsc.pl")
	if err := os.WriteFile(copied, []byte(changed.Replace(string(script))), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, perlPath, copied, "3")
	accepts(t, port)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	routes := ""
	for country, bind := range map[string]string{"GB": "transceiver", "FR": "both", "DE": "transmitter"} {
		routes += fmt.Sprintf("[[route]]\nname = \"%s\"\nvia = \"smpp\"\nurl = \"smpp://me@127.0.0.1:%s\"\npassword-file = \"%s\"\nfrom = \"Bluejay\"\nbind = \"%s\"\ncountries = [\"%s\"]\n",
			bind, port, password, bind, country)
	}
	b := newBench(t, routes)
	if out, code := run(t, "sms", "check", "--sms-routes", b.routes); code != 0 {
		t.Errorf("check: exit code %d: %s", code, out)
	}
	b.work()
	to := []string{"+447400000001", "+447400000001", "+33644000001", "+4915123456789"}
	for i, n := range to {
		b.becomes(b.queue(n, fmt.Sprintf("text <%d>", i), wire.ClassNormal), "submitted")
	}
	log := ""
	until(t, "its log has them", func() bool { // what it wrote last may not have been read yet
		log = p.log.String()
		for i, n := range to {
			if !strings.Contains(log, fmt.Sprintf("'short_message' => 'text <%d>'", i)) || !strings.Contains(log, fmt.Sprintf("'destination_addr' => '%s'", n[1:])) {
				return false
			}
		}
		return true
	})
	for i, n := range to {
		if k := strings.Count(log, fmt.Sprintf("'short_message' => 'text <%d>'", i)); k != 1 {
			t.Errorf("it got text %d %d times", i, k)
		}
		if !strings.Contains(log, fmt.Sprintf("'destination_addr' => '%s'", n[1:])) {
			t.Errorf("it got nothing for %s", n)
		}
	}
}

const gammuConf = `[gammu]
model = dummy
connection = none
port = %[1]s/phone
device = %[1]s/phone
[smsd]
service = files
checksecurity = 0
checkbattery = 0
checksignal = 0
checknetwork = 0
commtimeout = 1
loopsleep = 1
receivefrequency = 1
inboxpath = %[1]s/in/
outboxpath = %[1]s/out/
sentsmspath = %[1]s/sent/
errorsmspath = %[1]s/error/
%[2]s
logfile = stderr
debuglevel = 1
`

// phoneSMS is a text in the dummy phone's memory, as gammu-smsbackup(1) writes it.
const phoneSMS = `[SMSBackup000]
SMSC = "+447400000000"
SMSCValidity = 255
State = UnRead
Number = "%s"
DateTime = 20260101T000000
Coding = Default_No_Compression
Folder = 1
Length = %d
Class = -1
Text00 = %X
`

// TestPeersGammu: gammu-smsd with its dummy phone on the worker's spool: texts in one part, in several
// and in UCS-2 leave it once each, and what was sent leaves the spool. A STOP that the phone got puts its
// number on the list, in each format that smsd may write it in. The dummy phone never fails to send: what
// becomes of the error folder is for the tests of package sms. [F-14] [F-18]
func TestPeersGammu(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"inboxformat = unicode", "inboxformat = standard", "inboxformat = detail", ""} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, d := range []string{"in", "out", "sent", "error", "phone/sms/1"} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			conf := filepath.Join(dir, "smsdrc")
			if err := os.WriteFile(conf, fmt.Appendf(nil, gammuConf, dir, format), 0o600); err != nil {
				t.Fatal(err)
			}
			p := startProgram(t, gammuSMSDPath, "-c", conf)
			routes := fmt.Sprintf("[[route]]\nname = \"modem\"\nvia = \"gammu\"\nfrom = \"Bluejay\"\n[route.gammu]\noutbox = \"%[1]s/out\"\nsent = \"%[1]s/sent\"\nerror = \"%[1]s/error\"\ninbox = \"%[1]s/in\"\npoll = \"100ms\"\n", dir)
			b := newBench(t, routes)
			if out, code := run(t, "sms", "check", "--sms-routes", b.routes); code != 0 {
				t.Errorf("check: exit code %d: %s", code, out)
			}
			b.work()
			long := strings.Repeat("more than one part ", 12)
			for i, text := range []string{"one part", long, "привет, 😀"} {
				b.becomes(b.queue(number(i), text, wire.ClassNormal), "submitted")
			}
			until(t, "the phone has sent them", func() bool { return strings.Count(p.log.String(), "(total: ") == 3 })
			for i, want := range []string{`Found 1 sms to "%s" with text "one part"`, `Found 2 sms to "%s" with text "more than`, `Found 1 sms to "%s" with text "привет, 😀"`} {
				if want = fmt.Sprintf(want, number(i)); strings.Count(p.log.String(), want) != 1 {
					t.Errorf("not once: %s", want)
				}
			}
			until(t, "nothing is left in the spool", func() bool {
				left, _ := filepath.Glob(filepath.Join(dir, "[oes]*", "OUT*"))
				return len(left) == 0
			})
			stop := fmt.Appendf(nil, phoneSMS, number(0), 4, []byte("\x00S\x00T\x00O\x00P"))
			if err := os.WriteFile(filepath.Join(dir, "phone/sms/1/1"), stop, 0o600); err != nil {
				t.Fatal(err)
			}
			b.figure(`bluejay_sms_suppressions_total{keyword="stop"} 1`)
			b.becomes(b.queue(number(0), "after STOP", wire.ClassNormal), "suppressed")
			until(t, "what came in is gone", func() bool {
				left, _ := filepath.Glob(filepath.Join(dir, "in", "IN*"))
				return len(left) == 0
			})
			if strings.Contains(p.log.String(), "after STOP") {
				t.Error("an SMS after STOP")
			}
		})
	}
}
