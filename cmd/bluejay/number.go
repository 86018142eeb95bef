package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/envelope"
	"bluejay/wire"
)

func numberCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "number", Short: "What a node holds on a phone number: show it, hand it over, erase it",
		Long: `What a person may ask of whoever runs a node (GDPR Articles 15, 17 and 20). Each process of the node
answers for what it stores: only the registrar can turn a number into the ID that the broker stores things under,
and only the SMS worker has the key of its numbers' HMACs. The number travels sealed to these two, and the answers
come back sealed; it is in no NATS subject and in no log. Of a stranger's number there is nothing, in the same form.
docs/privacy.md lists every store. NUMBER is like +447700900123, or - to read it from standard input, out of sight
of this machine's other users.`,
	}
	c.AddCommand(holdCmd(), exportCmd(), eraseCmd())
	return c
}

// numberFlags are what every command about a number needs.
type numberFlags struct {
	operatorFlags
	pins   string
	asJSON bool
}

func (f *numberFlags) add(cmd *cobra.Command) {
	f.operatorFlags.add(cmd)
	cmd.Flags().StringVar(&f.pins, "pins", "", "the node's pins; empty: DIR/pins.json")
}

// ask connects and hands do what it needs to ask about a number.
func (f *numberFlags) ask(cmd *cobra.Command, arg string, do func(context.Context, *asker) error) error {
	n, err := numberArg(arg, cmd.InOrStdin())
	if err != nil {
		return err
	}
	path := f.pins
	if path == "" {
		path = filepath.Join(f.dir, filePins)
	}
	pins, err := handset.LoadPins(path)
	if err != nil {
		return err
	}
	return f.with(cmd.Context(), func(ctx context.Context, b *bridge.Bridge) error {
		return do(ctx, &asker{b: b, pins: pins, number: n})
	})
}

// held asks what is held, and hands it on once every part has answered.
func (f *numberFlags) held(cmd *cobra.Command, arg string, do func(document) error) error {
	return f.ask(cmd, arg, func(ctx context.Context, a *asker) error {
		held, err := a.hold(ctx)
		if err != nil {
			return err
		}
		return do(held)
	})
}

// numberArg reads a number, from standard input when it is "-".
func numberArg(arg string, in io.Reader) (wire.Number, error) {
	if arg == "-" {
		line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return wire.Number{}, err
		}
		arg = strings.TrimSpace(line)
	}
	n, err := wire.ParseNumber(arg)
	if err != nil {
		return n, fmt.Errorf("give a number like +447700900123: %w", err)
	}
	return n, nil
}

