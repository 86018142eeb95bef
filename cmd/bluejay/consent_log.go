package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"bluejay/consent"
)

func consentLogCmd() *cobra.Command {
	c := &cobra.Command{Use: "log", Short: "Check the log of consent, and prove what is in it"}
	c.AddCommand(logVerifyCmd(), logProveCmd())
	return c
}

// logPlace is where a log is read, and whose it is.
type logPlace struct {
	trusted
	url, dir string
}

func (l *logPlace) flags(f *pflag.FlagSet) {
	l.trusted.flags(f)
	f.StringVar(&l.name, "broker", "", "the broker's name; with --pins it is in there")
	f.StringVar(&l.url, "url", "", "where the node serves the log, for example http://127.0.0.1:8080/log")
	f.StringVar(&l.dir, "dir", "", "the log's directory, DIR/consent-log of a node, instead of --url")
}

// logSource is an open log.
type logSource struct {
	keys   keys
	origin string
	file   func(path string) ([]byte, error)
}

func (l *logPlace) open(ctx context.Context) (*logSource, error) {
	k, err := l.load(false)
	if err != nil {
		return nil, err
	}
	if k.name == "" {
		return nil, errors.New("whose log? give --pins, or --broker NAME with --broker-key")
	}
	s := &logSource{keys: k, origin: consent.LogOrigin(k.name)}
	switch {
	case (l.url == "") == (l.dir == ""):
		return nil, errors.New("where is the log? give --url URL or --dir DIR")
	case l.dir != "":
		s.file = func(path string) ([]byte, error) { return readLogFile(l.dir, path) }
	default:
		s.file, err = overHTTP(ctx, l.url)
	}
	return s, err
}

// checkpoint reads the log's newest checkpoint.
func (s *logSource) checkpoint() (c consent.Checkpoint, signed []byte, err error) {
	if signed, err = s.file("checkpoint"); err == nil {
		c, err = consent.OpenCheckpoint(signed, s.origin, s.keys.brokers)
	}
	if err != nil {
		return c, nil, fmt.Errorf("the log's checkpoint: %w", err)
	}
	return c, signed, nil
}

// readLogFile reads a log's file; a tile that is not full is the beginning of the file of the full one.
func readLogFile(dir, path string) ([]byte, error) {
	width := 0
	if path != "checkpoint" {
		level, n, w, err := consent.ParseTilePath(path)
		if err != nil {
			return nil, err
		}
		width, path = w*len(consent.Hash{}), consent.TilePath(level, n, 1<<consent.TileHeight)
	}
	b, err := readBounded(filepath.Join(dir, filepath.FromSlash(path)), nil, maxLogFile)
	if width > 0 && len(b) > width {
		b = b[:width]
	}
	return b, err
}

// maxLogFile bounds a file of a log, in bytes: a full tile, or a checkpoint.
const maxLogFile = 8 << 10

// logTime bounds one request.
const logTime = 20 * time.Second

// overHTTP reads a log over HTTP: no redirects, bounded answers, and nothing of it is believed before
// the checkpoint bears it out.
func overHTTP(ctx context.Context, at string) (func(path string) ([]byte, error), error) {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--url %q: want a URL like http://127.0.0.1:8080/log", at)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(path string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, logTime)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath(path).String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxLogFile+1))
		if err == nil && (resp.StatusCode != http.StatusOK || len(b) > maxLogFile) {
			err = fmt.Errorf("%s: status %d, %d bytes", path, resp.StatusCode, len(b))
		}
		return b, err
	}, nil
}

