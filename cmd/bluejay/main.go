// Command bluejay is every process of a Bluejay node, the demo and a terminal handset.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCmd().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bluejay:", err)
		os.Exit(1)
	}
}

func rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "bluejay",
		Short: "Texts over IP when both sides agreed to it, as SMS when not; every promise can be checked",
		Long: `Bluejay carries texts over IP between phones whose users opted in, and falls back to SMS.

  bluejay demo     the whole service on this machine in ten seconds: start here
  bluejay serve    run a node: broker, registrar and SMS worker
  bluejay phone    a handset in this terminal, against a running node

Nothing leaves a phone before its user has agreed; the server stores no number, no text and no
contact; what is shown as delivered was acknowledged by the recipient's phone.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(demoCmd(), serveCmd(), keysCmd(), smsCmd(), numberCmd(), natsCmd(), phoneCmd(), consentCmd(), simCmd(), benchCmd(), benchLoadCmd(), healthCmd(), versionCmd())
	return root
}

func versionCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := version()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "bluejay %s (%s, protocol %s)\n", v.Version, v.Go, v.Protocol)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Protocol string `json:"protocol"`
}

func version() versionInfo {
	v := versionInfo{Version: "devel", Go: runtime.Version(), Protocol: "1"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v.Version = s.Value[:12]
		}
	}
	return v
}

func keysCmd() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Make the keys of a new node"}
	var dir, name string
	var once bool
	var with beside
	initCmd := &cobra.Command{
		Use: "init", Short: "Make every key of a new node, once; serve does it by itself", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if done, err := initialised(dir); err != nil || done && once {
				return err
			}
			return initNode(dir, name, with)
		},
	}
	initCmd.Flags().StringVar(&dir, "dir", defaultConfig().Dir, "the node's directory")
	initCmd.Flags().StringVar(&name, "name", defaultConfig().Name, "the broker's name, pinned by handsets")
	initCmd.Flags().BoolVar(&once, "once", false, "where the keys were made already, do nothing and succeed")
	with.flags(initCmd.Flags())
	c.AddCommand(initCmd)
	return c
}
