package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// Type bytes of records. Each is scoped to where it may appear. [P-3]
const (
	TypeCertificate   = 0x11
	TypeConsent       = 0x21
	TypeRevocation    = 0x22
	TypeConnectCert   = 0x31
	TypeConnectID     = 0x32
	TypeConnectCertTS = 0x33
	TypeConnectIDTS   = 0x34
	TypeJob           = 0x41
	TypeWorkerKey     = 0x42
	TypeCancel        = 0x43
)

// Sizes of records, in bytes. [P-3]
const (
	CertificateLen = 116
	ConsentLen     = 107
	RevocationLen  = 87
	ReceiptLen     = 68
	BundleLen      = 1403
	WorkerKeyLen   = 106
	sigLen         = ed25519.SignatureSize
)

// Suite is the one cipher suite: X-Wing, HKDF-SHA256, ChaCha20-Poly1305. [P-2]
const Suite = 0x01

// PublicKey is an Ed25519 public key.
type PublicKey [32]byte

// Signature is an Ed25519 signature over an [LP] encoding.
type Signature [64]byte

func sign(k ed25519.PrivateKey, label string, parts ...[]byte) Signature {
	return Signature(ed25519.Sign(k, LP(label, parts...)))
}

func verify(k PublicKey, sig []byte, label string, parts ...[]byte) error {
	if !ed25519.Verify(k[:], LP(label, parts...), sig) {
		return ErrSignature
	}
	return nil
}

// shape refuses everything but length n and first byte typ.
func shape(b []byte, n int, typ byte, what string) error {
	if len(b) != n || b[0] != typ {
		return fmt.Errorf("%w: not a %s", ErrMalformed, what)
	}
	return nil
}

// Unix32 is t in whole seconds since 1970, as records carry it (good until 2106).
func Unix32(t time.Time) uint32 { return uint32(t.Unix()) }

// Time32 is the time of a record's field.
func Time32(u uint32) time.Time { return time.Unix(int64(u), 0) }

// Certificate binds a device key to an ID. Shape: 116 bytes. The newest IssuedAt of an ID wins.
// It proves that the registrar saw a one-time password come back for the number behind ID; it
// does not prove who holds the SIM today. [P-5]
type Certificate struct {
	ID            ID
	Device        PublicKey
	IssuedAt      uint32 // Unix seconds
	LifetimeHours uint16
	KID           byte // which registrar key signed
	Sig           Signature
}

func (c Certificate) body() []byte {
	b := append(make([]byte, 0, CertificateLen), TypeCertificate)
	b = append(append(b, c.ID[:]...), c.Device[:]...)
	b = binary.BigEndian.AppendUint32(b, c.IssuedAt)
	b = binary.BigEndian.AppendUint16(b, c.LifetimeHours)
	return append(b, c.KID)
}

// Sign sets Sig with the registrar's key.
func (c *Certificate) Sign(registrar ed25519.PrivateKey) {
	c.Sig = sign(registrar, "bj1 cert", c.body())
}

// Marshal returns the 116 bytes.
func (c Certificate) Marshal() []byte { return append(c.body(), c.Sig[:]...) }

// ParseCertificate reads the shape only.
func ParseCertificate(b []byte) (Certificate, error) {
	if err := shape(b, CertificateLen, TypeCertificate, "certificate"); err != nil {
		return Certificate{}, err
	}
	return Certificate{
		ID: ID(b[1:13]), Device: PublicKey(b[13:45]), IssuedAt: binary.BigEndian.Uint32(b[45:]),
		LifetimeHours: binary.BigEndian.Uint16(b[49:]), KID: b[51], Sig: Signature(b[52:]),
	}, nil
}

// NotAfter is the end of the certificate's lifetime.
func (c Certificate) NotAfter() time.Time {
	return Time32(c.IssuedAt).Add(time.Duration(c.LifetimeHours) * time.Hour)
}

// Verify checks the registrar's signature and that now is within the lifetime, allowing ClockSkew.
func (c Certificate) Verify(registrar PublicKey, now time.Time) error {
	if err := verify(registrar, c.Sig[:], "bj1 cert", c.body()); err != nil {
		return err
	}
	if now.Before(Time32(c.IssuedAt).Add(-ClockSkew)) || now.After(c.NotAfter()) {
		return ErrExpired
	}
	return nil
}

