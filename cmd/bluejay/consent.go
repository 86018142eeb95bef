package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bluejay/clients/handset"
	"bluejay/consent"
	"bluejay/wire"
)

func consentCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "consent", Short: "Check receipts and the log of consent, offline where it can be; switch a user off",
		Long: `What was agreed to can be checked by anybody who has the receipt and a node's public keys.

  bluejay consent verify FILE       is this receipt genuine, and what does it say?
  bluejay consent export FILE       the same in the forms of ISO/IEC TS 27560, W3C DPV or Kantara
  bluejay consent log verify        has anything that was logged been changed or removed?
  bluejay consent log prove FILE    a proof that this receipt is in the log, for others to check
  bluejay consent revoke NUMBER     the operator switches a user off

FILE is a receipt as a handset saves it, its 291 bytes, these as base64url text, or a handset's export.`,
	}
	c.AddCommand(consentVerifyCmd(), consentExportCmd(), consentLogCmd(), consentRevokeCmd())
	return c
}

// trusted are the public keys by which a command believes: a node's pins, or the keys themselves.
type trusted struct {
	pins      string
	registrar string
	brokers   []string
	name      string
}

func (k *trusted) flags(f *pflag.FlagSet) {
	f.StringVar(&k.pins, "pins", "", "the node's pins.json")
	f.StringVar(&k.registrar, "registrar-key", "", "the registrar's public key (base64url), instead of --pins")
	f.StringSliceVar(&k.brokers, "broker-key", nil, "a public key with which the broker signs receipts (base64url), instead of --pins")
}

// keys are what trusted names.
type keys struct {
	registrar wire.PublicKey
	brokers   []wire.PublicKey
	name      string // of the broker
}

// load reads the keys; needs says which have to be there when they are given one by one.
func (k *trusted) load(needRegistrar bool) (keys, error) {
	if k.pins != "" {
		if k.registrar != "" || len(k.brokers) > 0 {
			return keys{}, errors.New("--pins has the keys; give it, or --registrar-key and --broker-key")
		}
		p, err := handset.LoadPins(k.pins)
		return keys{p.Registrar, p.Receipt, orElse(k.name, p.Broker)}, err
	}
	if len(k.brokers) == 0 || needRegistrar && k.registrar == "" {
		return keys{}, errors.New("whom to believe? give --pins PINS.JSON of the node, or its keys one by one (see --help)")
	}
	var out keys
	var err error
	if needRegistrar {
		if out.registrar, err = publicKey(k.registrar); err != nil {
			return keys{}, fmt.Errorf("--registrar-key: %w", err)
		}
	}
	for _, s := range k.brokers {
		b, err := publicKey(s)
		if err != nil {
			return keys{}, fmt.Errorf("--broker-key: %w", err)
		}
		out.brokers = append(out.brokers, b)
	}
	out.name = k.name
	return out, nil
}

func publicKey(s string) (wire.PublicKey, error) {
	b, err := b64.DecodeString(s)
	if err != nil || len(b) != len(wire.PublicKey{}) {
		return wire.PublicKey{}, errors.New("not an Ed25519 public key in base64url (43 characters)")
	}
	return wire.PublicKey(b), nil
}

// maxReceipts bounds a file of receipts, in bytes: an export has the user's texts in it, too.
const maxReceipts = 64 << 20

// readReceipts reads the receipts of a file; - is standard input.
func readReceipts(file string, stdin io.Reader) ([]consent.ProofFile, error) {
	b, err := readBounded(file, stdin, maxReceipts)
	if err != nil {
		return nil, err
	}
	return consent.ParseProofs(b)
}

// readBounded reads a file, or standard input for -, of at most limit bytes.
func readBounded(file string, stdin io.Reader, limit int64) ([]byte, error) {
	r := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", file, limit)
	}
	return b, err
}

// receipt is a proof that was verified.
type receipt struct {
	consent.Proof
	file consent.ProofFile
}

// verified verifies each receipt of a file; errs has the reason for each that is none.
func verified(all []consent.ProofFile, k keys) (ok []receipt, errs []error) {
	for _, f := range all {
		p, err := consent.VerifyProof(f.Proof, k.registrar, k.brokers)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ok = append(ok, receipt{p, f})
	}
	return ok, errs
}

// raw is the record that the receipt is for, as it was signed: what is in the log.
func (r receipt) raw() []byte {
	return r.file.Proof[wire.CertificateLen : wire.CertificateLen+wire.ConsentLen]
}

// scopeTable are the scopes as their users know them.
var scopeTable = []struct {
	scope       wire.Scope
	name, words string
}{
	{wire.ScopeMessaging, "messaging", "texts over the internet"},
	{wire.ScopePresence, "presence", "accepted people see that you are reachable"},
	{wire.ScopeGateway, "gateway", "SMS through the gateway"},
	{wire.ScopeBackup, "backup", "backup"},
	{wire.ScopeIntegrations, "integrations", "linked services are told what became of your SMS"},
}

// scopesIn names the scopes that are in s, or with in=false those that are not.
func scopesIn(s wire.Scope, in bool) (names, words []string) {
	names = []string{}
	for _, w := range scopeTable {
		if s.Has(w.scope) == in {
			names, words = append(names, w.name), append(words, w.words)
		}
	}
	return names, words
}

func utc(u uint32) string { return wire.Time32(u).UTC().Format("2006-01-02 15:04:05 UTC") }

func rfc3339(u uint32) string { return wire.Time32(u).UTC().Format(time.RFC3339) }

func commas(words []string) string { return strings.Join(words, "; ") }
