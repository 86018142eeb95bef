package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"bluejay/clients/handset"
	"bluejay/consent"
	"bluejay/wire"
)

var updateConsent = flag.Bool("update-consent", false, "write the golden outputs of the consent commands")

// The cast of these tests, with keys that are always the same.
var (
	testRegistrar, testBroker, testDevice = fixedKey(1), fixedKey(2), fixedKey(3)
	testUser                              = wire.ID{0xa1, 11: 7}
	agreedAt                              = time.Date(2026, 11, 21, 17, 4, 0, 0, time.UTC)
)

func fixedKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicOf(k ed25519.PrivateKey) wire.PublicKey {
	return wire.PublicKey(k.Public().(ed25519.PublicKey))
}

// makeReceipt is a receipt of testUser's, changed as told before the device signs.
func makeReceipt(seq uint32, scopes wire.Scope, changes ...func(*wire.Consent)) []byte {
	cert := wire.Certificate{ID: testUser, Device: publicOf(testDevice), IssuedAt: wire.Unix32(agreedAt) - 60, LifetimeHours: 180 * 24, KID: 1}
	cert.Sign(testRegistrar)
	at := agreedAt.Add(time.Duration(seq) * time.Hour)
	r := wire.Consent{
		ID: testUser, Scopes: scopes, Seq: seq, IssuedAt: wire.Unix32(at), ExpiresAt: wire.Unix32(at.Add(180 * 24 * time.Hour)),
		Notice: (*handset.Handset)(nil).Notice("en").Hash,
	}
	for _, f := range changes {
		f(&r)
	}
	r.Sign(testDevice)
	return slices.Concat(cert.Marshal(), r.Marshal(), wire.NewReceipt(testBroker, r.Marshal(), at.Add(time.Second)).Marshal())
}

// testKeys are the flags by which these receipts verify.
func testKeys() []string {
	r, b := publicOf(testRegistrar), publicOf(testBroker)
	return []string{"--registrar-key", b64.EncodeToString(r[:]), "--broker-key", b64.EncodeToString(b[:])}
}

