package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/consent"
	"bluejay/envelope"
	"bluejay/fallback"
	"bluejay/sms/smsc"
	"bluejay/wire"
)

// who is a person as the node knows them, worked out from the node's keys without its code for that.
type who struct {
	id         wire.ID
	hash       [16]byte
	pseudonyms []wire.Pseudonym
	device     []byte
	messages   []string // ids of the jobs sent
	events     string   // the pseudonym for the integrator
}

func (w *world) who(t testing.TB, number string) who {
	t.Helper()
	reg, err1 := registrarConfig(rolesDir(w.dir, bridge.RoleRegistrar))
	tag, err2 := rolesDir(w.dir, bridge.RoleBroker).exactly(fileTag, sizeTag)
	key, err3 := rolesDir(w.dir, bridge.RoleWorker).exactly(fileNumber, sizeNumber)
	n, err4 := wire.ParseNumber(number)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	id, err := reg.VOPRF.FullEvaluate(n)
	if err != nil {
		t.Fatal(err)
	}
	p := who{id: id}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(number))
	copy(p.hash[:], m.Sum(nil))
	today := uint32(time.Now().Unix() / 86400)
	for day := today - 2; day <= today+1; day++ {
		p.pseudonyms = append(p.pseudonyms, wire.MakePseudonym(tag, id, day))
	}
	if k, err := integratorsDir(w.dir).exactly("acme"+extKey, sizeEvent); err == nil {
		p.events = wire.IntegratorPseudonym(k, id).String()
	}
	return p
}

// spellings are the ways in which bytes stand in a file.
func spellings(b []byte) []string {
	all := []string{
		string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)),
		base64.RawURLEncoding.EncodeToString(b), base64.RawStdEncoding.EncodeToString(b),
	}
	numbers := make([]string, len(b)) // as encoding/json writes an array of bytes
	for i, x := range b {
		numbers[i] = fmt.Sprint(x)
	}
	return append(all, "["+strings.Join(numbers, ",")+"]")
}

// strong are the marks that point to the person for ever, weak those of a day or a job.
func (p who) strong() []string {
	s := append(spellings(p.id[:]), spellings(p.hash[:])...)
	if p.device != nil {
		s = append(s, spellings(p.device)...)
	}
	return s
}

func (p who) weak() (s []string) {
	for _, x := range p.pseudonyms {
		s = append(s, spellings(x[:])...)
	}
	s = append(s, p.messages...)
	if p.events != "" {
		s = append(s, p.events)
	}
	return s
}

func among(b []byte, marks []string) bool {
	return slices.ContainsFunc(marks, func(m string) bool { return bytes.Contains(b, []byte(m)) })
}

var streamOfFile = regexp.MustCompile(`/streams/([^/]+)/`)

// inFiles searches every file of the node, and says in which streams, or else files, a mark stands.
func (w *world) inFiles(t testing.TB, marks []string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server has replaced it
		}
		if among(b, marks) || among([]byte(d.Name()), marks) {
			if m := streamOfFile.FindStringSubmatch(path); m != nil {
				path = m[1]
			}
			found[path] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// where a message lies.
type spot struct {
	store string
	seq   uint64
}

// everything reads every message of every stream, with all that the three roles may read.
func (w *world) everything(t testing.TB) (all []wire.Held) {
	t.Helper()
	add := func(held []wire.Held, err error) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, held...)
	}
	for r, streams := range map[bridge.Role][]string{
		bridge.RoleRegistrar: {"KV_bj_counts"},
		bridge.RoleBroker:    {"KV_bj_consent", "KV_bj_void", wire.StreamJobs, wire.StreamOutcomes, bridge.StreamDead, wire.StreamEvents},
		bridge.RoleWorker:    {"KV_bj_journal", "KV_bj_suppressed", "KV_bj_keys", wire.StreamCaps},
	} {
		b := w.as(t, r)
		for _, s := range streams {
			add(b.About(bounded(t), s, ">"))
		}
	}
	if creds := integratorsDir(w.dir).path("acme" + extCreds); exists(creds) {
		i, err := w.as(t, bridge.RoleBroker).OpenIntegrator(bounded(t), bridge.IntegratorConfig{URL: w.at.NATS, Creds: creds, Name: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		add(i.Held(bounded(t), wire.IntegratorSubjects()))
	}
	return all
}

func exists(file string) bool { _, err := os.Stat(file); return err == nil }

// as connects with a role's own credentials.
func (w *world) as(t testing.TB, r bridge.Role) *bridge.Bridge {
	t.Helper()
	b, err := bridge.Connect(bounded(t), bridge.Config{URL: w.at.NATS, Role: r, Creds: rolesDir(w.dir, r).path(fileCreds), Timeout: testTime})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(bounded(t)) })
	return b
}

