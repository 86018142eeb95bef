package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bluejay/bridge"
	"bluejay/broker"
)

func natsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "nats", Short: "Integrators' credentials, and the configuration of a NATS server outside",
		Long: `A node's NATS has an account for its own processes and one for each integrator, which sees events about
users who agreed to it, under pseudonyms of its own, and nothing else. See docs/integrators.md.`,
	}
	c.AddCommand(credsCmd(), revokeCmd(), natsTailCmd(), natsConfigCmd(), schemaCmd(), asyncapiCmd())
	return c
}

// dirIntegrators is where the broker finds its integrators, in its key folder; each has NAME.key,
// NAME.creds and NAME.account.
const dirIntegrators = "integrators"

// Files of an integrator NAME.
const (
	extKey     = ".key"
	extCreds   = ".creds"
	extAccount = ".account"
	sizeEvent  = 32 // of K_integrator
)

func integratorsDir(dir string) keyDir {
	return keyDir(rolesDir(dir, bridge.RoleBroker).path(dirIntegrators))
}

// integrators lists who was made by `nats creds`; a running broker reads it every few seconds.
func (c *nodeConfig) integrators() ([]broker.Integrator, error) {
	d := keyDir(c.keyDir(bridge.RoleBroker).path(dirIntegrators))
	names, err := filepath.Glob(d.path("*" + extKey))
	if err != nil {
		return nil, err
	}
	var list []broker.Integrator
	for _, file := range names {
		name := strings.TrimSuffix(filepath.Base(file), extKey)
		key, err := d.exactly(name+extKey, sizeEvent)
		if err != nil {
			return nil, err
		}
		list = append(list, broker.Integrator{Name: name, Key: key, Creds: d.path(name + extCreds)})
	}
	return list, nil
}

func credsCmd() *cobra.Command {
	dir, out := defaultConfig().Dir, ""
	var sms bool
	var expires duration
	cmd := &cobra.Command{
		Use: "creds NAME", Short: "Make an integrator's account and credentials",
		Long: `Makes an account of its own for an integrator and writes its credentials file, which is a secret of the
integrator's: hand it over on a private way. A running node serves the integrator within seconds. With
--sms the integrator may also be a route for SMS (via = "remote" in the routes file).`,
		Example: "  bluejay nats creds acme --dir node --out acme.creds",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				out = args[0] + extCreds
			}
			return makeCreds(cmd.OutOrStdout(), dir, args[0], out, sms, time.Duration(expires))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", dir, "the node's directory")
	cmd.Flags().StringVar(&out, "out", "", "where to write the integrator's credentials; empty: NAME.creds")
	cmd.Flags().BoolVar(&sms, "sms", false, "it may also be a route for SMS")
	cmd.Flags().Var(&expires, "expires", "how long its credentials are good, like 8760h; 0: until they are revoked")
	return cmd
}

// authorityOf reads the operator's secret of a node.
func authorityOf(dir string) (broker.Authority, error) {
	return parsed(rolesDir(dir, roleOperator), fileNATS, broker.ParseAuthority)
}

func makeCreds(w io.Writer, dir, name, out string, sms bool, life time.Duration) error {
	authority, err := authorityOf(dir)
	if err != nil {
		return err
	}
	d := integratorsDir(dir)
	if _, err := os.Stat(d.path(name + extKey)); err == nil {
		return fmt.Errorf("there is an integrator %q already: revoke it first, or take another name", name)
	}
	made, err := authority.NewIntegrator(trustDir(dir), name, sms, life)
	if err != nil {
		return err
	}
	if err := writeSecret(out, made.User); err != nil {
		return errors.Join(err, broker.RemoveIntegrator(trustDir(dir), made.Account))
	}
	steps := []error{d.writeAll(name+extAccount, []byte(made.Account+"\n")), d.writeAll(name+extCreds, made.Publisher)}
	if sms {
		steps = append(steps, rolesDir(dir, bridge.RoleWorker).writeAll(name+extCreds, made.Remote))
	}
	steps = append(steps, d.write(name+extKey, random(sizeEvent))) // last: now the broker sees it
	if err := errors.Join(steps...); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "Credentials of %s: %s (a secret: hand it over on a private way)\n"+
		"It subscribes to bluejay.events.> and sees only users who agreed to integrations.\n", name, out)
	if sms && err == nil {
		_, err = fmt.Fprintf(w, "As a route for SMS: via = \"remote\", creds = %q\n", rolesDir(dir, bridge.RoleWorker).path(name+extCreds))
	}
	return err
}

