package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"bluejay/clients/handset"
	"bluejay/fallback"
	"bluejay/wire"
)

// phoneOptions are the flags of `bluejay phone`.
type phoneOptions struct {
	dir, number, name, lang, fallback string
	node                              phoneNode
	moved, json                       bool
	terminal                          []tea.ProgramOption // none: the process's own
}

// phoneModes are the words for the user's rule for contacts that cannot be reached. [F-1]
var phoneModes = map[string]fallback.Mode{
	"device": fallback.ModeDevice, "gateway": fallback.ModeGateway, "ask": fallback.ModeAsk, "never": fallback.ModeNever,
}

func phoneCmd() *cobra.Command {
	var o phoneOptions
	cmd := &cobra.Command{
		Use:   "phone",
		Short: "A handset in this terminal, against a running node",
		Long: `A handset in this terminal, against a running node.

Nothing is dialled before you have accepted the notice. A terminal has no SIM: where a phone would
send an SMS of its own, this one shows what it would have sent, marked as simulated.

With --json it reads one command a line and prints one event a line, for programs:
  {"do":"notice"}  {"do":"optin","number":"+447700900001"}  {"do":"otp","code":"123456"}
  {"do":"add","name":"Bob","number":"+447700900002"}  {"do":"send","to":"Bob","text":"Hello"}
  {"do":"contacts"}  {"do":"texts","with":"Bob"}  {"do":"status"}  {"do":"optout"}  {"do":"quit"}
  open, cancel, again, accept, block, unblock, safety, mode, visible, delete, export, receipt (the last two to a new "file")
Every command is answered by "done" or "error"; the end of the input is "quit".`,
		Example: "  bluejay serve --dir node &\n  bluejay phone --node node --dir alice --number +447700900001",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "state directory (default: bluejay/phone below the user's configuration directory)")
	o.node.flags(f)
	f.StringVar(&o.number, "number", "", "this phone's number, +44…; asked for otherwise")
	f.StringVar(&o.name, "name", "", "what to call this phone on its screen")
	f.StringVar(&o.lang, "lang", "", "language of the notice: en or zh")
	f.StringVar(&o.fallback, "fallback", "device", "while a contact is grey: device, gateway, ask or never")
	f.BoolVar(&o.moved, "moved", false, "accept a state directory that was moved; conversations begin anew")
	f.BoolVar(&o.json, "json", false, "no screen: commands on standard input, events on standard output")
	cmd.AddCommand(phoneOffCmd())
	return cmd
}

// check refuses what could only fail later, after the notice.
func (o *phoneOptions) check() (wire.Number, error) {
	if _, ok := phoneModes[o.fallback]; !ok {
		return wire.Number{}, fmt.Errorf("fallback: %q is none of device, gateway, ask, never", o.fallback)
	}
	if o.lang != "" && o.lang != "en" && o.lang != "zh" {
		return wire.Number{}, fmt.Errorf("lang: %q is none of en, zh", o.lang)
	}
	if o.number == "" {
		return wire.Number{}, nil
	}
	n, err := wire.ParseNumber(o.number)
	if err != nil {
		return n, fmt.Errorf("number: %w", err)
	}
	return n, nil
}

// run opens the handset, which dials nothing, and shows it. [U-1]
func (o *phoneOptions) run(cmd *cobra.Command) error {
	number, err := o.check()
	if err != nil {
		return err
	}
	if !o.json && !term.IsTerminal(int(os.Stdout.Fd())) {
		return errors.New("phone needs a terminal; programs use --json")
	}
	if err := o.findDir(); err != nil {
		return err
	}
	set, err := loadPhoneSettings(o.dir)
	if err != nil {
		return err
	}
	set.Name, set.Lang = orElse(o.name, set.Name), orElse(set.Lang, orElse(o.lang, "en"))
	cfg, err := o.node.config()
	if err != nil {
		return err
	}
	sim := make(terminalSIM, 16)
	cfg.Dir, cfg.SIM, cfg.Moved, cfg.EventBuffer = o.dir, sim, o.moved, 1024
	cfg.Policy.Mode = phoneModes[o.fallback]
	h, err := handset.Open(cfg)
	if err != nil {
		return err
	}
	if o.json {
		s := &phoneScript{dev: h, settings: set, save: o.save, out: cmd.OutOrStdout()}
		return errors.Join(s.run(cmd.Context(), h.Events(), sim, cmd.InOrStdin()), h.Close())
	}
	return o.screen(cmd.Context(), h, sim, set, number)
}

func (o *phoneOptions) findDir() error {
	if o.dir != "" {
		return nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return fmt.Errorf("no configuration directory: %w (use --dir)", err)
	}
	o.dir = filepath.Join(base, "bluejay", "phone")
	return nil
}

func (o *phoneOptions) save(s phoneSettings) error { return savePhoneSettings(o.dir, s) }

// screen runs the program until the user quits or ctx ends.
func (o *phoneOptions) screen(ctx context.Context, h *handset.Handset, sim terminalSIM, set phoneSettings, number wire.Number) error {
	m := newPhoneModel(phoneConfig{
		ctx: ctx, dev: h, settings: set, number: number, mode: phoneModes[o.fallback],
		zone: time.Local, plain: os.Getenv("NO_COLOR") != "",
		save: o.save,
	})
	p := tea.NewProgram(m, append(o.terminal, tea.WithContext(ctx), tea.WithoutSignalHandler())...)
	var pump sync.WaitGroup
	pump.Go(func() { forward(h.Events(), sim, p.Send) })
	_, err := p.Run()
	if ctx.Err() != nil {
		err = nil // asked to end
	}
	err = errors.Join(err, h.Close())
	pump.Wait()
	return err
}

// forward passes on what happens in the handset until it is closed.
func forward(events <-chan handset.Event, sim terminalSIM, send func(tea.Msg)) {
	for {
		select {
		case e, open := <-events:
			if !open {
				return
			}
			send(e)
		case s := <-sim:
			send(s)
		}
	}
}