// asked is `bluejay number hold NUMBER --json`.
func (w *world) asked(t *testing.T, number string) document {
	t.Helper()
	out, code := run(t, "number", "hold", number, "--dir", w.dir, "--json")
	var d document
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	return d
}

func (d document) places() map[spot]bool {
	found := map[spot]bool{}
	for _, s := range d.Stores {
		for _, h := range s.Items {
			found[spot{h.Store, h.Seq}] = true
		}
	}
	return found
}

func (d document) items(store string) (n int) {
	for _, s := range d.Stores {
		if s.Store == store {
			n += len(s.Items)
		}
	}
	return n
}

// twoRoutes is a routes file: to Germany it is a quiet hour, and jobs wait.
func twoRoutes(t testing.TB, addr string) string {
	t.Helper()
	dir := t.TempDir()
	password, file := filepath.Join(dir, "password"), filepath.Join(dir, "routes.toml")
	route := "[[route]]\nname = %q\nvia = \"smpp\"\nurl = \"smpp://" + smsc.SystemID + "@" + addr + "\"\npassword-file = \"" + password + "\"\nfrom = \"Bluejay\"\n%s\n"
	now := time.Now().UTC()
	quiet := fmt.Sprintf("countries = [\"DE\"]\nquiet = \"%s-%s UTC\"", now.Add(-time.Hour).Format("15:04"), now.Add(2*time.Hour).Format("15:04"))
	text := fmt.Sprintf(route, "smpp", "") + fmt.Sprintf(route, "quiet", quiet)
	if err := errors.Join(os.WriteFile(password, []byte(smsc.Password+"\n"), 0o600), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

// full has alice do all that leaves something behind, and then leave.
func (w *world) full(t *testing.T) who {
	t.Helper()
	if out, code := run(t, "nats", "creds", "acme", "--dir", w.dir, "--out", filepath.Join(t.TempDir(), "acme.creds")); code != 0 {
		t.Fatal(out)
	}
	alice, bob := w.pair()
	until(t, "the integrator is served", func() bool {
		_, body := get(t, "http://"+w.at.HTTP+"/metrics")
		return strings.Contains(body, "bluejay_integrators 1")
	})
	all := wire.ScopeMessaging | wire.ScopePresence | wire.ScopeGateway | wire.ScopeIntegrations
	if err := alice.OptIn(bounded(t), all, wire.Listed); err != nil {
		t.Fatal(err)
	}
	id := alice.viaSMS(bob, "by SMS, and an integrator hears of it")
	p := w.who(t, aliceNumber)
	mine := p.pseudonyms[2]
	b, k := w.as(t, bridge.RoleBroker), w.as(t, bridge.RoleWorker)
	none := func(stream, subject string) func() bool {
		return func() bool {
			held, err := b.About(bounded(t), stream, subject)
			return err == nil && len(held) == 0
		}
	}
	// Nothing may come or go any more while hold and the scan are compared.
	until(t, "her phone has the last word", func() bool { return alice.state(id) == handset.SMSDelivered })
	until(t, "no receipt is on its way", func() bool { return w.smsc.Unreported() == 0 })
	until(t, "her phone has fetched what was kept for it", none(wire.StreamOutcomes, wire.OutcomeSubject(mine)))
	until(t, "the integrator has the last event", func() bool {
		return w.inFiles(t, []string{"sms.delivered." + p.events})[bridge.StreamIntegrator]
	})
	if err := alice.Close(); err != nil { // or it would fetch its outcomes
		t.Fatal(err)
	}
	dead := []byte("nothing that anybody sealed")
	if err := b.Jobs().Enqueue(bounded(t), wire.ClassNormal, mine, wire.MessageIDOf(dead), dead, nil, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "it is among the dead", func() bool { return w.inFiles(t, []string{mine.String()})[bridge.StreamDead] })
	until(t, "it has left the queue", none(wire.StreamJobs, wire.JobSubjects()))
	key, err := w.as(t, bridge.RoleOperator).CurrentWorkerKey(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	abroad, err := wire.ParseNumber("+4915112345678")
	if err != nil {
		t.Fatal(err)
	}
	job, err := envelope.SealJob(key, envelope.Job{To: abroad, Text: "it waits", ExpiresAt: time.Now().Add(6 * time.Hour).Truncate(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Jobs().Enqueue(bounded(t), wire.ClassNormal, mine, wire.MessageIDOf(job), job, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := k.Suppressions().Suppress(bounded(t), p.hash, fallback.Suppression{At: time.Now(), Cause: fallback.CauseComplaint}); err != nil {
		t.Fatal(err)
	}
	for _, h := range w.everything(t) { // the jobs of alice, by what is told to her
		if o, err := wire.ParseOutcome(h.Raw); err == nil && h.Store == wire.StreamOutcomes && h.Key == wire.OutcomeSubject(mine) {
			p.messages = append(p.messages, o.Message.String())
		}
		if e, err := journalRow(h); err == nil && e.Sender == mine {
			p.messages = append(p.messages, strings.TrimPrefix(h.Key, "$KV.bj_journal."))
		}
	}
	return p
}

func journalRow(h wire.Held) (e fallback.Entry, err error) {
	if h.Store != "KV_bj_journal" {
		return e, errors.New("another store")
	}
	return e, json.Unmarshal(h.Raw, &e)
}

// TestHoldIsTheRawScan: what hold names is what a raw scan of every message and every file finds, and the other
// way round; after an erasure the scan finds what is documented to stay, and the person can begin anew.
// [H-1] [H-3] [H-6] [H-7] [H-8]
func TestHoldIsTheRawScan(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.args = append(w.args, "--sms-routes", twoRoutes(t, w.smsc.Addr()))
	w.start()
	p := w.full(t)
	d := w.asked(t, aliceNumber)
	p.device = deviceIn(t, d)
	w.compare(t, p, d)
	w.proves(t, d)
	for _, store := range []string{
		"KV_bj_consent", "KV_bj_counts", "KV_bj_journal", "KV_bj_suppressed", wire.StreamJobs, wire.StreamOutcomes,
		bridge.StreamDead, wire.StreamEvents, bridge.StreamIntegrator, wire.StreamCaps,
	} {
		if d.items(store) == 0 {
			t.Errorf("nothing in %s: it is not under test", store)
		}
	}
	w.exports(t, d)
	w.stranger(t, d)
	bob := w.who(t, bobNumber)
	held := w.asked(t, bobNumber)
	bob.device = deviceIn(t, held)
	w.compare(t, bob, held)

	out, code := run(t, "number", "erase", aliceNumber, "--dir", w.dir, "--yes", "--json")
	if code != 0 || !strings.Contains(out, `"whole":true`) {
		t.Fatalf("exit code %d: %s", code, out)
	}
	if now := len(w.asked(t, bobNumber).places()); now != len(held.places()) {
		t.Errorf("bob had %d things stored, and has %d", len(held.places()), now)
	}
	w.gone(t, p)
	w.again(t)
}

// compare holds an answer against the scans.
func (w *world) compare(t *testing.T, p who, d document) {
	t.Helper()
	marks := append(p.strong(), p.weak()...)
	scanned, held := map[spot]bool{}, d.places()
	for _, h := range w.everything(t) {
		whole := fmt.Appendf(nil, "%s\n%v\n%s", h.Key, h.Header, h.Raw)
		if among(whole, marks) {
			scanned[spot{h.Store, h.Seq}] = true
		}
	}
	for at := range scanned {
		if !held[at] {
			t.Errorf("the scan finds %v, hold does not", at)
		}
	}
	for at := range held {
		if !scanned[at] {
			t.Errorf("hold names %v, where the scan finds nothing", at)
		}
	}
	named := map[string]bool{}
	for at := range held {
		named[at.store] = true
	}
	if files := w.inFiles(t, marks); !maps.Equal(files, named) {
		t.Errorf("in files of %v, named are %v", slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(named)))
	}
	for _, number := range []string{aliceNumber[1:], bobNumber[1:]} {
		if b, err := json.Marshal(d); err != nil || bytes.Contains(b, []byte(number)) {
			t.Errorf("a number in the answer, %v", err)
		}
	}
}

// valueIn is a field of what the broker holds in its consent store.
func valueIn(t testing.TB, d document, store string) map[string]any {
	t.Helper()
	for _, s := range d.Stores {
		if s.Store == store && len(s.Items) == 1 {
			var v map[string]any
			if err := json.Unmarshal(s.Items[0].Value, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("not one item in %s", store)
	return nil
}

func deviceIn(t testing.TB, d document) []byte {
	t.Helper()
	cert := valueIn(t, d, "KV_bj_consent")["certificate"].(map[string]any)
	b, err := hex.DecodeString(cert["device"].(string))
	if err != nil || len(b) != 32 {
		t.Fatal(err)
	}
	return b
}

// proves checks the exported proof with the pinned keys alone. [P-8]
func (w *world) proves(t testing.TB, d document) {
	t.Helper()
	pins, err := handset.LoadPins(filepath.Join(w.dir, filePins))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := base64.StdEncoding.DecodeString(valueIn(t, d, "KV_bj_consent")["proof"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consent.VerifyProof(proof, pins.Registrar, pins.Receipt); err != nil {
		t.Errorf("the exported proof: %v", err)
	}
}

// exports: a new file, for its owner's eyes, has what hold shows; one that is there is not written over.
func (w *world) exports(t *testing.T, d document) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mine.json")
	out, code := run(t, "number", "export", aliceNumber, "--dir", w.dir, "--out", file)
	b, err := os.ReadFile(file)
	info, err2 := os.Stat(file)
	if err := errors.Join(err, err2); err != nil || code != 0 || out != "" || info.Mode().Perm() != 0o600 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	var exported document
	if err := json.Unmarshal(b, &exported); err != nil || exported.Format != documentFormat || !maps.Equal(exported.places(), d.places()) {
		t.Errorf("exported %v, %v; held %v", exported.places(), err, d.places())
	}
	if out, code := run(t, "number", "export", aliceNumber, "--dir", w.dir, "--out", file); code != 1 || !strings.Contains(out, "file exists") {
		t.Errorf("over a file: exit code %d, %s", code, out)
	}
}

var itemsOf = regexp.MustCompile(`(?s)"items": (\[\]|\[\n.*?\n      \])`)

// stranger: of a number that nobody enrolled there is nothing, in the same form. [H-2]
func (w *world) stranger(t *testing.T, d document) {
	t.Helper()
	s := w.asked(t, "+447700900999")
	if n := len(s.places()); n != 0 {
		t.Errorf("%d things about a stranger", n)
	}
	shape := func(d document) string {
		var out strings.Builder
		d.AskedAt = "_"
		if err := writeDocument(&out, d); err != nil {
			t.Fatal(err)
		}
		return itemsOf.ReplaceAllString(out.String(), `"items": _`)
	}
	if a, b := shape(d), shape(s); a != b || !strings.Contains(a, `"items": _`) {
		t.Errorf("the shapes differ:\n%s\n%s", a, b)
	}
}

// gone: no strong mark is left but the HMAC on the suppression list; weak ones only where it is documented.
func (w *world) gone(t *testing.T, p who) {
	t.Helper()
	left := w.asked(t, aliceNumber)
	for _, s := range left.Stores {
		if len(s.Items) > 0 && stays(s) == "" {
			t.Errorf("%d left in %s", len(s.Items), s.Store)
		}
	}
	if left.items("KV_bj_suppressed") != 1 || left.items(bridge.StreamIntegrator) != 1 {
		t.Errorf("the suppression and the word to the integrator stay: %v", left.places())
	}
	b, r, k := w.as(t, bridge.RoleBroker), w.as(t, bridge.RoleRegistrar), w.as(t, bridge.RoleWorker)
	for bucket, b := range map[string]*bridge.Bridge{"bj_consent": b, "bj_counts": r, "bj_journal": k, "bj_suppressed": k} {
		until(t, bucket+" is rewritten", func() bool {
			owed, err := b.About(bounded(t), "KV_"+bucket, "$KV."+bucket+".wipe")
			return err == nil && len(owed) == 0
		})
	}
	w.stop() // now the indexes are written anew, too
	only := func(what string, found map[string]bool, allowed ...string) {
		for where := range found {
			if !slices.Contains(allowed, where) {
				t.Errorf("%s in %s [H-8]", what, where)
			}
		}
	}
	only("the ID or the device", w.inFiles(t, append(spellings(p.id[:]), spellings(p.device)...)))
	only("the number's HMAC", w.inFiles(t, spellings(p.hash[:])), "KV_bj_suppressed", wire.StreamCaps)
	only("a day's pseudonym, or a job", w.inFiles(t, p.weak()), // freed space, until the server gets to it
		bridge.StreamIntegrator, wire.StreamJobs, wire.StreamOutcomes, bridge.StreamDead, wire.StreamEvents, "KV_bj_journal", wire.StreamCaps)
}

// again: the erased handset is not let in with what it has, and its user enrols as somebody new. [H-7]
func (w *world) again(t *testing.T) {
	t.Helper()
	w.start()
	old := w.phone("alice", aliceNumber)
	if err := old.Connect(bounded(t)); err == nil {
		t.Error("the erased handset connects")
	}
	if n := w.asked(t, aliceNumber).items("KV_bj_consent"); n != 0 {
		t.Errorf("the erased handset has left %d things", n)
	}
	if err := errors.Join(old.Close(), w.as(t, bridge.RoleWorker).Suppressions().Lift(bounded(t), w.who(t, aliceNumber).hash)); err != nil {
		t.Fatal(err)
	}
	seen := len(w.smsc.Messages())
	anew := w.phone("alice anew", aliceNumber)
	if err := anew.Enrol(bounded(t), anew.number, anew.Notice("en")); err != nil {
		t.Fatal(err)
	}
	var password string
	until(t, "a new password", func() bool {
		for _, m := range w.smsc.Messages()[seen:] {
			if m.To == aliceNumber {
				password = passwordPattern.FindString(m.Text)
			}
		}
		return password != ""
	})
	err := errors.Join(anew.Confirm(bounded(t), password), anew.OptIn(bounded(t), wire.ScopeMessaging, wire.Listed), anew.Connect(bounded(t)))
	if err != nil {
		t.Fatalf("somebody new: %v", err)
	}
	d := w.asked(t, aliceNumber)
	if v := valueIn(t, d, "KV_bj_consent"); v["seq"] != 1.0 {
		t.Errorf("what was before counts: %v", v)
	}
}

// role runs one role of a node in a process of its own.
func (w *world) role(t testing.TB, r bridge.Role, more ...string) *proc {
	t.Helper()
	args := []string{"serve", "--json", "--roles", string(r), "--log", "debug"}
	if r == bridge.RoleBroker {
		args = append(args, "--dir", w.dir, "--listen", "127.0.0.1:0", "--http", "")
	} else {
		args = append(args, "--nats", w.at.NATS, "--keys", string(rolesDir(w.dir, r)))
	}
	p := bluejay(t, nil, append(args, more...)...)
	at := p.ready(t)
	if r == bridge.RoleBroker {
		w.at = at
	}
	return p
}

// TestHoldNeedsEveryPart: while one process does not answer, nothing is shown, the exit code is not 0, and it is
// said who it is. [H-4]
func TestHoldNeedsEveryPart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fails := func(want ...string) {
		t.Helper()
		for _, args := range [][]string{{"hold"}, {"hold", "--json"}, {"export"}, {"erase", "--yes"}} {
			p := bluejay(t, nil, append(append([]string{"number"}, args...), aliceNumber, "--dir", w.dir)...)
			if code := p.wait(t); code != 1 {
				t.Errorf("%v: exit code %d", args, code)
			}
			for line := range p.lines {
				t.Errorf("%v shows %s", args, line)
			}
			said := p.stderr.String()
			if !slices.ContainsFunc(want, func(s string) bool { return strings.Contains(said, s) }) || strings.Contains(said, aliceNumber[1:]) {
				t.Errorf("%v says %q, want one of %q", args, said, want)
			}
		}
	}
	w.role(t, bridge.RoleBroker)
	fails("the registrar does not answer", "the registrar or the broker does not answer")
	w.role(t, bridge.RoleRegistrar)
	fails("the SMS worker does not answer")
	worker := w.role(t, bridge.RoleWorker, "--sms", "console")
	if out, code := run(t, "number", "hold", aliceNumber, "--dir", w.dir); code != 0 || strings.Count(out, "nothing") != 12 {
		t.Errorf("exit code %d: %s", code, out)
	}
	_ = worker.in.Close()
	if code := worker.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	fails("the SMS worker does not answer")
}

// TestNumberRefuses: what makes no sense is said before anything is asked, and never with the number. [H-4]
func TestNumberRefuses(t *testing.T) {
	t.Parallel()
	dir := made(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"hold", "07700900123", "--dir", dir}, "give a number like +447700900123"},
		{[]string{"hold", "+44 7700 9OO123", "--dir", dir}, "only digits"},
		{[]string{"hold", "+441", "--dir", dir}, "7 to 15 digits"},
		{[]string{"hold", "+447700900555"}, "pins"},
		{[]string{"hold", "+447700900555", "--dir", dir}, "where is the node's NATS?"},
		{[]string{"hold", "+447700900555", "--dir", dir, "--nats", "nats://127.0.0.1:1"}, "no server"},
		{[]string{"erase", "+447700900555", "--dir", dir}, "this cannot be undone"},
		{[]string{"hold"}, "accepts 1 arg(s)"},
	} {
		out, code := run(t, append([]string{"number"}, tt.args...)...)
		if code != 1 || !strings.Contains(out, tt.want) || strings.Contains(out, "7700900555") {
			t.Errorf("%v: exit code %d, %q", tt.args, code, out)
		}
	}
	if n, err := numberArg("-", strings.NewReader("+44 7700 900123\n")); err != nil || n.E164() != aliceNumber {
		t.Errorf("from standard input: %v", err)
	}
}

// TestRefusalsSayWhatToDo: each code that can come has a text of its own.
func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for code, want := range map[wire.Code]string{
		wire.OverQuota: "try again", wire.OutOfTime: "clock", wire.BadRecord: "own pins", wire.Unavailable: "unavailable",
	} {
		r := refusal{code}
		if !strings.Contains(r.Error(), want) || !errors.Is(r, code) {
			t.Errorf("%v: %q", code, r.Error())
		}
	}
	d := document{Stores: bridge.Holdings()}
	if err := d.add(bridge.RoleWorker, []wire.Held{{Store: "A_NEW_ONE"}}); err == nil || !strings.Contains(err.Error(), "A_NEW_ONE") {
		t.Errorf("an unknown store: %v", err)
	}
	if err := d.add(bridge.RoleRegistrar, []wire.Held{{Store: wire.StreamJobs}}); err == nil {
		t.Error("the registrar answers for the queue")
	}
	_ = d.add(bridge.RoleBroker, []wire.Held{{Store: wire.StreamJobs, Raw: []byte("sealed")}})
	_ = d.add(bridge.RoleWorker, []wire.Held{{Store: "KV_bj_suppressed"}})
	var out strings.Builder
	if err := tellErased(&out, false, d); err == nil || !strings.Contains(out.String(), "NOT YET ERASED") || !strings.Contains(out.String(), "wants no SMS") {
		t.Errorf("%v: %s", err, out.String())
	}
	out.Reset()
	if err := tellHeld(&out, d); err != nil || !strings.Contains(out.String(), "6 bytes, sealed") {
		t.Errorf("%v: %s", err, out.String())
	}
}
