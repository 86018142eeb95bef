package consent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
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
// record and that a broker stored it while the certificate was valid, by the rules by which a broker
// accepts one: a receipt from before its record, or for one that was over, is refused. It does not
// show that the record was the last: a later one may have withdrawn it. Errors: [wire.ErrMalformed],
// [wire.ErrSignature], [wire.ErrExpired]. [P-8] [P-6]
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
	if record.Seq == lastSeq || timely(*record, at) != nil {
		return Proof{}, fmt.Errorf("consent: proof: no broker accepts this record at the receipt's time: %w", wire.ErrExpired)
	}
	return Proof{Cert: *cert, Record: *record, ReceivedAt: at}, nil
}

// ProofFile is a proof of consent as a handset saves it, with its entry in the log if it has one. The
// proof is not verified by being read.
type ProofFile struct {
	Proof []byte // 291 bytes
	Entry Entry
}

// proofFormat is the version of a proof file.
const proofFormat = 1

// proofJSON is a proof file; bytes are base64url without padding.
type proofJSON struct {
	Format int    `json:"bluejay_receipt"`
	Proof  string `json:"proof"`
	Entry  string `json:"log_entry,omitempty"`
}

// exportJSON is what is read of a handset's export of all its data.
type exportJSON struct {
	proofJSON
	Proofs  []string `json:"consent_proofs"`
	Entries []string `json:"consent_log_entries"`
}

var b64 = base64.RawURLEncoding.Strict()

// Marshal returns the proof file: a JSON object and a line end.
func (f ProofFile) Marshal() []byte {
	b, _ := json.MarshalIndent(proofJSON{proofFormat, b64.EncodeToString(f.Proof), f.Entry.encode()}, "", "  ") // strings: it cannot fail
	return append(b, '\n')
}

func (e Entry) encode() string {
	if e.IsZero() {
		return ""
	}
	return b64.EncodeToString(e.Marshal())
}

// MaxProofs bounds how many proofs one file may hold.
const MaxProofs = 1 << 16

// ParseProofs reads what a user may have: a proof's 291 bytes, the same as base64url text, a proof
// file, or a handset's export with every proof, oldest first. It reads shape only; an error wraps
// [wire.ErrMalformed].
func ParseProofs(b []byte) ([]ProofFile, error) {
	if len(b) == ProofLen && b[0] == wire.TypeCertificate {
		return []ProofFile{{Proof: b}}, nil
	}
	text := bytes.TrimSpace(b)
	if !bytes.HasPrefix(text, []byte("{")) {
		f, err := decodeProof(string(text), "")
		return []ProofFile{f}, err
	}
	var e exportJSON
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("%w: not JSON of a receipt: %w", wire.ErrMalformed, err)
	}
	switch {
	case e.Format == proofFormat && e.Proofs == nil:
		e.Proofs, e.Entries = []string{e.Proof}, []string{e.Entry}
	case e.Format != 0:
		return nil, fmt.Errorf("%w: a receipt of version %d", wire.ErrMalformed, e.Format)
	case len(e.Proofs) == 0:
		return nil, fmt.Errorf("%w: there is no receipt in this JSON", wire.ErrMalformed)
	case len(e.Proofs) > MaxProofs:
		return nil, fmt.Errorf("%w: more than %d receipts", wire.ErrMalformed, MaxProofs)
	}
	var all []ProofFile
	for i, p := range e.Proofs {
		var entry string
		if i < len(e.Entries) {
			entry = e.Entries[i]
		}
		f, err := decodeProof(p, entry)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

func decodeProof(proof, entry string) (f ProofFile, err error) {
	if len(proof) != b64.EncodedLen(ProofLen) {
		return f, fmt.Errorf("%w: a receipt has %d bytes, or %d characters of base64url", wire.ErrMalformed, ProofLen, b64.EncodedLen(ProofLen))
	}
	if f.Proof, err = b64.DecodeString(proof); err != nil {
		return ProofFile{}, fmt.Errorf("%w: receipt: %w", wire.ErrMalformed, err)
	}
	if entry == "" {
		return f, nil
	}
	raw, err := b64.DecodeString(entry)
	if err == nil {
		f.Entry, err = ParseEntry(raw)
	}
	if err != nil {
		return ProofFile{}, fmt.Errorf("%w: entry in the log: %w", wire.ErrMalformed, err)
	}
	return f, nil
}