func holdCmd() *cobra.Command {
	var f numberFlags
	cmd := &cobra.Command{
		Use: "hold NUMBER", Short: "Show everything that is stored about a number", Args: cobra.ExactArgs(1),
		Long: `Shows everything that the node's stores have about a number, store by store, and nothing else. It
exits 0 only if every process has answered: what is not known is never shown as nothing.`,
		Example: "  bluejay number hold +447700900123 --dir node",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.held(cmd, args[0], func(held document) error {
				if f.asJSON {
					return writeDocument(cmd.OutOrStdout(), held)
				}
				return tellHeld(cmd.OutOrStdout(), held)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "as JSON, with every byte as it is stored")
	return cmd
}

func exportCmd() *cobra.Command {
	var f numberFlags
	var out string
	cmd := &cobra.Command{
		Use: "export NUMBER", Short: "Write everything that is stored about a number as JSON", Args: cobra.ExactArgs(1),
		Long: `Writes what hold shows as one JSON document, to hand to the person: each thing as its keeper reads it
and byte for byte as it is stored. The consent has its proof, 291 bytes that verify offline.`,
		Example: "  bluejay number export +447700900123 --dir node --out mine.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.held(cmd, args[0], func(held document) error {
				if out == "" {
					return writeDocument(cmd.OutOrStdout(), held)
				}
				var text strings.Builder
				if err := writeDocument(&text, held); err != nil {
					return err
				}
				return writeSecret(out, []byte(text.String()))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "a new file, for its owner's eyes only; empty: standard output")
	return cmd
}

func eraseCmd() *cobra.Command {
	var f numberFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "erase NUMBER", Short: "End a number's consent and erase everything that is stored about it", Args: cobra.ExactArgs(1),
		Long: `Ends the consent by a revocation (nothing goes to or from the number's user any more), then erases what
hold shows, and says what is left and why. The files are rewritten in the background within minutes, so that
the bytes are gone, too. Erasing again does no harm. The person can enrol again, as somebody new.`,
		Example: "  bluejay number erase +447700900123 --dir node --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return errors.New("this cannot be undone: if it is what you want, say it again with --yes")
			}
			f.time = eraseTime
			return f.ask(cmd, args[0], func(ctx context.Context, a *asker) error {
				left, err := a.erase(ctx)
				if err != nil {
					return err
				}
				return tellErased(cmd.OutOrStdout(), f.asJSON, left)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "yes, erase it")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "as JSON")
	return cmd
}

// eraseTime bounds an erasure: a user may have a thousand jobs waiting, and each is overwritten on disk.
const eraseTime = 5 * time.Minute

// asker asks a node about one number.
type asker struct {
	b      *bridge.Bridge
	pins   handset.Pins
	number wire.Number
}

// document is what is held on a number, in the form in which it is handed over.
type document struct {
	Format  string           `json:"format"`
	AskedAt string           `json:"asked_at"`
	Stores  []bridge.Holding `json:"stores"`
}

const documentFormat = "bluejay-hold-1"

// parts are who is asked, in this order, whatever the others said. [H-2]
var parts = []struct {
	purpose wire.Purpose
	role    bridge.Role
	subject string
	name    string
}{
	{wire.AskRegistrar, bridge.RoleRegistrar, wire.SubjectHold, "the registrar"},
	{wire.AskBroker, bridge.RoleBroker, wire.SubjectHold, "the broker, through the registrar,"},
	{wire.AskWorker, bridge.RoleWorker, wire.SubjectWorkerHold, "the SMS worker"},
}

// hold asks every part; without one of the answers there is none. [H-1] [H-4]
func (a *asker) hold(ctx context.Context) (document, error) {
	d := document{Format: documentFormat, AskedAt: time.Now().UTC().Format(time.RFC3339), Stores: bridge.Holdings()}
	for _, p := range parts {
		held, err := a.pages(ctx, p.purpose, p.subject)
		if err != nil {
			return document{}, fmt.Errorf("%s does not answer: what it holds is not shown, nor is anything else: %w", p.name, err)
		}
		if err := d.add(p.role, held); err != nil {
			return document{}, err
		}
	}
	return d, nil
}

// add puts what a role holds where it belongs.
func (d *document) add(from bridge.Role, held []wire.Held) error {
	for _, h := range held {
		known := false
		for i, s := range d.Stores {
			if s.From == from && s.Store == h.Store {
				d.Stores[i].Items, known = append(s.Items, h), true
			}
		}
		if !known {
			return fmt.Errorf("the %s holds something in a store that this version does not know, %q: use the version that the node runs", from, h.Store)
		}
	}
	return nil
}

// pages asks until there is no more.
func (a *asker) pages(ctx context.Context, p wire.Purpose, subject string) (all []wire.Held, err error) {
	for {
		body, err := a.put(ctx, p, subject, uint32(len(all)))
		if err != nil {
			return nil, err
		}
		page, err := wire.ParsePage(body)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if !page.More {
			return all, nil
		}
	}
}

// put asks one sealed question and opens the answer.
func (a *asker) put(ctx context.Context, p wire.Purpose, subject string, skip uint32) ([]byte, error) {
	req, key, err := a.seal(ctx, envelope.Question{Number: a.number, Purpose: p, At: time.Now(), Skip: skip})
	if err != nil {
		return nil, err
	}
	code, body, err := a.b.Ask(ctx, subject, req)
	switch {
	case err != nil:
		return nil, err
	case code != wire.OK:
		return nil, refusal{code}
	case len(body) == 0:
		return nil, nil // an erasure
	}
	return key.Open(body)
}

// seal seals a question to whom it is for.
func (a *asker) seal(ctx context.Context, q envelope.Question) ([]byte, envelope.AnswerKey, error) {
	if q.Purpose != wire.AskWorker && q.Purpose != wire.EraseNumber {
		return envelope.SealQuestion(a.pins.RegistrarBox, q)
	}
	key, err := a.b.CurrentWorkerKey(ctx)
	if err == nil {
		err = key.Verify(a.pins.Root, time.Now())
	}
	if err != nil {
		return nil, envelope.AnswerKey{}, fmt.Errorf("its key: %w", err)
	}
	return envelope.SealWorkerQuestion(key, q)
}

// refusal is a code with what to do about it.
type refusal struct{ wire.Code }

func (r refusal) Error() string {
	switch r.Code {
	case wire.OverQuota:
		return "asked more often than is allowed: try again in an hour, or, after many erasures, tomorrow"
	case wire.OutOfTime:
		return "the question came too late: set this machine's clock right, and ask again"
	case wire.BadRecord:
		return "the question cannot be read: are these the node's own pins?"
	}
	return r.Code.Error()
}

func (r refusal) Unwrap() error { return r.Code }

// eraseTries bounds how often an erasure is asked for that could not be done at once.
const eraseTries = 20

// erase erases, and returns what is left. [H-6]
func (a *asker) erase(ctx context.Context) (document, error) {
	for _, p := range []struct {
		purpose wire.Purpose
		subject string
		name    string
	}{
		{wire.EraseUser, wire.SubjectErase, "the registrar or the broker"}, {wire.EraseNumber, wire.SubjectWorkerErase, "the SMS worker"},
	} {
		if err := a.insist(ctx, p.purpose, p.subject); err != nil {
			return document{}, fmt.Errorf("not everything is erased, because %s does not answer; erase again: %w", p.name, err)
		}
	}
	return a.hold(ctx)
}

// insist asks again while the answer is that it cannot be done now: each time some of it is.
func (a *asker) insist(ctx context.Context, p wire.Purpose, subject string) (err error) {
	for range eraseTries {
		var r refusal
		if _, err = a.put(ctx, p, subject, 0); err == nil || !errors.As(err, &r) || r.Code != wire.Unavailable {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
	return err
}

// stays says why something of a store stays after an erasure, "" if it does not. [H-6]
func stays(h bridge.Holding) string {
	switch {
	case h.Store == "KV_"+wire.BucketSuppressed:
		return "the number said that it wants no SMS: to keep to that, its keyed hash stays until it says START"
	case h.Store == wire.StreamCaps:
		return "a count against toll fraud, for at most 48 hours"
	case h.Store == bridge.StreamIntegrator && onlyWithdrawn(h.Items):
		return "the word to an integrator that it is to erase what it has, for at most 7 days"
	}
	return ""
}

func onlyWithdrawn(items []wire.Held) bool {
	for _, h := range items {
		if !strings.HasPrefix(h.Key, wire.WithdrawnSubjects()) {
			return false
		}
	}
	return true
}

// tellErased says what is left; it fails if that should not be.
func tellErased(out io.Writer, asJSON bool, d document) error {
	type rest struct {
		From  bridge.Role `json:"from"`
		Store string      `json:"store"`
		Items int         `json:"items"`
		Why   string      `json:"why"`
	}
	left, early := []rest{}, 0
	for _, s := range d.Stores {
		if len(s.Items) == 0 {
			continue
		}
		why := stays(s)
		if why == "" {
			early++
			why = "NOT YET ERASED: a text is on its way, or it has come since; erase again in a minute"
		}
		left = append(left, rest{s.From, s.Store, len(s.Items), why})
	}
	var err error
	if asJSON {
		err = json.NewEncoder(out).Encode(map[string]any{"event": "erased", "whole": early == 0, "left": left})
	} else {
		_, err = fmt.Fprintln(out, "Erased. The node's files are rewritten in the background, within minutes.")
		for _, r := range left {
			_, _ = fmt.Fprintf(out, "Left: %d in %s (%s): %s.\n", r.Items, r.Store, r.From, r.Why)
		}
	}
	if early > 0 {
		err = errors.Join(err, fmt.Errorf("%d stores still have something", early))
	}
	return err
}

func writeDocument(out io.Writer, d document) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// tellHeld prints a table of all stores, then each thing held.
func tellHeld(out io.Writer, d document) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "FROM\tSTORE\tHELD\tUNTIL\tWHAT")
	for _, s := range d.Stores {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.From, s.Store, many(len(s.Items)), s.Until, s.About)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range d.Stores {
		for _, h := range s.Items {
			if _, err := fmt.Fprintf(out, "\n%s %d, %s, stored %s\n  %s\n", h.Store, h.Seq, h.Key, h.Stored.Format(time.RFC3339), valueOf(h)); err != nil {
				return err
			}
		}
	}
	return nil
}

func many(n int) string {
	if n == 0 {
		return "nothing"
	}
	return fmt.Sprint(n)
}

func valueOf(h wire.Held) string {
	if string(h.Value) == "null" || len(h.Value) == 0 {
		return fmt.Sprintf("%d bytes, sealed", len(h.Raw))
	}
	return string(h.Value)
}