// ClockSkew is how far two honest clocks may differ. [P-16]
const ClockSkew = 60 * time.Second

// Scope is one thing a user can agree to; each is off by default and separate. [P-6]
type Scope byte

// Scopes, as bits of a consent record. Backup is reserved: nothing uses it yet.
const (
	ScopeMessaging Scope = 1 << iota
	ScopePresence
	ScopeGateway
	ScopeBackup
	ScopeIntegrations
)

const allScopes = ScopeMessaging | ScopePresence | ScopeGateway | ScopeBackup | ScopeIntegrations

// Has reports whether every bit of want is set.
func (s Scope) Has(want Scope) bool { return s&want == want }

// Visibility says whether a key bundle may be published. [P-6]
type Visibility byte

// Listed publishes the bundle; Unlisted publishes none, so only this user opens conversations.
const (
	Listed   Visibility = 0
	Unlisted Visibility = 1
)

// Consent is what a user agreed to, signed by the user's device: the server cannot make one.
// Shape: 107 bytes. Scopes 0 is a revocation. [P-6]
type Consent struct {
	ID         ID
	Scopes     Scope
	Visibility Visibility
	Seq        uint32 // above every earlier record of this ID
	IssuedAt   uint32 // Unix seconds
	ExpiresAt  uint32 // Unix seconds
	Notice     [16]byte
	Sig        Signature
}

// NoticeHash binds the exact text and language shown into a record. [P-6]
func NoticeHash(text string) [16]byte {
	h := sha256.Sum256([]byte(text))
	return [16]byte(h[:16])
}

func (c Consent) body() []byte {
	b := append(make([]byte, 0, ConsentLen), TypeConsent)
	b = append(append(b, c.ID[:]...), byte(c.Scopes), byte(c.Visibility))
	b = binary.BigEndian.AppendUint32(b, c.Seq)
	b = binary.BigEndian.AppendUint32(b, c.IssuedAt)
	b = binary.BigEndian.AppendUint32(b, c.ExpiresAt)
	return append(b, c.Notice[:]...)
}

// Sign sets Sig with the device's key.
func (c *Consent) Sign(device ed25519.PrivateKey) { c.Sig = sign(device, "bj1 consent", c.body()) }

// Marshal returns the 107 bytes.
func (c Consent) Marshal() []byte { return append(c.body(), c.Sig[:]...) }

// ParseConsent reads the shape; unknown scope bits and visibilities are malformed.
func ParseConsent(b []byte) (Consent, error) {
	if err := shape(b, ConsentLen, TypeConsent, "consent record"); err != nil {
		return Consent{}, err
	}
	c := Consent{
		ID: ID(b[1:13]), Scopes: Scope(b[13]), Visibility: Visibility(b[14]),
		Seq: binary.BigEndian.Uint32(b[15:]), IssuedAt: binary.BigEndian.Uint32(b[19:]),
		ExpiresAt: binary.BigEndian.Uint32(b[23:]), Notice: [16]byte(b[27:43]), Sig: Signature(b[43:]),
	}
	if c.Scopes&^allScopes != 0 || c.Visibility > Unlisted {
		return Consent{}, fmt.Errorf("%w: unknown scope or visibility", ErrMalformed)
	}
	return c, nil
}

// Verify checks the device's signature only; order and time are the consent package's business.
func (c Consent) Verify(device PublicKey) error {
	return verify(device, c.Sig[:], "bj1 consent", c.body())
}

// Cause says who switched a user off without the device's key. [P-7]
type Cause byte

// The four ways off that have no device key.
const (
	CauseStop     Cause = 1 // STOP by SMS
	CausePhone    Cause = 2 // another phone with a one-time password
	CauseOperator Cause = 3
	CauseErasure  Cause = 4
)

// Revocation is an operator revocation. Shape: 87 bytes. It can only clear every scope. [P-7]
type Revocation struct {
	ID       ID
	Cause    Cause
	Seq      uint32 // stored + 1
	IssuedAt uint32 // Unix seconds
	KID      byte
	Sig      Signature
}

