package handset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// The notices are short, and each is pinned by its hash. [U-1]
func TestNotices(t *testing.T) {
	h := &Handset{}
	en, zh := h.Notice("en"), h.Notice("zh-CN")
	if n := len(strings.Fields(en.Text)); n == 0 || n > 120 {
		t.Errorf("the English notice has %d words, want at most 120", n)
	}
	if n := utf8.RuneCountInString(zh.Text); n == 0 || n > 240 {
		t.Errorf("the Chinese notice has %d characters, want at most 240", n)
	}
	if en.Lang != "en" || zh.Lang != "zh" || h.Notice("fr") != en || h.Notice("../zh") != en {
		t.Error("the language shown is not the one asked for, or English")
	}
	for _, n := range []Notice{en, zh} {
		if n.Hash != wire.NoticeHash(n.Text) || n != noticeIn(n.Lang) {
			t.Errorf("%s: the hash is not that of the text", n.Lang)
		}
	}
}

// Before the user accepts, not a byte is sent, whatever else is done. [U-1]
func TestZeroBytesBeforeAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		dialled := false
		p := newPhone(t, b, aliceNumber, func(c *Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, n, a string) (net.Conn, error) { dialled = true; return dial(ctx, n, a) }
		})
		c := p.contact("Bob", bobNumber)
		p.send(c, "too early")
		_ = p.Connect(t.Context())
		_ = p.OptIn(t.Context(), everything, wire.Listed)
		other := p.Notice("en")
		other.Text += " "
		if err := p.Enrol(t.Context(), p.number, other); !errors.Is(err, ErrNotice) {
			t.Errorf("enrol with another notice: %v, want ErrNotice", err)
		}
		settle(48 * time.Hour)
		if dialled || b.received() != 0 {
			t.Errorf("dialled %v, %d bytes sent", dialled, b.received())
		}
	})
}

// A wrong password can be tried again; the certificate comes with the right one. [P-14]
func TestWrongPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		if err := p.Enrol(t.Context(), p.number, p.Notice("zh")); err != nil {
			t.Fatal(err)
		}
		p.reopen() // between the two requests the process may end
		if err := p.Confirm(t.Context(), "000000"); !errors.Is(err, wire.WrongPassword) {
			t.Errorf("wrong password: %v", err)
		}
		if err := p.Confirm(t.Context(), fakeOTP); err != nil {
			t.Errorf("right password: %v", err)
		}
		if s := p.Status(); !s.Enrolled || !s.Connected || s.On {
			t.Errorf("status %+v; want enrolled, connected and off", s)
		}
	})
}

// A proof verifies with two public keys, and names the notice that was shown. [U-10] [P-8]
func TestProofs(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, _, _ ContactID) {
		if err := alice.OptOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		proofs := alice.Proofs()
		if len(proofs) != 2 {
			t.Fatalf("%d proofs, want 2: one in, one out", len(proofs))
		}
		for i, p := range proofs {
			err := errors.Join(p.Cert.Verify(publicOf(b.registrar), time.Now()), p.Consent.Verify(p.Cert.Device),
				p.Receipt.Verify(publicOf(b.receipt), p.Consent.Marshal()))
			if err != nil || p.Consent.Notice != alice.Notice("en").Hash {
				t.Errorf("proof %d does not verify: %v", i, err)
			}
		}
		if proofs[0].Consent.Scopes != everything || proofs[1].Consent.Scopes != 0 {
			t.Error("the scopes are not what was chosen")
		}
	})
}

