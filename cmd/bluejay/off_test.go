package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// operator runs f with the operator's connection to a world's node.
func (w *world) operator(f func(context.Context, *bridge.Bridge) error) {
	w.t.Helper()
	b, err := connect(bounded(w.t), bridge.RoleOperator, &nodeConfig{Dir: w.dir}, w.at.NATS, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(f(bounded(w.t), b), b.Close(bounded(w.t))); err != nil {
		w.t.Fatal(err)
	}
}

// ran is a command that ended: what it printed, on both outputs.
func ran(t *testing.T, code int, args ...string) string {
	t.Helper()
	p := bluejay(t, nil, args...)
	if got := p.wait(t); got != code {
		t.Errorf("%v: exit code %d, want %d", args, got, code)
	}
	out := p.stderr.String()
	for line := range p.lines {
		out += string(line) + "\n"
	}
	return out
}

// offByPhone switches bob off from a phone without an account, with a wrong password on the way.
func (w *world) offByPhone(t *testing.T) {
	var node phoneNode
	node.dir = w.dir
	cfg, err := node.config()
	if err != nil {
		t.Fatal(err)
	}
	number, err := wire.ParseNumber(bobNumber)
	if err != nil {
		t.Fatal(err)
	}
	in, typed := io.Pipe()
	go func() {
		text := w.sms("a password", func(m smsc.Message) bool {
			return m.To == bobNumber && strings.Contains(m.Text, "switches Bluejay off")
		})
		otp := passwordPattern.FindString(text)
		wrong := "000000"
		if otp == wrong {
			wrong = "000001"
		}
		_, _ = fmt.Fprintf(typed, "hello\n%s\n%s\n", wrong, otp)
		_ = typed.Close()
	}()
	var out strings.Builder
	if err := switchOff(bounded(t), cfg, number, in, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if strings.Count(out.String(), wire.WrongPassword.String()) != 2 || !strings.Contains(out.String(), "Off: nothing goes") {
		t.Errorf("%q", &out)
	}
}

// TestFourWaysOffWithoutTheDevice: STOP, another phone, the operator and an erasure each end in silence that
// everybody sees, and after each bob can agree again; after the erasure once he has enrolled anew. The fifth
// way is the handset's own. [A-3] [A-4] [A-5] [A-6] [P-7] [C-revoke]
func TestFourWaysOffWithoutTheDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	alice, bob := w.pair()
	scopes := wire.ScopeMessaging | wire.ScopePresence
	for name, off := range map[string]func(){
		"stop": func() { w.smsc.Say(bobNumber, "Bluejay", "STOP") },
		"operator": func() {
			out := ran(t, 0, "consent", "revoke", bobNumber, "--dir", w.dir)
			if !strings.Contains(out, "cause 3, operator") || strings.Contains(out, bobNumber[1:]) {
				t.Errorf("%q", out)
			}
		},
	} {
		seq := bob.Status().Seq
		off()
		w.isOff(alice, bob, name)
		if name == "stop" {
			w.smsc.Say(bobNumber, "Bluejay", "START") // else he gets no password by SMS below
			w.sms("the answer to START", func(m smsc.Message) bool { return m.To == bobNumber && strings.Contains(m.Text, "You can get SMS") })
		}
		w.onAgain(alice, bob, name, scopes, seq+2)
	}
	seq := bob.Status().Seq
	w.offByPhone(t)
	w.isOff(alice, bob, "another phone")
	w.onAgain(alice, bob, "another phone", scopes, seq+2)

	sealed, err := sealNumber(w.dir, "-", strings.NewReader(bobNumber+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.operator(func(ctx context.Context, b *bridge.Bridge) error {
		got, err := b.Off(ctx, sealed, wire.CauseErasure)
		if err == nil && got != bob.Status().Seq+1 {
			t.Errorf("erased with seq %d, want %d", got, bob.Status().Seq+1)
		}
		return err
	})
	alice.awaits("grey", colour(alice.contact, handset.Grey))
	bob.awaits("his certificate is refused", func(e handset.Event) bool { return e.Kind == handset.Refused && e.Code == wire.Revoked })
	w.operator(func(ctx context.Context, b *bridge.Bridge) error {
		if got, err := b.Off(ctx, sealed, wire.CauseErasure); err != nil || got != 0 {
			t.Errorf("once more, nobody is enrolled: seq %d, %v", got, err)
		}
		return nil
	})
	if err := bob.Enrol(bounded(t), bob.number, bob.Notice("en")); err != nil {
		t.Fatalf("enrol anew: %v", err)
	}
	all := func() (texts []string) {
		for _, m := range w.smsc.Messages() {
			if m.To == bobNumber && passwordPattern.MatchString(m.Text) && !strings.Contains(m.Text, "switches") {
				texts = append(texts, m.Text)
			}
		}
		return texts
	}
	until(t, "the second password", func() bool { return len(all()) == 2 })
	if err := bob.Confirm(bounded(t), passwordPattern.FindString(all()[1])); err != nil {
		t.Fatalf("the new certificate: %v", err)
	}
	if err := bob.OptIn(bounded(t), scopes, wire.Listed); err != nil || !bob.Status().On {
		t.Errorf("agrees after the erasure: %v", err)
	}
	w.refusedOffs(t)
	_, metrics := get(t, "http://"+w.at.HTTP+"/metrics")
	for _, want := range []string{
		`bluejay_revocation_seconds_count{part="receipt"} 4`, `bluejay_revocation_seconds_count{part="last_byte"} 4`,
		"bluejay_revocations_total 4", "bluejay_post_revocation_deliveries_total 0",
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	w.stop()
}

// isOff waits until both see that bob is off.
func (w *world) isOff(alice, bob *phone, how string) {
	w.t.Helper()
	alice.awaits(how+": bob turns grey", colour(alice.contact, handset.Grey))
	bob.awaits(how+": bob is off", func(e handset.Event) bool { return e.Kind == handset.ConsentEnded })
	if bob.Status().On {
		w.t.Errorf("%s: bob is still on", how)
	}
}

// onAgain has bob agree again: the device has learnt the stored seq.
func (w *world) onAgain(alice, bob *phone, how string, scopes wire.Scope, seq uint32) {
	w.t.Helper()
	if err := errors.Join(bob.OptIn(bounded(w.t), scopes, wire.Listed), bob.Connect(bounded(w.t))); err != nil {
		w.t.Fatalf("%s: bob agrees again: %v", how, err)
	}
	if got := bob.Status().Seq; got != seq {
		w.t.Errorf("%s: his record has seq %d, want %d", how, got, seq)
	}
	alice.viaIP(bob, "hello again after "+how)
}

// refusedOffs: what the operator cannot mean is said, and a stranger's number is nobody's.
func (w *world) refusedOffs(t *testing.T) {
	for _, tt := range []struct {
		number string
		code   int
		want   string
	}{
		{"+447700900999", 0, "Nobody has enrolled with this number"}, {"07700900123", 1, "number"},
	} {
		if out := ran(t, tt.code, "consent", "revoke", tt.number, "--dir", w.dir); !strings.Contains(out, tt.want) {
			t.Errorf("%s: %q", tt.number, out)
		}
	}
	if out := ran(t, 0, "consent", "revoke", "+447700900999", "--json", "--dir", w.dir); !strings.Contains(out, `"enrolled":false`) {
		t.Errorf("%q", out)
	}
	if out := ran(t, 1, "consent", "revoke", aliceNumber, "--dir", t.TempDir()); !strings.Contains(out, "pins") {
		t.Errorf("no node: %q", out)
	}
}
