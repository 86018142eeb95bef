package handset

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bluejay/consent"
	"bluejay/wire"
)

// exported is the user's own data in plain words. Private keys are not part of it: with them,
// another device could be mistaken for this one.
type exported struct {
	Number   string            `json:"number,omitempty"`
	ID       string            `json:"id,omitempty"`
	Contacts []exportedContact `json:"contacts"`
	Texts    []exportedText    `json:"texts"`
	Proofs   []string          `json:"consent_proofs"`      // certificate, record and receipt, base64url
	Entries  []string          `json:"consent_log_entries"` // where each is in the log; "" if it is not
}

type exportedContact struct {
	ID      ContactID `json:"id"`
	Name    string    `json:"name"`
	Number  string    `json:"number"`
	Blocked bool      `json:"blocked,omitempty"`
}

type exportedText struct {
	Contact ContactID `json:"contact"`
	Out     bool      `json:"out"`
	Text    string    `json:"text"`
	State   string    `json:"state"`
	AlsoSMS bool      `json:"also_sms,omitempty"`
	At      time.Time `json:"at"`
}

// Export writes the user's own data as JSON: contacts with their numbers, texts, and the proofs of
// what was agreed to. It is meant for the user; nothing of it is redacted. [U-12]
func (h *Handset) Export(w io.Writer) error {
	h.mu.Lock()
	e := h.m.export()
	for _, p := range h.store.under(keyProof) {
		e.Proofs = append(e.Proofs, base64.RawURLEncoding.EncodeToString(p.value))
		e.Entries = append(e.Entries, base64.RawURLEncoding.EncodeToString(h.entryOf(p)))
	}
	h.mu.Unlock()
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(e); err != nil {
		return fmt.Errorf("handset: export: %w", err)
	}
	return nil
}

func (m *model) export() exported {
	e := exported{Contacts: []exportedContact{}, Texts: []exportedText{}, Proofs: []string{}, Entries: []string{}}
	if m.enrolled() {
		e.Number, e.ID = numberOf(m.self.Number).E164(), m.me().String()
	}
	for _, c := range sorted(m.contacts) {
		e.Contacts = append(e.Contacts, exportedContact{c.ID, c.Name, string(c.to()), c.Blocked})
	}
	for _, t := range sorted(m.texts) {
		e.Texts = append(e.Texts, exportedText{t.Contact, t.Out, t.Body, t.State.String(), t.AlsoSMS, t.At})
	}
	return e
}

// Summary is what a state directory holds, as read from the disk alone.
type Summary struct {
	Contacts []Contact // Colour and Session are unknown without a connection
	Texts    []Text    // by ID; folded SMS are left out
}

// Outbox lists the texts written here, in order.
func (s Summary) Outbox() []Text {
	return slices.DeleteFunc(slices.Clone(s.Texts), func(t Text) bool { return !t.Out })
}

// Received lists the texts that came in, in order.
func (s Summary) Received() []Text {
	return slices.DeleteFunc(slices.Clone(s.Texts), func(t Text) bool { return t.Out })
}

// ReadState reads a state directory without opening it: also one in use, and one whose process was
// killed. It sees what was durable at that moment. Errors: [ErrCorrupt], those of the file system.
func ReadState(dir string) (Summary, error) {
	b, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil {
		return Summary{}, fmt.Errorf("handset: read state: %w", err)
	}
	r, err := replay(b)
	if err != nil {
		return Summary{}, err
	}
	return summarize(r.state)
}

func summarize(state map[string][]byte) (s Summary, err error) {
	for _, k := range slices.Sorted(maps.Keys(state)) {
		switch {
		case strings.HasPrefix(k, keyContact):
			var c contactRecord
			err = json.Unmarshal(state[k], &c)
			s.Contacts = append(s.Contacts, c.view())
		case strings.HasPrefix(k, keyText):
			var t textRecord
			err = json.Unmarshal(state[k], &t)
			if t.FoldedIn == 0 {
				s.Texts = append(s.Texts, t.view(false))
			}
		}
		if err != nil {
			return Summary{}, errState
		}
	}
	return s, nil
}

// Proof is the consent of this device's user as it can be shown to anyone: 291 bytes that verify
// offline with the registrar's and the broker's public key. [P-8]
type Proof struct {
	Cert    wire.Certificate
	Consent wire.Consent
	Receipt wire.Receipt
	Entry   consent.Entry // where the record is in the broker's log; zero: the broker has not said [L-2]
}

// Proofs lists what was agreed to, and withdrawn, on this device, oldest first.
func (h *Handset) Proofs() []Proof {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Proof
	for _, o := range h.store.under(keyProof) {
		if p, ok := parseProof(o.value); ok {
			p.Entry, _ = consent.ParseEntry(h.entryOf(o))
			out = append(out, p)
		}
	}
	return out
}

// entryOf is the stored entry of a proof, nil if there is none. Callers hold h.mu.
func (h *Handset) entryOf(proof op) []byte {
	return h.store.state[keyEntry+strings.TrimPrefix(proof.key, keyProof)]
}

// ErrNoProof reports that this device has agreed to nothing yet, or has no receipt for it.
var ErrNoProof = errors.New("handset: there is no receipt of consent on this device yet")

// WriteReceipt writes the newest proof as a file for `bluejay consent verify`: it says what was agreed
// to, or withdrawn, and names the device and the ID; there is no number in it. [U-10]
func (h *Handset) WriteReceipt(w io.Writer) error {
	h.mu.Lock()
	all := h.store.under(keyProof)
	if len(all) == 0 {
		h.mu.Unlock()
		return ErrNoProof
	}
	newest := all[len(all)-1]
	entry, _ := consent.ParseEntry(h.entryOf(newest))
	f := consent.ProofFile{Proof: newest.value, Entry: entry}
	h.mu.Unlock()
	if _, err := w.Write(f.Marshal()); err != nil {
		return fmt.Errorf("handset: receipt: %w", err)
	}
	return nil
}

func parseProof(b []byte) (p Proof, ok bool) {
	if len(b) != consent.ProofLen {
		return p, false
	}
	var err1, err2, err3 error
	p.Cert, err1 = wire.ParseCertificate(b[:wire.CertificateLen])
	p.Consent, err2 = wire.ParseConsent(b[wire.CertificateLen : wire.CertificateLen+wire.ConsentLen])
	p.Receipt, err3 = wire.ParseReceipt(b[wire.CertificateLen+wire.ConsentLen:])
	return p, err1 == nil && err2 == nil && err3 == nil
}