// A receipt is saved in the form that `bluejay consent verify` takes, with its entry in the log; it
// outlives the process. [U-10] [L-2]
func TestWriteReceipt(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, _, _ ContactID) {
		var export bytes.Buffer
		check := func(scopes wire.Scope, entry consent.Entry) {
			t.Helper()
			var file bytes.Buffer
			if err := alice.WriteReceipt(&file); err != nil {
				t.Fatal(err)
			}
			got, err := consent.ParseProofs(file.Bytes())
			if err != nil || len(got) != 1 || got[0].Entry != entry {
				t.Fatalf("%s: %+v, %v; want entry %+v", file.Bytes(), got, err, entry)
			}
			p, err := consent.VerifyProof(got[0].Proof, publicOf(b.registrar), []wire.PublicKey{publicOf(b.receipt)})
			if err != nil || p.Record.Scopes != scopes {
				t.Errorf("scopes %v, %v; want %v", p.Record.Scopes, err, scopes)
			}
		}
		check(everything, fakeEntry(1))
		if err := alice.OptOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		alice.reopen()
		check(0, fakeEntry(2))
		if err := alice.OptIn(t.Context(), wire.ScopeMessaging, wire.Listed); err != nil { // a broker without a log
			t.Fatal(err)
		}
		check(wire.ScopeMessaging, consent.Entry{})
		if err := alice.Export(&export); err != nil {
			t.Fatal(err)
		}
		all, err := consent.ParseProofs(export.Bytes())
		if err != nil || len(all) != 3 || all[0].Entry != fakeEntry(1) || all[1].Entry != fakeEntry(2) || !all[2].Entry.IsZero() {
			t.Errorf("of the export: %+v, %v", all, err)
		}
		for i, p := range alice.Proofs() {
			if p.Entry != all[i].Entry {
				t.Errorf("proof %d has entry %+v", i, p.Entry)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPhone(t, newFakeBroker(t), aliceNumber, nil)
		if err := p.WriteReceipt(&bytes.Buffer{}); !errors.Is(err, ErrNoProof) {
			t.Errorf("before any consent: %v", err)
		}
	})
}

// After OptOut nothing goes to or from the device; switched on again, conversations go on. [U-10] [C-revoke]
func TestOptOut(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		if err := bob.OptOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if s := bob.Status(); s.On || s.Connected {
			t.Errorf("after opting out: %+v", s)
		}
		if alice.Contacts()[0].Colour != Grey {
			t.Error("Alice still sees Bob")
		}
		if bob.Contacts()[0].Colour != Grey {
			t.Error("Bob, who has opted out, still sees Alice blue: nothing can go to her")
		}
		before := b.received()
		_ = alice.Disconnect(t.Context())
		settle(48 * time.Hour)
		if n := b.received() - before; n > 2 { // Alice's own DISCONNECT
			t.Errorf("%d bytes after opting out", n)
		}
		if err := errors.Join(alice.Connect(t.Context()), bob.OptIn(t.Context(), everything, wire.Listed)); err != nil {
			t.Fatal(err)
		}
		id := alice.send(toBob, "welcome back")
		settle(time.Minute)
		alice.wantState(id, Delivered, fallback.PathIP)
	})
}

// A revocation whose PUBACK was lost is sent again at the next connection. [U-10]
func TestOptOutIsNotLost(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, _, _ ContactID) {
		b.setJudge(func(_ wire.ID, t wire.Topic, _ []byte) (wire.Code, bool) { return wire.OK, t.Kind == wire.TopicConsent })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := alice.OptOut(ctx); !errors.Is(err, wire.Unavailable) && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("opt out without an answer: %v", err)
		}
		b.setJudge(nil)
		alice.reopen()
		if err := alice.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if b.scopes(alice.Status().ID) != 0 {
			t.Error("the broker was never told")
		}
		if alice.Status().Connected {
			t.Error("still connected after a revocation")
		}
	})
}

// Consent that ended elsewhere turns everything off here, and says so, whether or not the connection that ended could
// still say why. [U-10]
func TestConsentEndedElsewhere(t *testing.T) {
	for name, why := range map[string]wire.Reason{"cut at once": 0, "told why first": wire.Reason(wire.CauseStop)} {
		t.Run(name, func(t *testing.T) { consentEndsElsewhere(t, why) })
	}
}

func consentEndsElsewhere(t *testing.T, why wire.Reason) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		id := alice.Status().ID
		if why != 0 {
			b.tell(id, why)
			settled()
		}
		for range 2 { // a second STOP changes nothing for who is off
			b.mu.Lock()
			b.states[id].seq += 1
			b.states[id].scopes = 0
			b.mu.Unlock()
			b.cut(id)
			settle(10 * time.Second)
		}
		if s := alice.Status(); s.On || s.Reason != why || alice.events(ConsentEnded) != 1 || alice.Contacts()[0].Colour != Grey {
			t.Errorf("%+v, told %d times", s, alice.events(ConsentEnded))
		}
		if err := alice.OptIn(t.Context(), everything, wire.Listed); err != nil {
			t.Errorf("opt in again: %v", err)
		}
		text := alice.send(toBob, "I am back")
		settle(time.Minute)
		alice.wantState(text, Delivered, fallback.PathIP)
	})
}

