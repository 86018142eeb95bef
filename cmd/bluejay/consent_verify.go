package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"bluejay/clients/handset"
	"bluejay/consent"
	"bluejay/wire"
)

func consentVerifyCmd() *cobra.Command {
	var k trusted
	var asJSON bool
	c := &cobra.Command{
		Use: "verify FILE", Short: "Is this receipt genuine, and what does it say? Without any network",
		Long: `Verify a receipt of consent with two public keys, the registrar's and the broker's, and no network.

A genuine receipt shows that the device certified for this ID signed exactly these scopes after exactly
this notice, and when a broker stored it: the server cannot make one. It does not show that it was the
last word: a later record may have withdrawn it. FILE - is standard input. The exit code is 0 only if
every receipt in FILE is genuine.`,
		Example: "  bluejay consent verify receipt.json --pins bluejay-node/pins.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := k.load(true)
			if err != nil {
				return err
			}
			all, err := readReceipts(args[0], cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("%s: no receipt: %w", args[0], err)
			}
			tell := tellReceipt
			if asJSON {
				tell = printReceipt
			}
			return verifyReceipts(cmd.OutOrStdout(), all, keys, tell)
		},
	}
	k.flags(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a receipt")
	return c
}

// errReceipt is why a receipt is not genuine, in a user's words.
func errReceipt(err error) error {
	why := map[error]string{
		wire.ErrMalformed: "it is not a receipt: a byte is missing, or is not what belongs there",
		wire.ErrSignature: "a signature does not fit: it was changed, or made by somebody else, or is of another node than these keys",
		wire.ErrExpired:   "its times do not fit: no broker stores such a record at that time",
	}
	for e, words := range why {
		if errors.Is(err, e) {
			return fmt.Errorf("%s (%w)", words, err)
		}
	}
	return err
}

func verifyReceipts(w io.Writer, all []consent.ProofFile, k keys, tell func(io.Writer, consent.ProofFile, consent.Proof, error) error) error {
	bad := 0
	for _, f := range all {
		p, err := consent.VerifyProof(f.Proof, k.registrar, k.brokers)
		if err != nil {
			bad++
			err = errReceipt(err)
		}
		if err := tell(w, f, p, err); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d receipts not genuine", bad, len(all))
	}
	return nil
}

// receiptLine is a receipt for programs.
type receiptLine struct {
	Valid      bool        `json:"valid"`
	Why        string      `json:"why,omitempty"`
	ID         string      `json:"id,omitempty"`
	Device     string      `json:"device,omitempty"`
	Scopes     []string    `json:"scopes"`
	Withdrawal bool        `json:"withdrawal"`
	Listed     bool        `json:"listed"`
	Seq        uint32      `json:"seq"`
	IssuedAt   string      `json:"issued_at,omitempty"`
	ReceivedAt string      `json:"received_at,omitempty"`
	ExpiresAt  string      `json:"expires_at,omitempty"`
	Notice     *noticeLine `json:"notice,omitempty"`
	LogIndex   *uint64     `json:"log_index,omitempty"`
}

type noticeLine struct {
	Hash    string `json:"hash"`
	Version int    `json:"version"` // 0: no text that this program knows
	Lang    string `json:"lang,omitempty"`
	Text    string `json:"text,omitempty"`
}

func printReceipt(w io.Writer, f consent.ProofFile, p consent.Proof, err error) error {
	if err != nil {
		return json.NewEncoder(w).Encode(receiptLine{Why: err.Error(), Scopes: []string{}})
	}
	names, _ := scopesIn(p.Record.Scopes, true)
	l := receiptLine{
		Valid: true, ID: p.Record.ID.String(), Device: b64.EncodeToString(p.Cert.Device[:]), Scopes: names,
		Withdrawal: p.Record.Scopes == 0, Listed: p.Record.Visibility == wire.Listed, Seq: p.Record.Seq,
		IssuedAt: rfc3339(p.Record.IssuedAt), ReceivedAt: rfc3339(wire.Unix32(p.ReceivedAt)), ExpiresAt: rfc3339(p.Record.ExpiresAt),
		Notice: noticeOf(p.Record.Notice),
	}
	if !f.Entry.IsZero() {
		l.LogIndex = &f.Entry.Index
	}
	return json.NewEncoder(w).Encode(l)
}

func noticeOf(hash [16]byte) *noticeLine {
	l := &noticeLine{Hash: hex.EncodeToString(hash[:])}
	if n, ok := consent.NoticeByHash(hash); ok {
		l.Version, l.Lang = n.Version, n.Lang
	}
	if n, ok := handset.NoticeByHash(hash); ok {
		l.Text = n.Text
	}
	return l
}

// tellReceipt is a receipt for people.
func tellReceipt(w io.Writer, f consent.ProofFile, p consent.Proof, err error) error {
	if err != nil {
		_, err = fmt.Fprintf(w, "✗ This is NOT a genuine receipt: %v.\n\n", err)
		return err
	}
	_, in := scopesIn(p.Record.Scopes, true)
	_, out := scopesIn(p.Record.Scopes, false)
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "  %-9s "+format+"\n", append([]any{what}, args...)...)
	}
	fmt.Fprintln(&b, "✓ This receipt is genuine.")
	line("who", "%s, a code made from a number: the number is not in here", p.Record.ID)
	line("device", "%s…", b64.EncodeToString(p.Cert.Device[:])[:16])
	if p.Record.Scopes == 0 {
		line("said", "no to everything: this is a withdrawal")
	} else {
		line("said yes", "to %s", commas(in))
		line("not yes", "to %s", orElse(commas(out), "nothing: these are all"))
		line("until", "%s, unless withdrawn before", utc(p.Record.ExpiresAt))
		line("strangers", "%s", map[bool]string{true: "who have the number may write", false: "cannot write first: unlisted"}[p.Record.Visibility == wire.Listed])
	}
	line("when", "%s by the phone's clock; stored by the broker %s", utc(p.Record.IssuedAt), utc(wire.Unix32(p.ReceivedAt)))
	line("record", "number %d of this ID", p.Record.Seq)
	if !f.Entry.IsZero() {
		line("log", "it says it is entry %d: check with bluejay consent log prove", f.Entry.Index)
	}
	tellNotice(&b, line, p.Record.Notice)
	fmt.Fprintf(&b, "\nIt does not show that this was the last word: a later record may have changed or withdrawn it.\n\n")
	_, err = io.WriteString(w, b.String())
	return err
}

func tellNotice(b *strings.Builder, line func(string, string, ...any), hash [16]byte) {
	n := noticeOf(hash)
	if n.Text == "" {
		line("notice", "none that this program knows (hash %s): what the user was shown cannot be said", n.Hash)
		return
	}
	line("notice", "version %d, language %s; exactly this text:\n", n.Version, n.Lang)
	for l := range strings.SplitSeq(n.Text, "\n") {
		fmt.Fprintf(b, "    │ %s\n", l)
	}
}