// runCommand runs the command in this process.
func runCommand(t testing.TB, stdin []byte, args ...string) (out, errOut string, err error) {
	t.Helper()
	root := rootCmd()
	var o, e bytes.Buffer
	root.SetOut(&o)
	root.SetErr(&e)
	root.SetIn(bytes.NewReader(stdin))
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

func tempFile(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// goldenConsent compares with a file of testdata/consent, or writes it.
func goldenConsent(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "consent", name)
	if *updateConsent {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: run with -update-consent if this is meant:\n%s", name, diff)
	}
}

const testScopes = wire.ScopeMessaging | wire.ScopeGateway

// TestConsentVerify reads each form of a receipt, and says what is in it, to people and to programs. [P-8]
func TestConsentVerify(t *testing.T) {
	t.Parallel()
	grant, off := makeReceipt(1, testScopes), makeReceipt(2, 0)
	unknown := makeReceipt(3, wire.ScopeMessaging, func(c *wire.Consent) { c.Notice, c.Visibility = [16]byte{9}, wire.Unlisted })
	entry := consent.Entry{Salt: [16]byte{1}, Index: 41}
	export, _ := json.Marshal(map[string]any{"number": aliceNumber, "consent_proofs": []string{b64.EncodeToString(grant), b64.EncodeToString(off)}})
	for name, file := range map[string][]byte{
		"raw": grant, "text": []byte(b64.EncodeToString(grant) + "\n"), "file": consent.ProofFile{Proof: grant, Entry: entry}.Marshal(),
		"export": export, "unknown-notice": unknown, "off": off,
	} {
		args := append([]string{"consent", "verify", tempFile(t, file)}, testKeys()...)
		told, _, err := runCommand(t, nil, args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		printed, _, err := runCommand(t, nil, append(args, "--json")...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(told+printed, aliceNumber) {
			t.Errorf("%s: it prints the number that stands beside the receipt", name)
		}
		goldenConsent(t, "verify-"+name+".txt", told+printed)
	}
	args := append([]string{"consent", "verify", "-"}, testKeys()...)
	if out, _, err := runCommand(t, grant, args...); err != nil || !strings.Contains(out, "✓ This receipt is genuine") {
		t.Errorf("from standard input: %v, %q", err, out)
	}
}

// TestConsentVerifyPins: pins.json has the keys, and those of another node do not do. [P-8]
func TestConsentVerifyPins(t *testing.T) {
	t.Parallel()
	pins := handset.Pins{
		Broker: "bluejay", Root: publicOf(testDevice), Registrar: publicOf(testRegistrar), Receipt: []wire.PublicKey{publicOf(testBroker)},
		VOPRF: bytes.Repeat([]byte{1}, 32), RegistrarBox: bytes.Repeat([]byte{1}, sizeBox),
	}
	file, name := tempFile(t, makeReceipt(1, testScopes)), filepath.Join(t.TempDir(), "pins.json")
	if err := savePins(name, pins); err != nil {
		t.Fatal(err)
	}
	if _, _, err := runCommand(t, nil, "consent", "verify", file, "--pins", name); err != nil {
		t.Error(err)
	}
	pins.Registrar = publicOf(testBroker)
	if err := savePins(name, pins); err != nil {
		t.Fatal(err)
	}
	out, _, err := runCommand(t, nil, "consent", "verify", file, "--pins", name)
	if err == nil || !strings.Contains(out, "NOT a genuine receipt: a signature does not fit") {
		t.Errorf("with the keys of another node: %v, %q", err, out)
	}
}

// TestConsentVerifyRefuses: one changed bit in any byte, a byte less or more, times that do not fit, and
// what a server could make by itself. Each bit is turned by the test of [consent.VerifyProof]. [P-8] [P-6]
func TestConsentVerifyRefuses(t *testing.T) {
	t.Parallel()
	whole := makeReceipt(1, testScopes)
	self := wire.Certificate{ID: testUser, Device: publicOf(testBroker), IssuedAt: wire.Unix32(agreedAt), LifetimeHours: 24, KID: 1}
	self.Sign(testBroker)
	record := wire.Consent{ID: testUser, Scopes: 31, Seq: 9, IssuedAt: wire.Unix32(agreedAt), ExpiresAt: wire.Unix32(agreedAt) + 3600}
	record.Sign(testBroker)
	made := slices.Concat(self.Marshal(), record.Marshal(), wire.NewReceipt(testBroker, record.Marshal(), agreedAt).Marshal())
	bad := map[string][]byte{
		"made by the server":             made,
		"a device's, received in 2020":   slices.Concat(whole[:223], wire.NewReceipt(testBroker, whole[116:223], agreedAt.AddDate(-6, 0, 0)).Marshal()),
		"received before it was written": slices.Concat(whole[:223], wire.NewReceipt(testBroker, whole[116:223], agreedAt).Marshal()),
		"one byte more":                  append(bytes.Clone(whole), 0),
		"nothing":                        nil,
	}
	for n := range len(whole) {
		b := bytes.Clone(whole)
		b[n] ^= 1 << (n % 8)
		bad["a flipped bit"] = b
		if _, errs := verified([]consent.ProofFile{{Proof: b}}, keys{publicOf(testRegistrar), []wire.PublicKey{publicOf(testBroker)}, ""}); len(errs) != 1 {
			t.Errorf("a bit of byte %d can be flipped", n)
		}
		if _, err := consent.ParseProofs(whole[:n]); err == nil {
			t.Errorf("the first %d bytes are a receipt", n)
		}
	}
	for name, b := range bad {
		args := append([]string{"consent", "verify", tempFile(t, b), "--json"}, testKeys()...)
		out, _, err := runCommand(t, nil, args...)
		if err == nil || strings.Contains(out, `"valid":true`) {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
	both, _ := json.Marshal(map[string]any{"consent_proofs": []string{b64.EncodeToString(whole), b64.EncodeToString(made)}})
	out, _, err := runCommand(t, nil, append([]string{"consent", "verify", tempFile(t, both)}, testKeys()...)...)
	if err == nil || !strings.Contains(err.Error(), "1 of 2") || !strings.Contains(out, "✓") || !strings.Contains(out, "✗") {
		t.Errorf("a good one and a bad one: %v, %q", err, out)
	}
}

// TestConsentUsage: what is missing is named.
func TestConsentUsage(t *testing.T) {
	t.Parallel()
	file := tempFile(t, makeReceipt(1, testScopes))
	for _, tt := range []struct{ args, want string }{
		{"verify " + file, "whom to believe"},
		{"verify " + file + " --registrar-key x --broker-key y", "--registrar-key: not an Ed25519 public key"},
		{"verify " + file + " --registrar-key " + testKeys()[1] + " --broker-key y", "--broker-key: not an Ed25519"},
		{"verify " + file + " --pins p --registrar-key x", "--pins has the keys"},
		{"verify /nowhere " + strings.Join(testKeys(), " "), "no such file"},
		{"export " + file + " " + strings.Join(testKeys(), " "), "is none of iso27560, dpv, kantara"},
		{"log verify --dir x " + strings.Join(testKeys(), " "), "whose log?"},
		{"log verify --broker b " + strings.Join(testKeys(), " "), "where is the log?"},
		{"log verify --broker b --url ftp://x " + strings.Join(testKeys(), " "), "want a URL"},
		{"log prove " + file + " --broker b --dir /nowhere " + strings.Join(testKeys(), " "), "bluejay phone --json: receipt"},
	} {
		_, _, err := runCommand(t, nil, append([]string{"consent"}, strings.Fields(tt.args)...)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

// dpvTerms are the terms of DPV that the export uses; each stands in the guide's own examples.
var dpvTerms = strings.Fields(`ConsentReceipt ConsentRecord hasRecordOfActivity hasDataSubject DataSubject hasDataController DataController hasName
	hasAddress hasContact hasJurisdiction hasProcess Process hasPurpose ServiceProvision hasLegalBasis ExplicitlyExpressedConsent hasPersonalData
	PersonalData hasStorageCondition StorageLocation hasLocation StorageDuration hasDuration UntilEventDuration hasRecipient hasConsentControl
	WithdrawConsent isExercisedAt hasNotice ConsentNotice hasConsentStatus ConsentGiven ConsentWithdrawn isIndicatedBy hasIndicationMethod
	isIndicatedAtTime`)

// TestConsentExport holds each form to the shape that its specification asks for, for one consent, a
// whole history and an unknown notice; there is no number in it unless the user puts one there, and the
// same receipt gives the same document. [P-8]
func TestConsentExport(t *testing.T) {
	t.Parallel()
	history, _ := json.Marshal(map[string]any{"number": aliceNumber, "consent_proofs": []string{
		b64.EncodeToString(makeReceipt(1, wire.ScopeMessaging)), b64.EncodeToString(makeReceipt(2, 31)), b64.EncodeToString(makeReceipt(3, 0))}})
	files := map[string][]byte{
		"one": makeReceipt(1, testScopes), "history": history, "off": makeReceipt(3, 0),
		"unknown": makeReceipt(1, testScopes, func(c *wire.Consent) { c.Notice = [16]byte{9} }),
	}
	schemas := map[string]string{"iso27560": "iso27560", "dpv": "dpv", "kantara": "kantara-1.1"}
	if got := slices.Sorted(maps.Keys(exporters)); !slices.Equal(got, slices.Sorted(maps.Keys(schemas))) {
		t.Fatalf("forms %q", got)
	}
	who := []string{"--controller", "Example Ltd", "--contact", "Privacy Office", "--address", "1 Example Street", "--jurisdiction", "GB",
		"--email", "privacy@example.com", "--phone", "020 7946 0000", "--policy-url", "https://example.com/privacy"}
	for format, name := range schemas {
		raw, err := os.ReadFile(filepath.Join("testdata", "consent", name+".schema.json"))
		if err != nil {
			t.Fatal(err)
		}
		schema := compiled(t, jsonschema.Draft2020, parsedJSON(t, raw), "")
		for what, file := range files {
			args := append([]string{"consent", "export", tempFile(t, file), "--format", format}, testKeys()...)
			for _, args := range [][]string{args, append(args, who...)} {
				out, _, err := runCommand(t, nil, args...)
				if err != nil {
					t.Fatalf("%s of %s: %v", format, what, err)
				}
				if err := schema.Validate(parsedJSON(t, []byte(out))); err != nil {
					t.Errorf("%s of %s: %v\n%s", format, what, err, out)
				}
				if strings.Contains(out, aliceNumber[1:]) {
					t.Errorf("%s of %s has the number in it", format, what)
				}
			}
			out, _, err := runCommand(t, nil, append(args, append(who, "--subject", aliceNumber)...)...)
			if err != nil || !strings.Contains(out, aliceNumber) {
				t.Errorf("%s of %s with the number: %v, %s", format, what, err, out)
			}
			if what == "history" {
				out, _, _ = runCommand(t, nil, append(args, who...)...)
				goldenConsent(t, "export-"+format+".json", out)
			}
			for _, m := range regexp.MustCompile(`dpv:(\w+)`).FindAllStringSubmatch(out, -1) {
				if format == "dpv" && !slices.Contains(dpvTerms, m[1]) {
					t.Errorf("dpv:%s is none of DPV's terms that are used", m[1])
				}
			}
		}
	}
}

// TestConsentShapesBite shows each shape a document that lacks each of its fields in turn.
func TestConsentShapesBite(t *testing.T) {
	t.Parallel()
	for format, name := range map[string]string{"iso27560": "iso27560", "dpv": "dpv", "kantara": "kantara-1.1"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "consent", name+".schema.json"))
		if err != nil {
			t.Fatal(err)
		}
		var asks struct{ Required []string }
		if err := json.Unmarshal(raw, &asks); err != nil || len(asks.Required) < 6 {
			t.Fatalf("%s: %v, %q", name, err, asks.Required)
		}
		schema := compiled(t, jsonschema.Draft2020, parsedJSON(t, raw), "")
		out, _, err := runCommand(t, nil, append([]string{"consent", "export", tempFile(t, makeReceipt(1, testScopes)), "--format", format}, testKeys()...)...)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range asks.Required {
			doc, _ := parsedJSON(t, []byte(out)).(map[string]any)
			delete(doc, field)
			if schema.Validate(doc) == nil {
				t.Errorf("%s without %s passes", format, field)
			}
		}
	}
}

// TestConsentExportRefuses: nothing is exported of a receipt that does not verify, and of several IDs
// only each alone.
func TestConsentExportRefuses(t *testing.T) {
	t.Parallel()
	forged := makeReceipt(1, testScopes)
	forged[200] ^= 1
	for name, file := range map[string][]byte{"forged": forged, "no receipt": []byte("{}")} {
		out, _, err := runCommand(t, nil, append([]string{"consent", "export", tempFile(t, file), "--format", "dpv"}, testKeys()...)...)
		if err == nil || out != "" {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
	h := history{{Proof: consent.Proof{Record: wire.Consent{Seq: 1}}}, {Proof: consent.Proof{Record: wire.Consent{Seq: 2, Scopes: 1}}}, {Proof: consent.Proof{Record: wire.Consent{Seq: 3}}}}
	if got := h.granted().Record.Seq; got != 2 {
		t.Errorf("the newest consent is record %d, want 2", got)
	}
}
