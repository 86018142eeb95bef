package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the frozen vectors of this package anew")

// issued is when every record of these tests is issued.
var issued = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

func seeded(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func publicOf(k ed25519.PrivateKey) PublicKey { return PublicKey(k[32:]) }

// Who signs what in the vectors: keys from 32 times the same byte.
var (
	registrar = seeded(1)
	device    = seeded(2)
	broker    = seeded(3)
	root      = seeded(4)
)

var (
	someID   = ID{0xa1, 0xa2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	exporter = bytes.Repeat([]byte{0xe5}, ExporterLen)
)

const brokerName = "broker-1.example"

func certificate() Certificate {
	c := Certificate{ID: someID, Device: publicOf(device), IssuedAt: Unix32(issued), LifetimeHours: 180 * 24, KID: 7}
	c.Sign(registrar)
	return c
}

func consentRecord() Consent {
	c := Consent{ID: someID, Scopes: ScopeMessaging | ScopePresence, Visibility: Unlisted, Seq: 41,
		IssuedAt: Unix32(issued), ExpiresAt: Unix32(issued.Add(365 * 24 * time.Hour)), Notice: NoticeHash("May Bluejay …?")}
	c.Sign(device)
	return c
}

func revocation() Revocation {
	r := Revocation{ID: someID, Cause: CauseStop, Seq: 42, IssuedAt: Unix32(issued), KID: 7}
	r.Sign(registrar)
	return r
}

func bundle() *Bundle {
	b := &Bundle{Cert: certificate(), PrekeyID: 0x0102, NotAfter: Unix32(issued.Add(7 * 24 * time.Hour))}
	for i := range b.Prekey {
		b.Prekey[i] = byte(i)
	}
	b.Sign(device)
	return b
}

func workerKey() WorkerKey {
	k := WorkerKey{KID: 9, NotBefore: Unix32(issued), NotAfter: Unix32(issued.Add(24 * time.Hour)), Public: [32]byte{9, 9}}
	k.Sign(root)
	return k
}

// connects are the four forms of a CONNECT, by name.
func connects() map[string]Connect {
	cert, all := certificate(), map[string]Connect{}
	for name, c := range map[string]Connect{
		"connect with certificate":              {Cert: &cert, ID: someID, Gen: 5, TLS: true},
		"connect with ID":                       {ID: someID, Gen: 5, TLS: true},
		"connect with certificate, without TLS": {Cert: &cert, ID: someID, Gen: 5, TS: Unix32(issued)},
		"connect with ID, without TLS":          {ID: someID, Gen: 5, TS: Unix32(issued)},
	} {
		c.Sign(device, exporter, brokerName)
		all[name] = c
	}
	return all
}

// A record is one kind of record: its bytes, what reading gives back, and what checks its signature.
type record struct {
	size   int
	bytes  []byte
	reread func(b []byte) ([]byte, error)
	verify func(b []byte) error
}

// must applies f to what parse made of b.
func must[T any](parse func([]byte) (T, error), f func(T) error) func([]byte) error {
	return func(b []byte) error {
		v, err := parse(b)
		if err != nil {
			return err
		}
		return f(v)
	}
}

func again[T any](parse func([]byte) (T, error), marshal func(T) []byte) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		return marshal(v), nil
	}
}