// writeSecret makes a file that only its owner reads, and that was not there.
func writeSecret(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func revokeCmd() *cobra.Command {
	dir := defaultConfig().Dir
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "End an integrator: no event goes to it any more, and it cannot connect again",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := revokeIntegrator(dir, args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s gets no event any more. Connections it has open end when the NATS server starts again.\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", dir, "the node's directory")
	return cmd
}

func revokeIntegrator(dir, name string) error {
	d := integratorsDir(dir)
	b, err := os.ReadFile(d.path(filepath.Base(name) + extAccount))
	if errors.Is(err, fs.ErrNotExist) || filepath.Base(name) != name {
		return fmt.Errorf("no integrator is called %q", name)
	}
	if err != nil {
		return err
	}
	errs := []error{os.Remove(d.path(name + extKey))} // first: the broker stops
	err = broker.RemoveIntegrator(trustDir(dir), strings.TrimSpace(string(b)))
	if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	err = os.Remove(rolesDir(dir, bridge.RoleWorker).path(name + extCreds))
	if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.Remove(d.path(name+extCreds)), os.Remove(d.path(name+extAccount)))...)
}

func natsTailCmd() *cobra.Command {
	var creds, url, ca string
	cmd := &cobra.Command{
		Use: "tail", Short: "Print an integrator's events as they come, one JSON document a line",
		Example: "  bluejay nats tail --creds acme.creds --url nats://127.0.0.1:4222",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			natsTLS, err := (&nodeConfig{NATSCA: ca}).natsTLS()
			if err := errors.Join(err, checkCreds(creds)); err != nil {
				return err
			}
			return tailEvents(cmd.Context(), cmd.OutOrStdout(), bridge.IntegratorConfig{URL: url, Creds: creds, Name: "bluejay nats tail", TLS: natsTLS})
		},
	}
	cmd.Flags().StringVar(&creds, "creds", "", "the integrator's credentials file")
	cmd.Flags().StringVar(&url, "url", "nats://127.0.0.1:4222", "the NATS server")
	cmd.Flags().StringVar(&ca, "ca", "", "PEM of the CA of its certificate; empty: the system's")
	_ = cmd.MarkFlagRequired("creds") // the flag is there
	return cmd
}

// tailEvents prints events until ctx ends.
func tailEvents(ctx context.Context, w io.Writer, c bridge.IntegratorConfig) error {
	r, err := bridge.OpenReader(ctx, c)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		event, err := r.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", event); err != nil {
			return err
		}
	}
}

func natsConfigCmd() *cobra.Command {
	dir := defaultConfig().Dir
	c := broker.ServerConfig{Listen: "0.0.0.0:4222", Store: "/data", Trust: "/etc/nats/accounts", Cert: "/run/secrets/nats.crt", Key: "/run/secrets/nats.key"}
	cmd := &cobra.Command{
		Use: "config", Short: "Print the configuration of a nats-server for this node",
		Long: `Prints a configuration for nats-server 2.12 or newer that trusts this node's operator: the same accounts
as the embedded server, every write on disk before it is acknowledged. Mount DIR/nats-accounts/accounts
where it says resolver, writable for the server.`,
		Example: "  bluejay nats config --dir node > nats-server.conf",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := broker.ServerConf(trustDir(dir), c)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", dir, "the node's directory")
	cmd.Flags().StringVar(&c.Listen, "listen", c.Listen, "where the server listens")
	cmd.Flags().StringVar(&c.Store, "store", c.Store, "its store directory")
	cmd.Flags().StringVar(&c.Trust, "accounts", c.Trust, "where the folder of accounts is mounted")
	cmd.Flags().StringVar(&c.Cert, "tls-cert", c.Cert, `its certificate; "" for none, on loopback only`)
	cmd.Flags().StringVar(&c.Key, "tls-key", c.Key, "its private key")
	return cmd
}