func logVerifyCmd() *cobra.Command {
	var at logPlace
	var o logVerify
	c := &cobra.Command{
		Use: "verify --url URL | --dir DIR", Short: "Has anything that was logged been changed or removed?",
		Long: `Check the log of consent against its signed checkpoint, and that against an older one.

  --since FILE    the log now begins with the log of the checkpoint in FILE; a few tiles are read
  --proof FILE    with --receipt FILE: this receipt is in the log of the proof, and that is this log
  --all           every leaf is read, and every tile is computed anew; so it is without --since and --proof

Keep a checkpoint (--save FILE) to check against later: it is worth the more the older it is, and the
more people keep one. The exit code is 0 only if everything fits.`,
		Example: `  bluejay consent log verify --dir bluejay-node/consent-log --pins bluejay-node/pins.json --save checkpoint.txt
  bluejay consent log verify --url http://127.0.0.1:8080/log --pins pins.json --since checkpoint.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := at.open(cmd.Context())
			if err != nil {
				return err
			}
			o.progress = progressOn(cmd.ErrOrStderr())
			found, err := o.run(s)
			if err != nil {
				return err
			}
			return found.tell(cmd.OutOrStdout(), o.json)
		},
	}
	at.flags(c.Flags())
	f := c.Flags()
	f.StringVar(&o.since, "since", "", "a checkpoint that was kept")
	f.StringVar(&o.proof, "proof", "", "a proof of inclusion")
	f.StringVar(&o.receipt, "receipt", "", "the receipt that the proof is of")
	f.StringVar(&o.save, "save", "", "keep the log's checkpoint in a file, once it fits")
	f.BoolVar(&o.all, "all", false, "read every leaf")
	f.BoolVar(&o.json, "json", false, "as JSON")
	return c
}

// logVerify is what to check.
type logVerify struct {
	since, proof, receipt, save string
	all, json                   bool
	progress                    func(done, of uint64)
}

// progressOn shows how far the reading of a long log has come, if w is a terminal.
func progressOn(w io.Writer) func(done, of uint64) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(uint64, uint64) {}
	}
	var last time.Time
	return func(done, of uint64) {
		end := "\r"
		if done == of {
			end = "\n"
		} else if time.Since(last) < time.Second/10 {
			return
		}
		last = time.Now()
		_, _ = fmt.Fprintf(f, "read %d of %d entries%s", done, of, end)
	}
}

// logFound is what was checked.
type logFound struct {
	Origin string  `json:"origin"`
	Size   uint64  `json:"size"`
	Root   string  `json:"root"`
	All    bool    `json:"every_leaf_read"`
	Since  *uint64 `json:"consistent_since_size,omitempty"`
	Index  *uint64 `json:"receipt_at_index,omitempty"`
}

func (o *logVerify) run(s *logSource) (*logFound, error) {
	c, signed, err := s.checkpoint()
	if err != nil {
		return nil, err
	}
	found := &logFound{Origin: c.Origin, Size: c.Size, Root: c.Root.String(), All: o.all || o.since == "" && o.proof == ""}
	if found.All {
		if _, err := consent.CheckAll(c, s.file, func(n uint64) { o.progress(n, c.Size) }); err != nil {
			return nil, err
		}
	}
	if o.since != "" {
		if found.Since, err = o.checkSince(s, c); err != nil {
			return nil, err
		}
	}
	if (o.proof == "") != (o.receipt == "") {
		return nil, errors.New("--proof and --receipt go together")
	}
	if o.proof != "" {
		if found.Index, err = o.checkProof(s, c); err != nil {
			return nil, err
		}
	}
	if o.save != "" {
		err = os.WriteFile(o.save, signed, 0o644)
	}
	return found, err
}

func (o *logVerify) checkSince(s *logSource, now consent.Checkpoint) (*uint64, error) {
	b, err := readBounded(o.since, nil, consent.MaxCheckpoint)
	if err != nil {
		return nil, err
	}
	older, err := consent.OpenCheckpoint(b, s.origin, s.keys.brokers)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.since, err)
	}
	return &older.Size, consent.CheckConsistency(older, now, s.file)
}

// checkProof checks a proof with its own checkpoint, and that this checkpoint is of this log.
func (o *logVerify) checkProof(s *logSource, now consent.Checkpoint) (*uint64, error) {
	b, err := readBounded(o.proof, nil, consent.MaxInclusion)
	if err != nil {
		return nil, err
	}
	p, err := consent.ParseInclusion(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.proof, err)
	}
	r, err := newestReceipt(o.receipt, nil)
	if err != nil {
		return nil, err
	}
	of, err := p.Verify(r.raw(), s.origin, s.keys.brokers)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.proof, err)
	}
	if of.Size > now.Size {
		of, now = now, of
	}
	return &p.Index, consent.CheckConsistency(of, now, s.file)
}

func (f *logFound) tell(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(f)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "✓ %s has %d entries; its checkpoint is signed by the broker.\n", f.Origin, f.Size)
	if f.All {
		fmt.Fprintln(&b, "✓ Every leaf and every tile is what the checkpoint signs.")
	}
	if f.Since != nil {
		fmt.Fprintf(&b, "✓ It begins with the %d entries of the checkpoint that was kept: none was changed or removed.\n", *f.Since)
	}
	if f.Index != nil {
		fmt.Fprintf(&b, "✓ The receipt is entry %d.\n", *f.Index)
	}
	fmt.Fprintf(&b, "  root %s\n", f.Root)
	_, err := io.WriteString(w, b.String())
	return err
}

func logProveCmd() *cobra.Command {
	var at logPlace
	var out string
	c := &cobra.Command{
		Use: "prove RECEIPT --url URL | --dir DIR", Short: "Make a proof that a receipt is in the log",
		Long: `Make a proof that the newest receipt of a file is in the log, from the place and the salt that the
handset has kept with it. The proof verifies offline, with the receipt and the broker's key:
bluejay consent log verify --proof. It says where in the log the receipt is to whoever has both.`,
		Example: "  bluejay consent log prove receipt.json --url http://127.0.0.1:8080/log --pins pins.json --out proof.txt",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := at.open(cmd.Context())
			if err != nil {
				return err
			}
			r, err := newestReceipt(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			b, err := proveReceipt(s, r)
			if err != nil || out == "" {
				return errors.Join(err, writeAll(cmd.OutOrStdout(), b))
			}
			return os.WriteFile(out, b, 0o600)
		},
	}
	at.flags(c.Flags())
	c.Flags().StringVar(&out, "out", "", "the proof's file; empty prints it")
	return c
}

func writeAll(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// newestReceipt reads the last receipt of a file, without verifying it.
func newestReceipt(file string, stdin io.Reader) (receipt, error) {
	all, err := readReceipts(file, stdin)
	if err != nil {
		return receipt{}, fmt.Errorf("%s: no receipt: %w", file, err)
	}
	return receipt{file: all[len(all)-1]}, nil
}

var errNoEntry = errors.New("this receipt does not say where in the log it is: save it anew from the handset that has it (bluejay phone --json: receipt)")

func proveReceipt(s *logSource, r receipt) ([]byte, error) {
	if r.file.Entry.IsZero() {
		return nil, errNoEntry
	}
	c, signed, err := s.checkpoint()
	if err != nil {
		return nil, err
	}
	p, err := consent.ProveInclusion(r.file.Entry, r.raw(), signed, c, s.file)
	if err != nil {
		return nil, err
	}
	return p.Marshal(), nil
}