// records are all signed records, by name.
func records() map[string]record {
	consent := consentRecord()
	all := map[string]record{
		"certificate": {116, certificate().Marshal(), again(ParseCertificate, Certificate.Marshal),
			must(ParseCertificate, func(c Certificate) error { return c.Verify(publicOf(registrar), issued) })},
		"consent": {107, consent.Marshal(), again(ParseConsent, Consent.Marshal),
			must(ParseConsent, func(c Consent) error { return c.Verify(publicOf(device)) })},
		"revocation": {87, revocation().Marshal(), again(ParseRevocation, Revocation.Marshal),
			must(ParseRevocation, func(r Revocation) error { return r.Verify(publicOf(registrar)) })},
		"receipt": {68, NewReceipt(broker, consent.Marshal(), issued).Marshal(), again(ParseReceipt, Receipt.Marshal),
			must(ParseReceipt, func(r Receipt) error { return r.Verify(publicOf(broker), consent.Marshal()) })},
		"bundle": {1403, bundle().Marshal(), again(ParseBundle, (*Bundle).Marshal),
			must(ParseBundle, func(b *Bundle) error { return b.Verify(publicOf(registrar), issued) })},
		"worker key": {106, workerKey().Marshal(), again(ParseWorkerKey, WorkerKey.Marshal),
			must(ParseWorkerKey, func(k WorkerKey) error { return k.Verify(publicOf(root), issued) })},
	}
	sizes := map[string]int{"connect with certificate": 185, "connect with ID": 81,
		"connect with certificate, without TLS": 189, "connect with ID, without TLS": 85}
	for name, c := range connects() {
		all[name] = record{sizes[name], c.Marshal(), again(ParseConnect, Connect.Marshal),
			must(ParseConnect, func(c Connect) error { return verifyConnect(c) })}
	}
	return all
}

// verifyConnect checks both the certificate, where there is one, and the proof.
func verifyConnect(c Connect) error {
	if c.Cert != nil {
		if err := c.Cert.Verify(publicOf(registrar), issued); err != nil {
			return err
		}
		if c.ID != c.Cert.ID {
			return errors.New("another ID")
		}
	}
	if c.ID != someID {
		return ErrSignature // the broker would look another key up
	}
	return c.Verify(publicOf(device), exporter, brokerName)
}

// TestRecordSizes: sizes are part of the protocol. [P-3]
func TestRecordSizes(t *testing.T) {
	for name, r := range records() {
		if len(r.bytes) != r.size {
			t.Errorf("%s: %d bytes, want %d", name, len(r.bytes), r.size)
		}
	}
	together := len(certificate().Marshal()) + len(consentRecord().Marshal()) + ReceiptLen
	if together != 291 {
		t.Errorf("the proof of consent takes %d bytes, want 291", together)
	}
	if got := [...]int{CertificateLen, ConsentLen, RevocationLen, ReceiptLen, BundleLen, WorkerKeyLen}; got != [...]int{116, 107, 87, 68, 1403, 106} {
		t.Errorf("constants %v", got)
	}
}

