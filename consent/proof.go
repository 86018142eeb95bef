package consent

import (
	"fmt"
	"slices"
	"time"

	"bluejay/wire"
)

// ProofLen is the size of a proof of consent: certificate, record and receipt, in bytes.
const ProofLen = wire.CertificateLen + wire.ConsentLen + wire.ReceiptLen

// Proof is what a user agreed to, or withdrew, as anybody can check it offline. [P-8]
type Proof struct {
	Cert       wire.Certificate
	Record     wire.Consent
	ReceivedAt time.Time // by the broker's clock
}

// VerifyProof checks 291 bytes with nothing but public keys: the registrar's, and those with which
// brokers have ever signed receipts. It shows that the device certified for the ID signed the
// record and that a broker stored it while the certificate was valid. It does not show that the
// record was the last: a later one may have withdrawn it. Errors: [wire.ErrMalformed],
// [wire.ErrSignature], [wire.ErrExpired]. [P-8]
func VerifyProof(b []byte, registrar wire.PublicKey, brokers []wire.PublicKey) (Proof, error) {
	if len(b) != ProofLen {
		return Proof{}, fmt.Errorf("%w: a proof has %d bytes", wire.ErrMalformed, ProofLen)
	}
	r := reader{b: b}
	cert := field(&r, wire.CertificateLen, wire.ParseCertificate)
	raw := r.b[:min(len(r.b), wire.ConsentLen)]
	record := field(&r, wire.ConsentLen, wire.ParseConsent)
	receipt := field(&r, wire.ReceiptLen, wire.ParseReceipt)
	if r.err != nil {
		return Proof{}, fmt.Errorf("consent: proof: %w", r.err)
	}
	at := wire.Time32(receipt.ReceivedAt)
	if err := cert.Verify(registrar, at); err != nil {
		return Proof{}, fmt.Errorf("consent: proof: certificate: %w", err)
	}
	if record.ID != cert.ID || record.Verify(cert.Device) != nil {
		return Proof{}, fmt.Errorf("consent: proof: record: %w", wire.ErrSignature)
	}
	signed := func(k wire.PublicKey) bool { return receipt.Verify(k, raw) == nil }
	if !slices.ContainsFunc(brokers, signed) {
		return Proof{}, fmt.Errorf("consent: proof: receipt: %w", wire.ErrSignature)
	}
	return Proof{Cert: *cert, Record: *record, ReceivedAt: at}, nil
}