// A receipt of another broker switches nothing on. [P-8]
func TestForeignReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		p := newPhone(t, b, aliceNumber, nil)
		if err := errors.Join(p.Enrol(t.Context(), p.number, p.Notice("en")), p.Confirm(t.Context(), fakeOTP)); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.receipt = newKey()
		b.mu.Unlock()
		if err := p.OptIn(t.Context(), everything, wire.Listed); !errors.Is(err, ErrReceipt) {
			t.Errorf("foreign receipt: %v, want ErrReceipt", err)
		}
		if p.Status().On {
			t.Error("switched on by a foreign receipt")
		}
	})
}

// A new device of a number that had one begins above the old one's consent. [P-6]
func TestSeqOfAnOlderDevice(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, _ *phone, _, _ ContactID) {
		settle(time.Minute)
		again := newPhone(t, b, aliceNumber, nil)
		again.join(everything)
		if s := again.Status(); !s.On || s.Seq != 2 || s.Gen != 1 {
			t.Errorf("status %+v; want on, seq 2, gen 1", s)
		}
	})
}

// Unlisted: no bundle is published, so only this user opens conversations. [P-6]
func TestUnlisted(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		if err := bob.OptOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := bob.OptIn(t.Context(), everything, wire.Unlisted); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if b.bundle(bob.Status().ID) != nil {
			t.Error("a bundle is published")
		}
		id := bob.send(toAlice, "only I can begin")
		settle(time.Second)
		bob.wantState(id, Delivered, fallback.PathIP)
	})
}

// A state put back from an older copy is recognised by its tag generation. [U-7]
func TestRolledBack(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		log := filepath.Join(alice.cfg.Dir, logName)
		old, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := alice.RotateTag(t.Context()); err != nil {
			t.Fatal(err)
		}
		alice.close()
		if err := os.WriteFile(log, old, 0o600); err != nil {
			t.Fatal(err)
		}
		alice.open()
		sealed := len(b.messages())
		if err := alice.Connect(t.Context()); !errors.Is(err, ErrRolledBack) {
			t.Errorf("connect: %v, want ErrRolledBack", err)
		}
		alice.send(toBob, "with an old key")
		settle(time.Second)
		if len(b.messages()) != sealed || alice.events(RolledBack) != 1 {
			t.Error("something was sealed in an old state, or the user was not told")
		}
	})
}

// A copied directory is refused; told to go on, the handset begins every conversation anew. [U-7]
func TestCopied(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		alice.close()
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(alice.cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{logName, lockName} {
			if err := os.Chmod(filepath.Join(copied, f), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(copied, 0o700); err != nil {
			t.Fatal(err)
		}
		alice.cfg.Dir = copied
		if _, err := Open(alice.cfg); !errors.Is(err, ErrCopied) {
			t.Fatalf("open a copy: %v, want ErrCopied", err)
		}
		alice.cfg.Moved = true
		alice.open()
		if err := alice.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		hellos := b.count(wire.TopicHello)
		id := alice.send(toBob, "from the copy")
		settle(time.Minute)
		alice.wantState(id, Delivered, fallback.PathIP)
		if b.count(wire.TopicHello) != hellos+1 {
			t.Error("the copy went on in an old session")
		}
		alice.reopen() // the new place is recorded
	})
}

// Numbers, names and texts are neither printed nor logged. [U-12]
func TestNothingIsPrinted(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		quiet := func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		alice, bob := newPhone(t, b, aliceNumber, quiet), newPhone(t, b, bobNumber, nil)
		alice.join(everything)
		bob.join(everything)
		toBob, toAlice := alice.contact("Robert", bobNumber), bob.contact("Alice", aliceNumber)
		talk(t, alice, bob, toBob, toAlice)
		b.setRefuse(3)
		b.cut(alice.Status().ID)
		settle(time.Minute)
		for _, v := range []any{alice.Contacts(), alice.Texts(toBob), Dialled("+447700900002"), alice.Contacts()[0], alice.Texts(toBob)[0]} {
			_, _ = fmt.Fprintf(&log, "%v %+v %#v %s\n", v, v, v, v)
			slog.New(slog.NewJSONHandler(&log, nil)).Info("value", "v", fmt.Sprint(v))
		}
	})
	for _, secret := range []string{"7700900", "Robert", "hello"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is printed:\n%s", secret, log.String())
		}
	}
}