func (r Revocation) body() []byte {
	b := append(make([]byte, 0, RevocationLen), TypeRevocation)
	b = append(append(b, r.ID[:]...), byte(r.Cause))
	b = binary.BigEndian.AppendUint32(b, r.Seq)
	b = binary.BigEndian.AppendUint32(b, r.IssuedAt)
	return append(b, r.KID)
}

// Sign sets Sig with the registrar's key.
func (r *Revocation) Sign(registrar ed25519.PrivateKey) {
	r.Sig = sign(registrar, "bj1 revoke", r.body())
}

// Marshal returns the 87 bytes.
func (r Revocation) Marshal() []byte { return append(r.body(), r.Sig[:]...) }

// ParseRevocation reads the shape; an unknown cause is malformed.
func ParseRevocation(b []byte) (Revocation, error) {
	if err := shape(b, RevocationLen, TypeRevocation, "revocation record"); err != nil {
		return Revocation{}, err
	}
	r := Revocation{
		ID: ID(b[1:13]), Cause: Cause(b[13]), Seq: binary.BigEndian.Uint32(b[14:]),
		IssuedAt: binary.BigEndian.Uint32(b[18:]), KID: b[22], Sig: Signature(b[23:]),
	}
	if r.Cause < CauseStop || r.Cause > CauseErasure {
		return Revocation{}, fmt.Errorf("%w: unknown cause", ErrMalformed)
	}
	return r, nil
}

// Verify checks the registrar's signature only.
func (r Revocation) Verify(registrar PublicKey) error {
	return verify(registrar, r.Sig[:], "bj1 revoke", r.body())
}

// Receipt is the broker's word that it stored a consent record. Shape: 68 bytes. With the
// certificate and the consent record (291 bytes together) it verifies offline; alone it proves
// nothing about the user's will. [P-8]
type Receipt struct {
	ReceivedAt uint32 // Unix seconds
	Sig        Signature
}

// NewReceipt signs the receipt of a stored record.
func NewReceipt(broker ed25519.PrivateKey, record []byte, at time.Time) Receipt {
	r := Receipt{ReceivedAt: Unix32(at)}
	h := sha256.Sum256(record)
	r.Sig = sign(broker, "bj1 receipt", h[:], binary.BigEndian.AppendUint32(nil, r.ReceivedAt))
	return r
}

// Marshal returns the 68 bytes.
func (r Receipt) Marshal() []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, ReceiptLen), r.ReceivedAt), r.Sig[:]...)
}

// ParseReceipt reads the shape only.
func ParseReceipt(b []byte) (Receipt, error) {
	if len(b) != ReceiptLen {
		return Receipt{}, fmt.Errorf("%w: not a receipt", ErrMalformed)
	}
	return Receipt{ReceivedAt: binary.BigEndian.Uint32(b), Sig: Signature(b[4:])}, nil
}

// Verify checks that the broker whose key is given received exactly this record.
func (r Receipt) Verify(broker PublicKey, record []byte) error {
	h := sha256.Sum256(record)
	return verify(broker, r.Sig[:], "bj1 receipt", h[:], binary.BigEndian.AppendUint32(nil, r.ReceivedAt))
}

// Reason is why a scope is not in force, as a handset can show it: a closed set. Those below 16 are the causes
// of a revocation, and the user's own withdrawal. Zero value: none.
type Reason byte

// Reasons. A revocation's is its cause.
const (
	Withdrawn  Reason = 15 // by the device itself
	NewNotice  Reason = 16 // the text agreed to is not accepted any more: read the new one
	SIMChanged Reason = 17 // the number has to be proved anew
	NewDevice  Reason = 18 // agree on this device, too
	ReproofDue Reason = 19 // the record or the certificate is over
)

var reasons = map[Reason]string{
	Reason(CauseStop): "STOP by SMS", Reason(CausePhone): "from another phone", Reason(CauseOperator): "by the operator",
	Reason(CauseErasure): "by an erasure", Withdrawn: "on this phone", NewNotice: "the notice has changed: read it and agree again",
	SIMChanged: "the SIM was changed: prove the number again", NewDevice: "a new device: agree on it, too",
	ReproofDue: "it is over: prove the number and agree again",
}

// Known reports whether r is in the closed set; 0, no reason, is not.
func (r Reason) Known() bool { return reasons[r] != "" }

// String is what a handset may show, "" for no reason.
func (r Reason) String() string { return reasons[r] }
