package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bluejay/bridge"
	"bluejay/clients/handset"
	"bluejay/envelope"
	"bluejay/wire"
)

func consentRevokeCmd() *cobra.Command {
	var o operatorFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "revoke NUMBER", Short: "Switch a number off, as its operator: nothing goes to or from its phone any more",
		Long: `Has the registrar sign a revocation (cause 3) for a number, and returns once nothing goes to or from its
phone any more: its connection has ended, what was in flight was returned, its contacts see grey, its
queued SMS jobs are cancelled. It can only switch off. The phone learns of it when it comes back, and its
user can agree again.

The number is sealed to the registrar before it leaves this process. NUMBER - is read from the standard
input, which no list of processes shows.`,
		Example: "  bluejay consent revoke +447700900123 --dir node\n  echo +447700900123 | bluejay consent revoke - --dir node",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sealed, err := sealNumber(o.dir, args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, b *bridge.Bridge) error {
				began := time.Now()
				seq, err := b.Off(ctx, sealed, wire.CauseOperator)
				if err != nil {
					return fmt.Errorf("not switched off, ask again: %w", err)
				}
				return tellOff(cmd.OutOrStdout(), asJSON, seq, time.Since(began))
			})
		},
	}
	o.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// sealNumber seals a number to a node's registrar; "-" is read from in.
func sealNumber(dir, number string, in io.Reader) ([]byte, error) {
	if number == "-" {
		line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		number = strings.TrimSpace(line)
	}
	n, err := wire.ParseNumber(number)
	if err != nil {
		return nil, fmt.Errorf("number: %w", err)
	}
	pins, err := handset.LoadPins((&nodeConfig{Dir: dir}).pinsPath())
	if err != nil {
		return nil, err
	}
	return envelope.SealNumber(pins.RegistrarBox, n)
}

// tellOff says what was done, without the number.
func tellOff(out io.Writer, asJSON bool, seq uint32, took time.Duration) error {
	ms := float64(took.Microseconds()) / 1000
	if asJSON {
		return json.NewEncoder(out).Encode(map[string]any{"event": "revoked", "enrolled": seq != 0, "seq": seq, "cause": int(wire.CauseOperator), "ms": ms})
	}
	if seq == 0 {
		_, err := fmt.Fprintln(out, "Nobody has enrolled with this number: there was nothing to switch off.")
		return err
	}
	_, err := fmt.Fprintf(out, "Off after %.1f ms: stored durably as seq %d (cause 3, operator). Nothing goes to or from its phone any more.\n", ms, seq)
	return err
}