// Export has everything of the user's, and no private key. [U-12]
func TestExport(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		var out bytes.Buffer
		if err := alice.Export(&out); err != nil {
			t.Fatal(err)
		}
		var e exported
		if err := json.Unmarshal(out.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Number != aliceNumber || len(e.Contacts) != 1 || e.Contacts[0].Number != bobNumber || len(e.Proofs) != 1 {
			t.Error("number, contact or proof is missing")
		}
		var texts []string
		for _, x := range e.Texts {
			texts = append(texts, x.Text)
		}
		if diff := cmp.Diff([]string{"hello", "hello yourself"}, texts); diff != "" {
			t.Error(diff)
		}
		if seed := b64.EncodeToString(alice.m.self.Device); strings.Contains(out.String(), seed) {
			t.Error("the device key is exported")
		}
	})
}

// The state can be read from the disk alone, as an audit does after a crash. [U-6]
func TestReadState(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		got, err := ReadState(alice.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Contacts) != 1 || len(got.Outbox()) != 1 || len(got.Received()) != 1 {
			t.Errorf("%d contacts, %d out, %d in; want one of each", len(got.Contacts), len(got.Outbox()), len(got.Received()))
		}
		if diff := cmp.Diff(alice.Texts(toBob), got.Texts); diff != "" {
			t.Errorf("texts differ from those of the live handset:\n%s", diff)
		}
		if _, err := ReadState(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("an empty directory: %v", err)
		}
	})
}

// What is deleted is gone from the disk. [U-12]
func TestDelete(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		talk(t, alice, bob, toBob, toAlice)
		keep := alice.send(toBob, "keep this")
		gone := alice.send(toBob, "forget this")
		settle(time.Second)
		if err := alice.DeleteText(gone); err != nil {
			t.Fatal(err)
		}
		log := func() string {
			b, err := os.ReadFile(filepath.Join(alice.cfg.Dir, logName))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		if strings.Contains(log(), "forget this") || !strings.Contains(log(), "keep this") {
			t.Error("the deleted text is on disk, or the other is not")
		}
		alice.wantState(keep, Delivered, fallback.PathIP)
		if err := alice.DeleteConversation(toBob); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log(), "keep this") || len(alice.Texts(toBob)) != 0 || len(alice.Contacts()) != 1 {
			t.Error("the conversation is still there, or the contact is not")
		}
		alice.reopen()
	})
}

// The safety number is the same on both sides, sixty digits in twelve groups. [U-5]
func TestSafetyNumber(t *testing.T) {
	pair(t, func(t *testing.T, b *fakeBroker, alice, bob *phone, toBob, toAlice ContactID) {
		if _, err := alice.SafetyNumber(toBob); !errors.Is(err, ErrNoKey) {
			t.Errorf("before a conversation: %v, want ErrNoKey", err)
		}
		talk(t, alice, bob, toBob, toAlice)
		a, err1 := alice.SafetyNumber(toBob)
		b2, err2 := bob.SafetyNumber(toAlice)
		if err := errors.Join(err1, err2); err != nil || a != b2 {
			t.Errorf("the two sides differ (%v)", err)
		}
	})
	a, b := wire.ID{1}, wire.ID{2}
	got := safetyNumber(b, wire.PublicKey{4}, a, wire.PublicKey{3})
	const frozen = "00000"
	if groups := strings.Fields(got); len(groups) != 12 || slices.ContainsFunc(groups, func(g string) bool { return len(g) != len(frozen) }) {
		t.Errorf("safety number %q, want 12 groups of 5", got)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "safety.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), got); diff != "" {
		t.Error(diff)
	}
}

// Events that nobody reads are dropped, and it is said that they were.
func TestMissedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(t)
		h, err := Open(Config{Dir: privateDir(t), Pins: b.pins(), Addr: "127.0.0.1:1", Dial: b.dial, EventBuffer: 2})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			h.emit(Event{Kind: Connected})
		}
		<-h.Events()
		<-h.Events()
		h.emit(Event{Kind: Disconnected})
		if e := <-h.Events(); e.Kind != Missed {
			t.Errorf("event %d, want Missed", e.Kind)
		}
		if e := <-h.Events(); e.Kind != Disconnected {
			t.Errorf("event %d, want Disconnected", e.Kind)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}