// TestRecordsRoundTrip: each record reads back as itself, and its signature verifies. [P-5] [P-6] [P-7]
// [P-8] [P-9] [P-15] [F-2]
func TestRecordsRoundTrip(t *testing.T) {
	for name, r := range records() {
		if got, err := r.reread(r.bytes); err != nil || !bytes.Equal(got, r.bytes) {
			t.Errorf("%s: reads back differently: %v", name, err)
		}
		if err := r.verify(r.bytes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRecordsRefuse changes bits all over each record, and takes or adds a byte. [P-3]
func TestRecordsRefuse(t *testing.T) {
	for name, r := range records() {
		step := len(r.bytes)/16*2 + 1 // odd, so that every bit of a byte has its turn
		for bit := 0; bit < 8*len(r.bytes); bit += step {
			b := bytes.Clone(r.bytes)
			b[bit/8] ^= 1 << (bit % 8)
			if err := r.verify(b); err == nil {
				t.Errorf("%s: verifies with bit %d changed", name, bit)
			}
		}
		for _, b := range [][]byte{nil, {r.bytes[0]}, r.bytes[:len(r.bytes)-1], append(bytes.Clone(r.bytes), 0)} {
			if _, err := r.reread(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %d bytes read: %v", name, len(b), err)
			}
		}
	}
}

// TestSignersAreApart: no record verifies under the key of another signer, or for other content. [P-2]
func TestSignersAreApart(t *testing.T) {
	b, receipt := bundle(), NewReceipt(broker, consentRecord().Marshal(), issued)
	checks := map[string]error{
		"certificate by the device":     certificate().Verify(publicOf(device), issued),
		"consent by the registrar":      consentRecord().Verify(publicOf(registrar)),
		"revocation by the device":      revocation().Verify(publicOf(device)),
		"receipt by the root":           receipt.Verify(publicOf(root), consentRecord().Marshal()),
		"receipt of another record":     receipt.Verify(publicOf(broker), revocation().Marshal()),
		"bundle of another registrar":   b.Verify(publicOf(root), issued),
		"worker key by the registrar":   workerKey().Verify(publicOf(registrar), issued),
		"connect by another device":     connects()["connect with ID"].Verify(publicOf(root), exporter, brokerName),
		"connect on another connection": connects()["connect with ID"].Verify(publicOf(device), make([]byte, 32), brokerName),
		"connect to another broker":     connects()["connect with ID"].Verify(publicOf(device), exporter, "broker-2.example"),
	}
	for name, err := range checks {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	if len(checks) != 10 {
		t.Error("two checks have one name")
	}
}

// TestRecordTimes: a record is good within its time, and clocks may differ by a minute. [P-16]
func TestRecordTimes(t *testing.T) {
	cert, b, key := certificate(), bundle(), workerKey()
	verify := map[string]func(time.Time) error{
		"certificate": func(now time.Time) error { return cert.Verify(publicOf(registrar), now) },
		"bundle":      func(now time.Time) error { return b.Verify(publicOf(registrar), now) },
		"worker key":  func(now time.Time) error { return key.Verify(publicOf(root), now) },
	}
	cases := []struct {
		name string
		last time.Time
	}{{"certificate", issued.Add(180 * 24 * time.Hour)}, {"bundle", issued.Add(7 * 24 * time.Hour)}, {"worker key", issued.Add(24 * time.Hour)}}
	for _, c := range cases {
		for at, want := range map[time.Time]error{
			issued.Add(-ClockSkew - time.Second): ErrExpired, issued.Add(-ClockSkew): nil, issued: nil,
			c.last: nil, c.last.Add(time.Second): ErrExpired,
		} {
			if err := verify[c.name](at); !errors.Is(err, want) {
				t.Errorf("%s at %v: %v, want %v", c.name, at, err, want)
			}
		}
	}
	if !cert.NotAfter().Equal(cases[0].last) {
		t.Errorf("NotAfter %v", cert.NotAfter())
	}
}

// TestConsentValues: only known scopes, visibilities and causes. [P-6] [P-7]
func TestConsentValues(t *testing.T) {
	for bits := range 256 {
		c := consentRecord()
		c.Scopes = Scope(bits)
		if _, err := ParseConsent(c.Marshal()); (err == nil) != (bits < 32) {
			t.Errorf("scopes %08b: %v", bits, err)
		}
		c = consentRecord()
		c.Visibility = Visibility(bits)
		if _, err := ParseConsent(c.Marshal()); (err == nil) != (bits < 2) {
			t.Errorf("visibility %d: %v", bits, err)
		}
		r := revocation()
		r.Cause = Cause(bits)
		if _, err := ParseRevocation(r.Marshal()); (err == nil) != (bits >= 1 && bits <= 4) {
			t.Errorf("cause %d: %v", bits, err)
		}
	}
	s := ScopeMessaging | ScopeGateway
	if !s.Has(ScopeGateway) || s.Has(ScopePresence) || s.Has(ScopeGateway|ScopePresence) || !s.Has(0) {
		t.Error("Has misreads scopes")
	}
}

// TestNoticeHash binds the exact text. [P-6]
func TestNoticeHash(t *testing.T) {
	if NoticeHash("Yes?") == NoticeHash("Yes ?") || hex.EncodeToString(func() []byte { h := NoticeHash(""); return h[:] }()) != "e3b0c44298fc1c149afbf4c8996fb924" {
		t.Error("not the first half of SHA-256")
	}
}

// TestBundleSuite: one suite, and a certificate inside. [P-2] [P-9]
func TestBundleSuite(t *testing.T) {
	for _, at := range []int{0, CertificateLen} {
		b := bundle().Marshal()
		b[at]++
		if _, err := ParseBundle(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	b := bundle()
	b.Cert.Sig[0] ^= 1
	b.Sign(device)
	if err := b.Verify(publicOf(registrar), issued); !errors.Is(err, ErrSignature) {
		t.Errorf("a bundle around a bad certificate: %v", err)
	}
}

// TestParseConnectRefuses: the form is fixed by the first byte. [P-15]
func TestParseConnectRefuses(t *testing.T) {
	all := connects()
	for name, c := range all {
		b := c.Marshal()
		for typ := range 256 {
			b[0] = byte(typ)
			if _, err := ParseConnect(b); err == nil && byte(typ) != c.Marshal()[0] {
				t.Errorf("%s reads as type %02x", name, typ)
			}
		}
		got, err := ParseConnect(c.Marshal())
		if err != nil || cmp.Diff(c, got) != "" {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(c, got))
		}
	}
	withCert := all["connect with certificate"].Marshal()
	withCert[1] = 0 // the certificate's own type
	if _, err := ParseConnect(withCert); !errors.Is(err, ErrMalformed) {
		t.Errorf("with a broken certificate: %v", err)
	}
	if Protocol != fmt.Sprintf("bj%d", Version) || ExporterLabel != "EXPORTER-bluejay-connect" {
		t.Error("the names of version 1 have changed")
	}
}

// TestTime32 covers the range of a record's time.
func TestTime32(t *testing.T) {
	for _, u := range []uint32{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		if Unix32(Time32(u)) != u {
			t.Errorf("%d comes back as %d", u, Unix32(Time32(u)))
		}
	}
}

// recordVector is one frozen record.
type recordVector struct {
	Name     string `json:"name"`
	SignedBy string `json:"signed_by"`
	Bytes    string `json:"bytes"`
}

var signers = map[string]string{"certificate": "registrar", "consent": "device", "revocation": "registrar", "receipt": "broker",
	"bundle": "device", "worker key": "root"}

type recordFile struct {
	Seeds    map[string]string `json:"ed25519_seeds"`
	Exporter string            `json:"tls_exporter"`
	Broker   string            `json:"broker_name"`
	Records  []recordVector    `json:"records"`
}

func recordFileNow() recordFile {
	f := recordFile{Exporter: hex.EncodeToString(exporter), Broker: brokerName, Seeds: map[string]string{
		"registrar": hex.EncodeToString(registrar.Seed()), "device": hex.EncodeToString(device.Seed()),
		"broker": hex.EncodeToString(broker.Seed()), "root": hex.EncodeToString(root.Seed())}}
	all := records()
	for _, name := range []string{"certificate", "consent", "revocation", "receipt", "bundle", "worker key", "connect with certificate",
		"connect with ID", "connect with certificate, without TLS", "connect with ID, without TLS"} {
		by := signers[name]
		if by == "" {
			by = "device"
		}
		f.Records = append(f.Records, recordVector{name, by, hex.EncodeToString(all[name].bytes)})
	}
	return f
}

// frozen compares v with a file of testdata, or writes it under -update.
func frozen(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("%s: the wire format has changed:\n%s", name, diff)
	}
}

// TestRecordVectors freezes every signed record; Ed25519 makes them the same everywhere. [P-3]
func TestRecordVectors(t *testing.T) {
	frozen(t, "testdata/records.json", recordFileNow())
	b, err := os.ReadFile("testdata/records.json")
	if err != nil {
		t.Fatal(err)
	}
	var f recordFile
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	all := records()
	for _, v := range f.Records {
		b, err := hex.DecodeString(v.Bytes)
		if err != nil || all[v.Name].verify(b) != nil {
			t.Errorf("%s: the stored bytes do not verify: %v", v.Name, err)
		}
	}
	if len(f.Records) != len(all) {
		t.Errorf("%d records are frozen of %d", len(f.Records), len(all))
	}
}

// FuzzRecords feeds every record decoder: what it reads, it writes back byte for byte.
func FuzzRecords(f *testing.F) {
	all := records()
	for _, r := range all {
		f.Add(r.bytes)
		f.Add(r.bytes[:len(r.bytes)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, r := range all {
			if got, err := r.reread(b); err == nil && !bytes.Equal(got, b) {
				t.Errorf("%s: %x came back as %x", name, b, got)
			} else if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v is not ErrMalformed", name, err)
			}
		}
	})
}

func ExampleCertificate_Verify() {
	c := certificate()
	fmt.Println(c.Verify(publicOf(registrar), issued.Add(181*24*time.Hour)))
	// Output: wire: not valid at this time
}
