package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"bluejay/clients/handset"
	"bluejay/wire"
)

func phoneOffCmd() *cobra.Command {
	var node phoneNode
	cmd := &cobra.Command{
		Use: "off NUMBER", Short: "Switch another phone off, by a one-time password sent to its number",
		Long: `Switches Bluejay off for a number from any phone: without an account, without the notice, and nothing is
stored here. A one-time password comes to the number by SMS; type it in. Then nothing goes to or from the
number's phone until its user agrees there again.`,
		Example: "  bluejay phone off +447700900123 --node node",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := wire.ParseNumber(args[0])
			if err != nil {
				return fmt.Errorf("number: %w", err)
			}
			cfg, err := node.config()
			if err != nil {
				return err
			}
			return switchOff(cmd.Context(), cfg, number, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	node.flags(cmd.Flags())
	return cmd
}

// switchOff asks for the password and reads it, as often as the registrar lets it be tried.
func switchOff(ctx context.Context, cfg handset.Config, number wire.Number, in io.Reader, out io.Writer) error {
	off, err := handset.AskOff(ctx, cfg, number)
	if err != nil {
		return errors.New(phoneWhy(err))
	}
	_, _ = fmt.Fprintln(out, "A one-time password is on its way by SMS. Type its six digits:")
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var err error = wire.WrongPassword
		if otp := onlyDigits(lines.Text()); len(otp) == 6 {
			err = off.Confirm(ctx, otp)
		}
		switch {
		case err == nil:
			_, err = fmt.Fprintln(out, "Off: nothing goes to or from that phone any more.")
			return err
		case !errors.Is(err, wire.WrongPassword):
			return errors.New(phoneWhy(err))
		}
		_, _ = fmt.Fprintln(out, phoneWhy(err)+": type it again")
	}
	return errors.Join(lines.Err(), errors.New("not switched off: no password"))
}
