package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"bluejay/bridge"
	"bluejay/sms"
)

func smsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "sms", Short: "Check the ways out, look after what could not be sent",
		Long: `What an operator does with the SMS side of a node. None of it shows a number or a text: at rest a
job is sealed, and a number is only its keyed hash.`,
	}
	c.AddCommand(smsCheckCmd(), smsDeadCmd())
	return c
}

func smsCheckCmd() *cobra.Command {
	c := defaultConfig()
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check every route: the configuration, then a real bind; no SMS is sent",
		Long: `Reads the same settings as serve, connects to every route as the worker would (an SMPP bind, an
HTTP gateway's status, a spool's folders), and disconnects. It exits 0 only if all of them are usable.
It does not prove that the network would deliver.`,
		Example: "  bluejay sms check --sms-routes routes.toml\n  BLUEJAY_SMS_PASSWORD=… bluejay sms check --sms smpps://me@smsc.example:3550",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.load(file, cmd.Flags()); err != nil {
				return err
			}
			return checkRoutes(cmd.Context(), &c, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "TOML file")
	c.flags(cmd.Flags())
	return cmd
}

// checkTime bounds the check of one route.
const checkTime = 20 * time.Second

// checkRoutes reports on every route; it fails if one of them does.
func checkRoutes(ctx context.Context, c *nodeConfig, out io.Writer) error {
	ways, err := openWays(c, out, c.logger())
	if err != nil {
		return err
	}
	bad := 0
	for _, r := range ways.routes.All() {
		took, err := checkRoute(ctx, r)
		if err != nil {
			bad++
		}
		if err := tellRoute(out, c.JSON, r.Transport.Route(), took, err); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d routes cannot be used", bad, len(ways.routes.All()))
	}
	return nil
}

func checkRoute(ctx context.Context, r sms.Route) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	began := time.Now()
	err := r.Transport.Check(ctx)
	return time.Since(began), err
}

func tellRoute(out io.Writer, asJSON bool, name string, took time.Duration, err error) error {
	if asJSON {
		line := map[string]any{"event": "route", "route": name, "ok": err == nil, "ms": float64(took.Microseconds()) / 1000}
		if err != nil {
			line["error"] = err.Error()
		}
		return json.NewEncoder(out).Encode(line)
	}
	if err != nil {
		_, err = fmt.Fprintf(out, "%-16s FAILS  %v\n", name, err)
		return err
	}
	_, err = fmt.Fprintf(out, "%-16s ok     %s\n", name, took.Round(time.Millisecond))
	return err
}

func smsDeadCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "dead", Short: "Jobs that no worker could use: list them, try one again, drop one",
		Long: `A job that does not open or is not what it says it is goes to the dead letters, whole and sealed, for
seven days; its sender was told "failed". Trying again is of use only while the day key it was sealed
to still exists, at most 48 hours.`,
	}
	c.AddCommand(deadListCmd(), deadDoCmd("retry", "Queue a dead job again", bridge.DeadLetters.Retry),
		deadDoCmd("drop", "Forget a dead job", bridge.DeadLetters.Drop))
	return c
}

// operatorFlags are what a command needs to reach a node's NATS as its operator.
type operatorFlags struct {
	dir, nats, creds, ca string
	time                 time.Duration // 0: operatorTime
}

func (o *operatorFlags) add(cmd *cobra.Command) {
	d := defaultConfig()
	cmd.Flags().StringVar(&o.dir, "dir", d.Dir, "the node's directory")
	cmd.Flags().StringVar(&o.nats, "nats", "", "URL of its NATS server; empty: the running node's, from DIR/nats-url")
	cmd.Flags().StringVar(&o.creds, "nats-creds", "", "credentials; empty: DIR/keys/operator/nats.creds")
	cmd.Flags().StringVar(&o.ca, "nats-ca", "", "PEM of the CA of the NATS server's certificate")
}

// with connects as the operator for as long as f runs.
func (o *operatorFlags) with(ctx context.Context, f func(context.Context, *bridge.Bridge) error) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.time, operatorTime))
	defer cancel()
	url := o.nats
	if url == "" {
		b, err := os.ReadFile(filepath.Join(o.dir, fileURL))
		if err != nil {
			return fmt.Errorf("where is the node's NATS? Give --nats URL, or --dir of a running node: %w", err)
		}
		url = strings.TrimSpace(string(b))
	}
	b, err := connect(ctx, bridge.RoleOperator, &nodeConfig{Dir: o.dir, NATSCreds: o.creds, NATSCA: o.ca}, url, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, b), b.Close(ctx))
}

// operatorTime bounds an operator's command.
const operatorTime = 30 * time.Second

func deadListCmd() *cobra.Command {
	var o operatorFlags
	var asJSON bool
	limit := 100
	cmd := &cobra.Command{
		Use: "list", Short: "List the dead jobs, oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(ctx context.Context, b *bridge.Bridge) error {
				dead, err := b.DeadLetters().List(ctx, limit)
				if err != nil {
					return err
				}
				return tellDead(cmd.OutOrStdout(), asJSON, dead)
			})
		},
	}
	o.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().IntVar(&limit, "limit", limit, "at most this many")
	return cmd
}

func tellDead(out io.Writer, asJSON bool, dead []bridge.DeadLetter) error {
	if asJSON {
		enc := json.NewEncoder(out)
		for _, d := range dead {
			if err := enc.Encode(map[string]any{
				"event": "dead", "number": d.Seq, "message": d.Message.String(), "class": d.Class.String(),
				"reason": d.Reason, "at": d.At.UTC().Format(time.RFC3339), "bytes": d.Bytes,
			}); err != nil {
				return err
			}
		}
		return nil
	}
	if len(dead) == 0 {
		_, err := fmt.Fprintln(out, "No dead jobs.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NUMBER\tSINCE\tCLASS\tMESSAGE\tREASON")
	for _, d := range dead {
		_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", d.Seq, d.At.UTC().Format(time.RFC3339), d.Class, d.Message, d.Reason)
	}
	return w.Flush()
}

// deadDoCmd is a command that does one thing to dead jobs named by number.
func deadDoCmd(name, short string, do func(bridge.DeadLetters, context.Context, uint64) error) *cobra.Command {
	var o operatorFlags
	cmd := &cobra.Command{
		Use: name + " NUMBER…", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			numbers, err := deadNumbers(args)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, b *bridge.Bridge) error {
				var errs []error
				for _, n := range numbers {
					if err := do(b.DeadLetters(), ctx, n); err != nil {
						errs = append(errs, fmt.Errorf("%d: %w", n, err))
					}
				}
				return errors.Join(errs...)
			})
		},
	}
	o.add(cmd)
	return cmd
}

func deadNumbers(args []string) ([]uint64, error) {
	var numbers []uint64
	for _, a := range args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number that `bluejay sms dead list` shows", a)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
